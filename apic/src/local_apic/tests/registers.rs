use super::*;
use arch::apic_register::{
    ARBITRATION_PRIORITY, END_OF_INTERRUPT, ERROR_STATUS, INTERRUPT_COMMAND,
    INTERRUPT_COMMAND_HIGH, PROCESSOR_PRIORITY, REMOTE_READ, SELF_IPI, TASK_PRIORITY,
    TIMER_CURRENT_COUNT, TIMER_DIVIDE, TIMER_INITIAL_COUNT,
};
use arch::interrupt_command::{
    DeliveryMode, DestinationMode, InterruptCommand, Shorthand, TriggerMode,
};

fn errors(apic: &mut LocalApic<OwnedPage>) -> u32 {
    let _ = write(apic, ERROR_STATUS, 0);
    read(apic, ERROR_STATUS)
}

const XAPIC_REGISTERS: [(u32, char); 27] = [
    (ID, 'b'),
    (VERSION, 'r'),
    (TASK_PRIORITY, 'b'),
    (ARBITRATION_PRIORITY, 'r'),
    (PROCESSOR_PRIORITY, 'r'),
    (END_OF_INTERRUPT, 'w'),
    (REMOTE_READ, 'r'),
    (LOGICAL_DESTINATION, 'b'),
    (DESTINATION_FORMAT, 'b'),
    (SPURIOUS_VECTOR, 'b'),
    (0x100, 'r'),
    (0x180, 'r'),
    (0x200, 'r'),
    (0x270, 'r'),
    (ERROR_STATUS, 'b'),
    (LVT_CMCI, 'b'),
    (INTERRUPT_COMMAND, 'b'),
    (INTERRUPT_COMMAND_HIGH, 'b'),
    (LVT_TIMER, 'b'),
    (LVT_THERMAL, 'b'),
    (LVT_PERFORMANCE, 'b'),
    (LVT_LINT0, 'b'),
    (LVT_LINT1, 'b'),
    (LVT_ERROR, 'b'),
    (TIMER_INITIAL_COUNT, 'b'),
    (TIMER_CURRENT_COUNT, 'r'),
    (TIMER_DIVIDE, 'b'),
];

#[test]
fn reserved_offsets_are_illegal_register_errors() {
    for offset in (0..0x1000).step_by(4) {
        let known = XAPIC_REGISTERS.iter().any(|(known, _)| *known == offset)
            || (0x100..0x280).contains(&offset) && offset % 16 == 0;
        let expected = if known { 0 } else { 0x80 };
        let mut apic = xapic();
        assert!(read(&mut apic, offset) == 0 || known, "{offset:#x}");
        assert_eq!(errors(&mut apic), expected, "read {offset:#x}");
        let mut apic = xapic();
        let effect = write(&mut apic, offset, 0x50);
        assert!(known || effect == Effect::PriorityChanged);
        assert_eq!(errors(&mut apic), expected, "write {offset:#x}");
    }
}

#[test]
fn read_only_registers_ignore_writes_of_the_page() {
    for (offset, access) in XAPIC_REGISTERS {
        if access == 'r' {
            let mut apic = xapic();
            let before = read(&mut apic, offset);
            assert_eq!(write(&mut apic, offset, 0xffff_ffff), Effect::None);
            assert_eq!(read(&mut apic, offset), before, "{offset:#x}");
        }
    }
}

#[test]
fn reserved_bits_of_the_page_fall_away() {
    for (offset, expected) in [
        (ID, 0xff00_0000),
        (TASK_PRIORITY, 0xff),
        (LOGICAL_DESTINATION, 0xff00_0000),
        (DESTINATION_FORMAT, 0xffff_ffff),
        (SPURIOUS_VECTOR, 0x11ff),
        (LVT_CMCI, 0x1_07ff),
        (LVT_TIMER, 0x7_00ff),
        (LVT_THERMAL, 0x1_07ff),
        (LVT_PERFORMANCE, 0x1_07ff),
        (LVT_LINT0, 0x1_a7ff),
        (LVT_LINT1, 0x1_a7ff),
        (LVT_ERROR, 0x1_00ff),
        (INTERRUPT_COMMAND, 0x000c_cfff),
        (INTERRUPT_COMMAND_HIGH, 0xff00_0000),
        (TIMER_INITIAL_COUNT, 0xffff_ffff),
        (TIMER_DIVIDE, 0xb),
    ] {
        let mut apic = xapic();
        let _ = write(&mut apic, offset, 0xffff_ffff);
        assert_eq!(read(&mut apic, offset), expected, "{offset:#x}");
    }
    let mut apic = xapic();
    let _ = write(&mut apic, DESTINATION_FORMAT, 0);
    assert_eq!(read(&mut apic, DESTINATION_FORMAT), 0x0fff_ffff);
}

