//! What the comparison with the host cannot show of SSE and x87: availability, alignment, FXSAVE
//! images, and the approximations.

mod support;

use arch::control_register::{cr0, cr4};
use arch::exception as vector;
use posthaste_machine::cpu::{Cpu, Processor};
use support::{DATA, long_mode, step};

/// Runs one instruction; gives the vector of the exception that it raised.
fn run(code: &[u8], prepare: impl FnOnce(&mut Cpu)) -> (Processor, Option<u8>) {
    let mut processor = long_mode(code);
    prepare(&mut processor.cpu);
    processor.cpu.refresh_mode();
    let before = processor.cpu.rip();
    let first = first_exception(&mut processor);
    let moved = processor.cpu.rip() == before + code.len() as u64;
    assert!(moved || first.is_some(), "neither executed nor raised");
    (processor, first)
}

fn first_exception(processor: &mut Processor) -> Option<u8> {
    // A handler for every vector that only halts: the vector is known by its address.
    const TABLE: u64 = 0x28_0000;
    const HANDLERS: u64 = 0x29_0000;
    const DESCRIPTORS: u64 = 0x2a_0000;
    let cpu = &mut processor.cpu;
    for number in 0..32u64 {
        let handler = HANDLERS + number * 16;
        let low = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        cpu.store(TABLE + number * 16, low);
        cpu.store(TABLE + number * 16 + 8, handler >> 32);
        cpu.store(handler, 0xf4u8);
    }
    // Descriptor 8: 64-bit code.
    cpu.store(DESCRIPTORS + 8, 0x00af_9b00_0000_ffffu64);
    cpu.store(DESCRIPTORS + 16, 0x00cf_9300_0000_ffffu64);
    cpu.gdtr.base = DESCRIPTORS;
    cpu.gdtr.limit = 0x1f;
    cpu.idtr.base = TABLE;
    cpu.idtr.limit = 0xfff;
    step(processor, 1);
    let rip = processor.cpu.rip();
    (HANDLERS..HANDLERS + 32 * 16)
        .contains(&rip)
        .then(|| ((rip - HANDLERS) / 16) as u8)
}

fn data_in_rax(cpu: &mut Cpu) {
    cpu.registers[0] = DATA;
}

const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1];
const MOVAPS: &[u8] = &[0x0f, 0x28, 0x00];
const MOVUPS: &[u8] = &[0x0f, 0x10, 0x00];
const PADDB: &[u8] = &[0x0f, 0xfc, 0xc1];
const FLD1: &[u8] = &[0xd9, 0xe8];
const FNINIT: &[u8] = &[0xdb, 0xe3];
const WAIT: &[u8] = &[0x9b];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x00];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x00];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x08];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x08];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x10];
const DIVPS: &[u8] = &[0x0f, 0x5e, 0xc1];

/// SDM 2.5 Control registers, table 13-1: what CR0.EM, CR0.TS, CR0.MP and CR4.OSFXSR forbid.
#[test]
fn control_registers_make_instructions_unavailable() {
    let ud = Some(vector::INVALID_OPCODE);
    let nm = Some(vector::DEVICE_NOT_AVAILABLE);
    let cases: [(&[u8], u64, u64, Option<u8>); 20] = [
        (ADDPS, 0, 0, None),
        (ADDPS, cr0::EM, 0, ud),
        (ADDPS, cr0::TS, 0, nm),
        (ADDPS, cr0::TS | cr0::EM, 0, ud),
        (ADDPS, 0, cr4::OSFXSR, ud),
        (ADDPS, cr0::TS, cr4::OSFXSR, ud),
        (PADDB, 0, cr4::OSFXSR, None),
        (PADDB, cr0::EM, 0, ud),
        (PADDB, cr0::TS, 0, nm),
        (FLD1, 0, cr4::OSFXSR, None),
        (FLD1, cr0::EM, 0, nm),
        (FLD1, cr0::TS, 0, nm),
        (FNINIT, cr0::TS, 0, nm),
        (FXSAVE, cr0::TS, 0, nm),
        (FXSAVE, cr0::EM, 0, nm),
        (FXSAVE, 0, cr4::OSFXSR, None),
        (LDMXCSR, cr0::TS, 0, nm),
        (LDMXCSR, 0, cr4::OSFXSR, ud),
        (WAIT, cr0::EM, 0, None),
        // CR0.MP is set in the state that the tests begin with.
        (WAIT, cr0::TS, 0, nm),
    ];
    for (code, set_cr0, clear_cr4, expected) in cases {
        let (_, raised) = run(code, |cpu| {
            data_in_rax(cpu);
            cpu.cr0 |= set_cr0;
            cpu.cr4 &= !clear_cr4;
        });
        assert_eq!(raised, expected, "{code:x?} {set_cr0:#x} {clear_cr4:#x}");
    }
}

