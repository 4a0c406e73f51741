//! Which interrupt commands of a guest the processor virtualizes.

use apic::ipi_decision::{
    Controls, IpiDecision, memory_mapped_command, x2apic_command, x2apic_self_ipi,
};

use crate::table::table;

/// With IPI virtualization and virtual-interrupt delivery, as on the machine's own processor.
const CONTROLS: Controls = Controls {
    virtual_interrupt_delivery: true,
    ipi_virtualization: true,
};

/// Commands, as the low half of the interrupt command register has them.
const COMMANDS: &[(&str, u32)] = &[
    ("fixed, to one vCPU by its physical APIC ID", 0x0000_00f1),
    ("the same, with a vector below 16", 0x0000_0005),
    ("fixed, to a logical destination", 0x0000_08f1),
    ("lowest priority", 0x0000_01f1),
    ("shorthand self", 0x0004_00f1),
    ("shorthand all", 0x0008_00f1),
    ("shorthand all but self", 0x000c_00f1),
    ("NMI", 0x0000_0400),
    ("INIT", 0x0000_4500),
    ("start-up", 0x0000_4608),
    ("level-triggered", 0x0000_80f1),
];

fn outcome(decision: IpiDecision) -> &'static str {
    match decision {
        // IPI virtualization tests the vector itself (SDM 30.1.6).
        IpiDecision::VirtualizeIpi { vector: 0..16, .. } | IpiDecision::ApicWriteExit => {
            "one exit of the sender"
        }
        IpiDecision::VirtualizeIpi { .. } | IpiDecision::SelfIpi { .. } => "no exit",
        IpiDecision::GeneralProtection => "#GP",
        IpiDecision::NotVirtualized => panic!("the guest reaches the physical local APIC"),
    }
}

/// Each command, and what it costs.
pub(crate) fn commands() -> String {
    let mut rows: Vec<Vec<String>> = COMMANDS
        .iter()
        .map(|(name, low)| {
            let x2apic = x2apic_command(1 << 32 | u64::from(*low), CONTROLS);
            let xapic = memory_mapped_command(*low, 1 << 24, CONTROLS);
            vec![
                (*name).to_owned(),
                outcome(x2apic).to_owned(),
                outcome(xapic).to_owned(),
            ]
        })
        .collect();
    rows.push(vec![
        "SELF IPI register".to_owned(),
        outcome(x2apic_self_ipi(0xf1, CONTROLS)).to_owned(),
        "there is none".to_owned(),
    ]);
    table(&["command", "x2APIC mode", "xAPIC mode"], rows)
}
