//! IPIs that the processor leaves to software: every kind, in both modes.
//!
//! Without IPI virtualization that is all of them; with it, everything but a fixed, physical, edge
//! unicast to a valid entry (SDM 30.1.6 IPI Virtualization). The common unicast comes first and costs
//! a few dozen instructions; the rest goes through `apic::routing`.

use alloc::vec::Vec;

use apic::routing::{
    Delivery, Destination, Identity, InterruptMessage, route_command, route_message,
};
use arch::interrupt_command::{DELIVERY_STATUS, InterruptCommand, TriggerMode, X2APIC_RESERVED};

use super::{
    posting::{Sender, Signal},
    vm_interrupts::VmInterrupts,
};

/// Bits of the low word that must be 0 for the common unicast: reserved, shorthand, trigger mode,
/// delivery status, destination mode, delivery mode. Bit 14 (level) does not matter.
const NOT_UNICAST: u32 = 0xffff_bf00;

/// Per-vCPU state of the dispatcher: a buffer.
#[derive(Clone, Debug, Default)]
pub struct IpiDispatcher {
    identities: Vec<Identity>,
}

/// The common case of [`IpiDispatcher::dispatch`]: a fixed, physical unicast that one vCPU takes. `None`
/// if the command is anything else; nothing was done then.
#[inline]
pub fn dispatch_unicast(
    vm: &VmInterrupts,
    low: u32,
    destination: u32,
    sender: Sender,
) -> Option<Signal> {
    if low & NOT_UNICAST != 0 || low & 0xf0 == 0 {
        return None;
    }
    let target = vm.port(vm.ipi_virtualization().taker(destination)?)?;
    Some(vm.around().post_vector(target, low as u8, sender))
}

/// The value the guest wrote to the x2APIC ICR, as software may use it: bit 12 is cleared. Processors
/// leave it set on the virtual-APIC page after the APIC-write exit that it causes (prior-art B5 number
/// 1); the register reads back 0 there (SDM 10.12.9).
pub const fn without_busy_bit(interrupt_command: u64) -> u64 {
    interrupt_command & !DELIVERY_STATUS
}

/// Whether an intercepted WRMSR of `interrupt_command` to 830H must raise #GP(0), as the processor
/// does under IPI virtualization (SDM 10.12.9; 30.5; prior-art B5 number 2). Bit 12 does not.
pub const fn x2apic_command_faults(interrupt_command: u64) -> bool {
    interrupt_command & X2APIC_RESERVED != 0
}

impl IpiDispatcher {
    /// Sends a command of vCPU `vcpu`, whose processor executes this in root mode. Each signal must be
    /// acted on: it is passed to `signal` as soon as it is due.
    pub fn dispatch(
        &mut self,
        vm: &VmInterrupts,
        vcpu: u32,
        command: InterruptCommand,
        sender: Sender,
        mut signal: impl FnMut(Signal),
    ) {
        vm.identities().snapshot(&mut self.identities);
        let recipients = route_command(command, vcpu as usize, &self.identities);
        let delivery = recipients.delivery();
        for recipient in recipients {
            deliver(vm, recipient, delivery, sender, &mut signal);
        }
    }

    /// Delivers a message from the I/O APIC or a device.
    pub fn deliver_message(
        &mut self,
        vm: &VmInterrupts,
        message: devices::interrupt_message::InterruptMessage,
        sender: Sender,
        mut signal: impl FnMut(Signal),
    ) {
        vm.identities().snapshot(&mut self.identities);
        let message = InterruptMessage {
            vector: message.vector,
            delivery_mode: message.delivery_mode,
            destination_mode: message.destination_mode,
            destination: Destination::Xapic(message.destination as u8),
            trigger_mode: message.trigger_mode,
        };
        let recipients = route_message(message, &self.identities);
        let delivery = recipients.delivery();
        for recipient in recipients {
            deliver(vm, recipient, delivery, sender, &mut signal);
        }
    }
}

