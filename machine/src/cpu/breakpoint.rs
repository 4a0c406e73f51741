//! Breakpoints in the debug registers (SDM 17.2.4, 17.2.5, 17.3.1.1, 17.3.1.2): on instructions, on data
//! and on ports.
//!
//! They cost nothing while none is enabled. A page with an enabled data breakpoint has no translation for
//! data in the cache, so that every access to it is looked at; and after each instruction events are.

use arch::control_register::{cr0, cr4, rflags};
use arch::exception as vector;

use super::{
    Cpu, Inhibit,
    raise::{Exception, Raised, Source},
    segment::register,
    tlb::{Access, Privilege},
};

/// IA32_DEBUGCTL (SDM 17.4.1).
pub mod debugctl {
    /// LBR: record branches. It can be set; the records are model-specific, and this model has none.
    pub const LAST_BRANCH_RECORD: u64 = 1;
    /// BTF: RFLAGS.TF traps after branches only.
    pub const BRANCH_TRAP_FLAG: u64 = 1 << 1;
    /// The bits that exist.
    pub const DEFINED: u64 = LAST_BRANCH_RECORD | BRANCH_TRAP_FLAG;
}

/// DR7's local and global enables of the four breakpoints.
const ENABLES: u64 = 0xff;
/// DR6.BS.
pub const SINGLE_STEP: u64 = 1 << 14;

/// What a breakpoint waits for (DR7.R/W).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Execution,
    Write,
    Port,
    ReadOrWrite,
}

/// An enabled breakpoint.
#[derive(Clone, Copy, Debug)]
struct Breakpoint {
    condition: Condition,
    /// Its first address, aligned to its length.
    first: u64,
    /// Bytes.
    length: u64,
    /// Its bit in DR6.
    bit: u64,
}

impl Breakpoint {
    fn covers(&self, first: u64, length: u64) -> bool {
        first.wrapping_sub(self.first) < self.length || self.first.wrapping_sub(first) < length
    }
}

impl Cpu {
    /// Whether any breakpoint is enabled: then every instruction is looked at.
    #[inline(always)]
    pub fn breakpoints_enabled(&self) -> bool {
        self.dr[7] & ENABLES != 0
    }

    /// The enabled breakpoints.
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> {
        let (dr, ports) = (self.dr, self.cr4 & cr4::DE != 0);
        (0..4_usize).filter_map(move |number| {
            let field = dr[7] >> (16 + number * 4);
            let condition = match field & 3 {
                0 => Condition::Execution,
                1 => Condition::Write,
                2 if ports => Condition::Port,
                2 => return None,
                _ => Condition::ReadOrWrite,
            };
            let length = match field >> 2 & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            (dr[7] >> (number * 2) & 3 != 0).then_some(Breakpoint {
                condition,
                first: dr[number] & !(length - 1),
                length,
                bit: 1 << number,
            })
        })
    }

    /// The DR6 bits of the enabled instruction breakpoints at RIP, unless RF or a MOV SS before holds
    /// them off (SDM 6.8.3).
    pub(super) fn instruction_breakpoint(&self) -> Option<u64> {
        if self.system_flags & rflags::RF != 0 || self.inhibit == Inhibit::MovSs {
            return None;
        }
        let rip = self.rip();
        let linear = if self.mode_64 {
            rip
        } else {
            let base = self.segments[register::CS as usize].base;
            base.wrapping_add(rip) as u32 as u64
        };
        let hit = self
            .breakpoints()
            .filter(|one| {
                one.condition == Condition::Execution && one.length == 1 && one.first == linear
            })
            .fold(0, |hit, one| hit | one.bit);
        (hit != 0).then_some(hit)
    }

    /// Whether accesses to the page of `linear` must be looked at one by one, and so must not be cached:
    /// for a data breakpoint there, or because their alignment is checked.
    #[inline]
    pub(super) fn looks_at_accesses(&self, linear: u64, privilege: Privilege) -> bool {
        let page = linear & !0xfff;
        self.alignment_checked && privilege == Privilege::User
            || self.breakpoints_enabled()
                && self.breakpoints().any(|one| {
                    matches!(one.condition, Condition::Write | Condition::ReadOrWrite)
                        && one.covers(page, 4096)
                })
    }

