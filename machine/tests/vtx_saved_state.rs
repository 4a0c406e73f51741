//! What exits of each class save of RFLAGS.RF and of pending debug exceptions (SDM 27.3.3 Saving RIP, RSP,
//! RFLAGS, and SSP, 27.3.4 Saving non-register state).
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, pin, primary, secondary};
use vmx::*;

const RESUME: u64 = 1 << 16;
const TRAP: u64 = 1 << 8;
/// Bits of the pending debug exceptions.
const SINGLE_STEP: u64 = 1 << 14;
const ENABLED: u64 = 1 << 12;
/// Blocking by MOV SS.
const MOV_SS: u32 = 2;
/// A page that EPT maps by an entry of its own.
const PAGE: u64 = PAGES + 0x1_1000;
const PAGE_ENTRY: u64 = EPT + 0x3000 + 0x11 * 8;

type Prepare = fn(&mut Guest);

fn nothing(_: &mut Guest) {}

/// Every instruction that exits, with what makes it exit.
fn instructions() -> Vec<(&'static str, &'static [u8], Prepare, R)> {
    vec![
        ("cpuid", &[0x0f, 0xa2], nothing, R::Cpuid),
        ("invd", &[0x0f, 0x08], nothing, R::Invd),
        (
            "xsetbv",
            &[0x0f, 0x01, 0xd1],
            |g| {
                let cr4 = g.get(vmcs::GUEST_CR4);
                g.set(vmcs::GUEST_CR4, cr4 | 1 << 18);
            },
            R::Xsetbv,
        ),
        ("vmcall", &[0x0f, 0x01, 0xc1], nothing, R::Vmcall),
        ("vmlaunch", &[0x0f, 0x01, 0xc2], nothing, R::Vmlaunch),
        ("vmxoff", &[0x0f, 0x01, 0xc4], nothing, R::Vmxoff),
        ("vmread", &[0x0f, 0x78, 0xc8], nothing, R::Vmread),
        ("vmptrst", &[0x0f, 0xc7, 0x3f], nothing, R::Vmptrst),
        (
            "hlt",
            &[0xf4],
            |g| {
                g.add_primary(primary::HLT_EXITING);
            },
            R::Hlt,
        ),
        (
            "invlpg",
            &[0x0f, 0x01, 0x3f],
            |g| {
                g.add_primary(primary::INVLPG_EXITING);
            },
            R::Invlpg,
        ),
        (
            "monitor",
            &[0x0f, 0x01, 0xc8],
            |g| {
                g.add_primary(primary::MONITOR_EXITING);
            },
            R::Monitor,
        ),
        (
            "mwait",
            &[0x0f, 0x01, 0xc9],
            |g| {
                g.add_primary(primary::MWAIT_EXITING);
            },
            R::Mwait,
        ),
        (
            "rdpmc",
            &[0x0f, 0x33],
            |g| {
                g.add_primary(primary::RDPMC_EXITING);
            },
            R::Rdpmc,
        ),
        (
            "rdtsc",
            &[0x0f, 0x31],
            |g| {
                g.add_primary(primary::RDTSC_EXITING);
            },
            R::Rdtsc,
        ),
        (
            "rdtscp",
            &[0x0f, 0x01, 0xf9],
            |g| {
                g.add_primary(primary::RDTSC_EXITING);
                g.add_secondary(secondary::ENABLE_RDTSCP);
            },
            R::Rdtscp,
        ),
        (
            "mov cr3, rax",
            &[0x0f, 0x22, 0xd8],
            |g| {
                g.add_primary(primary::CR3_LOAD_EXITING);
            },
            R::ControlRegisterAccess,
        ),
        (
            "mov rax, cr8",
            &[0x44, 0x0f, 0x20, 0xc0],
            |g| {
                g.add_primary(primary::CR8_STORE_EXITING);
            },
            R::ControlRegisterAccess,
        ),
        (
            "mov rax, dr7",
            &[0x0f, 0x21, 0xf8],
            |g| {
                g.add_primary(primary::MOV_DR_EXITING);
            },
            R::MovDr,
        ),
        (
            "in al, 80h",
            &[0xe4, 0x80],
            |g| {
                g.add_primary(primary::UNCONDITIONAL_IO_EXITING);
            },
            R::IoInstruction,
        ),
        (
            "rep outsb",
            &[0xf3, 0x6e],
            |g| {
                g.add_primary(primary::UNCONDITIONAL_IO_EXITING);
                g.cpu().registers[1] = 3;
            },
            R::IoInstruction,
        ),
        (
            "rdmsr",
            &[0x0f, 0x32],
            |g| {
                g.remove_primary(primary::USE_MSR_BITMAPS);
            },
            R::Rdmsr,
        ),
        (
            "wrmsr",
            &[0x0f, 0x30],
            |g| {
                g.remove_primary(primary::USE_MSR_BITMAPS);
            },
            R::Wrmsr,
        ),
        (
            "pause",
            &[0xf3, 0x90],
            |g| {
                g.add_primary(primary::PAUSE_EXITING);
            },
            R::Pause,
        ),
        (
            "sgdt",
            &[0x0f, 0x01, 0x07],
            |g| {
                g.add_secondary(secondary::DESCRIPTOR_TABLE_EXITING);
            },
            R::GdtrOrIdtrAccess,
        ),
        (
            "sldt",
            &[0x0f, 0x00, 0xc0],
            |g| {
                g.add_secondary(secondary::DESCRIPTOR_TABLE_EXITING);
            },
            R::LdtrOrTrAccess,
        ),
        (
            "wbinvd",
            &[0x0f, 0x09],
            |g| {
                g.add_secondary(secondary::WBINVD_EXITING);
            },
            R::Wbinvd,
        ),
        (
            "rdrand",
            &[0x0f, 0xc7, 0xf0],
            |g| {
                g.add_secondary(secondary::RDRAND_EXITING);
            },
            R::Rdrand,
        ),
        (
            "rdseed",
            &[0x0f, 0xc7, 0xf8],
            |g| {
                g.add_secondary(secondary::RDSEED_EXITING);
            },
            R::Rdseed,
        ),
        (
            "invpcid",
            &[0x66, 0x0f, 0x38, 0x82, 0x07],
            |g| {
                g.add_primary(primary::INVLPG_EXITING);
                g.add_secondary(secondary::ENABLE_INVPCID);
            },
            R::Invpcid,
        ),
        (
            "vmfunc",
            &[0x0f, 0x01, 0xd4],
            |g| {
                g.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
            },
            R::Vmfunc,
        ),
    ]
}

