//! Code that another processor writes (SDM 8.1.3 Handling self- and cross-modifying code).

mod support;

use support::{DATA, long_mode_processors, step};

/// `mov ecx, 1; jmp back`: what is written is the 1.
const CODE: [u8; 7] = [0xb9, 1, 0, 0, 0, 0xeb, 0xf9];

/// A processor that may write to a page directly does so for a moment after another has decoded
/// instructions of it, until it comes to know. The other must not keep what it decoded.
#[test]
fn a_write_that_comes_while_code_is_decoded_is_seen() {
    // mov dword [rbx], 0; jmp back
    let writer = [0xc7, 0x03, 0, 0, 0, 0, 0xeb, 0xf8];
    // jmp rbx
    let executor = [0xff, 0xe3];
    let [mut writes, mut executes] = long_mode_processors([&writer, &executor]);
    writes.cpu.ram.write_bytes(DATA, &CODE);
    writes.cpu.registers[3] = DATA + 0x800;
    executes.cpu.registers[3] = DATA;
    step(&mut writes, 2);
    step(&mut executes, 4);
    assert_eq!(executes.cpu.registers[1], 1);
    // The writer has not looked at its inbox: nobody notices what it writes through its translation.
    writes.cpu.ram.store(DATA + 1, 2_u8);
    writes.cpu.registers[3] = DATA + 0x2000;
    step(&mut writes, 2);
    step(&mut executes, 4);
    assert_eq!(executes.cpu.registers[1], 2);
}

#[test]
fn a_write_after_code_was_decoded_is_seen() {
    // mov dword [rbx], 3; jmp back
    let writer = [0xc7, 0x03, 3, 0, 0, 0, 0xeb, 0xf8];
    let executor = [0xff, 0xe3];
    let [mut writes, mut executes] = long_mode_processors([&writer, &executor]);
    writes.cpu.ram.write_bytes(DATA, &CODE);
    writes.cpu.registers[3] = DATA + 1;
    executes.cpu.registers[3] = DATA;
    step(&mut executes, 4);
    assert_eq!(executes.cpu.registers[1], 1);
    step(&mut writes, 2);
    step(&mut executes, 4);
    assert_eq!(executes.cpu.registers[1], 3);
}
