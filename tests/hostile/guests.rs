//! Hostile guests under the hypervisor. It must not panic, must not be refused a VM entry, and must
//! end in an order that the outcome names.

use machine::platform::Outcome;
use posthaste::guest_run::{ApicMode, GuestRun};

use crate::guest_image::{
    DATA, GuestImage, INTERRUPT_STACK, Mapping, PML4, check_rax, load, read_msr, store, word,
    write_msr,
};
use crate::instructions::Opcodes;
use crate::random::Random;

/// What the hypervisor writes to the debug-exit port when the guest succeeded.
const SUCCESS: Outcome = Outcome::Exit(0x10);
/// ... when it ended the guest, or the guest ended itself otherwise.
const STOPPED: Outcome = Outcome::Exit(0x14);
/// Enough to start the hypervisor and to run every guest here to its end.
const LIMIT: u64 = 30_000_000;

/// Guests with random code.
const RANDOM_GUESTS: u64 = 20;

/// Runs a guest on two vCPUs and gives how that ended.
fn run_in(apic: ApicMode, options: &str, image: &GuestImage) -> (Outcome, String) {
    let finished = GuestRun {
        guest: Some(image.build()),
        hypervisor_options: format!("memory=32 {options}"),
        apic,
        vcpus: 2,
        processors: 2,
        memory: 64 << 20,
        limit: LIMIT,
        ..GuestRun::default()
    }
    .run_to_end(Box::new(|_, _| {}))
    .expect("the hypervisor starts");
    let (outcome, console) = (finished.report.outcome, finished.console);
    for word in ["panic", "entry-failure", "contiguous"] {
        assert!(!console.contains(word), "{outcome}: {console}");
    }
    assert!(
        !matches!(outcome, Outcome::TripleFault { .. } | Outcome::Reset),
        "the hypervisor itself fell: {outcome}: {console}"
    );
    (outcome, console)
}

fn run(image: &GuestImage) -> (Outcome, String) {
    run_in(ApicMode::X2apic, "", image)
}

#[track_caller]
fn expect(image: &GuestImage, wanted: Outcome) {
    let (outcome, console) = run(image);
    assert_eq!(outcome, wanted, "{console}");
}

/// The snippet that puts the local APIC into x2APIC mode.
fn to_x2apic() -> Vec<u8> {
    write_msr(0x1b, 0xfee0_0d00)
}

#[test]
fn a_guest_of_one_snippet_succeeds() {
    expect(GuestImage::default().snippet(&[0x90]), SUCCESS);
}

#[test]
fn every_model_specific_register_with_random_values() {
    let mut random = Random::new(1);
    let mut image = GuestImage::default();
    let ranges = [
        0..0x40_u32,
        0x79..0x9b,
        0xc0..0x100,
        0x170..0x210,
        0x250..0x310,
        0x380..0x4a0,
        0x6e0..0x6e1,
        0x800..0x900,
        0xd90..0xdb0,
        0x4b56_4d00..0x4b56_4d08,
        0x4000_0000..0x4000_0004,
        0xc000_0081..0xc000_0085,
        0xc000_0100..0xc000_0104,
        0xffff_fff0..0xffff_ffff,
    ];
    for to_mode in [vec![0x90], to_x2apic()] {
        image.snippet(&to_mode);
        for number in ranges.iter().cloned().flatten() {
            // The interrupt commands have tests of their own, and the mode stays.
            if matches!(number, 0x1b | 0x830) {
                continue;
            }
            for _ in 0..3 {
                image.snippet(&write_msr(number, random.value()));
            }
            image.snippet(&read_msr(number));
        }
    }
    // IA32_EFER: what is allowed and what is not.
    for _ in 0..50 {
        image.snippet(&write_msr(0xc000_0080, random.value() | 0x501));
        image.snippet(&write_msr(0xc000_0080, 0x501 ^ 1 << random.below(16)));
    }
    let (outcome, console) = run(&image);
    // Random values turn interrupts loose, which may end the guest's way early.
    assert!(
        matches!(outcome, SUCCESS | STOPPED | Outcome::Limit { .. }),
        "{outcome}: {console}"
    );
}

