//! The guest-physical address space.

mod atomic;
mod code_map;
mod frames;
mod gate;
mod host;
mod ram;
mod word;

pub use atomic::Atomic;
pub use code_map::{CodeMap, SharedBits};
pub use frames::{CodeNotice, Consequences, Frames, WriteRight};
pub use gate::{Writable, WritableBytes, WriteRam};
pub use ram::{Ram, RamError};
pub use word::Word;

/// First address of the hole below 4 GiB that RAM leaves for devices.
pub const HOLE_START: u64 = 0xc000_0000;
/// First address above the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Size of a frame in bytes.
pub const FRAME_SIZE: u64 = 4096;
