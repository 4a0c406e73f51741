//! Checks on guest state at VM entry, and MSR areas (SDM 26.3, 26.4, 27.4, 27.6): each clause
//! violated alone, from a VMCS that enters.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::{ENTRY_FAILURE, ExitReason as R};
use arch::vmcs;
use arch::vmx_control::{entry, pin, secondary};
use vmx::*;

type Change = fn(&mut Guest);

fn plain() -> Guest {
    Guest::new(&[0x90; 8])
}

#[track_caller]
fn accepted(base: fn() -> Guest, name: &str, change: Change) {
    let mut guest = base();
    change(&mut guest);
    guest.launch(1);
    let rule = guest.cpu().vmx.last_violation;
    assert!(guest.cpu().vmx.non_root, "{name}: {rule:?}");
}

/// SDM 26.8: the host state is loaded, and no guest state saved.
#[track_caller]
fn fails(base: fn() -> Guest, name: &str, qualification: u64, change: Change) {
    let mut guest = base();
    change(&mut guest);
    let rip = guest.get(vmcs::GUEST_RIP);
    let injected = guest.get(vmcs::ENTRY_INTERRUPTION_INFORMATION);
    guest.launch(1);
    assert!(!guest.cpu().vmx.non_root, "entered: {name}");
    let reason = R::EntryFailureGuestState as u32 | ENTRY_FAILURE;
    assert_eq!(guest.get(vmcs::EXIT_REASON), reason, "{name}");
    assert_eq!(guest.get(vmcs::EXIT_QUALIFICATION), qualification, "{name}");
    assert_eq!(guest.cpu().rip(), HOST_RIP, "{name}");
    assert_eq!(guest.get(vmcs::GUEST_RIP), rip, "{name}");
    assert_eq!(guest.get(vmcs::ENTRY_INTERRUPTION_INFORMATION), injected);
    assert_eq!(
        guest.cpu().counters.exits_with(R::EntryFailureGuestState),
        1
    );
}

/// Unrestricted guest with EPT, in real-address mode.
fn real() -> Guest {
    let mut guest = Guest::new(&[0x90; 8]);
    guest.with_ept();
    guest.add_secondary(secondary::UNRESTRICTED_GUEST);
    let controls = guest.get(vmcs::ENTRY_CONTROLS);
    guest.set(vmcs::ENTRY_CONTROLS, controls & !entry::IA32E_MODE_GUEST);
    guest
        .set(vmcs::GUEST_CR0, 0x30)
        .set(vmcs::GUEST_CR4, 0x2000);
    guest.set(vmcs::GUEST_EFER, 0);
    for field in 0..6 {
        guest.write(0x4800 + field * 2, 0xffff);
        guest.write(0x4814 + field * 2, if field == 1 { 0x9b } else { 0x93 });
        guest.write(0x0800 + field * 2, 0);
    }
    guest.set(vmcs::GUEST_CS_SELECTOR, 0xf000);
    guest
        .set(vmcs::GUEST_CS_BASE, GUEST_CODE)
        .set(vmcs::GUEST_RIP, 0);
    guest
}

