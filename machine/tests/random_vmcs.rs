//! VMX operation with anything in the VMCS and in the structures that it points to: whatever
//! happens, the host's process neither panics nor hangs.
#![allow(missing_docs, reason = "a test binary has no outside")]
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod hostile;
mod vmx;

use std::sync::atomic::{AtomicU64, Ordering};

use arch::exit::ExitReason;
use arch::interrupt_command::TriggerMode;
use arch::vmcs;
use hostile::for_seeds;
use hostile::instructions::Opcodes;
use hostile::random::Random;
use posthaste_machine::cpu::model::VirtualizationLevel;
use posthaste_machine::cpu::{Activity, Stop};
use posthaste_machine::vtx::vmcs::Component;
use posthaste_machine::vtx::{VmExit, capabilities};
use vmx::*;

const SEEDS: u64 = 6000;
/// VM entries of one case.
const ENTRIES: u64 = 16;
const SLICE: u64 = 120;
/// A block may go on beyond the end of the slice.
const LONGEST_BLOCK: u64 = 64;

/// A page of the structures, or any address.
fn address(random: &mut Random) -> u64 {
    match random.below(10) {
        0..=4 => PAGES + random.below(0x20) * 0x1000,
        5 => EPT + random.below(4) * 0x1000,
        6 => random.pick(&[0xfee0_0000, 0xfec0_0000, 0xbfff_f000, 0x7f_f000, 0x80_0000]),
        7 => random.below(0x80_0000),
        _ => random.value(),
    }
}

fn configure(guest: &mut Guest, random: &mut Random) {
    match random.below(5) {
        0 => {}
        1 => {
            guest.with_x2apic();
        }
        2 => {
            guest.with_xapic();
        }
        3 => {
            guest.with_x2apic().with_posted_interrupts();
        }
        _ => {
            guest.with_xapic().with_posted_interrupts();
        }
    }
    if random.chance(50) {
        guest.with_ept();
        if random.chance(50) {
            guest.add_secondary(arch::vmx_control::secondary::UNRESTRICTED_GUEST);
        }
    }
    if random.chance(50) {
        guest.with_interrupts_enabled();
    }
    // Controls that the processor allows, so that most entries get past the first checks.
    for _ in 0..random.below(4) {
        let model = guest.processor.cpu.model.clone();
        let bit = 1 << random.below(32);
        match random.below(4) {
            0 => guest.add_pin(bit & capabilities::pin_based(&model).may_be_1),
            1 => guest.add_primary(bit & capabilities::primary(&model).may_be_1),
            2 => guest.add_secondary(bit & capabilities::secondary(&model).may_be_1),
            _ => guest.remove_primary(bit & !capabilities::primary(&model).must_be_1),
        };
    }
}

/// Changes a few fields of the VMCS to anything.
fn scramble_fields(guest: &mut Guest, random: &mut Random, fields: u64) {
    for _ in 0..fields {
        let (encoding, _) = vmcs::FIELDS[random.below(vmcs::FIELDS.len() as u64) as usize];
        let model = guest.processor.cpu.model.clone();
        let Some(component) = Component::decode(encoding.into(), &model) else {
            continue;
        };
        let old = component.read(&guest.ram(), VMCS);
        let new = match random.below(5) {
            0 => random.value(),
            1 => address(random),
            2 => random.below(256),
            _ => old ^ 1 << random.below(64),
        };
        component.write(&mut guest.ram(), VMCS, new);
    }
}

/// Puts anything into the bitmaps, tables and pages.
fn scramble_structures(guest: &Guest, random: &mut Random) {
    const STRUCTURES: [u64; 10] = [
        MSR_BITMAP,
        IO_BITMAPS,
        IO_BITMAPS + 0x1000,
        VIRTUAL_APIC,
        DESCRIPTORS,
        PID_POINTERS,
        EPT,
        EPT + 0x1000,
        EPT + 0x3000,
        DATA,
    ];
    let ram = guest.ram();
    for _ in 0..random.below(12) {
        let words = random.pick(&[8, 512]);
        let at = random.pick(&STRUCTURES) + random.below(words) * 8;
        let value = match random.below(4) {
            0 => ram.load::<u64>(at) ^ 1 << random.below(64),
            1 => address(random) | random.below(8),
            _ => random.value(),
        };
        ram.store(at, value);
    }
}