/// SDM 10.12.1.2 and 10.12.1.3, every register of the range and every bit.
#[test]
fn x2apic_access_and_reserved_bits() {
    let writable = |offset| -> Option<u64> {
        Some(match offset {
            TASK_PRIORITY | SELF_IPI => 0xff,
            END_OF_INTERRUPT | ERROR_STATUS => 0,
            SPURIOUS_VECTOR => 0x11ff,
            LVT_CMCI | LVT_THERMAL | LVT_PERFORMANCE => 0x1_57ff,
            LVT_TIMER => 0x7_50ff,
            LVT_LINT0 | LVT_LINT1 => 0x1_f7ff,
            LVT_ERROR => 0x1_50ff,
            INTERRUPT_COMMAND => 0xffff_ffff_000c_dfff,
            TIMER_INITIAL_COUNT => 0xffff_ffff,
            TIMER_DIVIDE => 0xb,
            _ => return None,
        })
    };
    for offset in (0..0x1000).step_by(16) {
        let readable = matches!(offset,
            ID
            | VERSION
            | TASK_PRIORITY
            | PROCESSOR_PRIORITY
            | LOGICAL_DESTINATION
            | SPURIOUS_VECTOR
            | 0x100..0x280
            | ERROR_STATUS
            | LVT_CMCI
            | INTERRUPT_COMMAND
            | LVT_TIMER..=TIMER_CURRENT_COUNT
            | TIMER_DIVIDE);
        assert_eq!(
            x2apic().read_msr(msr(offset), 0).is_ok(),
            readable,
            "read {offset:#x}"
        );
        let bits = writable(offset);
        let zero = x2apic().write_msr(msr(offset), 0, 0);
        assert_eq!(zero.is_ok(), bits.is_some(), "write {offset:#x}");
        for bit in 0..64 {
            let legal = bits.is_some_and(|bits| bits >> bit & 1 != 0);
            let mut apic = x2apic();
            let result = apic.write_msr(msr(offset), 1 << bit, 0);
            assert_eq!(result.is_ok(), legal, "{offset:#x} bit {bit}");
        }
    }
    // Timer mode 11b.
    assert_eq!(
        x2apic().write_msr(msr(LVT_TIMER), 0x6_0041, 0),
        Err(GeneralProtection)
    );
}

#[test]
fn xapic_commands() {
    let mut apic = xapic();
    assert_eq!(
        write(&mut apic, INTERRUPT_COMMAND_HIGH, 0x02ff_ffff),
        Effect::None
    );
    let command = InterruptCommand {
        vector: 0xf1,
        delivery_mode: DeliveryMode::LowestPriority,
        destination_mode: DestinationMode::Logical,
        assert: true,
        trigger_mode: TriggerMode::Level,
        shorthand: Shorthand::AllExcludingSelf,
        destination: 2,
    };
    assert_eq!(
        write(&mut apic, INTERRUPT_COMMAND, 0xffff_d9f1),
        Effect::SendInterrupt(command)
    );
    assert_eq!(
        read(&mut apic, INTERRUPT_COMMAND),
        0x000c_c9f1,
        "bit 12 is never busy"
    );
    assert_eq!(read(&mut apic, INTERRUPT_COMMAND_HIGH), 0x0200_0000);
}

/// Prior-art B5 #1: hardware leaves bit 12 in VICR; a physical local APIC reads it as 0.
#[test]
fn x2apic_busy_bit_neither_faults_nor_stays() {
    let mut apic = x2apic();
    let effect = apic
        .write_msr(msr(INTERRUPT_COMMAND), 0x1_0001_0000_10f1, 0)
        .unwrap();
    let Effect::SendInterrupt(command) = effect else {
        panic!("{effect:?}");
    };
    assert_eq!((command.vector, command.destination), (0xf1, 0x1_0001));
    assert_eq!(
        apic.read_msr(msr(INTERRUPT_COMMAND), 0),
        Ok(0x1_0001_0000_00f1)
    );
    apic.page_mut().write(INTERRUPT_COMMAND, 0x10f1);
    assert_eq!(
        apic.read_msr(msr(INTERRUPT_COMMAND), 0),
        Ok(0x1_0001_0000_00f1)
    );
}

/// Prior-art B5 #2: the reserved bits fault here as under IPI virtualization.
#[test]
fn x2apic_reserved_command_bits_fault_and_change_nothing() {
    let mut apic = x2apic();
    assert!(
        apic.write_msr(msr(INTERRUPT_COMMAND), 0x1_0000_00f1, 0)
            .is_ok()
    );
    for bit in [13, 16, 17, 20, 31] {
        let value = 0x2_0000_0041 | 1 << bit;
        assert_eq!(
            apic.write_msr(msr(INTERRUPT_COMMAND), value, 0),
            Err(GeneralProtection)
        );
        assert_eq!(apic.read_msr(msr(INTERRUPT_COMMAND), 0), Ok(0x1_0000_00f1));
    }
}

