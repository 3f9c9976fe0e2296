/* A debugger that stops one thread, does one thing to it and detaches. Most of what it can do is wrong: that is for the holder to find.
 *
 *   debugger TID ACTION [ARGUMENT…]
 *
 * attach [MS]            nothing; has so much patience
 * signal NUMBER          sends the thread a signal while it is stopped
 * register NAME          changes one register
 * image OFFSET           changes one byte of the extended state
 * legacy                 leaves of the extended state what a frame with an image of 512 bytes would
 * mask                   changes the signal mask
 * memory OFFSET          changes one byte, so far from the stack pointer
 * result NUMBER [SIGNAL] writes another result of the interrupted call; sends a signal before it detaches
 * call AT NUMBER [ARGS]  makes the thread run the system call instruction at an address, and puts the registers back
 * section FROM TO AT     the same with getpid, when the thread is found between two addresses
 * continue               goes on without a detach, and detaches later
 *
 * Prints `stopped`, or `no-stop` where its patience, a second, has come to an end: then nothing was done. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define IMAGE 16384
#define HEADER 512
#define TRIES 1000

static pid_t thread;
static int patience = 1000;
static struct user_regs_struct registers;
static unsigned char image[IMAGE];
static size_t image_size;

static void fail(const char *what) {
    fprintf(stderr, "debugger: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void need(long result, const char *what) {
    if (result < 0)
        fail(what);
}

/* False where it does not stop: it is released when this process ends. */
static int stopped(void) {
    for (int tries = 0; tries < patience; tries++) {
        siginfo_t info = {0};
        need(waitid(P_PID, (id_t)thread, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL), "waiting");
        if (info.si_pid) {
            if (info.si_code != CLD_TRAPPED)
                fail("the thread has ended");
            if (info.si_status >> 8 == PTRACE_EVENT_STOP)
                return 1;
            /* A signal that is about to be delivered: it is. */
            need(ptrace(PTRACE_CONT, thread, NULL, info.si_status & 0x7f), "passing a signal on");
        }
        usleep(1000);
    }
    return 0;
}

static void stop(void) {
    need(ptrace(PTRACE_SEIZE, thread, NULL, PTRACE_O_TRACESYSGOOD), "seizing");
    need(ptrace(PTRACE_INTERRUPT, thread, NULL, NULL), "interrupting");
    if (!stopped()) {
        puts("no-stop");
        exit(0);
    }
    struct iovec vector = {&registers, sizeof registers};
    need(ptrace(PTRACE_GETREGSET, thread, (void *)NT_PRSTATUS, &vector), "reading registers");
    struct iovec extended = {image, sizeof image};
    need(ptrace(PTRACE_GETREGSET, thread, (void *)NT_X86_XSTATE, &extended), "reading the extended state");
    image_size = extended.iov_len;
}

static void put_registers(struct user_regs_struct *these) {
    struct iovec vector = {these, sizeof *these};
    need(ptrace(PTRACE_SETREGSET, thread, (void *)NT_PRSTATUS, &vector), "writing registers");
}

static void put_image(void) {
    struct iovec vector = {image, image_size};
    need(ptrace(PTRACE_SETREGSET, thread, (void *)NT_X86_XSTATE, &vector), "writing the extended state");
}

static void send(int number) { need(syscall(SYS_tgkill, thread, thread, number) && syscall(SYS_tkill, thread, number) ? -1 : 0, "sending"); }

