//! Checks on VM entry (SDM 26.2, 26.3): each clause violated alone, from a VMCS that enters.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::{ENTRY_FAILURE, ExitReason as R};
use arch::vmcs::{self, instruction_error as error};
use arch::vmx_control::{entry, exit, pin, primary, secondary};
use posthaste_machine::cpu::model::VirtualizationLevel as L;
use vmx::*;

type Change = fn(&mut Guest);
/// What is broken, in which VMCS, and how.
type Case = (&'static str, fn() -> Guest, Change);

/// A VMCS with most features on.
fn full() -> Guest {
    let mut guest = Guest::new(&[0x90; 8]);
    guest.with_x2apic().with_posted_interrupts().with_ept();
    guest.add_secondary(secondary::ENABLE_VPID | secondary::UNRESTRICTED_GUEST);
    guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 1);
    guest.add_primary(primary::USE_IO_BITMAPS);
    guest
}

/// A VMCS with the TPR shadow and nothing that builds upon it.
fn shadow() -> Guest {
    let mut guest = Guest::new(&[0x90; 8]);
    guest.add_primary(primary::USE_TPR_SHADOW);
    guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
    guest
}

fn plain() -> Guest {
    Guest::new(&[0x90; 8])
}

#[track_caller]
fn refused(base: fn() -> Guest, name: &str, number: u32, change: Change) {
    let mut guest = base();
    change(&mut guest);
    guest.launch(1);
    assert!(!guest.cpu().vmx.non_root, "entered: {name}");
    assert_eq!(
        guest.cpu().rflags() & 0x8d5,
        0x40,
        "not VMfailValid: {name}"
    );
    assert_eq!(guest.get(vmcs::INSTRUCTION_ERROR), number, "{name}");
    assert_eq!(guest.cpu().counters.entries, 0);
    // The launch state did not change.
    let mut again = base();
    again.launch(1);
    again.expect_no_exit();
}

#[track_caller]
fn accepted(base: fn() -> Guest, name: &str, change: Change) {
    let mut guest = base();
    change(&mut guest);
    guest.launch(1);
    let rule = guest.cpu().vmx.last_violation;
    assert!(guest.cpu().vmx.non_root, "{name}: {rule:?}");
}

