//! Instructions that read and change the processor's own state (SDM 2.8 System instruction summary).

use arch::control_register::{cr0, cr4, rflags};
use iced_x86::{Instruction, Mnemonic};

use super::super::{
    Activity, Cpu, Inhibit,
    decode::Form,
    monitor,
    msr::MICROCODE_REVISION,
    op::{Execute, Op},
    raise::Raised,
    register::{
        Operand,
        number::{RAX, RBX, RCX, RDX},
    },
    segment::{DescriptorTable, register},
};
use crate::vtx::{
    control_registers::{self, LmswOperand},
    intercept::{self, DebugDirection, OperandPlace},
    msr_bitmap,
};

/// The function that carries out a system instruction.
pub(super) fn select(instruction: &Instruction, form: Form, bits: u32) -> Option<Execute> {
    use Mnemonic as M;
    let long = bits == 64;
    Some(match (instruction.mnemonic(), form) {
        (M::Mov, Form::RegReg) if instruction.op0_register().is_cr() => mov_to_control,
        (M::Mov, Form::RegReg) if instruction.op1_register().is_cr() => mov_from_control,
        (M::Mov, Form::RegReg) if instruction.op0_register().is_dr() => mov_to_debug,
        (M::Mov, Form::RegReg) if instruction.op1_register().is_dr() => mov_from_debug,
        (M::Lgdt, Form::Mem) if long => load_table::<Global, true>,
        (M::Lgdt, Form::Mem) => load_table::<Global, false>,
        (M::Lidt, Form::Mem) if long => load_table::<Interrupt, true>,
        (M::Lidt, Form::Mem) => load_table::<Interrupt, false>,
        (M::Sgdt, Form::Mem) if long => store_table::<Global, true>,
        (M::Sgdt, Form::Mem) => store_table::<Global, false>,
        (M::Sidt, Form::Mem) if long => store_table::<Interrupt, true>,
        (M::Sidt, Form::Mem) => store_table::<Interrupt, false>,
        (M::Smsw, Form::Mem) => store_machine_status_to_memory,
        (M::Smsw, Form::Reg) => store_machine_status_to_register,
        (M::Lmsw, Form::Mem) => load_machine_status::<true>,
        (M::Lmsw, Form::Reg) => load_machine_status::<false>,
        (M::Clts, _) => clear_task_switched,
        (M::Invlpg, Form::Mem) => invalidate_page,
        (M::Invpcid, Form::RegMem) => invalidate_process_context,
        (M::Invd, _) => invalidate_caches::<true>,
        (M::Wbinvd | M::Wbnoinvd, _) => invalidate_caches::<false>,
        (M::Swapgs, _) => swap_gs,
        (M::Rdfsbase, _) => read_segment_base::<{ register::FS }>,
        (M::Rdgsbase, _) => read_segment_base::<{ register::GS }>,
        (M::Wrfsbase, _) => write_segment_base::<{ register::FS }>,
        (M::Wrgsbase, _) => write_segment_base::<{ register::GS }>,
        (M::Rdtsc, _) => read_time_stamp,
        (M::Rdtscp, _) => read_time_stamp_and_processor,
        (M::Rdpid, Form::Reg) => read_processor,
        (M::Rdpmc, _) => read_performance_counter,
        (M::Hlt, _) => halt,
        (M::Monitor, _) => monitor::monitor,
        (M::Mwait, _) => monitor::mwait,
        (M::Cli, _) => clear_interrupt_flag,
        (M::Sti, _) => set_interrupt_flag,
        (M::Cpuid, _) => cpuid,
        (M::Rdmsr, _) => read_msr,
        (M::Wrmsr, _) => write_msr,
        // There is no SMM to return from.
        (M::Rsm | M::Ud0 | M::Ud1 | M::Ud2, _) => super::invalid_opcode,
        _ => return None,
    })
}

/// #GP(0) above CPL 0.
fn privileged(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.cpl == 0 {
        Ok(())
    } else {
        Err(cpu.general_protection(0))
    }
}

/// #GP(0) above CPL 0 when user-mode instruction prevention is on (SDM 2.5, CR4.UMIP).
pub(super) fn user_mode_prevented(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.cr4 & cr4::UMIP != 0 {
        privileged(cpu)
    } else {
        Ok(())
    }
}

