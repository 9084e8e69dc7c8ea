/* test_fixtures.c - every file under fixtures/ through every way of reading it.
 *
 * SPDX-License-Identifier: MIT
 *
 *     build/test_fixtures [DIR]           test (DIR: fixtures)
 *     REGEN=1 build/test_fixtures         write the golden .events files that are missing
 *     REGEN=all build/test_fixtures       write them all anew: look at the difference before it is committed
 *
 * A file of fixtures/bad holds damage; its .expect has "<exit code> <offset>": 4 for what every reader has to
 * refuse, 1 for what only `check` sees. All other .rdb files are good, and have a golden .events beside them.
 */
#define _GNU_SOURCE 1 /* mmap, fileno, tmpfile and the like under -std=c11 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "events.c"
#include "testkit.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

enum { SIZE_MAX_CUTS = 16384, SIZE_MAX_NOMEM = 4096, SIZE_MAX_GZIP_CUTS = 2048, MUTATIONS = 200 };
#define MUTATION_MEMORY (64u << 20)

typedef struct file {
    char *path;
    unsigned char *data;
    size_t len;
    int bad;
    int expect_exit;    /* of a bad file; 0: none given */
    int64_t expect_off; /* -1: any */
    uint64_t end_off;   /* of a good file: where its RDB ends */
    uint64_t hash;      /* of a good file: of all its events */
    uint64_t keys_hash; /* the same without elements */
    int readable;
} file;

static file *files;
static size_t files_n;
static const char *root = "fixtures";
static int failures;

/* ---- Telling ---- */

static void complain(const file *f, const char *format, ...) {
    va_list ap;
    if (++failures > 100) return;
    fprintf(stderr, "FAIL %s: ", f ? f->path : root);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static void verdict(void) {
    int n = failures;
    failures = 0;
    if (n) fail_msg("%d complaints, see above", n);
}

/* ---- The files ---- */

static unsigned char *slurp(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    tk_bytes b = {0};
    unsigned char buf[16384];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, f)) > 0) tk_put(&b, buf, n);
    fclose(f);
    tk_put(&b, "", 1);
    *len = b.len - 1;
    return b.data;
}

static char *beside(const file *f, const char *ending) {
    size_t stem = strlen(f->path) - strlen(".rdb");
    char *path = malloc(stem + strlen(ending) + 1);
    assert_non_null(path);
    memcpy(path, f->path, stem);
    memcpy(path + stem, ending, strlen(ending) + 1);
    return path;
}

static void load_expect(file *f) {
    char *path = beside(f, ".expect");
    size_t len;
    char *text = (char *)slurp(path, &len);
    f->expect_off = -1;
    if (text) {
        char *rest;
        f->expect_exit = (int)strtol(text, &rest, 10);
        while (*rest == ' ') rest++;
        if (*rest >= '0' && *rest <= '9') f->expect_off = strtoll(rest, NULL, 10);
    }
    free(text);
    free(path);
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const file *)a)->path, ((const file *)b)->path);
}

static void walk(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        size_t room = strlen(dir) + strlen(entry->d_name) + 2;
        char *path = malloc(room);
        struct stat st;
        assert_non_null(path);
        snprintf(path, room, "%s/%s", dir, entry->d_name);
        size_t len = strlen(path);
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            if (strcmp(entry->d_name, "aof") != 0) walk(path); /* append-only files: tests/aof_test.py */
        } else if (len > 4 && strcmp(path + len - 4, ".rdb") == 0) {
            file f = {0};
            f.path = path;
            f.data = slurp(path, &f.len);
            f.bad = strstr(path, "/bad/") != NULL;
            if (f.bad) load_expect(&f);
            files = realloc(files, (files_n + 1) * sizeof *files);
            assert_non_null(files);
            files[files_n++] = f;
            continue;
        }
        free(path);
    }
    closedir(d);
}

/* ---- Reading ---- */

enum how { WHOLE, BYTES, CUT, CHUNKS };

typedef struct setup {
    enum how how;
    size_t cut; /* of CUT: length of the first part; of CHUNKS: seed */
    int deep, ignore_checksum, answer, keys_only;
    size_t piece_len;
    const rdbkit_allocator *allocator;
    const tk_guard *guard;  /* whole input and first part end at it */
    const tk_guard *guard2; /* the second part does */
} setup;

typedef struct outcome {
    int st;
    int feed_st; /* the last answer of feed */
    int code;
    uint64_t off, end_off, hash, n, keys_n;
    const char *fault;
    char message[480];
} outcome;

