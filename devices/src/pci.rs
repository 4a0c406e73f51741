//! PCI configuration space by mechanism 1: a bus with nothing on it but the host bridge.
//!
//! Citations name the PCI Local Bus specification, revision 3.0 ("PCI").

/// First port of the address register, which takes aligned 32-bit accesses only (PCI 3.2.2.3.2).
pub const ADDRESS: u16 = 0xcf8;
/// First port of the data window.
pub const DATA: u16 = 0xcfc;

/// Bit 31 of the address: accesses to the window go to configuration space.
const ENABLE: u32 = 1 << 31;
/// Bits of the address that exist.
const IMPLEMENTED: u32 = ENABLE | 0x00ff_fffc;
/// Bus, device and function: of the host bridge all are 0.
const FUNCTION: u32 = 0x00ff_ff00;

/// Vendor and device: the host bridge of a PC that has nothing of its own to set up.
const IDENTITY: u32 = 0x29c0_8086;
/// Class code: host bridge (PCI appendix D), revision 0.
const CLASS: u32 = 0x0600_0000;
/// Command: memory space and bus master, fixed.
const COMMAND: u32 = 6;

/// The address register; the bridge itself has nothing that can be written.
#[derive(Clone, Debug, Default)]
pub struct PciConfiguration {
    address: u32,
}

impl PciConfiguration {
    /// The state after reset.
    pub const fn new() -> Self {
        Self { address: 0 }
    }

    /// Whether an access is to the address register.
    pub const fn is_address(port: u16, size: u8) -> bool {
        port == ADDRESS && size == 4
    }

    /// Whether a port is in the data window.
    pub const fn is_data(port: u16) -> bool {
        matches!(port.checked_sub(DATA), Some(0..4))
    }

    /// Reads the address register.
    pub const fn address(&self) -> u32 {
        self.address
    }

    /// Writes the address register.
    pub const fn set_address(&mut self, value: u32) {
        self.address = value & IMPLEMENTED;
    }

    /// Reads a byte of the data window. Where no function answers the bus reads as ones
    /// (PCI 3.2.2.3.4).
    pub fn read(&self, port: u16) -> u8 {
        if self.address & ENABLE == 0 || self.address & FUNCTION != 0 {
            return 0xff;
        }
        let register = match self.address & 0xfc {
            0 => IDENTITY,
            4 => COMMAND,
            8 => CLASS,
            _ => 0,
        };
        (register >> (8 * (port & 3))) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pci: &mut PciConfiguration, address: u32) -> u32 {
        pci.set_address(address);
        let bytes = [0, 1, 2, 3].map(|byte| pci.read(DATA + byte));
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_host_bridge_is_alone_on_the_bus() {
        let mut pci = PciConfiguration::new();
        assert_eq!(read(&mut pci, ENABLE), IDENTITY);
        assert_eq!(read(&mut pci, ENABLE | 8) >> 16, 0x0600);
        assert_eq!(read(&mut pci, ENABLE | 0x0c), 0, "one function, type 0");
        assert_eq!(read(&mut pci, ENABLE | 0x34), 0, "no capabilities");
        for other in [1 << 8, 1 << 11, 31 << 11, 1 << 16, 255 << 16] {
            assert_eq!(read(&mut pci, ENABLE | other), u32::MAX);
        }
        assert_eq!(read(&mut pci, 0), u32::MAX, "not enabled");
    }

    #[test]
    fn the_address_reads_back_without_reserved_bits() {
        let mut pci = PciConfiguration::new();
        pci.set_address(u32::MAX);
        assert_eq!(pci.address(), 0x80ff_fffc);
        assert!(PciConfiguration::is_address(0xcf8, 4));
        assert!(!PciConfiguration::is_address(0xcf8, 1));
        assert!(PciConfiguration::is_data(0xcff) && !PciConfiguration::is_data(0xcfb));
    }
}
