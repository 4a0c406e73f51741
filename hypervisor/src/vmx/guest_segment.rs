//! The segment registers of the guest-state area (SDM 25.4.1 Guest register state).

use super::vmcs::{Vmcs, VmxError};
use arch::segment::Segment;
use arch::vmcs::{self, Field16, Field32, FieldNatural};

/// The fields of one segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFields {
    selector: Field16,
    base: FieldNatural,
    limit: Field32,
    access_rights: Field32,
}

impl SegmentFields {
    /// Those of LDTR.
    pub const LDTR: Self = Self::at(6);
    /// Those of TR.
    pub const TR: Self = Self::at(7);

    /// Those of ES, CS, SS, DS, FS or GS, by the number (0 to 5) that instructions encode.
    pub const fn of(number: u8) -> Self {
        Self::at(if number < 5 { number as u32 } else { 5 })
    }

    /// SDM appendix B: the fields of ES, CS, SS, DS, FS, GS, LDTR and TR follow each other, two numbers
    /// apart.
    const fn at(place: u32) -> Self {
        let step = 2 * place;
        Self {
            selector: Field16(vmcs::GUEST_ES_SELECTOR.0 + step),
            base: FieldNatural(vmcs::GUEST_ES_BASE.0 + step),
            limit: Field32(vmcs::GUEST_ES_LIMIT.0 + step),
            access_rights: Field32(vmcs::GUEST_ES_ACCESS_RIGHTS.0 + step),
        }
    }

    /// Reads the register.
    pub fn read(self, vmcs: &impl Vmcs) -> Result<Segment, VmxError> {
        Ok(Segment {
            selector: vmcs.read(self.selector)?,
            base: vmcs.read(self.base)?,
            limit: vmcs.read(self.limit)?,
            rights: vmcs.read(self.access_rights)?,
        })
    }

    /// Reads the base alone.
    pub fn read_base(self, vmcs: &impl Vmcs) -> Result<u64, VmxError> {
        vmcs.read(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_register() {
        let fs = SegmentFields::of(4);
        assert_eq!(fs.selector, vmcs::GUEST_FS_SELECTOR);
        assert_eq!(fs.base, vmcs::GUEST_FS_BASE);
        assert_eq!(fs.limit, vmcs::GUEST_FS_LIMIT);
        assert_eq!(fs.access_rights, vmcs::GUEST_FS_ACCESS_RIGHTS);
        assert_eq!(SegmentFields::LDTR.limit, vmcs::GUEST_LDTR_LIMIT);
        assert_eq!(SegmentFields::TR.base, vmcs::GUEST_TR_BASE);
        assert_eq!(SegmentFields::TR.selector, vmcs::GUEST_TR_SELECTOR);
        assert_eq!(
            SegmentFields::TR.access_rights,
            vmcs::GUEST_TR_ACCESS_RIGHTS
        );
    }
}
