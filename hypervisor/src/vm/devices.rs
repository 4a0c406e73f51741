//! The guest's platform: the devices of a PC, wired to the virtual machine's interrupts.
//!
//! `devices::pc::Pc` is the board; this routes what it emits. Interrupt messages and the 8259's line go
//! to the vCPUs here; everything else is for whoever runs the virtual machine.

use apic::register_page::RegisterPage;
use devices::firmware_configuration::FirmwareConfiguration;
use devices::{
    debug_port::PhaseMark,
    pc::{Effect, Pc, io_apic_offset},
    reset_control::ResetEffect,
    test_memory::TestMemory,
};

use crate::vm::console_input::ConsoleInput;

use crate::interrupts::{
    ipi_dispatch::IpiDispatcher,
    posting::{Sender, Signal},
    virtual_apic::FollowUp,
    virtual_apic::VirtualApic,
    vm_interrupts::VmInterrupts,
};

/// The vCPU to whose LINT0 the 8259 is wired: the bootstrap one, as on a PC.
const LINT0_VCPU: u32 = 0;

/// What an access, or the passing of time, asks of whoever runs the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum PlatformEffect {
    /// A vCPU has to be notified or queued.
    Signal(Signal),
    /// A byte for the console.
    Console(u8),
    /// The guest switched its machine off (ACPI S5).
    PowerOff,
    /// The guest reset its machine.
    Reset(ResetEffect),
    /// The guest ended the run with this value (port F4H).
    Exit(u32),
    /// The guest marks a phase (port F5H).
    Mark(PhaseMark),
}

/// Who makes an access, and when.
#[derive(Clone, Copy, Debug)]
pub struct AccessContext<'a> {
    /// The virtual machine's interrupts.
    pub vm: &'a VmInterrupts,
    /// The processor that executes this.
    pub sender: Sender,
    /// Nanoseconds since the virtual machine was made; never decreasing.
    pub now: u64,
}

/// The devices of one virtual machine. One processor at a time: the caller holds a lock.
#[derive(Debug)]
pub struct Platform {
    board: Pc,
    test_memory: TestMemory,
    dispatcher: IpiDispatcher,
}

impl Platform {
    /// The devices after power-on of a virtual machine with so many vCPUs and bytes of RAM.
    pub fn new(vcpus: u32, memory: u64) -> Self {
        let vcpus = u16::try_from(vcpus).unwrap_or(u16::MAX);
        let configuration = FirmwareConfiguration::new(vcpus, memory);
        Self {
            board: Pc::new()
                .with_configuration(configuration)
                .with_test_device(),
            test_memory: TestMemory::new(),
            dispatcher: IpiDispatcher::default(),
        }
    }

    /// IN of `size` (1, 2 or 4) bytes. Ports without a device, the PCI configuration ports among them,
    /// read as ones.
    pub fn io_read(
        &mut self,
        context: AccessContext<'_>,
        port: u16,
        size: u8,
        mut act: impl FnMut(PlatformEffect),
    ) -> u32 {
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        board.port_read(port, size, context.now, &mut route)
    }

    /// OUT of `size` (1, 2 or 4) bytes.
    pub fn io_write(
        &mut self,
        context: AccessContext<'_>,
        port: u16,
        size: u8,
        value: u32,
        mut act: impl FnMut(PlatformEffect),
    ) {
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        board.port_write(port, size, value, context.now, &mut route);
    }

    /// A 32-bit read of guest-physical memory where there is no RAM; `None` if no device is there
    /// either.
    pub fn mmio_read(&self, address: u64) -> Option<u32> {
        match io_apic_offset(address) {
            Some(offset) => Some(self.board.io_apic_read(offset)),
            None => self.test_memory.read(address),
        }
    }

    /// A 32-bit write of guest-physical memory where there is no RAM; whether a device is there.
    pub fn mmio_write(
        &mut self,
        context: AccessContext<'_>,
        address: u64,
        value: u32,
        mut act: impl FnMut(PlatformEffect),
    ) -> Presence {
        let Some(offset) = io_apic_offset(address) else {
            self.test_memory.write(address, value);
            return if TestMemory::claims(address) {
                Presence::Device
            } else {
                Presence::NoDevice
            };
        };
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        board.io_apic_write(offset, value, &mut route);
        Presence::Device
    }

