/* test_threads.c - handles of one thread share nothing with those of another: the same inputs in eight threads at once.
 *
 * SPDX-License-Identifier: MIT
 *
 * Run it under -fsanitize=thread too: ./build.sh tsan
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "testkit.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 3 };

static const char *const dumps[] = {"fixtures/redis80/everything.rdb", "fixtures/valkey9/everything.rdb",
                                    "fixtures/redis62/everything.rdb", "fixtures/redis24/everything.rdb"};
static const char *const logs[] = {"fixtures/aof/redis-6.2/log.aof.gz",
                                   "fixtures/aof/redis-4.0/preamble.aof.gz",
                                   "fixtures/aof/redis-6.0/log.aof.gz"};

enum { DUMPS = sizeof dumps / sizeof dumps[0], LOGS = sizeof logs / sizeof logs[0] };
enum { WRITE, WRITE_ANEW, COMMANDS, JSON, FILTERED, CHECKED, KINDS };
enum { JOBS = DUMPS * KINDS + LOGS };

/* Inputs that all threads read, and what one thread alone made of them. */
static tk_bytes input[DUMPS + LOGS], alone[JOBS];

static int keep(void *ctx, const void *data, size_t len) {
    tk_put(ctx, data, len);
    return 0;
}

static void note(tk_bytes *out, int64_t status) { tk_put(out, &status, sizeof status); }

static int read_dump(const tk_bytes *in, rdbkit_filter *f, const rdbkit_visitor *v) {
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    if (f) ro.key_filter = rdbkit_filter_apply, ro.key_filter_ctx = f;
    rdbkit_reader *r = rdbkit_reader_new(&ro, v);
    int st = rdbkit_reader_feed(r, in->data, in->len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    rdbkit_reader_free(r);
    return st;
}

static void dump_job(const tk_bytes *in, int kind, tk_bytes *out) {
    rdbkit_filter *f = NULL;
    if (kind == FILTERED) {
        f = rdbkit_filter_new(NULL);
        note(out, rdbkit_filter_key_regex(f, "^[a-m]", 0));
        note(out, rdbkit_filter_rename(f, "l", 1, "renamed:", 8));
    }
    if (kind == COMMANDS) {
        rdbkit_resp_options o;
        rdbkit_resp_options_init(&o);
        o.allow_loss = 1;
        rdbkit_resp *s = rdbkit_resp_new(&o, keep, out);
        note(out, read_dump(in, NULL, rdbkit_resp_visitor(s)));
        note(out, rdbkit_resp_finish(s));
        rdbkit_resp_free(s);
    } else if (kind == JSON) {
        rdbkit_json *s = rdbkit_json_new(NULL, keep, out);
        note(out, read_dump(in, NULL, rdbkit_json_visitor(s)));
        note(out, rdbkit_json_finish(s));
        rdbkit_json_free(s);
    } else if (kind == CHECKED) {
        rdbkit_check *s = rdbkit_check_new(NULL, NULL);
        note(out, read_dump(in, NULL, rdbkit_check_visitor(s)));
        note(out, rdbkit_check_finish(s));
        rdbkit_check_free(s);
    } else {
        rdbkit_writer_options o;
        rdbkit_writer_options_init(&o);
        o.allow_loss = 1, o.reencode = kind == WRITE_ANEW;
        rdbkit_writer *s = rdbkit_writer_new(&o, keep, out);
        note(out, read_dump(in, f, rdbkit_writer_visitor(s)));
        rdbkit_writer_free(s);
    }
    rdbkit_filter_free(f);
}

static void log_job(const tk_bytes *in, tk_bytes *out) {
    rdbkit_keyspace *ks = rdbkit_keyspace_new(NULL);
    rdbkit_aof *a = rdbkit_aof_new(NULL, rdbkit_keyspace_aof_visitor(ks));
    rdbkit_input *source = rdbkit_input_new_memory(NULL, in->data, in->len); /* gzip */
    rdbkit_json *s = rdbkit_json_new(NULL, keep, out);
    note(out, rdbkit_aof_pull(a, source));
    note(out, rdbkit_keyspace_emit(ks, NULL, rdbkit_json_visitor(s)));
    note(out, rdbkit_json_finish(s));
    rdbkit_json_free(s), rdbkit_input_free(source), rdbkit_aof_free(a), rdbkit_keyspace_free(ks);
}

static void job(size_t i, tk_bytes *out) {
    if (i < DUMPS * KINDS) dump_job(&input[i / KINDS], (int)(i % KINDS), out);
    else log_job(&input[DUMPS + i - DUMPS * KINDS], out);
}

typedef struct worker {
    pthread_t thread;
    size_t first;
    size_t wrong, bytes;
} worker;

/* All jobs, each thread beginning with another one, so that like and unlike ones run side by side. */
static void *work(void *arg) {
    worker *w = arg;
    for (size_t n = 0; n < (size_t)JOBS * ROUNDS; n++) {
        const size_t i = (w->first + n) % JOBS;
        tk_bytes out = {0};
        job(i, &out);
        w->wrong += out.len != alone[i].len || memcmp(out.data, alone[i].data, out.len) != 0;
        w->bytes += out.len;
        tk_drop(&out);
    }
    return NULL;
}

static void load(tk_bytes *b, const char *path) {
    unsigned char buf[16384];
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;) tk_put(b, buf, n);
    fclose(f);
}

static void eight_threads_make_what_one_makes(void **state) {
    (void)state;
    worker w[THREADS];
    size_t each = 0;
    memset(w, 0, sizeof w);
    for (size_t i = 0; i < DUMPS; i++) load(&input[i], dumps[i]);
    for (size_t i = 0; i < LOGS; i++) load(&input[DUMPS + i], logs[i]);
    for (size_t i = 0; i < JOBS; i++) {
        job(i, &alone[i]);
        each += alone[i].len;
    }
    assert_true(each > 100000); /* and not a few statuses of what failed at once */
    for (size_t i = 0; i < THREADS; i++) {
        w[i].first = i * 3;
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(w[i].thread, NULL), 0);
        assert_int_equal(w[i].wrong, 0);
        assert_int_equal(w[i].bytes, each * ROUNDS);
    }
    for (size_t i = 0; i < DUMPS + LOGS; i++) tk_drop(&input[i]);
    for (size_t i = 0; i < JOBS; i++) tk_drop(&alone[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(eight_threads_make_what_one_makes)};
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
