/* fuzz_codec.c - each packed codec on its own: what is accepted is walked inside its bytes, forwards and backwards, and
 * comes back from our encoder; LZF against liblzf; numbers against the C library.
 *
 * Option bytes: what follows (FUZZ_LISTPACK and so on); three for a stream node's key, or the plain length of LZF.
 *
 * SPDX-License-Identifier: MIT
 */
#define RDBKIT_API static /* so that the compiler leaves out all that is not called here */
#include "../rdbkit.c"

#include "fuzz.h"

#include <math.h>

FUZZ_INPUT(FUZZ_BLOB)

/* In memory of its own, so that a read past either end shows. */
static u8 *exact(const void *data, size_t len) {
    u8 *p = malloc(len + !len);
    if (!p) exit(0);
    if (len) memcpy(p, data, len);
    return p;
}

static rdbkit_allocator std_mem(void) { return mem_or_std(NULL); }

/* ---- packed blobs ---- */

/* What an item says, as one number; its bytes have to lie in the blob. */
static u64 hash_item(u64 h, const pk_item *it, const u8 *blob, size_t len) {
    u8 num[NUM_INT_MAX];
    if (it->data && (it->data < blob || it->len > len || it->data - blob > (ptrdiff_t)(len - it->len)))
        fuzz_fail("an item outside of its blob", (long long)(it->data - blob), (long long)it->len);
    rdbkit_str s = pk_text(it, num);
    for (size_t i = 0; i < s.len; i++) h = (h ^ (u8)s.data[i]) * 1099511628211u;
    return (h ^ s.len) * 1099511628211u;
}

typedef struct walk {
    int status;
    u64 n, hash;
} walk;

static walk walk_blob(enum blob_kind kind, const u8 *blob, size_t len) {
    pk_cursor c;
    pk_item it;
    walk w = {blob_open(kind, &c, blob, len), 0, 7};
    while (w.status == PK_ITEM && (w.status = blob_next(kind, &c, &it)) == PK_ITEM) {
        w.n++;
        w.hash = hash_item(w.hash, &it, blob, len);
        if (c.p < blob || c.p > blob + len) fuzz_fail("the cursor is outside", (long long)w.n, 0);
    }
    if (w.status == PK_BAD && (!c.bad || c.bad_off > len))
        fuzz_fail("a fault without a place", (long long)c.bad_off, (long long)len);
    if (w.status == PK_END && c.n != w.n)
        fuzz_fail("items counted, and walked", (long long)c.n, (long long)w.n);
    return w;
}

/* Entries by the way back, as servers walk from the tail: one for each on the way there. */
static u64 listpack_backwards(const u8 *blob, size_t len) {
    u64 n = 0;
    for (size_t at = len - 1; at > LP_HDR_LEN; n++) {
        u64 back = 0;
        size_t w = 0;
        do back |= (u64)(blob[at - 1 - w] & 127) << (7 * w);
        while (blob[at - 1 - w++] & 128 && w < 5);
        if (back + w > at - LP_HDR_LEN) fuzz_fail("a back-length leads out", (long long)at, (long long)back);
        at -= (size_t)back + w;
    }
    return n;
}

static u64 ziplist_backwards(const u8 *blob) {
    u64 n = 0;
    for (size_t at = port_le32(blob + 4); blob[at] != 0xff; n++) {
        size_t prev = blob[at] == 0xfe ? port_le32(blob + at + 1) : blob[at];
        if (prev > at - ZL_HDR_LEN) fuzz_fail("a previous length leads out", (long long)at, (long long)prev);
        if (!prev) return n + 1;
        at -= prev;
    }
    return n;
}

/* What the encoder makes of the items has to be the same items. */
static void encode_again(enum blob_kind kind, const u8 *blob, size_t len, walk w) {
    enc_state e;
    pk_cursor c;
    pk_item it;
    u8 num[NUM_INT_MAX];
    rdbkit_allocator mem = std_mem();
    memset(&e, 0, sizeof e);
    e.mem = mem;
    int zl = kind == BLOB_ZIPLIST, st = enc_blob_start(&e, zl ? ZL_HDR_LEN : LP_HDR_LEN);
    blob_open(kind, &c, blob, len);
    while (!st && blob_next(kind, &c, &it) == PK_ITEM) {
        rdbkit_str s = pk_text(&it, num);
        st = zl ? enc_zl_str(&e, s.data, s.len) : enc_lp_str(&e, &e.blob, s.data, s.len);
        e.blob_n++;
    }
    if (!st) st = zl ? enc_zl_end(&e) : enc_lp_end(&e, &e.blob, e.blob_n);
    if (st) exit(0);
    u8 *copy = exact(e.blob.data, e.blob.len);
    walk again = walk_blob(zl ? BLOB_ZIPLIST : BLOB_LISTPACK, copy, e.blob.len);
    if (again.status != PK_END || again.n != w.n || again.hash != w.hash)
        fuzz_fail("encoded again: items, and those before", (long long)again.n, (long long)w.n);
    free(copy);
    mem_buf_free(&mem, &e.blob);
}

