//! Every form of the instructions that guests may use on device memory, with operands in a device, in RAM
//! beside it, and in both.

use iced_x86::{Code, Mnemonic as M};

use crate::case::{Case, DEVICE, NOTHING, OPEN, Outcome, PAGES, RAM, Run};
use crate::compare::compare;
use crate::forms::{Address, Form, Prefix, all, encode};
use crate::program::{MOST_CASES, Program};
use crate::random::Random;

const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;
const RSP: usize = 4;
/// The border of the window's first two pages.
const BORDER: u64 = PAGES + 0x1000;
/// CF, PF, AF, ZF, SF, OF.
const STATUS: u64 = 0x8d5;
const TF: u64 = 1 << 8;
const DF: u64 = 1 << 10;

/// Cases of each form.
const CASES: usize = 6;

/// What is carried out on device memory; strings are in [`STRINGS`].
const EMULATED: &[M] = &[
    M::Mov,
    M::Movzx,
    M::Movsx,
    M::Movsxd,
    M::Movbe,
    M::Movnti,
    M::Add,
    M::Or,
    M::Adc,
    M::Sbb,
    M::And,
    M::Sub,
    M::Xor,
    M::Cmp,
    M::Test,
    M::Inc,
    M::Dec,
    M::Neg,
    M::Not,
    M::Rol,
    M::Ror,
    M::Rcl,
    M::Rcr,
    M::Shl,
    M::Sal,
    M::Shr,
    M::Sar,
    M::Shld,
    M::Shrd,
    M::Mul,
    M::Imul,
    M::Div,
    M::Idiv,
    M::Bsf,
    M::Bsr,
    M::Bt,
    M::Bts,
    M::Btr,
    M::Btc,
    M::Xchg,
    M::Xadd,
    M::Cmpxchg,
    M::Cmpxchg8b,
    M::Cmpxchg16b,
    M::Push,
    M::Pop,
    M::Seta,
    M::Setae,
    M::Setb,
    M::Setbe,
    M::Sete,
    M::Setg,
    M::Setge,
    M::Setl,
    M::Setle,
    M::Setne,
    M::Setno,
    M::Setnp,
    M::Setns,
    M::Seto,
    M::Setp,
    M::Sets,
    M::Cmova,
    M::Cmovae,
    M::Cmovb,
    M::Cmovbe,
    M::Cmove,
    M::Cmovg,
    M::Cmovge,
    M::Cmovl,
    M::Cmovle,
    M::Cmovne,
    M::Cmovno,
    M::Cmovnp,
    M::Cmovns,
    M::Cmovo,
    M::Cmovp,
    M::Cmovs,
    M::Movaps,
    M::Movapd,
    M::Movdqa,
    M::Movups,
    M::Movupd,
    M::Movdqu,
    M::Lddqu,
    M::Movntps,
    M::Movntpd,
    M::Movntdq,
    M::Movntdqa,
    M::Movss,
    M::Movd,
    M::Movq,
    M::Movntq,
    M::Movlps,
    M::Movlpd,
    M::Movhps,
    M::Movhpd,
    M::Movddup,
    M::Movsldup,
    M::Movshdup,
];

const STRINGS: &[M] = &[
    M::Movsb,
    M::Movsw,
    // SSE's too.
    M::Movsd,
    M::Movsq,
    M::Stosb,
    M::Stosw,
    M::Stosd,
    M::Stosq,
    M::Lodsb,
    M::Lodsw,
    M::Lodsd,
    M::Lodsq,
    M::Cmpsb,
    M::Cmpsw,
    M::Cmpsd,
    M::Cmpsq,
    M::Scasb,
    M::Scasw,
    M::Scasd,
    M::Scasq,
];

/// The window's first two pages: in each pair one at least is a device's.
const PAIRS: [[u64; 2]; 5] = [
    DEVICE,
    [RAM[0], DEVICE[1]],
    [DEVICE[0], RAM[1]],
    [NOTHING, DEVICE[0]],
    [RAM[1], NOTHING],
];