// SDM 26.3.1.1, 26.3.1.3, 26.3.1.4
#[test]
fn guest_registers() {
    let table: &[(&str, Change)] = &[
        ("CR0.NE", |g| {
            let old = g.get(vmcs::GUEST_CR0);
            g.set(vmcs::GUEST_CR0, old & !(1 << 5));
        }),
        ("CR0.PE without unrestricted guest", |g| {
            let old = g.get(vmcs::GUEST_CR0);
            g.set(vmcs::GUEST_CR0, old & !1);
        }),
        ("CR0, bit 32", |g| {
            let old = g.get(vmcs::GUEST_CR0);
            g.set(vmcs::GUEST_CR0, old | 1 << 32);
        }),
        ("CR4.VMXE", |g| {
            let old = g.get(vmcs::GUEST_CR4);
            g.set(vmcs::GUEST_CR4, old & !(1 << 13));
        }),
        ("CR4.PAE of an IA-32e mode guest", |g| {
            let old = g.get(vmcs::GUEST_CR4);
            g.set(vmcs::GUEST_CR4, old & !(1 << 5));
        }),
        ("CR3, width", |g| {
            g.set(vmcs::GUEST_CR3, 1 << 46);
        }),
        ("DR7", |g| {
            let old = g.get(vmcs::ENTRY_CONTROLS);
            g.set(vmcs::ENTRY_CONTROLS, old | entry::LOAD_DEBUG_CONTROLS);
            g.set(vmcs::GUEST_DR7, 1 << 32);
        }),
        ("IA32_DEBUGCTL", |g| {
            let old = g.get(vmcs::ENTRY_CONTROLS);
            g.set(vmcs::ENTRY_CONTROLS, old | entry::LOAD_DEBUG_CONTROLS);
            g.set(vmcs::GUEST_DEBUGCTL, 4);
        }),
        ("IA32_SYSENTER_ESP", |g| {
            g.set(vmcs::GUEST_SYSENTER_ESP, 1 << 47);
        }),
        ("IA32_PAT", |g| {
            let old = g.get(vmcs::ENTRY_CONTROLS);
            g.set(vmcs::ENTRY_CONTROLS, old | entry::LOAD_PAT);
            g.set(vmcs::GUEST_PAT, 3);
        }),
        ("IA32_EFER, reserved", |g| {
            let old = g.get(vmcs::GUEST_EFER);
            g.set(vmcs::GUEST_EFER, old | 1 << 16);
        }),
        ("IA32_EFER.LMA", |g| {
            let old = g.get(vmcs::GUEST_EFER);
            g.set(vmcs::GUEST_EFER, old & !(1 << 10));
        }),
        ("IA32_EFER.LME", |g| {
            let old = g.get(vmcs::GUEST_EFER);
            g.set(vmcs::GUEST_EFER, old & !(1 << 8));
        }),
        ("GDTR base", |g| {
            g.set(vmcs::GUEST_GDTR_BASE, 1 << 47);
        }),
        ("IDTR limit", |g| {
            g.set(vmcs::GUEST_IDTR_LIMIT, 0x1_0000);
        }),
        ("RIP", |g| {
            g.set(vmcs::GUEST_RIP, 1 << 48);
        }),
        ("RIP, bit 63", |g| {
            g.set(vmcs::GUEST_RIP, 1 << 63 | GUEST_CODE);
        }),
        ("RIP, bits 63:49", |g| {
            g.set(vmcs::GUEST_RIP, 0xfffe_8000_0000_0000);
        }),
        ("RIP outside 64-bit mode", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
            g.set(vmcs::GUEST_RIP, 1 << 32);
        }),
        ("RFLAGS, bit 1", |g| {
            g.set(vmcs::GUEST_RFLAGS, 0);
        }),
        ("RFLAGS, bit 15", |g| {
            g.set(vmcs::GUEST_RFLAGS, 0x8002);
        }),
        ("RFLAGS.VM in IA-32e mode", |g| {
            g.set(vmcs::GUEST_RFLAGS, 0x2_0002);
            for field in 0..6 {
                g.write(0x0800 + field * 2, 0);
                g.write(0x4800 + field * 2, 0xffff);
                g.write(0x4814 + field * 2, 0xf3);
            }
        }),
        ("RFLAGS.IF and an injected interrupt", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0050);
        }),
    ];
    for (name, change) in table {
        fails(plain, name, 0, *change);
    }
}

// SDM 26.3.1.4: with N linear-address bits, bits 63:N of RIP must be identical; bit N-1 is not looked at. What
// such a RIP leads to is the fault of its first fetch.
#[test]
fn a_rip_that_is_not_canonical_may_enter_and_faults() {
    for rip in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_ffff] {
        let mut guest = plain();
        guest.set(vmcs::GUEST_RIP, rip);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.launch(1);
        guest.expect_no_exit();
        guest.go_on(1);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0b0d);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE), 0);
        assert_eq!(guest.get(vmcs::GUEST_RIP), rip);
        // The saved RIP enters again.
        guest.set(vmcs::EXCEPTION_BITMAP, 0);
        guest.resume(2);
        assert_eq!(guest.handler(), Some(13));
        let frame = guest.cpu().registers[4] + 8;
        assert_eq!(guest.ram().load::<u64>(frame), rip);
    }
    // RSP is not looked at.
    accepted(plain, "RSP", |g| {
        g.set(vmcs::GUEST_RSP, 0x1234_8000_0000_0000);
    });
}