static void rewrite(const u8 *blob, size_t len, walk w) {
    rdbkit_allocator mem = std_mem();
    mem_buf out[3] = {{0}};
    for (int narrow = 0; narrow < 2; narrow++) {
        if (lp_rewrite(&mem, blob, len, narrow, &out[narrow])) exit(0);
        u8 *copy = exact(out[narrow].data, out[narrow].len);
        walk again = walk_blob(BLOB_LISTPACK, copy, out[narrow].len);
        if (again.status != PK_END || again.hash != w.hash || again.n != w.n)
            fuzz_fail("back-lengths in the other form, items", narrow, (long long)again.n);
        free(copy);
    }
    if (lp_rewrite(&mem, out[1].data, out[1].len, 0, &out[2])) exit(0);
    if (out[2].len != out[0].len || memcmp(out[2].data, out[0].data, out[0].len) != 0)
        fuzz_fail("back-lengths wide, and from narrow", (long long)out[0].len, (long long)out[2].len);
    for (int i = 0; i < 3; i++) mem_buf_free(&mem, &out[i]);
}

static void try_blob(enum blob_kind kind, const u8 *blob, size_t len) {
    pk_cursor c;
    int verdict = blob_check(kind, &c, blob, len);
    walk w = walk_blob(kind, blob, len);
    if (verdict != w.status) fuzz_fail("check, and walk", verdict, w.status);
    if (verdict != PK_END) return;
    if (kind == BLOB_LISTPACK && listpack_backwards(blob, len) != w.n)
        fuzz_fail("entries backwards, and forwards", (long long)listpack_backwards(blob, len),
                  (long long)w.n);
    if (kind == BLOB_ZIPLIST && ziplist_backwards(blob) != w.n)
        fuzz_fail("entries backwards, and forwards", (long long)ziplist_backwards(blob), (long long)w.n);
    if (kind == BLOB_LISTPACK) rewrite(blob, len, w);
    encode_again(kind, blob, len, w);
}

/* ---- stream nodes ---- */

static void try_node(rdbkit_stream_id key, const u8 *blob, size_t len) {
    strm_node n;
    strm_entry e;
    strm_summary sum;
    pk_item field, value;
    u64 live = 0, deleted = 0, hash = 0;
    int verdict = strm_node_check(&n, key, blob, len, &sum);
    if (verdict == PK_BAD && (!n.lp.bad || n.lp.bad_off > len)) fuzz_fail("a fault without a place", 0, 0);
    int st = strm_node_open(&n, key, blob, len);
    while (st == PK_ITEM && (st = strm_next(&n, &e)) == PK_ITEM) {
        for (u64 i = 0; st == PK_ITEM && i < e.fields; i++) {
            if ((st = strm_field(&n, &e, &field, &value)) != PK_ITEM) break;
            hash = hash_item(hash, &field, blob, len);
            hash = hash_item(hash, &value, blob, len);
        }
        if (st == PK_ITEM) st = strm_entry_end(&n, &e);
        if (st == PK_ITEM && e.flags & STRM_DELETED) deleted++;
        else if (st == PK_ITEM && !live++ && strm_id_cmp(e.id, sum.first) != 0)
            fuzz_fail("first entry", (long long)e.id.ms, (long long)sum.first.ms);
    }
    if (st != verdict) fuzz_fail("check, and walk", verdict, st);
    if (st == PK_END && (live != sum.live || deleted != sum.deleted))
        fuzz_fail("entries counted, and walked", (long long)sum.live, (long long)live);
}

/* ---- LZF ---- */

static void try_lzf(const u8 *in, size_t len, size_t wanted) {
    enum { ROOM = 1 << 17 };
    static u8 theirs[ROOM], packed[70000];
    if (!len || len > 60000) return;
    size_t n = lzf_decompress(in, (unsigned)len, theirs, ROOM);
    if (!n && errno == E2BIG) return;
    size_t lens[] = {n, n + 1, n ? n - 1 : 0, wanted};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        size_t ulen = lens[i];
        u8 *ours = malloc(ulen + LZF_SLACK);
        if (!ours) exit(0);
        int got = lzf_decode(in, len, ours, ulen), good = n && ulen == n ? 0 : -1;
        if (got != good || lzf_check(in, len, ulen) != good)
            fuzz_fail("LZF: a stream that liblzf takes for one of, and we for", (long long)n, got);
        if (!good && memcmp(ours, theirs, n) != 0) fuzz_fail("LZF: other bytes", (long long)n, 0);
        free(ours);
    }
    size_t small = lzf_compress(in, (unsigned)len, packed, (unsigned)len + (unsigned)len / 16 + 64);
    if (!small) return;
    u8 *copy = exact(packed, small), *ours = malloc(len + LZF_SLACK);
    if (!ours) exit(0);
    if (lzf_decode(copy, small, ours, len) || lzf_check(copy, small, len) || memcmp(ours, in, len) != 0)
        fuzz_fail("LZF: what liblzf compressed does not come back", (long long)len, (long long)small);
    free(copy);
    free(ours);
}

