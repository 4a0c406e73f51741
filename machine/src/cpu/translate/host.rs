//! The host's side of translated code: memory that is executable, the call into it, and its calls back.
//! All that the translator does that the compiler cannot check is here.
#![allow(
    unsafe_code,
    reason = "code that was written at run time is called, and calls back with pointers"
)]

use super::context::Context;
use crate::cpu::{Cpu, op::Op};

/// Where translated code starts: its address. Only [`CodeBuffer::code`] makes one, for a block that
/// was written whole; whoever keeps one forgets it when the buffer is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(in crate::cpu) struct Code(usize);

/// Why translated code gave control back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Exit {
    /// It goes on with the block at RIP, after a look at events.
    Next,
    /// The last instruction raised something.
    Raised,
    /// As [`Self::Next`], and the jump of that number could be a direct one.
    Link(u32),
}

/// [`Exit::Next`] in EAX. 0 is "go on".
pub(super) const LEAVE: u32 = 1;
const RAISED: u32 = 2;
/// From this number on it is a link's.
pub(super) const FIRST_LINK: u32 = 3;

/// What a call of a handler tells: how many instructions of the block have begun, this one included,
/// in bits 7:0; how many bytes of the block lie before it in bits 30:8; and in bit 31 whether it is
/// the block's last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call(pub(super) u32);

impl Call {
    pub(super) fn new(begun: usize, distance: usize, last: bool) -> Self {
        Self(begun as u32 & 0xff | (distance as u32) << 8 & 0x7fff_ff00 | u32::from(last) << 31)
    }

    fn begun(self) -> u64 {
        u64::from(self.0 & 0xff)
    }

    fn distance(self) -> u64 {
        u64::from(self.0 >> 8 & 0x7f_ffff)
    }

    fn is_last(self) -> bool {
        self.0 >> 31 != 0
    }
}

