//! Executes one instruction on the host from a given state.
#![allow(
    unsafe_code,
    reason = "machine code is run with every register loaded, from fixed addresses"
)]

use std::arch::global_asm;
use std::sync::Mutex;

use crate::case::{CODE, REGION, REGION_SIZE, State};

/// Where the state is exchanged with the trampoline, an address that fits a displacement.
const EXCHANGE: u64 = 0x3100_0000;

/// Layout known to the assembly below.
#[repr(C, align(64))]
struct Exchange {
    /// General registers in encoding order, at 0.
    registers: [u64; 16],
    /// RFLAGS, at 128.
    flags: u64,
    /// Host RSP, at 136.
    host_stack: u64,
    /// Code to enter, at 144.
    target: u64,
    /// Signal that ended the instruction or 0, at 152.
    signal: u64,
    /// RIP of the signal, at 160.
    signal_rip: u64,
    padding: [u64; 11],
    /// FXSAVE image, at 256.
    fx: [u8; 512],
}

const _: () = assert!(std::mem::offset_of!(Exchange, fx) == 256);

global_asm!(
    ".globl posthaste_host_enter",
    "posthaste_host_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov qword ptr [0x31000088], rsp",
    "fxrstor64 [0x31000100]",
    "push qword ptr [0x31000080]",
    "popfq",
    "mov rax, qword ptr [0x31000000]",
    "mov rcx, qword ptr [0x31000008]",
    "mov rdx, qword ptr [0x31000010]",
    "mov rbx, qword ptr [0x31000018]",
    "mov rsp, qword ptr [0x31000020]",
    "mov rbp, qword ptr [0x31000028]",
    "mov rsi, qword ptr [0x31000030]",
    "mov rdi, qword ptr [0x31000038]",
    "mov r8, qword ptr [0x31000040]",
    "mov r9, qword ptr [0x31000048]",
    "mov r10, qword ptr [0x31000050]",
    "mov r11, qword ptr [0x31000058]",
    "mov r12, qword ptr [0x31000060]",
    "mov r13, qword ptr [0x31000068]",
    "mov r14, qword ptr [0x31000070]",
    "mov r15, qword ptr [0x31000078]",
    "jmp qword ptr [0x31000090]",
    ".globl posthaste_host_leave",
    "posthaste_host_leave:",
    "mov qword ptr [0x31000000], rax",
    "mov qword ptr [0x31000008], rcx",
    "mov qword ptr [0x31000010], rdx",
    "mov qword ptr [0x31000018], rbx",
    "mov qword ptr [0x31000020], rsp",
    "mov qword ptr [0x31000028], rbp",
    "mov qword ptr [0x31000030], rsi",
    "mov qword ptr [0x31000038], rdi",
    "mov qword ptr [0x31000040], r8",
    "mov qword ptr [0x31000048], r9",
    "mov qword ptr [0x31000050], r10",
    "mov qword ptr [0x31000058], r11",
    "mov qword ptr [0x31000060], r12",
    "mov qword ptr [0x31000068], r13",
    "mov qword ptr [0x31000070], r14",
    "mov qword ptr [0x31000078], r15",
    "mov rsp, qword ptr [0x31000088]",
    "pushfq",
    "pop qword ptr [0x31000080]",
    "push 2",
    "popfq",
    "fxsave64 [0x31000100]",
    "fninit",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "sysv64" {
    fn posthaste_host_enter();
    fn posthaste_host_leave();
}

/// The host's processor; there is one, because its memory is at fixed addresses.
pub struct Host {
    _only: std::sync::MutexGuard<'static, ()>,
}

static ONLY: Mutex<()> = Mutex::new(());

/// A fault of the compared instruction: the registers are those of the fault, and the trampoline
/// takes over. A fault anywhere else ends the test.
extern "C" fn on_signal(number: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context to a SA_SIGINFO handler; the exchange page is mapped
    // before the handler is installed, and nothing else uses it while the instruction runs.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let exchange = &mut *(EXCHANGE as *mut Exchange);
        if !(REGION..REGION + REGION_SIZE).contains(&(*rip as u64)) {
            libc::abort();
        }
        exchange.signal = number as u64;
        exchange.signal_rip = *rip as u64;
        *rip = posthaste_host_leave as *const () as i64;
    }
}

