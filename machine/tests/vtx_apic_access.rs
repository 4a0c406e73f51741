//! Virtualized accesses to the APIC-access page (SDM 30.4), clause by clause: `docs/clauses.md`, A4.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use vmx::*;

fn xapic_ipi(destination: u32, low: u32) -> Vec<u8> {
    program(&[
        store_u32(APIC_ACCESS + 0x310, destination << 24),
        store_u32(APIC_ACCESS + 0x300, low),
    ])
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
        assert_eq!(guest.cpu().vmx.guest.virtual_interrupts.requesting, 0xf1);
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
    assert_eq!(guest.cpu().vmx.guest.virtual_interrupts.servicing, 0);
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

// ipi-virtualization.md A4: one iteration of a string instruction is an operation of its own.
#[test]
fn an_iteration_of_a_string_instruction_is_an_operation() {
    // rep movsd, two dwords: to 300H, and to 304H, which exits.
    let mut guest = x1(&[0xf3, 0xa5, 0xf4]);
    guest.ram().store(DATA, 0xf1_u32);
    guest.set_virtual_apic(0x310, 0x0100_0000);
    guest.cpu().registers[1] = 2;
    guest.cpu().registers[6] = DATA;
    guest.cpu().registers[7] = APIC_ACCESS + 0x300;
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x1304);
    assert_eq!(guest.posted(1), [0xf1], "the first was emulated");
    assert_eq!(guest.cpu().registers[1], 1);
}

/// ENTER with 16-bit operands and nesting level 2: pushes BP, reads [RBP-2], pushes that and the
/// frame pointer. The stack's top is such that the first push is to page offset `first`.
fn enter(first: u64, frame: u64) -> Guest {
    let mut guest = x1(&[0x66, 0xc8, 0x00, 0x00, 0x02, 0xf4]);
    guest.set(vmcs::GUEST_RSP, APIC_ACCESS + first + 2);
    guest.cpu().registers[5] = frame;
    guest.set_virtual_apic(0x310, 0x0100_0000);
    guest
}

// ipi-virtualization.md A4: one operation virtualizes writes of one offset and size only, and reads
// nothing of the page after it has written. The exit voids the emulation; the value stays.
#[test]
fn an_operation_virtualizes_one_write() {
    // Second push: 300H after 302H.
    let mut guest = enter(0x302, DATA + 0xf2);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x1300);
    let pushed = (DATA + 0xf2) as u16;
    assert_eq!(guest.virtual_apic(0x300), u32::from(pushed) << 16);
    // Read of 080H after a write of 300H.
    let mut guest = enter(0x300, APIC_ACCESS + 0x82);
    guest.launch(10);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x080);
    let pushed = (APIC_ACCESS + 0x82) as u16;
    assert_eq!(guest.virtual_apic(0x300), u32::from(pushed));
    nothing_sent(&guest);
    // The same read by itself is virtualized.
    let mut guest = x1(&program(&[load_u32(APIC_ACCESS + 0x80)]));
    guest.launch(10);
    guest.expect_no_exit();
}

// ipi-virtualization.md A4, priority: a fault after the write and before its emulation, delivered
// without an exit, comes first; the emulation comes before the handler's first instruction. With an
// exit there is no emulation.
#[test]
fn emulation_after_a_fault_of_the_same_instruction() {
    const UNMAPPED: u64 = PAGES + 0x2_0000;
    const PAGE_FAULT: u64 = 14;
    let faulting = |low: u64| {
        let guest = enter(0x300, UNMAPPED + low);
        guest.ram().store(PAGE_TABLE + 0x20 * 8, 0_u64);
        // The handler has a stack of its own: IST 1 of the TSS at 0.
        let gate = GUEST_IDT + PAGE_FAULT * 16;
        let old: u64 = guest.ram().load(gate);
        guest.ram().store(gate, old | 1 << 32);
        guest.ram().store(0x24, GUEST_STACK);
        guest
    };
    let mut guest = faulting(0xf2);
    guest.launch(3);
    guest.expect_no_exit();
    assert_eq!(guest.handler(), Some(14));
    assert_eq!(guest.posted(1), [0xf2]);
    // Where the emulation is an exit, the guest is at the handler.
    let mut guest = faulting(0x0f);
    guest.launch(3);
    assert_eq!(guest.expect_exit(R::ApicWrite), 0x300);
    let handler = GUEST_HANDLERS + PAGE_FAULT * 16;
    assert_eq!(guest.get(vmcs::GUEST_RIP), handler);
    nothing_sent(&guest);
    // The fault exits.
    let mut guest = faulting(0xf2);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << PAGE_FAULT);
    guest.launch(3);
    guest.expect_exit(R::ExceptionOrNmi);
    assert_eq!(guest.virtual_apic(0x300), 0xf2, "the page keeps the value");
    nothing_sent(&guest);
}

/// Runs `code` once more from the start; the guest has left with HLT or by an APIC exit before.
fn again(guest: &mut Guest, code: &[u8], launched: &mut bool) -> (u32, u64) {
    guest.store(GUEST_CODE, code);
    guest.set(vmcs::GUEST_RIP, GUEST_CODE);
    guest.set(vmcs::GUEST_ACTIVITY_STATE, 0);
    if *launched {
        guest.resume(10);
    } else {
        guest.launch(10);
        *launched = true;
    }
    assert!(!guest.cpu().vmx.non_root);
    let reason = guest.get(vmcs::EXIT_REASON);
    (reason, guest.get(vmcs::EXIT_QUALIFICATION))
}

/// Which of the controls of SDM 30.4 are 1, besides the TPR shadow.
#[derive(Clone, Copy, Debug)]
struct Virtualized {
    delivery: bool,
    ipis: bool,
    registers: bool,
}

