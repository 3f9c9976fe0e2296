// Forks a child in the way that its argument names, in leak_here, and then waits to be killed.
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

extern char **environ;

volatile int sink;

// Each call is followed by a store, so that it is not a jump.
__attribute__((noinline)) void leak_here(const char *how) {
    char *const arguments[] = {"true", NULL};
    pid_t child;
    if (!strcmp(how, "fork") || !strncmp(how, "compiled", 8)) {
        if (fork() == 0) { // fork
            _exit(0);
        }
    } else if (!strcmp(how, "vfork")) {
        if (vfork() == 0) { // vfork
            _exit(0);
        }
    } else if (!strcmp(how, "posix_spawn")) {
        sink = posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ); // posix_spawn
    } else if (!strcmp(how, "system")) {
        sink = system("exit 0"); // system
    } else if (!strcmp(how, "popen")) {
        sink = popen("exit 0", "r") != NULL; // popen
    }
    sink = 1;
}

// Stands in the way, with a large frame and a frame pointer's worth of registers.
__attribute__((noinline)) void through(const char *how, int depth) {
#ifdef REALIGNED
    // As vectors want it, beside room whose size is not known: the tables say that in an expression.
    volatile char room[1024] __attribute__((aligned(64)));
    volatile char *more = __builtin_alloca(depth * 40 + 8);
    more[0] = 1;
#else
    volatile char room[1024];
#endif
    room[depth] = 1;
    if (depth > 0) {
        through(how, depth - 1);
    } else {
        leak_here(how);
    }
    sink = room[depth];
}

// Calls leak_here from code that is compiled now, as virtual machines do, and says so where they do.
void compile(const char *how) {
    // push %rbp; mov %rsp,%rbp; mov %rdi,%rax; mov %rsi,%rdi; call *%rax; pop %rbp; ret
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xf8, 0x48,
                                         0x89, 0xf7, 0xff, 0xd0, 0x5d, 0xc3};
    unsigned char *memory =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(memory + 64, code, sizeof(code));
    char path[64], other[64];
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
    snprintf(other, sizeof(other), "/tmp/perf-%d.map-elsewhere", getpid());
    int is_link = !strcmp(how, "compiled-linked");
    if (is_link && symlink(other, path)) {
        exit(1);
    }
    FILE *map = fopen(is_link ? other : path, "w");
    fprintf(map, "%lx 40 JS:~before before.js:1:1\n", (long)memory);
    fprintf(map, "%lx %zx JS:~leakHere /srv/leak.js:2:18\n", (long)memory + 64, sizeof(code));
    fprintf(map, "%lx 40 an unfinished li", (long)memory);
    fclose(map);
    ((void (*)(void (*)(const char *), const char *))(memory + 64))(leak_here, how);
    sink = 2;
}

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    if (strncmp(how, "compiled", 8)) {
        through(how, 3);
    } else {
        compile(how);
    }
    pause();
    return 0;
}
