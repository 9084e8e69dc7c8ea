/* fuzz.h - what the fuzz targets share: option bytes, chance, pieces of input, what was written, and which mutator.
 *
 * An input is a file, or four option bytes and a file. Include it once a program.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../rdbkit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len, uint8_t *out,
                                 size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* What inputs of a target are, for mutate.c. */
enum {
    FUZZ_RDB,     /* an RDB file, or an append-only one: told by its first bytes */
    FUZZ_PLAIN,   /* bytes of which nothing is known */
    FUZZ_PAYLOAD, /* option bytes, type byte, value, version, checksum */
    FUZZ_BLOB     /* option bytes, of which the first modulo FUZZ_BLOB_N says what follows */
};
enum { FUZZ_LISTPACK, FUZZ_ZIPLIST, FUZZ_ZIPMAP, FUZZ_INTSET, FUZZ_NODE, FUZZ_LZF, FUZZ_NUMBER, FUZZ_BLOB_N };

size_t fuzz_mutate(int input, uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t fuzz_cross(int input, const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len, uint8_t *out,
                  size_t max, unsigned seed);

/* What libFuzzer asks for; once in each target. */
#define FUZZ_INPUT(input)                                                                            \
    size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {     \
        return fuzz_mutate(input, data, size, max_size, seed);                                       \
    }                                                                                                \
    size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len, \
                                     uint8_t *out, size_t max, unsigned seed) {                      \
        return fuzz_cross(input, a, a_len, b, b_len, out, max, seed);                                \
    }

/* Takes the option bytes from the front; an input that begins with a magic has none: all zero. */
static inline void fuzz_options(uint8_t options[4], const uint8_t **data, size_t *size) {
    memset(options, 0, 4);
    if (*size < 4 || !memcmp(*data, "REDI", 4) || !memcmp(*data, "VALK", 4)) return;
    memcpy(options, *data, 4);
    *data += 4;
    *size -= 4;
}

static inline uint32_t fuzz_chance(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static _Noreturn void fuzz_fail(const char *what, long long a, long long b) {
    fprintf(stderr, "FINDING: %s: %lld, %lld\n", what, a, b);
    abort();
}

typedef struct fuzz_source {
    const uint8_t *data;
    size_t left;
    uint32_t chance;
} fuzz_source;

/* Sizes of pieces: mostly small, now and then all that is left. */
static inline size_t fuzz_next_size(fuzz_source *s) {
    uint32_t c = fuzz_chance(&s->chance);
    size_t n = c % 64 == 0 ? s->left : 1 + (c >> 6) % (c % 4 ? 7 : 400);
    return n < s->left ? n : s->left;
}

static inline ptrdiff_t fuzz_read_some(void *ctx, void *buf, size_t size) {
    fuzz_source *s = ctx;
    size_t n = fuzz_next_size(s);
    if (n > size) n = size;
    memcpy(buf, s->data, n);
    s->data += n;
    s->left -= n;
    return (ptrdiff_t)n;
}

/* Feed a source in pieces, each in memory of its own, so that a read past it or after the call shows. Returns what feed
 * said last: RDBKIT_MORE if it took all. */
static inline int fuzz_feed(fuzz_source *s, int (*feed)(void *to, const void *data, size_t len), void *to) {
    int status = RDBKIT_MORE;
    while (status == RDBKIT_MORE && s->left) {
        size_t n = fuzz_next_size(s);
        uint8_t *piece = malloc(n);
        if (!piece) exit(0);
        memcpy(piece, s->data, n);
        status = feed(to, piece, n);
        memset(piece, 0xdd, n);
        free(piece);
        s->data += n;
        s->left -= n;
    }
    return status;
}

/* What a sink wrote. */
typedef struct fuzz_bytes {
    uint8_t *data;
    size_t len;
} fuzz_bytes;

/* A rdbkit_write_fn. */
static inline int fuzz_keep(void *ctx, const void *data, size_t len) {
    fuzz_bytes *b = ctx;
    if (b->len + len > (size_t)64 << 20) return -ENOSPC; /* of a bomb of LZF, say */
    uint8_t *p = realloc(b->data, b->len + len + 1);
    if (!p) exit(0);
    memcpy(p + b->len, data, len);
    b->data = p;
    b->len += len;
    return 0;
}

/* What a sink tells of each key, added up: the sum has to be what it counts. Names are read, to see that they are there. */
typedef struct fuzz_losses {
    uint64_t items[RDBKIT_LOSS_KIND_N];
    unsigned names;
} fuzz_losses;

static inline void fuzz_on_loss(void *ctx, const rdbkit_key_loss *loss) {
    fuzz_losses *told = ctx;
    told->items[loss->row->kind] += loss->items;
    for (size_t i = 0; i < loss->key.len; i++) told->names += (unsigned char)loss->key.data[i];
    if (!loss->items) fuzz_fail("a loss of nothing", loss->row->kind, 0);
}

#endif
