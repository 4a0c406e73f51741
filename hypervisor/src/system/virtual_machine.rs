//! The virtual machine: memory, interrupts, devices, vCPUs.
#![allow(unsafe_code, reason = "guest memory and vCPUs behind cells")]

use crate::host::aligned_page::AlignedPage;
use crate::host::console;
use crate::host::frame_allocator::{FRAME, FrameAllocator};
use crate::interrupts::vm_interrupts::VmInterrupts;
use crate::vcpu::virtual_processor::VirtualProcessor;
use crate::vm::console_input::ConsoleInput;
use crate::vm::devices::Platform;
use crate::vm::memory::{FrameAccess, GuestMemory, MemoryLayout};
use crate::vmx::ept::{Ept, EptError, Permission, TableMemory};
use crate::vmx::io_bitmap::IoBitmap;
use alloc::boxed::Box;
use alloc::vec::Vec;
use arch::msr::apic_base::DEFAULT_ADDRESS;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use spin::Mutex;

/// The host frames behind a guest's RAM: one contiguous piece.
#[derive(Clone, Copy, Debug)]
pub struct HostFrames {
    start: u64,
}

impl FrameAccess for HostFrames {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        // SAFETY: `GuestMemory` has checked the range against the layout, which this piece backs
        // whole. A running guest may write at the same time: a torn copy is the guest's own doing.
        unsafe {
            core::ptr::copy_nonoverlapping(
                (self.start + offset) as *const u8,
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: as `read`; nothing of the hypervisor's own lies in this piece.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                (self.start + offset) as *mut u8,
                bytes.len(),
            );
        }
    }

    fn set_bits(&self, offset: u64, bits: u8) {
        // SAFETY: as `read`: one byte of the guest's RAM, mapped for as long as the hypervisor runs,
        // which the guest's processors also change by atomic steps alone.
        let byte = unsafe { AtomicU8::from_ptr((self.start + offset) as *mut u8) };
        byte.fetch_or(bits, Ordering::Relaxed);
    }
}

/// Page tables in frames of the hypervisor's.
struct Tables<'a>(&'a mut FrameAllocator);

impl TableMemory for Tables<'_> {
    fn allocate_table(&mut self) -> Option<u64> {
        let address = self.0.allocate(FRAME, FRAME)?;
        // SAFETY: fresh from the allocator and identity-mapped.
        unsafe { core::ptr::write_bytes(address as *mut u8, 0, FRAME as usize) };
        Some(address)
    }

    fn read(&self, address: u64) -> u64 {
        // SAFETY: an entry of a table that `allocate_table` gave.
        unsafe { (address as *const u64).read_volatile() }
    }

    fn write(&mut self, address: u64, entry: u64) {
        // SAFETY: as `read`.
        unsafe { (address as *mut u64).write_volatile(entry) }
    }
}

/// Why a virtual machine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// Not so much contiguous memory.
    NoMemory {
        /// Wanted, in MiB.
        mib: u64,
        /// Free, in MiB.
        free_mib: u64,
    },
    /// EPT.
    Ept(EptError),
}

impl From<EptError> for MachineError {
    fn from(error: EptError) -> Self {
        Self::Ept(error)
    }
}

impl core::fmt::Display for MachineError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self {
            Self::NoMemory { mib, free_mib } => write!(
                formatter,
                "not {mib} MiB of contiguous memory for the guest ({free_mib} MiB are free); use memory=N"
            ),
            Self::Ept(error) => error.fmt(formatter),
        }
    }
}

/// The guest's RAM and the tables that map it.
#[derive(Debug)]
pub struct MachineMemory {
    /// The RAM.
    pub memory: GuestMemory<HostFrames>,
    /// The EPT pointer.
    pub ept_pointer: u64,
    /// The APIC-access page, if the processor is to watch it.
    pub apic_access_page: Option<AlignedPage>,
}

impl MachineMemory {
    /// Takes `mib` MiB, zeroes them and maps them.
    pub fn new(
        frames: &mut FrameAllocator,
        mib: u64,
        ept_vpid: u64,
        apic_access_page: Option<AlignedPage>,
    ) -> Result<Self, MachineError> {
        let size = mib << 20;
        let start = frames
            .allocate(size, 2 << 20)
            .ok_or(MachineError::NoMemory {
                mib,
                free_mib: frames.free_bytes() >> 20,
            })?;
        // SAFETY: fresh from the allocator and identity-mapped. A guest must not see what was there.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, size as usize) };
        let layout = MemoryLayout::new(size);
        let mut tables = Tables(frames);
        let ept = Ept::new(&mut tables, ept_vpid)?;
        for range in layout.ranges() {
            ept.map(
                &mut tables,
                range.guest,
                start + range.backing,
                range.length,
                Permission::All,
            )?;
        }
        if let Some(page) = &apic_access_page {
            ept.map(
                &mut tables,
                DEFAULT_ADDRESS,
                page.address(),
                FRAME,
                Permission::All,
            )?;
        }
        Ok(Self {
            memory: GuestMemory::new(layout, HostFrames { start }),
            ept_pointer: ept.pointer(),
            apic_access_page,
        })
    }
}

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
