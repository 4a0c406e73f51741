//! A processor rewrites its xAPIC ID: what is sent to the new ID arrives, what is sent to the old
//! one does not. On many processors the register is read-only (SDM 10.4.6 Local APIC ID).

use super::Context;
use crate::image::{
    crew::{Check, check, idle, meet},
    local_apic::fixed,
};
use arch::apic_register::ID;
use core::sync::atomic::Ordering::Relaxed;
use posthaste_guest::{
    command_line::ApicMode,
    vector::{HALTED, UNICAST},
};

pub(super) fn run(context: &Context) -> Option<&'static str> {
    if context.apic.mode() == ApicMode::X2apic {
        return Some("xapic-mode-only");
    }
    // The second rewrites its ID and the first sends, or the first does both.
    let rewriter = context.processors.get(1).unwrap_or(context.processor);
    let old = rewriter.apic_id();
    let highest = context.processors.iter().map(|each| each.apic_id()).max();
    let Some(new) = highest.map(|id| id + 1).filter(|id| *id < 0xff) else {
        return Some("no-free-id");
    };
    let rewrites = rewriter.index() == context.processor.index();
    // Everybody has read the old ID.
    meet().ok()?;

    if rewrites {
        context.apic.write(ID, new << 24);
        let reads = context.apic.id();
        if reads == new {
            rewriter.apic_id.store(new, Relaxed);
        } else {
            check(
                reads == old,
                Check::RewrittenIdReads,
                rewriter.index(),
                reads.into(),
            );
        }
    }
    meet().ok()?;
    let sticks = rewriter.apic_id() == new;
    if context.processor.index() == 0 {
        rewriter.expect(UNICAST, 1);
        context.apic.send(fixed(UNICAST, rewriter.apic_id()));
        context.wait_for(rewriter, UNICAST);
        // Not due: to the ID that nobody has.
        let nobody = if sticks { old } else { new };
        context.apic.send(fixed(HALTED, nobody));
        idle(5000);
    }
    meet().ok()?;
    if rewrites && sticks {
        context.apic.write(ID, old << 24);
        let reads = context.apic.id();
        check(
            reads == old,
            Check::RestoredIdReads,
            rewriter.index(),
            reads.into(),
        );
        rewriter.apic_id.store(old, Relaxed);
    }
    meet().ok()?;
    // Everything works as before: from everyone to the rewriter's ID, one after the other.
    for sender in context.processors {
        if sender.index() == context.processor.index() {
            rewriter.expect(UNICAST, 1);
            context.apic.send(fixed(UNICAST, old));
            context.wait_for(rewriter, UNICAST);
        }
        meet().ok()?;
    }
    (!sticks).then_some("id-read-only")
}
