//! Control and debug registers, MSRs and CPUID: what they refuse and what they report.

mod support;
#[path = "support/tables.rs"]
mod tables;

use arch::control_register::{cr0, cr4, efer};
use arch::msr;
use posthaste_machine::cpu::Cpu;
use posthaste_machine::cpu::raise::Pending;
use support::{DATA, step};
use tables::*;

/// What raised, after a direct call of a state-changing function.
fn raised(cpu: &Cpu) -> u8 {
    match cpu.pending {
        Pending::Exception(exception) => exception.vector,
        other => panic!("not an exception: {other:?}"),
    }
}

// SDM volume 2, MOV—Move to/from control registers
#[test]
fn control_registers_refuse_what_the_manual_forbids() {
    let base = {
        let cpu = kernel(&[]).cpu;
        (cpu.cr0, cpu.cr4)
    };
    let cr0_cases = [
        ("high half", base.0 | 1 << 32),
        ("PG without PE", base.0 & !cr0::PE),
        ("NW without CD", base.0 | cr0::NW),
        ("PG off in 64-bit mode", base.0 & !cr0::PG),
    ];
    for (name, value) in cr0_cases {
        let mut cpu = kernel(&[]).cpu;
        assert!(cpu.write_cr0(value).is_err(), "{name}");
        assert_eq!((raised(&cpu), cpu.cr0), (13, base.0), "{name}");
    }
    let mut cpu = kernel(&[]).cpu;
    assert!(cpu.write_cr0(base.0 | cr0::CD | cr0::NW | 1 << 6).is_ok());
    assert_eq!(cpu.cr0, base.0 | cr0::CD | cr0::NW);

    let cr4_cases = [
        ("PAE off in IA-32e mode", base.1 & !cr4::PAE),
        ("VME not offered", base.1 | cr4::VME),
        ("undefined", base.1 | 1 << 63),
    ];
    for (name, value) in cr4_cases {
        let mut cpu = kernel(&[]).cpu;
        assert!(cpu.write_cr4(value).is_err(), "{name}");
        assert_eq!((raised(&cpu), cpu.cr4), (13, base.1), "{name}");
    }
    let mut cpu = kernel(&[]).cpu;
    assert!(cpu.write_cr3(1 << 46).is_err());
    assert!(cpu.write_cr3(0x1000).is_ok());
    assert!(cpu.write_efer(efer::LME).is_ok());
    assert_eq!(cpu.efer, efer::LME | efer::LMA);
    assert!(cpu.write_efer(0).is_err(), "LME with paging on");
    assert!(cpu.write_efer(efer::LME | 1 << 1).is_err(), "reserved");
}

#[test]
fn debug_registers_have_aliases_fixed_bits_and_general_detect() {
    let mut cpu = kernel(&[]).cpu;
    cpu.write_debug_register(5, 0x400).expect("DR5 is DR7");
    cpu.write_debug_register(4, 0).expect("DR4 is DR6");
    assert_eq!((cpu.dr[6], cpu.dr[7]), (0xffff_0ff0, 0x400));
    assert!(cpu.write_debug_register(6, 1 << 32).is_err());
    assert_eq!(raised(&cpu), 13);
    cpu.write_cr4(cpu.cr4 | cr4::DE).expect("DE");
    assert!(cpu.read_debug_register(4).is_err());
    assert_eq!(raised(&cpu), 6);
    cpu.write_debug_register(7, 1 << 13).expect("GD");
    assert!(cpu.read_debug_register(0).is_err());
    assert_eq!(raised(&cpu), 1);
}

