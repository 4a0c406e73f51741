//! What a PC's firmware leaves for the system it starts: ACPI and MultiProcessor tables, and a loaded
//! kernel.
//!
//! Both directions are here. The machine and the hypervisor *build* tables and *load* kernels; the
//! hypervisor's image, itself loaded that way, *reads* the tables and the boot information it was
//! handed, on real hardware too, and so distrusts every length in them.
//!
//! Citations name the ACPI specification, revision 6.5 ("ACPI"), the multiboot specification 0.6.96
//! ("Multiboot"), the multiboot2 specification 2.0 ("Multiboot2"), Xen's PVH document ("PVH") and the
//! Linux kernel's documentation of its x86 boot protocol ("Boot").
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod boot;
pub mod memory;
pub mod multiprocessor;