// SDM 26.2.1.1; ipi-virtualization.md A7.
#[test]
fn execution_controls() {
    let table: &[Case] = &[
        ("a pin-based control that must be 1", plain, |g| {
            g.set(vmcs::PIN_BASED_CONTROLS, 0);
        }),
        ("a pin-based control that must be 0", plain, |g| {
            g.add_pin(1 << 8);
        }),
        ("a primary control that must be 1", plain, |g| {
            g.remove_primary(1 << 26);
        }),
        ("a primary control that must be 0", plain, |g| {
            g.add_primary(1 << 18);
        }),
        ("a secondary control that must be 0", plain, |g| {
            g.add_secondary(secondary::ENABLE_PML);
        }),
        ("a tertiary control that must be 0", full, |g| {
            g.add_tertiary(1);
        }),
        ("the CR3-target count", plain, |g| {
            g.set(vmcs::CR3_TARGET_COUNT, 5);
        }),
        ("I/O bitmap A, alignment", full, |g| {
            g.set(vmcs::IO_BITMAP_A, IO_BITMAPS + 1);
        }),
        ("I/O bitmap B, width", full, |g| {
            g.set(vmcs::IO_BITMAP_B, 1 << 46);
        }),
        ("MSR bitmap, alignment", plain, |g| {
            g.set(vmcs::MSR_BITMAP, MSR_BITMAP + 0x800);
        }),
        ("MSR bitmap, width", plain, |g| {
            g.set(vmcs::MSR_BITMAP, 1 << 46);
        }),
        ("virtual NMIs without NMI exiting", plain, |g| {
            let old = g.get(vmcs::PIN_BASED_CONTROLS);
            g.set(
                vmcs::PIN_BASED_CONTROLS,
                old & !pin::NMI_EXITING | pin::VIRTUAL_NMIS,
            );
        }),
        ("NMI-window exiting without virtual NMIs", plain, |g| {
            g.add_primary(primary::NMI_WINDOW_EXITING);
        }),
        ("virtual-APIC address, alignment", shadow, |g| {
            g.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC + 8);
        }),
        ("virtual-APIC address, width", shadow, |g| {
            g.set(vmcs::VIRTUAL_APIC_ADDRESS, 1 << 46);
        }),
        ("TPR threshold, reserved bits", shadow, |g| {
            g.set(vmcs::TPR_THRESHOLD, 0x10);
        }),
        ("TPR threshold above VTPR", shadow, |g| {
            g.set_virtual_apic(0x80, 0x4f);
            g.set(vmcs::TPR_THRESHOLD, 5);
        }),
        ("x2APIC virtualization without the TPR shadow", plain, |g| {
            g.add_secondary(secondary::VIRTUALIZE_X2APIC_MODE);
        }),
        (
            "APIC-register virtualization without the TPR shadow",
            plain,
            |g| {
                g.add_secondary(secondary::APIC_REGISTER_VIRTUALIZATION);
            },
        ),
        (
            "virtual-interrupt delivery without the TPR shadow",
            plain,
            |g| {
                g.add_pin(pin::EXTERNAL_INTERRUPT_EXITING);
                g.add_secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
            },
        ),
        ("IPI virtualization without the TPR shadow", plain, |g| {
            g.with_ipi_virtualization();
        }),
        ("APIC-access address, alignment", shadow, |g| {
            g.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
            g.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS + 4);
        }),
        ("APIC-access address, width", shadow, |g| {
            g.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
            g.set(vmcs::APIC_ACCESS_ADDRESS, 1 << 46);
        }),
        ("x2APIC mode and APIC accesses", full, |g| {
            g.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
        }),
        (
            "virtual-interrupt delivery without external-interrupt exiting",
            full,
            |g| {
                let old = g.get(vmcs::PIN_BASED_CONTROLS);
                let both = pin::EXTERNAL_INTERRUPT_EXITING | pin::PROCESS_POSTED_INTERRUPTS;
                g.set(vmcs::PIN_BASED_CONTROLS, old & !both);
            },
        ),
        (
            "posted interrupts without virtual-interrupt delivery",
            full,
            |g| {
                g.remove_secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
            },
        ),
        ("posted interrupts without acknowledge on exit", full, |g| {
            let old = g.get(vmcs::EXIT_CONTROLS);
            g.set(vmcs::EXIT_CONTROLS, old & !exit::ACKNOWLEDGE_INTERRUPT);
        }),
        ("notification vector above 255", full, |g| {
            g.set(vmcs::POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0x1e0);
        }),
        ("descriptor address, alignment", full, |g| {
            g.set(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, DESCRIPTORS + 32);
        }),
        ("descriptor address, width", full, |g| {
            g.set(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 1 << 46);
        }),
        ("PID-pointer table, alignment", full, |g| {
            g.set(vmcs::PID_POINTER_TABLE_ADDRESS, PID_POINTERS + 4);
        }),
        ("PID-pointer table, width", full, |g| {
            g.set(vmcs::PID_POINTER_TABLE_ADDRESS, 1 << 46);
        }),
        ("PID-pointer table, width of the last entry", full, |g| {
            g.set(vmcs::PID_POINTER_TABLE_ADDRESS, (1 << 46) - 8);
        }),
        ("VPID 0", full, |g| {
            g.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 0);
        }),
        ("EPT memory type", full, |g| {
            g.set(vmcs::EPT_POINTER, EPT | 0x1c);
        }),
        ("EPT walk length", full, |g| {
            g.set(vmcs::EPT_POINTER, EPT | 0x26);
        }),
        ("EPT pointer, reserved bit", full, |g| {
            g.set(vmcs::EPT_POINTER, EPT | 0x9e);
        }),
        ("EPT pointer, width", full, |g| {
            g.set(vmcs::EPT_POINTER, 1 << 46 | 0x1e);
        }),
        ("unrestricted guest without EPT", plain, |g| {
            g.add_secondary(secondary::UNRESTRICTED_GUEST);
        }),
    ];
    for (name, base, change) in table {
        refused(*base, name, error::ENTRY_INVALID_CONTROLS, *change);
    }
}