/// Reserved bits and values of MSRs: each pair is a value that is refused and one that is kept.
#[test]
fn msrs_refuse_reserved_bits_and_keep_the_rest() {
    let cases = [
        (msr::IA32_PAT, 2, 0x0007_0406_0007_0406),
        (msr::IA32_MTRR_DEF_TYPE, 2, 0xc06),
        (0x200, 1 << 46, 0x8000_0006),
        (0x201, 1, 1 << 11),
        (0x250, 7, 0x0606_0606_0606_0606),
        (0x26f, 2, 0),
        (msr::IA32_LSTAR, 1 << 47, 0xffff_8000_0000_0000),
        (msr::IA32_FS_BASE, 1 << 63, 0x1000),
        (msr::IA32_KERNEL_GS_BASE, 1 << 48, 0x2000),
        (msr::IA32_TSC_AUX, 1 << 32, 7),
        (msr::IA32_SYSENTER_EIP, 1 << 47, 0x3000),
        (msr::IA32_MCG_STATUS, 8, 0),
        (msr::IA32_FEATURE_CONTROL, 2, 5),
    ];
    let mut cpu = kernel(&[]).cpu;
    for (index, refused, kept) in cases {
        assert!(cpu.write_msr(index, refused).is_err(), "{index:x}");
        assert_eq!(raised(&cpu), 13);
        cpu.write_msr(index, kept).expect("a permitted value");
        assert_eq!(cpu.read_msr(index).expect("it exists"), kept, "{index:x}");
    }
    // Locked now.
    assert!(cpu.write_msr(msr::IA32_FEATURE_CONTROL, 5).is_err());
    // Read-only and unknown ones.
    assert!(cpu.write_msr(msr::IA32_MTRRCAP, 0).is_err());
    assert!(cpu.read_msr(0x1234).is_err() && cpu.read_msr(0x1234).is_err());
    assert_eq!(cpu.unknown_msrs.len(), 2);
}

/// What an MSR has; `None` if it raises #GP.
fn value(cpu: &mut Cpu, index: u32) -> Option<u64> {
    cpu.read_msr(index).ok()
}

/// Registers whose high half is not there: it is ignored, and reads as 0.
#[test]
fn some_msrs_keep_their_low_half() {
    let mut cpu = kernel(&[]).cpu;
    for index in [msr::IA32_FMASK, msr::IA32_SYSENTER_CS] {
        cpu.write_msr(index, u64::MAX).expect("it is ignored");
        assert_eq!(value(&mut cpu, index), Some(0xffff_ffff), "{index:x}");
    }
    // There is all of this one.
    cpu.write_msr(msr::IA32_STAR, u64::MAX).expect("STAR");
    assert_eq!(value(&mut cpu, msr::IA32_STAR), Some(u64::MAX));
}

/// Registers of processor models (SDM volume 4): what they say, and the bits that can be set in them.
#[test]
fn model_specific_registers_say_what_is_so() {
    let mut cpu = kernel(&[]).cpu;
    for (index, at_reset, writable) in [
        (0x2a, 0, None),
        (0x34, 0, None),
        (0x35, 0x1_0001, None),
        (0x4e, 1, None),
        (0xcd, 5, None),
        (0xce, 0x0a00_0000_0a00, None),
        (0xe2, 0x8000, None),
        (0x140, 0, Some(0)),
        (0x198, 0xa00, None),
        (0x199, 0xa00, Some(0x1_0000_ffff_u64)),
        (0x19b, 0, Some(0x00ff_ff1f)),
        (0x1a2, 0x64_0000, None),
        (0x1a4, 0, Some(0xf)),
        (0x1ad, 0x0a0a_0a0a_0a0a_0a0a, None),
        (0x1fc, 0, Some(0x18_0002)),
        (0x606, 0xa_0e03, None),
        (0x610, 1 << 63, None),
        (0x611, 0, None),
    ] {
        assert_eq!(value(&mut cpu, index), Some(at_reset), "{index:x}");
        let zero = cpu.write_msr(index, 0).is_ok();
        assert_eq!(zero, writable.is_some(), "{index:x}");
        for bit in 0..64 {
            let written = cpu.write_msr(index, 1 << bit).is_ok();
            let wanted = writable.is_some_and(|bits| bits >> bit & 1 != 0);
            assert_eq!(written, wanted, "{index:x} bit {bit}");
            if written {
                assert_eq!(value(&mut cpu, index), Some(1 << bit), "{index:x}");
            } else if writable.is_none() {
                assert_eq!(value(&mut cpu, index), Some(at_reset), "{index:x}");
            }
        }
    }
    // A log that is empty.
    assert!(cpu.write_msr(0x19c, 0x5555).is_err());
    cpu.write_msr(0x19c, 0xaaaa).expect("the log is cleared");
    assert_eq!(value(&mut cpu, 0x19c), Some(0));
    assert!(cpu.unknown_msrs.is_empty(), "they exist");
    // The frequency of the TSC, three times.
    let ratio = value(&mut cpu, 0xce).expect("MSR_PLATFORM_INFO") >> 8 & 0xff;
    let (crystal, clock) = (cpu.cpuid(0x15, 0), cpu.cpuid(0x16, 0));
    assert_eq!(u64::from(clock.eax), ratio * 100);
    let hertz = crystal.ecx / crystal.eax * crystal.ebx;
    assert_eq!(u64::from(hertz), ratio * 100_000_000);
    // The inventory number is locked out.
    assert_eq!(value(&mut cpu, 0x4f), None);
}

