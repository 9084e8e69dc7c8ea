/* test_filter.c - filters and transforms: globs as servers have them, how the kinds combine, what becomes of a key.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "../rdbkit.h"

#include <cmocka.h>

#include "testkit.h"

#define N_OF(a) (sizeof(a) / sizeof(a)[0])
#define T(text) \
    { text, sizeof(text) - 1 }

/* ---- Globs ---- */

/* What stringmatchlen() of Redis 7.2.6 answers, compiled and asked; Redis 4.0 to 8 and Valkey answer the same. */
/* clang-format off */
static const struct glob_row {
    rdbkit_str pattern, text;
    int match;
} glob_rows[] = {
    {T(""), T(""), 1},
    {T(""), T("a"), 0},
    {T("a"), T(""), 0},
    {T("**"), T(""), 0},
    {T("?"), T(""), 0},
    {T("[^a]"), T(""), 0},
    {T("\\"), T(""), 0},
    {T("*"), T("a"), 1},
    {T("**"), T("a"), 1},
    {T("a*"), T("a"), 1},
    {T("a***"), T("a"), 1},
    {T("*a"), T("a"), 1},
    {T("*a*"), T("bab"), 1},
    {T("a*b*c"), T("aXbYc"), 1},
    {T("a*b*c"), T("aXbY"), 0},
    {T("*ab"), T("aab"), 1},
    {T("*aab"), T("aaab"), 1},
    {T("*?"), T("a"), 1},
    {T("*?\?"), T("a"), 0},
    {T("?*"), T("a"), 1},
    {T("?"), T("a"), 1},
    {T("?\?"), T("a"), 0},
    {T("a?c"), T("a\000c"), 1},
    {T("abc"), T("abc"), 1},
    {T("abc"), T("abd"), 0},
    {T("abc"), T("ab"), 0},
    {T("ab"), T("abc"), 0},
    {T("a*"), T("a\000b"), 1},
    {T("a\000*"), T("a\000b"), 1},
    {T("a\000*"), T("ab"), 0},
    {T("[a-z]"), T("m"), 1},
    {T("[z-a]"), T("m"), 1},
    {T("[a-c]"), T("d"), 0},
    {T("[^a-c]"), T("d"), 1},
    {T("[^a-c]"), T("b"), 0},
    {T("[a^]"), T("^"), 1},
    {T("[abc]x"), T("bx"), 1},
    {T("[a-cx]"), T("x"), 1},
    {T("[a-c-e]"), T("-"), 1},
    {T("[a-c-e]"), T("d"), 0},
    {T("[-a]"), T("-"), 1},
    {T("[--a]"), T("A"), 1},
    {T("[a-"), T("a"), 1},
    {T("[a-"), T("-"), 1},
    {T("[a-"), T("b"), 0},
    {T("[a-]"), T("]"), 1},
    {T("[a-]"), T("_"), 1},
    {T("[a-]"), T("b"), 0},
    {T("[a-]"), T("-"), 0},
    {T("[a-]x"), T("ax"), 0},
    {T("[a-\\]]"), T("\\"), 0},
    {T("[a-\\]]"), T("a]"), 1},
    {T("[a-\\]]"), T("]"), 0},
    {T("["), T("["), 0},
    {T("["), T("a"), 0},
    {T("[^"), T("a"), 1},
    {T("[]"), T("]"), 0},
    {T("[]a]"), T("]a]"), 0},
    {T("[]a]"), T("a"), 0},
    {T("[^]"), T("a"), 1},
    {T("[^]]"), T("a]"), 1},
    {T("[abc"), T("b"), 1},
    {T("[abc"), T("d"), 0},
    {T("[^abc"), T("d"), 1},
    {T("x["), T("x"), 0},
    {T("x["), T("x["), 0},
    {T("[\\]]"), T("]"), 1},
    {T("[\\]]"), T("\\"), 0},
    {T("[\\]"), T("\\"), 0},
    {T("[\\]"), T("]"), 1},
    {T("[\\"), T("\\"), 1},
    {T("[\\^a]"), T("^"), 1},
    {T("[\\^a]"), T("b"), 0},
    {T("[\\a-c]"), T("b"), 0},
    {T("[\\a-c]"), T("-"), 1},
    {T("[\\a-c]"), T("a"), 1},
    {T("[\\\\]"), T("\\"), 1},
    {T("[*?]"), T("*"), 1},
    {T("[*?]"), T("a"), 0},
    {T("\\"), T("\\"), 1},
    {T("a\\"), T("a\\"), 1},
    {T("a\\"), T("a"), 0},
    {T("\\*"), T("*"), 1},
    {T("\\*"), T("a"), 0},
    {T("\\?"), T("?"), 1},
    {T("\\[a]"), T("[a]"), 1},
    {T("\\a"), T("a"), 1},
    {T("\\\\"), T("\\"), 1},
    {T("*\\"), T("a\\"), 1},
    {T("\\**"), T("*a"), 1},
    {T("*\\*"), T("a*"), 1},
    {T("*\\*"), T("a"), 0},
    {T("*[a-c]"), T("xb"), 1},
    {T("*[a-"), T("x-"), 1},
    {T("*[^a]"), T("a"), 0},
    {T("*[^a]b"), T("aab"), 0},
    {T("*[b]c"), T("bbc"), 1},
    {T("[a-\377]"), T("a"), 1},
    {T("[a-\377]"), T("\000"), 1},
    {T("[a-\377]"), T("b"), 0},
    {T("[a-\377]"), T("\377"), 1},
    {T("[a-\377]"), T("\376"), 0},
    {T("[\200-\377]"), T("\220"), 1},
    {T("[a-\200]"), T("\300"), 1},
    {T("[a-\200]"), T("b"), 0},
    {T("\377?"), T("\377\376"), 1},
};
/* clang-format on */

