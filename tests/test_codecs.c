/* test_codecs.c - every codec of rdbkit.c on its own: against bytes written by hand and other implementations.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "../rdbkit.c"

#include <cmocka.h>
#include <lzf.h>

#include "testkit.h"

#define TEST(name) static void name(void **state TK_USED)
#define N_OF(a) (sizeof(a) / sizeof(a)[0])

/* For loops that are too hot for a call each time. */
#define CHECK(holds, ...)                                   \
    do {                                                    \
        if (PORT_UNLIKELY(!(holds))) fail_msg(__VA_ARGS__); \
    } while (0)

/* ---- Memory that ends with the data ---- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif

#define EXACT_MAX (4u << 20)

/* One block at a time, the last one given ends. */
typedef struct exact {
    tk_guard guard;
    u8 *held;
} exact;

/* len bytes with nothing behind them: an unreadable page, or what the sanitizer keeps there (and before). */
static u8 *exact_room(exact *x, size_t len) {
#ifdef SANITIZED
    free(x->held);
    x->held = malloc(len);
    assert_non_null(x->held);
    return x->held;
#else
    if (!x->guard.base) tk_guard_make(&x->guard, EXACT_MAX);
    CHECK(len <= EXACT_MAX, "block of %zu bytes", len);
    return tk_guard_put(&x->guard, NULL, 0) - len;
#endif
}

static u8 *exact_copy(exact *x, const void *data, size_t len) {
    u8 *p = exact_room(x, len);
    if (len) memcpy(p, data, len);
    return p;
}

static exact input, output;

static int drop_exact(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        exact *x = i ? &output : &input;
        free(x->held);
        if (x->guard.base) tk_guard_drop(&x->guard);
        memset(x, 0, sizeof *x);
    }
    return 0;
}

/* ---- Bytes from text ---- */

/* Hex bytes; 250*78 is 250 times 78. */
static tk_bytes bytes_of(const char *hex) {
    tk_bytes b = {0};
    while (*(hex += strspn(hex, " "))) {
        unsigned n = 1, x = 0;
        int used = 0;
        if (sscanf(hex, "%u*%2x%n", &n, &x, &used) != 2) {
            n = 1;
            CHECK(sscanf(hex, "%2x%n", &x, &used) == 1, "not hex: %s", hex);
        }
        while (n--) tk_u8(&b, x);
        hex += used;
    }
    return b;
}

static u64 seed; /* every test starts with the same one */

static int reset_seed(void **state) {
    (void)state;
    seed = 20240229;
    return 0;
}

static u64 random64(void) { return tk_random(&seed); }

static size_t random_below(size_t n) { return (size_t)((random64() >> 11) % n); }

/* ==== port_ ==== */

TEST(port_loads_take_bytes_in_the_order_of_their_names) {
    static const u8 p[] = {0x81, 0x02, 0x03, 0x84, 0x05, 0x06, 0x07, 0x88};
    static const u8 one[] = {0, 0, 0, 0, 0, 0, 0xf0, 0x3f};
    u8 back[8];
    assert_true(port_le64(p) == 0x8807060584030281);
    assert_true(port_be64(p) == 0x8102038405060788);
    assert_int_equal(port_le32(p), 0x84030281);
    assert_int_equal(port_be32(p), 0x81020384);
    assert_int_equal(port_le24(p + 1), 0x840302);
    assert_int_equal(port_le16(p + 3), 0x0584);
    assert_true(port_le_double(one) == 1.0);
    port_put_le64(back, 0x8807060584030281);
    assert_memory_equal(back, p, 8);
}

TEST(port_sign_extends_at_every_width) {
    for (int n = 1; n <= 64; n++) {
        u64 half = (u64)1 << (n - 1), above = n == 64 ? 0 : ~(half | (half - 1));
        for (int junk = 0; junk < 2; junk++) {
            u64 high = junk ? above : 0;
            CHECK(port_sign(high, n) == 0, "0 of %d bits", n);
            CHECK(port_sign(high | (half - 1), n) == (i64)(half - 1), "largest of %d bits", n);
            CHECK(port_sign(high | half, n) == (i64)(0 - half), "smallest of %d bits", n);
            CHECK(port_sign(high | half | (half - 1), n) == -1, "-1 of %d bits", n);
        }
    }
}

TEST(port_mul128_is_the_product_of_halves) {
    static const u64 edge[] = {0, 1, 0xffffffff, 0x100000000, 0x8000000000000000, UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < 100000; i++) {
        u64 a = i < 49 ? edge[i / 7] : random64(), b = i < 49 ? edge[i % 7] : random64(), hi;
        u64 lo = port_mul128(a, b, &hi);
        u64 a0 = (u32)a, a1 = a >> 32, b0 = (u32)b, b1 = b >> 32;
        u64 mid = a1 * b0 + (a0 * b0 >> 32), mid2 = a0 * b1 + (u32)mid;
        CHECK(lo == a * b && hi == a1 * b1 + (mid >> 32) + (mid2 >> 32), "%llx * %llx", (unsigned long long)a,
              (unsigned long long)b);
    }
}

TEST(port_clz64_counts_the_zeros_above_each_bit) {
    for (int i = 0; i < 64; i++) {
        assert_int_equal(port_clz64((u64)1 << i), 63 - i);
        assert_int_equal(port_clz64(((u64)1 << i) | (((u64)1 << i) - 1)), 63 - i);
    }
}

TEST(port_copy_touches_exactly_the_bytes_it_is_given) {
    u8 from[100], to[100 + 32];
    for (size_t i = 0; i < sizeof from; i++) from[i] = (u8)(i + 1);
    for (size_t len = 0; len <= sizeof from; len++) {
        memset(to, 0xee, sizeof to);
        port_copy(to + 16, exact_copy(&input, from, len), len);
        for (size_t i = 0; i < sizeof to; i++) {
            int inside = i >= 16 && i < 16 + len;
            CHECK(to[i] == (inside ? from[i - 16] : 0xee), "copy of %zu bytes, byte %zu", len, i);
        }
        memcpy(exact_room(&output, len), to, len);
        port_copy(exact_room(&output, len), from, len);
    }
}

/* ==== mem_ ==== */

TEST(mem_buffer_grows_and_stays_as_it_was_when_it_cannot) {
    tk_memory m = {0};
    rdbkit_allocator a = tk_allocator(&m);
    mem_buf b = {0};
    u8 byte = 0;
    for (int i = 0; i < 5000; i++, byte++) assert_int_equal(mem_buf_add(&a, &b, &byte, 1), 0);
    for (size_t i = 0; i < b.len; i++) CHECK(b.data[i] == (u8)i, "byte %zu after growth", i);
    m.fail_at = m.calls + 1;
    mem_buf before = b;
    assert_int_equal(mem_buf_room(&a, &b, b.cap), RDBKIT_ERR_NOMEM);
    assert_int_equal(mem_buf_room(&a, &b, SIZE_MAX), RDBKIT_ERR_NOMEM);
    assert_memory_equal(&before, &b, sizeof b);
    mem_buf_free(&a, &b);
    assert_int_equal(m.live, 0);
    assert_null(m.misuse);
}

/* ==== fmt_ ==== */

TEST(fmt_number_22_means_what_the_lineage_says) {
    assert_ptr_equal(fmt_type_find(RDBKIT_REDIS, 22), &fmt_types[FMT_HASH_METADATA_PRE_GA]);
    assert_ptr_equal(fmt_type_find(RDBKIT_VALKEY, 22), &fmt_types[FMT_HASH_2]);
    assert_ptr_equal(fmt_type_find(RDBKIT_REDIS, 24), &fmt_types[FMT_HASH_METADATA]);
    for (int number = 23; number < 26; number++) assert_null(fmt_type_find(RDBKIT_VALKEY, number));
    assert_null(fmt_type_find(RDBKIT_REDIS | RDBKIT_VALKEY, 8));
}

TEST(fmt_a_number_and_a_lineage_have_one_row_and_a_name_too) {
    for (int i = 0; i < FMT_TYPE_N; i++)
        for (int j = 0; j < i; j++) {
            const rdbkit_type *a = &fmt_types[j], *b = &fmt_types[i];
            assert_true(a->number <= b->number);
            assert_false(a->number == b->number && (a->lineage & b->lineage));
            assert_string_not_equal(a->name, b->name);
        }
}

TEST(fmt_module_name_is_that_of_the_servers) {
    char name[10];
    fmt_module_name(0xbde72da2bb1eb400, name); /* fixtures/redis80/module_7_vectorset.rdb */
    assert_string_equal(name, "vectorset");
    fmt_module_name(UINT64_MAX, name);
    assert_string_equal(name, "_________");
    fmt_module_name((u64)62 << 58 | 1023, name);
    assert_string_equal(name, "-AAAAAAAA");
}

TEST(fmt_layouts_are_well_formed) {
    for (int i = 0; i < FMT_TYPE_N; i++) {
        const char *s = fmt_types[i].layout;
        int depth = 0;
        for (size_t k = 0; s && s[k]; k++) {
            assert_non_null(strchr("sl8Gdmn()", s[k]));
            assert_true((s[k] == 'n') == (s[k + 1] == '('));
            assert_false(s[k] == '(' && s[k + 1] == ')');
            depth += (s[k] == '(') - (s[k] == ')');
            assert_true(depth >= 0);
        }
        assert_int_equal(depth, 0);
        assert_int_equal(s == NULL, i == FMT_MODULE_PRE_GA);
    }
}

/* ==== err_ ==== */

TEST(err_quotes_all_bytes_as_redis_cli_does) {
    static const char special[] = "\a\b\t\n\r\"\\", named[] = "abtnr\"\\";
    for (int c = 0; c < 256; c++) {
        char text[16] = "", want[16];
        u8 byte = (u8)c;
        const char *at = c ? strchr(special, c) : NULL;
        if (at) snprintf(want, sizeof want, "\"\\%c\"", named[at - special]);
        else if (c >= 0x20 && c <= 0x7e) snprintf(want, sizeof want, "\"%c\"", c);
        else snprintf(want, sizeof want, "\"\\x%02x\"", (unsigned)c);
        err_add_quoted(text, sizeof text, &byte, 1);
        assert_string_equal(text, want);
    }
}

