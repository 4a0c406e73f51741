//! vCPUs on processors: who runs where, for how long, and whom to interrupt about it.
//!
//! A plain state machine without clock, lock or randomness: the caller holds a spin lock around each
//! call, passes the time, and sends the interrupt that a [`Placement`] asks for. The same calls in
//! the same order give the same schedule.
//!
//! With no more vCPUs than processors each vCPU has a processor of its own and never leaves it, so
//! there is no tick. With more, each processor runs its queue round robin, a time slice each; a vCPU
//! that wakes up goes to an idle processor if there is one, and an idle processor takes work from
//! the longest queue.
//!
//! A vCPU goes to sleep in two steps: its port says so to the senders, then its processor lets go of it
//! here. A sender may wake it in between; the wakeup is remembered and the departure puts it into the queue.

use alloc::{collections::VecDeque, vec::Vec};

/// A vCPU by its number in the system, the same as its slot in the wakeup lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuSlot(pub u32);

/// A processor by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessorNumber(pub u32);

/// How vCPUs share processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each vCPU owns the processor of its number.
    Pinned,
    /// Queues and a time slice.
    TimeSliced {
        /// In the unit of the caller's clock.
        slice: u64,
    },
}

/// Where a vCPU that became ready was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the processor may have to be interrupted"]
pub struct Placement {
    /// The processor whose queue has it now.
    pub processor: ProcessorNumber,
    /// What the caller does.
    pub action: PlacementAction,
}

/// What a placement asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementAction {
    /// The processor is idle or has to arm its slice timer: interrupt it (nothing to do if it is the
    /// caller's own; it looks at the queue before it idles or resumes).
    Interrupt,
    /// The processor will come to it by itself.
    None,
}

/// What became of the vCPU that a processor ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It could run on: to the end of this processor's queue.
    Preempted,
    /// It waits for something (blocked, wait-for-SIPI, stopped); [`Scheduler::make_ready`] brings it
    /// back.
    Waiting,
}

/// A mistake of the caller; the state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerError {
    /// No such processor.
    NoSuchProcessor(ProcessorNumber),
    /// No such vCPU.
    NoSuchVcpu(VcpuSlot),
    /// The vCPU is queued, or running and woken, already.
    AlreadyReady(VcpuSlot),
    /// The processor runs nothing.
    NothingRuns(ProcessorNumber),
}

impl core::fmt::Display for SchedulerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoSuchProcessor(p) => write!(f, "there is no processor {}", p.0),
            Self::NoSuchVcpu(v) => write!(f, "there is no vcpu {}", v.0),
            Self::AlreadyReady(v) => write!(f, "vcpu {} is queued already", v.0),
            Self::NothingRuns(p) => write!(f, "processor {} runs no vcpu", p.0),
        }
    }
}

impl core::error::Error for SchedulerError {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Waiting,
    Queued,
    Running,
    /// Woken before its processor let go of it.
    RunningAndWoken,
}

#[derive(Debug)]
struct Entry {
    place: Where,
    /// The processor it ran on last, where its caches may still be warm.
    last: ProcessorNumber,
}

#[derive(Debug, Default)]
struct Queue {
    running: Option<(VcpuSlot, u64)>,
    ready: VecDeque<VcpuSlot>,
}

/// The state of all processors and vCPUs.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
    vcpus: Vec<Entry>,
    processors: Vec<Queue>,
    migrations: u64,
}

impl Scheduler {
    /// A scheduler for `vcpus` vCPUs, all waiting, on `processors` processors, at least one. `slice`
    /// matters only when there are more vCPUs than processors.
    pub fn new(vcpus: u32, processors: u32, slice: u64) -> Self {
        let processors = processors.max(1);
        let policy = if vcpus <= processors {
            Policy::Pinned
        } else {
            Policy::TimeSliced {
                slice: slice.max(1),
            }
        };
        Self {
            policy,
            vcpus: (0..vcpus)
                .map(|i| Entry {
                    place: Where::Waiting,
                    last: ProcessorNumber(i % processors),
                })
                .collect(),
            processors: (0..processors).map(|_| Queue::default()).collect(),
            migrations: 0,
        }
    }

    /// How vCPUs share processors.
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// How often a vCPU was put on another processor than the one it ran on last.
    pub const fn migrations(&self) -> u64 {
        self.migrations
    }