static void globs_match_as_servers_have_it(void **state) {
    (void)state;
    tk_guard guard[2];
    tk_guard_make(&guard[0], 64), tk_guard_make(&guard[1], 64);
    for (size_t i = 0; i < N_OF(glob_rows); i++) {
        const struct glob_row *g = &glob_rows[i];
        const char *pattern = (const char *)tk_guard_put(&guard[0], g->pattern.data, g->pattern.len);
        const char *text = (const char *)tk_guard_put(&guard[1], g->text.data, g->text.len);
        if (rdbkit_glob_match(pattern, g->pattern.len, text, g->text.len) != g->match)
            fail_msg("row %zu, \"%s\" against \"%s\": not %d", i, g->pattern.data, g->text.data, g->match);
    }
    tk_guard_drop(&guard[0]), tk_guard_drop(&guard[1]);
}

static void a_lone_star_matches_the_empty_text_and_two_do_not(void **state) {
    (void)state; /* KEYS and SCAN have a shortcut for the first */
    assert_true(rdbkit_glob_match("*", 1, NULL, 0));
    assert_false(rdbkit_glob_match("**", 2, NULL, 0));
    assert_true(rdbkit_glob_match(NULL, 0, NULL, 0));
    assert_false(rdbkit_glob_match(NULL, 0, "a", 1));
}

/* Exponential work would not end here, cubic work not within the alarm. */
static void many_stars_cost_at_most_pattern_times_text(void **state) {
    (void)state;
    enum { LEN = 1 << 20 };
    static const char *const units[] = {"a*", "?*", "*a", "[a-b]*", "*aaaaaaab"};
    char *text = malloc(LEN), *pattern = malloc(16384);
    assert_non_null(text), assert_non_null(pattern);
    memset(text, 'a', LEN);
    alarm(60);
    for (size_t i = 0; i < N_OF(units); i++) {
        size_t len = 0, unit = strlen(units[i]);
        for (int n = 0; n < 40; n++, len += unit) memcpy(pattern + len, units[i], unit);
        memcpy(pattern + len, "*ab", 3);
        assert_false(rdbkit_glob_match(pattern, len + 3, text, LEN));
    }
    size_t len = 0; /* past the 1000 stars at which servers give up: here the answer is right */
    for (int n = 0; n < 2000; n++, len += 2) memcpy(pattern + len, "*a", 2);
    assert_true(rdbkit_glob_match(pattern, len, text, 2000));
    assert_false(rdbkit_glob_match(pattern, len, text, 1999));
    alarm(0);
    free(text);
    free(pattern);
}

/* ---- Filters ---- */