/// Carries out one instruction by the interpreter's function. `remaining` is R15. Gives 0 if the block
/// goes on, else what goes into EAX when the code leaves.
fn execute(cpu: &mut Cpu, op: &Op, call: Call, remaining: u64) -> u32 {
    let begun = cpu.translated.end.wrapping_sub(remaining);
    let block = cpu.rip();
    let start = block.wrapping_add(call.distance());
    cpu.instructions = begun.wrapping_add(call.begun());
    cpu.instruction_start = start;
    cpu.set_rip(start.wrapping_add(u64::from(op.length)));
    if (op.execute)(cpu, op).is_err() {
        return RAISED;
    }
    if cpu.leave_block || call.is_last() {
        return LEAVE;
    }
    cpu.set_rip(block);
    cpu.flags.pack();
    Context::refresh(cpu);
    cpu.translated.remaining = cpu.translated.end.wrapping_sub(begun);
    0
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86_64 {
    use std::fs::File;
    use std::os::fd::FromRawFd;

    use memmap2::{Mmap, MmapMut, MmapOptions};

    use super::{Call, Code, Exit, FIRST_LINK, RAISED};
    use crate::cpu::{Cpu, op::Op};

    /// Memory that is writable at one address and executable at another, never both at one.
    pub(in super::super) struct CodeBuffer {
        writable: MmapMut,
        executable: Mmap,
        used: usize,
        /// What [`Self::clear`] leaves.
        kept: usize,
    }

    impl CodeBuffer {
        /// A buffer of `size` bytes, unless the host refuses; it commits what is written.
        pub(in super::super) fn new(size: usize) -> Option<Self> {
            // SAFETY: the name is a string that ends with 0.
            let descriptor =
                unsafe { libc::memfd_create(c"posthaste-code".as_ptr(), libc::MFD_CLOEXEC) };
            if descriptor < 0 {
                return None;
            }
            // SAFETY: the descriptor is new and nobody else's.
            let file = unsafe { File::from_raw_fd(descriptor) };
            file.set_len(size as u64).ok()?;
            let mut options = MmapOptions::new();
            options.len(size);
            // SAFETY: nobody else has the file, so that it changes by our own writes only. Rust code
            // never reads the executable mapping as a slice, so that no reference sees it change.
            let (writable, executable) =
                unsafe { (options.map_mut(&file).ok()?, options.map_exec(&file).ok()?) };
            Some(Self {
                writable,
                executable,
                used: 0,
                kept: 0,
            })
        }

        /// Where the next byte goes.
        pub(in super::super) fn position(&self) -> usize {
            self.used
        }

        /// Appends code; `None` if it does not fit.
        pub(in super::super) fn append(&mut self, bytes: &[u8]) -> Option<()> {
            let end = self.used.checked_add(bytes.len())?;
            self.writable
                .get_mut(self.used..end)?
                .copy_from_slice(bytes);
            self.used = end.next_multiple_of(16).min(self.writable.len());
            Some(())
        }

        /// Makes what was appended so far survive [`Self::clear`].
        pub(in super::super) fn keep_what_is_there(&mut self) {
            self.kept = self.used;
        }

        /// Drops all code but what is kept.
        pub(in super::super) fn clear(&mut self) {
            self.used = self.kept;
        }

        /// Changes the 32 bits at a position.
        pub(in super::super) fn patch(&mut self, position: usize, value: u32) {
            if let Some(place) = self.writable.get_mut(position..position + 4) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }

        /// The code at a position at which a block was appended.
        pub(in super::super) fn code(&self, position: usize) -> Code {
            Code(self.executable.as_ptr().addr() + position)
        }

        /// The position of code.
        pub(in super::super) fn position_of(&self, code: Code) -> usize {
            code.0.wrapping_sub(self.executable.as_ptr().addr())
        }

        /// Runs `code`, of this buffer, from behind its head of `head` bytes until it leaves.
        #[inline]
        pub(in super::super) fn enter(&self, cpu: &mut Cpu, code: Code, head: usize) -> Exit {
            if self.position_of(code) >= self.used || cpu.tlb.ram_size() != cpu.ram.size() {
                return Exit::Next;
            }
            type Enter = extern "sysv64" fn(*mut Cpu, usize) -> u32;
            // SAFETY: the buffer starts with the stub that is such a function (`stubs::write`).
            let enter: Enter =
                unsafe { std::mem::transmute::<*const u8, Enter>(self.executable.as_ptr()) };
            // What the code does follows from `block::Translation` alone: it accesses the processor
            // at the offsets of its fields; RAM at offsets that the translation cache holds, all of
            // which lie below the size of RAM; the cache of blocks inside its bounds; and calls
            // `execute` with the pointer it was given and the address of an `Op` in the buffer.
            match enter(cpu, code.0 + head) {
                RAISED => Exit::Raised,
                number if number >= FIRST_LINK => Exit::Link(number - FIRST_LINK),
                _ => Exit::Next,
            }
        }
    }

    extern "sysv64" fn execute(cpu: *mut Cpu, op: *const Op, call: u32, remaining: u64) -> u32 {
        // SAFETY: the code got `cpu` from `CodeBuffer::enter`, whose exclusive borrow lasts while it
        // runs, and uses it only while this function does not.
        let cpu = unsafe { &mut *cpu };
        // SAFETY: `block::Translation` put an `Op` there, aligned, before the code that names it; it
        // stays until the buffer is cleared, which needs the code to have left.
        let op = unsafe { &*op };
        super::execute(cpu, op, Call(call), remaining)
    }

    /// The address of the function that translated code calls.
    pub(in super::super) fn execute_address() -> u64 {
        (execute as extern "sysv64" fn(*mut Cpu, *const Op, u32, u64) -> u32 as usize) as u64
    }

    /// The bytes of an instruction, for the code buffer.
    pub(in super::super) fn bytes_of(op: &Op) -> [u8; size_of::<Op>()] {
        let mut bytes = [std::mem::MaybeUninit::<u8>::zeroed(); size_of::<Op>()];
        // SAFETY: both are as large as an `Op`; the bytes may be uninitialized, as padding is.
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::from_ref(op).cast(),
                bytes.as_mut_ptr(),
                bytes.len(),
            );
        }
        // SAFETY: `Op` has no padding, which is asserted where it is defined.
        bytes.map(|byte| unsafe { byte.assume_init() })
    }

    /// Whether the host does what translated code relies on and the architecture leaves open: LAHF in
    /// 64-bit mode, and logic instructions that clear AF, as the interpreter says they do.
    pub(in super::super) fn is_suitable() -> bool {
        use std::arch::x86_64::__cpuid;
        let has_lahf = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & 1 != 0;
        has_lahf && (0..64).all(|i: u64| logic_clears_adjust(0x0123_4567_89ab_cdef << (i % 32), i))
    }

    fn logic_clears_adjust(a: u64, b: u64) -> bool {
        let mut seen: u64;
        // SAFETY: the host has LAHF; registers and flags are all that changes.
        unsafe {
            std::arch::asm!(
                "xor {seen:e}, {seen:e}",
                // 15 + 1 sets AF.
                "mov al, 15", "add al, 1", "mov {c}, {a}", "and {c}, {b}", "lahf", "or {seen}, rax",
                "mov al, 15", "add al, 1", "mov {c}, {a}", "or {c}, {b}", "lahf", "or {seen}, rax",
                "mov al, 15", "add al, 1", "mov {c}, {a}", "xor {c}, {b}", "lahf", "or {seen}, rax",
                "mov al, 15", "add al, 1", "test {a:e}, {b:e}", "lahf", "or {seen}, rax",
                a = in(reg) a,
                b = in(reg) b,
                c = out(reg) _,
                seen = out(reg) seen,
                inout("rax") 0_u64 => _,
                options(nomem, nostack),
            );
        }
        seen & 0x1000 == 0
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use x86_64::{CodeBuffer, bytes_of, execute_address, is_suitable};

/// Hosts on which there is no translator.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod elsewhere {
    use super::{Code, Exit};
    use crate::cpu::{Cpu, op::Op};

    /// Never exists.
    pub(in super::super) enum CodeBuffer {}

    #[allow(clippy::unused_self, reason = "the other implementation needs it")]
    impl CodeBuffer {
        pub(in super::super) fn new(_size: usize) -> Option<Self> {
            None
        }
        pub(in super::super) fn position(&self) -> usize {
            match *self {}
        }
        pub(in super::super) fn append(&mut self, _bytes: &[u8]) -> Option<()> {
            match *self {}
        }
        pub(in super::super) fn keep_what_is_there(&mut self) {}
        pub(in super::super) fn clear(&mut self) {}
        pub(in super::super) fn patch(&mut self, _position: usize, _value: u32) {}
        pub(in super::super) fn code(&self, _position: usize) -> Code {
            match *self {}
        }
        pub(in super::super) fn position_of(&self, _code: Code) -> usize {
            match *self {}
        }
        pub(in super::super) fn enter(&self, _cpu: &mut Cpu, _code: Code, _head: usize) -> Exit {
            match *self {}
        }
    }

    pub(in super::super) fn execute_address() -> u64 {
        0
    }

    pub(in super::super) fn bytes_of(_op: &Op) -> [u8; size_of::<Op>()] {
        [0; size_of::<Op>()]
    }

    pub(in super::super) fn is_suitable() -> bool {
        false
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use elsewhere::{CodeBuffer, bytes_of, execute_address, is_suitable};

impl Code {
    /// For a place without code; it is never entered.
    pub(in crate::cpu) const NONE: Self = Self(0);
}
