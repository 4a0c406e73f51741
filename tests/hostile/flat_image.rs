//! A flat multiboot image made of pieces: it starts in 32-bit protected mode without paging, with no
//! descriptor table of its own.

/// Where the image is loaded; the multiboot header is at its start.
pub(crate) const BASE: u32 = 0x10_0000;
/// Where it starts.
const START: u32 = BASE + 0x100;
/// Where the code of [`FlatImage::protected`] begins.
pub(crate) const CODE: u32 = START + 0x40;
const GDT: u32 = BASE + 0x2000;
const DESCRIPTORS: u32 = BASE + 0x2100;
const TSS: u32 = BASE + 0x2200;
const IDT: u32 = BASE + 0x3000;
const HANDLERS: u32 = BASE + 0x4000;
/// Where a program puts its page tables and whatever else it has.
pub(crate) const TABLES: u32 = BASE + 0x8000;
/// Top of the stack of privilege level 0.
const STACK: u32 = 0x9_0000;
/// Top of the stack of privilege level 3.
const USER_STACK: u32 = 0x8_0000;

/// Selectors of [`FlatImage::protected`].
pub(crate) mod selector {
    pub(crate) const CODE: u16 = 0x08;
    pub(crate) const DATA: u16 = 0x10;
    pub(crate) const USER_CODE: u16 = 0x23;
    pub(crate) const USER_DATA: u16 = 0x2b;
    pub(crate) const TSS_32: u16 = 0x30;
    pub(crate) const TSS_16: u16 = 0x38;
    /// 16-bit code of 64 KiB at 2 MiB.
    pub(crate) const CODE_16: u16 = 0x40;
}

/// Ends with failure: mov al, 11h; out 0f4h, al; cli; hlt.
pub(crate) const FAIL: [u8; 6] = [0xb0, 0x11, 0xe6, 0xf4, 0xfa, 0xf4];
/// Ends with success: mov al, 10h; out 0f4h, al; cli; hlt.
pub(crate) const SUCCEED: [u8; 6] = [0xb0, 0x10, 0xe6, 0xf4, 0xfa, 0xf4];

/// The bytes of a 32-bit immediate.
fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

/// `mov eax, value; mov crN, eax` in 32-bit code.
pub(crate) fn load_control_register(number: u8, value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(word(value));
    code.extend([0x0f, 0x22, 0xc0 | number << 3]);
    code
}

/// `mov dword [address], value` in 32-bit code.
pub(crate) fn store_32(address: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xc7, 0x05];
    code.extend(word(address));
    code.extend(word(value));
    code
}

/// Code that goes on at privilege level 3 at `address`, with its own stack and IOPL 3.
pub(crate) fn drop_privilege(address: u32) -> Vec<u8> {
    let mut code = Vec::new();
    for value in [
        selector::USER_DATA.into(),
        USER_STACK,
        0x3002,
        selector::USER_CODE.into(),
        address,
    ] {
        code.push(0x68); // push value
        code.extend(word(value));
    }
    code.push(0xcf); // iret
    code
}

/// An interrupt gate of 32 bits to `address`.
fn gate(address: u32) -> u64 {
    let address = u64::from(address);
    address & 0xffff | u64::from(selector::CODE) << 16 | 0x8e00 << 32 | (address >> 16) << 48
}

/// An image under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct FlatImage {
    bytes: Vec<u8>,
}

impl FlatImage {
    /// An image that begins with `start`.
    pub(crate) fn new(start: &[u8]) -> Self {
        Self::default().put(START, start)
    }

