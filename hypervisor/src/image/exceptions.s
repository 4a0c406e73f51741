# Interrupt and exception stubs, 16 bytes apart, vector by vector. AT&T syntax.
# Every gate names an IST stack, so the red zone of the interrupted code is safe.
.section .text.exceptions, "ax", @progbits
.globl exception_stubs, device_not_available_stub, non_maskable_interrupt_stub
.balign 16
exception_stubs:
.set vector, 0
.rept 256
        .balign 16
        .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
        .else
        pushq   $0
        .endif
        pushq   $vector
        jmp     exception_common
        .set vector, vector + 1
.endr

.balign 16
exception_common:
        cld
        pushq   %r15
        pushq   %r14
        pushq   %r13
        pushq   %r12
        pushq   %r11
        pushq   %r10
        pushq   %r9
        pushq   %r8
        pushq   %rbp
        pushq   %rdi
        pushq   %rsi
        pushq   %rdx
        pushq   %rcx
        pushq   %rbx
        pushq   %rax
        # The code interrupted may be using SSE registers of its own.
        movq    %rsp, %rdi
        movq    %rsp, %rbp
        movq    %cr0, %rbx
        clts
        subq    $512, %rsp
        andq    $-16, %rsp
        fxsave64 (%rsp)
        call    image_interrupt
        fxrstor64 (%rsp)
        movq    %rbx, %cr0
        movq    %rbp, %rsp
        popq    %rax
        popq    %rbx
        popq    %rcx
        popq    %rdx
        popq    %rsi
        popq    %rdi
        popq    %rbp
        popq    %r8
        popq    %r9
        popq    %r10
        popq    %r11
        popq    %r12
        popq    %r13
        popq    %r14
        popq    %r15
        addq    $16, %rsp
        iretq

# #NM in root mode: the guest's x87 and SSE state is still in the registers (HOST_CR0 has TS set)
# and root code wants to use them. Save it where the processor's state says, once per exit.
# GS base is the processor's state: +8 is the address of the FXSAVE area of the state in the
# registers, or 0; +16 becomes 1.
.balign 16
device_not_available_stub:
        clts
        pushq   %rax
        movq    %gs:8, %rax
        testq   %rax, %rax
        jz      1f
        fxsave64 (%rax)
        movq    $1, %gs:16
1:      popq    %rax
        iretq

# An NMI in root mode is counted (`host/non_maskable.rs`) and changes nothing else.
.balign 16
non_maskable_interrupt_stub:
        lock incq NON_MASKABLE_INTERRUPTS(%rip)
        iretq
.text