static const rdbkit_type *type_of(const char *name) {
    const rdbkit_type *type;
    for (size_t i = 0; (type = rdbkit_type_at(i)); i++)
        if (strcmp(type->name, name) == 0) return type;
    fail_msg("no type %s", name);
    return NULL;
}

static rdbkit_key key_of(const char *name, size_t len) {
    rdbkit_key key;
    memset(&key, 0, sizeof key); /* what lies between the members, too: keys are compared whole */
    key.name = (rdbkit_str){name, len};
    key.type = type_of("string");
    key.expire_ms = RDBKIT_NO_EXPIRY;
    key.idle_s = key.lfu_freq = RDBKIT_NO_HINT;
    return key;
}

static int pass_key(rdbkit_filter *f, rdbkit_key key) {
    int st = rdbkit_filter_apply(f, &key);
    assert_true(st == RDBKIT_OK || st == RDBKIT_SKIP_KEY);
    return st == RDBKIT_OK;
}

static int pass(rdbkit_filter *f, const char *name) { return pass_key(f, key_of(name, strlen(name))); }

static int pass_typed(rdbkit_filter *f, const char *type) {
    rdbkit_key key = key_of("k", 1);
    key.type = type_of(type);
    return pass_key(f, key);
}

static int pass_db(rdbkit_filter *f, uint64_t db) {
    rdbkit_key key = key_of("k", 1);
    key.db = db;
    return pass_key(f, key);
}

static int pass_expiry(rdbkit_filter *f, int64_t expire_ms) {
    rdbkit_key key = key_of("k", 1);
    key.expire_ms = expire_ms;
    return pass_key(f, key);
}

static void add(rdbkit_filter *f, const char *glob, int negate) {
    assert_int_equal(rdbkit_filter_key(f, glob, strlen(glob), negate), RDBKIT_OK);
}

static rdbkit_filter *filter_new(void) {
    rdbkit_filter *f = rdbkit_filter_new(NULL);
    assert_non_null(f);
    return f;
}

static void an_empty_filter_lets_every_key_through(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    assert_true(pass(f, ""));
    assert_true(pass(f, "a"));
    assert_true(pass_expiry(f, 1));
    assert_true(pass_typed(f, "module-2"));
    assert_int_equal(rdbkit_filter_matched(f), 4);
    rdbkit_filter_free(f);
    rdbkit_filter_free(NULL);
}

static void patterns_are_or_ed_and_negated_ones_exclude(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    add(f, "user:*", 0);
    add(f, "exact", 0);
    add(f, "*:[0-9]", 0);
    assert_true(pass(f, "user:") && pass(f, "user:x") && pass(f, "exact") && pass(f, "s:7"));
    assert_false(pass(f, "user") || pass(f, "exactly") || pass(f, "xexact") || pass(f, ""));
    add(f, "*:tmp", 1);
    add(f, "user:1*", 1);
    assert_true(pass(f, "user:2"));
    assert_false(pass(f, "user:tmp") || pass(f, "user:1") || pass(f, "other"));
    rdbkit_filter_free(f);
    f = filter_new();
    add(f, "a*", 1);
    assert_true(pass(f, "b") && pass(f, ""));
    assert_false(pass(f, "a") || pass(f, "ab"));
    rdbkit_filter_free(f);
}

static void fast_paths_answer_as_the_glob_does(void **state) {
    (void)state;
    for (size_t i = 0; i < N_OF(glob_rows); i++) {
        rdbkit_filter *f = filter_new();
        const struct glob_row *g = &glob_rows[i];
        assert_int_equal(rdbkit_filter_key(f, g->pattern.data, g->pattern.len, 0), RDBKIT_OK);
        if (pass_key(f, key_of(g->text.data, g->text.len)) != g->match) fail_msg("row %zu", i);
        rdbkit_filter_free(f);
    }
}

static void names_may_hold_nul_bytes(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    add(f, "a*", 0);
    assert_true(pass_key(f, key_of("a\0b", 3)));
    assert_int_equal(rdbkit_filter_key(f, "\0x", 2, 1), RDBKIT_OK);
    assert_true(pass_key(f, key_of("a\0x", 3)));
    assert_int_equal(rdbkit_filter_key_name(f, "a\0b", 3), RDBKIT_OK);
    assert_true(pass_key(f, key_of("a\0b", 3)));
    assert_false(pass_key(f, key_of("a\0c", 3)));
    assert_false(pass_key(f, key_of("a", 1)));
    rdbkit_filter_free(f);
}

