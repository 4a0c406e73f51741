//! The loop between entries. The way of an IPI in software, from the exit of its sender to the next
//! entry, is short: it takes no lock, touches no SSE register, and reads and writes only the VMCS
//! fields that it needs.
#![allow(unsafe_code, reason = "loads VMCSs and enters the guest")]

use super::control_refresh;
use super::event_injection::{Event, accepts_interrupts, accepts_non_maskable, interruptibility};
use super::exits::{self, Context, Next};
use super::guest_state;
use super::virtual_processor::{Activity, VirtualProcessor};
use super::vmcs_setup;
use crate::host::instructions::take_pending_interrupts;
use crate::host::processor::Processor;
use crate::interrupts::blocking::WakeOn;
use crate::interrupts::vcpu_port::VcpuPort;
use crate::interrupts::virtual_apic::{Arrivals, GuestInterruptibility, Injection};
use crate::system::Hypervisor;
use crate::vm::configuration::Sabotage;
use crate::vmx::feature::Feature;
use crate::vmx::instructions::{
    CurrentVmcs, Invalidation, LaunchState, RDX, enter, invvpid, vmclear, vmptrld,
};
use crate::vmx::vmcs::{Vmcs, VmxError};
use apic::mailbox::ExternalInterrupt;
use apic::non_maskable::{Handling, PendingNonMaskable};
use arch::control_register::rflags;
use arch::exit::{ENTRY_FAILURE, ExitReason};
use arch::vmcs;
use arch::vmx_control::primary;

/// Why a vCPU leaves its processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Its time slice is over.
    Preempted,
    /// It executed HLT and there is nothing for it.
    Sleep(WakeOn),
    /// It took an INIT, or was woken without a start-up IPI.
    WaitForSipi,
    /// The virtual machine ends.
    Ending,
}

/// Why a vCPU cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A VMX instruction failed.
    Vmx(VmxError),
    /// The processor refused the guest state or the MSR lists at entry: this EXIT_REASON.
    Entry(u32),
}

impl From<VmxError> for Failure {
    fn from(error: VmxError) -> Self {
        Self::Vmx(error)
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self {
            Self::Vmx(error) => error.fmt(formatter),
            Self::Entry(reason) => {
                let name = ExitReason::from_number(*reason as u16).map_or("?", ExitReason::name);
                write!(
                    formatter,
                    "VM entry failed: exit reason {reason:#x} ({name})"
                )
            }
        }
    }
}

/// Brings a vCPU to this processor: its VMCS becomes current, its registers are loaded.
pub fn load(
    vcpu: &mut VirtualProcessor,
    hypervisor: &Hypervisor,
    processor: &Processor,
) -> Result<(), Failure> {
    let address = vcpu.vmcs_region.address();
    if !vcpu.initialized {
        vcpu.vmcs_region
            .write_u32(0, hypervisor.capabilities.revision());
        // SAFETY: the region is the vCPU's own, with the revision it needs; this processor is in VMX
        // root operation.
        unsafe { vmclear(address)? };
    }
    // SAFETY: as above; whoever had it current before has cleared it (`unload`).
    unsafe { vmptrld(address)? };
    // SAFETY: just made current, and only used here.
    let mut vmcs = unsafe { CurrentVmcs::new() };
    if !vcpu.initialized {
        vcpu.initialized = true;
        vcpu.msr_bitmap.set_policy(crate::vm::msr::POLICY);
        vmcs_setup::write_controls(&mut vmcs, vcpu, hypervisor)?;
    }
    vmcs_setup::write_host_state(&mut vmcs, processor, hypervisor)?;
    if vcpu.last_processor != Some(processor.number) {
        // Translations from an earlier stay here may be stale by now (SDM 29.4.3.3).
        flush_translations(vcpu, hypervisor)?;
        vcpu.last_processor = Some(processor.number);
    }
    match hypervisor.sabotage() {
        // Bits that must be 1 become 0: every processor refuses that (SDM 27.2.1.1).
        Some(Sabotage::IllegalControl) => vmcs.write(vmcs::PIN_BASED_CONTROLS, 0)?,
        // Not the address of a VMCS (SDM 27.3.1.5).
        Some(Sabotage::IllegalGuestState) => vmcs.write(vmcs::VMCS_LINK_POINTER, 1)?,
        None => {}
    }
    vcpu.extended.load(processor);
    Ok(())
}

