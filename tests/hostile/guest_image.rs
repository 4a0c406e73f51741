//! A guest made by hand: a flat multiboot image that goes to 64-bit mode and executes snippets of
//! code one after the other. Whatever exception or interrupt a snippet meets, the next one runs.

/// Where the image is loaded; the multiboot header is at its start.
const BASE: u32 = 0x10_0000;
const START: u32 = BASE + 0x100;
const START_64: u32 = BASE + 0x200;
const HANDLER: u32 = BASE + 0x300;
/// The address at which the handler goes on.
const NEXT: u32 = BASE + 0x400;
const GDT: u32 = BASE + 0x500;
const DESCRIPTORS: u32 = BASE + 0x600;
const TSS: u32 = BASE + 0x700;
const IDT: u32 = BASE + 0x1000;
/// PML4, PDPT, four page directories that map the first 4 GiB to themselves.
pub(crate) const PML4: u32 = BASE + 0x2000;
/// A page of the guest's own for data.
pub(crate) const DATA: u32 = BASE + 0x8000;
const SNIPPETS: u32 = BASE + 0x1_0000;
/// Top of the stack.
const STACK: u32 = 0x8_0000;
/// Top of the stack on which exceptions and interrupts arrive.
pub(crate) const INTERRUPT_STACK: u32 = 0x7_0000;

/// The bytes of a 32-bit immediate.
pub(crate) fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

/// `mov ecx, number; mov eax, low; mov edx, high; wrmsr`.
pub(crate) fn write_msr(number: u32, value: u64) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(word(number));
    code.push(0xb8);
    code.extend(word(value as u32));
    code.push(0xba);
    code.extend(word((value >> 32) as u32));
    code.extend([0x0f, 0x30]);
    code
}

/// `mov ecx, number; rdmsr`.
pub(crate) fn read_msr(number: u32) -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(word(number));
    code.extend([0x0f, 0x32]);
    code
}

/// `mov register, value` for a 64-bit register.
pub(crate) fn load(register: u8, value: u64) -> Vec<u8> {
    let mut code = vec![0x48 | register >> 3, 0xb8 | register & 7];
    code.extend(value.to_le_bytes());
    code
}

/// `mov dword [address], value`, the address in RBX.
pub(crate) fn store(address: u64, value: u32) -> Vec<u8> {
    let mut code = load(3, address);
    code.extend([0xc7, 0x03]);
    code.extend(word(value));
    code
}

/// Goes on with the next snippet, at whose end the guest fails, unless RAX is `wanted`: a guest whose
/// checks all hold ends with success.
pub(crate) fn check_rax(wanted: u32) -> Vec<u8> {
    let mut code = vec![0x48, 0x3d]; // cmp rax, wanted
    code.extend(word(wanted));
    code.extend([0x74, 0x08]); // je over
    code.extend([0xb0, 0x11, 0xe6, 0xf4]); // mov al, 11h; out 0f4h, al
    code.extend([0xfa, 0xf4, 0xeb, 0xfc]); // cli; hlt
    code
}

/// A guest of snippets that ends with success after the last.
#[derive(Default)]
pub(crate) struct GuestImage {
    /// What its page tables map.
    pub(crate) mapping: Mapping,
    /// The snippets' bytes.
    pub(crate) code: Vec<u8>,
}

/// What a guest's page tables map, to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// The first 4 GiB.
    #[default]
    Everything,
    /// The first 32 MiB, all of them RAM: other addresses give page faults.
    Ram,
}

impl GuestImage {
    /// Adds a snippet. A jump that stays inside it is fine; one out of it is a hostile act.
    pub(crate) fn snippet(&mut self, code: &[u8]) -> &mut Self {
        let length = 12 + code.len() as u32;
        let next = SNIPPETS + self.code.len() as u32 + length;
        // mov qword [NEXT], next
        self.code.extend([0x48, 0xc7, 0x04, 0x25]);
        self.code.extend(word(NEXT));
        self.code.extend(word(next));
        self.code.extend(code);
        self
    }

    /// The address behind all but the last `bytes` bytes of the last snippet.
    pub(crate) fn address_before(&self, bytes: usize) -> u32 {
        SNIPPETS + (self.code.len() - bytes) as u32
    }

