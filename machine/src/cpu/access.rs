//! Memory operands: effective address, segment, translation, and the access itself.

use arch::{
    control_register::{cr4, rflags},
    exception as vector,
};

use super::{
    Cpu,
    op::{self, Op},
    paging::Place,
    raise::Raised,
    segment::{register, rights},
    tlb::{Access, Privilege},
};
use crate::memory::{Atomic, Word};

impl Cpu {
    /// On whose behalf the current instruction accesses memory.
    #[inline(always)]
    pub fn privilege(&self) -> Privilege {
        self.privilege
    }

    /// On whose behalf the stack of `cpl` is accessed (SDM 4.6 Access rights: explicit accesses).
    pub fn stack_privilege(&self, cpl: u8) -> Privilege {
        if cpl == 3 {
            Privilege::User
        } else if self.cr4 & cr4::SMAP != 0 && self.system_flags & rflags::AC != 0 {
            Privilege::SupervisorReachingUser
        } else {
            Privilege::Supervisor
        }
    }

    /// CPL, RFLAGS.AC or CR4.SMAP may have changed.
    pub fn refresh_privilege(&mut self) {
        let privilege = self.stack_privilege(self.cpl);
        if privilege != self.privilege {
            self.privilege = privilege;
            self.leave_block = true;
        }
    }

    /// The offset that a memory operand names, inside its segment (SDM 3.7.5).
    #[inline(always)]
    pub fn effective_offset(&self, op: &Op) -> u64 {
        let sum = self.registers[(op.base & 31) as usize]
            .wrapping_add(self.registers[(op.index & 31) as usize] << (op.scale & 3))
            .wrapping_add(op.displacement as i64 as u64);
        op.truncate(sum)
    }

    /// The linear address of `size` bytes at `offset` of a segment, after the checks of
    /// SDM 5.3 Limit checking and 5.5 Privilege levels (type).
    #[inline(always)]
    pub fn linear(
        &mut self,
        segment: u8,
        offset: u64,
        size: usize,
        access: Access,
    ) -> Result<u64, Raised> {
        let hidden = &self.segments[(segment & 7) as usize];
        if self.mode_64 {
            // Canonicality is checked where the translation cache misses.
            Ok(hidden.base.wrapping_add(offset))
        } else {
            self.linear_checked(segment, offset, size, access)
        }
    }

    fn linear_checked(
        &mut self,
        segment: u8,
        offset: u64,
        size: usize,
        access: Access,
    ) -> Result<u64, Raised> {
        let hidden = self.segments[(segment & 7) as usize];
        let permitted = match access {
            _ if hidden.has(rights::UNUSABLE) => false,
            // Real mode and virtual-8086 mode do not look at the type.
            _ if !self.protected_mode() || self.virtual_8086() => true,
            Access::Read => !hidden.has(rights::CODE) || hidden.has(rights::READ_WRITE),
            Access::Write => !hidden.has(rights::CODE) && hidden.has(rights::READ_WRITE),
            Access::Execute => true,
        };
        if !permitted || !hidden.covers(offset, size as u64) {
            return Err(self.segment_fault(segment));
        }
        Ok(hidden.base.wrapping_add(offset) as u32 as u64)
    }

    /// #SS(0) for the stack segment, #GP(0) for the others.
    #[cold]
    pub fn segment_fault(&mut self, segment: u8) -> Raised {
        let stack = segment == register::SS || segment == op::FLAT_STACK;
        let vector = if stack {
            vector::STACK_FAULT
        } else {
            vector::GENERAL_PROTECTION
        };
        self.fault(vector, Some(0))
    }

