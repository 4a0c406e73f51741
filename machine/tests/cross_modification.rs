//! Code that another processor writes (SDM 8.1.3 Handling self- and cross-modifying code): it may be executed as it was
//! for a while, but not for good.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use posthaste_machine::cpu::segment::register;
use posthaste_machine::cpu::{Cpu, Engine, Processor, Stop};
use support::{DATA, long_mode_processors, step};

/// `mov ecx, 1; jmp back`: what is written is the 1.
const LOOP: [u8; 7] = [0xb9, 1, 0, 0, 0, 0xeb, 0xf9];
/// A linear address that the translation cache keeps in the place of [`DATA`], and its 2 MBytes.
const RIVAL: u64 = DATA + (4096 << 12);
const RIVAL_ENTRY: u64 = 0x3000 + (RIVAL >> 21) * 8;

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator { after: 1 }];

/// Something that happens to the translation of [`DATA`].
type Fate = fn(&mut Cpu);

/// What can happen to the translation that permits a write before the processor comes to know that the
/// page's code is kept.
const FATES: [(&str, Fate); 8] = [
    ("stays", |_| ()),
    ("is evicted", |cpu| {
        let _: u8 = cpu.read_at(register::DS, RIVAL).expect("RAM");
    }),
    ("is invalidated with its page", |cpu| {
        cpu.tlb.flush_page(DATA)
    }),
    ("is invalidated with all", |cpu| cpu.tlb.flush()),
    ("is invalidated with those of all contexts", |cpu| {
        cpu.tlb.flush_all()
    }),
    ("is invalidated and comes back", |cpu| {
        cpu.tlb.flush();
        let _: u8 = cpu.read_at(register::DS, DATA + 0x800).expect("RAM");
    }),
    ("is of a context that comes back", |cpu| {
        let context = cpu.tlb.context();
        cpu.tlb.flush();
        let _: u8 = cpu.read_at(register::DS, RIVAL).expect("RAM");
        cpu.tlb.resume(context);
    }),
    ("is forgotten by INIT", |cpu| {
        let state = (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.segments, cpu.rip());
        cpu.reset(posthaste_machine::cpu::state::Reset::Init);
        (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.segments) =
            (state.0, state.1, state.2, state.3, state.4);
        cpu.set_rip(state.5);
        cpu.refresh_mode();
    }),
];

/// A processor that may write to a page directly does so for a moment after another has decoded
/// instructions of it, until it comes to know. The other must not keep what it decoded.
#[test]
fn a_write_that_comes_while_code_is_decoded_is_seen() {
    // jmp rbx, and jmp $
    let executor = [0xff, 0xe3];
    let writer = [0xeb, 0xfe];
    for engine in ENGINES {
        for (name, fate) in FATES {
            let [mut writes, mut executes] = long_mode_processors([&writer, &executor])
                .map(|processor| Processor::with_engine(processor.cpu, engine));
            writes.cpu.platform.bus_agent().write_bytes(DATA, &LOOP);
            writes.cpu.store(RIVAL_ENTRY, 0x40_0087_u64);
            executes.cpu.registers[3] = DATA;
            step(&mut writes, 1);
            // Takes the translation.
            let written: Result<(), _> = writes.cpu.write_at(register::DS, DATA + 0x800, 0_u8);
            assert!(written.is_ok(), "{name}");
            step(&mut executes, 4);
            assert_eq!(executes.cpu.registers[1], 1, "{name}");
            // Inside an instruction the writer does not look at its inbox.
            let written: Result<(), _> = writes.cpu.write_at(register::DS, DATA + 1, 2_u8);
            assert!(written.is_ok(), "{name}");
            fate(&mut writes.cpu);
            step(&mut writes, 1);
            step(&mut executes, 4);
            assert_eq!(executes.cpu.registers[1], 2, "{name} ({engine:?})");
        }
    }
}

