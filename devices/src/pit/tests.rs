use super::*;

/// The first nanosecond of a clock.
fn at(tick: u64) -> u64 {
    tick_time(tick, FREQUENCY)
}

fn program(pit: &mut Pit, port: u16, control: u8, count: u16, tick: u64) {
    let select = (port - CHANNEL_0) as u8;
    pit.write(CONTROL, select << 6 | 0x30 | control, at(tick));
    pit.write(port, count as u8, at(tick));
    pit.write(port, (count >> 8) as u8, at(tick));
}

fn latched(pit: &mut Pit, tick: u64) -> u16 {
    pit.write(CONTROL, 0x00, at(tick));
    let low = pit.read(CHANNEL_0, at(tick));
    u16::from(low) | u16::from(pit.read(CHANNEL_0, at(tick))) << 8
}

fn status(pit: &mut Pit, channel: u16, tick: u64) -> u8 {
    pit.write(CONTROL, 0xe0 | 2 << channel, at(tick));
    pit.read(CHANNEL_0 + channel, at(tick))
}

fn output_2(pit: &mut Pit, tick: u64) -> bool {
    pit.read(SYSTEM_CONTROL, at(tick)) & OUT_2 != 0
}

#[test]
fn mode_0_rises_once_n_plus_1_clocks_after_the_write() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x00, 1000, 10);
    assert_eq!(pit.next_event(at(10)), Some(at(1011)));
    let change = pit.advance(at(1010));
    assert_eq!((change.rising_edges, change.output), (0, Output::Low));
    let change = pit.advance(at(1011));
    assert_eq!((change.rising_edges, change.output), (1, Output::High));
    assert_eq!(pit.next_event(at(1011)), None);
    assert_eq!(pit.advance(u64::MAX).rising_edges, 0);
}

#[test]
fn mode_0_goes_on_past_zero() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x00, 10, 0);
    assert_eq!(latched(&mut pit, 1), 10);
    assert_eq!(latched(&mut pit, 11), 0);
    assert_eq!(latched(&mut pit, 12), 0xffff);
}

#[test]
fn mode_2_rises_each_period() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x04, 11932, 0);
    assert_eq!(pit.next_event(0), Some(at(11933)));
    assert_eq!(pit.advance(at(11932)).output, Output::Low);
    assert_eq!(pit.advance(at(11933)).rising_edges, 1);
    assert_eq!(pit.next_event(at(11933)), Some(at(11933 + 11932)));
    // A second later there were 99 more: 100.0 Hz.
    let second = 1_000_000_000;
    assert_eq!(pit.advance(second).rising_edges, 98);
    assert_eq!(latched(&mut pit, 2 * 11932 + 1), 11932);
}

#[test]
fn mode_2_loads_a_new_count_at_the_end_of_the_cycle() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x04, 100, 0);
    pit.write(CHANNEL_0, 10, at(50));
    pit.write(CHANNEL_0, 0, at(50));
    assert_eq!(status(&mut pit, 0, 50) & 0x40, 0x40);
    assert_eq!(pit.next_event(at(50)), Some(at(101)));
    assert_eq!(pit.advance(at(131)).rising_edges, 4);
    assert_eq!(status(&mut pit, 0, 131) & 0x40, 0);
}

#[test]
fn mode_3_is_high_for_the_longer_half() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x06, 5, 0);
    let wave: [bool; 10] =
        core::array::from_fn(|i| pit.advance(at(i as u64 + 1)).output == Output::High);
    assert_eq!(
        wave,
        [
            true, true, true, false, false, true, true, true, false, false
        ]
    );
    assert_eq!(pit.next_event(at(1)), Some(at(6)));
    program(&mut pit, CHANNEL_0, 0x06, 8, 100);
    assert_eq!(
        [101, 102, 104, 105, 106].map(|t| latched(&mut pit, t)),
        [8, 6, 2, 8, 6]
    );
}

#[test]
fn mode_3_loads_a_new_count_at_the_end_of_the_half_cycle() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x06, 100, 0);
    pit.write(CHANNEL_0, 20, at(11));
    pit.write(CHANNEL_0, 0, at(11));
    // High until clock 51, then low for half of the new count.
    assert_eq!(pit.next_event(at(11)), Some(at(61)));
    assert_eq!(pit.advance(at(51)).output, Output::Low);
    let change = pit.advance(at(81));
    assert_eq!(change.rising_edges, 2);
}

#[test]
fn mode_4_strobes_once() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x08, 5, 0);
    assert_eq!(pit.advance(at(5)).output, Output::High);
    assert_eq!(pit.advance(at(6)).output, Output::Low);
    assert_eq!(pit.advance(at(7)).rising_edges, 1);
    assert_eq!(pit.next_event(at(7)), None);
}