#[test]
fn apic_mode_switches_in_every_order() {
    let mut random = Random::new(2);
    for apic in [ApicMode::X2apic, ApicMode::Xapic] {
        let mut image = GuestImage::default();
        for _ in 0..200 {
            let base = random.pick(&[
                0xfee0_0000,
                0xfee0_0000,
                0xfed0_0000,
                0x2_0000,
                0x1_fee0_0000,
            ]);
            image.snippet(&write_msr(0x1b, base | random.below(16) << 8));
            image.snippet(&store(0xfee0_0020, random.next() as u32));
            image.snippet(&store(0xfee0_0300, random.next() as u32 & 0xff));
            image.snippet(&write_msr(0x83f, random.below(256)));
            image.snippet(&write_msr(0x808, random.below(256)));
        }
        let (outcome, console) = run_in(apic, "", &image);
        assert!(
            matches!(outcome, SUCCESS | STOPPED | Outcome::Limit { .. }),
            "{outcome}: {console}"
        );
    }
}

#[test]
fn random_interrupt_commands_in_both_modes() {
    for seed in 0..6 {
        let mut random = Random::new(seed + 3);
        let mut image = GuestImage::default();
        let x2apic = seed % 2 == 0;
        if x2apic {
            image.snippet(&to_x2apic());
            image.snippet(&write_msr(0x80f, 0x1ff));
        } else {
            image.snippet(&store(0xfee0_00f0, 0x1ff));
        }
        for _ in 0..150 {
            let any = random.next() as u32;
            let destination = random.pick(&[0, 1, 2, 0xff, 0xffff_ffff, any]);
            let mut command = random.next() as u32 & 0xc_ffff;
            if random.chance(50) {
                command = random.below(256) as u32;
            }
            // INIT to itself ends what this vCPU does; that is a case below.
            if command >> 8 & 7 == 5 {
                command ^= 0x200;
            }
            if x2apic {
                let command = u64::from(destination) << 32 | u64::from(command);
                image.snippet(&write_msr(0x830, command));
            } else {
                image.snippet(&store(0xfee0_0310, destination << 24));
                image.snippet(&store(0xfee0_0300, command));
            }
            image.snippet(&[0xfb, 0x90, 0x90, 0xfa]); // sti; nop; nop; cli
        }
        let options = ["", "ipiv=off", "apicv=off"][seed as usize / 2];
        let (outcome, console) = run_in(ApicMode::X2apic, options, &image);
        assert!(
            matches!(outcome, SUCCESS | STOPPED | Outcome::Limit { .. }),
            "{outcome}: {console}"
        );
    }
}

#[test]
fn init_and_start_up_to_itself_and_to_all() {
    for command in [
        0x0c_4500_u32,
        0x4500,
        0x8_4500,
        0x8_4610,
        0x4_4500,
        0xc_4600,
    ] {
        let mut image = GuestImage::default();
        image.snippet(&to_x2apic());
        for _ in 0..4 {
            image.snippet(&write_msr(0x830, command.into()));
            image.snippet(&write_msr(0x830, 0xc_4608));
        }
        let (outcome, console) = run(&image);
        assert!(
            matches!(
                outcome,
                SUCCESS | STOPPED | Outcome::Limit { .. } | Outcome::Deadlock
            ),
            "{outcome}: {console}"
        );
    }
}

