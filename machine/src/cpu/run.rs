//! The engine's loop: events, then a block, then events.

use arch::{control_register::rflags, vmx_control::primary};

use super::{
    Cpu, Inhibit,
    block::{Block, Blocks},
    breakpoint::debugctl,
    raise::Pending,
};

/// Why a processor gave control back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its slice is over.
    SliceEnd,
    /// The run was to stop here, in the middle of its slice.
    RunEnd,
    /// It does nothing until an event comes: halted, shut down or waiting for a start-up IPI.
    Idle,
    /// The machine was told to stop.
    MachineStopped,
}

/// Where a slice ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfSlice {
    /// After the last instruction that it has room for.
    Exact,
    /// Before the first block that it has no room for.
    BetweenBlocks,
}

/// What executes instructions. Either gives the same run, instruction for instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The interpreter, on any host.
    Interpreter,
    /// The interpreter, and hot 64-bit code translated to the host's instructions, where the host is
    /// x86-64 and lets the process have executable memory.
    Translator {
        /// Blocks are translated when they have been executed so many times.
        after: u32,
    },
}

impl Engine {
    /// The translator with the threshold that serves best.
    pub const TRANSLATOR: Self = Self::Translator { after: 16 };
}

impl Default for Engine {
    fn default() -> Self {
        Self::TRANSLATOR
    }
}

/// A processor with its decoded instructions.
pub struct Processor {
    /// The processor's state.
    pub cpu: Cpu,
    blocks: Blocks,
    interrupted: Option<Interrupted>,
}

/// Where a run ended inside a block.
#[derive(Clone, Copy)]
struct Interrupted {
    rest: Block,
    rip: u64,
    instructions: u64,
}

impl Processor {
    /// A processor in the given state.
    pub fn new(cpu: Cpu) -> Self {
        Self::with_engine(cpu, Engine::default())
    }

    /// A processor in the given state with a choice of engine.
    pub fn with_engine(cpu: Cpu, engine: Engine) -> Self {
        let processors = cpu.platform.processors();
        Self {
            cpu,
            blocks: Blocks::new(engine, processors),
            interrupted: None,
        }
    }

    /// Blocks that the translator translated so far.
    pub fn translations(&self) -> u64 {
        self.blocks.translations()
    }

    /// Runs until the slice or the run ends, the processor idles or the machine stops.
    pub fn run(&mut self) -> Stop {
        if let Some(interrupted) = self.interrupted.take() {
            self.go_on(interrupted);
        }
        loop {
            if (self.cpu.check_events || self.cpu.attention())
                && let Some(stop) = self.events()
            {
                return stop;
            }
            if self.cpu.remaining() == 0 {
                return self.stop();
            }
            if self.cpu.stepwise {
                self.step();
            } else if let Some(stop) = self.block() {
                return stop;
            }
        }
    }

    /// Why there is no room for another instruction.
    #[cold]
    fn stop(&self) -> Stop {
        if self.cpu.instructions >= self.cpu.slice_end {
            Stop::SliceEnd
        } else {
            Stop::RunEnd
        }
    }

    /// Executes the rest of the block in which the run ended last time, as if it had not.
    #[cold]
    fn go_on(&mut self, interrupted: Interrupted) {
        let changed = self.cpu.check_events
            || self.cpu.attention()
            || self.cpu.rip() != interrupted.rip
            || self.cpu.instructions != interrupted.instructions;
        if !changed {
            self.execute(interrupted.rest);
        }
    }

    fn events(&mut self) -> Option<Stop> {
        // Nothing else happens before a series of exceptions has come to its end.
        while self.cpu.series.is_some() {
            if self.cpu.platform.stopped() {
                return Some(Stop::MachineStopped);
            }
            if self.cpu.remaining() == 0 {
                return Some(self.stop());
            }
            self.cpu.continue_series();
        }
        let stop = self.cpu.process_events();
        while let Some(frame) = self.cpu.stale_code.pop() {
            self.blocks.drop_frame(frame, &mut self.cpu.tlb);
            self.cpu.frames.dropped(frame);
        }
        self.cpu.refresh_alignment_check();
        self.cpu.stepwise = self.cpu.needs_steps();
        stop
    }

