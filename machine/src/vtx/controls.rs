//! The controls of the VMCS in force, as VM entry read them.
//!
//! VMREAD and VMWRITE do not work in VMX non-root operation, so nothing changes them before the
//! next VM exit.

use arch::{
    vmcs,
    vmx_control::{pin, primary, secondary, tertiary},
};

use super::vmcs::Field;
use crate::memory::Ram;

/// The TSC multiplier that changes nothing: 48 of its bits are a fraction.
const TSC_MULTIPLIER_OF_1: u64 = 1 << 48;

/// Control fields (SDM 24.6, 24.7, 24.8), and what follows from them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Controls {
    /// Pin-based VM-execution controls.
    pub pin: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary ones; 0 if they are not activated.
    pub secondary: u32,
    /// Tertiary ones; 0 if they are not activated.
    pub tertiary: u64,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls.
    pub entry: u32,
    /// Exception bitmap.
    pub exception_bitmap: u32,
    /// Page-fault error-code mask.
    pub page_fault_mask: u32,
    /// Page-fault error-code match.
    pub page_fault_match: u32,
    /// Address of I/O bitmap A, then of B.
    pub io_bitmaps: [u64; 2],
    /// Address of the MSR bitmaps.
    pub msr_bitmap: u64,
    /// TSC offset, 0 if it is not used.
    pub tsc_offset: u64,
    /// TSC multiplier, that of 1 if it is not used.
    pub tsc_multiplier: u64,
    /// PLE gap.
    pub pause_gap: u32,
    /// PLE window.
    pub pause_window: u32,
    /// CR0 guest/host mask and read shadow.
    pub cr0_mask: u64,
    /// CR0 read shadow.
    pub cr0_shadow: u64,
    /// CR4 guest/host mask.
    pub cr4_mask: u64,
    /// CR4 read shadow.
    pub cr4_shadow: u64,
    /// CR3-target values in use.
    pub cr3_target_count: u32,
    /// CR3-target values.
    pub cr3_targets: [u64; 4],
    /// Virtual-APIC address.
    pub virtual_apic: u64,
    /// APIC-access address.
    pub apic_access: u64,
    /// TPR threshold.
    pub tpr_threshold: u32,
    /// EOI-exit bitmap.
    pub eoi_exit_bitmap: [u64; 4],
    /// Posted-interrupt notification vector.
    pub notification_vector: u16,
    /// Posted-interrupt descriptor address.
    pub descriptor: u64,
    /// PID-pointer table address.
    pub pid_pointer_table: u64,
    /// Last PID-pointer index.
    pub last_pid_pointer_index: u16,
    /// EPT pointer; 0 if EPT is not used.
    pub ept_pointer: u64,
    /// Virtual-processor identifier; 0 if VPIDs are not used.
    pub vpid: u16,
    /// PML address.
    pub modification_log: u64,
    /// VM-function controls; 0 if VM functions are not enabled.
    pub vm_functions: u64,
    /// EPTP-list address.
    pub eptp_list: u64,
    /// Virtualization-exception information address.
    pub virtualization_exception: u64,
    /// VMREAD-bitmap address.
    pub vmread_bitmap: u64,
    /// VMWRITE-bitmap address.
    pub vmwrite_bitmap: u64,
    /// VMCS link pointer.
    pub link_pointer: u64,
}

