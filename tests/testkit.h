/* testkit.h - what several tests need: memory that ends at an unreadable page, an allocator that counts, checks and
 * fails on demand, growing bytes, gzip, and a small builder of RDB files. Static functions; include it once a program.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef TESTKIT_H
#define TESTKIT_H

#include "../rdbkit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#ifdef __GNUC__
#define TK_USED __attribute__((unused))
#else
#define TK_USED
#endif

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* ---- Memory that ends at an unreadable page ---- */

typedef struct tk_guard {
    unsigned char *base;
    size_t room;
} tk_guard;

static TK_USED void tk_guard_make(tk_guard *g, size_t len) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    g->room = (len / page + 1) * page;
    g->base = mmap(NULL, g->room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->base == MAP_FAILED || mprotect(g->base + g->room, page, PROT_NONE) != 0) {
        perror("mmap");
        exit(1);
    }
}

/* Copies bytes so that the one after the last cannot be read. */
static TK_USED unsigned char *tk_guard_put(const tk_guard *g, const void *data, size_t len) {
    unsigned char *at = g->base + g->room - len;
    if (len) memcpy(at, data, len);
    return at;
}

static TK_USED void tk_guard_drop(tk_guard *g) {
    munmap(g->base, g->room + (size_t)sysconf(_SC_PAGESIZE));
    g->base = NULL;
}

/* ---- An allocator that counts ---- */

/* Every block has its size in front of it. realloc always moves, freed and fresh memory is filled, so that stale
 * pointers and unset memory show. */
typedef struct tk_memory {
    uint64_t calls;   /* so far */
    uint64_t fail_at; /* the call of that number (from 1) fails; 0: none */
    int fail_on;      /* and all after it */
    size_t live, peak, cap;
    int denied;         /* a request went over cap */
    const char *misuse; /* first wrong size, or NULL */
} tk_memory;

#define TK_HEAD 32
#define TK_MARK 0x72646b6974u

static void *tk_alloc(void *ctx, size_t size) {
    tk_memory *m = ctx;
    m->calls++;
    if (m->fail_at && (m->calls == m->fail_at || (m->fail_on && m->calls > m->fail_at))) return NULL;
    if (m->cap && (size > m->cap || m->live > m->cap - size)) {
        m->denied = 1;
        return NULL;
    }
    unsigned char *p = malloc(size + TK_HEAD);
    if (!p) return NULL;
    uint64_t mark = TK_MARK;
    memcpy(p, &size, sizeof size);
    memcpy(p + 16, &mark, sizeof mark);
    memset(p + TK_HEAD, 0xa5, size < 4096 ? size : 4096);
    m->live += size;
    if (m->live > m->peak) m->peak = m->live;
    return p + TK_HEAD;
}

static void tk_free(void *ctx, void *ptr, size_t size) {
    tk_memory *m = ctx;
    if (!ptr) {
        if (size && !m->misuse) m->misuse = "free of NULL with a size";
        return;
    }
    unsigned char *p = (unsigned char *)ptr - TK_HEAD;
    size_t real;
    uint64_t mark;
    memcpy(&real, p, sizeof real);
    memcpy(&mark, p + 16, sizeof mark);
    if (mark != TK_MARK) {
        if (!m->misuse) m->misuse = "free of what was not allocated";
        return;
    }
    if (real != size && !m->misuse) m->misuse = "free with a wrong size";
    m->live -= real;
    memset(p, 0xdd, TK_HEAD + (real < 4096 ? real : 4096));
    free(p);
}

static void *tk_realloc(void *ctx, void *ptr, size_t old_size, size_t size) {
    tk_memory *m = ctx;
    if (!ptr) {
        if (old_size && !m->misuse) m->misuse = "realloc of NULL with an old size";
        return tk_alloc(ctx, size);
    }
    size_t real;
    memcpy(&real, (unsigned char *)ptr - TK_HEAD, sizeof real);
    if (real != old_size && !m->misuse) m->misuse = "realloc with a wrong old size";
    void *fresh = tk_alloc(ctx, size);
    if (!fresh) return NULL;
    memcpy(fresh, ptr, real < size ? real : size);
    tk_free(ctx, ptr, real);
    return fresh;
}

static TK_USED rdbkit_allocator tk_allocator(tk_memory *m) {
    rdbkit_allocator a = {tk_alloc, tk_realloc, tk_free, m};
    return a;
}

