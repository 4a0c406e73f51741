//! Interrupts of virtual CPUs: how one reaches its vCPU whatever that vCPU is doing, the virtual
//! APIC, IPI virtualization, and IPIs in software.
//!
//! Who may touch what: the processor that runs a vCPU owns its [`virtual_apic`]; everyone else only
//! touches the vCPU's [`vcpu_port::VcpuPort`] and the wakeup lists, which are atomics.

pub mod apic_virtualization;
pub mod blocking;
pub mod identity_board;
pub mod ipi_dispatch;
pub mod ipi_virtualization;
pub mod physical_interrupts;
pub mod posting;
pub mod rendezvous;
mod turn;
pub mod vcpu_port;
pub mod virtual_apic;
pub mod vm_interrupts;
pub mod wakeup_list;

#[cfg(all(test, loom))]
mod model_checked;
#[cfg(all(test, not(loom)))]
mod storm;
