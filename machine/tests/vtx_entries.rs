//! Entries one after the other: nothing of a VMCS, or of an earlier entry with it, shows in an entry with
//! another or with other controls (SDM 24.1 Overview, 26.2, 26.3.2 Loading guest state). Each case enters
//! with a feature in use, leaves, and enters with the feature off; all that comes of it must be what comes
//! of it after an entry that never had the feature.
#![allow(
    clippy::precedence,
    reason = "an address plus its offset, with flag bits"
)]

mod vmx;

use arch::exit::ExitReason as R;
use arch::vmcs;
use arch::vmx_control::{entry, pin, primary, secondary, vm_function};
use posthaste_machine::vtx::vmcs::REVISION;
use vmx::*;

const NOP: u8 = 0x90;
const CPUID: [u8; 2] = [0x0f, 0xa2];
/// Where the second guest begins.
const SECOND_CODE: u64 = GUEST_CODE + 0x800;
/// Another VMCS region, and where its address is for VMPTRLD.
const OTHER_VMCS: u64 = PAGES + 0x1_0000;
const OTHER_POINTER: u64 = 0x31_0010;
/// A page that cases may use for what the second guest reads, and an EPT entry that maps it elsewhere.
const PAGE: u64 = PAGES + 0x1_1000;
const PAGE_ENTRY: u64 = EPT + 0x3000 + 0x11 * 8;

/// How the second entry comes about.
#[derive(Clone, Copy, Debug)]
enum Second {
    /// VMRESUME after VMWRITEs.
    SameVmcs,
    /// VMCLEAR, VMPTRLD and VMLAUNCH.
    SameVmcsCleared,
    /// VMPTRLD of another VMCS and VMLAUNCH.
    OtherVmcs,
}

struct Case {
    name: &'static str,
    /// The first guest's code, which ends with CPUID.
    first_code: Vec<u8>,
    /// Puts the feature to use for the first entry.
    first: fn(&mut Guest),
    /// What reaches the processor while the first guest runs, after one instruction.
    meanwhile: fn(&mut Guest),
    second_code: Vec<u8>,
    /// Prepares the second entry, without the feature.
    second: fn(&mut Guest),
    /// Instructions that the second guest may execute.
    count: u64,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            first_code: [&[NOP; 4][..], &CPUID].concat(),
            first: |_| {},
            meanwhile: |_| {},
            second_code: [&[NOP; 8][..], &CPUID].concat(),
            second: |_| {},
            count: 20,
        }
    }
}

/// What can be seen of the second guest.
#[derive(Debug, PartialEq)]
struct Seen {
    inside: bool,
    reason: Option<R>,
    rip: u64,
    registers: Vec<u64>,
    rflags: u64,
    activity: String,
    vmcs: Vec<u8>,
    pages: Vec<u8>,
}

fn fields(guest: &Guest, region: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096 - 64];
    guest.ram().read_bytes(region + 64, &mut bytes);
    bytes
}

