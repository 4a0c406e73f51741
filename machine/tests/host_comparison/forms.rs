//! The instruction forms that are compared, and random encodings of them.

use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, FlowControl, Instruction, Mnemonic, OpCodeInfo,
    OpCodeOperandKind as K, OpKind, Register,
};

use crate::case::{CODE, REGION, REGION_SIZE, WINDOW};
use crate::random::Random;
use crate::vendor;

/// Features all of whose codes are compared.
pub const FEATURES: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::CLFSH,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::ADX,
    CpuidFeature::MOVBE,
    CpuidFeature::LZCNT,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLWB,
];

/// Instructions of other features that are compared.
pub const MNEMONICS: &[Mnemonic] = &[
    Mnemonic::Movnti,
    Mnemonic::Lfence,
    Mnemonic::Mfence,
    Mnemonic::Sfence,
    Mnemonic::Prefetchnta,
    Mnemonic::Prefetcht0,
    Mnemonic::Prefetcht1,
    Mnemonic::Prefetcht2,
];

/// Why a code of [`FEATURES`] is not compared; such instructions have tests of their own.
pub fn excluded(code: Code) -> Option<&'static str> {
    if code.is_privileged() {
        return Some("a process may not execute it");
    }
    if code.flow_control() != FlowControl::Next {
        return Some("control leaves the compared code");
    }
    let information = code.op_code();
    let operands = || (0..information.op_count()).map(|i| information.op_kind(i));
    if operands().any(|kind| matches!(kind, K::cr_reg | K::dr_reg | K::tr_reg)) {
        return Some("a process may not execute it");
    }
    match code.mnemonic() {
        Mnemonic::Mov | Mnemonic::Pop
            if matches!(
                information.op_kind(0),
                K::seg_reg | K::es | K::cs | K::ss | K::ds | K::fs | K::gs
            ) =>
        {
            Some("it loads a descriptor of the host's operating system")
        }
        Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
            Some("it loads a descriptor of the host's operating system")
        }
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw => {
            Some("it reads a descriptor of the host's operating system")
        }
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            Some("it shows a system register of the host, or is emulated by its operating system")
        }
        Mnemonic::Bswap if information.operand_size() == 16 => Some("its result is undefined"),
        Mnemonic::Fstcw
        | Mnemonic::Fstsw
        | Mnemonic::Fstenv
        | Mnemonic::Fsave
        | Mnemonic::Finit
        | Mnemonic::Fclex
        | Mnemonic::Feni
        | Mnemonic::Fdisi
        | Mnemonic::Fsetpm => Some("it is two instructions: WAIT and its form without waiting"),
        _ => None,
    }
}

/// Whether processors compute the instruction's result to within one unit in the last place only
/// (SDM volume 1, 8.3.10).
pub fn is_transcendental(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Fsin
            | Mnemonic::Fcos
            | Mnemonic::Fsincos
            | Mnemonic::Fptan
            | Mnemonic::Fpatan
            | Mnemonic::F2xm1
            | Mnemonic::Fyl2x
            | Mnemonic::Fyl2xp1
    )
}

/// A prefix that makes another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    None,
    Lock,
    Rep,
    Repne,
}

/// One form.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub code: Code,
    /// The operand that may be a register or memory is memory.
    pub memory: bool,
    pub prefix: Prefix,
}

fn either(kind: K) -> bool {
    matches!(
        kind,
        K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem
    )
}

fn always_memory(kind: K) -> bool {
    matches!(
        kind,
        K::mem | K::mem_offs | K::seg_rSI | K::es_rDI | K::seg_rDI | K::seg_rBX_al
    )
}

/// All forms to compare.
pub fn all() -> Vec<Form> {
    let mut forms = Vec::new();
    for code in Code::values() {
        let information = code.op_code();
        let wanted = information.is_instruction()
            && information.mode64()
            && matches!(
                information.encoding(),
                EncodingKind::Legacy | EncodingKind::VEX
            )
            && (MNEMONICS.contains(&code.mnemonic())
                || code
                    .cpuid_features()
                    .iter()
                    .all(|feature| FEATURES.contains(feature)));
        if !wanted || excluded(code).is_some() {
            continue;
        }
        let operands = || (0..information.op_count()).map(|i| information.op_kind(i));
        let kinds: &[bool] = if operands().any(either) {
            &[false, true]
        } else if operands().any(always_memory) {
            &[true]
        } else {
            &[false]
        };
        for &memory in kinds {
            let mut add = |prefix| {
                forms.push(Form {
                    code,
                    memory,
                    prefix,
                });
            };
            add(Prefix::None);
            let target = information.op_kind(0);
            if memory
                && information.can_use_lock_prefix()
                && (either(target) || always_memory(target))
            {
                add(Prefix::Lock);
            }
            if information.can_use_rep_prefix() {
                add(Prefix::Rep);
            }
            if information.can_use_repne_prefix() && is_string(information) {
                add(Prefix::Repne);
            }
        }
    }
    forms.sort_by_key(|form| vendor::comes_last(*form));
    forms
}