/// SDM 9.11.7.1 Determining the signature: 0, CPUID.1, and then the revision, which is not 0.
#[test]
fn the_microcode_has_a_revision() {
    let mut processor = kernel(&[0x0f, 0xa2]);
    let cpu = &mut processor.cpu;
    let revision = value(cpu, msr::IA32_BIOS_SIGN_ID);
    assert!(revision.is_some_and(|revision| revision >> 32 != 0));
    cpu.write_msr(0x79, 0x1000).expect("an update for others");
    assert_eq!(value(cpu, 0x79), None);
    cpu.write_msr(msr::IA32_BIOS_SIGN_ID, 0).expect("0");
    assert_eq!(value(cpu, msr::IA32_BIOS_SIGN_ID), Some(0));
    cpu.registers[0] = 1;
    step(&mut processor, 1);
    assert_eq!(value(&mut processor.cpu, msr::IA32_BIOS_SIGN_ID), revision);
}

/// A model that software knows by its number promises what this processor lacks: it is 6, F0H.
#[test]
fn the_model_is_none_that_software_knows() {
    let signature = kernel(&[]).cpu.cpuid(1, 0).eax;
    assert_eq!(signature >> 8 & 0xf, 6);
    assert_eq!(signature >> 20, 0);
    assert_eq!(signature >> 4 & 0xf | signature >> 12 & 0xf0, 0xf0);
}

// SDM 17.17.3 Time-stamp counter adjustment
#[test]
fn writing_the_time_stamp_counter_moves_tsc_adjust() {
    let mut cpu = kernel(&[]).cpu;
    cpu.write_msr(msr::IA32_TIME_STAMP_COUNTER, 5000)
        .expect("TSC");
    assert_eq!(cpu.time_stamp_counter(), 5000);
    let adjust = cpu.read_msr(msr::IA32_TSC_ADJUST).expect("adjust");
    cpu.write_msr(msr::IA32_TSC_ADJUST, adjust + 10)
        .expect("adjust");
    assert_eq!(cpu.time_stamp_counter(), 5010);
}

#[test]
fn cpuid_names_the_processor_and_reports_its_topology() {
    let mut processor = kernel(&[0x0f, 0xa2]);
    step(&mut processor, 1);
    let registers = &processor.cpu.registers;
    let text: Vec<u8> = [registers[3], registers[2], registers[1]]
        .iter()
        .flat_map(|word| (*word as u32).to_le_bytes())
        .collect();
    assert_eq!(text, b"GenuineIntel");
    let cpu = &processor.cpu;
    assert_eq!(cpu.cpuid(0xb, 0).ecx, 0x100);
    assert_eq!(cpu.cpuid(0xb, 1).ebx, 1);
    assert_eq!(cpu.cpuid(0x15, 0).ebx * 100_000_000, 1_000_000_000);
    assert_eq!(cpu.cpuid(0x8000_0008, 0).eax, 46 | 48 << 8);
    // Beyond the last leaf: as the last basic leaf.
    assert_eq!(cpu.cpuid(0x9000_0000, 0), cpu.cpuid(0x1f, 0));
    assert_eq!(cpu.ram.load::<u8>(DATA), 0);
}