/// Register operands of these instructions are 64 bits wide in 64-bit mode and 32 outside.
fn operand(cpu: &Cpu, number: u8) -> u64 {
    let value = u64::register(cpu, number);
    if cpu.mode_64 {
        value
    } else {
        value & 0xffff_ffff
    }
}

fn set_operand(cpu: &mut Cpu, number: u8, value: u64) {
    if cpu.mode_64 {
        u64::set_register(cpu, number, value);
    } else {
        u32::set_register(cpu, number, value as u32);
    }
}

fn mov_to_control(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    let value = operand(cpu, op.rm);
    match op.reg {
        0 => {
            let value = control_registers::write_cr0(cpu, value, op.rm)?;
            cpu.write_cr0(value)
        }
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => {
            control_registers::write_cr3(cpu, value, op.rm)?;
            cpu.write_cr3(value)
        }
        4 => {
            let value = control_registers::write_cr4(cpu, value, op.rm)?;
            cpu.write_cr4(value)
        }
        8 => {
            if control_registers::write_cr8(cpu, value, op.rm)? {
                Ok(())
            } else {
                cpu.set_cr8(value)
            }
        }
        _ => Err(cpu.invalid_opcode()),
    }
}

fn mov_from_control(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    let value = match op.rm {
        0 => control_registers::visible_cr0(cpu),
        2 => cpu.cr2,
        3 => {
            control_registers::read_cr3(cpu, op.reg)?;
            cpu.cr3
        }
        4 => control_registers::visible_cr4(cpu),
        8 => match control_registers::read_cr8(cpu, op.reg)? {
            Some(value) => value,
            None => cpu.cr8(),
        },
        _ => return Err(cpu.invalid_opcode()),
    };
    set_operand(cpu, op.reg, value);
    Ok(())
}

fn mov_to_debug(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    intercept::mov_dr(cpu, op.reg, DebugDirection::To, op.rm)?;
    let value = operand(cpu, op.rm);
    cpu.write_debug_register(op.reg, value)
}

fn mov_from_debug(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    intercept::mov_dr(cpu, op.rm, DebugDirection::From, op.reg)?;
    let value = cpu.read_debug_register(op.rm)?;
    set_operand(cpu, op.reg, value);
    Ok(())
}

/// Which descriptor-table register.
trait Table {
    /// How VM exits name its load.
    const LOAD: intercept::DescriptorTable;
    /// How VM exits name its store.
    const STORE: intercept::DescriptorTable;
    fn register(cpu: &mut Cpu) -> &mut DescriptorTable;
}

struct Global;
struct Interrupt;

impl Table for Global {
    const LOAD: intercept::DescriptorTable = intercept::DescriptorTable::LoadGlobal;
    const STORE: intercept::DescriptorTable = intercept::DescriptorTable::StoreGlobal;

    fn register(cpu: &mut Cpu) -> &mut DescriptorTable {
        &mut cpu.gdtr
    }
}

impl Table for Interrupt {
    const LOAD: intercept::DescriptorTable = intercept::DescriptorTable::LoadInterrupt;
    const STORE: intercept::DescriptorTable = intercept::DescriptorTable::StoreInterrupt;

    fn register(cpu: &mut Cpu) -> &mut DescriptorTable {
        &mut cpu.idtr
    }
}

fn load_table<T: Table, const LONG: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    intercept::descriptor_table(cpu, T::LOAD, OperandPlace::Memory, op)?;
    let offset = cpu.effective_offset(op);
    let limit: u16 = cpu.read_at(op.segment, offset)?;
    let base_at = offset.wrapping_add(2);
    let base = if LONG {
        let base: u64 = cpu.read_at(op.segment, base_at)?;
        if !Cpu::is_canonical(base) {
            return Err(cpu.general_protection(0));
        }
        base
    } else {
        let base: u32 = cpu.read_at(op.segment, base_at)?;
        // With a 16-bit operand the base has 24 bits.
        let mask = if op.operand_bits() == 16 {
            0x00ff_ffff
        } else {
            u32::MAX
        };
        u64::from(base & mask)
    };
    *T::register(cpu) = DescriptorTable { base, limit };
    Ok(())
}