static int feed_as(rdbkit_reader *r, const setup *s, const unsigned char *data, size_t len) {
    uint64_t chance = s->cut + 1;
    int st = RDBKIT_MORE;
    switch (s->how) {
    case WHOLE: return rdbkit_reader_feed(r, s->guard ? tk_guard_put(s->guard, data, len) : data, len);
    case BYTES:
        for (size_t i = 0; i < len && st == RDBKIT_MORE; i++)
            st = rdbkit_reader_feed(r, s->guard ? tk_guard_put(s->guard, data + i, 1) : data + i, 1);
        return st;
    case CUT:
        st = rdbkit_reader_feed(r, s->guard ? tk_guard_put(s->guard, data, s->cut) : data, s->cut);
        if (st != RDBKIT_MORE) return st;
        data += s->cut;
        len -= s->cut;
        return rdbkit_reader_feed(r, s->guard2 ? tk_guard_put(s->guard2, data, len) : data, len);
    case CHUNKS:
        while (len && st == RDBKIT_MORE) {
            uint64_t x = tk_random(&chance);
            size_t n = (size_t)(x >> 8) % ((x & 7) == 0 ? 3000 : (x & 7) < 4 ? 100 : 6);
            if (n > len) n = len;
            st = rdbkit_reader_feed(r, s->guard ? tk_guard_put(s->guard, data, n) : data, n);
            data += n;
            len -= n;
        }
        return st;
    }
    return RDBKIT_ERR_USAGE;
}

static rdbkit_reader *open_reader(const setup *s, const rdbkit_visitor *v) {
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    o.allocator = s->allocator;
    o.deep = s->deep;
    o.ignore_checksum = s->ignore_checksum;
    o.piece_len = s->piece_len;
    return rdbkit_reader_new(&o, v);
}

static void settle(outcome *out, const rdbkit_reader *r, const events *e) {
    const rdbkit_error *error = rdbkit_reader_error(r);
    out->code = error->code;
    out->off = error->offset;
    memcpy(out->message, error->message, sizeof out->message);
    out->end_off = rdbkit_reader_offset(r);
    out->hash = e->hash;
    out->n = e->n;
    out->keys_n = e->keys_n;
    out->fault = e->fault;
}

/* Reads bytes, hashing the events. */
static outcome read_bytes(const unsigned char *data, size_t len, const setup *s) {
    outcome out = {0};
    events e;
    events_init(&e, 0);
    e.answer = s->answer;
    e.keys_only = s->keys_only;
    e.file = data;
    e.file_len = len;
    rdbkit_visitor v = events_visitor(&e);
    rdbkit_reader *r = open_reader(s, &v);
    if (!r) {
        out.st = out.code = RDBKIT_ERR_NOMEM;
        return out;
    }
    e.reader = r;
    out.st = out.feed_st = len || s->how == WHOLE ? feed_as(r, s, data, len) : RDBKIT_MORE;
    if (out.st == RDBKIT_MORE) out.st = rdbkit_reader_finish(r);
    settle(&out, r, &e);
    rdbkit_reader_free(r);
    return out;
}

/* A good file has to come out as at first. */
static void expect_same(const file *f, const setup *s, const char *what) {
    outcome out = read_bytes(f->data, f->len, s);
    if (out.st != RDBKIT_DONE)
        complain(f, "%s (%zu): %s: %s", what, s->cut, rdbkit_status_text(out.st), out.message);
    else if (out.fault) complain(f, "%s (%zu): %s", what, s->cut, out.fault);
    else if (out.hash != (s->keys_only ? f->keys_hash : f->hash))
        complain(f, "%s (%zu): other events", what, s->cut);
    else if (out.end_off != f->end_off)
        complain(f, "%s (%zu): ends at %" PRIu64 " instead of %" PRIu64, what, s->cut, out.end_off,
                 f->end_off);
}

#define EACH_GOOD(f)                                \
    for (file *f = files; f < files + files_n; f++) \
        if (!f->bad && f->readable)

/* Next cut: every byte of small files, some 300 of large ones. */
static size_t next_cut(const file *f, size_t cut) {
    return f->len <= SIZE_MAX_CUTS ? cut + 1
                                   : cut + 1 + (size_t)(tk_random(&(uint64_t){cut + 77}) % (f->len / 150));
}

/* ---- Good files ---- */

static void there_are_fixtures(void **state) {
    size_t good = 0, bad = 0;
    (void)state;
    for (file *f = files; f < files + files_n; f++) *(f->bad ? &bad : &good) += 1;
    printf("  %zu good files, %zu damaged ones\n", good, bad);
    assert_true(good > 0);
    assert_true(bad > 0);
}

static void first_difference(const file *f, const char *want, const char *got) {
    size_t line = 1, start = 0, i = 0;
    while (want[i] && want[i] == got[i]) {
        if (want[i] == '\n') {
            line++;
            start = i + 1;
        }
        i++;
    }
    complain(f, "line %zu differs from the golden text\n    golden: %.*s\n    now:    %.*s", line,
             (int)strcspn(want + start, "\n") > 200 ? 200 : (int)strcspn(want + start, "\n"), want + start,
             (int)strcspn(got + start, "\n") > 200 ? 200 : (int)strcspn(got + start, "\n"), got + start);
}

static void compare_golden(const file *f, const events *e) {
    char *path = beside(f, ".events");
    const char *regen = getenv("REGEN");
    size_t len;
    char *golden = regen && strcmp(regen, "all") == 0 ? NULL : (char *)slurp(path, &len);
    if (golden) {
        if (strcmp(golden, e->text) != 0) first_difference(f, golden, e->text);
    } else if (regen) {
        FILE *out = fopen(path, "wb");
        if (!out || fwrite(e->text, 1, e->text_len, out) != e->text_len || fclose(out) != 0)
            complain(f, "cannot write %s", path);
    } else complain(f, "no golden text; REGEN=1 writes it");
    free(golden);
    free(path);
}

