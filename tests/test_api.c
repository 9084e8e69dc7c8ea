/* test_api.c - the promises of rdbkit.h, on files that the tests build themselves.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "events.c"
#include "testkit.h"

#include <errno.h>

/* ---- Files ---- */

static void lp_int(tk_bytes *b, unsigned x) { /* 0..127 */
    tk_u8(b, x);
    tk_u8(b, 1);
}

static void lp_str(tk_bytes *b, const char *s) { /* up to 63 bytes */
    tk_u8(b, 0x80 | (unsigned)strlen(s));
    tk_put(b, s, strlen(s));
    tk_u8(b, (unsigned)strlen(s) + 1);
}

static void be64(tk_bytes *b, uint64_t x) {
    for (int i = 56; i >= 0; i -= 8) tk_u8(b, (unsigned)(x >> i) & 255);
}

/* A stream of type 21: entry 7-1 {f: v}; if group: one group, one consumer, 7-1 pending. */
static void stream_key(tk_bytes *b, const char *name, int group) {
    tk_bytes lp = {0}, body = {0};
    lp_int(&body, 1); /* count, deleted, fields of the master entry */
    lp_int(&body, 0);
    lp_int(&body, 1);
    lp_str(&body, "f");
    lp_int(&body, 0);
    lp_int(&body, 2); /* same fields; differences of ms and seq */
    lp_int(&body, 0);
    lp_int(&body, 0);
    lp_str(&body, "v");
    lp_int(&body, 4);
    tk_le(&lp, body.len + 7, 4);
    tk_le(&lp, 10, 2);
    tk_put(&lp, body.data, body.len);
    tk_u8(&lp, 255);
    tk_u8(b, 21);
    tk_str(b, name);
    tk_len(b, 1);
    tk_len(b, 16);
    be64(b, 7);
    be64(b, 1);
    tk_strn(b, lp.data, lp.len);
    static const unsigned info[] = {1, 7, 1, 7, 1, 0, 0, 1};
    for (size_t i = 0; i < sizeof info / sizeof *info; i++) tk_len(b, info[i]);
    tk_len(b, group ? 1 : 0);
    if (group) {
        tk_str(b, "g");
        tk_len(b, 7);
        tk_len(b, 1);
        tk_len(b, 1); /* entries-read */
        tk_len(b, 1); /* pending */
        be64(b, 7);
        be64(b, 1);
        tk_le(b, 1700000000000u, 8);
        tk_len(b, 3);
        tk_len(b, 1); /* consumers */
        tk_str(b, "alice");
        tk_le(b, 1700000000000u, 8);
        tk_le(b, 1700000000001u, 8);
        tk_len(b, 1);
        be64(b, 7);
        be64(b, 1);
    }
    tk_drop(&lp);
    tk_drop(&body);
}

#define MODULE_ID UINT64_C(0x81d2a1e2ab5c0401) /* some name, encoding version 1 */

static void module_aux(tk_bytes *b) {
    tk_u8(b, 247);
    tk_len(b, MODULE_ID);
    tk_len(b, 2);
    tk_len(b, 1);
    tk_len(b, 2);
    tk_len(b, 12345);
    tk_len(b, 0);
}

static const char FUNCTION[] = "#!lua name=l\nredis.register_function('f', function() return 1 end)";

static void values(tk_bytes *b) {
    tk_string_key(b, "str", "value", 4102444800123);
    tk_plain_key(b, 1, "list", "item", 3);
    tk_plain_key(b, 2, "set", "member", 3);
    tk_u8(b, 5);
    tk_str(b, "zset");
    tk_len(b, 1);
    tk_str(b, "m");
    tk_le(b, 0x3ff8000000000000u, 8);
    tk_plain_key(b, 4, "hash", "x", 2);
    stream_key(b, "stream", 1);
}

/* Has every event that a file of Redis can give (and slot_import if valkey). */
static tk_bytes all_events(int valkey) {
    tk_bytes b = {0};
    tk_magic(&b, valkey ? "VALKEY080" : "REDIS0012");
    tk_u8(&b, 250);
    tk_str(&b, "redis-ver");
    tk_str(&b, "1.2.3");
    module_aux(&b);
    tk_u8(&b, 245);
    tk_str(&b, FUNCTION);
    if (valkey) {
        tk_u8(&b, 243);
        tk_str(&b, "0123456789012345678901234567890123456789");
        tk_len(&b, 1);
        tk_len(&b, 5);
        tk_len(&b, 9);
    }
    tk_db(&b, 3);
    tk_u8(&b, 251);
    tk_len(&b, 6);
    tk_len(&b, 1);
    tk_u8(&b, 244);
    tk_len(&b, 16383);
    tk_len(&b, 6);
    tk_len(&b, 1);
    values(&b);
    tk_end(&b);
    return b;
}

static tk_bytes small_file(const char *key) {
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 0);
    tk_string_key(&b, key, "value", -1);
    tk_end(&b);
    return b;
}

/* Feeds the whole and finishes. */
static int read_all(rdbkit_reader *r, const tk_bytes *b) {
    int st = rdbkit_reader_feed(r, b->data, b->len);
    return st == RDBKIT_MORE ? rdbkit_reader_finish(r) : st;
}

/* ---- Constants and tables ---- */

static void version_is_that_of_the_header(void **state) {
    (void)state;
    char text[40];
    snprintf(text, sizeof text, "%d.%d.%d", RDBKIT_VERSION_MAJOR, RDBKIT_VERSION_MINOR, RDBKIT_VERSION_PATCH);
    assert_string_equal(text, RDBKIT_VERSION);
    assert_string_equal(rdbkit_version(), RDBKIT_VERSION);
#if RDBKIT_VERSION_NUMBER < 1
    fail_msg("no number above 0 for #if");
#endif
    assert_int_equal(RDBKIT_VERSION_NUMBER / 10000, RDBKIT_VERSION_MAJOR);
    assert_int_equal(RDBKIT_VERSION_NUMBER % 10000, RDBKIT_VERSION_MINOR * 100 + RDBKIT_VERSION_PATCH);
    assert_in_range(RDBKIT_VERSION_MINOR, 0, 99); /* two versions never have one number */
    assert_in_range(RDBKIT_VERSION_PATCH, 0, 99);
}

static void every_status_has_a_text_of_its_own(void **state) {
    (void)state;
    for (int a = RDBKIT_ERR_USAGE; a <= RDBKIT_TAKE_RAW; a++) {
        assert_non_null(rdbkit_status_text(a));
        assert_true(rdbkit_status_text(a)[0] != 0);
        for (int b = a + 1; b <= RDBKIT_TAKE_RAW; b++)
            assert_string_not_equal(rdbkit_status_text(a), rdbkit_status_text(b));
    }
    static const int strange[] = {-11, 5, 1000, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        assert_non_null(rdbkit_status_text(strange[i]));
        assert_true(rdbkit_status_text(strange[i])[0] != 0);
    }
}

static void every_shape_has_its_name(void **state) {
    (void)state;
    static const char *const names[] = {"string", "list", "set", "zset", "hash", "stream", "module"};
    for (int i = 0; i < RDBKIT_SHAPE_N; i++)
        assert_string_equal(rdbkit_shape_name((rdbkit_shape)i), names[i]);
}

static void options_start_with_the_defaults(void **state) {
    (void)state;
    rdbkit_reader_options r;
    memset(&r, 0x5a, sizeof r);
    rdbkit_reader_options_init(&r);
    assert_null(r.allocator);
    assert_int_equal(r.ignore_checksum, 0);
    assert_int_equal(r.deep, 0);
    assert_int_equal(r.piece_len, 0);
    assert_int_equal(r.max_item_len, 0);
    rdbkit_resp_options s;
    memset(&s, 0x5a, sizeof s);
    rdbkit_resp_options_init(&s);
    assert_null(s.allocator);
    assert_ptr_equal(s.target, rdbkit_target_find("valkey-8.1"));
    assert_int_equal(s.batch, 64);
    assert_int_equal(s.del_first, 0);
    assert_int_equal(s.replace, 0);
    assert_int_equal(s.single_db, 0);
    assert_int_equal(s.drop_functions, 0);
    assert_int_equal(s.allow_loss, 0);
    assert_int_equal(s.dry_run, 0);
}