#[test]
fn every_port_in_every_size() {
    let mut image = GuestImage::default();
    // Those that end the machine: keyboard controller, debug exit, reset control, power management.
    let ends = |port: u16| matches!(port, 0x64 | 0xf4 | 0xcf9 | 0x600..=0x60f | 0x8900);
    let ports = (0..0x1100_u16).chain((0x1100..=0xfff0).step_by(0x55));
    for port in ports.filter(|port| !ends(*port) && !ends(port.wrapping_add(3))) {
        if (0xcf0..0xd00).contains(&port) || (0xf1..0xf6).contains(&port) {
            continue;
        }
        let mut code = vec![0x66, 0xba]; // mov dx, port
        code.extend(port.to_le_bytes());
        code.extend([0xb8, 0x5a, 0xa5, 0x5a, 0xa5]); // mov eax, a55aa55ah
        code.extend([0xee, 0x66, 0xef, 0xef, 0xec, 0x66, 0xed, 0xed]); // out and in, each size
        image.snippet(&code);
    }
    image.snippet(&[
        0x66, 0xba, 0xf8, 0x03, 0x48, 0xc7, 0xc1, 0xff, 0xff, 0xff, 0x7f, 0xf3, 0x6e,
    ]); // rep outsb
    let (outcome, console) = run(&image);
    assert!(
        matches!(outcome, SUCCESS | Outcome::Limit { .. }),
        "{outcome}: {console}"
    );
}

#[test]
fn ports_that_end_the_machine_end_it_in_order() {
    for (port, value) in [
        (0x64_u16, 0xfe_u32),
        (0xcf9, 6),
        (0x604, 0x3400),
        (0xf4, 0x77),
    ] {
        let mut code = vec![0x66, 0xba];
        code.extend(port.to_le_bytes());
        code.push(0xb8);
        code.extend(word(value));
        code.extend(if port == 0x604 {
            vec![0x66, 0xef]
        } else {
            vec![0xee]
        });
        let mut image = GuestImage::default();
        image.snippet(&code);
        let (outcome, console) = run(&image);
        assert!(
            matches!(outcome, Outcome::Exit(_)),
            "{port:#x}: {outcome}: {console}"
        );
    }
}

#[test]
fn device_memory_in_odd_sizes_and_places() {
    let mut random = Random::new(4);
    let mut image = GuestImage::default();
    for _ in 0..600 {
        let page = random.pick(&[
            0xfee0_0000_u64,
            0xfee0_0000,
            0xfec0_0000,
            0xfed0_0000,
            0xfff0_0000,
            0xc000_0000,
            0x0b00_0000,
        ]);
        // Commands to start or stop processors have tests of their own.
        let (below, above) = (random.below(0x2f0), 0x310 + random.below(0xcec));
        let offset = random.pick(&[below, above]);
        let mut code = load(3, page + offset);
        code.extend(load(0, random.value()));
        code.extend(random.pick(&[
            &[0x88, 0x03][..],
            &[0x66, 0x89, 0x03],
            &[0x89, 0x03],
            &[0x48, 0x89, 0x03],
            &[0x8a, 0x03],
            &[0x66, 0x8b, 0x03],
            &[0x8b, 0x03],
            &[0x48, 0x8b, 0x03],
            &[0x0f, 0xb6, 0x03],
            &[0x48, 0x0f, 0xbf, 0x03],
            &[0x8b, 0x23],
            &[0x48, 0xc7, 0x03, 1, 2, 3, 4],
        ]));
        image.snippet(&code);
    }
    let (outcome, console) = run(&image);
    assert!(
        matches!(outcome, SUCCESS | Outcome::Limit { .. }),
        "{outcome}: {console}"
    );
}

