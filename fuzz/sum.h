/* sum.h - all events as one number, blind to what a way through a file, a server or commands may change: the order of
 * members and fields, type rows, offsets, hints, aux fields, key counts.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_SUM_H
#define FUZZ_SUM_H

#include "fuzz.h"

#include <math.h>

typedef struct sum {
    uint64_t all, order, keys; /* all: in any order of keys; order: in this one */
    uint64_t name_sum, value;
    int loose;    /* 1: leave out what commands cannot carry: times of consumers */
    int estimate; /* 1: leave out what is estimated while loading a file below RDB 11: counters, active times */
    int modules; /* 1: take module values as the bytes that they are */
    int odd; /* a stream as no server makes it: IDs out of order, an entry without fields; a function that may not load */
    int ended;
    rdbkit_stream_id first, last;
    uint64_t functions, libraries;
    int db;
    char name[64]; /* to show, as what follows */
    size_t name_len;
    const char *shape;
    long long expire_ms;
} sum;

static int sum_show; /* 1: tell of each key, for one who looks at a finding: FUZZ_SHOW in the environment */

static uint64_t sum_mix(uint64_t h, const void *data, size_t len) {
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 1099511628211u;
    return (h ^ len) * 1099511628211u + (h >> 29);
}

static uint64_t sum_mix_str(uint64_t h, rdbkit_str s) { return sum_mix(h, s.data, s.len); }
static uint64_t sum_mix_u64(uint64_t h, uint64_t x) { return sum_mix(h, &x, sizeof x); }

static uint64_t sum_mix_double(uint64_t h, double d) {
    if (isnan(d)) fuzz_fail("NaN", 0, 0);
    if (d == 0) d = 0; /* what is a listpack in a file has no minus zero */
    return sum_mix(h, &d, sizeof d);
}

static int sum_function(void *u, rdbkit_str code, int opcode) {
    sum *s = u;
    (void)opcode;
    const char *head = "#!lua name=", *lf = code.len > 12 ? memchr(code.data, '\n', code.len) : NULL;
    s->odd |= s->functions++ > 0 || !lf ||
              memcmp(code.data, head, 11) != 0; /* or it is one with a name of its own */
    for (const char *p = code.data + 11; !s->odd && p < lf; p++) s->odd = *p < 'a' || *p > 'z';
    s->odd |= lf == code.data + 11;
    s->libraries += sum_mix_str(1, code);
    return 0;
}

/* Commands say 1 for a time before 1970, and the base of an append-only file says 0. */
static uint64_t sum_time_of(int64_t ms) { return ms < 1 && ms != RDBKIT_NO_EXPIRY ? 1 : (uint64_t)ms; }

static int sum_key(void *u, const rdbkit_key *key) {
    sum *s = u;
    s->keys++;
    s->value = 0;
    s->first = s->last = (rdbkit_stream_id){0, 0};
    s->db = (int)key->db, s->expire_ms = key->expire_ms, s->shape = key->type->name;
    s->name_len = key->name.len < sizeof s->name ? key->name.len : sizeof s->name;
    memcpy(s->name, key->name.data, s->name_len);
    s->name_sum = sum_mix_str(11, key->name);
    uint64_t facts[] = {key->db, sum_time_of(key->expire_ms), (uint64_t)key->type->shape};
    s->name_sum = sum_mix(s->name_sum, facts, sizeof facts);
    return s->modules && key->type->shape == RDBKIT_MODULE ? RDBKIT_TAKE_RAW : 0;
}

/* In any pieces. */
static int sum_raw(void *u, const void *data, size_t len) {
    sum *s = u;
    const uint8_t *p = data;
    for (size_t i = 0; i < len && s->modules; i++) s->value = (s->value ^ p[i]) * 1099511628211u;
    return 0;
}

static int sum_string(void *u, rdbkit_str value) {
    sum *s = u;
    s->value = sum_mix_str(s->value, value);
    return 0;
}

static int sum_list_item(void *u, rdbkit_str item) { return sum_string(u, item); }

static int sum_set_member(void *u, rdbkit_str member) {
    sum *s = u;
    s->value += sum_mix_str(3, member);
    return 0;
}

static int sum_zset_member(void *u, rdbkit_str member, double score) {
    sum *s = u;
    s->value += sum_mix_double(sum_mix_str(5, member), score);
    return 0;
}

static int sum_hash_field(void *u, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    sum *s = u;
    s->value += sum_mix_u64(sum_mix_str(sum_mix_str(7, field), value), sum_time_of(expire_ms));
    return 0;
}

static int sum_stream_entry(void *u, rdbkit_stream_id id, uint64_t fields) {
    sum *s = u;
    s->odd |= !fields;
    if (!s->value) s->first = s->last = id;
    else s->odd |= id.ms < s->last.ms || (id.ms == s->last.ms && id.seq <= s->last.seq);
    s->last = id;
    s->value = sum_mix_u64(sum_mix_u64(sum_mix_u64(s->value, id.ms), id.seq), fields);
    return 0;
}

static int sum_stream_field(void *u, rdbkit_str field, rdbkit_str value) {
    sum *s = u;
    s->value = sum_mix_str(sum_mix_str(s->value, field), value);
    return 0;
}

