//! From the address that an instruction forms to places in guest-physical memory, with every check on
//! the way: segment (SDM 5.3 Limit checking, 5.4 Type checking), canonical form (volume 1, 3.3.7.1),
//! paging, alignment (6.15, interrupt 17).

use super::fault::{Fault, Stop};
use super::operand::Operand;
use super::paging::{Access, PagingRegisters, Privilege};
use crate::vm::memory::{FrameAccess, GuestMemory};
use crate::vmx::guest_segment::SegmentFields;
use crate::vmx::vmcs::{Vmcs, VmxError};
use arch::control_register::{cr0, cr4, rflags};
use arch::segment::{Segment, register, rights};
use arch::vmcs;

/// How the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode, and compatibility mode, which has its segments.
    Protected,
    /// 64-bit mode.
    Bits64,
}

/// What is asked of an operand's alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// #AC where it is not a multiple of its size, less than 16 bytes, and alignment is checked: Intel's
    /// processors let larger operands pass, though SDM volume 2 lists #AC for them.
    Natural,
    /// #GP(0) where it is not a multiple of its size.
    Required,
    /// Nothing.
    Any,
}

/// What decides how the guest's addresses are checked and translated.
#[derive(Clone, Copy, Debug)]
pub struct AddressSpace {
    /// How the guest runs.
    pub mode: Mode,
    /// The current privilege level.
    pub privilege_level: u8,
    /// RFLAGS.
    pub flags: u64,
    /// How linear addresses are translated.
    pub paging: PagingRegisters,
}

/// Whether bits 63:47 of an address are equal.
const fn is_canonical(linear: u64) -> bool {
    ((linear << 16) as i64 >> 16) as u64 == linear
}

impl AddressSpace {
    /// That of the current guest.
    pub fn read(vmcs: &impl Vmcs) -> Result<Self, VmxError> {
        let paging = PagingRegisters::read(vmcs)?;
        let flags = vmcs.read(vmcs::GUEST_RFLAGS)?;
        let mode = if paging.cr0 & cr0::PE == 0 {
            Mode::Real
        } else if flags & rflags::VM != 0 {
            Mode::Virtual8086
        } else if paging.ia32e_mode()
            && vmcs.read(vmcs::GUEST_CS_ACCESS_RIGHTS)? & rights::LONG != 0
        {
            Mode::Bits64
        } else {
            Mode::Protected
        };
        Ok(Self {
            mode,
            // SDM 25.4.1: SS's DPL is the current privilege level, in every mode.
            privilege_level: (vmcs.read(vmcs::GUEST_SS_ACCESS_RIGHTS)? >> 5 & 3) as u8,
            flags,
            paging,
        })
    }

    /// On whose behalf the guest's instructions access memory.
    pub const fn privilege(&self) -> Privilege {
        if self.privilege_level == 3 {
            Privilege::User
        } else if self.paging.cr4 & cr4::SMAP != 0 && self.flags & rflags::AC != 0 {
            Privilege::SupervisorReachingUser
        } else {
            Privilege::Supervisor
        }
    }

