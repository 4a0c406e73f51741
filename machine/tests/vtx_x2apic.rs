//! Virtualized x2APIC registers (SDM 30.5), clause by clause: `docs/clauses.md`, A5.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use vmx::*;

#[test]
fn reserved_bits_of_the_x2apic_form_fault() {
    for bit in [13, 16, 17].into_iter().chain(20..32) {
        let mut guest = x2(&write_msr(ICR, command(1, 0xf1 | 1 << bit)));
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.set_virtual_apic(0x300, 0x1234_5678);
        guest.launch(10);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0b0d);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_ERROR_CODE), 0);
        assert_eq!(guest.virtual_apic(0x300), 0x1234_5678, "bit {bit}");
        nothing_sent(&guest);
    }
}

// SDM 30.5: the MSR bitmap is looked at first.
#[test]
fn an_intercepted_icr_write_exits_as_wrmsr() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.ram().store(MSR_BITMAP + 2048 + 0x830 / 8, 1_u8);
    guest.launch(10);
    guest.expect_exit(R::Wrmsr);
    assert_eq!(vicr(&guest), 0);
    nothing_sent(&guest);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 15);
}

// ipi-virtualization.md A5: without IPI virtualization the write goes to the physical ICR.
#[test]
fn a_physical_icr_write_by_the_guest_is_flagged() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.set(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS, 0);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(vicr(&guest), 0);
    assert_eq!(guest.received(1), [0xf1], "the physical vector");
    assert_eq!(guest.cpu().counters.physical_icr_writes_by_guest, 1);
    assert_eq!(guest.cpu().counters.ipis_virtualized, 0);
}

#[test]
fn self_ipi_by_its_own_register() {
    // 41H is virtualized: with IF = 0 it stays requested.
    let mut guest = x2(&write_msr(SELF_IPI, 0x41));
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.virtual_apic(0x220), 1 << 1);
    assert_eq!(guest.cpu().vmx.guest.virtual_interrupts.requesting, 0x41);
    assert_eq!(guest.cpu().counters.self_ipis_virtualized, 1);
    // Below 16: exit for page offset 3F0H.
    let mut guest = x2(&write_msr(SELF_IPI, 0x0f));
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicWrite), 0x3f0);
    assert_eq!(guest.virtual_apic(0x3f0), 0x0f);
    for value in [0x141, 0x1_0000_0041] {
        let mut guest = x2(&write_msr(SELF_IPI, value));
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.launch(10);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(guest.virtual_apic(0x3f0), 0);
    }
}

// SDM 30.5: TPR and EOI.
#[test]
fn x2apic_tpr_and_eoi_are_virtualized() {
    let mut guest = x2(&write_msr(0x808, 0x55));
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.virtual_apic(0x80), 0x55);
    assert_eq!(guest.virtual_apic(0xa0), 0x55, "PPR virtualization");
    for (msr, value) in [
        (0x808, 0x100),
        (0x808, 1 << 32),
        (0x80b, 1),
        (0x80b, 1 << 32),
    ] {
        let mut guest = x2(&write_msr(msr, value));
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.launch(10);
        guest.expect_exit(R::ExceptionOrNmi);
    }
    // EOI with 61H and 41H in service.
    for exits in [false, true] {
        let mut guest = x2(&write_msr(0x80b, 0));
        guest.set_virtual_apic(0x120, 1 << 1);
        guest.set_virtual_apic(0x130, 1 << 1);
        guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x6100);
        if exits {
            guest.set(vmcs::EOI_EXIT_BITMAP_1, 1 << 0x21);
        }
        guest.launch(10);
        assert_eq!(guest.virtual_apic(0x130), 0, "VISR");
        assert_eq!(guest.virtual_apic(0x120), 1 << 1);
        assert_eq!(guest.virtual_apic(0xa0), 0x40, "VPPR");
        if exits {
            assert_eq!(guest.expect_exit(R::VirtualizedEoi), 0x61);
            assert_eq!(guest.get(vmcs::GUEST_INTERRUPT_STATUS), 0x4100);
            assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 17, "trap-like");
        } else {
            guest.expect_no_exit();
            assert_eq!(guest.cpu().vmx.guest.virtual_interrupts.servicing, 0x41);
        }
        assert_eq!(guest.cpu().counters.eois_virtualized, 1);
    }
}

// SDM 30.5: RDMSR.
#[test]
fn x2apic_reads_come_from_the_page() {
    let mut guest = x2(&read_msr(ICR));
    guest.set_virtual_apic(0x300, 0xf1);
    guest.set_virtual_apic(0x304, 7);
    guest.launch(10);
    assert_eq!(
        (guest.cpu().registers[0], guest.cpu().registers[2]),
        (0xf1, 7)
    );
    // Without APIC-register virtualization only the TPR does; the rest is physical.
    for (msr, offset, expected) in [(0x808, 0x80, 0x77), (0x80f, 0xf0, 0x1ff)] {
        let mut guest = x2(&read_msr(msr));
        guest.remove_secondary(secondary::APIC_REGISTER_VIRTUALIZATION);
        guest.set_virtual_apic(offset, 0x77);
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.cpu().registers[0], expected);
    }
}

/// Runs `code` from the start and expects HLT; then RAX and RDX.
fn value_read(guest: &mut Guest, msr: u32, launched: &mut bool) -> u64 {
    guest.store(GUEST_CODE, &read_msr(msr));
    guest.set(vmcs::GUEST_RIP, GUEST_CODE);
    if *launched {
        guest.resume(10);
    } else {
        guest.launch(10);
        *launched = true;
    }
    guest.expect_exit(R::Hlt);
    let cpu = guest.cpu();
    cpu.registers[2] << 32 | cpu.registers[0]
}

