//! Non-maskable interrupts that come from outside, in root mode and in guest mode: the hypervisor counts
//! them and goes on, and its guest sees none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use arch::interrupt_command::{DeliveryMode, DestinationMode, TriggerMode};
use devices::interrupt_message::InterruptMessage;
use machine::platform::{Outcome, Platform};
use posthaste::console::Console;
use posthaste::guest_run::GuestRun;

/// Sends NMIs to two processors, from when both have an interrupt table until the machine stops.
fn press_the_button(platform: &Arc<Platform>, ready: Arc<AtomicBool>) {
    let platform = Arc::clone(platform);
    thread::spawn(move || {
        while !platform.stopped() {
            if !ready.load(Ordering::Relaxed) {
                thread::yield_now();
                continue;
            }
            for destination in [0, 1] {
                platform.send_message(InterruptMessage {
                    vector: 0,
                    delivery_mode: DeliveryMode::Nmi,
                    destination_mode: DestinationMode::Physical,
                    destination,
                    trigger_mode: TriggerMode::Edge,
                });
            }
            thread::sleep(Duration::from_micros(200));
        }
    });
}

#[test]
fn interrupts_that_nobody_asked_for_are_counted() {
    let run = GuestRun {
        processors: 2,
        vcpus: 3,
        guest_options: "phases=unicast,storm rounds=3000".to_owned(),
        ..GuestRun::default()
    };
    let ready = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ready);
    let console = Console::new(Box::new(move |line, _| {
        if line.starts_with("posthaste: 3 vcpus on 2 processors") {
            seen.store(true, Ordering::Relaxed);
        }
    }));
    let finished = run
        .run_on(console, |platform| press_the_button(platform, ready))
        .unwrap_or_else(|error| panic!("{error}"));
    let text = &finished.console;
    assert_eq!(finished.report.outcome, Outcome::Exit(0x10), "{text}");
    assert_eq!(finished.result.lost_interrupts, 0, "{text}");
    let agreement = finished.result.agreement(&finished.report, &finished.lines);
    assert_eq!(agreement, Ok(()), "{text}");
    for said in [
        "posthaste: a non-maskable interrupt that nobody asked for (port 61H is ",
        " non-maskable interrupts that nobody asked for",
    ] {
        assert_eq!(text.matches(said).count(), 1, "{said:?} in {text}");
    }
    let exits = finished.result.exits.get("EXCEPTION_NMI").copied();
    let counted: u64 = text
        .lines()
        .find_map(|line| {
            let line = line.strip_prefix("posthaste: ")?;
            line.strip_suffix(" non-maskable interrupts that nobody asked for")?
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("no number in {text}"));
    // Some came in guest mode, and some in root mode.
    assert!(
        exits.is_some_and(|exits| 0 < exits && exits < counted),
        "{exits:?} of {counted}: {text}"
    );
}
