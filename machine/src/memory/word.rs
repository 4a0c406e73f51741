//! The unsigned integers that an access moves.

/// An unsigned integer of 8 to 128 bits.
pub trait Word: Copy + Eq + Default + core::fmt::Debug + Send + Sync + 'static {
    /// Size in bytes.
    const SIZE: usize;
    /// Size in bits.
    const BITS: u32 = Self::SIZE as u32 * 8;
    /// Truncates; 128-bit words take the value zero-extended.
    fn from_u64(value: u64) -> Self;
    /// Zero-extends; 128-bit words give their low half.
    fn to_u64(self) -> u64;
    /// Sign-extends; 128-bit words give their low half.
    fn to_i64(self) -> i64;
    /// From little-endian bytes; missing bytes are 0.
    fn from_bytes(bytes: [u8; 16]) -> Self;
    /// To little-endian bytes, zero-extended.
    fn to_bytes(self) -> [u8; 16];
}

macro_rules! word {
    ($($unsigned:ty, $signed:ty;)*) => {$(
        impl Word for $unsigned {
            const SIZE: usize = size_of::<$unsigned>();
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $signed as i64
            }
            #[inline(always)]
            fn from_bytes(bytes: [u8; 16]) -> Self {
                u128::from_le_bytes(bytes) as $unsigned
            }
            #[inline(always)]
            fn to_bytes(self) -> [u8; 16] {
                (self as u128).to_le_bytes()
            }
        }
    )*};
}

word! {
    u8, i8;
    u16, i16;
    u32, i32;
    u64, i64;
    u128, i128;
}