    /// Executes one block, or as much of it as there is room for. Gives a reason to leave the loop, if
    /// there is one.
    #[inline(always)]
    fn block(&mut self) -> Option<Stop> {
        let Self { cpu, blocks, .. } = self;
        let block = match blocks.at_rip(cpu) {
            Ok(block) => block,
            Err(_raised) => {
                cpu.fetch_raised();
                return None;
            }
        };
        cpu.leave_block = false;
        if let Some(translated) = blocks.translated(cpu, block) {
            if blocks.run(cpu, translated) {
                cpu.handle_raised();
            }
            return None;
        }
        let room = cpu.slice_end.wrapping_sub(cpu.instructions);
        if cpu.end_of_slice == EndOfSlice::BetweenBlocks && blocks.ops(block).len() as u64 > room {
            return Some(Stop::SliceEnd);
        }
        self.execute(block);
        None
    }

    /// Executes as much of a block as there is room for.
    #[inline(always)]
    fn execute(&mut self, block: Block) {
        let Self { cpu, blocks, .. } = self;
        let ops = blocks.ops(block);
        let room = usize::try_from(cpu.remaining()).unwrap_or(usize::MAX);
        let fits = ops.len() <= room;
        let mask = cpu.rip_mask();
        let mut instructions = cpu.instructions;
        let mut rip = cpu.rip();
        // Within a block control goes straight on, so RIP and the count are known here; they are
        // stored before each instruction for those that look at them.
        for op in ops.iter().take(room) {
            instructions += 1;
            cpu.instructions = instructions;
            cpu.instruction_start = rip;
            rip = rip.wrapping_add(u64::from(op.length)) & mask;
            cpu.set_rip(rip);
            if (op.execute)(cpu, op).is_err() {
                return cpu.handle_raised();
            }
            if cpu.leave_block {
                return;
            }
        }
        if !fits {
            self.cut(block, room);
        }
    }

    /// The slice or the run ends when so many instructions of a block have been executed.
    #[cold]
    fn cut(&mut self, block: Block, executed: usize) {
        let Some(rest) = self.blocks.rest(block, executed) else {
            return;
        };
        if self.cpu.instructions >= self.cpu.slice_end {
            self.blocks.cut_before(rest);
        } else {
            // That the run ends here must not change what is found later.
            self.interrupted = Some(Interrupted {
                rest,
                rip: self.cpu.rip(),
                instructions: self.cpu.instructions,
            });
        }
    }

