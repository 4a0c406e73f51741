//! The lists of MSRs that VM entries and exits load and store (SDM 26.4 Loading MSRs, 27.4 Saving
//! MSRs, 27.6 Loading MSRs).

use arch::{
    msr,
    vmcs::{self, Field32, Field64},
};

use crate::cpu::Cpu;

/// VMX-abort code: saving guest MSRs failed (SDM 27.7).
const ABORT_SAVING: u32 = 1;
/// VMX-abort code: loading host MSRs failed.
const ABORT_LOADING: u32 = 4;
/// Entries that are processed at most, as IA32_VMX_MISC[27:25] of 0 recommends (SDM A.6). What happens to
/// a longer list the manual leaves undefined; here the first entry too many fails.
const MOST: u32 = 512;

/// One 16-byte entry (SDM 24.7.2, table 24-11).
#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    reserved: u32,
    value: u64,
    /// RAM offset of the value.
    value_at: u64,
}

/// The entry `number` of a list; `None` where there is no RAM.
fn entry(cpu: &Cpu, address: u64, number: u32) -> Option<Entry> {
    let at = cpu
        .ram
        .offset(address.wrapping_add(u64::from(number) * 16))?;
    Some(Entry {
        index: cpu.ram.load(at),
        reserved: cpu.ram.load(at + 4),
        value: cpu.ram.load(at + 8),
        value_at: at + 8,
    })
}

/// MSRs that no list may name: FS and GS bases when loading, and those of the x2APIC.
fn is_x2apic(index: u32) -> bool {
    index >> 8 == 8
}

fn load(cpu: &mut Cpu, count: Field32, address: Field64) -> Result<(), u64> {
    let count = cpu.vmcs(count).min(MOST + 1);
    let address = cpu.vmcs(address);
    for number in 0..count {
        let position = u64::from(number) + 1;
        let loadable = entry(cpu, address, number).filter(|entry| {
            number < MOST
                && entry.reserved == 0
                && !matches!(entry.index, msr::IA32_FS_BASE | msr::IA32_GS_BASE)
                && !is_x2apic(entry.index)
        });
        let Some(entry) = loadable else {
            return Err(position);
        };
        if cpu.write_msr(entry.index, entry.value).is_err() {
            return Err(position);
        }
    }
    Ok(())
}

/// Loads the VM-entry list; `Err` is the number of the entry that failed, from 1.
pub(super) fn load_on_entry(cpu: &mut Cpu) -> Result<(), u64> {
    load(
        cpu,
        vmcs::ENTRY_MSR_LOAD_COUNT,
        vmcs::ENTRY_MSR_LOAD_ADDRESS,
    )
}

/// Loads the VM-exit list; `Err` is the VMX-abort code.
pub(super) fn load_on_exit(cpu: &mut Cpu) -> Result<(), u32> {
    load(cpu, vmcs::EXIT_MSR_LOAD_COUNT, vmcs::EXIT_MSR_LOAD_ADDRESS).map_err(|_| ABORT_LOADING)
}

/// Stores the VM-exit list; `Err` is the VMX-abort code.
pub(super) fn store_on_exit(cpu: &mut Cpu) -> Result<(), u32> {
    let count = cpu.vmcs(vmcs::EXIT_MSR_STORE_COUNT).min(MOST + 1);
    let address = cpu.vmcs(vmcs::EXIT_MSR_STORE_ADDRESS);
    for number in 0..count {
        let storable = entry(cpu, address, number)
            .filter(|entry| number < MOST && entry.reserved == 0 && !is_x2apic(entry.index));
        let Some(entry) = storable else {
            return Err(ABORT_SAVING);
        };
        match cpu.read_msr(entry.index) {
            Ok(value) => cpu.store(entry.value_at, value),
            Err(_) => return Err(ABORT_SAVING),
        }
    }
    Ok(())
}
