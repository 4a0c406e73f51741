//! The registers of a guest that the VMCS holds, as RESET, INIT, a start-up IPI or a loader leaves
//! them.

use super::control_registers::Modes;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, cr4, efer, rflags};
use arch::vmcs::{self, Field16, Field32, FieldNatural};
use firmware::boot::{EntryMode, EntryState};

/// CR0 after INIT (SDM 9.1.1, table "IA-32 and Intel 64 Processor States").
pub const CR0_RESET: u64 = cr0::CD | cr0::NW | cr0::ET;

/// Where a vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In real mode at the page that a start-up IPI names.
    StartUp {
        /// The page.
        page: u8,
    },
    /// As a boot protocol wants it.
    Loaded(EntryState),
}

struct Segment {
    selector: Field16,
    base: FieldNatural,
    limit: Field32,
    access_rights: Field32,
}

macro_rules! segment {
    ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        Segment {
            selector: vmcs::$selector,
            base: vmcs::$base,
            limit: vmcs::$limit,
            access_rights: vmcs::$rights,
        }
    };
}

const CS: Segment = segment!(
    GUEST_CS_SELECTOR,
    GUEST_CS_BASE,
    GUEST_CS_LIMIT,
    GUEST_CS_ACCESS_RIGHTS
);
const DATA: [Segment; 5] = [
    segment!(
        GUEST_SS_SELECTOR,
        GUEST_SS_BASE,
        GUEST_SS_LIMIT,
        GUEST_SS_ACCESS_RIGHTS
    ),
    segment!(
        GUEST_DS_SELECTOR,
        GUEST_DS_BASE,
        GUEST_DS_LIMIT,
        GUEST_DS_ACCESS_RIGHTS
    ),
    segment!(
        GUEST_ES_SELECTOR,
        GUEST_ES_BASE,
        GUEST_ES_LIMIT,
        GUEST_ES_ACCESS_RIGHTS
    ),
    segment!(
        GUEST_FS_SELECTOR,
        GUEST_FS_BASE,
        GUEST_FS_LIMIT,
        GUEST_FS_ACCESS_RIGHTS
    ),
    segment!(
        GUEST_GS_SELECTOR,
        GUEST_GS_BASE,
        GUEST_GS_LIMIT,
        GUEST_GS_ACCESS_RIGHTS
    ),
];
const LDTR: Segment = segment!(
    GUEST_LDTR_SELECTOR,
    GUEST_LDTR_BASE,
    GUEST_LDTR_LIMIT,
    GUEST_LDTR_ACCESS_RIGHTS
);
const TR: Segment = segment!(
    GUEST_TR_SELECTOR,
    GUEST_TR_BASE,
    GUEST_TR_LIMIT,
    GUEST_TR_ACCESS_RIGHTS
);

impl Segment {
    fn write(
        &self,
        vmcs: &mut impl Vmcs,
        selector: u16,
        base: u64,
        limit: u32,
        access_rights: u32,
    ) -> Result<(), VmxError> {
        vmcs.write(self.selector, selector)?;
        vmcs.write(self.base, base)?;
        vmcs.write(self.limit, limit)?;
        vmcs.write(self.access_rights, access_rights)
    }
}

struct DescriptorTable {
    base: u64,
    limit: u32,
}