    /// An image whose `code` runs at privilege level 0 of 32-bit protected mode, with flat segments, a
    /// stack, a 32-bit TSS in TR, and a handler of every exception that fails.
    pub(crate) fn protected(code: &[u8]) -> Self {
        let mut start = vec![0x0f, 0x01, 0x15]; // lgdt [DESCRIPTORS]
        start.extend(word(DESCRIPTORS));
        start.extend([0x0f, 0x01, 0x1d]); // lidt [DESCRIPTORS + 8]
        start.extend(word(DESCRIPTORS + 8));
        start.push(0xea); // jmp CODE:next
        start.extend(word(START + start.len() as u32 + 6));
        start.extend(selector::CODE.to_le_bytes());
        start.extend([0x66, 0xb8]); // mov ax, DATA
        start.extend(selector::DATA.to_le_bytes());
        start.extend([0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]); // mov ds, es, ss from ax
        start.push(0xbc); // mov esp, STACK
        start.extend(word(STACK));
        start.extend([0x66, 0xb8]); // mov ax, TSS_32
        start.extend(selector::TSS_32.to_le_bytes());
        start.extend([0x0f, 0x00, 0xd8]); // ltr ax
        start.resize((CODE - START) as usize, 0x90);
        start.extend(code);
        let task = u64::from(TSS);
        let task = (task & 0xff_ffff) << 16 | (task >> 24) << 56;
        Self::new(&start)
            .put_entries(
                GDT,
                &[
                    0,
                    0x00cf_9b00_0000_ffff,
                    0x00cf_9300_0000_ffff,
                    0x00af_9b00_0000_ffff,
                    0x00cf_fb00_0000_ffff,
                    0x00cf_f300_0000_ffff,
                    0x0000_8900_0000_0067 | task,
                    0x0000_8100_0000_002b | task,
                    0x0000_9b20_0000_ffff,
                ],
            )
            .put_words(DESCRIPTORS, &[0x47 | GDT << 16, GDT >> 16])
            .put_words(DESCRIPTORS + 8, &[0x7ff | IDT << 16, IDT >> 16])
            .put_words(TSS + 4, &[STACK, selector::DATA.into()])
            .put_entries(IDT, &[gate(HANDLERS); 256])
            .put(HANDLERS, &FAIL)
    }

    /// Where the descriptor of a selector is.
    pub(crate) const fn descriptor(selector: u16) -> u32 {
        GDT + (selector & !7) as u32
    }

    /// With a handler of exception `vector` that succeeds.
    pub(crate) fn expecting(self, vector: u8) -> Self {
        self.handling(vector, &SUCCEED)
    }

    /// With `code` as the handler of exception `vector`.
    pub(crate) fn handling(self, vector: u8, code: &[u8]) -> Self {
        let handler = HANDLERS + 0x100;
        self.put_entries(IDT + u32::from(vector) * 8, &[gate(handler)])
            .put(handler, code)
    }

    /// With an IDT whose gates may be used and handled at privilege level 3: every exception goes to
    /// `handler` there.
    pub(crate) fn handling_as_user(self, handler: u32) -> Self {
        let user = u64::from(selector::USER_CODE);
        let gate = gate(handler) & !(0xffff << 16 | 0xff00 << 32) | user << 16 | 0xee00 << 32;
        self.put_entries(IDT, &[gate; 256])
    }

    /// With `bytes` at `address`, a physical address not below [`BASE`].
    pub(crate) fn put(mut self, address: u32, bytes: &[u8]) -> Self {
        let at = (address - BASE) as usize;
        let end = at + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self
    }

    /// With 64-bit values at `address`: descriptors, or entries of a page table.
    pub(crate) fn put_entries(self, address: u32, entries: &[u64]) -> Self {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        self.put(address, &bytes)
    }

    /// With 32-bit values at `address`.
    pub(crate) fn put_words(self, address: u32, words: &[u32]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.put(address, &bytes)
    }

    /// The image.
    pub(crate) fn build(self) -> Vec<u8> {
        let end = BASE + self.bytes.len() as u32;
        // Multiboot 3.1: magic, flags with address fields, checksum, then the addresses.
        let (magic, flags) = (0x1bad_b002_u32, 1 << 16);
        let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
        self.put_words(BASE, &[magic, flags, checksum, BASE, BASE, end, end, START])
            .bytes
    }
}
