//! Checks on the guest-state area (SDM 26.3.1).

use arch::{
    control_register::{cr0, cr4, efer, rflags},
    interruption::{InterruptionInformation, InterruptionType},
    vmcs::{self, Field32, FieldNatural},
    vmx_control::{entry, pin},
};

use super::{
    Checked, Violation, host_state::valid_cr4, host_state::valid_efer, pat, physical, require,
};
use crate::{
    cpu::{Cpu, breakpoint::debugctl, segment::rights},
    vtx::{
        capabilities,
        controls::Controls,
        vmcs::{self as region_layout, Field, NO_POINTER},
    },
};

mod segments;

/// Bits of the interruptibility state (SDM 24.4.2, table 24-3).
pub mod interruptibility {
    /// Blocking by STI.
    pub const STI: u32 = 1 << 0;
    /// Blocking by MOV SS.
    pub const MOV_SS: u32 = 1 << 1;
    /// Blocking by SMI.
    pub const SMI: u32 = 1 << 2;
    /// Blocking by NMI.
    pub const NMI: u32 = 1 << 3;
    /// Enclave interruption.
    pub const ENCLAVE: u32 = 1 << 4;
}

/// Bits of the pending debug exceptions (SDM 24.4.2, table 24-4).
pub mod pending_debug {
    /// B3 to B0.
    pub const BREAKPOINTS: u64 = 15;
    /// Enabled breakpoint.
    pub const ENABLED_BREAKPOINT: u64 = 1 << 12;
    /// Single step.
    pub const SINGLE_STEP: u64 = 1 << 14;

    /// A trap that is due, by the bits that it would set in DR6.
    pub const fn from_debug_status(due: u64) -> u64 {
        let enabled = if due & BREAKPOINTS != 0 {
            ENABLED_BREAKPOINT
        } else {
            0
        };
        due & (BREAKPOINTS | SINGLE_STEP) | enabled
    }
}

/// What the checks have in common.
struct Guest<'a> {
    cpu: &'a Cpu,
    region: u64,
    c: &'a Controls,
    rflags: u64,
    ia32e: bool,
}

/// All checks on guest-state fields.
pub fn check(cpu: &Cpu, region: u64, c: &Controls) -> Checked {
    let guest = Guest {
        cpu,
        region,
        c,
        rflags: vmcs::GUEST_RFLAGS.get(&cpu.ram, region),
        ia32e: c.entry(entry::IA32E_MODE_GUEST),
    };
    guest.control_registers()?;
    guest.segments()?;
    guest.descriptor_tables()?;
    guest.instruction_pointer()?;
    guest.non_register_state()?;
    guest.page_directory_pointers()
}

