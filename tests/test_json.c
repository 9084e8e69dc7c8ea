/* test_json.c - the text that events become, to the byte. What files become is tests/json_test.py's.
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

#include <errno.h>
#include <math.h>

/* ---- A sink and what it wrote ---- */

typedef struct sink {
    tk_bytes text;
    uint64_t fail_at; /* a write past that many bytes fails; 0: none */
    uint64_t total;
    rdbkit_json *json;
    const rdbkit_visitor *v;
} sink;

static int take(void *ctx, const void *data, size_t len) {
    sink *s = ctx;
    s->total += len;
    if (s->fail_at && s->total > s->fail_at) return -ENOSPC;
    tk_put(&s->text, data, len);
    return 0;
}

static void make(sink *s, rdbkit_json_encoding encoding, int lines) {
    rdbkit_json_options o;
    rdbkit_json_options_init(&o);
    o.encoding = encoding;
    o.lines = lines;
    memset(s, 0, sizeof *s);
    s->json = rdbkit_json_new(&o, take, s);
    assert_non_null(s->json);
    s->v = rdbkit_json_visitor(s->json);
}

static void drop(sink *s) {
    rdbkit_json_free(s->json);
    tk_drop(&s->text);
}

static void wrote(sink *s, const char *wanted, size_t len) {
    assert_int_equal(rdbkit_json_finish(s->json), RDBKIT_OK);
    if (s->text.len != len || (len && memcmp(s->text.data, wanted, len) != 0))
        fail_msg("wrote\n%.*s\nand not\n%.*s", (int)s->text.len, (const char *)s->text.data, (int)len,
                 wanted);
    drop(s);
}

static void wrote_text(sink *s, const char *wanted) { wrote(s, wanted, strlen(wanted)); }

static rdbkit_str str(const char *text) {
    rdbkit_str s = {text, strlen(text)};
    return s;
}

static const rdbkit_type *type_of(const char *name) {
    for (size_t i = 0; rdbkit_type_at(i); i++)
        if (!strcmp(rdbkit_type_at(i)->name, name)) return rdbkit_type_at(i);
    fail_msg("no type %s", name);
    return NULL;
}

static int key_with(sink *s, const char *type, int64_t expire, int64_t idle, int freq) {
    rdbkit_key k = {.name = str("k"),
                    .type = type_of(type),
                    .expire_ms = expire,
                    .idle_s = idle,
                    .lfu_freq = freq};
    return s->v->key(s->v->user, &k);
}

static int key(sink *s, const char *type) {
    return key_with(s, type, RDBKIT_NO_EXPIRY, RDBKIT_NO_HINT, RDBKIT_NO_HINT);
}

#define SEND(s, event, ...) assert_int_equal((s)->v->event((s)->v->user, __VA_ARGS__), RDBKIT_OK)
#define KEY_END(s) assert_int_equal((s)->v->key_end((s)->v->user), RDBKIT_OK)

/* One set of one member, written as lines: the member's text between the quotes. */
#define BEFORE "{\"key\":\"k\",\"db\":0,\"type\":\"set\",\"encoding\":\"set\",\"value\":["
#define BEFORE_64 "{\"key\":\"aw==\",\"db\":0,\"type\":\"set\",\"encoding\":\"set\",\"value\":["

static void member_is(rdbkit_json_encoding encoding, const void *data, size_t len, const char *wanted,
                      size_t wanted_len) {
    sink s;
    tk_bytes want = {0};
    tk_guard g;
    const char *before = encoding == RDBKIT_JSON_BASE64 ? BEFORE_64 : BEFORE;
    tk_guard_make(&g, len);
    rdbkit_str m = {(const char *)tk_guard_put(&g, data, len), len};
    make(&s, encoding, 1);
    assert_int_equal(key(&s, "set"), RDBKIT_OK);
    SEND(&s, set_member, m);
    KEY_END(&s);
    tk_put(&want, before, strlen(before));
    tk_put(&want, "\"", 1);
    tk_put(&want, wanted, wanted_len);
    tk_put(&want, "\"]}\n", 4);
    wrote(&s, (const char *)want.data, want.len);
    tk_drop(&want);
    tk_guard_drop(&g);
}

static void text_is(rdbkit_json_encoding encoding, const char *text, const char *wanted) {
    member_is(encoding, text, strlen(text), wanted, strlen(wanted));
}

static void auto_is(const char *text, const char *wanted) { text_is(RDBKIT_JSON_AUTO, text, wanted); }

/* ---- A second writer, as slow and plain as can be ---- */

