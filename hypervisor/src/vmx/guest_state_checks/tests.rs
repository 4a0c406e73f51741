use super::*;
use crate::vcpu::guest_state::{self, Start};
use crate::vmx::vmcs::tests::MapVmcs;
use arch::vmx_control::entry::{IA32E_MODE_GUEST, LOAD_DEBUG_CONTROLS, LOAD_EFER, LOAD_PAT};
use firmware::boot::{EntryMode, EntryState, Flat, Protocol};
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    cr4: 0xb7_67ff,
    physical_address_width: 46,
    linear_address_width: 48,
};

fn loaded(mode: EntryMode) -> Start {
    Start::Loaded(EntryState {
        protocol: Protocol::Pvh,
        rip: 0x10_0000,
        eax: 0,
        ebx: 0,
        rsi: 0,
        mode,
        segments: Flat {
            code: 8,
            data: 0x10,
            descriptor_table: 0,
            limit: 0,
        },
    })
}

fn started(start: Start) -> MapVmcs {
    let mut map = MapVmcs::default();
    map.fields.extend([
        (vmcs::VMCS_LINK_POINTER.0, u64::MAX),
        (
            vmcs::ENTRY_CONTROLS.0,
            u64::from(LOAD_DEBUG_CONTROLS | LOAD_EFER | LOAD_PAT),
        ),
        (vmcs::PIN_BASED_CONTROLS.0, 1 << 5),
    ]);
    guest_state::write(&mut map, start, true).unwrap();
    map
}

fn broken(map: &MapVmcs) -> Vec<&'static str> {
    GuestState::read(map, LIMITS)
        .violations()
        .map(|check| check.rule)
        .collect()
}

#[test]
fn every_start_is_legal() {
    for start in [
        Start::StartUp { page: 0x9a },
        loaded(EntryMode::Protected),
        loaded(EntryMode::Long { cr3: 0x9000 }),
    ] {
        assert_eq!(broken(&started(start)), [""; 0], "{start:?}");
    }
}

/// Fields to change, and the rule that the change breaks. The first list begins in 64-bit mode, the
/// second in 32-bit protected mode.
type Case = (&'static [(u32, u64)], &'static str);