/// Runs both guests; the first has the feature or not.
fn see(case: &Case, feature: bool, second: Second) -> Seen {
    let plain = Case::default().first_code;
    let mut guest = Guest::new(if feature { &case.first_code } else { &plain });
    let code = case.second_code.clone();
    guest.store(SECOND_CODE, &code);
    guest.ram().store(OTHER_POINTER, OTHER_VMCS);
    let pristine = fields(&guest, VMCS);
    guest.set(vmcs::GUEST_RIP, SECOND_CODE);
    (case.second)(&mut guest);
    let prepared = fields(&guest, VMCS);
    guest.store(VMCS + 64, &pristine);
    let ram = |guest: &Guest| {
        let mut bytes = vec![0; 0x1f_e000];
        guest.ram().read_bytes(PAGES, &mut bytes);
        bytes
    };
    let pages = ram(&guest);
    if feature {
        (case.first)(&mut guest);
    }
    guest.launch(2);
    if feature {
        (case.meanwhile)(&mut guest);
    }
    guest.go_on(1000);
    assert!(!guest.cpu().vmx.non_root, "{}: still inside", case.name);
    // What the first guest left in memory is its own affair; the translations that it left are not.
    guest.store(PAGES, &pages);
    let region = match second {
        Second::SameVmcs => {
            guest.store(VMCS + 8, &1_u32.to_le_bytes());
            VMCS
        }
        Second::SameVmcsCleared => {
            guest.run_root(&[
                0x66, 0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00, // vmclear [310008h]
                0x0f, 0xc7, 0x34, 0x25, 0x08, 0x00, 0x31, 0x00, // vmptrld [310008h]
            ]);
            VMCS
        }
        Second::OtherVmcs => {
            guest.ram().store(OTHER_VMCS, REVISION);
            guest.run_root(&[
                0x66, 0x0f, 0xc7, 0x34, 0x25, 0x10, 0x00, 0x31, 0x00, // vmclear [310010h]
                0x0f, 0xc7, 0x34, 0x25, 0x10, 0x00, 0x31, 0x00, // vmptrld [310010h]
            ]);
            OTHER_VMCS
        }
    };
    guest.store(region + 64, &prepared);
    guest.cpu().registers[..16].fill(0);
    match second {
        Second::SameVmcs => guest.resume(case.count),
        Second::SameVmcsCleared | Second::OtherVmcs => guest.launch(case.count),
    }
    let inside = guest.cpu().vmx.non_root;
    let reason: u64 = guest.ram().load(region + reason_offset(&guest));
    let cpu = guest.cpu();
    Seen {
        inside,
        reason: (!inside).then(|| R::from_number(reason as u16)).flatten(),
        rip: cpu.rip(),
        registers: cpu.registers[..16].to_vec(),
        rflags: cpu.rflags(),
        activity: format!("{:?}", cpu.activity),
        vmcs: fields(&guest, region),
        pages: ram(&guest),
    }
}

/// Region offset of the exit reason, found by writing it: the layout is the machine's own.
fn reason_offset(guest: &Guest) -> u64 {
    use posthaste_machine::vtx::vmcs::Field;
    let scratch = PAGES + 0x1f_f000;
    guest.store(scratch, &[0; 4096]);
    vmcs::EXIT_REASON.set(&mut guest.ram(), scratch, 0xffff_ffff);
    let found = (64..4096)
        .step_by(8)
        .find(|at| guest.ram().load::<u64>(scratch + at) != 0);
    found.expect("the field has a place")
}

fn send(guest: &mut Guest, vector: u8) {
    let mailbox = &guest.cpu().platform.inboxes[0].mailbox;
    mailbox.post_vector(vector, arch::interrupt_command::TriggerMode::Edge);
}

/// Virtual-interrupt delivery with 61H requested and, RFLAGS.IF being 0, recognized.
fn recognized(guest: &mut Guest) {
    guest.with_apic_virtualization();
    guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x61);
    guest.set_virtual_apic(0x230, 2);
}