/// Drops the guest's cached linear translations on this processor. Without VPIDs every entry and exit
/// does (SDM 29.4.3.1).
pub fn flush_translations(
    vcpu: &VirtualProcessor,
    hypervisor: &Hypervisor,
) -> Result<(), VmxError> {
    if hypervisor.features.contains(Feature::Vpid) {
        invvpid(Invalidation::Single(u64::from(vcpu.number) + 1))?;
    }
    Ok(())
}

/// Takes a vCPU off this processor, so that another may load it.
pub fn unload(vcpu: &mut VirtualProcessor, processor: &Processor) -> Result<(), Failure> {
    vcpu.extended.save(processor);
    // SAFETY: the vCPU's own region, current here.
    unsafe { vmclear(vcpu.vmcs_region.address())? };
    vcpu.launched = LaunchState::Clear;
    // Another processor has another stack: HOST_RSP must be written again.
    vcpu.registers.0[crate::vmx::instructions::RSP] = 0;
    Ok(())
}

/// Runs a loaded vCPU until it has to leave.
pub fn run(
    vcpu: &mut VirtualProcessor,
    port: &VcpuPort,
    hypervisor: &Hypervisor,
    processor: &Processor,
) -> Result<Leave, Failure> {
    // SAFETY: `load` made the vCPU's VMCS current, and it stays so until `unload`.
    let mut vmcs = unsafe { CurrentVmcs::new() };
    let context = Context {
        hypervisor,
        processor,
    };
    let rendezvous = hypervisor.vm.interrupts.rendezvous();
    let suppresses_in_root = hypervisor.suppresses_in_root();
    let host = &hypervisor.vm.interrupts.around().host;
    loop {
        // Everything that the last exit sent is sent, and it is looked anew who takes what.
        rendezvous.pass(processor.number);
        if processor.has_notes()
            && let Some(leave) = hypervisor.service(vcpu, &mut vmcs, processor)?
        {
            return Ok(leave);
        }
        // What is received below must not miss what was posted while notifications were suppressed;
        // what comes later notifies this processor, whose interrupt is then pending at the entry.
        if suppresses_in_root {
            let _ = port.expect_notifications(processor.number, host);
        }
        if port.view().is_pending() || port.mailbox().attention() {
            receive(vcpu, port, &mut vmcs, context)?;
        }
        if vcpu.activity != Activity::Active
            && let Some(leave) = rest(vcpu, port, &mut vmcs)?
        {
            return Ok(leave);
        }
        prepare_entry(vcpu, port, &mut vmcs, context)?;
        vcpu.extended.restore(processor);
        // SAFETY: `load` wrote the host state of this processor; EPT, bitmaps and controls confine the
        // guest.
        unsafe { enter(&mut vcpu.registers, vcpu.launched)? };
        if suppresses_in_root {
            port.suppress_in_root();
        }
        vcpu.launched = LaunchState::Launched;
        let reason = vmcs.read(vmcs::EXIT_REASON)?;
        vcpu.exits.count(reason);
        if reason & ENTRY_FAILURE != 0 {
            return Err(Failure::Entry(reason));
        }
        if reason == ExitReason::Wrmsr as u32 && exits::unicast(vcpu, &mut vmcs, context)?
            || reason == ExitReason::ApicWrite as u32 && exits::xapic_unicast(vcpu, &vmcs, context)?
        {
            continue;
        }
        match exits::dispatch(reason, vcpu, &mut vmcs, context)? {
            Next::Resume if vcpu.event.is_some() => let_interrupts_in(processor),
            Next::Resume => {}
            Next::Leave(leave) => return Ok(leave),
        }
    }
}

/// An entry that injects an event can meet the next exit before the guest's first instruction, which is
/// where external interrupts and the preemption timer exit (SDM 27.7.5, 27.7.7), and so again and again:
/// what waits for this processor is taken here.
#[cold]
#[inline(never)]
fn let_interrupts_in(processor: &Processor) {
    take_pending_interrupts();
    processor.note_timer();
}

