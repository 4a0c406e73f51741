//! What the comparison with the host leaves out: other modes, branches, long strings.

mod support;

use arch::control_register::{cr0, rflags};
use posthaste_machine::cpu::segment::{register, rights};
use posthaste_machine::cpu::{Activity, Processor};

use support::{CODE, DATA, STACK, long_mode, step};

/// The same processor in protected mode without paging, with code and stack of `bits` bits.
fn legacy_mode(code: &[u8], bits: u32) -> Processor {
    let mut processor = long_mode(code);
    let cpu = &mut processor.cpu;
    cpu.efer = 0;
    cpu.cr0 &= !cr0::PG;
    for number in [register::CS, register::SS] {
        let segment = &mut cpu.segments[number as usize];
        segment.rights &= !(rights::LONG | rights::BIG);
        if bits == 32 {
            segment.rights |= rights::BIG;
        }
    }
    cpu.tlb.flush_all();
    cpu.refresh_mode();
    processor
}

const AX: usize = 0;
const CX: usize = 1;
const SP: usize = 4;
const SI: usize = 6;
const DI: usize = 7;

#[test]
fn an_absolute_address_is_sign_extended_only_without_the_prefix() {
    // mov eax,[80000000H] reaches FFFFFFFF80000000H, which nothing maps.
    let mut plain = long_mode(&[0x8b, 0x04, 0x25, 0, 0, 0, 0x80]);
    step(&mut plain, 1);
    assert_ne!(plain.cpu.rip(), CODE + 7);
    // With 67H it reaches 80000000H, where no device answers.
    let mut prefixed = long_mode(&[0x67, 0x8b, 0x04, 0x25, 0, 0, 0, 0x80]);
    step(&mut prefixed, 1);
    assert_eq!(prefixed.cpu.rip(), CODE + 8);
    assert_eq!(prefixed.cpu.registers[AX], 0xffff_ffff);
}

#[test]
fn absolute_moves_take_an_address_as_wide_as_addresses() {
    // movabs eax,[300000H]; the same with 67H and a 32-bit address.
    let cases: [&[u8]; 2] = [
        &[0xa1, 0, 0, 0x30, 0, 0, 0, 0, 0],
        &[0x67, 0xa1, 0, 0, 0x30, 0],
    ];
    for code in cases {
        let mut processor = long_mode(code);
        processor.cpu.store(DATA, 0x1234_5678_u32);
        step(&mut processor, 1);
        assert_eq!(processor.cpu.registers[AX], 0x1234_5678);
        assert_eq!(processor.cpu.rip(), CODE + code.len() as u64);
    }
}

#[test]
fn near_branches_go_where_they_say() {
    // (code, instructions, RIP after them as a distance from CODE)
    let cases: [(&[u8], u64, i64); 9] = [
        (&[0xeb, 0x10], 1, 0x12),
        (&[0xe9, 0xf0, 0xff, 0xff, 0xff], 1, -0xb),
        // Operand-size prefixes mean nothing to near branches in 64-bit mode.
        (&[0x66, 0xe9, 0x10, 0, 0, 0], 1, 0x16),
        // xor eax,eax; je / jne +10H.
        (&[0x31, 0xc0, 0x74, 0x10], 2, 0x14),
        (&[0x31, 0xc0, 0x75, 0x10], 2, 4),
        // xor ecx,ecx; jrcxz +10H; and loop, which counts below 0.
        (&[0x31, 0xc9, 0xe3, 0x10], 2, 0x14),
        (&[0x31, 0xc9, 0xe2, 0x10], 2, 0x14),
        // mov cl,1 with the rest 0: loop falls through.
        (&[0xb1, 1, 0xe2, 0x10], 2, 4),
        // call +2; there ret: back behind the call.
        (&[0xe8, 2, 0, 0, 0, 0x90, 0x90, 0xc3], 2, 5),
    ];
    for (code, count, distance) in cases {
        let mut processor = long_mode(code);
        step(&mut processor, count);
        let expected = CODE.wrapping_add_signed(distance);
        assert_eq!(processor.cpu.rip(), expected, "{code:02x?}");
        assert_eq!(processor.cpu.registers[SP], STACK);
    }
}

#[test]
fn a_branch_to_a_noncanonical_address_faults_before_it_pushes() {
    // call rax
    let mut processor = long_mode(&[0xff, 0xd0]);
    processor.cpu.registers[AX] = 1 << 47;
    step(&mut processor, 1);
    assert_ne!(processor.cpu.rip(), 1 << 47);
    assert_eq!(processor.cpu.ram.load::<u64>(STACK - 8), 0);
}

