/* A holder that does something with its zombies at the moment when somebody else does.
 *
 * The main thread rests in a read of its orders; another one carries them out. Orders, one a line:
 *
 *   pile N             N children die              `zombies PID:CODE…`
 *   take PID US        after so many microseconds waits for it    `took PID CODE`, or `gone PID`
 *   replace PID US     the same, and has another child with this pid die with another code
 *                                                  `replaced PID`, `gone PID`, or `void PID`;
 *                                                  `meanwhile PID` where the main thread was held by a tracer then
 *   look PID           without taking it           `found PID CODE`, or `none PID`
 *   exec US            runs itself again           `ready`
 *   exec-main US       the same by the main thread
 *   leave US           ends, with code 42 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIRST_CODE 7
#define REPLACED 99
#define LEFT 42
#define LINE 8000

static int orders[2];
static char **again;

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    char line[LINE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (write(1, line, (size_t)length) != length)
        _exit(1);
}

static void after(long microseconds) {
    struct timespec span = {.tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &span, NULL);
}

static void settled(pid_t child) {
    siginfo_t seen;
    while (waitid(P_PID, (id_t)child, &seen, WEXITED | WNOWAIT) != 0 && errno == EINTR)
        ;
}

static void pile(int number) {
    char line[LINE] = "";
    size_t used = 0;
    for (int i = 0; i < number; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(FIRST_CODE + i % 80);
        settled(child);
        used += (size_t)snprintf(line + used, sizeof line - used, " %d:%d", child, FIRST_CODE + i % 80);
    }
    say("zombies%s", line);
}

/* Its exit code, or -1 where it is not there. */
static int take(pid_t child) {
    int status;
    return waitpid(child, &status, WNOHANG) == child ? WEXITSTATUS(status) : -1;
}

/* Whether somebody traces the main thread. */
static int is_held(void) {
    char text[4096];
    int status = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    long length = read(status, text, sizeof text - 1);
    close(status);
    text[length > 0 ? length : 0] = 0;
    const char *tracer = strstr(text, "TracerPid:\t");
    return !tracer || tracer[11] != '0';
}

static void replace(pid_t child) {
    if (take(child) < 0) {
        say("gone %d", child);
        return;
    }
    int held = is_held();
    pid_t wanted[] = {child};
    struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)wanted, .set_tid_size = 1};
    long made = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (made == 0)
        _exit(REPLACED);
    if (made < 0) {
        /* Somebody else has it. */
        say("void %d %d", child, errno);
        return;
    }
    settled(child);
    say("%s %d", held ? "meanwhile" : "replaced", child);
}

static void look(pid_t child) {
    siginfo_t seen = {0};
    if (waitid(P_PID, (id_t)child, &seen, WEXITED | WNOHANG | WNOWAIT) == 0 && seen.si_pid == child)
        say("found %d %d", child, seen.si_status);
    else
        say("none %d", child);
}

static void run_again(void) {
    execv("/proc/self/exe", again);
    _exit(1);
}

static void obey(const char *order) {
    int pid = 0;
    long wait = 0;
    if (sscanf(order, "pile %d", &pid) == 1)
        pile(pid);
    else if (sscanf(order, "take %d %ld", &pid, &wait) == 2) {
        after(wait);
        int code = take(pid);
        if (code < 0)
            say("gone %d", pid);
        else
            say("took %d %d", pid, code);
    } else if (sscanf(order, "replace %d %ld", &pid, &wait) == 2) {
        after(wait);
        replace(pid);
    } else if (sscanf(order, "look %d", &pid) == 1)
        look(pid);
    else if (sscanf(order, "exec-main %ld", &wait) == 1 || sscanf(order, "exec %ld", &wait) == 1) {
        after(wait);
        run_again();
    } else if (sscanf(order, "leave %ld", &wait) == 1) {
        after(wait);
        _exit(LEFT);
    } else
        _exit(2);
}

/* A line of a descriptor, without what follows it. */
static int line_of(int descriptor, char *line) {
    for (size_t used = 0; used < LINE; used++) {
        long got;
        while ((got = read(descriptor, line + used, 1)) < 0 && errno == EINTR)
            ;
        if (got <= 0)
            return 0;
        if (line[used] == '\n') {
            line[used] = 0;
            return 1;
        }
    }
    return 0;
}

static void *worker(void *unused) {
    static char line[LINE];
    (void)unused;
    while (line_of(orders[0], line))
        obey(line);
    return NULL;
}

int main(int count, char **arguments) {
    static char line[LINE];
    pthread_t thread;
    (void)count;
    again = arguments;
    if (pipe2(orders, O_CLOEXEC) || pthread_create(&thread, NULL, worker, NULL))
        _exit(1);
    say("ready");
    while (line_of(0, line)) {
        if (!strncmp(line, "exec-main", 9)) {
            obey(line);
            continue;
        }
        size_t length = strlen(line);
        line[length] = '\n';
        if (write(orders[1], line, length + 1) < 0)
            _exit(1);
    }
    _exit(0);
}
