/* mutate.c - changes an input where it hurts, and mends what would only make it bounce off: lengths, counts, totals of
 * packed blobs, back-lengths, checksums. Knows the formats by a small parser of its own, which shares nothing with what
 * is tested.
 *
 * The parser leaves a list of tokens (numbers, strings, fixed fields) and one of spans (records, elements: what can be
 * said twice, left out, or change places, and the number that counts it). One edit takes one of them; then the input is
 * parsed anew. What is not understood is left as it is, or changed blindly by LLVMFuzzerMutate().
 *
 * With FUZZ_SIMPLE defined it brings a LLVMFuzzerMutate() of its own, with FUZZ_AFL also what AFL++ wants of a library
 * in AFL_CUSTOM_MUTATOR_LIBRARY.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include <lzf.h>

enum { SPLIT_MAX = 20000, STRING_MAX = 1 << 20 };

enum token_kind { T_TYPE, T_LEN, T_STR, T_FIXED, T_DECIMAL, T_ARG };
enum blob_kind { B_TEXT, B_LISTPACK, B_ZIPLIST, B_ZIPMAP, B_INTSET, B_NODE };

typedef struct token {
    size_t off, len;
    enum token_kind kind;
    enum blob_kind blob;
} token;

typedef struct span {
    size_t off, len;
    int count; /* the token that counts it, or -1 */
} span;

typedef struct parse {
    const uint8_t *p;
    size_t size, at;
    int bad; /* what follows is not understood */
    int valkey;
    size_t good;    /* end of the last whole record */
    size_t eof_off; /* behind the opcode 255, or 0 */
    token *token;
    span *span;
    size_t token_n, span_n;
} parse;

static uint32_t chance_state;

static uint32_t chance(uint32_t below) {
    return (uint32_t)(((uint64_t)fuzz_chance(&chance_state) * below) >> 24);
}

static void *must(void *p) {
    if (!p) exit(0);
    return p;
}

/* ---- reading ---- */

static int add_token(parse *m, enum token_kind kind, size_t off, enum blob_kind blob) {
    if (m->token_n == SPLIT_MAX) m->bad = 1;
    if (m->bad) return -1;
    m->token[m->token_n] = (token){off, m->at - off, kind, blob};
    return (int)m->token_n++;
}

static void add_span(parse *m, size_t off, int count) {
    if (m->bad || m->span_n == SPLIT_MAX) return;
    m->span[m->span_n++] = (span){off, m->at - off, count};
}

static const uint8_t *take(parse *m, uint64_t n) {
    const uint8_t *p = m->p + m->at;
    if (m->bad || n > m->size - m->at) {
        m->bad = 1;
        return NULL;
    }
    m->at += (size_t)n;
    return p;
}

static uint64_t big_endian(const uint8_t *p, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | *p++;
    return v;
}

/* A length; *special: the number of a string encoding, or -1. */
static uint64_t read_len(parse *m, int *special) {
    const uint8_t *p = take(m, 1), *q;
    *special = -1;
    if (!p) return 0;
    switch (*p >> 6) {
    case 0: return *p;
    case 1: return (q = take(m, 1)) ? (uint64_t)(*p & 63) << 8 | *q : 0;
    case 2: return (q = take(m, *p & 1 ? 8 : 4)) ? big_endian(q, *p & 1 ? 8 : 4) : 0;
    default: *special = *p & 63; return 0;
    }
}

static uint64_t get_len(parse *m, int *index) {
    size_t off = m->at;
    int special, i;
    uint64_t v = read_len(m, &special);
    if (special >= 0) m->bad = 1;
    i = add_token(m, T_LEN, off, B_TEXT);
    if (index) *index = i;
    return v;
}

static void get_str(parse *m, enum blob_kind blob) {
    size_t off = m->at;
    int special, unused;
    uint64_t n = read_len(m, &special);
    if (special == 3) {
        n = read_len(m, &unused);
        read_len(m, &unused);
    } else if (special >= 0) {
        n = special > 2 ? UINT64_MAX : (uint64_t)1 << special;
    }
    take(m, n);
    add_token(m, T_STR, off, blob);
}

static void get_fixed(parse *m, size_t n) {
    size_t off = m->at;
    take(m, n);
    add_token(m, T_FIXED, off, B_TEXT);
}

/* What an element of a collection, or of a part of a stream, consists of: s string, k stream key and node, l, z listpack
 * and ziplist, n number, 8 and i fields of 8 and 16 bytes, d a double as text, c container and what is in it, C a
 * consumer, P an entry of its list. */
static void get_elements(parse *m, const char *of, int type);

static void get_element(parse *m, char c, int type) {
    const uint8_t *p;
    switch (c) {
    case 's': get_str(m, B_TEXT); break;
    case 'k': get_str(m, B_TEXT), get_str(m, B_NODE); break;
    case 'z': get_str(m, B_ZIPLIST); break;
    case 'n': get_len(m, NULL); break;
    case '8': get_fixed(m, 8); break;
    case 'i': get_fixed(m, 16); break;
    case 'd':
        if ((p = take(m, 1)) && *p < 253) take(m, *p);
        break;
    case 'c': get_str(m, get_len(m, NULL) == 2 ? B_LISTPACK : B_TEXT); break;
    case 'G':
        get_str(m, B_TEXT), get_len(m, NULL), get_len(m, NULL);
        if (type > 15) get_len(m, NULL);
        get_elements(m, "i8n", type);
        get_elements(m, type > 19 ? "s88P" : "s8P", type);
        break;
    default: get_elements(m, "i", type); break;
    }
}

static void get_elements(parse *m, const char *of, int type) {
    int count;
    uint64_t n = get_len(m, &count);
    for (; n && !m->bad; n--) {
        size_t off = m->at;
        for (const char *c = of; *c; c++) get_element(m, *c, type);
        add_span(m, off, count);
    }
}

static void get_module(parse *m) {
    uint64_t what;
    get_len(m, NULL);
    while (!m->bad && (what = get_len(m, NULL)) != 0) {
        size_t off = m->at;
        if (what == 1 || what == 2) get_len(m, NULL);
        else if (what == 3 || what == 4) get_fixed(m, what == 3 ? 4 : 8);
        else if (what == 5) get_str(m, B_TEXT);
        else m->bad = 1;
        (void)off;
    }
}

