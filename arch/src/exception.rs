//! Exception vectors (SDM 6.3.1 Exceptions: sources and vectors).

/// #DE, divide error.
pub const DIVIDE_ERROR: u8 = 0;
/// #DB, debug.
pub const DEBUG: u8 = 1;
/// The vector of a non-maskable interrupt.
pub const NON_MASKABLE_INTERRUPT: u8 = 2;
/// #BP, breakpoint.
pub const BREAKPOINT: u8 = 3;
/// #OF, overflow.
pub const OVERFLOW: u8 = 4;
/// #BR, BOUND range exceeded.
pub const BOUND_RANGE: u8 = 5;
/// #UD, invalid opcode.
pub const INVALID_OPCODE: u8 = 6;
/// #NM, device not available.
pub const DEVICE_NOT_AVAILABLE: u8 = 7;
/// #DF, double fault.
pub const DOUBLE_FAULT: u8 = 8;
/// #TS, invalid TSS.
pub const INVALID_TSS: u8 = 10;
/// #NP, segment not present.
pub const SEGMENT_NOT_PRESENT: u8 = 11;
/// #SS, stack-segment fault.
pub const STACK_FAULT: u8 = 12;
/// #GP, general protection.
pub const GENERAL_PROTECTION: u8 = 13;
/// #PF, page fault.
pub const PAGE_FAULT: u8 = 14;
/// #MF, x87 floating-point error.
pub const X87_FLOATING_POINT: u8 = 16;
/// #AC, alignment check.
pub const ALIGNMENT_CHECK: u8 = 17;
/// #MC, machine check.
pub const MACHINE_CHECK: u8 = 18;
/// #XM, SIMD floating-point exception.
pub const SIMD_FLOATING_POINT: u8 = 19;
/// #VE, virtualization exception.
pub const VIRTUALIZATION: u8 = 20;
/// #CP, control protection.
pub const CONTROL_PROTECTION: u8 = 21;

/// Whether delivery of exception `vector` pushes an error code (SDM 6.13 Error code).
pub const fn pushes_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// Whether exception `vector` is a fault whatever its cause, so that its delivery saves RFLAGS.RF as 1 (SDM
/// 6.5 Exception classifications, 17.3.1.1): not #DB, whose saved RF is what it was, nor traps and aborts.
pub const fn is_fault(vector: u8) -> bool {
    matches!(vector, 0 | 5..=7 | 10..=14 | 16 | 17 | 19..=21)
}

/// Error-code bits of a page fault (SDM 4.7 Page-fault exceptions).
pub mod page_fault {
    /// The fault was a protection violation, not a non-present page.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was a user-mode access.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a paging-structure entry.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}
