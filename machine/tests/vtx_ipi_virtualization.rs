//! IPI virtualization (SDM 30.1.6), clause by clause: `docs/clauses.md`, A3.

#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use apic::apic_base::ApicMode;
use apic::routing::Identity;
use arch::exit::ExitReason as R;
use arch::vmcs;
use posthaste_machine::cpu::CpuModel;
use posthaste_machine::cpu::model::{PidPointerTableChecks, VirtualizationLevel};
use vmx::*;

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

// Step 1: 16 is the lowest vector that is posted; each has its own bit of PIR (step 4).
#[test]
fn every_legal_vector_has_its_bit() {
    for vector in 16..=255_u8 {
        let mut guest = x2(&write_msr(ICR, command(1, u32::from(vector))));
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.posted(1), [vector]);
        assert_eq!(guest.posted(0), []);
        assert_eq!(guest.posted(2), []);
    }
}

// Step 3: bits 5:1 and those beyond the physical-address width are reserved, each of them; the
// highest bit of the width is not.
#[test]
fn each_reserved_bit_of_an_entry_exits() {
    let good = DESCRIPTORS + 64 | 1;
    for bit in (0..6).chain(46..64) {
        let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
        guest.ram().store(PID_POINTERS + 8, good ^ 1 << bit);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "bit {bit}");
        nothing_sent(&guest);
    }
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.ram().store(PID_POINTERS + 8, good | 1 << 45);
    guest.launch(10);
    guest.expect_no_exit();
}

// Step 5: ON becomes 1, and step 6 follows, exactly if both ON and SN are 0.
#[test]
fn a_notification_needs_on_and_sn_clear() {
    for control in 0..4_u64 {
        let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
        guest.set_descriptor_control(1, 1 << 32 | 0xe1 << 16 | control);
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.posted(1), [0xf1], "step 4 is unconditional");
        let after = if control == 0 { ON } else { control };
        assert_eq!(guest.descriptor_control(1) & 3, after);
        assert_eq!(!guest.received(1).is_empty(), control == 0);
    }
}

// A2: in x2APIC mode the destination is all 32 bits of NDST.
#[test]
fn all_of_ndst_counts_in_x2apic_mode() {
    for (destination, arrives) in [(2_u64, true), (2 << 8, false), (1 << 16 | 2, false)] {
        let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
        guest.set_descriptor_control(1, destination << 32 | 0xe1 << 16);
        guest.launch(10);
        guest.expect_no_exit();
        assert_eq!(guest.descriptor_control(1) & ON, ON);
        assert_eq!(guest.received(2) == [0xe1], arrives, "{destination:#x}");
        assert_eq!(guest.received(1), []);
    }
}

// One look-up, no broadcast: FFFFFFFFH is beyond every 16-bit index.
#[test]
fn the_x2apic_broadcast_exits_with_the_largest_table() {
    for (destination, exits) in [(u32::MAX, true), (0x1_0000, true), (0xffff, false)] {
        let mut guest = x2(&write_msr(ICR, command(destination, 0xf1)));
        guest.set(vmcs::LAST_PID_POINTER_INDEX, 0xffff);
        guest
            .ram()
            .store(PID_POINTERS + 0xffff * 8, DESCRIPTORS + 64 | 1);
        guest.launch(10);
        if exits {
            assert_eq!(guest.expect_exit(R::ApicWrite), 0x300);
            nothing_sent(&guest);
        } else {
            guest.expect_no_exit();
            assert_eq!(guest.posted(1), [0xf1]);
        }
    }
}

// The sender's own descriptor is not looked at, and its virtual interrupts are not evaluated.
#[test]
fn nothing_happens_to_the_senders_own_interrupts() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.with_posted_interrupts().with_interrupts_enabled();
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x51);
    guest.set_virtual_apic(0x80, 0x60);
    guest.ram().store(DESCRIPTORS + 8, 1_u64 << 2);
    guest.launch(2);
    // Evaluated now, 51H would be recognized.
    guest.set_virtual_apic(0xa0, 0);
    guest.go_on(8);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), [0xf1]);
    assert_eq!(guest.posted(0), [66]);
    assert_eq!(guest.handler(), None);
    let interrupts = guest.cpu().vmx.guest.virtual_interrupts;
    assert!(!interrupts.recognized);
    assert_eq!(interrupts.requesting, 0x51);
}

// The table and the descriptors are host-physical: no EPT, no accessed or dirty flags.
#[test]
fn the_tables_are_not_behind_ept() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.with_ept();
    for page in [DESCRIPTORS, PID_POINTERS] {
        guest
            .ram()
            .store(EPT + 0x3000 + (page - PAGES) / 512, 0_u64);
    }
    guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), [0xf1]);
    assert_eq!(guest.received(1), [0xe1]);
    for page in [DESCRIPTORS, PID_POINTERS] {
        let entry: u64 = guest.ram().load(EPT + 0x3000 + (page - PAGES) / 512);
        assert_eq!(entry, 0);
    }
}

// The third trigger, SENDUIPI, does not exist: the processor has no user interrupts.
#[test]
fn senduipi_is_undefined() {
    let mut guest = x2(&[0xf3, 0x0f, 0xc7, 0xf0, 0xf4]);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
    guest.launch(10);
    guest.expect_exit(R::ExceptionOrNmi);
    assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0306);
    nothing_sent(&guest);
}

// A7: without "activate tertiary controls" all of them count as 0.
#[test]
fn a_control_that_is_not_activated_is_0() {
    let mut guest = x2(&write_msr(ICR, command(1, 0xf1)));
    guest.remove_primary(arch::vmx_control::primary::ACTIVATE_TERTIARY_CONTROLS);
    guest.launch(10);
    guest.expect_no_exit();
    assert_eq!(guest.posted(1), []);
    assert_eq!(guest.cpu().counters.physical_icr_writes_by_guest, 1);
}

// A7: a processor that does not check the table at entry finds entries that cannot be read
// unusable. Neither kind reads the table or a descriptor at entry.
#[test]
fn an_unchecked_table_has_unusable_entries() {
    for (name, table) in [
        ("misaligned", PID_POINTERS + 4),
        ("beyond the width", 1 << 46),
        ("last entry beyond the width", (1 << 46) - 8),
    ] {
        let model = CpuModel {
            pid_pointer_table_checks: PidPointerTableChecks::Unknown,
            ..CpuModel::default()
        };
        let mut guest = Guest::with_model(&write_msr(ICR, command(1, 0xf1)), model);
        guest.with_x2apic();
        guest.set(vmcs::PID_POINTER_TABLE_ADDRESS, table);
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "{name}");
        nothing_sent(&guest);
    }
}

#[test]
fn vm_entry_does_not_touch_the_table() {
    let mut guest = x2(&[0x90; 8]);
    guest.ram().store(PID_POINTERS, u64::MAX);
    guest.set_descriptor_control(0, u64::MAX);
    guest.ram().store(DESCRIPTORS, u64::MAX);
    guest.launch(3);
    guest.expect_no_exit();
    assert_eq!(guest.ram().load::<u64>(PID_POINTERS), u64::MAX);
    assert_eq!(guest.descriptor_control(0), u64::MAX);
    assert_eq!(guest.ram().load::<u64>(DESCRIPTORS), u64::MAX);
}