static void get_value(parse *m, int type) {
    switch (type) {
    case 0: get_str(m, B_TEXT); break;
    case 1:
    case 2: get_elements(m, "s", type); break;
    case 3: get_elements(m, "sd", type); break;
    case 4: get_elements(m, "ss", type); break;
    case 5: get_elements(m, "s8", type); break;
    case 7: get_module(m); break;
    case 9: get_str(m, B_ZIPMAP); break;
    case 10:
    case 12:
    case 13: get_str(m, B_ZIPLIST); break;
    case 11: get_str(m, B_INTSET); break;
    case 14: get_elements(m, "z", type); break;
    case 25: get_fixed(m, 8); /* fall through */
    case 16:
    case 17:
    case 20:
    case 23: get_str(m, B_LISTPACK); break;
    case 18: get_elements(m, "c", type); break;
    case 15:
    case 19:
    case 21:
        get_elements(m, "k", type);
        for (int n = type > 15 ? 8 : 3; n; n--) get_len(m, NULL);
        get_elements(m, "G", type);
        break;
    case 22: get_elements(m, m->valkey ? "ss8" : "nss", type); break;
    case 24: get_fixed(m, 8), get_elements(m, "nss", type); break;
    default: m->bad = 1; break;
    }
}

/* One opcode or key behind its type byte. Returns whether a record ends there. */
static int get_record(parse *m, int op) {
    switch (op) {
    case 255: m->eof_off = m->at; return 0;
    case 254: get_len(m, NULL); return 1;
    case 253: get_fixed(m, 4); return 0;
    case 252: get_fixed(m, 8); return 0;
    case 251: get_len(m, NULL), get_len(m, NULL); return 1;
    case 250: get_str(m, B_TEXT), get_str(m, B_TEXT); return 1;
    case 249: get_fixed(m, 1); return 0;
    case 248: get_len(m, NULL); return 0;
    case 247: get_module(m); return 1;
    case 246:
        get_str(m, B_TEXT), get_str(m, B_TEXT);
        if (get_len(m, NULL)) get_str(m, B_TEXT);
        get_str(m, B_TEXT);
        return 1;
    case 245: get_str(m, B_TEXT); return 1;
    case 244: get_len(m, NULL), get_len(m, NULL), get_len(m, NULL); return 1;
    case 243: get_str(m, B_TEXT), get_elements(m, "nn", op); return 1;
    default:
        get_str(m, B_TEXT);
        get_value(m, op);
        return 1;
    }
}

static void parse_rdb(parse *m) {
    m->valkey = m->p[m->at] == 'V';
    take(m, 9);
    m->good = m->at;
    for (size_t off = m->at; !m->bad && !m->eof_off;) {
        size_t at = m->at;
        const uint8_t *op = take(m, 1);
        if (!op) break;
        add_token(m, T_TYPE, at, B_TEXT);
        if (!get_record(m, *op) || m->bad) continue;
        add_span(m, off, -1);
        m->good = off = m->at;
    }
}

/* A line of RESP, "*3\r\n": its number. */
static uint64_t get_line(parse *m, char mark) {
    uint64_t v = 0;
    const uint8_t *p = take(m, 1);
    if (p && *p != mark) m->bad = 1;
    while ((p = take(m, 1)) && *p >= '0' && *p <= '9' && v < UINT32_MAX) v = v * 10 + *p - '0';
    if (!m->bad && (*p != '\r' || !(p = take(m, 1)) || *p != '\n')) m->bad = 1;
    return v;
}

static void parse_resp(parse *m) {
    while (!m->bad && m->at < m->size) {
        size_t off = m->at;
        if (m->p[m->at] == '#') {
            const uint8_t *lf = memchr(m->p + m->at, '\n', m->size - m->at);
            take(m, lf ? (uint64_t)(lf - m->p) + 1 - m->at : UINT64_MAX);
        } else {
            uint64_t n = get_line(m, '*');
            int count = add_token(m, T_DECIMAL, off, B_TEXT);
            for (; n && !m->bad; n--) {
                size_t arg = m->at;
                take(m, get_line(m, '$') + 2);
                add_token(m, T_ARG, arg, B_TEXT);
                add_span(m, arg, count);
            }
        }
        add_span(m, off, -1);
        if (!m->bad) m->good = m->at;
    }
}

static int has_magic(const uint8_t *p, size_t size) {
    return size >= 9 && (!memcmp(p, "REDIS", 5) || !memcmp(p, "VALKEY", 6));
}

static int has_command(const uint8_t *p, size_t size) { return size > 3 && (*p == '*' || *p == '#'); }

/* Where the option bytes end. */
static size_t options_len(const uint8_t *p, size_t size) {
    if (has_magic(p, size) || has_command(p, size) || size < 4) return 0;
    return 4;
}

/* Returns whether the input is something that can be taken apart. */
static int parse_input(parse *m, int input, const uint8_t *p, size_t size) {
    m->p = p, m->size = size;
    m->at = m->good = input == FUZZ_PAYLOAD ? 4 : options_len(p, size);
    m->bad = 0, m->eof_off = 0, m->token_n = m->span_n = 0, m->valkey = 0;
    if (size < m->at + 1) return 0;
    if (input == FUZZ_PAYLOAD) {
        size_t at = m->at;
        int type = *take(m, 1);
        m->valkey = p[0] & 1;
        add_token(m, T_TYPE, at, B_TEXT);
        get_value(m, type);
        return 1;
    }
    if (has_magic(p + m->at, size - m->at)) {
        parse_rdb(m);
        if (m->eof_off && size > m->eof_off + 8) {
            m->at = m->eof_off + 8;
            if (has_command(p + m->at, size - m->at)) parse_resp(m);
        }
        return 1;
    }
    if (has_command(p + m->at, size - m->at)) {
        parse_resp(m);
        return 1;
    }
    return 0;
}

/* ---- writing ---- */