#[test]
fn sixteen_bit_code_truncates_the_instruction_pointer() {
    let mut processor = legacy_mode(&[], 16);
    processor.cpu.segments[register::CS as usize].base = CODE;
    // jmp +7FH at FFF0H wraps to 71H.
    processor
        .cpu
        .platform
        .bus_agent()
        .write_bytes(CODE + 0xfff0, &[0xeb, 0x7f]);
    processor.cpu.set_rip(0xfff0);
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), 0x71);
}

#[test]
fn pushes_are_as_wide_as_operands_and_the_stack() {
    // (code, bits, bytes pushed): push ax / eax by mode and prefix.
    let cases: [(&[u8], u32, u64); 4] = [
        (&[0x50], 32, 4),
        (&[0x66, 0x50], 32, 2),
        (&[0x50], 16, 2),
        (&[0x66, 0x50], 16, 4),
    ];
    for (code, bits, size) in cases {
        let mut processor = legacy_mode(code, bits);
        processor.cpu.registers[SP] = STACK + 0x100;
        processor.cpu.registers[AX] = 0x1234_5678;
        step(&mut processor, 1);
        assert_eq!(processor.cpu.registers[SP], STACK + 0x100 - size);
        let mask = if size == 2 { 0xffff } else { 0xffff_ffff };
        let offset = if bits == 16 {
            0x100 - size
        } else {
            STACK + 0x100 - size
        };
        assert_eq!(
            processor.cpu.ram.load::<u32>(offset) & mask,
            0x1234_5678 & mask
        );
    }
}

#[test]
fn all_registers_come_back() {
    // pushad; popad
    let mut processor = legacy_mode(&[0x60, 0x61], 32);
    for number in [0, 1, 2, 3, 5, 6, 7] {
        processor.cpu.registers[number] = 0x1111 * number as u64;
    }
    let before = processor.cpu.registers;
    step(&mut processor, 1);
    assert_eq!(processor.cpu.registers[SP], STACK - 32);
    assert_eq!(u64::from(processor.cpu.ram.load::<u32>(STACK - 20)), STACK);
    step(&mut processor, 1);
    assert_eq!(processor.cpu.registers[..16], before[..16]);
}

#[test]
fn decimal_adjustment_follows_the_manuals_examples() {
    // (code, AX before, flags before, AX after, CF after); SDM volume 2, DAA, DAS, AAA, AAM, AAD.
    let cases: [(&[u8], u64, u64, u64, bool); 7] = [
        (&[0x27], 0xae, 0, 0x14, true),
        (&[0x27], 0x2e, 0, 0x34, false),
        (&[0x2f], 0xee, rflags::CF | rflags::AF, 0x88, true),
        (&[0x37], 0x0b, 0, 0x101, true),
        (&[0x3f], 0x000b, 0, 0xff05, true),
        (&[0xd4, 10], 63, 0, 0x603, false),
        (&[0xd5, 10], 0x603, 0, 63, false),
    ];
    for (code, before, flags, after, carry) in cases {
        let mut processor = legacy_mode(code, 32);
        processor.cpu.registers[AX] = before;
        processor.cpu.set_rflags(flags);
        step(&mut processor, 1);
        assert_eq!(processor.cpu.registers[AX], after, "{code:02x?}");
        assert_eq!(processor.cpu.flags.cf(), carry, "{code:02x?}");
    }
}

#[test]
fn a_long_copy_crosses_pages_and_may_be_interrupted() {
    // rep movsb
    let mut processor = long_mode(&[0xf3, 0xa4]);
    let cpu = &mut processor.cpu;
    for i in 0..10_000_u64 {
        cpu.store(DATA + 5 + i, (i % 251) as u8);
    }
    (cpu.registers[SI], cpu.registers[DI]) = (DATA + 5, DATA + 0x8003);
    cpu.registers[CX] = 10_000;
    // Each step does a part, at the same RIP.
    step(&mut processor, 1);
    assert_eq!(processor.cpu.rip(), CODE);
    while processor.cpu.rip() == CODE {
        step(&mut processor, 1);
    }
    let cpu = &processor.cpu;
    assert_eq!(cpu.registers[CX], 0);
    assert_eq!(cpu.registers[SI], DATA + 5 + 10_000);
    assert_eq!(cpu.registers[DI], DATA + 0x8003 + 10_000);
    for i in 0..10_000_u64 {
        assert_eq!(cpu.ram.load::<u8>(DATA + 0x8003 + i), (i % 251) as u8);
    }
    assert_eq!(cpu.ram.load::<u8>(DATA + 0x8003 + 10_000), 0);
}

#[test]
fn a_copy_onto_its_own_source_repeats_it() {
    let mut processor = long_mode(&[0xf3, 0xa4]);
    let cpu = &mut processor.cpu;
    cpu.store(DATA, 0x4241_u16);
    (cpu.registers[SI], cpu.registers[DI]) = (DATA, DATA + 2);
    cpu.registers[CX] = 8;
    while processor.cpu.rip() == CODE {
        step(&mut processor, 1);
    }
    assert_eq!(
        processor.cpu.ram.load::<u64>(DATA + 2),
        0x4241_4241_4241_4241
    );
}

