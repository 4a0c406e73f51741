//! Code that the processor itself overwrites, by whatever it writes besides operands: flags in page tables and
//! EPT entries, descriptors, task-state segments, and the areas that a VMCS points to. What was decoded of it must
//! not be executed again, by the same processor or by another (SDM 8.1.3, 11.6 Self-modifying code).
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use std::sync::Arc;

use arch::vmcs::{self, FieldNatural};
use arch::vmx_control::{primary, secondary};
use posthaste_machine::cpu::segment::{DescriptorTable, register};
use posthaste_machine::cpu::{Activity, Cpu, CpuModel, Engine, Processor, Stop};
use posthaste_machine::schedule::{Clock, Share};
use vmx::*;

/// What the code under test finds in EAX and EBX: the address of a doubleword that holds [`WORD`].
const SCRATCH: u32 = 0x17_8010;
const WORD: u32 = 0x55;
/// What it finds in ECX and EDX.
const COUNT: u32 = 3;
const OTHER: u32 = 0x77;
/// What each call of it left in EAX.
const RESULTS: u64 = 0x17_9000;
/// Code of the processor that only executes.
const BYSTANDER_CODE: u64 = 0x10_8000;

/// `mov al, 1; ret` and `mov al, 2; ret`.
const BEFORE: u64 = 0xc301b0;
const AFTER: u64 = 0xc302b0;
/// EAX after them.
const RESULTS_OF_MOVES: [u32; 2] = [SCRATCH & !0xff | 1, SCRATCH & !0xff | 2];

/// A page that is mapped by 4-KByte pages, with the entries that map it.
const PAGE: u64 = PAGES + 0xc000;
const PAGE_ENTRY: u64 = PAGE_TABLE + 0xc * 8;
const EPT_ENTRY: u64 = EPT + 0x3000 + 0xc * 8;

struct Case {
    name: &'static str,
    /// Where the code is that is overwritten.
    code: u64,
    /// What it leaves in EAX before and after.
    results: [u32; 2],
    /// The instructions that have it overwritten, of the guest if there is one.
    trigger: Vec<u8>,
    /// Whether a guest runs all of it, or the host does.
    place: Place,
    /// Sets everything up.
    prepare: fn(&mut Guest),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Guest,
    /// The guest executes the trigger and leaves, the host calls the code.
    Exit,
}

/// Calls the code at `code`, and keeps what it leaves in EAX.
fn call(code: u64, result: u64) -> Vec<u8> {
    let mut bytes = vec![0xb8];
    bytes.extend(SCRATCH.to_le_bytes());
    bytes.push(0xbb);
    bytes.extend(SCRATCH.to_le_bytes());
    bytes.push(0xb9);
    bytes.extend(COUNT.to_le_bytes());
    bytes.push(0xba);
    bytes.extend(OTHER.to_le_bytes());
    bytes.extend([0xc7, 0x03]);
    bytes.extend(WORD.to_le_bytes());
    // mov r11d, code; cmp eax, 1 (above); call r11
    bytes.extend([0x41, 0xbb]);
    bytes.extend((code as u32).to_le_bytes());
    bytes.extend([0x83, 0xf8, 0x01, 0x41, 0xff, 0xd3]);
    // mov [result], eax
    bytes.extend([0x89, 0x04, 0x25]);
    bytes.extend(((RESULTS + result * 4) as u32).to_le_bytes());
    bytes
}

const HLT: u8 = 0xf4;
const VMLAUNCH: [u8; 3] = [0x0f, 0x01, 0xc2];
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];

/// Code: WRMSR, without the HLT.
fn wrmsr(msr: u32, value: u64) -> Vec<u8> {
    let mut code = write_msr(msr, value);
    code.pop();
    code
}

/// The RAM offset of a field in the VMCS region.
fn place_of(guest: &mut Guest, field: FieldNatural) -> u64 {
    const MAGIC: u64 = 0x1234_5678_9abc_def0;
    let old = guest.get(field);
    guest.set(field, MAGIC);
    let place = (VMCS..VMCS + 4096)
        .step_by(8)
        .find(|place| guest.ram().load::<u64>(*place) == MAGIC)
        .expect("the field is in the region");
    guest.set(field, old);
    place
}

