//! The numbers that a machine's configuration consists of, read by key as QEMU's firmware configuration
//! device gives them (QEMU, "QEMU Firmware Configuration (fw_cfg) Device"). Test programs that were
//! written for QEMU learn from it how many processors there are to wait for.

/// Takes the 16-bit key.
const SELECTOR: u16 = 0x510;
/// Gives the bytes of what the key names, one a read.
const DATA: u16 = 0x511;

/// What the device can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// "QEMU": the device is there.
    Signature,
    /// Which interfaces there are: the two ports.
    Interfaces,
    /// Bytes of RAM.
    Memory,
    /// Processors.
    Processors,
    /// Nothing: reads as zeros.
    Unknown,
}

impl Item {
    const fn of(key: u16) -> Self {
        match key {
            0 => Self::Signature,
            1 => Self::Interfaces,
            3 => Self::Memory,
            // Those that are there, and those that there may be.
            5 | 0xf => Self::Processors,
            _ => Self::Unknown,
        }
    }
}

/// The device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareConfiguration {
    processors: u16,
    memory: u64,
    item: Item,
    position: u32,
}

impl FirmwareConfiguration {
    /// The device of a machine with so many processors and bytes of RAM.
    pub const fn new(processors: u16, memory: u64) -> Self {
        Self {
            processors,
            memory,
            item: Item::Signature,
            position: 0,
        }
    }

    /// Whether an access of `size` bytes at a port is the key's.
    pub const fn is_selector(port: u16, size: u8) -> bool {
        port == SELECTOR && size == 2
    }

    /// Whether a port gives data.
    pub const fn is_data(port: u16) -> bool {
        port == DATA
    }

    /// Chooses what is read next, from its beginning.
    pub const fn select(&mut self, key: u16) {
        self.item = Item::of(key);
        self.position = 0;
    }

    /// The next byte; behind the last there are zeros.
    pub fn read(&mut self) -> u8 {
        let value = match self.item {
            Item::Signature => u64::from(u32::from_le_bytes(*b"QEMU")),
            Item::Interfaces => 1,
            Item::Memory => self.memory,
            Item::Processors => u64::from(self.processors),
            Item::Unknown => 0,
        };
        let byte = value.checked_shr(8 * self.position).unwrap_or(0);
        self.position = self.position.saturating_add(1).min(8);
        byte as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_gives_its_bytes_and_then_zeros() {
        let mut device = FirmwareConfiguration::new(0x102, 3 << 30);
        for (key, wanted) in [
            (0, *b"QEMU\0\0\0\0\0\0"),
            (1, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (3, [0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0]),
            (5, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            (0xf, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            (0x19, [0; 10]),
        ] {
            device.select(key);
            assert_eq!([(); 10].map(|()| device.read()), wanted, "{key}");
        }
    }
}
