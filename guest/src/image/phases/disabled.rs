//! A processor disables its local APIC for a while, by the spurious-interrupt vector register and by
//! IA32_APIC_BASE: the first holds what is pending, what is sent meanwhile is not accepted, and afterwards
//! everything works as before (SDM 10.4.7.2 Local APIC State After It Has Been Software Disabled, 10.4.3).

use super::Context;
use crate::image::{
    crew::{Check, Missing, Waiting, check, idle, meet, wait_until},
    instruction::{disable_interrupts, enable_interrupts, fence, read_msr, write_msr},
    local_apic::{LocalApic, fixed},
    processor::Processor,
};
use arch::{
    apic_register::{SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE},
    interrupt_command::{DeliveryMode, Shorthand, X2APIC_BROADCAST, XAPIC_BROADCAST},
    msr::{IA32_APIC_BASE, IA32_X2APIC_SELF_IPI, apic_base},
};
use posthaste_guest::{
    command_line::ApicMode,
    vector::{self, HALTED, MERGED, NMI, SELF, UNICAST},
};

pub(super) fn run(context: &Context) -> Option<&'static str> {
    // The second disables and the first sends, or the first does both.
    let target = context.processors.get(1).unwrap_or(context.processor);
    if context.processor.index() == target.index() {
        holds_what_is_pending(context);
    }
    for way in [Way::Software, Way::Global] {
        if while_disabled(context, target, way).is_err() {
            break;
        }
    }
    None
}

/// How a local APIC is disabled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Bit 8 of the spurious-interrupt vector register is 0.
    Software,
    /// Bit 11 of IA32_APIC_BASE is 0.
    Global,
}

impl Way {
    fn disable(self, apic: LocalApic) {
        match self {
            Self::Software => apic.write(SPURIOUS_VECTOR, u32::from(vector::SPURIOUS)),
            Self::Global => {
                let enabled = apic_base::ENABLE | apic_base::EXTD;
                write_msr(IA32_APIC_BASE, read_msr(IA32_APIC_BASE) & !enabled);
            }
        }
    }

    fn enable(self, apic: LocalApic, own: &Processor) {
        match self {
            Self::Software => apic.write(
                SPURIOUS_VECTOR,
                SPURIOUS_VECTOR_ENABLE | u32::from(vector::SPURIOUS),
            ),
            Self::Global => {
                LocalApic::enable(apic.mode(), own);
            }
        }
    }
}

/// From itself, so that it is in IRR for certain when the local APIC is disabled.
fn holds_what_is_pending(context: &Context) {
    let (apic, own) = (context.apic, context.processor);
    let is_requested = || apic.is_requested(MERGED);
    disable_interrupts();
    own.expect(MERGED, 1);
    apic.send(fixed(MERGED, own.apic_id()));
    if wait_until(Waiting::Politely, is_requested) {
        Way::Software.disable(apic);
        check(is_requested(), Check::HeldWhileDisabled, own.index(), 0);
        Way::Software.enable(apic, own);
        check(is_requested(), Check::HeldWhileDisabled, own.index(), 1);
    }
    enable_interrupts();
    context.wait_for(own, MERGED);
}

fn while_disabled(context: &Context, target: &Processor, way: Way) -> Result<(), Missing> {
    let own = context.processor;
    let is_target = own.index() == target.index();
    let sends = own.index() == 0;
    if is_target {
        way.disable(context.apic);
    }
    meet()?;
    // A local APIC that is disabled globally sends nothing.
    if sends && !(is_target && way == Way::Global) {
        send_to_all(context, target);
    }
    if sends && !is_target && way == Way::Software {
        target.expect(NMI, 1);
        let mut command = fixed(0, target.apic_id());
        command.delivery_mode = DeliveryMode::Nmi;
        context.apic.send(command);
        context.wait_for(target, NMI);
    }
    meet()?;
    if is_target {
        if way == Way::Software {
            send_to_itself(context);
        }
        // What should not come gets a chance to.
        idle(5000);
        way.enable(context.apic, own);
    }
    meet()?;
    // From everyone, one after the other.
    for sender in context.processors {
        if sender.index() == own.index() {
            target.expect(UNICAST, 1);
            context.apic.send(fixed(UNICAST, target.apic_id()));
            context.wait_for(target, UNICAST);
        }
        meet()?;
    }
    Ok(())
}

/// Fixed interrupts that the target does not accept: to it alone, and to others too.
fn send_to_all(context: &Context, target: &Processor) {
    context.apic.send(fixed(UNICAST, target.apic_id()));
    let others = |but: usize| {
        context
            .processors
            .iter()
            .filter(move |each| each.index() != target.index() && each.index() != but)
    };
    let everyone = match context.apic.mode() {
        ApicMode::Xapic => XAPIC_BROADCAST,
        ApicMode::X2apic => X2APIC_BROADCAST,
    };
    others(usize::MAX).for_each(|each| {
        each.expect(MERGED, 1);
    });
    context.apic.send(fixed(MERGED, everyone));
    let own = context.processor.index();
    others(own).for_each(|each| {
        each.expect(HALTED, 1);
    });
    let mut command = fixed(HALTED, 0);
    command.shorthand = Shorthand::AllExcludingSelf;
    context.apic.send(command);
    let _ = others(usize::MAX).all(|each| context.wait_for(each, MERGED));
    let _ = others(own).all(|each| context.wait_for(each, HALTED));
}

/// By each of the ways; none is due.
fn send_to_itself(context: &Context) {
    let [register, shorthand, own_id] = SELF;
    context
        .apic
        .send(fixed(own_id, context.processor.apic_id()));
    let mut command = fixed(shorthand, 0);
    command.shorthand = Shorthand::SelfOnly;
    context.apic.send(command);
    if context.apic.mode() == ApicMode::X2apic {
        fence();
        write_msr(IA32_X2APIC_SELF_IPI, u64::from(register));
    }
}