fn guest_with(code: &[u8], rflags: u64) -> Guest {
    let mut guest = Guest::new(&[code, &[0x90; 4]].concat());
    guest.set(vmcs::GUEST_RFLAGS, 2 | rflags);
    guest.cpu().registers[6] = PAGE;
    guest.cpu().registers[7] = PAGE;
    guest
}

fn saved_rf(guest: &Guest) -> bool {
    guest.get(vmcs::GUEST_RFLAGS) & RESUME != 0
}

// SDM 27.3.3: "the value saved is 0", whatever RF was, for an instruction that exits always or by a control.
#[test]
fn an_instruction_saves_rf_as_0() {
    for (name, code, prepare, reason) in instructions() {
        for resume in [0, RESUME] {
            let mut guest = guest_with(code, resume);
            prepare(&mut guest);
            guest.launch(2);
            assert!(!guest.cpu().vmx.non_root, "{name} does not exit");
            guest.expect_exit(reason);
            assert!(!saved_rf(&guest), "{name}");
            assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE, "{name}");
        }
    }
    // Between the iterations of a string instruction, too.
    let mut guest = guest_with(&[0xf3, 0x6e], 0);
    guest.cpu().registers[1] = 3;
    guest.cpu().registers[2] = 0;
    guest.add_primary(primary::USE_IO_BITMAPS);
    guest.launch(2);
    guest.ram().store(IO_BITMAPS, 1_u8);
    guest.go_on(1);
    guest.expect_exit(R::IoInstruction);
    assert_eq!(guest.cpu().registers[1], 2);
    assert!(!saved_rf(&guest));
}

