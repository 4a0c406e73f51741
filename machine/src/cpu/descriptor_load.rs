//! Loading segment registers, LDTR and TR (SDM 5.6 Privilege level checking when accessing data
//! segments, 5.7 for SS, 5.8.3 for 64-bit mode; MOV in volume 2).

use arch::exception as vector;

use super::{
    Cpu,
    descriptor::{Descriptor, LOCAL, RPL, SystemType, is_null},
    raise::Raised,
    segment::{Segment, register, rights},
};

impl Cpu {
    /// Loads ES, SS, DS, FS or GS as MOV and POP do, in any mode.
    pub fn load_segment(&mut self, number: u8, selector: u16) -> Result<(), Raised> {
        if !self.protected_mode() || self.virtual_8086() {
            self.load_8086_segment(number, selector);
            return Ok(());
        }
        let segment = if number == register::SS {
            self.checked_stack_segment(selector)?
        } else {
            self.data_segment(selector)?
        };
        self.segments[(number & 7) as usize] = segment;
        if number == register::SS {
            // The default stack size may have changed: decoded blocks do not depend on it, but
            // CPL is kept in SS.
            self.refresh_mode();
        }
        Ok(())
    }

    fn checked_stack_segment(&mut self, selector: u16) -> Result<Segment, Raised> {
        let cpl = self.cpl;
        if is_null(selector) {
            return if self.mode_64 && cpl < 3 && selector & RPL == u16::from(cpl) {
                Ok(Self::null_stack_segment(selector))
            } else {
                Err(self.general_protection(0))
            };
        }
        let descriptor = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        self.check_stack_segment(&descriptor, cpl, vector::GENERAL_PROTECTION)?;
        self.mark_accessed(&descriptor)
    }

    /// SS with a null selector, which 64-bit mode allows; the DPL field holds CPL all the same.
    pub const fn null_stack_segment(selector: u16) -> Segment {
        let mut segment = Segment::unusable(selector);
        segment.rights |= ((selector & RPL) as u32) << 5;
        segment
    }

    /// A stack segment for code at `cpl`: RPL and DPL equal to it, writable data, or else `vector`;
    /// present, or else #SS.
    pub fn check_stack_segment(
        &mut self,
        descriptor: &Descriptor,
        cpl: u8,
        vector: u8,
    ) -> Result<(), Raised> {
        let selector = descriptor.selector;
        if selector & RPL != u16::from(cpl)
            || descriptor.privilege() != cpl
            || !descriptor.is_writable()
        {
            return Err(self.selector_fault(vector, selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::STACK_FAULT, selector));
        }
        Ok(())
    }

    fn data_segment(&mut self, selector: u16) -> Result<Segment, Raised> {
        if is_null(selector) {
            return Ok(Segment::unusable(selector));
        }
        let descriptor = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        let level = self.cpl.max((selector & RPL) as u8);
        if !descriptor.is_readable()
            || !descriptor.is_conforming() && level > descriptor.privilege()
        {
            return Err(self.selector_protection(selector));
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::SEGMENT_NOT_PRESENT, selector));
        }
        self.mark_accessed(&descriptor)
    }

    /// After a return to an outer level: a data segment that the outer level may not use becomes null,
    /// and of a null selector nothing stays either, RPL included (SDM volume 2, IRET and RET,
    /// RETURN-TO-OUTER-PRIVILEGE-LEVEL). The base stays, which 64-bit mode goes on to use in FS and GS.
    pub fn drop_inner_segments(&mut self) {
        let cpl = self.cpl;
        for number in [register::ES, register::DS, register::FS, register::GS] {
            let segment = &mut self.segments[number as usize];
            let conforming = segment.has(rights::CODE | rights::CONFORMING_DOWN);
            let unusable = segment.has(rights::UNUSABLE);
            if is_null(segment.selector) || !unusable && !conforming && segment.privilege() < cpl {
                *segment = Segment {
                    base: segment.base,
                    ..Segment::unusable(0)
                };
            }
        }
    }

    /// A system segment from its descriptor, with the upper half of the base in IA-32e mode. The
    /// selector must be in the GDT and not null, or #GP.
    fn system_segment(
        &mut self,
        selector: u16,
        accept: fn(SystemType) -> bool,
    ) -> Result<(Descriptor, Segment), Raised> {
        if selector & LOCAL != 0 {
            return Err(self.selector_protection(selector));
        }
        let descriptor = self.descriptor(selector, vector::GENERAL_PROTECTION)?;
        if !descriptor.system_type().is_some_and(accept) {
            return Err(self.selector_protection(selector));
        }
        let mut segment = descriptor.segment();
        if self.ia32e_mode() {
            let Some(high) = self.upper_descriptor(&descriptor)? else {
                return Err(self.selector_protection(selector));
            };
            segment.base |= high << 32;
        }
        if !descriptor.is_present() {
            return Err(self.selector_fault(vector::SEGMENT_NOT_PRESENT, selector));
        }
        if self.ia32e_mode() && !Self::is_canonical(segment.base) {
            return Err(self.selector_protection(selector));
        }
        Ok((descriptor, segment))
    }

    /// LLDT.
    pub fn load_ldtr(&mut self, selector: u16) -> Result<(), Raised> {
        if is_null(selector) {
            self.ldtr = Segment::unusable(selector);
            return Ok(());
        }
        self.ldtr = self
            .system_segment(selector, |kind| kind == SystemType::Ldt)?
            .1;
        Ok(())
    }

    /// LTR: marks the TSS busy.
    pub fn load_tr(&mut self, selector: u16) -> Result<(), Raised> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let accept: fn(SystemType) -> bool = if self.ia32e_mode() {
            |kind| kind == SystemType::AvailableTss
        } else {
            |kind| matches!(kind, SystemType::AvailableTss | SystemType::AvailableTss16)
        };
        let (descriptor, mut segment) = self.system_segment(selector, accept)?;
        segment.rights |= 2;
        self.write_system(
            descriptor.address.wrapping_add(5),
            (descriptor.low >> 40) as u8 | 2,
        )?;
        self.tr = segment;
        Ok(())
    }
}
