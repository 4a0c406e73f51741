//! The fixed hardware of ACPI (ACPI 4.8): the PM1 event and control blocks and the PM timer.
//!
//! There is no power button and no SMI: the platform is always in ACPI mode.

use crate::{Line, tick_time, ticks};

/// Frequency of the PM timer in Hz (ACPI 4.8.3.3).
pub const TIMER_FREQUENCY: u32 = 3_579_545;
/// The SLP_TYP value that means S5 here; the DSDT's \_S5 says the same.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// The SLP_TYP value that means S3 where the platform has it; the DSDT's \_S3 says the same.
pub const SLEEP_TYPE_SUSPEND: u8 = 1;

/// Offset of PM1_STS (2 bytes) and PM1_EN (2 bytes), the event block, from the base port.
pub const EVENT_OFFSET: u16 = 0;
/// Length of the event block.
pub const EVENT_LENGTH: u8 = 4;
/// Offset of PM1_CNT (2 bytes).
pub const CONTROL_OFFSET: u16 = 4;
/// Length of the control block.
pub const CONTROL_LENGTH: u8 = 2;
/// Offset of PM_TMR (4 bytes).
pub const TIMER_OFFSET: u16 = 8;
/// Number of ports the block claims.
pub const PORTS: u16 = 12;

/// PM1_STS and PM1_EN bit 0, timer carry.
const TIMER: u16 = 1 << 0;
/// PM1_STS and PM1_EN bit 10: the real-time clock's alarm.
const CLOCK: u16 = 1 << 10;
/// PM1_STS bit 15: the system was waked.
const WAKE: u16 = 1 << 15;
/// Enable bits that exist: timer, global lock, power button, sleep button, RTC.
const ENABLES: u16 = 0x0721;

const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE: u16 = 7 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Bus-master reload is kept; global release and SLP_EN are write-only.
const CONTROL_KEPT: u16 = 1 << 1 | SLEEP_TYPE;

/// Width of the PM timer (FADT flag TMR_VAL_EXT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerWidth {
    /// 24 bits; the upper eight read as 0.
    Bits24,
    /// 32 bits.
    Bits32,
}

impl TimerWidth {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits24 => 24,
            Self::Bits32 => 32,
        }
    }
}

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "the platform acts on a power-off"]
pub enum PowerEffect {
    /// Nothing.
    None,
    /// S5: switch off.
    PowerOff,
    /// S3: everything but memory and what wakes the machine loses power.
    Suspend,
    /// A sleeping state that the platform does not have; it goes on.
    Sleep(u8),
}

/// The PM1a block and the PM timer.
#[derive(Clone, Debug)]
pub struct AcpiPower {
    width: TimerWidth,
    /// Whether there is S3.
    suspends: bool,
    /// The real-time clock's interrupt request.
    clock: Line,
    status: u16,
    enable: u16,
    control: u16,
    /// Value of the timer's most significant bit, counted from power-on, when last looked at.
    carries: u64,
}

impl AcpiPower {
    /// The block after reset.
    pub const fn new(width: TimerWidth) -> Self {
        Self {
            width,
            suspends: false,
            clock: Line::Deasserted,
            status: 0,
            enable: 0,
            control: SCI_ENABLE,
            carries: 0,
        }
    }

    /// The block of a platform that has S3.
    #[must_use]
    pub fn with_suspend(self) -> Self {
        Self {
            suspends: true,
            ..self
        }
    }

    /// The real-time clock drives its interrupt request (ACPI 4.8.3.1.1 RTC_STS).
    pub fn set_clock(&mut self, line: Line) {
        if line.is_asserted() && !self.clock.is_asserted() {
            self.status |= CLOCK;
        }
        self.clock = line;
    }

    /// Whether something that wakes the machine from S3 is enabled and has happened.
    pub const fn wakes(&self) -> bool {
        self.status & self.enable & CLOCK != 0
    }

    /// The machine wakes.
    pub fn wake(&mut self) {
        self.status |= WAKE;
    }

    /// The PM timer's value at `now`.
    pub const fn timer(&self, now: u64) -> u32 {
        let ticks = ticks(now, TIMER_FREQUENCY);
        match self.width {
            TimerWidth::Bits24 => ticks as u32 & 0x00ff_ffff,
            TimerWidth::Bits32 => ticks as u32,
        }
    }

