/* test_faults.c - whole pipelines, from an input to an output, in which one call fails: each allocation in turn, each call
 * of a read, write or spill function. The status is that of the failure, what went out is the beginning of what would
 * have, nothing leaks, and a sink that failed does not come to an end after all.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "testkit.h"

#define TEST(name) static void name(void **state TK_USED)
#define N_OF(a) (sizeof(a) / sizeof *(a))

/* ---- What fails ---- */

enum { READ, WRITE, SPILL_WRITE, SPILL_READ, SPILL_RESET, CALLS, MEMORY = CALLS, SINK_MEMORY, KINDS };

static const char *const kind_names[KINDS] = {"read",        "write",      "spill write",      "spill read",
                                              "spill reset", "allocation", "sink's allocation"};
static const int errnos[CALLS] = {EIO, ENOSPC, EDQUOT, ENXIO, EROFS};

typedef struct plan {
    tk_memory memory, sink_memory;
    uint64_t calls[CALLS];
    int kind; /* what fails, KINDS: nothing */
    uint64_t at;
    const tk_bytes *in;
    size_t pos, piece; /* bytes in one read */
    tk_bytes out, spill;
    int status;
} plan;

static void plan_init(plan *p, int kind, uint64_t at) {
    memset(p, 0, sizeof *p);
    p->kind = kind, p->at = at, p->piece = 3000;
    if (kind == MEMORY) p->memory.fail_at = p->sink_memory.fail_at = at;
    if (kind == SINK_MEMORY) p->sink_memory.fail_at = at;
}

static void plan_drop(plan *p) {
    tk_drop(&p->out);
    tk_drop(&p->spill);
}

static int hit(plan *p, int kind) { return ++p->calls[kind] == p->at && p->kind == kind ? -errnos[kind] : 0; }

static uint64_t reached(const plan *p) {
    return p->kind == MEMORY        ? p->memory.calls
           : p->kind == SINK_MEMORY ? p->sink_memory.calls
                                    : p->calls[p->kind];
}

static ptrdiff_t plan_read(void *ctx, void *buf, size_t size) {
    plan *p = ctx;
    const int st = hit(p, READ);
    if (st) return st;
    if (size > p->piece) size = p->piece;
    if (size > p->in->len - p->pos) size = p->in->len - p->pos;
    memcpy(buf, p->in->data + p->pos, size);
    p->pos += size;
    return (ptrdiff_t)size;
}

static int plan_write(void *ctx, const void *data, size_t len) {
    plan *p = ctx;
    const int st = hit(p, WRITE);
    if (!st) tk_put(&p->out, data, len);
    return st;
}

static int plan_spill_write(void *ctx, const void *data, size_t len) {
    plan *p = ctx;
    const int st = hit(p, SPILL_WRITE);
    if (!st) tk_put(&p->spill, data, len);
    return st;
}

static int plan_spill_read(void *ctx, uint64_t off, void *data, size_t len) {
    plan *p = ctx;
    const int st = hit(p, SPILL_READ);
    if (st) return st;
    assert_true(off + len <= p->spill.len);
    memcpy(data, p->spill.data + off, len);
    return 0;
}

static int plan_spill_reset(void *ctx) {
    plan *p = ctx;
    p->spill.len = 0;
    return hit(p, SPILL_RESET);
}

/* ---- Pipelines ---- */

enum { WRITER, RESP, JSON, CHECK };
enum { LOG = 1, RESTORE = 2, SALVAGE = 4, FILTER = 8 }; /* LOG: an append-only file, replayed */

typedef struct pipeline {
    const char *name;
    int sink, how;
    const tk_bytes *in;
} pipeline;

typedef struct sink {
    rdbkit_writer *writer;
    rdbkit_resp *resp;
    rdbkit_json *json;
    const rdbkit_visitor *visitor;
} sink;

