//! FST, FSTP, FIST, FISTP, FISTTP and FBSTP.

use iced_x86::{Instruction, MemorySize, Mnemonic};

use crate::cpu::{
    Cpu,
    decode::Form,
    extended::{Class, Extended},
    float::{self, Format, Magnitude, Rounding, flag},
    op::{Execute, Op},
    raise::Raised,
    x87::{StackFault, condition::C1},
};
use crate::memory::Word;

/// A value for memory with its exceptions.
struct Stored<T> {
    value: T,
    flags: u32,
    up: bool,
}

/// What FST writes: `BITS` bits with `FRACTION` bits of fraction.
fn narrow<const BITS: u32, const FRACTION: u32>(cpu: &Cpu, value: Extended) -> Stored<u64> {
    let format = Format {
        precision: FRACTION + 1,
        minimum: 2 - (1 << (BITS - 2 - FRACTION)),
        maximum: (1 << (BITS - 2 - FRACTION)) - 1,
    };
    let top = (1u64 << (BITS - 1 - FRACTION)) - 1;
    let sign = u64::from(value.negative()) << (BITS - 1);
    match value.class() {
        Class::Number(number, _) => {
            let rounded = float::round(number.exact(), format, cpu.x87.rounding_control());
            let magnitude = match rounded.number.magnitude {
                Magnitude::Zero => 0,
                Magnitude::Infinity => top << FRACTION,
                Magnitude::Finite {
                    exponent,
                    significand,
                } => {
                    let fraction = significand >> (63 - FRACTION) & ((1 << FRACTION) - 1);
                    let biased = if significand >> 63 == 0 {
                        0
                    } else {
                        (exponent - format.minimum + 1) as u64 & top
                    };
                    biased << FRACTION | fraction
                }
            };
            Stored {
                value: sign | magnitude,
                flags: rounded.flags,
                up: rounded.up,
            }
        }
        Class::Nan(nan, signaling) => Stored {
            value: sign | top << FRACTION | nan.quiet().significand << 1 >> (64 - FRACTION),
            flags: if signaling { flag::INVALID } else { 0 },
            up: false,
        },
        Class::Unsupported => Stored {
            value: (top << 1 | 1) << (FRACTION - 1) | 1 << (BITS - 1),
            flags: flag::INVALID,
            up: false,
        },
    }
}

/// Stores `stored` and pops, as far as its exceptions let it (SDM volume 1, 8.5): an unmasked one
/// keeps memory from being written, but that of precision.
fn finish<T: Word, const POP: bool>(
    cpu: &mut Cpu,
    op: &Op,
    stored: &Stored<T>,
) -> Result<(), Raised> {
    let unmasked = stored.flags & !u32::from(cpu.x87.control);
    let written = unmasked & !flag::PRECISION == 0;
    // What is not stored is not inexact.
    let flags = if written {
        stored.flags
    } else {
        stored.flags & !flag::PRECISION
    };
    if written {
        cpu.write(op, stored.value)?;
    }
    cpu.note_x87(op, true);
    let x87 = &mut cpu.x87;
    let c1 = if stored.up && written { C1 } else { 0 };
    x87.set_conditions(C1, c1);
    x87.signal(flags);
    if written && POP {
        x87.pop();
    }
    Ok(())
}

/// The response to an empty ST(0): `indefinite` is stored if that is masked.
fn underflow<T: Word, const POP: bool>(
    cpu: &mut Cpu,
    op: &Op,
    indefinite: T,
) -> Result<(), Raised> {
    if cpu.x87.control & 1 != 0 {
        cpu.write(op, indefinite)?;
    }
    cpu.note_x87(op, true);
    let x87 = &mut cpu.x87;
    if x87.stack_fault(StackFault::Underflow) && POP {
        x87.pop();
    }
    Ok(())
}

/// FST and FSTP m32.
fn store_single<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let Some(value) = cpu.x87.st(0) else {
        return underflow::<u32, POP>(cpu, op, 0xffc0_0000);
    };
    let stored = narrow::<32, 23>(cpu, value);
    let stored = Stored {
        value: stored.value as u32,
        flags: stored.flags,
        up: stored.up,
    };
    finish::<u32, POP>(cpu, op, &stored)
}

/// FST and FSTP m64.
fn store_double<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let Some(value) = cpu.x87.st(0) else {
        return underflow::<u64, POP>(cpu, op, 0xfff8 << 48);
    };
    let stored = narrow::<64, 52>(cpu, value);
    finish::<u64, POP>(cpu, op, &stored)
}

/// Writes ten bytes; both parts are known writable before either is written.
fn write_ten(cpu: &mut Cpu, op: &Op, low: u64, high: u16) -> Result<(), Raised> {
    let offset = cpu.effective_offset(op);
    let end = offset.wrapping_add(8);
    cpu.probe_write::<u64>(op.segment, offset)?;
    cpu.probe_write::<u16>(op.segment, end)?;
    cpu.write_at(op.segment, offset, low)?;
    cpu.write_at(op.segment, end, high)
}

/// FSTP m80.
fn store_extended(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let empty = cpu.x87.is_empty(0);
    let value = if empty {
        Extended::INDEFINITE
    } else {
        cpu.x87.raw(0)
    };
    if !empty || cpu.x87.control & 1 != 0 {
        write_ten(cpu, op, value.significand, value.head)?;
    }
    cpu.note_x87(op, true);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, 0);
    if !empty || x87.stack_fault(StackFault::Underflow) {
        x87.pop();
    }
    Ok(())
}