    /// The first serial port takes as much of `input` as it has room for, once software listens there.
    pub fn type_in(
        &mut self,
        context: AccessContext<'_>,
        input: &mut ConsoleInput,
        mut act: impl FnMut(PlatformEffect),
    ) {
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        while board.listens()
            && board.receive_capacity() > 0
            && let Some(byte) = input.take()
        {
            board.receive(byte, context.now, &mut route);
        }
    }

    /// Runs the devices to now.
    pub fn advance(&mut self, context: AccessContext<'_>, mut act: impl FnMut(PlatformEffect)) {
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        board.advance(context.now, &mut route);
    }

    /// When to call [`Self::advance`] next, in nanoseconds.
    pub fn next_event(&self, now: u64) -> Option<u64> {
        self.board.next_event(now)
    }

    /// A vCPU ended a level-triggered interrupt: [`FollowUp::end_of_interrupt`].
    pub fn end_of_interrupt(
        &mut self,
        context: AccessContext<'_>,
        vector: u8,
        mut act: impl FnMut(PlatformEffect),
    ) {
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        board.end_of_interrupt(vector, &mut route);
    }

    /// The vCPU takes the 8259's interrupt: the vector to inject. For
    /// `Injection::ExternalInterrupt`.
    pub fn acknowledge_external_interrupt(
        &mut self,
        context: AccessContext<'_>,
        mut act: impl FnMut(PlatformEffect),
    ) -> u8 {
        let Self {
            board, dispatcher, ..
        } = self;
        let mut route = |effect| route(dispatcher, context, effect, &mut act);
        board.acknowledge_external_interrupt(&mut route)
    }

    /// Settles an effect of a vCPU's local APIC: [`VirtualApic::follow_up`], with the EOI broadcast
    /// already sent.
    pub fn settle<P: RegisterPage>(
        &mut self,
        context: AccessContext<'_>,
        apic: &mut VirtualApic<P>,
        effect: apic::local_apic::Effect,
        mut act: impl FnMut(PlatformEffect),
    ) -> FollowUp {
        let signal = |s| act(PlatformEffect::Signal(s));
        let sender = context.sender;
        let mut follow = apic.follow_up(effect, context.vm, &mut self.dispatcher, sender, signal);
        if let Some(vector) = follow.end_of_interrupt.take() {
            self.end_of_interrupt(context, vector, act);
        }
        follow
    }
}

/// Whether a device answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Presence {
    /// A device took the access.
    Device,
    /// Nothing is there.
    NoDevice,
}

