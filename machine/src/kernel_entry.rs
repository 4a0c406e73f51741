//! The state in which a loaded kernel starts.

use arch::control_register::{cr0, cr4, efer};
use firmware::boot::{EntryMode, EntryState};

use crate::cpu::Cpu;
use crate::cpu::segment::{DescriptorTable, Segment, register, rights};

/// Brings a processor after power-up to the state that the boot protocol demands.
pub(crate) fn enter(cpu: &mut Cpu, entry: &EntryState) {
    let data = Segment {
        selector: entry.segments.data,
        base: 0,
        limit: u32::MAX,
        rights: rights::PRESENT
            | rights::CODE_OR_DATA
            | rights::READ_WRITE
            | rights::ACCESSED
            | rights::BIG
            | rights::GRANULAR,
    };
    for number in [
        register::ES,
        register::SS,
        register::DS,
        register::FS,
        register::GS,
    ] {
        if let Some(segment) = cpu.segments.get_mut(number as usize) {
            *segment = data;
        }
    }
    let size = match entry.mode {
        EntryMode::Protected => rights::BIG,
        EntryMode::Long { .. } => rights::LONG,
    };
    cpu.segments[register::CS as usize] = Segment {
        selector: entry.segments.code,
        rights: data.rights & !rights::BIG | rights::CODE | size,
        ..data
    };
    if entry.segments.descriptor_table != 0 {
        cpu.gdtr = DescriptorTable {
            base: entry.segments.descriptor_table,
            limit: entry.segments.limit,
        };
    }
    cpu.cr0 = cr0::PE | cr0::ET;
    if let EntryMode::Long { cr3 } = entry.mode {
        cpu.cr0 |= cr0::PG;
        cpu.cr3 = cr3;
        cpu.cr4 = cr4::PAE;
        cpu.efer = efer::LME | efer::LMA;
    }
    cpu.set_rip(entry.rip);
    cpu.registers[0] = u64::from(entry.eax);
    // After power-up it holds the processor's signature.
    cpu.registers[2] = 0;
    cpu.registers[3] = u64::from(entry.ebx);
    cpu.registers[6] = entry.rsi;
    cpu.refresh_mode();
}
