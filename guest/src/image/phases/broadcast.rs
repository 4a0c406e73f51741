//! Shorthands and the physical broadcast.

use super::Context;
use crate::image::local_apic::fixed;
use arch::interrupt_command::{Shorthand, X2APIC_BROADCAST, XAPIC_BROADCAST};
use posthaste_guest::{command_line::ApicMode, vector::owned};

pub(super) fn run(context: &Context) -> Option<&'static str> {
    let own = context.processor.index();
    let vector = owned(own, 0, context.processors.len())?;
    let everyone = match context.apic.mode() {
        ApicMode::Xapic => XAPIC_BROADCAST,
        ApicMode::X2apic => X2APIC_BROADCAST,
    };
    for _ in 0..(context.rounds / 100).max(1) {
        for (shorthand, to_itself) in [
            (Shorthand::AllIncludingSelf, true),
            (Shorthand::AllExcludingSelf, false),
            // No shorthand: the destination says that it is for all.
            (Shorthand::None, true),
        ] {
            let addressed = || {
                context
                    .processors
                    .iter()
                    .filter(move |target| to_itself || target.index() != own)
            };
            for target in addressed() {
                target.expect(vector, 1);
            }
            let mut command = fixed(vector, everyone);
            command.shorthand = shorthand;
            context.apic.send(command);
            if !addressed().all(|target| context.wait_for(target, vector)) {
                return None;
            }
        }
    }
    None
}
