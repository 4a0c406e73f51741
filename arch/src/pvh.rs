//! The PVH boot protocol: what a loader hands over in EBX (Xen's `hvm_start_info`).

/// Value of [`StartInfo::magic`].
pub const MAGIC: u32 = 0x336e_c578;
/// Type of the ELF note (owner "Xen") whose descriptor is the 32-bit entry point.
pub const ELF_NOTE_PHYS32_ENTRY: u32 = 18;

/// `hvm_start_info`, version 1.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1: the memory map is present.
    pub version: u32,
    /// Flags, 0.
    pub flags: u32,
    /// Number of modules.
    pub module_count: u32,
    /// Physical address of an array of [`Module`].
    pub module_list: u64,
    /// Physical address of the command line, NUL-terminated.
    pub command_line: u64,
    /// Physical address of the ACPI RSDP.
    pub rsdp: u64,
    /// Physical address of an array of [`MemoryRegion`].
    pub memory_map: u64,
    /// Number of regions.
    pub memory_map_entries: u32,
    /// 0.
    pub reserved: u32,
}

/// One boot module.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Module {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Physical address of its command line, NUL-terminated, or 0.
    pub command_line: u64,
    /// 0.
    pub reserved: u64,
}

/// One region of the memory map; kinds are those of E820.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MemoryRegion {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved, 3 ACPI reclaimable, 4 ACPI NVS.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// Region kind: usable RAM.
pub const MEMORY_RAM: u32 = 1;
/// Region kind: reserved.
pub const MEMORY_RESERVED: u32 = 2;
/// Region kind: ACPI tables, reclaimable.
pub const MEMORY_ACPI: u32 = 3;
