//! The devices of a PC wired together: who claims which port, and which interrupt line goes where.
//!
//! Used twice: as the machine's platform, and as what the hypervisor shows to a guest.

use crate::acpi_power::{self, AcpiPower, PowerEffect, TimerWidth};
use crate::crt_controller::CrtController;
use crate::debug_port::{DebugEffect, DebugPort, PhaseMark};
use crate::firmware_configuration::FirmwareConfiguration;
use crate::interrupt_message::{InterruptMessage, InterruptMessages};
use crate::io_apic::{IoApic, Version};
use crate::pci::PciConfiguration;
use crate::pic::PicPair;
use crate::pit::Pit;
use crate::reset_control::{self, ResetControl, ResetEffect};
use crate::rtc::Rtc;
use crate::rtc_calendar::DateTime;
use crate::test_device::TestDevice;
use crate::uart::Uart;
use crate::{Line, io_apic};

/// First port of the first serial port.
pub const SERIAL_1: u16 = 0x3f8;
/// First port of the ACPI power-management block.
pub const POWER_MANAGEMENT: u16 = 0x600;
/// The interrupt request of the system control interrupt.
pub const SCI_IRQ: u8 = 9;
/// What the I/O APIC is.
pub const IO_APIC_VERSION: Version = Version::V20;

const PIT_IRQ: u8 = 0;
const SERIAL_1_IRQ: u8 = 4;
const RTC_IRQ: u8 = 8;
/// IRQ 0 reaches the I/O APIC at pin 2, because the 8259's output takes pin 0.
const PIT_PIN: usize = 2;
const PIC_PIN: usize = 0;
/// As firmware leaves them: the SCI is level-triggered (ACPI 4.8.2.1).
const FIRMWARE_PICS: PicPair = PicPair::new().with_level_triggered(SCI_IRQ);

/// Ports with a device behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// The device.
    pub device: &'static str,
    /// What software finds there.
    pub what: &'static str,
}

const fn ports(first: u16, last: u16, device: &'static str, what: &'static str) -> PortRange {
    PortRange {
        first,
        last,
        device,
        what,
    }
}

/// Every port that is not just the empty bus, in order. Those of the firmware configuration and of the test
/// device are there only [with a configuration](Pc::with_configuration) and
/// [with the device](Pc::with_test_device).
pub const PORTS: &[PortRange] = &[
    ports(0x20, 0x21, "8259A", "first interrupt controller"),
    ports(
        0x40,
        0x43,
        "8254",
        "timer; channel 0 is IRQ 0, pin 2 of the I/O APIC",
    ),
    ports(0x61, 0x61, "8254", "gate and output of channel 2"),
    ports(
        0x70,
        0x71,
        "MC146818A",
        "real-time clock, IRQ 8; its memory is zero at first",
    ),
    ports(0x80, 0x80, "debug port", "POST code; reads give it back"),
    ports(0xa0, 0xa1, "8259A", "second interrupt controller"),
    ports(
        0xe0,
        0xeb,
        "test device",
        "as QEMU's pc-testdev: accesses of any size share 0E0H to 0E3H, and bytes from 0E8H on; between them nothing happens",
    ),
    ports(
        0xf4,
        0xf4,
        "debug port",
        "a write ends the run with that value",
    ),
    ports(0xf5, 0xf5, "debug port", "a 32-bit write marks a phase"),
    ports(
        0x3d4,
        0x3d5,
        "CRT controller",
        "index and data: they keep what is written; there is no display, and B8000H is RAM",
    ),
    ports(
        0x3f8,
        0x3ff,
        "PC16550D",
        "first serial port, IRQ 4: the console",
    ),
    ports(0x4d0, 0x4d1, "8259A", "edge or level, by IRQ"),
    ports(
        0x510,
        0x511,
        "firmware configuration",
        "as QEMU's fw_cfg: number of processors and RAM",
    ),
    ports(
        0x600,
        0x60b,
        "ACPI power management",
        "PM1a event and control, 32-bit PM timer; SCI is IRQ 9",
    ),
    ports(
        0xcf8,
        0xcf8,
        "PCI",
        "configuration address, by 32-bit accesses; the host bridge 8086:29C0 is alone on the bus",
    ),
    ports(0xcf9, 0xcf9, "reset control", "6 resets"),
    ports(
        0xcfc,
        0xcff,
        "PCI",
        "configuration data: the host bridge's, otherwise all ones",
    ),
    ports(
        0x2000,
        0x2017,
        "test device",
        "as QEMU's pc-testdev: a port for each interrupt request's line",
    ),
];

