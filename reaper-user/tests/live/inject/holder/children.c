/* The companion, a child that lets go of what the holder waits for and makes its zombies; and the holder's own children. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "holder.h"

#define BYTE 0x5a
#define OWN 3
#define FIRST_CODE 11
#define LIVING_CODE 29

static const char byte = BYTE;
static pid_t own[OWN], living;
static int lives[2];

/* One that has died is for ever in its call. */
static int is_inside(void) { return shared->inside && kill(shared->holder, 0) == 0; }
/* Until it has helped: who was not there yet would not be woken. */
static void until_woken(int wakes(void)) {
    while (is_inside() && wakes() <= 0) {
        struct timespec soon = {.tv_nsec = 2000000};
        nanosleep(&soon, NULL);
    }
}
static int wake(void) { return (int)syscall(SYS_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0); }
static int join(void) {
    char path[RESOURCES_DIRECTORY_MAX + 10];
    snprintf(path, sizeof path, "%s/fifo", resources.directory);
    int fifo = open(path, O_WRONLY | O_NONBLOCK);
    if (fifo >= 0)
        close(fifo);
    return fifo;
}
static void call(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.90s/socket", resources.directory);
    int caller = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(caller, (struct sockaddr *)&address, sizeof address))
        fail("connecting");
    close(caller);
}
/* A signal that comes before the call is entered again is handled and wakes nobody: any program that relies on pause has this. */
static void signal_until_woken(void) {
    for (int tries = 0; is_inside(); tries++) {
        if (tries % 100 == 0) {
            kill(shared->holder, SIGNAL_RELEASE);
            shared->again += tries > 0;
        }
        struct timespec soon = {.tv_nsec = 1000000};
        nanosleep(&soon, NULL);
    }
}

static void let_go(const char *name) {
    static const char *const readers[] = {"poll", "read", "epoll-wait", "io-uring-enter"};
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (!strcmp(name, readers[i])) {
            if (write(resources.data[1], &byte, 1) != 1)
                fail("writing a byte");
            return;
        }
    if (!strcmp(name, "futex"))
        until_woken(wake);
    else if (!strcmp(name, "open-fifo"))
        until_woken(join);
    else if (!strcmp(name, "read-inotify"))
        fchmod(resources.lock, 0600);
    else if (!strcmp(name, "recv"))
        send(resources.pair[1], &byte, 1, 0);
    else if (!strcmp(name, "accept"))
        call();
    else if (!strcmp(name, "write")) {
        char page[4096];
        if (read(resources.full[0], page, sizeof page) <= 0)
            fail("reading a page");
    } else if (!strcmp(name, "wait4") || !strcmp(name, "waitid")) {
        if (write(resources.children[1], &byte, 1) != 1)
            fail("ending a child");
    } else if (!strcmp(name, "pause") || !strcmp(name, "rt-sigsuspend"))
        signal_until_woken();
    else if (!strcmp(name, "rt-sigtimedwait"))
        kill(shared->holder, SIGNAL_BLOCKED);
    else if (!strcmp(name, "flock"))
        flock(resources.lock, LOCK_UN);
    else if (!strcmp(name, "fcntl-setlkw")) {
        struct flock of_file = {.l_type = F_UNLCK};
        fcntl(resources.lock, F_OFD_SETLK, &of_file);
    } else if (!strcmp(name, "msgrcv")) {
        struct { long type; char text[1]; } message = {1, {BYTE}};
        msgsnd(resources.queue, &message, 1, 0);
    } else if (!strcmp(name, "semop")) {
        struct sembuf more = {.sem_op = 1};
        semop(resources.semaphore, &more, 1);
    }
}

void release(int state) {
    if (!__sync_bool_compare_and_swap(&shared->resting, RELEASE_ANYBODY, RELEASE_BEGUN))
        return;
    shared->released = now();
    shared->go = 1;
    let_go(states[state].name);
    shared->resting = RELEASE_DONE;
}

