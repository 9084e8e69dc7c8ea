/* fuzz_json.c - JSON out: whatever the input, what is written is UTF-8 and well-formed JSON, and closed only if the input
 * was whole.
 *
 * Option bytes: encoding; flags (1 lines, 128 a write fails); length of the pieces that the input comes in; where the
 * write fails.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include <errno.h>

FUZZ_INPUT(FUZZ_RDB)

enum { DEPTH_MAX = 12 };

/* What may come next. */
enum {
    VALUE,
    VALUE_OR_END,
    NAME,
    NAME_OR_END,
    COLON,
    AFTER,
    IN_STRING,
    IN_ESCAPE,
    IN_HEX,
    IN_NUMBER,
    IN_WORD
};

typedef struct checker {
    int state, is_name, hex;
    int depth;
    char open[DEPTH_MAX + 1]; /* '[' or '{' */
    unsigned more, low, high; /* bytes of a UTF-8 sequence to come, and the range of the next one */
    unsigned point;
    char number[64];
    size_t number_n;
    const char *word;
    uint64_t values, total, fail_at; /* values: complete ones at depth 0 */
    int lines;
} checker;

static _Noreturn void bad(const checker *c, const char *what, int b) {
    fprintf(stderr, "byte %llu, depth %d\n", (unsigned long long)c->total, c->depth);
    fuzz_fail(what, b, c->state);
}

/* The grammar of RFC 8259 for numbers. */
static int is_number(const char *p) {
    if (*p == '-') p++;
    if (*p == '0') p++;
    else if (*p >= '1' && *p <= '9')
        while (*p >= '0' && *p <= '9') p++;
    else return 0;
    if (*p == '.') {
        if (p[1] < '0' || p[1] > '9') return 0;
        for (p++; *p >= '0' && *p <= '9'; p++) continue;
    }
    if (*p == 'e' || *p == 'E') {
        p += p[1] == '-' || p[1] == '+' ? 2 : 1;
        if (*p < '0' || *p > '9') return 0;
        while (*p >= '0' && *p <= '9') p++;
    }
    return !*p;
}

static void value_done(checker *c) {
    c->state = AFTER;
    if (!c->depth) c->values++;
}

static void open_container(checker *c, int b) {
    if (c->depth == DEPTH_MAX) bad(c, "JSON: too deep", b);
    c->open[++c->depth] = (char)b;
    c->state = b == '{' ? NAME_OR_END : VALUE_OR_END;
}

static void close_container(checker *c, int b) {
    if (!c->depth || c->open[c->depth] != (b == '}' ? '{' : '['))
        bad(c, "JSON: a bracket that closes nothing", b);
    c->depth--;
    value_done(c);
}

static void begin_value(checker *c, int b) {
    if (!c->depth && c->values && !c->lines) bad(c, "JSON: more than one document", b);
    if (b == '"') {
        c->state = IN_STRING;
        c->is_name = 0;
    } else if (b == '{' || b == '[') {
        open_container(c, b);
    } else if (b == '-' || (b >= '0' && b <= '9')) {
        c->number[0] = (char)b;
        c->number_n = 1;
        c->state = IN_NUMBER;
    } else if (b == 'n') {
        c->word = "ull";
        c->state = IN_WORD;
    } else {
        bad(c, "JSON: no value begins so", b);
    }
}

static void in_string(checker *c, unsigned b) {
    if (c->more) {
        if (b < c->low || b > c->high) bad(c, "UTF-8: a byte inside a sequence", (int)b);
        c->low = 0x80, c->high = 0xbf;
        c->point = c->point << 6 | (b & 63);
        if (!--c->more && (c->point == 0x2028 || c->point == 0x2029))
            bad(c, "JSON: a separator not escaped", (int)c->point);
        return;
    }
    if (b < 32 || b == 127) bad(c, "JSON: a control character", (int)b);
    c->low = 0x80, c->high = 0xbf;
    if (b == '"') {
        if (c->is_name) c->state = COLON;
        else value_done(c);
    } else if (b == '\\') {
        c->state = IN_ESCAPE;
    } else if (b >= 0xc2 && b <= 0xdf) {
        c->more = 1, c->point = b & 31;
    } else if (b >= 0xe0 && b <= 0xef) {
        c->more = 2, c->point = b & 15;
        if (b == 0xe0) c->low = 0xa0;
        if (b == 0xed) c->high = 0x9f;
    } else if (b >= 0xf0 && b <= 0xf4) {
        c->more = 3, c->point = b & 7;
        if (b == 0xf0) c->low = 0x90;
        if (b == 0xf4) c->high = 0x8f;
    } else if (b >= 128) {
        bad(c, "UTF-8: no sequence begins so", (int)b);
    }
}

