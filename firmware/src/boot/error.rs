//! Why an image could not be loaded, or boot information not be read; each prints as one line.

use super::Protocol;
use crate::memory::MemoryError;
use core::fmt;

/// Why loading or reading failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootError {
    /// The image is in no format known here.
    UnknownFormat {
        /// Its first bytes, as many as there are.
        start: [u8; 4],
        /// How many of them are there.
        length: usize,
    },
    /// A bzImage of a protocol that is too old.
    LinuxProtocol {
        /// Its version, major number in the upper byte.
        version: u16,
    },
    /// A bzImage whose checksum is wrong.
    Checksum {
        /// How many bytes the checksum covers.
        length: u64,
    },
    /// The command line is longer than the kernel takes.
    CommandLine {
        /// Its length in bytes.
        length: u64,
        /// The most that the kernel takes.
        maximum: u64,
    },
    /// A module that should be an initial RAM disk is none.
    InitialRamDisk {
        /// Which module, from 0.
        index: usize,
        /// What is wrong.
        what: &'static str,
        /// Where in the module.
        offset: u64,
    },
    /// More memory regions than the kernel's boot parameters hold.
    MemoryMap {
        /// How many there are.
        regions: usize,
    },
    /// An ELF image without a note or header of a boot protocol.
    NoEntryNote,
    /// An ELF image for another processor or another byte order.
    WrongMachine {
        /// e_machine.
        machine: u16,
    },
    /// A structure of the image is malformed.
    Malformed {
        /// Which.
        what: &'static str,
        /// Its offset in the image.
        offset: u64,
    },
    /// The image ends inside a structure that it announces.
    Truncated {
        /// Which structure.
        what: &'static str,
        /// Offset of the first byte that is missing: the image's length.
        at: u64,
        /// Where the structure would end.
        end: u64,
    },
    /// The image does not offer the protocol that was asked for.
    ProtocolAbsent {
        /// What was asked for.
        protocol: Protocol,
    },
    /// The image demands something that this loader does not have.
    Unsupported {
        /// The protocol in which it does.
        protocol: Protocol,
        /// What it demands.
        what: &'static str,
        /// The flag or tag number.
        number: u32,
    },
    /// Loading at this address cannot work for an entry in 32-bit mode.
    AboveFourGib {
        /// The protocol.
        protocol: Protocol,
        /// The address.
        address: u64,
    },
    /// A segment is not in RAM.
    OutsideRam {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// RAM of the machine in bytes.
        ram: u64,
    },
    /// The entry point is in no segment.
    EntryOutside {
        /// The entry point.
        entry: u64,
    },
    /// There is nothing in the image to load.
    NothingToLoad,
    /// No RAM below 4 GiB is left.
    NoRoom {
        /// For what.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
    },
    /// Boot information that was handed over is not what it should be.
    Information {
        /// What is wrong.
        what: &'static str,
        /// Physical address at which it is.
        address: u64,
    },
    /// Memory refused an access.
    Memory(MemoryError),
}

impl From<MemoryError> for BootError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownFormat { length: 0, .. } => f.write_str("the image is empty"),
            Self::UnknownFormat { start, length } => {
                f.write_str("not an ELF, multiboot or Linux image (starts with")?;
                for byte in start.iter().take(length) {
                    write!(f, " {byte:02x}")?;
                }
                f.write_str(")")
            }
            Self::LinuxProtocol { version } => write!(
                f,
                "a Linux kernel with boot protocol {}.{:02}; 2.10 (Linux 2.6.31) is the oldest that is loaded",
                version >> 8,
                version & 0xff
            ),
            Self::Checksum { length } => write!(
                f,
                "damaged: the checksum of the Linux kernel's {length} bytes is wrong"
            ),
            Self::CommandLine { length, maximum } => write!(
                f,
                "the command line has {length} bytes; this kernel takes {maximum}"
            ),
            Self::InitialRamDisk {
                index,
                what,
                offset,
            } => write!(
                f,
                "module {index} is no intact initial RAM disk: {what} (byte {offset})"
            ),
            Self::MemoryMap { regions } => write!(
                f,
                "{regions} memory regions; a Linux kernel is told of 128 at most"
            ),
            Self::NoEntryNote => f.write_str(
                "an ELF image that offers no boot protocol: neither a PVH note nor a multiboot header",
            ),
            Self::WrongMachine { machine } => write!(
                f,
                "an ELF image for another processor (machine {machine}, expected 3 or 62)"
            ),
            Self::Malformed { what, offset } => {
                write!(f, "malformed {what} at byte {offset} of the image")
            }
            Self::Truncated { what, at, end } => write!(
                f,
                "truncated at byte {at}, inside the {what}, which ends at byte {end}"
            ),
            Self::ProtocolAbsent { protocol } => {
                write!(f, "the image does not offer {protocol}, which was asked for")
            }
            Self::Unsupported {
                protocol,
                what,
                number,
            } => write!(
                f,
                "the {protocol} header demands {what} ({number}), which is not available here"
            ),
            Self::AboveFourGib { protocol, address } => write!(
                f,
                "a {protocol} kernel is entered in 32-bit mode, but this one is linked at {address:#x}, above 4 GiB"
            ),
            Self::OutsideRam { start, end, ram } => write!(
                f,
                "segment at {start:#x}..{end:#x} does not fit in {} MiB of RAM",
                ram.div_ceil(1 << 20)
            ),
            Self::EntryOutside { entry } => {
                write!(f, "the entry point {entry:#x} is in no loaded segment")
            }
            Self::NothingToLoad => f.write_str("the image has no segment to load"),
            Self::NoRoom { what, size } => write!(
                f,
                "no RAM below 4 GiB is left for the {what} of {size} bytes"
            ),
            Self::Information { what, address } => {
                write!(f, "boot information at {address:#x}: {what}")
            }
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BootError {}