static sink sink_new(const pipeline *l, plan *p, const rdbkit_allocator *a) {
    const rdbkit_spill spill = {plan_spill_write, plan_spill_read, p, plan_spill_reset};
    sink s = {NULL, NULL, NULL, NULL};
    if (l->sink == WRITER) {
        rdbkit_writer_options o;
        rdbkit_writer_options_init(&o);
        o.allocator = a, o.spill = &spill, o.reencode = o.allow_loss = 1;
        s.writer = rdbkit_writer_new(&o, plan_write, p);
        if (s.writer) s.visitor = rdbkit_writer_visitor(s.writer);
    } else if (l->sink == RESP) {
        rdbkit_resp_options o;
        rdbkit_resp_options_init(&o);
        o.allocator = a, o.spill = &spill, o.allow_loss = 1, o.restore = (l->how & RESTORE) != 0;
        s.resp = rdbkit_resp_new(&o, plan_write, p);
        if (s.resp) s.visitor = rdbkit_resp_visitor(s.resp);
    } else {
        rdbkit_json_options o;
        rdbkit_json_options_init(&o);
        o.allocator = a;
        s.json = rdbkit_json_new(&o, plan_write, p);
        if (s.json) s.visitor = rdbkit_json_visitor(s.json);
    }
    return s;
}

/* The status of all; a sink that failed has to say so again when it is told that all events came. */
static int sink_end(const pipeline *l, const plan *p, const sink *s, int status) {
    const int its_own =
        p->kind == WRITE || p->kind == SPILL_WRITE || p->kind == SPILL_READ || p->kind == SPILL_RESET;
    if (status < 0 && s->writer && (its_own || p->kind == SINK_MEMORY) &&
        s->visitor->end(s->visitor->user, 1) >= 0)
        fail_msg("%s, %s %d fails: the file ended all the same", l->name, kind_names[p->kind], (int)p->at);
    const int st = s->resp ? rdbkit_resp_finish(s->resp) : s->json ? rdbkit_json_finish(s->json) : 0;
    const int sys_errno = s->writer ? rdbkit_writer_errno(s->writer)
                          : s->resp ? rdbkit_resp_errno(s->resp)
                                    : rdbkit_json_errno(s->json);
    assert_int_equal(sys_errno, p->kind == WRITE && p->calls[WRITE] >= p->at ? ENOSPC : 0);
    return status < 0 || st == 0 ? status : st;
}

static int on_lost(void *ctx, const rdbkit_lost *lost) {
    (void)ctx;
    fail_msg("%s", lost->reason); /* the input is sound: a failure is none of its damages */
    return RDBKIT_OK;
}

static int filter_setup(rdbkit_filter *f) {
    int st = rdbkit_filter_rename(f, "", 0, "a longer name than before:", 26);
    if (!st) st = rdbkit_filter_key(f, "*", 1, 0);
    if (!st) st = rdbkit_filter_key(f, "no such key", 11, 1);
    return st ? st : rdbkit_filter_map_db(f, 0, 3);
}

static int read_rdb(const pipeline *l, plan *p, const rdbkit_allocator *a, const rdbkit_visitor *v) {
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    o.allocator = a;
    rdbkit_filter *f = l->how & FILTER ? rdbkit_filter_new(a) : NULL;
    rdbkit_salvage *s = l->how & SALVAGE ? rdbkit_salvage_new(a, v, on_lost, NULL) : NULL;
    if (f) o.key_filter = rdbkit_filter_apply, o.key_filter_ctx = f;
    if (s) v = rdbkit_salvage_visitor(s);
    int st = (!f && (l->how & FILTER)) || (!s && (l->how & SALVAGE)) ? RDBKIT_ERR_NOMEM : 0;
    if (f && !st) st = filter_setup(f);
    rdbkit_input *in = rdbkit_input_new(a, plan_read, p);
    rdbkit_reader *r = rdbkit_reader_new(&o, v);
    if (!st) st = in && r ? rdbkit_reader_pull(r, in) : RDBKIT_ERR_NOMEM;
    if (r && st < 0 && p->kind == READ) assert_int_equal(rdbkit_reader_error(r)->sys_errno, EIO);
    rdbkit_reader_free(r);
    rdbkit_input_free(in);
    rdbkit_salvage_free(s);
    rdbkit_filter_free(f);
    return st;
}