static unsigned long long *named(const char *name) {
    static const struct { const char *name; size_t at; } places[] = {
#define PLACE(name) {#name, offsetof(struct user_regs_struct, name)}
        PLACE(rbx), PLACE(rdx), PLACE(rbp), PLACE(rsi), PLACE(rdi), PLACE(r8), PLACE(r9), PLACE(r10), PLACE(r12),
        PLACE(r13), PLACE(r14), PLACE(r15), PLACE(rax), PLACE(r11), PLACE(eflags), PLACE(gs_base),
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (!strcmp(places[i].name, name))
            return (unsigned long long *)((char *)&registers + places[i].at);
    fail("no such register");
    return NULL;
}

static void poke(unsigned long at) {
    errno = 0;
    long word = ptrace(PTRACE_PEEKDATA, thread, at, NULL);
    need(errno ? -1 : 0, "reading memory");
    need(ptrace(PTRACE_POKEDATA, thread, at, word ^ 1), "writing memory");
}

/* As many debuggers do it: no frame, no care for what the thread was in. */
static void call(unsigned long at, long number, char **arguments) {
    struct user_regs_struct changed = registers;
    unsigned long long *places[] = {&changed.rdi, &changed.rsi, &changed.rdx, &changed.r10, &changed.r8, &changed.r9};
    for (int i = 0; arguments[i] && i < 6; i++)
        *places[i] = strtoull(arguments[i], NULL, 0);
    changed.rip = at;
    changed.rax = (unsigned long long)number;
    changed.orig_rax = -1ull;
    changed.rsp -= 256;
    put_registers(&changed);
    for (int i = 0; i < 2; i++) {
        int status;
        need(ptrace(PTRACE_SYSCALL, thread, NULL, NULL), "continuing");
        need(waitpid(thread, &status, __WALL), "waiting");
        if (!WIFSTOPPED(status))
            fail("the thread has ended");
    }
    put_registers(&registers);
}

static void section(char **arguments) {
    unsigned long from = strtoul(arguments[0], NULL, 0), to = strtoul(arguments[1], NULL, 0);
    static char *none[] = {NULL};
    for (int tries = 0; tries < TRIES; tries++) {
        if (registers.orig_rax == -1ull && registers.rip >= from && registers.rip < to) {
            call(strtoul(arguments[2], NULL, 0), SYS_getpid, none);
            return;
        }
        need(ptrace(PTRACE_DETACH, thread, NULL, NULL), "detaching");
        usleep(100);
        stop();
    }
    fail("the thread is never found there");
}

int main(int count, char **arguments) {
    if (count < 3)
        fail("usage");
    thread = atoi(arguments[1]);
    const char *action = arguments[2];
    char **rest = arguments + 3;
    if (!strcmp(action, "attach") && rest[0])
        patience = atoi(rest[0]);
    stop();
    if (!strcmp(action, "signal"))
        send(atoi(rest[0]));
    else if (!strcmp(action, "register")) {
        *named(rest[0]) ^= 4;
        put_registers(&registers);
    } else if (!strcmp(action, "image")) {
        image[strtoul(rest[0], NULL, 0)] ^= 1;
        put_image();
    } else if (!strcmp(action, "legacy")) {
        *(unsigned long long *)(image + HEADER) &= 3;
        put_image();
    } else if (!strcmp(action, "mask")) {
        unsigned long long mask;
        need(ptrace(PTRACE_GETSIGMASK, thread, sizeof mask, &mask), "reading the mask");
        mask ^= 1ull << (SIGWINCH - 1);
        need(ptrace(PTRACE_SETSIGMASK, thread, sizeof mask, &mask), "writing the mask");
    } else if (!strcmp(action, "memory"))
        poke(registers.rsp + (unsigned long)atol(rest[0]));
    else if (!strcmp(action, "result")) {
        registers.rax = (unsigned long long)atoll(rest[0]);
        put_registers(&registers);
        if (rest[1])
            send(atoi(rest[1]));
    } else if (!strcmp(action, "call"))
        call(strtoul(rest[0], NULL, 0), atol(rest[1]), rest + 2);
    else if (!strcmp(action, "section"))
        section(rest);
    else if (!strcmp(action, "continue")) {
        static char *none[] = {NULL};
        call(strtoul(rest[0], NULL, 0), SYS_getpid, none);
        need(ptrace(PTRACE_CONT, thread, NULL, NULL), "continuing");
        usleep(20000);
        puts("stopped");
        return 0;
    } else if (strcmp(action, "attach"))
        fail("no such action");
    need(ptrace(PTRACE_DETACH, thread, NULL, NULL), "detaching");
    puts("stopped");
    return 0;
}
