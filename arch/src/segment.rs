//! Segment registers with their hidden parts (SDM 3.4.3 Segment registers).

/// Numbers of the segment registers, as instructions encode them.
pub mod register {
    /// ES.
    pub const ES: u8 = 0;
    /// CS.
    pub const CS: u8 = 1;
    /// SS.
    pub const SS: u8 = 2;
    /// DS.
    pub const DS: u8 = 3;
    /// FS.
    pub const FS: u8 = 4;
    /// GS.
    pub const GS: u8 = 5;
}

/// Access rights in the layout of the VMCS (SDM 24.4.1 Guest register state).
pub mod rights {
    /// Type, bits 3:0.
    pub const TYPE: u32 = 15;
    /// Type bit 0: accessed.
    pub const ACCESSED: u32 = 1 << 0;
    /// Type bit 1: readable code or writable data.
    pub const READ_WRITE: u32 = 1 << 1;
    /// Type bit 2: conforming code or expand-down data.
    pub const CONFORMING_DOWN: u32 = 1 << 2;
    /// Type bit 3: code.
    pub const CODE: u32 = 1 << 3;
    /// S: code or data, not a system segment.
    pub const CODE_OR_DATA: u32 = 1 << 4;
    /// P: present.
    pub const PRESENT: u32 = 1 << 7;
    /// L: 64-bit code.
    pub const LONG: u32 = 1 << 13;
    /// D/B: 32-bit default.
    pub const BIG: u32 = 1 << 14;
    /// G: limit in 4-KByte units.
    pub const GRANULAR: u32 = 1 << 15;
    /// Unusable: loaded with a null selector.
    pub const UNUSABLE: u32 = 1 << 16;
}

/// One segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Base linear address.
    pub base: u64,
    /// Last valid offset in bytes (granularity applied).
    pub limit: u32,
    /// Access rights, see [`rights`].
    pub rights: u32,
}

impl Segment {
    /// The state after loading `selector` in real mode, keeping the hidden limit and rights.
    pub fn set_real_mode(&mut self, selector: u16) {
        self.selector = selector;
        self.base = u64::from(selector) << 4;
    }

    /// A segment loaded with a null selector.
    pub const fn unusable(selector: u16) -> Self {
        Self {
            selector,
            base: 0,
            limit: 0,
            rights: rights::UNUSABLE,
        }
    }

    /// Decodes the eight bytes of a code, data or system descriptor (SDM 3.4.5 Segment descriptors).
    pub const fn from_descriptor(selector: u16, descriptor: u64) -> Self {
        let raw_limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
        let rights = (descriptor >> 40 & 0xf0ff) as u32;
        Self {
            selector,
            base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
            limit: if rights & rights::GRANULAR != 0 {
                raw_limit << 12 | 0xfff
            } else {
                raw_limit
            },
            rights,
        }
    }

    /// DPL, bits 6:5 of the rights.
    pub const fn privilege(&self) -> u8 {
        (self.rights >> 5 & 3) as u8
    }

    /// Whether all of `rights` are set.
    pub const fn has(&self, rights: u32) -> bool {
        self.rights & rights == rights
    }

    /// Whether `size` bytes at `offset` lie inside the segment (SDM 5.3 Limit checking).
    pub fn covers(&self, offset: u64, size: u64) -> bool {
        let Some(last) = offset.checked_add(size - 1) else {
            return false;
        };
        let expand_down = self.rights & (rights::CODE | rights::CODE_OR_DATA)
            == rights::CODE_OR_DATA
            && self.has(rights::CONFORMING_DOWN);
        if expand_down {
            let top = if self.has(rights::BIG) {
                0xffff_ffff
            } else {
                0xffff
            };
            offset > u64::from(self.limit) && last <= top
        } else {
            last <= u64::from(self.limit)
        }
    }
}

/// A descriptor-table register (GDTR, IDTR).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Base linear address.
    pub base: u64,
    /// Last valid byte offset.
    pub limit: u16,
}
