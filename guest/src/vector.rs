//! Which vector means what, so that every count has one meaning.

/// Unicast ping-pong.
pub const UNICAST: u8 = 0x40;
/// To a halted processor.
pub const HALTED: u8 = 0x41;
/// Sent several times to a processor with interrupts disabled.
pub const MERGED: u8 = 0x42;
/// A processor to itself: the self-IPI register, the shorthand, its own ID.
pub const SELF: [u8; 3] = [0x43, 0x44, 0x45];
/// First vector that belongs to one sender.
const FIRST_OWNED: u8 = 0x50;
/// One past the last.
const END_OWNED: u8 = 0xec;
/// The timer: one-shot, periodic, TSC deadline.
pub const TIMER: [u8; 3] = [0xec, 0xed, 0xee];
/// Spurious interrupts.
pub const SPURIOUS: u8 = 0xff;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;

/// How many vectors each of `processors` senders owns, 1 to 4.
pub const fn owned_count(processors: usize) -> usize {
    let each = (END_OWNED - FIRST_OWNED) as usize / if processors == 0 { 1 } else { processors };
    if each > 4 {
        4
    } else if each == 0 {
        1
    } else {
        each
    }
}

/// The vector number `slot` that only `sender` sends; `None` when there are more processors than
/// vectors and this one has none.
pub fn owned(sender: usize, slot: usize, processors: usize) -> Option<u8> {
    let count = owned_count(processors);
    let index = sender * count + slot % count;
    u8::try_from(index)
        .ok()
        .and_then(|index| FIRST_OWNED.checked_add(index))
        .filter(|vector| *vector < END_OWNED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_senders_own_one_vector() {
        for processors in [1, 2, 4, 8, 39, 40, 64, 156, 200, 256] {
            let mut owner = [None; 256];
            for sender in 0..processors {
                for slot in 0..owned_count(processors) {
                    match owned(sender, slot, processors) {
                        Some(vector) => {
                            assert_eq!(owner[usize::from(vector)].replace(sender), None);
                            assert!((FIRST_OWNED..END_OWNED).contains(&vector));
                        }
                        None => assert!(sender >= 156),
                    }
                }
            }
        }
        assert_eq!(owned_count(4), 4);
        assert_eq!(owned_count(64), 2);
    }
}
