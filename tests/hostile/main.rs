//! Hostile guests, boot images and configurations: the hypervisor survives what its guest does, and
//! the host's process survives everything.

mod boot_images;
mod configurations;
mod debug_exceptions;
mod entries;
mod flat_image;
mod flat_run;
mod guest_image;
mod guests;
#[path = "../../machine/tests/hostile/instructions.rs"]
#[allow(unreachable_pub, reason = "a module that other test binaries use too")]
mod instructions;
#[path = "../../machine/tests/host_comparison/random.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a module that other test binaries use too"
)]
mod random;
mod report_lines;