typedef struct bytes {
    uint8_t *p;
    size_t len, cap;
} bytes;

static void add(bytes *b, const void *data, size_t n) {
    if (b->len + n > b->cap) b->p = must(realloc(b->p, b->cap = 2 * (b->len + n) + 64));
    if (n) memcpy(b->p + b->len, data, n);
    b->len += n;
}

static void add_byte(bytes *b, unsigned v) {
    uint8_t x = (uint8_t)v;
    add(b, &x, 1);
}

static void add_le(bytes *b, uint64_t v, int n) {
    for (; n--; v >>= 8) add_byte(b, (uint8_t)v);
}

static void add_be(bytes *b, uint64_t v, int n) {
    while (n--) add_byte(b, (uint8_t)(v >> (8 * n)));
}

/* Put what is in b in place of n bytes at off. */
static int splice(bytes *in, size_t max, size_t off, size_t n, const bytes *b) {
    size_t tail = in->len - off - n;
    if (in->len - n + b->len > max) return 0;
    if (in->len - n + b->len > in->cap) in->p = must(realloc(in->p, in->cap = max));
    memmove(in->p + off + b->len, in->p + off + n, tail);
    if (b->len) memcpy(in->p + off, b->p, b->len);
    in->len = off + b->len + tail;
    return 1;
}

/* Mostly the shortest form. */
static void add_len(bytes *b, uint64_t v) {
    uint32_t longer = chance(64);
    if (v < 64 && longer) add_byte(b, (unsigned)v);
    else if (v < 16384 && longer > 1) add_be(b, v | 0x4000, 2);
    else if (v <= UINT32_MAX) add_byte(b, 0x80), add_be(b, v, 4);
    else add_byte(b, 0x81), add_be(b, v, 8);
}

static int64_t odd_number(void) {
    static const int64_t odd[] = {0,
                                  1,
                                  12,
                                  13,
                                  63,
                                  64,
                                  127,
                                  128,
                                  255,
                                  256,
                                  4095,
                                  4096,
                                  16383,
                                  16384,
                                  32767,
                                  32768,
                                  65535,
                                  65536,
                                  8388607,
                                  8388608,
                                  2147483647,
                                  2147483648,
                                  4294967295,
                                  4294967296,
                                  INT64_MAX,
                                  -1,
                                  -2,
                                  -128,
                                  -129,
                                  -4096,
                                  -4097,
                                  -32768,
                                  -32769,
                                  -8388608,
                                  -8388609,
                                  -2147483648,
                                  -2147483649,
                                  INT64_MIN,
                                  1700000000000,
                                  281474976710655,
                                  281474976710656,
                                  70368744177664};
    uint32_t c = chance(8);
    if (c < 4) return odd[chance(sizeof odd / sizeof odd[0])];
    return c < 7 ? (int64_t)chance(16) : (int64_t)((uint64_t)chance(1 << 24) << 40 | chance(1 << 24));
}

static void change_bytes(bytes *b) {
    size_t max = b->len + 1 + chance(32);
    if (b->cap < max) b->p = must(realloc(b->p, b->cap = max));
    if (!b->len) add_byte(b, 0);
    b->len = LLVMFuzzerMutate(b->p, b->len, max);
}

/* A text for a string: what was there, changed; a length at a step; a number. */
static void change_text(bytes *b) {
    static const unsigned lens[] = {0,   1,   11,  12,  20,  21,  63,   64,   65,
                                    127, 128, 253, 254, 255, 512, 4095, 4096, 16378};
    char text[32];
    uint32_t c = chance(16);
    if (c == 0) {
        size_t n = lens[chance(sizeof lens / sizeof lens[0])], was = b->len;
        while (b->len < n) add_byte(b, 'a' + (unsigned)(b->len * (1 + was) % 23));
        b->len = n;
    } else if (c < 3) {
        b->len = 0;
        add(b, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)odd_number()));
    } else {
        change_bytes(b);
    }
}

/* ---- packed blobs: a list of items, changed, and packed again ---- */

typedef struct item {
    int is_num;
    int64_t num;
    bytes text;
} item;

typedef struct items {
    item *v;
    size_t n, cap;
} items;

static void item_insert(items *l, size_t at, const item *it) {
    if (l->n == l->cap) l->v = must(realloc(l->v, (l->cap = 2 * l->cap + 16) * sizeof *l->v));
    memmove(l->v + at + 1, l->v + at, (l->n - at) * sizeof *l->v);
    item copy = {it->is_num, it->num, {NULL, 0, 0}};
    add(&copy.text, it->text.p, it->text.len);
    l->v[at] = copy;
    l->n++;
}

static void item_drop(items *l, size_t at) {
    free(l->v[at].text.p);
    l->n--;
    memmove(l->v + at, l->v + at + 1, (l->n - at) * sizeof *l->v);
}

static void item_add(items *l, int is_num, uint64_t num, const uint8_t *text, size_t len) {
    item it = {is_num, (int64_t)num, {must(malloc(len + 1)), len, len + 1}};
    if (len) memcpy(it.text.p, text, len);
    item_insert(l, l->n, &it);
    free(it.text.p);
}