static int sum_stream_info(void *u, const rdbkit_stream_info *i) {
    sum *s = u;
    rdbkit_stream_id first = i->first_id;
    s->odd |= i->max_deleted.ms > i->last_id.ms ||
              (i->max_deleted.ms == i->last_id.ms && i->max_deleted.seq > i->last_id.seq);
    /* XSETID refuses fewer than there are, and takes an int64; and what was deleted had been added */
    s->odd |= i->entries_added < i->length || i->entries_added > INT64_MAX ||
              (i->entries_added == i->length && (i->max_deleted.ms || i->max_deleted.seq));
    s->odd |= first.ms != s->first.ms || first.seq != s->first.seq || i->last_id.ms < s->last.ms ||
              (i->last_id.ms == s->last.ms && i->last_id.seq < s->last.seq);
    uint64_t facts[] = {i->length,         i->last_id.ms,      i->last_id.seq,   first.ms, first.seq,
                        i->max_deleted.ms, i->max_deleted.seq, i->entries_added, i->groups};
    if (sum_show)
        for (size_t k = 0; k < sizeof facts / sizeof facts[0]; k++)
            fprintf(stderr, " %llu", (unsigned long long)facts[k]);
    s->value = sum_mix(s->value, facts, s->estimate ? 5 * sizeof facts[0] : sizeof facts);
    return 0;
}

static int sum_stream_group(void *u, const rdbkit_stream_group *g) {
    sum *s = u;
    s->odd |= g->entries_read < RDBKIT_ENTRIES_READ_UNKNOWN;
    uint64_t facts[] = {g->last_id.ms, g->last_id.seq, s->estimate ? 0 : (uint64_t)g->entries_read,
                        g->pending, g->consumers};
    s->value = sum_mix(sum_mix_str(s->value, g->name), facts, sizeof facts);
    return 0;
}

static int sum_stream_consumer(void *u, const rdbkit_stream_consumer *c) {
    sum *s = u;
    uint64_t facts[] = {s->loose ? 0 : (uint64_t)c->seen_ms,
                        s->loose || s->estimate ? 0 : (uint64_t)c->active_ms, c->pending};
    s->value = sum_mix(sum_mix_str(s->value, c->name), facts, sizeof facts);
    return 0;
}

static int sum_stream_pending(void *u, const rdbkit_stream_pending *p) {
    sum *s = u;
    uint64_t facts[] = {p->id.ms, p->id.seq, (uint64_t)p->delivery_ms, p->delivery_count};
    s->odd |= p->delivery_count > INT64_MAX || p->delivery_ms < 0; /* no command takes it */
    s->value = sum_mix(s->value, facts, sizeof facts);
    return 0;
}

static int sum_key_end(void *u) {
    sum *s = u;
    s->all += sum_mix_u64(s->name_sum, s->value);
    s->order = sum_mix_u64(s->order, s->name_sum);
    if (sum_show)
        fprintf(stderr, "%d.%.*s %s %lld: %016llx\n", s->db, (int)s->name_len, s->name, s->shape,
                s->expire_ms, (unsigned long long)s->value);
    return 0;
}

static int sum_end(void *u, int checksum) {
    sum *s = u;
    (void)checksum;
    s->all = sum_mix_u64(s->all, s->libraries);
    s->ended++;
    return 0;
}

static inline sum sum_start(int loose, int estimate) {
    sum s;
    memset(&s, 0, sizeof s);
    s.loose = loose, s.estimate = estimate;
    sum_show = getenv("FUZZ_SHOW") != NULL;
    return s;
}

/* Valid as long as s. */
static inline rdbkit_visitor sum_visitor(sum *s) {
    rdbkit_visitor v = {0};
    v.user = s;
    v.function = sum_function, v.key = sum_key, v.raw = sum_raw, v.string = sum_string;
    v.list_item = sum_list_item, v.set_member = sum_set_member, v.zset_member = sum_zset_member;
    v.hash_field = sum_hash_field, v.stream_entry = sum_stream_entry, v.stream_field = sum_stream_field;
    v.stream_info = sum_stream_info, v.stream_group = sum_stream_group;
    v.stream_consumer = sum_stream_consumer, v.stream_pending = sum_stream_pending;
    v.key_end = sum_key_end, v.end = sum_end;
    return v;
}

static inline int sum_feed(const rdbkit_visitor *v, const uint8_t *data, size_t len) {
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    ro.deep = 1;
    rdbkit_reader *r = rdbkit_reader_new(&ro, v);
    if (!r) exit(0);
    int st = rdbkit_reader_feed(r, data, len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    if (st < 0 && sum_show) fprintf(stderr, "%s\n", rdbkit_reader_error(r)->message);
    rdbkit_reader_free(r);
    return st;
}

/* What a reader that is as strict as can be finds in an RDB. Returns its status. */
static inline int sum_read(sum *s, const uint8_t *data, size_t len) {
    rdbkit_visitor v = sum_visitor(s);
    return sum_feed(&v, data, len);
}

/* How often a key, field or member stands again in an RDB: then two sums may differ. */
static inline int64_t sum_twice(const uint8_t *data, size_t len) {
    rdbkit_check *c = rdbkit_check_new(NULL, NULL);
    if (!c) exit(0);
    sum_feed(rdbkit_check_visitor(c), data, len);
    int64_t twice = rdbkit_check_finish(c);
    rdbkit_check_free(c);
    return twice;
}

#endif
