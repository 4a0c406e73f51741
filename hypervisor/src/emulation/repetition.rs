//! String instructions, alone or repeated (SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ).

use super::fault::Stop;
use crate::vmx::instructions::RCX;
use arch::control_register::rflags;
use core::ops::ControlFlow;

/// Iterations at one exit at most: between two of them the guest may take an interrupt.
const LONGEST_RUN: u32 = 64;

/// How a string instruction goes on from element to element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repetition {
    /// Whether there is a REP prefix.
    pub repeats: bool,
    /// What the instruction's address size leaves of RCX, RSI and RDI.
    pub address_mask: u64,
    /// What is added to RSI and RDI for an element.
    pub step: u64,
    /// Whether the guest takes a trap after each iteration.
    pub stepping: bool,
}

/// How far an instruction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is complete.
    Complete,
    /// There are iterations left.
    Suspended,
    /// It is complete, and has gone to this offset in the code segment.
    Branched(u64),
}

impl Repetition {
    /// For elements of `size` bytes of a guest with these RFLAGS.
    pub fn new(repeats: bool, address_mask: u64, size: u8, flags: u64) -> Self {
        let size = u64::from(size);
        Self {
            repeats,
            address_mask,
            step: if flags & rflags::DF != 0 {
                size.wrapping_neg()
            } else {
                size
            },
            stepping: flags & rflags::TF != 0,
        }
    }

    /// The offset that a register names.
    pub fn offset(&self, register: u64) -> u64 {
        register & self.address_mask
    }

    /// Sets what the address size covers of a register; 32-bit results are zero-extended.
    fn set(&self, register: &mut u64, value: u64) {
        *register = match self.address_mask {
            0xffff => *register & !0xffff | value & 0xffff,
            mask => value & mask,
        };
    }

    /// Moves elements, each by `element`, and keeps RCX and `pointers`. An element may break the
    /// repetition after it. One that stops short leaves the registers as it found them.
    pub fn run(
        &self,
        registers: &mut [u64; 16],
        pointers: &[usize],
        mut element: impl FnMut(&mut [u64; 16]) -> Result<ControlFlow<()>, Stop>,
    ) -> Result<Progress, Stop> {
        let longest = if self.stepping { 1 } else { LONGEST_RUN };
        for _ in 0..longest {
            if self.repeats && self.offset(registers[RCX]) == 0 {
                return Ok(Progress::Complete);
            }
            let flow = element(registers)?;
            for pointer in pointers {
                let Some(register) = registers.get_mut(*pointer) else {
                    continue;
                };
                let next = register.wrapping_add(self.step);
                self.set(register, next);
            }
            if !self.repeats {
                return Ok(Progress::Complete);
            }
            let left = self.offset(registers[RCX]).wrapping_sub(1);
            self.set(&mut registers[RCX], left);
            if left == 0 || flow.is_break() {
                return Ok(Progress::Complete);
            }
        }
        Ok(Progress::Suspended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulation::fault::Fault;
    use crate::vmx::instructions::{RDI, RSI};

    const FORWARD: Repetition = Repetition {
        repeats: true,
        address_mask: u64::MAX,
        step: 1,
        stepping: false,
    };

    fn registers(count: u64, source: u64, destination: u64) -> [u64; 16] {
        let mut registers = [0; 16];
        registers[RCX] = count;
        registers[RSI] = source;
        registers[RDI] = destination;
        registers
    }

    fn go_on(_: &mut [u64; 16]) -> Result<ControlFlow<()>, Stop> {
        Ok(ControlFlow::Continue(()))
    }

    #[test]
    fn a_repeated_run_moves_each_element_and_ends_at_its_limit() {
        let mut registers = registers(70, 0x5000, 7);
        let mut moved = Vec::new();
        let first = FORWARD.run(&mut registers, &[RSI], |registers| {
            moved.push(registers[RSI]);
            go_on(registers)
        });
        assert_eq!(first, Ok(Progress::Suspended));
        assert_eq!(moved, (0x5000..0x5040).collect::<Vec<u64>>());
        assert_eq!(
            (registers[RCX], registers[RSI], registers[RDI]),
            (6, 0x5040, 7)
        );
        let rest = FORWARD.run(&mut registers, &[RSI], go_on);
        assert_eq!(rest, Ok(Progress::Complete));
        assert_eq!((registers[RCX], registers[RSI]), (0, 0x5046));
        let none = FORWARD.run(&mut registers, &[RSI], |_| panic!("none is left"));
        assert_eq!(none, Ok(Progress::Complete));
    }

    #[test]
    fn without_rep_there_is_one_element_whatever_rcx_says() {
        let mut registers = registers(0, 0x10, 0x20);
        let backward = Repetition::new(false, u64::MAX, 2, rflags::DF);
        let progress = backward.run(&mut registers, &[RDI], go_on);
        assert_eq!(progress, Ok(Progress::Complete));
        assert_eq!(
            (registers[RCX], registers[RSI], registers[RDI]),
            (0, 0x10, 0x1e)
        );
    }

    #[test]
    fn narrow_addresses_leave_or_clear_the_rest_of_a_register_and_wrap() {
        let high = 0xaaaa_0000_0000_0000;
        let bits16 = Repetition::new(true, 0xffff, 4, 0);
        let mut narrow = registers(high | 2, high | 0xfffe, 0);
        let progress = bits16.run(&mut narrow, &[RSI], go_on);
        assert_eq!(progress, Ok(Progress::Complete));
        assert_eq!((narrow[RCX], narrow[RSI]), (high, high | 6));
        let bits32 = Repetition::new(true, 0xffff_ffff, 1, 0);
        let mut narrow = registers(high | 1, high | 0xff, 0);
        let progress = bits32.run(&mut narrow, &[RSI], go_on);
        assert_eq!(progress, Ok(Progress::Complete));
        assert_eq!((narrow[RCX], narrow[RSI]), (0, 0x100));
    }

    #[test]
    fn a_fault_leaves_the_registers_at_its_element() {
        let fault = Stop::Fault(Fault::GENERAL_PROTECTION);
        let mut registers = registers(5, 0x5000, 0);
        let progress = FORWARD.run(&mut registers, &[RSI], |registers| {
            if registers[RSI] == 0x5002 {
                Err(fault)
            } else {
                go_on(registers)
            }
        });
        assert_eq!(progress, Err(fault));
        assert_eq!((registers[RCX], registers[RSI]), (3, 0x5002));
    }

    #[test]
    fn a_guest_that_steps_gets_one_iteration() {
        let stepping = Repetition::new(true, u64::MAX, 1, rflags::TF);
        let mut registers = registers(2, 0, 0x100);
        let progress = stepping.run(&mut registers, &[RDI], go_on);
        assert_eq!(progress, Ok(Progress::Suspended));
        assert_eq!((registers[RCX], registers[RDI]), (1, 0x101));
        let progress = stepping.run(&mut registers, &[RDI], go_on);
        assert_eq!(progress, Ok(Progress::Complete));
    }

    #[test]
    fn an_element_may_be_the_last() {
        let mut registers = registers(5, 0, 0);
        let progress = FORWARD.run(&mut registers, &[RSI, RDI], |_| Ok(ControlFlow::Break(())));
        assert_eq!(progress, Ok(Progress::Complete));
        assert_eq!((registers[RCX], registers[RSI], registers[RDI]), (4, 1, 1));
    }
}
