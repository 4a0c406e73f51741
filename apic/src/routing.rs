//! Which processors an interrupt message reaches, and as what (SDM 10.6.2 Determining IPI
//! destination, 10.12.9, 10.12.10).

use arch::apic_register::{DESTINATION_FORMAT, LOGICAL_DESTINATION};
use arch::interrupt_command::{
    DeliveryMode, DestinationMode, InterruptCommand, Shorthand, TriggerMode, X2APIC_BROADCAST,
    XAPIC_BROADCAST,
};

use crate::apic_base::ApicMode;
use crate::register_page::RegisterPage;

/// What routing needs to know of one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The 32-bit ID, fixed by hardware.
    pub x2apic_id: u32,
    /// The 8-bit ID in use in xAPIC mode, which software may have rewritten.
    pub xapic_id: u8,
    /// The mode.
    pub mode: ApicMode,
    /// LDR, raw: bits 31:24 in xAPIC mode, all of it in x2APIC mode.
    pub logical_destination: u32,
    /// DFR, raw: bits 31:28 are the model. Without meaning in x2APIC mode.
    pub destination_format: u32,
    /// Software-enabled by the spurious-interrupt vector register: takes fixed interrupts.
    pub software_enabled: bool,
    /// Processor priority, for lowest-priority arbitration.
    pub priority: u8,
}

impl Identity {
    /// The identity after reset (SDM 10.4.7.1): xAPIC mode, software-disabled, the flat model.
    pub const fn at_reset(x2apic_id: u32) -> Self {
        Self {
            x2apic_id,
            xapic_id: x2apic_id as u8,
            mode: ApicMode::Xapic,
            logical_destination: 0,
            destination_format: u32::MAX,
            software_enabled: false,
            priority: 0,
        }
    }

    /// The identity a register page gives; `mode` and `x2apic_id` are not in it.
    pub fn of_page<P: RegisterPage>(page: &P, mode: ApicMode, x2apic_id: u32) -> Self {
        use arch::apic_register::{ID, SPURIOUS_VECTOR, SPURIOUS_VECTOR_ENABLE};
        Self {
            x2apic_id,
            xapic_id: match mode {
                ApicMode::Xapic => (page.read(ID) >> 24) as u8,
                ApicMode::X2apic | ApicMode::Disabled => x2apic_id as u8,
            },
            mode,
            logical_destination: page.read(LOGICAL_DESTINATION),
            destination_format: page.read(DESTINATION_FORMAT),
            software_enabled: mode != ApicMode::Disabled
                && page.read(SPURIOUS_VECTOR) & SPURIOUS_VECTOR_ENABLE != 0,
            priority: crate::register_page::page_processor_priority(page),
        }
    }

    /// The ID that physical destinations name it by; `None` while its local APIC is disabled.
    // SDM 10.6.2.1 Physical Destination Mode, 10.12.9 ICR Operation in x2APIC Mode.
    pub fn physical_id(&self) -> Option<u32> {
        match self.mode {
            ApicMode::Disabled => None,
            ApicMode::Xapic => Some(u32::from(self.xapic_id)),
            ApicMode::X2apic => Some(self.x2apic_id),
        }
    }

    /// Whether it takes fixed interrupts.
    // SDM 10.4.3 Enabling or Disabling the Local APIC, 10.4.7.2.
    pub fn takes_fixed(&self) -> bool {
        self.software_enabled && self.mode != ApicMode::Disabled
    }

    fn matches(&self, destination: Destination, mode: DestinationMode) -> bool {
        if self.mode == ApicMode::Disabled {
            return false;
        }
        let id = match destination {
            // SDM 10.6.2.1, 10.6.2.2, 10.12.9: all ones is everyone, in either destination mode.
            Destination::Xapic(id) if u32::from(id) == XAPIC_BROADCAST => return true,
            Destination::X2apic(X2APIC_BROADCAST) => return true,
            Destination::Xapic(id) => u32::from(id),
            Destination::X2apic(id) => id,
        };
        match (mode, self.mode) {
            (DestinationMode::Physical, _) => self.physical_id() == Some(id),
            // SDM 10.12.10.1 Logical Destination Mode in x2APIC Mode.
            (DestinationMode::Logical, ApicMode::X2apic) => {
                id >> 16 == self.logical_destination >> 16
                    && id & self.logical_destination & 0xffff != 0
            }
            (DestinationMode::Logical, _) => u8::try_from(id).is_ok_and(|id| {
                let own = (self.logical_destination >> 24) as u8;
                // SDM 10.6.2.2 Logical Destination Mode: flat and cluster model. Other values
                // of the model are reserved.
                match self.destination_format >> 28 {
                    0xf => id & own != 0,
                    0 => id >> 4 == own >> 4 && id & own & 0xf != 0,
                    _ => false,
                }
            }),
        }
    }
}