static void a_regular_expression_is_found_anywhere_up_to_nul(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    assert_int_equal(rdbkit_filter_key_regex(f, "r:[0-9]+", 0), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_key_regex(f, "^(x|y)$", 0), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_key_regex(f, "tmp", 1), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_key_regex(f, "(", 0), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_key_regex(f, "[", 1), RDBKIT_ERR_USAGE);
    assert_true(pass(f, "user:17:name") && pass(f, "y"));
    assert_false(pass(f, "user:") || pass(f, "xy") || pass(f, "tmpr:1") || pass(f, ""));
    assert_true(pass_key(f, key_of("x\0zzz", 5)));
    assert_false(pass_key(f, key_of("\0r:1", 4)));
    add(f, "glob*", 0); /* the same kind */
    assert_true(pass(f, "globe"));
    rdbkit_filter_free(f);
}

static void exact_names_are_found_among_many(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    char name[32];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 100000; i++) {
            int len = snprintf(name, sizeof name, "key:%d", i * 2);
            assert_int_equal(rdbkit_filter_key_name(f, name, (size_t)len), RDBKIT_OK);
        }
    for (int i = 0; i < 200000; i++) {
        int len = snprintf(name, sizeof name, "key:%d", i);
        if (pass_key(f, key_of(name, (size_t)len)) != !(i & 1)) fail_msg("%s", name);
    }
    assert_false(pass(f, ""));
    assert_int_equal(rdbkit_filter_key_name(f, NULL, 0), RDBKIT_OK);
    assert_true(pass(f, ""));
    add(f, "key:1*", 0); /* another kind: both must hold */
    assert_true(pass(f, "key:10"));
    assert_false(pass(f, "key:20") || pass(f, "key:11") || pass(f, ""));
    rdbkit_filter_free(f);
}

static void shapes_take_a_hash_with_field_expiry_for_a_hash(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    assert_int_equal(rdbkit_filter_shapes(f, 0, 0), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_shapes(f, 1u << RDBKIT_SHAPE_N, 0), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_shapes(f, 1u << RDBKIT_HASH, 0), RDBKIT_OK);
    assert_true(pass_typed(f, "hash") && pass_typed(f, "hash-metadata") &&
                pass_typed(f, "hash-listpack-ex") && pass_typed(f, "hash-2"));
    assert_false(pass_typed(f, "string"));
    assert_int_equal(rdbkit_filter_shapes(f, 1u << RDBKIT_STRING, 0), RDBKIT_OK);
    assert_true(pass_typed(f, "string") && pass_typed(f, "hash"));
    assert_int_equal(rdbkit_filter_shapes(f, 1u << RDBKIT_HASH, 1), RDBKIT_OK);
    assert_true(pass_typed(f, "string"));
    assert_false(pass_typed(f, "hash"));
    rdbkit_filter_free(f);
}

static void databases_are_a_union_without_those_excluded(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    assert_int_equal(rdbkit_filter_db(f, 2, 1, 0), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_db(f, 0, RDBKIT_NO_DB, 0), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_db(f, 0, 0, 0), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_db(f, 1, 1, 0), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_db(f, 5, UINT64_MAX - 1, 0), RDBKIT_OK);
    assert_true(pass_db(f, 0) && pass_db(f, 1) && pass_db(f, 5) && pass_db(f, 1u << 31));
    assert_false(pass_db(f, 2) || pass_db(f, 4));
    assert_int_equal(rdbkit_filter_db(f, 1, 6, 1), RDBKIT_OK);
    assert_true(pass_db(f, 0) && pass_db(f, 7));
    assert_false(pass_db(f, 1) || pass_db(f, 6) || pass_db(f, 3));
    rdbkit_filter_free(f);
}

