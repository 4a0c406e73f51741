//! The VMX instructions in VMX root operation and outside it (SDM chapter "VMX instruction
//! reference"), and the capability MSRs (appendix A).
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{pin, primary, tertiary, vm_function};
use posthaste_machine::cpu::CpuModel;
use posthaste_machine::cpu::model::VirtualizationLevel as L;
use vmx::*;

const VMXON_AT: &[u8] = &[0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x00, 0x31, 0x00];
const VMCLEAR_AT: &[u8] = &[0x66, 0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00];
const VMPTRLD_AT: &[u8] = &[0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00];
const VMPTRST_AT: &[u8] = &[0x0f, 0xc7, 0x3c, 0x25, 0x10, 0x00, 0x31, 0x00];
const VMXOFF: &[u8] = &[0x0f, 0x01, 0xc4];
const VMLAUNCH: &[u8] = &[0x0f, 0x01, 0xc2];
const VMRESUME: &[u8] = &[0x0f, 0x01, 0xc3];
const VMCALL: &[u8] = &[0x0f, 0x01, 0xc1];
const VMREAD: &[u8] = &[0x0f, 0x78, 0xd8]; // vmread rax, rbx
const VMWRITE: &[u8] = &[0x0f, 0x79, 0xd8]; // vmwrite rbx, rax

/// How an instruction ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Succeed,
    FailInvalid,
    FailValid(u32),
    /// Without an IDT: the processor shut down.
    Fault,
}

fn execute(guest: &mut Guest, code: &[u8]) -> End {
    guest.cpu().flags = posthaste_machine::cpu::flags::Flags::from_rflags(0x8d5);
    guest.store(HOST_CODE, code);
    guest.cpu().set_rip(HOST_CODE);
    guest.cpu().look_at_events();
    guest.run(1);
    if guest.cpu().activity != posthaste_machine::cpu::Activity::Active {
        return End::Fault;
    }
    match guest.cpu().rflags() & 0x8d5 {
        0 => End::Succeed,
        1 => End::FailInvalid,
        0x40 => End::FailValid(guest.get(vmcs::INSTRUCTION_ERROR)),
        other => panic!("flags {other:#x}"),
    }
}

fn root() -> Guest {
    Guest::in_root(CpuModel::default())
}

fn on() -> Guest {
    let mut guest = root();
    assert_eq!(execute(&mut guest, VMXON_AT), End::Succeed);
    guest
}