/// A destination field, by how wide it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Eight bits: an xAPIC's command, an I/O APIC's entry, an MSI. FFH is everyone.
    Xapic(u8),
    /// 32 bits: an x2APIC's command. FFFFFFFFH is everyone.
    X2apic(u32),
}

/// An interrupt message that no local APIC sends: from an I/O APIC or an MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterruptMessage {
    /// The vector.
    pub vector: u8,
    /// How to deliver it.
    pub delivery_mode: DeliveryMode,
    /// How to read the destination.
    pub destination_mode: DestinationMode,
    /// The destination.
    pub destination: Destination,
    /// Edge or level.
    pub trigger_mode: TriggerMode,
}

impl InterruptMessage {
    /// Decodes an MSI; `None` if the address is not in FEE00000H to FEEFFFFFH.
    ///
    /// The redirection hint is left out of account: the delivery mode says whether to arbitrate.
    // SDM 10.11 Message Signalled Interrupts.
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        Some(Self {
            vector: data as u8,
            delivery_mode: DeliveryMode::from_bits((data >> 8) as u8),
            destination_mode: if address >> 2 & 1 != 0 {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            destination: Destination::Xapic((address >> 12) as u8),
            trigger_mode: if data >> 15 & 1 != 0 {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
        })
    }
}

/// What a recipient receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// A vector to accept. Below 16 it is the receiver's error, not an interrupt.
    Fixed {
        /// The vector.
        vector: u8,
        /// Edge or level.
        trigger_mode: TriggerMode,
    },
    /// A non-maskable interrupt.
    NonMaskable,
    /// A system-management interrupt.
    SystemManagement,
    /// INIT.
    Init,
    /// A start-up IPI.
    StartUp {
        /// The physical page to start at.
        vector: u8,
    },
    /// An external interrupt: the vector comes from the 8259.
    ExternalInterrupt,
}

/// Whom a message may reach.
#[derive(Clone, Copy, Debug)]
enum Reach {
    Nobody,
    Only(usize),
    Everyone { but: Option<usize> },
    Matching(Destination, DestinationMode),
}

/// The recipients of one message, in the order of the slice: their indices in it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Recipients<'a> {
    processors: &'a [Identity],
    reach: Reach,
    delivery: Delivery,
    next: usize,
}

impl Recipients<'_> {
    /// What every recipient receives. Without meaning if there is none.
    pub const fn delivery(&self) -> Delivery {
        self.delivery
    }

    fn includes(&self, index: usize, processor: &Identity) -> bool {
        let reached = match self.reach {
            Reach::Nobody => false,
            Reach::Only(only) => index == only,
            Reach::Everyone { but } => Some(index) != but,
            Reach::Matching(destination, mode) => processor.matches(destination, mode),
        };
        // SDM 10.4.7.2 Local APIC State After It Has Been Software Disabled: still responds to
        // INIT, NMI, SMI and SIPI.
        let takes = match self.delivery {
            Delivery::Fixed { .. } => processor.takes_fixed(),
            Delivery::NonMaskable
            | Delivery::SystemManagement
            | Delivery::Init
            | Delivery::StartUp { .. }
            | Delivery::ExternalInterrupt => true,
        };
        reached && takes && processor.mode != ApicMode::Disabled
    }
}

impl Iterator for Recipients<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(processor) = self.processors.get(self.next) {
            let index = self.next;
            self.next += 1;
            if self.includes(index, processor) {
                return Some(index);
            }
        }
        None
    }
}

