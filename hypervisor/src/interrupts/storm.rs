//! A seeded storm on the host: ports, wakeup lists and the scheduler together, more vCPUs than
//! processors, nothing lost. The processors here are a model: they take their pending physical
//! interrupts when they unmask them, and process posted interrupts for whichever vCPU they have loaded.

use apic::{
    apic_base::ApicMode, mailbox::vectors_of, pid_pointer_table::ApicIdSpace,
    posted_interrupt::Notification,
};

use super::{
    blocking::{SleepOutcome, WakeOn, WakeOutcome, handle_wakeup_vector},
    ipi_dispatch::dispatch_unicast,
    physical_interrupts::{PhysicalInterrupts, VECTORS},
    posting::{Sender, Signal},
    vcpu_port::VcpuState,
    vm_interrupts::{VmInterrupts, bench::identity},
};
use crate::scheduler::{Departure, PlacementAction, ProcessorNumber, Scheduler, VcpuSlot};

/// Posted-interrupt processing by the processor, or an exit for each notification.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hardware {
    Posts,
    Exits,
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % u64::from(bound)) as u32
    }
}

#[derive(Clone, Copy, Default)]
struct Processor {
    current: Option<u32>,
    active: bool,
    wakeup: bool,
    kick: bool,
}

struct Storm {
    vm: VmInterrupts,
    scheduler: Scheduler,
    processors: Vec<Processor>,
    /// `[vcpu][vector]`: posted and not received since.
    outstanding: Vec<[bool; 256]>,
    hardware: Hardware,
    received: u64,
    now: u64,
}

impl Storm {
    fn new(vcpus: u32, processors: u32, hardware: Hardware) -> Self {
        let destinations: Vec<u32> = (0..processors).collect();
        let host = PhysicalInterrupts::new(VECTORS, destinations.into_boxed_slice());
        let vm = VmInterrupts::new(vcpus, host, ApicIdSpace::Xapic, 39).unwrap();
        let mut storm = Self {
            vm,
            scheduler: Scheduler::new(vcpus, processors, 20),
            processors: vec![Processor::default(); processors as usize],
            outstanding: vec![[false; 256]; vcpus as usize],
            hardware,
            received: 0,
            now: 0,
        };
        for vcpu in 0..vcpus {
            let _ = storm.vm.publish(vcpu, &identity(vcpu, ApicMode::X2apic));
            assert_eq!(storm.vm.ports()[vcpu as usize].start(), WakeOutcome::Queue);
            storm.queue(vcpu);
        }
        storm
    }

    fn queue(&mut self, vcpu: u32) {
        let placement = self.scheduler.make_ready(VcpuSlot(vcpu)).unwrap();
        if placement.action == PlacementAction::Interrupt {
            self.processors[placement.processor.0 as usize].kick = true;
        }
    }

    fn act(&mut self, signal: Signal) {
        match signal {
            Signal::None => {}
            Signal::Send(Notification {
                vector,
                destination,
            }) => {
                let target = &mut self.processors[destination as usize];
                match vector {
                    v if v == VECTORS.active => target.active = true,
                    v if v == VECTORS.wakeup => target.wakeup = true,
                    _ => target.kick = true,
                }
            }
            Signal::Queue(vcpu) => self.queue(vcpu),
        }
    }

    fn receive(&mut self, vcpu: u32) -> bool {
        let received = self.vm.ports()[vcpu as usize].receive();
        let mut any = received.events.is_some();
        for vector in vectors_of(received.requests) {
            assert!(
                self.outstanding[vcpu as usize][usize::from(vector)],
                "never sent"
            );
            self.outstanding[vcpu as usize][usize::from(vector)] = false;
            self.received += 1;
            any = true;
        }
        any
    }

