//! One processor's state: what its handlers count, what it may count, its descriptor tables and
//! its stacks.
#![allow(
    unsafe_code,
    reason = "lays out memory that the processor and the handlers read"
)]

use super::instruction::write_msr;
use arch::msr::IA32_GS_BASE;
use core::{
    arch::{asm, global_asm},
    cell::UnsafeCell,
    mem::offset_of,
    ptr::null_mut,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
use posthaste_guest::{
    descriptor::{
        CODE, CODE_32, CODE_SELECTOR, DATA, TASK_SELECTOR, TASK_STATE_SIZE, interrupt_gate,
        task_state_descriptor,
    },
    tally::Cell,
    vector,
};

/// How many interrupts' order is kept.
const ORDER_CAPACITY: usize = 64;

global_asm!(
    include_str!("interrupts.s"),
    received = const offset_of!(Processor, received),
    order = const offset_of!(Processor, order),
    order_length = const offset_of!(Processor, order_length),
    order_capacity = const ORDER_CAPACITY,
    apic_page = const offset_of!(Processor, apic_page),
    recovery = const offset_of!(Processor, recovery),
    faults = const offset_of!(Processor, faults),
    spurious = const vector::SPURIOUS,
    nmi = const vector::NMI,
    options(att_syntax)
);

/// Offset of [`Processor::recovery`] from the GS base.
pub(super) const RECOVERY: usize = offset_of!(Processor, recovery);
/// Offset of [`Processor::faults`] from the GS base.
pub(super) const FAULTS: usize = offset_of!(Processor, faults);

/// Memory that only the processor itself uses, by way of its descriptor tables and stack pointer.
#[repr(C, align(16))]
struct Private<const SIZE: usize>(UnsafeCell<[u8; SIZE]>);

/// One processor's state. All zeros is its initial value.
#[repr(C, align(64))]
pub(super) struct Processor {
    /// Interrupts by vector; the handlers count.
    received: [AtomicU64; 256],
    /// Vectors in the order of their handlers.
    order: [AtomicU8; ORDER_CAPACITY],
    order_length: AtomicU64,
    /// The local APIC's page in xAPIC mode, 0 in x2APIC mode.
    apic_page: AtomicU64,
    /// Where an expected #GP continues, or 0.
    recovery: AtomicU64,
    /// How many expected #GPs came.
    faults: AtomicU64,
    /// The fewest deliveries of each vector that are right.
    least: [AtomicU32; 256],
    /// The most.
    most: [AtomicU32; 256],
    /// For the phases: what this processor tells its partner.
    pub(super) mailbox: [AtomicU64; 4],
    /// The local APIC ID.
    pub(super) apic_id: AtomicU32,
    index: AtomicUsize,
    alive: AtomicU32,
    global_descriptors: Private<48>,
    task_state: Private<TASK_STATE_SIZE>,
    nmi_stack: Private<512>,
    double_fault_stack: Private<6144>,
    exception_stack: Private<6144>,
    main_stack: Private<12288>,
}

// SAFETY: the fields that several processors touch are atomics; the `Private` ones belong to the
// one processor whose tables and stack pointer name them.
unsafe impl Sync for Processor {}

impl Processor {
    /// Position in the list of processors; 0 is the boot processor.
    pub(super) fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// The local APIC ID.
    pub(super) fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// How often `vector` arrived since the phase began.
    pub(super) fn received(&self, vector: u8) -> u64 {
        self.received[usize::from(vector)].load(Ordering::Acquire)
    }

    /// `count` more deliveries of `vector` are due to this processor.
    pub(super) fn expect(&self, vector: u8, count: u32) -> u64 {
        self.expect_between(vector, count, count)
    }

    /// At least `least` and at most `most` more deliveries are right. Returns the least in all.
    pub(super) fn expect_between(&self, vector: u8, least: u32, most: u32) -> u64 {
        let cell = usize::from(vector);
        self.most[cell].fetch_add(most, Ordering::Relaxed);
        let before = self.least[cell].fetch_add(least, Ordering::AcqRel);
        u64::from(before) + u64::from(least)
    }

    /// The fewest deliveries of `vector` that are due.
    pub(super) fn due(&self, vector: u8) -> u64 {
        u64::from(self.least[usize::from(vector)].load(Ordering::Acquire))
    }

    /// Due and counted deliveries of `vector`.
    pub(super) fn cell(&self, vector: u8) -> Cell {
        Cell {
            least: self.due(vector),
            most: u64::from(self.most[usize::from(vector)].load(Ordering::Acquire)),
            received: self.received(vector),
        }
    }

    /// Forgets counts, dues, order and mailbox. Only between phases, when nothing is under way.
    pub(super) fn clear(&self) {
        for vector in 0..256 {
            self.received[vector].store(0, Ordering::Relaxed);
            self.least[vector].store(0, Ordering::Relaxed);
            self.most[vector].store(0, Ordering::Relaxed);
        }
        for word in &self.mailbox {
            word.store(0, Ordering::Relaxed);
        }
        self.clear_order();
    }

    /// Forgets the order of past interrupts.
    pub(super) fn clear_order(&self) {
        self.order_length.store(0, Ordering::SeqCst);
    }

    /// Whether the interrupts since [`Self::clear_order`] were exactly these, in this order.
    pub(super) fn order_is(&self, vectors: &[u8]) -> bool {
        self.order_length.load(Ordering::SeqCst) == vectors.len() as u64
            && vectors
                .iter()
                .zip(&self.order)
                .all(|(wanted, vector)| *wanted == vector.load(Ordering::Relaxed))
    }

    /// Tells the handlers how to signal the end of an interrupt.
    pub(super) fn set_apic_page(&self, page: Option<u64>) {
        self.apic_page.store(page.unwrap_or(0), Ordering::Relaxed);
    }

    /// Says that this processor runs.
    pub(super) fn announce(&self) {
        self.alive.store(1, Ordering::Release);
    }

    /// Whether it runs.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire) != 0
    }

    /// The initial stack pointer.
    pub(super) fn stack_top(&self) -> u64 {
        top(&self.main_stack)
    }

    /// Loads this processor's GS base, descriptor tables and task register. To be called once, on
    /// the processor itself.
    pub(super) fn install(&'static self) {
        write_msr(IA32_GS_BASE, core::ptr::from_ref(self) as u64);
        let task_state = self.task_state.0.get().cast::<u8>();
        let descriptors = self.global_descriptors.0.get().cast::<u64>();
        let stacks = [
            top(&self.nmi_stack),
            top(&self.exception_stack),
            top(&self.double_fault_stack),
        ];
        let task = task_state_descriptor(task_state as u64);
        let table = [0, CODE, DATA, CODE_32, task[0], task[1]];
        // SAFETY: both lie in this processor's `Private` memory, of 104 and 48 bytes, that nobody
        // else touches; the processor reads them only after the loads below. The interrupt-stack
        // table is at 36, the I/O map base at 102 (SDM 7.7 Task management in 64-bit mode).
        unsafe {
            for (index, stack) in stacks.into_iter().enumerate() {
                task_state
                    .add(36 + 8 * index)
                    .cast::<u64>()
                    .write_unaligned(stack);
            }
            task_state
                .add(102)
                .cast::<u16>()
                .write_unaligned(TASK_STATE_SIZE as u16);
            for (index, descriptor) in table.into_iter().enumerate() {
                descriptors.add(index).write(descriptor);
            }
        }
        let gdt = TablePointer {
            limit: 47,
            base: descriptors as u64,
        };
        let idt = TablePointer {
            limit: 4095,
            base: INTERRUPT_DESCRIPTORS.0.get() as u64,
        };
        // SAFETY: the new table has the same code and data segments at the same selectors, and all
        // three structures live for ever.
        unsafe {
            asm!(
                "lgdt [{gdt}]",
                "lidt [{idt}]",
                "ltr {task:x}",
                gdt = in(reg) &raw const gdt,
                idt = in(reg) &raw const idt,
                task = in(reg) TASK_SELECTOR,
                options(nostack, preserves_flags)
            );
        }
    }
}

