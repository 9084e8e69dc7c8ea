/* test_writer.c - RDB out: files made from nothing, for every target, read back.
 *
 * SPDX-License-Identifier: MIT
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../rdbkit.c"

#include "testkit.h"

typedef struct bytes {
    u8 data[1 << 20];
    size_t len;
} bytes;

static int keep(void *ctx, const void *data, size_t len) {
    bytes *b = ctx;
    if (b->len + len > sizeof b->data) return -ENOSPC;
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

static rdbkit_str str(const char *text) {
    rdbkit_str s = {text, strlen(text)};
    return s;
}

static rdbkit_key key_of(const char *name, int type) {
    rdbkit_key k;
    memset(&k, 0, sizeof k);
    k.name = str(name);
    k.type = &fmt_types[type];
    k.expire_ms = RDBKIT_NO_EXPIRY;
    k.idle_s = RDBKIT_NO_HINT;
    k.lfu_freq = RDBKIT_NO_HINT;
    return k;
}

/* What reading a file gives: one text. */
static char seen[1 << 16];

static int see(const char *what, rdbkit_str a, rdbkit_str b) {
    err_add(seen, sizeof seen, "%s %.*s %.*s;", what, (int)a.len, a.data, (int)b.len, b.data);
    return 0;
}

static int see_key(void *user, const rdbkit_key *k) {
    (void)user;
    err_add(seen, sizeof seen, "[%s@%llu ", k->type->name, (unsigned long long)k->db);
    if (k->expire_ms != RDBKIT_NO_EXPIRY) err_add(seen, sizeof seen, "ttl=%lld ", (long long)k->expire_ms);
    return see("key", k->name, str(""));
}

static int see_item(void *user, rdbkit_str s) { return (void)user, see("", s, str("")); }

static int see_member(void *user, rdbkit_str s, double score) {
    char text[40];
    (void)user;
    snprintf(text, sizeof text, "%.17g", score);
    return see("", s, str(text));
}

static int see_field(void *user, rdbkit_str f, rdbkit_str v, int64_t ms) {
    char text[40];
    (void)user;
    snprintf(text, sizeof text, "@%lld", (long long)ms);
    see("", f, v);
    return ms == RDBKIT_NO_EXPIRY ? 0 : see(text, str(""), str(""));
}

static const char *read_back(const bytes *b) {
    rdbkit_visitor v = {0};
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    o.deep = 1;
    v.key = see_key, v.string = see_item, v.list_item = see_item, v.set_member = see_item;
    v.zset_member = see_member, v.hash_field = see_field;
    seen[0] = 0;
    rdbkit_reader *r = rdbkit_reader_new(&o, &v);
    int st = rdbkit_reader_feed(r, b->data, b->len);
    if (st != RDBKIT_DONE) err_add(seen, sizeof seen, "ERROR %d %s", st, rdbkit_reader_error(r)->message);
    rdbkit_reader_free(r);
    return seen;
}

static bytes file;

static rdbkit_writer *writer_for(const char *target, rdbkit_writer_options *o) {
    rdbkit_writer_options standard;
    if (!o) {
        rdbkit_writer_options_init(&standard);
        o = &standard;
    }
    o->target = rdbkit_target_find(target);
    file.len = 0;
    rdbkit_writer *w = rdbkit_writer_new(o, keep, &file);
    assert_non_null(w);
    return w;
}

/* One key with n elements "e0".. of `len` bytes at least, or of integers; returns the name of the type it got. */
static const char *type_of(const char *target, int type, int n, size_t len, int ints) {
    static char name[64];
    char text[2][12000];
    rdbkit_writer *w = writer_for(target, NULL);
    const rdbkit_visitor *v = rdbkit_writer_visitor(w);
    rdbkit_key k = key_of("k", type);
    assert_int_equal(v->key(v->user, &k), RDBKIT_OK);
    for (int i = 0; i < n; i++) {
        snprintf(text[0], sizeof text[0], ints ? "%d" : "e%d", ints ? i * ints : i);
        for (size_t at = strlen(text[0]); !ints && at < len; at++) text[0][at] = 'x', text[0][at + 1] = 0;
        rdbkit_str s = str(text[0]);
        int st = k.type->shape == RDBKIT_LIST  ? v->list_item(v->user, s)
                 : k.type->shape == RDBKIT_SET ? v->set_member(v->user, s)
                 : k.type->shape == RDBKIT_ZSET
                     ? v->zset_member(v->user, s, i / 2.0)
                     : v->hash_field(v->user, s, str("v"), type == FMT_HASH_2 ? 5000 + i : -1);
        assert_int_equal(st, RDBKIT_OK);
    }
    assert_int_equal(v->key_end(v->user), RDBKIT_OK);
    assert_int_equal(v->end(v->user, 0), RDBKIT_OK);
    rdbkit_writer_free(w);
    const char *text_back = read_back(&file);
    assert_null(strstr(text_back, "ERROR"));
    if (sscanf(text_back, "[%63[^@]", name) != 1) strcpy(name, "nothing");
    return name;
}

