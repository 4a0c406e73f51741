//! Accesses to the virtual machine's devices, and what devices ask for.

use super::virtual_machine::{Devices, Line};
use super::{Ending, Hypervisor};
use crate::host::console;
use crate::host::processor::Processor;
use crate::vm::devices::{PlatformEffect, Presence};

/// Direction of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// IN.
    In,
    /// OUT of this value.
    Out(u32),
}

impl Hypervisor {
    /// What an effect of a device asks for.
    pub(super) fn act(&self, effect: PlatformEffect, line: &mut Line, processor: &Processor) {
        match effect {
            PlatformEffect::Signal(signal) => self.signal(signal, processor),
            PlatformEffect::Console(byte) => {
                if line.push(byte, self.device_time()) {
                    // Somebody has to look when it gets old.
                    self.note_device_timer(processor);
                }
            }
            PlatformEffect::PowerOff => self.end(Ending::PowerOff),
            PlatformEffect::Reset(_) => self.end(Ending::Reset),
            PlatformEffect::Exit(status) => self.end(Ending::GuestExit(status as u8)),
            PlatformEffect::Mark(_) => {}
        }
    }

    /// An IN or OUT of the guest.
    pub fn port_access(
        &self,
        port: u16,
        size: u8,
        direction: Direction,
        processor: &Processor,
    ) -> u32 {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        devices.quiet_until = 0;
        let context = self.context(processor);
        let line = &mut devices.line;
        let mut act = |effect| self.act(effect, line, processor);
        let value = match direction {
            Direction::In => devices.platform.io_read(context, port, size, &mut act),
            Direction::Out(value) => {
                devices
                    .platform
                    .io_write(context, port, size, value, &mut act);
                0
            }
        };
        if !devices.input.is_empty() {
            self.pass_input(devices, processor);
        }
        // A timer may have been programmed: the boot processor keeps their time.
        if matches!(port, 0x40..=0x43 | 0x61 | 0x70..=0x71 | 0x600..=0x60f) {
            self.note_device_timer(processor);
        }
        value
    }

    /// The console's interrupt came.
    #[cold]
    pub(super) fn take_input(&self, processor: &Processor) {
        self.pass_input(&mut self.vm.devices.lock(), processor);
    }

    /// Moves what was typed toward the guest, as far as there is room.
    #[cold]
    #[inline(never)]
    fn pass_input(&self, devices: &mut Devices, processor: &Processor) {
        devices.quiet_until = 0;
        let context = self.context(processor);
        let line = &mut devices.line;
        let act = |effect| self.act(effect, line, processor);
        devices.input.fill(console::receive);
        devices.platform.type_in(context, &mut devices.input, act);
    }

    fn note_device_timer(&self, processor: &Processor) {
        if processor.number == 0 {
            processor.note_timer();
        } else {
            self.kick(0);
        }
    }

    /// A read of the word at an address where there is no RAM; where no device is either, all bits are 1.
    pub fn device_read(&self, address: u64) -> u32 {
        self.vm
            .devices
            .lock()
            .platform
            .mmio_read(address)
            .unwrap_or(u32::MAX)
    }

    /// A write of the word at an address where there is no RAM; where no device is either, it goes nowhere.
    pub fn device_write(&self, address: u64, value: u32, processor: &Processor) {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        match devices.platform.mmio_write(context, address, value, act) {
            Presence::Device | Presence::NoDevice => {}
        }
    }

    /// The end of a level-triggered interrupt, for the I/O APIC.
    pub fn end_of_interrupt(&self, vector: u8, processor: &Processor) {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        devices.platform.end_of_interrupt(context, vector, act);
    }

    /// The vCPU takes the 8259's interrupt: its vector.
    pub fn acknowledge_external_interrupt(&self, processor: &Processor) -> u8 {
        let mut devices = self.vm.devices.lock();
        let devices = &mut *devices;
        let line = &mut devices.line;
        let context = self.context(processor);
        let act = |effect| self.act(effect, line, processor);
        devices
            .platform
            .acknowledge_external_interrupt(context, act)
    }
}
