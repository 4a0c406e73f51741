//! A virtual machine on Linux's KVM, by its system calls alone: `kvm_ipis ROUNDS`.
//!
//! Two virtual processors, each on a CPU of its own, pass an interprocessor interrupt to and fro, ROUNDS
//! times in x2APIC mode (phase 1 of the machine's marks) and as often in xAPIC mode (phase 2). A line says
//! what arrived.

use std::arch::{asm, global_asm};
use std::fs::{File, OpenOptions};
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::thread;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Requests of /dev/kvm, of a virtual machine and of a virtual processor (Linux, uapi/linux/kvm.h).
mod request {
    pub const CREATE_VM: u64 = 0xae01;
    pub const GET_VCPU_MMAP_SIZE: u64 = 0xae04;
    pub const GET_SUPPORTED_CPUID: u64 = 0xc008_ae05;
    pub const CREATE_VCPU: u64 = 0xae41;
    pub const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    pub const CREATE_IRQCHIP: u64 = 0xae60;
    pub const RUN: u64 = 0xae80;
    pub const SET_REGS: u64 = 0x4090_ae82;
    pub const GET_SREGS: u64 = 0x8138_ae83;
    pub const SET_SREGS: u64 = 0x4138_ae84;
    pub const SET_CPUID2: u64 = 0x4008_ae90;
    pub const SET_MP_STATE: u64 = 0x4004_ae99;
}

/// KVM_EXIT_IO.
const EXIT_IO: u32 = 2;

/// The guest's RAM, from address 0.
const RAM: usize = 0x1_0000;
const GDT: usize = 0x1000;
const IDT: usize = 0x2000;
const CODE: usize = 0x4000;
const STACKS: usize = 0x8000;
/// What has arrived, a word for each processor, 40H apart.
const RECEIVED: usize = 0xc000;
const VECTOR: usize = 0x41;

const MARK_PORT: u64 = 0xf5;
const BEGIN: u32 = 0x0100_0000;
const END: u32 = 0x0200_0000;

// The guest's program: 32-bit code without paging. EBX is the processor's number, ESI the rounds, EDI
// not 0 in x2APIC mode.
global_asm!(
    ".pushsection .rodata",
    ".code32",
    "guest_code:",
    "    test edi, edi",
    "    jz 20f",
    "    mov ecx, 0x1b",            // IA32_APIC_BASE: x2APIC mode
    "    rdmsr",
    "    or eax, 0xc00",
    "    wrmsr",
    "    mov ecx, 0x80f",           // spurious-interrupt vector: enable
    "    mov eax, 0x1ff",
    "    xor edx, edx",
    "    wrmsr",
    "    jmp 21f",
    "20: mov dword ptr [0xfee000f0], 0x1ff",
    "21: lock inc dword ptr [0xc080]",
    "22: pause",
    "    cmp dword ptr [0xc080], 2",
    "    jne 22b",
    "    sti",
    "    xor ebp, ebp",
    "    test ebx, ebx",
    "    jnz 30f",
    "    mov al, 1",                // both run
    "    out 0x10, al",
    "23: call 40f",
    "    inc ebp",
    "24: pause",
    "    cmp dword ptr [0xc000], ebp",
    "    jb 24b",
    "    cmp ebp, esi",
    "    jb 23b",
    "    jmp 32f",
    "30: inc ebp",
    "31: pause",
    "    cmp dword ptr [0xc040], ebp",
    "    jb 31b",
    "    call 40f",
    "    cmp ebp, esi",
    "    jb 30b",
    "32: mov al, 2",                // done
    "    out 0x10, al",
    "33: hlt",
    "    jmp 33b",
    // Interrupts the other processor.
    "40: mov edx, 1",
    "    sub edx, ebx",
    "    test edi, edi",
    "    jz 41f",
    "    mov ecx, 0x830",
    "    mov eax, 0x4041",
    "    wrmsr",
    "    ret",
    "41: shl edx, 24",
    "    mov dword ptr [0xfee00310], edx",
    "    mov dword ptr [0xfee00300], 0x4041",
    "    ret",
    "guest_handler:",
    "    push eax",
    "    push ecx",
    "    push edx",
    "    mov eax, ebx",
    "    shl eax, 6",
    "    lock inc dword ptr [eax + 0xc000]",
    "    test edi, edi",
    "    jz 50f",
    "    mov ecx, 0x80b",
    "    xor eax, eax",
    "    xor edx, edx",
    "    wrmsr",
    "    jmp 51f",
    "50: mov dword ptr [0xfee000b0], 0",
    "51: pop edx",
    "    pop ecx",
    "    pop eax",
    "    iretd",
    "guest_code_end:",
    ".code64",
    ".popsection",
);

