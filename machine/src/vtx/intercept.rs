//! Instructions that leave VMX non-root operation (SDM 25.1 Instructions that cause VM exits).
//!
//! Each hook is called where the instruction's own faults that come first have been raised (SDM
//! 25.1.1 Relative priority of faults and VM exits).

use arch::{
    exit::ExitReason,
    vmx_control::{pin, primary, secondary},
};

use super::{VmExit, instruction_information as information};
use crate::cpu::{Cpu, op::Op, raise::Raised};

/// An instruction without operands that matter to the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// CPUID, always.
    Cpuid,
    /// GETSEC, always.
    Getsec,
    /// INVD, always.
    Invd,
    /// XSETBV, always.
    Xsetbv,
    /// HLT.
    Hlt,
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// MONITOR.
    Monitor,
    /// WBINVD and WBNOINVD.
    Wbinvd,
    /// RSM, always.
    Rsm,
}

/// Leaves the guest if the instruction is intercepted.
#[inline]
pub fn check(cpu: &mut Cpu, instruction: Instruction) -> Result<(), Raised> {
    if cpu.vmx.non_root {
        check_in_guest(cpu, instruction)
    } else {
        Ok(())
    }
}

fn check_in_guest(cpu: &mut Cpu, instruction: Instruction) -> Result<(), Raised> {
    let c = &cpu.vmx.guest.controls;
    let (reason, exits) = match instruction {
        Instruction::Cpuid => (ExitReason::Cpuid, true),
        Instruction::Getsec => (ExitReason::Getsec, true),
        Instruction::Invd => (ExitReason::Invd, true),
        Instruction::Xsetbv => (ExitReason::Xsetbv, true),
        Instruction::Rsm => (ExitReason::Rsm, true),
        Instruction::Hlt => (ExitReason::Hlt, c.primary(primary::HLT_EXITING)),
        Instruction::Rdpmc => (ExitReason::Rdpmc, c.primary(primary::RDPMC_EXITING)),
        Instruction::Rdtsc => (ExitReason::Rdtsc, c.primary(primary::RDTSC_EXITING)),
        Instruction::Rdtscp => (ExitReason::Rdtscp, c.primary(primary::RDTSC_EXITING)),
        Instruction::Monitor => (ExitReason::Monitor, c.primary(primary::MONITOR_EXITING)),
        Instruction::Wbinvd => (ExitReason::Wbinvd, c.secondary(secondary::WBINVD_EXITING)),
    };
    if exits {
        Err(cpu.vm_exit(VmExit::new(reason)))
    } else {
        Ok(())
    }
}

/// RDTSCP and RDPID without "enable RDTSCP" raise #UD (SDM 25.3).
pub fn check_rdtscp_enabled(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.vmx.non_root && !cpu.vmx.guest.controls.secondary(secondary::ENABLE_RDTSCP) {
        return Err(cpu.invalid_opcode());
    }
    Ok(())
}

/// MWAIT; the qualification says whether the monitoring hardware is armed (SDM 27.2.1).
pub fn mwait(cpu: &mut Cpu, armed: bool) -> Result<(), Raised> {
    if cpu.vmx.non_root && cpu.vmx.guest.controls.primary(primary::MWAIT_EXITING) {
        return Err(cpu.vm_exit(VmExit::qualified(ExitReason::Mwait, armed.into())));
    }
    Ok(())
}

/// INVLPG of a linear address.
pub fn invlpg(cpu: &mut Cpu, linear: u64) -> Result<(), Raised> {
    if cpu.vmx.non_root && cpu.vmx.guest.controls.primary(primary::INVLPG_EXITING) {
        return Err(cpu.vm_exit(VmExit::qualified(ExitReason::Invlpg, linear)));
    }
    Ok(())
}

/// INVPCID without "enable INVPCID" raises #UD (SDM 25.3).
pub fn check_invpcid_enabled(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.vmx.non_root && !cpu.vmx.guest.controls.secondary(secondary::ENABLE_INVPCID) {
        return Err(cpu.invalid_opcode());
    }
    Ok(())
}

/// XSAVES and XRSTORS without "enable XSAVES/XRSTORS" raise #UD (SDM 25.3). With it they exit for state
/// components of IA32_XSS (25.1.3), of which there are none.
pub fn check_xsaves_enabled(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.vmx.non_root && !cpu.vmx.guest.controls.secondary(secondary::ENABLE_XSAVES) {
        return Err(cpu.invalid_opcode());
    }
    Ok(())
}

/// INVPCID, enabled: it exits with "INVLPG exiting" (SDM 25.1.3).
pub fn invpcid(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if !cpu.vmx.non_root || !cpu.vmx.guest.controls.primary(primary::INVLPG_EXITING) {
        return Ok(());
    }
    // SDM 27.2.5, table 27-9: as of INVEPT and INVVPID.
    let operand = information::memory_operand(op) | information::second_register(op.reg);
    let exit = VmExit::qualified(ExitReason::Invpcid, information::displacement(cpu, op));
    Err(cpu.vm_exit(exit.with_instruction_information(operand)))
}

/// RDRAND and RDSEED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Random {
    /// RDRAND.
    Rdrand,
    /// RDSEED.
    Rdseed,
}

/// RDRAND or RDSEED into register `reg` of `op`.
pub fn random(cpu: &mut Cpu, which: Random, op: &Op) -> Result<(), Raised> {
    let (reason, control) = match which {
        Random::Rdrand => (ExitReason::Rdrand, secondary::RDRAND_EXITING),
        Random::Rdseed => (ExitReason::Rdseed, secondary::RDSEED_EXITING),
    };
    if !cpu.vmx.non_root || !cpu.vmx.guest.controls.secondary(control) {
        return Ok(());
    }
    // SDM 27.2.5, table 27-13: destination in bits 6:3, operand size in bits 12:11.
    let size = match op.operand_bits() {
        16 => 0,
        32 => 1,
        _ => 2,
    };
    let operand = u32::from(op.reg & 15) << 3 | size << 11;
    Err(cpu.vm_exit(VmExit::new(reason).with_instruction_information(operand)))
}

/// LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR, by their number in the instruction information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorTable {
    /// SGDT.
    StoreGlobal,
    /// SIDT.
    StoreInterrupt,
    /// LGDT.
    LoadGlobal,
    /// LIDT.
    LoadInterrupt,
    /// SLDT.
    StoreLocal,
    /// STR.
    StoreTask,
    /// LLDT.
    LoadLocal,
    /// LTR.
    LoadTask,
}

/// Where an instruction has its one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandPlace {
    /// Register `reg`.
    Register,
    /// Memory.
    Memory,
}

/// An access to GDTR, IDTR, LDTR or TR (SDM 27.2.5, tables 27-10 and 27-11).
pub fn descriptor_table(
    cpu: &mut Cpu,
    which: DescriptorTable,
    place: OperandPlace,
    op: &Op,
) -> Result<(), Raised> {
    if !cpu.vmx.non_root
        || !cpu
            .vmx
            .guest
            .controls
            .secondary(secondary::DESCRIPTOR_TABLE_EXITING)
    {
        return Ok(());
    }
    let (reason, identity) = match which {
        DescriptorTable::StoreGlobal => (ExitReason::GdtrOrIdtrAccess, 0),
        DescriptorTable::StoreInterrupt => (ExitReason::GdtrOrIdtrAccess, 1),
        DescriptorTable::LoadGlobal => (ExitReason::GdtrOrIdtrAccess, 2),
        DescriptorTable::LoadInterrupt => (ExitReason::GdtrOrIdtrAccess, 3),
        DescriptorTable::StoreLocal => (ExitReason::LdtrOrTrAccess, 0),
        DescriptorTable::StoreTask => (ExitReason::LdtrOrTrAccess, 1),
        DescriptorTable::LoadLocal => (ExitReason::LdtrOrTrAccess, 2),
        DescriptorTable::LoadTask => (ExitReason::LdtrOrTrAccess, 3),
    };
    let (operand, qualification) = match place {
        OperandPlace::Register => (information::register_operand(op.reg), 0),
        OperandPlace::Memory => (
            information::memory_operand(op),
            information::displacement(cpu, op),
        ),
    };
    let size = u32::from(op.operand_bits() != 16) << 11;
    Err(cpu.vm_exit(
        VmExit::qualified(reason, qualification)
            .with_instruction_information(operand | size | identity << 28),
    ))
}

/// MOV to or from a debug register (SDM 27.2.1, table 27-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugDirection {
    /// MOV to DR.
    To,
    /// MOV from DR.
    From,
}

/// MOV DR between debug register `number` and general register `register`.
pub fn mov_dr(
    cpu: &mut Cpu,
    number: u8,
    direction: DebugDirection,
    register: u8,
) -> Result<(), Raised> {
    if !cpu.vmx.non_root || !cpu.vmx.guest.controls.primary(primary::MOV_DR_EXITING) {
        return Ok(());
    }
    let qualification = u64::from(number & 7)
        | u64::from(direction == DebugDirection::From) << 4
        | u64::from(register & 15) << 8;
    Err(cpu.vm_exit(VmExit::qualified(ExitReason::MovDr, qualification)))
}

/// Where a task switch comes from (SDM 27.2.1, table 27-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitch {
    /// CALL.
    Call = 0,
    /// IRET.
    Iret = 1,
    /// JMP.
    Jump = 2,
    /// A task gate in the IDT.
    Gate = 3,
}

/// A task switch to `selector`: always an exit in VMX non-root operation.
pub fn task_switch(cpu: &mut Cpu, selector: u16, source: TaskSwitch) -> Result<(), Raised> {
    if !cpu.vmx.non_root {
        return Ok(());
    }
    Err(cpu.vm_exit(VmExit::qualified(
        ExitReason::TaskSwitch,
        u64::from(selector) | (source as u64) << 30,
    )))
}

/// The time-stamp counter that RDTSC and RDTSCP read.
#[inline]
pub fn time_stamp_counter(cpu: &Cpu) -> u64 {
    let counter = cpu.time_stamp_counter();
    if cpu.vmx.non_root {
        cpu.vmx.guest.controls.guest_time(counter)
    } else {
        counter
    }
}

/// An NMI is being delivered through the guest's IDT: it blocks further ones, or further virtual
/// ones (SDM 24.6.1, "virtual NMIs").
pub fn block_nmi(cpu: &mut Cpu) {
    if cpu.vmx.non_root && cpu.vmx.guest.controls.virtual_nmis() {
        cpu.vmx.guest.virtual_nmi_blocked = true;
    } else {
        cpu.nmi_blocked = true;
    }
}

/// IRET ends the blocking of NMIs (SDM 25.3): of virtual ones if they are in use, of none if NMIs
/// leave the guest.
pub fn unblock_nmi(cpu: &mut Cpu) {
    let exiting = cpu.vmx.non_root && cpu.vmx.guest.controls.pin(pin::NMI_EXITING);
    let unblocked = if !exiting {
        std::mem::take(&mut cpu.nmi_blocked)
    } else if cpu.vmx.guest.controls.virtual_nmis() {
        std::mem::take(&mut cpu.vmx.guest.virtual_nmi_blocked)
    } else {
        false
    };
    if unblocked {
        cpu.vmx.guest.nmi_unblocked_by = Some(cpu.instructions);
    }
}