    /// Remembers which data breakpoints an access meets.
    #[inline]
    pub(super) fn note_data_access(&mut self, linear: u64, size: usize, access: Access) {
        if self.breakpoints_enabled() {
            let hits = self.breakpoints().filter(|one| {
                let waits = match one.condition {
                    Condition::Write => access == Access::Write,
                    Condition::ReadOrWrite => access != Access::Execute,
                    Condition::Execution | Condition::Port => false,
                };
                waits && one.covers(linear, size as u64)
            });
            self.breakpoints_met |= hits.fold(0, |all, one| all | one.bit);
        }
    }

    /// Remembers which I/O breakpoints an access meets.
    #[inline]
    pub(super) fn note_port_access(&mut self, port: u16, size: u8) {
        if self.breakpoints_enabled() {
            let hits = self.breakpoints().filter(|one| {
                one.condition == Condition::Port && one.covers(port.into(), size.into())
            });
            self.breakpoints_met |= hits.fold(0, |all, one| all | one.bit);
        }
    }

    /// Before an instruction: what an earlier one met is done with, but for a MOV SS, whose trap waits
    /// for this one (SDM 6.8.3).
    pub(super) fn forget_breakpoints_met(&mut self) {
        if self.inhibit != Inhibit::MovSs {
            self.breakpoints_met = 0;
        }
    }

    /// After an instruction that completed: the DR6 bits of the trap that is due, or 0.
    pub(super) fn trap_due(&mut self, stepped: bool) -> u64 {
        if self.inhibit == Inhibit::MovSs {
            return 0;
        }
        let step = if stepped && !self.trap_suppressed {
            SINGLE_STEP
        } else {
            0
        };
        std::mem::take(&mut self.breakpoints_met) | step
    }

    /// What a MOV SS before held back and the instruction that runs now delivers with its own #DB (INT1).
    pub(super) fn take_held_breakpoints(&mut self) -> u64 {
        let met = std::mem::take(&mut self.breakpoints_met);
        if self.vmx.non_root {
            met | crate::vtx::events::take_pending_debug(self)
        } else {
            met
        }
    }

    /// Data breakpoints or the conditions of alignment checks changed: what is cached may be what has to
    /// be looked at.
    pub fn refresh_data_breakpoints(&mut self) {
        if self.breakpoints_enabled() {
            self.tlb.flush();
        }
    }

    /// Whether alignment is checked (SDM 6.15, "Interrupt 17"): asked after whatever may have changed it,
    /// before the next instruction.
    pub(crate) fn refresh_alignment_check(&mut self) {
        let checked =
            self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.system_flags & rflags::AC != 0;
        if checked && !self.alignment_checked {
            self.tlb.flush();
        }
        self.alignment_checked = checked;
    }

    /// #AC(0) for a misaligned access of a program with alignment checks. Operands of 16 bytes have
    /// none: what must be aligned is #GP then, and Intel's processors let the others pass, though SDM
    /// volume 2 lists #AC for them.
    #[inline]
    pub(super) fn check_alignment(
        &mut self,
        linear: u64,
        size: usize,
        privilege: Privilege,
    ) -> Result<(), Raised> {
        if self.alignment_checked
            && privilege == Privilege::User
            && size < 16
            && linear & (size as u64).wrapping_sub(1) != 0
        {
            return Err(self.fault(vector::ALIGNMENT_CHECK, Some(0)));
        }
        Ok(())
    }

    /// #DB after an instruction, for what DR6 then says.
    pub(super) fn debug_trap(&mut self, mut detail: u64) {
        if self.vmx.non_root {
            detail |= crate::vtx::events::take_pending_debug(self);
            if crate::vtx::events::leave_before_trap(self, detail) {
                return;
            }
        }
        self.deliver_exception(Exception {
            vector: vector::DEBUG,
            error_code: None,
            detail,
            source: Source::Trap,
        });
    }
}