static void targets_are_found_by_name_and_by_alias(void **state) {
    (void)state;
    static const char *const names[] = {"redis-4.0",  "redis-5.0",  "redis-6.0",  "redis-6.2",
                                        "redis-7.0",  "redis-7.2",  "redis-7.4",  "redis-8.0",
                                        "valkey-7.2", "valkey-8.0", "valkey-8.1", "valkey-9"};
    size_t n = 0;
    while (rdbkit_target_at(n)) n++;
    assert_int_equal(n, sizeof names / sizeof *names);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(rdbkit_target_at(i)->name, names[i]);
        assert_ptr_equal(rdbkit_target_find(names[i]), rdbkit_target_at(i));
    }
    static const char *const aliases[][2] = {
        {"redis-4", "redis-4.0"},   {"redis-5", "redis-5.0"}, {"redis-6", "redis-6.2"},
        {"redis-7", "redis-7.4"},   {"redis-8", "redis-8.0"}, {"valkey-7", "valkey-7.2"},
        {"valkey-8", "valkey-8.1"}, {"rdb-8", "redis-4.0"},   {"rdb-9", "redis-6.2"},
        {"rdb-10", "redis-7.0"},    {"rdb-11", "redis-7.2"},  {"rdb-12", "redis-8.0"},
    };
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        const rdbkit_target *t = rdbkit_target_find(aliases[i][0]);
        if (!t) fail_msg("no target %s", aliases[i][0]);
        assert_string_equal(t->name, aliases[i][1]);
    }
    static const char *const unknown[] = {"",         "redis",    "redis-",  "redis-3.2", "redis-7.1",
                                          "redis-77", "redis-7.", "valkey",  "rdb-",      "rdb-7",
                                          "rdb-13",   "rdb-80",   "Redis-7", " redis-7",  "redis-7 ",
                                          "redis-70", "valkey-1", "rdb-011", "7.0"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (rdbkit_target_find(unknown[i])) fail_msg("\"%s\" is a target", unknown[i]);
}

static void targets_have_the_versions_that_the_servers_write(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int version;
        unsigned has, has_not;
    } rows[] = {
        {"redis-4.0", 8, RDBKIT_F_AUX_LUA,
         RDBKIT_F_STREAMS | RDBKIT_F_FUNCTIONS | RDBKIT_F_RESTORE_ABSTTL | RDBKIT_F_IDLE_FREQ},
        {"redis-6.0", 9, RDBKIT_F_STREAMS,
         RDBKIT_F_SET_PXAT | RDBKIT_F_CREATECONSUMER | RDBKIT_F_STREAM_COUNTERS},
        {"redis-6.2", 9, RDBKIT_F_SET_PXAT | RDBKIT_F_CREATECONSUMER, RDBKIT_F_FUNCTIONS},
        {"redis-7.0", 10, RDBKIT_F_FUNCTIONS | RDBKIT_F_STREAM_COUNTERS | RDBKIT_F_FUNCTION_PRE_GA,
         RDBKIT_F_FIELD_EXPIRY},
        {"redis-7.2", 11, RDBKIT_F_FUNCTIONS, RDBKIT_F_FIELD_EXPIRY | RDBKIT_F_FUNCTION_PRE_GA},
        {"redis-8.0", 12, RDBKIT_F_FIELD_EXPIRY | RDBKIT_F_FIELD_EXPIRY_46 | RDBKIT_F_SLOT_INFO,
         RDBKIT_F_SLOT_IMPORT},
        {"valkey-8.1", 11, RDBKIT_F_FUNCTIONS, RDBKIT_F_FIELD_EXPIRY | RDBKIT_F_SLOT_INFO},
        {"valkey-9", 80, RDBKIT_F_FIELD_EXPIRY | RDBKIT_F_SLOT_IMPORT, RDBKIT_F_FIELD_EXPIRY_46},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const rdbkit_target *t = rdbkit_target_find(rows[i].name);
        assert_non_null(t);
        assert_int_equal(t->rdb_version, rows[i].version);
        assert_int_equal(t->features & rows[i].has, rows[i].has);
        assert_int_equal(t->features & rows[i].has_not, 0);
    }
}

static void type_rows_are_unique_by_number_and_lineage(void **state) {
    const rdbkit_type *a, *b;
    (void)state;
    for (size_t i = 0; (a = rdbkit_type_at(i)) != NULL; i++) {
        assert_non_null(a->name);
        assert_true(a->number >= 0 && a->number < 243);
        assert_true(a->lineage != 0 && (a->lineage & ~(unsigned)(RDBKIT_REDIS | RDBKIT_VALKEY)) == 0);
        assert_true((int)a->shape >= 0 && a->shape < RDBKIT_SHAPE_N);
        assert_int_equal(strncmp(a->name, rdbkit_shape_name(a->shape), strlen(rdbkit_shape_name(a->shape))),
                         0);
        for (size_t k = 0; k < i; k++) {
            b = rdbkit_type_at(k);
            if (b->number > a->number) fail_msg("type %d comes before %d", b->number, a->number);
            if (b->number == a->number && b->lineage & a->lineage)
                fail_msg("two rows for type %d", a->number);
            assert_string_not_equal(a->name, b->name);
        }
    }
    static const int known[] = {0,  1,  2,  3,  4,  5,  7,  9,  10, 11, 12, 13,
                                14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25};
    for (size_t n = 0; n < sizeof known / sizeof *known; n++) {
        size_t i = 0;
        while ((a = rdbkit_type_at(i)) != NULL &&
               (a->number != known[n] || !(a->lineage & RDBKIT_REDIS) || !a->layout))
            i++;
        if (!a) fail_msg("type %d of Redis is not readable", known[n]);
    }
}

static int loads(const char *target, int number, unsigned lineage) {
    const rdbkit_type *t;
    for (size_t i = 0; (t = rdbkit_type_at(i)) != NULL; i++)
        if (t->number == number && t->lineage & lineage)
            return rdbkit_target_loads(rdbkit_target_find(target), t);
    return -1;
}

static void targets_load_what_the_servers_were_seen_to_load(void **state) {
    (void)state;
    static const int common[] = {0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14};
    const rdbkit_target *t;
    for (size_t i = 0; (t = rdbkit_target_at(i)) != NULL; i++)
        for (size_t k = 0; k < sizeof common / sizeof *common; k++)
            assert_true(loads(t->name, common[k], RDBKIT_REDIS) == 1);
    assert_int_equal(loads("redis-4.0", 15, RDBKIT_REDIS), 0);
    assert_int_equal(loads("redis-5.0", 15, RDBKIT_REDIS), 1);
    assert_int_equal(loads("redis-6.2", 16, RDBKIT_REDIS), 0);
    assert_int_equal(loads("redis-7.0", 19, RDBKIT_REDIS), 1);
    assert_int_equal(loads("redis-7.0", 20, RDBKIT_REDIS), 0);
    assert_int_equal(loads("redis-7.2", 21, RDBKIT_REDIS), 1);
    assert_int_equal(loads("redis-7.2", 24, RDBKIT_REDIS), 0);
    assert_int_equal(loads("redis-7.4", 24, RDBKIT_REDIS), 1);
    assert_int_equal(loads("redis-8.0", 25, RDBKIT_REDIS), 1);
    assert_int_equal(loads("redis-8.0", 22, RDBKIT_VALKEY), 0);
    assert_int_equal(loads("valkey-8.1", 22, RDBKIT_VALKEY), 0);
    assert_int_equal(loads("valkey-8.1", 24, RDBKIT_REDIS), 0);
    assert_int_equal(loads("valkey-9", 22, RDBKIT_VALKEY), 1);
    assert_int_equal(loads("valkey-9", 22, RDBKIT_REDIS), 0);
    assert_int_equal(loads("valkey-9", 24, RDBKIT_REDIS), 0);
}

/* ---- The reader ---- */

static void free_takes_null(void **state) {
    (void)state;
    rdbkit_reader_free(NULL);
    rdbkit_input_free(NULL);
    rdbkit_resp_free(NULL);
    rdbkit_check_free(NULL);
}