// SDM 26.3.1.2
#[test]
fn guest_segments() {
    let table: &[(&str, Change)] = &[
        ("TR in the LDT", |g| {
            g.set(vmcs::GUEST_TR_SELECTOR, 0x1c);
        }),
        ("RPLs of SS and CS", |g| {
            g.set(vmcs::GUEST_CS_SELECTOR, 0xb);
        }),
        ("FS base", |g| {
            g.set(vmcs::GUEST_FS_BASE, 1 << 47);
        }),
        ("CS base", |g| {
            g.set(vmcs::GUEST_CS_BASE, 1 << 32);
        }),
        ("SS base", |g| {
            g.set(vmcs::GUEST_SS_BASE, 1 << 32);
        }),
        ("CS type: data", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa093);
        }),
        ("CS type: not accessed", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa09a);
        }),
        ("CS: system", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa08b);
        }),
        ("CS DPL", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
        }),
        ("CS not present", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa01b);
        }),
        ("CS reserved rights", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa19b);
        }),
        ("CS.D in 64-bit mode", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xe09b);
        }),
        ("CS granularity", |g| {
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0x209b);
        }),
        ("CS limit", |g| {
            g.set(vmcs::GUEST_CS_LIMIT, 0xffff_fffe);
        }),
        ("SS type", |g| {
            g.set(vmcs::GUEST_SS_ACCESS_RIGHTS, 0xc091);
        }),
        ("SS DPL and RPL", |g| {
            g.set(vmcs::GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
        }),
        ("SS not present", |g| {
            g.set(vmcs::GUEST_SS_ACCESS_RIGHTS, 0xc013);
        }),
        ("DS not accessed", |g| {
            g.set(vmcs::GUEST_DS_ACCESS_RIGHTS, 0xc092);
        }),
        ("DS execute-only code", |g| {
            g.set(vmcs::GUEST_DS_ACCESS_RIGHTS, 0xc099);
        }),
        ("ES DPL below RPL", |g| {
            g.set(vmcs::GUEST_ES_SELECTOR, 0x13);
        }),
        ("GS limit", |g| {
            g.set(vmcs::GUEST_GS_LIMIT, 0xfff0_0fff);
            g.set(vmcs::GUEST_GS_ACCESS_RIGHTS, 0x4093);
        }),
        ("TR not busy", |g| {
            g.set(vmcs::GUEST_TR_ACCESS_RIGHTS, 0x89);
        }),
        ("16-bit TR in IA-32e mode", |g| {
            g.set(vmcs::GUEST_TR_ACCESS_RIGHTS, 0x83);
        }),
        ("TR unusable", |g| {
            g.set(vmcs::GUEST_TR_ACCESS_RIGHTS, 0x1_008b);
        }),
        ("TR not present", |g| {
            g.set(vmcs::GUEST_TR_ACCESS_RIGHTS, 0x0b);
        }),
        ("LDTR type", |g| {
            g.set(vmcs::GUEST_LDTR_ACCESS_RIGHTS, 0x83);
        }),
        ("LDTR in the LDT", |g| {
            g.set(vmcs::GUEST_LDTR_ACCESS_RIGHTS, 0x82);
            g.set(vmcs::GUEST_LDTR_SELECTOR, 0x1c);
        }),
    ];
    for (name, change) in table {
        fails(plain, name, 0, *change);
    }
    accepted(plain, "unusable data segments", |g| {
        for field in [0, 2, 3, 4, 5] {
            g.write(0x4814 + field * 2, 0x1_0000);
        }
    });
    accepted(real, "real-address mode", |_| {});
    accepted(real, "CS as writable data in real-address mode", |g| {
        g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0x93);
    });
    fails(real, "SS DPL in real-address mode", 0, |g| {
        g.set(vmcs::GUEST_SS_ACCESS_RIGHTS, 0xf3);
        g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xfb);
    });
    fails(real, "CR0.PG without PE", 0, |g| {
        g.set(vmcs::GUEST_CR0, 0x8000_0030);
    });
}

