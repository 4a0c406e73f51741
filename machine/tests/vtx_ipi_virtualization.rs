//! IPI virtualization and what surrounds it: the test vectors of the design note, and every clause
//! of SDM 30.1.6 IPI Virtualization, 30.4 Virtualizing Memory-Mapped APIC Accesses and 30.5
//! Virtualizing MSR-Based APIC Accesses.

#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use apic::apic_base::ApicMode;
use apic::routing::Identity;
use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use posthaste_machine::cpu::model::VirtualizationLevel;
use vmx::*;

const ICR: u32 = 0x830;
const SELF_IPI: u32 = 0x83f;
const ON: u64 = 1;
const SN: u64 = 2;

fn x2(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_x2apic();
    guest
}

fn x1(code: &[u8]) -> Guest {
    let mut guest = Guest::new(code);
    guest.with_xapic();
    guest
}

fn command(destination: u32, low: u32) -> u64 {
    u64::from(destination) << 32 | u64::from(low)
}

fn vicr(guest: &Guest) -> u64 {
    u64::from(guest.virtual_apic(0x300)) | u64::from(guest.virtual_apic(0x304)) << 32
}

/// Nothing was posted and nobody was notified.
#[track_caller]
fn nothing_sent(guest: &Guest) {
    for i in 0..4 {
        assert_eq!(guest.posted(i), [], "descriptor {i}");
        assert_eq!(guest.descriptor_control(i) & ON, 0, "descriptor {i}");
        assert_eq!(guest.received(i as usize), [], "processor {i}");
    }
}

// Test vectors X2, rows 1 and 2; SDM 30.1.6, steps 4 to 6.
#[test]
fn a_unicast_posts_and_notifies_once() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), [0xf1]);
    assert_eq!(guest.descriptor_control(1), 1 << 32 | 0xe1 << 16 | ON);
    assert_eq!(guest.received(1), [0xe1]);
    assert_eq!(guest.received(2), []);
    assert_eq!(vicr(&guest), command(1, 0xf1));
    // Repeat while ON is 1: PIR only.
    let mut again = x2(&write_msr(ICR, command(1, 0xf2)));
    again.set_descriptor_control(1, 1 << 32 | 0xe1 << 16 | ON);
    again.launch(10);
    again.expect_no_exit();
    assert_eq!(again.posted(1), [0xf2]);
    assert_eq!(again.received(1), []);
    let counters = &guest.cpu().counters;
    assert_eq!(
        (counters.ipis_virtualized, counters.notifications_sent),
        (1, 1)
    );
    assert_eq!(counters.physical_icr_writes_by_guest, 0);
    let counters = &again.cpu().counters;
    assert_eq!(
        (counters.ipis_virtualized, counters.notifications_sent),
        (1, 0)
    );
}

#[test]
fn suppressed_notifications_leave_on_clear() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.set_descriptor_control(1, 1 << 32 | 0xe1 << 16 | SN);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), [0xf1]);
    assert_eq!(guest.descriptor_control(1), 1 << 32 | 0xe1 << 16 | SN);
    assert_eq!(guest.received(1), []);
}

// SDM 30.1.6: the update of PIR does not depend on what is there; reserved and software bits stay.
#[test]
fn posting_keeps_the_rest_of_the_descriptor() {
    let mut guest = x2(&write_msr(ICR, command(2, 0x4010)));
    let ram = guest.ram();
    for i in 0..8 {
        ram.store(DESCRIPTORS + 128 + i * 8, u64::MAX);
    }
    let others = 2 << 32 | 0xffff_fffc;
    guest.set_descriptor_control(2, others);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(2).len(), 256);
    assert_eq!(guest.descriptor_control(2), others | ON);
    assert_eq!(guest.received(2), [0xff]);
    for i in 5..8 {
        assert_eq!(guest.ram().load::<u64>(DESCRIPTORS + 128 + i * 8), u64::MAX);
    }
}

#[test]
fn the_level_bit_is_ignored() {
    let mut guest = x2(&write_msr(ICR, command(1, 0x40f1)));
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), [0xf1]);
}

