/* A holder of zombies that checks itself: one of its threads rests where it is told, with a known value in every register, and says
 * of each round what was not as it should be.
 *
 *   holder DIRECTORY [beside|other|small|alone] [tiles] [no-stack] [deep] [handler]
 *
 * The thread is the main one, or another: `beside` a main one that waits for it to end; with the main one in a vfork, where nobody can
 * stop it (`other`, and `small` with a stack of 16 KiB); or left `alone` by a main one that has ended. `tiles` uses AMX too, `no-stack`
 * runs handlers on the stack of the thread, `deep` rests low in the main thread's stack, `handler` in a handler on the alternative
 * stack. Orders, one a line on standard input, which the companion reads:
 *
 *   pile N             N orphans die               `zombies PID:CODE…`
 *   once STATE MS      rests there once            `resting`, and when it has ended `done …`
 *   loop STATE MS      again and again             the same for each round
 *   release            ends the call that is on
 *   stop               ends the loop               `stopped ROUNDS`
 *   seccomp KIND       installs a filter           `filtered`
 *   signals            -                           `signals NUMBER`, handled in all
 *   settle             waits for its own children and ends   `settled ROUNDS …`
 *
 * `done` and `settled` name all differences, ` NAME:EXPECTED/FOUND`. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "holder.h"
#include "probe.h"

#define SMALL_STACK 16384
#define SIGNAL_STACK 65536
#define GS_BASE 0x123456789000
/* As deep as Python's select(), and what calls it. */
#define DEPTH 57344
#define ENDS_SOON 20000000

struct shared *shared;
static char signal_stack[SIGNAL_STACK] __attribute__((aligned(64)));
static char small_stack[SMALL_STACK] __attribute__((aligned(4096)));
static struct report report;
static volatile uint64_t plain, restarting, releases, queued, out_of_order;
static uint64_t fs_base;
static int strict, use_tiles, no_stack, deep, in_handler;
static unsigned rounds;
static struct sections sections;

/* As a handler that does something: where it runs over what is in use, that is gone. */
static __attribute__((noinline)) void use_stack(void) {
    volatile char room[1024];
    for (unsigned i = 0; in_handler && i < sizeof room; i++)
        room[i] = 0;
}

static void on_plain(int number) {
    (void)number;
    use_stack();
    plain++;
}
static void on_restart(int number) {
    (void)number;
    restarting++;
}
static void on_release(int number) {
    (void)number;
    releases++;
}
/* Each has the number after the one before. */
static void on_queued(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    use_stack();
    if ((uint64_t)info->si_value.sival_int != queued)
        out_of_order++;
    queued++;
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags | (no_stack ? 0 : SA_ONSTACK)};
    sigaction(number, &action, NULL);
}

static void handle_all(void) {
    handle(SIGNAL_PLAIN, on_plain, 0);
    handle(SIGNAL_RESTART, on_restart, SA_RESTART);
    handle(SIGNAL_RELEASE, on_release, 0);
    struct sigaction action = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO | SA_RESTART | (no_stack ? 0 : SA_ONSTACK)};
    sigaction(SIGNAL_QUEUED, &action, NULL);
}

uint64_t usual_mask(void) { return 1ull << (SIGNAL_OF_MASK - 1) | 1ull << (SIGNAL_BLOCKED - 1); }

/* By the raw call: the library keeps signals of its own out of what it says. */
static uint64_t mask(void) {
    uint64_t found = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &found, KERNEL_SIGSET);
    return found;
}

static uint64_t base(int which) {
    uint64_t found = 0;
    syscall(SYS_arch_prctl, which, &found);
    return found;
}

/* What belongs to the thread and is in no register that it can see. */
static void check_thread(void) {
    if (strict)
        return;
    stack_t stack;
    sigaltstack(NULL, &stack);
    check(&report, "mask", usual_mask(), mask());
    check(&report, "stack-at", (uintptr_t)signal_stack, (uintptr_t)stack.ss_sp);
    check(&report, "stack-size", SIGNAL_STACK, stack.ss_size);
    check(&report, "stack-flags", in_handler ? SS_ONSTACK : 0, (uint64_t)stack.ss_flags);
    check(&report, "fs-base", fs_base, base(ARCH_GET_FS));
    check(&report, "gs-base", GS_BASE, base(ARCH_GET_GS));
}

