//! Blocks of decoded instructions, cached by physical address and code size.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{
    Cpu,
    decode::{Decoded, LONGEST, decode},
    op::Op,
    raise::Raised,
    run::Engine,
    segment::register,
    tlb::Tlb,
    translate::{Code, Context, Exit, Translator},
};

/// Instructions in a block at most.
pub(super) const LONGEST_BLOCK: usize = 32;
/// Slots of the direct-mapped front of the cache.
const SLOTS: usize = 1 << 14;
/// Entries of the cache by linear address.
const JUMPS: usize = 1 << 14;
/// Pages kept at most, of which [`Blocks::pages`] says where they are.
const PAGES: usize = 1 << 14;
/// What all processors of a machine keep at most: instructions (32 bytes each), and bytes of host code.
/// Each has its share; beyond that it drops everything and starts over.
const INSTRUCTIONS_OF_ALL: usize = 1 << 21;
const CODE_OF_ALL: usize = 96 << 20;
/// The least and the most of that for one processor.
const INSTRUCTIONS_OF_ONE: [usize; 2] = [1 << 13, 1 << 19];
const CODE_OF_ONE: [usize; 2] = [1 << 20, 32 << 20];

/// One processor's share of what there is for all.
fn share(all: usize, [least, most]: [usize; 2], processors: usize) -> usize {
    (all / processors.max(1)).clamp(least, most)
}

/// Where 64-bit code went before: a linear address and the block there.
#[derive(Clone, Copy)]
#[repr(C)]
struct Jump {
    rip: u64,
    /// The translation cache's fetch key under which this holds.
    key: u64,
    /// What the block was translated to, or code that leaves.
    code: Code,
    /// The block's number.
    block: u64,
}

const NO_JUMP: Jump = Jump {
    rip: 0,
    key: u64::MAX,
    code: Code::NONE,
    block: u64::MAX,
};

/// The key of a block at a RAM offset of code of that size.
fn block_key(offset: u64, bits: u32) -> u64 {
    (offset << 2 | u64::from(bits >> 5)) + 1
}

/// The RAM offset in a key.
fn block_offset(key: u64) -> u64 {
    key.wrapping_sub(1) >> 2
}

#[inline(always)]
fn jump_index(rip: u64) -> usize {
    (rip ^ rip >> layout::HASH_SHIFT) as usize % JUMPS
}

/// What translated code looks blocks up by.
pub(super) mod layout {
    use super::{JUMPS, Jump};
    use std::mem::{offset_of, size_of};

    /// A linear address is combined with itself shifted by this.
    pub(in crate::cpu) const HASH_SHIFT: u8 = 12;
    pub(in crate::cpu) const INDEX_MASK: u32 = JUMPS as u32 - 1;
    pub(in crate::cpu) const SIZE_SHIFT: u8 = size_of::<Jump>().trailing_zeros() as u8;
    pub(in crate::cpu) const RIP: i32 = offset_of!(Jump, rip) as i32;
    pub(in crate::cpu) const KEY: i32 = offset_of!(Jump, key) as i32;
    pub(in crate::cpu) const CODE: i32 = offset_of!(Jump, code) as i32;
    const _: () = assert!(size_of::<Jump>().is_power_of_two() && JUMPS.is_power_of_two());
}

/// The second frame of a block that lies in one.
const NO_FRAME: u64 = u64::MAX;

/// A block.
#[derive(Clone, Copy)]
struct Head {
    /// [`block_key`], or 0 if the block was dropped.
    key: u64,
    /// An instruction that spans two pages is a block of its own, and this is the RAM frame of its second
    /// page. A block without instructions says that there is such an instruction: then it depends on the second
    /// page which block follows.
    second: u64,
    /// Index of its first instruction.
    start: u32,
    /// How many there are.
    length: u32,
    /// How often it was executed; counting stops when it is translated or cannot be.
    runs: u32,
    code: Option<Code>,
}