static uint64_t little_endian(const uint8_t *p, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

static uint64_t signed_le(const uint8_t *p, int n) {
    uint64_t v = little_endian(p, n);
    return n < 8 && v >> (8 * n - 1) ? v | ~(uint64_t)0 << (8 * n) : v;
}

static void unpack_listpack(items *l, const uint8_t *p, size_t size) {
    static const int width[] = {0, 2, 3, 4, 8};
    for (size_t at = 6; at + 1 < size;) {
        size_t left = size - at, head = 1, n = 0;
        unsigned b = p[at];
        if (left < 11 && b >= 0xc0 && left < 4) return;
        if (b < 0x80) {
            item_add(l, 1, b, NULL, 0);
        } else if (b < 0xc0) {
            n = b & 63;
        } else if (b < 0xe0) {
            uint64_t v = (uint64_t)(b & 31) << 8 | p[at + 1];
            item_add(l, 1, v >> 12 ? v | ~(uint64_t)0 << 13 : v, NULL, 0);
            head = 2;
        } else if (b < 0xf0) {
            head = 2, n = (size_t)(b & 15) << 8 | p[at + 1];
        } else if (b == 0xf0 && left > 5) {
            head = 5, n = (size_t)little_endian(p + at + 1, 4);
        } else if (b > 0xf0 && b < 0xf5 && left > 9) {
            head = 1 + (size_t)width[b - 0xf0];
            item_add(l, 1, signed_le(p + at + 1, width[b - 0xf0]), NULL, 0);
        } else {
            return;
        }
        if (n > left - head) return;
        if ((b >= 0x80 && b < 0xc0) || (b >= 0xe0 && b <= 0xf0)) item_add(l, 0, 0, p + at + head, n);
        size_t all = head + n;
        at += all + (all <= 127 ? 1 : all < 16383 ? 2 : 3);
        if (all == 16383 && at < size + 1 && p[at - 1] < 128) at--;
    }
}

static void unpack_ziplist(items *l, const uint8_t *p, size_t size) {
    for (size_t at = 10; at + 1 < size;) {
        size_t n = 0;
        at += p[at] == 0xfe ? 5 : 1;
        if (at + 10 > size && (at >= size || at + 1 + (p[at] < 64 ? p[at] : 0) > size)) return;
        unsigned b = p[at];
        int w = b == 0xfe ? 1 : b == 0xc0 ? 2 : b == 0xf0 ? 3 : b == 0xd0 ? 4 : b == 0xe0 ? 8 : 0;
        if (w || b > 0xf0) {
            if (at + 1 + (size_t)w > size) return;
            item_add(l, 1, w ? signed_le(p + at + 1, w) : (b & 15) - 1, NULL, 0);
            at += 1 + (size_t)w;
            continue;
        }
        if (b < 64) n = b, at += 1;
        else if (b < 128 && at + 2 <= size) n = (size_t)(b & 63) << 8 | p[at + 1], at += 2;
        else if (b == 0x80 && at + 5 <= size) n = (size_t)big_endian(p + at + 1, 4), at += 5;
        else return;
        if (n > size - at) return;
        item_add(l, 0, 0, p + at, n);
        at += n;
    }
}

static void unpack_zipmap(items *l, const uint8_t *p, size_t size) {
    for (size_t at = 1, value = 0; at + 1 < size; value = !value) {
        size_t n = p[at++], pad = 0;
        if (n == 254 && at + 4 < size) n = (size_t)little_endian(p + at, 4), at += 4;
        if (value && at < size) pad = p[at++];
        if (at > size || n > size - at) return;
        item_add(l, 0, 0, p + at, n);
        at += n + pad;
    }
}

static void unpack_intset(items *l, const uint8_t *p, size_t size) {
    size_t w = size > 8 && (p[0] == 2 || p[0] == 4 || p[0] == 8) ? p[0] : 0;
    for (size_t at = 8; w && at + w <= size; at += w) item_add(l, 1, signed_le(p + at, (int)w), NULL, 0);
}

static int width_of(int64_t v) {
    return v >= -128 && v < 128               ? 1
           : v >= -32768 && v < 32768         ? 2
           : v >= -8388608 && v < 8388608     ? 3
           : v >= INT32_MIN && v <= INT32_MAX ? 4
                                              : 8;
}

static void pack_listpack(const items *l, int sloppy, bytes *b) {
    add(b, "\0\0\0\0\0\0", 6);
    for (size_t i = 0; i < l->n; i++) {
        const item *it = &l->v[i];
        size_t off = b->len, n = it->text.len;
        int wider = sloppy && chance(2);
        if (it->is_num && it->num >= 0 && it->num < 128 && !wider) {
            add_byte(b, (unsigned)it->num);
        } else if (it->is_num && it->num >= -4096 && it->num < 4096 && !wider) {
            add_be(b, 0xc000 | ((uint64_t)it->num & 0x1fff), 2);
        } else if (it->is_num) {
            int w = wider ? 8 : width_of(it->num);
            if (w == 1) w = 2;
            add_byte(b, w == 8 ? 0xf4 : 0xf1 + (unsigned)w - 2);
            add_le(b, (uint64_t)it->num, w);
        } else {
            if (n < 64 && !wider) add_byte(b, 0x80 | (unsigned)n);
            else if (n < 4096 && !wider) add_be(b, 0xe000 | n, 2);
            else add_byte(b, 0xf0), add_le(b, n, 4);
            add(b, it->text.p, n);
        }
        size_t all = b->len - off;
        size_t narrow = sloppy && all == 16383;
        int w = all <= 127 ? 1 : all < 16383 + narrow ? 2 : all < 2097151 ? 3 : 4;
        for (int k = w - 1; k >= 0; k--)
            add_byte(b, (unsigned)(all >> (7 * k) & 127) | (k < w - 1 ? 128 : 0));
    }
    add_byte(b, 255);
}

static void pack_ziplist(const items *l, int sloppy, bytes *b) {
    size_t prev = 0;
    add(b, "\0\0\0\0\0\0\0\0\0\0", 10);
    for (size_t i = 0; i < l->n; i++) {
        const item *it = &l->v[i];
        size_t off = b->len, n = it->text.len;
        if (prev < 254 && !(sloppy && chance(2))) add_byte(b, (unsigned)prev);
        else add_byte(b, 254), add_le(b, prev, 4);
        if (it->is_num && it->num >= 0 && it->num <= 12 && !sloppy) {
            add_byte(b, 0xf1 + (unsigned)it->num);
        } else if (it->is_num) {
            int w = sloppy ? 8 : width_of(it->num);
            static const uint8_t mark[] = {0, 0xfe, 0xc0, 0xf0, 0xd0, 0, 0, 0, 0xe0};
            add_byte(b, mark[w]);
            add_le(b, (uint64_t)it->num, w);
        } else {
            if (n < 64) add_byte(b, (unsigned)n);
            else if (n < 16384 && !sloppy) add_be(b, 0x4000 | n, 2);
            else add_byte(b, 0x80), add_be(b, n, 4);
            add(b, it->text.p, n);
        }
        prev = b->len - off;
    }
    for (int i = 0; i < 4; i++) b->p[4 + i] = (uint8_t)((l->n ? b->len - prev : 10) >> (8 * i));
    add_byte(b, 255);
}

static void pack_zipmap(const items *l, int sloppy, bytes *b) {
    add_byte(b, l->n / 2 < 254 ? (unsigned)l->n / 2 : 254);
    for (size_t i = 0; i < l->n; i++) {
        char text[32];
        const item *it = &l->v[i];
        size_t n = it->is_num ? (size_t)snprintf(text, sizeof text, "%lld", (long long)it->num)
                              : it->text.len,
               pad = 0;
        if (n < 254) add_byte(b, (unsigned)n);
        else add_byte(b, 254), add_le(b, n, 4);
        if (i % 2) add_byte(b, (unsigned)(pad = sloppy ? chance(4) : 0));
        add(b, it->is_num ? (const void *)text : it->text.p, n);
        while (pad--) add_byte(b, 'p');
    }
    add_byte(b, 255);
}

static int compare_items(const void *a, const void *b) {
    int64_t x = ((const item *)a)->num, y = ((const item *)b)->num;
    return x < y ? -1 : x > y;
}

static void pack_intset(items *l, int sloppy, bytes *b) {
    int w = sloppy ? 8 : 2;
    for (size_t i = 0; i < l->n; i++) {
        if (!l->v[i].is_num) l->v[i].num = (int64_t)l->v[i].text.len;
        int needs = width_of(l->v[i].num);
        if (needs > w) w = needs == 3 ? 4 : needs;
    }
    if (chance(16)) qsort(l->v, l->n, sizeof *l->v, compare_items);
    add_le(b, (uint64_t)w, 4);
    add_le(b, 0, 4);
    uint64_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (i && l->v[i].num == l->v[i - 1].num && !sloppy) continue;
        add_le(b, (uint64_t)l->v[i].num, w);
        n++;
    }
    for (int i = 0; i < 4; i++) b->p[4 + i] = (uint8_t)(n >> (8 * i));
}

