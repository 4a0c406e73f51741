//! VMX operation as the hypervisor uses it.

pub mod capability;
pub mod control_plan;
pub mod control_shadow;
pub mod dump;
pub mod ept;
pub mod feature;
pub mod guest_segment;
pub mod guest_state_checks;
pub mod instructions;
pub mod io_bitmap;
pub mod msr_bitmap;
pub mod vmcs;
