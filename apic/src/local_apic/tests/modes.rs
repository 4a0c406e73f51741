use super::*;
use arch::apic_register::{
    DESTINATION_FORMAT, ERROR_STATUS, ID, INTERRUPT_COMMAND_HIGH, LOGICAL_DESTINATION,
    LVT_PERFORMANCE, LVT_THERMAL, TASK_PRIORITY, TIMER_DIVIDE, TIMER_INITIAL_COUNT, VERSION,
};
use arch::interrupt_command::TriggerMode;

fn assert_reset_registers(apic: &mut LocalApic<OwnedPage>) {
    for (offset, value) in [
        (VERSION, 0x0106_0014),
        (TASK_PRIORITY, 0),
        (LOGICAL_DESTINATION, 0),
        (DESTINATION_FORMAT, 0xffff_ffff),
        (SPURIOUS_VECTOR, 0xff),
        (ERROR_STATUS, 0),
        (0x300, 0),
        (INTERRUPT_COMMAND_HIGH, 0),
        (LVT_CMCI, 0x1_0000),
        (LVT_TIMER, 0x1_0000),
        (LVT_THERMAL, 0x1_0000),
        (LVT_PERFORMANCE, 0x1_0000),
        (LVT_LINT0, 0x1_0000),
        (LVT_LINT1, 0x1_0000),
        (LVT_ERROR, 0x1_0000),
        (TIMER_INITIAL_COUNT, 0),
        (TIMER_DIVIDE, 0),
    ] {
        assert_eq!(read(apic, offset), value, "{offset:#x}");
    }
    for offset in (0x100..0x280).step_by(16) {
        assert_eq!(read(apic, offset), 0, "{offset:#x}");
    }
    assert_eq!(apic.timer_deadline(), None);
}

/// Everything that reset undoes.
fn disturb(apic: &mut LocalApic<OwnedPage>) {
    for (offset, value) in [
        (LOGICAL_DESTINATION, 0xff00_0000),
        (DESTINATION_FORMAT, 0),
        (SPURIOUS_VECTOR, 0x1aa),
        (LVT_TIMER, 0x2_0041),
        (LVT_LINT0, 0x8050),
        (LVT_ERROR, 0x52),
        (TIMER_DIVIDE, 0xb),
        (TIMER_INITIAL_COUNT, 100),
        (INTERRUPT_COMMAND_HIGH, 0x0500_0000),
        (0x300, 0x05),
        (TASK_PRIORITY, 0x20),
    ] {
        let _ = write(apic, offset, value);
    }
    apic.accept(0x61, TriggerMode::Level);
    assert_eq!(apic.acknowledge(), Some(0x61));
    apic.accept(0x62, TriggerMode::Level);
    let _ = apic.signal(LocalVector::Lint0);
}

#[test]
fn power_up_and_reset() {
    let mut apic = reset(0x1_0023);
    assert_eq!(apic.base().value(), PAGE | ENABLE);
    assert_eq!(read(&mut apic, ID), 0x2300_0000);
    assert_reset_registers(&mut apic);
    disturb(&mut apic);
    let _ = write(&mut apic, ID, 0x7700_0000);
    apic.reset();
    assert_eq!(read(&mut apic, ID), 0x2300_0000);
    assert_reset_registers(&mut apic);
    assert_eq!(apic.deliverable(), None);
}

/// MultiProcessor Specification 3.6.2.2.
#[test]
fn virtual_wire_mode_passes_the_8259_until_init() {
    let mut apic = reset(3);
    assert!(!apic.passes_external_interrupts());
    apic.enter_virtual_wire_mode();
    assert!(apic.passes_external_interrupts());
    assert!(apic.identity().software_enabled);
    for (offset, value) in [
        (SPURIOUS_VECTOR, 0x10f),
        (LVT_LINT0, 0x700),
        (LVT_LINT1, 0x400),
    ] {
        assert_eq!(read(&mut apic, offset), value, "{offset:#x}");
    }
    assert_eq!(apic.signal(LocalVector::Lint1), LocalInterrupt::NonMaskable);
    apic.init();
    assert_reset_registers(&mut apic);
    assert!(!apic.passes_external_interrupts());
}

#[test]
fn init_keeps_the_mode_and_the_id() {
    let mut apic = reset(3);
    disturb(&mut apic);
    let _ = write(&mut apic, ID, 0x7700_0000);
    apic.init();
    assert_eq!(apic.mode(), ApicMode::Xapic);
    assert_eq!(read(&mut apic, ID), 0x7700_0000);
    assert_reset_registers(&mut apic);

    let mut apic = x2apic();
    assert!(apic.write_msr(msr(0x300), 0x5_0000_00f1, 0).is_ok());
    apic.init();
    assert_eq!(apic.mode(), ApicMode::X2apic);
    assert_eq!(apic.read_msr(msr(ID), 0), Ok(3));
    assert_eq!(apic.read_msr(msr(LOGICAL_DESTINATION), 0), Ok(8));
    assert_eq!(apic.read_msr(msr(SPURIOUS_VECTOR), 0), Ok(0xff));
    assert_eq!(apic.read_msr(msr(0x300), 0), Ok(0));

    let mut apic = reset(3);
    assert_eq!(apic.write_base(PAGE), Ok(Effect::BaseChanged));
    apic.init();
    assert_eq!(apic.mode(), ApicMode::Disabled);
}

