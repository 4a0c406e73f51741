//! Encodings of VMCS fields (SDM appendix B, Field encoding in VMCS; 24.11.2 VMREAD, VMWRITE, and
//! encodings of VMCS fields).
//!
//! A field's type is its width, so a 16-bit value cannot be written where 64 bits are expected.

/// A 16-bit field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field16(pub u32);
/// A 32-bit field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field32(pub u32);
/// A 64-bit field; the encoding is that of full access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field64(pub u32);
/// A natural-width field: 64 bits on a processor with Intel 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldNatural(pub u32);

/// Width of a field (bits 14:13 of its encoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 0: 16 bits.
    Bits16,
    /// 1: 64 bits.
    Bits64,
    /// 2: 32 bits.
    Bits32,
    /// 3: natural width.
    Natural,
}

/// Type of a field (bits 11:10 of its encoding).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// 0: control.
    Control,
    /// 1: VM-exit information, read-only unless bit 29 of IA32_VMX_MISC is 1.
    ExitInformation,
    /// 2: guest state.
    GuestState,
    /// 3: host state.
    HostState,
}

/// The width that an encoding says.
pub const fn width(encoding: u32) -> Width {
    match encoding >> 13 & 3 {
        0 => Width::Bits16,
        1 => Width::Bits64,
        2 => Width::Bits32,
        _ => Width::Natural,
    }
}