fn store_table<T: Table, const LONG: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    user_mode_prevented(cpu)?;
    intercept::descriptor_table(cpu, T::STORE, OperandPlace::Memory, op)?;
    let DescriptorTable { base, limit } = *T::register(cpu);
    let offset = cpu.effective_offset(op);
    let word = |shift: u32| (base >> shift) as u16;
    let words = [limit, word(0), word(16), word(32), word(48)];
    let words = if LONG { &words[..] } else { &words[..3] };
    // It is aligned as a doubleword (SDM 6.15, "Interrupt 17"), whose first half is the limit.
    cpu.probe_write::<u32>(op.segment, offset)?;
    let place = |i: usize| offset.wrapping_add(i as u64 * 2);
    for i in 2..words.len() {
        cpu.probe_write::<u16>(op.segment, place(i))?;
    }
    for (i, word) in words.iter().enumerate() {
        cpu.write_at(op.segment, place(i), *word)?;
    }
    Ok(())
}

fn store_machine_status_to_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    user_mode_prevented(cpu)?;
    let value = control_registers::visible_cr0(cpu) as u16;
    cpu.write(op, value)
}

fn store_machine_status_to_register(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    user_mode_prevented(cpu)?;
    let value = control_registers::visible_cr0(cpu);
    match op.operand_bits() {
        16 => u16::set_register(cpu, op.reg, value as u16),
        32 => u32::set_register(cpu, op.reg, value as u32),
        _ => u64::set_register(cpu, op.reg, value),
    }
    Ok(())
}

fn load_machine_status<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    let source = if MEMORY {
        cpu.read::<u16>(op)?
    } else {
        u16::register(cpu, op.reg)
    };
    let place = if MEMORY {
        let base = cpu.segments[(op.segment & 7) as usize].base;
        LmswOperand::Memory(base.wrapping_add(cpu.effective_offset(op)))
    } else {
        LmswOperand::Register
    };
    let value = control_registers::load_machine_status_word(cpu, source, place)?;
    cpu.write_cr0(value)
}

fn clear_task_switched(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    if control_registers::clear_task_switched(cpu)? {
        cpu.cr0 &= !cr0::TS;
    }
    Ok(())
}

fn invalidate_page(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    let offset = cpu.effective_offset(op);
    let linear = cpu.segments[(op.segment & 7) as usize]
        .base
        .wrapping_add(offset);
    let linear = cpu.truncate_linear(linear);
    intercept::invlpg(cpu, linear)?;
    cpu.invalidate_page(linear);
    Ok(())
}

fn invalidate_process_context(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    intercept::check_invpcid_enabled(cpu)?;
    privileged(cpu)?;
    intercept::invpcid(cpu, op)?;
    let kind = operand(cpu, op.reg);
    let descriptor = cpu.read::<u128>(op)?;
    cpu.invalidate_process_context(kind, descriptor)
}

fn invalidate_caches<const INVD: bool>(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    // The machine has no data caches: there is nothing to lose and nothing to write back.
    privileged(cpu)?;
    let instruction = if INVD {
        intercept::Instruction::Invd
    } else {
        intercept::Instruction::Wbinvd
    };
    intercept::check(cpu, instruction)
}

fn swap_gs(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if !cpu.mode_64 {
        return Err(cpu.invalid_opcode());
    }
    privileged(cpu)?;
    let gs = &mut cpu.segments[register::GS as usize].base;
    std::mem::swap(gs, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}

fn segment_base_permitted(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.mode_64 && cpu.cr4 & cr4::FSGSBASE != 0 {
        Ok(())
    } else {
        Err(cpu.invalid_opcode())
    }
}

fn read_segment_base<const SEGMENT: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    segment_base_permitted(cpu)?;
    let base = cpu.segments[(SEGMENT & 7) as usize].base;
    if op.operand_bits() == 64 {
        u64::set_register(cpu, op.reg, base);
    } else {
        u32::set_register(cpu, op.reg, base as u32);
    }
    Ok(())
}

fn write_segment_base<const SEGMENT: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    segment_base_permitted(cpu)?;
    let base = if op.operand_bits() == 64 {
        u64::register(cpu, op.reg)
    } else {
        u32::register(cpu, op.reg).into()
    };
    if !Cpu::is_canonical(base) {
        return Err(cpu.general_protection(0));
    }
    cpu.segments[(SEGMENT & 7) as usize].base = base;
    Ok(())
}

/// The program has seen the time: what is due by then happens before the next instruction, which may
/// show it (SDM 25.5.1, 10.5.4).
fn show_time(cpu: &mut Cpu) {
    if cpu.next_own_event().is_some_and(|due| due <= cpu.now()) {
        cpu.look_at_events();
    }
}

