//! Blocks of decoded instructions, cached by physical address and code size.

use std::collections::HashMap;

use super::{
    Cpu,
    decode::{Decoded, LONGEST, decode},
    op::Op,
    paging::Place,
    raise::Raised,
    segment::register,
    tlb::{Access, Tlb},
};

/// Instructions in a block at most.
const LONGEST_BLOCK: usize = 32;
/// Slots of the direct-mapped cache.
const SLOTS: usize = 1 << 15;
/// Entries of the cache by linear address.
const JUMPS: usize = 1 << 12;
/// Instructions kept at most (32 bytes each); beyond that everything is dropped.
const CAPACITY: usize = 1 << 17;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// RAM offset of the first byte times 4, plus the code size's number, plus 1; 0 is empty.
    key: u64,
    start: u32,
    length: u32,
}

/// Where 64-bit code went before: a linear address and the block there.
#[derive(Clone, Copy)]
struct Jump {
    rip: u64,
    /// The translation cache's fetch key under which this holds.
    key: u64,
    start: u32,
    length: u32,
}

const NO_JUMP: Jump = Jump {
    rip: 0,
    key: u64::MAX,
    start: 0,
    length: 0,
};

/// The block cache of one processor.
pub struct Blocks {
    slots: Box<[Slot; SLOTS]>,
    jumps: Box<[Jump; JUMPS]>,
    ops: Vec<Op>,
    /// Slots in use by RAM frame.
    by_frame: HashMap<u64, Vec<u32>>,
    /// An instruction that spans two pages is decoded afresh each time, into this place.
    single: [Op; 1],
}

/// A block to execute.
#[derive(Clone, Copy, Debug)]
pub enum Block {
    /// Instructions of the cache.
    Cached {
        /// Index of the first.
        start: u32,
        /// How many.
        length: u32,
    },
    /// The one instruction that spans two pages.
    Single,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            slots: Box::new([Slot::default(); SLOTS]),
            jumps: Box::new([NO_JUMP; JUMPS]),
            ops: Vec::new(),
            by_frame: HashMap::new(),
            single: [super::execute::INVALID],
        }
    }
}

impl Blocks {
    /// The instructions of a block.
    #[inline(always)]
    pub fn ops(&self, block: Block) -> &[Op] {
        match block {
            Block::Cached { start, length } => self
                .ops
                .get(start as usize..(start + length) as usize)
                .unwrap_or(&[]),
            Block::Single => &self.single,
        }
    }

    /// Drops the blocks of one RAM frame, of the processor whose translations are `tlb`.
    pub fn drop_frame(&mut self, frame: u64, tlb: &mut Tlb) {
        tlb.invalidate_fetches();
        for index in self.by_frame.remove(&frame).unwrap_or_default() {
            if let Some(slot) = self.slots.get_mut(index as usize)
                && slot.key.wrapping_sub(1) >> 2 & !0xfff == frame
            {
                *slot = Slot::default();
            }
        }
    }

    fn drop_all(&mut self, tlb: &mut Tlb) {
        tlb.invalidate_fetches();
        self.slots.fill(Slot::default());
        self.ops.clear();
        self.by_frame.clear();
    }

    /// The block at the processor's RIP, decoded if it is not cached.
    #[inline(always)]
    pub fn at_rip(&mut self, cpu: &mut Cpu) -> Result<Block, Raised> {
        let rip = cpu.rip();
        let jump = &self.jumps[(rip ^ rip >> 12) as usize % JUMPS];
        if jump.rip == rip && cpu.mode_64 && jump.key == cpu.tlb.fetch_key(cpu.privilege()) {
            return Ok(Block::Cached {
                start: jump.start,
                length: jump.length,
            });
        }
        self.at_new_rip(cpu, rip)
    }

    #[inline(never)]
    fn at_new_rip(&mut self, cpu: &mut Cpu, rip: u64) -> Result<Block, Raised> {
        let block = self.by_physical_address(cpu)?;
        if let Block::Cached { start, length } = block
            && cpu.mode_64
        {
            self.jumps[(rip ^ rip >> 12) as usize % JUMPS] = Jump {
                rip,
                key: cpu.tlb.fetch_key(cpu.privilege()),
                start,
                length,
            };
        }
        Ok(block)
    }

    fn by_physical_address(&mut self, cpu: &mut Cpu) -> Result<Block, Raised> {
        let offset = cpu.fetch_place()?;
        let Some(offset) = offset else {
            return self.spanning(cpu);
        };
        let bits = cpu.code_bits();
        let key = (offset << 2 | u64::from(bits >> 5)) + 1;
        let index = (offset ^ offset >> 15) as usize % SLOTS;
        let slot = self.slots[index];
        if slot.key == key {
            return Ok(Block::Cached {
                start: slot.start,
                length: slot.length,
            });
        }
        self.decode_block(cpu, offset, bits, key, index)
    }

