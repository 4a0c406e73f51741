//! Writing x86-64 instructions (SDM volume 2, chapter 2 Instruction format).

/// Numbers of the host's general registers.
#[allow(missing_docs, reason = "the names say all")]
pub(super) mod register {
    pub(in super::super) const RAX: u8 = 0;
    pub(in super::super) const RCX: u8 = 1;
    pub(in super::super) const RDX: u8 = 2;
    pub(in super::super) const RBX: u8 = 3;
    pub(in super::super) const RSP: u8 = 4;
    pub(in super::super) const RBP: u8 = 5;
    pub(in super::super) const RSI: u8 = 6;
    pub(in super::super) const RDI: u8 = 7;
    pub(in super::super) const R8: u8 = 8;
    pub(in super::super) const R9: u8 = 9;
    pub(in super::super) const R10: u8 = 10;
    pub(in super::super) const R11: u8 = 11;
    pub(in super::super) const R12: u8 = 12;
    pub(in super::super) const R13: u8 = 13;
    pub(in super::super) const R14: u8 = 14;
    pub(in super::super) const R15: u8 = 15;
}

/// Width of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Width {
    Byte,
    Word,
    Double,
    Quad,
}

impl Width {
    pub(super) fn bytes(self) -> u8 {
        1 << self as u8
    }

    pub(super) fn bits(self) -> u32 {
        8 << self as u8
    }
}

/// A memory operand of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) base: Option<u8>,
    /// Register and scale as a shift count; the register is not RSP.
    pub(super) index: Option<(u8, u8)>,
    pub(super) displacement: i32,
}

impl Memory {
    pub(super) fn at(base: u8, displacement: i32) -> Self {
        Self {
            base: Some(base),
            index: None,
            displacement,
        }
    }
}

/// A register or memory operand of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Register(u8),
    Memory(Memory),
}

impl From<u8> for Place {
    fn from(register: u8) -> Self {
        Self::Register(register)
    }
}

impl From<Memory> for Place {
    fn from(memory: Memory) -> Self {
        Self::Memory(memory)
    }
}

/// Operations of opcodes 00 to 3F and of group 1, by their number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Or,
    AddCarry,
    SubtractBorrow,
    And,
    Subtract,
    Xor,
    Compare,
}

/// A 32-bit distance that is not known yet: the position after it.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Fixup(usize);

/// Instructions as they are written. Positions are those in the whole code buffer.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
    /// Position of the first byte.
    origin: usize,
}

