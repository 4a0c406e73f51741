# Where a start-up IPI starts an application processor: copied to a page below 1 MiB that the
# memory map gives, so everything here is relative to that page. AT&T syntax.
.section .trampoline, "a", @progbits
.balign 16
.globl trampoline_start, trampoline_end, trampoline_arguments
.code16
trampoline_start:
        cli
        cld
        movw    %cs, %ax
        movw    %ax, %ds
        movzwl  %ax, %ebx
        shll    $4, %ebx                # the page's linear address
        # Make the pointers that need linear addresses.
        leal    (trampoline_gdt - trampoline_start)(%ebx), %eax
        movl    %eax, trampoline_gdtr - trampoline_start + 2
        leal    (trampoline_32 - trampoline_start)(%ebx), %eax
        movl    %eax, trampoline_far_32 - trampoline_start
        lgdtl   trampoline_gdtr - trampoline_start
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   *(trampoline_far_32 - trampoline_start)
.code32
trampoline_32:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    (trampoline_arguments - trampoline_start)(%ebx), %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            # PAE | OSFXSR | OSXMMEXCPT
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       # EFER.LME
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80010033, %eax       # PG | WP | NE | ET | MP | PE
        movl    %eax, %cr0
        leal    (trampoline_64 - trampoline_start)(%ebx), %eax
        movl    %eax, (trampoline_far_64 - trampoline_start)(%ebx)
        ljmpl   *(trampoline_far_64 - trampoline_start)(%ebx)
.code64
trampoline_64:
        xorl    %eax, %eax
        movw    %ax, %fs
        movw    %ax, %gs
        # Take one number, and by it one stack: several processors may be here at a time.
        movl    $1, %edi
        lock xaddl %edi, (trampoline_arguments - trampoline_start + 8)(%rbx)
        movl    %edi, %eax
        incl    %eax
        imulq   (trampoline_arguments - trampoline_start + 32)(%rbx), %rax
        addq    (trampoline_arguments - trampoline_start + 16)(%rbx), %rax
        movq    %rax, %rsp
        xorl    %ebp, %ebp
        call    *(trampoline_arguments - trampoline_start + 24)(%rbx)
1:      hlt
        jmp     1b
.balign 8
trampoline_gdt:
        .quad 0
        .quad 0x00af9b000000ffff        # 0x08 64-bit code
        .quad 0x00cf93000000ffff        # 0x10 data
        .quad 0x00cf9b000000ffff        # 0x18 32-bit code
trampoline_gdtr:
        .short . - trampoline_gdt - 1
        .long 0
.balign 8
trampoline_far_32:
        .long 0
        .short 0x18
.balign 8
trampoline_far_64:
        .long 0
        .short 0x08
.balign 8
trampoline_arguments:
        .quad 0                         # +0  CR3
        .quad 0                         # +8  number of the next processor
        .quad 0                         # +16 stacks
        .quad 0                         # +24 entry
        .quad 0                         # +32 size of a stack
trampoline_end:
.text