/* Also sets what all later tests compare with. Inputs end at an unreadable page. */
static void whole_file_gives_the_golden_events(void **state) {
    (void)state;
    for (file *f = files; f < files + files_n; f++) {
        if (f->bad) continue;
        tk_guard guard;
        tk_guard_make(&guard, f->len);
        setup s = {.how = WHOLE, .guard = &guard};
        events e;
        events_init(&e, 1);
        rdbkit_visitor v = events_visitor(&e);
        rdbkit_reader *r = open_reader(&s, &v);
        assert_non_null(r);
        e.reader = r;
        int st = feed_as(r, &s, f->data, f->len);
        if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
        if (st != RDBKIT_DONE) complain(f, "%s: %s", rdbkit_status_text(st), rdbkit_reader_error(r)->message);
        else if (e.fault) complain(f, "near %" PRIu64 ": %s", e.fault_off, e.fault);
        else {
            compare_golden(f, &e);
            f->readable = 1;
            outcome out = read_bytes(f->data, f->len, &s);
            f->end_off = out.end_off;
            f->hash = out.hash;
            s.keys_only = 1;
            f->keys_hash = read_bytes(f->data, f->len, &s).hash;
        }
        rdbkit_reader_free(r);
        events_free(&e);
        tk_guard_drop(&guard);
    }
    verdict();
}

static void byte_by_byte_gives_the_same_events(void **state) {
    (void)state;
    tk_guard guard;
    tk_guard_make(&guard, 1);
    EACH_GOOD(f) {
        setup s = {.how = BYTES, .guard = &guard};
        expect_same(f, &s, "byte by byte");
        s.piece_len = 1;
        expect_same(f, &s, "byte by byte, in pieces");
    }
    tk_guard_drop(&guard);
    verdict();
}

static void two_parts_cut_anywhere_give_the_same_events(void **state) {
    (void)state;
    EACH_GOOD(f) {
        tk_guard guard, guard2;
        tk_guard_make(&guard, f->len);
        tk_guard_make(&guard2, f->len);
        for (size_t cut = 0; cut <= f->len; cut = next_cut(f, cut)) {
            setup s = {.how = CUT, .cut = cut, .guard = &guard, .guard2 = &guard2};
            expect_same(f, &s, "cut in two");
        }
        tk_guard_drop(&guard);
        tk_guard_drop(&guard2);
    }
    verdict();
}

static void chunks_of_any_size_give_the_same_events(void **state) {
    (void)state;
    EACH_GOOD(f) {
        tk_guard guard;
        tk_guard_make(&guard, 4096);
        for (size_t seed = 0; seed < 8; seed++) {
            setup s = {.how = CHUNKS, .cut = seed, .guard = &guard, .piece_len = seed % 3 ? seed * 7 : 0};
            expect_same(f, &s, "in chunks");
        }
        tk_guard_drop(&guard);
    }
    verdict();
}

static void pieces_deep_and_no_checksum_give_the_same_events(void **state) {
    (void)state;
    EACH_GOOD(f) {
        setup pieces = {.how = WHOLE, .piece_len = 1};
        expect_same(f, &pieces, "piece_len 1");
        pieces.piece_len = 64;
        expect_same(f, &pieces, "piece_len 64");
        setup deep = {.how = WHOLE, .deep = 1};
        expect_same(f, &deep, "deep");
        setup ignore = {.how = WHOLE, .ignore_checksum = 1, .keys_only = 1};
        outcome out = read_bytes(f->data, f->len, &ignore);
        if (out.st != RDBKIT_DONE) complain(f, "ignore_checksum: %s", out.message);
    }
    verdict();
}

static void skipped_keys_have_the_same_names_and_offsets(void **state) {
    (void)state;
    EACH_GOOD(f) {
        setup s = {.how = WHOLE, .answer = RDBKIT_SKIP_KEY, .keys_only = 1};
        expect_same(f, &s, "all skipped");
        s.how = BYTES;
        expect_same(f, &s, "all skipped, byte by byte");
        s.how = CHUNKS;
        s.piece_len = 1;
        expect_same(f, &s, "all skipped, in chunks");
    }
    verdict();
}

static void raw_values_are_the_bytes_of_the_file(void **state) {
    (void)state;
    EACH_GOOD(f) {
        setup s = {.how = WHOLE, .answer = RDBKIT_TAKE_RAW, .keys_only = 1};
        expect_same(f, &s, "all raw");
        s.how = BYTES;
        expect_same(f, &s, "all raw, byte by byte");
        s.how = CHUNKS;
        s.piece_len = 1;
        expect_same(f, &s, "all raw, in chunks");
        s.deep = 1;
        expect_same(f, &s, "all raw, deep");
    }
    verdict();
}