#[test]
fn vmxon_needs_its_conditions() {
    type Case = (&'static str, fn(&mut Guest), End);
    let table: &[Case] = &[
        ("all met", |_| {}, End::Succeed),
        ("CR4.VMXE", |g| g.cpu().cr4 &= !0x2000, End::Fault),
        ("the lock", |g| g.cpu().msrs.feature_control = 4, End::Fault),
        (
            "the permission",
            |g| g.cpu().msrs.feature_control = 1,
            End::Fault,
        ),
        ("CR0.NE", |g| g.cpu().cr0 &= !0x20, End::Fault),
        (
            "alignment",
            |g| g.ram().store(0x31_0000, VMXON + 8),
            End::FailInvalid,
        ),
        (
            "width",
            |g| g.ram().store(0x31_0000, 1_u64 << 46),
            End::FailInvalid,
        ),
        (
            "no RAM there",
            |g| g.ram().store(0x31_0000, 0xd000_0000_u64),
            End::FailInvalid,
        ),
        (
            "revision",
            |g| g.ram().store(VMXON, 1_u32),
            End::FailInvalid,
        ),
        (
            "CPL",
            |g| {
                g.cpu().segments[2].rights |= 0x60;
                g.cpu().refresh_mode();
            },
            End::Fault,
        ),
    ];
    for (name, change, end) in table {
        let mut guest = root();
        change(&mut guest);
        assert_eq!(execute(&mut guest, VMXON_AT), *end, "{name}");
        assert_eq!(guest.cpu().vmx.on, *end == End::Succeed, "{name}");
    }
}

#[test]
fn outside_vmx_operation_they_are_undefined() {
    for code in [
        VMXOFF, VMCLEAR_AT, VMPTRLD_AT, VMPTRST_AT, VMLAUNCH, VMRESUME, VMCALL, VMREAD, VMWRITE,
    ] {
        assert_eq!(execute(&mut root(), code), End::Fault, "{code:x?}");
    }
}

#[test]
fn in_root_operation_they_succeed_or_fail_with_their_numbers() {
    type Case = (&'static str, fn(&mut Guest), &'static [u8], End);
    fn none(_: &mut Guest) {}
    fn loaded(guest: &mut Guest) {
        assert_eq!(execute(guest, VMCLEAR_AT), End::Succeed);
        assert_eq!(execute(guest, VMPTRLD_AT), End::Succeed);
    }
    let table: &[Case] = &[
        ("VMXON without a VMCS", none, VMXON_AT, End::FailInvalid),
        ("VMXON", loaded, VMXON_AT, End::FailValid(15)),
        ("VMCALL", loaded, VMCALL, End::FailValid(1)),
        (
            "VMCLEAR, alignment",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, VMCS + 1)
            },
            VMCLEAR_AT,
            End::FailValid(2),
        ),
        (
            "VMCLEAR, width",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, 1_u64 << 50)
            },
            VMCLEAR_AT,
            End::FailValid(2),
        ),
        (
            "VMCLEAR of the VMXON region",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, VMXON)
            },
            VMCLEAR_AT,
            End::FailValid(3),
        ),
        (
            "VMPTRLD, alignment",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, VMCS + 1)
            },
            VMPTRLD_AT,
            End::FailValid(9),
        ),
        (
            "VMPTRLD of the VMXON region",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, VMXON)
            },
            VMPTRLD_AT,
            End::FailValid(10),
        ),
        (
            "VMPTRLD, revision",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, DATA)
            },
            VMPTRLD_AT,
            End::FailValid(11),
        ),
        (
            "VMPTRLD, shadow VMCS",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, DATA);
                g.ram()
                    .store(DATA, posthaste_machine::vtx::vmcs::REVISION | 1 << 31);
            },
            VMPTRLD_AT,
            End::Succeed,
        ),
        (
            "VMPTRLD without RAM",
            |g| {
                loaded(g);
                g.ram().store(0x31_0008, 0xd000_0000_u64)
            },
            VMPTRLD_AT,
            End::FailValid(11),
        ),
        (
            "VMPTRLD without a current VMCS",
            |g| g.ram().store(0x31_0008, VMCS + 1),
            VMPTRLD_AT,
            End::FailInvalid,
        ),
        ("VMREAD without a VMCS", none, VMREAD, End::FailInvalid),
        ("VMWRITE without a VMCS", none, VMWRITE, End::FailInvalid),
        ("VMLAUNCH without a VMCS", none, VMLAUNCH, End::FailInvalid),
        (
            "VMREAD of no field",
            |g| {
                loaded(g);
                g.cpu().registers[3] = 0x7ffe
            },
            VMREAD,
            End::FailValid(12),
        ),
        (
            "VMWRITE of no field",
            |g| {
                loaded(g);
                g.cpu().registers[3] = 0x1_0000_4000
            },
            VMWRITE,
            End::FailValid(12),
        ),
        (
            "VMWRITE of exit information",
            |g| {
                loaded(g);
                g.cpu().registers[3] = 0x4402
            },
            VMWRITE,
            End::Succeed,
        ),
        (
            "VMRESUME of a clear VMCS",
            loaded,
            VMRESUME,
            End::FailValid(5),
        ),
        (
            "VMLAUNCH with bad controls",
            loaded,
            VMLAUNCH,
            End::FailValid(7),
        ),
        (
            "VMCLEAR of the current VMCS",
            |g| {
                loaded(g);
            },
            VMCLEAR_AT,
            End::Succeed,
        ),
        ("VMXOFF", loaded, VMXOFF, End::Succeed),
    ];
    for (name, prepare, code, end) in table {
        let mut guest = on();
        prepare(&mut guest);
        assert_eq!(execute(&mut guest, code), *end, "{name}");
    }
}