/// Something from outside.
fn interrupt(guest: &Guest, random: &mut Random) {
    let platform = &guest.processor.cpu.platform;
    let mailbox = &platform.inboxes[0].mailbox;
    match random.below(7) {
        0 => mailbox.post_non_maskable(),
        1 => mailbox.post_init(),
        2 => mailbox.post_start_up(random.next() as u8),
        3 => mailbox.set_external_line(random.chance(70)),
        4 => mailbox.post_vector(0xe0, TriggerMode::Edge),
        _ => mailbox.post_vector(random.next() as u8, TriggerMode::Edge),
    };
    platform.wake(0);
}

/// Gives the number of VM entries that succeeded and of guest instructions.
fn run_case(random: &mut Random, opcodes: &[Opcodes; 3]) -> (u64, u64) {
    let level = random.pick(&[
        VirtualizationLevel::IpiVirtualization,
        VirtualizationLevel::IpiVirtualization,
        VirtualizationLevel::IpiVirtualization,
        VirtualizationLevel::PostedInterrupts,
        VirtualizationLevel::Base,
    ]);
    let stream = opcodes[random.below(8).min(2) as usize].stream(random, 0x800);
    let mut guest = Guest::at_level(&stream, level);
    if level == VirtualizationLevel::IpiVirtualization || random.chance(30) {
        configure(&mut guest, random);
    }
    let good: Vec<u64> = (0..512).map(|i| guest.ram().load(VMCS + i * 8)).collect();
    let fields = random.pick(&[0, 0, 1, 1, 2]);
    scramble_fields(&mut guest, random, fields);
    if random.chance(50) {
        scramble_structures(&guest, random);
    }
    for _ in 0..ENTRIES {
        for number in 0..16 {
            guest.cpu().registers[number] = match random.below(4) {
                0 => random.value(),
                1 => random.pick(&[0x830, 0x83f, 0x808, 0x80b, 0x10, 0x1b, 0x6e0]),
                2 => APIC_ACCESS + random.pick(&[0x300, 0x310, 0x80, 0xb0, 0x20, 0xffc, 0x301]),
                _ => address(random),
            };
        }
        if random.chance(30) {
            interrupt(&guest, random);
        }
        let entries = totals(&guest).0;
        if entries == 0 {
            guest.launch(1);
        } else {
            guest.resume(1);
        }
        if totals(&guest).0 == entries {
            // It was not entered: on with the VMCS as it was.
            for (i, word) in (0..).zip(&good).skip(8) {
                guest.ram().store(VMCS + i * 8, *word);
            }
            continue;
        }
        for _ in 0..3 {
            let cpu = guest.cpu();
            cpu.slice_end = cpu.instructions + SLICE;
            cpu.check_events = true;
            let end = cpu.slice_end;
            let stop = guest.processor.run();
            assert!(
                guest.cpu().instructions <= end + LONGEST_BLOCK,
                "the slice ended late"
            );
            if stop == Stop::MachineStopped {
                return totals(&guest);
            }
            interrupt(&guest, random);
            if random.chance(30) {
                scramble_structures(&guest, random);
            }
        }
        let cpu = guest.cpu();
        if cpu.activity == Activity::Shutdown && !cpu.vmx.non_root {
            return totals(&guest);
        }
        if cpu.vmx.non_root {
            let interrupt = VmExit::new(ExitReason::ExternalInterrupt);
            posthaste_machine::vtx::exit(cpu, interrupt);
        }
        if !guest.cpu().vmx.non_root {
            // The host goes on, and lets the guest do so somewhere else.
            guest.set(vmcs::GUEST_RIP, GUEST_CODE + random.below(0x700));
            if random.chance(30) {
                scramble_fields(&mut guest, random, 2);
            }
        }
    }
    totals(&guest)
}

fn totals(guest: &Guest) -> (u64, u64) {
    let counters = guest.processor.cpu.snapshot().counters;
    (counters.entries, counters.guest_instructions)
}

#[test]
fn any_vmcs() {
    let opcodes = [
        Opcodes::of_mode(64),
        Opcodes::of_mode(32),
        Opcodes::of_mode(16),
    ];
    let entries = AtomicU64::new(0);
    let instructions = AtomicU64::new(0);
    for_seeds("any_vmcs", SEEDS, |random| {
        let case = run_case(random, &opcodes);
        entries.fetch_add(case.0, Ordering::Relaxed);
        instructions.fetch_add(case.1, Ordering::Relaxed);
    });
    // Else the cases end at their entry checks and test nothing.
    let (entries, instructions) = (entries.into_inner(), instructions.into_inner());
    println!("any_vmcs: {entries} entries, {instructions} guest instructions");
    assert!(entries > SEEDS && instructions > 4 * SEEDS);
}
