//! The pair of 8259A interrupt controllers of a PC, with the edge/level control registers of
//! ports 4D0H and 4D1H.

use crate::Line;

/// Command port of the master; the data port follows.
pub const MASTER_COMMAND: u16 = 0x20;
/// Data port of the master.
pub const MASTER_DATA: u16 = 0x21;
/// Command port of the slave; the data port follows.
pub const SLAVE_COMMAND: u16 = 0xa0;
/// Data port of the slave.
pub const SLAVE_DATA: u16 = 0xa1;
/// Edge/level control of IRQ 0-7.
pub const MASTER_EDGE_LEVEL: u16 = 0x4d0;
/// Edge/level control of IRQ 8-15.
pub const SLAVE_EDGE_LEVEL: u16 = 0x4d1;

/// The vectors of IRQ 0 and IRQ 8 that a PC's firmware sets.
const MASTER_VECTORS: u8 = 0x08;
const SLAVE_VECTORS: u8 = 0x70;

/// The master's input to which the slave is wired.
const CASCADE: u8 = 2;
/// IRQ 0, 1 and 2 are always edge-triggered; so are 8 and 13.
const MASTER_EDGE_LEVEL_WRITABLE: u8 = 0xf8;
const SLAVE_EDGE_LEVEL_WRITABLE: u8 = 0xde;

/// Both controllers, cascaded.
#[derive(Clone, Debug)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}

impl PicPair {
    /// The state a PC's firmware leaves: initialized, but every input masked.
    pub const fn new() -> Self {
        Self {
            master: Chip::new(MASTER_VECTORS),
            slave: Chip::new(SLAVE_VECTORS),
        }
    }

    /// The same pair with an interrupt request (3 to 7, 9 to 12, 14, 15) that firmware has set to be
    /// level-triggered.
    #[must_use]
    pub const fn with_level_triggered(mut self, irq: u8) -> Self {
        match irq {
            0..8 => self.master.level_triggered |= 1 << irq & MASTER_EDGE_LEVEL_WRITABLE,
            8..16 => self.slave.level_triggered |= 1 << (irq - 8) & SLAVE_EDGE_LEVEL_WRITABLE,
            _ => {}
        }
        self
    }

    /// Whether a port belongs to the pair.
    pub const fn claims(port: u16) -> bool {
        matches!(
            port,
            MASTER_COMMAND
                | MASTER_DATA
                | SLAVE_COMMAND
                | SLAVE_DATA
                | MASTER_EDGE_LEVEL
                | SLAVE_EDGE_LEVEL
        )
    }

    /// Reads a port; others than the six read as all-ones. Ask [`Self::interrupt_line`] again
    /// afterwards: a read that follows a poll command acknowledges.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            MASTER_COMMAND => self.master.read_command(),
            MASTER_DATA => self.master.read_data(),
            SLAVE_COMMAND => self.slave.read_command(),
            SLAVE_DATA => self.slave.read_data(),
            MASTER_EDGE_LEVEL => self.master.level_triggered,
            SLAVE_EDGE_LEVEL => self.slave.level_triggered,
            _ => 0xff,
        };
        self.drive_cascade();
        value
    }

    /// Writes a port; ask [`Self::interrupt_line`] again afterwards.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            MASTER_COMMAND => self.master.write_command(value),
            MASTER_DATA => self.master.write_data(value),
            SLAVE_COMMAND => self.slave.write_command(value),
            SLAVE_DATA => self.slave.write_data(value),
            MASTER_EDGE_LEVEL => self.master.level_triggered = value & MASTER_EDGE_LEVEL_WRITABLE,
            SLAVE_EDGE_LEVEL => self.slave.level_triggered = value & SLAVE_EDGE_LEVEL_WRITABLE,
            _ => {}
        }
        self.drive_cascade();
    }

    /// Sets the level of an interrupt request (0..=15; 2 is the cascade and is ignored, as is
    /// anything beyond 15); ask [`Self::interrupt_line`] again afterwards.
    pub fn set_irq(&mut self, irq: u8, line: Line) {
        let (chip, input) = match irq {
            0..=7 if irq != CASCADE => (&mut self.master, irq),
            8..=15 => (&mut self.slave, irq - 8),
            _ => return,
        };
        if chip.has_input(input, line) {
            return;
        }
        chip.set_input(input, line);
        self.drive_cascade();
    }

    /// The master's INT output, wired to the processor's INTR or to a local APIC's LINT0.
    pub fn interrupt_line(&self) -> Line {
        Line::asserted_if(self.master.request().is_some())
    }

    /// The processor's interrupt acknowledge cycle; the result is the vector. When the request has
    /// gone meanwhile it is that of a spurious IRQ 7 or 15.
    pub fn acknowledge(&mut self) -> u8 {
        let level = self.master.acknowledge();
        let vector = if level == Some(CASCADE) {
            let slave = self.slave.acknowledge();
            // The slave's INT falls during the cycle, so a further request is a new edge.
            self.master.set_input(CASCADE, Line::Deasserted);
            self.slave.vector(slave)
        } else {
            self.master.vector(level)
        };
        self.drive_cascade();
        vector
    }

    fn drive_cascade(&mut self) {
        let line = Line::asserted_if(self.slave.request().is_some());
        self.master.set_input(CASCADE, line);
    }
}