/// A feature bit is set exactly when its instruction is not #UD.
#[test]
fn cpuid_reports_the_instructions_that_execute() {
    // Leaf, register (EAX to EDX), bit, an instruction of the feature with its operand at RBX.
    let table: [(u32, usize, u32, &[u8]); 36] = [
        (1, 2, 0, &[0xf2, 0x0f, 0xd0, 0xc1]),        // SSE3: ADDSUBPS
        (1, 2, 3, &[0x0f, 0x01, 0xc8]),              // MONITOR
        (1, 2, 5, &[0x0f, 0x78, 0xc0]),              // VMX: VMREAD, #UD outside VMX operation
        (1, 2, 9, &[0x66, 0x0f, 0x38, 0x00, 0xc1]),  // SSSE3: PSHUFB
        (1, 2, 12, &[0xc4, 0xe2, 0xf1, 0x98, 0xc2]), // FMA
        (1, 2, 13, &[0x48, 0x0f, 0xc7, 0x0b]),       // CMPXCHG16B
        (1, 2, 19, &[0x66, 0x0f, 0x38, 0x17, 0xc1]), // SSE4.1: PTEST
        (1, 2, 20, &[0xf2, 0x0f, 0x38, 0xf0, 0xc1]), // SSE4.2: CRC32
        (1, 2, 22, &[0x0f, 0x38, 0xf0, 0x03]),       // MOVBE
        (1, 2, 23, &[0xf3, 0x0f, 0xb8, 0xc1]),       // POPCNT
        (1, 2, 26, &[0x0f, 0xae, 0x23]),             // XSAVE
        (1, 2, 28, &[0xc5, 0xf8, 0x58, 0xc1]),       // AVX
        (1, 2, 30, &[0x0f, 0xc7, 0xf0]),             // RDRAND
        (1, 3, 4, &[0x0f, 0x31]),                    // TSC
        (1, 3, 8, &[0x0f, 0xc7, 0x0b]),              // CMPXCHG8B
        (1, 3, 15, &[0x0f, 0x44, 0xc1]),             // CMOV
        (1, 3, 19, &[0x0f, 0xae, 0x3b]),             // CLFLUSH
        (1, 3, 23, &[0x0f, 0xfc, 0xc1]),             // MMX: PADDB
        (1, 3, 24, &[0x0f, 0xae, 0x03]),             // FXSAVE
        (1, 3, 25, &[0x0f, 0x58, 0xc1]),             // SSE: ADDPS
        (1, 3, 26, &[0x66, 0x0f, 0x58, 0xc1]),       // SSE2: ADDPD
        (7, 1, 3, &[0xc4, 0xe2, 0x70, 0xf2, 0xc2]),  // BMI1: ANDN
        (7, 1, 8, &[0xc4, 0xe2, 0x70, 0xf5, 0xc2]),  // BMI2: BZHI
        (7, 1, 18, &[0x0f, 0xc7, 0xf8]),             // RDSEED
        (7, 1, 19, &[0x66, 0x0f, 0x38, 0xf6, 0xc1]), // ADX: ADCX
        (7, 1, 23, &[0x66, 0x0f, 0xae, 0x3b]),       // CLFLUSHOPT
        (7, 1, 24, &[0x66, 0x0f, 0xae, 0x33]),       // CLWB
        (7, 1, 29, &[0x0f, 0x38, 0xc8, 0xc1]),       // SHA
        (7, 3, 14, &[0x0f, 0x01, 0xe8]),             // SERIALIZE
        (1, 2, 25, &[0x66, 0x0f, 0x38, 0xdc, 0xc1]), // AES
        (7, 1, 20, &[0x0f, 0x01, 0xca]),             // SMAP: CLAC
        (7, 1, 10, &[0x66, 0x0f, 0x38, 0x82, 0x03]), // INVPCID
        (7, 2, 22, &[0xf3, 0x0f, 0xc7, 0xf8]),       // RDPID
        (0x8000_0001, 2, 0, &[0x9f]),                // LAHF
        (0x8000_0001, 2, 8, &[0x0f, 0x0d, 0x0b]),    // PREFETCHW
        (0x8000_0001, 3, 27, &[0x0f, 0x01, 0xf9]),   // RDTSCP
    ];
    for (leaf, register, bit, code) in table {
        let mut processor = kernel(code);
        processor.cpu.registers[3] = DATA;
        processor.cpu.cr4 |= cr4::OSXSAVE;
        let answer = processor.cpu.cpuid(leaf, 0);
        let words = [answer.eax, answer.ebx, answer.ecx, answer.edx];
        let offered = words[register] >> bit & 1 != 0;
        let fault = fault_of(&mut processor).map(|fault| fault.0);
        if (register, bit) == (2, 5) {
            assert!(offered && fault == Some(6));
            continue;
        }
        let expected = if offered { None } else { Some(6) };
        assert_eq!(fault, expected, "leaf {leaf:x} bit {bit}: {code:x?}");
    }
}