static int read_log(plan *p, const rdbkit_allocator *a, const rdbkit_visitor *v) {
    rdbkit_keyspace_options ko;
    rdbkit_aof_options o;
    rdbkit_keyspace_options_init(&ko);
    rdbkit_aof_options_init(&o);
    ko.allocator = o.allocator = a;
    rdbkit_keyspace *ks = rdbkit_keyspace_new(&ko);
    rdbkit_aof *aof = ks ? rdbkit_aof_new(&o, rdbkit_keyspace_aof_visitor(ks)) : NULL;
    rdbkit_input *in = rdbkit_input_new(a, plan_read, p);
    int st = aof && in ? rdbkit_aof_pull(aof, in) : RDBKIT_ERR_NOMEM;
    if (aof && st < 0 && p->kind == READ) assert_int_equal(rdbkit_aof_error(aof)->sys_errno, EIO);
    if (st == RDBKIT_DONE) st = rdbkit_keyspace_emit(ks, NULL, v);
    rdbkit_input_free(in);
    rdbkit_aof_free(aof);
    rdbkit_keyspace_free(ks);
    return st;
}

/* Keys so far apart that each leaves a chunk of its own; every tenth stands twice. */
static int check_run(plan *p, const rdbkit_allocator *a) {
    const rdbkit_spill spill = {plan_spill_write, plan_spill_read, p, plan_spill_reset};
    rdbkit_check *c = rdbkit_check_new(a, &spill);
    const rdbkit_visitor *v = c ? rdbkit_check_visitor(c) : NULL;
    int st = c ? 0 : RDBKIT_ERR_NOMEM;
    for (unsigned i = 0; i < 600 && !st; i++) {
        char name[32];
        rdbkit_key key = {.type = rdbkit_type_at(0), .offset = (uint64_t)(i + 1) * UINT64_C(5000000000)};
        key.name = (rdbkit_str){name, (size_t)snprintf(name, sizeof name, "%u", i % 10 ? i : 0)};
        st = v->key(v->user, &key);
    }
    if (!st) {
        const int64_t found = rdbkit_check_finish(c);
        st = found < 0 ? (int)found : RDBKIT_DONE;
        if (found >= 0) assert_int_equal(found, 59);
    }
    rdbkit_check_free(c);
    return st;
}

static void run(const pipeline *l, plan *p) {
    const rdbkit_allocator all = tk_allocator(&p->memory), own = tk_allocator(&p->sink_memory);
    const rdbkit_allocator *of_sink = p->kind == SINK_MEMORY ? &own : &all;
    p->in = l->in;
    if (l->sink == CHECK) {
        p->status = check_run(p, of_sink);
    } else {
        const sink s = sink_new(l, p, of_sink);
        if (!s.visitor) p->status = RDBKIT_ERR_NOMEM;
        else
            p->status =
                sink_end(l, p, &s,
                         l->how & LOG ? read_log(p, &all, s.visitor) : read_rdb(l, p, &all, s.visitor));
        rdbkit_writer_free(s.writer);
        rdbkit_resp_free(s.resp);
        rdbkit_json_free(s.json);
    }
    if (p->memory.misuse || p->sink_memory.misuse || p->memory.live || p->sink_memory.live)
        fail_msg("%s, %s %d fails: %s%s, %zu bytes left", l->name, kind_names[p->kind % KINDS], (int)p->at,
                 p->memory.misuse ? p->memory.misuse : "", p->sink_memory.misuse ? p->sink_memory.misuse : "",
                 p->memory.live + p->sink_memory.live);
}

/* ---- What came out ---- */