static void set_stack(void) {
    stack_t stack = {.ss_sp = signal_stack, .ss_size = SIGNAL_STACK};
    if (sigaltstack(&stack, NULL))
        fail("setting the alternative stack");
}

static void set_thread(void) {
    uint64_t usual = usual_mask();
    if (!in_handler)
        set_stack();
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &usual, NULL, KERNEL_SIGSET))
        fail("setting the thread up");
    syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
    fs_base = base(ARCH_GET_FS);
}

/* One call. Who ends it is settled before what it left is looked at. */
static void once(int index, uint64_t span) {
    const struct state *state = states + index;
    struct rest rest = {.span = span, .mode = MODE_CALL};
    uint64_t signals = plain + restarting + queued, woken = releases;
    shared->state = index;
    shared->go = shared->released = shared->again = 0;
    shared->span = span;
    state->prepare(&rest);
    struct probe *probe = probe_prepare(rest.mode, rest.number, rest.used, rest.arguments);
    probe->go = &shared->go;
    shared->inside = 1;
    shared->started = now();
    __atomic_store_n(&shared->resting, rest.timed ? RELEASE_NOBODY : RELEASE_ANYBODY, __ATOMIC_SEQ_CST);
    say(&report, "resting");
    speak(&report);
    rest.began = now();
    if (!strcmp(state->name, "rseq"))
        rseq_run((char *)__builtin_thread_pointer() + __rseq_offset, probe->go, &sections);
    else
        probe_run(probe);
    uint64_t ended = now();
    shared->inside = 0;
    if (!__sync_bool_compare_and_swap(&shared->resting, RELEASE_ANYBODY, RELEASE_NOBODY) && !rest.timed)
        while (shared->resting != RELEASE_DONE && !strict)
            sched_yield();
    shared->resting = RELEASE_NOBODY;
    rounds++;

    long result = (long)probe->out[RAX];
    int section = !strcmp(state->name, "rseq"), user = rest.mode == MODE_USER;
    if (rest.mode == MODE_VFORK)
        rest.expected = result > 0 ? result : 1;
    if (!rest.timed)
        rest.deadline = shared->released;
    else if (!rest.deadline)
        rest.deadline = rest.began + span;
    int whole = user || (result == rest.expected && (result != -EINTR || releases != woken));
    say(&report, "done state=%s outcome=%s result=%ld took=%llu late=%lld handled=%llu queued=%llu out-of-order=%llu again=%u",
        state->name, whole ? "ok" : result == -EINTR ? "eintr" : "other", user ? 0 : result,
        (unsigned long long)(ended - rest.began), rest.deadline ? (long long)(ended - rest.deadline) : 0,
        (unsigned long long)(plain + restarting + queued - signals), (unsigned long long)queued, (unsigned long long)out_of_order,
        shared->again);
    if (section)
        say(&report, " commits=%llu aborts=%llu", (unsigned long long)sections.commits, (unsigned long long)sections.aborts);
    say(&report, " differs");
    if (section)
        check(&report, "torn", 0, sections.torn);
    else
        probe_compare(&report);
    check_thread();
    if (whole && state->finish)
        state->finish(&rest, result, &report);
    if (whole && !rest.timed && !shared->released)
        differs(&report, "not-released", 0, (uint64_t)result);
    if (!whole && !strict) {
        if (state->interrupted) {
            state->interrupted(&rest);
            /* What an interrupted sleep says is left, and what it has slept, make the whole. */
            if (rest.timed && result == -EINTR)
                say(&report, " left=%llu", (unsigned long long)rest.remaining);
        }
        tidy();
    }
    sections = (struct sections){0};
    speak(&report);
}

static void loop(int index, uint64_t span) {
    unsigned before = rounds;
    shared->stop = 0;
    shared->looping = 1;
    while (!shared->stop)
        once(index, span);
    shared->looping = 0;
    say(&report, "stopped %u", rounds - before);
    speak(&report);
}

static void obey(char *order) {
    char name[64];
    unsigned milliseconds;
    if (sscanf(order, "once %63s %u", name, &milliseconds) == 2 || sscanf(order, "loop %63s %u", name, &milliseconds) == 2) {
        int index = state_index(name);
        if (index < 0)
            fail("unknown state %s", name);
        (*order == 'o' ? once : loop)(index, milliseconds * 1000000ull);
    } else if (sscanf(order, "seccomp %63s", name) == 1) {
        /* The first read of the clock and the first line may need more calls than strict mode has. */
        now();
        strict = !strcmp(name, "strict");
        filter_install(name);
        say(&report, "filtered");
        speak(&report);
    } else if (!strcmp(order, "signals")) {
        say(&report, "signals %llu", (unsigned long long)(plain + restarting));
        speak(&report);
    } else if (!strcmp(order, "settle")) {
        say(&report, "settled %u", rounds);
        children_settle(&report);
        speak(&report);
        _exit(0);
    } else
        fail("unknown order %s", order);
}

static void *rest_as_told(void *unused) {
    char order[200];
    size_t used = 0;
    (void)unused;
    set_thread();
    children_make();
    say(&report, "ready %d %d %d return=%lx user=%lx-%lx section=%lx-%lx components=%s", getpid(), gettid(), getppid(),
        (unsigned long)probe_return, (unsigned long)probe_user, (unsigned long)probe_user_end, (unsigned long)rseq_start,
        (unsigned long)rseq_end, probe_components());
    speak(&report);
    for (;;) {
        long got = read(resources.orders[0], order + used, 1);
        if (got < 0 && errno == EINTR)
            continue;
        /* The companion has ended. */
        if (got <= 0 || used == sizeof order - 1)
            _exit(0);
        if (order[used++] != '\n')
            continue;
        order[used - 1] = 0;
        used = 0;
        obey(order);
    }
}

static void rest_deep(void) {
    volatile char depth[DEPTH];
    depth[0] = 0;
    rest_as_told((void *)depth);
}

static void on_rest(int number) {
    (void)number;
    rest_as_told(NULL);
}

static void rest_in_handler(void) {
    struct sigaction action = {.sa_handler = on_rest, .sa_flags = SA_ONSTACK};
    set_stack();
    sigaction(SIGNAL_REST, &action, NULL);
    raise(SIGNAL_REST);
}

/* Until the process ends. */
static void stay_in_vfork(void) {
    if (vfork() == 0) {
        end_with_holder();
        for (;;)
            syscall(SYS_pause);
    }
}

static pthread_t begin(int small) {
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all;
    pthread_attr_init(&attributes);
    if (small && pthread_attr_setstack(&attributes, small_stack, sizeof small_stack))
        fail("a stack of 16 KiB");
    /* Signals are for the thread that rests. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    errno = pthread_create(&thread, &attributes, rest_as_told, NULL);
    if (errno)
        fail("making a thread");
    return thread;
}

int main(int count, char **arguments) {
    const char *thread = "main";
    if (count < 2)
        fail("usage: holder DIRECTORY [beside|other|small|alone] [tiles] [no-stack] [deep] [handler]");
    for (int i = 2; i < count; i++) {
        use_tiles |= !strcmp(arguments[i], "tiles");
        no_stack |= !strcmp(arguments[i], "no-stack");
        deep |= !strcmp(arguments[i], "deep");
        in_handler |= !strcmp(arguments[i], "handler");
        if (strcmp(arguments[i], "tiles") && strcmp(arguments[i], "no-stack") && strcmp(arguments[i], "deep") &&
            strcmp(arguments[i], "handler"))
            thread = arguments[i];
    }
    if (!__rseq_size)
        fail("the C library has not registered rseq");
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("sharing memory");
    shared->holder = getpid();
    resources_make(arguments[1]);
    if (fork() == 0)
        companion_run();
    close(0);
    close(resources.orders[1]);
    probe_init(use_tiles);
    handle_all();
    if (deep)
        rest_deep();
    if (in_handler)
        rest_in_handler();
    if (!strcmp(thread, "main"))
        rest_as_told(NULL);
    pthread_t other = begin(!strcmp(thread, "small"));
    if (!strcmp(thread, "alone"))
        pthread_exit(NULL);
    if (strcmp(thread, "beside"))
        stay_in_vfork();
    pthread_join(other, NULL);
}
