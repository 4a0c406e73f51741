//! VM entries and the exits of single instructions.

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, primary, secondary};
use vmx::*;

#[test]
fn a_guest_runs_and_halts() {
    let mut guest = Guest::new(&[0xb8, 0x2a, 0, 0, 0, 0xf4]); // mov eax, 42; hlt
    guest.add_primary(primary::HLT_EXITING);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
    assert_eq!(guest.cpu().registers[0], 42);
    assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE + 5);
    assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 1);
    assert_eq!(guest.cpu().rip(), HOST_RIP);
    assert_eq!(guest.cpu().registers[4], 0x17_0000);
    // The launched VMCS is resumed, past the HLT.
    guest.store(GUEST_CODE + 6, &[0x0f, 0xa2]); // cpuid
    guest.set(vmcs::GUEST_RIP, GUEST_CODE + 6);
    guest.resume(10);
    guest.expect_exit(R::Cpuid);
    assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 2);
    assert_eq!(guest.cpu().counters.entries, 2);
    assert_eq!(guest.cpu().counters.exits_with(R::Hlt), 1);
}

// SDM 25.1.2: these exit always; 25.1.3: these exit by control.
#[test]
fn instructions_exit_always_or_by_their_control() {
    type Case = (&'static [u8], u32, u32, R);
    let table: &[Case] = &[
        (&[0x0f, 0xa2], 0, 0, R::Cpuid),
        (&[0x0f, 0x08], 0, 0, R::Invd),
        (&[0x0f, 0x01, 0xc1], 0, 0, R::Vmcall),
        (&[0x0f, 0x01, 0xc2], 0, 0, R::Vmlaunch),
        (&[0x0f, 0x01, 0xc3], 0, 0, R::Vmresume),
        (&[0x0f, 0x01, 0xc4], 0, 0, R::Vmxoff),
        (&[0x0f, 0x78, 0xc3], 0, 0, R::Vmread),
        (&[0x0f, 0x79, 0xc3], 0, 0, R::Vmwrite),
        (&[0xf3, 0x0f, 0xc7, 0x30], 0, 0, R::Vmxon),
        (&[0x66, 0x0f, 0xc7, 0x30], 0, 0, R::Vmclear),
        (&[0x0f, 0xc7, 0x30], 0, 0, R::Vmptrld),
        (&[0x0f, 0xc7, 0x38], 0, 0, R::Vmptrst),
        (&[0x66, 0x0f, 0x38, 0x80, 0x00], 0, 0, R::Invept),
        (&[0x66, 0x0f, 0x38, 0x81, 0x00], 0, 0, R::Invvpid),
        (&[0xf4], primary::HLT_EXITING, 0, R::Hlt),
        (&[0x0f, 0x01, 0x38], primary::INVLPG_EXITING, 0, R::Invlpg),
        (&[0x0f, 0x33], primary::RDPMC_EXITING, 0, R::Rdpmc),
        (&[0x0f, 0x31], primary::RDTSC_EXITING, 0, R::Rdtsc),
        (
            &[0x0f, 0x01, 0xf9],
            primary::RDTSC_EXITING,
            secondary::ENABLE_RDTSCP,
            R::Rdtscp,
        ),
        (&[0xf3, 0x90], primary::PAUSE_EXITING, 0, R::Pause),
        (&[0x0f, 0x09], 0, secondary::WBINVD_EXITING, R::Wbinvd),
        (&[0x0f, 0xc7, 0xf0], 0, secondary::RDRAND_EXITING, R::Rdrand),
        (&[0x0f, 0xc7, 0xf8], 0, secondary::RDSEED_EXITING, R::Rdseed),
        (
            &[0x0f, 0x01, 0x00],
            0,
            secondary::DESCRIPTOR_TABLE_EXITING,
            R::GdtrOrIdtrAccess,
        ),
        (
            &[0x0f, 0x00, 0xc0],
            0,
            secondary::DESCRIPTOR_TABLE_EXITING,
            R::LdtrOrTrAccess,
        ),
        (&[0x0f, 0x21, 0xc0], primary::MOV_DR_EXITING, 0, R::MovDr),
        (
            &[0x0f, 0x20, 0xd8],
            primary::CR3_STORE_EXITING,
            0,
            R::ControlRegisterAccess,
        ),
        (
            &[0x0f, 0x22, 0xd8],
            primary::CR3_LOAD_EXITING,
            0,
            R::ControlRegisterAccess,
        ),
        (
            &[0x44, 0x0f, 0x20, 0xc0],
            primary::CR8_STORE_EXITING,
            0,
            R::ControlRegisterAccess,
        ),
        (
            &[0x44, 0x0f, 0x22, 0xc0],
            primary::CR8_LOAD_EXITING,
            0,
            R::ControlRegisterAccess,
        ),
        (
            &[0xe4, 0x70],
            primary::UNCONDITIONAL_IO_EXITING,
            0,
            R::IoInstruction,
        ),
    ];
    for (code, primary, secondary, reason) in table {
        let setup = |code: &[u8]| {
            let mut guest = Guest::new(code);
            guest.cpu().registers[0] = DATA;
            guest
        };
        let mut guest = setup(code);
        guest.add_primary(*primary).add_secondary(*secondary);
        guest.launch(2);
        guest.expect_exit(*reason);
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE, "{reason:?}");
        let length = guest.get(vmcs::EXIT_INSTRUCTION_LENGTH) as usize;
        assert_eq!(length, code.len(), "{reason:?}");
        // Without the control the instruction does not exit.
        if *primary != 0 || *secondary != 0 {
            let mut guest = setup(code);
            guest.add_secondary(secondary & secondary::ENABLE_RDTSCP);
            guest.launch(2);
            guest.expect_no_exit();
        }
    }
}