    /// Reads `size` (1, 2 or 4) bytes at `offset` from the base port.
    pub fn read(&mut self, offset: u16, size: u8, now: u64) -> u32 {
        self.advance(now);
        let image = u128::from(self.status)
            | u128::from(self.enable) << 16
            | u128::from(self.control) << 32
            | u128::from(self.timer(now)) << 64;
        // Ports above the timer are not claimed.
        let image = image | !0_u128 << 96;
        let value = image
            .checked_shr(u32::from(offset).saturating_mul(8))
            .unwrap_or(u128::MAX);
        match size {
            1 => value as u32 & 0xff,
            2 => value as u32 & 0xffff,
            _ => value as u32,
        }
    }

    /// Writes `size` (1, 2 or 4) bytes at `offset` from the base port.
    pub fn write(&mut self, offset: u16, size: u8, value: u32, now: u64) -> PowerEffect {
        self.advance(now);
        let mut effect = PowerEffect::None;
        for index in 0..u16::from(size.min(4)) {
            let byte = u16::from((value >> (8 * index)) as u8);
            match offset.saturating_add(index) {
                // ACPI 4.8.3.1.1: status bits are cleared by writing ones.
                0 => self.status &= !byte,
                1 => self.status &= !(byte << 8),
                2 => self.enable = (self.enable & 0xff00 | byte) & ENABLES,
                3 => self.enable = (self.enable & 0x00ff | byte << 8) & ENABLES,
                4 => self.control = self.control & !0x00ff | byte & CONTROL_KEPT | SCI_ENABLE,
                5 => {
                    let high = byte << 8;
                    self.control = self.control & 0x00ff | high & CONTROL_KEPT;
                    if high & SLEEP_ENABLE != 0 {
                        effect = self.sleep();
                    }
                }
                // The timer is for reading.
                _ => {}
            }
        }
        effect
    }

    /// The system control interrupt, level-triggered.
    pub fn interrupt_line(&mut self, now: u64) -> Line {
        self.advance(now);
        Line::asserted_if(self.status & self.enable != 0)
    }

