# Entry points of the boot processor. AT&T syntax, assembled by global_asm!.

# --- PVH: qemu -kernel finds the 32-bit entry in this ELF note -----------------
.section .note.Xen, "a", @note
.balign 4
        .long 4                         # name size
        .long 8                         # desc size
        .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad pvh_entry                 # QEMU reads 8 bytes from an ELF64 note

# --- Multiboot2 header: GRUB uses e_entry (= multiboot2_entry), no address tags needed
.section .multiboot2, "a", @progbits
.balign 8
multiboot2_header:
        .long 0xe85250d6
        .long 0                         # i386 protected mode
        .long multiboot2_header_end - multiboot2_header
        .long -(0xe85250d6 + 0 + (multiboot2_header_end - multiboot2_header))
        .short 0, 0                     # end tag
        .long 8
multiboot2_header_end:

.section .boot.text, "ax", @progbits
.code32
.globl pvh_entry, multiboot2_entry
pvh_entry:                              # EBX = hvm_start_info
        cli
        cld
        movl    $0x336ec578, %edi       # its magic; EAX is undefined in PVH
        jmp     boot32
multiboot2_entry:                              # EAX = magic, EBX = boot information
        cli
        cld
        movl    %eax, %edi
boot32: movl    %ebx, %esi              # image_start_rust(edi = protocol, esi = info)
        movl    $bsp_stack_top, %esp

        # The loader zeroed .bss; identity-map the first 4 GiB with 2 MiB pages.
        movl    $(boot_pdpt + 3), %eax
        movl    %eax, boot_pml4
        xorl    %ecx, %ecx
1:      movl    %ecx, %eax
        shll    $12, %eax
        addl    $(boot_pd + 3), %eax
        movl    %eax, boot_pdpt(,%ecx,8)
        incl    %ecx
        cmpl    $4, %ecx
        jne     1b
        xorl    %ecx, %ecx
2:      movl    %ecx, %eax
        shll    $21, %eax
        orl     $0x83, %eax             # present, writable, 2 MiB
        movl    %eax, boot_pd(,%ecx,8)
        incl    %ecx
        cmpl    $2048, %ecx
        jne     2b

        movl    $boot_pml4, %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            # PAE | OSFXSR | OSXMMEXCPT
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       # EFER.LME
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80010033, %eax       # PG | WP | NE | ET | MP | PE, EM = TS = 0
        movl    %eax, %cr0
        lgdt    boot_gdtr
        ljmpl   $0x08, $boot64
.code64
boot64: movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        xorl    %eax, %eax
        movw    %ax, %fs
        movw    %ax, %gs
        movl    %edi, %edi
        movl    %esi, %esi
        xorl    %ebp, %ebp
        movl    $bsp_stack_top, %esp
        call    image_start_rust
3:      hlt
        jmp     3b

.balign 8
.globl boot_gdtr
boot_gdt:
        .quad 0
        .quad 0x00af9b000000ffff        # 0x08 64-bit code
        .quad 0x00cf93000000ffff        # 0x10 data
        .quad 0x00cf9b000000ffff        # 0x18 32-bit code (AP trampoline)
boot_gdtr:
        .short . - boot_gdt - 1
        .long boot_gdt
        .long 0

.section .bss.boot, "aw", @nobits
.balign 4096
.globl boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
           .skip 131072
bsp_stack_top:
