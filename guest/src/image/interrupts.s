# Entry of every vector. GS addresses the processor's state; {received} and the like are offsets
# in it. All in assembly: it needs no SSE state, no red zone and few instructions.
.section .text.interrupts, "ax", @progbits

# 256 entries of 16 bytes. Every entry leaves an error code (0 if the processor pushes none) and
# the vector on the stack.
.globl vector_entries
.balign 16
vector_entries:
.set vector, 0
.rept 256
        .balign 16
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
        .else
        pushq   $0
        .endif
        pushq   $vector
        .if vector == {nmi}
        jmp     count_without_end
        .elseif vector < 32
        jmp     exception
        .else
        jmp     interrupt
        .endif
        .set vector, vector + 1
.endr

# A maskable interrupt: count it, note its place in the order, signal its end.
.balign 16
interrupt:
        pushq   %rax
        pushq   %rcx
        pushq   %rdx
        movl    24(%rsp), %eax
        incq    %gs:{received}(,%rax,8)
        movq    %gs:{order_length}, %rcx
        cmpq    ${order_capacity}, %rcx
        jae     1f
        movb    %al, %gs:{order}(%rcx)
        incq    %gs:{order_length}
1:      cmpl    ${spurious}, %eax       # no end of interrupt for a spurious one
        je      3f
        xorl    %eax, %eax
        movq    %gs:{apic_page}, %rcx
        testq   %rcx, %rcx
        jz      2f
        movl    %eax, 0xb0(%rcx)
        jmp     3f
2:      movl    $0x80b, %ecx
        xorl    %edx, %edx
        wrmsr
3:      popq    %rdx
        popq    %rcx
        popq    %rax
        addq    $16, %rsp
        iretq

# NMIs, and vectors that no end of interrupt belongs to.
count_without_end:
        pushq   %rax
        movl    8(%rsp), %eax
        incq    %gs:{received}(,%rax,8)
        popq    %rax
        addq    $16, %rsp
        iretq

exception:
        cmpl    $13, (%rsp)
        jne     1f
        cmpq    $0, %gs:{recovery}
        je      2f
        pushq   %rax                    # a fault that the code expects: go on where it says
        movq    %gs:{recovery}, %rax
        movq    %rax, 24(%rsp)
        popq    %rax
        incq    %gs:{faults}
        addq    $16, %rsp
        iretq
        # 1, 3, 4, 9 and 15 come with no error code: if an IPI of such a vector is delivered, which
        # must not be, it is counted.
1:      cmpl    $31, (%rsp)
        ja      2f
        pushq   %rax
        pushq   %rcx
        movl    16(%rsp), %ecx
        movl    $0x821a, %eax
        btl     %ecx, %eax
        popq    %rcx
        popq    %rax
        jc      count_without_end
2:      movq    %rsp, %rdi              # vector, error code, RIP, CS, RFLAGS, RSP, SS
        cld
        andq    $-16, %rsp
        call    unexpected_exception
        ud2
.text