unsafe extern "C" {
    static guest_code: u8;
    static guest_handler: u8;
    static guest_code_end: u8;
    fn ioctl(file: i32, request: u64, argument: u64) -> i32;
    fn mmap(at: *mut u8, size: usize, access: i32, kind: i32, file: i32, offset: i64) -> *mut u8;
    fn ioperm(from: u64, count: u64, on: i32) -> i32;
    fn sched_setaffinity(thread: i32, size: usize, set: *const u64) -> i32;
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Segment {
    base: u64,
    limit: u32,
    selector: u16,
    kind: u8,
    present: u8,
    dpl: u8,
    big: u8,
    code_or_data: u8,
    long: u8,
    granular: u8,
    available: u8,
    unusable: u8,
    padding: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Table {
    base: u64,
    limit: u16,
    padding: [u16; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SystemRegisters {
    /// CS, DS, ES, FS, GS, SS, TR, LDTR.
    segments: [Segment; 8],
    gdt: Table,
    idt: Table,
    /// CR0, 2, 3, 4, 8, EFER, IA32_APIC_BASE.
    control: [u64; 7],
    interrupts: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Registers {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, RIP, RFLAGS.
    values: [u64; 18],
}

#[repr(C)]
struct Cpuid {
    count: u32,
    padding: u32,
    entries: [[u32; 10]; 128],
}

fn call(file: &File, request: u64, argument: u64, what: &str) -> Result<i32> {
    // SAFETY: the callers give what the request asks for: a number, or the address of a structure that
    // lives on.
    let result = unsafe { ioctl(file.as_raw_fd(), request, argument) };
    if result < 0 {
        return Err(format!("{what}: {}", Error::last_os_error()).into());
    }
    Ok(result)
}

fn opened(descriptor: i32) -> File {
    // SAFETY: KVM just made the descriptor, and nobody else has it.
    unsafe { File::from_raw_fd(descriptor) }
}

fn map(file: i32, size: usize) -> Result<*mut u8> {
    // Shared, and without a file anonymous.
    let kind = if file < 0 { 0x21 } else { 1 };
    // SAFETY: a new mapping at a place of the kernel's choice.
    let address = unsafe { mmap(ptr::null_mut(), size, 3, kind, file, 0) };
    if address.addr() == usize::MAX {
        return Err(format!("mmap: {}", Error::last_os_error()).into());
    }
    Ok(address)
}

fn mark(value: u32) {
    // SAFETY: main was given the port; what is there touches no memory.
    unsafe { asm!("out dx, eax", in("dx") MARK_PORT as u16, in("eax") value) };
}

/// The guest's RAM, shared by everybody.
#[derive(Clone, Copy)]
struct Ram(*mut u8);

// SAFETY: it is used through volatile accesses and by the guest only.
unsafe impl Send for Ram {}

impl Ram {
    fn write(self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= RAM);
        // SAFETY: in the mapping, as was just checked.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(at), bytes.len()) };
    }

    fn read(self, at: usize) -> u32 {
        assert!(at + 4 <= RAM);
        // SAFETY: in the mapping, as was just checked, and aligned.
        unsafe { ptr::read_volatile(self.0.add(at).cast()) }
    }

    fn fill_in(self) {
        for (number, descriptor) in [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]
            .into_iter()
            .enumerate()
        {
            self.write(GDT + number * 8, &descriptor.to_le_bytes());
        }
        // SAFETY: the labels are the bounds of the program above.
        let (code, handler) = unsafe {
            let start = &raw const guest_code;
            let length = (&raw const guest_code_end).offset_from_unsigned(start);
            let handler = (&raw const guest_handler).offset_from_unsigned(start);
            (std::slice::from_raw_parts(start, length), CODE + handler)
        };
        self.write(CODE, code);
        let gate = handler as u64 & 0xffff | 8 << 16 | 0x8e00 << 32 | (handler as u64 >> 16) << 48;
        self.write(IDT + VECTOR * 8, &gate.to_le_bytes());
    }
}

fn set_up(vcpu: &File, number: usize, rounds: u64, x2apic: bool, cpuid: &Cpuid) -> Result<()> {
    call(vcpu, request::SET_CPUID2, ptr::from_ref(cpuid).addr() as u64, "KVM_SET_CPUID2")?;
    let mut system = SystemRegisters::default();
    call(vcpu, request::GET_SREGS, ptr::from_mut(&mut system).addr() as u64, "KVM_GET_SREGS")?;
    let data = Segment {
        limit: u32::MAX,
        selector: 0x10,
        kind: 3,
        present: 1,
        big: 1,
        code_or_data: 1,
        granular: 1,
        ..Segment::default()
    };
    system.segments[..6].fill(data);
    system.segments[0] = Segment { selector: 8, kind: 11, ..data };
    system.gdt = Table { base: GDT as u64, limit: 23, ..Table::default() };
    system.idt = Table { base: IDT as u64, limit: 0x7ff, ..Table::default() };
    system.control[0] |= 1;
    call(vcpu, request::SET_SREGS, ptr::from_ref(&system).addr() as u64, "KVM_SET_SREGS")?;
    let mut registers = Registers::default();
    registers.values[1] = number as u64;
    registers.values[4] = rounds;
    registers.values[5] = x2apic.into();
    registers.values[6] = (STACKS + 0x2000 * (number + 1)) as u64;
    registers.values[16] = CODE as u64;
    registers.values[17] = 2;
    call(vcpu, request::SET_REGS, ptr::from_ref(&registers).addr() as u64, "KVM_SET_REGS")?;
    // KVM_MP_STATE_RUNNABLE: no start-up IPI.
    let runnable = 0_u32;
    call(vcpu, request::SET_MP_STATE, ptr::from_ref(&runnable).addr() as u64, "KVM_SET_MP_STATE")?;
    Ok(())
}

/// Runs a virtual processor on the CPU of its number until it says that it is done; the first makes the
/// marks.
fn run(vcpu: &File, number: usize, size: usize, phase: u32) -> Result<()> {
    let set = 1_u64 << number;
    // SAFETY: a set of one word.
    if unsafe { sched_setaffinity(0, 8, &raw const set) } != 0 {
        return Err(format!("CPU {number}: {}", Error::last_os_error()).into());
    }
    let shared = map(vcpu.as_raw_fd(), size)?;
    loop {
        call(vcpu, request::RUN, 0, "KVM_RUN")?;
        // SAFETY: kvm_run is larger than this; exit_reason is at 8, and the data of KVM_EXIT_IO begin
        // where io.data_offset, at 40, says.
        let (reason, value) = unsafe {
            let reason = ptr::read_volatile(shared.add(8).cast::<u32>());
            let at = ptr::read_volatile(shared.add(40).cast::<u64>()) as usize;
            (reason, if reason == EXIT_IO && at < size { *shared.add(at) } else { 0 })
        };
        match (reason, value) {
            (EXIT_IO, 1) => mark(BEGIN | phase),
            (EXIT_IO, 2) => {
                if number == 0 {
                    mark(END | phase);
                }
                return Ok(());
            }
            _ => return Err(format!("processor {number} left with reason {reason}, value {value}").into()),
        }
    }
}

fn ping_pong(kvm: &File, rounds: u64, x2apic: bool, phase: u32) -> Result<File> {
    let machine = opened(call(kvm, request::CREATE_VM, 0, "KVM_CREATE_VM")?);
    call(&machine, request::CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP")?;
    let ram = Ram(map(-1, RAM)?);
    ram.fill_in();
    let region = [0_u64, 0, RAM as u64, ram.0.addr() as u64];
    call(
        &machine,
        request::SET_USER_MEMORY_REGION,
        region.as_ptr().addr() as u64,
        "KVM_SET_USER_MEMORY_REGION",
    )?;
    let mut cpuid = Box::new(Cpuid { count: 128, padding: 0, entries: [[0; 10]; 128] });
    let place = ptr::from_mut(&mut *cpuid).addr() as u64;
    call(kvm, request::GET_SUPPORTED_CPUID, place, "KVM_GET_SUPPORTED_CPUID")?;
    let size = call(kvm, request::GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")? as usize;
    let mut threads = Vec::new();
    for number in 0..2 {
        let vcpu = opened(call(&machine, request::CREATE_VCPU, number as u64, "KVM_CREATE_VCPU")?);
        set_up(&vcpu, number, rounds, x2apic, &cpuid)?;
        threads.push(thread::spawn(move || run(&vcpu, number, size, phase)));
    }
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    let received: u64 = (0..2).map(|number| u64::from(ram.read(RECEIVED + 0x40 * number))).sum();
    println!(
        "#ph phase name=kvm-unicast apic={} vcpus=2 sent={} received={received} lost={} verdict={}",
        if x2apic { "x2apic" } else { "xapic" },
        2 * rounds,
        (2 * rounds).saturating_sub(received),
        if received == 2 * rounds { "pass" } else { "fail" },
    );
    Ok(machine)
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).ok_or("say how many rounds")?.parse()?;
    // SAFETY: it gives this process access to a port that touches no memory.
    if unsafe { ioperm(MARK_PORT, 4, 1) } != 0 {
        return Err(format!("ioperm: {}", Error::last_os_error()).into());
    }
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    // Kept until the end: the kernel warns of two machines of one process with the same descriptor.
    let _first = ping_pong(&kvm, rounds, true, 1)?;
    ping_pong(&kvm, rounds, false, 2).map(drop)
}
