//! What translated code needs to know of the processor and has at hand.

use std::sync::atomic::AtomicU32;

use arch::control_register::{cr0, cr4};

use crate::cpu::Cpu;
use crate::vtx::pause_loop;

/// Facts that follow from the rest of the processor's state, valid while translated code runs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(in crate::cpu) struct Context {
    /// Address of a word that is not 0 when the code must leave before the next block.
    pub(super) attention: usize,
    /// The instruction count at which the code must leave, unless a handler has it leave before: the
    /// end of the slice or of the run.
    pub(super) end: u64,
    /// Instructions until then from the start of the block, after a call of a handler.
    pub(super) remaining: u64,
    /// The translation cache's fetch key.
    pub(super) fetch_key: u64,
    /// Address of the translation cache's entries for the current privilege.
    pub(super) entries: usize,
    /// Low bits of the tags of the translation cache's current context.
    pub(super) tag: u64,
    /// Address of RAM.
    pub(super) ram: usize,
    /// Address of the cache of blocks by linear address.
    pub(super) jumps: usize,
    /// Room for a value.
    pub(super) spare: u64,
    /// Not 0 where instructions on XMM registers fault.
    pub(super) vectors_unusable: u8,
    /// Not 0 where PAUSE may leave the guest.
    pub(super) pause_watched: u8,
}

/// Something to see for code that must leave before the next block.
static ALWAYS: AtomicU32 = AtomicU32::new(1);
/// Instructions that code may run for at most, so that the number of those that remain is positive.
const LONGEST: u64 = 1 << 62;

impl Context {
    /// Sets everything up to enter translated code; `jumps` is the address of the cache of blocks.
    pub(in crate::cpu) fn prepare(cpu: &mut Cpu, jumps: usize) {
        cpu.translated.jumps = jumps;
        cpu.translated.ram = cpu.ram.address();
        cpu.translated.fetch_key = cpu.tlb.fetch_key(cpu.privilege());
        cpu.flags.pack();
        Self::refresh(cpu);
    }

    /// Takes over what a handler may have changed.
    #[inline]
    pub(super) fn refresh(cpu: &mut Cpu) {
        let privilege = cpu.privilege();
        let key = cpu.tlb.fetch_key(privilege);
        let (entries, tag) = cpu.tlb.place(privilege);
        // With another fetch key the code that jumps know of may not be what is there now.
        let attention = if cpu.check_events || key != cpu.translated.fetch_key {
            &ALWAYS
        } else {
            cpu.inbox.mailbox.attention_word()
        };
        cpu.translated.attention = std::ptr::from_ref(attention).expose_provenance();
        cpu.translated.entries = entries;
        cpu.translated.tag = tag;
        cpu.translated.fetch_key = key;
        let usable = cpu.cr0 & (cr0::EM | cr0::TS) == 0 && cpu.cr4 & cr4::OSFXSR != 0;
        cpu.translated.vectors_unusable = u8::from(!usable);
        cpu.translated.pause_watched = u8::from(pause_loop::is_watched(cpu));
        cpu.translated.end = cpu
            .instructions
            .saturating_add(cpu.remaining().min(LONGEST));
    }
}