static void reader_without_visitor_checks_the_file(void **state) {
    (void)state;
    for (int valkey = 0; valkey < 2; valkey++) {
        tk_bytes b = all_events(valkey);
        rdbkit_visitor none = {0};
        for (int k = 0; k < 2; k++) {
            rdbkit_reader *r = rdbkit_reader_new(NULL, k ? &none : NULL);
            assert_non_null(r);
            int st = read_all(r, &b);
            if (st != RDBKIT_DONE) fail_msg("%s", rdbkit_reader_error(r)->message);
            assert_int_equal(rdbkit_reader_offset(r), b.len);
            assert_int_equal(rdbkit_reader_error(r)->code, RDBKIT_OK);
            rdbkit_reader_free(r);
        }
        b.data[12] ^= 1; /* in the name of an AUX field */
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        assert_non_null(r);
        assert_int_equal(read_all(r, &b), RDBKIT_ERR_CHECKSUM);
        assert_int_equal(rdbkit_reader_error(r)->code, RDBKIT_ERR_CHECKSUM);
        rdbkit_reader_free(r);
        tk_drop(&b);
    }
}

static void wrong_checksum_passes_only_where_it_is_ignored(void **state) {
    (void)state;
    tk_bytes b = small_file("key");
    b.data[b.len - 1] ^= 1;
    for (int ignore = 0; ignore < 2; ignore++) {
        rdbkit_reader_options o;
        rdbkit_reader_options_init(&o);
        o.ignore_checksum = ignore;
        rdbkit_reader *r = rdbkit_reader_new(&o, NULL);
        assert_non_null(r);
        assert_int_equal(read_all(r, &b), ignore ? RDBKIT_DONE : RDBKIT_ERR_CHECKSUM);
        rdbkit_reader_free(r);
    }
    tk_drop(&b);
}

static void first_error_stays(void **state) {
    (void)state;
    tk_bytes b = small_file("key"), good = small_file("other");
    b.data[0] = 'X';
    events e;
    events_init(&e, 0);
    rdbkit_visitor v = events_visitor(&e);
    rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
    assert_non_null(r);
    int st = rdbkit_reader_feed(r, b.data, b.len);
    assert_true(st == RDBKIT_ERR_DAMAGED || st == RDBKIT_ERR_UNSUPPORTED);
    rdbkit_error first = *rdbkit_reader_error(r);
    assert_int_equal(first.code, st);
    assert_int_equal(first.offset, 0);
    assert_true(strlen(first.message) > 0 && strlen(first.message) < sizeof first.message);
    assert_true(first.db == RDBKIT_NO_DB);
    assert_null(first.type);
    uint64_t n = e.n;
    assert_int_equal(rdbkit_reader_feed(r, good.data, good.len), st);
    assert_int_equal(rdbkit_reader_feed(r, NULL, 0), st);
    assert_int_equal(rdbkit_reader_finish(r), st);
    assert_int_equal(rdbkit_reader_error(r)->code, first.code);
    assert_int_equal(rdbkit_reader_error(r)->offset, first.offset);
    assert_string_equal(rdbkit_reader_error(r)->message, first.message);
    assert_int_equal(e.n, n);
    rdbkit_reader_free(r);
    tk_drop(&b);
    tk_drop(&good);
}

static void error_names_key_type_and_database(void **state) {
    (void)state;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 11);
    tk_u8(&b, 0);
    uint64_t name_off = b.len;
    tk_str(&b,
           "a\x01key \"with\" bytes that is longer than the sixty-four bytes which the error keeps of it");
    uint64_t value_off = b.len;
    tk_u8(&b, 0xc7); /* no such string encoding */
    tk_put(&b, "0000000000000000", 16);
    rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_feed(r, b.data, b.len), RDBKIT_ERR_DAMAGED);
    const rdbkit_error *e = rdbkit_reader_error(r);
    assert_int_equal(e->offset, value_off);
    assert_int_equal(e->db, 11);
    assert_string_equal(e->type, "string");
    assert_int_equal(e->key_len, value_off - name_off - 2);
    assert_memory_equal(e->key, b.data + name_off + 2, 64);
    for (const char *p = e->message; *p; p++) assert_true(*p >= 32 && *p < 127);
    rdbkit_reader_free(r);
    tk_drop(&b);
}

static void feeding_nothing_changes_nothing(void **state) {
    (void)state;
    tk_bytes b = all_events(0);
    rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_feed(r, NULL, 0), RDBKIT_MORE);
    assert_int_equal(rdbkit_reader_offset(r), 0);
    for (size_t i = 0; i < b.len; i++) {
        assert_int_equal(rdbkit_reader_feed(r, b.data + i, 1), i + 1 < b.len ? RDBKIT_MORE : RDBKIT_DONE);
        if (i + 1 < b.len) assert_int_equal(rdbkit_reader_feed(r, NULL, 0), RDBKIT_MORE);
    }
    assert_int_equal(rdbkit_reader_offset(r), b.len);
    rdbkit_reader_free(r);
    tk_drop(&b);
}

static void empty_input_is_truncated(void **state) {
    (void)state;
    rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_finish(r), RDBKIT_ERR_TRUNCATED);
    assert_int_equal(rdbkit_reader_error(r)->offset, 0);
    rdbkit_reader_free(r);
    rdbkit_input *in = rdbkit_input_new_memory(NULL, NULL, 0);
    r = rdbkit_reader_new(NULL, NULL);
    assert_non_null(r);
    assert_non_null(in);
    assert_int_equal(rdbkit_reader_pull(r, in), RDBKIT_ERR_TRUNCATED);
    rdbkit_reader_free(r);
    rdbkit_input_free(in);
}

static void offset_after_the_end_is_that_of_trailing_bytes(void **state) {
    (void)state;
    tk_bytes b = small_file("key");
    size_t end = b.len;
    tk_put(&b, "*1\r\n$4\r\nPING\r\n", 14);
    for (size_t cut = 0; cut <= b.len; cut++) {
        events e;
        events_init(&e, 0);
        rdbkit_visitor v = events_visitor(&e);
        rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
        assert_non_null(r);
        int st = rdbkit_reader_feed(r, b.data, cut);
        assert_int_equal(st, cut >= end ? RDBKIT_DONE : RDBKIT_MORE);
        if (st == RDBKIT_MORE)
            assert_int_equal(rdbkit_reader_feed(r, b.data + cut, b.len - cut), RDBKIT_DONE);
        assert_int_equal(rdbkit_reader_offset(r), end);
        assert_int_equal(rdbkit_reader_finish(r), RDBKIT_DONE);
        assert_true(e.ended);
        assert_null(e.fault);
        rdbkit_reader_free(r);
    }
    rdbkit_input *in = rdbkit_input_new_memory(NULL, b.data, b.len);
    rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
    const void *rest;
    size_t len;
    assert_non_null(in);
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_pull(r, in), RDBKIT_DONE);
    assert_int_equal(rdbkit_reader_offset(r), end);
    assert_int_equal(rdbkit_input_rest(in, &rest, &len), RDBKIT_OK);
    assert_int_equal(len, 14);
    assert_memory_equal(rest, "*1\r\n$4\r\nPING\r\n", 14);
    assert_int_equal(rdbkit_input_rest(in, &rest, &len), RDBKIT_DONE);
    assert_int_equal(rdbkit_input_is_gzip(in), 0);
    rdbkit_reader_free(r);
    rdbkit_input_free(in);
    tk_drop(&b);
}

static void readers_can_be_interleaved(void **state) {
    (void)state;
    enum { N = 4 };
    tk_bytes b[N] = {all_events(0), all_events(1), small_file("one"), small_file("two")};
    events alone[N], together[N];
    rdbkit_reader *r[N];
    for (int i = 0; i < N; i++) {
        events_init(&alone[i], 0);
        events_init(&together[i], 0);
        rdbkit_visitor v = events_visitor(&alone[i]);
        rdbkit_reader *one = rdbkit_reader_new(NULL, &v);
        assert_non_null(one);
        assert_int_equal(read_all(one, &b[i]), RDBKIT_DONE);
        rdbkit_reader_free(one);
        v = events_visitor(&together[i]);
        r[i] = rdbkit_reader_new(NULL, &v);
        assert_non_null(r[i]);
    }
    for (size_t k = 0; k < b[1].len; k++)
        for (int i = 0; i < N; i++)
            if (k < b[i].len)
                assert_int_equal(rdbkit_reader_feed(r[i], b[i].data + k, 1),
                                 k + 1 < b[i].len ? RDBKIT_MORE : RDBKIT_DONE);
    for (int i = 0; i < N; i++) {
        assert_true(alone[i].hash == together[i].hash);
        assert_null(together[i].fault);
        rdbkit_reader_free(r[i]);
        tk_drop(&b[i]);
    }
}