fn interrupts_enabled(guest: &mut Guest) {
    guest.with_interrupts_enabled();
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let d = Case::default;
    let read_page = || [load_u32(PAGE), CPUID.to_vec()].concat();
    vec![
        Case {
            name: "recognized virtual interrupt",
            first: recognized,
            second: interrupts_enabled,
            ..d()
        },
        Case {
            name: "recognized virtual interrupt, second guest halted",
            first: recognized,
            second: |guest| {
                guest.with_interrupts_enabled();
                guest.set(vmcs::GUEST_ACTIVITY_STATE, 1);
            },
            ..d()
        },
        Case {
            name: "recognized virtual interrupt, then virtual-interrupt delivery without a request",
            first: recognized,
            second: |guest| {
                guest.with_apic_virtualization();
                guest.with_interrupts_enabled();
            },
            ..d()
        },
        Case {
            name: "posted interrupt",
            first: |guest| {
                guest.with_apic_virtualization().with_posted_interrupts();
                guest.ram().store(DESCRIPTORS + 12, 2_u8);
            },
            meanwhile: |guest| send(guest, 0xe0),
            second: interrupts_enabled,
            ..d()
        },
        Case {
            name: "interrupt in service, then EOI without virtual-interrupt delivery",
            first: |guest| {
                guest.with_apic_virtualization();
                guest.set(vmcs::GUEST_INTERRUPT_STATUS, 0x6100);
                guest.set(vmcs::EOI_EXIT_BITMAP_1, 1 << 0x21);
            },
            second_code: [write_msr(0x80b, 0), CPUID.to_vec()].concat(),
            ..d()
        },
        Case {
            name: "TPR shadow and threshold",
            first: |guest| {
                guest.add_primary(primary::USE_TPR_SHADOW);
                guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
                guest.set(vmcs::TPR_THRESHOLD, 4);
                guest.set_virtual_apic(0x80, 0x50);
            },
            // mov cr8, rax; mov rbx, cr8
            second_code: vec![0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3, 0x0f, 0xa2],
            ..d()
        },
        Case {
            name: "APIC-access page",
            first_code: [load_u32(PAGE + 0x80), CPUID.to_vec()].concat(),
            first: |guest| {
                guest.add_primary(primary::USE_TPR_SHADOW);
                guest.add_secondary(secondary::VIRTUALIZE_APIC_ACCESSES);
                guest.set(vmcs::VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
                guest.set(vmcs::APIC_ACCESS_ADDRESS, PAGE);
            },
            second_code: [store_u32(PAGE + 0x80, 0x77), read_page()].concat(),
            ..d()
        },
        Case {
            name: "x2APIC mode with IPI virtualization",
            first_code: [&write_msr(ICR, command(1, 0x41))[..17], &CPUID].concat(),
            first: |guest| {
                guest.with_x2apic();
            },
            second_code: write_msr(SELF_IPI, 0x41),
            second: interrupts_enabled,
            ..d()
        },
        Case {
            name: "preemption timer",
            first: |guest| {
                guest.add_pin(pin::PREEMPTION_TIMER);
                guest.set(vmcs::PREEMPTION_TIMER_VALUE, 12);
            },
            second_code: vec![0xeb, 0xfe],
            count: 60,
            ..d()
        },
        Case {
            name: "monitor trap flag",
            first: |guest| {
                guest.add_primary(primary::MONITOR_TRAP_FLAG);
            },
            ..d()
        },
        Case {
            name: "pending monitor trap flag behind an INIT",
            first: |guest| {
                guest.set(vmcs::ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700);
                guest.cpu().platform.inboxes[0].mailbox.post_init();
                guest.cpu().init_pending = true;
            },
            meanwhile: |guest| {
                // The first guest is gone; so is what else was pending.
                let _ = guest.cpu().platform.inboxes[0].mailbox.take();
                guest.cpu().init_pending = false;
            },
            ..d()
        },
        Case {
            name: "virtual-NMI blocking and NMI window",
            first: |guest| {
                guest.add_pin(pin::VIRTUAL_NMIS);
                guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 8);
            },
            // iretq of a frame that is not there: a fault, and no unblocking is noted.
            second_code: vec![0x48, 0xcf],
            second: |guest| {
                guest.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
            },
            ..d()
        },
        Case {
            name: "interrupt window",
            first: |guest| {
                guest.add_primary(primary::INTERRUPT_WINDOW_EXITING);
            },
            second: interrupts_enabled,
            ..d()
        },
        Case {
            name: "external-interrupt exiting",
            first: |guest| {
                guest.add_pin(pin::EXTERNAL_INTERRUPT_EXITING);
            },
            second: interrupts_enabled,
            ..d()
        },
        Case {
            name: "PAUSE loop",
            first_code: [&[0xf3, 0x90][..], &[NOP; 4], &CPUID].concat(),
            first: |guest| {
                guest.add_secondary(secondary::PAUSE_LOOP_EXITING);
                guest.set(vmcs::PLE_GAP, 1000);
                guest.set(vmcs::PLE_WINDOW, 4);
            },
            second_code: [&[0xf3, 0x90][..], &CPUID].concat(),
            ..d()
        },
        Case {
            name: "PAUSE loop with another window",
            first_code: [&[0xf3, 0x90][..], &[NOP; 4], &CPUID].concat(),
            first: |guest| {
                guest.add_secondary(secondary::PAUSE_LOOP_EXITING);
                guest.set(vmcs::PLE_GAP, 1000);
                guest.set(vmcs::PLE_WINDOW, 1000);
            },
            second_code: [&[0xf3, 0x90][..], &CPUID].concat(),
            second: |guest| {
                guest.add_secondary(secondary::PAUSE_LOOP_EXITING);
                guest.set(vmcs::PLE_GAP, 1000);
                guest.set(vmcs::PLE_WINDOW, 4);
            },
            ..d()
        },
        Case {
            name: "TSC offset and multiplier",
            first: |guest| {
                guest.add_primary(primary::USE_TSC_OFFSETTING);
                guest.add_secondary(secondary::USE_TSC_SCALING);
                guest.set(vmcs::TSC_OFFSET, 1 << 40);
                guest.set(vmcs::TSC_MULTIPLIER, 3 << 48);
            },
            second_code: [&[0x0f, 0x31][..], &[0xf4]].concat(),
            ..d()
        },
        Case {
            name: "I/O bitmaps",
            first: |guest| {
                guest.add_primary(primary::USE_IO_BITMAPS);
                guest.ram().store(IO_BITMAPS + 0x80 / 8, 1_u8);
            },
            second_code: [&[0xe6, 0x80][..], &[0xf4]].concat(),
            ..d()
        },
        Case {
            name: "unconditional I/O exiting",
            first: |guest| {
                guest.add_primary(primary::UNCONDITIONAL_IO_EXITING);
            },
            second_code: [&[0xe6, 0x80][..], &[0xf4]].concat(),
            ..d()
        },
        Case {
            name: "another MSR bitmap",
            first: |guest| {
                guest.set(vmcs::MSR_BITMAP, PAGE);
                guest.store(PAGE, &[0xff; 4096]);
            },
            second_code: read_msr(0x10),
            ..d()
        },
        Case {
            name: "exception bitmap",
            first: |guest| {
                guest.set(vmcs::EXCEPTION_BITMAP, u32::MAX);
            },
            second_code: vec![0x0f, 0x0b],
            ..d()
        },
        Case {
            name: "CR0 and CR4 masks and shadows",
            first: |guest| {
                guest.set(vmcs::CR0_GUEST_HOST_MASK, u64::MAX);
                guest.set(vmcs::CR4_GUEST_HOST_MASK, u64::MAX);
                guest.set(vmcs::CR0_READ_SHADOW, 0x11);
                guest.set(vmcs::CR4_READ_SHADOW, 0x22);
            },
            // mov rax, cr0; mov rbx, cr4; clts
            second_code: vec![0x0f, 0x20, 0xc0, 0x0f, 0x20, 0xe3, 0x0f, 0x06, 0xf4],
            ..d()
        },
        Case {
            name: "EPT",
            first_code: read_page(),
            first: |guest| {
                guest.with_ept();
                guest.ram().store(PAGE_ENTRY, DATA | 0x37);
                guest.store(DATA, &[0x5a; 4096]);
            },
            second_code: [store_u32(PAGE + 4, 0x77), read_page()].concat(),
            ..d()
        },
        Case {
            name: "EPT under a VPID that the second guest has without EPT",
            first_code: read_page(),
            first: |guest| {
                guest.with_ept();
                guest.add_secondary(secondary::ENABLE_VPID);
                guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 5);
                guest.ram().store(PAGE_ENTRY, DATA | 0x37);
                guest.store(DATA, &[0x5a; 4096]);
            },
            second_code: [store_u32(PAGE + 4, 0x77), read_page()].concat(),
            second: |guest| {
                guest.add_secondary(secondary::ENABLE_VPID);
                guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 5);
            },
            ..d()
        },
        Case {
            name: "another VPID with another CR3's translations",
            first_code: read_page(),
            first: |guest| {
                guest.add_secondary(secondary::ENABLE_VPID);
                guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 5);
                let entry: u64 = guest.ram().load(PAGE_TABLE + 0x12 * 8);
                guest.ram().store(PAGE_TABLE + 0x11 * 8, entry);
            },
            meanwhile: |guest| {
                guest.ram().store(PAGE_TABLE + 0x11 * 8, PAGE | 7);
            },
            second_code: [store_u32(PAGE + 4, 0x77), read_page()].concat(),
            second: |guest| {
                guest.add_secondary(secondary::ENABLE_VPID);
                guest.set(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER, 6);
            },
            ..d()
        },
        Case {
            name: "EPTP switching",
            // xor eax, eax; xor ecx, ecx; vmfunc
            first_code: [&[0x31, 0xc0, 0x31, 0xc9, 0x0f, 0x01, 0xd4][..], &CPUID].concat(),
            first: |guest| {
                guest.with_ept();
                guest.add_secondary(secondary::ENABLE_VM_FUNCTIONS);
                guest.set(vmcs::VM_FUNCTION_CONTROLS, vm_function::EPTP_SWITCHING);
                guest.set(vmcs::EPTP_LIST_ADDRESS, DATA);
                guest.ram().store(DATA, EPT | 0x1e);
            },
            second_code: [&[0x31, 0xc0, 0x31, 0xc9, 0x0f, 0x01, 0xd4][..], &CPUID].concat(),
            second: |guest| {
                guest.set(vmcs::EXCEPTION_BITMAP, 1 << 6);
            },
            ..d()
        },
        Case {
            name: "page-modification logging",
            first_code: [store_u32(PAGE, 1), CPUID.to_vec()].concat(),
            first: |guest| {
                guest.with_ept();
                guest.set(vmcs::EPT_POINTER, EPT | 0x5e);
                guest.add_secondary(secondary::ENABLE_PML);
                guest.set(vmcs::PML_ADDRESS, DATA);
                guest.set(vmcs::PML_INDEX, 511);
            },
            second_code: [store_u32(PAGE + 0x1000, 1), CPUID.to_vec()].concat(),
            second: |guest| {
                guest.set(vmcs::PML_ADDRESS, DATA);
                guest.set(vmcs::PML_INDEX, 500);
            },
            ..d()
        },
        Case {
            name: "virtualization exceptions",
            first: |guest| {
                guest.with_ept();
                guest.add_secondary(secondary::EPT_VIOLATION_EXCEPTION);
                guest.set(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION, DATA);
            },
            second_code: read_page(),
            second: |guest| {
                guest.with_ept();
                guest.ram().store(PAGE_ENTRY, 0_u64);
            },
            ..d()
        },
        Case {
            name: "mode-based execute control",
            first: |guest| {
                guest.with_ept();
                guest.add_secondary(secondary::MODE_BASED_EXECUTE);
            },
            second: |guest| {
                guest.with_ept();
            },
            ..d()
        },
        Case {
            name: "VMCS shadowing",
            first: |guest| {
                guest.add_secondary(secondary::VMCS_SHADOWING);
                guest.set(vmcs::VMREAD_BITMAP, DATA);
                guest.set(vmcs::VMWRITE_BITMAP, DATA);
            },
            second_code: vec![0x0f, 0x78, 0xc8],
            ..d()
        },
        Case {
            name: "pending debug exceptions behind MOV SS",
            first: |guest| {
                guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 2);
                guest.set(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1001);
                guest.store(GUEST_CODE, &CPUID);
            },
            ..d()
        },
        Case {
            name: "blocking by STI, TF and breakpoints",
            first: |guest| {
                guest.set(vmcs::GUEST_INTERRUPTIBILITY_STATE, 1);
                guest.set(vmcs::GUEST_RFLAGS, 0x202);
                guest.set(vmcs::GUEST_DR7, 0x403);
                guest.set(
                    vmcs::ENTRY_CONTROLS,
                    guest.get(vmcs::ENTRY_CONTROLS) | entry::LOAD_DEBUG_CONTROLS,
                );
                guest.store(GUEST_CODE, &CPUID);
            },
            second: |guest| {
                guest.set(
                    vmcs::ENTRY_CONTROLS,
                    guest.get(vmcs::ENTRY_CONTROLS) | entry::LOAD_DEBUG_CONTROLS,
                );
            },
            ..d()
        },
        Case {
            name: "a page fault's addresses",
            first_code: read_page(),
            first: |guest| {
                guest.with_ept();
                guest.ram().store(PAGE_ENTRY, 0_u64);
            },
            ..d()
        },
        Case {
            name: "an entry that failed behind virtual interrupts and virtual NMIs",
            first: |guest| {
                recognized(guest);
                guest.add_pin(pin::VIRTUAL_NMIS | pin::PREEMPTION_TIMER);
                guest.add_primary(primary::MONITOR_TRAP_FLAG);
                guest.set(vmcs::ENTRY_MSR_LOAD_COUNT, 1);
                guest.set(vmcs::ENTRY_MSR_LOAD_ADDRESS, DATA);
                guest.ram().store(DATA, 0x800_u64);
            },
            second: interrupts_enabled,
            ..d()
        },
        Case {
            name: "an entry that failed by its guest state",
            first: |guest| {
                recognized(guest);
                guest.add_primary(primary::MONITOR_TRAP_FLAG);
                guest.set(vmcs::GUEST_RFLAGS, 0);
            },
            second: interrupts_enabled,
            ..d()
        },
    ]
}