#[test]
fn above_cpl_0_they_fault() {
    for code in [VMXOFF, VMCLEAR_AT, VMPTRLD_AT, VMLAUNCH, VMREAD, VMCALL] {
        let mut guest = on();
        guest.cpu().segments[2].rights |= 0x60;
        guest.cpu().refresh_mode();
        assert_eq!(execute(&mut guest, code), End::Fault, "{code:x?}");
        assert!(guest.cpu().vmx.on);
    }
}

#[test]
fn vmptrst_stores_the_pointer() {
    let mut guest = on();
    assert_eq!(execute(&mut guest, VMPTRST_AT), End::Succeed);
    assert_eq!(guest.ram().load::<u64>(0x31_0010), u64::MAX);
    execute(&mut guest, VMPTRLD_AT);
    execute(&mut guest, VMPTRST_AT);
    assert_eq!(guest.ram().load::<u64>(0x31_0010), VMCS);
    execute(&mut guest, VMCLEAR_AT);
    execute(&mut guest, VMPTRST_AT);
    assert_eq!(guest.ram().load::<u64>(0x31_0010), u64::MAX);
}

#[test]
fn vmread_and_vmwrite_move_fields() {
    let mut guest = on();
    execute(&mut guest, VMPTRLD_AT);
    for (field, value, stored) in [
        (
            0x6800_u64,
            0x1122_3344_5566_7788_u64,
            0x1122_3344_5566_7788_u64,
        ),
        (0x2010, u64::MAX - 1, u64::MAX - 1),
        (0x2011, 0xaaaa_bbbb_cccc_dddd, 0xcccc_dddd),
        (0x4012, u64::MAX, 0xffff_ffff),
        (0x0802, u64::MAX, 0xffff),
    ] {
        guest.cpu().registers[3] = field;
        guest.cpu().registers[0] = value;
        assert_eq!(execute(&mut guest, VMWRITE), End::Succeed);
        guest.cpu().registers[0] = 0;
        assert_eq!(execute(&mut guest, VMREAD), End::Succeed);
        assert_eq!(guest.cpu().registers[0], stored, "{field:#x}");
    }
    // Memory operands: vmwrite rbx, [rdi]; vmread [rdi + 8], rbx.
    guest.cpu().registers[3] = 0x6802;
    guest.cpu().registers[7] = DATA;
    guest.ram().store(DATA, 0x7777_0000_1111_2222_u64);
    assert_eq!(execute(&mut guest, &[0x0f, 0x79, 0x1f]), End::Succeed);
    assert_eq!(execute(&mut guest, &[0x0f, 0x78, 0x5f, 0x08]), End::Succeed);
    assert_eq!(guest.ram().load::<u64>(DATA + 8), 0x7777_0000_1111_2222);
}

// SDM 24.11.1: after VMCLEAR the data are in the region, and another processor may load it.
#[test]
fn a_vmcs_migrates_with_its_region() {
    let mut guest = Guest::new(&[0x0f, 0xa2]);
    guest.launch(2);
    guest.expect_exit(R::Cpuid);
    let mut bytes = vec![0; 4096];
    guest.ram().read_bytes(VMCS, &mut bytes);
    // Launched: VMLAUNCH fails, and after VMCLEAR VMRESUME does.
    assert_eq!(execute(&mut guest, VMLAUNCH), End::FailValid(4));
    execute(&mut guest, VMCLEAR_AT);
    execute(&mut guest, VMPTRLD_AT);
    assert_eq!(execute(&mut guest, VMRESUME), End::FailValid(5));
    guest.launch(2);
    guest.expect_exit(R::Cpuid);
    let mut other = on();
    other.store(VMCS, &bytes);
    execute(&mut other, VMPTRLD_AT);
    other.store(GUEST_CODE, &[0x0f, 0xa2]);
    other.resume(2);
    other.expect_exit(R::Cpuid);
}