static void writer_chooses_the_encoding_that_the_server_would(void **state) {
    (void)state;
    static const struct {
        const char *target;
        int type, n;
        size_t len;
        int ints;
        const char *wanted;
    } row[] = {
        {"redis-4.0", FMT_HASH, 512, 64, 0, "hash-ziplist"},
        {"redis-4.0", FMT_HASH, 513, 1, 0, "hash"},
        {"redis-4.0", FMT_HASH, 2, 65, 0, "hash"},
        {"redis-7.0", FMT_HASH, 512, 64, 0, "hash-listpack"},
        {"valkey-8", FMT_HASH, 513, 1, 0, "hash"},
        {"redis-6.2", FMT_ZSET_2, 128, 64, 0, "zset-ziplist"},
        {"redis-6.2", FMT_ZSET_2, 129, 1, 0, "zset-2"},
        {"redis-7.0", FMT_ZSET_2, 128, 64, 0, "zset-listpack"},
        {"redis-7.0", FMT_ZSET_2, 1, 65, 0, "zset-2"},
        {"redis-7.0", FMT_SET, 3, 1, 0, "set"},
        {"redis-7.2", FMT_SET, 128, 64, 0, "set-listpack"},
        {"redis-7.2", FMT_SET, 129, 1, 0, "set"},
        {"redis-7.2", FMT_SET, 1, 65, 0, "set"},
        {"redis-4.0", FMT_SET, 512, 0, 7, "set-intset"},
        {"redis-4.0", FMT_SET, 513, 0, 7, "set"},
        {"valkey-9", FMT_SET, 512, 0, 7, "set-intset"},
        {"redis-6.0", FMT_LIST, 3, 1, 0, "list-quicklist"},
        {"redis-6.0", FMT_LIST, 3, 9000, 0, "list-quicklist"},
        {"redis-7.0", FMT_LIST, 900, 50, 0, "list-quicklist-2"},
        {"redis-8.0", FMT_LIST, 3, 9000, 0, "list-quicklist-2"},
        {"redis-8.0", FMT_HASH_2, 512, 9, 0, "hash-listpack-ex"},
        {"redis-8.0", FMT_HASH_2, 513, 9, 0, "hash-metadata"},
        {"valkey-9", FMT_HASH_2, 3, 9, 0, "hash-2"},
        {"valkey-9", FMT_HASH, 3, 9, 0, "hash-listpack"},
        {"valkey-8", FMT_LIST, 0, 0, 0, "nothing"},
        {"valkey-8", FMT_SET, 0, 0, 0, "nothing"},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        const char *got = type_of(row[i].target, row[i].type, row[i].n, row[i].len, row[i].ints);
        if (strcmp(got, row[i].wanted)) fail_msg("row %zu: %s, %s wanted", i, got, row[i].wanted);
    }
}