// SDM 30.1.6, steps 1 to 3; the exit is always for page offset 300H.
#[test]
fn what_cannot_be_posted_exits() {
    let table: &[(&str, u64)] = &[
        ("vector 0FH", command(1, 0x0f)),
        ("vector 0", command(1, 0)),
        ("invalid entry", command(3, 0xf1)),
        ("beyond the last index", command(4, 0xf1)),
        (
            "16 bits of the index only would be 1",
            command(0x1_0001, 0xf1),
        ),
        ("broadcast", command(0xffff_ffff, 0xf1)),
        ("logical", command(1, 0x8f1)),
        ("level", command(1, 0x80f1)),
        ("lowest priority", command(1, 0x1f1)),
        ("SMI", command(1, 0x200)),
        ("reserved delivery mode", command(1, 0x3f1)),
        ("NMI", command(1, 0x4f1)),
        ("INIT", command(1, 0x5f1)),
        ("start-up", command(1, 0x6f1)),
        ("self", command(1, 0x4_00f1)),
        ("all including self", command(1, 0x8_00f1)),
        ("all excluding self", command(1, 0xc_00f1)),
        // Prior-art B5 #1: no fault, and the bit stays.
        ("bit 12", command(1, 0x10f1)),
    ];
    for (name, value) in table {
        let mut guest = x2(&write_msr(ICR, *value));
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "{name}");
        assert_eq!(vicr(&guest), *value, "{name}");
        nothing_sent(&guest);
        // SDM 30.4.3.3: trap-like. The WRMSR ends 17 bytes in.
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 17, "{name}");
    }
}

#[test]
fn unusable_entries_exit() {
    let good = DESCRIPTORS + 64 | 1;
    for (name, entry) in [
        ("not valid", good & !1),
        ("bit 1", good | 2),
        ("bit 5", good | 32),
        ("beyond the physical-address width", good | 1 << 46),
        ("bit 63", good | 1 << 63),
    ] {
        let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
        guest.ram().store(PID_POINTERS + 8, entry);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "{name}");
        nothing_sent(&guest);
    }
}

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
    assert_eq!(guest.cpu().vmx.virtual_interrupts.requesting, 0x41);
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
            assert_eq!(guest.cpu().vmx.virtual_interrupts.servicing, 0x41);
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

// Test vectors X1.
#[test]
fn only_the_destination_byte_of_vicr_hi_survives() {
    let write_and_read = program(&[
        store_u32(APIC_ACCESS + 0x310, u32::MAX),
        load_u32(APIC_ACCESS + 0x310),
    ]);
    let mut guest = x1(&write_and_read);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.cpu().registers[0], 0xff00_0000);
    for offset in 0x310..0x314 {
        let mut guest = x1(&program(&[store_u8(APIC_ACCESS + offset, 0xff)]));
        guest.launch(10);
        guest.expect_no_exit();
        let expected = if offset == 0x313 { 0xff00_0000 } else { 0 };
        assert_eq!(guest.virtual_apic(0x310), expected, "{offset:#x}");
    }
}

fn xapic_ipi(destination: u32, low: u32) -> Vec<u8> {
    program(&[
        store_u32(APIC_ACCESS + 0x310, destination << 24),
        store_u32(APIC_ACCESS + 0x300, low),
    ])
}

#[test]
fn an_xapic_unicast_is_posted() {
    for low in [0xf1, 0x40f1] {
        let mut guest = x1(&xapic_ipi(1, low));
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.posted(1), [0xf1]);
        assert_eq!(guest.received(1), [0xe1]);
        assert_eq!(guest.virtual_apic(0x300), low);
    }
}

#[test]
fn without_register_virtualization_the_destination_exits_and_the_command_uses_the_stale_one() {
    let mut guest = x1(&xapic_ipi(1, 0xf1));
    guest.remove_secondary(secondary::APIC_REGISTER_VIRTUALIZATION);
    guest.set_virtual_apic(0x310, 0x0200_0000);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x310 | 1 << 12);
    // The VMM ignores it and lets the guest go on with the next instruction.
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 11);
    guest.resume(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(2), [0xf1]);
    assert_eq!(guest.posted(1), []);
}

