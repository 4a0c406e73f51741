//! The whole VMCS in readable form: every field the processor has, every control bit by name, the
//! PID-pointer table, each posted-interrupt descriptor and the essentials of the virtual-APIC page.

use super::vmcs::Vmcs;
use arch::pid_pointer::PidPointerEntry;
use arch::posted_interrupt_descriptor::{CONTROL, Control, REQUESTS};
use arch::vmcs::{self, FIELDS, FieldType, Width, field_type, width};
use arch::vmx_control as control;
use arch::{apic_register, exit::ExitReason};
use core::fmt::{self, Write};

/// Reads physical memory for the dump.
pub trait PhysicalMemory {
    /// The 8 bytes at `address`, a multiple of 8 inside a structure of the hypervisor's own.
    fn read_u64(&self, address: u64) -> u64;
}

/// Writes everything.
pub fn write(
    out: &mut (impl Write + ?Sized),
    vmcs: &impl Vmcs,
    memory: &impl PhysicalMemory,
    physical_address_width: u32,
) -> fmt::Result {
    write_reason(out, vmcs)?;
    for (kind, title) in [
        // First: reading a field that is not there changes the VM-instruction error.
        (FieldType::ExitInformation, "exit information"),
        (FieldType::Control, "control fields"),
        (FieldType::GuestState, "guest state"),
        (FieldType::HostState, "host state"),
    ] {
        writeln!(out, "VMCS {title}:")?;
        let fields = FIELDS.iter().filter(|(f, _)| field_type(*f) == kind);
        for (field, name) in fields {
            // What this processor does not have is not part of its VMCS.
            if let Ok(value) = vmcs.read_raw(*field) {
                let digits = match width(*field) {
                    Width::Bits16 => 4,
                    Width::Bits32 => 8,
                    Width::Bits64 | Width::Natural => 16,
                };
                writeln!(out, "  {field:04X}H {name:<40} {value:0digits$x}")?;
            }
        }
    }
    write_controls(out, vmcs)?;
    write_pid_pointer_table(out, vmcs, memory, physical_address_width)?;
    write_virtual_apic_page(out, vmcs, memory)
}

fn read(vmcs: &impl Vmcs, encoding: u32) -> u64 {
    vmcs.read_raw(encoding).unwrap_or(0)
}

fn write_reason(out: &mut (impl Write + ?Sized), vmcs: &impl Vmcs) -> fmt::Result {
    let reason = read(vmcs, vmcs::EXIT_REASON.0) as u32;
    let name = ExitReason::from_number(reason as u16).map_or("?", ExitReason::name);
    let entry_failure = reason & arch::exit::ENTRY_FAILURE != 0;
    let number = read(vmcs, vmcs::INSTRUCTION_ERROR.0) as u32;
    writeln!(
        out,
        "last exit reason {reason:#x} ({name}{}), VM-instruction error {number} ({})",
        if entry_failure {
            ", VM-entry failure"
        } else {
            ""
        },
        super::vmcs::instruction_error_name(number)
    )
}