static void writer_makes_a_file_from_nothing_that_reads_back(void **state) {
    (void)state;
    for (size_t i = 0; rdbkit_target_at(i); i++) {
        rdbkit_writer *w = writer_for(rdbkit_target_at(i)->name, NULL);
        const rdbkit_visitor *v = rdbkit_writer_visitor(w);
        rdbkit_key s = key_of("s", FMT_STRING), z = key_of("z", FMT_ZSET_2), h = key_of("h", FMT_HASH);
        s.expire_ms = 4102444800000, z.db = 3, h.db = 3;
        assert_int_equal(v->key(v->user, &s), 0);
        assert_int_equal(v->string(v->user, str("12345")), 0);
        assert_int_equal(v->key_end(v->user), 0);
        assert_int_equal(v->key(v->user, &z), 0);
        assert_int_equal(v->zset_member(v->user, str("b"), 2.5), 0);
        assert_int_equal(v->zset_member(v->user, str("a"), -3), 0);
        assert_int_equal(v->zset_member(v->user, str("inf"), (double)INFINITY), 0);
        assert_int_equal(v->key_end(v->user), 0);
        assert_int_equal(v->key(v->user, &h), 0);
        assert_int_equal(v->hash_field(v->user, str("f"), str(""), -1), 0);
        assert_int_equal(v->key_end(v->user), 0);
        assert_int_equal(v->end(v->user, 0), 0);
        rdbkit_writer_free(w);
        const char *zset = i < 4 ? "zset-ziplist" : "zset-listpack",
                   *hash = i < 4 ? "hash-ziplist" : "hash-listpack";
        char want[400];
        snprintf(
            want, sizeof want,
            "[string@0 ttl=4102444800000 key s ; 12345 ;[%s@3 key z ; a -3; b 2.5; inf inf;[%s@3 key h ; f ;",
            zset, hash);
        assert_string_equal(read_back(&file), want);
    }
}

static void writer_counts_field_expiry_from_the_smallest_and_sorts_it(void **state) {
    (void)state;
    static const i64 times[] = {7000, -1, 5000, 6000};
    rdbkit_writer *w = writer_for("redis-8.0", NULL);
    const rdbkit_visitor *v = rdbkit_writer_visitor(w);
    rdbkit_key k = key_of("h", FMT_HASH_2);
    char name[8], big[100];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    for (int large = 0; large < 2; large++) {
        v->key(v->user, &k);
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "f%d", i);
            assert_int_equal(v->hash_field(v->user, str(name), str(large ? big : "v"), times[i]), 0);
        }
        assert_int_equal(v->key_end(v->user), 0);
        k.name = str("g");
    }
    v->end(v->user, 0);
    rdbkit_writer_free(w);
    const char *got = read_back(&file);
    assert_non_null(
        strstr(got, "hash-listpack-ex@0 key h ; f2 v;@5000  ; f3 v;@6000  ; f0 v;@7000  ; f1 v;"));
    assert_non_null(strstr(got, "hash-metadata@0 key g ; f0 x"));
    assert_null(strstr(got, "ERROR"));
}

/* Valkey takes 0 for a time that has passed, Redis for none; the smallest of the others must not go with it. */
static void writer_keeps_field_expiry_beside_one_of_1970(void **state) {
    (void)state;
    static const struct row {
        const char *target, *small, *large;
        int least;
    } row[] = {
        {"redis-8.0", "hash-listpack-ex", "hash-metadata", 1},
        {"valkey-9", "hash-2", "hash-2", 0},
    };
    static const i64 times[] = {0, -5, 7000, RDBKIT_NO_EXPIRY};
    char big[100];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        rdbkit_writer *w = writer_for(row[i].target, NULL);
        const rdbkit_visitor *v = rdbkit_writer_visitor(w);
        rdbkit_key k = key_of("h", FMT_HASH_2);
        for (int large = 0; large < 2; large++) {
            v->key(v->user, &k);
            for (int f = 0; f < 4; f++) {
                const char name[] = {(char)('a' + f), 0};
                assert_int_equal(v->hash_field(v->user, str(name), str(large ? big : "v"), times[f]), 0);
            }
            assert_int_equal(v->key_end(v->user), 0);
            k.name = str("g");
        }
        v->end(v->user, 0);
        rdbkit_writer_free(w);
        const char *got = read_back(&file);
        for (int large = 0; large < 2; large++) {
            char want[600];
            const char *x = large ? big : "v";
            snprintf(want, sizeof want, "[%s@0 key %c ; a %s;@%d  ; b %s;@%d  ; c %s;@7000  ; d %s;",
                     large ? row[i].large : row[i].small, large ? 'g' : 'h', x, row[i].least, x, row[i].least,
                     x, x);
            if (!strstr(got, want)) fail_msg("%s: %s, not %s", row[i].target, got, want);
        }
    }
}