    /// The linear address of `size` bytes at `offset` of segment register `segment`.
    pub fn linear(
        &self,
        vmcs: &impl Vmcs,
        segment: u8,
        offset: u64,
        size: u8,
        access: Access,
    ) -> Result<u64, Stop> {
        let fields = SegmentFields::of(segment);
        if self.mode == Mode::Bits64 {
            // SDM volume 1, 3.4.2.1: the other segments begin at 0.
            return Ok(if segment >= register::FS {
                fields.read_base(vmcs)?.wrapping_add(offset)
            } else {
                offset
            });
        }
        let hidden = fields.read(vmcs)?;
        if !self.permits(&hidden, access) || !hidden.covers(offset, size.into()) {
            return Err(segment_fault(segment).into());
        }
        Ok(hidden.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// The linear address of the code at `rip`, and how many bytes of it are in the code segment, counted
    /// to 4096 at most.
    pub fn code(&self, vmcs: &impl Vmcs, rip: u64) -> Result<(u64, usize), Stop> {
        const MOST: u64 = 4096;
        if self.mode == Mode::Bits64 {
            return Ok((rip, MOST as usize));
        }
        // EIP has 32 bits.
        let offset = rip & 0xffff_ffff;
        let linear = self.linear(vmcs, register::CS, offset, 1, Access::Fetch)?;
        let limit = u64::from(vmcs.read(vmcs::GUEST_CS_LIMIT)?);
        Ok((
            linear,
            (limit - offset).saturating_add(1).min(MOST) as usize,
        ))
    }

    fn permits(&self, segment: &Segment, access: Access) -> bool {
        if segment.has(rights::UNUSABLE) {
            return false;
        }
        match self.mode {
            Mode::Real | Mode::Virtual8086 => true,
            Mode::Protected | Mode::Bits64 => match access {
                Access::Read => !segment.has(rights::CODE) || segment.has(rights::READ_WRITE),
                Access::Write => !segment.has(rights::CODE) && segment.has(rights::READ_WRITE),
                Access::Fetch => true,
            },
        }
    }

    /// Where `size` (at most 16) bytes at `linear` are. A page that is not allowed faults before
    /// anything is read or written: the lower one first. `segment` decides the fault of an address that
    /// is not canonical.
    #[allow(clippy::too_many_arguments, reason = "the facts of one access")]
    pub fn locate<F: FrameAccess>(
        &self,
        memory: &GuestMemory<F>,
        segment: u8,
        linear: u64,
        size: u8,
        access: Access,
        privilege: Privilege,
        alignment: Alignment,
    ) -> Result<Operand, Fault> {
        let last = linear.wrapping_add(u64::from(size).saturating_sub(1));
        if self.paging.ia32e_mode() && !(is_canonical(linear) && is_canonical(last)) {
            return Err(segment_fault(segment));
        }
        let misaligned = linear & u64::from(size).wrapping_sub(1) != 0;
        if alignment == Alignment::Required && misaligned {
            return Err(Fault::GENERAL_PROTECTION);
        }
        let translate = |linear| self.paging.translate(memory, linear, access, privilege);
        let first = translate(linear)?;
        let in_page = 4096 - (linear & 0xfff);
        let second = if u64::from(size) > in_page {
            Some(translate(linear.wrapping_add(in_page))?)
        } else {
            None
        };
        if alignment == Alignment::Natural
            && misaligned
            && size < 16
            && privilege == Privilege::User
            && self.flags & rflags::AC != 0
            && self.paging.cr0 & cr0::AM != 0
        {
            return Err(Fault::ALIGNMENT_CHECK);
        }
        Ok(Operand::new(first, second, size))
    }
}

/// #SS(0) for the stack segment, #GP(0) for the others.
const fn segment_fault(segment: u8) -> Fault {
    if segment == register::SS {
        Fault::STACK
    } else {
        Fault::GENERAL_PROTECTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulation::paging::tests::{FLAT, LONG, memory};
    use crate::vmx::vmcs::tests::MapVmcs;
    use arch::control_register::efer;
    use arch::exception::page_fault as error;

    const READ_ONLY: u64 = 0xc091;
    const READ_WRITE: u64 = 0xc093;
    const EXPAND_DOWN: u64 = 0xc097;
    const EXECUTE_ONLY: u64 = 0xc099;
    const READABLE_CODE: u64 = 0xc09b;
    const UNUSABLE: u64 = 0x1_0000;

    /// A guest whose register `number` has this base, limit and these rights.
    fn guest(number: u32, base: u64, limit: u64, access_rights: u64) -> MapVmcs {
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::GUEST_ES_BASE.0 + 2 * number, base),
            (vmcs::GUEST_ES_LIMIT.0 + 2 * number, limit),
            (vmcs::GUEST_ES_ACCESS_RIGHTS.0 + 2 * number, access_rights),
        ]);
        map
    }

    fn space(mode: Mode, privilege_level: u8) -> AddressSpace {
        AddressSpace {
            mode,
            privilege_level,
            flags: 2,
            paging: match mode {
                Mode::Bits64 => LONG,
                _ => FLAT,
            },
        }
    }

