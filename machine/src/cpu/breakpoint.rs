//! Instruction breakpoints in the debug registers (SDM 17.2.4, 17.3.1.1).

use arch::control_register::rflags;

use super::{Cpu, segment::register};

/// DR7's local and global enables of the four breakpoints.
const ENABLES: u64 = 0xff;

impl Cpu {
    /// Whether any breakpoint is enabled: then every instruction is looked at.
    #[inline(always)]
    pub fn breakpoints_enabled(&self) -> bool {
        self.dr[7] & ENABLES != 0
    }

    /// The DR6 bits of the enabled instruction breakpoints at RIP, unless RF holds them off.
    pub(super) fn instruction_breakpoint(&self) -> Option<u64> {
        if self.system_flags & rflags::RF != 0 {
            return None;
        }
        let rip = self.rip();
        let linear = if self.mode_64 {
            rip
        } else {
            let base = self.segments[register::CS as usize].base;
            base.wrapping_add(rip) as u32 as u64
        };
        let mut hit = 0;
        for number in 0..4_usize {
            let enabled = self.dr[7] >> (number * 2) & 3 != 0;
            let instruction = self.dr[7] >> (16 + number * 4) & 0xf == 0;
            if enabled && instruction && self.dr[number] == linear {
                hit |= 1 << number;
            }
        }
        (hit != 0).then_some(hit)
    }
}