/* ---- numbers ---- */

static u64 bits_of(double v) {
    u64 bits;
    memcpy(&bits, &v, 8);
    return bits;
}

static int digits_of(const char *text) {
    int n = 0, zeros = 0;
    for (; *text && *text != 'e'; text++) {
        if (*text < '0' || *text > '9' || (*text == '0' && !n)) continue;
        n++;
        zeros = *text == '0' ? zeros + 1 : 0;
    }
    return n - zeros;
}

/* Out as the shortest text, and back. */
static void try_double(u64 bits) {
    double v, back;
    char text[NUM_DOUBLE_MAX + 1], other[64];
    memcpy(&v, &bits, 8);
    *num_double((u8 *)text, v) = 0;
    if (num_parse_double((const u8 *)text, strlen(text), &back))
        fuzz_fail("a double that does not parse", 0, 0);
    if (isnan(v) ? !isnan(back) : bits_of(back) != bits)
        fuzz_fail("a double comes back as another", (long long)bits, (long long)bits_of(back));
    if (!isfinite(v)) return;
    if (bits_of(strtod(text, NULL)) != bits) fuzz_fail("strtod reads another double", (long long)bits, 0);
    for (int n = 1; n <= 17; n++) {
        snprintf(other, sizeof other, "%.*e", n - 1, v);
        if (bits_of(strtod(other, NULL)) != bits) continue;
        if (digits_of(text) > n) fuzz_fail("there is a shorter text, digits", digits_of(text), n);
        break;
    }
}

static int has(const char *text, const char *any) { return text[strcspn(text, any)] != 0; }

/* In: what strtod and strtoll make of the same text. */
static void try_text(const u8 *data, size_t len) {
    char text[NUM_TEXT_MAX + 2], *end;
    double ours;
    i64 number = 0;
    if (len > NUM_TEXT_MAX) len = NUM_TEXT_MAX;
    memcpy(text, data, len);
    text[len] = 0;
    u8 *copy = exact(data, len);
    int refused = num_parse_double(copy, len, &ours) != 0, none = num_parse_i64(copy, len, &number) != 0;
    free(copy);
    double theirs = strtod(text, &end);
    int all = len && strlen(text) == len && *end == 0;
    if (!refused && !all)
        fuzz_fail("a number that strtod does not take", (long long)len, (long long)(end - text));
    if (!refused && (isnan(theirs) ? !isnan(ours) : bits_of(ours) != bits_of(theirs)))
        fuzz_fail("another number", (long long)bits_of(ours), (long long)bits_of(theirs));
    if (refused && all && !has(text, " \t\n\v\f\rxX(")) fuzz_fail("strtod takes it", (long long)len, 0);
    char plain[32];
    errno = 0;
    long long value = strtoll(text, &end, 10);
    snprintf(plain, sizeof plain, "%lld", value);
    int canonical = errno == 0 && strlen(text) == len && strcmp(plain, text) == 0;
    if (canonical == none || (canonical && number != value))
        fuzz_fail("an integer: canonical, ours", canonical, (long long)number);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum blob_kind kinds[] = {BLOB_LISTPACK, BLOB_ZIPLIST, BLOB_ZIPMAP, BLOB_INTSET};
    if (size < 4) return 0;
    u8 o[4];
    memcpy(o, data, 4);
    size_t len = size - 4;
    u8 *blob = exact(data + 4, len);
    rdbkit_stream_id key = {o[1] > 250 ? UINT64_MAX : o[1], o[2] > 250 ? UINT64_MAX : o[2]};
    switch (o[0] % FUZZ_BLOB_N) {
    case FUZZ_NODE: try_node(key, blob, len); break;
    case FUZZ_LZF: try_lzf(blob, len, o[1] | (size_t)o[2] << 8); break;
    case FUZZ_NUMBER:
        for (size_t i = 0; i + 8 <= len && i < 32; i += 8) try_double(port_le64(blob + i));
        try_text(blob, len);
        break;
    default: try_blob(kinds[o[0] % FUZZ_BLOB_N], blob, len); break;
    }
    free(blob);
    return 0;
}