static void item_over_the_limit_is_refused(void **state) {
    (void)state;
    tk_bytes b = {0};
    char text[101];
    memset(text, 'x', 100);
    text[100] = 0;
    tk_magic(&b, "REDIS0009");
    tk_string_key(&b, "key", text, -1);
    tk_end(&b);
    for (uint64_t limit = 99; limit <= 101; limit++) {
        rdbkit_reader_options o;
        rdbkit_reader_options_init(&o);
        o.max_item_len = limit;
        rdbkit_reader *r = rdbkit_reader_new(&o, NULL);
        assert_non_null(r);
        assert_int_equal(read_all(r, &b), limit < 100 ? RDBKIT_ERR_LIMIT : RDBKIT_DONE);
        rdbkit_reader_free(r);
    }
    tk_drop(&b);
}

static void magic_of_unknown_versions_is_unsupported(void **state) {
    (void)state;
    static const char *const versions[] = {"REDIS0079", "REDIS0080", "REDIS9999", "VALKEY082", "VALKEY999"};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        tk_bytes b = {0};
        tk_magic(&b, versions[i]);
        tk_end(&b);
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        assert_non_null(r);
        int st = read_all(r, &b);
        if (st != RDBKIT_ERR_UNSUPPORTED) fail_msg("%s: %d", versions[i], st);
        rdbkit_reader_free(r);
        tk_drop(&b);
    }
    static const char *const strange[] = {"REDIS00A1", "redis0011", "REDIS-001",
                                          "VALKEY 80", "REDIS 011", "GARBAGE!!"};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        tk_bytes b = {0};
        tk_magic(&b, strange[i]);
        tk_end(&b);
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        assert_non_null(r);
        int st = read_all(r, &b);
        if (st != RDBKIT_ERR_UNSUPPORTED && st != RDBKIT_ERR_DAMAGED) fail_msg("%s: %d", strange[i], st);
        rdbkit_reader_free(r);
        tk_drop(&b);
    }
    for (int version = 1; version <= 12; version++) {
        char magic[12];
        tk_bytes b = {0};
        snprintf(magic, sizeof magic, "REDIS%04d", version);
        tk_magic(&b, magic);
        tk_string_key(&b, "k", "v", -1);
        if (version >= 5) tk_end(&b);
        else tk_u8(&b, 255);
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        assert_non_null(r);
        int st = read_all(r, &b);
        if (st != RDBKIT_DONE) fail_msg("%s: %s", magic, rdbkit_reader_error(r)->message);
        assert_int_equal(rdbkit_reader_offset(r), b.len);
        rdbkit_reader_free(r);
        tk_drop(&b);
    }
}

/* ---- Callbacks that stop ---- */

#define STOP (-77)

typedef struct stopper {
    int calls, answer;
} stopper;

static int stop(stopper *s) {
    s->calls++;
    return s->answer;
}

static int st_header(void *u, const rdbkit_header *x) { return (void)x, stop(u); }
static int st_str2(void *u, rdbkit_str a, rdbkit_str b) { return (void)a, (void)b, stop(u); }
static int st_str(void *u, rdbkit_str a) { return (void)a, stop(u); }
static int st_function(void *u, rdbkit_str a, int opcode) { return (void)a, (void)opcode, stop(u); }
static int st_maux(void *u, const rdbkit_module_aux *x) { return (void)x, stop(u); }
static int st_none(void *u) { return stop(u); }
static int st_db(void *u, uint64_t x) { return (void)x, stop(u); }
static int st_resize(void *u, uint64_t x, uint64_t y) { return (void)x, (void)y, stop(u); }
static int st_slot(void *u, uint64_t x, uint64_t y, uint64_t z) { return (void)x, (void)y, (void)z, stop(u); }
static int st_import(void *u, rdbkit_str a, uint64_t x) { return (void)a, (void)x, stop(u); }
static int st_key(void *u, const rdbkit_key *x) { return (void)x, stop(u); }
static int st_raw(void *u, const void *x, size_t n) { return (void)x, (void)n, stop(u); }
static int st_piece(void *u, rdbkit_str a, uint64_t x, uint64_t y) {
    return (void)a, (void)x, (void)y, stop(u);
}
static int st_zset(void *u, rdbkit_str a, double x) { return (void)a, (void)x, stop(u); }
static int st_hash(void *u, rdbkit_str a, rdbkit_str b, int64_t x) {
    return (void)a, (void)b, (void)x, stop(u);
}
static int st_entry(void *u, rdbkit_stream_id i, uint64_t x) { return (void)i, (void)x, stop(u); }
static int st_info(void *u, const rdbkit_stream_info *x) { return (void)x, stop(u); }
static int st_group(void *u, const rdbkit_stream_group *x) { return (void)x, stop(u); }
static int st_consumer(void *u, const rdbkit_stream_consumer *x) { return (void)x, stop(u); }
static int st_pending(void *u, const rdbkit_stream_pending *x) { return (void)x, stop(u); }
static int st_end(void *u, int x) { return (void)x, stop(u); }
static int raw_key(void *u, const rdbkit_key *x) { return (void)u, (void)x, RDBKIT_TAKE_RAW; }
static int raw_maux(void *u, const rdbkit_module_aux *x) { return (void)u, (void)x, RDBKIT_TAKE_RAW; }

enum { CALLBACKS_N = 26 };

/* A visitor with one callback; the last two get raw bytes of keys and of module_aux. Returns its name. */
static const char *only(int i, rdbkit_visitor *v) {
    switch (i) {
    case 0: v->header = st_header; return "header";
    case 1: v->aux = st_str2; return "aux";
    case 2: v->function = st_function; return "function";
    case 3: v->module_aux = st_maux; return "module_aux";
    case 4: v->module_aux_end = st_none; return "module_aux_end";
    case 5: v->db = st_db; return "db";
    case 6: v->resize = st_resize; return "resize";
    case 7: v->slot_info = st_slot; return "slot_info";
    case 8: v->slot_import = st_import; return "slot_import";
    case 9: v->key = st_key; return "key";
    case 10: v->string = st_str; return "string";
    case 11: v->string_piece = st_piece; return "string_piece";
    case 12: v->list_item = st_str; return "list_item";
    case 13: v->set_member = st_str; return "set_member";
    case 14: v->zset_member = st_zset; return "zset_member";
    case 15: v->hash_field = st_hash; return "hash_field";
    case 16: v->stream_entry = st_entry; return "stream_entry";
    case 17: v->stream_field = st_str2; return "stream_field";
    case 18: v->stream_info = st_info; return "stream_info";
    case 19: v->stream_group = st_group; return "stream_group";
    case 20: v->stream_consumer = st_consumer; return "stream_consumer";
    case 21: v->stream_pending = st_pending; return "stream_pending";
    case 22: v->key_end = st_none; return "key_end";
    case 23: v->end = st_end; return "end";
    case 24:
        v->key = raw_key;
        v->raw = st_raw;
        return "raw of a key";
    case 25:
        v->module_aux = raw_maux;
        v->raw = st_raw;
        return "raw of module_aux";
    default: return NULL;
    }
}

static rdbkit_reader *only_reader(int i, rdbkit_visitor *v) {
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    if (v->string_piece) o.piece_len = 1;
    (void)i;
    rdbkit_reader *r = rdbkit_reader_new(&o, v);
    assert_non_null(r);
    return r;
}

static void each_callback_is_called_and_may_stand_alone(void **state) {
    (void)state;
    tk_bytes b = all_events(1);
    for (int i = 0; i < CALLBACKS_N; i++) {
        rdbkit_visitor v = {0};
        stopper s = {0, RDBKIT_OK};
        v.user = &s;
        const char *name = only(i, &v);
        rdbkit_reader *r = only_reader(i, &v);
        if (read_all(r, &b) != RDBKIT_DONE) fail_msg("%s alone: %s", name, rdbkit_reader_error(r)->message);
        if (!s.calls) fail_msg("%s was never called", name);
        rdbkit_reader_free(r);
    }
    tk_drop(&b);
}

