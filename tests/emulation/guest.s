# A program that executes cases one after the other and keeps what each leaves behind. A case begins by
# IRETQ with every register given, in 64-bit mode or in compatibility mode of 16 or 32 bits, at any
# privilege level, and ends by whatever exception or interrupt it meets first.
#
# AT&T syntax. It is assembled into the test's own read-only data and copied from there; it runs at BASE.
# `layout.rs` has the same numbers.

.set BASE,      0x100000
.set CASES,     0x200000        # descriptors and code, patched in behind this program
.set TABLES,    0x800000
.set PML4,      TABLES
.set PDPT,      TABLES + 0x1000
.set PD,        TABLES + 0x2000 # four of them
.set PT,        TABLES + 0x6000 # of the window
.set STACK,     0x90000
.set HANDLERS_STACK, 0x80000
.set SAVED,     0x70000         # the registers as an exception finds them
.set RESULTS,   0xa00000

.set CASE_SIZE, 0x200
.set RESULT_SIZE, 0x800
.set EDGE,      64              # bytes on each side of a page's border that are filled and kept

.section .rodata.emulation_guest, "a", @progbits
.balign 8
.globl emulation_guest_start, emulation_guest_end
emulation_guest_start:
.code32
header:
        .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long BASE, BASE
image_end:
        .long 0, 0              # patched in
        .long start - header + BASE
.globl emulation_case_count, emulation_descriptors, emulation_pages, emulation_pattern
        .balign 8
emulation_case_count:
        .quad 0                 # patched in
emulation_pages:
        .fill 4, 8, 0           # the pages whose borders are filled and kept, patched in
emulation_pattern:
        .fill 4 * 2 * EDGE, 1, 0

        .balign 16
emulation_descriptors:          # patched from the sixth on
        .quad 0
        .quad 0x00af9b000000ffff        # 08H: code, 64 bits
        .quad 0x00cf93000000ffff        # 10H: data
        .quad 0, 0                      # 18H: the task
        .fill 27, 8, 0
descriptors_end:
        .balign 16
task:
        .fill 104, 1, 0
task_end:

start:
        cli
        cld
        movl    $TABLES, %edi
        movl    $(0x7000 / 4), %ecx
        xorl    %eax, %eax
        rep stosl
        movl    $(PDPT + 7), PML4
        xorl    %ecx, %ecx
1:      movl    %ecx, %eax
        shll    $12, %eax
        addl    $(PD + 7), %eax
        movl    %eax, PDPT(,%ecx,8)
        incl    %ecx
        cmpl    $4, %ecx
        jne     1b
        xorl    %ecx, %ecx
1:      movl    %ecx, %eax
        shll    $21, %eax
        orl     $0x83, %eax
        movl    %eax, PD(,%ecx,8)
        incl    %ecx
        cmpl    $2048, %ecx
        jne     1b
        # From 1 GiB on: the window, the cases, the stacks; nothing else up to 2 GiB.
        movl    $(PD + 0x1000), %edi
        movl    $(0x1000 / 4), %ecx
        xorl    %eax, %eax
        rep stosl
        movl    $(PT + 7), PD + 0x1000
        movl    $(CASES + 0x87), PD + 0x1008
        movl    $(0x600000 + 0x87), PD + 0x1010

        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx
        movl    $0x901, %eax            # SCE, LME, NXE
        xorl    %edx, %edx
        wrmsr
        movl    $0x80010033, %eax       # PG, WP, NE, ET, MP, PE
        movl    %eax, %cr0
        lgdt    gdtr - header + BASE
        ljmp    $8, $(start_64 - header + BASE)

.code64
start_64:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $STACK, %esp
        fninit
        # The task: interrupt stack 1, and the stack of privilege level 0.
        leaq    task(%rip), %rax
        movq    $HANDLERS_STACK, 36(%rax)
        movq    $HANDLERS_STACK, 4(%rax)
        movw    $104, 102(%rax)
        leaq    emulation_descriptors(%rip), %rbx
        movw    $(task_end - task - 1), 0x18(%rbx)
        movw    %ax, 0x1a(%rbx)
        shrq    $16, %rax
        movb    %al, 0x1c(%rbx)
        movb    $0x89, 0x1d(%rbx)
        movb    %ah, 0x1f(%rbx)
        movl    $0x18, %eax
        ltr     %ax
        # Gates, 16 bytes each, all to stubs 16 bytes apart, for every privilege level.
        movl    $(TABLES + 0x8000), %edi
        leaq    stubs(%rip), %rax
        movl    $256, %ecx
