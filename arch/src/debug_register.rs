//! Bits of DR6, DR7 and IA32_DEBUGCTL, and of the fields of the VMCS that show what DR6 would (SDM 17.2
//! Debug registers, 17.4.1 IA32_DEBUGCTL MSR).

/// Bits of DR6, which say why a debug exception was generated.
pub mod dr6 {
    /// B3 to B0: the breakpoints that were met.
    pub const BREAKPOINTS: u64 = 15;
    /// BLD, 0 for a bus lock; otherwise 1.
    pub const BUS_LOCK: u64 = 1 << 11;
    /// BD: the next instruction accesses a debug register while DR7.GD is 1.
    pub const REGISTER_ACCESS: u64 = 1 << 13;
    /// BS: single step.
    pub const SINGLE_STEP: u64 = 1 << 14;
    /// BT: task switch.
    pub const TASK_SWITCH: u64 = 1 << 15;
    /// RTM, 0 for an exception in a transactional region; otherwise 1.
    pub const TRANSACTION: u64 = 1 << 16;
    /// Bits that a debug exception clears where others are set.
    pub const ACTIVE_LOW: u64 = BUS_LOCK | TRANSACTION;
}

/// Bits of DR7, which says what the breakpoints are.
pub mod dr7 {
    /// The local and global enables of the four breakpoints.
    pub const ENABLES: u64 = 0xff;
    /// GD: an access to a debug register is a debug exception.
    pub const GENERAL_DETECT: u64 = 1 << 13;
}

/// Bits of IA32_DEBUGCTL.
pub mod debugctl {
    /// BTF: RFLAGS.TF traps after branches only.
    pub const BRANCH_TRAP_FLAG: u64 = 1 << 1;
}

/// Bits of the pending debug exceptions in the guest-state area (SDM 25.4.2, table "Format of
/// Pending-Debug-Exceptions").
pub mod pending {
    /// B3 to B0: the breakpoints that were met, enabled or not.
    pub const BREAKPOINTS: u64 = super::dr6::BREAKPOINTS;
    /// One of the breakpoints that were met is enabled.
    pub const ENABLED_BREAKPOINT: u64 = 1 << 12;
    /// Single step.
    pub const SINGLE_STEP: u64 = super::dr6::SINGLE_STEP;
    /// A debug exception in a transactional region.
    pub const TRANSACTION: u64 = super::dr6::TRANSACTION;
    /// Every bit that is not reserved.
    pub const DEFINED: u64 = BREAKPOINTS | ENABLED_BREAKPOINT | SINGLE_STEP | TRANSACTION;
}