fn write_bits(
    out: &mut (impl Write + ?Sized),
    title: &str,
    value: u64,
    digits: usize,
    names: impl Iterator<Item = (u64, &'static str)> + Clone,
) -> fmt::Result {
    writeln!(out, "{title}: {value:0digits$x}")?;
    for bit in (0..64).map(|n| 1u64 << n).filter(|bit| value & bit != 0) {
        let number = bit.trailing_zeros();
        let name = names.clone().find(|(b, _)| *b == bit);
        match name {
            Some((_, name)) => writeln!(out, "  bit {number:2} {name}")?,
            None => writeln!(out, "  bit {number:2} (reserved)")?,
        }
    }
    Ok(())
}

fn write_controls(out: &mut (impl Write + ?Sized), vmcs: &impl Vmcs) -> fmt::Result {
    let wide = |names: &'static [(u32, &'static str)]| {
        names.iter().map(|(bit, name)| (u64::from(*bit), *name))
    };
    for (title, field, names) in [
        (
            "pin-based controls",
            vmcs::PIN_BASED_CONTROLS,
            control::pin::NAMES,
        ),
        (
            "primary processor-based controls",
            vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS,
            control::primary::NAMES,
        ),
        (
            "secondary processor-based controls",
            vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS,
            control::secondary::NAMES,
        ),
    ] {
        write_bits(out, title, read(vmcs, field.0), 8, wide(names))?;
    }
    match vmcs.read_raw(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS.0) {
        Ok(value) => write_bits(
            out,
            "tertiary processor-based controls",
            value,
            16,
            control::tertiary::NAMES.iter().copied(),
        )?,
        Err(_) => writeln!(
            out,
            "tertiary processor-based controls: none on this processor"
        )?,
    }
    for (title, field, names) in [
        (
            "VM-exit controls",
            vmcs::EXIT_CONTROLS,
            control::exit::NAMES,
        ),
        (
            "VM-entry controls",
            vmcs::ENTRY_CONTROLS,
            control::entry::NAMES,
        ),
    ] {
        write_bits(out, title, read(vmcs, field.0), 8, wide(names))?;
    }
    Ok(())
}

fn write_pid_pointer_table(
    out: &mut (impl Write + ?Sized),
    vmcs: &impl Vmcs,
    memory: &impl PhysicalMemory,
    physical_address_width: u32,
) -> fmt::Result {
    let table = vmcs.read_raw(vmcs::PID_POINTER_TABLE_ADDRESS.0);
    let last = vmcs.read_raw(vmcs::LAST_PID_POINTER_INDEX.0);
    let (Ok(table), Ok(last)) = (table, last) else {
        writeln!(out, "PID-pointer table: none on this processor")?;
        let descriptor = read(vmcs, vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS.0);
        if descriptor != 0 {
            write_descriptor(out, memory, descriptor)?;
        }
        return Ok(());
    };
    writeln!(
        out,
        "PID-pointer table: address {table:#x}, last index {last}"
    )?;
    if table == 0 {
        return Ok(());
    }
    for index in 0..=last {
        let entry = PidPointerEntry(memory.read_u64(table + index * PidPointerEntry::SIZE));
        if let Some(descriptor) = entry.descriptor(physical_address_width) {
            write!(out, "  entry {index}: {:#018x}; ", entry.0)?;
            write_descriptor(out, memory, descriptor)?;
        }
    }
    Ok(())
}

fn write_descriptor(
    out: &mut (impl Write + ?Sized),
    memory: &impl PhysicalMemory,
    address: u64,
) -> fmt::Result {
    let word = Control(memory.read_u64(address + CONTROL as u64));
    write!(
        out,
        "posted-interrupt descriptor {address:#x}: ON={} SN={} NV={:02X}H NDST={:#x} PIR=",
        u8::from(word.outstanding_notification()),
        u8::from(word.suppress_notification()),
        word.notification_vector(),
        word.notification_destination()
    )?;
    let mut any = false;
    for group in 0..4 {
        let requests = memory.read_u64(address + REQUESTS as u64 + group * 8);
        for bit in (0..64).filter(|bit| requests >> bit & 1 != 0) {
            write!(
                out,
                "{}{:02X}H",
                if any { "," } else { "" },
                group * 64 + bit
            )?;
            any = true;
        }
    }
    writeln!(out, "{}", if any { "" } else { "empty" })
}