fn deliver(
    vm: &VmInterrupts,
    recipient: usize,
    delivery: Delivery,
    sender: Sender,
    signal: &mut impl FnMut(Signal),
) {
    let Some(target) = vm.ports().get(recipient) else {
        return;
    };
    let around = vm.around();
    signal(match delivery {
        // SDM 10.5.3 Error Handling: the sender has recorded its error; the receiver records its own
        // when it accepts. PIR never holds such a vector.
        Delivery::Fixed {
            vector: vector @ 0..16,
            ..
        } => around.post_illegal_vector(target, vector, sender),
        Delivery::Fixed {
            vector,
            trigger_mode: TriggerMode::Edge,
        } => around.post_vector(target, vector, sender),
        Delivery::Fixed {
            vector,
            trigger_mode: TriggerMode::Level,
        } => around.post_level(target, vector, sender),
        Delivery::NonMaskable => around.post_non_maskable(target, sender),
        Delivery::Init => around.post_init(target, sender),
        Delivery::StartUp { vector } => around.post_start_up(target, vector, sender),
        // There is no system-management mode in a guest.
        Delivery::SystemManagement => Signal::None,
        Delivery::ExternalInterrupt => around.post_external_message(target, sender),
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::vm_interrupts::bench::{identity, vm};
    use super::*;
    use apic::apic_base::ApicMode;
    use arch::interrupt_command::DeliveryMode;

    const SENDER: Sender = Sender { processor: 0 };

    /// Sends from vCPU 0 and says what each of the vCPUs received.
    fn send(vm: &VmInterrupts, command: InterruptCommand) -> Vec<String> {
        let mut signals = 0;
        IpiDispatcher::default().dispatch(vm, 0, command, SENDER, |s| {
            signals += usize::from(s != Signal::None);
        });
        let received: Vec<String> = vm
            .ports()
            .iter()
            .enumerate()
            .filter_map(|(i, port)| {
                let received = port.receive();
                let vectors: Vec<u8> = apic::mailbox::vectors_of(received.requests).collect();
                let events = received.events.unwrap_or_default();
                let mut text = String::new();
                for vector in vectors {
                    text += &format!("v{vector:x}");
                }
                if events.non_maskable != 0 {
                    text += "nmi";
                }
                if events.init {
                    text += "init";
                }
                if let Some(page) = events.start_up {
                    text += &format!("sipi{page:x}");
                }
                (!text.is_empty()).then(|| format!("{i}:{text}"))
            })
            .collect();
        let others: usize = received
            .iter()
            .filter(|line| !line.starts_with("0:"))
            .count();
        assert_eq!(
            signals, others,
            "every other recipient is told, the sender itself is not"
        );
        received
    }

    #[test]
    fn every_kind_reaches_whom_it_should_in_both_modes() {
        for mode in [ApicMode::Xapic, ApicMode::X2apic] {
            let everyone = if mode == ApicMode::Xapic {
                0xff
            } else {
                0xffff_ffff
            };
            for (name, low, destination, expected) in [
                ("fixed physical", 0x40f1, 2, &["2:vf1"][..]),
                ("fixed physical, to nobody", 0x40f1, 9, &[]),
                ("fixed physical, to oneself", 0x40f1, 0, &["0:vf1"]),
                (
                    "fixed physical broadcast",
                    0x40f1,
                    everyone,
                    &["0:vf1", "1:vf1", "2:vf1", "3:vf1"],
                ),
                ("fixed logical", 0x48f1, 0b1010, &["1:vf1", "3:vf1"]),
                ("self", 0x4_40f1, 3, &["0:vf1"]),
                (
                    "all including self",
                    0x8_40f1,
                    3,
                    &["0:vf1", "1:vf1", "2:vf1", "3:vf1"],
                ),
                (
                    "all excluding self",
                    0xc_40f1,
                    3,
                    &["1:vf1", "2:vf1", "3:vf1"],
                ),
                ("lowest priority", 0x49f1, 0b1100, &["2:vf1"]),
                ("NMI", 0x4400, 1, &["1:nmi"]),
                (
                    "NMI to the others",
                    0xc_4400,
                    0,
                    &["1:nmi", "2:nmi", "3:nmi"],
                ),
                ("INIT", 0x4500, 1, &["1:init"]),
                ("INIT level de-assert", 0x8500, 1, &[]),
                ("start-up", 0x469a, 1, &["1:sipi9a"]),
                ("start-up at page 0", 0x4600, 1, &["1:sipi0"]),
                ("SMI", 0x4200, 1, &[]),
                ("reserved mode", 0x43f1, 1, &[]),
                ("NMI to oneself by shorthand is invalid", 0x4_4400, 0, &[]),
            ] {
                // Logical IDs of the bench are 1 << id in the flat model, cluster 0 in x2APIC mode.
                let vm = vm(4, mode);
                let received = send(&vm, InterruptCommand::decode(low, destination));
                assert_eq!(received, expected, "{name} {mode:?}");
            }
        }
    }

    /// The sender's ESR is its local APIC's business; the receiver gets the vector where it becomes an
    /// error, and never in PIR.
    #[test]
    fn an_illegal_vector_goes_to_the_receivers_error_not_its_requests() {
        let vm = vm(2, ApicMode::X2apic);
        for low in [0x400f, 0x4000, 0xc_400f] {
            let command = InterruptCommand::decode(low, 1);
            IpiDispatcher::default().dispatch(&vm, 0, command, SENDER, |_| {});
            let received = vm.port(1).unwrap().receive();
            assert_eq!(received.requests, [0; 4], "{low:#x}");
            assert_eq!(
                received.events.unwrap().edge,
                [1 << (low & 0xff), 0, 0, 0],
                "{low:#x}"
            );
        }
    }

    #[test]
    fn the_short_way_is_taken_exactly_for_the_common_unicast() {
        let vm = vm(4, ApicMode::X2apic);
        let host = &vm.around().host;
        assert_eq!(
            dispatch_unicast(&vm, 0xf1, 2, SENDER),
            Some(Signal::Send(host.active(2)))
        );
        assert_eq!(
            dispatch_unicast(&vm, 0xf1, 2, SENDER),
            Some(Signal::None),
            "ON is set"
        );
        assert_eq!(
            dispatch_unicast(&vm, 0x40f1, 0, SENDER),
            Some(Signal::None),
            "oneself"
        );
        for bit in (8..32).filter(|bit| *bit != 14) {
            assert_eq!(
                dispatch_unicast(&vm, 0xf1 | 1 << bit, 1, SENDER),
                None,
                "bit {bit}"
            );
        }
        for (low, destination) in [(0x0f, 1), (0xf1, 4), (0xf1, 0xff), (0xf1, 0xffff_ffff)] {
            assert_eq!(
                dispatch_unicast(&vm, low, destination, SENDER),
                None,
                "{low:#x}"
            );
        }
        assert!(!vm.port(1).unwrap().view().has_requests());
    }

    /// What the short way refuses because the target does not take it goes nowhere by the long one.
    #[test]
    fn a_disabled_target_gets_nothing_either_way() {
        let vm = vm(2, ApicMode::X2apic);
        let off = Identity {
            software_enabled: false,
            ..identity(1, ApicMode::X2apic)
        };
        let _ = vm.publish(1, &off);
        assert_eq!(dispatch_unicast(&vm, 0xf1, 1, SENDER), None);
        let received = send(&vm, InterruptCommand::decode(0xf1, 1));
        assert!(received.is_empty());
    }

    #[test]
    fn a_rewritten_xapic_id_is_followed() {
        let vm = vm(3, ApicMode::Xapic);
        let rewritten = Identity {
            xapic_id: 9,
            ..identity(1, ApicMode::Xapic)
        };
        let _ = vm.publish(1, &rewritten);
        assert_eq!(dispatch_unicast(&vm, 0xf1, 1, SENDER), None);
        assert_eq!(send(&vm, InterruptCommand::decode(0xf1, 9)), ["1:vf1"]);
        assert!(send(&vm, InterruptCommand::decode(0xf1, 1)).is_empty());
        // Two vCPUs with one ID both take it, so the short way must not stop at the first.
        let alias = Identity {
            xapic_id: 2,
            ..identity(1, ApicMode::Xapic)
        };
        let _ = vm.publish(1, &alias);
        assert_eq!(dispatch_unicast(&vm, 0xf1, 2, SENDER), None);
        assert_eq!(
            send(&vm, InterruptCommand::decode(0xf1, 2)),
            ["1:vf1", "2:vf1"]
        );
    }

    #[test]
    fn lowest_priority_goes_by_what_was_published() {
        let vm = vm(4, ApicMode::X2apic);
        for (id, priority) in [(0, 0x10), (1, 0x50), (2, 0x20), (3, 0x30)] {
            vm.identities().publish_priority(id, priority);
        }
        let command = InterruptCommand::decode(0x4941, 0b1110);
        assert_eq!(send(&vm, command), ["2:v41"]);
    }

    /// B5 number 1: the processor leaves bit 12 set on the page; software must not take it for a
    /// delivery in progress, and the command goes out.
    #[test]
    fn b5_01_busy_bit_is_cleared_before_dispatch() {
        let written = 0x0000_0001_0000_10f1;
        assert!(!x2apic_command_faults(written));
        let cleared = without_busy_bit(written);
        assert_eq!(cleared, 0x0000_0001_0000_00f1);
        let vm = vm(2, ApicMode::X2apic);
        assert_eq!(
            dispatch_unicast(&vm, written as u32, 1, SENDER),
            None,
            "not before"
        );
        assert!(dispatch_unicast(&vm, cleared as u32, 1, SENDER).is_some());
    }

    /// B5 number 2: an intercepted write faults exactly where the processor's own check does.
    #[test]
    fn b5_02_reserved_bits_fault_when_intercepted() {
        for bit in 0..64 {
            let expected = matches!(bit, 13 | 16 | 17 | 20..=31);
            assert_eq!(
                x2apic_command_faults(0xf1 | 1 << bit),
                expected,
                "bit {bit}"
            );
        }
    }

    /// B5 number 3: whether a command faults does not depend on who looks at it, the processor under
    /// IPI virtualization or this code after an intercept; bit 12 faults with neither.
    #[test]
    fn b5_03_the_busy_bit_faults_in_neither_path() {
        use apic::ipi_decision::{Controls, IpiDecision, x2apic_command};
        let controls = Controls {
            virtual_interrupt_delivery: true,
            ipi_virtualization: true,
        };
        for bit in 0..64 {
            for busy in [0, 1 << 12] {
                let value = 0x1_0000_00f1 ^ 1 << bit | busy;
                let faults = x2apic_command(value, controls) == IpiDecision::GeneralProtection;
                assert_eq!(x2apic_command_faults(value), faults, "{value:#x}");
            }
        }
        assert!(!x2apic_command_faults(0x1_0000_10f1));
    }

    #[test]
    fn messages_of_the_io_apic_arrive_by_their_trigger_mode() {
        use devices::interrupt_message::InterruptMessage as Message;
        let vm = vm(2, ApicMode::Xapic);
        let message = Message {
            vector: 0x31,
            delivery_mode: DeliveryMode::Fixed,
            destination_mode: arch::interrupt_command::DestinationMode::Physical,
            destination: 1,
            trigger_mode: TriggerMode::Edge,
        };
        let mut dispatcher = IpiDispatcher::default();
        let mut signals = Vec::new();
        dispatcher.deliver_message(&vm, message, SENDER, |s| signals.push(s));
        let level = Message {
            trigger_mode: TriggerMode::Level,
            ..message
        };
        dispatcher.deliver_message(&vm, level, SENDER, |s| signals.push(s));
        let external = Message {
            delivery_mode: DeliveryMode::ExternalInterrupt,
            ..message
        };
        dispatcher.deliver_message(&vm, external, SENDER, |s| signals.push(s));
        let host = &vm.around().host;
        let kick = Signal::Send(host.kick(1));
        assert_eq!(signals, [Signal::Send(host.active(1)), kick, kick]);
        let port = vm.port(1).unwrap();
        let received = port.receive();
        assert_eq!(received.requests, [1 << 0x31, 0, 0, 0]);
        assert_eq!(received.events.unwrap().level, [1 << 0x31, 0, 0, 0]);
        assert!(port.mailbox().external_interrupt().message);
        let illegal = Message {
            vector: 3,
            ..message
        };
        dispatcher.deliver_message(&vm, illegal, SENDER, |_| {});
        assert_eq!(port.receive().requests, [0; 4]);
    }
}