// ipi-virtualization.md A4: IPI virtualization alone virtualizes writes of 300H.
#[test]
fn ipi_virtualization_alone_suffices_for_page_offset_300() {
    let code = program(&[store_u32(APIC_ACCESS + 0x300, 0xf1)]);
    for ipi_virtualization in [true, false] {
        let mut guest = x1(&code);
        guest.remove_secondary(
            secondary::APIC_REGISTER_VIRTUALIZATION | secondary::VIRTUAL_INTERRUPT_DELIVERY,
        );
        if !ipi_virtualization {
            guest.set(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS, 0);
        }
        guest.set_virtual_apic(0x310, 0x0100_0000);
        guest.launch(10);
        if ipi_virtualization {
            guest.expect_no_exit();
            assert_eq!(guest.posted(1), [0xf1]);
        } else {
            assert_eq!(guest.expect_exit(R::ApicAccess), 0x300 | 1 << 12);
        }
    }
    // Its reads are not.
    let mut guest = x1(&program(&[load_u32(APIC_ACCESS + 0x300)]));
    guest.remove_secondary(
        secondary::APIC_REGISTER_VIRTUALIZATION | secondary::VIRTUAL_INTERRUPT_DELIVERY,
    );
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x300);
}

#[test]
fn xapic_commands_that_are_not_posted() {
    let table: &[(&str, u32, u32)] = &[
        ("vector 0FH", 1, 0x0f),
        ("invalid entry", 3, 0xf1),
        ("beyond the last index", 4, 0xf1),
        ("broadcast", 0xff, 0xf1),
        ("logical", 1, 0x8f1),
        ("level", 1, 0x80f1),
        ("lowest priority", 1, 0x1f1),
        ("NMI", 1, 0x4f1),
        ("INIT", 1, 0x5f1),
        ("start-up", 1, 0x6f1),
        ("all including self", 1, 0x8_00f1),
        ("all excluding self", 1, 0xc_00f1),
        ("delivery status", 1, 0x10f1),
        // Reserved bits never fault here.
        ("bit 13", 1, 0x20f1),
        ("bit 16", 1, 0x1_00f1),
        ("bit 17", 1, 0x2_00f1),
        ("bit 20", 1, 0x10_00f1),
        ("bit 31", 1, 0x8000_00f1),
    ];
    for (name, destination, low) in table {
        let mut guest = x1(&xapic_ipi(*destination, *low));
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "{name}");
        assert_eq!(guest.virtual_apic(0x300), *low, "{name}");
        assert_eq!(
            guest.get(vmcs::GUEST_RIP),
            GUEST_CODE + 22,
            "{name}: trap-like"
        );
        nothing_sent(&guest);
    }
}

// ipi-virtualization.md A4: bits 14 and 11 do not matter to a self-IPI, the rest does.
#[test]
fn xapic_self_ipis() {
    let self_ipi = |low| program(&[store_u32(APIC_ACCESS + 0x300, low)]);
    for low in [0x4_40f1, 0x4_00f1, 0x4_08f1] {
        let mut guest = x1(&self_ipi(low));
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.cpu().vmx.virtual_interrupts.requesting, 0xf1);
        assert_eq!(guest.virtual_apic(0x270), 1 << 17, "VIRR");
        nothing_sent(&guest);
    }
    for low in [
        0x4_000f, 0x4_80f1, 0x4_01f1, 0x4_10f1, 0x4_20f1, 0x5_00f1, 0x14_00f1,
    ] {
        let mut guest = x1(&self_ipi(low));
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "{low:#x}");
        assert_eq!(guest.cpu().counters.self_ipis_virtualized, 0);
    }
    // Without virtual-interrupt delivery there is no self-IPI virtualization.
    let mut guest = x1(&self_ipi(0x4_00f1));
    guest.remove_secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicWrite), 0x300);
}

