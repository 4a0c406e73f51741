//! A local APIC's registers as a page of memory, and the 256-bit registers in it.
//!
//! The owned page is the machine's silicon. The virtual-APIC page (SDM 30.1.1 Virtualized APIC
//! registers) has the same layout, so the same functions maintain VIRR, VISR and VPPR there.

use arch::apic_register::{IN_SERVICE, INTERRUPT_REQUEST, TASK_PRIORITY, TRIGGER_MODE};

/// Storage of a local APIC's registers.
pub trait RegisterPage {
    /// No one but the [`LocalApic`](crate::local_apic::LocalApic) that holds this page changes it,
    /// so what it knows about the contents may be remembered. Leave it `false` for a virtual-APIC
    /// page: the processor sets VIRR bits there.
    const EXCLUSIVE: bool = false;

    /// The 32-bit word at byte `offset`, a multiple of 4 below 400H; 0 outside.
    fn read(&self, offset: u32) -> u32;

    /// Replaces the word at byte `offset`, a multiple of 4 below 400H; ignored outside.
    fn write(&mut self, offset: u32, value: u32);
}

/// A page of one's own: the 1 KiB in which there are registers.
#[derive(Clone, Debug)]
pub struct OwnedPage([u32; 256]);

impl OwnedPage {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; 256])
    }
}

impl Default for OwnedPage {
    fn default() -> Self {
        Self::new()
    }
}

impl RegisterPage for OwnedPage {
    const EXCLUSIVE: bool = true;

    fn read(&self, offset: u32) -> u32 {
        self.0.get(offset as usize / 4).copied().unwrap_or(0)
    }

    fn write(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.0.get_mut(offset as usize / 4) {
            *word = value;
        }
    }
}

/// One of the 256-bit registers: eight words, 16 bytes apart, bit `v` for vector `v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VectorBank {
    /// IRR: accepted, not yet dispensed.
    InterruptRequest,
    /// ISR: dispensed, not yet ended.
    InService,
    /// TMR: the request was level-triggered.
    TriggerMode,
}

impl VectorBank {
    /// Page offset of the word with vectors 0 to 31.
    pub const fn offset(self) -> u32 {
        match self {
            Self::InterruptRequest => INTERRUPT_REQUEST,
            Self::InService => IN_SERVICE,
            Self::TriggerMode => TRIGGER_MODE,
        }
    }

    const fn word_of(self, vector: u8) -> u32 {
        self.offset() + (vector as u32 / 32) * 16
    }
}

/// Whether `vector` is set.
pub fn test_vector<P: RegisterPage>(page: &P, bank: VectorBank, vector: u8) -> bool {
    page.read(bank.word_of(vector)) >> (vector % 32) & 1 != 0
}

/// Sets `vector`; true if it was clear.
pub fn set_vector<P: RegisterPage>(page: &mut P, bank: VectorBank, vector: u8) -> bool {
    let offset = bank.word_of(vector);
    let old = page.read(offset);
    let new = old | 1 << (vector % 32);
    page.write(offset, new);
    old != new
}

/// Clears `vector`; true if it was set.
pub fn clear_vector<P: RegisterPage>(page: &mut P, bank: VectorBank, vector: u8) -> bool {
    let offset = bank.word_of(vector);
    let old = page.read(offset);
    let new = old & !(1 << (vector % 32));
    page.write(offset, new);
    old != new
}

/// The highest vector set, which is the one with the highest priority.
pub fn highest_vector<P: RegisterPage>(page: &P, bank: VectorBank) -> Option<u8> {
    (0..8u32).rev().find_map(|word| {
        let bits = page.read(bank.offset() + word * 16);
        (bits != 0).then(|| (word * 32 + bits.ilog2()) as u8)
    })
}