static void slow_escaped(tk_bytes *b, unsigned c, const void *as_is, size_t len) {
    char text[8];
    static const char shorts[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
    const char *at = c && c < 128 ? strchr(shorts, (int)c) : NULL;
    if (at) {
        tk_put(b, "\\", 1);
        tk_put(b, letters + (at - shorts), 1);
    } else if (c < 32 || c == 127 || c == 0x2028 || c == 0x2029) {
        snprintf(text, sizeof text, "\\u%04x", c);
        tk_put(b, text, 6);
    } else {
        tk_put(b, as_is, len);
    }
}

/* Length of the valid sequence at p and its code point, or 0: by decoding and looking at what came out. */
static size_t slow_sequence(const unsigned char *p, size_t n, unsigned *c) {
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = *p < 0x80 ? 1 : *p >> 5 == 6 ? 2 : *p >> 4 == 14 ? 3 : *p >> 3 == 30 ? 4 : 0;
    if (!len || len > n) return 0;
    *c = len == 1 ? *p : *p & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if (p[i] >> 6 != 2) return 0;
        *c = *c << 6 | (p[i] & 63u);
    }
    return *c < least[len] || *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000) ? 0 : len;
}

static void slow_base64(tk_bytes *b, const unsigned char *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t bit = 0; bit < 8 * n; bit += 6) {
        unsigned two = (unsigned)p[bit / 8] << 8 | (bit / 8 + 1 < n ? p[bit / 8 + 1] : 0);
        tk_put(b, digits + (two >> (10 - bit % 8) & 63), 1);
    }
    tk_put(b, "==", (3 - n % 3) % 3);
}

static tk_bytes slow(rdbkit_json_encoding encoding, const unsigned char *p, size_t n) {
    tk_bytes b = {0};
    unsigned c = 0;
    size_t len;
    if (encoding == RDBKIT_JSON_AUTO) {
        if ((n >= 5 && !memcmp(p, "utf8:", 5)) || (n >= 7 && !memcmp(p, "base64:", 7)))
            tk_put(&b, "utf8:", 5);
        for (size_t i = 0; i < n; i += len) {
            if (!(len = slow_sequence(p + i, n - i, &c))) {
                b.len = 0;
                tk_put(&b, "base64:", 7);
                slow_base64(&b, p, n);
                break;
            }
            slow_escaped(&b, c, p + i, len);
        }
    } else if (encoding == RDBKIT_JSON_LATIN1) {
        for (size_t i = 0; i < n; i++) {
            unsigned char two[2] = {(unsigned char)(0xc0 | p[i] >> 6), (unsigned char)(0x80 | (p[i] & 63))};
            slow_escaped(&b, p[i], p[i] < 128 ? &p[i] : two, p[i] < 128 ? 1 : 2);
        }
    } else {
        slow_base64(&b, p, n);
    }
    return b;
}

static void same_as_slow(rdbkit_json_encoding encoding, const void *data, size_t len) {
    tk_bytes want = slow(encoding, data, len);
    member_is(encoding, data, len, want.data ? (const char *)want.data : "", want.len);
    tk_drop(&want);
}

/* ---- Strings ---- */

static void ascii_is_itself_but_for_what_json_escapes(void **state) {
    (void)state;
    auto_is("", "");
    auto_is("plain /text'", "plain /text'");
    auto_is("a\"b\\c", "a\\\"b\\\\c");
    auto_is("\b\t\n\f\r", "\\b\\t\\n\\f\\r");
    auto_is("\x01\x1f\x7f", "\\u0001\\u001f\\u007f");
    member_is(RDBKIT_JSON_AUTO, "\0", 1, "\\u0000", 6);
    member_is(RDBKIT_JSON_AUTO, "a\0b", 3, "a\\u0000b", 8);
}