#[test]
fn device_memory_by_all_kinds_of_instructions() {
    enum End {
        Success,
        Limit,
        NotEmulated,
    }
    for page in [0xfee0_0000_u64, 0xfec0_0000, 0xc000_0000] {
        for (access, end) in [
            (&[0x01, 0x03][..], End::Success),               // add [rbx], eax
            (&[0x87, 0x03], End::Success),                   // xchg [rbx], eax
            (&[0x0f, 0x11, 0x03], End::Success),             // movups [rbx], xmm0
            (&[0xff, 0x33], End::Success),                   // push qword [rbx]
            (&[0xff, 0x23], End::Success),                   // jmp [rbx]
            (&[0xff, 0xe3], End::Success),                   // jmp rbx
            (&[0x48, 0x89, 0xdc, 0x50], End::Success),       // mov rsp, rbx; push rax
            (&[0x48, 0x89, 0xdc, 0x0f, 0x0b], End::Success), // mov rsp, rbx; ud2
            (
                &[0x48, 0x89, 0xdf, 0x48, 0x83, 0xc9, 0xff, 0xf3, 0xab],
                End::Limit,
            ), // rep stosd, RCX = -1
            (
                &[0x48, 0x89, 0xde, 0x48, 0x83, 0xc9, 0xff, 0xf3, 0xac],
                End::Limit,
            ), // rep lodsb
            (&[0x0f, 0x01, 0x13], End::NotEmulated),         // lgdt [rbx]
            (&[0x0f, 0xae, 0x03], End::NotEmulated),         // fxsave [rbx]
            (&[0xd8, 0x03], End::NotEmulated),               // fadd dword [rbx]
            (&[0xf3, 0x0f, 0x58, 0x03], End::NotEmulated),   // addss xmm0, [rbx]
            (&[0x8e, 0x1b], End::NotEmulated),               // mov ds, [rbx]
            (&[0xff, 0x2b], End::NotEmulated),               // jmp far [rbx]
            (&[0x0f, 0x22, 0xdb, 0x90], End::Success),       // mov cr3, rbx
        ] {
            let mut code = load(3, page);
            code.extend(access);
            let mut image = GuestImage::default();
            image.snippet(&code);
            let (outcome, console) = run(&image);
            let message = "cannot be accessed by this instruction";
            let lines = console.matches(message).count();
            let right = match end {
                End::Success => outcome == SUCCESS && lines == 0,
                End::Limit => matches!(outcome, Outcome::Limit { .. }) && lines == 0,
                End::NotEmulated => outcome == STOPPED && lines == 1,
            };
            assert!(right, "{page:#x} {access:x?}: {outcome}: {console}");
        }
    }
}

#[test]
fn vmx_and_other_instructions_that_cpuid_hides() {
    let mut image = GuestImage::default();
    let instructions = [
        &[0x0f, 0x01, 0xc1][..],      // vmcall
        &[0x0f, 0x01, 0xc2],          // vmlaunch
        &[0x0f, 0x01, 0xc3],          // vmresume
        &[0x0f, 0x01, 0xc4],          // vmxoff
        &[0x0f, 0x01, 0xd4],          // vmfunc
        &[0xf3, 0x0f, 0xc7, 0x33],    // vmxon [rbx]
        &[0x66, 0x0f, 0xc7, 0x33],    // vmclear [rbx]
        &[0x0f, 0xc7, 0x33],          // vmptrld [rbx]
        &[0x0f, 0xc7, 0x3b],          // vmptrst [rbx]
        &[0x0f, 0x78, 0xc3],          // vmread rbx, rax
        &[0x0f, 0x79, 0xc3],          // vmwrite rax, rbx
        &[0x66, 0x0f, 0x38, 0x80, 3], // invept
        &[0x66, 0x0f, 0x38, 0x81, 3], // invvpid
        &[0x66, 0x0f, 0x38, 0x82, 3], // invpcid
        &[0x0f, 0x01, 0xd1],          // xsetbv
        &[0x0f, 0x01, 0xd0],          // xgetbv
        &[0x0f, 0x01, 0xc8],          // monitor
        &[0x0f, 0x01, 0xc9],          // mwait
        &[0x0f, 0x37],                // getsec
        &[0x0f, 0xaa],                // rsm
        &[0x0f, 0x33],                // rdpmc
        &[0x0f, 0x08],                // invd
        &[0x0f, 0x09],                // wbinvd
        &[0x0f, 0xc7, 0xf8],          // rdseed eax
        &[0xf3, 0x90],                // pause
        &[0x0f, 0x01, 0xcf],          // encls
        &[0x0f, 0xa2],                // cpuid
    ];
    for cr4 in [
        0x620_u64,
        0x2620,
        0x4620,
        0x4_0620,
        0x1_0620,
        0x2_0620,
        0x1620,
        0xffff_ffff,
    ] {
        let mut code = load(0, cr4);
        code.extend([0x0f, 0x22, 0xe0]); // mov cr4, rax
        image.snippet(&code);
        for instruction in instructions {
            let mut code = load(3, DATA.into());
            code.extend(load(1, 0));
            code.extend(load(0, 0));
            code.extend(instruction);
            image.snippet(&code);
        }
    }
    for leaf in [
        0_u32,
        1,
        4,
        7,
        0xb,
        0xd,
        0x14,
        0x15,
        0x1f,
        0x4000_0000,
        0x7fff_ffff,
        0x8000_0008,
        0xffff_ffff,
    ] {
        for subleaf in [0_u32, 1, 2, 63, 0xffff_ffff] {
            let mut code = vec![0xb8];
            code.extend(word(leaf));
            code.push(0xb9);
            code.extend(word(subleaf));
            code.extend([0x0f, 0xa2]);
            image.snippet(&code);
        }
    }
    expect(&image, SUCCESS);
}

