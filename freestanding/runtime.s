# What the prebuilt x86_64-unknown-linux-gnu core and alloc expect from a C library. In assembly so that
# the compiler cannot turn them into calls to themselves.
.section .text.runtime, "ax", @progbits
.globl memcpy, memmove, memset, memcmp, bcmp
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
        jb      1f                      # destination inside the source: backwards
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
        cmpq    %rcx, %rcx              # ZF = 1 for length 0
        repe cmpsb
        je      1f
        movzbl  -1(%rdi), %eax
        movzbl  -1(%rsi), %ecx
        subl    %ecx, %eax
1:      ret

# Prebuilt core was compiled to unwind: its landing pads name these. Nothing here unwinds.
.globl rust_eh_personality, _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
        ud2
.text