static void every_readable_type_has_a_fixture(void **state) {
    events e;
    (void)state;
    events_init(&e, 0);
    EACH_GOOD(f) {
        events one;
        events_init(&one, 0);
        one.answer = RDBKIT_SKIP_KEY;
        rdbkit_visitor v = events_visitor(&one);
        rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
        assert_non_null(r);
        rdbkit_reader_feed(r, f->data, f->len);
        rdbkit_reader_free(r);
        for (size_t i = 0; i < one.types_n; i++) {
            size_t k = 0;
            while (k < e.types_n && e.types[k] != one.types[i]) k++;
            if (k == e.types_n && k < EVENTS_TYPES_MAX) e.types[e.types_n++] = one.types[i];
        }
    }
    const rdbkit_type *t;
    for (size_t i = 0; (t = rdbkit_type_at(i)) != NULL; i++) {
        size_t k = 0;
        while (k < e.types_n && e.types[k] != t) k++;
        if (k == e.types_n && t->layout)
            complain(NULL, "no good fixture has type %d, %s (RDB %d)", t->number, t->name, t->rdb_version);
        if (k < e.types_n && !t->layout)
            complain(NULL, "type %d, %s was read, and has no layout", t->number, t->name);
    }
    verdict();
}

/* ---- Cut short ---- */

static void cut_file_is_truncated_and_never_done(void **state) {
    (void)state;
    EACH_GOOD(f) {
        tk_guard guard;
        tk_guard_make(&guard, f->len);
        for (size_t cut = 0; cut < f->end_off; cut = next_cut(f, cut)) {
            setup s = {.how = WHOLE, .guard = &guard, .piece_len = cut & 1};
            outcome out = read_bytes(f->data, cut, &s);
            if (out.feed_st != RDBKIT_MORE)
                complain(f, "cut at %zu: feed says %d (%s)", cut, out.feed_st, out.message);
            else if (out.st != RDBKIT_ERR_TRUNCATED)
                complain(f, "cut at %zu: finish says %d (%s)", cut, out.st, out.message);
            else if (out.off > cut) complain(f, "cut at %zu: error at %" PRIu64, cut, out.off);
            else if (out.fault) complain(f, "cut at %zu: %s", cut, out.fault);
        }
        tk_guard_drop(&guard);
    }
    verdict();
}

/* ---- Inputs ---- */

typedef struct source {
    const unsigned char *data;
    size_t len, pos, step;
} source;

static ptrdiff_t source_read(void *ctx, void *buf, size_t size) {
    source *s = ctx;
    size_t n = s->len - s->pos;
    if (n > s->step) n = s->step;
    if (n > size) n = size;
    memcpy(buf, s->data + s->pos, n);
    s->pos += n;
    return (ptrdiff_t)n;
}

static outcome pull(rdbkit_input *in, const rdbkit_allocator *allocator) {
    outcome out = {0};
    events e;
    events_init(&e, 0);
    rdbkit_visitor v = events_visitor(&e);
    setup s = {.allocator = allocator};
    rdbkit_reader *r = open_reader(&s, &v);
    if (!r) {
        out.st = RDBKIT_ERR_NOMEM;
        return out;
    }
    e.reader = r;
    out.st = rdbkit_reader_pull(r, in);
    settle(&out, r, &e);
    rdbkit_reader_free(r);
    return out;
}

static void expect_pull(const file *f, rdbkit_input *in, size_t source_len, int gzip, const char *what) {
    assert_non_null(in);
    outcome out = pull(in, NULL);
    const void *rest;
    size_t rest_len, total = 0;
    int st;
    if (out.st != RDBKIT_DONE) complain(f, "%s: %s: %s", what, rdbkit_status_text(out.st), out.message);
    else if (out.hash != f->hash) complain(f, "%s: other events", what);
    else if (out.end_off != f->end_off) complain(f, "%s: ends at %" PRIu64, what, out.end_off);
    if (rdbkit_input_is_gzip(in) != gzip) complain(f, "%s: is_gzip says %d", what, !gzip);
    while ((st = rdbkit_input_rest(in, &rest, &rest_len)) == RDBKIT_OK && rest_len) {
        if (f->end_off + total + rest_len > f->len ||
            memcmp(rest, f->data + f->end_off + total, rest_len) != 0) {
            complain(f, "%s: the rest is not what follows the RDB", what);
            break;
        }
        total += rest_len;
    }
    if (st != RDBKIT_DONE) complain(f, "%s: the rest ends with %d", what, st);
    if (total != f->len - f->end_off) complain(f, "%s: a rest of %zu bytes", what, total);
    if (rdbkit_input_offset(in) != source_len)
        complain(f, "%s: input offset %" PRIu64 " of %zu", what, rdbkit_input_offset(in), source_len);
    rdbkit_input_free(in);
}

