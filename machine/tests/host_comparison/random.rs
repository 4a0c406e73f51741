//! Random values that like the edges.

/// A xorshift generator.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A value biased to the edges of the integer widths.
    pub fn value(&mut self) -> u64 {
        const EDGES: [u64; 18] = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            0xffff_ffff_ffff_fffe,
            0xffff_ffff_ffff_ffff,
            0xffff_ffff_8000_0000,
        ];
        match self.below(8) {
            0..=2 => self.pick(&EDGES),
            3 => self
                .pick(&EDGES)
                .wrapping_add(self.below(5))
                .wrapping_sub(2),
            4 => self.next() >> self.below(64),
            5 => !(self.next() >> self.below(64)),
            _ => self.next(),
        }
    }

    /// A floating-point number of `bits` bits with `fraction` bits of fraction, biased to the edges
    /// of its format and to numbers of like magnitude.
    pub fn float(&mut self, bits: u32, fraction: u32) -> u64 {
        let mask = (1 << fraction) - 1;
        let top = (1 << (bits - 1 - fraction)) - 1;
        let bias = top >> 1;
        let exponent = match self.below(16) {
            0 | 1 => 0,
            2 | 3 => top,
            4 => 1,
            5 => top - 1,
            6 => self.below(top),
            7 => self.below(top / 8) + top / 16 * 7,
            8 => fraction.into(),
            9 => self.below(u64::from(fraction) + 4) + 1,
            10 => bias.saturating_sub(150) + self.below(300),
            11 => bias - 64 + self.below(128),
            _ => bias - 2 + self.below(5),
        } & top;
        let value = match self.below(8) {
            0 | 1 => 0,
            2 => self.below(4),
            3 => mask - self.below(4),
            4 => 1 << self.below(fraction.into()),
            5 => mask << self.below(fraction.into()),
            _ => self.next(),
        } & mask;
        self.below(2) << (bits - 1) | exponent << fraction | value
    }

    /// Sixteen bytes that are integers, single- or double-precision numbers.
    pub fn vector(&mut self) -> u128 {
        let (low, high) = match self.below(3) {
            0 => (self.value(), self.value()),
            1 => (self.float(64, 52), self.float(64, 52)),
            _ => (
                self.float(32, 23) << 32 | self.float(32, 23),
                self.float(32, 23) << 32 | self.float(32, 23),
            ),
        };
        u128::from(high) << 64 | u128::from(low)
    }

    /// A value of MXCSR: mostly with everything masked.
    pub fn mxcsr(&mut self) -> u32 {
        let flags = self.next() as u32 & 0x3f;
        let modes = self.next() as u32 & 0xe040;
        match self.below(8) {
            0..=2 => 0x1f80,
            3 | 4 => 0x1f80 | flags,
            5 | 6 => 0x1f80 | flags | modes,
            _ => self.next() as u32 & 0xffff,
        }
    }
}
