/* test_salvage.c - damaged RDB files (room fix_): a damaged value costs its own key alone, what is kept is sound, and each
 * key is either kept or lost.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "testkit.h"

#define TEST(name) static void name(void **state TK_USED)

typedef struct outcome {
    int status;
    uint64_t kept, lost, seen;
    tk_bytes lost_names; /* each with a blank behind it */
    tk_bytes out, kept_names;
} outcome;

static int keep(void *ctx, const void *data, size_t len) {
    tk_put(ctx, data, len);
    return 0;
}

static int on_lost(void *ctx, const rdbkit_lost *lost) {
    outcome *o = ctx;
    tk_put(&o->lost_names, lost->key->name.data, lost->key->name.len);
    tk_u8(&o->lost_names, ' ');
    return lost->reason && lost->reason[0] ? RDBKIT_OK : RDBKIT_ERR_STOPPED;
}

static int on_key(void *user, const rdbkit_key *key) {
    outcome *o = user;
    tk_put(&o->kept_names, key->name.data, key->name.len);
    tk_u8(&o->kept_names, ' ');
    return RDBKIT_OK;
}

static int on_string(void *user, rdbkit_str s) {
    (void)user, (void)s;
    return RDBKIT_OK;
}

/* Salvage data, close what was written, and read it again. */
static void salvage(outcome *o, const unsigned char *data, size_t len, const rdbkit_allocator *allocator) {
    rdbkit_writer_options wo;
    rdbkit_reader_options ro;
    memset(o, 0, sizeof *o);
    rdbkit_writer_options_init(&wo);
    wo.target = rdbkit_target_find("redis-7.2");
    wo.allow_loss = 1;
    wo.allocator = allocator;
    rdbkit_reader_options_init(&ro);
    ro.ignore_checksum = 1;
    ro.allocator = allocator;
    rdbkit_writer *w = rdbkit_writer_new(&wo, keep, &o->out);
    rdbkit_salvage *s = w ? rdbkit_salvage_new(allocator, rdbkit_writer_visitor(w), on_lost, o) : NULL;
    rdbkit_reader *r = s ? rdbkit_reader_new(&ro, rdbkit_salvage_visitor(s)) : NULL;
    o->status = RDBKIT_ERR_NOMEM;
    if (r) {
        o->status = rdbkit_reader_feed(r, data, len);
        if (o->status == RDBKIT_MORE) o->status = rdbkit_reader_finish(r);
        o->kept = rdbkit_salvage_kept(s), o->lost = rdbkit_salvage_lost(s), o->seen = rdbkit_reader_keys(r);
        const rdbkit_visitor *to = rdbkit_writer_visitor(w);
        if (o->status < 0 && o->status != RDBKIT_ERR_NOMEM) assert_int_equal(to->end(to->user, 0), RDBKIT_OK);
    }
    rdbkit_reader_free(r);
    rdbkit_salvage_free(s);
    rdbkit_writer_free(w);
    if (o->status == RDBKIT_ERR_NOMEM) return;
    rdbkit_visitor v;
    memset(&v, 0, sizeof v);
    v.user = o, v.key = on_key, v.string = on_string;
    rdbkit_reader_options_init(&ro);
    r = rdbkit_reader_new(&ro, &v);
    assert_non_null(r);
    const int st = rdbkit_reader_feed(r, o->out.data, o->out.len);
    if (st != RDBKIT_DONE)
        fail_msg("what was saved is not sound: %d, %s", st, rdbkit_reader_error(r)->message);
    assert_int_equal(rdbkit_reader_keys(r), o->kept);
    rdbkit_reader_free(r);
    tk_u8(&o->kept_names, 0), tk_u8(&o->lost_names, 0);
}

static void drop(outcome *o) { tk_drop(&o->out), tk_drop(&o->kept_names), tk_drop(&o->lost_names); }

/* ---- Packed values that are damaged ---- */

static const unsigned char listpack[] = {13, 0, 0, 0, 2, 0, 0x81, 'a', 2, 0x81, 'b', 2, 0xff};
static const unsigned char ziplist[] = {17, 0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 1, 'a', 3, 1, 'b', 0xff};
static const unsigned char intset[] = {2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 2, 0};
static const unsigned char quicklist_node[] = {10, 0, 0, 0, 1, 0, 0x81, 'a', 2, 0xff};
static const unsigned char stream_node[] = {22, 0,    0,   0, 8, 0, 1, 1, 0, 1, 1,
                                            1,  0x81, 'f', 2, 0, 1, 2, 1, 0, 1, 0xff};

static void blob_key(tk_bytes *b, int type, const char *name, const unsigned char *blob, size_t len) {
    tk_u8(b, (unsigned)type);
    tk_str(b, name);
    if (type == 18) tk_len(b, 1), tk_len(b, 2);
    tk_strn(b, blob, len);
}

