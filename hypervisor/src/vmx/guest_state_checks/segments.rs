//! SDM 27.3.1.2 Checks on guest segment registers, as they are with "unrestricted guest".

use super::KeptBy::{self, Processor};
use super::{Check, GuestState};
use arch::control_register::cr0;
use arch::segment::{Segment, rights};

const ES: usize = 0;
const CS: usize = 1;
const SS: usize = 2;
const DS: usize = 3;
const FS: usize = 4;
const GS: usize = 5;
const LDTR: usize = 6;
const TR: usize = 7;

/// The reserved bits of access rights (SDM 25.4.1, table "Format of Access Rights").
const RESERVED: u32 = 0xfffe_0f00;

/// Why segment registers stay legal but where a rule says more.
const LOADED: KeptBy = Processor(
    "only the guest's own segment loads change them, with the checks of the mode they are made in",
);

const fn is_usable(segment: Segment) -> bool {
    !segment.has(rights::UNUSABLE)
}

const fn kind(segment: Segment) -> u32 {
    segment.rights & rights::TYPE
}

const fn limit_fits(segment: Segment) -> bool {
    if segment.has(rights::GRANULAR) {
        segment.limit & 0xfff == 0xfff
    } else {
        segment.limit >> 20 == 0
    }
}

impl GuestState {
    /// CS, SS, DS, ES, FS and GS, of which all but CS may be unusable.
    fn usable(&self, numbers: &[usize], rule: fn(Segment) -> bool) -> bool {
        let segments = numbers.iter().map(|number| self.segments[*number]);
        segments.filter(|segment| is_usable(*segment)).all(rule)
    }

    /// A rule for segment registers outside virtual-8086 mode.
    fn unless_virtual_8086(&self, numbers: &[usize], rule: fn(Segment) -> bool) -> bool {
        self.virtual_8086_mode() || self.usable(numbers, rule)
    }
}

const CODE_AND_DATA: &[usize] = &[CS, SS, DS, ES, FS, GS];

pub(super) const CHECKS: &[Check] = &[
    Check {
        section: "27.3.1.2",
        rule: "the selectors of TR and of a usable LDTR have TI 0",
        kept_by: Processor("LTR, LLDT and task switches fault"),
        holds: |guest| {
            guest.segments[TR].selector & 4 == 0
                && guest.usable(&[LDTR], |ldtr| ldtr.selector & 4 == 0)
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "segment registers in virtual-8086 mode have base 16 times the selector, limit FFFFH, rights F3H",
        kept_by: Processor("IRET, task switches and loads in that mode make them so"),
        holds: |guest| {
            !guest.virtual_8086_mode()
                || CODE_AND_DATA.iter().all(|number| {
                    let segment = guest.segments[*number];
                    segment.base == u64::from(segment.selector) << 4
                        && segment.limit == 0xffff
                        && segment.rights == 0xf3
                })
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "the bases of TR, FS, GS and of a usable LDTR are canonical",
        kept_by: Processor("LTR, LLDT, WRMSR and WRFSBASE and its kin fault"),
        holds: |guest| {
            [TR, FS, GS]
                .iter()
                .all(|number| guest.is_canonical(guest.segments[*number].base))
                && (!is_usable(guest.segments[LDTR])
                    || guest.is_canonical(guest.segments[LDTR].base))
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "bits 63:32 of the bases of CS and of usable SS, DS and ES are 0",
        kept_by: Processor("descriptors have 32 bits of base"),
        holds: |guest| {
            guest.segments[CS].base >> 32 == 0
                && guest.usable(&[SS, DS, ES], |segment| segment.base >> 32 == 0)
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "CS is accessed code, or writable data of privilege level 0",
        kept_by: Processor("only real-address mode leaves data in CS"),
        holds: |guest| {
            guest.unless_virtual_8086(&[CS], |code| {
                matches!(kind(code), 9 | 11 | 13 | 15) || kind(code) == 3 && code.privilege() == 0
            })
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "usable SS is accessed writable data",
        kept_by: LOADED,
        holds: |guest| guest.unless_virtual_8086(&[SS], |stack| matches!(kind(stack), 3 | 7)),
    },
    Check {
        section: "27.3.1.2",
        rule: "usable DS, ES, FS and GS are accessed, and readable if they are code",
        kept_by: LOADED,
        holds: |guest| {
            guest.unless_virtual_8086(&[DS, ES, FS, GS], |data| {
                kind(data) & 1 != 0 && kind(data) & 0b1010 != 0b1000
            })
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "usable segments are code or data (S is 1), and present",
        kept_by: LOADED,
        holds: |guest| {
            guest.unless_virtual_8086(CODE_AND_DATA, |segment| {
                segment.has(rights::CODE_OR_DATA) && segment.has(rights::PRESENT)
            })
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "the DPL of CS is that of SS, or for conforming code not above it",
        kept_by: Processor("the privilege level is the DPL of SS, and changes with CS"),
        holds: |guest| {
            let (code, stack) = (guest.segments[CS], guest.segments[SS]);
            guest.virtual_8086_mode()
                || match kind(code) {
                    9 | 11 => code.privilege() == stack.privilege(),
                    13 | 15 => code.privilege() <= stack.privilege(),
                    _ => true,
                }
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "the DPL of SS is 0 if CR0.PE is 0 or CS is data",
        kept_by: Processor("CR0.PE is cleared at privilege level 0 only"),
        holds: |guest| {
            guest.virtual_8086_mode()
                || guest.segments[SS].privilege() == 0
                || guest.cr0 & cr0::PE != 0 && kind(guest.segments[CS]) != 3
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "CS is usable, and reserved bits of the access rights of usable segments are 0",
        kept_by: Processor("the access rights are the descriptors' own"),
        holds: |guest| {
            is_usable(guest.segments[CS])
                && guest
                    .unless_virtual_8086(CODE_AND_DATA, |segment| segment.rights & RESERVED == 0)
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "CS.D is 0 if CS.L is 1 in IA-32e mode",
        kept_by: Processor("loading CS faults"),
        holds: |guest| {
            let code = guest.segments[CS];
            !(guest.ia32e_mode() && code.has(rights::LONG) && code.has(rights::BIG))
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "the limits of usable segments fit their granularity",
        kept_by: Processor("limits are expanded when a descriptor is loaded"),
        holds: |guest| {
            guest.unless_virtual_8086(CODE_AND_DATA, limit_fits)
                && guest.usable(&[LDTR, TR], limit_fits)
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "TR is a usable, present, busy TSS, and in IA-32e mode not one of 16 bits",
        kept_by: KeptBy::Hypervisor(
            "guest_state::write_cr0: #GP where IA-32e mode would begin with a 16-bit TSS",
        ),
        holds: |guest| {
            let task = guest.segments[TR];
            (kind(task) == 11 || kind(task) == 3 && !guest.ia32e_mode())
                && is_usable(task)
                && task.has(rights::PRESENT)
                && !task.has(rights::CODE_OR_DATA)
                && task.rights & RESERVED == 0
        },
    },
    Check {
        section: "27.3.1.2",
        rule: "a usable LDTR is a present LDT",
        kept_by: Processor("LLDT and task switches fault"),
        holds: |guest| {
            guest.usable(&[LDTR], |ldtr| {
                kind(ldtr) == 2
                    && ldtr.has(rights::PRESENT)
                    && !ldtr.has(rights::CODE_OR_DATA)
                    && ldtr.rights & RESERVED == 0
            })
        },
    },
];