static int64_t as_number(items *l, size_t at, int64_t below) {
    item *it = &l->v[at];
    if (!it->is_num || it->num < 0 || it->num >= below) it->num = (int64_t)chance(3);
    it->is_num = 1;
    return it->num;
}

static void set_number(items *l, size_t at, int64_t v) {
    item it = {1, v, {NULL, 0, 0}};
    if (at < l->n) l->v[at].is_num = 1, l->v[at].num = v;
    else item_insert(l, l->n, &it);
}

/* The numbers of a stream node that follow from the others: its counts, and how long each entry is. */
static void mend_node(items *l) {
    if (l->n < 4) return;
    int64_t fields = as_number(l, 2, 64), live = 0, deleted = 0;
    size_t at = 3 + (size_t)fields;
    set_number(l, at < l->n ? at : l->n, 0);
    for (at++; at + 3 < l->n;) {
        int64_t flags = as_number(l, at, 4), own = fields;
        size_t off = at;
        l->v[at + 1].is_num = l->v[at + 2].is_num = 1;
        at += 3;
        if (!(flags & 2)) own = as_number(l, at++, 64);
        at += (size_t)(flags & 2 ? own : 2 * own);
        while (l->n < at) item_add(l, 0, 0, (const uint8_t *)"m", 1);
        set_number(l, at, (int64_t)(at - off));
        at++;
        if (flags & 1) deleted++;
        else live++;
    }
    while (l->n > at) item_drop(l, l->n - 1);
    l->v[0] = (item){1, live, l->v[0].text};
    l->v[1] = (item){1, deleted, l->v[1].text};
}

/* One change of one item, or of one, two or three that stand together. */
static void change_items(items *l) {
    if (!l->n) item_add(l, chance(2) != 0, (uint64_t)odd_number(), (const uint8_t *)"new", 3);
    size_t unit = 1 + chance(3), at = chance((uint32_t)l->n), other = chance((uint32_t)l->n);
    item *it = &l->v[at], swap;
    switch (chance(7)) {
    case 0: set_number(l, at, odd_number()); break;
    case 1:
        at -= at % unit;
        for (size_t i = 0; i < unit && at + i < l->n; i++) item_drop(l, at);
        break;
    case 2:
        at -= at % unit, other -= other % unit;
        for (size_t i = 0; i < unit && at + i < l->n; i++) {
            item copy = l->v[at + i];
            bytes text = {NULL, 0, 0};
            add(&text, copy.text.p, copy.text.len);
            copy.text = text;
            item_insert(l, other, &copy);
            free(text.p);
            if (other++ <= at) at++;
        }
        break;
    case 3: swap = *it, *it = l->v[other], l->v[other] = swap; break;
    case 4:
        it->text.len = 0, it->is_num = l->v[other].is_num, it->num = l->v[other].num;
        if (at != other) add(&it->text, l->v[other].text.p, l->v[other].text.len);
        break;
    default:
        if (it->is_num) {
            it->num = (int64_t)((uint64_t)it->num + chance(5) - 2);
            if (chance(8) == 0) it->is_num = 0, change_text(&it->text);
        } else {
            change_text(&it->text);
        }
    }
}

