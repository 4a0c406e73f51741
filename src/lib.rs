//! The `posthaste` command as a library: running a guest under the hypervisor on the machine, and
//! what comes out of it. The end-to-end tests use it too.

pub mod command;
pub mod console;
pub mod guest_run;
pub mod images;
pub mod kernel_panic;
mod message;
pub mod plot;
pub mod report_lines;
pub mod result;
pub mod table;
