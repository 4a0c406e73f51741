//! Decodes the loads and stores with which guests reach memory-mapped devices: MOV and MOVZX/MOVSX
//! between a register or an immediate and memory (SDM volume 2, MOV, MOVZX, MOVSX). Where the memory
//! is, the VM exit says.

/// How the guest's code segment runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// 16-bit default sizes.
    Bits16,
    /// 32-bit default sizes.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// A general-purpose register as an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The low bytes of register `0`..=`15`.
    Low(u8),
    /// AH, CH, DH or BH: bits 15:8 of register `0`..=`3`.
    High(u8),
}

/// How a loaded value fills the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// As MOV does: 32 bits zero the upper half, 8 and 16 bits leave the rest alone.
    None,
    /// MOVZX to this many bytes.
    Zero(u8),
    /// MOVSX to this many bytes.
    Sign(u8),
}

/// What the instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Memory to register.
    Load {
        /// Which register.
        to: Register,
        /// How it fills it.
        extension: Extension,
    },
    /// Register to memory.
    Store {
        /// Which register.
        from: Register,
    },
    /// An immediate, sign-extended to 64 bits, to memory.
    StoreImmediate(u64),
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInstruction {
    /// Its length in bytes.
    pub length: u8,
    /// Bytes of memory it reads or writes: 1, 2, 4 or 8.
    pub size: u8,
    /// What it does.
    pub operation: Operation,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// A little-endian immediate of `size` bytes (1, 2 or 4), sign-extended.
    fn immediate(&mut self, size: u8) -> Option<u64> {
        let mut value = 0u64;
        for index in 0..u32::from(size) {
            value |= u64::from(self.next()?) << (8 * index);
        }
        let unused = 64 - 8 * u32::from(size);
        Some(((value << unused) as i64 >> unused) as u64)
    }
}

#[derive(Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    rex: Option<u8>,
}

impl Prefixes {
    const fn rex_bit(&self, bit: u8) -> u8 {
        match self.rex {
            Some(rex) => rex >> bit & 1,
            None => 0,
        }
    }

    const fn register(&self, number: u8, size: u8) -> Register {
        if size == 1 && self.rex.is_none() && number >= 4 {
            Register::High(number - 4)
        } else {
            Register::Low(number)
        }
    }
}

/// Decodes the instruction at the start of `bytes`; `None` if it is not one of these.
pub fn decode(bytes: &[u8], code_size: CodeSize) -> Option<MemoryInstruction> {
    let mut cursor = Cursor {
        bytes: bytes.get(..15).unwrap_or(bytes),
        at: 0,
    };
    let mut prefixes = Prefixes::default();
    loop {
        match cursor.peek()? {
            0x66 => prefixes.operand_size = true,
            0x67 => prefixes.address_size = true,
            // Segments: the exit says where the access was. LOCK and REP do not go with MOV.
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            _ => break,
        }
        cursor.at += 1;
    }
    if code_size == CodeSize::Bits64
        && let Some(rex @ 0x40..=0x4f) = cursor.peek()
    {
        prefixes.rex = Some(rex);
        cursor.at += 1;
    }
    let operand = match (code_size, prefixes.operand_size) {
        _ if prefixes.rex_bit(3) == 1 => 8,
        (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => 2,
        (CodeSize::Bits16, true) | (CodeSize::Bits32 | CodeSize::Bits64, false) => 4,
    };
    let opcode = cursor.next()?;
    let (size, operation) = match opcode {
        0x88..=0x8b => {
            let size = if opcode & 1 == 0 { 1 } else { operand };
            let register = prefixes.register(modrm(&mut cursor, code_size, &prefixes)?, size);
            let operation = if opcode < 0x8a {
                Operation::Store { from: register }
            } else {
                Operation::Load {
                    to: register,
                    extension: Extension::None,
                }
            };
            (size, operation)
        }
        0xa0..=0xa3 => {
            let size = if opcode & 1 == 0 { 1 } else { operand };
            cursor.skip(match (code_size, prefixes.address_size) {
                (CodeSize::Bits64, false) => 8,
                (CodeSize::Bits64, true) | (CodeSize::Bits32, false) | (CodeSize::Bits16, true) => {
                    4
                }
                (CodeSize::Bits32, true) | (CodeSize::Bits16, false) => 2,
            })?;
            let operation = if opcode < 0xa2 {
                Operation::Load {
                    to: Register::Low(0),
                    extension: Extension::None,
                }
            } else {
                Operation::Store {
                    from: Register::Low(0),
                }
            };
            (size, operation)
        }
        0xc6 | 0xc7 => {
            let size = if opcode == 0xc6 { 1 } else { operand };
            // Only /0 is MOV.
            if modrm(&mut cursor, code_size, &prefixes)? & 7 != 0 {
                return None;
            }
            let value = cursor.immediate(size.min(4))?;
            (size, Operation::StoreImmediate(value))
        }
        0x0f => {
            let second = cursor.next()?;
            let size = match second {
                0xb6 | 0xbe => 1,
                0xb7 | 0xbf => 2,
                _ => return None,
            };
            let to = Register::Low(modrm(&mut cursor, code_size, &prefixes)?);
            let extension = if second < 0xb8 {
                Extension::Zero(operand)
            } else {
                Extension::Sign(operand)
            };
            (size, Operation::Load { to, extension })
        }
        _ => return None,
    };
    Some(MemoryInstruction {
        length: cursor.at as u8,
        size,
        operation,
    })
}

/// Skips ModRM, SIB and displacement; gives the register field with REX.R. `None` if the operand is
/// not memory.
fn modrm(cursor: &mut Cursor, code_size: CodeSize, prefixes: &Prefixes) -> Option<u8> {
    let byte = cursor.next()?;
    let (mode, register, rm) = (byte >> 6, byte >> 3 & 7, byte & 7);
    if mode == 3 {
        return None;
    }
    let sixteen = match code_size {
        CodeSize::Bits16 => !prefixes.address_size,
        CodeSize::Bits32 => prefixes.address_size,
        CodeSize::Bits64 => false,
    };
    let displacement = if sixteen {
        match (mode, rm) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        }
    } else {
        let base = if rm == 4 { cursor.next()? & 7 } else { rm };
        match (mode, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        }
    };
    cursor.skip(displacement)?;
    Some(register | prefixes.rex_bit(2) << 3)
}

