# What the prebuilt x86_64-unknown-linux-gnu core/alloc expect from a libc.
# In assembly so that LLVM cannot turn them into calls to themselves.
.section .text.rt, "ax", @progbits
.globl memcpy, memmove, memset, memcmp, bcmp, strlen
memcpy:
        movq    %rdi, %rax
        movq    %rdx, %rcx
        rep movsb
        ret
memmove:
        movq    %rdi, %rax
        movq    %rdi, %r8
        subq    %rsi, %r8
        movq    %rdx, %rcx
        cmpq    %rdx, %r8
        jb      1f                      # dst inside [src, src+n): copy backwards
        rep movsb
        ret
1:      leaq    -1(%rdi,%rdx), %rdi
        leaq    -1(%rsi,%rdx), %rsi
        std
        rep movsb
        cld
        ret
memset:
        movq    %rdi, %r8
        movl    %esi, %eax
        movq    %rdx, %rcx
        rep stosb
        movq    %r8, %rax
        ret
bcmp:
memcmp:
        xorl    %eax, %eax
        movq    %rdx, %rcx
        cmpq    %rcx, %rcx              # ZF = 1 for n = 0
        repe cmpsb
        je      1f
        movzbl  -1(%rdi), %eax
        movzbl  -1(%rsi), %ecx
        subl    %ecx, %eax
1:      ret

strlen:
        xorl    %eax, %eax
1:      cmpb    $0, (%rdi,%rax)
        je      2f
        incq    %rax
        jmp     1b
2:      ret

# Prebuilt alloc was compiled with panic=unwind: its landing pads call this.
# Nothing unwinds in a panic=abort image, so neither is ever reached.
.globl rust_eh_personality, _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
        ud2
.text
