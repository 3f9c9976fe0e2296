/* The holder of the harmlessness matrix: see main.c. */
#ifndef HOLDER_H
#define HOLDER_H
#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

#include "report.h"

#define RESOURCES_DIRECTORY_MAX 100

/* What the resting thread and the companion share. */
struct shared {
    volatile uint64_t go;       /* user code may end */
    volatile uint32_t word;     /* of the futex; it never changes */
    volatile uint32_t stop;     /* the loop may end */
    volatile uint32_t resting;  /* who may release the call, RELEASE_… */
    volatile uint32_t inside;   /* the call has not returned */
    volatile uint32_t looping;  /* the companion releases it by itself */
    volatile uint32_t again;    /* how often it was released once more, the first time having been in vain */
    volatile uint64_t started;  /* CLOCK_MONOTONIC, ns */
    volatile uint64_t span;     /* how long it is to rest, ns */
    volatile uint64_t released; /* when it was released; 0: not yet */
    int state;                  /* index */
    pid_t holder;
    pid_t child;                /* that the holder waits for */
};
extern struct shared *shared;
enum { RELEASE_NOBODY, RELEASE_ANYBODY, RELEASE_BEGUN, RELEASE_DONE };

/* Both ends of all that somebody can wait for; made before the companion is forked. */
struct resources {
    char directory[RESOURCES_DIRECTORY_MAX];
    int orders[2], data[2], full[2], children[2], pair[2], listener, notifier, timer, lock, locked;
    int epoll, queue, semaphore, ring;
    uint64_t aio;
};
extern struct resources resources;
void resources_make(const char *directory);

/* One place to rest, states.c. */
struct rest {
    uint64_t span;        /* ns */
    uint64_t mode;        /* MODE_… */
    long number;          /* of the call */
    int used;             /* of the arguments */
    uint64_t arguments[6];
    uint64_t began, deadline;
    long expected;        /* what the call returns when it has run to its end */
    int timed;            /* it ends at the deadline, and is not released */
    uint64_t remaining;   /* ns that an interrupted call says are left, if it does */
};
struct state {
    const char *name;
    void (*prepare)(struct rest *rest);
    /* After a call that ran to its end; differences are reported. */
    void (*finish)(struct rest *rest, long result, struct report *report);
    /* After one that did not. */
    void (*interrupted)(struct rest *rest);
};
extern const struct state states[];
int state_index(const char *name);
/* Takes away what a release has left for a call that was no longer there. */
void tidy(void);
uint64_t now(void);
__attribute__((noreturn)) void vfork_child(void);

/* Signals, by what is done about them. */
#define SIGNAL_PLAIN SIGUSR1            /* a handler */
#define SIGNAL_RESTART SIGURG           /* a handler with SA_RESTART */
#define SIGNAL_RELEASE SIGUSR2          /* a handler; ends pause and rt_sigsuspend */
#define SIGNAL_BLOCKED (SIGRTMIN + 6)   /* blocked; ends rt_sigtimedwait */
#define SIGNAL_QUEUED (SIGRTMIN + 8)    /* counted, and each has a number */
#define SIGNAL_REST (SIGRTMIN + 9)      /* a handler in which the thread rests */
#define SIGNAL_OF_MASK (SIGRTMIN + 5)   /* blocked, for the mask to be recognised */
#define SIGNAL_OF_CALL SIGTTOU          /* blocked by calls that bring a mask */
#define KERNEL_SIGSET 8
uint64_t usual_mask(void);

/* children.c */
void companion_run(void);
/* Ends the call that rests, as what it waits for would. */
void release(int state);
void children_make(void);
void children_settle(struct report *report);
pid_t child_that_waits(int code);
/* Of a child: it is killed when its parent is gone. */
void end_with_holder(void);

/* io.c */
void ring_make(void);
void ring_prepare(struct rest *rest);
void ring_finish(struct rest *rest, long result, struct report *report);
void ring_tidy(void);

/* filter.c */
void filter_install(const char *kind);
#endif
