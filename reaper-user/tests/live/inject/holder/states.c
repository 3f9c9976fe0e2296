/* Where the thread rests: all the calls of the matrix, what ends them, and what they return then. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "holder.h"
#include "probe.h"

#define SECOND 1000000000ull
#define BYTE 0x5a
#define EXIT_CODE 57

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

static struct timespec span, left;
static struct timeval interval;
static fd_set set;
static struct pollfd polled;
static struct epoll_event event;
static struct io_event completion;
static struct { uint64_t mask, size; } masked;
static uint64_t mask_of_call;
static siginfo_t info;
static unsigned char buffer[4096];
static struct { long type; char text[8]; } message;
static struct sembuf operation;
static struct flock record;
static char fifo[RESOURCES_DIRECTORY_MAX + 10];
static int status;

uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static struct timespec spec(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};
}

#define POINTER(x) ((uint64_t)(uintptr_t)(x))
#define CALL(rest, number_, ...)                                                                                       \
    do {                                                                                                               \
        const uint64_t list[] = {__VA_ARGS__};                                                                         \
        (rest)->number = (number_);                                                                                    \
        (rest)->used = sizeof list / sizeof *list;                                                                     \
        memcpy((rest)->arguments, list, sizeof list);                                                                  \
    } while (0)

/* It ends by itself with this result. */
static void timed(struct rest *rest, long expected) {
    rest->timed = 1;
    rest->expected = expected;
    span = spec(rest->span);
}

static void mask_for_call(void) {
    mask_of_call = usual_mask() | 1ull << (SIGNAL_OF_CALL - 1);
    masked.mask = POINTER(&mask_of_call);
    masked.size = KERNEL_SIGSET;
}

static void says_left(struct rest *rest) { rest->remaining = (uint64_t)left.tv_sec * SECOND + (uint64_t)left.tv_nsec; }

static void empty(int descriptor) {
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    while (read(descriptor, buffer, sizeof buffer) > 0)
        ;
    fcntl(descriptor, F_SETFL, 0);
}

/* The byte that ends a wait for data is taken away. */
static void drain(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    check(report, "bytes", 1, (uint64_t)read(resources.data[0], buffer, 8));
    check(report, "byte", BYTE, buffer[0]);
}

/* Sleeping */
static void nanosleep_prepare(struct rest *rest) {
    timed(rest, 0);
    CALL(rest, SYS_nanosleep, POINTER(&span), POINTER(&left));
}
static void clock_relative(struct rest *rest) {
    timed(rest, 0);
    CALL(rest, SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, POINTER(&span), POINTER(&left));
}
static void clock_absolute(struct rest *rest) {
    timed(rest, 0);
    rest->deadline = now() + rest->span;
    span = spec(rest->deadline);
    CALL(rest, SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, POINTER(&span), 0);
}

/* Waiting for descriptors */
static void select_prepare(struct rest *rest) {
    timed(rest, 0);
    FD_ZERO(&set);
    FD_SET(resources.data[0], &set);
    interval = (struct timeval){.tv_sec = span.tv_sec, .tv_usec = span.tv_nsec / 1000};
    CALL(rest, SYS_select, (uint64_t)resources.data[0] + 1, POINTER(&set), 0, 0, POINTER(&interval));
}
static void select_left(struct rest *rest) {
    rest->remaining = (uint64_t)interval.tv_sec * SECOND + (uint64_t)interval.tv_usec * 1000;
}
static void select_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    check(report, "set", 0, (uint64_t)FD_ISSET(resources.data[0], &set));
}
static void pselect_prepare(struct rest *rest) {
    select_prepare(rest);
    mask_for_call();
    CALL(rest, SYS_pselect6, (uint64_t)resources.data[0] + 1, POINTER(&set), 0, 0, POINTER(&span), POINTER(&masked));
}
static void span_left(struct rest *rest) {
    left = span;
    says_left(rest);
}
static void poll_on(struct rest *rest, int milliseconds) {
    polled = (struct pollfd){.fd = resources.data[0], .events = POLLIN};
    CALL(rest, SYS_poll, POINTER(&polled), 1, (uint64_t)(int64_t)milliseconds);
}
static void poll_timed(struct rest *rest) {
    timed(rest, 0);
    poll_on(rest, (int)(rest->span / 1000000));
}
static void poll_infinite(struct rest *rest) {
    rest->expected = 1;
    poll_on(rest, -1);
}
static void poll_finish(struct rest *rest, long result, struct report *report) {
    check(report, "revents", POLLIN, (uint64_t)polled.revents);
    drain(rest, result, report);
}
static void ppoll_prepare(struct rest *rest) {
    timed(rest, 0);
    poll_on(rest, 0);
    mask_for_call();
    CALL(rest, SYS_ppoll, POINTER(&polled), 1, POINTER(&span), POINTER(&mask_of_call), KERNEL_SIGSET);
}
static void epoll_on(struct rest *rest, long number, uint64_t timeout) {
    mask_for_call();
    uint64_t mask = number == SYS_epoll_wait ? random_word() : POINTER(&mask_of_call);
    CALL(rest, number, (uint64_t)resources.epoll, POINTER(&event), 1, timeout, mask, KERNEL_SIGSET);
    rest->used = number == SYS_epoll_wait ? 4 : 6;
}
static void epoll_infinite(struct rest *rest) {
    rest->expected = 1;
    epoll_on(rest, SYS_epoll_wait, (uint64_t)-1);
}
static void epoll_finish(struct rest *rest, long result, struct report *report) {
    check(report, "event", BYTE, event.data.u64);
    drain(rest, result, report);
}
static void epoll_timed(struct rest *rest) {
    timed(rest, 0);
    epoll_on(rest, SYS_epoll_wait, rest->span / 1000000);
}
static void epoll_pwait_timed(struct rest *rest) {
    timed(rest, 0);
    epoll_on(rest, SYS_epoll_pwait, rest->span / 1000000);
}
static void epoll_pwait2_timed(struct rest *rest) {
    timed(rest, 0);
    epoll_on(rest, SYS_epoll_pwait2, POINTER(&span));
}