fn route(
    dispatcher: &mut IpiDispatcher,
    context: AccessContext<'_>,
    effect: Effect,
    act: &mut impl FnMut(PlatformEffect),
) {
    let AccessContext { vm, sender, .. } = context;
    match effect {
        Effect::Message(message) => {
            dispatcher.deliver_message(vm, message, sender, |s| act(PlatformEffect::Signal(s)));
        }
        Effect::ExternalInterrupt(line) => {
            if let Some(port) = vm.port(LINT0_VCPU) {
                let signal = vm
                    .around()
                    .set_external_line(port, line.is_asserted(), sender);
                act(PlatformEffect::Signal(signal));
            }
        }
        Effect::Console(byte) => act(PlatformEffect::Console(byte)),
        Effect::PowerOff => act(PlatformEffect::PowerOff),
        // A guest's devices were made without S3.
        Effect::Suspend | Effect::Wake => {}
        Effect::Reset(reset) => act(PlatformEffect::Reset(reset)),
        Effect::Exit(status) => act(PlatformEffect::Exit(status)),
        Effect::Mark(mark) => act(PlatformEffect::Mark(mark)),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::interrupts::vm_interrupts::bench::vm;
    use apic::apic_base::ApicMode;

    const IO_APIC: u64 = 0xfec0_0000;

    struct Bench {
        vm: VmInterrupts,
        platform: Platform,
        now: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                vm: vm(2, ApicMode::Xapic),
                platform: Platform::new(2, 64 << 20),
                now: 0,
            }
        }

        fn context(&self) -> AccessContext<'_> {
            AccessContext {
                vm: &self.vm,
                sender: Sender { processor: 0 },
                now: self.now,
            }
        }

        fn out(&mut self, port: u16, size: u8, value: u32) -> Vec<PlatformEffect> {
            let mut effects = Vec::new();
            let context = AccessContext {
                vm: &self.vm,
                sender: Sender { processor: 0 },
                now: self.now,
            };
            self.platform
                .io_write(context, port, size, value, |e| effects.push(e));
            effects.retain(|e| *e != PlatformEffect::Signal(Signal::None));
            effects
        }

        fn read(&mut self, port: u16, size: u8) -> u32 {
            let context = AccessContext {
                vm: &self.vm,
                sender: Sender { processor: 0 },
                now: self.now,
            };
            self.platform.io_read(context, port, size, |_| {})
        }

        fn advance(&mut self, to: u64) -> Vec<PlatformEffect> {
            self.now = to;
            let mut effects = Vec::new();
            let context = AccessContext {
                vm: &self.vm,
                sender: Sender { processor: 0 },
                now: to,
            };
            self.platform.advance(context, |e| effects.push(e));
            effects.retain(|e| *e != PlatformEffect::Signal(Signal::None));
            effects
        }

        fn redirect(&mut self, pin: u32, low: u32, high: u32) {
            for (index, value) in [(0x11 + pin * 2, high), (0x10 + pin * 2, low)] {
                for (register, word) in [(0x00, index), (0x10, value)] {
                    let context = AccessContext {
                        vm: &self.vm,
                        sender: Sender { processor: 0 },
                        now: self.now,
                    };
                    let there = self
                        .platform
                        .mmio_write(context, IO_APIC + register, word, |_| {});
                    assert_eq!(there, Presence::Device);
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_reads_as_ones() {
        let mut bench = Bench::new();
        for port in [0xcfa, 0xcfc, 0x64, 0x1f0, 0x2f8] {
            assert_eq!(bench.read(port, 1), 0xff, "{port:#x}");
            assert_eq!(bench.read(port, 2), 0xffff, "{port:#x}");
        }
        assert_eq!(bench.read(0xcfc, 4), 0xffff_ffff);
        // Device 0, function 6: no such function, and not the reset that 6 means at CF9H.
        assert!(bench.out(0xcf8, 4, 0x8000_0600).is_empty());
        assert_eq!(bench.read(0xcf8, 4), 0x8000_0600);
        assert_eq!(bench.read(0xcfc, 4), 0xffff_ffff);
        assert_eq!(bench.platform.mmio_read(0xd000_0000), None);
        let context = bench.context();
        let mut platform = Platform::new(2, 64 << 20);
        let there = platform.mmio_write(context, 0xfed0_0000, 0, |_| {});
        assert_eq!(there, Presence::NoDevice);
    }

    #[test]
    fn the_guest_speaks_marks_and_ends() {
        let mut bench = Bench::new();
        assert_eq!(
            bench.out(0x3f8, 1, u32::from(b'x')),
            [PlatformEffect::Console(b'x')]
        );
        assert_eq!(
            bench.out(0xf5, 4, 0x0100_0003),
            [PlatformEffect::Mark(PhaseMark::Begin(3))]
        );
        assert_eq!(bench.out(0xf4, 1, 0x10), [PlatformEffect::Exit(0x10)]);
        assert_eq!(
            bench.out(0xcf9, 1, 6),
            [PlatformEffect::Reset(ResetEffect::Hard)]
        );
        // SLP_EN with the SLP_TYP of S5.
        assert_eq!(
            bench.out(0x604, 2, 1 << 13 | 5 << 10),
            [PlatformEffect::PowerOff]
        );
        assert!(bench.out(0x80, 1, 0x42).is_empty());
        assert_eq!(bench.read(0x80, 1), 0x42);
    }

    #[test]
    fn test_programs_find_their_device_and_their_configuration() {
        let mut bench = Bench::new();
        assert!(bench.out(0xe0, 4, 0x0403_0201).is_empty());
        assert_eq!(bench.read(0xe1, 2), 0x0302);
        bench.redirect(14, 0x3e, 0x0100_0000);
        let effects = bench.out(0x200e, 1, 1);
        let host = &bench.vm.around().host;
        let interrupt = PlatformEffect::Signal(Signal::Send(host.active(1)));
        assert_eq!(effects, [interrupt]);
        let port = bench.vm.port(1).unwrap();
        assert_eq!(port.receive().requests, [1 << 0x3e, 0, 0, 0]);
        // The number of processors, in the firmware configuration.
        assert!(bench.out(0x510, 2, 5).is_empty());
        assert_eq!(bench.read(0x511, 1), 2);
    }

    #[test]
    fn what_is_typed_waits_for_a_listener_and_for_room() {
        let mut bench = Bench::new();
        bench.redirect(4, 0x34, 0x0100_0000);
        let mut input = ConsoleInput::default();
        let mut line = b"abc".iter().copied();
        input.fill(|| line.next());
        let mut type_in = |bench: &mut Bench| {
            let mut effects = Vec::new();
            let context = AccessContext {
                vm: &bench.vm,
                sender: Sender { processor: 0 },
                now: bench.now,
            };
            bench
                .platform
                .type_in(context, &mut input, |e| effects.push(e));
            effects.retain(|e| *e != PlatformEffect::Signal(Signal::None));
            effects
        };
        assert!(type_in(&mut bench).is_empty(), "nobody listens");
        // OUT2, and the received-data interrupt; no FIFOs, so there is room for one.
        let _ = bench.out(0x3fc, 1, 0x0b);
        let _ = bench.out(0x3f9, 1, 1);
        let interrupt = PlatformEffect::Signal(Signal::Send(bench.vm.around().host.active(1)));
        assert_eq!(type_in(&mut bench), [interrupt]);
        assert!(type_in(&mut bench).is_empty(), "no room");
        for byte in b"abc" {
            assert_eq!(bench.read(0x3f8, 1), u32::from(*byte));
            let _ = type_in(&mut bench);
        }
        assert_eq!(bench.read(0x3fd, 1) & 1, 0);
    }

    #[test]
    fn the_timer_interrupts_through_the_io_apic_and_the_8259() {
        let mut bench = Bench::new();
        bench.redirect(2, 0x30, 0x0100_0000);
        assert_eq!(bench.platform.mmio_read(IO_APIC + 0x10), Some(0x30));
        // ICW1 to ICW4, all but IRQ 0 masked.
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 4),
            (0x21, 1),
            (0x21, 0xfe),
        ] {
            assert!(bench.out(port, 1, value).is_empty());
        }
        // Channel 0, mode 2, 1193 counts: a millisecond.
        for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
            assert!(bench.out(port, 1, value).is_empty());
        }
        let due = bench.platform.next_event(bench.now).unwrap();
        assert!((900_000..1_100_000).contains(&due), "{due}");
        assert!(bench.advance(due - 1000).is_empty());
        let effects = bench.advance(due);
        let host = &bench.vm.around().host;
        // vCPU 1 by the message; vCPU 0, the sender's own, by its line.
        assert_eq!(
            effects,
            [PlatformEffect::Signal(Signal::Send(host.active(1)))]
        );
        let port = bench.vm.port(1).unwrap();
        assert_eq!(port.receive().requests, [1 << 0x30, 0, 0, 0]);
        let lint0 = bench.vm.port(0).unwrap();
        assert!(lint0.mailbox().external_interrupt().line);
        let context = AccessContext {
            vm: &bench.vm,
            sender: Sender { processor: 0 },
            now: due,
        };
        let vector = bench
            .platform
            .acknowledge_external_interrupt(context, |_| {});
        assert_eq!(vector, 0x20);
        assert!(!lint0.mailbox().external_interrupt().line);
    }

    #[test]
    fn a_level_triggered_interrupt_comes_again_until_its_cause_is_gone() {
        let mut bench = Bench::new();
        // Pin 4, the serial port, level-triggered.
        bench.redirect(4, 0x8051, 0x0100_0000);
        let _ = bench.out(0x3fc, 1, 0x0b);
        let effects = bench.out(0x3f9, 1, 2);
        let kick = PlatformEffect::Signal(Signal::Send(bench.vm.around().host.kick(1)));
        assert_eq!(effects, [kick]);
        let port = bench.vm.port(1).unwrap();
        assert_eq!(port.receive().events.unwrap().level[1], 1 << 0x11);
        assert!(bench.advance(100).is_empty(), "in service");
        let mut effects = Vec::new();
        let context = AccessContext {
            vm: &bench.vm,
            sender: Sender { processor: 0 },
            now: 100,
        };
        bench
            .platform
            .end_of_interrupt(context, 0x51, |e| effects.push(e));
        assert_eq!(effects, [kick], "still asserted");
        let _ = bench.out(0x3f9, 1, 0);
        effects.clear();
        let context = AccessContext {
            vm: &bench.vm,
            sender: Sender { processor: 0 },
            now: 100,
        };
        bench
            .platform
            .end_of_interrupt(context, 0x51, |e| effects.push(e));
        assert_eq!(effects, []);
    }
}