impl Guest<'_> {
    fn natural(&self, field: FieldNatural) -> u64 {
        field.get(&self.cpu.ram, self.region)
    }

    fn word(&self, field: Field32) -> u32 {
        field.get(&self.cpu.ram, self.region)
    }

    fn virtual_8086(&self) -> bool {
        self.rflags & rflags::VM != 0
    }

    // SDM 26.3.1.1 Checks on Guest Control Registers, Debug Registers, and MSRs
    fn control_registers(&self) -> Checked {
        let ram = &self.cpu.ram;
        let cr0 = self.natural(vmcs::GUEST_CR0);
        let cr4 = self.natural(vmcs::GUEST_CR4);
        let mut fixed = capabilities::CR0_FIXED_0;
        if self.c.unrestricted_guest() {
            fixed &= !(cr0::PE | cr0::PG);
        }
        require(
            cr0 & fixed == fixed && cr0 & !capabilities::CR0_FIXED_1 == 0,
            "guest CR0 has the bits that VMX operation fixes",
        )?;
        require(
            cr0 & cr0::PG == 0 || cr0 & cr0::PE != 0,
            "guest CR0.PG requires CR0.PE",
        )?;
        require(
            valid_cr4(self.cpu, cr4),
            "guest CR4 has the bits that VMX operation fixes",
        )?;
        if self.c.entry(entry::LOAD_DEBUG_CONTROLS) {
            require(
                vmcs::GUEST_DEBUGCTL.get(ram, self.region) & !debugctl::DEFINED == 0,
                // As for WRMSR: branch records and their kin are not offered.
                "reserved bits of guest IA32_DEBUGCTL are 0",
            )?;
            require(
                self.natural(vmcs::GUEST_DR7) >> 32 == 0,
                "bits 63:32 of guest DR7 are 0",
            )?;
        }
        require(
            !self.ia32e || cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0,
            "an IA-32e mode guest has CR0.PG and CR4.PAE",
        )?;
        require(
            self.ia32e || cr4 & cr4::PCIDE == 0,
            "guest CR4.PCIDE requires IA-32e mode",
        )?;
        require(
            physical(self.cpu, self.natural(vmcs::GUEST_CR3), 0),
            "guest CR3 is within the physical-address width",
        )?;
        require(
            Cpu::is_canonical(self.natural(vmcs::GUEST_SYSENTER_ESP))
                && Cpu::is_canonical(self.natural(vmcs::GUEST_SYSENTER_EIP)),
            "guest IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical",
        )?;
        require(
            !self.c.entry(entry::LOAD_PAT) || pat(vmcs::GUEST_PAT.get(ram, self.region)),
            "guest IA32_PAT holds memory types",
        )?;
        if self.c.entry(entry::LOAD_EFER) {
            let value = vmcs::GUEST_EFER.get(ram, self.region);
            require(valid_efer(value), "reserved bits of guest IA32_EFER are 0")?;
            require(
                (value & efer::LMA != 0) == self.ia32e,
                "guest IA32_EFER.LMA equals the IA-32e mode guest control",
            )?;
            require(
                cr0 & cr0::PG == 0 || (value & efer::LMA != 0) == (value & efer::LME != 0),
                "guest IA32_EFER.LMA equals LME while CR0.PG is 1",
            )?;
        }
        Ok(())
    }

    // SDM 26.3.1.3 Checks on Guest Descriptor-Table Registers
    fn descriptor_tables(&self) -> Checked {
        require(
            Cpu::is_canonical(self.natural(vmcs::GUEST_GDTR_BASE))
                && Cpu::is_canonical(self.natural(vmcs::GUEST_IDTR_BASE)),
            "guest GDTR and IDTR bases are canonical",
        )?;
        require(
            self.word(vmcs::GUEST_GDTR_LIMIT) >> 16 == 0
                && self.word(vmcs::GUEST_IDTR_LIMIT) >> 16 == 0,
            "bits 31:16 of guest GDTR and IDTR limits are 0",
        )
    }

    // SDM 26.3.1.4 Checks on Guest RIP, RFLAGS, and SSP
    fn instruction_pointer(&self) -> Checked {
        let rip = self.natural(vmcs::GUEST_RIP);
        let long = self.word(vmcs::GUEST_CS_ACCESS_RIGHTS) & rights::LONG != 0;
        if self.ia32e && long {
            // With 48 linear-address bits: bit 47 is none of those that are looked at, so that a RIP which
            // is not canonical may enter, whose fetch then faults.
            require(
                matches!(rip as i64 >> 48, 0 | -1),
                "bits 63:48 of guest RIP are identical in 64-bit mode",
            )?;
        } else {
            require(
                rip >> 32 == 0,
                "bits 63:32 of guest RIP are 0 outside 64-bit mode",
            )?;
        }
        const RESERVED: u64 = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;
        require(
            self.rflags & RESERVED == 0 && self.rflags & rflags::RESERVED_1 != 0,
            "reserved bits of guest RFLAGS have their fixed values",
        )?;
        let protected = self.natural(vmcs::GUEST_CR0) & cr0::PE != 0;
        require(
            !self.virtual_8086() || !self.ia32e && protected,
            "guest RFLAGS.VM is 0 in IA-32e and real-address mode",
        )?;
        let info = self.injected();
        require(
            info.is_none_or(|kind| kind != InterruptionType::ExternalInterrupt)
                || self.rflags & rflags::IF != 0,
            "guest RFLAGS.IF is 1 when an external interrupt is injected",
        )
    }

    fn injected(&self) -> Option<InterruptionType> {
        let info = InterruptionInformation(self.word(vmcs::ENTRY_INTERRUPTION_INFORMATION));
        info.is_valid().then(|| info.interruption_type())
    }

    // SDM 26.3.1.5 Checks on Guest Non-Register State
    fn non_register_state(&self) -> Checked {
        use interruptibility as by;
        let activity = self.word(vmcs::GUEST_ACTIVITY_STATE);
        let blocking = self.word(vmcs::GUEST_INTERRUPTIBILITY_STATE);
        require(activity <= 3, "the guest activity state is one of four")?;
        let ss_privilege = self.word(vmcs::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3;
        require(
            activity != 1 || ss_privilege == 0,
            "HLT activity state requires SS DPL 0",
        )?;
        require(
            activity == 0 || blocking & (by::STI | by::MOV_SS) == 0,
            "blocking by STI or MOV SS requires the active state",
        )?;
        let info = InterruptionInformation(self.word(vmcs::ENTRY_INTERRUPTION_INFORMATION));
        if info.is_valid() {
            use InterruptionType as T;
            let kind = info.interruption_type();
            let vector = info.vector();
            let fits = match activity {
                0 => true,
                1 => match kind {
                    T::ExternalInterrupt | T::NonMaskable => true,
                    T::HardwareException => matches!(vector, 1 | 18),
                    T::Other => vector == 0,
                    _ => false,
                },
                2 => kind == T::NonMaskable || kind == T::HardwareException && vector == 18,
                _ => false,
            };
            require(fits, "the injected event can occur in the activity state")?;
        }
        require(
            blocking >> 5 == 0,
            "reserved bits of the interruptibility state are 0",
        )?;
        require(
            blocking & (by::STI | by::MOV_SS) != by::STI | by::MOV_SS,
            "blocking by STI and by MOV SS exclude each other",
        )?;
        require(
            blocking & by::STI == 0 || self.rflags & rflags::IF != 0,
            "blocking by STI requires RFLAGS.IF",
        )?;
        match self.injected() {
            Some(InterruptionType::ExternalInterrupt) => require(
                blocking & (by::STI | by::MOV_SS) == 0,
                "no external interrupt is injected while blocked by STI or MOV SS",
            )?,
            Some(InterruptionType::NonMaskable) => {
                if blocking & by::MOV_SS != 0 {
                    return Err(Violation {
                        rule: "no NMI is injected while blocked by MOV SS",
                        qualification: 3,
                    });
                }
                require(
                    !self.c.pin(pin::VIRTUAL_NMIS) || blocking & by::NMI == 0,
                    "no NMI is injected while virtual NMIs are blocked",
                )?;
            }
            _ => {}
        }
        require(
            blocking & by::SMI == 0,
            "blocking by SMI is 0 outside system-management mode",
        )?;
        require(
            blocking & by::ENCLAVE == 0,
            "enclave interruption is 0 without SGX",
        )?;
        self.pending_debug_exceptions(activity, blocking)?;
        self.link_pointer()
    }

    fn pending_debug_exceptions(&self, activity: u32, blocking: u32) -> Checked {
        use interruptibility as by;
        let pending = self.natural(vmcs::GUEST_PENDING_DEBUG_EXCEPTIONS);
        require(
            pending & !0x500f == 0,
            "reserved bits of the pending debug exceptions are 0",
        )?;
        if blocking & (by::STI | by::MOV_SS) != 0 || activity == 1 {
            let steps = self.rflags & rflags::TF != 0
                && vmcs::GUEST_DEBUGCTL.get(&self.cpu.ram, self.region)
                    & debugctl::BRANCH_TRAP_FLAG
                    == 0;
            require(
                (pending & pending_debug::SINGLE_STEP != 0) == steps,
                "the pending single step agrees with RFLAGS.TF and IA32_DEBUGCTL.BTF",
            )?;
        }
        Ok(())
    }

    fn link_pointer(&self) -> Checked {
        let pointer = vmcs::VMCS_LINK_POINTER.get(&self.cpu.ram, self.region);
        if pointer == NO_POINTER {
            return Ok(());
        }
        let plausible = physical(self.cpu, pointer, 0xfff)
            && pointer != self.cpu.vmx.current
            && self.cpu.ram.offset(pointer).is_some_and(|place| {
                let shadow = if self.c.vmcs_shadowing() {
                    region_layout::SHADOW
                } else {
                    0
                };
                region_layout::revision_word(&self.cpu.ram, place)
                    == region_layout::REVISION | shadow
            });
        if plausible {
            return Ok(());
        }
        Err(Violation {
            rule: "the VMCS link pointer is none, or another VMCS of the kind that shadowing says",
            qualification: 4,
        })
    }

    // SDM 26.3.1.6 Checks on Guest Page-Directory-Pointer-Table Entries
    fn page_directory_pointers(&self) -> Checked {
        let pae = self.natural(vmcs::GUEST_CR0) & cr0::PG != 0
            && self.natural(vmcs::GUEST_CR4) & cr4::PAE != 0
            && !self.ia32e;
        if !pae {
            return Ok(());
        }
        for entry in pdptes(self.cpu, self.region, self.c) {
            let reserved = !self.cpu.model.physical_mask() | 0x1e6;
            if entry & 1 != 0 && entry & reserved != 0 {
                return Err(Violation {
                    rule: "reserved bits of guest PDPTEs are 0",
                    qualification: 2,
                });
            }
        }
        Ok(())
    }
}

/// The PDPTEs that VM entry loads for a guest with PAE paging: from the VMCS with EPT, otherwise
/// from memory (SDM 26.3.2.4).
pub fn pdptes(cpu: &Cpu, region: u64, c: &Controls) -> [u64; 4] {
    if c.ept() {
        [
            vmcs::GUEST_PDPTE_0,
            vmcs::GUEST_PDPTE_1,
            vmcs::GUEST_PDPTE_2,
            vmcs::GUEST_PDPTE_3,
        ]
        .map(|field| field.get(&cpu.ram, region))
    } else {
        let table = vmcs::GUEST_CR3.get(&cpu.ram, region) & 0xffff_ffe0;
        [0, 8, 16, 24].map(|distance| match cpu.ram.offset(table + distance) {
            Some(place) => cpu.ram.load(place),
            None => u64::MAX,
        })
    }
}