    /// What a processor takes when interrupts are unmasked.
    fn take_interrupts(&mut self, p: usize) {
        let pending = core::mem::take(&mut self.processors[p]);
        self.processors[p].current = pending.current;
        if pending.wakeup {
            let mut woken = Vec::new();
            let around = self.vm.around();
            let port_of = |slot: u32| self.vm.port(slot);
            handle_wakeup_vector(p as u32, &around.lists, &around.host, port_of, |slot| {
                woken.push(slot);
            });
            woken.into_iter().for_each(|slot| self.queue(slot));
        }
        if let (true, Some(vcpu)) = (pending.active, pending.current) {
            match self.hardware {
                // SDM 30.6: for the vCPU that is loaded, whoever was meant.
                Hardware::Posts => {
                    let requests = self.vm.ports()[vcpu as usize].view().receive();
                    for vector in vectors_of(requests) {
                        self.outstanding[vcpu as usize][usize::from(vector)] = false;
                        self.received += 1;
                    }
                }
                Hardware::Exits => {
                    self.receive(vcpu);
                }
            }
        }
    }

    fn send(&mut self, p: usize, random: &mut Random) {
        let target = random.below(self.outstanding.len() as u32);
        let vector = 16 + random.below(240);
        let sender = Sender {
            processor: p as u32,
        };
        self.outstanding[target as usize][vector as usize] = true;
        let signal = dispatch_unicast(&self.vm, vector, target, sender).unwrap();
        self.act(signal);
    }

    fn step(&mut self, p: usize, random: &mut Random, sending: bool) {
        self.now += 1;
        let number = ProcessorNumber(p as u32);
        self.take_interrupts(p);
        let Some(vcpu) = self.processors[p].current else {
            if let Some(VcpuSlot(vcpu)) = self.scheduler.pick(number, self.now).unwrap() {
                let around = self.vm.around();
                let _ = self.vm.ports()[vcpu as usize].load(p as u32, &around.host);
                self.processors[p].current = Some(vcpu);
                self.receive(vcpu);
            } else if sending {
                // A device's interrupt, or everybody would soon sleep.
                self.send(p, random);
            }
            return;
        };
        if self.scheduler.slice_is_over(number, self.now) {
            self.vm.ports()[vcpu as usize].preempt();
            self.processors[p].current = None;
            self.scheduler.depart(number, Departure::Preempted).unwrap();
            return;
        }
        if sending && random.below(3) != 0 {
            self.send(p, random);
            return;
        }
        // HLT: receive, then sleep unless something came.
        if self.receive(vcpu) {
            return;
        }
        let around = self.vm.around();
        let port = &self.vm.ports()[vcpu as usize];
        let outcome = port.block(p as u32, WakeOn::Interrupts, &around.lists, &around.host);
        if outcome == SleepOutcome::Asleep {
            self.processors[p].current = None;
            self.scheduler.depart(number, Departure::Waiting).unwrap();
        }
    }

    fn run(&mut self, seed: u64) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let processors = self.processors.len() as u32;
        for _ in 0..2000 {
            let p = random.below(processors) as usize;
            self.step(p, &mut random, true);
        }
        for round in 0.. {
            assert!(round < 10_000, "seed {seed}: it never comes to rest");
            for p in 0..processors as usize {
                self.step(p, &mut random, false);
            }
            let asleep = |port: &super::vcpu_port::VcpuPort| {
                matches!(port.state(), VcpuState::Blocked { .. })
            };
            let quiet = self.processors.iter().all(|p| !p.wakeup && !p.active);
            if quiet && self.vm.ports().iter().all(asleep) {
                break;
            }
        }
        for (vcpu, vectors) in self.outstanding.iter().enumerate() {
            let lost = vectors.iter().filter(|outstanding| **outstanding).count();
            assert_eq!(
                lost, 0,
                "seed {seed}: vcpu {vcpu} sleeps with interrupts outstanding"
            );
        }
        assert!(self.received > 100, "seed {seed}: it was a storm");
    }
}

#[test]
fn nothing_is_lost_in_200_seeds_with_more_vcpus_than_processors() {
    for hardware in [Hardware::Posts, Hardware::Exits] {
        let mut migrations = 0;
        for seed in 1..=200 {
            let mut storm = Storm::new(8, 3, hardware);
            storm.run(seed);
            migrations += storm.scheduler.migrations();
        }
        assert!(migrations > 0, "vCPUs moved between processors");
    }
}

#[test]
fn nothing_is_lost_when_each_vcpu_has_its_processor() {
    for hardware in [Hardware::Posts, Hardware::Exits] {
        for seed in 1..=50 {
            let mut storm = Storm::new(4, 4, hardware);
            storm.run(seed);
            assert_eq!(storm.scheduler.migrations(), 0);
        }
    }
}