static void change_blob(bytes *b, enum blob_kind kind) {
    items l = {NULL, 0, 0};
    bytes out = {NULL, 0, 0};
    int sloppy = chance(12) == 0;
    if (chance(6) == 0) { /* blindly, but for its total */
        change_bytes(b);
        if (kind != B_ZIPMAP && kind != B_INTSET && b->len >= 10)
            for (int i = 0; i < 4; i++) b->p[i] = (uint8_t)(b->len >> (8 * i));
        return;
    }
    switch (kind) {
    case B_ZIPLIST: unpack_ziplist(&l, b->p, b->len); break;
    case B_ZIPMAP: unpack_zipmap(&l, b->p, b->len); break;
    case B_INTSET: unpack_intset(&l, b->p, b->len); break;
    default: unpack_listpack(&l, b->p, b->len); break;
    }
    for (uint32_t n = 1 + chance(3); n; n--) change_items(&l);
    if (kind == B_NODE && chance(5)) mend_node(&l);
    switch (kind) {
    case B_ZIPLIST: pack_ziplist(&l, sloppy, &out); break;
    case B_ZIPMAP: pack_zipmap(&l, sloppy, &out); break;
    case B_INTSET: pack_intset(&l, sloppy, &out); break;
    default: pack_listpack(&l, sloppy, &out); break;
    }
    if (kind != B_ZIPMAP && kind != B_INTSET) {
        uint64_t n = l.n < 65535 && !(sloppy && chance(2)) ? l.n : 65535, at = kind == B_ZIPLIST ? 8 : 4;
        if (chance(40) == 0) n += chance(5) - 2;
        out.p[at] = (uint8_t)n, out.p[at + 1] = (uint8_t)(n >> 8);
        for (int i = 0; i < 4; i++) out.p[i] = (uint8_t)(out.len >> (8 * i));
    }
    b->len = 0;
    add(b, out.p, out.len);
    while (l.n) item_drop(&l, l.n - 1);
    free(l.v);
    free(out.p);
}

/* ---- edits ---- */

/* What a string holds. Returns 0 if it is too large, or does not decompress. */
static int content_of(const uint8_t *in, const token *t, bytes *b) {
    parse m = {.p = in + t->off, .size = t->len};
    char text[16];
    int special, unused;
    uint64_t n = read_len(&m, &special);
    if (special == 3) {
        uint64_t packed = read_len(&m, &unused), plain = read_len(&m, &unused);
        if (plain > STRING_MAX || packed != t->len - m.at) return 0;
        b->p = must(realloc(b->p, b->cap = (size_t)plain + 1));
        b->len = plain ? lzf_decompress(m.p + m.at, (unsigned)packed, b->p, (unsigned)plain) : 0;
        return b->len == plain;
    }
    b->len = 0;
    if (special >= 0)
        add(b, text,
            (size_t)snprintf(text, sizeof text, "%lld", (long long)signed_le(m.p + 1, 1 << special)));
    else if (n > STRING_MAX) return 0;
    else add(b, m.p + m.at, (size_t)n);
    return 1;
}

/* A string: plain, compressed, or as an integer. */
static void add_str(bytes *out, const bytes *b) {
    char text[16], *end;
    bytes packed = {NULL, 0, 0};
    uint32_t c = chance(8);
    if (b->len && b->len < 11 && c < 4) {
        memcpy(text, b->p, b->len);
        text[b->len] = 0;
        long v = strtol(text, &end, 10);
        int w = width_of(v);
        if (end == text + b->len && w < 5) {
            if (w == 3) w = 4;
            add_byte(out, w == 1 ? 0xc0 : w == 2 ? 0xc1 : 0xc2);
            add_le(out, (uint64_t)v, w);
            return;
        }
    }
    if (b->len > 20 && c < 3) {
        packed.p = must(malloc(b->len));
        packed.len = lzf_compress(b->p, (unsigned)b->len, packed.p, (unsigned)b->len - 4);
    }
    if (packed.len) {
        add_byte(out, 0xc3);
        add_len(out, packed.len);
        add_len(out, b->len);
        add(out, packed.p, packed.len);
    } else {
        add_len(out, b->len);
        add(out, b->p, b->len);
    }
    free(packed.p);
}