/// The recipients of an interrupt command that `processors[sender]` sends.
///
/// Empty if the processor is not there, its local APIC is disabled, or the combination of fields
/// is invalid. The sender's own error for an illegal vector is the business of its
/// [`LocalApic`](crate::local_apic::LocalApic).
// SDM 10.6.1 Interrupt Command Register, table "Valid Combinations".
pub fn route_command(
    command: InterruptCommand,
    sender: usize,
    processors: &[Identity],
) -> Recipients<'_> {
    // The trigger mode matters to INIT level de-assert only.
    let delivery = match command.delivery_mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => Some(Delivery::Fixed {
            vector: command.vector,
            trigger_mode: TriggerMode::Edge,
        }),
        DeliveryMode::Smi => Some(Delivery::SystemManagement),
        DeliveryMode::Nmi => Some(Delivery::NonMaskable),
        // INIT level de-assert: without effect since the Pentium 4.
        DeliveryMode::Init if !command.assert && command.trigger_mode == TriggerMode::Level => None,
        DeliveryMode::Init => Some(Delivery::Init),
        DeliveryMode::StartUp => Some(Delivery::StartUp {
            vector: command.vector,
        }),
        DeliveryMode::Reserved | DeliveryMode::ExternalInterrupt => None,
    };
    let destination = match processors.get(sender).map(|identity| identity.mode) {
        Some(ApicMode::Xapic) => Some(Destination::Xapic(command.destination as u8)),
        Some(ApicMode::X2apic) => Some(Destination::X2apic(command.destination)),
        Some(ApicMode::Disabled) | None => None,
    };
    let fixed = command.delivery_mode == DeliveryMode::Fixed;
    let reach = match (command.shorthand, destination) {
        (_, None) => Reach::Nobody,
        (Shorthand::None, Some(destination)) => {
            Reach::Matching(destination, command.destination_mode)
        }
        (Shorthand::SelfOnly, _) if fixed => Reach::Only(sender),
        (Shorthand::AllIncludingSelf, _) if fixed => Reach::Everyone { but: None },
        (Shorthand::SelfOnly | Shorthand::AllIncludingSelf, _) => Reach::Nobody,
        (Shorthand::AllExcludingSelf, _) => Reach::Everyone { but: Some(sender) },
    };
    recipients(delivery, command.delivery_mode, reach, processors)
}

/// The recipients of a message from an I/O APIC or a device.
// SDM 10.11.2 Message Data Register Format.
pub fn route_message(message: InterruptMessage, processors: &[Identity]) -> Recipients<'_> {
    let delivery = match message.delivery_mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => Some(Delivery::Fixed {
            vector: message.vector,
            trigger_mode: message.trigger_mode,
        }),
        DeliveryMode::Smi => Some(Delivery::SystemManagement),
        DeliveryMode::Nmi => Some(Delivery::NonMaskable),
        DeliveryMode::Init => Some(Delivery::Init),
        DeliveryMode::ExternalInterrupt => Some(Delivery::ExternalInterrupt),
        DeliveryMode::Reserved | DeliveryMode::StartUp => None,
    };
    let reach = Reach::Matching(message.destination, message.destination_mode);
    recipients(delivery, message.delivery_mode, reach, processors)
}