// SDM 26.3.1.5
#[test]
fn guest_non_register_state() {
    let table: &[(&str, u64, Change)] = &[
        ("activity state", 0, |g| {
            g.set(vmcs::GUEST_ACTIVITY_STATE, 4);
        }),
        ("HLT at CPL 3", 0, |g| {
            g.set(vmcs::GUEST_ACTIVITY_STATE, 1);
            g.set(vmcs::GUEST_CS_SELECTOR, 0xb)
                .set(vmcs::GUEST_SS_SELECTOR, 0x13);
            g.set(vmcs::GUEST_CS_ACCESS_RIGHTS, 0xa0fb);
            for field in [0, 2, 3, 4, 5] {
                g.write(0x4814 + field * 2, 0xc0f3);
            }
        }),
        ("HLT blocked by STI", 0, |g| {
            g.set(vmcs::GUEST_ACTIVITY_STATE, 1);
            g.set(vmcs::GUEST_RFLAGS, 0x202);
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 1);
        }),
        ("HLT and an injected #UD", 0, |g| {
            g.set(vmcs::GUEST_ACTIVITY_STATE, 1);
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0306);
        }),
        ("shutdown and an injected interrupt", 0, |g| {
            g.set(vmcs::GUEST_ACTIVITY_STATE, 2);
            g.set(vmcs::GUEST_RFLAGS, 0x202);
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0050);
        }),
        ("wait-for-SIPI and an injected NMI", 0, |g| {
            g.set(vmcs::GUEST_ACTIVITY_STATE, 3);
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0202);
        }),
        ("interruptibility, reserved", 0, |g| {
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 32);
        }),
        ("STI and MOV SS", 0, |g| {
            g.set(vmcs::GUEST_RFLAGS, 0x202);
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 3);
        }),
        ("STI without IF", 0, |g| {
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 1);
        }),
        ("SMI", 0, |g| {
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 4);
        }),
        ("enclave", 0, |g| {
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 16);
        }),
        ("an interrupt while blocked", 0, |g| {
            g.set(vmcs::GUEST_RFLAGS, 0x202);
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 2);
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0050);
        }),
        ("an NMI while blocked by MOV SS", 3, |g| {
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 2);
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0202);
        }),
        ("a virtual NMI while blocked", 0, |g| {
            g.add_pin(pin::VIRTUAL_NMIS);
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 8);
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0202);
        }),
        ("pending debug exceptions, reserved", 0, |g| {
            g.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 16);
        }),
        ("no pending single step with TF and blocking", 0, |g| {
            g.set(vmcs::GUEST_RFLAGS, 0x102);
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 2);
        }),
        ("a pending single step without TF", 0, |g| {
            g.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 14);
            g.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 2);
        }),
        ("VMCS link pointer, alignment", 4, |g| {
            g.set(vmcs::VMCS_LINK_POINTER, VMCS + 8);
        }),
        ("VMCS link pointer, no VMCS", 4, |g| {
            g.set(vmcs::VMCS_LINK_POINTER, DATA);
        }),
        ("VMCS link pointer, the current VMCS", 4, |g| {
            g.set(vmcs::VMCS_LINK_POINTER, VMCS);
        }),
    ];
    for (name, qualification, change) in table {
        fails(plain, name, *qualification, *change);
    }
}

// SDM 26.3.1.6
#[test]
fn guest_pdptes() {
    let base: fn() -> Guest = || {
        let mut guest = real();
        guest
            .set(vmcs::GUEST_CR0, 0x8000_0031)
            .set(vmcs::GUEST_CR4, 0x2020);
        for field in 0..6 {
            guest.write(0x4814 + field * 2, if field == 1 { 0xc09b } else { 0xc093 });
            guest.write(0x4800 + field * 2, 0xffff_ffff);
        }
        guest.set(vmcs::GUEST_CS_SELECTOR, 8);
        guest
    };
    fails(base, "a reserved bit", 2, |g| {
        g.set(vmcs::GUEST_PDPTE_2, 3);
    });
    fails(base, "width", 2, |g| {
        g.set(vmcs::GUEST_PDPTE_0, 1 << 46 | 1);
    });
    accepted(base, "not present", |g| {
        g.set(vmcs::GUEST_PDPTE_2, 2);
    });
}

// SDM 26.4, 26.8: the qualification is the number of the entry that failed.
#[test]
fn entry_msr_loading() {
    let load = |entries: &[(u64, u64)]| {
        let mut guest = plain();
        for (i, (index, value)) in (0..).zip(entries) {
            guest.ram().store(DATA + i * 16, *index);
            guest.ram().store(DATA + i * 16 + 8, *value);
        }
        guest.set(vmcs::ENTRY_MSR_LOAD_COUNT, entries.len() as u32);
        guest.set(vmcs::ENTRY_MSR_LOAD_ADDRESS, DATA);
        guest.launch(1);
        guest
    };
    let mut guest = load(&[(0xc000_0081, 0x1234), (0xc000_0102, 0x5678)]);
    guest.expect_no_exit();
    assert_eq!(
        (guest.cpu().msrs.star, guest.cpu().msrs.kernel_gs_base),
        (0x1234, 0x5678)
    );
    for bad in [
        (0xc000_0100, 0),       // FS base
        (0xc000_0101, 0),       // GS base
        (0x830, 0),             // x2APIC
        (0x1_c000_0081, 0),     // reserved bits
        (0xc000_0082, 1 << 47), // WRMSR would fault
        (0x4000_0000, 0),       // no such MSR
    ] {
        let guest = load(&[(0xc000_0081, 0x1234), bad]);
        let reason = R::EntryFailureMsrLoading as u32 | ENTRY_FAILURE;
        assert_eq!(guest.get(vmcs::EXIT_REASON), reason, "{bad:x?}");
        assert_eq!(guest.get(vmcs::EXIT_QUALIFICATION), 2, "{bad:x?}");
        assert_eq!(guest.processor.cpu.rip(), HOST_RIP);
    }
}