    /// When the timer's carry will next raise the SCI; `None` if it is not enabled or already has.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        if self.enable & TIMER == 0 || self.status & TIMER != 0 {
            return None;
        }
        let next = self.carries_at(now).saturating_add(1);
        Some(tick_time(
            next.saturating_mul(1 << (self.width.bits() - 1)),
            TIMER_FREQUENCY,
        ))
    }

    const fn carries_at(&self, now: u64) -> u64 {
        ticks(now, TIMER_FREQUENCY) >> (self.width.bits() - 1)
    }

    /// ACPI 4.8.3.1.1 TMR_STS: set whenever the most significant bit of the timer changes.
    fn advance(&mut self, now: u64) {
        let carries = self.carries_at(now);
        if carries != self.carries {
            self.carries = carries;
            self.status |= TIMER;
        }
    }

    fn sleep(&mut self) -> PowerEffect {
        let sleep_type = (self.control >> SLEEP_TYPE_SHIFT & 7) as u8;
        if sleep_type == SLEEP_TYPE_OFF {
            return PowerEffect::PowerOff;
        }
        if self.suspends && sleep_type == SLEEP_TYPE_SUSPEND {
            return PowerEffect::Suspend;
        }
        // ACPI 4.8.3.1.1 WAK_STS: software waits for it after setting SLP_EN.
        self.status |= WAKE;
        PowerEffect::Sleep(sleep_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_counts_at_3_579545_mhz_and_wraps() {
        let narrow = AcpiPower::new(TimerWidth::Bits24);
        let wide = AcpiPower::new(TimerWidth::Bits32);
        assert_eq!(wide.timer(1_000_000_000), 3_579_545);
        let wrap = tick_time(1 << 24, TIMER_FREQUENCY);
        assert_eq!(narrow.timer(wrap - 1), 0x00ff_ffff);
        assert_eq!(narrow.timer(wrap), 0);
        assert_eq!(wide.timer(wrap), 1 << 24);
        let _ = wide.timer(u64::MAX);
    }

    #[test]
    fn sleep_enable_with_type_5_switches_off() {
        for (write, expected) in [
            ((4, 2, 0x3400), PowerEffect::PowerOff),
            ((5, 1, 0x34), PowerEffect::PowerOff),
            ((4, 2, 0x1400), PowerEffect::None),
            ((4, 2, 0x2400), PowerEffect::Sleep(1)),
            ((0, 4, 0x3400_3400), PowerEffect::None),
        ] {
            let mut power = AcpiPower::new(TimerWidth::Bits32);
            let (offset, size, value) = write;
            assert_eq!(power.write(offset, size, value, 0), expected, "{write:x?}");
        }
        let mut power = AcpiPower::new(TimerWidth::Bits32);
        assert_eq!(power.write(4, 2, 0x2400, 0), PowerEffect::Sleep(1));
        assert_eq!(power.read(0, 2, 0) as u16 & WAKE, WAKE);
        // SLP_EN reads as 0 and SCI_EN as 1.
        assert_eq!(power.read(4, 2, 0), 0x0401);
    }

    #[test]
    fn the_carry_raises_the_interrupt_until_cleared() {
        let mut power = AcpiPower::new(TimerWidth::Bits24);
        assert_eq!(power.next_event(0), None);
        assert_eq!(power.write(2, 2, 0xffff, 0), PowerEffect::None);
        assert_eq!(power.read(2, 2, 0), u32::from(ENABLES));
        let carry = power.next_event(0).unwrap();
        assert_eq!(carry, tick_time(1 << 23, TIMER_FREQUENCY));
        assert_eq!(power.interrupt_line(carry - 1), Line::Deasserted);
        assert_eq!(power.interrupt_line(carry), Line::Asserted);
        assert_eq!(power.next_event(carry), None);
        assert_eq!(power.write(0, 2, 1, carry), PowerEffect::None);
        assert_eq!(power.interrupt_line(carry), Line::Deasserted);
        assert!(power.next_event(carry).unwrap() > carry);
    }

    #[test]
    fn any_access_is_answered() {
        let mut power = AcpiPower::new(TimerWidth::Bits32);
        for offset in [0, 1, 3, 7, 9, 11, 12, 20, u16::MAX] {
            for size in [0, 1, 2, 4, 255] {
                let _ = power.read(offset, size, 5);
                let _ = power.write(offset, size, 0, 5);
            }
        }
        assert_eq!(power.read(12, 4, 0), 0xffff_ffff);
    }

    #[test]
    fn the_clock_wakes_where_it_is_enabled_to() {
        let mut power = AcpiPower::new(TimerWidth::Bits32).with_suspend();
        assert_eq!(power.write(4, 2, 0x2400, 0), PowerEffect::Suspend);
        power.set_clock(Line::Asserted);
        assert!(!power.wakes());
        assert_eq!(power.write(2, 2, 0x400, 0), PowerEffect::None);
        assert!(power.wakes());
        assert!(power.interrupt_line(0).is_asserted());
        power.wake();
        assert_eq!(power.read(0, 2, 0), 0x8400);
        // Cleared by software, the status is set by the next alarm only.
        assert_eq!(power.write(0, 2, 0x8400, 0), PowerEffect::None);
        power.set_clock(Line::Asserted);
        assert!(!power.wakes());
    }

    /// ACPI 4.8.3.1.1 RTC_STS, 4.8.3.1.2 RTC_EN: it also ends software's own idling, without S3.
    #[test]
    fn the_clock_raises_the_interrupt_where_it_is_enabled_to() {
        let mut power = AcpiPower::new(TimerWidth::Bits32);
        assert_eq!(power.write(2, 2, 0x400, 0), PowerEffect::None);
        assert!(!power.interrupt_line(0).is_asserted());
        power.set_clock(Line::Asserted);
        assert_eq!(power.read(0, 2, 0), 0x400);
        assert!(power.interrupt_line(0).is_asserted());
        power.set_clock(Line::Deasserted);
        assert!(power.interrupt_line(0).is_asserted(), "until it is cleared");
        assert_eq!(power.write(0, 2, 0x400, 0), PowerEffect::None);
        assert!(!power.interrupt_line(0).is_asserted());
    }
}