/// A case of a form, as case `number`; `None` where its random operands do not go together.
fn case_of(form: Form, number: usize, random: &mut Random) -> Option<Case> {
    let encoded = encode(form, Case::code_address(number), random)?;
    let run = Run::Bits64(random.pick(&[0, 3]));
    let name = format!("{:?} {:x?}", form, encoded.bytes);
    let mut case = Case::new(name, run, &encoded.bytes);
    for (number, register) in case.registers.iter_mut().enumerate() {
        if number != RSP {
            *register = random.value();
        }
    }
    let near = |random: &mut Random| BORDER - 40 + random.below(80);
    let strings = STRINGS.contains(&form.code.mnemonic());
    if strings && encoded.address.is_none() {
        case.registers[RSI] = near(random);
        case.registers[RDI] = near(random);
        case.registers[RCX] = random.below(6);
    }
    // A bit's register counts few bytes, or RAM that is not there is accessed natively.
    if crate::forms::is_bit_test(&encoded.instruction)
        && encoded.instruction.op_kind(1) == iced_x86::OpKind::Register
    {
        let counter = encoded.instruction.op_register(1).full_register().number();
        case.registers[counter] = random.below(512).wrapping_sub(256);
    }
    if let Some(address) = encoded.address {
        set(&address, &mut case, random);
    }
    let pair = random.pick(&PAIRS);
    case.window[0] = pair[0] | OPEN;
    case.window[1] = pair[1] | OPEN;
    case.flags = random.next() & STATUS | random.pick(&[0, 0, DF]);
    if random.chance(10) {
        case.flags |= TF;
        case.traps = 8;
    }
    Some(case)
}

fn set(address: &Address, case: &mut Case, random: &mut Random) {
    let kept = case.registers[RSP];
    address.set(&mut case.registers, random);
    case.registers[RSP] = kept;
}

fn vectors(outcomes: &[Outcome]) -> Vec<u64> {
    let mut vectors: Vec<u64> = outcomes.iter().map(Outcome::vector).collect();
    vectors.sort_unstable();
    vectors.dedup();
    vectors
}

/// Cases of forms that have memory operands, and what their vectors may be.
fn compare_forms(forms: &[Form], random: &mut Random) -> usize {
    let mut cases = Vec::new();
    let mut count = 0;
    for form in forms {
        for _ in 0..CASES {
            // Not all random operands go together.
            let number = cases.len();
            if let Some(case) = (0..20).find_map(|_| case_of(*form, number, random)) {
                cases.push(case);
            }
            if cases.len() == MOST_CASES {
                count += run(std::mem::take(&mut cases));
            }
        }
    }
    count + run(cases)
}

fn run(cases: Vec<Case>) -> usize {
    let count = cases.len();
    let program = Program {
        descriptors: Vec::new(),
        cases,
    };
    let outcomes = compare(&program);
    let complete = outcomes.iter().filter(|one| one.vector() == 0x40).count();
    assert!(complete > count / 2, "{complete} of {count} completed");
    // Those that do not complete divide, or are misaligned.
    let others = vectors(&outcomes);
    assert!(
        others
            .iter()
            .all(|vector| [0, 13, 14, 17, 0x40].contains(vector)),
        "{others:?}"
    );
    count
}

fn forms(mnemonics: &[M]) -> Vec<Form> {
    // SSE's CMPSD has the string's name, but is not emulated.
    let of = |form: &Form| {
        form.memory
            && mnemonics.contains(&form.code.mnemonic())
            && form.code != Code::Cmpsd_xmm_xmmm64_imm8
    };
    all().into_iter().filter(of).collect()
}

#[test]
fn every_form_of_what_is_emulated() {
    let forms = forms(EMULATED);
    // Each mnemonic is there, and locked forms are.
    for mnemonic in EMULATED {
        assert!(
            forms.iter().any(|form| form.code.mnemonic() == *mnemonic) || *mnemonic == M::Sal,
            "{mnemonic:?}"
        );
    }
    assert!(forms.iter().any(|form| form.prefix == Prefix::Lock));
    let count = compare_forms(&forms, &mut Random::new(11));
    println!("{count} cases of {} forms", forms.len());
    assert!(count > 1500, "{count}");
}

