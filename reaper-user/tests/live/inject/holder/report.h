/* What a round found, as one line. */
#ifndef REPORT_H
#define REPORT_H
#include <stddef.h>
#include <stdint.h>

struct report {
    char line[3500];
    size_t used;
    int differences;
};

/* As printf. */
__attribute__((format(printf, 2, 3))) void say(struct report *report, const char *format, ...);
/* Something is not as it was: ` NAME:EXPECTED/FOUND`. */
void differs(struct report *report, const char *name, uint64_t expected, uint64_t found);
void check(struct report *report, const char *name, uint64_t expected, uint64_t found);
/* Writes the line, whole, to standard output, and begins another. */
void speak(struct report *report);
/* The program cannot go on. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);
#endif
