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
 *   [27] seq_    strings one after another in one block
 *   [28] tab_    hash tables that keep the order of insertion
 *   [29] ord_    pointers in order
 *   [30] obj_    lists, sets, sorted sets and hashes in memory
 *   [31] xs_     streams in memory
 *   [32] ks_     the keyspace in memory
 *   [33] hll_    HyperLogLog
 *   [34] geo_    places as scores
 *   [35] cmd_    commands: arguments, times, scores
 *   [36] cmd_    commands of lists, sets, sorted sets and hashes
 *   [37] cmd_    commands of bits, HyperLogLogs and places; SORT
 *   [38] cmd_    commands of streams
 *   [39] cmd_    commands of strings and keys; RESTORE, functions
 *   [40] cmd_    commands: the table, and running them
 *   [41] fix_    what can be saved of a damaged RDB
 *   [42] aof_    append-only files and manifests
 *   [43] api     the public functions not defined in a room above
 *   [44] cli_    command line: options, messages, output
 *   [45] cli_    command line: input, logs, one pass over it
 *   [46] verb_   command line: filters; keys, info, check
 *   [47] verb_   command line: to-resp, convert, filter, repair, to-json
 *   [48] main_   command line: help, parsing, main
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

/* 32-bit x86 without SSE2 rounds sums twice, and the scores and distances of a replay are not those of a server. */
#if defined(__i386__) && defined(__GNUC__) && !defined(__SSE2_MATH__)
#if defined(__clang__)
#error "compile with -msse2: without it numbers are rounded twice"
#else
#pragma GCC target("sse2,fpmath=sse")
#endif
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define PORT_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__) && \
    (defined(__linux__) || defined(__APPLE__))
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

PORT_INLINE u32 port_le24(const u8 *p) { return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16; }

PORT_INLINE u16 port_le16(const u8 *p) { return (u16)(p[0] | p[1] << 8); }

PORT_INLINE u32 port_be32(const u8 *p) {
    return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | (u32)p[3];
}

PORT_INLINE u64 port_be64(const u8 *p) { return (u64)port_be32(p) << 32 | port_be32(p + 4); }

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

static PORT_NOINLINE void port_copy_long(u8 *dst, const u8 *src, size_t len) { memcpy(dst, src, len); }

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
    static const u64 k[] = {0xa0761d6478bd642fULL, 0xe7037ed1a0b428dbULL, 0x8ebc6af09c88c6e3ULL,
                            0x589965cc75374cc3ULL};
    const u8 *p = (const u8 *)s.data;
    size_t n = s.len;
    u64 x = (seed + 1) * k[0], y = (u64)n * k[1], lo = 0, hi = 0, h;
    for (; n > 16; p += 16, n -= 16) {
        u64 l = port_mul128(port_le64(p) ^ k[2], port_le64(p + 8) ^ x, &h);
        x = l ^ h;
        y += port_le64(p + 8) ^ h;
    }
    if (n >= 8) lo = port_le64(p), hi = port_le64(p + n - 8);
    else if (n >= 4) lo = port_le32(p), hi = port_le32(p + n - 4);
    else if (n) lo = (u64)p[0] << 16 | (u64)p[n / 2] << 8 | p[n - 1];
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

static rdbkit_allocator mem_or_std(const rdbkit_allocator *a) { return a ? *a : mem_std; }

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
PORT_INLINE enum fmt_type fmt_id(const rdbkit_type *t) { return (enum fmt_type)(t - fmt_types); }

static const rdbkit_type *fmt_type_find(unsigned lineage, int number) {
    for (size_t i = 0; i < FMT_TYPE_N; i++)
        if (fmt_types[i].number == number && (fmt_types[i].lineage & lineage)) return &fmt_types[i];
    return NULL;
}

/* Opcodes stand where a type byte may. 107 and 121 are Redis Enterprise's, a length each, with no meaning
 * outside of it. */
#define FMT_OPCODES(X)              \
    X(RAM_LRU, 107, FMT_R)          \
    X(SLOT_NUM, 121, FMT_R)         \
    X(SLOT_IMPORT, 243, FMT_V)      \
    X(SLOT_INFO, 244, FMT_RV)       \
    X(FUNCTION2, 245, FMT_RV)       \
    X(FUNCTION_PRE_GA, 246, FMT_RV) \
    X(MODULE_AUX, 247, FMT_RV)      \
    X(IDLE, 248, FMT_RV)            \
    X(FREQ, 249, FMT_RV)            \
    X(AUX, 250, FMT_RV)             \
    X(RESIZEDB, 251, FMT_RV)        \
    X(EXPIRETIME_MS, 252, FMT_RV)   \
    X(EXPIRETIME, 253, FMT_RV)      \
    X(SELECTDB, 254, FMT_RV)        \
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
    {"redis-4", "redis-4.0"},   {"redis-5", "redis-5.0"},   {"redis-6", "redis-6.2"},
    {"redis-7", "redis-7.4"},   {"redis-8", "redis-8.0"},   {"valkey-7", "valkey-7.2"},
    {"valkey-8", "valkey-8.1"}, {"valkey-9.0", "valkey-9"}, {"valkey-9.1", "valkey-9"},
    {"redis-8.2", "redis-8.0"}, {"redis-8.4", "redis-8.0"}, {"rdb-8", "redis-4.0"},
    {"rdb-9", "redis-6.2"},     {"rdb-10", "redis-7.0"},    {"rdb-11", "redis-7.2"},
    {"rdb-12", "redis-8.0"},
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
        if (at) err_add(text, size, "\\%c", named[at - plain]);
        else if (p[i] >= 32 && p[i] < 127) err_add(text, size, "%c", p[i]);
        else err_add(text, size, "\\x%02x", p[i]);
    }
    err_add(text, size, "\"");
}

/* The key and database, where there is a key. */
static void err_add_key(rdbkit_error *e) {
    if (!e->type) return;
    size_t n = e->key_len < sizeof e->key ? (size_t)e->key_len : sizeof e->key;
    err_add(e->message, sizeof e->message, "; key ");
    err_add_quoted(e->message, sizeof e->message, e->key, n);
    if (e->key_len > n)
        err_add(e->message, sizeof e->message, "... (%llu bytes)", (unsigned long long)e->key_len);
    err_add(e->message, sizeof e->message, " db %llu", (unsigned long long)e->db);
}

#define ERR_STATUS(X)                                 \
    X(OK, "no error")                                 \
    X(MORE, "more input wanted")                      \
    X(DONE, "done")                                   \
    X(SKIP_KEY, "skip this key")                      \
    X(TAKE_RAW, "take this value raw")                \
    X(TAKE_RAW_WIDE, "take this value raw, wide")     \
    X(TAKE_RAW_NARROW, "take this value raw, narrow") \
    X(TAKE_UNCHECKED, "take this value unchecked")    \
    X(ERR_NOMEM, "out of memory")                     \
    X(ERR_IO, "cannot read or write")                 \
    X(ERR_DAMAGED, "damaged input")                   \
    X(ERR_TRUNCATED, "truncated input")               \
    X(ERR_UNSUPPORTED, "unsupported version or type") \
    X(ERR_CHECKSUM, "wrong checksum")                 \
    X(ERR_LIMIT, "limit passed")                      \
    X(ERR_LOSS, "the target cannot hold the data")    \
    X(ERR_STOPPED, "stopped by a callback")           \
    X(ERR_USAGE, "wrong use of a function")

/* ==== [05] crc_ : CRC64 ====
 *
 * CRC-64 "Jones" as servers use it: poly 0xad93d23594c935a9, reflected, init 0, xor-out 0; the check value of
 * "123456789" is e9c6d914c4b8d9ca. Eight bytes a step by tables everywhere; 64 bytes a step by carry-less
 * multiplication where the machine has it. Measured by: build.sh bench. Tests: tests/test_codecs.c */

/* Tables for slicing by 8: row k holds the CRC of a byte followed by k zero bytes. A CRC is linear, so an entry
 * is the sum of those of its bits, which are the eight constants of each row. */
/* clang-format off */
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
/* clang-format on */

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

static int crc_have_fold(void) { return __builtin_cpu_supports("pclmul"); }
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
            if (p == end) break;
            if (PORT_UNLIKELY(*p < 32)) continue;
            c = *p++; /* behind literals there mostly is a reference */
        }
        size_t n = (c >> 5) + 2;
        if (n == 9) {
            if (PORT_UNLIKELY(p == end)) return -1;
            n += *p++;
        }
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

static const char num_pairs[201] =
    "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
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
    if (v >= 10) memcpy(p - 2, num_pairs + 2 * v, 2);
    else p[-1] = (u8)('0' + v);
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
PORT_INLINE int num_log2_pow10(int e) { return (e * 1741647) >> 19; }

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

/* clang-format off */
static const u64 num_pow5[28] = {
    1, 5, 25, 125, 625, 3125, 15625, 78125, 390625, 1953125, 9765625, 48828125, 244140625, 1220703125,
    6103515625, 30517578125, 152587890625, 762939453125, 3814697265625, 19073486328125, 95367431640625,
    476837158203125, 2384185791015625, 11920928955078125, 59604644775390625, 298023223876953125,
    1490116119384765625, 7450580596923828125,
};
/* clang-format on */

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
    if (!w3) r.hi = w2, r.lo = w1;
    else if (s) r.hi = w3 << s | w2 >> (64 - s), r.lo = w2 << s | w1 >> (64 - s);
    else r.hi = w3, r.lo = w2;
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
        if (n++ < 19) d->head = d->head * 10 + (u64)(*p - '0');
        else d->tail++, d->cut |= *p != '0';
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
    if (port_le32(blob) != len)
        return pk_fail(c, blob, "listpack says %llu bytes, has %llu", port_le32(blob), len);
    if (blob[len - 1] != 0xff)
        return pk_fail(c, blob + len - 1, "end mark is %llu, 255 wanted", blob[len - 1], 0);
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
    if (says == n)
        return pk_fail(c, c->p, "back-length of an entry of %llu bytes is not written in the shortest way", n,
                       0);
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
        if (PORT_UNLIKELY(n == 16383 || n == 2097151 || n == 268435455))
            c->forms |= w == lp_back_width(n, 0) ? 1 : 2;
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
    if (port_le32(blob) != len)
        return pk_fail(c, blob, "ziplist says %llu bytes, has %llu", port_le32(blob), len);
    if (blob[len - 1] != 0xff)
        return pk_fail(c, blob + len - 1, "end mark is %llu, 255 wanted", blob[len - 1], 0);
    c->stated = port_le16(blob + 8);
    c->p = blob + ZL_HDR_LEN;
    c->end = blob + len - 1;
    return 0;
}

static int zl_finish(pk_cursor *c) {
    u64 last = c->n ? (u64)(c->p - c->base) - c->prev_len : ZL_HDR_LEN;
    if (port_le32(c->base + 4) != last)
        return pk_fail(c, c->base + 4, "last entry said to be at %llu, is at %llu", port_le32(c->base + 4),
                       last);
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
    if (blob[len - 1] != 0xff)
        return pk_fail(c, blob + len - 1, "end mark is %llu, 255 wanted", blob[len - 1], 0);
    c->stated = blob[0] == 254 ? PK_COUNT_UNKNOWN : 2 * (u64)blob[0];
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
    if (width != 2 && width != 4 && width != 8)
        return pk_fail(c, blob, "width %llu, wanted 2, 4 or 8", width, 0);
    if (count * width != len - IST_HDR_LEN)
        return pk_fail(c, blob + 4, "%llu integers said to be there, %llu bytes are", count,
                       len - IST_HDR_LEN);
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

#define BLOB_KINDS(X) \
    X(LISTPACK, lp)   \
    X(ZIPLIST, zl)    \
    X(ZIPMAP, zm)     \
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
    const u8 *master; /* the master's first field */
    pk_cursor names;  /* of the entry at hand, if it uses the master's: at the next one */
} strm_node;

typedef struct strm_entry {
    rdbkit_stream_id id;
    i64 flags;
    u64 fields;
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

/* An entry of the listpack that has to be an integer; most are of seven bits or of 13. */
PORT_INLINE int strm_int(pk_cursor *lp, i64 *v) {
    const u8 *p = lp->p;
    if (PORT_UNLIKELY(lp->end - p < 3)) return strm_int_slow(lp, v);
    if (PORT_LIKELY(p[0] < 0x80 && p[1] == 1)) {
        *v = p[0];
        lp->p = p + 2;
    } else if (p[0] >= 0xc0 && p[0] < 0xe0 && p[2] == 2) {
        *v = port_sign((u64)(p[0] & 31) << 8 | p[1], 13);
        lp->p = p + 3;
    } else {
        return strm_int_slow(lp, v);
    }
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
    if (count < 0 || deleted < 0 || fields < 0)
        return pk_fail(&n->lp, at, "negative count in the master entry", 0, 0);
    n->count = (u64)count, n->deleted = (u64)deleted, n->master_fields = (u64)fields;
    n->master = n->lp.p;
    n->names = n->lp;
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
    n->names.p = n->master;
    if (e->flags & STRM_SAME_FIELDS) return PK_ITEM;
    if (strm_int(lp, &fields)) return PK_BAD;
    if (fields < 0) return pk_fail(lp, e->at, "negative number of fields", 0, 0);
    e->fields = (u64)fields;
    return PK_ITEM;
}

static int strm_field(strm_node *n, const strm_entry *e, pk_item *field, pk_item *value) {
    if (strm_str(e->flags & STRM_SAME_FIELDS ? &n->names : &n->lp, field)) return PK_BAD;
    return strm_str(&n->lp, value);
}

/* Pass the fields by. */
static int strm_skip_fields(strm_node *n, const strm_entry *e) {
    pk_item it;
    u64 left = e->flags & STRM_SAME_FIELDS ? e->fields : 2 * e->fields;
    if (e->fields > (u64)(n->lp.end - n->lp.p))
        return pk_fail(&n->lp, e->at, "entry of %llu fields", e->fields, 0);
    while (left--)
        if (strm_str(&n->lp, &it)) return PK_BAD;
    return PK_ITEM;
}

static int strm_entry_end(strm_node *n, const strm_entry *e) {
    i64 says;
    u64 is = e->flags & STRM_SAME_FIELDS ? e->fields + 3 : 2 * e->fields + 4;
    if (strm_int(&n->lp, &says)) return PK_BAD;
    if ((u64)says != is)
        return pk_fail(&n->lp, e->at, "entry count says %llu, entry has %llu", (u64)says, is);
    return PK_ITEM;
}

/* What a walk over a whole node found. */
typedef struct strm_summary {
    u64 live, deleted;
    rdbkit_stream_id first, last; /* live entries, if there are any */
    int sorted;                   /* IDs ascend, from the node's key on */
} strm_summary;

static int strm_node_check(strm_node *n, rdbkit_stream_id key, const u8 *blob, size_t len,
                           strm_summary *sum) {
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
    u64 off;   /* in the file */
    u64 owner; /* 0: none yet; else one more than the consumers that come behind it */
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
        if (c < 0) lo = mid + 1;
        else hi = mid;
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

static ptrdiff_t in_read_fd(void *ctx, void *buf, size_t size) { return port_read(*(int *)ctx, buf, size); }

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
    if (!in->block && !(in->block = in->mem.alloc(in->mem.ctx, 1 + IN_BLOCK)))
        return in_fail(in, RDBKIT_ERR_NOMEM, 0);
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
    if (!in->plain && !(in->plain = in->mem.alloc(in->mem.ctx, IN_BLOCK)))
        return in_fail(in, RDBKIT_ERR_NOMEM, 0);
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
        if (st == Z_STREAM_END) in->member_open = 0;
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
static void in_unread(rdbkit_input *in, const u8 *data, size_t len) { in->rest = data, in->rest_len = len; }

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
    int module;                    /* inside module values */
    int (*after)(rdbkit_reader *); /* when it is complete */
} rd_walk_state;

enum rd_stream_phase {
    RD_S_START,
    RD_S_NODES,
    RD_S_META,
    RD_S_GROUP,
    RD_S_PENDING,
    RD_S_CONSUMERS,
    RD_S_CONSUMER,
    RD_S_OWNED
};

typedef struct rd_stream_state {
    enum rd_stream_phase phase;
    u64 nodes, groups, consumers, left;
    u64 live;                     /* entries seen */
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
    int status;   /* RDBKIT_OK, RDBKIT_DONE, or the error */
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

PORT_INLINE u64 rd_off(const rdbkit_reader *r, const u8 *at) { return r->base_off + (u64)(at - r->base); }

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
static PORT_NOINLINE int PORT_PRINTF(4, 5)
    rd_fail(rdbkit_reader *r, int code, const u8 *at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    rd_vfail(r, code, rd_off(r, at), fmt, ap);
    va_end(ap);
    return code;
}

/* The same for an item that the window has left already. */
static PORT_NOINLINE int PORT_PRINTF(4, 5)
    rd_fail_off(rdbkit_reader *r, int code, u64 off, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    rd_vfail(r, code, off, fmt, ap);
    va_end(ap);
    return code;
}

static int rd_nomem(rdbkit_reader *r) { return rd_fail(r, RDBKIT_ERR_NOMEM, r->p, "out of memory"); }

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
    err_add(e->message, sizeof e->message, c->bad, (unsigned long long)c->bad_a,
            (unsigned long long)c->bad_b);
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
        return rd_fail(r, RDBKIT_ERR_LIMIT, at, "string of %llu bytes, the limit is %llu",
                       (unsigned long long)len, (unsigned long long)max);
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
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "%llu compressed bytes said to hold %llu",
                       (unsigned long long)clen, (unsigned long long)ulen);
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
        if (n == 0)
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "string encoding 0x%02x, 0xc0 to 0xc3 wanted", *p);
        if (room < n) return rd_need(r, at, n);
        i64 v = n == 2   ? port_sign(p[1], 8)
                : n == 3 ? port_sign(port_le16(p + 1), 16)
                         : port_sign(port_le32(p + 1), 32);
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
PORT_INLINE int rd_strict(const rdbkit_reader *r) { return r->opt.deep || r->raw_from; }

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
static PORT_NOINLINE int rd_raw_rewrite(rdbkit_reader *r, const u8 *at, const u8 *end, const void *blob,
                                        size_t len) {
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
        if (rd_strict(r) && p < r->end && *p == 0xc3) { /* decoded by who loads it */
            if (!(st = rd_str_lzf(r, &p, RD_FIRST, NULL))) r->p = p;
            return st;
        }
        r->p = p; /* the tag alone is a step of its own: what it announces comes next */
        if ((st = rd_walk_str(r))) r->p = at;
        return st;
    }
    default:
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "module value tag %llu, 0 to 5 wanted",
                       (unsigned long long)op);
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
    case 'm': w->module = 1; break;
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
        const int wanted = n && r->ev->string_piece && r->opt.piece_len;
        int st = wanted ? r->ev->string_piece(r->ev->user, s, off, r->piece_total) : 0;
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
    const int unwanted = !r->ev->string && !r->ev->string_piece;
    if (unwanted && r->end - p > 64 && *p < 0xc3 && (*p < 0x40 || *p >= 0xc0)) { /* as most are */
        r->p += *p < 0x40 ? 1 + *p : 1 + (1 << (*p - 0xc0));
        return rd_key_end(r);
    }
    int st = val_pieces_start(r);
    if (st || r->state == RD_PIECES) return st;
    if (!r->ev->string && p < r->end && *p == 0xc3) st = rd_str_lzf(r, &p, RD_FIRST, NULL);
    else st = rd_str(r, &p, RD_FIRST, &s);
    if (st) return st;
    r->p = p;
    if (r->ev->string && (st = r->ev->string(r->ev->user, s))) return rd_stop(r, st);
    return rd_key_end(r);
}

static int val_items(rdbkit_reader *r) {
    int (*emit)(void *, rdbkit_str) =
        r->key.type->shape == RDBKIT_LIST ? r->ev->list_item : r->ev->set_member;
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
        if (score != score && rd_strict(r))
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "score is not a number");
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
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "field expiry %llu after %llu, past 2^48",
                       (unsigned long long)t, (unsigned long long)base);
    if (base + t) *expire_ms = (i64)(base + t); /* 0, which no server writes, is none to them */
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
                return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "field expiry %lld, -1 or more wanted",
                               (long long)expire);
        }
        r->p = p;
        r->n--;
        if (r->ev->hash_field && (st = r->ev->hash_field(r->ev->user, f, v, expire))) return rd_stop(r, st);
    }
    return rd_key_end(r);
}

/* ---- packed values ---- */

/* Long back-lengths as Valkey 9.1 writes them kill Redis. Valkey's own files have them, and those of RDB 11 that it
 * writes for older replicas. */
static PORT_NOINLINE int val_check_forms(rdbkit_reader *r, const u8 *at, unsigned forms) {
    if (!r->opt.deep || !(forms & 2) || r->header.lineage == FMT_V || r->header.rdb_version == 11) return 0;
    return rd_fail(
        r, RDBKIT_ERR_DAMAGED, at,
        "back-length of a long entry as Valkey 9.1 writes it, which the servers of RDB version %d cannot "
        "read",
        r->header.rdb_version);
}

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
    if (PORT_UNLIKELY(c.forms) && (st = val_check_forms(r, at, c.forms))) return st;
    if (PORT_UNLIKELY(c.forms & r->raw_forms) && r->raw_from)
        return rd_raw_rewrite(r, at, *pp, blob->data, blob->len);
    return 0;
}

static int val_emit_items(rdbkit_reader *r, enum blob_kind kind, rdbkit_str blob,
                          int (*emit)(void *, rdbkit_str)) {
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
        if (val_score(&it, &score)) bad = "score of %llu characters is not a number";
        else if (rd_strict(r) && score != score) bad = "score is nan";
        else if (r->opt.deep && last_name.data &&
                 (score < last || (score == last && val_str_cmp(name, last_name) <= 0)))
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
            pk_fail(&c, p, "field expiry %llu after %llu, ascending wanted", (u64)it.num,
                    none ? 0 : (u64)prev);
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
    if (rd_strict(r) && r->blob_n == 0) return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "empty collection");
    r->p = p;
    if (shape == RDBKIT_HASH) st = val_emit_hash(r, kind, blob, triples);
    else if (shape == RDBKIT_ZSET) st = val_emit_zset(r, kind, blob);
    else st = val_emit_items(r, kind, blob, shape == RDBKIT_LIST ? r->ev->list_item : r->ev->set_member);
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
        if (container == PACKED) st = val_blob(r, &p, kind, 1, &s);
        else st = rd_str(r, &p, RD_FIRST, &s);
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
        if (container == PACKED) st = val_emit_items(r, kind, s, r->ev->list_item);
        else if (r->ev->list_item && (st = r->ev->list_item(r->ev->user, s))) st = rd_stop(r, st);
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
        if (live && r->ev->stream_entry && (st = r->ev->stream_entry(r->ev->user, e.id, e.fields)))
            return rd_stop(r, st);
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

/* What only Valkey 9.1 checks, and Redis with deep sanitising in part; of entries out of order, which XRANGE does not
 * find, nobody does. */
static int val_deep_node(rdbkit_reader *r, const u8 *at, const strm_node *n, const strm_summary *sum) {
    if (!r->opt.deep) return 0;
    if (!sum->sorted || (r->strm.any_live && strm_id_cmp(r->strm.last, n->key) >= 0))
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "stream entries do not ascend");
    if (sum->live != n->count || sum->deleted != n->deleted)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at,
                       "stream node says %llu live and %llu deleted entries, has %llu and %llu",
                       (unsigned long long)n->count, (unsigned long long)n->deleted,
                       (unsigned long long)sum->live, (unsigned long long)sum->deleted);
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
    int c = s->any_node ? strm_id_cmp(id, s->node_key) : 1;
    if (c == 0) return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "stream node key twice");
    if (c < 0) /* one that stands twice could hide between others */
        return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "stream node keys do not ascend");
    const u8 *blob_at = p;
    if ((st = rd_str(r, &p, RD_FIRST, &blob))) return st;
    if (strm_node_check(&n, id, (const u8 *)blob.data, blob.len, &sum) != PK_END)
        return rd_fail_blob(r, blob_at, &n.lp);
    if ((st = val_deep_node(r, blob_at, &n, &sum)) || (st = val_check_forms(r, blob_at, n.lp.forms)))
        return st;
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
    if ((st = rd_len(r, &p, &m->length)) || (st = rd_len(r, &p, &m->last_id.ms)) ||
        (st = rd_len(r, &p, &m->last_id.seq)))
        return st;
    m->first_id = s->any_live ? s->first : none;
    m->entries_added = m->length;
    if (m->has_counters &&
        ((st = rd_len(r, &p, &m->first_id.ms)) || (st = rd_len(r, &p, &m->first_id.seq)) ||
         (st = rd_len(r, &p, &m->max_deleted.ms)) || (st = rd_len(r, &p, &m->max_deleted.seq)) ||
         (st = rd_len(r, &p, &m->entries_added))))
        return st;
    if ((st = rd_len(r, &p, &s->groups))) return st;
    if (m->length != s->live && (r->opt.deep || (rd_strict(r) && !s->any_node)))
        return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "stream says %llu entries, has %llu",
                       (unsigned long long)m->length, (unsigned long long)s->live);
    if (r->opt.deep && s->any_live && strm_id_cmp(m->last_id, s->last) < 0)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "last ID of a stream below that of an entry");
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
    if (c < 0) return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "names of groups or consumers do not ascend");
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

static strm_pending *val_stream_list(rd_stream_state *s) { return (strm_pending *)(void *)s->pending.data; }

static int val_fail_pending(rdbkit_reader *r, const strm_pending *x, const char *what) {
    return rd_fail_off(r, RDBKIT_ERR_DAMAGED, x->off, "pending entry %llu-%llu %s",
                       (unsigned long long)x->p.id.ms, (unsigned long long)x->p.id.seq, what);
}

/* The group's list of pending entries, which is kept for the consumers that own them. */
static int val_stream_pending(rdbkit_reader *r) {
    rd_stream_state *s = &r->strm;
    const u8 *id, *time;
    while (s->left) {
        const u8 *p = r->p;
        strm_pending x = {{{0, 0}, 0, 0}, rd_off(r, p), 0};
        int st;
        if ((st = rd_raw(r, &p, 16, &id)) || (st = rd_raw(r, &p, 8, &time)) ||
            (st = rd_len(r, &p, &x.p.delivery_count)))
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
    for (size_t i = 1; i < s->pending_n && sorted; i++)
        sorted = strm_id_cmp(list[i - 1].p.id, list[i].p.id) < 0;
    if (!sorted) qsort(list, s->pending_n, sizeof *list, strm_pending_cmp);
    for (size_t i = 1; i < s->pending_n && !sorted; i++)
        if (strm_id_cmp(list[i - 1].p.id, list[i].p.id) == 0)
            return val_fail_pending(r, &list[i], "stands twice");
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
    for (size_t i = 0; rd_strict(r) && i < s->pending_n; i++) /* servers load it and die of XINFO */
        if (!list[i].owner) return val_fail_pending(r, &list[i], "has no owner");
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
        /* twice by one consumer: refused by all; a second owner: by Redis 8.0 and Valkey 8.1 once patched */
        int twice = x->owner == s->consumers + 1;
        if (twice || (x->owner && rd_strict(r)))
            return rd_fail(r, RDBKIT_ERR_DAMAGED, raw, "pending entry %llu-%llu %s",
                           (unsigned long long)id.ms, (unsigned long long)id.seq,
                           twice ? "stands twice" : "has a second owner");
        x->owner = s->consumers + 1;
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
    return st > 0 && st != RDBKIT_SKIP_KEY ? RDBKIT_ERR_USAGE : st;
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
                       "module value in the form of a Redis 4.0 release candidate, which cannot be read "
                       "without the module");
    r->p = p;
    r->key.raw_name.data = (const char *)at + 1, r->key.raw_name.len = (size_t)(p - at - 1);
    st = rec_emit_key(r);
    r->started = 0;
    r->state = RD_VALUE;
    r->ev = &r->v;
    if (PORT_LIKELY(st == RDBKIT_OK)) return 0;
    r->raw_forms = st == RDBKIT_TAKE_RAW_WIDE ? 2 : st == RDBKIT_TAKE_RAW_NARROW ? 1 : 0;
    if (st == RDBKIT_TAKE_UNCHECKED) {
        r->raw_from = p;
        rd_walk_start(r, t->layout, rd_key_end);
        return 0;
    }
    if (st == RDBKIT_TAKE_RAW ||
        r->raw_forms) { /* the value is read and checked, and what was read is given out */
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
    if (*what)
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "type %u (%s), which %s writes", b, what, product);
    product = fmt_newer_product('o', lineage, b, &what);
    if (*what)
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "opcode %u (%s), which %s writes", b, what, product);
    return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "no known %s has number %u", b < 200 ? "type" : "opcode",
                   b);
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
    if ((st = rd_str(r, &p, RD_FIRST, &name)) || (st = rd_str(r, &p, RD_SECOND, &engine)) ||
        (st = rd_len(r, &p, &has)))
        return st;
    b->len = 0;
    if (mem_buf_add(&r->mem, b, "#!", 2) || mem_buf_add(&r->mem, b, engine.data, engine.len))
        return rd_nomem(r);
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

/* Module data that were kept, as a reader gives them. */
static int rec_give_module_aux(const rdbkit_visitor *v, const rdbkit_module_aux *aux, rdbkit_str data) {
    int st = v->module_aux ? v->module_aux(v->user, aux) : 0;
    if (st == RDBKIT_SKIP_KEY) st = 0;
    else if (st == RDBKIT_TAKE_RAW) st = v->raw ? v->raw(v->user, data.data, data.len) : 0;
    if (st) return st;
    return v->module_aux_end ? v->module_aux_end(v->user) : 0;
}

static int rec_module_aux(rdbkit_reader *r, const u8 *p) {
    rdbkit_module_aux aux;
    u64 id, opcode, when;
    int st = rd_len(r, &p, &id);
    if (st) return st;
    const u8 *tag = p;
    if ((st = rd_len(r, &p, &opcode)) || (st = rd_len(r, &p, &when))) return st;
    if (id == UINT64_MAX) return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "module id 2^64-1, which is none");
    if (opcode != 2)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, tag, "module aux field with tag %llu, 2 wanted",
                       (unsigned long long)opcode);
    aux.id = id;
    fmt_module_name(id, aux.module);
    aux.encoding_version = (int)(id & 1023);
    aux.when = when == 1 || when == 2 ? (int)when : 0;
    if (!aux.when)
        return rd_fail(r, RDBKIT_ERR_DAMAGED, tag, "module aux field for time %llu, 1 or 2 wanted",
                       (unsigned long long)when);
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
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "slots %llu to %llu, 0 to 16383 wanted",
                           (unsigned long long)first, (unsigned long long)last);
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
    for (int i = 0; i < n; i++) {
        const u8 *at = p;
        if ((st = rd_len(r, &p, &v[i]))) return st;
        if (v[i] == UINT64_MAX) /* the servers' functions give it for an error of reading */
            return rd_fail(r, RDBKIT_ERR_DAMAGED, at, "length 2^64-1, which servers take for a short file");
    }
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
    if (opcode == FMT_OP_FREQ) r->key.lfu_freq = *data;
    else if (opcode == FMT_OP_EXPIRETIME) r->key.expire_ms = port_sign(port_le32(data), 32) * 1000;
    else r->key.expire_ms = (i64)port_le64(data);
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
            return rd_fail(r, RDBKIT_ERR_DAMAGED, r->p, "byte 0x%02x in the version, %d digits wanted", p[i],
                           digits);
        version = version * 10 + (p[i] - '0');
    }
    r->header.rdb_version = version;
    int max = r->header.lineage == FMT_R ? FMT_MAX_REDIS : FMT_MAX_VALKEY;
    int min = r->header.lineage == FMT_R ? 1 : FMT_MIN_VALKEY;
    if (version < min || (r->header.lineage == FMT_R && version >= FMT_MIN_VALKEY))
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p, "RDB version %d behind %s, which no server writes",
                       version, name);
    if (version > max)
        return rd_fail(r, RDBKIT_ERR_UNSUPPORTED, r->p,
                       "RDB version %d of %s, this program reads %s up to %d", version,
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
        return rd_fail(r, RDBKIT_ERR_CHECKSUM, r->p, "%016llx stored, %016llx computed",
                       (unsigned long long)stored, (unsigned long long)r->crc);
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
    if (o->silent || (!len && !o->sys_errno)) return 0;
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

#define LOSS_KINDS(X)                                                                                        \
    X(LOSS_STREAM, "stream", "streams are left out: the target has none")                                    \
    X(LOSS_STREAM_COUNTERS, "stream-counters",                                                               \
      "entries-added, max-deleted or entries-read of streams: the target has none, and would not estimate "  \
      "the same")                                                                                            \
    X(LOSS_ACTIVE_TIME, "active-time",                                                                       \
      "when consumers of streams were last active: the target takes when they were last seen")               \
    X(LOSS_FIELD_EXPIRY, "field-expiry", "expiry of hash fields: the fields are kept, and live for ever")    \
    X(LOSS_FUNCTION, "function", "function libraries are left out: the target has none")                     \
    X(LOSS_MODULE, "module", "module values over 512 MiB are left out: no command can carry them")           \
    X(LOSS_NAN_SCORE, "nan-score", "sorted set members whose score is not a number are left out")            \
    X(LOSS_STREAM_ENTRY, "stream-entry", "stream entries without fields are left out: no command makes one") \
    X(NOTE_PENDING_GONE, "pending-gone",                                                                     \
      "pending entries whose message is deleted: no command can make them")                                  \
    X(NOTE_MODULE_VALUE, "module-value",                                                                     \
      "module values are carried as they are: the target needs the module")                                  \
    X(NOTE_MODULE_AUX, "module-aux",                                                                         \
      "module data outside of keys is left out: the target has no way to take it")                           \
    X(NOTE_DB_NUMBER, "db-number", "databases above 15: the target needs a higher `databases`")              \
    X(NOTE_SLOT_IMPORT, "slot-import", "unfinished slot imports are left out")                               \
    X(NOTE_DROPPED_MODULE, "dropped-module", "module values and module data are left out, as asked for")     \
    X(NOTE_DROPPED_FUNCTION, "dropped-function", "function libraries are left out, as asked for")

#define LOSS_ROW(kind, name, text) \
    {RDBKIT_##kind, name, text, RDBKIT_##kind >= RDBKIT_NOTE_PENDING_GONE, 0, 0, 0, 0, {0}},
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
    return info->has_counters &&
           (info->entries_added > info->length || info->max_deleted.ms || info->max_deleted.seq);
}

static int loss_has_entries_read(const rdbkit_stream_info *info, const rdbkit_stream_group *group) {
    rdbkit_stream_info plain = loss_plain_info(info);
    return info->has_counters && group->entries_read != strm_estimate_read(&plain, group->last_id);
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

PORT_INLINE int loss_has(const loss_sink *l, unsigned feature) { return (l->target.features & feature) != 0; }

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
    int expiring;   /* a hash whose fields may expire */
    int has_active; /* a stream whose type says when consumers were active */
    int plain;      /* too large to be packed: elements go into the body */
    int all_ints;
    u64 n;         /* elements so far */
    mem_buf text;  /* of the kept items */
    mem_buf items; /* enc_item */
    mem_buf blob;  /* a packed value or list node in the making */
    u64 blob_n;
    u64 blob_prev; /* ziplist: length of the last entry */
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
    u64 spilled;   /* bytes of the body that are in the spill */
    u64 spill_off; /* of the first of them: a spill that cannot be reset still has the collections before */
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
        if (mem_buf_add(&e->mem, b, &mark, 1) || enc_len(e, b, n) || enc_len(e, b, len))
            return RDBKIT_ERR_NOMEM;
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
        size_t bytes = v >= INT16_MIN && v <= INT16_MAX   ? 2
                       : v >= -8388608 && v <= 8388607    ? 3
                       : v >= INT32_MIN && v <= INT32_MAX ? 4
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
        size_t bytes = v >= 0 && v <= 12                  ? 0
                       : v >= INT8_MIN && v <= INT8_MAX   ? 1
                       : v >= INT16_MIN && v <= INT16_MAX ? 2
                       : v >= -8388608 && v <= 8388607    ? 3
                       : v >= INT32_MIN && v <= INT32_MAX ? 4
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
    if (mem_buf_add(&e->mem, &e->blob, head, n) || mem_buf_add(&e->mem, &e->blob, data, len))
        return RDBKIT_ERR_NOMEM;
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

static enc_item *enc_items(const enc_state *e) { return (enc_item *)(void *)e->items.data; }

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
            while (i < mid || j < hi)
                b[k++] = j == hi || (i < mid && cmp(e, &a[i], &a[j]) <= 0) ? a[i++] : a[j++];
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

static int enc_plain_item(enc_state *e, rdbkit_str s) { return enc_body_str(e, s.data, s.len); }

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
    int packs = e->target->max_type >= fmt_types[FMT_SET_LISTPACK].number && e->n <= ENC_SET_N &&
                s.len <= ENC_ITEM_LEN;
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
static int enc_keeps_all(const enc_state *e) { return e->expiring && e->target->lineage == FMT_R; }

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
    if (e->blob_n && (e->blob.len + s.len + 11 > ENC_NODE_LEN || e->blob_n == VAL_NODE_MAX - 1))
        st = enc_node_end(e);
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
        if (val_str_cmp(enc_text(e, &it[i]), enc_slice(&e->names_text, name[i].off, name[i].len)) != 0)
            return 0;
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
    if (e->live >= ENC_STREAM_N ||
        (e->live && e->master.len + e->entries.len + e->text.len + 12 >= ENC_STREAM_LEN))
        st = enc_stream_node_end(e);
    if (!st && !e->live) st = enc_stream_node_start(e);
    const int same = !st && enc_same_fields(e); /* of a node that could not be begun there are no names */
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

static int enc_counters(const enc_state *e) { return e->target->max_type >= fmt_types[FMT_STREAM_2].number; }

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
    /* An entry with two owners, which some servers load, stands once in the group's list. */
    size_t kept = n ? 1 : 0;
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
    mem_buf *empty[] = {&e->text, &e->items, &e->blob,    &e->head,
                        &e->body, &e->tail,  &e->pending, &e->consumers};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) empty[i]->len = 0;
    e->shape = from->shape;
    e->expiring =
        from->number >= 22 && (e->target->features & RDBKIT_F_FIELD_EXPIRY) && from->shape == RDBKIT_HASH;
    e->has_active = fmt_id(from) == FMT_STREAM_3;
    e->plain = e->have_entry = e->have_group = 0;
    e->all_ints = 1;
    if (e->spill && !e->spill->reset) e->spill_off += e->spilled;
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

/* The smallest expiry of the fields, or RDBKIT_NO_EXPIRY. */
static i64 enc_min_expiry(const enc_state *e) {
    const enc_item *it = enc_items(e);
    i64 min = RDBKIT_NO_EXPIRY;
    for (u64 i = 0; i < e->n; i++)
        if (it[i].num != RDBKIT_NO_EXPIRY && (min == RDBKIT_NO_EXPIRY || it[i].num < min)) min = it[i].num;
    return min;
}

/* Redis: a listpack of triples, or plain with the times counted from the smallest. */
static int enc_end_redis_expiry(enc_state *e) {
    i64 min = enc_min_expiry(e);
    int st = enc_le(e, &e->head, (u64)min, 8);
    const enc_item *it;
    if (!e->all_ints || !enc_listpacks(e)) { /* not packed */
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
    const int expires = e->expiring && (e->plain || enc_min_expiry(e) != RDBKIT_NO_EXPIRY);
    int st = 0;
    if (expires && e->target->lineage == FMT_R) return enc_end_redis_expiry(e);
    if (expires && e->target->lineage == FMT_V) {
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
    e->type = &fmt_types[max >= fmt_types[FMT_STREAM_3].number ? FMT_STREAM_3
                         : enc_counters(e)                     ? FMT_STREAM_2
                                                               : FMT_STREAM];
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

static u64 enc_result_len(const enc_state *e) { return e->head.len + e->spilled + e->body.len + e->tail.len; }

/* Hand the value's bytes to a sink. */
static int enc_write(enc_state *e, int (*put)(void *ctx, const void *data, size_t len), void *ctx) {
    int st = put(ctx, e->head.data, e->head.len);
    for (u64 at = 0; at < e->spilled && !st;) {
        size_t n = e->spilled - at < ENC_BODY ? (size_t)(e->spilled - at) : ENC_BODY;
        e->blob.len = 0;
        if (mem_buf_room(&e->mem, &e->blob, n)) return RDBKIT_ERR_NOMEM;
        if (e->spill->read(e->spill->ctx, e->spill_off + at, e->blob.data, n)) return RDBKIT_ERR_IO;
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
    mem_buf *all[] = {&e->text,    &e->items,   &e->blob,       &e->lzf,       &e->master,
                      &e->entries, &e->names,   &e->names_text, &e->head,      &e->body,
                      &e->tail,    &e->pending, &e->consumers,  &e->group_name};
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
    /* The 0 that Valkey may write is "none" to Redis; neither has times before it. Past is past. */
    const i64 least = w->l.target.lineage == FMT_R;
    if (expire_ms != RDBKIT_NO_EXPIRY && expire_ms < least) expire_ms = least;
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
    int st = loss_has(&w->l, RDBKIT_F_STREAM_COUNTERS) || !loss_has_counters(info)
                 ? 0
                 : loss_lose(&w->l, RDBKIT_LOSS_STREAM_COUNTERS);
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
    int st = keeps || !w->enc.has_active || c->active_ms == c->seen_ms
                 ? 0
                 : loss_lose(&w->l, RDBKIT_LOSS_ACTIVE_TIME);
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
    int open; /* a record or value is begun and not whole yet: nothing can follow it */
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

/* The field that says so: an integer, as servers write it. */
static int wr_aof_base(rdbkit_writer *w) {
    const int multi_part = w->v.l.target.rdb_version >= 10; /* Redis 7.0 */
    return wr_aux(w, multi_part ? (rdbkit_str){"aof-base", 8} : (rdbkit_str){"aof-preamble", 12},
                  (rdbkit_str){"1", 1});
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
    st = wr_aux(w, name, value);
    return st || !w->opt.aof_base ? st : wr_aof_base(w);
}

/* Before a record, which stays open until wr_whole(). */
static int wr_ready(rdbkit_writer *w) {
    if (PORT_UNLIKELY(w->open)) return RDBKIT_ERR_USAGE; /* the one before ended in an error */
    w->open = 1;
    if (PORT_LIKELY(w->begun)) return 0;
    return w->opt.target ? wr_begin(w) : RDBKIT_ERR_USAGE; /* as the input, which has not come */
}

/* A record's status, which closes the record if it is none of an error. */
static int wr_whole(rdbkit_writer *w, int st) {
    w->open = st < 0;
    return st;
}

/* Without a target the output is for whoever wrote the input: same magic and version, and any type that is in it. What
 * is encoded anew is so as the oldest target of at least that version would. */
static int wr_header(void *user, const rdbkit_header *header) {
    rdbkit_writer *w = user;
    if (w->opt.target || w->begun) return 0;
    rdbkit_target *t = &w->v.l.target;
    for (size_t i = FMT_TARGET_N; i-- > 0;)
        if (fmt_targets[i].lineage == header->lineage && fmt_targets[i].rdb_version >= header->rdb_version)
            *t = fmt_targets[i];
    t->name = "as the input";
    t->features = ~0u;
    if (!w->opt.reencode) t->rdb_version = header->rdb_version;
    w->same = 1;
    w->v.enc.narrow = header->lineage == RDBKIT_VALKEY;
    int st = wr_begin(w);
    return st || !w->opt.aof_base ? st : wr_aof_base(w);
}

/* AUX fields that mean something in another file too; the rest is of the server's own affairs, and some can do harm:
 * repl-id makes a server resync from the wrong point. */
static int wr_keeps_aux(const rdbkit_writer *w, rdbkit_str name) {
    static const char *const drop[] = {"repl-stream-db",      "repl-id",         "repl-offset",
                                       "aof-preamble",        "aof-base",        "slot-info",
                                       "cluster-slot-states", "cluster-asm-task"};
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
    return wr_whole(w, st || !wr_keeps_aux(w, name) ? st : wr_aux(w, name, value));
}

static int wr_put_function(rdbkit_writer *w, rdbkit_str code) {
    int st = wr_ready(w);
    if (st) return st;
    if (w->opt.drop_functions)
        return loss_lose_other(&w->v.l, RDBKIT_NOTE_DROPPED_FUNCTION, loss_library_name(code));
    if (!loss_has(&w->v.l, RDBKIT_F_FUNCTIONS))
        return loss_lose_other(&w->v.l, RDBKIT_LOSS_FUNCTION, loss_library_name(code));
    st = wr_byte(w, FMT_OP_FUNCTION2);
    return st ? st : wr_str(w, code);
}

static int wr_function(void *user, rdbkit_str code, int opcode) {
    (void)opcode;
    return wr_whole(user, wr_put_function(user, code));
}

static int wr_module_aux_head(rdbkit_writer *w, const rdbkit_module_aux *aux) {
    rdbkit_str name = {aux->module, strlen(aux->module)};
    int st = wr_ready(w);
    if (st) return st;
    if (w->opt.drop_modules)
        return loss_lose_other(&w->v.l, RDBKIT_NOTE_DROPPED_MODULE, name), RDBKIT_SKIP_KEY;
    if (!loss_has(&w->v.l, RDBKIT_F_MODULE_AUX))
        return loss_lose_other(&w->v.l, RDBKIT_NOTE_MODULE_AUX, name);
    st = wr_byte(w, FMT_OP_MODULE_AUX);
    if (!st) st = wr_len(w, aux->id);
    if (!st) st = wr_len(w, 2);
    if (!st) st = wr_len(w, (u64)aux->when);
    return st ? st : RDBKIT_TAKE_RAW;
}

static int wr_module_aux(void *user, const rdbkit_module_aux *aux) {
    return wr_whole(user, wr_module_aux_head(user, aux));
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
        /* a base's keys stay whatever their time, and Valkey 8.1 and 9 abort on one before 1970 */
        const i64 ms = w->opt.aof_base && key->expire_ms < 0 ? 0 : key->expire_ms;
        x[0] = FMT_OP_EXPIRETIME_MS;
        port_put_le64(x + 1, (u64)ms);
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
    if (!st && key->raw_name.len)
        st = mem_buf_add(&w->v.enc.mem, &w->raw_name, key->raw_name.data, key->raw_name.len);
    else if (!st)
        st =
            enc_str(&w->v.enc, &w->raw_name, key->name.data, key->name.len); /* now: later a value is there */
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
    int loads =
        key->offset && !w->opt.reencode && (w->same || rdbkit_target_loads(&w->v.l.target, key->type));
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

static int wr_encoded(rdbkit_writer *w) {
    loss_tell(&w->v.l);
    int st = enc_end(&w->v.enc);
    if (st || !w->v.enc.type) return st;
    st = wr_key_head(w, &w->key, w->v.enc.type);
    return st ? st : enc_write(&w->v.enc, wr_put, w);
}

static int wr_key_end(void *user) {
    rdbkit_writer *w = user;
    return wr_whole(w, !w->type || w->raw ? 0 : wr_encoded(w));
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

static int wr_raw(void *user, const void *data, size_t len) { return wr_put(user, data, len); }

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
    mem_buf raw;   /* the value as it stands, for RESTORE */
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
    rdbkit_stream_id last_entry;
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
PORT_INLINE int resp_put(rdbkit_resp *s, const void *data, size_t len) { return out_put(&s->out, data, len); }

/* All that was put so far is complete. */
PORT_INLINE void resp_complete(rdbkit_resp *s) { s->cmd_off = s->out.sent + s->out.len; }

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

static int resp_arg_text(rdbkit_resp *s, const char *text) { return resp_arg(s, text, strlen(text)); }

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

static int resp_key(rdbkit_resp *s) { return resp_put(s, s->key.data, s->key.len); }

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
    if (len > SIZE_MAX / 2 || mem_buf_room(&s->mem, b, len + RESP_HEAD + NUM_INT_MAX))
        return RDBKIT_ERR_NOMEM;
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
    if (PORT_LIKELY(s->verb && s->batch_n < s->opt.batch && !s->alone &&
                    len < RESP_BATCH - (s->out.len - resp_cmd_at(s)))) {
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
    if (ms < 0) ms = 0; /* as long past, and no command takes less */
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
    int loads = s->opt.restore && key->offset && rdbkit_target_loads(&s->v.l.target, key->type);
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
    s->pxat = s->expire_ms > 0 && !s->opt.rewrite && loss_has(&s->v.l, RDBKIT_F_SET_PXAT);
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
    if (!fields) return loss_lose(&s->v.l, RDBKIT_LOSS_STREAM_ENTRY);
    s->last_entry = id;
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
    /* XSETID refuses what no server makes: what is nearest to it, and a loss */
    const rdbkit_stream_id last =
        s->entries && strm_id_cmp(info->last_id, s->last_entry) < 0 ? s->last_entry : info->last_id;
    const rdbkit_stream_id gone = strm_id_cmp(info->max_deleted, last) > 0 ? last : info->max_deleted;
    u64 added = info->entries_added < info->length ? info->length : info->entries_added;
    if (added > INT64_MAX) added = INT64_MAX;
    const int same = added == info->entries_added && strm_id_cmp(gone, info->max_deleted) == 0;
    s->info = *info;
    int st = s->entries ? 0 : resp_stream_empty(s);
    if (!st) st = resp_command(s, counters ? 7 : 3, "$6\r\nXSETID\r\n");
    if (!st) st = resp_key(s);
    if (!st) st = resp_arg_id(s, last);
    if (counters) {
        if (!st) st = resp_arg_text(s, "ENTRIESADDED");
        if (!st) st = resp_arg_i64(s, (i64)added);
        if (!st) st = resp_arg_text(s, "MAXDELETEDID");
        if (!st) st = resp_arg_id(s, gone);
        return st || same ? st : loss_lose(&s->v.l, RDBKIT_LOSS_STREAM_COUNTERS);
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
    if (!st) st = resp_arg_i64(s, s->claim_as.delivery_ms < 0 ? 0 : s->claim_as.delivery_ms);
    if (!st) st = resp_arg_text(s, "RETRYCOUNT");
    const u64 count = s->claim_as.delivery_count; /* above what a command takes no server counts */
    if (!st) st = resp_arg_i64(s, count > INT64_MAX ? INT64_MAX : (i64)count);
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
        const i64 read = group->entries_read < 0 ? RDBKIT_ENTRIES_READ_UNKNOWN : group->entries_read;
        if (!st) st = resp_arg_text(s, "ENTRIESREAD");
        if (!st) st = resp_arg_i64(s, read);
        return st || read == group->entries_read ? st : loss_lose(&s->v.l, RDBKIT_LOSS_STREAM_COUNTERS);
    }
    return st || !loss_has_entries_read(&s->info, group) ? st
                                                         : loss_lose(&s->v.l, RDBKIT_LOSS_STREAM_COUNTERS);
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
        if (c < 0) lo = mid + 1;
        else hi = mid;
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
    if (s->opt.drop_functions)
        return loss_lose_other(&s->v.l, RDBKIT_NOTE_DROPPED_FUNCTION, loss_library_name(code));
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
    return loss_lose_other(&s->v.l, s->opt.drop_modules ? RDBKIT_NOTE_DROPPED_MODULE : RDBKIT_NOTE_MODULE_AUX,
                           name);
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

#define JSON_CHUNK 640                        /* bytes escaped in one go: six for one, and a block too many */
#define JSON_CHUNK_ROOM (6 * JSON_CHUNK + 64) /* which out_room allows */
#define JSON_SHORT 1024                       /* a plain string up to this is written in one go */
#define JSON_FIXED 512                        /* what a record has besides strings */
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

#define JSON_EACH(byte) ((u64)(byte)*0x0101010101010101)

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
        odd |= (unsigned)(c < 0x20 || c == '"' || c == '\\' || c == 0x7f || (latin1 ? c >= 0x80 : c == 0xe2))
               << i;
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
PORT_INLINE void json_string(rdbkit_json *s, size_t comma, const char *before, size_t before_n,
                             rdbkit_str v) {
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

PORT_INLINE u8 *json_word(u8 *o, const char *word) { return json_text(o, word, strlen(word)); }

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

PORT_INLINE void json_to(rdbkit_json *s, const u8 *o) { s->out.len = (size_t)(o - s->out.data); }

static void json_put(rdbkit_json *s, const char *text, size_t n) { out_put(&s->out, text, n); }

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
    if (key->lfu_freq != RDBKIT_NO_HINT)
        o = num_i64(json_text(o, JSON_TEXT(",\"lfu_freq\":")), key->lfu_freq);
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
    if (group->entries_read == RDBKIT_ENTRIES_READ_UNKNOWN) o = json_text(o, JSON_TEXT("null"));
    else o = num_i64(o, group->entries_read);
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
 * see that in a file of any size in little memory, each key leaves a record of 12 bytes: 64 bits of its hash, and
 * where it stands, counted from the first of its chunk. Seven bits more of the hash say which of 128 parts it goes
 * to, and the parts go to the spill in chunks; at the end each part is looked through on its own, in as many passes
 * as the table needs. Fields and members of small collections are looked at on the spot, those of large ones leave
 * records too, hashed together with the offset of their key. Memory: 2 MiB; without a spill, 12 bytes a record.
 * Tests: tests/test_api.c, tests/test_fixtures.c */

#define REP_PARTS 128
#define REP_CHUNK 681                /* records in a chunk of 8 KiB */
#define REP_BATCH 8                  /* chunks that are written out together: many small writes cost more */
#define REP_SLOTS ((size_t)1 << 16)  /* of the table that a part is looked through with: stays in the cache */
#define REP_PASS (REP_SLOTS / 8 * 5) /* records in it at the most */
#define REP_LOCAL 1024               /* fields looked at on the spot */
#define REP_LOCAL_SLOTS (2 * REP_LOCAL)
#define REP_SHOWN 16

/* A key, or a field: then off is that of its key. */
typedef struct rep_item {
    u64 hash;
    u64 off;
    unsigned part; /* seven more bits of hash */
} rep_item;

typedef struct rep_record {
    u32 hash_lo, hash_hi;
    u32 off; /* from the chunk's base */
} rep_record;

/* What is written out: full, unless the offsets lie far apart. */
typedef struct rep_chunk {
    u64 base; /* offset of the first item */
    u64 prev; /* number of the chunk before it in the same part, counted from 1; 0: none */
    u32 n;
    rep_record records[REP_CHUNK];
} rep_chunk;

/* A chunk that is being filled. They do not lie 8 KiB apart: the ends of all would share a few lines of the cache. */
typedef struct rep_part {
    rep_chunk chunk;
    u8 apart[320];
} rep_part;

typedef struct rep_slot {
    u64 hash;
    u64 at; /* table: 1 + offset, 0 if empty; local: the collection that it is of, times REP_PARTS, and the part */
} rep_slot;

/* What a part is looked through with. */
typedef struct rep_table {
    rep_slot *slots;
    size_t mask;
} rep_table;

struct rdbkit_check {
    rdbkit_allocator mem;
    rdbkit_spill spill;
    int have_spill;
    rdbkit_visitor visitor;
    rep_part *parts;
    mem_buf full; /* chunks that are not in the spill: those of a batch, or all */
    u64 chunks;   /* how many there are in all */
    u64 spilled;  /* of these in the spill */
    u64 counts[REP_PARTS];
    u64 key_off;
    u64 fields; /* of the collection at hand, as far as they are looked at */
    u64 epoch;  /* one a collection */
    rep_slot *local;
    int64_t found;
    int status; /* the first error: after it the records are not whole */
    rdbkit_duplicate shown[REP_SHOWN];
};

static void rep_found(rdbkit_check *c, u64 a, u64 b) {
    if (c->found++ >= REP_SHOWN) return;
    rdbkit_duplicate *d = &c->shown[c->found - 1];
    d->first_off = a < b ? a : b;
    d->second_off = a < b ? b : a;
    d->field = a == b;
}

/* Write the chunks of a batch. */
static int rep_batch_out(rdbkit_check *c) {
    if (!c->full.len) return 0;
    if (!c->spilled && c->spill.reset && c->spill.reset(c->spill.ctx)) return RDBKIT_ERR_IO;
    if (c->spill.write(c->spill.ctx, c->full.data, c->full.len)) return RDBKIT_ERR_IO;
    c->spilled = c->chunks;
    c->full.len = 0;
    return 0;
}

/* A part's chunk is full. */
static PORT_NOINLINE int rep_chunk_out(rdbkit_check *c, rep_part *part) {
    rep_chunk *chunk = &part->chunk;
    if (mem_buf_add(&c->mem, &c->full, chunk, sizeof *chunk)) return c->status = RDBKIT_ERR_NOMEM;
    c->counts[part - c->parts] += chunk->n;
    chunk->prev = ++c->chunks;
    chunk->n = 0;
    if (c->have_spill && c->full.len >= REP_BATCH * sizeof *chunk) c->status = rep_batch_out(c);
    return c->status;
}

PORT_INLINE int rep_add(rdbkit_check *c, rep_item x) {
    rep_part *part = &c->parts[x.part];
    rep_chunk *chunk = &part->chunk;
    if (PORT_UNLIKELY(chunk->n && x.off - chunk->base > UINT32_MAX)) { /* or before it: a second file */
        const int st = rep_chunk_out(c, part);
        if (st) return st;
    }
    if (!chunk->n) chunk->base = x.off;
    rep_record *r = &chunk->records[chunk->n++];
    r->hash_lo = (u32)x.hash, r->hash_hi = (u32)(x.hash >> 32), r->off = (u32)(x.off - chunk->base);
    return PORT_UNLIKELY(chunk->n == REP_CHUNK) ? rep_chunk_out(c, part) : 0;
}

PORT_INLINE rep_item rep_item_of(u64 seed, u64 off, rdbkit_str s) {
    rep_item x = {0, off, 0};
    u64 more;
    port_hash(seed, s, &x.hash, &more); /* which an enemy can fool: findings are confirmed by reading */
    x.part = (unsigned)(more >> 57);
    return x;
}

static int rep_key(void *user, const rdbkit_key *key) {
    rdbkit_check *c = user;
    if (PORT_UNLIKELY(c->status)) return c->status;
    c->key_off = key->offset;
    c->fields = 0;
    c->epoch++;
    return rep_add(c, rep_item_of(key->db, key->offset, key->name));
}

/* The collection is too large to be looked at on the spot: what was seen of it so far leaves records. */
static int rep_leave_local(rdbkit_check *c) {
    for (const rep_slot *s = c->local; s < c->local + REP_LOCAL_SLOTS; s++) {
        const rep_item x = {s->hash, c->key_off, (unsigned)(s->at % REP_PARTS)};
        const int st = s->at / REP_PARTS == c->epoch ? rep_add(c, x) : 0;
        if (st) return st;
    }
    return 0;
}

static int rep_field(rdbkit_check *c, rdbkit_str s) {
    if (PORT_UNLIKELY(c->status)) return c->status;
    const rep_item x = rep_item_of(~c->key_off, c->key_off, s);
    if (c->fields == REP_LOCAL) {
        int st = rep_leave_local(c);
        if (st) return st;
    }
    if (c->fields++ >= REP_LOCAL) return rep_add(c, x);
    rep_slot *slot = &c->local[x.hash % REP_LOCAL_SLOTS];
    const u64 own = c->epoch * REP_PARTS + x.part;
    while (slot->at / REP_PARTS == c->epoch) {
        if (slot->hash == x.hash && slot->at == own) {
            rep_found(c, x.off, x.off);
            return 0;
        }
        if (++slot == c->local + REP_LOCAL_SLOTS) slot = c->local;
    }
    slot->hash = x.hash, slot->at = own;
    return 0;
}

static int rep_set_member(void *user, rdbkit_str member) { return rep_field(user, member); }

static int rep_zset_member(void *user, rdbkit_str member, double score) {
    (void)score;
    return rep_field(user, member);
}

static int rep_hash_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)value, (void)expire_ms;
    return rep_field(user, field);
}

/* The number-th chunk, from 1. */
static int rep_chunk_in(rdbkit_check *c, u64 number, rep_chunk *out) {
    const u64 off = (number - 1) * sizeof *out, spilled = c->spilled * sizeof *out;
    if (off < spilled) {
        if (c->spill.read(c->spill.ctx, off, out, sizeof *out)) return RDBKIT_ERR_IO;
        return out->n && out->n <= REP_CHUNK && out->prev < number
                   ? 0
                   : RDBKIT_ERR_IO; /* else not what was written */
    }
    memcpy(out, c->full.data + (off - spilled), sizeof *out);
    return 0;
}

/* Put those of a chunk's records whose turn it is into the table; what is there already is a duplicate. */
static void rep_table_add(rdbkit_check *c, rep_table *t, const rep_chunk *chunk, u64 pass, u64 passes) {
    for (u32 i = 0; i < chunk->n; i++) {
        const rep_record r = chunk->records[i];
        const u64 hash = (u64)r.hash_hi << 32 | r.hash_lo, off = chunk->base + r.off;
        if (passes > 1 && (hash >> 20) % passes != pass) continue;
        size_t at = (size_t)hash & t->mask;
        while (t->slots[at].at && t->slots[at].hash != hash) at = (at + 1) & t->mask;
        if (t->slots[at].at) rep_found(c, t->slots[at].at - 1, off);
        else t->slots[at].hash = hash, t->slots[at].at = off + 1;
    }
}

/* Look through one part. */
static int rep_part_end(rdbkit_check *c, const rep_chunk *last, u64 n, rep_table *table, rep_chunk *chunk) {
    u64 passes = n / REP_PASS + 1;
    table->mask = REP_SLOTS - 1;
    while (n < (table->mask + 1) / 16 * 5) table->mask >>= 1; /* as small as will do: it has to be wiped */
    for (u64 pass = 0; pass < passes && n > 1; pass++) {
        memset(table->slots, 0, (table->mask + 1) * sizeof *table->slots);
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
    if (c->status) return c->status;
    rep_table table = {c->mem.alloc(c->mem.ctx, REP_SLOTS * sizeof(rep_slot)), 0};
    rep_chunk *chunk = c->mem.alloc(c->mem.ctx, sizeof *chunk);
    int st = table.slots && chunk ? 0 : RDBKIT_ERR_NOMEM;
    for (size_t i = 0; i < REP_PARTS && !st; i++)
        st = rep_part_end(c, &c->parts[i].chunk, c->counts[i] + c->parts[i].chunk.n, &table, chunk);
    if (table.slots) c->mem.free(c->mem.ctx, table.slots, REP_SLOTS * sizeof(rep_slot));
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
    for (size_t i = 0; c->parts && i < REP_PARTS; i++) c->parts[i].chunk.prev = c->parts[i].chunk.n = 0;
    c->local = mem_new(&mem, REP_LOCAL_SLOTS * sizeof *c->local);
    rdbkit_visitor v = {0};
    v.user = c;
    v.key = rep_key, v.set_member = rep_set_member, v.zset_member = rep_zset_member,
    v.hash_field = rep_hash_field;
    c->visitor = v;
    if (c->parts && c->local) return c;
    rep_free(c);
    return NULL;
}

/* ==== [27] seq_ : strings one after another in one block ====
 *
 * What lists are made of, and small sets, hashes and sorted sets: 2 bytes besides the text of a short string, and
 * to be walked from either end.
 *
 *     item = length text back;   length: 7 bits a byte, lowest first, the top bit says that more follow;
 *                                back: the bytes of length and text, written the other way round
 *
 * Slices that are put in must not lie in the block itself. Tests: tests/test_structs.c */

#define SEQ_LEN_MAX 0x7ff00000u /* of a block */

typedef struct seq_items {
    u8 *data;
    u32 off, end; /* the items lie in [off, end) */
    u32 cap;
    u32 n;
} seq_items;

/* A place between items, as an offset into data. */
typedef u32 seq_at;

static void seq_free(const rdbkit_allocator *mem, seq_items *s) {
    if (s->data) mem->free(mem->ctx, s->data, s->cap);
    memset(s, 0, sizeof *s);
}

PORT_INLINE u32 seq_len_size(u64 v) {
    u32 n = 1;
    while (v > 127) v >>= 7, n++;
    return n;
}

/* Bytes that a string of this length takes. */
PORT_INLINE u64 seq_item_size(u64 len) {
    const u64 head = len + seq_len_size(len);
    return head + seq_len_size(head);
}

static void seq_put_item(u8 *p, rdbkit_str s) {
    u64 v = s.len;
    u8 *start = p;
    for (; v > 127; v >>= 7) *p++ = (u8)(v | 128);
    *p++ = (u8)v;
    port_copy(p, s.data, s.len);
    p += s.len;
    v = (u64)(p - start);
    p += seq_len_size(v) - 1;
    for (; v > 127; v >>= 7) *p-- = (u8)(v | 128);
    *p = (u8)v;
}

/* The item behind a place that is not the end; the place moves behind it. */
PORT_INLINE rdbkit_str seq_next(const seq_items *s, seq_at *at) {
    const u8 *p = s->data + *at;
    u64 len = *p & 127;
    for (int shift = 7; *p++ & 128; shift += 7) len |= (u64)(*p & 127) << shift;
    rdbkit_str item = {(const char *)p, (size_t)len};
    const u64 head = (u64)(p - (s->data + *at)) + len;
    *at += (u32)(head + seq_len_size(head));
    return item;
}

/* The item before a place that is not the beginning; the place moves before it. */
PORT_INLINE rdbkit_str seq_prev(const seq_items *s, seq_at *at) {
    const u8 *p = s->data + *at - 1;
    u64 head = *p & 127;
    for (int shift = 7; *p & 128; shift += 7) head |= (u64)(*--p & 127) << shift;
    *at = (u32)((u64)(p - s->data) - head);
    seq_at start = *at;
    return seq_next(s, &start);
}

/* Make a gap of so many bytes at a place; returns where, or NULL. The shorter part moves where it can; never fails if an
 * item of that size was just taken out. Blocks grow by a quarter, and the free room lies where items are added. */
static u8 *seq_gap(const rdbkit_allocator *mem, seq_items *s, seq_at at, u64 size) {
    const u32 used = s->end - s->off, before = at - s->off, after = s->end - at;
    if (size > SEQ_LEN_MAX - used) return NULL;
    const u32 add = (u32)size;
    const int front = add <= s->off, back = add <= s->cap - s->end;
    if (!back && before >= after && add <= s->off) { /* all to the front, so that the next ones find room */
        memmove(s->data, s->data + s->off, before);
        if (after) memmove(s->data + before + add, s->data + at, after);
        s->off = 0, s->end = used + add;
        return s->data + before;
    }
    if (front && (before < after || !back)) {
        if (before) memmove(s->data + s->off - add, s->data + s->off, before);
        s->off -= add;
        return s->data + s->off + before;
    }
    if (back) {
        if (after) memmove(s->data + at + add, s->data + at, after);
        s->end += add;
        return s->data + at;
    }
    const u32 need = used + add, cap = need + need / 4 + (need < 4096 ? 8 : 0);
    u8 *data = mem->alloc(mem->ctx, cap);
    if (!data) return NULL;
    const u32 off = before < after ? cap - need : 0;
    if (before) memcpy(data + off, s->data + s->off, before);
    if (after) memcpy(data + off + before + add, s->data + at, after);
    if (s->data) mem->free(mem->ctx, s->data, s->cap);
    s->data = data, s->cap = cap, s->off = off, s->end = off + need;
    return data + off + before;
}

/* Put a string at a place. 0 or RDBKIT_ERR_NOMEM. */
static int seq_insert(const rdbkit_allocator *mem, seq_items *s, seq_at at, rdbkit_str item) {
    u8 *p = seq_gap(mem, s, at, seq_item_size(item.len));
    if (!p) return RDBKIT_ERR_NOMEM;
    seq_put_item(p, item);
    s->n++;
    return 0;
}

/* Take out the bytes [from, to), which are n items. Places behind move; returns the place where they were. */
static seq_at seq_remove(seq_items *s, seq_at from, seq_at to, u32 n) {
    const u32 len = to - from, before = from - s->off, after = s->end - to;
    s->n -= n;
    if (before < after) {
        if (before) memmove(s->data + s->off + len, s->data + s->off, before);
        s->off += len;
        return to;
    }
    if (after) memmove(s->data + from, s->data + to, after);
    s->end -= len;
    return from;
}

/* The place of the item number i, 0 to n. */
static seq_at seq_index(const seq_items *s, u32 i) {
    if (i <= s->n / 2) {
        seq_at at = s->off;
        while (i-- > 0) (void)seq_next(s, &at);
        return at;
    }
    seq_at at = s->end;
    for (i = s->n - i; i > 0; i--) (void)seq_prev(s, &at);
    return at;
}

static int seq_same(rdbkit_str a, rdbkit_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* The place of a string among every step-th item, or UINT32_MAX. */
static seq_at seq_find(const seq_items *s, rdbkit_str item, int step) {
    for (seq_at at = s->off; at < s->end;) {
        const seq_at here = at;
        if (seq_same(seq_next(s, &at), item)) return here;
        for (int i = 1; i < step; i++) (void)seq_next(s, &at);
    }
    return UINT32_MAX;
}

/* ==== [28] tab_ : hash tables that keep the order of insertion ====
 *
 * Of items that begin with the u32 length of their name; the name's bytes stand at name_off. The items belong to the
 * caller. An array holds them in order, an open table of hashes and indexes finds them: 8 bytes and some 13 for an
 * item. The seed keeps an enemy from choosing names that collide. Tests: tests/test_structs.c */

#define TAB_NONE UINT32_MAX
#define TAB_MAX 0x38000000u /* items: so that the slots are 2^31 at most */

typedef struct tab_slot {
    u32 hash;
    u32 index; /* into item, plus 1; 0: free */
} tab_slot;

typedef struct tab {
    void **item; /* NULL where one was removed */
    tab_slot *slot;
    u32 used, live, cap; /* of item */
    u32 mask;            /* slots less 1 */
    u32 name_off;
} tab;

PORT_INLINE rdbkit_str tab_name(const tab *t, const void *item) {
    u32 len;
    memcpy(&len, item, sizeof len);
    return (rdbkit_str){(const char *)item + t->name_off, len};
}

PORT_INLINE u32 tab_hash(u64 seed, rdbkit_str name) {
    u64 a, b;
    port_hash(seed, name, &a, &b);
    return (u32)(a >> 32);
}

static void tab_free(const rdbkit_allocator *mem, tab *t) {
    const u32 name_off = t->name_off;
    if (t->item) mem->free(mem->ctx, t->item, (size_t)t->cap * sizeof *t->item);
    if (t->slot) mem->free(mem->ctx, t->slot, ((size_t)t->mask + 1) * sizeof *t->slot);
    memset(t, 0, sizeof *t);
    t->name_off = name_off;
}

/* The index of a name, or TAB_NONE. */
static u32 tab_find_hash(const tab *t, u32 hash, rdbkit_str name) {
    if (!t->slot) return TAB_NONE;
    for (u32 i = hash & t->mask; t->slot[i].index; i = (i + 1) & t->mask)
        if (t->slot[i].hash == hash && seq_same(tab_name(t, t->item[t->slot[i].index - 1]), name))
            return t->slot[i].index - 1;
    return TAB_NONE;
}

static u32 tab_find(const tab *t, u64 seed, rdbkit_str name) {
    return t->live ? tab_find_hash(t, tab_hash(seed, name), name) : TAB_NONE;
}

static void *tab_get(const tab *t, u64 seed, rdbkit_str name) {
    const u32 index = tab_find(t, seed, name);
    return index == TAB_NONE ? NULL : t->item[index];
}

static void tab_link(tab *t, u32 hash, u32 index) {
    u32 i = hash & t->mask;
    while (t->slot[i].index) i = (i + 1) & t->mask;
    t->slot[i] = (tab_slot){hash, index + 1};
}

/* New arrays for cap items, without the gaps. */
static int tab_resize(const rdbkit_allocator *mem, tab *t, u64 seed, u32 cap) {
    u32 slots = 8;
    while (slots / 3 * 2 < cap) slots *= 2;
    tab to = {NULL, NULL, 0, t->live, cap, slots - 1, t->name_off};
    to.item = mem->alloc(mem->ctx, (size_t)cap * sizeof *to.item);
    to.slot = mem_new(mem, (size_t)slots * sizeof *to.slot);
    if (!to.item || !to.slot) {
        tab_free(mem, &to);
        return RDBKIT_ERR_NOMEM;
    }
    if (t->used == t->live) { /* no gaps: the hashes are known */
        if (t->used) memcpy(to.item, t->item, (size_t)t->used * sizeof *to.item);
        for (u32 i = 0; t->slot && i <= t->mask; i++)
            if (t->slot[i].index) tab_link(&to, t->slot[i].hash, t->slot[i].index - 1);
        to.used = t->used;
    } else {
        for (u32 i = 0; i < t->used; i++) {
            if (!t->item[i]) continue;
            to.item[to.used] = t->item[i];
            tab_link(&to, tab_hash(seed, tab_name(t, t->item[i])), to.used++);
        }
    }
    tab_free(mem, t);
    *t = to;
    return 0;
}

/* Add an item whose name is not there yet. 0 or RDBKIT_ERR_NOMEM. */
static int tab_add(const rdbkit_allocator *mem, tab *t, u64 seed, void *item) {
    if (t->used == t->cap) {
        if (t->live > TAB_MAX) return RDBKIT_ERR_NOMEM;
        if (tab_resize(mem, t, seed, t->live + t->live / 2 + 8)) return RDBKIT_ERR_NOMEM;
    }
    t->item[t->used] = item;
    tab_link(t, tab_hash(seed, tab_name(t, item)), t->used++);
    t->live++;
    return 0;
}

/* Take out the item at an index. The others stay where they are. */
static void tab_remove(tab *t, u64 seed, u32 index) {
    u32 i = tab_hash(seed, tab_name(t, t->item[index])) & t->mask;
    while (t->slot[i].index != index + 1) i = (i + 1) & t->mask;
    for (u32 j = (i + 1) & t->mask; t->slot[j].index; j = (j + 1) & t->mask) {
        const u32 home = t->slot[j].hash & t->mask;
        if (((j - home) & t->mask) < ((j - i) & t->mask)) continue;
        t->slot[i] = t->slot[j];
        i = j;
    }
    t->slot[i].index = 0;
    t->item[index] = NULL;
    if (--t->live == 0) t->used = 0;
    else if (index == t->used - 1) t->used--;
}

/* The next item from index *i on, or NULL; *i moves behind it. For loops that begin with 0. */
PORT_INLINE void *tab_next(const tab *t, u32 *i) {
    while (*i < t->used) {
        void *item = t->item[(*i)++];
        if (item) return item;
    }
    return NULL;
}

/* ==== [29] ord_ : pointers in order ====
 *
 * Blocks of up to ORD_BLOCK pointers, sorted through a function. Ascending insertion fills blocks; position and rank
 * cost a walk over the blocks' counts. Tests: tests/test_structs.c */

#define ORD_BLOCK 254

typedef struct ord_block {
    u32 n;
    void *item[ORD_BLOCK];
} ord_block;

typedef struct ord {
    ord_block **block;
    u32 blocks, cap;
    u64 n;
} ord;

typedef struct ord_at {
    u32 block, item;
} ord_at;

typedef int (*ord_cmp)(const void *probe, const void *item);

static void ord_free(const rdbkit_allocator *mem, ord *o) {
    for (u32 i = 0; i < o->blocks; i++) mem->free(mem->ctx, o->block[i], sizeof(ord_block));
    if (o->block) mem->free(mem->ctx, o->block, o->cap * sizeof *o->block);
    memset(o, 0, sizeof *o);
}

/* The place of the first item that is not less than the probe; maybe the end. */
static ord_at ord_seek(const ord *o, const void *probe, ord_cmp cmp) {
    u32 lo = 0, hi = o->blocks; /* the block whose last item is not less */
    while (lo < hi) {
        const u32 mid = lo + (hi - lo) / 2;
        const ord_block *b = o->block[mid];
        if (cmp(probe, b->item[b->n - 1]) > 0) lo = mid + 1;
        else hi = mid;
    }
    ord_at at = {lo, 0};
    if (lo == o->blocks) return at;
    const ord_block *b = o->block[lo];
    for (lo = 0, hi = b->n; lo < hi;) {
        const u32 mid = lo + (hi - lo) / 2;
        if (cmp(probe, b->item[mid]) > 0) lo = mid + 1;
        else hi = mid;
    }
    at.item = lo;
    return at;
}

/* The item at a place, or NULL at the end. */
PORT_INLINE void *ord_item(const ord *o, ord_at at) {
    return at.block < o->blocks ? o->block[at.block]->item[at.item] : NULL;
}

PORT_INLINE ord_at ord_after(const ord *o, ord_at at) {
    if (++at.item < o->block[at.block]->n) return at;
    return (ord_at){at.block + 1, 0};
}

/* The place of rank i, 0 to n. */
static ord_at ord_index(const ord *o, u64 i) {
    ord_at at = {0, 0};
    if (i > o->n / 2) { /* from the end */
        u64 back = o->n - i;
        at.block = o->blocks;
        while (at.block > 0 && back > 0) {
            const u32 n = o->block[--at.block]->n;
            if (back <= n) return (ord_at){at.block, n - (u32)back};
            back -= n;
        }
        return at;
    }
    while (at.block < o->blocks && i >= o->block[at.block]->n) i -= o->block[at.block++]->n;
    at.item = (u32)i;
    return at;
}

/* How many items stand before a place. */
static u64 ord_rank(const ord *o, ord_at at) {
    u64 n = at.item;
    for (u32 i = 0; i < at.block; i++) n += o->block[i]->n;
    return n;
}

static int ord_new_block(const rdbkit_allocator *mem, ord *o, u32 at) {
    if (o->blocks == o->cap) {
        const u32 cap = o->cap ? o->cap * 2 : 4;
        void *p = o->block
                      ? mem->realloc(mem->ctx, o->block, o->cap * sizeof *o->block, cap * sizeof *o->block)
                      : mem->alloc(mem->ctx, cap * sizeof *o->block);
        if (!p) return RDBKIT_ERR_NOMEM;
        o->block = p, o->cap = cap;
    }
    ord_block *b = mem->alloc(mem->ctx, sizeof *b);
    if (!b) return RDBKIT_ERR_NOMEM;
    b->n = 0;
    memmove(o->block + at + 1, o->block + at, (o->blocks - at) * sizeof *o->block);
    o->block[at] = b;
    o->blocks++;
    return 0;
}

/* A full block becomes two; where the item goes behind all others the new one is empty, so that ascending input
 * leaves full blocks. */
static int ord_split(const rdbkit_allocator *mem, ord *o, ord_at *at) {
    const int behind = at->block + 1 == o->blocks && at->item == ORD_BLOCK;
    if (ord_new_block(mem, o, at->block + 1)) return RDBKIT_ERR_NOMEM;
    ord_block *a = o->block[at->block], *b = o->block[at->block + 1];
    const u32 keep = behind ? ORD_BLOCK : ORD_BLOCK / 2;
    b->n = ORD_BLOCK - keep;
    a->n = keep;
    if (b->n) memcpy(b->item, a->item + keep, b->n * sizeof *b->item);
    if (at->item > keep || behind) at->block++, at->item -= keep;
    return 0;
}

static int ord_insert(const rdbkit_allocator *mem, ord *o, void *item, ord_cmp cmp) {
    ord_at at = ord_seek(o, item, cmp);
    if (at.block == o->blocks) { /* behind all */
        if (o->blocks == 0 && ord_new_block(mem, o, 0)) return RDBKIT_ERR_NOMEM;
        at.block = o->blocks - 1;
        at.item = o->block[at.block]->n;
    }
    if (o->block[at.block]->n == ORD_BLOCK && ord_split(mem, o, &at)) return RDBKIT_ERR_NOMEM;
    ord_block *b = o->block[at.block];
    memmove(b->item + at.item + 1, b->item + at.item, (b->n - at.item) * sizeof *b->item);
    b->item[at.item] = item;
    b->n++;
    o->n++;
    return 0;
}

static void ord_drop_block(const rdbkit_allocator *mem, ord *o, u32 at) {
    mem->free(mem->ctx, o->block[at], sizeof(ord_block));
    o->blocks--;
    memmove(o->block + at, o->block + at + 1, (o->blocks - at) * sizeof *o->block);
}

/* Take out the item at a place; the place is that of the next one then. */
static void ord_remove(const rdbkit_allocator *mem, ord *o, ord_at *at) {
    ord_block *b = o->block[at->block];
    memmove(b->item + at->item, b->item + at->item + 1, (b->n - at->item - 1) * sizeof *b->item);
    b->n--;
    o->n--;
    ord_block *next = at->block + 1 < o->blocks ? o->block[at->block + 1] : NULL;
    if (b->n == 0) {
        ord_drop_block(mem, o, at->block);
    } else if (next && b->n + next->n <= ORD_BLOCK / 2) {
        memcpy(b->item + b->n, next->item, next->n * sizeof *b->item);
        b->n += next->n;
        ord_drop_block(mem, o, at->block + 1);
    }
    if (at->block < o->blocks && at->item >= o->block[at->block]->n) *at = (ord_at){at->block + 1, 0};
}

/* ==== [30] obj_ : lists, sets, sorted sets and hashes in memory ====
 *
 * Small ones are one packed block (seq_), as small as a server's own; larger ones are tables (tab_), and a sorted set
 * has its order besides (ord_). Arguments must not lie in the object that a function changes, except where it says
 * so. All sizes are known, so that memory can be counted. Tests: tests/test_structs.c */

#define OBJ_ITEM_LEN 64 /* the servers' defaults for what stays packed */
#define OBJ_HASH_N 512
#define OBJ_SET_N 128
#define OBJ_ZSET_N 128
#define OBJ_NODE_LEN 8192 /* of a list */

/* Everything that needs memory needs these two. */
typedef struct obj_env {
    const rdbkit_allocator *mem;
    u64 seed;
} obj_env;

/* ---- lists ---- */

typedef struct obj_node {
    struct obj_node *prev, *next;
    seq_items items; /* never empty */
} obj_node;

typedef struct obj_list {
    obj_node *head, *tail;
    u64 n;
} obj_list;

/* The place of an item; node NULL: behind the last one. */
typedef struct obj_list_at {
    obj_node *node;
    seq_at at;
} obj_list_at;

static void obj_list_unlink(const obj_env *e, obj_list *l, obj_node *node) {
    *(node->prev ? &node->prev->next : &l->head) = node->next;
    *(node->next ? &node->next->prev : &l->tail) = node->prev;
    seq_free(e->mem, &node->items);
    e->mem->free(e->mem->ctx, node, sizeof *node);
}

static void obj_list_free(const obj_env *e, obj_list *l) {
    while (l->head) obj_list_unlink(e, l, l->head);
    e->mem->free(e->mem->ctx, l, sizeof *l);
}

/* A new node behind another one, or at the head (NULL). */
static obj_node *obj_list_new_node(const obj_env *e, obj_list *l, obj_node *prev) {
    obj_node *node = mem_new(e->mem, sizeof *node);
    if (!node) return NULL;
    node->prev = prev;
    node->next = prev ? prev->next : l->head;
    *(node->prev ? &node->prev->next : &l->head) = node;
    *(node->next ? &node->next->prev : &l->tail) = node;
    return node;
}

static int obj_list_fits(const obj_node *node, rdbkit_str item) {
    return node->items.n == 0 || node->items.end - node->items.off + seq_item_size(item.len) <= OBJ_NODE_LEN;
}

static int obj_list_push(const obj_env *e, obj_list *l, int front, rdbkit_str item) {
    obj_node *node = front ? l->head : l->tail;
    if (!node || !obj_list_fits(node, item)) {
        node = obj_list_new_node(e, l, front ? NULL : l->tail);
        if (!node) return RDBKIT_ERR_NOMEM;
    }
    int st = seq_insert(e->mem, &node->items, front ? node->items.off : node->items.end, item);
    if (st && node->items.n == 0) obj_list_unlink(e, l, node);
    if (!st) l->n++;
    return st;
}

/* The item at a place that is one, and the place of the next. */
PORT_INLINE rdbkit_str obj_list_next(obj_list_at *at) {
    rdbkit_str item = seq_next(&at->node->items, &at->at);
    if (at->at == at->node->items.end) {
        at->node = at->node->next;
        at->at = at->node ? at->node->items.off : 0;
    }
    return item;
}

static obj_list_at obj_list_begin(const obj_list *l) {
    return (obj_list_at){l->head, l->head ? l->head->items.off : 0};
}

static rdbkit_str obj_list_item(obj_list_at at) { return obj_list_next(&at); }

/* The place of item i, 0 to n. */
static obj_list_at obj_list_index(const obj_list *l, u64 i) {
    obj_list_at at = {NULL, 0};
    if (i >= l->n) return at;
    if (i < l->n / 2) {
        at.node = l->head;
        while (i >= at.node->items.n) i -= at.node->items.n, at.node = at.node->next;
    } else {
        u64 back = l->n - i;
        at.node = l->tail;
        while (back > at.node->items.n) back -= at.node->items.n, at.node = at.node->prev;
        i = at.node->items.n - back;
    }
    at.at = seq_index(&at.node->items, (u32)i);
    return at;
}

/* Halve a node that has become too long; *at goes with its item. */
static int obj_list_split(const obj_env *e, obj_list *l, obj_list_at *at) {
    obj_node *node = at->node;
    if (node->items.n < 2 || node->items.end - node->items.off <= OBJ_NODE_LEN) return 0;
    const u32 keep = node->items.n / 2;
    const seq_at cut = seq_index(&node->items, keep);
    obj_node *more = obj_list_new_node(e, l, node);
    if (!more) return RDBKIT_ERR_NOMEM;
    const u32 len = node->items.end - cut, n = node->items.n - keep;
    u8 *p = seq_gap(e->mem, &more->items, 0, len);
    if (!p) {
        obj_list_unlink(e, l, more);
        return RDBKIT_ERR_NOMEM;
    }
    memcpy(p, node->items.data + cut, len);
    more->items.n = n;
    if (at->at >= cut) *at = (obj_list_at){more, at->at - cut + more->items.off};
    node->items.end = cut;
    node->items.n = keep;
    return 0;
}

/* Put an item before the one at a place (node NULL: at the end). */
static int obj_list_insert(const obj_env *e, obj_list *l, obj_list_at at, rdbkit_str item) {
    if (!at.node) return obj_list_push(e, l, 0, item);
    if (!obj_list_fits(at.node, item)) {
        int st = obj_list_split(e, l, &at);
        if (st) return st;
    }
    int st = seq_insert(e->mem, &at.node->items, at.at, item);
    if (!st) l->n++;
    return st;
}

/* Take out the item at a place; returns the place of the next. */
static obj_list_at obj_list_remove(const obj_env *e, obj_list *l, obj_list_at at) {
    seq_at to = at.at;
    (void)seq_next(&at.node->items, &to);
    at.at = seq_remove(&at.node->items, at.at, to, 1);
    l->n--;
    if (at.at < at.node->items.end) return at;
    obj_node *node = at.node;
    at.node = node->next;
    at.at = at.node ? at.node->items.off : 0;
    if (node->items.n == 0) obj_list_unlink(e, l, node);
    return at;
}

/* Keep the items [from, to) alone. */
static void obj_list_trim(const obj_env *e, obj_list *l, u64 from, u64 to) {
    u64 front = from, back = l->n - to;
    while (front && l->head && l->head->items.n <= front) {
        front -= l->head->items.n, l->n -= l->head->items.n;
        obj_list_unlink(e, l, l->head);
    }
    if (front && l->head) {
        seq_items *s = &l->head->items;
        (void)seq_remove(s, s->off, seq_index(s, (u32)front), (u32)front);
        l->n -= front;
    }
    while (back && l->tail && l->tail->items.n <= back) {
        back -= l->tail->items.n, l->n -= l->tail->items.n;
        obj_list_unlink(e, l, l->tail);
    }
    if (back && l->tail) {
        seq_items *s = &l->tail->items;
        (void)seq_remove(s, seq_index(s, s->n - (u32)back), s->end, (u32)back);
        l->n -= back;
    }
}

/* ---- what sets, sorted sets and hashes share: packed, or large ---- */

typedef struct obj_big {
    tab table;
    ord order;   /* of a sorted set */
    u32 expires; /* fields of a hash with an expiry */
} obj_big;

typedef struct obj_coll {
    seq_items small;
    obj_big *big; /* NULL: small */
} obj_coll;

typedef size_t (*obj_size_fn)(const void *item);

static void obj_big_free(const obj_env *e, obj_big *big, obj_size_fn size) {
    void *item;
    if (!big) return;
    for (u32 i = 0; (item = tab_next(&big->table, &i)) != NULL;) e->mem->free(e->mem->ctx, item, size(item));
    tab_free(e->mem, &big->table);
    ord_free(e->mem, &big->order);
    e->mem->free(e->mem->ctx, big, sizeof *big);
}

static void obj_coll_free(const obj_env *e, obj_coll *c, obj_size_fn size) {
    seq_free(e->mem, &c->small);
    obj_big_free(e, c->big, size);
    e->mem->free(e->mem->ctx, c, sizeof *c);
}

/* Make a small collection large: put adds what stands at a place of it, which moves behind. */
static int obj_grow(const obj_env *e, obj_coll *c, size_t name_off, obj_size_fn size,
                    int (*put)(const obj_env *e, obj_big *big, const seq_items *s, seq_at *at)) {
    obj_big *big = mem_new(e->mem, sizeof *big);
    if (!big) return RDBKIT_ERR_NOMEM;
    big->table.name_off = (u32)name_off;
    int st = 0;
    for (seq_at at = c->small.off; !st && at < c->small.end;) st = put(e, big, &c->small, &at);
    if (st) {
        obj_big_free(e, big, size);
        return st;
    }
    seq_free(e->mem, &c->small);
    c->big = big;
    return 0;
}

/* Add a new item, or free it. */
static int obj_table_add(const obj_env *e, tab *t, void *item, size_t size) {
    int st = item ? tab_add(e->mem, t, e->seed, item) : RDBKIT_ERR_NOMEM;
    if (st && item) e->mem->free(e->mem->ctx, item, size);
    return st;
}

/* ---- sets ---- */

typedef struct obj_member { /* of a set */
    u32 len;
    u8 name[];
} obj_member;

static size_t obj_member_size(const void *item) {
    return offsetof(obj_member, name) + ((const obj_member *)item)->len;
}

static void obj_set_free(const obj_env *e, obj_coll *set) { obj_coll_free(e, set, obj_member_size); }

static u64 obj_set_n(const obj_coll *set) { return set->big ? set->big->table.live : set->small.n; }

static int obj_set_has(const obj_env *e, const obj_coll *set, rdbkit_str member) {
    if (set->big) return tab_find(&set->big->table, e->seed, member) != TAB_NONE;
    return seq_find(&set->small, member, 1) != UINT32_MAX;
}

static int obj_set_add_big(const obj_env *e, obj_big *big, rdbkit_str member) {
    if (member.len > SEQ_LEN_MAX) return RDBKIT_ERR_NOMEM;
    const size_t size = offsetof(obj_member, name) + member.len;
    obj_member *m = e->mem->alloc(e->mem->ctx, size);
    if (m) m->len = (u32)member.len;
    if (m && member.len) memcpy(m->name, member.data, member.len);
    return obj_table_add(e, &big->table, m, size);
}

static int obj_set_grow_item(const obj_env *e, obj_big *big, const seq_items *s, seq_at *at) {
    return obj_set_add_big(e, big, seq_next(s, at));
}

static int obj_set_grow(const obj_env *e, obj_coll *set) {
    return obj_grow(e, set, offsetof(obj_member, name), obj_member_size, obj_set_grow_item);
}

/* 1: added, 0: it was there; or RDBKIT_ERR_NOMEM. */
static int obj_set_add(const obj_env *e, obj_coll *set, rdbkit_str member) {
    int st = 0;
    if (obj_set_has(e, set, member)) return 0;
    if (!set->big && (set->small.n >= OBJ_SET_N || member.len > OBJ_ITEM_LEN)) st = obj_set_grow(e, set);
    if (!st && set->big) st = obj_set_add_big(e, set->big, member);
    else if (!st) st = seq_insert(e->mem, &set->small, set->small.end, member);
    return st ? st : 1;
}

/* 1: removed, 0: it was not there. The member may lie in the set. */
static int obj_set_remove(const obj_env *e, obj_coll *set, rdbkit_str member) {
    if (set->big) {
        const u32 i = tab_find(&set->big->table, e->seed, member);
        if (i == TAB_NONE) return 0;
        void *item = set->big->table.item[i];
        tab_remove(&set->big->table, e->seed, i);
        e->mem->free(e->mem->ctx, item, obj_member_size(item));
        return 1;
    }
    seq_at at = seq_find(&set->small, member, 1), to = at;
    if (at == UINT32_MAX) return 0;
    (void)seq_next(&set->small, &to);
    (void)seq_remove(&set->small, at, to, 1);
    return 1;
}

/* A place in a collection: begin with OBJ_BEGIN. */
typedef u32 obj_iter;
#define OBJ_BEGIN UINT32_MAX

/* The next member: 1, or 0 at the end. */
static int obj_set_next(const obj_coll *set, obj_iter *it, rdbkit_str *member) {
    if (set->big) {
        u32 i = *it == OBJ_BEGIN ? 0 : *it;
        const void *item = tab_next(&set->big->table, &i);
        *it = i;
        if (item) *member = tab_name(&set->big->table, item);
        return item != NULL;
    }
    if (*it == OBJ_BEGIN) *it = set->small.off;
    if (*it >= set->small.end) return 0;
    *member = seq_next(&set->small, it);
    return 1;
}

/* ---- hashes ---- */

typedef struct obj_field {
    u32 len; /* of the name */
    u32 value_len;
    u32 cap;     /* of name and value together */
    u32 expires; /* 1: has an expiry */
    i64 expire_ms;
    u8 name[]; /* name, then value */
} obj_field;

static size_t obj_field_size(const void *item) {
    return offsetof(obj_field, name) + ((const obj_field *)item)->cap;
}

static void obj_hash_free(const obj_env *e, obj_coll *hash) { obj_coll_free(e, hash, obj_field_size); }

static u64 obj_hash_n(const obj_coll *hash) { return hash->big ? hash->big->table.live : hash->small.n / 2; }

static rdbkit_str obj_field_value(const obj_field *f) {
    return (rdbkit_str){(const char *)f->name + f->len, f->value_len};
}

static i64 obj_field_expiry(const obj_field *f) { return f->expires ? f->expire_ms : RDBKIT_NO_EXPIRY; }

static obj_field *obj_field_new(const obj_env *e, rdbkit_str name, rdbkit_str value) {
    if (name.len > SEQ_LEN_MAX || value.len > SEQ_LEN_MAX) return NULL;
    const size_t cap = name.len + value.len;
    obj_field *f = e->mem->alloc(e->mem->ctx, offsetof(obj_field, name) + cap);
    if (!f) return NULL;
    *f = (obj_field){.len = (u32)name.len,
                     .value_len = (u32)value.len,
                     .cap = (u32)cap,
                     .expires = 0,
                     .expire_ms = 0};
    if (name.len) memcpy(f->name, name.data, name.len);
    if (value.len) memcpy(f->name + name.len, value.data, value.len);
    return f;
}

static int obj_hash_grow_item(const obj_env *e, obj_big *big, const seq_items *s, seq_at *at) {
    const rdbkit_str field = seq_next(s, at), value = seq_next(s, at);
    obj_field *f = obj_field_new(e, field, value);
    return obj_table_add(e, &big->table, f, f ? obj_field_size(f) : 0);
}

static int obj_hash_grow(const obj_env *e, obj_coll *hash) {
    return obj_grow(e, hash, offsetof(obj_field, name), obj_field_size, obj_hash_grow_item);
}

/* The value and the expiry of a field: 1, or 0 if there is none. */
static int obj_hash_get(const obj_env *e, const obj_coll *hash, rdbkit_str field, rdbkit_str *value,
                        i64 *expire_ms) {
    *expire_ms = RDBKIT_NO_EXPIRY;
    if (hash->big) {
        const obj_field *f = tab_get(&hash->big->table, e->seed, field);
        if (!f) return 0;
        *value = obj_field_value(f);
        *expire_ms = obj_field_expiry(f);
        return 1;
    }
    seq_at at = seq_find(&hash->small, field, 2);
    if (at == UINT32_MAX) return 0;
    (void)seq_next(&hash->small, &at);
    *value = seq_next(&hash->small, &at);
    return 1;
}

/* Give a field that is there an expiry, or none (RDBKIT_NO_EXPIRY). 1, or 0 without such a field, or NOMEM. */
static int obj_hash_expire(const obj_env *e, obj_coll *hash, rdbkit_str field, i64 expire_ms) {
    const u32 expires = expire_ms != RDBKIT_NO_EXPIRY;
    if (!hash->big) {
        if (seq_find(&hash->small, field, 2) == UINT32_MAX) return 0;
        if (!expires) return 1;
        int st = obj_hash_grow(e, hash);
        if (st) return st;
    }
    obj_field *f = tab_get(&hash->big->table, e->seed, field);
    if (!f) return 0;
    hash->big->expires += expires - f->expires;
    f->expires = expires;
    f->expire_ms = expire_ms;
    return 1;
}

static int obj_hash_put_big(const obj_env *e, obj_big *big, rdbkit_str field, rdbkit_str value,
                            i64 expire_ms) {
    const u32 i = tab_find(&big->table, e->seed, field);
    obj_field *f = i == TAB_NONE ? NULL : big->table.item[i];
    int is_new = !f;
    if (f && value.len <= f->cap - f->len) {
        if (value.len) memmove(f->name + f->len, value.data, value.len);
        f->value_len = (u32)value.len;
    } else {
        obj_field *to = obj_field_new(e, field, value);
        if (!to) return RDBKIT_ERR_NOMEM;
        if (f) {
            to->expires = f->expires;
            big->table.item[i] = to;
            e->mem->free(e->mem->ctx, f, obj_field_size(f));
        } else {
            int st = obj_table_add(e, &big->table, to, obj_field_size(to));
            if (st) return st;
        }
        f = to;
    }
    const u32 expires = expire_ms != RDBKIT_NO_EXPIRY;
    big->expires += expires - f->expires;
    f->expires = expires;
    f->expire_ms = expire_ms;
    return is_new;
}

/* Set a field, its expiry too: 1 if it is new, 0 if not, or RDBKIT_ERR_NOMEM. */
static int obj_hash_put(const obj_env *e, obj_coll *hash, rdbkit_str field, rdbkit_str value, i64 expire_ms) {
    if (!hash->big) {
        seq_items *s = &hash->small;
        seq_at at = seq_find(s, field, 2);
        const int grow = field.len > OBJ_ITEM_LEN || value.len > OBJ_ITEM_LEN ||
                         expire_ms != RDBKIT_NO_EXPIRY || (at == UINT32_MAX && s->n >= 2 * OBJ_HASH_N);
        int st = grow ? obj_hash_grow(e, hash) : 0;
        if (st) return st;
        if (!grow && at != UINT32_MAX) {
            (void)seq_next(s, &at);
            seq_at to = at;
            const rdbkit_str old = seq_next(s, &to);
            if (old.len == value.len) {
                if (value.len) memcpy(s->data + (old.data - (const char *)s->data), value.data, value.len);
                return 0;
            }
            /* the gap first, so that a failure changes nothing */
            u8 *p = seq_gap(e->mem, s, at, seq_item_size(value.len));
            if (!p) return RDBKIT_ERR_NOMEM;
            seq_put_item(p, value);
            at = (seq_at)(p - s->data) + (seq_at)seq_item_size(value.len), to = at;
            s->n++;
            (void)seq_next(s, &to);
            (void)seq_remove(s, at, to, 1);
            return 0;
        }
        if (!grow) {
            st = seq_insert(e->mem, s, s->end, field);
            if (st) return st;
            st = seq_insert(e->mem, s, s->end, value);
            if (!st) return 1;
            at = s->end;
            (void)seq_prev(s, &at);
            (void)seq_remove(s, at, s->end, 1);
            return st;
        }
    }
    return obj_hash_put_big(e, hash->big, field, value, expire_ms);
}

/* 1: removed, 0: it was not there. The field may lie in the hash. */
static int obj_hash_remove(const obj_env *e, obj_coll *hash, rdbkit_str field) {
    if (hash->big) {
        const u32 i = tab_find(&hash->big->table, e->seed, field);
        if (i == TAB_NONE) return 0;
        obj_field *f = hash->big->table.item[i];
        hash->big->expires -= f->expires;
        tab_remove(&hash->big->table, e->seed, i);
        e->mem->free(e->mem->ctx, f, obj_field_size(f));
        return 1;
    }
    seq_at at = seq_find(&hash->small, field, 2), to = at;
    if (at == UINT32_MAX) return 0;
    (void)seq_next(&hash->small, &to);
    (void)seq_next(&hash->small, &to);
    (void)seq_remove(&hash->small, at, to, 2);
    return 1;
}

/* The next field: 1, or 0 at the end. */
static int obj_hash_next(const obj_coll *hash, obj_iter *it, rdbkit_str *field, rdbkit_str *value,
                         i64 *expire_ms) {
    *expire_ms = RDBKIT_NO_EXPIRY;
    if (hash->big) {
        u32 i = *it == OBJ_BEGIN ? 0 : *it;
        const obj_field *f = tab_next(&hash->big->table, &i);
        *it = i;
        if (!f) return 0;
        *field = tab_name(&hash->big->table, f);
        *value = obj_field_value(f);
        *expire_ms = obj_field_expiry(f);
        return 1;
    }
    if (*it == OBJ_BEGIN) *it = hash->small.off;
    if (*it >= hash->small.end) return 0;
    *field = seq_next(&hash->small, it);
    *value = seq_next(&hash->small, it);
    return 1;
}

static int obj_hash_expires(const obj_coll *hash) { return hash->big && hash->big->expires; }

/* ---- sorted sets ---- */

typedef struct obj_scored {
    u32 len;
    double score;
    u8 name[];
} obj_scored;

static size_t obj_scored_size(const void *item) {
    return offsetof(obj_scored, name) + ((const obj_scored *)item)->len;
}

static void obj_zset_free(const obj_env *e, obj_coll *z) { obj_coll_free(e, z, obj_scored_size); }

static u64 obj_zset_n(const obj_coll *z) { return z->big ? z->big->table.live : z->small.n; }

static int obj_bytes_cmp(rdbkit_str a, rdbkit_str b) {
    const size_t n = a.len < b.len ? a.len : b.len;
    const int c = n ? memcmp(a.data, b.data, n) : 0;
    return c ? c : a.len < b.len ? -1 : a.len > b.len;
}

static int obj_zset_order(double a_score, rdbkit_str a, double b_score, rdbkit_str b) {
    if (a_score < b_score) return -1;
    if (a_score > b_score) return 1;
    return obj_bytes_cmp(a, b);
}

static rdbkit_str obj_scored_name(const obj_scored *m) { return (rdbkit_str){(const char *)m->name, m->len}; }

static int obj_scored_cmp(const void *a, const void *b) {
    const obj_scored *x = a, *y = b;
    return obj_zset_order(x->score, obj_scored_name(x), y->score, obj_scored_name(y));
}

/* An item of a small sorted set: 8 bytes of score, then the name. */
static rdbkit_str obj_scored_of(rdbkit_str item, double *score) {
    *score = port_le_double((const u8 *)item.data);
    return (rdbkit_str){item.data + 8, item.len - 8};
}

static seq_at obj_zset_find(const seq_items *s, rdbkit_str member, double *score) {
    for (seq_at at = s->off; at < s->end;) {
        const seq_at here = at;
        if (seq_same(obj_scored_of(seq_next(s, &at), score), member)) return here;
    }
    return UINT32_MAX;
}

/* 1 with its score, or 0. */
static int obj_zset_score(const obj_env *e, const obj_coll *z, rdbkit_str member, double *score) {
    if (!z->big) return obj_zset_find(&z->small, member, score) != UINT32_MAX;
    const obj_scored *m = tab_get(&z->big->table, e->seed, member);
    if (m) *score = m->score;
    return m != NULL;
}

static int obj_zset_add_big(const obj_env *e, obj_big *big, rdbkit_str member, double score) {
    if (member.len > SEQ_LEN_MAX) return RDBKIT_ERR_NOMEM;
    const size_t size = offsetof(obj_scored, name) + member.len;
    obj_scored *m = e->mem->alloc(e->mem->ctx, size);
    if (!m) return RDBKIT_ERR_NOMEM;
    m->len = (u32)member.len, m->score = score;
    if (member.len) memcpy(m->name, member.data, member.len);
    int st = ord_insert(e->mem, &big->order, m, obj_scored_cmp);
    if (st) {
        e->mem->free(e->mem->ctx, m, size);
        return st;
    }
    st = tab_add(e->mem, &big->table, e->seed, m);
    if (st) {
        ord_at at = ord_seek(&big->order, m, obj_scored_cmp);
        ord_remove(e->mem, &big->order, &at);
        e->mem->free(e->mem->ctx, m, size);
    }
    return st;
}

static int obj_zset_grow_item(const obj_env *e, obj_big *big, const seq_items *s, seq_at *at) {
    double score;
    const rdbkit_str member = obj_scored_of(seq_next(s, at), &score);
    return obj_zset_add_big(e, big, member, score);
}

static int obj_zset_grow(const obj_env *e, obj_coll *z) {
    return obj_grow(e, z, offsetof(obj_scored, name), obj_scored_size, obj_zset_grow_item);
}

static int obj_zset_insert_small(const obj_env *e, seq_items *s, rdbkit_str member, double score) {
    seq_at at = s->end;
    while (at > s->off) { /* from the end: input is often sorted */
        seq_at before = at;
        double other;
        const rdbkit_str name = obj_scored_of(seq_prev(s, &before), &other);
        if (obj_zset_order(other, name, score, member) < 0) break;
        at = before;
    }
    u8 text[8 + OBJ_ITEM_LEN];
    u64 bits;
    memcpy(&bits, &score, 8);
    port_put_le64(text, bits);
    port_copy(text + 8, member.data, member.len);
    return seq_insert(e->mem, s, at, (rdbkit_str){(const char *)text, 8 + member.len});
}

static void obj_zset_drop_small(seq_items *s, seq_at at) {
    seq_at to = at;
    (void)seq_next(s, &to);
    (void)seq_remove(s, at, to, 1);
}

/* The score of a member that is there changes: its place in the order too. */
static int obj_zset_move(const obj_env *e, obj_big *big, obj_scored *m, double score) {
    ord_at at = ord_seek(&big->order, m, obj_scored_cmp);
    const double old = m->score;
    ord_remove(e->mem, &big->order, &at);
    m->score = score;
    int st = ord_insert(e->mem, &big->order, m, obj_scored_cmp);
    if (st) { /* one was just taken out: a block without room can be had again only by luck */
        m->score = old;
        tab_remove(&big->table, e->seed, tab_find(&big->table, e->seed, obj_scored_name(m)));
        e->mem->free(e->mem->ctx, m, obj_scored_size(m));
    }
    return st;
}

/* Set a member's score: 1 if it is new, 0 if not, or RDBKIT_ERR_NOMEM. */
static int obj_zset_put(const obj_env *e, obj_coll *z, rdbkit_str member, double score) {
    int st = 0;
    if (!z->big) {
        double old;
        seq_at at = obj_zset_find(&z->small, member, &old);
        if (at != UINT32_MAX) {
            if (old == score && signbit(old) == signbit(score)) return 0;
            obj_zset_drop_small(&z->small, at); /* leaves room: the next one cannot fail */
            return obj_zset_insert_small(e, &z->small, member, score);
        }
        if (z->small.n < OBJ_ZSET_N && member.len <= OBJ_ITEM_LEN)
            return (st = obj_zset_insert_small(e, &z->small, member, score)) ? st : 1;
        if ((st = obj_zset_grow(e, z)) != 0) return st;
    }
    obj_scored *m = tab_get(&z->big->table, e->seed, member);
    if (!m) return (st = obj_zset_add_big(e, z->big, member, score)) ? st : 1;
    if (m->score == score) m->score = score; /* -0 and 0 stand at the same place */
    else st = obj_zset_move(e, z->big, m, score);
    return st;
}

/* 1: removed, 0: it was not there. The member may lie in the set. */
static int obj_zset_remove(const obj_env *e, obj_coll *z, rdbkit_str member) {
    if (!z->big) {
        double score;
        seq_at at = obj_zset_find(&z->small, member, &score);
        if (at == UINT32_MAX) return 0;
        obj_zset_drop_small(&z->small, at);
        return 1;
    }
    const u32 i = tab_find(&z->big->table, e->seed, member);
    if (i == TAB_NONE) return 0;
    obj_scored *m = z->big->table.item[i];
    ord_at at = ord_seek(&z->big->order, m, obj_scored_cmp);
    ord_remove(e->mem, &z->big->order, &at);
    tab_remove(&z->big->table, e->seed, i);
    e->mem->free(e->mem->ctx, m, obj_scored_size(m));
    return 1;
}

/* Take out n members from a rank on; there are as many. */
static void obj_zset_remove_ranks(const obj_env *e, obj_coll *z, u64 rank, u64 n) {
    if (!z->big) {
        const seq_at from = seq_index(&z->small, (u32)rank), to = seq_index(&z->small, (u32)(rank + n));
        (void)seq_remove(&z->small, from, to, (u32)n);
        return;
    }
    ord_at at = ord_index(&z->big->order, rank);
    for (; n > 0; n--) {
        obj_scored *m = ord_item(&z->big->order, at);
        ord_remove(e->mem, &z->big->order, &at);
        tab_remove(&z->big->table, e->seed, tab_find(&z->big->table, e->seed, obj_scored_name(m)));
        e->mem->free(e->mem->ctx, m, obj_scored_size(m));
    }
}

/* A place in a sorted set. */
typedef struct obj_zset_at {
    seq_at small;
    ord_at big;
} obj_zset_at;

/* The place of a rank, 0 to n. */
static obj_zset_at obj_zset_index(const obj_coll *z, u64 rank) {
    obj_zset_at at = {0, {0, 0}};
    if (z->big) at.big = ord_index(&z->big->order, rank);
    else at.small = seq_index(&z->small, (u32)rank);
    return at;
}

/* The member at a place, which moves behind it: 1, or 0 at the end. */
static int obj_zset_next(const obj_coll *z, obj_zset_at *at, rdbkit_str *member, double *score) {
    if (!z->big) {
        if (at->small >= z->small.end) return 0;
        *member = obj_scored_of(seq_next(&z->small, &at->small), score);
        return 1;
    }
    const obj_scored *m = ord_item(&z->big->order, at->big);
    if (!m) return 0;
    at->big = ord_after(&z->big->order, at->big);
    *member = obj_scored_name(m);
    *score = m->score;
    return 1;
}

/* How many members have a score below this one, or up to it with or_equal. */
static u64 obj_zset_below(const obj_coll *z, double score, int or_equal) {
    if (!z->big) {
        u64 n = 0;
        for (seq_at at = z->small.off; at < z->small.end; n++) {
            double s;
            (void)obj_scored_of(seq_next(&z->small, &at), &s);
            if (or_equal ? s > score : s >= score) break;
        }
        return n;
    }
    /* no name is below the empty one; and none of this score above the least of the next score */
    if (or_equal && score == INFINITY) return z->big->order.n;
    obj_scored probe;
    probe.len = 0;
    probe.score = or_equal ? nextafter(score, INFINITY) : score;
    return ord_rank(&z->big->order, ord_seek(&z->big->order, &probe, obj_scored_cmp));
}

/* ==== [31] xs_ : streams in memory ====
 *
 * Entries lie packed in blocks, in the order of their IDs, as in a server's nodes:
 *
 *     block  = n_fields name*(n_fields) entry*   the names are those of the entry that began the block
 *     entry  = head ms seq ( value*(n_fields)                     with XS_SAME
 *                          | n_fields (name value)*(n_fields) )   without
 *     head   = bytes behind it << 2 | flags
 *     ms seq = differences from the block's base, modulo 2^64: an entry may be put before the base
 *     text   = length << 1, bytes | n << 1 | 1, n bytes of an integer, lowest first, sign in the lowest bit
 *
 * All numbers have 7 bits a byte, lowest first. A deleted entry stays, with a flag, until its block has no
 * other; blocks leave at the front without the others being moved. Groups, consumers and pending entries lie
 * sorted in leaves (xs_sorted). These bytes are our own: nothing here needs to be checked.
 *
 * Tests: tests/test_streams.c */

enum { XS_DELETED = 1, XS_SAME = 2 };

#define XS_BLOCK_N 100 /* entries, and about so many bytes: the servers' defaults */
#define XS_BLOCK_LEN 4096
#define XS_ENTRY_MAX 0x7ff00000u
#define XS_LEAF_LEN 4000
#define XS_NUM_MAX 10 /* bytes of a number */

static const rdbkit_stream_id xs_zero = {0, 0};

/* ---- numbers and texts ---- */

static u8 *xs_put_num(u8 *p, u64 v) {
    for (; v > 127; v >>= 7) *p++ = (u8)(v | 128);
    *p++ = (u8)v;
    return p;
}

PORT_INLINE u64 xs_num(const u8 **p) {
    u64 v = **p & 127;
    for (int shift = 7; *(*p)++ & 128; shift += 7) v |= (u64)(**p & 127) << shift;
    return v;
}

static int xs_put_text(const rdbkit_allocator *mem, mem_buf *b, rdbkit_str s) {
    i64 i;
    if (s.len > XS_ENTRY_MAX || mem_buf_room(mem, b, s.len + XS_NUM_MAX)) return RDBKIT_ERR_NOMEM;
    u8 *p = b->data + b->len;
    if (num_parse_i64(s.data, s.len, &i) == 0) {
        u64 z = (u64)i << 1 ^ (i < 0 ? UINT64_MAX : 0);
        u8 n = 0;
        for (; z; z >>= 8) p[1 + n++] = (u8)z;
        p[0] = (u8)(n << 1 | 1);
        p += 1 + n;
    } else {
        p = xs_put_num(p, (u64)s.len << 1);
        port_copy(p, s.data, s.len);
        p += s.len;
    }
    b->len = (size_t)(p - b->data);
    return 0;
}

/* The text at p, which moves behind it. An integer is put into room, of 24 bytes. */
static rdbkit_str xs_text(const u8 **p, u8 *room) {
    const u64 head = xs_num(p), n = head >> 1;
    rdbkit_str s = {(const char *)*p, (size_t)n};
    if (head & 1) {
        u64 z = 0;
        for (u64 i = 0; i < n; i++) z |= (u64)(*p)[i] << (8 * i);
        s.data = (const char *)room;
        s.len = (size_t)(num_i64(room, (i64)(z >> 1 ^ (0 - (z & 1)))) - room);
    }
    *p += n;
    return s;
}

PORT_INLINE void xs_skip_text(const u8 **p) {
    const u64 n = xs_num(p) >> 1;
    *p += n;
}

/* ---- arrays of pointers, cheap to shorten at the front ---- */

typedef struct xs_array {
    void **item;
    u32 off, n, cap; /* used: [off, off + n) */
} xs_array;

PORT_INLINE void *xs_array_at(const xs_array *a, u32 i) { return a->item[a->off + i]; }

static void xs_array_free(const rdbkit_allocator *mem, xs_array *a) {
    if (a->item) mem->free(mem->ctx, a->item, a->cap * sizeof *a->item);
    memset(a, 0, sizeof *a);
}

/* Room for one more behind the last: at the front, if that is a good part of all, or in more memory. */
static int xs_array_room(const rdbkit_allocator *mem, xs_array *a) {
    if (a->off + a->n < a->cap) return 0;
    if (a->off > a->cap / 2) {
        memmove(a->item, a->item + a->off, a->n * sizeof *a->item);
        a->off = 0;
        return 0;
    }
    if (a->cap > UINT32_MAX / 2) return RDBKIT_ERR_NOMEM;
    const u32 cap = a->cap ? a->cap * 2 : 1;
    void *p = a->item ? mem->realloc(mem->ctx, a->item, a->cap * sizeof *a->item, cap * sizeof *a->item)
                      : mem->alloc(mem->ctx, cap * sizeof *a->item);
    if (!p) return RDBKIT_ERR_NOMEM;
    a->item = p, a->cap = cap;
    return 0;
}

static int xs_array_insert(const rdbkit_allocator *mem, xs_array *a, u32 i, void *item) {
    if (i == 0 && a->off > 0) {
        a->off--;
    } else {
        if (xs_array_room(mem, a)) return RDBKIT_ERR_NOMEM;
        memmove(a->item + a->off + i + 1, a->item + a->off + i, (a->n - i) * sizeof *a->item);
    }
    a->item[a->off + i] = item;
    a->n++;
    return 0;
}

static void xs_array_remove(const rdbkit_allocator *mem, xs_array *a, u32 i) {
    a->n--;
    if (i == 0) a->off++;
    else memmove(a->item + a->off + i, a->item + a->off + i + 1, (a->n - i) * sizeof *a->item);
    if (a->n == 0) a->off = 0;
    if (a->cap < 64 || a->n >= a->cap / 8) return;
    memmove(a->item, a->item + a->off, a->n * sizeof *a->item);
    a->off = 0;
    void *p = mem->realloc(mem->ctx, a->item, a->cap * sizeof *a->item, a->cap / 4 * sizeof *a->item);
    if (p) a->item = p, a->cap /= 4;
}

/* ---- sorted items of one size ---- */

/* cmp: of what is looked for with an item. */
typedef struct xs_kind {
    u32 size; /* of an item: a multiple of 8 */
    int (*cmp)(const void *probe, const void *item);
} xs_kind;

typedef struct xs_leaf {
    u32 n, cap;
    u64 data[];
} xs_leaf;

typedef struct xs_sorted {
    xs_array leaves; /* none is empty */
    u64 n;
} xs_sorted;

typedef struct xs_place {
    u32 leaf, i;
} xs_place;

PORT_INLINE u32 xs_leaf_max(const xs_kind *k) { return XS_LEAF_LEN / k->size; }

PORT_INLINE void *xs_leaf_item(const xs_kind *k, xs_leaf *l, u32 i) {
    return l->data + (size_t)i * (k->size / 8);
}

static size_t xs_leaf_size(const xs_kind *k, u32 cap) {
    return offsetof(xs_leaf, data) + (size_t)cap * k->size;
}

static void xs_leaf_drop(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s, u32 at) {
    xs_leaf *l = xs_array_at(&s->leaves, at);
    mem->free(mem->ctx, l, xs_leaf_size(k, l->cap));
    xs_array_remove(mem, &s->leaves, at);
}

static void xs_sorted_free(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s) {
    while (s->leaves.n) xs_leaf_drop(mem, k, s, s->leaves.n - 1);
    xs_array_free(mem, &s->leaves);
    s->n = 0;
}

/* The item that the probe is equal to, or NULL; *at: its place, or the one where it belongs. */
static void *xs_sorted_find(const xs_kind *k, const xs_sorted *s, const void *probe, xs_place *at) {
    u32 lo = 0, hi = s->leaves.n; /* the leaf whose last item is not less */
    while (lo < hi) {
        const u32 mid = lo + (hi - lo) / 2;
        xs_leaf *l = xs_array_at(&s->leaves, mid);
        if (k->cmp(probe, xs_leaf_item(k, l, l->n - 1)) > 0) lo = mid + 1;
        else hi = mid;
    }
    *at = (xs_place){lo, 0};
    if (lo == s->leaves.n) {
        if (lo) at->leaf--, at->i = ((xs_leaf *)xs_array_at(&s->leaves, lo - 1))->n;
        return NULL;
    }
    xs_leaf *l = xs_array_at(&s->leaves, lo);
    for (lo = 0, hi = l->n; lo < hi;) {
        const u32 mid = lo + (hi - lo) / 2;
        if (k->cmp(probe, xs_leaf_item(k, l, mid)) > 0) lo = mid + 1;
        else hi = mid;
    }
    at->i = lo;
    void *item = xs_leaf_item(k, l, lo);
    return k->cmp(probe, item) == 0 ? item : NULL;
}

/* The item at a place, which moves behind it, or NULL at the end. Begin with {0, 0}. */
static void *xs_sorted_next(const xs_kind *k, const xs_sorted *s, xs_place *at) {
    while (at->leaf < s->leaves.n) {
        xs_leaf *l = xs_array_at(&s->leaves, at->leaf);
        if (at->i < l->n) return xs_leaf_item(k, l, at->i++);
        *at = (xs_place){at->leaf + 1, 0};
    }
    return NULL;
}

/* More room in a leaf, which moves. */
static xs_leaf *xs_leaf_grow(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s, u32 at, u32 cap) {
    xs_leaf *l = xs_array_at(&s->leaves, at);
    if (cap > xs_leaf_max(k)) cap = xs_leaf_max(k);
    l = mem->realloc(mem->ctx, l, xs_leaf_size(k, l->cap), xs_leaf_size(k, cap));
    if (!l) return NULL;
    l->cap = cap;
    s->leaves.item[s->leaves.off + at] = l;
    return l;
}

static xs_leaf *xs_leaf_new(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s, u32 at, u32 cap) {
    xs_leaf *l = mem->alloc(mem->ctx, xs_leaf_size(k, cap));
    if (!l) return NULL;
    l->n = 0, l->cap = cap;
    if (xs_array_insert(mem, &s->leaves, at, l) == 0) return l;
    mem->free(mem->ctx, l, xs_leaf_size(k, cap));
    return NULL;
}

/* A full leaf becomes two; where the item goes behind all others the new one is empty. */
static xs_leaf *xs_leaf_split(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s, xs_place *at) {
    xs_leaf *l = xs_array_at(&s->leaves, at->leaf);
    const u32 keep = at->leaf + 1 == s->leaves.n && at->i == l->n ? l->n : l->n / 2, more = l->n - keep;
    xs_leaf *next = xs_leaf_new(mem, k, s, at->leaf + 1, more ? l->cap : 2);
    if (!next) return NULL;
    if (more) memcpy(next->data, xs_leaf_item(k, l, keep), (size_t)more * k->size);
    next->n = more, l->n = keep;
    if (at->i < keep || (more && at->i == keep)) return l;
    *at = (xs_place){at->leaf + 1, at->i - keep};
    return next;
}

/* Make room for an item at its place: returns where, or NULL without memory. */
static void *xs_sorted_add(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s, xs_place at) {
    xs_leaf *l = s->leaves.n ? xs_array_at(&s->leaves, at.leaf) : xs_leaf_new(mem, k, s, 0, 1);
    if (l && l->n == xs_leaf_max(k)) l = xs_leaf_split(mem, k, s, &at);
    if (l && l->n == l->cap) l = xs_leaf_grow(mem, k, s, at.leaf, l->cap * 2);
    if (!l) return NULL;
    u8 *p = xs_leaf_item(k, l, at.i);
    memmove(p + k->size, p, (size_t)(l->n - at.i) * k->size);
    l->n++;
    s->n++;
    return p;
}

/* Take out the item at a place, which is that of the next one then (xs_sorted_next). */
static void xs_sorted_remove(const rdbkit_allocator *mem, const xs_kind *k, xs_sorted *s, xs_place at) {
    xs_leaf *l = xs_array_at(&s->leaves, at.leaf);
    u8 *p = xs_leaf_item(k, l, at.i);
    l->n--;
    s->n--;
    memmove(p, p + k->size, (size_t)(l->n - at.i) * k->size);
    if (l->n == 0) {
        xs_leaf_drop(mem, k, s, at.leaf);
        return;
    }
    if (at.leaf + 1 == s->leaves.n) return;
    const xs_leaf *next = xs_array_at(&s->leaves, at.leaf + 1);
    const u32 n = l->n + next->n;
    if (n > xs_leaf_max(k) / 2) return;
    if (n > l->cap && (l = xs_leaf_grow(mem, k, s, at.leaf, n)) == NULL) return;
    memcpy(xs_leaf_item(k, l, l->n), next->data, (size_t)next->n * k->size);
    l->n = n;
    xs_leaf_drop(mem, k, s, at.leaf + 1);
}

/* ---- types ---- */

typedef struct xs_block {
    rdbkit_stream_id base;
    u32 len, cap; /* of data */
    u32 entries;  /* where they begin in data */
    u32 first;    /* where the first one is that is not deleted */
    u16 n, live;  /* entries; live is never 0 */
    u8 data[];
} xs_block;

typedef struct xs_consumer {
    u32 len;
    i64 seen_ms, active_ms;
    u64 pending;
    struct xs_pending *list; /* while events are given out: its pending entries */
    u8 name[];
} xs_consumer;

typedef struct xs_pending {
    rdbkit_stream_id id;
    i64 delivery_ms;
    u64 delivery_count;
    xs_consumer *owner;
    struct xs_pending *next; /* of the owner's, as xs_consumer.list */
} xs_pending;

typedef struct xs_group {
    u32 len;
    rdbkit_stream_id last_id;
    i64 entries_read;
    xs_sorted pending;   /* of xs_pending */
    xs_sorted consumers; /* of xs_consumer * */
    u8 name[];
} xs_group;

/* An entry whose fields are still to come. */
typedef struct xs_entry_in {
    rdbkit_stream_id id;
    u64 fields, left;
    mem_buf text; /* (name value)* */
    int open;
} xs_entry_in;

typedef struct xs_stream {
    xs_array blocks;
    u64 length, entries_added;
    rdbkit_stream_id last_id, max_deleted;
    rdbkit_stream_id top; /* no entry of the blocks is above it */
    xs_sorted groups;     /* of xs_group * */
    xs_entry_in *in;      /* events come in: NULL but for the entries */
    xs_group *in_group;
    xs_consumer *in_consumer;
} xs_stream;

static int xs_pending_cmp(const void *probe, const void *item) {
    return strm_id_cmp(*(const rdbkit_stream_id *)probe, ((const xs_pending *)item)->id);
}

static int xs_group_cmp(const void *probe, const void *item) {
    const xs_group *g = *(xs_group *const *)item;
    return obj_bytes_cmp(*(const rdbkit_str *)probe, (rdbkit_str){(const char *)g->name, g->len});
}

static int xs_consumer_cmp(const void *probe, const void *item) {
    const xs_consumer *c = *(xs_consumer *const *)item;
    return obj_bytes_cmp(*(const rdbkit_str *)probe, (rdbkit_str){(const char *)c->name, c->len});
}

static const xs_kind xs_pendings = {sizeof(xs_pending), xs_pending_cmp};
static const xs_kind xs_groups = {sizeof(u64), xs_group_cmp};
static const xs_kind xs_consumers = {sizeof(u64), xs_consumer_cmp};
_Static_assert(sizeof(xs_pending) % 8 == 0 && sizeof(void *) <= 8,
               "items of xs_sorted are made of 8 byte words");

/* ---- groups, consumers, pending entries ---- */

static xs_group *xs_group_get(const xs_stream *s, rdbkit_str name) {
    xs_place at;
    xs_group **g = xs_sorted_find(&xs_groups, &s->groups, &name, &at);
    return g ? *g : NULL;
}

/* A new group, of a name that is not there. NULL without memory. */
static xs_group *xs_group_add(const obj_env *e, xs_stream *s, rdbkit_str name) {
    xs_place at;
    if (name.len > SEQ_LEN_MAX) return NULL;
    const size_t size = offsetof(xs_group, name) + name.len;
    xs_group *g = mem_new(e->mem, size);
    if (!g) return NULL;
    (void)xs_sorted_find(&xs_groups, &s->groups, &name, &at);
    xs_group **slot = xs_sorted_add(e->mem, &xs_groups, &s->groups, at);
    if (!slot) {
        e->mem->free(e->mem->ctx, g, size);
        return NULL;
    }
    *slot = g;
    g->len = (u32)name.len;
    g->entries_read = RDBKIT_ENTRIES_READ_UNKNOWN;
    port_copy(g->name, name.data, name.len);
    return g;
}

static void xs_consumer_free(const obj_env *e, xs_consumer *c) {
    e->mem->free(e->mem->ctx, c, offsetof(xs_consumer, name) + c->len);
}

static void xs_group_free(const obj_env *e, xs_group *g) {
    xs_consumer **c;
    for (xs_place at = {0, 0}; (c = xs_sorted_next(&xs_consumers, &g->consumers, &at)) != NULL;)
        xs_consumer_free(e, *c);
    xs_sorted_free(e->mem, &xs_consumers, &g->consumers);
    xs_sorted_free(e->mem, &xs_pendings, &g->pending);
    e->mem->free(e->mem->ctx, g, offsetof(xs_group, name) + g->len);
}

/* 1: dropped, 0: there is none. */
static int xs_group_drop(const obj_env *e, xs_stream *s, rdbkit_str name) {
    xs_place at;
    xs_group **g = xs_sorted_find(&xs_groups, &s->groups, &name, &at);
    if (!g) return 0;
    xs_group_free(e, *g);
    xs_sorted_remove(e->mem, &xs_groups, &s->groups, at);
    return 1;
}

/* The consumer of that name, or a new one that was never seen nor active. NULL without memory. */
static xs_consumer *xs_consumer_make(const obj_env *e, xs_group *g, rdbkit_str name) {
    xs_place at;
    xs_consumer **slot = xs_sorted_find(&xs_consumers, &g->consumers, &name, &at);
    if (slot) return *slot;
    if (name.len > SEQ_LEN_MAX) return NULL;
    const size_t size = offsetof(xs_consumer, name) + name.len;
    xs_consumer *c = mem_new(e->mem, size);
    slot = c ? xs_sorted_add(e->mem, &xs_consumers, &g->consumers, at) : NULL;
    if (!slot) {
        if (c) e->mem->free(e->mem->ctx, c, size);
        return NULL;
    }
    *slot = c;
    c->len = (u32)name.len;
    c->active_ms = -1;
    port_copy(c->name, name.data, name.len);
    return c;
}

/* Drop a consumer and what it has pending. 1, or 0 if there is none. */
static int xs_consumer_drop(const obj_env *e, xs_group *g, rdbkit_str name) {
    xs_place at;
    xs_consumer **slot = xs_sorted_find(&xs_consumers, &g->consumers, &name, &at);
    if (!slot) return 0;
    xs_consumer *c = *slot;
    xs_sorted_remove(e->mem, &xs_consumers, &g->consumers, at);
    xs_pending *p;
    at = (xs_place){0, 0};
    while (c->pending && (p = xs_sorted_next(&xs_pendings, &g->pending, &at)) != NULL) {
        if (p->owner != c) continue;
        at.i--;
        xs_sorted_remove(e->mem, &xs_pendings, &g->pending, at);
        c->pending--;
    }
    xs_consumer_free(e, c);
    return 1;
}

static xs_pending *xs_pending_get(const xs_group *g, rdbkit_stream_id id) {
    xs_place at;
    return xs_sorted_find(&xs_pendings, &g->pending, &id, &at);
}

static void xs_pending_give(xs_pending *p, xs_consumer *owner) {
    p->owner->pending--;
    owner->pending++;
    p->owner = owner;
}

/* An ID that is not pending becomes so. NULL without memory. */
static xs_pending *xs_pending_add(const obj_env *e, xs_group *g, rdbkit_stream_id id, xs_consumer *owner) {
    xs_place at;
    (void)xs_sorted_find(&xs_pendings, &g->pending, &id, &at);
    xs_pending *p = xs_sorted_add(e->mem, &xs_pendings, &g->pending, at);
    if (!p) return NULL;
    *p = (xs_pending){.id = id, .delivery_ms = 0, .delivery_count = 1, .owner = owner, .next = NULL};
    owner->pending++;
    return p;
}

/* 1: no longer pending, 0: it was not. */
static int xs_ack(const obj_env *e, xs_group *g, rdbkit_stream_id id) {
    xs_place at;
    xs_pending *p = xs_sorted_find(&xs_pendings, &g->pending, &id, &at);
    if (!p) return 0;
    p->owner->pending--;
    xs_sorted_remove(e->mem, &xs_pendings, &g->pending, at);
    return 1;
}

/* An ID is pending in no group any more. */
static void xs_ack_all(const obj_env *e, const xs_stream *s, rdbkit_stream_id id) {
    xs_group **g;
    for (xs_place at = {0, 0}; (g = xs_sorted_next(&xs_groups, &s->groups, &at)) != NULL;)
        (void)xs_ack(e, *g, id);
}

/* Whether a group has an ID pending, or has yet to read it. */
static int xs_referenced(const xs_stream *s, rdbkit_stream_id id) {
    xs_group **g;
    for (xs_place at = {0, 0}; (g = xs_sorted_next(&xs_groups, &s->groups, &at)) != NULL;)
        if (strm_id_cmp((*g)->last_id, id) < 0 || xs_pending_get(*g, id)) return 1;
    return 0;
}

/* ---- entries ---- */

typedef struct xs_entry {
    rdbkit_stream_id id;
    u32 flags;
    u32 next;       /* where the entry behind it is in the block */
    const u8 *body; /* behind the ID */
} xs_entry;

/* A place of an entry. */
typedef struct xs_at {
    u32 block, off;
} xs_at;

PORT_INLINE xs_block *xs_block_at(const xs_stream *s, u32 i) { return xs_array_at(&s->blocks, i); }

static size_t xs_block_size(u32 cap) { return offsetof(xs_block, data) + cap; }

PORT_INLINE xs_entry xs_entry_at(const xs_block *b, u32 off) {
    xs_entry en;
    const u8 *p = b->data + off;
    const u64 head = xs_num(&p);
    en.flags = (u32)(head & 3);
    en.next = (u32)((u64)(p - b->data) + (head >> 2));
    en.id.ms = b->base.ms + xs_num(&p);
    en.id.seq = b->base.seq + xs_num(&p);
    en.body = p;
    return en;
}

/* The block that an ID belongs to: the last one whose first entry is not above it, or the first. */
static u32 xs_find_block(const xs_stream *s, rdbkit_stream_id id) {
    u32 lo = 1, hi = s->blocks.n;
    while (lo < hi) {
        const u32 mid = lo + (hi - lo) / 2;
        const xs_block *b = xs_block_at(s, mid);
        if (strm_id_cmp(xs_entry_at(b, b->entries).id, id) <= 0) lo = mid + 1;
        else hi = mid;
    }
    return lo - 1;
}

/* The first live entry that is not below an ID: 1, or 0 if there is none. */
static int xs_seek(const xs_stream *s, rdbkit_stream_id id, xs_at *at, xs_entry *en) {
    if (!s->blocks.n || strm_id_cmp(id, s->top) > 0) return 0;
    for (at->block = xs_find_block(s, id); at->block < s->blocks.n; at->block++) {
        const xs_block *b = xs_block_at(s, at->block);
        for (at->off = b->first; at->off < b->len; at->off = en->next) {
            *en = xs_entry_at(b, at->off);
            if (!(en->flags & XS_DELETED) && strm_id_cmp(en->id, id) >= 0) return 1;
        }
    }
    return 0;
}

static int xs_has(const xs_stream *s, rdbkit_stream_id id) {
    xs_at at;
    xs_entry en;
    return xs_seek(s, id, &at, &en) && strm_id_cmp(en.id, id) == 0;
}

/* The first live entry, or 0-0. */
static rdbkit_stream_id xs_first_id(const xs_stream *s) {
    if (!s->blocks.n) return xs_zero;
    const xs_block *b = xs_block_at(s, 0);
    return xs_entry_at(b, b->first).id;
}

/* The last live entry, or 0-0. */
static rdbkit_stream_id xs_newest_id(const xs_stream *s) {
    rdbkit_stream_id id = xs_zero;
    const xs_block *b = s->blocks.n ? xs_block_at(s, s->blocks.n - 1) : NULL;
    for (u32 off = b ? b->first : 0; b && off < b->len;) {
        const xs_entry en = xs_entry_at(b, off);
        if (!(en.flags & XS_DELETED)) id = en.id;
        off = en.next;
    }
    return id;
}

static void xs_drop_block(const obj_env *e, xs_stream *s, u32 i) {
    xs_block *b = xs_block_at(s, i);
    s->length -= b->live;
    e->mem->free(e->mem->ctx, b, xs_block_size(b->cap));
    xs_array_remove(e->mem, &s->blocks, i);
    if (!s->blocks.n) s->top = xs_zero;
}

/* A live entry becomes a deleted one. */
static void xs_delete_at(const obj_env *e, xs_stream *s, xs_at at) {
    xs_block *b = xs_block_at(s, at.block);
    if (b->live == 1) {
        xs_drop_block(e, s, at.block);
        return;
    }
    b->data[at.off] |= XS_DELETED;
    b->live--;
    s->length--;
    while (xs_entry_at(b, b->first).flags & XS_DELETED) b->first = xs_entry_at(b, b->first).next;
}

/* 1: deleted, 0: there is none. */
static int xs_delete(const obj_env *e, xs_stream *s, rdbkit_stream_id id) {
    xs_at at;
    xs_entry en;
    if (!xs_seek(s, id, &at, &en) || strm_id_cmp(en.id, id) != 0) return 0;
    xs_delete_at(e, s, at);
    return 1;
}

static void xs_trim_length(const obj_env *e, xs_stream *s, u64 length) {
    while (s->length > length) {
        const xs_block *b = xs_block_at(s, 0);
        if (s->length - b->live >= length) xs_drop_block(e, s, 0);
        else xs_delete_at(e, s, (xs_at){0, b->first});
    }
}

/* Drop all entries below an ID. */
static void xs_trim_id(const obj_env *e, xs_stream *s, rdbkit_stream_id id) {
    while (s->blocks.n) {
        const xs_block *b = xs_block_at(s, 0), *next = s->blocks.n > 1 ? xs_block_at(s, 1) : NULL;
        if (next && strm_id_cmp(xs_entry_at(next, next->entries).id, id) <= 0) xs_drop_block(e, s, 0);
        else if (strm_id_cmp(xs_entry_at(b, b->first).id, id) < 0) xs_delete_at(e, s, (xs_at){0, b->first});
        else return;
    }
}

/* Whether fields have the names of a block. */
static int xs_same_names(const xs_block *b, const u8 *text, u64 fields) {
    const u8 *p = b->data;
    if (xs_num(&p) != fields) return 0;
    for (; fields > 0; fields--) {
        const u8 *name = p, *other = text;
        xs_skip_text(&p), xs_skip_text(&text);
        const size_t len = (size_t)(p - name);
        if ((size_t)(text - other) != len || memcmp(name, other, len) != 0) return 0;
        xs_skip_text(&text);
    }
    return 1;
}

/* Put what names or values text has behind p. */
static u8 *xs_put_half(u8 *p, const u8 *text, u64 fields, int names) {
    for (; fields > 0; fields--) {
        const u8 *name = text;
        xs_skip_text(&text);
        const u8 *value = text;
        xs_skip_text(&text);
        const u8 *from = names ? name : value;
        const size_t len = (size_t)((names ? value : text) - from);
        port_copy(p, from, len);
        p += len;
    }
    return p;
}

/* A block without an entry, whose names and base are those of an entry to come. */
static xs_block *xs_block_new(const obj_env *e, rdbkit_stream_id base, const mem_buf *text, u64 fields) {
    const u64 cap = text->len + 5 * (u64)XS_NUM_MAX;
    if (cap > XS_ENTRY_MAX) return NULL;
    xs_block *b = e->mem->alloc(e->mem->ctx, xs_block_size((u32)cap));
    if (!b) return NULL;
    memset(b, 0, offsetof(xs_block, data));
    b->base = base;
    b->cap = (u32)cap;
    u8 *p = xs_put_half(xs_put_num(b->data, fields), text->data, fields, 1);
    b->len = b->entries = b->first = (u32)(p - b->data);
    return b;
}

/* Give a block this capacity; it moves. */
static xs_block *xs_block_resize(const obj_env *e, xs_stream *s, u32 i, u64 cap) {
    xs_block *b = xs_block_at(s, i);
    if (cap > XS_ENTRY_MAX) return NULL;
    b = e->mem->realloc(e->mem->ctx, b, xs_block_size(b->cap), xs_block_size((u32)cap));
    if (!b) return NULL;
    b->cap = (u32)cap;
    s->blocks.item[s->blocks.off + i] = b;
    return b;
}

/* Put an entry at a place in a block. 0 or RDBKIT_ERR_NOMEM. */
static int xs_put_entry(const obj_env *e, xs_stream *s, xs_at at, rdbkit_stream_id id, const mem_buf *text,
                        u64 fields) {
    xs_block *b = xs_block_at(s, at.block);
    const int same = xs_same_names(b, text->data, fields);
    u8 head[4 * XS_NUM_MAX], mid[3 * XS_NUM_MAX];
    u8 *p = xs_put_num(xs_put_num(mid, id.ms - b->base.ms), id.seq - b->base.seq);
    if (!same) p = xs_put_num(p, fields);
    const size_t mid_len = (size_t)(p - mid);
    u64 body = text->len;
    if (same) body -= b->entries - seq_len_size(fields); /* less the names */
    p = xs_put_num(head, (mid_len + body) << 2 | (same ? XS_SAME : 0));
    memcpy(p, mid, mid_len);
    const size_t head_len = (size_t)(p - head) + mid_len;
    const u64 size = head_len + body, need = b->len + size;
    if (need > b->cap) {
        const u64 twice = need < XS_BLOCK_LEN / 2 ? 2 * need : need < XS_BLOCK_LEN ? XS_BLOCK_LEN : need;
        b = xs_block_resize(e, s, at.block, twice);
        if (!b) return RDBKIT_ERR_NOMEM;
    }
    p = b->data + at.off;
    memmove(p + size, p, b->len - at.off);
    memcpy(p, head, head_len);
    if (same) (void)xs_put_half(p + head_len, text->data, fields, 0);
    else port_copy(p + head_len, text->data, text->len);
    if (at.off <= b->first) b->first = at.off;
    b->len = (u32)need;
    b->n++, b->live++;
    s->length++;
    return 0;
}

/* A new block for an entry, and the entry. */
static int xs_put_block(const obj_env *e, xs_stream *s, u32 i, rdbkit_stream_id id, const mem_buf *text,
                        u64 fields) {
    xs_block *b = xs_block_new(e, id, text, fields);
    if (!b) return RDBKIT_ERR_NOMEM;
    int st = xs_array_insert(e->mem, &s->blocks, i, b);
    if (st) {
        e->mem->free(e->mem->ctx, b, xs_block_size(b->cap));
        return st;
    }
    st = xs_put_entry(e, s, (xs_at){i, b->len}, id, text, fields);
    if (st) xs_drop_block(e, s, i);
    return st;
}

static int xs_block_full(const xs_block *b, size_t more) {
    return b->n >= XS_BLOCK_N || (u64)b->len + more + 3 > XS_BLOCK_LEN;
}

/* Halve a block of more than one live entry. 0 or RDBKIT_ERR_NOMEM. */
static int xs_split(const obj_env *e, xs_stream *s, u32 i) {
    xs_block *b = xs_block_at(s, i);
    u32 cut = b->first, n = 0;
    for (; n < b->live / 2u; n++) /* so many live ones stay */
        do cut = xs_entry_at(b, cut).next;
        while (xs_entry_at(b, cut).flags & XS_DELETED);
    const u32 more = b->len - cut;
    xs_block *next = e->mem->alloc(e->mem->ctx, xs_block_size(b->entries + more));
    if (!next) return RDBKIT_ERR_NOMEM;
    *next = *b;
    next->cap = next->len = b->entries + more;
    next->first = b->entries;
    memcpy(next->data, b->data, b->entries);
    memcpy(next->data + b->entries, b->data + cut, more);
    if (xs_array_insert(e->mem, &s->blocks, i + 1, next)) {
        e->mem->free(e->mem->ctx, next, xs_block_size(next->cap));
        return RDBKIT_ERR_NOMEM;
    }
    next->live = (u16)(b->live - n);
    b->live = (u16)n;
    b->len = cut;
    u16 all = 0;
    for (u32 off = b->entries; off < b->len; all++) off = xs_entry_at(b, off).next;
    next->n = (u16)(b->n - all);
    b->n = all;
    return 0;
}

/* An entry that is not above all others: of a damaged file, or after an XSETID below what was deleted. One
 * that is there twice is left out. */
static int xs_insert(const obj_env *e, xs_stream *s, rdbkit_stream_id id, const mem_buf *text, u64 fields) {
    if (xs_has(s, id)) return 0;
    u32 i = xs_find_block(s, id);
    xs_block *b = xs_block_at(s, i);
    if (xs_block_full(b, text->len) && b->live > 1) {
        int st = xs_split(e, s, i);
        if (st) return st;
        i = xs_find_block(s, id);
        b = xs_block_at(s, i);
    }
    u32 off = b->entries;
    while (off < b->len && strm_id_cmp(xs_entry_at(b, off).id, id) < 0) off = xs_entry_at(b, off).next;
    if (xs_block_full(b, text->len) && (off == b->entries || off == b->len))
        return xs_put_block(e, s, i + (off == b->len), id, text, fields);
    return xs_put_entry(e, s, (xs_at){i, off}, id, text, fields);
}

/* Add an entry; text: its fields, (name value)* by xs_put_text(). 0 or RDBKIT_ERR_NOMEM. */
static int xs_add(const obj_env *e, xs_stream *s, rdbkit_stream_id id, const mem_buf *text, u64 fields) {
    const u32 n = s->blocks.n;
    if (n && strm_id_cmp(id, s->top) <= 0) return xs_insert(e, s, id, text, fields);
    xs_block *b = n ? xs_block_at(s, n - 1) : NULL;
    int st;
    if (b && !xs_block_full(b, text->len)) {
        st = xs_put_entry(e, s, (xs_at){n - 1, b->len}, id, text, fields);
    } else {
        if (b && b->cap > b->len) (void)xs_block_resize(e, s, n - 1, b->len);
        st = xs_put_block(e, s, n, id, text, fields);
    }
    if (!st) s->top = id;
    return st;
}

/* ---- events in ---- */

static xs_stream *xs_new(const obj_env *e) { return mem_new(e->mem, sizeof(xs_stream)); }

static void xs_in_free(const obj_env *e, xs_stream *s) {
    if (!s->in) return;
    mem_buf_free(e->mem, &s->in->text);
    e->mem->free(e->mem->ctx, s->in, sizeof *s->in);
    s->in = NULL;
}

static void xs_free(const obj_env *e, xs_stream *s) {
    xs_group **g;
    if (!s) return;
    while (s->blocks.n) xs_drop_block(e, s, s->blocks.n - 1);
    xs_array_free(e->mem, &s->blocks);
    for (xs_place at = {0, 0}; (g = xs_sorted_next(&xs_groups, &s->groups, &at)) != NULL;)
        xs_group_free(e, *g);
    xs_sorted_free(e->mem, &xs_groups, &s->groups);
    xs_in_free(e, s);
    e->mem->free(e->mem->ctx, s, sizeof *s);
}

/* The entry at hand is complete. */
static int xs_in_end(const obj_env *e, xs_stream *s) {
    xs_entry_in *in = s->in;
    if (!in || !in->open) return 0;
    in->open = 0;
    return xs_add(e, s, in->id, &in->text, in->fields - in->left);
}

static int xs_on_entry(const obj_env *e, xs_stream *s, rdbkit_stream_id id, u64 fields) {
    int st = xs_in_end(e, s);
    if (st) return st;
    if (!s->in) s->in = mem_new(e->mem, sizeof *s->in);
    if (!s->in || mem_buf_room(e->mem, &s->in->text, 1)) return RDBKIT_ERR_NOMEM;
    s->in->id = id;
    s->in->fields = s->in->left = fields;
    s->in->text.len = 0;
    s->in->open = 1;
    return fields ? 0 : xs_in_end(e, s);
}

static int xs_on_field(const obj_env *e, xs_stream *s, rdbkit_str field, rdbkit_str value) {
    xs_entry_in *in = s->in;
    if (!in || !in->open) return 0;
    int st = xs_put_text(e->mem, &in->text, field);
    if (!st) st = xs_put_text(e->mem, &in->text, value);
    if (!st && --in->left == 0) st = xs_in_end(e, s);
    return st;
}

static int xs_on_info(const obj_env *e, xs_stream *s, const rdbkit_stream_info *info) {
    int st = xs_in_end(e, s);
    xs_in_free(e, s);
    s->last_id = info->last_id;
    s->max_deleted = info->max_deleted;
    s->entries_added = info->entries_added;
    return st;
}

static int xs_on_group(const obj_env *e, xs_stream *s, const rdbkit_stream_group *group) {
    s->in_consumer = NULL;
    s->in_group = xs_group_get(s, group->name);
    if (!s->in_group) s->in_group = xs_group_add(e, s, group->name);
    if (!s->in_group) return RDBKIT_ERR_NOMEM;
    s->in_group->last_id = group->last_id;
    s->in_group->entries_read = group->entries_read;
    return 0;
}

static int xs_on_consumer(const obj_env *e, xs_stream *s, const rdbkit_stream_consumer *consumer) {
    if (!s->in_group) return 0;
    s->in_consumer = xs_consumer_make(e, s->in_group, consumer->name);
    if (!s->in_consumer) return RDBKIT_ERR_NOMEM;
    s->in_consumer->seen_ms = consumer->seen_ms;
    s->in_consumer->active_ms = consumer->active_ms;
    return 0;
}

static int xs_on_pending(const obj_env *e, xs_stream *s, const rdbkit_stream_pending *pending) {
    if (!s->in_consumer) return 0;
    xs_pending *p = xs_pending_get(s->in_group, pending->id);
    if (p) xs_pending_give(p, s->in_consumer); /* with two owners, which only a damaged file has */
    else p = xs_pending_add(e, s->in_group, pending->id, s->in_consumer);
    if (!p) return RDBKIT_ERR_NOMEM;
    p->delivery_ms = pending->delivery_ms;
    p->delivery_count = pending->delivery_count;
    return 0;
}

/* ---- events out ---- */

static int xs_emit_entry(const xs_block *b, const xs_entry *en, const rdbkit_visitor *v) {
    const u8 *names = b->data, *p = en->body;
    u8 room[2][24];
    u64 fields = xs_num(&names);
    const int same = (en->flags & XS_SAME) != 0;
    if (!same) fields = xs_num(&p);
    int st = v->stream_entry ? v->stream_entry(v->user, en->id, fields) : 0;
    for (; st >= 0 && fields > 0 && v->stream_field; fields--) {
        const rdbkit_str field = xs_text(same ? &names : &p, room[0]), value = xs_text(&p, room[1]);
        st = v->stream_field(v->user, field, value);
    }
    return st;
}

static int xs_emit_entries(const xs_stream *s, const rdbkit_visitor *v) {
    int st = 0;
    if (!v->stream_entry && !v->stream_field) return 0;
    for (u32 i = 0; i < s->blocks.n && st >= 0; i++) {
        const xs_block *b = xs_block_at(s, i);
        for (u32 off = b->first; off < b->len && st >= 0;) {
            const xs_entry en = xs_entry_at(b, off);
            if (!(en.flags & XS_DELETED)) st = xs_emit_entry(b, &en, v);
            off = en.next;
        }
    }
    return st;
}

static int xs_emit_info(const xs_stream *s, int has_counters, const rdbkit_visitor *v) {
    rdbkit_stream_info info;
    if (!v->stream_info) return 0;
    memset(&info, 0, sizeof info);
    info.length = s->length;
    info.last_id = s->last_id;
    info.first_id = xs_first_id(s);
    info.max_deleted = s->max_deleted;
    info.entries_added = s->entries_added;
    info.groups = s->groups.n;
    info.has_counters = has_counters;
    return v->stream_info(v->user, &info);
}

/* Hang each pending entry of a group into its owner's list, in order. */
static void xs_list_pending(const xs_group *g) {
    xs_consumer **c;
    for (xs_place at = {0, 0}; (c = xs_sorted_next(&xs_consumers, &g->consumers, &at)) != NULL;)
        (*c)->list = NULL;
    for (u32 i = g->pending.leaves.n; i-- > 0;) {
        xs_leaf *l = xs_array_at(&g->pending.leaves, i);
        for (u32 j = l->n; j-- > 0;) {
            xs_pending *p = xs_leaf_item(&xs_pendings, l, j);
            p->next = p->owner->list;
            p->owner->list = p;
        }
    }
}

static int xs_emit_consumer(const xs_consumer *c, const rdbkit_visitor *v) {
    const rdbkit_stream_consumer consumer = {{(const char *)c->name, c->len},
                                             c->seen_ms,
                                             c->active_ms,
                                             c->pending};
    int st = v->stream_consumer ? v->stream_consumer(v->user, &consumer) : 0;
    for (const xs_pending *p = c->list; p && st >= 0 && v->stream_pending; p = p->next) {
        const rdbkit_stream_pending pending = {p->id, p->delivery_ms, p->delivery_count};
        st = v->stream_pending(v->user, &pending);
    }
    return st;
}

static int xs_emit_group(const xs_group *g, const rdbkit_visitor *v) {
    const rdbkit_stream_group group = {{(const char *)g->name, g->len},
                                       g->last_id,
                                       g->entries_read,
                                       g->pending.n,
                                       g->consumers.n};
    int st = v->stream_group ? v->stream_group(v->user, &group) : 0;
    xs_consumer **c;
    if (v->stream_pending) xs_list_pending(g);
    for (xs_place at = {0, 0}; st >= 0 && (c = xs_sorted_next(&xs_consumers, &g->consumers, &at)) != NULL;)
        st = xs_emit_consumer(*c, v);
    return st;
}

/* All events of the value, groups and consumers sorted by name. has_counters: as that of rdbkit_stream_info.
 * 0, or the negative answer of a callback. */
static int xs_emit(const xs_stream *s, int has_counters, const rdbkit_visitor *v) {
    xs_group **g;
    int st = xs_emit_entries(s, v);
    if (st >= 0) st = xs_emit_info(s, has_counters, v);
    for (xs_place at = {0, 0}; st >= 0 && (g = xs_sorted_next(&xs_groups, &s->groups, &at)) != NULL;)
        st = xs_emit_group(*g, v);
    return st < 0 ? st : 0;
}

/* ==== [32] ks_ : the keyspace in memory ====
 *
 * Databases of keys, and the function libraries. Events come in (an image at the beginning of a file, a payload of
 * RESTORE), events go out: a keyspace is a source like any reader. Commands (cmd_) work on it through the functions
 * here. Nothing expires: there is no clock.
 *
 * A value that came as RDB bytes stays so, checked but frozen, until a command wants to look inside; one that nobody
 * touched goes out as the bytes that came in. Tests: tests/test_keyspace.c, tests/aof_test.py, fuzz/fuzz_replay.c */

/* ---- memory: counted, and small pieces without the cost of an allocator's own head ---- */

#define KS_SMALL 512 /* bytes up to which a piece comes from a chunk */
#define KS_CHUNK 65536

#if defined(__SANITIZE_ADDRESS__) || defined(FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION)
#define KS_CHUNKS 0 /* so that the sanitizer sees each piece */
#else
#define KS_CHUNKS 1
#endif

typedef struct ks_chunk {
    struct ks_chunk *next;
} ks_chunk;

typedef struct ks_memory {
    rdbkit_allocator inner;
    u64 used, peak, limit; /* bytes asked of inner; limit 0: none */
    int over;              /* the limit made an allocation fail */
    ks_chunk *chunks;
    u8 *fresh, *fresh_end;        /* the room left in the first chunk */
    void *free[KS_SMALL / 8 + 1]; /* by size in units of 8 bytes: each begins with the address of the next */
} ks_memory;

static int ks_memory_take(ks_memory *m, u64 more) {
    if (m->limit && m->used + more > m->limit) {
        m->over = 1;
        return 0;
    }
    m->used += more;
    if (m->used > m->peak) m->peak = m->used;
    return 1;
}

static void *ks_memory_large(ks_memory *m, size_t size) {
    if (!ks_memory_take(m, size)) return NULL;
    void *p = m->inner.alloc(m->inner.ctx, size);
    if (!p) m->used -= size;
    return p;
}

static int ks_memory_is_small(size_t size) { return KS_CHUNKS && size <= KS_SMALL; }

/* A piece of so many units of 8 bytes. What is left of the chunk before goes to the free pieces. */
static PORT_NOINLINE void *ks_memory_refill(ks_memory *m, size_t units) {
    ks_chunk *c = ks_memory_large(m, KS_CHUNK);
    if (!c) return NULL;
    const size_t left = (size_t)(m->fresh_end - m->fresh) / 8;
    if (left) {
        memcpy(m->fresh, &m->free[left], sizeof m->free[left]);
        m->free[left] = m->fresh;
    }
    c->next = m->chunks;
    m->chunks = c;
    m->fresh = (u8 *)c + (sizeof *c + 7) / 8 * 8 + units * 8;
    m->fresh_end = (u8 *)c + KS_CHUNK;
    return m->fresh - units * 8;
}

static void *ks_memory_alloc(void *ctx, size_t size) {
    ks_memory *m = ctx;
    if (!ks_memory_is_small(size)) return ks_memory_large(m, size);
    const size_t units = size ? (size + 7) / 8 : 1;
    void *p = m->free[units];
    if (p) {
        memcpy(&m->free[units], p, sizeof m->free[units]);
    } else if ((size_t)(m->fresh_end - m->fresh) >= units * 8) {
        p = m->fresh;
        m->fresh += units * 8;
    } else {
        p = ks_memory_refill(m, units);
    }
    return p;
}

static void ks_memory_free(void *ctx, void *ptr, size_t size) {
    ks_memory *m = ctx;
    if (!ptr) return;
    if (ks_memory_is_small(size)) {
        const size_t units = size ? (size + 7) / 8 : 1;
        memcpy(ptr, &m->free[units], sizeof m->free[units]);
        m->free[units] = ptr;
        return;
    }
    m->used -= size;
    m->inner.free(m->inner.ctx, ptr, size);
}

static void *ks_memory_realloc(void *ctx, void *ptr, size_t old_size, size_t size) {
    ks_memory *m = ctx;
    if (!ptr || ks_memory_is_small(old_size) || ks_memory_is_small(size)) {
        void *p = ks_memory_alloc(m, size);
        if (p && ptr) memcpy(p, ptr, old_size < size ? old_size : size);
        if (p) ks_memory_free(m, ptr, old_size);
        return p;
    }
    if (size > old_size && !ks_memory_take(m, size - old_size)) return NULL;
    void *p = m->inner.realloc(m->inner.ctx, ptr, old_size, size);
    if (!p && size > old_size) m->used -= size - old_size;
    if (p && size < old_size) m->used -= old_size - size;
    return p;
}

static void ks_memory_end(ks_memory *m) {
    while (m->chunks) {
        ks_chunk *c = m->chunks;
        m->chunks = c->next;
        m->inner.free(m->inner.ctx, c, KS_CHUNK);
    }
}

/* ---- types ---- */

/* A value as it came: one RDB record of a key without a name. */
typedef struct ks_frozen {
    const rdbkit_type *type;
    u64 len;
    u8 record[]; /* type byte, a name of length 0, the value */
} ks_frozen;

#define KS_RECORD_HEAD 2

#define KS_NO_HINT UINT32_MAX

/* What most keys do not have: it lies in front of those that do. */
typedef struct ks_times {
    i64 expire_ms;
    u32 idle_s, freq; /* hints of a key that nobody touched, or KS_NO_HINT */
} ks_times;

typedef struct ks_key {
    u32 len; /* of the name */
    u8 shape;
    u8 frozen;
    u8 has_times;
    union {
        void *p; /* obj_list, obj_coll, xs_stream or ks_frozen */
        struct {
            u32 len, cap; /* of a string, whose bytes stand behind the name */
        } s;
    } v;
    u8 name[];
} ks_key;

typedef struct ks_db {
    u32 len; /* 8 */
    u8 number[8];
    tab keys;
} ks_db;

typedef struct ks_library {
    u32 len;
    u32 code_len;
    u8 name[]; /* name, then code */
} ks_library;

/* A library's AUX field or module data outside of keys, in order: kept to be given out again. */
typedef struct ks_extra {
    struct ks_extra *next;
    rdbkit_module_aux aux; /* module[0]: module data; else an AUX field */
    size_t name_len, len;
    u8 data[];
} ks_extra;

/* Reads records without names, for a visitor that gets them under the names that they have now. */
typedef struct ks_feeder {
    rdbkit_visitor v;
    rdbkit_reader_options opt; /* the filter in it is the caller's, called with the real name */
    rdbkit_key key;            /* of the record at hand: name, database, expiry, hints */
    rdbkit_reader *reader[2];  /* by lineage; NULL: none yet */
    char magic[16];            /* of the file that the records are from, or empty: all types are known */
} ks_feeder;

struct rdbkit_keyspace {
    ks_memory memory;
    rdbkit_allocator counted; /* over memory */
    obj_env env;
    rdbkit_keyspace_options opt;
    tab dbs;       /* of ks_db, by number */
    tab libraries; /* of ks_library */
    u64 db;
    ks_db *at; /* of number db; NULL: not looked up yet */
    rdbkit_header header;
    int have_header;
    int release; /* of the server whose log this is, as 602 for 6.2; 0: the newest */
    ks_extra *extras, **extras_end;

    /* events coming in */
    rdbkit_visitor visitor;
    rdbkit_aof_visitor aof_visitor;
    rdbkit_key in_key; /* without its name */
    mem_buf in_name, in_raw;
    rdbkit_module_aux in_aux;
    int in_is_aux;

    /* a frozen value that is read */
    ks_feeder thaw;    /* whose visitor makes the value */
    void *made;        /* the value in the making */
    mem_buf made_text; /* a string */

    /* commands */
    mem_buf queue; /* of a transaction: commands, see cmd_ */
    int in_multi;
    const rdbkit_command *command;  /* the one that runs */
    const struct cmd_row *last_row; /* of the last command: the next is often the same */
    rdbkit_replay_stats stats;
    mem_buf tmp[4]; /* for the commands */
    rdbkit_error error;
};

/* ---- errors ---- */

/* A command that a server would answer with an error: nothing has changed, the replay goes on. */
#define KS_REFUSED 1

static int ks_vfail(rdbkit_keyspace *ks, int code, const char *fmt, va_list ap) {
    rdbkit_error *e = &ks->error;
    if (e->code) return e->code;
    e->code = code;
    e->offset = ks->command ? ks->command->offset : RDBKIT_NO_OFFSET;
    e->blob_offset = RDBKIT_NO_OFFSET;
    e->db = ks->db;
    if (ks->command) err_add(e->message, sizeof e->message, "at %llu: ", (unsigned long long)e->offset);
    err_vadd(e->message, sizeof e->message, fmt, ap);
    return code;
}

static int PORT_PRINTF(3, 4) ks_fail(rdbkit_keyspace *ks, int code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    code = ks_vfail(ks, code, fmt, ap);
    va_end(ap);
    return code;
}

/* Out of memory, or of what was allowed. */
static int ks_nomem(rdbkit_keyspace *ks) {
    if (!ks->memory.over) return ks_fail(ks, RDBKIT_ERR_NOMEM, "out of memory");
    return ks_fail(ks, RDBKIT_ERR_LIMIT, "the keyspace takes more than the %llu bytes allowed",
                   (unsigned long long)ks->memory.limit);
}

/* What obj_ and tab_ answered, as a status: what is positive is fine. */
PORT_INLINE int ks_status(rdbkit_keyspace *ks, int st) { return PORT_LIKELY(st >= 0) ? 0 : ks_nomem(ks); }

/* Something that may make the result differ from what the server had. 0, or what the callback answers. */
static int ks_event(rdbkit_keyspace *ks, rdbkit_replay_kind kind, const char *text) {
    ks->stats.events[kind]++;
    if (!ks->opt.on_event) return 0;
    const rdbkit_replay_event event = {kind, text, ks->db, ks->command};
    const int st = ks->opt.on_event(ks->opt.on_event_ctx, &event);
    return st < 0 ? ks_fail(ks, st, "stopped by a callback") : 0;
}

/* A server answers the command with an error, and so nothing happens. */
static int ks_refuse(rdbkit_keyspace *ks, const char *why) {
    const int st = ks_event(ks, RDBKIT_REPLAY_REFUSED, why);
    return st ? st : KS_REFUSED;
}

/* Whether the log is of a server older than a release. Valkey's first is 7.2. */
static int ks_before(const rdbkit_keyspace *ks, int release) { return ks->release && ks->release < release; }

/* ---- keys ---- */

/* Bytes of a key's item, with room for a string. */
static size_t ks_key_size(size_t name_len, size_t text, int has_times) {
    return (has_times ? sizeof(ks_times) : 0) + offsetof(ks_key, name) + name_len + text;
}

static size_t ks_key_text(const ks_key *k) {
    return k->shape == RDBKIT_STRING && !k->frozen ? k->v.s.cap : 0;
}

/* Free the item alone. */
static void ks_key_discard(rdbkit_keyspace *ks, ks_key *k) {
    u8 *start = (u8 *)k - (k->has_times ? sizeof(ks_times) : 0);
    ks->env.mem->free(ks->env.mem->ctx, start, ks_key_size(k->len, ks_key_text(k), k->has_times));
}

static const ks_times ks_no_times = {RDBKIT_NO_EXPIRY, KS_NO_HINT, KS_NO_HINT};

static ks_times ks_times_of(const ks_key *k) {
    return k->has_times ? ((const ks_times *)(const void *)k)[-1] : ks_no_times;
}

static i64 ks_expiry(const ks_key *k) { return ks_times_of(k).expire_ms; }

static rdbkit_str ks_key_name(const ks_key *k) { return (rdbkit_str){(const char *)k->name, k->len}; }

static void ks_value_free(rdbkit_keyspace *ks, rdbkit_shape shape, void *p) {
    const obj_env *e = &ks->env;
    if (!p) return;
    if (shape == RDBKIT_LIST) obj_list_free(e, p);
    else if (shape == RDBKIT_SET) obj_set_free(e, p);
    else if (shape == RDBKIT_ZSET) obj_zset_free(e, p);
    else if (shape == RDBKIT_HASH) obj_hash_free(e, p);
    else if (shape == RDBKIT_STREAM) xs_free(e, p);
}

static void ks_frozen_free(rdbkit_keyspace *ks, ks_frozen *f) {
    ks->env.mem->free(ks->env.mem->ctx, f, offsetof(ks_frozen, record) + (size_t)f->len);
}

static void ks_key_free(rdbkit_keyspace *ks, ks_key *k) {
    if (k->frozen) ks_frozen_free(ks, k->v.p);
    else if (k->shape != RDBKIT_STRING) ks_value_free(ks, (rdbkit_shape)k->shape, k->v.p);
    ks_key_discard(ks, k);
}

static void ks_keys_free(rdbkit_keyspace *ks, tab *keys) {
    ks_key *k;
    for (u32 i = 0; (k = tab_next(keys, &i)) != NULL;) ks_key_free(ks, k);
    tab_free(ks->env.mem, keys);
}

/* The row of a database: NULL without memory, or if it is not there and was not to be made. */
static ks_db *ks_db_of(rdbkit_keyspace *ks, u64 number, int make) {
    u8 text[8];
    port_put_le64(text, number);
    ks_db *db = tab_get(&ks->dbs, ks->env.seed, (rdbkit_str){(const char *)text, 8});
    if (db || !make) return db;
    db = mem_new(ks->env.mem, sizeof *db);
    if (!db) return NULL;
    db->len = 8;
    memcpy(db->number, text, 8);
    db->keys.name_off = offsetof(ks_key, name);
    if (tab_add(ks->env.mem, &ks->dbs, ks->env.seed, db) == 0) return db;
    ks->env.mem->free(ks->env.mem->ctx, db, sizeof *db);
    return NULL;
}

static void ks_select(rdbkit_keyspace *ks, u64 number) {
    if (ks->db == number) return;
    ks->db = number;
    ks->at = NULL;
}

/* The keys of the current database, or NULL as ks_db_of(). */
static tab *ks_keys(rdbkit_keyspace *ks, int make) {
    if (!ks->at) ks->at = ks_db_of(ks, ks->db, make);
    return ks->at ? &ks->at->keys : NULL;
}

/* Most commands name a key that was just looked up; a key's item moves when a string grows, so the index is kept. */
static u32 ks_index(rdbkit_keyspace *ks, rdbkit_str name) {
    tab *keys = ks_keys(ks, 0);
    return keys ? tab_find(keys, ks->env.seed, name) : TAB_NONE;
}

/* The key of that name in the current database, or NULL. */
static ks_key *ks_find(rdbkit_keyspace *ks, rdbkit_str name) {
    const u32 i = ks_index(ks, name);
    return i == TAB_NONE ? NULL : ks->at->keys.item[i];
}

static void ks_drop_index(rdbkit_keyspace *ks, tab *keys, u32 i) {
    ks_key *k = keys->item[i];
    tab_remove(keys, ks->env.seed, i);
    ks_key_free(ks, k);
}

/* Delete a key of the current database: 1, or 0 if it is not there. The name may be the key's own. */
static int ks_drop(rdbkit_keyspace *ks, rdbkit_str name) {
    const u32 i = ks_index(ks, name);
    if (i == TAB_NONE) return 0;
    ks_drop_index(ks, &ks->at->keys, i);
    return 1;
}

/* A command works on a key: what the image said of its idle time is no longer true. */
static void ks_touch(ks_key *k) {
    if (k->has_times) ((ks_times *)(void *)k)[-1].idle_s = ((ks_times *)(void *)k)[-1].freq = KS_NO_HINT;
}

/* Put a new item in the place of a key's, or beside all others. Takes the item; on failure frees it. */
static int ks_put_item(rdbkit_keyspace *ks, ks_key *k) {
    tab *keys = ks_keys(ks, 1);
    if (!keys) {
        ks_key_free(ks, k);
        return ks_nomem(ks);
    }
    const u32 i = tab_find(keys, ks->env.seed, ks_key_name(k));
    if (i != TAB_NONE) {
        ks_key_free(ks, keys->item[i]);
        keys->item[i] = k;
        return 0;
    }
    if (tab_add(ks->env.mem, keys, ks->env.seed, k) == 0) return 0;
    ks_key_free(ks, k);
    return ks_nomem(ks);
}

/* An item with room for text bytes of a string, and for times. */
static ks_key *ks_key_new(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_shape shape, size_t text,
                          const ks_times *times) {
    const int has_times = memcmp(times, &ks_no_times, sizeof *times) != 0;
    if (name.len > SEQ_LEN_MAX || text > SEQ_LEN_MAX) return NULL;
    u8 *start = ks->env.mem->alloc(ks->env.mem->ctx, ks_key_size(name.len, text, has_times));
    if (!start) return NULL;
    if (has_times) memcpy(start, times, sizeof *times);
    ks_key *k = (ks_key *)(void *)(start + (has_times ? sizeof *times : 0));
    memset(k, 0, offsetof(ks_key, name));
    k->len = (u32)name.len;
    k->shape = (u8)shape;
    k->has_times = (u8)has_times;
    if (shape == RDBKIT_STRING) k->v.s.cap = (u32)text;
    if (name.len) memcpy(k->name, name.data, name.len);
    return k;
}

/* The same key in a new item: name, room and times may be others. NULL without memory; the old item is not freed. */
static ks_key *ks_key_remake(rdbkit_keyspace *ks, const ks_key *k, rdbkit_str name, size_t text,
                             const ks_times *times) {
    ks_key *to = ks_key_new(ks, name, (rdbkit_shape)k->shape, text, times);
    if (!to) return NULL;
    to->frozen = k->frozen;
    to->v = k->v;
    if (!ks_key_text(k)) return to;
    to->v.s.cap = (u32)text;
    memcpy(to->name + to->len, k->name + k->len, k->v.s.len);
    return to;
}

/* Give a key of the current database other times. It may move. */
static int ks_set_times(rdbkit_keyspace *ks, ks_key **k, ks_times times) {
    ks_key *from = *k;
    if (from->has_times) {
        ((ks_times *)(void *)from)[-1] = times;
        return 0;
    }
    if (memcmp(&times, &ks_no_times, sizeof times) == 0) return 0;
    const u32 i = ks_index(ks, ks_key_name(from));
    ks_key *to = ks_key_remake(ks, from, ks_key_name(from), ks_key_text(from), &times);
    if (!to) return ks_nomem(ks);
    ks->at->keys.item[i] = to;
    ks_key_discard(ks, from);
    *k = to;
    return 0;
}

/* Give a key of the current database an expiry, or RDBKIT_NO_EXPIRY. It may move: this is the last thing done to it. */
static int ks_expire(rdbkit_keyspace *ks, ks_key *k, i64 expire_ms) {
    ks_times times = ks_times_of(k);
    times.expire_ms = expire_ms;
    return ks_set_times(ks, &k, times);
}

/* ---- strings ---- */

static rdbkit_str ks_string(const ks_key *k) {
    return (rdbkit_str){(const char *)k->name + k->len, k->v.s.len};
}

static u8 *ks_string_bytes(ks_key *k) { return k->name + k->len; }

/* Set a key to a string, whatever it was: its expiry is gone. The value must not be of the keyspace. *out: the key,
 * or NULL if the caller does not want it. */
static int ks_set_string(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_str value, ks_key **out) {
    const u32 i = ks_index(ks, name);
    ks_key *k = i == TAB_NONE ? NULL : ks->at->keys.item[i];
    const int fits = k && k->shape == RDBKIT_STRING && !k->frozen && value.len <= k->v.s.cap &&
                     k->v.s.cap / 2 <= value.len + 32;
    if (!fits) {
        ks_key *to = ks_key_new(ks, name, RDBKIT_STRING, value.len, &ks_no_times);
        if (!to) return ks_nomem(ks);
        if (k) ks_key_free(ks, k), ks->at->keys.item[i] = to;
        else if (ks_put_item(ks, to)) return ks->error.code;
        k = to;
    }
    if (value.len) memcpy(ks_string_bytes(k), value.data, value.len);
    k->v.s.len = (u32)value.len;
    if (k->has_times) ((ks_times *)(void *)k)[-1] = ks_no_times;
    if (out) *out = k;
    return 0;
}

/* Make a string at least len bytes long, with zero bytes; *k, a string of the current database, may move. */
static int ks_string_grow(rdbkit_keyspace *ks, ks_key **k, u64 len) {
    ks_key *from = *k;
    if (len > from->v.s.cap) {
        const u32 i = ks_index(ks, ks_key_name(from));
        u64 cap = from->v.s.cap ? len + len / 4 : len;
        if (len > SEQ_LEN_MAX)
            return ks_fail(ks, RDBKIT_ERR_LIMIT, "a string of %llu bytes", (unsigned long long)len);
        if (cap > SEQ_LEN_MAX) cap = SEQ_LEN_MAX;
        const ks_times times = ks_times_of(from);
        ks_key *to = ks_key_remake(ks, from, ks_key_name(from), (size_t)cap, &times);
        if (!to) return ks_nomem(ks);
        to->v.s.cap = (u32)cap;
        ks->at->keys.item[i] = to;
        ks_key_discard(ks, from);
        *k = from = to;
    }
    if (len > from->v.s.len) {
        memset(ks_string_bytes(from) + from->v.s.len, 0, (size_t)len - from->v.s.len);
        from->v.s.len = (u32)len;
    }
    return 0;
}

/* ---- frozen values ---- */

static int ks_is_valkey(const rdbkit_type *type) { return !(type->lineage & FMT_R); }

/* Events of a frozen value that is read to be changed. */
static int ks_made_string(void *user, rdbkit_str value) {
    rdbkit_keyspace *ks = user;
    ks->made_text.len = 0;
    return ks_status(ks, mem_buf_add(ks->env.mem, &ks->made_text, value.data, value.len));
}

static int ks_made_list(void *user, rdbkit_str item) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, obj_list_push(&ks->env, ks->made, 0, item));
}

static int ks_made_set(void *user, rdbkit_str member) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, obj_set_add(&ks->env, ks->made, member));
}

static int ks_made_zset(void *user, rdbkit_str member, double score) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, obj_zset_put(&ks->env, ks->made, member, score));
}

static int ks_made_hash(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, obj_hash_put(&ks->env, ks->made, field, value, expire_ms));
}

static int ks_made_entry(void *user, rdbkit_stream_id id, uint64_t fields) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, xs_on_entry(&ks->env, ks->made, id, fields));
}

static int ks_made_field(void *user, rdbkit_str field, rdbkit_str value) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, xs_on_field(&ks->env, ks->made, field, value));
}

static int ks_made_info(void *user, const rdbkit_stream_info *info) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, xs_on_info(&ks->env, ks->made, info));
}

static int ks_made_group(void *user, const rdbkit_stream_group *group) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, xs_on_group(&ks->env, ks->made, group));
}

static int ks_made_consumer(void *user, const rdbkit_stream_consumer *consumer) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, xs_on_consumer(&ks->env, ks->made, consumer));
}

static int ks_made_pending(void *user, const rdbkit_stream_pending *pending) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, xs_on_pending(&ks->env, ks->made, pending));
}

/* An empty value of a shape that is no string and no module. NULL without memory. */
static void *ks_value_new(rdbkit_keyspace *ks, rdbkit_shape shape) {
    if (shape == RDBKIT_STREAM) return xs_new(&ks->env);
    return mem_new(ks->env.mem, shape == RDBKIT_LIST ? sizeof(obj_list) : sizeof(obj_coll));
}

/* A rdbkit_reader_options.key_filter. */
static int ks_feeder_key(void *ctx, rdbkit_key *key) {
    const ks_feeder *f = ctx;
    key->name = f->key.name;
    key->raw_name = f->key.raw_name;
    key->db = f->key.db;
    key->expire_ms = f->key.expire_ms;
    key->idle_s = f->key.idle_s;
    key->lfu_freq = f->key.lfu_freq;
    return f->opt.key_filter ? f->opt.key_filter(f->opt.key_filter_ctx, key) : 0;
}

static void ks_feeder_init(ks_feeder *f, const rdbkit_allocator *mem, const rdbkit_reader_options *opt,
                           const rdbkit_visitor *v) {
    memset(f, 0, sizeof *f);
    if (v) f->v = *v;
    f->v.header = NULL, f->v.aux = NULL, f->v.db = NULL, f->v.end = NULL;
    f->opt = *opt;
    f->opt.allocator = mem;
    f->opt.ignore_checksum = 1;
}

static void ks_feeder_free(ks_feeder *f) {
    for (int i = 0; i < 2; i++) rdbkit_reader_free(f->reader[i]), f->reader[i] = NULL;
}

/* Of a file that has all types of one lineage. */
static const char *ks_magic(int valkey) { return valkey ? "VALKEY080" : "REDIS0012"; }

/* A reader for records without names, at the place where the first one begins. */
static rdbkit_reader *ks_record_reader(const rdbkit_reader_options *options, const rdbkit_visitor *v,
                                       const char *magic) {
    rdbkit_reader *r = rdbkit_reader_new(options, v);
    if (r && rdbkit_reader_feed(r, magic, 9) == RDBKIT_MORE) return r;
    rdbkit_reader_free(r);
    return NULL;
}

/* The visitor that makes ks->made, for frozen values and for copies. */
static void ks_made_init(rdbkit_keyspace *ks) {
    rdbkit_visitor visitor = {0}, *v = &visitor;
    rdbkit_reader_options options;
    v->user = ks;
    v->string = ks_made_string;
    v->list_item = ks_made_list;
    v->set_member = ks_made_set;
    v->zset_member = ks_made_zset;
    v->hash_field = ks_made_hash;
    v->stream_entry = ks_made_entry;
    v->stream_field = ks_made_field;
    v->stream_info = ks_made_info;
    v->stream_group = ks_made_group;
    v->stream_consumer = ks_made_consumer;
    v->stream_pending = ks_made_pending;
    rdbkit_reader_options_init(&options);
    ks_feeder_init(&ks->thaw, ks->env.mem, &options, v);
}

/* Read a record: 0, or what the reader says. error: filled in then. After an error the feeder goes on with the next. */
static int ks_feed(ks_feeder *f, int valkey, const void *record, size_t len, rdbkit_error *error) {
    rdbkit_reader **r = &f->reader[valkey];
    if (!*r) {
        rdbkit_reader_options options = f->opt;
        options.key_filter = ks_feeder_key;
        options.key_filter_ctx = f;
        *r = ks_record_reader(&options, &f->v, f->magic[0] ? f->magic : ks_magic(valkey));
        if (!*r) return error->code = RDBKIT_ERR_NOMEM;
    }
    const u64 end = rdbkit_reader_offset(*r) + len;
    int st = rdbkit_reader_feed(*r, record, len);
    if (st == RDBKIT_MORE && rdbkit_reader_offset(*r) == end) return 0;
    *error = *rdbkit_reader_error(*r);
    if (st >= 0) st = error->code = RDBKIT_ERR_DAMAGED; /* less than the record says, or more */
    rdbkit_reader_free(*r);
    *r = NULL;
    return st;
}

static int ks_thaw_read(rdbkit_keyspace *ks, const ks_frozen *f) {
    rdbkit_error e = {.code = 0};
    const int st = ks_feed(&ks->thaw, ks_is_valkey(f->type), f->record, (size_t)f->len, &e);
    if (!st || ks->error.code) return ks->error.code;
    return st == RDBKIT_ERR_NOMEM ? ks_nomem(ks) : ks_fail(ks, st, "a value cannot be read");
}

/* Make a frozen value one that commands can change. *k, of the current database, may move. */
static int ks_thaw(rdbkit_keyspace *ks, ks_key **k) {
    ks_key *from = *k;
    if (!from->frozen) return 0;
    ks_frozen *f = from->v.p;
    const rdbkit_shape shape = (rdbkit_shape)from->shape;
    ks->made = shape == RDBKIT_STRING ? NULL : ks_value_new(ks, shape);
    if (shape != RDBKIT_STRING && !ks->made) return ks_nomem(ks);
    int st = ks_thaw_read(ks, f);
    if (st) {
        ks_value_free(ks, shape, ks->made);
        return st;
    }
    if (shape == RDBKIT_STRING) {
        const ks_times times = ks_times_of(from);
        const rdbkit_str text = {(const char *)ks->made_text.data, ks->made_text.len};
        ks_key *to = ks_key_new(ks, ks_key_name(from), RDBKIT_STRING, text.len, &times);
        if (!to) return ks_nomem(ks);
        if (text.len) memcpy(to->name + to->len, text.data, text.len);
        to->v.s.len = (u32)text.len;
        *k = to;
        return ks_put_item(ks, to);
    }
    ks_frozen_free(ks, f);
    from->v.p = ks->made;
    from->frozen = 0;
    return 0;
}

/* Put checked RDB bytes under a name: a short string as a string, all else frozen. value: what stands after a key's
 * name in a file. *out: the key. */
static int ks_put_frozen(rdbkit_keyspace *ks, rdbkit_str name, const rdbkit_type *type, const void *value,
                         size_t len, ks_key **out) {
    const u8 *p = value;
    if (type->shape == RDBKIT_STRING && len > 0 && p[0] >> 6 <= 2) { /* neither integer nor LZF */
        const size_t head = p[0] >> 6 == 0 ? 1 : p[0] >> 6 == 1 ? 2 : p[0] == 0x80 ? 5 : 9;
        return ks_set_string(ks, name, (rdbkit_str){(const char *)p + head, len - head}, out);
    }
    ks_frozen *f = ks->env.mem->alloc(ks->env.mem->ctx, offsetof(ks_frozen, record) + KS_RECORD_HEAD + len);
    ks_key *k = f ? ks_key_new(ks, name, type->shape, 0, &ks_no_times) : NULL;
    if (f) f->type = type, f->len = KS_RECORD_HEAD + len;
    if (!k) {
        if (f) ks_frozen_free(ks, f);
        return ks_nomem(ks);
    }
    f->record[0] = (u8)type->number, f->record[1] = 0;
    if (len) memcpy(f->record + KS_RECORD_HEAD, value, len);
    k->frozen = 1;
    k->v.p = f;
    if (ks_put_item(ks, k)) return ks->error.code;
    *out = k;
    return 0;
}

/* ---- what commands ask for ---- */

/* The key of a name, if it has a shape: *out is NULL if it is not there. The value is not frozen. Returns 0,
 * KS_REFUSED for another shape, or an error. */
static int ks_get(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_shape shape, ks_key **out) {
    *out = ks_find(ks, name);
    if (!*out) return 0;
    if ((*out)->shape != shape) return ks_refuse(ks, "the key holds another type");
    ks_touch(*out);
    return (*out)->frozen ? ks_thaw(ks, out) : 0;
}

/* The same, and made if it is not there: no string. An empty one must not stay: ks_drop_empty(). */
static int ks_make(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_shape shape, ks_key **out) {
    int st = ks_get(ks, name, shape, out);
    if (st || *out) return st;
    ks_key *k = ks_key_new(ks, name, shape, 0, &ks_no_times);
    if (!k) return ks_nomem(ks);
    k->v.p = ks_value_new(ks, shape);
    if (!k->v.p) {
        ks_key_free(ks, k);
        return ks_nomem(ks);
    }
    if (ks_put_item(ks, k)) return ks->error.code;
    *out = k;
    return 0;
}

/* Elements of a value that is not frozen; of a string or a stream there is always one. */
static u64 ks_count(const ks_key *k) {
    switch ((rdbkit_shape)k->shape) {
    case RDBKIT_LIST: return ((const obj_list *)k->v.p)->n;
    case RDBKIT_SET: return obj_set_n(k->v.p);
    case RDBKIT_ZSET: return obj_zset_n(k->v.p);
    case RDBKIT_HASH: return obj_hash_n(k->v.p);
    case RDBKIT_STRING:
    case RDBKIT_STREAM:
    case RDBKIT_MODULE:
    case RDBKIT_SHAPE_N: break;
    }
    return 1;
}

/* A collection that has lost its last element is no key any more. */
static void ks_drop_empty(rdbkit_keyspace *ks, ks_key *k) {
    if (ks_count(k) == 0) (void)ks_drop(ks, ks_key_name(k));
}

/* Put a value under a name, whatever was there; it has no expiry. Takes p (a value of ks_value_new()); an empty
 * collection deletes the name. */
static int ks_store(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_shape shape, void *p) {
    ks_key *k = ks_key_new(ks, name, shape, 0, &ks_no_times);
    if (!k) {
        ks_value_free(ks, shape, p);
        return ks_nomem(ks);
    }
    k->v.p = p;
    if (ks_count(k) == 0) {
        (void)ks_drop(ks, name);
        ks_key_free(ks, k);
        return 0;
    }
    return ks_put_item(ks, k);
}

/* ---- events in ---- */

static int ks_on_header(void *user, const rdbkit_header *header) {
    rdbkit_keyspace *ks = user;
    if (!ks->have_header) ks->header = *header;
    ks->have_header = 1;
    return 0;
}

static int ks_add_extra(rdbkit_keyspace *ks, const rdbkit_module_aux *aux, rdbkit_str name, rdbkit_str data) {
    ks_extra *x = ks->env.mem->alloc(ks->env.mem->ctx, offsetof(ks_extra, data) + name.len + data.len);
    if (!x) return ks_nomem(ks);
    memset(x, 0, offsetof(ks_extra, data));
    if (aux) x->aux = *aux;
    x->name_len = name.len, x->len = data.len;
    if (name.len) memcpy(x->data, name.data, name.len);
    if (data.len) memcpy(x->data + name.len, data.data, data.len);
    *ks->extras_end = x;
    ks->extras_end = &x->next;
    return 0;
}

/* A release as a number, 602 for 6.2, from the text of a version. 0 if it is none. */
static int ks_release_of(rdbkit_str version) {
    int part[2] = {0, 0}, n = 0;
    for (size_t i = 0; i < version.len && n < 2; i++) {
        const char c = version.data[i];
        if (c >= '0' && c <= '9' && part[n] < 100) part[n] = part[n] * 10 + (c - '0');
        else n++;
    }
    return part[0] * 100 + (part[1] < 100 ? part[1] : 99);
}

static int ks_on_aux(void *user, rdbkit_str name, rdbkit_str value) {
    rdbkit_keyspace *ks = user;
    const int valkey = seq_same(name, (rdbkit_str){"valkey-ver", 10});
    if (valkey || seq_same(name, (rdbkit_str){"redis-ver", 9})) {
        const int release = ks_release_of(value);
        if (release && (valkey || ks->header.lineage == RDBKIT_REDIS)) ks->release = release;
    }
    return ks_add_extra(ks, NULL, name, value);
}

/* Keep a library's code under its name, which is new, or replaced. */
static int ks_put_library(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_str code) {
    const obj_env *e = &ks->env;
    if (name.len > SEQ_LEN_MAX || code.len > SEQ_LEN_MAX) return ks_nomem(ks);
    ks_library *l = e->mem->alloc(e->mem->ctx, offsetof(ks_library, name) + name.len + code.len);
    if (!l) return ks_nomem(ks);
    l->len = (u32)name.len, l->code_len = (u32)code.len;
    if (name.len) memcpy(l->name, name.data, name.len);
    if (code.len) memcpy(l->name + name.len, code.data, code.len);
    const u32 i = tab_find(&ks->libraries, e->seed, name);
    if (i != TAB_NONE) {
        ks_library *old = ks->libraries.item[i];
        ks->libraries.item[i] = l;
        e->mem->free(e->mem->ctx, old, offsetof(ks_library, name) + old->len + old->code_len);
        return 0;
    }
    if (tab_add(e->mem, &ks->libraries, e->seed, l) == 0) return 0;
    e->mem->free(e->mem->ctx, l, offsetof(ks_library, name) + name.len + code.len);
    return ks_nomem(ks);
}

/* 1, or 0 if there is no such library. */
static int ks_drop_library(rdbkit_keyspace *ks, rdbkit_str name) {
    const u32 i = tab_find(&ks->libraries, ks->env.seed, name);
    if (i == TAB_NONE) return 0;
    ks_library *l = ks->libraries.item[i];
    tab_remove(&ks->libraries, ks->env.seed, i);
    ks->env.mem->free(ks->env.mem->ctx, l, offsetof(ks_library, name) + l->len + l->code_len);
    return 1;
}

static void ks_drop_libraries(rdbkit_keyspace *ks) {
    const ks_library *l;
    for (u32 i = 0; (l = tab_next(&ks->libraries, &i)) != NULL;)
        (void)ks_drop_library(ks, (rdbkit_str){(const char *)l->name, l->len});
}

static int ks_on_function(void *user, rdbkit_str code, int opcode) {
    (void)opcode;
    return ks_put_library(user, loss_library_name(code), code);
}

static int ks_on_module_aux(void *user, const rdbkit_module_aux *aux) {
    rdbkit_keyspace *ks = user;
    ks->in_aux = *aux;
    ks->in_is_aux = 1;
    ks->in_raw.len = 0;
    return RDBKIT_TAKE_RAW;
}

static int ks_on_module_aux_end(void *user) {
    rdbkit_keyspace *ks = user;
    ks->in_is_aux = 0;
    const rdbkit_str data = {(const char *)ks->in_raw.data, ks->in_raw.len};
    return ks_add_extra(ks, &ks->in_aux, (rdbkit_str){NULL, 0}, data);
}

static int ks_on_key(void *user, const rdbkit_key *key) {
    rdbkit_keyspace *ks = user;
    ks->in_key = *key;
    ks->in_name.len = ks->in_raw.len = 0;
    ks_select(ks, key->db);
    if (ks_find(ks, key->name)) {
        (void)ks_fail(ks, RDBKIT_ERR_DAMAGED,
                      "at %llu: a key that is there already, found once more in an RDB",
                      (unsigned long long)key->offset);
        return RDBKIT_ERR_DAMAGED;
    }
    const int st = mem_buf_add(ks->env.mem, &ks->in_name, key->name.data, key->name.len);
    return st ? ks_nomem(ks) : RDBKIT_TAKE_RAW;
}

static int ks_on_raw(void *user, const void *data, size_t len) {
    rdbkit_keyspace *ks = user;
    return ks_status(ks, mem_buf_add(ks->env.mem, &ks->in_raw, data, len));
}

static ks_times ks_times_from(i64 expire_ms, i64 idle_s, i64 freq) {
    ks_times t = {expire_ms, KS_NO_HINT, KS_NO_HINT};
    if (idle_s >= 0) t.idle_s = idle_s < KS_NO_HINT ? (u32)idle_s : KS_NO_HINT - 1;
    if (freq >= 0) t.freq = (u32)freq;
    return t;
}

static int ks_on_key_end(void *user) {
    rdbkit_keyspace *ks = user;
    const rdbkit_key *in = &ks->in_key;
    const rdbkit_str name = {(const char *)ks->in_name.data, ks->in_name.len};
    ks_key *k;
    int st = ks_put_frozen(ks, name, in->type, ks->in_raw.data, ks->in_raw.len, &k);
    if (st) return st;
    return ks_set_times(ks, &k, ks_times_from(in->expire_ms, in->idle_s, in->lfu_freq));
}

static void ks_visitor_init(rdbkit_keyspace *ks) {
    rdbkit_visitor *v = &ks->visitor;
    v->user = ks;
    v->header = ks_on_header, v->aux = ks_on_aux, v->function = ks_on_function;
    v->module_aux = ks_on_module_aux, v->module_aux_end = ks_on_module_aux_end;
    v->key = ks_on_key, v->raw = ks_on_raw, v->key_end = ks_on_key_end;
}

/* ---- events out ---- */

typedef struct ks_out {
    rdbkit_keyspace *ks;
    const rdbkit_visitor *v;
    const rdbkit_reader_options *opt;
    ks_feeder frozen; /* for values that have bytes */
    u64 db;
} ks_out;

static int ks_emit_list(const obj_list *l, const rdbkit_visitor *v) {
    int st = 0;
    for (obj_list_at at = obj_list_begin(l); !st && v->list_item && at.node;)
        st = v->list_item(v->user, obj_list_next(&at));
    return st;
}

static int ks_emit_set(const obj_coll *set, const rdbkit_visitor *v) {
    obj_iter it = OBJ_BEGIN;
    rdbkit_str member;
    int st = 0;
    while (!st && v->set_member && obj_set_next(set, &it, &member)) st = v->set_member(v->user, member);
    return st;
}

static int ks_emit_zset(const obj_coll *z, const rdbkit_visitor *v) {
    obj_zset_at at = obj_zset_index(z, 0);
    rdbkit_str member;
    double score;
    int st = 0;
    while (!st && v->zset_member && obj_zset_next(z, &at, &member, &score))
        st = v->zset_member(v->user, member, score);
    return st;
}

static int ks_emit_hash(const obj_coll *hash, const rdbkit_visitor *v) {
    obj_iter it = OBJ_BEGIN;
    rdbkit_str field, value;
    i64 expire_ms;
    int st = 0;
    while (!st && v->hash_field && obj_hash_next(hash, &it, &field, &value, &expire_ms))
        st = v->hash_field(v->user, field, value, expire_ms);
    return st;
}

/* Whether the server whose log this is had stream counters: Redis 7.0 or later. */
static int ks_has_counters(const rdbkit_keyspace *ks) { return !ks_before(ks, 700); }

/* The elements of a value that is not frozen. */
static int ks_emit_value(const rdbkit_keyspace *ks, const ks_key *k, const rdbkit_visitor *v) {
    switch ((rdbkit_shape)k->shape) {
    case RDBKIT_STRING: return v->string ? v->string(v->user, ks_string(k)) : 0;
    case RDBKIT_LIST: return ks_emit_list(k->v.p, v);
    case RDBKIT_SET: return ks_emit_set(k->v.p, v);
    case RDBKIT_ZSET: return ks_emit_zset(k->v.p, v);
    case RDBKIT_HASH: return ks_emit_hash(k->v.p, v);
    case RDBKIT_STREAM: return xs_emit(k->v.p, ks_has_counters(ks), v);
    case RDBKIT_MODULE:
    case RDBKIT_SHAPE_N: break;
    }
    return 0;
}

/* The row that says what a value is, where it has no bytes. */
static const rdbkit_type *ks_type(const rdbkit_keyspace *ks, const ks_key *k) {
    static const enum fmt_type rows[] = {FMT_STRING, FMT_LIST,     FMT_SET,      FMT_ZSET_2,
                                         FMT_HASH,   FMT_STREAM_2, FMT_MODULE_2, FMT_STRING};
    if (k->frozen) return ((const ks_frozen *)k->v.p)->type;
    if (k->shape == RDBKIT_HASH && obj_hash_expires(k->v.p)) return &fmt_types[FMT_HASH_METADATA];
    /* no command says when a consumer was active, an image of RDB 11 does */
    if (k->shape == RDBKIT_STREAM && ks->header.rdb_version >= 11) return &fmt_types[FMT_STREAM_3];
    return &fmt_types[rows[k->shape]];
}

static void ks_describe(const rdbkit_keyspace *ks, const ks_key *k, u64 db, rdbkit_key *key) {
    key->name = ks_key_name(k);
    key->raw_name = (rdbkit_str){NULL, 0};
    key->type = ks_type(ks, k);
    key->db = db;
    const ks_times times = ks_times_of(k);
    key->expire_ms = times.expire_ms;
    key->idle_s = times.idle_s == KS_NO_HINT ? RDBKIT_NO_HINT : (i64)times.idle_s;
    key->lfu_freq = times.freq == KS_NO_HINT ? RDBKIT_NO_HINT : (int)times.freq;
}

static int ks_emit_frozen(ks_out *o, const ks_key *k) {
    const ks_frozen *f = k->v.p;
    rdbkit_error error; /* of the record, which the caller does not know */
    ks_describe(o->ks, k, o->db, &o->frozen.key);
    return ks_feed(&o->frozen, ks_is_valkey(f->type), f->record, (size_t)f->len, &error);
}

static int ks_emit_live(ks_out *o, const ks_key *k) {
    const rdbkit_visitor *v = o->v;
    rdbkit_key key;
    memset(&key, 0, sizeof key);
    ks_describe(o->ks, k, o->db, &key);
    int st = o->opt->key_filter ? o->opt->key_filter(o->opt->key_filter_ctx, &key) : 0;
    if (st == RDBKIT_SKIP_KEY) return 0;
    if (!st && v->key) st = v->key(v->user, &key);
    if (st > 0 && st != RDBKIT_SKIP_KEY) return RDBKIT_ERR_USAGE; /* there are no bytes to take */
    if (!st) st = ks_emit_value(o->ks, k, v);
    else if (st == RDBKIT_SKIP_KEY) st = 0;
    if (!st && v->key_end) st = v->key_end(v->user);
    return st;
}

static int ks_emit_db(ks_out *o, ks_db *db) {
    const rdbkit_visitor *v = o->v;
    const ks_key *k;
    u64 expires = 0;
    o->db = port_le64(db->number);
    for (u32 i = 0; (k = tab_next(&db->keys, &i)) != NULL;) expires += ks_expiry(k) != RDBKIT_NO_EXPIRY;
    int st = v->db ? v->db(v->user, o->db) : 0;
    if (!st && v->resize) st = v->resize(v->user, db->keys.live, expires);
    for (u32 i = 0; !st && (k = tab_next(&db->keys, &i)) != NULL;)
        st = k->frozen ? ks_emit_frozen(o, k) : ks_emit_live(o, k);
    return st;
}

static int ks_db_cmp(const void *a, const void *b) {
    const u64 x = port_le64((*(ks_db *const *)a)->number), y = port_le64((*(ks_db *const *)b)->number);
    return x < y ? -1 : x > y;
}

static int ks_emit_dbs(ks_out *o) {
    rdbkit_keyspace *ks = o->ks;
    mem_buf list = {NULL, 0, 0};
    ks_db *db;
    int st = 0;
    for (u32 i = 0; !st && (db = tab_next(&ks->dbs, &i)) != NULL;)
        if (db->keys.live) st = mem_buf_add(ks->env.mem, &list, &db, sizeof db);
    if (st) st = ks_nomem(ks);
    const size_t n = list.len / sizeof db;
    if (!st && n) qsort(list.data, n, sizeof db, ks_db_cmp);
    for (size_t i = 0; !st && i < n; i++) {
        memcpy(&db, list.data + i * sizeof db, sizeof db);
        st = ks_emit_db(o, db);
    }
    mem_buf_free(ks->env.mem, &list);
    return st;
}

static int ks_emit_extra(const ks_extra *x, const rdbkit_visitor *v) {
    const rdbkit_str name = {(const char *)x->data, x->name_len},
                     data = {(const char *)x->data + x->name_len, x->len};
    if (!x->aux.module[0]) return v->aux ? v->aux(v->user, name, data) : 0;
    return rec_give_module_aux(v, &x->aux, data);
}

/* What stands outside of keys, before them or after them. */
static int ks_emit_extras(const rdbkit_keyspace *ks, const rdbkit_visitor *v, int after) {
    int st = 0;
    for (const ks_extra *x = ks->extras; !st && x; x = x->next)
        if ((x->aux.module[0] && x->aux.when == 2) == after) st = ks_emit_extra(x, v);
    return st;
}

static int ks_emit_functions(const rdbkit_keyspace *ks, const rdbkit_visitor *v) {
    const ks_library *l;
    int st = 0;
    for (u32 i = 0; !st && v->function && (l = tab_next(&ks->libraries, &i)) != NULL;)
        st =
            v->function(v->user, (rdbkit_str){(const char *)l->name + l->len, l->code_len}, FMT_OP_FUNCTION2);
    return st;
}

static int ks_emit(rdbkit_keyspace *ks, const rdbkit_reader_options *options, const rdbkit_visitor *v) {
    ks_out o = {.ks = ks, .v = v, .opt = options};
    ks_feeder_init(&o.frozen, ks->env.mem, options, v);
    int st = ks->error.code;
    if (!st && ks->have_header && v->header) st = v->header(v->user, &ks->header);
    if (!st) st = ks_emit_extras(ks, v, 0);
    if (!st) st = ks_emit_functions(ks, v);
    if (!st) st = ks_emit_dbs(&o);
    if (!st) st = ks_emit_extras(ks, v, 1);
    if (!st && v->end) st = v->end(v->user, 0);
    ks_feeder_free(&o.frozen);
    return !st ? RDBKIT_DONE : st < 0 ? st : RDBKIT_ERR_USAGE;
}

/* ---- copies ---- */

/* Put a copy of a key's value under a name of the current database, in the place of what is there. from: may be of
 * another database, but not that key itself. */
static int ks_copy(rdbkit_keyspace *ks, const ks_key *from, rdbkit_str name) {
    const i64 expire_ms = ks_expiry(from);
    ks_key *k;
    int st;
    if (from->frozen) {
        const ks_frozen *f = from->v.p;
        st =
            ks_put_frozen(ks, name, f->type, f->record + KS_RECORD_HEAD, (size_t)f->len - KS_RECORD_HEAD, &k);
        return st ? st : ks_expire(ks, k, expire_ms);
    }
    if (from->shape == RDBKIT_STRING) {
        st = ks_set_string(ks, name, ks_string(from), &k);
        return st ? st : ks_expire(ks, k, expire_ms);
    }
    ks->made = ks_value_new(ks, (rdbkit_shape)from->shape);
    if (!ks->made) return ks_nomem(ks);
    st = ks_emit_value(ks, from, &ks->thaw.v);
    if (st) {
        ks_value_free(ks, (rdbkit_shape)from->shape, ks->made);
        return st;
    }
    st = ks_store(ks, name, (rdbkit_shape)from->shape, ks->made);
    return !st && (k = ks_find(ks, name)) != NULL ? ks_expire(ks, k, expire_ms) : st;
}

/* Move a key's item to a name of a database; what is there goes. The index i is that of the key in the current one. */
static int ks_move(rdbkit_keyspace *ks, u32 i, u64 db, rdbkit_str name) {
    tab *keys = &ks->at->keys;
    ks_key *k = keys->item[i];
    const u64 here = ks->db;
    int st = 0;
    if (!seq_same(ks_key_name(k), name)) { /* the name is part of the item */
        const ks_times times = ks_times_of(k);
        ks_key *to = ks_key_remake(ks, k, name, ks_key_text(k), &times);
        if (!to) return ks_nomem(ks);
        tab_remove(keys, ks->env.seed, i);
        ks_key_discard(ks, k);
        k = to;
    } else {
        tab_remove(keys, ks->env.seed, i);
    }
    ks_select(ks, db);
    st = ks_put_item(ks, k);
    ks_select(ks, here);
    return st;
}

/* ---- a keyspace as a whole ---- */

/* The release in a target's name: redis-6.2, valkey-9. */
static int ks_release_of_target(const rdbkit_target *t) {
    const char *dash = strchr(t->name, '-');
    return dash ? ks_release_of((rdbkit_str){dash + 1, strlen(dash + 1)}) : 0;
}

static void ks_flush_db(rdbkit_keyspace *ks, ks_db *db) { ks_keys_free(ks, &db->keys); }

static void ks_flush(rdbkit_keyspace *ks) {
    ks_db *db;
    for (u32 i = 0; (db = tab_next(&ks->dbs, &i)) != NULL;) ks_flush_db(ks, db);
}

static void ks_free(rdbkit_keyspace *ks) {
    if (!ks) return;
    const rdbkit_allocator *mem = ks->env.mem;
    ks_db *db;
    ks_flush(ks);
    for (u32 i = 0; (db = tab_next(&ks->dbs, &i)) != NULL;) mem->free(mem->ctx, db, sizeof *db);
    tab_free(mem, &ks->dbs);
    ks_drop_libraries(ks);
    tab_free(mem, &ks->libraries);
    while (ks->extras) {
        ks_extra *x = ks->extras;
        ks->extras = x->next;
        mem->free(mem->ctx, x, offsetof(ks_extra, data) + x->name_len + x->len);
    }
    mem_buf *bufs[] = {&ks->in_name, &ks->in_raw, &ks->made_text, &ks->queue,
                       &ks->tmp[0],  &ks->tmp[1], &ks->tmp[2],    &ks->tmp[3]};
    for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) mem_buf_free(mem, bufs[i]);
    ks_feeder_free(&ks->thaw);
    ks_memory_end(&ks->memory);
    const rdbkit_allocator inner = ks->memory.inner;
    inner.free(inner.ctx, ks, sizeof *ks);
}

static rdbkit_keyspace *ks_new(const rdbkit_keyspace_options *options) {
    const rdbkit_allocator mem = mem_or_std(options->allocator);
    rdbkit_keyspace *ks = mem_new(&mem, sizeof *ks);
    if (!ks) return NULL;
    ks->opt = *options;
    ks->memory.inner = mem;
    ks->memory.limit = options->memory_limit;
    ks->counted = (rdbkit_allocator){ks_memory_alloc, ks_memory_realloc, ks_memory_free, &ks->memory};
    ks->env = (obj_env){&ks->counted, options->seed};
    ks->dbs.name_off = offsetof(ks_db, number);
    ks->libraries.name_off = offsetof(ks_library, name);
    ks->extras_end = &ks->extras;
    if (options->source) ks->release = ks_release_of_target(options->source);
    ks->error.offset = ks->error.blob_offset = RDBKIT_NO_OFFSET;
    ks_visitor_init(ks);
    ks_made_init(ks);
    return ks;
}

static void ks_stats(const rdbkit_keyspace *ks, rdbkit_replay_stats *stats) {
    const ks_db *db;
    const ks_key *k;
    *stats = ks->stats;
    stats->header = ks->header;
    for (u32 i = 0; (db = tab_next(&ks->dbs, &i)) != NULL;) {
        stats->databases += db->keys.live > 0;
        stats->keys += db->keys.live;
        for (u32 j = 0; (k = tab_next(&db->keys, &j)) != NULL;)
            stats->expires += ks_expiry(k) != RDBKIT_NO_EXPIRY;
    }
    stats->functions = ks->libraries.live;
    stats->memory = ks->memory.used, stats->memory_peak = ks->memory.peak;
}

/* ==== [33] hll_ : HyperLogLog ====
 *
 * The bytes that PFADD and PFMERGE leave in a string, the same ones as servers:
 *
 *     "HYLL" encoding(1) 0 0 0 cardinality(8, little endian; top bit: stale) registers
 *     dense (0):  16384 times 6 bits, lowest first
 *     sparse (1): 00rrrrrr              r + 1 registers of 0
 *                 01rrrrrr rrrrrrrr     r + 1 registers of 0
 *                 1vvvvvrr              r + 1 registers of v + 1
 *
 * Users can write such strings too: nothing but the header can be relied upon, and of a dense one the length.
 * What any server lets pass passes here. Tests: tests/test_keyspace.c, tests/aof_test.py */

#define HLL_HEAD 16
#define HLL_REGISTERS 16384
#define HLL_DENSE_LEN (HLL_HEAD + HLL_REGISTERS * 6 / 8)
#define HLL_SPARSE_LEN 3000                        /* hll-sparse-max-bytes, unless configured otherwise */
#define HLL_SPARSE_VALUE 32                        /* the highest */
#define HLL_RANKS 64                               /* values of a register */
#define HLL_LEN_MAX (HLL_HEAD + 2 * HLL_REGISTERS) /* no sensible sparse one is longer */
#define HLL_ROOM (HLL_LEN_MAX + 8)

/* One that is worked upon: a dense one where it stands, a sparse one in HLL_ROOM bytes. */
typedef struct hll {
    u8 *data;
    size_t len;
} hll;

/* A run of registers. */
typedef struct hll_op {
    int value, run;
    u32 size; /* bytes */
} hll_op;

/* ---- elements ---- */

static u64 hll_mix(u64 h) { return h ^ h >> 47; }

/* MurmurHash64A. */
static u64 hll_hash(rdbkit_str s) {
    const u64 m = 0xc6a4a7935bd1e995ULL;
    const u8 *p = (const u8 *)s.data, *end = s.len >= 8 ? p + (s.len & ~(size_t)7) : p;
    u64 h = 0xadc83b19 ^ (u64)s.len * m;
    for (; p < end; p += 8) h = (h ^ hll_mix(port_le64(p) * m) * m) * m;
    const size_t rest = s.len & 7;
    for (size_t i = rest; i-- > 0;) h ^= (u64)p[i] << (8 * i);
    if (rest) h *= m;
    return hll_mix(hll_mix(h) * m);
}

/* The register of an element, and the value it should have at least. */
static u32 hll_register(rdbkit_str element, int *value) {
    u64 h = hll_hash(element);
    const u32 index = (u32)(h & (HLL_REGISTERS - 1));
    int n = 1;
    for (h = h >> 14 | (u64)1 << 50; !(h & 1); h >>= 1) n++;
    *value = n;
    return index;
}

/* ---- both forms ---- */

static int hll_is_dense(const u8 *data) { return data[4] == 0; }

/* Whether a string may be taken for one. */
static int hll_is(rdbkit_str s) {
    if (s.len < HLL_HEAD || memcmp(s.data, "HYLL", 4) != 0 || (u8)s.data[4] > 1) return 0;
    return s.data[4] ? s.len <= HLL_LEN_MAX : s.len == HLL_DENSE_LEN;
}

/* An empty one in HLL_ROOM bytes. */
static void hll_init(hll *h) {
    static const u8 empty[HLL_HEAD + 2] = {'H', 'Y', 'L', 'L', 1, [HLL_HEAD] = 0x7f, 0xff};
    memcpy(h->data, empty, sizeof empty);
    h->len = sizeof empty;
}

static void hll_set_stale(hll *h) { h->data[15] |= 0x80; }

static int hll_dense_get(const u8 *registers, u32 i) {
    const u8 *p = registers + i * 6 / 8;
    const u32 shift = i * 6 % 8;
    const u32 v = (u32)p[0] >> shift | (shift > 2 ? (u32)p[1] << (8 - shift) : 0);
    return (int)(v & 63);
}

static void hll_dense_put(u8 *registers, u32 i, int value) {
    u8 *p = registers + i * 6 / 8;
    const u32 shift = i * 6 % 8, v = (u32)value;
    p[0] = (u8)((p[0] & ~(63u << shift)) | v << shift);
    if (shift > 2) p[1] = (u8)((p[1] & ~(63u >> (8 - shift))) | v >> (8 - shift));
}

/* The run at p, which is before end. A second byte that is missing counts as 0: servers read the one behind
 * strings. */
static hll_op hll_op_at(const u8 *p, const u8 *end) {
    if (*p & 0x80) return (hll_op){(*p >> 2 & 31) + 1, (*p & 3) + 1, 1};
    if (!(*p & 0x40)) return (hll_op){0, (*p & 63) + 1, 1};
    return (hll_op){0, ((*p & 63) << 8 | (end - p > 1 ? p[1] : 0)) + 1, 2};
}

static u8 *hll_put_value(u8 *p, int value, int run) {
    *p = (u8)(0x80 | (value - 1) << 2 | (run - 1));
    return p + 1;
}

static u8 *hll_put_zeros(u8 *p, int run) {
    if (run > 64) *p++ = (u8)(0x40 | (run - 1) >> 8);
    *p++ = (u8)(run - 1);
    return p;
}

/* Raise registers (a byte each) to those of a string. 0, or -1 if it is damaged. */
static int hll_max(u8 *registers, const u8 *data, size_t len) {
    if (hll_is_dense(data)) {
        for (u32 i = 0; i < HLL_REGISTERS; i++) {
            const int v = hll_dense_get(data + HLL_HEAD, i);
            if (v > registers[i]) registers[i] = (u8)v;
        }
        return 0;
    }
    int i = 0;
    const u8 *end = data + len;
    for (const u8 *p = data + HLL_HEAD; p < end;) {
        const hll_op op = hll_op_at(p, end);
        if (op.value && i + op.run > HLL_REGISTERS) break;
        for (int k = 0; op.value && k < op.run; k++)
            if (op.value > registers[i + k]) registers[i + k] = (u8)op.value;
        i += op.run;
        p += PORT_LIKELY((size_t)(end - p) >= op.size) ? op.size : 1;
    }
    return i == HLL_REGISTERS ? 0 : -1;
}

/* ---- registers of a sparse one ---- */

/* 0, or -1 if it is damaged. */
static int hll_to_dense(hll *h) {
    u8 registers[HLL_REGISTERS] = {0};
    if (hll_is_dense(h->data)) return 0;
    if (hll_max(registers, h->data, h->len)) return -1;
    h->data[4] = 0;
    memset(h->data + HLL_HEAD, 0, HLL_DENSE_LEN - HLL_HEAD);
    for (u32 i = 0; i < HLL_REGISTERS; i++)
        if (registers[i]) hll_dense_put(h->data + HLL_HEAD, i, registers[i]);
    h->len = HLL_DENSE_LEN;
    return 0;
}

/* After a change: join runs of one value that now stand together. Servers look at five runs only, so that
 * more than the shortest form stays, and we have to agree with them. */
static void hll_join(hll *h, u8 *p) {
    for (int steps = 5; steps > 0 && p < h->data + h->len; steps--) {
        const u8 *end = h->data + h->len;
        const hll_op a = hll_op_at(p, end);
        if (!a.value) {
            if ((size_t)(end - p) <= a.size) return;
            p += a.size;
            continue;
        }
        const int is_value = p + 1 < end && (p[1] & 0x80);
        const hll_op b = is_value ? hll_op_at(p + 1, end) : (hll_op){0, 0, 0};
        if (a.value == b.value && a.run + b.run <= 4) {
            (void)hll_put_value(p + 1, a.value, a.run + b.run);
            memmove(p, p + 1, (size_t)(end - p - 1));
            h->len--;
        } else {
            p++;
        }
    }
}

static int hll_dense_raise(hll *h, u32 index, int value) {
    if (hll_dense_get(h->data + HLL_HEAD, index) >= value) return 0;
    hll_dense_put(h->data + HLL_HEAD, index, value);
    return 1;
}

/* What a run becomes when one of its registers, so many behind its first, has a new value. Returns the
 * bytes, up to 5. */
static size_t hll_split(u8 *out, hll_op op, int before, int value) {
    const int after = op.run - 1 - before;
    u8 *n = out;
    if (before) n = op.value ? hll_put_value(n, op.value, before) : hll_put_zeros(n, before);
    n = hll_put_value(n, value, 1);
    if (after) n = op.value ? hll_put_value(n, op.value, after) : hll_put_zeros(n, after);
    return (size_t)(n - out);
}

static int hll_sparse_raise(hll *h, u32 index, int value) {
    if (value > HLL_SPARSE_VALUE) return hll_to_dense(h) ? -1 : hll_dense_raise(h, index, value);
    u8 *p = h->data + HLL_HEAD, *prev = p;
    const u8 *end = h->data + h->len;
    u32 first = 0;
    hll_op op = {0, 0, 0};
    for (; p < end; prev = p, p += op.size, first += (u32)op.run) {
        op = hll_op_at(p, end);
        if (index < first + (u32)op.run) break;
        if ((size_t)(end - p) <= op.size) return -1;
    }
    if ((size_t)(end - p) < op.size || p == end) return -1;
    if (op.value >= value) return 0;
    u8 more[5];
    const size_t n = hll_split(more, op, (int)(index - first), value);
    if (n > op.size && h->len + n - op.size > HLL_SPARSE_LEN)
        return hll_to_dense(h) ? -1 : hll_dense_raise(h, index, value);
    memmove(p + n, p + op.size, (size_t)(end - p) - op.size);
    memcpy(p, more, n);
    h->len = h->len + n - op.size;
    hll_join(h, prev);
    return 1;
}

/* Raise a register to a value: 1, or 0 if it is as high, or -1 if the string is damaged. */
static int hll_raise(hll *h, u32 index, int value) {
    return hll_is_dense(h->data) ? hll_dense_raise(h, index, value) : hll_sparse_raise(h, index, value);
}

/* ---- the estimate ---- */

/* How many registers have each value. 0, or -1 if the string is damaged. */
static int hll_histogram(rdbkit_str s, u32 *n) {
    const u8 *data = (const u8 *)s.data, *end = data + s.len;
    if (hll_is_dense(data)) {
        for (u32 i = 0; i < HLL_REGISTERS; i++) n[hll_dense_get(data + HLL_HEAD, i)]++;
        return 0;
    }
    u32 seen = 0;
    for (const u8 *p = data + HLL_HEAD; p < end;) {
        const hll_op op = hll_op_at(p, end);
        n[op.value] += (u32)op.run;
        seen += (u32)op.run;
        p += PORT_LIKELY((size_t)(end - p) >= op.size) ? op.size : 1;
    }
    return seen == HLL_REGISTERS ? 0 : -1;
}

/* The two series of Ertl, "New cardinality estimation algorithms for HyperLogLog sketches". They go on
 * until a double holds no more. */
static double hll_sigma(double x) {
    if (x == 1.0) return INFINITY;
    double y = 1.0, z = x, last;
    do {
        x *= x;
        last = z;
        z += x * y;
        y += y;
    } while (z != last);
    return z;
}

static double hll_tau(double x) {
    if (x == 0.0 || x == 1.0) return 0.0;
    double y = 1.0, z = 1.0 - x, last;
    do {
        x = sqrt(x);
        last = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
    } while (z != last);
    return z / 3.0;
}

/* How many different elements were added, more or less. 0, or -1 if the string is damaged. */
static int hll_estimate(rdbkit_str s, u64 *estimate) {
    const double m = HLL_REGISTERS;
    u32 n[HLL_RANKS] = {0};
    if (hll_histogram(s, n)) return -1;
    double z = m * hll_tau((m - n[51]) / m);
    for (int i = 50; i >= 1; i--) {
        z += n[i];
        z *= 0.5;
    }
    z += m * hll_sigma(n[0] / m);
    const double e = 0.721347520444481703680 * m * m / z;
    *estimate = e < 9e18 ? (u64)(double)llround(e) : (u64)1 << 63; /* z is 0 if no register is below 52 */
    return 0;
}

/* ==== [34] geo_ : places as scores ====
 *
 * A place is a score of 52 bits: latitude in the even ones, longitude in the odd ones, 26 each. Arithmetic in
 * the order of servers, so that scores and distances are the same doubles. Searches look at nine cells of a grid
 * as servers do, and miss what they miss near the poles. Tests: tests/test_keyspace.c, tests/aof_test.py */

#define GEO_LON_MAX 180.0
#define GEO_LAT_MAX 85.05112878
#define GEO_DEGREE (3.14159265358979323846 / 180.0)
#define GEO_RADIUS 6372797.560856
#define GEO_HALF_WAY 20037726.37 /* metres: wider than this, one cell is a quarter of the earth */
#define GEO_STEPS 26

typedef struct geo_place {
    double lon, lat;
} geo_place;

typedef struct geo_area {
    geo_place min, max;
} geo_area;

typedef enum geo_kind { GEO_CIRCLE, GEO_BOX, GEO_POLYGON } geo_kind;

/* What a search looks for; sizes in units of so many metres. */
typedef struct geo_shape {
    geo_kind kind;
    geo_place centre;
    double unit;
    double width, height; /* of a box; width: radius of a circle */
    const geo_place *corners;
    size_t corners_n;
} geo_shape;

/* Scores from min up to, without, max. */
typedef struct geo_cell {
    u64 min, max;
} geo_cell;

#define GEO_CELLS 9

/* ---- scores ---- */

/* The bits of a number at the even places. */
static u64 geo_spread(u32 v) {
    u64 x = v;
    x = (x | x << 16) & 0x0000ffff0000ffffULL;
    x = (x | x << 8) & 0x00ff00ff00ff00ffULL;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0fULL;
    x = (x | x << 2) & 0x3333333333333333ULL;
    return (x | x << 1) & 0x5555555555555555ULL;
}

static u32 geo_gather(u64 x) {
    x &= 0x5555555555555555ULL;
    x = (x | x >> 1) & 0x3333333333333333ULL;
    x = (x | x >> 2) & 0x0f0f0f0f0f0f0f0fULL;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffULL;
    x = (x | x >> 8) & 0x0000ffff0000ffffULL;
    return (u32)(x | x >> 16);
}

/* The cell of a place that is in range, with so many bits of each; the upper edges have one bit more. */
static u64 geo_encode(geo_place at, int steps) {
    const double scale = (double)((u64)1 << steps);
    const double lat = (at.lat + GEO_LAT_MAX) / (GEO_LAT_MAX + GEO_LAT_MAX) * scale;
    const double lon = (at.lon + GEO_LON_MAX) / (GEO_LON_MAX + GEO_LON_MAX) * scale;
    return geo_spread((u32)lat) | geo_spread((u32)lon) << 1;
}

static geo_area geo_decode(u64 bits, int steps) {
    const double scale = (double)((u64)1 << steps);
    const u32 lat = geo_gather(bits), lon = geo_gather(bits >> 1);
    const double lat_range = GEO_LAT_MAX + GEO_LAT_MAX, lon_range = GEO_LON_MAX + GEO_LON_MAX;
    geo_area a;
    a.min.lat = -GEO_LAT_MAX + lat / scale * lat_range;
    a.max.lat = -GEO_LAT_MAX + (lat + 1) / scale * lat_range;
    a.min.lon = -GEO_LON_MAX + lon / scale * lon_range;
    a.max.lon = -GEO_LON_MAX + (lon + 1) / scale * lon_range;
    return a;
}

static double geo_clamp(double v, double max) { return v > max ? max : v < -max ? -max : v; }

/* A score that was no place becomes one, too: as integers wrap on the machines of most servers. */
static u64 geo_bits(double score) {
    const double two63 = 9223372036854775808.0;
    if (score >= 0) return score < 2 * two63 ? (u64)score : 0;
    return score >= -two63 ? (u64)(i64)score : (u64)1 << 63;
}

static geo_place geo_place_of(double score) {
    const geo_area a = geo_decode(geo_bits(score), GEO_STEPS);
    return (geo_place){geo_clamp((a.min.lon + a.max.lon) / 2, GEO_LON_MAX),
                       geo_clamp((a.min.lat + a.max.lat) / 2, GEO_LAT_MAX)};
}

static int geo_in_range(geo_place at) {
    return at.lon >= -GEO_LON_MAX && at.lon <= GEO_LON_MAX && at.lat >= -GEO_LAT_MAX && at.lat <= GEO_LAT_MAX;
}

/* ---- distances ---- */

static double geo_lat_distance(double a, double b) {
    return GEO_RADIUS * fabs(b * GEO_DEGREE - a * GEO_DEGREE);
}

/* Metres, by the haversine formula. Redis up to 6.2 had no short cut for one longitude: the last bits may
 * differ. */
static double geo_distance(geo_place a, geo_place b) {
    const double v = sin((b.lon * GEO_DEGREE - a.lon * GEO_DEGREE) / 2);
    if (v == 0.0) return geo_lat_distance(a.lat, b.lat);
    const double lat_a = a.lat * GEO_DEGREE, lat_b = b.lat * GEO_DEGREE, u = sin((lat_b - lat_a) / 2);
    return 2.0 * GEO_RADIUS * asin(sqrt(u * u + cos(lat_a) * cos(lat_b) * v * v));
}

static int geo_in_polygon(const geo_shape *s, geo_place at) {
    int inside = 0;
    for (size_t i = 0; i < s->corners_n; i++) {
        const geo_place a = s->corners[i], b = s->corners[i ? i - 1 : s->corners_n - 1];
        if ((a.lat > at.lat) == (b.lat > at.lat)) continue;
        inside ^= at.lon < (b.lon - a.lon) * (at.lat - a.lat) / (b.lat - a.lat) + a.lon;
    }
    return inside;
}

/* Whether a place lies in a shape; its distance from the centre in metres. */
static int geo_within(const geo_shape *s, geo_place at, double *distance) {
    if (s->kind == GEO_CIRCLE) {
        *distance = geo_distance(s->centre, at);
        return !(*distance > s->width * s->unit);
    }
    if (s->kind == GEO_BOX) {
        const geo_place beside = {s->centre.lon, at.lat};
        if (geo_lat_distance(at.lat, s->centre.lat) > s->height * s->unit / 2) return 0;
        if (geo_distance(at, beside) > s->width * s->unit / 2) return 0;
    } else if (!geo_in_polygon(s, at)) {
        return 0;
    }
    *distance = geo_distance(s->centre, at);
    return 1;
}

/* ---- where to look ---- */

/* The centre of the corners as vectors. */
static void geo_set_centroid(geo_shape *s) {
    double x = 0, y = 0, z = 0;
    for (size_t i = 0; i < s->corners_n; i++) {
        const double lon = s->corners[i].lon * GEO_DEGREE, lat = s->corners[i].lat * GEO_DEGREE;
        x += cos(lat) * cos(lon);
        y += cos(lat) * sin(lon);
        z += sin(lat);
    }
    s->centre.lon = atan2(y, x) / GEO_DEGREE;
    s->centre.lat = atan2(z, sqrt(x * x + y * y)) / GEO_DEGREE;
}

static geo_area geo_polygon_bounds(const geo_shape *s) {
    geo_area b = {{GEO_LON_MAX, GEO_LAT_MAX}, {-GEO_LON_MAX, -GEO_LAT_MAX}};
    for (size_t i = 0; i < s->corners_n; i++) {
        const geo_place c = s->corners[i];
        if (c.lon < b.min.lon) b.min.lon = c.lon;
        if (c.lon > b.max.lon) b.max.lon = c.lon;
        if (c.lat < b.min.lat) b.min.lat = c.lat;
        if (c.lat > b.max.lat) b.max.lat = c.lat;
    }
    return b;
}

/* What servers take for the bounds: upside down where a circle holds a pole. */
static geo_area geo_bounds(const geo_shape *s) {
    if (s->kind == GEO_POLYGON) return geo_polygon_bounds(s);
    const double height = s->kind == GEO_CIRCLE ? s->unit * s->width : s->unit * (s->height / 2);
    const double width = s->kind == GEO_CIRCLE ? s->unit * s->width : s->unit * (s->width / 2);
    const double lat_delta = height / GEO_RADIUS / GEO_DEGREE;
    const double lat = s->centre.lat < 0 ? s->centre.lat - lat_delta : s->centre.lat + lat_delta;
    const double lon_delta = width / GEO_RADIUS / cos(lat * GEO_DEGREE) / GEO_DEGREE;
    return (geo_area){{s->centre.lon - lon_delta, s->centre.lat - lat_delta},
                      {s->centre.lon + lon_delta, s->centre.lat + lat_delta}};
}

static double geo_reach(const geo_shape *s, const geo_area *b) {
    if (s->kind == GEO_CIRCLE) return s->width * s->unit;
    if (s->kind == GEO_BOX)
        return sqrt((s->width / 2) * (s->width / 2) + (s->height / 2) * (s->height / 2)) * s->unit;
    const geo_place corner[4] = {{b->min.lon, b->max.lat}, b->max, b->min, {b->max.lon, b->min.lat}};
    double reach = 0;
    for (int i = 0; i < 4; i++) {
        const double d = geo_distance(s->centre, corner[i]);
        if (d > reach) reach = d;
    }
    return reach;
}

/* Bits of a grid whose cells are about as large as what is searched. */
static int geo_steps(double reach, double lat) {
    int steps = -1;
    if (reach == 0) return GEO_STEPS;
    for (; reach < GEO_HALF_WAY; reach *= 2) steps++;
    if (lat > 66 || lat < -66) steps--;
    if (lat > 80 || lat < -80) steps--;
    return steps < 1 ? 1 : steps > GEO_STEPS ? GEO_STEPS : steps;
}

/* The cell beside another one, -1 to 1 in each direction; around the edges of the map. */
static u64 geo_beside(u64 bits, int steps, int lon, int lat) {
    const u64 even = 0x5555555555555555ULL >> (64 - 2 * steps),
              odd = 0xaaaaaaaaaaaaaaaaULL >> (64 - 2 * steps);
    u64 x = bits & 0xaaaaaaaaaaaaaaaaULL, y = bits & 0x5555555555555555ULL;
    if (lon > 0) x = (x + even + 1) & odd;
    if (lon < 0) x = ((x | even) - even - 1) & odd;
    if (lat > 0) y = (y + odd + 1) & even;
    if (lat < 0) y = ((y | odd) - odd - 1) & even;
    return x | y;
}

static const signed char geo_around[GEO_CELLS][2] = {{0, 0}, {0, 1},  {0, -1}, {1, 0},  {-1, 0},
                                                     {1, 1}, {-1, 1}, {1, -1}, {-1, -1}};

/* Whether the cells around one leave out a part of the bounds. */
static int geo_too_small(u64 bits, int steps, const geo_area *b) {
    return geo_decode(geo_beside(bits, steps, 0, 1), steps).max.lat < b->max.lat ||
           geo_decode(geo_beside(bits, steps, 0, -1), steps).min.lat > b->min.lat ||
           geo_decode(geo_beside(bits, steps, 1, 0), steps).max.lon < b->max.lon ||
           geo_decode(geo_beside(bits, steps, -1, 0), steps).min.lon > b->min.lon;
}

/* Whether a cell beside the middle one, which reaches so far, is not needed. */
static int geo_useless(const geo_area *mid, const geo_area *b, const signed char *side) {
    return (side[1] < 0 && mid->min.lat < b->min.lat) || (side[1] > 0 && mid->max.lat > b->max.lat) ||
           (side[0] < 0 && mid->min.lon < b->min.lon) || (side[0] > 0 && mid->max.lon > b->max.lon);
}

/* The cells that a search looks at, in order; the centre of a polygon is set. Returns how many. */
static int geo_cells(geo_shape *s, geo_cell *cell) {
    if (s->kind == GEO_POLYGON) geo_set_centroid(s);
    if (!geo_in_range(s->centre)) { /* of a polygon around a pole: no server says what then */
        cell[0] = (geo_cell){0, (u64)1 << 54};
        return 1;
    }
    const geo_area b = geo_bounds(s);
    int steps = geo_steps(geo_reach(s, &b), s->centre.lat), n = 0;
    u64 bits = geo_encode(s->centre, steps);
    if (steps > 1 && geo_too_small(bits, steps, &b)) bits = geo_encode(s->centre, --steps);
    const geo_area mid = geo_decode(bits, steps);
    const int shift = 52 - 2 * steps;
    for (int i = 0; i < GEO_CELLS; i++) {
        if (steps >= 2 && geo_useless(&mid, &b, geo_around[i])) continue;
        const u64 c = geo_beside(bits, steps, geo_around[i][0], geo_around[i][1]);
        if (n > 1 && cell[n - 1].min == c << shift) continue; /* at one step the map has four cells only */
        cell[n++] = (geo_cell){c << shift, (c + 1) << shift};
    }
    return n;
}

/* ==== [35] cmd_ : commands: arguments, times, scores ====
 *
 * What each write command does to a keyspace, as servers do it while they load an append-only file. A function has
 * the arguments of one command (a[0] is its name, n at least what its row says), checks all before it changes
 * anything, and returns 0, KS_REFUSED where a server answers with an error, or a negative status. docs/aof.md.
 * All of that is six rooms: this one has what the others share.
 *
 * Tests: tests/test_keyspace.c, tests/aof_test.py (the servers as judges), fuzz/fuzz_replay.c */

/* ---- arguments ---- */

/* Compare with a word in lower case, whatever the case of s. */
static int cmd_is(rdbkit_str s, const char *word) {
    size_t i = 0;
    for (; i < s.len && word[i]; i++) {
        const char c = s.data[i];
        if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != word[i]) return 0;
    }
    return i == s.len && !word[i];
}

/* An integer as servers take them: no sign but -, no leading zeros, no blanks, int64. */
static int cmd_int(rdbkit_keyspace *ks, rdbkit_str s, i64 *v) {
    return num_parse_i64(s.data, s.len, v) == 0 ? 0 : ks_refuse(ks, "not an integer or out of range");
}

/* A score as strtod takes it, hexadecimal too; not NaN, no blanks, no overflow, no underflow to 0. */

#define CMD_QUEUE_KEEP (1 << 20) /* bytes of a transaction's queue that stay allocated */

#define CMD_FLOAT_MAX 5200 /* the longest long double without exponent, and 17 digits behind the point */

#define CMD_POINT_MAX 16 /* bytes of a decimal point */

/* The decimal point of the locale that the program has set, which strtold() and snprintf() go by: no other way to
 * learn it is safe in threads. point: CMD_POINT_MAX bytes. Returns its length. */
static size_t cmd_point(char *point) {
    char text[CMD_POINT_MAX + 3];
    const int n = snprintf(text, sizeof text, "%.1f", 0.0);
    if (n < 3 || (size_t)n >= sizeof text) return *point = '.', 1;
    memcpy(point, text + 1, (size_t)n - 2);
    return (size_t)n - 2;
}

/* A long double as servers read it. 0, or -1. */
static int cmd_long_double(rdbkit_str s, long double *v) {
    char text[CMD_FLOAT_MAX + CMD_POINT_MAX], point[CMD_POINT_MAX], *end;
    if (s.len == 0 || s.len >= CMD_FLOAT_MAX || (u8)s.data[0] <= ' ') return -1;
    const size_t point_len = cmd_point(point);
    const char *dot = memchr(s.data, '.', s.len);
    const size_t head = dot ? (size_t)(dot - s.data) : s.len;
    if (*point != '.' && memchr(s.data, *point, s.len)) return -1;
    memcpy(text, s.data, head);
    size_t len = head;
    if (dot) {
        memcpy(text + head, point, point_len);
        memcpy(text + head + point_len, dot + 1, s.len - head - 1);
        len = s.len - 1 + point_len;
    }
    text[len] = 0;
    *v = strtold(text, &end);
    return end == text + len && !isnan(*v) ? 0 : -1;
}

/* The sum of two numbers as INCRBYFLOAT and HINCRBYFLOAT write it. text: CMD_FLOAT_MAX bytes, not terminated. */
static int cmd_add_float(rdbkit_keyspace *ks, rdbkit_str old, rdbkit_str by, char *text, size_t *len) {
    long double a, b;
    if (cmd_long_double(old, &a) || cmd_long_double(by, &b))
        return ks_refuse(ks, "value is not a valid float");
    a += b;
    if (isnan(a) || isinf(a)) return ks_refuse(ks, "increment would produce NaN or Infinity");
    char point[CMD_POINT_MAX];
    const size_t point_len = cmd_point(point);
    *len = (size_t)snprintf(text, CMD_FLOAT_MAX, "%.17Lf", a) + 1 - point_len;
    text[*len - 18] = '.';
    memmove(text + *len - 17, text + *len + point_len - 18, 17);
    while (text[*len - 1] == '0') --*len;
    if (text[*len - 1] < '0') --*len; /* the point */
    if (*len == 2 && text[0] == '-' && text[1] == '0') text[0] = '0', *len = 1;
    return 0;
}

/* ---- times ---- */

/* What a relative time counts from. */
static i64 cmd_now(rdbkit_keyspace *ks) {
    const i64 s = ks->command ? ks->command->timestamp_s : RDBKIT_NO_TIMESTAMP;
    return s == RDBKIT_NO_TIMESTAMP || s < 0 || s > INT64_MAX / 1000 ? ks->opt.now_ms : s * 1000;
}

/* Seconds or milliseconds, from now or from 1970, as unix time in milliseconds. */
static int cmd_time(rdbkit_keyspace *ks, i64 v, int seconds, int relative, i64 *ms) {
    if (seconds && (v > INT64_MAX / 1000 || v < INT64_MIN / 1000))
        return ks_refuse(ks, "invalid expire time");
    *ms = seconds ? v * 1000 : v;
    if (!relative) return 0;
    const i64 now = cmd_now(ks);
    if (*ms > 0 ? now > INT64_MAX - *ms : now < INT64_MIN - *ms) return ks_refuse(ks, "invalid expire time");
    *ms += now;
    return ks_event(ks, RDBKIT_REPLAY_RELATIVE, "a time that counts from when the file is loaded");
}

/* Whether a word is EX, PX, EXAT or PXAT, and then which. */
static int cmd_is_time(rdbkit_str word, int *seconds, int *relative) {
    *seconds = cmd_is(word, "ex") || cmd_is(word, "exat");
    *relative = cmd_is(word, "ex") || cmd_is(word, "px");
    return *seconds || *relative || cmd_is(word, "pxat");
}

/* The value of such an option, which has to be positive. */
static int cmd_time_option(rdbkit_keyspace *ks, rdbkit_str value, int seconds, int relative, i64 *ms) {
    i64 v;
    int st = cmd_int(ks, value, &v);
    if (!st && v <= 0) st = ks_refuse(ks, "invalid expire time");
    return st ? st : cmd_time(ks, v, seconds, relative, ms);
}

enum { CMD_IF_NX = 1, CMD_IF_XX = 2, CMD_IF_GT = 4, CMD_IF_LT = 8 };

/* The condition that a word is, or 0. */
static unsigned cmd_condition(rdbkit_str word) {
    return cmd_is(word, "nx")   ? CMD_IF_NX
           : cmd_is(word, "xx") ? CMD_IF_XX
           : cmd_is(word, "gt") ? CMD_IF_GT
           : cmd_is(word, "lt") ? CMD_IF_LT
                                : 0;
}

/* Whether an expiry may take the place of the old one. None counts as one that never comes. */
static int cmd_condition_holds(unsigned c, i64 old, i64 ms) {
    const int has = old != RDBKIT_NO_EXPIRY;
    if ((c & CMD_IF_NX) && has) return 0;
    if ((c & CMD_IF_XX) && !has) return 0;
    if ((c & CMD_IF_GT) && (!has || ms <= old)) return 0;
    if ((c & CMD_IF_LT) && has && ms >= old) return 0;
    return 1;
}

/* Whether conditions may stand together. */
static int cmd_conditions_fit(unsigned c) {
    return !((c & CMD_IF_NX) && c != CMD_IF_NX) && !((c & CMD_IF_GT) && (c & CMD_IF_LT));
}

/* ---- scores ---- */

PORT_INLINE int cmd_hex_digit(u8 c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* mantissa * 2^exp2 as the bits of the nearest double, ties to even; sticky: a little more than that. The
 * mantissa is not 0. */
static u64 cmd_round_double(u64 mantissa, int exp2, int sticky) {
    const int zeros = port_clz64(mantissa), e = exp2 - zeros + 63; /* the value lies in [2^e, 2^(e+1)) */
    const int drop = e >= -1022 ? 11 : -1011 - e;
    mantissa <<= zeros;
    if (e > 1023) return (u64)0x7ff << 52;
    if (drop > 64) return 0;
    const u64 half = (u64)1 << (drop - 1), rest = drop == 64 ? mantissa : mantissa & (half - 1 + half);
    u64 kept = drop == 64 ? 0 : mantissa >> drop;
    kept += rest > half || (rest == half && (sticky || (kept & 1)));
    return e >= -1022 ? ((u64)(e + 1022) << 52) + kept
                      : kept; /* the top bit of kept counts in the exponent */
}

/* What stands behind 0x, without a sign. Like strtod() and errno in one: 0, or -1 also for a number too
 * large or small. */
static int cmd_parse_hex_double(const u8 *p, const u8 *end, double *v) {
    u64 m = 0;
    int sticky = 0, seen = 0, point = 0, exp2 = 0, e = 0, digit;
    if (end - p > NUM_TEXT_MAX) return -1;
    for (; p < end; p++) {
        if (*p == '.' && !point++) continue;
        if ((digit = cmd_hex_digit(*p)) < 0) break;
        seen = 1;
        if (m >> 60) sticky |= digit, exp2 += point ? 0 : 4;
        else m = m << 4 | (u64)digit, exp2 -= point ? 4 : 0;
    }
    if (!seen) return -1;
    if (p < end && (*p | 32) == 'p') {
        const int neg = ++p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) p++;
        if (p == end) return -1;
        for (; p < end && *p >= '0' && *p <= '9'; p++)
            if (e < 100000) e = e * 10 + (*p - '0');
        exp2 += neg ? -e : e;
    }
    if (p != end) return -1;
    const u64 bits = m ? cmd_round_double(m, exp2, sticky) : 0;
    memcpy(v, &bits, 8);
    return (m && bits == 0) || isinf(*v) ? -1 : 0;
}

/* Decimal digits that are not all 0, of a text without a sign that num_parse_double() took. */
static int cmd_is_nonzero(const u8 *p, const u8 *end) {
    for (; p < end && (*p | 32) != 'e'; p++)
        if (*p >= '1' && *p <= '9') return 1;
    return 0;
}

static int cmd_parse_double(const u8 *p, const u8 *end, double *v) {
    const int sign = p < end && (*p == '-' || *p == '+'), neg = sign && *p == '-';
    p += sign;
    if (p == end || *p == '-' || *p == '+') return -1;
    int st;
    if (end - p >= 2 && p[0] == '0' && (p[1] | 32) == 'x') {
        st = cmd_parse_hex_double(p + 2, end, v);
    } else {
        st = num_parse_double(p, (size_t)(end - p), v);
        if (!st && (isnan(*v) || (isinf(*v) && (*p | 32) != 'i') || (*v == 0 && cmd_is_nonzero(p, end))))
            st = -1;
    }
    if (neg && !st) *v = -*v;
    return st;
}

/* A score as strtod takes it, hexadecimal too; not NaN, no blanks, no overflow, no underflow to 0. */
static int cmd_double(rdbkit_keyspace *ks, rdbkit_str s, double *v) {
    const u8 *p = (const u8 *)s.data;
    return s.len && cmd_parse_double(p, p + s.len, v) == 0 ? 0 : ks_refuse(ks, "not a valid float");
}

/* ==== [36] cmd_ : commands of lists, sets, sorted sets and hashes ====
 *
 * First what these types share. Tests: tests/test_keyspace.c, tests/test_structs.c, tests/aof_test.py */

/* An integer that is at least min. */
static int cmd_int_from(rdbkit_keyspace *ks, rdbkit_str s, i64 min, i64 *v) {
    int st = cmd_int(ks, s, v);
    return !st && *v < min ? ks_refuse(ks, "value is out of range") : st;
}

/* Whether it is the blocking form of a command: in a file it does what it does if it need not wait. */
static int cmd_blocks(rdbkit_str name) { return (name.data[0] | 32) == 'b'; }

static int cmd_timeout(rdbkit_keyspace *ks, rdbkit_str s) {
    double seconds;
    int st = cmd_double(ks, s, &seconds);
    return !st && !(seconds >= 0 && seconds < 9e15) ? ks_refuse(ks, "timeout is out of range") : st;
}

/* The end of a change: a collection without elements goes. */
static int cmd_done(rdbkit_keyspace *ks, ks_key *k, int st) {
    ks_drop_empty(ks, k);
    return st;
}

/* The first of n keys that is there; *k is NULL if none is. */
static int cmd_first(rdbkit_keyspace *ks, const rdbkit_str *name, size_t n, rdbkit_shape shape, ks_key **k) {
    int st = 0;
    *k = NULL;
    for (size_t i = 0; i < n && !st && !*k; i++) st = ks_get(ks, name[i], shape, k);
    return st;
}

/* What "first to last", with negative numbers counted from the end, means for n items: [*from, *to). */
static void cmd_span(i64 first, i64 last, u64 n, u64 *from, u64 *to) {
    if (first < 0) first += (i64)n;
    if (last < 0) last += (i64)n;
    if (first < 0) first = 0;
    *from = *to = 0;
    if (first > last || (u64)first >= n) return;
    *from = (u64)first;
    *to = (u64)last < n ? (u64)last + 1 : n;
}

/* The arguments behind the timeout of LMPOP, ZMPOP and their like: keys, which end, how many. */
typedef struct cmd_mpop {
    const rdbkit_str *key;
    size_t keys_n;
    int front; /* LEFT, MIN */
    i64 count;
} cmd_mpop;

static int cmd_mpop_args(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, const char *const end[2],
                         cmd_mpop *m) {
    i64 keys_n;
    int st = 0;
    if (cmd_blocks(a[0])) {
        st = cmd_timeout(ks, a[1]);
        a++, n--;
    }
    if (!st) st = cmd_int_from(ks, a[1], 1, &keys_n);
    if (st) return st;
    if ((u64)keys_n > n - 2 || n - 2 - (size_t)keys_n == 0) return ks_refuse(ks, "syntax error");
    const size_t at = 2 + (size_t)keys_n;
    *m = (cmd_mpop){a + 2, (size_t)keys_n, cmd_is(a[at], end[0]), 1};
    if (!m->front && !cmd_is(a[at], end[1])) return ks_refuse(ks, "syntax error");
    if (n == at + 1) return 0;
    if (n != at + 3 || !cmd_is(a[at + 1], "count")) return ks_refuse(ks, "syntax error");
    return cmd_int_from(ks, a[at + 2], 1, &m->count);
}

/* ---- lists ---- */

static int cmd_list_push(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, int front, int make) {
    ks_key *k;
    int st = make ? ks_make(ks, a[1], RDBKIT_LIST, &k) : ks_get(ks, a[1], RDBKIT_LIST, &k);
    if (st || !k) return st;
    for (size_t i = 2; !st && i < n; i++) st = ks_status(ks, obj_list_push(&ks->env, k->v.p, front, a[i]));
    return cmd_done(ks, k, st);
}

static int cmd_rpush(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_list_push(ks, a, n, 0, 1);
}

static int cmd_lpush(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_list_push(ks, a, n, 1, 1);
}

static int cmd_rpushx(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_list_push(ks, a, n, 0, 0);
}

static int cmd_lpushx(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_list_push(ks, a, n, 1, 0);
}

/* Take up to count items from an end. */
static void cmd_list_cut(rdbkit_keyspace *ks, ks_key *k, int front, u64 count) {
    obj_list *l = k->v.p;
    const u64 keep = count < l->n ? l->n - count : 0;
    obj_list_trim(&ks->env, l, front ? l->n - keep : 0, front ? l->n : keep);
    ks_drop_empty(ks, k);
}

static int cmd_list_pop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, int front) {
    i64 count = 1;
    ks_key *k;
    if (n > 3) return ks_refuse(ks, "wrong number of arguments");
    int st = n > 2 ? cmd_int_from(ks, a[2], 0, &count) : 0;
    if (!st) st = ks_get(ks, a[1], RDBKIT_LIST, &k);
    if (!st && k) cmd_list_cut(ks, k, front, (u64)count);
    return st;
}

static int cmd_lpop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) { return cmd_list_pop(ks, a, n, 1); }

static int cmd_rpop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) { return cmd_list_pop(ks, a, n, 0); }

/* BLPOP and BRPOP. */
static int cmd_blpop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    int st = cmd_timeout(ks, a[n - 1]);
    if (!st) st = cmd_first(ks, a + 1, n - 2, RDBKIT_LIST, &k);
    if (!st && k) cmd_list_cut(ks, k, cmd_is(a[0], "blpop"), 1);
    return st;
}

/* LMPOP and BLMPOP. */
static int cmd_lmpop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    static const char *const ends[2] = {"left", "right"};
    cmd_mpop m;
    ks_key *k;
    int st = cmd_mpop_args(ks, a, n, ends, &m);
    if (!st) st = cmd_first(ks, m.key, m.keys_n, RDBKIT_LIST, &k);
    if (!st && k) cmd_list_cut(ks, k, m.front, (u64)m.count);
    return st;
}

static int cmd_linsert(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int before = cmd_is(a[2], "before");
    ks_key *k;
    (void)n;
    if (!before && !cmd_is(a[2], "after")) return ks_refuse(ks, "syntax error");
    int st = ks_get(ks, a[1], RDBKIT_LIST, &k);
    if (st || !k) return st;
    for (obj_list_at at = obj_list_begin(k->v.p); at.node;) {
        const obj_list_at here = at;
        if (!seq_same(obj_list_next(&at), a[3])) continue;
        return ks_status(ks, obj_list_insert(&ks->env, k->v.p, before ? here : at, a[4]));
    }
    return 0;
}

static int cmd_lset(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 i;
    ks_key *k;
    (void)n;
    int st = ks_get(ks, a[1], RDBKIT_LIST, &k);
    if (!st && !k) st = ks_refuse(ks, "no such key");
    if (!st) st = cmd_int(ks, a[2], &i);
    if (st) return st;
    obj_list *l = k->v.p;
    if (i < 0) i += (i64)l->n;
    if (i < 0 || (u64)i >= l->n) return ks_refuse(ks, "index out of range");
    obj_list_at at = obj_list_index(l, (u64)i);
    const rdbkit_str old = obj_list_item(at);
    if (old.len == a[3].len) {
        port_copy(at.node->items.data + (old.data - (const char *)at.node->items.data), a[3].data, a[3].len);
        return 0;
    }
    at = obj_list_remove(&ks->env, l, at);
    return cmd_done(ks, k, ks_status(ks, obj_list_insert(&ks->env, l, at, a[3])));
}

static void cmd_lrem_front(const obj_env *e, obj_list *l, rdbkit_str item, u64 count) {
    for (obj_list_at at = obj_list_begin(l); at.node && count;) {
        const obj_list_at here = at;
        if (!seq_same(obj_list_next(&at), item)) continue;
        at = obj_list_remove(e, l, here);
        count--;
    }
}

static void cmd_lrem_back(const obj_env *e, obj_list *l, rdbkit_str item, u64 count) {
    obj_node *prev;
    for (obj_node *node = l->tail; node && count; node = prev) {
        prev = node->prev;
        u32 left = node->items.n;
        for (seq_at at = node->items.end; left && count; left--) {
            if (!seq_same(seq_prev(&node->items, &at), item)) continue;
            const int last = node->items.n == 1;
            const obj_list_at next = obj_list_remove(e, l, (obj_list_at){node, at});
            count--;
            if (last) break; /* the node is gone */
            at = next.node == node ? next.at : node->items.end;
        }
    }
}

static int cmd_lrem(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 count;
    ks_key *k;
    (void)n;
    int st = cmd_int(ks, a[2], &count);
    if (!st) st = ks_get(ks, a[1], RDBKIT_LIST, &k);
    if (st || !k) return st;
    if (count < 0) cmd_lrem_back(&ks->env, k->v.p, a[3], 0 - (u64)count);
    else cmd_lrem_front(&ks->env, k->v.p, a[3], count ? (u64)count : UINT64_MAX);
    return cmd_done(ks, k, 0);
}

static int cmd_ltrim(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 first, last;
    u64 from, to;
    ks_key *k;
    (void)n;
    int st = cmd_int(ks, a[2], &first);
    if (!st) st = cmd_int(ks, a[3], &last);
    if (!st) st = ks_get(ks, a[1], RDBKIT_LIST, &k);
    if (st || !k) return st;
    obj_list *l = k->v.p;
    cmd_span(first, last, l->n, &from, &to);
    obj_list_trim(&ks->env, l, from, to);
    return cmd_done(ks, k, 0);
}

static rdbkit_str cmd_list_end(const obj_list *l, int front) {
    return obj_list_item(obj_list_index(l, front ? 0 : l->n - 1));
}

/* One item goes from an end of a list to its other end; the list has two items or more. */
static int cmd_list_rotate(rdbkit_keyspace *ks, ks_key *k, int front) {
    const rdbkit_str item = cmd_list_end(k->v.p, front);
    mem_buf *b = &ks->tmp[0];
    b->len = 0;
    int st = ks_status(ks, mem_buf_add(ks->env.mem, b, item.data, item.len));
    if (st) return st;
    cmd_list_cut(ks, k, front, 1);
    return ks_status(ks,
                     obj_list_push(&ks->env, k->v.p, !front, (rdbkit_str){(const char *)b->data, b->len}));
}

static int cmd_list_move(rdbkit_keyspace *ks, const rdbkit_str *a, int from_front, int to_front) {
    ks_key *from, *to;
    int st = ks_get(ks, a[1], RDBKIT_LIST, &from);
    if (st || !from) return st;
    st = ks_make(ks, a[2], RDBKIT_LIST, &to);
    if (st) return st;
    if (to == from) {
        const int stays = from_front == to_front || ks_count(from) < 2;
        return stays ? 0 : cmd_list_rotate(ks, from, from_front);
    }
    st = ks_status(ks, obj_list_push(&ks->env, to->v.p, to_front, cmd_list_end(from->v.p, from_front)));
    if (st) return cmd_done(ks, to, st);
    cmd_list_cut(ks, from, from_front, 1);
    return 0;
}

/* RPOPLPUSH and BRPOPLPUSH. */
static int cmd_rpoplpush(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    int st = n > 3 ? cmd_timeout(ks, a[3]) : 0;
    return st ? st : cmd_list_move(ks, a, 0, 1);
}

/* LMOVE and BLMOVE. */
static int cmd_lmove(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int from_front = cmd_is(a[3], "left"), to_front = cmd_is(a[4], "left");
    if (!from_front && !cmd_is(a[3], "right")) return ks_refuse(ks, "syntax error");
    if (!to_front && !cmd_is(a[4], "right")) return ks_refuse(ks, "syntax error");
    int st = n > 5 ? cmd_timeout(ks, a[5]) : 0;
    return st ? st : cmd_list_move(ks, a, from_front, to_front);
}

/* ---- sets ---- */

static int cmd_sadd(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    int st = ks_make(ks, a[1], RDBKIT_SET, &k);
    if (st) return st;
    for (size_t i = 2; !st && i < n; i++) st = ks_status(ks, obj_set_add(&ks->env, k->v.p, a[i]));
    return cmd_done(ks, k, st);
}

/* SREM, HDEL, ZREM. */
static int cmd_remove(rdbkit_keyspace *ks, const rdbkit_str *key, const rdbkit_str *a, size_t n,
                      rdbkit_shape shape) {
    ks_key *k;
    int st = ks_get(ks, *key, shape, &k);
    if (st || !k) return st;
    for (size_t i = 0; i < n; i++) {
        if (shape == RDBKIT_SET) (void)obj_set_remove(&ks->env, k->v.p, a[i]);
        else if (shape == RDBKIT_HASH) (void)obj_hash_remove(&ks->env, k->v.p, a[i]);
        else (void)obj_zset_remove(&ks->env, k->v.p, a[i]);
    }
    return cmd_done(ks, k, 0);
}

static int cmd_srem(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_remove(ks, a + 1, a + 2, n - 2, RDBKIT_SET);
}

static int cmd_smove(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *from, *to;
    (void)n;
    int st = ks_get(ks, a[1], RDBKIT_SET, &from);
    if (st || !from) return st;
    st = ks_get(ks, a[2], RDBKIT_SET, &to);
    if (st || to == from || !obj_set_has(&ks->env, from->v.p, a[3])) return st;
    if (!to && (st = ks_make(ks, a[2], RDBKIT_SET, &to)) != 0) return st;
    st = ks_status(ks, obj_set_add(&ks->env, to->v.p, a[3]));
    if (st) return cmd_done(ks, to, st);
    (void)obj_set_remove(&ks->env, from->v.p, a[3]);
    return cmd_done(ks, from, 0);
}

static int cmd_spop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 count = 1;
    ks_key *k;
    if (n > 3) return ks_refuse(ks, "syntax error");
    int st = n > 2 ? cmd_int_from(ks, a[2], 0, &count) : 0;
    if (!st) st = ks_get(ks, a[1], RDBKIT_SET, &k);
    if (st || !k || count == 0) return st;
    if ((u64)count < ks_count(k))
        return ks_event(ks, RDBKIT_REPLAY_UNSURE, "SPOP takes random members: skipped");
    (void)ks_drop(ks, a[1]);
    return 0;
}

/* ---- several sets or sorted sets make one ---- */

enum cmd_setop { CMD_UNION, CMD_INTER, CMD_DIFF };

/* How the scores of a member become one. */
enum cmd_aggregate { CMD_SUM, CMD_MIN, CMD_MAX };

/* One input; a key that is not there is an empty set. */
typedef struct cmd_input {
    const obj_coll *coll; /* NULL: empty */
    u64 n;
    double weight;
    size_t index;
    int is_set;
} cmd_input;

typedef struct cmd_input_at {
    obj_iter set;
    obj_zset_at zset;
} cmd_input_at;

typedef struct cmd_combine {
    rdbkit_keyspace *ks;
    cmd_input *in; /* in ks->tmp[0] */
    size_t n;
    enum cmd_aggregate aggregate;
    rdbkit_shape shape; /* of the result */
    void *out;
} cmd_combine;

static cmd_input_at cmd_input_begin(const cmd_input *in) {
    cmd_input_at at = {OBJ_BEGIN, {0, {0, 0}}};
    if (in->coll && !in->is_set) at.zset = obj_zset_index(in->coll, 0);
    return at;
}

/* The next member: 1, or 0 at the end. The score is not weighted. */
static int cmd_input_next(const cmd_input *in, cmd_input_at *at, rdbkit_str *member, double *score) {
    if (!in->coll) return 0;
    if (!in->is_set) return obj_zset_next(in->coll, &at->zset, member, score);
    *score = 1;
    return obj_set_next(in->coll, &at->set, member);
}

static int cmd_input_has(const cmd_combine *c, const cmd_input *in, rdbkit_str member, double *score) {
    *score = 1;
    if (!in->coll) return 0;
    return in->is_set ? obj_set_has(&c->ks->env, in->coll, member)
                      : obj_zset_score(&c->ks->env, in->coll, member, score);
}

/* The inputs of a command; those of a set may not be sorted sets. */
static int cmd_inputs(cmd_combine *c, const rdbkit_str *key, size_t n) {
    rdbkit_keyspace *ks = c->ks;
    mem_buf *b = &ks->tmp[0];
    b->len = 0;
    if (n > SIZE_MAX / sizeof *c->in || mem_buf_room(ks->env.mem, b, n * sizeof *c->in)) return ks_nomem(ks);
    c->in = (cmd_input *)(void *)b->data;
    c->n = n;
    for (size_t i = 0; i < n; i++) {
        ks_key *k = ks_find(ks, key[i]);
        const int is_set = k && k->shape == RDBKIT_SET;
        int st = k ? ks_get(ks, key[i], is_set ? RDBKIT_SET : c->shape, &k) : 0;
        if (st) return st;
        c->in[i] = (cmd_input){k ? k->v.p : NULL, k ? ks_count(k) : 0, 1, i, is_set};
    }
    return 0;
}

static int cmd_input_cmp(const void *a, const void *b) {
    const cmd_input *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int cmd_combine_put(cmd_combine *c, rdbkit_str member, double score) {
    const obj_env *e = &c->ks->env;
    return ks_status(c->ks, c->shape == RDBKIT_SET ? obj_set_add(e, c->out, member)
                                                   : obj_zset_put(e, c->out, member, score));
}

/* The comparisons are those of servers: what is not a number never wins. */
static double cmd_aggregate_two(enum cmd_aggregate aggregate, double a, double b) {
    if (aggregate == CMD_MIN) return b < a ? b : a;
    if (aggregate == CMD_MAX) return b > a ? b : a;
    return isnan(a + b) ? 0 : a + b;
}

static double cmd_weighted(const cmd_input *in, double score) {
    const double v = in->weight * score;
    return isnan(v) ? 0 : v;
}

static int cmd_union(cmd_combine *c) {
    rdbkit_str member;
    double score, old;
    int st = 0;
    for (size_t i = 0; i < c->n; i++) {
        const cmd_input *in = &c->in[i];
        cmd_input_at at = cmd_input_begin(in);
        while (!st && cmd_input_next(in, &at, &member, &score)) {
            score = cmd_weighted(in, score);
            if (i > 0 && c->shape == RDBKIT_ZSET && obj_zset_score(&c->ks->env, c->out, member, &old))
                score = cmd_aggregate_two(c->aggregate, old, score);
            st = cmd_combine_put(c, member, score);
        }
    }
    return st;
}

static int cmd_inter(cmd_combine *c) {
    rdbkit_str member;
    double score, other;
    int st = 0;
    cmd_input_at at = cmd_input_begin(c->in);
    while (!st && cmd_input_next(c->in, &at, &member, &score)) {
        size_t i = 1;
        score = cmd_weighted(c->in, score);
        for (; i < c->n && cmd_input_has(c, &c->in[i], member, &other); i++)
            score = cmd_aggregate_two(c->aggregate, score, c->in[i].weight * other);
        if (i == c->n) st = cmd_combine_put(c, member, score);
    }
    return st;
}

/* Whether a member of the first input is in none of the others. */
static int cmd_only_first(const cmd_combine *c, rdbkit_str member) {
    double score;
    for (size_t i = 1; i < c->n; i++)
        if (cmd_input_has(c, &c->in[i], member, &score)) return 0;
    return 1;
}

/* Look each member of the first up in all others, or take out of a copy of the first what they have: what is less. */
static int cmd_diff(cmd_combine *c) {
    const obj_env *e = &c->ks->env;
    u64 others = 0;
    rdbkit_str member;
    double score;
    int st = 0;
    for (size_t i = 1; i < c->n; i++) others += c->in[i].n;
    const int look_up = (c->in[0].n + others) / c->n >= c->in[0].n / 2;
    cmd_input_at at = cmd_input_begin(c->in);
    while (!st && cmd_input_next(c->in, &at, &member, &score))
        if (!look_up || cmd_only_first(c, member)) st = cmd_combine_put(c, member, score);
    for (size_t i = 1; !st && !look_up && i < c->n; i++) {
        at = cmd_input_begin(&c->in[i]);
        while (cmd_input_next(&c->in[i], &at, &member, &score))
            (void)(c->shape == RDBKIT_SET ? obj_set_remove(e, c->out, member)
                                          : obj_zset_remove(e, c->out, member));
    }
    return st;
}

/* Make the result and store it. Servers add up scores beginning with the smallest input. */
static int cmd_combine_store(cmd_combine *c, enum cmd_setop op, rdbkit_str to) {
    rdbkit_keyspace *ks = c->ks;
    if (op != CMD_DIFF) qsort(c->in, c->n, sizeof *c->in, cmd_input_cmp);
    c->out = ks_value_new(ks, c->shape);
    if (!c->out) return ks_nomem(ks);
    int st = op == CMD_UNION ? cmd_union(c) : op == CMD_INTER ? cmd_inter(c) : cmd_diff(c);
    if (!st) return ks_store(ks, to, c->shape, c->out);
    ks_value_free(ks, c->shape, c->out);
    return st;
}

/* Servers before 7.0 looked at the sets of an intersection one by one, and at none behind the first that is missing. */
static int cmd_inter_is_empty(rdbkit_keyspace *ks, const rdbkit_str *key, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const ks_key *k = ks_find(ks, key[i]);
        if (!k || k->shape != RDBKIT_SET) return !k;
    }
    return 0;
}

static int cmd_set_store(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, enum cmd_setop op) {
    cmd_combine c = {ks, NULL, 0, CMD_SUM, RDBKIT_SET, NULL};
    if (op == CMD_INTER && ks_before(ks, 700) && cmd_inter_is_empty(ks, a + 2, n - 2))
        return (void)ks_drop(ks, a[1]), 0;
    int st = cmd_inputs(&c, a + 2, n - 2);
    return st ? st : cmd_combine_store(&c, op, a[1]);
}

static int cmd_sinterstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_set_store(ks, a, n, CMD_INTER);
}

static int cmd_sunionstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_set_store(ks, a, n, CMD_UNION);
}

static int cmd_sdiffstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_set_store(ks, a, n, CMD_DIFF);
}

/* WEIGHTS and AGGREGATE, in any order; the last one of a kind counts. */
static int cmd_combine_options(cmd_combine *c, const rdbkit_str *a, size_t n) {
    size_t i = 0;
    while (i < n) {
        if (n - i > c->n && cmd_is(a[i], "weights")) {
            for (size_t j = 0; j < c->n; j++) {
                int st = cmd_double(c->ks, a[i + 1 + j], &c->in[j].weight);
                if (st) return st;
            }
            i += 1 + c->n;
            continue;
        }
        if (n - i < 2 || !cmd_is(a[i], "aggregate")) return ks_refuse(c->ks, "syntax error");
        if (cmd_is(a[i + 1], "sum")) c->aggregate = CMD_SUM;
        else if (cmd_is(a[i + 1], "min")) c->aggregate = CMD_MIN;
        else if (cmd_is(a[i + 1], "max")) c->aggregate = CMD_MAX;
        else return ks_refuse(c->ks, "syntax error");
        i += 2;
    }
    return 0;
}

static int cmd_zset_store(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, enum cmd_setop op) {
    cmd_combine c = {ks, NULL, 0, CMD_SUM, RDBKIT_ZSET, NULL};
    i64 keys_n;
    int st = cmd_int_from(ks, a[2], 1, &keys_n);
    if (!st && (u64)keys_n > n - 3) st = ks_refuse(ks, "syntax error");
    if (st) return st;
    const size_t at = 3 + (size_t)keys_n;
    if (op == CMD_DIFF && n > at) return ks_refuse(ks, "syntax error");
    st = cmd_inputs(&c, a + 3, (size_t)keys_n);
    if (!st) st = cmd_combine_options(&c, a + at, n - at);
    return st ? st : cmd_combine_store(&c, op, a[1]);
}

static int cmd_zinterstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_zset_store(ks, a, n, CMD_INTER);
}

static int cmd_zunionstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_zset_store(ks, a, n, CMD_UNION);
}

static int cmd_zdiffstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_zset_store(ks, a, n, CMD_DIFF);
}

/* ---- sorted sets ---- */

typedef struct cmd_zadd_options {
    int nx, xx, gt, lt, incr;
} cmd_zadd_options;

/* The options of ZADD; returns where the first score stands. */
static size_t cmd_zadd_options_of(const rdbkit_str *a, size_t n, cmd_zadd_options *o) {
    size_t i = 2;
    for (; i < n; i++) {
        if (a[i].len == 0 || (a[i].data[0] & 0x5f) < 'A') break; /* no letter */
        if (cmd_is(a[i], "nx")) o->nx = 1;
        else if (cmd_is(a[i], "xx")) o->xx = 1;
        else if (cmd_is(a[i], "gt")) o->gt = 1;
        else if (cmd_is(a[i], "lt")) o->lt = 1;
        else if (cmd_is(a[i], "incr")) o->incr = 1;
        else if (!cmd_is(a[i], "ch")) break;
    }
    return i;
}

/* Add a member, or change its score, as the options say. */
static int cmd_zadd_one(rdbkit_keyspace *ks, obj_coll *z, const cmd_zadd_options *o, rdbkit_str member,
                        double score) {
    const int plain = !(o->nx || o->xx || o->gt || o->lt || o->incr);
    double old;
    /* a score that is equal does not change: 0 stays 0 where -0 comes */
    if (plain && score != 0) return ks_status(ks, obj_zset_put(&ks->env, z, member, score));
    const int exists = obj_zset_score(&ks->env, z, member, &old);
    if (exists ? o->nx : o->xx) return 0;
    if (exists) {
        if (o->incr) score += old;
        if (isnan(score)) return ks_refuse(ks, "the score would not be a number");
        if (score == old || (o->gt && score < old) || (o->lt && score > old)) return 0;
    }
    return ks_status(ks, obj_zset_put(&ks->env, z, member, score));
}

/* The scores of ZADD: one stays on the stack, more go to ks->tmp[0]. */
static int cmd_zadd_scores(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, double *one,
                           const double **scores) {
    *scores = one;
    if (n == 1) return cmd_double(ks, a[0], one);
    mem_buf *b = &ks->tmp[0];
    b->len = 0;
    for (size_t i = 0; i < n; i++) {
        double score;
        int st = cmd_double(ks, a[2 * i], &score);
        if (!st) st = ks_status(ks, mem_buf_add(ks->env.mem, b, &score, sizeof score));
        if (st) return st;
    }
    *scores = (const double *)(const void *)b->data;
    return 0;
}

/* Score and member, n times. */
static int cmd_zadd_pairs(rdbkit_keyspace *ks, rdbkit_str key, const cmd_zadd_options *o, const rdbkit_str *a,
                          size_t n) {
    double one;
    const double *scores;
    ks_key *k;
    int st = cmd_zadd_scores(ks, a, n, &one, &scores);
    if (!st) st = o->xx ? ks_get(ks, key, RDBKIT_ZSET, &k) : ks_make(ks, key, RDBKIT_ZSET, &k);
    if (st || !k) return st;
    for (size_t i = 0; !st && i < n; i++) st = cmd_zadd_one(ks, k->v.p, o, a[2 * i + 1], scores[i]);
    return cmd_done(ks, k, st);
}

static int cmd_zadd(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_zadd_options o = {0, 0, 0, 0, 0};
    const size_t i = cmd_zadd_options_of(a, n, &o);
    if (i == n || (n - i) % 2) return ks_refuse(ks, "syntax error");
    if (o.nx + o.gt + o.lt > 1 || (o.nx && o.xx)) return ks_refuse(ks, "options that exclude each other");
    if (o.incr && n - i > 2) return ks_refuse(ks, "INCR with more than one member");
    return cmd_zadd_pairs(ks, a[1], &o, a + i, (n - i) / 2);
}

static int cmd_zincrby(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const cmd_zadd_options o = {0, 0, 0, 0, 1};
    (void)n;
    return cmd_zadd_pairs(ks, a[1], &o, a + 2, 1);
}

static int cmd_zrem(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_remove(ks, a + 1, a + 2, n - 2, RDBKIT_ZSET);
}

/* Take up to count members from an end. */
static void cmd_zset_cut(rdbkit_keyspace *ks, ks_key *k, int front, u64 count) {
    const u64 all = ks_count(k), n = count < all ? count : all;
    if (n == all) (void)ks_drop(ks, ks_key_name(k));
    else obj_zset_remove_ranks(&ks->env, k->v.p, front ? 0 : all - n, n);
}

static int cmd_zset_pop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, int front) {
    i64 count = 1;
    ks_key *k;
    if (n > 3) return ks_refuse(ks, "syntax error");
    int st = n > 2 ? cmd_int_from(ks, a[2], 0, &count) : 0;
    if (!st) st = ks_get(ks, a[1], RDBKIT_ZSET, &k);
    if (!st && k) cmd_zset_cut(ks, k, front, (u64)count);
    return st;
}

static int cmd_zpopmin(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_zset_pop(ks, a, n, 1);
}

static int cmd_zpopmax(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_zset_pop(ks, a, n, 0);
}

/* BZPOPMIN and BZPOPMAX. */
static int cmd_bzpop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    int st = cmd_timeout(ks, a[n - 1]);
    if (!st) st = cmd_first(ks, a + 1, n - 2, RDBKIT_ZSET, &k);
    if (!st && k) cmd_zset_cut(ks, k, cmd_is(a[0], "bzpopmin"), 1);
    return st;
}

/* ZMPOP and BZMPOP. */
static int cmd_zmpop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    static const char *const ends[2] = {"min", "max"};
    cmd_mpop m;
    ks_key *k;
    int st = cmd_mpop_args(ks, a, n, ends, &m);
    if (!st) st = cmd_first(ks, m.key, m.keys_n, RDBKIT_ZSET, &k);
    if (!st && k) cmd_zset_cut(ks, k, m.front, (u64)m.count);
    return st;
}

/* ---- ranges of sorted sets ---- */

enum cmd_by { CMD_BY_RANK, CMD_BY_SCORE, CMD_BY_LEX };

/* A place between names: before or behind a name, or (end) before all (-1) or behind all (1). */
typedef struct cmd_lex {
    rdbkit_str name;
    int behind;
    int end;
} cmd_lex;

typedef struct cmd_range {
    enum cmd_by by;
    i64 first, last;
    double min, max;
    int min_open, max_open;
    cmd_lex from, to;
} cmd_range;

/* A bound of a range of scores. Servers take more here than for a score: what is too large is infinite, what is too
 * small or not there is 0, and those below 8 skip blanks. */
static int cmd_score_bound(rdbkit_keyspace *ks, rdbkit_str s, double *v, int *open) {
    *open = s.len > 0 && s.data[0] == '(';
    if (*open) s.data++, s.len--;
    *v = 0;
    if (s.len == 0) return 0;
    while (s.len > 1 && (*s.data == ' ' || (*s.data >= '\t' && *s.data <= '\r'))) s.data++, s.len--;
    if (num_parse_double((const u8 *)s.data, s.len, v) != 0) return cmd_double(ks, s, v);
    return isnan(*v) ? ks_refuse(ks, "min or max is not a float") : 0;
}

/* A bound of a range of names; is_max: the upper one. */
static int cmd_lex_bound(rdbkit_keyspace *ks, rdbkit_str s, int is_max, cmd_lex *lex) {
    const char c = s.len ? *s.data : 0;
    *lex = (cmd_lex){{s.data, 0}, 0, 0};
    if ((c == '-' || c == '+') && s.len == 1) return lex->end = c == '-' ? -1 : 1, 0;
    if (c != '[' && c != '(') return ks_refuse(ks, "min or max is not a valid range of strings");
    lex->name = (rdbkit_str){s.data + 1, s.len - 1};
    lex->behind = (c == '(') != is_max;
    return 0;
}

static int cmd_range_of(rdbkit_keyspace *ks, enum cmd_by by, rdbkit_str min, rdbkit_str max, cmd_range *r) {
    int st;
    memset(r, 0, sizeof *r);
    r->by = by;
    if (by == CMD_BY_RANK) {
        st = cmd_int(ks, min, &r->first);
        return st ? st : cmd_int(ks, max, &r->last);
    }
    if (by == CMD_BY_SCORE) {
        st = cmd_score_bound(ks, min, &r->min, &r->min_open);
        return st ? st : cmd_score_bound(ks, max, &r->max, &r->max_open);
    }
    st = cmd_lex_bound(ks, min, 0, &r->from);
    return st ? st : cmd_lex_bound(ks, max, 1, &r->to);
}

/* For ord_seek() in a set whose scores are equal. */
static int cmd_lex_cmp(const void *probe, const void *item) {
    const cmd_lex *lex = probe;
    const int c = obj_bytes_cmp(lex->name, obj_scored_name(item));
    return c ? c : lex->behind;
}

/* Whether a name stands before a place. */
static int cmd_lex_before(rdbkit_str name, const cmd_lex *lex) {
    if (lex->end) return lex->end > 0;
    const int c = obj_bytes_cmp(lex->name, name);
    return c > 0 || (c == 0 && lex->behind);
}

/* The first rank, from a rank on, whose name is not before a place. */
static u64 cmd_lex_walk(const obj_coll *z, const cmd_lex *lex, u64 rank) {
    obj_zset_at at = obj_zset_index(z, rank);
    rdbkit_str name;
    double score;
    for (; obj_zset_next(z, &at, &name, &score); rank++) {
        const int c = obj_bytes_cmp(lex->name, name);
        if (c < 0 || (c == 0 && !lex->behind)) break;
    }
    return rank;
}

/* Where names are not in order, servers come to a place by way of random shortcuts over 4, 16, 64 .. members on
 * average: take them to be exactly that long. */
static u64 cmd_lex_skip(const obj_coll *z, const cmd_lex *lex) {
    const u64 n = obj_zset_n(z);
    u64 at = 0, step = 1;
    rdbkit_str name;
    double score;
    while (step <= n / 4) step *= 4;
    for (; step > 0; step /= 4) {
        while (step <= n - at) {
            obj_zset_at place = obj_zset_index(z, at + step - 1);
            (void)obj_zset_next(z, &place, &name, &score);
            if (!cmd_lex_before(name, lex)) break;
            at += step;
        }
    }
    return at;
}

static u64 cmd_lex_rank(const obj_coll *z, const cmd_lex *lex, u64 rank, int mixed) {
    if (lex->end) return lex->end < 0 ? 0 : obj_zset_n(z);
    if (mixed && z->big && rank == 0) return cmd_lex_skip(z, lex);
    if (mixed || !z->big) return cmd_lex_walk(z, lex, rank);
    return ord_rank(&z->big->order, ord_seek(&z->big->order, lex, cmd_lex_cmp));
}

/* Whether the last name is not before a range, and the first one not behind it. */
static int cmd_lex_touches(const obj_coll *z, const cmd_range *r) {
    rdbkit_str first, last;
    double score;
    obj_zset_at head = obj_zset_index(z, 0), tail = obj_zset_index(z, obj_zset_n(z) - 1);
    (void)obj_zset_next(z, &head, &first, &score);
    (void)obj_zset_next(z, &tail, &last, &score);
    return !cmd_lex_before(last, &r->from) && cmd_lex_before(first, &r->to);
}

/* The ranks of a range of names. If scores differ, names are not in order, and where servers find the first one is
 * a matter of chance. */
static int cmd_lex_ranks(rdbkit_keyspace *ks, const obj_coll *z, const cmd_range *r, u64 *from, u64 *to) {
    rdbkit_str name;
    double low = 0, high = 0;
    int st = 0;
    obj_zset_at first = obj_zset_index(z, 0), last = obj_zset_index(z, obj_zset_n(z) - 1);
    (void)obj_zset_next(z, &first, &name, &low);
    (void)obj_zset_next(z, &last, &name, &high);
    const int mixed = low != high && !(r->from.end && r->to.end);
    if (mixed) st = ks_event(ks, RDBKIT_REPLAY_UNSURE, "a range of names where scores differ");
    *from = *to = 0;
    if (mixed && !z->big && !cmd_lex_touches(z, r))
        return st; /* a packed one is looked at from its ends first */
    *from = cmd_lex_rank(z, &r->from, 0, mixed);
    *to = mixed && !r->to.end ? cmd_lex_walk(z, &r->to, *from) : cmd_lex_rank(z, &r->to, *from, mixed);
    return st;
}

/* The ranks [*from, *to) of a range; the set is not empty. */
static int cmd_range_ranks(rdbkit_keyspace *ks, const obj_coll *z, const cmd_range *r, u64 *from, u64 *to) {
    int st = 0;
    if (r->by == CMD_BY_RANK) {
        cmd_span(r->first, r->last, obj_zset_n(z), from, to);
    } else if (r->by == CMD_BY_SCORE) {
        *from = obj_zset_below(z, r->min, r->min_open);
        *to = obj_zset_below(z, r->max, !r->max_open);
    } else {
        st = cmd_lex_ranks(ks, z, r, from, to);
    }
    if (*to < *from) *to = *from;
    return st;
}

static int cmd_zremrange(rdbkit_keyspace *ks, const rdbkit_str *a, enum cmd_by by) {
    cmd_range r;
    u64 from, to;
    ks_key *k;
    int st = cmd_range_of(ks, by, a[2], a[3], &r);
    if (!st) st = ks_get(ks, a[1], RDBKIT_ZSET, &k);
    if (st || !k) return st;
    st = cmd_range_ranks(ks, k->v.p, &r, &from, &to);
    if (st) return st;
    if (to - from == ks_count(k)) (void)ks_drop(ks, a[1]);
    else obj_zset_remove_ranks(&ks->env, k->v.p, from, to - from);
    return 0;
}

static int cmd_zremrangebyrank(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)n;
    return cmd_zremrange(ks, a, CMD_BY_RANK);
}

static int cmd_zremrangebyscore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)n;
    return cmd_zremrange(ks, a, CMD_BY_SCORE);
}

static int cmd_zremrangebylex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)n;
    return cmd_zremrange(ks, a, CMD_BY_LEX);
}

typedef struct cmd_zrange_options {
    enum cmd_by by;
    int rev;
    i64 offset, count;
} cmd_zrange_options;

static int cmd_zrange_options_of(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_zrange_options *o) {
    int by_set = 0;
    *o = (cmd_zrange_options){CMD_BY_RANK, 0, 0, -1};
    for (size_t i = 5; i < n; i++) {
        if (!by_set && cmd_is(a[i], "byscore")) o->by = CMD_BY_SCORE, by_set = 1;
        else if (!by_set && cmd_is(a[i], "bylex")) o->by = CMD_BY_LEX, by_set = 1;
        else if (!o->rev && cmd_is(a[i], "rev")) o->rev = 1;
        else if (n - i > 2 && cmd_is(a[i], "limit")) {
            int st = cmd_int(ks, a[i + 1], &o->offset);
            if (!st) st = cmd_int(ks, a[i + 2], &o->count);
            if (st) return st;
            i += 2;
        } else return ks_refuse(ks, "syntax error");
    }
    /* LIMIT 0 -1 takes all, with ranks too */
    if (o->by == CMD_BY_RANK && o->count != -1) return ks_refuse(ks, "LIMIT without BYSCORE or BYLEX");
    return 0;
}

/* Narrow ranks to what LIMIT leaves of them, and put them the right way round. */
static void cmd_zrange_limit(const cmd_zrange_options *o, u64 all, u64 *from, u64 *to) {
    if (o->by == CMD_BY_RANK) {
        const u64 low = *from;
        if (o->rev) *from = all - *to, *to = all - low;
        return;
    }
    const u64 n = *to - *from;
    const u64 skip = o->offset < 0 || (u64)o->offset > n ? n : (u64)o->offset;
    const u64 take = o->count < 0 || (u64)o->count > n - skip ? n - skip : (u64)o->count;
    *from = o->rev ? *to - skip - take : *from + skip;
    *to = *from + take;
}

static int cmd_zrange_copy(rdbkit_keyspace *ks, const obj_coll *from, u64 rank, u64 n, obj_coll *to) {
    obj_zset_at at = obj_zset_index(from, rank);
    rdbkit_str member;
    double score;
    int st = 0;
    for (; !st && n > 0 && obj_zset_next(from, &at, &member, &score); n--)
        st = ks_status(ks, obj_zset_put(&ks->env, to, member, score));
    return st;
}

static int cmd_zrangestore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_zrange_options o;
    cmd_range r;
    u64 from = 0, to = 0;
    ks_key *k;
    int st = cmd_zrange_options_of(ks, a, n, &o);
    const int swap = o.rev && o.by != CMD_BY_RANK;
    if (!st) st = cmd_range_of(ks, o.by, a[swap ? 4 : 3], a[swap ? 3 : 4], &r);
    if (!st) st = ks_get(ks, a[2], RDBKIT_ZSET, &k);
    if (!st && k) st = cmd_range_ranks(ks, k->v.p, &r, &from, &to);
    if (!st && o.offset < 0 && to > from && o.by != CMD_BY_RANK)
        st = ks_event(ks, RDBKIT_REPLAY_UNSURE,
                      "a negative offset: nothing, or counted from the end in later servers");
    if (st) return st;
    obj_coll *z = ks_value_new(ks, RDBKIT_ZSET);
    if (!z) return ks_nomem(ks);
    if (k) {
        cmd_zrange_limit(&o, ks_count(k), &from, &to);
        st = cmd_zrange_copy(ks, k->v.p, from, to - from, z);
    }
    if (!st) return ks_store(ks, a[1], RDBKIT_ZSET, z);
    ks_value_free(ks, RDBKIT_ZSET, z);
    return st;
}

/* ---- hashes ---- */

/* HSET and HMSET. */
static int cmd_hset(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    if (n % 2) return ks_refuse(ks, "wrong number of arguments");
    int st = ks_make(ks, a[1], RDBKIT_HASH, &k);
    if (st) return st;
    for (size_t i = 2; !st && i < n; i += 2)
        st = ks_status(ks, obj_hash_put(&ks->env, k->v.p, a[i], a[i + 1], RDBKIT_NO_EXPIRY));
    return cmd_done(ks, k, st);
}

static int cmd_hsetnx(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    rdbkit_str value;
    i64 expire_ms;
    ks_key *k;
    int st = ks_get(ks, a[1], RDBKIT_HASH, &k);
    if (st || (k && obj_hash_get(&ks->env, k->v.p, a[2], &value, &expire_ms))) return st;
    return cmd_hset(ks, a, n);
}

static int cmd_hdel(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_remove(ks, a + 1, a + 2, n - 2, RDBKIT_HASH);
}

/* The value of a field, "0" if there is none, and its expiry. */
static int cmd_hash_number(rdbkit_keyspace *ks, const rdbkit_str *a, rdbkit_str *value, i64 *expire_ms) {
    ks_key *k;
    *value = (rdbkit_str){"0", 1};
    *expire_ms = RDBKIT_NO_EXPIRY;
    int st = ks_get(ks, a[1], RDBKIT_HASH, &k);
    if (!st && k) (void)obj_hash_get(&ks->env, k->v.p, a[2], value, expire_ms);
    return st;
}

static int cmd_hash_put(rdbkit_keyspace *ks, const rdbkit_str *a, rdbkit_str value, i64 expire_ms) {
    ks_key *k;
    int st = ks_make(ks, a[1], RDBKIT_HASH, &k);
    if (st) return st;
    return cmd_done(ks, k, ks_status(ks, obj_hash_put(&ks->env, k->v.p, a[2], value, expire_ms)));
}

static int cmd_hincrby(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    u8 text[NUM_INT_MAX];
    rdbkit_str value;
    i64 by, v, expire_ms;
    (void)n;
    int st = cmd_int(ks, a[3], &by);
    if (!st) st = cmd_hash_number(ks, a, &value, &expire_ms);
    if (!st) st = cmd_int(ks, value, &v);
    if (st) return st;
    if (by > 0 ? v > INT64_MAX - by : v < INT64_MIN - by) return ks_refuse(ks, "the integer would overflow");
    const u8 *end = num_i64(text, v + by);
    return cmd_hash_put(ks, a, (rdbkit_str){(const char *)text, (size_t)(end - text)}, expire_ms);
}

static int cmd_hincrbyfloat(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    char text[CMD_FLOAT_MAX];
    rdbkit_str value;
    i64 expire_ms;
    size_t len;
    (void)n;
    int st = cmd_hash_number(ks, a, &value, &expire_ms);
    if (!st) st = cmd_add_float(ks, value, a[3], text, &len);
    return st ? st : cmd_hash_put(ks, a, (rdbkit_str){text, len}, expire_ms);
}

/* ---- fields of hashes that expire ---- */

/* The end of such a command: FIELDS, a number, and so many fields of so many arguments each. */
static int cmd_hash_fields(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t at, u64 each) {
    i64 count;
    if (n < 2 || at > n - 2 || !cmd_is(a[at], "fields")) return ks_refuse(ks, "FIELDS is missing");
    int st = cmd_int_from(ks, a[at + 1], 1, &count);
    const u64 left = n - at - 2;
    return !st && (left % each || (u64)count != left / each) ? ks_refuse(ks, "the number of fields is wrong")
                                                             : st;
}

/* A time of a field. Servers refuse a negative one from a client, and take it for 0 while they load; in an RDB 0 means
 * none, so that it is 1 here, which is as long ago. */
static int cmd_hash_time(rdbkit_keyspace *ks, rdbkit_str s, int seconds, int relative, i64 *ms) {
    i64 v;
    int st = cmd_int(ks, s, &v);
    if (!st) st = cmd_time(ks, v, seconds, relative, ms);
    if (!st && *ms < 1) *ms = 1;
    return st;
}

/* Give fields a time, or none, where they are and the condition allows it. */
static int cmd_hash_expire(rdbkit_keyspace *ks, rdbkit_str key, const rdbkit_str *field, size_t n,
                           unsigned condition, i64 ms) {
    rdbkit_str value;
    i64 old;
    ks_key *k;
    int st = ks_get(ks, key, RDBKIT_HASH, &k);
    if (st || !k) return st;
    for (size_t i = 0; !st && i < n; i++) {
        const int found = obj_hash_get(&ks->env, k->v.p, field[i], &value, &old);
        if (found && cmd_condition_holds(condition, old, ms))
            st = ks_status(ks, obj_hash_expire(&ks->env, k->v.p, field[i], ms));
    }
    return st;
}

/* HPEXPIREAT and its like: key, time, conditions, FIELDS. */
static int cmd_hash_expire_at(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, int seconds, int relative) {
    unsigned condition = 0, more;
    size_t at = 3;
    i64 ms;
    for (; at < n && (more = cmd_condition(a[at])) != 0; at++) condition |= more;
    if (!cmd_conditions_fit(condition)) return ks_refuse(ks, "options that exclude each other");
    int st = cmd_hash_fields(ks, a, n, at, 1);
    if (!st) st = cmd_hash_time(ks, a[2], seconds, relative, &ms);
    return st ? st : cmd_hash_expire(ks, a[1], a + at + 2, n - at - 2, condition, ms);
}

static int cmd_hexpire(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_hash_expire_at(ks, a, n, 1, 1);
}

static int cmd_hpexpire(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_hash_expire_at(ks, a, n, 0, 1);
}

static int cmd_hexpireat(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_hash_expire_at(ks, a, n, 1, 0);
}

static int cmd_hpexpireat(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    return cmd_hash_expire_at(ks, a, n, 0, 0);
}

static int cmd_hpersist(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    int st = cmd_hash_fields(ks, a, n, 2, 1);
    return st ? st : cmd_hash_expire(ks, a[1], a + 4, n - 4, 0, RDBKIT_NO_EXPIRY);
}

static int cmd_hgetdel(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    int st = cmd_hash_fields(ks, a, n, 2, 1);
    return st ? st : cmd_remove(ks, a + 1, a + 4, n - 4, RDBKIT_HASH);
}

/* What stands between the key and FIELDS. */
typedef struct cmd_hash_options {
    int nx, xx, fnx, fxx, keep_ttl, persist;
    int times;
    i64 expire_ms; /* RDBKIT_NO_EXPIRY: no time given */
} cmd_hash_options;

/* Options up to FIELDS; *at: where that stands. */
static int cmd_hash_options_of(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_hash_options *o,
                               size_t *at) {
    size_t i = 2;
    int st = 0, seconds, relative;
    memset(o, 0, sizeof *o);
    o->expire_ms = RDBKIT_NO_EXPIRY;
    for (; !st && i < n && !cmd_is(a[i], "fields"); i++) {
        if (cmd_is(a[i], "nx")) o->nx = 1;
        else if (cmd_is(a[i], "xx")) o->xx = 1;
        else if (cmd_is(a[i], "fnx")) o->fnx = 1;
        else if (cmd_is(a[i], "fxx")) o->fxx = 1;
        else if (cmd_is(a[i], "keepttl")) o->keep_ttl = 1;
        else if (cmd_is(a[i], "persist")) o->persist = 1;
        else if (n - i > 1 && cmd_is_time(a[i], &seconds, &relative)) {
            st = cmd_hash_time(ks, a[++i], seconds, relative, &o->expire_ms);
            o->times++;
        } else st = ks_refuse(ks, "syntax error");
    }
    *at = i;
    const int excluded =
        o->keep_ttl + o->persist + (o->times > 0) > 1 || (o->nx && o->xx) || (o->fnx && o->fxx);
    return !st && excluded ? ks_refuse(ks, "options that exclude each other") : st;
}

/* Whether the conditions of HSETEX are met; k: the hash, or NULL. */
static int cmd_hsetex_allows(rdbkit_keyspace *ks, const ks_key *k, const cmd_hash_options *o,
                             const rdbkit_str *a, size_t n) {
    rdbkit_str value;
    i64 expire_ms;
    if (k ? o->nx : o->xx || o->fxx) return 0;
    if (!k || !(o->fnx || o->fxx)) return 1;
    for (size_t i = 0; i < n; i += 2)
        if (obj_hash_get(&ks->env, k->v.p, a[i], &value, &expire_ms) != o->fxx) return 0;
    return 1;
}

static int cmd_hsetex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_hash_options o;
    size_t at;
    ks_key *k;
    rdbkit_str value;
    i64 ms;
    int st = cmd_hash_options_of(ks, a, n, &o, &at);
    if (!st && o.persist) st = ks_refuse(ks, "syntax error");
    if (!st) st = cmd_hash_fields(ks, a, n, at, 2);
    if (!st) st = ks_get(ks, a[1], RDBKIT_HASH, &k);
    if (st || !cmd_hsetex_allows(ks, k, &o, a + at + 2, n - at - 2)) return st;
    st = ks_make(ks, a[1], RDBKIT_HASH, &k);
    if (st) return st;
    for (size_t i = at + 2; !st && i < n; i += 2) {
        if (!o.keep_ttl || !obj_hash_get(&ks->env, k->v.p, a[i], &value, &ms)) ms = o.expire_ms;
        st = ks_status(ks, obj_hash_put(&ks->env, k->v.p, a[i], a[i + 1], ms));
    }
    return cmd_done(ks, k, st);
}

static int cmd_hgetex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_hash_options o;
    size_t at;
    int st = cmd_hash_options_of(ks, a, n, &o, &at);
    if (!st && (o.nx || o.xx || o.fnx || o.fxx || o.keep_ttl)) st = ks_refuse(ks, "syntax error");
    if (!st) st = cmd_hash_fields(ks, a, n, at, 1);
    if (st) return st;
    if (!(o.persist || o.times)) return cmd_hash_expire(ks, a[1], NULL, 0, 0, 0);
    return cmd_hash_expire(ks, a[1], a + at + 2, n - at - 2, 0, o.expire_ms);
}

/* ==== [37] cmd_ : commands of bits, HyperLogLogs and places; SORT ====
 *
 * Those that compute: the result is the server's to the last bit. Tests: tests/test_keyspace.c, tests/aof_test.py */

/* ---- bits ---- */

#define CMD_BITS_MAX \
    ((i64)1 << 32) /* of a string of 512 MB: what servers allow unless configured otherwise */

/* An offset in bits; with a width also #n, n times the width. */
static int cmd_bit_offset(rdbkit_keyspace *ks, rdbkit_str s, int width, i64 *off) {
    const size_t hash = width && s.len && s.data[0] == '#';
    int bad =
        s.len == hash || num_parse_i64(s.data + hash, s.len - hash, off) || *off < 0 || *off >= CMD_BITS_MAX;
    if (!bad && hash) *off *= width;
    if (bad || *off >= CMD_BITS_MAX) return ks_refuse(ks, "the bit offset is not an integer or out of range");
    return 0;
}

/* The string of a name, made if it is not there, and at least so long. */
static int cmd_bit_string(rdbkit_keyspace *ks, rdbkit_str name, i64 bits, ks_key **k) {
    int st = ks_get(ks, name, RDBKIT_STRING, k);
    if (!st && !*k) st = ks_set_string(ks, name, (rdbkit_str){"", 0}, k);
    return st ? st : ks_string_grow(ks, k, (u64)((bits + 7) / 8));
}

static int cmd_setbit(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 off;
    ks_key *k;
    (void)n;
    int st = cmd_bit_offset(ks, a[2], 0, &off);
    if (st) return st;
    if (a[3].len != 1 || (a[3].data[0] | 1) != '1') return ks_refuse(ks, "the bit is not 0 or 1");
    st = cmd_bit_string(ks, a[1], off + 1, &k);
    if (st) return st;
    u8 *p = ks_string_bytes(k) + off / 8;
    const unsigned shift = 7 - (unsigned)(off % 8), bit = a[3].data[0] == '1';
    *p = (u8)((*p & ~(1u << shift)) | bit << shift);
    return 0;
}

/* One operation of BITFIELD. */
typedef struct cmd_field {
    enum { CMD_FIELD_GET, CMD_FIELD_SET, CMD_FIELD_ADD, CMD_FIELD_OVERFLOW } op;
    enum { CMD_FIELD_WRAP, CMD_FIELD_SAT, CMD_FIELD_FAIL } overflow; /* stays for those that follow */
    int is_signed, width;
    i64 off, value;
} cmd_field;

static int cmd_field_type(rdbkit_keyspace *ks, rdbkit_str s, cmd_field *f) {
    i64 width = 0;
    f->is_signed = s.len && s.data[0] == 'i';
    const int known = f->is_signed || (s.len && s.data[0] == 'u');
    if (!known || num_parse_i64(s.data + 1, s.len - 1, &width) || width < 1 || width > 63 + f->is_signed)
        return ks_refuse(ks, "not a type of BITFIELD");
    f->width = (int)width;
    return 0;
}

static int cmd_field_overflow(rdbkit_keyspace *ks, rdbkit_str s, cmd_field *f) {
    f->op = CMD_FIELD_OVERFLOW;
    if (cmd_is(s, "wrap")) f->overflow = CMD_FIELD_WRAP;
    else if (cmd_is(s, "sat")) f->overflow = CMD_FIELD_SAT;
    else if (cmd_is(s, "fail")) f->overflow = CMD_FIELD_FAIL;
    else return ks_refuse(ks, "not a rule of OVERFLOW");
    return 0;
}

/* The operation at argument *i, which moves behind it. */
static int cmd_field_next(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t *i, cmd_field *f) {
    const rdbkit_str word = a[*i];
    const size_t left = n - *i - 1;
    if (cmd_is(word, "overflow") && left >= 1) {
        *i += 2;
        return cmd_field_overflow(ks, a[*i - 1], f);
    }
    if (cmd_is(word, "get") && left >= 2) f->op = CMD_FIELD_GET;
    else if (cmd_is(word, "set") && left >= 3) f->op = CMD_FIELD_SET;
    else if (cmd_is(word, "incrby") && left >= 3) f->op = CMD_FIELD_ADD;
    else return ks_refuse(ks, "not an operation of BITFIELD");
    int st = cmd_field_type(ks, a[*i + 1], f);
    if (!st) st = cmd_bit_offset(ks, a[*i + 2], f->width, &f->off);
    if (!st && f->op != CMD_FIELD_GET) st = cmd_int(ks, a[*i + 3], &f->value);
    *i += f->op == CMD_FIELD_GET ? 3 : 4;
    return st;
}

static u64 cmd_bits_get(const u8 *p, i64 off, int width) {
    u64 v = 0;
    for (; width > 0; width--, off++) v = v << 1 | ((unsigned)p[off / 8] >> (7 - off % 8) & 1);
    return v;
}

static void cmd_bits_put(u8 *p, i64 off, int width, u64 v) {
    for (off += width - 1; width > 0; width--, off--, v >>= 1) {
        const unsigned shift = 7 - (unsigned)(off % 8);
        p[off / 8] = (u8)((p[off / 8] & ~(1u << shift)) | (unsigned)(v & 1) << shift);
    }
}

/* Whether the new value fits: 0, or 1 or -1 for which side of the type's range it left. *v: the value,
 * wrapped. A negative value of an unsigned type left it on the upper side, unless by counting down; and so
 * did, in all servers, one so low that its distance from the highest value is no int64. */
static int cmd_field_value(const cmd_field *f, u64 old, u64 *v) {
    const u64 sum = f->op == CMD_FIELD_ADD ? old + (u64)f->value : (u64)f->value;
    *v = sum;
    if (!f->is_signed) {
        const u64 max = ((u64)1 << f->width) - 1;
        if (f->op == CMD_FIELD_ADD && f->value < 0) return (u64)f->value + old > old ? -1 : 0;
        return sum > max;
    }
    const i64 from = port_sign(old, f->width), max = (i64)(((u64)1 << (f->width - 1)) - 1), min = -max - 1;
    if (f->op == CMD_FIELD_SET) {
        const int far = f->width < 64 && f->value < max - INT64_MAX;
        return f->value > max || far ? 1 : f->value < min ? -1 : 0;
    }
    if (f->value > 0 && from > max - f->value) return 1;
    return f->value < 0 && from < min - f->value ? -1 : 0;
}

/* before_6: servers before 6.0, on x86, took every negative i64 for -1, and wrapped to -1 or 0. */
static void cmd_field_run(const cmd_field *f, u8 *p, int before_6) {
    u64 v;
    const u64 max = f->width == 64 ? UINT64_MAX : ((u64)1 << f->width) - 1;
    u64 old = cmd_bits_get(p, f->off, f->width);
    if (before_6 && f->width == 64 && old >> 63) old = UINT64_MAX;
    const int side = cmd_field_value(f, old, &v);
    if (side && f->overflow == CMD_FIELD_FAIL) return;
    if (before_6 && f->width == 64 && side) v = v >> 63 ? UINT64_MAX : 0;
    if (side && f->overflow == CMD_FIELD_SAT) v = f->is_signed ? max >> 1 : max;
    if (side < 0 && f->overflow == CMD_FIELD_SAT) v = f->is_signed ? (max >> 1) + 1 : 0;
    cmd_bits_put(p, f->off, f->width, v);
}

static int cmd_bitfield(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_field f = {CMD_FIELD_GET, CMD_FIELD_WRAP, 0, 0, 0, 0};
    i64 end = 0;
    ks_key *k;
    for (size_t i = 2; i < n;) {
        int st = cmd_field_next(ks, a, n, &i, &f);
        if (st) return st;
        const int writes = f.op == CMD_FIELD_SET || f.op == CMD_FIELD_ADD;
        if (writes && f.off + f.width > end) end = f.off + f.width;
    }
    int st = end ? cmd_bit_string(ks, a[1], end, &k) : ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (st || !end) return st;
    f.overflow = CMD_FIELD_WRAP;
    for (size_t i = 2; i < n;) {
        st = cmd_field_next(ks, a, n, &i, &f);
        if (st) return st;
        if (f.op == CMD_FIELD_SET || f.op == CMD_FIELD_ADD)
            cmd_field_run(&f, ks_string_bytes(k), ks_before(ks, 600));
    }
    return 0;
}

typedef enum cmd_bitop_kind {
    CMD_BITOP_AND,
    CMD_BITOP_OR,
    CMD_BITOP_XOR,
    CMD_BITOP_NOT,
    CMD_BITOP_DIFF,
    CMD_BITOP_DIFF1,
    CMD_BITOP_ANDOR,
    CMD_BITOP_ONE,
    CMD_BITOP_N
} cmd_bitop_kind;

/* acc op= s, which is no longer. */
static void cmd_bitop_add(cmd_bitop_kind kind, u8 *acc, u8 *twice, rdbkit_str s, size_t len) {
    const u8 *p = (const u8 *)s.data;
    if (kind == CMD_BITOP_AND) {
        for (size_t i = 0; i < s.len; i++) acc[i] &= p[i];
        memset(acc + s.len, 0, len - s.len);
    } else if (kind == CMD_BITOP_XOR) {
        for (size_t i = 0; i < s.len; i++) acc[i] ^= p[i];
    } else {
        for (size_t i = 0; twice && i < s.len; i++) twice[i] |= acc[i] & p[i];
        for (size_t i = 0; i < s.len; i++) acc[i] |= p[i];
    }
}

/* The last step, with the first source in those that treat it otherwise than the rest. */
static void cmd_bitop_end(cmd_bitop_kind kind, u8 *acc, const u8 *twice, rdbkit_str s, size_t len) {
    const u8 *p = (const u8 *)s.data;
    size_t i = 0;
    if (kind == CMD_BITOP_NOT)
        for (; i < len; i++) acc[i] = (u8)~acc[i];
    if (kind == CMD_BITOP_ONE)
        for (; i < len; i++) acc[i] &= (u8)~twice[i];
    if (kind == CMD_BITOP_DIFF)
        for (; i < s.len; i++) acc[i] = (u8)(p[i] & ~acc[i]);
    if (kind == CMD_BITOP_DIFF1)
        for (; i < s.len; i++) acc[i] &= (u8)~p[i];
    if (kind == CMD_BITOP_ANDOR)
        for (; i < s.len; i++) acc[i] &= p[i];
    if ((kind == CMD_BITOP_DIFF || kind == CMD_BITOP_ANDOR) && i < len) memset(acc + i, 0, len - i);
}

/* The string of a name that was looked at before. */
static rdbkit_str cmd_bitop_source(rdbkit_keyspace *ks, rdbkit_str name) {
    const ks_key *k = ks_find(ks, name);
    return k ? ks_string(k) : (rdbkit_str){"", 0};
}

static int cmd_bitop_kind_of(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_bitop_kind *kind) {
    static const char *const names[CMD_BITOP_N] = {"and",  "or",    "xor",   "not",
                                                   "diff", "diff1", "andor", "one"};
    int i = 0;
    while (i < CMD_BITOP_N && !cmd_is(a[1], names[i])) i++;
    if (i == CMD_BITOP_N) return ks_refuse(ks, "not an operation of BITOP");
    *kind = (cmd_bitop_kind)i;
    if (*kind == CMD_BITOP_NOT && n != 4) return ks_refuse(ks, "NOT takes one source");
    const int two = *kind == CMD_BITOP_DIFF || *kind == CMD_BITOP_DIFF1 || *kind == CMD_BITOP_ANDOR;
    return two && n < 5 ? ks_refuse(ks, "DIFF, DIFF1 and ANDOR take two sources or more") : 0;
}

/* An empty scratch buffer with room for len bytes, or NULL. */
static void *cmd_room(rdbkit_keyspace *ks, int i, size_t len) {
    ks->tmp[i].len = 0;
    return mem_buf_room(ks->env.mem, &ks->tmp[i], len) ? NULL : ks->tmp[i].data;
}

#define CMD_ROOM_KEPT 65536

static void cmd_rooms_free(rdbkit_keyspace *ks) {
    for (int i = 0; i < 4; i++)
        if (ks->tmp[i].cap > CMD_ROOM_KEPT) mem_buf_free(ks->env.mem, &ks->tmp[i]);
}

/* The result in tmp[0], of len bytes. */
static int cmd_bitop_run(rdbkit_keyspace *ks, cmd_bitop_kind kind, const rdbkit_str *source, size_t n,
                         size_t len) {
    u8 *acc = cmd_room(ks, 0, len), *twice = kind == CMD_BITOP_ONE ? cmd_room(ks, 1, len) : NULL;
    if (!acc || (kind == CMD_BITOP_ONE && !twice)) return ks_nomem(ks);
    const int apart = kind == CMD_BITOP_DIFF || kind == CMD_BITOP_DIFF1 || kind == CMD_BITOP_ANDOR;
    const rdbkit_str first = cmd_bitop_source(ks, source[0]);
    memset(acc, 0, len);
    if (twice) memset(twice, 0, len);
    if (!apart && first.len) memcpy(acc, first.data, first.len);
    for (size_t i = 1; i < n; i++) cmd_bitop_add(kind, acc, twice, cmd_bitop_source(ks, source[i]), len);
    cmd_bitop_end(kind, acc, twice, first, len);
    return 0;
}

static int cmd_bitop(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_bitop_kind kind = CMD_BITOP_AND;
    size_t len = 0;
    int st = cmd_bitop_kind_of(ks, a, n, &kind);
    for (size_t i = 3; !st && i < n; i++) {
        ks_key *k;
        st = ks_get(ks, a[i], RDBKIT_STRING, &k);
        if (!st && k && ks_string(k).len > len) len = ks_string(k).len;
    }
    if (st) return st;
    if (len == 0) return ks_drop(ks, a[2]), 0;
    st = cmd_bitop_run(ks, kind, a + 3, n - 3, len);
    if (!st) st = ks_set_string(ks, a[2], (rdbkit_str){(const char *)ks->tmp[0].data, len}, NULL);
    cmd_rooms_free(ks);
    return st;
}

/* ---- HyperLogLogs ---- */

/* A string that is one, or *k NULL. */
static int cmd_hll_get(rdbkit_keyspace *ks, rdbkit_str name, ks_key **k) {
    int st = ks_get(ks, name, RDBKIT_STRING, k);
    return st || !*k || hll_is(ks_string(*k)) ? st : ks_refuse(ks, "the string is no HyperLogLog");
}

/* Have one to work upon: a dense one where it is, others in tmp[0]; an empty one if there is none. */
static int cmd_hll_open(rdbkit_keyspace *ks, rdbkit_str name, ks_key **k, hll *h) {
    int st = cmd_hll_get(ks, name, k);
    if (st) return st;
    if (*k && hll_is_dense(ks_string_bytes(*k))) {
        *h = (hll){ks_string_bytes(*k), HLL_DENSE_LEN};
        return 0;
    }
    h->data = cmd_room(ks, 0, HLL_ROOM);
    if (!h->data) return ks_nomem(ks);
    if (!*k) hll_init(h);
    else memcpy(h->data, ks_string_bytes(*k), h->len = ks_string(*k).len);
    return 0;
}

/* Put back what was worked upon. */
static int cmd_hll_close(rdbkit_keyspace *ks, rdbkit_str name, ks_key *k, const hll *h) {
    if (!k) return ks_set_string(ks, name, (rdbkit_str){(const char *)h->data, h->len}, NULL);
    if (h->data == ks_string_bytes(k)) return 0;
    int st = ks_string_grow(ks, &k, h->len);
    if (st) return st;
    memcpy(ks_string_bytes(k), h->data, h->len);
    k->v.s.len = (u32)h->len;
    return 0;
}

static int cmd_hll_damaged(rdbkit_keyspace *ks) { return ks_refuse(ks, "the HyperLogLog is damaged"); }

static int cmd_pfadd(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    hll h;
    int st = cmd_hll_open(ks, a[1], &k, &h);
    if (st) return st;
    int changed = !k;
    for (size_t i = 2; i < n; i++) {
        int value;
        const u32 index = hll_register(a[i], &value);
        st = hll_raise(&h, index, value);
        if (st < 0) return cmd_hll_damaged(ks);
        changed |= st;
    }
    if (!changed) return 0;
    hll_set_stale(&h);
    return cmd_hll_close(ks, a[1], k, &h);
}

static int cmd_pfmerge(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    u8 registers[HLL_REGISTERS] = {0};
    int dense = 0;
    ks_key *k;
    hll h;
    for (size_t i = 1; i < n; i++) {
        int st = cmd_hll_get(ks, a[i], &k);
        if (st) return st;
        if (!k) continue;
        dense |= hll_is_dense(ks_string_bytes(k));
        if (hll_max(registers, ks_string_bytes(k), ks_string(k).len)) return cmd_hll_damaged(ks);
    }
    int st = cmd_hll_open(ks, a[1], &k, &h);
    if (st) return st;
    if (dense && hll_to_dense(&h)) return cmd_hll_damaged(ks);
    for (u32 i = 0; i < HLL_REGISTERS; i++)
        if (registers[i]) (void)hll_raise(&h, i, registers[i]);
    hll_set_stale(&h);
    return cmd_hll_close(ks, a[1], k, &h);
}

/* Of one key: servers keep the estimate in it. */
static int cmd_pfcount(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    u64 estimate;
    if (n > 2) return 0;
    int st = cmd_hll_get(ks, a[1], &k);
    if (st || !k || !(ks_string_bytes(k)[15] & 0x80)) return st;
    if (hll_estimate(ks_string(k), &estimate)) return cmd_hll_damaged(ks);
    port_put_le64(ks_string_bytes(k) + 8, estimate);
    return 0;
}

static int cmd_pfdebug(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    hll h;
    if (n != 3) return ks_refuse(ks, "wrong number of arguments");
    const int changes = cmd_is(a[1], "getreg") || cmd_is(a[1], "todense");
    if (!changes && !cmd_is(a[1], "decode") && !cmd_is(a[1], "encoding"))
        return ks_refuse(ks, "unknown subcommand");
    int st = cmd_hll_get(ks, a[2], &k);
    if (st) return st;
    if (!k) return ks_refuse(ks, "no such key");
    if (!changes || hll_is_dense(ks_string_bytes(k))) return 0;
    st = cmd_hll_open(ks, a[2], &k, &h);
    if (st) return st;
    return hll_to_dense(&h) ? cmd_hll_damaged(ks) : cmd_hll_close(ks, a[2], k, &h);
}

/* ---- rows that are sorted, for places and SORT ---- */

typedef struct cmd_pick {
    rdbkit_str text;
    rdbkit_str by; /* data NULL: nothing */
    double score, distance;
} cmd_pick;

/* Rows in tmp[0]; their order in the first n of tmp[1]. */
typedef struct cmd_picks {
    cmd_pick *row;
    u32 *order;
    u32 n;
} cmd_picks;

typedef int (*cmd_pick_cmp)(const cmd_pick *a, const cmd_pick *b);

static int cmd_pick_add(rdbkit_keyspace *ks, const cmd_pick *row) {
    return ks_status(ks, mem_buf_add(ks->env.mem, &ks->tmp[0], row, sizeof *row));
}

/* What cmd_pick_add() has put into tmp[0], in that order. */
static int cmd_picks_of(rdbkit_keyspace *ks, cmd_picks *r) {
    const size_t n = ks->tmp[0].len / sizeof *r->row;
    if (n > UINT32_MAX / 8) return ks_nomem(ks);
    r->row = (void *)ks->tmp[0].data;
    r->n = (u32)n;
    r->order = cmd_room(ks, 1, (n * 2 + 1) * sizeof *r->order);
    if (!r->order) return ks_nomem(ks);
    for (u32 i = 0; i < r->n; i++) r->order[i] = i;
    return 0;
}

static void cmd_picks_reverse(cmd_picks *r) {
    for (u32 i = 0; i < r->n; i++) r->order[i] = r->n - 1 - i;
}

/* Merge sort, which leaves equal rows as they are; no recursion, no malloc. */
static void cmd_picks_sort(cmd_picks *r, cmd_pick_cmp cmp, int desc) {
    u32 *from = r->order, *to = r->order + r->n;
    for (u32 width = 1; width < r->n; width *= 2) {
        for (u32 lo = 0; lo < r->n; lo += 2 * width) {
            const u32 mid = r->n - lo > width ? lo + width : r->n,
                      hi = r->n - mid > width ? mid + width : r->n;
            u32 i = lo, j = mid;
            for (u32 k = lo; k < hi; k++) {
                const int c = i < mid && j < hi ? cmp(&r->row[from[i]], &r->row[from[j]]) : i < mid ? 0 : 1;
                const int second = j < hi && (i == mid || (desc ? c < 0 : c > 0));
                to[k] = second ? from[j++] : from[i++];
            }
        }
        u32 *swap = from;
        from = to, to = swap;
    }
    r->order = from;
}

static const cmd_pick *cmd_pick_at(const cmd_picks *r, u64 i) { return &r->row[r->order[i]]; }

/* Rows at the edge of, or with inside, within, [from, to) that the order does not tell apart. */
static int cmd_picks_tied(const cmd_picks *r, cmd_pick_cmp cmp, u64 from, u64 to, int inside) {
    for (u64 i = from ? from : 1; from < to && i <= to && i < r->n; i++) {
        if (!inside && i != from && i != to) continue;
        const cmd_pick *a = cmd_pick_at(r, i - 1), *b = cmd_pick_at(r, i);
        if (cmp(a, b) == 0 && !seq_same(a->text, b->text)) return 1;
    }
    return 0;
}

/* ---- places ---- */

static int cmd_place(rdbkit_keyspace *ks, const rdbkit_str *a, geo_place *at) {
    int st = cmd_double(ks, a[0], &at->lon);
    if (!st) st = cmd_double(ks, a[1], &at->lat);
    return st || geo_in_range(*at) ? st : ks_refuse(ks, "the longitude or latitude is out of range");
}

/* Only the servers' own: they log ZADD. */
static int cmd_geoadd(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    int nx = 0, xx = 0, st = 0;
    size_t i = 2;
    geo_place at;
    ks_key *k;
    for (; i < n; i++) {
        if (cmd_is(a[i], "nx")) nx = 1;
        else if (cmd_is(a[i], "xx")) xx = 1;
        else if (!cmd_is(a[i], "ch")) break;
    }
    if (i == n || (n - i) % 3 || (nx && xx)) return ks_refuse(ks, "wrong options or number of arguments");
    for (size_t j = i; !st && j < n; j += 3) st = cmd_place(ks, a + j, &at);
    if (!st) st = xx ? ks_get(ks, a[1], RDBKIT_ZSET, &k) : ks_make(ks, a[1], RDBKIT_ZSET, &k);
    for (; !st && k && i < n; i += 3) {
        double score;
        st = cmd_place(ks, a + i, &at);
        if (st) break;
        const int has = obj_zset_score(&ks->env, k->v.p, a[i + 2], &score);
        if (has ? nx : xx) continue;
        st = ks_status(ks, obj_zset_put(&ks->env, k->v.p, a[i + 2], (double)geo_encode(at, GEO_STEPS)));
    }
    return st;
}

/* A search and what becomes of it. */
typedef struct cmd_geo {
    geo_shape shape;
    const ks_key *source; /* NULL: not there */
    rdbkit_str store;
    int stores, distances;             /* stores: there is a destination; distances: they become the scores */
    int by_member, by_place, by_shape; /* given */
    int shows;                         /* an option that goes with an answer only */
    int any, sort, desc;
    i64 count; /* 0: all */
} cmd_geo;

static int cmd_geo_unit(rdbkit_keyspace *ks, rdbkit_str s, double *unit) {
    if (cmd_is(s, "m")) *unit = 1;
    else if (cmd_is(s, "km")) *unit = 1000;
    else if (cmd_is(s, "ft")) *unit = 0.3048;
    else if (cmd_is(s, "mi")) *unit = 1609.34;
    else return ks_refuse(ks, "unknown unit");
    return 0;
}

static int cmd_geo_size(rdbkit_keyspace *ks, rdbkit_str s, double *v) {
    int st = cmd_double(ks, s, v);
    return st || *v >= 0 ? st : ks_refuse(ks, "a size is negative");
}

/* radius unit */
static int cmd_geo_circle(rdbkit_keyspace *ks, const rdbkit_str *a, cmd_geo *g) {
    int st = cmd_geo_size(ks, a[0], &g->shape.width);
    g->shape.kind = GEO_CIRCLE;
    g->by_shape = 1;
    return st ? st : cmd_geo_unit(ks, a[1], &g->shape.unit);
}

/* width height unit */
static int cmd_geo_box(rdbkit_keyspace *ks, const rdbkit_str *a, cmd_geo *g) {
    int st = cmd_geo_size(ks, a[0], &g->shape.width);
    if (!st) st = cmd_geo_size(ks, a[1], &g->shape.height);
    g->shape.kind = GEO_BOX;
    g->by_shape = 1;
    return st ? st : cmd_geo_unit(ks, a[2], &g->shape.unit);
}

/* n and as many places, in tmp[2]; *used: arguments. */
static int cmd_geo_polygon(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_geo *g, size_t *used) {
    i64 corners;
    int st = cmd_int(ks, a[0], &corners);
    if (st) return st;
    if (corners < 3 || (u64)corners > (n - 1) / 2) return ks_refuse(ks, "wrong number of corners");
    geo_place *p = cmd_room(ks, 2, (size_t)corners * sizeof *p);
    if (!p) return ks_nomem(ks);
    for (size_t i = 0; !st && i < (size_t)corners; i++) st = cmd_place(ks, a + 1 + 2 * i, &p[i]);
    g->shape.kind = GEO_POLYGON;
    g->shape.unit = 1;
    g->shape.corners = p;
    g->shape.corners_n = (size_t)corners;
    g->by_shape = 1;
    *used = 1 + 2 * (size_t)corners;
    return st;
}

static int cmd_geo_member(rdbkit_keyspace *ks, rdbkit_str member, cmd_geo *g) {
    double score;
    g->by_member = 1;
    if (!g->source) return 0;
    if (!obj_zset_score(&ks->env, g->source->v.p, member, &score)) return ks_refuse(ks, "no such member");
    g->shape.centre = geo_place_of(score);
    return 0;
}

static int cmd_geo_count(rdbkit_keyspace *ks, rdbkit_str s, cmd_geo *g) {
    int st = cmd_int(ks, s, &g->count);
    return st || g->count > 0 ? st : ks_refuse(ks, "COUNT is not positive");
}

#define CMD_GEO_NONE 2 /* no such option */

/* An option that all have, with left arguments behind it; *used: how many of them are its own. */
static int cmd_geo_option(rdbkit_keyspace *ks, const rdbkit_str *a, size_t left, cmd_geo *g, size_t *used) {
    *used = 0;
    if (cmd_is(a[0], "any")) return g->any = 1, 0;
    if (cmd_is(a[0], "asc")) return g->sort = 1, g->desc = 0, 0;
    if (cmd_is(a[0], "desc")) return g->sort = g->desc = 1, 0;
    if (cmd_is(a[0], "withdist") || cmd_is(a[0], "withhash") || cmd_is(a[0], "withcoord"))
        return g->shows = 1, 0;
    if (!cmd_is(a[0], "count") || left < 1) return CMD_GEO_NONE;
    *used = 1;
    return cmd_geo_count(ks, a[1], g);
}

/* GEORADIUS and GEORADIUSBYMEMBER: what follows their unit. */
static int cmd_georadius_option(rdbkit_keyspace *ks, const rdbkit_str *a, size_t left, cmd_geo *g,
                                size_t *used) {
    const int distances = cmd_is(a[0], "storedist");
    if ((!distances && !cmd_is(a[0], "store")) || left < 1) return cmd_geo_option(ks, a, left, g, used);
    g->stores = 1;
    g->distances = distances;
    g->store = a[1];
    *used = 1;
    return 0;
}

static int cmd_geosearch_option(rdbkit_keyspace *ks, const rdbkit_str *a, size_t left, cmd_geo *g,
                                size_t *used) {
    const int polygon = g->by_shape && g->shape.kind == GEO_POLYGON;
    const int box = g->by_shape && g->shape.kind == GEO_BOX,
              circle = g->by_shape && g->shape.kind == GEO_CIRCLE;
    if (cmd_is(a[0], "storedist")) return g->distances = 1, *used = 0, 0;
    if (cmd_is(a[0], "frommember") && left >= 1 && !g->by_place && !polygon)
        return *used = 1, cmd_geo_member(ks, a[1], g);
    if (cmd_is(a[0], "fromlonlat") && left >= 2 && !g->by_member && !polygon)
        return *used = 2, g->by_place = 1, cmd_place(ks, a + 1, &g->shape.centre);
    if (cmd_is(a[0], "byradius") && left >= 2 && !box && !polygon)
        return *used = 2, cmd_geo_circle(ks, a + 1, g);
    if (cmd_is(a[0], "bybox") && left >= 3 && !circle && !polygon)
        return *used = 3, cmd_geo_box(ks, a + 1, g);
    if (cmd_is(a[0], "bypolygon") && left >= 2 && !circle && !box && !g->by_member && !g->by_place)
        return cmd_geo_polygon(ks, a + 1, left, g, used);
    return cmd_geo_option(ks, a, left, g, used);
}

/* Put the members of one cell that lie in the shape into rows; no more than limit (0: any number). */
static int cmd_geo_scan(rdbkit_keyspace *ks, const cmd_geo *g, geo_cell cell, u64 limit) {
    const obj_coll *z = g->source->v.p;
    cmd_pick row = {{NULL, 0}, {NULL, 0}, 0, 0};
    obj_zset_at at = obj_zset_index(z, obj_zset_below(z, (double)cell.min, 0));
    while (obj_zset_next(z, &at, &row.text, &row.score) && row.score < (double)cell.max) {
        if (limit && ks->tmp[0].len / sizeof row >= limit) break;
        if (!geo_within(&g->shape, geo_place_of(row.score), &row.distance)) continue;
        int st = cmd_pick_add(ks, &row);
        if (st) return st;
    }
    return 0;
}

static int cmd_geo_nearer(const cmd_pick *a, const cmd_pick *b) {
    return a->distance < b->distance ? -1 : a->distance > b->distance;
}

static int cmd_geo_store(rdbkit_keyspace *ks, const cmd_geo *g, const cmd_picks *r, u64 n) {
    obj_coll *z = ks_value_new(ks, RDBKIT_ZSET);
    int st = z ? 0 : ks_nomem(ks);
    for (u64 i = 0; !st && i < n; i++) {
        const cmd_pick *row = cmd_pick_at(r, i);
        st = ks_status(ks, obj_zset_put(&ks->env, z, row->text,
                                        g->distances ? row->distance / g->shape.unit : row->score));
    }
    if (!st) return ks_store(ks, g->store, RDBKIT_ZSET, z);
    ks_value_free(ks, RDBKIT_ZSET, z);
    return st;
}

static int cmd_geo_search(rdbkit_keyspace *ks, cmd_geo *g) {
    geo_cell cell[GEO_CELLS];
    cmd_picks r;
    const u64 limit = g->any ? (u64)g->count : 0;
    const int cells = geo_cells(&g->shape, cell);
    int st = 0;
    ks->tmp[0].len = 0;
    for (int i = 0; !st && i < cells; i++) st = cmd_geo_scan(ks, g, cell[i], limit);
    if (!st) st = cmd_picks_of(ks, &r);
    if (st) return st;
    u64 n = r.n;
    if (g->count && (u64)g->count < n) { /* without, all are stored and no order matters */
        n = (u64)g->count;
        cmd_picks_sort(&r, cmd_geo_nearer, g->desc);
        if (cmd_picks_tied(&r, cmd_geo_nearer, 0, n, 0))
            st = ks_event(ks, RDBKIT_REPLAY_UNSURE, "COUNT chooses among places that are equally far");
    }
    return st ? st : cmd_geo_store(ks, g, &r, n);
}

/* After all options: is the command complete, and has it an effect? */
static int cmd_geo_run(rdbkit_keyspace *ks, cmd_geo *g) {
    if (g->stores && g->shows) return ks_refuse(ks, "an option does not go with storing");
    if (g->any && !g->count) return ks_refuse(ks, "ANY without COUNT");
    if (!g->stores) return 0;
    if (!g->source) return ks_drop(ks, g->store), 0;
    int st = cmd_geo_search(ks, g);
    cmd_rooms_free(ks);
    return st;
}

typedef int (*cmd_geo_option_fn)(rdbkit_keyspace *ks, const rdbkit_str *a, size_t left, cmd_geo *g,
                                 size_t *used);

static int cmd_geo_options(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_geo *g,
                           cmd_geo_option_fn option) {
    for (size_t i = 0; i < n; i++) {
        size_t used;
        int st = option(ks, a + i, n - i - 1, g, &used);
        if (st) return st == CMD_GEO_NONE ? ks_refuse(ks, "wrong options") : st;
        i += used;
    }
    return 0;
}

static int cmd_geo_source(rdbkit_keyspace *ks, rdbkit_str name, cmd_geo *g) {
    ks_key *k;
    memset(g, 0, sizeof *g);
    int st = ks_get(ks, name, RDBKIT_ZSET, &k);
    g->source = k;
    return st;
}

static int cmd_georadius(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_geo g;
    int st = cmd_geo_source(ks, a[1], &g);
    if (!st) st = cmd_place(ks, a + 2, &g.shape.centre);
    if (!st) st = cmd_geo_circle(ks, a + 4, &g);
    if (!st) st = cmd_geo_options(ks, a + 6, n - 6, &g, cmd_georadius_option);
    return st ? st : cmd_geo_run(ks, &g);
}

static int cmd_georadiusbymember(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_geo g;
    int st = cmd_geo_source(ks, a[1], &g);
    if (!st) st = cmd_geo_member(ks, a[2], &g);
    if (!st && g.source) st = cmd_geo_circle(ks, a + 3, &g); /* servers look at the radius then only */
    if (!st) st = cmd_geo_options(ks, a + 5, n - 5, &g, cmd_georadius_option);
    return st ? st : cmd_geo_run(ks, &g);
}

static int cmd_geosearchstore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_geo g;
    int st = cmd_geo_source(ks, a[2], &g);
    g.stores = 1;
    g.store = a[1];
    if (!st) st = cmd_geo_options(ks, a + 3, n - 3, &g, cmd_geosearch_option);
    if (st) return st;
    const int polygon = g.by_shape && g.shape.kind == GEO_POLYGON;
    if (!g.by_shape || !(polygon || g.by_member || g.by_place)) return ks_refuse(ks, "no centre or no shape");
    return cmd_geo_run(ks, &g);
}

/* ---- SORT ---- */

typedef struct cmd_sort_options {
    const ks_key *source; /* NULL: not there */
    rdbkit_str by, store;
    int has_by, stores, native; /* native: BY without an asterisk, do not sort */
    int desc, alpha;
    i64 from, count; /* count below 0: all */
    size_t gets;     /* how many GET */
} cmd_sort_options;

/* Servers look for the asterisk and the arrow as in C strings. */
static size_t cmd_text_len(rdbkit_str s) {
    const char *nul = s.len ? memchr(s.data, 0, s.len) : NULL;
    return nul ? (size_t)(nul - s.data) : s.len;
}

static const char *cmd_asterisk(rdbkit_str pattern) {
    const size_t len = cmd_text_len(pattern);
    return len ? memchr(pattern.data, '*', len) : NULL;
}

/* The arrow of key->field, behind the asterisk, with a field; or NULL. */
static const char *cmd_arrow(rdbkit_str pattern, const char *asterisk) {
    const char *end = pattern.data + cmd_text_len(pattern);
    for (const char *p = asterisk + 1; end - p > 2; p++)
        if (p[0] == '-' && p[1] == '>') return p;
    return NULL;
}

/* What a pattern gives for an element: data NULL for nothing. It stays where it is until a key changes; the
 * name of the key is put together in tmp[3]. */
static int cmd_sort_lookup(rdbkit_keyspace *ks, rdbkit_str pattern, rdbkit_str element, rdbkit_str *out) {
    const char *star = cmd_asterisk(pattern);
    *out = (rdbkit_str){NULL, 0};
    if (!star) {
        if (pattern.len == 1 && pattern.data[0] == '#') *out = element;
        return 0;
    }
    const char *arrow = cmd_arrow(pattern, star), *end = pattern.data + pattern.len,
               *tail = arrow ? arrow : end;
    const rdbkit_shape shape = arrow ? RDBKIT_HASH : RDBKIT_STRING;
    const size_t head = (size_t)(star - pattern.data), rest = (size_t)(tail - star) - 1;
    char *name = cmd_room(ks, 3, head + element.len + rest + 1);
    if (!name) return ks_nomem(ks);
    memcpy(name, pattern.data, head);
    if (element.len) memcpy(name + head, element.data, element.len);
    memcpy(name + head + element.len, star + 1, rest);
    const rdbkit_str key = {name, head + element.len + rest};
    ks_key *k = ks_find(ks, key);
    if (!k || k->shape != shape) return 0;
    int st = ks_get(ks, key, shape, &k);
    i64 expire_ms;
    if (st) return st;
    if (!arrow) *out = ks_string(k);
    else
        (void)obj_hash_get(&ks->env, k->v.p, (rdbkit_str){arrow + 2, (size_t)(end - arrow) - 2}, out,
                           &expire_ms);
    return 0;
}

/* A weight, as any server ever took it: all that strtod() takes, no text as 0, and what is too large or
 * small as infinity or 0. 0 or -1. */
static int cmd_sort_weight(rdbkit_str s, double *v) {
    const u8 *p = (const u8 *)s.data, *end = p + cmd_text_len(s);
    *v = 0;
    if (p == end) return 0;
    while (p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r'))) p++;
    if (cmd_parse_double(p, end, v) == 0) return 0;
    return num_parse_double(p, (size_t)(end - p), v) || isnan(*v) ? -1 : 0;
}

static int cmd_sort_parse(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_sort_options *o) {
    int st = 0;
    for (size_t i = 2; !st && i < n; i++) {
        const size_t left = n - i - 1;
        if (cmd_is(a[i], "asc")) {
            o->desc = 0;
        } else if (cmd_is(a[i], "desc")) {
            o->desc = 1;
        } else if (cmd_is(a[i], "alpha")) {
            o->alpha = 1;
        } else if (cmd_is(a[i], "limit") && left >= 2) {
            st = cmd_int(ks, a[i + 1], &o->from);
            if (!st) st = cmd_int(ks, a[i + 2], &o->count);
            i += 2;
        } else if (cmd_is(a[i], "store") && left >= 1) {
            o->stores = 1;
            o->store = a[++i];
        } else if (cmd_is(a[i], "by") && left >= 1) {
            o->has_by = 1;
            o->by = a[++i];
            if (!cmd_asterisk(o->by)) o->native = 1;
        } else if (cmd_is(a[i], "get") && left >= 1) {
            o->gets++, i++;
        } else {
            st = ks_refuse(ks, "wrong options");
        }
    }
    return st;
}

static int cmd_sort_source(rdbkit_keyspace *ks, rdbkit_str name, cmd_sort_options *o) {
    ks_key *k = ks_find(ks, name);
    if (!k) return 0;
    const rdbkit_shape shape = (rdbkit_shape)k->shape;
    if (shape != RDBKIT_LIST && shape != RDBKIT_SET && shape != RDBKIT_ZSET)
        return ks_refuse(ks, "the key holds another type");
    int st = ks_get(ks, name, shape, &k);
    o->source = k;
    if (o->native && shape == RDBKIT_SET) o->native = 0, o->alpha = 1, o->has_by = 0;
    return st;
}

/* All elements as rows, in their native order. */
static int cmd_sort_load(rdbkit_keyspace *ks, const ks_key *k) {
    cmd_pick row = {{NULL, 0}, {NULL, 0}, 0, 0};
    int st = 0;
    ks->tmp[0].len = 0;
    if (k->shape == RDBKIT_LIST) {
        for (obj_list_at at = obj_list_begin(k->v.p); !st && at.node;) {
            row.text = obj_list_next(&at);
            st = cmd_pick_add(ks, &row);
        }
    } else if (k->shape == RDBKIT_SET) {
        for (obj_iter it = OBJ_BEGIN; !st && obj_set_next(k->v.p, &it, &row.text);)
            st = cmd_pick_add(ks, &row);
    } else {
        double score;
        for (obj_zset_at at = obj_zset_index(k->v.p, 0);
             !st && obj_zset_next(k->v.p, &at, &row.text, &score);)
            st = cmd_pick_add(ks, &row);
    }
    return st;
}

static int cmd_sort_weigh(rdbkit_keyspace *ks, const cmd_sort_options *o, cmd_picks *r) {
    for (u32 i = 0; i < r->n; i++) {
        cmd_pick *row = &r->row[i];
        row->by = row->text;
        int st = o->has_by ? cmd_sort_lookup(ks, o->by, row->text, &row->by) : 0;
        if (st) return st;
        if (!o->alpha && row->by.data && cmd_sort_weight(row->by, &row->score))
            return ks_refuse(ks, "a weight is not a number");
    }
    return 0;
}

static int cmd_sort_by_score(const cmd_pick *a, const cmd_pick *b) {
    if (a->score != b->score) return a->score < b->score ? -1 : 1;
    return obj_bytes_cmp(a->text, b->text);
}

static int cmd_sort_by_bytes(const cmd_pick *a, const cmd_pick *b) {
    if (!a->by.data || !b->by.data) return (a->by.data != NULL) - (b->by.data != NULL);
    return obj_bytes_cmp(a->by, b->by);
}

/* The rows [*from, *to) are the result. */
static void cmd_sort_limit(const cmd_sort_options *o, u64 n, u64 *from, u64 *to) {
    *from = o->from < 0 ? 0 : (u64)o->from < n ? (u64)o->from : n;
    *to = o->count < 0 || (u64)o->count > n - *from ? n : *from + (u64)o->count;
}

static int cmd_sort_rows(rdbkit_keyspace *ks, const cmd_sort_options *o, cmd_picks *r, u64 from, u64 to) {
    if (o->native) {
        if (o->desc) cmd_picks_reverse(r);
        return 0;
    }
    int st = cmd_sort_weigh(ks, o, r);
    if (st) return st;
    const cmd_pick_cmp cmp = o->alpha ? cmd_sort_by_bytes : cmd_sort_by_score;
    cmd_picks_sort(r, cmp, o->desc);
    if (!cmd_picks_tied(r, cmp, from, to, 1)) return 0;
    return ks_event(ks, RDBKIT_REPLAY_UNSURE, "SORT ALPHA BY of elements with the same weight");
}

/* One element of the result: itself, or what each GET gives. */
static int cmd_sort_push(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, rdbkit_str element,
                         obj_list *l) {
    int st = 0, gets = 0;
    for (size_t i = 2; !st && i < n; i++) {
        rdbkit_str value;
        if (cmd_is(a[i], "get")) {
            gets = 1;
            st = cmd_sort_lookup(ks, a[i + 1], element, &value);
            if (!st && !value.data) value = (rdbkit_str){"", 0};
            if (!st) st = ks_status(ks, obj_list_push(&ks->env, l, 0, value));
        }
        const int one = cmd_is(a[i], "get") || cmd_is(a[i], "by") || cmd_is(a[i], "store");
        i += one ? 1 : cmd_is(a[i], "limit") ? 2 : 0;
    }
    return st || gets ? st : ks_status(ks, obj_list_push(&ks->env, l, 0, element));
}

static int cmd_sort_store(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, const cmd_sort_options *o) {
    cmd_picks r;
    u64 from, to;
    int st = cmd_sort_load(ks, o->source);
    if (!st) st = cmd_picks_of(ks, &r);
    if (st) return st;
    cmd_sort_limit(o, r.n, &from, &to);
    st = cmd_sort_rows(ks, o, &r, from, to);
    if (st) return st;
    obj_list *l = ks_value_new(ks, RDBKIT_LIST);
    if (!l) return ks_nomem(ks);
    for (u64 i = from; !st && i < to; i++) st = cmd_sort_push(ks, a, n, cmd_pick_at(&r, i)->text, l);
    if (!st) return ks_store(ks, o->store, RDBKIT_LIST, l);
    ks_value_free(ks, RDBKIT_LIST, l);
    return st;
}

static int cmd_sort(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_sort_options o = {.count = -1};
    int st = cmd_sort_parse(ks, a, n, &o);
    if (!st) st = cmd_sort_source(ks, a[1], &o);
    if (st || !o.stores) return st;
    if (!o.source) return ks_drop(ks, o.store), 0;
    st = cmd_sort_store(ks, a, n, &o);
    cmd_rooms_free(ks);
    return st;
}

/* ==== [38] cmd_ : commands of streams ====
 *
 * Arguments and order of checks are here, what happens to the stream is in xs_. Tests: tests/test_streams.c,
 * tests/aof_test.py */

#define CMD_STREAM_FIELDS_MAX ((u64)1 << 30) /* bytes of an entry: servers refuse more */

/* A number of an ID, as servers take it: by strtoull(), so blanks and a sign may stand before it; but not an
 * int64 below 0 in canonical form. 0 or -1. */
static int cmd_id_number(const char *p, const char *end, u64 *v) {
    i64 i;
    if (num_parse_i64(p, (size_t)(end - p), &i) == 0) {
        *v = (u64)i;
        return i < 0 ? -1 : 0;
    }
    while (p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r'))) p++;
    const int minus = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    u64 n = 0;
    if (p == end) return -1;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9') return -1;
        const u64 digit = (u64)(*p - '0');
        if (n > (UINT64_MAX - digit) / 10) return -1;
        n = n * 10 + digit;
    }
    *v = minus ? 0 - n : n;
    return 0;
}

/* ms or ms-seq; with any_seq also ms-*, which sets it. 0 or -1. */
static int cmd_id_parse(rdbkit_str s, rdbkit_stream_id *id, int *any_seq) {
    if (s.len == 0 || s.len > 127) return -1;
    const char *end = s.data + s.len, *dash = memchr(s.data, '-', s.len);
    if (any_seq) *any_seq = 0;
    id->seq = 0;
    if (cmd_id_number(s.data, dash ? dash : end, &id->ms)) return -1;
    if (!dash) return 0;
    if (any_seq && end - dash == 2 && dash[1] == '*') {
        *any_seq = 1;
        return 0;
    }
    return cmd_id_number(dash + 1, end, &id->seq);
}

static int cmd_id(rdbkit_keyspace *ks, rdbkit_str s, rdbkit_stream_id *id) {
    return cmd_id_parse(s, id, NULL) == 0 ? 0 : ks_refuse(ks, "no such stream ID");
}

static int cmd_ids(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    rdbkit_stream_id id;
    int st = 0;
    for (size_t i = 0; i < n && !st; i++) st = cmd_id(ks, a[i], &id);
    return st;
}

/* An ID that was checked. */
static rdbkit_stream_id cmd_checked_id(rdbkit_str s) {
    rdbkit_stream_id id = {0, 0};
    (void)cmd_id_parse(s, &id, NULL);
    return id;
}

/* The stream at a key: NULL if it is not there. */
static int cmd_stream(rdbkit_keyspace *ks, rdbkit_str key, xs_stream **s) {
    ks_key *k;
    int st = ks_get(ks, key, RDBKIT_STREAM, &k);
    *s = !st && k ? k->v.p : NULL;
    return st;
}

static int cmd_stream_must(rdbkit_keyspace *ks, rdbkit_str key, xs_stream **s) {
    int st = cmd_stream(ks, key, s);
    return st || *s ? st : ks_refuse(ks, "no such key");
}

/* The consumer of a name: *c, if that is not NULL. A new one was last seen at the time that the file tells,
 * or at 0. */
static int cmd_consumer_make(rdbkit_keyspace *ks, xs_group *g, rdbkit_str name, xs_consumer **c) {
    const u64 before = g->consumers.n;
    if (*c) return 0;
    *c = xs_consumer_make(&ks->env, g, name);
    if (!*c) return ks_nomem(ks);
    const i64 s = ks->command ? ks->command->timestamp_s : RDBKIT_NO_TIMESTAMP;
    if (g->consumers.n > before && s > 0 && s <= INT64_MAX / 1000) (*c)->seen_ms = s * 1000;
    return 0;
}

/* ---- trimming, and what deleting does to pending entries ---- */

typedef enum cmd_refs { CMD_REFS_NONE, CMD_REFS_KEEP, CMD_REFS_DELETE, CMD_REFS_ACKED } cmd_refs;

static cmd_refs cmd_refs_word(rdbkit_str s) {
    if (cmd_is(s, "keepref")) return CMD_REFS_KEEP;
    if (cmd_is(s, "delref")) return CMD_REFS_DELETE;
    return cmd_is(s, "acked") ? CMD_REFS_ACKED : CMD_REFS_NONE;
}

typedef struct cmd_trim {
    enum { CMD_TRIM_NONE, CMD_TRIM_MAXLEN, CMD_TRIM_MINID } by;
    int approximate;
    u64 length;
    rdbkit_stream_id id;
    cmd_refs refs;
    i64 limit; /* loaders check that it is a number, and ignore it */
    /* of XADD alone */
    int only_existing, idempotent;
} cmd_trim;

/* MAXLEN or MINID at a[*i]; *i moves to its last argument. */
static int cmd_trim_by(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t *i, cmd_trim *t) {
    if (t->by != CMD_TRIM_NONE) return ks_refuse(ks, "MAXLEN and MINID at the same time");
    t->by = cmd_is(a[*i], "maxlen") ? CMD_TRIM_MAXLEN : CMD_TRIM_MINID;
    if (n - *i > 2) {
        t->approximate = cmd_is(a[*i + 1], "~");
        if (t->approximate || cmd_is(a[*i + 1], "=")) ++*i;
    }
    const rdbkit_str value = a[++*i];
    i64 length;
    if (t->by == CMD_TRIM_MINID) return cmd_id(ks, value, &t->id);
    int st = cmd_int(ks, value, &length);
    if (st) return st;
    t->length = (u64)length;
    return length < 0 ? ks_refuse(ks, "MAXLEN below 0") : 0;
}

/* One option of XADD and XTRIM at a[*i], which moves to its last argument. *found: 0 if there is none. */
static int cmd_trim_option(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t *i, cmd_trim *t,
                           int *found) {
    const size_t more = n - *i - 1;
    const cmd_refs refs = cmd_refs_word(a[*i]);
    *found = 1;
    if ((cmd_is(a[*i], "maxlen") || cmd_is(a[*i], "minid")) && more) return cmd_trim_by(ks, a, n, i, t);
    if (refs != CMD_REFS_NONE) {
        t->refs = refs;
        return 0;
    }
    *found = cmd_is(a[*i], "limit") && more;
    if (!*found) return 0;
    int st = cmd_int(ks, a[++*i], &t->limit);
    if (!st && t->limit < 0) st = ks_refuse(ks, "LIMIT below 0");
    return st;
}

static int cmd_trim_done(rdbkit_keyspace *ks, const cmd_trim *t) {
    return t->limit && t->by == CMD_TRIM_NONE ? ks_refuse(ks, "LIMIT without MAXLEN or MINID") : 0;
}

/* Delete an entry as refs says. 1: deleted. */
static int cmd_stream_delete(rdbkit_keyspace *ks, xs_stream *s, rdbkit_stream_id id, cmd_refs refs) {
    if (refs == CMD_REFS_ACKED && xs_referenced(s, id)) return 0;
    if (refs == CMD_REFS_DELETE) xs_ack_all(&ks->env, s, id);
    return xs_delete(&ks->env, s, id);
}

/* Trim one entry after another, from the first. */
static int cmd_trim_refs(rdbkit_keyspace *ks, xs_stream *s, const cmd_trim *t) {
    rdbkit_stream_id id = {0, 0};
    xs_at at;
    xs_entry en;
    int kept = 0;
    while (xs_seek(s, id, &at, &en)) {
        if (t->by == CMD_TRIM_MAXLEN ? s->length <= t->length : strm_id_cmp(en.id, t->id) >= 0) break;
        kept |= !cmd_stream_delete(ks, s, en.id, t->refs);
        id = en.id;
        if (++id.seq == 0 && ++id.ms == 0) break;
    }
    return kept ? ks_event(ks, RDBKIT_REPLAY_UNSURE,
                           "ACKED kept entries: how far a server looks depends on its nodes")
                : 0;
}

/* What ~ drops depends on the server's nodes; but not if that is nothing, or all. */
static int cmd_trim_known(const xs_stream *s, const cmd_trim *t) {
    if (t->by == CMD_TRIM_MAXLEN) return t->length == 0 || s->length <= t->length;
    return strm_id_cmp(t->id, s->last_id) > 0 || strm_id_cmp(t->id, xs_first_id(s)) <= 0;
}

static int cmd_trim_run(rdbkit_keyspace *ks, xs_stream *s, const cmd_trim *t) {
    if (t->by == CMD_TRIM_NONE || s->length == 0) return 0;
    if (t->approximate && !cmd_trim_known(s, t))
        return ks_event(ks, RDBKIT_REPLAY_UNSURE, "approximate trimming, which is left out");
    if (s->groups.n && t->refs > CMD_REFS_KEEP) return cmd_trim_refs(ks, s, t);
    if (t->by == CMD_TRIM_MAXLEN) xs_trim_length(&ks->env, s, t->length);
    else xs_trim_id(&ks->env, s, t->id);
    return 0;
}

/* ---- XADD, XTRIM, XDEL, XSETID ---- */

typedef struct cmd_xadd_id {
    size_t at; /* the argument */
    rdbkit_stream_id id;
    int any, any_seq; /* it is *, or ms-* */
} cmd_xadd_id;

/* Options up to the ID. */
static int cmd_xadd_options(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_trim *t,
                            cmd_xadd_id *id) {
    int st = 0, found;
    size_t i = 2;
    for (; i < n; i++) {
        const size_t more = n - i - 1;
        id->any = cmd_is(a[i], "*");
        if (id->any) break;
        st = cmd_trim_option(ks, a, n, &i, t, &found);
        if (st) return st;
        if (found) continue;
        if (cmd_is(a[i], "nomkstream")) {
            t->only_existing = 1;
        } else if (cmd_is(a[i], "idmp") && more >= 2) {
            t->idempotent = 1, i += 2;
        } else if (cmd_is(a[i], "idmpauto") && more) {
            t->idempotent = 1, i++;
        } else {
            if (cmd_id_parse(a[i], &id->id, &id->any_seq)) return ks_refuse(ks, "no such stream ID");
            break;
        }
    }
    id->at = i;
    if (i >= n || n - i < 3 || (n - i) % 2 == 0) return ks_refuse(ks, "wrong number of arguments");
    return cmd_trim_done(ks, t);
}

/* The ID that an XADD gives behind the last one. */
static int cmd_xadd_next(rdbkit_keyspace *ks, rdbkit_stream_id last, cmd_xadd_id *id) {
    int st = 0;
    if (last.ms == UINT64_MAX && last.seq == UINT64_MAX)
        return ks_refuse(ks, "the stream has used its last ID");
    if (id->any) {
        const i64 ms = cmd_now(ks);
        const u64 now = ms > 0 ? (u64)ms : 0;
        id->id = last;
        if (now > last.ms) id->id = (rdbkit_stream_id){now, 0};
        else if (++id->id.seq == 0) id->id.ms++;
    } else if (id->any_seq && id->id.ms == last.ms) {
        id->id.seq = last.seq + 1;
    }
    if (strm_id_cmp(id->id, last) <= 0) return ks_refuse(ks, "an ID that is not above the stream's last one");
    if (id->any) st = ks_event(ks, RDBKIT_REPLAY_RELATIVE, "a stream ID by the clock");
    return st;
}

/* The fields of an entry, packed, in ks->tmp[0]. */
static int cmd_xadd_fields(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    mem_buf *b = &ks->tmp[0];
    u64 len = 0;
    b->len = 0;
    for (size_t i = 0; i < n; i++) {
        len += a[i].len;
        if (len > CMD_STREAM_FIELDS_MAX) return ks_refuse(ks, "an entry of more than 1 GiB");
        if (xs_put_text(ks->env.mem, b, a[i])) return ks_nomem(ks);
    }
    return 0;
}

static int cmd_xadd(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_trim t = {CMD_TRIM_NONE, 0, 0, {0, 0}, CMD_REFS_NONE, 0, 0, 0};
    cmd_xadd_id id = {0, {0, 0}, 0, 0};
    xs_stream *s;
    ks_key *k;
    int st = cmd_xadd_options(ks, a, n, &t, &id);
    if (!st) st = cmd_stream(ks, a[1], &s);
    if (st || (!s && t.only_existing)) return st;
    if (t.idempotent && id.any)
        return 0; /* a repetition, which added nothing: of all others the ID is known */
    st = cmd_xadd_next(ks, s ? s->last_id : xs_zero, &id);
    if (!st) st = cmd_xadd_fields(ks, a + id.at + 1, n - id.at - 1);
    if (st) return st;
    if (!s) {
        st = ks_make(ks, a[1], RDBKIT_STREAM, &k);
        if (st) return st;
        s = k->v.p;
    }
    st = ks_status(ks, xs_add(&ks->env, s, id.id, &ks->tmp[0], (n - id.at - 1) / 2));
    if (st) return st;
    s->last_id = id.id;
    s->entries_added++;
    return cmd_trim_run(ks, s, &t);
}

static int cmd_xtrim(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_trim t = {CMD_TRIM_NONE, 0, 0, {0, 0}, CMD_REFS_NONE, 0, 0, 0};
    xs_stream *s;
    int st = 0, found;
    for (size_t i = 2; i < n && !st; i++) {
        st = cmd_trim_option(ks, a, n, &i, &t, &found);
        if (!st && !found) st = ks_refuse(ks, "syntax error");
    }
    if (!st) st = cmd_trim_done(ks, &t);
    if (!st && t.by == CMD_TRIM_NONE) st = ks_refuse(ks, "neither MAXLEN nor MINID");
    if (!st) st = cmd_stream(ks, a[1], &s);
    return st || !s ? st : cmd_trim_run(ks, s, &t);
}

static void cmd_stream_deleted(xs_stream *s, rdbkit_stream_id id) {
    if (strm_id_cmp(id, s->max_deleted) > 0) s->max_deleted = id;
}

static int cmd_xdel(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    xs_stream *s;
    int st = cmd_stream(ks, a[1], &s);
    if (!st && s) st = cmd_ids(ks, a + 2, n - 2);
    if (st || !s) return st;
    for (size_t i = 2; i < n; i++) {
        const rdbkit_stream_id id = cmd_checked_id(a[i]);
        if (xs_delete(&ks->env, s, id)) cmd_stream_deleted(s, id);
    }
    return 0;
}

static int cmd_xsetid_check(rdbkit_keyspace *ks, const xs_stream *s, rdbkit_stream_id id, i64 added) {
    if (strm_id_cmp(id, s->max_deleted) < 0 && !ks_before(ks, 702))
        return ks_refuse(ks, "an ID below the greatest deleted one");
    if (s->length == 0) return 0;
    if (strm_id_cmp(id, xs_newest_id(s)) < 0) return ks_refuse(ks, "an ID below the newest entry");
    return added >= 0 && s->length > (u64)added ? ks_refuse(ks, "ENTRIESADDED below the length") : 0;
}

static int cmd_xsetid(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    rdbkit_stream_id id, deleted = {0, 0};
    i64 added = -1;
    xs_stream *s;
    int st = cmd_id(ks, a[2], &id);
    for (size_t i = 3; i < n && !st; i += 2) {
        if (i + 1 < n && cmd_is(a[i], "entriesadded")) {
            st = cmd_int(ks, a[i + 1], &added);
            if (!st && added < 0) st = ks_refuse(ks, "ENTRIESADDED below 0");
        } else if (i + 1 < n && cmd_is(a[i], "maxdeletedid")) {
            st = cmd_id(ks, a[i + 1], &deleted);
            if (!st && strm_id_cmp(id, deleted) < 0) st = ks_refuse(ks, "an ID below MAXDELETEDID");
        } else {
            st = ks_refuse(ks, "syntax error");
        }
    }
    if (!st) st = cmd_stream_must(ks, a[1], &s);
    if (!st) st = cmd_xsetid_check(ks, s, id, added);
    if (st) return st;
    s->last_id = id;
    if (added >= 0) s->entries_added = (u64)added;
    if (strm_id_cmp(deleted, xs_zero) != 0) s->max_deleted = deleted;
    return 0;
}

/* ---- XGROUP ---- */

/* Options of CREATE and SETID, from a[5] on. */
static int cmd_xgroup_options(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, int *make,
                              i64 *entries_read) {
    int st = 0;
    for (size_t i = 5; i < n && !st; i++) {
        if (make && cmd_is(a[i], "mkstream")) {
            *make = 1;
        } else if (i + 1 < n && cmd_is(a[i], "entriesread")) {
            st = cmd_int(ks, a[++i], entries_read);
            if (!st && *entries_read < -1) st = ks_refuse(ks, "ENTRIESREAD below -1");
        } else {
            st = ks_refuse(ks, "syntax error");
        }
    }
    return st;
}

static int cmd_xgroup_create(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    rdbkit_stream_id id = {0, 0};
    i64 entries_read = RDBKIT_ENTRIES_READ_UNKNOWN;
    int make = 0;
    xs_stream *s;
    ks_key *k;
    int st = cmd_xgroup_options(ks, a, n, &make, &entries_read);
    if (!st && (n < 5 || n > 8)) st = ks_refuse(ks, "wrong number of arguments");
    if (!st) st = make ? cmd_stream(ks, a[2], &s) : cmd_stream_must(ks, a[2], &s);
    if (st) return st;
    if (!cmd_is(a[4], "$")) st = cmd_id(ks, a[4], &id);
    else if (s) id = s->last_id;
    if (!st && s && xs_group_get(s, a[3])) st = ks_refuse(ks, "the group exists");
    if (!st && !s && (st = ks_make(ks, a[2], RDBKIT_STREAM, &k)) == 0) s = k->v.p;
    if (st) return st;
    xs_group *g = xs_group_add(&ks->env, s, a[3]);
    if (!g) return ks_nomem(ks);
    g->last_id = id;
    g->entries_read = entries_read;
    return 0;
}

static int cmd_xgroup_setid(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, const xs_stream *s,
                            xs_group *g) {
    rdbkit_stream_id id = s->last_id;
    i64 entries_read = RDBKIT_ENTRIES_READ_UNKNOWN;
    int st = n == 5 || n == 7 ? 0 : ks_refuse(ks, "wrong number of arguments");
    if (!st) st = cmd_xgroup_options(ks, a, n, NULL, &entries_read);
    if (st) return st;
    if (cmd_is(a[4], "-")) id = xs_zero;
    else if (cmd_is(a[4], "+")) id.ms = id.seq = UINT64_MAX;
    else if (!cmd_is(a[4], "$")) st = cmd_id(ks, a[4], &id);
    if (st) return st;
    g->last_id = id;
    g->entries_read = entries_read;
    return 0;
}

static int cmd_xgroup(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int setid = cmd_is(a[1], "setid"), make = cmd_is(a[1], "createconsumer");
    const int drop = cmd_is(a[1], "delconsumer"), destroy = cmd_is(a[1], "destroy");
    xs_consumer *c = NULL;
    xs_stream *s;
    if (n == 2 && cmd_is(a[1], "help")) return 0;
    if (cmd_is(a[1], "create")) return cmd_xgroup_create(ks, a, n);
    if (!setid && !make && !drop && !destroy) return ks_refuse(ks, "no such subcommand");
    if (n < 4 || (!setid && n != (destroy ? 4u : 5u))) return ks_refuse(ks, "wrong number of arguments");
    int st = cmd_stream_must(ks, a[2], &s);
    if (st) return st;
    if (destroy) {
        (void)xs_group_drop(&ks->env, s, a[3]);
        return 0;
    }
    xs_group *g = xs_group_get(s, a[3]);
    if (!g) return ks_refuse(ks, "no such group");
    if (setid) return cmd_xgroup_setid(ks, a, n, s, g);
    if (make) return cmd_consumer_make(ks, g, a[4], &c);
    (void)xs_consumer_drop(&ks->env, g, a[4]);
    return 0;
}

/* ---- XACK, XCLAIM ---- */

static int cmd_xack(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    xs_stream *s;
    int st = cmd_stream(ks, a[1], &s);
    xs_group *g = !st && s ? xs_group_get(s, a[2]) : NULL;
    if (!g) return st;
    st = cmd_ids(ks, a + 3, n - 3);
    for (size_t i = 3; i < n && !st; i++) (void)xs_ack(&ks->env, g, cmd_checked_id(a[i]));
    return st;
}

typedef struct cmd_claim {
    size_t ids_end; /* IDs are a[5] to before this */
    i64 min_idle, time_ms, count;
    int timed, force, just_id, clock; /* timed: by TIME; clock: now decided */
    rdbkit_stream_id last_id;
    rdbkit_str name;
    xs_consumer *to; /* NULL: not needed yet */
    int claimed;     /* one was */
    u64 gone;        /* messages that were pending, but deleted */
} cmd_claim;

static int cmd_claim_option(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t *i, cmd_claim *c) {
    if (cmd_is(a[*i], "force")) return c->force = 1, 0;
    if (cmd_is(a[*i], "justid")) return c->just_id = 1, 0;
    if (*i + 1 == n) return ks_refuse(ks, "syntax error");
    const rdbkit_str word = a[*i], value = a[++*i];
    i64 idle = 0;
    int st;
    if (cmd_is(word, "retrycount")) return cmd_int(ks, value, &c->count);
    if (cmd_is(word, "lastid")) return cmd_id(ks, value, &c->last_id);
    if (cmd_is(word, "time")) {
        st = cmd_int(ks, value, &c->time_ms);
        c->timed = 1;
    } else if (cmd_is(word, "idle")) {
        st = cmd_int(ks, value, &idle);
        c->time_ms = idle < 0 ? cmd_now(ks) : (i64)((u64)cmd_now(ks) - (u64)idle);
        c->timed = 0;
    } else {
        st = ks_refuse(ks, "syntax error");
    }
    return st;
}

/* All arguments from a[4] on. */
static int cmd_claim_options(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, cmd_claim *c) {
    rdbkit_stream_id id;
    int st = cmd_int(ks, a[4], &c->min_idle);
    size_t i = 5;
    while (i < n && cmd_id_parse(a[i], &id, NULL) == 0) i++;
    c->ids_end = i;
    for (; i < n && !st; i++) st = cmd_claim_option(ks, a, n, &i, c);
    if (c->time_ms < 0) c->time_ms = cmd_now(ks), c->timed = 0;
    return st;
}

/* Claim one ID. A message that is gone is no longer pending; servers before 7.0 keep it so, and let it be
 * claimed. */
static int cmd_claim_one(rdbkit_keyspace *ks, const xs_stream *s, xs_group *g, rdbkit_stream_id id,
                         cmd_claim *c) {
    const int here = xs_has(s, id);
    if (!here && !ks_before(ks, 700)) {
        c->gone += (u64)xs_ack(&ks->env, g, id);
        return 0;
    }
    xs_pending *p = xs_pending_get(g, id);
    if (!p && (!c->force || !here)) return 0;
    if (p && c->min_idle > 0) {
        c->clock = 1;
        if (cmd_now(ks) < p->delivery_ms || cmd_now(ks) - p->delivery_ms < c->min_idle) return 0;
    }
    int st = cmd_consumer_make(ks, g, c->name, &c->to);
    if (st) return st;
    if (p) xs_pending_give(p, c->to);
    else if ((p = xs_pending_add(&ks->env, g, id, c->to)) == NULL) return ks_nomem(ks);
    p->delivery_ms = c->time_ms;
    if (c->count >= 0) p->delivery_count = (u64)c->count;
    else if (!c->just_id) p->delivery_count++;
    c->claimed = 1;
    return 0;
}

static int cmd_claim_all(rdbkit_keyspace *ks, const rdbkit_str *a, const xs_stream *s, xs_group *g,
                         cmd_claim *c) {
    int st = 0;
    for (size_t i = 5; i < c->ids_end && !st; i++) st = cmd_claim_one(ks, s, g, cmd_checked_id(a[i]), c);
    if (!st && !c->to && !ks_before(ks, 702)) st = cmd_consumer_make(ks, g, c->name, &c->to);
    if (st) return st;
    if (c->claimed && c->time_ms > c->to->active_ms) c->to->active_ms = c->time_ms;
    if (c->claimed && c->time_ms > c->to->seen_ms) c->to->seen_ms = c->time_ms;
    if (c->gone && !ks->release)
        return ks_event(ks, RDBKIT_REPLAY_UNSURE,
                        "a deleted message was claimed: servers before 7.0 keep it pending");
    return (c->claimed && !c->timed) || c->clock
               ? ks_event(ks, RDBKIT_REPLAY_RELATIVE, "a delivery time by the clock")
               : 0;
}

static int cmd_xclaim(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_claim c = {.time_ms = -1, .count = -1, .name = a[3]};
    xs_stream *s;
    int st = cmd_stream_must(ks, a[1], &s);
    xs_group *g = st ? NULL : xs_group_get(s, a[2]);
    if (!st && !g) st = ks_refuse(ks, "no such group");
    if (!st) st = cmd_claim_options(ks, a, n, &c);
    if (st) return st;
    if (strm_id_cmp(c.last_id, g->last_id) > 0) g->last_id = c.last_id;
    return cmd_claim_all(ks, a, s, g, &c);
}

/* Servers log what these did as XCLAIM and XGROUP. */
static int cmd_never_logged(rdbkit_keyspace *ks) {
    return ks_event(ks, RDBKIT_REPLAY_UNSURE, "a command that servers do not log, left out");
}

static int cmd_xreadgroup(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)a, (void)n;
    return cmd_never_logged(ks);
}

static int cmd_xautoclaim(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)a, (void)n;
    return cmd_never_logged(ks);
}

/* ---- Redis 8.2 and later ---- */

typedef struct cmd_id_list {
    cmd_refs refs;
    size_t at, n; /* the IDs */
} cmd_id_list;

/* [KEEPREF | DELREF | ACKED] IDS n id.. */
static int cmd_id_list_parse(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t i, cmd_id_list *l) {
    l->refs = CMD_REFS_NONE;
    l->at = l->n = 0;
    for (; i < n; i++) {
        const cmd_refs refs = cmd_refs_word(a[i]);
        i64 count;
        if (refs != CMD_REFS_NONE && l->refs == CMD_REFS_NONE) {
            l->refs = refs;
            continue;
        }
        if (!cmd_is(a[i], "ids") || l->at || n - i < 3) return ks_refuse(ks, "syntax error");
        int st = cmd_int(ks, a[i + 1], &count);
        if (st) return st;
        if (count <= 0 || (u64)count > n - i - 2) return ks_refuse(ks, "a wrong number of IDs");
        l->at = i + 2;
        l->n = (size_t)count;
        i += 1 + l->n;
        st = cmd_ids(ks, a + l->at, l->n);
        if (st) return st;
    }
    return l->at ? 0 : ks_refuse(ks, "syntax error");
}

static int cmd_xdelex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_id_list l;
    xs_stream *s;
    int st = cmd_id_list_parse(ks, a, n, 2, &l);
    if (!st) st = cmd_stream(ks, a[1], &s);
    if (st || !s) return st;
    for (size_t i = 0; i < l.n; i++) {
        const rdbkit_stream_id id = cmd_checked_id(a[l.at + i]);
        if (cmd_stream_delete(ks, s, id, l.refs)) cmd_stream_deleted(s, id);
    }
    return 0;
}

static int cmd_xackdel(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_id_list l;
    xs_stream *s;
    int st = cmd_id_list_parse(ks, a, n, 3, &l);
    if (!st) st = cmd_stream(ks, a[1], &s);
    xs_group *g = !st && s ? xs_group_get(s, a[2]) : NULL;
    if (!g) return st;
    for (size_t i = 0; i < l.n; i++) {
        const rdbkit_stream_id id = cmd_checked_id(a[l.at + i]);
        if (xs_ack(&ks->env, g, id) && cmd_stream_delete(ks, s, id, l.refs)) cmd_stream_deleted(s, id);
    }
    return 0;
}

/* Which messages of a producer are known is not kept: replay needs it only for a repetition with an ID of its
 * own. */
static int cmd_idempotency_lost(rdbkit_keyspace *ks) {
    return ks_event(ks, RDBKIT_REPLAY_UNSURE, "settings and records of idempotent producers are left out");
}

static int cmd_xcfgset(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    xs_stream *s;
    int st = n > 2 && n % 2 == 0 ? 0 : ks_refuse(ks, "syntax error");
    for (size_t i = 2; i < n && !st; i += 2) {
        i64 value, max = cmd_is(a[i], "idmp-duration") ? 86400 : cmd_is(a[i], "idmp-maxsize") ? 10000 : 0;
        if (!max) return ks_refuse(ks, "syntax error");
        st = cmd_int(ks, a[i + 1], &value);
        if (!st && (value < 1 || value > max)) st = ks_refuse(ks, "a value out of range");
    }
    if (!st) st = cmd_stream_must(ks, a[1], &s);
    return st ? st : cmd_idempotency_lost(ks);
}

static int cmd_xidmprecord(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    rdbkit_stream_id id;
    xs_stream *s;
    (void)n;
    int st = cmd_id(ks, a[4], &id);
    if (!st && (!a[2].len || !a[3].len)) st = ks_refuse(ks, "an empty producer or message ID");
    if (!st) st = cmd_stream_must(ks, a[1], &s);
    if (!st && !xs_has(s, id)) st = ks_refuse(ks, "no such entry");
    return st ? st : cmd_idempotency_lost(ks);
}

/* ==== [39] cmd_ : commands of strings and keys; RESTORE, functions ====
 *
 * Tests: tests/test_keyspace.c, tests/aof_test.py */

/* ---- strings ---- */

/* NX, XX, IFEQ and their like, KEEPTTL and times: what SET, MSETEX and GETEX understand. */
typedef struct cmd_set_options {
    int nx, xx, keep_ttl, persist;
    const rdbkit_str *equal, *differs; /* IFEQ, IFNE */
    int has_time;
    i64 expire_ms;
} cmd_set_options;

static int cmd_set_option(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t *i, cmd_set_options *o) {
    const rdbkit_str word = a[*i];
    int seconds, relative;
    if (cmd_is(word, "nx")) return o->nx = 1, 0;
    if (cmd_is(word, "xx")) return o->xx = 1, 0;
    if (cmd_is(word, "get")) return 0;
    if (cmd_is(word, "keepttl")) return o->keep_ttl = 1, 0;
    if (cmd_is(word, "persist")) return o->persist = 1, 0;
    if (cmd_is(word, "ifdeq") || cmd_is(word, "ifdne"))
        return ks_fail(ks, RDBKIT_ERR_UNSUPPORTED, "SET with a digest (Redis 8.4) is not supported");
    if (*i + 1 < n && cmd_is(word, "ifeq")) return o->equal = &a[++*i], 0;
    if (*i + 1 < n && cmd_is(word, "ifne")) return o->differs = &a[++*i], 0;
    if (*i + 1 >= n || !cmd_is_time(word, &seconds, &relative)) return ks_refuse(ks, "syntax error");
    o->has_time = 1;
    return cmd_time_option(ks, a[++*i], seconds, relative, &o->expire_ms);
}

static int cmd_set_options_of(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, size_t from,
                              cmd_set_options *o) {
    memset(o, 0, sizeof *o);
    int st = 0;
    for (size_t i = from; !st && i < n; i++) st = cmd_set_option(ks, a, n, &i, o);
    if (!st && ((o->nx && o->xx) || (o->has_time && o->keep_ttl))) st = ks_refuse(ks, "syntax error");
    return st;
}

/* Set one string; keep_ttl and time as the options say. */
static int cmd_set_one(rdbkit_keyspace *ks, rdbkit_str name, rdbkit_str value, const cmd_set_options *o) {
    i64 expire_ms = RDBKIT_NO_EXPIRY;
    ks_key *k;
    if (o->keep_ttl && (k = ks_find(ks, name)) != NULL) expire_ms = ks_expiry(k);
    if (o->has_time) expire_ms = o->expire_ms;
    int st = ks_set_string(ks, name, value, &k);
    return st ? st : ks_expire(ks, k, expire_ms);
}

static int cmd_set(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    if (PORT_LIKELY(n == 3)) return ks_set_string(ks, a[1], a[2], NULL);
    cmd_set_options o;
    int st = cmd_set_options_of(ks, a, n, 3, &o);
    if (st) return st;
    ks_key *k = ks_find(ks, a[1]);
    if ((o.nx && k) || (o.xx && !k)) return 0;
    if (o.equal || o.differs) {
        st = ks_get(ks, a[1], RDBKIT_STRING, &k);
        if (st) return st;
        if (o.equal && (!k || !seq_same(ks_string(k), *o.equal))) return 0;
        if (o.differs && k && seq_same(ks_string(k), *o.differs)) return 0;
    }
    return cmd_set_one(ks, a[1], a[2], &o);
}

static int cmd_setnx(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)n;
    return ks_find(ks, a[1]) ? 0 : ks_set_string(ks, a[1], a[2], NULL);
}

/* SETEX and PSETEX: key, time, value. */
static int cmd_setex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_set_options o;
    (void)n;
    memset(&o, 0, sizeof o);
    o.has_time = 1;
    int st = cmd_time_option(ks, a[2], cmd_is(a[0], "setex"), 1, &o.expire_ms);
    return st ? st : cmd_set_one(ks, a[1], a[3], &o);
}

static int cmd_getset(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    (void)n;
    int st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    return st ? st : ks_set_string(ks, a[1], a[2], NULL);
}

/* MSET and MSETNX. */
static int cmd_mset(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    int st = 0;
    if (n % 2 == 0) return ks_refuse(ks, "wrong number of arguments");
    for (size_t i = 1; i < n && cmd_is(a[0], "msetnx"); i += 2)
        if (ks_find(ks, a[i])) return 0;
    for (size_t i = 1; !st && i < n; i += 2) st = ks_set_string(ks, a[i], a[i + 1], NULL);
    return st;
}

static int cmd_msetex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_set_options o;
    i64 pairs;
    int st = cmd_int(ks, a[1], &pairs);
    if (st) return st;
    if (pairs <= 0 || (u64)pairs > (n - 2) / 2) return ks_refuse(ks, "wrong number of key-value pairs");
    const size_t end = 2 + 2 * (size_t)pairs;
    st = cmd_set_options_of(ks, a, n, end, &o);
    for (size_t i = 2; !st && i < end && (o.nx || o.xx); i += 2)
        if ((ks_find(ks, a[i]) != NULL) != o.xx) return 0;
    for (size_t i = 2; !st && i < end; i += 2) st = cmd_set_one(ks, a[i], a[i + 1], &o);
    return st;
}

/* The string of a name, made empty if it is not there. */
static int cmd_string(rdbkit_keyspace *ks, rdbkit_str name, ks_key **k) {
    static const rdbkit_str empty = {NULL, 0};
    int st = ks_get(ks, name, RDBKIT_STRING, k);
    return st || *k ? st : ks_set_string(ks, name, empty, k);
}

static int cmd_append(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    (void)n;
    int st = cmd_string(ks, a[1], &k);
    if (st) return st;
    const u64 old = k->v.s.len;
    st = ks_string_grow(ks, &k, old + a[2].len);
    if (!st && a[2].len) memcpy(ks_string_bytes(k) + old, a[2].data, a[2].len);
    return st;
}

static int cmd_setrange(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    i64 off;
    (void)n;
    int st = cmd_int(ks, a[2], &off);
    if (st) return st;
    if (off < 0) return ks_refuse(ks, "offset is out of range");
    st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (st || a[3].len == 0) return st;
    if ((u64)off > SEQ_LEN_MAX) return ks_fail(ks, RDBKIT_ERR_LIMIT, "SETRANGE at %lld", (long long)off);
    st = cmd_string(ks, a[1], &k);
    if (!st) st = ks_string_grow(ks, &k, (u64)off + a[3].len);
    if (!st) memcpy(ks_string_bytes(k) + off, a[3].data, a[3].len);
    return st;
}

/* INCR, DECR, INCRBY, DECRBY. */
static int cmd_incr(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int down = cmd_is(a[0], "decr") || cmd_is(a[0], "decrby");
    i64 by = 1, old = 0;
    ks_key *k;
    int st = n > 2 ? cmd_int(ks, a[2], &by) : 0;
    if (!st) st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (!st && k) st = cmd_int(ks, ks_string(k), &old);
    if (st) return st;
    if (down && by == INT64_MIN) return ks_refuse(ks, "decrement would overflow");
    if (down) by = -by;
    if (by > 0 ? old > INT64_MAX - by : old < INT64_MIN - by)
        return ks_refuse(ks, "increment or decrement would overflow");
    u8 text[NUM_INT_MAX];
    const size_t len = (size_t)(num_i64(text, old + by) - text);
    const i64 expire_ms = k ? ks_expiry(k) : RDBKIT_NO_EXPIRY;
    st = ks_set_string(ks, a[1], (rdbkit_str){(const char *)text, len}, &k);
    return st ? st : ks_expire(ks, k, expire_ms);
}

static int cmd_incrbyfloat(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    char text[CMD_FLOAT_MAX];
    ks_key *k;
    size_t len;
    (void)n;
    int st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (!st) st = cmd_add_float(ks, k ? ks_string(k) : (rdbkit_str){"0", 1}, a[2], text, &len);
    if (st) return st;
    const i64 expire_ms = k ? ks_expiry(k) : RDBKIT_NO_EXPIRY;
    st = ks_set_string(ks, a[1], (rdbkit_str){text, len}, &k);
    return st ? st : ks_expire(ks, k, expire_ms);
}

static int cmd_getdel(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k;
    (void)n;
    int st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (!st && k) (void)ks_drop(ks, a[1]);
    return st;
}

static int cmd_getex(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_set_options o;
    ks_key *k;
    int st = cmd_set_options_of(ks, a, n, 2, &o);
    if (!st) st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (st || !k || (!o.has_time && !o.persist)) return st;
    return ks_expire(ks, k, o.has_time ? o.expire_ms : RDBKIT_NO_EXPIRY);
}

/* DELIFEQ k v, and DELEX k [IFEQ v | IFNE v]. */
static int cmd_delif(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int delex = cmd_is(a[0], "delex");
    if (delex && n == 2) return (void)ks_drop(ks, a[1]), 0;
    if (n != (delex ? 4 : 3)) return ks_refuse(ks, "wrong number of arguments");
    const int differs = delex && cmd_is(a[2], "ifne");
    if (delex && !differs && !cmd_is(a[2], "ifeq"))
        return ks_fail(ks, RDBKIT_ERR_UNSUPPORTED, "DELEX with a digest (Redis 8.4) is not supported");
    ks_key *k;
    int st = ks_get(ks, a[1], RDBKIT_STRING, &k);
    if (!st && k && seq_same(ks_string(k), a[n - 1]) != differs) (void)ks_drop(ks, a[1]);
    return st;
}

/* ---- keys ---- */

/* DEL, UNLINK. */
static int cmd_del(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    for (size_t i = 1; i < n; i++) (void)ks_drop(ks, a[i]);
    return 0;
}

/* EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT. */
static int cmd_expire(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int milli = cmd_is(a[0], "pexpire") || cmd_is(a[0], "pexpireat");
    const int at = cmd_is(a[0], "expireat") || cmd_is(a[0], "pexpireat");
    unsigned conditions = 0;
    i64 ms;
    for (size_t i = 3; i < n; i++) {
        const unsigned c = cmd_condition(a[i]);
        if (!c) return ks_refuse(ks, "unsupported option");
        conditions |= c;
    }
    if (!cmd_conditions_fit(conditions)) return ks_refuse(ks, "options that exclude each other");
    int st = cmd_int(ks, a[2], &ms);
    if (!st) st = cmd_time(ks, ms, !milli, !at, &ms);
    ks_key *k = st ? NULL : ks_find(ks, a[1]);
    return k && cmd_condition_holds(conditions, ks_expiry(k), ms) ? ks_expire(ks, k, ms) : st;
}

static int cmd_persist(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    ks_key *k = ks_find(ks, a[1]);
    (void)n;
    return k ? ks_expire(ks, k, RDBKIT_NO_EXPIRY) : 0;
}

/* RENAME, RENAMENX. */
static int cmd_rename(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const u32 i = ks_index(ks, a[1]);
    (void)n;
    if (i == TAB_NONE) return ks_refuse(ks, "no such key");
    if (seq_same(a[1], a[2])) return 0;
    if (cmd_is(a[0], "renamenx") && ks_find(ks, a[2])) return 0;
    return ks_move(ks, i, ks->db, a[2]);
}

/* A database number. */
static int cmd_db(rdbkit_keyspace *ks, rdbkit_str s, u64 *db) {
    i64 v;
    int st = cmd_int(ks, s, &v);
    if (st) return st;
    if (v < 0 || v > INT32_MAX) return ks_refuse(ks, "DB index is out of range");
    *db = (u64)v;
    return 0;
}

static int cmd_select(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    u64 db;
    (void)n;
    int st = cmd_db(ks, a[1], &db);
    if (!st) ks_select(ks, db);
    return st;
}

static int cmd_move(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const u64 here = ks->db;
    u64 db;
    (void)n;
    int st = cmd_db(ks, a[2], &db);
    if (st) return st;
    if (db == here) return ks_refuse(ks, "source and destination objects are the same");
    ks_select(ks, db);
    const int there = ks_find(ks, a[1]) != NULL;
    ks_select(ks, here);
    const u32 i = ks_index(ks, a[1]);
    return there || i == TAB_NONE ? 0 : ks_move(ks, i, db, a[1]);
}

static int cmd_copy(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const u64 here = ks->db;
    u64 db = here;
    int replace = 0, st = 0;
    for (size_t i = 3; !st && i < n; i++) {
        if (cmd_is(a[i], "replace")) replace = 1;
        else if (cmd_is(a[i], "db") && i + 1 < n) st = cmd_db(ks, a[++i], &db);
        else st = ks_refuse(ks, "syntax error");
    }
    if (st) return st;
    if (db == here && seq_same(a[1], a[2]))
        return ks_refuse(ks, "source and destination objects are the same");
    const ks_key *k = ks_find(ks, a[1]);
    if (!k) return 0;
    ks_select(ks, db);
    if (replace || !ks_find(ks, a[2])) st = ks_copy(ks, k, a[2]);
    ks_select(ks, here);
    return st;
}

static int cmd_swapdb(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    u64 i, j;
    (void)n;
    int st = cmd_db(ks, a[1], &i);
    if (!st) st = cmd_db(ks, a[2], &j);
    if (st || i == j) return st;
    ks_db *x = ks_db_of(ks, i, 1), *y = x ? ks_db_of(ks, j, 1) : NULL;
    if (!y) return ks_nomem(ks);
    const tab keys = x->keys;
    x->keys = y->keys;
    y->keys = keys;
    return 0;
}

/* FLUSHDB, FLUSHALL. */
static int cmd_flush(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    if (n > 2 || (n == 2 && !cmd_is(a[1], "async") && !cmd_is(a[1], "sync")))
        return ks_refuse(ks, "syntax error");
    if (cmd_is(a[0], "flushall")) ks_flush(ks);
    else if (ks_keys(ks, 0)) ks_flush_db(ks, ks->at);
    return 0;
}

/* ---- slots ---- */

/* Delete the keys of slots first to last in all databases. */
static void cmd_drop_slots(rdbkit_keyspace *ks, i64 first, i64 last) {
    ks_db *db;
    ks_key *k;
    for (u32 i = 0; (db = tab_next(&ks->dbs, &i)) != NULL;) {
        for (u32 j = 0; (k = tab_next(&db->keys, &j)) != NULL;) {
            const i64 slot = flt_slot(ks_key_name(k));
            if (slot >= first && slot <= last) ks_drop_index(ks, &db->keys, j - 1);
        }
    }
}

static int cmd_slot(rdbkit_keyspace *ks, rdbkit_str s, i64 *slot) {
    int st = cmd_int(ks, s, slot);
    return !st && (*slot < 0 || *slot > 16383) ? ks_refuse(ks, "no such slot") : st;
}

/* Ranges of slots from argument i to end. */
static int cmd_slot_ranges(rdbkit_keyspace *ks, const rdbkit_str *a, size_t i, size_t end) {
    i64 first, last;
    int st = 0;
    if (i == end || (end - i) % 2) return ks_refuse(ks, "syntax error");
    for (size_t j = i; !st && j < end; j += 2) {
        st = cmd_slot(ks, a[j], &first);
        if (!st) st = cmd_slot(ks, a[j + 1], &last);
    }
    for (; !st && i < end; i += 2) {
        (void)cmd_slot(ks, a[i], &first), (void)cmd_slot(ks, a[i + 1], &last);
        cmd_drop_slots(ks, first, last);
    }
    return st;
}

/* SFLUSH first last .. [SYNC | ASYNC]. */
static int cmd_sflush(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const size_t end = n - (cmd_is(a[n - 1], "sync") || cmd_is(a[n - 1], "async"));
    return cmd_slot_ranges(ks, a, 1, end);
}

/* TRIMSLOTS RANGES n first last .. */
static int cmd_trimslots(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 ranges;
    int st = cmd_is(a[1], "ranges") ? cmd_int(ks, a[2], &ranges) : ks_refuse(ks, "syntax error");
    if (st) return st;
    if (ranges < 1 || (u64)ranges > (n - 3) / 2) return ks_refuse(ks, "wrong number of ranges");
    return cmd_slot_ranges(ks, a, 3, 3 + 2 * (size_t)ranges);
}

static int cmd_cluster(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    i64 slot;
    if (!cmd_is(a[1], "flushslot")) return 0; /* SYNCSLOTS, SETSLOT: no keys change */
    if (n < 3) return ks_refuse(ks, "wrong number of arguments");
    int st = cmd_slot(ks, a[2], &slot);
    if (!st) cmd_drop_slots(ks, slot, slot);
    return st;
}

/* ---- payloads: RESTORE and functions ---- */

#define CMD_FOOTER 10 /* RDB version, checksum */

/* Check a payload's footer. 0 with the lineage whose numbers it uses, or KS_REFUSED. */
static int cmd_payload(rdbkit_keyspace *ks, rdbkit_str payload, int *valkey) {
    if (payload.len <= CMD_FOOTER) return ks_refuse(ks, "bad data format");
    const u8 *end = (const u8 *)payload.data + payload.len;
    const unsigned version = port_le16(end - CMD_FOOTER);
    *valkey = version >= FMT_MIN_VALKEY;
    if (version > (unsigned)(*valkey ? FMT_MAX_VALKEY : FMT_MAX_REDIS))
        return ks_refuse(ks, "payload of an unknown version");
    if (crc_update(0, (const u8 *)payload.data, payload.len - 8) != port_le64(end - 8))
        return ks_refuse(ks, "payload checksum is wrong");
    return 0;
}

/* A payload's value that is read: where it ends. */
typedef struct cmd_payload_end {
    rdbkit_reader *reader;
    u64 off;
} cmd_payload_end;

static int cmd_payload_key(void *user, const rdbkit_key *key) {
    (void)user, (void)key;
    return RDBKIT_TAKE_RAW;
}

static int cmd_payload_key_end(void *user) {
    cmd_payload_end *end = user;
    if (end->off) return RDBKIT_ERR_STOPPED; /* a payload is one value */
    end->off = rdbkit_reader_offset(end->reader);
    return 0;
}

/* A reader of a payload's bytes, which are what follows the header of an RDB. NULL without memory. */
static rdbkit_reader *cmd_payload_reader(rdbkit_keyspace *ks, const rdbkit_visitor *v, int valkey) {
    rdbkit_reader_options options;
    rdbkit_reader_options_init(&options);
    options.allocator = ks->env.mem;
    options.ignore_checksum = 1;
    return ks_record_reader(&options, v, ks_magic(valkey));
}

/* Whether a type byte and a value are sound, to the last byte. */
static int cmd_value_sound(rdbkit_keyspace *ks, const u8 *p, size_t len, int valkey) {
    static const u8 no_name = 0;
    cmd_payload_end end = {NULL, 0};
    rdbkit_visitor v = {0};
    v.user = &end;
    v.key = cmd_payload_key, v.key_end = cmd_payload_key_end;
    rdbkit_reader *r = end.reader = cmd_payload_reader(ks, &v, valkey);
    if (!r) return ks_nomem(ks);
    int st = rdbkit_reader_feed(r, p, 1);
    if (st == RDBKIT_MORE) st = rdbkit_reader_feed(r, &no_name, 1);
    if (st == RDBKIT_MORE) st = rdbkit_reader_feed(r, p + 1, len - 1);
    rdbkit_reader_free(r);
    if (st == RDBKIT_ERR_NOMEM) return ks_nomem(ks);
    return st == RDBKIT_MORE && end.off == 9 + 1 + len ? 0 : ks_refuse(ks, "bad data format");
}

typedef struct cmd_restore_options {
    int replace, absolute;
    i64 idle_s, freq;
} cmd_restore_options;

static int cmd_restore_options_of(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n,
                                  cmd_restore_options *o) {
    int st = 0;
    *o = (cmd_restore_options){0, 0, RDBKIT_NO_HINT, RDBKIT_NO_HINT};
    for (size_t i = 4; !st && i < n; i++) {
        if (cmd_is(a[i], "replace")) o->replace = 1;
        else if (cmd_is(a[i], "absttl")) o->absolute = 1;
        else if (cmd_is(a[i], "idletime") && i + 1 < n) st = cmd_int(ks, a[++i], &o->idle_s);
        else if (cmd_is(a[i], "freq") && i + 1 < n) st = cmd_int(ks, a[++i], &o->freq);
        else st = ks_refuse(ks, "syntax error");
    }
    if (!st && (o->idle_s < RDBKIT_NO_HINT || o->freq < RDBKIT_NO_HINT || o->freq > 255))
        st = ks_refuse(ks, "out of range");
    return st;
}

/* RESTORE, RESTORE-ASKING: key, ttl, payload. */
static int cmd_restore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    cmd_restore_options o;
    i64 ttl;
    int valkey;
    int st = cmd_restore_options_of(ks, a, n, &o);
    if (!st && !o.replace && ks_find(ks, a[1])) st = ks_refuse(ks, "the key is there already");
    if (!st) st = cmd_int(ks, a[2], &ttl);
    if (!st && ttl < 0) st = ks_refuse(ks, "invalid TTL");
    if (!st) st = cmd_payload(ks, a[3], &valkey);
    if (st) return st;
    const u8 *p = (const u8 *)a[3].data;
    const size_t len = a[3].len - CMD_FOOTER;
    const rdbkit_type *type = fmt_type_find(valkey ? FMT_V : FMT_R, p[0]);
    st = type && type->layout ? cmd_value_sound(ks, p, len, valkey)
                              : ks_refuse(ks, "a payload of an unknown type");
    if (!st && ttl && !o.absolute) st = cmd_time(ks, ttl, 0, 1, &ttl);
    ks_key *k;
    if (!st) st = ks_put_frozen(ks, a[1], type, p + 1, len - 1, &k);
    return st ? st : ks_set_times(ks, &k, ks_times_from(ttl ? ttl : RDBKIT_NO_EXPIRY, o.idle_s, o.freq));
}

/* A library's name, from its first line: #!engine name=library. */
static int cmd_library_name(rdbkit_keyspace *ks, rdbkit_str code, rdbkit_str *name) {
    if (code.len < 2 || code.data[0] != '#' || code.data[1] != '!')
        return ks_refuse(ks, "a library without #! line");
    *name = loss_library_name(code);
    return name->data == code.data ? ks_refuse(ks, "a library without name") : 0;
}

static int cmd_function_load(rdbkit_keyspace *ks, rdbkit_str code, int replace) {
    rdbkit_str name;
    int st = cmd_library_name(ks, code, &name);
    if (!st && !replace && tab_get(&ks->libraries, ks->env.seed, name))
        st = ks_refuse(ks, "the library is there already");
    return st ? st : ks_put_library(ks, name, code);
}

/* The libraries of a payload, looked at before they are put in. */
typedef struct cmd_libraries {
    rdbkit_keyspace *ks;
    int put; /* 0: look whether one is there already */
    int clash;
} cmd_libraries;

static int cmd_on_library(void *user, rdbkit_str code, int opcode) {
    cmd_libraries *l = user;
    const rdbkit_str name = loss_library_name(code);
    (void)opcode;
    if (l->put) return ks_put_library(l->ks, name, code);
    if (tab_get(&l->ks->libraries, l->ks->env.seed, name)) l->clash = 1;
    return 0;
}

static int cmd_read_libraries(cmd_libraries *l, rdbkit_str payload, int valkey) {
    static const u8 end[9] = {FMT_OP_EOF};
    rdbkit_visitor v = {0};
    v.user = l;
    v.function = cmd_on_library;
    rdbkit_reader *r = cmd_payload_reader(l->ks, &v, valkey);
    if (!r) return ks_nomem(l->ks);
    const size_t len = payload.len - CMD_FOOTER;
    int st = rdbkit_reader_feed(r, payload.data, len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_feed(r, end, sizeof end); /* done only if nothing is cut */
    const int sound =
        st == RDBKIT_DONE && rdbkit_reader_offset(r) == 9 + len + sizeof end && rdbkit_reader_keys(r) == 0;
    rdbkit_reader_free(r);
    if (l->ks->error.code) return l->ks->error.code;
    if (st == RDBKIT_ERR_NOMEM) return ks_nomem(l->ks);
    return sound ? 0 : ks_refuse(l->ks, "bad data format");
}

/* FUNCTION RESTORE payload [APPEND | REPLACE | FLUSH]. */
static int cmd_function_restore(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    const int replace = n > 3 && cmd_is(a[3], "replace"), flush = n > 3 && cmd_is(a[3], "flush");
    cmd_libraries l = {ks, 0, 0};
    int valkey;
    if (n > 4 || (n == 4 && !replace && !flush && !cmd_is(a[3], "append")))
        return ks_refuse(ks, "wrong restore policy");
    int st = cmd_payload(ks, a[2], &valkey);
    if (!st) st = cmd_read_libraries(&l, a[2], valkey);
    if (!st && l.clash && !replace && !flush) st = ks_refuse(ks, "a library is there already");
    if (st) return st;
    if (flush) ks_drop_libraries(ks);
    l.put = 1;
    return cmd_read_libraries(&l, a[2], valkey);
}

static int cmd_function(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    if (cmd_is(a[1], "load") && n >= 3) {
        const int replace = n == 4 && cmd_is(a[2], "replace");
        return n == 3 || replace ? cmd_function_load(ks, a[n - 1], replace) : ks_refuse(ks, "unknown option");
    }
    if (cmd_is(a[1], "delete") && n == 3)
        return ks_drop_library(ks, a[2]) ? 0 : ks_refuse(ks, "library not found");
    if (cmd_is(a[1], "restore") && n >= 3) return cmd_function_restore(ks, a, n);
    if (cmd_is(a[1], "flush")) ks_drop_libraries(ks);
    return 0; /* LIST, DUMP, STATS, KILL, HELP */
}

/* ==== [40] cmd_ : commands: the table, and running them ====
 *
 * One row a command. Transactions are queued here, and run when their EXEC comes. Tests: tests/test_keyspace.c,
 * tests/aof_test.py */

static int cmd_nothing(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)ks, (void)a, (void)n;
    return 0;
}

/* EVAL, EVALSHA, FCALL. */
static int cmd_script(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n) {
    (void)a, (void)n;
    if (ks->opt.skip_scripts)
        return ks_event(ks, RDBKIT_REPLAY_SCRIPT, "a script, which needs Lua, was skipped");
    return ks_fail(ks, RDBKIT_ERR_UNSUPPORTED, "a script, %.*s: it cannot be replayed without Lua",
                   (int)a[0].len, a[0].data);
}

/* Name in lower case, arity as the servers count it (negative: at least), function. In order of name. */
#define CMD_TABLE(X)                                  \
    X("append", 3, cmd_append)                        \
    X("bitfield", -2, cmd_bitfield)                   \
    X("bitop", -4, cmd_bitop)                         \
    X("blmove", 6, cmd_lmove)                         \
    X("blmpop", -5, cmd_lmpop)                        \
    X("blpop", -3, cmd_blpop)                         \
    X("brpop", -3, cmd_blpop)                         \
    X("brpoplpush", 4, cmd_rpoplpush)                 \
    X("bzmpop", -5, cmd_zmpop)                        \
    X("bzpopmax", -3, cmd_bzpop)                      \
    X("bzpopmin", -3, cmd_bzpop)                      \
    X("cluster", -2, cmd_cluster)                     \
    X("copy", -3, cmd_copy)                           \
    X("decr", 2, cmd_incr)                            \
    X("decrby", 3, cmd_incr)                          \
    X("del", -2, cmd_del)                             \
    X("delex", -2, cmd_delif)                         \
    X("delifeq", 3, cmd_delif)                        \
    X("eval", -3, cmd_script)                         \
    X("evalsha", -3, cmd_script)                      \
    X("expire", -3, cmd_expire)                       \
    X("expireat", -3, cmd_expire)                     \
    X("fcall", -3, cmd_script)                        \
    X("flushall", -1, cmd_flush)                      \
    X("flushdb", -1, cmd_flush)                       \
    X("function", -2, cmd_function)                   \
    X("geoadd", -5, cmd_geoadd)                       \
    X("georadius", -6, cmd_georadius)                 \
    X("georadiusbymember", -5, cmd_georadiusbymember) \
    X("geosearchstore", -8, cmd_geosearchstore)       \
    X("getdel", 2, cmd_getdel)                        \
    X("getex", -2, cmd_getex)                         \
    X("getset", 3, cmd_getset)                        \
    X("hdel", -3, cmd_hdel)                           \
    X("hexpire", -6, cmd_hexpire)                     \
    X("hexpireat", -6, cmd_hexpireat)                 \
    X("hgetdel", -5, cmd_hgetdel)                     \
    X("hgetex", -5, cmd_hgetex)                       \
    X("hincrby", 4, cmd_hincrby)                      \
    X("hincrbyfloat", 4, cmd_hincrbyfloat)            \
    X("hmset", -4, cmd_hset)                          \
    X("hpersist", -5, cmd_hpersist)                   \
    X("hpexpire", -6, cmd_hpexpire)                   \
    X("hpexpireat", -6, cmd_hpexpireat)               \
    X("hset", -4, cmd_hset)                           \
    X("hsetex", -6, cmd_hsetex)                       \
    X("hsetnx", 4, cmd_hsetnx)                        \
    X("incr", 2, cmd_incr)                            \
    X("incrby", 3, cmd_incr)                          \
    X("incrbyfloat", 3, cmd_incrbyfloat)              \
    X("linsert", 5, cmd_linsert)                      \
    X("lmove", 5, cmd_lmove)                          \
    X("lmpop", -4, cmd_lmpop)                         \
    X("lpop", -2, cmd_lpop)                           \
    X("lpush", -3, cmd_lpush)                         \
    X("lpushx", -3, cmd_lpushx)                       \
    X("lrem", 4, cmd_lrem)                            \
    X("lset", 4, cmd_lset)                            \
    X("ltrim", 4, cmd_ltrim)                          \
    X("move", 3, cmd_move)                            \
    X("mset", -3, cmd_mset)                           \
    X("msetex", -4, cmd_msetex)                       \
    X("msetnx", -3, cmd_mset)                         \
    X("persist", 2, cmd_persist)                      \
    X("pexpire", -3, cmd_expire)                      \
    X("pexpireat", -3, cmd_expire)                    \
    X("pfadd", -2, cmd_pfadd)                         \
    X("pfcount", -2, cmd_pfcount)                     \
    X("pfdebug", -3, cmd_pfdebug)                     \
    X("pfmerge", -2, cmd_pfmerge)                     \
    X("psetex", 4, cmd_setex)                         \
    X("rename", 3, cmd_rename)                        \
    X("renamenx", 3, cmd_rename)                      \
    X("restore", -4, cmd_restore)                     \
    X("restore-asking", -4, cmd_restore)              \
    X("rpop", -2, cmd_rpop)                           \
    X("rpoplpush", 3, cmd_rpoplpush)                  \
    X("rpush", -3, cmd_rpush)                         \
    X("rpushx", -3, cmd_rpushx)                       \
    X("sadd", -3, cmd_sadd)                           \
    X("sdiffstore", -3, cmd_sdiffstore)               \
    X("select", 2, cmd_select)                        \
    X("set", -3, cmd_set)                             \
    X("setbit", 4, cmd_setbit)                        \
    X("setex", 4, cmd_setex)                          \
    X("setnx", 3, cmd_setnx)                          \
    X("setrange", 4, cmd_setrange)                    \
    X("sflush", -3, cmd_sflush)                       \
    X("sinterstore", -3, cmd_sinterstore)             \
    X("smove", 4, cmd_smove)                          \
    X("sort", -2, cmd_sort)                           \
    X("spop", -2, cmd_spop)                           \
    X("srem", -3, cmd_srem)                           \
    X("sunionstore", -3, cmd_sunionstore)             \
    X("swapdb", 3, cmd_swapdb)                        \
    X("trimslots", -5, cmd_trimslots)                 \
    X("unlink", -2, cmd_del)                          \
    X("xack", -4, cmd_xack)                           \
    X("xackdel", -6, cmd_xackdel)                     \
    X("xadd", -5, cmd_xadd)                           \
    X("xautoclaim", -6, cmd_xautoclaim)               \
    X("xcfgset", -2, cmd_xcfgset)                     \
    X("xclaim", -6, cmd_xclaim)                       \
    X("xdel", -3, cmd_xdel)                           \
    X("xdelex", -5, cmd_xdelex)                       \
    X("xgroup", -2, cmd_xgroup)                       \
    X("xidmprecord", 5, cmd_xidmprecord)              \
    X("xreadgroup", -7, cmd_xreadgroup)               \
    X("xsetid", -3, cmd_xsetid)                       \
    X("xtrim", -4, cmd_xtrim)                         \
    X("zadd", -4, cmd_zadd)                           \
    X("zdiffstore", -4, cmd_zdiffstore)               \
    X("zincrby", 4, cmd_zincrby)                      \
    X("zinterstore", -4, cmd_zinterstore)             \
    X("zmpop", -4, cmd_zmpop)                         \
    X("zpopmax", -2, cmd_zpopmax)                     \
    X("zpopmin", -2, cmd_zpopmin)                     \
    X("zrangestore", -5, cmd_zrangestore)             \
    X("zrem", -3, cmd_zrem)                           \
    X("zremrangebylex", 4, cmd_zremrangebylex)        \
    X("zremrangebyrank", 4, cmd_zremrangebyrank)      \
    X("zremrangebyscore", 4, cmd_zremrangebyscore)    \
    X("zunionstore", -4, cmd_zunionstore)

typedef struct cmd_row {
    const char *name;
    int arity;
    int (*run)(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n);
} cmd_row;

#define CMD_ROW(name, arity, run) {name, arity, run},
static const cmd_row cmd_rows[] = {CMD_TABLE(CMD_ROW)};
#define CMD_ROWS_N (sizeof cmd_rows / sizeof cmd_rows[0])

/* Commands that change nothing: servers run them while they load, and so may a file hold them. In order. */
static const char *const cmd_readers[] = {"acl",
                                          "asking",
                                          "auth",
                                          "bitcount",
                                          "bitfield_ro",
                                          "bitpos",
                                          "client",
                                          "command",
                                          "config",
                                          "dbsize",
                                          "debug",
                                          "digest",
                                          "discard",
                                          "dump",
                                          "echo",
                                          "eval_ro",
                                          "evalsha_ro",
                                          "exists",
                                          "expiretime",
                                          "fcall_ro",
                                          "geodist",
                                          "geohash",
                                          "geopos",
                                          "georadius_ro",
                                          "georadiusbymember_ro",
                                          "geosearch",
                                          "get",
                                          "getbit",
                                          "getrange",
                                          "hello",
                                          "hexists",
                                          "hexpiretime",
                                          "hget",
                                          "hgetall",
                                          "hkeys",
                                          "hlen",
                                          "hmget",
                                          "hpexpiretime",
                                          "hpttl",
                                          "hrandfield",
                                          "hscan",
                                          "hstrlen",
                                          "httl",
                                          "hvals",
                                          "info",
                                          "keys",
                                          "lastsave",
                                          "latency",
                                          "lcs",
                                          "lindex",
                                          "llen",
                                          "lolwut",
                                          "lpos",
                                          "lrange",
                                          "memory",
                                          "mget",
                                          "module",
                                          "object",
                                          "pexpiretime",
                                          "pfselftest",
                                          "ping",
                                          "pttl",
                                          "publish",
                                          "randomkey",
                                          "readonly",
                                          "readwrite",
                                          "role",
                                          "scan",
                                          "scard",
                                          "script",
                                          "sdiff",
                                          "sinter",
                                          "sintercard",
                                          "sismember",
                                          "slowlog",
                                          "smembers",
                                          "smismember",
                                          "sort_ro",
                                          "spublish",
                                          "srandmember",
                                          "sscan",
                                          "strlen",
                                          "substr",
                                          "sunion",
                                          "time",
                                          "touch",
                                          "ttl",
                                          "type",
                                          "unwatch",
                                          "wait",
                                          "waitaof",
                                          "watch",
                                          "xinfo",
                                          "xlen",
                                          "xpending",
                                          "xrange",
                                          "xread",
                                          "xrevrange",
                                          "zcard",
                                          "zcount",
                                          "zdiff",
                                          "zinter",
                                          "zintercard",
                                          "zlexcount",
                                          "zmscore",
                                          "zrandmember",
                                          "zrange",
                                          "zrangebylex",
                                          "zrangebyscore",
                                          "zrank",
                                          "zrevrange",
                                          "zrevrangebylex",
                                          "zrevrangebyscore",
                                          "zrevrank",
                                          "zscan",
                                          "zscore",
                                          "zunion"};
#define CMD_READERS_N (sizeof cmd_readers / sizeof cmd_readers[0])

static const cmd_row cmd_reader_row = {"", -1, cmd_nothing};

/* Compare a name, whatever its case, with one of a table. */
static int cmd_name_cmp(rdbkit_str s, const char *name) {
    for (size_t i = 0; i < s.len; i++) {
        const u8 c = (u8)s.data[i], low = c >= 'A' && c <= 'Z' ? (u8)(c + 32) : c;
        if (low != (u8)name[i]) return low < (u8)name[i] ? -1 : 1;
        if (!low) return 1; /* the name ends here, and the text does not */
    }
    return name[s.len] ? -1 : 0;
}

/* The row of a command, or NULL. */
static const cmd_row *cmd_find(rdbkit_str name) {
    for (size_t lo = 0, hi = CMD_ROWS_N; lo < hi;) {
        const size_t mid = (lo + hi) / 2;
        const int c = cmd_name_cmp(name, cmd_rows[mid].name);
        if (c == 0) return &cmd_rows[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    for (size_t lo = 0, hi = CMD_READERS_N; lo < hi;) {
        const size_t mid = (lo + hi) / 2;
        const int c = cmd_name_cmp(name, cmd_readers[mid]);
        if (c == 0) return &cmd_reader_row;
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

/* ---- running ---- */

/* Names of commands come from files: show them safely, and not at length. */
static int cmd_unknown(rdbkit_keyspace *ks, rdbkit_str name) {
    char text[200] = "";
    if (ks->opt.skip_unknown) return ks_event(ks, RDBKIT_REPLAY_UNKNOWN, "an unknown command was skipped");
    err_add_quoted(text, sizeof text, name.data, name.len < 40 ? name.len : 40);
    return ks_fail(ks, RDBKIT_ERR_UNSUPPORTED, "unknown command %s", text);
}

static int cmd_arity_fits(const cmd_row *row, size_t argc) {
    return row->arity > 0 ? argc == (size_t)row->arity : argc >= (size_t)-row->arity;
}

/* As rdbkit_command_check(). */
static int cmd_check(const rdbkit_command *c) {
    static const char *const multi[] = {"multi", "exec"};
    if (c->argc == 0) return RDBKIT_ERR_DAMAGED;
    for (size_t i = 0; i < 2; i++)
        if (cmd_is(c->argv[0], multi[i])) return c->argc == 1 ? RDBKIT_OK : RDBKIT_ERR_DAMAGED;
    const cmd_row *row = cmd_find(c->argv[0]);
    if (!row) return RDBKIT_ERR_UNSUPPORTED;
    return cmd_arity_fits(row, c->argc) ? RDBKIT_OK : RDBKIT_ERR_DAMAGED;
}

/* Run one command that is not part of a transaction, or whose transaction is being run. */
static int cmd_run(rdbkit_keyspace *ks, const rdbkit_command *c) {
    const rdbkit_str *a = c->argv;
    const cmd_row *row = ks->last_row;
    ks->command = c;
    if (!row || cmd_name_cmp(a[0], row->name) != 0) row = ks->last_row = cmd_find(a[0]);
    int st;
    if (!row) st = cmd_unknown(ks, a[0]);
    else if (!cmd_arity_fits(row, c->argc))
        st = ks_fail(ks, RDBKIT_ERR_DAMAGED, "wrong number of arguments for %s: %llu", row->name,
                     (unsigned long long)c->argc - 1);
    else st = row->run(ks, a, c->argc);
    ks->command = NULL;
    ks->stats.commands++;
    return st < 0 ? st : 0;
}

/* One queued command: a head, then for each argument its length and bytes. */
typedef struct cmd_queued {
    u64 argc, offset;
    i64 timestamp_s;
} cmd_queued;

static int cmd_enqueue(rdbkit_keyspace *ks, const rdbkit_command *c) {
    const cmd_queued head = {c->argc, c->offset, c->timestamp_s};
    const size_t old = ks->queue.len;
    int st = mem_buf_add(ks->env.mem, &ks->queue, &head, sizeof head);
    for (size_t i = 0; !st && i < c->argc; i++) {
        const u64 len = c->argv[i].len;
        st = mem_buf_add(ks->env.mem, &ks->queue, &len, sizeof len);
        if (!st) st = mem_buf_add(ks->env.mem, &ks->queue, c->argv[i].data, c->argv[i].len);
    }
    if (st) ks->queue.len = old;
    return st ? ks_nomem(ks) : 0;
}

/* Run what was queued. */
static int cmd_exec(rdbkit_keyspace *ks) {
    mem_buf queue = ks->queue, args = {NULL, 0, 0};
    int st = 0;
    ks->queue = (mem_buf){NULL, 0, 0};
    ks->in_multi = 0;
    for (size_t at = 0; !st && at < queue.len;) {
        cmd_queued head;
        memcpy(&head, queue.data + at, sizeof head);
        at += sizeof head;
        args.len = 0;
        for (u64 i = 0; !st && i < head.argc; i++) {
            u64 len;
            memcpy(&len, queue.data + at, sizeof len);
            const rdbkit_str s = {(const char *)queue.data + at + sizeof len, (size_t)len};
            at += sizeof len + (size_t)len;
            st = mem_buf_add(ks->env.mem, &args, &s, sizeof s) ? ks_nomem(ks) : 0;
        }
        const rdbkit_command c = {.argv = (const rdbkit_str *)(const void *)args.data,
                                  .argc = (size_t)head.argc,
                                  .offset = head.offset,
                                  .db = ks->db,
                                  .timestamp_s = head.timestamp_s,
                                  .in_multi = 1};
        if (!st) st = cmd_run(ks, &c);
    }
    mem_buf_free(ks->env.mem, &args);
    queue.len = 0; /* its room serves the next transaction, if it is not huge */
    if (queue.cap <= CMD_QUEUE_KEEP) ks->queue = queue;
    else mem_buf_free(ks->env.mem, &queue);
    return st;
}

/* A command of the file. */
static int cmd_take(rdbkit_keyspace *ks, const rdbkit_command *c) {
    if (ks->error.code) return ks->error.code;
    if (c->argc == 0) return ks_fail(ks, RDBKIT_ERR_USAGE, "a command without a name");
    const rdbkit_str name = c->argv[0];
    const int exec = cmd_is(name, "exec"), multi = cmd_is(name, "multi");
    if (PORT_LIKELY(!exec && !multi)) return ks->in_multi ? cmd_enqueue(ks, c) : cmd_run(ks, c);
    if (c->argc != 1) {
        ks->command = c;
        return ks_fail(ks, RDBKIT_ERR_DAMAGED, "wrong number of arguments for %s", exec ? "exec" : "multi");
    }
    if (exec && ks->in_multi) return cmd_exec(ks);
    if (multi) ks->in_multi = 1; /* a second one, and EXEC without it: errors that servers swallow */
    return 0;
}

/* A file ends: an open transaction is dropped, and the next file begins in database 0. */
static void cmd_file_end(rdbkit_keyspace *ks) {
    ks->in_multi = 0;
    ks->queue.len = 0;
    ks_select(ks, 0);
}

static int cmd_on_command(void *user, const rdbkit_command *c) { return cmd_take(user, c); }

/* Behind an image the commands begin in database 0, whatever it ended with. */
static int cmd_on_rdb_end(void *user, uint64_t offset) {
    (void)offset;
    ks_select(user, 0);
    return 0;
}

/* Let a keyspace take the commands of an append-only file. */
static void cmd_init(rdbkit_keyspace *ks) {
    ks->aof_visitor.user = ks;
    ks->aof_visitor.rdb = &ks->visitor;
    ks->aof_visitor.rdb_end = cmd_on_rdb_end;
    ks->aof_visitor.command = cmd_on_command;
}

/* ==== [41] fix_ : what can be saved of a damaged RDB ====
 *
 * Between a reader and a sink: each value is taken as bytes whose lengths alone were looked at, checked by itself, and
 * goes on only if it is sound. One that is not costs its key alone. Tests: tests/test_salvage.c, tests/aof_test.py, fuzz/fuzz_salvage.c */

struct rdbkit_salvage {
    rdbkit_allocator mem;
    rdbkit_visitor visitor; /* for the reader */
    rdbkit_visitor to;
    int (*lost)(void *ctx, const rdbkit_lost *lost);
    void *lost_ctx;
    ks_feeder check, feed;
    mem_buf name, record;
    rdbkit_key key;
    int valkey;
    rdbkit_module_aux aux; /* module data outside of keys: goes on when it is whole */
    tab keys, members;     /* fix_seen: of the file, and of the value at hand */
    int twice;
    u64 kept, lost_keys;
};

/* A name that went by, as 128 bits of hash. */
typedef struct fix_seen {
    u32 len; /* 16 */
    u8 hash[16];
} fix_seen;

/* 1: a name that is in the table already, 0: now it is, or RDBKIT_ERR_NOMEM. */
static int fix_see(rdbkit_salvage *s, tab *t, u64 seed, rdbkit_str name) {
    u64 a, b;
    u8 hash[16];
    port_hash(seed, name, &a, &b);
    port_put_le64(hash, a), port_put_le64(hash + 8, b);
    if (tab_get(t, 0, (rdbkit_str){(const char *)hash, sizeof hash})) return 1;
    fix_seen *seen = s->mem.alloc(s->mem.ctx, sizeof *seen);
    if (!seen) return RDBKIT_ERR_NOMEM;
    seen->len = sizeof hash;
    memcpy(seen->hash, hash, sizeof hash);
    if (tab_add(&s->mem, t, 0, seen) == 0) return 0;
    s->mem.free(s->mem.ctx, seen, sizeof *seen);
    return RDBKIT_ERR_NOMEM;
}

static void fix_forget(rdbkit_salvage *s, tab *t) {
    void *seen;
    for (u32 i = 0; (seen = tab_next(t, &i)) != NULL;) s->mem.free(s->mem.ctx, seen, sizeof(fix_seen));
    tab_free(&s->mem, t);
}

static int fix_member(void *user, rdbkit_str member) {
    rdbkit_salvage *s = user;
    const int st = fix_see(s, &s->members, 0, member);
    if (st > 0) s->twice = 1;
    return st < 0 ? st : 0;
}

static int fix_scored(void *user, rdbkit_str member, double score) {
    (void)score;
    return fix_member(user, member);
}

static int fix_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)value, (void)expire_ms;
    return fix_member(user, field);
}

static int fix_header(void *user, const rdbkit_header *header) {
    rdbkit_salvage *s = user;
    s->valkey = header->lineage == RDBKIT_VALKEY;
    snprintf(s->check.magic, sizeof s->check.magic, "%s%0*d", s->valkey ? "VALKEY" : "REDIS",
             s->valkey ? 3 : 4, header->rdb_version);
    memcpy(s->feed.magic, s->check.magic, sizeof s->feed.magic);
    return s->to.header ? s->to.header(s->to.user, header) : 0;
}

static int fix_aux(void *user, rdbkit_str name, rdbkit_str value) {
    rdbkit_salvage *s = user;
    return s->to.aux ? s->to.aux(s->to.user, name, value) : 0;
}

static int fix_function(void *user, rdbkit_str code, int opcode) {
    rdbkit_salvage *s = user;
    return s->to.function ? s->to.function(s->to.user, code, opcode) : 0;
}

static int fix_module_aux(void *user, const rdbkit_module_aux *aux) {
    rdbkit_salvage *s = user;
    s->aux = *aux;
    s->record.len = 0;
    return RDBKIT_TAKE_RAW;
}

static int fix_module_aux_end(void *user) {
    rdbkit_salvage *s = user;
    return rec_give_module_aux(&s->to, &s->aux, (rdbkit_str){(const char *)s->record.data, s->record.len});
}

static int fix_db(void *user, uint64_t db) {
    rdbkit_salvage *s = user;
    return s->to.db ? s->to.db(s->to.user, db) : 0;
}

static int fix_key(void *user, const rdbkit_key *key) {
    rdbkit_salvage *s = user;
    const u8 head[KS_RECORD_HEAD] = {(u8)key->type->number, 0};
    s->key = *key;
    s->name.len = s->record.len = 0;
    if (mem_buf_add(&s->mem, &s->name, key->name.data, key->name.len) ||
        mem_buf_add(&s->mem, &s->record, head, sizeof head))
        return RDBKIT_ERR_NOMEM;
    return RDBKIT_TAKE_UNCHECKED;
}

static int fix_raw(void *user, const void *data, size_t len) {
    rdbkit_salvage *s = user;
    return mem_buf_add(&s->mem, &s->record, data, len);
}

/* What is wrong, without the place and the key that the record alone had. */
static void fix_reason(const rdbkit_error *e, char *text, size_t size) {
    const char *from = strstr(e->message, ": "), *to = strstr(e->message, "; key ");
    from = from ? from + 2 : e->message;
    if (!to || to < from) to = from + strlen(from);
    text[0] = 0;
    err_add(text, size, "%.*s", (int)(to - from), from);
}

static int fix_lose(rdbkit_salvage *s, const char *reason) {
    const rdbkit_lost lost = {&s->key, reason};
    s->lost_keys++;
    return s->lost ? s->lost(s->lost_ctx, &lost) : 0;
}

static int fix_key_end(void *user) {
    rdbkit_salvage *s = user;
    rdbkit_error e = {.code = 0};
    s->key.name = (rdbkit_str){(const char *)s->name.data, s->name.len};
    s->key.raw_name = (rdbkit_str){NULL, 0};
    s->check.key = s->feed.key = s->key;
    s->twice = 0;
    int st = ks_feed(&s->check, s->valkey, s->record.data, s->record.len, &e);
    if (s->members.live) fix_forget(s, &s->members);
    if (st == RDBKIT_ERR_DAMAGED || st == RDBKIT_ERR_TRUNCATED || st == RDBKIT_ERR_UNSUPPORTED) {
        char text[256];
        fix_reason(&e, text, sizeof text);
        return fix_lose(s, text);
    }
    if (st) return st;
    if (s->twice) return fix_lose(s, "a field or member twice");
    st = fix_see(s, &s->keys, s->key.db, s->key.name);
    if (st) return st < 0 ? st : fix_lose(s, "a key that was there already, which is kept");
    s->kept++;
    return ks_feed(&s->feed, s->valkey, s->record.data, s->record.len, &e);
}

static int fix_end(void *user, int checksum) {
    rdbkit_salvage *s = user;
    return s->to.end ? s->to.end(s->to.user, checksum) : 0;
}

static void fix_free(rdbkit_salvage *s) {
    if (!s) return;
    const rdbkit_allocator mem = s->mem;
    ks_feeder_free(&s->check);
    ks_feeder_free(&s->feed);
    fix_forget(s, &s->keys);
    fix_forget(s, &s->members);
    mem_buf_free(&mem, &s->name);
    mem_buf_free(&mem, &s->record);
    mem.free(mem.ctx, s, sizeof *s);
}

static rdbkit_salvage *fix_new(const rdbkit_allocator *allocator, const rdbkit_visitor *to) {
    const rdbkit_allocator mem = mem_or_std(allocator);
    rdbkit_salvage *s = mem_new(&mem, sizeof *s);
    rdbkit_reader_options options;
    rdbkit_visitor check = {0};
    if (!s) return NULL;
    s->mem = mem;
    s->to = *to;
    s->keys.name_off = s->members.name_off = offsetof(fix_seen, hash);
    check.user = s;
    check.set_member = fix_member, check.zset_member = fix_scored, check.hash_field = fix_field;
    rdbkit_reader_options_init(&options);
    ks_feeder_init(&s->feed, &s->mem, &options, to);
    options.deep = 1;
    ks_feeder_init(&s->check, &s->mem, &options, &check);
    rdbkit_visitor *v = &s->visitor;
    v->user = s;
    v->header = fix_header, v->aux = fix_aux, v->function = fix_function, v->db = fix_db;
    v->module_aux = fix_module_aux, v->module_aux_end = fix_module_aux_end;
    v->key = fix_key, v->raw = fix_raw, v->key_end = fix_key_end, v->end = fix_end;
    return s;
}

/* ==== [42] aof_ : append-only files and manifests ====
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
static u64 aof_at_argument(const rdbkit_aof *a) { return a->rec.seen + !a->rec.open; }

/* What stands at pos of the record at hand cannot be accepted. */
static PORT_NOINLINE int PORT_PRINTF(4, 5) aof_fail(rdbkit_aof *a, int code, u64 pos, const char *fmt, ...) {
    rdbkit_error *e = &a->error;
    va_list ap;
    aof_error_start(a, code, a->off + pos);
    if (a->rec.argc)
        err_add(e->message, sizeof e->message, "argument %llu of %llu",
                (unsigned long long)aof_at_argument(a), (unsigned long long)a->rec.argc);
    else err_add(e->message, sizeof e->message, "record");
    err_add(e->message, sizeof e->message, " at %llu: ", (unsigned long long)e->offset);
    va_start(ap, fmt);
    err_vadd(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    if (a->rec.argc) err_add(e->message, sizeof e->message, "; record at %llu", (unsigned long long)a->off);
    return code;
}

/* The same, for bytes of the file, which are shown, where others are wanted. */
static PORT_NOINLINE int aof_fail_bytes(rdbkit_aof *a, u64 pos, const u8 *found, size_t len,
                                        const char *wanted) {
    char text[200] = "";
    err_add_quoted(text, sizeof text, found, len < 40 ? len : 40);
    return aof_fail(a, RDBKIT_ERR_DAMAGED, pos, "%s%s, %s wanted", text, len > 40 ? "..." : "", wanted);
}

static int aof_nomem(rdbkit_aof *a) { return aof_fail(a, RDBKIT_ERR_NOMEM, 0, "out of memory"); }

/* The answer of a callback that is not RDBKIT_OK. */
static PORT_NOINLINE int aof_stop(rdbkit_aof *a, int answer) {
    int code = answer < 0 ? answer : RDBKIT_ERR_USAGE;
    return aof_fail(a, code, 0, "%s", rdbkit_status_text(code));
}

/* ---- header lines ---- */

static int aof_blank(u8 b) { return b == ' ' || (b >= '\t' && b <= '\r'); }

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
        return aof_fail(a, RDBKIT_ERR_DAMAGED, c->pos, "line of more than %d bytes, %s wanted", AOF_LINE_MAX,
                        wanted);
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
        return aof_fail(a, RDBKIT_ERR_DAMAGED, 0, "command of %lld arguments, 1 to %lld wanted", (long long)n,
                        (long long)AOF_ARGC_MAX);
    if (a->opt.max_args && (u64)n > a->opt.max_args)
        return aof_limit(a, 0, "number of arguments", (u64)n, a->opt.max_args);
    a->rec.argc = (u64)n;
    return 0;
}

/* Room for one argument more in argv. */
static int aof_argv_room(rdbkit_aof *a) {
    if (mem_buf_grow(&a->mem, &a->argv, ((size_t)a->rec.seen + 1) * sizeof(rdbkit_str))) return aof_nomem(a);
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
        if (a->opt.strict) return aof_fail_bytes(a, c->pos - 2, end, 2, "CR LF behind the argument");
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
    if (name.len == 5) return head == AOF_4('m', 'u', 'l', 't') && (p[4] | 32) == 'i' ? AOF_MULTI : AOF_OTHER;
    return head == AOF_4('s', 'e', 'l', 'e') && (p[4] | 32) == 'c' && (p[5] | 32) == 't' ? AOF_SELECT
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
static PORT_NOINLINE void aof_obey(rdbkit_aof *a, enum aof_word word, const rdbkit_str *argv, u64 argc) {
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
    if (!lf) return aof_fail(a, RDBKIT_ERR_DAMAGED, 0, "annotation of more than %d bytes", AOF_NOTE_MAX);
    rdbkit_str text = {(const char *)base + 1, (size_t)(lf - base) - 1};
    if (text.len && text.data[text.len - 1] == '\r') text.len--;
    int st = a->v.annotation ? a->v.annotation(a->v.user, text, a->off) : 0;
    if (st) return aof_stop(a, st);
    /* redis-check-aof takes a plain number alone */
    if (text.len > 3 && !memcmp(text.data, "TS:", 3) && !num_parse_i64(text.data + 3, text.len - 3, &ts)) {
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
static PORT_NOINLINE int aof_one(rdbkit_aof *a, const u8 *base, size_t len, int carried, size_t *n) {
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
    err_add(text, size, "%s at %llu: the input ends after %zu bytes", note ? "annotation" : "record",
            (unsigned long long)a->off, a->carry.len);
    if (a->rec.argc)
        err_add(text, size, ", in argument %llu of %llu", (unsigned long long)aof_at_argument(a),
                (unsigned long long)a->rec.argc);
    else err_add(text, size, ", in its %s line", note ? "only" : "first");
    if (a->s.multi_off != RDBKIT_NO_OFFSET)
        err_add(text, size, "; the transaction at %llu is open", (unsigned long long)a->s.multi_off);
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
    err_add(a->error.message, sizeof a->error.message, "transaction at %llu: the input ends, EXEC wanted",
            (unsigned long long)a->s.multi_off);
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
    u64 off = a->image ? a->image_fed : a->off + a->magic_n * (a->phase == AOF_START) + a->carry.len;
    const char *what = st == RDBKIT_ERR_IO ? strerror(in->sys_errno) : rdbkit_status_text(st);
    aof_error_start(a, st, off);
    a->error.sys_errno = in->sys_errno;
    err_add(a->error.message, sizeof a->error.message, "input at %llu: %s%s", (unsigned long long)off,
            in->gzip ? "gzip: " : "", what);
    return a->status;
}

uint64_t rdbkit_aof_offset(const rdbkit_aof *a) { return a->image ? rdbkit_reader_offset(a->image) : a->off; }

const rdbkit_error *rdbkit_aof_error(const rdbkit_aof *a) { return &a->error; }

const rdbkit_aof_state *rdbkit_aof_progress(const rdbkit_aof *a) { return &a->s; }

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

static PORT_NOINLINE int PORT_PRINTF(3, 4)
    aof_manifest_fail(aof_manifest *x, int code, const char *fmt, ...) {
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

/* A file has to be in the manifest's own folder. */
static int aof_manifest_name_ok(rdbkit_str name) {
    return name.len && !memchr(name.data, '/', name.len) && !memchr(name.data, '\\', name.len);
}

static int aof_manifest_pair(aof_manifest *x, rdbkit_manifest_file *f, rdbkit_str key, rdbkit_str value) {
    const u8 *v = (const u8 *)value.data;
    if (cmd_is(key, "file")) {
        f->name = value;
        if (!aof_manifest_name_ok(value))
            return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "name of a file is empty, or a path");
    } else if (cmd_is(key, "seq")) {
        f->seq = 0;
        aof_atoll(v, v + value.len, &f->seq);
    } else if (cmd_is(key, "type")) {
        f->type = value.len ? value.data[0] : 0;
    } else if (cmd_is(key, "startoffset")) {
        if (num_parse_i64(v, value.len, &f->start_offset) || f->start_offset < 0) f->start_offset = -1;
    } else if (cmd_is(key, "endoffset")) {
        if (num_parse_i64(v, value.len, &f->end_offset) || f->end_offset < 0) f->end_offset = -1;
    }
    return 0;
}

/* What a file says of itself, and whether it may come here. */
static int aof_manifest_judge(aof_manifest *x, const rdbkit_manifest_file *f) {
    const char *none = !f->name.len ? "file" : !f->seq ? "seq other than 0" : "type";
    if (!f->name.len || !f->seq || !f->type) return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "no %s", none);
    if (f->type == 'b' && x->has_base)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "second file of type b");
    if (f->type == 'i' && f->seq <= x->last_seq)
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "increment of seq %lld, more than %lld wanted",
                                 (long long)f->seq, (long long)x->last_seq);
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
        return aof_manifest_fail(x, RDBKIT_ERR_DAMAGED, "%d words, an even number of at least 6 wanted",
                                 words);
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
            const rdbkit_manifest_file *f = (const rdbkit_manifest_file *)(const void *)(x->files.data + at);
            if (f->type == *type && mem_buf_add(&m->mem, &m->files, f, sizeof *f))
                return aof_manifest_fail(x, RDBKIT_ERR_NOMEM, "out of memory");
        }
    return 0;
}

rdbkit_manifest *rdbkit_manifest_parse(const rdbkit_allocator *allocator, const void *text, size_t len,
                                       rdbkit_error *error) {
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

size_t rdbkit_manifest_count(const rdbkit_manifest *m) { return m->files.len / sizeof(rdbkit_manifest_file); }

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
    if (!aof_manifest_name_ok(name) || memchr(name.data, 0, name.len) || !file->seq) return RDBKIT_ERR_USAGE;
    if (file->type != 'b' && file->type != 'i' && file->type != 'h') return RDBKIT_ERR_USAGE;
    if (name.len > AOF_MANIFEST_LINE) return RDBKIT_ERR_LIMIT;
    if (aof_manifest_bare(name)) err_add(text, sizeof text, "%.*s", (int)name.len, name.data);
    else err_add_quoted(text, sizeof text, name.data, name.len);
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

/* ==== [43] api : the public functions not defined in a room above ====
 *
 * In the order of rdbkit.h; thin: check the arguments, call a room. */

const char *rdbkit_version(void) { return RDBKIT_VERSION; }

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

const rdbkit_type *rdbkit_type_at(size_t index) { return index < FMT_TYPE_N ? &fmt_types[index] : NULL; }

const rdbkit_target *rdbkit_target_find(const char *name) { return name ? fmt_target_find(name) : NULL; }

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

void rdbkit_input_free(rdbkit_input *in) { in_free(in); }

uint64_t rdbkit_input_offset(const rdbkit_input *in) { return in->taken - in->raw_len; }

int rdbkit_input_is_gzip(const rdbkit_input *in) { return in->gzip; }

int rdbkit_input_rest(rdbkit_input *in, const void **data, size_t *len) {
    const u8 *p = NULL;
    int st = in_next(in, &p, len);
    *data = p;
    return st;
}

void rdbkit_reader_options_init(rdbkit_reader_options *options) { memset(options, 0, sizeof *options); }

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

int rdbkit_reader_feed(rdbkit_reader *r, const void *buf, size_t len) { return rec_feed(r, buf, len); }

int rdbkit_reader_finish(rdbkit_reader *r) { return rec_finish(r); }

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

uint64_t rdbkit_reader_offset(const rdbkit_reader *r) { return rd_off(r, r->p); }

uint64_t rdbkit_reader_keys(const rdbkit_reader *r) { return r->keys; }

int rdbkit_reader_verified(const rdbkit_reader *r) { return r->verified; }

const rdbkit_error *rdbkit_reader_error(const rdbkit_reader *r) { return &r->error; }

void rdbkit_writer_options_init(rdbkit_writer_options *options) {
    memset(options, 0, sizeof *options);
    options->target = fmt_target_find("valkey-8");
}

rdbkit_writer *rdbkit_writer_new(const rdbkit_writer_options *options, rdbkit_write_fn write_fn, void *ctx) {
    rdbkit_writer_options standard;
    rdbkit_writer_options_init(&standard);
    return write_fn ? wr_new(options ? options : &standard, write_fn, ctx) : NULL;
}

void rdbkit_writer_free(rdbkit_writer *w) { wr_free(w); }

const rdbkit_visitor *rdbkit_writer_visitor(rdbkit_writer *w) { return &w->visitor; }

const rdbkit_loss *rdbkit_writer_loss(const rdbkit_writer *w, size_t index) {
    return loss_at(&w->v.l, index);
}

int rdbkit_writer_errno(const rdbkit_writer *w) { return w->out.sys_errno; }

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

void rdbkit_resp_free(rdbkit_resp *s) { resp_free(s); }

const rdbkit_visitor *rdbkit_resp_visitor(rdbkit_resp *s) { return &s->visitor; }

int rdbkit_resp_finish(rdbkit_resp *s) { return resp_finish(s); }

const rdbkit_loss *rdbkit_resp_loss(const rdbkit_resp *s, size_t index) { return loss_at(&s->v.l, index); }

int rdbkit_resp_errno(const rdbkit_resp *s) { return s->out.sys_errno; }

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

void rdbkit_json_free(rdbkit_json *s) { json_free(s); }

const rdbkit_visitor *rdbkit_json_visitor(rdbkit_json *s) { return &s->visitor; }

int rdbkit_json_finish(rdbkit_json *s) { return json_finish(s); }

int rdbkit_json_errno(const rdbkit_json *s) { return s->out.sys_errno; }

rdbkit_check *rdbkit_check_new(const rdbkit_allocator *allocator, const rdbkit_spill *spill) {
    return rep_new(allocator, spill);
}

void rdbkit_check_free(rdbkit_check *c) { rep_free(c); }

const rdbkit_visitor *rdbkit_check_visitor(rdbkit_check *c) { return &c->visitor; }

int64_t rdbkit_check_finish(rdbkit_check *c) { return rep_finish(c); }

const rdbkit_duplicate *rdbkit_check_duplicate(const rdbkit_check *c, size_t index) {
    return (int64_t)index < c->found && index < REP_SHOWN ? &c->shown[index] : NULL;
}

void rdbkit_keyspace_options_init(rdbkit_keyspace_options *options) { memset(options, 0, sizeof *options); }

rdbkit_keyspace *rdbkit_keyspace_new(const rdbkit_keyspace_options *options) {
    rdbkit_keyspace_options standard;
    rdbkit_keyspace_options_init(&standard);
    rdbkit_keyspace *ks = ks_new(options ? options : &standard);
    if (ks) cmd_init(ks);
    return ks;
}

void rdbkit_keyspace_free(rdbkit_keyspace *ks) { ks_free(ks); }

const rdbkit_visitor *rdbkit_keyspace_visitor(rdbkit_keyspace *ks) { return &ks->visitor; }

const rdbkit_aof_visitor *rdbkit_keyspace_aof_visitor(rdbkit_keyspace *ks) { return &ks->aof_visitor; }

int rdbkit_keyspace_command(rdbkit_keyspace *ks, const rdbkit_command *command) {
    return cmd_take(ks, command);
}

void rdbkit_keyspace_file_end(rdbkit_keyspace *ks) { cmd_file_end(ks); }

int rdbkit_keyspace_emit(rdbkit_keyspace *ks, const rdbkit_reader_options *options,
                         const rdbkit_visitor *visitor) {
    rdbkit_reader_options standard;
    rdbkit_reader_options_init(&standard);
    return ks_emit(ks, options ? options : &standard, visitor);
}

void rdbkit_keyspace_stats(const rdbkit_keyspace *ks, rdbkit_replay_stats *stats) { ks_stats(ks, stats); }

const rdbkit_error *rdbkit_keyspace_error(const rdbkit_keyspace *ks) { return &ks->error; }

rdbkit_salvage *rdbkit_salvage_new(const rdbkit_allocator *allocator, const rdbkit_visitor *to,
                                   int (*lost)(void *ctx, const rdbkit_lost *lost), void *ctx) {
    rdbkit_salvage *s = fix_new(allocator, to);
    if (s) s->lost = lost, s->lost_ctx = ctx;
    return s;
}

void rdbkit_salvage_free(rdbkit_salvage *s) { fix_free(s); }

const rdbkit_visitor *rdbkit_salvage_visitor(rdbkit_salvage *s) { return &s->visitor; }

uint64_t rdbkit_salvage_kept(const rdbkit_salvage *s) { return s->kept; }

uint64_t rdbkit_salvage_lost(const rdbkit_salvage *s) { return s->lost_keys; }

int rdbkit_command_check(const rdbkit_command *command) { return cmd_check(command); }

/* ==== [44] cli_ : command line: options, messages, output ====
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

#include <dirent.h>
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

#ifdef __linux__
#include <sys/syscall.h>
long syscall(long number, ...); /* POSIX has none */
#endif

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
    CLI_DBS_MAX = 1024,   /* databases that info lists; the rest is added up */
    CLI_LIST_MAX = 256,   /* aux fields, functions and modules, likewise */
    CLI_DUPS_MAX = 16,    /* as many as rdbkit_check_duplicate() gives */
    CLI_DIR_FILES = 1024, /* in a directory that is written */
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
    CLI_V_REPAIR = 1 << 8,
    CLI_V_WRITE = CLI_V_CONVERT | CLI_V_FILTER_FILE,
    CLI_V_FILTER = CLI_V_TO_RESP | CLI_V_CHECK | CLI_V_INFO | CLI_V_KEYS | CLI_V_WRITE | CLI_V_TO_JSON,
    CLI_V_READ = CLI_V_FILTER | CLI_V_REPAIR,
    CLI_V_REPLAY = CLI_V_FILTER & ~CLI_V_CHECK,
    CLI_V_ALL = CLI_V_READ | CLI_V_HELP,
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
    X(TO_FORMAT,     "format",          0,   "FORMAT", CLI_V_CONVERT, CLI_TEXT, \
      "rdb, or aof: an append-only file, for targets from 7.0 on a directory of them; default rdb", "--format aof") \
    X(NO_PREAMBLE,   "no-preamble",     0,   NULL,     CLI_V_CONVERT, CLI_FLAG, \
      "with --format aof: write commands, no RDB at their beginning", "--format aof --no-preamble") \
    X(UNTIL,         "until-timestamp", 0,   "SECONDS", CLI_V_REPAIR, CLI_TEXT, \
      "cut an append-only file with timestamps in front of the first that is later than this unix time", \
      "--until-timestamp 1735689600 -o cut.aof") \
    X(SKIP_SCRIPTS,  "skip-scripts",    0,   NULL,     CLI_V_REPLAY,    CLI_FLAG, \
      "append-only files: leave out EVAL and the like, which need Lua, and count them", "--skip-scripts") \
    X(SKIP_UNKNOWN,  "skip-unknown",    0,   NULL,     CLI_V_REPLAY,  CLI_FLAG, \
      "append-only files: leave out unknown commands, those of modules for example, and count them", \
      "--skip-unknown") \
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
      "the time that --expired and --no-expired go by, and that relative times in an append-only file count from, unix " \
      "time in milliseconds; default: the clock, and when the file was written", \
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

/* A directory that is written: it appears when it is complete. */
struct cli_dir {
    char *path; /* NULL: none is written */
    char temp[CLI_PATH_LEN];
    char *files[CLI_DIR_FILES];
    int force;
    char *left; /* what it replaced, if that could not be removed */
};

/* The same of the directory that is being written, for a signal: files stay in the list until they are gone. */
static struct cli_dir *volatile cli_temp_dir;
static volatile sig_atomic_t cli_temp_files;

/* Temporaries that a signal has to remove: the output and the loss report. An empty name is a free slot;
 * names change only while the signals are blocked. */
static char cli_temp_name[2][CLI_PATH_LEN];

static void cli_on_signal(int sig) {
    for (size_t i = 0; i < sizeof cli_temp_name / sizeof *cli_temp_name; i++)
        if (cli_temp_name[i][0]) (void)unlink(cli_temp_name[i]);
    for (int i = 0; cli_temp_dir && i < cli_temp_files; i++) (void)unlink(cli_temp_dir->files[i]);
    if (cli_temp_dir) (void)rmdir(cli_temp_dir->temp);
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
    rdbkit_filter *filter;    /* of --key and the like, or NULL */
    struct verb_twice *twice; /* watches keys that may come to be one, or NULL */
    struct cli_out out;       /* the data */
    struct cli_out report;    /* --loss-report */
    struct cli_out err;       /* standard error, flushed after each line */
    struct cli_dir dir;       /* an append-only directory, in the place of out */
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
    return sys_errno == ENOMEM ? CLI_REFUSED : CLI_IO;
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
        if (n < 0) return errno == EINVAL || errno == ENOENT ? strdup(name) : NULL;
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
    if (!there && errno != ENOENT) return cli_fail_errno(c, path, errno);
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

/* ---- Output directories ------------------------------------------------------------------------------- */

/* Make the temporary directory beside its later name. */
static int cli_dir_open(struct cli *c, const char *path) {
    struct cli_dir *d = &c->dir;
    struct stat st;
    d->force = cli_has(c, CLI_O_FORCE);
    if (strcmp(path, "-") == 0) {
        cli_say(c, NULL, "an append-only directory cannot go to standard output: -o names it");
        cli_hint(c, "targets before 7.0 have a single file");
        return CLI_USAGE;
    }
    const int there = lstat(path, &st) == 0;
    if (!there && errno != ENOENT) return cli_fail_errno(c, path, errno);
    if (there && !d->force) {
        cli_say(c, path, "exists");
        cli_hint(c, "--force replaces it");
        return CLI_REFUSED;
    }
    if (there && !S_ISDIR(st.st_mode)) return cli_fail_errno(c, path, ENOTDIR);
    d->path = strdup(path);
    if (!d->path) return cli_fail_errno(c, NULL, ENOMEM);
    size_t len = strlen(d->path);
    while (len > 1 && d->path[len - 1] == '/') d->path[--len] = 0;
    const size_t dir_len = cli_dir_len(d->path);
    const int n = snprintf(d->temp, sizeof d->temp, "%.*s.%.200s.rdbkit-XXXXXX", (int)dir_len, d->path,
                           d->path + dir_len);
    if (n < 0 || (size_t)n >= sizeof d->temp) return d->temp[0] = 0, cli_fail_errno(c, path, ENAMETOOLONG);
    const mode_t mask = umask(0);
    (void)umask(mask);
    cli_signals_catch();
    cli_signals_block(1);
    const int sys_errno = mkdtemp(d->temp) ? 0 : errno;
    if (!sys_errno) cli_temp_files = 0, cli_temp_dir = d;
    else d->temp[0] = 0;
    cli_signals_block(0);
    if (sys_errno) return cli_fail_errno(c, path, sys_errno);
    (void)chmod(d->temp, (mode_t)0777 & ~mask);
    return CLI_OK;
}

/* Begin a file in it, as c->out. */
static int cli_dir_file(struct cli *c, const char *name) {
    struct cli_dir *d = &c->dir;
    struct cli_out *out = &c->out;
    char *path = malloc(strlen(d->temp) + strlen(name) + 2);
    if (!path) return cli_fail_errno(c, NULL, ENOMEM);
    (void)sprintf(path, "%s/%s", d->temp, name);
    if (cli_temp_files == CLI_DIR_FILES) return free(path), cli_fail_errno(c, d->path, EMFILE);
    cli_signals_block(1);
    d->files[cli_temp_files] = path;
    cli_temp_files = cli_temp_files + 1;
    out->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOCTTY, 0666);
    const int sys_errno = errno;
    cli_signals_block(0);
    out->name = path;
    out->len = 0;
    return out->fd < 0 ? cli_fail_errno(c, path, sys_errno) : CLI_OK;
}

/* The file at hand is complete. */
static int cli_dir_file_end(struct cli *c) {
    struct cli_out *out = &c->out;
    cli_out_flush(out);
    if (!out->sys_errno && fsync(out->fd) != 0) out->sys_errno = errno;
    if (close(out->fd) != 0 && errno != EINTR && !out->sys_errno) out->sys_errno = errno;
    out->fd = -1;
    return out->sys_errno ? cli_fail_errno(c, out->name, out->sys_errno) : CLI_OK;
}

/* Remove a directory that holds files alone. Returns 0 or an errno. */
static int cli_dir_remove(const char *path) {
    DIR *d = opendir(path);
    if (!d) return errno;
    int sys_errno = 0;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (unlinkat(dirfd(d), entry->d_name, 0) != 0) sys_errno = errno;
    }
    (void)closedir(d);
    return sys_errno ? sys_errno : rmdir(path) == 0 ? 0 : errno;
}

/* Let two names change places at once. Returns 1, or 0 where the system or the file system cannot do that. */
static int cli_swap(const char *a, const char *b) {
#if defined(__linux__) && defined(SYS_renameat2)
    return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2 /* RENAME_EXCHANGE */) == 0;
#else
    (void)a, (void)b;
    return 0;
#endif
}

/* Give the directory its name. One that is replaced changes places with it, so that the name always holds one of them;
 * where that cannot be, it is moved away first. It is removed at the end. */
static int cli_dir_rename(struct cli_dir *d) {
    char old[CLI_PATH_LEN + 8];
    if (!d->force) return rename(d->temp, d->path) == 0 ? 0 : errno;
    const int swapped = cli_swap(d->temp, d->path);
    (void)snprintf(old, sizeof old, swapped ? "%s" : "%s.old", d->temp);
    const int there = swapped || rename(d->path, old) == 0;
    if (!there && errno != ENOENT) return errno;
    if (!swapped && rename(d->temp, d->path) != 0) {
        const int sys_errno = errno;
        if (there) (void)rename(old, d->path);
        return sys_errno;
    }
    if (there && cli_dir_remove(old) != 0) d->left = strdup(old);
    return 0;
}

/* Finish, opened or not. keep 0: the directory is not wanted. */
static int cli_dir_close(struct cli *c, int keep) {
    struct cli_dir *d = &c->dir;
    int code = CLI_OK;
    if (!d->path) return CLI_OK;
    cli_signals_block(1);
    if (keep && d->temp[0]) {
        const int sys_errno = cli_dir_rename(d);
        if (sys_errno) code = cli_fail_errno(c, d->path, sys_errno);
        else cli_sync_dir(d->path);
        keep = !sys_errno;
        if (d->left) cli_say(c, d->left, "warning: cannot be removed; it is what %s was before", d->path);
        free(d->left);
        d->left = NULL;
    }
    for (int i = 0; i < cli_temp_files; i++) {
        if (!keep) (void)unlink(d->files[i]);
        free(d->files[i]);
    }
    if (!keep && d->temp[0]) (void)rmdir(d->temp);
    cli_temp_dir = NULL;
    cli_temp_files = 0;
    cli_signals_block(0);
    free(d->path);
    return code;
}

/* ==== [45] cli_ : command line: input, logs, one pass over it ====
 *
 * What kind an input is, by its content; its files, its end, and its way into a sink, with messages and progress.
 * Tests: tests/cli_test.py, tests/aof_test.py */

struct cli_progress {
    int show;
    int terminal;
    int shown;         /* a line stands on the terminal */
    uint64_t next_off; /* look at the clock from there on */
    uint64_t start_ms;
    uint64_t last_ms;
};

enum cli_kind_of_input {
    CLI_IN_RDB,
    CLI_IN_AOF,     /* one append-only file, with or without RDB preamble */
    CLI_IN_MANIFEST /* the files that a manifest lists */
};

struct cli_source {
    struct cli *cli;
    const char *name;
    enum cli_kind_of_input kind;
    rdbkit_manifest *manifest;
    char *manifest_path;
    char *dir;                 /* of the manifest's files, with its slash; "" is the current one */
    rdbkit_keyspace *keyspace; /* what an append-only file holds, once it was replayed */
    int failed;                /* why it could not be, as an exit code; it was said */
    int missing;               /* a file of the manifest is not there */
    int sys_errno;             /* of the last read that failed */
    rdbkit_header header;      /* of its RDB; rdb_version 0: none */
    int fd;
    int seekable;
    int64_t written_s; /* of the files of a manifest: unix time of the last change; 0: not known */
    uint64_t start;    /* where fd stood when it came to us */
    uint64_t size;     /* from there; 0: not known */
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
        if (n < 0) return -(src->sys_errno = errno);
    }
    src->read_off += (uint64_t)n;
    cli_progress_tick(src);
    return n;
}

/* Read n bytes from an offset of the source, wherever it stands. Returns 0, an errno, or -1: it ends before. */
static int cli_source_at(const struct cli_source *src, char *to, size_t n, uint64_t off) {
    while (n > 0) {
        const ssize_t got = pread(src->fd, to, n, (off_t)(src->start + off));
        if (got < 0 && errno != EINTR) return errno;
        if (got == 0) return -1;
        if (got > 0) to += got, n -= (size_t)got, off += (uint64_t)got;
    }
    return 0;
}

/* Report that reading a source ended with a status, where no reader has a message. */
static int cli_source_fail(struct cli_source *src, const char *name, int status) {
    if (status == RDBKIT_ERR_IO && src->sys_errno) return cli_fail_errno(src->cli, name, src->sys_errno);
    return cli_fail(src->cli, name, &(rdbkit_error){.code = status});
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
    const int status = in ? rdbkit_input_rest(in, &data, &len) : RDBKIT_ERR_NOMEM;
    if (status == RDBKIT_OK) memcpy(src->plain, data, len < sizeof src->plain ? len : sizeof src->plain - 1);
    rdbkit_input_free(in);
    return status == RDBKIT_ERR_NOMEM ? ENOMEM : 0; /* damaged gzip is told of when it is read */
}

/* Kinds of input that are no RDB, by their first bytes. The reader itself knows bad magic; these deserve more
 * than that. */
static const struct cli_foreign {
    const char *begin, *within; /* within NULL: anything */
    const char *what;
} cli_foreigns[] = {
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
    src->fd = -1;
    rdbkit_manifest_free(src->manifest);
    rdbkit_keyspace_free(src->keyspace);
    free(src->manifest_path);
    free(src->dir);
}

/* ---- append-only files ---- */

/* Whether a name is that of a manifest, and not of one that a server was writing. */
static int cli_is_manifest_name(const char *name) {
    static const char end[] = ".manifest";
    const size_t len = strlen(name), end_len = sizeof end - 1;
    return len > end_len && strcmp(name + len - end_len, end) == 0 && strncmp(name, "temp-", 5) != 0;
}

/* Find the manifest in a directory: *path, in new memory, or NULL if there is none, or more than one; *n says how many.
 * Returns an errno, or 0. */
static int cli_find_manifest(const char *dir, char **path, size_t *n) {
    DIR *d = opendir(dir);
    int sys_errno = 0;
    *path = NULL, *n = 0;
    if (!d) return errno;
    for (struct dirent *entry; !sys_errno && (errno = 0, entry = readdir(d)) != NULL;) {
        if (!cli_is_manifest_name(entry->d_name) || ++*n > 1) continue;
        const size_t size = strlen(dir) + strlen(entry->d_name) + 2;
        *path = malloc(size);
        if (*path) (void)snprintf(*path, size, "%s/%s", dir, entry->d_name);
        else sys_errno = ENOMEM;
    }
    if (!sys_errno) sys_errno = errno;
    (void)closedir(d);
    if (*n == 1 && !sys_errno) return 0;
    free(*path);
    *path = NULL;
    return sys_errno;
}

/* Go on with the manifest of a directory, or of the appendonlydir in it, in the place of the directory itself. */
static int cli_source_enter(struct cli *c, struct cli_source *src) {
    static const char sub[] = "appendonlydir";
    size_t n = 0, n_below, len = strlen(src->name);
    while (len > 1 && src->name[len - 1] == '/') len--;
    char *dir = malloc(len + sizeof sub + 1), *path = NULL;
    int sys_errno = dir ? 0 : ENOMEM;
    if (dir) {
        (void)snprintf(dir, len + 1, "%s", src->name);
        sys_errno = cli_find_manifest(dir, &path, &n);
    }
    if (!sys_errno && n == 0) {
        (void)snprintf(dir + len, sizeof sub + 1, "/%s", sub);
        sys_errno = cli_find_manifest(dir, &path, &n_below);
        if (sys_errno == ENOENT || sys_errno == ENOTDIR) sys_errno = 0;
    }
    free(dir);
    if (sys_errno) return cli_fail_errno(c, src->name, sys_errno);
    if (!path) {
        cli_say(c, src->name,
                n > 1 ? "a directory with %zu manifests: name one of them" : "a directory without a manifest",
                n);
        cli_hint(c, "an append-only directory holds a file named ....manifest; an RDB is named as a file");
        return CLI_BAD;
    }
    (void)close(src->fd);
    src->fd = open(path, O_RDONLY | O_NOCTTY);
    const int code = src->fd < 0 ? cli_fail_errno(c, path, errno) : CLI_OK;
    src->manifest_path = path;
    return code;
}

/* The path of a file of a manifest, in new memory. */
static char *cli_log_path(const struct cli_source *src, const rdbkit_manifest_file *file) {
    const size_t size = strlen(src->dir) + file->name.len + 1;
    char *path = malloc(size);
    if (path) (void)snprintf(path, size, "%s%s", src->dir, file->name.data);
    return path;
}

/* How many bytes the files of a manifest have together, for progress, and when the last of them was written: times may
 * count from there. One that is not there is told of when it is its turn. */
static int cli_log_size(struct cli *c, struct cli_source *src) {
    const rdbkit_manifest_file *file;
    int code = CLI_OK;
    struct stat st;
    src->size = 0;
    for (size_t i = 0; code == CLI_OK && (file = rdbkit_manifest_at(src->manifest, i)) != NULL; i++) {
        if (file->type == 'h') continue;
        char *path = cli_log_path(src, file);
        if (!path) code = cli_fail_errno(c, NULL, ENOMEM);
        else if (stat(path, &st) == 0) {
            if (st.st_size > 0) src->size += (uint64_t)st.st_size;
            if ((int64_t)st.st_mtime > src->written_s) src->written_s = (int64_t)st.st_mtime;
        } else if (errno != ENOENT) code = cli_fail_errno(c, path, errno);
        free(path);
    }
    return code;
}

enum { CLI_MANIFEST_MAX = 16 << 20 };

/* Read the manifest that fd is open on, whose first bytes are in head. */
static int cli_source_manifest(struct cli *c, struct cli_source *src) {
    char *text = malloc(CLI_MANIFEST_MAX);
    size_t len = src->head_len;
    rdbkit_error error;
    if (!text) return cli_fail_errno(c, NULL, ENOMEM);
    memcpy(text, src->head, len);
    for (ssize_t n = 1; n > 0 && len < CLI_MANIFEST_MAX;) {
        n = read(src->fd, text + len, CLI_MANIFEST_MAX - len);
        if (n < 0 && cli_again(src->fd, POLLIN)) n = 1;
        else if (n < 0) return free(text), cli_fail_errno(c, src->name, errno);
        else len += (size_t)n;
    }
    src->manifest = rdbkit_manifest_parse(NULL, text, len, &error);
    free(text);
    if (!src->manifest) return cli_fail(c, src->name, &error);
    src->kind = CLI_IN_MANIFEST;
    if (!src->manifest_path) src->manifest_path = strdup(src->name);
    src->dir = src->manifest_path ? strdup(src->manifest_path) : NULL;
    if (!src->dir) return cli_fail_errno(c, NULL, ENOMEM);
    src->dir[cli_dir_len(src->dir)] = 0;
    return cli_log_size(c, src);
}

/* Called for each file of a log in the order of loading. file: its line in the manifest, or NULL. Returns an exit
 * code; what is not CLI_OK ends the walk. */
typedef int (*cli_log_fn)(void *ctx, const char *path, const rdbkit_manifest_file *file, rdbkit_input *in);

static int cli_log_one(struct cli_source *src, cli_log_fn each, void *ctx, const char *path,
                       const rdbkit_manifest_file *file) {
    rdbkit_input *in = rdbkit_input_new(NULL, cli_source_read, src);
    const int code = in ? each(ctx, path, file, in) : cli_fail_errno(src->cli, NULL, ENOMEM);
    rdbkit_input_free(in);
    return code;
}

/* Go through the files of an append-only source. One that cannot be opened ends the walk, as it does for servers. */
static int cli_log_walk(struct cli *c, struct cli_source *src, cli_log_fn each, void *ctx) {
    const rdbkit_manifest_file *file;
    int code = CLI_OK;
    if (src->kind == CLI_IN_AOF) return cli_log_one(src, each, ctx, src->name, NULL);
    src->read_off = src->progress.next_off = 0;
    for (size_t i = 0; code == CLI_OK && (file = rdbkit_manifest_at(src->manifest, i)) != NULL; i++) {
        if (file->type == 'h') continue;
        char *path = cli_log_path(src, file);
        if (src->fd > STDIN_FILENO) (void)close(src->fd);
        src->head_len = src->head_off = 0;
        src->fd = path ? open(path, O_RDONLY | O_NOCTTY) : -1;
        if (!path) code = cli_fail_errno(c, NULL, ENOMEM);
        else if (src->fd < 0) src->missing = errno == ENOENT, code = cli_fail_errno(c, path, errno);
        else code = cli_log_one(src, each, ctx, path, file);
        free(path);
    }
    return code;
}

/* Whether an RDB is the preamble of an append-only file: it says so, or its end is that of a command. *sys_errno: 0, or
 * why that cannot be told. */
static int cli_is_preamble(const struct cli_source *src, int *sys_errno) {
    static const char mark[] = "\x0c"
                               "aof-preamble\xc0\x01";
    const size_t n = sizeof mark - 1;
    char end[2];
    if (strncmp(src->plain, "REDIS", 5) != 0 && strncmp(src->plain, "VALKEY", 6) != 0) return 0;
    for (size_t i = 0; i + n < sizeof src->plain; i++)
        if (memcmp(src->plain + i, mark, n) == 0) return 1;
    if (src->size <= 32 || memcmp(src->plain, src->head, 9) != 0) return 0;
    const int st = cli_source_at(src, end, 2, src->size - 2);
    if (st > 0) *sys_errno = st;
    return st == 0 && end[0] == '\r' && end[1] == '\n';
}

static int cli_source_kind(struct cli *c, struct cli_source *src) {
    /* what a directory has as its manifest is one, whatever it holds */
    if (src->manifest_path || rdbkit_is_manifest(src->plain, strlen(src->plain)))
        return cli_source_manifest(c, src);
    int sys_errno = 0;
    if (src->plain[0] == '*' || src->plain[0] == '#' || cli_is_preamble(src, &sys_errno))
        src->kind = CLI_IN_AOF;
    return sys_errno ? cli_fail_errno(c, src->name, sys_errno) : CLI_OK;
}

/* Whether the input is of a kind that can be read; says so if not. */
static int cli_source_accept(struct cli *c, struct cli_source *src) {
    struct stat st;
    if (fstat(src->fd, &st) != 0) return cli_fail_errno(c, src->name, errno);
    if (S_ISDIR(st.st_mode)) {
        const int entered = cli_source_enter(c, src);
        if (entered != CLI_OK) return entered;
        if (fstat(src->fd, &st) != 0) return cli_fail_errno(c, src->name, errno);
    }
    off_t at = S_ISREG(st.st_mode) ? lseek(src->fd, 0, SEEK_CUR) : -1;
    if (at < 0 && S_ISREG(st.st_mode)) return cli_fail_errno(c, src->name, errno);
    src->seekable = at >= 0;
    src->start = at > 0 ? (uint64_t)at : 0;
    if (src->seekable && st.st_size > at) src->size = (uint64_t)(st.st_size - at);
    int sys_errno = cli_source_look(src);
    if (sys_errno) return cli_fail_errno(c, src->name, sys_errno);
    const char *what = cli_foreign_what(src->plain);
    if (what) cli_say(c, src->name, "%s", what);
    return what ? CLI_BAD : cli_source_kind(c, src);
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
    if (src->keyspace) return 1; /* it is all in memory */
    if (lseek(src->fd, (off_t)(src->start + src->head_len), SEEK_SET) < 0) return 0;
    src->head_off = 0;
    src->read_off = src->progress.next_off = 0;
    return 1;
}

/* The header, as far as the head tells; the reader judges it. */
static rdbkit_header cli_source_header(const struct cli_source *src) {
    if (src->kind != CLI_IN_RDB) return src->header;
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
    int code; /* what was said already, as an exit code; CLI_OK: nothing */
};

static void cli_reader_options(const struct cli *c, rdbkit_reader_options *options) {
    rdbkit_reader_options_init(options);
    options->ignore_checksum = cli_has(c, CLI_O_IGNORE_SUM);
    options->piece_len = CLI_BLOCK_LEN;
    if (c->filter) options->key_filter = rdbkit_filter_apply, options->key_filter_ctx = c->filter;
}

/* What follows the RDB. Returns RDBKIT_DONE, or the error of not being able to tell. */
static int cli_read_tail(const struct cli_source *src, struct cli_pass *pass, rdbkit_input *in) {
    const void *data;
    size_t len;
    int status = rdbkit_input_rest(in, &data, &len);
    if (status == RDBKIT_DONE) return status;
    if (status == RDBKIT_ERR_IO || status == RDBKIT_ERR_NOMEM) {
        (void)snprintf(pass->error.message, sizeof pass->error.message, "input at %" PRIu64 ": %s",
                       pass->end_off,
                       status == RDBKIT_ERR_IO ? strerror(src->sys_errno) : rdbkit_status_text(status));
        return pass->error.code = status;
    }
    if (status == RDBKIT_OK && len > 0 && (*(const char *)data == '*' || *(const char *)data == '#'))
        pass->tail = CLI_TAIL_AOF;
    else pass->tail = CLI_TAIL_OTHER; /* bytes that cannot even be decompressed are no less there */
    return RDBKIT_DONE;
}

/* ---- replay ---- */

struct cli_replay {
    struct cli *c;
    struct cli_source *src;
    struct cli_pass *pass;
    const rdbkit_reader_options *rdb;
    const char *path; /* of the file at hand */
    uint64_t seen[RDBKIT_REPLAY_KIND_N];
};

/* The first of each kind is told with its place, the rest are counted. */
static int cli_replay_event(void *ctx, const rdbkit_replay_event *event) {
    struct cli_replay *r = ctx;
    if (r->seen[event->kind]++ || cli_has(r->c, CLI_O_QUIET)) return RDBKIT_OK;
    struct cli_out *err = &r->c->err;
    cli_progress_clear(r->src);
    cli_puts(err, "rdbkit: ");
    cli_puts(err, r->path);
    cli_printf(err, ": warning: at %" PRIu64 ": ", event->command->offset);
    for (size_t i = 0; i < event->command->argc && i < 2; i++) {
        rdbkit_str arg = event->command->argv[i];
        if (arg.len > 64) arg.len = 64;
        cli_put_plain(err, arg);
        cli_puts(err, " ");
    }
    cli_printf(err, "db %" PRIu64 ": %s\n", event->db, event->text);
    cli_out_flush(err);
    return RDBKIT_OK;
}

static void cli_replay_summary(const struct cli_replay *r) {
    static const char *const what[] = {"commands that a server answers with an error had no effect",
                                       "scripts were skipped: what they changed is missing",
                                       "unknown commands were skipped: what they changed is missing",
                                       "times count from --now, or from when the file was written",
                                       "commands whose result may differ from what the server had"};
    for (size_t i = 0; i < RDBKIT_REPLAY_KIND_N && !cli_has(r->c, CLI_O_QUIET); i++)
        if (r->seen[i]) cli_say(r->c, r->src->name, "warning: %" PRIu64 " %s", r->seen[i], what[i]);
}

static const char *cli_hint_script(const rdbkit_error *e) {
    return e->code == RDBKIT_ERR_UNSUPPORTED &&
                   (strstr(e->message, "unknown command") || strstr(e->message, "a script"))
               ? "--skip-scripts and --skip-unknown leave such commands out; or let a server of the version "
                 "that wrote "
                 "the file load a copy, and use what BGREWRITEAOF makes of it"
               : NULL;
}

/* A cli_log_fn. */
static int cli_replay_file(void *ctx, const char *path, const rdbkit_manifest_file *file, rdbkit_input *in) {
    struct cli_replay *r = ctx;
    rdbkit_aof_options options;
    rdbkit_aof_options_init(&options);
    (void)file;
    r->path = path;
    options.rdb.ignore_checksum = r->rdb->ignore_checksum;
    rdbkit_aof *a = rdbkit_aof_new(&options, rdbkit_keyspace_aof_visitor(r->src->keyspace));
    if (!a) return cli_fail_errno(r->c, NULL, ENOMEM);
    const int status = rdbkit_aof_pull(a, in);
    const rdbkit_error *own = rdbkit_keyspace_error(r->src->keyspace);
    r->pass->error = own->code ? *own : *rdbkit_aof_error(a);
    r->pass->gzip |= rdbkit_input_is_gzip(in);
    r->src->checksum |= rdbkit_aof_progress(a)->rdb_verified;
    rdbkit_aof_free(a);
    rdbkit_keyspace_file_end(r->src->keyspace);
    cli_progress_clear(r->src);
    if (status == RDBKIT_DONE) return CLI_OK;
    r->pass->code = cli_fail(r->c, path, &r->pass->error);
    cli_hint(r->c, cli_hint_script(&r->pass->error));
    if (r->pass->error.code == RDBKIT_ERR_TRUNCATED)
        cli_hint(r->c, "rdbkit repair cuts the file behind its last complete command");
    return r->pass->code;
}

/* What relative times count from: --now, or when the file was last written. */
static int cli_replay_now(struct cli *c, const struct cli_source *src, int64_t *now_ms) {
    struct stat st;
    const char *now = c->o.text[CLI_O_NOW];
    *now_ms = now ? strtoll(now, NULL, 10) : src->written_s * 1000;
    if (now || src->written_s || src->fd < 0) return CLI_OK;
    if (fstat(src->fd, &st) != 0) return cli_fail_errno(c, src->name, errno);
    *now_ms = (int64_t)st.st_mtime * 1000;
    return CLI_OK;
}

/* Numbers that whoever wrote a file could not know: addresses and times. */
static uint64_t cli_seed(const void *p) {
    struct timespec t = {0, 0};
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)(uintptr_t)p * 0x9e3779b97f4a7c15u ^ (uint64_t)t.tv_nsec << 32 ^ (uint64_t)t.tv_sec ^
           (uint64_t)getpid();
}

/* Append-only files are directories from 7.0 on, as function libraries are. */
static int cli_is_multi_part(const rdbkit_target *target) {
    return (target->features & RDBKIT_F_FUNCTIONS) != 0;
}

/* Whose log this is, where no RDB in it says so: the target's release if that writes such files, else the newest that
 * does. Directories are of 7.0 and later, single files of those before. */
static const rdbkit_target *cli_replay_source(const struct cli *c, const struct cli_source *src) {
    const int multi_part = src->kind == CLI_IN_MANIFEST;
    const rdbkit_target *to = cli_has(c, CLI_O_TO) ? rdbkit_target_find(c->o.text[CLI_O_TO]) : NULL;
    if (to && cli_is_multi_part(to) == multi_part) return to;
    return multi_part ? NULL : rdbkit_target_find("redis-6.2");
}

/* What the data of a log may take: three quarters of the machine's memory, so that a few commands which ask for half a
 * gigabyte each end with a message. 0: not known. */
static uint64_t cli_memory_limit(void) {
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    if (pages > 0 && size > 0) return (uint64_t)pages / 4 * 3 * (uint64_t)size;
#endif
    return 0;
}

/* Run all the commands of a source, once. Returns an exit code. */
static int cli_replay(struct cli_source *src, const rdbkit_reader_options *rdb, struct cli_pass *pass) {
    struct cli *c = src->cli;
    struct cli_replay r = {.c = c, .src = src, .pass = pass, .rdb = rdb, .path = src->name};
    rdbkit_keyspace_options options;
    rdbkit_keyspace_options_init(&options);
    options.seed = cli_seed(src);
    options.memory_limit = cli_memory_limit();
    const int told = cli_replay_now(c, src, &options.now_ms);
    if (told != CLI_OK) return told;
    options.source = cli_replay_source(c, src);
    options.skip_scripts = cli_has(c, CLI_O_SKIP_SCRIPTS);
    options.skip_unknown = cli_has(c, CLI_O_SKIP_UNKNOWN);
    options.on_event = cli_replay_event;
    options.on_event_ctx = &r;
    src->keyspace = rdbkit_keyspace_new(&options);
    if (!src->keyspace) return cli_fail_errno(c, NULL, ENOMEM);
    const int code = cli_log_walk(c, src, cli_replay_file, &r);
    cli_replay_summary(&r);
    return code;
}

/* Have an append-only source replayed, if it is not yet. Returns an exit code. */
static int cli_replay_once(struct cli_source *src, const rdbkit_reader_options *rdb, struct cli_pass *pass) {
    rdbkit_replay_stats stats;
    if (!src->keyspace && !src->failed) src->failed = cli_replay(src, rdb, pass);
    if (src->failed) return src->failed;
    rdbkit_keyspace_stats(src->keyspace, &stats);
    src->keys = stats.keys;
    src->header = stats.header;
    return CLI_OK;
}

/* The same before the first pass, for who has to know what is in it. */
static int cli_log_load(struct cli_source *src) {
    rdbkit_reader_options options;
    struct cli_pass pass;
    memset(&pass, 0, sizeof pass);
    cli_reader_options(src->cli, &options);
    return cli_replay_once(src, &options, &pass);
}

/* As cli_read(), of an append-only source: it is replayed at the first pass, and then read from memory. */
static int cli_read_log(struct cli_source *src, const rdbkit_reader_options *options,
                        const rdbkit_visitor *visitor, struct cli_pass *pass) {
    pass->code = cli_replay_once(src, options, pass);
    if (pass->code) return pass->error.code ? pass->error.code : (pass->error.code = RDBKIT_ERR_IO);
    const int status = rdbkit_keyspace_emit(src->keyspace, options, visitor);
    if (status < 0) pass->error = *rdbkit_keyspace_error(src->keyspace);
    if (status < 0 && !pass->error.code) pass->error.code = status;
    return status;
}

/* Read all of a source. pass: filled in; it may be reached by the visitor. Returns RDBKIT_DONE or the error. */
static int cli_read(struct cli_source *src, const rdbkit_reader_options *options,
                    const rdbkit_visitor *visitor, struct cli_pass *pass) {
    memset(pass, 0, sizeof *pass);
    if (src->cli->filter) rdbkit_filter_restart(src->cli->filter);
    if (src->kind != CLI_IN_RDB) return cli_read_log(src, options, visitor, pass);
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
        if (status == RDBKIT_DONE) status = cli_read_tail(src, pass, in);
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
                "at %" PRIu64 ": commands follow the RDB, which does not say that it is the preamble of an "
                "append-only file, and they do not end as they should",
                pass->end_off);
        cli_hint(c, "rdbkit repair makes a sound append-only file of it");
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
    if (pass->code) return pass->code;
    return status == RDBKIT_DONE ? cli_judge_tail(c, src, pass) : cli_fail(c, src->name, &pass->error);
}

/* ==== [46] verb_ : command line: filters; keys, info, check ====
 *
 * One function a verb, and what it prints. Tests: tests/cli_test.py, tests/aof_test.py */

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

/* Bytes of the value in the file; an append-only file has no such place. */
static int64_t verb_keys_size(const struct verb_keys *k) {
    return k->pass.reader ? (int64_t)(rdbkit_reader_offset(k->pass.reader) - k->key.value_off) : -1;
}

static void verb_keys_field(struct verb_keys *k, const struct verb_field *f) {
    switch (f->what) {
    case 'd': cli_put_u64(k->out, k->key.db); break;
    case 'k': cli_put_quoted(k->out, (rdbkit_str){k->name, k->key.name.len}); break;
    case 't': cli_puts(k->out, rdbkit_shape_name(k->key.type->shape)); break;
    case 'e': cli_put_i64(k->out, k->key.expire_ms); break;
    case 's': cli_put_i64(k->out, verb_keys_size(k)); break;
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
    if (key->module && verb_list_add(&info->modules, cli_str(key->module), cli_str("")))
        return RDBKIT_ERR_NOMEM;
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

/* Whether a target knows what commands made: their values have no types yet. */
static int verb_info_log_verdict(const struct verb_info *info, const rdbkit_target *t, char *text,
                                 size_t size) {
    const struct verb_need needs[] = {
        {RDBKIT_F_FUNCTIONS, info->src->kind == CLI_IN_MANIFEST, "knows no append-only directories"},
        {RDBKIT_F_STREAMS, info->shapes[RDBKIT_STREAM], "knows no streams"},
        {RDBKIT_F_FUNCTIONS, info->functions_n, "knows no function libraries"},
        {RDBKIT_F_FIELD_EXPIRY, verb_info_field_expiry(info), "knows no expiry of hash fields"},
    };
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if (!needs[i].n || (t->features & needs[i].feature)) continue;
        (void)snprintf(text, size, "%s", needs[i].what);
        return 0;
    }
    return 1;
}

/* Whether a target loads the file. text: the first reason why not, or what has to be seen to. */
static int verb_info_verdict(const struct verb_info *info, const rdbkit_target *t, char *text, size_t size) {
    const int valkey = info->header.lineage == RDBKIT_VALKEY;
    const int highest = valkey ? t->max_valkey_version : t->max_redis_version;
    const struct verb_need needs[] = {
        {RDBKIT_F_FUNCTIONS, info->functions_n, "knows no function libraries"},
        {RDBKIT_F_FUNCTION_PRE_GA, info->pre_ga_functions,
         "knows no opcode 246 (functions of 7.0 release candidates)"},
        {RDBKIT_F_MODULE_AUX, info->module_auxs, "knows no opcode 247 (module data)"},
        {RDBKIT_F_SLOT_INFO, info->slot_infos, "knows no opcode 244 (slot info of a cluster)"},
        {RDBKIT_F_SLOT_IMPORT, info->slot_imports, "knows no opcode 243 (slot import)"},
        {RDBKIT_F_IDLE_FREQ, info->hints, "knows no opcodes 248 and 249 (LRU and LFU)"},
    };
    text[0] = 0;
    if (info->src->kind != CLI_IN_RDB && !verb_info_log_verdict(info, t, text, size)) return 0;
    if (info->header.rdb_version > highest) {
        if (highest > 0)
            (void)snprintf(text, size, "version %d is above its %d", info->header.rdb_version, highest);
        else (void)snprintf(text, size, "it does not know the magic %s", cli_magic(info->header.lineage));
        return 0;
    }
    for (size_t i = 0; i < 256; i++) {
        const rdbkit_type *type = info->types[i];
        if (!type || rdbkit_target_loads(t, type) || info->src->kind != CLI_IN_RDB) continue;
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

static const char *verb_format_name(const struct cli_source *src) {
    if (src->kind == CLI_IN_MANIFEST) return "append-only directory";
    if (src->kind == CLI_IN_RDB) return "RDB";
    return src->header.rdb_version ? "append-only file with RDB preamble" : "append-only file";
}

/* What a replay found: commands, and the files of a directory. */
static void verb_info_print_log(struct verb_doc *d, const struct cli_source *src) {
    const rdbkit_manifest_file *file;
    rdbkit_replay_stats stats;
    rdbkit_keyspace_stats(src->keyspace, &stats);
    verb_doc_count(d, "commands", stats.commands);
    verb_doc_count(d, "refused_commands", stats.events[RDBKIT_REPLAY_REFUSED]);
    if (!src->manifest) return;
    verb_doc_open(d, "files", "[");
    for (size_t i = 0; (file = rdbkit_manifest_at(src->manifest, i)) != NULL; i++) {
        if (file->type == 'h') continue;
        verb_doc_next(d);
        verb_doc_str(d, file->name);
        verb_doc_end_line(d);
    }
    verb_doc_close(d, "]");
}

static void verb_info_print_head(struct verb_doc *d, const struct cli *c, const struct verb_info *info) {
    const struct cli_source *src = info->src;
    rdbkit_str version;
    const char *product = verb_info_product(info, &version);
    verb_doc_text(d, cli_str("file"), cli_str(src->name));
    verb_doc_text(d, cli_str("format"), cli_str(verb_format_name(src)));
    if (info->header.rdb_version) {
        verb_doc_text(d, cli_str("magic"), cli_str(cli_magic(info->header.lineage)));
        verb_doc_count(d, "rdb_version", (uint64_t)info->header.rdb_version);
        verb_doc_text(d, cli_str("product"), cli_str(product));
        verb_doc_text(d, cli_str("product_version"), version);
    }
    if (src->keyspace) verb_info_print_log(d, src);
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
            if (!d->name.data) return RDBKIT_ERR_NOMEM;
            d->db = key->db;
            d->same = d->at.field; /* a field's bytes are not at hand: 71 bits of hash have to do */
        } else if (key->offset == d->at.second_off) {
            d->same = d->name.data && d->db == key->db && verb_same(d->name, key->name);
        }
    }
    return RDBKIT_SKIP_KEY;
}

/* What is to be looked for. */
static void verb_confirm_wanted(const rdbkit_check *check, struct verb_confirm *f) {
    memset(f, 0, sizeof *f);
    for (const rdbkit_duplicate *d; f->n < CLI_DUPS_MAX && (d = rdbkit_check_duplicate(check, f->n));
         f->n++) {
        f->dup[f->n].at = *d;
        if (d->first_off > f->last_off) f->last_off = d->first_off;
        if (d->second_off > f->last_off) f->last_off = d->second_off;
    }
}

/* Read the records again, where that is possible. Returns an exit code. */
static int verb_confirm_read(struct cli_source *src, const rdbkit_check *check, struct verb_confirm *f) {
    struct cli_pass pass;
    rdbkit_reader_options options;
    rdbkit_visitor v = {0};
    verb_confirm_wanted(check, f);
    uint64_t keys = src->keys;
    if (!src->seekable) return CLI_OK;
    if (!cli_source_rewind(src)) return cli_fail_errno(src->cli, src->name, errno);
    cli_reader_options(src->cli, &options);
    options.ignore_checksum = 1;
    v.user = f;
    v.key = verb_confirm_key;
    const int status = cli_read(src, &options, &v, &pass);
    src->keys = keys;
    if (status == RDBKIT_DONE || status == RDBKIT_ERR_STOPPED) return CLI_OK;
    return pass.code ? pass.code : cli_fail(src->cli, src->name, &pass.error);
}

static void verb_confirm_free(struct verb_confirm *f) {
    for (size_t i = 0; i < f->n; i++) verb_free_str(f->dup[i].name);
}

static void verb_verdict(struct cli *c, const struct cli_source *src, const char *verdict) {
    cli_puts(&c->out, src->name);
    cli_puts(&c->out, verdict);
}

/* Print what occurs twice. Returns how many of the found ones hold: two names of the same hash are none. */
static uint64_t verb_check_print_dups(struct cli *c, const struct cli_source *src,
                                      const struct verb_confirm *f, uint64_t found) {
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
    const int code = verb_confirm_read(src, check, &f);
    const uint64_t real = code == CLI_OK ? verb_check_print_dups(c, src, &f, (uint64_t)found) : 0;
    verb_confirm_free(&f);
    return code == CLI_OK && real ? CLI_NO : code;
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
    if (pass->tail != CLI_TAIL_NONE) {
        verb_verdict(c, src, ": damaged: ");
        cli_printf(&c->out, "at %" PRIu64 ": %s follow the end of the RDB\n", pass->end_off,
                   pass->tail == CLI_TAIL_AOF ? "commands that do not end as they should" : "bytes");
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

/* ---- check of append-only files ---- */

struct verb_check_log {
    struct cli *c;
    struct cli_source *src;
    rdbkit_aof *aof;
    uint64_t unknown, unknown_off; /* commands, and the first */
    char unknown_name[64];
    uint64_t wrong_off;           /* a command with a wrong number of arguments, or RDBKIT_NO_OFFSET */
    rdbkit_check *check;          /* of the keys of all images: servers load none of them twice */
    struct verb_confirm *confirm; /* the second time: the names of what was found */
    uint64_t base_off;            /* added to the offsets of a file, so that no two are the same */
    int damaged;
};

static int verb_check_command(void *user, const rdbkit_command *command) {
    struct verb_check_log *l = user;
    const int st = rdbkit_command_check(command);
    if (st == RDBKIT_ERR_DAMAGED && l->wrong_off == RDBKIT_NO_OFFSET) l->wrong_off = command->offset;
    if (st == RDBKIT_ERR_UNSUPPORTED && l->unknown++ == 0) {
        const rdbkit_str name = command->argv[0];
        l->unknown_off = command->offset;
        (void)snprintf(l->unknown_name, sizeof l->unknown_name, "%.*s", (int)(name.len < 60 ? name.len : 60),
                       name.data);
    }
    return RDBKIT_OK;
}

/* What one file is, on standard output. */
static int verb_check_log_verdict(struct verb_check_log *l, const char *path, int status,
                                  const rdbkit_error *e) {
    struct cli_out *out = &l->c->out;
    const rdbkit_aof_state *s = rdbkit_aof_progress(l->aof);
    if (status < 0 && !verb_is_damage(status)) return cli_fail(l->c, path, e);
    const int wrong = status == RDBKIT_DONE && l->wrong_off != RDBKIT_NO_OFFSET;
    cli_puts(out, path);
    if (status == RDBKIT_DONE && !wrong) {
        cli_printf(out, ": sound: append-only file, %s, %" PRIu64 " commands\n",
                   s->has_rdb ? "RDB preamble" : "no RDB preamble", s->commands);
        return CLI_OK;
    }
    l->damaged = 1;
    cli_puts(out, ": damaged: ");
    if (wrong) cli_printf(out, "at %" PRIu64 ": a command with a wrong number of arguments", l->wrong_off);
    else cli_puts(out, e->message);
    cli_printf(out, "; the last complete command ends at %" PRIu64, s->good_any_off);
    if (s->multi_off != RDBKIT_NO_OFFSET)
        cli_printf(out, "; a transaction is open since %" PRIu64 ", before it the last ends at %" PRIu64,
                   s->multi_off, s->good_off);
    cli_puts(out, "\n");
    return CLI_NO;
}

/* The key events of an image, with offsets that are its own. */
static int verb_check_image_key(void *user, const rdbkit_key *key) {
    struct verb_check_log *l = user;
    const rdbkit_visitor *v = rdbkit_check_visitor(l->check);
    rdbkit_key moved = *key;
    moved.offset += l->base_off;
    if (!l->confirm) return v->key(v->user, &moved);
    const int st = verb_confirm_key(l->confirm, &moved);
    return st == RDBKIT_ERR_STOPPED ? RDBKIT_SKIP_KEY : st; /* the next file may have it */
}

/* Members and fields are given to the check as they are. */
static int verb_check_image_set(void *user, rdbkit_str member) {
    const rdbkit_visitor *v = rdbkit_check_visitor(((struct verb_check_log *)user)->check);
    return v->set_member(v->user, member);
}

static int verb_check_image_zset(void *user, rdbkit_str member, double score) {
    const rdbkit_visitor *v = rdbkit_check_visitor(((struct verb_check_log *)user)->check);
    return v->zset_member(v->user, member, score);
}

static int verb_check_image_hash(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    const rdbkit_visitor *v = rdbkit_check_visitor(((struct verb_check_log *)user)->check);
    return v->hash_field(v->user, field, value, expire_ms);
}

static rdbkit_visitor verb_check_image(struct verb_check_log *l) {
    rdbkit_visitor v = {0};
    v.user = l;
    v.key = verb_check_image_key;
    if (!l->confirm)
        v.set_member = verb_check_image_set, v.zset_member = verb_check_image_zset,
        v.hash_field = verb_check_image_hash;
    return v;
}

/* A cli_log_fn. */
static int verb_check_file(void *ctx, const char *path, const rdbkit_manifest_file *file, rdbkit_input *in) {
    struct verb_check_log *l = ctx;
    rdbkit_aof_options options;
    rdbkit_aof_options_init(&options);
    (void)file;
    options.strict = 1;
    options.rdb.deep = !l->confirm;
    options.rdb.ignore_checksum = l->confirm || cli_has(l->c, CLI_O_IGNORE_SUM);
    const rdbkit_visitor rdb = verb_check_image(l);
    const rdbkit_aof_visitor v = {.user = l, .rdb = &rdb, .command = l->confirm ? NULL : verb_check_command};
    l->aof = rdbkit_aof_new(&options, &v);
    l->wrong_off = RDBKIT_NO_OFFSET;
    if (!l->aof) return cli_fail_errno(l->c, NULL, ENOMEM);
    const int status = rdbkit_aof_pull(l->aof, in);
    cli_progress_clear(l->src);
    const rdbkit_error *e = rdbkit_aof_error(l->aof);
    int code = CLI_OK;
    if (!l->confirm) code = verb_check_log_verdict(l, path, status, e);
    else if (status < 0 && !verb_is_damage(status)) code = cli_fail(l->c, path, e);
    l->base_off += rdbkit_aof_offset(l->aof);
    rdbkit_aof_free(l->aof);
    return code == CLI_NO ? CLI_OK : code; /* go on with the next file */
}

/* Whether the images hold a key twice, or a value a field. Returns CLI_NO, and says which; servers load none of them. */
static int verb_check_log_dups(struct verb_check_log *l) {
    struct cli_out *out = &l->c->out;
    struct verb_confirm f;
    const int64_t found = rdbkit_check_finish(l->check);
    uint64_t real = 0;
    if (found == RDBKIT_ERR_IO) return CLI_IO; /* verb_check_log() says so */
    if (found <= 0) return found < 0 ? cli_fail_errno(l->c, NULL, ENOMEM) : CLI_OK;
    verb_confirm_wanted(l->check, &f);
    l->confirm = &f;
    l->base_off = 0;
    int code = CLI_OK;
    if (l->src->kind == CLI_IN_MANIFEST || cli_source_rewind(l->src))
        code = cli_log_walk(l->c, l->src, verb_check_file, l);
    else if (l->src->seekable) code = cli_fail_errno(l->c, l->src->name, errno);
    if (code != CLI_OK) return verb_confirm_free(&f), code;
    for (size_t i = 0; i < f.n; i++) {
        const struct verb_dup *d = &f.dup[i];
        if (d->name.data && !d->same) continue;
        real++;
        verb_verdict(l->c, l->src,
                     d->at.field ? ": damaged: a field or member twice in key "
                                 : ": damaged: key twice in RDB images: ");
        if (d->name.data) cli_put_quoted(out, d->name);
        cli_printf(out, " db %" PRIu64 "\n", d->db);
    }
    verb_confirm_free(&f);
    if ((uint64_t)found > f.n) {
        verb_verdict(l->c, l->src, ": damaged: ");
        cli_printf(out, "%" PRIu64 " more duplicates\n", (uint64_t)found - f.n);
    }
    return real || (uint64_t)found > f.n ? CLI_NO : CLI_OK;
}

static int verb_check_log(struct cli *c, struct cli_source *src) {
    if (c->filter) {
        cli_say(c, src->name, "check looks at all of an append-only file: filters are for other files");
        return CLI_USAGE;
    }
    struct verb_spill file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &file, verb_spill_reset};
    struct verb_check_log l = {.c = c, .src = src, .check = rdbkit_check_new(NULL, &spill)};
    if (!l.check) return cli_fail_errno(c, NULL, ENOMEM);
    int code = cli_log_walk(c, src, verb_check_file, &l);
    if (code == CLI_OK) code = verb_check_log_dups(&l);
    if (code == CLI_NO) l.damaged = 1, code = CLI_OK;
    if (file.sys_errno) code = verb_spill_failed(c, &file);
    rdbkit_check_free(l.check);
    if (file.fd >= 0) (void)close(file.fd);
    if (code == CLI_OK && l.unknown && !cli_has(c, CLI_O_QUIET))
        cli_say(c, src->name,
                "warning: %" PRIu64 " unknown commands, the first at %" PRIu64
                ": only servers with the module of %s load them",
                l.unknown, l.unknown_off, l.unknown_name);
    if (code == CLI_IO && src->missing) l.damaged = 1, code = CLI_OK;
    if (code == CLI_OK && l.damaged) code = CLI_NO;
    if (src->kind == CLI_IN_MANIFEST && code <= CLI_NO) {
        cli_puts(&c->out, src->name);
        cli_printf(&c->out, ": %s: manifest of %zu files\n", code == CLI_OK ? "sound" : "damaged",
                   rdbkit_manifest_count(src->manifest));
    }
    return code;
}

static int verb_check(struct cli *c, struct cli_source *src) {
    if (src->kind != CLI_IN_RDB) return verb_check_log(c, src);
    struct verb_spill file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &file, verb_spill_reset};
    struct cli_pass pass;
    rdbkit_reader_options options;
    rdbkit_check *check = rdbkit_check_new(NULL, &spill);
    if (!check) return cli_fail_errno(c, NULL, ENOMEM);
    cli_reader_options(c, &options);
    options.deep = 1;
    (void)cli_read(src, &options, rdbkit_check_visitor(check), &pass);
    const int failed =
        pass.error.code == RDBKIT_ERR_IO || pass.error.code == RDBKIT_ERR_NOMEM; /* no verdict */
    int code = file.sys_errno ? 0
               : failed       ? cli_fail(c, src->name, &pass.error)
                              : verb_check_judge(c, src, check, &pass);
    if (file.sys_errno) code = verb_spill_failed(c, &file); /* now, or while the check was finished */
    rdbkit_check_free(check);
    if (file.fd >= 0) (void)close(file.fd);
    return code;
}

/* ==== [47] verb_ : command line: to-resp, convert, filter, repair, to-json ====
 *
 * The verbs that write. Tests: tests/cli_test.py, tests/convert_test.py, tests/json_test.py, tests/aof_test.py */

/* ---- Keys that become one ------------------------------------------------------------------------------ */

/* --rename and --map-db can give two keys the same name and database. No server loads such a file, and commands
 * would mix the two, so that the keys are watched as they go out. */
struct verb_twice {
    struct verb_spill file;
    rdbkit_spill spill;
    rdbkit_check *check;
    rdbkit_filter *filter;
    int no_modules, no_streams; /* such keys do not go out */
    int status;                 /* of the check */
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

/* In place of rdbkit_filter_apply(). That the check fails is told at the end. */
static int verb_twice_key(void *ctx, rdbkit_key *key) {
    struct verb_twice *t = ctx;
    int st = rdbkit_filter_apply(t->filter, key);
    const rdbkit_shape shape = key->type->shape;
    if (st || (t->no_modules && shape == RDBKIT_MODULE) || (t->no_streams && shape == RDBKIT_STREAM))
        return st;
    const rdbkit_visitor *v = rdbkit_check_visitor(t->check);
    if (!t->status) t->status = v->key(v->user, key);
    return st;
}

/* At the end of an input: whether keys have become one, and which. */
static int verb_twice_judge(struct cli *c, struct cli_source *src) {
    struct verb_confirm f;
    struct verb_twice *t = c->twice;
    const int64_t found = t->status ? t->status : rdbkit_check_finish(t->check);
    if (t->file.sys_errno) return verb_spill_failed(c, &t->file);
    if (found < 0) return cli_fail_errno(c, NULL, ENOMEM);
    if (found == 0) return CLI_OK;
    const int code = verb_confirm_read(src, t->check, &f);
    if (code != CLI_OK) return verb_confirm_free(&f), code;
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
    verb_confirm_free(&f);
    if ((uint64_t)found > f.n)
        cli_say(c, src->name, "%" PRIu64 " more that become one", (uint64_t)found - f.n);
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
    char byte = 0;
    if (cli_source_header(src).rdb_version < 5 || (src->head[0] == 0x1f && src->head[1] == 0x8b)) return 0;
    if (src->size < 18) return 1;
    return cli_source_at(src, &byte, 1, src->size - 9) != 0 || (unsigned char)byte != 255;
}

static int verb_resp_scan_pays(const struct cli_source *src, const rdbkit_resp_options *options) {
    return verb_resp_odd_end(src) || (!options->allow_loss && verb_resp_loss_possible(src, options->target));
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

static const rdbkit_loss *verb_writer_loss(const void *it, size_t index) {
    return rdbkit_writer_loss(it, index);
}

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
static int verb_judge(struct cli *c, struct cli_source *src, const struct verb_sink *s, int status,
                      int refuse, const struct cli_pass *pass) {
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
static int verb_resp_scan(struct cli *c, struct cli_source *src, const rdbkit_resp_options *options,
                          int report) {
    struct cli_pass pass;
    rdbkit_resp_options dry = *options;
    dry.dry_run = 1;
    if (!report) dry.on_loss = NULL;
    rdbkit_resp *s = rdbkit_resp_new(&dry, cli_out_write, &c->out);
    if (!s) return cli_fail_errno(c, NULL, ENOMEM);
    const struct verb_sink sink = verb_resp_sink(&dry, s);
    int code = CLI_OK, status = verb_pass(c, src, &sink, 1, &pass);
    if (pass.code) code = pass.code;
    else if (pass.tail == CLI_TAIL_AOF) code = cli_judge_tail(c, src, &pass);
    else if (status == RDBKIT_ERR_IO) code = cli_fail(c, src->name, &pass.error);
    else if (!options->allow_loss && !report && verb_loss_count(&sink)) code = verb_refuse(c, src, &sink, 0);
    rdbkit_resp_free(s);
    if (pass.code) return code;
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
    int code =
        file->sys_errno ? verb_spill_failed(c, file) : verb_judge(c, src, &sink, status, refuse, &pass);
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
    const int scan = !file && (src->kind != CLI_IN_RDB ? !options.allow_loss
                                                       : src->seekable && verb_resp_scan_pays(src, &options));
    int code = scan ? verb_resp_scan(c, src, &options, 0) : CLI_OK;
    if (file) options.allow_loss = 1;
    if (!code) code = verb_resp_run(c, src, &options, refuse);
    if (spill_file.fd >= 0) (void)close(spill_file.fd);
    return code;
}

/* ---- convert and filter ------------------------------------------------------------------------------- */

/* What both make: an RDB file, for a target or as the input was. */
static int verb_write(struct cli *c, struct cli_source *src, const rdbkit_target *target, int aof_base) {
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
    options.aof_base = aof_base;
    if (cli_has(c, CLI_O_LOSS_REPORT)) options.on_loss = verb_loss_report, options.on_loss_ctx = &c->report;
    /* Output into a file can be taken back at the end, so that every loss is listed. */
    const int allowed = cli_has(c, CLI_O_ALLOW_LOSS), file_out = c->out.path != NULL;
    options.allow_loss = allowed || file_out;
    rdbkit_writer *w = rdbkit_writer_new(&options, cli_out_write, &c->out);
    if (!w) return cli_fail_errno(c, NULL, ENOMEM);
    const struct verb_sink sink = {target ? target->name : "the output", rdbkit_writer_visitor(w),
                                   verb_writer_loss, w, 0};
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

/* Whether convert makes an append-only file, and of a directory of them. */
static int verb_wants_log(const struct cli *c) {
    const char *format = c->o.text[CLI_O_TO_FORMAT];
    return format && strcmp(format, "aof") == 0;
}

/* Commands as a server's own rewrite has them, into c->out. */
static int verb_rewrite(struct cli *c, struct cli_source *src, const rdbkit_target *target) {
    struct verb_spill file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &file, verb_spill_reset};
    rdbkit_resp_options options;
    rdbkit_resp_options_init(&options);
    options.target = target;
    options.spill = &spill;
    options.rewrite = 1;
    options.drop_modules = cli_has(c, CLI_O_DROP_MODULES);
    options.drop_functions = cli_has(c, CLI_O_DROP_FUNCTIONS);
    if (cli_has(c, CLI_O_LOSS_REPORT)) options.on_loss = verb_loss_report, options.on_loss_ctx = &c->report;
    const int allowed = cli_has(c, CLI_O_ALLOW_LOSS), file_out = c->out.path != NULL;
    options.allow_loss = allowed || file_out;
    const int code = verb_resp_run(c, src, &options, file_out && !allowed);
    if (file.fd >= 0) (void)close(file.fd);
    return code;
}

static int verb_base(struct cli *c, struct cli_source *src, const rdbkit_target *target, int commands) {
    return commands ? verb_rewrite(c, src, target) : verb_write(c, src, target, 1);
}

/* A line of the manifest that is being written. */
static void verb_manifest_line(struct cli_out *out, const char *name, size_t name_len, int64_t number,
                               char type) {
    char line[RDBKIT_MANIFEST_LINE_MAX];
    const rdbkit_manifest_file file = {{name, name_len}, number, type, -1, -1, 0};
    const int len = rdbkit_manifest_line(line, sizeof line, &file);
    if (len > 0) cli_put(out, line, (size_t)len);
}

/* The files of a directory as a server's rewrite leaves them: base, an empty increment, manifest. */
static int verb_write_dir(struct cli *c, struct cli_source *src, const rdbkit_target *target, int commands) {
    static const char incr[] = "appendonly.aof.1.incr.aof", manifest[] = "appendonly.aof.manifest";
    const char *base = commands ? "appendonly.aof.1.base.aof" : "appendonly.aof.1.base.rdb";
    int code = cli_dir_file(c, base);
    c->out.path = c->dir.path; /* it can be taken back */
    if (code == CLI_OK) code = verb_base(c, src, target, commands);
    c->out.path = NULL;
    if (code == CLI_OK) code = cli_dir_file_end(c);
    if (code == CLI_OK) code = cli_dir_file(c, incr);
    if (code == CLI_OK) code = cli_dir_file_end(c);
    if (code == CLI_OK) code = cli_dir_file(c, manifest);
    if (code == CLI_OK) {
        verb_manifest_line(&c->out, base, strlen(base), 1, 'b');
        verb_manifest_line(&c->out, incr, sizeof incr - 1, 1, 'i');
        code = cli_dir_file_end(c);
    }
    return code;
}

static int verb_convert(struct cli *c, struct cli_source *src) {
    const rdbkit_target *target = rdbkit_target_find(verb_target_name(c));
    if (!verb_wants_log(c)) return verb_write(c, src, target, 0);
    /* 4.0 writes commands alone by default */
    const int commands = cli_has(c, CLI_O_NO_PREAMBLE) || target->rdb_version < 9;
    return c->dir.path ? verb_write_dir(c, src, target, commands) : verb_base(c, src, target, commands);
}

/* The same kind out. An append-only file is replayed: what comes out is its result, as a rewrite of it would be. */
static int verb_filter_file(struct cli *c, struct cli_source *src) {
    const char *output = c->o.text[CLI_O_OUTPUT];
    if (src->kind == CLI_IN_MANIFEST) {
        const int code = cli_dir_open(c, output);
        if (code != CLI_OK) return code;
    } else {
        const int code = cli_out_open(c, &c->out, cli_temp_name[0], output);
        if (code != CLI_OK) return code;
    }
    if (src->kind == CLI_IN_RDB) return verb_write(c, src, NULL, 0);
    const int code = cli_log_load(src);
    if (code != CLI_OK) return code;
    const int commands = src->header.rdb_version == 0;
    /* commands without an image do not say who wrote them: those of the newest that has this kind of file */
    const rdbkit_target *target =
        commands ? rdbkit_target_find(c->dir.path ? "redis-8.0" : "redis-6.2") : NULL;
    return c->dir.path ? verb_write_dir(c, src, target, commands) : verb_base(c, src, target, commands);
}

/* ---- repair ------------------------------------------------------------------------------------------- */

/* A file that is copied up to where it can be cut. */
struct verb_cut {
    struct cli *c;
    struct cli_source *src;
    const char *path;
    rdbkit_aof *aof;
    int64_t until_s;    /* or INT64_MAX */
    uint64_t stop_off;  /* of the first later timestamp, or RDBKIT_NO_OFFSET */
    uint64_t wrong_off; /* of a command with a wrong number of arguments, or RDBKIT_NO_OFFSET */
    uint64_t stamps;    /* timestamps in all files */
    char *data;         /* read, and not written yet: from base_off on */
    size_t len, cap;
    uint64_t base_off;
    uint64_t size; /* bytes read */
    int done;      /* the log ends in this file: what follows is lost */
};

/* Servers stop at a wrong number of arguments. */
static int verb_cut_command(void *user, const rdbkit_command *command) {
    struct verb_cut *t = user;
    if (rdbkit_command_check(command) != RDBKIT_ERR_DAMAGED) return RDBKIT_OK;
    t->wrong_off = command->offset;
    return RDBKIT_ERR_STOPPED;
}

static int verb_cut_annotation(void *user, rdbkit_str text, uint64_t offset) {
    struct verb_cut *t = user;
    char number[24] = "";
    if (text.len <= 3 || memcmp(text.data, "TS:", 3) != 0) return RDBKIT_OK;
    t->stamps++;
    memcpy(number, text.data + 3, text.len - 3 < sizeof number ? text.len - 3 : sizeof number - 1);
    if (strtoll(number, NULL, 10) <= t->until_s) return RDBKIT_OK;
    t->stop_off = offset;
    return RDBKIT_ERR_STOPPED;
}

/* Write what is certain by now. While an image is read, all of it: a damaged one takes the output back. */
static void verb_cut_flush(struct verb_cut *t) {
    const rdbkit_aof_state *s = rdbkit_aof_progress(t->aof);
    const int image = s->has_rdb && s->rdb_end == RDBKIT_NO_OFFSET;
    const uint64_t to = image ? rdbkit_aof_offset(t->aof) : s->good_off;
    if (to <= t->base_off) return;
    const size_t n = (size_t)(to - t->base_off);
    cli_put(&t->c->out, t->data, n);
    t->len -= n;
    if (t->len) memmove(t->data, t->data + n, t->len);
    t->base_off = to;
}

static int verb_cut_keep(struct verb_cut *t, const void *data, size_t len) {
    if (len > t->cap - t->len) {
        const size_t cap = t->len + len > t->cap * 2 ? t->len + len : t->cap * 2;
        char *to = realloc(t->data, cap);
        if (!to) return RDBKIT_ERR_NOMEM;
        t->data = to, t->cap = cap;
    }
    memcpy(t->data + t->len, data, len);
    t->len += len;
    t->size += len;
    return RDBKIT_OK;
}

/* Read on to the end, for the count of what is lost. Of bytes that cannot be decompressed nobody knows how many. */
static int verb_cut_drain(struct verb_cut *t, rdbkit_input *in) {
    const void *data;
    size_t len;
    int st;
    while ((st = rdbkit_input_rest(in, &data, &len)) == RDBKIT_OK) t->size += len;
    return st == RDBKIT_ERR_IO || st == RDBKIT_ERR_NOMEM ? cli_source_fail(t->src, t->path, st) : CLI_OK;
}

static int verb_cut_run(struct verb_cut *t, rdbkit_input *in) {
    const void *data = NULL;
    size_t len = 0;
    int st, status = RDBKIT_MORE;
    while (status == RDBKIT_MORE && !t->c->out.sys_errno &&
           (st = rdbkit_input_rest(in, &data, &len)) == RDBKIT_OK) {
        status = verb_cut_keep(t, data, len);
        if (status == RDBKIT_OK) status = rdbkit_aof_feed(t->aof, data, len);
        verb_cut_flush(t);
    }
    if (status != RDBKIT_MORE || t->c->out.sys_errno) return status;
    if (st != RDBKIT_DONE) return st;
    status = rdbkit_aof_finish(t->aof);
    verb_cut_flush(t);
    return status;
}

static int verb_cut_say(struct verb_cut *t, int status) {
    struct cli *c = t->c;
    const rdbkit_aof_state *s = rdbkit_aof_progress(t->aof);
    const rdbkit_error *e = rdbkit_aof_error(t->aof);
    if (status == RDBKIT_DONE) {
        if (!cli_has(c, CLI_O_QUIET))
            cli_say(c, t->path, "sound: %" PRIu64 " commands kept, all %" PRIu64 " bytes", s->commands,
                    t->size);
        return CLI_OK;
    }
    if (t->stop_off != RDBKIT_NO_OFFSET)
        cli_say(c, t->path, "cut at %" PRIu64 ", before the first later timestamp", t->base_off);
    else if (t->wrong_off != RDBKIT_NO_OFFSET)
        cli_say(c, t->path, "cut at %" PRIu64 ": a command with a wrong number of arguments at %" PRIu64,
                t->base_off, t->wrong_off);
    else if (verb_is_damage(status)) cli_say(c, t->path, "cut at %" PRIu64 ": %s", t->base_off, e->message);
    else return cli_fail(c, t->path, e->code ? e : &(rdbkit_error){.code = status});
    if (t->size > t->base_off)
        cli_say(c, t->path, "%" PRIu64 " bytes behind the cut are lost", t->size - t->base_off);
    t->done = 1;
    return CLI_OK;
}

static int verb_until(struct cli *c, int64_t *until_s) {
    const char *text = c->o.text[CLI_O_UNTIL], *p = text;
    uint64_t n;
    *until_s = INT64_MAX;
    if (!text) return CLI_OK;
    if (!verb_filter_number(&p, &n) || *p || n > INT64_MAX)
        return verb_filter_bad(c, CLI_O_UNTIL, text, "unix time in seconds, as in 1735689600");
    *until_s = (int64_t)n;
    return CLI_OK;
}

/* Copy a file to c->out as far as it is good. start_off: what of it was written already, as an image of its own. */
static int verb_cut_file(struct verb_cut *t, const char *path, rdbkit_input *in) {
    const rdbkit_aof_visitor v = {.user = t, .command = verb_cut_command, .annotation = verb_cut_annotation};
    rdbkit_aof_options options;
    rdbkit_aof_options_init(&options);
    options.strict = 1;
    options.rdb.ignore_checksum = cli_has(t->c, CLI_O_IGNORE_SUM);
    t->path = path;
    t->stop_off = t->wrong_off = RDBKIT_NO_OFFSET;
    t->base_off = t->size = t->len = 0;
    t->aof = rdbkit_aof_new(&options, &v);
    if (!t->aof) return cli_fail_errno(t->c, NULL, ENOMEM);
    const int status = verb_cut_run(t, in);
    cli_progress_clear(t->src);
    const rdbkit_aof_state *s = rdbkit_aof_progress(t->aof);
    int code;
    if (t->c->out.sys_errno) code = CLI_IO;
    else if (status < 0 && s->has_rdb && s->rdb_end == RDBKIT_NO_OFFSET && verb_is_damage(status))
        code = CLI_BAD;
    else {
        code = status != RDBKIT_DONE ? verb_cut_drain(t, in) : CLI_OK;
        if (code == CLI_OK) code = verb_cut_say(t, status);
    }
    if (code == CLI_BAD) cli_say(t->c, path, "%s", rdbkit_aof_error(t->aof)->message);
    rdbkit_aof_free(t->aof);
    t->aof = NULL;
    return code;
}

struct verb_salvage {
    struct cli *c;
    const char *path;
};

static int verb_salvage_lost(void *ctx, const rdbkit_lost *lost) {
    const struct verb_salvage *v = ctx;
    struct cli_out *err = &v->c->err;
    cli_puts(err, "rdbkit: ");
    cli_puts(err, v->path);
    cli_printf(err, ": at %" PRIu64 ": key lost: ", lost->key->offset);
    cli_put_quoted(err, lost->key->name);
    cli_printf(err, " db %" PRIu64 ": %s\n", lost->key->db, lost->reason);
    cli_out_flush(err);
    return RDBKIT_OK;
}

static int verb_salvage_say(struct cli *c, const char *path, const rdbkit_salvage *s, int status,
                            const rdbkit_error *e) {
    const uint64_t kept = rdbkit_salvage_kept(s), lost = rdbkit_salvage_lost(s);
    if (status < 0 && !verb_is_damage(status) && status != RDBKIT_ERR_UNSUPPORTED)
        return cli_fail(c, path, e);
    if (status == RDBKIT_ERR_CHECKSUM)
        cli_say(c, path, "%s: a value that was kept may be another than it was", e->message);
    else if (status < 0) cli_say(c, path, "%s: nothing behind that can be found", e->message);
    if (status < 0 || lost)
        cli_say(c, path, "%" PRIu64 " keys kept, %" PRIu64 " keys lost%s", kept, lost,
                status < 0 && status != RDBKIT_ERR_CHECKSUM ? ", and what follows the damage" : "");
    else if (!cli_has(c, CLI_O_QUIET)) cli_say(c, path, "sound: all %" PRIu64 " keys kept", kept);
    return CLI_OK;
}

/* Write what can be read of an RDB to c->out. *whole: its end was found, and what follows it is left in the input. */
static int verb_salvage_rdb(struct cli *c, const char *path, rdbkit_input *in, int aof_base, int *whole) {
    struct verb_spill file = {-1, 0};
    const rdbkit_spill spill = {verb_spill_write, verb_spill_read, &file, verb_spill_reset};
    struct verb_salvage user = {c, path};
    rdbkit_writer_options options;
    rdbkit_reader_options reader_options;
    rdbkit_writer_options_init(&options);
    options.target = NULL;
    options.spill = &spill;
    options.allow_loss = 1;
    options.aof_base = aof_base;
    rdbkit_reader_options_init(&reader_options);
    reader_options.ignore_checksum =
        aof_base || cli_has(c, CLI_O_IGNORE_SUM); /* of an image it was looked at before */
    rdbkit_writer *w = rdbkit_writer_new(&options, cli_out_write, &c->out);
    rdbkit_salvage *s =
        w ? rdbkit_salvage_new(NULL, rdbkit_writer_visitor(w), verb_salvage_lost, &user) : NULL;
    rdbkit_reader *r = s ? rdbkit_reader_new(&reader_options, rdbkit_salvage_visitor(s)) : NULL;
    int code;
    if (r) {
        const rdbkit_visitor *to = rdbkit_writer_visitor(w);
        const int status = rdbkit_reader_pull(r, in);
        *whole = status == RDBKIT_DONE || status == RDBKIT_ERR_CHECKSUM;
        if (status < 0 && rdbkit_reader_offset(r) < 9) { /* not even a header */
            code = cli_fail(c, path, rdbkit_reader_error(r));
        } else {
            code = verb_salvage_say(c, path, s, status, rdbkit_reader_error(r));
            if (code == CLI_OK && status != RDBKIT_DONE && to->end(to->user, 0) < 0) code = CLI_IO;
        }
    } else {
        code = cli_fail_errno(c, NULL, ENOMEM);
    }
    if (file.sys_errno) code = verb_spill_failed(c, &file);
    rdbkit_reader_free(r);
    rdbkit_salvage_free(s);
    rdbkit_writer_free(w);
    if (file.fd >= 0) (void)close(file.fd);
    return code;
}

/* A file whose RDB image is damaged, from its start again: what can be saved of the image, then the commands, if the
 * end of the image can be found. */
static int verb_cut_image(struct verb_cut *t, const char *path, rdbkit_input *in) {
    int whole = 0;
    int code = verb_salvage_rdb(t->c, path, in, 1, &whole);
    if (code != CLI_OK) return code;
    if (whole) return verb_cut_file(t, path, in);
    cli_say(t->c, path, "the commands behind the image are lost");
    t->done = 1;
    return CLI_OK;
}

/* Begin the output once more. */
static int verb_out_restart(struct cli *c) {
    struct cli_out *out = &c->out;
    out->len = 0;
    if (ftruncate(out->fd, 0) == 0 && lseek(out->fd, 0, SEEK_SET) == 0) return CLI_OK;
    return cli_fail_errno(c, out->name, errno);
}

static int verb_cut_reopen(struct verb_cut *t, const char *path) {
    struct cli_source *src = t->src;
    int code = verb_out_restart(t->c);
    if (code != CLI_OK) return code;
    if (lseek(src->fd, (off_t)src->start, SEEK_SET) < 0) {
        if (errno != ESPIPE) return cli_fail_errno(t->c, path, errno);
        cli_hint(t->c, "a damaged image can be saved from a file, not from a pipe");
        return CLI_BAD;
    }
    src->head_len = src->head_off = 0;
    rdbkit_input *in = rdbkit_input_new(NULL, cli_source_read, src);
    code = in ? verb_cut_image(t, path, in) : cli_fail_errno(t->c, NULL, ENOMEM);
    rdbkit_input_free(in);
    return code;
}

static int verb_cut_any(struct verb_cut *t, const char *path, rdbkit_input *in) {
    const int code = verb_cut_file(t, path, in);
    return code == CLI_BAD ? verb_cut_reopen(t, path) : code;
}

/* Who asks for a moment must not get all of it because nothing in the file tells the time. */
static int verb_until_done(const struct verb_cut *t) {
    if (t->until_s == INT64_MAX || t->stamps) return CLI_OK;
    cli_say(t->c, t->src->name, "there are no timestamps in it: --until-timestamp cannot be answered");
    cli_hint(t->c, "servers from 7.0 on write them with aof-timestamp-enabled yes");
    return CLI_REFUSED;
}

/* The files of a directory, and the manifest of those that were written. */
struct verb_cut_dir {
    struct verb_cut cut;
    char *manifest;
    size_t len, cap;
};

static int verb_cut_listed(struct verb_cut_dir *d, const rdbkit_manifest_file *file) {
    if (d->cap - d->len < RDBKIT_MANIFEST_LINE_MAX) {
        d->cap = d->cap * 2 + RDBKIT_MANIFEST_LINE_MAX;
        char *to = realloc(d->manifest, d->cap);
        if (!to) return cli_fail_errno(d->cut.c, NULL, ENOMEM);
        d->manifest = to;
    }
    const int n = rdbkit_manifest_line(d->manifest + d->len, d->cap - d->len, file);
    if (n > 0) d->len += (size_t)n;
    return CLI_OK;
}

/* A cli_log_fn. */
static int verb_cut_part(void *ctx, const char *path, const rdbkit_manifest_file *file, rdbkit_input *in) {
    struct verb_cut_dir *d = ctx;
    struct cli *c = d->cut.c;
    if (d->cut.done) {
        cli_say(c, path, "left out: it comes after the cut");
        return CLI_OK;
    }
    int code = cli_dir_file(c, file->name.data);
    d->cut.src->start = 0;
    if (code == CLI_OK) code = verb_cut_any(&d->cut, path, in);
    if (code == CLI_OK) code = cli_dir_file_end(c);
    return code == CLI_OK ? verb_cut_listed(d, file) : code;
}

/* The name of the manifest itself. */
static const char *verb_manifest_name(const struct cli_source *src) {
    const char *slash = strrchr(src->manifest_path, '/');
    return slash ? slash + 1 : src->manifest_path;
}

static int verb_repair_dir(struct cli *c, struct cli_source *src, int64_t until_s) {
    struct verb_cut_dir d = {.cut = {.c = c, .src = src, .until_s = until_s}};
    int code = cli_dir_open(c, c->o.text[CLI_O_OUTPUT]);
    if (code == CLI_OK) code = cli_log_walk(c, src, verb_cut_part, &d);
    if (code == CLI_OK) code = verb_until_done(&d.cut);
    if (code == CLI_OK) code = cli_dir_file(c, verb_manifest_name(src));
    if (code == CLI_OK) {
        cli_put(&c->out, d.manifest ? d.manifest : "", d.len);
        code = cli_dir_file_end(c);
    }
    free(d.cut.data);
    free(d.manifest);
    return code;
}

/* A cli_log_fn. */
static int verb_cut_single(void *ctx, const char *path, const rdbkit_manifest_file *file, rdbkit_input *in) {
    (void)file;
    return verb_cut_any(ctx, path, in);
}

static int verb_repair_aof(struct cli *c, struct cli_source *src, int64_t until_s) {
    struct verb_cut t = {.c = c, .src = src, .until_s = until_s};
    int code = cli_log_walk(c, src, verb_cut_single, &t);
    if (code == CLI_OK) code = verb_until_done(&t);
    free(t.data);
    return code;
}

static int verb_skip(void *user, const rdbkit_key *key) {
    (void)user, (void)key;
    return RDBKIT_SKIP_KEY;
}

/* Whether commands follow an RDB that does not say so: then it is an append-only file. */
static int verb_has_commands(struct cli *c, struct cli_source *src, int *has) {
    struct cli_pass pass;
    rdbkit_reader_options options;
    rdbkit_visitor v = {0};
    *has = 0;
    if (!src->seekable) return CLI_OK;
    rdbkit_reader_options_init(&options);
    options.ignore_checksum = 1;
    v.key = verb_skip;
    const int status = cli_read(src, &options, &v, &pass);
    *has = pass.tail == CLI_TAIL_AOF;
    if (status == RDBKIT_ERR_IO || status == RDBKIT_ERR_NOMEM) return cli_fail(c, src->name, &pass.error);
    return cli_source_rewind(src) ? CLI_OK : cli_fail_errno(c, src->name, errno);
}

static int verb_repair_rdb(struct cli *c, struct cli_source *src) {
    rdbkit_input *in = rdbkit_input_new(NULL, cli_source_read, src);
    int whole = 0;
    int code = in ? verb_salvage_rdb(c, src->name, in, 0, &whole) : cli_fail_errno(c, NULL, ENOMEM);
    const void *data;
    size_t len;
    cli_progress_clear(src);
    const int st = code == CLI_OK && whole ? rdbkit_input_rest(in, &data, &len) : RDBKIT_DONE;
    if (st == RDBKIT_ERR_IO || st == RDBKIT_ERR_NOMEM) code = cli_source_fail(src, src->name, st);
    else if (st != RDBKIT_DONE) cli_say(c, src->name, "bytes behind the end of the RDB are left out");
    rdbkit_input_free(in);
    return code;
}

/* Whether the output is the input itself: refused. one: what it is. */
static int verb_not_in_place(struct cli *c, const struct cli_source *src, const char *input,
                             const char *one) {
    const char *output = c->o.text[CLI_O_OUTPUT];
    struct stat x, y;
    if (stat(output, &x) != 0) return errno == ENOENT ? CLI_OK : cli_fail_errno(c, output, errno);
    if (stat(input, &y) != 0) return errno == ENOENT ? CLI_OK : cli_fail_errno(c, input, errno);
    if (!S_ISREG(x.st_mode) && !S_ISDIR(x.st_mode)) return CLI_OK;
    if (x.st_dev != y.st_dev || x.st_ino != y.st_ino) return CLI_OK;
    cli_say(c, src->name, "repair never writes in place: -o has to name another %s", one);
    return CLI_REFUSED;
}

static int verb_repair(struct cli *c, struct cli_source *src) {
    int64_t until_s;
    int code = verb_until(c, &until_s);
    if (code != CLI_OK) return code;
    if (src->kind == CLI_IN_MANIFEST) {
        code = verb_not_in_place(c, src, src->dir[0] ? src->dir : ".", "directory");
        return code == CLI_OK ? verb_repair_dir(c, src, until_s) : code;
    }
    if (src->kind == CLI_IN_RDB) {
        int has;
        code = verb_has_commands(c, src, &has);
        if (code != CLI_OK) return code;
        if (has) src->kind = CLI_IN_AOF;
    }
    if (src->kind == CLI_IN_RDB && cli_has(c, CLI_O_UNTIL)) {
        cli_say(c, src->name, "--until-timestamp is for append-only files, and this is an RDB");
        return CLI_USAGE;
    }
    code = verb_not_in_place(c, src, src->name, "file");
    if (code == CLI_OK) code = cli_out_open(c, &c->out, cli_temp_name[0], c->o.text[CLI_O_OUTPUT]);
    if (code != CLI_OK) return code;
    return src->kind == CLI_IN_RDB ? verb_repair_rdb(c, src) : verb_repair_aof(c, src, until_s);
}

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

/* ==== [48] main_ : command line: help, parsing, main ====
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
    {"convert", CLI_V_CONVERT, verb_convert, 1, "FILE", "an RDB or append-only file that the target loads",
     "Makes an RDB file for another server, older or newer, or with --format aof an\n"
     "append-only file. What the target loads as it is goes through unchanged, the rest is\n"
     "encoded as that server would; an append-only file is replayed. Without -o the file is in\n"
     "the current folder and named after input and target. What the target cannot hold is\n"
     "never dropped silently: without --allow-loss the work is refused.",
     "rdbkit convert --to redis-4.0 dump.rdb"},
    {"to-resp", CLI_V_TO_RESP, verb_to_resp, 1, "FILE", "commands for redis-cli --pipe",
     "Turns an RDB or append-only file into commands of the Redis protocol, as fast as a server takes them. "
     "What the target "
     "cannot\n"
     "hold is never dropped silently: without --allow-loss the work is refused, and what would be lost is "
     "listed.",
     "rdbkit to-resp --to valkey-8 dump.rdb | redis-cli --pipe"},
    {"to-json", CLI_V_TO_JSON, verb_to_json, 1, "FILE", "lossless JSON",
     "Prints everything that the file holds as JSON: an array of records, one for each key, that can be read "
     "back to the\n"
     "last byte. docs/json.md has the format.",
     "rdbkit to-json --lines dump.rdb | jq -r .key"},
    {"filter", CLI_V_FILTER_FILE, verb_filter_file, 1, "FILE",
     "a file of the same kind and version, with chosen keys",
     "Copies the keys that the options choose, in the version and form of the input: of an append-only file "
     "what it comes\n"
     "to, as a rewrite of it would be. Needs -o.",
     "rdbkit filter -k 'user:*' -o users.rdb dump.rdb"},
    {"repair", CLI_V_REPAIR, verb_repair, 1, "FILE", "save what can be read of a damaged file",
     "Writes a sound file, never in place, and says what is lost. An append-only file is cut behind its last "
     "complete\n"
     "command outside of a transaction, in whichever file of a directory that is. Of an RDB every sound key "
     "is kept:\n"
     "a damaged value costs its own key where the next one can be found. Needs -o.",
     "rdbkit repair -o sound.aof appendonly.aof"},
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
    cli_puts(
        out,
        "usage: rdbkit VERB [options] FILE...\n\n"
        "Reads RDB files, append-only files and append-only directories of Redis and Valkey, plain or in\n"
        "gzip; - is standard input.\n\n");
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
            size_t best =
                main_min(diagonal + (given[i - 1] != name[j - 1]), main_min(row[j], row[j - 1]) + 1);
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

/* Whether convert makes a directory. */
static int main_log_target(const struct cli *c) {
    return verb_wants_log(c) && cli_is_multi_part(rdbkit_target_find(verb_target_name(c)));
}

/* Where the output of convert goes if nobody says: the current folder, named after input and target. */
static const char *main_convert_name(struct cli *c) {
    const char *in = c->o.inputs[0], *slash = strrchr(in, '/');
    const char *to = verb_target_name(c);
    static const char *const ends[] = {".gz", ".rdb", ".aof", ".manifest"};
    if (strcmp(in, "-") == 0) in = "dump";
    else if (slash && slash[1]) in = slash + 1;
    size_t len = strlen(in), size = len + strlen(to) + 9;
    while (len > 1 && in[len - 1] == '/') len--;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const size_t n = strlen(ends[i]);
        if (len > n && strncmp(in + len - n, ends[i], n) == 0) len -= n;
    }
    c->o.made_name = malloc(size);
    const char *end = !verb_wants_log(c) ? "rdb" : main_log_target(c) ? "aofdir" : "aof";
    if (c->o.made_name) (void)snprintf(c->o.made_name, size, "%.*s.%s.%s", (int)len, in, to, end);
    return c->o.made_name;
}

/* Options of convert that say nothing together. */
static int main_format_ok(struct cli *c) {
    const char *format = c->o.text[CLI_O_TO_FORMAT];
    if (format && strcmp(format, "rdb") != 0 && strcmp(format, "aof") != 0) {
        cli_say(c, NULL, "--format: %.200s: rdb or aof wanted", format);
        return 0;
    }
    if (cli_has(c, CLI_O_NO_PREAMBLE) && !verb_wants_log(c)) {
        cli_say(c, NULL, "--no-preamble says nothing without --format aof");
        return 0;
    }
    return 1;
}

static int main_outputs_open(struct cli *c, const struct main_verb *verb) {
    const char *report = c->o.text[CLI_O_LOSS_REPORT], *output = c->o.text[CLI_O_OUTPUT];
    if (!output && verb->bit == CLI_V_CONVERT && !(output = main_convert_name(c)))
        return cli_fail_errno(c, NULL, ENOMEM);
    if (!output && (verb->bit & (CLI_V_FILTER_FILE | CLI_V_REPAIR))) {
        cli_say(c, NULL, "%s needs -o FILE; -o - is standard output", verb->name);
        return CLI_USAGE;
    }
    int code = CLI_OK;
    if (verb->bit == CLI_V_CONVERT && main_log_target(c)) code = cli_dir_open(c, output);
    else if (!(verb->bit & (CLI_V_FILTER_FILE | CLI_V_REPAIR)))
        code = cli_out_open(c, &c->out, cli_temp_name[0], output);
    if (code || !report) return code;
    if (strcmp(report, "-") == 0) {
        cli_say(c, NULL, "--loss-report needs the name of a file: standard output is for data");
        return CLI_USAGE;
    }
    return cli_out_open(c, &c->report, cli_temp_name[1], report);
}

/* Run a verb on each input. The exit code is the highest of all. */
static int main_run(struct cli *c, const struct main_verb *verb) {
    int worst = main_format_ok(c) ? verb_filter(c, &c->filter) : CLI_USAGE;
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
    const int tells = opened && (worst <= CLI_NO || worst == CLI_REFUSED);
    const int reported = cli_out_close(c, &c->report, tells);
    const int written = cli_out_close(c, &c->out, worst <= CLI_NO && reported == CLI_OK);
    if (reported > worst) worst = reported;
    if (written > worst) worst = written;
    const int renamed = cli_dir_close(c, worst <= CLI_NO);
    return renamed > worst ? renamed : worst;
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
    (void)sigaction(SIGXFSZ, &ignore, NULL); /* and so is a limit of file sizes */
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
