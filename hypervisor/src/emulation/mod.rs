//! What the hypervisor does for a guest that the processor left to it: how an instruction finds its
//! operands in the guest's memory.

pub mod paging;