#[test]
fn every_form_of_strings() {
    let forms = forms(STRINGS);
    assert!(forms.iter().any(|form| form.prefix == Prefix::Repne));
    let count = compare_forms(&forms, &mut Random::new(12));
    assert!(count > 200, "{count}");
}

/// Near branches whose target or return address a device has, and a stack there.
#[test]
fn branches_and_stacks() {
    const UD2: [u8; 2] = [0x0f, 0x0b];
    /// To behind the UD2 that follows `branch`, by the address that [RBX] is given.
    fn by_memory(branch: &[u8]) -> Vec<u8> {
        let distance = 3 + branch.len() + UD2.len();
        let lea = [0x48, 0x8d, 0x05, distance as u8, 0, 0, 0];
        [&lea[..], &[0x48, 0x89, 0x03], branch, &UD2].concat()
    }
    /// The same in 32-bit code: call +0; pop eax; add eax, distance; mov [ebx], eax.
    fn by_memory_32(branch: &[u8]) -> Vec<u8> {
        let distance = 6 + branch.len() + UD2.len();
        let eip = [0xe8, 0, 0, 0, 0, 0x58, 0x83, 0xc0, distance as u8];
        [&eip[..], &[0x89, 0x03], branch, &UD2].concat()
    }
    let wide = [
        ("jmp", by_memory(&[0xff, 0x23])),
        ("call", by_memory(&[0xff, 0x13])),
        ("ret", by_memory(&[0x48, 0x89, 0xdc, 0xc3])),
        ("ret 16", by_memory(&[0x48, 0x89, 0xdc, 0xc2, 0x10, 0])),
        (
            "call +2",
            vec![0x48, 0x89, 0xdc, 0xe8, 2, 0, 0, 0, 0x0f, 0x0b],
        ),
        (
            "push, pop",
            vec![
                0x48, 0x89, 0xdc, 0x51, 0x66, 0x52, 0x6a, 0x85, 0x5e, 0x66, 0x5f,
            ],
        ),
        (
            "push, pop memory",
            vec![0x48, 0x89, 0xdc, 0xff, 0x33, 0x8f, 0x44, 0x24, 0x10],
        ),
    ];
    let narrow = [
        ("jmp", by_memory_32(&[0xff, 0x23])),
        ("call", by_memory_32(&[0xff, 0x13])),
        ("ret", by_memory_32(&[0x89, 0xdc, 0xc3])),
        ("ret 16", by_memory_32(&[0x89, 0xdc, 0xc2, 0x10, 0])),
        ("call +2", vec![0x89, 0xdc, 0xe8, 2, 0, 0, 0, 0x0f, 0x0b]),
        (
            "push, pop",
            vec![0x89, 0xdc, 0x51, 0x66, 0x52, 0x6a, 0x85, 0x5e, 0x66, 0x5f],
        ),
    ];
    let mut cases = Vec::new();
    for (run, codes) in [(Run::Bits64(3), &wide[..]), (Run::Bits32(3), &narrow)] {
        for (name, code) in codes {
            for offset in [0x100, 0xffc, 0xffe] {
                for pair in PAIRS.iter().take(3) {
                    for (flags, traps) in [(0, 0), (TF, 12)] {
                        let name = format!("{name}, {run:?}, {offset:#x}, {pair:x?}, {flags:#x}");
                        let mut case = Case::new(name, run, code).register(3, PAGES + offset);
                        case.window[0] = pair[0] | OPEN;
                        case.window[1] = pair[1] | OPEN;
                        case.flags = flags;
                        case.traps = traps;
                        cases.push(case);
                    }
                }
            }
        }
    }
    let program = Program {
        descriptors: Vec::new(),
        cases,
    };
    assert_eq!(vectors(&compare(&program)), [0x40]);
}