fn sysenter_place() -> u64 {
    place_of(&mut Guest::new(&[]), vmcs::GUEST_SYSENTER_EIP)
}

fn cases() -> Vec<Case> {
    let entry = |name, first: u64, results, trigger| Case {
        name,
        code: PAGE_ENTRY,
        results,
        trigger,
        place: Place::Host,
        prepare: match first {
            // or eax, ecx; ret: present, writable
            0x0b => |guest| guest.ram().store(PAGE_ENTRY, 0xc3c3_c10b_u64),
            // sub eax, ecx; ret: accessed, too
            _ => |guest| guest.ram().store(PAGE_ENTRY, 0xc3c3_c12b_u64),
        },
    };
    let or = SCRATCH | COUNT;
    let sub = SCRATCH - COUNT;
    // imul eax, ecx, -61; ret
    let imul = COUNT.wrapping_mul(61).wrapping_neg();
    let mut cases = vec![
        entry("accessed flag", 0x0b, [or, sub], load_u32(PAGE)),
        entry(
            "accessed and dirty flag",
            0x0b,
            [or, imul],
            store_u32(PAGE, 1),
        ),
        entry("dirty flag", 0x2b, [sub, imul], store_u32(PAGE, 1)),
        Case {
            name: "accessed flag of a descriptor",
            code: GUEST_GDT + 0x20 + 5,
            // xchg edx, eax; ret and xchg ebx, eax; ret
            results: [OTHER, SCRATCH],
            // mov eax, 20h; mov es, eax
            trigger: vec![0xb8, 0x20, 0, 0, 0, 0x8e, 0xc0],
            place: Place::Host,
            prepare: |guest| {
                with_descriptors(guest);
                guest
                    .ram()
                    .store(GUEST_GDT + 0x20, 0x00c3_9200_0000_ffff_u64);
            },
        },
        Case {
            name: "busy flag of a TSS",
            code: GUEST_GDT + 0x20 + 5,
            // mov [rbx], eax; ret and mov eax, [rbx]; ret
            results: [SCRATCH, WORD],
            // mov eax, 20h; ltr ax
            trigger: vec![0xb8, 0x20, 0, 0, 0, 0x0f, 0x00, 0xd8],
            place: Place::Host,
            prepare: |guest| {
                with_descriptors(guest);
                guest
                    .ram()
                    .store(GUEST_GDT + 0x20, 0xc303_8900_0000_0067_u64);
                guest.ram().store(GUEST_GDT + 0x28, 0_u64);
            },
        },
    ];
    // ja +0: xchg edx, eax; ret. With the accessed flag ja +1: ret. With the dirty flag, too, ja +3:
    // add al, al; ret.
    let flags = |name, results, trigger, prepare| Case {
        name,
        code: EPT_ENTRY,
        results,
        trigger,
        place: Place::Guest,
        prepare,
    };
    let doubled = SCRATCH & !0xff | (SCRATCH << 1 & 0xff);
    cases.extend([
        flags(
            "accessed flag of EPT",
            [OTHER, SCRATCH],
            load_u32(PAGE),
            |guest| with_ept_flags(guest, 0xc3c0_00c3_c392_0077),
        ),
        flags(
            "accessed and dirty flag of EPT",
            [OTHER, doubled],
            store_u32(PAGE, 1),
            |guest| with_ept_flags(guest, 0xc3c0_00c3_c392_0077),
        ),
        flags(
            "dirty flag of EPT",
            [SCRATCH, doubled],
            store_u32(PAGE, 1),
            |guest| with_ept_flags(guest, 0xc3c0_00c3_c392_0177),
        ),
        Case {
            name: "page-modification log",
            // The second entry, after that of the tables, which share 2 MBytes with all else: then
            // add al, al; ret
            code: DATA + 510 * 8,
            results: [RESULTS_OF_MOVES[0], doubled],
            trigger: store_u32(0xc3_c000, 1),
            place: Place::Guest,
            prepare: |guest| {
                guest.with_ept();
                guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
                guest.add_secondary(secondary::ENABLE_PML);
                guest.set(vmcs::PML_ADDRESS, DATA);
                guest.set(vmcs::PML_INDEX, 511);
                guest.ram().store(DATA + 510 * 8, BEFORE);
            },
        },
        Case {
            name: "virtualization-exception information",
            code: DATA + 16,
            results: RESULTS_OF_MOVES,
            trigger: load_u32(AFTER),
            place: Place::Guest,
            prepare: |guest| {
                guest.with_ept();
                guest.ram().store(EPT + 0x2000 + (AFTER >> 21) * 8, 0_u64);
                guest.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
                guest.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, DATA);
                guest.ram().store(DATA + 16, BEFORE);
                // add qword [rsp], 7; iretq
                let handler = [0x48, 0x83, 0x04, 0x24, 0x07, 0x48, 0xcf];
                guest.store(GUEST_HANDLERS + 20 * 16, &handler);
            },
        },
        Case {
            name: "virtual-APIC page",
            code: VIRTUAL_APIC + 0x7f,
            // mov al, TPR; add [rax], al; add al, al; ret
            results: [SCRATCH & !0xff, SCRATCH & !0xff | 0x40],
            // mov eax, 2; mov cr8, rax
            trigger: vec![0xb8, 2, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0],
            place: Place::Guest,
            prepare: |guest| {
                guest.with_x2apic();
                guest.store(VIRTUAL_APIC + 0x7f, &[0xb0, 0, 0, 0, 0, 0xc0, 0xc3]);
            },
        },
        Case {
            name: "posted-interrupt descriptor",
            code: DESCRIPTORS + 64 + 7,
            // mov al, requests of 40H to 47H; ret
            results: [SCRATCH & !0xff, SCRATCH & !0xff | 2],
            trigger: wrmsr(ICR, command(1, 0x41)),
            place: Place::Guest,
            prepare: |guest| {
                guest.with_x2apic();
                guest.store(DESCRIPTORS + 64 + 7, &[0xb0, 0, 0xc3]);
            },
        },
        Case {
            name: "VMWRITE",
            code: sysenter_place(),
            results: RESULTS_OF_MOVES,
            // mov eax, field; mov ecx, value; vmwrite rax, rcx
            trigger: [
                &[0xb8][..],
                &vmcs::GUEST_SYSENTER_EIP.0.to_le_bytes(),
                &[0xb9],
                &(AFTER as u32).to_le_bytes(),
                &[0x0f, 0x79, 0xc1],
            ]
            .concat(),
            place: Place::Host,
            prepare: |guest| {
                guest.set(vmcs::GUEST_SYSENTER_EIP, BEFORE);
            },
        },
        Case {
            name: "VMCLEAR",
            code: VMCS + 8,
            // Launched: add [rax], eax; add [rax], al. Clear: add [rax], al twice. Then mov eax, [rax]; ret
            results: [WORD + SCRATCH + 0x10, WORD + 0x20],
            trigger: vec![0x66, 0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00],
            place: Place::Host,
            prepare: |guest| {
                guest.store(VMCS + 8, &[1, 0, 0, 0, 0x8b, 0x00, 0xc3]);
            },
        },
        Case {
            name: "a VM exit",
            code: sysenter_place(),
            results: RESULTS_OF_MOVES,
            trigger: wrmsr(0x176, AFTER),
            place: Place::Exit,
            prepare: |guest| {
                guest.set(vmcs::GUEST_SYSENTER_EIP, BEFORE);
            },
        },
        Case {
            name: "VM-exit MSR-store area",
            code: DATA + 8,
            results: RESULTS_OF_MOVES,
            trigger: wrmsr(0x176, AFTER),
            place: Place::Exit,
            prepare: |guest| {
                guest.set(vmcs::EXIT_MSR_STORE_COUNT, 1);
                guest.set(vmcs::EXIT_MSR_STORE_ADDRESS, DATA);
                guest.ram().store(DATA, 0x176_u64);
                guest.ram().store(DATA + 8, BEFORE);
            },
        },
    ]);
    cases
}