static void hold(const tk_bytes *rdb, const char *kept, const char *lost) {
    outcome o;
    salvage(&o, rdb->data, rdb->len, NULL);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_string_equal((const char *)o.kept_names.data, kept);
    assert_string_equal((const char *)o.lost_names.data, lost);
    assert_int_equal(o.kept + o.lost, o.seen);
    drop(&o);
}

TEST(damaged_blob_costs_its_own_key_alone) {
    static const struct {
        int type;
        const unsigned char *blob;
        size_t len, at; /* the byte that is made 0x7f */
    } rows[] = {{16, listpack, sizeof listpack, 0},
                {16, listpack, sizeof listpack, 6},
                {16, listpack, sizeof listpack, 12},
                {20, listpack, sizeof listpack, 4},
                {17, listpack, sizeof listpack, 8},
                {13, ziplist, sizeof ziplist, 0},
                {13, ziplist, sizeof ziplist, 11},
                {10, ziplist, sizeof ziplist, 16},
                {12, ziplist, sizeof ziplist, 13},
                {11, intset, sizeof intset, 0},
                {11, intset, sizeof intset, 4},
                {18, quicklist_node, sizeof quicklist_node, 0},
                {18, quicklist_node, sizeof quicklist_node, 6}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tk_bytes b = {NULL, 0, 0};
        unsigned char blob[64];
        memcpy(blob, rows[i].blob, rows[i].len);
        blob[rows[i].at] = 0x7f;
        tk_magic(&b, "REDIS0011");
        tk_string_key(&b, "before", "v", -1);
        blob_key(&b, rows[i].type, "damaged", blob, rows[i].len);
        tk_string_key(&b, "after", "v", 4000000000000);
        tk_end(&b);
        hold(&b, "before after ", "damaged ");
        tk_drop(&b);
    }
}

TEST(damaged_stream_node_costs_the_stream_alone) {
    for (int damaged = 0; damaged < 2; damaged++) {
        tk_bytes b = {NULL, 0, 0};
        unsigned char node[sizeof stream_node];
        static const unsigned char id[16] = {0, 0, 0, 0, 0, 0, 0, 1};
        memcpy(node, stream_node, sizeof node);
        if (damaged) node[12] = 0x7f;
        tk_magic(&b, "REDIS0011");
        tk_string_key(&b, "before", "v", -1);
        tk_u8(&b, 15);
        tk_str(&b, "x");
        tk_len(&b, 1);
        tk_strn(&b, id, sizeof id);
        tk_strn(&b, node, sizeof node);
        tk_len(&b, 1), tk_len(&b, 1), tk_len(&b, 0), tk_len(&b, 0);
        tk_string_key(&b, "after", "v", -1);
        tk_end(&b);
        outcome o;
        salvage(&o, b.data, b.len, NULL);
        assert_int_equal(o.status, RDBKIT_DONE);
        if (damaged) assert_string_equal((const char *)o.lost_names.data, "x ");
        assert_non_null(strstr((const char *)o.kept_names.data, "before "));
        assert_non_null(strstr((const char *)o.kept_names.data, "after "));
        drop(&o);
        tk_drop(&b);
    }
}

TEST(damaged_compressed_string_costs_its_own_key_alone) {
    static const unsigned char lzf[] = {1, 'a', 'b', 0xe0, 200, 9}; /* reaches back to before the beginning */
    tk_bytes b = {NULL, 0, 0};
    tk_magic(&b, "REDIS0011");
    tk_string_key(&b, "before", "v", -1);
    tk_u8(&b, 0);
    tk_str(&b, "damaged");
    tk_u8(&b, 0xc3);
    tk_len(&b, sizeof lzf);
    tk_len(&b, 211);
    tk_put(&b, lzf, sizeof lzf);
    tk_string_key(&b, "after", "v", -1);
    tk_end(&b);
    hold(&b, "before after ", "damaged ");
    tk_drop(&b);
}

/* ---- A small file of many types, cut and flipped ---- */

static void small_file(tk_bytes *b) {
    tk_magic(b, "REDIS0011");
    tk_u8(b, 250), tk_str(b, "redis-ver"), tk_str(b, "7.2.0");
    tk_db(b, 0);
    tk_string_key(b, "s", "value", -1);
    blob_key(b, 16, "h", listpack, sizeof listpack);
    blob_key(b, 13, "zl", ziplist, sizeof ziplist);
    blob_key(b, 11, "i", intset, sizeof intset);
    tk_plain_key(b, 1, "l", "item", 3);
    blob_key(b, 18, "q", quicklist_node, sizeof quicklist_node);
    tk_plain_key(b, 4, "ph", "f", 2);
    tk_db(b, 3);
    tk_string_key(b, "t", "value", 4000000000000);
    tk_end(b);
}

