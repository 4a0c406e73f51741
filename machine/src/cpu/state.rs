//! The state of a logical processor, and what reset makes of it.

use std::num::NonZeroU32;
use std::sync::Arc;

use apic::apic_base::Processor;
use apic::local_apic::{Configuration, Features, LocalApic};
use apic::non_maskable::PendingNonMaskable;
use apic::register_page::OwnedPage;
use arch::control_register::{cr0, efer, rflags};

use super::{
    CpuModel, EndOfSlice,
    flags::Flags,
    model_specific::ModelSpecific,
    monitor::Monitor,
    msr::{self, UnknownMsr},
    op::FLAT,
    process_context::ProcessContexts,
    raise::{Exception, Pending},
    segment::{DescriptorTable, Segment, register, rights},
    tlb::{Privilege, Tlb},
    translate::Context,
    x87::X87,
};
use crate::{
    memory::{Frames, Ram},
    platform::{Inbox, Platform},
    schedule::Clock,
    trace::{Counters, Event, Snapshot, Trace},
    vtx::Vmx,
};

/// TSC ticks in one count of the local APIC's timer before its divider: the crystal runs at 100 MHz
/// (CPUID.15H), the TSC at 1 GHz.
pub const TSC_TICKS_PER_TIMER_COUNT: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// What a processor does between instructions (SDM 24.4.2 Guest non-register state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It executes instructions.
    Active,
    /// It waits for an interrupt after HLT, or in MWAIT.
    Halted,
    /// It waits for INIT or reset after a triple fault.
    Shutdown,
    /// It waits for a start-up IPI.
    WaitForStartUp,
}

/// Why interrupts are held off for one instruction (SDM 6.8.3 Masking exceptions and interrupts
/// when switching stacks; STI in volume 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inhibit {
    /// They are not.
    None,
    /// The instruction after STI.
    Sti,
    /// The instruction after MOV SS or POP SS.
    MovSs,
}

/// Model-specific registers without a room of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Msrs {
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_TSC_ADJUST; added to the common time to give the time-stamp counter.
    pub tsc_adjust: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// Variable-range MTRRs: base and mask of eight.
    pub mtrr_variable: [u64; 16],
    /// Fixed-range MTRRs.
    pub mtrr_fixed: [u64; 11],
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_BIOS_SIGN_ID as software left it.
    pub bios_sign_id: u64,
    /// Registers that belong to processor models.
    pub model_specific: ModelSpecific,
}