/// Hashes addresses, which are the guest's choice and so only as good as the guest wants.
#[derive(Clone, Copy, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// The block cache of one processor.
pub struct Blocks {
    /// Processors of the machine.
    processors: usize,
    /// Instructions kept at most.
    capacity: usize,
    jumps: Box<[Jump; JUMPS]>,
    /// Numbers of blocks by [`block_key`], of which one was looked for last.
    slots: Box<[u32; SLOTS]>,
    /// The same, of all, by that and the second frame.
    numbers: AddressMap<(u64, u64), u32>,
    heads: Vec<Head>,
    ops: Vec<Op>,
    /// RAM frames of the pages from which 64-bit code was fetched, by linear address and fetch key.
    /// Whether a page is looked up again so depends on what was executed, and not on which blocks are
    /// found by linear address, in which the engines differ.
    pages: AddressMap<(u64, u64), u64>,
    /// Numbers of blocks by RAM frame.
    by_frame: AddressMap<u64, Vec<u32>>,
    /// Where a slice ended inside a block.
    cut: Option<Cut>,
    /// An instruction of which some byte is not in RAM is decoded afresh each time, into this place.
    single: [Op; 1],
    /// Made when the first block is worth it, unless the host refuses.
    translator: Option<Translator>,
    /// A block is translated when it has been executed so often; never if this is `u32::MAX`.
    worth: u32,
    /// Blocks that were translated.
    translations: u64,
}

/// A place inside a block where a slice ended. Who goes on there finds the rest of that block, so that
/// the ends of slices, which fall anywhere, fill the cache with nothing that only they lead to.
#[derive(Clone, Copy)]
struct Cut {
    /// [`block_key`] of a block that would begin there.
    key: u64,
    /// What remains of the block.
    rest: Block,
}

/// A block to execute.
#[derive(Clone, Copy, Debug)]
pub enum Block {
    /// One of the cache, by its number.
    Cached(u32),
    /// Some of the instructions of one of the cache.
    Part {
        /// Its number.
        number: u32,
        /// Index of the first instruction.
        from: u32,
        /// Index of the one behind the last.
        to: u32,
    },
    /// The one instruction that is not all in RAM.
    Single,
}

/// A block that was translated.
#[derive(Clone, Copy, Debug)]
pub struct Translated(Code);

impl Blocks {
    /// An empty cache for an engine, of one of so many processors.
    pub fn new(engine: Engine, processors: usize) -> Self {
        Self {
            processors,
            capacity: share(INSTRUCTIONS_OF_ALL, INSTRUCTIONS_OF_ONE, processors),
            jumps: Box::new([NO_JUMP; JUMPS]),
            slots: Box::new([u32::MAX; SLOTS]),
            numbers: AddressMap::default(),
            heads: Vec::new(),
            ops: Vec::new(),
            pages: AddressMap::default(),
            by_frame: AddressMap::default(),
            cut: None,
            single: [super::execute::INVALID],
            translator: None,
            worth: match engine {
                Engine::Interpreter => u32::MAX,
                Engine::Translator { after } => after,
            },
            translations: 0,
        }
    }

    /// The instructions of a block.
    #[inline(always)]
    pub fn ops(&self, block: Block) -> &[Op] {
        match block {
            Block::Cached(number) => self.ops_of(number).unwrap_or(&[]),
            Block::Part { number, from, to } => self
                .ops_of(number)
                .and_then(|ops| ops.get(from as usize..to as usize))
                .unwrap_or(&[]),
            Block::Single => &self.single,
        }
    }

    #[inline(always)]
    fn ops_of(&self, number: u32) -> Option<&[Op]> {
        let head = self.heads.get(number as usize)?;
        let start = head.start as usize;
        self.ops.get(start..start + head.length as usize)
    }

    /// Drops the blocks of one RAM frame, of the processor whose translations are `tlb`.
    pub fn drop_frame(&mut self, frame: u64, tlb: &mut Tlb) {
        tlb.invalidate_fetches();
        self.cut = None;
        for number in self.by_frame.remove(&frame).unwrap_or_default() {
            if let Some(head) = self.heads.get_mut(number as usize) {
                self.numbers.remove(&(head.key, head.second));
                head.key = 0;
            }
        }
    }

    /// Drops every block. What the guest can see of the translation cache stays as it is.
    fn drop_all(&mut self) {
        self.jumps.fill(NO_JUMP);
        self.slots.fill(u32::MAX);
        self.numbers.clear();
        self.heads.clear();
        self.ops.clear();
        self.by_frame.clear();
        self.cut = None;
        if let Some(translator) = &mut self.translator {
            translator.clear();
        }
    }