/// The type that an encoding says.
pub const fn field_type(encoding: u32) -> FieldType {
    match encoding >> 10 & 3 {
        0 => FieldType::Control,
        1 => FieldType::ExitInformation,
        2 => FieldType::GuestState,
        _ => FieldType::HostState,
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $kind:ident = $encoding:literal;)*) => {
        $($(#[$doc])* pub const $name: $kind = $kind($encoding);)*

        /// Every field defined here: encoding (full access) and name.
        pub const FIELDS: &[(u32, &str)] = &[$(($encoding, stringify!($name)),)*];
    };
}

fields! {
    /// 0000H: virtual-processor identifier (VPID).
    VIRTUAL_PROCESSOR_IDENTIFIER: Field16 = 0x0000;
    /// 0002H: posted-interrupt notification vector.
    POSTED_INTERRUPT_NOTIFICATION_VECTOR: Field16 = 0x0002;
    /// 0004H: EPTP index.
    EPTP_INDEX: Field16 = 0x0004;
    /// 0006H: HLAT prefix size.
    HLAT_PREFIX_SIZE: Field16 = 0x0006;
    /// 0008H: last PID-pointer index.
    LAST_PID_POINTER_INDEX: Field16 = 0x0008;
    /// 0800H: guest ES selector.
    GUEST_ES_SELECTOR: Field16 = 0x0800;
    /// 0802H: guest CS selector.
    GUEST_CS_SELECTOR: Field16 = 0x0802;
    /// 0804H: guest SS selector.
    GUEST_SS_SELECTOR: Field16 = 0x0804;
    /// 0806H: guest DS selector.
    GUEST_DS_SELECTOR: Field16 = 0x0806;
    /// 0808H: guest FS selector.
    GUEST_FS_SELECTOR: Field16 = 0x0808;
    /// 080AH: guest GS selector.
    GUEST_GS_SELECTOR: Field16 = 0x080a;
    /// 080CH: guest LDTR selector.
    GUEST_LDTR_SELECTOR: Field16 = 0x080c;
    /// 080EH: guest TR selector.
    GUEST_TR_SELECTOR: Field16 = 0x080e;
    /// 0810H: guest interrupt status: RVI in the low byte, SVI in the high.
    GUEST_INTERRUPT_STATUS: Field16 = 0x0810;
    /// 0812H: PML index.
    PML_INDEX: Field16 = 0x0812;
    /// 0C00H: host ES selector.
    HOST_ES_SELECTOR: Field16 = 0x0c00;
    /// 0C02H: host CS selector.
    HOST_CS_SELECTOR: Field16 = 0x0c02;
    /// 0C04H: host SS selector.
    HOST_SS_SELECTOR: Field16 = 0x0c04;
    /// 0C06H: host DS selector.
    HOST_DS_SELECTOR: Field16 = 0x0c06;
    /// 0C08H: host FS selector.
    HOST_FS_SELECTOR: Field16 = 0x0c08;
    /// 0C0AH: host GS selector.
    HOST_GS_SELECTOR: Field16 = 0x0c0a;
    /// 0C0CH: host TR selector.
    HOST_TR_SELECTOR: Field16 = 0x0c0c;
    /// 2000H: address of I/O bitmap A.
    IO_BITMAP_A: Field64 = 0x2000;
    /// 2002H: address of I/O bitmap B.
    IO_BITMAP_B: Field64 = 0x2002;
    /// 2004H: address of MSR bitmaps.
    MSR_BITMAP: Field64 = 0x2004;
    /// 2006H: VM-exit MSR-store address.
    EXIT_MSR_STORE_ADDRESS: Field64 = 0x2006;
    /// 2008H: VM-exit MSR-load address.
    EXIT_MSR_LOAD_ADDRESS: Field64 = 0x2008;
    /// 200AH: VM-entry MSR-load address.
    ENTRY_MSR_LOAD_ADDRESS: Field64 = 0x200a;
    /// 200CH: executive-VMCS pointer.
    EXECUTIVE_VMCS_POINTER: Field64 = 0x200c;
    /// 200EH: PML address.
    PML_ADDRESS: Field64 = 0x200e;
    /// 2010H: TSC offset.
    TSC_OFFSET: Field64 = 0x2010;
    /// 2012H: virtual-APIC address.
    VIRTUAL_APIC_ADDRESS: Field64 = 0x2012;
    /// 2014H: APIC-access address.
    APIC_ACCESS_ADDRESS: Field64 = 0x2014;
    /// 2016H: posted-interrupt descriptor address.
    POSTED_INTERRUPT_DESCRIPTOR_ADDRESS: Field64 = 0x2016;
    /// 2018H: VM-function controls.
    VM_FUNCTION_CONTROLS: Field64 = 0x2018;
    /// 201AH: EPT pointer.
    EPT_POINTER: Field64 = 0x201a;
    /// 201CH: EOI-exit bitmap, vectors 63:0.
    EOI_EXIT_BITMAP_0: Field64 = 0x201c;
    /// 201EH: EOI-exit bitmap, vectors 127:64.
    EOI_EXIT_BITMAP_1: Field64 = 0x201e;
    /// 2020H: EOI-exit bitmap, vectors 191:128.
    EOI_EXIT_BITMAP_2: Field64 = 0x2020;
    /// 2022H: EOI-exit bitmap, vectors 255:192.
    EOI_EXIT_BITMAP_3: Field64 = 0x2022;
    /// 2024H: EPTP-list address.
    EPTP_LIST_ADDRESS: Field64 = 0x2024;
    /// 2026H: VMREAD-bitmap address.
    VMREAD_BITMAP: Field64 = 0x2026;
    /// 2028H: VMWRITE-bitmap address.
    VMWRITE_BITMAP: Field64 = 0x2028;
    /// 202AH: virtualization-exception information address.
    VIRTUALIZATION_EXCEPTION_INFORMATION: Field64 = 0x202a;
    /// 202CH: XSS-exiting bitmap.
    XSS_EXITING_BITMAP: Field64 = 0x202c;
    /// 202EH: ENCLS-exiting bitmap.
    ENCLS_EXITING_BITMAP: Field64 = 0x202e;
    /// 2032H: TSC multiplier.
    TSC_MULTIPLIER: Field64 = 0x2032;
    /// 2034H: tertiary processor-based VM-execution controls.
    TERTIARY_PROCESSOR_BASED_CONTROLS: Field64 = 0x2034;
    /// 2042H: PID-pointer table address.
    PID_POINTER_TABLE_ADDRESS: Field64 = 0x2042;
    /// 2400H: guest-physical address.
    GUEST_PHYSICAL_ADDRESS: Field64 = 0x2400;
    /// 2800H: VMCS link pointer.
    VMCS_LINK_POINTER: Field64 = 0x2800;
    /// 2802H: guest IA32_DEBUGCTL.
    GUEST_DEBUGCTL: Field64 = 0x2802;
    /// 2804H: guest IA32_PAT.
    GUEST_PAT: Field64 = 0x2804;
    /// 2806H: guest IA32_EFER.
    GUEST_EFER: Field64 = 0x2806;
    /// 2808H: guest IA32_PERF_GLOBAL_CTRL.
    GUEST_PERF_GLOBAL_CTRL: Field64 = 0x2808;
    /// 280AH: guest PDPTE 0.
    GUEST_PDPTE_0: Field64 = 0x280a;
    /// 280CH: guest PDPTE 1.
    GUEST_PDPTE_1: Field64 = 0x280c;
    /// 280EH: guest PDPTE 2.
    GUEST_PDPTE_2: Field64 = 0x280e;
    /// 2810H: guest PDPTE 3.
    GUEST_PDPTE_3: Field64 = 0x2810;
    /// 2C00H: host IA32_PAT.
    HOST_PAT: Field64 = 0x2c00;
    /// 2C02H: host IA32_EFER.
    HOST_EFER: Field64 = 0x2c02;
    /// 2C04H: host IA32_PERF_GLOBAL_CTRL.
    HOST_PERF_GLOBAL_CTRL: Field64 = 0x2c04;
    /// 4000H: pin-based VM-execution controls.
    PIN_BASED_CONTROLS: Field32 = 0x4000;
    /// 4002H: primary processor-based VM-execution controls.
    PRIMARY_PROCESSOR_BASED_CONTROLS: Field32 = 0x4002;
    /// 4004H: exception bitmap.
    EXCEPTION_BITMAP: Field32 = 0x4004;
    /// 4006H: page-fault error-code mask.
    PAGE_FAULT_ERROR_CODE_MASK: Field32 = 0x4006;
    /// 4008H: page-fault error-code match.
    PAGE_FAULT_ERROR_CODE_MATCH: Field32 = 0x4008;
    /// 400AH: CR3-target count.
    CR3_TARGET_COUNT: Field32 = 0x400a;
    /// 400CH: primary VM-exit controls.
    EXIT_CONTROLS: Field32 = 0x400c;
    /// 400EH: VM-exit MSR-store count.
    EXIT_MSR_STORE_COUNT: Field32 = 0x400e;
    /// 4010H: VM-exit MSR-load count.
    EXIT_MSR_LOAD_COUNT: Field32 = 0x4010;
    /// 4012H: VM-entry controls.
    ENTRY_CONTROLS: Field32 = 0x4012;
    /// 4014H: VM-entry MSR-load count.
    ENTRY_MSR_LOAD_COUNT: Field32 = 0x4014;
    /// 4016H: VM-entry interruption-information field.
    ENTRY_INTERRUPTION_INFORMATION: Field32 = 0x4016;
    /// 4018H: VM-entry exception error code.
    ENTRY_EXCEPTION_ERROR_CODE: Field32 = 0x4018;
    /// 401AH: VM-entry instruction length.
    ENTRY_INSTRUCTION_LENGTH: Field32 = 0x401a;
    /// 401CH: TPR threshold.
    TPR_THRESHOLD: Field32 = 0x401c;
    /// 401EH: secondary processor-based VM-execution controls.
    SECONDARY_PROCESSOR_BASED_CONTROLS: Field32 = 0x401e;
    /// 4020H: PLE gap.
    PLE_GAP: Field32 = 0x4020;
    /// 4022H: PLE window.
    PLE_WINDOW: Field32 = 0x4022;
    /// 4400H: VM-instruction error.
    INSTRUCTION_ERROR: Field32 = 0x4400;
    /// 4402H: exit reason.
    EXIT_REASON: Field32 = 0x4402;
    /// 4404H: VM-exit interruption information.
    EXIT_INTERRUPTION_INFORMATION: Field32 = 0x4404;
    /// 4406H: VM-exit interruption error code.
    EXIT_INTERRUPTION_ERROR_CODE: Field32 = 0x4406;
    /// 4408H: IDT-vectoring information.
    IDT_VECTORING_INFORMATION: Field32 = 0x4408;
    /// 440AH: IDT-vectoring error code.
    IDT_VECTORING_ERROR_CODE: Field32 = 0x440a;
    /// 440CH: VM-exit instruction length.
    EXIT_INSTRUCTION_LENGTH: Field32 = 0x440c;
    /// 440EH: VM-exit instruction information.
    EXIT_INSTRUCTION_INFORMATION: Field32 = 0x440e;
    /// 4800H: guest ES limit.
    GUEST_ES_LIMIT: Field32 = 0x4800;
    /// 4802H: guest CS limit.
    GUEST_CS_LIMIT: Field32 = 0x4802;
    /// 4804H: guest SS limit.
    GUEST_SS_LIMIT: Field32 = 0x4804;
    /// 4806H: guest DS limit.
    GUEST_DS_LIMIT: Field32 = 0x4806;
    /// 4808H: guest FS limit.
    GUEST_FS_LIMIT: Field32 = 0x4808;
    /// 480AH: guest GS limit.
    GUEST_GS_LIMIT: Field32 = 0x480a;
    /// 480CH: guest LDTR limit.
    GUEST_LDTR_LIMIT: Field32 = 0x480c;
    /// 480EH: guest TR limit.
    GUEST_TR_LIMIT: Field32 = 0x480e;
    /// 4810H: guest GDTR limit.
    GUEST_GDTR_LIMIT: Field32 = 0x4810;
    /// 4812H: guest IDTR limit.
    GUEST_IDTR_LIMIT: Field32 = 0x4812;
    /// 4814H: guest ES access rights.
    GUEST_ES_ACCESS_RIGHTS: Field32 = 0x4814;
    /// 4816H: guest CS access rights.
    GUEST_CS_ACCESS_RIGHTS: Field32 = 0x4816;
    /// 4818H: guest SS access rights.
    GUEST_SS_ACCESS_RIGHTS: Field32 = 0x4818;
    /// 481AH: guest DS access rights.
    GUEST_DS_ACCESS_RIGHTS: Field32 = 0x481a;
    /// 481CH: guest FS access rights.
    GUEST_FS_ACCESS_RIGHTS: Field32 = 0x481c;
    /// 481EH: guest GS access rights.
    GUEST_GS_ACCESS_RIGHTS: Field32 = 0x481e;
    /// 4820H: guest LDTR access rights.
    GUEST_LDTR_ACCESS_RIGHTS: Field32 = 0x4820;
    /// 4822H: guest TR access rights.
    GUEST_TR_ACCESS_RIGHTS: Field32 = 0x4822;
    /// 4824H: guest interruptibility state.
    GUEST_INTERRUPTIBILITY_STATE: Field32 = 0x4824;
    /// 4826H: guest activity state.
    GUEST_ACTIVITY_STATE: Field32 = 0x4826;
    /// 4828H: guest SMBASE.
    GUEST_SMBASE: Field32 = 0x4828;
    /// 482AH: guest IA32_SYSENTER_CS.
    GUEST_SYSENTER_CS: Field32 = 0x482a;
    /// 482EH: VMX-preemption timer value.
    PREEMPTION_TIMER_VALUE: Field32 = 0x482e;
    /// 4C00H: host IA32_SYSENTER_CS.
    HOST_SYSENTER_CS: Field32 = 0x4c00;
    /// 6000H: CR0 guest/host mask.
    CR0_GUEST_HOST_MASK: FieldNatural = 0x6000;
    /// 6002H: CR4 guest/host mask.
    CR4_GUEST_HOST_MASK: FieldNatural = 0x6002;
    /// 6004H: CR0 read shadow.
    CR0_READ_SHADOW: FieldNatural = 0x6004;
    /// 6006H: CR4 read shadow.
    CR4_READ_SHADOW: FieldNatural = 0x6006;
    /// 6008H: CR3-target value 0.
    CR3_TARGET_VALUE_0: FieldNatural = 0x6008;
    /// 600AH: CR3-target value 1.
    CR3_TARGET_VALUE_1: FieldNatural = 0x600a;
    /// 600CH: CR3-target value 2.
    CR3_TARGET_VALUE_2: FieldNatural = 0x600c;
    /// 600EH: CR3-target value 3.
    CR3_TARGET_VALUE_3: FieldNatural = 0x600e;
    /// 6400H: exit qualification.
    EXIT_QUALIFICATION: FieldNatural = 0x6400;
    /// 6402H: I/O RCX.
    IO_RCX: FieldNatural = 0x6402;
    /// 6404H: I/O RSI.
    IO_RSI: FieldNatural = 0x6404;
    /// 6406H: I/O RDI.
    IO_RDI: FieldNatural = 0x6406;
    /// 6408H: I/O RIP.
    IO_RIP: FieldNatural = 0x6408;
    /// 640AH: guest-linear address.
    GUEST_LINEAR_ADDRESS: FieldNatural = 0x640a;
    /// 6800H: guest CR0.
    GUEST_CR0: FieldNatural = 0x6800;
    /// 6802H: guest CR3.
    GUEST_CR3: FieldNatural = 0x6802;
    /// 6804H: guest CR4.
    GUEST_CR4: FieldNatural = 0x6804;
    /// 6806H: guest ES base.
    GUEST_ES_BASE: FieldNatural = 0x6806;
    /// 6808H: guest CS base.
    GUEST_CS_BASE: FieldNatural = 0x6808;
    /// 680AH: guest SS base.
    GUEST_SS_BASE: FieldNatural = 0x680a;
    /// 680CH: guest DS base.
    GUEST_DS_BASE: FieldNatural = 0x680c;
    /// 680EH: guest FS base.
    GUEST_FS_BASE: FieldNatural = 0x680e;
    /// 6810H: guest GS base.
    GUEST_GS_BASE: FieldNatural = 0x6810;
    /// 6812H: guest LDTR base.
    GUEST_LDTR_BASE: FieldNatural = 0x6812;
    /// 6814H: guest TR base.
    GUEST_TR_BASE: FieldNatural = 0x6814;
    /// 6816H: guest GDTR base.
    GUEST_GDTR_BASE: FieldNatural = 0x6816;
    /// 6818H: guest IDTR base.
    GUEST_IDTR_BASE: FieldNatural = 0x6818;
    /// 681AH: guest DR7.
    GUEST_DR7: FieldNatural = 0x681a;
    /// 681CH: guest RSP.
    GUEST_RSP: FieldNatural = 0x681c;
    /// 681EH: guest RIP.
    GUEST_RIP: FieldNatural = 0x681e;
    /// 6820H: guest RFLAGS.
    GUEST_RFLAGS: FieldNatural = 0x6820;
    /// 6822H: guest pending debug exceptions.
    GUEST_PENDING_DEBUG_EXCEPTIONS: FieldNatural = 0x6822;
    /// 6824H: guest IA32_SYSENTER_ESP.
    GUEST_SYSENTER_ESP: FieldNatural = 0x6824;
    /// 6826H: guest IA32_SYSENTER_EIP.
    GUEST_SYSENTER_EIP: FieldNatural = 0x6826;
    /// 6C00H: host CR0.
    HOST_CR0: FieldNatural = 0x6c00;
    /// 6C02H: host CR3.
    HOST_CR3: FieldNatural = 0x6c02;
    /// 6C04H: host CR4.
    HOST_CR4: FieldNatural = 0x6c04;
    /// 6C06H: host FS base.
    HOST_FS_BASE: FieldNatural = 0x6c06;
    /// 6C08H: host GS base.
    HOST_GS_BASE: FieldNatural = 0x6c08;
    /// 6C0AH: host TR base.
    HOST_TR_BASE: FieldNatural = 0x6c0a;
    /// 6C0CH: host GDTR base.
    HOST_GDTR_BASE: FieldNatural = 0x6c0c;
    /// 6C0EH: host IDTR base.
    HOST_IDTR_BASE: FieldNatural = 0x6c0e;
    /// 6C10H: host IA32_SYSENTER_ESP.
    HOST_SYSENTER_ESP: FieldNatural = 0x6c10;
    /// 6C12H: host IA32_SYSENTER_EIP.
    HOST_SYSENTER_EIP: FieldNatural = 0x6c12;
    /// 6C14H: host RSP.
    HOST_RSP: FieldNatural = 0x6c14;
    /// 6C16H: host RIP.
    HOST_RIP: FieldNatural = 0x6c16;
}

/// VM-instruction error numbers (SDM 30.4 VM instruction error numbers; chapter "VMX instruction
/// reference").
pub mod instruction_error {
    /// VMCALL executed in VMX root operation.
    pub const VMCALL_IN_ROOT: u32 = 1;
    /// VMCLEAR with invalid physical address.
    pub const VMCLEAR_INVALID_ADDRESS: u32 = 2;
    /// VMCLEAR with VMXON pointer.
    pub const VMCLEAR_VMXON_POINTER: u32 = 3;
    /// VMLAUNCH with non-clear VMCS.
    pub const VMLAUNCH_NOT_CLEAR: u32 = 4;
    /// VMRESUME with non-launched VMCS.
    pub const VMRESUME_NOT_LAUNCHED: u32 = 5;
    /// VMRESUME after VMXOFF.
    pub const VMRESUME_AFTER_VMXOFF: u32 = 6;
    /// VM entry with invalid control fields.
    pub const ENTRY_INVALID_CONTROLS: u32 = 7;
    /// VM entry with invalid host-state fields.
    pub const ENTRY_INVALID_HOST_STATE: u32 = 8;
    /// VMPTRLD with invalid physical address.
    pub const VMPTRLD_INVALID_ADDRESS: u32 = 9;
    /// VMPTRLD with VMXON pointer.
    pub const VMPTRLD_VMXON_POINTER: u32 = 10;
    /// VMPTRLD with incorrect VMCS revision identifier.
    pub const VMPTRLD_WRONG_REVISION: u32 = 11;
    /// VMREAD or VMWRITE from or to unsupported VMCS component.
    pub const UNSUPPORTED_COMPONENT: u32 = 12;
    /// VMWRITE to read-only VMCS component.
    pub const READ_ONLY_COMPONENT: u32 = 13;
    /// VMXON executed in VMX root operation.
    pub const VMXON_IN_ROOT: u32 = 15;
    /// VM entry with events blocked by MOV SS.
    pub const ENTRY_BLOCKED_BY_MOV_SS: u32 = 26;
    /// Invalid operand to INVEPT or INVVPID.
    pub const INVALID_INVALIDATION_OPERAND: u32 = 28;
}
