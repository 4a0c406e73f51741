//! Guests that a VM entry would refuse if the hypervisor did not keep their state legal: each gets what
//! a processor without a hypervisor gives, and ends by its own doing.

use crate::flat_image::{
    FAIL, FlatImage, SUCCEED, TABLES, drop_privilege, load_control_register, selector, store_32,
};
use crate::flat_run::succeeds;

const DEBUG: u8 = 1;
const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

/// CR0 with paging. Setting CD as well makes the write exit whatever NE was.
const PAGING: u32 = 0x8000_0031;
const CACHE_DISABLE: u32 = 1 << 30;
/// CR4.PAE.
const PAE: u32 = 1 << 5;

/// Code that jumps to `address`.
fn jump(address: u32) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax, address
    code.extend(address.to_le_bytes());
    code.extend([0xff, 0xe0]); // jmp eax
    code
}

/// CPUID in the last two bytes of the 32-bit address space goes on at address 0, at both privilege
/// levels.
#[test]
fn an_instruction_pointer_of_32_bits_wraps() {
    const LAST: u32 = 0xffff_fffc;
    // The last 4 MiB of linear memory are those at 4 MiB.
    let mut directory = [0_u32; 1024];
    directory[0] = 0x87;
    directory[1023] = 0x40_0087;
    for to_last in [jump(LAST), drop_privilege(LAST)] {
        let mut code = store_32(0x7f_fffc, 0xa20f_9090); // nop; nop; cpuid
        code.extend(store_32(0, u32::from_le_bytes([0xb0, 0x10, 0xe6, 0xf4])));
        code.extend(load_control_register(3, TABLES));
        code.extend(load_control_register(4, 1 << 4)); // PSE
        code.extend(load_control_register(0, PAGING));
        code.extend(to_last);
        succeeds(FlatImage::protected(&code).put_words(TABLES, &directory));
    }
}

/// In 16-bit code nothing wraps: CPUID in the last two bytes of a segment of 64 KiB leaves the limit.
#[test]
fn an_instruction_pointer_of_16_bits_leaves_its_segment() {
    let mut code = store_32(0x20_fffc, 0xa20f_9090); // nop; nop; cpuid
    code.push(0xea); // jmp CODE_16:fffch
    code.extend(0xfffc_u32.to_le_bytes());
    code.extend(selector::CODE_16.to_le_bytes());
    succeeds(FlatImage::protected(&code).expecting(GENERAL_PROTECTION));
}

/// Code that writes IA32_EFER.LME.
fn enable_long_mode() -> Vec<u8> {
    // mov ecx, IA32_EFER; mov eax, LME; xor edx, edx; wrmsr
    vec![
        0xb9, 0x80, 0, 0, 0xc0, 0xb8, 0, 1, 0, 0, 0x31, 0xd2, 0x0f, 0x30,
    ]
}

/// IA-32e mode does not begin with a 16-bit TSS, whether the write of CR0 exits or not.
#[test]
fn ia32e_mode_does_not_begin_with_a_16_bit_task() {
    for (task, fault) in [
        (selector::TSS_16, Some(GENERAL_PROTECTION)),
        (selector::TSS_32, None),
    ] {
        let mut code = store_32(FlatImage::descriptor(selector::TSS_32) + 4, 0x0000_8910);
        code.extend([0x66, 0xb8]); // mov ax, task
        code.extend(task.to_le_bytes());
        code.extend([0x0f, 0x00, 0xd8]); // ltr ax
        code.extend(load_control_register(3, TABLES));
        code.extend(load_control_register(4, PAE));
        code.extend(enable_long_mode());
        code.extend(load_control_register(0, PAGING | CACHE_DISABLE));
        let image = |code: &[u8]| {
            FlatImage::protected(code)
                .put_entries(TABLES, &[u64::from(TABLES) + 0x1007])
                .put_entries(TABLES + 0x1000, &[0x87])
        };
        match fault {
            Some(vector) => {
                code.extend(FAIL);
                succeeds(image(&code).expecting(vector));
            }
            None => {
                code.extend(SUCCEED);
                succeeds(image(&code));
            }
        }
    }
}

/// A table of page-directory pointers, the second of which is `entry`; the directory maps 2 MiB at the
/// first.
fn with_pointers(image: FlatImage, entry: u64) -> FlatImage {
    let directory = u64::from(TABLES) + 0x1000;
    image
        .put_entries(TABLES, &[directory | 1, entry])
        .put_entries(TABLES + 0x1000, &[0x87])
}

fn enable_pae(cr0: u32) -> Vec<u8> {
    let mut code = load_control_register(3, TABLES);
    code.extend(load_control_register(4, PAE));
    code.extend(load_control_register(0, cr0));
    code
}

/// A reserved bit of a page-directory pointer that is present is a #GP, whether the write exits or not.
#[test]
fn reserved_bits_of_page_directory_pointers_fault() {
    let directory = u64::from(TABLES) + 0x1000;
    for cr0 in [PAGING, PAGING | CACHE_DISABLE] {
        for bit in [1, 2, 5, 8, 52, 62, 63] {
            let mut code = enable_pae(cr0);
            code.extend(FAIL);
            let image = FlatImage::protected(&code).expecting(GENERAL_PROTECTION);
            succeeds(with_pointers(image, directory | 1 | 1 << bit));
        }
        let mut code = enable_pae(cr0);
        code.extend(SUCCEED);
        succeeds(with_pointers(FlatImage::protected(&code), !1));
    }
}

/// With PAE paging, page-directory pointers are loaded again by writes that change CR0.CD or NW, and
/// stay as they were with others.
#[test]
fn page_directory_pointers_are_loaded_again() {
    let directory = TABLES + 0x1000;
    for (cr0, fault) in [
        (PAGING | CACHE_DISABLE, None),
        (PAGING | CACHE_DISABLE | 1 << 29, None),
        (PAGING & !(1 << 5), Some(PAGE_FAULT)), // NE
        (PAGING | 1 << 16, Some(PAGE_FAULT)),   // WP
    ] {
        let mut code = enable_pae(PAGING);
        code.extend(store_32(TABLES + 8, directory | 1));
        code.extend(load_control_register(0, cr0));
        code.extend([0xa0, 0, 0, 0, 0x40]); // mov al, [40000000h]
        code.extend(if fault.is_some() { FAIL } else { SUCCEED });
        let mut image = FlatImage::protected(&code);
        if let Some(vector) = fault {
            image = image.expecting(vector);
        }
        succeeds(with_pointers(image, 0));
    }
}

/// A guest that steps through HLT gets its trap and does not sleep.
#[test]
fn a_step_through_hlt_traps() {
    for before in [&[][..], &[0xfb]] {
        let mut code = vec![0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0]; // pushfd; or dword [esp], TF
        code.push(0x9d); // popfd
        code.extend(before);
        code.push(0xf4); // hlt
        code.extend(FAIL);
        succeeds(FlatImage::protected(&code).expecting(DEBUG));
    }
}
