//! Descriptors as the processor reads them (SDM 3.4.5, 7.2.3, 6.14.1).

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the task-state segment, which takes two entries.
pub const TASK_SELECTOR: u16 = 0x20;
/// 64-bit code, ring 0, accessed.
pub const CODE: u64 = 0x00af_9b00_0000_ffff;
/// Flat data, writable, accessed.
pub const DATA: u64 = 0x00cf_9300_0000_ffff;
/// Flat 32-bit code, for processors on their way to 64-bit mode.
pub const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
/// Bytes of a 64-bit task-state segment.
pub const TASK_STATE_SIZE: usize = 104;

/// Both words of an interrupt gate to `handler` that switches to the stack `interrupt_stack`
/// (1 to 7) of the task-state segment (SDM 6.14.1 64-bit mode IDT).
pub const fn interrupt_gate(handler: u64, interrupt_stack: u8) -> [u64; 2] {
    let low = handler & 0xffff
        | (CODE_SELECTOR as u64) << 16
        | (interrupt_stack as u64 & 7) << 32
        | 0x8e << 40
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// Both words of the descriptor of an available 64-bit task-state segment (SDM 7.2.3).
pub const fn task_state_descriptor(base: u64) -> [u64; 2] {
    let low = (TASK_STATE_SIZE as u64 - 1)
        | (base & 0xff_ffff) << 16
        | 0x89 << 40
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_land_where_the_processor_reads_them() {
        assert_eq!(
            interrupt_gate(0x1122_3344_5566_7788, 3),
            [0x5566_8e03_0008_7788, 0x1122_3344]
        );
        assert_eq!(
            task_state_descriptor(0x1122_3344_5566_7788),
            [0x5500_8966_7788_0067, 0x1122_3344]
        );
    }
}