    #[cold]
    #[inline(never)]
    fn decode_block(
        &mut self,
        cpu: &mut Cpu,
        offset: u64,
        bits: u32,
        key: u64,
        index: usize,
    ) -> Result<Block, Raised> {
        let frame = offset & !0xfff;
        cpu.keep_code_of(frame);
        if self.ops.len() + LONGEST_BLOCK > CAPACITY {
            self.drop_all(&mut cpu.tlb);
        }
        let start = self.ops.len();
        let mut bytes = [0; 4096];
        let in_page = (offset & 0xfff) as usize;
        let bytes = &mut bytes[in_page..];
        let wanted = bytes.len().min(LONGEST_BLOCK * LONGEST);
        let bytes = &mut bytes[..wanted];
        cpu.ram.read_bytes(offset, bytes);
        let mut position = 0;
        while self.ops.len() - start < LONGEST_BLOCK && position < bytes.len() {
            match decode(&bytes[position..], bits) {
                Decoded::Op { op, ends_block } => {
                    position += op.length as usize;
                    self.ops.push(op);
                    if ends_block {
                        break;
                    }
                }
                Decoded::NeedsMoreBytes => break,
            }
        }
        let length = (self.ops.len() - start) as u32;
        if length == 0 {
            return self.spanning(cpu);
        }
        let start = start as u32;
        self.slots[index] = Slot { key, start, length };
        let slots = self.by_frame.entry(frame).or_default();
        if !slots.contains(&(index as u32)) {
            slots.push(index as u32);
        }
        Ok(Block::Cached { start, length })
    }

    /// Decodes an instruction whose bytes are in two pages, or not in RAM.
    #[cold]
    #[inline(never)]
    fn spanning(&mut self, cpu: &mut Cpu) -> Result<Block, Raised> {
        let mut bytes = [0; LONGEST];
        let mut length = 0;
        while length < LONGEST {
            bytes[length] = cpu.fetch_byte(length as u64)?;
            length += 1;
            if let Decoded::Op { op, .. } = decode(&bytes[..length], cpu.code_bits()) {
                self.single = [op];
                return Ok(Block::Single);
            }
        }
        // SDM volume 2, 2.3.11: longer than 15 bytes.
        Err(cpu.general_protection(0))
    }
}

impl Cpu {
    /// The RAM offset of the byte at RIP; `None` if a device is there.
    #[inline(always)]
    fn fetch_place(&mut self) -> Result<Option<u64>, Raised> {
        let linear = if self.mode_64 {
            self.rip()
        } else {
            self.fetch_linear(0)?
        };
        match self
            .tlb
            .lookup::<u8>(linear, Access::Execute, self.privilege())
        {
            Some(offset) => Ok(Some(offset)),
            None => self.fetch_place_slow(linear),
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch_place_slow(&mut self, linear: u64) -> Result<Option<u64>, Raised> {
        self.fetch_canonical(linear)?;
        match self.translate(linear, Access::Execute, self.privilege())? {
            Place::Ram(offset) => Ok(Some(offset)),
            Place::Device(_) | Place::ApicAccess(_) => Ok(None),
        }
    }

    fn fetch_linear(&mut self, distance: u64) -> Result<u64, Raised> {
        if self.mode_64 {
            return Ok(self.rip().wrapping_add(distance));
        }
        let offset = self.rip().wrapping_add(distance) as u32 as u64;
        self.linear(register::CS, offset, 1, Access::Execute)
    }

    fn fetch_canonical(&mut self, linear: u64) -> Result<(), Raised> {
        if self.mode_64 && !Self::is_canonical(linear) {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    fn fetch_byte(&mut self, distance: u64) -> Result<u8, Raised> {
        let linear = self.fetch_linear(distance)?;
        self.fetch_canonical(linear)?;
        match self.translate(linear, Access::Execute, self.privilege())? {
            Place::Ram(offset) => {
                self.keep_code_of(offset & !0xfff);
                Ok(self.ram.load(offset))
            }
            Place::Device(physical) => self.device_read(physical),
            Place::ApicAccess(offset) => crate::vtx::apic_access_fetch(self, offset, linear),
        }
    }

    /// Marks a RAM frame as one of which decoded instructions are kept, so that writes to it are
    /// noticed on every processor.
    fn keep_code_of(&mut self, frame: u64) {
        if self.platform.code_map.set(frame) {
            self.tlb.forbid_writes(frame);
            self.platform
                .tell_others(self.index, crate::platform::Notice::KeptCode(frame));
        }
    }
}