#[test]
fn control_registers_with_random_values() {
    let mut random = Random::new(5);
    for _ in 0..8 {
        let mut image = GuestImage::default();
        for _ in 0..40 {
            let (register, good) = random.pick(&[
                (0_u8, 0x8000_0033_u64),
                (4, 0x620),
                (3, u64::from(PML4)),
                (8, 0),
                (2, 0),
            ]);
            let value = match random.below(3) {
                0 => random.value(),
                _ => good ^ 1 << random.below(64),
            };
            let mut code = load(0, value);
            code.extend(if register == 8 {
                vec![0x44, 0x0f, 0x22, 0xc0]
            } else {
                vec![0x0f, 0x22, 0xc0 | register << 3]
            });
            // ... and back.
            code.extend(load(0, good));
            code.extend([0x0f, 0x22, 0xc0 | (register & 7) << 3]);
            image.snippet(&code);
        }
        let (outcome, console) = run(&image);
        assert!(
            matches!(outcome, SUCCESS | STOPPED | Outcome::Limit { .. }),
            "{outcome}: {console}"
        );
    }
}

#[test]
fn loops_triple_faults_and_bad_addresses() {
    let endless = |code: &[u8]| {
        let mut image = GuestImage::default();
        image.snippet(code);
        run(&image)
    };
    for code in [
        &[0xeb, 0xfe][..],         // jmp $
        &[0xfa, 0xf4],             // cli; hlt, then what follows
        &[0xfa, 0xf4, 0xeb, 0xfd], // cli; hlt for good
        &[0xfb, 0xf4, 0xeb, 0xfd], // sti; hlt for good
    ] {
        let (outcome, console) = endless(code);
        assert!(
            matches!(outcome, Outcome::Limit { .. } | Outcome::Deadlock | SUCCESS),
            "{code:x?}: {outcome}: {console}"
        );
    }
    // lidt of an empty table, ud2.
    let mut triple = store(DATA.into(), 0);
    triple.extend(store(u64::from(DATA) + 4, 0));
    triple.extend([0x48, 0xc7, 0xc3]);
    triple.extend(word(DATA));
    triple.extend([0x0f, 0x01, 0x1b, 0x0f, 0x0b]);
    let (outcome, console) = endless(&triple);
    assert_eq!(outcome, STOPPED, "{console}");
    assert!(console.contains("triple fault"), "{console}");
    for address in [
        0x8000_0000_0000_0000_u64,
        0x7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        1 << 47,
    ] {
        let mut code = load(0, address);
        code.extend([0xff, 0xe0]); // jmp rax
        let mut image = GuestImage::default();
        image.snippet(&code);
        let mut code = load(4, address);
        code.extend([0x0f, 0x0b]); // a fault on that stack
        image.snippet(&code);
        let (outcome, console) = run(&image);
        assert!(matches!(outcome, SUCCESS | STOPPED), "{outcome}: {console}");
    }
}

