//! Typed access to VMCS fields: a field's type says its width, an error says which field and what
//! the processor answered.

use arch::vmcs::{Field16, Field32, Field64, FieldNatural};
use core::fmt;

/// How a VMX instruction failed (SDM 31.2 Conventions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// VMfailInvalid: there is no current VMCS.
    Invalid,
    /// VMfailValid, with the VM-instruction error number.
    Valid(u32),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Invalid => formatter.write_str("VMfailInvalid (no current VMCS)"),
            Self::Valid(number) => write!(
                formatter,
                "VMfailValid, VM-instruction error {number} ({})",
                instruction_error_name(*number)
            ),
        }
    }
}

/// What a VM-instruction error number means (SDM 31.4 VM instruction error numbers).
pub const fn instruction_error_name(number: u32) -> &'static str {
    use arch::vmcs::instruction_error as error;
    match number {
        error::VMCALL_IN_ROOT => "VMCALL in VMX root operation",
        error::VMCLEAR_INVALID_ADDRESS => "VMCLEAR with invalid physical address",
        error::VMCLEAR_VMXON_POINTER => "VMCLEAR with VMXON pointer",
        error::VMLAUNCH_NOT_CLEAR => "VMLAUNCH with non-clear VMCS",
        error::VMRESUME_NOT_LAUNCHED => "VMRESUME with non-launched VMCS",
        error::VMRESUME_AFTER_VMXOFF => "VMRESUME after VMXOFF",
        error::ENTRY_INVALID_CONTROLS => "VM entry with invalid control fields",
        error::ENTRY_INVALID_HOST_STATE => "VM entry with invalid host-state fields",
        error::VMPTRLD_INVALID_ADDRESS => "VMPTRLD with invalid physical address",
        error::VMPTRLD_VMXON_POINTER => "VMPTRLD with VMXON pointer",
        error::VMPTRLD_WRONG_REVISION => "VMPTRLD with incorrect VMCS revision identifier",
        error::UNSUPPORTED_COMPONENT => "VMREAD or VMWRITE of an unsupported VMCS component",
        error::READ_ONLY_COMPONENT => "VMWRITE to a read-only VMCS component",
        error::VMXON_IN_ROOT => "VMXON in VMX root operation",
        error::ENTRY_BLOCKED_BY_MOV_SS => "VM entry with events blocked by MOV SS",
        error::INVALID_INVALIDATION_OPERAND => "invalid operand to INVEPT or INVVPID",
        _ => "number not known here",
    }
}

/// What was being done when the processor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// VMREAD of this field.
    Read(u32),
    /// VMWRITE of this value to this field.
    Write(u32, u64),
    /// Another instruction, by its mnemonic.
    Instruction(&'static str),
}

/// A VMX instruction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmxError {
    /// What was being done.
    pub operation: Operation,
    /// What the processor answered.
    pub failure: Failure,
}

impl fmt::Display for VmxError {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self.operation {
            Operation::Read(field) => write!(formatter, "VMREAD of {}", FieldName(field)),
            Operation::Write(field, value) => {
                write!(formatter, "VMWRITE of {value:#x} to {}", FieldName(field))
            }
            Operation::Instruction(name) => formatter.write_str(name),
        }?;
        write!(formatter, ": {}", self.failure)
    }
}

/// Prints a field by name and encoding.
#[derive(Clone, Copy, Debug)]
pub struct FieldName(pub u32);

impl fmt::Display for FieldName {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let name = arch::vmcs::FIELDS
            .iter()
            .find(|(encoding, _)| *encoding == self.0)
            .map_or("?", |(_, name)| name);
        write!(formatter, "{name} ({:04X}H)", self.0)
    }
}

/// A field that knows the type of its values.
pub trait Field: Copy {
    /// The type of its values.
    type Value: Copy + PartialEq + Into<u64>;
    /// Its encoding.
    fn encoding(self) -> u32;
    /// Cuts a value that VMREAD returned to the field's width.
    fn from_raw(raw: u64) -> Self::Value;
}

macro_rules! field {
    ($($field:ty => $value:ty;)*) => {$(
        impl Field for $field {
            type Value = $value;
            #[inline(always)]
            fn encoding(self) -> u32 {
                self.0
            }
            #[inline(always)]
            fn from_raw(raw: u64) -> $value {
                raw as $value
            }
        }
    )*};
}
field! {
    Field16 => u16;
    Field32 => u32;
    Field64 => u64;
    FieldNatural => u64;
}

/// A VMCS that can be read and written: the current one, or a map in a test.
pub trait Vmcs {
    /// VMREAD.
    fn read_raw(&self, encoding: u32) -> Result<u64, VmxError>;
    /// VMWRITE.
    fn write_raw(&mut self, encoding: u32, value: u64) -> Result<(), VmxError>;

    /// Reads a field at its width.
    #[inline(always)]
    fn read<F: Field>(&self, field: F) -> Result<F::Value, VmxError> {
        Ok(F::from_raw(self.read_raw(field.encoding())?))
    }

    /// Writes a field at its width.
    #[inline(always)]
    fn write<F: Field>(&mut self, field: F, value: F::Value) -> Result<(), VmxError> {
        self.write_raw(field.encoding(), value.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A VMCS in a map that counts writes and knows which fields are absent.
    #[derive(Default)]
    pub(crate) struct MapVmcs {
        pub(crate) fields: BTreeMap<u32, u64>,
        pub(crate) writes: Vec<(u32, u64)>,
        pub(crate) absent: Vec<u32>,
    }

    impl MapVmcs {
        fn check(&self, encoding: u32, operation: Operation) -> Result<(), VmxError> {
            if self.absent.contains(&encoding) {
                return Err(VmxError {
                    operation,
                    failure: Failure::Valid(12),
                });
            }
            Ok(())
        }
    }

    impl Vmcs for MapVmcs {
        fn read_raw(&self, encoding: u32) -> Result<u64, VmxError> {
            self.check(encoding, Operation::Read(encoding))?;
            Ok(self.fields.get(&encoding).copied().unwrap_or(0))
        }

        fn write_raw(&mut self, encoding: u32, value: u64) -> Result<(), VmxError> {
            self.check(encoding, Operation::Write(encoding, value))?;
            self.fields.insert(encoding, value);
            self.writes.push((encoding, value));
            Ok(())
        }
    }

    #[test]
    fn widths_are_types() {
        let mut vmcs = MapVmcs::default();
        vmcs.write(arch::vmcs::GUEST_INTERRUPT_STATUS, 0x1234)
            .unwrap();
        vmcs.fields
            .insert(arch::vmcs::GUEST_INTERRUPT_STATUS.0, 0xdead_1234);
        assert_eq!(vmcs.read(arch::vmcs::GUEST_INTERRUPT_STATUS), Ok(0x1234u16));
    }

    #[test]
    fn an_error_names_the_field_and_the_number() {
        let mut vmcs = MapVmcs::default();
        vmcs.absent.push(arch::vmcs::LAST_PID_POINTER_INDEX.0);
        let error = vmcs
            .write(arch::vmcs::LAST_PID_POINTER_INDEX, 3)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "VMWRITE of 0x3 to LAST_PID_POINTER_INDEX (0008H): VMfailValid, VM-instruction error \
             12 (VMREAD or VMWRITE of an unsupported VMCS component)"
        );
    }
}
