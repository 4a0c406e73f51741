//! What arrived at the hypervisor's serial console and is for the guest's first serial port.
//!
//! The guest takes it when it listens and has room, so that nothing is lost to a guest that is slower
//! than the line. When this is full, bytes stay in the console's own receiver.

use alloc::collections::VecDeque;

/// Bytes kept at most: a terminal's longest line.
const MOST: usize = 4096;

/// Bytes on their way to the guest.
#[derive(Debug, Default)]
pub struct ConsoleInput {
    bytes: VecDeque<u8>,
}

impl ConsoleInput {
    /// Takes bytes from `receiver` until it has no more or there is no room.
    pub fn fill(&mut self, mut receiver: impl FnMut() -> Option<u8>) {
        while self.bytes.len() < MOST
            && let Some(byte) = receiver()
        {
            self.bytes.push_back(byte);
        }
    }

    /// Whether the guest has taken everything.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next byte for the guest.
    pub fn take(&mut self) -> Option<u8> {
        self.bytes.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_stays_in_the_receiver() {
        let mut input = ConsoleInput::default();
        let mut line = (0..2 * MOST).map(|i| i as u8);
        input.fill(|| line.next());
        assert_eq!(line.len(), MOST);
        assert_eq!(input.take(), Some(0));
        input.fill(|| line.next());
        assert_eq!(line.len(), MOST - 1);
        let mut taken = 1;
        while let Some(byte) = input.take() {
            assert_eq!(byte, taken as u8);
            taken += 1;
        }
        assert_eq!(taken, MOST + 1);
        assert!(input.is_empty());
    }
}
