//! Address-range monitoring: MONITOR and MWAIT (SDM 8.10.3 Detecting and using MONITOR/MWAIT instruction
//! support; volume 2).
//!
//! Stores are not watched. A processor that waits compares the line with what it was when it was armed;
//! a store of the value that was there goes unnoticed, so a wait has an end of its own, as MWAIT may
//! have.

use super::{Activity, Cpu, msr, op::Op, paging::Place, raise::Raised, tlb::Access};
use crate::vtx::intercept;

/// Bytes of a monitored line (CPUID.5).
pub const LINE: u64 = 64;
/// Ticks after which a wait ends in any case.
const LONGEST_WAIT: u64 = 1 << 22;

/// The monitoring hardware of a processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monitor {
    armed: Option<Line>,
    /// While the processor waits: the virtual time at which it ends.
    deadline: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// RAM offset.
    place: u64,
    before: [u128; 4],
}

impl Line {
    fn at(cpu: &Cpu, place: u64) -> Self {
        let place = place & !(LINE - 1);
        let before = [0, 16, 32, 48].map(|distance| cpu.ram.load(place + distance));
        Self { place, before }
    }

    fn has_changed(&self, cpu: &Cpu) -> bool {
        Self::at(cpu, self.place).before != self.before
    }
}

impl Monitor {
    /// Nothing is monitored any more (SDM 26.9, 27.5.6 Clearing address-range monitoring).
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the processor waits in MWAIT; it is halted then.
    pub fn is_waiting(&self) -> bool {
        self.deadline.is_some()
    }

    /// When its wait ends in any case.
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }
}

/// #UD where IA32_MISC_ENABLE turns the instructions off, and above CPL 0.
fn permitted(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.msrs.misc_enable & msr::MONITOR != 0 && cpu.cpl == 0 {
        Ok(())
    } else {
        Err(cpu.invalid_opcode())
    }
}

/// #GP(0) for extensions or hints in ECX: CPUID.5 offers none.
fn without_extensions(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.registers[super::register::number::RCX] as u32 == 0 {
        Ok(())
    } else {
        Err(cpu.general_protection(0))
    }
}

/// MONITOR of the byte at RAX in the segment of `op`.
pub fn monitor(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    permitted(cpu)?;
    intercept::check(cpu, intercept::Instruction::Monitor)?;
    without_extensions(cpu)?;
    let offset = cpu.effective_offset(op);
    let _byte: u8 = cpu.read_at(op.segment, offset)?;
    let linear = cpu.linear(op.segment, offset, 1, Access::Read)?;
    let privilege = cpu.privilege();
    // Only write-back memory can be monitored (volume 2, MONITOR).
    cpu.monitor.armed = match cpu.translate(linear, Access::Read, privilege)? {
        Place::Ram(place) => Some(Line::at(cpu, place)),
        Place::Device(_) | Place::ApicAccess(_) => None,
    };
    Ok(())
}

/// MWAIT.
pub fn mwait(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    permitted(cpu)?;
    intercept::mwait(cpu, cpu.monitor.armed.is_some())?;
    without_extensions(cpu)?;
    match cpu.monitor.armed {
        Some(line) if !line.has_changed(cpu) => {
            cpu.monitor.deadline = Some(cpu.now().saturating_add(LONGEST_WAIT));
            cpu.activity = Activity::Halted;
            cpu.heed_timer();
            cpu.look_at_events();
        }
        _ => cpu.monitor.clear(),
    }
    Ok(())
}

impl Cpu {
    /// Whether a processor that waits in MWAIT has something to wake for, interrupts aside.
    pub fn monitor_triggered(&self) -> bool {
        let Some(deadline) = self.monitor.deadline else {
            return false;
        };
        let changed = self
            .monitor
            .armed
            .is_some_and(|line| line.has_changed(self));
        changed || self.now() >= deadline
    }

    /// Between instructions: ends a wait whose time has come.
    pub(super) fn run_monitor(&mut self) {
        if self.activity == Activity::Halted && self.monitor_triggered() {
            self.activity = Activity::Active;
        }
        if self.activity != Activity::Halted && self.monitor.is_waiting() {
            self.monitor.clear();
        }
    }
}