/* The slots are what CLUSTER KEYSLOT of Redis 7.0.15 says. */
static void slots_are_those_of_cluster_keyslot(void **state) {
    (void)state;
    static const struct {
        rdbkit_str name;
        unsigned slot;
    } rows[] = {{T(""), 0},
                {T("123456789"), 12739},
                {T("foo"), 12182},
                {T("user:{42}:x"), 8000},
                {T("{}x"), 10595},
                {T("a{}b{c}"), 7353},
                {T("{a"), 10276},
                {T("}{a}"), 15495},
                {T("{{a}}"), 10276},
                {T("a\0b"), 8383},
                {T("{\0}z"), 0},
                {T("\xff\xfe"), 3374},
                {T("foo{bar}{zap}"), 5061}};
    for (size_t i = 0; i < N_OF(rows); i++) {
        for (unsigned off = 0; off < 2; off++) {
            rdbkit_filter *f = filter_new();
            const unsigned at = rows[i].slot + off;
            assert_int_equal(rdbkit_filter_slot(f, at, at), RDBKIT_OK);
            if (pass_key(f, key_of(rows[i].name.data, rows[i].name.len)) != !off) fail_msg("row %zu", i);
            rdbkit_filter_free(f);
        }
    }
    rdbkit_filter *f = filter_new();
    assert_int_equal(rdbkit_filter_slot(f, 1, 0), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_slot(f, 0, 16384), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_slot(f, 0, 100), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_slot(f, 12182, 16383), RDBKIT_OK);
    assert_true(pass(f, "foo") && pass(f, "123456789") && pass(f, ""));
    assert_false(pass(f, "user:{42}:x"));
    rdbkit_filter_free(f);
}

static void a_key_is_expired_once_its_time_is_over(void **state) {
    (void)state;
    static const int64_t expiry[] = {RDBKIT_NO_EXPIRY, INT64_MIN, -2, 0, 999, 1000, 1001, INT64_MAX};
    static const struct {
        unsigned which;
        const char *passes; /* one digit for each of the above */
    } rows[] = {{0, "11111111"},
                {RDBKIT_ONLY_EXPIRED, "01111000"},
                {RDBKIT_NO_EXPIRED, "10000111"},
                {RDBKIT_HAS_TTL, "01111111"},
                {RDBKIT_NO_TTL, "10000000"},
                {RDBKIT_HAS_TTL | RDBKIT_NO_EXPIRED, "00000111"},
                {RDBKIT_HAS_TTL | RDBKIT_NO_TTL, "00000000"}};
    rdbkit_filter *f = filter_new();
    for (size_t i = 0; i < N_OF(rows); i++) {
        rdbkit_filter_expiry(f, rows[i].which, 1000);
        for (size_t j = 0; j < N_OF(expiry); j++)
            if (pass_expiry(f, expiry[j]) != rows[i].passes[j] - '0') fail_msg("row %zu, expiry %zu", i, j);
    }
    rdbkit_filter_free(f);
}

static void different_kinds_must_all_hold(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    add(f, "a*", 0);
    assert_int_equal(rdbkit_filter_shapes(f, 1u << RDBKIT_STRING, 0), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_db(f, 3, 3, 0), RDBKIT_OK);
    rdbkit_filter_expiry(f, RDBKIT_HAS_TTL, 0);
    for (unsigned wrong = 0; wrong < 16; wrong++) {
        rdbkit_key key = key_of(wrong & 1 ? "b" : "a", 1);
        key.type = type_of(wrong & 2 ? "hash" : "string");
        key.db = wrong & 4 ? 2 : 3;
        key.expire_ms = wrong & 8 ? RDBKIT_NO_EXPIRY : 5;
        assert_int_equal(pass_key(f, key), wrong == 0);
    }
    rdbkit_filter_free(f);
}

static void the_limit_counts_keys_let_through(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    add(f, "a*", 0);
    rdbkit_filter_limit(f, 2);
    assert_true(pass(f, "a1"));
    assert_false(pass(f, "b"));
    assert_true(pass(f, "a2"));
    assert_false(pass(f, "a3") || pass(f, "a4"));
    assert_int_equal(rdbkit_filter_matched(f), 2);
    rdbkit_filter_restart(f);
    assert_int_equal(rdbkit_filter_matched(f), 0);
    assert_true(pass(f, "a3"));
    rdbkit_filter_limit(f, 0);
    assert_false(pass(f, "a4"));
    rdbkit_filter_free(f);
}

/* ---- Transforms ---- */

static void rename_rule(rdbkit_filter *f, const char *from, const char *to) {
    assert_int_equal(rdbkit_filter_rename(f, from, strlen(from), to, strlen(to)), RDBKIT_OK);
}