// SDM volume 2, RDPID: IA32_TSC_AUX, whatever CPL and CR4.TSD.
#[test]
fn rdpid_reads_tsc_aux() {
    for mut processor in [
        kernel(&[0xf3, 0x0f, 0xc7, 0xf8]),
        user(&[0xf3, 0x0f, 0xc7, 0xf8]),
    ] {
        processor.cpu.msrs.tsc_aux = 0x8765_4321;
        processor.cpu.cr4 |= cr4::TSD;
        processor.cpu.registers[0] = u64::MAX;
        assert_eq!(fault_of(&mut processor), None);
        assert_eq!(processor.cpu.registers[0], 0x8765_4321);
    }
}

// SDM volume 4, table 2-2, IA32_MISC_ENABLE
#[test]
fn misc_enable_hides_what_cpuid_says() {
    let mut cpu = kernel(&[]).cpu;
    let read_only = 3 << 11;
    let fast_strings_and_monitor = 1 | 1 << 18;
    assert_eq!(
        cpu.read_msr(msr::IA32_MISC_ENABLE).unwrap(),
        read_only | fast_strings_and_monitor
    );
    assert!(cpu.write_msr(msr::IA32_MISC_ENABLE, 2).is_err());
    assert!(cpu.cpuid(0, 0).eax > 2);
    assert_ne!(cpu.cpuid(0x8000_0001, 0).edx & 1 << 20, 0);
    let value = 1 << 34 | 1 << 23 | 1 << 22 | 1 << 18 | 1 << 16 | 1 << 3;
    cpu.write_msr(msr::IA32_MISC_ENABLE, value).unwrap();
    assert_eq!(
        cpu.read_msr(msr::IA32_MISC_ENABLE).unwrap(),
        read_only | value
    );
    assert_eq!(cpu.cpuid(0, 0).eax, 2);
    assert_eq!(cpu.cpuid(0x8000_0001, 0).edx & 1 << 20, 0);
}

// SDM 15.3.1.1, 10.5.1: the local APIC has the LVT entry of CMCI, its seventh, if IA32_MCG_CAP[10] is set.
#[test]
fn the_local_apic_has_cmci_as_the_machine_check_capabilities_say() {
    let mut cpu = kernel(&[]).cpu;
    let capability = cpu.read_msr(msr::IA32_MCG_CAP).unwrap();
    let has_cmci = capability >> 10 & 1;
    let base = cpu.read_msr(msr::IA32_APIC_BASE).unwrap();
    cpu.write_msr(msr::IA32_APIC_BASE, base | 3 << 10).unwrap();
    assert_eq!(cpu.read_msr(0x803).unwrap() >> 16 & 0xff, 5 + has_cmci);
    assert_eq!(cpu.read_msr(0x82f).is_ok(), has_cmci == 1);
}