impl Assembler {
    /// Starts over, for code that will lie at `origin`.
    pub(super) fn start(&mut self, origin: usize) {
        self.bytes.clear();
        self.origin = origin;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn position(&self) -> usize {
        self.origin + self.bytes.len()
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn word_32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// An instruction with a ModRM byte: `register` is its reg field, a register or an extension of
    /// the opcode. `bytes` says that an operand is a byte register, for which SPL to DIL need REX.
    fn modrm(&mut self, width: Width, opcode: &[u8], register: u8, place: Place, bytes: bool) {
        if width == Width::Word {
            self.byte(0x66);
        }
        let mut rex = 0x40 | (register & 8) >> 1;
        if width == Width::Quad {
            rex |= 8;
        }
        let mut needed = bytes && (4..8).contains(&register);
        match place {
            Place::Register(other) => {
                rex |= other >> 3;
                needed |= bytes && (4..8).contains(&other);
            }
            Place::Memory(memory) => {
                rex |= memory.base.unwrap_or(0) >> 3;
                rex |= memory.index.map_or(0, |(index, _)| index >> 3 << 1);
            }
        }
        if rex != 0x40 || needed {
            self.byte(rex);
        }
        self.raw(opcode);
        let field = (register & 7) << 3;
        match place {
            Place::Register(other) => self.byte(0xc0 | field | other & 7),
            Place::Memory(memory) => self.memory(field, memory),
        }
    }

    fn memory(&mut self, field: u8, memory: Memory) {
        let Memory {
            base,
            index,
            displacement,
        } = memory;
        let Some(base) = base else {
            // SIB without base: always a 32-bit displacement.
            let sib = index.map_or(4 << 3, |(index, scale)| scale << 6 | (index & 7) << 3);
            self.raw(&[field | 4, sib | 5]);
            return self.word_32(displacement as u32);
        };
        let short = i8::try_from(displacement);
        let mode = match short {
            // RBP and R13 as base have no form without displacement.
            Ok(0) if base & 7 != 5 => 0,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        match index {
            None if base & 7 != 4 => self.byte(mode | field | base & 7),
            None => self.raw(&[mode | field | 4, 4 << 3 | base & 7]),
            Some((index, scale)) => {
                self.raw(&[mode | field | 4, scale << 6 | (index & 7) << 3 | base & 7])
            }
        }
        match (mode, short) {
            (0, _) => {}
            (_, Ok(short)) => self.byte(short as u8),
            (_, Err(_)) => self.word_32(displacement as u32),
        }
    }

    /// An instruction whose opcode is even for bytes and odd for the other widths.
    fn sized(&mut self, width: Width, opcode: u8, register: u8, place: Place) {
        let byte = width == Width::Byte;
        self.modrm(width, &[opcode | u8::from(!byte)], register, place, byte);
    }

    /// An instruction of the two-byte map on XMM registers.
    pub(super) fn vector(&mut self, prefix: Option<u8>, opcode: u8, register: u8, place: Place) {
        if let Some(prefix) = prefix {
            self.byte(prefix);
        }
        self.modrm(Width::Double, &[0x0f, opcode], register, place, false);
    }

    /// BSWAP.
    pub(super) fn swap_bytes(&mut self, width: Width, register: u8) {
        self.raw(&[
            0x40 | u8::from(width == Width::Quad) << 3 | register >> 3,
            0x0f,
            0xc8 | register & 7,
        ]);
    }

    /// An instruction of the two-byte map, of a width other than bytes.
    pub(super) fn extended(&mut self, width: Width, opcode: u8, register: u8, place: Place) {
        self.modrm(width, &[0x0f, opcode], register, place, false);
    }

    fn immediate(&mut self, width: Width, value: i32) {
        match width {
            Width::Byte => self.byte(value as u8),
            Width::Word => self.raw(&(value as u16).to_le_bytes()),
            Width::Double | Width::Quad => self.word_32(value as u32),
        }
    }

    /// MOV to a register.
    pub(super) fn load(&mut self, width: Width, register: u8, from: impl Into<Place>) {
        self.sized(width, 0x8a, register, from.into());
    }

    /// MOV from a register.
    pub(super) fn store(&mut self, width: Width, to: impl Into<Place>, register: u8) {
        self.sized(width, 0x88, register, to.into());
    }

    /// MOV of an immediate, sign-extended to 64 bits.
    pub(super) fn store_immediate(&mut self, width: Width, to: impl Into<Place>, value: i32) {
        self.sized(width, 0xc6, 0, to.into());
        self.immediate(width, value);
    }

    /// Puts any value into a register, flags untouched.
    pub(super) fn constant(&mut self, register: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if register & 8 != 0 {
                self.byte(0x41);
            }
            self.byte(0xb8 | register & 7);
            self.word_32(value);
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.store_immediate(Width::Quad, register, value);
        } else {
            self.raw(&[0x48 | register >> 3, 0xb8 | register & 7]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// LEA.
    pub(super) fn address(&mut self, width: Width, register: u8, memory: Memory) {
        self.modrm(width, &[0x8d], register, memory.into(), false);
    }

    /// LEA of a position in the code buffer.
    pub(super) fn address_of(&mut self, register: u8, position: usize) {
        self.raw(&[0x48 | (register & 8) >> 1, 0x8d, 5 | (register & 7) << 3]);
        let distance = position.wrapping_sub(self.position() + 4);
        self.word_32(distance as u32);
    }

    /// MOVZX, or MOV for 32 bits.
    pub(super) fn zero_extend(&mut self, from: Width, register: u8, place: impl Into<Place>) {
        let place = place.into();
        match from {
            Width::Byte => self.modrm(Width::Double, &[0x0f, 0xb6], register, place, true),
            Width::Word => self.modrm(Width::Double, &[0x0f, 0xb7], register, place, false),
            Width::Double | Width::Quad => self.load(from, register, place),
        }
    }

    /// MOVSX and MOVSXD to `width`.
    pub(super) fn sign_extend(
        &mut self,
        width: Width,
        from: Width,
        register: u8,
        place: impl Into<Place>,
    ) {
        let place = place.into();
        match from {
            Width::Byte => self.modrm(width, &[0x0f, 0xbe], register, place, true),
            Width::Word => self.modrm(width, &[0x0f, 0xbf], register, place, false),
            Width::Double | Width::Quad => self.modrm(width, &[0x63], register, place, false),
        }
    }

    /// An operation whose target is a register.
    pub(super) fn arithmetic(
        &mut self,
        operation: Arithmetic,
        width: Width,
        register: u8,
        from: impl Into<Place>,
    ) {
        self.sized(width, (operation as u8) << 3 | 2, register, from.into());
    }

    /// An operation whose target is a place and whose source a register.
    pub(super) fn arithmetic_to(
        &mut self,
        operation: Arithmetic,
        width: Width,
        to: impl Into<Place>,
        register: u8,
    ) {
        self.sized(width, (operation as u8) << 3, register, to.into());
    }

    /// An operation with a sign-extended immediate.
    pub(super) fn arithmetic_immediate(
        &mut self,
        operation: Arithmetic,
        width: Width,
        to: impl Into<Place>,
        value: i32,
    ) {
        let to = to.into();
        match i8::try_from(value) {
            Ok(short) if width != Width::Byte => {
                self.modrm(width, &[0x83], operation as u8, to, false);
                self.byte(short as u8);
            }
            _ => {
                self.sized(width, 0x80, operation as u8, to);
                self.immediate(width, value);
            }
        }
    }

    /// TEST with a register.
    pub(super) fn test(&mut self, width: Width, place: impl Into<Place>, register: u8) {
        self.sized(width, 0x84, register, place.into());
    }

    /// TEST with an immediate.
    pub(super) fn test_immediate(&mut self, width: Width, place: impl Into<Place>, value: i32) {
        self.sized(width, 0xf6, 0, place.into());
        self.immediate(width, value);
    }

    /// NOT (2), NEG (3), MUL (4), IMUL (5): group 3.
    pub(super) fn group_3(&mut self, width: Width, extension: u8, place: impl Into<Place>) {
        self.sized(width, 0xf6, extension, place.into());
    }

    /// INC (0) and DEC (1).
    pub(super) fn group_4(&mut self, width: Width, extension: u8, place: impl Into<Place>) {
        self.sized(width, 0xfe, extension, place.into());
    }

    /// A shift or rotation by an immediate: group 2.
    pub(super) fn shift(
        &mut self,
        width: Width,
        extension: u8,
        place: impl Into<Place>,
        count: u8,
    ) {
        self.sized(width, 0xc0, extension, place.into());
        self.byte(count);
    }

    /// A shift or rotation by CL.
    pub(super) fn shift_by_cl(&mut self, width: Width, extension: u8, place: impl Into<Place>) {
        self.sized(width, 0xd2, extension, place.into());
    }

    /// SETcc of a byte.
    pub(super) fn set_condition(&mut self, condition: u8, place: impl Into<Place>) {
        let opcode = [0x0f, 0x90 | condition];
        self.modrm(Width::Byte, &opcode, 0, place.into(), true);
    }

    /// CMOVcc.
    pub(super) fn move_if(&mut self, condition: u8, width: Width, register: u8, from: Place) {
        self.extended(width, 0x40 | condition, register, from);
    }

    /// BT (4), BTS (5), BTR (6) or BTC (7) of bit `number` of a word.
    pub(super) fn change_bit(
        &mut self,
        extension: u8,
        width: Width,
        place: impl Into<Place>,
        number: u8,
    ) {
        self.extended(width, 0xba, extension, place.into());
        self.byte(number);
    }

    /// A LOCK prefix, before the instruction that is written next.
    pub(super) fn lock(&mut self) {
        self.byte(0xf0);
    }

    /// XCHG of memory and a register.
    pub(super) fn exchange(&mut self, width: Width, place: Memory, register: u8) {
        self.sized(width, 0x86, register, place.into());
    }

    /// XADD (C0) and CMPXCHG (B0), which take the even opcode for bytes.
    pub(super) fn exchange_with(
        &mut self,
        width: Width,
        opcode: u8,
        place: impl Into<Place>,
        register: u8,
    ) {
        let byte = width == Width::Byte;
        let opcode = [0x0f, opcode | u8::from(!byte)];
        self.modrm(width, &opcode, register, place.into(), byte);
    }

    /// IMUL of a register by a place and an immediate.
    pub(super) fn multiply_immediate(
        &mut self,
        width: Width,
        register: u8,
        from: impl Into<Place>,
        value: i32,
    ) {
        self.modrm(width, &[0x69], register, from.into(), false);
        self.immediate(width, value);
    }

    /// PUSH of a register.
    pub(super) fn push(&mut self, register: u8) {
        if register & 8 != 0 {
            self.byte(0x41);
        }
        self.byte(0x50 | register & 7);
    }

    /// POP of a register.
    pub(super) fn pop(&mut self, register: u8) {
        if register & 8 != 0 {
            self.byte(0x41);
        }
        self.byte(0x58 | register & 7);
    }

    /// Jcc to somewhere yet unknown.
    pub(super) fn jump_if(&mut self, condition: u8) -> Fixup {
        self.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Fixup(self.position())
    }

    /// JMP to somewhere yet unknown.
    pub(super) fn jump(&mut self) -> Fixup {
        self.raw(&[0xe9, 0, 0, 0, 0]);
        Fixup(self.position())
    }

    /// JMP to a register or what a place holds.
    pub(super) fn jump_to(&mut self, place: impl Into<Place>) {
        self.modrm(Width::Double, &[0xff], 4, place.into(), false);
    }

    /// CALL of a position.
    pub(super) fn call(&mut self, position: usize) {
        self.raw(&[0xe8, 0, 0, 0, 0]);
        let fixup = Fixup(self.position());
        self.bind(fixup, position);
    }

    /// CALL of what a register holds.
    pub(super) fn call_register(&mut self, register: u8) {
        self.modrm(Width::Double, &[0xff], 2, register.into(), false);
    }

    /// Lets a jump lead to `position`.
    pub(super) fn bind(&mut self, fixup: Fixup, position: usize) {
        let distance = position.wrapping_sub(fixup.0) as u32;
        let end = fixup.0 - self.origin;
        if let Some(place) = self.bytes.get_mut(end - 4..end) {
            place.copy_from_slice(&distance.to_le_bytes());
        }
    }

    /// Lets a jump lead to what is written next.
    pub(super) fn bind_here(&mut self, fixup: Fixup) {
        self.bind(fixup, self.position());
    }
}

impl Fixup {
    /// Where the distance lies.
    pub(super) fn place(self) -> usize {
        self.0 - 4
    }
}