/* Futexes */
static void futex_infinite(struct rest *rest) {
    CALL(rest, SYS_futex, POINTER(&shared->word), FUTEX_WAIT, 0, 0);
}
static void futex_relative(struct rest *rest) {
    timed(rest, -ETIMEDOUT);
    CALL(rest, SYS_futex, POINTER(&shared->word), FUTEX_WAIT, 0, POINTER(&span));
}
static void futex_absolute(struct rest *rest) {
    timed(rest, -ETIMEDOUT);
    rest->deadline = now() + rest->span;
    span = spec(rest->deadline);
    CALL(rest, SYS_futex, POINTER(&shared->word), FUTEX_WAIT_BITSET, 0, POINTER(&span), 0, FUTEX_BITSET_MATCH_ANY);
}

/* Reading, writing, opening */
static void read_pipe(struct rest *rest) {
    rest->expected = 1;
    CALL(rest, SYS_read, (uint64_t)resources.data[0], POINTER(buffer), 8);
}
static void byte_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    check(report, "byte", BYTE, buffer[0]);
}
static void read_inotify(struct rest *rest) {
    /* An event without a name: that of the directory itself. */
    rest->expected = sizeof(struct inotify_event);
    CALL(rest, SYS_read, (uint64_t)resources.notifier, POINTER(buffer), sizeof buffer);
}
static void read_timer(struct rest *rest) {
    timed(rest, 8);
    rest->deadline = now() + rest->span;
    const struct itimerspec at = {.it_value = spec(rest->deadline)};
    timerfd_settime(resources.timer, TFD_TIMER_ABSTIME, &at, NULL);
    CALL(rest, SYS_read, (uint64_t)resources.timer, POINTER(buffer), 8);
}
static void recv_with(struct rest *rest, uint64_t timeout) {
    interval = (struct timeval){.tv_sec = (time_t)(timeout / SECOND), .tv_usec = (suseconds_t)(timeout % SECOND / 1000)};
    setsockopt(resources.pair[0], SOL_SOCKET, SO_RCVTIMEO, &interval, sizeof interval);
    CALL(rest, SYS_recvfrom, (uint64_t)resources.pair[0], POINTER(buffer), 8, 0, 0, 0);
}
static void recv_infinite(struct rest *rest) {
    rest->expected = 1;
    recv_with(rest, 0);
}
static void recv_timed(struct rest *rest) {
    timed(rest, -EAGAIN);
    recv_with(rest, rest->span);
}
static void accept_prepare(struct rest *rest) {
    rest->expected = dup(resources.data[0]);
    close((int)rest->expected);
    CALL(rest, SYS_accept, (uint64_t)resources.listener, 0, 0);
}
static void descriptor_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)report;
    close((int)result);
}
static void write_full(struct rest *rest) {
    rest->expected = 1;
    /* From empty on: a byte would find room beside one that has a page for itself. */
    empty(resources.full[0]);
    fcntl(resources.full[1], F_SETFL, O_NONBLOCK);
    while (write(resources.full[1], buffer, sizeof buffer) > 0)
        ;
    fcntl(resources.full[1], F_SETFL, 0);
    CALL(rest, SYS_write, (uint64_t)resources.full[1], POINTER(buffer), 1);
}
static void open_fifo(struct rest *rest) {
    accept_prepare(rest);
    snprintf(fifo, sizeof fifo, "%s/fifo", resources.directory);
    CALL(rest, SYS_open, POINTER(fifo), O_RDONLY);
}