fn top<const SIZE: usize>(stack: &Private<SIZE>) -> u64 {
    stack.0.get() as u64 + SIZE as u64
}

/// What LGDT and LIDT read.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

#[repr(C, align(16))]
struct InterruptDescriptors(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once by the boot processor before any processor loads it.
unsafe impl Sync for InterruptDescriptors {}

static INTERRUPT_DESCRIPTORS: InterruptDescriptors =
    InterruptDescriptors(UnsafeCell::new([[0; 2]; 256]));

unsafe extern "C" {
    static vector_entries: u8;
}

/// Fills the interrupt descriptor table. Once, before any [`Processor::install`].
pub(super) fn fill_interrupt_descriptors() {
    const { assert!(CODE_SELECTOR == 8) };
    let entries = (&raw const vector_entries) as u64;
    for vector in 0..256usize {
        // Which entry of the interrupt-stack table; see the order in `install`.
        let stack = match vector {
            2 => 1,
            8 => 3,
            0..32 => 2,
            // The current one; nothing in this image has a red zone. Bochs 2.7 delivers a virtual
            // interrupt with IF = 0 if a physical one arrives at that moment, so that two handlers may nest:
            // on a stack that starts anew each time the second would overwrite the first.
            _ => 0,
        };
        let gate = interrupt_gate(entries + 16 * vector as u64, stack);
        // SAFETY: only the boot processor runs, and nothing has loaded the table yet.
        unsafe { (*INTERRUPT_DESCRIPTORS.0.get())[vector] = gate };
    }
}

static PROCESSORS: AtomicPtr<Processor> = AtomicPtr::new(null_mut());
static PROCESSOR_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Takes zeroed memory from `start` on for the processors with these APIC IDs; `None` if they do
/// not fit before `end`.
pub(super) fn allocate(start: u64, end: u64, apic_ids: &[u32]) -> Option<()> {
    let start = start.checked_next_multiple_of(4096)?;
    let bytes = size_of::<Processor>().checked_mul(apic_ids.len())?;
    if end.saturating_sub(start) < bytes as u64 {
        return None;
    }
    let processors = start as *mut Processor;
    // SAFETY: the caller's range is RAM after the image that nothing else uses, below 4 GiB and so
    // mapped; zeros are valid for every field.
    let processors_slice = unsafe {
        processors.write_bytes(0, apic_ids.len());
        core::slice::from_raw_parts(processors, apic_ids.len())
    };
    for (index, (processor, apic_id)) in processors_slice.iter().zip(apic_ids).enumerate() {
        processor.index.store(index, Ordering::Relaxed);
        processor.apic_id.store(*apic_id, Ordering::Relaxed);
    }
    PROCESSOR_COUNT.store(apic_ids.len(), Ordering::Relaxed);
    PROCESSORS.store(processors, Ordering::Release);
    Some(())
}

/// All processors; empty before [`allocate`].
pub(super) fn processors() -> &'static [Processor] {
    let first = PROCESSORS.load(Ordering::Acquire);
    if first.is_null() {
        return &[];
    }
    // SAFETY: `allocate` stored a pointer to that many initialized processors that live for ever.
    unsafe { core::slice::from_raw_parts(first, PROCESSOR_COUNT.load(Ordering::Relaxed)) }
}