static void utf8_is_itself_but_for_line_separators(void **state) {
    (void)state;
    auto_is("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    auto_is(
        "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
        "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    auto_is("\xe2\x80\xa7\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa", "\xe2\x80\xa7\\u2028\\u2029\xe2\x80\xaa");
    auto_is("\xe2\x81\xa8\xe3\x80\xa8", "\xe2\x81\xa8\xe3\x80\xa8");
}

static void what_is_not_utf8_is_marked_base64(void **state) {
    (void)state;
    auto_is("\xff", "base64:/w==");
    auto_is("a\xff", "base64:Yf8=");
    auto_is("ab\xff", "base64:YWL/");
    auto_is("\xed\xa0\x80", "base64:7aCA"); /* a surrogate */
    auto_is("\xed\xbf\xbf", "base64:7b+/");
    auto_is("\xed\xa0\xbd\xed\xb8\x80", "base64:7aC97biA"); /* two, as CESU-8 has it */
    auto_is("\xc0\x80", "base64:wIA=");                     /* NUL, too long */
    auto_is("\xc1\xbf", "base64:wb8=");
    auto_is("\xe0\x9f\xbf", "base64:4J+/");
    auto_is("\xf0\x8f\xbf\xbf", "base64:8I+/vw==");
    auto_is("\xf4\x90\x80\x80", "base64:9JCAgA=="); /* above U+10FFFF */
    auto_is("\xf5\x80\x80\x80", "base64:9YCAgA==");
    auto_is("\x80", "base64:gA==");
    auto_is("\xe2\x82", "base64:4oI="); /* cut */
    auto_is("\xe2\x80", "base64:4oA=");
    auto_is("\xf0\x9f\x98", "base64:8J+Y");
}

static void text_that_begins_like_a_mark_is_marked(void **state) {
    (void)state;
    auto_is("utf8:", "utf8:utf8:");
    auto_is("utf8:x\n", "utf8:utf8:x\\n");
    auto_is("base64:", "utf8:base64:");
    auto_is("base64:\xc3\xa9", "utf8:base64:\xc3\xa9");
    auto_is("base64:\xff", "base64:YmFzZTY0Ov8=");
    auto_is("utf8", "utf8");
    auto_is("base64", "base64");
    auto_is("UTF8:", "UTF8:");
    auto_is(" base64:", " base64:");
    text_is(RDBKIT_JSON_UTF8, "base64:", "base64:");
    text_is(RDBKIT_JSON_LATIN1, "utf8:\xff", "utf8:\xc3\xbf");
}

static void lossy_replaces_each_broken_sequence_once(void **state) {
    (void)state;
    text_is(RDBKIT_JSON_UTF8,
            "a\xff\xfe"
            "b",
            "a\xef\xbf\xbd\xef\xbf\xbd"
            "b");
    text_is(RDBKIT_JSON_UTF8, "\xf0\x9f\x98", "\xef\xbf\xbd");
    text_is(RDBKIT_JSON_UTF8, "\xf0\x9f\x98\"", "\xef\xbf\xbd\\\"");
    text_is(RDBKIT_JSON_UTF8, "\xe2\x80\xe2\x80\xa8", "\xef\xbf\xbd\\u2028");
    text_is(RDBKIT_JSON_UTF8, "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void every_byte_is_written_in_every_encoding(void **state) {
    (void)state;
    unsigned char all[256], utf8[512];
    for (int i = 0; i < 256; i++) {
        all[i] = (unsigned char)i;
        utf8[2 * i] = (unsigned char)(i < 128 ? i : 0xc0 | i >> 6);
        utf8[2 * i + 1] = (unsigned char)(i < 128 ? 'x' : 0x80 | (i & 63));
    }
    for (int e = 0; e < RDBKIT_JSON_ENCODING_N; e++) {
        if (e == RDBKIT_JSON_UTF8) continue;
        same_as_slow((rdbkit_json_encoding)e, all, 256);
        same_as_slow((rdbkit_json_encoding)e, all, 128);
        same_as_slow((rdbkit_json_encoding)e, utf8, 512);
        for (size_t i = 0; i < 256; i++) same_as_slow((rdbkit_json_encoding)e, all + i, 1);
    }
}

/* One odd piece at each place of strings of each length, as the writer takes 8, 16, 32 and 640 bytes at a time. */
static void odd_bytes_are_found_at_every_place(void **state) {
    (void)state;
    static const char *const odd[] = {"\"",
                                      "\\",
                                      "\x01",
                                      "\x7f",
                                      "\x80",
                                      "\xff",
                                      "\xc3\xa9",
                                      "\xe2\x80\xa8",
                                      "\xe2\x80\xa7",
                                      "\xe2\x80",
                                      "\xf0\x9f\x98\x80"};
    static const size_t lens[] = {639, 640, 641, 642, 643, 1023, 1024, 1025, 1285, 3000, 3001};
    unsigned char text[4096];
    for (size_t k = 0; k < sizeof odd / sizeof *odd; k++) {
        size_t n = strlen(odd[k]);
        for (size_t len = n; len <= 40; len++)
            for (size_t at = 0; at + n <= len; at++) {
                memset(text, 'a', len);
                memcpy(text + at, odd[k], n);
                same_as_slow(RDBKIT_JSON_AUTO, text, len);
                same_as_slow(RDBKIT_JSON_LATIN1, text, len);
            }
        for (size_t j = 0; j < sizeof lens / sizeof *lens; j++)
            for (size_t back = n; back < 70; back++) {
                memset(text, 'a', lens[j]);
                memcpy(text + lens[j] - back, odd[k], n);
                same_as_slow(RDBKIT_JSON_AUTO, text, lens[j]);
                same_as_slow(RDBKIT_JSON_LATIN1, text, lens[j]);
            }
    }
}

static void random_strings_are_as_the_slow_writer_has_them(void **state) {
    (void)state;
    static const char *const parts[] = {"a",
                                        "bc",
                                        "\"",
                                        "\\",
                                        "\n",
                                        "\x7f",
                                        "\xc3\xa9",
                                        "\xe2\x80\xa8",
                                        "\xe2\x80\xa9",
                                        "\xe2\x82\xac",
                                        "\xf0\x9f\x98\x80",
                                        "eight...",
                                        "sixteen........."};
    unsigned char text[9000];
    uint64_t seed = 1;
    for (int round = 0; round < 4000; round++) {
        size_t len = 0, want = (size_t)(tk_random(&seed) % (round % 16 ? 200 : 8900));
        while (len < want) {
            const char *p = parts[tk_random(&seed) % (sizeof parts / sizeof *parts)];
            memcpy(text + len, p, strlen(p));
            len += strlen(p);
        }
        if (len && tk_random(&seed) % 8 == 0) text[tk_random(&seed) % len] = (unsigned char)tk_random(&seed);
        same_as_slow(RDBKIT_JSON_AUTO, text, len);
        same_as_slow(RDBKIT_JSON_LATIN1, text, len);
        same_as_slow(RDBKIT_JSON_BASE64, text, len);
    }
}

static void strings_larger_than_the_buffer_come_whole(void **state) {
    (void)state;
    size_t len = 1000003;
    unsigned char *text = malloc(len);
    assert_non_null(text);
    for (int kind = 0; kind < 4; kind++) {
        memset(text, kind == 2 ? '\n' : 'x', len);
        if (kind == 1) text[len - 1] = '"';
        if (kind == 3) text[len - 1] = 0xff;
        same_as_slow(RDBKIT_JSON_AUTO, text, len);
        same_as_slow(RDBKIT_JSON_LATIN1, text, len);
    }
    free(text);
}

/* ---- Records ---- */

static void document_is_an_array_closed_at_the_end(void **state) {
    (void)state;
    sink s;
    rdbkit_header h = {RDBKIT_VALKEY, 80};
    make(&s, RDBKIT_JSON_AUTO, 0);
    SEND(&s, header, &h);
    SEND(&s, aux, str("redis-bits"), str("64"));
    SEND(&s, function, str("#!lua name=l\n"), 246);
    SEND(&s, slot_import, str("job"), 2);
    SEND(&s, end, 1);
    wrote_text(&s, "[\n{\"rdb\":{\"lineage\":\"valkey\",\"version\":80}},\n"
                   "{\"aux\":\"redis-bits\",\"value\":\"64\"},\n"
                   "{\"function\":\"#!lua name=l\\n\",\"opcode\":246},\n"
                   "{\"slot_import\":\"job\",\"ranges\":2},\n"
                   "{\"end\":{\"checksum\":\"verified\",\"keys\":0}}\n]\n");
}

static void lines_have_the_same_records_without_array(void **state) {
    (void)state;
    sink s;
    rdbkit_header h = {RDBKIT_REDIS, 11};
    make(&s, RDBKIT_JSON_AUTO, 1);
    SEND(&s, header, &h);
    key(&s, "string");
    SEND(&s, string, str("v"));
    KEY_END(&s);
    SEND(&s, end, 0);
    wrote_text(&s, "{\"rdb\":{\"lineage\":\"redis\",\"version\":11}}\n"
                   "{\"key\":\"k\",\"db\":0,\"type\":\"string\",\"encoding\":\"string\",\"value\":\"v\"}\n"
                   "{\"end\":{\"checksum\":\"none\",\"keys\":1}}\n");
}

static void document_without_end_is_not_closed(void **state) {
    (void)state;
    sink s;
    rdbkit_header h = {RDBKIT_REDIS, 11};
    make(&s, RDBKIT_JSON_AUTO, 0);
    SEND(&s, header, &h);
    wrote_text(&s, "[\n{\"rdb\":{\"lineage\":\"redis\",\"version\":11}}");
    make(&s, RDBKIT_JSON_AUTO, 0);
    wrote_text(&s, "");
}

static void finish_may_be_called_again(void **state) {
    (void)state;
    sink s;
    make(&s, RDBKIT_JSON_AUTO, 0);
    SEND(&s, end, 0);
    assert_int_equal(rdbkit_json_finish(s.json), RDBKIT_OK);
    wrote_text(&s, "[\n{\"end\":{\"checksum\":\"none\",\"keys\":0}}\n]\n");
}

static void empty_collections_are_empty(void **state) {
    (void)state;
    static const struct {
        const char *type, *wanted;
    } rows[] = {
        {"list", "{\"key\":\"k\",\"db\":0,\"type\":\"list\",\"encoding\":\"list\",\"value\":[]}\n"},
        {"set", "{\"key\":\"k\",\"db\":0,\"type\":\"set\",\"encoding\":\"set\",\"value\":[]}\n"},
        {"zset", "{\"key\":\"k\",\"db\":0,\"type\":\"zset\",\"encoding\":\"zset\",\"value\":[]}\n"},
        {"hash", "{\"key\":\"k\",\"db\":0,\"type\":\"hash\",\"encoding\":\"hash\",\"value\":{}}\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sink s;
        make(&s, RDBKIT_JSON_AUTO, 1);
        key(&s, rows[i].type);
        KEY_END(&s);
        wrote_text(&s, rows[i].wanted);
    }
    sink s;
    rdbkit_str none = {NULL, 0};
    make(&s, RDBKIT_JSON_AUTO, 1);
    key(&s, "string");
    SEND(&s, string, none);
    KEY_END(&s);
    wrote_text(&s, "{\"key\":\"k\",\"db\":0,\"type\":\"string\",\"encoding\":\"string\",\"value\":\"\"}\n");
}

static void key_has_expiry_and_hints_where_it_has_them(void **state) {
    (void)state;
    sink s;
    make(&s, RDBKIT_JSON_AUTO, 1);
    key_with(&s, "string", INT64_MAX, INT64_MAX, 0);
    SEND(&s, string, str(""));
    KEY_END(&s);
    key_with(&s, "string", INT64_MIN, 0, 255);
    SEND(&s, string, str(""));
    KEY_END(&s);
    rdbkit_key k = {.name = str("\xff"),
                    .type = type_of("string"),
                    .db = UINT64_MAX - 1,
                    .expire_ms = 0,
                    .idle_s = -1,
                    .lfu_freq = -1};
    assert_int_equal(s.v->key(s.v->user, &k), RDBKIT_OK);
    SEND(&s, string, str(""));
    KEY_END(&s);
    wrote_text(
        &s,
        "{\"key\":\"k\",\"db\":0,\"type\":\"string\",\"encoding\":\"string\",\"expire_ms\":"
        "9223372036854775807,"
        "\"idle_s\":9223372036854775807,\"lfu_freq\":0,\"value\":\"\"}\n"
        "{\"key\":\"k\",\"db\":0,\"type\":\"string\",\"encoding\":\"string\",\"expire_ms\":-"
        "9223372036854775808,"
        "\"idle_s\":0,\"lfu_freq\":255,\"value\":\"\"}\n"
        "{\"key\":\"base64:/w==\",\"db\":18446744073709551614,\"type\":\"string\",\"encoding\":\"string\","
        "\"expire_ms\":0,\"value\":\"\"}\n");
}

static void scores_are_numbers_or_one_of_three_words(void **state) {
    (void)state;
    static const struct {
        double score;
        const char *text;
    } rows[] = {{0.0, "0"},
                {-0.0, "-0.0"},
                {1.0, "1"},
                {-1.5, "-1.5"},
                {0.1, "0.1"},
                {5e-324, "5e-324"},
                {1e300, "1e300"},
                {-1e-300, "-1e-300"},
                {1.7976931348623157e308, "1.7976931348623157e308"},
                {9007199254740993.0, "9007199254740992"},
                {INFINITY, "\"inf\""},
                {-INFINITY, "\"-inf\""},
                {(double)NAN, "\"nan\""},
                {-(double)NAN, "\"nan\""}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sink s;
        char wanted[200];
        make(&s, RDBKIT_JSON_AUTO, 1);
        key(&s, "zset-2");
        SEND(&s, zset_member, str("m"), rows[i].score);
        SEND(&s, zset_member, str("-"), rows[i].score);
        KEY_END(&s);
        snprintf(wanted, sizeof wanted,
                 "{\"key\":\"k\",\"db\":0,\"type\":\"zset\",\"encoding\":\"zset-2\",\"value\":[[\"m\",%s],["
                 "\"-\",%s]]}\n",
                 rows[i].text, rows[i].text);
        wrote_text(&s, wanted);
    }
}

static void field_expiry_follows_the_hash_that_has_it(void **state) {
    (void)state;
    sink s;
    make(&s, RDBKIT_JSON_AUTO, 1);
    key(&s, "hash");
    SEND(&s, hash_field, str("a"), str("1"), RDBKIT_NO_EXPIRY);
    SEND(&s, hash_field, str("b\n"), str(""), INT64_MAX);
    SEND(&s, hash_field, str("\xff"), str("3"), 0);
    KEY_END(&s);
    key(&s, "hash");
    SEND(&s, hash_field, str("a"), str("1"), RDBKIT_NO_EXPIRY);
    KEY_END(&s);
    wrote_text(&s,
               "{\"key\":\"k\",\"db\":0,\"type\":\"hash\",\"encoding\":\"hash\",\"value\":{\"a\":\"1\","
               "\"b\\n\":\"\",\"base64:/w==\":\"3\"},"
               "\"field_expire_ms\":{\"b\\n\":9223372036854775807,\"base64:/w==\":0}}\n"
               "{\"key\":\"k\",\"db\":0,\"type\":\"hash\",\"encoding\":\"hash\",\"value\":{\"a\":\"1\"}}\n");
}

#define STREAM                                                                                    \
    "{\"key\":\"k\",\"db\":0,\"type\":\"stream\",\"encoding\":\"stream-listpacks-3\",\"value\":{" \
    "\"entries\":["

static void stream_has_entries_counters_and_groups(void **state) {
    (void)state;
    sink s;
    rdbkit_stream_id one = {1, 1}, most = {UINT64_MAX, UINT64_MAX};
    rdbkit_stream_info info = {2, most, one, {1, 0}, UINT64_MAX, 3, 1};
    rdbkit_stream_group a = {str("a"), most, 7, 3, 2},
                        b = {str("b"), {0, 0}, RDBKIT_ENTRIES_READ_UNKNOWN, 0, 0},
                        c = {str("c"), {0, 0}, INT64_MIN, 0, 1};
    rdbkit_stream_consumer x = {str("x"), 5, 4, 2}, y = {str("y\x80"), INT64_MAX, -1, 1},
                           z = {str("z"), -2, -1, 0};
    rdbkit_stream_pending p = {one, 9, 1}, q = {most, -1, UINT64_MAX};
    make(&s, RDBKIT_JSON_AUTO, 1);
    key(&s, "stream-listpacks-3");
    SEND(&s, stream_entry, one, 2);
    SEND(&s, stream_field, str("f"), str("1"));
    SEND(&s, stream_field, str("f"), str("\n"));
    SEND(&s, stream_entry, most, 1);
    SEND(&s, stream_field, str(""), str("2"));
    SEND(&s, stream_entry, most, 0);
    SEND(&s, stream_info, &info);
    SEND(&s, stream_group, &a);
    SEND(&s, stream_consumer, &x);
    SEND(&s, stream_pending, &p);
    SEND(&s, stream_pending, &q);
    SEND(&s, stream_consumer, &y);
    SEND(&s, stream_pending, &p);
    SEND(&s, stream_group, &b);
    SEND(&s, stream_group, &c);
    SEND(&s, stream_consumer, &z);
    KEY_END(&s);
    wrote_text(&s, STREAM
               "{\"id\":\"1-1\",\"fields\":[[\"f\",\"1\"],[\"f\",\"\\n\"]]},"
               "{\"id\":\"18446744073709551615-18446744073709551615\",\"fields\":[[\"\",\"2\"]]},"
               "{\"id\":\"18446744073709551615-18446744073709551615\",\"fields\":[]}],"
               "\"length\":2,\"last_id\":\"18446744073709551615-18446744073709551615\",\"first_id\":\"1-1\","
               "\"max_deleted\":\"1-0\","
               "\"entries_added\":18446744073709551615,\"groups\":["
               "{\"name\":\"a\",\"last_id\":\"18446744073709551615-18446744073709551615\",\"entries_read\":7,"
               "\"pending_n\":3,\"consumers\":["
               "{\"name\":\"x\",\"seen_ms\":5,\"active_ms\":4,\"pending\":[[\"1-1\",9,1],"
               "[\"18446744073709551615-18446744073709551615\",-1,18446744073709551615]]},"
               "{\"name\":\"base64:eYA=\",\"seen_ms\":9223372036854775807,\"active_ms\":-1,\"pending\":[[\"1-"
               "1\",9,1]]}]},"
               "{\"name\":\"b\",\"last_id\":\"0-0\",\"entries_read\":null,\"pending_n\":0,\"consumers\":[]},"
               "{\"name\":\"c\",\"last_id\":\"0-0\",\"entries_read\":-9223372036854775808,\"pending_n\":0,"
               "\"consumers\":["
               "{\"name\":\"z\",\"seen_ms\":-2,\"active_ms\":-1,\"pending\":[]}]}]}}\n");
}

static void stream_may_be_empty_and_leaves_nothing_to_the_next(void **state) {
    (void)state;
    sink s;
    rdbkit_stream_info info = {0};
    rdbkit_stream_group g = {str("g"), {0, 0}, 0, 0, 1};
    rdbkit_stream_consumer c = {str("c"), 0, 0, 0};
    make(&s, RDBKIT_JSON_AUTO, 1);
    info.groups = 1;
    key(&s, "stream-listpacks-3");
    SEND(&s, stream_info, &info);
    SEND(&s, stream_group, &g);
    SEND(&s, stream_consumer, &c);
    KEY_END(&s);
    info.groups = 0;
    key(&s, "stream-listpacks-3");
    SEND(&s, stream_info, &info);
    KEY_END(&s);
    wrote_text(&s,
               STREAM "],\"length\":0,\"last_id\":\"0-0\",\"first_id\":\"0-0\",\"max_deleted\":\"0-0\","
                      "\"entries_added\":0,\"groups\":["
                      "{\"name\":\"g\",\"last_id\":\"0-0\",\"entries_read\":0,\"pending_n\":0,\"consumers\":["
                      "{\"name\":\"c\",\"seen_ms\":0,\"active_ms\":0,\"pending\":[]}]}]}}\n" STREAM
                      "],\"length\":0,\"last_id\":\"0-0\",\"first_id\":\"0-0\",\"max_deleted\":\"0-0\","
                      "\"entries_added\":0,\"groups\":[]}}\n");
}

static void module_value_is_base64_in_however_many_pieces(void **state) {
    (void)state;
    static const char raw[] = "\x00\x01\x02\xff\xfe\xfd"
                              "abcd";
    for (size_t first = 0; first <= 10; first++)
        for (size_t second = first; second <= 10; second++) {
            sink s;
            rdbkit_key k = {.name = str("k"),
                            .type = type_of("module-2"),
                            .module = "ReJSON-RL",
                            .expire_ms = -1,
                            .idle_s = -1,
                            .lfu_freq = -1};
            rdbkit_module_aux aux = {.module = "allvals__", .encoding_version = 1023, .when = 2};
            make(&s, RDBKIT_JSON_LATIN1, 1);
            assert_int_equal(s.v->key(s.v->user, &k), RDBKIT_TAKE_RAW);
            SEND(&s, raw, raw, first);
            SEND(&s, raw, raw + first, second - first);
            SEND(&s, raw, raw + second, 10 - second);
            KEY_END(&s);
            assert_int_equal(s.v->module_aux(s.v->user, &aux), RDBKIT_TAKE_RAW);
            SEND(&s, raw, raw, first);
            assert_int_equal(s.v->module_aux_end(s.v->user), RDBKIT_OK);
            static const char *const heads[] =
                {"",         "AA==",         "AAE=",         "AAEC",         "AAEC/w==",        "AAEC//4=",
                 "AAEC//79", "AAEC//79YQ==", "AAEC//79YWI=", "AAEC//79YWJj", "AAEC//79YWJjZA=="};
            char wanted[400];
            snprintf(wanted, sizeof wanted,
                     "{\"key\":\"k\",\"db\":0,\"type\":\"module\",\"encoding\":\"module-2\","
                     "\"value\":{\"module\":\"ReJSON-RL\",\"raw\":\"AAEC//79YWJjZA==\"}}\n"
                     "{\"module_aux\":\"allvals__\",\"encoding_version\":1023,\"when\":2,\"raw\":\"%s\"}\n",
                     heads[first]);
            wrote_text(&s, wanted);
        }
}

static void base64_leaves_names_of_modules_alone(void **state) {
    (void)state;
    sink s;
    rdbkit_module_aux aux = {.module = "allvals__", .encoding_version = 1, .when = 1};
    make(&s, RDBKIT_JSON_BASE64, 1);
    SEND(&s, aux, str("n"), str(""));
    assert_int_equal(s.v->module_aux(s.v->user, &aux), RDBKIT_TAKE_RAW);
    assert_int_equal(s.v->module_aux_end(s.v->user), RDBKIT_OK);
    wrote_text(&s, "{\"aux\":\"bg==\",\"value\":\"\"}\n{\"module_aux\":\"allvals__\",\"encoding_version\":1,"
                   "\"when\":1,\"raw\":\"\"}\n");
}

/* ---- Mishaps ---- */

static void string_in_pieces_is_a_usage_error(void **state) {
    (void)state;
    sink s;
    make(&s, RDBKIT_JSON_AUTO, 0);
    key(&s, "string");
    assert_int_equal(s.v->string_piece(s.v->user, str("x"), 0, 2), RDBKIT_ERR_USAGE);
    drop(&s);
}

static void options_out_of_range_make_no_sink(void **state) {
    (void)state;
    rdbkit_json_options o;
    rdbkit_json_options_init(&o);
    assert_int_equal(o.encoding, RDBKIT_JSON_AUTO);
    assert_int_equal(o.lines, 0);
    assert_null(o.allocator);
    assert_null(rdbkit_json_new(&o, NULL, NULL));
    o.encoding = RDBKIT_JSON_ENCODING_N;
    assert_null(rdbkit_json_new(&o, take, NULL));
    o.encoding = (rdbkit_json_encoding)-1;
    assert_null(rdbkit_json_new(&o, take, NULL));
    rdbkit_json_free(NULL);
    rdbkit_json *s = rdbkit_json_new(NULL, take, NULL);
    assert_non_null(s);
    rdbkit_json_free(s);
}

static void failed_write_is_an_io_error_that_stays(void **state) {
    (void)state;
    char *big = malloc(70000);
    assert_non_null(big);
    for (int kind = 0; kind < 3; kind++) {
        sink s;
        memset(big, kind == 0 ? 'x' : kind == 1 ? '\n' : 0xff, 70000);
        rdbkit_str text = {big, 70000};
        make(&s, RDBKIT_JSON_AUTO, 0);
        s.fail_at = 100000;
        key(&s, "list");
        int st = 0, calls = 0;
        while (!st && calls++ < 100) st = s.v->list_item(s.v->user, text);
        assert_int_equal(st, RDBKIT_ERR_IO);
        assert_int_equal(s.v->list_item(s.v->user, text), RDBKIT_ERR_IO);
        assert_int_equal(s.v->key_end(s.v->user), RDBKIT_ERR_IO);
        assert_int_equal(rdbkit_json_finish(s.json), RDBKIT_ERR_IO);
        assert_int_equal(rdbkit_json_errno(s.json), ENOSPC);
        drop(&s);
    }
    free(big);
    sink s; /* the failure comes with finish */
    make(&s, RDBKIT_JSON_AUTO, 0);
    s.fail_at = 1;
    SEND(&s, end, 0);
    assert_int_equal(rdbkit_json_errno(s.json), 0);
    assert_int_equal(rdbkit_json_finish(s.json), RDBKIT_ERR_IO);
    assert_int_equal(rdbkit_json_errno(s.json), ENOSPC);
    drop(&s);
}

static void failed_allocation_is_out_of_memory(void **state) {
    (void)state;
    for (uint64_t fail = 1; fail < 100; fail++) {
        tk_memory m = {.fail_at = fail};
        rdbkit_allocator a = tk_allocator(&m);
        rdbkit_json_options o;
        rdbkit_json_options_init(&o);
        o.allocator = &a;
        sink s = {0};
        int st = 0, i = 0;
        s.json = rdbkit_json_new(&o, take, &s);
        if (s.json) {
            s.v = rdbkit_json_visitor(s.json);
            assert_int_equal(key(&s, "hash"), RDBKIT_OK);
            for (; i < 1000 && !st; i++) st = s.v->hash_field(s.v->user, str("a field's name"), str("v"), 1);
            if (st) assert_int_equal(st, RDBKIT_ERR_NOMEM);
            KEY_END(&s); /* after a failure too: what was kept is whole */
            assert_int_equal(rdbkit_json_finish(s.json), RDBKIT_OK);
        }
        drop(&s);
        assert_null(m.misuse);
        assert_int_equal(m.live, 0);
        if (i == 1000 && !st) return;
    }
    fail_msg("more than 100 allocations for one hash");
}

static void memory_does_not_grow_with_the_document(void **state) {
    (void)state;
    tk_memory m = {0};
    rdbkit_allocator a = tk_allocator(&m);
    rdbkit_json_options o;
    rdbkit_json_options_init(&o);
    o.allocator = &a;
    sink s = {0};
    s.json = rdbkit_json_new(&o, take, &s);
    assert_non_null(s.json);
    s.v = rdbkit_json_visitor(s.json);
    uint64_t before = m.calls;
    for (int i = 0; i < 1000; i++) {
        key(&s, "hash");
        for (int j = 0; j < 100; j++)
            SEND(&s, hash_field, str("field"), str("\xff and a value"), RDBKIT_NO_EXPIRY);
        KEY_END(&s);
        s.text.len = 0;
    }
    assert_int_equal(m.calls, before);
    assert_true(m.peak < 300000);
    drop(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ascii_is_itself_but_for_what_json_escapes),
        cmocka_unit_test(utf8_is_itself_but_for_line_separators),
        cmocka_unit_test(what_is_not_utf8_is_marked_base64),
        cmocka_unit_test(text_that_begins_like_a_mark_is_marked),
        cmocka_unit_test(lossy_replaces_each_broken_sequence_once),
        cmocka_unit_test(every_byte_is_written_in_every_encoding),
        cmocka_unit_test(odd_bytes_are_found_at_every_place),
        cmocka_unit_test(random_strings_are_as_the_slow_writer_has_them),
        cmocka_unit_test(strings_larger_than_the_buffer_come_whole),
        cmocka_unit_test(document_is_an_array_closed_at_the_end),
        cmocka_unit_test(lines_have_the_same_records_without_array),
        cmocka_unit_test(document_without_end_is_not_closed),
        cmocka_unit_test(finish_may_be_called_again),
        cmocka_unit_test(empty_collections_are_empty),
        cmocka_unit_test(key_has_expiry_and_hints_where_it_has_them),
        cmocka_unit_test(scores_are_numbers_or_one_of_three_words),
        cmocka_unit_test(field_expiry_follows_the_hash_that_has_it),
        cmocka_unit_test(stream_has_entries_counters_and_groups),
        cmocka_unit_test(stream_may_be_empty_and_leaves_nothing_to_the_next),
        cmocka_unit_test(module_value_is_base64_in_however_many_pieces),
        cmocka_unit_test(base64_leaves_names_of_modules_alone),
        cmocka_unit_test(string_in_pieces_is_a_usage_error),
        cmocka_unit_test(options_out_of_range_make_no_sink),
        cmocka_unit_test(failed_write_is_an_io_error_that_stays),
        cmocka_unit_test(failed_allocation_is_out_of_memory),
        cmocka_unit_test(memory_does_not_grow_with_the_document),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