    /// A waiting vCPU can run: it was created and is to start, or it was woken up. For the one party
    /// that its port gave it to (`WakeOutcome::Queue`, `Signal::Queue`).
    ///
    /// # Errors
    /// No such vCPU, or it was made ready already.
    pub fn make_ready(&mut self, vcpu: VcpuSlot) -> Result<Placement, SchedulerError> {
        let entry = self
            .vcpus
            .get_mut(vcpu.0 as usize)
            .ok_or(SchedulerError::NoSuchVcpu(vcpu))?;
        let last = entry.last;
        match entry.place {
            Where::Waiting => {}
            Where::Running => {
                entry.place = Where::RunningAndWoken;
                return Ok(Placement {
                    processor: last,
                    action: PlacementAction::None,
                });
            }
            Where::Queued | Where::RunningAndWoken => {
                return Err(SchedulerError::AlreadyReady(vcpu));
            }
        }
        let processor = self.home_for(last);
        self.put(vcpu, processor)
    }

    fn put(
        &mut self,
        vcpu: VcpuSlot,
        processor: ProcessorNumber,
    ) -> Result<Placement, SchedulerError> {
        let queue = self
            .processors
            .get_mut(processor.0 as usize)
            .ok_or(SchedulerError::NoSuchProcessor(processor))?;
        let entry = self
            .vcpus
            .get_mut(vcpu.0 as usize)
            .ok_or(SchedulerError::NoSuchVcpu(vcpu))?;
        // Idle: it sleeps. First to wait behind a running vCPU: the slice timer is not armed yet.
        let action = if queue.ready.is_empty() {
            PlacementAction::Interrupt
        } else {
            PlacementAction::None
        };
        queue.ready.push_back(vcpu);
        entry.place = Where::Queued;
        Ok(Placement { processor, action })
    }

    /// The last processor if nothing is there, else the first idle one, else the last processor.
    fn home_for(&self, last: ProcessorNumber) -> ProcessorNumber {
        let idle = |queue: &Queue| queue.running.is_none() && queue.ready.is_empty();
        if self.policy == Policy::Pinned || self.processors.get(last.0 as usize).is_some_and(idle) {
            return last;
        }
        self.processors
            .iter()
            .position(idle)
            .map_or(last, |number| ProcessorNumber(number as u32))
    }

    /// The processor has no vCPU and asks for one: the head of its queue, else one from the longest
    /// queue. `None`: idle until an interrupt.
    ///
    /// # Errors
    /// No such processor.
    pub fn pick(
        &mut self,
        processor: ProcessorNumber,
        now: u64,
    ) -> Result<Option<VcpuSlot>, SchedulerError> {
        let own = self
            .processors
            .get_mut(processor.0 as usize)
            .ok_or(SchedulerError::NoSuchProcessor(processor))?;
        if let Some((running, _)) = own.running {
            return Ok(Some(running));
        }
        let picked = match own.ready.pop_front() {
            Some(vcpu) => Some(vcpu),
            None if self.policy == Policy::Pinned => None,
            None => self.steal(),
        };
        let Some(vcpu) = picked else {
            return Ok(None);
        };
        let slice = match self.policy {
            Policy::Pinned => u64::MAX,
            Policy::TimeSliced { slice } => slice,
        };
        if let Some(entry) = self.vcpus.get_mut(vcpu.0 as usize) {
            if entry.last != processor {
                self.migrations = self.migrations.saturating_add(1);
            }
            entry.place = Where::Running;
            entry.last = processor;
        }
        if let Some(own) = self.processors.get_mut(processor.0 as usize) {
            own.running = Some((vcpu, now.saturating_add(slice)));
        }
        Ok(Some(vcpu))
    }

    /// The vCPU that waited longest in the longest queue behind a running vCPU.
    fn steal(&mut self) -> Option<VcpuSlot> {
        let victim = self
            .processors
            .iter()
            .enumerate()
            .filter(|(_, queue)| queue.running.is_some() && !queue.ready.is_empty())
            .max_by_key(|(number, queue)| (queue.ready.len(), core::cmp::Reverse(*number)))?
            .0;
        self.processors.get_mut(victim)?.ready.pop_front()
    }

    /// The processor's vCPU leaves it. Another processor may pick it at once, so its VMCS must be clear
    /// and its registers saved before, unless the policy is [`Policy::Pinned`].
    ///
    /// # Errors
    /// No such processor, or it runs nothing.
    pub fn depart(
        &mut self,
        processor: ProcessorNumber,
        departure: Departure,
    ) -> Result<VcpuSlot, SchedulerError> {
        let queue = self
            .processors
            .get_mut(processor.0 as usize)
            .ok_or(SchedulerError::NoSuchProcessor(processor))?;
        let (vcpu, _) = queue
            .running
            .take()
            .ok_or(SchedulerError::NothingRuns(processor))?;
        if let Some(entry) = self.vcpus.get_mut(vcpu.0 as usize) {
            entry.place = match (departure, entry.place) {
                (Departure::Waiting, Where::Running) => Where::Waiting,
                _ => {
                    queue.ready.push_back(vcpu);
                    Where::Queued
                }
            };
        }
        Ok(vcpu)
    }

