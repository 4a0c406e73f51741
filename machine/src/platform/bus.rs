//! Ports and memory-mapped devices.

use std::sync::atomic::Ordering;

use devices::pc::{Effect, Pc, io_apic_offset};
use devices::reset_control::ResetEffect;

use super::{Outcome, Platform, lock};

impl Platform {
    /// Reads `size` (1, 2 or 4) bytes at a port, for processor `from` at time `now`.
    pub fn port_read(&self, from: usize, port: u16, size: u8, now: u64) -> u32 {
        self.with_devices(from, now, |pc, effect| {
            pc.port_read(port, size, now, effect)
        })
    }

    /// Writes `size` (1, 2 or 4) bytes to a port.
    pub fn port_write(&self, from: usize, port: u16, size: u8, value: u32, now: u64) {
        self.with_devices(from, now, |pc, effect| {
            pc.port_write(port, size, value, now, effect);
        });
    }

    /// Reads 32 bits of a memory-mapped device; where nothing answers the bus reads as ones.
    pub fn device_read(&self, physical: u64) -> u32 {
        match io_apic_offset(physical & !3) {
            Some(offset) => lock(&self.pc).io_apic_read(offset),
            None => self.test_memory.read(physical).unwrap_or(u32::MAX),
        }
    }

    /// Writes 32 bits of a memory-mapped device.
    pub fn device_write(&self, from: usize, physical: u64, value: u32, now: u64) {
        if let Some(offset) = io_apic_offset(physical & !3) {
            self.with_devices(from, now, |pc, effect| {
                pc.io_apic_write(offset, value, effect)
            });
        } else {
            self.test_memory.write(physical, value);
        }
    }

    /// A local APIC broadcast the end of a level-triggered interrupt.
    pub fn end_of_interrupt(&self, from: usize, vector: u8, now: u64) {
        self.with_devices(from, now, |pc, effect| pc.end_of_interrupt(vector, effect));
    }

    /// A processor acknowledges the 8259: gives the vector.
    pub fn acknowledge_external_interrupt(&self, from: usize, now: u64) -> u8 {
        self.with_devices(from, now, |pc, effect| {
            pc.acknowledge_external_interrupt(effect)
        })
    }