#[test]
fn a_write_after_code_was_decoded_is_seen() {
    // mov dword [rbx], 3; jmp back
    let writer = [0xc7, 0x03, 3, 0, 0, 0, 0xeb, 0xf8];
    let executor = [0xff, 0xe3];
    let [mut writes, mut executes] = long_mode_processors([&writer, &executor]);
    writes.cpu.platform.bus_agent().write_bytes(DATA, &LOOP);
    writes.cpu.registers[3] = DATA + 1;
    executes.cpu.registers[3] = DATA;
    step(&mut executes, 4);
    assert_eq!(executes.cpu.registers[1], 1);
    step(&mut writes, 2);
    step(&mut executes, 4);
    assert_eq!(executes.cpu.registers[1], 3);
}

/// Two host threads, as under the parallel schedule: one writes to code thrice within one slice, has its translation
/// evicted, says so, and waits until the other has executed what it wrote last.
#[test]
fn threads_do_not_execute_stale_code_for_good() {
    /// The last value; each round takes three.
    const LAST: u64 = 3 * 1000;
    /// Executions of stale code after which it is for good.
    const PATIENCE: u64 = 200_000;
    let write = [0x89, 0x4b, 0x01]; // mov [rbx + 1], ecx
    let next = [0xff, 0xc1]; // inc ecx
    let new_block = [0xeb, 0x00]; // jmp +0
    let writer = [
        &[0x31, 0xc9][..], // xor ecx, ecx
        &next,
        &write,
        &next,
        &new_block,
        &write,
        &[0xd9, 0xfe].repeat(24), // fsin
        &next,
        &write,
        &[0x41, 0x8b, 0x45, 0x00], // mov eax, [r13]
        &new_block,
        &[0x89, 0x0e],             // mov [rsi], ecx
        &[0x39, 0x0f, 0x75, 0xfc], // wait: cmp [rdi], ecx; jne wait
        &[0x39, 0xd1, 0x72, 0xaf], // cmp ecx, edx; jb the first inc
        &[0xf4],
    ]
    .concat();
    let reader = [
        &[0x45, 0x31, 0xff][..],   // xor r15d, r15d
        &[0xff, 0xd3],             // next: call rbx
        &[0x8b, 0x2e],             // mov ebp, [rsi]
        &[0x44, 0x39, 0xfd],       // cmp ebp, r15d
        &[0x74, 0xf7],             // je next
        &[0x45, 0x31, 0xe4],       // xor r12d, r12d
        &[0x0f, 0xae, 0xe8],       // again: lfence
        &[0xff, 0xd3],             // call rbx
        &[0x39, 0xe8, 0x74, 0x09], // cmp eax, ebp; je right
        &[0x41, 0xff, 0xc4],       // inc r12d
        &[0x45, 0x39, 0xf4],       // cmp r12d, r14d
        &[0x72, 0xef, 0xf4],       // jb again; hlt
        &[0x41, 0x89, 0xef],       // right: mov r15d, ebp
        &[0x89, 0x2f],             // mov [rdi], ebp
        &[0x39, 0xd5, 0x72, 0xd9], // cmp ebp, edx; jb next
        &[0xf4],
    ]
    .concat();
    for engine in ENGINES {
        let mut processors = long_mode_processors([&writer, &reader])
            .map(|processor| Processor::with_engine(processor.cpu, engine));
        for processor in &mut processors {
            let cpu = &mut processor.cpu;
            cpu.registers[2] = LAST;
            cpu.registers[3] = DATA;
            cpu.registers[6] = DATA + 0x2000;
            cpu.registers[7] = DATA + 0x3000;
            cpu.registers[13] = RIVAL;
            cpu.registers[14] = PATIENCE;
        }
        let agent = processors[0].cpu.platform.bus_agent();
        // mov eax, 0; ret
        agent.write_bytes(DATA, &[0xb8, 0, 0, 0, 0, 0xc3]);
        agent.store(RIVAL_ENTRY, 0x40_0087_u64);
        let over = &AtomicBool::new(false);
        thread::scope(|scope| {
            for processor in &mut processors {
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        processor.cpu.slice_end = processor.cpu.instructions + 20_000;
                        processor.cpu.check_events = true;
                        if processor.run() == Stop::Idle {
                            over.store(processor.cpu.index == 1, Ordering::Relaxed);
                            return;
                        }
                    }
                });
            }
        });
        let [_, reader] = &processors;
        assert_eq!(reader.cpu.registers[15], LAST, "{engine:?}");
    }
}
