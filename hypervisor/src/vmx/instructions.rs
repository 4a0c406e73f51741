//! The VMX instructions, and the one place where the processor enters a guest.
#![allow(unsafe_code, reason = "each function is one VMX instruction")]

use super::vmcs::{Failure, Operation, Vmcs, VmxError};
use core::arch::{asm, naked_asm};

#[inline]
fn check(carry: u8, zero: u8, operation: Operation) -> Result<(), VmxError> {
    // SDM 31.2 Conventions: CF says VMfailInvalid, ZF VMfailValid.
    if carry | zero == 0 {
        Ok(())
    } else {
        Err(failed(carry != 0, operation))
    }
}

#[cold]
fn failed(invalid: bool, operation: Operation) -> VmxError {
    let failure = if invalid {
        Failure::Invalid
    } else {
        Failure::Valid(instruction_error())
    };
    VmxError { operation, failure }
}

/// The VM-instruction error field of the current VMCS.
fn instruction_error() -> u32 {
    let value: u64;
    // SAFETY: VMREAD writes only its operand; if it fails the operand keeps 0.
    unsafe {
        asm!("vmread {0}, {1}", inout(reg) 0u64 => value,
            in(reg) u64::from(arch::vmcs::INSTRUCTION_ERROR.0), options(nostack));
    }
    value as u32
}

macro_rules! on_address {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor uses the region from now on; nothing else may touch it until it is given
        /// back. The processor must be in the operation that the instruction wants.
        pub unsafe fn $name(address: u64) -> Result<(), VmxError> {
            let (carry, zero): (u8, u8);
            // SAFETY: the caller's promise; the operand is read from `address` on the stack.
            unsafe {
                asm!(concat!($mnemonic, " [{2}]"), "setc {0}", "setz {1}",
                    out(reg_byte) carry, out(reg_byte) zero, in(reg) &address, options(nostack));
            }
            check(carry, zero, Operation::Instruction($mnemonic))
        }
    };
}

on_address!(
    /// VMXON with the region at physical address `address`.
    vmxon, "vmxon");
on_address!(
    /// VMCLEAR of the VMCS at physical address `address`.
    vmclear, "vmclear");
on_address!(
    /// VMPTRLD of the VMCS at physical address `address`.
    vmptrld, "vmptrld");

/// What INVEPT or INVVPID invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// One context: the given EPT pointer or VPID.
    Single(u64),
    /// All contexts.
    All,
}

/// INVEPT.
pub fn invept(what: Invalidation) -> Result<(), VmxError> {
    let (kind, operand) = match what {
        Invalidation::Single(ept_pointer) => (1u64, ept_pointer),
        Invalidation::All => (2, 0),
    };
    let descriptor = [operand, 0];
    let (carry, zero): (u8, u8);
    // SAFETY: dropping cached translations never changes what memory means.
    unsafe {
        asm!("invept {3}, [{2}]", "setc {0}", "setz {1}",
            out(reg_byte) carry, out(reg_byte) zero, in(reg) &descriptor, in(reg) kind,
            options(nostack));
    }
    check(carry, zero, Operation::Instruction("invept"))
}

/// INVVPID.
pub fn invvpid(what: Invalidation) -> Result<(), VmxError> {
    let (kind, operand) = match what {
        Invalidation::Single(vpid) => (1u64, vpid),
        Invalidation::All => (2, 0),
    };
    let descriptor = [operand, 0];
    let (carry, zero): (u8, u8);
    // SAFETY: as `invept`.
    unsafe {
        asm!("invvpid {3}, [{2}]", "setc {0}", "setz {1}",
            out(reg_byte) carry, out(reg_byte) zero, in(reg) &descriptor, in(reg) kind,
            options(nostack));
    }
    check(carry, zero, Operation::Instruction("invvpid"))
}

/// The VMCS that is current on this processor. Made by whoever executed VMPTRLD; it must not
/// outlive the VMCS's being current.
#[derive(Debug)]
pub struct CurrentVmcs(());

impl CurrentVmcs {
    /// # Safety
    /// A VMCS must be current on this processor for as long as the value is used.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Vmcs for CurrentVmcs {
    #[inline(always)]
    fn read_raw(&self, encoding: u32) -> Result<u64, VmxError> {
        let value: u64;
        let failed_: u8;
        // SAFETY: VMREAD writes only its register operand.
        unsafe {
            asm!("vmread {0}, {1}", "setbe {2}", out(reg) value, in(reg) u64::from(encoding),
                out(reg_byte) failed_, options(nomem, nostack));
        }
        if failed_ != 0 {
            return Err(access_failed(Operation::Read(encoding)));
        }
        Ok(value)
    }