fn all_settings() -> impl Iterator<Item = Virtualized> {
    (0..8).map(|bits| Virtualized {
        delivery: bits & 1 != 0,
        ipis: bits & 2 != 0,
        registers: bits & 4 != 0,
    })
}

fn with(settings: Virtualized) -> Guest {
    let mut guest = x1(&[]);
    guest.add_primary(primary::HLT_EXITING);
    if !settings.delivery {
        guest.remove_secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY);
    }
    if !settings.registers {
        guest.remove_secondary(secondary::APIC_REGISTER_VIRTUALIZATION);
    }
    if !settings.ipis {
        guest.set(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS, 0);
    }
    guest
}

// SDM 30.4.3.1, the whole table: one byte to every page offset with every setting.
#[test]
fn every_page_offset_is_written() {
    const SLOTS: [u64; 17] = [
        0x020, 0x080, 0x0b0, 0x0d0, 0x0e0, 0x0f0, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350,
        0x360, 0x370, 0x380, 0x3e0,
    ];
    for settings in all_settings() {
        let mut guest = with(settings);
        let mut launched = false;
        for offset in (0..0x400_u64).chain([0x400, 0x83f, 0xfff]) {
            let virtualized = offset == 0x080
                || matches!(offset, 0x0b0 | 0x300) && settings.delivery
                || offset == 0x300 && settings.ipis
                || settings.registers && SLOTS.contains(&(offset & !3));
            // 0 in 300H is no command that is virtualized: vector 0.
            let silent = match offset {
                0x080 | 0x310..=0x313 => true,
                0x0b0 => settings.delivery,
                _ => false,
            };
            let expected = match (virtualized, silent) {
                (false, _) => (R::ApicAccess as u32, 0x1000 | offset),
                (true, false) => (R::ApicWrite as u32, offset),
                (true, true) => (R::Hlt as u32, 0),
            };
            let code = program(&[store_u8(APIC_ACCESS + offset, 0)]);
            let got = again(&mut guest, &code, &mut launched);
            assert_eq!(got, expected, "{offset:#x} {settings:?}");
        }
    }
}

// SDM 30.4.2, the whole table.
#[test]
fn every_page_offset_is_read() {
    for settings in all_settings() {
        let mut guest = with(settings);
        let mut launched = false;
        for offset in (0..0x400_u64).chain([0x400, 0x83f, 0xfff]) {
            let slot = offset & !3;
            let register = slot & 15 == 0
                && matches!(slot >> 4, 0x02 | 0x03 | 0x08 | 0x0b | 0x0d..=0x28 | 0x30..=0x38 | 0x3e);
            let virtualized = offset == 0x080
                || matches!(offset, 0x0b0 | 0x300) && settings.delivery
                || settings.registers && register;
            let code = program(&[vec![0x8a, 0x04, 0x25], {
                ((APIC_ACCESS + offset) as u32).to_le_bytes().to_vec()
            }]);
            let expected = if virtualized {
                (R::Hlt as u32, 0)
            } else {
                (R::ApicAccess as u32, offset)
            };
            let got = again(&mut guest, &code, &mut launched);
            assert_eq!(got, expected, "{offset:#x} {settings:?}");
        }
    }
}

// SDM 30.4.3.2: the emulation comes before the other events at the instruction's end, whatever
// RFLAGS.IF and blocking say.
#[test]
fn emulation_precedes_events_and_is_not_blocked() {
    let code = program(&[store_u32(APIC_ACCESS + 0x300, 0x0f)]);
    for (flags, blocking) in [(2, 0), (2, 2), (0x202, 1), (0x202, 2)] {
        let mut guest = x1(&code);
        guest.set(vmcs::GUEST_RFLAGS, flags);
        guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, blocking);
        guest.add_primary(primary::MONITOR_TRAP_FLAG);
        if blocking != 0 {
            guest.add_primary(primary::INTERRUPT_WINDOW_EXITING);
        }
        guest.launch(3);
        assert_eq!(guest.expect_exit(R::ApicWrite), 0x300, "{blocking}");
    }
    // Where the emulation does not exit, the other event follows it.
    let mut guest = x1(&xapic_ipi(1, 0xf1));
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 11);
    guest.set_virtual_apic(0x310, 0x0100_0000);
    guest.add_primary(primary::MONITOR_TRAP_FLAG);
    guest.launch(3);
    guest.expect_exit(R::MonitorTrapFlag);
    assert_eq!(guest.posted(1), [0xf1]);
}

// SDM 30.4.6: page faults and EPT violations of the same access come first; accessed flags are set
// before the exit.
#[test]
fn translation_comes_before_the_apic_access_exit() {
    let entry = PAGE_TABLE + (APIC_ACCESS - PAGES) / 512;
    let code = program(&[store_u32(APIC_ACCESS + 0x390, 1)]);
    let mut guest = x1(&code);
    guest.ram().store(entry, APIC_ACCESS | 5);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << 14);
    guest.launch(3);
    guest.expect_exit(R::ExceptionOrNmi);
    let mut guest = x1(&code);
    guest.with_ept();
    let ept_entry = EPT + 0x3000 + (APIC_ACCESS - PAGES) / 512;
    guest.ram().store(ept_entry, APIC_ACCESS | 0x31);
    guest.launch(3);
    guest.expect_exit(R::EptViolation);
    let mut guest = x1(&code);
    guest.ram().store(entry, APIC_ACCESS | 7);
    guest.launch(3);
    assert_eq!(guest.expect_exit(R::ApicAccess), 0x1390);
    assert_eq!(guest.ram().load::<u64>(entry) & 0x60, 0x60);
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