impl Controls {
    /// Reads the controls from a region. Secondary and tertiary controls that are not activated
    /// count as 0 (SDM 24.6.2), which the tests of single controls build upon.
    pub fn read(ram: &Ram, region: u64) -> Self {
        let get32 = |field: vmcs::Field32| field.get(ram, region);
        let get64 = |field: vmcs::Field64| field.get(ram, region);
        let natural = |field: vmcs::FieldNatural| field.get(ram, region);
        let get16 = |field: vmcs::Field16| field.get(ram, region);
        let primary = get32(vmcs::PRIMARY_PROCESSOR_BASED_CONTROLS);
        let mut controls = Self {
            pin: get32(vmcs::PIN_BASED_CONTROLS),
            primary,
            secondary: 0,
            tertiary: 0,
            exit: get32(vmcs::EXIT_CONTROLS),
            entry: get32(vmcs::ENTRY_CONTROLS),
            exception_bitmap: get32(vmcs::EXCEPTION_BITMAP),
            page_fault_mask: get32(vmcs::PAGE_FAULT_ERROR_CODE_MASK),
            page_fault_match: get32(vmcs::PAGE_FAULT_ERROR_CODE_MATCH),
            io_bitmaps: [get64(vmcs::IO_BITMAP_A), get64(vmcs::IO_BITMAP_B)],
            msr_bitmap: get64(vmcs::MSR_BITMAP),
            tsc_offset: 0,
            tsc_multiplier: TSC_MULTIPLIER_OF_1,
            pause_gap: get32(vmcs::PLE_GAP),
            pause_window: get32(vmcs::PLE_WINDOW),
            cr0_mask: natural(vmcs::CR0_GUEST_HOST_MASK),
            cr0_shadow: natural(vmcs::CR0_READ_SHADOW),
            cr4_mask: natural(vmcs::CR4_GUEST_HOST_MASK),
            cr4_shadow: natural(vmcs::CR4_READ_SHADOW),
            cr3_target_count: get32(vmcs::CR3_TARGET_COUNT),
            cr3_targets: [
                natural(vmcs::CR3_TARGET_VALUE_0),
                natural(vmcs::CR3_TARGET_VALUE_1),
                natural(vmcs::CR3_TARGET_VALUE_2),
                natural(vmcs::CR3_TARGET_VALUE_3),
            ],
            virtual_apic: get64(vmcs::VIRTUAL_APIC_ADDRESS),
            apic_access: get64(vmcs::APIC_ACCESS_ADDRESS),
            tpr_threshold: get32(vmcs::TPR_THRESHOLD),
            eoi_exit_bitmap: [
                get64(vmcs::EOI_EXIT_BITMAP_0),
                get64(vmcs::EOI_EXIT_BITMAP_1),
                get64(vmcs::EOI_EXIT_BITMAP_2),
                get64(vmcs::EOI_EXIT_BITMAP_3),
            ],
            notification_vector: get16(vmcs::POSTED_INTERRUPT_NOTIFICATION_VECTOR),
            descriptor: get64(vmcs::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS),
            pid_pointer_table: get64(vmcs::PID_POINTER_TABLE_ADDRESS),
            last_pid_pointer_index: get16(vmcs::LAST_PID_POINTER_INDEX),
            ept_pointer: 0,
            vpid: 0,
            modification_log: get64(vmcs::PML_ADDRESS),
            vm_functions: 0,
            eptp_list: get64(vmcs::EPTP_LIST_ADDRESS),
            virtualization_exception: get64(vmcs::VIRTUALIZATION_EXCEPTION_INFORMATION),
            vmread_bitmap: get64(vmcs::VMREAD_BITMAP),
            vmwrite_bitmap: get64(vmcs::VMWRITE_BITMAP),
            link_pointer: get64(vmcs::VMCS_LINK_POINTER),
        };
        if primary & primary::ACTIVATE_SECONDARY_CONTROLS != 0 {
            controls.secondary = get32(vmcs::SECONDARY_PROCESSOR_BASED_CONTROLS);
        }
        if primary & primary::ACTIVATE_TERTIARY_CONTROLS != 0 {
            controls.tertiary = get64(vmcs::TERTIARY_PROCESSOR_BASED_CONTROLS);
        }
        if primary & primary::USE_TSC_OFFSETTING != 0 {
            controls.tsc_offset = get64(vmcs::TSC_OFFSET);
            // SDM 24.6.5: the multiplier works only together with the offset.
            if controls.secondary(secondary::USE_TSC_SCALING) {
                controls.tsc_multiplier = get64(vmcs::TSC_MULTIPLIER);
            }
        }
        if controls.secondary & secondary::ENABLE_EPT != 0 {
            controls.ept_pointer = get64(vmcs::EPT_POINTER);
        }
        if controls.secondary & secondary::ENABLE_VPID != 0 {
            controls.vpid = get16(vmcs::VIRTUAL_PROCESSOR_IDENTIFIER);
        }
        if controls.secondary(secondary::ENABLE_VM_FUNCTIONS) {
            controls.vm_functions = get64(vmcs::VM_FUNCTION_CONTROLS);
        }
        controls
    }