    /// Bytes for the first serial port. They wait until software listens there and then arrive at the
    /// line's rate, as far as there is room. The processors' own accesses and the devices' events move
    /// them on, so that a run with the same input from its start is the same run.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut input = lock(&self.input);
        input.bytes.extend(bytes);
        self.has_input
            .store(!input.bytes.is_empty(), Ordering::Relaxed);
        drop(input);
        // Somebody may wait for this and do nothing else.
        self.next_device_event.store(0, Ordering::Relaxed);
    }

    /// Lets a byte arrive if its time has come; gives when the next one's does.
    fn deliver_input(&self, pc: &mut Pc, now: u64, effect: &mut dyn FnMut(Effect)) -> Option<u64> {
        let mut input = lock(&self.input);
        if !pc.listens() {
            input.arrival = None;
            return None;
        }
        let mut arrival = input.arrival.unwrap_or(now + pc.serial_byte_time());
        if arrival <= now && pc.receive_capacity() > 0 {
            if let Some(byte) = input.bytes.pop_front() {
                pc.receive(byte, now, effect);
            }
            self.has_input
                .store(!input.bytes.is_empty(), Ordering::Relaxed);
            arrival = now + pc.serial_byte_time();
        }
        input.arrival = Some(arrival);
        // Without room, software's next access moves it on.
        (arrival > now && !input.bytes.is_empty()).then_some(arrival)
    }

    /// Runs the devices to time `now`.
    pub fn advance_devices(&self, now: u64) {
        self.with_devices(0, now, |pc, effect| pc.advance(now, effect));
    }

    /// Uses the devices and carries out what they ask for.
    fn with_devices<R>(
        &self,
        from: usize,
        now: u64,
        access: impl FnOnce(&mut Pc, &mut dyn FnMut(Effect)) -> R,
    ) -> R {
        // Effects are few; most accesses have none, and the list then allocates nothing.
        let mut effects = Vec::new();
        let result = {
            let mut pc = lock(&self.pc);
            let result = access(&mut pc, &mut |effect| effects.push(effect));
            let mut arrival = None;
            if self.has_input.load(Ordering::Relaxed) {
                arrival = self.deliver_input(&mut pc, now, &mut |effect| effects.push(effect));
            }
            let next = pc.next_event(now).into_iter().chain(arrival).min();
            let next = next.unwrap_or(u64::MAX);
            self.next_device_event.store(next, Ordering::Relaxed);
            result
        };
        for effect in effects {
            self.carry_out(from, effect);
        }
        result
    }

    fn carry_out(&self, from: usize, effect: Effect) {
        match effect {
            Effect::Message(message) => self.send_message(message),
            Effect::ExternalInterrupt(line) => {
                // INTR is wired to LINT0 of the bootstrap processor.
                if let Some(inbox) = self.inboxes.first() {
                    inbox.mailbox.set_external_interrupt(line.is_asserted());
                    self.wake(0);
                }
            }
            Effect::Console(byte) => {
                let mut console = lock(&self.console);
                let written = console.write_all(&[byte]);
                let flushed = if byte == b'\n' {
                    console.flush()
                } else {
                    Ok(())
                };
                drop(console);
                if written.and(flushed).is_err() {
                    self.stop(Outcome::ConsoleFailed);
                }
            }
            Effect::PowerOff => self.stop(Outcome::PowerOff),
            Effect::Reset(ResetEffect::None) => {}
            Effect::Reset(ResetEffect::Soft | ResetEffect::Hard) => self.stop(Outcome::Reset),
            Effect::Exit(status) => self.stop(Outcome::Exit(status)),
            Effect::Mark(mark) => {
                if let Some(number) = self.make_mark(from, mark)
                    && let Some(inbox) = self.inboxes.get(from)
                {
                    lock(&inbox.notices).push(super::Notice::Mark(number));
                    self.wake(from);
                }
            }
        }
    }

    /// Writes what the console still buffers.
    pub fn flush_console(&self) {
        if lock(&self.console).flush().is_err() {
            self.stop(Outcome::ConsoleFailed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;

    #[test]
    fn input_waits_for_a_listener_and_arrives_at_the_lines_rate() {
        let platform = Platform::new(
            Ram::new(1 << 20).unwrap(),
            Vec::new(),
            Pc::new(),
            Box::new(std::io::sink()),
        );
        let next = || platform.next_device_event.load(Ordering::Relaxed);
        platform.type_in(b"ab");
        assert_eq!(next(), 0, "somebody must look");
        platform.advance_devices(1000);
        assert_eq!(platform.port_read(0, 0x3fd, 1, 1000) & 1, 0);
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
        let byte_time = 1_000_000_000 * 10 / 115_200;
        assert_eq!(next(), 2000 + byte_time);
        platform.advance_devices(2000 + byte_time - 1);
        assert_eq!(platform.port_read(0, 0x3fd, 1, 2000) & 1, 0);
        platform.advance_devices(2000 + byte_time);
        // There is room for one byte without FIFOs: the second waits for the first to be read.
        platform.advance_devices(2000 + 9 * byte_time);
        let now = 2000 + 9 * byte_time;
        assert_eq!(platform.port_read(0, 0x3f8, 1, now), u32::from(b'a'));
        assert_eq!(platform.port_read(0, 0x3fd, 1, now) & 1, 1);
        assert_eq!(platform.port_read(0, 0x3f8, 1, now), u32::from(b'b'));
        assert_eq!(platform.port_read(0, 0x3fd, 1, now) & 2, 0, "no overrun");
    }
}