/* Orphans that die: their parent has ended, so they are the holder's. Each says its pid and the code it ends with. */
static void pile(int number) {
    int told[2];
    if (pipe(told))
        fail("making a pipe");
    pid_t parent = fork();
    if (parent == 0) {
        pid_t self = getpid();
        for (int i = 0; i < number; i++) {
            int code = 1 + i % 120;
            pid_t orphan = fork();
            if (orphan == 0) {
                while (getppid() == self)
                    usleep(200);
                _exit(code);
            }
            if (orphan < 0)
                fail("making orphan %d", i);
            int pair[2] = {orphan, code};
            if (write(told[1], pair, sizeof pair) != sizeof pair)
                fail("telling");
        }
        _exit(0);
    }
    close(told[1]);
    struct report line = {0};
    say(&line, "zombies");
    for (int pair[2]; read(told[0], pair, sizeof pair) == sizeof pair;)
        say(&line, " %d:%d", pair[0], pair[1]);
    close(told[0]);
    while (waitpid(parent, NULL, 0) < 0 && errno == EINTR)
        ;
    speak(&line);
}

static void obey(char *order) {
    static const char pass_on[] = "once loop seccomp settle signals";
    char *rest = strchr(order, ' ');
    size_t length = rest ? (size_t)(rest - order) : strlen(order);
    if (!strcmp(order, "release"))
        release(shared->state);
    else if (!strcmp(order, "stop")) {
        shared->stop = 1;
    } else if (!strncmp(order, "pile ", 5))
        pile(atoi(order + 5));
    else if (memmem(pass_on, sizeof pass_on, order, length)) {
        strcat(order, "\n");
        if (write(resources.orders[1], order, strlen(order)) < 0)
            fail("passing on");
    } else
        fail("unknown order %s", order);
}

/* Until standard input ends, and that is when the test ends. */
void companion_run(void) {
    static char text[4096];
    size_t used = 0;
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        int ready = poll(&input, 1, shared->looping ? 2 : -1);
        if (shared->looping && shared->resting == RELEASE_ANYBODY && now() > shared->started + shared->span)
            release(shared->state);
        if (ready <= 0)
            continue;
        long got = read(0, text + used, sizeof text - used - 2);
        if (got <= 0)
            break;
        used += (size_t)got;
        for (char *end; (end = memchr(text, '\n', used));) {
            char order[200];
            size_t length = (size_t)(end - text);
            snprintf(order, sizeof order - 1, "%.*s", (int)length, text);
            used -= length + 1;
            memmove(text, end + 1, used);
            obey(order);
        }
    }
    shared->stop = 1;
    release(shared->state);
    msgctl(resources.queue, IPC_RMID, NULL);
    semctl(resources.semaphore, 0, IPC_RMID);
    _exit(0);
}

void end_with_holder(void) {
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
    /* It may be gone already. */
    if (syscall(SYS_getppid) != shared->holder)
        syscall(SYS_exit_group, 1);
}

/* Ends with this code as soon as a byte comes, or with its parent. */
static pid_t child_on(int input, int code) {
    pid_t child = fork();
    if (child == 0) {
        char got;
        end_with_holder();
        _exit(read(input, &got, 1) == 1 ? code : 1);
    }
    if (child < 0)
        fail("making a child");
    return child;
}

pid_t child_that_waits(int code) { return shared->child = child_on(resources.children[0], code); }

/* Some that are dead already, and one that lives on. */
void children_make(void) {
    if (pipe(lives))
        fail("making a pipe");
    for (int i = 0; i < OWN; i++) {
        own[i] = fork();
        if (own[i] == 0)
            _exit(FIRST_CODE + i);
    }
    living = child_on(lives[0], LIVING_CODE);
    for (int i = 0; i < OWN; i++) {
        siginfo_t seen;
        waitid(P_PID, (id_t)own[i], &seen, WEXITED | WNOWAIT);
    }
}

static void settle(struct report *report, pid_t child, int code) {
    siginfo_t seen = {0};
    int got;
    while ((got = waitid(P_PID, (id_t)child, &seen, WEXITED)) != 0 && errno == EINTR)
        ;
    if (got != 0)
        differs(report, "child-gone", (uint64_t)child, (uint64_t)errno);
    check(report, "child-ended", CLD_EXITED, (uint64_t)seen.si_code);
    check(report, "child-status", (uint64_t)code, (uint64_t)seen.si_status);
}

void children_settle(struct report *report) {
    for (int i = 0; i < OWN; i++)
        settle(report, own[i], FIRST_CODE + i);
    if (write(lives[1], &byte, 1) != 1)
        fail("ending a child");
    settle(report, living, LIVING_CODE);
}