// SDM 27.3.3: an exception, an interrupt or an NMI that exits directly saves what its delivery would have.
#[test]
fn an_event_saves_the_rf_of_its_image() {
    let debug_registers: Prepare = |g| {
        let controls = g.get(vmcs::ENTRY_CONTROLS);
        g.set(vmcs::ENTRY_CONTROLS, controls | entry::LOAD_DEBUG_CONTROLS);
        g.set(vmcs::GUEST_DR7, 0x402);
        g.cpu().dr[0] = GUEST_CODE;
    };
    let general_detect: Prepare = |g| {
        let controls = g.get(vmcs::ENTRY_CONTROLS);
        g.set(vmcs::ENTRY_CONTROLS, controls | entry::LOAD_DEBUG_CONTROLS);
        g.set(vmcs::GUEST_DR7, 0x2400);
    };
    let table: [(&str, &[u8], u64, Prepare, bool); 9] = [
        ("#UD", &[0x0f, 0x0b], 0, nothing, true),
        ("#UD with RF", &[0x0f, 0x0b], RESUME, nothing, true),
        ("INT3", &[0xcc], 0, nothing, false),
        ("INT3 with RF", &[0xcc], RESUME, nothing, false),
        ("INT1 with RF", &[0xf1], RESUME, nothing, false),
        ("single step", &[0x90], TRAP, nothing, false),
        (
            "single step with RF",
            &[0x90],
            TRAP | RESUME,
            nothing,
            false,
        ),
        ("instruction breakpoint", &[0x90], 0, debug_registers, false),
        (
            "general detect",
            &[0x0f, 0x21, 0xf8],
            0,
            general_detect,
            true,
        ),
    ];
    for (name, code, rflags, prepare, expected) in table {
        let mut guest = guest_with(code, rflags);
        guest.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
        prepare(&mut guest);
        guest.launch(3);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(saved_rf(&guest), expected, "{name}");
    }
    // From outside: what RF is at that boundary.
    for resume in [0, RESUME] {
        for (nmi, reason) in [(true, R::ExceptionOrNmi), (false, R::ExternalInterrupt)] {
            let mut guest = guest_with(&[], resume);
            guest.add_pin(pin::EXTERNAL_INTERRUPT_EXITING);
            guest.launch(1);
            guest.expect_no_exit();
            let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
            if nmi {
                mailbox.post_non_maskable();
            } else {
                mailbox.post_vector(0x51, arch::interrupt_command::TriggerMode::Edge);
            }
            guest.go_on(1);
            guest.expect_exit(reason);
            assert_eq!(saved_rf(&guest), resume != 0, "{reason:?}");
        }
    }
}

// SDM 27.3.3: an access that exits saves 1 if it is an instruction's.
#[test]
fn an_access_saves_rf_as_1() {
    let table: [(R, Prepare); 4] = [
        (R::EptViolation, |g| {
            g.with_ept();
            g.ram().store(PAGE_ENTRY, 0_u64);
        }),
        (R::EptMisconfiguration, |g| {
            g.with_ept();
            g.ram().store(PAGE_ENTRY, PAGE | 0x32);
        }),
        (R::ApicAccess, |g| {
            g.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
            g.set(vmcs::APIC_ACCESS_ADDRESS, PAGE);
        }),
        (R::PageModificationLogFull, |g| {
            g.with_ept();
            g.set(vmcs::EPT_POINTER, EPT | 0x5e);
            g.add_secondary(secondary::ENABLE_PML);
            g.set(vmcs::PML_ADDRESS, DATA);
            g.set(vmcs::PML_INDEX, 0xffff);
        }),
    ];
    for (reason, prepare) in table {
        for resume in [0, RESUME] {
            let mut guest = guest_with(&[0x89, 0x07], resume);
            prepare(&mut guest);
            guest.launch(2);
            guest.expect_exit(reason);
            assert!(saved_rf(&guest), "{reason:?}");
        }
    }
}

fn threshold(guest: &mut Guest) {
    guest.add_primary(primary::USE_TPR_SHADOW);
    guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
    guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
    guest.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
    guest.set(vmcs::TPR_THRESHOLD, 4);
}