/// SDM volume 1, 8.7: the next waiting instruction raises #MF; one that does not wait goes on.
#[test]
fn a_pending_x87_exception_is_raised_by_what_waits() {
    let mf = Some(vector::X87_FLOATING_POINT);
    for (code, expected) in [
        (FLD1, mf),
        (WAIT, mf),
        (PADDB, mf),
        (FNINIT, None),
        (ADDPS, None),
    ] {
        let (_, raised) = run(code, |cpu| {
            cpu.x87.control &= !1;
            cpu.x87.status |= 1;
            cpu.x87.update_summary();
        });
        assert_eq!(raised, expected, "{code:x?}");
    }
}

/// SDM volume 1, 11.5.4: #XM with CR4.OSXMMEXCPT, #UD without; flags are set, the target is not.
#[test]
fn an_unmasked_sse_exception_is_raised() {
    for (clear, expected) in [
        (0, vector::SIMD_FLOATING_POINT),
        (cr4::OSXMMEXCPT, vector::INVALID_OPCODE),
    ] {
        let (processor, raised) = run(DIVPS, |cpu| {
            cpu.cr4 &= !clear;
            cpu.mxcsr = 0x1f80 & !(4 << 7);
            cpu.xmm[0] = 0x3f80_0000_3f80_0000_3f80_0000_3f80_0000;
            cpu.xmm[1] = 0;
        });
        assert_eq!(raised, Some(expected));
        assert_eq!(processor.cpu.mxcsr & 0x3f, 4);
        assert_eq!(processor.cpu.xmm[0] as u32, 0x3f80_0000);
    }
}

/// SDM volume 1, 10.4.1.1: #GP(0) unless aligned, but for the unaligned moves.
#[test]
fn operands_of_16_bytes_are_aligned() {
    let gp = Some(vector::GENERAL_PROTECTION);
    for (code, offset, expected) in [
        (MOVAPS, 0, None),
        (MOVAPS, 8, gp),
        (MOVUPS, 1, None),
        (FXSAVE, 8, gp),
        (FXRSTOR, 4, gp),
    ] {
        let (_, raised) = run(code, |cpu| cpu.registers[0] = DATA + offset);
        assert_eq!(raised, expected, "{code:x?} {offset}");
    }
}

/// SDM volume 1, 10.2.3: reserved bits of MXCSR are refused by LDMXCSR and FXRSTOR.
#[test]
fn reserved_bits_of_mxcsr_are_refused() {
    for (value, refused) in [
        (0xffffu32, false),
        (0x1_0000, true),
        (0x2_0000, true),
        (1 << 31, true),
    ] {
        let expected = refused.then_some(vector::GENERAL_PROTECTION);
        let (processor, raised) = run(LDMXCSR, |cpu| {
            data_in_rax(cpu);
            cpu.store(DATA, value);
        });
        assert_eq!(raised, expected, "LDMXCSR {value:#x}");
        assert_eq!(processor.cpu.mxcsr == value, !refused);
        let (processor, raised) = run(FXRSTOR, |cpu| {
            data_in_rax(cpu);
            cpu.xmm[3] = 77;
            cpu.store(DATA + 24, value);
        });
        assert_eq!(raised, expected, "FXRSTOR {value:#x}");
        assert_eq!(processor.cpu.xmm[3] == 77, refused, "nothing is loaded");
    }
}

