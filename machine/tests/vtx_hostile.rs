//! Whatever a VMCS, a virtual-APIC page or a guest's code holds, the processor goes on: it fails
//! the entry, leaves the guest or stays in it, and the host process never panics.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::vmcs;
use arch::vmx_control::secondary;
use posthaste_machine::cpu::Activity;
use posthaste_machine::vtx::vmcs::Component;
use vmx::*;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Values that lie near the edges of fields more often than chance has it.
    fn value(&mut self, old: u64) -> u64 {
        match self.next() % 6 {
            0 => old ^ 1 << (self.next() % 64),
            1 => u64::MAX,
            2 => 0,
            3 => 1 << (self.next() % 64),
            4 => self.next() & 0x7f_ffff,
            _ => self.next(),
        }
    }
}

fn build(random: &mut Random) -> Guest {
    let mut code = vec![0; 256];
    for byte in &mut code {
        *byte = random.next() as u8;
    }
    let mut guest = Guest::new(&code);
    match random.next() % 3 {
        0 => guest.with_x2apic().with_posted_interrupts().with_ept(),
        1 => guest.with_xapic().with_posted_interrupts(),
        _ => guest.with_ept(),
    };
    if random.next().is_multiple_of(2) {
        guest.add_secondary(secondary::ENABLE_VPID);
        guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 3);
    }
    guest.with_interrupts_enabled();
    guest
}

#[test]
fn random_vmcs_contents_and_guest_code() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut entered, mut refused) = (0, 0);
    for _ in 0..1500 {
        let mut guest = build(&mut random);
        for _ in 0..random.next() % 4 {
            let choice = random.next() as usize % vmcs::FIELDS.len();
            let (encoding, _) = vmcs::FIELDS[choice];
            let model = guest.cpu().model.clone();
            if let Some(component) = Component::decode(encoding.into(), &model) {
                let value = random.value(component.read(&guest.ram(), VMCS));
                component.write(&mut guest.ram(), VMCS, value);
            }
        }
        // What the guest's controls point to.
        for page in [
            VIRTUAL_APIC,
            DESCRIPTORS,
            PID_POINTERS,
            MSR_BITMAP,
            EPT,
            EPT + 0x3000,
        ] {
            if random.next().is_multiple_of(4) {
                let at = page + random.next() % 4096 & !7;
                let value = random.value(guest.ram().load(at));
                guest.ram().store(at, value);
            }
        }
        guest.launch(1);
        let inside = guest.cpu().vmx.non_root;
        if guest.cpu().counters.entries == 1 {
            entered += 1;
        } else {
            refused += 1;
            assert!(!inside);
            assert!(guest.cpu().vmx.last_violation.is_some());
        }
        for vector in [0xe0, random.next() as u8] {
            let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
            mailbox.post_vector(vector, arch::interrupt_command::TriggerMode::Edge);
            guest.go_on(40);
        }
        let cpu = guest.cpu();
        if !cpu.vmx.non_root && cpu.counters.entries == 1 && cpu.activity == Activity::Active {
            assert_eq!(cpu.counters.total_exits(), 1);
        }
    }
    // Both happen often, or the test says nothing.
    assert!(
        entered > 300 && refused > 300,
        "{entered} entered, {refused} refused"
    );
}