fn init(guest: &mut Guest) {
    guest.cpu().platform.inboxes[0].mailbox.post_init();
}

// SDM 27.3.3: all others save what RF was. An instruction that has been executed has ended it.
#[test]
fn others_save_rf_as_it_was() {
    let at_once: [(R, Prepare); 6] = [
        (R::InitSignal, init),
        (R::InterruptWindow, |g| {
            g.add_primary(primary::INTERRUPT_WINDOW_EXITING);
        }),
        (R::NmiWindow, |g| {
            g.add_pin(pin::VIRTUAL_NMIS);
            g.add_primary(primary::NMI_WINDOW_EXITING);
        }),
        (R::PreemptionTimer, |g| {
            g.add_pin(pin::PREEMPTION_TIMER);
        }),
        (R::MonitorTrapFlag, |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700);
        }),
        (R::TprBelowThreshold, threshold),
    ];
    for (reason, prepare) in at_once {
        for resume in [0, RESUME] {
            let mut guest = guest_with(&[], 0x200 | resume);
            prepare(&mut guest);
            guest.launch(2);
            guest.expect_exit(reason);
            assert_eq!(saved_rf(&guest), resume != 0, "{reason:?}");
        }
    }
    for resume in [0, RESUME] {
        let mut guest = guest_with(&[], resume);
        guest.set(vmcs::GUEST_ACTIVITY_STATE, 3);
        guest.launch(1);
        guest.cpu().platform.inboxes[0].mailbox.post_start_up(8);
        guest.go_on(1);
        guest.expect_exit(R::StartUpIpi);
        assert_eq!(saved_rf(&guest), resume != 0);
    }
    let behind: [(R, Vec<u8>, Prepare); 4] = [
        (R::MonitorTrapFlag, vec![0x90], |g| {
            g.add_primary(primary::MONITOR_TRAP_FLAG);
        }),
        // mov cr8, rax
        (R::TprBelowThreshold, vec![0x44, 0x0f, 0x22, 0xc0], |g| {
            threshold(g);
            g.set_virtual_apic(0x80, 0x50);
        }),
        (R::ApicWrite, store_u32(APIC_ACCESS + 0xf0, 1), |g| {
            g.with_xapic();
        }),
        (R::VirtualizedEoi, store_u32(APIC_ACCESS + 0xb0, 0), |g| {
            g.with_xapic();
            g.set(vmcs::GUEST_INTERRUPT_STATUS, 0x6100);
            g.set(vmcs::EOI_EXIT_BITMAP_1, 1 << 0x21);
        }),
    ];
    for (reason, code, prepare) in behind {
        let mut guest = guest_with(&code, RESUME);
        prepare(&mut guest);
        guest.launch(3);
        guest.expect_exit(reason);
        assert!(!saved_rf(&guest), "{reason:?}");
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + code.len() as u64);
    }
    let mut guest = guest_with(&[0x0f, 0x0b], RESUME);
    guest.set(vmcs::GUEST_IDTR_LIMIT, 0);
    guest.launch(3);
    guest.expect_exit(R::TripleFault);
    assert!(saved_rf(&guest));
}

// SDM 17.3.1.1: RF covers all iterations of a repeated string instruction: a breakpoint on it is met once.
#[test]
fn rf_covers_all_iterations() {
    for code in [[0xf3, 0xa4], [0xf3, 0x6e]] {
        let mut guest = guest_with(&code, RESUME);
        let controls = guest.get(vmcs::ENTRY_CONTROLS);
        guest.set(vmcs::ENTRY_CONTROLS, controls | entry::LOAD_DEBUG_CONTROLS);
        guest.set(vmcs::GUEST_DR7, 0x402);
        guest.set(vmcs::EXCEPTION_BITMAP, 2);
        guest.cpu().dr[0] = GUEST_CODE;
        guest.cpu().registers[1] = 4;
        guest.launch(7);
        guest.expect_no_exit();
        assert_eq!(guest.cpu().registers[1], 0);
    }
}