/// Writes the guest-state area as `start` says. `has_pat`: the VMCS holds IA32_PAT.
// SDM 9.1.1, table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT"; access
// rights as in SDM 25.4.1.
pub fn write(vmcs: &mut impl Vmcs, start: Start, has_pat: bool) -> Result<(), VmxError> {
    let mut tables = DescriptorTable {
        base: 0,
        limit: 0xffff,
    };
    let mut modes = Modes {
        cr0: CR0_RESET,
        cr3: 0,
        cr4: 0,
        efer: 0,
    };
    match start {
        Start::StartUp { page } => {
            let (selector, base) = (u16::from(page) << 8, u64::from(page) << 12);
            CS.write(vmcs, selector, base, 0xffff, 0x9b)?;
            for segment in &DATA {
                segment.write(vmcs, 0, 0, 0xffff, 0x93)?;
            }
            vmcs.write(vmcs::GUEST_RIP, 0)?;
        }
        Start::Loaded(entry) => {
            modes.cr0 = cr0::PE | cr0::ET;
            // Flat code, with D/B in 32-bit mode and L in 64-bit mode.
            let mut code = 0xc09b;
            if let EntryMode::Long { cr3 } = entry.mode {
                code = 0xa09b;
                modes = Modes {
                    cr0: modes.cr0 | cr0::PG,
                    cr3,
                    cr4: cr4::PAE,
                    efer: efer::LME | efer::LMA,
                };
            }
            CS.write(vmcs, entry.segments.code, 0, u32::MAX, code)?;
            for segment in &DATA {
                segment.write(vmcs, entry.segments.data, 0, u32::MAX, 0xc093)?;
            }
            if entry.segments.descriptor_table != 0 {
                tables = DescriptorTable {
                    base: entry.segments.descriptor_table,
                    limit: u32::from(entry.segments.limit),
                };
            }
            vmcs.write(vmcs::GUEST_RIP, entry.rip)?;
        }
    }
    LDTR.write(vmcs, 0, 0, 0xffff, 0x82)?;
    TR.write(vmcs, 0, 0, 0xffff, 0x8b)?;
    vmcs.write(vmcs::GUEST_GDTR_BASE, tables.base)?;
    vmcs.write(vmcs::GUEST_GDTR_LIMIT, tables.limit)?;
    vmcs.write(vmcs::GUEST_IDTR_BASE, 0)?;
    vmcs.write(vmcs::GUEST_IDTR_LIMIT, 0xffff)?;
    modes.write(vmcs)?;
    vmcs.write(vmcs::GUEST_DR7, 0x400)?;
    vmcs.write(vmcs::GUEST_RSP, 0)?;
    vmcs.write(vmcs::GUEST_RFLAGS, rflags::RESERVED_1)?;
    vmcs.write(vmcs::GUEST_DEBUGCTL, 0)?;
    vmcs.write(vmcs::GUEST_SYSENTER_CS, 0)?;
    vmcs.write(vmcs::GUEST_SYSENTER_ESP, 0)?;
    vmcs.write(vmcs::GUEST_SYSENTER_EIP, 0)?;
    vmcs.write(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 0)?;
    vmcs.write(vmcs::GUEST_INTERRUPTIBILITY_STATE, 0)?;
    vmcs.write(vmcs::GUEST_ACTIVITY_STATE, 0)?;
    if has_pat {
        // SDM 11.12.4, "Programming the PAT": value at reset.
        vmcs.write(vmcs::GUEST_PAT, 0x0007_0406_0007_0406)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;

    #[test]
    fn a_start_up_begins_in_real_mode_at_its_page() {
        let mut map = MapVmcs::default();
        write(&mut map, Start::StartUp { page: 0x9a }, true).unwrap();
        assert_eq!(map.fields[&0x0802], 0x9a00);
        assert_eq!(map.fields[&0x6808], 0x9_a000);
        assert_eq!(map.fields[&0x681e], 0);
        assert_eq!(map.fields[&0x6004], 0x6000_0010);
        assert_eq!(map.fields[&0x6800], 0x30);
        assert_eq!(map.fields[&0x6804], 1 << 13);
    }

    fn entry(mode: EntryMode) -> EntryState {
        EntryState {
            protocol: firmware::boot::Protocol::Pvh,
            rip: 0x10_0000,
            eax: 0,
            ebx: 0,
            rsi: 0,
            mode,
            segments: firmware::boot::Flat {
                code: 0x10,
                data: 0x18,
                descriptor_table: 0x7000,
                limit: 0x1f,
            },
        }
    }

    #[test]
    fn a_loader_begins_in_flat_protected_mode() {
        let mut map = MapVmcs::default();
        map.fields.insert(vmcs::ENTRY_CONTROLS.0, 0x93ff);
        let start = Start::Loaded(entry(EntryMode::Protected));
        write(&mut map, start, false).unwrap();
        assert_eq!(map.fields[&0x681e], 0x10_0000);
        assert_eq!(map.fields[&0x4816], 0xc09b);
        assert_eq!(map.fields[&0x4802], 0xffff_ffff);
        assert_eq!(map.fields[&0x6800], 0x31);
        assert_eq!((map.fields[&0x6816], map.fields[&0x4810]), (0x7000, 0x1f));
        assert_eq!(map.fields[&vmcs::ENTRY_CONTROLS.0], 0x91ff);
        assert!(!map.fields.contains_key(&vmcs::GUEST_PAT.0));
    }

    #[test]
    fn or_in_64_bit_mode() {
        let mut map = MapVmcs::default();
        map.fields.insert(vmcs::ENTRY_CONTROLS.0, 0x91ff);
        let start = Start::Loaded(entry(EntryMode::Long { cr3: 0x9000 }));
        write(&mut map, start, false).unwrap();
        assert_eq!(map.fields[&0x4816], 0xa09b);
        assert_eq!(map.fields[&0x6800], 0x8000_0031);
        assert_eq!(map.fields[&0x6802], 0x9000);
        assert_eq!(map.fields[&0x6804], 1 << 13 | 1 << 5);
        assert_eq!(map.fields[&vmcs::GUEST_EFER.0], 0x500);
        assert_eq!(map.fields[&vmcs::ENTRY_CONTROLS.0], 0x93ff);
    }
}