/// What an access, or the passing of time, asks the platform to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Deliver an interrupt message to the local APICs.
    Message(InterruptMessage),
    /// The 8259's INTR line changed; it goes to LINT0. (As an I/O APIC's message it is a [`Self::Message`].)
    ExternalInterrupt(Line),
    /// The first serial port transmitted a byte.
    Console(u8),
    /// Switch off.
    PowerOff,
    /// S3 begins: the processors lose power.
    Suspend,
    /// S3 ends.
    Wake,
    /// Reset.
    Reset(ResetEffect),
    /// End the run with this status (port F4H).
    Exit(u32),
    /// A phase begins or ends (port F5H).
    Mark(PhaseMark),
}

/// The devices.
#[derive(Clone, Debug)]
pub struct Pc {
    io_apic: IoApic,
    pic: PicPair,
    pit: Pit,
    rtc: Rtc,
    serial: Uart,
    power: AcpiPower,
    reset: ResetControl,
    pci: PciConfiguration,
    display: CrtController,
    debug: DebugPort,
    /// `None` where software is not told the configuration.
    configuration: Option<FirmwareConfiguration>,
    /// `None` where there is none.
    test: Option<TestDevice>,
    external_interrupt: Line,
    /// Whether the machine is in S3.
    suspended: bool,
}

impl Default for Pc {
    fn default() -> Self {
        Self::new()
    }
}

impl Pc {
    /// The devices after power-on, the real-time clock at the start of the year 2000.
    pub fn new() -> Self {
        Self::starting_at(DateTime::EPOCH)
    }

    /// The devices after power-on, the real-time clock at `start`.
    pub fn starting_at(start: DateTime) -> Self {
        Self {
            io_apic: IoApic::new(0, IO_APIC_VERSION),
            pic: FIRMWARE_PICS,
            pit: Pit::new(),
            rtc: Rtc::new(start),
            serial: Uart::new(),
            power: AcpiPower::new(TimerWidth::Bits32),
            reset: ResetControl::new(),
            pci: PciConfiguration::new(),
            display: CrtController::new(),
            debug: DebugPort::new(),
            configuration: None,
            test: None,
            external_interrupt: Line::Deasserted,
            suspended: false,
        }
    }

    /// The same devices on a platform that has S3.
    pub fn with_suspend(self) -> Self {
        Self {
            power: self.power.with_suspend(),
            ..self
        }
    }

    /// The same devices and one that tells the machine's configuration.
    pub fn with_configuration(self, configuration: FirmwareConfiguration) -> Self {
        Self {
            configuration: Some(configuration),
            ..self
        }
    }

    /// The same devices and the one for test programs.
    pub fn with_test_device(self) -> Self {
        Self {
            test: Some(TestDevice::new()),
            ..self
        }
    }

    /// Reads `size` (1, 2 or 4) bytes at a port at time `now` in nanoseconds; where nothing answers
    /// the bus reads as ones.
    pub fn port_read(
        &mut self,
        port: u16,
        size: u8,
        now: u64,
        effect: &mut dyn FnMut(Effect),
    ) -> u32 {
        if let Some(offset) = power_offset(port) {
            return self.power.read(offset, size, now);
        }
        if PciConfiguration::is_address(port, size) {
            return self.pci.address();
        }
        // Byte devices on a wider access answer byte by byte, as the bus splits it.
        let mut value = 0;
        for index in 0..u16::from(size.min(4)) {
            let byte = self.byte_read(port.wrapping_add(index), now);
            value |= u32::from(byte) << (8 * index);
        }
        self.update_lines(now, effect);
        value
    }

