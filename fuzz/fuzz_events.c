/* fuzz_events.c - RDB out, from nothing: events that a program of bytes makes up, in the order that rdbkit.h allows,
 * go to the writer; what it writes has to be sound, and to say the same.
 *
 * Option bytes: target; flags (1 no_compress, 2 spill, 4 base of an append-only file, 8 small numbers alone). Then bytes
 * that choose keys and elements.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sum.h"

FUZZ_INPUT(FUZZ_PLAIN)

enum { TEXT_MAX = 20000, KEYS_MAX = 200 };

typedef struct program {
    const uint8_t *data;
    size_t left;
    rdbkit_visitor to[2]; /* the writer, and the sum of what went there */
    int status;
    unsigned keys;
} program;

static unsigned next_byte(program *p) {
    if (!p->left) return 0;
    p->left--;
    return *p->data++;
}

/* To both; of the writer what it answers. Arguments are looked at twice. */
#define TELL(p, event, ...)                                                                       \
    do {                                                                                          \
        if ((p)->status >= 0 && (p)->to[0].event)                                                 \
            (p)->status = (p)->to[0].event((p)->to[0].user, __VA_ARGS__);                         \
        if ((p)->status >= 0 && (p)->to[1].event) (p)->to[1].event((p)->to[1].user, __VA_ARGS__); \
    } while (0)
#define TELL_END(p, event)                                                           \
    do {                                                                             \
        if ((p)->status >= 0) (p)->status = (p)->to[0].event((p)->to[0].user);       \
        if ((p)->status >= 0 && (p)->to[1].event) (p)->to[1].event((p)->to[1].user); \
    } while (0)

/* A text; with number not below 0 one that no other number gives. */
static rdbkit_str make_text(program *p, char *buf, int number) {
    static const unsigned lens[] = {0,   1,   10,  11,  12,  20,   21,   63,   64,    65,   66,
                                    126, 127, 128, 253, 254, 4095, 4096, 8190, 16378, 16379};
    unsigned b = next_byte(p), n = 0, len;
    if (number >= 0) n = (unsigned)snprintf(buf, TEXT_MAX, b & 1 ? "%d:" : "%d", number);
    if (b & 1) {
        len = lens[next_byte(p) % (sizeof lens / sizeof lens[0])];
        for (unsigned i = 0; i < len; i++) buf[n + i] = (char)(b & 2 ? 'x' : b * i ^ i >> 3);
        n += len;
    } else if (number < 0) {
        long long v = (signed char)next_byte(p);
        for (unsigned i = b >> 1 & 7; i; i--) v = (long long)((unsigned long long)v * 256 + next_byte(p));
        n = (unsigned)snprintf(buf, TEXT_MAX, "%lld", v);
    }
    return (rdbkit_str){buf, n};
}

static unsigned make_count(program *p) {
    unsigned b = next_byte(p);
    return b < 200 ? 1 + b % 8 : b < 250 ? 1 + b : 500 + next_byte(p);
}

static int64_t make_time(program *p) {
    unsigned b = next_byte(p);
    static const int64_t times[] = {1, 1700000000000, 281474976710655, 70368744177663};
    return b < 128 ? 1700000000000 + (int64_t)b * 1000 : times[b % 4];
}

static const rdbkit_type *type_of(int number, unsigned lineage) {
    const rdbkit_type *t;
    for (size_t i = 0; (t = rdbkit_type_at(i)); i++)
        if (t->number == number && t->lineage & lineage) return t;
    fuzz_fail("no such type", number, (long long)lineage);
}