fn with_descriptors(guest: &mut Guest) {
    guest.cpu().gdtr = DescriptorTable {
        base: GUEST_GDT,
        limit: 0x2f,
    };
}

fn with_ept_flags(guest: &mut Guest, entry: u64) {
    guest.with_ept();
    guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
    guest.ram().store(EPT_ENTRY, entry);
}

/// Runs until the processor halts. What reaches no RAM takes time, and so whole slices.
fn run(processor: &mut Processor, name: &str) {
    let mut stop = Stop::SliceEnd;
    for _ in 0..100 {
        processor.cpu.slice_end = processor.cpu.instructions + 1000;
        stop = processor.run();
        if stop == Stop::Idle {
            break;
        }
    }
    assert_eq!(stop, Stop::Idle, "{name}");
    assert_eq!(processor.cpu.activity, Activity::Halted, "{name}");
}

/// Another processor of the machine, about to execute `code` in 64-bit mode.
fn bystander(guest: &mut Guest, code: &[u8], engine: Engine) -> Processor {
    let platform = guest.cpu().platform.clone();
    platform.bus_agent().write_bytes(BYSTANDER_CODE, code);
    let clock = Clock::Deterministic(Share::ALONE);
    let mut cpu = Cpu::new(1, platform, Arc::new(CpuModel::default()), clock);
    let first = guest.cpu();
    cpu.activity = Activity::Active;
    (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer) = (first.cr0, first.cr3, first.cr4, first.efer);
    cpu.segments = first.segments;
    cpu.registers[4] = 0x16_0000;
    cpu.set_rip(BYSTANDER_CODE);
    cpu.refresh_mode();
    Processor::with_engine(cpu, engine)
}

