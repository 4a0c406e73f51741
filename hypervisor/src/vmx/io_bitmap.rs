//! The I/O bitmaps (SDM 25.6.4 I/O-bitmap addresses): one bit a port, 1 exits.

/// Bitmaps A and B, one after the other.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct IoBitmap([u8; 8192]);

impl Default for IoBitmap {
    fn default() -> Self {
        Self::new()
    }
}

impl IoBitmap {
    /// Every port exits.
    pub const fn new() -> Self {
        Self([0xff; 8192])
    }

    /// Lets the guest reach `port` itself.
    pub fn pass(&mut self, port: u16) {
        self.0[usize::from(port / 8)] &= !(1 << (port % 8));
    }

    /// Whether an access to `port` exits.
    pub fn intercepts(&self, port: u16) -> bool {
        self.0[usize::from(port / 8)] >> (port % 8) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_is_one_bit() {
        let mut bitmap = IoBitmap::new();
        assert!((0..=u16::MAX).all(|port| bitmap.intercepts(port)));
        // An access of 4 bytes needs 4 bits.
        (0xf5..=0xf8).for_each(|port| bitmap.pass(port));
        bitmap.pass(0xffff);
        let open: Vec<u16> = (0..=u16::MAX).filter(|p| !bitmap.intercepts(*p)).collect();
        assert_eq!(open, [0xf5, 0xf6, 0xf7, 0xf8, 0xffff]);
    }
}