    fn byte_read(&mut self, port: u16, now: u64) -> u8 {
        if PicPair::claims(port) {
            self.pic.read(port)
        } else if Pit::claims(port) {
            self.pit.read(port, now)
        } else if Rtc::claims(port) {
            self.rtc.read(port, now)
        } else if let Some(offset) = serial_offset(port) {
            self.serial.read(offset)
        } else if port == reset_control::PORT {
            self.reset.read()
        } else if DebugPort::claims(port) {
            self.debug.read(port)
        } else if PciConfiguration::is_data(port) {
            self.pci.read(port)
        } else if CrtController::claims(port) {
            self.display.read(port)
        } else if FirmwareConfiguration::is_data(port)
            && let Some(configuration) = &mut self.configuration
        {
            configuration.read()
        } else if TestDevice::claims(port)
            && let Some(test) = &self.test
        {
            test.read(port)
        } else {
            0xff
        }
    }

    /// Writes `size` (1, 2 or 4) bytes to a port.
    pub fn port_write(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        now: u64,
        effect: &mut dyn FnMut(Effect),
    ) {
        if let Some(offset) = power_offset(port) {
            match self.power.write(offset, size, value, now) {
                PowerEffect::PowerOff => effect(Effect::PowerOff),
                PowerEffect::Suspend => self.suspend(effect),
                PowerEffect::None | PowerEffect::Sleep(_) => {}
            }
        } else if DebugPort::claims(port) {
            match self.debug.write(port, value) {
                DebugEffect::Exit(status) => effect(Effect::Exit(status)),
                DebugEffect::Mark(mark) => effect(Effect::Mark(mark)),
                DebugEffect::None | DebugEffect::PostCode(_) => {}
            }
        } else if PciConfiguration::is_address(port, size) {
            self.pci.set_address(value);
        } else if FirmwareConfiguration::is_selector(port, size)
            && let Some(configuration) = &mut self.configuration
        {
            configuration.select(value as u16);
        } else {
            for index in 0..u16::from(size.min(4)) {
                let byte = (value >> (8 * index)) as u8;
                self.byte_write(port.wrapping_add(index), byte, now, effect);
            }
        }
        self.update_lines(now, effect);
    }

    fn byte_write(&mut self, port: u16, value: u8, now: u64, effect: &mut dyn FnMut(Effect)) {
        if PicPair::claims(port) {
            self.pic.write(port, value);
        } else if Pit::claims(port) {
            self.pit.write(port, value, now);
        } else if Rtc::claims(port) {
            self.rtc.write(port, value, now);
        } else if let Some(offset) = serial_offset(port) {
            if let Some(byte) = self.serial.write(offset, value) {
                effect(Effect::Console(byte));
            }
        } else if port == reset_control::PORT {
            match self.reset.write(value) {
                ResetEffect::None => {}
                reset @ (ResetEffect::Soft | ResetEffect::Hard) => effect(Effect::Reset(reset)),
            }
        } else if CrtController::claims(port) {
            self.display.write(port, value);
        } else if let Some(test) = &mut self.test
            && let Some((request, line)) = test.write(port, value)
        {
            self.drive(request, line, effect);
        }
    }

    /// Sets an interrupt request's line, which goes to the 8259 and to the I/O APIC.
    fn drive(&mut self, request: u8, line: Line, effect: &mut dyn FnMut(Effect)) {
        self.pic.set_irq(request, line);
        let pin = match request {
            PIT_IRQ => PIT_PIN,
            other => usize::from(other),
        };
        send(self.io_apic.set_pin(pin, line), effect);
    }