/// One logical processor: everything that only it touches, as plain integers. What others may
/// touch is its mailbox in [`Platform`].
pub struct Cpu {
    /// General registers 0..=15 in encoding order, then a zero at 16 and RIP at 17. The length is a
    /// power of two so that a masked index needs no check.
    pub registers: [u64; 32],
    /// Start of the instruction that is being executed.
    pub instruction_start: u64,
    /// The six status flags.
    pub flags: Flags,
    /// The other bits of RFLAGS, with bit 1 set.
    pub system_flags: u64,
    /// ES, CS, SS, DS, FS, GS, and at 6 a flat segment without limit.
    pub segments: [Segment; 8],
    /// Whether CS is a 64-bit code segment and the processor is in IA-32e mode.
    pub mode_64: bool,
    /// Current privilege level.
    pub cpl: u8,
    /// On whose behalf instructions access memory; follows from CPL, CR4.SMAP and RFLAGS.AC.
    pub privilege: Privilege,
    /// The block ends after the current instruction.
    pub leave_block: bool,
    /// Instructions are executed one at a time, each followed by a look at events.
    pub stepwise: bool,
    /// Events must be looked at before the next block.
    pub check_events: bool,
    /// Interrupt shadow.
    pub inhibit: Inhibit,
    /// The shadow covers the instruction that runs now, and ends with it.
    pub inhibit_expires: bool,
    /// The single-step trap after the current instruction does not happen (it changed TF or was a
    /// MOV SS).
    pub trap_suppressed: bool,
    /// Events are looked at after every instruction (monitor trap flag).
    pub single_step: bool,
    /// RFLAGS.RF ends with the instruction that runs now; one that loads RF says no.
    pub resume_expires: bool,
    /// [`Self::instructions`] and RIP when a repeated string instruction last paused between two
    /// iterations.
    pub paused_iteration: Option<(u64, u64)>,
    /// The status flags from before that instruction.
    pub paused_flags: Flags,
    /// DR6 bits of the data and I/O breakpoints that the instruction met.
    pub breakpoints_met: u64,
    /// Alignment is checked: CPL is 3, CR0.AM and RFLAGS.AC are set.
    pub alignment_checked: bool,
    /// The exception that was being delivered and the one that came then, where a series of them has had
    /// no end so far.
    pub series: Option<(Exception, Exception)>,
    /// The event being delivered, if one is.
    pub delivering: Option<Exception>,
    /// Length of the instruction behind it, for INT n, INT3, INTO and INT1; otherwise 0.
    pub delivering_length: u8,
    /// MSR accesses that raised #GP because there is no such MSR, each once.
    pub unknown_msrs: Vec<UnknownMsr>,
    /// NMIs are blocked until IRET (SDM 6.7.1 Handling multiple NMIs).
    pub nmi_blocked: bool,
    /// NMIs that were received and not yet delivered.
    pub nmi_pending: PendingNonMaskable,
    /// An INIT was received and not yet acted on.
    pub init_pending: bool,
    /// A start-up IPI was received and not yet acted on.
    pub start_up_pending: Option<u8>,
    /// What the processor does.
    pub activity: Activity,
    /// Address-range monitoring.
    pub monitor: Monitor,
    /// Why the last instruction raised.
    pub pending: Pending,
    /// Translations.
    pub tlb: Tlb,
    /// Contexts of the translations of other process-context identifiers.
    pub process_contexts: ProcessContexts,
    /// RAM, to read.
    pub ram: Ram,
    /// To which frames of it the processor may write by itself.
    pub(crate) frames: Frames,
    /// What translated code needs to know.
    pub(super) translated: Context,

    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// Debug registers; 4 and 5 unused.
    pub dr: [u64; 8],
    /// PDPTEs of PAE paging, loaded with CR3 (SDM 4.4.1).
    pub pdpte: [u64; 4],
    /// SSE registers.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// Extended control register 0.
    pub xcr0: u64,
    /// x87 and MMX.
    pub x87: X87,
    /// Other model-specific registers.
    pub msrs: Msrs,
    /// State of the random-number instructions.
    pub random: u64,

    /// The local APIC.
    pub apic: LocalApic<OwnedPage>,
    /// VMX operation.
    pub vmx: Box<Vmx>,

    /// Instructions begun since the machine was built; those that fault or leave the guest count.
    pub instructions: u64,
    /// Value of `instructions` at which the slice ends.
    pub slice_end: u64,
    /// Whether the slice may end before that, between two blocks.
    pub end_of_slice: EndOfSlice,
    /// From when this processor gives another one something to do, its slice has so many instructions at
    /// most.
    pub turn: u64,
    /// Value of `instructions` at which the run stops, wherever in the slice that is.
    pub run_end: u64,
    /// Virtual time at which the last instruction ends, if it takes longer than others.
    pub busy_until: u64,
    /// What turns retired instructions into time.
    pub clock: Clock,
    /// What happened on this processor.
    pub counters: Box<Counters>,
    /// The trace of this processor.
    pub trace: Trace,
    /// RAM frames whose decoded instructions are stale, for the block cache to drop.
    pub stale_code: Vec<u64>,
    /// Number of this processor, from 0; equal to its initial APIC ID.
    pub index: usize,
    /// What others put before this processor.
    pub inbox: Arc<Inbox>,
    /// The rest of the machine.
    pub platform: Arc<Platform>,
    /// What kind of processor this is.
    pub model: Arc<CpuModel>,
}

