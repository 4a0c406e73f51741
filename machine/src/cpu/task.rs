//! Hardware task switches outside IA-32e mode (SDM chapter 7 Task management).

use arch::control_register::{cr0, cr4, rflags};
use arch::exception as vector;

use super::{
    Cpu,
    descriptor::{Descriptor, LOCAL, RPL, SystemType, is_null},
    op,
    raise::{Exception, Raised},
    register::number::RAX,
    segment::{Segment, register, rights},
    stack_frame::{Item, StackFrame},
    tlb::Privilege,
};
use crate::vtx::intercept;

/// DR6.BT: the new task has its debug trap flag set.
const DEBUG_TASK_SWITCH: u64 = 1 << 15;

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitch {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// IRET with NT set.
    Return,
    /// A task gate in the IDT.
    Gate,
}

/// Where a TSS of either size keeps what a switch moves.
struct Layout {
    word: Item,
    cr3: Option<u64>,
    instruction_pointer: u64,
    flags: u64,
    registers: u64,
    segments: u64,
    segment_count: u8,
    local_table: u64,
    lowest_limit: u32,
}

// SDM 7.2.1 Task-state segment (TSS)
const TSS_32: Layout = Layout {
    word: Item::Doubleword,
    cr3: Some(28),
    instruction_pointer: 32,
    flags: 36,
    registers: 40,
    segments: 72,
    segment_count: 6,
    local_table: 96,
    lowest_limit: 103,
};

// SDM 7.6 16-bit task-state segment (TSS)
const TSS_16: Layout = Layout {
    word: Item::Word,
    cr3: None,
    instruction_pointer: 14,
    flags: 16,
    registers: 18,
    segments: 34,
    segment_count: 4,
    local_table: 42,
    lowest_limit: 43,
};

fn layout(kind: SystemType) -> &'static Layout {
    match kind {
        SystemType::AvailableTss16 | SystemType::BusyTss16 => &TSS_16,
        _ => &TSS_32,
    }
}

/// The registers of the task that is entered, read before anything is changed.
struct NewTask {
    cr3: u64,
    instruction_pointer: u64,
    flags: u64,
    registers: [u64; 8],
    segments: [u16; 6],
    local_table: u16,
    debug_trap: bool,
}

impl Cpu {
    pub(super) fn deliver_through_task_gate(
        &mut self,
        event: &Exception,
        selector: u16,
    ) -> Result<(), Raised> {
        self.switch_task(selector, TaskSwitch::Gate)?;
        if let Some(code) = event.error_code {
            let wide = self.tr.rights & 8 != 0;
            let item = if wide { Item::Doubleword } else { Item::Word };
            let mut frame = StackFrame::current(self);
            frame.push(self, item, &[code.into()])?;
            frame.commit(self);
        }
        Ok(())
    }