#[test]
fn execution_controls_that_are_legal() {
    let table: &[Case] = &[
        ("everything", full, |_| {}),
        ("TPR threshold as high as VTPR", shadow, |g| {
            g.set_virtual_apic(0x80, 0x4f);
            g.set(vmcs::TPR_THRESHOLD, 4);
        }),
        // Not checked unless activated.
        ("tertiary controls that are not activated", plain, |g| {
            g.set(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS, u64::MAX);
        }),
        ("secondary controls that are not activated", plain, |g| {
            g.set(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS, u32::MAX);
        }),
        // No requirement on the sender's other controls.
        (
            "IPI virtualization with nothing but the TPR shadow",
            shadow,
            |g| {
                g.with_ipi_virtualization();
            },
        ),
        (
            "a PID-pointer table at the end of the address space",
            full,
            |g| {
                g.set(vmcs::PID_POINTER_TABLE_ADDRESS, (1 << 46) - 32);
            },
        ),
        ("the largest PID-pointer table", full, |g| {
            g.set(vmcs::LAST_PID_POINTER_INDEX, 0xffff);
        }),
        ("EPT accessed and dirty flags", full, |g| {
            g.set(vmcs::EPT_POINTER, EPT | 0x5e);
        }),
    ];
    for (name, base, change) in table {
        accepted(*base, name, *change);
    }
}

// ipi-virtualization.md A7: without the tertiary controls' activation a processor of a lower level
// knows none of them.
#[test]
fn lower_levels_refuse_the_controls_they_lack() {
    let cases: &[(L, u32, Change)] = &[
        (L::Base, 7, |g| {
            g.add_primary(primary::USE_TPR_SHADOW);
        }),
        (L::Base, 7, |g| {
            g.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
        }),
        (L::ApicVirtualization, 7, |g| {
            g.add_pin(pin::PROCESS_POSTED_INTERRUPTS);
        }),
        (L::PostedInterrupts, 7, |g| {
            g.add_primary(primary::ACTIVATE_TERTIARY_CONTROLS);
        }),
    ];
    for (level, number, change) in cases {
        let mut guest = Guest::at_level(&[0x90], *level);
        guest.launch(1);
        guest.expect_no_exit();
        let mut guest = Guest::at_level(&[0x90], *level);
        change(&mut guest);
        guest.launch(1);
        guest.expect_fail(*number);
    }
}

// SDM 26.2.1.2, 26.2.1.3
#[test]
fn exit_and_entry_controls() {
    let table: &[(&str, Change)] = &[
        ("an exit control that must be 1", |g| {
            g.set(vmcs::EXIT_CONTROLS, 0);
        }),
        ("an exit control that must be 0", |g| {
            g.add_exit(exit::LOAD_PERF_GLOBAL_CTRL);
        }),
        ("save preemption timer without the timer", |g| {
            g.add_exit(exit::SAVE_PREEMPTION_TIMER);
        }),
        ("MSR-store area, alignment", |g| {
            g.set(vmcs::EXIT_MSR_STORE_COUNT, 1);
            g.set(vmcs::EXIT_MSR_STORE_ADDRESS, DATA + 8);
        }),
        ("MSR-store area, width", |g| {
            g.set(vmcs::EXIT_MSR_STORE_COUNT, 2);
            g.set(vmcs::EXIT_MSR_STORE_ADDRESS, (1 << 46) - 16);
        }),
        ("MSR-load area", |g| {
            g.set(vmcs::EXIT_MSR_LOAD_COUNT, 1);
            g.set(vmcs::EXIT_MSR_LOAD_ADDRESS, 1 << 46);
        }),
        ("entry MSR-load area", |g| {
            g.set(vmcs::ENTRY_MSR_LOAD_COUNT, 1);
            g.set(vmcs::ENTRY_MSR_LOAD_ADDRESS, DATA + 1);
        }),
        ("an entry control that must be 1", |g| {
            g.set(vmcs::ENTRY_CONTROLS, 0);
        }),
        ("entry to SMM", |g| {
            let old = g.get(vmcs::ENTRY_CONTROLS);
            g.set(vmcs::ENTRY_CONTROLS, old | entry::ENTRY_TO_SMM);
        }),
        ("reserved interruption type", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0130);
        }),
        ("NMI with another vector", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0203);
        }),
        ("exception above 31", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0320);
        }),
        ("pending MTF with a vector", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0701);
        }),
        ("an error code for #UD", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0b06);
        }),
        ("no error code for #GP", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_030d);
        }),
        ("an error code for an interrupt", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0850);
        }),
        ("reserved bits of the interruption information", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_1306);
        }),
        ("a wide error code", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0b0d);
            g.set(vmcs::ENTRY_EXCEPTION_ERROR_CODE, 0x1_0000);
        }),
        ("a long software interrupt", |g| {
            g.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0480);
            g.set(vmcs::ENTRY_INSTRUCTION_LENGTH, 16);
        }),
    ];
    for (name, change) in table {
        refused(plain, name, error::ENTRY_INVALID_CONTROLS, *change);
    }
}