impl Cpu {
    /// A processor after power-up: the first is the bootstrap processor, the others wait for a
    /// start-up IPI.
    pub fn new(index: usize, platform: Arc<Platform>, model: Arc<CpuModel>, clock: Clock) -> Self {
        let mut cpu = Self {
            registers: [0; 32],
            instruction_start: 0,
            flags: Flags::default(),
            system_flags: rflags::RESERVED_1,
            segments: [Segment::unusable(0); 8],
            mode_64: false,
            cpl: 0,
            privilege: Privilege::Supervisor,
            leave_block: false,
            stepwise: false,
            check_events: true,
            inhibit: Inhibit::None,
            inhibit_expires: false,
            trap_suppressed: false,
            single_step: false,
            resume_expires: false,
            paused_iteration: None,
            paused_flags: Flags::from_rflags(0),
            breakpoints_met: 0,
            alignment_checked: false,
            series: None,
            delivering: None,
            delivering_length: 0,
            unknown_msrs: Vec::new(),
            nmi_blocked: false,
            nmi_pending: PendingNonMaskable::NONE,
            init_pending: false,
            start_up_pending: None,
            activity: Activity::Active,
            monitor: Monitor::default(),
            pending: Pending::Again,
            tlb: Tlb::new(platform.ram.size()),
            process_contexts: ProcessContexts::default(),
            ram: platform.ram.clone(),
            frames: Frames::new(platform.ram.size()),
            translated: Context::default(),
            ldtr: Segment::unusable(0),
            tr: Segment::unusable(0),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            dr: [0; 8],
            pdpte: [0; 4],
            xmm: [0; 16],
            mxcsr: 0,
            xcr0: 1,
            x87: X87::default(),
            msrs: Msrs::default(),
            random: 0,
            apic: LocalApic::new(Configuration {
                x2apic_id: index as u32,
                processor: if index == 0 {
                    Processor::Bootstrap
                } else {
                    Processor::Application
                },
                physical_address_width: model.physical_address_width,
                tsc_ticks_per_timer_count: TSC_TICKS_PER_TIMER_COUNT,
                shortest_timer_period: 0,
                // IA32_MCG_CAP says that there are no corrected machine-check interrupts (SDM 15.3.1.1).
                features: Features {
                    corrected_machine_check: false,
                    ..Features::ALL
                },
            }),
            vmx: Box::default(),
            instructions: 0,
            slice_end: 0,
            end_of_slice: EndOfSlice::Exact,
            turn: 0,
            run_end: u64::MAX,
            busy_until: 0,
            clock,
            counters: Box::default(),
            trace: Trace::default(),
            stale_code: Vec::new(),
            index,
            inbox: platform.inboxes.get(index).cloned().unwrap_or_default(),
            platform,
            model,
        };
        cpu.reset(Reset::PowerUp);
        if index != 0 {
            cpu.activity = Activity::WaitForStartUp;
        }
        cpu
    }