    /// How the test device drives an interrupt request's line.
    fn test_line(&self, request: u8) -> Line {
        self.test
            .map_or(Line::Deasserted, |test| test.line(request))
    }

    /// Reads the I/O APIC's window at `offset`.
    pub fn io_apic_read(&self, offset: u64) -> u32 {
        self.io_apic.read(offset)
    }

    /// Writes the I/O APIC's window at `offset`.
    pub fn io_apic_write(&mut self, offset: u64, value: u32, effect: &mut dyn FnMut(Effect)) {
        send(self.io_apic.write(offset, value), effect);
    }

    /// A local APIC broadcast the end of a level-triggered interrupt.
    pub fn end_of_interrupt(&mut self, vector: u8, effect: &mut dyn FnMut(Effect)) {
        send(self.io_apic.end_of_interrupt(vector), effect);
    }

    /// A processor acknowledges the 8259: gives the vector.
    pub fn acknowledge_external_interrupt(&mut self, effect: &mut dyn FnMut(Effect)) -> u8 {
        let vector = self.pic.acknowledge();
        // 8259A, "Interrupt sequence": the output falls in the cycle, so that a further request is an edge.
        send(self.io_apic.set_pin(PIC_PIN, Line::Deasserted), effect);
        self.update_external_interrupt(effect);
        vector
    }

    /// A byte arrives at the first serial port.
    pub fn receive(&mut self, byte: u8, now: u64, effect: &mut dyn FnMut(Effect)) {
        self.serial.receive(byte);
        self.update_lines(now, effect);
    }

    /// How many bytes the first serial port can take.
    pub fn receive_capacity(&self) -> usize {
        self.serial.receive_capacity()
    }

    /// Nanoseconds that a byte takes on the line of the first serial port.
    pub fn serial_byte_time(&self) -> u64 {
        self.serial.byte_time()
    }

    /// Whether software waits for what the first serial port receives: until then input would only
    /// be lost when it sets the port up.
    pub fn listens(&self) -> bool {
        self.serial.receive_interrupt_enabled()
    }

    /// Runs the devices to time `now`.
    pub fn advance(&mut self, now: u64, effect: &mut dyn FnMut(Effect)) {
        self.update_lines(now, effect);
    }