static void assert_renamed(rdbkit_filter *f, const char *from, size_t from_len, const char *to,
                           size_t to_len) {
    rdbkit_key key = key_of(from, from_len);
    assert_int_equal(rdbkit_filter_apply(f, &key), RDBKIT_OK);
    assert_int_equal(key.name.len, to_len);
    if (to_len) assert_memory_equal(key.name.data, to, to_len);
}

static void the_first_prefix_that_fits_is_replaced_once(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    rename_rule(f, "ab", "x");
    rename_rule(f, "a", "abab");
    rename_rule(f, "gone", "");
    assert_renamed(f, "abc", 3, "xc", 2);
    assert_renamed(f, "ab", 2, "x", 1);
    assert_renamed(f, "ac", 2, "ababc", 5);
    assert_renamed(f, "gone", 4, "", 0);
    assert_renamed(f, "b", 1, "b", 1);
    assert_renamed(f, "ab\0b", 4, "x\0b", 3);
    assert_renamed(f, NULL, 0, NULL, 0);
    assert_int_equal(rdbkit_filter_rename(f, NULL, 0, "all:", 4), RDBKIT_OK);
    assert_renamed(f, NULL, 0, "all:", 4);
    assert_renamed(f, "b", 1, "all:b", 5);
    rdbkit_filter_free(f);
}

static void filters_see_the_key_as_it_is_in_the_file(void **state) {
    (void)state;
    rdbkit_filter *f = filter_new();
    rdbkit_key key = key_of("old:1", 5);
    add(f, "old:*", 0);
    assert_int_equal(rdbkit_filter_key_regex(f, "^old", 0),
                     RDBKIT_OK); /* shares the memory of the new name */
    assert_int_equal(rdbkit_filter_db(f, 0, 0, 0), RDBKIT_OK);
    rdbkit_filter_expiry(f, RDBKIT_HAS_TTL, 0);
    rename_rule(f, "old:", "new:");
    assert_int_equal(rdbkit_filter_map_db(f, 0, 9), RDBKIT_OK);
    rdbkit_filter_strip_ttl(f);
    key.expire_ms = 77;
    assert_int_equal(rdbkit_filter_apply(f, &key), RDBKIT_OK);
    assert_memory_equal(key.name.data, "new:1", 5);
    assert_int_equal(key.db, 9);
    assert_int_equal(key.expire_ms, RDBKIT_NO_EXPIRY);
    rdbkit_key other = key_of("new:1", 5), before = other;
    assert_int_equal(rdbkit_filter_apply(f, &other), RDBKIT_SKIP_KEY);
    assert_memory_equal(&other, &before, sizeof other);
    rdbkit_filter_free(f);
}

static void databases_are_mapped_once_and_may_be_swapped(void **state) {
    (void)state;
    static const uint64_t to[] = {1, 0, 2};
    rdbkit_filter *f = filter_new();
    assert_int_equal(rdbkit_filter_map_db(f, 0, 1), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_map_db(f, 1, 0), RDBKIT_OK);
    assert_int_equal(rdbkit_filter_map_db(f, 0, 3), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_map_db(f, RDBKIT_NO_DB, 3), RDBKIT_ERR_USAGE);
    assert_int_equal(rdbkit_filter_map_db(f, 3, RDBKIT_NO_DB), RDBKIT_ERR_USAGE);
    for (uint64_t db = 0; db < N_OF(to); db++) {
        rdbkit_key key = key_of("k", 1);
        key.db = db;
        assert_int_equal(rdbkit_filter_apply(f, &key), RDBKIT_OK);
        assert_int_equal(key.db, to[db]);
    }
    rdbkit_filter_free(f);
}

