//! The way into a handler: interrupt-vector table, protected-mode IDT, 64-bit IDT.

use arch::control_register::rflags;
use arch::exception as vector;

use super::{
    Cpu,
    descriptor::{Descriptor, RPL, SystemType, is_null},
    raise::{Exception, Raised},
    register::number::RSP,
    segment::{Segment, register},
    stack_frame::{Item, StackFrame},
};

/// Flags that delivery through any gate clears (SDM 6.12.1.3 Flag usage).
const CLEARED: u64 = rflags::TF | rflags::NT | rflags::RF | rflags::VM;

/// A gate's code segment, checked.
struct Handler {
    code: Descriptor,
    cpl: u8,
}

impl Cpu {
    // SDM 20.1.4 Interrupt and exception handling (real-address mode)
    pub(super) fn deliver_real_mode(&mut self, event: &Exception) -> Result<(), Raised> {
        let offset = u32::from(event.vector) * 4;
        if offset + 3 > u32::from(self.idtr.limit) {
            return Err(self.gate_fault(vector::GENERAL_PROTECTION, event.vector));
        }
        let entry: u32 = self.read_system(self.idtr.base.wrapping_add(u64::from(offset)))?;
        let flags = self.saved_rflags(event);
        let mut frame = StackFrame::current(self);
        let cs = self.segments[register::CS as usize].selector.into();
        frame.push(self, Item::Word, &[flags, cs, self.rip()])?;
        frame.commit(self);
        self.system_flags &= !(rflags::IF | rflags::TF | rflags::AC | rflags::RF);
        self.load_8086_segment(register::CS, (entry >> 16) as u16);
        self.set_rip(u64::from(entry & 0xffff));
        self.refresh_mode();
        Ok(())
    }

    /// Checks that apply to a gate of either IDT once its type is known to be right.
    fn check_gate(&mut self, event: &Exception, gate: &Descriptor) -> Result<(), Raised> {
        if event.source.checks_gate_privilege() && gate.privilege() < self.cpl {
            return Err(self.gate_fault(vector::GENERAL_PROTECTION, event.vector));
        }
        if !gate.is_present() {
            return Err(self.gate_fault(vector::SEGMENT_NOT_PRESENT, event.vector));
        }
        Ok(())
    }

    fn read_gate(&mut self, event: &Exception, size: u32) -> Result<Descriptor, Raised> {
        let offset = u32::from(event.vector) * size;
        if offset + size - 1 > u32::from(self.idtr.limit) {
            return Err(self.gate_fault(vector::GENERAL_PROTECTION, event.vector));
        }
        let address = self.idtr.base.wrapping_add(u64::from(offset));
        Ok(Descriptor {
            selector: 0,
            address,
            low: self.read_system(address)?,
        })
    }

