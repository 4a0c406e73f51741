//! Translation of hot blocks of 64-bit code to the host's own instructions, on x86-64 hosts.
//!
//! What a block does is defined by the interpreter ([`Processor`](super::Processor)); translated code
//! does the same, instruction count for instruction count. It does by itself what needs nobody else:
//! arithmetic, moves, accesses to RAM whose translation is cached, branches. Everything else, and
//! whatever may fault, it leaves to the interpreter's function for that instruction.
//!
//! Ten guest registers live in host registers from block to block ([`state`]); so does the number of
//! instructions that remain until the processor has to look at something. Flags are stored only where
//! somebody may look at them ([`liveness`]). At the head of each block the emitted code looks at what
//! the interpreter's loop looks at between blocks, and leaves if something is due. It leaves as well
//! if fewer instructions remain than the block has: the interpreter executes those.

mod arithmetic;
mod assembler;
mod block;
mod branch;
mod classify;
mod context;
mod data;
mod flags;
mod host;
mod liveness;
mod memory;
mod shift;
mod stack;
mod state;
mod stubs;
mod vector;

pub(super) use context::Context;
pub(super) use host::{Code, Exit};

use assembler::Assembler;
use host::CodeBuffer;

use super::op::Op;

/// A jump from one translated block to another of the same page: its distance, once the other is
/// translated.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Where the distance lies.
    place: usize,
    /// RAM offset of the other block.
    target: u64,
}

/// The code that a processor's blocks were translated to.
pub(super) struct Translator {
    buffer: CodeBuffer,
    assembler: Assembler,
    stubs: stubs::Stubs,
    links: Vec<Link>,
}

/// Code that ran asks for a link to the block at a RAM offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkRequest {
    place: usize,
    /// RAM offset of the block.
    pub(super) target: u64,
}

impl Translator {
    /// A translator with room for so many bytes of code, if the host lets us have one.
    pub(super) fn new(code_size: usize) -> Option<Self> {
        if !host::is_suitable() {
            return None;
        }
        let mut buffer = CodeBuffer::new(code_size)?;
        let mut assembler = Assembler::default();
        assembler.start(buffer.position());
        let stubs = stubs::write(&mut assembler);
        buffer.append(assembler.bytes())?;
        buffer.keep_what_is_there();
        Some(Self {
            buffer,
            assembler,
            stubs,
            links: Vec::new(),
        })
    }

    /// Forgets all translations. None may be entered any more.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.links.clear();
    }

    /// Translates the block at RAM offset `offset`; `None` if there is no room. `is_split` says whether the
    /// instruction at a RAM offset of the same page spans two pages, `translated` what other blocks were
    /// translated to, by RAM offset.
    pub(super) fn translate(
        &mut self,
        ops: &[Op],
        offset: u64,
        is_split: impl Fn(u64) -> bool,
        translated: impl Fn(u64) -> Option<Code>,
    ) -> Option<Code> {
        self.assembler.start(self.buffer.position());
        let entry =
            block::Translation::new(&mut self.assembler, &self.stubs, &mut self.links, &is_split)
                .translate(ops, offset, &|target| {
                    translated(target).map(|code| self.buffer.position_of(code))
                });
        self.buffer.append(self.assembler.bytes())?;
        Some(self.buffer.code(entry))
    }

    /// Code that gives control back at once: what stands for a block without translation.
    pub(super) fn leave(&self) -> Code {
        self.buffer.code(self.stubs.leave)
    }

    /// The link that was asked for, if `exit` asks for one.
    pub(super) fn requested_link(&self, exit: Exit) -> Option<LinkRequest> {
        let Exit::Link(number) = exit else {
            return None;
        };
        let link = self.links.get(number as usize)?;
        Some(LinkRequest {
            place: link.place,
            target: link.target,
        })
    }

    /// Makes the jump that asked lead to `code`.
    pub(super) fn link(&mut self, request: LinkRequest, code: Code) {
        let distance = self
            .buffer
            .position_of(code)
            .wrapping_sub(request.place + 4);
        self.buffer.patch(request.place, distance as u32);
    }

    /// Runs translated code until it leaves. The caller has just looked at what is looked at between
    /// blocks, and what it found may stay due until one block has been executed.
    pub(super) fn run(&self, cpu: &mut super::Cpu, code: Code) -> Exit {
        self.buffer.enter(cpu, code, self.stubs.head)
    }
}
