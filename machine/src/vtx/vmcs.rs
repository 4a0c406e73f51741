//! Virtual-machine control structures (SDM chapter 24).
//!
//! The data of a VMCS live in its region in RAM, so that VMCLEAR on one processor and VMPTRLD on
//! another move it without more. The layout is the machine's own (SDM 24.11.1: software must not
//! rely on it): eight bytes a field, in the order of [`arch::vmcs::FIELDS`].

use arch::vmcs::{self, Field16, Field32, Field64, FieldNatural, Width};

use crate::{
    cpu::{CpuModel, model::VirtualizationLevel},
    memory::{Ram, WriteRam},
};

/// Bits 30:0 of IA32_VMX_BASIC and of the first word of a region.
pub const REVISION: u32 = 0x0050_4801;
/// A VMCS pointer that points to none.
pub const NO_POINTER: u64 = u64::MAX;

/// Region offset of the revision identifier; bit 31 marks a shadow VMCS.
const REVISION_OFFSET: u64 = 0;
/// Region offset of the VMX-abort indicator.
const ABORT_OFFSET: u64 = 4;
/// Region offset of the launch state: 0 clear, 1 launched.
const LAUNCH_STATE_OFFSET: u64 = 8;
/// Region offset of the first field.
const FIRST_FIELD: usize = 64;

/// Region offset by [`key`]; 0 where there is no field.
static OFFSETS: [u16; 1024] = {
    let mut offsets = [0; 1024];
    let mut i = 0;
    while i < vmcs::FIELDS.len() {
        match key(vmcs::FIELDS[i].0) {
            Some(key) => offsets[key] = (FIRST_FIELD + 8 * i) as u16,
            None => panic!("a field with an index that the table has no room for"),
        }
        i += 1;
    }
    assert!(FIRST_FIELD + 8 * vmcs::FIELDS.len() <= 4096);
    offsets
};

/// Width, type and index of an encoding with access type full, packed into ten bits.
const fn key(encoding: u32) -> Option<usize> {
    // SDM 24.11.2: bit 12 and bits 31:15 are reserved.
    if encoding & !0x6ffe != 0 || encoding >> 1 & 0x1ff > 63 {
        return None;
    }
    Some((encoding >> 13 & 3 | (encoding >> 10 & 3) << 2 | (encoding >> 1 & 63) << 4) as usize)
}

/// How VMREAD and VMWRITE name a part of a VMCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    offset: u64,
    width: Width,
    high: bool,
}

impl Component {
    /// Decodes a full or high encoding, if this processor has the field.
    pub fn decode(encoding: u64, model: &CpuModel) -> Option<Self> {
        let encoding = u32::try_from(encoding).ok()?;
        let high = encoding & 1 != 0;
        let full = encoding & !1;
        let width = vmcs::width(full);
        if high && width != Width::Bits64 || !exists(full, model) {
            return None;
        }
        let offset = OFFSETS
            .get(key(full)?)
            .copied()
            .filter(|offset| *offset != 0)?;
        Some(Self {
            offset: u64::from(offset),
            width,
            high,
        })
    }

    /// Reads the component of the VMCS whose region is at RAM offset `region`.
    pub fn read(self, ram: &Ram, region: u64) -> u64 {
        let value: u64 = ram.load(region + self.offset);
        match self.width {
            Width::Bits16 => value & 0xffff,
            Width::Bits32 => value & 0xffff_ffff,
            Width::Bits64 if self.high => value >> 32,
            Width::Bits64 | Width::Natural => value,
        }
    }

    /// Writes the component, dropping the bits that it does not have.
    pub fn write(self, ram: &mut impl WriteRam, region: u64, value: u64) {
        let place = region + self.offset;
        match self.width {
            Width::Bits16 => ram.store(place, value & 0xffff),
            Width::Bits32 => ram.store(place, value & 0xffff_ffff),
            Width::Bits64 if self.high => ram.store(place + 4, value as u32),
            Width::Bits64 | Width::Natural => ram.store(place, value),
        }
    }
}

/// Whether the processor has the field: its existence follows from the controls that it allows
/// (SDM appendix B, the notes of its tables).
fn exists(encoding: u32, model: &CpuModel) -> bool {
    let least = match encoding {
        // HLAT, ENCLS exiting, IA32_PERF_GLOBAL_CTRL: controls that are not offered.
        0x0006 | 0x202e | 0x2808 | 0x2c04 => return false,
        // TPR shadow, virtualized APIC accesses, virtual-interrupt delivery.
        0x0810 | 0x2012 | 0x2014 | 0x201c | 0x201e | 0x2020 | 0x2022 | 0x401c => {
            VirtualizationLevel::ApicVirtualization
        }
        // Process posted interrupts.
        0x0002 | 0x2016 => VirtualizationLevel::PostedInterrupts,
        // Tertiary controls; IPI virtualization.
        0x0008 | 0x2034 | 0x2042 => VirtualizationLevel::IpiVirtualization,
        _ => VirtualizationLevel::Base,
    };
    model.virtualization >= least
}

/// The highest index of a field that the processor has, for IA32_VMX_VMCS_ENUM.
pub fn highest_index(model: &CpuModel) -> u32 {
    vmcs::FIELDS
        .iter()
        .filter(|(encoding, _)| exists(*encoding, model))
        .map(|(encoding, _)| encoding >> 1 & 0x1ff)
        .max()
        .unwrap_or(0)
}

/// A field by its type in [`arch::vmcs`].
pub trait Field {
    /// The unsigned integer of its width.
    type Value;
    /// Reads it from the region at a RAM offset.
    fn get(self, ram: &Ram, region: u64) -> Self::Value;
    /// Writes it.
    fn set(self, ram: &mut impl WriteRam, region: u64, value: Self::Value);
}

