/* test_aof.c - append-only files and manifests: what servers accept, what they refuse, where a file can be cut.
 * Each input is fed whole, byte by byte, in two pieces cut at each point, and pulled; all must give the same.
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

/* ---- A run, and what came of it ---- */

typedef struct outcome {
    int status;
    rdbkit_error error;
    rdbkit_aof_state state;
    uint64_t offset;
    tk_bytes log; /* a line an event */
    const unsigned char *file;
    size_t file_len;
    int stop_at, answer; /* the event of that number, from 1, answers so */
    int events;
    rdbkit_aof *a;
    const char *fault;
} outcome;

static void say(outcome *o, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tk_put(&o->log, text, (size_t)n);
}

static int answer(outcome *o) { return ++o->events == o->stop_at ? o->answer : RDBKIT_OK; }

static int on_command(void *user, const rdbkit_command *c) {
    outcome *o = user;
    say(o, "%llu db%llu", (unsigned long long)c->offset, (unsigned long long)c->db);
    if (c->timestamp_s != RDBKIT_NO_TIMESTAMP) say(o, " ts%lld", (long long)c->timestamp_s);
    if (c->in_multi) say(o, " queued");
    for (size_t i = 0; i < c->argc; i++) {
        say(o, " %zu:", c->argv[i].len);
        tk_put(&o->log, c->argv[i].data, c->argv[i].len);
    }
    say(o, "\n");
    if (rdbkit_aof_offset(o->a) != c->offset) o->fault = "offset inside of a command";
    if (c->offset + c->raw.len > o->file_len) o->fault = "raw behind the file";
    else if (memcmp(o->file + c->offset, c->raw.data, c->raw.len) != 0)
        o->fault = "raw is not what stands in the file";
    if (rdbkit_aof_progress(o->a)->good_any_off > c->offset)
        o->fault = "the state knows of the command already";
    return answer(o);
}

static int on_annotation(void *user, rdbkit_str text, uint64_t offset) {
    outcome *o = user;
    say(o, "%llu #", (unsigned long long)offset);
    tk_put(&o->log, text.data, text.len);
    say(o, "\n");
    return answer(o);
}

static int on_rdb_end(void *user, uint64_t offset) {
    say(user, "image ends at %llu\n", (unsigned long long)offset);
    return answer(user);
}

static int on_rdb_key(void *user, const rdbkit_key *key) {
    outcome *o = user;
    say(o, "key ");
    tk_put(&o->log, key->name.data, key->name.len);
    say(o, " db%llu\n", (unsigned long long)key->db);
    return answer(o);
}

static void drop(outcome *o) { tk_drop(&o->log); }

typedef struct trickle {
    const unsigned char *data;
    size_t left;
} trickle;

static ptrdiff_t trickle_read(void *ctx, void *buf, size_t size) {
    trickle *t = ctx;
    size_t n = t->left < 3 ? t->left : 3;
    if (n > size) n = size;
    if (n) memcpy(buf, t->data, n);
    t->data += n, t->left -= n;
    return (ptrdiff_t)n;
}

enum { WHOLE = -1, BYTES = -2, PULL = -3, GZIP = -4 }; /* or the point where the input is cut */

static int feed_guarded(rdbkit_aof *a, const unsigned char *data, size_t len) {
    tk_guard g;
    tk_guard_make(&g, len);
    int st = rdbkit_aof_feed(a, tk_guard_put(&g, data, len), len);
    tk_guard_drop(&g);
    return st;
}

static void run(outcome *o, const rdbkit_aof_options *opt, const void *data, size_t len, int how) {
    rdbkit_visitor rdb = {0};
    rdb.user = o;
    rdb.key = on_rdb_key;
    rdbkit_aof_visitor v = {o, &rdb, on_rdb_end, on_command, on_annotation};
    const unsigned char *p = data;
    o->file = p, o->file_len = len, o->status = RDBKIT_MORE;
    rdbkit_aof *a = o->a = rdbkit_aof_new(opt, &v);
    if (!a) {
        o->status = RDBKIT_ERR_NOMEM;
        return;
    }
    memset(&rdb, 0xee, sizeof rdb); /* it was copied */
    if (how == PULL || how == GZIP) {
        tk_bytes z = {0};
        if (how == GZIP) tk_gzip(&z, p, len);
        trickle t = {how == GZIP ? z.data : p, how == GZIP ? z.len : len};
        rdbkit_input *in = rdbkit_input_new(NULL, trickle_read, &t);
        assert_non_null(in);
        o->status = rdbkit_aof_pull(a, in);
        rdbkit_input_free(in);
        tk_drop(&z);
    } else if (how == BYTES) {
        for (size_t i = 0; i < len && o->status == RDBKIT_MORE; i++) o->status = rdbkit_aof_feed(a, p + i, 1);
    } else if (how == WHOLE) {
        o->status = feed_guarded(a, p, len);
    } else {
        o->status = feed_guarded(a, p, (size_t)how);
        if (o->status == RDBKIT_MORE) o->status = feed_guarded(a, p + how, len - (size_t)how);
    }
    if (o->status == RDBKIT_MORE) o->status = rdbkit_aof_finish(a);
    o->error = *rdbkit_aof_error(a);
    o->state = *rdbkit_aof_progress(a);
    o->offset = rdbkit_aof_offset(a);
    assert_int_equal(rdbkit_aof_feed(a, "x", 1), o->status); /* it stays */
    assert_int_equal(rdbkit_aof_finish(a), o->status);
    rdbkit_aof_free(a);
    if (o->fault) fail_msg("%s", o->fault);
}

static void same(const outcome *x, const outcome *y, int how) {
    if (x->status != y->status || strcmp(x->error.message, y->error.message) ||
        x->error.offset != y->error.offset || x->log.len != y->log.len ||
        memcmp(x->log.data, y->log.data, x->log.len) != 0 ||
        memcmp(&x->state, &y->state, sizeof x->state) != 0)
        fail_msg("cut at %d: %d %s, whole: %d %s", how, y->status, y->error.message, x->status,
                 x->error.message);
}

/* All the ways, which have to agree. o: the outcome, to be dropped. */
static void run_all(outcome *o, const rdbkit_aof_options *opt, const void *data, size_t len) {
    memset(o, 0, sizeof *o);
    run(o, opt, data, len, WHOLE);
    tk_put(&o->log, "", 1);
    for (int how = GZIP; how <= (int)len && how < 700; how++) {
        outcome other = {0};
        if (how == GZIP && !len) continue;
        run(&other, opt, data, len, how);
        tk_put(&other.log, "", 1);
        same(o, &other, how);
        drop(&other);
    }
}