    fn handler(&mut self, selector: u16) -> Result<Handler, Raised> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let code = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        if !code.is_code() || code.privilege() > self.cpl {
            return Err(self.selector_protection(selector));
        }
        if !code.is_present() {
            return Err(self.selector_fault(vector::SEGMENT_NOT_PRESENT, selector));
        }
        let cpl = if code.is_conforming() {
            self.cpl
        } else {
            code.privilege()
        };
        Ok(Handler { code, cpl })
    }

    fn handler_segment(&mut self, handler: &Handler) -> Result<Segment, Raised> {
        let mut cs = self.mark_accessed(&handler.code)?;
        cs.selector = cs.selector & !RPL | u16::from(handler.cpl);
        Ok(cs)
    }

    // SDM 6.12.1 Exception- or interrupt-handler procedures
    pub(super) fn deliver_protected_mode(&mut self, event: &Exception) -> Result<(), Raised> {
        let gate = self.read_gate(event, 8)?;
        let (item, masks) = match gate.system_type() {
            Some(SystemType::InterruptGate) => (Item::Doubleword, rflags::IF),
            Some(SystemType::TrapGate) => (Item::Doubleword, 0),
            Some(SystemType::InterruptGate16) => (Item::Word, rflags::IF),
            Some(SystemType::TrapGate16) => (Item::Word, 0),
            Some(SystemType::TaskGate) => {
                self.check_gate(event, &gate)?;
                return self.deliver_through_task_gate(event, gate.gate_selector());
            }
            _ => return Err(self.gate_fault(vector::GENERAL_PROTECTION, event.vector)),
        };
        self.check_gate(event, &gate)?;
        let offset = u64::from(gate.gate_offset()) & item.mask();
        let handler = self.handler(gate.gate_selector())?;
        let from_8086 = self.virtual_8086();
        if from_8086 && handler.cpl != 0 {
            return Err(self.selector_protection(handler.code.selector));
        }
        let cs = self.handler_segment(&handler)?;
        let flags = self.saved_rflags(event);
        let inner = handler.cpl < self.cpl;
        let mut frame = if inner {
            let (selector, pointer) = self.inner_stack(handler.cpl)?;
            let ss = self.inner_stack_segment(selector, handler.cpl)?;
            let privilege = self.stack_privilege(handler.cpl);
            StackFrame::inner(ss, pointer, privilege, (selector & !RPL).into())
        } else {
            StackFrame::current(self)
        };
        let selector = |number: u8| u64::from(self.segments[number as usize].selector);
        let values = [
            selector(register::GS),
            selector(register::FS),
            selector(register::DS),
            selector(register::ES),
            selector(register::SS),
            self.registers[RSP],
            flags,
            selector(register::CS),
            self.rip(),
            event.error_code.unwrap_or(0).into(),
        ];
        let first = match (from_8086, inner) {
            (true, _) => 0,
            (false, true) => 4,
            (false, false) => 6,
        };
        let end = values.len() - usize::from(event.error_code.is_none());
        frame.push(self, item, &values[first..end])?;
        // SDM: the offset must be inside the code segment, or #GP.
        if !cs.covers(offset, 1) {
            return Err(self.general_protection(0));
        }
        if inner {
            self.segments[register::SS as usize] = frame.segment;
        }
        if from_8086 {
            for number in [register::GS, register::FS, register::DS, register::ES] {
                self.segments[number as usize] = Segment::unusable(0);
            }
        }
        self.segments[register::CS as usize] = cs;
        frame.commit(self);
        self.set_rip(offset);
        self.system_flags &= !(CLEARED | masks);
        self.refresh_mode();
        Ok(())
    }

    /// SS and ESP of an inner level in the TSS (SDM 7.2.1, 7.6; 5.8.5 Stack switching).
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Result<(u16, u64), Raised> {
        let level = u64::from(cpl);
        let wide = self.tr.rights & 8 != 0;
        let (offset, size) = if wide {
            (level * 8 + 4, 6)
        } else {
            (level * 4 + 2, 4)
        };
        let selector = self.tr.selector;
        if offset + size - 1 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        }
        let address = self.tr.base.wrapping_add(offset);
        if wide {
            let pointer: u32 = self.read_system(address)?;
            Ok((
                self.read_system(address.wrapping_add(4))?,
                u64::from(pointer),
            ))
        } else {
            let pointer: u16 = self.read_system(address)?;
            Ok((
                self.read_system(address.wrapping_add(2))?,
                u64::from(pointer),
            ))
        }
    }

    /// The stack segment of an inner level, or #TS.
    pub(super) fn inner_stack_segment(
        &mut self,
        selector: u16,
        cpl: u8,
    ) -> Result<Segment, Raised> {
        if is_null(selector) {
            return Err(self.selector_fault(vector::INVALID_TSS, 0));
        }
        let descriptor = self.descriptor(selector, vector::INVALID_TSS)?;
        self.check_stack_segment(&descriptor, cpl, vector::INVALID_TSS)?;
        self.mark_accessed(&descriptor)
    }

    // SDM 6.14 Exception and interrupt handling in 64-bit mode
    pub(super) fn deliver_64_bit(&mut self, event: &Exception) -> Result<(), Raised> {
        let gate = self.read_gate(event, 16)?;
        let high: u64 = self.read_system(gate.address.wrapping_add(8))?;
        let masks = match gate.system_type() {
            Some(SystemType::InterruptGate) => rflags::IF,
            Some(SystemType::TrapGate) => 0,
            _ => return Err(self.gate_fault(vector::GENERAL_PROTECTION, event.vector)),
        };
        self.check_gate(event, &gate)?;
        let offset = u64::from(gate.gate_offset()) | high << 32;
        let handler = self.handler(gate.gate_selector())?;
        let cs = handler.code.segment();
        if !handler.code.is_64_bit_code() || cs.has(super::segment::rights::BIG) {
            return Err(self.selector_protection(handler.code.selector));
        }
        let cs = self.handler_segment(&handler)?;
        let stack_table = gate.low >> 32 & 7;
        let inner = handler.cpl < self.cpl;
        let top = if stack_table != 0 {
            self.long_stack(0x1c + stack_table * 8)?
        } else if inner {
            self.long_stack(4 + u64::from(handler.cpl) * 8)?
        } else if self.mode_64 {
            self.registers[RSP]
        } else {
            StackFrame::current(self).pointer
        };
        let privilege = self.stack_privilege(handler.cpl);
        let mut frame = StackFrame::long(top & !15, privilege);
        let values = [
            self.segments[register::SS as usize].selector.into(),
            self.registers[RSP],
            self.saved_rflags(event),
            self.segments[register::CS as usize].selector.into(),
            self.rip(),
            event.error_code.unwrap_or(0).into(),
        ];
        let end = values.len() - usize::from(event.error_code.is_none());
        frame.push(self, Item::Quadword, &values[..end])?;
        if !Self::is_canonical(offset) {
            return Err(self.general_protection(0));
        }
        if inner {
            self.segments[register::SS as usize] = Self::null_stack_segment(u16::from(handler.cpl));
        }
        self.segments[register::CS as usize] = cs;
        frame.commit(self);
        self.set_rip(offset);
        self.system_flags &= !(CLEARED | masks);
        self.refresh_mode();
        Ok(())
    }

    /// A stack pointer in the 64-bit TSS (SDM 7.7 Task management in 64-bit mode).
    pub(super) fn long_stack(&mut self, offset: u64) -> Result<u64, Raised> {
        if offset + 7 > u64::from(self.tr.limit) {
            let selector = self.tr.selector;
            return Err(self.selector_fault(vector::INVALID_TSS, selector));
        }
        let pointer: u64 = self.read_system(self.tr.base.wrapping_add(offset))?;
        if !Self::is_canonical(pointer) {
            return Err(self.fault(vector::STACK_FAULT, Some(0)));
        }
        Ok(pointer)
    }
}
