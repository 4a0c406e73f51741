//! Descriptor tables for tests of protection.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part of this module"
)]

use posthaste_machine::cpu::segment::{DescriptorTable, Segment, register};
use posthaste_machine::cpu::{Cpu, Processor};

use crate::support::{long_mode, step};

/// Where the GDT is.
pub const GDT: u64 = 0x8000;
/// Where the TSS is.
pub const TSS: u64 = 0x9000;
/// Where the IDT is.
pub const IDT: u64 = 0xa000;
/// 64-bit code, DPL 0.
pub const CODE_64: u16 = 0x08;
/// Data, DPL 0.
pub const STACK_0: u16 = 0x10;
/// 32-bit code, DPL 3.
pub const USER_CODE_32: u16 = 0x18;
/// Data, DPL 3.
pub const USER_DATA: u16 = 0x20;
/// 64-bit code, DPL 3.
pub const USER_CODE_64: u16 = 0x28;
/// The TSS, 16 bytes.
pub const TASK: u16 = 0x30;
/// 32-bit code, DPL 0.
pub const CODE_32: u16 = 0x40;
/// 64-bit conforming code, DPL 0.
pub const CONFORMING: u16 = 0x48;
/// Data that is not present.
pub const NOT_PRESENT: u16 = 0x50;
/// A free slot of 16 bytes.
pub const FREE: u16 = 0x58;
/// Stack of CPL 0 in the TSS.
pub const KERNEL_STACK: u64 = 0x21_0000;
/// The first interrupt stack.
pub const INTERRUPT_STACK: u64 = 0x22_0000;

/// A code or data descriptor with base 0 and a limit of 4 GBytes: `rights` are bits 55:40.
pub const fn flat(rights: u64) -> u64 {
    0x000f_0000_0000_ffff | rights << 40
}

/// Fills GDT, TSS and an empty IDT of 256 entries, and loads GDTR, IDTR and TR.
pub fn load(cpu: &mut Cpu) {
    let entries = [
        (CODE_64, flat(0xa09b)),
        (STACK_0, flat(0xc093)),
        (USER_CODE_32, flat(0xc0fb)),
        (USER_DATA, flat(0xc0f3)),
        (USER_CODE_64, flat(0xa0fb)),
        (CODE_32, flat(0xc09b)),
        (CONFORMING, flat(0xa09f)),
        (NOT_PRESENT, flat(0xc013)),
    ];
    for (selector, descriptor) in entries {
        cpu.store(GDT + u64::from(selector), descriptor);
    }
    let base = TSS << 16;
    cpu.store(
        GDT + u64::from(TASK),
        0x0000_8900_0000_0000 | base | 0x67_u64,
    );
    cpu.store(GDT + u64::from(TASK) + 8, 0_u64);
    cpu.store(TSS + 4, KERNEL_STACK);
    cpu.store(TSS + 0x24, INTERRUPT_STACK);
    cpu.store(TSS + 102, 104_u16);
    cpu.gdtr = DescriptorTable {
        base: GDT,
        limit: 0x67,
    };
    cpu.idtr = DescriptorTable {
        base: IDT,
        limit: 0xfff,
    };
    cpu.load_tr(TASK).expect("the TSS is valid");
}

/// An interrupt or trap gate of the 64-bit IDT: `rights` is byte 5.
pub fn set_gate(cpu: &mut Cpu, vector: u8, handler: u64, selector: u16, rights: u64, stack: u64) {
    let low = handler & 0xffff
        | u64::from(selector) << 16
        | stack << 32
        | rights << 40
        | (handler & 0xffff_0000) << 32;
    let at = IDT + u64::from(vector) * 16;
    cpu.store(at, low);
    cpu.store(at + 8, handler >> 32);
}

/// Where the handlers of [`kernel`] and [`fault_of`] are.
pub const HANDLER: u64 = 0x18_0000;

/// 64-bit mode with tables, at CPL 0.
pub fn kernel(code: &[u8]) -> Processor {
    let mut processor = long_mode(code);
    load(&mut processor.cpu);
    processor.cpu.store(HANDLER, 0xf4_u8);
    processor
}

/// The same at CPL 3.
pub fn user(code: &[u8]) -> Processor {
    let mut processor = kernel(code);
    let cpu = &mut processor.cpu;
    cpu.segments[register::CS as usize] = Segment::from_descriptor(USER_CODE_64 | 3, flat(0xa0fb));
    cpu.segments[register::SS as usize] = Segment::from_descriptor(USER_DATA | 3, flat(0xc0f3));
    cpu.refresh_mode();
    assert_eq!(cpu.cpl, 3);
    processor
}

/// Runs one instruction and gives the exception that was delivered by it, through gates that all
/// lead to a stack of their own; `None` if there was none.
pub fn fault_of(processor: &mut Processor) -> Option<(u8, u64)> {
    for vector in 0..32 {
        set_gate(
            &mut processor.cpu,
            vector,
            HANDLER + u64::from(vector) * 16,
            CODE_64,
            0x8e,
            1,
        );
    }
    step(processor, 1);
    let cpu = &processor.cpu;
    if (HANDLER..HANDLER + 512).contains(&cpu.rip()) {
        let vector = ((cpu.rip() - HANDLER) / 16) as u8;
        Some((vector, cpu.ram.load(cpu.registers[4])))
    } else {
        None
    }
}