static const char *said(const outcome *o) { return (const char *)o->log.data; }

#define RUN_ALL(o, opt, text) run_all(o, opt, text, sizeof(text) - 1)

static void expect_done(const char *text, size_t len, const char *log) {
    outcome o;
    run_all(&o, NULL, text, len);
    if (o.status != RDBKIT_DONE) fail_msg("%d %s", o.status, o.error.message);
    assert_string_equal(said(&o), log);
    assert_int_equal(o.error.code, RDBKIT_OK);
    assert_int_equal(o.offset, len);
    assert_int_equal(o.state.good_off, len);
    assert_int_equal(o.state.good_any_off, len);
    drop(&o);
}

static void expect_error(const rdbkit_aof_options *opt, const char *text, size_t len, int status,
                         const char *message) {
    outcome o;
    run_all(&o, opt, text, len);
    assert_int_equal(o.status, status);
    assert_int_equal(o.error.code, status);
    assert_string_equal(o.error.message, message);
    drop(&o);
}

#define DONE(text, log) expect_done(text, sizeof(text) - 1, log)
#define DAMAGED(text, message) expect_error(NULL, text, sizeof(text) - 1, RDBKIT_ERR_DAMAGED, message)
#define TRUNCATED(text, message) expect_error(NULL, text, sizeof(text) - 1, RDBKIT_ERR_TRUNCATED, message)

#define PING "*1\r\n$4\r\nPING\r\n"                       /* 14 bytes */
#define MULTI "*1\r\n$5\r\nMULTI\r\n"                     /* 15 */
#define EXEC "*1\r\n$4\r\nEXEC\r\n"                       /* 14 */
#define SELECT(n) "*2\r\n$6\r\nSELECT\r\n$1\r\n" n "\r\n" /* 23 */

/* ---- The record ---- */

static void empty_file_has_no_commands(void **state) {
    (void)state;
    DONE("", "");
}

static void commands_come_with_their_arguments(void **state) {
    (void)state;
    DONE("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n" PING, "0 db0 3:SET 1:k 0:\n26 db0 4:PING\n");
    DONE("*2\r\n$4\r\nECHO\r\n$6\r\n\r\n*1\r\n\r\n", "0 db0 4:ECHO 6:\r\n*1\r\n\n");
    DONE("*1\r\n$0\r\n\r\n", "0 db0 0:\n");
}

static void binary_arguments_pass(void **state) {
    (void)state;
    char file[300] = "*1\r\n$256\r\n", log[300] = "0 db0 256:";
    for (int i = 0; i < 256; i++) file[10 + i] = log[10 + i] = (char)i;
    memcpy(file + 266, "\r\n", 2);
    outcome o;
    run_all(&o, NULL, file, 268);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_memory_equal(o.log.data, log, 266);
    drop(&o);
}