static void writer_keeps_groups_of_a_stream_made_from_nothing(void **state) {
    static const char *const targets[] = {"redis-5.0", "redis-7.0", "valkey-8", "valkey-9"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        rdbkit_writer *w = writer_for(targets[i], NULL);
        const rdbkit_visitor *v = rdbkit_writer_visitor(w);
        rdbkit_key k = key_of("a name that is not in the file as bytes", FMT_STREAM);
        const rdbkit_stream_info info = {.length = 1,
                                         .last_id = {5, 6},
                                         .first_id = {1, 2},
                                         .entries_added = 1,
                                         .groups = 1};
        const rdbkit_stream_group group = {.name = str("g"),
                                           .last_id = {1, 2},
                                           .entries_read = 1,
                                           .pending = 1,
                                           .consumers = 1};
        const rdbkit_stream_consumer consumer = {.name = str("c"),
                                                 .seen_ms = 7,
                                                 .active_ms = 7,
                                                 .pending = 1};
        const rdbkit_stream_pending pending = {.id = {1, 2}, .delivery_ms = 8, .delivery_count = 9};
        assert_int_equal(v->key(v->user, &k), 0);
        assert_int_equal(v->stream_entry(v->user, (rdbkit_stream_id){1, 2}, 1), 0);
        assert_int_equal(v->stream_field(v->user, str("f"), str("v")), 0);
        assert_int_equal(v->stream_info(v->user, &info), 0);
        assert_int_equal(v->stream_group(v->user, &group), 0);
        assert_int_equal(v->stream_consumer(v->user, &consumer), 0);
        assert_int_equal(v->stream_pending(v->user, &pending), 0);
        assert_int_equal(v->key_end(v->user), 0);
        assert_int_equal(v->end(v->user, 0), 0);
        rdbkit_writer_free(w);
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        assert_int_equal(rdbkit_reader_feed(r, file.data, file.len), RDBKIT_DONE);
        rdbkit_reader_free(r);
    }
}

static void writer_as_the_input_needs_the_input(void **state) {
    (void)state;
    rdbkit_writer_options o;
    rdbkit_writer_options_init(&o);
    o.target = NULL;
    file.len = 0;
    rdbkit_writer *w = rdbkit_writer_new(&o, keep, &file);
    const rdbkit_visitor *v = rdbkit_writer_visitor(w);
    assert_int_equal(v->end(v->user, 0), RDBKIT_ERR_USAGE);
    rdbkit_writer_free(w);
}

static void writer_refuses_field_expiry_where_there_is_none(void **state) {
    (void)state;
    rdbkit_writer *w = writer_for("valkey-8", NULL);
    const rdbkit_visitor *v = rdbkit_writer_visitor(w);
    rdbkit_key k = key_of("h", FMT_HASH_2);
    assert_int_equal(v->key(v->user, &k), 0);
    assert_int_equal(v->hash_field(v->user, str("f"), str("v"), 5000), RDBKIT_ERR_LOSS);
    const rdbkit_loss *l = rdbkit_writer_loss(w, 0);
    assert_non_null(l);
    assert_int_equal(l->kind, RDBKIT_LOSS_FIELD_EXPIRY);
    assert_memory_equal(l->key, "h", 1);
    rdbkit_writer_free(w);
}

static void note_loss(void *ctx, const rdbkit_key_loss *l) {
    assert_ptr_equal(l->row, &loss_kinds[l->row->kind]);
    err_add(ctx, 4096, "%s %.*s@%lld %llu;", l->row->name, (int)l->key.len, l->key.data, (long long)l->db,
            (unsigned long long)l->items);
}