static void add_arg(bytes *out, const bytes *b) {
    char head[32];
    add(out, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", b->len));
    add(out, b->p, b->len);
    add(out, "\r\n", 2);
}

/* The kinds of token that may take each other's place. */
static const token *one_like(const parse *m, const token *t) {
    for (int tries = 0; tries < 8; tries++) {
        const token *u = &m->token[chance((uint32_t)m->token_n)];
        if (u->kind == t->kind && u->blob == t->blob && (t->kind != T_FIXED || u->len == t->len)) return u;
    }
    return t;
}

static void edit_type(const uint8_t *was, bytes *b) {
    static const uint8_t kin[][8] = {{1, 2, 1, 2, 1, 2, 1, 2},
                                     {3, 5, 3, 5, 3, 5, 3, 5},
                                     {10, 12, 13, 10, 12, 13, 9, 11},
                                     {16, 17, 20, 16, 17, 20, 16, 17},
                                     {15, 19, 21, 15, 19, 21, 19, 21},
                                     {22, 24, 4, 22, 24, 4, 23, 25},
                                     {252, 253, 248, 249, 250, 251, 254, 255}};
    for (size_t i = 0; i < sizeof kin / sizeof kin[0] && chance(8); i++)
        for (size_t j = 0; j < 8; j++)
            if (kin[i][j] == *was) {
                add_byte(b, kin[i][chance(8)]);
                return;
            }
    add_byte(b, chance(4) ? chance(28) : 241 + chance(15));
}

static void edit_token(const parse *m, const uint8_t *in, const token *t, bytes *b) {
    const token *like = one_like(m, t);
    bytes text = {NULL, 0, 0};
    parse n = {.p = in + t->off, .size = t->len};
    int special;
    if (like != t && chance(6) == 0 && t->kind != T_TYPE) {
        add(b, in + like->off, like->len);
        return;
    }
    switch (t->kind) {
    case T_TYPE: edit_type(in + t->off, b); break;
    case T_LEN:
        add_len(b, chance(2) ? read_len(&n, &special) + chance(3) - 1 : (uint64_t)odd_number());
        break;
    case T_FIXED:
        add(b, in + t->off, t->len);
        if (t->len == 8 && chance(2)) {
            b->len = 0;
            double d = chance(2) ? (double)odd_number() : (double)odd_number() / 3;
            if (chance(2)) add_le(b, (uint64_t)odd_number(), 8);
            else add(b, &d, 8);
        } else {
            size_t len = b->len;
            b->len = LLVMFuzzerMutate(b->p, b->len, len);
            while (b->len < len) add_byte(b, 0);
        }
        break;
    case T_STR:
        if (!content_of(in, t, &text)) {
            add(b, in + t->off, t->len);
            change_bytes(b);
            break;
        }
        if (t->blob == B_TEXT) change_text(&text);
        else change_blob(&text, t->blob);
        add_str(b, &text);
        break;
    case T_DECIMAL:
        add_byte(b, in[t->off]);
        add(b, "1\r\n", 3);
        b->p[1] = (uint8_t)('0' + chance(10));
        break;
    default: /* T_ARG */
        n.at = 0;
        size_t len = (size_t)get_line(&n, '$');
        add(&text, in + t->off + n.at, len);
        change_text(&text);
        add_arg(b, &text);
        break;
    }
    free(text.p);
}

/* Add to the number that counts a span. */
static void recount(const parse *m, bytes *in, size_t max, int count, int by) {
    if (count < 0 || chance(24) == 0) return;
    const token *t = &m->token[count];
    parse n = {.p = in->p + t->off, .size = t->len};
    bytes b = {NULL, 0, 0};
    char text[32];
    int special;
    if (t->kind == T_LEN) add_len(&b, read_len(&n, &special) + (uint64_t)(int64_t)by);
    else
        add(&b, text,
            (size_t)snprintf(text, sizeof text, "*%llu\r\n",
                             (unsigned long long)get_line(&n, '*') + (unsigned long long)by));
    splice(in, max, t->off, t->len, &b);
    free(b.p);
}

static void edit_span(const parse *m, bytes *in, size_t max) {
    const span *s = &m->span[chance((uint32_t)m->span_n)], *o = s;
    for (int tries = 0; tries < 8 && (o == s || o->count != s->count); tries++)
        o = &m->span[chance((uint32_t)m->span_n)];
    bytes b = {NULL, 0, 0};
    int by = 0;
    if (o->count != s->count || chance(4) == 0) { /* of another collection: o is s where there is none */
        if (o != s) add(&b, in->p + o->off, o->len);
        if (!splice(in, max, s->off, s->len, &b)) by = 0;
        else by = o == s ? -1 : 0;
    } else if (chance(2) && o->off >= s->off + s->len) {
        add(&b, in->p + o->off, o->len);
        add(&b, in->p + s->off + s->len, o->off - s->off - s->len);
        add(&b, in->p + s->off, s->len);
        splice(in, max, s->off, o->off + o->len - s->off, &b);
    } else {
        add(&b, in->p + o->off, o->len);
        by = splice(in, max, s->off + (chance(2) ? s->len : 0), 0, &b);
    }
    if (by) recount(m, in, max, s->count, by);
    free(b.p);
}

static void edit_magic(bytes *in, size_t at) {
    static const char *const magic[] = {"REDIS0001", "REDIS0003", "REDIS0004", "REDIS0005",
                                        "REDIS0006", "REDIS0007", "REDIS0008", "REDIS0009",
                                        "REDIS0010", "REDIS0011", "REDIS0012", "VALKEY080"};
    memcpy(in->p + at, magic[chance(sizeof magic / sizeof magic[0])], 9);
}

/* ---- the end of an RDB, and of a payload ---- */

static uint64_t crc64(const uint8_t *p, size_t n) {
    static uint64_t table[256];
    uint64_t crc = 0;
    if (!table[1])
        for (unsigned i = 0; i < 256; i++) {
            uint64_t c = i;
            for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0x95ac9329ac4bc9b5u : 0);
            table[i] = c;
        }
    while (n--) crc = table[(crc ^ *p++) & 255] ^ crc >> 8;
    return crc;
}

static void mend_rdb(const parse *m, bytes *in, size_t max) {
    bytes b = {NULL, 0, 0};
    size_t from = options_len(in->p, in->len), at = m->eof_off, rest;
    if (!at && m->good > from && chance(2)) { /* end it where it is understood no more */
        in->len = m->good;
        add_byte(&b, 255);
        if (!splice(in, max, in->len, 0, &b)) return;
        at = in->len;
    }
    if (!at) return;
    rest = in->len - at < 8 ? in->len - at : 8;
    uint32_t c = chance(8);
    b.len = 0;
    if (c) add_le(&b, c < 5 ? crc64(in->p + from, at - from) : 0, 8);
    if (c) splice(in, max, at, rest, &b);
    free(b.p);
}

/* u16le version, u64le checksum. */
static void mend_payload(const parse *m, bytes *in, size_t max) {
    static const uint8_t versions[] = {6, 8, 9, 10, 11, 12, 80, 80};
    size_t at = m->bad ? in->len > 14 ? in->len - 10 : in->len : m->at;
    bytes b = {NULL, 0, 0};
    if (at < 5 || chance(16) == 0) return;
    if (in->len >= at + 10 && chance(4)) add(&b, in->p + at, 2);
    else add_le(&b, versions[chance(8)], 2);
    if (!splice(in, max, at, in->len - at, &b)) return;
    b.len = 0;
    add_le(&b, crc64(in->p + 4, in->len - 4), 8);
    splice(in, max, in->len, 0, &b);
    free(b.p);
}

static void mend(parse *m, int input, bytes *in, size_t max) {
    if (!parse_input(m, input, in->p, in->len)) return;
    if (input == FUZZ_PAYLOAD) mend_payload(m, in, max);
    else if (has_magic(in->p + options_len(in->p, in->len), in->len - options_len(in->p, in->len)))
        mend_rdb(m, in, max);
}

/* ---- entry points ---- */

static parse new_parse(void) {
    static token tokens[2][SPLIT_MAX]; /* two: of what is crossed */
    static span spans[2][SPLIT_MAX];
    static int turn;
    parse m = {.token = tokens[turn], .span = spans[turn]};
    turn = !turn;
    return m;
}

/* Four option bytes, of which the first says which kind of blob. */
static size_t mutate_blob(bytes *in, size_t max) {
    bytes b = {NULL, 0, 0};
    if (in->len < 4) return in->len;
    static const enum blob_kind kinds[] = {B_LISTPACK, B_ZIPLIST, B_ZIPMAP, B_INTSET, B_NODE};
    unsigned what = in->p[0] % FUZZ_BLOB_N;
    if (chance(8) == 0) in->p[chance(4)] = (uint8_t)chance(256);
    add(&b, in->p + 4, in->len - 4);
    if (what < 5) change_blob(&b, kinds[what]);
    else change_bytes(&b);
    splice(in, max, 4, in->len - 4, &b);
    free(b.p);
    return in->len;
}