    /// The block at the processor's RIP, decoded if it is not cached.
    #[inline(always)]
    pub fn at_rip(&mut self, cpu: &mut Cpu) -> Result<Block, Raised> {
        let rip = cpu.rip();
        let jump = &self.jumps[jump_index(rip)];
        if jump.rip == rip && cpu.mode_64 && jump.key == cpu.tlb.fetch_key(cpu.privilege()) {
            return Ok(Block::Cached(jump.block as u32));
        }
        self.at_new_rip(cpu, rip)
    }

    #[inline(never)]
    fn at_new_rip(&mut self, cpu: &mut Cpu, rip: u64) -> Result<Block, Raised> {
        let block = self.by_physical_address(cpu)?;
        if !cpu.mode_64 {
            return self.within_limit(cpu, block);
        }
        if let Block::Cached(number) = block {
            self.jumps[jump_index(rip)] = Jump {
                rip,
                key: cpu.tlb.fetch_key(cpu.privilege()),
                code: self.code_of(number),
                block: number.into(),
            };
        }
        Ok(block)
    }

    /// As much of the block at RIP as the limit of CS lets be fetched; #GP(0) if that is less than an
    /// instruction (SDM 5.3 Limit checking).
    fn within_limit(&self, cpu: &mut Cpu, block: Block) -> Result<Block, Raised> {
        let limit = cpu.segments[register::CS as usize].limit;
        // That it wraps at 4 GiB takes no offset beyond the limit.
        let fetchable = match limit {
            u32::MAX => u64::MAX,
            limit => (u64::from(limit) + 1).saturating_sub(cpu.rip()),
        };
        if fetchable >= (LONGEST_BLOCK * LONGEST) as u64 {
            return Ok(block);
        }
        let ops = self.ops(block);
        let mut end = 0;
        let fitting = ops
            .iter()
            .take_while(|op| {
                end += u64::from(op.length);
                end <= fetchable
            })
            .count();
        if fitting == ops.len() {
            return Ok(block);
        }
        let (number, from) = match block {
            Block::Cached(number) => (number, 0),
            Block::Part { number, from, .. } => (number, from),
            Block::Single => return Err(cpu.general_protection(0)),
        };
        if fitting == 0 {
            return Err(cpu.general_protection(0));
        }
        let to = from + fitting as u32;
        Ok(Block::Part { number, from, to })
    }

    /// The RAM offset of the byte at RIP; `None` if a device is there.
    fn fetch_place(&mut self, cpu: &mut Cpu) -> Result<Option<u64>, Raised> {
        if !cpu.mode_64 {
            return cpu.fetch_place();
        }
        let rip = cpu.rip();
        self.fetch_place_at(cpu, rip)
    }

    /// The RAM offset of the byte at a linear address from which 64-bit code is fetched.
    fn fetch_place_at(&mut self, cpu: &mut Cpu, linear: u64) -> Result<Option<u64>, Raised> {
        let page = (linear & !0xfff, cpu.tlb.fetch_key(cpu.privilege()));
        if let Some(frame) = self.pages.get(&page) {
            return Ok(Some(frame | linear & 0xfff));
        }
        let place = cpu.fetch_place_at(linear)?;
        if let Some(offset) = place {
            if self.pages.len() >= PAGES {
                self.pages.clear();
                cpu.tlb.invalidate_fetches();
            }
            self.remember_page(cpu, linear, offset & !0xfff);
        }
        Ok(place)
    }

    /// Remembers where the page of a linear address is, under the fetch key as it is now.
    fn remember_page(&mut self, cpu: &mut Cpu, linear: u64, frame: u64) {
        let page = (linear & !0xfff, cpu.tlb.fetch_key(cpu.privilege()));
        self.pages.insert(page, frame);
        cpu.tlb.note_fetch(linear);
    }

    fn by_physical_address(&mut self, cpu: &mut Cpu) -> Result<Block, Raised> {
        let offset = self.fetch_place(cpu)?;
        let Some(offset) = offset else {
            return self.spanning(cpu);
        };
        let bits = cpu.code_bits();
        let key = block_key(offset, bits);
        if let Some(number) = self.number_of(key) {
            return match self.heads.get(number as usize) {
                Some(Head { length: 0, .. }) => self.split(cpu, offset, bits, key),
                _ => Ok(Block::Cached(number)),
            };
        }
        if let Some(cut) = self.cut.filter(|cut| cut.key == key) {
            return Ok(cut.rest);
        }
        self.decode_block(cpu, offset, bits, key)
    }