static void expect_pull_all(const file *f, const unsigned char *data, size_t len, int gzip,
                            const char *what) {
    char text[100];
    tk_guard guard;
    tk_guard_make(&guard, len);
    snprintf(text, sizeof text, "%s, memory", what);
    expect_pull(f, rdbkit_input_new_memory(NULL, tk_guard_put(&guard, data, len), len), len, gzip, text);
    static const size_t steps[] = {1, 2, 1000, 1u << 30};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        source src = {data, len, 0, steps[i]};
        snprintf(text, sizeof text, "%s, function giving %zu bytes", what, steps[i]);
        expect_pull(f, rdbkit_input_new(NULL, source_read, &src), len, gzip, text);
    }
    FILE *tmp = tmpfile();
    assert_non_null(tmp);
    assert_int_equal(fwrite(data, 1, len, tmp), len);
    assert_int_equal(fflush(tmp), 0);
    assert_int_equal(lseek(fileno(tmp), 0, SEEK_SET), 0);
    snprintf(text, sizeof text, "%s, fd", what);
    expect_pull(f, rdbkit_input_new_fd(NULL, fileno(tmp)), len, gzip, text);
    fclose(tmp);
    tk_guard_drop(&guard);
}

static void every_kind_of_input_gives_the_same_events(void **state) {
    (void)state;
    EACH_GOOD(f) expect_pull_all(f, f->data, f->len, 0, "plain");
    verdict();
}

static void gzip_of_one_or_more_members_gives_the_same_events(void **state) {
    (void)state;
    EACH_GOOD(f) {
        tk_bytes one = {0}, more = {0};
        tk_gzip(&one, f->data, f->len);
        expect_pull_all(f, one.data, one.len, 1, "gzip");
        tk_gzip(&more, f->data, f->len / 2);
        tk_gzip(&more, f->data, 0);
        tk_gzip(&more, f->data + f->len / 2, f->len - f->len / 2);
        expect_pull_all(f, more.data, more.len, 1, "gzip in members");
        tk_drop(&one);
        tk_drop(&more);
    }
    verdict();
}

/* Past the RDB's own end the cut shows only to one who asks for the rest: the gzip trailer is 8 bytes. */
static void cut_gzip_is_never_done(void **state) {
    (void)state;
    EACH_GOOD(f) {
        if (f->len > SIZE_MAX_GZIP_CUTS) continue;
        tk_bytes gz = {0};
        tk_gzip(&gz, f->data, f->len);
        for (size_t cut = 0; cut < gz.len; cut++) {
            rdbkit_input *in = rdbkit_input_new_memory(NULL, gz.data, cut);
            assert_non_null(in);
            outcome out = pull(in, NULL);
            int st = out.st;
            if (st == RDBKIT_DONE) {
                const void *rest;
                size_t rest_len;
                while ((st = rdbkit_input_rest(in, &rest, &rest_len)) == RDBKIT_OK && rest_len) continue;
            }
            if (st >= 0) complain(f, "gzip cut at %zu of %zu: %d", cut, gz.len, st);
            rdbkit_input_free(in);
        }
        tk_drop(&gz);
    }
    verdict();
}

/* ---- Sinks ---- */

static int hash_write(void *ctx, const void *data, size_t len) {
    uint64_t *h = ctx;
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++) *h = (*h ^ p[i]) * UINT64_C(0x100000001b3);
    return 0;
}

static int feed_and_finish(rdbkit_reader *r, const setup *s, const unsigned char *data, size_t len) {
    int st = len ? feed_as(r, s, data, len) : RDBKIT_MORE;
    return st == RDBKIT_MORE ? rdbkit_reader_finish(r) : st;
}

static int to_resp(const unsigned char *data, size_t len, const setup *s, const rdbkit_target *target,
                   uint64_t *hash) {
    rdbkit_resp_options o;
    rdbkit_resp_options_init(&o);
    o.allocator = s->allocator;
    o.allow_loss = 1;
    if (target) o.target = target;
    rdbkit_resp *resp = rdbkit_resp_new(&o, hash_write, hash);
    if (!resp) return RDBKIT_ERR_NOMEM;
    rdbkit_reader *r = open_reader(s, rdbkit_resp_visitor(resp));
    int st = r ? feed_and_finish(r, s, data, len) : RDBKIT_ERR_NOMEM;
    int finish = rdbkit_resp_finish(resp);
    rdbkit_reader_free(r);
    rdbkit_resp_free(resp);
    return st < 0 ? st : finish < 0 ? finish : st;
}

static void commands_are_the_same_however_the_file_is_cut(void **state) {
    const rdbkit_target *target;
    (void)state;
    EACH_GOOD(f) for (size_t i = 0; (target = rdbkit_target_at(i)) != NULL; i++) {
        uint64_t whole = 0, bytes = 0, chunks = 0;
        setup s = {.how = WHOLE};
        int st = to_resp(f->data, f->len, &s, target, &whole);
        if (st != RDBKIT_DONE) complain(f, "to %s: %s", target->name, rdbkit_status_text(st));
        s.how = BYTES;
        s.piece_len = 3;
        to_resp(f->data, f->len, &s, target, &bytes);
        s.how = CHUNKS;
        s.piece_len = 65536;
        to_resp(f->data, f->len, &s, target, &chunks);
        if (whole != bytes || whole != chunks) complain(f, "to %s: other commands when cut", target->name);
    }
    verdict();
}

static int spill_write(void *ctx, const void *data, size_t len) {
    tk_put(ctx, data, len);
    return 0;
}

