//! The local APIC, rule by rule.

mod interrupts;
mod modes;
mod registers;
mod timer;

use core::num::NonZeroU32;

use arch::apic_register::SPURIOUS_VECTOR;
use arch::msr::X2APIC_FIRST;

use super::*;

const ENABLE: u64 = 1 << 11;
const EXTD: u64 = 1 << 10;
const PAGE: u64 = 0xfee0_0000;

fn configuration(x2apic_id: u32) -> Configuration {
    Configuration {
        x2apic_id,
        processor: Processor::Application,
        physical_address_width: 39,
        tsc_ticks_per_timer_count: NonZeroU32::new(10).unwrap(),
        shortest_timer_period: 0,
        features: Features::ALL,
    }
}

fn reset(x2apic_id: u32) -> LocalApic<OwnedPage> {
    LocalApic::new(configuration(x2apic_id))
}

/// Software-enabled in xAPIC mode, spurious vector FFH.
fn xapic() -> LocalApic<OwnedPage> {
    let mut apic = reset(3);
    assert_eq!(
        write(&mut apic, SPURIOUS_VECTOR, 0x1ff),
        Effect::IdentityChanged
    );
    apic
}

/// Software-enabled in x2APIC mode.
fn x2apic() -> LocalApic<OwnedPage> {
    let mut apic = xapic();
    assert_eq!(
        apic.write_base(PAGE | ENABLE | EXTD),
        Ok(Effect::BaseChanged)
    );
    apic
}

fn write(apic: &mut LocalApic<OwnedPage>, offset: u32, value: u32) -> Effect {
    apic.write_register(offset, value, 0)
}

fn read(apic: &mut LocalApic<OwnedPage>, offset: u32) -> u32 {
    apic.read_register(offset, 0)
}

fn msr(offset: u32) -> u32 {
    X2APIC_FIRST + (offset >> 4)
}
