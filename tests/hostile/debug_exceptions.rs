//! Exceptions that the hypervisor intercepts look to its guests as they do without it, and no guest holds a
//! processor by them.

use machine::platform::Outcome;
use posthaste::guest_run::GuestRun;

use crate::flat_image::{
    CODE, FAIL, FlatImage, SUCCEED, TABLES, drop_privilege, load_control_register, store_32,
};
use crate::flat_run::{guest, succeeds, succeeds_bare};

const DEBUG: u8 = 1;
/// RF in EFLAGS.
const RESUME: u32 = 1 << 16;
/// A page for data.
const DATA: u32 = 0x30_0000;

/// `mov eax, value; mov drN, eax` in 32-bit code.
fn load_debug_register(number: u8, value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.extend([0x0f, 0x23, 0xc0 | number << 3]);
    code
}

/// Fails unless EAX is `wanted`.
fn check(wanted: u32) -> Vec<u8> {
    let mut code = vec![0x3d]; // cmp eax, wanted
    code.extend(wanted.to_le_bytes());
    code.extend([0x74, FAIL.len() as u8]); // je over
    code.extend(FAIL);
    code
}

/// A handler of #DB that succeeds if DR6 is `status`, the saved EIP `eip`, the saved RF `resume`, and DR7.GD
/// clear.
fn debug_handler(status: u32, eip: u32, resume: u32) -> Vec<u8> {
    let mut code = vec![0x0f, 0x21, 0xf8]; // mov eax, dr7
    code.extend([0x25, 0, 0x20, 0, 0]); // and eax, GD
    code.extend(check(0));
    code.extend([0x0f, 0x21, 0xf0]); // mov eax, dr6
    code.extend(check(status));
    code.extend([0x8b, 0x04, 0x24]); // mov eax, [esp]
    code.extend(check(eip));
    code.extend([0x8b, 0x44, 0x24, 8]); // mov eax, [esp + 8]
    code.extend([0x25, 0, 0, 1, 0]); // and eax, RF
    code.extend(check(resume));
    code.extend(SUCCEED);
    code
}

/// Where #DB says that it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saved {
    /// At the instruction.
    At,
    /// Behind it.
    Behind,
}

#[test]
fn the_debug_registers_are_as_delivery_leaves_them() {
    use Saved::{At, Behind};
    const STEP: &[u8] = &[0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d]; // pushfd; or [esp], TF; popfd
    const STORE: &[u8] = &[0xa3, 0, 0, 0x30, 0]; // mov [DATA], eax
    const READ_STATUS: &[u8] = &[0x0f, 0x21, 0xf0]; // mov eax, dr6
    const INPUT: &[u8] = &[0xe4, 0x61]; // in al, 61h
    // Breakpoint 0 on writes of 4 bytes at DATA, 1 on any access there.
    const ON_DATA: u32 = 0x00fd_040a;
    for (name, control, breakpoint, before, instruction, status_before, status, saved) in [
        (
            "INT1",
            0,
            0,
            &[][..],
            &[0xf1][..],
            0xffff_4ff3_u32,
            0xffff_4ff3_u32,
            Behind,
        ),
        (
            "step",
            0,
            0,
            STEP,
            &[0x90],
            0xffff_0ff0,
            0xffff_4ff0,
            Behind,
        ),
        (
            "step over CPUID",
            0,
            0,
            STEP,
            &[0x0f, 0xa2],
            0xffff_0ff7,
            0xffff_4ff0,
            Behind,
        ),
        (
            "step over IN",
            0,
            0,
            STEP,
            INPUT,
            0xffff_0ff7,
            0xffff_4ff0,
            Behind,
        ),
        (
            "store",
            ON_DATA,
            DATA,
            &[],
            STORE,
            0xffff_4ff0,
            0xffff_4ff3,
            Behind,
        ),
        (
            "step over a store",
            ON_DATA,
            DATA,
            STEP,
            STORE,
            0xffff_0ff0,
            0xffff_4ff3,
            Behind,
        ),
        (
            "general detect",
            0x2400,
            0,
            &[],
            READ_STATUS,
            0xffff_0ff1,
            0xffff_2ff0,
            At,
        ),
    ] {
        let mut code = load_debug_register(6, status_before);
        code.extend(load_debug_register(0, breakpoint));
        code.extend(load_debug_register(1, breakpoint));
        code.extend(load_debug_register(7, control));
        code.extend(before);
        let at = CODE + code.len() as u32;
        code.extend(instruction);
        code.extend(FAIL);
        // A fault that is no instruction breakpoint saves RF as 1 (SDM 17.3.1.1), a trap as it is.
        let (eip, resume) = match saved {
            At => (at, RESUME),
            Behind => (at + instruction.len() as u32, 0),
        };
        println!("{name}");
        let image =
            FlatImage::protected(&code).handling(DEBUG, &debug_handler(status, eip, resume));
        succeeds_bare(image.clone());
        succeeds(image);
    }
}

