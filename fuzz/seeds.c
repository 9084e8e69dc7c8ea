/* seeds.c - takes RDB files apart into seeds for targets that do not read files: packed blobs and compressed strings
 * for fuzz_codec, values with the footer of a DUMP for fuzz_dump.
 *
 *   seeds BLOBS PAYLOADS FILE...     two folders that are there; what lies in both is named by a running number
 *
 * SPDX-License-Identifier: MIT
 */
#include "mutate.c"

enum { SEED_MAX = 16384 };

static void save(const char *folder, const bytes *b) {
    static unsigned number;
    char path[4096];
    snprintf(path, sizeof path, "%s/%u", folder, ++number);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b->p, 1, b->len, f) != b->len || fclose(f)) {
        perror(path);
        exit(3);
    }
}

/* Four option bytes, and the content; of LZF what is compressed. */
static void save_string(const char *folder, const uint8_t *in, const token *t) {
    static const unsigned what[] = {FUZZ_NUMBER, FUZZ_LISTPACK, FUZZ_ZIPLIST,
                                    FUZZ_ZIPMAP, FUZZ_INTSET,   FUZZ_NODE};
    bytes text = {NULL, 0, 0}, b = {NULL, 0, 0};
    if (content_of(in, t, &text) && text.len <= SEED_MAX) {
        if (t->blob != B_TEXT) {
            add_le(&b, what[t->blob], 4);
            add(&b, text.p, text.len);
            save(folder, &b);
        }
        if (in[t->off] == 0xc3) {
            parse m = {.p = in + t->off, .size = t->len, .at = 1};
            int unused;
            size_t packed = (size_t)read_len(&m, &unused);
            read_len(&m, &unused);
            b.len = 0;
            add_byte(&b, FUZZ_LZF);
            add_le(&b, text.len, 3);
            add(&b, m.p + m.at, packed);
            save(folder, &b);
        }
    }
    free(text.p);
    free(b.p);
}

/* The value of a key's record: behind type byte and name. */
static void save_value(const char *folder, const parse *m, const span *s) {
    static const uint8_t versions[] = {8, 9, 10, 11, 12, 80};
    bytes b = {NULL, 0, 0};
    for (size_t i = 0; i + 1 < m->token_n; i++) {
        const token *t = &m->token[i], *name = t + 1;
        if (t->off < s->off || t->off >= s->off + s->len || t->kind != T_TYPE || m->p[t->off] > 240) continue;
        size_t from = name->off + name->len, len = s->off + s->len - from;
        if (len > SEED_MAX) break;
        add_byte(&b, (unsigned)m->valkey);
        add_le(&b, chance(1 << 24), 3);
        add(&b, m->p + t->off, 1);
        add(&b, m->p + from, len);
        add_le(&b, m->valkey ? 80 : versions[chance(6)], 2);
        add_le(&b, crc64(b.p + 4, b.len - 4), 8);
        save(folder, &b);
        break;
    }
    free(b.p);
}

int main(int argc, char **argv) {
    static uint8_t data[1 << 20];
    static const char *const numbers[] = {"0.1",
                                          "-0",
                                          "1e23",
                                          "9007199254740993",
                                          "4.9e-324",
                                          "1.7976931348623157e308",
                                          "inf",
                                          "-1",
                                          "nan",
                                          "2.2250738585072014e-308",
                                          "+1.50",
                                          "123456789012345678901234567890",
                                          "-9223372036854775808"};
    if (argc < 3) return 2;
    for (int i = 3; i < argc; i++) {
        parse m = new_parse();
        FILE *f = fopen(argv[i], "rb");
        size_t n = f ? fread(data, 1, sizeof data, f) : 0;
        if (f) fclose(f);
        if (!has_magic(data, n)) continue;
        parse_input(&m, FUZZ_RDB, data, n);
        for (size_t k = 0; k < m.token_n; k++)
            if (m.token[k].kind == T_STR) save_string(argv[1], data, &m.token[k]);
        for (size_t k = 0; k < m.span_n; k++)
            if (m.span[k].count < 0) save_value(argv[2], &m, &m.span[k]);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        bytes b = {NULL, 0, 0};
        double v = strtod(numbers[i], NULL);
        add_le(&b, FUZZ_NUMBER, 4);
        add(&b, numbers[i], strlen(numbers[i]));
        save(argv[1], &b);
        b.len = 4;
        add(&b, &v, 8);
        save(argv[1], &b);
        free(b.p);
    }
    return 0;
}