    /// The block of that key.
    #[inline(always)]
    fn number_of(&mut self, key: u64) -> Option<u32> {
        let slot = &mut self.slots[(key ^ key >> 15) as usize % SLOTS];
        let known = self.heads.get(*slot as usize);
        if known.is_some_and(|head| head.key == key && head.second == NO_FRAME) {
            return Some(*slot);
        }
        *slot = *self.numbers.get(&(key, NO_FRAME))?;
        Some(*slot)
    }

    /// What follows the first so many instructions of a block.
    pub fn rest(&self, block: Block, executed: usize) -> Option<Block> {
        let (number, from, to) = match block {
            Block::Cached(number) => (number, 0, self.heads.get(number as usize)?.length),
            Block::Part { number, from, to } => (number, from, to),
            Block::Single => return None,
        };
        let from = from + executed as u32;
        (from < to).then_some(Block::Part { number, from, to })
    }

    /// The slice ends before the instructions `rest`: who comes there finds them.
    pub fn cut_before(&mut self, rest: Block) {
        if let Block::Part { number, from, .. } = rest
            && let Some(head) = self.heads.get(number as usize)
            && let Some(ops) = self
                .ops
                .get(head.start as usize..(head.start + from) as usize)
        {
            let distance: u64 = ops.iter().map(|op| u64::from(op.length)).sum();
            let key = head.key + block_key(distance, 0) - block_key(0, 0);
            self.cut = Some(Cut { key, rest });
        }
    }

    /// Blocks that were translated so far.
    pub fn translations(&self) -> u64 {
        self.translations
    }

    /// Code for the block of that number, which at least leaves.
    fn code_of(&self, number: u32) -> Code {
        let head = self.heads.get(number as usize);
        match (&self.translator, head.and_then(|head| head.code)) {
            (_, Some(code)) => code,
            (Some(translator), None) => translator.leave(),
            (None, None) => Code::NONE,
        }
    }

    /// What the 64-bit block at RAM offset `target` was translated to.
    fn translation_at(&self, target: u64) -> Option<Code> {
        let number = self.numbers.get(&(block_key(target, 64), NO_FRAME))?;
        self.heads.get(*number as usize)?.code
    }

    /// A block is about to be executed: gives its translation, which is made if it is worth it now. There
    /// is none of a block that does not fit into what remains of the slice.
    #[inline(always)]
    pub fn translated(&mut self, cpu: &mut Cpu, block: Block) -> Option<Translated> {
        let Block::Cached(number) = block else {
            return None;
        };
        let head = self.heads.get_mut(number as usize)?;
        if u64::from(head.length) > cpu.remaining() {
            return None;
        }
        if let Some(code) = head.code {
            return Some(Translated(code));
        }
        head.runs = head.runs.saturating_add(1);
        if head.runs != self.worth || !cpu.mode_64 {
            return None;
        }
        self.translate(cpu, number).map(Translated)
    }

    #[cold]
    #[inline(never)]
    fn translate(&mut self, cpu: &mut Cpu, number: u32) -> Option<Code> {
        if self.translator.is_none() {
            self.translator = Translator::new(share(CODE_OF_ALL, CODE_OF_ONE, self.processors));
            if self.translator.is_none() {
                // The host refuses: it is not asked again.
                self.worth = u32::MAX;
                return None;
            }
            self.forget_translations();
        }
        let offset = block_offset(self.heads.get(number as usize)?.key);
        let head = self.heads.get(number as usize)?;
        let start = head.start as usize;
        let ops = self.ops.get(start..start + head.length as usize)?;
        let (numbers, heads) = (&self.numbers, &self.heads);
        let head_at = |target| {
            let number = numbers.get(&(block_key(target, 64), NO_FRAME))?;
            heads.get(*number as usize)
        };
        let code = self.translator.as_mut()?.translate(
            ops,
            offset,
            |target| head_at(target).is_some_and(|head| head.length == 0),
            |target| head_at(target)?.code,
        );
        let Some(code) = code else {
            // No room: all start over.
            self.forget_translations();
            return None;
        };
        if let Some(head) = self.heads.get_mut(number as usize) {
            head.code = Some(code);
        }
        self.translations += 1;
        let jump = &mut self.jumps[jump_index(cpu.rip())];
        if jump.rip == cpu.rip() && jump.block == number.into() {
            jump.code = code;
        }
        Some(code)
    }

