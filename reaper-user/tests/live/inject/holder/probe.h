/* One system call with a known value in every register, and what the registers held after it. */
#ifndef PROBE_H
#define PROBE_H

/* Where probe.S finds things; probe.c asserts that they are there. */
#define P_IN 0
#define P_FLAGS_IN 128
#define P_OUT 136
#define P_FLAGS_OUT 264
#define P_SEGMENTS 272
#define P_RED_IN 288
#define P_RED_OUT 416
#define P_ABOVE_IN 544
#define P_ABOVE_OUT 800
#define P_LOAD_MASK 1056
#define P_SAVE_MASK 1064
#define P_LOADED 1072
#define P_SAVED 1080
#define P_CLEAN 1088
#define P_MODE 1096
#define P_GO 1104

/* What happens between loading and saving. */
#define MODE_CALL 0
#define MODE_VFORK 1
#define MODE_USER 2

#define RED_WORDS 16
#define ABOVE_WORDS 32

#ifndef __ASSEMBLER__
#include <stdint.h>

/* As the general registers are numbered in instructions. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, REGISTERS };

struct probe {
    uint64_t in[REGISTERS];
    uint64_t flags_in;
    uint64_t out[REGISTERS];
    uint64_t flags_out;
    uint16_t segments[8]; /* cs ds es fs gs ss */
    /* The red zone, and what the caller has above the stack pointer. */
    uint64_t red_in[RED_WORDS], red_out[RED_WORDS];
    uint64_t above_in[ABOVE_WORDS], above_out[ABOVE_WORDS];
    /* Components of the extended state, as in XCR0, and images in the standard format. */
    uint64_t load_mask, save_mask;
    void *loaded, *saved, *clean;
    uint64_t mode;
    volatile uint64_t *go; /* MODE_USER runs until this is not zero */
};

struct report;

/* probe.S */
void probe_run(struct probe *probe);
extern const char probe_syscall[], probe_return[], probe_user[], probe_user_end[];

/* probe.c */
void probe_init(int with_tiles);
const char *probe_components(void);
/* Fresh patterns everywhere; arguments that are not used are patterns, too. */
struct probe *probe_prepare(uint64_t mode, long number, int used, const uint64_t arguments[6]);
/* Names all that is not as it was. */
void probe_compare(struct report *report);
uint64_t random_word(void);

/* rseq.S */
struct sections {
    uint64_t commits, aborts, torn;
};
void rseq_run(void *area, volatile uint64_t *go, struct sections *sections);
extern const char rseq_start[], rseq_end[];
#endif
#endif