fn check(case: &Case, engine: Engine) {
    let name = &format!("{} ({engine:?})", case.name);
    let (first, trigger, second) = (call(case.code, 0), &case.trigger[..], call(case.code, 1));
    let guest_code = match case.place {
        Place::Host => vec![],
        Place::Guest => [&first, trigger, &second, &VMCALL].concat(),
        Place::Exit => [trigger, &VMCALL].concat(),
    };
    let (host_code, exit_code) = match case.place {
        Place::Host => ([&first, trigger, &second, &[HLT]].concat(), vec![]),
        Place::Guest => (VMLAUNCH.to_vec(), vec![HLT]),
        Place::Exit => (
            [&first[..], &VMLAUNCH].concat(),
            [&second[..], &[HLT]].concat(),
        ),
    };
    let mut guest = Guest::new(&guest_code);
    guest.remove_primary(primary::HLT_EXITING);
    (case.prepare)(&mut guest);
    guest.store(HOST_CODE, &host_code);
    guest.store(HOST_RIP, &exit_code);
    let code = [&call(case.code, 2)[..], &[HLT], &call(case.code, 3), &[HLT]].concat();
    let mut other = bystander(&mut guest, &code, engine);
    run(&mut other, name);

    let mut cpu = guest.processor.cpu;
    cpu.set_rip(HOST_CODE);
    cpu.registers[4] = 0x17_0000;
    let mut processor = Processor::with_engine(cpu, engine);
    run(&mut processor, name);
    other.cpu.activity = Activity::Active;
    run(&mut other, name);

    let ram = &processor.cpu.ram;
    let results: [u32; 4] = std::array::from_fn(|i| ram.load(RESULTS + i as u64 * 4));
    let [before, after] = case.results;
    assert_eq!(results[..2], [before, after], "{name}: the same processor");
    assert_eq!(results[2..], [before, after], "{name}: another processor");
}

#[test]
fn what_the_processor_writes_is_executed() {
    for case in cases() {
        for engine in [Engine::Interpreter, Engine::Translator { after: 1 }] {
            check(&case, engine);
        }
    }
}