    /// Switches to the task whose TSS `selector` names (SDM 7.3 Task switching). Privilege to do so
    /// has been checked.
    pub fn switch_task(&mut self, selector: u16, how: TaskSwitch) -> Result<(), Raised> {
        // SDM 7.3: the back link of IRET raises #TS where the others raise #GP.
        let complaint = match how {
            TaskSwitch::Return => vector::INVALID_TSS,
            _ => vector::GENERAL_PROTECTION,
        };
        if selector & LOCAL != 0 || is_null(selector) {
            return Err(self.selector_fault(complaint, selector));
        }
        let descriptor = self.descriptor(selector, complaint)?;
        let kind = match (descriptor.system_type(), how) {
            (Some(kind @ (SystemType::BusyTss | SystemType::BusyTss16)), TaskSwitch::Return) => {
                kind
            }
            (
                Some(kind @ (SystemType::AvailableTss | SystemType::AvailableTss16)),
                TaskSwitch::Jump | TaskSwitch::Call | TaskSwitch::Gate,
            ) => kind,
            _ => return Err(self.selector_fault(complaint, selector)),
        };
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::SEGMENT_NOT_PRESENT, selector));
        }
        let new_layout = layout(kind);
        let new_tss = descriptor.segment();
        if new_tss.limit < new_layout.lowest_limit {
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        }
        // SDM 25.4.2: these checks come before the VM exit. Whether a page fault of a TSS does depends on the
        // processor; here it does not.
        let source = match how {
            TaskSwitch::Jump => intercept::TaskSwitch::Jump,
            TaskSwitch::Call => intercept::TaskSwitch::Call,
            TaskSwitch::Return => intercept::TaskSwitch::Iret,
            TaskSwitch::Gate => intercept::TaskSwitch::Gate,
        };
        intercept::task_switch(self, selector, source)?;
        let task = self.read_task(&new_tss, new_layout)?;
        self.probe_switch(&descriptor, &new_tss, how)?;
        self.leave_task(how)?;
        if matches!(how, TaskSwitch::Call | TaskSwitch::Gate) {
            let link = self.tr.selector;
            self.write_system(new_tss.base, link)?;
        }
        if how != TaskSwitch::Return {
            self.set_busy(&descriptor)?;
        }
        self.enter_task(&task, new_tss, new_layout, how)
    }

    fn read_task(&mut self, tss: &Segment, layout: &Layout) -> Result<NewTask, Raised> {
        let word = layout.word.size();
        let mut task = NewTask {
            cr3: self.cr3,
            instruction_pointer: self.read_word(tss, layout, layout.instruction_pointer)?,
            flags: self.read_word(tss, layout, layout.flags)?,
            registers: [0; 8],
            segments: [0; 6],
            local_table: self.read_word(tss, layout, layout.local_table)? as u16,
            debug_trap: false,
        };
        for (i, register) in (0..).zip(&mut task.registers) {
            *register = self.read_word(tss, layout, layout.registers + i * word)?;
        }
        for i in 0..layout.segment_count {
            let at = layout.segments + u64::from(i) * word;
            task.segments[usize::from(i % 6)] = self.read_word(tss, layout, at)? as u16;
        }
        if let Some(at) = layout.cr3 {
            task.cr3 = self.read_word(tss, layout, at)?;
            let trap: u16 = self.read_system(tss.base.wrapping_add(100))?;
            task.debug_trap = trap & 1 != 0;
        }
        Ok(task)
    }

    fn read_word(&mut self, tss: &Segment, layout: &Layout, at: u64) -> Result<u64, Raised> {
        let linear = tss.base.wrapping_add(at);
        Ok(match layout.word {
            Item::Word => self.read_system::<u16>(linear)?.into(),
            _ => self.read_system::<u32>(linear)?.into(),
        })
    }

    fn write_word(
        &mut self,
        tss: &Segment,
        layout: &Layout,
        at: u64,
        value: u64,
    ) -> Result<(), Raised> {
        let linear = tss.base.wrapping_add(at);
        match layout.word {
            Item::Word => self.write_system(linear, value as u16),
            _ => self.write_system(linear, value as u32),
        }
    }

    /// All that a switch writes is writable before anything is written (SDM 7.3, step 7).
    fn probe_switch(
        &mut self,
        descriptor: &Descriptor,
        new_tss: &Segment,
        how: TaskSwitch,
    ) -> Result<(), Raised> {
        let probe = |cpu: &mut Self, linear: u64| {
            cpu.probe_linear::<u8>(linear, op::FLAT, Privilege::Supervisor)
        };
        let layout = self.current_layout();
        let saved = [
            layout.instruction_pointer,
            layout.segments + u64::from(layout.segment_count) * layout.word.size() - 1,
        ];
        for at in saved {
            probe(self, self.tr.base.wrapping_add(at))?;
        }
        if matches!(how, TaskSwitch::Call | TaskSwitch::Gate) {
            probe(self, new_tss.base)?;
        }
        if how != TaskSwitch::Return {
            probe(self, descriptor.address.wrapping_add(5))?;
        }
        if matches!(how, TaskSwitch::Jump | TaskSwitch::Return) {
            probe(self, self.current_task_type())?;
        }
        Ok(())
    }

    /// The layout of the TSS in TR.
    fn current_layout(&self) -> &'static Layout {
        if self.tr.rights & 8 != 0 {
            &TSS_32
        } else {
            &TSS_16
        }
    }

    /// The linear address of the byte with the type in the descriptor of the TSS in TR.
    fn current_task_type(&self) -> u64 {
        let index = u64::from(self.tr.selector & !7);
        self.gdtr.base.wrapping_add(index).wrapping_add(5)
    }

    /// Saves the state of the task in TR and makes it available again, unless it stays nested.
    fn leave_task(&mut self, how: TaskSwitch) -> Result<(), Raised> {
        let tss = self.tr;
        let layout = self.current_layout();
        // SDM 17.3.1.1: of an event it is the image that a gate would push.
        let mut flags = match &self.delivering {
            Some(event) if how == TaskSwitch::Gate => self.saved_rflags(event),
            _ => self.rflags(),
        };
        if how == TaskSwitch::Return {
            flags &= !rflags::NT;
        }
        self.write_word(&tss, layout, layout.instruction_pointer, self.rip())?;
        self.write_word(&tss, layout, layout.flags, flags)?;
        let word = layout.word.size();
        for i in 0..8_u8 {
            let value = self.registers[usize::from(i) + RAX];
            let at = layout.registers + u64::from(i) * word;
            self.write_word(&tss, layout, at, value)?;
        }
        for i in 0..layout.segment_count {
            let selector = self.segments[usize::from(i & 7)].selector;
            let linear = tss.base.wrapping_add(layout.segments + u64::from(i) * word);
            self.write_system(linear, selector)?;
        }
        if matches!(how, TaskSwitch::Jump | TaskSwitch::Return) {
            let place = self.current_task_type();
            let byte: u8 = self.read_system(place)?;
            self.write_system(place, byte & !2)?;
        }
        Ok(())
    }

    fn set_busy(&mut self, descriptor: &Descriptor) -> Result<(), Raised> {
        self.write_system(
            descriptor.address.wrapping_add(5),
            (descriptor.low >> 40) as u8 | 2,
        )
    }

    /// Loads the new task's state. From here on faults belong to the new task (SDM 7.3, step 11).
    fn enter_task(
        &mut self,
        task: &NewTask,
        mut tss: Segment,
        layout: &Layout,
        how: TaskSwitch,
    ) -> Result<(), Raised> {
        tss.rights |= 2;
        self.tr = tss;
        self.cr0 |= cr0::TS;
        if layout.cr3.is_some() && self.cr0 & cr0::PG != 0 {
            if self.cr4 & cr4::PAE != 0 {
                self.load_pdptes(task.cr3)?;
            }
            self.cr3 = task.cr3;
            self.tlb.flush();
        }
        let mut flags = task.flags;
        if matches!(how, TaskSwitch::Call | TaskSwitch::Gate) {
            flags |= rflags::NT;
        }
        if layout.word == Item::Word {
            flags &= 0xffff;
        }
        self.set_rflags(flags);
        self.resume_expires = false;
        for (i, value) in task.registers.iter().enumerate() {
            self.registers[i] = if layout.word == Item::Word {
                0xffff_0000 | value
            } else {
                *value
            };
        }
        self.set_rip(task.instruction_pointer);
        // A fault while the segments are loaded finds the new task's selectors, unusable.
        for number in 0..6_u8 {
            self.segments[usize::from(number)] =
                Segment::unusable(task.segments[usize::from(number)]);
        }
        self.dr[7] &= !0x155;
        self.ldtr = Segment::unusable(task.local_table);
        self.instruction_start = task.instruction_pointer;
        if self.virtual_8086() {
            for number in 0..6_u8 {
                self.load_8086_segment(number, task.segments[usize::from(number)]);
            }
            self.refresh_mode();
            self.load_task_local_table(task.local_table)?;
        } else {
            let cpl = (task.segments[usize::from(register::CS)] & RPL) as u8;
            self.segments[usize::from(register::SS)].rights |= u32::from(cpl) << 5;
            self.refresh_mode();
            self.load_task_local_table(task.local_table)?;
            self.load_task_segments(task, cpl)?;
        }
        if task.debug_trap {
            self.dr[6] |= DEBUG_TASK_SWITCH;
            return Err(self.raise(super::raise::Pending::Exception(Exception {
                vector: vector::DEBUG,
                error_code: None,
                detail: DEBUG_TASK_SWITCH,
                source: super::raise::Source::Trap,
            })));
        }
        Ok(())
    }

    fn load_task_local_table(&mut self, selector: u16) -> Result<(), Raised> {
        if is_null(selector) {
            return Ok(());
        }
        let invalid = |cpu: &mut Self| cpu.selector_fault(vector::INVALID_TSS, selector);
        if selector & LOCAL != 0 {
            return Err(invalid(self));
        }
        let descriptor = self.descriptor(selector, vector::INVALID_TSS)?;
        if descriptor.system_type() != Some(SystemType::Ldt) || !descriptor.is_present() {
            return Err(invalid(self));
        }
        self.ldtr = descriptor.segment();
        Ok(())
    }

    // SDM table 7-1: the checks of segments loaded by a task switch, all #TS except presence.
    fn load_task_segments(&mut self, task: &NewTask, cpl: u8) -> Result<(), Raised> {
        let selector = task.segments[usize::from(register::SS)];
        let descriptor = if is_null(selector) {
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        } else {
            self.descriptor(selector, vector::INVALID_TSS)?
        };
        self.check_stack_segment(&descriptor, cpl, vector::INVALID_TSS)?;
        self.segments[usize::from(register::SS)] = self.mark_accessed(&descriptor)?;

        let selector = task.segments[usize::from(register::CS)];
        let descriptor = if is_null(selector) {
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        } else {
            self.descriptor(selector, vector::INVALID_TSS)?
        };
        let level_fits = if descriptor.is_conforming() {
            descriptor.privilege() <= cpl
        } else {
            descriptor.privilege() == cpl
        };
        if !descriptor.is_code() || !level_fits {
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::SEGMENT_NOT_PRESENT, selector));
        }
        self.segments[usize::from(register::CS)] = self.mark_accessed(&descriptor)?;
        self.refresh_mode();
        for number in [register::ES, register::DS, register::FS, register::GS] {
            let selector = task.segments[usize::from(number)];
            if is_null(selector) {
                continue;
            }
            let descriptor = self.descriptor(selector, vector::INVALID_TSS)?;
            let level = cpl.max((selector & RPL) as u8);
            if !descriptor.is_readable()
                || !descriptor.is_conforming() && level > descriptor.privilege()
            {
                return Err(self.selector_fault(vector::INVALID_TSS, selector));
            }
            if !descriptor.is_present() {
                return Err(self.selector_fault(vector::SEGMENT_NOT_PRESENT, selector));
            }
            self.segments[usize::from(number)] = self.mark_accessed(&descriptor)?;
        }
        let cs = self.segments[usize::from(register::CS)];
        if !cs.covers(task.instruction_pointer, 1) && !cs.has(rights::UNUSABLE) {
            return Err(self.general_protection(0));
        }
        Ok(())
    }
}