TEST(err_text_is_cut_where_its_space_ends) {
    static const char bytes[] = "ab\n\x01\"\xff z";
    char whole[64] = "at: ";
    err_add_quoted(whole, sizeof whole, bytes, sizeof bytes - 1);
    for (size_t size = 1; size <= strlen(whole) + 1; size++) {
        char *text = (char *)exact_room(&input, size);
        text[0] = 0;
        err_add(text, size, "at: ");
        err_add_quoted(text, size, bytes, sizeof bytes - 1);
        assert_int_equal(strlen(text), size - 1);
        assert_memory_equal(text, whole, size - 1);
    }
}

TEST(err_key_over_64_bytes_is_shown_with_its_length) {
    // clang-format off
    static const struct {
        u64 len;
        const char *tail;
    } row[] = {{0, "\" db 3"}, {63, "\" db 3"}, {64, "\" db 3"}, {65, "\"... (65 bytes) db 3"},
               {UINT64_MAX, "\"... (18446744073709551615 bytes) db 3"}};
    // clang-format on
    for (size_t i = 0; i < N_OF(row); i++) {
        rdbkit_error e = {0};
        char want[200] = "where: what; key \"";
        e.type = "string", e.db = 3, e.key_len = row[i].len;
        memset(e.key, 'k', sizeof e.key);
        strncat(want, "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
                row[i].len < 64 ? (size_t)row[i].len : 64);
        strcat(want, row[i].tail);
        strcpy(e.message, "where: what");
        err_add_key(&e);
        assert_string_equal(e.message, want);
    }
    rdbkit_error none = {0};
    err_add_key(&none);
    assert_string_equal(none.message, "");
}

/* ==== crc_ ==== */

static u64 crc_bitwise(u64 crc, u8 byte) {
    crc ^= byte;
    for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? 0x95ac9329ac4bc9b5 : 0);
    return crc;
}

TEST(crc_has_the_check_values_of_the_format) {
    static const struct {
        const char *text;
        u64 crc;
    } row[] = {{"", 0},
               {"a", 0x5fb354025b277b14},
               {"123456789", 0xe9c6d914c4b8d9ca},
               {"This is a test of the emergency broadcast system.", 0x42153dc5db99540f}};
    for (size_t i = 0; i < N_OF(row); i++)
        assert_true(crc_update(0, (const u8 *)row[i].text, strlen(row[i].text)) == row[i].crc);
}

TEST(crc_is_the_same_by_folding_by_table_and_by_bits) {
    u8 data[1100 + 16];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (u8)random64();
    for (size_t align = 0; align < 16; align++) {
        u64 start = random64(), want = start;
        for (size_t len = 0; len <= 1100; want = crc_bitwise(want, data[align + len]), len++) {
            CHECK(crc_update_table(start, data + align, len) == want, "table, %zu bytes at %zu", len, align);
            CHECK(crc_update(start, data + align, len) == want, "%zu bytes at %zu", len, align);
#ifdef CRC_FOLD
            if (len >= 64 && crc_have_fold())
                CHECK(CRC_FOLD(start, data + align, len) == want, "folding, %zu bytes at %zu", len, align);
#endif
            if (len == 1100) break;
        }
    }
}

TEST(crc_in_two_steps_is_that_in_one) {
    u8 data[1100];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (u8)random64();
    u64 start = random64(), whole = crc_update(start, data, sizeof data);
    for (size_t at = 0; at <= sizeof data; at++) {
        u64 crc = crc_update(start, exact_copy(&input, data, at), at);
        crc = crc_update(crc, exact_copy(&input, data + at, sizeof data - at), sizeof data - at);
        CHECK(crc == whole, "cut at %zu", at);
    }
}

/* ==== lzf_ ==== */

#define LZF_INPUT_MAX 70000

/* Plain bytes of one of three natures: 0 chance, 1 repetition, 2 JSON. */
static void lzf_plain(u8 *out, size_t len, int nature) {
    size_t period = 1 + random_below(300), n = 0;
    while (n < len) {
        char text[64];
        int k = 1;
        if (nature == 0) text[0] = (char)random64();
        else if (nature == 1)
            text[0] = (char)(n < period || random64() % 500 == 0 ? random64() : out[n - period]);
        else
            k = snprintf(text, sizeof text, "{\"id\":%u,\"name\":\"user%u\",\"ok\":%s},",
                         (unsigned)random_below(1000), (unsigned)n, random64() & 1 ? "true" : "false");
        for (int i = 0; i < k && n < len; i++) out[n++] = (u8)text[i];
    }
}

/* Holds decoder, checker and liblzf against each other; returns whether all took clen bytes for ulen. plain: what
 * has to come out if they do, or NULL. */
static int lzf_agree(const u8 *in, size_t clen, size_t ulen, const u8 *plain) {
    static u8 want[LZF_INPUT_MAX + 1];
    const u8 *p = exact_copy(&input, in, clen);
    u8 *o = exact_room(&output, ulen + LZF_SLACK);
    int ok = lzf_decode(p, clen, o, ulen) == 0;
    CHECK((lzf_check(p, clen, ulen) == 0) == ok, "check and decode differ on %zu bytes for %zu", clen, ulen);
    if (!clen || !ulen) return ok; /* liblzf takes neither */
    int theirs = lzf_decompress(p, (unsigned)clen, want, (unsigned)ulen) == ulen;
    CHECK(theirs == ok, "liblzf %s %zu bytes for %zu", theirs ? "accepts" : "refuses", clen, ulen);
    if (ok) assert_memory_equal(o, want, ulen);
    if (ok && plain) assert_memory_equal(o, plain, ulen);
    return ok;
}

TEST(lzf_reads_what_liblzf_writes_and_only_at_its_size) {
    static u8 plain[LZF_INPUT_MAX], packed[LZF_INPUT_MAX + LZF_INPUT_MAX / 16 + 64];
    for (int nature = 0; nature < 3; nature++)
        for (size_t i = 1; i < 500; i++) {
            size_t len = i < 300 ? i : 1 + random_below(LZF_INPUT_MAX >> random_below(8));
            if (i == 300) len = LZF_INPUT_MAX;
            lzf_plain(plain, len, nature);
            unsigned clen = lzf_compress(plain, (unsigned)len, packed, sizeof packed);
            CHECK(clen > 0, "liblzf did not compress %zu bytes", len);
            CHECK(lzf_agree(packed, clen, len, plain), "refused: nature %d, %zu bytes", nature, len);
            CHECK(!lzf_agree(packed, clen, len - 1, NULL) &&
                      (len == LZF_INPUT_MAX || !lzf_agree(packed, clen, len + 1, NULL)),
                  "accepted at a wrong size: nature %d, %zu bytes", nature, len);
        }
}

/* Literals, then one reference of n bytes at distance d. */
static tk_bytes lzf_reference(size_t d, size_t n) {
    tk_bytes b = {0};
    for (size_t left = d; left;) {
        size_t run = left < 32 ? left : 32;
        tk_u8(&b, (unsigned)run - 1);
        for (size_t i = 0; i < run; i++) tk_u8(&b, (unsigned)random64() & 255);
        left -= run;
    }
    tk_u8(&b, (n < 9 ? (unsigned)n - 2 : 7) << 5 | (unsigned)(d - 1) >> 8);
    if (n >= 9) tk_u8(&b, (unsigned)n - 9);
    tk_u8(&b, (unsigned)(d - 1) & 255);
    return b;
}

TEST(lzf_reference_of_any_length_copies_from_any_distance) {
    static const size_t far[] = {255, 256, 257, 4096, 8191, 8192};
    for (size_t i = 1; i <= 40 + N_OF(far); i++)
        for (size_t n = 3; n <= 264; n++) {
            size_t d = i <= 40 ? i : far[i - 41];
            if (d > 40 && n % 29) continue;
            tk_bytes b = lzf_reference(d, n);
            CHECK(lzf_agree(b.data, b.len, d + n, NULL), "%zu bytes at distance %zu", n, d);
            tk_drop(&b);
        }
}

TEST(lzf_reference_before_the_start_is_refused) {
    tk_bytes b = bytes_of("01 61 62 20 01"), c = bytes_of("01 61 62 20 02"), d = bytes_of("20 00");
    assert_true(lzf_agree(b.data, b.len, 5, NULL));
    assert_false(lzf_agree(c.data, c.len, 5, NULL));
    assert_false(lzf_agree(d.data, d.len, 3, NULL));
    assert_true(lzf_agree(d.data, 0, 0, NULL));
    assert_false(lzf_agree(d.data, 0, 1, NULL));
    tk_drop(&b), tk_drop(&c), tk_drop(&d);
}

TEST(lzf_judges_broken_streams_as_liblzf_does) {
    u8 plain[700], packed[900], broken[900];
    unsigned accepted = 0;
    for (int i = 0; i < 150000; i++) {
        static size_t clen, len;
        if (i % 50 == 0) {
            len = 1 + random_below(sizeof plain >> random_below(6));
            lzf_plain(plain, len, i / 50 % 3);
            clen = lzf_compress(plain, (unsigned)len, packed, sizeof packed);
        }
        size_t n = random64() % 4 ? clen : random_below(clen + 1), ulen = len;
        memcpy(broken, packed, n);
        for (size_t k = random_below(4); n && k; k--)
            broken[random_below(n)] = (u8)(random64() & 1 ? random64() : random_below(64));
        if (random64() % 4 == 0) ulen = random_below(len + 20);
        accepted += (unsigned)lzf_agree(broken, n, ulen, NULL);
    }
    assert_in_range(accepted, 10000, 140000); /* both outcomes were seen */
}

/* ==== num_ : integers ==== */

TEST(num_integers_are_printed_as_printf_does) {
    u64 base[20 + 64], ten = 1;
    for (int i = 0; i < 20; i++, ten *= 10) base[i] = ten;
    for (int i = 0; i < 64; i++) base[20 + i] = (u64)1 << i;
    for (size_t i = 0; i < N_OF(base); i++)
        for (int d = -1; d <= 1; d++) {
            char text[NUM_INT_MAX + 1], want[32];
            u64 v = base[i] + (u64)(i64)d;
            *num_u64((u8 *)text, v) = 0;
            snprintf(want, sizeof want, "%llu", (unsigned long long)v);
            assert_string_equal(text, want);
            assert_int_equal(num_digits(v), strlen(want));
            for (int minus = 0; minus < 2; minus++) {
                i64 s = (i64)(minus ? 0 - v : v);
                u8 *p = exact_room(&output, (size_t)snprintf(want, sizeof want, "%lld", (long long)s));
                size_t n = (size_t)(num_i64(p, s) - p);
                assert_int_equal(n, strlen(want));
                assert_memory_equal(p, want, n);
            }
        }
}