// SDM 27.4, 27.6
#[test]
fn exit_msr_areas() {
    let mut guest = Guest::new(&[0x0f, 0xa2]);
    guest.cpu().msrs.star = 0x77;
    guest.ram().store(DATA, 0xc000_0081_u64);
    guest.ram().store(DATA + 16, 0xc000_0081_u64);
    guest.ram().store(DATA + 24, 0x99_u64);
    guest
        .set(vmcs::EXIT_MSR_STORE_COUNT, 1)
        .set(vmcs::EXIT_MSR_STORE_ADDRESS, DATA);
    guest
        .set(vmcs::EXIT_MSR_LOAD_COUNT, 1)
        .set(vmcs::EXIT_MSR_LOAD_ADDRESS, DATA + 16);
    guest.launch(2);
    guest.expect_exit(R::Cpuid);
    assert_eq!(guest.ram().load::<u64>(DATA + 8), 0x77);
    assert_eq!(guest.cpu().msrs.star, 0x99);
    // SDM 27.7: a failure is a VMX abort.
    for (field, code) in [
        (vmcs::EXIT_MSR_STORE_COUNT, 1_u32),
        (vmcs::EXIT_MSR_LOAD_COUNT, 4),
    ] {
        let mut guest = Guest::new(&[0x0f, 0xa2]);
        guest.ram().store(DATA, 0x830_u64);
        guest.set(field, 1);
        guest.set(vmcs::EXIT_MSR_STORE_ADDRESS, DATA);
        guest.set(vmcs::EXIT_MSR_LOAD_ADDRESS, DATA);
        guest.launch(2);
        assert_eq!(
            guest.cpu().activity,
            posthaste_machine::cpu::Activity::Shutdown
        );
        assert_eq!(guest.ram().load::<u32>(VMCS + 4), code);
    }
}

// SDM A.6 and 26.4, 27.4, 27.6: lists of the recommended 512 entries are processed; in longer ones the first
// entry too many fails.
#[test]
fn longest_msr_areas() {
    /// Room for 513 entries.
    const AREA: u64 = PAGES + 0x10_0000;
    const STAR: u64 = 0xc000_0081;
    let guest = |field, count| {
        let mut guest = Guest::new(&[0x0f, 0xa2]);
        for entry in 0..513 {
            guest.ram().store(AREA + entry * 16, STAR);
            guest.ram().store(AREA + entry * 16 + 8, entry);
        }
        guest
            .set(vmcs::ENTRY_MSR_LOAD_ADDRESS, AREA)
            .set(vmcs::EXIT_MSR_STORE_ADDRESS, AREA)
            .set(vmcs::EXIT_MSR_LOAD_ADDRESS, AREA)
            .set(field, count);
        guest.launch(2);
        guest
    };
    let mut loaded = guest(vmcs::ENTRY_MSR_LOAD_COUNT, 512);
    loaded.expect_exit(R::Cpuid);
    assert_eq!(loaded.cpu().msrs.star, 511);
    let failed = guest(vmcs::ENTRY_MSR_LOAD_COUNT, 513);
    let reason = R::EntryFailureMsrLoading as u32 | ENTRY_FAILURE;
    assert_eq!(failed.get(vmcs::EXIT_REASON), reason);
    assert_eq!(failed.get(vmcs::EXIT_QUALIFICATION), 513);
    for (field, code) in [
        (vmcs::EXIT_MSR_STORE_COUNT, 1_u32),
        (vmcs::EXIT_MSR_LOAD_COUNT, 4),
    ] {
        guest(field, 512).expect_exit(R::Cpuid);
        let aborted = guest(field, 513);
        assert_eq!(aborted.ram().load::<u32>(VMCS + 4), code);
    }
}