// SDM 30.4.3.1: writes that are not virtualized, and those that are but have no emulation.
#[test]
fn writes_of_other_offsets_and_sizes() {
    let table: &[(Vec<u8>, R, u64)] = &[
        (store_u8(APIC_ACCESS + 0x301, 1), R::ApicWrite, 0x301),
        (store_u8(APIC_ACCESS + 0x081, 1), R::ApicWrite, 0x081),
        (store_u32(APIC_ACCESS + 0x0f0, 1), R::ApicWrite, 0x0f0),
        (store_u32(APIC_ACCESS + 0x380, 1), R::ApicWrite, 0x380),
        (store_u64(APIC_ACCESS + 0x300, 1), R::ApicAccess, 0x1300),
        (store_u32(APIC_ACCESS + 0x302, 1), R::ApicAccess, 0x1302),
        (store_u32(APIC_ACCESS + 0x304, 1), R::ApicAccess, 0x1304),
        (store_u32(APIC_ACCESS + 0x030, 1), R::ApicAccess, 0x1030),
        (store_u32(APIC_ACCESS + 0x0a0, 1), R::ApicAccess, 0x10a0),
        (store_u32(APIC_ACCESS + 0x390, 1), R::ApicAccess, 0x1390),
        (load_u32(APIC_ACCESS + 0x390), R::ApicAccess, 0x0390),
        (load_u32(APIC_ACCESS + 0x0a0), R::ApicAccess, 0x00a0),
        (load_u32(APIC_ACCESS + 0x302), R::ApicAccess, 0x0302),
    ];
    for (code, reason, qualification) in table {
        let mut guest = x1(&program(std::slice::from_ref(code)));
        guest.launch(10);
        assert_eq!(guest.expect_exit(*reason), *qualification);
        let after = if *reason == R::ApicWrite {
            code.len() as u64
        } else {
            0
        };
        assert_eq!(
            guest.get(vmcs::GUEST_RIP),
            GUEST_CODE + after,
            "{qualification:#x}"
        );
        if *reason == R::ApicAccess {
            let linear = APIC_ACCESS + (qualification & 0xfff);
            assert_eq!(guest.get(vmcs::GUEST_LINEAR_ADDRESS), linear);
        }
    }
    // A 16-bit and an 8-bit write of 300H are virtualized: same page offset.
    for code in [
        store_u16(APIC_ACCESS + 0x300, 0xf1),
        store_u8(APIC_ACCESS + 0x300, 0xf1),
    ] {
        let mut guest = x1(&program(&[code]));
        guest.set_virtual_apic(0x310, 0x0100_0000);
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.posted(1), [0xf1]);
    }
}

#[test]
fn without_the_tpr_shadow_every_access_exits() {
    for code in [
        store_u32(APIC_ACCESS + 0x80, 1),
        load_u32(APIC_ACCESS + 0x80),
    ] {
        let mut guest = Guest::new(&program(&[code]));
        guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
        guest.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
        guest.launch(10);
        guest.expect_exit(R::ApicAccess);
    }
}

// SDM 30.4.3.2: TPR and EOI by memory.
#[test]
fn xapic_tpr_and_eoi() {
    let mut guest = x1(&program(&[store_u32(APIC_ACCESS + 0x80, 0x1122_3344)]));
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.virtual_apic(0x80), 0x44, "bytes 3:1 are cleared");
    let mut guest = x1(&program(&[store_u32(APIC_ACCESS + 0xb0, 0x55)]));
    guest.set_virtual_apic(0x120, 1 << 1);
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x4100);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.virtual_apic(0xb0), 0, "VEOI is cleared");
    assert_eq!(guest.virtual_apic(0x120), 0);
    assert_eq!(guest.cpu().vmx.virtual_interrupts.servicing, 0);
    // Without virtual-interrupt delivery, but with register virtualization: an APIC-write exit.
    let mut guest = x1(&program(&[store_u32(APIC_ACCESS + 0xb0, 0x55)]));
    guest.remove_secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicWrite), 0xb0);
}

// SDM 30.1.2: TPR virtualization without virtual-interrupt delivery compares with the threshold.
#[test]
fn tpr_below_threshold() {
    let writes: [Vec<u8>; 2] = [
        store_u32(APIC_ACCESS + 0x80, 0x3f),
        vec![0x44, 0x0f, 0x22, 0xc0], // mov cr8, rax
    ];
    for (i, code) in writes.iter().enumerate() {
        for (threshold, exits) in [(3, false), (4, true)] {
            let mut guest = Guest::new(&program(std::slice::from_ref(code)));
            guest.add_primary(primary::USE_TPR_SHADOW);
            guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
            guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
            guest.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
            guest.set(vmcs::TPR_THRESHOLD, threshold);
            guest.set_virtual_apic(0x80, 0x50);
            guest.cpu().registers[0] = 3;
            guest.launch(10);
            if exits {
                guest.expect_exit(R::TprBelowThreshold);
                let after = GUEST_CODE + code.len() as u64;
                assert_eq!(guest.get(vmcs::GUEST_RIP), after, "trap-like");
            } else {
                guest.expect_no_exit();
            }
            assert_eq!(guest.virtual_apic(0x80), [0x3f, 0x30][i]);
        }
    }
    // SDM 26.7.7: after VM entry, before the first instruction.
    let mut guest = Guest::new(&[0xf4]);
    guest.add_primary(primary::USE_TPR_SHADOW);
    guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
    guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
    guest.set(vmcs::APIC_ACCESS_ADDRESS, APIC_ACCESS);
    guest.set(vmcs::TPR_THRESHOLD, 5);
    guest.launch(10);
    guest.expect_exit(R::TprBelowThreshold);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE);
}