static void negative_answer_of_each_callback_comes_back_and_stays(void **state) {
    (void)state;
    tk_bytes b = all_events(1);
    static const int answers[] = {STOP, RDBKIT_ERR_STOPPED, RDBKIT_ERR_NOMEM};
    for (int i = 0; i < CALLBACKS_N; i++) {
        for (int k = 0; k < 6; k++) {
            rdbkit_visitor v = {0};
            stopper s = {0, answers[k / 2]};
            v.user = &s;
            const char *name = only(i, &v);
            rdbkit_reader *r = only_reader(i, &v);
            int st = RDBKIT_MORE;
            if (k % 2 == 0) st = rdbkit_reader_feed(r, b.data, b.len);
            else
                for (size_t n = 0; n < b.len && st == RDBKIT_MORE; n++)
                    st = rdbkit_reader_feed(r, b.data + n, 1);
            if (st != s.answer) fail_msg("%s answered %d, feed %d", name, s.answer, st);
            if (rdbkit_reader_error(r)->code >= 0) fail_msg("%s stopped, and there is no error", name);
            assert_int_equal(rdbkit_reader_feed(r, b.data, b.len), s.answer);
            assert_int_equal(rdbkit_reader_finish(r), s.answer);
            if (s.calls != 1) fail_msg("%s was called again after it stopped", name);
            rdbkit_reader_free(r);
            rdbkit_input *in = rdbkit_input_new_memory(NULL, b.data, b.len);
            assert_non_null(in);
            r = only_reader(i, &v);
            assert_int_equal(rdbkit_reader_pull(r, in), s.answer);
            rdbkit_reader_free(r);
            rdbkit_input_free(in);
        }
    }
    tk_drop(&b);
}

static void answer_above_zero_of_a_callback_is_a_usage_error(void **state) {
    (void)state;
    tk_bytes b = all_events(1);
    for (int i = 0; i < 24; i++) {
        rdbkit_visitor v = {0};
        stopper s = {0, 7777};
        v.user = &s;
        const char *name = only(i, &v);
        rdbkit_reader *r = only_reader(i, &v);
        if (read_all(r, &b) != RDBKIT_ERR_USAGE) fail_msg("%s: %s", name, rdbkit_reader_error(r)->message);
        rdbkit_reader_free(r);
    }
    tk_drop(&b);
}

static int note_expiry(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)field, (void)value;
    *(int64_t *)user = expire_ms;
    return RDBKIT_OK;
}

/* Counted from a smallest time of 0 the first one is 0, which Redis 8.0 takes for a field that stays. */
static void field_expiry_of_zero_is_none_in_redis_files(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        tk_bytes b = {0};
        tk_magic(&b, "REDIS0012");
        tk_u8(&b, 24);
        tk_str(&b, "h");
        tk_le(&b, (uint64_t)i, 8);
        tk_len(&b, 1);
        tk_len(&b, 1);
        tk_str(&b, "f");
        tk_str(&b, "v");
        tk_end(&b);
        int64_t got = 7;
        rdbkit_visitor v = {0};
        v.user = &got, v.hash_field = note_expiry;
        rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
        assert_non_null(r);
        assert_int_equal(read_all(r, &b), RDBKIT_DONE);
        assert_int_equal(got, i ? 1 : RDBKIT_NO_EXPIRY);
        rdbkit_reader_free(r);
        tk_drop(&b);
    }
}

static int filter_takes_raw(void *ctx, rdbkit_key *key) { return (void)ctx, (void)key, RDBKIT_TAKE_RAW; }

static void filter_cannot_take_a_value_raw(void **state) {
    (void)state;
    tk_bytes b = all_events(1);
    rdbkit_visitor v = {0};
    stopper s = {0, RDBKIT_OK};
    v.user = &s, v.raw = st_raw;
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    o.key_filter = filter_takes_raw;
    rdbkit_reader *r = rdbkit_reader_new(&o, &v);
    assert_non_null(r);
    assert_int_equal(read_all(r, &b), RDBKIT_ERR_USAGE);
    assert_int_equal(s.calls, 0);
    rdbkit_reader_free(r);
    tk_drop(&b);
}

static void no_piece_of_a_string_comes_without_piece_len(void **state) {
    (void)state;
    tk_bytes b = all_events(1);
    rdbkit_visitor v = {0};
    stopper s = {0, RDBKIT_OK};
    v.user = &s, v.string_piece = st_piece;
    rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
    assert_non_null(r);
    assert_int_equal(read_all(r, &b), RDBKIT_DONE);
    assert_int_equal(s.calls, 0);
    rdbkit_reader_free(r);
    tk_drop(&b);
}

/* A keyspace with values as they came, and if asked also one that a command has made. */
static rdbkit_keyspace *keyspace_of(const tk_bytes *b, int command) {
    rdbkit_keyspace *ks = rdbkit_keyspace_new(NULL);
    assert_non_null(ks);
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_keyspace_visitor(ks));
    assert_non_null(r);
    if (read_all(r, b) != RDBKIT_DONE) fail_msg("%s", rdbkit_reader_error(r)->message);
    rdbkit_reader_free(r);
    const rdbkit_str argv[] = {{"RPUSH", 5}, {"list", 4}, {"a", 1}};
    const rdbkit_command c = {.argv = argv, .argc = 3, .timestamp_s = RDBKIT_NO_TIMESTAMP};
    if (command) assert_int_equal(rdbkit_keyspace_command(ks, &c), RDBKIT_OK);
    return ks;
}

static void emit_that_a_callback_ends_changes_nothing(void **state) {
    (void)state;
    static const int answers[] = {STOP, RDBKIT_ERR_STOPPED, RDBKIT_ERR_NOMEM, 7777};
    tk_bytes b = all_events(1);
    for (int command = 0; command < 2; command++) {
        rdbkit_keyspace *ks = keyspace_of(&b, command);
        for (int i = 0; i < 24; i++) {
            for (size_t k = 0; k < sizeof answers / sizeof *answers; k++) {
                rdbkit_reader_options o;
                rdbkit_reader_options_init(&o);
                rdbkit_visitor v = {0};
                stopper s = {0, answers[k]};
                v.user = &s;
                const char *name = only(i, &v);
                o.piece_len = v.string_piece != NULL;
                const int st = rdbkit_keyspace_emit(ks, &o, &v);
                const int want = !s.calls ? RDBKIT_DONE : s.answer < 0 ? s.answer : RDBKIT_ERR_USAGE;
                if (st != want) fail_msg("%s answered %d, emit %d", name, s.answer, st);
                if (s.calls > 1) fail_msg("%s was called again after it stopped", name);
                assert_int_equal(rdbkit_keyspace_error(ks)->code, RDBKIT_OK);
            }
        }
        rdbkit_visitor v = {0};
        assert_int_equal(rdbkit_keyspace_emit(ks, NULL, &v), RDBKIT_DONE);
        rdbkit_keyspace_free(ks);
    }
    tk_drop(&b);
}

static void reader_may_be_stopped_at_any_event(void **state) {
    (void)state;
    tk_bytes b = all_events(1);
    for (uint64_t n = 1;; n++) {
        events e;
        events_init(&e, 0);
        e.stop_at = n;
        rdbkit_visitor v = events_visitor(&e);
        rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
        assert_non_null(r);
        int st = read_all(r, &b);
        rdbkit_reader_free(r);
        if (st == RDBKIT_DONE) {
            assert_true(e.n == n - 1 && n > 30);
            break;
        }
        assert_int_equal(st, RDBKIT_ERR_STOPPED);
        assert_int_equal(e.n, n);
    }
    tk_drop(&b);
}

/* ---- Inputs ---- */

typedef struct failing {
    const tk_bytes *b;
    size_t pos, fail_at;
    int err;
} failing;

static ptrdiff_t failing_read(void *ctx, void *buf, size_t size) {
    failing *f = ctx;
    if (f->pos >= f->fail_at) return -f->err;
    if (size > 3) size = 3;
    if (size > f->fail_at - f->pos) size = f->fail_at - f->pos;
    memcpy(buf, f->b->data + f->pos, size);
    f->pos += size;
    return (ptrdiff_t)size;
}

