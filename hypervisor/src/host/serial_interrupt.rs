//! The serial console's interrupt: an I/O APIC's pin that leads to the boot processor.
#![allow(unsafe_code, reason = "programs an I/O APIC")]

use devices::io_apic::{REGISTER_SELECT, REGISTER_WINDOW};
use firmware::acpi::read::Hardware;

/// The ISA interrupt of the first serial port.
const SERIAL_IRQ: u8 = 4;
/// Register of an I/O APIC: bits 23:16 have the number of its last pin (82093AA 3.2.2).
const VERSION: u32 = 1;
/// First register of the redirection table, two for each pin (82093AA 3.2.4).
const REDIRECTION_TABLE: u32 = 0x10;

/// Polarity and trigger mode in a redirection entry, for an interrupt with these MPS INTI flags (ACPI
/// 5.2.12.5): an ISA interrupt is edge-triggered and active high unless they say otherwise.
const fn entry_flags(flags: u16) -> u32 {
    let active_low = flags & 3 == 3;
    let level_triggered = flags >> 2 & 3 == 3;
    (active_low as u32) << 13 | (level_triggered as u32) << 15
}

/// Which pin of which I/O APIC is the serial port's, and how it is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPin {
    address: u64,
    pin: u32,
    flags: u32,
}

impl SerialPin {
    /// What the firmware's tables say; `None` without an I/O APIC that could have the pin.
    pub fn find(hardware: &Hardware) -> Option<Self> {
        let interrupt = hardware.gsi_of_irq(SERIAL_IRQ);
        let controller = hardware
            .io_apics
            .iter()
            .filter(|controller| controller.gsi_base <= interrupt)
            .max_by_key(|controller| controller.gsi_base)?;
        let flags = hardware
            .overrides
            .iter()
            .find(|entry| entry.irq == SERIAL_IRQ)
            .map_or(0, |entry| entry.flags);
        Some(Self {
            address: u64::from(controller.address),
            pin: interrupt - controller.gsi_base,
            flags: entry_flags(flags),
        })
    }

    /// Lets the pin raise `vector` on the processor with physical APIC ID `destination`; whether it
    /// does. An entry has room for an ID of 8 bits.
    pub fn route(self, vector: u8, destination: u32) -> bool {
        let last_pin = self.read(VERSION) >> 16 & 0xff;
        let Ok(destination) = u8::try_from(destination) else {
            return false;
        };
        if self.pin > last_pin {
            return false;
        }
        let entry = REDIRECTION_TABLE + 2 * self.pin;
        self.write(entry + 1, u32::from(destination) << 24);
        // Fixed delivery to a physical destination, not masked.
        self.write(entry, self.flags | u32::from(vector));
        true
    }

    fn read(self, register: u32) -> u32 {
        let window = (self.address + REGISTER_WINDOW) as *const u32;
        self.select(register);
        // SAFETY: the firmware's tables say that an I/O APIC is at this address below 4 GiB, which is
        // identity-mapped; only the boot processor uses it, before any guest runs.
        unsafe { window.read_volatile() }
    }

    fn write(self, register: u32, value: u32) {
        let window = (self.address + REGISTER_WINDOW) as *mut u32;
        self.select(register);
        // SAFETY: as `read`; the entry's interrupt goes to a vector with a handler.
        unsafe { window.write_volatile(value) };
    }

    fn select(self, register: u32) {
        let select = (self.address + REGISTER_SELECT) as *mut u32;
        // SAFETY: as `read`.
        unsafe { select.write_volatile(register) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firmware::acpi::read::{InterruptOverride, IoApic};

    fn hardware(bases: &[u32], overrides: &[(u8, u32, u16)]) -> Hardware {
        Hardware {
            oem_id: *b"POSTHA",
            local_apic_address: 0xfee0_0000,
            has_8259: true,
            processors: alloc::vec::Vec::new(),
            io_apics: bases
                .iter()
                .map(|base| IoApic {
                    id: 0,
                    address: 0xfec0_0000 + base,
                    gsi_base: *base,
                })
                .collect(),
            overrides: overrides
                .iter()
                .map(|(irq, gsi, flags)| InterruptOverride {
                    irq: *irq,
                    gsi: *gsi,
                    flags: *flags,
                })
                .collect(),
            local_nmis: alloc::vec::Vec::new(),
            fixed_hardware: None,
        }
    }

    #[test]
    fn the_pin_is_where_the_tables_say() {
        let pin = |bases: &[u32], overrides: &[_]| SerialPin::find(&hardware(bases, overrides));
        let found = |address, pin, flags| {
            Some(SerialPin {
                address,
                pin,
                flags,
            })
        };
        assert_eq!(pin(&[], &[]), None);
        assert_eq!(pin(&[24], &[]), None, "no I/O APIC has interrupt 4");
        assert_eq!(pin(&[0, 24], &[]), found(0xfec0_0000, 4, 0));
        // Another IRQ's override; its own, to the second I/O APIC, active low and level-triggered.
        assert_eq!(pin(&[0], &[(0, 2, 0)]), found(0xfec0_0000, 4, 0));
        assert_eq!(
            pin(&[24, 0], &[(4, 26, 0xf)]),
            found(0xfec0_0018, 2, 1 << 13 | 1 << 15)
        );
        assert_eq!(pin(&[0], &[(4, 4, 5)]), found(0xfec0_0000, 4, 0));
    }
}