static int edit(parse *m, int input, bytes *in, size_t max) {
    if (!parse_input(m, input, in->p, in->len) || !m->token_n) return 0;
    size_t at = input == FUZZ_PAYLOAD ? 4 : options_len(in->p, in->len);
    uint32_t c = chance(32);
    if (c < 2 && at == 4) {
        in->p[chance(4)] = (uint8_t)chance(256);
    } else if (c == 2 && has_magic(in->p + at, in->len - at)) {
        edit_magic(in, at);
    } else if (c < 12 && m->span_n) {
        edit_span(m, in, max);
    } else {
        const token *t = &m->token[chance((uint32_t)m->token_n)];
        for (int tries = 0; tries < 2 && t->kind != T_STR; tries++)
            t = &m->token[chance((uint32_t)m->token_n)];
        bytes b = {NULL, 0, 0};
        edit_token(m, in->p, t, &b);
        splice(in, max, t->off, t->len, &b);
        free(b.p);
    }
    return 1;
}

size_t fuzz_mutate(int input, uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    parse m = new_parse();
    bytes in = {NULL, 0, 0};
    chance_state = seed * 2654435761u + 1;
    if (input == FUZZ_PLAIN || chance(4) == 0) {
        size = LLVMFuzzerMutate(data, size, max_size);
        if (input == FUZZ_PLAIN || input == FUZZ_BLOB) return size;
        add(&in, data, size);
    } else {
        add(&in, data, size);
        if (input == FUZZ_BLOB) mutate_blob(&in, max_size);
        else
            for (uint32_t n = 1 + chance(3); n; n--)
                if (!edit(&m, input, &in, max_size)) {
                    in.len = 0;
                    size = LLVMFuzzerMutate(data, size, max_size);
                    add(&in, data, size);
                    break;
                }
    }
    if (input != FUZZ_BLOB) mend(&m, input, &in, max_size);
    if (in.len && in.len <= max_size) memcpy(data, in.p, size = in.len);
    free(in.p);
    return size;
}

/* Put a record or element of the second input into the first. */
size_t fuzz_cross(int input, const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len, uint8_t *out,
                  size_t max, unsigned seed) {
    parse m = new_parse(), n = new_parse();
    bytes in = {NULL, 0, 0}, piece = {NULL, 0, 0};
    chance_state = seed * 2654435761u + 7;
    if (!a_len || a_len > max) return 0;
    add(&in, a, a_len);
    if (input != FUZZ_PLAIN && input != FUZZ_BLOB && parse_input(&m, input, in.p, in.len) &&
        parse_input(&n, input, b, b_len) && m.span_n && n.span_n) {
        const span *to = &m.span[chance((uint32_t)m.span_n)], *from = &n.span[chance((uint32_t)n.span_n)];
        for (int tries = 0; tries < 8 && (to->count < 0) != (from->count < 0); tries++)
            from = &n.span[chance((uint32_t)n.span_n)];
        add(&piece, b + from->off, from->len);
        if (splice(&in, max, to->off, 0, &piece)) recount(&m, &in, max, to->count, 1);
        m = new_parse();
        mend(&m, input, &in, max);
    }
    size_t len = in.len;
    memcpy(out, in.p, len);
    free(in.p);
    free(piece.p);
    return len;
}

#ifdef FUZZ_SIMPLE
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    static const uint8_t odd[] = {0, 1, 0x3f, 0x40, 0x7f, 0x80, 0x81, 0xc0, 0xc3, 0xfe, 0xff};
    for (uint32_t n = 1 + chance(4); n && size; n--) {
        size_t at = chance((uint32_t)size), many = 1 + chance(8);
        switch (chance(5)) {
        case 0: data[at] ^= (uint8_t)(1u << chance(8)); break;
        case 1: data[at] = odd[chance(sizeof odd)]; break;
        case 2: data[at] = (uint8_t)(data[at] + chance(3) - 1); break;
        case 3: /* take bytes out */
            if (many > size - at) many = size - at;
            memmove(data + at, data + at + many, size - at - many);
            size -= many;
            break;
        default: /* say bytes twice */
            if (many > size - at) many = size - at;
            if (size + many > max_size) break;
            memmove(data + at + many, data + at, size - at);
            size += many;
        }
    }
    return size;
}
#endif

#ifdef FUZZ_AFL
/* The interface of custom mutators of AFL++. FUZZ_INPUT in the environment: which kind of input, a number. */
void *afl_custom_init(void *afl, unsigned seed);
void afl_custom_deinit(void *data);
size_t afl_custom_fuzz(void *data, uint8_t *buf, size_t size, uint8_t **out, uint8_t *add_buf,
                       size_t add_size, size_t max_size);

typedef struct afl_state {
    unsigned seed;
    int input;
    uint8_t out[1 << 20];
} afl_state;

void *afl_custom_init(void *afl, unsigned seed) {
    (void)afl;
    afl_state *s = must(calloc(1, sizeof *s));
    const char *input = getenv("FUZZ_INPUT");
    s->seed = seed, s->input = input ? atoi(input) : FUZZ_RDB;
    return s;
}

void afl_custom_deinit(void *data) { free(data); }

size_t afl_custom_fuzz(void *data, uint8_t *buf, size_t size, uint8_t **out, uint8_t *add_buf,
                       size_t add_size, size_t max_size) {
    afl_state *s = data;
    size_t max = max_size < sizeof s->out ? max_size : sizeof s->out;
    *out = s->out;
    s->seed = s->seed * 1664525u + 1013904223u;
    if (size > max) size = max;
    if (add_buf && s->seed >> 29 == 0) {
        size_t n = fuzz_cross(s->input, buf, size, add_buf, add_size, s->out, max, s->seed);
        if (n) return n;
    }
    memcpy(s->out, buf, size);
    return fuzz_mutate(s->input, s->out, size, max, s->seed);
}
#endif