fn write_virtual_apic_page(
    out: &mut (impl Write + ?Sized),
    vmcs: &impl Vmcs,
    memory: &impl PhysicalMemory,
) -> fmt::Result {
    let page = read(vmcs, vmcs::VIRTUAL_APIC_ADDRESS.0);
    if page == 0 {
        return writeln!(out, "virtual-APIC page: none");
    }
    let word = |offset: u32| {
        let value = memory.read_u64(page + u64::from(offset & !7));
        (value >> (8 * (offset & 4))) as u32
    };
    writeln!(
        out,
        "virtual-APIC page {page:#x}: ID {:#x} TPR {:#x} PPR {:#x} LDR {:#x} DFR {:#x} SVR {:#x} ICR {:#x} {:#x}",
        word(apic_register::ID),
        word(apic_register::TASK_PRIORITY),
        word(apic_register::PROCESSOR_PRIORITY),
        word(apic_register::LOGICAL_DESTINATION),
        word(apic_register::DESTINATION_FORMAT),
        word(apic_register::SPURIOUS_VECTOR),
        word(apic_register::INTERRUPT_COMMAND),
        word(apic_register::INTERRUPT_COMMAND_HIGH),
    )?;
    for (name, base) in [
        ("IRR", apic_register::INTERRUPT_REQUEST),
        ("ISR", apic_register::IN_SERVICE),
    ] {
        write!(out, "  {name}")?;
        for register in (0..8).rev() {
            write!(out, " {:08x}", word(base + register * 16))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;
    use std::collections::BTreeMap;

    struct Memory(BTreeMap<u64, u64>);

    impl PhysicalMemory for Memory {
        fn read_u64(&self, address: u64) -> u64 {
            self.0.get(&address).copied().unwrap_or(0)
        }
    }

    fn dump(vmcs: &MapVmcs, memory: &[(u64, u64)]) -> String {
        let mut text = String::new();
        write(
            &mut text,
            vmcs,
            &Memory(memory.iter().copied().collect()),
            46,
        )
        .unwrap();
        text
    }

    #[test]
    fn every_field_appears_once_unless_the_processor_lacks_it() {
        let mut map = MapVmcs::default();
        let text = dump(&map, &[]);
        for (field, name) in FIELDS {
            assert!(text.contains(&format!("  {field:04X}H {name} ")), "{name}");
        }
        map.absent = vec![0x2034, 0x2042, 8];
        let text = dump(&map, &[]);
        assert!(text.contains("tertiary processor-based controls: none"));
        assert!(!text.contains("2042H"));
    }

    #[test]
    fn control_bits_have_names_tertiary_too() {
        let mut map = MapVmcs::default();
        map.fields.insert(0x2034, 1 << 4);
        map.fields.insert(0x4002, 1 << 17 | 1 << 21 | 1);
        let text = dump(&map, &[]);
        assert!(text.contains(
            "tertiary processor-based controls: 0000000000000010\n  bit  4 IPI virtualization\n"
        ));
        assert!(text.contains("  bit 21 use TPR shadow\n"));
        assert!(text.contains("  bit  0 (reserved)\n"));
    }

    #[test]
    fn the_pid_pointer_table_and_its_descriptors_are_walked() {
        let mut map = MapVmcs::default();
        map.fields.insert(0x2042, 0x8000);
        map.fields.insert(8, 2);
        let text = dump(
            &map,
            &[
                (0x8000, 0x9001),
                // Not valid, and beyond the physical-address width: not usable.
                (0x8008, 0x9040),
                (0x8010, 1 << 50 | 1),
                (0x9000, 1 << 0x31),
                (0x9018, 1 << 63),
                (0x9020, 0x0000_0003_00f2_0001),
            ],
        );
        assert!(text.contains("PID-pointer table: address 0x8000, last index 2\n"));
        assert!(text.contains(
            "  entry 0: 0x0000000000009001; posted-interrupt descriptor 0x9000: ON=1 SN=0 NV=F2H NDST=0x3 PIR=31H,FFH\n"
        ));
        assert!(!text.contains("entry 1") && !text.contains("entry 2"));
    }

    #[test]
    fn the_virtual_apic_page_is_summed_up() {
        let mut map = MapVmcs::default();
        map.fields.insert(0x2012, 0x7000);
        let text = dump(
            &map,
            &[(0x7080, 0x20), (0x7300, 0x0000_0001_0000_00f1), (0x7210, 8)],
        );
        assert!(text.contains("TPR 0x20"));
        assert!(text.contains("ICR 0xf1"));
        assert!(text.contains(
            "IRR 00000000 00000000 00000000 00000000 00000000 00000000 00000008 00000000\n"
        ));
    }
}
