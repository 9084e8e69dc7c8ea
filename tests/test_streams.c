/* test_streams.c - streams in memory (room xs_) and the commands that change them: each with its options, what is refused,
 * entries of a damaged file in any order, allocations that fail in turn, and random commands with what must hold after each.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../rdbkit.c"

/* ---- an allocator that knows all sizes, and may fail ---- */
typedef struct talloc {
    u64 used, calls, fail_at, bad;
} talloc;
static void *t_alloc(void *ctx, size_t n) {
    talloc *t = ctx;
    if (t->fail_at && ++t->calls >= t->fail_at) return NULL;
    u8 *p = malloc(n + 16);
    if (!p) return NULL;
    memcpy(p, &n, sizeof n);
    t->used += n;
    return p + 16;
}
static void t_free(void *ctx, void *ptr, size_t n) {
    talloc *t = ctx;
    if (!ptr) return;
    size_t had;
    memcpy(&had, (u8 *)ptr - 16, sizeof had);
    if (had != n) t->bad++;
    t->used -= had;
    free((u8 *)ptr - 16);
}
static void *t_realloc(void *ctx, void *ptr, size_t old, size_t n) {
    void *p = t_alloc(ctx, n);
    if (!p) return NULL;
    memcpy(p, ptr, old < n ? old : n);
    t_free(ctx, ptr, old);
    return p;
}

