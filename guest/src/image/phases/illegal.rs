//! Illegal values in the interrupt command register. The boot processor writes, the others
//! listen.

use super::Context;
use crate::image::{
    crew::{Check, check, idle},
    local_apic::fixed,
    processor::Processor,
};
use arch::interrupt_command::{DELIVERY_STATUS, X2APIC_RESERVED};
use posthaste_guest::{command_line::ApicMode, vector::UNICAST};

/// Vectors that may not be sent, and whose exceptions come with no error code, so that a wrong
/// delivery can be counted.
const ILLEGAL_VECTORS: [u8; 4] = [1, 3, 9, 15];
/// Error status: "send illegal vector" (SDM 10.5.3 Error handling).
const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;

pub(super) fn run(context: &Context) -> Option<&'static str> {
    if context.processor.index() != 0 {
        return None;
    }
    // The next, or itself.
    let target = context.partner().unwrap_or(context.processor);
    legal(context, target, 0);
    match context.apic.mode() {
        ApicMode::X2apic => {
            for bit in (0..32).map(|bit| 1 << bit) {
                if u64::from(bit) & X2APIC_RESERVED != 0 {
                    faulting(context, target, bit);
                }
            }
            faulting(context, target, X2APIC_RESERVED as u32);
        }
        ApicMode::Xapic => {
            // Reserved bits are ignored.
            for bit in (0..32).map(|bit| 1 << bit) {
                if u64::from(bit) & X2APIC_RESERVED != 0 {
                    legal(context, target, bit);
                }
            }
        }
    }
    for vector in ILLEGAL_VECTORS {
        illegal_vector(context, target, vector);
    }
    // In xAPIC mode the delivery status is read-only. In x2APIC mode it is no longer a status, but
    // writing it is no error (SDM 10.12.9 ICR operation in x2APIC mode).
    legal(context, target, DELIVERY_STATUS as u32);
    legal(context, target, 0);
    None
}

fn high(context: &Context, target: &Processor) -> u32 {
    context.apic.command_high(target.apic_id())
}

/// Sends with `bits` set as well: it arrives.
fn legal(context: &Context, target: &Processor, bits: u32) {
    target.expect(UNICAST, 1);
    let low = fixed(UNICAST, 0).low() | bits;
    let written = context.apic.write_command(low, high(context, target));
    check(
        written.is_ok(),
        Check::LegalCommandFaults,
        context.processor.index(),
        low.into(),
    );
    context.wait_for(target, UNICAST);
}

/// Sends with `bits` set as well: #GP, the register stays, nothing arrives.
fn faulting(context: &Context, target: &Processor, bits: u32) {
    let own = context.processor.index();
    let before = context.apic.read_command();
    let low = fixed(UNICAST, 0).low() | bits;
    let written = context.apic.write_command(low, high(context, target));
    check(written.is_err(), Check::ReservedBitFaults, own, bits.into());
    let after = context.apic.read_command();
    check(after == before, Check::CommandUnchanged, own, after);
    idle(100);
}

/// Sends a vector below 16: no fault, nothing arrives.
fn illegal_vector(context: &Context, target: &Processor, vector: u8) {
    let own = context.processor.index();
    context.apic.take_errors();
    let low = fixed(vector, 0).low();
    let written = context.apic.write_command(low, high(context, target));
    check(
        written.is_ok(),
        Check::IllegalVectorFaults,
        own,
        vector.into(),
    );
    idle(100);
    let errors = context.apic.take_errors();
    if context.apic.mode() == ApicMode::Xapic {
        check(
            errors & SEND_ILLEGAL_VECTOR != 0,
            Check::IllegalVectorInErrors,
            own,
            errors.into(),
        );
    }
}
