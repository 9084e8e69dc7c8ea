/* rdbkit.c - the library, and the command line under RDBKIT_CLI. See rdbkit.h for what it does.
 *
 * SPDX-License-Identifier: MIT
 *
 * Rooms, in file order; each calls only rooms above it:
 *
 *   [01] port_   compilers, byte loads, file descriptors
 *   [02] mem_    allocator hooks, checked sizes, growing buffer
 *   [03] fmt_    constants, lineages, types, opcodes, targets
 *   [04] err_    error texts
 *   [05] crc_    CRC64
 *   [06] lzf_    LZF decoder
 *   [07] num_    integers and doubles as text
 *   [08] pk_     packed blobs: the cursor that the next four rooms share
 *   [09] lp_     listpack blobs
 *   [10] zl_     ziplist blobs
 *   [11] zm_     zipmap blobs
 *   [12] ist_    intset blobs
 *   [13] blob_   any packed blob by its kind
 *   [14] strm_   stream nodes, pending entries, counters
 *   [15] in_     input: functions, descriptors, memory, gzip
 *   [16] rd_     RDB reader: state, lengths, strings, walks
 *   [17] val_    RDB reader: values
 *   [18] rec_    RDB reader: records, header, window
 *   [19] out_    output in large blocks
 *   [20] loss_   what a target cannot hold
 *   [21] enc_    value encoder
 *   [22] wr_     RDB writer
 *   [23] resp_   commands out
 *   [24] flt_    filters and transforms
 *   [25] json_   JSON out
 *   [26] rep_    check: what occurs twice
 *   [27] aof_    append-only files and manifests
 *   [28] api     the public functions not defined in a room above
 *   [29] cli_    command line: options, messages, output, input
 *   [30] verb_   command line: the verbs
 *   [31] main_   command line: help, parsing, main
 */
#ifdef RDBKIT_CLI
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#endif

#include "rdbkit.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_include)
#if __has_include(<lzf.h>)
#include <lzf.h>
#else
#include <liblzf/lzf.h> /* Debian */
#endif
#else
#include <lzf.h>
#endif
#include <unistd.h>
#include <zlib.h>

/* ==== [01] port_ : compilers, byte loads, file descriptors ====
 *
 * All that depends on the compiler or the machine. Bytes become integers here and nowhere else; RDB lengths
 * are big endian, everything packed is little endian. Tests: tests/test_codecs.c */

#if defined(__GNUC__)
#define PORT_LIKELY(x) __builtin_expect(!!(x), 1)
#define PORT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PORT_NOINLINE __attribute__((noinline))
#define PORT_INLINE static inline __attribute__((always_inline))
#define PORT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define PORT_LIKELY(x) (x)
#define PORT_UNLIKELY(x) (x)
#define PORT_NOINLINE
#define PORT_INLINE static inline
#define PORT_PRINTF(f, a)
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define PORT_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__) && (defined(__linux__) || defined(__APPLE__))
#define PORT_ARM64 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define PORT_BIG_ENDIAN 1
#else
#define PORT_BIG_ENDIAN 0
#endif

/* On little endian machines one memcpy, which every compiler turns into a load. */
PORT_INLINE u64 port_le64(const u8 *p) {
    u64 v = 0;
    if (PORT_BIG_ENDIAN) {
        for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    } else {
        memcpy(&v, p, 8);
    }
    return v;
}

PORT_INLINE u32 port_le32(const u8 *p) {
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

PORT_INLINE u32 port_le24(const u8 *p) {
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16;
}

PORT_INLINE u16 port_le16(const u8 *p) {
    return (u16)(p[0] | p[1] << 8);
}

PORT_INLINE u32 port_be32(const u8 *p) {
    return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | (u32)p[3];
}

PORT_INLINE u64 port_be64(const u8 *p) {
    return (u64)port_be32(p) << 32 | port_be32(p + 4);
}

PORT_INLINE void port_put_le64(u8 *p, u64 v) {
    for (int i = 0; i < 8; i++) p[i] = (u8)(v >> (8 * i));
}

/* Two's complement of the low n bits. */
PORT_INLINE i64 port_sign(u64 v, int n) {
    u64 m = (u64)1 << (n - 1);
    u64 x = n == 64 ? v : (v & ((m << 1) - 1));
    return (i64)((x ^ m) - m);
}

PORT_INLINE double port_le_double(const u8 *p) {
    u64 v = port_le64(p);
    double d;
    memcpy(&d, &v, 8);
    return d;
}

PORT_INLINE int port_clz64(u64 v) {
#if defined(__GNUC__)
    return __builtin_clzll(v);
#else
    int n = 0;
    while (!(v >> 63)) v <<= 1, n++;
    return n;
#endif
}

/* hi and lo of a 64 by 64 bit product. */
PORT_INLINE u64 port_mul128(u64 a, u64 b, u64 *hi) {
#if defined(__SIZEOF_INT128__)
    __extension__ typedef unsigned __int128 port_u128;
    port_u128 p = (port_u128)a * b;
    *hi = (u64)(p >> 64);
    return (u64)p;
#else
    u64 al = (u32)a, ah = a >> 32, bl = (u32)b, bh = b >> 32;
    u64 ll = al * bl, lh = al * bh, hl = ah * bl, hh = ah * bh;
    u64 mid = (ll >> 32) + (u32)lh + (u32)hl;
    *hi = hh + (lh >> 32) + (hl >> 32) + (mid >> 32);
    return mid << 32 | (u32)ll;
#endif
}

static PORT_NOINLINE void port_copy_long(u8 *dst, const u8 *src, size_t len) {
    memcpy(dst, src, len);
}

/* Copy a slice that is mostly short: overlapping fixed-size moves instead of a call, and not one byte is
 * read outside of [src, src + len). */
PORT_INLINE void port_copy(void *dst, const void *src, size_t len) {
    u8 *d = dst;
    const u8 *s = src;
    if (len > 32) {
        port_copy_long(d, s, len);
    } else if (len >= 16) {
        u8 a[16], b[16];
        memcpy(a, s, 16), memcpy(b, s + len - 16, 16);
        memcpy(d, a, 16), memcpy(d + len - 16, b, 16);
    } else if (len >= 8) {
        u64 a, b;
        memcpy(&a, s, 8), memcpy(&b, s + len - 8, 8);
        memcpy(d, &a, 8), memcpy(d + len - 8, &b, 8);
    } else if (len >= 4) {
        u32 a, b;
        memcpy(&a, s, 4), memcpy(&b, s + len - 4, 4);
        memcpy(d, &a, 4), memcpy(d + len - 4, &b, 4);
    } else if (len) {
        u8 a = s[0], b = s[len / 2], c = s[len - 1];
        d[0] = a, d[len / 2] = b, d[len - 1] = c;
    }
}

/* 128 bits of hash, by multiplying. Not proof against an enemy: what it says has to be confirmed by comparing. */
PORT_INLINE void port_hash(u64 seed, rdbkit_str s, u64 *a, u64 *b) {
    static const u64 k[] = {0xa0761d6478bd642fULL, 0xe7037ed1a0b428dbULL, 0x8ebc6af09c88c6e3ULL, 0x589965cc75374cc3ULL};
    const u8 *p = (const u8 *)s.data;
    size_t n = s.len;
    u64 x = (seed + 1) * k[0], y = (u64)n * k[1], lo = 0, hi = 0, h;
    for (; n > 16; p += 16, n -= 16) {
        u64 l = port_mul128(port_le64(p) ^ k[2], port_le64(p + 8) ^ x, &h);
        x = l ^ h;
        y += port_le64(p + 8) ^ h;
    }
    if (n >= 8)
        lo = port_le64(p), hi = port_le64(p + n - 8);
    else if (n >= 4)
        lo = port_le32(p), hi = port_le32(p + n - 4);
    else if (n)
        lo = (u64)p[0] << 16 | (u64)p[n / 2] << 8 | p[n - 1];
    u64 l = port_mul128(lo ^ k[2] ^ x, hi ^ k[3] ^ y, &h), h2;
    l = port_mul128(l ^ k[0], h ^ k[1], &h2);
    *a = l ^ h2;
    *b = h2;
}

/* read(2) that is not disturbed by signals: bytes, 0 at the end, or a negative errno. */
static ptrdiff_t port_read(int fd, void *buf, size_t size) {
    for (;;) {
        ssize_t n = read(fd, buf, size);
        if (n >= 0) return (ptrdiff_t)n;
        if (errno != EINTR) return -errno;
    }
}

/* ==== [02] mem_ : allocator hooks, checked sizes, growing buffer ====
 *
 * Nothing here allocates by a number that a file states: buffers grow with the bytes that were seen.
 * Tests: tests/test_codecs.c, and every test that lets allocations fail. */

static void *mem_std_alloc(void *ctx, size_t size) {
    (void)ctx;
    return malloc(size);
}

static void *mem_std_realloc(void *ctx, void *ptr, size_t old_size, size_t size) {
    (void)ctx, (void)old_size;
    return realloc(ptr, size);
}

static void mem_std_free(void *ctx, void *ptr, size_t size) {
    (void)ctx, (void)size;
    free(ptr);
}

static const rdbkit_allocator mem_std = {mem_std_alloc, mem_std_realloc, mem_std_free, NULL};

static rdbkit_allocator mem_or_std(const rdbkit_allocator *a) {
    return a ? *a : mem_std;
}

/* A zeroed handle; its allocator is the caller's to keep. */
static void *mem_new(const rdbkit_allocator *a, size_t size) {
    void *p = a->alloc(a->ctx, size);
    if (p) memset(p, 0, size);
    return p;
}

/* A buffer that grows. Zero is an empty one. */
typedef struct mem_buf {
    u8 *data;
    size_t len;
    size_t cap;
} mem_buf;

static void mem_buf_free(const rdbkit_allocator *a, mem_buf *b) {
    if (b->data) a->free(a->ctx, b->data, b->cap);
    b->data = NULL;
    b->len = b->cap = 0;
}

/* Room for at least cap bytes in all. 0, or RDBKIT_ERR_NOMEM with the buffer as it was. */
static PORT_NOINLINE int mem_buf_grow(const rdbkit_allocator *a, mem_buf *b, size_t cap) {
    size_t n = b->cap ? b->cap : 256;
    while (n < cap) n = n > SIZE_MAX / 2 ? cap : n * 2;
    u8 *p = b->data ? a->realloc(a->ctx, b->data, b->cap, n) : a->alloc(a->ctx, n);
    if (!p) return RDBKIT_ERR_NOMEM;
    b->data = p;
    b->cap = n;
    return 0;
}

/* Room for len bytes more. */
PORT_INLINE int mem_buf_room(const rdbkit_allocator *a, mem_buf *b, size_t len) {
    if (PORT_LIKELY(len <= b->cap - b->len)) return 0;
    if (len > SIZE_MAX - b->len) return RDBKIT_ERR_NOMEM;
    return mem_buf_grow(a, b, b->len + len);
}

static int mem_buf_add(const rdbkit_allocator *a, mem_buf *b, const void *data, size_t len) {
    if (mem_buf_room(a, b, len)) return RDBKIT_ERR_NOMEM;
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

/* ==== [03] fmt_ : constants, lineages, types, opcodes, targets ====
 *
 * The tables that everything else expands from. A type byte alone means nothing: 22 is a pre-release hash in
 * Redis and the hash with field expiry in Valkey 9, so a look-up takes the lineage too. docs/format.md.
 * Tests: tests/test_api.c */

#define FMT_R RDBKIT_REDIS
#define FMT_V RDBKIT_VALKEY
#define FMT_RV (RDBKIT_REDIS | RDBKIT_VALKEY)

/* One row per meaning of a type byte: symbol, number, lineages, first RDB version, shape, name, layout, and
 * the rd_ function that reads it. Layout: s string, l length, 8 and G that many (8, 16) raw bytes, d the
 * ASCII double of type 3, m module values up to their end mark, n(...) a length and that many times ... */
#define FMT_TYPES(X)                                                                                         \
    X(STRING, 0, FMT_RV, 1, STRING, "string", "s", string)                                                   \
    X(LIST, 1, FMT_RV, 1, LIST, "list", "n(s)", items)                                                       \
    X(SET, 2, FMT_RV, 1, SET, "set", "n(s)", items)                                                          \
    X(ZSET, 3, FMT_RV, 1, ZSET, "zset", "n(sd)", zset)                                                       \
    X(HASH, 4, FMT_RV, 1, HASH, "hash", "n(ss)", hash)                                                       \
    X(ZSET_2, 5, FMT_RV, 8, ZSET, "zset-2", "n(s8)", zset)                                                   \
    X(MODULE_PRE_GA, 6, FMT_RV, 8, MODULE, "module-pre-ga", NULL, module)                                    \
    X(MODULE_2, 7, FMT_RV, 8, MODULE, "module-2", "lm", module)                                              \
    X(HASH_ZIPMAP, 9, FMT_RV, 2, HASH, "hash-zipmap", "s", packed)                                           \
    X(LIST_ZIPLIST, 10, FMT_RV, 2, LIST, "list-ziplist", "s", packed)                                        \
    X(SET_INTSET, 11, FMT_RV, 2, SET, "set-intset", "s", packed)                                             \
    X(ZSET_ZIPLIST, 12, FMT_RV, 2, ZSET, "zset-ziplist", "s", packed)                                        \
    X(HASH_ZIPLIST, 13, FMT_RV, 4, HASH, "hash-ziplist", "s", packed)                                        \
    X(LIST_QUICKLIST, 14, FMT_RV, 7, LIST, "list-quicklist", "n(s)", quicklist)                              \
    X(STREAM, 15, FMT_RV, 9, STREAM, "stream-listpacks", "n(ss)llln(slln(G8l)n(s8n(G)))", stream)            \
    X(HASH_LISTPACK, 16, FMT_RV, 10, HASH, "hash-listpack", "s", packed)                                     \
    X(ZSET_LISTPACK, 17, FMT_RV, 10, ZSET, "zset-listpack", "s", packed)                                     \
    X(LIST_QUICKLIST_2, 18, FMT_RV, 10, LIST, "list-quicklist-2", "n(ls)", quicklist)                        \
    X(STREAM_2, 19, FMT_RV, 10, STREAM, "stream-listpacks-2", "n(ss)lllllllln(sllln(G8l)n(s8n(G)))", stream) \
    X(SET_LISTPACK, 20, FMT_RV, 11, SET, "set-listpack", "s", packed)                                        \
    X(STREAM_3, 21, FMT_RV, 11, STREAM, "stream-listpacks-3", "n(ss)lllllllln(sllln(G8l)n(s88n(G)))",        \
      stream)                                                                                                \
    X(HASH_METADATA_PRE_GA, 22, FMT_R, 12, HASH, "hash-metadata-pre-ga", "n(lss)", hash)                     \
    X(HASH_2, 22, FMT_V, 80, HASH, "hash-2", "n(ss8)", hash)                                                 \
    X(HASH_LISTPACK_EX_PRE_GA, 23, FMT_R, 12, HASH, "hash-listpack-ex-pre-ga", "s", packed)                  \
    X(HASH_METADATA, 24, FMT_R, 12, HASH, "hash-metadata", "8n(lss)", hash)                                  \
    X(HASH_LISTPACK_EX, 25, FMT_R, 12, HASH, "hash-listpack-ex", "8s", packed)

#define FMT_ENUM(sym, number, lin, ver, shape, name, layout, reader) FMT_##sym,
enum fmt_type { FMT_TYPES(FMT_ENUM) FMT_TYPE_N };

#define FMT_ROW(sym, number, lin, ver, shape, name, layout, reader) \
    {number, lin, ver, RDBKIT_##shape, name, layout},
static const rdbkit_type fmt_types[] = {FMT_TYPES(FMT_ROW)};

_Static_assert(sizeof fmt_types / sizeof fmt_types[0] == FMT_TYPE_N, "one row per type");

/* The enum value of a row. */
PORT_INLINE enum fmt_type fmt_id(const rdbkit_type *t) {
    return (enum fmt_type)(t - fmt_types);
}

static const rdbkit_type *fmt_type_find(unsigned lineage, int number) {
    for (size_t i = 0; i < FMT_TYPE_N; i++)
        if (fmt_types[i].number == number && (fmt_types[i].lineage & lineage)) return &fmt_types[i];
    return NULL;
}

/* Opcodes stand where a type byte may. 107 and 121 are Redis Enterprise's, a length each, with no meaning
 * outside of it. */
#define FMT_OPCODES(X)               \
    X(RAM_LRU, 107, FMT_R)           \
    X(SLOT_NUM, 121, FMT_R)          \
    X(SLOT_IMPORT, 243, FMT_V)       \
    X(SLOT_INFO, 244, FMT_RV)        \
    X(FUNCTION2, 245, FMT_RV)        \
    X(FUNCTION_PRE_GA, 246, FMT_RV)  \
    X(MODULE_AUX, 247, FMT_RV)       \
    X(IDLE, 248, FMT_RV)             \
    X(FREQ, 249, FMT_RV)             \
    X(AUX, 250, FMT_RV)              \
    X(RESIZEDB, 251, FMT_RV)         \
    X(EXPIRETIME_MS, 252, FMT_RV)    \
    X(EXPIRETIME, 253, FMT_RV)       \
    X(SELECTDB, 254, FMT_RV)         \
    X(EOF, 255, FMT_RV)

#define FMT_OPCODE_ENUM(sym, number, lin) FMT_OP_##sym = number,
enum fmt_opcode { FMT_OPCODES(FMT_OPCODE_ENUM) FMT_OP_END = 256 };

#define FMT_OPCODE_ROW(sym, number, lin) {number, lin},
static const struct {
    int number;
    unsigned lineage;
} fmt_opcodes[] = {FMT_OPCODES(FMT_OPCODE_ROW)};

/* What is known of files, types and opcodes that are newer than this library, to name them when they are
 * refused: kind v version, t type, o opcode. */
static const struct {
    char kind;
    unsigned lineage;
    int number;
    const char *product;
    const char *what;
} fmt_newer[] = {
    {'v', FMT_R, 13, "Redis 8.6", ""},
    {'v', FMT_R, 14, "Redis 8.8", ""},
    {'v', FMT_R, 15, "Redis 8.10", ""},
    {'v', FMT_V, 81, "Valkey 9.2 (in development)", ""},
    {'t', FMT_R, 26, "Redis 8.6", "stream-listpacks-4"},
    {'t', FMT_R, 27, "Redis 8.8", "stream-listpacks-5"},
    {'t', FMT_R, 28, "Redis 8.8", "array"},
    {'t', FMT_R, 29, "Redis 8.10", "hash-template-listpack"},
    {'t', FMT_R, 30, "Redis 8.10", "hash-template-listpack-ref"},
    {'t', FMT_R, 31, "Redis 8.10", "hash-template-array"},
    {'t', FMT_R, 32, "Redis 8.10", "hash-template-array-ref"},
    {'t', FMT_V, 23, "Valkey 9.2 (in development)", "path-hash"},
    {'o', FMT_R, 243, "Redis 8.6", "key-meta"},
    {'o', FMT_R, 242, "Redis 8.10", "hash-template"},
    {'o', FMT_V, 242, "Valkey 9.2 (in development)", "update"},
};

/* The product and name of something newer, or "a later Redis"/"a later Valkey" and "". */
static const char *fmt_newer_product(char kind, unsigned lineage, int number, const char **what) {
    *what = "";
    for (size_t i = 0; i < sizeof fmt_newer / sizeof fmt_newer[0]; i++) {
        if (fmt_newer[i].kind != kind || fmt_newer[i].number != number) continue;
        if (!(fmt_newer[i].lineage & lineage)) continue;
        *what = fmt_newer[i].what;
        return fmt_newer[i].product;
    }
    return lineage == FMT_R ? "a later Redis" : "a later Valkey";
}

#define FMT_MAX_REDIS 12
#define FMT_MIN_VALKEY 80
#define FMT_MAX_VALKEY 80

#define FMT_F_5 (RDBKIT_F_STREAMS | RDBKIT_F_RESTORE_ABSTTL | RDBKIT_F_IDLE_FREQ | RDBKIT_F_MODULE_AUX)
#define FMT_F_62 (FMT_F_5 | RDBKIT_F_SET_PXAT | RDBKIT_F_CREATECONSUMER)
#define FMT_F_70 (FMT_F_62 | RDBKIT_F_FUNCTIONS | RDBKIT_F_STREAM_COUNTERS)
#define FMT_F_74 (FMT_F_70 | RDBKIT_F_FIELD_EXPIRY | RDBKIT_F_FIELD_EXPIRY_46 | RDBKIT_F_SLOT_INFO)
#define FMT_F_V9 (FMT_F_70 | RDBKIT_F_FIELD_EXPIRY | RDBKIT_F_SLOT_INFO | RDBKIT_F_SLOT_IMPORT)

/* name, lineage, RDB version written, highest loaded behind REDIS and VALKEY, highest type, features */
static const rdbkit_target fmt_targets[] = {
    {"redis-4.0", FMT_R, 8, 8, 0, 14, RDBKIT_F_AUX_LUA},
    {"redis-5.0", FMT_R, 9, 9, 0, 15, FMT_F_5 | RDBKIT_F_AUX_LUA},
    {"redis-6.0", FMT_R, 9, 9, 0, 15, FMT_F_5 | RDBKIT_F_AUX_LUA},
    {"redis-6.2", FMT_R, 9, 9, 0, 15, FMT_F_62 | RDBKIT_F_AUX_LUA},
    {"redis-7.0", FMT_R, 10, 10, 0, 19, FMT_F_70 | RDBKIT_F_FUNCTION_PRE_GA},
    {"redis-7.2", FMT_R, 11, 11, 0, 21, FMT_F_70},
    {"redis-7.4", FMT_R, 12, 12, 0, 25, FMT_F_74},
    {"redis-8.0", FMT_R, 12, 12, 0, 25, FMT_F_74},
    {"valkey-7.2", FMT_R, 11, 11, 0, 21, FMT_F_70},
    {"valkey-8.0", FMT_R, 11, 11, 0, 21, FMT_F_70},
    {"valkey-8.1", FMT_R, 11, 11, 0, 21, FMT_F_70},
    {"valkey-9", FMT_V, 80, 11, 80, 22, FMT_F_V9},
};

/* Other names: the newest of a line, and bare versions. */
static const struct {
    const char *name;
    const char *target;
} fmt_aliases[] = {
    {"redis-4", "redis-4.0"},    {"redis-5", "redis-5.0"},    {"redis-6", "redis-6.2"},  {"redis-7", "redis-7.4"},
    {"redis-8", "redis-8.0"},    {"valkey-7", "valkey-7.2"},  {"valkey-8", "valkey-8.1"}, {"valkey-9.0", "valkey-9"},
    {"valkey-9.1", "valkey-9"},  {"redis-8.2", "redis-8.0"},  {"redis-8.4", "redis-8.0"}, {"rdb-8", "redis-4.0"},
    {"rdb-9", "redis-6.2"},      {"rdb-10", "redis-7.0"},     {"rdb-11", "redis-7.2"},   {"rdb-12", "redis-8.0"},
};

#define FMT_TARGET_N (sizeof fmt_targets / sizeof fmt_targets[0])
#define FMT_ALIAS_N (sizeof fmt_aliases / sizeof fmt_aliases[0])

static const rdbkit_target *fmt_target_find(const char *name) {
    for (size_t i = 0; i < FMT_ALIAS_N; i++)
        if (!strcmp(name, fmt_aliases[i].name)) name = fmt_aliases[i].target;
    for (size_t i = 0; i < FMT_TARGET_N; i++)
        if (!strcmp(name, fmt_targets[i].name)) return &fmt_targets[i];
    return NULL;
}

static const char *const fmt_shapes[] = {"string", "list", "set", "zset", "hash", "stream", "module"};

_Static_assert(sizeof fmt_shapes / sizeof fmt_shapes[0] == RDBKIT_SHAPE_N, "one name per shape");

/* The nine characters of a module id, most significant first, in this alphabet. */
static void fmt_module_name(u64 id, char name[10]) {
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (int i = 0; i < 9; i++) name[i] = set[id >> (58 - 6 * i) & 63];
    name[9] = 0;
}

/* ==== [04] err_ : error texts ====
 *
 * "where: found, wanted; key "..." db n", in a fixed space, the bytes of the file escaped as redis-cli prints
 * them. The first error of a handle stays. */

/* Append to a terminated text of size bytes; what does not fit is cut off. */
static void err_vadd(char *text, size_t size, const char *fmt, va_list ap) {
    size_t used = strlen(text);
    if (used + 1 < size) vsnprintf(text + used, size - used, fmt, ap);
}

static void PORT_PRINTF(3, 4) err_add(char *text, size_t size, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    err_vadd(text, size, fmt, ap);
    va_end(ap);
}

/* Append bytes in double quotes. */
static void err_add_quoted(char *text, size_t size, const void *data, size_t len) {
    static const char plain[] = "\n\r\t\a\b\"\\", named[] = "nrtab\"\\";
    const u8 *p = data;
    err_add(text, size, "\"");
    for (size_t i = 0; i < len; i++) {
        const char *at = p[i] ? strchr(plain, p[i]) : NULL;
        if (at)
            err_add(text, size, "\\%c", named[at - plain]);
        else if (p[i] >= 32 && p[i] < 127)
            err_add(text, size, "%c", p[i]);
        else
            err_add(text, size, "\\x%02x", p[i]);
    }
    err_add(text, size, "\"");
}

/* The key and database, where there is a key. */
static void err_add_key(rdbkit_error *e) {
    if (!e->type) return;
    size_t n = e->key_len < sizeof e->key ? (size_t)e->key_len : sizeof e->key;
    err_add(e->message, sizeof e->message, "; key ");
    err_add_quoted(e->message, sizeof e->message, e->key, n);
    if (e->key_len > n) err_add(e->message, sizeof e->message, "... (%llu bytes)", (unsigned long long)e->key_len);
    err_add(e->message, sizeof e->message, " db %llu", (unsigned long long)e->db);
}

#define ERR_STATUS(X)                                  \
    X(OK, "no error")                                  \
    X(MORE, "more input wanted")                       \
    X(DONE, "done")                                    \
    X(SKIP_KEY, "skip this key")                       \
    X(TAKE_RAW, "take this value raw")                 \
    X(TAKE_RAW_WIDE, "take this value raw, wide")      \
    X(TAKE_RAW_NARROW, "take this value raw, narrow")  \
    X(ERR_NOMEM, "out of memory")                      \
    X(ERR_IO, "cannot read or write")                  \
    X(ERR_DAMAGED, "damaged input")                    \
    X(ERR_TRUNCATED, "truncated input")                \
    X(ERR_UNSUPPORTED, "unsupported version or type")  \
    X(ERR_CHECKSUM, "wrong checksum")                  \
    X(ERR_LIMIT, "limit passed")                       \
    X(ERR_LOSS, "the target cannot hold the data")     \
    X(ERR_STOPPED, "stopped by a callback")            \
    X(ERR_USAGE, "wrong use of a function")

/* ==== [05] crc_ : CRC64 ====
 *
 * CRC-64 "Jones" as servers use it: poly 0xad93d23594c935a9, reflected, init 0, xor-out 0; the check value of
 * "123456789" is e9c6d914c4b8d9ca. Eight bytes a step by tables everywhere; 64 bytes a step by carry-less
 * multiplication where the machine has it. Measured by: build.sh bench. Tests: tests/test_codecs.c */

/* Tables for slicing by 8: row k holds the CRC of a byte followed by k zero bytes. A CRC is linear, so an entry
 * is the sum of those of its bits, which are the eight constants of each row. */
#define CRC_BIT(i, b, c) (((i) >> (b) & 1) ? (c) : 0)
#define CRC_1(i, a, b, c, d, e, f, g, h)                                                                 \
    (CRC_BIT(i, 0, a) ^ CRC_BIT(i, 1, b) ^ CRC_BIT(i, 2, c) ^ CRC_BIT(i, 3, d) ^ CRC_BIT(i, 4, e) ^       \
     CRC_BIT(i, 5, f) ^ CRC_BIT(i, 6, g) ^ CRC_BIT(i, 7, h))
#define CRC_4(i, ...) CRC_1(i, __VA_ARGS__), CRC_1(i + 1, __VA_ARGS__), CRC_1(i + 2, __VA_ARGS__), CRC_1(i + 3, __VA_ARGS__)
#define CRC_16(i, ...) CRC_4(i, __VA_ARGS__), CRC_4(i + 4, __VA_ARGS__), CRC_4(i + 8, __VA_ARGS__), CRC_4(i + 12, __VA_ARGS__)
#define CRC_64(i, ...) \
    CRC_16(i, __VA_ARGS__), CRC_16(i + 16, __VA_ARGS__), CRC_16(i + 32, __VA_ARGS__), CRC_16(i + 48, __VA_ARGS__)
#define CRC_ROW(...) \
    {CRC_64(0, __VA_ARGS__), CRC_64(64, __VA_ARGS__), CRC_64(128, __VA_ARGS__), CRC_64(192, __VA_ARGS__)}

static const u64 crc_table[8][256] = {
    CRC_ROW(0x7ad870c830358979, 0xf5b0e190606b12f2, 0xc038e5739841b68f, 0xab28ecb46814fe75,
            0x7d08ff3b88be6f81, 0xfa11fe77117cdf02, 0xdf7adabd7a6e2d6f, 0x95ac9329ac4bc9b5),
    CRC_ROW(0x89e99ffd73bddf69, 0x388a19a9bfec2db9, 0x711433537fd85b72, 0xe22866a6ffb0b6e4,
            0xef09eb1ea7f6fea3, 0xf54af06e177a6e2d, 0xc1ccc68f76634f31, 0xa8c0ab4db4510d09),
    CRC_ROW(0xf4125129ce4038be, 0xc37d8400c417e217, 0xada22e52d0b85745, 0x701d7af6f9e73de1,
            0xe03af5edf3ce7bc2, 0xeb2ccd88bf0b64ef, 0xfd00bd4226815ab5, 0xd1585cd715952601),
    CRC_ROW(0x8ce168638c796306, 0x329bf69440655567, 0x6537ed2880caaace, 0xca6fda510195559c,
            0xbf8692f15bbd3853, 0x545403b1efede3cd, 0xa8a80763dfdbc79a, 0x7a092894e7201c5f),
    CRC_ROW(0x3504e58b9ba6dd1e, 0x6a09cb17374dba3c, 0xd413962e6e9b7478, 0x837e0a0f85a17b9b,
            0x2da5324c53d5645d, 0x5b4a6498a7aac8ba, 0xb694c9314f559174, 0x4670b431c63cb183),
    CRC_ROW(0xe39d1389931b9354, 0xec6301407ea0b5c3, 0xf39f24d3a5d6f8ed, 0xcc676ff4133a62b1,
            0xb397f9bb7ee35609, 0x4c76d525a5513f79, 0x98edaa4b4aa27ef2, 0x1a8272c5cdd36e8f),
    CRC_ROW(0x62a95de6e302eff2, 0xc552bbcdc605dfe4, 0xa1fc51c8d49c2ca3, 0x68a185c2f1afca2d,
            0xd1430b85e35f945a, 0x89df31589e28bbdf, 0x38e744e264c6e4d5, 0x71ce89c4c98dc9aa),
    CRC_ROW(0x381d0015c96f4444, 0x703a002b92de8888, 0xe074005725bd1110, 0xebb126fd13edb14b,
            0xfc3b6ba97f4cf1fd, 0xd32ff101a60e7091, 0x8d06c450148b7249, 0x3154aef3718177f9),
};

static u64 crc_update_table(u64 crc, const u8 *p, size_t len) {
    while (len >= 8) {
        u64 v = crc ^ port_le64(p);
        crc = crc_table[7][v & 255] ^ crc_table[6][v >> 8 & 255] ^ crc_table[5][v >> 16 & 255] ^
              crc_table[4][v >> 24 & 255] ^ crc_table[3][v >> 32 & 255] ^ crc_table[2][v >> 40 & 255] ^
              crc_table[1][v >> 48 & 255] ^ crc_table[0][v >> 56];
        p += 8, len -= 8;
    }
    while (len--) crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 255];
    return crc;
}

/* Folding: 128 bits of state stand for a polynomial whose CRC is that of all bytes so far. To move them past T
 * bits, its first half is multiplied by x^(T+63) mod P and its second by x^(T-1) mod P, bit-reflected like the
 * data (the product of two reflected factors comes out shifted by one, hence the odd exponents). */
#define CRC_FOLD_LO_512 0xaf86efb16d9ab4fbULL
#define CRC_FOLD_HI_512 0xf49784a634f014e4ULL
#define CRC_FOLD_LO_128 0xd9d7be7d505da32cULL
#define CRC_FOLD_HI_128 0x381d0015c96f4444ULL

#if defined(PORT_X86)
__attribute__((target("pclmul,sse2"))) PORT_INLINE __m128i crc_fold_x86(__m128i x, __m128i k, const u8 *p) {
    __m128i lo = _mm_clmulepi64_si128(x, k, 0x00), hi = _mm_clmulepi64_si128(x, k, 0x11);
    __m128i next = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm_xor_si128(_mm_xor_si128(lo, hi), next);
}

/* len is at least 64. */
__attribute__((target("pclmul,sse2"))) static u64 crc_update_x86(u64 crc, const u8 *p, size_t len) {
    const __m128i k512 = _mm_set_epi64x((long long)CRC_FOLD_HI_512, (long long)CRC_FOLD_LO_512);
    const __m128i k128 = _mm_set_epi64x((long long)CRC_FOLD_HI_128, (long long)CRC_FOLD_LO_128);
    __m128i x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i));
    x[0] = _mm_xor_si128(x[0], _mm_set_epi64x(0, (long long)crc));
    for (p += 64, len -= 64; len >= 64; p += 64, len -= 64)
        for (int i = 0; i < 4; i++) x[i] = crc_fold_x86(x[i], k512, p + 16 * i);
    u8 last[4][16];
    for (int i = 0; i < 4; i++) _mm_storeu_si128((__m128i *)(void *)last[i], x[i]);
    for (int i = 1; i < 4; i++) x[0] = crc_fold_x86(x[0], k128, last[i]);
    for (; len >= 16; p += 16, len -= 16) x[0] = crc_fold_x86(x[0], k128, p);
    _mm_storeu_si128((__m128i *)(void *)last[0], x[0]);
    return crc_update_table(crc_update_table(0, last[0], 16), p, len);
}

static int crc_have_fold(void) {
    return __builtin_cpu_supports("pclmul");
}
#define CRC_FOLD crc_update_x86

#elif defined(PORT_ARM64)
#pragma GCC push_options
#pragma GCC target("+crypto")
#if defined(__clang__)
#define CRC_ARM __attribute__((target("aes")))
#else
#define CRC_ARM
#endif
CRC_ARM static inline uint64x2_t crc_fold_arm(uint64x2_t x, uint64x2_t k, const u8 *p) {
    poly128_t lo = vmull_p64((poly64_t)vgetq_lane_u64(x, 0), (poly64_t)vgetq_lane_u64(k, 0));
    poly128_t hi = vmull_p64((poly64_t)vgetq_lane_u64(x, 1), (poly64_t)vgetq_lane_u64(k, 1));
    uint64x2_t next = vreinterpretq_u64_u8(vld1q_u8(p));
    return veorq_u64(veorq_u64(vreinterpretq_u64_p128(lo), vreinterpretq_u64_p128(hi)), next);
}

/* len is at least 64. */
CRC_ARM static u64 crc_update_arm(u64 crc, const u8 *p, size_t len) {
    const uint64x2_t k512 = {CRC_FOLD_LO_512, CRC_FOLD_HI_512}, k128 = {CRC_FOLD_LO_128, CRC_FOLD_HI_128};
    uint64x2_t x[4], first = {crc, 0};
    for (int i = 0; i < 4; i++) x[i] = vreinterpretq_u64_u8(vld1q_u8(p + 16 * i));
    x[0] = veorq_u64(x[0], first);
    for (p += 64, len -= 64; len >= 64; p += 64, len -= 64)
        for (int i = 0; i < 4; i++) x[i] = crc_fold_arm(x[i], k512, p + 16 * i);
    u8 last[4][16];
    for (int i = 0; i < 4; i++) vst1q_u8(last[i], vreinterpretq_u8_u64(x[i]));
    for (int i = 1; i < 4; i++) x[0] = crc_fold_arm(x[0], k128, last[i]);
    for (; len >= 16; p += 16, len -= 16) x[0] = crc_fold_arm(x[0], k128, p);
    vst1q_u8(last[0], vreinterpretq_u8_u64(x[0]));
    return crc_update_table(crc_update_table(0, last[0], 16), p, len);
}
#pragma GCC pop_options

static int crc_have_fold(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & (1UL << 4)) != 0; /* HWCAP_PMULL */
#else
    return 1; /* every Apple processor */
#endif
}
#define CRC_FOLD crc_update_arm
#endif

static u64 crc_update(u64 crc, const u8 *p, size_t len) {
#if defined(CRC_FOLD)
    if (len >= 64 && crc_have_fold()) return CRC_FOLD(crc, p, len);
#endif
    return crc_update_table(crc, p, len);
}

/* ==== [06] lzf_ : LZF decoder ====
 *
 * Strings and blobs may be LZF-compressed (FORMAT: c3, compressed and plain length, bytes). The compressor is
 * liblzf's. The decoder is ours because liblzf's copies byte by byte where 16 at a time will do: about twice
 * as fast on JSON strings (build.sh bench), which is what such files consist of. Tests hold the two against
 * each other: tests/test_codecs.c. */

#define LZF_MAX_RATIO 88 /* a reference of 3 bytes gives at most 264 */
#define LZF_SLACK 48     /* bytes past the output's end that a decode may overwrite */

/* Decode clen bytes into exactly ulen; out has room for ulen + LZF_SLACK. 0, or -1 if the stream is broken.
 * Copies go in steps of 16 bytes past the mark where input and output have that much room: what is written
 * past the mark is overwritten by what follows, or lies in the slack. */
static int lzf_decode(const u8 *in, size_t clen, u8 *out, size_t ulen) {
    const u8 *p = in, *end = in + clen;
    u8 *o = out, *o_end = out + ulen;
    while (p < end) {
        size_t c = *p++;
        if (c < 32) {
            size_t n = c + 1;
            if (PORT_UNLIKELY(n > (size_t)(end - p) || n > (size_t)(o_end - o))) return -1;
            if (PORT_LIKELY(end - p >= 32)) {
                memcpy(o, p, 16);
                if (n > 16) memcpy(o + 16, p + 16, 16);
            } else {
                memcpy(o, p, n);
            }
            p += n, o += n;
            continue;
        }
        size_t n = c >> 5;
        if (n == 7) {
            if (PORT_UNLIKELY(p == end)) return -1;
            n += *p++;
        }
        n += 2;
        if (PORT_UNLIKELY(p == end)) return -1;
        size_t d = ((c & 31) << 8 | *p++) + 1;
        if (PORT_UNLIKELY(d > (size_t)(o - out) || n > (size_t)(o_end - o))) return -1;
        const u8 *from = o - d;
        if (PORT_LIKELY(d >= 16)) {
            memcpy(o, from, 16);
            for (size_t i = 16; i < n; i += 16) memcpy(o + i, from + i, 16);
        } else if (d == 1) {
            memset(o, *from, n);
        } else if (d >= 8) {
            for (size_t i = 0; i < n; i += 8) memcpy(o + i, from + i, 8);
        } else { /* a short pattern: once it fills 16 bytes it repeats at a distance that is long enough */
            size_t far = d * (16 / d + 1);
            for (size_t i = 0; i < far - d && i < n; i++) o[i] = from[i];
            for (size_t i = far - d; i < n; i += 16) memcpy(o + i, o + i - far, 16);
        }
        o += n;
    }
    return o == o_end ? 0 : -1;
}

/* Whether clen bytes decode to exactly ulen, without decoding them. 0 or -1. */
static int lzf_check(const u8 *in, size_t clen, size_t ulen) {
    const u8 *p = in, *end = in + clen;
    size_t o = 0;
    while (p < end) {
        size_t c = *p, n = c + 1;
        if (c < 32) {
            p += 1 + n;
        } else {
            size_t head = 2, last;
            n = (c >> 5) + 2;
            if (n == 9) head = 3;
            if (PORT_UNLIKELY(head > (size_t)(end - p))) return -1;
            if (n == 9) n += p[1];
            last = p[head - 1];
            if (PORT_UNLIKELY(((c & 31) << 8 | last) >= o)) return -1;
            p += head;
        }
        o += n;
    }
    return p == end && o == ulen ? 0 : -1;
}

/* ==== [07] num_ : integers and doubles as text ====
 *
 * No locale, no printf: scores go out as the shortest decimal that reads back as the same double, ten times
 * faster than printf. Shortest digits by Schubfach (Giulietti, "The Schubfach way to render doubles"), parsing
 * by Eisel and Lemire ("Number parsing at a gigabyte per second"), both from their papers, both on one table
 * of powers of ten. Tests: tests/test_codecs.c holds them against strtod and printf. */

#define NUM_INT_MAX 20    /* digits and sign of any 64-bit integer */
#define NUM_DOUBLE_MAX 32 /* bytes that num_double may write */

static const char num_pairs[201] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                   "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                   "8081828384858687888990919293949596979899";

/* Decimal digits of v. */
PORT_INLINE int num_digits(u64 v) {
    int n = 1;
    for (;;) {
        if (v < 10) return n;
        if (v < 100) return n + 1;
        if (v < 1000) return n + 2;
        if (v < 10000) return n + 3;
        v /= 10000, n += 4;
    }
}

/* Write v in decimal; returns the end. */
PORT_INLINE u8 *num_u64(u8 *out, u64 v) {
    if (v < 10) {
        *out = (u8)('0' + v);
        return out + 1;
    }
    if (v < 100) {
        memcpy(out, num_pairs + 2 * v, 2);
        return out + 2;
    }
    u8 *end = out + num_digits(v), *p = end;
    while (v >= 100) {
        p -= 2;
        memcpy(p, num_pairs + 2 * (v % 100), 2);
        v /= 100;
    }
    if (v >= 10)
        memcpy(p - 2, num_pairs + 2 * v, 2);
    else
        p[-1] = (u8)('0' + v);
    return end;
}

PORT_INLINE u8 *num_i64(u8 *out, i64 v) {
    if (v >= 0) return num_u64(out, (u64)v);
    *out = '-';
    return num_u64(out + 1, 0 - (u64)v);
}

/* The integer that a text is in canonical form: digits, a minus in front, no leading zero, in range. 0 or -1. */
static int num_parse_i64(const void *text, size_t len, i64 *v) {
    if (len == 0 || len > NUM_INT_MAX) return -1;
    const u8 *p = text, *end = p + len;
    u64 n = 0;
    int neg = *p == '-';
    p += neg;
    if (p == end || (*p == '0' && (end - p > 1 || neg))) return -1;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9') return -1;
        u64 digit = (u64)(*p - '0');
        if (n > (UINT64_MAX - digit) / 10) return -1;
        n = n * 10 + digit;
    }
    if (n > (u64)INT64_MAX + (u64)neg) return -1;
    *v = neg ? (i64)(0 - n) : (i64)n;
    return 0;
}

/* Floor of log2(10^e) for |e| < 1650. Right shifts of negatives are arithmetic on every compiler we meet. */
PORT_INLINE int num_log2_pow10(int e) {
    return (e * 1741647) >> 19;
}

/* 10^(27 i) for i = -13 .. 12, the first 192 bits, rounded down. Made with Python's integers:
 * 10**k shifted so that it has 192 bits. */
static const u64 num_pow27[26][3] = {
    {0x8049a4ac0c5811ae, 0x205b896d777d6278, 0xac261e9f5141430b},
    {0xcf42894a5dce35ea, 0x52064cac828675b9, 0x475f2b7d7df1ad7a},
    {0xa76c582338ed2621, 0xaf2af2b80af6f24e, 0x657c8f4d43323a36},
    {0x873e4f75e2224e68, 0x5a7744a6e804a291, 0xcc35eddfcf0996d7},
    {0xda7f5bf590966848, 0xaf39a475506a899e, 0xa30294cc2934e662},
    {0xb080392cc4349dec, 0xbd8d794d96aacfb3, 0xfe13a5c86af64418},
    {0x8e938662882af53e, 0x547eb47b7282ee9c, 0x41b0230e1421487d},
    {0xe65829b3046b0afa, 0x0cb4a5a3112a5112, 0xa3b561b1cb208396},
    {0xba121a4650e4ddeb, 0x92f34d62616ce413, 0x21a0183e10583cd3},
    {0x964e858c91ba2655, 0x3a6a07f8d510f86f, 0xe9082f25e9c5e9ec},
    {0xf2d56790ab41c2a2, 0xfae27299423fb9c3, 0x3695dad7e8858901},
    {0xc428d05aa4751e4c, 0xaa97e14c3c26b886, 0x96842dc95323f5a8},
    {0x9e74d1b791e07e48, 0x775ea264cf55347d, 0xca49f1c05120c9c7},
    {0x8000000000000000, 0x0000000000000000, 0x0000000000000000},
    {0xcecb8f27f4200f3a, 0x0000000000000000, 0x0000000000000000},
    {0xa70c3c40a64e6c51, 0x999090b65f67d924, 0x0000000000000000},
    {0x86f0ac99b4e8dafd, 0x69a028bb3ded71a3, 0xdf9f915627c04e28},
    {0xda01ee641a708de9, 0xe80e6f4820cc9495, 0xd74baad03bc1d8d3},
    {0xb01ae745b101e9e4, 0x5ec05dcff72e7f8f, 0xc04c79ffe324301f},
    {0x8e41ade9fbebc27d, 0x14588f13be847307, 0x23bd6a2059c002f5},
    {0xe5d3ef282a242e81, 0x8f1668c8a86da5fa, 0xf0b5ccf5176ecc7c},
    {0xb9a74a0637ce2ee1, 0x6d953e2bd7173692, 0x88efb0037ac08bde},
    {0x95f83d0a1fb69cd9, 0x4abdaf101564f98e, 0x0d5a4af7b3a98e47},
    {0xf24a01a73cf2dccf, 0xbc633b39673c8cec, 0x3d9c44cd2f36917c},
    {0xc3b8358109e84f07, 0x0a862f80ec4700c8, 0x02606ea01029dc37},
    {0x9e19db92b4e31ba9, 0x6c07a2c26a8346d1, 0x4944d9f52cd0dec2},
};

static const u64 num_pow5[28] = {
    1, 5, 25, 125, 625, 3125, 15625, 78125, 390625, 1953125, 9765625, 48828125, 244140625, 1220703125,
    6103515625, 30517578125, 152587890625, 762939453125, 3814697265625, 19073486328125, 95367431640625,
    476837158203125, 2384185791015625, 11920928955078125, 59604644775390625, 298023223876953125,
    1490116119384765625, 7450580596923828125,
};

#define NUM_POW10_MIN (-351)
#define NUM_POW10_MAX 324

typedef struct num_u128 {
    u64 hi, lo;
} num_u128;

/* 10^k with its first bit moved to bit 127: the first 128 bits, rounded down (up = 0) or up (up = 1) where they
 * are not exact, which they are for k = 0 .. 55. Exact to the last bit for every k of the range. */
static num_u128 num_pow10(int k, int up) {
    int i = (k - NUM_POW10_MIN) / 27, j = k - NUM_POW10_MIN - 27 * i;
    const u64 *b = num_pow27[i];
    u64 h0, h1, h2, f = num_pow5[j];
    u64 l0 = port_mul128(b[2], f, &h0), l1 = port_mul128(b[1], f, &h1), l2 = port_mul128(b[0], f, &h2);
    u64 w1 = l1 + h0, w2, w3;
    h1 += w1 < l1;
    w2 = l2 + h1;
    w3 = h2 + (w2 < l2);
    (void)l0;
    /* 256 bits w3 w2 w1 l0, of which the first set bit is in w3, or in w2 when f is 1 */
    int s = w3 ? port_clz64(w3) : 0;
    num_u128 r;
    if (!w3)
        r.hi = w2, r.lo = w1;
    else if (s)
        r.hi = w3 << s | w2 >> (64 - s), r.lo = w2 << s | w1 >> (64 - s);
    else
        r.hi = w3, r.lo = w2;
    if (up && (k < 0 || k > 55)) r.hi += ++r.lo == 0;
    return r;
}

/* cp * g / 2^128 with the last bit set if anything was cut off. */
PORT_INLINE u64 num_round_to_odd(num_u128 g, u64 cp) {
    u64 x1, y1;
    port_mul128(g.lo, cp, &x1);
    u64 y0 = port_mul128(g.hi, cp, &y1);
    u64 sum = y0 + x1;
    y1 += sum < y0;
    return y1 | (sum > 1);
}

/* The shortest decimal d * 10^*exp10 in the rounding interval of a positive finite double, the nearest of them. */
static u64 num_shortest(u64 bits, int *exp10) {
    u64 frac = bits & (((u64)1 << 52) - 1);
    int e = (int)(bits >> 52 & 0x7ff);
    u64 c = e ? frac | (u64)1 << 52 : frac;
    int q = e ? e - 1075 : -1074;
    if (q <= 0 && q > -53 && !(c & (((u64)1 << -q) - 1))) {
        *exp10 = 0;
        return c >> -q;
    }
    int closer = frac == 0 && e > 1; /* the lower neighbour is half as far */
    u64 odd = c & 1, cb = 4 * c;
    int k = (q * 1262611 - (closer ? 524031 : 0)) >> 22;
    int h = q + num_log2_pow10(-k) + 1;
    num_u128 g = num_pow10(-k, 1);
    u64 lower = num_round_to_odd(g, (cb - 2 + (u64)closer) << h) + odd;
    u64 mid = num_round_to_odd(g, cb << h);
    u64 upper = num_round_to_odd(g, (cb + 2) << h) - odd;
    u64 s = mid / 4;
    if (s >= 10) {
        u64 t = s / 10;
        int down = lower <= 40 * t, up = 40 * t + 40 <= upper;
        if (down != up) {
            *exp10 = k + 1;
            return t + (u64)up;
        }
    }
    *exp10 = k;
    int down = lower <= 4 * s, up = 4 * s + 4 <= upper;
    if (down != up) return s + (u64)up;
    return s + (mid > 4 * s + 2 || (mid == 4 * s + 2 && (s & 1)));
}

/* digits * 10^exp10, n digits, as text: plain where that is short, else with an exponent. */
static u8 *num_place_point(u8 *out, u64 digits, int exp10) {
    u8 text[NUM_INT_MAX];
    int n = (int)(num_u64(text, digits) - text), point = n + exp10; /* digits before the point */
    if (exp10 >= 0 && point <= 21) {
        memcpy(out, text, (size_t)n);
        memset(out + n, '0', (size_t)exp10);
        return out + point;
    }
    if (exp10 < 0 && point > 0) {
        memcpy(out, text, (size_t)point);
        out[point] = '.';
        memcpy(out + point + 1, text + point, (size_t)(n - point));
        return out + n + 1;
    }
    if (exp10 < 0 && point > -6) {
        memcpy(out, "0.00000", 7);
        memcpy(out + 2 - point, text, (size_t)n);
        return out + 2 - point + n;
    }
    *out++ = text[0];
    if (n > 1) {
        *out++ = '.';
        memcpy(out, text + 1, (size_t)(n - 1));
        out += n - 1;
    }
    *out++ = 'e';
    return num_i64(out, point - 1);
}

/* Write the shortest decimal that reads back as v ("inf", "-inf", "nan" for those); returns the end. */
static u8 *num_double(u8 *out, double v) {
    u64 bits;
    memcpy(&bits, &v, 8);
    if (v == v && bits >> 63) *out++ = '-';
    bits &= ~((u64)1 << 63);
    if (bits >= (u64)0x7ff << 52) {
        memcpy(out, v == v ? "inf" : "nan", 3);
        return out + 3;
    }
    if (!bits) {
        *out = '0';
        return out + 1;
    }
    int exp10;
    u64 digits = num_shortest(bits, &exp10);
    while (exp10 && digits % 10 == 0) digits /= 10, exp10++;
    return num_place_point(out, digits, exp10);
}

/* A positive integer of any size, little endian limbs, for the one case in a billion that 128 bits do not
 * decide. 120 limbs hold 10^1100, more than a text of NUM_TEXT_MAX digits can need. */
#define NUM_BIG_LIMBS 160
#define NUM_TEXT_MAX 400

typedef struct num_big {
    int n;
    u32 limb[NUM_BIG_LIMBS];
} num_big;

static void num_big_mul_add(num_big *b, u32 factor, u32 add) {
    u64 carry = add;
    for (int i = 0; i < b->n; i++) {
        carry += (u64)b->limb[i] * factor;
        b->limb[i] = (u32)carry;
        carry >>= 32;
    }
    if (carry && b->n < NUM_BIG_LIMBS) b->limb[b->n++] = (u32)carry;
}

static void num_big_pow(num_big *b, u32 factor, int times) {
    while (times-- > 0) num_big_mul_add(b, factor, 0);
}

static int num_big_cmp(const num_big *a, const num_big *b) {
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    for (int i = a->n - 1; i >= 0; i--)
        if (a->limb[i] != b->limb[i]) return a->limb[i] < b->limb[i] ? -1 : 1;
    return 0;
}

/* Digits of a decimal text, taken apart. */
typedef struct num_decimal {
    const u8 *digits; /* with a point somewhere, perhaps */
    size_t len;
    u64 head;  /* the first 19 digits */
    int exp10; /* of head */
    int cut;   /* digits beyond head, not all of them zero */
    int tail;  /* how many digits beyond head */
} num_decimal;

/* Whether the decimal is above (1), at (0) or below (-1) the middle between the double and the next one up. */
static int num_cmp_middle(const num_decimal *d, u64 bits) {
    num_big a = {0}, b = {0};
    u64 frac = bits & (((u64)1 << 52) - 1);
    int e = (int)(bits >> 52);
    u64 m = 2 * (e ? frac | (u64)1 << 52 : frac) + 1;
    int q = (e ? e - 1075 : -1074) - 1, p = d->exp10 - d->tail;
    for (size_t i = 0; i < d->len; i++)
        if (d->digits[i] != '.') num_big_mul_add(&a, 10, (u32)(d->digits[i] - '0'));
    b.limb[0] = (u32)m, b.limb[1] = (u32)(m >> 32), b.n = m >> 32 ? 2 : 1;
    num_big_pow(&a, 5, p), num_big_pow(&b, 5, -p);
    num_big_pow(&a, 2, p - q), num_big_pow(&b, 2, q - p);
    return num_big_cmp(&a, &b);
}

/* w * 10^q, w > 0, as the bits of the nearest double, ties to even; or of the double next below the exact
 * value's rounding when w was cut off, which the caller finds by trying w + 1 too. */
static u64 num_eisel_lemire(u64 w, int q) {
    const u64 inf = (u64)0x7ff << 52;
    if (q < -342) return 0;
    if (q > 308) return inf;
    int lz = port_clz64(w);
    w <<= lz;
    num_u128 t = num_pow10(q, q < 0 && q >= -27);
    u64 hi, lo = port_mul128(w, t.hi, &hi);
    if ((hi & 0x1ff) == 0x1ff) {
        u64 hi2;
        port_mul128(w, t.lo, &hi2);
        lo += hi2;
        hi += lo < hi2;
    }
    int upper = (int)(hi >> 63), shift = upper + 9;
    u64 m = hi >> shift;
    int e = num_log2_pow10(q) + 63 + upper - lz + 1023;
    if (e <= 0) { /* subnormal */
        if (1 - e >= 64) return 0;
        m >>= 1 - e;
        m += m & 1;
        return m >> 1; /* 2^52 is the smallest normal number: the bits say so themselves */
    }
    if (lo <= 1 && q >= -4 && q <= 23 && (m & 3) == 1 && m << shift == hi) m &= ~(u64)1;
    m += m & 1;
    m >>= 1;
    if (m >> 53) m = (u64)1 << 52, e++;
    if (e >= 0x7ff) return inf;
    return (m & (((u64)1 << 52) - 1)) | (u64)e << 52;
}

/* Read digits, point and exponent. 0, or -1 if that is not all that there is. */
static int num_scan(const u8 *p, const u8 *end, num_decimal *d) {
    int seen = 0, n = 0, point = 0, after = 0;
    memset(d, 0, sizeof *d);
    while (p < end && *p == '0') p++, seen = 1;
    d->digits = p;
    for (; p < end && (*p == '.' || (*p >= '0' && *p <= '9')); p++) {
        if (*p == '.') {
            if (point++) return -1;
            continue;
        }
        seen = 1;
        after += point;
        if (n == 0 && *p == '0') continue; /* zeros between the point and the first digit */
        if (n++ < 19)
            d->head = d->head * 10 + (u64)(*p - '0');
        else
            d->tail++, d->cut |= *p != '0';
    }
    d->len = (size_t)(p - d->digits);
    d->exp10 = d->tail - after;
    if (!seen) return -1;
    if (p < end && (*p | 32) == 'e') {
        int neg = 0, e = 0;
        if (++p < end && (*p == '-' || *p == '+')) neg = *p++ == '-';
        if (p == end) return -1;
        for (; p < end && *p >= '0' && *p <= '9'; p++)
            if (e < 100000) e = e * 10 + (*p - '0');
        d->exp10 += neg ? -e : e;
    }
    return p == end ? 0 : -1;
}

/* Text as strtod takes it in the C locale: decimal, "inf", "infinity", "nan", any case, a sign; no blanks, no
 * hexadecimal. 0, or -1 if the text is not a number. */
static int num_parse_double(const u8 *text, size_t len, double *v) {
    static const struct {
        const char *name;
        u64 bits;
    } words[] = {{"inf", (u64)0x7ff << 52}, {"infinity", (u64)0x7ff << 52}, {"nan", (u64)0x7ff8 << 48}};
    const u8 *p = text, *end = text + len;
    u64 bits = 0, sign = 0;
    if (len > NUM_TEXT_MAX) return -1;
    if (p < end && (*p == '-' || *p == '+')) sign = (u64)(*p++ == '-') << 63;
    num_decimal d;
    if (num_scan(p, end, &d) == 0) {
        if (d.head) bits = num_eisel_lemire(d.head, d.exp10);
        if (d.cut && num_eisel_lemire(d.head + 1, d.exp10) != bits) {
            int c = num_cmp_middle(&d, bits);
            bits += c > 0 || (c == 0 && (bits & 1));
        }
    } else {
        size_t i, j, n = sizeof words / sizeof words[0];
        for (i = 0; i < n; i++) {
            for (j = 0; words[i].name[j] && p + j < end && (p[j] | 32) == words[i].name[j]; j++) continue;
            if (!words[i].name[j] && p + j == end) break;
        }
        if (i == n) return -1;
        bits = words[i].bits;
    }
    bits |= sign;
    memcpy(v, &bits, 8);
    return 0;
}

/* ==== [08] pk_ : packed blobs: the cursor that the next four rooms share ====
 *
 * A packed blob is a small collection in one string. A cursor walks it and checks each entry as it steps; there
 * is no unchecked way through. A function that steps returns PK_ITEM, PK_END or PK_BAD, and after PK_BAD the
 * cursor says what was found where. Tests: tests/test_codecs.c */

enum { PK_ITEM = 0, PK_END = 1, PK_BAD = -1 };

#define PK_COUNT_UNKNOWN 65535 /* ziplist and listpack: 16 bits do not hold it, walk */

typedef struct pk_item {
    const u8 *data; /* the string, or NULL: num is the value */
    size_t len;
    i64 num;
} pk_item;

typedef struct pk_cursor {
    const u8 *base; /* the whole blob */
    const u8 *p;    /* the next entry */
    const u8 *end;  /* the end mark, or for intsets the end of the blob */
    u64 stated;     /* entries by the header */
    u64 n;          /* entries stepped over */
    unsigned forms; /* lp_: forms of back-lengths seen where they differ, 1 wide, 2 narrow */
    u64 prev_len;   /* zl_: bytes of the previous entry; ist_: width; zm_: 1 if a value is next */
    const char *bad;
    size_t bad_off; /* in the blob */
    u64 bad_a, bad_b;
} pk_cursor;

/* bad: constant text with up to two %llu. */
static PORT_NOINLINE int pk_fail(pk_cursor *c, const u8 *at, const char *bad, u64 a, u64 b) {
    c->bad = bad;
    c->bad_off = (size_t)(at - c->base);
    c->bad_a = a, c->bad_b = b;
    return PK_BAD;
}

static void pk_start(pk_cursor *c, const u8 *blob) {
    memset(c, 0, sizeof *c);
    c->base = c->p = blob;
}

/* At the end mark: the header's count must be the number of entries, unless it says that it does not know. */
static int pk_finish(pk_cursor *c) {
    if (c->stated != c->n && c->stated != PK_COUNT_UNKNOWN)
        return pk_fail(c, c->p, "header says %llu entries, there are %llu", c->stated, c->n);
    return PK_END;
}

/* An item as text; num: room for NUM_INT_MAX bytes, borrowed by the result. */
PORT_INLINE rdbkit_str pk_text(const pk_item *it, u8 *num) {
    rdbkit_str s;
    if (it->data) {
        s.data = (const char *)it->data, s.len = it->len;
    } else {
        s.data = (const char *)num, s.len = (size_t)(num_i64(num, it->num) - num);
    }
    return s;
}

/* ==== [09] lp_ : listpack blobs ====
 *
 *     u32le total bytes, u16le entries (65535: unknown), entries, ff
 *     entry = encoding, data, back-length
 *
 * All collections from Redis 7.0 on, and stream nodes from 5.0 on. docs/format.md, section listpack. */

#define LP_HDR_LEN 6

static int lp_open(pk_cursor *c, const u8 *blob, size_t len) {
    pk_start(c, blob);
    if (len < LP_HDR_LEN + 1) return pk_fail(c, blob, "listpack of %llu bytes, at least 7 wanted", len, 0);
    if (port_le32(blob) != len) return pk_fail(c, blob, "listpack says %llu bytes, has %llu", port_le32(blob), len);
    if (blob[len - 1] != 0xff) return pk_fail(c, blob + len - 1, "end mark is %llu, 255 wanted", blob[len - 1], 0);
    c->stated = port_le16(blob + 4);
    c->p = blob + LP_HDR_LEN;
    c->end = blob + len - 1;
    return 0;
}

/* Bytes of the back-length after an entry of n bytes. The steps lie at 127, 16382, 2097150 and 268435454: past
 * the first, one short of what 7 bits a byte could hold. Redis, and Valkey up to 9.0, write it so ("wide");
 * Valkey 9.1 uses all of the bits ("narrow"). */
static int lp_back_width(u64 n, int narrow) {
    u64 more = narrow ? 1 : 0;
    return n <= 127 ? 1 : n < 16383 + more ? 2 : n < 2097151 + more ? 3 : n < 268435455 + more ? 4 : 5;
}

/* Write the back-length of an entry of n bytes; its width. */
static int lp_put_back(u8 back[5], u64 n, int narrow) {
    int w = lp_back_width(n, narrow);
    for (int i = w - 1; i >= 0; i--, n >>= 7) back[i] = (u8)((n & 127) | (i ? 128 : 0));
    return w;
}

/* Whether the w bytes at p say n: seven bits each, the first most significant, bit 7 on all but the first. */
static int lp_back_is(const u8 *p, int w, u64 n) {
    for (int i = w - 1; i >= 0; i--, n >>= 7)
        if (p[i] != ((n & 127) | (i ? 128 : 0))) return 0;
    return n == 0;
}

/* The back-length of an entry of n bytes that ends at p, in either form; its width, or 0. */
static PORT_NOINLINE int lp_back_len(const u8 *p, const u8 *end, u64 n) {
    for (int narrow = 0; narrow < 2; narrow++) {
        int w = lp_back_width(n, narrow);
        if (w <= end - p && lp_back_is(p, w, n)) return w;
    }
    return 0;
}

static PORT_NOINLINE int lp_bad_back(pk_cursor *c, u64 n) {
    const u8 *p = c->p + n;
    u64 says = 0;
    for (int i = 0; i < 5 && p + i < c->end && (i == 0 || (p[i] & 128)); i++) says = says << 7 | (p[i] & 127);
    if (says == n) return pk_fail(c, c->p, "back-length of an entry of %llu bytes is not written in the shortest way", n, 0);
    return pk_fail(c, c->p, "back-length says %llu, entry takes %llu", says, n);
}

PORT_INLINE int lp_next(pk_cursor *c, pk_item *it) {
    const u8 *p = c->p;
    u64 room = (u64)(c->end - p), n;
    it->data = NULL, it->len = 0, it->num = 0;
    if (PORT_UNLIKELY(room == 0)) return pk_finish(c);
    u8 b = *p;
    if (b < 0x80) {
        it->num = b, n = 1;
    } else if (b < 0xc0) {
        it->data = p + 1, it->len = b & 63, n = 1 + it->len;
    } else if (b >= 0xf0 ? b > 0xf4 : room < 2) {
        return b == 0xff ? pk_fail(c, p, "end mark before the end, %llu bytes follow", room, 0)
                         : pk_fail(c, p, "no such encoding: %llu", b, 0);
    } else if (b < 0xe0) {
        it->num = port_sign((u64)(b & 31) << 8 | p[1], 13), n = 2;
    } else if (b < 0xf0) {
        it->data = p + 2, it->len = (size_t)(b & 15) << 8 | p[1], n = 2 + it->len;
    } else {
        static const u8 head[] = {5, 3, 4, 5, 9};
        n = head[b - 0xf0];
        if (room < n) return pk_fail(c, p, "entry of %llu bytes, %llu left", n, room);
        switch (b) {
        case 0xf0: it->data = p + 5, it->len = port_le32(p + 1), n += it->len; break;
        case 0xf1: it->num = port_sign(port_le16(p + 1), 16); break;
        case 0xf2: it->num = port_sign(port_le24(p + 1), 24); break;
        case 0xf3: it->num = port_sign(port_le32(p + 1), 32); break;
        default: it->num = (i64)port_le64(p + 1); break;
        }
    }
    if (PORT_UNLIKELY(n >= room)) return pk_fail(c, p, "entry of %llu bytes, %llu left", n, room);
    if (PORT_LIKELY(n <= 127)) {
        if (PORT_UNLIKELY(p[n] != n)) return lp_bad_back(c, n);
        n += 1;
    } else {
        int w = lp_back_len(p + n, c->end, n);
        if (!w) return lp_bad_back(c, n);
        if (PORT_UNLIKELY(n == 16383 || n == 2097151 || n == 268435455)) c->forms |= w == lp_back_width(n, 0) ? 1 : 2;
        n += (u64)w;
    }
    c->p = p + n;
    c->n++;
    return PK_ITEM;
}

/* A sound listpack once more, with the back-lengths that one kind of server reads, into out. */
static int lp_rewrite(const rdbkit_allocator *mem, const u8 *blob, size_t len, int narrow, mem_buf *out) {
    pk_cursor c;
    pk_item it;
    u8 back[5], end = 0xff;
    out->len = 0;
    lp_open(&c, blob, len);
    int st = mem_buf_add(mem, out, blob, LP_HDR_LEN);
    for (const u8 *p = c.p; !st && lp_next(&c, &it) == PK_ITEM; p = c.p) {
        int was = 1; /* bytes that the back-length takes; those before them are what it says */
        while (!lp_back_is(c.p - was, was, (u64)(c.p - was - p))) was++;
        size_t n = (size_t)(c.p - was - p);
        int w = lp_put_back(back, n, narrow);
        st = mem_buf_add(mem, out, p, n);
        if (!st) st = mem_buf_add(mem, out, back, (size_t)w);
    }
    if (!st) st = mem_buf_add(mem, out, &end, 1);
    for (int i = 0; !st && i < 4; i++) out->data[i] = (u8)(out->len >> (8 * i));
    return st;
}

/* ==== [10] zl_ : ziplist blobs ====
 *
 *     u32le total bytes, u32le offset of the last entry, u16le entries (65535: unknown), entries, ff
 *     entry = length of the previous entry (1 byte, or fe and u32le), encoding, data
 *
 * Lists, sorted sets and hashes of Redis 2.4 to 6.2. Servers of 7.0 and later check all that is checked here.
 * docs/format.md, section ziplist. */

#define ZL_HDR_LEN 10

static int zl_open(pk_cursor *c, const u8 *blob, size_t len) {
    pk_start(c, blob);
    if (len < ZL_HDR_LEN + 1) return pk_fail(c, blob, "ziplist of %llu bytes, at least 11 wanted", len, 0);
    if (port_le32(blob) != len) return pk_fail(c, blob, "ziplist says %llu bytes, has %llu", port_le32(blob), len);
    if (blob[len - 1] != 0xff) return pk_fail(c, blob + len - 1, "end mark is %llu, 255 wanted", blob[len - 1], 0);
    c->stated = port_le16(blob + 8);
    c->p = blob + ZL_HDR_LEN;
    c->end = blob + len - 1;
    return 0;
}

static int zl_finish(pk_cursor *c) {
    u64 last = c->n ? (u64)(c->p - c->base) - c->prev_len : ZL_HDR_LEN;
    if (port_le32(c->base + 4) != last)
        return pk_fail(c, c->base + 4, "last entry said to be at %llu, is at %llu", port_le32(c->base + 4), last);
    return pk_finish(c);
}

/* Encoding and data at p; room bytes are there. Returns the bytes they take, or 0. */
static u64 zl_value(const u8 *p, u64 room, pk_item *it) {
    static const u8 fixed[16] = {[0xc] = 3, [0xd] = 5, [0xe] = 9, [0xf] = 1};
    u8 b = *p;
    it->data = NULL;
    if (b < 0x40) {
        it->data = p + 1, it->len = b;
        return 1 + (u64)b;
    }
    if (b < 0x80) {
        if (room < 2) return 0;
        it->data = p + 2, it->len = (size_t)(b & 63) << 8 | p[1];
        return 2 + (u64)it->len;
    }
    if (b == 0x80) {
        if (room < 5) return 0;
        it->data = p + 5, it->len = port_be32(p + 1);
        return 5 + (u64)it->len;
    }
    u64 n = b == 0xf0 ? 4 : b == 0xfe ? 2 : fixed[b >> 4];
    if (b == 0xff || (b < 0xf0 && (b & 15)) || n == 0 || room < n) return 0;
    switch (b) {
    case 0xc0: it->num = port_sign(port_le16(p + 1), 16); break;
    case 0xd0: it->num = port_sign(port_le32(p + 1), 32); break;
    case 0xe0: it->num = (i64)port_le64(p + 1); break;
    case 0xf0: it->num = port_sign(port_le24(p + 1), 24); break;
    case 0xfe: it->num = port_sign(p[1], 8); break;
    default: it->num = (b & 15) - 1; break;
    }
    return n;
}

static int zl_next(pk_cursor *c, pk_item *it) {
    const u8 *p = c->p;
    u64 room = (u64)(c->end - p);
    if (room == 0) return zl_finish(c);
    u64 prev = *p, head = 1;
    if (prev == 0xff) return pk_fail(c, p, "end mark before the end, %llu bytes follow", room, 0);
    if (prev == 0xfe) {
        if (room < 5) return pk_fail(c, p, "entry head of 5 bytes, %llu left", room, 0);
        prev = port_le32(p + 1), head = 5;
    }
    if (prev != c->prev_len) return pk_fail(c, p, "previous length says %llu, is %llu", prev, c->prev_len);
    if (room == head) return pk_fail(c, p, "entry has no encoding", 0, 0);
    u64 n = zl_value(p + head, room - head, it);
    if (n == 0) return pk_fail(c, p, "no such encoding, or cut: %llu", p[head], 0);
    if (n > room - head) return pk_fail(c, p, "entry of %llu bytes, %llu left", head + n, room);
    c->prev_len = head + n;
    c->p = p + head + n;
    c->n++;
    return PK_ITEM;
}

/* ==== [11] zm_ : zipmap blobs ====
 *
 *     u8 pairs (254: unknown), pairs of flen field vlen u8 free value[vlen] pad[free], ff
 *
 * Hashes of Redis 2.4 and older. Lengths are one byte up to 253, or fe and u32le; the comments in the servers'
 * source that speak of 253 are wrong, the code never did it. docs/format.md, section zipmap. */

static int zm_open(pk_cursor *c, const u8 *blob, size_t len) {
    pk_start(c, blob);
    if (len < 2) return pk_fail(c, blob, "zipmap of %llu bytes, at least 2 wanted", len, 0);
    if (blob[len - 1] != 0xff) return pk_fail(c, blob + len - 1, "end mark is %llu, 255 wanted", blob[len - 1], 0);
    c->stated = blob[0] >= 254 ? PK_COUNT_UNKNOWN : 2 * (u64)blob[0];
    c->p = blob + 1;
    c->end = blob + len - 1;
    return 0;
}

/* Fields and values in turn. */
static int zm_next(pk_cursor *c, pk_item *it) {
    const u8 *p = c->p;
    u64 room = (u64)(c->end - p), len, head = 1, pad = 0;
    if (room == 0 && !c->prev_len) return pk_finish(c);
    if (room == 0) return pk_fail(c, p, "a field without a value", 0, 0);
    len = *p;
    if (len == 255) return pk_fail(c, p, "end mark before the end, %llu bytes follow", room, 0);
    if (len == 254) {
        if (room < 5) return pk_fail(c, p, "length of 5 bytes, %llu left", room, 0);
        len = port_le32(p + 1), head = 5;
    }
    if (c->prev_len) {
        if (room <= head) return pk_fail(c, p, "value without its free byte", 0, 0);
        pad = p[head++];
    }
    if (len > room - head || pad > room - head - len)
        return pk_fail(c, p, "entry of %llu bytes, %llu left", head + len + pad, room);
    it->data = p + head, it->len = (size_t)len;
    c->prev_len = !c->prev_len;
    c->p = p + head + len + pad;
    c->n++;
    return PK_ITEM;
}

/* ==== [12] ist_ : intset blobs ====
 *
 *     u32le width (2, 4 or 8), u32le count, count signed integers of that width, little endian, ascending
 *
 * Sets of integers, Redis 2.4 and later. docs/format.md, section intset. */

#define IST_HDR_LEN 8

static int ist_open(pk_cursor *c, const u8 *blob, size_t len) {
    pk_start(c, blob);
    if (len < IST_HDR_LEN) return pk_fail(c, blob, "intset of %llu bytes, at least 8 wanted", len, 0);
    u64 width = port_le32(blob), count = port_le32(blob + 4);
    if (width != 2 && width != 4 && width != 8) return pk_fail(c, blob, "width %llu, wanted 2, 4 or 8", width, 0);
    if (count * width != len - IST_HDR_LEN)
        return pk_fail(c, blob + 4, "%llu integers said to be there, %llu bytes are", count, len - IST_HDR_LEN);
    if (count == 0) return pk_fail(c, blob + 4, "empty intset, which no server loads", 0, 0);
    c->stated = count;
    c->prev_len = width;
    c->p = blob + IST_HDR_LEN;
    c->end = blob + len;
    return 0;
}

static int ist_next(pk_cursor *c, pk_item *it) {
    if (c->p == c->end) return PK_END;
    it->data = NULL;
    it->num = c->prev_len == 2   ? port_sign(port_le16(c->p), 16)
              : c->prev_len == 4 ? port_sign(port_le32(c->p), 32)
                                 : (i64)port_le64(c->p);
    c->p += c->prev_len;
    c->n++;
    return PK_ITEM;
}

/* ==== [13] blob_ : any packed blob by its kind ==== */

#define BLOB_KINDS(X)      \
    X(LISTPACK, lp)        \
    X(ZIPLIST, zl)         \
    X(ZIPMAP, zm)          \
    X(INTSET, ist)

#define BLOB_ENUM(sym, room) BLOB_##sym,
enum blob_kind { BLOB_KINDS(BLOB_ENUM) BLOB_KIND_N };

static int blob_open(enum blob_kind kind, pk_cursor *c, const u8 *blob, size_t len) {
#define BLOB_OPEN(sym, room) room##_open,
    static int (*const open[])(pk_cursor *, const u8 *, size_t) = {BLOB_KINDS(BLOB_OPEN)};
    return open[kind](c, blob, len);
}

PORT_INLINE int blob_next(enum blob_kind kind, pk_cursor *c, pk_item *it) {
#define BLOB_NEXT(sym, room) room##_next,
    static int (*const next[])(pk_cursor *, pk_item *) = {NULL, BLOB_KINDS(BLOB_NEXT)};
    return PORT_LIKELY(kind == BLOB_LISTPACK) ? lp_next(c, it) : next[kind + 1](c, it);
}

/* Walk to the end. PK_END with the number of entries in c->n, or PK_BAD. */
static int blob_check(enum blob_kind kind, pk_cursor *c, const u8 *blob, size_t len) {
    pk_item it;
    int st = blob_open(kind, c, blob, len);
    while (st == PK_ITEM) st = blob_next(kind, c, &it);
    return st;
}

/* ==== [14] strm_ : stream nodes, pending entries, counters ====
 *
 * A node is a listpack behind a key, which is the ID that its entries' IDs are relative to:
 *
 *     master = count deleted num_fields field* 0
 *     entry  = flags ms_delta seq_delta [num_fields (field value)* | value*] lp_count
 *
 * flags: 1 deleted, 2 the master's fields (then values alone follow). docs/format.md, section streams.
 * Tests: tests/test_codecs.c */

enum { STRM_DELETED = 1, STRM_SAME_FIELDS = 2 };

typedef struct strm_node {
    pk_cursor lp;
    rdbkit_stream_id key;
    u64 count;   /* live entries by the master entry */
    u64 deleted; /* tombstones by the master entry */
    u64 master_fields;
    pk_cursor fields; /* at the master's first field */
} strm_node;

typedef struct strm_entry {
    rdbkit_stream_id id;
    i64 flags;
    u64 fields;
    pk_cursor names; /* the next field name of the master, if it uses those */
    const u8 *at;
} strm_entry;

static int strm_id_cmp(rdbkit_stream_id a, rdbkit_stream_id b) {
    if (a.ms != b.ms) return a.ms < b.ms ? -1 : 1;
    return a.seq < b.seq ? -1 : a.seq > b.seq;
}

static rdbkit_stream_id strm_id_be(const u8 *p) {
    rdbkit_stream_id id = {port_be64(p), port_be64(p + 8)};
    return id;
}

static PORT_NOINLINE int strm_int_slow(pk_cursor *lp, i64 *v) {
    pk_item it;
    const u8 *at = lp->p;
    int st = lp_next(lp, &it);
    if (st == PK_BAD) return PK_BAD;
    if (st == PK_END) return pk_fail(lp, at, "stream node ends inside an entry", 0, 0);
    if (it.data) return pk_fail(lp, at, "a string of %llu bytes, an integer wanted", it.len, 0);
    *v = it.num;
    return PK_ITEM;
}

/* An entry of the listpack that has to be an integer; most are of seven bits. */
PORT_INLINE int strm_int(pk_cursor *lp, i64 *v) {
    const u8 *p = lp->p;
    if (PORT_UNLIKELY(lp->end - p < 2 || p[0] > 127 || p[1] != 1)) return strm_int_slow(lp, v);
    *v = p[0];
    lp->p = p + 2;
    lp->n++;
    return PK_ITEM;
}

PORT_INLINE int strm_str(pk_cursor *lp, pk_item *it) {
    const u8 *at = lp->p;
    int st = lp_next(lp, it);
    return st == PK_END ? pk_fail(lp, at, "stream node ends inside an entry", 0, 0) : st;
}

/* Read the master entry. PK_ITEM, or PK_BAD with the cause in n->lp. */
static int strm_node_open(strm_node *n, rdbkit_stream_id key, const u8 *blob, size_t len) {
    i64 count, deleted, fields, zero;
    pk_item it;
    n->key = key;
    if (lp_open(&n->lp, blob, len)) return PK_BAD;
    const u8 *at = n->lp.p;
    if (strm_int(&n->lp, &count) || strm_int(&n->lp, &deleted) || strm_int(&n->lp, &fields)) return PK_BAD;
    if (count < 0 || deleted < 0 || fields < 0) return pk_fail(&n->lp, at, "negative count in the master entry", 0, 0);
    n->count = (u64)count, n->deleted = (u64)deleted, n->master_fields = (u64)fields;
    n->fields = n->lp;
    for (u64 i = 0; i < n->master_fields; i++)
        if (strm_str(&n->lp, &it)) return PK_BAD;
    at = n->lp.p;
    if (strm_int(&n->lp, &zero)) return PK_BAD;
    return zero ? pk_fail(&n->lp, at, "master entry ends in %llu, 0 wanted", (u64)zero, 0) : PK_ITEM;
}

/* The head of the next entry; then strm_field() fields times and strm_entry_end(). PK_ITEM, PK_END or PK_BAD. */
static int strm_next(strm_node *n, strm_entry *e) {
    pk_item it;
    pk_cursor *lp = &n->lp;
    i64 ms, seq, fields;
    e->at = lp->p;
    int st = lp->p == lp->end ? lp_next(lp, &it) : strm_int(lp, &e->flags);
    if (st) return st;
    if (e->flags < 0 || e->flags > 3) return pk_fail(lp, e->at, "no such entry flags", 0, 0);
    if (strm_int(lp, &ms) || strm_int(lp, &seq)) return PK_BAD;
    e->id.ms = n->key.ms + (u64)ms, e->id.seq = n->key.seq + (u64)seq;
    e->fields = n->master_fields;
    e->names = n->fields;
    if (e->flags & STRM_SAME_FIELDS) return PK_ITEM;
    if (strm_int(lp, &fields)) return PK_BAD;
    if (fields < 0) return pk_fail(lp, e->at, "negative number of fields", 0, 0);
    e->fields = (u64)fields;
    return PK_ITEM;
}

static int strm_field(strm_node *n, strm_entry *e, pk_item *field, pk_item *value) {
    if (strm_str(e->flags & STRM_SAME_FIELDS ? &e->names : &n->lp, field)) return PK_BAD;
    return strm_str(&n->lp, value);
}

/* Pass the fields by. */
static int strm_skip_fields(strm_node *n, const strm_entry *e) {
    pk_item it;
    u64 left = e->flags & STRM_SAME_FIELDS ? e->fields : 2 * e->fields;
    if (e->fields > (u64)(n->lp.end - n->lp.p)) return pk_fail(&n->lp, e->at, "entry of %llu fields", e->fields, 0);
    while (left--)
        if (strm_str(&n->lp, &it)) return PK_BAD;
    return PK_ITEM;
}

static int strm_entry_end(strm_node *n, const strm_entry *e) {
    i64 says;
    u64 is = e->flags & STRM_SAME_FIELDS ? e->fields + 3 : 2 * e->fields + 4;
    if (strm_int(&n->lp, &says)) return PK_BAD;
    if ((u64)says != is) return pk_fail(&n->lp, e->at, "entry count says %llu, entry has %llu", (u64)says, is);
    return PK_ITEM;
}

/* What a walk over a whole node found. */
typedef struct strm_summary {
    u64 live, deleted;
    rdbkit_stream_id first, last; /* live entries, if there are any */
    int sorted;                   /* IDs ascend, from the node's key on */
} strm_summary;

static int strm_node_check(strm_node *n, rdbkit_stream_id key, const u8 *blob, size_t len, strm_summary *sum) {
    strm_entry e;
    memset(sum, 0, sizeof *sum);
    sum->sorted = 1;
    int st = strm_node_open(n, key, blob, len);
    rdbkit_stream_id prev = key;
    for (int first = 1; st == PK_ITEM; first = 0) {
        st = strm_next(n, &e);
        if (st) break;
        if (strm_skip_fields(n, &e)) return PK_BAD;
        st = strm_entry_end(n, &e);
        int c = strm_id_cmp(e.id, prev);
        if (first ? c < 0 : c <= 0) sum->sorted = 0;
        prev = e.id;
        if (e.flags & STRM_DELETED) {
            sum->deleted++;
            continue;
        }
        if (!sum->live++) sum->first = e.id;
        sum->last = e.id;
    }
    return st;
}

/* What a server of 7.0 and later takes for a group's entries-read when the file does not say, from the stream
 * alone: only the two ends of a stream without gaps are certain. (Its streamEstimateDistanceFromFirstEverEntry;
 * docs/format.md.) */
static i64 strm_estimate_read(const rdbkit_stream_info *s, rdbkit_stream_id id) {
    static const rdbkit_stream_id zero = {0, 0};
    if (s->entries_added == 0) return 0;
    if (s->length == 0 && strm_id_cmp(id, s->last_id) <= 0) return (i64)s->entries_added;
    if (strm_id_cmp(id, zero) != 0 && strm_id_cmp(id, s->max_deleted) < 0) return RDBKIT_ENTRIES_READ_UNKNOWN;
    int c = strm_id_cmp(id, s->last_id);
    if (c == 0) return (i64)s->entries_added;
    if (c > 0) return RDBKIT_ENTRIES_READ_UNKNOWN;
    if (strm_id_cmp(s->max_deleted, zero) != 0 && strm_id_cmp(s->max_deleted, s->first_id) >= 0)
        return RDBKIT_ENTRIES_READ_UNKNOWN;
    c = strm_id_cmp(id, s->first_id);
    if (c < 0) return (i64)(s->entries_added - s->length);
    if (c == 0) return (i64)(s->entries_added - s->length + 1);
    return RDBKIT_ENTRIES_READ_UNKNOWN;
}

/* The pending entries of one group, in the order of the file, to be looked up by the consumers that own them. */
typedef struct strm_pending {
    rdbkit_stream_pending p;
    u64 off; /* in the file */
    u64 owners;
} strm_pending;

static int strm_pending_cmp(const void *a, const void *b) {
    return strm_id_cmp(((const strm_pending *)a)->p.id, ((const strm_pending *)b)->p.id);
}

/* Servers write them ascending, and each consumer's too: then the one after the last found is tried first. */
static strm_pending *strm_pending_find(strm_pending *list, size_t n, size_t *hint, rdbkit_stream_id id) {
    if (*hint < n && strm_id_cmp(list[*hint].p.id, id) == 0) return &list[(*hint)++];
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strm_id_cmp(list[mid].p.id, id);
        if (c == 0) {
            *hint = mid + 1;
            return &list[mid];
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* ==== [15] in_ : input: functions, descriptors, memory, gzip ====
 *
 * Blocks of bytes from wherever they come, decompressed if the first two are those of gzip. A gzip file may
 * have several members; bytes after the last that begin no new member are ignored, as gunzip does.
 * Tests: tests/test_fixtures.c */

#define IN_BLOCK ((size_t)64 * 1024) /* stays in the second-level cache, with what becomes of it */

struct rdbkit_input {
    rdbkit_allocator mem;
    rdbkit_read_fn read;
    void *ctx;
    int fd;
    const u8 *data; /* memory input, or NULL */
    size_t data_len;
    u8 *block;     /* 1 + IN_BLOCK bytes from read, or NULL for memory */
    u8 *plain;     /* IN_BLOCK bytes from zlib */
    const u8 *raw; /* bytes of the source not used yet */
    size_t raw_len;
    u64 taken; /* bytes got from the source */
    const u8 *rest;
    size_t rest_len; /* bytes handed back by a reader that was done */
    z_stream z;
    int started, at_end, gzip, member_open, status, sys_errno;
};

static ptrdiff_t in_read_fd(void *ctx, void *buf, size_t size) {
    return port_read(*(int *)ctx, buf, size);
}

static int in_fail(rdbkit_input *in, int status, int sys_errno) {
    in->sys_errno = sys_errno;
    return in->status = status;
}

/* More bytes into raw. 0 with at_end set at the end. The block has one byte in front for in_start(). */
static int in_fill(rdbkit_input *in) {
    if (in->data) {
        in->raw = in->data + in->taken;
        in->raw_len = in->data_len - (size_t)in->taken;
        if (in->raw_len > (size_t)1 << 30) in->raw_len = (size_t)1 << 30; /* zlib counts in 32 bits */
        in->taken += in->raw_len;
        in->at_end = in->raw_len == 0;
        return 0;
    }
    if (!in->block && !(in->block = in->mem.alloc(in->mem.ctx, 1 + IN_BLOCK))) return in_fail(in, RDBKIT_ERR_NOMEM, 0);
    ptrdiff_t n = in->read(in->ctx, in->block + 1, IN_BLOCK);
    if (n < 0 || (size_t)n > IN_BLOCK) return in_fail(in, RDBKIT_ERR_IO, n < 0 ? (int)-n : EIO);
    in->raw = in->block + 1;
    in->raw_len = (size_t)n;
    in->taken += (u64)n;
    in->at_end = n == 0;
    return 0;
}

static voidpf in_z_alloc(voidpf ctx, uInt items, uInt size) {
    rdbkit_input *in = ctx;
    size_t n = (size_t)items * size + 16;
    size_t *p = in->mem.alloc(in->mem.ctx, n);
    if (!p) return NULL;
    *p = n; /* free wants the size back; 16 bytes keep the alignment */
    return (u8 *)p + 16;
}

static void in_z_free(voidpf ctx, voidpf ptr) {
    rdbkit_input *in = ctx;
    void *p = (u8 *)ptr - 16;
    size_t n;
    memcpy(&n, p, sizeof n);
    in->mem.free(in->mem.ctx, p, n);
}

static int in_gzip_start(rdbkit_input *in) {
    in->z.zalloc = in_z_alloc, in->z.zfree = in_z_free, in->z.opaque = in;
    if (!in->plain && !(in->plain = in->mem.alloc(in->mem.ctx, IN_BLOCK))) return in_fail(in, RDBKIT_ERR_NOMEM, 0);
    int st = in->gzip ? inflateReset(&in->z) : inflateInit2(&in->z, 15 + 16);
    if (st != Z_OK) return in_fail(in, RDBKIT_ERR_NOMEM, 0);
    in->gzip = in->member_open = 1;
    return 0;
}

/* The first two bytes decide. A source may give them one at a time. */
static int in_start(rdbkit_input *in) {
    in->started = 1;
    if (in_fill(in)) return in->status;
    if (in->raw_len == 1 && !in->data) {
        in->block[0] = *in->raw;
        if (in_fill(in)) return in->status;
        in->raw = in->block;
        in->raw_len++;
        in->at_end = 0;
    }
    if (in->raw_len >= 2 && in->raw[0] == 0x1f && in->raw[1] == 0x8b) return in_gzip_start(in);
    return 0;
}

/* Inflate into the plain block. */
static int in_gzip_next(rdbkit_input *in, const u8 **data, size_t *len) {
    in->z.next_out = in->plain, in->z.avail_out = (uInt)IN_BLOCK;
    while (in->z.avail_out == (uInt)IN_BLOCK) {
        if (in->raw_len == 0 && !in->at_end && in_fill(in)) return in->status;
        if (in->raw_len == 0)
            return in->member_open ? in_fail(in, RDBKIT_ERR_TRUNCATED, 0) : (in->status = RDBKIT_DONE);
        if (!in->member_open) {
            if (in->raw[0] != 0x1f) return in->status = RDBKIT_DONE;
            if (in_gzip_start(in)) return in->status;
        }
        in->z.next_in = (z_const Bytef *)(uintptr_t)in->raw;
        in->z.avail_in = (uInt)in->raw_len;
        int st = inflate(&in->z, Z_NO_FLUSH);
        in->raw += in->raw_len - in->z.avail_in;
        in->raw_len = in->z.avail_in;
        if (st == Z_STREAM_END)
            in->member_open = 0;
        else if (st != Z_OK && st != Z_BUF_ERROR)
            return in_fail(in, st == Z_MEM_ERROR ? RDBKIT_ERR_NOMEM : RDBKIT_ERR_DAMAGED, 0);
    }
    *data = in->plain;
    *len = IN_BLOCK - in->z.avail_out;
    return RDBKIT_OK;
}

/* The next bytes, decompressed: RDBKIT_OK with *len > 0, RDBKIT_DONE, or a negative code. */
static int in_next(rdbkit_input *in, const u8 **data, size_t *len) {
    if (in->rest_len) {
        *data = in->rest, *len = in->rest_len;
        in->rest_len = 0;
        return RDBKIT_OK;
    }
    if (in->status) return in->status;
    if (!in->started && in_start(in)) return in->status;
    if (in->gzip) return in_gzip_next(in, data, len);
    if (in->raw_len == 0 && !in->at_end && in_fill(in)) return in->status;
    *data = in->raw, *len = in->raw_len;
    in->raw_len = 0;
    return *len ? RDBKIT_OK : (in->status = RDBKIT_DONE);
}

/* Hand back bytes that in_next gave; they are what it gives next. */
static void in_unread(rdbkit_input *in, const u8 *data, size_t len) {
    in->rest = data, in->rest_len = len;
}

static rdbkit_input *in_new(const rdbkit_allocator *allocator) {
    rdbkit_allocator mem = mem_or_std(allocator);
    rdbkit_input *in = mem_new(&mem, sizeof *in);
    if (in) in->mem = mem;
    return in;
}

static void in_free(rdbkit_input *in) {
    if (!in) return;
    rdbkit_allocator mem = in->mem;
    if (in->gzip) inflateEnd(&in->z);
    if (in->plain) mem.free(mem.ctx, in->plain, IN_BLOCK);
    if (in->block) mem.free(mem.ctx, in->block, 1 + IN_BLOCK);
    mem.free(mem.ctx, in, sizeof *in);
}

/* ==== [16] rd_ : RDB reader: state, lengths, strings, walks ====
 *
 * A state machine over a window of bytes: what the caller fed, or what was left of it in the carry. A step has
 * all the bytes that it needs and consumes them, then emits; or it returns RDBKIT_MORE and has consumed and
 * emitted nothing. The states, and what each expects:
 *
 *     HEADER   magic and version               then RECORD
 *     RECORD   an opcode, or a type and a key  then RECORD, VALUE, WALK or TRAILER
 *     VALUE    the elements of a value         then RECORD
 *     PIECES   the rest of a long string       then RECORD
 *     WALK     a value that is not decoded     then RECORD
 *     SLOTS    the ranges of a slot import     then RECORD
 *     TRAILER  the checksum                    then FINISHED
 *
 * docs/format.md. Tests: tests/test_fixtures.c, tests/test_api.c, fuzz/fuzz_reader.c */

#define RD_FIELD_EXPIRY_MAX (((i64)1 << 48) - 1) /* Redis: more is refused by its loader */
#define RD_SLOT_MAX 16383
#define RD_CARRY_STEP 4096
#define RD_WALK_DEPTH 3

enum rd_state { RD_HEADER, RD_RECORD, RD_VALUE, RD_PIECES, RD_WALK, RD_SLOTS, RD_TRAILER, RD_FINISHED };

/* Where a string that is not a slice of the window is kept: a compressed one, or a number as text. */
enum { RD_FIRST, RD_SECOND, RD_KEY, RD_THIRD, RD_SCRATCH_N };

/* A walk through a value by its layout: where it is in the layout, and the loops around it. */
typedef struct rd_walk_state {
    const char *at;
    u64 skip; /* bytes to pass before the next step */
    int depth;
    struct {
        const char *body;
        u64 left;
    } loop[RD_WALK_DEPTH];
    int module;                   /* inside module values */
    int (*after)(rdbkit_reader *); /* when it is complete */
} rd_walk_state;

enum rd_stream_phase { RD_S_START, RD_S_NODES, RD_S_META, RD_S_GROUP, RD_S_PENDING, RD_S_CONSUMERS, RD_S_CONSUMER, RD_S_OWNED };

typedef struct rd_stream_state {
    enum rd_stream_phase phase;
    u64 nodes, groups, consumers, left;
    u64 live;                    /* entries seen */
    rdbkit_stream_id first, last; /* live entries seen */
    rdbkit_stream_id node_key;
    int any_node, any_live;
    rdbkit_stream_info info;
    rdbkit_stream_group group;
    mem_buf group_name, consumer_name; /* the last ones */
    int any_group, any_consumer;
    mem_buf pending; /* strm_pending */
    size_t pending_n, pending_hint;
} rd_stream_state;

struct rdbkit_reader {
    /* the window */
    const u8 *p, *end;
    const u8 *base;     /* its first byte */
    u64 base_off;       /* and that byte's offset */
    const u8 *crc_from; /* bytes before it are in crc */
    u64 crc;
    u64 need;      /* bytes from p on that the step wants; they may be too few still */
    u64 short_off; /* the item that was cut, and how many bytes it takes */
    u64 short_want;
    mem_buf carry;

    enum rd_state state;
    int status; /* RDBKIT_OK, RDBKIT_DONE, or the error */
    int verified; /* the checksum was there, and right */
    u64 keys;
    char module[10];
    rdbkit_header header;
    const rdbkit_type *types[256]; /* those of the file's lineage, */
    u8 opcodes[256];               /* and which opcodes it has */
    rdbkit_key key;
    int in_key, have_prefix;
    int hidden; /* a key that the filter holds back */
    u64 prefix_off;

    u64 n; /* elements left of the value */
    int started;
    u64 piece_left, piece_total, piece_off;
    i64 min_expire;
    u64 blob_n; /* entries of the last packed blob */
    u64 items;  /* elements of a list so far */
    rd_walk_state walk;
    rd_stream_state strm;

    mem_buf scratch[RD_SCRATCH_N];
    u8 num[RD_SCRATCH_N][NUM_INT_MAX + 4];
    char key_head[64];
    rdbkit_visitor v;
    const rdbkit_visitor *ev; /* who gets the elements of the value: v, or nobody */
    const u8 *raw_from;       /* bytes from there on are wanted raw, or NULL */
    unsigned raw_forms;       /* forms of listpack back-lengths that are not wanted in them, see pk_cursor */
    rdbkit_reader_options opt;
    rdbkit_allocator mem;
    rdbkit_error error;
};

static const rdbkit_visitor rd_mute = {0};

/* ---- errors and positions ---- */

PORT_INLINE u64 rd_off(const rdbkit_reader *r, const u8 *at) {
    return r->base_off + (u64)(at - r->base);
}

static void rd_error_start(rdbkit_reader *r, int code, u64 off) {
    rdbkit_error *e = &r->error;
    memset(e, 0, sizeof *e);
    e->code = r->status = code;
    e->offset = off;
    e->blob_offset = RDBKIT_NO_OFFSET;
    e->db = r->state == RD_HEADER ? RDBKIT_NO_DB : r->key.db;
    const char *where = r->state == RD_HEADER ? "header" : r->state == RD_TRAILER ? "checksum" : "record";
    if (r->in_key) {
        e->type = where = r->key.type->name;
        e->key_len = r->key.name.len;
        memcpy(e->key, r->key.name.data, e->key_len < sizeof e->key ? r->key.name.len : sizeof e->key);
    }
    err_add(e->message, sizeof e->message, "%s at %llu", where, (unsigned long long)off);
}

static void rd_vfail(rdbkit_reader *r, int code, u64 off, const char *fmt, va_list ap) {
    rdbkit_error *e = &r->error;
    rd_error_start(r, code, off);
    err_add(e->message, sizeof e->message, ": ");
    err_vadd(e->message, sizeof e->message, fmt, ap);
    err_add_key(e);
}

/* The item at `at` in the window cannot be accepted. */
static PORT_NOINLINE int PORT_PRINTF(4, 5) rd_fail(rdbkit_reader *r, int code, const u8 *at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    rd_vfail(r, code, rd_off(r, at), fmt, ap);
    va_end(ap);
    return code;
}

/* The same for an item that the window has left already. */
static PORT_NOINLINE int PORT_PRINTF(4, 5) rd_fail_off(rdbkit_reader *r, int code, u64 off, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    rd_vfail(r, code, off, fmt, ap);
    va_end(ap);
    return code;
}

static int rd_nomem(rdbkit_reader *r) {
    return rd_fail(r, RDBKIT_ERR_NOMEM, r->p, "out of memory");
}

/* A packed blob that begins at `at` in the file is damaged. */
static PORT_NOINLINE int rd_fail_blob(rdbkit_reader *r, const u8 *at, const pk_cursor *c) {
    rdbkit_error *e = &r->error;
    rd_error_start(r, RDBKIT_ERR_DAMAGED, rd_off(r, at));
    e->blob_offset = c->bad_off;
    err_add(e->message, sizeof e->message, ", entry %llu (blob +%llu): ", (unsigned long long)c->n,
            (unsigned long long)c->bad_off);
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#endif
    err_add(e->message, sizeof e->message, c->bad, (unsigned long long)c->bad_a, (unsigned long long)c->bad_b);
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
    err_add_key(e);
    return RDBKIT_ERR_DAMAGED;
}

/* The answer of a callback that is not RDBKIT_OK. */
static PORT_NOINLINE int rd_stop(rdbkit_reader *r, int answer) {
    int code = answer < 0 ? answer : RDBKIT_ERR_USAGE;
    return rd_fail(r, code, r->p, "%s", rdbkit_status_text(code));
}

/* The item at `at` takes `want` bytes, and the window has fewer. */
static PORT_NOINLINE int rd_need(rdbkit_reader *r, const u8 *at, u64 want) {
    u64 before = (u64)(at - r->p);
    r->short_off = rd_off(r, at);
    r->short_want = want;
    r->need = want > UINT64_MAX - before ? UINT64_MAX : want + before;
    return RDBKIT_MORE;
}

/* ---- lengths and strings ---- */

static PORT_NOINLINE int rd_len_slow(rdbkit_reader *r, const u8 **pp, u64 *v) {
    const u8 *p = *pp;
    size_t room = (size_t)(r->end - p);
    if (room == 0) return rd_need(r, p, 1);
    u8 b = *p;
    size_t n = b < 0x40 ? 1 : b < 0x80 ? 2 : b == 0x80 ? 5 : b == 0x81 ? 9 : 0;
    if (n == 0) return rd_fail(r, RDBKIT_ERR_DAMAGED, p, "first byte of a length is 0x%02x", b);
    if (room < n) return rd_need(r, p, n);
    *v = n == 1 ? b : n == 2 ? (u64)(b & 63) << 8 | p[1] : n == 5 ? port_be32(p + 1) : port_be64(p + 1);
    *pp = p + n;
    return 0;
}

PORT_INLINE int rd_len(rdbkit_reader *r, const u8 **pp, u64 *v) {
    const u8 *p = *pp;
    if (PORT_LIKELY(p < r->end && *p < 0x40)) {
        *v = *p;
        *pp = p + 1;
        return 0;
    }
    return rd_len_slow(r, pp, v);
}

/* Whether a string of len bytes may be taken at all. */
static int rd_limit(rdbkit_reader *r, const u8 *at, u64 len) {
    u64 max = r->opt.max_item_len;
    if (max && len > max)
        return rd_fail(r, RDBKIT_ERR_LIMIT, at, "string of %llu bytes, the limit is %llu", (unsigned long long)len,
                       (unsigned long long)max);
    if (len > SIZE_MAX / 2 - LZF_SLACK)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "string of %llu bytes, more than memory can address",
                       (unsigned long long)len);
    return 0;
}

/* c3: compressed length, plain length, bytes. s: NULL to check alone. */
static int rd_str_lzf(rdbkit_reader *r, const u8 **pp, int which, rdbkit_str *s) {
    const u8 *at = *pp, *p = at + 1;
    u64 clen, ulen;
    int st;
    if ((st = rd_len(r, &p, &clen)) || (st = rd_len(r, &p, &ulen))) return st;
    if ((st = rd_limit(r, at, clen)) || (st = rd_limit(r, at, ulen))) return st;
    if (ulen / LZF_MAX_RATIO > clen)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "%llu compressed bytes said to hold %llu", (unsigned long long)clen,
                       (unsigned long long)ulen);
    if (clen > (u64)(r->end - p)) return rd_need(r, at, (u64)(p - at) + clen);
    mem_buf *b = &r->scratch[which];
    b->len = 0;
    if (s && mem_buf_room(&r->mem, b, (size_t)ulen + LZF_SLACK)) return rd_nomem(r);
    if (s ? lzf_decode(p, (size_t)clen, b->data, (size_t)ulen) : lzf_check(p, (size_t)clen, (size_t)ulen))
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "compressed string does not decode to %llu bytes",
                       (unsigned long long)ulen);
    if (s) s->data = (const char *)b->data, s->len = (size_t)ulen;
    *pp = p + clen;
    return 0;
}

static PORT_NOINLINE int rd_str_slow(rdbkit_reader *r, const u8 **pp, int which, rdbkit_str *s) {
    const u8 *at = *pp, *p = at;
    u64 len;
    int st;
    if (p == r->end) return rd_need(r, at, 1);
    if (*p >= 0xc0) {
        size_t room = (size_t)(r->end - p), n = *p == 0xc0 ? 2 : *p == 0xc1 ? 3 : *p == 0xc2 ? 5 : 0;
        if (*p == 0xc3) return rd_str_lzf(r, pp, which, s);
        if (n == 0) return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "string encoding 0x%02x, 0xc0 to 0xc3 wanted", *p);
        if (room < n) return rd_need(r, at, n);
        i64 v = n == 2 ? port_sign(p[1], 8) : n == 3 ? port_sign(port_le16(p + 1), 16) : port_sign(port_le32(p + 1), 32);
        s->data = (const char *)r->num[which];
        s->len = (size_t)(num_i64(r->num[which], v) - r->num[which]);
        *pp = p + n;
        return 0;
    }
    if ((st = rd_len(r, &p, &len)) || (st = rd_limit(r, at, len))) return st;
    if (len > (u64)(r->end - p)) return rd_need(r, at, (u64)(p - at) + len);
    s->data = (const char *)p, s->len = (size_t)len;
    *pp = p + len;
    return 0;
}

/* A whole string. It is a slice of the window, or lies in scratch[which] or num[which]. */
PORT_INLINE int rd_str(rdbkit_reader *r, const u8 **pp, int which, rdbkit_str *s) {
    const u8 *p = *pp;
    size_t room = (size_t)(r->end - p);
    if (PORT_LIKELY(room > 64 && *p < 0x40)) {
        s->data = (const char *)p + 1, s->len = *p;
        *pp = p + 1 + *p;
        return 0;
    }
    return rd_str_slow(r, pp, which, s);
}

/* n raw bytes. */
PORT_INLINE int rd_raw(rdbkit_reader *r, const u8 **pp, size_t n, const u8 **data) {
    const u8 *p = *pp;
    *data = p;
    if (PORT_UNLIKELY((size_t)(r->end - p) < n)) return rd_need(r, p, n);
    *pp = p + n;
    return 0;
}

/* Whether to refuse what can kill a server: asked for, or because the bytes are to go into another file as they are. */
PORT_INLINE int rd_strict(const rdbkit_reader *r) {
    return r->opt.deep || r->raw_from;
}

/* The number of elements, once, at the start of a value; head bytes stand before it. */
static int rd_count(rdbkit_reader *r, size_t head) {
    const u8 *p = r->p, *data;
    int st;
    if (r->started) return 0;
    if ((st = rd_raw(r, &p, head, &data)) || (st = rd_len(r, &p, &r->n))) return st;
    if (head) r->min_expire = (i64)port_le64(data);
    if (r->n == 0 && rd_strict(r) && r->key.type->shape != RDBKIT_STREAM)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "empty collection");
    r->p = p;
    r->started = 1;
    r->items = 0;
    return 0;
}

/* ---- the end of a key ---- */

static void rd_key_reset(rdbkit_reader *r) {
    r->key.expire_ms = RDBKIT_NO_EXPIRY;
    r->key.idle_s = RDBKIT_NO_HINT;
    r->key.lfu_freq = RDBKIT_NO_HINT;
    r->have_prefix = 0;
}

/* Give out the bytes consumed since the last time, if the value is wanted raw. */
static int rd_raw_out(rdbkit_reader *r) {
    const u8 *from = r->raw_from;
    if (!from || from == r->p) return 0;
    r->raw_from = r->p;
    int st = r->v.raw ? r->v.raw(r->v.user, from, (size_t)(r->p - from)) : 0;
    return st ? rd_stop(r, st) : 0;
}

/* A listpack that is wanted raw, from `at` up to `end` in the window, has back-lengths that the taker's server cannot
 * read: it is given out with others, uncompressed. */
static PORT_NOINLINE int rd_raw_rewrite(rdbkit_reader *r, const u8 *at, const u8 *end, const void *blob, size_t len) {
    mem_buf *b = &r->scratch[RD_THIRD];
    u8 head[5] = {0x80};
    const u8 *p = r->p;
    if (lp_rewrite(&r->mem, blob, len, r->raw_forms == 1, b)) return rd_nomem(r);
    for (int i = 0; i < 4; i++) head[4 - i] = (u8)(b->len >> (8 * i));
    r->p = at;
    int st = rd_raw_out(r);
    r->p = p;
    r->raw_from = end;
    if (st || !r->v.raw) return st;
    st = r->v.raw(r->v.user, head, 5);
    if (!st) st = r->v.raw(r->v.user, b->data, b->len);
    return st ? rd_stop(r, st) : 0;
}

/* The value is complete. */
static int rd_key_end(rdbkit_reader *r) {
    int st = rd_raw_out(r);
    if (st) return st;
    r->state = RD_RECORD;
    r->raw_from = NULL;
    if (!r->hidden && r->v.key_end && (st = r->v.key_end(r->v.user))) return rd_stop(r, st);
    r->in_key = r->hidden = 0;
    rd_key_reset(r);
    return 0;
}

/* ---- values that are not decoded ---- */

static void rd_walk_start(rdbkit_reader *r, const char *layout, int (*after)(rdbkit_reader *)) {
    memset(&r->walk, 0, sizeof r->walk);
    r->walk.at = layout;
    r->walk.after = after;
    r->state = RD_WALK;
}

/* The head of a string; its bytes are left to skip. */
static int rd_walk_str(rdbkit_reader *r) {
    const u8 *at = r->p, *p = at;
    u64 len, plain;
    int st;
    if (p == r->end) return rd_need(r, at, 1);
    if (*p < 0xc0) {
        if ((st = rd_len(r, &p, &len))) return st;
    } else if (*p == 0xc3) {
        p++;
        if ((st = rd_len(r, &p, &len)) || (st = rd_len(r, &p, &plain))) return st;
    } else if (*p < 0xc3) {
        len = (u64)1 << (*p - 0xc0);
        p++;
    } else {
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "string encoding 0x%02x, 0xc0 to 0xc3 wanted", *p);
    }
    r->walk.skip = len;
    r->p = p;
    return 0;
}

/* One tagged value of a module. */
static int rd_walk_module(rdbkit_reader *r) {
    enum { END, SINT, UINT, FLOAT, DOUBLE, STRING };
    const u8 *at = r->p, *p = at;
    u64 op, v;
    int st;
    if ((st = rd_len(r, &p, &op))) return st;
    switch (op) {
    case END: r->walk.module = 0; break;
    case SINT:
    case UINT:
        if ((st = rd_len(r, &p, &v))) return st;
        break;
    case FLOAT: r->walk.skip = 4; break;
    case DOUBLE: r->walk.skip = 8; break;
    case STRING: {
        r->p = p; /* the tag alone is a step of its own: what it announces comes next */
        if ((st = rd_walk_str(r))) r->p = at;
        return st;
    }
    default: return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "module value tag %llu, 0 to 5 wanted", (unsigned long long)op);
    }
    r->p = p;
    return 0;
}

/* A repeated part begins. */
static int rd_walk_loop(rdbkit_reader *r) {
    rd_walk_state *w = &r->walk;
    const u8 *p = r->p;
    u64 n;
    int st = rd_len(r, &p, &n), deep = 0;
    if (st) return st;
    r->p = p;
    w->loop[w->depth].body = w->at + 2;
    w->loop[w->depth].left = n;
    w->at += 2;
    w->depth++;
    if (n) return 0;
    for (; *w->at != ')' || deep; w->at++) deep += *w->at == '(' ? 1 : *w->at == ')' ? -1 : 0;
    return 0;
}

/* One step of the layout. */
static int rd_walk_step(rdbkit_reader *r) {
    rd_walk_state *w = &r->walk;
    const u8 *p = r->p, *data;
    u64 v;
    int st = 0;
    switch (*w->at) {
    case 's': st = rd_walk_str(r); break;
    case 'l':
        st = rd_len(r, &p, &v);
        if (!st) r->p = p;
        break;
    case '8': w->skip = 8; break;
    case 'G': w->skip = 16; break;
    case 'd':
        st = rd_raw(r, &p, 1, &data);
        if (!st) w->skip = *data < 253 ? *data : 0, r->p = p;
        break;
    case 'm':
        w->module = 1;
        break;
    case 'n': return rd_walk_loop(r);
    case ')': /* once more, or on */
        if (w->loop[w->depth - 1].left > 1) {
            w->loop[w->depth - 1].left--;
            w->at = w->loop[w->depth - 1].body;
            return 0;
        }
        w->depth--;
        break;
    }
    if (!st) w->at++;
    return st;
}

/* Steps until the layout or the window is at its end. */
static int rd_walk_run(rdbkit_reader *r) {
    rd_walk_state *w = &r->walk;
    for (;;) {
        if (w->skip) {
            u64 room = (u64)(r->end - r->p), n = w->skip < room ? w->skip : room;
            r->p += n;
            w->skip -= n;
            if (w->skip) return rd_need(r, r->p, w->skip);
        }
        if (!w->module && !*w->at) return 0;
        int st = w->module ? rd_walk_module(r) : rd_walk_step(r);
        if (st) return st;
    }
}

static int rd_walk(rdbkit_reader *r) {
    int st = rd_walk_run(r);
    return st ? st : r->walk.after(r);
}

/* ==== [17] val_ : RDB reader: values ====
 *
 * One function a kind of value, called until the value is complete; each step has all the bytes it needs, or it has
 * consumed and emitted nothing. Packed values are checked whole before their first element is given out.
 * Tests: tests/test_fixtures.c, fuzz/fuzz_reader.c */

/* The rest of a string that comes in pieces, or that nobody wants. */
static int val_pieces(rdbkit_reader *r) {
    while (r->piece_left) {
        u64 room = (u64)(r->end - r->p), n = r->piece_left < room ? r->piece_left : room;
        rdbkit_str s = {(const char *)r->p, (size_t)n};
        u64 off = r->piece_total - r->piece_left;
        r->p += n;
        r->piece_left -= n;
        int st = n && r->ev->string_piece ? r->ev->string_piece(r->ev->user, s, off, r->piece_total) : 0;
        if (st) return rd_stop(r, st);
        if (r->piece_left) {
            rd_need(r, r->p, 1);
            r->short_off = r->piece_off; /* what is cut is the string */
            r->short_want = r->piece_total;
            return RDBKIT_MORE;
        }
    }
    return rd_key_end(r);
}

/* Whether the string at p is raw, and long enough to come in pieces; then it is begun. One that nobody wants is
 * passed by in pieces too, of which none is given out. */
static int val_pieces_start(rdbkit_reader *r) {
    const u8 *p = r->p;
    u64 len;
    size_t least = r->ev->string || r->opt.piece_len ? r->opt.piece_len : 1;
    if (!least || (r->ev->string && !r->ev->string_piece) || p == r->end || *p >= 0xc0) return 0;
    if (*p < 0x40 && *p <= least) return 0;
    int st = rd_len(r, &p, &len);
    if (st || len <= least) return st;
    if ((st = rd_limit(r, r->p, len))) return st;
    r->piece_off = rd_off(r, r->p);
    r->p = p;
    r->piece_left = r->piece_total = len;
    r->state = RD_PIECES;
    return 0;
}

static int val_string(rdbkit_reader *r) {
    rdbkit_str s;
    const u8 *p = r->p;
    int st = val_pieces_start(r);
    if (st || r->state == RD_PIECES) return st;
    if (!r->ev->string && p < r->end && *p == 0xc3)
        st = rd_str_lzf(r, &p, RD_FIRST, NULL);
    else
        st = rd_str(r, &p, RD_FIRST, &s);
    if (st) return st;
    r->p = p;
    if (r->ev->string && (st = r->ev->string(r->ev->user, s))) return rd_stop(r, st);
    return rd_key_end(r);
}

static int val_items(rdbkit_reader *r) {
    int (*emit)(void *, rdbkit_str) = r->key.type->shape == RDBKIT_LIST ? r->ev->list_item : r->ev->set_member;
    void *user = r->ev->user;
    rdbkit_str s;
    int st = rd_count(r, 0);
    if (st) return st;
    const u8 *p = r->p;
    while (r->n) {
        if ((st = rd_str(r, &p, RD_FIRST, &s))) return st;
        r->p = p;
        r->n--;
        if (emit && (st = emit(user, s))) return rd_stop(r, st);
    }
    return rd_key_end(r);
}

/* u8 n; 253 nan, 254 inf, 255 -inf, else n characters. */
static int val_ascii_double(rdbkit_reader *r, const u8 **pp, double *v) {
    static const double special[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    const u8 *at = *pp, *p = at, *n, *text;
    int st = rd_raw(r, &p, 1, &n);
    if (st) return st;
    if (*n >= 253) {
        *v = special[*n - 253];
    } else {
        if ((st = rd_raw(r, &p, *n, &text))) return st;
        if (num_parse_double(text, *n, v))
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "score of %u characters is not a number", *n);
    }
    *pp = p;
    return 0;
}

static int val_zset(rdbkit_reader *r) {
    int ascii = fmt_id(r->key.type) == FMT_ZSET;
    rdbkit_str s;
    double score = 0;
    const u8 *data;
    int st = rd_count(r, 0);
    if (st) return st;
    while (r->n) {
        const u8 *p = r->p;
        if ((st = rd_str(r, &p, RD_FIRST, &s))) return st;
        const u8 *at = p;
        if (ascii) {
            if ((st = val_ascii_double(r, &p, &score))) return st;
        } else {
            if ((st = rd_raw(r, &p, 8, &data))) return st;
            score = port_le_double(data);
        }
        if (score != score && rd_strict(r)) return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "score is not a number");
        r->p = p;
        r->n--;
        if (r->ev->zset_member && (st = r->ev->zset_member(r->ev->user, s, score))) return rd_stop(r, st);
    }
    return rd_key_end(r);
}

/* The expiry that stands before a field: 22 and 23 of the release candidates absolute, 24 from the smallest. */
static int val_field_expiry(rdbkit_reader *r, const u8 **pp, i64 *expire_ms) {
    const u8 *at = *pp;
    u64 t;
    int st = rd_len(r, pp, &t);
    if (st) return st;
    *expire_ms = RDBKIT_NO_EXPIRY;
    if (t == 0) return 0;
    u64 base = fmt_id(r->key.type) == FMT_HASH_METADATA ? (u64)r->min_expire - 1 : 0;
    if (t > (u64)RD_FIELD_EXPIRY_MAX || base + t > (u64)RD_FIELD_EXPIRY_MAX)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "field expiry %llu after %llu, past 2^48", (unsigned long long)t,
                       (unsigned long long)base);
    *expire_ms = (i64)(base + t);
    return 0;
}

static int val_hash(rdbkit_reader *r) {
    enum fmt_type id = fmt_id(r->key.type);
    int before = id == FMT_HASH_METADATA || id == FMT_HASH_METADATA_PRE_GA, after = id == FMT_HASH_2;
    rdbkit_str f, v;
    i64 expire = RDBKIT_NO_EXPIRY;
    const u8 *data, *start = r->p;
    int st = rd_count(r, id == FMT_HASH_METADATA ? 8 : 0);
    if (st) return st;
    if (id == FMT_HASH_METADATA && (r->min_expire < 0 || r->min_expire > RD_FIELD_EXPIRY_MAX + 1))
        return rd_fail(r, RDBKIT_ERR_DAMAGED, start, "smallest field expiry %lld, 0 to 2^48 wanted",
                       (long long)r->min_expire);
    while (r->n) {
        const u8 *p = r->p;
        if (before && (st = val_field_expiry(r, &p, &expire))) return st;
        if ((st = rd_str(r, &p, RD_FIRST, &f)) || (st = rd_str(r, &p, RD_SECOND, &v))) return st;
        if (after) {
            const u8 *at = p;
            if ((st = rd_raw(r, &p, 8, &data))) return st;
            expire = (i64)port_le64(data);
            if (expire < -1)
                return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "field expiry %lld, -1 or more wanted", (long long)expire);
        }
        r->p = p;
        r->n--;
        if (r->ev->hash_field && (st = r->ev->hash_field(r->ev->user, f, v, expire))) return rd_stop(r, st);
    }
    return rd_key_end(r);
}

/* ---- packed values ---- */

/* A packed blob, walked to its end. `each`: its entries come in groups of so many. */
static int val_blob(rdbkit_reader *r, const u8 **pp, enum blob_kind kind, unsigned each, rdbkit_str *blob) {
    const u8 *at = *pp;
    pk_cursor c;
    int st = rd_str(r, pp, RD_FIRST, blob);
    if (st) return st;
    if (blob_check(kind, &c, (const u8 *)blob->data, blob->len) != PK_END) return rd_fail_blob(r, at, &c);
    if (c.n % each) {
        pk_fail(&c, c.p, "%llu entries, a multiple of %llu wanted", c.n, each);
        return rd_fail_blob(r, at, &c);
    }
    r->blob_n = c.n;
    if (PORT_UNLIKELY(c.forms & r->raw_forms) && r->raw_from) return rd_raw_rewrite(r, at, *pp, blob->data, blob->len);
    return 0;
}

static int val_emit_items(rdbkit_reader *r, enum blob_kind kind, rdbkit_str blob, int (*emit)(void *, rdbkit_str)) {
    pk_cursor c;
    pk_item it;
    u8 num[NUM_INT_MAX];
    if (!emit) return 0;
    blob_open(kind, &c, (const u8 *)blob.data, blob.len);
    while (blob_next(kind, &c, &it) == PK_ITEM) {
        int st = emit(r->ev->user, pk_text(&it, num));
        if (st) return rd_stop(r, st);
    }
    return 0;
}

/* The score entry: an integer, or text. */
static int val_score(const pk_item *it, double *score) {
    if (it->data) return num_parse_double(it->data, it->len, score);
    *score = (double)it->num;
    return 0;
}

static int val_str_cmp(rdbkit_str a, rdbkit_str b) {
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.data, b.data, n) : 0;
    return c ? c : a.len < b.len ? -1 : a.len > b.len;
}

/* Each score is a number, and (deep) the members ascend by score, then by name. Servers do not look at the order,
 * and answer wrongly when it is broken. */
static int val_check_zset(rdbkit_reader *r, enum blob_kind kind, const u8 *at, rdbkit_str blob) {
    pk_cursor c;
    pk_item member, it;
    double score = 0, last = 0;
    rdbkit_str name, last_name = {NULL, 0};
    u8 num[2][NUM_INT_MAX];
    const char *bad = NULL;
    blob_open(kind, &c, (const u8 *)blob.data, blob.len);
    for (int i = 0; blob_next(kind, &c, &member) == PK_ITEM && !bad; i ^= 1, last = score, last_name = name) {
        const u8 *p = c.p;
        blob_next(kind, &c, &it);
        name = pk_text(&member, num[i]);
        if (val_score(&it, &score))
            bad = "score of %llu characters is not a number";
        else if (rd_strict(r) && score != score)
            bad = "score is nan";
        else if (r->opt.deep && last_name.data && (score < last || (score == last && val_str_cmp(name, last_name) <= 0)))
            bad = "members do not ascend";
        if (bad) pk_fail(&c, p, bad, it.len, 0);
    }
    return bad ? rd_fail_blob(r, at, &c) : 0;
}

/* Members and scores in turn, of a blob that was checked. */
static int val_emit_zset(rdbkit_reader *r, enum blob_kind kind, rdbkit_str blob) {
    pk_cursor c;
    pk_item member, it;
    double score = 0;
    u8 num[NUM_INT_MAX];
    if (!r->ev->zset_member) return 0;
    blob_open(kind, &c, (const u8 *)blob.data, blob.len);
    while (blob_next(kind, &c, &member) == PK_ITEM) {
        blob_next(kind, &c, &it);
        val_score(&it, &score);
        int st = r->ev->zset_member(r->ev->user, pk_text(&member, num), score);
        if (st) return rd_stop(r, st);
    }
    return 0;
}

/* The third entry of each triple: an integer, and (deep) in ascending order with the fields without one last. */
static int val_check_field_expiries(rdbkit_reader *r, const u8 *at, rdbkit_str blob) {
    pk_cursor c;
    pk_item it;
    i64 prev = 0;
    int none = 0;
    blob_open(BLOB_LISTPACK, &c, (const u8 *)blob.data, blob.len);
    while (lp_next(&c, &it) == PK_ITEM) {
        lp_next(&c, &it);
        const u8 *p = c.p;
        lp_next(&c, &it);
        if (it.data || it.num < 0 || it.num > RD_FIELD_EXPIRY_MAX) {
            pk_fail(&c, p, "field expiry is not an integer from 0 to 2^48", 0, 0);
            return rd_fail_blob(r, at, &c);
        }
        if (r->opt.deep && (it.num ? none || it.num < prev : 0)) {
            pk_fail(&c, p, "field expiry %llu after %llu, ascending wanted", (u64)it.num, none ? 0 : (u64)prev);
            return rd_fail_blob(r, at, &c);
        }
        none = it.num == 0;
        prev = it.num;
    }
    return 0;
}

static int val_emit_hash(rdbkit_reader *r, enum blob_kind kind, rdbkit_str blob, int triples) {
    pk_cursor c;
    pk_item f, v, e = {NULL, 0, 0};
    u8 num[2][NUM_INT_MAX];
    if (!r->ev->hash_field) return 0;
    blob_open(kind, &c, (const u8 *)blob.data, blob.len);
    while (blob_next(kind, &c, &f) == PK_ITEM) {
        blob_next(kind, &c, &v);
        if (triples) blob_next(kind, &c, &e);
        i64 expire = e.num ? e.num : RDBKIT_NO_EXPIRY;
        int st = r->ev->hash_field(r->ev->user, pk_text(&f, num[0]), pk_text(&v, num[1]), expire);
        if (st) return rd_stop(r, st);
    }
    return 0;
}

static int val_check_intset(rdbkit_reader *r, const u8 *at, rdbkit_str blob) {
    pk_cursor c;
    pk_item it;
    i64 prev = 0;
    if (!r->opt.deep) return 0;
    blob_open(BLOB_INTSET, &c, (const u8 *)blob.data, blob.len);
    for (const u8 *p = c.p; blob_next(BLOB_INTSET, &c, &it) == PK_ITEM; p = c.p, prev = it.num)
        if (c.n > 1 && it.num <= prev) {
            pk_fail(&c, p, "integers do not ascend", 0, 0);
            return rd_fail_blob(r, at, &c);
        }
    return 0;
}

static enum blob_kind val_blob_kind(enum fmt_type id) {
    switch ((int)id) {
    case FMT_HASH_ZIPMAP: return BLOB_ZIPMAP;
    case FMT_LIST_ZIPLIST:
    case FMT_ZSET_ZIPLIST:
    case FMT_HASH_ZIPLIST: return BLOB_ZIPLIST;
    case FMT_SET_INTSET: return BLOB_INTSET;
    default: return BLOB_LISTPACK;
    }
}

/* A collection that is one blob. */
static int val_packed(rdbkit_reader *r) {
    enum fmt_type id = fmt_id(r->key.type);
    enum blob_kind kind = val_blob_kind(id);
    rdbkit_shape shape = r->key.type->shape;
    int triples = id == FMT_HASH_LISTPACK_EX || id == FMT_HASH_LISTPACK_EX_PRE_GA, st;
    const u8 *p = r->p, *min;
    rdbkit_str blob;
    if (id == FMT_HASH_LISTPACK_EX && (st = rd_raw(r, &p, 8, &min))) return st;
    const u8 *at = p;
    unsigned each = triples ? 3 : shape == RDBKIT_HASH || shape == RDBKIT_ZSET ? 2 : 1;
    if ((st = val_blob(r, &p, kind, each, &blob))) return st;
    if (triples && (st = val_check_field_expiries(r, at, blob))) return st;
    if (kind == BLOB_INTSET && (st = val_check_intset(r, at, blob))) return st;
    if (shape == RDBKIT_ZSET && (st = val_check_zset(r, kind, at, blob))) return st;
    if (rd_strict(r) && r->blob_n == 0)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "empty collection");
    r->p = p;
    if (shape == RDBKIT_HASH)
        st = val_emit_hash(r, kind, blob, triples);
    else if (shape == RDBKIT_ZSET)
        st = val_emit_zset(r, kind, blob);
    else
        st = val_emit_items(r, kind, blob, shape == RDBKIT_LIST ? r->ev->list_item : r->ev->set_member);
    return st ? st : rd_key_end(r);
}

#define VAL_NODE_MAX 65535 /* elements that a server's list node can count */

/* Nodes of a list: a ziplist each (14), or a listpack (container 2) or one element (container 1) each (18). */
static int val_quicklist(rdbkit_reader *r) {
    enum { PLAIN = 1, PACKED = 2 };
    int two = fmt_id(r->key.type) == FMT_LIST_QUICKLIST_2, st = rd_count(r, 0);
    enum blob_kind kind = two ? BLOB_LISTPACK : BLOB_ZIPLIST;
    rdbkit_str s;
    if (st) return st;
    while (r->n) {
        const u8 *p = r->p;
        u64 container = PACKED;
        if (two && (st = rd_len(r, &p, &container))) return st;
        if (container != PLAIN && container != PACKED)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "list node container %llu, 1 or 2 wanted",
                           (unsigned long long)container);
        const u8 *at = p;
        if (container == PACKED)
            st = val_blob(r, &p, kind, 1, &s);
        else
            st = rd_str(r, &p, RD_FIRST, &s);
        if (st) return st;
        if (container == PLAIN && s.len == 0)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "empty string as a plain list node");
        u64 items = container == PACKED ? r->blob_n : 1;
        if (items > VAL_NODE_MAX && r->opt.deep)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "list node of %llu elements, servers count to 65535",
                           (unsigned long long)items);
        r->p = p;
        r->n--;
        r->items += items;
        if (container == PACKED)
            st = val_emit_items(r, kind, s, r->ev->list_item);
        else if (r->ev->list_item && (st = r->ev->list_item(r->ev->user, s)))
            st = rd_stop(r, st);
        if (st) return st;
    }
    if (!r->items && rd_strict(r)) return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "list of empty nodes alone");
    return rd_key_end(r);
}

/* A module's value is only walked; its bytes can be had raw. */
static int val_module(rdbkit_reader *r) {
    rd_walk_start(r, r->key.type->layout, rd_key_end);
    return 0;
}

/* ---- streams ---- */

/* The live entries of a node that was checked. */
static int val_emit_node(rdbkit_reader *r, rdbkit_stream_id key, rdbkit_str blob) {
    strm_node n;
    strm_entry e;
    pk_item f = {NULL, 0, 0}, v = f;
    u8 num[2][NUM_INT_MAX];
    int st = 0;
    if (!r->ev->stream_entry && !r->ev->stream_field) return 0;
    strm_node_open(&n, key, (const u8 *)blob.data, blob.len);
    while (strm_next(&n, &e) == PK_ITEM) {
        int live = !(e.flags & STRM_DELETED);
        if (live && r->ev->stream_entry && (st = r->ev->stream_entry(r->ev->user, e.id, e.fields))) return rd_stop(r, st);
        for (u64 i = 0; i < e.fields; i++) {
            strm_field(&n, &e, &f, &v);
            if (!live || !r->ev->stream_field) continue;
            st = r->ev->stream_field(r->ev->user, pk_text(&f, num[0]), pk_text(&v, num[1]));
            if (st) return rd_stop(r, st);
        }
        strm_entry_end(&n, &e);
    }
    return 0;
}

/* What only Valkey 9.1 checks, and Redis with deep sanitising in part. */
static int val_deep_node(rdbkit_reader *r, const u8 *at, const strm_node *n, const strm_summary *sum) {
    if (!r->opt.deep) return 0;
    if (sum->live != n->count || sum->deleted != n->deleted)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "stream node says %llu live and %llu deleted entries, has %llu and %llu",
                       (unsigned long long)n->count, (unsigned long long)n->deleted, (unsigned long long)sum->live,
                       (unsigned long long)sum->deleted);
    return 0;
}

static int val_stream_node(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    const u8 *at = r->p, *p = at;
    rdbkit_str key, blob;
    strm_node n;
    strm_summary sum;
    int st = rd_str(r, &p, RD_SECOND, &key);
    if (st) return st;
    if (key.len != 16)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "stream node key of %zu bytes, 16 wanted", key.len);
    rdbkit_stream_id id = strm_id_be((const u8 *)key.data);
    if (s->any_node && strm_id_cmp(id, s->node_key) == 0)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "stream node key twice");
    const u8 *blob_at = p;
    if ((st = rd_str(r, &p, RD_FIRST, &blob))) return st;
    if (strm_node_check(&n, id, (const u8 *)blob.data, blob.len, &sum) != PK_END) return rd_fail_blob(r, blob_at, &n.lp);
    if ((st = val_deep_node(r, blob_at, &n, &sum))) return st;
    if (PORT_UNLIKELY(n.lp.forms & r->raw_forms) && r->raw_from &&
        (st = rd_raw_rewrite(r, blob_at, p, blob.data, blob.len)))
        return st;
    r->p = p;
    s->nodes--;
    s->any_node = 1;
    s->node_key = id;
    s->live += sum.live;
    if (sum.live && !s->any_live) s->first = sum.first, s->any_live = 1;
    if (sum.live) s->last = sum.last;
    return val_emit_node(r, id, blob);
}

static int val_stream_meta(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    rdbkit_stream_info *m = &s->info;
    const u8 *p = r->p;
    rdbkit_stream_id none = {0, 0};
    int st;
    memset(m, 0, sizeof *m);
    m->has_counters = fmt_id(r->key.type) != FMT_STREAM;
    if ((st = rd_len(r, &p, &m->length)) || (st = rd_len(r, &p, &m->last_id.ms)) || (st = rd_len(r, &p, &m->last_id.seq)))
        return st;
    m->first_id = s->any_live ? s->first : none;
    m->entries_added = m->length;
    if (m->has_counters &&
        ((st = rd_len(r, &p, &m->first_id.ms)) || (st = rd_len(r, &p, &m->first_id.seq)) ||
         (st = rd_len(r, &p, &m->max_deleted.ms)) || (st = rd_len(r, &p, &m->max_deleted.seq)) ||
         (st = rd_len(r, &p, &m->entries_added))))
        return st;
    if ((st = rd_len(r, &p, &s->groups))) return st;
    if (r->opt.deep && m->length != s->live)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "stream says %llu entries, has %llu", (unsigned long long)m->length,
                       (unsigned long long)s->live);
    m->groups = s->groups;
    s->phase = RD_S_GROUP;
    r->p = p;
    st = r->ev->stream_info ? r->ev->stream_info(r->ev->user, m) : 0;
    return st ? rd_stop(r, st) : 0;
}

/* Keep the name of a group or consumer, if it may follow the one before: servers write them ascending, and refuse
 * one that stands twice. */
static int val_stream_name(rdbkit_reader *r, const u8 *at, mem_buf *kept, int any, rdbkit_str name) {
    rdbkit_str last = {(const char *)kept->data, kept->len};
    int c = any ? val_str_cmp(name, last) : 1;
    if (c == 0) return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "a name of a group or consumer twice");
    if (c < 0 && r->opt.deep)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "names of groups or consumers do not ascend");
    kept->len = 0;
    return mem_buf_add(&r->mem, kept, name.data, name.len) ? rd_nomem(r) : 0;
}

static int val_stream_group(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    rdbkit_stream_group *g = &s->group;
    const u8 *p = r->p;
    rdbkit_str name;
    u64 read = 0;
    int st;
    if (s->groups == 0) return rd_key_end(r);
    memset(g, 0, sizeof *g);
    if ((st = rd_str(r, &p, RD_FIRST, &name)) || (st = rd_len(r, &p, &g->last_id.ms)) ||
        (st = rd_len(r, &p, &g->last_id.seq)))
        return st;
    if (s->info.has_counters && (st = rd_len(r, &p, &read))) return st;
    if ((st = rd_len(r, &p, &g->pending))) return st;
    g->entries_read = s->info.has_counters ? (i64)read : strm_estimate_read(&s->info, g->last_id);
    if ((st = val_stream_name(r, r->p, &s->group_name, s->any_group, name))) return st;
    s->any_group = 1;
    s->any_consumer = 0;
    g->name.data = (const char *)s->group_name.data, g->name.len = name.len;
    s->left = g->pending;
    s->pending.len = 0;
    s->phase = RD_S_PENDING;
    s->groups--;
    r->p = p;
    return 0;
}

static strm_pending *val_stream_list(rd_stream_state *s) {
    return (strm_pending *)(void *)s->pending.data;
}

static int val_fail_pending(rdbkit_reader *r, const strm_pending *x, const char *what) {
    return rd_fail_off(r, RDBKIT_ERR_DAMAGED, x->off, "pending entry %llu-%llu %s", (unsigned long long)x->p.id.ms,
                       (unsigned long long)x->p.id.seq, what);
}

/* The group's list of pending entries, which is kept for the consumers that own them. */
static int val_stream_pending(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    const u8 *id, *time;
    while (s->left) {
        const u8 *p = r->p;
        strm_pending x = {{{0, 0}, 0, 0}, rd_off(r, p), 0};
        int st;
        if ((st = rd_raw(r, &p, 16, &id)) || (st = rd_raw(r, &p, 8, &time)) || (st = rd_len(r, &p, &x.p.delivery_count)))
            return st;
        x.p.id = strm_id_be(id);
        x.p.delivery_ms = (i64)port_le64(time);
        if (mem_buf_add(&r->mem, &s->pending, &x, sizeof x)) return rd_nomem(r);
        r->p = p;
        s->left--;
    }
    strm_pending *list = val_stream_list(s);
    s->pending_n = s->pending.len / sizeof *list;
    int sorted = 1;
    for (size_t i = 1; i < s->pending_n && sorted; i++) sorted = strm_id_cmp(list[i - 1].p.id, list[i].p.id) < 0;
    if (!sorted) qsort(list, s->pending_n, sizeof *list, strm_pending_cmp);
    for (size_t i = 1; i < s->pending_n && !sorted; i++)
        if (strm_id_cmp(list[i - 1].p.id, list[i].p.id) == 0) return val_fail_pending(r, &list[i], "stands twice");
    s->phase = RD_S_CONSUMERS;
    return 0;
}

static int val_stream_consumers(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    const u8 *p = r->p;
    int st = rd_len(r, &p, &s->consumers);
    if (st) return st;
    r->p = p;
    s->phase = RD_S_CONSUMER;
    s->group.consumers = s->consumers;
    st = r->ev->stream_group ? r->ev->stream_group(r->ev->user, &s->group) : 0;
    return st ? rd_stop(r, st) : 0;
}

/* After a group's last consumer: who owns the pending entries? */
static int val_stream_owners(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    strm_pending *list = val_stream_list(s);
    for (size_t i = 0; r->opt.deep && i < s->pending_n; i++)
        if (!list[i].owners) return val_fail_pending(r, &list[i], "has no owner");
    s->phase = RD_S_GROUP;
    return 0;
}

static int val_stream_consumer(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    const u8 *p = r->p, *seen, *active;
    rdbkit_stream_consumer c;
    int st;
    if (s->consumers == 0) return val_stream_owners(r);
    if ((st = rd_str(r, &p, RD_FIRST, &c.name)) || (st = rd_raw(r, &p, 8, &seen))) return st;
    active = seen;
    if (fmt_id(r->key.type) == FMT_STREAM_3 && (st = rd_raw(r, &p, 8, &active))) return st;
    if ((st = rd_len(r, &p, &c.pending))) return st;
    c.seen_ms = (i64)port_le64(seen), c.active_ms = (i64)port_le64(active);
    if ((st = val_stream_name(r, r->p, &s->consumer_name, s->any_consumer, c.name))) return st;
    s->any_consumer = 1;
    s->left = c.pending;
    s->pending_hint = 0;
    s->consumers--;
    s->phase = RD_S_OWNED;
    r->p = p;
    st = r->ev->stream_consumer ? r->ev->stream_consumer(r->ev->user, &c) : 0;
    return st ? rd_stop(r, st) : 0;
}

static int val_stream_owned(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    const u8 *raw;
    int st;
    while (s->left) {
        const u8 *p = r->p;
        if ((st = rd_raw(r, &p, 16, &raw))) return st;
        rdbkit_stream_id id = strm_id_be(raw);
        strm_pending *x = strm_pending_find(val_stream_list(s), s->pending_n, &s->pending_hint, id);
        if (!x)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, raw, "consumer has %llu-%llu pending, its group has not",
                           (unsigned long long)id.ms, (unsigned long long)id.seq);
        if (x->owners++ && r->opt.deep)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, raw, "pending entry %llu-%llu has a second owner",
                           (unsigned long long)id.ms, (unsigned long long)id.seq);
        r->p = p;
        s->left--;
        if (r->ev->stream_pending && (st = r->ev->stream_pending(r->ev->user, &x->p))) return rd_stop(r, st);
    }
    s->phase = RD_S_CONSUMER;
    return 0;
}

static int val_stream_start(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    int st = rd_count(r, 0);
    if (st) return st;
    s->nodes = r->n;
    s->live = 0;
    s->any_node = s->any_live = s->any_group = 0;
    s->phase = RD_S_NODES;
    return 0;
}

/* The parts of a stream, each of which says what comes after it. */
static int val_stream(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    if (!r->started) s->phase = RD_S_START;
    switch (s->phase) {
    case RD_S_START: return val_stream_start(r);
    case RD_S_NODES: return s->nodes ? val_stream_node(r) : (s->phase = RD_S_META, 0);
    case RD_S_META: return val_stream_meta(r);
    case RD_S_GROUP: return val_stream_group(r);
    case RD_S_PENDING: return val_stream_pending(r);
    case RD_S_CONSUMERS: return val_stream_consumers(r);
    case RD_S_CONSUMER: return val_stream_consumer(r);
    case RD_S_OWNED: return val_stream_owned(r);
    }
    return 0;
}

#define VAL_READER(sym, number, lin, ver, shape, name, layout, reader) val_##reader,
static int (*const val_readers[])(rdbkit_reader *) = {FMT_TYPES(VAL_READER)};

/* ==== [18] rec_ : RDB reader: records, header, window ====
 *
 * What stands between values, the two ends of a file, and the loop over all states. Tests: tests/test_fixtures.c,
 * tests/test_api.c, fuzz/fuzz_reader.c */

/* Ask the filter, then the visitor, what to do with the key. */
static int rec_emit_key(rdbkit_reader *r) {
    if (PORT_LIKELY(!r->opt.key_filter)) return r->v.key ? r->v.key(r->v.user, &r->key) : 0;
    rdbkit_key key = r->key; /* errors name the key as it is in the file */
    int st = r->opt.key_filter(r->opt.key_filter_ctx, &key);
    if (key.name.data != r->key.name.data || key.name.len != r->key.name.len) key.raw_name.len = 0;
    if (st == RDBKIT_OK) return r->v.key ? r->v.key(r->v.user, &key) : 0;
    r->hidden = 1;
    return st;
}

/* A type byte and a key. */
static int rec_key(rdbkit_reader *r, const rdbkit_type *t) {
    const u8 *at = r->p, *p = at + 1;
    int st = rd_str(r, &p, RD_KEY, &r->key.name);
    if (st) return st;
    r->key.module = NULL;
    if (t->shape == RDBKIT_MODULE && t->layout) {
        const u8 *peek = p;
        u64 id;
        if ((st = rd_len(r, &peek, &id))) return st;
        fmt_module_name(id, r->module);
        r->key.module = r->module;
    }
    r->keys++;
    r->key.type = t;
    r->key.offset = r->have_prefix ? r->prefix_off : rd_off(r, at);
    r->key.value_off = rd_off(r, p);
    r->in_key = 1;
    if (!t->layout)
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, at,
                       "module value in the form of a Redis 4.0 release candidate, which cannot be read without the module");
    r->p = p;
    r->key.raw_name.data = (const char *)at + 1, r->key.raw_name.len = (size_t)(p - at - 1);
    st = rec_emit_key(r);
    r->started = 0;
    r->state = RD_VALUE;
    r->ev = &r->v;
    if (PORT_LIKELY(st == RDBKIT_OK)) return 0;
    r->raw_forms = st == RDBKIT_TAKE_RAW_WIDE ? 2 : st == RDBKIT_TAKE_RAW_NARROW ? 1 : 0;
    if (st == RDBKIT_TAKE_RAW || r->raw_forms) { /* the value is read and checked, and what was read is given out */
        r->ev = &rd_mute;
        r->raw_from = p;
        return 0;
    }
    if (st != RDBKIT_SKIP_KEY) return rd_stop(r, st);
    rd_walk_start(r, t->layout, rd_key_end);
    return 0;
}

/* A type or opcode byte that the file's lineage does not have, or that is newer than this library. */
static int rec_unknown(rdbkit_reader *r, u8 b) {
    const char *what, *product;
    unsigned lineage = r->header.lineage;
    product = fmt_newer_product('t', lineage, b, &what);
    if (*what) return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "type %u (%s), which %s writes", b, what, product);
    product = fmt_newer_product('o', lineage, b, &what);
    if (*what) return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "opcode %u (%s), which %s writes", b, what, product);
    return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "no known %s has number %u", b < 200 ? "type" : "opcode", b);
}

static int rec_aux(rdbkit_reader *r, const u8 *p) {
    rdbkit_str name, value;
    int st;
    if ((st = rd_str(r, &p, RD_FIRST, &name)) || (st = rd_str(r, &p, RD_SECOND, &value))) return st;
    r->p = p;
    st = r->v.aux ? r->v.aux(r->v.user, name, value) : 0;
    return st ? rd_stop(r, st) : 0;
}

static int rec_emit_function(rdbkit_reader *r, rdbkit_str code, int opcode) {
    int st = r->v.function ? r->v.function(r->v.user, code, opcode) : 0;
    return st ? rd_stop(r, st) : 0;
}

static int rec_function(rdbkit_reader *r, const u8 *p) {
    rdbkit_str code;
    int st = rd_str(r, &p, RD_FIRST, &code);
    if (st) return st;
    r->p = p;
    return rec_emit_function(r, code, FMT_OP_FUNCTION2);
}

/* 246, of the 7.0 release candidates: name, engine, description, code. As in 7.0 it becomes code with a first line
 * that names engine and library, as they are stored ("LUA"); the description is dropped. */
static int rec_function_pre_ga(rdbkit_reader *r, const u8 *p) {
    rdbkit_str name, engine, description, code;
    mem_buf *b = &r->strm.group_name;
    u64 has;
    int st;
    if ((st = rd_str(r, &p, RD_FIRST, &name)) || (st = rd_str(r, &p, RD_SECOND, &engine)) || (st = rd_len(r, &p, &has)))
        return st;
    b->len = 0;
    if (mem_buf_add(&r->mem, b, "#!", 2) || mem_buf_add(&r->mem, b, engine.data, engine.len)) return rd_nomem(r);
    if (mem_buf_add(&r->mem, b, " name=", 6) || mem_buf_add(&r->mem, b, name.data, name.len) ||
        mem_buf_add(&r->mem, b, "\n", 1))
        return rd_nomem(r);
    if (has && (st = rd_str(r, &p, RD_FIRST, &description))) return st;
    if ((st = rd_str(r, &p, RD_SECOND, &code))) return st;
    if (mem_buf_add(&r->mem, b, code.data, code.len)) return rd_nomem(r);
    r->p = p;
    code.data = (const char *)b->data, code.len = b->len;
    return rec_emit_function(r, code, FMT_OP_FUNCTION_PRE_GA);
}

static int rec_aux_end(rdbkit_reader *r) {
    int st = rd_raw_out(r);
    if (st) return st;
    r->state = RD_RECORD;
    r->raw_from = NULL;
    st = r->v.module_aux_end ? r->v.module_aux_end(r->v.user) : 0;
    return st ? rd_stop(r, st) : 0;
}

static int rec_module_aux(rdbkit_reader *r, const u8 *p) {
    rdbkit_module_aux aux;
    u64 id, opcode, when;
    int st = rd_len(r, &p, &id);
    if (st) return st;
    const u8 *tag = p;
    if ((st = rd_len(r, &p, &opcode)) || (st = rd_len(r, &p, &when))) return st;
    if (opcode != 2)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, tag, "module aux field with tag %llu, 2 wanted", (unsigned long long)opcode);
    aux.id = id;
    fmt_module_name(id, aux.module);
    aux.encoding_version = (int)(id & 1023);
    aux.when = when == 1 || when == 2 ? (int)when : 0;
    if (!aux.when)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, tag, "module aux field for time %llu, 1 or 2 wanted", (unsigned long long)when);
    r->p = p;
    st = r->v.module_aux ? r->v.module_aux(r->v.user, &aux) : 0;
    if (st && st != RDBKIT_TAKE_RAW && st != RDBKIT_SKIP_KEY) return rd_stop(r, st);
    rd_walk_start(r, "m", rec_aux_end);
    r->raw_from = st == RDBKIT_TAKE_RAW ? p : NULL;
    return 0;
}

/* The ranges of slots, which matter to nobody offline. */
static int rec_slot_ranges(rdbkit_reader *r) {
    for (u64 first, last; r->n; r->n--) {
        const u8 *p = r->p;
        int st = rd_len(r, &p, &first);
        if (st) return st;
        const u8 *at = p;
        if ((st = rd_len(r, &p, &last))) return st;
        if (first > last || last > RD_SLOT_MAX)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "slots %llu to %llu, 0 to 16383 wanted", (unsigned long long)first,
                           (unsigned long long)last);
        r->p = p;
    }
    r->state = RD_RECORD;
    return 0;
}

/* Valkey: a job, and the slot ranges it was importing. */
static int rec_slot_import(rdbkit_reader *r, const u8 *p) {
    const u8 *at = p;
    rdbkit_str job;
    int st;
    if ((st = rd_str(r, &p, RD_FIRST, &job)) || (st = rd_len(r, &p, &r->n))) return st;
    if (job.len != 40)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "name of a slot import of %zu bytes, 40 wanted", job.len);
    r->p = p;
    r->state = RD_SLOTS;
    st = r->v.slot_import ? r->v.slot_import(r->v.user, job, r->n) : 0;
    return st ? rd_stop(r, st) : 0;
}

/* Opcodes that are up to three lengths. */
static int rec_lengths(rdbkit_reader *r, int opcode, const u8 *p) {
    u64 v[3] = {0, 0, 0};
    int n = opcode == FMT_OP_SLOT_INFO ? 3 : opcode == FMT_OP_RESIZEDB ? 2 : 1, st = 0;
    for (int i = 0; i < n; i++)
        if ((st = rd_len(r, &p, &v[i]))) return st;
    r->p = p;
    switch (opcode) {
    case FMT_OP_SELECTDB:
        r->key.db = v[0];
        st = r->v.db ? r->v.db(r->v.user, v[0]) : 0;
        break;
    case FMT_OP_RESIZEDB: st = r->v.resize ? r->v.resize(r->v.user, v[0], v[1]) : 0; break;
    case FMT_OP_SLOT_INFO: st = r->v.slot_info ? r->v.slot_info(r->v.user, v[0], v[1], v[2]) : 0; break;
    case FMT_OP_IDLE: r->key.idle_s = v[0] > INT64_MAX ? INT64_MAX : (i64)v[0]; break;
    default: break; /* of Redis Enterprise, no meaning here */
    }
    return st ? rd_stop(r, st) : 0;
}

/* Expiry and LFU counter: fixed bytes, little endian. Big-endian servers before RDB 9 wrote the 8 bytes in
 * their own order; such files cannot be told from others. */
static int rec_prefix(rdbkit_reader *r, int opcode, const u8 *p) {
    const u8 *data;
    int st = rd_raw(r, &p, opcode == FMT_OP_FREQ ? 1 : opcode == FMT_OP_EXPIRETIME ? 4 : 8, &data);
    if (st) return st;
    r->p = p;
    if (opcode == FMT_OP_FREQ)
        r->key.lfu_freq = *data;
    else if (opcode == FMT_OP_EXPIRETIME)
        r->key.expire_ms = port_sign(port_le32(data), 32) * 1000;
    else
        r->key.expire_ms = (i64)port_le64(data);
    return 0;
}

/* The EOF opcode: what the checksum covers ends here. */
static int rec_eof(rdbkit_reader *r, const u8 *p) {
    if (!r->opt.ignore_checksum) r->crc = crc_update(r->crc, r->crc_from, (size_t)(p - r->crc_from));
    r->crc_from = NULL;
    r->p = p;
    r->state = RD_TRAILER;
    return 0;
}

static int rec_opcode(rdbkit_reader *r, u8 b) {
    const u8 *at = r->p, *p = at + 1;
    if (!r->opcodes[b]) return rec_unknown(r, b);
    switch (b) {
    case FMT_OP_EOF: return rec_eof(r, p);
    case FMT_OP_AUX: return rec_aux(r, p);
    case FMT_OP_FUNCTION2: return rec_function(r, p);
    case FMT_OP_FUNCTION_PRE_GA: return rec_function_pre_ga(r, p);
    case FMT_OP_MODULE_AUX: return rec_module_aux(r, p);
    case FMT_OP_SLOT_IMPORT: return rec_slot_import(r, p);
    case FMT_OP_SELECTDB:
    case FMT_OP_RESIZEDB:
    case FMT_OP_SLOT_INFO: return rec_lengths(r, b, p);
    default: break;
    }
    /* what is left belongs to the next key */
    u64 off = rd_off(r, at);
    int prefix = b == FMT_OP_FREQ || b == FMT_OP_EXPIRETIME || b == FMT_OP_EXPIRETIME_MS;
    int st = prefix ? rec_prefix(r, b, p) : rec_lengths(r, b, p);
    if (st) return st;
    if (!r->have_prefix) r->prefix_off = off;
    r->have_prefix = 1;
    return 0;
}

static int rec_record(rdbkit_reader *r) {
    if (PORT_UNLIKELY(r->p == r->end)) return rd_need(r, r->p, 1);
    const rdbkit_type *t = r->types[*r->p];
    return PORT_LIKELY(t != NULL) ? rec_key(r, t) : rec_opcode(r, *r->p);
}

/* ---- header and trailer ---- */

#define RD_HEADER_LEN 9

static int rec_version(rdbkit_reader *r, const u8 *p, int digits) {
    int version = 0;
    const char *name = r->header.lineage == FMT_R ? "REDIS" : "VALKEY", *none;
    for (int i = 0; i < digits; i++) {
        if (p[i] < '0' || p[i] > '9')
            return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "byte 0x%02x in the version, %d digits wanted", p[i], digits);
        version = version * 10 + (p[i] - '0');
    }
    r->header.rdb_version = version;
    int max = r->header.lineage == FMT_R ? FMT_MAX_REDIS : FMT_MAX_VALKEY;
    int min = r->header.lineage == FMT_R ? 1 : FMT_MIN_VALKEY;
    if (version < min || (r->header.lineage == FMT_R && version >= FMT_MIN_VALKEY))
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "RDB version %d behind %s, which no server writes", version, name);
    if (version > max)
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "RDB version %d of %s, this program reads %s up to %d", version,
                       fmt_newer_product('v', r->header.lineage, version, &none), name, max);
    return 0;
}

static int rec_header(rdbkit_reader *r) {
    const u8 *p = r->p;
    size_t room = (size_t)(r->end - p);
    int redis = !memcmp(p, "REDIS", room < 5 ? room : 5), valkey = !memcmp(p, "VALKEY", room < 6 ? room : 6);
    if (!redis && !valkey)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, p, "not an RDB file: it begins with neither REDIS nor VALKEY");
    if (room < RD_HEADER_LEN) return rd_need(r, p, RD_HEADER_LEN);
    r->header.lineage = redis ? RDBKIT_REDIS : RDBKIT_VALKEY;
    int st = redis ? rec_version(r, p + 5, 4) : rec_version(r, p + 6, 3);
    if (st) return st;
    for (int i = 0; i < 256; i++) r->types[i] = fmt_type_find(r->header.lineage, i);
    for (size_t i = 0; i < sizeof fmt_opcodes / sizeof fmt_opcodes[0]; i++)
        r->opcodes[fmt_opcodes[i].number] = (fmt_opcodes[i].lineage & r->header.lineage) != 0;
    r->p = p + RD_HEADER_LEN;
    r->state = RD_RECORD;
    st = r->v.header ? r->v.header(r->v.user, &r->header) : 0;
    return st ? rd_stop(r, st) : 0;
}

static int rec_trailer(rdbkit_reader *r) {
    const u8 *p = r->p, *data;
    u64 stored = 0;
    int st = r->header.rdb_version >= 5 ? rd_raw(r, &p, 8, &data) : 0;
    if (st) return st;
    if (p > r->p) stored = port_le64(data);
    if (stored && !r->opt.ignore_checksum && stored != r->crc)
        return rd_fail(r, RDBKIT_ERR_CHECKSUM, r->p, "%016llx stored, %016llx computed", (unsigned long long)stored,
                       (unsigned long long)r->crc);
    r->p = p;
    r->state = RD_FINISHED;
    r->status = RDBKIT_DONE;
    r->verified = stored && !r->opt.ignore_checksum;
    st = r->v.end ? r->v.end(r->v.user, r->verified) : 0;
    return st ? rd_stop(r, st) : 0;
}

/* ---- the window ---- */

static int rec_run(rdbkit_reader *r) {
    int st = 0;
    while (!st) {
        switch (r->state) {
        case RD_RECORD: st = rec_record(r); break;
        case RD_VALUE: st = val_readers[fmt_id(r->key.type)](r); break;
        case RD_PIECES: st = val_pieces(r); break;
        case RD_WALK: st = rd_walk(r); break;
        case RD_SLOTS: st = rec_slot_ranges(r); break;
        case RD_HEADER: st = rec_header(r); break;
        case RD_TRAILER: st = rec_trailer(r); break;
        case RD_FINISHED: return RDBKIT_DONE;
        }
    }
    return st;
}

/* Run over a window that begins at offset off, and account for what was consumed. */
static int rec_run_window(rdbkit_reader *r, const u8 *data, size_t len, u64 off) {
    r->base = r->p = data;
    r->end = data + len;
    r->base_off = off;
    if (r->state < RD_TRAILER) r->crc_from = data;
    if (r->raw_from) r->raw_from = data;
    r->need = 1;
    int st = rec_run(r);
    int raw = st == RDBKIT_MORE ? rd_raw_out(r) : 0;
    if (raw) st = raw;
    if (r->crc_from && r->state < RD_TRAILER && !r->opt.ignore_checksum)
        r->crc = crc_update(r->crc, r->crc_from, (size_t)(r->p - r->crc_from));
    r->base_off = rd_off(r, r->p);
    r->base = r->p;
    if (r->in_key && r->key.name.data != r->key_head) { /* the window goes away: keep what errors show */
        size_t n = r->key.name.len < sizeof r->key_head ? r->key.name.len : sizeof r->key_head;
        memcpy(r->key_head, r->key.name.data, n);
        r->key.name.data = r->key_head;
    }
    return st;
}

/* Use up the carry: append from the new bytes what the step at hand wants, until the carry's rest lies within
 * them; then they serve as the window themselves. Returns the status, and moves *data on. */
static int rec_run_carry(rdbkit_reader *r, const u8 **data, size_t *len) {
    mem_buf *c = &r->carry;
    int st = RDBKIT_MORE;
    while (c->len && *len && st == RDBKIT_MORE) {
        u64 want = r->need > c->len ? r->need - c->len : 1;
        if (want < RD_CARRY_STEP) want = RD_CARRY_STEP;
        size_t take = want < *len ? (size_t)want : *len;
        if (mem_buf_add(&r->mem, c, *data, take)) return rd_nomem(r);
        *data += take, *len -= take;
        st = rec_run_window(r, c->data, c->len, r->base_off);
        size_t rest = (size_t)(r->end - r->p);
        if (rest <= take) {
            *data -= rest, *len += rest;
            c->len = 0;
        } else {
            memmove(c->data, r->p, rest);
            c->len = rest;
        }
    }
    return st;
}

static int rec_feed(rdbkit_reader *r, const u8 *data, size_t len) {
    if (r->status) return r->status;
    int st = r->carry.len ? rec_run_carry(r, &data, &len) : RDBKIT_MORE;
    if (st != RDBKIT_MORE) return st;
    if (len == 0 || r->carry.len) return RDBKIT_MORE;
    st = rec_run_window(r, data, len, r->base_off);
    size_t rest = (size_t)(r->end - r->p);
    if (st == RDBKIT_MORE && rest && mem_buf_add(&r->mem, &r->carry, r->p, rest)) return rd_nomem(r);
    return st;
}

static int rec_finish(rdbkit_reader *r) {
    if (r->status) return r->status;
    rdbkit_error *e = &r->error;
    u64 have = r->base_off + r->carry.len;
    if (r->need == 0) r->short_want = RD_HEADER_LEN; /* nothing was ever fed */
    rd_error_start(r, RDBKIT_ERR_TRUNCATED, r->short_off);
    err_add(e->message, sizeof e->message, ": the input ends after %llu bytes, %llu wanted here",
            (unsigned long long)(have - r->short_off), (unsigned long long)r->short_want);
    err_add_key(e);
    return r->status;
}


/* ==== [19] out_ : output in large blocks ====
 *
 * What every sink writes into: one block, which goes to the caller's function when it is full, or when the sink says
 * so because what it holds is complete. Tests: through the sinks */

#define OUT_LEN ((size_t)256 * 1024)

typedef struct out_buf {
    u8 *data; /* OUT_LEN bytes */
    size_t len;
    u64 sent;   /* bytes that went out before */
    u64 crc;    /* of those */
    int count;  /* 1: keep crc */
    int silent; /* 1: nothing goes out */
    int sys_errno;
    rdbkit_write_fn write;
    void *ctx;
    rdbkit_allocator mem;
} out_buf;

static int out_init(out_buf *o, const rdbkit_allocator *mem, rdbkit_write_fn write_fn, void *ctx) {
    memset(o, 0, sizeof *o);
    o->mem = *mem;
    o->write = write_fn, o->ctx = ctx;
    o->data = mem->alloc(mem->ctx, OUT_LEN);
    return o->data ? 0 : RDBKIT_ERR_NOMEM;
}

static void out_free(out_buf *o) {
    if (o->data) o->mem.free(o->mem.ctx, o->data, OUT_LEN);
    o->data = NULL;
}

static int out_send(out_buf *o, const void *data, size_t len) {
    if (o->count) o->crc = crc_update(o->crc, data, len);
    o->sent += len;
    if (o->silent || !len) return 0;
    int e = o->sys_errno ? -o->sys_errno : o->write(o->ctx, data, len);
    if (!e) return 0;
    o->sys_errno = e < 0 ? -e : EIO;
    return RDBKIT_ERR_IO;
}

static int out_flush(out_buf *o) {
    size_t n = o->len;
    o->len = 0;
    return out_send(o, o->data, n);
}

static PORT_NOINLINE int out_put_slow(out_buf *o, const void *data, size_t len) {
    int st = out_flush(o);
    if (st) return st;
    if (len > OUT_LEN) return out_send(o, data, len);
    memcpy(o->data, data, len);
    o->len = len;
    return 0;
}

/* Bytes as they are, however many. */
PORT_INLINE int out_put(out_buf *o, const void *data, size_t len) {
    if (PORT_UNLIKELY(len > OUT_LEN - o->len)) return out_put_slow(o, data, len);
    port_copy(o->data + o->len, data, len);
    o->len += len;
    return 0;
}

/* Room for n bytes, at most a few thousand, at data + len. */
PORT_INLINE int out_room(out_buf *o, size_t n) {
    return PORT_UNLIKELY(n > OUT_LEN - o->len) ? out_flush(o) : 0;
}

/* ==== [20] loss_ : what a target cannot hold ====
 *
 * One row a kind, counted, with the first key of each. docs/loss.md is tested against this table.
 * Tests: tests/server_test.py, tests/cli_test.py */

#define LOSS_KINDS(X)                                                                                             \
    X(LOSS_STREAM, "stream", "streams are left out: the target has none")                                         \
    X(LOSS_STREAM_COUNTERS, "stream-counters",                                                                    \
      "entries-added, max-deleted or entries-read of streams: the target has none, and would not estimate the same") \
    X(LOSS_ACTIVE_TIME, "active-time",                                                                            \
      "when consumers of streams were last active: the target takes when they were last seen")                    \
    X(LOSS_FIELD_EXPIRY, "field-expiry", "expiry of hash fields: the fields are kept, and live for ever")          \
    X(LOSS_FUNCTION, "function", "function libraries are left out: the target has none")                          \
    X(LOSS_MODULE, "module", "module values over 512 MiB are left out: no command can carry them")                \
    X(LOSS_NAN_SCORE, "nan-score", "sorted set members whose score is not a number are left out")                 \
    X(NOTE_PENDING_GONE, "pending-gone", "pending entries whose message is deleted: no command can make them")     \
    X(NOTE_MODULE_VALUE, "module-value", "module values are carried as they are: the target needs the module")    \
    X(NOTE_MODULE_AUX, "module-aux", "module data outside of keys is left out: the target has no way to take it")  \
    X(NOTE_DB_NUMBER, "db-number", "databases above 15: the target needs a higher `databases`")                   \
    X(NOTE_SLOT_IMPORT, "slot-import", "unfinished slot imports are left out")                                    \
    X(NOTE_DROPPED_MODULE, "dropped-module", "module values and module data are left out, as asked for")          \
    X(NOTE_DROPPED_FUNCTION, "dropped-function", "function libraries are left out, as asked for")

#define LOSS_ROW(kind, name, text) {RDBKIT_##kind, name, text, RDBKIT_##kind >= RDBKIT_NOTE_PENDING_GONE, 0, 0, 0, 0, {0}},
static const rdbkit_loss loss_kinds[] = {LOSS_KINDS(LOSS_ROW)};

_Static_assert(sizeof loss_kinds / sizeof loss_kinds[0] == RDBKIT_LOSS_KIND_N, "one row per kind of loss");

typedef struct loss_set {
    rdbkit_loss row[RDBKIT_LOSS_KIND_N];
    u64 last_subject[RDBKIT_LOSS_KIND_N];
    u64 told[RDBKIT_LOSS_KIND_N]; /* items that the callback has heard of */
} loss_set;

/* One item more. subject: a number above 0 that is the same for all items of one key. */
static void loss_add(loss_set *set, rdbkit_loss_kind kind, u64 subject, u64 db, rdbkit_str name) {
    rdbkit_loss *l = &set->row[kind];
    l->items++;
    if (set->last_subject[kind] == subject) return;
    set->last_subject[kind] = subject;
    if (l->keys++) return;
    l->db = db;
    l->key_len = name.len;
    if (name.len) memcpy(l->key, name.data, name.len < sizeof l->key ? name.len : sizeof l->key);
}

/* The info of a stream as a server without counters, and the same data later in one with them, would have it. */
static rdbkit_stream_info loss_plain_info(const rdbkit_stream_info *info) {
    rdbkit_stream_info plain = *info;
    plain.entries_added = plain.length;
    plain.max_deleted.ms = plain.max_deleted.seq = 0;
    return plain;
}

/* Whether a stream has counters that would not come out the same by themselves. */
static int loss_has_counters(const rdbkit_stream_info *info) {
    return info->entries_added > info->length || info->max_deleted.ms || info->max_deleted.seq;
}

static int loss_has_entries_read(const rdbkit_stream_info *info, const rdbkit_stream_group *group) {
    rdbkit_stream_info plain = loss_plain_info(info);
    return group->entries_read != strm_estimate_read(&plain, group->last_id);
}

/* The name in a library's first line, "#!lua name=mylib". */
static rdbkit_str loss_library_name(rdbkit_str code) {
    static const char mark[] = "name=";
    size_t n = sizeof mark - 1, at = 0;
    while (at + n <= code.len && code.data[at] != '\n' && memcmp(code.data + at, mark, n)) at++;
    if (at + n > code.len || code.data[at] == '\n') return code;
    rdbkit_str name = {code.data + at + n, 0};
    while (at + n + name.len < code.len && !strchr(" \t\r\n", name.data[name.len])) name.len++;
    return name;
}

/* What a sink knows of its target, and of what is at hand: a key, a function, a module. */
typedef struct loss_sink {
    rdbkit_target target;
    loss_set set;
    int allow; /* losses are counted; otherwise the first one ends the work */
    int fresh; /* something was counted that the callback has not heard of */
    u64 subject, db;
    rdbkit_str name;
    rdbkit_loss_fn on_loss; /* or NULL */
    void *on_loss_ctx;
} loss_sink;

static void loss_init(loss_sink *l, const rdbkit_target *target, int allow) {
    if (target) l->target = *target;
    l->allow = allow;
    memcpy(l->set.row, loss_kinds, sizeof loss_kinds);
}

static void loss_listen(loss_sink *l, rdbkit_loss_fn on_loss, void *ctx) {
    l->on_loss = on_loss;
    l->on_loss_ctx = ctx;
}

/* All that is lost of what is at hand is known: tell it, while the name is still there. */
static void loss_tell(loss_sink *l) {
    for (size_t i = 0; l->fresh && l->on_loss && i < RDBKIT_LOSS_KIND_N; i++) {
        const u64 items = l->set.row[i].items - l->set.told[i];
        const rdbkit_key_loss loss = {&loss_kinds[i], l->name, l->db, items};
        l->set.told[i] += items;
        if (items) l->on_loss(l->on_loss_ctx, &loss);
    }
    l->fresh = 0;
}

PORT_INLINE int loss_has(const loss_sink *l, unsigned feature) {
    return (l->target.features & feature) != 0;
}

/* The next key, or whatever it is, is at hand. */
PORT_INLINE void loss_next(loss_sink *l, u64 db, rdbkit_str name) {
    l->subject++;
    l->db = db;
    l->name = name;
}

/* Something of it is lost: 0 to go on without. */
static int loss_lose(loss_sink *l, rdbkit_loss_kind kind) {
    loss_add(&l->set, kind, l->subject, l->db, l->name);
    l->fresh = 1;
    if (loss_kinds[kind].is_note || l->allow) return 0;
    loss_tell(l);
    return RDBKIT_ERR_LOSS;
}

/* The key at hand is in a database that the target may not have: counted once for all of its keys. */
static void loss_db(loss_sink *l) {
    if (l->db <= 15 || l->set.last_subject[RDBKIT_NOTE_DB_NUMBER] == l->db + 1) return;
    loss_add(&l->set, RDBKIT_NOTE_DB_NUMBER, l->db + 1, l->db, l->name);
    l->fresh = 1;
}

/* Something outside of keys is lost. */
static int loss_lose_other(loss_sink *l, rdbkit_loss_kind kind, rdbkit_str name) {
    loss_next(l, RDBKIT_NO_DB, name);
    int st = loss_lose(l, kind);
    loss_tell(l);
    return st;
}

static const rdbkit_loss *loss_at(const loss_sink *l, size_t index) {
    for (size_t i = 0; i < RDBKIT_LOSS_KIND_N; i++)
        if (l->set.row[i].keys && index-- == 0) return &l->set.row[i];
    return NULL;
}

/* ==== [21] enc_ : value encoder ====
 *
 * Events of one value in, the bytes of that value out, in the encoding that the target itself would choose at its
 * default settings. Small collections are kept until it is clear that they stay small, then packed; large ones are
 * written as they come into the body. Their number of elements stands before them and is known only after them, so a
 * body over ENC_BODY goes to the spill. What comes out, in this order: head, body, tail.
 *
 * docs/format.md, section encodings. Tests: tests/convert_test.py, tests/test_writer.c, fuzz/fuzz_writer.c */

#define ENC_HASH_N 512 /* the servers' defaults: hash-max-listpack-entries and its relatives */
#define ENC_SET_N 128
#define ENC_ZSET_N 128
#define ENC_INTSET_N 512
#define ENC_ITEM_LEN 64
#define ENC_NODE_LEN 8192 /* list-max-listpack-size -2 */
#define ENC_STREAM_LEN 4096
#define ENC_STREAM_N 100
#define ENC_BODY ((size_t)1024 * 1024)
#define ENC_LZF_MIN 20

/* An element that is kept: where its text lies, and what belongs to it. */
typedef struct enc_item {
    size_t off, len;
    size_t off2, len2; /* a hash field's value */
    double score;
    i64 num; /* expiry of a field, or the value of an integer */
} enc_item;

typedef struct enc_state {
    rdbkit_allocator mem;
    const rdbkit_target *target;
    int compress;
    int narrow; /* form of listpack back-lengths, see lp_back_width() */
    const rdbkit_spill *spill;

    rdbkit_shape shape;
    int expiring; /* a hash whose fields may expire */
    int plain;    /* too large to be packed: elements go into the body */
    int all_ints;
    u64 n;          /* elements so far */
    mem_buf text;   /* of the kept items */
    mem_buf items;  /* enc_item */
    mem_buf blob;   /* a packed value or list node in the making */
    u64 blob_n;
    u64 blob_prev;  /* ziplist: length of the last entry */
    mem_buf lzf;

    /* the stream at hand */
    mem_buf master, entries; /* entries of a node's listpack, without its header */
    u64 master_n, entries_n, live, names_n;
    rdbkit_stream_id node_key, entry_id;
    mem_buf names; /* enc_item of the master's fields; texts in names_text */
    mem_buf names_text;
    int have_entry;
    rdbkit_stream_info info;
    rdbkit_stream_group group;
    int have_group;
    mem_buf group_name, pending, consumers;

    /* the result */
    const rdbkit_type *type;
    u64 nodes;
    mem_buf head, body, tail;
    u64 spilled; /* bytes of the body that are in the spill */
} enc_state;

/* ---- strings and lengths ---- */

static int enc_len(enc_state *e, mem_buf *b, u64 v) {
    u8 x[9];
    size_t n = v < 64 ? 1 : v < 16384 ? 2 : v <= UINT32_MAX ? 5 : 9;
    if (n <= 2) {
        x[0] = (u8)(n == 1 ? v : 64 | v >> 8), x[1] = (u8)v;
    } else {
        x[0] = n == 5 ? 0x80 : 0x81;
        for (size_t i = 1; i < n; i++) x[i] = (u8)(v >> (8 * (n - 1 - i)));
    }
    return mem_buf_add(&e->mem, b, x, n);
}

static int enc_le(enc_state *e, mem_buf *b, u64 v, size_t bytes) {
    u8 x[8];
    port_put_le64(x, v);
    return mem_buf_add(&e->mem, b, x, bytes);
}

static int enc_id_be(enc_state *e, mem_buf *b, rdbkit_stream_id id) {
    u8 x[16];
    for (int i = 0; i < 8; i++) x[i] = (u8)(id.ms >> (56 - 8 * i)), x[8 + i] = (u8)(id.seq >> (56 - 8 * i));
    return mem_buf_add(&e->mem, b, x, 16);
}

/* Try LZF; 0 if it does not pay, as servers judge it. */
static size_t enc_try_lzf(enc_state *e, const void *data, size_t len) {
    e->lzf.len = 0;
    if (!e->compress || len <= ENC_LZF_MIN || len > INT32_MAX) return 0;
    if (mem_buf_room(&e->mem, &e->lzf, len)) return 0;
    return lzf_compress(data, (unsigned)len, e->lzf.data, (unsigned)(len - 4));
}

/* A string as servers write it: a number, compressed, or as it is. */
static int enc_str(enc_state *e, mem_buf *b, const void *data, size_t len) {
    i64 v;
    size_t n;
    if (len <= 11 && num_parse_i64(data, len, &v) == 0 && v >= INT32_MIN && v <= INT32_MAX) {
        size_t bytes = v >= INT8_MIN && v <= INT8_MAX ? 1 : v >= INT16_MIN && v <= INT16_MAX ? 2 : 4;
        u8 mark = bytes == 1 ? 0xc0 : bytes == 2 ? 0xc1 : 0xc2;
        return mem_buf_add(&e->mem, b, &mark, 1) || enc_le(e, b, (u64)v, bytes) ? RDBKIT_ERR_NOMEM : 0;
    }
    if ((n = enc_try_lzf(e, data, len)) > 0) {
        u8 mark = 0xc3;
        if (mem_buf_add(&e->mem, b, &mark, 1) || enc_len(e, b, n) || enc_len(e, b, len)) return RDBKIT_ERR_NOMEM;
        return mem_buf_add(&e->mem, b, e->lzf.data, n);
    }
    return enc_len(e, b, len) || mem_buf_add(&e->mem, b, data, len) ? RDBKIT_ERR_NOMEM : 0;
}

/* After something was added to the body. */
static int enc_body_added(enc_state *e) {
    if (e->body.len <= ENC_BODY || !e->spill) return 0;
    if (!e->spilled && e->spill->reset && e->spill->reset(e->spill->ctx)) return RDBKIT_ERR_IO;
    if (e->spill->write(e->spill->ctx, e->body.data, e->body.len)) return RDBKIT_ERR_IO;
    e->spilled += e->body.len;
    e->body.len = 0;
    return 0;
}

static int enc_body_str(enc_state *e, const void *data, size_t len) {
    int st = enc_str(e, &e->body, data, len);
    return st ? st : enc_body_added(e);
}

/* ---- packed blobs ---- */

/* Begin one: its header is filled in when it is complete. */
static int enc_blob_start(enc_state *e, size_t header) {
    static const u8 zero[ZL_HDR_LEN] = {0};
    e->blob.len = 0;
    e->blob_n = e->blob_prev = 0;
    return mem_buf_add(&e->mem, &e->blob, zero, header);
}

static int enc_lp_int(enc_state *e, mem_buf *b, i64 v) {
    u8 x[10];
    size_t n;
    u64 u = (u64)v;
    if (v >= 0 && v <= 127) {
        x[0] = (u8)v, n = 1;
    } else if (v >= -4096 && v <= 4095) {
        x[0] = (u8)(0xc0 | (u >> 8 & 31)), x[1] = (u8)u, n = 2;
    } else {
        size_t bytes = v >= INT16_MIN && v <= INT16_MAX ? 2 : v >= -8388608 && v <= 8388607 ? 3
                       : v >= INT32_MIN && v <= INT32_MAX                                    ? 4
                                                                                             : 8;
        x[0] = (u8)(bytes == 8 ? 0xf4 : 0xf1 + bytes - 2);
        for (size_t i = 0; i < bytes; i++) x[1 + i] = (u8)(u >> (8 * i));
        n = 1 + bytes;
    }
    x[n] = (u8)n; /* the back-length */
    return mem_buf_add(&e->mem, b, x, n + 1);
}

/* An entry of a listpack: an integer where the text is one, as servers store it. */
static int enc_lp_str(enc_state *e, mem_buf *b, const void *data, size_t len) {
    u8 head[5], back[5];
    size_t n;
    i64 v;
    if (len <= NUM_INT_MAX && num_parse_i64(data, len, &v) == 0) return enc_lp_int(e, b, v);
    if (len < 64) {
        head[0] = (u8)(0x80 | len), n = 1;
    } else if (len < 4096) {
        head[0] = (u8)(0xe0 | len >> 8), head[1] = (u8)len, n = 2;
    } else {
        head[0] = 0xf0, n = 5;
        for (int i = 0; i < 4; i++) head[1 + i] = (u8)(len >> (8 * i));
    }
    int w = lp_put_back(back, n + len, e->narrow);
    if (mem_buf_add(&e->mem, b, head, n) || mem_buf_add(&e->mem, b, data, len)) return RDBKIT_ERR_NOMEM;
    return mem_buf_add(&e->mem, b, back, (size_t)w);
}

static int enc_lp_end(enc_state *e, mem_buf *b, u64 n) {
    u8 end = 0xff;
    if (mem_buf_add(&e->mem, b, &end, 1)) return RDBKIT_ERR_NOMEM;
    u64 count = n < PK_COUNT_UNKNOWN ? n : PK_COUNT_UNKNOWN;
    for (int i = 0; i < 4; i++) b->data[i] = (u8)(b->len >> (8 * i));
    b->data[4] = (u8)count, b->data[5] = (u8)(count >> 8);
    return 0;
}

/* An entry of the ziplist in e->blob; integers as servers store them, up to 31 characters of canonical text. */
static int enc_zl_str(enc_state *e, const void *data, size_t len) {
    u8 head[10];
    size_t n = 0, start = e->blob.len;
    i64 v;
    if (e->blob_prev < 254) {
        head[n++] = (u8)e->blob_prev;
    } else {
        head[n++] = 254;
        for (int i = 0; i < 4; i++) head[n++] = (u8)(e->blob_prev >> (8 * i));
    }
    if (mem_buf_add(&e->mem, &e->blob, head, n)) return RDBKIT_ERR_NOMEM;
    n = 0;
    if (len > 0 && len <= NUM_INT_MAX && num_parse_i64(data, len, &v) == 0) {
        size_t bytes = v >= 0 && v <= 12                      ? 0
                       : v >= INT8_MIN && v <= INT8_MAX       ? 1
                       : v >= INT16_MIN && v <= INT16_MAX     ? 2
                       : v >= -8388608 && v <= 8388607        ? 3
                       : v >= INT32_MIN && v <= INT32_MAX     ? 4
                                                              : 8;
        static const u8 marks[] = {0, 0xfe, 0xc0, 0xf0, 0xd0, 0, 0, 0, 0xe0};
        head[n++] = bytes ? marks[bytes] : (u8)(0xf1 + v);
        for (size_t i = 0; i < bytes; i++) head[n++] = (u8)((u64)v >> (8 * i));
        len = 0;
    } else if (len < 64) {
        head[n++] = (u8)len;
    } else if (len < 16384) {
        head[n++] = (u8)(0x40 | len >> 8), head[n++] = (u8)len;
    } else {
        head[n++] = 0x80;
        for (int i = 3; i >= 0; i--) head[n++] = (u8)(len >> (8 * i));
    }
    if (mem_buf_add(&e->mem, &e->blob, head, n) || mem_buf_add(&e->mem, &e->blob, data, len)) return RDBKIT_ERR_NOMEM;
    e->blob_prev = e->blob.len - start;
    return 0;
}

static int enc_zl_end(enc_state *e) {
    mem_buf *b = &e->blob;
    u64 tail = e->blob_n ? b->len - e->blob_prev : ZL_HDR_LEN;
    u8 end = 0xff;
    if (mem_buf_add(&e->mem, b, &end, 1)) return RDBKIT_ERR_NOMEM;
    u64 count = e->blob_n < PK_COUNT_UNKNOWN ? e->blob_n : PK_COUNT_UNKNOWN;
    for (int i = 0; i < 4; i++) b->data[i] = (u8)(b->len >> (8 * i)), b->data[4 + i] = (u8)(tail >> (8 * i));
    b->data[8] = (u8)count, b->data[9] = (u8)(count >> 8);
    return 0;
}

/* Whether the target packs in listpacks, as 7.0 and later do, or in ziplists. */
static int enc_listpacks(const enc_state *e) {
    return e->target->max_type >= fmt_types[FMT_HASH_LISTPACK].number;
}

static int enc_pack_start(enc_state *e) {
    return enc_blob_start(e, enc_listpacks(e) ? LP_HDR_LEN : ZL_HDR_LEN);
}

static int enc_pack(enc_state *e, const void *data, size_t len) {
    int st = enc_listpacks(e) ? enc_lp_str(e, &e->blob, data, len) : enc_zl_str(e, data, len);
    e->blob_n++;
    return st;
}

static int enc_pack_int(enc_state *e, i64 v) {
    u8 text[NUM_INT_MAX];
    return enc_pack(e, text, (size_t)(num_i64(text, v) - text));
}

static int enc_pack_end(enc_state *e) {
    return enc_listpacks(e) ? enc_lp_end(e, &e->blob, e->blob_n) : enc_zl_end(e);
}

/* ---- kept items ---- */

static int enc_keep(enc_state *e, rdbkit_str a, rdbkit_str b, double score, i64 num) {
    enc_item it = {e->text.len, a.len, e->text.len + a.len, b.len, score, num};
    if (mem_buf_add(&e->mem, &e->text, a.data, a.len) || mem_buf_add(&e->mem, &e->text, b.data, b.len))
        return RDBKIT_ERR_NOMEM;
    return mem_buf_add(&e->mem, &e->items, &it, sizeof it);
}

static enc_item *enc_items(const enc_state *e) {
    return (enc_item *)(void *)e->items.data;
}

static rdbkit_str enc_slice(const mem_buf *b, size_t off, size_t len) {
    rdbkit_str s = {len ? (const char *)b->data + off : "", len};
    return s;
}

static rdbkit_str enc_text(const enc_state *e, const enc_item *it) {
    return enc_slice(&e->text, it->off, it->len);
}

static rdbkit_str enc_text2(const enc_state *e, const enc_item *it) {
    return enc_slice(&e->text, it->off2, it->len2);
}

/* Order of enc_item by what `less` compares: a merge sort, since qsort takes no context. */
static int enc_sort(enc_state *e, int (*cmp)(const enc_state *, const enc_item *, const enc_item *)) {
    size_t n = e->items.len / sizeof(enc_item);
    if (mem_buf_room(&e->mem, &e->items, e->items.len)) return RDBKIT_ERR_NOMEM;
    enc_item *a = enc_items(e), *b = a + n;
    for (size_t w = 1; w < n; w *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * w) {
            size_t mid = lo + w < n ? lo + w : n, hi = mid + w < n ? mid + w : n, i = lo, j = mid, k = lo;
            while (i < mid || j < hi) b[k++] = j == hi || (i < mid && cmp(e, &a[i], &a[j]) <= 0) ? a[i++] : a[j++];
        }
        memcpy(a, b, n * sizeof *a);
    }
    return 0;
}

static int enc_cmp_num(const enc_state *e, const enc_item *a, const enc_item *b) {
    (void)e;
    return a->num < b->num ? -1 : a->num > b->num;
}

/* Fields that expire first, in order of their time; those that do not, last. */
static int enc_cmp_expiry(const enc_state *e, const enc_item *a, const enc_item *b) {
    int none_a = a->num == RDBKIT_NO_EXPIRY, none_b = b->num == RDBKIT_NO_EXPIRY;
    return none_a != none_b ? none_a - none_b : none_a ? 0 : enc_cmp_num(e, a, b);
}

static int enc_cmp_score(const enc_state *e, const enc_item *a, const enc_item *b) {
    if (a->score != b->score) return a->score < b->score ? -1 : 1;
    return val_str_cmp(enc_text(e, a), enc_text(e, b));
}

/* ---- collections ---- */

static int enc_plain_item(enc_state *e, rdbkit_str s) {
    return enc_body_str(e, s.data, s.len);
}

static int enc_plain_member(enc_state *e, rdbkit_str s, double score) {
    u64 bits;
    memcpy(&bits, &score, 8);
    int st = enc_str(e, &e->body, s.data, s.len);
    if (!st) st = enc_le(e, &e->body, bits, 8);
    return st ? st : enc_body_added(e);
}

static int enc_plain_field(enc_state *e, rdbkit_str f, rdbkit_str v, i64 expire_ms) {
    int st = enc_str(e, &e->body, f.data, f.len);
    if (!st) st = enc_str(e, &e->body, v.data, v.len);
    if (!st && e->expiring) st = enc_le(e, &e->body, (u64)expire_ms, 8); /* Valkey: after the value */
    return st ? st : enc_body_added(e);
}

/* The collection is too large to be packed: what was kept goes into the body. */
static int enc_go_plain(enc_state *e) {
    enc_item *it = enc_items(e);
    size_t n = e->items.len / sizeof *it;
    int st = 0;
    e->plain = 1;
    for (size_t i = 0; i < n && !st; i++) {
        rdbkit_str a = enc_text(e, &it[i]);
        st = e->shape == RDBKIT_HASH   ? enc_plain_field(e, a, enc_text2(e, &it[i]), it[i].num)
             : e->shape == RDBKIT_ZSET ? enc_plain_member(e, a, it[i].score)
                                       : enc_plain_item(e, a);
    }
    e->items.len = e->text.len = 0;
    return st;
}

static int enc_set_member(enc_state *e, rdbkit_str s) {
    i64 v = 0;
    rdbkit_str none = {NULL, 0};
    e->n++;
    if (e->plain) return enc_plain_item(e, s);
    if (e->all_ints && num_parse_i64((const u8 *)s.data, s.len, &v)) e->all_ints = 0;
    if (s.len > ENC_ITEM_LEN) e->all_ints = 0;
    int packs = e->target->max_type >= fmt_types[FMT_SET_LISTPACK].number && e->n <= ENC_SET_N && s.len <= ENC_ITEM_LEN;
    int st = enc_keep(e, s, none, 0, v);
    return st || (e->all_ints ? e->n <= ENC_INTSET_N : packs) ? st : enc_go_plain(e);
}

static int enc_zset_member(enc_state *e, rdbkit_str s, double score) {
    rdbkit_str none = {NULL, 0};
    e->n++;
    if (e->plain) return enc_plain_member(e, s, score);
    int st = enc_keep(e, s, none, score, 0);
    return st || (e->n <= ENC_ZSET_N && s.len <= ENC_ITEM_LEN) ? st : enc_go_plain(e);
}

/* Redis writes a large hash with field expiry relative to the smallest, so that all of it is kept. */
static int enc_keeps_all(const enc_state *e) {
    return e->expiring && e->target->lineage == FMT_R;
}

static int enc_hash_field(enc_state *e, rdbkit_str f, rdbkit_str v, i64 expire_ms) {
    e->n++;
    if (expire_ms != RDBKIT_NO_EXPIRY && !e->expiring) {
        if (e->plain) return RDBKIT_ERR_USAGE;
        e->expiring = 1;
    }
    if (e->plain) return enc_plain_field(e, f, v, expire_ms);
    int small = e->n <= ENC_HASH_N && f.len <= ENC_ITEM_LEN && v.len <= ENC_ITEM_LEN;
    int st = enc_keep(e, f, v, 0, expire_ms);
    if (!small && enc_keeps_all(e)) e->all_ints = 0; /* too large for a listpack */
    return st || small || enc_keeps_all(e) ? st : enc_go_plain(e);
}

/* ---- lists ---- */

static int enc_node_end(enc_state *e) {
    static const u8 packed = 2;
    if (!e->blob_n) return 0;
    int st = enc_pack_end(e);
    if (!st && enc_listpacks(e)) st = mem_buf_add(&e->mem, &e->body, &packed, 1);
    if (!st) st = enc_body_str(e, e->blob.data, e->blob.len);
    e->nodes++;
    e->blob_n = 0;
    return st;
}

static int enc_list_item(enc_state *e, rdbkit_str s) {
    static const u8 plain = 1;
    int st = 0;
    e->n++;
    if (s.len > ENC_NODE_LEN && enc_listpacks(e)) {
        st = enc_node_end(e);
        if (!st) st = mem_buf_add(&e->mem, &e->body, &plain, 1);
        e->nodes++;
        return st ? st : enc_body_str(e, s.data, s.len);
    }
    if (e->blob_n && (e->blob.len + s.len + 11 > ENC_NODE_LEN || e->blob_n == VAL_NODE_MAX - 1)) st = enc_node_end(e);
    if (!st && !e->blob_n) st = enc_pack_start(e);
    return st ? st : enc_pack(e, s.data, s.len);
}

/* ---- streams ---- */

static int enc_stream_node_end(enc_state *e) {
    u8 sixteen = 16;
    if (!e->live) return 0;
    int st = enc_blob_start(e, LP_HDR_LEN);
    if (!st) st = enc_lp_int(e, &e->blob, (i64)e->live);
    if (!st) st = enc_lp_int(e, &e->blob, 0);
    if (!st) st = enc_lp_int(e, &e->blob, (i64)e->names_n);
    if (!st) st = mem_buf_add(&e->mem, &e->blob, e->master.data, e->master.len);
    if (!st) st = enc_lp_int(e, &e->blob, 0);
    if (!st) st = mem_buf_add(&e->mem, &e->blob, e->entries.data, e->entries.len);
    if (!st) st = enc_lp_end(e, &e->blob, 4 + e->names_n + e->entries_n);
    if (!st) st = mem_buf_add(&e->mem, &e->body, &sixteen, 1);
    if (!st) st = enc_id_be(e, &e->body, e->node_key);
    if (!st) st = enc_body_str(e, e->blob.data, e->blob.len);
    e->nodes++;
    e->live = 0;
    return st;
}

/* Whether the entry at hand has the fields of the node's first entry. */
static int enc_same_fields(const enc_state *e) {
    const enc_item *it = enc_items(e), *name = (const enc_item *)(const void *)e->names.data;
    size_t n = e->items.len / sizeof *it;
    if (n != e->names_n) return 0;
    for (size_t i = 0; i < n; i++)
        if (val_str_cmp(enc_text(e, &it[i]), enc_slice(&e->names_text, name[i].off, name[i].len)) != 0) return 0;
    return 1;
}

/* The first entry of a node: its fields become the master's. */
static int enc_stream_node_start(enc_state *e) {
    const enc_item *it = enc_items(e);
    size_t n = e->items.len / sizeof *it;
    int st = 0;
    e->master.len = e->entries.len = e->names.len = e->names_text.len = 0;
    e->entries_n = 0;
    e->names_n = n;
    e->node_key = e->entry_id;
    for (size_t i = 0; i < n && !st; i++) {
        rdbkit_str f = enc_text(e, &it[i]);
        enc_item name = {e->names_text.len, f.len, 0, 0, 0, 0};
        st = enc_lp_str(e, &e->master, f.data, f.len);
        if (!st) st = mem_buf_add(&e->mem, &e->names_text, f.data, f.len);
        if (!st) st = mem_buf_add(&e->mem, &e->names, &name, sizeof name);
    }
    return st;
}

/* The entry at hand is complete: put it into the node, or into a new one. */
static int enc_stream_entry_end(enc_state *e) {
    const enc_item *it = enc_items(e);
    size_t n = e->items.len / sizeof *it;
    int st = 0;
    if (!e->have_entry) return 0;
    e->have_entry = 0;
    if (e->live >= ENC_STREAM_N || (e->live && e->master.len + e->entries.len + e->text.len + 12 >= ENC_STREAM_LEN))
        st = enc_stream_node_end(e);
    if (!st && !e->live) st = enc_stream_node_start(e);
    int same = enc_same_fields(e);
    mem_buf *b = &e->entries;
    if (!st) st = enc_lp_int(e, b, same ? STRM_SAME_FIELDS : 0);
    if (!st) st = enc_lp_int(e, b, (i64)(e->entry_id.ms - e->node_key.ms));
    if (!st) st = enc_lp_int(e, b, (i64)(e->entry_id.seq - e->node_key.seq));
    if (!st && !same) st = enc_lp_int(e, b, (i64)n);
    for (size_t i = 0; i < n && !st; i++) {
        rdbkit_str f = enc_text(e, &it[i]), v = enc_text2(e, &it[i]);
        if (!same) st = enc_lp_str(e, b, f.data, f.len);
        if (!st) st = enc_lp_str(e, b, v.data, v.len);
    }
    i64 count = (i64)(same ? n + 3 : 2 * n + 4);
    if (!st) st = enc_lp_int(e, b, count);
    e->entries_n += (u64)count + 1;
    e->live++;
    e->items.len = e->text.len = 0;
    return st;
}

static int enc_stream_entry(enc_state *e, rdbkit_stream_id id) {
    int st = enc_stream_entry_end(e);
    e->n++;
    e->entry_id = id;
    e->have_entry = 1;
    return st;
}

static int enc_counters(const enc_state *e) {
    return e->target->max_type >= fmt_types[FMT_STREAM_2].number;
}

static int enc_id(enc_state *e, mem_buf *b, rdbkit_stream_id id) {
    int st = enc_len(e, b, id.ms);
    return st ? st : enc_len(e, b, id.seq);
}

static int enc_stream_info(enc_state *e, const rdbkit_stream_info *info) {
    int st = enc_stream_entry_end(e);
    mem_buf *b = &e->tail;
    if (!st) st = enc_stream_node_end(e);
    if (!st) st = enc_len(e, b, e->n);
    if (!st) st = enc_id(e, b, info->last_id);
    if (enc_counters(e)) {
        if (!st) st = enc_id(e, b, info->first_id);
        if (!st) st = enc_id(e, b, info->max_deleted);
        if (!st) st = enc_len(e, b, info->entries_added < e->n ? e->n : info->entries_added);
    }
    return st ? st : enc_len(e, b, info->groups);
}

/* A group is written when its consumers are known: its list of pending entries stands before them, in order. */
static int enc_stream_group_end(enc_state *e) {
    strm_pending *p = (strm_pending *)(void *)e->pending.data;
    size_t n = e->pending.len / sizeof *p;
    mem_buf *b = &e->tail;
    if (!e->have_group) return 0;
    e->have_group = 0;
    if (n) qsort(p, n, sizeof *p, strm_pending_cmp);
    size_t kept = n ? 1 : 0; /* an entry with two owners, which some servers load, stands once in the group's list */
    for (size_t i = 1; i < n; i++)
        if (strm_pending_cmp(&p[kept - 1], &p[i])) p[kept++] = p[i];
    n = kept;
    int st = enc_str(e, b, e->group_name.data, e->group_name.len);
    if (!st) st = enc_id(e, b, e->group.last_id);
    if (!st && enc_counters(e)) st = enc_len(e, b, (u64)e->group.entries_read);
    if (!st) st = enc_len(e, b, n);
    for (size_t i = 0; i < n && !st; i++) {
        st = enc_id_be(e, b, p[i].p.id);
        if (!st) st = enc_le(e, b, (u64)p[i].p.delivery_ms, 8);
        if (!st) st = enc_len(e, b, p[i].p.delivery_count);
    }
    if (!st) st = enc_len(e, b, e->group.consumers);
    return st ? st : mem_buf_add(&e->mem, b, e->consumers.data, e->consumers.len);
}

static int enc_stream_group(enc_state *e, const rdbkit_stream_group *group) {
    int st = enc_stream_group_end(e);
    e->group = *group;
    e->have_group = 1;
    e->group_name.len = e->pending.len = e->consumers.len = 0;
    return st ? st : mem_buf_add(&e->mem, &e->group_name, group->name.data, group->name.len);
}

static int enc_stream_consumer(enc_state *e, const rdbkit_stream_consumer *c) {
    mem_buf *b = &e->consumers;
    int st = enc_str(e, b, c->name.data, c->name.len);
    if (!st) st = enc_le(e, b, (u64)c->seen_ms, 8);
    if (!st && e->target->max_type >= fmt_types[FMT_STREAM_3].number) st = enc_le(e, b, (u64)c->active_ms, 8);
    return st ? st : enc_len(e, b, c->pending);
}

static int enc_stream_pending(enc_state *e, const rdbkit_stream_pending *p) {
    strm_pending x = {*p, 0, 0};
    int st = enc_id_be(e, &e->consumers, p->id);
    return st ? st : mem_buf_add(&e->mem, &e->pending, &x, sizeof x);
}

/* ---- the result ---- */

static void enc_begin(enc_state *e, const rdbkit_type *from) {
    mem_buf *empty[] = {&e->text, &e->items, &e->blob, &e->head, &e->body, &e->tail, &e->pending, &e->consumers};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) empty[i]->len = 0;
    e->shape = from->shape;
    e->expiring = from->number >= 22 && (e->target->features & RDBKIT_F_FIELD_EXPIRY) && from->shape == RDBKIT_HASH;
    e->plain = e->have_entry = e->have_group = 0;
    e->all_ints = 1;
    e->n = e->nodes = e->spilled = e->blob_n = e->live = 0;
    e->type = NULL;
}

/* One blob is the whole value. */
static int enc_end_packed(enc_state *e, enum fmt_type type) {
    int st = enc_pack_end(e);
    e->type = &fmt_types[type];
    return st ? st : enc_str(e, &e->head, e->blob.data, e->blob.len);
}

static int enc_end_intset(enc_state *e) {
    enc_item *it = enc_items(e);
    int st = enc_sort(e, enc_cmp_num);
    if (st) return st;
    it = enc_items(e);
    i64 lo = it[0].num, hi = it[e->n - 1].num;
    size_t width = lo >= INT16_MIN && hi <= INT16_MAX ? 2 : lo >= INT32_MIN && hi <= INT32_MAX ? 4 : 8;
    e->blob.len = 0;
    st = enc_le(e, &e->blob, width, 4);
    if (!st) st = enc_le(e, &e->blob, e->n, 4);
    for (u64 i = 0; i < e->n && !st; i++) st = enc_le(e, &e->blob, (u64)it[i].num, width);
    e->type = &fmt_types[FMT_SET_INTSET];
    return st ? st : enc_str(e, &e->head, e->blob.data, e->blob.len);
}

static int enc_end_plain(enc_state *e, enum fmt_type type) {
    e->type = &fmt_types[type];
    return enc_len(e, &e->head, e->n);
}

static int enc_end_set(enc_state *e) {
    const enc_item *it = enc_items(e);
    if (e->plain) return enc_end_plain(e, FMT_SET);
    if (e->all_ints) return enc_end_intset(e);
    int st = enc_pack_start(e);
    for (u64 i = 0; i < e->n && !st; i++) st = enc_pack(e, enc_text(e, &it[i]).data, it[i].len);
    return st ? st : enc_end_packed(e, FMT_SET_LISTPACK);
}

/* The score as servers write it into a packed sorted set: an integer where it is one exactly. */
static int enc_pack_score(enc_state *e, double score) {
    u8 text[NUM_DOUBLE_MAX];
    double most = enc_listpacks(e) ? 4611686018427387904.0 : 4503599627370496.0; /* 2^62, 2^52 */
    int zero = score == 0 && signbit(score);
    if (score >= -most && score <= most && score == (double)(i64)score && (enc_listpacks(e) || !zero))
        return enc_pack_int(e, (i64)score);
    return enc_pack(e, text, (size_t)(num_double(text, score) - text));
}

static int enc_end_zset(enc_state *e) {
    if (e->plain) return enc_end_plain(e, FMT_ZSET_2);
    int st = enc_sort(e, enc_cmp_score);
    const enc_item *it = enc_items(e);
    if (!st) st = enc_pack_start(e);
    for (u64 i = 0; i < e->n && !st; i++) {
        st = enc_pack(e, enc_text(e, &it[i]).data, it[i].len);
        if (!st) st = enc_pack_score(e, it[i].score);
    }
    return st ? st : enc_end_packed(e, enc_listpacks(e) ? FMT_ZSET_LISTPACK : FMT_ZSET_ZIPLIST);
}

/* The smallest expiry of the fields, or 0. */
static i64 enc_min_expiry(const enc_state *e) {
    const enc_item *it = enc_items(e);
    i64 min = 0;
    for (u64 i = 0; i < e->n; i++)
        if (it[i].num != RDBKIT_NO_EXPIRY && (!min || it[i].num < min)) min = it[i].num;
    return min;
}

/* Redis: a listpack of triples, or plain with the times counted from the smallest. */
static int enc_end_redis_expiry(enc_state *e) {
    i64 min = enc_min_expiry(e);
    int st = enc_le(e, &e->head, (u64)min, 8);
    const enc_item *it;
    if (!e->all_ints) { /* not packed */
        e->type = &fmt_types[FMT_HASH_METADATA];
        if (!st) st = enc_len(e, &e->head, e->n);
        it = enc_items(e);
        for (u64 i = 0; i < e->n && !st; i++) {
            rdbkit_str f = enc_text(e, &it[i]), v = enc_text2(e, &it[i]);
            st = enc_len(e, &e->body, it[i].num == RDBKIT_NO_EXPIRY ? 0 : (u64)(it[i].num - min + 1));
            if (!st) st = enc_str(e, &e->body, f.data, f.len);
            if (!st) st = enc_body_str(e, v.data, v.len);
        }
        return st;
    }
    if (!st) st = enc_sort(e, enc_cmp_expiry);
    it = enc_items(e);
    if (!st) st = enc_pack_start(e);
    for (u64 i = 0; i < e->n && !st; i++) {
        st = enc_pack(e, enc_text(e, &it[i]).data, it[i].len);
        if (!st) st = enc_pack(e, enc_text2(e, &it[i]).data, it[i].len2);
        if (!st) st = enc_pack_int(e, it[i].num == RDBKIT_NO_EXPIRY ? 0 : it[i].num);
    }
    return st ? st : enc_end_packed(e, FMT_HASH_LISTPACK_EX);
}

static int enc_end_hash(enc_state *e) {
    const enc_item *it = enc_items(e);
    int st = 0;
    if (e->expiring && e->target->lineage == FMT_R && enc_min_expiry(e)) return enc_end_redis_expiry(e);
    if (e->expiring && e->target->lineage == FMT_V && (e->plain || enc_min_expiry(e))) {
        if (!e->plain) st = enc_go_plain(e);
        return st ? st : enc_end_plain(e, FMT_HASH_2);
    }
    if (e->expiring && !e->all_ints) { /* no field expires after all */
        e->expiring = 0;
        if ((st = enc_go_plain(e))) return st;
    }
    if (e->plain) return enc_end_plain(e, FMT_HASH);
    st = enc_pack_start(e);
    for (u64 i = 0; i < e->n && !st; i++) {
        st = enc_pack(e, enc_text(e, &it[i]).data, it[i].len);
        if (!st) st = enc_pack(e, enc_text2(e, &it[i]).data, it[i].len2);
    }
    return st ? st : enc_end_packed(e, enc_listpacks(e) ? FMT_HASH_LISTPACK : FMT_HASH_ZIPLIST);
}

static int enc_end_list(enc_state *e) {
    int st = enc_node_end(e);
    e->type = &fmt_types[enc_listpacks(e) ? FMT_LIST_QUICKLIST_2 : FMT_LIST_QUICKLIST];
    return st ? st : enc_len(e, &e->head, e->nodes);
}

static int enc_end_stream(enc_state *e) {
    int st = enc_stream_group_end(e), max = e->target->max_type;
    e->type = &fmt_types[max >= fmt_types[FMT_STREAM_3].number ? FMT_STREAM_3 : enc_counters(e) ? FMT_STREAM_2 : FMT_STREAM];
    return st ? st : enc_len(e, &e->head, e->nodes);
}

/* The value is complete: type, head, body and tail are what it is. An empty collection has no type: servers have none,
 * and some die of one. */
static int enc_end(enc_state *e) {
    if (e->shape != RDBKIT_STREAM && e->shape != RDBKIT_STRING && e->n == 0) return 0;
    switch (e->shape) {
    case RDBKIT_LIST: return enc_end_list(e);
    case RDBKIT_SET: return enc_end_set(e);
    case RDBKIT_ZSET: return enc_end_zset(e);
    case RDBKIT_HASH: return enc_end_hash(e);
    case RDBKIT_STREAM: return enc_end_stream(e);
    case RDBKIT_STRING: e->type = &fmt_types[FMT_STRING]; return 0;
    case RDBKIT_MODULE:
    case RDBKIT_SHAPE_N: break;
    }
    return RDBKIT_ERR_USAGE;
}

/* How a value that goes through as it is has to be given. */
static int enc_raw_answer(const enc_state *e) {
    return e->narrow ? RDBKIT_TAKE_RAW_NARROW : RDBKIT_TAKE_RAW_WIDE;
}

static u64 enc_result_len(const enc_state *e) {
    return e->head.len + e->spilled + e->body.len + e->tail.len;
}

/* Hand the value's bytes to a sink. */
static int enc_write(enc_state *e, int (*put)(void *ctx, const void *data, size_t len), void *ctx) {
    int st = put(ctx, e->head.data, e->head.len);
    for (u64 at = 0; at < e->spilled && !st;) {
        size_t n = e->spilled - at < ENC_BODY ? (size_t)(e->spilled - at) : ENC_BODY;
        e->blob.len = 0;
        if (mem_buf_room(&e->mem, &e->blob, n)) return RDBKIT_ERR_NOMEM;
        if (e->spill->read(e->spill->ctx, at, e->blob.data, n)) return RDBKIT_ERR_IO;
        st = put(ctx, e->blob.data, n);
        at += n;
    }
    if (!st) st = put(ctx, e->body.data, e->body.len);
    return st ? st : put(ctx, e->tail.data, e->tail.len);
}

static void enc_init(enc_state *e, const rdbkit_allocator *mem, const rdbkit_target *target, int compress,
                     const rdbkit_spill *spill) {
    e->mem = *mem;
    e->target = target;
    e->compress = compress;
    e->narrow = target->lineage == FMT_V;
    e->spill = spill;
}

static void enc_free(enc_state *e) {
    mem_buf *all[] = {&e->text,       &e->items, &e->blob,       &e->lzf,     &e->master,    &e->entries, &e->names,
                      &e->names_text, &e->head,  &e->body,       &e->tail,    &e->pending,   &e->consumers, &e->group_name};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) mem_buf_free(&e->mem, all[i]);
}

/* ---- as a visitor ---- */

/* The encoder with what it may lose. A sink that has one as its first member can take these callbacks as its own. */
typedef struct enc_sink {
    loss_sink l;
    enc_state enc;
} enc_sink;

static int enc_on_string(void *user, rdbkit_str value) {
    enc_sink *w = user;
    return enc_str(&w->enc, &w->enc.head, value.data, value.len);
}

static int enc_on_list_item(void *user, rdbkit_str item) {
    enc_sink *w = user;
    return enc_list_item(&w->enc, item);
}

static int enc_on_set_member(void *user, rdbkit_str member) {
    enc_sink *w = user;
    return enc_set_member(&w->enc, member);
}

static int enc_on_zset_member(void *user, rdbkit_str member, double score) {
    enc_sink *w = user;
    return score != score ? loss_lose(&w->l, RDBKIT_LOSS_NAN_SCORE) : enc_zset_member(&w->enc, member, score);
}

static int enc_on_hash_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    enc_sink *w = user;
    if (expire_ms != RDBKIT_NO_EXPIRY && !loss_has(&w->l, RDBKIT_F_FIELD_EXPIRY)) {
        int st = loss_lose(&w->l, RDBKIT_LOSS_FIELD_EXPIRY);
        if (st) return st;
        expire_ms = RDBKIT_NO_EXPIRY;
    }
    if (expire_ms > RD_FIELD_EXPIRY_MAX && w->l.target.lineage == FMT_R) {
        int st = loss_lose(&w->l, RDBKIT_LOSS_FIELD_EXPIRY);
        if (st) return st;
        expire_ms = RDBKIT_NO_EXPIRY;
    }
    return enc_hash_field(&w->enc, field, value, expire_ms);
}

static int enc_on_stream_entry(void *user, rdbkit_stream_id id, uint64_t fields) {
    enc_sink *w = user;
    (void)fields;
    return enc_stream_entry(&w->enc, id);
}

static int enc_on_stream_field(void *user, rdbkit_str field, rdbkit_str value) {
    enc_sink *w = user;
    return enc_keep(&w->enc, field, value, 0, 0);
}

static int enc_on_stream_info(void *user, const rdbkit_stream_info *info) {
    enc_sink *w = user;
    w->enc.info = *info;
    int st = loss_has(&w->l, RDBKIT_F_STREAM_COUNTERS) || !loss_has_counters(info) ? 0 : loss_lose(&w->l, RDBKIT_LOSS_STREAM_COUNTERS);
    return st ? st : enc_stream_info(&w->enc, info);
}

static int enc_on_stream_group(void *user, const rdbkit_stream_group *group) {
    enc_sink *w = user;
    int st = loss_has(&w->l, RDBKIT_F_STREAM_COUNTERS) || !loss_has_entries_read(&w->enc.info, group)
                 ? 0
                 : loss_lose(&w->l, RDBKIT_LOSS_STREAM_COUNTERS);
    return st ? st : enc_stream_group(&w->enc, group);
}

static int enc_on_stream_consumer(void *user, const rdbkit_stream_consumer *c) {
    enc_sink *w = user;
    int keeps = w->l.target.max_type >= fmt_types[FMT_STREAM_3].number;
    int st = keeps || c->active_ms == c->seen_ms ? 0 : loss_lose(&w->l, RDBKIT_LOSS_ACTIVE_TIME);
    return st ? st : enc_stream_consumer(&w->enc, c);
}

static int enc_on_stream_pending(void *user, const rdbkit_stream_pending *p) {
    enc_sink *w = user;
    return enc_stream_pending(&w->enc, p);
}

/* Take the events of elements. */
static void enc_visit(rdbkit_visitor *v) {
    v->string = enc_on_string, v->list_item = enc_on_list_item, v->set_member = enc_on_set_member;
    v->zset_member = enc_on_zset_member, v->hash_field = enc_on_hash_field;
    v->stream_entry = enc_on_stream_entry, v->stream_field = enc_on_stream_field;
    v->stream_info = enc_on_stream_info, v->stream_group = enc_on_stream_group;
    v->stream_consumer = enc_on_stream_consumer, v->stream_pending = enc_on_stream_pending;
}

/* ==== [22] wr_ : RDB writer ====
 *
 * Events in, an RDB file for one target out. A value that the target loads in the form it has goes through as bytes
 * (the reader has checked them); any other is decoded and encoded anew by enc_. A database is announced when its
 * first key comes, so that none is announced in vain. docs/format.md. Tests: tests/test_writer.c,
 * tests/convert_test.py, fuzz/fuzz_writer.c */

struct rdbkit_writer {
    enc_sink v; /* first: the callbacks for elements take a writer for it */
    out_buf out;
    rdbkit_writer_options opt;
    rdbkit_spill spill;
    int begun;
    u64 db, resize_keys, resize_expires; /* db: announced, or RDBKIT_NO_DB */
    int have_resize;

    /* the key at hand */
    const rdbkit_type *type;
    mem_buf name, raw_name;
    rdbkit_key key;
    int raw;  /* its value goes through as it is */
    int same; /* the output is for whoever wrote the input */
    rdbkit_visitor visitor;
};

/* ---- the file ---- */

static int wr_put(void *ctx, const void *data, size_t len) {
    return out_put(&((rdbkit_writer *)ctx)->out, data, len);
}

static int wr_byte(rdbkit_writer *w, int b) {
    u8 x = (u8)b;
    return out_put(&w->out, &x, 1);
}

/* What was encoded into the scratch buffer. */
static int wr_put_buf(rdbkit_writer *w, mem_buf *b, int st) {
    if (!st) st = out_put(&w->out, b->data, b->len);
    b->len = 0;
    return st;
}

static int wr_len(rdbkit_writer *w, u64 v) {
    mem_buf *b = &w->v.enc.lzf;
    b->len = 0;
    return wr_put_buf(w, b, enc_len(&w->v.enc, b, v));
}

static int wr_str(rdbkit_writer *w, rdbkit_str s) {
    mem_buf *b = &w->v.enc.tail; /* free between values */
    b->len = 0;
    return wr_put_buf(w, b, enc_str(&w->v.enc, b, s.data, s.len));
}

static int wr_aux(rdbkit_writer *w, rdbkit_str name, rdbkit_str value) {
    int st = wr_byte(w, FMT_OP_AUX);
    if (!st) st = wr_str(w, name);
    return st ? st : wr_str(w, value);
}

/* The magic, and the version of the server that the file is for. */
static int wr_begin(rdbkit_writer *w) {
    char magic[10], version[32];
    int valkey = w->v.l.target.lineage == FMT_V;
    w->begun = 1;
    snprintf(magic, sizeof magic, valkey ? "VALKEY%03d" : "REDIS%04d", w->v.l.target.rdb_version);
    int st = out_put(&w->out, magic, 9);
    const char *dash = strchr(w->v.l.target.name, '-');
    if (st || !w->opt.target || !dash || w->v.l.target.rdb_version < 7) return st;
    int is_valkey = w->v.l.target.name[0] == 'v';
    snprintf(version, sizeof version, strchr(dash, '.') ? "%s.0" : "%s.0.0", dash + 1);
    rdbkit_str name = {is_valkey ? "valkey-ver" : "redis-ver", is_valkey ? 10 : 9};
    rdbkit_str value = {version, strlen(version)};
    return wr_aux(w, name, value);
}

static int wr_ready(rdbkit_writer *w) {
    if (PORT_LIKELY(w->begun)) return 0;
    return w->opt.target ? wr_begin(w) : RDBKIT_ERR_USAGE; /* as the input, which has not come */
}

/* Without a target the output is for whoever wrote the input: same magic and version, and any type that is in it. What
 * is encoded anew is so as the oldest target of at least that version would. */
static int wr_header(void *user, const rdbkit_header *header) {
    rdbkit_writer *w = user;
    if (w->opt.target || w->begun) return 0;
    rdbkit_target *t = &w->v.l.target;
    for (size_t i = FMT_TARGET_N; i-- > 0;)
        if (fmt_targets[i].lineage == header->lineage && fmt_targets[i].rdb_version >= header->rdb_version) *t = fmt_targets[i];
    t->name = "as the input";
    t->features = ~0u;
    if (!w->opt.reencode) t->rdb_version = header->rdb_version;
    w->same = 1;
    w->v.enc.narrow = header->lineage == RDBKIT_VALKEY;
    return wr_begin(w);
}

/* AUX fields that mean something in another file too; the rest is of the server's own affairs, and some can do harm:
 * repl-id makes a server resync from the wrong point. */
static int wr_keeps_aux(const rdbkit_writer *w, rdbkit_str name) {
    static const char *const drop[] = {"repl-stream-db", "repl-id",   "repl-offset",        "aof-preamble",
                                       "aof-base",       "slot-info", "cluster-slot-states", "cluster-asm-task"};
    static const char *const version[] = {"redis-ver", "valkey-ver"};
    for (size_t i = 0; i < sizeof drop / sizeof drop[0]; i++)
        if (strlen(drop[i]) == name.len && !memcmp(drop[i], name.data, name.len)) return 0;
    for (size_t i = 0; i < 2 && w->opt.target; i++)
        if (strlen(version[i]) == name.len && !memcmp(version[i], name.data, name.len)) return 0;
    if (name.len == 3 && !memcmp(name.data, "lua", 3)) return loss_has(&w->v.l, RDBKIT_F_AUX_LUA);
    return w->v.l.target.rdb_version >= 7;
}

static int wr_on_aux(void *user, rdbkit_str name, rdbkit_str value) {
    rdbkit_writer *w = user;
    int st = wr_ready(w);
    return st || !wr_keeps_aux(w, name) ? st : wr_aux(w, name, value);
}

static int wr_function(void *user, rdbkit_str code, int opcode) {
    rdbkit_writer *w = user;
    int st = wr_ready(w);
    (void)opcode;
    if (st) return st;
    if (w->opt.drop_functions) return loss_lose_other(&w->v.l, RDBKIT_NOTE_DROPPED_FUNCTION, loss_library_name(code));
    if (!loss_has(&w->v.l, RDBKIT_F_FUNCTIONS)) return loss_lose_other(&w->v.l, RDBKIT_LOSS_FUNCTION, loss_library_name(code));
    st = wr_byte(w, FMT_OP_FUNCTION2);
    return st ? st : wr_str(w, code);
}

static int wr_module_aux(void *user, const rdbkit_module_aux *aux) {
    rdbkit_writer *w = user;
    rdbkit_str name = {aux->module, strlen(aux->module)};
    int st = wr_ready(w);
    if (st) return st;
    if (w->opt.drop_modules) return loss_lose_other(&w->v.l, RDBKIT_NOTE_DROPPED_MODULE, name), RDBKIT_SKIP_KEY;
    if (!loss_has(&w->v.l, RDBKIT_F_MODULE_AUX)) return loss_lose_other(&w->v.l, RDBKIT_NOTE_MODULE_AUX, name);
    st = wr_byte(w, FMT_OP_MODULE_AUX);
    if (!st) st = wr_len(w, aux->id);
    if (!st) st = wr_len(w, 2);
    if (!st) st = wr_len(w, (u64)aux->when);
    return st ? st : RDBKIT_TAKE_RAW;
}

static int wr_db(void *user, uint64_t db) {
    rdbkit_writer *w = user;
    (void)db;
    w->have_resize = 0;
    return 0;
}

static int wr_resize(void *user, uint64_t keys, uint64_t expires) {
    rdbkit_writer *w = user;
    w->resize_keys = keys, w->resize_expires = expires;
    w->have_resize = w->opt.same_keys;
    return 0;
}

static int wr_slot_import(void *user, rdbkit_str job, uint64_t ranges) {
    (void)ranges;
    return loss_lose_other(&((rdbkit_writer *)user)->v.l, RDBKIT_NOTE_SLOT_IMPORT, job);
}

/* ---- keys ---- */

static int wr_select(rdbkit_writer *w, u64 db) {
    int st = wr_byte(w, FMT_OP_SELECTDB);
    w->db = db;
    if (!st) st = wr_len(w, db);
    if (st || !w->have_resize || w->v.l.target.rdb_version < 7) return st;
    w->have_resize = 0;
    st = wr_byte(w, FMT_OP_RESIZEDB);
    if (!st) st = wr_len(w, w->resize_keys);
    return st ? st : wr_len(w, w->resize_expires);
}

/* What stands before the value: hints, expiry (4.0 wants it right before the type), type, name. */
static int wr_key_head(rdbkit_writer *w, const rdbkit_key *key, const rdbkit_type *type) {
    u8 x[9];
    int st = w->db == key->db ? 0 : wr_select(w, key->db);
    if (!st && loss_has(&w->v.l, RDBKIT_F_IDLE_FREQ) && key->idle_s >= 0) {
        st = wr_byte(w, FMT_OP_IDLE);
        if (!st) st = wr_len(w, (u64)key->idle_s);
    } else if (!st && loss_has(&w->v.l, RDBKIT_F_IDLE_FREQ) && key->lfu_freq >= 0) {
        x[0] = FMT_OP_FREQ, x[1] = (u8)key->lfu_freq;
        st = out_put(&w->out, x, 2);
    }
    if (!st && key->expire_ms != RDBKIT_NO_EXPIRY) {
        x[0] = FMT_OP_EXPIRETIME_MS;
        port_put_le64(x + 1, (u64)key->expire_ms);
        st = out_put(&w->out, x, 9);
    }
    if (!st) st = wr_byte(w, type->number);
    if (st) return st;
    return key->raw_name.len ? out_put(&w->out, key->raw_name.data, key->raw_name.len) : wr_str(w, key->name);
}

/* Keep the key until its value is encoded. */
static int wr_keep_key(rdbkit_writer *w, const rdbkit_key *key) {
    w->key = *key;
    w->name.len = w->raw_name.len = 0;
    int st = mem_buf_add(&w->v.enc.mem, &w->name, key->name.data, key->name.len);
    if (!st && key->raw_name.len) st = mem_buf_add(&w->v.enc.mem, &w->raw_name, key->raw_name.data, key->raw_name.len);
    else if (!st) st = enc_str(&w->v.enc, &w->raw_name, key->name.data, key->name.len); /* now: later a value is there */
    if (st) return st;
    w->key.name.data = (const char *)w->name.data;
    w->key.raw_name = (rdbkit_str){(const char *)w->raw_name.data, w->raw_name.len};
    w->v.l.name = w->key.name;
    return 0;
}

static int wr_take_key(rdbkit_writer *w, const rdbkit_key *key) {
    int st = wr_ready(w);
    w->type = NULL;
    w->raw = 0;
    loss_next(&w->v.l, key->db, key->name);
    if (!w->same) loss_db(&w->v.l);
    if (st) return st;
    if (key->type->shape == RDBKIT_MODULE) {
        if (w->opt.drop_modules) return loss_lose(&w->v.l, RDBKIT_NOTE_DROPPED_MODULE), RDBKIT_SKIP_KEY;
        if (w->opt.target) loss_lose(&w->v.l, RDBKIT_NOTE_MODULE_VALUE);
    }
    if (key->type->shape == RDBKIT_STREAM && !loss_has(&w->v.l, RDBKIT_F_STREAMS))
        return (st = loss_lose(&w->v.l, RDBKIT_LOSS_STREAM)) ? st : RDBKIT_SKIP_KEY;
    w->type = key->type;
    /* who makes a file from nothing has no bytes to give: a key that was read does not begin at 0 */
    int loads = key->offset && !w->opt.reencode && (w->same || rdbkit_target_loads(&w->v.l.target, key->type));
    w->raw = key->type->shape == RDBKIT_MODULE || loads;
    if (w->raw) return (st = wr_key_head(w, key, key->type)) ? st : enc_raw_answer(&w->v.enc);
    enc_begin(&w->v.enc, key->type);
    return wr_keep_key(w, key);
}

static int wr_on_key(void *user, const rdbkit_key *key) {
    rdbkit_writer *w = user;
    int st = wr_take_key(w, key);
    if (!w->type || w->raw) loss_tell(&w->v.l); /* nothing more will be lost of it, and its name goes */
    return st;
}

static int wr_key_end(void *user) {
    rdbkit_writer *w = user;
    if (!w->type || w->raw) return 0;
    loss_tell(&w->v.l);
    int st = enc_end(&w->v.enc);
    if (st || !w->v.enc.type) return st;
    st = wr_key_head(w, &w->key, w->v.enc.type);
    return st ? st : enc_write(&w->v.enc, wr_put, w);
}

static int wr_end(void *user, int checksum) {
    rdbkit_writer *w = user;
    u8 crc[8];
    int st = wr_ready(w);
    (void)checksum;
    if (!st) st = wr_byte(w, FMT_OP_EOF);
    if (!st) st = out_flush(&w->out);
    if (st || w->v.l.target.rdb_version < 5) return st;
    port_put_le64(crc, w->out.crc);
    st = out_put(&w->out, crc, 8);
    return st ? st : out_flush(&w->out);
}

/* ---- elements, for values that are encoded ---- */

static int wr_raw(void *user, const void *data, size_t len) {
    return wr_put(user, data, len);
}

static void wr_free(rdbkit_writer *w) {
    if (!w) return;
    rdbkit_allocator mem = w->v.enc.mem;
    out_free(&w->out);
    enc_free(&w->v.enc);
    mem_buf_free(&mem, &w->name);
    mem_buf_free(&mem, &w->raw_name);
    mem.free(mem.ctx, w, sizeof *w);
}

static rdbkit_writer *wr_new(const rdbkit_writer_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_allocator mem = mem_or_std(options->allocator);
    rdbkit_writer *w = mem_new(&mem, sizeof *w);
    if (!w) return NULL;
    w->opt = *options;
    loss_init(&w->v.l, options->target, options->allow_loss);
    loss_listen(&w->v.l, options->on_loss, options->on_loss_ctx);
    if (options->spill) w->spill = *options->spill;
    enc_init(&w->v.enc, &mem, &w->v.l.target, !options->no_compress, options->spill ? &w->spill : NULL);
    w->db = RDBKIT_NO_DB;
    rdbkit_visitor v = {0};
    v.user = w;
    v.header = wr_header, v.aux = wr_on_aux, v.function = wr_function, v.module_aux = wr_module_aux;
    v.db = wr_db, v.resize = wr_resize, v.slot_import = wr_slot_import;
    v.key = wr_on_key, v.raw = wr_raw, v.key_end = wr_key_end, v.end = wr_end;
    enc_visit(&v);
    w->visitor = v;
    if (out_init(&w->out, &mem, write_fn, ctx) == 0) {
        w->out.count = 1;
        return w;
    }
    wr_free(w);
    return NULL;
}

/* ==== [23] resp_ : commands out ====
 *
 * Events become commands of the Redis protocol in one large buffer, which goes out when it is full, at the end
 * of a command. Elements are sent up to `batch` in a command; the number of arguments stands before them, so a
 * command is begun with room for the number that a full batch has, and moved down a byte or two if it turns out
 * to need fewer digits. Large elements get a command of their own.
 *
 * What is sent, by type: docs/resp.md. Tests: tests/server_test.py, tests/cli_test.py, fuzz/fuzz_resp.c */

#define RESP_FLUSH ((size_t)128 * 1024) /* a command is begun below this */
#define RESP_BATCH ((size_t)96 * 1024)  /* bytes in a batch, so that one always ends inside the buffer */
#define RESP_BIG ((size_t)24 * 1024)    /* a key over this, or an element over twice this, makes no batches */
#define RESP_HEAD 16                    /* '*' or '$', digits of a count, CR LF */
#define RESP_IDS_MAX ((size_t)256 * 1024)
#define RESP_PAYLOAD_MAX ((u64)512 * 1024 * 1024) /* proto-max-bulk-len */
#define RESP_FIELD_EXPIRY_46 ((i64)1 << 46)

/* The commands that take elements in batches: text of the name as a bulk string, and arguments an element. */
typedef struct resp_verb {
    const char *bulk;
    unsigned args;
} resp_verb;

static const resp_verb resp_rpush = {"$5\r\nRPUSH\r\n", 1}, resp_sadd = {"$4\r\nSADD\r\n", 1},
                       resp_zadd = {"$4\r\nZADD\r\n", 2}, resp_hset = {"$4\r\nHSET\r\n", 2};

struct rdbkit_resp {
    enc_sink v; /* first: the callbacks for elements of --restore take a sink for it */
    out_buf out;
    u64 cmd_off; /* where the command begins that may not be complete, from the start of the output */
    /* the batch at hand */
    const resp_verb *verb; /* NULL: none is open */
    size_t batch_n;
    size_t head_len; /* of the number of arguments, as reserved */
    int alone;       /* the command has one element, and its number of arguments is right */

    /* the key at hand */
    mem_buf key; /* its name as a bulk string */
    const rdbkit_type *type;
    i64 expire_ms, idle_s;
    int lfu_freq, pxat;
    mem_buf raw; /* the value as it stands, for RESTORE */
    int raw_on;    /* it goes out so */
    int restoring; /* it is encoded for RESTORE */
    u64 crc;
    rdbkit_spill spill;

    /* field expiry: HPEXPIREAT commands that follow the batch, and the fields of the next one */
    mem_buf after, fields;
    i64 fields_ms;
    unsigned fields_n;

    /* the stream at hand */
    rdbkit_stream_info info;
    mem_buf ids; /* rdbkit_stream_id of its entries, as far as RESP_IDS_MAX */
    u64 entries;
    mem_buf group, consumer; /* names as bulk strings */
    mem_buf claim;           /* IDs as bulk strings, claim_n of them */
    unsigned claim_n;
    rdbkit_stream_pending claim_as;

    u64 db; /* selected, or RDBKIT_NO_DB */
    rdbkit_resp_options opt;
    rdbkit_allocator mem;
    rdbkit_visitor commands; /* elements become commands */
    rdbkit_visitor visitor;  /* the same, or with elements that are encoded for RESTORE */
};

/* ---- the buffer ---- */

/* Bytes of a command. If the buffer has to be emptied in the midst of one, that one is on its way. */
PORT_INLINE int resp_put(rdbkit_resp *s, const void *data, size_t len) {
    return out_put(&s->out, data, len);
}

/* All that was put so far is complete. */
PORT_INLINE void resp_complete(rdbkit_resp *s) {
    s->cmd_off = s->out.sent + s->out.len;
}

/* A command begins. */
PORT_INLINE int resp_begin(rdbkit_resp *s) {
    int st = PORT_UNLIKELY(s->out.len >= RESP_FLUSH) ? out_flush(&s->out) : 0;
    resp_complete(s);
    return st;
}

/* Where the command at hand begins in the buffer, if all of it is there. */
PORT_INLINE size_t resp_cmd_at(const rdbkit_resp *s) {
    return s->cmd_off > s->out.sent ? (size_t)(s->cmd_off - s->out.sent) : 0;
}

/* mark, n, CR LF. */
PORT_INLINE u8 *resp_head(u8 *o, char mark, u64 n) {
    *o++ = (u8)mark;
    o = num_u64(o, n);
    memcpy(o, "\r\n", 2);
    return o + 2;
}

PORT_INLINE u8 *resp_bulk(u8 *o, const void *data, size_t len) {
    o = resp_head(o, '$', len);
    port_copy(o, data, len);
    o += len;
    memcpy(o, "\r\n", 2);
    return o + 2;
}

static PORT_NOINLINE int resp_arg_slow(rdbkit_resp *s, const void *data, size_t len) {
    u8 head[RESP_HEAD + NUM_INT_MAX];
    int st = resp_put(s, head, (size_t)(resp_head(head, '$', len) - head));
    if (!st) st = resp_put(s, data, len);
    return st ? st : resp_put(s, "\r\n", 2);
}

/* An argument. */
PORT_INLINE int resp_arg(rdbkit_resp *s, const void *data, size_t len) {
    out_buf *o = &s->out;
    size_t room = OUT_LEN - o->len;
    if (PORT_UNLIKELY(room < 2 * RESP_HEAD || len > room - 2 * RESP_HEAD)) return resp_arg_slow(s, data, len);
    o->len = (size_t)(resp_bulk(o->data + o->len, data, len) - o->data);
    return 0;
}

static int resp_arg_text(rdbkit_resp *s, const char *text) {
    return resp_arg(s, text, strlen(text));
}

static int resp_arg_i64(rdbkit_resp *s, i64 v) {
    u8 text[NUM_INT_MAX];
    return resp_arg(s, text, (size_t)(num_i64(text, v) - text));
}

/* "ms-seq"; text has room for 2 * NUM_INT_MAX + 1 bytes. */
static size_t resp_id_text(u8 *text, rdbkit_stream_id id) {
    u8 *o = num_u64(text, id.ms);
    *o++ = '-';
    return (size_t)(num_u64(o, id.seq) - text);
}

static int resp_arg_id(rdbkit_resp *s, rdbkit_stream_id id) {
    u8 text[2 * NUM_INT_MAX + 1];
    return resp_arg(s, text, resp_id_text(text, id));
}

static int resp_key(rdbkit_resp *s) {
    return resp_put(s, s->key.data, s->key.len);
}

/* A command of n arguments begins, and its name; words: bulk strings as they are. */
static int resp_command(rdbkit_resp *s, u64 n, const char *words) {
    u8 head[RESP_HEAD + NUM_INT_MAX];
    int st = resp_begin(s);
    if (!st) st = resp_put(s, head, (size_t)(resp_head(head, '*', n) - head));
    return st ? st : resp_put(s, words, strlen(words));
}

/* A command of a name, the key, and one number. */
static int resp_key_number(rdbkit_resp *s, const char *name, i64 v) {
    int st = resp_command(s, 3, name);
    if (!st) st = resp_key(s);
    return st ? st : resp_arg_i64(s, v);
}

/* Keep a bulk string for later. */
static int resp_keep(rdbkit_resp *s, mem_buf *b, const void *data, size_t len) {
    if (len > SIZE_MAX / 2 || mem_buf_room(&s->mem, b, len + RESP_HEAD + NUM_INT_MAX)) return RDBKIT_ERR_NOMEM;
    b->len = (size_t)(resp_bulk(b->data + b->len, data, len) - b->data);
    return 0;
}

/* ---- batches ---- */

/* Begin a command that takes elements. */
static int resp_open(rdbkit_resp *s, const resp_verb *verb, int alone) {
    u8 head[RESP_HEAD + NUM_INT_MAX];
    int st = resp_begin(s);
    s->head_len = (size_t)(resp_head(head, '*', 2 + (u64)verb->args * (alone ? 1 : s->opt.batch)) - head);
    if (!st) st = resp_put(s, head, s->head_len);
    if (!st) st = resp_put(s, verb->bulk, strlen(verb->bulk));
    if (!st) st = resp_key(s);
    s->verb = verb;
    s->alone = alone;
    s->batch_n = 0;
    return st;
}

/* The fields that expire together, as a command that follows the batch. */
static int resp_keep_expiry(rdbkit_resp *s) {
    u8 head[RESP_HEAD + NUM_INT_MAX], text[NUM_INT_MAX];
    mem_buf *b = &s->after;
    if (!s->fields_n) return 0;
    size_t n = (size_t)(resp_head(head, '*', 5 + (u64)s->fields_n) - head);
    static const char name[] = "$10\r\nHPEXPIREAT\r\n", fields[] = "$6\r\nFIELDS\r\n";
    if (mem_buf_add(&s->mem, b, head, n) || mem_buf_add(&s->mem, b, name, sizeof name - 1) ||
        mem_buf_add(&s->mem, b, s->key.data, s->key.len) ||
        resp_keep(s, b, text, (size_t)(num_i64(text, s->fields_ms) - text)) ||
        mem_buf_add(&s->mem, b, fields, sizeof fields - 1) ||
        resp_keep(s, b, text, (size_t)(num_u64(text, s->fields_n) - text)) ||
        mem_buf_add(&s->mem, b, s->fields.data, s->fields.len))
        return RDBKIT_ERR_NOMEM;
    s->fields.len = 0;
    s->fields_n = 0;
    return 0;
}

/* End the command at hand: its number of arguments becomes the real one. Then what was kept to follow it. */
static int resp_close(rdbkit_resp *s) {
    if (!s->verb) return 0;
    u8 head[RESP_HEAD + NUM_INT_MAX];
    size_t n = (size_t)(resp_head(head, '*', 2 + (u64)s->verb->args * s->batch_n) - head);
    out_buf *o = &s->out;
    size_t begin = resp_cmd_at(s);
    u8 *at = o->data + begin;
    s->verb = NULL;
    if (!s->alone) {
        if (n < s->head_len) {
            memmove(at + n, at + s->head_len, o->len - begin - s->head_len);
            o->len -= s->head_len - n;
        }
        memcpy(at, head, n);
    }
    resp_complete(s);
    if (!s->fields_n && !s->after.len) return 0;
    int st = resp_keep_expiry(s);
    if (!st) st = resp_begin(s);
    if (!st) st = resp_put(s, s->after.data, s->after.len);
    s->after.len = 0;
    resp_complete(s);
    return st;
}

/* Make sure that a command of this kind is open and takes an element of len bytes. */
PORT_INLINE int resp_element(rdbkit_resp *s, const resp_verb *verb, size_t len) {
    if (PORT_LIKELY(s->verb && s->batch_n < s->opt.batch && !s->alone && len < RESP_BATCH - (s->out.len - resp_cmd_at(s)))) {
        s->batch_n++;
        return 0;
    }
    int st = resp_close(s);
    if (!st) st = resp_open(s, verb, len > 2 * RESP_BIG || s->key.len > RESP_BIG);
    s->batch_n = 1;
    return st;
}

static int resp_list_item(void *user, rdbkit_str item) {
    rdbkit_resp *s = user;
    int st = resp_element(s, &resp_rpush, item.len + 2 * RESP_HEAD);
    return st ? st : resp_arg(s, item.data, item.len);
}

static int resp_set_member(void *user, rdbkit_str member) {
    rdbkit_resp *s = user;
    int st = resp_element(s, &resp_sadd, member.len + 2 * RESP_HEAD);
    return st ? st : resp_arg(s, member.data, member.len);
}

static int resp_zset_member(void *user, rdbkit_str member, double score) {
    rdbkit_resp *s = user;
    u8 text[NUM_DOUBLE_MAX];
    if (score != score) return loss_lose(&s->v.l, RDBKIT_LOSS_NAN_SCORE);
    int st = resp_element(s, &resp_zadd, member.len + NUM_DOUBLE_MAX + 4 * RESP_HEAD);
    if (!st) st = resp_arg(s, text, (size_t)(num_double(text, score) - text));
    return st ? st : resp_arg(s, member.data, member.len);
}

/* Remember a field's expiry, after the field itself was put into the batch. */
static int resp_field_expiry(rdbkit_resp *s, rdbkit_str field, i64 ms) {
    if (!loss_has(&s->v.l, RDBKIT_F_FIELD_EXPIRY)) return loss_lose(&s->v.l, RDBKIT_LOSS_FIELD_EXPIRY);
    if (loss_has(&s->v.l, RDBKIT_F_FIELD_EXPIRY_46) && ms >= RESP_FIELD_EXPIRY_46)
        return loss_lose(&s->v.l, RDBKIT_LOSS_FIELD_EXPIRY);
    if ((s->fields_n && s->fields_ms != ms) || s->fields_n == s->opt.batch) {
        int st = resp_keep_expiry(s);
        if (st) return st;
    }
    s->fields_ms = ms;
    s->fields_n++;
    return resp_keep(s, &s->fields, field.data, field.len);
}

static int resp_hash_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    rdbkit_resp *s = user;
    int st = resp_element(s, &resp_hset, field.len + value.len + 4 * RESP_HEAD);
    if (!st) st = resp_arg(s, field.data, field.len);
    if (!st) st = resp_arg(s, value.data, value.len);
    return st || expire_ms == RDBKIT_NO_EXPIRY ? st : resp_field_expiry(s, field, expire_ms);
}

/* ---- keys ---- */

static int resp_select(rdbkit_resp *s, u64 db) {
    s->db = db;
    if (s->opt.single_db) return 0;
    int st = resp_command(s, 2, "$6\r\nSELECT\r\n");
    return st ? st : resp_arg_i64(s, (i64)db);
}

/* What a dry run need not look into, and what a target has no room for. Returns an answer for the reader. */
static int resp_key_loss(rdbkit_resp *s, const rdbkit_key *key) {
    int look = 0;
    if (!s->opt.single_db) loss_db(&s->v.l);
    switch (key->type->shape) {
    case RDBKIT_MODULE:
        loss_lose(&s->v.l, s->opt.drop_modules ? RDBKIT_NOTE_DROPPED_MODULE : RDBKIT_NOTE_MODULE_VALUE);
        if (s->opt.drop_modules) return RDBKIT_SKIP_KEY;
        break;
    case RDBKIT_STREAM:
        if (!loss_has(&s->v.l, RDBKIT_F_STREAMS)) {
            int st = loss_lose(&s->v.l, RDBKIT_LOSS_STREAM);
            return st ? st : RDBKIT_SKIP_KEY;
        }
        look = !loss_has(&s->v.l, RDBKIT_F_STREAM_COUNTERS) && key->type->rdb_version >= 10;
        break;
    case RDBKIT_HASH:
        look = key->type->number >= 22 &&
               (!loss_has(&s->v.l, RDBKIT_F_FIELD_EXPIRY) || loss_has(&s->v.l, RDBKIT_F_FIELD_EXPIRY_46));
        break;
    case RDBKIT_STRING:
    case RDBKIT_LIST:
    case RDBKIT_SET:
    case RDBKIT_ZSET:
    case RDBKIT_SHAPE_N: break;
    }
    if (s->opt.restore) look = !rdbkit_target_loads(&s->v.l.target, key->type);
    return s->opt.dry_run && !look ? RDBKIT_SKIP_KEY : RDBKIT_OK;
}

static int resp_on_key(void *user, const rdbkit_key *key) {
    rdbkit_resp *s = user;
    int st, answer;
    s->key.len = 0;
    loss_next(&s->v.l, key->db, key->name);
    s->type = key->type;
    s->expire_ms = key->expire_ms;
    s->idle_s = key->idle_s;
    s->lfu_freq = key->lfu_freq;
    answer = resp_key_loss(s, key);
    if (answer) loss_tell(&s->v.l);
    if (s->db != key->db && (st = resp_select(s, key->db))) return st;
    if (answer) {
        s->type = NULL; /* nothing of this key is sent */
        return answer;
    }
    if ((st = resp_keep(s, &s->key, key->name.data, key->name.len))) return st;
    /* the name as kept, for the losses that show only later */
    s->v.l.name.data = (const char *)s->key.data + (s->key.len - key->name.len - 2);
    int loads = s->opt.restore && rdbkit_target_loads(&s->v.l.target, key->type);
    s->raw_on = loads || key->type->shape == RDBKIT_MODULE;
    s->restoring = s->opt.restore && !s->raw_on;
    s->raw.len = 0;
    if (s->restoring) enc_begin(&s->v.enc, key->type);
    int replaces = key->type->shape == RDBKIT_STRING || s->raw_on || s->restoring;
    if (s->opt.del_first || (s->opt.replace && !replaces)) {
        if ((st = resp_command(s, 2, "$3\r\nDEL\r\n")) || (st = resp_key(s))) return st;
    }
    s->entries = 0;
    s->ids.len = 0;
    return s->raw_on ? enc_raw_answer(&s->v.enc) : RDBKIT_OK;
}

/* SET key value [PXAT ms]; the value may come in pieces. */
static int resp_set_begin(rdbkit_resp *s) {
    s->pxat = s->expire_ms > 0 && loss_has(&s->v.l, RDBKIT_F_SET_PXAT);
    int st = resp_command(s, s->pxat ? 5 : 3, "$3\r\nSET\r\n");
    return st ? st : resp_key(s);
}

static int resp_set_end(rdbkit_resp *s) {
    if (!s->pxat) return 0;
    int st = resp_put(s, "$4\r\nPXAT\r\n", 10);
    if (!st) st = resp_arg_i64(s, s->expire_ms);
    s->expire_ms = RDBKIT_NO_EXPIRY; /* no PEXPIREAT after it */
    return st;
}

static int resp_string(void *user, rdbkit_str value) {
    rdbkit_resp *s = user;
    int st = resp_set_begin(s);
    if (!st) st = resp_arg(s, value.data, value.len);
    return st ? st : resp_set_end(s);
}

static int resp_string_piece(void *user, rdbkit_str piece, uint64_t piece_off, uint64_t total_len) {
    rdbkit_resp *s = user;
    int st = 0;
    if (piece_off == 0) {
        u8 head[RESP_HEAD + NUM_INT_MAX];
        st = resp_set_begin(s);
        if (!st) st = resp_put(s, head, (size_t)(resp_head(head, '$', total_len) - head));
    }
    if (!st) st = resp_put(s, piece.data, piece.len);
    if (st || piece_off + piece.len < total_len) return st;
    st = resp_put(s, "\r\n", 2);
    return st ? st : resp_set_end(s);
}

/* ---- streams ---- */

static int resp_stream_entry(void *user, rdbkit_stream_id id, uint64_t fields) {
    rdbkit_resp *s = user;
    if (s->entries++ < RESP_IDS_MAX / sizeof id && mem_buf_add(&s->mem, &s->ids, &id, sizeof id))
        return RDBKIT_ERR_NOMEM;
    int st = resp_command(s, 3 + 2 * fields, "$4\r\nXADD\r\n");
    if (!st) st = resp_key(s);
    return st ? st : resp_arg_id(s, id);
}

static int resp_stream_field(void *user, rdbkit_str field, rdbkit_str value) {
    rdbkit_resp *s = user;
    int st = resp_arg(s, field.data, field.len);
    return st ? st : resp_arg(s, value.data, value.len);
}

/* A stream without entries has to be made with one that is trimmed at once, as the servers' own rewrite does. */
static int resp_stream_empty(rdbkit_resp *s) {
    int st = resp_command(s, 7, "$4\r\nXADD\r\n");
    if (!st) st = resp_key(s);
    static const char rest[] = "$6\r\nMAXLEN\r\n$1\r\n0\r\n$3\r\n0-1\r\n$1\r\nx\r\n$1\r\ny\r\n";
    return st ? st : resp_put(s, rest, sizeof rest - 1);
}

static int resp_stream_info(void *user, const rdbkit_stream_info *info) {
    rdbkit_resp *s = user;
    int counters = loss_has(&s->v.l, RDBKIT_F_STREAM_COUNTERS);
    u64 added = info->entries_added < info->length ? info->length : info->entries_added;
    s->info = *info;
    int st = s->entries ? 0 : resp_stream_empty(s);
    if (!st) st = resp_command(s, counters ? 7 : 3, "$6\r\nXSETID\r\n");
    if (!st) st = resp_key(s);
    if (!st) st = resp_arg_id(s, info->last_id);
    if (counters) {
        if (!st) st = resp_arg_text(s, "ENTRIESADDED");
        if (!st) st = resp_arg_i64(s, (i64)added);
        if (!st) st = resp_arg_text(s, "MAXDELETEDID");
        return st ? st : resp_arg_id(s, info->max_deleted);
    }
    return st || !loss_has_counters(info) ? st : loss_lose(&s->v.l, RDBKIT_LOSS_STREAM_COUNTERS);
}

/* Claims that differ in their ID alone, as one command: XCLAIM key group consumer 0 id... TIME ms RETRYCOUNT n
 * FORCE JUSTID. */
static int resp_claim(rdbkit_resp *s) {
    if (!s->claim_n) return 0;
    int st = resp_command(s, 11 + (u64)s->claim_n, "$6\r\nXCLAIM\r\n");
    if (!st) st = resp_key(s);
    if (!st) st = resp_put(s, s->group.data, s->group.len);
    if (!st) st = resp_put(s, s->consumer.data, s->consumer.len);
    if (!st) st = resp_put(s, "$1\r\n0\r\n", 7);
    if (!st) st = resp_put(s, s->claim.data, s->claim.len);
    if (!st) st = resp_arg_text(s, "TIME");
    if (!st) st = resp_arg_i64(s, s->claim_as.delivery_ms);
    if (!st) st = resp_arg_text(s, "RETRYCOUNT");
    if (!st) st = resp_arg_i64(s, (i64)s->claim_as.delivery_count);
    if (!st) st = resp_put(s, "$5\r\nFORCE\r\n$6\r\nJUSTID\r\n", 23);
    s->claim.len = 0;
    s->claim_n = 0;
    return st;
}

static int resp_stream_group(void *user, const rdbkit_stream_group *group) {
    rdbkit_resp *s = user;
    int counters = loss_has(&s->v.l, RDBKIT_F_STREAM_COUNTERS);
    int st = resp_claim(s); /* of the group before */
    s->group.len = 0;
    if (!st) st = resp_keep(s, &s->group, group->name.data, group->name.len);
    if (!st) st = resp_command(s, counters ? 7 : 5, "$6\r\nXGROUP\r\n$6\r\nCREATE\r\n");
    if (!st) st = resp_key(s);
    if (!st) st = resp_put(s, s->group.data, s->group.len);
    if (!st) st = resp_arg_id(s, group->last_id);
    if (counters) {
        if (!st) st = resp_arg_text(s, "ENTRIESREAD");
        return st ? st : resp_arg_i64(s, group->entries_read < 0 ? RDBKIT_ENTRIES_READ_UNKNOWN : group->entries_read);
    }
    return st || !loss_has_entries_read(&s->info, group) ? st : loss_lose(&s->v.l, RDBKIT_LOSS_STREAM_COUNTERS);
}

/* A consumer exists even if it owns nothing. Before 6.2 no command makes one, but a consumer that asks for its own
 * history, which is empty, is made as well. */
static int resp_stream_consumer(void *user, const rdbkit_stream_consumer *consumer) {
    static const char history[] = "$5\r\nCOUNT\r\n$1\r\n1\r\n$7\r\nSTREAMS\r\n";
    rdbkit_resp *s = user;
    int create = loss_has(&s->v.l, RDBKIT_F_CREATECONSUMER);
    int st = resp_claim(s);
    s->consumer.len = 0;
    if (!st) st = resp_keep(s, &s->consumer, consumer->name.data, consumer->name.len);
    if (create) {
        if (!st) st = resp_command(s, 5, "$6\r\nXGROUP\r\n$14\r\nCREATECONSUMER\r\n");
        if (!st) st = resp_key(s);
    } else if (!st) {
        st = resp_command(s, 9, "$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n");
    }
    if (!st) st = resp_put(s, s->group.data, s->group.len);
    if (!st) st = resp_put(s, s->consumer.data, s->consumer.len);
    if (create || st) return st;
    st = resp_put(s, history, sizeof history - 1);
    if (!st) st = resp_key(s);
    return st ? st : resp_put(s, "$1\r\n0\r\n", 7);
}

/* Whether the stream has no entry of that ID; known for its first RESP_IDS_MAX / 16 entries. */
static int resp_gone(const rdbkit_resp *s, rdbkit_stream_id id) {
    size_t lo = 0, n = s->ids.len / sizeof id, hi = n;
    rdbkit_stream_id at;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        memcpy(&at, s->ids.data + mid * sizeof at, sizeof at);
        int c = strm_id_cmp(at, id);
        if (c == 0) return 0;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n || n == s->entries;
}

static int resp_stream_pending(void *user, const rdbkit_stream_pending *p) {
    rdbkit_resp *s = user;
    u8 text[2 * NUM_INT_MAX + 1];
    if (resp_gone(s, p->id)) return loss_lose(&s->v.l, RDBKIT_NOTE_PENDING_GONE);
    if (s->claim_n == s->opt.batch || (s->claim_n && (s->claim_as.delivery_ms != p->delivery_ms ||
                                                      s->claim_as.delivery_count != p->delivery_count))) {
        int st = resp_claim(s);
        if (st) return st;
    }
    s->claim_as = *p;
    s->claim_n++;
    return resp_keep(s, &s->claim, text, resp_id_text(text, p->id));
}

/* ---- whole values ---- */

static int resp_raw(void *user, const void *data, size_t len) {
    rdbkit_resp *s = user;
    return s->opt.dry_run ? 0 : mem_buf_add(&s->mem, &s->raw, data, len);
}

/* Give the value's bytes to a function: as they stood in the file, or as they were encoded. */
static int resp_value_bytes(rdbkit_resp *s, int (*put)(void *ctx, const void *data, size_t len), void *ctx) {
    return s->raw_on ? put(ctx, s->raw.data, s->raw.len) : enc_write(&s->v.enc, put, ctx);
}

static int resp_payload(void *ctx, const void *data, size_t len) {
    rdbkit_resp *s = ctx;
    s->crc = crc_update(s->crc, data, len);
    return resp_put(s, data, len);
}

/* RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s | FREQ n]. The payload is type, value, RDB version and a
 * CRC64 over all that. Where there is no ABSTTL, PEXPIREAT follows. */
static int resp_restore(rdbkit_resp *s, const rdbkit_type *type, u64 len) {
    int abs = s->expire_ms != RDBKIT_NO_EXPIRY && loss_has(&s->v.l, RDBKIT_F_RESTORE_ABSTTL);
    int hints = loss_has(&s->v.l, RDBKIT_F_RESTORE_ABSTTL), idle = hints && s->idle_s >= 0;
    int freq = hints && !idle && s->lfu_freq >= 0;
    i64 ttl = !abs ? 0 : s->expire_ms > 0 ? s->expire_ms : 1; /* 0 would be "none"; 1 has passed as well */
    u8 head[RESP_HEAD + NUM_INT_MAX], number = (u8)type->number, foot[8] = {0};
    foot[0] = (u8)s->v.l.target.rdb_version;
    u64 args = 4 + (u64)(s->opt.replace != 0) + (u64)abs + (idle || freq ? 2 : 0);
    int st = resp_command(s, args, "$7\r\nRESTORE\r\n");
    if (!st) st = resp_key(s);
    if (!st) st = resp_arg_i64(s, ttl);
    if (!st) st = resp_put(s, head, (size_t)(resp_head(head, '$', 1 + len + 10) - head));
    s->crc = 0;
    if (!st) st = resp_payload(s, &number, 1);
    if (!st) st = resp_value_bytes(s, resp_payload, s);
    if (!st) st = resp_payload(s, foot, 2);
    port_put_le64(foot, s->crc);
    if (!st) st = resp_put(s, foot, 8);
    if (!st) st = resp_put(s, "\r\n", 2);
    if (!st && s->opt.replace) st = resp_arg_text(s, "REPLACE");
    if (!st && abs) st = resp_arg_text(s, "ABSTTL");
    if (!st && (idle || freq)) st = resp_arg_text(s, idle ? "IDLETIME" : "FREQ");
    if (!st && (idle || freq)) st = resp_arg_i64(s, idle ? s->idle_s : s->lfu_freq);
    if (abs) s->expire_ms = RDBKIT_NO_EXPIRY;
    return st;
}

static int resp_feed(void *ctx, const void *data, size_t len) {
    int st = rec_feed(ctx, data, len);
    return st < 0 ? st : 0;
}

/* A value over what servers take in one argument: as a file of its own, it is read once more, into commands. */
static int resp_as_commands(rdbkit_resp *s, const rdbkit_type *type) {
    const char *magic = type->lineage & FMT_R ? "REDIS0012" : "VALKEY080";
    u8 number = (u8)type->number, end[9] = {FMT_OP_EOF};
    mem_buf name = {NULL, 0, 0};
    rdbkit_reader_options options;
    rdbkit_reader_options_init(&options);
    options.allocator = &s->mem;
    options.ignore_checksum = 1;
    options.piece_len = RESP_BATCH;
    rdbkit_reader *r = rdbkit_reader_new(&options, &s->commands);
    rdbkit_str key = s->v.l.name;
    int st = r ? enc_len(&s->v.enc, &name, key.len) : RDBKIT_ERR_NOMEM;
    if (!st) st = mem_buf_add(&s->mem, &name, key.data, key.len);
    if (!st) st = resp_feed(r, magic, 9);
    if (!st) st = resp_feed(r, &number, 1);
    if (!st) st = resp_feed(r, name.data, name.len);
    if (!st) st = resp_value_bytes(s, resp_feed, r);
    if (!st) st = resp_feed(r, end, sizeof end);
    mem_buf_free(&s->mem, &name);
    rdbkit_reader_free(r);
    return st;
}

/* The key and its end, when the value is read once more: all about the key itself is done by the first reading. */
static int resp_again_key(void *user, const rdbkit_key *key) {
    rdbkit_resp *s = user;
    (void)key;
    s->entries = 0;
    s->ids.len = 0;
    return 0;
}

static int resp_again_end(void *user) {
    rdbkit_resp *s = user;
    int st = resp_close(s);
    return st ? st : resp_claim(s);
}

/* The value is complete: send it. */
static int resp_restore_value(rdbkit_resp *s) {
    const rdbkit_type *type = s->type;
    int st = 0;
    if (!s->raw_on) {
        st = enc_end(&s->v.enc);
        type = s->v.enc.type;
    }
    if (st || !type || s->opt.dry_run) return st;
    u64 len = s->raw_on ? s->raw.len : enc_result_len(&s->v.enc);
    if (len + 64 <= RESP_PAYLOAD_MAX) return resp_restore(s, type, len);
    if (type->shape != RDBKIT_MODULE) return resp_as_commands(s, type);
    s->expire_ms = RDBKIT_NO_EXPIRY; /* there is no key to expire */
    return loss_lose(&s->v.l, RDBKIT_LOSS_MODULE);
}

/* ---- the rest ---- */

static int resp_key_end(void *user) {
    rdbkit_resp *s = user;
    if (!s->type) return 0;
    int st = resp_close(s);
    if (!st) st = resp_claim(s);
    if (!st && (s->raw_on || s->restoring)) st = resp_restore_value(s);
    if (!st && s->expire_ms != RDBKIT_NO_EXPIRY) st = resp_key_number(s, "$9\r\nPEXPIREAT\r\n", s->expire_ms);
    loss_tell(&s->v.l);
    resp_complete(s);
    return st;
}

static int resp_function(void *user, rdbkit_str code, int opcode) {
    rdbkit_resp *s = user;
    (void)opcode;
    if (s->opt.drop_functions) return loss_lose_other(&s->v.l, RDBKIT_NOTE_DROPPED_FUNCTION, loss_library_name(code));
    if (!loss_has(&s->v.l, RDBKIT_F_FUNCTIONS))
        return loss_lose_other(&s->v.l, RDBKIT_LOSS_FUNCTION, loss_library_name(code));
    int st = resp_command(s, s->opt.replace ? 4 : 3, "$8\r\nFUNCTION\r\n$4\r\nLOAD\r\n");
    if (!st && s->opt.replace) st = resp_arg_text(s, "REPLACE");
    if (!st) st = resp_arg(s, code.data, code.len);
    resp_complete(s);
    return st;
}

static int resp_module_aux(void *user, const rdbkit_module_aux *aux) {
    rdbkit_resp *s = user;
    rdbkit_str name = {aux->module, strlen(aux->module)};
    return loss_lose_other(&s->v.l, s->opt.drop_modules ? RDBKIT_NOTE_DROPPED_MODULE : RDBKIT_NOTE_MODULE_AUX, name);
}

static int resp_slot_import(void *user, rdbkit_str job, uint64_t ranges) {
    (void)ranges;
    return loss_lose_other(&((rdbkit_resp *)user)->v.l, RDBKIT_NOTE_SLOT_IMPORT, job);
}

static void resp_free(rdbkit_resp *s) {
    if (!s) return;
    mem_buf *bufs[] = {&s->key, &s->raw, &s->after, &s->fields, &s->ids, &s->group, &s->consumer, &s->claim};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) mem_buf_free(&s->mem, bufs[i]);
    rdbkit_allocator mem = s->mem;
    enc_free(&s->v.enc);
    out_free(&s->out);
    mem.free(mem.ctx, s, sizeof *s);
}

static rdbkit_resp *resp_new(const rdbkit_resp_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_allocator mem = mem_or_std(options->allocator);
    rdbkit_resp *s = mem_new(&mem, sizeof *s);
    if (!s) return NULL;
    s->mem = mem;
    s->opt = *options;
    if (options->spill) s->spill = *options->spill;
    loss_init(&s->v.l, options->target, options->allow_loss || options->dry_run);
    loss_listen(&s->v.l, options->on_loss, options->on_loss_ctx);
    enc_init(&s->v.enc, &mem, &s->v.l.target, 1, options->spill ? &s->spill : NULL);
    s->db = RDBKIT_NO_DB;
    rdbkit_visitor v = {0};
    v.user = s;
    v.string = resp_string, v.string_piece = resp_string_piece;
    v.list_item = resp_list_item, v.set_member = resp_set_member;
    v.zset_member = resp_zset_member, v.hash_field = resp_hash_field;
    v.stream_entry = resp_stream_entry, v.stream_field = resp_stream_field, v.stream_info = resp_stream_info;
    v.stream_group = resp_stream_group, v.stream_consumer = resp_stream_consumer;
    v.stream_pending = resp_stream_pending;
    s->commands = v;
    s->commands.key = resp_again_key, s->commands.key_end = resp_again_end;
    v.function = resp_function, v.module_aux = resp_module_aux, v.slot_import = resp_slot_import;
    v.key = resp_on_key, v.raw = resp_raw, v.key_end = resp_key_end;
    if (options->restore) {
        enc_visit(&v);
        v.string_piece = NULL;
    }
    s->visitor = v;
    if (out_init(&s->out, &mem, write_fn, ctx) == 0) {
        s->out.silent = options->dry_run;
        return s;
    }
    resp_free(s);
    return NULL;
}

/* What is complete goes out; what is not is forgotten. */
static int resp_finish(rdbkit_resp *s) {
    s->out.len = resp_cmd_at(s);
    return out_flush(&s->out);
}

/* ==== [24] flt_ : filters and transforms of keys ====
 *
 *     a key > database, shape, expiry, slot, names, patterns, limit > database, name, expiry of what goes on
 *
 * Cheap questions come first. Whatever the rules, a key costs no allocation but for the one buffer that holds its
 * new name, or the terminated copy for regexec(). Needs <regex.h>. Tests: tests/test_filter.c, fuzz/fuzz_glob.c */

#define FLT_SLOTS_N 16384

/* ---- Globs ---- */

/* Whether c is in the class that begins behind [; *pp moves behind its end. The quirks are the servers': a ] right
 * at the start closes the class; the end of the pattern closes it as well; x-y is a range whatever y is, so that
 * [a-] takes everything from ] to a and goes on; an escaped byte begins no range. */
static int flt_class(const u8 **pp, const u8 *end, u8 c) {
    const u8 *p = *pp;
    const int negate = p < end && *p == '^';
    int found = 0;
    for (p += negate; p < end && *p != ']'; p++) {
        if (*p == '\\' && end - p >= 2) {
            found |= *++p == c;
        } else if (end - p >= 3 && p[1] == '-') {
            /* servers compare chars, signed on x86: with the top bit turned the order is the same unsigned */
            const u8 a = *p ^ 0x80, b = p[2] ^ 0x80, x = c ^ 0x80;
            found |= a < b ? a <= x && x <= b : b <= x && x <= a;
            p += 2;
        } else {
            found |= *p == c;
        }
    }
    *pp = p < end ? p + 1 : p;
    return found != negate;
}

/* Whether c matches the element at *pp, which is no star; *pp moves behind it. Every element but the star takes
 * exactly one byte: on that flt_glob() rests. */
static int flt_element(const u8 **pp, const u8 *end, u8 c) {
    const u8 b = *(*pp)++;
    if (b == '?') return 1;
    if (b == '[') return flt_class(pp, end, c);
    if (b == '\\' && *pp < end) return *(*pp)++ == c;
    return b == c;
}

/* The first place from t on where what follows a star can begin, or NULL. */
static const u8 *flt_glob_seek(const u8 *p, const u8 *t, const u8 *t_end) {
    if (t == t_end) return NULL;
    return *p == '?' || *p == '[' || *p == '\\' ? t : memchr(t, *p, (size_t)(t_end - t));
}

/* One place to go back to is enough: what follows the last star seen may begin later, but for the stars before it
 * an earlier end is never worse. And if the text ends first, to begin later is of no use. */
static int flt_glob(rdbkit_str pattern, rdbkit_str text) {
    const u8 *p = (const u8 *)pattern.data, *t = (const u8 *)text.data;
    if (pattern.len == 0 || text.len == 0) /* * is a shortcut of KEYS; ** and "" do not match on servers */
        return pattern.len == text.len || (pattern.len == 1 && *p == '*');
    const u8 *end = p + pattern.len, *t_end = t + text.len;
    const u8 *behind_star = NULL, *from = NULL; /* from: where that is being tried */
    while (t < t_end) {
        if (p < end && *p == '*') {
            while (p < end && *p == '*') p++;
            if (p == end) return 1;
            behind_star = p;
            from = t;
        } else if (p < end && flt_element(&p, end, *t)) {
            t++;
            continue;
        } else {
            if (!behind_star) return 0;
            from++;
        }
        p = behind_star;
        t = from = flt_glob_seek(p, from, t_end);
        if (!t) return 0;
    }
    while (p < end && *p == '*') p++;
    return p == end;
}

int rdbkit_glob_match(const char *pattern, size_t pattern_len, const char *text, size_t text_len) {
    return flt_glob((rdbkit_str){pattern, pattern_len}, (rdbkit_str){text, text_len});
}

/* ---- Rules ---- */

enum flt_how {
    FLT_ANY,    /* the glob * */
    FLT_EQUAL,  /* without special bytes */
    FLT_PREFIX, /* the same, then stars */
    FLT_GLOB,
    FLT_REGEX
};

typedef struct flt_pattern {
    struct flt_pattern *next;
    size_t size; /* of this allocation */
    enum flt_how how;
    int negate;
    regex_t regex; /* compiled, for FLT_REGEX alone */
    size_t len;    /* of the text that is compared */
    char text[];
} flt_pattern;

/* A range of databases, or from and to. */
typedef struct flt_db {
    struct flt_db *next;
    u64 a, b;
    int negate;
} flt_db;

typedef struct flt_rename {
    struct flt_rename *next;
    size_t size;
    size_t old_len, new_len;
    char text[]; /* old, new */
} flt_rename;

typedef struct flt_name {
    u64 hash;
    size_t at; /* 1 + where it lies in names: length in 8 bytes, then the name; 0: a free place */
} flt_name;

/* What the values of a kind ask for. */
enum { FLT_WANTED = 1, FLT_UNWANTED = 2 };

struct rdbkit_filter {
    rdbkit_allocator mem;
    unsigned pattern_kinds, db_kinds; /* FLT_WANTED | FLT_UNWANTED: what is in the lists */
    flt_pattern *patterns;            /* newest first, as the order does not matter */
    flt_db *dbs;
    flt_db *maps;
    flt_rename *renames;  /* oldest first */
    flt_name *name_table; /* open addressing; name_cap places, a power of two */
    size_t name_cap, names_n;
    mem_buf names;
    unsigned shapes, no_shapes; /* shapes 0: all */
    unsigned expiry;
    i64 now_ms;
    int have_slots;
    u8 slots[FLT_SLOTS_N / 8];
    u64 limit, matched;
    int strip_ttl;
    i64 shift_ms;
    mem_buf text; /* a name for regexec(), terminated; then the new name of the key */
};

static unsigned flt_sign(int negate) { return negate ? FLT_UNWANTED : FLT_WANTED; }

/* What begins with n bytes of fields and goes on with two texts. Zeroed, or NULL. */
static void *flt_new(const rdbkit_filter *f, size_t n, size_t len, size_t more_len, size_t *size) {
    if (len > SIZE_MAX - n || more_len > SIZE_MAX - n - len) return NULL;
    *size = n + len + more_len;
    return mem_new(&f->mem, *size);
}

rdbkit_filter *rdbkit_filter_new(const rdbkit_allocator *allocator) {
    const rdbkit_allocator mem = mem_or_std(allocator);
    rdbkit_filter *f = mem_new(&mem, sizeof *f);
    if (!f) return NULL;
    f->mem = mem;
    f->limit = UINT64_MAX;
    return f;
}

static void flt_pattern_free(const rdbkit_allocator *mem, flt_pattern *x) {
    if (x->how == FLT_REGEX) regfree(&x->regex);
    mem->free(mem->ctx, x, x->size);
}

static void flt_db_free(const rdbkit_allocator *mem, flt_db *x) {
    for (flt_db *next; x; x = next) {
        next = x->next;
        mem->free(mem->ctx, x, sizeof *x);
    }
}

void rdbkit_filter_free(rdbkit_filter *f) {
    if (!f) return;
    const rdbkit_allocator mem = f->mem;
    for (flt_pattern *x = f->patterns, *next; x; x = next) {
        next = x->next;
        flt_pattern_free(&mem, x);
    }
    for (flt_rename *x = f->renames, *next; x; x = next) {
        next = x->next;
        mem.free(mem.ctx, x, x->size);
    }
    flt_db_free(&mem, f->dbs);
    flt_db_free(&mem, f->maps);
    if (f->name_table) mem.free(mem.ctx, f->name_table, f->name_cap * sizeof *f->name_table);
    mem_buf_free(&mem, &f->names);
    mem_buf_free(&mem, &f->text);
    mem.free(mem.ctx, f, sizeof *f);
}

/* How a glob can be answered; *len becomes the length of the text to compare. */
static enum flt_how flt_how_of(rdbkit_str glob, size_t *len) {
    size_t plain = 0, stars;
    while (plain < glob.len && !memchr("*?[\\", glob.data[plain], 4)) plain++;
    for (stars = plain; stars < glob.len && glob.data[stars] == '*'; stars++) continue;
    *len = glob.len;
    if (plain == glob.len) return FLT_EQUAL;
    if (stars < glob.len) return FLT_GLOB;
    if (plain == 0) return glob.len == 1 ? FLT_ANY : FLT_GLOB; /* ** is not for the key "" */
    *len = plain;
    return FLT_PREFIX;
}

static void flt_pattern_link(rdbkit_filter *f, flt_pattern *x, int negate) {
    x->negate = negate != 0;
    x->next = f->patterns;
    f->patterns = x;
    f->pattern_kinds |= flt_sign(negate);
}

int rdbkit_filter_key(rdbkit_filter *f, const char *pattern, size_t len, int negate) {
    size_t size;
    flt_pattern *x = flt_new(f, sizeof *x, len, 0, &size);
    if (!x) return RDBKIT_ERR_NOMEM;
    x->size = size;
    if (len) memcpy(x->text, pattern, len);
    x->how = flt_how_of((rdbkit_str){x->text, len}, &x->len);
    flt_pattern_link(f, x, negate);
    return RDBKIT_OK;
}

int rdbkit_filter_key_regex(rdbkit_filter *f, const char *pattern, int negate) {
    size_t size;
    flt_pattern *x = flt_new(f, sizeof *x, 0, 0, &size);
    if (!x) return RDBKIT_ERR_NOMEM;
    x->size = size;
    int st = regcomp(&x->regex, pattern, REG_EXTENDED | REG_NOSUB);
    if (st) { /* nothing to be freed by regfree() */
        flt_pattern_free(&f->mem, x);
        return st == REG_ESPACE ? RDBKIT_ERR_NOMEM : RDBKIT_ERR_USAGE;
    }
    x->how = FLT_REGEX;
    flt_pattern_link(f, x, negate);
    return RDBKIT_OK;
}

/* The place of a name, or the free one where it would go. The table has one. */
static flt_name *flt_name_place(const rdbkit_filter *f, rdbkit_str s, u64 hash) {
    const size_t mask = f->name_cap - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        flt_name *x = &f->name_table[i];
        if (!x->at) return x;
        if (x->hash != hash) continue;
        const u8 *kept = f->names.data + x->at - 1;
        if (port_le64(kept) == s.len && (!s.len || memcmp(kept + 8, s.data, s.len) == 0)) return x;
    }
}

/* Twice the places, the names stay where they are. */
static int flt_names_grow(rdbkit_filter *f) {
    const size_t cap = f->name_cap ? f->name_cap * 2 : 64, mask = cap - 1;
    if (cap > SIZE_MAX / 2 / sizeof(flt_name)) return RDBKIT_ERR_NOMEM;
    flt_name *table = mem_new(&f->mem, cap * sizeof *table);
    if (!table) return RDBKIT_ERR_NOMEM;
    for (size_t i = 0; i < f->name_cap; i++) {
        if (!f->name_table[i].at) continue;
        size_t to = (size_t)f->name_table[i].hash & mask;
        while (table[to].at) to = (to + 1) & mask;
        table[to] = f->name_table[i];
    }
    if (f->name_table) f->mem.free(f->mem.ctx, f->name_table, f->name_cap * sizeof *f->name_table);
    f->name_table = table;
    f->name_cap = cap;
    return 0;
}

int rdbkit_filter_key_name(rdbkit_filter *f, const char *name, size_t len) {
    const rdbkit_str s = {name, len};
    u64 hash, more;
    u8 head[8];
    port_hash(0, s, &hash, &more);
    if (f->names_n >= f->name_cap / 4 * 3 && flt_names_grow(f)) return RDBKIT_ERR_NOMEM;
    flt_name *x = flt_name_place(f, s, hash);
    if (x->at) return RDBKIT_OK;
    if (len > SIZE_MAX - sizeof head || mem_buf_room(&f->mem, &f->names, sizeof head + len))
        return RDBKIT_ERR_NOMEM;
    x->hash = hash;
    x->at = f->names.len + 1;
    port_put_le64(head, len);
    (void)mem_buf_add(&f->mem, &f->names, head, sizeof head); /* there is room */
    (void)mem_buf_add(&f->mem, &f->names, name, len);
    f->names_n++;
    return RDBKIT_OK;
}

int rdbkit_filter_shapes(rdbkit_filter *f, unsigned shape_bits, int negate) {
    if (!shape_bits || shape_bits >> RDBKIT_SHAPE_N) return RDBKIT_ERR_USAGE;
    if (negate) f->no_shapes |= shape_bits;
    else f->shapes |= shape_bits;
    return RDBKIT_OK;
}

static int flt_db_add(const rdbkit_filter *f, flt_db **list, flt_db row) {
    flt_db *x = mem_new(&f->mem, sizeof *x);
    if (!x) return RDBKIT_ERR_NOMEM;
    row.next = *list;
    *x = row;
    *list = x;
    return RDBKIT_OK;
}

int rdbkit_filter_db(rdbkit_filter *f, uint64_t first, uint64_t last, int negate) {
    if (first > last || last == RDBKIT_NO_DB) return RDBKIT_ERR_USAGE;
    int st = flt_db_add(f, &f->dbs, (flt_db){NULL, first, last, negate != 0});
    if (!st) f->db_kinds |= flt_sign(negate);
    return st;
}

int rdbkit_filter_slot(rdbkit_filter *f, unsigned first, unsigned last) {
    if (first > last || last >= FLT_SLOTS_N) return RDBKIT_ERR_USAGE;
    f->have_slots = 1;
    for (unsigned i = first; i <= last; i++) f->slots[i / 8] = (u8)(f->slots[i / 8] | 1u << i % 8);
    return RDBKIT_OK;
}

void rdbkit_filter_expiry(rdbkit_filter *f, unsigned which, int64_t now_ms) {
    f->expiry = which;
    f->now_ms = now_ms;
}

void rdbkit_filter_limit(rdbkit_filter *f, uint64_t keys) { f->limit = keys; }

int rdbkit_filter_map_db(rdbkit_filter *f, uint64_t from, uint64_t to) {
    if (from == RDBKIT_NO_DB || to == RDBKIT_NO_DB) return RDBKIT_ERR_USAGE;
    for (const flt_db *x = f->maps; x; x = x->next)
        if (x->a == from) return RDBKIT_ERR_USAGE;
    return flt_db_add(f, &f->maps, (flt_db){NULL, from, to, 0});
}

int rdbkit_filter_rename(rdbkit_filter *f, const char *old_name, size_t old_len, const char *new_name,
                         size_t new_len) {
    size_t size;
    flt_rename *x = flt_new(f, sizeof *x, old_len, new_len, &size), **to = &f->renames;
    if (!x) return RDBKIT_ERR_NOMEM;
    x->size = size;
    x->old_len = old_len;
    x->new_len = new_len;
    if (old_len) memcpy(x->text, old_name, old_len);
    if (new_len) memcpy(x->text + old_len, new_name, new_len);
    while (*to) to = &(*to)->next;
    *to = x;
    return RDBKIT_OK;
}

void rdbkit_filter_strip_ttl(rdbkit_filter *f) { f->strip_ttl = 1; }

void rdbkit_filter_shift_ttl(rdbkit_filter *f, int64_t ms) { f->shift_ms = ms; }

uint64_t rdbkit_filter_matched(const rdbkit_filter *f) { return f->matched; }

void rdbkit_filter_restart(rdbkit_filter *f) { f->matched = 0; }

/* ---- Judging a key ---- */

/* Answers of the questions that may also run out of memory. */
enum { FLT_NO = 0, FLT_YES = 1 };

static int flt_db_passes(const rdbkit_filter *f, u64 db) {
    int wanted = !(f->db_kinds & FLT_WANTED);
    for (const flt_db *x = f->dbs; x; x = x->next) {
        if (db < x->a || db > x->b) continue;
        if (x->negate) return 0;
        wanted = 1;
    }
    return wanted;
}

static int flt_shape_passes(const rdbkit_filter *f, rdbkit_shape shape) {
    const unsigned bit = 1u << shape;
    return (!f->shapes || (f->shapes & bit)) && !(f->no_shapes & bit);
}

/* Servers call a key expired once its time is over, not in that very millisecond. */
static int flt_expiry_passes(const rdbkit_filter *f, i64 expire_ms) {
    const int has = expire_ms != RDBKIT_NO_EXPIRY, expired = has && expire_ms < f->now_ms;
    if ((f->expiry & RDBKIT_ONLY_EXPIRED) && !expired) return 0;
    if ((f->expiry & RDBKIT_NO_EXPIRED) && expired) return 0;
    if ((f->expiry & RDBKIT_HAS_TTL) && !has) return 0;
    return !((f->expiry & RDBKIT_NO_TTL) && has);
}

/* CRC16 as XMODEM has it: polynomial 0x1021 from 0, high bits first; four bits at a time. */
static unsigned flt_crc16(const u8 *p, size_t len) {
    static const u16 step[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
                                 0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    unsigned crc = 0;
    for (size_t i = 0; i < len; i++) {
        crc = (crc << 4 ^ step[(crc >> 12 ^ p[i] >> 4) & 15]) & 0xffff;
        crc = (crc << 4 ^ step[(crc >> 12 ^ p[i]) & 15]) & 0xffff;
    }
    return crc;
}

/* The slot of a key: of what stands between the first { and the next }, if that is not empty. */
static unsigned flt_slot(rdbkit_str name) {
    const u8 *p = (const u8 *)name.data;
    const u8 *open = name.len ? memchr(p, '{', name.len) : NULL;
    if (open) {
        const u8 *tag = open + 1;
        const u8 *close = memchr(tag, '}', name.len - (size_t)(tag - p));
        if (close && close > tag) return flt_crc16(tag, (size_t)(close - tag)) % FLT_SLOTS_N;
    }
    return flt_crc16(p, name.len) % FLT_SLOTS_N;
}

static int flt_slot_passes(const rdbkit_filter *f, rdbkit_str name) {
    if (!f->have_slots) return 1;
    const unsigned slot = flt_slot(name);
    return f->slots[slot / 8] >> slot % 8 & 1;
}

static int flt_name_passes(const rdbkit_filter *f, rdbkit_str name) {
    u64 hash, more;
    if (!f->names_n) return 1;
    port_hash(0, name, &hash, &more);
    return flt_name_place(f, name, hash)->at != 0;
}

/* The name for regexec(): terminated, and so only up to its first NUL. 0 or RDBKIT_ERR_NOMEM. */
static int flt_terminate(rdbkit_filter *f, rdbkit_str name) {
    f->text.len = 0;
    if (mem_buf_add(&f->mem, &f->text, name.data, name.len)) return RDBKIT_ERR_NOMEM;
    return mem_buf_add(&f->mem, &f->text, "", 1);
}

/* FLT_YES, FLT_NO, or RDBKIT_ERR_NOMEM. *terminated: whether flt_terminate() was done for this name. */
static int flt_pattern_match(rdbkit_filter *f, const flt_pattern *x, rdbkit_str name, int *terminated) {
    int st;
    switch (x->how) {
    case FLT_ANY: return FLT_YES;
    case FLT_EQUAL: return x->len == name.len && (!x->len || memcmp(x->text, name.data, x->len) == 0);
    case FLT_PREFIX: return x->len <= name.len && memcmp(x->text, name.data, x->len) == 0;
    case FLT_GLOB: return flt_glob((rdbkit_str){x->text, x->len}, name);
    case FLT_REGEX: break;
    }
    if (!*terminated && (st = flt_terminate(f, name))) return st;
    *terminated = 1;
    st = regexec(&x->regex, (const char *)f->text.data, 0, NULL, 0);
    return st == 0 ? FLT_YES : st == REG_NOMATCH ? FLT_NO : RDBKIT_ERR_NOMEM;
}

/* FLT_YES, FLT_NO, or RDBKIT_ERR_NOMEM. */
static int flt_patterns_pass(rdbkit_filter *f, rdbkit_str name) {
    int terminated = 0, wanted = !(f->pattern_kinds & FLT_WANTED);
    for (const flt_pattern *x = f->patterns; x; x = x->next) {
        if (wanted && !x->negate) continue; /* one is enough */
        int st = flt_pattern_match(f, x, name, &terminated);
        if (st < 0) return st;
        if (st && x->negate) return FLT_NO;
        if (st) wanted = 1;
        if (wanted && !(f->pattern_kinds & FLT_UNWANTED)) return FLT_YES;
    }
    return wanted;
}

/* FLT_YES, FLT_NO, or RDBKIT_ERR_NOMEM. */
static int flt_passes(rdbkit_filter *f, const rdbkit_key *key) {
    if (f->matched >= f->limit) return FLT_NO;
    if (!flt_db_passes(f, key->db) || !flt_shape_passes(f, key->type->shape)) return FLT_NO;
    if (!flt_expiry_passes(f, key->expire_ms)) return FLT_NO;
    if (!flt_slot_passes(f, key->name) || !flt_name_passes(f, key->name)) return FLT_NO;
    return flt_patterns_pass(f, key->name);
}

/* ---- Transforming it ---- */

/* a + b, or the end of the range that it would leave. */
static i64 flt_add_sat(i64 a, i64 b) {
    if (b > 0) return a > INT64_MAX - b ? INT64_MAX : a + b;
    return a < INT64_MIN - b ? INT64_MIN : a + b;
}

static i64 flt_shift(const rdbkit_filter *f, i64 expire_ms) {
    if (expire_ms == RDBKIT_NO_EXPIRY || f->strip_ttl) return RDBKIT_NO_EXPIRY;
    const i64 moved = flt_add_sat(expire_ms, f->shift_ms);
    return moved == RDBKIT_NO_EXPIRY ? RDBKIT_NO_EXPIRY - 1 : moved;
}

static u64 flt_map(const rdbkit_filter *f, u64 db) {
    for (const flt_db *x = f->maps; x; x = x->next)
        if (x->a == db) return x->b;
    return db;
}

/* 0 or RDBKIT_ERR_NOMEM; then the name is as it was. */
static int flt_rename_key(rdbkit_filter *f, rdbkit_str *name) {
    const flt_rename *x = f->renames;
    while (x && (name->len < x->old_len || (x->old_len && memcmp(name->data, x->text, x->old_len) != 0)))
        x = x->next;
    if (!x) return 0;
    const rdbkit_str rest = {name->data ? name->data + x->old_len : NULL, name->len - x->old_len};
    f->text.len = 0;
    if (mem_buf_add(&f->mem, &f->text, x->text + x->old_len, x->new_len)) return RDBKIT_ERR_NOMEM;
    if (mem_buf_add(&f->mem, &f->text, rest.data, rest.len)) return RDBKIT_ERR_NOMEM;
    *name = (rdbkit_str){(const char *)f->text.data, f->text.len};
    return 0;
}

int rdbkit_filter_apply(void *filter, rdbkit_key *key) {
    rdbkit_filter *f = filter;
    int st = flt_passes(f, key);
    if (st != FLT_YES) return st < 0 ? st : RDBKIT_SKIP_KEY;
    if ((st = flt_rename_key(f, &key->name))) return st;
    key->db = flt_map(f, key->db);
    key->expire_ms = flt_shift(f, key->expire_ms);
    f->matched++;
    return RDBKIT_OK;
}

/* ==== [25] json_ : JSON out ====
 *
 * Events become records of JSON. Strings are most of the work: those of plain ASCII are found eight bytes at a time
 * and copied, others are validated as UTF-8 and then escaped sixteen bytes at a time. What writes has no status: the
 * output remembers a failure and takes the rest in vain, and each callback asks it once at its end.
 *
 * The format: docs/json.md. Tests: tests/test_json.c, tests/json_test.py, fuzz/fuzz_json.c */

#define JSON_CHUNK 640                      /* bytes escaped in one go: six for one, and a block too many */
#define JSON_CHUNK_ROOM (6 * JSON_CHUNK + 64) /* which out_room allows */
#define JSON_SHORT 1024                     /* a plain string up to this is written in one go */
#define JSON_FIXED 512                      /* what a record has besides strings */
#define JSON_BASE64_CHUNK 3000
#define JSON_TEXT(literal) (literal), sizeof(literal) - 1

struct rdbkit_json {
    out_buf out;
    size_t some;              /* 1: the container at hand has an element, so a comma comes before the next */
    size_t fields;            /* the same for the fields of a stream entry, */
    size_t consumers;         /* the consumers of a group */
    size_t claims;            /* and the pending entries of a consumer */
    int entry, group, owner;  /* 1: a stream entry, group, consumer is open */
    int begun, ended, closed; /* the document */
    rdbkit_shape shape;
    mem_buf expiry; /* of fields of the hash at hand: i64 ms, u64 length, name */
    u8 carry[3];    /* bytes of raw data that wait for a third */
    size_t carry_n;
    u64 keys;
    rdbkit_json_options opt;
    rdbkit_allocator mem;
    rdbkit_visitor visitor;
};

/* ---- bytes ---- */

#define JSON_EACH(byte) ((u64)(byte) * 0x0101010101010101)

/* Not 0 if one of eight bytes is other than plain: a control character, quote, backslash, DEL, or not ASCII. A borrow
 * can mark a byte wrongly, but begins in one that is marked rightly. */
PORT_INLINE u64 json_odd8(u64 v) {
    u64 control = v - JSON_EACH(0x20), del = v + JSON_EACH(1);
    u64 quote = (v ^ JSON_EACH('"')) - JSON_EACH(1), slash = (v ^ JSON_EACH('\\')) - JSON_EACH(1);
    return (v | control | del | quote | slash) & JSON_EACH(0x80);
}

/* Whether all bytes are plain. */
PORT_INLINE int json_plain(const u8 *p, size_t n) {
    if (n >= 8) {
        for (size_t i = 0; i < n - 8; i += 8)
            if (json_odd8(port_le64(p + i))) return 0;
        return !json_odd8(port_le64(p + n - 8));
    }
    if (n >= 4) return !json_odd8(port_le32(p) | (u64)port_le32(p + n - 4) << 32);
    if (!n) return 1;
    return !json_odd8(p[0] | (u64)p[n / 2] << 8 | (u64)p[n - 1] << 16 | JSON_EACH(' ') << 24);
}

/* Length of the UTF-8 sequence at p, which is not ASCII, or minus the length of the part that a decoder takes as one
 * error (Unicode 3.9, "maximal subpart"). */
static int json_sequence(const u8 *p, const u8 *end) {
    u8 c = *p, low = 0x80, high = 0xbf;
    int n;
    if (c >= 0xc2 && c <= 0xdf) {
        n = 2;
    } else if ((c & 0xf0) == 0xe0) {
        n = 3;
        if (c == 0xe0) low = 0xa0;
        if (c == 0xed) high = 0x9f; /* no surrogates */
    } else if (c >= 0xf0 && c <= 0xf4) {
        n = 4;
        if (c == 0xf0) low = 0x90;
        if (c == 0xf4) high = 0x8f;
    } else {
        return -1;
    }
    for (int i = 1; i < n; i++, low = 0x80, high = 0xbf)
        if (p + i == end || p[i] < low || p[i] > high) return -i;
    return n;
}

/* The first place that is not valid UTF-8, or end. */
static const u8 *json_valid(const u8 *p, const u8 *end) {
    while (p < end) {
        while (end - p >= 8 && !(port_le64(p) & JSON_EACH(0x80))) p += 8;
        while (p < end && *p < 0x80) p++;
        while (p < end && *p >= 0x80) {
            int n = json_sequence(p, end);
            if (n < 0) return p;
            p += n;
        }
    }
    return end;
}

/* Which of sixteen bytes may not stay as they are, as bits; 0xe2, which may begin U+2028, is one of them, and with
 * latin1 all that is not ASCII. */
PORT_INLINE unsigned json_odd16(const u8 *p, int latin1) {
#if defined(PORT_X86)
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i odd = latin1 ? _mm_cmplt_epi8(v, _mm_set1_epi8(0x20))
                         : _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v),
                                        _mm_cmpeq_epi8(v, _mm_set1_epi8((char)0xe2)));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8('"')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
    return (unsigned)_mm_movemask_epi8(odd);
#else
    unsigned odd = 0;
    if (!json_odd8(port_le64(p)) && !json_odd8(port_le64(p + 8))) return 0;
    for (unsigned i = 0; i < 16; i++) {
        u8 c = p[i];
        odd |= (unsigned)(c < 0x20 || c == '"' || c == '\\' || c == 0x7f || (latin1 ? c >= 0x80 : c == 0xe2)) << i;
    }
    return odd;
#endif
}

PORT_INLINE unsigned json_low_bit(unsigned v) {
#if defined(__GNUC__)
    return (unsigned)__builtin_ctz(v);
#else
    unsigned n = 0;
    while (!(v >> n & 1)) n++;
    return n;
#endif
}

/* Write what stands for one of the bytes that json_odd16 marks; two bytes after it can be read. Returns how many bytes
 * that was: 1, or 3 for U+2028 and U+2029. */
PORT_INLINE size_t json_escape(u8 **out, const u8 *p, int latin1) {
    static const char letters[32] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    static const char hex[] = "0123456789abcdef";
    u8 *o = *out, c = *p;
    size_t taken = 1;
    if (c == '"' || c == '\\' || (c < 0x20 && letters[c])) {
        *o++ = '\\';
        *o++ = c < 0x20 ? (u8)letters[c] : c;
    } else if (c < 0x80) {
        memcpy(o, "\\u00", 4);
        o[4] = (u8)hex[c >> 4], o[5] = (u8)hex[c & 15];
        o += 6;
    } else if (latin1) {
        *o++ = (u8)(0xc0 | c >> 6);
        *o++ = (u8)(0x80 | (c & 0x3f));
    } else if (p[1] == 0x80 && (p[2] | 1) == 0xa9) {
        memcpy(o, p[2] & 1 ? "\\u2029" : "\\u2028", 6);
        o += 6;
        taken = 3;
    } else {
        *o++ = c;
    }
    *out = o;
    return taken;
}

/* Escape n bytes, 1 to 16, of which 32 can be read. Returns how many were taken: two more than n at most. */
PORT_INLINE size_t json_block(u8 **out, const u8 *p, size_t n, int latin1) {
    unsigned odd = json_odd16(p, latin1) & ((1u << n) - 1);
    u8 *o = *out;
    size_t at = 0;
    for (; odd; odd &= odd - 1) {
        size_t next = json_low_bit(odd);
        memcpy(o, p + at, 16);
        o += next - at;
        at = next + json_escape(&o, p + next, latin1);
    }
    if (at < n) {
        memcpy(o, p + at, 16);
        o += n - at;
        at = n;
    }
    *out = o;
    return at;
}

/* Escape up to JSON_CHUNK bytes; they end with a whole sequence unless they are latin1. Returns the end. */
PORT_INLINE u8 *json_chunk(u8 *o, const u8 *p, size_t n, int latin1) {
    const u8 *end = p + n;
    while (end - p >= 32) p += json_block(&o, p, 16, latin1);
    u8 tail[64] = {0};
    n = (size_t)(end - p);
    port_copy(tail, p, n);
    for (size_t i = 0; i < n;) i += json_block(&o, tail + i, n - i < 16 ? n - i : 16, latin1);
    return o;
}

/* Valid UTF-8, or with latin1 any bytes. */
static void json_escaped(rdbkit_json *s, const u8 *p, size_t len, int latin1) {
    out_buf *o = &s->out;
    while (len) {
        size_t n = len;
        if (n > JSON_CHUNK) {
            n = JSON_CHUNK;
            while (!latin1 && (p[n] & 0xc0) == 0x80) n--;
        }
        out_room(o, JSON_CHUNK_ROOM);
        u8 *at = o->data + o->len;
        o->len += (size_t)((latin1 ? json_chunk(at, p, n, 1) : json_chunk(at, p, n, 0)) - at);
        p += n;
        len -= n;
    }
}

static void json_lossy(rdbkit_json *s, const u8 *p, const u8 *end) {
    for (;;) {
        const u8 *bad = json_valid(p, end);
        json_escaped(s, p, (size_t)(bad - p), 0);
        if (bad == end) return;
        out_put(&s->out, "\xef\xbf\xbd", 3);
        p = bad - json_sequence(bad, end);
    }
}

/* ---- base64 ---- */

static const char json_digits64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Threes of bytes as fours of digits. */
static void json_threes(rdbkit_json *s, const u8 *p, size_t n) {
    out_buf *out = &s->out;
    while (n) {
        size_t part = n < JSON_BASE64_CHUNK ? n : JSON_BASE64_CHUNK;
        out_room(out, JSON_BASE64_CHUNK / 3 * 4);
        u8 *o = out->data + out->len;
        for (const u8 *end = p + part; p < end; p += 3, o += 4) {
            u32 v = (u32)p[0] << 16 | (u32)p[1] << 8 | p[2];
            o[0] = (u8)json_digits64[v >> 18], o[1] = (u8)json_digits64[v >> 12 & 63];
            o[2] = (u8)json_digits64[v >> 6 & 63], o[3] = (u8)json_digits64[v & 63];
        }
        out->len += part / 3 * 4;
        n -= part;
    }
}

/* Some bytes more of what json_base64_end ends. */
static void json_base64(rdbkit_json *s, const u8 *p, size_t n) {
    if (s->carry_n) {
        while (n && s->carry_n < 3) s->carry[s->carry_n++] = *p++, n--;
        if (s->carry_n < 3) return;
        json_threes(s, s->carry, 3);
    }
    s->carry_n = n % 3;
    json_threes(s, p, n - s->carry_n);
    for (size_t i = 0; i < s->carry_n; i++) s->carry[i] = p[n - s->carry_n + i];
}

static void json_base64_end(rdbkit_json *s) {
    size_t n = s->carry_n;
    if (!n) return;
    while (s->carry_n < 3) s->carry[s->carry_n++] = 0;
    json_threes(s, s->carry, 3);
    s->carry_n = 0;
    /* three went out just now, so the last digits are still in the buffer */
    memset(s->out.data + s->out.len - (3 - n), '=', 3 - n);
}

/* ---- strings ---- */

static const char json_mark_text[] = "utf8:", json_mark_base64[] = "base64:";

/* Whether a text begins with what would be read as a mark. */
PORT_INLINE int json_marked(const u8 *p, size_t n) {
    if (!n || (*p != 'u' && *p != 'b')) return 0;
    return (n >= 5 && !memcmp(p, json_mark_text, 5)) || (n >= 7 && !memcmp(p, json_mark_base64, 7));
}

/* The inside of a string that is long or not plain, or in base64. */
static PORT_NOINLINE void json_inside(rdbkit_json *s, rdbkit_json_encoding encoding, const u8 *p, size_t n) {
    switch (encoding) {
    case RDBKIT_JSON_AUTO:
        if (json_valid(p, p + n) == p + n) {
            if (json_marked(p, n)) out_put(&s->out, json_mark_text, 5);
            json_escaped(s, p, n, 0);
            return;
        }
        out_put(&s->out, json_mark_base64, 7);
        json_base64(s, p, n);
        json_base64_end(s);
        return;
    case RDBKIT_JSON_UTF8: json_lossy(s, p, p + n); return;
    case RDBKIT_JSON_LATIN1: json_escaped(s, p, n, 1); return;
    case RDBKIT_JSON_BASE64:
    case RDBKIT_JSON_ENCODING_N: break;
    }
    json_base64(s, p, n);
    json_base64_end(s);
}

/* A comma if there is to be one (0 or 1), text as it is, and a string in quotes. */
PORT_INLINE void json_string(rdbkit_json *s, size_t comma, const char *before, size_t before_n, rdbkit_str v) {
    const u8 *p = (const u8 *)v.data;
    out_buf *out = &s->out;
    rdbkit_json_encoding encoding = s->opt.encoding;
    out_room(out, JSON_SHORT + JSON_FIXED);
    u8 *o = out->data + out->len;
    *o = ',', o += comma;
    memcpy(o, before, before_n), o += before_n;
    *o++ = '"';
    if (PORT_LIKELY(v.len <= JSON_SHORT && encoding != RDBKIT_JSON_BASE64 && json_plain(p, v.len))) {
        if (PORT_UNLIKELY(encoding == RDBKIT_JSON_AUTO && json_marked(p, v.len)))
            memcpy(o, json_mark_text, 5), o += 5;
        port_copy(o, p, v.len);
        o += v.len;
        *o++ = '"';
        out->len = (size_t)(o - out->data);
    } else {
        out->len = (size_t)(o - out->data);
        json_inside(s, encoding, p, v.len);
        out_put(out, "\"", 1);
    }
}

/* A name that is text by its nature, whatever the encoding. */
static void json_name(rdbkit_json *s, const char *before, size_t before_n, const char *name) {
    rdbkit_json_encoding encoding = s->opt.encoding;
    rdbkit_str v = {name, strlen(name)};
    s->opt.encoding = RDBKIT_JSON_UTF8;
    json_string(s, 0, before, before_n, v);
    s->opt.encoding = encoding;
}

/* ---- numbers and marks between strings ---- */

PORT_INLINE u8 *json_text(u8 *o, const char *text, size_t n) {
    memcpy(o, text, n);
    return o + n;
}

PORT_INLINE u8 *json_word(u8 *o, const char *word) {
    return json_text(o, word, strlen(word));
}

/* "ms-seq" in quotes. */
PORT_INLINE u8 *json_id(u8 *o, rdbkit_stream_id id) {
    *o++ = '"';
    o = num_u64(o, id.ms);
    *o++ = '-';
    o = num_u64(o, id.seq);
    *o++ = '"';
    return o;
}

/* A score; what JSON has no number for is a string, and -0 has a point, lest a reader take it for an integer. */
static u8 *json_score(u8 *o, double v) {
    if (v != v) return json_text(o, JSON_TEXT("\"nan\""));
    if (v == (double)INFINITY) return json_text(o, JSON_TEXT("\"inf\""));
    if (v == -(double)INFINITY) return json_text(o, JSON_TEXT("\"-inf\""));
    o = num_double(o, v);
    return v == 0 && o[-2] == '-' ? json_text(o, JSON_TEXT(".0")) : o;
}

/* Room for what a record has besides strings; json_to ends it. */
PORT_INLINE u8 *json_from(rdbkit_json *s) {
    out_room(&s->out, JSON_FIXED);
    return s->out.data + s->out.len;
}

PORT_INLINE void json_to(rdbkit_json *s, const u8 *o) {
    s->out.len = (size_t)(o - s->out.data);
}

static void json_put(rdbkit_json *s, const char *text, size_t n) {
    out_put(&s->out, text, n);
}

PORT_INLINE int json_status(const rdbkit_json *s) {
    return PORT_UNLIKELY(s->out.sys_errno) ? RDBKIT_ERR_IO : 0;
}

/* ---- records ---- */

/* What stands before a record. */
static void json_record(rdbkit_json *s) {
    if (!s->opt.lines) json_put(s, s->begun ? ",\n" : "[\n", 2);
    s->begun = 1;
    s->some = 0;
}

/* The end of a record, with the brackets that are open in it. */
static int json_record_end(rdbkit_json *s, const char *brackets, size_t n) {
    json_put(s, brackets, n);
    if (s->opt.lines) json_put(s, "\n", 1);
    return json_status(s);
}

static int json_header(void *user, const rdbkit_header *h) {
    rdbkit_json *s = user;
    json_record(s);
    u8 *o = json_text(json_from(s), JSON_TEXT("{\"rdb\":{\"lineage\":\""));
    o = json_word(o, h->lineage == RDBKIT_VALKEY ? "valkey" : "redis");
    o = json_text(o, JSON_TEXT("\",\"version\":"));
    json_to(s, num_i64(o, h->rdb_version));
    return json_record_end(s, JSON_TEXT("}}"));
}

static int json_aux(void *user, rdbkit_str name, rdbkit_str value) {
    rdbkit_json *s = user;
    json_record(s);
    json_string(s, 0, JSON_TEXT("{\"aux\":"), name);
    json_string(s, 0, JSON_TEXT(",\"value\":"), value);
    return json_record_end(s, JSON_TEXT("}"));
}

static int json_function(void *user, rdbkit_str code, int opcode) {
    rdbkit_json *s = user;
    json_record(s);
    json_string(s, 0, JSON_TEXT("{\"function\":"), code);
    json_to(s, num_i64(json_text(json_from(s), JSON_TEXT(",\"opcode\":")), opcode));
    return json_record_end(s, JSON_TEXT("}"));
}

static int json_module_aux(void *user, const rdbkit_module_aux *aux) {
    rdbkit_json *s = user;
    json_record(s);
    json_name(s, JSON_TEXT("{\"module_aux\":"), aux->module);
    u8 *o = json_text(json_from(s), JSON_TEXT(",\"encoding_version\":"));
    o = json_text(num_i64(o, aux->encoding_version), JSON_TEXT(",\"when\":"));
    o = json_text(num_i64(o, aux->when), JSON_TEXT(",\"raw\":\""));
    json_to(s, o);
    int st = json_status(s);
    return st ? st : RDBKIT_TAKE_RAW;
}

static int json_module_aux_end(void *user) {
    rdbkit_json *s = user;
    json_base64_end(s);
    return json_record_end(s, JSON_TEXT("\"}"));
}

static int json_slot_import(void *user, rdbkit_str job, uint64_t ranges) {
    rdbkit_json *s = user;
    json_record(s);
    json_string(s, 0, JSON_TEXT("{\"slot_import\":"), job);
    json_to(s, num_u64(json_text(json_from(s), JSON_TEXT(",\"ranges\":")), ranges));
    return json_record_end(s, JSON_TEXT("}"));
}

static int json_end(void *user, int checksum) {
    rdbkit_json *s = user;
    json_record(s);
    u8 *o = json_text(json_from(s), JSON_TEXT("{\"end\":{\"checksum\":\""));
    o = json_word(o, checksum ? "verified" : "none");
    json_to(s, num_u64(json_text(o, JSON_TEXT("\",\"keys\":")), s->keys));
    s->ended = 1;
    return json_record_end(s, JSON_TEXT("}}"));
}

/* ---- keys ---- */

/* Everything up to the value. */
static int json_key(void *user, const rdbkit_key *key) {
    /* what a value begins with and ends with, by its shape: json_key_end has the other half */
    static const char *const begin[] = {"", "[", "[", "[", "{", "{\"entries\":[", "{\"module\":"};
    _Static_assert(sizeof begin / sizeof begin[0] == RDBKIT_SHAPE_N, "one per shape");
    rdbkit_json *s = user;
    s->keys++;
    s->shape = key->type->shape;
    s->entry = s->group = s->owner = 0;
    s->expiry.len = 0;
    json_record(s);
    json_string(s, 0, JSON_TEXT("{\"key\":"), key->name);
    u8 *o = num_u64(json_text(json_from(s), JSON_TEXT(",\"db\":")), key->db);
    o = json_word(json_text(o, JSON_TEXT(",\"type\":\"")), fmt_shapes[s->shape]);
    o = json_word(json_text(o, JSON_TEXT("\",\"encoding\":\"")), key->type->name);
    *o++ = '"';
    if (key->expire_ms != RDBKIT_NO_EXPIRY)
        o = num_i64(json_text(o, JSON_TEXT(",\"expire_ms\":")), key->expire_ms);
    if (key->idle_s != RDBKIT_NO_HINT) o = num_i64(json_text(o, JSON_TEXT(",\"idle_s\":")), key->idle_s);
    if (key->lfu_freq != RDBKIT_NO_HINT) o = num_i64(json_text(o, JSON_TEXT(",\"lfu_freq\":")), key->lfu_freq);
    o = json_text(o, JSON_TEXT(",\"value\":"));
    json_to(s, json_word(o, begin[s->shape]));
    int st = json_status(s);
    if (s->shape != RDBKIT_MODULE || st) return st;
    json_name(s, "", 0, key->module ? key->module : "");
    json_put(s, JSON_TEXT(",\"raw\":\""));
    return RDBKIT_TAKE_RAW;
}

static int json_raw(void *user, const void *data, size_t len) {
    rdbkit_json *s = user;
    json_base64(s, data, len);
    return json_status(s);
}

static int json_whole(void *user, rdbkit_str value) {
    rdbkit_json *s = user;
    json_string(s, 0, "", 0, value);
    s->some = 1;
    return json_status(s);
}

/* AUTO has to see a string whole, and the header says so. */
static int json_piece(void *user, rdbkit_str piece, uint64_t piece_off, uint64_t total_len) {
    (void)user, (void)piece, (void)piece_off, (void)total_len;
    return RDBKIT_ERR_USAGE;
}

/* A list's item, a set's member. */
static int json_item(void *user, rdbkit_str item) {
    rdbkit_json *s = user;
    json_string(s, s->some, "", 0, item);
    s->some = 1;
    return json_status(s);
}

static int json_scored(void *user, rdbkit_str member, double score) {
    rdbkit_json *s = user;
    json_string(s, s->some, JSON_TEXT("["), member);
    u8 *o = json_from(s);
    *o++ = ',';
    o = json_score(o, score);
    *o++ = ']';
    json_to(s, o);
    s->some = 1;
    return json_status(s);
}

static int json_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    rdbkit_json *s = user;
    json_string(s, s->some, "", 0, field);
    json_string(s, 0, JSON_TEXT(":"), value);
    s->some = 1;
    if (expire_ms != RDBKIT_NO_EXPIRY) {
        u64 len = field.len;
        mem_buf *b = &s->expiry;
        if (len > SIZE_MAX - 16 || mem_buf_room(&s->mem, b, 16 + field.len)) return RDBKIT_ERR_NOMEM;
        memcpy(b->data + b->len, &expire_ms, 8), memcpy(b->data + b->len + 8, &len, 8);
        port_copy(b->data + b->len + 16, field.data, field.len);
        b->len += 16 + field.len;
    }
    return json_status(s);
}

/* The object after a hash: its fields that expire. */
static void json_field_expiry(rdbkit_json *s) {
    json_put(s, JSON_TEXT(",\"field_expire_ms\":{"));
    size_t comma = 0;
    for (const u8 *p = s->expiry.data, *end = p + s->expiry.len; p < end; comma = 1) {
        i64 ms;
        u64 len;
        memcpy(&ms, p, 8), memcpy(&len, p + 8, 8);
        rdbkit_str field = {(const char *)p + 16, (size_t)len};
        json_string(s, comma, "", 0, field);
        u8 *o = json_from(s);
        *o++ = ':';
        json_to(s, num_i64(o, ms));
        p += 16 + field.len;
    }
    json_put(s, "}", 1);
}

/* ---- streams ---- */

static void json_entry_end(rdbkit_json *s) {
    if (s->entry) json_put(s, "]}", 2);
    s->entry = 0;
}

static void json_owner_end(rdbkit_json *s) {
    if (s->owner) json_put(s, "]}", 2);
    s->owner = 0;
}

static void json_group_end(rdbkit_json *s) {
    json_owner_end(s);
    if (s->group) json_put(s, "]}", 2);
    s->group = 0;
}

static int json_entry(void *user, rdbkit_stream_id id, uint64_t fields) {
    rdbkit_json *s = user;
    (void)fields;
    json_entry_end(s);
    u8 *o = json_from(s);
    *o = ',', o += s->some;
    o = json_id(json_text(o, JSON_TEXT("{\"id\":")), id);
    json_to(s, json_text(o, JSON_TEXT(",\"fields\":[")));
    s->some = 1, s->entry = 1;
    s->fields = 0;
    return json_status(s);
}

static int json_pair(void *user, rdbkit_str field, rdbkit_str value) {
    rdbkit_json *s = user;
    json_string(s, s->fields, JSON_TEXT("["), field);
    json_string(s, 0, JSON_TEXT(","), value);
    json_put(s, "]", 1);
    s->fields = 1;
    return json_status(s);
}

static int json_info(void *user, const rdbkit_stream_info *info) {
    rdbkit_json *s = user;
    json_entry_end(s);
    u8 *o = num_u64(json_text(json_from(s), JSON_TEXT("],\"length\":")), info->length);
    o = json_id(json_text(o, JSON_TEXT(",\"last_id\":")), info->last_id);
    o = json_id(json_text(o, JSON_TEXT(",\"first_id\":")), info->first_id);
    o = json_id(json_text(o, JSON_TEXT(",\"max_deleted\":")), info->max_deleted);
    o = num_u64(json_text(o, JSON_TEXT(",\"entries_added\":")), info->entries_added);
    json_to(s, json_text(o, JSON_TEXT(",\"groups\":[")));
    s->some = 0;
    return json_status(s);
}

static int json_group(void *user, const rdbkit_stream_group *group) {
    rdbkit_json *s = user;
    json_group_end(s);
    json_string(s, s->some, JSON_TEXT("{\"name\":"), group->name);
    u8 *o = json_id(json_text(json_from(s), JSON_TEXT(",\"last_id\":")), group->last_id);
    o = json_text(o, JSON_TEXT(",\"entries_read\":"));
    if (group->entries_read == RDBKIT_ENTRIES_READ_UNKNOWN)
        o = json_text(o, JSON_TEXT("null"));
    else
        o = num_i64(o, group->entries_read);
    o = num_u64(json_text(o, JSON_TEXT(",\"pending_n\":")), group->pending);
    json_to(s, json_text(o, JSON_TEXT(",\"consumers\":[")));
    s->some = 1, s->group = 1;
    s->consumers = 0;
    return json_status(s);
}

static int json_consumer(void *user, const rdbkit_stream_consumer *consumer) {
    rdbkit_json *s = user;
    json_owner_end(s);
    json_string(s, s->consumers, JSON_TEXT("{\"name\":"), consumer->name);
    u8 *o = num_i64(json_text(json_from(s), JSON_TEXT(",\"seen_ms\":")), consumer->seen_ms);
    o = num_i64(json_text(o, JSON_TEXT(",\"active_ms\":")), consumer->active_ms);
    json_to(s, json_text(o, JSON_TEXT(",\"pending\":[")));
    s->consumers = 1, s->owner = 1;
    s->claims = 0;
    return json_status(s);
}

static int json_pending(void *user, const rdbkit_stream_pending *p) {
    rdbkit_json *s = user;
    u8 *o = json_from(s);
    *o = ',', o += s->claims;
    *o++ = '[';
    o = json_id(o, p->id);
    *o++ = ',';
    o = num_i64(o, p->delivery_ms);
    *o++ = ',';
    o = num_u64(o, p->delivery_count);
    *o++ = ']';
    json_to(s, o);
    s->claims = 1;
    return json_status(s);
}

static int json_key_end(void *user) {
    rdbkit_json *s = user;
    switch (s->shape) {
    case RDBKIT_STRING:
    case RDBKIT_SHAPE_N:
        if (!s->some) json_put(s, JSON_TEXT("null")); /* who stands between left the value out */
        return json_record_end(s, JSON_TEXT("}"));
    case RDBKIT_LIST:
    case RDBKIT_SET:
    case RDBKIT_ZSET: return json_record_end(s, JSON_TEXT("]}"));
    case RDBKIT_HASH:
        json_put(s, "}", 1);
        if (s->expiry.len) json_field_expiry(s);
        return json_record_end(s, JSON_TEXT("}"));
    case RDBKIT_STREAM: /* the entries, if there is no more, or the groups */
        json_entry_end(s);
        json_group_end(s);
        return json_record_end(s, JSON_TEXT("]}}"));
    case RDBKIT_MODULE: break;
    }
    json_base64_end(s);
    return json_record_end(s, JSON_TEXT("\"}}"));
}

/* ---- the handle ---- */

static void json_free(rdbkit_json *s) {
    if (!s) return;
    rdbkit_allocator mem = s->mem;
    mem_buf_free(&mem, &s->expiry);
    out_free(&s->out);
    mem.free(mem.ctx, s, sizeof *s);
}

static rdbkit_json *json_new(const rdbkit_json_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_allocator mem = mem_or_std(options->allocator);
    rdbkit_json *s = mem_new(&mem, sizeof *s);
    if (!s) return NULL;
    s->mem = mem;
    s->opt = *options;
    rdbkit_visitor v = {0};
    v.user = s;
    v.header = json_header, v.aux = json_aux, v.function = json_function, v.end = json_end;
    v.module_aux = json_module_aux, v.module_aux_end = json_module_aux_end, v.slot_import = json_slot_import;
    v.key = json_key, v.raw = json_raw, v.string = json_whole, v.string_piece = json_piece;
    v.list_item = json_item, v.set_member = json_item, v.zset_member = json_scored, v.hash_field = json_field;
    v.stream_entry = json_entry, v.stream_field = json_pair, v.stream_info = json_info;
    v.stream_group = json_group, v.stream_consumer = json_consumer, v.stream_pending = json_pending;
    v.key_end = json_key_end;
    s->visitor = v;
    if (!out_init(&s->out, &mem, write_fn, ctx)) return s;
    json_free(s);
    return NULL;
}

static int json_finish(rdbkit_json *s) {
    if (s->ended && !s->closed && !s->opt.lines) json_put(s, JSON_TEXT("\n]\n"));
    s->closed = 1;
    out_flush(&s->out);
    return json_status(s);
}

/* ==== [26] rep_ : check: what occurs twice ====
 *
 * A server dies of a key that stands twice in a file, and of a field or member that stands twice in a value. To
 * see that in a file of any size in little memory, each key leaves a record of 16 bytes: 64 bits of its hash,
 * then 16 bits more and the 48-bit offset of its record. Records go to one of 128 parts by their first bits, and
 * the parts to the spill in chunks; at the end each part is looked through on its own, in as many passes as the
 * table needs. Fields and members of small collections are looked at on the spot, those of large ones leave
 * records too, hashed together with the offset of their key. Memory: 2 MiB; without a spill, 16 bytes a record.
 * Tests: tests/test_api.c, tests/test_fixtures.c */

#define REP_PARTS 128
#define REP_CHUNK 511                   /* records in a chunk; the 512th place is the link */
#define REP_SLOTS ((size_t)1 << 16)     /* of the table that a part is looked through with: stays in the cache */
#define REP_PASS (REP_SLOTS / 8 * 5)    /* records in it at the most */
#define REP_LOCAL 1024                  /* fields looked at on the spot */
#define REP_LOCAL_SLOTS (2 * REP_LOCAL)
#define REP_SHOWN 16
#define REP_OFF_MASK (((u64)1 << 48) - 1)

typedef struct rep_record {
    u64 hash;
    u64 more; /* 16 bits of hash, 48 of offset */
} rep_record;

/* What is written out: full but for the last of a part. */
typedef struct rep_chunk {
    rep_record records[REP_CHUNK];
    u64 prev; /* number of the chunk before it in the same part, counted from 1; 0: none */
    u64 n;
} rep_chunk;

typedef struct rep_slot {
    rep_record r;
    u64 epoch;
} rep_slot;

struct rdbkit_check {
    rdbkit_allocator mem;
    rdbkit_spill spill;
    int have_spill;
    rdbkit_visitor visitor;
    rep_chunk *parts; /* the chunks being filled */
    mem_buf full;     /* full chunks, where there is no spill */
    u64 chunks;       /* how many */
    u64 counts[REP_PARTS];
    u64 key_off;
    u64 fields;        /* of the collection at hand, as far as they are looked at */
    u64 epoch;         /* one a collection */
    rep_slot *local;
    int64_t found;
    rdbkit_duplicate shown[REP_SHOWN];
};

static void rep_found(rdbkit_check *c, rep_record x, rep_record y) {
    if (c->found++ >= REP_SHOWN) return;
    rdbkit_duplicate *d = &c->shown[c->found - 1];
    u64 a = x.more & REP_OFF_MASK, b = y.more & REP_OFF_MASK;
    d->first_off = a < b ? a : b;
    d->second_off = a < b ? b : a;
    d->field = a == b;
}

static int rep_same(rep_record x, rep_record y) {
    return x.hash == y.hash && !((x.more ^ y.more) & ~REP_OFF_MASK);
}

/* A part's chunk is full. */
static PORT_NOINLINE int rep_chunk_out(rdbkit_check *c, rep_chunk *part) {
    if (!c->have_spill) {
        if (mem_buf_add(&c->mem, &c->full, part, sizeof *part)) return RDBKIT_ERR_NOMEM;
    } else if (c->spill.write(c->spill.ctx, part, sizeof *part)) {
        return RDBKIT_ERR_IO;
    }
    c->counts[part - c->parts] += part->n;
    part->prev = ++c->chunks;
    part->n = 0;
    return 0;
}

PORT_INLINE int rep_add(rdbkit_check *c, rep_record x) {
    rep_chunk *part = &c->parts[x.hash >> 57];
    part->records[part->n++] = x;
    return PORT_UNLIKELY(part->n == REP_CHUNK) ? rep_chunk_out(c, part) : 0;
}

PORT_INLINE rep_record rep_record_of(u64 seed, u64 off, rdbkit_str s) {
    rep_record x;
    u64 more;
    port_hash(seed, s, &x.hash, &more); /* which an enemy can fool: findings are confirmed by reading */
    x.more = (more & ~REP_OFF_MASK) | (off & REP_OFF_MASK);
    return x;
}

static int rep_key(void *user, const rdbkit_key *key) {
    rdbkit_check *c = user;
    c->key_off = key->offset;
    c->fields = 0;
    c->epoch++;
    return rep_add(c, rep_record_of(key->db, key->offset, key->name));
}

/* The collection is too large to be looked at on the spot: what was seen of it so far leaves records. */
static int rep_leave_local(rdbkit_check *c) {
    for (size_t i = 0; i < REP_LOCAL_SLOTS; i++)
        if (c->local[i].epoch == c->epoch && rep_add(c, c->local[i].r)) return RDBKIT_ERR_IO;
    return 0;
}

static int rep_field(rdbkit_check *c, rdbkit_str s) {
    rep_record x = rep_record_of(~c->key_off, c->key_off, s);
    if (c->fields == REP_LOCAL) {
        int st = rep_leave_local(c);
        if (st) return st;
    }
    if (c->fields++ >= REP_LOCAL) return rep_add(c, x);
    rep_slot *slot = &c->local[x.hash % REP_LOCAL_SLOTS];
    while (slot->epoch == c->epoch) {
        if (rep_same(slot->r, x)) {
            rep_found(c, slot->r, x);
            return 0;
        }
        if (++slot == c->local + REP_LOCAL_SLOTS) slot = c->local;
    }
    slot->r = x;
    slot->epoch = c->epoch;
    return 0;
}

static int rep_set_member(void *user, rdbkit_str member) {
    return rep_field(user, member);
}

static int rep_zset_member(void *user, rdbkit_str member, double score) {
    (void)score;
    return rep_field(user, member);
}

static int rep_hash_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)value, (void)expire_ms;
    return rep_field(user, field);
}

/* The number-th full chunk, from 1. */
static int rep_chunk_in(rdbkit_check *c, u64 number, rep_chunk *out) {
    u64 off = (number - 1) * sizeof *out;
    if (c->have_spill) return c->spill.read(c->spill.ctx, off, out, sizeof *out) ? RDBKIT_ERR_IO : 0;
    memcpy(out, c->full.data + off, sizeof *out);
    return 0;
}

/* Put those of a chunk's records whose turn it is into the table; what is there already is a duplicate. An offset is
 * never 0 (a header comes first), so an empty place has none. */
static void rep_table_add(rdbkit_check *c, rep_record *table, const rep_chunk *chunk, u64 pass, u64 passes) {
    for (u64 i = 0; i < chunk->n; i++) {
        rep_record x = chunk->records[i];
        if (passes > 1 && (x.hash >> 20) % passes != pass) continue;
        size_t at = (size_t)x.hash % REP_SLOTS;
        while (table[at].more && !rep_same(table[at], x)) at = (at + 1) % REP_SLOTS;
        if (table[at].more)
            rep_found(c, table[at], x);
        else
            table[at] = x;
    }
}

/* Look through one part. */
static int rep_part(rdbkit_check *c, const rep_chunk *last, u64 n, rep_record *table, rep_chunk *chunk) {
    u64 passes = n / REP_PASS + 1;
    for (u64 pass = 0; pass < passes && n > 1; pass++) {
        memset(table, 0, REP_SLOTS * sizeof *table);
        rep_table_add(c, table, last, pass, passes);
        for (u64 at = last->prev; at; at = chunk->prev) {
            int st = rep_chunk_in(c, at, chunk);
            if (st) return st;
            rep_table_add(c, table, chunk, pass, passes);
        }
    }
    return 0;
}

static int64_t rep_finish(rdbkit_check *c) {
    rep_record *table = c->mem.alloc(c->mem.ctx, REP_SLOTS * sizeof *table);
    rep_chunk *chunk = c->mem.alloc(c->mem.ctx, sizeof *chunk);
    int st = table && chunk ? 0 : RDBKIT_ERR_NOMEM;
    for (size_t i = 0; i < REP_PARTS && !st; i++)
        st = rep_part(c, &c->parts[i], c->counts[i] + c->parts[i].n, table, chunk);
    if (table) c->mem.free(c->mem.ctx, table, REP_SLOTS * sizeof *table);
    if (chunk) c->mem.free(c->mem.ctx, chunk, sizeof *chunk);
    return st ? st : c->found;
}

static void rep_free(rdbkit_check *c) {
    if (!c) return;
    rdbkit_allocator mem = c->mem;
    mem_buf_free(&mem, &c->full);
    if (c->parts) mem.free(mem.ctx, c->parts, REP_PARTS * sizeof *c->parts);
    if (c->local) mem.free(mem.ctx, c->local, REP_LOCAL_SLOTS * sizeof *c->local);
    mem.free(mem.ctx, c, sizeof *c);
}

static rdbkit_check *rep_new(const rdbkit_allocator *allocator, const rdbkit_spill *spill) {
    rdbkit_allocator mem = mem_or_std(allocator);
    rdbkit_check *c = mem_new(&mem, sizeof *c);
    if (!c) return NULL;
    c->mem = mem;
    c->have_spill = spill != NULL;
    if (spill) c->spill = *spill;
    c->parts = mem.alloc(mem.ctx, REP_PARTS * sizeof *c->parts);
    for (size_t i = 0; c->parts && i < REP_PARTS; i++) c->parts[i].prev = c->parts[i].n = 0;
    c->local = mem_new(&mem, REP_LOCAL_SLOTS * sizeof *c->local);
    rdbkit_visitor v = {0};
    v.user = c;
    v.key = rep_key, v.set_member = rep_set_member, v.zset_member = rep_zset_member, v.hash_field = rep_hash_field;
    c->visitor = v;
    if (c->parts && c->local) return c;
    rep_free(c);
    return NULL;
}

/* ==== [27] aof_ : append-only files and manifests ====
 *
 * A file is read in three phases: START, until its first bytes tell whether it begins with an RDB
 * image; IMAGE, which a rdbkit_reader reads; RECORDS, one command or annotation after the other,
 * and nothing else until the end.
 *
 * A command that lies whole in the bytes fed, in the form that servers write, is taken in one pass
 * (aof_fast), its arguments slices of these bytes. All others go through aof_scan, which remembers
 * how far it came: what is cut off by the end of the bytes goes to the carry, and is not looked at
 * twice until it is complete. Then one more pass over its header lines finds the arguments.
 *
 * docs/aof.md. Tests: tests/test_aof.c, fuzz/fuzz_aof.c */

#define AOF_LINE_MAX 128  /* a header line with LF: the buffer of servers up to 6.2, later 1024 */
#define AOF_NOTE_MAX 1023 /* an annotation with '#' and LF: more falls apart in every server */
#define AOF_ARGC_MAX INT32_MAX
#define AOF_ARG_MAX ((i64)1 << 40)
#define AOF_CARRY_STEP 1024

enum aof_phase { AOF_START, AOF_IMAGE, AOF_RECORDS };

/* How far aof_scan has come in a command. Positions count from its '*'. All zero: not begun. */
typedef struct aof_record {
    u64 pos;  /* the next header line; it may lie behind the bytes at hand */
    u64 argc; /* 0: the first header line is still to be read */
    u64 seen; /* arguments whose header line was read */
    int open; /* the last of them, which ends at pos, was not seen whole */
    u64 odd_headers, odd_header_pos, odd_ends, odd_end_pos;
} aof_record;

struct rdbkit_aof {
    u64 off; /* of the record at hand */
    enum aof_phase phase;
    int status;    /* RDBKIT_OK, RDBKIT_DONE, or the error */
    mem_buf argv;  /* rdbkit_str */
    mem_buf carry; /* a record that is not complete, or empty */
    aof_record rec;
    u64 fast_argc, fast_len, max_len; /* limits; the first is the room in argv, too */
    u8 magic[6];
    size_t magic_n;
    rdbkit_reader *image;
    u64 image_fed;
    rdbkit_aof_state s;
    rdbkit_visitor rdb;
    rdbkit_aof_visitor v;
    rdbkit_aof_options opt;
    rdbkit_allocator mem;
    rdbkit_error error;
};

/* ---- errors ---- */

static void aof_error_start(rdbkit_aof *a, int code, u64 off) {
    rdbkit_error *e = &a->error;
    memset(e, 0, sizeof *e);
    e->code = a->status = code;
    e->offset = off;
    e->blob_offset = RDBKIT_NO_OFFSET;
    e->db = a->s.db;
}

/* The argument that aof_scan is at, from 1. */
static u64 aof_at_argument(const rdbkit_aof *a) {
    return a->rec.seen + !a->rec.open;
}

/* What stands at pos of the record at hand cannot be accepted. */
static PORT_NOINLINE int PORT_PRINTF(4, 5) aof_fail(rdbkit_aof *a, int code, u64 pos,
                                                    const char *fmt, ...) {
    rdbkit_error *e = &a->error;
    va_list ap;
    aof_error_start(a, code, a->off + pos);
    if (a->rec.argc)
        err_add(e->message, sizeof e->message, "argument %llu of %llu",
                (unsigned long long)aof_at_argument(a), (unsigned long long)a->rec.argc);
    else
        err_add(e->message, sizeof e->message, "record");
    err_add(e->message, sizeof e->message, " at %llu: ", (unsigned long long)e->offset);
    va_start(ap, fmt);
    err_vadd(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    if (a->rec.argc)
        err_add(e->message, sizeof e->message, "; record at %llu", (unsigned long long)a->off);
    return code;
}

/* The same, for bytes of the file, which are shown, where others are wanted. */
static PORT_NOINLINE int aof_fail_bytes(rdbkit_aof *a, u64 pos, const u8 *found, size_t len,
                                        const char *wanted) {
    char text[200] = "";
    err_add_quoted(text, sizeof text, found, len < 40 ? len : 40);
    return aof_fail(a, RDBKIT_ERR_DAMAGED, pos, "%s%s, %s wanted", text, len > 40 ? "..." : "",
                    wanted);
}

static int aof_nomem(rdbkit_aof *a) {
    return aof_fail(a, RDBKIT_ERR_NOMEM, 0, "out of memory");
}

/* The answer of a callback that is not RDBKIT_OK. */
static PORT_NOINLINE int aof_stop(rdbkit_aof *a, int answer) {
    int code = answer < 0 ? answer : RDBKIT_ERR_USAGE;
    return aof_fail(a, code, 0, "%s", rdbkit_status_text(code));
}

/* ---- header lines ---- */

static int aof_blank(u8 b) {
    return b == ' ' || (b >= '\t' && b <= '\r');
}

/* Read a number as atoll() does: blanks and a sign in front, anything behind. Stops at the ends of
 * i64. 0, or -1 if there is no digit. */
static int aof_atoll(const u8 *p, const u8 *end, i64 *v) {
    u64 n = 0;
    while (p < end && aof_blank(*p)) p++;
    int neg = p < end && *p == '-';
    u64 max = (u64)INT64_MAX + (u64)neg;
    if (p < end && (*p == '-' || *p == '+')) p++;
    if (p == end || *p < '0' || *p > '9') return -1;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        u64 digit = (u64)(*p - '0');
        n = n > (max - digit) / 10 ? max : n * 10 + digit;
    }
    *v = neg ? (i64)(0 - n) : (i64)n;
    return 0;
}

/* The header line at rec.pos, which begins with mark: its number, and pos moves behind it. */
static int aof_line(rdbkit_aof *a, const u8 *base, size_t len, u8 mark, i64 *v) {
    aof_record *c = &a->rec;
    const u8 *p = base + c->pos;
    size_t room = len - (size_t)c->pos;
    if (room > AOF_LINE_MAX) room = AOF_LINE_MAX;
    if (!room) return RDBKIT_MORE;
    const char *wanted = mark == '*' ? "* and a number of arguments" : "$ and a length";
    if (*p != mark) return aof_fail_bytes(a, c->pos, p, 1, c->argc ? wanted : "* or #");
    const u8 *lf = memchr(p, '\n', room);
    if (!lf && room < AOF_LINE_MAX) return RDBKIT_MORE;
    if (!lf)
        return aof_fail(a, RDBKIT_ERR_DAMAGED, c->pos, "line of more than %d bytes, %s wanted",
                        AOF_LINE_MAX, wanted);
    int odd = lf[-1] != '\r' || num_parse_i64(p + 1, (size_t)(lf - p) - 2, v);
    if (odd && (a->opt.strict || aof_atoll(p + 1, lf, v)))
        return aof_fail_bytes(a, c->pos, p, (size_t)(lf - p), wanted);
    if (odd && !c->odd_headers++) c->odd_header_pos = c->pos;
    c->pos += (u64)(lf - p) + 1;
    return 0;
}

static int aof_limit(rdbkit_aof *a, u64 pos, const char *what, u64 found, u64 max) {
    return aof_fail(a, RDBKIT_ERR_LIMIT, pos, "%s of %llu, the limit is %llu", what,
                    (unsigned long long)found, (unsigned long long)max);
}

static int aof_argc(rdbkit_aof *a, const u8 *base, size_t len) {
    i64 n = 0;
    int st = aof_line(a, base, len, '*', &n);
    if (st) return st;
    if (n < 1 || n > AOF_ARGC_MAX)
        return aof_fail(a, RDBKIT_ERR_DAMAGED, 0, "command of %lld arguments, 1 to %lld wanted",
                        (long long)n, (long long)AOF_ARGC_MAX);
    if (a->opt.max_args && (u64)n > a->opt.max_args)
        return aof_limit(a, 0, "number of arguments", (u64)n, a->opt.max_args);
    a->rec.argc = (u64)n;
    return 0;
}

/* Room for one argument more in argv. */
static int aof_argv_room(rdbkit_aof *a) {
    if (mem_buf_grow(&a->mem, &a->argv, ((size_t)a->rec.seen + 1) * sizeof(rdbkit_str)))
        return aof_nomem(a);
    u64 room = a->argv.cap / sizeof(rdbkit_str);
    a->fast_argc = a->opt.max_args && a->opt.max_args < room ? a->opt.max_args : room;
    return 0;
}

/* The header line of an argument. keep: note down where its bytes are; all of them are at hand
 * then, or they do not matter yet. */
static int aof_argument(rdbkit_aof *a, const u8 *base, size_t len, int keep) {
    aof_record *c = &a->rec;
    u64 at = c->pos;
    i64 n = 0;
    int st = aof_line(a, base, len, '$', &n);
    if (st) return st;
    if (n < 0 || n > AOF_ARG_MAX)
        return aof_fail(a, RDBKIT_ERR_DAMAGED, at, "length %lld, 0 to %lld wanted", (long long)n,
                        (long long)AOF_ARG_MAX);
    if ((u64)n > a->fast_len) return aof_limit(a, at, "length", (u64)n, a->fast_len);
    if (c->pos + (u64)n + 2 > a->max_len)
        return aof_limit(a, at, "length of the record", c->pos + (u64)n + 2, a->max_len);
    if (keep) {
        if (c->seen >= a->argv.cap / sizeof(rdbkit_str) && (st = aof_argv_room(a))) return st;
        rdbkit_str s = {(const char *)base + c->pos, (size_t)n};
        memcpy(a->argv.data + c->seen * sizeof s, &s, sizeof s);
    }
    c->pos += (u64)n + 2;
    c->seen++;
    c->open = 1;
    return 0;
}

/* The two bytes behind an argument: servers step over them, whatever they are. */
static int aof_argument_end(rdbkit_aof *a, const u8 *end) {
    aof_record *c = &a->rec;
    if (end[0] != '\r' || end[1] != '\n') {
        if (a->opt.strict)
            return aof_fail_bytes(a, c->pos - 2, end, 2, "CR LF behind the argument");
        if (!c->odd_ends++) c->odd_end_pos = c->pos - 2;
    }
    c->open = 0;
    return 0;
}

/* Go on with the command that begins at base. 0: it is complete and ends at rec.pos. */
static int aof_scan(rdbkit_aof *a, const u8 *base, size_t len, int keep) {
    aof_record *c = &a->rec;
    int st = 0;
    while (!st) {
        if (c->open && c->pos > len) return RDBKIT_MORE;
        if (c->open && (st = aof_argument_end(a, base + c->pos - 2))) return st;
        if (c->argc && c->seen == c->argc) return 0;
        st = c->argc ? aof_argument(a, base, len, keep) : aof_argc(a, base, len);
    }
    return st;
}

/* A plain decimal number of up to 6 digits, and CR LF. At least 8 bytes are there. NULL: something
 * else. */
PORT_INLINE const u8 *aof_fast_num(const u8 *p, u64 *v) {
    u64 n = (u64)*p - '0';
    if (PORT_UNLIKELY(n > 9)) return NULL;
    for (int i = 1; i < 7; i++) {
        u64 digit = (u64)p[i] - '0';
        if (p[i] == '\r') {
            *v = n;
            return p[i + 1] == '\n' ? p + i + 2 : NULL;
        }
        if (digit > 9 || n == 0) return NULL;
        n = n * 10 + digit;
    }
    return NULL;
}

/* A whole command in the form that servers write: its arguments, and where it ends. NULL: look
 * closer. */
PORT_INLINE const u8 *aof_fast(const rdbkit_aof *a, const u8 *p, const u8 *end, u64 *argc) {
    const u8 *base = p;
    rdbkit_str *arg = (rdbkit_str *)(void *)a->argv.data;
    u64 n = 0, len;
    if (end - p < 9 || !(p = aof_fast_num(p + 1, &n)) || n == 0 || n > a->fast_argc) return NULL;
    *argc = n;
    for (; n; n--, arg++) {
        if (end - p < 9 || *p != '$' || !(p = aof_fast_num(p + 1, &len))) return NULL;
        if (len > a->fast_len || len + 2 > (u64)(end - p)) return NULL;
        arg->data = (const char *)p, arg->len = (size_t)len;
        p += len;
        if (p[0] != '\r' || p[1] != '\n') return NULL;
        p += 2;
    }
    return (u64)(p - base) <= a->max_len ? p : NULL;
}

/* ---- commands and annotations ---- */

enum aof_word { AOF_OTHER, AOF_MULTI, AOF_EXEC, AOF_SELECT };

/* The commands that matter to the reader, in any case. */
PORT_INLINE enum aof_word aof_word(rdbkit_str name) {
#define AOF_4(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)
    if (name.len < 4 || name.len > 6) return AOF_OTHER;
    const u8 *p = (const u8 *)name.data;
    u32 head = port_le32(p) | 0x20202020;
    if (name.len == 4) return head == AOF_4('e', 'x', 'e', 'c') ? AOF_EXEC : AOF_OTHER;
    if (name.len == 5)
        return head == AOF_4('m', 'u', 'l', 't') && (p[4] | 32) == 'i' ? AOF_MULTI : AOF_OTHER;
    return head == AOF_4('s', 'e', 'l', 'e') && (p[4] | 32) == 'c' && (p[5] | 32) == 't'
               ? AOF_SELECT
               : AOF_OTHER;
}

/* A record of len bytes is complete, and was given out. */
PORT_INLINE void aof_pass(rdbkit_aof *a, u64 len) {
    a->off += len;
    a->s.good_any_off = a->off;
    if (a->s.multi_off == RDBKIT_NO_OFFSET) a->s.good_off = a->off;
}

/* What MULTI, EXEC and SELECT change. As in servers a MULTI inside a transaction and an EXEC
 * outside of one are swallowed, and DISCARD is a queued command like others. A SELECT that is
 * queued counts from there on, as the commands behind it run after it. */
static PORT_NOINLINE void aof_obey(rdbkit_aof *a, enum aof_word word, const rdbkit_str *argv,
                                   u64 argc) {
    i64 db;
    if (word == AOF_MULTI && a->s.multi_off == RDBKIT_NO_OFFSET) a->s.multi_off = a->off;
    if (word == AOF_EXEC) a->s.multi_off = RDBKIT_NO_OFFSET;
    if (word != AOF_SELECT || argc != 2 || num_parse_i64(argv[1].data, argv[1].len, &db)) return;
    if (db >= 0 && db <= INT32_MAX) a->s.db = (u64)db;
}

/* Give out the command of len bytes at base, whose arguments are in argv. */
PORT_INLINE int aof_command(rdbkit_aof *a, const u8 *base, size_t len, u64 argc) {
    const rdbkit_str *argv = (const rdbkit_str *)(const void *)a->argv.data;
    enum aof_word word = aof_word(argv[0]);
    if (a->v.command) {
        rdbkit_command c = {.argv = argv, .argc = (size_t)argc, .offset = a->off, .db = a->s.db};
        c.raw.data = (const char *)base, c.raw.len = len;
        c.timestamp_s = a->s.timestamp_s;
        c.in_multi = a->s.multi_off != RDBKIT_NO_OFFSET && word != AOF_EXEC;
        int st = a->v.command(a->v.user, &c);
        if (PORT_UNLIKELY(st)) return aof_stop(a, st);
    }
    if (word != AOF_OTHER) aof_obey(a, word, argv, argc);
    a->s.commands++;
    aof_pass(a, len);
    return 0;
}

/* An annotation. *n: its length. */
static int aof_note(rdbkit_aof *a, const u8 *base, size_t len, size_t *n) {
    size_t room = len < AOF_NOTE_MAX ? len : AOF_NOTE_MAX;
    const u8 *lf = memchr(base, '\n', room);
    i64 ts;
    if (!lf && room < AOF_NOTE_MAX) return RDBKIT_MORE;
    if (!lf)
        return aof_fail(a, RDBKIT_ERR_DAMAGED, 0, "annotation of more than %d bytes", AOF_NOTE_MAX);
    rdbkit_str text = {(const char *)base + 1, (size_t)(lf - base) - 1};
    if (text.len && text.data[text.len - 1] == '\r') text.len--;
    int st = a->v.annotation ? a->v.annotation(a->v.user, text, a->off) : 0;
    if (st) return aof_stop(a, st);
    /* redis-check-aof takes a plain number alone */
    if (text.len > 3 && !memcmp(text.data, "TS:", 3) &&
        !num_parse_i64(text.data + 3, text.len - 3, &ts)) {
        if (a->s.first_timestamp_s == RDBKIT_NO_TIMESTAMP) a->s.first_timestamp_s = ts;
        a->s.timestamp_s = ts;
    }
    a->s.annotations++;
    *n = (size_t)(lf - base) + 1;
    aof_pass(a, *n);
    return 0;
}

/* What was odd about the complete command at offset off. */
static void aof_count_odd(rdbkit_aof_state *s, const aof_record *c, u64 off) {
    if (c->odd_headers && !s->odd_headers) s->odd_header_first = off + c->odd_header_pos;
    if (c->odd_ends && !s->odd_ends) s->odd_end_first = off + c->odd_end_pos;
    s->odd_headers += c->odd_headers;
    s->odd_ends += c->odd_ends;
}

/* The record that begins at base. *n: its length, if it is complete. carried: base is the carry,
 * and rec says how far it was looked at. */
static PORT_NOINLINE int aof_one(rdbkit_aof *a, const u8 *base, size_t len, int carried,
                                 size_t *n) {
    if (*base == '#') return aof_note(a, base, len, n);
    int st = aof_scan(a, base, len, !carried);
    if (!st && carried) {
        memset(&a->rec, 0, sizeof a->rec);
        st = aof_scan(a, base, len, 1);
    }
    if (st) return st;
    aof_record c = a->rec;
    u64 off = a->off;
    memset(&a->rec, 0, sizeof a->rec);
    *n = (size_t)c.pos;
    st = aof_command(a, base, *n, c.argc);
    if (!st) aof_count_odd(&a->s, &c, off);
    return st;
}

/* ---- the window ---- */

/* Complete the record in the carry, and take no more of the new bytes than that takes. */
static int aof_run_carry(rdbkit_aof *a, const u8 **data, size_t *len) {
    mem_buf *c = &a->carry;
    size_t n = 0;
    int st = RDBKIT_MORE;
    while (*len && st == RDBKIT_MORE) {
        u64 want = a->rec.pos > c->len ? a->rec.pos - c->len : 0;
        if (want < AOF_CARRY_STEP) want = AOF_CARRY_STEP;
        size_t take = want < *len ? (size_t)want : *len;
        if (mem_buf_add(&a->mem, c, *data, take)) return aof_nomem(a);
        *data += take, *len -= take;
        st = aof_one(a, c->data, c->len, 1, &n);
    }
    if (st) return st;
    *data -= c->len - n, *len += c->len - n;
    c->len = 0;
    return 0;
}

static int aof_records(rdbkit_aof *a, const u8 *data, size_t len) {
    int st = a->carry.len ? aof_run_carry(a, &data, &len) : 0;
    const u8 *p = data, *end = data + len, *next;
    while (p < end && !st) {
        u64 argc = 0;
        size_t n = 0;
        if (PORT_LIKELY(*p == '*' && (next = aof_fast(a, p, end, &argc)))) {
            st = aof_command(a, p, (size_t)(next - p), argc);
            p = next;
        } else {
            st = aof_one(a, p, (size_t)(end - p), 0, &n);
            p += n;
        }
    }
    if (st == RDBKIT_MORE && p < end && mem_buf_add(&a->mem, &a->carry, p, (size_t)(end - p)))
        return aof_nomem(a);
    return st == RDBKIT_MORE ? 0 : st;
}

/* ---- the image ---- */

static int aof_image_failed(rdbkit_aof *a) {
    a->error = *rdbkit_reader_error(a->image);
    return a->status = a->error.code;
}

static int aof_image_start(rdbkit_aof *a) {
    rdbkit_reader_options ro = a->opt.rdb;
    if (!ro.allocator) ro.allocator = &a->mem;
    a->image = rdbkit_reader_new(&ro, &a->rdb);
    if (!a->image) return aof_nomem(a);
    a->phase = AOF_IMAGE;
    a->s.has_rdb = 1;
    a->image_fed = a->magic_n;
    return rdbkit_reader_feed(a->image, a->magic, a->magic_n) < 0 ? aof_image_failed(a) : 0;
}

/* Byte by byte, until it is clear what the file begins with. */
static int aof_start(rdbkit_aof *a, const u8 **data, size_t *len) {
    while (*len) {
        size_t n = a->magic_n;
        u8 b = **data;
        const char *magic = (n ? a->magic[0] : b) == 'V' ? "VALKEY" : "REDIS";
        if (b != (u8)magic[n]) {
            a->phase = AOF_RECORDS;
            return n ? aof_fail_bytes(a, 0, a->magic, 1, "* or #") : 0;
        }
        a->magic[a->magic_n++] = b;
        ++*data, --*len;
        if (!magic[a->magic_n]) return aof_image_start(a);
    }
    return 0;
}

static int aof_image(rdbkit_aof *a, const u8 **data, size_t *len) {
    int st = rdbkit_reader_feed(a->image, *data, *len);
    if (st < 0) return aof_image_failed(a);
    a->image_fed += *len;
    u64 end = rdbkit_reader_offset(a->image);
    size_t rest = st == RDBKIT_DONE ? (size_t)(a->image_fed - end) : 0;
    *data += *len - rest, *len = rest;
    if (st != RDBKIT_DONE) return 0;
    a->s.rdb_verified = rdbkit_reader_verified(a->image);
    a->s.rdb_end = end;
    rdbkit_reader_free(a->image);
    a->image = NULL;
    a->phase = AOF_RECORDS;
    aof_pass(a, end);
    st = a->v.rdb_end ? a->v.rdb_end(a->v.user, end) : 0;
    return st ? aof_stop(a, st) : 0;
}

/* ---- entry points ---- */

void rdbkit_aof_options_init(rdbkit_aof_options *options) {
    memset(options, 0, sizeof *options);
    rdbkit_reader_options_init(&options->rdb);
}

rdbkit_aof *rdbkit_aof_new(const rdbkit_aof_options *options, const rdbkit_aof_visitor *visitor) {
    rdbkit_allocator mem = mem_or_std(options ? options->allocator : NULL);
    rdbkit_aof *a = mem_new(&mem, sizeof *a);
    if (!a) return NULL;
    a->mem = mem;
    rdbkit_aof_options_init(&a->opt);
    if (options) a->opt = *options;
    if (visitor) a->v = *visitor;
    if (a->v.rdb) a->rdb = *a->v.rdb;
    a->fast_len = a->opt.max_arg_len ? a->opt.max_arg_len : UINT64_MAX;
    a->max_len = a->opt.max_command_len ? a->opt.max_command_len : UINT64_MAX;
    if (a->max_len > SIZE_MAX / 2) a->max_len = SIZE_MAX / 2;
    a->s.rdb_end = a->s.multi_off = a->s.odd_header_first = a->s.odd_end_first = RDBKIT_NO_OFFSET;
    a->s.first_timestamp_s = a->s.timestamp_s = RDBKIT_NO_TIMESTAMP;
    a->error.offset = a->error.blob_offset = RDBKIT_NO_OFFSET;
    a->error.db = RDBKIT_NO_DB;
    return a;
}

void rdbkit_aof_free(rdbkit_aof *a) {
    if (!a) return;
    rdbkit_allocator mem = a->mem;
    rdbkit_reader_free(a->image);
    mem_buf_free(&mem, &a->argv);
    mem_buf_free(&mem, &a->carry);
    mem.free(mem.ctx, a, sizeof *a);
}

int rdbkit_aof_feed(rdbkit_aof *a, const void *buf, size_t len) {
    const u8 *data = buf;
    int st = a->status;
    if (st) return st;
    if (len && a->phase == AOF_START) st = aof_start(a, &data, &len);
    if (!st && len && a->phase == AOF_IMAGE) st = aof_image(a, &data, &len);
    if (!st && len && a->phase == AOF_RECORDS) st = aof_records(a, data, len);
    return st ? st : RDBKIT_MORE;
}

/* The input ends inside a record. */
static int aof_cut(rdbkit_aof *a) {
    rdbkit_error *e = &a->error;
    char *text = e->message;
    size_t size = sizeof e->message;
    int note = a->carry.data[0] == '#';
    aof_error_start(a, RDBKIT_ERR_TRUNCATED, a->off);
    err_add(text, size, "%s at %llu: the input ends after %zu bytes",
            note ? "annotation" : "record", (unsigned long long)a->off, a->carry.len);
    if (a->rec.argc)
        err_add(text, size, ", in argument %llu of %llu", (unsigned long long)aof_at_argument(a),
                (unsigned long long)a->rec.argc);
    else
        err_add(text, size, ", in its %s line", note ? "only" : "first");
    if (a->s.multi_off != RDBKIT_NO_OFFSET)
        err_add(text, size, "; the transaction at %llu is open",
                (unsigned long long)a->s.multi_off);
    return a->status;
}

int rdbkit_aof_finish(rdbkit_aof *a) {
    if (a->status) return a->status;
    if (a->phase == AOF_START && a->magic_n && aof_image_start(a)) return a->status;
    if (a->phase == AOF_IMAGE) {
        rdbkit_reader_finish(a->image);
        return aof_image_failed(a);
    }
    if (a->carry.len) return aof_cut(a);
    if (a->s.multi_off == RDBKIT_NO_OFFSET) return a->status = RDBKIT_DONE;
    aof_error_start(a, RDBKIT_ERR_TRUNCATED, a->s.multi_off);
    err_add(a->error.message, sizeof a->error.message,
            "transaction at %llu: the input ends, EXEC wanted", (unsigned long long)a->s.multi_off);
    return a->status;
}

int rdbkit_aof_pull(rdbkit_aof *a, rdbkit_input *in) {
    const u8 *data = NULL;
    size_t len = 0;
    int st;
    if (a->status) return a->status;
    while ((st = in_next(in, &data, &len)) == RDBKIT_OK)
        if ((st = rdbkit_aof_feed(a, data, len)) != RDBKIT_MORE) return st;
    if (st == RDBKIT_DONE) return rdbkit_aof_finish(a);
    u64 off =
        a->image ? a->image_fed : a->off + a->magic_n * (a->phase == AOF_START) + a->carry.len;
    const char *what = st == RDBKIT_ERR_IO ? strerror(in->sys_errno) : rdbkit_status_text(st);
    aof_error_start(a, st, off);
    a->error.sys_errno = in->sys_errno;
    err_add(a->error.message, sizeof a->error.message, "input at %llu: %s%s",
            (unsigned long long)off, in->gzip ? "gzip: " : "", what);
    return a->status;
}

uint64_t rdbkit_aof_offset(const rdbkit_aof *a) {
    return a->image ? rdbkit_reader_offset(a->image) : a->off;
}

const rdbkit_error *rdbkit_aof_error(const rdbkit_aof *a) {
    return &a->error;
}

const rdbkit_aof_state *rdbkit_aof_progress(const rdbkit_aof *a) {
    return &a->s;
}

/* ---- manifests ----
 *
 * Lines as fgets() gives them to the servers: up to LF, or 1024 bytes. So a comment that is longer
 * goes on as a line of its own, and a last line without LF is refused like one that is too long. */

#define AOF_MANIFEST_LINE (RDBKIT_MANIFEST_LINE_MAX - 1)

struct rdbkit_manifest {
    rdbkit_allocator mem;
    mem_buf text;  /* the lines, with their words unquoted in place */
    mem_buf files; /* rdbkit_manifest_file, in load order */
};

/* A manifest that is being read. */
typedef struct aof_manifest {
    rdbkit_manifest *m;
    rdbkit_error *e;
    mem_buf files; /* in the order of the lines */
    u64 line, line_off;
    i64 last_seq; /* of the increments so far */
    int has_base;
} aof_manifest;

static PORT_NOINLINE int PORT_PRINTF(3, 4) aof_manifest_fail(aof_manifest *x, int code,
                                                             const char *fmt, ...) {
    rdbkit_error *e = x->e;
    va_list ap;
    e->code = code;
    e->offset = x->line_off;
    if (x->line)
        err_add(e->message, sizeof e->message, "line %llu at %llu: ", (unsigned long long)x->line,
                (unsigned long long)x->line_off);
    va_start(ap, fmt);
    err_vadd(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return code;
}

static size_t aof_manifest_line_len(const u8 *p, size_t len) {
    if (len > AOF_MANIFEST_LINE) len = AOF_MANIFEST_LINE;
    const u8 *lf = len ? memchr(p, '\n', len) : NULL;
    return lf ? (size_t)(lf - p) + 1 : len;
}

static int aof_hex(u8 b) {
    if (b >= '0' && b <= '9') return b - '0';
    return (b | 32) >= 'a' && (b | 32) <= 'f' ? (b | 32) - 'a' + 10 : -1;
}

/* The byte that a backslash stands for, in double quotes; *pp is behind the backslash, and not at
 * the end. */
static u8 aof_unescape(u8 **pp, const u8 *end) {
    static const char named[] = "nrtba", meant[] = "\n\r\t\b\a";
    u8 *p = *pp, b = *p;
    int hex = b == 'x' && end - p > 2 && aof_hex(p[1]) >= 0 && aof_hex(p[2]) >= 0;
    *pp = p + (hex ? 3 : 1);
    if (hex) return (u8)(aof_hex(p[1]) * 16 + aof_hex(p[2]));
    const char *at = b ? strchr(named, b) : NULL;
    return at ? (u8)meant[at - named] : b;
}

/* The next word, split as in redis.conf: "..." with escapes, '...' with \', either anywhere in a
 * word but at its end. It is unquoted in place, and ends at a NUL as for servers. 1, 0 at the end,
 * -1 if quotes do not close. */
static int aof_manifest_word(u8 **pp, u8 *end, rdbkit_str *word) {
    u8 *p = *pp, *out, *begin, quote = 0;
    while (p < end && aof_blank(*p)) p++;
    if (p == end) return 0;
    for (begin = out = p; p < end;) {
        u8 b = *p++;
        if (!quote && (b == ' ' || b == '\t' || b == '\r' || b == '\n')) break;
        if (quote && b == quote) {
            if (p < end && !aof_blank(*p)) return -1;
            quote = 0;
            break;
        }
        if (!quote && (b == '"' || b == '\'')) {
            quote = b;
            continue;
        }
        if (b == '\\' && p < end && (quote == '"' || (quote == '\'' && *p == '\'')))
            b = quote == '"' ? aof_unescape(&p, end) : *p++;
        *out++ = b;
    }
    if (quote) return -1;
    *out = 0; /* where a blank, a quote or LF was */
    word->data = (const char *)begin, word->len = strlen(word->data);
    *pp = p;
    return 1;
}

/* Whether a word is this one, in any case. */
static int aof_manifest_is(rdbkit_str word, const char *lower) {
    size_t len = strlen(lower);
    for (size_t i = 0; i < len; i++)
        if (i >= word.len || ((u8)word.data[i] | 32) != (u8)lower[i]) return 0;
    return word.len == len;
}

/* A file has to be in the manifest's own folder. */
static int aof_manifest_name_ok(rdbkit_str name) {
    return name.len && !memchr(name.data, '/', name.len) && !memchr(name.data, '\\', name.len);
}

static int aof_manifest_pair(aof_manifest *x, rdbkit_manifest_file *f, rdbkit_str key,
                             rdbkit_str value) {
    const u8 *v = (const u8 *)value.data;
    if (aof_manifest_is(key, "file")) {
        f->name = value;
        if (!aof_manifest_name_ok(value))
            return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "name of a file is empty, or a path");
    } else if (aof_manifest_is(key, "seq")) {
        f->seq = 0;
        aof_atoll(v, v + value.len, &f->seq);
    } else if (aof_manifest_is(key, "type")) {
        f->type = value.len ? value.data[0] : 0;
    } else if (aof_manifest_is(key, "startoffset")) {
        if (num_parse_i64(v, value.len, &f->start_offset) || f->start_offset < 0)
            f->start_offset = -1;
    } else if (aof_manifest_is(key, "endoffset")) {
        if (num_parse_i64(v, value.len, &f->end_offset) || f->end_offset < 0) f->end_offset = -1;
    }
    return 0;
}

/* What a file says of itself, and whether it may come here. */
static int aof_manifest_judge(aof_manifest *x, const rdbkit_manifest_file *f) {
    const char *none = !f->name.len ? "file" : !f->seq ? "seq other than 0" : "type";
    if (!f->name.len || !f->seq || !f->type)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "no %s", none);
    if (f->type == 'b' && x->has_base)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "second file of type b");
    if (f->type == 'i' && f->seq <= x->last_seq)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED,
                                 "increment of seq %lld, more than %lld wanted", (long long)f->seq,
                                 (long long)x->last_seq);
    if (f->type != 'b' && f->type != 'i' && f->type != 'h') {
        char text[16] = "";
        err_add_quoted(text, sizeof text, &f->type, 1);
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "type %s, b, h or i wanted", text);
    }
    if (f->type == 'b') x->has_base = 1;
    if (f->type == 'i') x->last_seq = f->seq;
    return 0;
}

/* One line of len bytes, with its LF. */
static int aof_manifest_read(aof_manifest *x, u8 *p, size_t len) {
    rdbkit_manifest_file f = {.start_offset = -1, .end_offset = -1, .line = x->line};
    rdbkit_str word[2] = {{NULL, 0}, {NULL, 0}};
    u8 *end = p + len;
    int words = 0, st;
    if (*p == '#') return 0;
    if (memchr(p, 0, len)) return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "line with a NUL byte");
    if (end[-1] != '\n')
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "line %s",
                                 len == AOF_MANIFEST_LINE ? "of more than 1024 bytes"
                                                          : "that is not ended by LF");
    end--; /* a word may put its terminator there */
    for (; (st = aof_manifest_word(&p, end, &word[words & 1])) > 0; words++)
        if ((words & 1) && (st = aof_manifest_pair(x, &f, word[0], word[1]))) return st;
    if (st < 0)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED,
                                 "quotes that do not close, or not at the end of a word");
    if (words < 6 || words & 1)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED,
                                 "%d words, an even number of at least 6 wanted", words);
    if ((st = aof_manifest_judge(x, &f))) return st;
    if (mem_buf_add(&x->m->mem, &x->files, &f, sizeof f))
        return aof_manifest_fail(x, RDBKIT_ERR_NOMEM, "out of memory");
    return 0;
}

static int aof_manifest_run(aof_manifest *x, const void *text, size_t len) {
    rdbkit_manifest *m = x->m;
    int st = 0;
    if (len == 0) return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "empty manifest");
    if (mem_buf_add(&m->mem, &m->text, text, len))
        return aof_manifest_fail(x, RDBKIT_ERR_NOMEM, "out of memory");
    for (size_t n = 0; x->line_off < len && !st; x->line_off += st ? 0 : n) {
        u8 *p = m->text.data + x->line_off;
        n = aof_manifest_line_len(p, len - (size_t)x->line_off);
        x->line++;
        st = aof_manifest_read(x, p, n);
    }
    if (st) return st;
    for (const char *type = "bih"; *type; type++)
        for (size_t at = 0; at < x->files.len; at += sizeof(rdbkit_manifest_file)) {
            const rdbkit_manifest_file *f =
                (const rdbkit_manifest_file *)(const void *)(x->files.data + at);
            if (f->type == *type && mem_buf_add(&m->mem, &m->files, f, sizeof *f))
                return aof_manifest_fail(x, RDBKIT_ERR_NOMEM, "out of memory");
        }
    return 0;
}

rdbkit_manifest *rdbkit_manifest_parse(const rdbkit_allocator *allocator, const void *text,
                                       size_t len, rdbkit_error *error) {
    rdbkit_allocator mem = mem_or_std(allocator);
    rdbkit_error unwanted;
    aof_manifest x = {.m = mem_new(&mem, sizeof(rdbkit_manifest)), .e = error ? error : &unwanted};
    memset(x.e, 0, sizeof *x.e);
    x.e->offset = x.e->blob_offset = RDBKIT_NO_OFFSET;
    x.e->db = RDBKIT_NO_DB;
    if (!x.m) {
        aof_manifest_fail(&x, RDBKIT_ERR_NOMEM, "out of memory");
        return NULL;
    }
    x.m->mem = mem;
    int st = aof_manifest_run(&x, text, len);
    mem_buf_free(&mem, &x.files);
    if (!st) return x.m;
    rdbkit_manifest_free(x.m);
    return NULL;
}

void rdbkit_manifest_free(rdbkit_manifest *m) {
    if (!m) return;
    rdbkit_allocator mem = m->mem;
    mem_buf_free(&mem, &m->text);
    mem_buf_free(&mem, &m->files);
    mem.free(mem.ctx, m, sizeof *m);
}

size_t rdbkit_manifest_count(const rdbkit_manifest *m) {
    return m->files.len / sizeof(rdbkit_manifest_file);
}

const rdbkit_manifest_file *rdbkit_manifest_at(const rdbkit_manifest *m, size_t index) {
    const rdbkit_manifest_file *files = (const rdbkit_manifest_file *)(const void *)m->files.data;
    return index < rdbkit_manifest_count(m) ? files + index : NULL;
}

/* Bare words hold neither blanks nor quotes. Servers write ' bare, and then cannot read their own
 * file. */
static int aof_manifest_bare(rdbkit_str name) {
    for (size_t i = 0; i < name.len; i++) {
        u8 b = (u8)name.data[i];
        if (b <= ' ' || b >= 127 || b == '"' || b == '\'') return 0;
    }
    return 1;
}

int rdbkit_manifest_line(char *buf, size_t size, const rdbkit_manifest_file *file) {
    char text[RDBKIT_MANIFEST_LINE_MAX + 16] = "file ";
    rdbkit_str name = file->name;
    if (!aof_manifest_name_ok(name) || memchr(name.data, 0, name.len) || !file->seq)
        return RDBKIT_ERR_USAGE;
    if (file->type != 'b' && file->type != 'i' && file->type != 'h') return RDBKIT_ERR_USAGE;
    if (name.len > AOF_MANIFEST_LINE) return RDBKIT_ERR_LIMIT;
    if (aof_manifest_bare(name))
        err_add(text, sizeof text, "%.*s", (int)name.len, name.data);
    else
        err_add_quoted(text, sizeof text, name.data, name.len);
    err_add(text, sizeof text, " seq %lld type %c", (long long)file->seq, file->type);
    if (file->type == 'i' && file->start_offset >= 0)
        err_add(text, sizeof text, " startoffset %lld", (long long)file->start_offset);
    if (file->type == 'i' && file->start_offset >= 0 && file->end_offset >= 0)
        err_add(text, sizeof text, " endoffset %lld", (long long)file->end_offset);
    err_add(text, sizeof text, "\n");
    size_t len = strlen(text);
    if (len > AOF_MANIFEST_LINE || len >= size) return RDBKIT_ERR_LIMIT;
    memcpy(buf, text, len + 1);
    return (int)len;
}

int rdbkit_is_manifest(const void *head, size_t len) {
    const u8 *p = head;
    while (len && *p == '#') {
        size_t n = aof_manifest_line_len(p, len);
        p += n, len -= n;
    }
    return len >= 5 && !memcmp(p, "file ", 5);
}

/* ==== [28] api : the public functions not defined in a room above ====
 *
 * In the order of rdbkit.h; thin: check the arguments, call a room. */

const char *rdbkit_version(void) {
    return RDBKIT_VERSION;
}

const char *rdbkit_status_text(int status) {
#define API_STATUS(sym, text) {RDBKIT_##sym, text},
    static const struct {
        int status;
        const char *text;
    } rows[] = {ERR_STATUS(API_STATUS)};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].status == status) return rows[i].text;
    return "unknown status";
}

const char *rdbkit_shape_name(rdbkit_shape shape) {
    return (unsigned)shape < RDBKIT_SHAPE_N ? fmt_shapes[shape] : "unknown";
}

const rdbkit_type *rdbkit_type_at(size_t index) {
    return index < FMT_TYPE_N ? &fmt_types[index] : NULL;
}

const rdbkit_target *rdbkit_target_find(const char *name) {
    return name ? fmt_target_find(name) : NULL;
}

const rdbkit_target *rdbkit_target_at(size_t index) {
    return index < FMT_TARGET_N ? &fmt_targets[index] : NULL;
}

int rdbkit_target_loads(const rdbkit_target *target, const rdbkit_type *type) {
    return (type->lineage & target->lineage) && type->number <= target->max_type && type->layout;
}

rdbkit_input *rdbkit_input_new(const rdbkit_allocator *allocator, rdbkit_read_fn read_fn, void *ctx) {
    rdbkit_input *in = read_fn ? in_new(allocator) : NULL;
    if (in) in->read = read_fn, in->ctx = ctx;
    return in;
}

rdbkit_input *rdbkit_input_new_fd(const rdbkit_allocator *allocator, int fd) {
    rdbkit_input *in = in_new(allocator);
    if (in) in->read = in_read_fd, in->fd = fd, in->ctx = &in->fd;
    return in;
}

rdbkit_input *rdbkit_input_new_memory(const rdbkit_allocator *allocator, const void *data, size_t len) {
    rdbkit_input *in = in_new(allocator);
    if (in) in->data = data ? data : "", in->data_len = data ? len : 0;
    return in;
}

void rdbkit_input_free(rdbkit_input *in) {
    in_free(in);
}

uint64_t rdbkit_input_offset(const rdbkit_input *in) {
    return in->taken - in->raw_len;
}

int rdbkit_input_is_gzip(const rdbkit_input *in) {
    return in->gzip;
}

int rdbkit_input_rest(rdbkit_input *in, const void **data, size_t *len) {
    const u8 *p = NULL;
    int st = in_next(in, &p, len);
    *data = p;
    return st;
}

void rdbkit_reader_options_init(rdbkit_reader_options *options) {
    memset(options, 0, sizeof *options);
}

rdbkit_reader *rdbkit_reader_new(const rdbkit_reader_options *options, const rdbkit_visitor *visitor) {
    rdbkit_allocator mem = mem_or_std(options ? options->allocator : NULL);
    rdbkit_reader *r = mem_new(&mem, sizeof *r);
    if (!r) return NULL;
    r->mem = mem;
    if (options) r->opt = *options;
    if (visitor) r->v = *visitor;
    r->ev = &r->v;
    rd_key_reset(r);
    r->error.offset = r->error.blob_offset = RDBKIT_NO_OFFSET;
    r->error.db = RDBKIT_NO_DB;
    return r;
}

void rdbkit_reader_free(rdbkit_reader *r) {
    if (!r) return;
    rdbkit_allocator mem = r->mem;
    for (int i = 0; i < RD_SCRATCH_N; i++) mem_buf_free(&mem, &r->scratch[i]);
    mem_buf_free(&mem, &r->carry);
    mem_buf_free(&mem, &r->strm.group_name);
    mem_buf_free(&mem, &r->strm.consumer_name);
    mem_buf_free(&mem, &r->strm.pending);
    mem.free(mem.ctx, r, sizeof *r);
}

int rdbkit_reader_feed(rdbkit_reader *r, const void *buf, size_t len) {
    return rec_feed(r, buf, len);
}

int rdbkit_reader_finish(rdbkit_reader *r) {
    return rec_finish(r);
}

int rdbkit_reader_pull(rdbkit_reader *r, rdbkit_input *in) {
    const u8 *data = NULL;
    size_t len = 0;
    int st;
    while ((st = in_next(in, &data, &len)) == RDBKIT_OK) {
        u64 fed = r->base_off + r->carry.len + len;
        st = rec_feed(r, data, len);
        if (st == RDBKIT_MORE) continue;
        if (st == RDBKIT_DONE && r->base_off < fed) {
            size_t rest = (size_t)(fed - r->base_off);
            in_unread(in, data + len - rest, rest);
        }
        return st;
    }
    if (st == RDBKIT_DONE) return rec_finish(r);
    if (!r->status) {
        const char *what = st == RDBKIT_ERR_IO ? strerror(in->sys_errno) : rdbkit_status_text(st);
        rd_error_start(r, st, r->base_off + r->carry.len);
        r->error.sys_errno = in->sys_errno;
        err_add(r->error.message, sizeof r->error.message, ": %s%s", in->gzip ? "gzip: " : "", what);
    }
    return r->status;
}

uint64_t rdbkit_reader_offset(const rdbkit_reader *r) {
    return rd_off(r, r->p);
}

uint64_t rdbkit_reader_keys(const rdbkit_reader *r) {
    return r->keys;
}

int rdbkit_reader_verified(const rdbkit_reader *r) {
    return r->verified;
}

const rdbkit_error *rdbkit_reader_error(const rdbkit_reader *r) {
    return &r->error;
}

void rdbkit_writer_options_init(rdbkit_writer_options *options) {
    memset(options, 0, sizeof *options);
    options->target = fmt_target_find("valkey-8");
}

rdbkit_writer *rdbkit_writer_new(const rdbkit_writer_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_writer_options standard;
    rdbkit_writer_options_init(&standard);
    return write_fn ? wr_new(options ? options : &standard, write_fn, ctx) : NULL;
}

void rdbkit_writer_free(rdbkit_writer *w) {
    wr_free(w);
}

const rdbkit_visitor *rdbkit_writer_visitor(rdbkit_writer *w) {
    return &w->visitor;
}

const rdbkit_loss *rdbkit_writer_loss(const rdbkit_writer *w, size_t index) {
    return loss_at(&w->v.l, index);
}

int rdbkit_writer_errno(const rdbkit_writer *w) {
    return w->out.sys_errno;
}

void rdbkit_resp_options_init(rdbkit_resp_options *options) {
    memset(options, 0, sizeof *options);
    options->target = fmt_target_find("valkey-8");
    options->batch = 64;
}

rdbkit_resp *rdbkit_resp_new(const rdbkit_resp_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_resp_options standard;
    rdbkit_resp_options_init(&standard);
    if (!options) options = &standard;
    if (!options->target || !write_fn || options->batch < 1 || options->batch > 100000) return NULL;
    return resp_new(options, write_fn, ctx);
}

void rdbkit_resp_free(rdbkit_resp *s) {
    resp_free(s);
}

const rdbkit_visitor *rdbkit_resp_visitor(rdbkit_resp *s) {
    return &s->visitor;
}

int rdbkit_resp_finish(rdbkit_resp *s) {
    return resp_finish(s);
}

const rdbkit_loss *rdbkit_resp_loss(const rdbkit_resp *s, size_t index) {
    return loss_at(&s->v.l, index);
}

int rdbkit_resp_errno(const rdbkit_resp *s) {
    return s->out.sys_errno;
}

void rdbkit_json_options_init(rdbkit_json_options *options) {
    memset(options, 0, sizeof *options);
    options->encoding = RDBKIT_JSON_AUTO;
}

rdbkit_json *rdbkit_json_new(const rdbkit_json_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_json_options standard;
    rdbkit_json_options_init(&standard);
    if (!options) options = &standard;
    if (!write_fn || (unsigned)options->encoding >= RDBKIT_JSON_ENCODING_N) return NULL;
    return json_new(options, write_fn, ctx);
}

void rdbkit_json_free(rdbkit_json *s) {
    json_free(s);
}

const rdbkit_visitor *rdbkit_json_visitor(rdbkit_json *s) {
    return &s->visitor;
}

int rdbkit_json_finish(rdbkit_json *s) {
    return json_finish(s);
}

int rdbkit_json_errno(const rdbkit_json *s) {
    return s->out.sys_errno;
}

rdbkit_check *rdbkit_check_new(const rdbkit_allocator *allocator, const rdbkit_spill *spill) {
    return rep_new(allocator, spill);
}

void rdbkit_check_free(rdbkit_check *c) {
    rep_free(c);
}

const rdbkit_visitor *rdbkit_check_visitor(rdbkit_check *c) {
    return &c->visitor;
}

int64_t rdbkit_check_finish(rdbkit_check *c) {
    return rep_finish(c);
}

const rdbkit_duplicate *rdbkit_check_duplicate(const rdbkit_check *c, size_t index) {
    return (int64_t)index < c->found && index < REP_SHOWN ? &c->shown[index] : NULL;
}

/* ==== [29] cli_ : command line: options, messages, output, input ====
 *
 * main(), the verbs, options, messages and exit codes. It alone prints, exits, or reads argv or env; it
 * uses rdbkit.h, libc and POSIX alone, and so is also the largest example of the library's use.
 *
 *     main > main_parse > a row of main_verbs > cli_read (source, input, reader, visitor) > struct cli_out
 *
 * Data goes to standard output or -o alone, through write(2) in large blocks, all else to standard error. An -o
 * file appears whole and under its name, or not at all. Exit codes: enum cli_exit. Tests: tests/cli_test.py */
#ifdef RDBKIT_CLI

#include "rdbkit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __GNUC__
#define CLI_PRINTF(at, first) __attribute__((format(printf, at, first)))
#else
#define CLI_PRINTF(at, first)
#endif

enum cli_exit {
    CLI_OK = 0,
    CLI_NO = 1,      /* check: damaged */
    CLI_USAGE = 2,   /* wrong usage */
    CLI_IO = 3,      /* open, read, write, full disk, closed pipe */
    CLI_BAD = 4,     /* input damaged, truncated, or of a kind that cannot be read */
    CLI_REFUSED = 5, /* loss not allowed, output exists, a limit */
};

enum {
    CLI_BLOCK_LEN = 1 << 16, /* one write; also the size up to which strings come whole */
    CLI_HEAD_LEN = 4096,     /* looked at before reading: enough for gzip to give its first bytes */
    CLI_PATH_LEN = 4096,
    CLI_DBS_MAX = 1024, /* databases that info lists; the rest is added up */
    CLI_LIST_MAX = 256, /* aux fields, functions and modules, likewise */
    CLI_DUPS_MAX = 16,  /* as many as rdbkit_check_duplicate() gives */
};

/* ---- Options ------------------------------------------------------------------------------------------ */

enum cli_verb_bit {
    CLI_V_TO_RESP = 1 << 0,
    CLI_V_CHECK = 1 << 1,
    CLI_V_INFO = 1 << 2,
    CLI_V_KEYS = 1 << 3,
    CLI_V_HELP = 1 << 4,
    CLI_V_CONVERT = 1 << 5,
    CLI_V_FILTER_FILE = 1 << 6,
    CLI_V_TO_JSON = 1 << 7,
    CLI_V_WRITE = CLI_V_CONVERT | CLI_V_FILTER_FILE,
    CLI_V_READ = CLI_V_TO_RESP | CLI_V_CHECK | CLI_V_INFO | CLI_V_KEYS | CLI_V_WRITE | CLI_V_TO_JSON,
    CLI_V_ALL = CLI_V_READ | CLI_V_HELP,
    CLI_V_FILTER = CLI_V_READ,
    CLI_V_CHANGE = CLI_V_TO_RESP | CLI_V_KEYS | CLI_V_INFO | CLI_V_WRITE | CLI_V_TO_JSON,
    CLI_V_LOSS = CLI_V_TO_RESP | CLI_V_WRITE,
    CLI_V_DATA = CLI_V_TO_RESP | CLI_V_TO_JSON | CLI_V_WRITE /* keys go out */
};

enum cli_kind {
    CLI_FLAG,
    CLI_TEXT,
    CLI_NUMBER, /* 1 to 100000 */
    CLI_TARGET  /* a name that rdbkit_target_find() knows */
};

/* clang-format off */
#define CLI_OPTIONS(X) \
/*  symbol           long name          short arg      verbs          kind        help */ \
/*                   example, between the verb and the input */ \
    X(OUTPUT,        "output",          'o', "FILE",   CLI_V_READ,    CLI_TEXT, \
      "write to FILE, which appears when it is complete; - is standard output", "-o out.txt") \
    X(FORCE,         "force",           0,   NULL,     CLI_V_READ,    CLI_FLAG, \
      "replace an output file that exists", "--force -o out.txt") \
    X(TO,            "to",              0,   "TARGET", CLI_V_TO_RESP | CLI_V_CONVERT, CLI_TARGET, \
      "the server that the output is for: redis-4.0 to valkey-9, redis-7, rdb-11; default valkey-8", \
      "--to redis-6.2") \
    X(REENCODE,      "reencode",        0,   NULL,     CLI_V_WRITE,   CLI_FLAG, \
      "decode and encode every value anew, as the target would; by default those that it loads as they are go " \
      "through unchanged", "--reencode") \
    X(RECOMPRESS,    "recompress",      0,   NULL,     CLI_V_WRITE,   CLI_FLAG, \
      "another name of --reencode", "--recompress") \
    X(NO_COMPRESS,   "no-compress",     0,   NULL,     CLI_V_WRITE,   CLI_FLAG, \
      "do not compress what is encoded anew", "--no-compress --reencode") \
    X(DROP_MODULES,  "drop-modules",    0,   NULL,     CLI_V_LOSS,    CLI_FLAG, \
      "leave module values and module data out, with a warning", "--drop-modules") \
    X(DROP_FUNCTIONS, "drop-functions", 0,   NULL,     CLI_V_LOSS,    CLI_FLAG, \
      "leave function libraries out, with a warning", "--drop-functions") \
    X(BATCH,         "batch",           0,   "N",      CLI_V_TO_RESP, CLI_NUMBER, \
      "elements in one command, 1 to 100000; default 64", "--batch 1000") \
    X(RESTORE,       "restore",         0,   NULL,     CLI_V_TO_RESP, CLI_FLAG, \
      "send each value whole, as RESTORE with a payload for the target: exact to the last pending entry, and faster to " \
      "load", "--restore --to redis-7.2") \
    X(DEL_FIRST,     "del-first",       0,   NULL,     CLI_V_TO_RESP, CLI_FLAG, \
      "send DEL before each key", "--del-first") \
    X(REPLACE,       "replace",         0,   NULL,     CLI_V_TO_RESP, CLI_FLAG, \
      "overwrite keys and functions that the server has", "--replace") \
    X(SINGLE_DB,     "single-db",       0,   NULL,     CLI_V_TO_RESP, CLI_FLAG, \
      "send no SELECT: all keys go to the database of the connection", "--single-db") \
    X(NO_FUNCTIONS,  "no-functions",    0,   NULL,     CLI_V_TO_RESP, CLI_FLAG, \
      "another name of --drop-functions", "--no-functions") \
    X(ALLOW_LOSS,    "allow-loss",      0,   NULL,     CLI_V_LOSS,    CLI_FLAG, \
      "go on where the target cannot hold the data, and list what was lost", "--allow-loss") \
    X(LOSS_REPORT,   "loss-report",     0,   "FILE",   CLI_V_LOSS,    CLI_TEXT, \
      "write what is lost of each key to FILE, a JSON object a line", "--loss-report lost.jsonl") \
    X(KEY,           "key",             'k', "GLOB",   CLI_V_FILTER,  CLI_TEXT, \
      "only keys whose name matches GLOB as KEYS has it; given again: any of them", "-k 'user:*'") \
    X(NOT_KEY,       "not-key",         'K', "GLOB",   CLI_V_FILTER,  CLI_TEXT, \
      "no keys whose name matches GLOB", "-K '*:tmp' -K 'cache:*'") \
    X(REGEX,         "regex",           0,   NULL,     CLI_V_FILTER,  CLI_FLAG, \
      "-k and -K are POSIX extended regular expressions, found anywhere in a name (up to its first NUL byte)", \
      "--regex -k '^user:[0-9]+$'") \
    X(KEYS_FROM,     "keys-from",       0,   "FILE",   CLI_V_FILTER,  CLI_TEXT, \
      "only keys named in FILE, one a line: raw bytes, or in double quotes as redis-cli and `rdbkit keys` print " \
      "them (\"\" is the empty name, an empty line none); - is standard input", "--keys-from names.txt") \
    X(TYPE,          "type",            't', "LIST",   CLI_V_FILTER,  CLI_TEXT, \
      "only these types: string, list, set, zset, hash, stream, module", "-t hash,set") \
    X(NOT_TYPE,      "not-type",        'T', "LIST",   CLI_V_FILTER,  CLI_TEXT, \
      "none of these types", "-T stream,module") \
    X(DB,            "db",              'd', "LIST",   CLI_V_FILTER,  CLI_TEXT, \
      "only these databases", "-d 0,3-5") \
    X(NOT_DB,        "not-db",          'D', "LIST",   CLI_V_FILTER,  CLI_TEXT, \
      "none of these databases", "-D 15") \
    X(EXPIRED,       "expired",         0,   NULL,     CLI_V_FILTER,  CLI_FLAG, \
      "only keys whose time is over", "--expired") \
    X(NO_EXPIRED,    "no-expired",      0,   NULL,     CLI_V_FILTER,  CLI_FLAG, \
      "no keys whose time is over", "--no-expired") \
    X(HAS_TTL,       "has-ttl",         0,   NULL,     CLI_V_FILTER,  CLI_FLAG, \
      "only keys that expire", "--has-ttl") \
    X(NO_TTL,        "no-ttl",          0,   NULL,     CLI_V_FILTER,  CLI_FLAG, \
      "only keys that never expire", "--no-ttl") \
    X(SLOT,          "slot",            0,   "LIST",   CLI_V_FILTER,  CLI_TEXT, \
      "only keys of these cluster slots, 0 to 16383", "--slot 0-5460,7000") \
    X(LIMIT,         "limit",           0,   "N",      CLI_V_FILTER,  CLI_TEXT, \
      "only the first N keys that pass", "--limit 100") \
    X(NOW,           "now",             0,   "MS",     CLI_V_FILTER,  CLI_TEXT, \
      "the time that --expired and --no-expired go by, unix time in milliseconds; default: the clock", \
      "--expired --now 1735689600000") \
    X(MAP_DB,        "map-db",          0,   "A:B",    CLI_V_CHANGE,  CLI_TEXT, \
      "put the keys of database A into database B; given again: more of them", "--map-db 0:3") \
    X(RENAME,        "rename",          0,   "OLD:NEW", CLI_V_CHANGE, CLI_TEXT, \
      "names that begin with OLD begin with NEW instead, by the first rule that applies; \\: is a colon in them, " \
      "\\\\ a backslash, \\xHH any byte", "--rename 'user\\::customer\\:'") \
    X(STRIP_TTL,     "strip-ttl",       0,   NULL,     CLI_V_CHANGE,  CLI_FLAG, \
      "keys no longer expire (fields of hashes still do)", "--strip-ttl") \
    X(TTL_SHIFT,     "ttl-shift",       0,   "SECONDS", CLI_V_CHANGE, CLI_TEXT, \
      "keys expire so much later, or earlier if negative", "--ttl-shift -3600") \
    X(LINES,         "lines",           0,   NULL,     CLI_V_TO_JSON, CLI_FLAG, \
      "one JSON object a line, without an array around them", "--lines") \
    X(ENCODING,      "encoding",        0,   "NAME",   CLI_V_TO_JSON, CLI_TEXT, \
      "bytes as JSON strings: auto (UTF-8, else base64 with a mark), utf8 (loses what is not UTF-8), base64 (all of " \
      "them), latin1 (a code point a byte); default auto", "--encoding base64") \
    X(FORMAT,        "format",          0,   "FMT",    CLI_V_KEYS,    CLI_TEXT, \
      "what a line holds: %d database, %k key, %t type, %e expiry (unix ms, -1 none), %s bytes of the value " \
      "in the file, %n elements (bytes of a string, entries of a stream, -1 for a module), %c encoding, " \
      "%%, \\n, \\t, \\\\; default '%d %k %t %e %s %n'", "--format '%k\\t%s'") \
    X(JSON,          "json",            0,   NULL,     CLI_V_INFO,    CLI_FLAG, \
      "one JSON object a file, on one line", "--json") \
    X(IGNORE_SUM,    "ignore-checksum", 'i', NULL,     CLI_V_READ,    CLI_FLAG, \
      "do not look at the checksum", "-i") \
    X(PROGRESS,      "progress",        0,   NULL,     CLI_V_READ,    CLI_FLAG, \
      "show how far the work is, also where standard error is no terminal", "--progress") \
    X(QUIET,         "quiet",           'q', NULL,     CLI_V_READ,    CLI_FLAG, \
      "no progress, no warnings; errors alone", "-q") \
    X(VERBOSE,       "verbose",         'v', NULL,     CLI_V_READ,    CLI_FLAG, \
      "say what was read and written", "-v") \
    X(HELP,          "help",            'h', NULL,     CLI_V_ALL,     CLI_FLAG, \
      "this text", "-h") \
    X(VERSION,       "version",         'V', NULL,     CLI_V_ALL,     CLI_FLAG, \
      "the version", "-V")

struct cli_option {
    const char *name;
    char letter;     /* or 0 */
    const char *arg; /* name of the argument, NULL: takes none */
    unsigned verbs;
    enum cli_kind kind;
    const char *help;
    const char *example;
};

#define CLI_ENUM(symbol, name, letter, arg, verbs, kind, help, example) CLI_O_##symbol,
#define CLI_ROW(symbol, name, letter, arg, verbs, kind, help, example) \
    {name, letter, arg, verbs, kind, help, example},
enum cli_option_id { CLI_OPTIONS(CLI_ENUM) CLI_O_N };
static const struct cli_option cli_option_table[] = {CLI_OPTIONS(CLI_ROW)};
/* clang-format on */

_Static_assert(sizeof cli_option_table / sizeof *cli_option_table == CLI_O_N, "one row for each option");

/* What the command line said. text is the value as given; a flag has "". NULL: not given. */
struct cli_given {
    const struct cli_option *option;
    const char *value;
};

struct cli_options {
    /* Options with a value, in the order given; text has the last of each. In its own memory. */
    struct cli_given *given;
    size_t given_n;
    char *made_name; /* of an output that nobody named */
    const char *text[CLI_O_N];
    unsigned number[CLI_O_N];
    char **inputs; /* argv, moved together */
    int inputs_n;
};

/* ---- Output ------------------------------------------------------------------------------------------- */

struct cli_out {
    int fd;
    int sys_errno;    /* of the first write that failed; later ones are not tried */
    const char *name; /* in messages */
    char *path;       /* where the temporary goes at the end; NULL: fd is written directly */
    char *temp;       /* slot of cli_temp_name that is ours, or NULL */
    int force;
    uint64_t bytes;
    size_t len;
    char buf[CLI_BLOCK_LEN];
};

/* Temporaries that a signal has to remove: the output and the loss report. An empty name is a free slot;
 * names change only while the signals are blocked. */
static char cli_temp_name[2][CLI_PATH_LEN];

static void cli_on_signal(int sig) {
    for (size_t i = 0; i < sizeof cli_temp_name / sizeof *cli_temp_name; i++)
        if (cli_temp_name[i][0]) (void)unlink(cli_temp_name[i]);
    (void)raise(sig); /* SA_RESETHAND: ends the process as if there were no handler */
}

static const int cli_signals[] = {SIGINT, SIGTERM, SIGHUP};
#define CLI_SIGNALS_N (sizeof cli_signals / sizeof *cli_signals)

static void cli_signals_catch(void) {
    struct sigaction old, act;
    memset(&act, 0, sizeof act);
    act.sa_handler = cli_on_signal;
    act.sa_flags = (int)SA_RESETHAND;
    for (size_t i = 0; i < CLI_SIGNALS_N; i++)
        if (sigaction(cli_signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup */
            (void)sigaction(cli_signals[i], &act, NULL);
}

static void cli_signals_block(int block) {
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < CLI_SIGNALS_N; i++) sigaddset(&set, cli_signals[i]);
    (void)sigprocmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

/* After EINTR or EAGAIN (standard streams may be non-blocking): whether to try again. */
static int cli_again(int fd, short events) {
    struct pollfd p = {fd, events, 0};
    if (errno == EINTR) return 1;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return 0;
    return poll(&p, 1, -1) >= 0 || errno == EINTR;
}

/* A rdbkit_write_fn. */
static int cli_out_write(void *ctx, const void *data, size_t len) {
    struct cli_out *out = ctx;
    const char *p = data;
    while (len > 0 && !out->sys_errno) {
        ssize_t n = write(out->fd, p, len);
        if (n < 0) {
            if (!cli_again(out->fd, POLLOUT)) out->sys_errno = errno;
            continue;
        }
        p += n;
        len -= (size_t)n;
        out->bytes += (uint64_t)n;
    }
    return -out->sys_errno;
}

static void cli_out_flush(struct cli_out *out) {
    (void)cli_out_write(out, out->buf, out->len);
    out->len = 0;
}

static void cli_put(struct cli_out *out, const char *data, size_t len) {
    if (len > sizeof out->buf - out->len) cli_out_flush(out);
    if (len > sizeof out->buf) {
        (void)cli_out_write(out, data, len);
        return;
    }
    if (len) memcpy(out->buf + out->len, data, len);
    out->len += len;
}

static void cli_puts(struct cli_out *out, const char *text) { cli_put(out, text, strlen(text)); }

static void cli_vprintf(struct cli_out *out, const char *format, va_list args) CLI_PRINTF(2, 0);
static void cli_vprintf(struct cli_out *out, const char *format, va_list args) {
    char text[1024]; /* longer things go through cli_puts() */
    int n = vsnprintf(text, sizeof text, format, args);
    if (n > 0) cli_put(out, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

static void cli_printf(struct cli_out *out, const char *format, ...) CLI_PRINTF(2, 3);
static void cli_printf(struct cli_out *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    cli_vprintf(out, format, args);
    va_end(args);
}

/* Decimal, without the cost of printf: keys prints four a line. */
static void cli_put_u64(struct cli_out *out, uint64_t n) {
    char text[20], *p = text + sizeof text;
    do *--p = (char)('0' + n % 10);
    while (n /= 10);
    cli_put(out, p, (size_t)(text + sizeof text - p));
}

static void cli_put_i64(struct cli_out *out, int64_t n) {
    if (n < 0) cli_put(out, "-", 1);
    cli_put_u64(out, n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
}

/* As redis-cli prints strings. */
static void cli_put_quoted(struct cli_out *out, rdbkit_str s) {
    static const char from[] = "\"\\\n\r\t\a\b", to[] = "\"\\nrtab", hex[] = "0123456789abcdef";
    size_t plain = 0; /* where the bytes begin that stand for themselves */
    cli_put(out, "\"", 1);
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c >= 32 && c < 127 && c != '"' && c != '\\') continue;
        const char *special = c ? strchr(from, c) : NULL;
        cli_put(out, s.data + plain, i - plain);
        plain = i + 1;
        if (special) cli_put(out, (char[2]){'\\', to[special - from]}, 2);
        else cli_put(out, (char[4]){'\\', 'x', hex[c >> 4], hex[c & 15]}, 4);
    }
    if (s.len) cli_put(out, s.data + plain, s.len - plain);
    cli_put(out, "\"", 1);
}

/* The same, but without quotes where nothing needs them: "7.2.6" is 7.2.6. */
static void cli_put_plain(struct cli_out *out, rdbkit_str s) {
    size_t n = 0;
    while (n < s.len && s.data[n] > 32 && s.data[n] < 127 && s.data[n] != '"' && s.data[n] != '\\') n++;
    if (n < s.len) cli_put_quoted(out, s);
    else cli_put(out, s.data, n);
}

/* Length of the well-formed UTF-8 sequence at p, or 0. */
static size_t cli_utf8_len(const unsigned char *p, size_t len) {
    static const unsigned lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (n < 2 || n > len) return n > len ? 0 : n;
    unsigned code = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3fu);
    }
    return code < lowest[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : n;
}

/* Bytes that are not UTF-8 stand as the code point of the same number. */
static void cli_put_json(struct cli_out *out, rdbkit_str s) {
    cli_put(out, "\"", 1);
    for (size_t i = 0, n; i < s.len; i += n ? n : 1) {
        const unsigned char *p = (const unsigned char *)s.data + i;
        n = cli_utf8_len(p, s.len - i);
        if (n == 0 || *p < 32 || *p == 127) {
            cli_printf(out, "\\u%04x", *p);
        } else {
            if (*p == '"' || *p == '\\') cli_put(out, "\\", 1);
            cli_put(out, s.data + i, n);
        }
    }
    cli_put(out, "\"", 1);
}

static rdbkit_str cli_str(const char *text) { return (rdbkit_str){text, strlen(text)}; }

/* ---- Messages ----------------------------------------------------------------------------------------- */

/* All of one run: lives on main's stack. */
struct cli {
    struct cli_options o;
    rdbkit_filter *filter; /* of --key and the like, or NULL */
    struct verb_twice *twice; /* watches keys that may come to be one, or NULL */
    struct cli_out out;    /* the data */
    struct cli_out report; /* --loss-report */
    struct cli_out err;    /* standard error, flushed after each line */
};

static void cli_say(struct cli *c, const char *name, const char *format, ...) CLI_PRINTF(3, 4);
static void cli_say(struct cli *c, const char *name, const char *format, ...) {
    va_list args;
    cli_puts(&c->err, "rdbkit: ");
    if (name) cli_puts(&c->err, name);
    if (name) cli_puts(&c->err, ": ");
    va_start(args, format);
    cli_vprintf(&c->err, format, args);
    va_end(args);
    cli_puts(&c->err, "\n");
    cli_out_flush(&c->err);
}

static void cli_hint(struct cli *c, const char *hint) {
    if (hint) cli_say(c, "hint", "%s", hint);
}

static int cli_has(const struct cli *c, enum cli_option_id id) { return c->o.text[id] != NULL; }

/* What a status means for the caller of the program. */
static const struct cli_status {
    int status, exit;
    const char *hint;
} cli_statuses[] = {
    {RDBKIT_ERR_NOMEM, CLI_REFUSED, "the value is too large for this machine's memory"},
    {RDBKIT_ERR_IO, CLI_IO, NULL},
    {RDBKIT_ERR_DAMAGED, CLI_BAD, NULL},
    {RDBKIT_ERR_TRUNCATED, CLI_BAD, "the file is not complete: was it still being written or copied?"},
    {RDBKIT_ERR_UNSUPPORTED, CLI_BAD, NULL},
    {RDBKIT_ERR_CHECKSUM, CLI_BAD, "-i reads the file in spite of its checksum"},
    {RDBKIT_ERR_LIMIT, CLI_REFUSED, NULL},
    {RDBKIT_ERR_LOSS, CLI_REFUSED, NULL},
    {RDBKIT_ERR_STOPPED, CLI_IO, NULL},
    {RDBKIT_ERR_USAGE, CLI_USAGE, NULL},
};

/* Report a failed reading of the file called name. */
static int cli_fail(struct cli *c, const char *name, const rdbkit_error *e) {
    cli_say(c, name, "%s", e->message[0] ? e->message : rdbkit_status_text(e->code));
    for (size_t i = 0; i < sizeof cli_statuses / sizeof *cli_statuses; i++) {
        if (cli_statuses[i].status != e->code) continue;
        cli_hint(c, cli_statuses[i].hint);
        return cli_statuses[i].exit;
    }
    return CLI_IO;
}

static int cli_fail_errno(struct cli *c, const char *name, int sys_errno) {
    cli_say(c, name, "%s", strerror(sys_errno));
    return CLI_IO;
}

/* ---- Output files ------------------------------------------------------------------------------------- */

/* Length of the directory part of a path, with its slash. */
static size_t cli_dir_len(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash + 1 - path) : 0;
}

/* Make the temporary beside its later name, so that rename() can do the rest. Returns 0 or an errno. */
static int cli_temp_open(struct cli_out *out, char *slot) {
    char name[CLI_PATH_LEN];
    size_t dir_len = cli_dir_len(out->path);
    int n = snprintf(name, sizeof name, "%.*s.%.200s.rdbkit-XXXXXX", (int)dir_len, out->path,
                     out->path + dir_len);
    if (n < 0 || (size_t)n >= sizeof name) return ENAMETOOLONG;
    mode_t mask = umask(0);
    (void)umask(mask);
    cli_signals_catch();
    cli_signals_block(1);
    out->fd = mkstemp(name);
    int sys_errno = out->fd < 0 ? errno : 0;
    if (out->fd >= 0) out->temp = memcpy(slot, name, (size_t)n + 1);
    cli_signals_block(0);
    if (out->fd >= 0) (void)fchmod(out->fd, (mode_t)0666 & ~mask); /* mkstemp gives 0600 */
    return sys_errno;
}

/* The file behind symbolic links: it is to be replaced, and not the link (-o /dev/stdout). In new memory. */
static char *cli_follow(const char *path) {
    char name[CLI_PATH_LEN], link_to[CLI_PATH_LEN];
    size_t len = strlen(path);
    errno = ENAMETOOLONG;
    if (len >= sizeof name) return NULL;
    memcpy(name, path, len + 1);
    for (int hops = 0; hops < 40; hops++) {
        ssize_t n = readlink(name, link_to, sizeof link_to);
        if (n < 0) return strdup(name);
        size_t dir_len = link_to[0] == '/' ? 0 : cli_dir_len(name);
        if (dir_len + (size_t)n >= sizeof name) break;
        memcpy(name + dir_len, link_to, (size_t)n);
        name[dir_len + (size_t)n] = 0;
    }
    errno = ELOOP;
    return NULL;
}

static void cli_temp_remove(struct cli_out *out) {
    cli_signals_block(1);
    if (out->temp) {
        (void)unlink(out->temp);
        out->temp[0] = 0;
        out->temp = NULL;
    }
    cli_signals_block(0);
}

/* Open the output: path NULL or "-" is standard output; what is no regular file is written directly. */
static int cli_out_open(struct cli *c, struct cli_out *out, char *slot, const char *path) {
    struct stat st;
    out->force = cli_has(c, CLI_O_FORCE);
    if (!path || strcmp(path, "-") == 0) {
        out->name = "standard output";
        out->fd = STDOUT_FILENO;
        int flags = fcntl(out->fd, F_GETFL);
        return flags < 0 || (flags & O_ACCMODE) == O_RDONLY ? cli_fail_errno(c, out->name, EBADF) : CLI_OK;
    }
    out->name = path;
    int there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode)) return cli_fail_errno(c, path, EISDIR);
    if (there && !S_ISREG(st.st_mode)) {
        out->fd = open(path, O_WRONLY | O_NOCTTY);
        return out->fd < 0 ? cli_fail_errno(c, path, errno) : CLI_OK;
    }
    if (there && !out->force) {
        cli_say(c, path, "the file exists");
        cli_hint(c, "--force replaces it");
        return CLI_REFUSED;
    }
    out->path = cli_follow(path);
    int sys_errno = out->path ? cli_temp_open(out, slot) : errno;
    return sys_errno ? cli_fail_errno(c, path, sys_errno) : CLI_OK;
}

/* Give the temporary its name. Without --force link() sees to it that a file which came meanwhile stays; file
 * systems without hard links get rename(). Returns 0 or an errno. */
static int cli_temp_rename(struct cli_out *out) {
    if (!out->force) {
        if (link(out->temp, out->path) == 0) return 0;
        if (errno == EEXIST) return EEXIST;
        if (access(out->path, F_OK) == 0) return EEXIST;
    }
    return rename(out->temp, out->path) == 0 ? 0 : errno;
}

/* So that the name, too, survives a power cut. Some file systems cannot sync a directory: nothing to be done. */
static void cli_sync_dir(char *path) {
    size_t dir_len = cli_dir_len(path);
    char kept = path[dir_len];
    path[dir_len] = 0;
    int fd = open(dir_len ? path : ".", O_RDONLY);
    path[dir_len] = kept;
    if (fd < 0) return;
    (void)fsync(fd);
    (void)close(fd);
}

/* Finish an output, once, opened or not. keep 0: the file is not wanted. Returns the exit code: CLI_OK if all
 * of it is where it was meant to go. */
static int cli_out_close(struct cli *c, struct cli_out *out, int keep) {
    int code = CLI_OK;
    if (out->fd >= 0) {
        cli_out_flush(out);
        if (keep && out->temp && !out->sys_errno && fsync(out->fd) != 0) out->sys_errno = errno;
        if (close(out->fd) != 0 && errno != EINTR && !out->sys_errno) out->sys_errno = errno;
        if (keep && out->temp && !out->sys_errno) out->sys_errno = cli_temp_rename(out);
        if (keep && out->temp && !out->sys_errno) cli_sync_dir(out->path);
        if (out->sys_errno) code = cli_fail_errno(c, out->name, out->sys_errno);
        if (out->sys_errno == EEXIST) code = CLI_REFUSED;
    }
    cli_temp_remove(out);
    free(out->path);
    return code;
}

/* ---- Input -------------------------------------------------------------------------------------------- */

struct cli_progress {
    int show;
    int terminal;
    int shown;         /* a line stands on the terminal */
    uint64_t next_off; /* look at the clock from there on */
    uint64_t start_ms;
    uint64_t last_ms;
};

struct cli_source {
    struct cli *cli;
    const char *name;
    int fd;
    int seekable;
    uint64_t start; /* where fd stood when it came to us */
    uint64_t size;  /* from there; 0: not known */
    uint64_t read_off;
    const rdbkit_reader *reader; /* of the pass at hand, or NULL */
    uint64_t keys;               /* and of the last one */
    int checksum;
    struct cli_progress progress;
    size_t head_len, head_off;
    unsigned char head[CLI_HEAD_LEN]; /* the first bytes of the source */
    char plain[CLI_HEAD_LEN];         /* the same after gzip, terminated */
};

static uint64_t cli_now_ms(void) {
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) return 0;
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void cli_progress_clear(struct cli_source *src) {
    if (src->progress.shown) cli_puts(&src->cli->err, "\r\033[K");
    cli_out_flush(&src->cli->err);
    src->progress.shown = 0;
}

static void cli_progress_print(struct cli_source *src, uint64_t elapsed_ms) {
    struct cli_out *err = &src->cli->err;
    double mb = (double)src->read_off / 1e6, rate = mb / ((double)elapsed_ms / 1e3);
    if (src->progress.terminal) cli_puts(err, "\r\033[K");
    cli_printf(err, "%.200s: %.0f MB", src->name, mb);
    if (src->size)
        cli_printf(err, " of %.0f, %.0f%%", (double)src->size / 1e6,
                   100.0 * (double)src->read_off / (double)src->size);
    if (src->reader) cli_printf(err, ", %" PRIu64 " keys", rdbkit_reader_keys(src->reader));
    cli_printf(err, ", %.0f MB/s", rate);
    if (src->size >= src->read_off && rate > 0)
        cli_printf(err, ", %.0f s left", (double)(src->size - src->read_off) / 1e6 / rate);
    if (!src->progress.terminal) cli_puts(err, "\n");
    src->progress.shown = src->progress.terminal;
    cli_out_flush(err);
}

/* Looks at the clock every 4 MiB, prints at most 5 times a second, and nothing in the first half second. */
static void cli_progress_tick(struct cli_source *src) {
    struct cli_progress *p = &src->progress;
    if (!p->show || src->read_off < p->next_off) return;
    p->next_off = src->read_off + (4 << 20);
    uint64_t now = cli_now_ms();
    if (now < p->start_ms + 500 || now < p->last_ms + 200) return;
    p->last_ms = now;
    cli_progress_print(src, now - p->start_ms);
}

/* A rdbkit_read_fn: first the head that was looked at, then the rest. */
static ptrdiff_t cli_source_read(void *ctx, void *buf, size_t size) {
    struct cli_source *src = ctx;
    size_t head = src->head_len - src->head_off;
    ssize_t n;
    if (head > 0) {
        n = (ssize_t)(head < size ? head : size);
        memcpy(buf, src->head + src->head_off, (size_t)n);
        src->head_off += (size_t)n;
    } else {
        do n = read(src->fd, buf, size);
        while (n < 0 && cli_again(src->fd, POLLIN));
        if (n < 0) return -errno;
    }
    src->read_off += (uint64_t)n;
    cli_progress_tick(src);
    return n;
}

/* Read the head, and what it is behind gzip. Returns 0 or an errno. */
static int cli_source_look(struct cli_source *src) {
    while (src->head_len < sizeof src->head) {
        ssize_t n = read(src->fd, src->head + src->head_len, sizeof src->head - src->head_len);
        if (n < 0 && cli_again(src->fd, POLLIN)) continue;
        if (n < 0) return errno;
        if (n == 0) break;
        src->head_len += (size_t)n;
    }
    rdbkit_input *in = rdbkit_input_new_memory(NULL, src->head, src->head_len);
    const void *data;
    size_t len;
    if (in && rdbkit_input_rest(in, &data, &len) == RDBKIT_OK)
        memcpy(src->plain, data, len < sizeof src->plain ? len : sizeof src->plain - 1);
    rdbkit_input_free(in);
    return 0;
}

/* Kinds of input that are no RDB, by their first bytes. The reader itself knows bad magic; these deserve more
 * than that. */
static const struct cli_foreign {
    const char *begin, *within; /* within NULL: anything */
    const char *what;
} cli_foreigns[] = {
    {"*", NULL, "an append-only file: this version reads RDB files alone"},
    {"#", NULL, "an append-only file: this version reads RDB files alone"},
    {"file ", " seq ", "the manifest of an append-only directory: this version reads RDB files alone"},
    {"VKCS", NULL, "a compressed RDB of Valkey 9.2, which is not supported"},
    {"$EOF:", NULL, "a replication stream: the RDB begins after its first line"},
};

static const char *cli_foreign_what(const char *plain) {
    for (size_t i = 0; i < sizeof cli_foreigns / sizeof *cli_foreigns; i++) {
        const struct cli_foreign *f = &cli_foreigns[i];
        if (strncmp(plain, f->begin, strlen(f->begin)) == 0 && (!f->within || strstr(plain, f->within)))
            return f->what;
    }
    return NULL;
}

static void cli_source_close(struct cli_source *src) {
    if (src->fd > STDIN_FILENO) (void)close(src->fd);
}

/* Whether the input is of a kind that can be read; says so if not. */
static int cli_source_accept(struct cli *c, struct cli_source *src) {
    struct stat st;
    if (fstat(src->fd, &st) != 0) return cli_fail_errno(c, src->name, errno);
    if (S_ISDIR(st.st_mode)) {
        cli_say(c, src->name, "a directory: this version reads RDB files alone");
        cli_hint(c, "an append-only directory holds its RDB in the file named ...base.rdb");
        return CLI_BAD;
    }
    off_t at = S_ISREG(st.st_mode) ? lseek(src->fd, 0, SEEK_CUR) : -1;
    src->seekable = at >= 0;
    src->start = at > 0 ? (uint64_t)at : 0;
    if (src->seekable && st.st_size > at) src->size = (uint64_t)(st.st_size - at);
    int sys_errno = cli_source_look(src);
    if (sys_errno) return cli_fail_errno(c, src->name, sys_errno);
    const char *what = cli_foreign_what(src->plain);
    if (what) cli_say(c, src->name, "%s", what);
    return what ? CLI_BAD : CLI_OK;
}

/* Open an input read-only. On failure it is closed again. */
static int cli_source_open(struct cli *c, struct cli_source *src, const char *path) {
    int input = strcmp(path, "-") != 0;
    memset(src, 0, sizeof *src);
    src->cli = c;
    src->name = input ? path : "standard input";
    src->fd = input ? open(path, O_RDONLY | O_NOCTTY) : STDIN_FILENO;
    if (src->fd < 0) return cli_fail_errno(c, path, errno);
    src->progress.terminal = isatty(STDERR_FILENO);
    src->progress.show = !cli_has(c, CLI_O_QUIET) && (cli_has(c, CLI_O_PROGRESS) || src->progress.terminal);
    src->progress.start_ms = cli_now_ms();
    int code = cli_source_accept(c, src);
    if (code) cli_source_close(src);
    return code;
}

/* Back to the start, for another pass. */
static int cli_source_rewind(struct cli_source *src) {
    if (lseek(src->fd, (off_t)(src->start + src->head_len), SEEK_SET) < 0) return 0;
    src->head_off = 0;
    src->read_off = src->progress.next_off = 0;
    return 1;
}

/* The header, as far as the head tells; the reader judges it. */
static rdbkit_header cli_source_header(const struct cli_source *src) {
    int valkey = strncmp(src->plain, "VALKEY", 6) == 0;
    return (rdbkit_header){valkey ? RDBKIT_VALKEY : RDBKIT_REDIS, atoi(src->plain + (valkey ? 6 : 5))};
}

static const char *cli_magic(rdbkit_lineage lineage) { return lineage == RDBKIT_VALKEY ? "VALKEY" : "REDIS"; }

/* ---- One pass over an input --------------------------------------------------------------------------- */

enum cli_tail { CLI_TAIL_NONE, CLI_TAIL_AOF, CLI_TAIL_OTHER };

struct cli_pass {
    rdbkit_reader *reader; /* for visitors; valid while cli_read() runs */
    rdbkit_error error;
    uint64_t end_off; /* of the RDB */
    enum cli_tail tail;
    int gzip;
};

static void cli_reader_options(const struct cli *c, rdbkit_reader_options *options) {
    rdbkit_reader_options_init(options);
    options->ignore_checksum = cli_has(c, CLI_O_IGNORE_SUM);
    options->piece_len = CLI_BLOCK_LEN;
    if (c->filter) options->key_filter = rdbkit_filter_apply, options->key_filter_ctx = c->filter;
}

static void cli_read_tail(struct cli_pass *pass, rdbkit_input *in) {
    const void *data;
    size_t len;
    int status = rdbkit_input_rest(in, &data, &len);
    if (status == RDBKIT_DONE) return;
    if (status == RDBKIT_OK && len > 0 && (*(const char *)data == '*' || *(const char *)data == '#'))
        pass->tail = CLI_TAIL_AOF;
    else pass->tail = CLI_TAIL_OTHER; /* bytes that cannot even be read are no less there */
}

/* Read all of a source. pass: filled in; it may be reached by the visitor. Returns RDBKIT_DONE or the error. */
static int cli_read(struct cli_source *src, const rdbkit_reader_options *options,
                    const rdbkit_visitor *visitor, struct cli_pass *pass) {
    memset(pass, 0, sizeof *pass);
    if (src->cli->filter) rdbkit_filter_restart(src->cli->filter);
    pass->reader = rdbkit_reader_new(options, visitor);
    rdbkit_input *in = rdbkit_input_new(NULL, cli_source_read, src);
    int status = pass->error.code = RDBKIT_ERR_NOMEM;
    src->reader = pass->reader;
    if (pass->reader && in) {
        status = rdbkit_reader_pull(pass->reader, in);
        pass->error = *rdbkit_reader_error(pass->reader);
        if (status < 0) pass->error.code = status;
        pass->end_off = rdbkit_reader_offset(pass->reader);
        src->keys = rdbkit_reader_keys(pass->reader);
        src->checksum = rdbkit_reader_verified(pass->reader);
        pass->gzip = rdbkit_input_is_gzip(in);
        if (status == RDBKIT_DONE) cli_read_tail(pass, in);
    }
    rdbkit_input_free(in);
    rdbkit_reader_free(pass->reader);
    src->reader = pass->reader = NULL;
    cli_progress_clear(src);
    return status;
}

/* Judge what follows the RDB: commands would be lost silently, other bytes matter to no server. */
static int cli_judge_tail(struct cli *c, const struct cli_source *src, const struct cli_pass *pass) {
    if (pass->tail == CLI_TAIL_AOF) {
        cli_say(c, src->name,
                "at %" PRIu64 ": an append-only file with RDB preamble: commands follow the RDB, and this "
                "version reads RDB files alone",
                pass->end_off);
        return CLI_BAD;
    }
    if (pass->tail == CLI_TAIL_OTHER && !cli_has(c, CLI_O_QUIET))
        cli_say(c, src->name, "warning: at %" PRIu64 ": bytes follow the end of the RDB; they are ignored",
                pass->end_off);
    return CLI_OK;
}

/* The exit code of a pass, after whose end the data went to c->out. */
static int cli_judge_pass(struct cli *c, const struct cli_source *src, int status,
                          const struct cli_pass *pass) {
    if (c->out.sys_errno) return CLI_IO; /* cli_out_close() says so */
    return status == RDBKIT_DONE ? cli_judge_tail(c, src, pass) : cli_fail(c, src->name, &pass->error);
}

/* ==== [30] verb_ : command line: the verbs ====
 *
 * One function a verb: keys, info, check, to-resp, and what they print. Tests: tests/cli_test.py */

/* ---- filters ------------------------------------------------------------------------------------------ */

static int verb_filter_bad(struct cli *c, enum cli_option_id id, const char *value, const char *wanted) {
    cli_say(c, NULL, "--%s: %.200s: %s", cli_option_table[id].name, *value ? value : "nothing given", wanted);
    return CLI_USAGE;
}

/* The exit code for what the library said of a value. */
static int verb_filter_status(struct cli *c, int status, enum cli_option_id id, const char *value,
                              const char *wanted) {
    if (status == RDBKIT_OK) return CLI_OK;
    if (status == RDBKIT_ERR_NOMEM) return cli_fail_errno(c, NULL, ENOMEM);
    return verb_filter_bad(c, id, value, wanted);
}

/* Decimal digits at *p, which moves behind them. 1, or 0 if there are none or too many. */
static int verb_filter_number(const char **p, uint64_t *n) {
    const char *at = *p;
    for (*n = 0; *at >= '0' && *at <= '9'; at++) {
        const unsigned digit = (unsigned)(*at - '0');
        if (*n > (UINT64_MAX - digit) / 10) return 0;
        *n = *n * 10 + digit;
    }
    const int any = at > *p;
    *p = at;
    return any;
}

/* Numbers and ranges: 1,3-5. */
static int verb_filter_ranges(struct cli *c, rdbkit_filter *f, enum cli_option_id id, const char *value) {
    const char *wanted = id == CLI_O_SLOT ? "cluster slots are 0 to 16383, as in 5,10-20"
                                          : "databases are numbers, as in 1,3-5";
    const char *p = value;
    int code;
    do {
        uint64_t first, last;
        if (!verb_filter_number(&p, &first)) return verb_filter_bad(c, id, value, wanted);
        last = first;
        if (*p == '-' && (p++, !verb_filter_number(&p, &last))) return verb_filter_bad(c, id, value, wanted);
        if (*p && *p != ',') return verb_filter_bad(c, id, value, wanted);
        if (first > last)
            return verb_filter_bad(c, id, value, "a range goes from the lower number to the higher");
        int status = RDBKIT_ERR_USAGE;
        if (id != CLI_O_SLOT) status = rdbkit_filter_db(f, first, last, id == CLI_O_NOT_DB);
        else if (last <= 16383) status = rdbkit_filter_slot(f, (unsigned)first, (unsigned)last);
        code = verb_filter_status(c, status, id, value, wanted);
    } while (code == CLI_OK && *p++);
    return code;
}

static int verb_filter_types(struct cli *c, rdbkit_filter *f, enum cli_option_id id, const char *value) {
    unsigned bits = 0;
    const char *p = value;
    do {
        const size_t len = strcspn(p, ",");
        unsigned i = 0;
        for (; i < RDBKIT_SHAPE_N; i++) {
            const char *name = rdbkit_shape_name((rdbkit_shape)i);
            if (strlen(name) == len && strncmp(name, p, len) == 0) break;
        }
        if (i == RDBKIT_SHAPE_N)
            return verb_filter_bad(c, id, value, "types are string, list, set, zset, hash, stream, module");
        bits |= 1u << i;
        p += len;
    } while (*p++);
    return verb_filter_status(c, rdbkit_filter_shapes(f, bits, id == CLI_O_NOT_TYPE), id, value, "no types");
}

static int verb_filter_bad_regex(struct cli *c, enum cli_option_id id, const char *value) {
    regex_t regex;
    char text[200] = "not a regular expression";
    int error = regcomp(&regex, value, REG_EXTENDED | REG_NOSUB); /* again, for the text */
    if (error) (void)regerror(error, &regex, text, sizeof text);
    else regfree(&regex);
    return verb_filter_bad(c, id, value, text);
}

static int verb_filter_pattern(struct cli *c, rdbkit_filter *f, enum cli_option_id id, const char *value) {
    const int negate = id == CLI_O_NOT_KEY, regex = cli_has(c, CLI_O_REGEX);
    int status = regex ? rdbkit_filter_key_regex(f, value, negate)
                       : rdbkit_filter_key(f, value, strlen(value), negate);
    if (status == RDBKIT_ERR_USAGE && regex) return verb_filter_bad_regex(c, id, value);
    return verb_filter_status(c, status, id, value, "not a pattern");
}

static int verb_hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The byte at *p as redis-cli reads it between double quotes; *p moves behind it. end: of the text, behind p. */
static char verb_unescape(const char **p, const char *end) {
    static const char from[] = "nrtba", to[] = "\n\r\t\b\a";
    const char *at = *p;
    if (*at != '\\' || end - at < 2) {
        *p = at + 1;
        return *at;
    }
    if (at[1] == 'x' && end - at >= 4 && verb_hex_digit(at[2]) >= 0 && verb_hex_digit(at[3]) >= 0) {
        *p = at + 4;
        return (char)(verb_hex_digit(at[2]) << 4 | verb_hex_digit(at[3]));
    }
    const char *known = at[1] ? strchr(from, at[1]) : NULL;
    *p = at + 2;
    return known ? to[known - from] : at[1];
}

/* A line of --keys-from, in place: what stands in double quotes is unescaped. 0: it does not end as it begins. */
static int verb_filter_line(char *line, size_t *len) {
    if (*len < 2 || line[0] != '"' || line[*len - 1] != '"') return 1;
    const char *p = line + 1, *end = line + *len - 1;
    char *to = line;
    while (p < end) {
        if (*p == '"' || (*p == '\\' && p + 1 == end)) return 0;
        *to++ = verb_unescape(&p, end);
    }
    *len = (size_t)(to - line);
    return 1;
}

static int verb_filter_names_of(struct cli *c, rdbkit_filter *f, const char *name, FILE *file,
                                uint64_t *names) {
    char *line = NULL;
    size_t cap = 0;
    int code = CLI_OK;
    uint64_t line_n = 0;
    for (ssize_t n; code == CLI_OK && (n = getline(&line, &cap, file)) > 0;) {
        size_t len = (size_t)n - (line[n - 1] == '\n');
        line_n++;
        if (len == 0) continue;
        if (!verb_filter_line(line, &len)) {
            cli_say(c, name,
                    "line %" PRIu64 ": not as redis-cli quotes: \" and \\ inside want a \\ before them",
                    line_n);
            code = CLI_USAGE;
        } else if (rdbkit_filter_key_name(f, line, len)) {
            code = cli_fail_errno(c, NULL, ENOMEM);
        } else {
            ++*names;
        }
    }
    if (code == CLI_OK && ferror(file)) code = cli_fail_errno(c, name, errno);
    else if (code == CLI_OK && !feof(file)) code = cli_fail_errno(c, name, ENOMEM);
    free(line);
    return code;
}

static int verb_filter_names(struct cli *c, rdbkit_filter *f, const char *path, uint64_t *names) {
    if (strcmp(path, "-") == 0) {
        for (int i = 0; i < c->o.inputs_n; i++)
            if (strcmp(c->o.inputs[i], "-") == 0)
                return verb_filter_bad(c, CLI_O_KEYS_FROM, path, "standard input is the RDB already");
        return verb_filter_names_of(c, f, "standard input", stdin, names);
    }
    FILE *file = fopen(path, "r");
    if (!file) return cli_fail_errno(c, path, errno);
    int code = verb_filter_names_of(c, f, path, file, names);
    (void)fclose(file);
    return code;
}

static int verb_filter_map(struct cli *c, rdbkit_filter *f, const char *value) {
    const char *p = value;
    uint64_t from, to;
    if (!verb_filter_number(&p, &from) || *p++ != ':' || !verb_filter_number(&p, &to) || *p)
        return verb_filter_bad(c, CLI_O_MAP_DB, value, "two databases, as in 0:3");
    return verb_filter_status(c, rdbkit_filter_map_db(f, from, to), CLI_O_MAP_DB, value,
                              "this database is mapped already, or no server has such a number");
}

static int verb_filter_rename(struct cli *c, rdbkit_filter *f, const char *value) {
    const size_t len = strlen(value);
    const char *end = value + len;
    char *text = malloc(len + 1);
    size_t n = 0, old_len = 0, colons = 0;
    if (!text) return cli_fail_errno(c, NULL, ENOMEM);
    for (const char *p = value; p < end;) {
        if (*p == ':' && colons++ == 0) {
            old_len = n;
            p++;
        } else {
            text[n++] = verb_unescape(&p, end);
        }
    }
    int code;
    if (colons == 1)
        code = verb_filter_status(c, rdbkit_filter_rename(f, text, old_len, text + old_len, n - old_len),
                                  CLI_O_RENAME, value, "not two prefixes");
    else
        code = verb_filter_bad(c, CLI_O_RENAME, value,
                               colons ? "more than one colon: write \\: for those that belong to a prefix"
                                      : "two prefixes with a colon between, as in old:new");
    free(text);
    return code;
}

static int verb_filter_shift(struct cli *c, rdbkit_filter *f, const char *value) {
    const int back = value[0] == '-';
    const char *p = value + (back || value[0] == '+');
    uint64_t n;
    if (!verb_filter_number(&p, &n) || *p || n > INT64_MAX / 1000)
        return verb_filter_bad(c, CLI_O_TTL_SHIFT, value, "whole seconds, as in 3600 or -3600");
    rdbkit_filter_shift_ttl(f, back ? -(int64_t)n * 1000 : (int64_t)n * 1000);
    return CLI_OK;
}

static int verb_filter_limit(struct cli *c, rdbkit_filter *f, const char *value) {
    const char *p = value;
    uint64_t n;
    if (!verb_filter_number(&p, &n) || *p || n == 0)
        return verb_filter_bad(c, CLI_O_LIMIT, value, "a number of keys, 1 or more");
    rdbkit_filter_limit(f, n);
    return CLI_OK;
}

/* One value of any option; those that do not concern filters are left alone. */
static int verb_filter_value(struct cli *c, rdbkit_filter *f, enum cli_option_id id, const char *value) {
    if (id == CLI_O_KEY || id == CLI_O_NOT_KEY) return verb_filter_pattern(c, f, id, value);
    if (id == CLI_O_TYPE || id == CLI_O_NOT_TYPE) return verb_filter_types(c, f, id, value);
    if (id == CLI_O_DB || id == CLI_O_NOT_DB || id == CLI_O_SLOT) return verb_filter_ranges(c, f, id, value);
    if (id == CLI_O_LIMIT) return verb_filter_limit(c, f, value);
    if (id == CLI_O_MAP_DB) return verb_filter_map(c, f, value);
    if (id == CLI_O_RENAME) return verb_filter_rename(c, f, value);
    if (id == CLI_O_TTL_SHIFT) return verb_filter_shift(c, f, value);
    return CLI_OK;
}

static int verb_filter_values(struct cli *c, rdbkit_filter *f) {
    int code = CLI_OK;
    uint64_t names = 0;
    for (size_t i = 0; i < c->o.given_n && code == CLI_OK; i++) {
        const enum cli_option_id id = (enum cli_option_id)(c->o.given[i].option - cli_option_table);
        const char *value = c->o.given[i].value;
        code = id == CLI_O_KEYS_FROM ? verb_filter_names(c, f, value, &names)
                                     : verb_filter_value(c, f, id, value);
    }
    if (cli_has(c, CLI_O_KEYS_FROM) && names == 0) rdbkit_filter_limit(f, 0); /* an empty list names no key */
    return code;
}

/* Options that leave nothing together, or say nothing without another. */
static int verb_filter_conflict(struct cli *c) {
    static const enum cli_option_id pairs[][2] = {{CLI_O_EXPIRED, CLI_O_NO_EXPIRED},
                                                  {CLI_O_EXPIRED, CLI_O_NO_TTL},
                                                  {CLI_O_HAS_TTL, CLI_O_NO_TTL},
                                                  {CLI_O_STRIP_TTL, CLI_O_TTL_SHIFT}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (!cli_has(c, pairs[i][0]) || !cli_has(c, pairs[i][1])) continue;
        cli_say(c, NULL, "--%s and --%s exclude each other", cli_option_table[pairs[i][0]].name,
                cli_option_table[pairs[i][1]].name);
        return CLI_USAGE;
    }
    if (cli_has(c, CLI_O_NOW) && !cli_has(c, CLI_O_EXPIRED) && !cli_has(c, CLI_O_NO_EXPIRED)) {
        cli_say(c, NULL, "--now says nothing without --expired or --no-expired");
        return CLI_USAGE;
    }
    if (cli_has(c, CLI_O_REGEX) && !cli_has(c, CLI_O_KEY) && !cli_has(c, CLI_O_NOT_KEY)) {
        cli_say(c, NULL, "--regex says nothing without --key or --not-key");
        return CLI_USAGE;
    }
    return CLI_OK;
}

static int verb_filter_expiry(struct cli *c, rdbkit_filter *f) {
    static const struct {
        enum cli_option_id id;
        unsigned bit;
    } rows[] = {{CLI_O_EXPIRED, RDBKIT_ONLY_EXPIRED},
                {CLI_O_NO_EXPIRED, RDBKIT_NO_EXPIRED},
                {CLI_O_HAS_TTL, RDBKIT_HAS_TTL},
                {CLI_O_NO_TTL, RDBKIT_NO_TTL}};
    const char *now_text = c->o.text[CLI_O_NOW];
    unsigned which = 0;
    uint64_t now = 0;
    struct timespec t;
    if (now_text) {
        const char *p = now_text;
        if (!verb_filter_number(&p, &now) || *p || now > INT64_MAX)
            return verb_filter_bad(c, CLI_O_NOW, now_text, "unix time in milliseconds, as in 1735689600000");
    } else if (clock_gettime(CLOCK_REALTIME, &t) == 0) {
        now = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (cli_has(c, rows[i].id)) which |= rows[i].bit;
    rdbkit_filter_expiry(f, which, (int64_t)now);
    return CLI_OK;
}

/* Whether an option from KEY to the last was given: up to LIMIT they filter, up to TTL_SHIFT are all. */
static int verb_filter_given(const struct cli *c, enum cli_option_id last) {
    for (unsigned id = CLI_O_KEY; id <= (unsigned)last; id++)
        if (cli_has(c, (enum cli_option_id)id)) return 1;
    return 0;
}

/* The filter that the options ask for, or NULL. Returns the exit code; *out is the caller's in any case. Once a run:
 * it may read standard input. */
static int verb_filter(struct cli *c, rdbkit_filter **out) {
    *out = NULL;
    if (!verb_filter_given(c, CLI_O_TTL_SHIFT)) return CLI_OK;
    int code = verb_filter_conflict(c);
    if (code) return code;
    *out = rdbkit_filter_new(NULL);
    if (!*out) return cli_fail_errno(c, NULL, ENOMEM);
    code = verb_filter_expiry(c, *out);
    if (code == CLI_OK) code = verb_filter_values(c, *out);
    if (code == CLI_OK && cli_has(c, CLI_O_STRIP_TTL)) rdbkit_filter_strip_ttl(*out);
    return code;
}

/* After a pass that went well: nothing at all is seldom what was meant. */
static void verb_filter_after(struct cli *c, const struct cli_source *src) {
    if (!c->filter || cli_has(c, CLI_O_QUIET) || !verb_filter_given(c, CLI_O_LIMIT)) return;
    if (rdbkit_filter_matched(c->filter) == 0) cli_say(c, src->name, "no key matched the filters");
}

/* ---- keys --------------------------------------------------------------------------------------------- */

/* The format, compiled: text to copy, or what to put. */
struct verb_field {
    char what; /* a letter of verb_field_letters, 0: text */
    rdbkit_str text;
};

static const char verb_field_letters[] = "dktesnc";

struct verb_keys {
    struct cli_out *out;
    struct cli_source *src;
    struct cli_pass pass;
    struct verb_field *fields;
    size_t fields_n;
    char *text; /* behind verb_field.text */
    int count;  /* %n occurs: elements are wanted */
    rdbkit_key key;
    char *name; /* a copy of the key's name */
    size_t name_cap;
    int64_t n;
};

/* One escape of the format at *p: the byte that it stands for, or 0 with *letter set, or -1. */
static int verb_format_escape(const char *p, char *letter) {
    *letter = 0;
    if (p[0] == '%') {
        if (p[1] && strchr(verb_field_letters, p[1])) *letter = p[1];
        return *letter ? 0 : p[1] == '%' ? '%' : -1;
    }
    return p[1] == 'n' ? '\n' : p[1] == 't' ? '\t' : p[1] == '\\' ? '\\' : -1;
}

static int verb_format_compile(struct cli *c, struct verb_keys *k, const char *format) {
    size_t len = strlen(format);
    char *to;
    k->fields = calloc(len + 1, sizeof *k->fields);
    k->text = to = malloc(len + 1);
    if (!k->fields || !k->text) return cli_fail_errno(c, NULL, ENOMEM);
    for (const char *p = format; *p; p++) {
        char letter = 0;
        int byte = *p == '%' || *p == '\\' ? verb_format_escape(p, &letter) : (unsigned char)*p;
        if (byte < 0) {
            cli_say(c, NULL, "--format: %.2s means nothing at character %zu", p, (size_t)(p - format) + 1);
            cli_hint(c, "known are %d %k %t %e %s %n %c %% \\n \\t \\\\");
            return CLI_USAGE;
        }
        if (letter || byte != (unsigned char)*p || *p == '%' || *p == '\\') p++;
        if (letter == 'n') k->count = 1;
        if (letter) {
            k->fields[k->fields_n++].what = letter;
            continue;
        }
        /* The byte joins the text before it, or begins one. */
        if (!k->fields_n || k->fields[k->fields_n - 1].what) k->fields[k->fields_n++].text.data = to;
        k->fields[k->fields_n - 1].text.len++;
        *to++ = (char)byte;
    }
    return CLI_OK;
}

static void verb_keys_field(struct verb_keys *k, const struct verb_field *f) {
    switch (f->what) {
    case 'd': cli_put_u64(k->out, k->key.db); break;
    case 'k': cli_put_quoted(k->out, (rdbkit_str){k->name, k->key.name.len}); break;
    case 't': cli_puts(k->out, rdbkit_shape_name(k->key.type->shape)); break;
    case 'e': cli_put_i64(k->out, k->key.expire_ms); break;
    case 's': cli_put_u64(k->out, rdbkit_reader_offset(k->pass.reader) - k->key.value_off); break;
    case 'n': cli_put_i64(k->out, k->n); break;
    case 'c': cli_puts(k->out, k->key.type->name); break;
    default: cli_put(k->out, f->text.data, f->text.len); break;
    }
}

static int verb_keys_key(void *user, const rdbkit_key *key) {
    struct verb_keys *k = user;
    if (key->name.len > k->name_cap) {
        char *name = realloc(k->name, key->name.len);
        if (!name) return RDBKIT_ERR_NOMEM;
        k->name = name;
        k->name_cap = key->name.len;
    }
    if (key->name.len) memcpy(k->name, key->name.data, key->name.len);
    k->key = *key;
    k->n = key->type->shape == RDBKIT_MODULE ? -1 : 0;
    k->src->keys++;
    return k->count && key->type->shape != RDBKIT_MODULE ? RDBKIT_OK : RDBKIT_SKIP_KEY;
}

static int verb_keys_key_end(void *user) {
    struct verb_keys *k = user;
    for (size_t i = 0; i < k->fields_n; i++) verb_keys_field(k, &k->fields[i]);
    cli_put(k->out, "\n", 1);
    return k->out->sys_errno ? RDBKIT_ERR_STOPPED : RDBKIT_OK;
}

static int verb_keys_count(struct verb_keys *k) {
    k->n++;
    return RDBKIT_OK;
}

static int verb_keys_string(void *user, rdbkit_str value) {
    struct verb_keys *k = user;
    k->n = (int64_t)value.len;
    return RDBKIT_OK;
}

static int verb_keys_piece(void *user, rdbkit_str piece, uint64_t off, uint64_t len) {
    struct verb_keys *k = user;
    (void)piece, (void)off;
    k->n = (int64_t)len;
    return RDBKIT_OK;
}

static int verb_keys_item(void *user, rdbkit_str item) {
    (void)item;
    return verb_keys_count(user);
}

static int verb_keys_member(void *user, rdbkit_str member, double score) {
    (void)member, (void)score;
    return verb_keys_count(user);
}

static int verb_keys_hash_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)field, (void)value, (void)expire_ms;
    return verb_keys_count(user);
}

static int verb_keys_stream(void *user, const rdbkit_stream_info *info) {
    struct verb_keys *k = user;
    k->n = (int64_t)info->length;
    return RDBKIT_OK;
}

static rdbkit_visitor verb_keys_visitor(struct verb_keys *k) {
    rdbkit_visitor v = {0};
    v.user = k;
    v.key = verb_keys_key;
    v.key_end = verb_keys_key_end;
    v.string = verb_keys_string;
    v.string_piece = verb_keys_piece;
    v.list_item = verb_keys_item;
    v.set_member = verb_keys_item;
    v.zset_member = verb_keys_member;
    v.hash_field = verb_keys_hash_field;
    v.stream_info = verb_keys_stream;
    return v;
}

static int verb_keys(struct cli *c, struct cli_source *src) {
    const char *format = c->o.text[CLI_O_FORMAT];
    struct verb_keys k;
    memset(&k, 0, sizeof k);
    k.out = &c->out;
    k.src = src;
    int code = verb_format_compile(c, &k, format ? format : "%d %k %t %e %s %n");
    if (code == CLI_OK) {
        rdbkit_reader_options options;
        cli_reader_options(c, &options);
        rdbkit_visitor v = verb_keys_visitor(&k);
        int status = cli_read(src, &options, &v, &k.pass);
        code = cli_judge_pass(c, src, status, &k.pass);
    }
    free(k.fields);
    free(k.text);
    free(k.name);
    return code;
}

/* ---- info --------------------------------------------------------------------------------------------- */

struct verb_db {
    uint64_t db, keys, expires;
};

/* A bounded list of texts, each name once: they may come from hostile files. */
struct verb_list {
    rdbkit_str name[CLI_LIST_MAX], value[CLI_LIST_MAX]; /* copies, cut to 1024 bytes */
    size_t n;
    uint64_t more; /* that were not kept: repeated names (slot-info of Valkey), or too many */
};

struct verb_info {
    struct cli_source *src;
    struct cli_pass pass;
    rdbkit_header header;
    struct verb_db dbs[CLI_DBS_MAX], other_dbs;
    struct verb_db *at; /* of the last key */
    size_t dbs_n;
    uint64_t highest_db;
    uint64_t keys, expires, hints, slot_infos, slot_imports, module_auxs, functions_n, pre_ga_functions;
    uint64_t shapes[RDBKIT_SHAPE_N];
    uint64_t types_n[256]; /* by type byte: in one file it has one meaning */
    const rdbkit_type *types[256];
    struct verb_list aux, functions, modules;
};

static rdbkit_str verb_copy(rdbkit_str s, size_t max) {
    size_t len = s.len < max ? s.len : max;
    char *data = malloc(len + 1);
    if (!data) return (rdbkit_str){NULL, 0};
    if (len) memcpy(data, s.data, len);
    return (rdbkit_str){data, len};
}

static int verb_same(rdbkit_str a, rdbkit_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static int verb_list_add(struct verb_list *list, rdbkit_str name, rdbkit_str value) {
    int full = list->n == CLI_LIST_MAX;
    for (size_t i = 0; i < list->n && !full; i++) full = verb_same(list->name[i], name);
    if (full) {
        list->more++;
        return RDBKIT_OK;
    }
    rdbkit_str *to_name = &list->name[list->n], *to_value = &list->value[list->n++];
    *to_name = verb_copy(name, 1024);
    *to_value = verb_copy(value, 1024);
    return to_name->data && to_value->data ? RDBKIT_OK : RDBKIT_ERR_NOMEM;
}

static void verb_free_str(rdbkit_str s) {
    void *p;
    memcpy(&p, &s.data, sizeof p); /* our own copy: the const is the type's, not the memory's */
    free(p);
}

static void verb_list_free(struct verb_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        verb_free_str(list->name[i]);
        verb_free_str(list->value[i]);
    }
}

/* The row of a database, made if needed. Servers write each database once. */
static struct verb_db *cli_info_db(struct verb_info *info, uint64_t db) {
    size_t i = info->dbs_n;
    while (i > 0 && info->dbs[i - 1].db != db) i--;
    if (i > 0) return &info->dbs[i - 1];
    if (info->dbs_n == CLI_DBS_MAX) return &info->other_dbs;
    info->dbs[info->dbs_n].db = db;
    return &info->dbs[info->dbs_n++];
}

static int verb_info_header(void *user, const rdbkit_header *header) {
    struct verb_info *info = user;
    info->header = *header;
    return RDBKIT_OK;
}

static int verb_info_aux(void *user, rdbkit_str name, rdbkit_str value) {
    struct verb_info *info = user;
    return verb_list_add(&info->aux, name, value);
}

/* The name= of a library's first line, "#!lua name=mylib". */
static rdbkit_str verb_function_name(rdbkit_str code) {
    static const char mark[] = " name=";
    const size_t mark_len = sizeof mark - 1;
    for (size_t i = 0; i + mark_len <= code.len && code.data[i] != '\n'; i++) {
        if (memcmp(code.data + i, mark, mark_len) != 0) continue;
        size_t from = i + mark_len, to = from;
        while (to < code.len && !strchr(" \t\r\n", code.data[to])) to++; /* also ends at NUL */
        return (rdbkit_str){code.data + from, to - from};
    }
    return cli_str("");
}

static int verb_info_function(void *user, rdbkit_str code, int opcode) {
    struct verb_info *info = user;
    info->functions_n++;
    info->pre_ga_functions += opcode == 246;
    return verb_list_add(&info->functions, verb_function_name(code), cli_str(""));
}

static int verb_info_module_aux(void *user, const rdbkit_module_aux *aux) {
    struct verb_info *info = user;
    info->module_auxs++;
    return verb_list_add(&info->modules, cli_str(aux->module), cli_str(""));
}

static int verb_info_slot_info(void *user, uint64_t slot, uint64_t keys, uint64_t expires) {
    struct verb_info *info = user;
    (void)slot, (void)keys, (void)expires;
    info->slot_infos++;
    return RDBKIT_OK;
}

static int verb_info_slot_import(void *user, rdbkit_str job, uint64_t ranges) {
    struct verb_info *info = user;
    (void)job, (void)ranges;
    info->slot_imports++;
    return RDBKIT_OK;
}

static int verb_info_key(void *user, const rdbkit_key *key) {
    struct verb_info *info = user;
    const unsigned number = (unsigned)key->type->number & 255;
    const int expires = key->expire_ms != RDBKIT_NO_EXPIRY;
    if (!info->at || info->at->db != key->db) info->at = cli_info_db(info, key->db);
    if (key->db > info->highest_db) info->highest_db = key->db;
    info->at->keys++;
    info->at->expires += (uint64_t)expires;
    info->keys++;
    info->expires += (uint64_t)expires;
    if (key->idle_s != RDBKIT_NO_HINT || key->lfu_freq != RDBKIT_NO_HINT) info->hints++;
    info->shapes[key->type->shape]++;
    info->types[number] = key->type;
    info->types_n[number]++;
    if (key->module && verb_list_add(&info->modules, cli_str(key->module), cli_str(""))) return RDBKIT_ERR_NOMEM;
    return RDBKIT_SKIP_KEY;
}

static rdbkit_visitor verb_info_visitor(struct verb_info *info) {
    rdbkit_visitor v = {0};
    v.user = info;
    v.header = verb_info_header;
    v.aux = verb_info_aux;
    v.function = verb_info_function;
    v.module_aux = verb_info_module_aux;
    v.slot_info = verb_info_slot_info;
    v.slot_import = verb_info_slot_import;
    v.key = verb_info_key;
    return v;
}

/* Hashes of a type that can hold field expiry; servers write these types for such hashes alone. */
static uint64_t verb_info_field_expiry(const struct verb_info *info) {
    uint64_t n = 0;
    for (size_t i = 0; i < 256; i++)
        if (info->types[i] && info->types[i]->shape == RDBKIT_HASH && info->types[i]->rdb_version >= 12)
            n += info->types_n[i];
    return n;
}

/* What a file holds that a feature of the target must cover. */
struct verb_need {
    unsigned feature;
    uint64_t n;
    const char *what;
};

/* Whether a target loads the file. text: the first reason why not, or what has to be seen to. */
static int verb_info_verdict(const struct verb_info *info, const rdbkit_target *t, char *text, size_t size) {
    const int valkey = info->header.lineage == RDBKIT_VALKEY;
    const int highest = valkey ? t->max_valkey_version : t->max_redis_version;
    const struct verb_need needs[] = {
        {RDBKIT_F_FUNCTIONS, info->functions_n, "knows no function libraries"},
        {RDBKIT_F_FUNCTION_PRE_GA, info->pre_ga_functions, "knows no opcode 246 (functions of 7.0 release candidates)"},
        {RDBKIT_F_MODULE_AUX, info->module_auxs, "knows no opcode 247 (module data)"},
        {RDBKIT_F_SLOT_INFO, info->slot_infos, "knows no opcode 244 (slot info of a cluster)"},
        {RDBKIT_F_SLOT_IMPORT, info->slot_imports, "knows no opcode 243 (slot import)"},
        {RDBKIT_F_IDLE_FREQ, info->hints, "knows no opcodes 248 and 249 (LRU and LFU)"},
    };
    text[0] = 0;
    if (info->header.rdb_version > highest) {
        if (highest > 0)
            (void)snprintf(text, size, "version %d is above its %d", info->header.rdb_version, highest);
        else (void)snprintf(text, size, "it does not know the magic %s", cli_magic(info->header.lineage));
        return 0;
    }
    for (size_t i = 0; i < 256; i++) {
        const rdbkit_type *type = info->types[i];
        if (!type || rdbkit_target_loads(t, type)) continue;
        (void)snprintf(text, size, "knows no type %d %s (%" PRIu64 " keys)", type->number, type->name,
                       info->types_n[i]);
        return 0;
    }
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if (!needs[i].n || (t->features & needs[i].feature)) continue;
        (void)snprintf(text, size, "%s", needs[i].what);
        return 0;
    }
    size_t len = 0;
    for (size_t i = 0; i < info->modules.n && len < size; i++)
        len += (size_t)snprintf(text + len, size - len, "%s%.*s", i ? ", " : "with module ",
                                (int)info->modules.name[i].len, info->modules.name[i].data);
    const uint64_t db = info->highest_db;
    if (db > 15 && len < size)
        (void)snprintf(text + len, size - len, "%sdatabase %" PRIu64 " needs `databases %" PRIu64 "`",
                       len ? "; " : "", db, db + 1);
    return 1;
}

static const char *verb_checksum_text(const struct cli *c, const struct cli_source *src) {
    return src->checksum ? "verified" : cli_has(c, CLI_O_IGNORE_SUM) ? "not looked at" : "none";
}

/* The server that wrote the file: its name, and *version as the file says, "" if it does not. */
static const char *verb_info_product(const struct verb_info *info, rdbkit_str *version) {
    static const char *const known[][2] = {{"valkey-ver", "Valkey"}, {"redis-ver", "Redis"}};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < info->aux.n; i++) {
            if (!verb_same(info->aux.name[i], cli_str(known[k][0]))) continue;
            *version = info->aux.value[i];
            return known[k][1];
        }
    *version = cli_str("");
    return info->header.lineage == RDBKIT_VALKEY ? "Valkey" : "Redis";
}

/* A report, printed as text or as JSON by the same calls. */
struct verb_doc {
    struct cli_out *out;
    int json;
    int depth;
    int n; /* items printed in this object or list */
};

static void verb_doc_next(struct verb_doc *d) {
    if (d->json) cli_puts(d->out, d->n++ ? "," : "");
    else cli_printf(d->out, "%*s", 2 * d->depth, "");
}

static void verb_doc_str(struct verb_doc *d, rdbkit_str s) {
    (d->json ? cli_put_json : cli_put_plain)(d->out, s);
}

static void verb_doc_name(struct verb_doc *d, rdbkit_str name) {
    verb_doc_next(d);
    verb_doc_str(d, name);
    cli_puts(d->out, d->json ? ":" : ": ");
}

static void verb_doc_end_line(struct verb_doc *d) {
    if (!d->json) cli_puts(d->out, "\n");
}

static void verb_doc_text(struct verb_doc *d, rdbkit_str name, rdbkit_str value) {
    verb_doc_name(d, name);
    verb_doc_str(d, value);
    verb_doc_end_line(d);
}

static void verb_doc_count(struct verb_doc *d, const char *name, uint64_t n) {
    verb_doc_name(d, cli_str(name));
    cli_printf(d->out, "%" PRIu64, n);
    verb_doc_end_line(d);
}

static void verb_doc_open(struct verb_doc *d, const char *name, const char *bracket) {
    verb_doc_next(d);
    if (d->json) cli_put_json(d->out, cli_str(name));
    else cli_puts(d->out, name);
    cli_puts(d->out, ":");
    cli_puts(d->out, d->json ? bracket : "\n");
    d->depth++;
    d->n = 0;
}

static void verb_doc_close(struct verb_doc *d, const char *bracket) {
    if (d->json) cli_puts(d->out, bracket);
    d->depth--;
    d->n = 1;
}

static void verb_doc_names(struct verb_doc *d, const char *name, const struct verb_list *list) {
    if (!d->json && list->n == 0) return;
    verb_doc_open(d, name, "[");
    for (size_t i = 0; i < list->n; i++) {
        verb_doc_next(d);
        verb_doc_str(d, list->name[i]);
        verb_doc_end_line(d);
    }
    verb_doc_close(d, "]");
}

static void verb_info_print_head(struct verb_doc *d, const struct cli *c, const struct verb_info *info) {
    const struct cli_source *src = info->src;
    rdbkit_str version;
    const char *product = verb_info_product(info, &version);
    verb_doc_text(d, cli_str("file"), cli_str(src->name));
    verb_doc_text(d, cli_str("magic"), cli_str(cli_magic(info->header.lineage)));
    verb_doc_count(d, "rdb_version", (uint64_t)info->header.rdb_version);
    verb_doc_text(d, cli_str("product"), cli_str(product));
    verb_doc_text(d, cli_str("product_version"), version);
    verb_doc_count(d, "size", src->size ? src->size : src->read_off);
    verb_doc_text(d, cli_str("compression"), cli_str(info->pass.gzip ? "gzip" : "none"));
    verb_doc_text(d, cli_str("checksum"), cli_str(verb_checksum_text(c, src)));
    verb_doc_open(d, "aux", "{");
    for (size_t i = 0; i < info->aux.n; i++) verb_doc_text(d, info->aux.name[i], info->aux.value[i]);
    verb_doc_close(d, "}");
    if (info->aux.more) verb_doc_count(d, "aux_not_shown", info->aux.more);
}

static void verb_info_print_db(struct verb_doc *d, const char *name, const struct verb_db *db) {
    verb_doc_name(d, cli_str(name));
    cli_printf(d->out,
               d->json ? "{\"keys\":%" PRIu64 ",\"expires\":%" PRIu64 "}"
                       : "%" PRIu64 " keys, %" PRIu64 " expire\n",
               db->keys, db->expires);
}

static void verb_info_print_counts(struct verb_doc *d, const struct verb_info *info) {
    char name[24];
    verb_doc_count(d, "keys", info->keys);
    verb_doc_count(d, "expires", info->expires);
    verb_doc_open(d, "databases", "{");
    for (size_t i = 0; i < info->dbs_n; i++) {
        (void)snprintf(name, sizeof name, "%" PRIu64, info->dbs[i].db);
        verb_info_print_db(d, name, &info->dbs[i]);
    }
    if (info->other_dbs.keys) verb_info_print_db(d, "others", &info->other_dbs);
    verb_doc_close(d, "}");
    verb_doc_open(d, "types", "{");
    for (int i = 0; i < RDBKIT_SHAPE_N; i++)
        if (info->shapes[i]) verb_doc_count(d, rdbkit_shape_name((rdbkit_shape)i), info->shapes[i]);
    verb_doc_close(d, "}");
    verb_doc_open(d, "encodings", "{");
    for (size_t i = 0; i < 256; i++)
        if (info->types[i]) verb_doc_count(d, info->types[i]->name, info->types_n[i]);
    verb_doc_close(d, "}");
    verb_doc_count(d, "field_expiry_hashes", verb_info_field_expiry(info));
    verb_doc_names(d, "functions", &info->functions);
    verb_doc_names(d, "modules", &info->modules);
}

static void verb_info_print_targets(struct verb_doc *d, const struct verb_info *info) {
    const rdbkit_target *t;
    verb_doc_open(d, "targets", "{");
    for (size_t i = 0; (t = rdbkit_target_at(i)) != NULL; i++) {
        char text[256];
        int yes = verb_info_verdict(info, t, text, sizeof text);
        verb_doc_name(d, cli_str(t->name));
        if (d->json) {
            cli_printf(d->out, "{\"loads\":%s,\"note\":", yes ? "true" : "false");
            cli_put_json(d->out, cli_str(text));
            cli_puts(d->out, "}");
        } else {
            cli_printf(d->out, "%s%s%s\n", yes ? "yes" : "no", text[0] ? ", " : "", text);
        }
    }
    verb_doc_close(d, "}");
}

static void verb_info_print(struct cli *c, const struct verb_info *info) {
    struct verb_doc d = {&c->out, cli_has(c, CLI_O_JSON), 0, 0};
    if (d.json) cli_puts(d.out, "{");
    verb_info_print_head(&d, c, info);
    verb_info_print_counts(&d, info);
    verb_info_print_targets(&d, info);
    cli_puts(d.out, d.json ? "}\n" : "");
}

static int verb_info(struct cli *c, struct cli_source *src) {
    rdbkit_reader_options options;
    struct verb_info *info = calloc(1, sizeof *info);
    if (!info) return cli_fail_errno(c, NULL, ENOMEM);
    info->src = src;
    info->other_dbs.db = RDBKIT_NO_DB;
    cli_reader_options(c, &options);
    rdbkit_visitor v = verb_info_visitor(info);
    int status = cli_read(src, &options, &v, &info->pass);
    int code = cli_judge_pass(c, src, status, &info->pass);
    if (code == CLI_OK) verb_info_print(c, info);
    verb_list_free(&info->aux);
    verb_list_free(&info->functions);
    verb_list_free(&info->modules);
    free(info);
    return code;
}

/* ---- check -------------------------------------------------------------------------------------------- */

/* A rdbkit_spill: a file without a name, made at the first write. */
struct verb_spill {
    int fd; /* -1: none yet */
    int sys_errno;
};

static int verb_spill_open(struct verb_spill *s) {
    char name[CLI_PATH_LEN];
    const char *dir = getenv("TMPDIR");
    int n = snprintf(name, sizeof name, "%s/rdbkit-XXXXXX", dir && *dir ? dir : "/tmp");
    errno = ENAMETOOLONG;
    if (n < 0 || (size_t)n >= sizeof name) return 0;
    cli_signals_block(1);
    s->fd = mkstemp(name);
    if (s->fd >= 0) (void)unlink(name);
    cli_signals_block(0);
    return s->fd >= 0;
}

/* Keeps and returns the errno of a failed call; nothing read is the end of the file, which cannot be. */
static int verb_spill_fail(struct verb_spill *s, ssize_t n) {
    s->sys_errno = n < 0 ? errno : EIO;
    return -s->sys_errno;
}

static int verb_spill_write(void *ctx, const void *data, size_t len) {
    struct verb_spill *s = ctx;
    const char *p = data;
    if (s->fd < 0 && !verb_spill_open(s)) return verb_spill_fail(s, -1);
    while (len > 0) {
        ssize_t n = write(s->fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return verb_spill_fail(s, n);
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int verb_spill_read(void *ctx, uint64_t offset, void *data, size_t len) {
    struct verb_spill *s = ctx;
    char *p = data;
    while (len > 0) {
        ssize_t n = pread(s->fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return verb_spill_fail(s, n);
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int verb_spill_reset(void *ctx) {
    struct verb_spill *s = ctx;
    if (s->fd < 0 || (ftruncate(s->fd, 0) == 0 && lseek(s->fd, 0, SEEK_SET) == 0)) return 0;
    return verb_spill_fail(s, -1);
}

/* Say that the temporary file is why the work failed. */
static int verb_spill_failed(struct cli *c, const struct verb_spill *s) {
    int code = cli_fail_errno(c, "temporary file", s->sys_errno);
    cli_hint(c, "TMPDIR names the directory for temporary files");
    return code;
}

/* Something that was found twice, and what its records say when they are read again. */
struct verb_dup {
    rdbkit_duplicate at;
    rdbkit_str name; /* a copy of the key's name; data NULL: not read */
    uint64_t db;
    int same; /* both records hold this key */
};

struct verb_confirm {
    struct verb_dup dup[CLI_DUPS_MAX];
    size_t n;
    uint64_t last_off; /* nothing of interest after that */
};

static int verb_confirm_key(void *user, const rdbkit_key *key) {
    struct verb_confirm *f = user;
    if (key->offset > f->last_off) return RDBKIT_ERR_STOPPED;
    for (size_t i = 0; i < f->n; i++) {
        struct verb_dup *d = &f->dup[i];
        if (key->offset == d->at.first_off && !d->name.data) {
            d->name = verb_copy(key->name, key->name.len);
            d->db = key->db;
            d->same = d->at.field; /* a field's bytes are not at hand: 80 bits of hash have to do */
        } else if (key->offset == d->at.second_off) {
            d->same = d->name.data && d->db == key->db && verb_same(d->name, key->name);
        }
    }
    return RDBKIT_SKIP_KEY;
}

/* Read the records again, where that is possible. */
static void verb_confirm_read(struct cli_source *src, const rdbkit_check *check, struct verb_confirm *f) {
    struct cli_pass pass;
    rdbkit_reader_options options;
    rdbkit_visitor v = {0};
    memset(f, 0, sizeof *f);
    for (const rdbkit_duplicate *d; f->n < CLI_DUPS_MAX && (d = rdbkit_check_duplicate(check, f->n));
         f->n++) {
        f->dup[f->n].at = *d;
        if (d->first_off > f->last_off) f->last_off = d->first_off;
        if (d->second_off > f->last_off) f->last_off = d->second_off;
    }
    uint64_t keys = src->keys;
    if (!src->seekable || !cli_source_rewind(src)) return;
    cli_reader_options(src->cli, &options);
    options.ignore_checksum = 1;
    v.user = f;
    v.key = verb_confirm_key;
    (void)cli_read(src, &options, &v, &pass);
    src->keys = keys;
}

static void verb_verdict(struct cli *c, const struct cli_source *src, const char *verdict) {
    cli_puts(&c->out, src->name);
    cli_puts(&c->out, verdict);
}

/* Print what occurs twice. Returns how many of the found ones hold: two names of the same hash are none. */
static uint64_t verb_check_print_dups(struct cli *c, const struct cli_source *src, const struct verb_confirm *f,
                                     uint64_t found) {
    uint64_t real = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct verb_dup *d = &f->dup[i];
        if (d->name.data && !d->same) continue;
        real++;
        verb_verdict(c, src,
                    d->at.field ? ": damaged: a field or member twice in key " : ": damaged: key twice");
        if (d->name.data) {
            cli_puts(&c->out, d->at.field ? "" : ": ");
            cli_put_quoted(&c->out, d->name);
            cli_printf(&c->out, " db %" PRIu64, d->db);
        }
        cli_printf(&c->out, ": at %" PRIu64, d->at.first_off);
        if (!d->at.field) cli_printf(&c->out, " and %" PRIu64, d->at.second_off);
        cli_puts(&c->out, "\n");
    }
    if (found <= f->n) return real;
    verb_verdict(c, src, ": damaged: ");
    cli_printf(&c->out, "%" PRIu64 " more duplicates\n", found - f->n);
    return real + found - f->n;
}

/* Returns CLI_NO if keys, fields or members occur twice. */
static int verb_check_dups(struct cli *c, struct cli_source *src, rdbkit_check *check) {
    struct verb_confirm f;
    int64_t found = rdbkit_check_finish(check);
    if (found == RDBKIT_ERR_IO) return CLI_IO; /* verb_check() says so */
    if (found < 0) {
        rdbkit_error e = {.code = (int)found};
        return cli_fail(c, src->name, &e);
    }
    if (found == 0) return CLI_OK;
    verb_confirm_read(src, check, &f);
    uint64_t real = verb_check_print_dups(c, src, &f, (uint64_t)found);
    for (size_t i = 0; i < f.n; i++) verb_free_str(f.dup[i].name);
    return real ? CLI_NO : CLI_OK;
}

static int verb_is_damage(int status) {
    return status == RDBKIT_ERR_DAMAGED || status == RDBKIT_ERR_TRUNCATED || status == RDBKIT_ERR_CHECKSUM;
}

/* What a pass with the check says, on standard output where it is a verdict. */
static int verb_check_judge(struct cli *c, struct cli_source *src, rdbkit_check *check,
                           const struct cli_pass *pass) {
    if (verb_is_damage(pass->error.code)) {
        verb_verdict(c, src, ": damaged: ");
        cli_puts(&c->out, pass->error.message);
        cli_puts(&c->out, "\n");
        return CLI_NO;
    }
    if (pass->error.code < 0) return cli_fail(c, src->name, &pass->error);
    int code = verb_check_dups(c, src, check);
    if (code > CLI_NO) return code;
    if (pass->tail == CLI_TAIL_AOF) return cli_judge_tail(c, src, pass);
    if (pass->tail == CLI_TAIL_OTHER) {
        verb_verdict(c, src, ": damaged: ");
        cli_printf(&c->out, "at %" PRIu64 ": bytes follow the end of the RDB\n", pass->end_off);
        code = CLI_NO;
    }
    if (code == CLI_OK) {
        const rdbkit_header header = cli_source_header(src);
        verb_verdict(c, src, ": sound: ");
        cli_printf(&c->out, "%s, RDB version %d, %" PRIu64 " keys, checksum %s\n", cli_magic(header.lineage),
                   header.rdb_version, src->keys, verb_checksum_text(c, src));
    }
    return code;
}

static int verb_check(struct cli *c, struct cli_source *src) {
    struct verb_spill file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &file, verb_spill_reset};
    struct cli_pass pass;
    rdbkit_reader_options options;
    rdbkit_check *check = rdbkit_check_new(NULL, &spill);
    if (!check) return cli_fail_errno(c, NULL, ENOMEM);
    cli_reader_options(c, &options);
    options.deep = 1;
    (void)cli_read(src, &options, rdbkit_check_visitor(check), &pass);
    int code = file.sys_errno ? 0 : verb_check_judge(c, src, check, &pass);
    if (file.sys_errno) code = verb_spill_failed(c, &file); /* now, or while the check was finished */
    rdbkit_check_free(check);
    if (file.fd >= 0) (void)close(file.fd);
    return code;
}

/* ---- Keys that become one ------------------------------------------------------------------------------ */

/* --rename and --map-db can give two keys the same name and database. No server loads such a file, and commands
 * would mix the two, so that the keys are watched as they go out. */
struct verb_twice {
    struct verb_spill file;
    rdbkit_spill spill;
    rdbkit_check *check;
    rdbkit_filter *filter;
    int no_modules, no_streams; /* such keys do not go out */
};

static void verb_twice_free(struct verb_twice *t) {
    if (!t) return;
    rdbkit_check_free(t->check);
    if (t->file.fd >= 0) (void)close(t->file.fd);
    free(t);
}

/* Watch, if the command line gives cause. */
static int verb_twice_new(struct cli *c) {
    const rdbkit_target *target = cli_has(c, CLI_O_TO) ? rdbkit_target_find(c->o.text[CLI_O_TO]) : NULL;
    if (!cli_has(c, CLI_O_MAP_DB) && !cli_has(c, CLI_O_RENAME)) return CLI_OK;
    struct verb_twice *t = c->twice = calloc(1, sizeof *t);
    if (!t) return cli_fail_errno(c, NULL, ENOMEM);
    t->file.fd = -1;
    t->spill = (rdbkit_spill){verb_spill_write, verb_spill_read, &t->file, verb_spill_reset};
    t->filter = c->filter;
    t->no_modules = cli_has(c, CLI_O_DROP_MODULES);
    t->no_streams = target && !(target->features & RDBKIT_F_STREAMS);
    t->check = rdbkit_check_new(NULL, &t->spill);
    return t->check ? CLI_OK : cli_fail_errno(c, NULL, ENOMEM);
}

/* In place of rdbkit_filter_apply(). That the temporary file fails is told at the end. */
static int verb_twice_key(void *ctx, rdbkit_key *key) {
    struct verb_twice *t = ctx;
    int st = rdbkit_filter_apply(t->filter, key);
    const rdbkit_shape shape = key->type->shape;
    if (st || (t->no_modules && shape == RDBKIT_MODULE) || (t->no_streams && shape == RDBKIT_STREAM)) return st;
    const rdbkit_visitor *v = rdbkit_check_visitor(t->check);
    if (!t->file.sys_errno) (void)v->key(v->user, key);
    return st;
}

/* At the end of an input: whether keys have become one, and which. */
static int verb_twice_judge(struct cli *c, struct cli_source *src) {
    struct verb_confirm f;
    struct verb_twice *t = c->twice;
    const int64_t found = t->file.sys_errno ? RDBKIT_ERR_IO : rdbkit_check_finish(t->check);
    if (t->file.sys_errno) return verb_spill_failed(c, &t->file);
    if (found < 0) return cli_fail_errno(c, NULL, ENOMEM);
    if (found == 0) return CLI_OK;
    verb_confirm_read(src, t->check, &f);
    uint64_t real = (uint64_t)found - f.n;
    for (size_t i = 0; i < f.n; i++) {
        const struct verb_dup *d = &f.dup[i];
        if (d->name.data && !d->same) continue;
        real++;
        cli_printf(&c->err, "rdbkit: %.200s: two keys become one: ", src->name);
        if (d->name.data) cli_put_quoted(&c->err, d->name);
        if (d->name.data) cli_printf(&c->err, " db %" PRIu64 ": ", d->db);
        cli_printf(&c->err, "at %" PRIu64 " and %" PRIu64 "\n", d->at.first_off, d->at.second_off);
    }
    cli_out_flush(&c->err);
    for (size_t i = 0; i < f.n; i++) verb_free_str(f.dup[i].name);
    if ((uint64_t)found > f.n) cli_say(c, src->name, "%" PRIu64 " more that become one", (uint64_t)found - f.n);
    if (real) cli_hint(c, "--rename and --map-db must keep the keys apart; -K and -D leave one of them out");
    return real ? CLI_REFUSED : CLI_OK;
}

/* ---- to-resp ------------------------------------------------------------------------------------------ */

/* Whether a version that is new to the target may hold something that the target cannot. A pass over the file
 * before the first byte of output is worth its time only then. */
static int verb_resp_loss_possible(const struct cli_source *src, const rdbkit_target *t) {
    const rdbkit_header h = cli_source_header(src);
    return h.rdb_version > t->rdb_version ||
           h.rdb_version > (h.lineage == RDBKIT_VALKEY ? t->max_valkey_version : t->max_redis_version);
}

/* Whether something seems to follow the RDB, or to be missing from it: the ninth byte from the end is not the
 * end opcode. A guess, which costs at most a pass; the pass gives the answer. */
static int verb_resp_odd_end(const struct cli_source *src) {
    unsigned char byte = 0;
    if (cli_source_header(src).rdb_version < 5 || (src->head[0] == 0x1f && src->head[1] == 0x8b)) return 0;
    if (src->size < 18) return 1;
    return pread(src->fd, &byte, 1, (off_t)(src->start + src->size - 9)) != 1 || byte != 255;
}

static void verb_loss_line(struct cli *c, const char *name, const rdbkit_loss *loss, int warn) {
    struct cli_out *err = &c->err;
    const size_t shown = loss->key_len < sizeof loss->key ? (size_t)loss->key_len : sizeof loss->key;
    cli_puts(err, "rdbkit: ");
    cli_puts(err, name);
    cli_printf(err, ": %s%s: %s: %" PRIu64, warn ? "warning: " : "", loss->name, loss->text, loss->keys);
    if (loss->items != loss->keys) cli_printf(err, " with %" PRIu64 " items", loss->items);
    cli_puts(err, ", first ");
    cli_put_quoted(err, (rdbkit_str){loss->key, shown});
    if (shown < loss->key_len) cli_puts(err, "...");
    if (loss->db != RDBKIT_NO_DB) cli_printf(err, " db %" PRIu64, loss->db);
    cli_puts(err, "\n");
    cli_out_flush(err);
}

/* A sink, whatever it makes. */
struct verb_sink {
    const char *target;
    const rdbkit_visitor *visitor;
    const rdbkit_loss *(*loss)(const void *it, size_t index);
    void *it;
    size_t piece_len;
};

static const rdbkit_loss *verb_resp_loss(const void *it, size_t index) { return rdbkit_resp_loss(it, index); }

static const rdbkit_loss *verb_writer_loss(const void *it, size_t index) { return rdbkit_writer_loss(it, index); }

/* How many kinds of loss there are, without the notes. */
static size_t verb_loss_count(const struct verb_sink *s) {
    size_t losses = 0;
    const rdbkit_loss *loss;
    for (size_t i = 0; (loss = s->loss(s->it, i)) != NULL; i++) losses += !loss->is_note;
    return losses;
}

/* List losses and notes on standard error: warnings, but for the losses of a refused conversion. */
static void verb_loss_list(struct cli *c, const char *name, const struct verb_sink *s, int refused) {
    const rdbkit_loss *loss;
    for (size_t i = 0; (loss = s->loss(s->it, i)) != NULL; i++) {
        int warn = loss->is_note || !refused;
        if (!warn || !cli_has(c, CLI_O_QUIET)) verb_loss_line(c, name, loss, warn);
    }
}

/* A line of the report; a rdbkit_loss_fn. */
static void verb_loss_report(void *ctx, const rdbkit_key_loss *loss) {
    struct cli_out *out = ctx;
    cli_printf(out, "{\"kind\":\"%s\",\"note\":%s", loss->row->name, loss->row->is_note ? "true" : "false");
    if (loss->db == RDBKIT_NO_DB) cli_puts(out, ",\"db\":null");
    else cli_printf(out, ",\"db\":%" PRIu64, loss->db);
    cli_puts(out, ",\"key\":");
    cli_put_json(out, loss->key);
    cli_printf(out, ",\"items\":%" PRIu64 "}\n", loss->items);
}

/* Say that data would be lost. begun: some output was written already. */
static int verb_refuse(struct cli *c, const struct cli_source *src, const struct verb_sink *s, int begun) {
    cli_say(c, src->name, "%s cannot hold all of the data; %s", s->target,
            begun ? "the output ends at the first loss" : "nothing was written");
    verb_loss_list(c, src->name, s, 1);
    cli_hint(c, "--allow-loss keeps what can be kept and leaves the rest out; --to names another target");
    return CLI_REFUSED;
}

/* One pass of the file through a sink. */
static int verb_pass(struct cli *c, struct cli_source *src, const struct verb_sink *s, int dry,
                     struct cli_pass *pass) {
    rdbkit_reader_options options;
    cli_reader_options(c, &options);
    options.piece_len = s->piece_len;
    if (dry) options.ignore_checksum = 1;
    else if (c->twice) options.key_filter = verb_twice_key, options.key_filter_ctx = c->twice;
    return cli_read(src, &options, s->visitor, pass);
}

/* After the pass that wrote: losses, and the exit code. refuse: a loss is not allowed, and the output can be taken
 * back. */
static int verb_judge(struct cli *c, struct cli_source *src, const struct verb_sink *s, int status, int refuse,
                      const struct cli_pass *pass) {
    if (!c->out.sys_errno &&
        (status == RDBKIT_ERR_LOSS || (refuse && status == RDBKIT_DONE && verb_loss_count(s))))
        return verb_refuse(c, src, s, !c->out.path);
    verb_loss_list(c, src->name, s, 0);
    return cli_judge_pass(c, src, status, pass);
}

static struct verb_sink verb_resp_sink(const rdbkit_resp_options *options, rdbkit_resp *s) {
    const size_t piece_len = options->restore ? 0 : CLI_BLOCK_LEN;
    return (struct verb_sink){options->target->name, rdbkit_resp_visitor(s), verb_resp_loss, s, piece_len};
}

/* The look ahead, before the first byte of output: would it lose anything? Damage is left to the real pass,
 * whose output before it is of use. The report is left to the real pass, too, or to one more if that is refused. */
static int verb_resp_scan(struct cli *c, struct cli_source *src, const rdbkit_resp_options *options, int report) {
    struct cli_pass pass;
    rdbkit_resp_options dry = *options;
    dry.dry_run = 1;
    if (!report) dry.on_loss = NULL;
    rdbkit_resp *s = rdbkit_resp_new(&dry, cli_out_write, &c->out);
    if (!s) return cli_fail_errno(c, NULL, ENOMEM);
    const struct verb_sink sink = verb_resp_sink(&dry, s);
    int code = CLI_OK, status = verb_pass(c, src, &sink, 1, &pass);
    if (pass.tail == CLI_TAIL_AOF) code = cli_judge_tail(c, src, &pass);
    else if (status == RDBKIT_ERR_IO) code = cli_fail(c, src->name, &pass.error);
    else if (!options->allow_loss && !report && verb_loss_count(&sink)) code = verb_refuse(c, src, &sink, 0);
    rdbkit_resp_free(s);
    if (!cli_source_rewind(src)) return code ? code : cli_fail_errno(c, src->name, errno);
    if (code == CLI_REFUSED && options->on_loss) (void)verb_resp_scan(c, src, options, 1);
    return code;
}

static int verb_resp_run(struct cli *c, struct cli_source *src, const rdbkit_resp_options *options,
                        int refuse) {
    struct cli_pass pass;
    rdbkit_resp *s = rdbkit_resp_new(options, cli_out_write, &c->out);
    if (!s) return cli_fail_errno(c, NULL, ENOMEM);
    const struct verb_sink sink = verb_resp_sink(options, s);
    int status = verb_pass(c, src, &sink, 0, &pass);
    (void)rdbkit_resp_finish(s); /* an error is in c->out */
    const struct verb_spill *file = options->spill->ctx;
    int code = file->sys_errno ? verb_spill_failed(c, file) : verb_judge(c, src, &sink, status, refuse, &pass);
    rdbkit_resp_free(s);
    return code;
}

static int verb_to_resp(struct cli *c, struct cli_source *src) {
    struct verb_spill spill_file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &spill_file, verb_spill_reset};
    rdbkit_resp_options options;
    rdbkit_resp_options_init(&options);
    options.spill = &spill;
    options.restore = cli_has(c, CLI_O_RESTORE);
    if (cli_has(c, CLI_O_TO)) options.target = rdbkit_target_find(c->o.text[CLI_O_TO]);
    if (cli_has(c, CLI_O_BATCH)) options.batch = c->o.number[CLI_O_BATCH];
    options.del_first = cli_has(c, CLI_O_DEL_FIRST);
    options.replace = cli_has(c, CLI_O_REPLACE);
    options.single_db = cli_has(c, CLI_O_SINGLE_DB);
    options.drop_modules = cli_has(c, CLI_O_DROP_MODULES);
    options.drop_functions = cli_has(c, CLI_O_NO_FUNCTIONS) || cli_has(c, CLI_O_DROP_FUNCTIONS);
    options.allow_loss = cli_has(c, CLI_O_ALLOW_LOSS);
    if (cli_has(c, CLI_O_LOSS_REPORT)) options.on_loss = verb_loss_report, options.on_loss_ctx = &c->report;
    /* Output into a file can be taken back at the end, which saves the scan and lists every loss of a pipe,
     * too. */
    const int file = c->out.path != NULL, refuse = file && !options.allow_loss;
    const int scan =
        !file && src->seekable &&
        (verb_resp_odd_end(src) || (!options.allow_loss && verb_resp_loss_possible(src, options.target)));
    int code = scan ? verb_resp_scan(c, src, &options, 0) : CLI_OK;
    if (file) options.allow_loss = 1;
    if (!code) code = verb_resp_run(c, src, &options, refuse);
    if (spill_file.fd >= 0) (void)close(spill_file.fd);
    return code;
}

/* ---- convert and filter ------------------------------------------------------------------------------- */

/* What both make: an RDB file, for a target or as the input was. */
static int verb_write(struct cli *c, struct cli_source *src, const rdbkit_target *target) {
    struct verb_spill file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &file, verb_spill_reset};
    struct cli_pass pass;
    rdbkit_writer_options options;
    rdbkit_writer_options_init(&options);
    options.target = target;
    options.spill = &spill;
    options.no_compress = cli_has(c, CLI_O_NO_COMPRESS);
    options.reencode = cli_has(c, CLI_O_REENCODE) || cli_has(c, CLI_O_RECOMPRESS);
    options.drop_modules = cli_has(c, CLI_O_DROP_MODULES);
    options.drop_functions = cli_has(c, CLI_O_DROP_FUNCTIONS);
    options.same_keys = !c->filter && !options.drop_modules;
    if (cli_has(c, CLI_O_LOSS_REPORT)) options.on_loss = verb_loss_report, options.on_loss_ctx = &c->report;
    /* Output into a file can be taken back at the end, so that every loss is listed. */
    const int allowed = cli_has(c, CLI_O_ALLOW_LOSS), file_out = c->out.path != NULL;
    options.allow_loss = allowed || file_out;
    rdbkit_writer *w = rdbkit_writer_new(&options, cli_out_write, &c->out);
    if (!w) return cli_fail_errno(c, NULL, ENOMEM);
    const struct verb_sink sink = {target ? target->name : "the output", rdbkit_writer_visitor(w), verb_writer_loss, w,
                                   0};
    int status = verb_pass(c, src, &sink, 0, &pass), code;
    if (file.sys_errno) code = verb_spill_failed(c, &file);
    else code = verb_judge(c, src, &sink, status, file_out && !allowed, &pass);
    rdbkit_writer_free(w);
    if (file.fd >= 0) (void)close(file.fd);
    return code;
}

/* The target as the user calls it. */
static const char *verb_target_name(const struct cli *c) {
    return cli_has(c, CLI_O_TO) ? c->o.text[CLI_O_TO] : "valkey-8";
}

static int verb_convert(struct cli *c, struct cli_source *src) {
    return verb_write(c, src, rdbkit_target_find(verb_target_name(c)));
}

static int verb_filter_file(struct cli *c, struct cli_source *src) { return verb_write(c, src, NULL); }

/* ---- to-json ------------------------------------------------------------------------------------------ */

static int verb_to_json(struct cli *c, struct cli_source *src) {
    static const char *const names[] = {"auto", "utf8", "base64", "latin1"};
    const char *name = cli_has(c, CLI_O_ENCODING) ? c->o.text[CLI_O_ENCODING] : names[0];
    rdbkit_json_options options;
    struct cli_pass pass;
    unsigned i = 0;
    rdbkit_json_options_init(&options);
    while (i < RDBKIT_JSON_ENCODING_N && strcmp(names[i], name) != 0) i++;
    if (i == RDBKIT_JSON_ENCODING_N) {
        cli_say(c, NULL, "--encoding: %.200s: auto, utf8, base64 or latin1 wanted", name);
        return CLI_USAGE;
    }
    options.encoding = (rdbkit_json_encoding)i;
    options.lines = cli_has(c, CLI_O_LINES);
    rdbkit_json *json = rdbkit_json_new(&options, cli_out_write, &c->out);
    if (!json) return cli_fail_errno(c, NULL, ENOMEM);
    const struct verb_sink sink = {.visitor = rdbkit_json_visitor(json)};
    int status = verb_pass(c, src, &sink, 0, &pass);
    (void)rdbkit_json_finish(json); /* an error is in c->out */
    rdbkit_json_free(json);
    return cli_judge_pass(c, src, status, &pass);
}

/* ==== [31] main_ : command line: help, parsing, main ====
 *
 * The table of verbs, and what expands from it and the table of options. Tests: tests/cli_test.py */

/* ---- Verbs and help ----------------------------------------------------------------------------------- */

struct main_verb {
    const char *name;
    unsigned bit;
    int (*run)(struct cli *c, struct cli_source *src); /* for each input; NULL: help */
    int inputs_max;                                    /* 0: any number */
    const char *usage;
    const char *brief;
    const char *about;
    const char *example;
};

static const struct main_verb main_verbs[] = {
    {"convert", CLI_V_CONVERT, verb_convert, 1, "FILE", "an RDB file that the target loads",
     "Makes an RDB file for another server, older or newer. What the target loads as it is goes through unchanged, the\n"
     "rest is encoded as that server would. Without -o the file is in the current folder and named after input and\n"
     "target. What the target cannot hold is never dropped silently: without --allow-loss the work is refused.",
     "rdbkit convert --to redis-4.0 dump.rdb"},
    {"to-resp", CLI_V_TO_RESP, verb_to_resp, 1, "FILE", "commands for redis-cli --pipe",
     "Turns an RDB file into commands of the Redis protocol, as fast as a server takes them. What the target "
     "cannot\n"
     "hold is never dropped silently: without --allow-loss the work is refused, and what would be lost is "
     "listed.",
     "rdbkit to-resp --to valkey-8 dump.rdb | redis-cli --pipe"},
    {"to-json", CLI_V_TO_JSON, verb_to_json, 1, "FILE", "lossless JSON",
     "Prints everything that the file holds as JSON: an array of records, one for each key, that can be read back to the\n"
     "last byte. docs/json.md has the format.",
     "rdbkit to-json --lines dump.rdb | jq -r .key"},
    {"filter", CLI_V_FILTER_FILE, verb_filter_file, 1, "FILE", "an RDB file of the same version, with chosen keys",
     "Copies the keys that the options choose, in the version and form of the input. Needs -o.",
     "rdbkit filter -k 'user:*' -o users.rdb dump.rdb"},
    {"check", CLI_V_CHECK, verb_check, 0, "FILE...", "tell sound files from damaged ones",
     "Reads the whole file and every value in it: structure, checksum, each encoding in depth, duplicate "
     "keys and\n"
     "fields, bytes after the end. The file is opened read-only. The verdict is a line on standard output.",
     "rdbkit check dump.rdb && echo sound"},
    {"info", CLI_V_INFO, verb_info, 0, "FILE...", "versions, counts, and which servers can load it",
     "Prints what a file says about itself, its databases, its keys by type and by encoding, and for each "
     "server\n"
     "whether it can load the file, with the first reason if not.",
     "rdbkit info dump.rdb"},
    {"keys", CLI_V_KEYS, verb_keys, 0, "FILE...", "a line for each key",
     "Prints a line for each key, in the order of the file. Names are escaped as redis-cli prints them.",
     "rdbkit keys --format '%s %k' dump.rdb | sort -rn | head"},
    {"help", CLI_V_HELP, NULL, 1, "[VERB]", "this, or all about a verb",
     "Prints what a verb does, its options with an example each, and the exit codes.", "rdbkit help to-resp"},
};
#define MAIN_VERBS_N (sizeof main_verbs / sizeof *main_verbs)

static const struct main_verb *main_verb_of(const char *name) {
    for (size_t i = 0; i < MAIN_VERBS_N; i++)
        if (strcmp(main_verbs[i].name, name) == 0) return &main_verbs[i];
    return NULL;
}

static void main_help_all(struct cli_out *out) {
    cli_puts(out, "usage: rdbkit VERB [options] FILE...\n\n"
                  "Reads RDB files of Redis and Valkey, plain or in gzip; - is standard input.\n\n");
    for (size_t i = 0; i < MAIN_VERBS_N; i++)
        cli_printf(out, "  %-8s  %s\n", main_verbs[i].name, main_verbs[i].brief);
    cli_puts(out, "\n`rdbkit help VERB` has the options. `rdbkit -V` has the version.\n");
}

/* Text in lines of up to 100 characters, from the given column on. */
static void main_help_wrap(struct cli_out *out, const char *text, size_t column) {
    const size_t room = 100 - column;
    while (strlen(text) > room) {
        size_t n = room;
        while (n > 0 && text[n] != ' ') n--;
        if (n == 0) n = room;
        cli_put(out, text, n);
        cli_printf(out, "\n%*s", (int)column, "");
        text += n + (text[n] == ' ');
    }
    cli_puts(out, text);
    cli_puts(out, "\n");
}

static void main_help_option(struct cli_out *out, const struct main_verb *verb, const struct cli_option *o) {
    char left[64];
    char letter[8] = "    ";
    if (o->letter) (void)snprintf(letter, sizeof letter, "-%c, ", o->letter);
    (void)snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    cli_printf(out, "  %-24s  ", left);
    main_help_wrap(out, o->help, 28);
    cli_printf(out, "%28srdbkit %s %s%s\n", "", verb->name, o->example,
               o->verbs == CLI_V_ALL ? "" : " dump.rdb");
}

static void main_help_verb(struct cli_out *out, const struct main_verb *verb) {
    cli_printf(out, "usage: rdbkit %s [options] %s\n\n", verb->name, verb->usage);
    cli_puts(out, verb->about);
    cli_puts(out, "\n\noptions:\n");
    for (size_t i = 0; i < CLI_O_N; i++)
        if (cli_option_table[i].verbs & verb->bit) main_help_option(out, verb, &cli_option_table[i]);
    cli_printf(out, "\nexample: %s\n\n", verb->example);
    cli_printf(out, "exit: 0 %s, 2 wrong usage, 3 cannot open, read or write,\n",
               verb->bit == CLI_V_CHECK ? "sound, 1 damaged" : "done");
    cli_puts(out, verb->bit == CLI_V_CHECK
                      ? "      4 of a version or type that cannot be read, 5 a limit\n"
                      : "      4 input damaged, truncated or not to be read, 5 refused\n");
}

/* ---- Command line ------------------------------------------------------------------------------------- */

static size_t main_min(size_t a, size_t b) { return a < b ? a : b; }

/* Edit distance; a name that begins with the given text counts as near. */
static size_t main_distance(const char *given, const char *name) {
    size_t row[64], name_len = strlen(name), given_len = strlen(given);
    if (name_len >= 64 || given_len >= 64) return 64;
    if (given_len && strncmp(given, name, given_len) == 0) return 1;
    for (size_t j = 0; j <= name_len; j++) row[j] = j;
    for (size_t i = 1; i <= given_len; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= name_len; j++) {
            size_t best = main_min(diagonal + (given[i - 1] != name[j - 1]), main_min(row[j], row[j - 1]) + 1);
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[name_len];
}

/* Keep the nearest of the names that come by. */
struct main_near {
    const char *given, *name;
    size_t distance;
};

static void main_near_offer(struct main_near *near, const char *name) {
    size_t distance = main_distance(near->given, name);
    if (near->name && distance >= near->distance) return;
    near->name = name;
    near->distance = distance;
}

static int main_bad_verb(struct cli *c, const char *given) {
    struct main_near near = {given, NULL, 0};
    for (size_t i = 0; i < MAIN_VERBS_N; i++) main_near_offer(&near, main_verbs[i].name);
    cli_say(c, NULL, "unknown verb %.200s; the nearest is %s", given, near.name);
    cli_hint(c, "rdbkit help lists the verbs");
    return CLI_USAGE;
}

/* The option of a verb by its name, or NULL. */
static const struct cli_option *cli_option_find(const struct main_verb *verb, const char *name) {
    for (size_t i = 0; i < CLI_O_N; i++)
        if (strcmp(cli_option_table[i].name, name) == 0 && (cli_option_table[i].verbs & verb->bit))
            return &cli_option_table[i];
    return NULL;
}

/* given: the name without dashes, or a letter. */
static int main_bad_option(struct cli *c, const struct main_verb *verb, const char *given) {
    struct main_near near = {given, NULL, 0};
    const char *dashes = given[1] ? "--" : "-";
    char hint[64];
    for (size_t i = 0; i < CLI_O_N; i++)
        if (cli_option_table[i].verbs & verb->bit) main_near_offer(&near, cli_option_table[i].name);
    cli_say(c, NULL, "%s has no option %s%.200s; the nearest is --%s", verb->name, dashes, given, near.name);
    for (size_t i = 0; i < MAIN_VERBS_N; i++)
        if (cli_option_find(&main_verbs[i], given)) cli_say(c, NULL, "%s has it", main_verbs[i].name);
    (void)snprintf(hint, sizeof hint, "rdbkit help %s lists its options", verb->name);
    cli_hint(c, hint);
    return CLI_USAGE;
}

static int main_bad_target(struct cli *c, const char *given) {
    struct main_near near = {given, NULL, 0};
    struct cli_out *err = &c->err;
    for (size_t i = 0; rdbkit_target_at(i); i++) main_near_offer(&near, rdbkit_target_at(i)->name);
    cli_say(c, NULL, "unknown target %.200s; the nearest is %s", given, near.name ? near.name : "none");
    cli_puts(err, "rdbkit: hint: targets are");
    for (size_t i = 0; rdbkit_target_at(i); i++) cli_printf(err, " %s", rdbkit_target_at(i)->name);
    cli_puts(err, ", short names redis-7, valkey-8, rdb-11 and the like\n");
    cli_out_flush(err);
    return CLI_USAGE;
}

/* Store an option. value: of the same argument or the next one, NULL for a flag. */
static int main_set(struct cli *c, const struct cli_option *option, const char *value) {
    size_t id = (size_t)(option - cli_option_table);
    if (value) c->o.given[c->o.given_n++] = (struct cli_given){option, value};
    c->o.text[id] = value ? value : "";
    if (option->kind == CLI_TARGET && !rdbkit_target_find(value)) return main_bad_target(c, value);
    if (option->kind == CLI_NUMBER) {
        char *end;
        unsigned long n = strtoul(value, &end, 10);
        if (value[0] < '0' || value[0] > '9' || *end || n < 1 || n > 100000) {
            cli_say(c, NULL, "--%s: %.200s is no number from 1 to 100000", option->name, value);
            return CLI_USAGE;
        }
        c->o.number[id] = (unsigned)n;
    }
    return CLI_OK;
}

/* The arguments that are left to parse. */
struct main_args {
    char **argv;
    int n;
};

static const char *main_next(struct main_args *args) { return args->n > 0 ? args->n--, *args->argv++ : NULL; }

static int main_missing(struct cli *c, const struct cli_option *option) {
    cli_say(c, NULL, "--%s needs a value, %s", option->name, option->arg);
    return CLI_USAGE;
}

/* --name, --name=value or --name value; arg stands after the dashes. */
static int main_parse_long(struct cli *c, const struct main_verb *verb, const char *arg,
                          struct main_args *args) {
    const size_t len = strcspn(arg, "=");
    const char *value = arg[len] ? arg + len + 1 : NULL;
    char name[64] = "";
    if (len < sizeof name) memcpy(name, arg, len);
    const struct cli_option *option = cli_option_find(verb, name);
    if (!option) return main_bad_option(c, verb, len < sizeof name ? name : arg);
    if (value && !option->arg) {
        cli_say(c, NULL, "--%s takes no value", name);
        return CLI_USAGE;
    }
    if (!value && option->arg) value = main_next(args);
    return option->arg && !value ? main_missing(c, option) : main_set(c, option, value);
}

static const struct cli_option *cli_option_of_letter(const struct main_verb *verb, char letter) {
    for (size_t i = 0; i < CLI_O_N; i++)
        if (cli_option_table[i].letter == letter && (cli_option_table[i].verbs & verb->bit))
            return &cli_option_table[i];
    return NULL;
}

/* -abc, -oFILE or -o FILE; letters stand after the dash. */
static int main_parse_short(struct cli *c, const struct main_verb *verb, const char *letters,
                           struct main_args *args) {
    int code = CLI_OK;
    for (; *letters && code == CLI_OK; letters++) {
        const struct cli_option *option = cli_option_of_letter(verb, *letters);
        if (!option) return main_bad_option(c, verb, (char[2]){*letters, 0});
        if (!option->arg) {
            code = main_set(c, option, NULL);
            continue;
        }
        const char *value = letters[1] ? letters + 1 : main_next(args);
        return value ? main_set(c, option, value) : main_missing(c, option);
    }
    return code;
}

/* Options and inputs may be mixed. */
static int main_parse(struct cli *c, const struct main_verb *verb, struct main_args args) {
    int code = CLI_OK, ended = 0;
    char **to = c->o.inputs = args.argv;
    c->o.given = calloc((size_t)args.n + 1, sizeof *c->o.given); /* each value is of an argument of its own */
    if (!c->o.given) return cli_fail_errno(c, NULL, ENOMEM);
    while (args.n > 0 && code == CLI_OK) {
        char *arg = *args.argv++;
        args.n--;
        if (ended || arg[0] != '-' || !arg[1]) *to++ = arg;
        else if (strcmp(arg, "--") == 0) ended = 1;
        else if (arg[1] == '-') code = main_parse_long(c, verb, arg + 2, &args);
        else code = main_parse_short(c, verb, arg + 1, &args);
    }
    c->o.inputs_n = (int)(to - c->o.inputs);
    return code;
}

static int main_inputs_ok(struct cli *c, const struct main_verb *verb) {
    const int n = c->o.inputs_n;
    if (verb->run && n == 0) cli_say(c, NULL, "%s needs an input file, or - for standard input", verb->name);
    else if (verb->inputs_max && n > verb->inputs_max)
        cli_say(c, NULL, "%s takes one argument, not %d", verb->name, n);
    else return 1;
    return 0;
}

/* Answer -h, -V and the verb help. */
static int main_answer(struct cli *c, const struct main_verb *verb) {
    const char *topic = !verb->run && c->o.inputs_n ? c->o.inputs[0] : NULL;
    const struct main_verb *about = topic ? main_verb_of(topic) : verb;
    if (!about) return main_bad_verb(c, topic);
    int code = cli_out_open(c, &c->out, cli_temp_name[0], NULL);
    if (code) return code;
    if (cli_has(c, CLI_O_VERSION)) cli_printf(&c->out, "rdbkit %s\n", rdbkit_version());
    else if (about->run || topic || cli_has(c, CLI_O_HELP)) main_help_verb(&c->out, about);
    else main_help_all(&c->out);
    return cli_out_close(c, &c->out, 1);
}

/* Where the output of convert goes if nobody says: the current folder, named after input and target. */
static const char *main_convert_name(struct cli *c) {
    const char *in = c->o.inputs[0], *slash = strrchr(in, '/');
    const char *to = verb_target_name(c);
    static const char *const ends[] = {".gz", ".rdb"};
    if (strcmp(in, "-") == 0) in = "dump";
    else if (slash) in = slash + 1;
    size_t len = strlen(in), size = len + strlen(to) + 6;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t n = strlen(ends[i]);
        if (len > n && strncmp(in + len - n, ends[i], n) == 0) len -= n;
    }
    c->o.made_name = malloc(size);
    if (c->o.made_name) (void)snprintf(c->o.made_name, size, "%.*s.%s.rdb", (int)len, in, to);
    return c->o.made_name;
}

static int main_outputs_open(struct cli *c, const struct main_verb *verb) {
    const char *report = c->o.text[CLI_O_LOSS_REPORT], *output = c->o.text[CLI_O_OUTPUT];
    if (!output && verb->bit == CLI_V_CONVERT && !(output = main_convert_name(c))) return cli_fail_errno(c, NULL, ENOMEM);
    if (!output && verb->bit == CLI_V_FILTER_FILE) {
        cli_say(c, NULL, "filter needs -o FILE; -o - is standard output");
        return CLI_USAGE;
    }
    int code = cli_out_open(c, &c->out, cli_temp_name[0], output);
    if (code || !report) return code;
    if (strcmp(report, "-") == 0) {
        cli_say(c, NULL, "--loss-report needs the name of a file: standard output is for data");
        return CLI_USAGE;
    }
    return cli_out_open(c, &c->report, cli_temp_name[1], report);
}

/* Run a verb on each input. The exit code is the highest of all. */
static int main_run(struct cli *c, const struct main_verb *verb) {
    int worst = verb_filter(c, &c->filter);
    if (worst == CLI_OK && (verb->bit & CLI_V_DATA)) worst = verb_twice_new(c);
    if (worst == CLI_OK) worst = main_outputs_open(c, verb);
    const int opened = worst == CLI_OK;
    for (int i = 0; opened && i < c->o.inputs_n && !c->out.sys_errno; i++) {
        struct cli_source src;
        int code = cli_source_open(c, &src, c->o.inputs[i]);
        if (code == CLI_OK) {
            code = verb->run(c, &src);
            if (code <= CLI_NO) verb_filter_after(c, &src);
            if (code == CLI_OK && c->twice) code = verb_twice_judge(c, &src);
            if (cli_has(c, CLI_O_VERBOSE))
                cli_say(c, src.name, "%" PRIu64 " bytes read, %" PRIu64 " written", src.read_off,
                        c->out.bytes + c->out.len);
            cli_source_close(&src);
        }
        if (code > worst) worst = code;
    }
    /* The report of a refused conversion is what explains the refusal. */
    const int reported = cli_out_close(c, &c->report, opened && worst != CLI_USAGE);
    const int written = cli_out_close(c, &c->out, worst <= CLI_NO && reported == CLI_OK);
    if (reported > worst) worst = reported;
    return written > worst ? written : worst;
}

/* A standard stream that is closed would become the first file that is opened. The placeholders are open the
 * wrong way round, so that using them fails as it would have. */
static void main_hold_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0) (void)open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

static int main_main(struct cli *c, int argc, char **argv) {
    static const char *const spelled[][2] = {{"-h", "help"},
                                             {"--help", "help"},
                                             {"-V", "-V"},
                                             {"--version", "-V"}};
    if (argc < 2) {
        main_help_all(&c->err);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    for (size_t i = 0; i < sizeof spelled / sizeof *spelled; i++)
        if (strcmp(name, spelled[i][0]) == 0) name = spelled[i][1];
    if (strcmp(name, "-V") == 0) c->o.text[CLI_O_VERSION] = name = "help";
    const struct main_verb *verb = main_verb_of(name);
    if (!verb) return main_bad_verb(c, name);
    int code = main_parse(c, verb, (struct main_args){argv + 2, argc - 2});
    if (code) return code;
    if (cli_has(c, CLI_O_HELP) || cli_has(c, CLI_O_VERSION)) return main_answer(c, verb);
    if (!main_inputs_ok(c, verb)) return CLI_USAGE;
    return verb->run ? main_run(c, verb) : main_answer(c, verb);
}

int main(int argc, char **argv) {
    struct cli c;
    struct sigaction ignore;
    memset(&c, 0, sizeof c);
    memset(&ignore, 0, sizeof ignore);
    ignore.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &ignore, NULL); /* a closed pipe is an error with a message */
    main_hold_streams();
    c.out.fd = c.report.fd = -1;
    c.err.fd = STDERR_FILENO;
    int code = main_main(&c, argc, argv);
    free(c.o.given);
    free(c.o.made_name);
    verb_twice_free(c.twice);
    rdbkit_filter_free(c.filter);
    cli_out_flush(&c.err);
    return code;
}

#endif /* RDBKIT_CLI */