/* ==== num_ : exact arithmetic to hold the powers and the halfway cases against ==== */

typedef struct big {
    int n;
    u32 limb[100]; /* little endian; the last is not 0 */
} big;

static void big_mul(big *b, u32 factor, int times) {
    for (; times > 0; times--) {
        u64 carry = 0;
        for (int i = 0; i < b->n; i++, carry >>= 32) b->limb[i] = (u32)(carry += (u64)b->limb[i] * factor);
        CHECK(!carry || b->n < (int)N_OF(b->limb), "number too big");
        if (carry) b->limb[b->n++] = (u32)carry;
    }
}

static big big_of(u64 hi, u64 lo) {
    big b = {4, {(u32)lo, (u32)(lo >> 32), (u32)hi, (u32)(hi >> 32)}};
    while (b.n && !b.limb[b.n - 1]) b.n--;
    return b;
}

static int big_bits(const big *b) { return b->n ? 32 * b->n + 32 - port_clz64(b->limb[b->n - 1]) : 0; }

/* The first 128 bits. */
static num_u128 big_top(const big *b) {
    num_u128 r = {0, 0};
    for (int i = 0, at = big_bits(b) - 1; i < 128; i++, at--) {
        u64 bit = at < 0 ? 0 : b->limb[at / 32] >> at % 32 & 1;
        r.hi = r.hi << 1 | r.lo >> 63, r.lo = r.lo << 1 | bit;
    }
    return r;
}

/* Decimal digits; ruins b. */
static void big_text(big *b, char *out) {
    char part[90][16];
    int n = 0;
    do {
        u64 rest = 0;
        for (int i = b->n - 1; i >= 0; i--) {
            rest = rest << 32 | b->limb[i];
            b->limb[i] = (u32)(rest / 1000000000), rest %= 1000000000;
        }
        while (b->n && !b->limb[b->n - 1]) b->n--;
        snprintf(part[n++], sizeof part[0], b->n ? "%09u" : "%u", (unsigned)rest);
    } while (b->n);
    for (*out = 0; n > 0; out += strlen(out)) strcpy(out, part[--n]);
}

/* t is the first 128 bits of 10^-n, rounded down, if t * 5^n < 2^m < (t + 1) * 5^n for the m that gives it 128. */
static int pow10_below_one_is(num_u128 t, int n) {
    big five = big_of(0, 1), low = big_of(t.hi, t.lo), high = big_of(t.hi + (t.lo == UINT64_MAX), t.lo + 1);
    big_mul(&five, 5, n), big_mul(&low, 5, n), big_mul(&high, 5, n);
    int m = big_bits(&five) + 127;
    return big_bits(&low) <= m && big_bits(&high) > m;
}

TEST(num_pow10_is_exact_to_the_last_bit_for_all_676) {
    big five = big_of(0, 1);
    for (int k = 0; k <= NUM_POW10_MAX; k++, big_mul(&five, 5, 1)) {
        num_u128 want = big_top(&five), down = num_pow10(k, 0);
        CHECK(down.hi == want.hi && down.lo == want.lo, "10^%d", k);
    }
    for (int k = NUM_POW10_MIN; k < 0; k++) CHECK(pow10_below_one_is(num_pow10(k, 0), -k), "10^%d", k);
    for (int k = NUM_POW10_MIN; k <= NUM_POW10_MAX; k++) {
        num_u128 down = num_pow10(k, 0), up = num_pow10(k, 1);
        u64 more = k < 0 || k > 55; /* 5^55 is the last of 128 bits */
        CHECK(up.lo == down.lo + more && up.hi == down.hi + (more > up.lo), "10^%d rounded up", k);
    }
}

/* ==== num_ : doubles as text ==== */

static u64 bits_of(double v) {
    u64 bits;
    memcpy(&bits, &v, 8);
    return bits;
}

static double double_of(u64 bits) {
    double v;
    memcpy(&v, &bits, 8);
    return v;
}

/* The significant digits of a text, without zeros around them. */
static int significant(const char *text, char *digits) {
    int n = 0;
    for (; *text && *text != 'e'; text++)
        if (*text >= '1' || (*text == '0' && n)) digits[n++] = *text;
    while (n && digits[n - 1] == '0') n--;
    digits[n] = 0;
    return n;
}

/* Reads back; no text of fewer digits does (all: of any number, else of one less); and it is the nearest. */
static void shortest_holds(double v, int all) {
    char text[NUM_DOUBLE_MAX + 1], mine[40], theirs[40], other[48];
    *num_double((u8 *)text, v) = 0;
    CHECK(bits_of(strtod(text, NULL)) == bits_of(v), "%s for %a", text, v);
    int n = significant(text, mine);
    for (int k = all ? 1 : n - 1; k < n; k++) {
        snprintf(other, sizeof other, "%.*e", k > 0 ? k - 1 : 0, v);
        CHECK(k < 1 || strtod(other, NULL) != v, "%s for %a, which %s says too", text, v, other);
    }
    snprintf(other, sizeof other, "%.*e", n > 0 ? n - 1 : 0, v);
    significant(other, theirs);
    CHECK(strtod(other, NULL) != v || !strcmp(mine, theirs), "%s for %a, %s is nearer", text, v, other);
}

TEST(num_double_is_the_shortest_text_that_reads_back) {
    for (u64 e = 0; e < 2047; e++) /* around every power of two */
        for (u64 d = 0; d < 3; d++) shortest_holds(double_of((e << 52) + d - (e ? 1 : 0)), 1);
    for (u64 i = 0; i < 52; i++) shortest_holds(double_of((u64)1 << i), 1);
    for (int i = 0; i < 100000; i++) {
        u64 r = random64();
        shortest_holds(double_of((r >> 52 & 0x7ff) == 0x7ff ? r ^ (u64)1 << 62 : r), 0);
        shortest_holds((double)(i64)(r >> (r & 63)), 0);
        shortest_holds((double)(i64)(r >> 34) / 100, 0);
        shortest_holds(double_of(r >> 12 >> (r & 31)), 0); /* subnormal */
    }
}

TEST(num_double_places_the_point_so_that_the_text_is_short) {
    // clang-format off
    static const struct {
        double v;
        const char *text;
    } row[] = {
        {0.0, "0"}, {-0.0, "-0"}, {1, "1"}, {-1, "-1"}, {0.5, "0.5"}, {-0.5, "-0.5"}, {3, "3"}, {0.1, "0.1"},
        {1e20, "100000000000000000000"}, {123456789012345680000.0, "123456789012345680000"}, {1e21, "1e21"},
        {1.5e300, "1.5e300"}, {1e-5, "0.00001"}, {1.25e-6, "0.00000125"}, {1e-6, "0.000001"}, {1e-7, "1e-7"},
        {-1.25e-7, "-1.25e-7"}, {5e-324, "5e-324"}, {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {1.7976931348623157e308, "1.7976931348623157e308"}, {9007199254740992.0, "9007199254740992"},
        {9007199254740993.0, "9007199254740992"}, {-123456.789, "-123456.789"}, {HUGE_VAL, "inf"},
        {-HUGE_VAL, "-inf"}, {1700000000000.0, "1700000000000"}, {9.5367431640625e-7, "9.5367431640625e-7"},
    };
    // clang-format on
    for (size_t i = 0; i < N_OF(row); i++) {
        u8 *p = exact_room(&output, NUM_DOUBLE_MAX);
        *num_double(p, row[i].v) = 0;
        assert_string_equal((char *)p, row[i].text);
    }
}

TEST(num_double_of_nan_leaves_what_stands_before_it) {
    static const u64 nan[] = {(u64)0x7ff8 << 48, (u64)0xfff8 << 48, ((u64)0x7ff << 52) | 1};
    for (size_t i = 0; i < N_OF(nan); i++) {
        u8 text[NUM_DOUBLE_MAX + 1] = "-";
        u8 *end = num_double(text + 1, double_of(nan[i]));
        *end = 0;
        assert_string_equal((char *)text, "-nan");
    }
}

/* ==== num_ : text as doubles ==== */

/* What strtod makes of a text; 0, or -1 if it is one that we refuse. */
static int strtod_takes(const char *text, double *v) {
    char *end;
    if (!*text || strchr(" \t\n\v\f\r", *text) || strpbrk(text, "xX(")) return -1;
    *v = strtod(text, &end);
    return *end ? -1 : 0;
}

static int same_double(double a, double b) { return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b)); }

static void parse_agrees(const char *text) {
    double mine = 0, theirs = 0;
    int ours = num_parse_double((const u8 *)text, strlen(text), &mine), want = strtod_takes(text, &theirs);
    CHECK(ours == want, "%s of \"%s\"", ours ? "refusal" : "acceptance", text);
    CHECK(ours || same_double(mine, theirs), "\"%s\" is %a, not %a", text, theirs, mine);
}