/// FST and FSTP ST(i).
fn store_register<const POP: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, 0);
    let value = match x87.st(0) {
        Some(value) => value,
        None if x87.stack_fault(StackFault::Underflow) => Extended::INDEFINITE,
        None => return Ok(()),
    };
    x87.set_st(op.reg, value);
    if POP {
        x87.pop();
    }
    Ok(())
}

/// D9 D8+i, which the manual does not list: FSTP ST(i) that raises nothing when ST(0) is empty.
fn store_register_unchecked(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    if !cpu.x87.is_empty(0) {
        return store_register::<true>(cpu, op);
    }
    cpu.enter_x87()?;
    cpu.note_x87(op, false);
    cpu.x87.set_conditions(C1, 0);
    cpu.x87.pop();
    Ok(())
}

/// FIST, FISTP and FISTTP.
fn store_integer<T: Word, const TRUNCATE: bool, const POP: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Raised> {
    cpu.enter_x87()?;
    let indefinite = T::from_u64(1 << (T::BITS - 1));
    let Some(value) = cpu.x87.st(0) else {
        return underflow::<T, POP>(cpu, op, indefinite);
    };
    let rounding = if TRUNCATE {
        Rounding::Zero
    } else {
        cpu.x87.rounding_control().rounding
    };
    let integer = match value.class() {
        Class::Number(number, _) => float::to_signed(number, rounding, T::BITS),
        _ => None,
    };
    let stored = match integer {
        Some((value, how)) => Stored {
            value: T::from_u64(value as u64),
            flags: if how.inexact { flag::PRECISION } else { 0 },
            up: how.up,
        },
        None => Stored {
            value: indefinite,
            flags: flag::INVALID,
            up: false,
        },
    };
    finish::<T, POP>(cpu, op, &stored)
}

/// FBSTP.
fn store_decimal(cpu: &mut Cpu, op: &Op) -> Result<(), Raised> {
    const INDEFINITE: (u64, u16) = (0xc000 << 48, 0xffff);
    const LIMIT: u64 = 1_000_000_000_000_000_000;
    cpu.enter_x87()?;
    let empty = cpu.x87.is_empty(0);
    let value = cpu.x87.raw(0);
    let rounding = cpu.x87.rounding_control().rounding;
    let integer = match value.class() {
        Class::Number(number, _) if !empty => float::to_integer(number, rounding),
        _ => None,
    };
    let ((low, high), flags, up) = match integer {
        Some(integral) if integral.magnitude < LIMIT => {
            let mut rest = integral.magnitude;
            let mut digits = 0u128;
            for i in 0..18 {
                digits |= u128::from(rest % 10) << (4 * i);
                rest /= 10;
            }
            let sign = u16::from(value.negative()) << 15;
            let flags = if integral.inexact { flag::PRECISION } else { 0 };
            (
                (digits as u64, (digits >> 64) as u16 | sign),
                flags,
                integral.up,
            )
        }
        _ => (INDEFINITE, flag::INVALID, false),
    };
    let written = flags & !u32::from(cpu.x87.control) & !flag::PRECISION == 0;
    if written {
        write_ten(cpu, op, low, high)?;
    }
    cpu.note_x87(op, true);
    let x87 = &mut cpu.x87;
    x87.set_conditions(C1, if up { C1 } else { 0 });
    if empty {
        x87.stack_fault(StackFault::Underflow);
    } else {
        x87.signal(flags);
    }
    if written {
        x87.pop();
    }
    Ok(())
}

pub(super) fn select(instruction: &Instruction, form: Form) -> Option<Execute> {
    Some(
        match (instruction.mnemonic(), form, instruction.memory_size()) {
            (Mnemonic::Fst, Form::Mem, MemorySize::Float32) => store_single::<false>,
            (Mnemonic::Fst, Form::Mem, MemorySize::Float64) => store_double::<false>,
            (Mnemonic::Fst, Form::Reg, _) => store_register::<false>,
            (Mnemonic::Fstp, Form::Mem, MemorySize::Float32) => store_single::<true>,
            (Mnemonic::Fstp, Form::Mem, MemorySize::Float64) => store_double::<true>,
            (Mnemonic::Fstp, Form::Mem, MemorySize::Float80) => store_extended,
            (Mnemonic::Fstp, Form::Reg, _) => store_register::<true>,
            (Mnemonic::Fstpnce, Form::Reg, _) => store_register_unchecked,
            (Mnemonic::Fist, Form::Mem, MemorySize::Int16) => store_integer::<u16, false, false>,
            (Mnemonic::Fist, Form::Mem, MemorySize::Int32) => store_integer::<u32, false, false>,
            (Mnemonic::Fistp, Form::Mem, MemorySize::Int16) => store_integer::<u16, false, true>,
            (Mnemonic::Fistp, Form::Mem, MemorySize::Int32) => store_integer::<u32, false, true>,
            (Mnemonic::Fistp, Form::Mem, MemorySize::Int64) => store_integer::<u64, false, true>,
            (Mnemonic::Fisttp, Form::Mem, MemorySize::Int16) => store_integer::<u16, true, true>,
            (Mnemonic::Fisttp, Form::Mem, MemorySize::Int32) => store_integer::<u32, true, true>,
            (Mnemonic::Fisttp, Form::Mem, MemorySize::Int64) => store_integer::<u64, true, true>,
            (Mnemonic::Fbstp, Form::Mem, _) => store_decimal,
            _ => return None,
        },
    )
}