impl MemoryInstruction {
    /// The value that a store writes, cut to its size.
    pub fn stored(&self, registers: &[u64; 16], rsp: u64) -> Option<u64> {
        let value = match self.operation {
            Operation::StoreImmediate(value) => value,
            Operation::Store { from } => match from {
                Register::Low(4) => rsp,
                Register::Low(n) => registers[usize::from(n & 15)],
                Register::High(n) => registers[usize::from(n & 3)] >> 8,
            },
            Operation::Load { .. } => return None,
        };
        Some(value & mask(self.size))
    }

    /// The register's value after a load of `value` into `old`.
    pub fn loaded(&self, old: u64, value: u64) -> u64 {
        let Operation::Load { to, extension } = self.operation else {
            return old;
        };
        let value = value & mask(self.size);
        let (value, size) = match extension {
            Extension::None => (value, self.size),
            Extension::Zero(size) => (value, size),
            Extension::Sign(size) => {
                let unused = 64 - 8 * u32::from(self.size);
                (
                    ((value << unused) as i64 >> unused) as u64 & mask(size),
                    size,
                )
            }
        };
        match (to, size) {
            (Register::High(_), _) => old & !0xff00 | (value & 0xff) << 8,
            // SDM volume 1, 3.4.1.1: 32-bit results are zero-extended.
            (Register::Low(_), 4 | 8) => value,
            (Register::Low(_), _) => old & !mask(size) | value,
        }
    }
}