TEST(num_parse_takes_and_refuses_the_texts_it_says) {
    // clang-format off
    static const char *const good[] = {
        "0", "-0", "+0", "0.0", ".5", "5.", "-.5e1", "00001", "1e5", "1E+5", "1e-5", "1e00005", "inf", "-inf",
        "+INF", "Infinity", "-iNfInItY", "nan", "-NAN", "1e309", "-1e309", "1e-400", "1e99999999999999999999",
        "1e-99999999999999999999", "0e99999999999", "1.7976931348623157e308", "1.7976931348623158e308",
        "1.7976931348623159e308", "179769313486231580793728971405301e276", "2.2250738585072011e-308",
        "2.2250738585072014e-308", "4.9e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "2e-324",
        "9007199254740993", "9007199254740993.000000000000000000000000001", "18446744073709551615",
        "99999999999999999999", "9223372036854775808", "7.3177701707893310e+15", "8.5e-324",
        "0.000000000000000000000000000000000000000000000000000000000001e60", "6.02214076e23",
    };
    static const char *const bad[] = {
        "", "-", "+", ".", "-.", "e", "e5", ".e5", "1e", "1e+", "1e-", "0x1", "0x", " 1", "1 ", "1.2.3", "1..2",
        "infx", "in", "infinit", "infinityx", "i", "nanx", "nan(1)", "n", "--1", "+-1", "1e5.", "1e5e5", "1f", "1,5", "1_0",
        "\t1", "1\n", "- 1", "1e 5", "\xef\xbc\x91",
    };
    // clang-format on
    double v;
    for (size_t i = 0; i < N_OF(good); i++) {
        parse_agrees(good[i]);
        assert_int_equal(num_parse_double((const u8 *)good[i], strlen(good[i]), &v), 0);
    }
    for (size_t i = 0; i < N_OF(bad); i++)
        CHECK(num_parse_double((const u8 *)bad[i], strlen(bad[i]), &v) == -1, "accepts \"%s\"", bad[i]);
    assert_int_equal(num_parse_double((const u8 *)"1\0", 2, &v), -1);
    assert_int_equal(num_parse_double(exact_copy(&input, "1.5", 3), 3, &v), 0);
    assert_int_equal(num_parse_double(exact_copy(&input, "1e", 2), 2, &v), -1);
    assert_int_equal(num_parse_double(exact_copy(&input, "-", 1), 1, &v), -1);
    assert_int_equal(num_parse_double(exact_copy(&input, "infinit", 7), 7, &v), -1);
    assert_int_equal(num_parse_double(NULL, 0, &v), -1);
}

static char *add_digits(char *p, size_t n) {
    for (u64 r = 0; n; n--, r >>= 4) {
        if (!r) r = random64() | (u64)1 << 63;
        *p++ = (char)('0' + (r & 15) % 10);
    }
    return p;
}

TEST(num_parse_agrees_with_strtod_on_random_numbers) {
    for (int i = 0; i < 1200000; i++) {
        char text[80], *p = text;
        u64 r = random64();
        if (r & 1) *p++ = '-';
        p = add_digits(p, (size_t)(r >> 1 & 15) + (r >> 5 & 7));
        if (r & 256) *p++ = '.', p = add_digits(p, (size_t)(r >> 9 & 15) + (r >> 13 & 7));
        *p = 0;
        if (r & 1 << 16) {
            int e = (int)(r >> 20 & 1023) - 512;
            sprintf(p, "%c%d", r & 1 << 17 ? 'e' : 'E', r & 1 << 18 ? e / 16 : e);
        }
        parse_agrees(text);
    }
}

TEST(num_parse_agrees_with_strtod_on_random_characters) {
    static const char set[] = "0123456789012345678905.eE+-..infaty x";
    for (int i = 0; i < 800000; i++) {
        char text[16];
        size_t len = random_below(i % 4 ? 6 : 15);
        u64 r = random64();
        for (size_t k = 0; k < len; k++, r = r >> 5 ^ (r << 59))
            text[k] = set[r % (sizeof set - (i % 2 ? 1 : 12))];
        text[len] = 0;
        parse_agrees(text);
    }
}

/* Digits of the exact middle between a double and the next one up; returns the exponent of ten. */
static int middle_of(u64 bits, char *digits) {
    u64 frac = bits & (((u64)1 << 52) - 1), e = bits >> 52;
    int q = (int)(e ? e : 1) - 1075 - 1;
    big m = big_of(0, 2 * (e ? frac | (u64)1 << 52 : frac) + 1);
    big_mul(&m, 2, q), big_mul(&m, 5, -q);
    big_text(&m, digits);
    return q < 0 ? q : 0;
}

TEST(num_parse_rounds_halfway_cases_to_even) {
    for (int i = 0; i < 6000; i++) {
        char digits[900], text[1000];
        u64 e = i < 4000 ? 560 + random_below(1487) : random_below(560), frac = random64() >> 12;
        if (i >= 5000) e = 0;
        if (i % 5 == 0) frac = i % 10 ? 0 : ((u64)1 << 52) - 1;
        if (i % 7 == 0) frac >>= random_below(52);
        int exp10 = middle_of(e << 52 | frac, digits);
        size_t n = strlen(digits);
        if (n > 380) n = 380, exp10 += (int)strlen(digits) - 380; /* the rest is cut: just below the middle */
        for (int change = 0; change < 5; change++) {
            char last = digits[n - 1];
            static const char *const more[] = {"", "0000000000", "0000001", "", ""};
            if (change == 3 && last < '9') digits[n - 1]++;
            if (change == 4 && last > '0') digits[n - 1]--;
            snprintf(text, sizeof text, "%.*s%se%d", (int)n, digits, more[change],
                     exp10 - (int)strlen(more[change]));
            digits[n - 1] = last;
            parse_agrees(text);
            if (exp10 < 0 && exp10 > -(int)n) { /* the same with a point inside */
                snprintf(text, sizeof text, "%.*s.%.*s%s", (int)n + exp10, digits, -exp10, digits + n + exp10,
                         more[change]);
                parse_agrees(text);
            }
        }
    }
}

TEST(num_parse_is_exact_where_powers_of_five_cancel) {
    u64 five = 1;
    for (int k = 0; k < 28; k++, five *= 5) /* w * 5^k * 10^-k is w * 2^-k: w of 54 bits lies in the middle */
        for (int i = 0; i < 400; i++) {
            char text[40];
            u64 w = i % 2 ? random64() >> 10 | (u64)1 << 53 | 1 : random_below(2000) + 1;
            if (i % 4 == 1) w |= random64() & 2;
            if (w > UINT64_MAX / five) w = UINT64_MAX / five;
            snprintf(text, sizeof text, "%llue%d", (unsigned long long)(w * five), i % 8 < 6 ? -k : k);
            parse_agrees(text);
        }
}

TEST(num_parse_takes_400_characters_and_no_more) {
    char text[NUM_TEXT_MAX + 2];
    for (int i = 0; i < 2000; i++) {
        char *end = add_digits(text, NUM_TEXT_MAX);
        *end = 0;
        if (i % 3) text[random_below(NUM_TEXT_MAX)] = '.';
        if (i % 4 == 0) memset(text, '0', random_below(NUM_TEXT_MAX));
        if (i % 5 == 0) snprintf(text + NUM_TEXT_MAX - 5, 6, "e-%u", 100 + (unsigned)random_below(900) % 900);
        parse_agrees(text);
    }
    double v;
    memset(text, '0', sizeof text);
    assert_int_equal(num_parse_double((u8 *)text, NUM_TEXT_MAX, &v), 0);
    assert_int_equal(num_parse_double((u8 *)text, NUM_TEXT_MAX + 1, &v), -1);
}

TEST(num_double_is_read_back_by_num_parse) {
    for (int i = 0; i < 300000; i++) {
        u8 text[NUM_DOUBLE_MAX];
        double v = double_of(random64()), back = 0;
        if (isnan(v)) continue;
        assert_int_equal(num_parse_double(text, (size_t)(num_double(text, v) - text), &back), 0);
        CHECK(bits_of(v) == bits_of(back), "%a came back as %a", v, back);
    }
}

/* ==== lp_, zl_, zm_, ist_ : helpers ==== */

/* Walks a blob to its end: the items as text, strings in quotes, long ones as first byte and length; or "bad at
 * ...: why". Holds what every walk promises. */
static const char *walk(enum blob_kind kind, const void *data, size_t len) {
    static char text[400];
    const u8 *blob = exact_copy(&input, data, len);
    pk_cursor c;
    pk_item it;
    text[0] = 0;
    int st = blob_open(kind, &c, blob, len);
    while (st == PK_ITEM) {
        const u8 *before = c.p;
        st = blob_next(kind, &c, &it);
        CHECK(c.p >= before && c.p <= c.end && c.end <= blob + len, "cursor outside of the blob");
        if (st != PK_ITEM) break;
        CHECK(c.p > before, "a step of no bytes");
        if (!it.data) {
            err_add(text, sizeof text, "%lld ", (long long)it.num);
            continue;
        }
        CHECK(it.data > before && it.len <= (size_t)(c.p - it.data), "item outside of its entry");
        if (it.len > 16) err_add(text, sizeof text, "'%c'*%zu ", it.data[0], it.len);
        else err_add(text, sizeof text, "'%.*s' ", (int)it.len, (const char *)it.data);
    }
    if (text[0]) text[strlen(text) - 1] = 0;
    if (st != PK_BAD) return text;
    CHECK(c.bad && c.bad_off <= len, "no cause, or one that lies outside");
    int n = snprintf(text, sizeof text, "bad at %zu: ", c.bad_off);
    snprintf(text + n, sizeof text - (size_t)n, c.bad, (unsigned long long)c.bad_a,
             (unsigned long long)c.bad_b);
    return text;
}

/* A blob with its header and end mark around n entries. Ziplists: the last entry takes last bytes. */
static tk_bytes wrap(enum blob_kind kind, const tk_bytes *entries, unsigned n, size_t last) {
    tk_bytes b = {0};
    size_t head = kind == BLOB_LISTPACK ? 6 : kind == BLOB_ZIPLIST ? 10 : 1;
    if (kind != BLOB_ZIPMAP) tk_le(&b, head + entries->len + 1, 4);
    if (kind == BLOB_ZIPLIST) tk_le(&b, head + entries->len - last, 4);
    tk_le(&b, n, kind == BLOB_ZIPMAP ? 1 : 2);
    tk_put(&b, entries->data, entries->len);
    tk_u8(&b, 0xff);
    return b;
}

static void walk_is(enum blob_kind kind, const tk_bytes *b, const char *want) {
    assert_string_equal(walk(kind, b->data, b->len), want);
}

/* One entry, given without the ziplist's previous length. */
static void entry_is(enum blob_kind kind, const char *hex, const char *want) {
    tk_bytes e = {0}, data = bytes_of(hex);
    if (kind == BLOB_ZIPLIST) tk_u8(&e, 0);
    tk_put(&e, data.data, data.len);
    tk_bytes b = wrap(kind, &e, 1, e.len);
    walk_is(kind, &b, want);
    tk_drop(&e), tk_drop(&data), tk_drop(&b);
}

/* ==== The worked examples of FORMAT.md, and what they leave out ==== */

