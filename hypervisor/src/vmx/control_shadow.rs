//! A copy of a control field in memory, so that a change costs one VMWRITE and no change costs
//! none. Fields of 32 and of 64 bits alike.

use super::vmcs::{Field, Vmcs, VmxError};

/// The shadow of one control field.
#[derive(Clone, Copy, Debug)]
pub struct ControlShadow<F: Field> {
    field: F,
    value: Option<F::Value>,
}

impl<F: Field> ControlShadow<F> {
    /// A shadow that knows nothing yet: the first [`set`](Self::set) writes.
    pub const fn new(field: F) -> Self {
        Self { field, value: None }
    }

    /// What the field holds, if anything was written.
    pub fn value(&self) -> Option<F::Value> {
        self.value
    }

    /// Makes the field hold `value`.
    #[inline(always)]
    pub fn set(&mut self, vmcs: &mut impl Vmcs, value: F::Value) -> Result<(), VmxError> {
        if self.value == Some(value) {
            return Ok(());
        }
        vmcs.write(self.field, value)?;
        self.value = Some(value);
        Ok(())
    }
}

impl<F: Field> ControlShadow<F>
where
    F::Value: core::ops::BitOr<Output = F::Value>
        + core::ops::BitAnd<Output = F::Value>
        + core::ops::Not<Output = F::Value>
        + Default,
{
    /// Sets `bits`.
    #[inline(always)]
    pub fn set_bits(&mut self, vmcs: &mut impl Vmcs, bits: F::Value) -> Result<(), VmxError> {
        self.set(vmcs, self.value.unwrap_or_default() | bits)
    }

    /// Clears `bits`.
    #[inline(always)]
    pub fn clear_bits(&mut self, vmcs: &mut impl Vmcs, bits: F::Value) -> Result<(), VmxError> {
        self.set(vmcs, self.value.unwrap_or_default() & !bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::vmcs::tests::MapVmcs;
    use arch::vmcs::{PRIMARY_PROCESSOR_BASED_CONTROLS, TERTIARY_PROCESSOR_BASED_CONTROLS};

    #[test]
    fn one_write_per_real_change() {
        let mut vmcs = MapVmcs::default();
        let mut shadow = ControlShadow::new(PRIMARY_PROCESSOR_BASED_CONTROLS);
        shadow.set(&mut vmcs, 0).unwrap();
        shadow.set(&mut vmcs, 0).unwrap();
        shadow.set_bits(&mut vmcs, 4).unwrap();
        shadow.set_bits(&mut vmcs, 4).unwrap();
        shadow.clear_bits(&mut vmcs, 8).unwrap();
        shadow.clear_bits(&mut vmcs, 4).unwrap();
        assert_eq!(vmcs.writes, [(0x4002, 0), (0x4002, 4), (0x4002, 0)]);
    }

    #[test]
    fn the_tertiary_shadow_keeps_64_bits() {
        let mut vmcs = MapVmcs::default();
        let mut shadow = ControlShadow::new(TERTIARY_PROCESSOR_BASED_CONTROLS);
        shadow.set_bits(&mut vmcs, 1 << 63 | 1 << 4).unwrap();
        shadow.clear_bits(&mut vmcs, 1 << 4).unwrap();
        assert_eq!(shadow.value(), Some(1 << 63));
        assert_eq!(vmcs.fields[&0x2034], 1 << 63);
    }

    #[test]
    fn a_refused_write_is_not_remembered() {
        let mut vmcs = MapVmcs::default();
        vmcs.absent.push(0x2034);
        let mut shadow = ControlShadow::new(TERTIARY_PROCESSOR_BASED_CONTROLS);
        assert!(shadow.set(&mut vmcs, 16).is_err());
        assert_eq!(shadow.value(), None);
    }
}