/* Waiting for processes and signals */
static void wait4_prepare(struct rest *rest) {
    rest->expected = child_that_waits(EXIT_CODE);
    CALL(rest, SYS_wait4, (uint64_t)rest->expected, POINTER(&status), 0, 0);
}
static void wait4_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    shared->child = 0;
    check(report, "status", EXIT_CODE << 8, (uint64_t)status);
}
static void waitid_prepare(struct rest *rest) {
    pid_t child = child_that_waits(EXIT_CODE);
    CALL(rest, SYS_waitid, P_PID, (uint64_t)child, POINTER(&info), WEXITED, 0);
}
static void waitid_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    shared->child = 0;
    check(report, "status", EXIT_CODE, (uint64_t)info.si_status);
}
/* The child that was not waited for: it is told to end, and waited for. */
static void wait_interrupted(struct rest *rest) {
    (void)rest;
    if (write(resources.children[1], buffer, 1) != 1)
        fail("ending a child");
    siginfo_t gone;
    while (waitid(P_PID, (id_t)shared->child, &gone, WEXITED) != 0 && errno == EINTR)
        ;
    shared->child = 0;
}
static void pause_prepare(struct rest *rest) {
    rest->expected = -EINTR;
    CALL(rest, SYS_pause);
}
static void suspend_prepare(struct rest *rest) {
    rest->expected = -EINTR;
    mask_for_call();
    CALL(rest, SYS_rt_sigsuspend, POINTER(&mask_of_call), KERNEL_SIGSET);
}
static void sigwait_with(struct rest *rest, uint64_t timeout) {
    static uint64_t waited_for;
    waited_for = 1ull << (SIGNAL_BLOCKED - 1);
    CALL(rest, SYS_rt_sigtimedwait, POINTER(&waited_for), POINTER(&info), timeout, KERNEL_SIGSET);
}
static void sigwait_infinite(struct rest *rest) {
    rest->expected = SIGNAL_BLOCKED;
    sigwait_with(rest, 0);
}
static void sigwait_timed(struct rest *rest) {
    timed(rest, -EAGAIN);
    sigwait_with(rest, POINTER(&span));
}

/* Locks and System V */
static void flock_prepare(struct rest *rest) {
    flock(resources.locked, LOCK_UN);
    flock(resources.lock, LOCK_EX);
    CALL(rest, SYS_flock, (uint64_t)resources.locked, LOCK_EX);
}
static void flock_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result, (void)report;
    flock(resources.locked, LOCK_UN);
}
static void fcntl_prepare(struct rest *rest) {
    /* Of the open file, so that it stands against this process's own, and the companion can let go of it. */
    struct flock of_file = {.l_type = F_WRLCK};
    fcntl(resources.lock, F_OFD_SETLK, &of_file);
    record = (struct flock){.l_type = F_WRLCK};
    CALL(rest, SYS_fcntl, (uint64_t)resources.locked, F_SETLKW, POINTER(&record));
}
static void fcntl_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result, (void)report;
    record.l_type = F_UNLCK;
    fcntl(resources.locked, F_SETLK, &record);
}
static void msgrcv_prepare(struct rest *rest) {
    rest->expected = 1;
    CALL(rest, SYS_msgrcv, (uint64_t)resources.queue, POINTER(&message), sizeof message.text, 0, 0);
}
static void msgrcv_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    check(report, "message", BYTE, (uint64_t)message.text[0]);
}
static void semop_on(struct rest *rest, long number) {
    operation = (struct sembuf){.sem_op = -1};
    CALL(rest, number, (uint64_t)resources.semaphore, POINTER(&operation), 1, POINTER(&span));
    rest->used = number == SYS_semop ? 3 : 4;
}
static void semop_infinite(struct rest *rest) { semop_on(rest, SYS_semop); }
static void semop_timed(struct rest *rest) {
    timed(rest, -EAGAIN);
    semop_on(rest, SYS_semtimedop);
}
static void io_getevents_timed(struct rest *rest) {
    timed(rest, 0);
    CALL(rest, SYS_io_getevents, resources.aio, 1, 1, POINTER(&completion), POINTER(&span));
}