1:      movw    %ax, (%rdi)
        movw    $8, 2(%rdi)
        movw    $0xee01, 4(%rdi)
        movl    %eax, %edx
        shrl    $16, %edx
        movw    %dx, 6(%rdi)
        movq    $0, 8(%rdi)
        addq    $16, %rax
        addq    $16, %rdi
        decl    %ecx
        jnz     1b
        lidt    idtr(%rip)

        # R15 is the case, R14 its result.
        movl    $CASES, %r15d
        movl    $RESULTS, %r14d
        movq    signature(%rip), %rax
        notq    %rax                    # what is searched for is in no image
        movq    %rax, (%r14)
        movq    emulation_case_count(%rip), %r13
        movq    %r13, 8(%r14)
        addq    $RESULT_SIZE, %r14
next:
        testq   %r13, %r13
        jnz     case
        movb    $0x10, %al
        outb    %al, $0xf4
1:      hlt
        jmp     1b

case:
        # What comes back needs these.
        movl    $SAVED, %ebx
        movq    %r13, 0x80(%rbx)
        movq    %r14, 0x88(%rbx)
        movq    %r15, 0x90(%rbx)
        # Nothing of the case before is left in memory, nor in the port that strings use.
        movb    $0x5a, %al
        outb    %al, $0x80
        xorl    %eax, %eax
        movq    emulation_pages(%rip), %rdi
        movl    $512, %ecx
        rep stosq
        movq    emulation_pages + 8(%rip), %rdi
        movl    $512, %ecx
        rep stosq
        # The pages.
        xorl    %ecx, %ecx
        leaq    emulation_pages(%rip), %rbx
        leaq    emulation_pattern(%rip), %rsi
fill:   movq    (%rbx,%rcx,8), %rdi
        testq   %rdi, %rdi
        jz      3f
        xorl    %edx, %edx
1:      movl    (%rsi,%rdx), %eax
        movl    %eax, (%rdi,%rdx)
        movl    EDGE(%rsi,%rdx), %eax
        movl    %eax, 0x1000-EDGE(%rdi,%rdx)
        addl    $4, %edx
        cmpl    $EDGE, %edx
        jne     1b
3:      addq    $(2 * EDGE), %rsi
        incl    %ecx
        cmpl    $4, %ecx
        jne     fill
        # The window: up to four entries.
        xorl    %ecx, %ecx
1:      movq    0xa8(%r15,%rcx,8), %rax
        movl    $PT, %edi
        movq    %rax, (%rdi,%rcx,8)
        incl    %ecx
        cmpl    $4, %ecx
        jne     1b
        movl    $PML4, %eax
        movq    %rax, %cr3
        fxrstor64 initial_state(%rip)
        movq    0xd8(%r15), %rax
        movq    %rax, %rdx
        shrq    $32, %rdx
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        movl    0xd8(%r15), %eax
        movl    $0xc0000100, %ecx       # IA32_FS_BASE
        wrmsr
        xorl    %eax, %eax
        movq    %rax, %cr2
        movq    %rax, %dr6
        movq    $0, 0x0e0(%r14)
        # Selectors that are not given are 0.
        movzwl  0xa0(%r15), %eax
        movl    %eax, %ds
        movzwl  0xa2(%r15), %eax
        movl    %eax, %es
        movzwl  0xa4(%r15), %eax
        testl   %eax, %eax
        jz      1f
        movl    %eax, %fs
1:      movq    0xe8(%r15), %rax
        movq    %rax, %dr0
        movq    0xe0(%r15), %rax
        movq    %rax, %dr7
        movq    0xd0(%r15), %rax
        movq    %rax, %cr4
        movq    0xc8(%r15), %rax
        movq    %rax, %cr0
        pushq   0x98(%r15)              # SS
        pushq   0x20(%r15)              # RSP
        pushq   0x90(%r15)              # RFLAGS
        pushq   0x88(%r15)              # CS
        pushq   0x80(%r15)              # RIP
        movq    0x00(%r15), %rax
        movq    0x08(%r15), %rcx
        movq    0x10(%r15), %rdx
        movq    0x18(%r15), %rbx
        movq    0x28(%r15), %rbp
        movq    0x30(%r15), %rsi
        movq    0x38(%r15), %rdi
        movq    0x40(%r15), %r8
        movq    0x48(%r15), %r9
        movq    0x50(%r15), %r10
        movq    0x58(%r15), %r11
        movq    0x60(%r15), %r12
        movq    0x68(%r15), %r13
        movq    0x70(%r15), %r14
        movq    0x78(%r15), %r15
        iretq

        .balign 16
stubs:
.set vector, 0
.rept 256
        .balign 16
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
        .else
        pushq   $0
        .endif
        pushq   $vector
        jmp     taken
        .set vector, vector + 1
.endr

        .balign 16