    /// Reads the memory operand of `op`.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, op: &Op) -> Result<T, Raised> {
        self.read_at(op.segment, self.effective_offset(op))
    }

    /// Writes the memory operand of `op`.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, op: &Op, value: T) -> Result<(), Raised> {
        self.write_at(op.segment, self.effective_offset(op), value)
    }

    /// Reads at `offset` of a segment.
    #[inline(always)]
    pub fn read_at<T: Word>(&mut self, segment: u8, offset: u64) -> Result<T, Raised> {
        let linear = self.linear(segment, offset, T::SIZE, Access::Read)?;
        match self.tlb.lookup::<T>(linear, Access::Read, self.privilege()) {
            Some(place) => Ok(self.ram.load(place)),
            None => self.read_slow(linear, segment, self.privilege()),
        }
    }

    /// Writes at `offset` of a segment.
    #[inline(always)]
    pub fn write_at<T: Word>(&mut self, segment: u8, offset: u64, value: T) -> Result<(), Raised> {
        let linear = self.linear(segment, offset, T::SIZE, Access::Write)?;
        match self.tlb.lookup_write(linear, self.privilege()) {
            Some(place) => {
                self.ram.store(place, value);
                Ok(())
            }
            None => self.write_slow(linear, segment, self.privilege(), value),
        }
    }

    /// Reads a system structure (descriptor table, TSS, IDT) at a linear address.
    pub fn read_system<T: Word>(&mut self, linear: u64) -> Result<T, Raised> {
        self.read_on_behalf(linear, op::FLAT, Privilege::Supervisor)
    }

    /// Writes a system structure at a linear address.
    pub fn write_system<T: Word>(&mut self, linear: u64, value: T) -> Result<(), Raised> {
        self.write_on_behalf(linear, op::FLAT, Privilege::Supervisor, value)
    }

    /// Reads at a linear address; `segment` decides the fault of a non-canonical one.
    pub fn read_on_behalf<T: Word>(
        &mut self,
        linear: u64,
        segment: u8,
        privilege: Privilege,
    ) -> Result<T, Raised> {
        let linear = self.truncate_linear(linear);
        match self.tlb.lookup::<T>(linear, Access::Read, privilege) {
            Some(place) => Ok(self.ram.load(place)),
            None => self.read_slow(linear, segment, privilege),
        }
    }

    /// Writes at a linear address; `segment` decides the fault of a non-canonical one.
    pub fn write_on_behalf<T: Word>(
        &mut self,
        linear: u64,
        segment: u8,
        privilege: Privilege,
        value: T,
    ) -> Result<(), Raised> {
        let linear = self.truncate_linear(linear);
        match self.tlb.lookup_write(linear, privilege) {
            Some(place) => {
                self.ram.store(place, value);
                Ok(())
            }
            None => self.write_slow(linear, segment, privilege, value),
        }
    }

    /// Linear addresses are 32 bits wide outside IA-32e mode.
    pub fn truncate_linear(&self, linear: u64) -> u64 {
        if self.ia32e_mode() {
            linear
        } else {
            linear as u32 as u64
        }
    }

    /// Whether bits 63:47 of an address are equal (SDM 3.3.7.1 Canonical addressing).
    #[inline(always)]
    pub fn is_canonical(address: u64) -> bool {
        ((address as i64) << 16 >> 16) as u64 == address
    }

    fn check_canonical(&mut self, linear: u64, segment: u8) -> Result<(), Raised> {
        if self.ia32e_mode() && !Self::is_canonical(linear) {
            return Err(self.segment_fault(segment));
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Word>(
        &mut self,
        linear: u64,
        segment: u8,
        privilege: Privilege,
    ) -> Result<T, Raised> {
        self.check_canonical(linear, segment)?;
        self.check_canonical(linear.wrapping_add(T::SIZE as u64 - 1), segment)?;
        let first = self.bytes_in_page(linear, T::SIZE);
        if first == T::SIZE {
            let place = self.translate(linear, Access::Read, privilege)?;
            self.check_alignment(linear, T::SIZE, privilege)?;
            self.note_data_access(linear, T::SIZE, Access::Read);
            return self.read_place(place, linear);
        }
        // The operand spans two pages: both must be readable before either is read.
        let next = self.truncate_linear(linear.wrapping_add(first as u64));
        let low = self.translate(linear, Access::Read, privilege)?;
        let high = self.translate(next, Access::Read, privilege)?;
        self.check_alignment(linear, T::SIZE, privilege)?;
        self.note_data_access(linear, T::SIZE, Access::Read);
        let mut bytes = [0; 16];
        for (i, byte) in bytes.iter_mut().enumerate().take(T::SIZE) {
            *byte = if i < first {
                self.read_place(low.byte(i as u64), linear)?
            } else {
                self.read_place(high.byte((i - first) as u64), next)?
            };
        }
        Ok(T::from_bytes(bytes))
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Word>(
        &mut self,
        linear: u64,
        segment: u8,
        privilege: Privilege,
        value: T,
    ) -> Result<(), Raised> {
        self.check_canonical(linear, segment)?;
        self.check_canonical(linear.wrapping_add(T::SIZE as u64 - 1), segment)?;
        let first = self.bytes_in_page(linear, T::SIZE);
        if first == T::SIZE {
            let place = self.translate(linear, Access::Write, privilege)?;
            self.check_alignment(linear, T::SIZE, privilege)?;
            self.note_data_access(linear, T::SIZE, Access::Write);
            return self.write_place(place, linear, value);
        }
        let next = self.truncate_linear(linear.wrapping_add(first as u64));
        let low = self.translate(linear, Access::Write, privilege)?;
        let high = self.translate(next, Access::Write, privilege)?;
        self.check_alignment(linear, T::SIZE, privilege)?;
        self.note_data_access(linear, T::SIZE, Access::Write);
        for (i, byte) in value.to_bytes().into_iter().enumerate().take(T::SIZE) {
            if i < first {
                self.write_place(low.byte(i as u64), linear, byte)?;
            } else {
                self.write_place(high.byte((i - first) as u64), next, byte)?;
            }
        }
        Ok(())
    }

    fn bytes_in_page(&self, linear: u64, size: usize) -> usize {
        ((4096 - (linear & 0xfff)) as usize).min(size)
    }

    /// Reads where a translation led.
    fn read_place<T: Word>(&mut self, place: Place, linear: u64) -> Result<T, Raised> {
        match place {
            Place::Ram(offset) => Ok(self.ram.load(offset)),
            Place::Device(physical) => self.device_read(physical),
            Place::ApicAccess(offset) => {
                crate::vtx::apic_access_read(self, offset, T::SIZE, linear).map(T::from_u64)
            }
        }
    }

    /// Writes where a translation led.
    fn write_place<T: Word>(&mut self, place: Place, linear: u64, value: T) -> Result<(), Raised> {
        match place {
            Place::Ram(offset) => {
                self.store(offset, value);
                Ok(())
            }
            Place::Device(physical) => self.device_write(physical, value),
            Place::ApicAccess(offset) => {
                crate::vtx::apic_access_write(self, offset, T::SIZE, value.to_u64(), linear)
            }
        }
    }

    /// Reads, changes and writes the memory operand of `op`; with LOCK as one atomic operation.
    /// `change` may run more than once. Gives the old value.
    #[inline(always)]
    pub fn read_modify_write<T: Atomic>(
        &mut self,
        op: &Op,
        change: impl FnMut(T) -> T,
    ) -> Result<T, Raised> {
        self.read_modify_write_at(
            op.segment,
            self.effective_offset(op),
            op.has(op::LOCK),
            change,
        )
    }

    /// The same for an operand at `offset` of a segment.
    #[inline(always)]
    pub fn read_modify_write_at<T: Atomic>(
        &mut self,
        segment: u8,
        offset: u64,
        locked: bool,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, Raised> {
        let linear = self.linear(segment, offset, T::SIZE, Access::Write)?;
        match self.tlb.lookup_write(linear, self.privilege()) {
            Some(place) if !locked => {
                let old: T = self.ram.load(place.offset());
                self.ram.store(place, change(old));
                Ok(old)
            }
            Some(place) => Ok(T::update(&self.ram, place, change)),
            None => self.read_modify_write_slow(linear, segment, change),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_modify_write_slow<T: Atomic>(
        &mut self,
        linear: u64,
        segment: u8,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, Raised> {
        self.check_canonical(linear, segment)?;
        self.check_canonical(linear.wrapping_add(T::SIZE as u64 - 1), segment)?;
        let first = self.bytes_in_page(linear, T::SIZE);
        if first == T::SIZE {
            let place = self.translate_to_modify(linear)?;
            self.check_alignment(linear, T::SIZE, self.privilege())?;
            self.note_data_access(linear, T::SIZE, Access::Write);
            if let Place::Ram(offset) = place {
                return Ok(self.update(offset, change));
            }
            let old = self.read_place(place, linear)?;
            self.write_place(place, linear, change(old))?;
            return Ok(old);
        }
        // Both pages are known writable before anything is changed; the first faults first.
        let next = self.truncate_linear(linear.wrapping_add(first as u64));
        self.translate_to_modify(linear)?;
        self.translate_to_modify(next)?;
        let old = self.read_slow(linear, segment, self.privilege())?;
        self.write_slow(linear, segment, self.privilege(), change(old))?;
        Ok(old)
    }

    /// Raises what a write of a `T` at `offset` of a segment would raise, so that an instruction that
    /// writes more than one operand can write all of them or none.
    #[inline]
    pub fn probe_write<T: Word>(&mut self, segment: u8, offset: u64) -> Result<(), Raised> {
        let linear = self.linear(segment, offset, T::SIZE, Access::Write)?;
        self.probe_linear::<T>(linear, segment, self.privilege())
    }

    /// The same for a linear address; `segment` decides the fault of a non-canonical one.
    pub fn probe_linear<T: Word>(
        &mut self,
        linear: u64,
        segment: u8,
        privilege: Privilege,
    ) -> Result<(), Raised> {
        let linear = self.truncate_linear(linear);
        match self.tlb.lookup::<T>(linear, Access::Write, privilege) {
            Some(_) => Ok(()),
            None => self.probe_slow(linear, T::SIZE, segment, privilege),
        }
    }

    #[cold]
    #[inline(never)]
    fn probe_slow(
        &mut self,
        linear: u64,
        size: usize,
        segment: u8,
        privilege: Privilege,
    ) -> Result<(), Raised> {
        self.check_canonical(linear, segment)?;
        self.check_canonical(linear.wrapping_add(size as u64 - 1), segment)?;
        let first = self.bytes_in_page(linear, size);
        self.translate(linear, Access::Write, privilege)?;
        if first != size {
            let next = self.truncate_linear(linear.wrapping_add(first as u64));
            self.translate(next, Access::Write, privilege)?;
        }
        self.check_alignment(linear, size, privilege)
    }

    /// Translates the operand of a read-modify-write. One that violates EPT has tried to read and to
    /// write (SDM 27.2.1, table 27-7).
    fn translate_to_modify(&mut self, linear: u64) -> Result<Place, Raised> {
        let place = self.translate(linear, Access::Write, self.privilege());
        if place.is_err() {
            crate::vtx::ept::note_read(self);
        }
        place
    }
}