/* Not asleep, and asleep where no signal comes through. */
static void user_prepare(struct rest *rest) {
    rest->mode = MODE_USER;
    rest->number = -1;
    rest->used = 0;
}
static void vfork_prepare(struct rest *rest) {
    timed(rest, 0);
    rest->mode = MODE_VFORK;
    rest->number = SYS_vfork;
    rest->used = 0;
}
static void vfork_finish(struct rest *rest, long result, struct report *report) {
    (void)rest;
    siginfo_t gone;
    check(report, "child", 0, (uint64_t)waitid(P_PID, (id_t)result, &gone, WEXITED));
    check(report, "status", EXIT_CODE, (uint64_t)gone.si_status);
}
void vfork_child(void) {
    syscall(SYS_nanosleep, &span, NULL);
    syscall(SYS_exit_group, EXIT_CODE);
    __builtin_unreachable();
}

void tidy(void) {
    empty(resources.data[0]);
    empty(resources.pair[0]);
    empty(resources.notifier);
    fcntl(resources.listener, F_SETFL, O_NONBLOCK);
    for (int found; (found = accept(resources.listener, NULL, NULL)) >= 0;)
        close(found);
    fcntl(resources.listener, F_SETFL, 0);
    while (msgrcv(resources.queue, &message, sizeof message.text, 0, IPC_NOWAIT) >= 0)
        ;
    semctl(resources.semaphore, 0, SETVAL, 0);
    sigset_t waited_for;
    sigemptyset(&waited_for);
    sigaddset(&waited_for, SIGNAL_BLOCKED);
    while (sigtimedwait(&waited_for, NULL, &(struct timespec){0}) > 0)
        ;
    ring_tidy();
}

const struct state states[] = {
    {"nanosleep", nanosleep_prepare, NULL, says_left},
    {"clock-nanosleep-relative", clock_relative, NULL, says_left},
    {"clock-nanosleep-absolute", clock_absolute, NULL, NULL},
    {"select", select_prepare, select_finish, select_left},
    {"pselect6", pselect_prepare, select_finish, span_left},
    {"poll-timed", poll_timed, NULL, NULL},
    {"poll", poll_infinite, poll_finish, NULL},
    {"ppoll", ppoll_prepare, NULL, span_left},
    {"futex", futex_infinite, NULL, NULL},
    {"futex-relative", futex_relative, NULL, NULL},
    {"futex-absolute", futex_absolute, NULL, NULL},
    {"read", read_pipe, byte_finish, NULL},
    {"read-inotify", read_inotify, NULL, NULL},
    {"read-timerfd", read_timer, NULL, NULL},
    {"recv", recv_infinite, byte_finish, NULL},
    {"accept", accept_prepare, descriptor_finish, NULL},
    {"write", write_full, NULL, NULL},
    {"open-fifo", open_fifo, descriptor_finish, NULL},
    {"wait4", wait4_prepare, wait4_finish, wait_interrupted},
    {"waitid", waitid_prepare, waitid_finish, wait_interrupted},
    {"pause", pause_prepare, NULL, NULL},
    {"rt-sigsuspend", suspend_prepare, NULL, NULL},
    {"flock", flock_prepare, flock_finish, NULL},
    {"fcntl-setlkw", fcntl_prepare, fcntl_finish, NULL},
    {"msgrcv", msgrcv_prepare, msgrcv_finish, NULL},
    {"epoll-wait", epoll_infinite, epoll_finish, NULL},
    {"rt-sigtimedwait", sigwait_infinite, NULL, NULL},
    {"semop", semop_infinite, NULL, NULL},
    {"io-uring-enter", ring_prepare, ring_finish, NULL},
    {"epoll-wait-timed", epoll_timed, NULL, NULL},
    {"epoll-pwait-timed", epoll_pwait_timed, NULL, NULL},
    {"epoll-pwait2-timed", epoll_pwait2_timed, NULL, NULL},
    {"recv-timed", recv_timed, NULL, NULL},
    {"rt-sigtimedwait-timed", sigwait_timed, NULL, NULL},
    {"semtimedop", semop_timed, NULL, NULL},
    {"io-getevents-timed", io_getevents_timed, NULL, NULL},
    {"vfork", vfork_prepare, vfork_finish, NULL},
    {"user-code", user_prepare, NULL, NULL},
    {"rseq", user_prepare, NULL, NULL},
    {NULL, NULL, NULL, NULL},
};

int state_index(const char *name) {
    for (int i = 0; states[i].name; i++)
        if (!strcmp(states[i].name, name))
            return i;
    return -1;
}