// clang-format off
static const struct {
    const char *name;
    enum blob_kind kind;
    const char *hex, *items;
} example[] = {
    {"E4", BLOB_ZIPLIST, "1a000000 12000000 0400  00 01 61  03 f2  02 01 62  03 05 68656c6c6f ff", "'a' 1 'b' 'hello'"},
    {"E5", BLOB_LISTPACK, "16000000 0400  81 61 02  01 01  81 62 02  85 68656c6c6f 06  ff", "'a' 1 'b' 'hello'"},
    {"E6a", BLOB_LISTPACK, "15000000 0400  81 61 02  84 2d302e35 05  81 62 02  03 01  ff", "'a' '-0.5' 'b' 3"},
    {"E6d", BLOB_ZIPLIST, "19000000 16000000 0400  00 01 61  03 04 2d302e35  06 01 62  03 f4  ff", "'a' '-0.5' 'b' 3"},
    {"E7", BLOB_INTSET, "04000000 03000000  ffffffff 02000000 409c0000", "-1 2 40000"},
    {"E8a", BLOB_LISTPACK, "0d000000 0200  81 61 02  c1 2c 02  ff", "'a' 300"},
    {"E8b", BLOB_ZIPLIST, "12000000 0d000000 0200  00 01 61  03 c0 2c01  ff", "'a' 300"},
    {"E12a", BLOB_ZIPMAP,
        "02  03 666f6f 03 00 626172  05 68656c6c6f 05 00 776f726c64  ff", "'foo' 'bar' 'hello' 'world'"},
    {"E12b", BLOB_ZIPMAP,
        "02  03 666f6f 03 02 626172 0000  05 68656c6c6f 05 00 776f726c64  ff", "'foo' 'bar' 'hello' 'world'"},
    {"E15", BLOB_ZIPLIST, "10020000 08020000 0400  00 40fa 250*78  fd 01 61  03 40fb 251*78  fe fe000000 01 62  ff",
        "'x'*250 'a' 'x'*251 'b'"},
    {"E16", BLOB_LISTPACK, "09010000 0200  e07d 125*78 7f  e07e 126*78 01 80  ff", "'x'*125 'x'*126"},
    {"empty listpack", BLOB_LISTPACK, "07000000 0000 ff", ""},
    {"empty ziplist", BLOB_ZIPLIST, "0b000000 0a000000 0000 ff", ""},
    {"empty zipmap", BLOB_ZIPMAP, "00 ff", ""},
    {"listpack, count unknown", BLOB_LISTPACK, "0b000000 ffff  01 01  7f 01  ff", "1 127"},
    {"ziplist, count unknown", BLOB_ZIPLIST, "0f000000 0c000000 ffff  00 f1  02 fd  ff", "0 12"},
    {"zipmap, count unknown", BLOB_ZIPMAP, "fe  01 61 01 00 62  ff", "'a' 'b'"},
    {"ziplist, long form of a short length", BLOB_ZIPLIST,
        "15000000 0d000000 0200  00 01 61  fe03000000 01 62  ff", "'a' 'b'"},
    {"zipmap, lengths of 253 and 254", BLOB_ZIPMAP, "02  fd 253*66 fefe000000 00 254*76  fe01000000 67 00 03 3*00  ff",
        "'f'*253 'v'*254 'g' ''"},
    {"intset of 2", BLOB_INTSET, "02000000 03000000  0080 ffff ff7f", "-32768 -1 32767"},
    {"intset of 4", BLOB_INTSET, "04000000 02000000  00000080 ffffff7f", "-2147483648 2147483647"},
    {"intset of 8", BLOB_INTSET, "08000000 03000000  7*00 80 0500000000000000 7*ff 7f",
        "-9223372036854775808 5 9223372036854775807"},
};

static const struct {
    const char *value, *lp, *zl;
} integer[] = { /* E18, and the other side of each border */
    {"0", "00 01", "f1"}, {"12", "0c 01", "fd"}, {"13", "0d 01", "fe 0d"},
    {"127", "7f 01", "fe 7f"}, {"128", "c0 80 02", "c0 80 00"},
    {"-1", "df ff 02", "fe ff"}, {"-128", "df 80 02", "fe 80"}, {"-129", "df 7f 02", "c0 7f ff"},
    {"4095", "cf ff 02", "c0 ff 0f"}, {"-4096", "d0 00 02", "c0 00 f0"},
    {"4096", "f1 00 10 03", "c0 00 10"}, {"-4097", "f1 ff ef 03", "c0 ff ef"},
    {"32767", "f1 ff 7f 03", "c0 ff 7f"}, {"-32768", "f1 00 80 03", "c0 00 80"},
    {"32768", "f2 00 80 00 04", "f0 00 80 00"}, {"-32769", "f2 ff 7f ff 04", "f0 ff 7f ff"},
    {"8388607", "f2 ff ff 7f 04", "f0 ff ff 7f"}, {"-8388608", "f2 00 00 80 04", "f0 00 00 80"},
    {"8388608", "f3 00 00 80 00 05", "d0 00 00 80 00"}, {"-8388609", "f3 ff ff 7f ff 05", "d0 ff ff 7f ff"},
    {"2147483647", "f3 ff ff ff 7f 05", "d0 ff ff ff 7f"}, {"-2147483648", "f3 00 00 00 80 05", "d0 00 00 00 80"},
    {"2147483648", "f4 00 00 00 80 00 00 00 00 09", "e0 00 00 00 80 00 00 00 00"},
    {"-2147483649", "f4 ff ff ff 7f ff ff ff ff 09", "e0 ff ff ff 7f ff ff ff ff"},
    {"9223372036854775807", "f4 7*ff 7f 09", "e0 7*ff 7f"},
    {"-9223372036854775808", "f4 7*00 80 09", "e0 7*00 80"},
};

static const struct {
    enum blob_kind kind;
    const char *entry, *items;
} string_form[] = {
    {BLOB_LISTPACK, "80 01", "''"}, {BLOB_LISTPACK, "bf 63*61 40", "'a'*63"},
    {BLOB_LISTPACK, "e0 40 64*61 42", "'a'*64"},
    {BLOB_LISTPACK, "ef ff 4095*61 20 81", "'a'*4095"}, {BLOB_LISTPACK, "f0 00100000 4096*61 20 85", "'a'*4096"},
    {BLOB_LISTPACK, "e0 00 02", "''"}, {BLOB_LISTPACK, "f0 01000000 61 06", "'a'"}, /* longer than need be */
    {BLOB_LISTPACK, "c0 05 02", "5"}, {BLOB_LISTPACK, "f4 05 7*00 09", "5"},
    {BLOB_ZIPLIST, "00", "''"}, {BLOB_ZIPLIST, "3f 63*61", "'a'*63"},
    {BLOB_ZIPLIST, "40 40 64*61", "'a'*64"}, {BLOB_ZIPLIST, "7f ff 16383*61", "'a'*16383"},
    {BLOB_ZIPLIST, "80 00004000 16384*61", "'a'*16384"},
    {BLOB_ZIPLIST, "40 01 61", "'a'"}, {BLOB_ZIPLIST, "80 00000001 61", "'a'"}, /* longer than need be */
    {BLOB_ZIPLIST, "c0 0500", "5"}, {BLOB_ZIPLIST, "e0 05 7*00", "5"},
};

static const struct {
    enum blob_kind kind;
    const char *hex, *why;
} refused[] = {
    {BLOB_LISTPACK, "06000000 0000", "bad at 0: listpack of 6 bytes, at least 7 wanted"},
    {BLOB_LISTPACK, "08000000 0000 ff", "bad at 0: listpack says 8 bytes, has 7"},
    {BLOB_LISTPACK, "07000000 0000 fe", "bad at 6: end mark is 254, 255 wanted"},
    {BLOB_LISTPACK, "07000000 0100 ff", "bad at 6: header says 1 entries, there are 0"},
    {BLOB_LISTPACK, "09000000 feff 01 01 ff", "bad at 8: header says 65534 entries, there are 1"},
    {BLOB_LISTPACK, "09000000 0100 01 02 ff", "bad at 6: back-length says 2, entry takes 1"},
    {BLOB_LISTPACK, "09000000 0100 81 61 ff", "bad at 6: entry of 2 bytes, 2 left"},
    {BLOB_LISTPACK, "08000000 0100 c0 ff", "bad at 6: no such encoding: 192"},
    {BLOB_LISTPACK, "09000000 0100 ff ff ff", "bad at 6: end mark before the end, 2 bytes follow"},
    {BLOB_LISTPACK, "0d000000 0100 f0 ffffffff 06 ff", "bad at 6: entry of 4294967300 bytes, 6 left"},
    {BLOB_ZIPLIST, "0a000000 0a000000 0000", "bad at 0: ziplist of 10 bytes, at least 11 wanted"},
    {BLOB_ZIPLIST, "0c000000 0a000000 0000 ff", "bad at 0: ziplist says 12 bytes, has 11"},
    {BLOB_ZIPLIST, "0b000000 0a000000 0000 00", "bad at 10: end mark is 0, 255 wanted"},
    {BLOB_ZIPLIST, "0b000000 0b000000 0000 ff", "bad at 4: last entry said to be at 11, is at 10"},
    {BLOB_ZIPLIST, "0f000000 0a000000 0200 00 f1 02 f2 ff", "bad at 4: last entry said to be at 10, is at 12"},
    {BLOB_ZIPLIST, "0f000000 0c000000 0300 00 f1 02 f2 ff", "bad at 14: header says 3 entries, there are 2"},
    {BLOB_ZIPLIST, "0d000000 0a000000 0100 01 f1 ff", "bad at 10: previous length says 1, is 0"},
    {BLOB_ZIPLIST, "0f000000 0c000000 0200 00 f1 03 f2 ff", "bad at 12: previous length says 3, is 2"},
    {BLOB_ZIPLIST, "0c000000 0a000000 0100 00 ff", "bad at 10: entry has no encoding"},
    {BLOB_ZIPLIST, "0e000000 0a000000 0100 fe 0000 ff", "bad at 10: entry head of 5 bytes, 3 left"},
    {BLOB_ZIPLIST, "0d000000 0a000000 0100 00 02 ff", "bad at 10: entry of 4 bytes, 2 left"},
    {BLOB_ZIPLIST, "11000000 0a000000 0100 00 80 ffffffff ff", "bad at 10: entry of 4294967301 bytes, 6 left"},
    {BLOB_ZIPLIST, "0d000000 0a000000 0100 ff f1 ff", "bad at 10: end mark before the end, 2 bytes follow"},
    {BLOB_ZIPMAP, "ff", "bad at 0: zipmap of 1 bytes, at least 2 wanted"},
    {BLOB_ZIPMAP, "00 00", "bad at 1: end mark is 0, 255 wanted"},
    {BLOB_ZIPMAP, "01 01 61 ff", "bad at 3: a field without a value"},
    {BLOB_ZIPMAP, "01 01 61 00 ff", "bad at 3: value without its free byte"},
    {BLOB_ZIPMAP, "01 01 61 00 01 ff", "bad at 3: entry of 3 bytes, 2 left"},
    {BLOB_ZIPMAP, "01 01 61 fe 0000 ff", "bad at 3: length of 5 bytes, 3 left"},
    {BLOB_ZIPMAP, "01 fe ffffffff 61 ff", "bad at 1: entry of 4294967300 bytes, 6 left"},
    {BLOB_ZIPMAP, "01 ff ff", "bad at 1: end mark before the end, 1 bytes follow"},
    {BLOB_ZIPMAP, "02 01 61 00 00 ff", "bad at 5: header says 4 entries, there are 2"},
    {BLOB_INTSET, "02000000 000000", "bad at 0: intset of 7 bytes, at least 8 wanted"},
    {BLOB_INTSET, "03000000 01000000 000000", "bad at 0: width 3, wanted 2, 4 or 8"},
    {BLOB_INTSET, "02000000 02000000 000000", "bad at 4: 2 integers said to be there, 3 bytes are"},
    {BLOB_INTSET, "08000000 ffffffff 8*00", "bad at 4: 4294967295 integers said to be there, 8 bytes are"},
    {BLOB_INTSET, "02000000 00000000", "bad at 4: empty intset, which no server loads"},
};
// clang-format on