// SDM 27.3.4: exits that come before the traps of an instruction leave those pending.
#[test]
fn exits_before_the_traps_leave_them_pending() {
    let behind: [(R, Vec<u8>, Prepare); 4] = [
        (R::MonitorTrapFlag, vec![0x90], |g| {
            g.add_primary(primary::MONITOR_TRAP_FLAG);
        }),
        (R::TprBelowThreshold, vec![0x44, 0x0f, 0x22, 0xc0], |g| {
            threshold(g);
            g.set_virtual_apic(0x80, 0x50);
        }),
        (R::ApicWrite, store_u32(APIC_ACCESS + 0xf0, 1), |g| {
            g.with_xapic();
        }),
        (R::VirtualizedEoi, store_u32(APIC_ACCESS + 0xb0, 0), |g| {
            g.with_xapic();
            g.set(vmcs::GUEST_INTERRUPT_STATUS, 0x6100);
            g.set(vmcs::EOI_EXIT_BITMAP_1, 1 << 0x21);
        }),
    ];
    for (reason, code, prepare) in behind {
        let mut guest = guest_with(&code, TRAP);
        prepare(&mut guest);
        guest.launch(3);
        guest.expect_exit(reason);
        let pending = guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
        assert_eq!(pending, SINGLE_STEP, "{reason:?}");
    }
    // What VM entry loaded, if the exit comes at once.
    let at_once: [(R, Prepare); 3] = [
        (R::InitSignal, init),
        (R::MonitorTrapFlag, |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700);
        }),
        (R::TprBelowThreshold, threshold),
    ];
    for (reason, prepare) in at_once {
        for loaded in [SINGLE_STEP, ENABLED | 3] {
            let mut guest = guest_with(&[], 0);
            guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, loaded);
            prepare(&mut guest);
            guest.launch(2);
            guest.expect_exit(reason);
            let pending = guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
            assert_eq!(pending, loaded, "{reason:?}");
        }
    }
}

// SDM 27.3.4: "saved as clear for all VM exits except the following".
#[test]
fn other_exits_save_no_pending_debug_exception() {
    for (name, code, prepare, reason) in instructions() {
        for (rflags, loaded) in [(TRAP, 0), (0, 3)] {
            let mut guest = guest_with(code, rflags);
            guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, loaded);
            prepare(&mut guest);
            guest.launch(2);
            guest.expect_exit(reason);
            let pending = guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
            assert_eq!(pending, 0, "{name}");
        }
    }
    let others: [(R, &[u8], Prepare); 5] = [
        (R::ExceptionOrNmi, &[0x0f, 0x0b], |g| {
            g.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
        }),
        (R::ExceptionOrNmi, &[0x90], |g| {
            g.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
        }),
        (R::TripleFault, &[0x0f, 0x0b], |g| {
            g.set(vmcs::GUEST_IDTR_LIMIT, 0);
        }),
        (R::EptViolation, &[0x89, 0x07], |g| {
            g.with_ept();
            g.ram().store(PAGE_ENTRY, 0_u64);
        }),
        (R::InterruptWindow, &[0xfb, 0x90], |g| {
            g.set(vmcs::EXCEPTION_BITMAP, 0);
            g.add_primary(primary::INTERRUPT_WINDOW_EXITING);
        }),
    ];
    for (reason, code, prepare) in others {
        let mut guest = guest_with(
            code,
            if reason == R::InterruptWindow {
                0
            } else {
                TRAP
            },
        );
        prepare(&mut guest);
        guest.launch(3);
        guest.expect_exit(reason);
        let pending = guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
        assert_eq!(pending, 0, "{reason:?}");
    }
    // In the shutdown state nothing delivers what entry loaded; the exit that ends it clears it.
    let mut guest = guest_with(&[], 0);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 2);
    guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, SINGLE_STEP);
    guest.add_pin(pin::PREEMPTION_TIMER);
    guest.launch(2);
    guest.expect_exit(R::PreemptionTimer);
    assert_eq!(guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
}