static void failed_read_is_an_io_error_with_its_errno(void **state) {
    (void)state;
    tk_bytes b = all_events(0), gz = {0};
    tk_gzip(&gz, b.data, b.len);
    for (int k = 0; k < 2; k++) {
        const tk_bytes *from = k ? &gz : &b;
        for (size_t at = 0; at < from->len; at++) {
            failing f = {from, 0, at, EIO};
            rdbkit_input *in = rdbkit_input_new(NULL, failing_read, &f);
            rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
            assert_non_null(in);
            assert_non_null(r);
            int st = rdbkit_reader_pull(r, in);
            if (!(k && st == RDBKIT_DONE && at + 12 >= from->len) /* what is left is the trailer */) {
                assert_int_equal(st, RDBKIT_ERR_IO);
                assert_int_equal(rdbkit_reader_error(r)->sys_errno, EIO);
            }
            rdbkit_reader_free(r);
            rdbkit_input_free(in);
        }
    }
    rdbkit_input *in = rdbkit_input_new_fd(NULL, -1);
    rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
    assert_non_null(in);
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_pull(r, in), RDBKIT_ERR_IO);
    assert_int_equal(rdbkit_reader_error(r)->sys_errno, EBADF);
    rdbkit_reader_free(r);
    rdbkit_input_free(in);
    tk_drop(&b);
    tk_drop(&gz);
}

static void damaged_gzip_is_never_done(void **state) {
    (void)state;
    tk_bytes b = all_events(0), gz = {0};
    tk_gzip(&gz, b.data, b.len);
    for (size_t at = 10; at < gz.len; at++) {
        gz.data[at] ^= 0x55;
        rdbkit_input *in = rdbkit_input_new_memory(NULL, gz.data, gz.len);
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        const void *rest;
        size_t len;
        assert_non_null(in);
        assert_non_null(r);
        int st = rdbkit_reader_pull(r, in);
        if (st == RDBKIT_DONE)
            while ((st = rdbkit_input_rest(in, &rest, &len)) == RDBKIT_OK && len) continue;
        if (st >= 0) fail_msg("gzip with byte %zu of %zu changed: %d", at, gz.len, st);
        rdbkit_reader_free(r);
        rdbkit_input_free(in);
        gz.data[at] ^= 0x55;
    }
    tk_drop(&b);
    tk_drop(&gz);
}

/* ---- Commands ---- */

typedef struct taker {
    tk_bytes got;
    size_t fail_after; /* bytes; 0: never */
    int writes;
} taker;

static int take(void *ctx, const void *data, size_t len) {
    taker *t = ctx;
    t->writes++;
    if (t->fail_after && t->got.len + len > t->fail_after) return -ENOSPC;
    tk_put(&t->got, data, len);
    return 0;
}

static int resp_of(const tk_bytes *b, const rdbkit_resp_options *o, taker *t, rdbkit_loss *loss, int *err) {
    rdbkit_resp *s = rdbkit_resp_new(o, take, t);
    assert_non_null(s);
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_resp_visitor(s));
    assert_non_null(r);
    int st = read_all(r, b);
    int finish = rdbkit_resp_finish(s);
    if (loss && rdbkit_resp_loss(s, 0)) *loss = *rdbkit_resp_loss(s, 0);
    if (err) *err = rdbkit_resp_errno(s);
    rdbkit_reader_free(r);
    rdbkit_resp_free(s);
    return st < 0 ? st : finish < 0 ? finish : st;
}

static tk_bytes list_file(unsigned n) {
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 0);
    tk_plain_key(&b, 1, "list", "some item of a list, number ", n);
    tk_end(&b);
    return b;
}

static void commands_are_whole_and_hold_the_values(void **state) {
    (void)state;
    tk_bytes b = all_events(0);
    rdbkit_resp_options o;
    rdbkit_resp_options_init(&o);
    taker t = {0};
    rdbkit_loss loss = {0};
    int st = resp_of(&b, &o, &t, &loss, NULL);
    if (st != RDBKIT_DONE) fail_msg("%d, loss %s", st, loss.name ? loss.name : "none");
    tk_put(&t.got, "", 1);
    static const char *const words[] = {"SELECT",  "FUNCTION", "SET",          "RPUSH",  "SADD",  "ZADD",
                                        "HSET",    "XADD",     "XGROUP",       "XCLAIM", "value", "item2",
                                        "member2", "1.5",      "$2\r\nx3\r\n", "7-1",    "alice"};
    size_t at = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        for (at = 0; at + strlen(words[i]) <= t.got.len; at++)
            if (memcmp(t.got.data + at, words[i], strlen(words[i])) == 0) break;
        if (at + strlen(words[i]) > t.got.len && strcmp(words[i], "HSET") != 0)
            fail_msg("no %s in the commands", words[i]);
    }
    tk_drop(&t.got);
    tk_drop(&b);
}

static void failed_write_is_an_io_error_with_its_errno(void **state) {
    (void)state;
    rdbkit_resp_options o;
    rdbkit_resp_options_init(&o);
    static const unsigned sizes[] = {1, 100, 40000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        tk_bytes b = list_file(sizes[i]);
        for (size_t after = 1; after <= 1000001; after += 500000) {
            taker t = {.fail_after = after};
            int err = 0, st = resp_of(&b, &o, &t, NULL, &err);
            if (st == RDBKIT_DONE && t.got.len && t.got.len <= after) {
                tk_drop(&t.got);
                continue;
            }
            assert_int_equal(st, RDBKIT_ERR_IO);
            assert_int_equal(err, ENOSPC);
            tk_drop(&t.got);
        }
        tk_drop(&b);
    }
}

static void finish_after_a_failed_write_is_an_io_error(void **state) {
    (void)state;
    tk_bytes b = list_file(100000);
    taker t = {.fail_after = 1};
    rdbkit_resp *s = rdbkit_resp_new(NULL, take, &t);
    assert_non_null(s);
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_resp_visitor(s));
    assert_non_null(r);
    assert_int_equal(read_all(r, &b), RDBKIT_ERR_IO);
    const int writes = t.writes;
    for (int i = 0; i < 2; i++) assert_int_equal(rdbkit_resp_finish(s), RDBKIT_ERR_IO);
    assert_int_equal(t.writes, writes);
    rdbkit_reader_free(r);
    rdbkit_resp_free(s);
    tk_drop(&t.got);
    tk_drop(&b);
}

static void batch_out_of_range_makes_no_sink(void **state) {
    (void)state;
    rdbkit_resp_options o;
    static const unsigned wrong[] = {0, 100001, UINT32_MAX}, right[] = {1, 64, 100000};
    taker t = {0};
    for (size_t i = 0; i < 3; i++) {
        rdbkit_resp_options_init(&o);
        o.batch = wrong[i];
        assert_null(rdbkit_resp_new(&o, take, &t));
        o.batch = right[i];
        rdbkit_resp *s = rdbkit_resp_new(&o, take, &t);
        assert_non_null(s);
        rdbkit_resp_free(s);
    }
}

/* The largest command of a list is two words and a batch. */
static void commands_hold_no_more_than_a_batch(void **state) {
    (void)state;
    tk_bytes b = list_file(1000);
    static const unsigned batches[] = {1, 2, 64, 999, 1000, 100000};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        rdbkit_resp_options o;
        rdbkit_resp_options_init(&o);
        o.batch = batches[i];
        taker t = {0};
        assert_int_equal(resp_of(&b, &o, &t, NULL, NULL), RDBKIT_DONE);
        unsigned long most = 0, sum = 0;
        for (size_t at = 0; at + 1 < t.got.len; at++)
            if (t.got.data[at] == '*' && (at == 0 || t.got.data[at - 1] == '\n')) {
                unsigned long n = strtoul((char *)t.got.data + at + 1, NULL, 10);
                if (n > most) most = n;
                sum += n;
            }
        assert_int_equal(most, 2 + (batches[i] < 1000 ? batches[i] : 1000));
        assert_int_equal(sum, 2 + 1000 + 2 * ((1000 + batches[i] - 1) / batches[i]));
        tk_drop(&t.got);
    }
    tk_drop(&b);
}

