//! What the FADT and the DSDT say about power-off, reset and the PM timer.

use super::aml::{S5_WINDOW, sleep_type_off};
use super::build::fadt_flag;
use super::read::Table;
use crate::memory::PhysicalMemory;

/// How to switch the machine off (ACPI 7.4.2, 16.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOff {
    /// Port of PM1a_CNT.
    pub pm1a_control: u16,
    /// What to write there, 16 bits: SLP_TYPa and SLP_EN.
    pub pm1a_value: u16,
    /// Port of PM1b_CNT and what to write there, if there is one.
    pub pm1b: Option<(u16, u16)>,
}

/// How to reset the machine (ACPI 4.8.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRegister {
    /// An 8-bit port.
    Port {
        /// Its number.
        port: u16,
        /// What to write.
        value: u8,
    },
    /// A byte in memory.
    Memory {
        /// Its physical address.
        address: u64,
        /// What to write.
        value: u8,
    },
}

/// The PM timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// Its port, 32 bits wide.
    pub port: u16,
    /// Counting bits, 24 or 32.
    pub bits: u8,
}

/// What of the fixed hardware this crate's users need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedHardware {
    /// `None` when the DSDT has no recognizable \_S5 or there is no control block.
    pub power_off: Option<PowerOff>,
    /// `None` when unsupported or in an address space other than I/O and memory.
    pub reset: Option<ResetRegister>,
    /// `None` when absent.
    pub pm_timer: Option<PmTimer>,
    /// IRQ of the SCI.
    pub sci: u16,
    /// FADT flags, of [`fadt_flag`].
    pub flags: u32,
    /// IAPC_BOOT_ARCH, of [`super::build::boot_architecture`].
    pub boot_architecture: u16,
}

const SLEEP_ENABLE: u16 = 1 << 13;
/// DSDTs of real machines reach a few hundred KiB.
const MAXIMUM_DSDT: u32 = 4 << 20;
const CHUNK: usize = 1024;

impl FixedHardware {
    /// Reads a FADT of any revision (ACPI 5.2.9); fields beyond its end count as 0.
    pub(super) fn read(memory: &(impl PhysicalMemory + ?Sized), fadt: &Table) -> Self {
        let flags = fadt.u32(112);
        let dsdt = match fadt.u64(140) {
            0 => u64::from(fadt.u32(40)),
            wide => wide,
        };
        let power_off = io_port(fadt, 172, 64).and_then(|pm1a_control| {
            let (a, b) = scan_dsdt(memory, dsdt)?;
            let value = |kind: u8| u16::from(kind) << 10 | SLEEP_ENABLE;
            Some(PowerOff {
                pm1a_control,
                pm1a_value: value(a),
                pm1b: io_port(fadt, 184, 68).map(|port| (port, value(b))),
            })
        });
        let reset = if flags & fadt_flag::RESET_REG_SUP == 0 {
            None
        } else {
            let value = fadt.u8(128);
            match (fadt.u8(116), fadt.u64(120)) {
                (_, 0) => None,
                (0, address) => Some(ResetRegister::Memory { address, value }),
                (1, address) => u16::try_from(address)
                    .ok()
                    .map(|port| ResetRegister::Port { port, value }),
                _ => None,
            }
        };
        let pm_timer = io_port(fadt, 208, 76).map(|port| PmTimer {
            port,
            bits: if flags & fadt_flag::TMR_VAL_EXT != 0 {
                32
            } else {
                24
            },
        });
        Self {
            power_off,
            reset,
            pm_timer,
            sci: fadt.u16(46),
            flags,
            boot_architecture: fadt.u16(109),
        }
    }
}

/// The port of a block: its generic address at `extended` if that is given, else the 32-bit field
/// at `legacy` (ACPI 5.2.9: the extended one wins when it is not 0).
fn io_port(fadt: &Table, extended: usize, legacy: usize) -> Option<u16> {
    let port = match fadt.u64(extended + 4) {
        0 => u64::from(fadt.u32(legacy)),
        address if fadt.u8(extended) == 1 => address,
        _ => return None,
    };
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Scans a DSDT for \_S5 piece by piece, so that its size costs no memory; its checksum does not
/// matter for that, and some vendors' are wrong.
fn scan_dsdt(memory: &(impl PhysicalMemory + ?Sized), address: u64) -> Option<(u8, u8)> {
    let mut header = [0; 8];
    memory.read(address, &mut header).ok()?;
    let [b'D', b'S', b'D', b'T', a, b, c, d] = header else {
        return None;
    };
    let length = u32::from_le_bytes([a, b, c, d]).min(MAXIMUM_DSDT) as usize;
    let mut offset = header.len();
    while offset < length {
        // Pieces overlap by the window, so that none hides a package cut in two.
        let mut buffer = [0; CHUNK + S5_WINDOW];
        let size = (length - offset).min(buffer.len());
        let piece = buffer.get_mut(..size)?;
        memory
            .read(address.checked_add(offset as u64)?, piece)
            .ok()?;
        if let Some(found) = sleep_type_off(piece) {
            return Some(found);
        }
        offset += CHUNK;
    }
    None
}