macro_rules! field {
    ($($field:ty, $value:ty;)*) => {$(
        impl Field for $field {
            type Value = $value;

            #[inline]
            fn get(self, ram: &Ram, region: u64) -> $value {
                match place(self.0) {
                    Some(offset) => ram.load::<u64>(region + offset) as $value,
                    None => 0,
                }
            }

            #[inline]
            fn set(self, ram: &mut impl WriteRam, region: u64, value: $value) {
                if let Some(offset) = place(self.0) {
                    ram.store(region + offset, u64::from(value));
                }
            }
        }
    )*};
}

field! {
    Field16, u16;
    Field32, u32;
    Field64, u64;
    FieldNatural, u64;
}

#[inline]
fn place(encoding: u32) -> Option<u64> {
    OFFSETS.get(key(encoding)?).map(|offset| u64::from(*offset))
}

/// Launch state of a VMCS (SDM 24.1 Overview).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaunchState {
    /// Only VMLAUNCH enters.
    Clear,
    /// Only VMRESUME enters.
    Launched,
}

/// The launch state of the region at a RAM offset.
pub fn launch_state(ram: &Ram, region: u64) -> LaunchState {
    match ram.load::<u32>(region + LAUNCH_STATE_OFFSET) {
        0 => LaunchState::Clear,
        _ => LaunchState::Launched,
    }
}

/// Changes the launch state.
pub fn set_launch_state(ram: &mut impl WriteRam, region: u64, state: LaunchState) {
    ram.store(region + LAUNCH_STATE_OFFSET, state as u32);
}

/// Bit 31 of the first word of a region: it is that of a shadow VMCS.
pub const SHADOW: u32 = 1 << 31;

/// The first word of a region: revision identifier and shadow-VMCS indicator.
pub fn revision_word(ram: &Ram, region: u64) -> u32 {
    ram.load(region + REVISION_OFFSET)
}

/// Leaves a VMX-abort code in a region (SDM 27.7 VMX aborts).
pub fn set_abort_indicator(ram: &mut impl WriteRam, region: u64, code: u32) {
    ram.store(region + ABORT_OFFSET, code);
}

#[cfg(test)]
mod tests {
    use devices::pc::Pc;

    use super::*;
    use crate::platform::Platform;

    #[test]
    fn every_field_has_a_place_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for (encoding, name) in vmcs::FIELDS {
            let place = place(*encoding).unwrap();
            assert!(place >= FIRST_FIELD as u64, "{name}");
            assert!(seen.insert(place), "{name}");
        }
    }

    #[test]
    fn widths_and_high_halves() {
        let ram = Ram::new(1 << 20).unwrap();
        let platform = Platform::new(ram, Vec::new(), Pc::new(), Box::new(std::io::sink()));
        let mut ram = platform.bus_agent();
        let model = CpuModel::default();
        let component = |encoding| Component::decode(encoding, &model).unwrap();
        component(0x2010).write(&mut ram, 0, 0x1122_3344_5566_7788);
        component(0x2011).write(&mut ram, 0, 0xffff_ffff_aabb_ccdd);
        assert_eq!(component(0x2010).read(&ram, 0), 0xaabb_ccdd_5566_7788);
        assert_eq!(component(0x2011).read(&ram, 0), 0xaabb_ccdd);
        component(0x0802).write(&mut ram, 0, u64::MAX);
        assert_eq!(component(0x0802).read(&ram, 0), 0xffff);
        component(0x4000).write(&mut ram, 0, u64::MAX);
        assert_eq!(component(0x4000).read(&ram, 0), 0xffff_ffff);
        component(0x681e).write(&mut ram, 0, u64::MAX);
        assert_eq!(component(0x681e).read(&ram, 0), u64::MAX);
    }

    #[test]
    fn encodings_that_name_nothing() {
        let model = CpuModel::default();
        for encoding in [
            0x0801,
            0x4001,
            0x6801, // high access to other than 64-bit fields
            0x2044,
            0x0ffe,
            0x8000,
            0x1000,
            0x1_0000_0000,
            0x202e,
            u64::MAX,
        ] {
            assert_eq!(Component::decode(encoding, &model), None, "{encoding:#x}");
        }
    }

    // ipi-virtualization.md A1: 2042H and 0008H exist only with IPI virtualization.
    #[test]
    fn fields_exist_with_their_controls() {
        use VirtualizationLevel as L;
        let table = [
            (0x2012, L::ApicVirtualization),
            (0x2014, L::ApicVirtualization),
            (0x0810, L::ApicVirtualization),
            (0x201c, L::ApicVirtualization),
            (0x401c, L::ApicVirtualization),
            (0x0002, L::PostedInterrupts),
            (0x2016, L::PostedInterrupts),
            (0x0008, L::IpiVirtualization),
            (0x2034, L::IpiVirtualization),
            (0x2035, L::IpiVirtualization),
            (0x2042, L::IpiVirtualization),
            (0x2043, L::IpiVirtualization),
            (0x201a, L::Base),
            (0x482e, L::Base),
        ];
        for level in [
            L::Base,
            L::ApicVirtualization,
            L::PostedInterrupts,
            L::IpiVirtualization,
        ] {
            let model = CpuModel {
                virtualization: level,
                ..CpuModel::default()
            };
            for (encoding, least) in table {
                assert_eq!(
                    Component::decode(encoding, &model).is_some(),
                    level >= least,
                    "{encoding:#x} at {level:?}"
                );
            }
        }
    }
}