    /// Instruction pointer.
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.registers[super::op::RIP as usize]
    }

    /// Sets the instruction pointer.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.registers[super::op::RIP as usize] = rip;
    }

    /// RFLAGS, whole.
    pub fn rflags(&self) -> u64 {
        self.system_flags | self.flags.to_rflags()
    }

    /// Sets all of RFLAGS; reserved bits take their fixed values. TF, IF and RF may have changed, so
    /// events are looked at next.
    pub fn set_rflags(&mut self, value: u64) {
        const DEFINED: u64 = rflags::TF
            | rflags::IF
            | rflags::DF
            | rflags::IOPL
            | rflags::NT
            | rflags::RF
            | rflags::VM
            | rflags::AC
            | rflags::VIF
            | rflags::VIP
            | rflags::ID;
        self.flags = Flags::from_rflags(value);
        self.system_flags = value & DEFINED | rflags::RESERVED_1;
        self.refresh_privilege();
        self.look_at_events();
    }

    /// The virtual time in ticks of the time-stamp counter, before TSC_ADJUST.
    pub fn now(&self) -> u64 {
        self.clock.now(self.instructions)
    }

    /// The counters as they stand.
    pub fn snapshot(&self) -> Snapshot {
        let mut counters = (*self.counters).clone();
        if self.vmx.non_root {
            // The stretch since the last VM entry is counted at the next exit.
            counters.guest_instructions += self
                .instructions
                .wrapping_sub(self.vmx.guest.entry_instructions);
        }
        Snapshot {
            counters,
            instructions: self.instructions,
            time: self.now(),
        }
    }

    /// Adds an event to the trace.
    #[inline]
    pub fn trace(&mut self, event: Event) {
        let now = self.now();
        self.trace.add(now, event);
    }

    /// Ends the block after the current instruction and looks at events before the next.
    #[inline(always)]
    pub fn look_at_events(&mut self) {
        self.check_events = true;
        self.leave_block = true;
    }

    /// Whether protected mode is on.
    #[inline(always)]
    pub fn protected_mode(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Whether the processor is in virtual-8086 mode.
    #[inline(always)]
    pub fn virtual_8086(&self) -> bool {
        self.system_flags & rflags::VM != 0
    }

    /// Whether IA-32e mode is active.
    #[inline(always)]
    pub fn ia32e_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Default operand and address size of code: 16, 32 or 64 bits.
    pub fn code_bits(&self) -> u32 {
        if self.mode_64 {
            64
        } else if self.segments[register::CS as usize].has(rights::BIG) {
            32
        } else {
            16
        }
    }

    /// Recomputes what follows from CS, EFER, CR0 and RFLAGS.VM; call after any of them changed.
    pub fn refresh_mode(&mut self) {
        let cs = &self.segments[register::CS as usize];
        self.mode_64 = self.ia32e_mode() && cs.has(rights::LONG);
        self.cpl = if !self.protected_mode() {
            0
        } else if self.virtual_8086() {
            3
        } else {
            self.segments[register::SS as usize].privilege()
        };
        self.refresh_privilege();
        self.look_at_events();
    }

    /// Brings the processor to the state after RESET or INIT (SDM 9.1.1 Processor state after
    /// reset, table 9-1). INIT keeps time, MSRs other than EFER, the FPU, CR0.CD and CR0.NW.
    pub fn reset(&mut self, kind: Reset) {
        let data = Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            rights: rights::PRESENT | rights::CODE_OR_DATA | rights::READ_WRITE | rights::ACCESSED,
        };
        self.registers = [0; 32];
        self.registers[2] = u64::from(self.model.signature);
        self.set_rip(0xfff0);
        self.flags = Flags::from_rflags(0);
        self.system_flags = rflags::RESERVED_1;
        self.segments = [data; 8];
        self.segments[register::CS as usize] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            rights: data.rights | rights::CODE,
            ..data
        };
        self.segments[FLAT as usize].limit = u32::MAX;
        self.segments[7].limit = u32::MAX;
        self.ldtr = Segment {
            rights: rights::PRESENT | 2,
            ..data
        };
        self.tr = Segment {
            rights: rights::PRESENT | 11,
            ..data
        };
        self.gdtr = DescriptorTable {
            base: 0,
            limit: 0xffff,
        };
        self.idtr = self.gdtr;
        let cache = match kind {
            Reset::PowerUp => cr0::CD | cr0::NW,
            Reset::Init => self.cr0 & (cr0::CD | cr0::NW),
        };
        self.cr0 = cr0::ET | cache;
        self.cr2 = 0;
        self.cr3 = 0;
        self.cr4 = 0;
        self.efer = 0;
        self.dr = [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400];
        self.inhibit = Inhibit::None;
        self.nmi_blocked = false;
        self.nmi_pending = PendingNonMaskable::NONE;
        self.init_pending = false;
        self.start_up_pending = None;
        self.msrs.kernel_gs_base = match kind {
            Reset::PowerUp => 0,
            Reset::Init => self.msrs.kernel_gs_base,
        };
        if kind == Reset::PowerUp {
            self.xmm = [0; 16];
            self.mxcsr = 0x1f80;
            self.xcr0 = 1;
            self.x87 = X87::default();
            self.msrs = Msrs {
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1 | msr::MONITOR,
                // Firmware has executed CPUID.1.
                bios_sign_id: msr::MICROCODE_REVISION,
                ..Msrs::default()
            };
        }
        self.activity = Activity::Active;
        self.monitor.clear();
        self.process_contexts.clear();
        self.tlb.flush_all();
        self.refresh_mode();
    }

    /// Brings the processor and its local APIC to the state after power-up.
    pub fn power_up(&mut self) {
        *self.vmx = Default::default();
        self.breakpoints_met = 0;
        self.reset(Reset::PowerUp);
        self.apic.reset();
        self.publish_identity();
    }

    /// After power-up, ends S3 as firmware does: the bootstrap processor goes to software's waking vector in
    /// real mode (ACPI 5.2.10), the others wait for a start-up IPI.
    pub fn begin_at_waking_vector(&mut self, vector: u32) {
        self.activity = Activity::WaitForStartUp;
        if self.index == 0 {
            self.segments[register::CS as usize].set_real_mode((vector >> 4) as u16);
            self.set_rip(u64::from(vector & 15));
            self.activity = Activity::Active;
            self.refresh_mode();
        }
    }

    /// Starts a processor that waits for a start-up IPI at `vector << 12` (SDM 8.4.3).
    pub fn start_up(&mut self, vector: u8) {
        self.segments[register::CS as usize].set_real_mode(u16::from(vector) << 8);
        self.set_rip(0);
        self.activity = Activity::Active;
        self.refresh_mode();
    }
}

/// The two ways to come to the reset state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power-up or RESET#.
    PowerUp,
    /// An INIT signal.
    Init,
}
