#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

void say(struct report *report, const char *format, ...) {
    /* Room for the end of the line is left. */
    size_t left = sizeof report->line - 2 - report->used;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(report->line + report->used, left, format, arguments);
    va_end(arguments);
    if (written > 0)
        report->used += (size_t)written < left ? (size_t)written : left - 1;
}

void differs(struct report *report, const char *name, uint64_t expected, uint64_t found) {
    report->differences++;
    say(report, " %s:%llx/%llx", name, (unsigned long long)expected, (unsigned long long)found);
}

void check(struct report *report, const char *name, uint64_t expected, uint64_t found) {
    if (expected != found)
        differs(report, name, expected, found);
}

void speak(struct report *report) {
    report->line[report->used++] = '\n';
    for (size_t done = 0; done < report->used;) {
        long written = syscall(SYS_write, 1, report->line + done, report->used - done);
        if (written < 0 && errno != EINTR)
            break;
        done += written > 0 ? (size_t)written : 0;
    }
    report->used = 0;
    report->differences = 0;
}

void fail(const char *format, ...) {
    char text[500];
    int reason = errno;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char line[700];
    int length = snprintf(line, sizeof line, "failed %s: %s\n", text, strerror(reason));
    if (write(1, line, (size_t)length) < 0)
        _exit(99);
    _exit(98);
}
