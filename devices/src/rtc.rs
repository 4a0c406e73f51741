//! The real-time clock and CMOS memory of a PC (MC146818A), ports 70H and 71H; its interrupt is
//! IRQ 8.
//!
//! Seconds count from the date and time given by configuration at power-on, so that a run does not
//! depend on the host's clock.

use crate::rtc_calendar::DateTime;
use crate::{Line, SECOND, tick_time, ticks};

/// Index port; bit 7 masks NMI on a PC and is ignored here.
pub const INDEX: u16 = 0x70;
/// Data port.
pub const DATA: u16 = 0x71;

/// The time base in Hz.
const FREQUENCY: u32 = 32_768;
const MEMORY_SIZE: usize = 128;

const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// Where PC firmware keeps the century; the FADT names it.
pub const CENTURY: u8 = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
const A_DIVIDER: u8 = 7 << 4;
/// Divider chain held in reset (MC146818A table 4): 110b and 111b.
const A_DIVIDER_RESET: u8 = 6 << 4;
const A_RATE: u8 = 15;

const B_SET: u8 = 1 << 7;
const B_PERIODIC: u8 = 1 << 6;
const B_ALARM: u8 = 1 << 5;
const B_UPDATE_ENDED: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const INTERRUPTS: u8 = B_PERIODIC | B_ALARM | B_UPDATE_ENDED;

/// Register C: the request flag; the three causes are in the positions of their enables.
const C_REQUEST: u8 = 1 << 7;
/// Register D: time and memory are valid.
const D_VALID: u8 = 1 << 7;

/// MC146818A table 5: UIP rises 244 us before the update begins, which takes 1984 us at 32.768 kHz.
const UPDATE: u64 = 244_000 + 1_984_000;
/// MC146818A, "Divider control": the first update comes half a second after the reset is lifted.
const AFTER_DIVIDER_RESET: u64 = SECOND / 2;

/// The clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    index: u8,
    a: u8,
    b: u8,
    /// Causes that have occurred since register C was read.
    flags: u8,
    date_time: DateTime,
    day_of_week: u8,
    /// Alarm second, minute and hour as written.
    alarm: [u8; 3],
    memory: [u8; MEMORY_SIZE],
    /// When the next second is counted.
    next_update: u64,
    /// Ticks of the time base that have been looked at.
    seen_ticks: u64,
}

impl Rtc {
    /// A clock that shows `start` at time 0, in binary-coded decimal and 24 hours, as PC firmware
    /// leaves it.
    pub fn new(start: DateTime) -> Self {
        let start = start.plus_seconds(0);
        Self {
            index: REGISTER_D,
            a: 0x26,
            b: B_24_HOURS,
            flags: 0,
            date_time: start,
            day_of_week: start.day_of_week(),
            alarm: [0; 3],
            memory: [0; MEMORY_SIZE],
            next_update: SECOND,
            seen_ticks: 0,
        }
    }

    /// Whether a port belongs to the clock.
    pub const fn claims(port: u16) -> bool {
        matches!(port, INDEX | DATA)
    }

    /// The date and time shown at `now`.
    pub fn date_time(&mut self, now: u64) -> DateTime {
        self.advance(now);
        self.date_time
    }

    /// Reads a port; ask [`Self::interrupt_line`] again afterwards.
    pub fn read(&mut self, port: u16, now: u64) -> u8 {
        self.advance(now);
        if port != DATA {
            // The index port cannot be read back.
            return 0xff;
        }
        let time = self.date_time;
        match self.index {
            0 => self.encode(time.second),
            2 => self.encode(time.minute),
            4 => self.encode_hour(time.hour),
            6 => self.encode(self.day_of_week),
            7 => self.encode(time.day),
            8 => self.encode(time.month),
            9 => self.encode((time.year % 100) as u8),
            CENTURY => self.encode((time.year / 100) as u8),
            1 => self.alarm[0],
            3 => self.alarm[1],
            5 => self.alarm[2],
            REGISTER_A => self.a | self.update_in_progress(now),
            REGISTER_B => self.b,
            REGISTER_C => {
                let value = self.flags | if self.requests() { C_REQUEST } else { 0 };
                // MC146818A, "Register C": all flags are cleared when it is read.
                self.flags = 0;
                value
            }
            REGISTER_D => D_VALID,
            index => self.memory.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    /// Writes a port; ask [`Self::interrupt_line`] and [`Self::next_event`] again afterwards.
    pub fn write(&mut self, port: u16, value: u8, now: u64) {
        self.advance(now);
        match port {
            INDEX => self.index = value & 0x7f,
            DATA => self.write_register(value, now),
            _ => {}
        }
    }

    /// The interrupt request, held until register C is read.
    pub fn interrupt_line(&mut self, now: u64) -> Line {
        self.advance(now);
        Line::asserted_if(self.requests())
    }

    /// When the interrupt request may next rise; `None` when nothing that could raise it is enabled
    /// or it is up already. For the alarm this is each next second.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        if self.requests() || self.divider_held() {
            return None;
        }
        let periodic = self.period().filter(|_| self.b & B_PERIODIC != 0);
        let periodic = periodic.map(|period| {
            let tick = (ticks(now, FREQUENCY) / period).saturating_add(1);
            tick_time(tick.saturating_mul(period), FREQUENCY)
        });
        let counts = self.b & B_SET == 0 && self.b & (B_ALARM | B_UPDATE_ENDED) != 0;
        let update = counts.then(|| {
            if self.next_update > now {
                return self.next_update;
            }
            let late = now - self.next_update;
            now.saturating_add(SECOND - late % SECOND)
        });
        periodic.into_iter().chain(update).min()
    }

