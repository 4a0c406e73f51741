# The start-up code of the application processors: real mode at CS:0 in a page below 1 MiB, then the
# image itself. AT&T syntax.
.section .boot.text, "ax", @progbits
.code32
application_processor_32:               # from the start-up page, paging off
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    starting_stack, %esp
        call    long_mode_32
        ljmpl   $0x08, $application_processor_64

.code64
application_processor_64:
        call    load_data_segments
        movq    starting_stack, %rsp
        movq    starting_processor, %rdi
        xorl    %ebp, %ebp
        call    application_processor_start
        ud2

# --- Copied to a page below 1 MiB; a start-up IPI enters it in real mode at CS:0 ------
.section .trampoline, "a", @progbits
.balign 16
.globl start_up_code, start_up_code_end
.code16
start_up_code:
        cli
        cld
        lgdtl   %cs:(start_up_gdt_pointer - start_up_code)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $application_processor_32
.balign 4
start_up_gdt_pointer:
        .short 31
        .long boot_gdt
start_up_code_end:
.code64

.text