fn map(address: u64, size: u64) {
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping of this process; the memory is only used
    // through this module.
    let mapped = unsafe {
        libc::mmap(
            address as *mut _,
            size as usize,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(mapped as u64, address, "the fixed address is taken");
}

impl Host {
    pub fn new() -> Self {
        let only = ONLY.lock().expect("the other comparison failed");
        map(REGION, REGION_SIZE);
        map(EXCHANGE, 4096);
        // SAFETY: the alternate stack is leaked, so it lives as long as the thread; the handler has
        // the SA_SIGINFO signature and only touches its context and the exchange page.
        unsafe {
            let stack = Box::leak(vec![0_u8; 1 << 16].into_boxed_slice());
            let alternate = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: stack.len(),
            };
            assert_eq!(libc::sigaltstack(&alternate, std::ptr::null_mut()), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            for signal in [libc::SIGFPE, libc::SIGSEGV, libc::SIGILL, libc::SIGBUS] {
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
        }
        Self { _only: only }
    }

    /// Writes `code` at `offset` of the region, followed by a jump back to the trampoline; gives all
    /// the bytes.
    pub fn write_code(&mut self, address: u64, code: &[u8]) -> Vec<u8> {
        let mut bytes = code.to_vec();
        bytes.extend([0xff, 0x25, 0, 0, 0, 0]);
        bytes.extend((posthaste_host_leave as *const () as u64).to_le_bytes());
        assert!(address >= CODE);
        self.write(address, &bytes);
        bytes
    }

    /// Writes memory of the region.
    pub fn write(&mut self, address: u64, bytes: &[u8]) {
        let end = address + bytes.len() as u64;
        assert!(address >= REGION && end <= REGION + REGION_SIZE);
        // SAFETY: the range lies in the region that `new` mapped.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
        }
    }

    /// Reads memory of the region.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        let end = address + bytes.len() as u64;
        assert!(address >= REGION && end <= REGION + REGION_SIZE);
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Executes the code at `address` from `state`, which becomes what it left. Gives whether it
    /// faulted.
    pub fn execute(&mut self, address: u64, state: &mut State) -> bool {
        // SAFETY: the exchange page is mapped and only this thread uses it. The code was written by
        // `write_code`: one instruction that writes no memory but the region's windows (the
        // generator places its operands there), then a jump to the trampoline, which restores
        // what the calling convention asks to be kept. A fault goes to `on_signal`.
        unsafe {
            let exchange = &mut *(EXCHANGE as *mut Exchange);
            exchange.registers = state.registers;
            exchange.flags = state.flags;
            exchange.target = address;
            exchange.signal = 0;
            exchange.fx = state.fx;
            posthaste_host_enter();
            let exchange = &*(EXCHANGE as *const Exchange);
            state.registers = exchange.registers;
            state.flags = exchange.flags;
            state.fx = exchange.fx;
            exchange.signal != 0
        }
    }
}

/// The selectors of ES, CS, SS, DS, FS and GS on the host.
pub fn selectors() -> [u16; 6] {
    let mut selectors = [0_u16; 6];
    // SAFETY: reading segment registers has no effect.
    unsafe {
        std::arch::asm!(
            "mov {0:x}, es", "mov {1:x}, cs", "mov {2:x}, ss",
            "mov {3:x}, ds", "mov {4:x}, fs", "mov {5:x}, gs",
            out(reg) selectors[0], out(reg) selectors[1], out(reg) selectors[2],
            out(reg) selectors[3], out(reg) selectors[4], out(reg) selectors[5],
            options(nomem, nostack, preserves_flags),
        );
    }
    selectors
}
