//! Checks on controls and host state at VM entry (SDM 26.2): each clause violated alone, from a VMCS that enters.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

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
            g.add_secondary(secondary::ENABLE_USER_WAIT);
        }),
        ("a tertiary control that must be 0", full, |g| {
            g.add_tertiary(1);
        }),
        ("mode-based execute control without EPT", plain, |g| {
            g.add_secondary(secondary::MODE_BASED_EXECUTE);
        }),
        ("page-modification logging without EPT", plain, |g| {
            g.add_secondary(secondary::ENABLE_PML);
        }),
        ("PML address, alignment", full, |g| {
            g.add_secondary(secondary::ENABLE_PML);
            g.set(vmcs::PML_ADDRESS, DATA + 8);
        }),
        ("PML address, width", full, |g| {
            g.add_secondary(secondary::ENABLE_PML);
            g.set(vmcs::PML_ADDRESS, 1 << 46);
        }),
        ("#VE information address, alignment", plain, |g| {
            g.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
            g.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, DATA + 64);
        }),
        ("#VE information address, width", plain, |g| {
            g.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
            g.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, 1 << 46);
        }),
        ("a VM-function control that must be 0", full, |g| {
            g.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
            g.set(vmcs::VM_FUNCTION_CONTROLS, 2);
        }),
        ("EPTP switching without EPT", plain, |g| {
            g.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
            g.set(vmcs::VM_FUNCTION_CONTROLS, 1);
        }),
        ("EPTP-list address, alignment", full, |g| {
            g.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
            g.set(vmcs::VM_FUNCTION_CONTROLS, 1);
            g.set(vmcs::EPTP_LIST_ADDRESS, DATA + 0x100);
        }),
        ("EPTP-list address, width", full, |g| {
            g.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
            g.set(vmcs::VM_FUNCTION_CONTROLS, 1);
            g.set(vmcs::EPTP_LIST_ADDRESS, 1 << 46);
        }),
        ("VMREAD-bitmap address, alignment", plain, |g| {
            g.add_secondary(secondary::VMCS_SHADOWING);
            g.set(vmcs::VMREAD_BITMAP, DATA + 1);
        }),
        ("VMREAD-bitmap address, width", plain, |g| {
            g.add_secondary(secondary::VMCS_SHADOWING);
            g.set(vmcs::VMREAD_BITMAP, 1 << 46);
        }),
        ("VMWRITE-bitmap address, alignment", plain, |g| {
            g.add_secondary(secondary::VMCS_SHADOWING);
            g.set(vmcs::VMWRITE_BITMAP, DATA + 0x800);
        }),
        ("VMWRITE-bitmap address, width", plain, |g| {
            g.add_secondary(secondary::VMCS_SHADOWING);
            g.set(vmcs::VMWRITE_BITMAP, 1 << 63);
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
        ("every control of EPT", full, |g| {
            g.add_secondary(
                secondary::MODE_BASED_EXECUTE
                    | secondary::ENABLE_PML
                    | secondary::EPT_VIOLATION_EXCEPTION
                    | secondary::ENABLE_VM_FUNCTIONS,
            );
            // Mode-based execute control: every entry has bit 10, too.
            for at in (0..0x4000).step_by(8) {
                let entry: u64 = g.ram().load(EPT + at);
                g.ram().store(EPT + at, entry | entry << 8 & 1 << 10);
            }
            g.set(vmcs::PML_ADDRESS, DATA);
            g.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, DATA + 0x1000);
            g.set(vmcs::VM_FUNCTION_CONTROLS, 1);
            g.set(vmcs::EPTP_LIST_ADDRESS, DATA + 0x2000);
        }),
        ("VM-function controls that are not enabled", plain, |g| {
            g.set(vmcs::VM_FUNCTION_CONTROLS, u64::MAX);
        }),
        ("VMCS shadowing without a linked VMCS", plain, |g| {
            g.add_secondary(secondary::VMCS_SHADOWING);
            g.set(vmcs::VMREAD_BITMAP, DATA);
            g.set(vmcs::VMWRITE_BITMAP, DATA);
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
