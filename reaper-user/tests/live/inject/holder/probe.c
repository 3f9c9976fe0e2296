/* What is loaded into the registers, and whether it is there afterwards. */
#include "probe.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "report.h"

#define AREA 16384
#define LEGACY_X87 1ull
#define LEGACY_SSE 2ull
#define TILES (3ull << 17)
#define PROTECTION_KEYS (1ull << 9)
#define HEADER 512
#define MXCSR 24
#define MXCSR_DEFAULT 0x1f80
#define CONTROL_DEFAULT 0x37f
#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif
#define TILE_DATA 18

#define AT(field, offset) _Static_assert(offsetof(struct probe, field) == (offset), #field)
AT(in, P_IN);
AT(flags_in, P_FLAGS_IN);
AT(out, P_OUT);
AT(flags_out, P_FLAGS_OUT);
AT(segments, P_SEGMENTS);
AT(red_in, P_RED_IN);
AT(red_out, P_RED_OUT);
AT(above_in, P_ABOVE_IN);
AT(above_out, P_ABOVE_OUT);
AT(load_mask, P_LOAD_MASK);
AT(save_mask, P_SAVE_MASK);
AT(loaded, P_LOADED);
AT(saved, P_SAVED);
AT(clean, P_CLEAN);
AT(mode, P_MODE);
AT(go, P_GO);

static const struct component {
    int number;
    const char *name;
} components[] = {
    {2, "ymm"}, {5, "opmask"}, {6, "zmm-high"}, {7, "zmm16-31"}, {9, "pkru"}, {17, "tilecfg"}, {TILE_DATA, "tiledata"},
};
enum { COMPONENTS = sizeof components / sizeof *components };
static struct { uint32_t offset, size; } places[64];

static struct probe probe __attribute__((aligned(64)));
static unsigned char loaded[AREA] __attribute__((aligned(64)));
static unsigned char saved[AREA] __attribute__((aligned(64)));
static unsigned char clean[AREA] __attribute__((aligned(64)));
static uint64_t seed = 1, count;

uint64_t random_word(void) {
    seed += 0x9e3779b97f4a7c15ull;
    uint64_t mixed = seed;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9ull;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebull;
    return mixed ^ (mixed >> 31);
}

static uint64_t enabled(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

void probe_init(int with_tiles) {
    uint32_t a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c & bit_OSXSAVE))
        fail("this processor has no XSAVE");
    uint64_t mask = LEGACY_X87 | LEGACY_SSE;
    for (int i = 0; i < COMPONENTS; i++)
        mask |= enabled() & 1ull << components[i].number;
    /* The kernel gives memory for tiles only to who asks. */
    if (!with_tiles)
        mask &= ~TILES;
    else if (mask & TILES && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) != 0)
        fail("asking for tiles");
    for (int i = 0; i < COMPONENTS; i++) {
        int number = components[i].number;
        if (!(mask & 1ull << number))
            continue;
        __cpuid_count(0xd, number, a, b, c, d);
        places[number].size = a;
        places[number].offset = b;
        if (a + b > AREA)
            fail("component %d ends at %u", number, a + b);
    }
    probe.save_mask = mask;
    /* Its value has effects. */
    probe.load_mask = mask & ~PROTECTION_KEYS;
    probe.loaded = loaded;
    probe.saved = saved;
    probe.clean = clean;
    *(uint16_t *)clean = CONTROL_DEFAULT;
    *(uint32_t *)(clean + MXCSR) = MXCSR_DEFAULT;
}

const char *probe_components(void) {
    static char text[100];
    if (!*text) {
        strcpy(text, "x87,xmm");
        for (int i = 0; i < COMPONENTS; i++)
            if (probe.save_mask & 1ull << components[i].number)
                strcat(strcat(text, ","), components[i].name);
    }
    return text;
}

static void scribble(unsigned char *bytes, size_t size) {
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = random_word();
        memcpy(bytes + at, &word, size - at < 8 ? size - at : 8);
    }
}

/* Not all programs use all of it: what is not used has its initial value. */
static uint64_t in_use(void) {
    uint64_t all = probe.load_mask;
    switch (count % 4) {
    case 0:
    case 2:
        return all;
    case 1:
        return all & (LEGACY_X87 | LEGACY_SSE | 1 << 2);
    default:
        return all & ~TILES & ~LEGACY_X87;
    }
}

