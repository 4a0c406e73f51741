//! Basic exit reasons (SDM appendix C, VMX basic exit reasons).

/// Bit 31 of the exit-reason field: the exit is a failed VM entry.
pub const ENTRY_FAILURE: u32 = 1 << 31;

/// One more than the highest basic exit reason that has a name here; arrays of counters use it.
pub const REASON_COUNT: usize = 69;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A basic exit reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ExitReason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl ExitReason {
            /// Every reason, in numerical order.
            pub const ALL: &[ExitReason] = &[$(ExitReason::$variant,)*];

            /// Decodes bits 15:0 of the exit-reason field.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name in statistics and JSON, such as `MSR_WRITE`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// 0: exception or NMI.
    ExceptionOrNmi = 0, "EXCEPTION_NMI";
    /// 1: external interrupt.
    ExternalInterrupt = 1, "EXTERNAL_INTERRUPT";
    /// 2: triple fault.
    TripleFault = 2, "TRIPLE_FAULT";
    /// 3: INIT signal.
    InitSignal = 3, "INIT_SIGNAL";
    /// 4: start-up IPI.
    StartUpIpi = 4, "SIPI";
    /// 5: I/O SMI.
    IoSmi = 5, "IO_SMI";
    /// 6: other SMI.
    OtherSmi = 6, "OTHER_SMI";
    /// 7: interrupt window.
    InterruptWindow = 7, "INTERRUPT_WINDOW";
    /// 8: NMI window.
    NmiWindow = 8, "NMI_WINDOW";
    /// 9: task switch.
    TaskSwitch = 9, "TASK_SWITCH";
    /// 10: CPUID.
    Cpuid = 10, "CPUID";
    /// 11: GETSEC.
    Getsec = 11, "GETSEC";
    /// 12: HLT.
    Hlt = 12, "HLT";
    /// 13: INVD.
    Invd = 13, "INVD";
    /// 14: INVLPG.
    Invlpg = 14, "INVLPG";
    /// 15: RDPMC.
    Rdpmc = 15, "RDPMC";
    /// 16: RDTSC.
    Rdtsc = 16, "RDTSC";
    /// 17: RSM.
    Rsm = 17, "RSM";
    /// 18: VMCALL.
    Vmcall = 18, "VMCALL";
    /// 19: VMCLEAR.
    Vmclear = 19, "VMCLEAR";
    /// 20: VMLAUNCH.
    Vmlaunch = 20, "VMLAUNCH";
    /// 21: VMPTRLD.
    Vmptrld = 21, "VMPTRLD";
    /// 22: VMPTRST.
    Vmptrst = 22, "VMPTRST";
    /// 23: VMREAD.
    Vmread = 23, "VMREAD";
    /// 24: VMRESUME.
    Vmresume = 24, "VMRESUME";
    /// 25: VMWRITE.
    Vmwrite = 25, "VMWRITE";
    /// 26: VMXOFF.
    Vmxoff = 26, "VMXOFF";
    /// 27: VMXON.
    Vmxon = 27, "VMXON";
    /// 28: control-register access.
    ControlRegisterAccess = 28, "CR_ACCESS";
    /// 29: MOV DR.
    MovDr = 29, "MOV_DR";
    /// 30: I/O instruction.
    IoInstruction = 30, "IO_INSTRUCTION";
    /// 31: RDMSR.
    Rdmsr = 31, "MSR_READ";
    /// 32: WRMSR.
    Wrmsr = 32, "MSR_WRITE";
    /// 33: VM-entry failure due to invalid guest state.
    EntryFailureGuestState = 33, "ENTRY_FAILURE_GUEST_STATE";
    /// 34: VM-entry failure due to MSR loading.
    EntryFailureMsrLoading = 34, "ENTRY_FAILURE_MSR_LOADING";
    /// 36: MWAIT.
    Mwait = 36, "MWAIT";
    /// 37: monitor trap flag.
    MonitorTrapFlag = 37, "MONITOR_TRAP_FLAG";
    /// 39: MONITOR.
    Monitor = 39, "MONITOR";
    /// 40: PAUSE.
    Pause = 40, "PAUSE";
    /// 41: VM-entry failure due to machine-check event.
    EntryFailureMachineCheck = 41, "ENTRY_FAILURE_MACHINE_CHECK";
    /// 43: TPR below threshold.
    TprBelowThreshold = 43, "TPR_BELOW_THRESHOLD";
    /// 44: APIC access.
    ApicAccess = 44, "APIC_ACCESS";
    /// 45: virtualized EOI.
    VirtualizedEoi = 45, "VIRTUALIZED_EOI";
    /// 46: access to GDTR or IDTR.
    GdtrOrIdtrAccess = 46, "GDTR_IDTR_ACCESS";
    /// 47: access to LDTR or TR.
    LdtrOrTrAccess = 47, "LDTR_TR_ACCESS";
    /// 48: EPT violation.
    EptViolation = 48, "EPT_VIOLATION";
    /// 49: EPT misconfiguration.
    EptMisconfiguration = 49, "EPT_MISCONFIGURATION";
    /// 50: INVEPT.
    Invept = 50, "INVEPT";
    /// 51: RDTSCP.
    Rdtscp = 51, "RDTSCP";
    /// 52: VMX-preemption timer expired.
    PreemptionTimer = 52, "PREEMPTION_TIMER";
    /// 53: INVVPID.
    Invvpid = 53, "INVVPID";
    /// 54: WBINVD or WBNOINVD.
    Wbinvd = 54, "WBINVD";
    /// 55: XSETBV.
    Xsetbv = 55, "XSETBV";
    /// 56: APIC write.
    ApicWrite = 56, "APIC_WRITE";
    /// 57: RDRAND.
    Rdrand = 57, "RDRAND";
    /// 58: INVPCID.
    Invpcid = 58, "INVPCID";
    /// 59: VMFUNC.
    Vmfunc = 59, "VMFUNC";
    /// 60: ENCLS.
    Encls = 60, "ENCLS";
    /// 61: RDSEED.
    Rdseed = 61, "RDSEED";
    /// 62: page-modification log full.
    PageModificationLogFull = 62, "PML_FULL";
    /// 63: XSAVES.
    Xsaves = 63, "XSAVES";
    /// 64: XRSTORS.
    Xrstors = 64, "XRSTORS";
    /// 67: UMWAIT.
    Umwait = 67, "UMWAIT";
    /// 68: TPAUSE.
    Tpause = 68, "TPAUSE";
}