static void headers_are_read_as_servers_do(void **state) {
    (void)state;
    static const struct {
        const char *text, *log;
        unsigned odd;
    } rows[] = {
        {"*1\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},       {"*1\r\n$4\nPING\r\n", "0 db0 4:PING\n", 1},
        {"*1\n$4\nPING\r\n", "0 db0 4:PING\n", 2},         {"*1junk\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},
        {"*1 2\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},   {"*1\r\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},
        {"* 1\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},    {"*\t\v1\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},
        {"*+1\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},    {"*01\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 1},
        {"*1\r\n$ 4\r\nPING\r\n", "0 db0 4:PING\n", 1},    {"*1\r\n$+4x\nPING\r\n", "0 db0 4:PING\n", 1},
        {"*1\r\n$00004\r\nPING\r\n", "0 db0 4:PING\n", 1}, {"*1\r\n$-0\r\n\r\n", "0 db0 0:\n", 1},
        {"*1\r\n$4\r\nPING\r\n", "0 db0 4:PING\n", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        outcome o;
        run_all(&o, NULL, rows[i].text, strlen(rows[i].text));
        if (o.status != RDBKIT_DONE) fail_msg("%zu: %s", i, o.error.message);
        assert_string_equal(said(&o), rows[i].log);
        assert_int_equal(o.state.odd_headers, rows[i].odd);
        assert_int_equal(o.state.odd_ends, 0);
        drop(&o);
        rdbkit_aof_options opt;
        rdbkit_aof_options_init(&opt);
        opt.strict = 1;
        run_all(&o, &opt, rows[i].text, strlen(rows[i].text));
        assert_int_equal(o.status, rows[i].odd ? RDBKIT_ERR_DAMAGED : RDBKIT_DONE);
        drop(&o);
    }
}

static void first_odd_header_is_told(void **state) {
    (void)state;
    outcome o;
    RUN_ALL(&o, NULL, PING "*1\r\n$04\r\nPING\r\n*01\r\n$4\r\nPING\r\n");
    assert_int_equal(o.state.odd_headers, 2);
    assert_int_equal(o.state.odd_header_first, 18);
    assert_int_equal(o.state.odd_end_first, RDBKIT_NO_OFFSET);
    drop(&o);
}

static void any_two_bytes_pass_behind_an_argument(void **state) {
    (void)state;
    outcome o;
    RUN_ALL(&o, NULL, PING "*2\r\n$4\r\nECHO*1$1\r\nx\n\r" PING);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_string_equal(said(&o), "0 db0 4:PING\n14 db0 4:ECHO 1:x\n35 db0 4:PING\n");
    assert_int_equal(o.state.odd_ends, 2);
    assert_int_equal(o.state.odd_end_first, 26);
    assert_int_equal(o.state.odd_headers, 0);
    drop(&o);
    rdbkit_aof_options opt;
    rdbkit_aof_options_init(&opt);
    opt.strict = 1;
    expect_error(&opt, "*2\r\n$4\r\nECHO*1$1\r\nx\r\n", 21, RDBKIT_ERR_DAMAGED,
                 "argument 1 of 2 at 12: \"*1\", CR LF behind the argument wanted; record at 0");
    expect_error(&opt, PING "*1\r\n$4\r\nPING\r\r", 28, RDBKIT_ERR_DAMAGED,
                 "argument 1 of 1 at 26: \"\\r\\r\", CR LF behind the argument wanted; record at 14");
    expect_error(&opt, "*01\r\n", 5, RDBKIT_ERR_DAMAGED,
                 "record at 0: \"*01\\r\", * and a number of arguments wanted");
}

static void what_servers_refuse_is_damaged(void **state) {
    (void)state;
    DAMAGED(PING "*0\r\n", "record at 14: command of 0 arguments, 1 to 2147483647 wanted");
    DAMAGED("*-1\r\n", "record at 0: command of -1 arguments, 1 to 2147483647 wanted");
    DAMAGED("*x\r\n", "record at 0: \"*x\\r\", * and a number of arguments wanted");
    DAMAGED("*\r\n", "record at 0: \"*\\r\", * and a number of arguments wanted");
    DAMAGED("*\n", "record at 0: \"*\", * and a number of arguments wanted");
    DAMAGED("*- 1\n", "record at 0: \"*- 1\", * and a number of arguments wanted");
    DAMAGED("*2147483648\r\n", "record at 0: command of 2147483648 arguments, 1 to 2147483647 wanted");
    DAMAGED("*99999999999999999999\r\n",
            "record at 0: command of 9223372036854775807 arguments, 1 to 2147483647 wanted");
    DAMAGED("*-99999999999999999999\r\n",
            "record at 0: command of -9223372036854775808 arguments, 1 to 2147483647 wanted");
    DAMAGED("*2\r\n$4\r\nECHO\r\n+OK\r\n",
            "argument 2 of 2 at 14: \"+\", $ and a length wanted; record at 0");
    DAMAGED("*1\r\n*1\r\n", "argument 1 of 1 at 4: \"*\", $ and a length wanted; record at 0");
    DAMAGED(PING "*1\r\n$-1\r\n",
            "argument 1 of 1 at 18: length -1, 0 to 1099511627776 wanted; record at 14");
    DAMAGED("*1\r\n$-5\r\n", "argument 1 of 1 at 4: length -5, 0 to 1099511627776 wanted; record at 0");
    DAMAGED("*1\r\n$1099511627777\r\n",
            "argument 1 of 1 at 4: length 1099511627777, 0 to 1099511627776 wanted; record at 0");
    DAMAGED("*1\r\n$x\r\n", "argument 1 of 1 at 4: \"$x\\r\", $ and a length wanted; record at 0");
    DAMAGED("SET a b\r\n", "record at 0: \"S\", * or # wanted");
    DAMAGED(PING "\r\n", "record at 14: \"\\r\", * or # wanted");
    DAMAGED("+OK\r\n", "record at 0: \"+\", * or # wanted");
    DAMAGED("$1\r\nx\r\n", "record at 0: \"$\", * or # wanted");
    DAMAGED(PING "\0\0\0\0", "record at 14: \"\\x00\", * or # wanted");
    DAMAGED("*2\r\n$4\r\nECHO\r\n#x\r\n$1\r\nx\r\n",
            "argument 2 of 2 at 14: \"#\", $ and a length wanted; record at 0");
    DAMAGED(PING "REDIS0011", "record at 14: \"R\", * or # wanted");
    DAMAGED(" *1\r\n", "record at 0: \" \", * or # wanted");
}

static void header_lines_hold_up_to_128_bytes(void **state) {
    (void)state;
    char file[400];
    int n = snprintf(file, sizeof file, "*%0125d\r\n$4\r\nPING\r\n", 1);
    outcome o;
    run_all(&o, NULL, file, (size_t)n);
    assert_int_equal(o.status, RDBKIT_DONE);
    drop(&o);
    n = snprintf(file, sizeof file, "*%0126d\r\n$4\r\nPING\r\n", 1);
    expect_error(NULL, file, (size_t)n, RDBKIT_ERR_DAMAGED,
                 "record at 0: line of more than 128 bytes, * and a number of arguments wanted");
    n = snprintf(file, sizeof file, "*1\r\n$%0200d", 4);
    expect_error(NULL, file, (size_t)n, RDBKIT_ERR_DAMAGED,
                 "argument 1 of 1 at 4: line of more than 128 bytes, $ and a length wanted; record at 0");
}

static void cut_record_is_truncated_wherever_it_is_cut(void **state) {
    (void)state;
    static const char file[] = PING "*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n" SELECT("3") MULTI "#TS:5\r\n" PING EXEC;
    static const size_t ends[] = {0, 14, 35, 58, 73, 80, 94, 108};
    static const size_t good[] = {0, 14, 35, 58, 58, 58, 58, 108};
    assert_int_equal(sizeof file - 1, 108);
    for (size_t cut = 0, at = 0; cut <= 108; cut++) {
        if (at < 7 && cut == ends[at + 1]) at++;
        outcome o;
        run_all(&o, NULL, file, cut);
        int whole = cut == ends[at], in_multi = at >= 4 && at < 7;
        assert_int_equal(o.status, whole && !in_multi ? RDBKIT_DONE : RDBKIT_ERR_TRUNCATED);
        if (o.status < 0) assert_int_equal(o.error.offset, whole ? 58 : ends[at]);
        assert_int_equal(o.state.good_off, good[at]);
        assert_int_equal(o.state.good_any_off, ends[at]);
        assert_int_equal(o.state.multi_off, in_multi ? 58 : RDBKIT_NO_OFFSET);
        drop(&o);
    }
}

static void truncation_says_where(void **state) {
    (void)state;
    TRUNCATED(PING "*", "record at 14: the input ends after 1 bytes, in its first line");
    TRUNCATED(PING "*2\r", "record at 14: the input ends after 3 bytes, in its first line");
    TRUNCATED("*2\r\n", "record at 0: the input ends after 4 bytes, in argument 1 of 2");
    TRUNCATED("*2\r\n$4\r\nEC", "record at 0: the input ends after 10 bytes, in argument 1 of 2");
    TRUNCATED("*2\r\n$4\r\nECHO\r", "record at 0: the input ends after 13 bytes, in argument 1 of 2");
    TRUNCATED("*2\r\n$4\r\nECHO\r\n", "record at 0: the input ends after 14 bytes, in argument 2 of 2");
    static const char stated[] = "*2147483647\r\n$1099511627776\r\nab";
    if (SIZE_MAX > UINT32_MAX)
        TRUNCATED(stated, "record at 0: the input ends after 31 bytes, in argument 1 of 2147483647");
    else
        expect_error(NULL, stated, sizeof stated - 1, RDBKIT_ERR_LIMIT,
                     "argument 1 of 2147483647 at 13: length of the record of 1099511627807, the limit is "
                     "2147483647; record at 0");
    TRUNCATED(PING "#TS:17", "annotation at 14: the input ends after 6 bytes, in its only line");
    TRUNCATED(MULTI PING, "transaction at 0: the input ends, EXEC wanted");
    TRUNCATED(PING MULTI PING "*1\r",
              "record at 43: the input ends after 3 bytes, in its first line; the transaction at 14 is open");
    TRUNCATED("RED", "header at 0: the input ends after 3 bytes, 9 wanted here");
    TRUNCATED("VALKEY", "header at 0: the input ends after 6 bytes, 9 wanted here");
}

/* ---- Transactions, databases, annotations ---- */

static void transactions_are_followed_as_servers_do(void **state) {
    (void)state;
    DONE(MULTI PING EXEC, "0 db0 5:MULTI\n15 db0 queued 4:PING\n29 db0 4:EXEC\n");
    DONE(MULTI EXEC, "0 db0 5:MULTI\n15 db0 4:EXEC\n");
    DONE(MULTI MULTI EXEC PING, "0 db0 5:MULTI\n15 db0 queued 5:MULTI\n30 db0 4:EXEC\n44 db0 4:PING\n");
    DONE(EXEC PING, "0 db0 4:EXEC\n14 db0 4:PING\n");
    DONE("*1\r\n$7\r\nDISCARD\r\n", "0 db0 7:DISCARD\n");
    DONE("*1\r\n$5\r\nmUlTi\r\n*1\r\n$4\r\nexEC\r\n", "0 db0 5:mUlTi\n15 db0 4:exEC\n");
    DONE("*1\r\n$5\r\nMULTJ\r\n*1\r\n$6\r\nSELECU\r\n", "0 db0 5:MULTJ\n15 db0 6:SELECU\n");
    TRUNCATED(MULTI "*1\r\n$7\r\nDISCARD\r\n", "transaction at 0: the input ends, EXEC wanted");
    TRUNCATED(MULTI MULTI PING, "transaction at 0: the input ends, EXEC wanted");
    TRUNCATED(MULTI EXEC MULTI, "transaction at 29: the input ends, EXEC wanted");
}

static void select_changes_the_database(void **state) {
    (void)state;
    DONE(SELECT("5") PING "*2\r\n$6\r\nselect\r\n$10\r\n2147483647\r\n" PING,
         "0 db0 6:SELECT 1:5\n23 db5 4:PING\n37 db5 6:select 10:2147483647\n70 db2147483647 4:PING\n");
    DONE(MULTI SELECT("5") PING EXEC PING,
         "0 db0 5:MULTI\n15 db0 queued 6:SELECT 1:5\n38 db5 queued 4:PING\n52 db5 4:EXEC\n66 db5 4:PING\n");
}

static void select_of_no_database_changes_nothing(void **state) {
    (void)state;
    static const char *const wrong[] = {"-1", "+1",         "01",
                                        "x",  "",           " 1",
                                        "1 ", "2147483648", "99999999999999999999",
                                        "-0", "1.0"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char file[200], log[200];
        int at = snprintf(file, sizeof file, SELECT("7") "*2\r\n$6\r\nSELECT\r\n$%zu\r\n%s\r\n",
                          strlen(wrong[i]), wrong[i]);
        int n = snprintf(file + at, sizeof file - (size_t)at, PING);
        snprintf(log, sizeof log, "0 db0 6:SELECT 1:7\n23 db7 6:SELECT %zu:%s\n%d db7 4:PING\n",
                 strlen(wrong[i]), wrong[i], at);
        expect_done(file, (size_t)(at + n), log);
    }
    DONE("*1\r\n$6\r\nSELECT\r\n*3\r\n$6\r\nSELECT\r\n$1\r\n3\r\n$1\r\n4\r\n" PING,
         "0 db0 6:SELECT\n16 db0 6:SELECT 1:3 1:4\n46 db0 4:PING\n");
}

static void annotations_hold_times(void **state) {
    (void)state;
    outcome o;
    RUN_ALL(&o, NULL,
            PING "#TS:100\r\n" PING "#x\n#\r\n#\n#TS:1x\r\n#TS:\r\n#ts:5\r\n#TS: 7\r\n" PING "#TS:200\n" MULTI
                 "#TS:201\r\n" PING EXEC);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_string_equal(
        said(&o), "0 db0 4:PING\n14 #TS:100\n23 db0 ts100 4:PING\n37 #x\n40 #\n43 #\n45 #TS:1x\n53 #TS:\n59 "
                  "#ts:5\n66 #TS: 7\n74 db0 ts100 4:PING\n88 #TS:200\n96 db0 ts200 5:MULTI\n111 "
                  "#TS:201\n120 db0 ts201 queued 4:PING\n134 db0 ts201 4:EXEC\n");
    assert_int_equal(o.state.annotations, 10);
    assert_int_equal(o.state.commands, 6);
    assert_int_equal(o.state.first_timestamp_s, 100);
    assert_int_equal(o.state.timestamp_s, 201);
    drop(&o);
    RUN_ALL(&o, NULL, "#one\r\n");
    assert_true(o.state.timestamp_s == RDBKIT_NO_TIMESTAMP);
    drop(&o);
}

static void annotations_hold_up_to_1023_bytes(void **state) {
    (void)state;
    char file[1100];
    memset(file, 'x', sizeof file);
    file[0] = '#';
    file[1022] = '\n';
    outcome o = {0}, p = {0};
    run(&o, NULL, file, 1023, WHOLE);
    run(&p, NULL, file, 1023, BYTES);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_int_equal(p.status, RDBKIT_DONE);
    drop(&o), drop(&p);
    memset(&o, 0, sizeof o), memset(&p, 0, sizeof p);
    file[1022] = 'x';
    file[1023] = '\n';
    run(&o, NULL, file, 1024, WHOLE);
    run(&p, NULL, file, 1024, BYTES);
    assert_int_equal(o.status, RDBKIT_ERR_DAMAGED);
    assert_string_equal(o.error.message, "record at 0: annotation of more than 1023 bytes");
    assert_string_equal(o.error.message, p.error.message);
    drop(&o), drop(&p);
}

/* ---- Images ---- */

static tk_bytes image(const char *magic) {
    tk_bytes b = {0};
    tk_magic(&b, magic);
    tk_db(&b, 3);
    tk_string_key(&b, "str", "value", -1);
    tk_end(&b);
    return b;
}

static void image_comes_before_the_records(void **state) {
    (void)state;
    static const char *const magics[] = {"REDIS0012", "VALKEY080", "REDIS0003"};
    for (size_t i = 0; i < 3; i++) {
        tk_bytes b = image(magics[i]);
        if (i == 2) b.len -= 8; /* no checksum below version 5 */
        char log[200];
        size_t end = b.len;
        tk_put(&b, PING, 14);
        outcome o;
        run_all(&o, NULL, b.data, b.len);
        snprintf(log, sizeof log, "key str db3\nimage ends at %zu\n%zu db0 4:PING\n", end, end);
        assert_string_equal(said(&o), log);
        assert_int_equal(o.status, RDBKIT_DONE);
        assert_int_equal(o.state.rdb_end, end);
        assert_true(o.state.has_rdb);
        assert_int_equal(o.state.rdb_verified, i != 2);
        drop(&o);
        tk_drop(&b);
    }
}

static void image_alone_is_a_file(void **state) {
    (void)state;
    tk_bytes b = image("REDIS0011");
    outcome o;
    run_all(&o, NULL, b.data, b.len);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_int_equal(o.state.good_off, b.len);
    drop(&o);
    tk_drop(&b);
}

static void good_offset_is_never_inside_the_image(void **state) {
    (void)state;
    tk_bytes b = image("REDIS0011");
    size_t end = b.len;
    outcome o;
    tk_put(&b, MULTI "*1\r\n$4\r\nPI", 25);
    run_all(&o, NULL, b.data, b.len);
    assert_int_equal(o.status, RDBKIT_ERR_TRUNCATED);
    assert_int_equal(o.state.good_off, end);
    assert_int_equal(o.state.good_any_off, end + 15);
    assert_int_equal(o.state.multi_off, end);
    drop(&o);
    tk_drop(&b);
}

static void cut_or_damaged_image_is_the_readers_error(void **state) {
    (void)state;
    tk_bytes b = image("REDIS0011");
    outcome o;
    for (size_t cut = 1; cut < b.len; cut++) {
        run_all(&o, NULL, b.data, cut);
        assert_int_equal(o.status, RDBKIT_ERR_TRUNCATED);
        assert_int_equal(o.state.good_off, 0);
        assert_int_equal(o.state.rdb_end, RDBKIT_NO_OFFSET);
        drop(&o);
    }
    b.data[b.len - 1] ^= 1;
    run_all(&o, NULL, b.data, b.len);
    assert_int_equal(o.status, RDBKIT_ERR_CHECKSUM);
    drop(&o);
    rdbkit_aof_options opt;
    rdbkit_aof_options_init(&opt);
    opt.rdb.ignore_checksum = 1;
    run_all(&o, &opt, b.data, b.len);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_false(o.state.rdb_verified);
    drop(&o);
    tk_drop(&b);
    DAMAGED("REDIZ", "record at 0: \"R\", * or # wanted");
    DAMAGED("VALKEX080", "record at 0: \"V\", * or # wanted");
    DAMAGED("RALKEY080", "record at 0: \"R\", * or # wanted");
    expect_error(NULL, "REDIS9999", 9, RDBKIT_ERR_UNSUPPORTED,
                 "header at 0: RDB version 9999 behind REDIS, which no server writes");
}

/* ---- Limits, memory, callbacks ---- */

static void limits_are_kept(void **state) {
    (void)state;
    static const char file[] =
        PING "*3\r\n$4\r\nECHO\r\n$2\r\nab\r\n$2\r\ncd\r\n"; /* the second takes 30 bytes */
    rdbkit_aof_options opt;
    rdbkit_aof_options_init(&opt);
    opt.max_args = 3, opt.max_arg_len = 4, opt.max_command_len = 30;
    outcome o;
    RUN_ALL(&o, &opt, file);
    assert_int_equal(o.status, RDBKIT_DONE);
    drop(&o);
    opt.max_args = 2;
    expect_error(&opt, file, sizeof file - 1, RDBKIT_ERR_LIMIT,
                 "record at 14: number of arguments of 3, the limit is 2");
    opt.max_args = 0, opt.max_arg_len = 3;
    expect_error(&opt, file, sizeof file - 1, RDBKIT_ERR_LIMIT,
                 "argument 1 of 1 at 4: length of 4, the limit is 3; record at 0");
    opt.max_arg_len = 0, opt.max_command_len = 29;
    expect_error(&opt, file, sizeof file - 1, RDBKIT_ERR_LIMIT,
                 "argument 3 of 3 at 36: length of the record of 30, the limit is 29; record at 14");
}

static void stated_numbers_allocate_nothing(void **state) {
    (void)state;
    static const char *const files[] = {"*2147483647\r\n$1\r\nx\r\n", "*2\r\n$1099511627776\r\nxxxx", "#xxx"};
    for (size_t i = 0; i < 3; i++) {
        tk_memory m = {0};
        rdbkit_allocator al = tk_allocator(&m);
        rdbkit_aof_options opt;
        rdbkit_aof_options_init(&opt);
        opt.allocator = &al;
        outcome o = {0};
        run(&o, &opt, files[i], strlen(files[i]), BYTES);
        assert_int_equal(o.status,
                         i == 1 && SIZE_MAX == UINT32_MAX ? RDBKIT_ERR_LIMIT : RDBKIT_ERR_TRUNCATED);
        assert_true(m.peak < 8192);
        assert_int_equal(m.live, 0);
        drop(&o);
    }
}

static void long_command_in_pieces_is_whole(void **state) {
    (void)state;
    tk_bytes b = {0};
    char text[32];
    tk_put(&b, PING "*5000\r\n", 21);
    for (int i = 0; i < 5000; i++) {
        int n = snprintf(text, sizeof text, "%0*d", i % 20 + 1, i);
        char head[16];
        tk_put(&b, head, (size_t)snprintf(head, sizeof head, "$%d\r\n", n));
        tk_put(&b, text, (size_t)n);
        tk_put(&b, "\r\n", 2);
    }
    tk_put(&b, PING, 14);
    outcome o = {0};
    run(&o, NULL, b.data, b.len, WHOLE);
    assert_int_equal(o.status, RDBKIT_DONE);
    assert_int_equal(o.state.commands, 3);
    for (int cut = BYTES; cut < (int)b.len; cut += cut < 0 ? 1 : 977) {
        outcome p = {0};
        run(&p, NULL, b.data, b.len, cut);
        same(&o, &p, cut);
        drop(&p);
    }
    drop(&o);
    tk_drop(&b);
}

static void each_allocation_may_fail(void **state) {
    (void)state;
    tk_bytes b = image("REDIS0011");
    static const char tail[] = "*20\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$"
                               "1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na"
                               "\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$"
                               "1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$200\r\n";
    tk_put(&b, tail, sizeof tail - 1);
    for (int i = 0; i < 200; i++) tk_put(&b, "x", 1);
    tk_put(&b, "\r\n" PING, 16);
    for (int how = GZIP + 1; how < 2; how++) {
        for (uint64_t fail_at = 1;; fail_at++) {
            tk_memory m = {.fail_at = fail_at};
            rdbkit_allocator al = tk_allocator(&m);
            rdbkit_aof_options opt;
            rdbkit_aof_options_init(&opt);
            opt.allocator = &al;
            outcome o = {0};
            run(&o, &opt, b.data, b.len, how);
            drop(&o);
            assert_int_equal(m.live, 0);
            if (m.misuse) fail_msg("%s", m.misuse);
            if (o.status == RDBKIT_DONE) {
                assert_true(m.calls < fail_at);
                break;
            }
            assert_int_equal(o.status, RDBKIT_ERR_NOMEM);
        }
    }
    tk_drop(&b);
}

static void answers_of_callbacks_stop_and_stay(void **state) {
    (void)state;
    tk_bytes b = image("REDIS0011");
    tk_put(&b, "#x\r\n" PING, 18);
    for (int at = 1; at <= 4; at++)
        for (int how = PULL; how < (int)b.len; how++) {
            outcome o = {.stop_at = at, .answer = how & 1 ? RDBKIT_ERR_STOPPED : -1234};
            run(&o, NULL, b.data, b.len, how);
            assert_int_equal(o.status, o.answer);
            assert_int_equal(o.error.code, o.answer);
            assert_int_equal(o.state.commands, 0);
            assert_int_equal(o.state.annotations, at == 4);
            assert_int_equal(o.state.good_off, at == 1 ? 0 : at == 4 ? b.len - 14 : b.len - 18);
            drop(&o);
        }
    outcome o = {.stop_at = 2, .answer = 77};
    run(&o, NULL, b.data, b.len, WHOLE);
    assert_int_equal(o.status, RDBKIT_ERR_USAGE);
    drop(&o);
    tk_drop(&b);
}

static void file_without_visitor_is_checked(void **state) {
    (void)state;
    tk_bytes b = image("VALKEY080");
    tk_put(&b, "#x\r\n" PING "x", 19);
    rdbkit_aof *a = rdbkit_aof_new(NULL, NULL);
    assert_int_equal(rdbkit_aof_feed(a, NULL, 0), RDBKIT_MORE);
    assert_int_equal(rdbkit_aof_feed(a, b.data, b.len - 1), RDBKIT_MORE);
    assert_int_equal(rdbkit_aof_progress(a)->commands, 1);
    assert_int_equal(rdbkit_aof_feed(a, b.data + b.len - 1, 1), RDBKIT_ERR_DAMAGED);
    rdbkit_aof_free(a);
    rdbkit_aof_free(NULL);
    tk_drop(&b);
}

static ptrdiff_t read_then_fail(void *ctx, void *buf, size_t size) {
    (void)size;
    if ((*(int *)ctx)++) return -EIO;
    memcpy(buf, PING "*1", 16);
    return 16;
}

static void failed_read_is_an_io_error(void **state) {
    (void)state;
    int calls = 0;
    rdbkit_aof *a = rdbkit_aof_new(NULL, NULL);
    rdbkit_input *in = rdbkit_input_new(NULL, read_then_fail, &calls);
    assert_int_equal(rdbkit_aof_pull(a, in), RDBKIT_ERR_IO);
    assert_int_equal(rdbkit_aof_error(a)->sys_errno, EIO);
    assert_int_equal(rdbkit_aof_error(a)->offset, 16);
    rdbkit_input_free(in);
    rdbkit_aof_free(a);
}

static void cut_gzip_is_truncated(void **state) {
    (void)state;
    tk_bytes z = {0};
    tk_gzip(&z, PING PING, 28);
    rdbkit_aof *a = rdbkit_aof_new(NULL, NULL);
    rdbkit_input *in = rdbkit_input_new_memory(NULL, z.data, z.len - 4);
    assert_int_equal(rdbkit_aof_pull(a, in), RDBKIT_ERR_TRUNCATED);
    assert_non_null(strstr(rdbkit_aof_error(a)->message, "gzip"));
    rdbkit_input_free(in);
    rdbkit_aof_free(a);
    tk_drop(&z);
}

/* ---- Manifests ---- */

static void manifest_ok(const char *text, const char *wanted) {
    char got[1200] = "";
    rdbkit_error e;
    rdbkit_manifest *m = rdbkit_manifest_parse(NULL, text, strlen(text), &e);
    if (!m) fail_msg("%s: %s", text, e.message);
    assert_int_equal(e.code, RDBKIT_OK);
    for (size_t i = 0; i < rdbkit_manifest_count(m); i++) {
        const rdbkit_manifest_file *f = rdbkit_manifest_at(m, i);
        assert_int_equal(strlen(f->name.data), f->name.len);
        size_t at = strlen(got);
        snprintf(got + at, sizeof got - at, "%llu:%s %lld %c %lld %lld;", (unsigned long long)f->line,
                 f->name.data, (long long)f->seq, f->type, (long long)f->start_offset,
                 (long long)f->end_offset);
    }
    assert_null(rdbkit_manifest_at(m, rdbkit_manifest_count(m)));
    assert_string_equal(got, wanted);
    rdbkit_manifest_free(m);
}

static void manifest_bad(const char *text, size_t len, const char *message) {
    rdbkit_error e;
    char *copy = malloc(len + 1); /* a sanitizer watches its ends */
    assert_non_null(copy);
    memcpy(copy, text, len);
    rdbkit_manifest *m = rdbkit_manifest_parse(NULL, copy, len, &e);
    if (m) fail_msg("taken: %s", text);
    assert_int_equal(e.code, RDBKIT_ERR_DAMAGED);
    assert_string_equal(e.message, message);
    assert_null(rdbkit_manifest_parse(NULL, copy, len, NULL));
    free(copy);
}

#define BAD(text, message) manifest_bad(text, sizeof(text) - 1, message)

static void manifest_of_a_server_is_read(void **state) {
    (void)state;
    manifest_ok("file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.1.incr.aof seq 1 type h\n"
                "file appendonly.aof.2.incr.aof seq 2 type i startoffset 0 endoffset 77\n"
                "file appendonly.aof.3.incr.aof seq 3 type i startoffset 78\n",
                "1:appendonly.aof.2.base.rdb 2 b -1 -1;3:appendonly.aof.2.incr.aof 2 i 0 "
                "77;4:appendonly.aof.3.incr.aof 3 i 78 -1;"
                "2:appendonly.aof.1.incr.aof 1 h -1 -1;");
}

static void manifest_lines_may_vary_as_servers_allow(void **state) {
    (void)state;
    manifest_ok("# a comment\n#\n", "");
    manifest_ok("#without line feed", "");
    manifest_ok("#x\nfile a seq 1 type i\n#end", "2:a 1 i -1 -1;");
    manifest_ok(" \t file\ta  seq 1 type i \t\r\n", "1:a 1 i -1 -1;");
    manifest_ok("TYPE base Seq 7x FILE a\n", "1:a 7 b -1 -1;");
    manifest_ok("file a seq 1 type i color red\n", "1:a 1 i -1 -1;");
    manifest_ok("file a seq -4 type b\nfile b seq -9 type history\n", "1:a -4 b -1 -1;2:b -9 h -1 -1;");
    manifest_ok("file a seq 1 type i\nfile a seq 2 type i\nfile b seq 1 type b\n",
                "3:b 1 b -1 -1;1:a 1 i -1 -1;2:a 2 i -1 -1;");
    manifest_ok("file b seq +3 type h\nfile a seq 2 type h\n", "1:b 3 h -1 -1;2:a 2 h -1 -1;");
    manifest_ok("file a file b seq 5 seq 6 type h type i\n", "1:b 6 i -1 -1;");
}

static void manifest_names_are_unquoted(void **state) {
    (void)state;
    manifest_ok("file \"a b\" seq 1 type i\n", "1:a b 1 i -1 -1;");
    manifest_ok("file \"\\x41\\x4a\\x4A\\n\\r\\t\\a\\b\\\"\\q\\x4\" seq 1 type i\n",
                "1:AJJ\n\r\t\a\b\"qx4 1 i -1 -1;");
    manifest_ok("file 'a \"b' seq 1 type i\n", "1:a \"b 1 i -1 -1;");
    manifest_ok("file 'it\\'s' seq 1 type i\n", "1:it's 1 i -1 -1;");
    manifest_ok("file a\"b c\" seq '1' type \"i\"\n", "1:ab c 1 i -1 -1;");
    manifest_ok("file \"a\\x00b\" seq 1 type i\n", "1:a 1 i -1 -1;");
}

static void manifest_that_servers_refuse_is_refused(void **state) {
    (void)state;
    char text[1100], message[200];
    BAD("", "empty manifest");
    BAD("file a seq 1 type b", "line 1 at 0: line that is not ended by LF");
    BAD("file a seq 1 type b\nfile b seq 1 type i", "line 2 at 20: line that is not ended by LF");
    BAD("\n", "line 1 at 0: 0 words, an even number of at least 6 wanted");
    BAD("file a seq 1 type b\n \t\r\n", "line 2 at 20: 0 words, an even number of at least 6 wanted");
    BAD(" # no comment\n", "line 1 at 0: 3 words, an even number of at least 6 wanted");
    BAD("file a seq 1\n", "line 1 at 0: 4 words, an even number of at least 6 wanted");
    BAD("file a seq 1 type b x\n", "line 1 at 0: 7 words, an even number of at least 6 wanted");
    BAD("file a seq 0 type b\n", "line 1 at 0: no seq other than 0");
    BAD("file a seq x type b\n", "line 1 at 0: no seq other than 0");
    BAD("file a x 1 type b\n", "line 1 at 0: no seq other than 0");
    BAD("name a seq 1 type b\n", "line 1 at 0: no file");
    BAD("file a seq 1 kind b\n", "line 1 at 0: no type");
    BAD("file a seq 1 type ''\n", "line 1 at 0: no type");
    BAD("file a seq 1 type B\n", "line 1 at 0: type \"B\", b, h or i wanted");
    BAD("file a/b seq 1 type b\n", "line 1 at 0: name of a file is empty, or a path");
    BAD("file \"a\\\\b\" seq 1 type b\n", "line 1 at 0: name of a file is empty, or a path");
    BAD("file a\\b seq 1 type b\n", "line 1 at 0: name of a file is empty, or a path");
    BAD("file '' seq 1 type b\n", "line 1 at 0: name of a file is empty, or a path");
    BAD("file a seq 1 type b\nfile c seq 2 type b\n", "line 2 at 20: second file of type b");
    BAD("file a seq 2 type i\nfile b seq 2 type i\n", "line 2 at 20: increment of seq 2, more than 2 wanted");
    BAD("file a seq 2 type i\nfile b seq 1 type i\n", "line 2 at 20: increment of seq 1, more than 2 wanted");
    BAD("file a seq -1 type i\n", "line 1 at 0: increment of seq -1, more than 0 wanted");
    BAD("file \"a seq 1 type i\n", "line 1 at 0: quotes that do not close, or not at the end of a word");
    BAD("file \"a\"b seq 1 type i\n", "line 1 at 0: quotes that do not close, or not at the end of a word");
    BAD("file 'a'b seq 1 type i\n", "line 1 at 0: quotes that do not close, or not at the end of a word");
    BAD("file a seq 1 type 'i\\'\n", "line 1 at 0: quotes that do not close, or not at the end of a word");
    BAD("file a seq 1 type \"i\\\n", "line 1 at 0: quotes that do not close, or not at the end of a word");
    BAD("file a\0 seq 1 type i\n", "line 1 at 0: line with a NUL byte");
    int n = snprintf(text, sizeof text, "file %0*d seq 1 type b\n", 1024 - 19, 0);
    assert_int_equal(n, 1024);
    rdbkit_manifest *m = rdbkit_manifest_parse(NULL, text, 1024, NULL);
    assert_non_null(m);
    rdbkit_manifest_free(m);
    snprintf(text, sizeof text, "file %0*d seq 1 type b\n", 1025 - 19, 0);
    manifest_bad(text, 1025, "line 1 at 0: line of more than 1024 bytes");
    memset(text, '#', 1030); /* servers take the rest of a long comment for a line */
    text[1024] = 'x', text[1029] = '\n';
    snprintf(message, sizeof message, "line 2 at 1024: 1 words, an even number of at least 6 wanted");
    manifest_bad(text, 1030, message);
}

static void manifest_allocations_may_fail(void **state) {
    (void)state;
    static const char text[] = "file a seq 1 type b\nfile b seq 1 type i\nfile c seq 2 type i\nfile d seq 3 "
                               "type i\nfile e seq 4 type i\n"
                               "file f seq 5 type i\nfile g seq 9 type h\n";
    for (uint64_t fail_at = 1;; fail_at++) {
        tk_memory m = {.fail_at = fail_at};
        rdbkit_allocator al = tk_allocator(&m);
        rdbkit_error e;
        rdbkit_manifest *mf = rdbkit_manifest_parse(&al, text, sizeof text - 1, &e);
        assert_int_equal(e.code, mf ? RDBKIT_OK : RDBKIT_ERR_NOMEM);
        int done = mf != NULL;
        if (mf) assert_int_equal(rdbkit_manifest_count(mf), 7);
        rdbkit_manifest_free(mf);
        assert_int_equal(m.live, 0);
        if (m.misuse) fail_msg("%s", m.misuse);
        if (done) break;
    }
    rdbkit_manifest_free(NULL);
}

static rdbkit_manifest_file entry(const char *name, int64_t seq, char type) {
    rdbkit_manifest_file f = {{name, strlen(name)}, seq, type, -1, -1, 0};
    return f;
}

static void manifest_lines_are_written_as_servers_do(void **state) {
    (void)state;
    char buf[RDBKIT_MANIFEST_LINE_MAX];
    rdbkit_manifest_file f = entry("appendonly.aof.1.base.rdb", 1, 'b');
    assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f), 44);
    assert_string_equal(buf, "file appendonly.aof.1.base.rdb seq 1 type b\n");
    assert_int_equal(rdbkit_manifest_line(buf, 45, &f), 44);
    assert_int_equal(rdbkit_manifest_line(buf, 44, &f), RDBKIT_ERR_LIMIT);
    f = entry("a", 12, 'i');
    f.start_offset = 5, f.end_offset = 9;
    rdbkit_manifest_line(buf, sizeof buf, &f);
    assert_string_equal(buf, "file a seq 12 type i startoffset 5 endoffset 9\n");
    f = entry("a b", 1, 'h');
    rdbkit_manifest_line(buf, sizeof buf, &f);
    assert_string_equal(buf, "file \"a b\" seq 1 type h\n");
    static const char *const names[] = {"", "a/b", "a\\b"};
    for (size_t i = 0; i < 3; i++) {
        f = entry(names[i], 1, 'b');
        assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f), RDBKIT_ERR_USAGE);
    }
    f = entry("a", 0, 'b');
    assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f), RDBKIT_ERR_USAGE);
    f = entry("a", 1, 'B');
    assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f), RDBKIT_ERR_USAGE);
    f.name.data = "a\0b", f.name.len = 3, f.type = 'b';
    assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f), RDBKIT_ERR_USAGE);
}