#[test]
fn code_that_writes_itself() {
    let mut image = GuestImage::default();
    // lea rdi, [rip + 9]; mov ecx, 100000; again: inc byte [rdi + 3]; nop ...; loop again
    let mut code = vec![0xb9];
    code.extend(word(100_000));
    code.extend([0x48, 0x8d, 0x3d, 0, 0, 0, 0]); // lea rdi, [rip]
    code.extend([0xfe, 0x47, 0x04, 0xb0, 0x00]); // inc byte [rdi + 4]; mov al, imm8
    code.extend([0xe2, 0xf9]); // loop
    image.snippet(&code);
    expect(&image, SUCCESS);
}

#[test]
fn random_code_at_the_highest_privilege() {
    let opcodes = Opcodes::of_mode(64);
    for seed in 0..RANDOM_GUESTS {
        let mut random = Random::new(seed * 77 + 9);
        let mut image = GuestImage {
            mapping: random.pick(&[Mapping::Everything, Mapping::Ram, Mapping::Ram]),
            ..GuestImage::default()
        };
        for _ in 0..150 {
            let mut code = Vec::new();
            for register in [0, 1, 2, 3, 5, 6, 7, 8, 9] {
                let value = match random.below(4) {
                    0 => random.value(),
                    1 => random.pick(&[0xfee0_0000, 0xfec0_0000, 0xfee0_0300, 0xc000_0000]),
                    2 => random.pick(&[0x10, 0x1b, 0x174, 0x277, 0x6e0, 0x802, 0x830, 0x83f]),
                    _ => u64::from(DATA) + random.below(0x1000),
                };
                code.extend(load(register, value));
            }
            code.extend(opcodes.stream(&mut random, 24));
            image.snippet(&code);
        }
        let options = random.pick(&["", "", "ipiv=off", "apicreg=off", "apicv=off", "vpid=off"]);
        let (outcome, console) = run_in(ApicMode::X2apic, options, &image);
        assert!(
            matches!(
                outcome,
                Outcome::Exit(_) | Outcome::Limit { .. } | Outcome::Deadlock
            ),
            "seed {seed}: {outcome}: {console}"
        );
    }
}

/// REP OUTS and INS with every element size, and what they leave in RCX, RSI and RDI.
#[test]
fn string_io_moves_what_it_says() {
    const TEXT: u32 = 0x6f_6c_65_68; // "helo"
    let data = u64::from(DATA);
    let mut image = GuestImage::default();
    let mut code = store(data, TEXT);
    // The four characters of the text, 30 times over: more than a run of iterations.
    code.extend(load(6, data)); // mov rsi, DATA
    code.extend(load(7, data + 4)); // mov rdi, DATA + 4
    code.extend(load(1, 29)); // mov rcx, 29
    code.extend([0xfc, 0xf3, 0xa5]); // cld; rep movsd
    code.extend(load(6, data));
    code.extend(load(1, 120));
    code.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 3f8h
    code.extend([0xf3, 0x6e]); // rep outsb
    code.extend([0x48, 0x89, 0xf0]); // mov rax, rsi
    code.extend(check_rax(DATA + 120));
    code.extend([0x48, 0x89, 0xc8]); // mov rax, rcx
    code.extend(check_rax(0));
    image.snippet(&code);
    // INSD from a port without a device, backwards.
    let mut code = store(data + 8, 0);
    code.extend(load(7, data + 8));
    code.extend([0x66, 0xba, 0x00, 0x03]); // mov dx, 300h
    code.extend([0xfd, 0x6d, 0xfc]); // std; insd; cld
    code.extend([0x48, 0x89, 0xf8]); // mov rax, rdi
    code.extend(check_rax(DATA + 4));
    code.extend([0x8b, 0x47, 0x04]); // mov eax, [rdi + 4]
    code.extend([0xff, 0xc0]); // inc eax
    code.extend(check_rax(0));
    image.snippet(&code);
    image.snippet(&[0xb0, b'\n', 0x66, 0xba, 0xf8, 0x03, 0xee]); // a new line
    let (outcome, console) = run(&image);
    assert_eq!(outcome, SUCCESS, "{console}");
    assert!(console.contains(&"helo".repeat(30)), "{console}");
}