TEST(blob_worked_examples_hold_what_they_say) {
    for (size_t i = 0; i < N_OF(example); i++) {
        tk_bytes b = bytes_of(example[i].hex);
        const char *is = walk(example[i].kind, b.data, b.len);
        CHECK(!strcmp(is, example[i].items), "%s: %s", example[i].name, is);
        tk_drop(&b);
    }
}

TEST(lp_and_zl_read_integers_on_both_sides_of_each_border) {
    for (size_t i = 0; i < N_OF(integer); i++) {
        entry_is(BLOB_LISTPACK, integer[i].lp, integer[i].value);
        entry_is(BLOB_ZIPLIST, integer[i].zl, integer[i].value);
    }
}

TEST(lp_and_zl_read_strings_of_every_form) {
    for (size_t i = 0; i < N_OF(string_form); i++)
        entry_is(string_form[i].kind, string_form[i].entry, string_form[i].items);
}

TEST(blob_that_is_refused_says_where_and_why) {
    for (size_t i = 0; i < N_OF(refused); i++) {
        tk_bytes b = bytes_of(refused[i].hex);
        walk_is(refused[i].kind, &b, refused[i].why);
        tk_drop(&b);
    }
}

TEST(lp_and_zl_know_no_encodings_but_those_of_the_format) {
    for (unsigned first = 0; first < 256; first++) {
        char lp[32], zl[32];
        snprintf(lp, sizeof lp, "%02x 20000*00", first);
        snprintf(zl, sizeof zl, "00 %02x 20000*00", first);
        tk_bytes a = bytes_of(lp), b = bytes_of(zl), ab = wrap(BLOB_LISTPACK, &a, 1, 0),
                 bb = wrap(BLOB_ZIPLIST, &b, 1, 0);
        const char *no = first < 255 ? "no such encoding" : "end mark before the end";
        int lp_no = first >= 0xf5,
            zl_no = first > 0x80 && (first == 255 || (first < 0xf0 && (first & 15 || first < 0xc0)));
        CHECK((strstr(walk(BLOB_LISTPACK, ab.data, ab.len), no) != NULL) == lp_no, "listpack: %02x", first);
        CHECK((strstr(walk(BLOB_ZIPLIST, bb.data, bb.len), "no such encoding") != NULL) == zl_no,
              "ziplist: %02x", first);
        tk_drop(&a), tk_drop(&b), tk_drop(&ab), tk_drop(&bb);
    }
}

/* ==== lp_ : back-lengths ==== */

// clang-format off
static const struct {
    u64 entry; /* bytes without the back-length */
    const char *wide, *narrow;
} back_len[] = {
    {1, "01", "01"}, {127, "7f", "7f"}, {128, "01 80", "01 80"}, {300, "02 ac", "02 ac"},
    {16382, "7f fe", "7f fe"}, {16383, "00 ff ff", "7f ff"}, {16384, "01 80 80", "01 80 80"},
    {2097150, "7f ff fe", "7f ff fe"}, {2097151, "00 ff ff ff", "7f ff ff"}, {2097152, "01 80 80 80", "01 80 80 80"},
    {268435454, "7f ff ff fe", "7f ff ff fe"}, {268435455, "00 ff ff ff ff", "7f ff ff ff"},
    {268435456, "01 80 80 80 80", "01 80 80 80 80"}, {0xffffffff, "0f ff ff ff ff", "0f ff ff ff ff"},
};
// clang-format on

TEST(lp_back_lengths_are_those_of_wide_and_narrow_servers) {
    for (size_t i = 0; i < N_OF(back_len); i++)
        for (int narrow = 0; narrow < 2; narrow++) {
            tk_bytes b = bytes_of(narrow ? back_len[i].narrow : back_len[i].wide);
            u64 n = back_len[i].entry;
            assert_int_equal(lp_back_width(n, narrow), b.len);
            for (size_t cut = 0; n > 127 && cut <= b.len; cut++) { /* up to 127 lp_next() looks itself */
                const u8 *p = exact_copy(&input, b.data, cut);
                assert_int_equal(lp_back_len(p, p + cut, n), cut == b.len ? cut : 0);
            }
            for (int bit = 0; n > 127 && bit < 8 * (int)b.len; bit++) {
                b.data[bit / 8] ^= (u8)(1 << bit % 8);
                assert_int_equal(lp_back_len(b.data, b.data + b.len, n), 0);
                b.data[bit / 8] ^= (u8)(1 << bit % 8);
            }
            tk_drop(&b);
        }
}

/* A listpack of a string whose entry takes n bytes, with that back-length, and the integer 5. */
static tk_bytes lp_with_back_len(u64 n, const char *back) {
    tk_bytes e = {0}, b = bytes_of(back);
    u64 head = n <= 64 ? 1 : n <= 4097 ? 2 : 5, len = n - head;
    if (head == 1) tk_u8(&e, 0x80 | (unsigned)len);
    if (head == 2) tk_u8(&e, 0xe0 | (unsigned)(len >> 8)), tk_u8(&e, (unsigned)len & 255);
    if (head == 5) tk_u8(&e, 0xf0), tk_le(&e, len, 4);
    while (e.len < n) tk_u8(&e, 'x');
    tk_put(&e, b.data, b.len);
    tk_u8(&e, 5), tk_u8(&e, 1);
    tk_bytes lp = wrap(BLOB_LISTPACK, &e, 2, 0);
    tk_drop(&e), tk_drop(&b);
    return lp;
}

TEST(lp_entry_at_a_border_is_read_with_either_back_length) {
    for (size_t i = 1; i < N_OF(back_len) && back_len[i].entry < EXACT_MAX / 2; i++)
        for (int narrow = 0; narrow < 2; narrow++) {
            u64 n = back_len[i].entry;
            char want[64];
            snprintf(want, sizeof want, "'x'*%d 5", (int)n - (n <= 64 ? 1 : n <= 4097 ? 2 : 5));
            tk_bytes b = lp_with_back_len(n, narrow ? back_len[i].narrow : back_len[i].wide);
            walk_is(BLOB_LISTPACK, &b, want);
            tk_drop(&b);
        }
}

TEST(lp_back_length_wider_than_any_server_writes_is_refused) {
    static const struct {
        u64 entry;
        const char *back;
    } row[] = {{127, "00 ff"},         {128, "00 81 80"}, {16382, "00 ff fe"},
               {16384, "00 81 80 80"}, {128, "01"},       {300, "02"}};
    for (size_t i = 0; i < N_OF(row); i++) {
        tk_bytes b = lp_with_back_len(row[i].entry, row[i].back);
        CHECK(!strncmp(walk(BLOB_LISTPACK, b.data, b.len), "bad at 6: back-length ", 22), "row %zu", i);
        tk_drop(&b);
    }
}

/* ==== Counts that the header does not hold ==== */

/* Entries (pairs) of one element each, so many that the count says unknown, or not quite. */
static void count_is(enum blob_kind kind, unsigned n, unsigned stated, int good) {
    tk_bytes e = {0};
    static const char *const one[] = {"07 01", "02 f8", "00 00 00"};
    tk_bytes x = bytes_of(one[kind]);
    for (unsigned i = 0; i < n; i++) tk_put(&e, x.data, x.len);
    if (kind == BLOB_ZIPLIST && n) e.data[0] = 0;
    tk_bytes b = wrap(kind, &e, stated, n ? 2 : 0);
    const u8 *p = exact_copy(&input, b.data, b.len);
    pk_cursor c;
    int st = blob_check(kind, &c, p, b.len);
    CHECK(st == (good ? PK_END : PK_BAD), "kind %d: %u entries, header says %u", (int)kind, n, stated);
    CHECK(!good || c.n == (kind == BLOB_ZIPMAP ? 2 : 1) * (u64)n, "%u entries, %llu seen", n,
          (unsigned long long)c.n);
    tk_drop(&x), tk_drop(&e), tk_drop(&b);
}

TEST(blob_count_of_65535_means_any_number) {
    static const enum blob_kind kind[] = {BLOB_LISTPACK, BLOB_ZIPLIST};
    for (size_t i = 0; i < 2; i++) {
        static const unsigned some[] = {0, 1, 65534, 65535, 65536, 70000};
        for (size_t k = 0; k < N_OF(some); k++) count_is(kind[i], some[k], 65535, 1);
        count_is(kind[i], 65534, 65534, 1);
        count_is(kind[i], 65535, 65534, 0);
        count_is(kind[i], 65536, 0, 0);
        count_is(kind[i], 70000, 70000 & 65535, 0);
    }
}