    // SDM 5.3 Limit checking, 5.4 Type checking.
    #[test]
    fn a_segment_gives_what_its_type_and_limit_allow() {
        use Access::{Read, Write};
        let fault = |vector| Err(Stop::Fault(Fault::new(vector, 0)));
        let (general, stack) = (fault(13), fault(12));
        let number = u32::from(register::DS);
        for (number, rights, limit, offset, size, access, result) in [
            (number, READ_WRITE, 0xfff, 0xffc, 4, Write, Ok(0x1_0ffc)),
            (number, READ_WRITE, 0xfff, 0xffd, 4, Write, general),
            (number, READ_WRITE, 0xfff, 0xfff, 1, Read, Ok(0x1_0fff)),
            (number, READ_WRITE, 0xfff, 0x1000, 1, Read, general),
            (number, READ_ONLY, 0xfff, 0, 1, Read, Ok(0x1_0000)),
            (number, READ_ONLY, 0xfff, 0, 1, Write, general),
            (number, EXECUTE_ONLY, 0xfff, 0, 1, Read, general),
            (number, READABLE_CODE, 0xfff, 0, 1, Read, Ok(0x1_0000)),
            (number, READABLE_CODE, 0xfff, 0, 1, Write, general),
            (number, UNUSABLE, 0xffff_ffff, 0, 1, Read, general),
            (number, EXPAND_DOWN, 0xfff, 0xfff, 1, Read, general),
            (number, EXPAND_DOWN, 0xfff, 0x1000, 4, Read, Ok(0x1_1000)),
            (number, EXPAND_DOWN, 0xfff, 0xffff_fffe, 4, Read, general),
            (2, READ_WRITE, 0xfff, 0xffd, 4, Write, stack),
            (2, UNUSABLE, 0xffff_ffff, 0, 1, Read, stack),
        ] {
            let map = guest(number, 0x1_0000, limit, rights);
            let space = space(Mode::Protected, 0);
            let linear = space.linear(&map, number as u8, offset, size, access);
            assert_eq!(
                linear, result,
                "{number} {rights:#x} {offset:#x} {size} {access:?}"
            );
        }
    }

    #[test]
    fn real_mode_checks_limits_only_and_addresses_wrap_at_4_gib() {
        let map = guest(3, 0xffff_fff0, 0xffff, READ_ONLY);
        let real = space(Mode::Real, 0);
        let linear = |offset, size| real.linear(&map, 3, offset, size, Access::Write);
        assert_eq!(linear(0x20, 2), Ok(0x10));
        assert_eq!(
            linear(0xffff, 2),
            Err(Stop::Fault(Fault::GENERAL_PROTECTION))
        );
    }

    #[test]
    fn only_fs_and_gs_have_bases_in_64_bit_mode() {
        let bits64 = space(Mode::Bits64, 0);
        for (number, base) in [(0, 0), (2, 0), (3, 0), (4, 0x5000), (5, 0x5000)] {
            let map = guest(number, 0x5000, 0, UNUSABLE);
            let linear = bits64.linear(&map, number as u8, 0x123, 8, Access::Write);
            assert_eq!(linear, Ok(base + 0x123), "{number}");
        }
    }

    #[test]
    fn addresses_that_are_not_canonical_fault_by_segment() {
        let memory = memory(&[]);
        let bits64 = space(Mode::Bits64, 0);
        for (segment, linear, size, fault) in [
            (3, 0x8000_0000_0000, 1, Fault::GENERAL_PROTECTION),
            (2, 0xffff_7fff_ffff_ffff, 1, Fault::STACK),
            // The last byte alone.
            (3, 0x7fff_ffff_ffff, 2, Fault::GENERAL_PROTECTION),
        ] {
            let located = bits64.locate(
                &memory,
                segment,
                linear,
                size,
                Access::Read,
                Privilege::Supervisor,
                Alignment::Any,
            );
            assert_eq!(located, Err(fault), "{linear:#x}");
        }
    }