    /// When the running vCPU's slice ends: `None` while nobody waits for the processor, so no timer
    /// is needed.
    pub fn slice_end(&self, processor: ProcessorNumber) -> Option<u64> {
        let queue = self.processors.get(processor.0 as usize)?;
        match queue.running {
            Some((_, end)) if !queue.ready.is_empty() => Some(end),
            _ => None,
        }
    }

    /// Whether the running vCPU must give way now.
    pub fn slice_is_over(&self, processor: ProcessorNumber, now: u64) -> bool {
        self.slice_end(processor).is_some_and(|end| now >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(scheduler: &mut Scheduler, vcpu: u32) -> (u32, PlacementAction) {
        let placement = scheduler.make_ready(VcpuSlot(vcpu)).unwrap();
        (placement.processor.0, placement.action)
    }

    fn picked(scheduler: &mut Scheduler, processor: u32, now: u64) -> Option<u32> {
        scheduler
            .pick(ProcessorNumber(processor), now)
            .unwrap()
            .map(|v| v.0)
    }

    #[test]
    fn as_many_processors_as_vcpus_pins_and_needs_no_timer() {
        let mut s = Scheduler::new(3, 4, 100);
        assert_eq!(s.policy(), Policy::Pinned);
        for vcpu in 0..3 {
            assert_eq!(placed(&mut s, vcpu), (vcpu, PlacementAction::Interrupt));
        }
        assert_eq!(picked(&mut s, 3, 0), None, "does not steal");
        for vcpu in 0..3 {
            assert_eq!(picked(&mut s, vcpu, 0), Some(vcpu));
            assert_eq!(s.slice_end(ProcessorNumber(vcpu)), None);
        }
        assert_eq!(
            s.depart(ProcessorNumber(1), Departure::Waiting),
            Ok(VcpuSlot(1))
        );
        assert_eq!(placed(&mut s, 1), (1, PlacementAction::Interrupt));
        assert_eq!(s.migrations(), 0);
    }

    #[test]
    fn round_robin_with_a_slice_each() {
        let mut s = Scheduler::new(3, 1, 100);
        assert_eq!(placed(&mut s, 0), (0, PlacementAction::Interrupt));
        assert_eq!(picked(&mut s, 0, 10), Some(0));
        assert_eq!(s.slice_end(ProcessorNumber(0)), None, "nobody waits");
        assert_eq!(
            placed(&mut s, 1),
            (0, PlacementAction::Interrupt),
            "the timer must be armed"
        );
        assert_eq!(placed(&mut s, 2), (0, PlacementAction::None));
        assert_eq!(s.slice_end(ProcessorNumber(0)), Some(110));
        assert!(!s.slice_is_over(ProcessorNumber(0), 109));
        assert!(s.slice_is_over(ProcessorNumber(0), 110));
        let mut order = Vec::new();
        for now in 2..8 {
            s.depart(ProcessorNumber(0), Departure::Preempted).unwrap();
            order.push(picked(&mut s, 0, now * 100).unwrap());
        }
        assert_eq!(order, [1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_wakeup_goes_to_the_last_processor_if_idle_else_to_an_idle_one() {
        let mut s = Scheduler::new(4, 3, 100);
        for vcpu in 0..3 {
            let _ = placed(&mut s, vcpu);
            assert_eq!(picked(&mut s, vcpu, 0), Some(vcpu));
        }
        s.depart(ProcessorNumber(2), Departure::Waiting).unwrap();
        // vCPU 3's last processor (0) is busy, 2 is idle.
        assert_eq!(placed(&mut s, 3), (2, PlacementAction::Interrupt));
        assert_eq!(picked(&mut s, 2, 0), Some(3));
        assert_eq!(s.migrations(), 1);
        // vCPU 2's last processor is busy, none is idle: it queues there.
        assert_eq!(placed(&mut s, 2), (2, PlacementAction::Interrupt));
        s.depart(ProcessorNumber(2), Departure::Waiting).unwrap();
        assert_eq!(picked(&mut s, 2, 0), Some(2), "its own, without migration");
        assert_eq!(s.migrations(), 1);
    }

    #[test]
    fn an_idle_processor_takes_from_the_longest_queue() {
        let mut s = Scheduler::new(6, 2, 100);
        for vcpu in 0..6 {
            let _ = placed(&mut s, vcpu);
        }
        assert_eq!(picked(&mut s, 0, 0), Some(0));
        assert_eq!(picked(&mut s, 1, 0), Some(1));
        for _ in 0..3 {
            s.depart(ProcessorNumber(1), Departure::Waiting).unwrap();
            assert!(picked(&mut s, 1, 0).is_some());
        }
        let running = s.depart(ProcessorNumber(1), Departure::Waiting).unwrap();
        assert_ne!(running, VcpuSlot(0));
    }

    #[test]
    fn no_vcpu_is_lost_or_run_twice_whatever_happens() {
        let mut state = 12345u64;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut s = Scheduler::new(8, 3, 10);
        let mut waiting: Vec<u32> = (0..8).collect();
        let mut running: [Option<u32>; 3] = [None; 3];
        for now in 0..20_000 {
            let p = random(3) as usize;
            let number = ProcessorNumber(p as u32);
            match random(4) {
                0 if !waiting.is_empty() => {
                    let vcpu = waiting.swap_remove(random(waiting.len() as u64) as usize);
                    let placement = s.make_ready(VcpuSlot(vcpu)).unwrap();
                    let target = placement.processor.0 as usize;
                    if running[target].is_none() && s.processors[target].ready.len() == 1 {
                        assert_eq!(placement.action, PlacementAction::Interrupt);
                    }
                    assert_eq!(
                        s.make_ready(VcpuSlot(vcpu)),
                        Err(SchedulerError::AlreadyReady(VcpuSlot(vcpu)))
                    );
                }
                1 if running[p].is_some() => {
                    let left = s.depart(number, Departure::Waiting).unwrap();
                    assert_eq!(running[p].take(), Some(left.0));
                    waiting.push(left.0);
                }
                2 if running[p].is_some() => {
                    let left = s.depart(number, Departure::Preempted).unwrap();
                    assert_eq!(running[p].take(), Some(left.0));
                }
                _ => {
                    let got = s.pick(number, now).unwrap().map(|v| v.0);
                    if let Some(before) = running[p] {
                        assert_eq!(got, Some(before));
                    } else if let Some(vcpu) = got {
                        assert!(!running.contains(&Some(vcpu)), "runs twice");
                        assert!(!waiting.contains(&vcpu), "runs while waiting");
                        running[p] = Some(vcpu);
                    }
                }
            }
            let queued: usize = s.processors.iter().map(|q| q.ready.len()).sum();
            assert_eq!(queued + waiting.len() + running.iter().flatten().count(), 8);
        }
    }

    /// Its port was woken by another processor before this one let go of it.
    #[test]
    fn a_wakeup_between_sleep_and_departure_is_not_lost() {
        for (vcpus, processors) in [(1, 1), (3, 1)] {
            let mut s = Scheduler::new(vcpus, processors, 100);
            let _ = placed(&mut s, 0);
            assert_eq!(picked(&mut s, 0, 0), Some(0));
            assert_eq!(placed(&mut s, 0), (0, PlacementAction::None));
            assert_eq!(
                s.make_ready(VcpuSlot(0)),
                Err(SchedulerError::AlreadyReady(VcpuSlot(0)))
            );
            s.depart(ProcessorNumber(0), Departure::Waiting).unwrap();
            assert_eq!(picked(&mut s, 0, 0), Some(0));
            s.depart(ProcessorNumber(0), Departure::Waiting).unwrap();
            assert_eq!(picked(&mut s, 0, 0), None, "once");
        }
    }

    #[test]
    fn mistakes_are_errors() {
        let mut s = Scheduler::new(2, 1, 0);
        assert_eq!(s.policy(), Policy::TimeSliced { slice: 1 });
        assert_eq!(
            s.make_ready(VcpuSlot(2)),
            Err(SchedulerError::NoSuchVcpu(VcpuSlot(2)))
        );
        assert_eq!(
            s.pick(ProcessorNumber(1), 0),
            Err(SchedulerError::NoSuchProcessor(ProcessorNumber(1)))
        );
        assert_eq!(
            s.depart(ProcessorNumber(0), Departure::Waiting),
            Err(SchedulerError::NothingRuns(ProcessorNumber(0)))
        );
        assert_eq!(s.slice_end(ProcessorNumber(7)), None);
    }
}
