//! The 8254 programmable interval timer of a PC, with port 61H that gates channel 2.

mod channel;

use crate::{tick_time, ticks};
use channel::Channel;

/// Input clock in Hz.
pub const FREQUENCY: u32 = 1_193_182;
/// Port of channel 0; channels 1 and 2 follow.
pub const CHANNEL_0: u16 = 0x40;
/// Port of channel 2.
pub const CHANNEL_2: u16 = 0x42;
/// Port of the control word.
pub const CONTROL: u16 = 0x43;
/// System control port B: gate and speaker of channel 2.
pub const SYSTEM_CONTROL: u16 = 0x61;

const GATE_2: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;
const WRITABLE: u8 = 0x0f;
const REFRESH_TOGGLE: u8 = 1 << 4;
const OUT_2: u8 = 1 << 5;
/// DRAM was refreshed every 15.085 us on a PC/AT; the toggle follows it.
const REFRESH_PERIOD: u64 = 15_085;

/// A channel's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// OUT is low.
    Low,
    /// OUT is high.
    High,
}

/// What OUT0, wired to IRQ 0, did since it was last asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "rising edges are timer interrupts"]
pub struct OutputChange {
    /// How many times it rose.
    pub rising_edges: u64,
    /// Where it is now.
    pub output: Output,
}

/// The timer.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    system_control: u8,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// The timer after reset: nothing counts until software writes a mode and a count.
    pub const fn new() -> Self {
        Self {
            channels: [
                Channel::new(Output::High),
                Channel::new(Output::High),
                Channel::new(Output::Low),
            ],
            system_control: 0,
        }
    }

    /// Whether a port belongs to the timer.
    pub const fn claims(port: u16) -> bool {
        matches!(port, CHANNEL_0..=CONTROL | SYSTEM_CONTROL)
    }

    /// Reads a port at time `now`.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        let tick = ticks(now, FREQUENCY);
        if port == SYSTEM_CONTROL {
            let mut value = self.system_control;
            if !(now / REFRESH_PERIOD).is_multiple_of(2) {
                value |= REFRESH_TOGGLE;
            }
            let [_, _, channel] = &mut self.channels;
            channel.run_to(tick);
            if channel.output(tick) == Output::High {
                value |= OUT_2;
            }
            return value;
        }
        match self.channel(port) {
            Some(channel) => {
                channel.run_to(tick);
                channel.read(tick)
            }
            // 8254 table of read and write operations: reading the control word is no operation.
            None => 0xff,
        }
    }

    /// Writes a port at time `now`; call [`Self::advance`] and [`Self::next_event`] afterwards.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        let tick = ticks(now, FREQUENCY);
        for channel in &mut self.channels {
            channel.run_to(tick);
        }
        match port {
            CONTROL => self.write_control(value, tick),
            SYSTEM_CONTROL => {
                self.system_control = value & WRITABLE;
                let [_, _, channel] = &mut self.channels;
                channel.set_gate(
                    if value & GATE_2 != 0 {
                        Output::High
                    } else {
                        Output::Low
                    },
                    tick,
                );
            }
            _ => {
                if let Some(channel) = self.channel(port) {
                    channel.write(value, tick);
                }
            }
        }
    }

    /// Runs to time `now` and says what OUT0 did.
    pub fn advance(&mut self, now: u64) -> OutputChange {
        let tick = ticks(now, FREQUENCY);
        let [channel, _, _] = &mut self.channels;
        channel.run_to(tick);
        OutputChange {
            rising_edges: channel.take_rising_edges(),
            output: channel.output(tick),
        }
    }

    /// When OUT0 rises next, after `now`; `None` if it does not without another write.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        let [channel, _, _] = &self.channels;
        let tick = channel.next_rising_edge(ticks(now, FREQUENCY))?;
        Some(tick_time(tick, FREQUENCY))
    }

    /// The frequency in Hz that the speaker sounds, if it does.
    pub fn speaker(&self) -> Option<u32> {
        let [_, _, channel] = &self.channels;
        if self.system_control & (SPEAKER | GATE_2) != SPEAKER | GATE_2 {
            return None;
        }
        FREQUENCY.checked_div(channel.square_wave_period()?)
    }

    fn channel(&mut self, port: u16) -> Option<&mut Channel> {
        let index = port.checked_sub(CHANNEL_0)?;
        self.channels.get_mut(usize::from(index))
    }

    fn write_control(&mut self, value: u8, tick: u64) {
        let select = usize::from(value >> 6);
        if let Some(channel) = self.channels.get_mut(select) {
            channel.control(value, tick);
            return;
        }
        // 8254, "Read-back command": bits 3:1 select channels, bit 5 low latches the count, bit 4
        // low the status.
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & 2 << index == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(tick);
            }
            if value & 0x10 == 0 {
                channel.latch_status(tick);
            }
        }
    }
}

#[cfg(test)]
mod tests;
