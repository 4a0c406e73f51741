# Entry points of a bootable image's boot processor, up to its first Rust function:
# boot_processor_start(protocol: u32, information: u64). AT&T syntax.

# --- PVH: the loader finds the 32-bit entry in this ELF note -------------------------
.section .note.Xen, "a", @note
.balign 4
        .long 4                         # size of the name
        .long 8                         # size of the descriptor
        .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad pvh_entry                 # 8 bytes in an ELF64 note

# --- Multiboot2 header: the loader uses e_entry (= multiboot2_entry) -----------------
.section .multiboot2, "a", @progbits
.balign 8
multiboot2_header:
        .long 0xe85250d6
        .long 0                         # 32-bit protected mode
        .long multiboot2_header_end - multiboot2_header
        .long -(0xe85250d6 + (multiboot2_header_end - multiboot2_header))
        .short 0, 0                     # end tag
        .long 8
multiboot2_header_end:

.section .boot.text, "ax", @progbits
.code32
.globl pvh_entry, multiboot2_entry, long_mode_32, load_data_segments
pvh_entry:                              # EBX = hvm_start_info, EAX undefined
        cli
        cld
        movl    $0x336ec578, %edi
        jmp     boot_processor_32
multiboot2_entry:                       # EAX = magic number, EBX = boot information
        cli
        cld
        movl    %eax, %edi
boot_processor_32:                      # keeps EDI and ESI for boot_processor_start
        movl    %ebx, %esi
        movl    $boot_stack_top, %esp

        # Identity-map the first 4 GiB with 2 MiB pages; the loader zeroed .bss.
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

        # The local APIC's page must be a 4 KiB translation for its accesses to be virtualized
        # with certainty (SDM 30.4 Virtualizing memory-mapped APIC accesses).
        xorl    %ecx, %ecx
3:      movl    %ecx, %eax
        shll    $12, %eax
        addl    $(0xfee00000 + 0x1b), %eax      # present, writable, uncacheable
        movl    %eax, boot_apic_pt(,%ecx,8)
        incl    %ecx
        cmpl    $512, %ecx
        jne     3b
        movl    $(boot_apic_pt + 3), %eax
        movl    %eax, boot_pd + 8 * (0xfee00000 >> 21)

        call    long_mode_32
        lgdt    boot_gdt_pointer
        ljmpl   $0x08, $boot_processor_64

# Enables SSE, 64-bit mode and paging; the caller then loads CS. Leaves EDI and ESI.
long_mode_32:
        movl    $boot_pml4, %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       # IA32_EFER.LME
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80010033, %eax       # PG, WP, NE, ET, MP, PE; EM = TS = 0
        movl    %eax, %cr0
        ret

.code64
boot_processor_64:
        call    load_data_segments
        movl    %edi, %edi
        movl    %esi, %esi
        movl    $boot_stack_top, %esp
        xorl    %ebp, %ebp
        call    boot_processor_start
        ud2

# Leaves EDI, ESI and EBX.
load_data_segments:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        xorl    %eax, %eax
        movw    %ax, %fs
        movw    %ax, %gs
        ret

.balign 8
.globl boot_gdt
boot_gdt:
        .quad 0
        .quad 0x00af9b000000ffff        # 0x08 64-bit code
        .quad 0x00cf93000000ffff        # 0x10 data
        .quad 0x00cf9b000000ffff        # 0x18 32-bit code
boot_gdt_pointer:
        .short . - boot_gdt - 1
        .long boot_gdt
        .long 0

.section .bss.boot, "aw", @nobits
.balign 4096
.globl boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
boot_apic_pt: .skip 4096
           .skip 131072
.balign 16
boot_stack_top:
.text