#[test]
fn without_enable_rdtscp_it_is_undefined() {
    // RDTSCP, RDPID
    for code in [
        [0x0f, 0x01, 0xf9, 0xf4].as_slice(),
        &[0xf3, 0x0f, 0xc7, 0xf8, 0xf4],
    ] {
        let mut guest = Guest::new(code);
        guest.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
        guest.launch(2);
        guest.expect_exit(R::ExceptionOrNmi);
        assert_eq!(guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION), 0x8000_0306);
        let mut guest = Guest::new(code);
        guest.add_primary(primary::HLT_EXITING);
        guest.add_secondary(secondary::ENABLE_RDTSCP);
        guest.launch(3);
        guest.expect_exit(R::Hlt);
    }
}

#[test]
fn the_exit_saves_efer_lma_in_the_entry_controls() {
    let mut guest = Guest::new(&[0x0f, 0xa2]);
    guest.launch(2);
    guest.expect_exit(R::Cpuid);
    assert_ne!(guest.get(vmcs::ENTRY_CONTROLS) & entry::IA32E_MODE_GUEST, 0);
}

// SDM 27.2.5: VMREAD's and VMWRITE's information.
#[test]
fn vmwrite_exit_describes_its_operands() {
    // vmwrite rdx, [rbx + rsi*4 + 10h]
    let mut guest = Guest::new(&[0x0f, 0x79, 0x54, 0xb3, 0x10]);
    guest.launch(2);
    assert_eq!(guest.expect_exit(R::Vmwrite), 0x10);
    let information = guest.get(vmcs::EXIT_INSTRUCTION_INFORMATION);
    assert_eq!(
        information,
        2 | 2 << 7 | 3 << 15 | 6 << 18 | 3 << 23 | 2 << 28
    );
    // vmread rdi, rax
    let mut guest = Guest::new(&[0x0f, 0x78, 0xc7]);
    guest.launch(2);
    guest.expect_exit(R::Vmread);
    let information = guest.get(vmcs::EXIT_INSTRUCTION_INFORMATION);
    assert_eq!(information, 1 << 10 | 7 << 3);
}

// SDM 27.2.1, table 27-3: exit qualification for control-register accesses.
#[test]
fn control_register_accesses_respect_mask_and_shadow() {
    const TS: u64 = 1 << 3;
    let clts: &[u8] = &[0x0f, 0x06];
    // Mask and shadow have TS: exit.
    let mut guest = Guest::new(clts);
    guest
        .set(vmcs::CR0_GUEST_HOST_MASK, TS)
        .set(vmcs::CR0_READ_SHADOW, TS);
    guest.launch(2);
    assert_eq!(guest.expect_exit(R::ControlRegisterAccess), 2 << 4);
    // The host's TS with a clear shadow stays.
    let mut guest = Guest::new(clts);
    let cr0 = guest.get(vmcs::GUEST_CR0);
    guest
        .set(vmcs::CR0_GUEST_HOST_MASK, TS)
        .set(vmcs::GUEST_CR0, cr0 | TS);
    guest.launch(2);
    guest.expect_no_exit();
    assert_ne!(guest.cpu().cr0 & TS, 0);
    // mov rax, cr0 shows the shadow; mov cr0, rbx with an owned bit that differs exits.
    let mut guest = Guest::new(&[0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc3]);
    guest
        .set(vmcs::CR0_GUEST_HOST_MASK, TS)
        .set(vmcs::CR0_READ_SHADOW, TS);
    guest.cpu().registers[3] = cr0;
    guest.launch(3);
    assert_eq!(guest.expect_exit(R::ControlRegisterAccess), 3 << 8);
    assert_eq!(guest.cpu().registers[0], cr0 | TS);
    // mov cr4, rbx: the mask keeps VMXE, whose shadow is 0.
    let mut guest = Guest::new(&[0x0f, 0x20, 0xe0, 0x0f, 0x22, 0xe0]);
    guest.set(vmcs::CR4_GUEST_HOST_MASK, 1 << 13);
    guest.launch(3);
    guest.expect_no_exit();
    assert_eq!(guest.cpu().registers[0] & 1 << 13, 0);
    assert_ne!(guest.cpu().cr4 & 1 << 13, 0);
    // mov cr3, rax with a CR3-target value.
    for (target, exits) in [(TABLES, false), (TABLES + 8, true)] {
        let mut guest = Guest::new(&[0x0f, 0x22, 0xd8]);
        guest.add_primary(primary::CR3_LOAD_EXITING);
        guest
            .set(vmcs::CR3_TARGET_COUNT, 1)
            .set(vmcs::CR3_TARGET_VALUE_0, target);
        guest.cpu().registers[0] = TABLES;
        guest.launch(2);
        assert_eq!(!guest.cpu().vmx.non_root, exits);
    }
    // lmsw ax: TS owned by the host, shadow 0, source 1.
    let mut guest = Guest::new(&[0x0f, 0x01, 0xf0]);
    guest.set(vmcs::CR0_GUEST_HOST_MASK, TS);
    guest.cpu().registers[0] = 9;
    guest.launch(2);
    assert_eq!(
        guest.expect_exit(R::ControlRegisterAccess),
        3 << 4 | 9 << 16
    );
}

// SDM 24.6.9: four bitmaps; MSRs outside their ranges always exit.
#[test]
fn msr_bitmaps_choose_what_exits() {
    let cases = [
        (0x174_u32, false, 0_u64),
        (0xc000_0081, false, 1024),
        (0x174, true, 2048),
        (0xc000_0081, true, 3072),
    ];
    for (msr, write, half) in cases {
        let code = if write {
            write_msr(msr, 0)
        } else {
            read_msr(msr)
        };
        let reason = if write { R::Wrmsr } else { R::Rdmsr };
        for set in [true, false] {
            let mut guest = Guest::new(&code);
            guest.add_primary(primary::HLT_EXITING);
            let bit = u64::from(msr & 0x1fff);
            let at = MSR_BITMAP + half + bit / 8;
            guest.ram().store(at, u8::from(set) << (bit % 8));
            guest.launch(10);
            guest.expect_exit(if set { reason } else { R::Hlt });
        }
    }
    let mut guest = Guest::new(&read_msr(0x4000_0000));
    guest.launch(10);
    guest.expect_exit(R::Rdmsr);
    let mut guest = Guest::new(&read_msr(0x174));
    guest.remove_primary(primary::USE_MSR_BITMAPS);
    guest.launch(10);
    guest.expect_exit(R::Rdmsr);
}

// SDM 25.1.3: an access exits if the bit of any of its ports is set.
#[test]
fn io_bitmaps_choose_what_exits() {
    let out_dx: &[u8] = &[0xef]; // out dx, eax
    for (port, marked, exits) in [
        (0x80_u64, 0x80_u64, true),
        (0x80, 0x83, true),
        (0x80, 0x84, false),
        (0x8000, 0x8002, true),
        (0x7ffe, 0x8000, true),
        (0xfffe, 0x1234, true),
    ] {
        let mut guest = Guest::new(out_dx);
        guest.add_primary(primary::USE_IO_BITMAPS);
        guest
            .ram()
            .store(IO_BITMAPS + marked / 8, 1_u8 << (marked % 8));
        guest.cpu().registers[2] = port;
        guest.launch(2);
        assert_eq!(!guest.cpu().vmx.non_root, exits, "{port:#x} {marked:#x}");
        if exits {
            assert_eq!(guest.expect_exit(R::IoInstruction), 3 | port << 16);
        }
    }
    // in al, 70h
    let mut guest = Guest::new(&[0xe4, 0x70]);
    guest.add_primary(primary::UNCONDITIONAL_IO_EXITING);
    guest.launch(2);
    assert_eq!(
        guest.expect_exit(R::IoInstruction),
        1 << 3 | 1 << 6 | 0x70 << 16
    );
    // rep outsb
    let mut guest = Guest::new(&[0xf3, 0x6e]);
    guest.add_primary(primary::UNCONDITIONAL_IO_EXITING);
    guest.cpu().registers[1] = 4;
    guest.cpu().registers[2] = 0x3f8;
    guest.cpu().registers[6] = DATA;
    guest.launch(2);
    assert_eq!(
        guest.expect_exit(R::IoInstruction),
        1 << 4 | 1 << 5 | 0x3f8 << 16
    );
    assert_eq!(guest.get(vmcs::GUEST_LINEAR_ADDRESS), DATA);
    let information = guest.get(vmcs::EXIT_INSTRUCTION_INFORMATION);
    assert_eq!(information & 0x3_8380, 2 << 7 | 3 << 15);
}

#[test]
fn the_tsc_offset_is_added() {
    let mut guest = Guest::new(&[0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0xf4]); // rdtsc; shl rdx, 32
    guest.add_primary(primary::USE_TSC_OFFSETTING | primary::HLT_EXITING);
    guest.set(vmcs::TSC_OFFSET, 1 << 40);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
    assert_eq!(guest.cpu().registers[2] >> 40, 1);
}