// SDM 26.2.2 to 26.2.4
#[test]
fn host_state() {
    let table: &[(&str, Change)] = &[
        ("CR0.PG", |g| {
            let old = g.get(vmcs::HOST_CR0);
            g.set(vmcs::HOST_CR0, old & !(1 << 31));
        }),
        ("CR0.NE", |g| {
            let old = g.get(vmcs::HOST_CR0);
            g.set(vmcs::HOST_CR0, old & !(1 << 5));
        }),
        ("CR0 above 32 bits", |g| {
            let old = g.get(vmcs::HOST_CR0);
            g.set(vmcs::HOST_CR0, old | 1 << 32);
        }),
        ("CR4.VMXE", |g| {
            let old = g.get(vmcs::HOST_CR4);
            g.set(vmcs::HOST_CR4, old & !(1 << 13));
        }),
        ("a CR4 bit that the processor lacks", |g| {
            let old = g.get(vmcs::HOST_CR4);
            g.set(vmcs::HOST_CR4, old | 1 << 30);
        }),
        ("CR3, width", |g| {
            g.set(vmcs::HOST_CR3, 1 << 46);
        }),
        ("IA32_SYSENTER_ESP", |g| {
            g.set(vmcs::HOST_SYSENTER_ESP, 1 << 47);
        }),
        ("IA32_SYSENTER_EIP", |g| {
            g.set(vmcs::HOST_SYSENTER_EIP, 1 << 47);
        }),
        ("IA32_PAT", |g| {
            g.add_exit(exit::LOAD_PAT);
            g.set(vmcs::HOST_PAT, 2);
        }),
        ("IA32_EFER, reserved", |g| {
            let old = g.get(vmcs::HOST_EFER);
            g.set(vmcs::HOST_EFER, old | 2);
        }),
        ("IA32_EFER.LMA", |g| {
            let old = g.get(vmcs::HOST_EFER);
            g.set(vmcs::HOST_EFER, old & !(1 << 10));
        }),
        ("IA32_EFER.LME", |g| {
            let old = g.get(vmcs::HOST_EFER);
            g.set(vmcs::HOST_EFER, old & !(1 << 8));
        }),
        ("a selector's RPL", |g| {
            g.set(vmcs::HOST_DS_SELECTOR, 0x13);
        }),
        ("a selector's table", |g| {
            g.set(vmcs::HOST_GS_SELECTOR, 0x14);
        }),
        ("null CS", |g| {
            g.set(vmcs::HOST_CS_SELECTOR, 0);
        }),
        ("null TR", |g| {
            g.set(vmcs::HOST_TR_SELECTOR, 0);
        }),
        ("FS base", |g| {
            g.set(vmcs::HOST_FS_BASE, 1 << 47);
        }),
        ("GDTR base", |g| {
            g.set(vmcs::HOST_GDTR_BASE, 1 << 63);
        }),
        ("TR base", |g| {
            g.set(vmcs::HOST_TR_BASE, 1 << 47);
        }),
        ("address-space size", |g| {
            let old = g.get(vmcs::EXIT_CONTROLS);
            let sized = old & !(exit::HOST_ADDRESS_SPACE_SIZE | exit::LOAD_EFER);
            g.set(vmcs::EXIT_CONTROLS, sized);
        }),
        ("CR4.PAE", |g| {
            let old = g.get(vmcs::HOST_CR4);
            g.set(vmcs::HOST_CR4, old & !(1 << 5));
        }),
        ("RIP", |g| {
            g.set(vmcs::HOST_RIP, 1 << 47);
        }),
    ];
    for (name, change) in table {
        refused(plain, name, error::ENTRY_INVALID_HOST_STATE, *change);
    }
    accepted(plain, "null SS of a 64-bit host", |g| {
        g.set(vmcs::HOST_SS_SELECTOR, 0);
    });
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
            g.set(vmcs::GUEST_RIP, 1 << 47);
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
