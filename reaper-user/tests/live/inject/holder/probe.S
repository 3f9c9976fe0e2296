/* Loads every register, makes one system call, and saves every register.
 *
 * rcx and r11 are the only ones that are free after a system call, so that all goes by them. `mov`, `lea` and `jrcxz` leave the flags
 * as they are. Nothing is pushed where the red zone is. */
#include "probe.h"

    .section .tbss, "awT", @nobits
    .balign 8
current:
    .zero 8

    .text
    .globl probe_run, probe_syscall, probe_return, probe_user, probe_user_end
    .type probe_run, @function
probe_run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rdi, %rbx
    mov %rbx, %fs:current@tpoff
    /* Of the caller's stack, so that the saved registers are above it. */
    sub $(ABOVE_WORDS * 8 + 8), %rsp
    lea P_ABOVE_IN(%rbx), %rsi
    mov %rsp, %rdi
    mov $ABOVE_WORDS, %ecx
    rep movsq
    lea P_RED_IN(%rbx), %rsi
    lea -(RED_WORDS * 8)(%rsp), %rdi
    mov $RED_WORDS, %ecx
    rep movsq

    mov P_LOAD_MASK(%rbx), %eax
    mov (P_LOAD_MASK + 4)(%rbx), %edx
    mov P_LOADED(%rbx), %rcx
    xrstor64 (%rcx)

    mov %rsp, (P_IN + 8 * 4)(%rbx)
    mov %rbx, %rcx
    lea -256(%rsp), %rsp
    push P_FLAGS_IN(%rcx)
    popfq
    lea 256(%rsp), %rsp
    mov (P_IN + 8 * 0)(%rcx), %rax
    mov (P_IN + 8 * 2)(%rcx), %rdx
    mov (P_IN + 8 * 3)(%rcx), %rbx
    mov (P_IN + 8 * 5)(%rcx), %rbp
    mov (P_IN + 8 * 6)(%rcx), %rsi
    mov (P_IN + 8 * 7)(%rcx), %rdi
    mov (P_IN + 8 * 8)(%rcx), %r8
    mov (P_IN + 8 * 9)(%rcx), %r9
    mov (P_IN + 8 * 10)(%rcx), %r10
    mov (P_IN + 8 * 12)(%rcx), %r12
    mov (P_IN + 8 * 13)(%rcx), %r13
    mov (P_IN + 8 * 14)(%rcx), %r14
    mov (P_IN + 8 * 15)(%rcx), %r15
    mov %rcx, %r11
    mov P_MODE(%rcx), %rcx
    jrcxz probe_syscall
    lea -MODE_VFORK(%rcx), %rcx
    jrcxz probe_syscall
    jmp probe_user

probe_syscall:
    syscall
probe_return:
    jmp save

probe_user:
    pause
    mov P_GO(%r11), %rcx
    mov (%rcx), %rcx
    jrcxz probe_user
probe_user_end:

save:
    mov %fs:current@tpoff, %rcx
    mov %rax, (P_OUT + 8 * 0)(%rcx)
    mov %rdx, (P_OUT + 8 * 2)(%rcx)
    mov %rbx, (P_OUT + 8 * 3)(%rcx)
    mov %rsp, (P_OUT + 8 * 4)(%rcx)
    mov %rbp, (P_OUT + 8 * 5)(%rcx)
    mov %rsi, (P_OUT + 8 * 6)(%rcx)
    mov %rdi, (P_OUT + 8 * 7)(%rcx)
    mov %r8, (P_OUT + 8 * 8)(%rcx)
    mov %r9, (P_OUT + 8 * 9)(%rcx)
    mov %r10, (P_OUT + 8 * 10)(%rcx)
    mov %r11, (P_OUT + 8 * 11)(%rcx)
    mov %r12, (P_OUT + 8 * 12)(%rcx)
    mov %r13, (P_OUT + 8 * 13)(%rcx)
    mov %r14, (P_OUT + 8 * 14)(%rcx)
    mov %r15, (P_OUT + 8 * 15)(%rcx)
    lea -(RED_WORDS * 8)(%rsp), %rsp
    pushfq
    pop P_FLAGS_OUT(%rcx)
    lea (RED_WORDS * 8)(%rsp), %rsp
    cld
    mov %rcx, %rbx

    /* The child of a vfork shares the memory: it must leave the red zone and all above to its parent. */
    cmpq $MODE_VFORK, P_MODE(%rbx)
    jne 1f
    test %rax, %rax
    jnz 1f
    sub $512, %rsp
    and $-16, %rsp
    call vfork_child
    ud2
1:
    mov P_SAVE_MASK(%rbx), %eax
    mov (P_SAVE_MASK + 4)(%rbx), %edx
    mov P_SAVED(%rbx), %rcx
    xsave64 (%rcx)
    mov P_LOAD_MASK(%rbx), %eax
    mov (P_LOAD_MASK + 4)(%rbx), %edx
    mov P_CLEAN(%rbx), %rcx
    xrstor64 (%rcx)

    mov %cs, (P_SEGMENTS + 0)(%rbx)
    mov %ds, (P_SEGMENTS + 2)(%rbx)
    mov %es, (P_SEGMENTS + 4)(%rbx)
    mov %fs, (P_SEGMENTS + 6)(%rbx)
    mov %gs, (P_SEGMENTS + 8)(%rbx)
    mov %ss, (P_SEGMENTS + 10)(%rbx)
    lea -(RED_WORDS * 8)(%rsp), %rsi
    lea P_RED_OUT(%rbx), %rdi
    mov $RED_WORDS, %ecx
    rep movsq
    mov %rsp, %rsi
    lea P_ABOVE_OUT(%rbx), %rdi
    mov $ABOVE_WORDS, %ecx
    rep movsq
    add $(ABOVE_WORDS * 8 + 8), %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size probe_run, . - probe_run

    .section .note.GNU-stack, "", @progbits