#[test]
fn channel_2_counts_while_its_gate_is_high() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_2, 0x00, 100, 0);
    assert!(!output_2(&mut pit, 1000));
    pit.write(SYSTEM_CONTROL, GATE_2, at(1000));
    pit.write(SYSTEM_CONTROL, 0, at(1050));
    assert!(!output_2(&mut pit, 5000));
    pit.write(SYSTEM_CONTROL, GATE_2, at(5000));
    assert!(!output_2(&mut pit, 5049));
    assert!(output_2(&mut pit, 5050));
}

#[test]
fn modes_1_and_5_start_with_the_gate() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_2, 0x02, 10, 0);
    assert!(output_2(&mut pit, 100));
    assert_eq!(status(&mut pit, 2, 100) & 0x40, 0x40);
    pit.write(SYSTEM_CONTROL, GATE_2, at(100));
    assert!(!output_2(&mut pit, 110));
    assert!(output_2(&mut pit, 111));
    // A trigger starts it again in the middle.
    pit.write(SYSTEM_CONTROL, 0, at(200));
    pit.write(SYSTEM_CONTROL, GATE_2, at(200));
    pit.write(SYSTEM_CONTROL, 0, at(205));
    pit.write(SYSTEM_CONTROL, GATE_2, at(205));
    assert!(!output_2(&mut pit, 215));
    assert!(output_2(&mut pit, 216));
    program(&mut pit, CHANNEL_2, 0x0a, 10, 300);
    pit.write(SYSTEM_CONTROL, 0, at(300));
    pit.write(SYSTEM_CONTROL, GATE_2, at(300));
    assert_eq!(
        [310, 311, 312].map(|t| output_2(&mut pit, t)),
        [true, false, true]
    );
}

#[test]
fn read_back_gives_status_then_count() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x04, 100, 0);
    pit.write(CONTROL, 0xc2, at(11));
    assert_eq!(pit.read(CHANNEL_0, at(50)), 0xb4);
    assert_eq!(pit.read(CHANNEL_0, at(51)), 90);
    assert_eq!(pit.read(CHANNEL_0, at(52)), 0);
    assert_eq!(pit.read(CONTROL, 0), 0xff);
}

#[test]
fn decimal_counts() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x01, 0x1234, 0);
    assert_eq!(pit.next_event(0), Some(at(1235)));
    assert_eq!(latched(&mut pit, 6), 0x1229);
    program(&mut pit, CHANNEL_0, 0x05, 0, 2000);
    assert_eq!(pit.next_event(at(2000)), Some(at(12001)));
}

#[test]
fn single_byte_access() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x14, at(0));
    pit.write(CHANNEL_0, 0x20, at(0));
    assert_eq!(pit.next_event(0), Some(at(0x21)));
    assert_eq!(pit.read(CHANNEL_0, at(3)), 0x1e);
    assert_eq!(pit.read(CHANNEL_0, at(3)), 0x1e);
    pit.write(CONTROL, 0x24, at(100));
    pit.write(CHANNEL_0, 1, at(100));
    assert_eq!(pit.next_event(at(100)), Some(at(101 + 256)));
}

#[test]
fn a_control_word_that_raises_out_is_an_edge() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_0, 0x00, 1000, 0);
    pit.write(CONTROL, 0x34, at(5));
    assert_eq!(pit.advance(at(5)).rising_edges, 1);
    assert_eq!(pit.advance(at(50)).rising_edges, 0);
}

#[test]
fn the_speaker_sounds_with_both_bits() {
    let mut pit = Pit::new();
    program(&mut pit, CHANNEL_2, 0x06, 1193, 0);
    assert_eq!(pit.speaker(), None);
    pit.write(SYSTEM_CONTROL, GATE_2 | SPEAKER, at(1));
    assert_eq!(pit.speaker(), Some(1000));
    assert_eq!(pit.read(SYSTEM_CONTROL, at(2)) & WRITABLE, 3);
}

#[test]
fn any_write_sequence_at_any_time_is_survived() {
    let mut pit = Pit::new();
    let mut state = 0x1234_5678_u64;
    let mut now = 0_u64;
    for _ in 0..200_000 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let value = (state >> 56) as u8;
        let port = if state >> 40 & 7 == 0 {
            SYSTEM_CONTROL
        } else {
            CHANNEL_0 + (state >> 33 & 3) as u16
        };
        now = now.saturating_add(state >> 32 & 0xfff);
        if state >> 20 & 0xffff == 0 {
            now = now.saturating_add(u64::MAX / 4);
        }
        pit.write(port, value, now);
        pit.read(CHANNEL_0 + (value & 3) as u16, now);
        let _ = pit.advance(now);
        if let Some(next) = pit.next_event(now) {
            assert!(next > now || now == u64::MAX || next == u64::MAX);
            // The event is real: it comes then and not before.
            if next < u64::MAX / 2 {
                assert_eq!(pit.clone().advance(next - 1).rising_edges, 0);
                assert_ne!(pit.clone().advance(next).rising_edges, 0);
            }
        }
    }
}
