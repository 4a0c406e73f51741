//! The virtual machine: memory, interrupts, devices, vCPUs.
#![allow(unsafe_code, reason = "vCPUs behind cells")]

use crate::host::aligned_page::AlignedPage;
use crate::host::console;
use crate::interrupts::vm_interrupts::VmInterrupts;
use crate::system::machine_memory::{HostFrames, MachineMemory};
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::console_input::ConsoleInput;
use crate::vm::devices::Platform;
use crate::vm::memory::GuestMemory;
use crate::vmx::io_bitmap::IoBitmap;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Mutex;

/// A vCPU that one processor at a time may touch.
#[derive(Debug)]
struct VcpuCell(UnsafeCell<VirtualProcessor>);

// SAFETY: the scheduler gives a vCPU to one processor at a time; see `VirtualMachine::vcpu`.
unsafe impl Sync for VcpuCell {}

/// The devices, what the guest has written of its present line, and what was typed for it.
#[derive(Debug)]
pub struct Devices {
    /// The devices.
    pub platform: Platform,
    /// Console output that is not a whole line yet.
    pub line: Line,
    /// What was typed for the guest.
    pub input: ConsoleInput,
    /// Device time until which the devices and the line do nothing by themselves. An access, which may
    /// change that, sets it to 0.
    pub quiet_until: u64,
}

/// What the guest has written of its present line. Whole lines go out at once, so that they do not
/// mix with the hypervisor's; a prompt goes out after a while.
#[derive(Debug, Default)]
pub struct Line {
    bytes: Vec<u8>,
    /// Device time of its first byte.
    since: u64,
}

/// How long part of a line waits for the rest, in nanoseconds.
const PATIENCE: u64 = 20_000_000;

impl Line {
    /// Adds a byte at device time `now`; whether it begins a line.
    pub fn push(&mut self, byte: u8, now: u64) -> bool {
        let begins = self.bytes.is_empty();
        if begins {
            self.since = now;
        }
        self.bytes.push(byte);
        if byte == b'\n' || self.bytes.len() >= 1024 {
            self.flush();
            return false;
        }
        begins
    }

    /// Writes what there is.
    pub fn flush(&mut self) {
        if !self.bytes.is_empty() {
            console::put_guest_bytes(&self.bytes);
            self.bytes.clear();
        }
    }

    /// Ends the line, if there is one.
    pub fn finish(&mut self) {
        if !self.bytes.is_empty() {
            self.bytes.push(b'\n');
            self.flush();
        }
    }

    /// Writes a part that has waited long enough at `now`; when to look again.
    pub fn advance(&mut self, now: u64) -> Option<u64> {
        let due = self.since.saturating_add(PATIENCE);
        if !self.bytes.is_empty() && due <= now {
            self.flush();
        }
        (!self.bytes.is_empty()).then_some(due)
    }
}

/// The virtual machine.
#[derive(Debug)]
pub struct VirtualMachine {
    /// Everything about interrupts that vCPUs share.
    pub interrupts: VmInterrupts,
    /// The guest's RAM.
    pub memory: GuestMemory<HostFrames>,
    /// The EPT pointer.
    pub ept_pointer: u64,
    apic_access_page: Option<AlignedPage>,
    /// The devices.
    pub devices: Mutex<Devices>,
    io_bitmap: Box<IoBitmap>,
    cells: Box<[VcpuCell]>,
    /// 0 while it runs; else how it ends, plus 1.
    ending: AtomicU32,
    /// TSC when it was made: time 0 of its devices.
    pub start_time: u64,
}

impl VirtualMachine {
    /// Puts the parts together.
    pub fn new(
        memory: MachineMemory,
        interrupts: VmInterrupts,
        vcpus: Vec<VirtualProcessor>,
        io_bitmap: IoBitmap,
        start_time: u64,
    ) -> Self {
        let devices = Devices {
            platform: Platform::new(vcpus.len() as u32, memory.memory.layout().size()),
            line: Line::default(),
            input: ConsoleInput::default(),
            quiet_until: 0,
        };
        Self {
            interrupts,
            memory: memory.memory,
            ept_pointer: memory.ept_pointer,
            apic_access_page: memory.apic_access_page,
            devices: Mutex::new(devices),
            io_bitmap: Box::new(io_bitmap),
            cells: vcpus
                .into_iter()
                .map(|vcpu| VcpuCell(UnsafeCell::new(vcpu)))
                .collect(),
            ending: AtomicU32::new(0),
            start_time,
        }
    }

    /// vCPUs.
    pub fn vcpu_count(&self) -> u32 {
        self.cells.len() as u32
    }

    /// A vCPU.
    ///
    /// # Safety
    /// The scheduler must have given it to the caller's processor, or no processor runs vCPUs any
    /// more; and the caller must not have another reference.
    #[allow(clippy::mut_from_ref, reason = "the caller promises exclusivity")]
    pub unsafe fn vcpu(&self, number: u32) -> Option<&mut VirtualProcessor> {
        // SAFETY: the caller's promise.
        self.cells
            .get(number as usize)
            .map(|cell| unsafe { &mut *cell.0.get() })
    }

    /// Physical address of the I/O bitmaps.
    pub fn io_bitmap_address(&self) -> u64 {
        core::ptr::from_ref(&*self.io_bitmap) as u64
    }

    /// Physical address of the APIC-access page; 0 without one.
    pub fn apic_access_address(&self) -> u64 {
        self.apic_access_page
            .as_ref()
            .map_or(0, AlignedPage::address)
    }

    /// Whether it ends.
    #[inline(always)]
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed) != 0
    }

    /// Makes it end; whether this was the first to say so.
    pub(super) fn begin_ending(&self, how: u32) -> bool {
        self.ending
            .compare_exchange(0, how + 1, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// How it ends, if it does.
    pub(super) fn ending(&self) -> Option<u32> {
        self.ending.load(Ordering::SeqCst).checked_sub(1)
    }
}