    fn requests(&self) -> bool {
        self.flags & self.b & INTERRUPTS != 0
    }

    fn divider_held(&self) -> bool {
        self.a & A_DIVIDER >= A_DIVIDER_RESET
    }

    /// Ticks of the time base in a period of the periodic interrupt (MC146818A table 6); rates 1
    /// and 2 are those of 8 and 9 at this time base.
    fn period(&self) -> Option<u64> {
        match self.a & A_RATE {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn update_in_progress(&self, now: u64) -> u8 {
        // MC146818A, "UIP": SET inhibits updates and clears it.
        let running = self.b & B_SET == 0 && !self.divider_held();
        if running && now.saturating_add(UPDATE) >= self.next_update {
            A_UPDATE_IN_PROGRESS
        } else {
            0
        }
    }

    fn advance(&mut self, now: u64) {
        let ticks = ticks(now, FREQUENCY);
        if self.divider_held() {
            self.seen_ticks = ticks;
            return;
        }
        if let Some(period) = self.period()
            && ticks / period > self.seen_ticks / period
        {
            self.flags |= B_PERIODIC;
        }
        self.seen_ticks = self.seen_ticks.max(ticks);
        if now < self.next_update {
            return;
        }
        let seconds = (now - self.next_update) / SECOND + 1;
        self.next_update = self
            .next_update
            .saturating_add(seconds.saturating_mul(SECOND));
        if self.b & B_SET == 0 {
            self.count(seconds);
        }
    }

    /// Counts seconds: the update cycles that have ended.
    fn count(&mut self, seconds: u64) {
        // The alarm repeats daily, so a day of seconds decides; usually there is just one.
        if self.flags & B_ALARM == 0 {
            let first = self.date_time.plus_seconds(1);
            let mut second_of_day = u32::from(first.hour) * 3600
                + u32::from(first.minute) * 60
                + u32::from(first.second);
            for _ in 0..seconds.min(86_400) {
                if self.alarm_matches(second_of_day) {
                    self.flags |= B_ALARM;
                    break;
                }
                second_of_day = (second_of_day + 1) % 86_400;
            }
        }
        let before = self.date_time;
        self.date_time = before.plus_seconds(seconds);
        // The day of the week is a counter of its own: software may have set it to anything.
        let midnights = u64::from(before.hour)
            .saturating_mul(3600)
            .saturating_add(u64::from(before.minute) * 60 + u64::from(before.second))
            .saturating_add(seconds)
            / 86_400;
        let day = u64::from(self.day_of_week.clamp(1, 7)) - 1;
        self.day_of_week = ((day + midnights % 7) % 7) as u8 + 1;
        self.flags |= B_UPDATE_ENDED;
    }

    /// MC146818A, "Time, calendar and alarm": C0H-FFH in an alarm byte matches anything.
    fn alarm_matches(&self, second_of_day: u32) -> bool {
        let [second, minute, hour] = self.alarm;
        let matches = |alarm: u8, shown: u8| alarm >= 0xc0 || alarm == shown;
        matches(second, self.encode((second_of_day % 60) as u8))
            && matches(minute, self.encode((second_of_day / 60 % 60) as u8))
            && matches(hour, self.encode_hour((second_of_day / 3600) as u8))
    }

    fn write_register(&mut self, value: u8, now: u64) {
        let number = self.decode(value);
        match self.index {
            0 => self.date_time.second = number,
            2 => self.date_time.minute = number,
            4 => self.date_time.hour = self.decode_hour(value),
            6 => self.day_of_week = number,
            7 => self.date_time.day = number,
            8 => self.date_time.month = number,
            9 => {
                self.date_time.year = self.date_time.year / 100 * 100 + u16::from(number % 100);
            }
            CENTURY => {
                self.date_time.year = u16::from(number % 100) * 100 + self.date_time.year % 100;
            }
            1 => self.alarm[0] = value,
            3 => self.alarm[1] = value,
            5 => self.alarm[2] = value,
            REGISTER_A => {
                let held = self.divider_held();
                self.a = value & !A_UPDATE_IN_PROGRESS;
                if held && !self.divider_held() {
                    self.next_update = now.saturating_add(AFTER_DIVIDER_RESET);
                }
            }
            REGISTER_B => {
                self.b = value;
                // MC146818A, "SET": when it is set, UIE is cleared.
                if value & B_SET != 0 {
                    self.b &= !B_UPDATE_ENDED;
                }
            }
            REGISTER_C | REGISTER_D => {}
            index => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 15)
        }
    }

    /// In 12-hour mode midnight is 12 AM, and bit 7 means PM.
    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let shown = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        self.encode(shown) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let afternoon = if value & 0x80 != 0 { 12 } else { 0 };
        self.decode(value & 0x7f) % 12 + afternoon
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Line::{Asserted, Deasserted};

    const START: DateTime = DateTime {
        year: 2024,
        month: 2,
        day: 28,
        hour: 23,
        minute: 59,
        second: 58,
    };

    fn get(rtc: &mut Rtc, index: u8, now: u64) -> u8 {
        rtc.write(INDEX, index, now);
        rtc.read(DATA, now)
    }

    fn set(rtc: &mut Rtc, index: u8, value: u8, now: u64) {
        rtc.write(INDEX, index, now);
        rtc.write(DATA, value, now);
    }

    fn shown(rtc: &mut Rtc, now: u64) -> [u8; 8] {
        [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|index| get(rtc, index, now))
    }

    #[test]
    fn time_is_shown_in_every_format() {
        let mut rtc = Rtc::new(START);
        assert_eq!(
            shown(&mut rtc, 0),
            [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58]
        );
        set(&mut rtc, REGISTER_B, B_BINARY, 0);
        assert_eq!(shown(&mut rtc, 0), [20, 24, 2, 28, 4, 0x80 | 11, 59, 58]);
        // Two seconds later it is 12 AM of the leap day.
        assert_eq!(shown(&mut rtc, 2 * SECOND), [20, 24, 2, 29, 5, 12, 0, 0]);
        assert_eq!(rtc.read(INDEX, 0), 0xff);
        assert_eq!(get(&mut rtc, REGISTER_D, 0), 0x80);
    }

    #[test]
    fn writes_set_the_time() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, REGISTER_B, B_SET, 0);
        for (index, value) in [
            (CENTURY, 0x19),
            (9, 0x99),
            (8, 0x12),
            (7, 0x31),
            (6, 6),
            (4, 0x91),
            (2, 0x30),
            (0, 0x15),
        ] {
            set(&mut rtc, index, value, 0);
        }
        // Nothing counts while SET is set.
        assert_eq!(get(&mut rtc, 0, 10 * SECOND), 0x15);
        set(&mut rtc, REGISTER_B, B_24_HOURS, 10 * SECOND);
        assert_eq!(
            shown(&mut rtc, 11 * SECOND),
            [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x30, 0x16]
        );
    }

    #[test]
    fn update_in_progress_precedes_each_second() {
        let mut rtc = Rtc::new(START);
        let uip = |rtc: &mut Rtc, now| get(rtc, REGISTER_A, now) & A_UPDATE_IN_PROGRESS != 0;
        assert!(!uip(&mut rtc, SECOND - UPDATE - 1));
        assert!(uip(&mut rtc, SECOND - UPDATE));
        assert!(uip(&mut rtc, SECOND - 1));
        assert!(!uip(&mut rtc, SECOND));
        set(&mut rtc, REGISTER_B, B_SET, SECOND);
        assert!(!uip(&mut rtc, 2 * SECOND - 1));
    }

    #[test]
    fn update_ended_interrupt() {
        let mut rtc = Rtc::new(START);
        assert_eq!(rtc.next_event(0), None);
        set(&mut rtc, REGISTER_B, B_24_HOURS | B_UPDATE_ENDED, 5);
        assert_eq!(rtc.next_event(5), Some(SECOND));
        assert_eq!(rtc.interrupt_line(SECOND - 1), Deasserted);
        assert_eq!(rtc.interrupt_line(SECOND), Asserted);
        assert_eq!(rtc.next_event(SECOND), None);
        // The periodic flag (40H) is set whether enabled or not.
        assert_eq!(get(&mut rtc, REGISTER_C, SECOND), 0xd0);
        assert_eq!(rtc.interrupt_line(SECOND), Deasserted);
        assert_eq!(rtc.next_event(SECOND), Some(2 * SECOND));
        set(&mut rtc, REGISTER_B, B_SET | B_UPDATE_ENDED, SECOND);
        assert_eq!(get(&mut rtc, REGISTER_B, SECOND), B_SET);
    }

    #[test]
    fn alarm_matches_the_time_or_anything() {
        for (alarm, seconds) in [
            ([0x00, 0x00, 0x00], 2),
            ([0x03, 0xff, 0xc0], 5),
            ([0xff, 0xff, 0xff], 1),
        ] {
            let mut rtc = Rtc::new(START);
            for (index, value) in [1, 3, 5].into_iter().zip(alarm) {
                set(&mut rtc, index, value, 0);
            }
            set(&mut rtc, REGISTER_B, B_24_HOURS | B_ALARM, 0);
            assert_eq!(rtc.interrupt_line(seconds * SECOND - 1), Deasserted);
            // A jump far past it finds it as well.
            assert_eq!(rtc.clone().interrupt_line(90_000 * SECOND), Asserted);
            assert_eq!(rtc.interrupt_line(seconds * SECOND), Asserted);
        }
        let mut rtc = Rtc::new(START);
        set(&mut rtc, 1, 0x7f, 0);
        set(&mut rtc, REGISTER_B, B_24_HOURS | B_ALARM, 0);
        assert_eq!(rtc.interrupt_line(200_000 * SECOND), Deasserted);
    }

    #[test]
    fn periodic_interrupt_at_1024_hz() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, REGISTER_B, B_24_HOURS | B_PERIODIC, 0);
        let mut now = 0;
        for count in 1..=1024_u64 {
            now = rtc.next_event(now).unwrap();
            assert_eq!(now, tick_time(32 * count, FREQUENCY));
            assert_eq!(rtc.interrupt_line(now - 1), Deasserted);
            assert_eq!(rtc.interrupt_line(now), Asserted);
            assert_eq!(get(&mut rtc, REGISTER_C, now) & 0xc0, 0xc0);
        }
        assert_eq!(now, SECOND);
        for (rate, hertz) in [(1, 256), (2, 128), (3, 8192), (15, 2)] {
            set(&mut rtc, REGISTER_A, 0x20 | rate, SECOND);
            assert_eq!(
                rtc.next_event(SECOND),
                Some(tick_time(32768 + 32768 / hertz, 32768))
            );
        }
        set(&mut rtc, REGISTER_A, 0x20, SECOND);
        assert_eq!(rtc.next_event(SECOND), None);
    }

    #[test]
    fn divider_reset_holds_the_time() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, REGISTER_A, 0x76, 0);
        assert_eq!(get(&mut rtc, 0, 100 * SECOND), 0x58);
        set(&mut rtc, REGISTER_A, 0x26, 100 * SECOND);
        assert_eq!(get(&mut rtc, 0, 100 * SECOND + SECOND / 2 - 1), 0x58);
        assert_eq!(get(&mut rtc, 0, 100 * SECOND + SECOND / 2), 0x59);
    }

    #[test]
    fn any_access_at_any_time_is_survived() {
        let mut rtc = Rtc::new(START);
        let mut state = 1_u64;
        let mut now = 0_u64;
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let index = (state >> 40) as u8 & 0x8f;
            set(&mut rtc, index, (state >> 56) as u8, now);
            now = now.saturating_add(state >> 24 & 0x3fff_ffff);
            get(&mut rtc, index, now);
            if let Some(next) = rtc.next_event(now) {
                assert!(next > now);
            }
        }
        let _ = rtc.interrupt_line(u64::MAX);
        let _ = rtc.next_event(u64::MAX);
    }

    #[test]
    fn memory_is_kept() {
        let mut rtc = Rtc::new(START);
        set(&mut rtc, 0x40, 0xa5, 0);
        assert_eq!(get(&mut rtc, 0xc0, SECOND), 0xa5);
    }
}