/// SDM volume 1, 10.5.1, table 10-2: where FXSAVE puts what, and that FXRSTOR brings it back.
#[test]
fn fxsave_images() {
    for (save, restore, wide) in [(FXSAVE, FXRSTOR, false), (FXSAVE64, FXRSTOR64, true)] {
        let (saved, raised) = run(save, |cpu| {
            data_in_rax(cpu);
            for i in 0..64 {
                cpu.store(DATA + i * 8, u64::MAX);
            }
            for i in 0..16 {
                cpu.xmm[i] = 0x0101_0101 << 96 | i as u128;
            }
            for i in 0..8u8 {
                cpu.x87.registers[usize::from(i)] = [i, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
            }
            cpu.x87.control = 0x27f;
            cpu.x87.set_top(3);
            // R3 and R4 are in use.
            cpu.x87.tag = !(0xf << 6);
            cpu.x87.instruction_pointer = 0x1234_5678_9abc;
            cpu.x87.data_pointer = 0x4321_8765_cba9;
            cpu.mxcsr = 0x1fa5;
        });
        assert_eq!(raised, None);
        let ram = &saved.cpu.ram;
        assert_eq!(ram.load::<u16>(DATA), 0x27f);
        assert_eq!(ram.load::<u16>(DATA + 2), 3 << 11);
        assert_eq!(ram.load::<u8>(DATA + 4), 0b0001_1000);
        let pointer = |value: u64| if wide { value } else { value & 0xffff_ffff };
        assert_eq!(ram.load::<u64>(DATA + 8), pointer(0x1234_5678_9abc));
        assert_eq!(ram.load::<u64>(DATA + 16), pointer(0x4321_8765_cba9));
        assert_eq!(ram.load::<u32>(DATA + 24), 0x1fa5);
        assert_eq!(ram.load::<u32>(DATA + 28), 0xffff);
        // ST(0) is R3.
        assert_eq!(ram.load::<u8>(DATA + 32), 3);
        assert_eq!(ram.load::<u128>(DATA + 160), 0x0101_0101 << 96);
        assert_eq!(ram.load::<u128>(DATA + 400), 0x0101_0101 << 96 | 15);
        // The rest is software's.
        assert_eq!(ram.load::<u64>(DATA + 416), u64::MAX);

        let mut image = [0; 512];
        ram.read_bytes(DATA, &mut image);
        let (restored, raised) = run(restore, |cpu| {
            data_in_rax(cpu);
            cpu.platform.bus_agent().write_bytes(DATA, &image);
        });
        assert_eq!(raised, None);
        let (was, is) = (&saved.cpu, &restored.cpu);
        assert_eq!(is.xmm, was.xmm);
        assert_eq!(is.mxcsr, was.mxcsr);
        assert_eq!(is.x87.registers, was.x87.registers);
        assert_eq!(is.x87.tag, was.x87.tag);
        assert_eq!(is.x87.status, was.x87.status);
        assert_eq!(is.x87.control, was.x87.control);
        assert_eq!(is.x87.data_pointer, pointer(was.x87.data_pointer));
    }
}

/// SDM volume 2, RCPPS and RSQRTPS: a relative error of 1.5 * 2^-12 at most.
#[test]
fn approximations_are_near() {
    let mut seed = 1u32;
    for _ in 0..300 {
        seed = seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        let x = f32::from_bits((seed >> 1).clamp(0x0080_0000, 0x7e7f_ffff));
        let exact = [1.0 / f64::from(x), 1.0 / f64::from(x).sqrt()];
        for (code, exact) in [&[0xf3, 0x0f, 0x53, 0xc1], &[0xf3, 0x0f, 0x52, 0xc1]]
            .into_iter()
            .zip(exact)
        {
            let (processor, _) = run(code, |cpu| {
                cpu.xmm[1] = x.to_bits().into();
                cpu.mxcsr = 0x1f80;
            });
            let found = f64::from(f32::from_bits(processor.cpu.xmm[0] as u32));
            let error = (found - exact).abs() / exact;
            assert!(error <= 1.5 / 4096.0, "{x:e}: {found:e} for {exact:e}");
            assert_eq!(processor.cpu.mxcsr, 0x1f80, "no exception");
        }
    }
}