const IN_64_BIT_MODE: &[Case] = &[
    (
        &[(vmcs::GUEST_CR0.0, 0x8000_0011)],
        "CR0 has the bits that VMX operation fixes",
    ),
    (
        &[(vmcs::GUEST_CR4.0, 0x20)],
        "CR4 has the bits that VMX operation fixes",
    ),
    (&[(vmcs::GUEST_CR4.0, 0x2021)], ""),
    (
        &[(vmcs::GUEST_CR4.0, 0x40_2020)],
        "CR4 has the bits that VMX operation fixes",
    ),
    (
        &[(vmcs::GUEST_CR4.0, 0x80_2020)],
        "CR0.WP is 1 if CR4.CET is",
    ),
    (
        &[(vmcs::GUEST_DEBUGCTL.0, 8)],
        "reserved bits of IA32_DEBUGCTL are 0",
    ),
    (
        &[(vmcs::GUEST_CR4.0, 0x2000)],
        "CR0.PG and CR4.PAE are 1 for a guest in IA-32e mode",
    ),
    (
        &[(vmcs::GUEST_CR3.0, 1 << 46)],
        "CR3 is within the physical-address width",
    ),
    (
        &[(vmcs::GUEST_DR7.0, 1 << 32 | 0x400)],
        "bits 63:32 of DR7 are 0",
    ),
    (
        &[(vmcs::GUEST_SYSENTER_EIP.0, 1 << 47)],
        "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical",
    ),
    (
        &[(vmcs::GUEST_SYSENTER_ESP.0, 1 << 63)],
        "IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical",
    ),
    (
        &[(vmcs::GUEST_PAT.0, 0x0207_0406_0007_0406)],
        "IA32_PAT holds memory types",
    ),
    (
        &[(vmcs::GUEST_EFER.0, 0x502)],
        "reserved bits of IA32_EFER are 0",
    ),
    (
        &[(vmcs::GUEST_EFER.0, 0)],
        "IA32_EFER.LMA is the control \"IA-32e mode guest\"",
    ),
    (
        &[(vmcs::GUEST_EFER.0, 0x400)],
        "IA32_EFER.LMA is IA32_EFER.LME if CR0.PG is 1",
    ),
    (
        &[(vmcs::GUEST_GDTR_BASE.0, 1 << 47)],
        "bases of GDTR and IDTR are canonical",
    ),
    (
        &[(vmcs::GUEST_IDTR_LIMIT.0, 0x1_0000)],
        "bits 31:16 of the limits of GDTR and IDTR are 0",
    ),
    // The first address that is not canonical, and the next one.
    (&[(vmcs::GUEST_RIP.0, 1 << 47)], ""),
    (
        &[(vmcs::GUEST_RIP.0, 1 << 48)],
        "RIP's bits beyond the linear-address width are identical in 64-bit mode",
    ),
    (
        &[(vmcs::GUEST_RFLAGS.0, 0)],
        "reserved bits of RFLAGS have their fixed values",
    ),
    (
        &[(vmcs::GUEST_RFLAGS.0, 0x8002)],
        "reserved bits of RFLAGS have their fixed values",
    ),
    (
        &[(vmcs::ENTRY_INTERRUPTION_INFORMATION.0, 0x8000_0030)],
        "RFLAGS.IF is 1 if an external interrupt is injected",
    ),
    (
        &[(vmcs::GUEST_TR_SELECTOR.0, 4)],
        "the selectors of TR and of a usable LDTR have TI 0",
    ),
    (
        &[(vmcs::GUEST_LDTR_SELECTOR.0, 4)],
        "the selectors of TR and of a usable LDTR have TI 0",
    ),
    (
        &[(vmcs::GUEST_FS_BASE.0, 1 << 47)],
        "the bases of TR, FS, GS and of a usable LDTR are canonical",
    ),
    (
        &[(vmcs::GUEST_LDTR_BASE.0, 1 << 47)],
        "the bases of TR, FS, GS and of a usable LDTR are canonical",
    ),
    (
        &[(vmcs::GUEST_CS_BASE.0, 1 << 32)],
        "bits 63:32 of the bases of CS and of usable SS, DS and ES are 0",
    ),
    (
        &[(vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xa097)],
        "CS is accessed code, or writable data of privilege level 0",
    ),
    (
        &[(vmcs::GUEST_SS_ACCESS_RIGHTS.0, 0xc091)],
        "usable SS is accessed writable data",
    ),
    (
        &[(vmcs::GUEST_ES_ACCESS_RIGHTS.0, 0xc099)],
        "usable DS, ES, FS and GS are accessed, and readable if they are code",
    ),
    (
        &[(vmcs::GUEST_DS_ACCESS_RIGHTS.0, 0xc083)],
        "usable segments are code or data (S is 1), and present",
    ),
    (
        &[(vmcs::GUEST_GS_ACCESS_RIGHTS.0, 0xc013)],
        "usable segments are code or data (S is 1), and present",
    ),
    // What is unusable is not looked at.
    (&[(vmcs::GUEST_GS_ACCESS_RIGHTS.0, 0x1_0000)], ""),
    (
        &[(vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xa0fb)],
        "the DPL of CS is that of SS, or for conforming code not above it",
    ),
    (
        &[(vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xa0ff)],
        "the DPL of CS is that of SS, or for conforming code not above it",
    ),
    (
        &[(vmcs::GUEST_FS_ACCESS_RIGHTS.0, 0xc193)],
        "CS is usable, and reserved bits of the access rights of usable segments are 0",
    ),
    (
        &[(vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xe09b)],
        "CS.D is 0 if CS.L is 1 in IA-32e mode",
    ),
    (
        &[(vmcs::GUEST_SS_LIMIT.0, 0xffff_f000)],
        "the limits of usable segments fit their granularity",
    ),
    (
        &[(vmcs::GUEST_TR_LIMIT.0, 0x10_0000)],
        "the limits of usable segments fit their granularity",
    ),
    (
        &[(vmcs::GUEST_TR_ACCESS_RIGHTS.0, 0x83)],
        "TR is a usable, present, busy TSS, and in IA-32e mode not one of 16 bits",
    ),
    (
        &[(vmcs::GUEST_TR_ACCESS_RIGHTS.0, 0x89)],
        "TR is a usable, present, busy TSS, and in IA-32e mode not one of 16 bits",
    ),
    (
        &[(vmcs::GUEST_LDTR_ACCESS_RIGHTS.0, 0x81)],
        "a usable LDTR is a present LDT",
    ),
    (
        &[(vmcs::GUEST_ACTIVITY_STATE.0, 1)],
        "the activity state is the active one",
    ),
    (
        &[(vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 4)],
        "reserved bits of the interruptibility state, SMI and enclave blocking are 0",
    ),
    (
        &[
            (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 3),
            (vmcs::GUEST_RFLAGS.0, 0x202),
        ],
        "blocking by STI and by MOV SS exclude each other",
    ),
    (
        &[(vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 1)],
        "RFLAGS.IF is 1 while STI blocks",
    ),
    (
        &[
            (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 2),
            (vmcs::GUEST_RFLAGS.0, 0x202),
            (vmcs::ENTRY_INTERRUPTION_INFORMATION.0, 0x8000_0030),
        ],
        "neither STI nor MOV SS blocks if an external interrupt is injected",
    ),
    (
        &[
            (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 2),
            (vmcs::ENTRY_INTERRUPTION_INFORMATION.0, 0x8000_0202),
        ],
        "MOV SS does not block if an NMI is injected, nor, on some processors, STI",
    ),
    (
        &[
            (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 8),
            (vmcs::ENTRY_INTERRUPTION_INFORMATION.0, 0x8000_0202),
        ],
        "NMIs are not blocked if one is injected with virtual NMIs",
    ),
    (
        &[(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS.0, 1 << 13)],
        "reserved bits of the pending debug exceptions are 0",
    ),
    (
        &[
            (vmcs::GUEST_INTERRUPTIBILITY_STATE.0, 2),
            (vmcs::GUEST_RFLAGS.0, 0x102),
        ],
        "a single step is pending while STI or MOV SS blocks exactly if RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF 0",
    ),
    (
        &[(vmcs::VMCS_LINK_POINTER.0, 0x1000)],
        "the VMCS link pointer is FFFFFFFF_FFFFFFFFH, or a VMCS of the kind that shadowing says",
    ),
];