static void any_name_comes_back_from_its_line(void **state) {
    (void)state;
    char name[1030], buf[RDBKIT_MANIFEST_LINE_MAX];
    for (int i = 1; i < 256; i++) {
        if (i == '/' || i == '\\') continue;
        snprintf(name, sizeof name, "%cx%c", i, i);
        rdbkit_manifest_file f = entry(name, INT64_MIN, 'b');
        int n = rdbkit_manifest_line(buf, sizeof buf, &f);
        assert_true(n > 0);
        rdbkit_manifest *m = rdbkit_manifest_parse(NULL, buf, (size_t)n, NULL);
        assert_non_null(m);
        assert_string_equal(rdbkit_manifest_at(m, 0)->name.data, name);
        assert_true(rdbkit_manifest_at(m, 0)->seq == INT64_MIN);
        rdbkit_manifest_free(m);
    }
    for (int len = 990; len < 1030; len++) {
        memset(name, 'n', sizeof name);
        name[len] = 0;
        rdbkit_manifest_file f = entry(name, 1, 'b');
        assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f),
                         len <= 1005 ? len + 19 : RDBKIT_ERR_LIMIT);
    }
    memset(name, 1, 600);
    name[600] = 0;
    rdbkit_manifest_file f = entry(name, 1, 'b');
    assert_int_equal(rdbkit_manifest_line(buf, sizeof buf, &f), RDBKIT_ERR_LIMIT);
}

