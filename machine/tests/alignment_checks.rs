//! Which operands raise #AC (SDM 6.15, "Interrupt 17"), with both engines. SDM volume 2 lists it for
//! every instruction on memory; Intel's processors raise it for the operands that have an alignment in
//! table 6-7 there, and not for those of 16 bytes.

#[path = "support/faults.rs"]
mod faults;
mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, cr4, rflags};
use arch::exception as vector;
use faults::{PAGES, Ring, run};

/// The vector that `code` raises at CPL 3 with alignment checks, its operand `distance` bytes behind an
/// address that is a multiple of 64.
fn raised(code: &[u8], distance: u64) -> Option<u8> {
    // FLD1, for what pops.
    let prefix: &[u8] = if (0xd8..=0xdf).contains(&code[0]) {
        &[0xd9, 0xe8]
    } else {
        &[]
    };
    let (fault, _) = run(Ring::Three, &[prefix, code].concat(), |cpu| {
        cpu.cr0 |= cr0::AM;
        cpu.cr4 |= cr4::OSXSAVE;
        cpu.xcr0 = 3;
        cpu.set_rflags(rflags::AC);
        for register in [0, 3, 6, 7] {
            cpu.registers[register] = PAGES + 0x100 + distance;
        }
        cpu.registers[1] = 3;
        cpu.registers[2] = 0;
    });
    fault.map(|fault| fault.vector)
}

#[test]
fn operands_are_aligned_as_intels_processors_ask() {
    let (none, ac, gp) = (
        None,
        Some(vector::ALIGNMENT_CHECK),
        Some(vector::GENERAL_PROTECTION),
    );
    let cases: &[(&[u8], u64, Option<u8>)] = &[
        // mov al; mov ax; mov rax
        (&[0x8a, 0x03], 1, none),
        (&[0x66, 0x8b, 0x03], 1, ac),
        (&[0x48, 0x8b, 0x03], 4, ac),
        (&[0x48, 0x8b, 0x03], 8, none),
        // movsb; rep movsb; rep stosb; lodsb; rep movsw
        (&[0xa4], 1, none),
        (&[0xf3, 0xa4], 1, none),
        (&[0xf3, 0xaa], 1, none),
        (&[0xac], 1, none),
        (&[0xf3, 0x66, 0xa5], 1, ac),
        // movups, movdqu both ways; lddqu; pcmpistri
        (&[0x0f, 0x10, 0x03], 4, none),
        (&[0x0f, 0x10, 0x03], 8, none),
        (&[0xf3, 0x0f, 0x6f, 0x03], 1, none),
        (&[0xf3, 0x0f, 0x7f, 0x03], 1, none),
        (&[0xf2, 0x0f, 0xf0, 0x03], 1, none),
        (&[0x66, 0x0f, 0x3a, 0x63, 0x03, 0], 1, none),
        // movsd; movq; movss; movhps; cvtps2pd; pmovzxbw
        (&[0xf2, 0x0f, 0x10, 0x03], 4, ac),
        (&[0xf3, 0x0f, 0x7e, 0x03], 4, ac),
        (&[0xf3, 0x0f, 0x10, 0x03], 2, ac),
        (&[0x0f, 0x16, 0x03], 4, ac),
        (&[0x0f, 0x5a, 0x03], 4, ac),
        (&[0x66, 0x0f, 0x38, 0x30, 0x03], 1, ac),
        // pinsrb; pinsrw
        (&[0x66, 0x0f, 0x3a, 0x20, 0x03, 0], 1, none),
        (&[0x66, 0x0f, 0xc4, 0x03, 0], 1, ac),
        // fld m32, m64, m80
        (&[0xd9, 0x03], 2, ac),
        (&[0xdd, 0x03], 4, ac),
        (&[0xdb, 0x2b], 8, none),
        (&[0xdb, 0x2b], 4, ac),
        (&[0xdb, 0x2b], 2, ac),
        // fstp m80; fild m64; fbld; fbstp
        (&[0xdb, 0x3b], 8, none),
        (&[0xdb, 0x3b], 4, ac),
        (&[0xdf, 0x2b], 4, ac),
        (&[0xdf, 0x23], 8, none),
        (&[0xdf, 0x33], 8, none),
        // fnstenv; fnsave; frstor; fldenv
        (&[0xd9, 0x33], 2, ac),
        (&[0xd9, 0x33], 4, none),
        (&[0xdd, 0x33], 4, none),
        (&[0xdd, 0x33], 2, ac),
        (&[0xdd, 0x23], 4, none),
        (&[0xd9, 0x23], 4, none),
        // fxsave; xsave
        (&[0x0f, 0xae, 0x03], 8, gp),
        (&[0x0f, 0xae, 0x23], 32, gp),
        // cmpxchg8b; cmpxchg16b; lock add; stmxcsr
        (&[0x0f, 0xc7, 0x0b], 4, ac),
        (&[0x48, 0x0f, 0xc7, 0x0b], 8, gp),
        (&[0xf0, 0x83, 0x03, 0x01], 2, ac),
        (&[0x0f, 0xae, 0x1b], 2, ac),
        // maskmovdqu, with a mask of zero; maskmovq
        (&[0x66, 0x0f, 0xf7, 0xc1], 1, ac),
        (&[0x66, 0x0f, 0xf7, 0xc1], 8, none),
        (&[0x0f, 0xf7, 0xc1], 1, ac),
        // movnti; bt word; lfs; mov fs; movbe; crc32; popcnt
        (&[0x48, 0x0f, 0xc3, 0x03], 4, ac),
        (&[0x66, 0x0f, 0xba, 0x23, 0], 1, ac),
        (&[0x0f, 0xb4, 0x03], 1, ac),
        (&[0x8e, 0x23], 1, ac),
        (&[0x0f, 0x38, 0xf0, 0x03], 2, ac),
        (&[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x03], 4, ac),
        (&[0xf3, 0x0f, 0xb8, 0x03], 2, ac),
        // sgdt
        (&[0x0f, 0x01, 0x03], 4, none),
        (&[0x0f, 0x01, 0x03], 2, ac),
    ];
    for (code, distance, expected) in cases {
        let found = raised(code, *distance);
        assert_eq!(found, *expected, "{code:02x?} at {distance}");
    }
}
