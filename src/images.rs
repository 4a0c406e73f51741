//! The boot images embedded in the command; `build.rs` builds them.

/// The hypervisor, an ELF image that starts by PVH or multiboot2.
pub const HYPERVISOR: &[u8] = include_bytes!(env!("POSTHASTE_HYPERVISOR_IMAGE"));

/// The guest that sends every kind of IPI and checks that none is lost.
pub const GUEST: &[u8] = include_bytes!(env!("POSTHASTE_GUEST_IMAGE"));
