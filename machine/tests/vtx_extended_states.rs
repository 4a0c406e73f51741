//! XSETBV, XSAVES and XRSTORS in VMX non-root operation (SDM 25.1.2 Instructions that cause VM exits
//! unconditionally, 25.1.3, 25.3).

mod vmx;

use arch::control_register::cr4;
use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use vmx::*;

const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1, 0xf4];
const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0, 0xf4];
const XSAVES: &[u8] = &[0x0f, 0xc7, 0x2f, 0xf4];
const XRSTORS: &[u8] = &[0x0f, 0xc7, 0x1f, 0xf4];

fn guest(code: &[u8], enabled: bool) -> Guest {
    let mut guest = Guest::new(code);
    guest.add_primary(primary::HLT_EXITING);
    guest.set(vmcs::EXCEPTION_BITMAP, 1 << 6 | 1 << 13);
    if enabled {
        let value = guest.get(vmcs::GUEST_CR4);
        guest.set(vmcs::GUEST_CR4, value | cr4::OSXSAVE);
    }
    guest.ram().store(DATA + 520, 1_u64 << 63 | 3);
    let cpu = guest.cpu();
    cpu.xcr0 = 3;
    cpu.registers[0] = 3;
    cpu.registers[1] = 0;
    cpu.registers[2] = 0;
    cpu.registers[7] = DATA;
    guest
}

#[track_caller]
fn expect_fault(guest: &Guest, vector: u32) {
    guest.expect_exit(R::ExceptionOrNmi);
    assert_eq!(
        guest.get(vmcs::EXIT_INTERRUPTION_INFORMATION) & 0xff,
        vector
    );
}

// Always an exit, whatever it would have done, but for #UD and the #GP for CPL (25.1.1).
#[test]
fn xsetbv_exits() {
    for (index, value) in [(0, 3), (0, 0), (7, 3)] {
        let mut guest = guest(XSETBV, true);
        guest.cpu().registers[0] = value;
        guest.cpu().registers[1] = index;
        guest.launch(10);
        assert_eq!(guest.expect_exit(R::Xsetbv), 0);
        assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 3);
        assert_eq!(guest.cpu().xcr0, 3);
    }
    let mut closed = guest(XSETBV, false);
    closed.launch(10);
    expect_fault(&closed, 6);
    let mut above = guest(XSETBV, true);
    for (field, selector, rights) in [(1, 0x1b, 0xa0fb), (2, 0x23, 0xc0f3)] {
        above.write(0x0800 + field * 2, selector);
        above.write(0x4814 + field * 2, rights);
    }
    above.launch(10);
    expect_fault(&above, 13);
    // XGETBV does not.
    let mut reading = guest(XGETBV, true);
    reading.launch(10);
    reading.expect_exit(R::Hlt);
    assert_eq!(reading.cpu().registers[0], 3);
}

// 25.3: #UD unless "enable XSAVES/XRSTORS" is 1; 25.1.3: an exit for bits that EDX:EAX, IA32_XSS and the
// XSS-exiting bitmap have in common, and IA32_XSS is 0.
#[test]
fn xsaves_and_xrstors_need_their_control() {
    for code in [XSAVES, XRSTORS] {
        for (control, bitmap) in [(false, 0), (true, 0), (true, u64::MAX)] {
            let mut guest = guest(code, true);
            if control {
                guest.add_secondary(secondary::ENABLE_XSAVES);
            }
            guest.set(vmcs::XSS_EXITING_BITMAP, bitmap);
            guest.launch(10);
            if control {
                guest.expect_exit(R::Hlt);
            } else {
                expect_fault(&guest, 6);
            }
        }
    }
}