#[test]
fn self_ipi_is_a_fixed_command_to_oneself() {
    let mut apic = x2apic();
    let Ok(Effect::SendInterrupt(command)) = apic.write_msr(msr(SELF_IPI), 0x41, 0) else {
        panic!();
    };
    assert_eq!(command.vector, 0x41);
    assert_eq!(command.shorthand, Shorthand::SelfOnly);
    assert_eq!(command.delivery_mode, DeliveryMode::Fixed);
    assert_eq!(command.trigger_mode, TriggerMode::Edge);
}

#[test]
fn errors_show_after_a_write_and_only_once() {
    let mut apic = xapic();
    let _ = write(&mut apic, LVT_ERROR, 0x52);
    assert!(matches!(
        write(&mut apic, INTERRUPT_COMMAND, 0x0f),
        Effect::SendInterrupt(_)
    ));
    assert_eq!(read(&mut apic, ERROR_STATUS), 0, "not yet latched");
    assert_eq!(apic.acknowledge(), Some(0x52), "the error interrupt");
    assert_eq!(
        apic.accept(0x0f, TriggerMode::Edge),
        Acceptance::IllegalVector
    );
    assert_eq!(errors(&mut apic), 0x60);
    assert_eq!(read(&mut apic, ERROR_STATUS), 0x60);
    assert_eq!(errors(&mut apic), 0);
}

#[test]
fn illegal_vectors_are_errors_of_fixed_and_lowest_priority_only() {
    for (mode, expected) in [(0, 0x20), (1, 0x20), (2, 0), (4, 0), (5, 0), (6, 0)] {
        let mut apic = xapic();
        let _ = write(&mut apic, INTERRUPT_COMMAND, 0x400f | mode << 8);
        assert_eq!(errors(&mut apic), expected, "mode {mode}");
    }
}

/// SDM 10.5.3: who sends an illegal vector to itself also receives it.
#[test]
fn an_illegal_self_ipi_is_both_errors_at_once() {
    let mut apic = xapic();
    let _ = write(&mut apic, LVT_ERROR, 0x52);
    let effect = write(&mut apic, INTERRUPT_COMMAND, 0x4_400f);
    assert_eq!(effect, Effect::PriorityChanged, "there is nothing to send");
    assert_eq!(apic.deliverable(), Some(0x52));
    assert_eq!(errors(&mut apic), 0x60);
    // Its other forms.
    for (register, value) in [(INTERRUPT_COMMAND, 0x4_400f), (SELF_IPI, 0x0f)] {
        let mut apic = x2apic();
        let effect = apic.write_msr(msr(register), value, 0);
        assert_eq!(effect, Ok(Effect::PriorityChanged));
        assert!(apic.write_msr(msr(ERROR_STATUS), 0, 0).is_ok());
        assert_eq!(apic.read_msr(msr(ERROR_STATUS), 0), Ok(0x60));
    }
    // A software-disabled local APIC does not receive it.
    let mut apic = reset(3);
    let _ = write(&mut apic, INTERRUPT_COMMAND, 0x4_400f);
    assert_eq!(errors(&mut apic), 0x20);
    // Nor does anybody a combination that is not valid.
    let mut apic = xapic();
    let _ = write(&mut apic, INTERRUPT_COMMAND, 0x4_410f);
    assert_eq!(errors(&mut apic), 0x20);
}

/// SDM 10.5.3, bit 6: "generated locally from the local vector table".
#[test]
fn an_illegal_vector_of_the_table_is_an_error_when_it_is_generated() {
    for (source, entry) in [
        (LocalVector::Timer, 0x0f),
        (LocalVector::Thermal, 0x0f),
        (LocalVector::Performance, 0x0f),
        (LocalVector::Lint0, 0x800f),
        (LocalVector::Lint1, 0x0f),
    ] {
        let mut apic = xapic();
        let _ = write(&mut apic, source.offset(), entry);
        assert_eq!(errors(&mut apic), 0, "{source:?}");
        let _ = apic.signal(source);
        assert_eq!(errors(&mut apic), 0x40, "{source:?}");
        assert_eq!(apic.deliverable(), None);
    }
}

#[test]
fn lowest_priority_commands_can_be_absent() {
    let mut absent = configuration(0);
    absent.features.lowest_priority_commands = false;
    let mut apic = LocalApic::new(absent);
    assert_eq!(
        write(&mut apic, INTERRUPT_COMMAND, 0x410f),
        Effect::PriorityChanged
    );
    assert_eq!(errors(&mut apic), 0x10);
}

#[test]
fn an_illegal_error_vector_does_not_recurse() {
    let mut apic = xapic();
    let _ = write(&mut apic, LVT_ERROR, 0x05);
    let _ = read(&mut apic, 0x40);
    assert_eq!(errors(&mut apic), 0xc0);
    assert_eq!(apic.deliverable(), None);
}