static void fill_image(void) {
    uint64_t used = in_use();
    memset(loaded, 0, sizeof loaded);
    *(uint16_t *)loaded = CONTROL_DEFAULT;
    if (used & LEGACY_X87) {
        uint64_t word = random_word();
        /* All exceptions masked, none pending; precision and rounding, top of stack and conditions as they come. */
        *(uint16_t *)loaded = (uint16_t)(0x7f | (word & 0xc00) | (word >> 16 & 1 ? 0x300 : 0x200));
        *(uint16_t *)(loaded + 2) = (uint16_t)(word >> 32 & 0x7f00);
        loaded[4] = (unsigned char)(word >> 48);
        for (int i = 0; i < 8; i++)
            scribble(loaded + 32 + 16 * i, 10);
    }
    /* Masked exceptions; their flags, rounding, flush-to-zero and denormals-are-zero as they come. */
    *(uint32_t *)(loaded + MXCSR) = (uint32_t)(MXCSR_DEFAULT | (random_word() & 0xe07f));
    if (used & LEGACY_SSE)
        scribble(loaded + 160, 256);
    for (int i = 0; i < COMPONENTS; i++)
        if (used & 1ull << components[i].number)
            scribble(loaded + places[components[i].number].offset, places[components[i].number].size);
    if (used & TILES) {
        /* Palette 1, eight tiles of 16 rows of 64 bytes. */
        unsigned char *config = loaded + places[17].offset;
        memset(config, 0, 64);
        config[0] = 1;
        for (int tile = 0; tile < 8; tile++) {
            config[16 + 2 * tile] = 64;
            config[48 + tile] = 16;
        }
    }
    memcpy(loaded + HEADER, &used, sizeof used);
}

struct probe *probe_prepare(uint64_t mode, long number, int used, const uint64_t arguments[6]) {
    static const int order[6] = {RDI, RSI, RDX, R10, R8, R9};
    count++;
    seed ^= count * 0x2545f4914f6cdd1dull;
    for (int i = 0; i < REGISTERS; i++)
        probe.in[i] = random_word();
    if (mode != MODE_USER)
        probe.in[RAX] = (uint64_t)number;
    for (int i = 0; i < used; i++)
        probe.in[order[i]] = arguments[i];
    /* Carry, parity, adjust, zero, sign, direction, overflow; bit 1 and the interrupt flag are always set. */
    probe.flags_in = (random_word() & 0xcd5) | 0x202;
    for (int i = 0; i < RED_WORDS; i++)
        probe.red_in[i] = random_word();
    for (int i = 0; i < ABOVE_WORDS; i++)
        probe.above_in[i] = random_word();
    fill_image();
    memset(saved, 0, sizeof saved);
    memset(probe.out, 0, sizeof probe.out);
    probe.mode = mode;
    return &probe;
}

static void compare_bytes(struct report *report, const char *name, const unsigned char *was, const unsigned char *is, size_t size) {
    for (size_t at = 0; at < size; at++)
        if (was[at] != is[at]) {
            char place[40];
            snprintf(place, sizeof place, "%s+%zu", name, at);
            differs(report, place, was[at], is[at]);
            return;
        }
}

static void compare_image(struct report *report) {
    static const unsigned char zeros[AREA];
    uint64_t present;
    memcpy(&present, saved + HEADER, sizeof present);
    /* A component that is in its initial state need not have been written. */
    int x87 = (present & LEGACY_X87) != 0;
    check(report, "fcw", *(uint16_t *)loaded, x87 ? *(uint16_t *)saved : CONTROL_DEFAULT);
    compare_bytes(report, "x87", loaded + 2, x87 ? saved + 2 : zeros, 22);
    compare_bytes(report, "st", loaded + 32, x87 ? saved + 32 : zeros, 128);
    check(report, "mxcsr", *(uint32_t *)(loaded + MXCSR), *(uint32_t *)(saved + MXCSR));
    compare_bytes(report, "xmm", loaded + 160, present & LEGACY_SSE ? saved + 160 : zeros, 256);
    for (int i = 0; i < COMPONENTS; i++) {
        int number = components[i].number;
        if (!(probe.load_mask & 1ull << number))
            continue;
        const unsigned char *found = present & 1ull << number ? saved + places[number].offset : zeros;
        compare_bytes(report, components[i].name, loaded + places[number].offset, found, places[number].size);
    }
    if (probe.save_mask & PROTECTION_KEYS) {
        static uint32_t first;
        uint32_t keys = *(uint32_t *)(saved + places[9].offset);
        if (count == 1)
            first = keys;
        check(report, "pkru", first, keys);
    }
}

void probe_compare(struct report *report) {
    static const char *const names[REGISTERS] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static uint16_t segments[8];
    for (int i = 0; i < REGISTERS; i++) {
        int clobbered = i == RCX || i == (probe.mode == MODE_USER ? RCX : R11) || (i == RAX && probe.mode != MODE_USER);
        uint64_t expected = i == R11 && probe.mode == MODE_USER ? (uint64_t)(uintptr_t)&probe : probe.in[i];
        if (!clobbered)
            check(report, names[i], expected, probe.out[i]);
    }
    check(report, "flags", probe.flags_in, probe.flags_out);
    for (int i = 0; i < RED_WORDS; i++)
        check(report, "red-zone", probe.red_in[i], probe.red_out[i]);
    for (int i = 0; i < ABOVE_WORDS; i++)
        check(report, "stack", probe.above_in[i], probe.above_out[i]);
    if (count == 1)
        memcpy(segments, probe.segments, sizeof segments);
    for (int i = 0; i < 6; i++)
        check(report, "segment", segments[i], probe.segments[i]);
    compare_image(report);
}