static int read_back(const tk_bytes *b) {
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    o.deep = 1;
    rdbkit_reader *r = rdbkit_reader_new(&o, NULL);
    assert_non_null(r);
    int st = rdbkit_reader_feed(r, b->data, b->len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    rdbkit_reader_free(r);
    return st;
}

/* Whether bytes are whole commands. */
static int whole_commands(const tk_bytes *b) {
    size_t n;
    const rdbkit_aof_visitor v = {0};
    rdbkit_aof *a = rdbkit_aof_new(NULL, &v);
    assert_non_null(a);
    n = b->len;
    const int st = rdbkit_aof_feed(a, b->data, n);
    const int whole = st == RDBKIT_MORE && rdbkit_aof_offset(a) == n;
    rdbkit_aof_free(a);
    return whole;
}

static void judge(const pipeline *l, const plan *p, const plan *good) {
    const int n = (int)p->at, memory = p->kind >= MEMORY;
    const char *kind = kind_names[p->kind];
    const int same =
        p->out.len <= good->out.len && (!p->out.len || memcmp(p->out.data, good->out.data, p->out.len) == 0);
    if (p->status == RDBKIT_DONE) {
        /* without memory for the compressor, strings go out as they are */
        if (!memory) fail_msg("%s, %s %d fails: done all the same", l->name, kind, n);
        if (l->sink == WRITER && read_back(&p->out) != RDBKIT_DONE)
            fail_msg("%s, %s %d fails: done, and not readable", l->name, kind, n);
        if (l->sink != WRITER && !(l->how & RESTORE) && (!same || p->out.len != good->out.len))
            fail_msg("%s, %s %d fails: done, and other bytes", l->name, kind, n);
        return;
    }
    if (p->status != (memory ? RDBKIT_ERR_NOMEM : RDBKIT_ERR_IO))
        fail_msg("%s, %s %d fails: %s", l->name, kind, n, rdbkit_status_text(p->status));
    if (l->sink == CHECK) return;
    if (!same || p->out.len >= good->out.len)
        fail_msg("%s, %s %d fails: %zu bytes, not the beginning of %zu", l->name, kind, n, p->out.len,
                 good->out.len);
    if (l->sink == RESP && p->kind != WRITE && !whole_commands(&p->out))
        fail_msg("%s, %s %d fails: half a command", l->name, kind, n);
}

/* ---- Inputs ---- */

static tk_bytes everything, large, log_file;

static int make_inputs(void **state) {
    (void)state;
    unsigned char block[4096];
    FILE *f = fopen("fixtures/redis80/everything.rdb", "rb");
    if (!f) return -1;
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) tk_put(&everything, block, n);
    fclose(f);
    tk_magic(&large, "REDIS0009");
    tk_db(&large, 0);
    for (int type = 1; type <= 4; type++) /* each over what is held in memory */
        if (type != 3)
            tk_plain_key(&large, type, (const char *[]){"", "list", "set", "", "hash"}[type],
                         "an element that is not short, and has number ", 30000);
    tk_string_key(&large, "last", "v", -1);
    tk_end(&large);
    static const char *const commands[] = {"*3 SET s v",        "*4 RPUSH l a b",
                                           "*4 SADD t 1 2",     "*4 SADD t x y",
                                           "*6 HSET h f 1 g 2", "*6 ZADD z 1 a 2 b",
                                           "*5 XADD x 1-1 f v", "*5 XGROUP CREATE x g 0",
                                           "*3 INCRBY n 5",     "*2 SELECT 3",
                                           "*3 APPEND s more",  "*3 RENAME s r",
                                           "*1 MULTI",          "*3 LPOP l 1",
                                           "*1 EXEC",           "*3 PEXPIREAT r 99999999999999"};
    tk_magic(&log_file, "REDIS0009");
    tk_plain_key(&log_file, 2, "of the image", "member", 40);
    tk_end(&log_file);
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < N_OF(commands); i++) {
            char text[128], *word, *rest = text;
            if (round && strstr(commands[i], "XGROUP")) continue;
            snprintf(text, sizeof text, "%s", commands[i]);
            if (strstr(text, "1-1")) snprintf(text, sizeof text, "*5 XADD x %d-1 f v", round + 1);
            word = strtok_r(text, " ", &rest);
            tk_put(&log_file, word, strlen(word)), tk_put(&log_file, "\r\n", 2);
            while ((word = strtok_r(NULL, " ", &rest)) != NULL) {
                char head[16];
                const int n = snprintf(head, sizeof head, "$%zu\r\n", strlen(word));
                tk_put(&log_file, head, (size_t)n), tk_put(&log_file, word, strlen(word));
                tk_put(&log_file, "\r\n", 2);
            }
        }
    return 0;
}