fn set_pair(cpu: &mut Cpu, value: u64) {
    cpu.registers[RAX] = value & 0xffff_ffff;
    cpu.registers[RDX] = value >> 32;
}

fn time_stamp_permitted(cpu: &mut Cpu) -> Result<(), Raised> {
    if cpu.cr4 & cr4::TSD != 0 {
        privileged(cpu)
    } else {
        Ok(())
    }
}

fn read_time_stamp(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    time_stamp_permitted(cpu)?;
    intercept::check(cpu, intercept::Instruction::Rdtsc)?;
    let value = intercept::time_stamp_counter(cpu);
    set_pair(cpu, value);
    show_time(cpu);
    Ok(())
}

fn read_time_stamp_and_processor(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    intercept::check_rdtscp_enabled(cpu)?;
    time_stamp_permitted(cpu)?;
    intercept::check(cpu, intercept::Instruction::Rdtscp)?;
    let value = intercept::time_stamp_counter(cpu);
    set_pair(cpu, value);
    cpu.registers[RCX] = cpu.msrs.tsc_aux & 0xffff_ffff;
    show_time(cpu);
    Ok(())
}

fn read_processor(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    intercept::check_rdtscp_enabled(cpu)?;
    let value = cpu.msrs.tsc_aux & 0xffff_ffff;
    set_operand(cpu, op.reg, value);
    Ok(())
}

fn read_performance_counter(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    if cpu.cpl == 0 || cpu.cr4 & cr4::PCE != 0 {
        intercept::check(cpu, intercept::Instruction::Rdpmc)?;
    }
    // CPUID.0AH says that there are none, so every index is invalid.
    Err(cpu.general_protection(0))
}

fn halt(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    intercept::check(cpu, intercept::Instruction::Hlt)?;
    cpu.monitor.clear();
    cpu.activity = Activity::Halted;
    cpu.look_at_events();
    Ok(())
}

/// CPL may change IF (SDM 6.8.1): IOPL, which in virtual-8086 mode must be 3. VME and PVI are not
/// offered.
fn interrupt_flag_permitted(cpu: &mut Cpu) -> Result<(), Raised> {
    if !cpu.protected_mode() || u64::from(cpu.cpl) <= cpu.system_flags >> 12 & 3 {
        Ok(())
    } else {
        Err(cpu.general_protection(0))
    }
}

fn clear_interrupt_flag(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    interrupt_flag_permitted(cpu)?;
    cpu.system_flags &= !rflags::IF;
    Ok(())
}

fn set_interrupt_flag(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    interrupt_flag_permitted(cpu)?;
    if cpu.system_flags & rflags::IF == 0 {
        cpu.system_flags |= rflags::IF;
        cpu.inhibit = Inhibit::Sti;
        cpu.inhibit_expires = false;
        cpu.look_at_events();
    }
    Ok(())
}

fn cpuid(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    intercept::check(cpu, intercept::Instruction::Cpuid)?;
    let number = cpu.registers[RAX] as u32;
    let leaf = cpu.cpuid(number, cpu.registers[RCX] as u32);
    if number == 1 {
        // SDM 9.11.7.1: CPUID.1 loads the update's signature.
        cpu.msrs.bios_sign_id = MICROCODE_REVISION;
    }
    cpu.registers[RAX] = leaf.eax.into();
    cpu.registers[RBX] = leaf.ebx.into();
    cpu.registers[RCX] = leaf.ecx.into();
    cpu.registers[RDX] = leaf.edx.into();
    Ok(())
}

fn read_msr(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    let index = cpu.registers[RCX] as u32;
    let value = match msr_bitmap::read(cpu, index)? {
        Some(value) => value,
        None => cpu.read_msr(index)?,
    };
    set_pair(cpu, value);
    show_time(cpu);
    Ok(())
}

fn write_msr(cpu: &mut Cpu, _op: &Op) -> Result<(), Raised> {
    privileged(cpu)?;
    let index = cpu.registers[RCX] as u32;
    let value = cpu.registers[RAX] & 0xffff_ffff | cpu.registers[RDX] << 32;
    match msr_bitmap::write(cpu, index, value)? {
        msr_bitmap::Write::Done => Ok(()),
        msr_bitmap::Write::Physical => cpu.write_msr(index, value),
    }
}