/// All ones in `size` bytes.
pub const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{Load, Store, StoreImmediate};

    const fn load(to: Register) -> Operation {
        Load {
            to,
            extension: Extension::None,
        }
    }

    #[test]
    fn forms_decode_to_length_size_and_operation() {
        use CodeSize::{Bits16, Bits32, Bits64};
        let low = Register::Low;
        for (bytes, code_size, length, size, operation) in [
            // mov [rax+0x300], ecx
            (
                &[0x89, 0x88, 0, 3, 0, 0][..],
                Bits64,
                6,
                4,
                Store { from: low(1) },
            ),
            // mov dword [rax], 0xfffffff1
            (
                &[0xc7, 0x00, 0xf1, 0xff, 0xff, 0xff],
                Bits64,
                6,
                4,
                StoreImmediate(0xffff_ffff_ffff_fff1),
            ),
            // mov r9d, [rbx+rcx*4+8]
            (&[0x44, 0x8b, 0x4c, 0x8b, 8], Bits64, 5, 4, load(low(9))),
            // mov rax, [rip+0x10]
            (
                &[0x48, 0x8b, 0x05, 0x10, 0, 0, 0],
                Bits64,
                7,
                8,
                load(low(0)),
            ),
            // mov eax, [0xfee00020] (absolute through SIB)
            (
                &[0x8b, 0x04, 0x25, 0x20, 0, 0xe0, 0xfe],
                Bits64,
                7,
                4,
                load(low(0)),
            ),
            // mov eax, [moffs32]
            (&[0xa1, 0x20, 0, 0xe0, 0xfe], Bits32, 5, 4, load(low(0))),
            // mov [moffs64], al
            (
                &[0xa2, 1, 2, 3, 4, 5, 6, 7, 8],
                Bits64,
                9,
                1,
                Store { from: low(0) },
            ),
            // mov ah, [ebx]; mov spl, [rbx]
            (&[0x8a, 0x23], Bits32, 2, 1, load(Register::High(0))),
            (&[0x40, 0x8a, 0x23], Bits64, 3, 1, load(low(4))),
            // mov [bp+si+4], ax
            (&[0x89, 0x42, 4], Bits16, 3, 2, Store { from: low(0) }),
            // o32 mov [0x1234], eax
            (
                &[0x66, 0x89, 0x06, 0x34, 0x12],
                Bits16,
                5,
                4,
                Store { from: low(0) },
            ),
            // gs mov word [rdi], 5
            (
                &[0x65, 0x66, 0xc7, 0x07, 5, 0],
                Bits64,
                6,
                2,
                StoreImmediate(5),
            ),
            (
                &[0x0f, 0xb6, 0x02],
                Bits64,
                3,
                1,
                Load {
                    to: low(0),
                    extension: Extension::Zero(4),
                },
            ),
            (
                &[0x48, 0x0f, 0xbf, 0x02],
                Bits64,
                4,
                2,
                Load {
                    to: low(0),
                    extension: Extension::Sign(8),
                },
            ),
        ] {
            assert_eq!(
                decode(bytes, code_size),
                Some(MemoryInstruction {
                    length,
                    size,
                    operation
                }),
                "{bytes:x?}"
            );
            assert_eq!(
                decode(&bytes[..bytes.len() - 1], code_size),
                None,
                "cut: {bytes:x?}"
            );
        }
    }

    #[test]
    fn other_instructions_do_not() {
        for bytes in [
            &[0x89, 0xc8][..],         // mov eax, ecx
            &[0xc7, 0x08, 0, 0, 0, 0], // c7 /1
            &[0x01, 0x08],             // add [eax], ecx
            &[0x0f, 0xa2],             // cpuid
            &[0xf0, 0x89, 0x08],       // lock mov
            &[],
            &[0x66; 20],
        ] {
            assert_eq!(decode(bytes, CodeSize::Bits32), None, "{bytes:x?}");
        }
    }

    #[test]
    fn loads_fill_registers_as_the_instruction_says() {
        let old = 0x1111_2222_3333_4444;
        let loaded =
            |bytes: &[u8], value| decode(bytes, CodeSize::Bits64).unwrap().loaded(old, value);
        assert_eq!(loaded(&[0x8b, 0x03], 0xffff_ffff_8000_0001), 0x8000_0001);
        assert_eq!(loaded(&[0x66, 0x8b, 0x03], 0xabcd), 0x1111_2222_3333_abcd);
        assert_eq!(loaded(&[0x8a, 0x03], 0xee), 0x1111_2222_3333_44ee);
        assert_eq!(loaded(&[0x8a, 0x23], 0xee), 0x1111_2222_3333_ee44);
        assert_eq!(loaded(&[0x0f, 0xbe, 0x03], 0x80), 0xffff_ff80);
        assert_eq!(
            loaded(&[0x48, 0x0f, 0xbe, 0x03], 0x80),
            0xffff_ffff_ffff_ff80
        );
    }

    #[test]
    fn stores_take_their_bytes_from_the_register() {
        let mut registers = [0; 16];
        registers[1] = 0x1234_5678_9abc_def0;
        let stored = |bytes: &[u8]| {
            decode(bytes, CodeSize::Bits64)
                .unwrap()
                .stored(&registers, 0x77)
        };
        assert_eq!(stored(&[0x89, 0x0b]), Some(0x9abc_def0));
        assert_eq!(stored(&[0x88, 0x2b]), Some(0xde));
        assert_eq!(stored(&[0x48, 0x89, 0x23]), Some(0x77));
        assert_eq!(stored(&[0xc6, 0x03, 0xff]), Some(0xff));
        assert_eq!(stored(&[0x8b, 0x0b]), None);
    }
}
