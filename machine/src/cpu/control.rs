//! Control and debug registers (SDM 2.5 Control registers, 4.1 Paging modes, 9.8 and 9.9 mode
//! switching, 17.2 Debug registers).

use arch::control_register::{cr0, cr4, efer};
use arch::exception as vector;

use super::{
    Cpu,
    process_context::{PCID, PRESERVE},
    raise::{Exception, Pending, Raised, Source},
    segment::{register, rights},
};
use crate::vtx::control_registers::{permits_cr0, permits_cr4};

/// Bits of CR0 that exist; the others read as 0 and ignore writes.
const CR0_DEFINED: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// DR6 bits that read as 1 (SDM 17.2.3; bit 11 and bit 16 belong to features not offered).
const DR6_ONES: u64 = 0xffff_0ff0;
/// DR6 bits that software may set: B3 to B0, BD, BS, BT.
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7 bits that software may set.
const DR7_WRITABLE: u64 = 0xffff_23ff;
/// DR7.GD.
const GENERAL_DETECT: u64 = 1 << 13;
/// DR6.BD.
const DEBUG_REGISTER_ACCESS: u64 = 1 << 13;

impl Cpu {
    /// Bits of CR4 that this processor lets software set.
    pub fn cr4_allowed(&self) -> u64 {
        let vmx = if self.model.offers_vmx() {
            cr4::VMXE
        } else {
            0
        };
        cr4::TSD
            | cr4::DE
            | cr4::PSE
            | cr4::PAE
            | cr4::MCE
            | cr4::PGE
            | cr4::PCE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::UMIP
            | cr4::FSGSBASE
            | cr4::PCIDE
            | cr4::OSXSAVE
            | cr4::SMEP
            | cr4::SMAP
            | vmx
    }

    /// MOV to CR0 (SDM volume 2, MOV—Move to/from control registers; LMSW comes here too).
    pub fn write_cr0(&mut self, value: u64) -> Result<(), Raised> {
        if value >> 32 != 0 {
            return Err(self.general_protection(0));
        }
        let value = value & CR0_DEFINED | cr0::ET;
        if !permits_cr0(self, value) {
            return Err(self.general_protection(0));
        }
        if value & (cr0::PG | cr0::PE) == cr0::PG || value & (cr0::NW | cr0::CD) == cr0::NW {
            return Err(self.general_protection(0));
        }
        let changed = self.cr0 ^ value;
        let mut extended = self.efer & !efer::LMA;
        if value & cr0::PG != 0 {
            if extended & efer::LME != 0 {
                let long = self.segments[register::CS as usize].has(rights::LONG);
                // A 16-bit TSS, available or busy.
                let small_task = matches!(self.tr.rights & rights::TYPE, 1 | 3);
                if changed & cr0::PG != 0 && (self.cr4 & cr4::PAE == 0 || long || small_task) {
                    return Err(self.general_protection(0));
                }
                extended |= efer::LMA;
            } else if self.cr4 & cr4::PAE != 0 && changed & (cr0::PG | cr0::CD | cr0::NW) != 0 {
                self.load_pdptes(self.cr3)?;
            }
        } else if changed & cr0::PG != 0 && (self.mode_64 || self.has_process_contexts()) {
            return Err(self.general_protection(0));
        }
        if changed & value & cr0::PE != 0 {
            // CPL becomes 0; it is kept in SS.
            self.segments[register::SS as usize].rights &= !(3 << 5);
        }
        self.cr0 = value;
        self.efer = extended;
        if changed & (cr0::PG | cr0::PE | cr0::WP) != 0 {
            self.flush_translations();
        }
        self.refresh_mode();
        Ok(())
    }