static void writer_tells_the_losses_of_each_key_at_its_end(void **state) {
    static const char want[] =
        "function lib@-1 1;field-expiry a@16 2;db-number a@16 1;field-expiry bb@16 1;stream s@3 1;";
    static char got[4096];
    (void)state;
    got[0] = 0;
    for (int allow = 1; allow >= 0; allow--, got[0] = 0) {
        rdbkit_writer_options o;
        rdbkit_writer_options_init(&o);
        o.target = rdbkit_target_find("redis-4.0");
        o.allow_loss = allow;
        o.on_loss = note_loss;
        o.on_loss_ctx = got;
        file.len = 0;
        rdbkit_writer *w = rdbkit_writer_new(&o, keep, &file);
        const rdbkit_visitor *v = rdbkit_writer_visitor(w);
        assert_int_equal(v->function(v->user, str("#!lua name=lib\n"), 245), allow ? 0 : RDBKIT_ERR_LOSS);
        if (!allow) {
            assert_string_equal(got, "function lib@-1 1;");
        } else {
            rdbkit_key k = key_of("a", FMT_HASH_2);
            k.db = 16;
            for (int i = 0; i < 2; i++, k.name = str("bb")) {
                assert_int_equal(v->key(v->user, &k), 0);
                assert_int_equal(v->hash_field(v->user, str("f"), str("v"), 5000), 0);
                assert_int_equal(v->hash_field(v->user, str("g"), str("v"), RDBKIT_NO_EXPIRY), 0);
                if (!i) assert_int_equal(v->hash_field(v->user, str("h"), str("v"), 5000), 0);
                assert_int_equal(v->key_end(v->user), 0);
            }
            k = key_of("s", FMT_STREAM_3);
            k.db = 3;
            assert_int_equal(v->key(v->user, &k), RDBKIT_SKIP_KEY);
            assert_int_equal(v->key_end(v->user), 0);
            k = key_of("t", FMT_STRING);
            assert_int_equal(v->key(v->user, &k), 0);
            assert_int_equal(v->string(v->user, str("v")), 0);
            assert_int_equal(v->key_end(v->user), 0);
            assert_int_equal(v->end(v->user, 0), 0);
            assert_string_equal(got, want);
        }
        rdbkit_writer_free(w);
    }
}

/* A spill in memory, to see that it is used and read back right. */
typedef struct spill_file {
    u8 *data;
    size_t len, resets;
} spill_file;

static int spill_write(void *ctx, const void *data, size_t len) {
    spill_file *f = ctx;
    u8 *p = realloc(f->data, f->len + len);
    assert_non_null(p);
    memcpy(p + f->len, data, len);
    f->data = p, f->len += len;
    return 0;
}

static int spill_read(void *ctx, uint64_t off, void *data, size_t len) {
    spill_file *f = ctx;
    assert_true(off + len <= f->len);
    memcpy(data, f->data + off, len);
    return 0;
}

static int spill_reset(void *ctx) {
    spill_file *f = ctx;
    f->len = 0;
    f->resets++;
    return 0;
}

/* Not the CRC64: with that of the file itself behind it, it is 0 for every file. */
static int hash_only(void *ctx, const void *data, size_t len) {
    u64 *hash = ctx;
    for (size_t i = 0; i < len; i++) *hash = (*hash ^ ((const u8 *)data)[i]) * UINT64_C(1099511628211);
    return 0;
}

/* Hash of a file with two sets of 300,000 members each, with or without a spill. */
static u64 big_set(const rdbkit_spill *spill) {
    u64 hash = 1;
    char name[32];
    rdbkit_writer_options o;
    rdbkit_writer_options_init(&o);
    o.spill = spill;
    rdbkit_writer *w = rdbkit_writer_new(&o, hash_only, &hash);
    const rdbkit_visitor *v = rdbkit_writer_visitor(w);
    for (int n = 0; n < 2; n++) {
        rdbkit_key k = key_of(n ? "b" : "a", FMT_SET);
        assert_int_equal(v->key(v->user, &k), 0);
        for (int i = 0; i < 300000; i++) {
            snprintf(name, sizeof name, "member:%d", i + n * 1000000);
            assert_int_equal(v->set_member(v->user, str(name)), 0);
        }
        assert_int_equal(v->key_end(v->user), 0);
    }
    assert_int_equal(v->end(v->user, 0), 0);
    rdbkit_writer_free(w);
    return hash;
}

static void writer_with_a_spill_gives_the_same_file(void **state) {
    (void)state;
    spill_file f = {NULL, 0, 0};
    rdbkit_spill spill = {spill_write, spill_read, &f, spill_reset};
    u64 without = big_set(NULL), with = big_set(&spill);
    assert_true(without == with);
    assert_int_equal(f.resets, 2);
    assert_true(f.len > 1 << 20);
    free(f.data);
}

static void writer_with_a_spill_that_only_grows_gives_the_same_file(void **state) {
    (void)state;
    spill_file f = {NULL, 0, 0};
    rdbkit_spill spill = {spill_write, spill_read, &f, NULL};
    u64 without = big_set(NULL), with = big_set(&spill);
    assert_true(without == with);
    assert_true(f.len > 4 << 20); /* both sets */
    free(f.data);
}

