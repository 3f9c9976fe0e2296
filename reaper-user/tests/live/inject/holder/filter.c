/* Seccomp filters that say something special of one system call, and yes to all others. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "holder.h"

#define WALL 0x40000000
#define FIELD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))

static const struct kind {
    const char *name;
    unsigned number, action, flags;
} kinds[] = {
    {"allow", SYS_wait4, SECCOMP_RET_ALLOW, 0},
    {"log", SYS_wait4, SECCOMP_RET_LOG, 0},
    {"errno", SYS_wait4, SECCOMP_RET_ERRNO | EPERM, 0},
    {"kill", SYS_wait4, SECCOMP_RET_KILL_PROCESS, 0},
    {"trap", SYS_wait4, SECCOMP_RET_TRAP, 0},
    {"notify", SYS_wait4, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER},
    {"kill-sigreturn", SYS_rt_sigreturn, SECCOMP_RET_KILL_PROCESS, 0},
    {"kill-restart", SYS_restart_syscall, SECCOMP_RET_KILL_PROCESS, 0},
};

static void install(struct sock_filter *filter, size_t length, unsigned flags) {
    struct sock_fprog program = {.len = (unsigned short)length, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) < 0)
        fail("installing a filter");
}

void filter_install(const char *name) {
    if (!strcmp(name, "strict")) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
            fail("strict mode");
        return;
    }
    /* By an argument: only of a wait for all kinds of children. */
    if (!strcmp(name, "kill-wall")) {
        struct sock_filter filter[] = {
            FIELD(nr),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_wait4, 0, 3),
            FIELD(args[2]),
            BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, WALL, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        install(filter, sizeof filter / sizeof *filter, 0);
        return;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct kind *kind = kinds + i;
        if (strcmp(kind->name, name))
            continue;
        struct sock_filter filter[] = {
            FIELD(arch),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
            FIELD(nr),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kind->number, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, kind->action),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        install(filter, sizeof filter / sizeof *filter, kind->flags);
        return;
    }
    fail("unknown filter %s", name);
}