TEST(zm_count_of_254_means_any_number) {
    static const unsigned some[] = {0, 1, 253, 254, 255, 256, 1000};
    for (size_t i = 0; i < N_OF(some); i++) count_is(BLOB_ZIPMAP, some[i], 254, 1);
    count_is(BLOB_ZIPMAP, 253, 253, 1);
    count_is(BLOB_ZIPMAP, 254, 253, 0);
    count_is(BLOB_ZIPMAP, 252, 253, 0);
    count_is(BLOB_ZIPMAP, 256, 0, 0);
}

/* ==== Damage ==== */

TEST(blob_with_any_byte_changed_is_walked_inside_its_bounds) {
    for (size_t i = 0; i < N_OF(example); i++) {
        tk_bytes b = bytes_of(example[i].hex);
        for (size_t at = 0; at < b.len; at++) {
            u8 was = b.data[at];
            for (unsigned x = 0; x<256; x += at> 64 ? 5 : 1)
                b.data[at] = (u8)x, walk(example[i].kind, b.data, b.len);
            b.data[at] = was;
        }
        tk_drop(&b);
    }
}

TEST(blob_that_is_cut_is_refused) {
    for (size_t i = 0; i < N_OF(example); i++) {
        tk_bytes b = bytes_of(example[i].hex);
        for (size_t cut = 0; cut < b.len; cut++) {
            enum blob_kind kind = example[i].kind;
            const char *is = walk(kind, b.data, cut);
            CHECK(!strncmp(is, "bad", 3), "%s cut at %zu: %s", example[i].name, cut, is);
            if (cut < 12 || kind == BLOB_INTSET) continue;
            tk_bytes mended = {0}; /* header and end mark as if it were whole */
            tk_put(&mended, b.data, cut);
            if (kind != BLOB_ZIPMAP)
                for (int k = 0; k < 4; k++) mended.data[k] = (u8)(cut >> (8 * k));
            mended.data[cut - 1] = 0xff;
            is = walk(kind, mended.data, cut);
            CHECK(!strncmp(is, "bad", 3) || strstr(example[i].name, "unknown"), "%s mended at %zu: %s",
                  example[i].name, cut, is);
            tk_drop(&mended);
        }
        tk_drop(&b);
    }
}

TEST(blob_of_chance_behind_a_good_header_is_walked_inside_its_bounds) {
    static const u8 often[] = {0, 1, 2, 3, 0x80, 0x81, 0xc0, 0xe0, 0xf0, 0xf1, 0xf4, 0xfe, 0xff};
    for (int i = 0; i < 120000; i++) {
        u8 b[40];
        size_t len = 12 + random_below(sizeof b - 12);
        for (size_t k = 0; k < len; k++)
            b[k] = random64() & 1 ? often[random_below(sizeof often)] : (u8)random64();
        for (int kind = 0; kind < BLOB_KIND_N; kind++) {
            port_put_le64(b, kind == BLOB_INTSET   ? (u64)(len / 8 - 1) << 32 | 8
                             : kind == BLOB_ZIPMAP ? 254
                                                   : len);
            if (kind == BLOB_LISTPACK) b[4] = b[5] = 255;
            if (kind == BLOB_ZIPLIST) b[8] = b[9] = 255, b[10] = 0;
            b[len - 1] = 255;
            walk((enum blob_kind)kind, b, kind == BLOB_INTSET ? len & ~(size_t)7 : len);
        }
    }
}

/* ==== pk_ ==== */

TEST(pk_text_of_an_integer_is_its_decimal) {
    u8 num[NUM_INT_MAX];
    pk_item i = {NULL, 0, INT64_MIN}, s = {(const u8 *)"abc", 3, 7};
    rdbkit_str a = pk_text(&i, num), b = pk_text(&s, num);
    assert_int_equal(a.len, 20);
    assert_memory_equal(a.data, "-9223372036854775808", 20);
    assert_int_equal(b.len, 3);
    assert_ptr_equal(b.data, s.data);
}

/* ==== strm_ ==== */

static rdbkit_stream_id id_of(u64 ms, u64 seq) {
    rdbkit_stream_id id = {ms, seq};
    return id;
}

/* A node as text: "1-1 'f'='v'; " and an x before deleted entries; or "bad at ...: why". */
static const char *stream_walk(rdbkit_stream_id key, const void *data, size_t len) {
    static char text[400];
    const u8 *blob = exact_copy(&input, data, len);
    strm_node n;
    strm_entry e;
    pk_item it[2];
    text[0] = 0;
    int st = strm_node_open(&n, key, blob, len);
    while (st == PK_ITEM && (st = strm_next(&n, &e)) == PK_ITEM) {
        err_add(text, sizeof text, e.flags & STRM_DELETED ? "x%llu-%llu" : "%llu-%llu",
                (unsigned long long)e.id.ms, (unsigned long long)e.id.seq);
        for (u64 i = 0; i < e.fields && st == PK_ITEM; i++) {
            st = strm_field(&n, &e, &it[0], &it[1]);
            for (int k = 0; k < 2 && st == PK_ITEM; k++) {
                u8 num[NUM_INT_MAX];
                rdbkit_str s = pk_text(&it[k], num);
                CHECK(!it[k].data || (it[k].data > blob && s.len < (size_t)(blob + len - it[k].data)),
                      "outside of the blob");
                err_add(text, sizeof text, k ? "=%.*s" : " %.*s", (int)s.len, s.data);
            }
        }
        if (st == PK_ITEM) st = strm_entry_end(&n, &e);
        err_add(text, sizeof text, "; ");
        CHECK(n.lp.p <= n.lp.end, "cursor outside of the blob");
    }
    strm_node other;
    strm_summary sum;
    int checked = strm_node_check(&other, key, blob, len, &sum);
    CHECK(checked == st, "a walk ends with %d, the check with %d", st, checked);
    if (st != PK_BAD) return text;
    CHECK(n.lp.bad && n.lp.bad_off <= len && other.lp.bad_off <= n.lp.bad_off,
          "no cause, or one that lies outside");
    int k = snprintf(text, sizeof text, "bad at %zu: ", n.lp.bad_off);
    snprintf(text + k, sizeof text - (size_t)k, n.lp.bad, (unsigned long long)n.lp.bad_a,
             (unsigned long long)n.lp.bad_b);
    return text;
}

#define E9 "1d000000 0a00  0101 0001 0101 816602 0001  0201 0001 0001 817602 0401  ff"
#define E10                                                                                          \
    "36000000 1600  0201 0101 0101 816102 0001  0201 0001 0001 0101 0401  0301 0001 0101 0201 0401 " \
    "0001 0101 dff902 0101 816202 0301 0601  ff"

TEST(strm_nodes_of_the_worked_examples_hold_what_they_say) {
    tk_bytes e9 = bytes_of(E9), e10 = bytes_of(E10);
    strm_node n;
    strm_summary sum;
    assert_string_equal(stream_walk(id_of(1, 1), e9.data, e9.len), "1-1 f=v; ");
    assert_string_equal(stream_walk(id_of(5, 7), e10.data, e10.len), "5-7 a=1; x5-8 a=2; 6-0 b=3; ");
    assert_int_equal(strm_node_check(&n, id_of(5, 7), e10.data, e10.len, &sum), PK_END);
    assert_true(n.count == 2 && n.deleted == 1 && n.master_fields == 1);
    assert_true(sum.live == 2 && sum.deleted == 1 && sum.sorted == 1);
    assert_int_equal(strm_id_cmp(sum.first, id_of(5, 7)), 0);
    assert_int_equal(strm_id_cmp(sum.last, id_of(6, 0)), 0);
    tk_drop(&e9), tk_drop(&e10);
}

// clang-format off
static const struct {
    u64 ms, seq;
    const char *entries, *text;
} node[] = {
    {UINT64_MAX, UINT64_MAX, "0101 0001 0001 0001  0001 0101 0101 0001 0401", "0-0; "}, /* IDs are modulo 2^64 */
    {0, 0, "0101 0001 0001 0001  0001 dfff02 0001 0001 0401", "18446744073709551615-0; "},
    {3, 3, "0101 0001 0101 0901 0001  0201 0001 0001 0801 0401", "3-3 9=8; "}, /* integers as field and value */
    {3, 3, "0101 0001 0201 816102 816202 0001  0201 0001 0001 0101 0201 0501  0301 0001 0101 0301 0401 0501",
        "3-3 a=1 b=2; x3-4 a=3 b=4; "},
    {3, 3, "0101 0101 0101 816102 0001  0101 0001 0001 0001 0401  0001 0001 0101 0201 817802 0101 817902 0201 0801",
        "x3-3; 3-4 x=1 y=2; "},
    {3, 3, "0001 0001 0001 0001", ""},
    {3, 3, "0001 0001 0001", "bad at 12: stream node ends inside an entry"},
    {3, 3, "0001 0001 0101 816102", "bad at 15: stream node ends inside an entry"},
    {3, 3, "0001 0001 0001 0501", "bad at 12: master entry ends in 5, 0 wanted"},
    {3, 3, "0001 dfff02 0001 0001", "bad at 6: negative count in the master entry"},
    {3, 3, "816102 0001 0001 0001", "bad at 6: a string of 1 bytes, an integer wanted"},
    {3, 3, "0001 0001 f4 7*ff 7f 09 0001", "bad at 22: stream node ends inside an entry"},
    {3, 3, "0001 0001 0001 0001  0401", "bad at 14: no such entry flags"},
    {3, 3, "0001 0001 0001 0001  dfff02", "bad at 14: no such entry flags"},
    {3, 3, "0001 0001 0001 0001  813002", "bad at 14: a string of 1 bytes, an integer wanted"},
    {3, 3, "0001 0001 0001 0001  0201 813002 0001 0301", "bad at 16: a string of 1 bytes, an integer wanted"},
    {3, 3, "0001 0001 0001 0001  0201 0001 0001", "bad at 20: stream node ends inside an entry"},
    {3, 3, "0001 0001 0001 0001  0201 0001 0001 0401", "bad at 14: entry count says 4, entry has 3"},
    {3, 3, "0001 0001 0001 0001  0001 0001 0001 dfff02 0401", "bad at 14: negative number of fields"},
    {3, 3, "0001 0001 0001 0001  0001 0001 0001 f4 7*ff 7f 09 0401", "bad at 32: stream node ends inside an entry"},
};
// clang-format on