static void make_stream(program *p, char *text, char *text2) {
    rdbkit_stream_info info = {0};
    rdbkit_stream_id id = {next_byte(p) % 3, 0};
    unsigned n = next_byte(p) & 1 ? make_count(p) : next_byte(p) % 3, groups = next_byte(p) % 3, names = 1;
    for (unsigned i = 0; i < n && p->status >= 0; i++) {
        unsigned b = next_byte(p);
        if (b & 1) id.ms += b / 16, id.seq += 1 + b / 8;
        else id.ms += 1 + b / 4, id.seq = b & 2 ? 0 : b;
        if (b & 64) names = 1 + next_byte(p) % 3;
        TELL(p, stream_entry, id, names);
        for (unsigned k = 0; k < names; k++) {
            rdbkit_str field = make_text(p, text, b & 32 ? (int)k : -1), value = make_text(p, text2, -1);
            TELL(p, stream_field, field, value);
        }
        if (!i) info.first_id = id;
    }
    info.length = n, info.groups = groups;
    info.last_id = id;
    info.last_id.seq += next_byte(p) % 3;
    info.entries_added = n + next_byte(p) % 4;
    if (info.entries_added > n) info.max_deleted = info.last_id;
    info.has_counters = 1;
    TELL(p, stream_info, &info);
    for (unsigned g = 0; g < groups && p->status >= 0; g++) {
        rdbkit_stream_group group = {make_text(p, text, (int)g), info.last_id, 0, 0, next_byte(p) % 4};
        unsigned each[4] = {0}, at = 0;
        group.entries_read = next_byte(p) & 1 ? (int64_t)info.entries_added : RDBKIT_ENTRIES_READ_UNKNOWN;
        for (unsigned c = 0; c < group.consumers; c++) group.pending += each[c] = next_byte(p) % 5;
        TELL(p, stream_group, &group);
        for (unsigned c = 0; c < group.consumers; c++) {
            rdbkit_stream_consumer consumer = {make_text(p, text, (int)c), make_time(p), -1, each[c]};
            if (next_byte(p) & 1) consumer.active_ms = make_time(p);
            TELL(p, stream_consumer, &consumer);
            for (unsigned k = 0; k < each[c]; k++) {
                rdbkit_stream_pending pending = {{at / 3, 1 + at}, make_time(p), 1 + next_byte(p)};
                at++;
                TELL(p, stream_pending, &pending);
            }
        }
    }
}

static double make_score(program *p) {
    unsigned b = next_byte(p);
    static const double odd[] = {0.1, 1e300, -1.5, 3e-320, 9007199254740993.0, -1e21, 1e21, 123456789.125};
    return b == 255 ? INFINITY : b == 254 ? -INFINITY : b < 200 ? (double)b - 20 : odd[b % 8];
}

static void make_key(program *p) {
    static char text[TEXT_MAX], text2[TEXT_MAX], name[TEXT_MAX];
    static const int numbers[] = {0, 1, 2, 5, 4, 21};
    unsigned shape = next_byte(p) % 6, flags = next_byte(p), n;
    int expiring = shape == RDBKIT_HASH && flags & 1, small = flags & 64;
    rdbkit_key key;
    memset(&key, 0, sizeof key);
    key.name = make_text(p, name, (int)p->keys++);
    key.type = expiring ? type_of(flags & 2 ? 24 : 22, flags & 2 ? RDBKIT_REDIS : RDBKIT_VALKEY)
                        : type_of(numbers[shape], RDBKIT_REDIS);
    key.db = flags >> 2 & 1 ? next_byte(p) % 4u : 0;
    key.expire_ms = flags & 8 ? make_time(p) : RDBKIT_NO_EXPIRY;
    key.idle_s = flags & 16 ? next_byte(p) : RDBKIT_NO_HINT;
    key.lfu_freq = flags & 32 ? next_byte(p) : RDBKIT_NO_HINT;
    TELL(p, key, &key);
    n = shape == RDBKIT_STRING || shape == RDBKIT_STREAM ? 1 : make_count(p);
    for (unsigned i = 0; i < n && p->status >= 0; i++) {
        rdbkit_str s = {"", 0}, v = {"", 0};
        if (shape == RDBKIT_STREAM) {
            make_stream(p, text, text2);
            break;
        }
        if (small && shape != RDBKIT_STRING)
            s = (rdbkit_str){text, (size_t)snprintf(text, sizeof text, "%u", i * 7)};
        else s = make_text(p, text, shape == RDBKIT_STRING || shape == RDBKIT_LIST ? -1 : (int)i);
        double score = shape == RDBKIT_ZSET ? make_score(p) : 0;
        if (shape == RDBKIT_STRING) TELL(p, string, s);
        else if (shape == RDBKIT_LIST) TELL(p, list_item, s);
        else if (shape == RDBKIT_SET) TELL(p, set_member, s);
        else if (shape == RDBKIT_ZSET) TELL(p, zset_member, s, score);
        else {
            v = make_text(p, text2, -1);
            int64_t expire_ms = expiring && next_byte(p) & 1 ? make_time(p) : RDBKIT_NO_EXPIRY;
            TELL(p, hash_field, s, v, expire_ms);
        }
    }
    TELL_END(p, key_end);
}