/// The instruction that has a flag set, and behind it in the same block the page-table entry.
#[test]
fn what_the_processor_writes_is_executed_at_once() {
    for engine in [Engine::Interpreter, Engine::Translator { after: 1 }] {
        let guest = Guest::new(&[]);
        // mov [rdi], eax; then sub eax, ecx; ret, which becomes imul eax, ecx, -61; ret
        guest.store(PAGE_ENTRY - 2, &[0x89, 0x07]);
        guest.ram().store(PAGE_ENTRY, 0xc3c3_c12b_u64);
        let code = |data: u32, result| {
            let mut code = vec![0xbf];
            code.extend(data.to_le_bytes());
            code.extend(call(PAGE_ENTRY - 2, result));
            code
        };
        let elsewhere = DATA as u32;
        let mut program = code(elsewhere, 0);
        program.extend(code(elsewhere, 1));
        program.extend(code(PAGE as u32, 2));
        program.push(HLT);
        guest.store(HOST_CODE, &program);
        let mut cpu = guest.processor.cpu;
        cpu.set_rip(HOST_CODE);
        cpu.registers[4] = 0x17_0000;
        let mut processor = Processor::with_engine(cpu, engine);
        run(&mut processor, "a block");
        let results: [u32; 3] =
            std::array::from_fn(|i| processor.cpu.ram.load(RESULTS + i as u64 * 4));
        let imul = COUNT.wrapping_mul(61).wrapping_neg();
        let sub = SCRATCH - COUNT;
        assert_eq!(results, [sub, sub, imul], "{engine:?}");
    }
}

/// The state that a task switch saves (SDM 7.3).
#[test]
fn a_saved_task_is_executed() {
    const OLD: u64 = 0x30_0000;
    const NEW: u64 = 0x30_1000;
    const DESCRIPTORS_32: u64 = 0x30_2000;
    for engine in [Engine::Interpreter, Engine::Translator { after: 1 }] {
        let guest = Guest::new(&[]);
        let ram = guest.ram();
        for (number, descriptor) in [
            (1, 0x00cf_9b00_0000_ffff_u64),
            (2, 0x00cf_9300_0000_ffff),
            (3, 0x0000_8b00_0000_0067 | OLD << 16),
            (
                4,
                0x0000_8900_0000_0067 | (NEW & 0xffff) << 16 | NEW >> 16 << 32,
            ),
        ] {
            ram.store(DESCRIPTORS_32 + number * 8, descriptor);
        }
        // EAX in the old TSS.
        let code = OLD + 40;
        ram.store(code, BEFORE as u32);
        ram.store(NEW + 32, BYSTANDER_CODE as u32);
        ram.store(NEW + 36, 2_u32);
        ram.store(NEW + 56, 0x16_0000_u32);
        for (place, selector) in [(72, 0x10_u32), (76, 8), (80, 0x10), (84, 0x10)] {
            ram.store(NEW + place, selector);
        }
        let call = |result: u64| {
            let mut bytes = vec![0xbb];
            bytes.extend((code as u32).to_le_bytes());
            // call ebx; mov [result], al
            bytes.extend([0xff, 0xd3, 0xa2]);
            bytes.extend(((RESULTS + result) as u32).to_le_bytes());
            bytes
        };
        // mov eax, the code; jmp 20h:0
        let mut program = call(0);
        program.push(0xb8);
        program.extend((AFTER as u32).to_le_bytes());
        program.extend([0xea, 0, 0, 0, 0, 0x20, 0]);
        ram.write_bytes(HOST_CODE, &program);
        ram.write_bytes(BYSTANDER_CODE, &[&call(1)[..], &[HLT]].concat());

        let mut cpu = guest.processor.cpu;
        cpu.vmx.on = false;
        cpu.cr0 = 0x31;
        cpu.cr4 = 0;
        cpu.efer = 0;
        cpu.gdtr = DescriptorTable {
            base: DESCRIPTORS_32,
            limit: 0x27,
        };
        let cs = &mut cpu.segments[register::CS as usize];
        *cs = posthaste_machine::cpu::segment::Segment::from_descriptor(8, 0x00cf_9b00_0000_ffff);
        cpu.tr = posthaste_machine::cpu::segment::Segment::from_descriptor(
            0x18,
            0x0000_8b00_0000_0067 | OLD << 16,
        );
        cpu.tr.base = OLD;
        cpu.refresh_mode();
        cpu.tlb.flush_all();
        cpu.set_rip(HOST_CODE);
        cpu.registers[4] = 0x17_0000;
        let mut processor = Processor::with_engine(cpu, engine);
        run(&mut processor, "a task");
        let results: [u8; 2] = std::array::from_fn(|i| processor.cpu.ram.load(RESULTS + i as u64));
        assert_eq!(results, [1, 2], "{engine:?}");
    }
}