static int spill_read(void *ctx, uint64_t offset, void *data, size_t len) {
    const tk_bytes *b = ctx;
    if (offset > b->len || len > b->len - offset) return -EIO;
    memcpy(data, b->data + offset, len);
    return 0;
}

/* Returns the duplicates found, or a negative code. */
static int64_t check_bytes(const unsigned char *data, size_t len, const setup *s, int with_spill,
                           rdbkit_duplicate *first) {
    tk_bytes room = {0};
    rdbkit_spill spill = {spill_write, spill_read, &room, NULL};
    rdbkit_check *c = rdbkit_check_new(s->allocator, with_spill ? &spill : NULL);
    if (!c) return RDBKIT_ERR_NOMEM;
    rdbkit_reader *r = open_reader(s, rdbkit_check_visitor(c));
    int st = r ? feed_and_finish(r, s, data, len) : RDBKIT_ERR_NOMEM;
    int64_t found = st < 0 ? st : rdbkit_check_finish(c);
    if (found > 0 && first) *first = *rdbkit_check_duplicate(c, 0);
    rdbkit_reader_free(r);
    rdbkit_check_free(c);
    tk_drop(&room);
    return found;
}

static void check_finds_no_duplicate_in_good_files(void **state) {
    (void)state;
    EACH_GOOD(f) for (int with_spill = 0; with_spill < 2; with_spill++) {
        setup s = {.how = WHOLE, .deep = 1};
        int64_t found = check_bytes(f->data, f->len, &s, with_spill, NULL);
        if (found != 0) complain(f, "check says %" PRId64 "%s", found, with_spill ? ", with a spill" : "");
    }
    verdict();
}

/* ---- Memory that runs out ---- */

static int nomem_reader(const file *f, const rdbkit_allocator *a) {
    setup s = {.how = CHUNKS, .cut = 5, .deep = 1, .allocator = a};
    return read_bytes(f->data, f->len, &s).st;
}

static int nomem_input(const file *f, const rdbkit_allocator *a) {
    tk_bytes gz = {0};
    tk_gzip(&gz, f->data, f->len);
    rdbkit_input *in = rdbkit_input_new_memory(a, gz.data, gz.len);
    int st = in ? pull(in, a).st : RDBKIT_ERR_NOMEM;
    rdbkit_input_free(in);
    tk_drop(&gz);
    return st;
}

static int nomem_resp(const file *f, const rdbkit_allocator *a) {
    uint64_t hash = 0;
    setup s = {.how = WHOLE, .allocator = a};
    return to_resp(f->data, f->len, &s, rdbkit_target_find("redis-4.0"), &hash);
}

static int nomem_check(const file *f, const rdbkit_allocator *a) {
    setup s = {.how = WHOLE, .allocator = a};
    int64_t found = check_bytes(f->data, f->len, &s, 0, NULL);
    return found < 0 ? (int)found : RDBKIT_DONE;
}

/* Lets the first, the second, ... allocation fail until none is reached any more. */
static void expect_nomem(const file *f, int (*run)(const file *, const rdbkit_allocator *),
                         const char *what) {
    for (int on = 0; on < 2; on++) {
        for (uint64_t n = 1;; n++) {
            tk_memory m = {.fail_at = n, .fail_on = on};
            rdbkit_allocator a = tk_allocator(&m);
            int st = run(f, &a);
            if (m.misuse) complain(f, "%s, allocation %" PRIu64 " fails: %s", what, n, m.misuse);
            if (m.live) complain(f, "%s, allocation %" PRIu64 " fails: %zu bytes not freed", what, n, m.live);
            if (m.calls < n && st != RDBKIT_DONE) complain(f, "%s: %s", what, rdbkit_status_text(st));
            if (m.calls >= n && st != RDBKIT_DONE && st != RDBKIT_ERR_NOMEM)
                complain(f, "%s, allocation %" PRIu64 " fails: %s", what, n, rdbkit_status_text(st));
            if (m.calls < n || n > 100000 || m.misuse) break;
        }
    }
}

static void failed_allocation_is_out_of_memory_and_leaks_nothing(void **state) {
    (void)state;
    EACH_GOOD(f) {
        if (f->len > SIZE_MAX_NOMEM) continue;
        expect_nomem(f, nomem_reader, "reader");
        expect_nomem(f, nomem_input, "gzip input");
        expect_nomem(f, nomem_resp, "resp");
        expect_nomem(f, nomem_check, "check");
    }
    verdict();
}

/* ---- Damage ---- */

static int is_input_error(int code) {
    return code == RDBKIT_ERR_DAMAGED || code == RDBKIT_ERR_TRUNCATED || code == RDBKIT_ERR_CHECKSUM ||
           code == RDBKIT_ERR_UNSUPPORTED || code == RDBKIT_ERR_LIMIT;
}

static void expect_error_at(const file *f, const outcome *out, const char *what) {
    if (!is_input_error(out->st)) complain(f, "%s: %d (%s)", what, out->st, rdbkit_status_text(out->st));
    else if (f->expect_off >= 0 && out->off != (uint64_t)f->expect_off)
        complain(f, "%s: error at %" PRIu64 ", wanted %" PRId64 ": %s", what, out->off, f->expect_off,
                 out->message);
}

