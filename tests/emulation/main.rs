//! What the hypervisor does for a guest's instruction in the processor's place leaves the same behind as
//! the instruction on the bare machine: registers, flags, memory, paging structures, exceptions.

mod case;
mod compare;
mod device_memory;
#[path = "../../machine/tests/host_comparison/forms.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a module that other test binaries use too"
)]
mod forms;
mod program;
#[path = "../../machine/tests/host_comparison/random.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a module that other test binaries use too"
)]
mod random;
mod string_io;
#[path = "../../machine/tests/host_comparison/vendor.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a module that other test binaries use too"
)]
mod vendor;