fn is_string(information: &OpCodeInfo) -> bool {
    (0..information.op_count()).any(|i| matches!(information.op_kind(i), K::seg_rSI | K::es_rDI))
}

/// Number of RCX.
const COUNT: usize = 1;

/// Number of RSP.
const STACK_POINTER: usize = 4;

/// How the registers of a memory operand must be set.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub base: Option<usize>,
    pub index: Option<usize>,
    pub scale: u64,
    pub displacement: u64,
    pub bits: u32,
    /// Where the operand is to be.
    pub target: u64,
}

/// An encoded form.
pub struct Encoded {
    pub instruction: Instruction,
    pub bytes: Vec<u8>,
    pub address: Option<Address>,
}

/// Encodes `form` with random operands at `rip`; `None` if these operands do not go together.
pub fn encode(form: Form, rip: u64, random: &mut Random) -> Option<Encoded> {
    let information = form.code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(form.code);
    let mut address = None;
    let narrow = random.chance(20);
    for operand in 0..information.op_count() {
        let kind = information.op_kind(operand);
        let i = operand;
        let mut register = |register: Register| instruction.set_op_register(i, register);
        match kind {
            _ if either(kind) && form.memory || matches!(kind, K::mem) => {
                address = Some(memory(&mut instruction, i, narrow, random));
            }
            K::mem_offs => {
                let target = target(&instruction, random);
                instruction.set_op_kind(i, OpKind::Memory);
                instruction.set_memory_displ_size(8);
                instruction.set_memory_displacement64(target);
            }
            K::seg_rBX_al => {
                instruction.set_op_kind(i, OpKind::Memory);
                let base = if narrow { Register::EBX } else { Register::RBX };
                instruction.set_memory_base(base);
                instruction.set_memory_index(Register::AL);
                address = Some(Address {
                    base: Some(3),
                    index: None,
                    scale: 1,
                    displacement: 0,
                    bits: if narrow { 32 } else { 64 },
                    target: WINDOW + 256,
                });
            }
            K::seg_rSI => instruction.set_op_kind(
                i,
                if narrow {
                    OpKind::MemorySegESI
                } else {
                    OpKind::MemorySegRSI
                },
            ),
            K::es_rDI => instruction.set_op_kind(
                i,
                if narrow {
                    OpKind::MemoryESEDI
                } else {
                    OpKind::MemoryESRDI
                },
            ),
            K::seg_rDI => instruction.set_op_kind(
                i,
                if narrow {
                    OpKind::MemorySegEDI
                } else {
                    OpKind::MemorySegRDI
                },
            ),
            K::r8_or_mem | K::r8_reg | K::r8_opcode => {
                register(Register::AL + random.below(20) as u32);
            }
            K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => {
                register(Register::AX + random.below(16) as u32);
            }
            K::r32_or_mem
            | K::r32_reg
            | K::r32_reg_mem
            | K::r32_rm
            | K::r32_vvvv
            | K::r32_opcode => {
                register(Register::EAX + random.below(16) as u32);
            }
            K::r64_or_mem
            | K::r64_reg
            | K::r64_reg_mem
            | K::r64_rm
            | K::r64_vvvv
            | K::r64_opcode => {
                register(Register::RAX + random.below(16) as u32);
            }
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm => {
                register(Register::XMM0 + random.below(16) as u32);
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => {
                register(Register::MM0 + random.below(8) as u32);
            }
            K::seg_reg => register(Register::ES + random.below(6) as u32),
            K::fs => register(Register::FS),
            K::gs => register(Register::GS),
            K::al => register(Register::AL),
            K::cl => register(Register::CL),
            K::ax => register(Register::AX),
            K::dx => register(Register::DX),
            K::eax => register(Register::EAX),
            K::rax => register(Register::RAX),
            K::st0 => register(Register::ST0),
            K::sti_opcode => register(Register::ST0 + random.below(8) as u32),
            K::imm8_const_1 => {
                instruction.set_op_kind(i, OpKind::Immediate8);
                instruction.set_immediate8(1);
            }
            K::imm8 => {
                let second = (0..i).any(|j| information.op_kind(j) == K::imm16);
                if second {
                    instruction.set_op_kind(i, OpKind::Immediate8_2nd);
                    instruction.set_immediate8_2nd(random.below(4) as u8);
                } else {
                    instruction.set_op_kind(i, OpKind::Immediate8);
                    let limit = double_shift_limit(form.code);
                    instruction.set_immediate8((random.value() & limit) as u8);
                }
            }
            K::imm8sex16 => {
                instruction.set_op_kind(i, OpKind::Immediate8to16);
                instruction.set_immediate8to16(random.value() as i8 as i16);
            }
            K::imm8sex32 => {
                instruction.set_op_kind(i, OpKind::Immediate8to32);
                instruction.set_immediate8to32(random.value() as i8 as i32);
            }
            K::imm8sex64 => {
                instruction.set_op_kind(i, OpKind::Immediate8to64);
                instruction.set_immediate8to64(random.value() as i8 as i64);
            }
            K::imm16 => {
                instruction.set_op_kind(i, OpKind::Immediate16);
                let enter = form.code.mnemonic() == Mnemonic::Enter;
                let value = random.value() as u16;
                instruction.set_immediate16(if enter { value & 31 } else { value });
            }
            K::imm32 => {
                instruction.set_op_kind(i, OpKind::Immediate32);
                instruction.set_immediate32(random.value() as u32);
            }
            K::imm32sex64 => {
                instruction.set_op_kind(i, OpKind::Immediate32to64);
                instruction.set_immediate32to64(i64::from(random.value() as i32));
            }
            K::imm64 => {
                instruction.set_op_kind(i, OpKind::Immediate64);
                instruction.set_immediate64(random.value());
            }
            other => panic!(
                "{:?}: no way to make an operand of kind {other:?}",
                form.code
            ),
        }
    }
    match form.prefix {
        Prefix::None => {}
        Prefix::Lock => instruction.set_has_lock_prefix(true),
        Prefix::Rep => instruction.set_has_rep_prefix(true),
        Prefix::Repne => instruction.set_has_repne_prefix(true),
    }
    if is_bit_test(&instruction)
        && let Some(address) = address
    {
        // The register that counts bits must be free to do so.
        let counter = instruction.op_register(1).full_register().number();
        if instruction.op_kind(1) == OpKind::Register
            && [address.base, address.index, Some(STACK_POINTER)].contains(&Some(counter))
        {
            return None;
        }
    }
    if double_shift_limit(form.code) != 0xff
        && let Some(address) = address
        && [address.base, address.index].contains(&Some(COUNT))
    {
        return None;
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&instruction, rip).ok()?;
    Some(Encoded {
        instruction,
        bytes: encoder.take_buffer(),
        address,
    })
}

/// Whether the memory operand moves with a register that counts bits.
pub fn is_bit_test(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    )
}

