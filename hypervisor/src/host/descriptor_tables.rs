//! Each processor's GDT and TSS, and the IDT they share. Every gate switches to an IST stack, for
//! prebuilt `core` has functions that use the red zone.
#![allow(unsafe_code, reason = "loads descriptor tables")]

use alloc::boxed::Box;
use alloc::vec;
use core::arch::asm;

/// Selector of the 64-bit code segment.
pub const CODE: u16 = 0x08;
/// Selector of the data segment.
pub const DATA: u16 = 0x10;
/// Selector of the TSS.
pub const TSS: u16 = 0x20;

const GDT_LIMIT: u16 = 6 * 8 - 1;
const TSS_LIMIT: u16 = 103;
const IST_STACK_SIZE: usize = 8 * 1024;

/// Which IST stack a vector uses. Seven stacks are all there are: the exceptions that can come on
/// top of another handler have one of their own, the rest share one.
const fn stack(vector: usize) -> u64 {
    match vector {
        1 => 5,
        2 => 2,
        7 => 7,
        8 => 3,
        18 => 4,
        0..32 => 1,
        _ => 6,
    }
}

/// Bases that the host-state area of a VMCS needs.
#[derive(Clone, Copy, Debug)]
pub struct Bases {
    /// GDTR base.
    pub gdt: u64,
    /// IDTR base.
    pub idt: u64,
    /// TR base.
    pub tss: u64,
}

#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 6],
    tss: [u8; 104],
}

#[repr(C, packed)]
struct Pseudo {
    limit: u16,
    base: u64,
}

/// Where the gates of the IDT lead.
#[derive(Clone, Copy, Debug)]
pub struct Stubs {
    /// Gate `v` enters 16 `v` bytes behind this, but for the following.
    pub first: u64,
    /// The entry of NMIs.
    pub non_maskable: u64,
    /// The entry of #NM.
    pub device_not_available: u64,
}

/// Builds the IDT.
pub fn build_idt(stubs: Stubs) -> &'static [u64; 512] {
    let mut idt = Box::new([0u64; 512]);
    for vector in 0..256 {
        let entry = match vector {
            2 => stubs.non_maskable,
            7 => stubs.device_not_available,
            // Stubs are 16 bytes apart by their alignment.
            _ => stubs.first + 16 * vector as u64,
        };
        // SDM 6.14.1 64-bit mode IDT: interrupt gate, present, DPL 0.
        idt[2 * vector] = entry & 0xffff
            | u64::from(CODE) << 16
            | stack(vector) << 32
            | 0x8e00 << 32
            | (entry >> 16 & 0xffff) << 48;
        idt[2 * vector + 1] = entry >> 32;
    }
    Box::leak(idt)
}

/// Gives this processor its GDT, TSS and IST stacks, and loads them and the IDT.
pub fn load(idt: &'static [u64; 512]) -> Bases {
    let tables = Box::leak(Box::new(Tables {
        gdt: [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0,
            0,
        ],
        tss: [0; 104],
    }));
    for ist in 0..7 {
        let stack = Box::leak(vec![0u8; IST_STACK_SIZE].into_boxed_slice());
        let top = (stack.as_ptr() as u64 + IST_STACK_SIZE as u64) & !15;
        tables.tss[36 + 8 * ist..44 + 8 * ist].copy_from_slice(&top.to_le_bytes());
    }
    tables.tss[102..104].copy_from_slice(&104u16.to_le_bytes());
    let tss = tables.tss.as_ptr() as u64;
    // SDM 7.2.3 TSS descriptor in 64-bit mode: available 64-bit TSS.
    tables.gdt[4] =
        u64::from(TSS_LIMIT) | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
    tables.gdt[5] = tss >> 32;
    let gdt = tables.gdt.as_ptr() as u64;
    let gdtr = Pseudo {
        limit: GDT_LIMIT,
        base: gdt,
    };
    let idtr = Pseudo {
        limit: 4095,
        base: idt.as_ptr() as u64,
    };
    // SAFETY: the new GDT has the same code and data descriptors at the selectors in use, and all
    // three tables are leaked, so they live as long as the processor uses them.
    unsafe {
        asm!("lgdt [{}]", in(reg) &gdtr, options(readonly, nostack, preserves_flags));
        asm!("ltr {:x}", in(reg) TSS, options(nostack, preserves_flags));
        asm!("lidt [{}]", in(reg) &idtr, options(readonly, nostack, preserves_flags));
    }
    Bases {
        gdt,
        idt: idtr.base,
        tss,
    }
}