static void loss_is_refused_before_anything_of_the_key_is_written(void **state) {
    (void)state;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0011");
    tk_db(&b, 5);
    stream_key(&b, "my stream", 0);
    stream_key(&b, "another", 1);
    tk_end(&b);
    for (int mode = 0; mode < 3; mode++) {
        rdbkit_resp_options o;
        rdbkit_resp_options_init(&o);
        o.target = rdbkit_target_find("redis-4.0");
        o.allow_loss = mode == 1;
        o.dry_run = mode == 2;
        taker t = {0};
        rdbkit_loss loss = {0};
        int st = resp_of(&b, &o, &t, &loss, NULL);
        assert_int_equal(st, mode == 0 ? RDBKIT_ERR_LOSS : RDBKIT_DONE);
        assert_int_equal(loss.kind, RDBKIT_LOSS_STREAM);
        assert_int_equal(loss.is_note, 0);
        assert_int_equal(loss.keys, mode == 0 ? 1 : 2);
        assert_int_equal(loss.db, 5);
        assert_int_equal(loss.key_len, 9);
        assert_memory_equal(loss.key, "my stream", 9);
        assert_non_null(loss.name);
        assert_non_null(loss.text);
        if (mode == 2) assert_int_equal(t.writes, 0);
        for (size_t at = 0; at + 9 <= t.got.len; at++)
            assert_memory_not_equal(t.got.data + at, "my stream", 9);
        tk_drop(&t.got);
    }
    tk_drop(&b);
}

/* A stream with an entry 7-1 {f: v} and one without fields: XADD takes no such thing. */
static void stream_entry_without_fields_is_a_loss(void **state) {
    (void)state;
    static const unsigned char node[] = {39,  0, 0, 0, 15, 0, 2, 1, 0, 1, 1,    1,   0x81,
                                         'f', 2, 0, 1, 2,  1, 0, 1, 0, 1, 0x81, 'v', 2,
                                         4,   1, 0, 1, 1,  1, 0, 1, 0, 1, 4,    1,   255};
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 0);
    tk_u8(&b, 15);
    tk_str(&b, "s");
    tk_len(&b, 1);
    tk_len(&b, 16);
    be64(&b, 7);
    be64(&b, 1);
    tk_strn(&b, node, sizeof node);
    static const unsigned info[] = {2, 8, 1, 0};
    for (size_t i = 0; i < sizeof info / sizeof *info; i++) tk_len(&b, info[i]);
    tk_end(&b);
    for (int allow = 0; allow < 2; allow++) {
        rdbkit_resp_options o;
        rdbkit_resp_options_init(&o);
        o.allow_loss = allow;
        taker t = {0};
        rdbkit_loss loss = {0};
        assert_int_equal(resp_of(&b, &o, &t, &loss, NULL), allow ? RDBKIT_DONE : RDBKIT_ERR_LOSS);
        assert_int_equal(loss.kind, RDBKIT_LOSS_STREAM_ENTRY);
        assert_int_equal(loss.items, 1);
        tk_u8(&t.got, 0);
        const char *xadd = allow ? strstr((const char *)t.got.data, "XADD") : NULL;
        if (allow && (!xadd || strstr(xadd + 1, "XADD"))) fail_msg("%s", (const char *)t.got.data);
        tk_drop(&t.got);
    }
    tk_drop(&b);
}

static void sink_goes_on_being_an_error_for_its_reader(void **state) {
    (void)state;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0011");
    stream_key(&b, "s", 0);
    tk_string_key(&b, "after", "it", -1);
    tk_end(&b);
    rdbkit_resp_options o;
    rdbkit_resp_options_init(&o);
    o.target = rdbkit_target_find("redis-4.0");
    taker t = {0};
    rdbkit_resp *s = rdbkit_resp_new(&o, take, &t);
    assert_non_null(s);
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_resp_visitor(s));
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_feed(r, b.data, b.len), RDBKIT_ERR_LOSS);
    assert_int_equal(rdbkit_reader_error(r)->code, RDBKIT_ERR_LOSS);
    assert_int_equal(rdbkit_reader_error(r)->key_len, 1);
    assert_int_equal(rdbkit_reader_error(r)->key[0], 's');
    assert_int_equal(rdbkit_resp_finish(s), RDBKIT_OK);
    assert_int_equal(rdbkit_resp_errno(s), 0);
    rdbkit_reader_free(r);
    rdbkit_resp_free(s);
    tk_drop(&t.got);
    tk_drop(&b);
}

/* ---- Check ---- */

typedef struct room {
    tk_bytes b;
    int writes, reads, fail_write, fail_read, spoil_read;
} room;

static int room_write(void *ctx, const void *data, size_t len) {
    room *m = ctx;
    m->writes++;
    if (m->fail_write) return -ENOSPC;
    tk_put(&m->b, data, len);
    return 0;
}

static int room_read(void *ctx, uint64_t offset, void *data, size_t len) {
    room *m = ctx;
    m->reads++;
    if (m->fail_read || offset > m->b.len || len > m->b.len - offset) return -EIO;
    memcpy(data, m->b.data + offset, len);
    if (m->spoil_read) memset(data, 0x11, len);
    return 0;
}

static int room_reset(void *ctx) {
    tk_drop(&((room *)ctx)->b);
    return 0;
}

/* Returns what rdbkit_check_finish does; reads with and without a spill, and both have to agree. */
static int64_t duplicates(const tk_bytes *b, rdbkit_duplicate *first) {
    int64_t found[2];
    rdbkit_duplicate dup[2] = {{0, 0, 0}, {0, 0, 0}};
    for (int spilled = 0; spilled < 2; spilled++) {
        room m = {0};
        rdbkit_spill spill = {room_write, room_read, &m, NULL};
        rdbkit_check *c = rdbkit_check_new(NULL, spilled ? &spill : NULL);
        assert_non_null(c);
        rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_check_visitor(c));
        assert_non_null(r);
        if (read_all(r, b) != RDBKIT_DONE) fail_msg("%s", rdbkit_reader_error(r)->message);
        found[spilled] = rdbkit_check_finish(c);
        const rdbkit_duplicate *d = rdbkit_check_duplicate(c, 0);
        if (found[spilled] > 0) {
            assert_non_null(d);
            dup[spilled] = *d;
        } else assert_null(d);
        assert_null(rdbkit_check_duplicate(c, 16));
        rdbkit_reader_free(r);
        rdbkit_check_free(c);
        tk_drop(&m.b);
    }
    assert_int_equal(found[0], found[1]);
    assert_int_equal(dup[0].first_off, dup[1].first_off);
    assert_int_equal(dup[0].second_off, dup[1].second_off);
    assert_int_equal(dup[0].field, dup[1].field);
    *first = dup[0];
    return found[0];
}

static void check_finds_a_key_that_occurs_twice(void **state) {
    (void)state;
    rdbkit_duplicate d;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 0);
    uint64_t first = b.len;
    tk_string_key(&b, "key", "a", 4102444800000);
    tk_string_key(&b, "other", "a", -1);
    uint64_t second = b.len;
    tk_plain_key(&b, 1, "key", "b", 2);
    tk_db(&b, 1);
    tk_string_key(&b, "key", "a", -1);
    tk_string_key(&b, "", "a", -1);
    tk_end(&b);
    assert_int_equal(duplicates(&b, &d), 1);
    assert_int_equal(d.first_off, first);
    assert_int_equal(d.second_off, second);
    assert_int_equal(d.field, 0);
    tk_drop(&b);
}

static void check_takes_the_same_name_in_two_databases(void **state) {
    (void)state;
    rdbkit_duplicate d;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    for (unsigned db = 0; db < 16; db++) {
        tk_db(&b, db);
        tk_string_key(&b, "key", "a", -1);
        tk_string_key(&b, "", "a", -1);
    }
    tk_end(&b);
    assert_int_equal(duplicates(&b, &d), 0);
    tk_drop(&b);
}

static void check_remembers_a_database_that_comes_back(void **state) {
    (void)state;
    rdbkit_duplicate d;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_string_key(&b, "key", "before any select is database 0", -1);
    tk_db(&b, 1);
    tk_string_key(&b, "key", "a", -1);
    tk_db(&b, 0);
    tk_string_key(&b, "key", "a", -1);
    tk_end(&b);
    assert_int_equal(duplicates(&b, &d), 1);
    tk_drop(&b);
}

