//! The phases. Every processor runs the same function; what is due is noted before it is sent.

mod broadcast;
pub(in crate::image) mod compute;
mod disabled;
mod halted;
mod illegal;
mod logical;
mod nmi;
mod self_ipi;
mod storm;
mod timer;
mod tpr;
mod unicast;
mod xapic_id;

use super::{
    crew::{Waiting, wait_until},
    local_apic::LocalApic,
    processor::Processor,
};
use posthaste_guest::phase::Phase;

/// What a processor knows in a phase.
pub(super) struct Context {
    /// Its local APIC.
    pub(super) apic: LocalApic,
    /// Itself.
    pub(super) processor: &'static Processor,
    /// All.
    pub(super) processors: &'static [Processor],
    /// Unicast ping-pongs of each pair; the other phases scale with it.
    pub(super) rounds: u32,
    /// Seed of the pseudo-random choices.
    pub(super) seed: u64,
}

impl Context {
    /// The other of the pair (0,1), (2,3), ...; the last of an odd number has none.
    fn partner(&self) -> Option<&'static Processor> {
        self.processors.get(self.processor.index() ^ 1)
    }

    /// Waits until `target` has got all of `vector` that is due to it.
    fn wait_for(&self, target: &Processor, vector: u8) -> bool {
        wait_until(Waiting::Politely, || {
            target.received(vector) >= target.due(vector)
        })
    }
}

/// Runs a phase on this processor. The boot processor's note goes into the report.
pub(super) fn run(phase: Phase, context: &Context) -> Option<&'static str> {
    match phase {
        Phase::Unicast => unicast::run(context),
        Phase::Halted => halted::run(context),
        Phase::Storm => storm::run(context),
        Phase::SelfIpi => self_ipi::run(context),
        Phase::Logical => logical::run(context),
        Phase::Broadcast => broadcast::run(context),
        Phase::Nmi => nmi::run(context),
        Phase::Lowest => logical::run_lowest_priority(context),
        Phase::Tpr => tpr::run(context),
        Phase::Illegal => illegal::run(context),
        Phase::XapicId => xapic_id::run(context),
        Phase::Disabled => disabled::run(context),
        Phase::Timer => timer::run(context),
        Phase::Compute => compute::run(context),
    }
}