taken:  # Vector, error code, RIP, CS, RFLAGS, RSP, SS.
        pushq   %rax
        pushq   %rbx
        movl    $SAVED, %eax
        cmpq    $1, 16(%rsp)
        jne     ended
        # A debug exception: it is noted, and the case goes on, as often as it may.
        movq    0x88(%rax), %rbx
        movq    0x90(%rax), %rax
        movq    0xf0(%rax), %rax        # how often
        cmpq    0xe0(%rbx), %rax
        movl    $SAVED, %eax
        jbe     ended
        movq    0xe0(%rbx), %rax
        incq    0xe0(%rbx)
        shlq    $5, %rax
        leaq    0x500(%rbx,%rax), %rbx
        movq    32(%rsp), %rax
        movq    %rax, (%rbx)            # RIP
        movq    48(%rsp), %rax
        movq    %rax, 8(%rbx)           # RFLAGS
        movq    %rcx, 16(%rbx)
        movq    %dr6, %rax
        movq    %rax, 24(%rbx)
        xorl    %eax, %eax
        movq    %rax, %dr6
        popq    %rbx
        popq    %rax
        addq    $16, %rsp
        iretq

ended:
        movq    %rcx, 0x08(%rax)
        movq    %rdx, 0x10(%rax)
        popq    0x18(%rax)              # RBX
        popq    0x00(%rax)              # RAX
        movq    %rbp, 0x28(%rax)
        movq    %rsi, 0x30(%rax)
        movq    %rdi, 0x38(%rax)
        movq    %r8, 0x40(%rax)
        movq    %r9, 0x48(%rax)
        movq    %r10, 0x50(%rax)
        movq    %r11, 0x58(%rax)
        movq    %r12, 0x60(%rax)
        movq    %r13, 0x68(%rax)
        movq    %r14, 0x70(%rax)
        movq    %r15, 0x78(%rax)
        movq    0x88(%rax), %r14
        movq    0x90(%rax), %r15
        # The result: registers, then vector, error code, RIP, CS, RFLAGS, SS, CR2, DR6, the window's
        # entries, how many debug exceptions were noted, sums of the pages.
        popq    0x80(%r14)
        popq    0x88(%r14)
        popq    0x90(%r14)
        popq    0x98(%r14)
        popq    0xa0(%r14)
        popq    0x20(%rax)              # RSP
        popq    0xa8(%r14)
        movq    %cr2, %rbx
        movq    %rbx, 0xb0(%r14)
        movq    %dr6, %rbx
        movq    %rbx, 0xb8(%r14)
        xorl    %ebx, %ebx
        movq    %rbx, %dr7
        movl    $0x10, %ebx
        movl    %ebx, %ds
        movl    %ebx, %es
        movl    $0x620, %ebx
        movq    %rbx, %cr4
        movl    $0x80010033, %ebx
        movq    %rbx, %cr0
        cld
        movq    %rax, %rsi
        movq    %r14, %rdi
        movl    $16, %ecx
        rep movsq
        movl    $PT, %esi
        leaq    0xc0(%r14), %rdi
        movl    $4, %ecx
        rep movsq
        fxsave64 0x100(%r14)
        fninit
        # The pages.
        leaq    0x300(%r14), %rsi
        xorl    %ecx, %ecx
        leaq    emulation_pages(%rip), %rbx
keep:   movq    (%rbx,%rcx,8), %rdi
        testq   %rdi, %rdi
        jz      3f
        xorl    %edx, %edx
1:      movl    (%rdi,%rdx), %eax
        movl    %eax, (%rsi,%rdx)
        movl    0x1000-EDGE(%rdi,%rdx), %eax
        movl    %eax, EDGE(%rsi,%rdx)
        addl    $4, %edx
        cmpl    $EDGE, %edx
        jne     1b
3:      addq    $(2 * EDGE), %rsi
        incl    %ecx
        cmpl    $4, %ecx
        jne     keep
        # All of the first two, in a sum each.
        xorl    %ecx, %ecx
sum:    movq    (%rbx,%rcx,8), %rdi
        xorl    %eax, %eax
        xorl    %edx, %edx
1:      rolq    $5, %rax
        addq    (%rdi,%rdx), %rax
        addl    $8, %edx
        cmpl    $0x1000, %edx
        jne     1b
        movq    %rax, 0xe8(%r14,%rcx,8)
        incl    %ecx
        cmpl    $2, %ecx
        jne     sum
        movl    $SAVED, %eax
        movq    0x80(%rax), %r13
        movl    $STACK, %esp
        addq    $CASE_SIZE, %r15
        addq    $RESULT_SIZE, %r14
        decq    %r13
        jmp     next

        .balign 16
gdtr:   .word descriptors_end - emulation_descriptors - 1
        .quad emulation_descriptors - header + BASE
        .balign 16
idtr:   .word 256 * 16 - 1
        .quad TABLES + 0x8000
        .balign 8
signature:
        .quad ~0x65636e656c617675      # "uvalence"
        .balign 16
.globl emulation_initial_state
emulation_initial_state:
initial_state:
        .fill 512, 1, 0                 # patched in
emulation_guest_end:
.text
