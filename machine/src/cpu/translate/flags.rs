//! Status flags: the host's, and those in memory.
//!
//! In memory they are in the packed form of [`Flags`](crate::cpu::flags::Flags), which LAHF and SETO
//! make and which ADD and SAHF load. They are stored after each instruction that sets one that
//! somebody may look at; neither the store nor a move changes those of the host, which serve the
//! instructions that follow as long as nothing changes them.

use super::assembler::{Arithmetic, Width, register::*};
use super::block::Translation;
use super::state;

const LAHF: u8 = 0x9f;
const SAHF: u8 = 0x9e;
/// AH's bit of AF.
const ADJUST: i32 = 0x1000;
const OVERFLOW_CONDITION: u8 = 0;
/// BT among the bit instructions.
const BIT_TEST: u8 = 4;
/// The bit of CF in the packed form.
const PACKED_CARRY: u8 = 8;

impl Translation<'_> {
    /// An instruction set the host's flags to what the guest's are now: they are stored if somebody may
    /// look. RAX is lost.
    pub(super) fn flags_set(&mut self) {
        self.host_flags = true;
        if self.live == super::liveness::NONE {
            return;
        }
        self.out.byte(LAHF);
        self.out.set_condition(OVERFLOW_CONDITION, RAX);
        self.out.store(Width::Word, state::FLAGS, RAX);
    }

    /// As [`Self::flags_set`] after a shift: AF is 0 and OF is what `overflow` puts into AL, given CF and
    /// SF in AH. RAX is lost, and the host's flags are not the guest's.
    pub(super) fn flags_set_by_shift(&mut self, overflow: impl FnOnce(&mut Self)) {
        self.host_flags = false;
        if self.live == super::liveness::NONE {
            return;
        }
        self.out.byte(LAHF);
        overflow(self);
        self.out
            .arithmetic_immediate(Arithmetic::And, Width::Double, RAX, !ADJUST);
        self.out.store(Width::Word, state::FLAGS, RAX);
    }

    /// The host's flags become something else.
    pub(super) fn flags_lost(&mut self) {
        self.host_flags = false;
    }

    /// Makes the host's flags the guest's. RAX is lost.
    pub(super) fn need_flags(&mut self) {
        if !self.host_flags {
            self.load_flags();
            self.host_flags = true;
        }
    }

    pub(super) fn load_flags(&mut self) {
        self.out.zero_extend(Width::Word, RAX, state::FLAGS);
        // 7FH + 1 overflows, 7FH + 0 does not.
        self.out
            .arithmetic_immediate(Arithmetic::Add, Width::Byte, RAX, 0x7f);
        self.out.byte(SAHF);
    }

    /// Makes the host's CF the guest's, and no register lost.
    pub(super) fn need_carry(&mut self) {
        if !self.host_flags {
            self.out
                .change_bit(BIT_TEST, Width::Word, state::FLAGS, PACKED_CARRY);
        }
    }
}
