//! The machine the hypervisor runs on: console, memory, processors, time.

pub mod aligned_page;
pub mod console;
pub mod descriptor_tables;
pub mod frame_allocator;
pub mod instructions;
pub mod interrupt;
pub mod local_apic;
pub mod machine_check;
pub mod non_maskable;
pub mod paging;
pub mod physical_memory;
pub mod processor;
pub mod serial_interrupt;
pub mod shutdown;
pub mod time;