#[test]
fn an_instruction_breakpoint_is_a_fault() {
    let with = |address: u32| {
        let mut code = load_debug_register(6, 0xffff_0ff0);
        code.extend(load_debug_register(2, address));
        code.extend(load_debug_register(7, 0x410));
        code
    };
    let at = CODE + with(0).len() as u32;
    let mut code = with(at);
    code.extend([0x0f, 0xa2]); // cpuid
    code.extend(FAIL);
    let image = FlatImage::protected(&code).handling(DEBUG, &debug_handler(0xffff_0ff4, at, 0));
    succeeds_bare(image.clone());
    succeeds(image);
}

/// After `code`, privilege level 3 meets #AC, whose handler is there too and has a misaligned stack, so that
/// its delivery meets #AC.
fn endless(code: &[u8]) -> FlatImage {
    const USER: u32 = TABLES;
    let mut start = code.to_vec();
    start.extend(drop_privilege(USER));
    // mov esp, 0a0001h; pushfd; or dword [esp], AC; popfd; mov eax, [300001h]
    let user = [
        0xbc, 1, 0, 0x0a, 0, 0x9c, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d, 0xa1, 1, 0, 0x30, 0,
    ];
    FlatImage::protected(&start)
        .put(USER, &user)
        .put(USER + 0x100, &SUCCEED)
        .handling_as_user(USER + 0x100)
}

/// While one virtual processor meets #AC in the delivery of #AC for ever, another one on the same
/// processor goes on and ends the run.
#[test]
fn a_series_of_alignment_checks_does_not_hold_the_processor() {
    // Start the other one at 8000H, where it counts and then succeeds.
    const OTHER: [u8; 14] = [
        0x66, 0xb9, 0, 0, 2, 0, // mov ecx, 20000h
        0x67, 0xe2, 0xfd, // loop $ (32-bit)
        0xb0, 0x10, 0xe6, 0xf4, // mov al, 10h; out 0f4h, al
        0xf4,
    ];
    let mut code = Vec::new();
    for (address, bytes) in (0x8000..).step_by(4).zip(OTHER.chunks(4)) {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        code.extend(store_32(address, u32::from_le_bytes(word)));
    }
    for (register, value) in [
        (0xfee0_00f0, 0x1ff),
        (0xfee0_0300, 0xc_4500),
        (0xfee0_0300, 0xc_4608),
    ] {
        code.extend(store_32(register, value));
    }
    code.extend(load_control_register(0, 0x4_0031)); // AM
    let finished = GuestRun {
        vcpus: 2,
        hypervisor_options: "apic=xapic".to_owned(),
        ..guest(endless(&code))
    }
    .run_to_end(Box::new(|_, _| {}))
    .expect("the hypervisor starts");
    let console = &finished.console;
    assert_eq!(finished.report.outcome, Outcome::Exit(0x10), "{console}");
    let exits = finished.result.exits.get("EXCEPTION_NMI").copied();
    assert!(exits > Some(100), "{exits:?}: {console}");
}