/* Damage of exit 1: a reader passes unless it is deep; then it refuses, or bytes are left over, or a check finds. */
static void expect_only_check_sees(const file *f) {
    setup s = {.how = WHOLE};
    outcome out = read_bytes(f->data, f->len, &s);
    if (out.st != RDBKIT_DONE) complain(f, "refused though not deep: %s", out.message);
    s.deep = 1;
    out = read_bytes(f->data, f->len, &s);
    if (out.st != RDBKIT_DONE) {
        expect_error_at(f, &out, "deep");
        return;
    }
    if (out.end_off < f->len) {
        if (f->expect_off >= 0 && out.end_off != (uint64_t)f->expect_off)
            complain(f, "trailing bytes at %" PRIu64 ", wanted %" PRId64, out.end_off, f->expect_off);
        return;
    }
    rdbkit_duplicate first = {0};
    int64_t found = check_bytes(f->data, f->len, &s, 0, &first);
    uint64_t off = (uint64_t)f->expect_off;
    if (found <= 0) complain(f, "deep and check find nothing (%" PRId64 ")", found);
    /* a field that occurs twice is told by the record that holds it */
    else if (f->expect_off >= 0 && (first.field ? off < first.first_off : off != first.second_off))
        complain(f, "duplicate of %" PRIu64 " at %" PRIu64 ", wanted %" PRId64, first.first_off,
                 first.second_off, f->expect_off);
}

static void damaged_file_is_refused_at_the_expected_offset(void **state) {
    (void)state;
    for (file *f = files; f < files + files_n; f++) {
        if (!f->bad) continue;
        if (f->expect_exit == 1) expect_only_check_sees(f);
        else if (f->expect_exit == 4) {
            setup s = {.how = WHOLE, .deep = 1};
            outcome out = read_bytes(f->data, f->len, &s);
            expect_error_at(f, &out, "deep");
            s.deep = 0;
            out = read_bytes(f->data, f->len, &s);
            expect_error_at(f, &out, "not deep");
            s.piece_len = 1;
            out = read_bytes(f->data, f->len, &s);
            expect_error_at(f, &out, "in pieces");
        } else complain(f, "its .expect is missing, or not 1 or 4");
    }
    verdict();
}

static void expect_same_failure(const file *f, const unsigned char *data, size_t len, setup s,
                                const outcome *want, const char *what) {
    outcome out = read_bytes(data, len, &s);
    if (out.st != want->st || out.off != want->off)
        complain(f, "%s: %d at %" PRIu64 " whole (%s), %d at %" PRIu64 " cut (%s)", what, want->st, want->off,
                 want->message, out.st, out.off, out.message);
    else if (out.hash != want->hash) complain(f, "%s: other events when cut (%s)", what, want->message);
}

static void damaged_file_fails_the_same_however_it_is_cut(void **state) {
    (void)state;
    for (file *f = files; f < files + files_n; f++) {
        if (!f->bad) continue;
        tk_guard guard;
        tk_guard_make(&guard, f->len);
        setup s = {.how = WHOLE, .deep = 1, .guard = &guard};
        outcome want = read_bytes(f->data, f->len, &s);
        if (want.fault) complain(f, "%s", want.fault);
        s.how = BYTES;
        expect_same_failure(f, f->data, f->len, s, &want, "byte by byte");
        s.how = CUT;
        for (s.cut = 0; s.cut <= f->len; s.cut = next_cut(f, s.cut))
            expect_same_failure(f, f->data, f->len, s, &want, "in two parts");
        s.how = WHOLE;
        for (s.answer = RDBKIT_SKIP_KEY; s.answer <= RDBKIT_TAKE_RAW; s.answer++) {
            outcome out = read_bytes(f->data, f->len, &s);
            if (out.fault) complain(f, "answer %d: %s", s.answer, out.fault);
            if (out.st < 0 && out.off > f->len)
                complain(f, "answer %d: error at %" PRIu64 " of %zu", s.answer, out.off, f->len);
        }
        tk_guard_drop(&guard);
    }
    verdict();
}

static void mutate(unsigned char *data, size_t len, uint64_t *chance) {
    static const uint64_t NASTY[] = {0,
                                     1,
                                     127,
                                     128,
                                     253,
                                     254,
                                     255,
                                     0x81ffffffffffffffu,
                                     UINT64_MAX,
                                     0x8000000000000000u,
                                     0x7fffffffffffffffu,
                                     0xffffffff00000080u,
                                     0x0000010000000081u,
                                     0xc3c3c3c3c3c3c3c3u};
    for (uint64_t times = 1 + tk_random(chance) % 3; times; times--) {
        uint64_t x = tk_random(chance);
        size_t at = (size_t)(tk_random(chance) % len);
        if (x % 3 == 0) data[at] = (unsigned char)(data[at] ^ 1u << (x >> 8) % 8);
        else if (x % 3 == 1) data[at] = (unsigned char)(x >> 8);
        else {
            uint64_t bytes = NASTY[(x >> 8) % (sizeof NASTY / sizeof *NASTY)];
            memcpy(data + at, &bytes, len - at < 8 ? len - at : 8);
        }
    }
}