    #[inline(always)]
    fn write_raw(&mut self, encoding: u32, value: u64) -> Result<(), VmxError> {
        let failed_: u8;
        // SAFETY: VMWRITE changes the current VMCS only, which the `&mut` borrow stands for. The
        // fields that could lead root mode astray (host state) are written by the set-up code only.
        unsafe {
            asm!("vmwrite {0}, {1}", "setbe {2}", in(reg) u64::from(encoding), in(reg) value,
                out(reg_byte) failed_, options(nostack));
        }
        if failed_ != 0 {
            return Err(access_failed(Operation::Write(encoding, value)));
        }
        Ok(())
    }
}

/// VMREAD or VMWRITE failed: VMfailInvalid without a current VMCS, and then the error field cannot
/// be read either.
#[cold]
fn access_failed(operation: Operation) -> VmxError {
    match instruction_error() {
        0 => failed(true, operation),
        number => VmxError {
            operation,
            failure: Failure::Valid(number),
        },
    }
}

/// The general-purpose registers of a guest in the processor's numbering. The place of RSP, which
/// the VMCS holds, keeps the HOST_RSP last written.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GuestRegisters(pub [u64; 16]);

/// Index of RAX in [`GuestRegisters`].
pub const RAX: usize = 0;
/// Index of RCX.
pub const RCX: usize = 1;
/// Index of RDX.
pub const RDX: usize = 2;
/// Index of RBX.
pub const RBX: usize = 3;
/// Index of RSP's place.
pub const RSP: usize = 4;
/// Index of RSI.
pub const RSI: usize = 6;
/// Index of RDI.
pub const RDI: usize = 7;

/// Whether the current VMCS has been launched since VMCLEAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum LaunchState {
    /// VMLAUNCH.
    Clear = 0,
    /// VMRESUME.
    Launched = 1,
}

/// Enters the guest and returns after the next VM exit, or when the entry failed before it.
///
/// # Safety
/// A VMCS whose host state describes this processor must be current, and nothing that the guest
/// may do with its memory, MSRs and ports may harm the hypervisor: EPT, bitmaps and controls are
/// set up.
#[inline(always)]
pub unsafe fn enter(registers: &mut GuestRegisters, launched: LaunchState) -> Result<(), VmxError> {
    // SAFETY: the caller's promise; the function keeps the C calling convention.
    let failed_ = unsafe { enter_asm(registers, launched as u64) };
    if failed_ == 0 {
        return Ok(());
    }
    let name = match launched {
        LaunchState::Clear => "VMLAUNCH",
        LaunchState::Launched => "VMRESUME",
    };
    Err(failed(failed_ == 1, Operation::Instruction(name)))
}

/// 0 after a VM exit, 1 for VMfailInvalid, 2 for VMfailValid.
///
/// # Safety
/// As [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn enter_asm(registers: *mut GuestRegisters, launched: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        // HOST_RSP and HOST_RIP change only when another processor or another depth of call
        // enters this VMCS.
        "cmp rsp, [rdi + 32]",
        "je 2f",
        "mov eax, 0x6c14",
        "vmwrite rax, rsp",
        "jbe 5f",
        "lea rdx, [rip + 4f]",
        "mov eax, 0x6c16",
        "vmwrite rax, rdx",
        "jbe 5f",
        "mov [rdi + 32], rsp",
        "2:",
        "test esi, esi",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov rbx, [rdi + 24]",
        "mov rbp, [rdi + 40]",
        "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]",
        "mov r9, [rdi + 72]",
        "mov r10, [rdi + 80]",
        "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]",
        "mov r13, [rdi + 104]",
        "mov r14, [rdi + 112]",
        "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "jz 3f",
        "vmresume",
        "jmp 5f",
        "3:",
        "vmlaunch",
        "jmp 5f",
        // The VM exit: RSP is HOST_RSP, everything else the guest's.
        "4:",
        "xchg rdi, [rsp]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "pop qword ptr [rdi + 56]",
        "xor eax, eax",
        "jmp 6f",
        // VMfail: CF or ZF says which.
        "5:",
        "mov eax, 2",
        "mov ecx, 1",
        "cmovc eax, ecx",
        "pop rdi",
        "6:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