#[test]
fn a_fault_in_a_string_leaves_the_registers_at_its_iteration() {
    // rep stosq up to an unmapped page.
    let mut processor = long_mode(&[0xf3, 0x48, 0xab]);
    let cpu = &mut processor.cpu;
    // The last 2-MByte page of RAM is taken out of the map.
    cpu.store(0x3000 + 3 * 8, 0_u64);
    cpu.registers[DI] = 0x60_0000 - 32;
    cpu.registers[CX] = 100;
    cpu.registers[AX] = 0x1234;
    for _ in 0..4 {
        step(&mut processor, 1);
    }
    let cpu = &processor.cpu;
    assert_eq!(cpu.activity, Activity::Shutdown);
    assert_eq!(cpu.cr2, 0x60_0000);
    assert_eq!(cpu.registers[DI], 0x60_0000);
    assert_eq!(cpu.registers[CX], 96);
    assert_eq!(cpu.ram.load::<u64>(0x60_0000 - 8), 0x1234);
}

/// SDM volume 2, ANDN and its kin: #UD in real-address and virtual-8086 mode. VEX.W is ignored outside
/// 64-bit mode.
#[test]
fn vex_encoded_integer_instructions_need_protected_mode() {
    // andn eax,ecx,edx without and with VEX.W, blsr eax,edx, rorx eax,edx,4
    let codes: [&[u8]; 4] = [
        &[0xc4, 0xe2, 0x70, 0xf2, 0xc2],
        &[0xc4, 0xe2, 0xf0, 0xf2, 0xc2],
        &[0xc4, 0xe2, 0x78, 0xf3, 0xca],
        &[0xc4, 0xe3, 0x7b, 0xf0, 0xc2, 4],
    ];
    for (code, result) in codes.into_iter().zip([0xf0, 0xf0, 0xfe0, 0x0ff]) {
        for (bits, flags, protected) in [
            (32, 0, true),
            (16, 0, true),
            (16, rflags::VM, true),
            (16, 0, false),
        ] {
            let mut processor = legacy_mode(code, bits);
            let cpu = &mut processor.cpu;
            if !protected {
                cpu.cr0 &= !cr0::PE;
            }
            cpu.system_flags |= flags;
            cpu.refresh_mode();
            cpu.registers[CX] = 0xf00;
            cpu.registers[2] = 0xff0;
            step(&mut processor, 1);
            let executes = protected && flags == 0;
            let moved = processor.cpu.rip() == CODE + code.len() as u64;
            assert_eq!(moved, executes, "{code:x?} {bits} {flags:x}");
            let expected = if executes { result } else { 0 };
            assert_eq!(processor.cpu.registers[AX], expected, "{code:x?}");
        }
    }
}

#[test]
fn privilege_decides_what_popf_changes() {
    // (CPL, IOPL, IF and IOPL popped, IF and IOPL after)
    let all = rflags::IF | rflags::IOPL;
    let cases = [
        (0, 0, all, all),
        (3, 0, all, 0),
        (3, rflags::IOPL, 0, rflags::IOPL),
        (3, 0, 0, 0),
    ];
    for (cpl, privilege, popped, after) in cases {
        let mut processor = long_mode(&[0x9d]);
        let cpu = &mut processor.cpu;
        cpu.set_rflags(privilege);
        cpu.segments[register::SS as usize].rights |= cpl << 5;
        cpu.refresh_mode();
        cpu.registers[SP] = STACK - 8;
        cpu.store(STACK - 8, popped);
        step(&mut processor, 1);
        assert_eq!(processor.cpu.rflags() & all, after, "CPL {cpl}");
    }
}

// SDM 22.15: D6H is reserved, but no invalid opcode; processors set AL from CF. 64-bit mode has nothing there.
#[test]
fn d6_sets_al_from_carry() {
    for bits in [16, 32] {
        // clc; salc; stc; salc
        let mut processor = legacy_mode(&[0xf8, 0xd6, 0xf9, 0xd6], bits);
        processor.cpu.registers[AX] = 0x1234_5678;
        step(&mut processor, 2);
        assert_eq!(processor.cpu.registers[AX], 0x1234_5600);
        step(&mut processor, 2);
        assert_eq!(processor.cpu.registers[AX], 0x1234_56ff);
    }
    let mut processor = long_mode(&[0xf9, 0xd6]);
    step(&mut processor, 2);
    assert_eq!(processor.cpu.registers[AX] & 0xff, 0);
    assert_ne!(processor.cpu.rip(), CODE + 2);
}