/// Takes what was sent. Not inline: what it does uses SSE registers.
#[inline(never)]
fn receive(
    vcpu: &mut VirtualProcessor,
    port: &VcpuPort,
    vmcs: &mut CurrentVmcs,
    context: Context,
) -> Result<(), VmxError> {
    let received = vcpu.apic.receive(port);
    if received.init || received.non_maskable != 0 || received.start_up.is_some() {
        accept_events(vcpu, received, vmcs, context)?;
    }
    Ok(())
}

/// INIT, start-up and NMI.
#[cold]
fn accept_events(
    vcpu: &mut VirtualProcessor,
    received: crate::interrupts::virtual_apic::ReceivedEvents,
    vmcs: &mut CurrentVmcs,
    context: Context,
) -> Result<(), VmxError> {
    if received.init {
        // SDM 9.1.1, 10.4.7.3: everything but the x87 and SSE state.
        vcpu.activity = Activity::WaitForSipi;
        vcpu.event = None;
        vcpu.non_maskable = PendingNonMaskable::NONE;
        let hypervisor = context.hypervisor;
        let publication = vcpu.apic.init(&hypervisor.vm.interrupts);
        hypervisor.settle(publication, Arrivals::Lost, vcpu, context.processor);
        control_refresh::refresh(vmcs, vcpu, hypervisor)?;
        context.processor.note_timer();
    }
    if let Some(page) = received.start_up
        && vcpu.activity == Activity::WaitForSipi
    {
        let family_model_stepping = crate::host::instructions::cpuid(1, 0).eax;
        let host_rsp = vcpu.registers.0[crate::vmx::instructions::RSP];
        vcpu.registers.0 = [0; 16];
        vcpu.registers.0[RDX] = u64::from(family_model_stepping);
        vcpu.registers.0[crate::vmx::instructions::RSP] = host_rsp;
        vcpu.pending_reset = Some(guest_state::Start::StartUp { page });
        vcpu.activity = Activity::Active;
    }
    if received.non_maskable != 0 && vcpu.activity != Activity::WaitForSipi {
        let state = vmcs.read(vmcs::GUEST_INTERRUPTIBILITY_STATE)?;
        let again = vcpu.event.is_some_and(Event::is_non_maskable);
        let handling = if again || state & interruptibility::NMI != 0 {
            Handling::Yes
        } else {
            Handling::No
        };
        vcpu.non_maskable.accept(received.non_maskable, handling);
    }
    Ok(())
}

/// A vCPU that is halted or waits: `Some` if there is nothing for it to do.
#[cold]
#[inline(never)]
fn rest(
    vcpu: &mut VirtualProcessor,
    port: &VcpuPort,
    vmcs: &mut CurrentVmcs,
) -> Result<Option<Leave>, VmxError> {
    if vcpu.activity == Activity::WaitForSipi {
        return Ok(Some(Leave::WaitForSipi));
    }
    let enabled = vmcs.read(vmcs::GUEST_RFLAGS)? & rflags::IF != 0;
    let external = vcpu.apic.apic().takes(port.mailbox().external_interrupt());
    if vcpu.non_maskable.is_pending()
        || vcpu.event.is_some()
        || guest_state::debug_exception_is_due(vmcs)?
        || enabled && (external || vcpu.apic.has_deliverable())
    {
        vcpu.activity = Activity::Active;
        return Ok(None);
    }
    Ok(Some(Leave::Sleep(if enabled {
        WakeOn::Interrupts
    } else {
        WakeOn::EventsOnly
    })))
}

