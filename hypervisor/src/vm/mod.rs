//! A virtual machine without its processors: configuration, memory, guest image, platform, and what
//! CPUID and the MSRs say.

pub mod configuration;
pub mod console_input;
pub mod cpuid;
pub mod devices;
pub mod guest_image;
pub mod memory;
pub mod msr;