/* ---- dump ---- */
typedef struct tout {
    char *p;
    size_t len, cap;
    int times;
} tout;
static void t_put(tout *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void t_put(tout *o, const char *fmt, ...) {
    va_list ap;
    for (;;) {
        va_start(ap, fmt);
        const int n = vsnprintf(o->p + o->len, o->cap - o->len, fmt, ap);
        va_end(ap);
        if ((size_t)n < o->cap - o->len) {
            o->len += (size_t)n;
            return;
        }
        o->cap = o->cap * 2 + (size_t)n + 64;
        o->p = realloc(o->p, o->cap);
    }
}
static void t_str(tout *o, rdbkit_str s) {
    t_put(o, " ");
    for (size_t i = 0; i < s.len; i++) {
        const u8 c = (u8)s.data[i];
        if (c > 32 && c < 127 && c != '%') t_put(o, "%c", c);
        else t_put(o, "%%%02x", c);
    }
}
#define ID(i) (unsigned long long)(i).ms, (unsigned long long)(i).seq
static int d_key(void *u, const rdbkit_key *k) {
    t_put(u, "\nK");
    t_str(u, k->name);
    return 0;
}
static int d_entry(void *u, rdbkit_stream_id id, uint64_t n) {
    t_put(u, "\nE %llu-%llu %llu", ID(id), (unsigned long long)n);
    return 0;
}
static int d_field(void *u, rdbkit_str f, rdbkit_str v) {
    t_str(u, f);
    t_str(u, v);
    return 0;
}
static int d_info(void *u, const rdbkit_stream_info *i) {
    t_put(u, "\nI %llu last %llu-%llu first %llu-%llu del %llu-%llu added %llu groups %llu",
          (unsigned long long)i->length, ID(i->last_id), ID(i->first_id), ID(i->max_deleted),
          (unsigned long long)i->entries_added, (unsigned long long)i->groups);
    return 0;
}
static int d_group(void *u, const rdbkit_stream_group *g) {
    t_put(u, "\nG");
    t_str(u, g->name);
    t_put(u, " last %llu-%llu read %lld pel %llu cons %llu", ID(g->last_id), (long long)g->entries_read,
          (unsigned long long)g->pending, (unsigned long long)g->consumers);
    return 0;
}
static int d_consumer(void *u, const rdbkit_stream_consumer *c) {
    tout *o = u;
    t_put(u, "\nC");
    t_str(u, c->name);
    t_put(u, " pel %llu", (unsigned long long)c->pending);
    if (o->times) t_put(u, " seen %lld active %lld", (long long)c->seen_ms, (long long)c->active_ms);
    return 0;
}
static int d_pending(void *u, const rdbkit_stream_pending *p) {
    t_put(u, "\nP %llu-%llu time %lld count %llu", ID(p->id), (long long)p->delivery_ms,
          (unsigned long long)p->delivery_count);
    return 0;
}
static rdbkit_visitor t_visitor(tout *o) {
    rdbkit_visitor v;
    memset(&v, 0, sizeof v);
    v.user = o, v.key = d_key, v.stream_entry = d_entry, v.stream_field = d_field, v.stream_info = d_info;
    v.stream_group = d_group, v.stream_consumer = d_consumer, v.stream_pending = d_pending;
    return v;
}

/* ---- commands ---- */
static const struct {
    const char *name;
    int (*run)(rdbkit_keyspace *, const rdbkit_str *, size_t);
    size_t least;
} rows[] = {{"xadd", cmd_xadd, 5},
            {"xtrim", cmd_xtrim, 4},
            {"xdel", cmd_xdel, 3},
            {"xsetid", cmd_xsetid, 3},
            {"xgroup", cmd_xgroup, 2},
            {"xack", cmd_xack, 4},
            {"xclaim", cmd_xclaim, 6},
            {"xdelex", cmd_xdelex, 5},
            {"xackdel", cmd_xackdel, 6},
            {"xcfgset", cmd_xcfgset, 2},
            {"xidmprecord", cmd_xidmprecord, 5},
            {"xreadgroup", cmd_xreadgroup, 7},
            {"xautoclaim", cmd_xautoclaim, 6}};
static int t_run(rdbkit_keyspace *ks, const rdbkit_str *a, size_t n, i64 ts) {
    const rdbkit_command c = {.argv = a, .argc = n, .timestamp_s = ts};
    int st = -1;
    ks->command = &c;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (cmd_is(a[0], rows[i].name)) {
            /* exact copies: reading past an argument is seen */
            rdbkit_str *b = malloc(n * sizeof *b);
            for (size_t j = 0; j < n; j++) {
                char *p = malloc(a[j].len ? a[j].len : 1);
                if (a[j].len) memcpy(p, a[j].data, a[j].len);
                b[j] = (rdbkit_str){p, a[j].len};
            }
            st = n < rows[i].least ? KS_REFUSED : rows[i].run(ks, b, n);
            for (size_t j = 0; j < n; j++) {
                union {
                    const char *c;
                    char *p;
                } x = {b[j].data};
                free(x.p);
            }
            free(b);
        }
    ks->command = NULL;
    return st;
}
/* Words between blanks; @ is an empty one. */
static int t_do(rdbkit_keyspace *ks, const char *text) {
    rdbkit_str a[600];
    size_t n = 0;
    while (*text) {
        const size_t len = strcspn(text, " ");
        a[n++] = len == 1 && *text == '@' ? (rdbkit_str){"", 0} : (rdbkit_str){text, len};
        text += len;
        while (*text == ' ') text++;
    }
    return t_run(ks, a, n, ks->opt.now_ms ? RDBKIT_NO_TIMESTAMP : 77); /* a timestamp is the time */
}
static int fails, checks;
static rdbkit_keyspace *K;
static char *t_dump(rdbkit_keyspace *ks) {
    tout o = {malloc(64), 0, 64, 1};
    o.p[0] = 0;
    const rdbkit_visitor v = t_visitor(&o);
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    if (ks_emit(ks, &ro, &v) < 0) t_put(&o, "EMIT FAILS");
    return o.p;
}
static void ok(const char *cmd) {
    checks++;
    const int st = t_do(K, cmd);
    if (st) fails++, printf("FAIL %d: %s\n", st, cmd);
}
static void no(const char *cmd) {
    char *before = t_dump(K);
    checks++;
    const int st = t_do(K, cmd);
    char *after = t_dump(K);
    if (st != KS_REFUSED || strcmp(before, after) != 0)
        fails++, printf("FAIL not refused (%d): %s\n", st, cmd);
    free(before), free(after);
}
static void is(const char *want) {
    char *have = t_dump(K);
    checks++;
    if (strcmp(have, want) != 0) fails++, printf("FAIL want:%s\nhave:%s\n", want, have);
    free(have);
}
static void same(void) { /* a copy through events and frozen records alike gives the same */
    for (u32 i = 0; K->at && i < K->at->keys.used; i++) {
        ks_key *k = K->at->keys.item[i];
        tout a = {malloc(64), 0, 64, 1}, b = {malloc(64), 0, 64, 1};
        if (!k || k->shape != RDBKIT_STREAM) {
            free(a.p), free(b.p);
            continue;
        }
        K->made = xs_new(&K->env);
        xs_emit(k->v.p, 1, &K->thaw.v);
        rdbkit_visitor va = t_visitor(&a), vb = t_visitor(&b);
        xs_emit(k->v.p, 1, &va), xs_emit(K->made, 1, &vb);
        checks++;
        if (strcmp(a.p, b.p) != 0) fails++, printf("FAIL copy differs:%s\ncopy:%s\n", a.p, b.p);
        xs_free(&K->env, K->made);
        K->made = NULL;
        free(a.p), free(b.p);
    }
}
static talloc T;
static rdbkit_allocator A = {t_alloc, t_realloc, t_free, &T};
static u64 n_events[RDBKIT_REPLAY_KIND_N];
static int on_event(void *ctx, const rdbkit_replay_event *ev) {
    (void)ctx;
    n_events[ev->kind]++;
    return 0;
}
static void fresh(i64 now) {
    rdbkit_keyspace_options o;
    memset(&o, 0, sizeof o);
    o.allocator = &A, o.now_ms = now, o.on_event = on_event;
    if (K) same(), ks_free(K);
    if (T.used || T.bad)
        fails++, printf("FAIL memory: %llu left, %llu wrong sizes\n", (unsigned long long)T.used,
                        (unsigned long long)T.bad);
    memset(&T, 0, sizeof T), memset(n_events, 0, sizeof n_events);
    K = ks_new(&o);
    K->counted = A; /* past the keyspace's own chunks, so that each size and each overrun is seen */
}
static void ev(rdbkit_replay_kind kind, u64 n) {
    checks++;
    if (n_events[kind] != n)
        fails++, printf("FAIL event %d: %llu, want %llu\n", (int)kind, (unsigned long long)n_events[kind],
                        (unsigned long long)n);
}

#define I0(len, last, first, del, added, groups) \
    "\nI " len " last " last " first " first " del " del " added " added " groups " groups

static void units(void) {
    fresh(0);
    /* XADD */
    no("xadd k 0-0 a 1"), no("xadd k 0 a 1"), no("xadd k 1-1 a"), no("xadd k 1-1 a 1 b"), no("xadd k x a 1"),
        no("xadd k 1-1-1 a 1");
    no("xadd k -1 a 1"), no("xadd k 18446744073709551616 a 1"), no("xadd k 1-18446744073709551616 a 1"),
        no("xadd k @ a 1"), no("xadd k 1- a 1");
    no("xadd k maxlen 1 1-1"), no("xadd k maxlen -1 1-1 a 1"), no("xadd k maxlen x 1-1 a 1"),
        no("xadd k maxlen 01 1-1 a 1");
    no("xadd k maxlen 1 minid 1 1-1 a 1"), no("xadd k limit 5 1-1 a 1"),
        no("xadd k limit -1 maxlen 1 1-1 a 1"), no("xadd k minid x 1-1 a 1");
    ok("xadd k nomkstream 1-1 a 1");
    is("");
    ok("XADD k 0001-02 a 1 b -007 a 1"), ok("xadd k 1-3 a 9223372036854775807 b -9223372036854775808"),
        ok("xadd k LIMIT 0 2 @ @ x 0");
    no("xadd k 2 a 1"), no("xadd k 1-9 a 1"), no("xadd k maxlen 0 2-0 a 1");
    ok("xadd k nomkstream maxlen = 3 limit 7 3-* a -1");
    ok("xadd k 3-* a 01");
    is("\nK k\nE 1-3 2 a 9223372036854775807 b -9223372036854775808\nE 2-0 2   x 0\nE 3-0 1 a -1\nE 3-1 1 a "
       "01" I0("4", "3-1", "1-3", "0-0", "5", "0"));
    ok("xadd k maxlen 0 5-5 z z");
    is("\nK k" I0("0", "5-5", "0-0", "0-0", "6", "0"));
    ok("xadd k 18446744073709551615-18446744073709551615 a b");
    no("xadd k * a b"), no("xadd k 18446744073709551615-* a b");
    ok("xadd k2 18446744073709551615-18446744073709551614 a b"),
        ok("xadd k2 minid 18446744073709551615-18446744073709551615 18446744073709551615-* c d");
    is("\nK k\nE 18446744073709551615-18446744073709551615 1 a b" I0(
        "1", "18446744073709551615-18446744073709551615", "18446744073709551615-18446744073709551615", "0-0",
        "7", "0") "\nK k2\nE 18446744073709551615-18446744073709551615 1 c d" I0("1",
                                                                                 "18446744073709551615-"
                                                                                 "18446744073709551615",
                                                                                 "18446744073709551615-"
                                                                                 "18446744073709551615",
                                                                                 "0-0", "2", "0"));
    fresh(1000);
    ok("xadd k * a b"), ok("xadd k * a b"), ok("xadd k 2000-5 a b"), ok("xadd k * a b"),
        ev(RDBKIT_REPLAY_RELATIVE, 3);
    is("\nK k\nE 1000-0 1 a b\nE 1000-1 1 a b\nE 2000-5 1 a b\nE 2000-6 1 a b" I0("4", "2000-6", "1000-0",
                                                                                  "0-0", "4", "0"));
    ok("xadd k idmp p i * a b"), ok("xadd k idmpauto p * a b"), ev(RDBKIT_REPLAY_RELATIVE, 3);
    no("xadd k idmp p 1-1"), no("xadd k idmpauto * a b");
    ok("xadd k idmp p i 3000 a b"), ok("xadd k keepref idmpauto maxlen minid 2000-6 3001 a b");
    is("\nK k\nE 2000-6 1 a b\nE 3000-0 1 a b\nE 3001-0 1 a b" I0("3", "3001-0", "2000-6", "0-0", "6", "0"));
    fresh(0);
    /* XTRIM, XDEL, XSETID */
    for (int i = 1; i <= 9; i++) {
        char t[64];
        snprintf(t, sizeof t, "xadd k %d-1 n %d", i, i);
        ok(t);
    }
    no("xtrim k foo 1"), no("xtrim k maxlen 1 2"), no("xtrim k maxlen"), no("xtrim k limit 1"),
        no("xtrim k maxlen = = 1"), no("xtrim k keepref acked");
    ok("xtrim none maxlen 0"), no("xtrim none maxlen x");
    ok("xtrim k maxlen ~ 100 limit 3"), ok("xtrim k minid ~ 1-1"), ev(RDBKIT_REPLAY_UNSURE, 0);
    ok("xtrim k maxlen ~ 3"), ok("xtrim k minid ~ 5"), ev(RDBKIT_REPLAY_UNSURE, 2);
    ok("xtrim k minid = 3"), ok("xtrim k maxlen 6 limit 1");
    ok("xdel k 5-1 5-1 77-1"), ok("xdel none x"), no("xdel k 6-1 x"), no("xdel k -"), ok("xdel k 4-1 +9-1");
    is("\nK k\nE 6-1 1 n 6\nE 7-1 1 n 7\nE 8-1 1 n 8" I0("3", "9-1", "6-1", "9-1", "9", "0"));
    no("xsetid none 1"), no("xsetid k 8-1"), no("xsetid k 9-0"), no("xsetid k x"), no("xsetid k 10 foo 1"),
        no("xsetid k 10 entriesadded");
    no("xsetid k 10 entriesadded 2"), no("xsetid k 10 entriesadded -1"), no("xsetid k 10 maxdeletedid 11"),
        no("xsetid k 10 entriesadded 3 maxdeletedid");
    ok("xsetid k 10 maxdeletedid 0-0"), ok("xsetid k 11-2 ENTRIESADDED 3 maxdeletedid 2-2");
    is("\nK k\nE 6-1 1 n 6\nE 7-1 1 n 7\nE 8-1 1 n 8" I0("3", "11-2", "6-1", "2-2", "3", "0"));
    ok("xsetid k 8-1"), ok("xadd k 8-7 n between"), ok("xadd k 9-1 n again"), ok("xadd k 9-2 n last");
    is("\nK k\nE 6-1 1 n 6\nE 7-1 1 n 7\nE 8-1 1 n 8\nE 8-7 1 n between\nE 9-1 1 n again\nE 9-2 1 n last" I0(
        "6", "9-2", "6-1", "2-2", "6", "0"));
    ok("xtrim k minid ~ 10"), ev(RDBKIT_REPLAY_UNSURE, 2);
    is("\nK k" I0("0", "9-2", "0-0", "2-2", "6", "0"));
    ok("xsetid k 4"), ok("xadd k 4-1 a b"), ok("xtrim k maxlen ~ 0"), ev(RDBKIT_REPLAY_UNSURE, 2);
    is("\nK k" I0("0", "4-1", "0-0", "2-2", "7", "0"));
    fresh(0);
    /* XGROUP */
    no("xgroup create k g $"), no("xgroup create k g 1 mkstream x"), no("xgroup create k g x mkstream"),
        no("xgroup create k g - mkstream"), no("xgroup create k g");
    no("xgroup create k g 1 mkstream entriesread -2"), no("xgroup create k g 1 mkstream entriesread"),
        no("xgroup foo"), no("xgroup"), no("xgroup destroy k g");
    no("xgroup create k g 1 mkstream entriesread 1 mkstream"), no("xgroup setid k g 1"),
        no("xgroup createconsumer k g c"), no("xgroup delconsumer k g c");
    is("");
    ok("xgroup help"), ok("xgroup CREATE k g $ MKSTREAM"), no("xgroup create k g $ mkstream"),
        ok("xgroup create k a 5-5 entriesread 7");
    ok("xgroup createconsumer k g z"), ok("xgroup createconsumer k g b"), ok("xgroup createconsumer k g z"),
        ok("xgroup delconsumer k g none");
    no("xgroup createconsumer k g"), no("xgroup createconsumer k g z y"), no("xgroup destroy k"),
        no("xgroup destroy k g x"), ok("xgroup destroy k none");
    is("\nK k" I0("0", "0-0", "0-0", "0-0", "0",
                  "2") "\nG a last 5-5 read 7 pel 0 cons 0\nG g last 0-0 read -1 pel 0 cons 2"
                       "\nC b pel 0 seen 77000 active -1\nC z pel 0 seen 77000 active -1");
    ok("xadd k 9 a b"), ok("xgroup setid k g $ entriesread 3"), no("xgroup setid k g"),
        no("xgroup setid k g 1 mkstream"), no("xgroup setid k g 1 entriesread"), no("xgroup setid k none 1");
    ok("xgroup setid k a +"), ok("xgroup delconsumer k g z"), no("xgroup setid k g 1 1 1");
    is("\nK k\nE 9-0 1 a b" I0(
        "1", "9-0", "9-0", "0-0", "1",
        "2") "\nG a last 18446744073709551615-18446744073709551615 read -1 pel 0 cons 0"
             "\nG g last 9-0 read 3 pel 0 cons 1\nC b pel 0 seen 77000 active -1");
    ok("xgroup destroy k g"), ok("xgroup setid k a -");
    is("\nK k\nE 9-0 1 a b" I0("1", "9-0", "9-0", "0-0", "1", "1") "\nG a last 0-0 read -1 pel 0 cons 0");
    fresh(5000);
    /* XCLAIM, XACK */
    ok("xadd k 1 a 1"), ok("xadd k 2 a 2"), ok("xadd k 3 a 3"), ok("xadd k 4 a 4"), ok("xgroup create k g 0"),
        ok("xgroup create k h 0");
    no("xclaim none g c 0 1"), no("xclaim k none c 0 1"), no("xclaim k g c x 1"), no("xclaim k g c 0 1 foo"),
        no("xclaim k g c 0 1 idle"), no("xclaim k g c 0 1 time x");
    no("xclaim k g c 0 1 retrycount 1x"), no("xclaim k g c 0 1 lastid -"), no("xclaim k g c 0 1 force 2"),
        no("xclaim k g c 0 1 lastid");
    ok("xclaim k g c 0 1 TIME 100 RETRYCOUNT 9223372036854775807 FORCE JUSTID LASTID 1-0");
    ok("xclaim k g d 0 2 3 99 time 300 justid force lastid 0-5"), ev(RDBKIT_REPLAY_RELATIVE, 0);
    ok("xclaim k g c 0 1 2 time 200"), ok("xclaim k g new 0 4 time 1"), ok("xclaim k g d 0 4 force");
    is("\nK k\nE 1-0 1 a 1\nE 2-0 1 a 2\nE 3-0 1 a 3\nE 4-0 1 a 4" I0(
        "4", "4-0", "1-0", "0-0", "4",
        "2") "\nG g last 1-0 read -1 pel 4 cons 3"
             "\nC c pel 2 seen 200 active 200\nP 1-0 time 200 count 9223372036854775808\nP 2-0 time 200 "
             "count 2"
             "\nC d pel 2 seen 5000 active 5000\nP 3-0 time 300 count 1\nP 4-0 time 5000 count 2\nC new pel "
             "0 seen 0 active -1\nG h last 0-0 read -1 pel 0 cons 0");
    ev(RDBKIT_REPLAY_RELATIVE, 1);
    ok("xclaim k g new 4800 3 4 time 400 retrycount -5 idle 4000"),
        ev(RDBKIT_REPLAY_RELATIVE, 2); /* 4700 and 0 since: too early */
    ok("xclaim k g new 4700 3 4 idle 4000"), ev(RDBKIT_REPLAY_RELATIVE, 3);
    ok("xdel k 2-0 4-0"), ok("xclaim k g new 0 2 4 4-0 time 1 force"), ev(RDBKIT_REPLAY_UNSURE, 1);
    ok("xack none g x"), ok("xack k none x"), no("xack k g 1 x"), ok("xack k g 3-0 77 3-0");
    is("\nK k\nE 1-0 1 a 1\nE 3-0 1 a 3" I0(
        "2", "4-0", "1-0", "4-0", "4",
        "2") "\nG g last 1-0 read -1 pel 1 cons 3"
             "\nC c pel 1 seen 200 active 200\nP 1-0 time 200 count 9223372036854775808\nC d pel 0 seen 5000 "
             "active 5000\nC new pel 0 seen 1000 active 1000\nG h last 0-0 read -1 pel 0 cons 0");
    ok("xgroup delconsumer k g c");
    ok("xclaim k g c 0 1 time -9 force justid"), ev(RDBKIT_REPLAY_RELATIVE, 4);
    ok("xreadgroup group g c streams k >"), ok("xautoclaim k g c 0 0"), ev(RDBKIT_REPLAY_UNSURE, 3);
    is("\nK k\nE 1-0 1 a 1\nE 3-0 1 a 3" I0(
        "2", "4-0", "1-0", "4-0", "4",
        "2") "\nG g last 1-0 read -1 pel 1 cons 3"
             "\nC c pel 1 seen 5000 active 5000\nP 1-0 time 5000 count 1\nC d pel 0 seen 5000 active 5000\nC "
             "new pel 0 seen 1000 active 1000\nG h last 0-0 read -1 pel 0 cons 0");
    fresh(0);
    /* old images */
    K->release = 602;
    ok("xadd k 1 a 1"), ok("xadd k 2 a 2"), ok("xgroup create k g 0"), ok("xclaim k g c 0 1 2 time 1 force"),
        ok("xclaim k g e 0 9 time 1 force"), ok("xdel k 2");
    ok("xclaim k g d 0 2 3 time 5 force"), ok("xsetid k 1-5");
    is("\nK k\nE 1-0 1 a 1" I0(
        "1", "1-5", "1-0", "2-0", "2",
        "1") "\nG g last 0-0 read -1 pel 2 cons 2\nC c pel 1 seen 77000 active 1\nP 1-0 time 1 count 2"
             "\nC d pel 1 seen 77000 active 5\nP 2-0 time 5 count 3"),
        ev(RDBKIT_REPLAY_UNSURE, 0);
    K->release = 700;
    ok("xclaim k g e 0 2 3 time 5 force"), ok("xsetid k 1-6");
    K->release = 702;
    no("xsetid k 1-7"), ok("xclaim k g e 0 3 time 5 force");
    is("\nK k\nE 1-0 1 a 1" I0(
        "1", "1-6", "1-0", "2-0", "2",
        "1") "\nG g last 0-0 read -1 pel 1 cons 3\nC c pel 1 seen 77000 active 1\nP 1-0 time 1 count 2"
             "\nC d pel 0 seen 77000 active 5\nC e pel 0 seen 77000 active -1"),
        ev(RDBKIT_REPLAY_UNSURE, 0);
    fresh(0);
    /* references */
    for (int i = 1; i <= 9; i++) {
        char t[64];
        snprintf(t, sizeof t, "xadd k %d n %d", i, i);
        ok(t);
    }
    ok("xgroup create k g 6"), ok("xgroup create k h 9"), ok("xclaim k g c 0 1 2 3 time 1 force justid"),
        ok("xclaim k h c 0 1 2 5 time 1 force justid");
    no("xdelex k ids 2 1"), no("xdelex k ids 0 1"), no("xdelex k foo ids 1 1"),
        no("xdelex k acked delref ids 1 1"), no("xdelex k ids 1 x"), no("xdelex k ids 1 1 2"),
        no("xdelex k acked ids x 1");
    ok("xdelex none ids 1 1"), ok("xackdel none g ids 1 1"), ok("xackdel k none ids 1 1");
    ok("xdelex k acked ids 4 1 4 7 99"), ok("xdelex k DELREF IDS 1 1"), ok("xdelex k ids 1 9"),
        ok("xackdel k g acked ids 3 2 3 4"), ok("xackdel k h ids 1 8");
    is("\nK k\nE 2-0 1 n 2\nE 5-0 1 n 5\nE 6-0 1 n 6\nE 7-0 1 n 7\nE 8-0 1 n 8" I0(
        "5", "9-0", "2-0", "9-0", "9",
        "2") "\nG g last 6-0 read -1 pel 0 cons 1\nC c pel 0 seen 77000 active 1\nG h last 9-0 read -1 pel 2 "
             "cons 1\nC c pel 2 seen 77000 active 1\nP 2-0 time 1 count 1\nP 5-0 time 1 count 1");
    ok("xackdel k h delref ids 1 2"), ok("xtrim k maxlen 1 acked"), ev(RDBKIT_REPLAY_UNSURE, 1);
    is("\nK k\nE 5-0 1 n 5\nE 7-0 1 n 7\nE 8-0 1 n 8" I0(
        "3", "9-0", "5-0", "9-0", "9",
        "2") "\nG g last 6-0 read -1 pel 0 cons 1\nC c pel 0 seen 77000 active 1\nG h last 9-0 read -1 pel 1 "
             "cons 1\nC c pel 1 seen 77000 active 1\nP 5-0 time 1 count 1");
    ok("xadd k delref minid 8 10 n 10");
    is("\nK k\nE 8-0 1 n 8\nE 10-0 1 n 10" I0(
        "2", "10-0", "8-0", "9-0", "10",
        "2") "\nG g last 6-0 read -1 pel 0 cons 1\nC c pel 0 seen 77000 active 1\nG h last 9-0 read -1 pel 0 "
             "cons 1\nC c pel 0 seen 77000 active 1");
    no("xcfgset k"), no("xcfgset k idmp-duration"), no("xcfgset k idmp-duration 0"), no("xcfgset k foo 1"),
        no("xcfgset none idmp-maxsize 5");
    ok("xcfgset k IDMP-DURATION 5 idmp-maxsize 10000"), ok("xidmprecord k p i 8-0"),
        no("xidmprecord k p i 7-0"), no("xidmprecord k @ i 8-0"), ev(RDBKIT_REPLAY_UNSURE, 3);
    /* another type */
    ks_key *k;
    fresh(0);
    (void)ks_set_string(K, (rdbkit_str){"s", 1}, (rdbkit_str){"x", 1}, &k);
    static const char *const wrong[] = {"xadd s 1 a b",
                                        "xtrim s maxlen 0",
                                        "xdel s 1",
                                        "xsetid s 1",
                                        "xgroup create s g $ mkstream",
                                        "xgroup destroy s g",
                                        "xack s g 1",
                                        "xclaim s g c 0 1",
                                        "xdelex s ids 1 1",
                                        "xackdel s g ids 1 1",
                                        "xcfgset s idmp-maxsize 1",
                                        "xidmprecord s p i 1",
                                        "xadd s nomkstream 1 a b"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) no(wrong[i]);
    fresh(0);
}

/* Entries from a damaged file: in no order, twice, with too few or too many fields. */
static void disorder(void) {
    u64 x = 88172645463325252ull;
    for (int round = 0; round < 60; round++) {
        fresh(0);
        xs_stream *s = xs_new(&K->env);
        enum { N = 700 };
        static u8 have[N];
        memset(have, 0, sizeof have);
        u64 live = 0;
        for (int i = 0; i < N; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            const u64 id = round % 3 == 0   ? (u64)(N - 1 - i)
                           : round % 3 == 1 ? x % N
                                            : (u64)(i ^ 5) % N,
                      f = x >> 40 & 3;
            xs_on_entry(&K->env, s, (rdbkit_stream_id){id / 7, id % 7}, f);
            char big[3000];
            memset(big, 'x', sizeof big);
            for (u64 j = 0; j < f + (x >> 50 & 1); j++)
                xs_on_field(&K->env, s, (rdbkit_str){"fab" + j % 3, 1},
                            (rdbkit_str){big, round % 2 && x % 5 == 0 ? sizeof big : (size_t)(x % 7)});
            live += !have[id], have[id] = 1;
            if (x >> 20 & 1 && round % 4 == 0) {
                const u64 d = (x >> 21) % N;
                if (s->in) xs_in_end(&K->env, s);
                const int gone = xs_delete(&K->env, s, (rdbkit_stream_id){d / 7, d % 7});
                if (gone != have[d]) fails++, printf("FAIL disorder delete %d\n", gone);
                live -= have[d], have[d] = 0;
            }
        }
        rdbkit_stream_info info;
        memset(&info, 0, sizeof info);
        info.last_id.ms = 3;
        xs_on_info(&K->env, s, &info);
        rdbkit_stream_id prev = {0, 0};
        u64 n = 0, in_blocks = 0;
        xs_at at;
        xs_entry en;
        for (rdbkit_stream_id id = {0, 0}; xs_seek(s, id, &at, &en); id = en.id, id.seq++) {
            const u64 i = en.id.ms * 7 + en.id.seq;
            if ((n && strm_id_cmp(prev, en.id) >= 0) || i >= N || !have[i])
                fails++, printf("FAIL disorder at %llu\n", (unsigned long long)i);
            prev = en.id, n++;
        }
        for (u32 i = 0; i < s->blocks.n; i++) in_blocks += xs_block_at(s, i)->live;
        checks++;
        if (n != live || s->length != live || in_blocks != live || strm_id_cmp(xs_newest_id(s), prev) != 0)
            fails++, printf("FAIL disorder: %llu %llu want %llu\n", (unsigned long long)n,
                            (unsigned long long)s->length, (unsigned long long)live);
        xs_free(&K->env, s);
    }
    fresh(0);
}

/* Each allocation fails in turn: a status, and nothing is lost. */
static void no_memory(void) {
    static const char *const script[] =
        {"xadd k 1 a 1 b 2",
         "xadd k 2 a 1 c "
         "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
         "xgroup create k g 0",
         "xclaim k g c 0 1 2 time 1 force",
         "xclaim k g d 0 1 2 time 1 force",
         "xgroup createconsumer k g e",
         "xsetid k 9",
         "xadd k 10 a 1",
         "xgroup create l h $ mkstream",
         "xdel k 2",
         "xack k g 2",
         "xgroup delconsumer k g d",
         "xadd k maxlen 1 11 a b",
         "xgroup destroy k g"};
    for (u64 at = 1; at < 200; at++) {
        fresh(0);
        T.fail_at = at + T.calls;
        T.calls = 0, T.fail_at = at;
        int st = 0;
        for (size_t i = 0; i < sizeof script / sizeof script[0] && st >= 0; i++) st = t_do(K, script[i]);
        const u64 calls = T.calls;
        T.fail_at = 0;
        if (st >= 0 && calls >= at)
            fails++, printf("FAIL allocation %llu unnoticed\n", (unsigned long long)at);
        checks++;
        if (st < 0 && st != RDBKIT_ERR_NOMEM) fails++, printf("FAIL status %d\n", st);
        if (st >= 0) break;
        /* emission still works */
        char *d = t_dump(K);
        free(d);
        ks_free(K), K = NULL;
    }
    fresh(0);
}

static u64 pick(u64 *x, u64 n) {
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return (*x >> 11) % n;
}

/* Random words in random places; what must hold, holds. */
static void fuzz(u64 x, int n) {
    static const char *const w[] = {"k",
                                    "k",
                                    "k",
                                    "l",
                                    "g",
                                    "h",
                                    "c",
                                    "d",
                                    "1",
                                    "2",
                                    "3-1",
                                    "4",
                                    "5-*",
                                    "6",
                                    "7",
                                    "0",
                                    "-1",
                                    "9-9",
                                    "*",
                                    "$",
                                    "maxlen",
                                    "minid",
                                    "~",
                                    "=",
                                    "limit",
                                    "acked",
                                    "delref",
                                    "keepref",
                                    "ids",
                                    "force",
                                    "justid",
                                    "time",
                                    "idle",
                                    "retrycount",
                                    "lastid",
                                    "mkstream",
                                    "entriesread",
                                    "entriesadded",
                                    "maxdeletedid",
                                    "nomkstream",
                                    "idmp",
                                    "idmpauto",
                                    "create",
                                    "setid",
                                    "destroy",
                                    "createconsumer",
                                    "delconsumer",
                                    "a",
                                    "b"};
    fresh(1000);
    for (int i = 0; i < n; i++) {
        rdbkit_str a[14];
        size_t argc = 0;
#define PICK(m) pick(&x, m)
#define ADD(s) (a[argc].data = (s), a[argc].len = strlen(a[argc].data), argc++)
        char num[5][32];
        for (int j = 0; j < 5; j++)
            snprintf(num[j], 32, "%llu-%llu", (unsigned long long)(i / 40 + (int)PICK(60)),
                     (unsigned long long)PICK(2));
        const size_t r = (size_t)PICK(13);
        ADD(rows[r].name);
        if (PICK(4)) { /* likely good */
            const char *name = rows[r].name;
            if (!strcmp(name, "xgroup")) {
                ADD(w[42 + PICK(5)]);
                ADD("k");
                ADD(w[4 + PICK(2)]);
                ADD(PICK(2) ? num[0] : w[6 + PICK(2)]);
                if (!PICK(4)) ADD("mkstream");
            } else if (!strcmp(name, "xadd")) {
                ADD("k");
                if (PICK(8) == 0) {
                    ADD(w[20 + PICK(2)]);
                    ADD(PICK(2) ? num[0] : "60");
                    if (PICK(2)) ADD(w[25 + PICK(3)]);
                }
                ADD(PICK(2) ? "*" : num[1]);
                ADD(w[PICK(48)]);
                ADD(w[PICK(48)]);
            } else if (!strcmp(name, "xclaim")) {
                ADD("k");
                ADD(w[4 + PICK(2)]);
                ADD(w[6 + PICK(2)]);
                ADD("0");
                ADD(num[0]);
                ADD(num[1]);
                ADD(num[2]);
                ADD("force");
                ADD("time");
                ADD("5");
            } else if (!strcmp(name, "xdelex") || !strcmp(name, "xackdel")) {
                ADD("k");
                if (name[1] == 'a') ADD(w[4 + PICK(2)]);
                if (PICK(3)) ADD(w[25 + PICK(3)]);
                ADD("ids");
                ADD("3");
                ADD(num[0]);
                ADD(num[1]);
                ADD(num[2]);
            } else if (!strcmp(name, "xack")) {
                ADD("k");
                ADD(w[4 + PICK(2)]);
                ADD(num[0]);
                ADD(num[1]);
            } else if (!strcmp(name, "xtrim")) {
                ADD("k");
                ADD(w[20 + PICK(2)]);
                ADD(PICK(2) ? num[0] : "90");
                ADD(w[25 + PICK(3)]);
            } else {
                ADD("k");
                ADD(num[0]);
                if (PICK(2)) ADD(num[1]);
            }
        }
        while (argc < 3 || (argc < 13 && PICK(8) == 0)) ADD(w[PICK(sizeof w / sizeof w[0])]);
        const int st = t_run(K, a, argc, 5);
        if (st < 0) {
            fails++;
            printf("FAIL fuzz status %d\n", st);
            return;
        }
        if (i % 512) continue;
        ks_key *k = ks_find(K, (rdbkit_str){"k", 1});
        if (!k) continue;
        const xs_stream *s = k->v.p;
        u64 live = 0;
        xs_group **g;
        for (u32 j = 0; j < s->blocks.n; j++) live += xs_block_at(s, j)->live;
        checks++;
        if (live != s->length) fails++, printf("FAIL fuzz length\n");
        for (xs_place at = {0, 0}; (g = xs_sorted_next(&xs_groups, &s->groups, &at)) != NULL;) {
            u64 sum = 0, all = 0;
            xs_consumer **c;
            const xs_pending *p, *prev = NULL;
            for (xs_place in = {0, 0}; (c = xs_sorted_next(&xs_consumers, &(*g)->consumers, &in)) != NULL;)
                sum += (*c)->pending;
            for (xs_place in = {0, 0}; (p = xs_sorted_next(&xs_pendings, &(*g)->pending, &in)) != NULL;
                 prev = p, all++)
                if (prev && strm_id_cmp(prev->id, p->id) >= 0) fails++, printf("FAIL fuzz order\n");
            if (sum != (*g)->pending.n || all != sum) fails++, printf("FAIL fuzz pending\n");
        }
    }
    fresh(0);
}

static void commands_do_what_servers_do(void **state) {
    (void)state;
    units();
    assert_int_equal(fails, 0);
}

static void entries_may_come_in_any_order(void **state) {
    (void)state;
    disorder();
    assert_int_equal(fails, 0);
}

static void each_allocation_may_fail(void **state) {
    (void)state;
    no_memory();
    assert_int_equal(fails, 0);
}

static void random_commands_leave_streams_sound(void **state) {
    (void)state;
    for (u64 seed = 1; seed <= 6; seed++) fuzz(seed, 12000);
    assert_int_equal(fails, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_do_what_servers_do),
        cmocka_unit_test(entries_may_come_in_any_order),
        cmocka_unit_test(each_allocation_may_fail),
        cmocka_unit_test(random_commands_leave_streams_sound),
    };
    const int st = cmocka_run_group_tests(tests, NULL, NULL);
    ks_free(K);
    return st;
}