/// A page fault of INS or OUTS has its address and error code, and the port is not touched.
#[test]
fn string_io_faults_where_its_memory_does() {
    let mut image = GuestImage {
        mapping: Mapping::Ram,
        ..GuestImage::default()
    };
    // The handler goes on with the next snippet, so that this one must not come to its end.
    let fail = [0xb0, 0x11, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfc];
    for opcode in [0x6c, 0x6e] {
        let mut code = load(7, 0x300_0000);
        code.extend(load(6, 0x300_0000));
        code.extend(load(1, 3));
        code.extend([0x66, 0xba, 0xf4, 0x00, 0xf3, opcode]); // mov dx, 0f4h; rep insb or outsb
        code.extend(fail);
        image.snippet(&code);
        let mut code = vec![0x0f, 0x20, 0xd0]; // mov rax, cr2
        code.extend(check_rax(0x300_0000));
        code.extend([0x48, 0x89, 0xc8]); // mov rax, rcx
        code.extend(check_rax(3));
        // The handler's frame on its stack: the error code lies at its bottom.
        code.extend([0x8b, 0x04, 0x25]); // mov eax, [INTERRUPT_STACK - 48]
        code.extend(word(INTERRUPT_STACK - 48));
        code.extend(check_rax(if opcode == 0x6c { 2 } else { 0 }));
        image.snippet(&code);
    }
    expect(&image, SUCCESS);
}

/// A guest that steps through instructions which exit gets its trap behind each, as on a processor
/// without a hypervisor.
#[test]
fn single_steps_come_behind_instructions_that_exit() {
    // CPUID, IN, and a load from the I/O APIC, each followed by an instruction that must not execute.
    let cpuid = vec![0x0f, 0xa2];
    let input = vec![0xe4, 0x61];
    let load_from_device = vec![0xa0, 0x00, 0x00, 0xc0, 0xfe, 0, 0, 0, 0]; // mov al, [0fec00000h]
    let fail = [0xb0, 0x11, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfc];
    let mut image = GuestImage::default();
    for instruction in [cpuid, input, load_from_device] {
        // DR6 keeps what it has: it begins each time with nothing.
        let mut code = vec![0x31, 0xc0, 0x0f, 0x23, 0xf0]; // xor eax, eax; mov dr6, rax
        // pushfq; or qword [rsp], 100h; popfq: the trap is behind the next instruction.
        code.extend([0x9c, 0x48, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d]);
        code.extend(instruction);
        code.extend(fail);
        image.snippet(&code);
        // RIP in the handler's frame: SS, RSP, RFLAGS, CS, RIP.
        let behind = image.address_before(fail.len());
        let mut check = vec![0x8b, 0x04, 0x25]; // mov eax, [INTERRUPT_STACK - 40]
        check.extend(word(INTERRUPT_STACK - 40));
        check.extend(check_rax(behind));
        check.extend([0x0f, 0x21, 0xf0]); // mov rax, dr6
        check.extend([0x25, 0x0f, 0x40, 0, 0]); // and eax, 400fh
        check.extend(check_rax(0x4000)); // BS
        image.snippet(&check);
    }
    expect(&image, SUCCESS);
}

/// What a guest read where its local APIC was while it was disabled does not come back when it is
/// enabled again: translations from then are gone.
#[test]
fn a_local_apic_that_comes_back_answers() {
    const VERSION: u64 = 0xfee0_0030;
    let read = |code: &mut Vec<u8>| {
        code.extend(load(3, VERSION));
        code.extend([0x8b, 0x03]); // mov eax, [rbx]
    };
    let mut code = write_msr(0x1b, 0xfee0_0100);
    read(&mut code);
    code.extend(write_msr(0x1b, 0xfee0_0900));
    read(&mut code);
    code.extend([0x25, 0xff, 0, 0, 0]); // and eax, 0ffh
    code.extend(check_rax(0x14));
    let mut image = GuestImage::default();
    image.snippet(&code);
    let (outcome, console) = run_in(ApicMode::Xapic, "", &image);
    assert_eq!(outcome, SUCCESS, "{console}");
}