static void after_value(checker *c, int b) {
    if (b == '\n') return;
    if (b == ']' || b == '}') {
        close_container(c, b);
    } else if (b == ',' && c->depth) {
        c->state = c->open[c->depth] == '{' ? NAME : VALUE;
    } else if (!c->depth && c->lines) {
        begin_value(c, b);
    } else {
        bad(c, "JSON: a byte after a value", b);
    }
}

static void between(checker *c, int b) {
    switch (c->state) {
    case VALUE:
        if (b != '\n') begin_value(c, b);
        break;
    case VALUE_OR_END:
        if (b == ']') close_container(c, b);
        else if (b != '\n') begin_value(c, b);
        break;
    case NAME:
    case NAME_OR_END:
        if (b == '}' && c->state == NAME_OR_END) {
            close_container(c, b);
            break;
        }
        if (b != '"') bad(c, "JSON: no name of a member begins so", b);
        c->state = IN_STRING;
        c->is_name = 1;
        break;
    case COLON:
        if (b != ':') bad(c, "JSON: no colon", b);
        c->state = VALUE;
        break;
    default: after_value(c, b); break;
    }
}

static void step(checker *c, int b) {
    c->total++;
    if (b == '\n' && c->depth > (c->lines ? 0 : 1)) bad(c, "JSON: a record on two lines", b);
    switch (c->state) {
    case IN_STRING: in_string(c, (unsigned)b); break;
    case IN_ESCAPE:
        if (!b || !strchr("\"\\bfnrtu", b)) bad(c, "JSON: an escape", b);
        c->state = b == 'u' ? IN_HEX : IN_STRING;
        c->hex = 0;
        break;
    case IN_HEX:
        if (!((b >= '0' && b <= '9') || (b >= 'a' && b <= 'f'))) bad(c, "JSON: a hexadecimal digit", b);
        if (++c->hex == 4) c->state = IN_STRING;
        break;
    case IN_NUMBER:
        if (b && strchr("0123456789+-.eE", b)) {
            if (c->number_n == sizeof c->number - 1) bad(c, "JSON: a long number", b);
            c->number[c->number_n++] = (char)b;
            break;
        }
        c->number[c->number_n] = 0;
        if (!is_number(c->number)) bad(c, "JSON: a number", b);
        value_done(c);
        between(c, b);
        break;
    case IN_WORD:
        if (b != *c->word++) bad(c, "JSON: a word", b);
        if (!*c->word) value_done(c);
        break;
    default: between(c, b); break;
    }
}

static int take(void *ctx, const void *data, size_t len) {
    checker *c = ctx;
    const uint8_t *p = data;
    if (len > c->fail_at || c->total > c->fail_at - len) return -ENOSPC;
    for (size_t i = 0; i < len; i++) step(c, p[i]);
    return 0;
}

/* Splits the input: the pieces of a module's value come as the reader sees them. */
static int feed(rdbkit_reader *r, const uint8_t *data, size_t size, size_t piece) {
    int status = RDBKIT_MORE;
    while (size && status == RDBKIT_MORE) {
        size_t n = piece && piece < size ? piece : size;
        status = rdbkit_reader_feed(r, data, n);
        data += n;
        size -= n;
    }
    return status == RDBKIT_MORE ? rdbkit_reader_finish(r) : status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t o[4];
    fuzz_options(o, &data, &size);
    rdbkit_json_options jo;
    rdbkit_json_options_init(&jo);
    jo.encoding = (rdbkit_json_encoding)(o[0] % RDBKIT_JSON_ENCODING_N);
    jo.lines = o[1] & 1;
    checker c = {.state = VALUE,
                 .lines = jo.lines,
                 .fail_at = o[1] & 128 ? (uint64_t)o[3] * 512 : (uint64_t)32 << 20};
    rdbkit_json *s = rdbkit_json_new(&jo, take, &c);
    if (!s) fuzz_fail("rdbkit_json_new", 0, 0);
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_json_visitor(s));
    if (!r) exit(0);
    int status = feed(r, data, size, o[2]);
    int finished = rdbkit_json_finish(s);

    int failed = status == RDBKIT_ERR_IO || finished == RDBKIT_ERR_IO;
    if (failed && rdbkit_json_errno(s) != ENOSPC)
        fuzz_fail("rdbkit_json_errno", rdbkit_json_errno(s), ENOSPC);
    if (!failed && finished != RDBKIT_OK) fuzz_fail("rdbkit_json_finish", finished, status);
    if (status == RDBKIT_DONE && finished == RDBKIT_OK && (c.state != AFTER || c.depth || !c.values))
        fuzz_fail("a document that is not whole, state and depth", c.state, c.depth);
    if (status < 0 && !jo.lines && c.values)
        fuzz_fail("a document closed too early, status", status, c.depth);
    rdbkit_reader_free(r);
    rdbkit_json_free(s);
    return 0;
}
