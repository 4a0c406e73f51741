//! What is typed on the console, on its way to the first serial port.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use devices::pc::{Effect, Pc};

use super::{Platform, lock};

/// What was typed and not yet received. Any thread may add to it.
#[derive(Debug, Default)]
pub(super) struct ConsoleInput {
    state: Mutex<State>,
    /// Whether there is any: every access to a device asks.
    waiting: AtomicBool,
    /// Whether somebody may type while the machine runs.
    keyboard: AtomicBool,
    /// Signalled when something is typed and when the machine stops.
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// When the first of them has arrived; `None` while nobody listens.
    arrival: Option<u64>,
    /// Something was typed since somebody last waited for it.
    typed: bool,
}

/// Why a wait for input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The time was over.
    Wholly,
    /// Something was typed, or the machine was stopped, after this time.
    Interrupted(Duration),
}

impl Platform {
    /// Bytes for the first serial port. They wait until software listens there and then arrive at the
    /// line's rate, as far as there is room. The processors' own accesses and the devices' events move
    /// them on, so that a run with the same input from its start is the same run.
    pub fn type_in(&self, bytes: &[u8]) {
        // With the devices locked nobody can overwrite when they are to be looked at next.
        let pc = lock(&self.pc);
        let mut state = lock(&self.input.state);
        state.bytes.extend(bytes);
        state.typed = true;
        self.input
            .waiting
            .store(!state.bytes.is_empty(), Ordering::Relaxed);
        drop(state);
        // Somebody may wait for this and do nothing else.
        self.next_device_event.store(0, Ordering::Relaxed);
        drop(pc);
        self.input.news.notify_all();
    }

    /// How many bytes were typed and not yet received.
    pub fn input_waiting(&self) -> usize {
        lock(&self.input.state).bytes.len()
    }

    /// From now on somebody may type while the machine runs: a machine that waits for that is no
    /// deadlock, and idle time takes as long as it says.
    pub fn open_keyboard(&self) {
        self.input.keyboard.store(true, Ordering::Relaxed);
    }

    /// Whether somebody may type.
    pub fn has_keyboard(&self) -> bool {
        self.input.keyboard.load(Ordering::Relaxed)
    }

    /// Whether software takes what is typed.
    pub(crate) fn listens(&self) -> bool {
        lock(&self.pc).listens()
    }

    /// Waits until something is typed, the machine is stopped, or `limit` is over.
    pub(crate) fn wait_for_input(&self, limit: Option<Duration>) -> Waited {
        let start = Instant::now();
        let mut state = lock(&self.input.state);
        loop {
            let passed = start.elapsed();
            if std::mem::take(&mut state.typed) || self.stopped() {
                return Waited::Interrupted(passed);
            }
            state = match limit.map(|limit| limit.saturating_sub(passed)) {
                Some(Duration::ZERO) => return Waited::Wholly,
                Some(rest) => {
                    let waited = self.input.news.wait_timeout(state, rest);
                    waited.unwrap_or_else(|error| error.into_inner()).0
                }
                None => {
                    let waited = self.input.news.wait(state);
                    waited.unwrap_or_else(|error| error.into_inner())
                }
            };
        }
    }

    /// Ends waits for input, for the machine has stopped.
    pub(super) fn end_waits(&self) {
        drop(lock(&self.input.state));
        self.input.news.notify_all();
    }

    /// Lets a byte arrive if its time has come; gives when the next one's does.
    pub(super) fn deliver_input(
        &self,
        pc: &mut Pc,
        now: u64,
        effect: &mut dyn FnMut(Effect),
    ) -> Option<u64> {
        if !self.input.waiting.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = lock(&self.input.state);
        if !pc.listens() {
            state.arrival = None;
            return None;
        }
        let mut arrival = state.arrival.unwrap_or(now + pc.serial_byte_time());
        if arrival <= now && pc.receive_capacity() > 0 {
            if let Some(byte) = state.bytes.pop_front() {
                pc.receive(byte, now, effect);
            }
            self.input
                .waiting
                .store(!state.bytes.is_empty(), Ordering::Relaxed);
            arrival = now + pc.serial_byte_time();
        }
        state.arrival = Some(arrival);
        // Without room, software's next access moves it on.
        (arrival > now && !state.bytes.is_empty()).then_some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use crate::platform::Outcome;

    fn platform() -> Platform {
        Platform::new(
            Ram::new(1 << 20).unwrap(),
            Vec::new(),
            Pc::new(),
            Box::new(std::io::sink()),
        )
    }

    #[test]
    fn input_waits_for_a_listener_and_arrives_at_the_lines_rate() {
        let platform = platform();
        let next = || platform.next_device_event.load(Ordering::Relaxed);
        platform.type_in(b"ab");
        assert_eq!(next(), 0, "somebody must look");
        platform.advance_devices(1000);
        assert_eq!(platform.port_read(0, 0x3fd, 1, 1000) & 1, 0);
        assert!(!platform.listens());
        // 115200 baud, then the received-data interrupt is enabled.
        for (port, value) in [
            (0x3fb, 0x83),
            (0x3f8, 1),
            (0x3f9, 0),
            (0x3fb, 3),
            (0x3f9, 1),
        ] {
            platform.port_write(0, port, 1, value, 2000);
        }
        assert!(platform.listens());
        let byte_time = 1_000_000_000 * 10 / 115_200;
        assert_eq!(next(), 2000 + byte_time);
        platform.advance_devices(2000 + byte_time - 1);
        assert_eq!(platform.port_read(0, 0x3fd, 1, 2000) & 1, 0);
        platform.advance_devices(2000 + byte_time);
        // There is room for one byte without FIFOs: the second waits for the first to be read.
        platform.advance_devices(2000 + 9 * byte_time);
        assert_eq!(platform.input_waiting(), 1);
        let now = 2000 + 9 * byte_time;
        assert_eq!(platform.port_read(0, 0x3f8, 1, now), u32::from(b'a'));
        assert_eq!(platform.port_read(0, 0x3fd, 1, now) & 1, 1);
        assert_eq!(platform.port_read(0, 0x3f8, 1, now), u32::from(b'b'));
        assert_eq!(platform.port_read(0, 0x3fd, 1, now) & 2, 0, "no overrun");
    }

    #[test]
    fn a_wait_ends_by_what_is_typed_by_a_stop_and_by_its_limit() {
        let platform = platform();
        let limit = Some(Duration::from_millis(1));
        assert_eq!(platform.wait_for_input(limit), Waited::Wholly);
        platform.type_in(b"x");
        let waited = platform.wait_for_input(None);
        assert!(matches!(waited, Waited::Interrupted(_)), "typed before");
        // What was typed interrupts one wait, whether or not it was received.
        assert_eq!(platform.wait_for_input(limit), Waited::Wholly);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| platform.wait_for_input(None));
            platform.type_in(b"y");
            assert!(matches!(waiter.join().unwrap(), Waited::Interrupted(_)));
            let waiter = scope.spawn(|| platform.wait_for_input(None));
            platform.stop(Outcome::Stopped);
            assert!(matches!(waiter.join().unwrap(), Waited::Interrupted(_)));
        });
    }
}
