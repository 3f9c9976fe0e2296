/* Restartable critical sections, one after the other. <https://www.kernel.org/doc/html/latest/userspace-api/rseq.html>
 *
 * A thread that is interrupted in a section goes on at its abort handler. The kernel forgets the section where it finds the thread
 * outside: who still is in one that the kernel has forgotten was interrupted and not told. */

    .section .data.rel.local, "aw"
    .balign 32
descriptor:
    .long 0, 0
    .quad rseq_start, rseq_end - rseq_start, aborted

    .text
    .globl rseq_run, rseq_start, rseq_end
    .type rseq_run, @function
/* rdi: the thread's area, rsi: until this is not zero, rdx: commits, aborts, torn sections */
rseq_run:
    lea descriptor(%rip), %rax
next:
    cmpq $0, (%rsi)
    jne 3f
    mov %rax, 8(%rdi)
rseq_start:
    mov $4000, %ecx
1:
    pause
    dec %ecx
    jnz 1b
    cmp %rax, 8(%rdi)
    jne torn
    incq (%rdx)
rseq_end:
    jmp next

    /* The signature that glibc registers, as a part of an instruction that is never run. */
    .byte 0x0f, 0xb9, 0x3d
    .long 0x53053053
aborted:
    incq 8(%rdx)
    jmp next
torn:
    incq 16(%rdx)
    jmp next
3:
    movq $0, 8(%rdi)
    ret
    .size rseq_run, . - rseq_run

    .section .note.GNU-stack, "", @progbits