static void check_finds_a_member_or_field_that_occurs_twice(void **state) {
    (void)state;
    for (int type = 2; type <= 5; type++) {
        if (type == 3) continue;
        for (unsigned n = 2; n <= 20000; n *= 100) {
            for (int twice = 0; twice < 2; twice++) {
                rdbkit_duplicate d;
                tk_bytes b = {0};
                char text[40];
                tk_magic(&b, "REDIS0009");
                tk_db(&b, 0);
                tk_string_key(&b, "m0", "a", -1);
                uint64_t at = b.len;
                tk_u8(&b, (unsigned)type);
                tk_str(&b, "coll");
                tk_len(&b, n);
                for (unsigned i = 0; i < n; i++) {
                    snprintf(text, sizeof text, "m%u", twice && i == n - 1 ? 0 : i);
                    tk_str(&b, text);
                    if (type == 4) tk_str(&b, "same value");
                    if (type == 5) tk_le(&b, 0x3ff8000000000000u, 8);
                }
                tk_end(&b);
                int64_t found = duplicates(&b, &d);
                if (found != twice)
                    fail_msg("type %d with %u members, %d twice: found %d", type, n, twice, (int)found);
                if (twice) {
                    assert_int_equal(d.first_off, at);
                    assert_int_equal(d.field, 1);
                }
                tk_drop(&b);
            }
        }
    }
}

static void check_lets_lists_and_values_repeat(void **state) {
    (void)state;
    rdbkit_duplicate d;
    tk_bytes b = {0};
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 0);
    tk_u8(&b, 1);
    tk_str(&b, "list");
    tk_len(&b, 3000);
    for (int i = 0; i < 3000; i++) tk_str(&b, "same");
    tk_plain_key(&b, 4, "hash1", "f", 1500);
    tk_plain_key(&b, 4, "hash2", "f", 1500);
    tk_plain_key(&b, 2, "set1", "f", 1500);
    tk_end(&b);
    assert_int_equal(duplicates(&b, &d), 0);
    tk_drop(&b);
}

static tk_bytes many_keys(unsigned n, unsigned twice_every) {
    tk_bytes b = {0};
    char text[40];
    tk_magic(&b, "REDIS0009");
    tk_db(&b, 0);
    for (unsigned i = 0; i < n; i++) {
        snprintf(text, sizeof text, "key:%u", i * 2654435761u);
        tk_string_key(&b, text, "v", -1);
    }
    for (unsigned i = 0; twice_every && i < n; i += twice_every) {
        snprintf(text, sizeof text, "key:%u", i * 2654435761u);
        tk_string_key(&b, text, "v", -1);
    }
    tk_end(&b);
    return b;
}

static void check_counts_all_duplicates_of_very_many_keys(void **state) {
    (void)state;
    rdbkit_duplicate d;
    tk_bytes none = many_keys(400000, 0), some = many_keys(400000, 10000);
    assert_int_equal(duplicates(&none, &d), 0);
    assert_int_equal(duplicates(&some, &d), 40);
    assert_true(d.first_off < d.second_off);
    assert_int_equal(some.data[d.first_off], 0);
    assert_int_equal(some.data[d.second_off], 0);
    size_t len = 2 + (size_t)some.data[d.first_off + 1];
    assert_memory_equal(some.data + d.first_off, some.data + d.second_off, len);
    tk_drop(&none);
    tk_drop(&some);
}

static void failed_spill_is_an_io_error(void **state) {
    (void)state;
    tk_bytes b = many_keys(3000000, 0);
    for (int k = 0; k < 3; k++) {
        room m = {.fail_write = k == 0, .fail_read = k == 1, .spoil_read = k == 2};
        rdbkit_spill spill = {room_write, room_read, &m, NULL};
        rdbkit_check *c = rdbkit_check_new(NULL, &spill);
        assert_non_null(c);
        rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_check_visitor(c));
        assert_non_null(r);
        int64_t st = read_all(r, &b);
        const rdbkit_visitor *v = rdbkit_check_visitor(c);
        const rdbkit_key key = {.type = rdbkit_type_at(0), .name = {"k", 1}};
        for (int i = 0; i < 20000 && st < 0; i++) assert_int_equal(v->key(v->user, &key), st); /* it stays */
        const int64_t finish = rdbkit_check_finish(c);
        if (!m.writes) fail_msg("3,000,000 keys were not spilled");
        assert_int_equal(finish, RDBKIT_ERR_IO);
        rdbkit_reader_free(r);
        rdbkit_check_free(c);
        tk_drop(&m.b);
    }
    tk_drop(&b);
}

static void check_begins_with_an_empty_spill(void **state) {
    (void)state;
    tk_bytes b = many_keys(200000, 50000);
    room m = {0};
    rdbkit_spill spill = {room_write, room_read, &m, room_reset};
    for (int n = 0; n < 2; n++) { /* the second time with what the first one left */
        rdbkit_check *c = rdbkit_check_new(NULL, &spill);
        assert_non_null(c);
        rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_check_visitor(c));
        assert_non_null(r);
        assert_int_equal(read_all(r, &b), RDBKIT_DONE);
        assert_true(m.writes > 0);
        assert_int_equal(rdbkit_check_finish(c), 4);
        rdbkit_reader_free(r);
        rdbkit_check_free(c);
    }
    tk_drop(&m.b);
    tk_drop(&b);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_is_that_of_the_header),
        cmocka_unit_test(every_status_has_a_text_of_its_own),
        cmocka_unit_test(every_shape_has_its_name),
        cmocka_unit_test(options_start_with_the_defaults),
        cmocka_unit_test(targets_are_found_by_name_and_by_alias),
        cmocka_unit_test(targets_have_the_versions_that_the_servers_write),
        cmocka_unit_test(type_rows_are_unique_by_number_and_lineage),
        cmocka_unit_test(targets_load_what_the_servers_were_seen_to_load),
        cmocka_unit_test(free_takes_null),
        cmocka_unit_test(reader_without_visitor_checks_the_file),
        cmocka_unit_test(wrong_checksum_passes_only_where_it_is_ignored),
        cmocka_unit_test(first_error_stays),
        cmocka_unit_test(error_names_key_type_and_database),
        cmocka_unit_test(feeding_nothing_changes_nothing),
        cmocka_unit_test(empty_input_is_truncated),
        cmocka_unit_test(offset_after_the_end_is_that_of_trailing_bytes),
        cmocka_unit_test(readers_can_be_interleaved),
        cmocka_unit_test(item_over_the_limit_is_refused),
        cmocka_unit_test(magic_of_unknown_versions_is_unsupported),
        cmocka_unit_test(each_callback_is_called_and_may_stand_alone),
        cmocka_unit_test(negative_answer_of_each_callback_comes_back_and_stays),
        cmocka_unit_test(answer_above_zero_of_a_callback_is_a_usage_error),
        cmocka_unit_test(field_expiry_of_zero_is_none_in_redis_files),
        cmocka_unit_test(filter_cannot_take_a_value_raw),
        cmocka_unit_test(no_piece_of_a_string_comes_without_piece_len),
        cmocka_unit_test(emit_that_a_callback_ends_changes_nothing),
        cmocka_unit_test(reader_may_be_stopped_at_any_event),
        cmocka_unit_test(failed_read_is_an_io_error_with_its_errno),
        cmocka_unit_test(damaged_gzip_is_never_done),
        cmocka_unit_test(commands_are_whole_and_hold_the_values),
        cmocka_unit_test(failed_write_is_an_io_error_with_its_errno),
        cmocka_unit_test(finish_after_a_failed_write_is_an_io_error),
        cmocka_unit_test(batch_out_of_range_makes_no_sink),
        cmocka_unit_test(commands_hold_no_more_than_a_batch),
        cmocka_unit_test(loss_is_refused_before_anything_of_the_key_is_written),
        cmocka_unit_test(stream_entry_without_fields_is_a_loss),
        cmocka_unit_test(sink_goes_on_being_an_error_for_its_reader),
        cmocka_unit_test(check_finds_a_key_that_occurs_twice),
        cmocka_unit_test(check_takes_the_same_name_in_two_databases),
        cmocka_unit_test(check_remembers_a_database_that_comes_back),
        cmocka_unit_test(check_finds_a_member_or_field_that_occurs_twice),
        cmocka_unit_test(check_lets_lists_and_values_repeat),
        cmocka_unit_test(check_counts_all_duplicates_of_very_many_keys),
        cmocka_unit_test(failed_spill_is_an_io_error),
        cmocka_unit_test(check_begins_with_an_empty_spill),
    };
    return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