/// Which initialization command word the data port expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Operation,
    Icw2,
    Icw3,
    Icw4,
}

/// Which register the command port reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Requests,
    InService,
}

#[derive(Clone, Debug)]
struct Chip {
    inputs: u8,
    latched: u8,
    in_service: u8,
    mask: u8,
    level_triggered: u8,
    vector_base: u8,
    /// The input with the lowest priority; 7 after initialization.
    lowest: u8,
    expects: Expects,
    shows: Shows,
    needs_icw3: bool,
    needs_icw4: bool,
    poll: bool,
    automatic_eoi: bool,
    rotate_on_automatic_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
}

impl Chip {
    const fn new(vector_base: u8) -> Self {
        Self {
            inputs: 0,
            latched: 0,
            in_service: 0,
            mask: 0xff,
            level_triggered: 0,
            vector_base,
            lowest: 7,
            expects: Expects::Operation,
            shows: Shows::Requests,
            needs_icw3: false,
            needs_icw4: false,
            poll: false,
            automatic_eoi: false,
            rotate_on_automatic_eoi: false,
            special_mask: false,
            special_fully_nested: false,
        }
    }

    /// Whether an input is at that level already.
    fn has_input(&self, input: u8, line: Line) -> bool {
        (self.inputs >> (input & 7) & 1 != 0) == line.is_asserted()
    }

    fn set_input(&mut self, input: u8, line: Line) {
        let bit = 1_u8 << (input & 7);
        match line {
            Line::Asserted => {
                self.latched |= bit & !self.inputs;
                self.inputs |= bit;
            }
            // 8259A, "Interrupt request": the input must stay high until the acknowledge cycle
            // begins, or the request is gone and the default IR7 is given.
            Line::Deasserted => {
                self.latched &= !bit;
                self.inputs &= !bit;
            }
        }
    }

    /// The interrupt request register.
    fn requests(&self) -> u8 {
        self.latched & !self.level_triggered | self.inputs & self.level_triggered
    }

    /// The inputs from the highest priority to the lowest.
    fn by_priority(&self) -> impl Iterator<Item = u8> + use<> {
        let lowest = self.lowest;
        (1..=8_u8).map(move |step| lowest.wrapping_add(step) & 7)
    }

    /// The input to be served next, if one may interrupt what is in service.
    fn request(&self) -> Option<u8> {
        let requests = self.requests() & !self.mask;
        if requests == 0 {
            return None;
        }
        // 8259A, "Special mask mode": a masked in-service bit no longer inhibits lower levels.
        let inhibiting = if self.special_mask {
            self.in_service & !self.mask
        } else {
            self.in_service
        };
        for input in self.by_priority() {
            let bit = 1 << input;
            // 8259A, "Special fully nested mode": a slave in service is not locked out.
            let may_nest = self.special_fully_nested && input == CASCADE;
            if requests & bit != 0 && (inhibiting & bit == 0 || may_nest) {
                return Some(input);
            }
            if inhibiting & bit != 0 {
                return None;
            }
        }
        None
    }