#[test]
fn nothing_of_an_entry_shows_in_the_next() {
    let mut wrong = Vec::new();
    for case in cases() {
        for second in [Second::SameVmcs, Second::SameVmcsCleared, Second::OtherVmcs] {
            let (with, without) = (see(&case, true, second), see(&case, false, second));
            if with != without {
                let brief = |seen: &Seen| (seen.inside, seen.reason, seen.rip);
                wrong.push((case.name, second, brief(&with), brief(&without)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#x?}");
}

// SDM 26.8, 27.5.1, 4.10.4.1: a failed entry loads the host's CR3; what was cached under another CR3 in VMX
// root operation does not serve it.
#[test]
fn a_failed_entry_loads_cr3_as_an_exit_does() {
    const OTHER_TABLES: u64 = 0xa000;
    let mut guest = Guest::new(&CPUID);
    guest.ram().store(PAGE, 0x11_u32);
    guest.ram().store(DATA, 0x22_u32);
    // The same tables, but for PAGE.
    for (i, table) in [TABLES, TABLES + 0x1000, TABLES + 0x2000, PAGE_TABLE]
        .into_iter()
        .enumerate()
    {
        let mut bytes = [0; 4096];
        guest.ram().read_bytes(table, &mut bytes);
        guest.store(OTHER_TABLES + i as u64 * 0x1000, &bytes);
    }
    guest.ram().store(OTHER_TABLES, OTHER_TABLES + 0x1000 | 7);
    guest
        .ram()
        .store(OTHER_TABLES + 0x1000, OTHER_TABLES + 0x2000 | 7);
    guest
        .ram()
        .store(OTHER_TABLES + 0x2008, OTHER_TABLES + 0x3000 | 7);
    guest
        .ram()
        .store(OTHER_TABLES + 0x3000 + 0x11 * 8, DATA | 7);
    guest.launch(5);
    guest.expect_exit(R::Cpuid);
    let mov_cr3 = [&[0xb8, 0x00, 0xa0, 0x00, 0x00][..], &[0x0f, 0x22, 0xd8]].concat();
    guest.run_root(&[mov_cr3, load_u32(PAGE)].concat());
    assert_eq!(guest.cpu().registers[0], 0x22);
    guest.set(vmcs::GUEST_RFLAGS, 0);
    guest.resume(2);
    assert_eq!(guest.cpu().cr3, TABLES);
    guest.run_root(&load_u32(PAGE));
    assert_eq!(guest.cpu().registers[0], 0x11);
}