// ipi-virtualization.md A4, priority: a fault after the write and before its emulation, delivered
// without an exit, comes first; the emulation comes before the handler's first instruction.
#[test]
fn emulation_after_a_fault_of_the_same_instruction() {
    // rep movsd: from DATA, one dword, to 300H; then the next iteration's destination 304H is an
    // APIC-access exit, which is not the same operation: the first iteration was emulated.
    let mut code = vec![0xf3, 0xa5, 0xf4];
    let mut guest = x1(&code);
    guest.ram().store(DATA, 0xf1_u32);
    guest.set_virtual_apic(0x310, 0x0100_0000);
    guest.cpu().registers[1] = 2;
    guest.cpu().registers[6] = DATA;
    guest.cpu().registers[7] = APIC_ACCESS + 0x300;
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x1304);
    assert_eq!(guest.posted(1), [0xf1], "an iteration is an operation");
    assert_eq!(guest.cpu().registers[1], 1);
    // push across two pages: the write at the end of the first page is made, ... is found
    // unwritable before anything is written, so nothing is virtualized.
    code = vec![0x50, 0xf4]; // push rax
    let mut guest = x1(&code);
    guest.set(vmcs::GUEST_RSP, APIC_ACCESS + 0x308);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x1300, "64 bits");
}

// An interrupt's stack frame on the APIC-access page: access type 3 (SDM 30.4.6, table 27-6).
#[test]
fn event_delivery_to_the_apic_access_page() {
    let mut guest = x1(&[0xf4]);
    guest.set(vmcs::GUEST_RSP, APIC_ACCESS + 0x800);
    guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0306); // #UD
    guest.launch(10);
    let qualification = guest.expect_exit(R::ApicAccess);
    assert_eq!(qualification >> 12, 3);
    assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), 0x8000_0306);
    assert_eq!(guest.get(vmcs::ENTRY_INTERRUPTION_INFORMATION), 0x306);
}

#[test]
fn a_fetch_from_the_apic_access_page_exits() {
    let mut guest = x1(&[0xf4]);
    guest.set(vmcs::GUEST_RIP, APIC_ACCESS + 0x123);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 2 << 12 | 0x123);
}

// ipi-virtualization.md A4: the page is recognized by its host-physical address.
#[test]
fn the_apic_access_page_is_found_behind_ept() {
    let mut guest = x1(&xapic_ipi(1, 0xf1));
    guest.with_ept();
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), [0xf1]);
    // Mapped elsewhere: guest-physical FEE00000H as every VMM does it. 2-MByte page 7F7H of the
    // first 4 GiB, whose EPT entry leads to a table of 4-KByte pages.
    let mut guest = x1(&program(&[
        store_u32(APIC_ACCESS + 0x310, 0x0200_0000),
        store_u32(APIC_ACCESS + 0x300, 0xf2),
    ]));
    guest.with_ept();
    let other = PAGES + 0xa000;
    guest.set(vmcs::APIC_ACCESS_ADDRESS, other);
    let index = (APIC_ACCESS - PAGES) / 4096;
    guest.ram().store(EPT + 0x3000 + index * 8, other | 0x37);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(2), [0xf2]);
    // Behind no translation that leads there, the same guest-physical address is plain memory.
    let mut guest = x1(&program(&[store_u32(APIC_ACCESS + 0x300, 0xf1)]));
    guest.with_ept();
    guest.set(vmcs::APIC_ACCESS_ADDRESS, other);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.ram().load::<u32>(APIC_ACCESS + 0x300), 0xf1);
    nothing_sent(&guest);
}