// SDM 27.3.4: behind MOV SS any exit but that of a debug exception leaves them pending; 27.1: but an exit in
// the delivery of an event finds neither them nor the blocking.
#[test]
fn mov_ss_keeps_debug_exceptions_pending_over_an_exit() {
    let table: [(&str, R, &[u8], Prepare, u64); 6] = [
        (
            "#UD",
            R::ExceptionOrNmi,
            &[0x0f, 0x0b],
            |g| {
                g.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
            },
            SINGLE_STEP | ENABLED | 1,
        ),
        (
            "EPT violation",
            R::EptViolation,
            &[0x89, 0x07],
            |g| {
                g.with_ept();
                g.ram().store(PAGE_ENTRY, 0_u64);
            },
            SINGLE_STEP | ENABLED | 1,
        ),
        (
            "preemption timer",
            R::PreemptionTimer,
            &[0x90],
            |g| {
                g.add_pin(pin::PREEMPTION_TIMER);
            },
            SINGLE_STEP | ENABLED | 1,
        ),
        (
            "INIT",
            R::InitSignal,
            &[0x90],
            init,
            SINGLE_STEP | ENABLED | 1,
        ),
        (
            "INT1",
            R::ExceptionOrNmi,
            &[0xf1],
            |g| {
                g.set(vmcs::EXCEPTION_BITMAP, 1 << 1);
            },
            0,
        ),
        (
            "#UD whose delivery exits",
            R::ExceptionOrNmi,
            &[0x0f, 0x0b],
            |g| {
                g.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
                g.set(vmcs::GUEST_IDTR_LIMIT, 6 * 16);
            },
            0,
        ),
    ];
    for (name, reason, code, prepare, expected) in table {
        let mut guest = guest_with(code, TRAP);
        guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
        guest.set(
            vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS,
            SINGLE_STEP | ENABLED | 1,
        );
        prepare(&mut guest);
        guest.launch(2);
        guest.expect_exit(reason);
        let pending = guest.get(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
        assert_eq!(pending, expected, "{name}");
        let blocking = guest.get(vmcs::GUEST_INTERRUPTIBILITY_STATE);
        let delivered = name == "#UD whose delivery exits";
        assert_eq!(blocking, if delivered { 0 } else { MOV_SS }, "{name}");
    }
}

// SDM 26.3.2.1, 27.5.1: neither an entry nor an exit modifies the reserved bits of CR0, whatever the fields say.
#[test]
fn reserved_bits_of_cr0_are_not_loaded() {
    const RESERVED: u64 = 0xffc0 | 1 << 17 | 0x1ff8_0000;
    // mov rax, cr0; cpuid
    let mut guest = guest_with(&[0x0f, 0x20, 0xc0, 0x0f, 0xa2], 0);
    let (inside, outside) = (guest.get(vmcs::GUEST_CR0), guest.get(vmcs::HOST_CR0));
    guest.set(vmcs::GUEST_CR0, inside | RESERVED);
    guest.set(vmcs::HOST_CR0, outside | RESERVED);
    guest.launch(3);
    guest.expect_exit(R::Cpuid);
    assert_eq!(guest.cpu().registers[0], inside);
    assert_eq!(guest.get(vmcs::GUEST_CR0), inside);
    assert_eq!(guest.cpu().cr0, outside);
}

// SDM 27.3.2: bits 31:17 and 11:8 of access rights are always cleared, bit 16 says that a segment is unusable.
#[test]
fn access_rights_are_saved_without_their_reserved_bits() {
    let mut guest = guest_with(&[0x0f, 0xa2], 0);
    guest.set(vmcs::GUEST_GS_ACCESS_RIGHTS, 0xffff_ffff);
    guest.set(vmcs::GUEST_LDTR_ACCESS_RIGHTS, 0xffff_ffff);
    guest.launch(2);
    guest.expect_exit(R::Cpuid);
    for field in [vmcs::GUEST_GS_ACCESS_RIGHTS, vmcs::GUEST_LDTR_ACCESS_RIGHTS] {
        let rights = guest.get(field);
        assert_eq!(rights & 0xfffe_0f00, 0, "{rights:#x}");
        assert_ne!(rights & 1 << 16, 0, "{rights:#x}");
    }
}