/* ---- Growing bytes ---- */

typedef struct tk_bytes {
    unsigned char *data;
    size_t len, cap;
} tk_bytes;

static TK_USED void tk_put(tk_bytes *b, const void *data, size_t len) {
    if (b->cap - b->len < len) {
        b->cap = b->cap * 2 + len + 256;
        b->data = realloc(b->data, b->cap);
        if (!b->data) abort();
    }
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
}

static TK_USED void tk_u8(tk_bytes *b, unsigned x) {
    unsigned char c = (unsigned char)x;
    tk_put(b, &c, 1);
}

static TK_USED void tk_le(tk_bytes *b, uint64_t x, int width) {
    for (int i = 0; i < width; i++) tk_u8(b, (unsigned)(x >> (8 * i)) & 255);
}

static TK_USED void tk_drop(tk_bytes *b) {
    free(b->data);
    memset(b, 0, sizeof *b);
}

/* Appends data as one gzip member. */
static TK_USED void tk_gzip(tk_bytes *out, const void *data, size_t len) {
    z_stream z;
    memset(&z, 0, sizeof z);
    if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) abort();
    size_t room = deflateBound(&z, (uLong)len) + 64;
    unsigned char *buf = malloc(room), *in = malloc(len + 1);
    if (!buf || !in) abort();
    if (len) memcpy(in, data, len);
    z.next_in = in;
    z.avail_in = (uInt)len;
    z.next_out = buf;
    z.avail_out = (uInt)room;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) abort();
    tk_put(out, buf, room - z.avail_out);
    deflateEnd(&z);
    free(buf);
    free(in);
}

/* ---- RDB files ---- */

static TK_USED void tk_magic(tk_bytes *b, const char *magic) { tk_put(b, magic, 9); }

static TK_USED void tk_len(tk_bytes *b, uint64_t n) {
    if (n < 64) tk_u8(b, (unsigned)n);
    else if (n < 16384) {
        tk_u8(b, 0x40 | (unsigned)(n >> 8));
        tk_u8(b, (unsigned)n & 255);
    } else {
        int width = n >> 32 ? 8 : 4;
        tk_u8(b, width == 8 ? 0x81 : 0x80);
        while (width-- > 0) tk_u8(b, (unsigned)(n >> (8 * width)) & 255);
    }
}

static TK_USED void tk_strn(tk_bytes *b, const void *data, size_t len) {
    tk_len(b, len);
    tk_put(b, data, len);
}

static TK_USED void tk_str(tk_bytes *b, const char *text) { tk_strn(b, text, strlen(text)); }

/* Selects a database. */
static TK_USED void tk_db(tk_bytes *b, uint64_t db) {
    tk_u8(b, 254);
    tk_len(b, db);
}

/* A plain string key; expire_ms -1: none. */
static TK_USED void tk_string_key(tk_bytes *b, const char *name, const char *value, int64_t expire_ms) {
    if (expire_ms != -1) {
        tk_u8(b, 252);
        tk_le(b, (uint64_t)expire_ms, 8);
    }
    tk_u8(b, 0);
    tk_str(b, name);
    tk_str(b, value);
}

/* A key of a plain type (1 list, 2 set, 4 hash) with n strings, "<prefix>0" and so on. A hash wants 2*n of them. */
static TK_USED void tk_plain_key(tk_bytes *b, int type, const char *name, const char *prefix, unsigned n) {
    char text[64];
    tk_u8(b, (unsigned)type);
    tk_str(b, name);
    tk_len(b, n);
    for (unsigned i = 0; i < (type == 4 ? 2 * n : n); i++) {
        snprintf(text, sizeof text, "%s%u", prefix, i);
        tk_str(b, text);
    }
}

static TK_USED uint64_t tk_crc64(const unsigned char *p, size_t len) {
    uint64_t crc = 0;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ UINT64_C(0x95ac9329ac4bc9b5) : crc >> 1;
    }
    return crc;
}

static TK_USED void tk_end(tk_bytes *b) {
    tk_u8(b, 255);
    tk_le(b, tk_crc64(b->data, b->len), 8);
}

/* ---- Chance ---- */

static TK_USED uint64_t tk_random(uint64_t *state) {
    uint64_t x = *state ? *state : 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

#endif