/// Loads what the next entry delivers.
#[inline(always)]
fn prepare_entry(
    vcpu: &mut VirtualProcessor,
    port: &VcpuPort,
    vmcs: &mut CurrentVmcs,
    context: Context,
) -> Result<(), VmxError> {
    let external = port.mailbox().external_interrupt();
    let by_processor = vcpu.apic.controls().virtual_interrupt_delivery;
    // The common case with virtual-interrupt delivery: the processor does the rest.
    if by_processor
        && external == ExternalInterrupt::NONE
        && vcpu.event.is_none()
        && !vcpu.non_maskable.is_pending()
        && vcpu.pending_reset.is_none()
    {
        let state = vcpu
            .apic
            .prepare_entry(GuestInterruptibility::Blocked, ExternalInterrupt::NONE);
        if let Some(status) = state.interrupt_status {
            vmcs.write(vmcs::GUEST_INTERRUPT_STATUS, status)?;
        }
        if let Some(bitmap) = state.end_of_interrupt_exits {
            write_end_of_interrupt_exits(vmcs, bitmap)?;
        }
        if let Some(threshold) = state.tpr_threshold {
            vmcs.write(vmcs::TPR_THRESHOLD, threshold)?;
        }
        return close_window(vcpu, vmcs);
    }
    prepare_events(vcpu, port, external, vmcs, context)
}

/// No interrupt waits for the guest to take it.
#[inline(always)]
fn close_window(vcpu: &mut VirtualProcessor, vmcs: &mut CurrentVmcs) -> Result<(), VmxError> {
    vcpu.controls
        .primary
        .clear_bits(vmcs, primary::INTERRUPT_WINDOW_EXITING)
}

fn write_end_of_interrupt_exits(vmcs: &mut CurrentVmcs, bitmap: [u64; 4]) -> Result<(), VmxError> {
    let fields = [
        vmcs::EOI_EXIT_BITMAP_0,
        vmcs::EOI_EXIT_BITMAP_1,
        vmcs::EOI_EXIT_BITMAP_2,
        vmcs::EOI_EXIT_BITMAP_3,
    ];
    for (field, word) in fields.into_iter().zip(bitmap) {
        vmcs.write(field, word)?;
    }
    Ok(())
}

/// Faults, NMIs, interrupts that software injects, in this order (SDM 6.9).
#[inline(never)]
fn prepare_events(
    vcpu: &mut VirtualProcessor,
    port: &VcpuPort,
    external: ExternalInterrupt,
    vmcs: &mut CurrentVmcs,
    context: Context,
) -> Result<(), VmxError> {
    if let Some(start) = vcpu.pending_reset.take() {
        let has_pat = context.hypervisor.features.contains(Feature::Pat);
        guest_state::write(vmcs, start, has_pat)?;
    }
    let mut injected = false;
    if let Some(event) = vcpu.event.take() {
        guest_state::settle_pending_debug(vmcs)?;
        event.write(vmcs)?;
        injected = true;
    }
    if vcpu.non_maskable.is_pending() && !injected && accepts_non_maskable(vmcs)? {
        vcpu.non_maskable.take();
        Event::NON_MASKABLE.write(vmcs)?;
        injected = true;
    }
    if vcpu.non_maskable.is_pending() && context.hypervisor.features.contains(Feature::VirtualNmis)
    {
        vcpu.controls
            .primary
            .set_bits(vmcs, primary::NMI_WINDOW_EXITING)?;
    }
    let interruptibility = if !injected && accepts_interrupts(vmcs)? {
        GuestInterruptibility::Open
    } else {
        GuestInterruptibility::Blocked
    };
    let state = vcpu.apic.prepare_entry(interruptibility, external);
    if let Some(status) = state.interrupt_status {
        vmcs.write(vmcs::GUEST_INTERRUPT_STATUS, status)?;
    }
    if let Some(bitmap) = state.end_of_interrupt_exits {
        write_end_of_interrupt_exits(vmcs, bitmap)?;
    }
    if let Some(threshold) = state.tpr_threshold {
        vmcs.write(vmcs::TPR_THRESHOLD, threshold)?;
    }
    let window = match state.injection {
        Injection::None => false,
        Injection::OpenWindow => true,
        Injection::Vector(vector) => {
            Event::external_interrupt(vector).write(vmcs)?;
            vcpu.apic.another_waits()
        }
        Injection::ExternalInterrupt => {
            port.mailbox().acknowledge_external_interrupt();
            let vector = context
                .hypervisor
                .acknowledge_external_interrupt(context.processor);
            Event::external_interrupt(vector).write(vmcs)?;
            vcpu.apic.another_waits()
        }
    };
    if window {
        vcpu.controls
            .primary
            .set_bits(vmcs, primary::INTERRUPT_WINDOW_EXITING)
    } else {
        close_window(vcpu, vmcs)
    }
}
