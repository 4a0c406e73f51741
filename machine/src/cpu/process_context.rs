//! Process-context identifiers (SDM 4.10.1 Process-context identifiers (PCIDs)), and INVPCID.
//!
//! A PCID's translations are a context of the translation cache. The current PCID's is the current
//! context; those of a few others wait here to be used again. None waits across VM entries and exits.

use arch::control_register::{cr0, cr4, efer};

use super::{Cpu, raise::Raised, tlb::Context};

/// Bits 11:0 of CR3 while CR4.PCIDE is 1.
pub const PCID: u64 = 0xfff;
/// Bit 63 of what MOV to CR3 loads while CR4.PCIDE is 1: the new PCID's translations stay.
pub const PRESERVE: u64 = 1 << 63;
/// Contexts that wait at most; the oldest goes first.
const KEPT: usize = 8;

/// What a linear translation depends on besides the paging structures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl Paging {
    /// What it depends on now.
    pub fn of(cpu: &Cpu) -> Self {
        const CR4: u64 =
            cr4::PSE | cr4::PAE | cr4::PGE | cr4::LA57 | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
        Self {
            cr0: cpu.cr0 & (cr0::PE | cr0::PG | cr0::WP),
            cr3: cpu.cr3,
            cr4: cpu.cr4 & CR4,
            efer: cpu.efer & (efer::LMA | efer::NXE),
        }
    }

    fn pcid(self) -> u64 {
        self.cr3 & PCID
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    paging: Paging,
    context: Context,
}

/// The contexts of the PCIDs that are not current.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessContexts {
    /// The first `count` are in use, the oldest first.
    kept: [Kept; KEPT],
    count: usize,
}

impl ProcessContexts {
    fn keep(&mut self, kept: Kept) {
        self.forget(|other| other.paging.pcid() == kept.paging.pcid());
        if self.count == KEPT {
            self.kept.copy_within(1.., 0);
            self.count -= 1;
        }
        if let Some(slot) = self.kept.get_mut(self.count) {
            *slot = kept;
            self.count += 1;
        }
    }

    fn take(&mut self, paging: Paging) -> Option<Context> {
        let found = self.kept[..self.count]
            .iter()
            .find(|kept| kept.paging == paging)?
            .context;
        self.forget(|kept| kept.paging.pcid() == paging.pcid());
        Some(found)
    }

    fn forget(&mut self, stale: impl Fn(&Kept) -> bool) {
        let mut left = 0;
        for index in 0..self.count {
            let kept = self.kept[index];
            if !stale(&kept) {
                self.kept[left] = kept;
                left += 1;
            }
        }
        self.count = left;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

/// The types of INVPCID (SDM volume 2, INVPCID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invalidation {
    Address,
    Single,
    All,
    AllRetainingGlobals,
}

impl Invalidation {
    const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Address,
            1 => Self::Single,
            2 => Self::All,
            3 => Self::AllRetainingGlobals,
            _ => return None,
        })
    }
}

impl Cpu {
    /// CR3 becomes `value` while CR4.PCIDE is 1 (SDM 4.10.4.1 Operations that invalidate TLBs and
    /// paging-structure caches).
    pub(super) fn switch_process_context(&mut self, value: u64) {
        let leaving = Kept {
            paging: Paging::of(self),
            context: self.tlb.context(),
        };
        self.cr3 = value & !PRESERVE;
        let paging = Paging::of(self);
        if paging == leaving.paging && value & PRESERVE != 0 {
            return;
        }
        let contexts = &mut self.process_contexts;
        if paging.pcid() != leaving.paging.pcid() {
            contexts.keep(leaving);
        }
        match contexts.take(paging) {
            Some(context) if value & PRESERVE != 0 => self.tlb.resume(context),
            _ => {
                self.process_contexts
                    .forget(|kept| kept.paging.pcid() == paging.pcid());
                self.tlb.flush();
            }
        }
        // They may have been made before the breakpoints were.
        self.refresh_data_breakpoints();
    }

    /// Whether CR4.PCIDE is 1.
    pub(super) fn has_process_contexts(&self) -> bool {
        self.cr4 & cr4::PCIDE != 0
    }

    /// Drops every translation, global ones and those of other PCIDs too.
    pub fn flush_translations(&mut self) {
        self.process_contexts.clear();
        self.tlb.flush();
    }

    /// Drops what is cached of the page at `linear`: of the current PCID, and global translations of
    /// all (SDM 4.10.4.1, INVLPG).
    pub fn invalidate_page(&mut self, linear: u64) {
        // A waiting context may have a piece of a global page elsewhere.
        self.process_contexts
            .forget(|kept| kept.context.may_have_large_page(linear));
        self.tlb.flush_page(linear);
    }

    /// INVPCID of type `number` with `descriptor`.
    pub(super) fn invalidate_process_context(
        &mut self,
        number: u64,
        descriptor: u128,
    ) -> Result<(), Raised> {
        let (low, linear) = (descriptor as u64, (descriptor >> 64) as u64);
        let pcid = low & PCID;
        let kind = Invalidation::from_number(number).filter(|kind| {
            let one = matches!(kind, Invalidation::Address | Invalidation::Single);
            low & !PCID == 0
                && (!one || pcid == 0 || self.has_process_contexts())
                && (*kind != Invalidation::Address || Self::is_canonical(linear))
        });
        let Some(kind) = kind else {
            return Err(self.general_protection(0));
        };
        let current = !self.has_process_contexts() || pcid == self.cr3 & PCID;
        match kind {
            Invalidation::Address if current => self.invalidate_page(linear),
            Invalidation::Single if current => self.tlb.flush(),
            // More than must be: all of the PCID.
            Invalidation::Address | Invalidation::Single => self
                .process_contexts
                .forget(|kept| kept.paging.pcid() == pcid),
            Invalidation::All | Invalidation::AllRetainingGlobals => self.flush_translations(),
        }
        Ok(())
    }
}
