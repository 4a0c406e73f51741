//! One channel of the 8254: its six modes as functions of the clocks that have passed.

use super::Output;

/// How a count is accessed (control word bits 5:4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

impl Access {
    const fn bits(self) -> u8 {
        match self {
            Self::Low => 1,
            Self::High => 2,
            Self::LowThenHigh => 3,
        }
    }
}

/// Control word bits 3:1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    InterruptOnTerminalCount,
    OneShot,
    RateGenerator,
    SquareWave,
    SoftwareStrobe,
    HardwareStrobe,
}

impl Mode {
    const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::InterruptOnTerminalCount => 0,
            Self::OneShot => 1,
            Self::RateGenerator => 2,
            Self::SquareWave => 3,
            Self::SoftwareStrobe => 4,
            Self::HardwareStrobe => 5,
        }
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Whether only a rising gate starts the count.
    const fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// A count in the counting element.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Clock at which `elapsed` is `base`.
    start: u64,
    base: u64,
    /// The gate holds the count at `base`.
    held: bool,
    /// Initial count, 1..=65536.
    period: u64,
    /// A count that takes over at the end of the cycle.
    next_period: Option<u64>,
}

impl Run {
    const fn elapsed(&self, tick: u64) -> u64 {
        if self.held {
            self.base
        } else {
            self.base.saturating_add(tick.saturating_sub(self.start))
        }
    }

    /// The clock at which `elapsed` will be `value`.
    const fn clock_of(&self, value: u64) -> u64 {
        self.start.saturating_add(value.saturating_sub(self.base))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    mode: Mode,
    access: Access,
    decimal: bool,
    gate: Output,
    /// The count register; `None` until one is written after the control word.
    reload: Option<u64>,
    /// Written and not yet loaded (8254, "Null count").
    waits_for_trigger: bool,
    low_byte: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    run: Option<Run>,
    /// Clock up to which rising edges are counted.
    counted_to: u64,
    rising_edges: u64,
}

impl Channel {
    pub(super) const fn new(gate: Output) -> Self {
        Self {
            mode: Mode::SquareWave,
            access: Access::LowThenHigh,
            decimal: false,
            gate,
            reload: None,
            waits_for_trigger: false,
            low_byte: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
            run: None,
            counted_to: 0,
            rising_edges: 0,
        }
    }

    /// Counts the rising edges up to `tick` and lets a waiting count take over.
    pub(super) fn run_to(&mut self, tick: u64) {
        let from = self.counted_to;
        self.counted_to = self.counted_to.max(tick);
        let Some(mut run) = self.run else { return };
        if run.held {
            return;
        }
        let mut from = run.elapsed(from);
        let mut to = run.elapsed(tick);
        if let (Some(period), Some((end, base))) = (run.next_period, self.end_of_cycle(&run, from))
            && end <= to
        {
            self.rising_edges = self
                .rising_edges
                .saturating_add(self.edges(from, end, run.period));
            run = Run {
                start: run.clock_of(end),
                base,
                held: false,
                period,
                next_period: None,
            };
            from = base;
            to = run.elapsed(tick);
        }
        self.rising_edges = self
            .rising_edges
            .saturating_add(self.edges(from, to, run.period));
        self.run = Some(run);
    }

    /// The elapsed clocks at which the cycle that `from` is in ends, and the elapsed clocks in the
    /// new count's terms at that moment. 8254, modes 2 and 3: a new count is loaded at the end of
    /// the current counting cycle, or of the current half-cycle of the square wave.
    fn end_of_cycle(&self, run: &Run, from: u64) -> Option<(u64, u64)> {
        let next = run.next_period?;
        let start = from / run.period * run.period;
        let half = run.period.div_ceil(2);
        Some(
            if self.mode == Mode::SquareWave && from - start < half && half < run.period {
                (start.saturating_add(half), next.div_ceil(2))
            } else {
                (start.saturating_add(run.period), 0)
            },
        )
    }

