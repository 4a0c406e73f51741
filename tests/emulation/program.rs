//! The program of cases, as an image for a boot loader.
#![allow(
    unsafe_code,
    reason = "reads the assembled program, and patches a copy"
)]

use core::arch::global_asm;

use crate::case::{Case, DEVICE, Outcome, RAM, RESULT_SIZE};

global_asm!(include_str!("guest.s"), options(att_syntax));

unsafe extern "C" {
    static emulation_guest_start: u8;
    static emulation_guest_end: u8;
    static emulation_case_count: u8;
    static emulation_descriptors: u8;
    static emulation_pages: u8;
    static emulation_pattern: u8;
    static emulation_initial_state: u8;
}

/// Where it is loaded, and its cases.
const BASE: usize = 0x10_0000;
const CASES: usize = 0x20_0000;
/// What begins the results in memory.
const SIGNATURE: u64 = 0x6563_6e65_6c61_7675;
/// Where the boot loader finds out how long the image is.
const IMAGE_END: usize = 20;
/// Cases that one program has room for.
pub(crate) const MOST_CASES: usize = 4096;

/// Cases and what they share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// Descriptors from [`selector::OWN`](crate::case::selector::OWN) on.
    pub(crate) descriptors: Vec<u64>,
    pub(crate) cases: Vec<Case>,
}

/// A code or data descriptor.
pub(crate) const fn descriptor(base: u32, limit: u32, rights: u32) -> u64 {
    let (base, limit, rights) = (base as u64, limit as u64, rights as u64);
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (rights & 0xf0ff) << 40
        | (limit >> 16 & 15) << 48
        | base >> 24 << 56
}

impl Program {
    /// The image.
    pub(crate) fn image(&self) -> Vec<u8> {
        assert!(self.cases.len() <= MOST_CASES);
        // SAFETY: the two symbols delimit what `guest.s` assembles to, in read-only data.
        let (start, template) = unsafe {
            let start = &raw const emulation_guest_start;
            let length = (&raw const emulation_guest_end).offset_from_unsigned(start);
            (start, core::slice::from_raw_parts(start, length))
        };
        let mut image = vec![0; CASES - BASE];
        image[..template.len()].copy_from_slice(template);
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        // SAFETY: each is inside the program; only its place is wanted.
        let place = |symbol: *const u8| unsafe { symbol.offset_from_unsigned(start) };
        let end = CASES + self.cases.len().max(1) * 0x200;
        put(IMAGE_END, &(end as u32).to_le_bytes());
        put(IMAGE_END + 4, &(end as u32).to_le_bytes());
        let count = place(&raw const emulation_case_count);
        put(count, &(self.cases.len() as u64).to_le_bytes());
        let pages = place(&raw const emulation_pages);
        for (at, page) in (pages..).step_by(8).zip([RAM, DEVICE].concat()) {
            put(at, &page.to_le_bytes());
        }
        let pattern = place(&raw const emulation_pattern);
        for (at, byte) in (pattern..pattern + 512).zip(1_u64..) {
            put(
                at,
                &[(byte.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8],
            );
        }
        let descriptors = place(&raw const emulation_descriptors);
        let at_each_level = |base, limit, rights: u32| {
            [
                descriptor(base, limit, rights),
                descriptor(base, limit, rights | 3 << 5),
            ]
        };
        let common = [
            at_each_level(0, 0xf_ffff, 0xa09b),
            at_each_level(0, 0xf_ffff, 0xc09b),
            at_each_level(0x4020_0000, 0xf_ffff, 0x809b),
            at_each_level(0, 0xf_ffff, 0xc093),
        ];
        let all = common.iter().flatten().chain(&self.descriptors);
        for (at, value) in (descriptors + 0x28..descriptors + 0x100)
            .step_by(8)
            .zip(all)
        {
            put(at, &value.to_le_bytes());
        }
        // As FNINIT and reset leave it, with numbers in the registers of SSE.
        let state = place(&raw const emulation_initial_state);
        put(state, &0x37f_u16.to_le_bytes());
        put(state + 24, &0x1f80_u32.to_le_bytes());
        put(state + 28, &0xffff_u32.to_le_bytes());
        for (at, byte) in (state + 160..state + 416).zip(0x101_u64..) {
            put(
                at,
                &[(byte.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8],
            );
        }
        for (number, case) in self.cases.iter().enumerate() {
            image.extend(case.bytes(number));
        }
        image.resize(end - BASE, 0);
        image
    }

    /// The results in the memory of a machine that has run it; `None` if they are not there.
    pub(crate) fn results(&self, size: u64, read: impl Fn(u64, &mut [u8])) -> Option<Vec<Outcome>> {
        let mut header = [0; 16];
        let start = (0..size).step_by(4096).find(|page| {
            read(*page, &mut header);
            header[..8] == SIGNATURE.to_le_bytes()
                && header[8..] == (self.cases.len() as u64).to_le_bytes()
        })?;
        let outcome = |number: usize| {
            let mut bytes = [0; RESULT_SIZE];
            read(start + ((number + 1) * RESULT_SIZE) as u64, &mut bytes);
            Outcome(bytes)
        };
        Some((0..self.cases.len()).map(outcome).collect())
    }
}