    /// MOV to CR3.
    pub fn write_cr3(&mut self, value: u64) -> Result<(), Raised> {
        if self.ia32e_mode() {
            // SDM 4.5, table 4-12: bits 63:MAXPHYADDR are reserved; bit 63 is not with PCIDs.
            let mut reserved = !self.model.physical_mask();
            if self.has_process_contexts() {
                reserved &= !PRESERVE;
            }
            if value & reserved != 0 {
                return Err(self.general_protection(0));
            }
            if self.has_process_contexts() {
                self.switch_process_context(value);
                return Ok(());
            }
        } else if self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 {
            self.load_pdptes(value)?;
        }
        self.cr3 = value;
        self.tlb.flush();
        Ok(())
    }

    /// MOV to CR4.
    pub fn write_cr4(&mut self, value: u64) -> Result<(), Raised> {
        if value & !self.cr4_allowed() != 0 || !permits_cr4(self, value) {
            return Err(self.general_protection(0));
        }
        let changed = self.cr4 ^ value;
        // SDM 4.10.1: PCIDs are enabled in IA-32e mode with the current one 0.
        let enables_pcid = changed & value & cr4::PCIDE != 0;
        if enables_pcid && (!self.ia32e_mode() || self.cr3 & PCID != 0) {
            return Err(self.general_protection(0));
        }
        if self.ia32e_mode() {
            if value & cr4::PAE == 0 {
                return Err(self.general_protection(0));
            }
        } else if self.cr0 & cr0::PG != 0
            && value & cr4::PAE != 0
            && changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0
        {
            // SDM 4.4.1: such writes load the PDPTEs.
            self.load_pdptes(self.cr3)?;
        }
        self.cr4 = value;
        const TRANSLATION: u64 =
            cr4::PAE | cr4::PGE | cr4::PSE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
        if changed & TRANSLATION != 0 {
            self.flush_translations();
        }
        self.refresh_privilege();
        self.look_at_events();
        Ok(())
    }

    /// WRMSR to IA32_EFER (SDM 2.2.1): LMA is read-only, LME is fixed while paging is on.
    pub fn write_efer(&mut self, value: u64) -> Result<(), Raised> {
        const DEFINED: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        let changed = self.efer ^ value;
        if value & !DEFINED != 0 || changed & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            return Err(self.general_protection(0));
        }
        self.efer = value & !efer::LMA | self.efer & efer::LMA;
        if changed & efer::NXE != 0 {
            self.flush_translations();
        }
        Ok(())
    }

    /// The debug register that an instruction's number means: 4 and 5 are 6 and 7 unless CR4.DE is
    /// set (SDM 17.2.2).
    fn debug_register(&mut self, number: u8) -> Result<usize, Raised> {
        let index = match number {
            0..=3 | 6 | 7 => number,
            4 | 5 if self.cr4 & cr4::DE == 0 => number + 2,
            _ => return Err(self.invalid_opcode()),
        };
        if self.cpl != 0 {
            return Err(self.general_protection(0));
        }
        if self.dr[7] & GENERAL_DETECT != 0 {
            return Err(self.raise(Pending::Exception(Exception {
                vector: vector::DEBUG,
                error_code: None,
                detail: DEBUG_REGISTER_ACCESS,
                source: Source::Fault,
            })));
        }
        Ok(index.into())
    }

    /// MOV from a debug register.
    pub fn read_debug_register(&mut self, number: u8) -> Result<u64, Raised> {
        let index = self.debug_register(number)?;
        Ok(self.dr[index])
    }

    /// MOV to a debug register.
    pub fn write_debug_register(&mut self, number: u8, value: u64) -> Result<(), Raised> {
        let index = self.debug_register(number)?;
        self.dr[index] = match index {
            6 | 7 if value >> 32 != 0 => return Err(self.general_protection(0)),
            6 => value & DR6_WRITABLE | DR6_ONES,
            7 => value & DR7_WRITABLE | 0x400,
            _ => value,
        };
        if index != 6 {
            self.refresh_data_breakpoints();
        }
        self.look_at_events();
        Ok(())
    }
}