    /// The page at 0 is RAM, writable for everybody, the one behind it is read-only or absent.
    fn two_pages(second: u64) -> crate::vm::memory::GuestMemory<impl FrameAccess> {
        memory(&[
            (0x1000, 0x2007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x4000, 0x8007),
            (0x4008, second),
        ])
    }

    #[test]
    fn an_operand_in_two_pages_needs_both() {
        let located = |second, linear, access| {
            space(Mode::Bits64, 3).locate(
                &two_pages(second),
                register::DS,
                linear,
                4,
                access,
                Privilege::User,
                Alignment::Any,
            )
        };
        let whole = located(0x5007, 0xffe, Access::Write).unwrap();
        assert_eq!(whole, Operand::new(0x8ffe, Some(0x5000), 4));
        let fault = |linear, error_code| {
            Err(Fault {
                vector: 14,
                error_code,
                page_fault_address: Some(linear),
            })
        };
        let refused = error::PRESENT | error::WRITE | error::USER;
        assert_eq!(
            located(0x5005, 0xffe, Access::Write),
            fault(0x1000, refused)
        );
        assert_eq!(located(0, 0xffe, Access::Read), fault(0x1000, error::USER));
        // Neither allows it: the lower is the one that is reported.
        assert_eq!(located(0, 0x2ffe, Access::Read), fault(0x2ffe, error::USER));
    }

    #[test]
    fn alignment_is_checked_of_programs_that_ask_for_it() {
        for (level, flags, cr0, linear, faults) in [
            (3, rflags::AC, cr0::AM, 0x102, true),
            (3, rflags::AC, cr0::AM, 0x104, false),
            (3, 0, cr0::AM, 0x102, false),
            (3, rflags::AC, 0, 0x102, false),
            (0, rflags::AC, cr0::AM, 0x102, false),
        ] {
            let mut space = space(Mode::Bits64, level);
            space.flags |= flags;
            space.paging.cr0 |= cr0;
            let located = space.locate(
                &two_pages(0x5007),
                register::DS,
                linear,
                4,
                Access::Read,
                space.privilege(),
                Alignment::Natural,
            );
            let fault = faults.then_some(Fault::ALIGNMENT_CHECK);
            assert_eq!(located.err(), fault, "{level} {flags:#x} {linear:#x}");
        }
    }

    #[test]
    fn the_mode_and_the_privilege_are_the_guests() {
        let mut map = MapVmcs::default();
        map.fields.extend([
            (vmcs::GUEST_CR0.0, cr0::PE | cr0::PG),
            (vmcs::GUEST_CR4.0, cr4::PAE | cr4::SMAP),
            (vmcs::GUEST_EFER.0, efer::LMA),
            (vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xa0fb),
            (vmcs::GUEST_SS_ACCESS_RIGHTS.0, 0xc0f3),
            (vmcs::GUEST_RFLAGS.0, rflags::AC | 2),
        ]);
        let read = |map: &MapVmcs| AddressSpace::read(map).unwrap();
        assert_eq!(read(&map).mode, Mode::Bits64);
        assert_eq!(read(&map).privilege(), Privilege::User);
        map.fields
            .extend([(vmcs::GUEST_SS_ACCESS_RIGHTS.0, 0xc093)]);
        assert_eq!(read(&map).privilege(), Privilege::SupervisorReachingUser);
        map.fields.extend([(vmcs::GUEST_RFLAGS.0, 2)]);
        assert_eq!(read(&map).privilege(), Privilege::Supervisor);
        map.fields
            .extend([(vmcs::GUEST_CS_ACCESS_RIGHTS.0, 0xc09b)]);
        assert_eq!(read(&map).mode, Mode::Protected);
        map.fields.extend([
            (vmcs::GUEST_EFER.0, 0),
            (vmcs::GUEST_RFLAGS.0, rflags::VM | 2),
        ]);
        assert_eq!(read(&map).mode, Mode::Virtual8086);
        map.fields.extend([(vmcs::GUEST_CR0.0, 0)]);
        assert_eq!(read(&map).mode, Mode::Real);
    }
}
