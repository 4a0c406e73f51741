//! State of the x87 FPU and of the MMX registers that alias it (SDM 8.1, 9.2).

/// The x87 state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// R0 to R7 (physical, not relative to TOP), 80 bits each, little-endian.
    pub registers: [[u8; 10]; 8],
    /// Control word.
    pub control: u16,
    /// Status word, with TOP in bits 13:11.
    pub status: u16,
    /// Full tag word, two bits a register; 11b is empty.
    pub tag: u16,
    /// Last opcode, 11 bits.
    pub opcode: u16,
    /// Last instruction pointer.
    pub instruction_pointer: u64,
    /// Last data pointer.
    pub data_pointer: u64,
}

impl Default for X87 {
    /// The state after FNINIT, which is also close enough to power-up (SDM table 9-1).
    fn default() -> Self {
        Self {
            registers: [[0; 10]; 8],
            control: 0x37f,
            status: 0,
            tag: 0xffff,
            opcode: 0,
            instruction_pointer: 0,
            data_pointer: 0,
        }
    }
}