    /// Every block is one without a translation.
    fn forget_translations(&mut self) {
        let Some(translator) = &mut self.translator else {
            return;
        };
        translator.clear();
        for head in &mut self.heads {
            head.runs = 0;
            head.code = None;
        }
        for jump in self.jumps.iter_mut() {
            jump.code = translator.leave();
        }
    }

    /// Runs translated code until it leaves; true if the last instruction raised something.
    #[inline]
    pub fn run(&mut self, cpu: &mut Cpu, Translated(code): Translated) -> bool {
        let Some(translator) = &mut self.translator else {
            return false;
        };
        Context::prepare(cpu, std::ptr::from_ref(&*self.jumps).expose_provenance());
        let exit = translator.run(cpu, code);
        if let Some(request) = translator.requested_link(exit)
            && let Some(code) = self.translation_at(request.target)
            && let Some(translator) = &mut self.translator
        {
            translator.link(request, code);
        }
        exit == Exit::Raised
    }

    #[cold]
    #[inline(never)]
    fn decode_block(
        &mut self,
        cpu: &mut Cpu,
        offset: u64,
        bits: u32,
        key: u64,
    ) -> Result<Block, Raised> {
        let frame = offset & !0xfff;
        cpu.keep_code_of(frame);
        self.make_room();
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
        let number = self.add_head(key, NO_FRAME, start);
        self.by_frame.entry(frame).or_default().push(number);
        if self.ops.len() == start {
            return self.split(cpu, offset, bits, key);
        }
        Ok(Block::Cached(number))
    }

    fn make_room(&mut self) {
        if self.ops.len() + LONGEST_BLOCK > self.capacity || self.heads.len() >= self.capacity {
            self.drop_all();
        }
    }

    /// Adds a block whose instructions begin at `start`; gives its number.
    fn add_head(&mut self, key: u64, second: u64, start: usize) -> u32 {
        let number = self.heads.len() as u32;
        self.heads.push(Head {
            key,
            second,
            start: start as u32,
            length: (self.ops.len() - start) as u32,
            runs: 0,
            code: None,
        });
        self.numbers.insert((key, second), number);
        number
    }

    /// The block of the instruction at RIP and RAM offset `offset`, which spans two pages. Its second page is
    /// looked up now, as a fetch of its first byte.
    #[inline(never)]
    fn split(&mut self, cpu: &mut Cpu, offset: u64, bits: u32, key: u64) -> Result<Block, Raised> {
        let first = (4096 - (offset & 0xfff)) as usize;
        let linear = cpu.fetch_linear(first as u64)?;
        let place = if cpu.mode_64 {
            let fetch_key = cpu.tlb.fetch_key(cpu.privilege());
            let place = self.fetch_place_at(cpu, linear)?;
            if cpu.tlb.fetch_key(cpu.privilege()) != fetch_key {
                let rip = cpu.rip();
                self.remember_page(cpu, rip, offset & !0xfff);
            }
            place
        } else {
            cpu.fetch_place_at(linear)?
        };
        let Some(second) = place else {
            return self.spanning(cpu);
        };
        if let Some(number) = self.numbers.get(&(key, second)) {
            return Ok(Block::Cached(*number));
        }
        cpu.keep_code_of(offset & !0xfff);
        cpu.keep_code_of(second);
        self.make_room();
        let mut bytes = [0; LONGEST];
        let first = first.min(LONGEST);
        cpu.ram.read_bytes(offset, &mut bytes[..first]);
        cpu.ram.read_bytes(second, &mut bytes[first..]);
        let Decoded::Op { op, .. } = decode(&bytes, bits) else {
            // SDM volume 2, 2.3.11: longer than 15 bytes.
            return Err(cpu.general_protection(0));
        };
        let start = self.ops.len();
        self.ops.push(op);
        let number = self.add_head(key, second, start);
        for frame in [offset & !0xfff, second] {
            self.by_frame.entry(frame).or_default().push(number);
        }
        Ok(Block::Cached(number))
    }

    /// Decodes an instruction of which some byte is not in RAM.
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