fn recipients(
    delivery: Option<Delivery>,
    delivery_mode: DeliveryMode,
    reach: Reach,
    processors: &[Identity],
) -> Recipients<'_> {
    let mut recipients = Recipients {
        processors,
        reach: if delivery.is_some() {
            reach
        } else {
            Reach::Nobody
        },
        delivery: delivery.unwrap_or(Delivery::NonMaskable),
        next: 0,
    };
    if delivery_mode == DeliveryMode::LowestPriority {
        // SDM 10.6.2.4 Lowest Priority Delivery Mode leaves ties to the model: the first wins.
        let chosen = recipients
            .clone()
            .min_by_key(|index| processors.get(*index).map(|processor| processor.priority));
        recipients.reach = chosen.map_or(Reach::Nobody, Reach::Only);
    }
    recipients
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn xapic(id: u8, logical: u8, format: u32) -> Identity {
        Identity {
            x2apic_id: u32::from(id),
            xapic_id: id,
            mode: ApicMode::Xapic,
            logical_destination: u32::from(logical) << 24,
            destination_format: format,
            software_enabled: true,
            priority: 0,
        }
    }

    fn x2apic(id: u32) -> Identity {
        Identity {
            x2apic_id: id,
            xapic_id: id as u8,
            mode: ApicMode::X2apic,
            logical_destination: (id >> 4) << 16 | 1 << (id & 15),
            destination_format: 0xffff_ffff,
            software_enabled: true,
            priority: 0,
        }
    }

    fn flat() -> Vec<Identity> {
        (0..4).map(|id| xapic(id, 1 << id, 0xffff_ffff)).collect()
    }

    fn command(low: u32, destination: u32) -> InterruptCommand {
        InterruptCommand::decode(low, destination)
    }

    fn reached(low: u32, destination: u32, sender: usize, processors: &[Identity]) -> Vec<usize> {
        route_command(command(low, destination), sender, processors).collect()
    }

    #[test]
    fn physical_destinations() {
        let mut small = flat();
        assert_eq!(reached(0x41, 2, 0, &small), [2]);
        assert_eq!(reached(0x41, 0, 0, &small), [0], "oneself");
        assert_eq!(reached(0x41, 9, 0, &small), []);
        assert_eq!(reached(0x41, 0xff, 0, &small), [0, 1, 2, 3]);
        small[1].xapic_id = 7;
        assert_eq!(reached(0x41, 7, 0, &small), [1], "a rewritten ID");
        assert_eq!(reached(0x41, 1, 0, &small), []);

        let large: Vec<_> = [0, 1, 0xff, 0x1_0001].map(x2apic).into();
        assert_eq!(reached(0x41, 1, 0, &large), [1], "all 32 bits count");
        assert_eq!(
            reached(0x41, 0xff, 0, &large),
            [2],
            "FFH is an ID as any other"
        );
        assert_eq!(reached(0x41, 0x1_0001, 0, &large), [3]);
        assert_eq!(reached(0x41, 0xffff_ffff, 0, &large), [0, 1, 2, 3]);
    }

    #[test]
    fn logical_destinations() {
        let logical = 0x841;
        assert_eq!(reached(logical, 0b0101, 0, &flat()), [0, 2]);
        assert_eq!(reached(logical, 0xff, 0, &flat()), [0, 1, 2, 3]);
        assert_eq!(reached(logical, 0, 0, &flat()), []);

        let cluster: Vec<_> = [0x11, 0x12, 0x21, 0x28]
            .map(|ldr| xapic(ldr, ldr, 0x0fff_ffff))
            .into();
        assert_eq!(reached(logical, 0x13, 0, &cluster), [0, 1]);
        assert_eq!(reached(logical, 0x21, 0, &cluster), [2]);
        assert_eq!(reached(logical, 0x31, 0, &cluster), []);
        assert_eq!(reached(logical, 0xff, 0, &cluster), [0, 1, 2, 3]);

        let reserved: Vec<_> = [xapic(0, 1, 0x7fff_ffff)].into();
        assert_eq!(reached(logical, 1, 0, &reserved), []);

        let large: Vec<_> = [0, 1, 0x10, 0x11].map(x2apic).into();
        assert_eq!(reached(logical, 0x0000_0003, 0, &large), [0, 1]);
        assert_eq!(reached(logical, 0x0001_0002, 0, &large), [3]);
        assert_eq!(reached(logical, 0x0002_0001, 0, &large), []);
        assert_eq!(reached(logical, 0xffff_ffff, 0, &large), [0, 1, 2, 3]);
    }

    #[test]
    fn shorthands_and_their_valid_modes() {
        let all = flat();
        for (mode, own, including, excluding) in [
            (0, true, true, true),
            (1, false, false, true),
            (2, false, false, true),
            (3, false, false, false),
            (4, false, false, true),
            (5, false, false, true),
            (6, false, false, true),
            (7, false, false, false),
        ] {
            let low = 0x4041 | mode << 8;
            assert_eq!(
                !reached(low | 1 << 18, 3, 1, &all).is_empty(),
                own,
                "self {mode}"
            );
            assert_eq!(
                !reached(low | 2 << 18, 3, 1, &all).is_empty(),
                including,
                "all {mode}"
            );
            assert_eq!(
                !reached(low | 3 << 18, 3, 1, &all).is_empty(),
                excluding,
                "others {mode}"
            );
        }
        assert_eq!(reached(0x4_4041, 3, 1, &all), [1]);
        assert_eq!(reached(0x8_4041, 3, 1, &all), [0, 1, 2, 3]);
        assert_eq!(reached(0xc_4041, 3, 1, &all), [0, 2, 3]);
    }

    #[test]
    fn delivery_modes() {
        let all = flat();
        let edge = |vector| Delivery::Fixed {
            vector,
            trigger_mode: TriggerMode::Edge,
        };
        for (low, expected) in [
            (0x4041, Some(edge(0x41))),
            (0xc041, Some(edge(0x41))),
            (0x400f, Some(edge(0x0f))),
            (0x4141, Some(edge(0x41))),
            (0x4200, Some(Delivery::SystemManagement)),
            (0x4300, None),
            (0x4400, Some(Delivery::NonMaskable)),
            (0x4500, Some(Delivery::Init)),
            (0xc500, Some(Delivery::Init)),
            (0x8500, None),
            (0x0500, Some(Delivery::Init)),
            (0x469a, Some(Delivery::StartUp { vector: 0x9a })),
            (0x4700, None),
        ] {
            let route = route_command(command(low, 2), 0, &all);
            let delivery = route.delivery();
            let found: Vec<_> = route.map(|index| (index, delivery)).collect();
            let wanted: Vec<_> = expected.map(|delivery| (2, delivery)).into_iter().collect();
            assert_eq!(found, wanted, "{low:#x}");
        }
    }

    #[test]
    fn disabled_processors() {
        let mut all = flat();
        all[2].software_enabled = false;
        assert_eq!(reached(0x4041, 0xff, 0, &all), [0, 1, 3]);
        assert_eq!(reached(0x4141, 2, 0, &all), []);
        for low in [0x4200, 0x4400, 0x4500, 0x4600] {
            assert_eq!(reached(low, 2, 0, &all), [2], "{low:#x}");
        }
        all[2].mode = ApicMode::Disabled;
        for low in [0x4041, 0x4200, 0x4400, 0x4500, 0x4600] {
            assert_eq!(reached(low, 2, 0, &all), [], "{low:#x}");
            assert_eq!(reached(low, 1, 2, &all), [], "{low:#x} as sender");
        }
        assert_eq!(reached(0xc_4400, 0, 0, &all), [1, 3]);
        assert_eq!(reached(0x4041, 1, 99, &all), [], "no such sender");
    }

    #[test]
    fn lowest_priority_chooses_exactly_one() {
        let mut all = flat();
        for (priorities, expected) in [
            ([0, 0, 0, 0], 0),
            ([5, 4, 3, 4], 2),
            ([5, 4, 3, 3], 2),
            ([1, 1, 9, 0], 3),
        ] {
            for (processor, priority) in all.iter_mut().zip(priorities) {
                processor.priority = priority;
            }
            assert_eq!(reached(0x4941, 0x0f, 0, &all), [expected], "{priorities:?}");
        }
        all[3].software_enabled = false;
        assert_eq!(reached(0x4941, 0x0c, 0, &all), [2]);
        assert_eq!(reached(0x4941, 0x08, 0, &all), []);
        assert_eq!(reached(0xc_4141, 0, 0, &all), [1], "among the others");
    }

    #[test]
    fn messages() {
        let message = InterruptMessage::from_msi(0xfee0_300c, 0xc1_91).unwrap();
        assert_eq!(
            message,
            InterruptMessage {
                vector: 0x91,
                delivery_mode: DeliveryMode::LowestPriority,
                destination_mode: DestinationMode::Logical,
                destination: Destination::Xapic(3),
                trigger_mode: TriggerMode::Level,
            }
        );
        assert_eq!(InterruptMessage::from_msi(0xfef0_0000, 0), None);
        assert_eq!(InterruptMessage::from_msi(0x1_fee0_0000, 0), None);

        let all = flat();
        let route = route_message(message, &all);
        let level = Delivery::Fixed {
            vector: 0x91,
            trigger_mode: TriggerMode::Level,
        };
        assert_eq!(route.delivery(), level);
        assert_eq!(route.collect::<Vec<_>>(), [0]);
        for (mode, count) in [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 0),
            (4, 1),
            (5, 1),
            (6, 0),
            (7, 1),
        ] {
            let message = InterruptMessage {
                delivery_mode: DeliveryMode::from_bits(mode),
                destination_mode: DestinationMode::Physical,
                ..message
            };
            assert_eq!(route_message(message, &all).count(), count, "{mode}");
        }
        // Eight-bit destinations reach x2APIC processors, zero-extended.
        let large: Vec<_> = [0, 3, 0x103].map(x2apic).into();
        let physical = InterruptMessage {
            destination_mode: DestinationMode::Physical,
            delivery_mode: DeliveryMode::Fixed,
            ..message
        };
        assert_eq!(route_message(physical, &large).collect::<Vec<_>>(), [1]);
        let everyone = InterruptMessage {
            destination: Destination::Xapic(0xff),
            ..physical
        };
        assert_eq!(route_message(everyone, &large).count(), 3);
    }
}