/* A file, read into a writer; its status. */
static int convert(const tk_bytes *in, rdbkit_writer_options *o, const rdbkit_target *target) {
    o->target = target;
    file.len = 0;
    rdbkit_writer *w = rdbkit_writer_new(o, keep, &file);
    if (!w) return RDBKIT_ERR_NOMEM;
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_writer_visitor(w));
    int st = rdbkit_reader_feed(r, in->data, in->len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    rdbkit_reader_free(r);
    rdbkit_writer_free(w);
    return st;
}

static void load_fixture(const char *path, tk_bytes *b) {
    u8 block[4096];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) tk_put(b, block, n);
    fclose(f);
}

static void writer_survives_each_allocation_that_fails(void **state) {
    static const char *const files[] = {"fixtures/redis80/everything.rdb", "fixtures/valkey9/everything.rdb"};
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        tk_bytes in = {NULL, 0, 0};
        load_fixture(files[i], &in);
        for (size_t t = 0; t < FMT_TARGET_N; t++) {
            for (int st = RDBKIT_ERR_NOMEM, n = 1; st != RDBKIT_DONE; n++) {
                tk_memory m = {.fail_at = (u64)n};
                const rdbkit_allocator a = tk_allocator(&m);
                rdbkit_writer_options o;
                rdbkit_writer_options_init(&o);
                o.allocator = &a, o.reencode = 1, o.allow_loss = 1, o.drop_modules = 1;
                st = convert(&in, &o, &fmt_targets[t]);
                if (m.misuse || m.live)
                    fail_msg("%s, allocation %d: %s, %zu bytes left", files[i], n, m.misuse, m.live);
                /* without memory for the compressor, strings go out as they are */
                if (st == RDBKIT_DONE && m.calls >= m.fail_at) {
                    if (strncmp(read_back(&file), "ERROR", 5) == 0)
                        fail_msg("%s, allocation %d: %s", files[i], n, seen);
                    st = RDBKIT_ERR_NOMEM;
                }
                if (st != RDBKIT_DONE) assert_int_equal(st, RDBKIT_ERR_NOMEM);
            }
        }
        tk_drop(&in);
    }
}

/* A hash with field expiry in a file that is older than the type: what is made of it can be read. */
static void writer_as_the_input_packs_no_field_expiry_below_rdb_10(void **state) {
    tk_bytes in = {NULL, 0, 0};
    rdbkit_writer_options o;
    (void)state;
    tk_magic(&in, "REDIS0006");
    tk_db(&in, 0);
    tk_u8(&in, 24), tk_str(&in, "h"), tk_le(&in, 4102444800000, 8), tk_len(&in, 1);
    tk_len(&in, 1), tk_str(&in, "f"), tk_str(&in, "v");
    tk_end(&in);
    rdbkit_writer_options_init(&o);
    o.reencode = 1;
    assert_int_equal(convert(&in, &o, NULL), RDBKIT_DONE);
    assert_string_equal(read_back(&file), "[hash-metadata@0 key h ; f v;@4102444800000  ;");
    tk_drop(&in);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writer_chooses_the_encoding_that_the_server_would),
        cmocka_unit_test(writer_makes_a_file_from_nothing_that_reads_back),
        cmocka_unit_test(writer_counts_field_expiry_from_the_smallest_and_sorts_it),
        cmocka_unit_test(writer_keeps_field_expiry_beside_one_of_1970),
        cmocka_unit_test(writer_keeps_groups_of_a_stream_made_from_nothing),
        cmocka_unit_test(writer_as_the_input_needs_the_input),
        cmocka_unit_test(writer_refuses_field_expiry_where_there_is_none),
        cmocka_unit_test(writer_tells_the_losses_of_each_key_at_its_end),
        cmocka_unit_test(writer_with_a_spill_gives_the_same_file),
        cmocka_unit_test(writer_with_a_spill_that_only_grows_gives_the_same_file),
        cmocka_unit_test(writer_survives_each_allocation_that_fails),
        cmocka_unit_test(writer_as_the_input_packs_no_field_expiry_below_rdb_10),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
