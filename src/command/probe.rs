//! `posthaste probe`: whether this host's processor could run the hypervisor natively.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use arch::msr;
use arch::vmx_control::{pin, primary, secondary, tertiary};

use super::CommandError;
use super::standard_output::print;

/// Prints what can be found out: the flags that the kernel shows, the VMX capability MSRs if they
/// can be read, and KVM's parameter. The exit status is 0 if the processor has IPI virtualization and 1 if not.
pub(super) fn run() -> Result<ExitCode, CommandError> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = |name: &str| {
        cpuinfo
            .lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
            .map_or("", |(_, flags)| flags.trim())
            .to_owned()
    };
    let model = flags("model name");
    print(&format!(
        "processor: {}",
        if model.is_empty() { "unknown" } else { &model }
    ))?;
    let vtx = flags("flags").split(' ').any(|flag| flag == "vmx");
    print(&format!("VT-x shown by the kernel: {}", yes_no(vtx)))?;
    let virtualized = flags("vmx flags").split(' ').any(|flag| flag == "ipi_virt");
    print(&format!(
        "IPI virtualization shown by the kernel (ipi_virt): {}",
        yes_no(virtualized)
    ))?;
    match fs::read_to_string("/sys/module/kvm_intel/parameters/enable_ipiv") {
        Ok(value) => print(&format!("KVM's enable_ipiv: {}", value.trim()))?,
        Err(_) => print("KVM's enable_ipiv: kvm_intel is not loaded or has no such parameter")?,
    }
    match read_capabilities() {
        Ok(capabilities) => {
            for (name, has) in capabilities {
                print(&format!("{name}: {}", yes_no(has)))?;
            }
        }
        Err(error) => print(&format!(
            "VMX capability MSRs: not readable ({error}); load the msr module and run as root"
        ))?,
    }
    print(if vtx && virtualized {
        "this host can run the hypervisor natively with IPI virtualization"
    } else if vtx {
        "this host can run the hypervisor natively, without IPI virtualization"
    } else {
        "this host cannot run the hypervisor natively; the software machine needs nothing of it"
    })?;
    // A script asks whether the answer is yes.
    Ok(if vtx && virtualized {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// The controls that matter, by their allowed-1 settings (SDM appendix A).
fn read_capabilities() -> std::io::Result<Vec<(&'static str, bool)>> {
    let file = File::open("/dev/cpu/0/msr")?;
    let read = |index: u32| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, u64::from(index))?;
        std::io::Result::Ok(u64::from_le_bytes(bytes))
    };
    let allowed = |value: u64, bit: u32| value >> 32 & u64::from(bit) != 0;
    let pin_based = read(msr::IA32_VMX_PINBASED_CTLS)?;
    let primary_based = read(msr::IA32_VMX_PROCBASED_CTLS)?;
    let mut list = vec![
        (
            "posted interrupts",
            allowed(pin_based, pin::PROCESS_POSTED_INTERRUPTS),
        ),
        (
            "TPR shadow",
            allowed(primary_based, primary::USE_TPR_SHADOW),
        ),
    ];
    if allowed(primary_based, primary::ACTIVATE_SECONDARY_CONTROLS) {
        let value = read(msr::IA32_VMX_PROCBASED_CTLS2)?;
        for (name, bit) in [
            ("EPT", secondary::ENABLE_EPT),
            ("unrestricted guest", secondary::UNRESTRICTED_GUEST),
            (
                "virtualize APIC accesses",
                secondary::VIRTUALIZE_APIC_ACCESSES,
            ),
            ("virtualize x2APIC mode", secondary::VIRTUALIZE_X2APIC_MODE),
            (
                "APIC-register virtualization",
                secondary::APIC_REGISTER_VIRTUALIZATION,
            ),
            (
                "virtual-interrupt delivery",
                secondary::VIRTUAL_INTERRUPT_DELIVERY,
            ),
        ] {
            list.push((name, allowed(value, bit)));
        }
    }
    let third = allowed(primary_based, primary::ACTIVATE_TERTIARY_CONTROLS);
    list.push(("tertiary controls", third));
    if third {
        let value = read(msr::IA32_VMX_PROCBASED_CTLS3)?;
        list.push((
            "IPI virtualization",
            value & tertiary::IPI_VIRTUALIZATION != 0,
        ));
    }
    Ok(list)
}