    /// When a device does something by itself next, after `now`.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        [
            self.pit.next_event(now),
            self.rtc.next_event(now),
            self.power.next_event(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn update_lines(&mut self, now: u64, effect: &mut dyn FnMut(Effect)) {
        let timer = self.pit.advance(now);
        if timer.rising_edges != 0 {
            // Edges that nobody looked at in between merge, as they do in an edge-triggered request.
            for line in [Line::Deasserted, Line::Asserted] {
                self.drive(PIT_IRQ, line, effect);
            }
        }
        let clock = self.rtc.interrupt_line(now);
        self.power.set_clock(clock);
        if self.suspended {
            if self.power.wakes() {
                self.suspended = false;
                self.power.wake();
                effect(Effect::Wake);
            }
            return;
        }
        let power = self.power.interrupt_line(now);
        for (irq, line) in [
            (SERIAL_1_IRQ, self.serial.interrupt_line()),
            (RTC_IRQ, clock),
            (SCI_IRQ, power),
        ] {
            let asserted = line.is_asserted() || self.test_line(irq).is_asserted();
            self.drive(irq, Line::asserted_if(asserted), effect);
        }
        self.update_external_interrupt(effect);
    }

    /// S3 (ACPI 16.1.3): the clock and the power-management block stay powered, the other devices are as
    /// after power-on when the machine wakes.
    fn suspend(&mut self, effect: &mut dyn FnMut(Effect)) {
        effect(Effect::Suspend);
        self.suspended = true;
        self.io_apic = IoApic::new(0, IO_APIC_VERSION);
        self.pic = FIRMWARE_PICS;
        self.pit = Pit::new();
        self.serial = Uart::new();
        self.reset = ResetControl::new();
        self.pci = PciConfiguration::new();
        self.display = CrtController::new();
        self.test = self.test.map(|_| TestDevice::new());
        self.update_external_interrupt(effect);
    }

    fn update_external_interrupt(&mut self, effect: &mut dyn FnMut(Effect)) {
        let line = self.pic.interrupt_line();
        if line != self.external_interrupt {
            self.external_interrupt = line;
            effect(Effect::ExternalInterrupt(line));
        }
        send(self.io_apic.set_pin(PIC_PIN, line), effect);
    }
}

/// The offset in the I/O APIC's window, if a physical address lies there.
pub const fn io_apic_offset(physical: u64) -> Option<u64> {
    match physical.checked_sub(io_apic::DEFAULT_ADDRESS) {
        Some(offset) if offset < io_apic::WINDOW_SIZE => Some(offset),
        _ => None,
    }
}

fn serial_offset(port: u16) -> Option<u16> {
    port.checked_sub(SERIAL_1).filter(|offset| *offset < 8)
}

fn power_offset(port: u16) -> Option<u16> {
    port.checked_sub(POWER_MANAGEMENT)
        .filter(|offset| *offset < acpi_power::PORTS)
}

fn send(messages: InterruptMessages, effect: &mut dyn FnMut(Effect)) {
    for message in messages {
        effect(Effect::Message(message));
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use alloc::vec::Vec;

    use arch::interrupt_command::DeliveryMode;

    use super::*;

    #[test]
    fn the_test_device_shares_lines_with_the_others() {
        let mut pc = Pc::new().with_test_device();
        let mut vectors = Vec::new();
        for (request, vector) in [(14, 0x3e), (4, 0x34)] {
            pc.io_apic_write(0, 0x10 + 2 * request, &mut |_| {});
            pc.io_apic_write(0x10, vector, &mut |_| {});
        }
        for (port, value) in [
            (0x200e, 1),
            (0x2004, 1),
            (0x80, 0),
            (0x2004, 0),
            (0x2004, 1),
        ] {
            pc.port_write(port, 1, value, 0, &mut |effect| {
                if let Effect::Message(message) = effect {
                    vectors.push(message.vector);
                }
            });
        }
        // What another access makes of the serial port's line does not lower it.
        assert_eq!(vectors, [0x3e, 0x34, 0x34]);
    }

    #[test]
    fn without_the_test_device_its_ports_are_free() {
        let mut pc = Pc::new();
        pc.port_write(0xe0, 1, 7, 0, &mut |_| {});
        assert_eq!(pc.port_read(0xe0, 4, 0, &mut |_| {}), u32::MAX);
        let mut pc = Pc::new().with_test_device();
        pc.port_write(0xe0, 4, 0x0102_0304, 0, &mut |_| {});
        assert_eq!(pc.port_read(0xe0, 4, 0, &mut |_| {}), 0x0102_0304);
        assert_eq!(pc.port_read(0xe1, 2, 0, &mut |_| {}), 0x0203);
    }

    #[test]
    fn the_list_of_ports_is_what_the_devices_claim() {
        for port in 0..=u16::MAX {
            let claimed = PicPair::claims(port)
                || Pit::claims(port)
                || Rtc::claims(port)
                || DebugPort::claims(port)
                || serial_offset(port).is_some()
                || power_offset(port).is_some()
                || port == reset_control::PORT
                || PciConfiguration::is_data(port)
                || CrtController::claims(port)
                || TestDevice::claims(port)
                || PciConfiguration::is_address(port, 4)
                || FirmwareConfiguration::is_data(port)
                || FirmwareConfiguration::is_selector(port, 2);
            let listed = PORTS
                .iter()
                .filter(|range| (range.first..=range.last).contains(&port));
            assert_eq!(listed.count(), usize::from(claimed), "{port:#x}");
        }
        assert!(PORTS.is_sorted_by_key(|range| range.first));
    }

    #[test]
    fn the_clock_interrupts_at_pin_8() {
        let mut pc = Pc::new();
        let mut messages = 0;
        pc.io_apic_write(0, 0x10 + 16, &mut |_| {});
        pc.io_apic_write(0x10, 0x38, &mut |_| {});
        // Update-ended interrupt, 24 hours.
        pc.port_write(0x70, 1, 0x0b, 0, &mut |_| {});
        pc.port_write(0x71, 1, 0x12, 0, &mut |_| {});
        let event = pc.next_event(0).unwrap();
        assert_eq!(event, 1_000_000_000);
        pc.advance(event, &mut |effect| {
            messages += u32::from(matches!(effect, Effect::Message(m) if m.vector == 0x38));
        });
        assert_eq!(messages, 1);
        pc.port_write(0x70, 1, 0, event, &mut |_| {});
        assert_eq!(pc.port_read(0x71, 1, event, &mut |_| {}), 1);
    }

    /// MultiProcessor Specification 3.6.2.2 Virtual Wire Mode, by the I/O APIC.
    #[test]
    fn the_8259_interrupts_by_the_io_apic_at_pin_0() {
        let mut pc = Pc::new().with_test_device();
        let mut messages = 0;
        let mut out = |pc: &mut Pc, port, value| {
            pc.port_write(port, 1, value, 0, &mut |effect| {
                if let Effect::Message(message) = effect {
                    assert_eq!(message.delivery_mode, DeliveryMode::ExternalInterrupt);
                    messages += 1;
                }
            });
            messages
        };
        pc.io_apic_write(0, 0x10, &mut |_| {});
        pc.io_apic_write(0x10, 0x700, &mut |_| {});
        out(&mut pc, 0x21, 0);
        // Two requests: the second becomes an edge of its own when the first is acknowledged.
        assert_eq!(out(&mut pc, 0x2003, 1), 1);
        assert_eq!(out(&mut pc, 0x2005, 1), 1);
        let mut again = 0;
        assert_eq!(pc.acknowledge_external_interrupt(&mut |_| {}), 0x0b);
        pc.port_write(0x20, 1, 0x20, 0, &mut |effect| {
            again += u32::from(matches!(effect, Effect::Message(_)));
        });
        assert_eq!(again, 1);
        assert_eq!(pc.acknowledge_external_interrupt(&mut |_| {}), 0x0d);
    }

    // ACPI 16.1.3, 4.8.3.1.1
    #[test]
    fn an_alarm_ends_a_suspension() {
        let mut pc = Pc::new().with_suspend();
        let mut effects = Vec::new();
        // RTC_EN, an alarm in every second, and a pin of the I/O APIC.
        for (port, size, value) in [
            (0x602, 2, 0x400),
            (0x70, 1, 1),
            (0x71, 1, 0xc0),
            (0x70, 1, 3),
            (0x71, 1, 0xc0),
            (0x70, 1, 5),
            (0x71, 1, 0xc0),
            (0x70, 1, 0xb),
            (0x71, 1, 0x22),
        ] {
            pc.port_write(port, size, value, 10, &mut |effect| effects.push(effect));
        }
        pc.io_apic_write(0, 0x10, &mut |_| {});
        pc.io_apic_write(0x10, 0x44, &mut |_| {});
        pc.port_write(0x604, 2, 0x2400, 20, &mut |effect| effects.push(effect));
        assert_eq!(effects, [Effect::Suspend]);
        pc.io_apic_write(0, 0x10, &mut |_| {});
        assert_eq!(pc.io_apic_read(0x10), 0x1_0000, "the I/O APIC lost power");
        let alarm = pc.next_event(20).unwrap();
        pc.advance(alarm - 1, &mut |effect| effects.push(effect));
        assert_eq!(effects.len(), 1);
        pc.advance(alarm, &mut |effect| effects.push(effect));
        assert_eq!(effects, [Effect::Suspend, Effect::Wake]);
        assert_eq!(pc.port_read(0x600, 2, alarm, &mut |_| {}), 0x8400);
    }
}
