//! One logical processor.

pub mod access;
pub mod block;
pub mod breakpoint;
pub mod control;
pub mod cpuid;
pub mod decode;
pub mod deliver;
pub mod deliver_table;
pub mod descriptor;
pub mod descriptor_load;
pub mod device_access;
pub mod events;
pub mod execute;
pub mod extended;
pub mod flags;
pub mod float;
pub mod local_apic;
pub mod model;
pub mod msr;
pub mod op;
pub mod paging;
pub mod process_context;
pub mod raise;
pub mod register;
pub mod run;
pub mod segment;
mod stack;
pub mod stack_frame;
pub mod state;
pub mod task;
pub mod tlb;
mod translate;
pub mod x87;

pub use model::CpuModel;
pub use run::{Engine, Processor, Stop};
pub use state::{Activity, Cpu, Inhibit};