// SDM 30.5: with APIC-register virtualization each of 800H to 8FFH reads 8 bytes of the page.
#[test]
fn every_x2apic_register_is_read_from_the_page() {
    let mut guest = x2(&[]);
    guest.add_primary(primary::HLT_EXITING);
    let mut launched = false;
    for msr in 0x800..0x900_u32 {
        let offset = u64::from(msr & 0xff) << 4;
        guest.set_virtual_apic(offset, msr);
        guest.set_virtual_apic(offset + 4, !msr);
        // VM entry writes VPPR.
        let low = if msr == 0x80a { 0 } else { msr };
        let high = if msr == 0x808 { !0x808 } else { !msr };
        if msr == 0x808 {
            guest.set_virtual_apic(offset, 0);
        }
        let low = if msr == 0x808 { 0 } else { low };
        let expected = u64::from(high) << 32 | u64::from(low);
        assert_eq!(value_read(&mut guest, msr, &mut launched), expected);
    }
}

// The MSR bitmap comes first, for reads and for writes.
#[test]
fn intercepted_x2apic_registers_exit_before_anything_else() {
    for msr in [0x808_u32, 0x80b, 0x83f, 0x830, 0x80f] {
        let byte = u64::from(msr / 8);
        let mut guest = x2(&read_msr(msr));
        guest.ram().store(MSR_BITMAP + byte, 1_u8 << (msr & 7));
        guest.launch(10);
        guest.expect_exit(R::Rdmsr);
        // A value that would fault is not looked at.
        let mut guest = x2(&write_msr(msr, u64::MAX));
        guest
            .ram()
            .store(MSR_BITMAP + 2048 + byte, 1_u8 << (msr & 7));
        guest.launch(10);
        guest.expect_exit(R::Wrmsr);
        nothing_sent(&guest);
    }
}

// SDM 30.5: the physical local APIC's mode does not matter to what is virtualized; what is not is
// physical and faults where it is not in x2APIC mode.
#[test]
fn the_physical_apics_mode_does_not_matter() {
    for (control, code, faults) in [
        (true, read_msr(0x808), false),
        (true, write_msr(0x808, 0x20), false),
        (true, write_msr(ICR, command(1, 0xf1)), false),
        // Not in the list of virtualized writes.
        (true, write_msr(0x838, 1), true),
        (false, read_msr(0x808), true),
        (false, write_msr(0x808, 0x20), true),
        (false, write_msr(ICR, command(1, 0xf1)), true),
    ] {
        let mut guest = x2(&code);
        if !control {
            guest.remove_secondary(secondary::VIRTUALIZE_X2APIC_MODE);
        }
        guest.cpu().apic_msr_write(0x1b, 0xfee0_0100).unwrap();
        guest.cpu().apic_msr_write(0x1b, 0xfee0_0900).unwrap();
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
        guest.launch(10);
        if faults {
            guest.expect_exit(R::ExceptionOrNmi);
        } else {
            guest.expect_no_exit();
        }
    }
}

// SDM 30.5, the #GP column: each bit that must be 0.
#[test]
fn each_reserved_bit_faults_and_stores_nothing() {
    for (msr, offset, free) in [
        (0x808_u32, 0x80_u64, 8),
        (0x80b, 0xb0, 0),
        (0x83f, 0x3f0, 8),
    ] {
        for bit in free..64 {
            let mut guest = x2(&write_msr(msr, 1 << bit));
            guest.set(vmcs::EXCEPTION_BITMAP, 1 << 13);
            guest.launch(10);
            guest.expect_exit(R::ExceptionOrNmi);
            assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0b0d);
            assert_eq!(guest.virtual_apic(offset), 0, "{msr:#x} bit {bit}");
        }
    }
    // EDX of 830H is the destination: no bit of it is reserved.
    for bit in 32..64 {
        let mut guest = x2(&write_msr(ICR, 0xf1 | 1 << bit));
        guest.launch(10);
        let beyond = bit > 33;
        assert_eq!(guest.cpu().vmx.non_root, !beyond, "bit {bit}");
    }
}

// SDM 30.5: EOI and self-IPI need virtual-interrupt delivery; else the physical register is written.
#[test]
fn without_delivery_eoi_and_self_ipi_are_physical() {
    for (msr, value, offset) in [(0x80b_u32, 0_u64, 0xb0_u64), (0x83f, 0x41, 0x3f0)] {
        let mut guest = x2(&write_msr(msr, value));
        guest.remove_secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
        guest.set_virtual_apic(offset, 0x1234);
        guest.launch(5);
        assert_eq!(guest.virtual_apic(offset), 0x1234);
        assert_eq!(guest.cpu().counters.eois_virtualized, 0);
        assert_eq!(guest.cpu().counters.self_ipis_virtualized, 0);
    }
}

// ipi-virtualization.md A5, assumed there: the exit comes before other events, as for the page.
#[test]
fn a_command_by_msr_precedes_events() {
    let code = write_msr(ICR, command(1, 0x0f));
    let mut guest = x2(&code[15..]);
    guest.cpu().registers[0] = 0x0f;
    guest.cpu().registers[1] = u64::from(ICR);
    guest.cpu().registers[2] = 1;
    guest.add_primary(primary::MONITOR_TRAP_FLAG);
    guest.launch(3);
    assert_eq!(guest.expect_exit(R::ApicWrite), 0x300);
}
