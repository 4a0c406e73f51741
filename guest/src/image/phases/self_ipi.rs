//! A processor to itself, by each of the ways.

use super::Context;
use crate::image::{
    crew::{Check, Waiting, check, wait_until},
    instruction::{disable_interrupts, enable_interrupts, fence, write_msr},
    local_apic::fixed,
};
use arch::{interrupt_command::Shorthand, msr::IA32_X2APIC_SELF_IPI};
use posthaste_guest::{command_line::ApicMode, vector::SELF};

pub(super) fn run(context: &Context) -> Option<&'static str> {
    let own = context.processor;
    for _ in 0..(context.rounds / 20).max(1) {
        for way in Way::ALL {
            if let Some(vector) = way.send(context, way.vector())
                && !context.wait_for(own, vector)
            {
                return None;
            }
        }
    }
    for way in Way::ALL {
        in_order_of_priority(context, way);
    }
    None
}

/// How a processor reaches itself.
#[derive(Clone, Copy)]
enum Way {
    /// The self-IPI register, x2APIC mode only (SDM 10.12.11 SELF IPI register).
    Register,
    /// The shorthand "self".
    Shorthand,
    /// Its own APIC ID.
    OwnId,
}

impl Way {
    const ALL: [Self; 3] = [Self::Register, Self::Shorthand, Self::OwnId];

    const fn vector(self) -> u8 {
        SELF[self as usize]
    }

    /// Notes that `vector` is due and sends it; `None` where this way does not exist.
    fn send(self, context: &Context, vector: u8) -> Option<u8> {
        let own = context.processor;
        let mut command = fixed(vector, own.apic_id());
        match (self, context.apic.mode()) {
            (Self::Register, ApicMode::Xapic) => return None,
            (Self::Register, ApicMode::X2apic) => {
                own.expect(vector, 1);
                fence();
                write_msr(IA32_X2APIC_SELF_IPI, u64::from(vector));
                return Some(vector);
            }
            (Self::Shorthand, _) => command.shorthand = Shorthand::SelfOnly,
            (Self::OwnId, _) => {}
        }
        own.expect(vector, 1);
        context.apic.send(command);
        Some(vector)
    }
}

/// With IF 0 they wait in IRR; with IF 1 they come, highest first (SDM 10.8.3 Interrupt, task, and
/// processor priority).
fn in_order_of_priority(context: &Context, way: Way) {
    const VECTORS: [u8; 4] = [0x71, 0x94, 0x93, 0x62];
    const BY_PRIORITY: [u8; 4] = [0x94, 0x93, 0x71, 0x62];
    let own = context.processor;
    disable_interrupts();
    own.clear_order();
    let before = VECTORS.map(|vector| own.received(vector));
    let mut sent = false;
    for vector in VECTORS {
        sent |= way.send(context, vector).is_some();
    }
    if sent {
        let pending = wait_until(Waiting::Politely, || {
            VECTORS
                .iter()
                .all(|vector| context.apic.is_requested(*vector))
        });
        check(pending, Check::PendingWhileMasked, own.index(), way as u64);
        check(
            VECTORS.map(|vector| own.received(vector)) == before,
            Check::DeliveredWhileMasked,
            own.index(),
            way as u64,
        );
    }
    enable_interrupts();
    if sent {
        for vector in VECTORS {
            if !context.wait_for(own, vector) {
                return;
            }
        }
        check(
            own.order_is(&BY_PRIORITY),
            Check::PriorityOrder,
            own.index(),
            way as u64,
        );
    }
}