static void manifest_is_told_by_its_first_line(void **state) {
    (void)state;
    char text[1100];
#define IS(text) rdbkit_is_manifest(text, sizeof(text) - 1)
    assert_true(IS("file a seq 1 type b\n"));
    assert_true(IS("# x\n#\nfile "));
    assert_false(IS(""));
    assert_false(IS("file"));
    assert_false(IS("files a"));
    assert_false(IS(" file a"));
    assert_false(IS("#TS:1\r\n*1\r\n"));
    assert_false(IS("# x\n"));
    assert_false(IS("# x"));
    assert_false(IS("REDIS0011"));
    assert_false(IS(PING));
    memset(text, '#', sizeof text);
    memcpy(text + 1024, "file ", 5); /* as redis-check-aof has it */
    assert_true(rdbkit_is_manifest(text, 1029));
    assert_false(rdbkit_is_manifest(NULL, 0));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_file_has_no_commands),
        cmocka_unit_test(commands_come_with_their_arguments),
        cmocka_unit_test(binary_arguments_pass),
        cmocka_unit_test(headers_are_read_as_servers_do),
        cmocka_unit_test(first_odd_header_is_told),
        cmocka_unit_test(any_two_bytes_pass_behind_an_argument),
        cmocka_unit_test(what_servers_refuse_is_damaged),
        cmocka_unit_test(header_lines_hold_up_to_128_bytes),
        cmocka_unit_test(cut_record_is_truncated_wherever_it_is_cut),
        cmocka_unit_test(truncation_says_where),
        cmocka_unit_test(transactions_are_followed_as_servers_do),
        cmocka_unit_test(select_changes_the_database),
        cmocka_unit_test(select_of_no_database_changes_nothing),
        cmocka_unit_test(annotations_hold_times),
        cmocka_unit_test(annotations_hold_up_to_1023_bytes),
        cmocka_unit_test(image_comes_before_the_records),
        cmocka_unit_test(image_alone_is_a_file),
        cmocka_unit_test(good_offset_is_never_inside_the_image),
        cmocka_unit_test(cut_or_damaged_image_is_the_readers_error),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(stated_numbers_allocate_nothing),
        cmocka_unit_test(long_command_in_pieces_is_whole),
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(answers_of_callbacks_stop_and_stay),
        cmocka_unit_test(file_without_visitor_is_checked),
        cmocka_unit_test(failed_read_is_an_io_error),
        cmocka_unit_test(cut_gzip_is_truncated),
        cmocka_unit_test(manifest_of_a_server_is_read),
        cmocka_unit_test(manifest_lines_may_vary_as_servers_allow),
        cmocka_unit_test(manifest_names_are_unquoted),
        cmocka_unit_test(manifest_that_servers_refuse_is_refused),
        cmocka_unit_test(manifest_allocations_may_fail),
        cmocka_unit_test(manifest_lines_are_written_as_servers_do),
        cmocka_unit_test(any_name_comes_back_from_its_line),
        cmocka_unit_test(manifest_is_told_by_its_first_line),
    };
    return cmocka_run_group_tests_name("aof", tests, NULL, NULL);
}