const IN_PROTECTED_MODE: &[Case] = &[
    (
        &[(vmcs::GUEST_CR0.0, 0x8000_0030)],
        "CR0.PE is 1 if CR0.PG is",
    ),
    (
        &[(vmcs::GUEST_CR4.0, 0x2_2000)],
        "CR4.PCIDE is 0 for a guest that is not in IA-32e mode",
    ),
    (
        &[(vmcs::GUEST_RIP.0, 1 << 32)],
        "bits 63:32 of RIP are 0 outside 64-bit mode",
    ),
    // Virtual-8086 mode with flat segments.
    (
        &[(vmcs::GUEST_RFLAGS.0, 0x2_0002)],
        "segment registers in virtual-8086 mode have base 16 times the selector, limit FFFFH, rights F3H",
    ),
    (
        &[
            (vmcs::GUEST_CR0.0, 0x30),
            (vmcs::GUEST_SS_ACCESS_RIGHTS.0, 0xc0f3),
            (vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xc0fb),
        ],
        "the DPL of SS is 0 if CR0.PE is 0 or CS is data",
    ),
    (
        &[
            (vmcs::GUEST_CR0.0, 0x8000_0031),
            (vmcs::GUEST_CR4.0, 0x2020),
            (vmcs::GUEST_PDPTE_1.0, 0x1003),
        ],
        "reserved bits of page-directory-pointer-table entries that are present are 0",
    ),
    (
        &[
            (vmcs::GUEST_CR0.0, 0x8000_0031),
            (vmcs::GUEST_CR4.0, 0x2020),
            (vmcs::GUEST_PDPTE_3.0, 1 << 63 | 0x1001),
        ],
        "reserved bits of page-directory-pointer-table entries that are present are 0",
    ),
    // Without PAE paging they are not looked at, nor what is not present.
    (&[(vmcs::GUEST_PDPTE_3.0, u64::MAX)], ""),
    (
        &[
            (vmcs::GUEST_CR0.0, 0x8000_0031),
            (vmcs::GUEST_CR4.0, 0x2020),
            (vmcs::GUEST_PDPTE_3.0, u64::MAX - 1),
        ],
        "",
    ),
];

