//! What firmware does before it starts a kernel, and the state in which the kernel starts.

use apic::apic_base::Processor::Bootstrap;
use arch::control_register::{cr0, cr4, efer};
use firmware::boot::{EntryMode, EntryState};

use crate::cpu::Cpu;
use crate::cpu::segment::{DescriptorTable, Segment, register, rights};
use crate::memory::{HOLE_END, HOLE_START};

/// Memory types (SDM table 11-2): write-protected and write-back for eight ranges; uncacheable is 0.
const WRITE_PROTECTED: u64 = 0x0505_0505_0505_0505;
const WRITE_BACK: u64 = 0x0606_0606_0606_0606;
/// IA32_MTRR_DEF_TYPE: MTRRs and fixed ranges enabled, otherwise write-back.
const DEFAULT_TYPE: u64 = 0xc06;
/// A variable range's mask is valid.
const VALID: u64 = 1 << 11;

/// What firmware does on a processor after power-up: memory gets its types, and the bootstrap processor
/// takes the 8259's interrupts. The others' local APICs stay as the INIT left them that came with their
/// start-up.
pub(crate) fn initialize(cpu: &mut Cpu) {
    set_up_memory_types(cpu);
    if cpu.apic.configuration().processor == Bootstrap {
        cpu.apic.enter_virtual_wire_mode();
    }
    cpu.publish_identity();
}

/// Turns the caches on and gives memory its types (SDM 11.11 Memory type range registers): RAM is
/// write-back, the video window and the device hole are uncacheable, and the BIOS area is
/// write-protected.
fn set_up_memory_types(cpu: &mut Cpu) {
    cpu.cr0 &= !(cr0::CD | cr0::NW);
    let mask = cpu.model.physical_mask() & !0xfff;
    let msrs = &mut cpu.msrs;
    msrs.mtrr_fixed = [WRITE_PROTECTED; 11];
    msrs.mtrr_fixed[..3].copy_from_slice(&[WRITE_BACK, WRITE_BACK, 0]);
    msrs.mtrr_variable[0] = HOLE_START;
    msrs.mtrr_variable[1] = mask & !(HOLE_END - HOLE_START - 1) | VALID;
    msrs.mtrr_def_type = DEFAULT_TYPE;
}

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