    /// The image.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut image = vec![0; (SNIPPETS - BASE) as usize];
        let mut put = |address: u32, bytes: &[u8]| {
            let at = (address - BASE) as usize;
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let mut end = self.code.clone();
        end.extend([0xb0, 0x10, 0xe6, 0xf4]); // mov al, 10h; out 0f4h, al
        end.extend([0xfa, 0xf4, 0xeb, 0xfc]); // cli; again: hlt; jmp again
        let image_end = SNIPPETS + end.len() as u32;

        // Multiboot 3.1: magic, flags with address fields, checksum, then the addresses.
        let flags = 1 << 16;
        let magic = 0x1bad_b002_u32;
        let header = [
            magic,
            flags,
            0_u32.wrapping_sub(magic).wrapping_sub(flags),
            BASE,
            BASE,
            image_end,
            image_end,
            START,
        ];
        for (i, value) in (0..).zip(header) {
            put(BASE + i * 4, &word(value));
        }

        let mut start = vec![0xb8]; // mov eax, PML4
        start.extend(word(PML4));
        start.extend([0x0f, 0x22, 0xd8]); // mov cr3, eax
        start.push(0xb8); // mov eax, PAE | OSFXSR | OSXMMEXCPT
        start.extend(word(0x620));
        start.extend([0x0f, 0x22, 0xe0]); // mov cr4, eax
        start.push(0xb9); // mov ecx, IA32_EFER
        start.extend(word(0xc000_0080));
        start.push(0xb8); // mov eax, SCE | LME
        start.extend(word(0x101));
        start.extend([0x31, 0xd2, 0x0f, 0x30]); // xor edx, edx; wrmsr
        start.push(0xb8); // mov eax, PG | NE | ET | MP | PE
        start.extend(word(0x8000_0033));
        start.extend([0x0f, 0x22, 0xc0]); // mov cr0, eax
        start.extend([0x0f, 0x01, 0x15]); // lgdt [DESCRIPTORS]
        start.extend(word(DESCRIPTORS));
        start.extend([0x0f, 0x01, 0x1d]); // lidt [DESCRIPTORS + 16]
        start.extend(word(DESCRIPTORS + 16));
        start.push(0xea); // jmp 8:START_64
        start.extend(word(START_64));
        start.extend([8, 0]);
        put(START, &start);

        let mut start = vec![0xb8, 0x10, 0, 0, 0]; // mov eax, 10h
        for segment in [0xc0, 0xd0, 0xd8] {
            start.extend([0x8e, segment]); // mov es, ss, ds from eax
        }
        start.extend([0xb8, 0x18, 0, 0, 0, 0x0f, 0x00, 0xd8]); // mov eax, 18h; ltr ax
        start.push(0xbc); // mov esp, STACK
        start.extend(word(STACK));
        start.push(0xe9); // jmp SNIPPETS
        let after = START_64 + start.len() as u32 + 4;
        start.extend(word(SNIPPETS.wrapping_sub(after)));
        put(START_64, &start);

        let mut handler = vec![0xbc]; // mov esp, STACK
        handler.extend(word(STACK));
        handler.extend([0xff, 0x24, 0x25]); // jmp [NEXT]
        handler.extend(word(NEXT));
        put(HANDLER, &handler);

        let task = u64::from(TSS);
        let gdt = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x0000_8900_0000_0067 | (task & 0xff_ffff) << 16 | (task >> 24) << 56,
            0,
        ];
        for (i, descriptor) in (0..).zip(gdt) {
            put(GDT + i * 8, &descriptor.to_le_bytes());
        }
        put(DESCRIPTORS, &[39, 0]);
        put(DESCRIPTORS + 2, &word(GDT));
        put(DESCRIPTORS + 16, &[0xff, 0x0f]);
        put(DESCRIPTORS + 18, &word(IDT));
        let handler = u64::from(HANDLER);
        // On an interrupt stack, so that a snippet may leave RSP anywhere.
        let gate = handler & 0xffff | 8 << 16 | 0x8e01 << 32 | (handler >> 16) << 48;
        put(TSS + 0x24, &word(INTERRUPT_STACK));
        for vector in 0..256 {
            put(IDT + vector * 16, &gate.to_le_bytes());
        }
        put(PML4, &word((PML4 + 0x1000) | 7));
        for i in 0..4 {
            put(
                PML4 + 0x1000 + i * 8,
                &word((PML4 + 0x2000 + i * 0x1000) | 7),
            );
        }
        let pages = match self.mapping {
            Mapping::Everything => 2048,
            Mapping::Ram => 16,
        };
        for i in 0..pages {
            put(PML4 + 0x2000 + i * 8, &word(i << 21 | 0x87));
        }
        image.extend(end);
        image
    }
}