/// Bits that the count of a double shift may have: 16-bit ones are undefined above 16.
pub fn double_shift_limit(code: Code) -> u64 {
    match code.mnemonic() {
        Mnemonic::Shld | Mnemonic::Shrd if code.op_code().operand_size() == 16 => 15,
        _ => 0xff,
    }
}

fn target(instruction: &Instruction, random: &mut Random) -> u64 {
    let any = WINDOW + 448 + random.below(128);
    let must_align = instruction.mnemonic() == Mnemonic::Cmpxchg16b;
    if (must_align || instruction.memory_size().size() >= 16) && random.chance(95) {
        any & !15
    } else {
        any
    }
}

fn memory(
    instruction: &mut Instruction,
    operand: u32,
    narrow: bool,
    random: &mut Random,
) -> Address {
    instruction.set_op_kind(operand, OpKind::Memory);
    let target = target(instruction, random);
    let bits = if narrow { 32 } else { 64 };
    let first = if narrow { Register::EAX } else { Register::RAX };
    let mut address = Address {
        base: None,
        index: None,
        scale: 1,
        displacement: target,
        bits,
        target,
    };
    let full = if narrow { 4 } else { 8 };
    instruction.set_memory_displ_size(full);
    let shape = random.below(100);
    if shape < 10 {
        instruction.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
        instruction.set_memory_displacement64(target);
        return address;
    }
    if shape < 20 {
        instruction.set_memory_displacement64(target);
        return address;
    }
    // RSP stays the stack's.
    let general = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let base = random.pick(&general);
    let mut index = random.pick(&general);
    if index == base {
        index = if base == 6 { 7 } else { 6 };
    }
    if shape < 90 {
        address.base = Some(base);
        instruction.set_memory_base(first + base as u32);
    }
    if shape >= 50 {
        address.index = Some(index);
        address.scale = 1 << random.below(4);
        instruction.set_memory_index(first + index as u32);
        instruction.set_memory_index_scale(address.scale as u32);
    }
    address.displacement = if address.base.is_none() {
        target - random.below(64) * address.scale
    } else if random.chance(60) {
        random.value() as i8 as i64 as u64
    } else {
        i64::from(random.value() as i32) as u64
    };
    let short = address.base.is_some()
        && address.displacement as i64 as i8 as i64 as u64 == address.displacement;
    if short {
        instruction.set_memory_displ_size(1);
    }
    let displacement = if narrow {
        u64::from(address.displacement as u32)
    } else {
        address.displacement
    };
    instruction.set_memory_displacement64(displacement);
    address
}

impl Address {
    /// Sets the registers so that the operand is at its target.
    pub fn set(&self, registers: &mut [u64; 16], random: &mut Random) {
        let mut rest = self.target.wrapping_sub(self.displacement);
        let store = |register: &mut u64, value: u64, junk: u64| {
            *register = if self.bits == 32 {
                junk << 32 | u64::from(value as u32)
            } else {
                value
            };
        };
        if let Some(index) = self.index {
            let value = if self.base.is_some() {
                random.value()
            } else {
                rest / self.scale
            };
            rest = rest.wrapping_sub(value.wrapping_mul(self.scale));
            store(&mut registers[index], value, random.next());
        }
        if let Some(base) = self.base {
            store(&mut registers[base], rest, random.next());
        }
    }
}

const _: () = assert!(CODE < REGION + REGION_SIZE);