TEST(sound_file_is_kept_whole) {
    tk_bytes b = {NULL, 0, 0};
    small_file(&b);
    hold(&b, "s h zl i l q ph t ", "");
    tk_drop(&b);
}

TEST(file_may_be_cut_anywhere) {
    tk_bytes b = {NULL, 0, 0};
    small_file(&b);
    uint64_t before = 0;
    for (size_t len = 9; len < b.len; len++) {
        outcome o;
        tk_guard g;
        tk_guard_make(&g, len);
        salvage(&o, tk_guard_put(&g, b.data, len), len, NULL);
        assert_int_equal(o.status, RDBKIT_ERR_TRUNCATED);
        assert_int_equal(o.lost, 0);
        assert_true(o.kept >= before && o.kept <= before + 1);
        before = o.kept;
        drop(&o);
        tk_guard_drop(&g);
    }
    assert_int_equal(before, 8);
    tk_drop(&b);
}

/* Eight ways to damage each byte. */
TEST(any_byte_may_be_another_one) {
    tk_bytes b = {NULL, 0, 0};
    small_file(&b);
    for (size_t at = 9; at < b.len; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            outcome o;
            b.data[at] ^= (unsigned char)(1u << bit);
            salvage(&o, b.data, b.len, NULL);
            assert_true(o.kept + o.lost <= o.seen && (o.status != RDBKIT_DONE || o.kept + o.lost == o.seen));
            assert_true(o.status == RDBKIT_DONE || o.status < 0);
            drop(&o);
            b.data[at] ^= (unsigned char)(1u << bit);
        }
    }
    tk_drop(&b);
}

TEST(each_allocation_may_fail) {
    tk_bytes b = {NULL, 0, 0};
    small_file(&b);
    for (uint64_t at = 1;; at++) {
        tk_memory m = {0};
        const rdbkit_allocator a = tk_allocator(&m);
        outcome o;
        m.fail_at = at, m.fail_on = 1;
        salvage(&o, b.data, b.len, &a);
        drop(&o);
        assert_null(m.misuse);
        assert_int_equal(m.live, 0);
        if (o.status == RDBKIT_DONE) break;
        assert_int_equal(o.status, RDBKIT_ERR_NOMEM);
    }
    tk_drop(&b);
}

/* Long entries have back-lengths of their own in Valkey's files, and in those of RDB 11 that may be Valkey's. */
TEST(value_is_kept_where_check_takes_it) {
    static const char *const magics[] = {"REDIS0010", "REDIS0011", "REDIS0012", "VALKEY080"};
    static const unsigned char head[] = {0x81, 'a', 2, 0xf0, 0xfa, 0x3f, 0, 0},
                               wide[] = {0, 0xff, 0xff, 0xff}, narrow[] = {0x7f, 0xff, 0xff};
    int taken = 0;
    for (size_t i = 0; i < 8; i++) {
        tk_bytes b = {0}, blob = {0};
        const unsigned char *end = i % 2 ? wide : narrow;
        const size_t end_len = i % 2 ? sizeof wide : sizeof narrow;
        tk_le(&blob, 6 + sizeof head + 0x3ffa + end_len, 4);
        tk_le(&blob, 2, 2);
        tk_put(&blob, head, sizeof head);
        for (int k = 0; k < 0x3ffa; k++) tk_u8(&blob, 'x');
        tk_put(&blob, end, end_len);
        tk_magic(&b, magics[i / 2]);
        blob_key(&b, 16, "h", blob.data, blob.len);
        tk_end(&b);
        rdbkit_reader_options ro;
        rdbkit_reader_options_init(&ro);
        ro.deep = 1;
        rdbkit_reader *r = rdbkit_reader_new(&ro, NULL);
        assert_non_null(r);
        const int sound = rdbkit_reader_feed(r, b.data, b.len) == RDBKIT_DONE;
        rdbkit_reader_free(r);
        taken += sound;
        hold(&b, sound ? "h " : "", sound ? "" : "h ");
        tk_drop(&blob);
        tk_drop(&b);
    }
    assert_int_equal(taken, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_is_kept_where_check_takes_it),
        cmocka_unit_test(damaged_blob_costs_its_own_key_alone),
        cmocka_unit_test(damaged_stream_node_costs_the_stream_alone),
        cmocka_unit_test(damaged_compressed_string_costs_its_own_key_alone),
        cmocka_unit_test(sound_file_is_kept_whole),
        cmocka_unit_test(file_may_be_cut_anywhere),
        cmocka_unit_test(any_byte_may_be_another_one),
        cmocka_unit_test(each_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