#[test]
fn to_x2apic_keeps_all_but_id_logical_id_and_command_high() {
    let mut apic = reset(0x1_0023);
    let _ = write(&mut apic, SPURIOUS_VECTOR, 0x1aa);
    let _ = write(&mut apic, ID, 0x7700_0000);
    let _ = write(&mut apic, LOGICAL_DESTINATION, 0x0800_0000);
    let _ = write(&mut apic, LVT_LINT1, 0x400);
    let _ = write(&mut apic, INTERRUPT_COMMAND_HIGH, 0x0500_0000);
    apic.accept(0x61, TriggerMode::Edge);
    assert_eq!(apic.identity().xapic_id, 0x77);
    assert_eq!(
        apic.write_base(PAGE | ENABLE | EXTD),
        Ok(Effect::BaseChanged)
    );
    for (offset, value) in [
        (ID, 0x1_0023),
        // Cluster 1002H, member 3.
        (LOGICAL_DESTINATION, 0x1002_0008),
        (SPURIOUS_VECTOR, 0x1aa),
        (LVT_LINT1, 0x400),
        (0x300, 0),
    ] {
        assert_eq!(apic.read_msr(msr(offset), 0), Ok(value), "{offset:#x}");
    }
    assert_eq!(apic.deliverable(), Some(0x61));
    let identity = apic.identity();
    assert_eq!(identity.mode, ApicMode::X2apic);
    assert_eq!(
        (identity.x2apic_id, identity.logical_destination),
        (0x1_0023, 0x1002_0008)
    );
    assert!(identity.software_enabled);
}

/// Also prior-art B5 #5: the ID after leaving x2APIC mode is the reset one, not a remnant.
#[test]
fn through_the_disabled_state_everything_is_lost_but_the_id() {
    let mut apic = x2apic();
    apic.accept(0x61, TriggerMode::Edge);
    assert_eq!(apic.write_base(PAGE | ENABLE), Err(GeneralProtection));
    assert_eq!(apic.mode(), ApicMode::X2apic, "a fault changes nothing");
    assert_eq!(apic.deliverable(), Some(0x61));
    assert_eq!(apic.write_base(PAGE), Ok(Effect::BaseChanged));
    assert_eq!(apic.deliverable(), None);
    assert!(!apic.identity().software_enabled);
    assert_eq!(apic.accept(0x62, TriggerMode::Edge), Acceptance::Ignored);
    assert_eq!(
        apic.write_base(PAGE | ENABLE | EXTD),
        Err(GeneralProtection)
    );
    assert_eq!(apic.write_base(PAGE | ENABLE), Ok(Effect::BaseChanged));
    assert_eq!(read(&mut apic, ID), 0x0300_0000);
    assert_reset_registers(&mut apic);
    assert_eq!(
        apic.write_base(PAGE | ENABLE),
        Ok(Effect::None),
        "the same value"
    );
}

#[test]
fn the_wrong_interface_is_closed() {
    let mut apic = xapic();
    assert_eq!(apic.read_msr(msr(ID), 0), Err(GeneralProtection));
    assert_eq!(
        apic.write_msr(msr(TASK_PRIORITY), 0, 0),
        Err(GeneralProtection)
    );
    let mut apic = x2apic();
    assert_eq!(read(&mut apic, ID), 0);
    assert_eq!(write(&mut apic, TASK_PRIORITY, 0x50), Effect::None);
    assert_eq!(apic.task_priority(), 0);
    for number in [0x7ff, 0x900] {
        assert_eq!(apic.read_msr(number, 0), Err(GeneralProtection));
    }
}

#[test]
fn features_show_in_the_version_register() {
    let mut plain = configuration(0);
    plain.features.end_of_interrupt_suppression = false;
    plain.features.corrected_machine_check = false;
    plain.features.x2apic = false;
    let mut apic = LocalApic::new(plain);
    assert_eq!(read(&mut apic, VERSION), 0x0005_0014);
    let _ = write(&mut apic, SPURIOUS_VECTOR, 0x11ff);
    assert_eq!(read(&mut apic, SPURIOUS_VECTOR), 0x1ff);
    assert_eq!(
        apic.write_base(PAGE | ENABLE | EXTD),
        Err(GeneralProtection)
    );
}