/// Virtual-8086 mode, which is legal in protected mode.
fn virtual_8086_mode() -> MapVmcs {
    let mut map = started(loaded(EntryMode::Protected));
    map.fields.insert(vmcs::GUEST_RFLAGS.0, 0x2_0002);
    for number in 0..6 {
        map.fields.extend([
            (vmcs::GUEST_ES_SELECTOR.0 + 2 * number, 0x1234),
            (vmcs::GUEST_ES_BASE.0 + 2 * number, 0x1_2340),
            (vmcs::GUEST_ES_LIMIT.0 + 2 * number, 0xffff),
            (vmcs::GUEST_ES_ACCESS_RIGHTS.0 + 2 * number, 0xf3),
        ]);
    }
    map
}

#[test]
fn every_rule_can_be_broken_alone() {
    let mut found = BTreeSet::new();
    let mut map = virtual_8086_mode();
    assert_eq!(broken(&map), [""; 0]);
    map.fields.insert(vmcs::GUEST_CR0.0, 0x30);
    let rule = "RFLAGS.VM is 0 in IA-32e mode and if CR0.PE is 0";
    assert_eq!(broken(&map), [rule]);
    found.insert(rule);
    for (start, cases) in [
        (loaded(EntryMode::Long { cr3: 0x9000 }), IN_64_BIT_MODE),
        (loaded(EntryMode::Protected), IN_PROTECTED_MODE),
    ] {
        for (fields, rule) in cases {
            let mut map = started(start);
            map.fields.extend(fields.iter().copied());
            if rule.is_empty() {
                assert_eq!(broken(&map), [""; 0], "{fields:x?}");
            } else {
                assert_eq!(broken(&map), [*rule], "{fields:x?}");
                found.insert(*rule);
            }
        }
    }
    let rules: BTreeSet<_> = all().map(|check| check.rule).collect();
    assert_eq!(rules, found);
    for check in all() {
        let (KeptBy::Processor(why) | KeptBy::Hypervisor(why)) = check.kept_by;
        assert!(!why.is_empty() && check.section.starts_with("27.3.1."));
    }
}

#[test]
fn a_refused_entry_names_the_rule() {
    let mut map = started(loaded(EntryMode::Protected));
    map.fields.insert(vmcs::GUEST_RIP.0, 1 << 32);
    let mut text = String::new();
    write_violations(&mut text, &map, LIMITS).unwrap();
    assert_eq!(
        text,
        "guest state breaks a rule of VM entries: bits 63:32 of RIP are 0 outside 64-bit mode (SDM \
         27.3.1.4)\n"
    );
}

#[test]
fn the_control_is_what_makes_a_mode() {
    let mut map = started(loaded(EntryMode::Long { cr3: 0x9000 }));
    map.fields
        .entry(vmcs::ENTRY_CONTROLS.0)
        .and_modify(|controls| *controls &= !u64::from(IA32E_MODE_GUEST));
    assert_eq!(
        broken(&map),
        ["IA32_EFER.LMA is the control \"IA-32e mode guest\""]
    );
}
