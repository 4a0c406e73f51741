//! What happened: counters, and reports of what the machine cannot do.

/// An instruction that the machine does not execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unimplemented {
    /// Its bytes.
    pub bytes: [u8; 15],
    /// How many.
    pub length: u8,
    /// Its RIP.
    pub address: u64,
    /// Code size: 16, 32 or 64.
    pub bits: u32,
    /// The processor that met it.
    pub processor: usize,
}

/// Counters of one processor.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Instructions retired in VMX non-root operation.
    pub guest_instructions: u64,
}
