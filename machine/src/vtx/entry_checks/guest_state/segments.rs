//! Checks on guest segment registers (SDM 26.3.1.2).

use arch::{
    control_register::cr0,
    vmcs::{self, Field16, Field32, FieldNatural},
};

use super::{Checked, Guest, require};
use crate::{
    cpu::{Cpu, segment::rights},
    vtx::vmcs::Field,
};

/// Reserved bits of access rights.
const RIGHTS_RESERVED: u32 = 0xfffe_0f00;

/// One segment register as it lies in the VMCS.
struct Fields {
    selector: u16,
    base: u64,
    limit: u32,
    rights: u32,
}

impl Fields {
    fn usable(&self) -> bool {
        self.rights & rights::UNUSABLE == 0
    }

    fn kind(&self) -> u32 {
        self.rights & rights::TYPE
    }

    fn privilege(&self) -> u32 {
        self.rights >> 5 & 3
    }

    fn bit(&self, right: u32) -> bool {
        self.rights & right != 0
    }

    /// Limit and granularity agree.
    fn limit_fits(&self) -> bool {
        let granular = self.bit(rights::GRANULAR);
        (self.limit & 0xfff == 0xfff || !granular) && (self.limit >> 20 == 0 || granular)
    }
}

impl Guest<'_> {
    fn fields(&self, s: Field16, b: FieldNatural, l: Field32, r: Field32) -> Fields {
        Fields {
            selector: s.get(&self.cpu.ram, self.region),
            base: self.natural(b),
            limit: self.word(l),
            rights: self.word(r),
        }
    }

    // SDM 26.3.1.2 Checks on Guest Segment Registers
    pub(super) fn segments(&self) -> Checked {
        let es = self.fields(
            vmcs::GUEST_ES_SELECTOR,
            vmcs::GUEST_ES_BASE,
            vmcs::GUEST_ES_LIMIT,
            vmcs::GUEST_ES_ACCESS_RIGHTS,
        );
        let cs = self.fields(
            vmcs::GUEST_CS_SELECTOR,
            vmcs::GUEST_CS_BASE,
            vmcs::GUEST_CS_LIMIT,
            vmcs::GUEST_CS_ACCESS_RIGHTS,
        );
        let ss = self.fields(
            vmcs::GUEST_SS_SELECTOR,
            vmcs::GUEST_SS_BASE,
            vmcs::GUEST_SS_LIMIT,
            vmcs::GUEST_SS_ACCESS_RIGHTS,
        );
        let ds = self.fields(
            vmcs::GUEST_DS_SELECTOR,
            vmcs::GUEST_DS_BASE,
            vmcs::GUEST_DS_LIMIT,
            vmcs::GUEST_DS_ACCESS_RIGHTS,
        );
        let fs = self.fields(
            vmcs::GUEST_FS_SELECTOR,
            vmcs::GUEST_FS_BASE,
            vmcs::GUEST_FS_LIMIT,
            vmcs::GUEST_FS_ACCESS_RIGHTS,
        );
        let gs = self.fields(
            vmcs::GUEST_GS_SELECTOR,
            vmcs::GUEST_GS_BASE,
            vmcs::GUEST_GS_LIMIT,
            vmcs::GUEST_GS_ACCESS_RIGHTS,
        );
        let ldtr = self.fields(
            vmcs::GUEST_LDTR_SELECTOR,
            vmcs::GUEST_LDTR_BASE,
            vmcs::GUEST_LDTR_LIMIT,
            vmcs::GUEST_LDTR_ACCESS_RIGHTS,
        );
        let tr = self.fields(
            vmcs::GUEST_TR_SELECTOR,
            vmcs::GUEST_TR_BASE,
            vmcs::GUEST_TR_LIMIT,
            vmcs::GUEST_TR_ACCESS_RIGHTS,
        );
        require(
            tr.selector & 4 == 0,
            "the guest TR selector refers to the GDT",
        )?;
        require(
            !ldtr.usable() || ldtr.selector & 4 == 0,
            "the guest LDTR selector refers to the GDT",
        )?;
        require(
            Cpu::is_canonical(tr.base) && Cpu::is_canonical(fs.base) && Cpu::is_canonical(gs.base),
            "guest TR, FS and GS bases are canonical",
        )?;
        require(
            !ldtr.usable() || Cpu::is_canonical(ldtr.base),
            "the guest LDTR base is canonical",
        )?;
        if self.virtual_8086() {
            for segment in [&cs, &ss, &ds, &es, &fs, &gs] {
                require(
                    segment.base == u64::from(segment.selector) << 4,
                    "segment bases are selectors times 16 in virtual-8086 mode",
                )?;
                require(
                    segment.limit == 0xffff,
                    "segment limits are FFFFH in virtual-8086 mode",
                )?;
                require(
                    segment.rights == 0xf3,
                    "access rights are F3H in virtual-8086 mode",
                )?;
            }
        } else {
            require(
                self.c.unrestricted_guest() || ss.selector & 3 == cs.selector & 3,
                "the RPLs of guest SS and CS are equal",
            )?;
            require(cs.base >> 32 == 0, "bits 63:32 of the guest CS base are 0")?;
            for segment in [&ss, &ds, &es] {
                require(
                    !segment.usable() || segment.base >> 32 == 0,
                    "bits 63:32 of guest SS, DS and ES bases are 0",
                )?;
            }
            self.code_segment(&cs, &ss)?;
            self.stack_segment(&cs, &ss)?;
            for segment in [&ds, &es, &fs, &gs] {
                self.data_segment(segment)?;
            }
        }
        self.task_register(&tr)?;
        local_descriptor_table(&ldtr)
    }

    fn code_segment(&self, cs: &Fields, ss: &Fields) -> Checked {
        let kind = cs.kind();
        require(
            matches!(kind, 9 | 11 | 13 | 15) || kind == 3 && self.c.unrestricted_guest(),
            "the guest CS type is accessed code, or with unrestricted guest writable data",
        )?;
        require(
            cs.bit(rights::CODE_OR_DATA),
            "guest CS is a code or data segment",
        )?;
        require(
            match kind {
                3 => cs.privilege() == 0,
                9 | 11 => cs.privilege() == ss.privilege(),
                _ => cs.privilege() <= ss.privilege(),
            },
            "the guest CS DPL fits its type and the SS DPL",
        )?;
        require(cs.bit(rights::PRESENT), "guest CS is present")?;
        require(
            cs.rights & RIGHTS_RESERVED == 0 && cs.usable(),
            "reserved guest CS access rights are 0",
        )?;
        require(
            !(self.ia32e && cs.bit(rights::LONG) && cs.bit(rights::BIG)),
            "guest CS.D is 0 in 64-bit mode",
        )?;
        require(cs.limit_fits(), "guest CS granularity fits its limit")
    }

    fn stack_segment(&self, cs: &Fields, ss: &Fields) -> Checked {
        require(
            !ss.usable() || matches!(ss.kind(), 3 | 7),
            "the guest SS type is accessed writable data",
        )?;
        require(
            !ss.usable() || ss.bit(rights::CODE_OR_DATA),
            "guest SS is a code or data segment",
        )?;
        require(
            self.c.unrestricted_guest() || ss.privilege() == u32::from(ss.selector & 3),
            "the guest SS DPL is its RPL",
        )?;
        let protected = self.natural(vmcs::GUEST_CR0) & cr0::PE != 0;
        require(
            (protected && cs.kind() != 3) || ss.privilege() == 0,
            "the guest SS DPL is 0 in real-address mode",
        )?;
        require(
            !ss.usable() || ss.bit(rights::PRESENT),
            "guest SS is present",
        )?;
        require(
            !ss.usable() || ss.rights & RIGHTS_RESERVED == 0,
            "reserved guest SS access rights are 0",
        )?;
        require(
            !ss.usable() || ss.limit_fits(),
            "guest SS granularity fits its limit",
        )
    }

    fn data_segment(&self, segment: &Fields) -> Checked {
        if !segment.usable() {
            return Ok(());
        }
        let kind = segment.kind();
        require(
            kind & 1 != 0 && (kind & 8 == 0 || kind & 2 != 0),
            "guest data segments are accessed, and readable if code",
        )?;
        require(
            segment.bit(rights::CODE_OR_DATA),
            "guest data segments are code or data segments",
        )?;
        require(
            self.c.unrestricted_guest()
                || kind > 11
                || segment.privilege() >= u32::from(segment.selector & 3),
            "the DPL of a guest data segment is not below its RPL",
        )?;
        require(
            segment.bit(rights::PRESENT),
            "guest data segments are present",
        )?;
        require(
            segment.rights & RIGHTS_RESERVED == 0,
            "reserved access rights of guest data segments are 0",
        )?;
        require(
            segment.limit_fits(),
            "the granularity of guest data segments fits their limit",
        )
    }

    fn task_register(&self, tr: &Fields) -> Checked {
        require(
            tr.kind() == 11 || tr.kind() == 3 && !self.ia32e,
            "guest TR is a busy TSS",
        )?;
        require(
            !tr.bit(rights::CODE_OR_DATA),
            "guest TR is a system segment",
        )?;
        require(tr.bit(rights::PRESENT), "guest TR is present")?;
        require(
            tr.rights & RIGHTS_RESERVED == 0,
            "reserved guest TR access rights are 0",
        )?;
        require(tr.limit_fits(), "guest TR granularity fits its limit")?;
        require(tr.usable(), "guest TR is usable")
    }
}

fn local_descriptor_table(ldtr: &Fields) -> Checked {
    if !ldtr.usable() {
        return Ok(());
    }
    require(ldtr.kind() == 2, "guest LDTR is an LDT")?;
    require(
        !ldtr.bit(rights::CODE_OR_DATA),
        "guest LDTR is a system segment",
    )?;
    require(ldtr.bit(rights::PRESENT), "guest LDTR is present")?;
    require(
        ldtr.rights & RIGHTS_RESERVED == 0,
        "reserved guest LDTR access rights are 0",
    )?;
    require(ldtr.limit_fits(), "guest LDTR granularity fits its limit")
}
