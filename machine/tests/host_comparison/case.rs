//! The state from which an instruction runs, and the memory it may use.

/// The memory that host and guest share by address.
pub const REGION: u64 = 0x3000_0000;
/// Its size: one 2-MByte page of the guest.
pub const REGION_SIZE: u64 = 2 << 20;
/// Where code goes, to the region's end.
pub const CODE: u64 = REGION + 0x1_0000;
/// Memory operands lie in the middle of this window.
pub const WINDOW: u64 = REGION + 0x800;
/// Its size in bytes.
pub const WINDOW_SIZE: usize = 1024;
/// The top of the stack is in the middle of this window.
pub const STACK_WINDOW: u64 = REGION + 0x2000;
/// Its size in bytes.
pub const STACK_WINDOW_SIZE: usize = 256;
/// The stack pointer at the start.
pub const STACK: u64 = STACK_WINDOW + 128;

/// What is loaded before the instruction and compared after it.
#[derive(Clone)]
pub struct State {
    /// General registers in encoding order.
    pub registers: [u64; 16],
    /// RFLAGS.
    pub flags: u64,
    /// FXSAVE image in its 64-bit format.
    pub fx: [u8; 512],
}

impl State {
    /// XMM register `number`.
    pub fn xmm(&self, number: usize) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.fx[160 + number * 16..][..16]);
        u128::from_le_bytes(bytes)
    }

    /// Sets XMM register `number`.
    pub fn set_xmm(&mut self, number: usize, value: u128) {
        self.fx[160 + number * 16..][..16].copy_from_slice(&value.to_le_bytes());
    }

    /// MXCSR.
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.fx[24], self.fx[25], self.fx[26], self.fx[27]])
    }

    /// Sets MXCSR.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.fx[24..28].copy_from_slice(&value.to_le_bytes());
    }
}

/// The initial state of x87 as FNINIT leaves it, MXCSR as at reset, everything else 0.
pub fn initial_fx() -> [u8; 512] {
    let mut fx = [0; 512];
    fx[..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    fx[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    fx[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
    fx
}