/// Sets every vector that is set in `vectors` (bit `v % 64` of element `v / 64`), as
/// posted-interrupt processing merges PIR into VIRR; the highest of them, for RVI.
// SDM 30.6 Posted-Interrupt Processing.
pub fn merge_vectors<P: RegisterPage>(
    page: &mut P,
    bank: VectorBank,
    vectors: [u64; 4],
) -> Option<u8> {
    let mut highest = None;
    for (index, bits) in (0u32..).zip(vectors) {
        if bits == 0 {
            continue;
        }
        for (half, word) in [bits as u32, (bits >> 32) as u32].into_iter().enumerate() {
            let offset = bank.offset() + (index * 2 + half as u32) * 16;
            if word != 0 {
                page.write(offset, page.read(offset) | word);
            }
        }
        highest = Some((index * 64 + bits.ilog2()) as u8);
    }
    highest
}

/// Clears the whole bank.
pub fn clear_bank<P: RegisterPage>(page: &mut P, bank: VectorBank) {
    for word in 0..8 {
        page.write(bank.offset() + word * 16, 0);
    }
}

/// PPR from the task priority and the highest vector in service (0 for none): also VPPR from VTPR
/// and SVI.
// SDM 10.8.3.1 Task and Processor Priorities; 30.1.3 PPR Virtualization. Where the classes are
// equal the former leaves bits 3:0 to the model and the latter takes VTPR's.
pub const fn processor_priority(task_priority: u8, in_service: u8) -> u8 {
    if task_priority >> 4 >= in_service >> 4 {
        task_priority
    } else {
        in_service & 0xf0
    }
}

/// [`processor_priority`] of what is in the page.
pub fn page_processor_priority<P: RegisterPage>(page: &P) -> u8 {
    processor_priority(
        page.read(TASK_PRIORITY) as u8,
        highest_vector(page, VectorBank::InService).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bank_keeps_256_vectors_apart() {
        let banks = [
            VectorBank::InterruptRequest,
            VectorBank::InService,
            VectorBank::TriggerMode,
        ];
        for bank in banks {
            let mut page = OwnedPage::new();
            assert_eq!(highest_vector(&page, bank), None);
            for vector in 0..=255 {
                assert!(!test_vector(&page, bank, vector));
                assert!(set_vector(&mut page, bank, vector));
                assert!(!set_vector(&mut page, bank, vector));
                assert_eq!(highest_vector(&page, bank), Some(vector));
                for other in banks.into_iter().filter(|other| *other != bank) {
                    assert_eq!(highest_vector(&page, other), None);
                }
            }
            for vector in (0..=255).rev() {
                assert_eq!(highest_vector(&page, bank), Some(vector));
                assert!(clear_vector(&mut page, bank, vector));
                assert!(!clear_vector(&mut page, bank, vector));
            }
            set_vector(&mut page, bank, 3);
            set_vector(&mut page, bank, 255);
            clear_bank(&mut page, bank);
            assert_eq!(highest_vector(&page, bank), None);
        }
    }

    #[test]
    fn merging_adds_and_reports_the_highest_of_the_added() {
        let mut page = OwnedPage::new();
        set_vector(&mut page, VectorBank::InterruptRequest, 250);
        assert_eq!(
            merge_vectors(&mut page, VectorBank::InterruptRequest, [0; 4]),
            None
        );
        let added = [1 << 63, 1 << 31 | 1 << 32, 0, 0];
        assert_eq!(
            merge_vectors(&mut page, VectorBank::InterruptRequest, added),
            Some(96)
        );
        for vector in [63, 95, 96, 250] {
            assert!(
                clear_vector(&mut page, VectorBank::InterruptRequest, vector),
                "{vector}"
            );
        }
        assert_eq!(highest_vector(&page, VectorBank::InterruptRequest), None);
    }

    #[test]
    fn priority_is_the_higher_class() {
        for (task, service, expected) in [
            (0x00, 0x00, 0x00),
            (0x00, 0x4f, 0x40),
            (0x35, 0x4f, 0x40),
            (0x45, 0x4f, 0x45),
            (0x50, 0x4f, 0x50),
            (0xff, 0xff, 0xff),
        ] {
            assert_eq!(
                processor_priority(task, service),
                expected,
                "{task:#x} {service:#x}"
            );
        }
    }

    #[test]
    fn outside_the_page_is_nothing() {
        let mut page = OwnedPage::new();
        page.write(0x400, 1);
        page.write(u32::MAX, 1);
        assert_eq!(page.read(0x400), 0);
        assert_eq!(page.read(u32::MAX), 0);
    }
}
