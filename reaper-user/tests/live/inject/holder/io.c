/* An io_uring, and what is made before the companion is forked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "holder.h"

#define ENTRIES 4
#define BYTE 0x5a

struct resources resources;
static struct {
    unsigned *head, *tail, *mask, *array;
    struct io_uring_sqe *entries;
} submissions;
static struct {
    unsigned *head, *tail, *mask;
    struct io_uring_cqe *entries;
} completions;
static int pending;

static void *map(size_t size, off_t offset) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, resources.ring, offset);
    if (at == MAP_FAILED)
        fail("mapping the io_uring");
    return at;
}

/* Who submits is who rests: the kernel completes in its context. */
void ring_make(void) {
    struct io_uring_params params = {0};
    resources.ring = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (resources.ring < 0)
        fail("io_uring_setup (kernel.io_uring_disabled must be 0)");
    char *sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    char *cq = map(params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    submissions.head = (unsigned *)(sq + params.sq_off.head);
    submissions.tail = (unsigned *)(sq + params.sq_off.tail);
    submissions.mask = (unsigned *)(sq + params.sq_off.ring_mask);
    submissions.array = (unsigned *)(sq + params.sq_off.array);
    submissions.entries = map(params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    completions.head = (unsigned *)(cq + params.cq_off.head);
    completions.tail = (unsigned *)(cq + params.cq_off.tail);
    completions.mask = (unsigned *)(cq + params.cq_off.ring_mask);
    completions.entries = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
}

void ring_prepare(struct rest *rest) {
    if (!resources.ring)
        ring_make();
    if (!pending) {
        unsigned tail = *submissions.tail, index = tail & *submissions.mask;
        submissions.entries[index] = (struct io_uring_sqe){
            .opcode = IORING_OP_POLL_ADD, .fd = resources.data[0], .poll_events = POLLIN, .user_data = BYTE};
        submissions.array[index] = index;
        __atomic_store_n(submissions.tail, tail + 1, __ATOMIC_RELEASE);
        if (syscall(SYS_io_uring_enter, resources.ring, 1, 0, 0, NULL, 0) != 1)
            fail("io_uring_enter");
        pending = 1;
    }
    const uint64_t arguments[6] = {(uint64_t)resources.ring, 0, 1, IORING_ENTER_GETEVENTS, 0, KERNEL_SIGSET};
    rest->number = SYS_io_uring_enter;
    rest->used = 6;
    memcpy(rest->arguments, arguments, sizeof arguments);
}

static uint64_t take(void) {
    unsigned head = *completions.head;
    if (head == __atomic_load_n(completions.tail, __ATOMIC_ACQUIRE))
        return 0;
    uint64_t data = completions.entries[head & *completions.mask].user_data;
    __atomic_store_n(completions.head, head + 1, __ATOMIC_RELEASE);
    pending = 0;
    return data;
}

void ring_finish(struct rest *rest, long result, struct report *report) {
    (void)rest, (void)result;
    char byte = 0;
    check(report, "completion", BYTE, take());
    check(report, "bytes", 1, (uint64_t)read(resources.data[0], &byte, 1));
}

void ring_tidy(void) {
    if (pending) {
        syscall(SYS_io_uring_enter, resources.ring, 0, 0, IORING_ENTER_GETEVENTS, NULL, KERNEL_SIGSET);
        take();
    }
}

static void need(int made, const char *what) {
    if (made < 0)
        fail("making %s", what);
}

void resources_make(const char *directory) {
    struct resources *r = &resources;
    char path[RESOURCES_DIRECTORY_MAX + 20];
    snprintf(r->directory, sizeof r->directory, "%s", directory);
    need(pipe(r->orders), "a pipe");
    need(pipe(r->data), "a pipe");
    need(pipe(r->full), "a pipe");
    need(pipe(r->children), "a pipe");
    need(socketpair(AF_UNIX, SOCK_STREAM, 0, r->pair), "a pair of sockets");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.90s/socket", directory);
    need(r->listener = socket(AF_UNIX, SOCK_STREAM, 0), "a socket");
    need(bind(r->listener, (struct sockaddr *)&address, sizeof address), address.sun_path);
    need(listen(r->listener, 8), "a listener");
    snprintf(path, sizeof path, "%s/fifo", directory);
    need(mkfifo(path, 0600), path);
    snprintf(path, sizeof path, "%s/lock", directory);
    need(r->lock = open(path, O_RDWR | O_CREAT, 0600), path);
    need(r->locked = open(path, O_RDWR), path);
    need(r->notifier = inotify_init(), "an inotify");
    need(inotify_add_watch(r->notifier, path, IN_ATTRIB), "a watch");
    need(r->timer = timerfd_create(CLOCK_MONOTONIC, 0), "a timer");
    need(r->epoll = epoll_create1(0), "an epoll");
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = BYTE};
    need(epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->data[0], &event), "an epoll entry");
    need(r->queue = msgget(IPC_PRIVATE, 0600), "a message queue");
    need(r->semaphore = semget(IPC_PRIVATE, 1, 0600), "a semaphore");
    aio_context_t aio = 0;
    need((int)syscall(SYS_io_setup, 1, &aio), "an aio context");
    r->aio = aio;
}