    /// Whether all of these pin-based controls are 1.
    #[inline]
    pub const fn pin(&self, bits: u32) -> bool {
        self.pin & bits == bits
    }

    /// Whether all of these primary controls are 1.
    #[inline]
    pub const fn primary(&self, bits: u32) -> bool {
        self.primary & bits == bits
    }

    /// Whether all of these secondary controls are 1 and activated.
    #[inline]
    pub const fn secondary(&self, bits: u32) -> bool {
        self.secondary & bits == bits
    }

    /// Whether all of these VM-exit controls are 1.
    #[inline]
    pub const fn exit(&self, bits: u32) -> bool {
        self.exit & bits == bits
    }

    /// Whether all of these VM-entry controls are 1.
    #[inline]
    pub const fn entry(&self, bits: u32) -> bool {
        self.entry & bits == bits
    }

    /// Use TPR shadow.
    pub const fn tpr_shadow(&self) -> bool {
        self.primary(primary::USE_TPR_SHADOW)
    }

    /// Virtual-interrupt delivery.
    pub const fn virtual_interrupt_delivery(&self) -> bool {
        self.secondary(secondary::VIRTUAL_INTERRUPT_DELIVERY)
    }

    /// APIC-register virtualization.
    pub const fn apic_register_virtualization(&self) -> bool {
        self.secondary(secondary::APIC_REGISTER_VIRTUALIZATION)
    }

    /// Virtualize x2APIC mode.
    pub const fn virtualize_x2apic_mode(&self) -> bool {
        self.secondary(secondary::VIRTUALIZE_X2APIC_MODE)
    }

    /// Virtualize APIC accesses.
    pub const fn virtualize_apic_accesses(&self) -> bool {
        self.secondary(secondary::VIRTUALIZE_APIC_ACCESSES)
    }

    /// IPI virtualization.
    pub const fn ipi_virtualization(&self) -> bool {
        self.tertiary & tertiary::IPI_VIRTUALIZATION != 0
    }

    /// Process posted interrupts.
    pub const fn process_posted_interrupts(&self) -> bool {
        self.pin(pin::PROCESS_POSTED_INTERRUPTS)
    }

    /// Virtual NMIs.
    pub const fn virtual_nmis(&self) -> bool {
        self.pin(pin::VIRTUAL_NMIS)
    }

    /// Unrestricted guest.
    pub const fn unrestricted_guest(&self) -> bool {
        self.secondary(secondary::UNRESTRICTED_GUEST)
    }

    /// Mode-based execute control for EPT.
    pub const fn mode_based_execute(&self) -> bool {
        self.secondary(secondary::MODE_BASED_EXECUTE)
    }

    /// EPT-violation #VE.
    pub const fn ept_violation_exception(&self) -> bool {
        self.secondary(secondary::EPT_VIOLATION_EXCEPTION)
    }

    /// VMCS shadowing.
    pub const fn vmcs_shadowing(&self) -> bool {
        self.secondary(secondary::VMCS_SHADOWING)
    }

    /// The guest's time-stamp counter where the processor's is `counter` (SDM 25.3; 24.6.5 Time-Stamp
    /// Counter Offset and Multiplier).
    pub const fn guest_time(&self, counter: u64) -> u64 {
        let product = counter as u128 * self.tsc_multiplier as u128;
        let scaled = (product >> 48) as u64;
        scaled.wrapping_add(self.tsc_offset)
    }

    /// Enable EPT.
    pub const fn ept(&self) -> bool {
        self.secondary(secondary::ENABLE_EPT)
    }
}