TEST(strm_nodes_are_read_as_the_format_says) {
    for (size_t i = 0; i < N_OF(node); i++) {
        tk_bytes e = bytes_of(node[i].entries), b = wrap(BLOB_LISTPACK, &e, PK_COUNT_UNKNOWN, 0);
        const char *is = stream_walk(id_of(node[i].ms, node[i].seq), b.data, b.len);
        CHECK(!strcmp(is, node[i].text), "node %zu: %s", i, is);
        tk_drop(&e), tk_drop(&b);
    }
}

TEST(strm_summary_tells_whether_ids_ascend_from_the_key_on) {
    static const struct {
        const char *second; /* difference of seq of two entries behind 3-3 */
        const char *first;
        int sorted;
    } row[] = {{"0101", "0001", 1},
               {"0001", "0001", 0},
               {"0201", "0101", 1},
               {"0001", "0101", 0},
               {"0101", "dfff02", 0}};
    for (size_t i = 0; i < N_OF(row); i++) {
        char text[200];
        snprintf(text, sizeof text, "0201 0001 0001 0001 0201 0001 %s 0301 0201 0001 %s 0301", row[i].first,
                 row[i].second);
        tk_bytes e = bytes_of(text), b = wrap(BLOB_LISTPACK, &e, PK_COUNT_UNKNOWN, 0);
        strm_node n;
        strm_summary sum;
        assert_int_equal(strm_node_check(&n, id_of(3, 3), b.data, b.len, &sum), PK_END);
        assert_int_equal(sum.sorted, row[i].sorted);
        tk_drop(&e), tk_drop(&b);
    }
}

TEST(strm_damaged_node_is_walked_inside_its_bounds) {
    static const char *const whole[] = {E9, E10};
    for (size_t i = 0; i < N_OF(whole); i++) {
        tk_bytes b = bytes_of(whole[i]);
        for (size_t at = 0; at < b.len; at++) {
            u8 was = b.data[at];
            for (unsigned x = 0; x < 256; x++) b.data[at] = (u8)x, stream_walk(id_of(5, 7), b.data, b.len);
            b.data[at] = was;
            CHECK(!strncmp(stream_walk(id_of(5, 7), b.data, at), "bad", 3), "cut at %zu is accepted", at);
        }
        for (int k = 0; k < 50000; k++) {
            u8 other[64];
            memcpy(other, b.data, b.len);
            for (size_t n = 1 + random_below(4); n; n--)
                other[6 + random_below(b.len - 7)] = (u8)random_below(n % 2 ? 4 : 256);
            other[4] = other[5] = 255;
            stream_walk(id_of(random64(), random64()), other, b.len);
        }
        tk_drop(&b);
    }
}

TEST(strm_estimate_read_is_certain_at_both_ends_alone) {
    // clang-format off
    /* A: 5 entries ever, 3 left, 10-1 to 30-1; b: the same, 10-2 deleted; c: emptied; d: never used; e: old
     * file, no counters; f: as b with 10-1. */
    static const rdbkit_stream_info a = {3, {30, 1}, {10, 1}, {9, 1}, 5, 0, 1},
                                    b = {3, {30, 1}, {10, 1}, {10, 2}, 5, 0, 1},
                                    c = {0, {30, 1}, {0, 0}, {30, 1}, 5, 0, 1},
                                    d = {0, {0, 0}, {0, 0}, {0, 0}, 0, 0, 1},
                                    e = {3, {30, 1}, {10, 1}, {0, 0}, 3, 0, 0},
                                    f = {3, {30, 1}, {10, 1}, {10, 1}, 5, 0, 1};
    static const struct {
        const rdbkit_stream_info *stream;
        rdbkit_stream_id id;
        i64 read;
    } row[] = {
        {&d, {0, 0}, 0},   {&d, {7, 7}, 0},                                       /* nothing was ever added */
        {&c, {0, 0}, 5},   {&c, {30, 0}, 5},  {&c, {30, 1}, 5}, {&c, {30, 2}, -1}, /* emptied: up to the last ID */
        {&a, {30, 1}, 5},  {&a, {30, 2}, -1}, {&a, {31, 0}, -1},                  /* at and behind the last */
        {&a, {0, 0}, 2},   {&a, {9, 1}, 2},   {&a, {10, 0}, 2},                   /* before the first */
        {&a, {9, 0}, -1},  {&a, {0, 1}, -1},                                      /* before what was deleted */
        {&a, {10, 1}, 3},  {&a, {10, 2}, -1}, {&a, {30, 0}, -1},                  /* the first; between */
        {&b, {30, 1}, 5},  {&b, {10, 1}, -1}, {&b, {10, 2}, -1}, {&b, {0, 0}, -1}, /* a gap behind the first */
        {&e, {0, 0}, 0},   {&e, {9, 9}, 0},   {&e, {10, 1}, 1}, {&e, {20, 0}, -1}, {&e, {30, 1}, 3}, /* no deletions */
        {&f, {0, 0}, -1},  {&f, {10, 1}, -1}, {&f, {30, 1}, 5},                   /* deleted at the first */
    };
    // clang-format on
    for (size_t i = 0; i < N_OF(row); i++) {
        i64 read = strm_estimate_read(row[i].stream, row[i].id);
        CHECK(read == row[i].read, "row %zu: %lld", i, (long long)read);
    }
}

TEST(strm_pending_entry_is_found_with_any_hint) {
    strm_pending list[40] = {0};
    for (size_t i = 0; i < N_OF(list); i++) list[i].p.id = id_of(i / 4, i % 4 * 2);
    for (size_t n = 0; n <= N_OF(list); n++)
        for (size_t hint = 0; hint <= N_OF(list) + 1; hint++)
            for (size_t i = 0; i < N_OF(list); i++) {
                size_t h = hint;
                strm_pending *found = strm_pending_find(list, n, &h, list[i].p.id);
                CHECK(found == (i < n ? &list[i] : NULL), "%zu of %zu, hint %zu", i, n, hint);
                CHECK(h == (i < n ? i + 1 : hint), "hint %zu after %zu, was %zu", h, i, hint);
                CHECK(!strm_pending_find(list, n, &h, id_of(i / 4, i % 4 * 2 + 1)),
                      "one that is not there was found");
            }
}

TEST(strm_ids_are_big_endian_and_ordered_by_both_halves) {
    static const u8 p[] = {0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 3};
    rdbkit_stream_id up[] = {{0, 0},         {0, 1}, {0, UINT64_MAX}, {1, 0}, {0x8000000000000001, 0x203},
                             {UINT64_MAX, 0}};
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 6; k++) assert_int_equal(strm_id_cmp(up[i], up[k]), (i > k) - (i < k));
    assert_int_equal(strm_id_cmp(strm_id_be(p), up[4]), 0);
}

/* ---- */

#define T(name) cmocka_unit_test_setup(name, reset_seed)

int main(void) {
    // clang-format off
    static const struct CMUnitTest tests[] = {
        T(port_loads_take_bytes_in_the_order_of_their_names), T(port_sign_extends_at_every_width),
        T(port_mul128_is_the_product_of_halves), T(port_clz64_counts_the_zeros_above_each_bit),
        T(port_copy_touches_exactly_the_bytes_it_is_given), T(mem_buffer_grows_and_stays_as_it_was_when_it_cannot),
        T(fmt_number_22_means_what_the_lineage_says), T(fmt_a_number_and_a_lineage_have_one_row_and_a_name_too),
        T(fmt_module_name_is_that_of_the_servers), T(fmt_layouts_are_well_formed),
        T(err_quotes_all_bytes_as_redis_cli_does), T(err_text_is_cut_where_its_space_ends),
        T(err_key_over_64_bytes_is_shown_with_its_length), T(crc_has_the_check_values_of_the_format),
        T(crc_is_the_same_by_folding_by_table_and_by_bits), T(crc_in_two_steps_is_that_in_one),
        T(lzf_reads_what_liblzf_writes_and_only_at_its_size), T(lzf_reference_of_any_length_copies_from_any_distance),
        T(lzf_reference_before_the_start_is_refused), T(lzf_judges_broken_streams_as_liblzf_does),
        T(num_integers_are_printed_as_printf_does), T(num_pow10_is_exact_to_the_last_bit_for_all_676),
        T(num_double_is_the_shortest_text_that_reads_back), T(num_double_places_the_point_so_that_the_text_is_short),
        T(num_double_of_nan_leaves_what_stands_before_it), T(num_parse_takes_and_refuses_the_texts_it_says),
        T(num_parse_agrees_with_strtod_on_random_numbers), T(num_parse_agrees_with_strtod_on_random_characters),
        T(num_parse_rounds_halfway_cases_to_even), T(num_parse_is_exact_where_powers_of_five_cancel),
        T(num_parse_takes_400_characters_and_no_more),
        T(num_double_is_read_back_by_num_parse), T(blob_worked_examples_hold_what_they_say),
        T(lp_and_zl_read_integers_on_both_sides_of_each_border), T(lp_and_zl_read_strings_of_every_form),
        T(blob_that_is_refused_says_where_and_why), T(lp_and_zl_know_no_encodings_but_those_of_the_format),
        T(lp_back_lengths_are_those_of_wide_and_narrow_servers),
        T(lp_entry_at_a_border_is_read_with_either_back_length),
        T(lp_back_length_wider_than_any_server_writes_is_refused), T(blob_count_of_65535_means_any_number),
        T(zm_count_of_254_means_any_number), T(blob_with_any_byte_changed_is_walked_inside_its_bounds),
        T(blob_that_is_cut_is_refused), T(blob_of_chance_behind_a_good_header_is_walked_inside_its_bounds),
        T(pk_text_of_an_integer_is_its_decimal), T(strm_nodes_of_the_worked_examples_hold_what_they_say),
        T(strm_nodes_are_read_as_the_format_says), T(strm_summary_tells_whether_ids_ascend_from_the_key_on),
        T(strm_damaged_node_is_walked_inside_its_bounds), T(strm_estimate_read_is_certain_at_both_ends_alone),
        T(strm_pending_entry_is_found_with_any_hint), T(strm_ids_are_big_endian_and_ordered_by_both_halves),
    };
    // clang-format on
    return cmocka_run_group_tests(tests, NULL, drop_exact);
}