static void a_shifted_expiry_saturates_and_never_becomes_none(void **state) {
    (void)state;
    static const struct {
        int64_t expiry, shift, wanted;
    } rows[] = {{1000, 500, 1500},
                {1000, -500, 500},
                {1000, -1001, -2},
                {1000, -1000, 0},
                {1000, -1002, -2},
                {1000, -1003, -3},
                {-2, 1, -2},
                {-2, 2, 0},
                {RDBKIT_NO_EXPIRY, 500, RDBKIT_NO_EXPIRY},
                {RDBKIT_NO_EXPIRY, INT64_MIN, RDBKIT_NO_EXPIRY},
                {INT64_MAX, 1, INT64_MAX},
                {INT64_MAX - 1, INT64_MAX, INT64_MAX},
                {INT64_MIN, -1, INT64_MIN},
                {-5, INT64_MIN, INT64_MIN},
                {INT64_MAX, INT64_MIN, -2},
                {0, INT64_MIN, INT64_MIN},
                {7, 0, 7}};
    for (size_t i = 0; i < N_OF(rows); i++) {
        rdbkit_filter *f = filter_new();
        rdbkit_key key = key_of("k", 1);
        key.expire_ms = rows[i].expiry;
        rdbkit_filter_shift_ttl(f, rows[i].shift);
        assert_int_equal(rdbkit_filter_apply(f, &key), RDBKIT_OK);
        if (key.expire_ms != rows[i].wanted) fail_msg("row %zu: %lld", i, (long long)key.expire_ms);
        rdbkit_filter_free(f);
    }
}

/* ---- Memory ---- */

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (uint64_t at = 1;; at++) {
        tk_memory m = {0};
        m.fail_at = at;
        const rdbkit_allocator a = tk_allocator(&m);
        rdbkit_filter *f = rdbkit_filter_new(&a);
        int st = f ? RDBKIT_OK : RDBKIT_ERR_NOMEM;
        char name[400];
        memset(name, 'n', sizeof name);
        if (!st) st = rdbkit_filter_key(f, "nn*", 3, 0);
        if (!st) st = rdbkit_filter_key_regex(f, "n$", 0);
        for (size_t len = 1; !st && len <= sizeof name; len++) st = rdbkit_filter_key_name(f, name, len);
        if (!st) st = rdbkit_filter_db(f, 0, 5, 0);
        if (!st) st = rdbkit_filter_map_db(f, 0, 5);
        if (!st) st = rdbkit_filter_rename(f, "n", 1, "mmmm", 4);
        rdbkit_key key = key_of(name, sizeof name);
        if (!st) st = rdbkit_filter_apply(f, &key);
        if (!st) {
            assert_int_equal(key.name.len, sizeof name + 3);
            assert_int_equal(key.db, 5);
        } else {
            assert_int_equal(st, RDBKIT_ERR_NOMEM);
            assert_int_equal(f ? rdbkit_filter_matched(f) : 0, 0);
        }
        if (f && st) { /* and goes on working */
            m.fail_at = 0;
            assert_int_equal(rdbkit_filter_key(f, "n*", 2, 0), RDBKIT_OK);
            assert_int_equal(rdbkit_filter_key_name(f, name, 5), RDBKIT_OK);
            assert_true(pass_key(f, key_of(name, 5)));
        }
        rdbkit_filter_free(f);
        if (m.misuse) fail_msg("allocation %d: %s", (int)at, m.misuse);
        assert_int_equal(m.live, 0);
        if (m.calls < at) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(globs_match_as_servers_have_it),
        cmocka_unit_test(a_lone_star_matches_the_empty_text_and_two_do_not),
        cmocka_unit_test(many_stars_cost_at_most_pattern_times_text),
        cmocka_unit_test(an_empty_filter_lets_every_key_through),
        cmocka_unit_test(patterns_are_or_ed_and_negated_ones_exclude),
        cmocka_unit_test(fast_paths_answer_as_the_glob_does),
        cmocka_unit_test(names_may_hold_nul_bytes),
        cmocka_unit_test(a_regular_expression_is_found_anywhere_up_to_nul),
        cmocka_unit_test(exact_names_are_found_among_many),
        cmocka_unit_test(shapes_take_a_hash_with_field_expiry_for_a_hash),
        cmocka_unit_test(databases_are_a_union_without_those_excluded),
        cmocka_unit_test(slots_are_those_of_cluster_keyslot),
        cmocka_unit_test(a_key_is_expired_once_its_time_is_over),
        cmocka_unit_test(different_kinds_must_all_hold),
        cmocka_unit_test(the_limit_counts_keys_let_through),
        cmocka_unit_test(the_first_prefix_that_fits_is_replaced_once),
        cmocka_unit_test(filters_see_the_key_as_it_is_in_the_file),
        cmocka_unit_test(databases_are_mapped_once_and_may_be_swapped),
        cmocka_unit_test(a_shifted_expiry_saturates_and_never_becomes_none),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
