//! What guests see of time, and how long they may wait: TSC offset and multiplier (SDM 24.6.5 Time-stamp
//! counter offset and multiplier, 25.3) and PAUSE-loop exiting (24.6.13, 25.1.3).
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{primary, secondary};
use vmx::*;

const RDTSC: &[u8] = &[0x0f, 0x31, 0xf4];
const RDTSCP: &[u8] = &[0x0f, 0x01, 0xf9, 0xf4];

fn time_of(code: &[u8], prepare: impl FnOnce(&mut Guest)) -> u64 {
    let mut guest = Guest::new(code);
    guest.add_primary(primary::HLT_EXITING);
    guest.add_secondary(secondary::ENABLE_RDTSCP);
    prepare(&mut guest);
    guest.launch(10);
    guest.expect_exit(R::Hlt);
    let registers = guest.cpu().registers;
    registers[0] | registers[2] << 32
}

// 25.3, RDTSC: "if "use TSC offsetting" is 1 and "use TSC scaling" is 0, the value of the MSR plus the
// TSC offset; if both are 1, the product of the MSR and the TSC multiplier, shifted right by 48, plus the
// TSC offset". Scaling alone does nothing.
#[test]
fn the_counter_is_scaled_and_then_offset() {
    const OFFSET: u64 = 0x1_0000_1000;
    for code in [RDTSC.to_vec(), RDTSCP.to_vec(), read_msr(0x10)] {
        let plain = time_of(&code, |_| {});
        assert!(plain > 0);
        for multiplier in [0, 1 << 48, 3 << 47, 1 << 63, 0x1_2345_6789_abcd_u64] {
            let scaled = (u128::from(plain) * u128::from(multiplier) >> 48) as u64;
            for (offsetting, scaling, expected) in [
                (false, false, plain),
                (false, true, plain),
                (true, false, plain + OFFSET),
                (true, true, scaled.wrapping_add(OFFSET)),
            ] {
                let seen = time_of(&code, |guest| {
                    guest.set(vmcs::TSC_OFFSET, OFFSET);
                    guest.set(vmcs::TSC_MULTIPLIER, multiplier);
                    if offsetting {
                        guest.add_primary(primary::USE_TSC_OFFSETTING);
                    }
                    if scaling {
                        guest.add_secondary(secondary::USE_TSC_SCALING);
                    }
                });
                assert_eq!(seen, expected, "{multiplier:#x} {offsetting} {scaling}");
            }
        }
    }
}

/// A guest that executes PAUSE for good: two instructions a turn.
fn waiting(privilege: u64) -> Guest {
    let mut guest = Guest::new(&[0xf3, 0x90, 0xeb, 0xfc]);
    if privilege == 3 {
        for (field, selector, rights) in [(1, 0x1b, 0xa0fb), (2, 0x23, 0xc0f3)] {
            guest.write(0x0800 + field * 2, selector);
            guest.write(0x4814 + field * 2, rights);
        }
    }
    guest
}

// 25.1.3, PAUSE.
#[test]
fn pause_exits_alone_or_after_a_window() {
    // PAUSE exiting, PAUSE-loop exiting, CPL, gap, window; whether the guest is left, and after how many
    // turns at least.
    let table = [
        (false, false, 0, 10, 100, None),
        (true, false, 0, 10, 100, Some(0)),
        (true, true, 0, 10, 100, Some(0)),
        (true, true, 3, 10, 100, Some(0)),
        (false, true, 0, 10, 100, Some(51)),
        (false, true, 0, 2, 0, Some(1)),
        (false, true, 3, 10, 100, None),
        // Every turn takes two ticks.
        (false, true, 0, 1, 100, None),
        (false, true, 0, 2, 100, Some(51)),
        (false, true, 0, 10, 100_000, None),
    ];
    for (exiting, loops, cpl, gap, window, expected) in table {
        let mut guest = waiting(cpl);
        if exiting {
            guest.add_primary(primary::PAUSE_EXITING);
        }
        if loops {
            guest.add_secondary(secondary::PAUSE_LOOP_EXITING);
        }
        guest.set(vmcs::PLE_GAP, gap);
        guest.set(vmcs::PLE_WINDOW, window);
        let name = format!("{exiting} {loops} {cpl} {gap} {window}");
        let before = guest.cpu().instructions;
        guest.launch(1000);
        let Some(turns) = expected else {
            guest.expect_no_exit();
            continue;
        };
        guest.expect_exit(R::Pause);
        assert_eq!(guest.get(vmcs::GUEST_RIP), GUEST_CODE, "{name}");
        assert_eq!(guest.get(vmcs::EXIT_INSTRUCTION_LENGTH), 2, "{name}");
        let taken = guest.cpu().instructions - before;
        assert!(
            (turns * 2..turns * 2 + 4).contains(&taken),
            "{name}: {taken}"
        );
        // The first PAUSE after VM entry begins a loop.
        let before = guest.cpu().instructions;
        guest.resume(1000);
        guest.expect_exit(R::Pause);
        assert_eq!(guest.cpu().instructions - before, taken, "{name}");
    }
}
