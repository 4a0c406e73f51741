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
            None => lock(&self.test_memory).read(physical).unwrap_or(u32::MAX),
        }
    }

    /// Writes 32 bits of a memory-mapped device.
    pub fn device_write(&self, from: usize, physical: u64, value: u32, now: u64) {
        if let Some(offset) = io_apic_offset(physical & !3) {
            self.with_devices(from, now, |pc, effect| {
                pc.io_apic_write(offset, value, effect)
            });
        } else {
            lock(&self.test_memory).write(physical, value);
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
            let arrival = self.deliver_input(&mut pc, now, &mut |effect| effects.push(effect));
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
                    inbox.mailbox.set_external_line(line.is_asserted());
                    self.note_posted();
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
            Effect::Suspend => self.tell_all(super::Notice::Suspend),
            Effect::Wake => self.wake_up(),
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