// SDM 26.1: MOV SS blocks VM entry.
#[test]
fn vm_entry_is_refused_in_the_shadow_of_mov_ss() {
    let mut guest = Guest::new(&[0x90]);
    guest.cpu().registers[1] = 0x10;
    guest.ram().store(0x50_0008, 0x00af_9b00_0000_ffff_u64);
    guest.ram().store(0x50_0010, 0x00cf_9300_0000_ffff_u64);
    guest.cpu().gdtr.base = 0x50_0000;
    guest.cpu().gdtr.limit = 0xff;
    guest.run_root(&[0x8e, 0xd1, 0x0f, 0x01, 0xc2]); // mov ss, ecx; vmlaunch
    guest.expect_fail(26);
}

#[test]
fn in_vmx_operation_control_registers_keep_their_fixed_bits() {
    for (code, register, value) in [
        (&[0x0f, 0x22, 0xc0][..], 0, 0x8000_0011_u64), // mov cr0: NE
        (&[0x0f, 0x22, 0xe0], 0, 0x620),               // mov cr4: VMXE
    ] {
        let mut guest = on();
        guest.cpu().registers[register] = value;
        assert_eq!(execute(&mut guest, code), End::Fault);
    }
}

// SDM appendix A.
#[test]
fn capability_msrs() {
    let read = |level, index| {
        let mut guest = Guest::in_root(CpuModel {
            virtualization: level,
            ..CpuModel::default()
        });
        guest.cpu().read_msr(index).ok()
    };
    for index in 0x480..=0x492 {
        assert_eq!(read(L::None, index), None);
    }
    let full = |index| read(L::IpiVirtualization, index).unwrap();
    assert_eq!(full(0x480) >> 32 & 0x1fff, 4096);
    assert_eq!(full(0x480) >> 50 & 15, 6, "write-back");
    assert_ne!(full(0x480) & 1 << 55, 0, "true controls");
    assert_eq!(full(0x492), tertiary::IPI_VIRTUALIZATION);
    assert_eq!(full(0x48d) as u32, 0x16);
    assert_eq!(full(0x482) as u32, 0x0401_e172);
    assert_eq!(full(0x48e) as u32, 0x0400_6172);
    assert_eq!(full(0x48a), 0x42, "highest index: 2042H");
    assert_eq!(read(L::PostedInterrupts, 0x48a), Some(0x32), "2032H");
    assert_eq!(full(0x491), vm_function::EPTP_SWITCHING);
    // 492H exists only where primary bit 17 may be 1.
    for level in [L::Base, L::ApicVirtualization, L::PostedInterrupts] {
        assert_eq!(read(level, 0x492), None);
        let allowed = read(level, 0x48e).unwrap() >> 32;
        assert_eq!(allowed as u32 & primary::ACTIVATE_TERTIARY_CONTROLS, 0);
    }
    let posted =
        |level| read(level, 0x48d).unwrap() >> 32 & u64::from(pin::PROCESS_POSTED_INTERRUPTS);
    assert_eq!(posted(L::ApicVirtualization), 0);
    assert_ne!(posted(L::PostedInterrupts), 0);
    // Every default-1 control that must be 1 is allowed to be.
    for index in [0x481, 0x482, 0x483, 0x484, 0x48d, 0x48e, 0x48f, 0x490] {
        let value = full(index);
        assert_eq!(value as u32 & !(value >> 32) as u32, 0, "{index:#x}");
    }
}