static int drop_inputs(void **state) {
    (void)state;
    tk_drop(&everything), tk_drop(&large), tk_drop(&log_file);
    return 0;
}

static const pipeline pipelines[] = {
    {"writer", WRITER, 0, &everything},
    {"writer with a spill", WRITER, 0, &large},
    {"writer behind a filter", WRITER, FILTER, &everything},
    {"writer behind a salvage", WRITER, SALVAGE, &everything},
    {"writer behind a salvage, with a spill", WRITER, SALVAGE, &large},
    {"writer of a log", WRITER, LOG, &log_file},
    {"commands", RESP, 0, &everything},
    {"commands of large values", RESP, 0, &large},
    {"commands behind a filter", RESP, FILTER, &everything},
    {"commands of a log", RESP, LOG, &log_file},
    {"restore", RESP, RESTORE, &everything},
    {"restore of large values", RESP, RESTORE, &large},
    {"json", JSON, 0, &everything},
    {"json of large values", JSON, 0, &large},
    {"json behind a filter", JSON, FILTER, &everything},
    {"json of a log", JSON, LOG, &log_file},
    {"check with a spill", CHECK, 0, &everything},
};

static void each_fails(const int *kinds, size_t kinds_n) {
    for (size_t i = 0; i < N_OF(pipelines); i++) {
        const pipeline *l = &pipelines[i];
        plan good;
        plan_init(&good, KINDS, 0);
        run(l, &good);
        if (good.status != RDBKIT_DONE) fail_msg("%s: %s", l->name, rdbkit_status_text(good.status));
        if (strstr(l->name, "spill") && !(good.calls[SPILL_WRITE] && good.calls[SPILL_READ]))
            fail_msg("%s: not used", l->name);
        for (size_t k = 0; k < kinds_n; k++)
            for (uint64_t at = 1;; at += 1 + at / (getenv("SLOW") ? 1 : 24)) {
                plan p;
                plan_init(&p, kinds[k], at);
                run(l, &p);
                const int hit_it = reached(&p) >= at;
                if (hit_it) judge(l, &p, &good);
                plan_drop(&p);
                if (!hit_it) break;
            }
        plan_drop(&good);
    }
}

TEST(each_allocation_of_a_pipeline_may_fail) { each_fails((const int[]){MEMORY, SINK_MEMORY}, 2); }

TEST(each_read_of_a_pipeline_may_fail) { each_fails((const int[]){READ}, 1); }

TEST(each_write_of_a_pipeline_may_fail) { each_fails((const int[]){WRITE}, 1); }

TEST(each_call_of_a_spill_may_fail) { each_fails((const int[]){SPILL_WRITE, SPILL_READ, SPILL_RESET}, 3); }

TEST(reads_of_one_byte_change_nothing) {
    for (size_t i = 0; i < N_OF(pipelines); i++) {
        plan good, p;
        plan_init(&good, KINDS, 0), plan_init(&p, KINDS, 0);
        p.piece = 1;
        run(&pipelines[i], &good), run(&pipelines[i], &p);
        assert_int_equal(p.status, RDBKIT_DONE);
        assert_int_equal(p.out.len, good.out.len);
        if (p.out.len) assert_memory_equal(p.out.data, good.out.data, p.out.len);
        plan_drop(&good), plan_drop(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_allocation_of_a_pipeline_may_fail),
        cmocka_unit_test(each_read_of_a_pipeline_may_fail),
        cmocka_unit_test(each_write_of_a_pipeline_may_fail),
        cmocka_unit_test(each_call_of_a_spill_may_fail),
        cmocka_unit_test(reads_of_one_byte_change_nothing),
    };
    return cmocka_run_group_tests_name("faults", tests, make_inputs, drop_inputs);
}