static void make_other(program *p, unsigned what) {
    char text[64];
    rdbkit_str s = {text, (size_t)snprintf(text, sizeof text, "#!lua name=lib%u\nx", p->keys++)},
               name = {"my-aux", 6}, value = {"1", 1};
    unsigned n = next_byte(p);
    if (what & 1) TELL(p, function, s, 245);
    else if (what & 2) TELL(p, aux, name, value);
    else TELL(p, resize, n, n / 2);
}

/* ---- room for large collections ---- */

static int spill_write(void *ctx, const void *data, size_t len) { return fuzz_keep(ctx, data, len); }

static int spill_read(void *ctx, uint64_t offset, void *data, size_t len) {
    fuzz_bytes *b = ctx;
    if (offset + len > b->len) fuzz_fail("a spill read past its end", (long long)offset, (long long)len);
    memcpy(data, b->data + offset, len);
    return 0;
}

static int spill_reset(void *ctx) {
    ((fuzz_bytes *)ctx)->len = 0;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static program p;
    uint8_t o[4];
    if (size < 4) return 0;
    memcpy(o, data, 4);
    size_t targets = 0;
    while (rdbkit_target_at(targets)) targets++;
    fuzz_bytes out = {NULL, 0}, spilled = {NULL, 0};
    rdbkit_spill spill = {spill_write, spill_read, &spilled, spill_reset};
    rdbkit_writer_options wo;
    rdbkit_writer_options_init(&wo);
    wo.target = rdbkit_target_at(o[0] % targets);
    wo.no_compress = o[1] & 1;
    wo.spill = o[1] & 2 ? &spill : NULL;
    wo.aof_base = o[1] >> 2 & 1;
    rdbkit_writer *w = rdbkit_writer_new(&wo, fuzz_keep, &out);
    if (!w) exit(0);
    sum before = sum_start(0, 0), after = before;
    memset(&p, 0, sizeof p);
    p.data = data + 4, p.left = size - 4;
    p.to[0] = *rdbkit_writer_visitor(w), p.to[1] = sum_visitor(&before);
    while (p.left && p.status >= 0 && p.keys < KEYS_MAX) {
        unsigned what = next_byte(&p);
        if (what < 240) make_key(&p);
        else make_other(&p, what);
    }
    TELL(&p, end, 1);
    if (p.status < 0 && p.status != RDBKIT_ERR_LOSS && p.status != RDBKIT_ERR_IO)
        fuzz_fail("events that the writer does not take", p.status, 0);
    if (p.status >= 0 && !rdbkit_writer_loss(w, 0)) {
        int status = sum_read(&after, out.data, out.len);
        if (status != RDBKIT_DONE) fuzz_fail("what was written cannot be read", status, 0);
        if (before.keys != after.keys || before.all != after.all)
            fuzz_fail("other data than what was told, keys", (long long)before.keys, (long long)after.keys);
    }
    rdbkit_writer_free(w);
    free(out.data);
    free(spilled.data);
    return 0;
}
