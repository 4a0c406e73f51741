//! What an unmasked x87 exception leaves in FOP, FIP and FDP (SDM volume 1, 8.1.8 and 8.1.9), with both
//! engines. The comparison with the host has every form.

#[path = "support/faults.rs"]
mod faults;
mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::exception as vector;
use faults::{PAGES, Ring, run};
use support::CODE;

/// FNINIT; FLDCW [RBX], which unmasks all; then `code` and WAIT: FOP, FIP relative to the code, FDP.
fn pointers(code: &[u8]) -> (bool, u16, u64, u64) {
    let code = [&[0xdb, 0xe3, 0xd9, 0x2b], code, &[0x9b]].concat();
    let (fault, processor) = run(Ring::Three, &code, |cpu| {
        cpu.registers[3] = PAGES;
        cpu.store(PAGES, 0x340_u16);
        // A signaling NaN.
        cpu.store(PAGES + 8, 0x7f80_0001_u32);
    });
    let x87 = &processor.cpu.x87;
    let raised = fault.is_some_and(|fault| fault.vector == vector::X87_FLOATING_POINT);
    let instruction = x87.instruction_pointer.wrapping_sub(CODE);
    (raised, x87.opcode, instruction, x87.data_pointer)
}

#[test]
fn the_instruction_with_an_unmasked_exception_is_remembered() {
    // FLDZ, FLD1, FDIVRP ST1, ST0: 1/0
    assert_eq!(
        pointers(&[0xd9, 0xee, 0xd9, 0xe8, 0xde, 0xf1]),
        (true, 0x6f1, 8, 0)
    );
    // FADD ST0, ST1 of an empty stack; FLD ST3; FXCH; FSQRT of nothing; FCOMPP
    for (code, opcode) in [
        ([0xd8, 0xc1], 0x0c1),
        ([0xd9, 0xc3], 0x1c3),
        ([0xd9, 0xca], 0x1ca),
        ([0xd9, 0xfa], 0x1fa),
        ([0xde, 0xd9], 0x6d9),
        ([0xd9, 0xfe], 0x1fe),
    ] {
        assert_eq!(pointers(&code), (true, opcode, 4, 0), "{code:x?}");
    }
    // FLD dword [RBX+8] with a prefix, and FIST word [RBX+16] of an empty stack
    assert_eq!(
        pointers(&[0x3e, 0xd9, 0x43, 0x08]),
        (true, 0x143, 4, PAGES + 8)
    );
    assert_eq!(pointers(&[0xdf, 0x53, 0x10]), (true, 0x753, 4, PAGES + 16));
}

#[test]
fn without_an_exception_the_opcode_stays() {
    assert_eq!(pointers(&[0xd9, 0xe8, 0xd8, 0xc0]).1, 0);
    // A control instruction that unmasks what is pending leaves it too: FNINIT; FCHS of nothing, which
    // is masked; FLDCW [RBX].
    let (raised, opcode, instruction, _) = pointers(&[0xdb, 0xe3, 0xd9, 0xe0, 0xd9, 0x2b]);
    assert_eq!((raised, opcode, instruction), (true, 0, 6));
}
