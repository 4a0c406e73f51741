//! What the hypervisor does for a guest's instruction in the processor's place leaves the same behind as
//! the instruction on the bare machine: registers, flags, memory, paging structures, exceptions.

mod case;
mod compare;
mod program;
mod string_io;