    /// Moves the request into service; `None` when it has gone.
    fn acknowledge(&mut self) -> Option<u8> {
        let input = self.request()?;
        let bit = 1 << input;
        self.latched &= !bit;
        if self.automatic_eoi {
            if self.rotate_on_automatic_eoi {
                self.lowest = input;
            }
        } else {
            self.in_service |= bit;
        }
        Some(input)
    }

    /// 8259A: without a request at the time of the acknowledge, level 7 is given, and its in-service
    /// bit is not set.
    fn vector(&self, input: Option<u8>) -> u8 {
        self.vector_base | input.unwrap_or(7)
    }

    fn read_command(&mut self) -> u8 {
        if self.poll {
            return self.read_poll();
        }
        match self.shows {
            Shows::Requests => self.requests(),
            Shows::InService => self.in_service,
        }
    }

    fn read_data(&mut self) -> u8 {
        if self.poll {
            return self.read_poll();
        }
        self.mask
    }

    /// 8259A, "Poll command": the next read is an acknowledge; bit 7 says whether there was a
    /// request and bits 2:0 which.
    fn read_poll(&mut self) -> u8 {
        self.poll = false;
        self.acknowledge().map_or(0, |input| 0x80 | input)
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.initialize(value);
        } else if value & 0x08 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    /// 8259A, ICW1, does this by itself: the edge sense circuit is reset, the mask is
    /// cleared, IR7 has priority 7, special mask mode is cleared and status read is set to IRR; if
    /// IC4 is 0, all functions selected in ICW4 are set to zero.
    fn initialize(&mut self, value: u8) {
        *self = Self {
            inputs: self.inputs,
            level_triggered: self.level_triggered,
            mask: 0,
            expects: Expects::Icw2,
            needs_icw3: value & 0x02 == 0,
            needs_icw4: value & 0x01 != 0,
            ..Self::new(self.vector_base)
        };
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.needs_icw4 {
            Expects::Icw4
        } else {
            Expects::Operation
        };
        match self.expects {
            Expects::Operation => self.mask = value,
            Expects::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expects = if self.needs_icw3 {
                    Expects::Icw3
                } else {
                    after_icw3
                };
            }
            // The wiring of the cascade is what it is.
            Expects::Icw3 => self.expects = after_icw3,
            Expects::Icw4 => {
                self.automatic_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expects = Expects::Operation;
            }
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_automatic_eoi = false,
            0b100 => self.rotate_on_automatic_eoi = true,
            0b001 => {
                self.end_highest();
            }
            0b101 => {
                if let Some(input) = self.end_highest() {
                    self.lowest = input;
                }
            }
            0b011 => self.in_service &= !(1 << level),
            0b111 => {
                self.in_service &= !(1 << level);
                self.lowest = level;
            }
            0b110 => self.lowest = level,
            _ => {}
        }
    }

    /// Non-specific EOI: ends the in-service input of the highest priority. 8259A, "End of
    /// interrupt": a bit masked in special mask mode is not cleared by it.
    fn end_highest(&mut self) -> Option<u8> {
        let candidates = if self.special_mask {
            self.in_service & !self.mask
        } else {
            self.in_service
        };
        let input = self
            .by_priority()
            .find(|input| candidates & 1 << input != 0)?;
        self.in_service &= !(1 << input);
        Some(input)
    }

    fn write_ocw3(&mut self, value: u8) {
        self.poll = value & 0x04 != 0;
        match value & 0x03 {
            0b10 => self.shows = Shows::Requests,
            0b11 => self.shows = Shows::InService,
            _ => {}
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Line::{Asserted, Deasserted};

    /// Initialized as PC firmware does, vectors 30H and 38H, nothing masked.
    fn pair(icw4: u8) -> PicPair {
        let mut pics = PicPair::new();
        for (command, data, base, icw3) in [
            (MASTER_COMMAND, MASTER_DATA, 0x30, 4),
            (SLAVE_COMMAND, SLAVE_DATA, 0x38, 2),
        ] {
            pics.write(command, 0x11);
            pics.write(data, base);
            pics.write(data, icw3);
            pics.write(data, icw4);
            pics.write(data, 0);
        }
        pics
    }

    fn in_service(pics: &mut PicPair, command: u16) -> u8 {
        pics.write(command, 0x0b);
        pics.read(command)
    }

    #[test]
    fn firmware_leaves_vectors_and_masks() {
        let mut pics = PicPair::new();
        pics.write(MASTER_DATA, 0);
        pics.write(SLAVE_DATA, 0);
        for (irq, vector) in [(4, 0x0c), (8, 0x70)] {
            pics.set_irq(irq, Asserted);
            assert_eq!(pics.acknowledge(), vector);
            pics.write(SLAVE_COMMAND, 0x20);
            pics.write(MASTER_COMMAND, 0x20);
        }
    }

    #[test]
    fn firmware_sets_what_is_level_triggered() {
        let mut pics = PicPair::new().with_level_triggered(9);
        assert_eq!(pics.read(SLAVE_EDGE_LEVEL), 0x02);
        assert_eq!(pics.read(MASTER_EDGE_LEVEL), 0);
        for fixed in [0, 2, 8, 13, 16] {
            let mut pics = PicPair::new().with_level_triggered(fixed);
            assert_eq!(pics.read(MASTER_EDGE_LEVEL), 0, "{fixed}");
            assert_eq!(pics.read(SLAVE_EDGE_LEVEL), 0, "{fixed}");
        }
    }

    #[test]
    fn masked_until_unmasked() {
        let mut pics = PicPair::new();
        for irq in 0..=20 {
            pics.set_irq(irq, Asserted);
        }
        assert_eq!(pics.interrupt_line(), Deasserted);
        assert_eq!(pics.read(MASTER_DATA), 0xff);
        assert_eq!(pics.read(0x22), 0xff);
    }

    #[test]
    fn priorities_nest() {
        let mut pics = pair(1);
        pics.set_irq(4, Asserted);
        assert_eq!(pics.acknowledge(), 0x34);
        pics.set_irq(5, Asserted);
        assert_eq!(pics.interrupt_line(), Deasserted);
        pics.set_irq(1, Asserted);
        assert_eq!(pics.acknowledge(), 0x31);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0x12);
        pics.write(MASTER_COMMAND, 0x20);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0x10);
        assert_eq!(pics.interrupt_line(), Deasserted);
        pics.write(MASTER_COMMAND, 0x64);
        assert_eq!(pics.acknowledge(), 0x35);
    }

    #[test]
    fn slave_requests_come_through_the_cascade() {
        let mut pics = pair(1);
        pics.set_irq(8, Asserted);
        pics.set_irq(12, Asserted);
        assert_eq!(pics.acknowledge(), 0x38);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 4);
        assert_eq!(in_service(&mut pics, SLAVE_COMMAND), 1);
        pics.write(SLAVE_COMMAND, 0x20);
        assert_eq!(pics.interrupt_line(), Deasserted);
        pics.write(MASTER_COMMAND, 0x20);
        assert_eq!(pics.acknowledge(), 0x3c);
    }

    #[test]
    fn withdrawn_requests_are_spurious() {
        let mut pics = pair(1);
        pics.set_irq(3, Asserted);
        pics.set_irq(3, Deasserted);
        assert_eq!(pics.interrupt_line(), Deasserted);
        assert_eq!(pics.acknowledge(), 0x37);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0);
        pics.set_irq(8, Asserted);
        // The slave's request goes after the master has decided.
        let mut gone = pics.clone();
        gone.slave.set_input(0, Deasserted);
        assert_eq!(gone.acknowledge(), 0x3f);
        assert_eq!(in_service(&mut gone, MASTER_COMMAND), 4);
        assert_eq!(in_service(&mut gone, SLAVE_COMMAND), 0);
    }

    #[test]
    fn automatic_eoi_leaves_nothing_in_service() {
        let mut pics = pair(3);
        pics.set_irq(0, Asserted);
        pics.set_irq(7, Asserted);
        assert_eq!(pics.acknowledge(), 0x30);
        assert_eq!(pics.acknowledge(), 0x37);
        pics.set_irq(9, Asserted);
        pics.set_irq(10, Asserted);
        assert_eq!(pics.acknowledge(), 0x39);
        assert_eq!(pics.acknowledge(), 0x3a);
        assert_eq!(in_service(&mut pics, SLAVE_COMMAND), 0);
        // Rotation in automatic EOI mode: what was served becomes lowest.
        pics.write(MASTER_COMMAND, 0x80);
        for irq in [0, 1] {
            pics.set_irq(irq, Deasserted);
            pics.set_irq(irq, Asserted);
        }
        assert_eq!(pics.acknowledge(), 0x30);
        pics.set_irq(0, Deasserted);
        pics.set_irq(0, Asserted);
        assert_eq!(pics.acknowledge(), 0x31);
    }

    #[test]
    fn level_triggered_inputs_request_again() {
        let mut pics = pair(1);
        pics.write(MASTER_EDGE_LEVEL, 0xff);
        pics.write(SLAVE_EDGE_LEVEL, 0xff);
        assert_eq!(pics.read(MASTER_EDGE_LEVEL), 0xf8);
        assert_eq!(pics.read(SLAVE_EDGE_LEVEL), 0xde);
        for (irq, vector) in [(5, 0x35), (11, 0x3b)] {
            pics.set_irq(irq, Asserted);
            for _ in 0..2 {
                assert_eq!(pics.acknowledge(), vector);
                assert_eq!(pics.interrupt_line(), Deasserted);
                pics.write(SLAVE_COMMAND, 0x20);
                pics.write(MASTER_COMMAND, 0x20);
                assert_eq!(pics.interrupt_line(), Asserted);
            }
            pics.set_irq(irq, Deasserted);
            assert_eq!(pics.interrupt_line(), Deasserted);
        }
    }

    #[test]
    fn rotation_and_set_priority() {
        let mut pics = pair(1);
        pics.write(MASTER_COMMAND, 0xc0 | 4);
        pics.set_irq(0, Asserted);
        pics.set_irq(5, Asserted);
        assert_eq!(pics.acknowledge(), 0x35);
        pics.write(MASTER_COMMAND, 0xa0);
        assert_eq!(pics.master.lowest, 5);
        assert_eq!(pics.acknowledge(), 0x30);
        pics.write(MASTER_COMMAND, 0xe0);
        assert_eq!(pics.master.lowest, 0);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0);
    }

    #[test]
    fn special_mask_mode_lets_lower_levels_through() {
        let mut pics = pair(1);
        pics.set_irq(3, Asserted);
        assert_eq!(pics.acknowledge(), 0x33);
        pics.set_irq(6, Asserted);
        pics.write(MASTER_DATA, 0x08);
        assert_eq!(pics.interrupt_line(), Deasserted);
        pics.write(MASTER_COMMAND, 0x68);
        assert_eq!(pics.acknowledge(), 0x36);
        pics.write(MASTER_COMMAND, 0x20);
        pics.write(MASTER_COMMAND, 0x20);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0x08);
    }

    #[test]
    fn special_fully_nested_mode_admits_the_slave_again() {
        for (icw4, expected) in [(0x01, Deasserted), (0x11, Asserted)] {
            let mut pics = pair(icw4);
            pics.set_irq(12, Asserted);
            assert_eq!(pics.acknowledge(), 0x3c);
            pics.set_irq(8, Asserted);
            assert_eq!(pics.interrupt_line(), expected);
        }
    }

    #[test]
    fn poll_acknowledges_by_reading() {
        let mut pics = pair(1);
        pics.write(MASTER_COMMAND, 0x0c);
        assert_eq!(pics.read(MASTER_COMMAND), 0);
        pics.set_irq(6, Asserted);
        pics.write(MASTER_COMMAND, 0x0c);
        assert_eq!(pics.read(MASTER_COMMAND), 0x86);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0x40);
    }

    #[test]
    fn initialization_forgets_edges_and_masks() {
        let mut pics = pair(3);
        pics.set_irq(1, Asserted);
        pics.write(MASTER_DATA, 0xff);
        pics.write(MASTER_COMMAND, 0x12);
        // Single and no ICW4: the second word ends the sequence and automatic EOI is off.
        pics.write(MASTER_DATA, 0x57);
        assert_eq!(pics.read(MASTER_DATA), 0);
        assert_eq!(pics.interrupt_line(), Deasserted);
        pics.set_irq(4, Asserted);
        assert_eq!(pics.acknowledge(), 0x54);
        assert_eq!(in_service(&mut pics, MASTER_COMMAND), 0x10);
    }
}