    /// How often OUT rises while the elapsed clocks go from `from` (exclusive) to `to`.
    fn edges(&self, from: u64, to: u64, period: u64) -> u64 {
        let once = |at: u64| u64::from(from < at && at <= to);
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => once(period),
            Mode::RateGenerator | Mode::SquareWave => (to / period).saturating_sub(from / period),
            // The strobe is low for one clock.
            Mode::SoftwareStrobe | Mode::HardwareStrobe => once(period + 1),
        }
    }

    pub(super) fn next_rising_edge(&self, tick: u64) -> Option<u64> {
        let run = self.run.filter(|run| !run.held)?;
        let elapsed = run.elapsed(tick);
        let mut run = run;
        let mut from = elapsed;
        if let (Some(period), Some((end, base))) =
            (run.next_period, self.end_of_cycle(&run, elapsed))
        {
            if base == 0 || end <= elapsed {
                return Some(run.clock_of(end));
            }
            run = Run {
                start: run.clock_of(end),
                base,
                held: false,
                period,
                next_period: None,
            };
            from = base;
        }
        let at = match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => run.period,
            Mode::RateGenerator | Mode::SquareWave => (from / run.period)
                .saturating_add(1)
                .saturating_mul(run.period),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => run.period + 1,
        };
        (from < at).then(|| run.clock_of(at))
    }

    pub(super) fn take_rising_edges(&mut self) -> u64 {
        core::mem::take(&mut self.rising_edges)
    }

    pub(super) fn output(&self, tick: u64) -> Output {
        let Some(run) = self.run else {
            // 8254: the control word sets OUT low in mode 0 and high in the others.
            return if self.mode == Mode::InterruptOnTerminalCount {
                Output::Low
            } else {
                Output::High
            };
        };
        let elapsed = run.elapsed(tick);
        let low = match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => elapsed < run.period,
            // 8254, modes 2 and 3: a low gate sets OUT high.
            Mode::RateGenerator => !run.held && elapsed % run.period == run.period - 1,
            Mode::SquareWave => !run.held && elapsed % run.period >= run.period.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed == run.period,
        };
        if low { Output::Low } else { Output::High }
    }

    pub(super) fn control(&mut self, value: u8, tick: u64) {
        let access = match value >> 4 & 3 {
            0 => return self.latch_count(tick),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let before = self.output(tick);
        self.access = access;
        self.mode = Mode::from_bits(value >> 1);
        self.decimal = value & 1 != 0;
        self.reload = None;
        self.waits_for_trigger = false;
        self.low_byte = None;
        self.read_high_next = false;
        self.latched_count = None;
        self.latched_status = None;
        self.run = None;
        self.note_edge(before, tick);
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        let count = match (self.access, self.low_byte) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, Some(low)) => {
                self.low_byte = None;
                u16::from(low) | u16::from(value) << 8
            }
            (Access::LowThenHigh, None) => {
                self.low_byte = Some(value);
                // 8254, mode 0: the first of two bytes stops the count and sets OUT low.
                if self.mode == Mode::InterruptOnTerminalCount {
                    self.run = None;
                }
                return;
            }
        };
        let before = self.output(tick);
        self.load(self.decode(count), tick);
        self.note_edge(before, tick);
    }

    fn load(&mut self, period: u64, tick: u64) {
        self.reload = Some(period);
        if self.mode.is_triggered() {
            self.waits_for_trigger = true;
            return;
        }
        match &mut self.run {
            Some(run) if self.mode.is_periodic() => run.next_period = Some(period),
            _ => self.start(period, tick),
        }
    }

    /// Loads the counting element; that takes the next clock.
    fn start(&mut self, period: u64, tick: u64) {
        self.run = Some(Run {
            start: tick.saturating_add(1),
            base: 0,
            held: self.gate == Output::Low && !self.mode.is_triggered(),
            period,
            next_period: None,
        });
    }

    pub(super) fn set_gate(&mut self, gate: Output, tick: u64) {
        let before = (self.gate, self.output(tick));
        self.gate = gate;
        match (before.0, gate) {
            (Output::Low, Output::High) => {
                if self.mode.is_triggered() || self.mode.is_periodic() {
                    if let Some(period) = self.reload {
                        self.waits_for_trigger = false;
                        self.start(period, tick);
                    }
                } else if let Some(run) = &mut self.run {
                    run.held = false;
                    run.start = tick;
                }
            }
            (Output::High, Output::Low) => {
                let triggered = self.mode.is_triggered();
                if let Some(run) = self.run.as_mut().filter(|_| !triggered) {
                    run.base = run.elapsed(tick);
                    run.start = tick;
                    run.held = true;
                }
            }
            (Output::Low, Output::Low) | (Output::High, Output::High) => {}
        }
        self.note_edge(before.1, tick);
    }

    fn note_edge(&mut self, before: Output, tick: u64) {
        if before == Output::Low && self.output(tick) == Output::High {
            self.rising_edges = self.rising_edges.saturating_add(1);
        }
    }

    pub(super) fn latch_count(&mut self, tick: u64) {
        // 8254: a second latch command before the count is read is ignored.
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(tick));
        }
    }

    pub(super) fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_some() {
            return;
        }
        let null_count = self.waits_for_trigger
            || self
                .run
                .is_none_or(|run| tick < run.start || run.next_period.is_some());
        // 8254, "Status byte": OUT, null count, access, mode, BCD.
        self.latched_status = Some(
            (self.output(tick) as u8) << 7
                | u8::from(null_count) << 6
                | self.access.bits() << 4
                | self.mode.bits() << 1
                | u8::from(self.decimal),
        );
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        // 8254: if both are latched, the first read returns the status.
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched_count.unwrap_or_else(|| self.count(tick));
        let [low, high] = count.to_le_bytes();
        match self.access {
            Access::Low => {
                self.latched_count = None;
                low
            }
            Access::High => {
                self.latched_count = None;
                high
            }
            Access::LowThenHigh => {
                self.read_high_next = !self.read_high_next;
                if self.read_high_next {
                    low
                } else {
                    self.latched_count = None;
                    high
                }
            }
        }
    }

    /// The period in clocks, if the channel makes a square wave.
    pub(super) fn square_wave_period(&self) -> Option<u32> {
        let run = self.run.filter(|_| self.mode == Mode::SquareWave)?;
        u32::try_from(run.period).ok()
    }

    const fn modulus(&self) -> u64 {
        if self.decimal { 10_000 } else { 0x1_0000 }
    }

    /// The count in the counting element.
    fn count(&self, tick: u64) -> u16 {
        let Some(run) = self.run else { return 0 };
        let elapsed = run.elapsed(tick);
        let modulus = self.modulus();
        let count = match self.mode {
            Mode::RateGenerator => run.period - elapsed % run.period,
            // 8254, mode 3: the count goes down by two, twice a cycle.
            Mode::SquareWave => {
                let phase = elapsed % run.period;
                let half = run.period.div_ceil(2);
                let in_half = if phase < half { phase } else { phase - half };
                (run.period & !1).saturating_sub(2 * in_half)
            }
            // The others go on past zero from the highest count.
            _ => run.period + modulus - elapsed % modulus,
        };
        self.encode(count % modulus)
    }

    /// The initial count that a written value means; 8254: 0 is the largest.
    fn decode(&self, value: u16) -> u64 {
        let value = u64::from(value);
        let count = if self.decimal {
            (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)
        } else {
            value
        };
        match count {
            0 => self.modulus(),
            // 8254: a count of 1 is illegal in mode 2, and has no second half in mode 3.
            1 if self.mode.is_periodic() => 2,
            _ => count,
        }
    }

    fn encode(&self, count: u64) -> u16 {
        if !self.decimal {
            return count as u16;
        }
        let digit = |power: u64| (count / power % 10) as u16;
        digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
    }
}