// ipi-virtualization.md A2: the physical local APIC's mode chooses NDST's form, whatever the
// guest's mode.
#[test]
fn notifications_follow_the_physical_apics_mode() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    // A fresh processor in xAPIC mode: through disabled.
    guest.cpu().apic_msr_write(0x1b, 0xfee0_0100).unwrap();
    guest.cpu().apic_msr_write(0x1b, 0xfee0_0900).unwrap();
    for i in 1..4 {
        guest.cpu().platform.set_identity(
            i,
            Identity {
                x2apic_id: i as u32,
                xapic_id: i as u8,
                mode: ApicMode::Xapic,
                logical_destination: 0,
                destination_format: u32::MAX,
                software_enabled: true,
                priority: 0,
            },
        );
    }
    // NDST[15:8] = 2; in x2APIC form this would be 200H.
    guest.set_descriptor_control(1, 2 << 40 | 0xe1 << 16);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.received(2), [0xe1]);
    assert_eq!(guest.received(1), []);
}

// SDM 30.1.6: the target may be the sender, which then processes its own notification.
#[test]
fn an_ipi_to_oneself_comes_back_as_a_notification() {
    let mut guest = x2(&write_msr(ICR, command(0, 0xf1)));
    guest.with_posted_interrupts().with_interrupts_enabled();
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), Some(0xf1));
    assert_eq!(guest.posted(0), []);
    assert_eq!(guest.descriptor_control(0) & ON, 0);
    let counters = &guest.cpu().counters;
    assert_eq!(
        (
            counters.ipis_virtualized,
            counters.notifications_sent,
            counters.notifications_processed,
            counters.virtual_interrupts
        ),
        (1, 1, 1, 1)
    );
}

// ipi-virtualization.md A3: the index is a virtual APIC ID, 16 bits and inclusive.
#[test]
fn the_last_index_is_inclusive() {
    for (last, exits) in [(2, false), (1, true)] {
        let mut guest = x2(&write_msr(ICR, command(2, 0xf1)));
        guest.set(vmcs::LAST_PID_POINTER_INDEX, last);
        guest.launch(10);
        assert_eq!(!guest.cpu().vmx.non_root, exits);
    }
}

// The xAPIC broadcast is taken for virtual APIC ID 255 if the table has such an entry.
#[test]
fn the_xapic_broadcast_is_unicast_to_entry_255() {
    let mut guest = x1(&xapic_ipi(0xff, 0xf1));
    guest.set(vmcs::LAST_PID_POINTER_INDEX, 255);
    guest
        .ram()
        .store(PID_POINTERS + 255 * 8, DESCRIPTORS + 128 | 1);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(2), [0xf1]);
}

// ipi-virtualization.md A1: without IPI virtualization the fields do not exist.
#[test]
fn vmwrite_of_a_field_that_does_not_exist() {
    for (level, error) in [
        (VirtualizationLevel::PostedInterrupts, Some(12)),
        (VirtualizationLevel::IpiVirtualization, None),
    ] {
        for encoding in [0x0008_u64, 0x2034, 0x2035, 0x2042, 0x2043] {
            let mut guest = Guest::at_level(&[], level);
            guest.cpu().registers[3] = encoding;
            guest.run_root(&[0x0f, 0x79, 0xd9]); // vmwrite rbx, rcx
            match error {
                Some(number) => guest.expect_fail(number),
                None => assert_eq!(guest.cpu().rflags() & 0x8d5, 0, "{encoding:#x}"),
            }
        }
    }
}

// SDM 30.4.6.1: a guest paging structure on the APIC-access page is a guest-physical access, type
// 15, or 10 while an event is delivered.
#[test]
fn a_paging_structure_on_the_apic_access_page() {
    for (injected, kind) in [(0_u32, 15), (0x8000_0306, 10)] {
        let mut guest = x1(&program(&[load_u32(PAGES)]));
        guest.with_ept();
        if injected != 0 {
            guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, injected);
            guest.set(vmcs::GUEST_IDTR_BASE, PAGES);
        }
        guest.ram().store(TABLES + 0x2000 + 8, APIC_ACCESS | 7);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicAccess) >> 12, kind);
        assert_eq!(guest.get(vmcs::IDT_VECTORING_INFORMATION), injected);
    }
}