static void expect_sane(const file *f, const unsigned char *data, size_t i, const tk_guard *guard) {
    tk_memory m = {.cap = MUTATION_MEMORY};
    rdbkit_allocator a = tk_allocator(&m);
    uint64_t hash = 0;
    setup s = {.how = WHOLE,
               .deep = i % 2 == 0,
               .ignore_checksum = i % 8 != 0,
               .guard = guard,
               .allocator = &a};
    outcome out = read_bytes(data, f->len, &s);
    if (out.st != RDBKIT_DONE && !is_input_error(out.st))
        complain(f, "mutation %zu: status %d: %s", i, out.st, out.message);
    if (out.st < 0 && out.off > f->len)
        complain(f, "mutation %zu: error at %" PRIu64 " of %zu", i, out.off, f->len);
    if (out.st < 0 && out.code != out.st)
        complain(f, "mutation %zu: status %d, error %d", i, out.st, out.code);
    if (out.st < 0 && !out.message[0]) complain(f, "mutation %zu: no message", i);
    if (out.fault) complain(f, "mutation %zu: %s", i, out.fault);
    s.how = CHUNKS;
    s.cut = i;
    expect_same_failure(f, data, f->len, s, &out, "mutation");
    s.answer = i % 2 ? RDBKIT_SKIP_KEY : RDBKIT_TAKE_RAW;
    s.piece_len = i % 16;
    out = read_bytes(data, f->len, &s);
    if (out.fault) complain(f, "mutation %zu, answer %d: %s", i, s.answer, out.fault);
    if (out.st < 0 && out.off > f->len)
        complain(f, "mutation %zu, answer %d: error at %" PRIu64, i, s.answer, out.off);
    s.answer = RDBKIT_OK;
    if (i % 4 == 0) to_resp(data, f->len, &s, rdbkit_target_at(i / 4 % 12), &hash);
    if (i % 4 == 1) check_bytes(data, f->len, &s, i % 8 == 1, NULL);
    if (m.denied) complain(f, "mutation %zu: asked for more than %u bytes", i, MUTATION_MEMORY);
    if (m.misuse) complain(f, "mutation %zu: %s", i, m.misuse);
    if (m.live) complain(f, "mutation %zu: %zu bytes not freed", i, m.live);
}

static void random_damage_gives_an_error_or_another_file_and_no_more(void **state) {
    (void)state;
    for (file *f = files; f < files + files_n; f++) {
        if (!f->len) continue;
        uint64_t chance = 0;
        for (const char *p = strrchr(f->path, '/'); *p; p++)
            chance = (chance ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
        unsigned char *data = malloc(f->len);
        tk_guard guard;
        assert_non_null(data);
        tk_guard_make(&guard, f->len);
        size_t times = f->len < 100000 ? MUTATIONS : 20;
        for (size_t i = 0; i < times; i++) {
            memcpy(data, f->data, f->len);
            mutate(data, f->len, &chance);
            expect_sane(f, data, i, &guard);
        }
        tk_guard_drop(&guard);
        free(data);
    }
    verdict();
}

int main(int argc, char **argv) {
    if (argc > 1) root = argv[1];
    walk(root);
    if (files_n) qsort(files, files_n, sizeof *files, by_path);
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_are_fixtures),
        cmocka_unit_test(whole_file_gives_the_golden_events),
        cmocka_unit_test(byte_by_byte_gives_the_same_events),
        cmocka_unit_test(two_parts_cut_anywhere_give_the_same_events),
        cmocka_unit_test(chunks_of_any_size_give_the_same_events),
        cmocka_unit_test(pieces_deep_and_no_checksum_give_the_same_events),
        cmocka_unit_test(skipped_keys_have_the_same_names_and_offsets),
        cmocka_unit_test(raw_values_are_the_bytes_of_the_file),
        cmocka_unit_test(every_readable_type_has_a_fixture),
        cmocka_unit_test(cut_file_is_truncated_and_never_done),
        cmocka_unit_test(every_kind_of_input_gives_the_same_events),
        cmocka_unit_test(gzip_of_one_or_more_members_gives_the_same_events),
        cmocka_unit_test(cut_gzip_is_never_done),
        cmocka_unit_test(commands_are_the_same_however_the_file_is_cut),
        cmocka_unit_test(check_finds_no_duplicate_in_good_files),
        cmocka_unit_test(failed_allocation_is_out_of_memory_and_leaks_nothing),
        cmocka_unit_test(damaged_file_is_refused_at_the_expected_offset),
        cmocka_unit_test(damaged_file_fails_the_same_however_it_is_cut),
        cmocka_unit_test(random_damage_gives_an_error_or_another_file_and_no_more),
    };
    int failed = cmocka_run_group_tests_name("fixtures", tests, NULL, NULL);
    for (size_t i = 0; i < files_n; i++) {
        free(files[i].path);
        free(files[i].data);
    }
    free(files);
    return failed;
}