    /// Executes one instruction where each is followed by something: an interrupt shadow that ends,
    /// a trap, RF that is cleared, a breakpoint or the monitor trap flag that is looked at.
    #[cold]
    #[inline(never)]
    fn step(&mut self) {
        let Self { cpu, blocks, .. } = self;
        let shadowed = cpu.inhibit != Inhibit::None;
        let trapped = cpu.system_flags & rflags::TF != 0;
        let resumed = cpu.system_flags & rflags::RF != 0;
        // SDM 17.4.3 Single-stepping on branches
        let steps_on_branches = cpu.msrs.debugctl & debugctl::BRANCH_TRAP_FLAG != 0;
        cpu.check_events = true;
        cpu.forget_breakpoints_met();
        let block = match blocks.at_rip(cpu) {
            Ok(block) => block,
            Err(_raised) => return cpu.fetch_raised(),
        };
        cpu.inhibit_expires = shadowed;
        cpu.resume_expires = resumed;
        let mut completed = true;
        let mut branched = false;
        if let Some(op) = blocks.ops(block).first() {
            cpu.instructions += 1;
            let start = cpu.rip();
            let next = start.wrapping_add(u64::from(op.length)) & cpu.rip_mask();
            cpu.instruction_start = start;
            cpu.set_rip(next);
            if (op.execute)(cpu, op).is_err() {
                // Between the iterations of a string instruction there is a trap; what delivers an
                // exception instead of completing has none.
                completed = matches!(cpu.pending, Pending::Again);
                // RF covers all iterations (SDM 17.3.1.1).
                cpu.resume_expires &= !completed;
                cpu.handle_raised();
            } else {
                branched = cpu.rip() != next;
            }
        }
        if shadowed && cpu.inhibit_expires {
            cpu.inhibit = Inhibit::None;
        }
        if resumed && cpu.resume_expires {
            cpu.system_flags &= !rflags::RF;
        }
        let stepped = trapped && (branched || !steps_on_branches);
        let due = if completed { cpu.trap_due(stepped) } else { 0 };
        if cpu.vmx.guest.trap.is_some() {
            // SDM 30.4.3.2: APIC-write emulation comes before every other event.
            completed &= crate::vtx::events::complete_before_trap(cpu, due);
        }
        if due != 0 && completed {
            cpu.debug_trap(due);
        }
        cpu.trap_suppressed = false;
    }
}

impl Cpu {
    /// The slice ends at that instruction count, if it did not end before.
    pub fn end_slice_at(&mut self, instructions: u64) {
        if instructions < self.slice_end {
            self.slice_end = instructions;
            self.end_of_slice = EndOfSlice::Exact;
        }
    }

    /// Instructions until the slice or the run ends.
    #[inline(always)]
    pub fn remaining(&self) -> u64 {
        let end = self.slice_end.min(self.run_end);
        end.saturating_sub(self.instructions)
    }

    /// Whether something comes after each iteration of a repeated string instruction: a single step, the
    /// trap of a breakpoint, the exit of the monitor trap flag (SDM 17.3.1.4, 25.5.2).
    #[inline]
    pub(super) fn stops_between_iterations(&self) -> bool {
        self.system_flags & rflags::TF != 0
            || self.breakpoints_enabled()
            || self.vmx.guest.controls.primary(primary::MONITOR_TRAP_FLAG)
    }

    /// Whether something must be done after each instruction. Whatever makes it true has events
    /// looked at, and so this asked, before the next instruction.
    fn needs_steps(&self) -> bool {
        self.inhibit != Inhibit::None
            || self.system_flags & (rflags::TF | rflags::RF) != 0
            || self.single_step
            || self.vmx.guest.controls.primary(primary::MONITOR_TRAP_FLAG)
            || self.breakpoints_enabled()
    }

    /// What there is of RIP: 32 bits outside 64-bit mode, where it wraps at 4 GiB (SDM volume 1,
    /// 3.5 Instruction pointer).
    #[inline(always)]
    fn rip_mask(&self) -> u64 {
        if self.mode_64 {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        }
    }

    /// Deals with a fault of the instruction fetch.
    #[cold]
    fn fetch_raised(&mut self) {
        // It counts as an instruction, so that a processor that does nothing but fault does not
        // stop time.
        self.instructions += 1;
        self.instruction_start = self.rip();
        self.handle_raised();
    }

    /// Deals with the reason why the last instruction did not complete.
    #[cold]
    pub fn handle_raised(&mut self) {
        self.vmx.instruction_length = self.rip().wrapping_sub(self.instruction_start) as u8;
        self.set_rip(self.instruction_start);
        match self.pending {
            Pending::Exception(exception) => {
                self.deliver_exception(exception);
            }
            Pending::VmExit(exit) => crate::vtx::exit(self, exit),
            Pending::Again => {
                self.paused_iteration = Some((self.instructions, self.rip()));
                self.look_at_events();
            }
            Pending::Shutdown => {
                self.activity = super::Activity::Shutdown;
                self.look_at_events();
            }
        }
    }
}
