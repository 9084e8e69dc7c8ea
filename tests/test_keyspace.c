/* test_keyspace.c - commands of append-only files in a keyspace: each with its options, as lines "commands => content";
 * payloads, transactions, frozen values, limits. The rooms under it: test_structs.c, test_streams.c.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "../rdbkit.c"

#include <cmocka.h>

#include "testkit.h"

#define TEST(name) static void name(void **state TK_USED)
#define N_OF(a) (sizeof(a) / sizeof(a)[0])

/* ---- The content as text ---- */

typedef struct dump {
    tk_bytes text;
    int first;
    rdbkit_shape shape;
} dump;

static PORT_PRINTF(2, 3) void say(dump *d, const char *fmt, ...) {
    char text[128];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tk_put(&d->text, text, (size_t)n);
}

/* Bytes that are no plain text, and those that a dump uses itself, come as ~61. */
static void say_str(dump *d, rdbkit_str s) {
    for (size_t i = 0; i < s.len; i++) {
        const unsigned char c = (unsigned char)s.data[i];
        if (c > 32 && c < 127 && !strchr("~\"\\", c)) tk_u8(&d->text, c);
        else say(d, "~%02x", c);
    }
}

static void sep(dump *d) {
    if (!d->first) say(d, " ");
    d->first = 0;
}

static int on_function(void *u, rdbkit_str code, int opcode) {
    (void)opcode;
    say(u, "function ");
    say_str(u, code);
    say(u, "; ");
    return 0;
}

static int on_key(void *u, const rdbkit_key *key) {
    dump *d = u;
    if (key->db) say(d, "%llu/", (unsigned long long)key->db);
    say_str(d, key->name);
    if (key->expire_ms != RDBKIT_NO_EXPIRY) say(d, "!%lld", (long long)key->expire_ms);
    if (key->idle_s != RDBKIT_NO_HINT) say(d, " idle %lld", (long long)key->idle_s);
    if (key->lfu_freq != RDBKIT_NO_HINT) say(d, " freq %d", key->lfu_freq);
    static const char *const open[] = {"=", "[", "{", "<", "(", "~[", "?"};
    d->shape = key->type->shape;
    say(d, "%s", open[d->shape]);
    d->first = 1;
    return 0;
}

static int on_string(void *u, rdbkit_str value) {
    say_str(u, value);
    return 0;
}

static int on_item(void *u, rdbkit_str item) {
    sep(u);
    say_str(u, item);
    return 0;
}

static int on_zset(void *u, rdbkit_str member, double score) {
    sep(u);
    say_str(u, member);
    say(u, ":%.15g", score);
    return 0;
}

static int on_hash(void *u, rdbkit_str field, rdbkit_str value, int64_t ms) {
    sep(u);
    say_str(u, field);
    say(u, ":");
    say_str(u, value);
    if (ms != RDBKIT_NO_EXPIRY) say(u, "!%lld", (long long)ms);
    return 0;
}

static int on_entry(void *u, rdbkit_stream_id id, uint64_t fields) {
    sep(u);
    say(u, "%llu-%llu*%llu", (unsigned long long)id.ms, (unsigned long long)id.seq,
        (unsigned long long)fields);
    return 0;
}

static int on_info(void *u, const rdbkit_stream_info *i) {
    sep(u);
    say(u, "last %llu-%llu", (unsigned long long)i->last_id.ms, (unsigned long long)i->last_id.seq);
    return 0;
}

static int on_group(void *u, const rdbkit_stream_group *g) {
    say(u, " group ");
    say_str(u, g->name);
    return 0;
}

static int on_consumer(void *u, const rdbkit_stream_consumer *c) {
    say(u, " consumer ");
    say_str(u, c->name);
    return 0;
}

static int on_pending(void *u, const rdbkit_stream_pending *p) {
    say(u, " %llu-%llu", (unsigned long long)p->id.ms, (unsigned long long)p->id.seq);
    return 0;
}

static int on_end_of_key(void *u) {
    static const char *const close[] = {"", "]", "}", ">", ")", "]", ""};
    say(u, "%s; ", close[((dump *)u)->shape]);
    return 0;
}

static char *dump_of(rdbkit_keyspace *ks) {
    dump d;
    memset(&d, 0, sizeof d);
    rdbkit_visitor v;
    memset(&v, 0, sizeof v);
    v.user = &d;
    v.function = on_function, v.key = on_key, v.string = on_string, v.list_item = on_item,
    v.set_member = on_item;
    v.zset_member = on_zset, v.hash_field = on_hash, v.stream_entry = on_entry, v.stream_info = on_info;
    v.stream_group = on_group, v.stream_consumer = on_consumer, v.stream_pending = on_pending,
    v.key_end = on_end_of_key;
    const int st = rdbkit_keyspace_emit(ks, NULL, &v);
    if (st != RDBKIT_DONE) fail_msg("emit: %d, %s", st, rdbkit_keyspace_error(ks)->message);
    if (d.text.len >= 2) d.text.len -= 2;
    tk_u8(&d.text, 0);
    return (char *)d.text.data;
}

/* ---- Commands as text ---- */

typedef struct bench {
    rdbkit_keyspace *ks;
    tk_memory memory;
    rdbkit_allocator allocator;
    uint64_t told[RDBKIT_REPLAY_KIND_N];
} bench;

static int on_event(void *ctx, const rdbkit_replay_event *event) {
    ((bench *)ctx)->told[event->kind]++;
    return 0;
}

static void bench_open(bench *b, const rdbkit_keyspace_options *options) {
    rdbkit_keyspace_options o;
    memset(b, 0, sizeof *b);
    rdbkit_keyspace_options_init(&o);
    if (options) o = *options;
    b->allocator = tk_allocator(&b->memory);
    o.allocator = &b->allocator;
    o.now_ms = 1000000;
    o.on_event = on_event, o.on_event_ctx = b;
    b->ks = rdbkit_keyspace_new(&o);
    assert_non_null(b->ks);
}

static void bench_close(bench *b) {
    rdbkit_keyspace_free(b->ks);
    assert_null(b->memory.misuse);
    assert_int_equal(b->memory.live, 0);
}

static unsigned char used[512]; /* rows of the table that were run */

static int run_args(bench *b, const rdbkit_str *a, size_t n) {
    const rdbkit_command c = {.argv = a, .argc = n, .timestamp_s = RDBKIT_NO_TIMESTAMP};
    const cmd_row *row = cmd_find(a[0]);
    if (row && row != &cmd_reader_row) used[row - cmd_rows] = 1;
    return rdbkit_keyspace_command(b->ks, &c);
}

/* One command of words between blanks, or in quotes, where \n is a line end. Each lies in memory of its own length. */
static int run_text(bench *b, const char *text, size_t len) {
    rdbkit_str a[64] = {{NULL, 0}};
    char *copy[64];
    size_t n = 0;
    for (size_t i = 0; i < len && n < 64;) {
        const int quoted = text[i] == '"';
        char word[600];
        size_t to = 0;
        for (i += (size_t)quoted; i < len && text[i] != (quoted ? '"' : ' '); i++) {
            if (quoted && text[i] == '\\' && text[i + 1] == 'n') word[to++] = '\n', i++;
            else word[to++] = text[i];
        }
        if (quoted) i++;
        while (i < len && text[i] == ' ') i++;
        copy[n] = malloc(to + !to);
        assert_non_null(copy[n]);
        memcpy(copy[n], word, to);
        a[n] = (rdbkit_str){copy[n], to};
        n++;
    }
    const int st = run_args(b, a, n);
    while (n) free(copy[--n]);
    return st;
}

#define complain(...)                                                               \
    do {                                                                            \
        if (getenv("KEYSPACE_PRINT")) printf("PROBLEM " __VA_ARGS__), printf("\n"); \
        else fail_msg(__VA_ARGS__);                                                 \
    } while (0)

/* Commands between semicolons: ! has to be refused and change nothing, ? has to be unsure. */
static void run_all(bench *b, const char *text) {
    while (*text) {
        const char *end = strchr(text, ';');
        const size_t len = end ? (size_t)(end - text) : strlen(text);
        const int refused = *text == '!', unsure = *text == '?', mark = refused || unsure;
        char *before = refused ? dump_of(b->ks) : NULL;
        uint64_t told[RDBKIT_REPLAY_KIND_N];
        memcpy(told, b->told, sizeof told);
        const int st = run_text(b, text + mark, len - (size_t)mark);
        if (st) complain("%.*s: %d, %s", (int)len, text, st, rdbkit_keyspace_error(b->ks)->message);
        if ((b->told[RDBKIT_REPLAY_REFUSED] != told[RDBKIT_REPLAY_REFUSED]) != refused && !b->ks->in_multi &&
            strncmp(text, "EXEC", 4) != 0)
            complain("%.*s: %s", (int)len, text, refused ? "not refused" : "refused");
        if ((b->told[RDBKIT_REPLAY_UNSURE] != told[RDBKIT_REPLAY_UNSURE]) != unsure && !b->ks->in_multi)
            complain("%.*s: %s", (int)len, text, unsure ? "not unsure" : "unsure");
        if (before) {
            char *after = dump_of(b->ks);
            if (strcmp(before, after) != 0) fail_msg("%.*s changed %s to %s", (int)len, text, before, after);
            free(before);
            free(after);
        }
        text += len + (end != NULL);
    }
}

static void hold(bench *b, const char *name, const char *content) {
    char *got = dump_of(b->ks);
    if (strcmp(got, content) != 0) fail_msg("%s\n gave %s\n not  %s", name, got, content);
    free(got);
}

typedef struct line {
    const char *commands, *content;
} line;

static const line lines[] = {
    /* strings */
    {"SET a v;SET a w NX;SET b x XX;SET a y XX;SET c z NX", "a=y; c=z"},
    {"SET a v EX 5;SET b v PX 5;SET c v EXAT 5;SET d v PXAT 5;SET a w KEEPTTL;SET b w;SET c x GET",
     "a!1005000=w; b=w; c=x; d!5=v"},
    {"!SET a v EX 0;!SET a v EX x;!SET a v FOO;!SET a v EX;!SET a v EX 9223372036854775807;!SET a v EX -1",
     ""},
    {"SET a v;SET a w IFEQ x;SET a u IFEQ v;SET a t IFNE u;SET a s IFNE u;SET b s IFEQ v;SET b s IFNE v",
     "a=u; b=s"},
    {"RPUSH l a;!SET l v IFEQ a;SET l v", "l=v"},
    {"SETNX a 1;SETNX a 2;SETEX b 5 v;PSETEX c 5 v;!SETEX b 0 v;!PSETEX c -1 v;GETSET a 3;PEXPIREAT a "
     "99;GETSET a 4",
     "a=4; b!1005000=v; c!1000005=v"},
    {"RPUSH l a;!GETSET l v;SETNX l v", "l[a]"},
    {"APPEND a x;APPEND a yz;PEXPIREAT a 77;APPEND a \"\";APPEND b \"\";RPUSH l a;!APPEND l x",
     "a!77=xyz; b=; l[a]"},
    {"SETRANGE a 3 xy;SETRANGE a 0 \"\";SETRANGE b 0 \"\";!SETRANGE a -1 x;SETRANGE a 1 Z;RPUSH l "
     "a;!SETRANGE l 0 x",
     "a=~00Z~00xy; l[a]"},
    {"INCR a;INCRBY a 10;DECR a;DECRBY a 3;INCRBY a -7;DECR b", "a=0; b=-1"},
    {"SET a 9223372036854775807;!INCR a;SET b -9223372036854775808;!DECR b;!INCRBY b -1;!DECRBY b "
     "-9223372036854775808;SET c \" 1\";!INCR c;SET d x;!INCR d;!INCRBY d y;RPUSH l a;!INCR l",
     "a=9223372036854775807; b=-9223372036854775808; c=~201; d=x; l[a]"},
    {"SET a 5;PEXPIREAT a 88;INCR a", "a!88=6"},
    {"INCRBYFLOAT a 1.5;INCRBYFLOAT a 1.50;INCRBYFLOAT a 5e3;INCRBYFLOAT b -0;!INCRBYFLOAT a x;!INCRBYFLOAT "
     "a nan;!INCRBYFLOAT a inf;SET c x;!INCRBYFLOAT c 1;INCRBYFLOAT d 0x10;RPUSH l a;!INCRBYFLOAT l 1",
     "a=5003; b=0; c=x; d=16; l[a]"},
    {"MSET a 1 b 2 a 3;!MSET a 1 b;MSETNX c 1 a 5;MSETNX d 1 e 2;!MSETNX d 1 e", "a=3; b=2; d=1; e=2"},
    {"MSETEX 2 a 1 b 2;MSETEX 1 a 5 NX;MSETEX 2 a 6 b 7 XX PX 9;MSETEX 1 c 8 XX;MSETEX 1 a 9 KEEPTTL;MSETEX "
     "1 d 1 EXAT 4;!MSETEX 0 a 1;!MSETEX 2 a 1;!MSETEX x a 1;!MSETEX 1 a 1 FOO",
     "a!1000009=9; b!1000009=7; d!4000=1"},
    {"SET a v;GETDEL a;GETDEL b;RPUSH l a;!GETDEL l", "l[a]"},
    {"SET a v;GETEX a EX 5;SET b v;GETEX b PXAT 5;GETEX b PERSIST;SET c v;GETEX c;GETEX d EX 5;!GETEX a "
     "FOO;RPUSH l a;!GETEX l EX 5;SET d v;GETEX d PX 7;SET e v;GETEX e EXAT 7",
     "a!1005000=v; b=v; c=v; l[a]; d!1000007=v; e!7000=v"},
    {"SET a v;SET b w;DELEX a;DELEX b IFEQ x;DELEX b IFEQ w;SET c v;DELEX c IFNE v;DELEX c IFNE w;DELEX none "
     "IFEQ w;RPUSH l a;!DELEX l IFEQ a;!DELEX l IFEQ",
     "l[a]"},
    {"SET a v;DELIFEQ a w;DELIFEQ a v;SET b v;DELIFEQ b w;DELIFEQ none w;RPUSH l a;!DELIFEQ l a",
     "b=v; l[a]"},
    {"SETBIT s 7 1;SETBIT s 20 0;!SETBIT s 4294967296 1;!SETBIT s -1 1;!SETBIT s 1 2;SETBIT s 7 0;SETBIT s 1 "
     "1",
     "s=@~00~00"},
    {"SET a abc;SET b ab;SET c x;BITOP AND d a b;BITOP OR e a b c;BITOP XOR f a b;BITOP NOT g a;!BITOP NOT g "
     "a b;!BITOP FOO g a;BITOP OR a none;RPUSH l 1;!BITOP OR d l",
     "b=ab; c=x; d=ab~00; e=ybc; f=~00~00c; g=~9e~9d~9c; l[1]"},
    {"SET a abc;SET b ab;SET c x;BITOP DIFF d a b c;BITOP DIFF1 e a b c;BITOP ANDOR f a b c;BITOP ONE g a b "
     "c;!BITOP DIFF h a",
     "a=abc; b=ab; c=x; d=~00~00c; e=~18~00~00; f=ab~00; g=~18~00c"},
    {"BITFIELD n SET u8 #1 65 OVERFLOW FAIL INCRBY u8 8 255 SET u8 #3 66 OVERFLOW SAT INCRBY u8 #2 300 "
     "OVERFLOW WRAP INCRBY u8 #0 321;BITFIELD n GET u8 0;BITFIELD m GET u8 0;!BITFIELD n SET i65 0 "
     "1;!BITFIELD n SET u8 0;!BITFIELD n OVERFLOW x",
     "n=AA~ffB"},
    {"PFADD h a b c;PFADD h a;PFADD e;PFCOUNT h e;PFMERGE m h e;DEL h e m;SET p x;!PFADD p a;!PFCOUNT "
     "p;!PFMERGE m p",
     "p=x"},
    {"PFADD h a;PFDEBUG TODENSE h;DEL h;!PFDEBUG TODENSE none;!PFDEBUG FOO h;PFADD g x;!PFDEBUG FOO g;DEL g",
     ""},
    /* keys */
    {"SET a 1;SET b 2;SET c 3;DEL a x;UNLINK b;EXISTS c;TYPE c", "c=3"},
    {"SET a 1;EXPIREAT a 5;SET b 1;PEXPIREAT b 5;SET c 1;EXPIRE c 5;SET d 1;PEXPIRE d 5;PEXPIREAT none "
     "5;!PEXPIREAT a x;!PEXPIREAT a 5 FOO;!EXPIREAT a 9223372036854775807;!EXPIRE a 9223372036854775807",
     "a!5000=1; b!5=1; c!1005000=1; d!1000005=1"},
    {"SET a 1;PEXPIREAT a 5 XX;PEXPIREAT a 5 NX;PEXPIREAT a 9 NX;PEXPIREAT a 7 GT;PEXPIREAT a 6 GT;PEXPIREAT "
     "a 8 LT;PEXPIREAT a 3 LT XX;!PEXPIREAT a 1 NX XX;!PEXPIREAT a 1 GT LT;SET b 1;PEXPIREAT b 5 GT;SET c "
     "1;PEXPIREAT c 5 LT",
     "a!3=1; b=1; c!5=1"},
    {"SET a 1;PEXPIREAT a -5;SET b 1;PEXPIREAT b 0;SET c 1;PEXPIREAT c -1", "a!-5=1; b!0=1; c=1"},
    {"SET a 1;PEXPIREAT a 5;PERSIST a;PERSIST b", "a=1"},
    {"SET a 1;PEXPIREAT a 5;RENAME a b;!RENAME a b;SET c 3;RENAME b c;RENAME c c;!RENAME none none", "c!5=1"},
    {"SET a 1;SET b 2;RENAMENX a b;RENAMENX a c;RENAMENX b b;!RENAMENX none x", "b=2; c=1"},
    {"RPUSH l 1 2;PEXPIREAT l 6;RENAME l m;SET m2 x;RENAME m m2", "m2!6[1 2]"},
    {"SET a 1;PEXPIREAT a 5;MOVE a 1;SELECT 1;!MOVE a 1;SET b 2;SELECT 0;SET b 3;MOVE b 1;MOVE none 1;!MOVE "
     "b x;!MOVE b -1",
     "b=3; 1/a!5=1; 1/b=2"},
    {"SET a 1;PEXPIREAT a 5;COPY a b;COPY a b;SET c 3;COPY c b;COPY c b REPLACE;COPY a d DB 2;COPY none "
     "x;!COPY a a;!COPY a x DB;!COPY a x FOO;COPY a a DB 1",
     "a!5=1; b=3; c=3; 1/a!5=1; 2/d!5=1"},
    {"RPUSH l 1 2;SADD s 1 2;ZADD z 1 a;HSET h f v;XADD x 1-1 f v;COPY l l2;COPY s s2;COPY z z2;COPY h "
     "h2;COPY x x2;RPUSH l 3;SADD s 3;ZADD z 2 b;HSET h g w;XADD x 2-1 g w",
     "l[1 2 3]; s{1 2 3}; z<a:1 b:2>; h(f:v g:w); x~[1-1*1 2-1*1 last 2-1]; l2[1 2]; s2{1 2}; z2<a:1>; "
     "h2(f:v); x2~[1-1*1 last 1-1]"},
    {"SET a 1;SELECT 1;SET b 2;PEXPIREAT b 7;SWAPDB 0 1;SET c 3;!SWAPDB x 1;SWAPDB 5 5;SWAPDB 1 9",
     "b!7=2; 9/a=1; 9/c=3"},
    {"SET a 1;SELECT 3;SET a 2;FLUSHDB;SELECT 0;FLUSHDB ASYNC;SET b 1;!FLUSHDB FOO;!FLUSHALL SYNC ASYNC",
     "b=1"},
    {"SET a 1;SELECT 3;SET a 2;FLUSHALL SYNC;SET b 1", "3/b=1"},
    {"!SELECT x;!SELECT -1;!SELECT 2147483648;SELECT 2147483647;SET a 1;SELECT 0;SET a 2",
     "a=2; 2147483647/a=1"},
    {"SET {x}a 1;SET {x}b 2;SET other 3;SELECT 1;SET {x}c 1;CLUSTER FLUSHSLOT 16287;CLUSTER SETSLOT 1 "
     "STABLE;!CLUSTER FLUSHSLOT;!CLUSTER FLUSHSLOT 16384",
     "other=3"},
    {"SET {x}a 1;SET other 3;SFLUSH 16287 16287 SYNC;!SFLUSH 1 x;SET {x}a 2;TRIMSLOTS RANGES 1 16287 "
     "16287;!TRIMSLOTS RANGES 2 1 1;!TRIMSLOTS FOO 1 1 1;!TRIMSLOTS RANGES 0 1 1",
     "other=3"},
    {"FUNCTION LOAD \"#!lua name=lib\\ncode\";!FUNCTION LOAD \"#!lua name=lib\\nother\";FUNCTION LOAD "
     "REPLACE \"#!lua name=lib\\nmore\";FUNCTION LOAD \"#!lua name=b\\n1\";FUNCTION DELETE b;!FUNCTION "
     "DELETE b;!FUNCTION LOAD \"no line\";!FUNCTION LOAD FOO \"#!lua name=c\\n1\";FUNCTION LIST",
     "function #!lua~20name=lib~0amore"},
    {"FUNCTION LOAD \"#!lua name=lib\\ncode\";FUNCTION FLUSH", ""},
    /* lists */
    {"RPUSH l a b;LPUSH l c d;RPUSHX l e;LPUSHX l f;RPUSHX none x;LPUSHX none x;SET s x;!RPUSH s a;!LPUSHX s "
     "a",
     "l[f d c a b e]; s=x"},
    {"RPUSH l a b c d e f;LPOP l;RPOP l;LPOP l 2;RPOP l 0;LPOP none;!LPOP l -1;!LPOP l x;!RPOP l 1 2",
     "l[d e]"},
    {"RPUSH l a b;LPOP l 9;RPUSH m a b;RPOP m 2", ""},
    {"RPUSH l a b c;BLPOP none l 0;BRPOP l none 0;!BLPOP l x;!BRPOP l -1", "l[b]"},
    {"RPUSH l a b c d e;LMPOP 2 none l LEFT;LMPOP 1 l RIGHT COUNT 2;BLMPOP 0 1 l LEFT COUNT 1;!LMPOP 0 l "
     "LEFT;!LMPOP 1 l MIDDLE;!LMPOP 2 l LEFT;!LMPOP 1 l LEFT COUNT 0;!BLMPOP -1 1 l LEFT",
     "l[c]"},
    {"RPUSH l a b c;LINSERT l BEFORE b x;LINSERT l AFTER c y;LINSERT l BEFORE none z;LINSERT none BEFORE a "
     "b;!LINSERT l MIDDLE a b",
     "l[a x b c y]"},
    {"RPUSH l a b c;LSET l 0 x;LSET l -1 longer;!LSET l 3 x;!LSET l -4 x;!LSET none 0 x;!LSET l y x",
     "l[x b longer]"},
    {"RPUSH l a b a c a d a;LREM l 2 a;LREM l -1 a;LREM l 0 x;!LREM l x a;LREM none 0 a", "l[b c a d]"},
    {"RPUSH l a a;LREM l 0 a;RPUSH m a b c d e;LTRIM m 1 -2;!LTRIM m x 1;RPUSH n a b;LTRIM n 5 9;LTRIM none "
     "0 1",
     "m[b c d]"},
    {"RPUSH l a b c;LMOVE l m LEFT RIGHT;LMOVE l m RIGHT LEFT;LMOVE m m LEFT RIGHT;LMOVE none m LEFT "
     "LEFT;!LMOVE l m UP LEFT;BLMOVE l m LEFT LEFT 0;!BLMOVE m l LEFT LEFT x;SET s v;!LMOVE m s LEFT LEFT",
     "m[b a c]; s=v"},
    {"RPUSH l a b;RPOPLPUSH l m;BRPOPLPUSH l m 0;RPOPLPUSH m m;RPOPLPUSH none m;!BRPOPLPUSH m l -1",
     "m[b a]"},
    {"RPUSH l 3 1 2;SORT l STORE a;SORT l DESC LIMIT 1 2 STORE b;SORT l BY nosort STORE c;SET w_1 30;SET w_2 "
     "10;SET w_3 20;SORT l BY w_* STORE d;SORT l BY w_* GET # GET w_* GET x_* STORE e;SORT none STORE a",
     "l[3 1 2]; b[2 1]; c[3 1 2]; w_1=30; w_2=10; w_3=20; d[2 3 1]; e[2 10  3 20  1 30 ]"},
    {"RPUSH l b a c;!SORT l STORE x;SORT l ALPHA STORE x;SORT l ALPHA DESC STORE l;HSET h_a f 2;HSET h_b f "
     "1;HSET h_c f 3;SORT l BY h_*->f GET h_*->f STORE y;!SORT l ALPHA LIMIT 1 STORE x;!SORT l FOO STORE "
     "x;DEL h_a h_b h_c;SADD s 2 1;SORT s STORE t;ZADD z 1 5 2 4;SORT z BY nosort DESC STORE u",
     "l[c b a]; x[a b c]; y[1 2 3]; s{2 1}; t[1 2]; z<5:1 4:2>; u[4 5]"},
    {"SET s x;!SORT s STORE y;RPUSH l 1;SORT l ASC;DEL l", "s=x"},
    /* sets */
    {"SADD s a b;SADD s b c;SREM s a none;SREM none a;SET x v;!SADD x a;!SREM x a", "s{b c}; x=v"},
    {"SADD i 3 1 2;SADD i 1 9223372036854775807;SADD i x", "i{3 1 2 9223372036854775807 x}"},
    {"SADD s a;SREM s a;SADD t a b;SMOVE t u a;SMOVE t t b;SMOVE t u none;SMOVE none u a;SMOVE t u b;SET x "
     "v;!SMOVE u x a",
     "u{a b}; x=v"},
    {"SADD s a b;SPOP s 2;SADD t a b c;?SPOP t;?SPOP t 2;SPOP t 0;SPOP none;!SPOP t -1;!SPOP t 1 1;SADD u "
     "a;SPOP u",
     "t{a b c}"},
    {"SADD a 1 2 3;SADD b 2 3 4;SINTERSTORE i a b;SUNIONSTORE u a b;SDIFFSTORE d a b;SINTERSTORE i2 a "
     "none;SUNIONSTORE a a b;SDIFFSTORE b b none;SET x v;!SUNIONSTORE y x a",
     "a{1 2 3 4}; b{2 3 4}; i{2 3}; u{1 2 3 4}; d{1}; x=v"},
    {"SET x v;PEXPIREAT x 5;SADD a 1;SINTERSTORE x a a;SDIFFSTORE x a a", "a{1}"},
    /* sorted sets */
    {"ZADD z 1 a 2 b;ZADD z NX 5 a 3 c;ZADD z XX 9 b 1 d;ZADD z GT 1 b 10 a;ZADD z LT 1 b;ZADD z CH 4 e;ZADD "
     "z INCR 2 e;ZADD z XX INCR 5 none",
     "z<b:1 c:3 e:6 a:10>"},
    {"!ZADD z x a;!ZADD z nan a;!ZADD z NX XX 1 a;!ZADD z GT LT 1 a;!ZADD z NX GT 1 a;!ZADD z INCR 1 a 2 "
     "b;ZADD z inf a -inf b 0x10 c 1e3 d;ZADD y 5 a;SET s v;!ZADD s 1 a",
     "z<b:-inf c:16 d:1000 a:inf>; y<a:5>; s=v"},
    {"ZINCRBY z 1.5 a;ZINCRBY z -3 a;!ZINCRBY z x a;ZADD z inf b;!ZINCRBY z -inf b;ZINCRBY z 0 c",
     "z<a:-1.5 c:0 b:inf>"},
    /* a little above the middle between 1 and the next double: a sum that is rounded twice comes back to 1 */
    {"ZADD z 1 a;ZINCRBY z 1.1102230246251568e-16 a;ZINCRBY z -1 a", "z<a:2.22044604925031e-16>"},
    {"ZADD z 1 a 2 b 3 c 4 d 5 e 6 f;ZREM z a none;ZREMRANGEBYRANK z 0 0;ZREMRANGEBYSCORE z (3 4;ZPOPMIN "
     "z;ZPOPMAX z 1;!ZPOPMIN z x;!ZREMRANGEBYRANK z x 1;!ZREMRANGEBYSCORE z x 1;ZREM none a",
     "z<e:5>"},
    {"ZADD z 0 a 0 b 0 c 0 d;ZREMRANGEBYLEX z [b (d;!ZREMRANGEBYLEX z b d;ZREMRANGEBYLEX z (d +;ZADD y 1 "
     "a;ZPOPMAX y 5",
     "z<a:0 d:0>"},
    {"ZADD z 1 a 2 b 3 c 4 d 5 e;ZMPOP 1 z MIN;ZMPOP 2 none z MAX COUNT 2;BZMPOP 0 1 z MIN;!ZMPOP 1 z "
     "MIDDLE;BZPOPMIN none z 0;ZADD y 1 a 2 b;BZPOPMAX y 0;!BZPOPMAX y x",
     "y<a:1>"},
    {"ZADD a 1 x 2 y;ZADD b 10 y 20 z;ZUNIONSTORE u 2 a b;ZINTERSTORE i 2 a b;ZDIFFSTORE d 2 a b;ZUNIONSTORE "
     "w 2 a b WEIGHTS 2 3 AGGREGATE MAX;ZINTERSTORE m 2 a b AGGREGATE MIN;ZUNIONSTORE s 2 a b AGGREGATE "
     "SUM;!ZUNIONSTORE u 0 a;!ZUNIONSTORE u 3 a b;!ZUNIONSTORE u 2 a b FOO;!ZUNIONSTORE u 2 a b WEIGHTS "
     "1;!ZUNIONSTORE u 2 a b AGGREGATE AVG",
     "a<x:1 y:2>; b<y:10 z:20>; u<x:1 y:12 z:20>; i<y:12>; d<x:1>; w<x:2 y:30 z:60>; m<y:2>; s<x:1 y:12 "
     "z:20>"},
    {"SADD s x y;ZADD a 5 x;ZUNIONSTORE u 2 s a;ZINTERSTORE i 2 s a;ZDIFFSTORE d 2 s a;ZINTERSTORE u 2 s "
     "none;SET v v;!ZUNIONSTORE u 1 v;ZDIFFSTORE s 1 none",
     "a<x:5>; i<x:6>; d<y:1>; v=v"},
    {"ZADD z 1 a 2 b 3 c 4 d;ZRANGESTORE r z 1 2;ZRANGESTORE rr z 0 1 REV;ZRANGESTORE s z (1 +inf BYSCORE "
     "LIMIT 1 1;ZRANGESTORE t z +inf 2 BYSCORE REV LIMIT 0 2;ZADD l 0 a 0 b 0 c;ZRANGESTORE m l [b + "
     "BYLEX;ZRANGESTORE n z 9 10;!ZRANGESTORE r z x 1;!ZRANGESTORE r z 0 1 LIMIT 0 1;ZRANGESTORE z z 0 "
     "0;?ZRANGESTORE z l - + BYLEX LIMIT -1 1",
     "r<b:2 c:3>; rr<c:3 d:4>; s<c:3>; t<c:3 d:4>; l<a:0 b:0 c:0>; m<b:0 c:0>"},
    {"GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania;GEOADD g NX 1 1 Palermo;GEOADD g XX "
     "CH 2 2 none;!GEOADD g 181 1 x;!GEOADD g 1 86 x;!GEOADD g NX XX 1 1 x",
     "g<Palermo:3.4790999562307e+15 Catania:3.47944737079691e+15>"},
    {"GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania;GEORADIUS g 15 37 200 km STORE "
     "a;GEORADIUSBYMEMBER g Palermo 100 km STORE b;GEOSEARCHSTORE c g FROMMEMBER Catania BYRADIUS 10 "
     "km;GEOSEARCHSTORE d g FROMLONLAT 15 37 BYBOX 400 400 km ASC COUNT 1;GEORADIUS g 15 37 200 km ASC COUNT "
     "1 ANY STORE e;!GEOSEARCHSTORE c g FROMMEMBER none BYRADIUS 1 km;!GEORADIUS g 15 37 200 furlong STORE "
     "a;GEORADIUS g 15 37 200 km WITHDIST;!GEORADIUS g 15 37 200 km WITHDIST STORE a;GEOSEARCHSTORE f none "
     "FROMLONLAT 1 1 BYRADIUS 1 m",
     "g<Palermo:3.4790999562307e+15 Catania:3.47944737079691e+15>; a<Palermo:3.4790999562307e+15 "
     "Catania:3.47944737079691e+15>; b<Palermo:3.4790999562307e+15>; c<Catania:3.47944737079691e+15>; "
     "d<Catania:3.47944737079691e+15>; e<Palermo:3.4790999562307e+15>"},
    /* hashes */
    {"HSET h a 1 b 2;HSET h b 3;HMSET h c 4;!HSET h d e f;HSETNX h a 9;HSETNX h d 5;SET s v;!HSET s a "
     "b;!HSETNX s a b",
     "h(a:1 b:3 c:4 d:5); s=v"},
    {"HSET h a 1 b 2;HDEL h a none;HDEL none a;HSET g a 1;HDEL g a;HSET i a 1 b 2;HGETDEL i FIELDS 1 "
     "a;!HGETDEL i FIELDS 2 a;!HGETDEL i FOO 1 a;HGETDEL i FIELDS 1 b",
     "h(b:2)"},
    {"HINCRBY h a 5;HINCRBY h a -7;!HINCRBY h a x;HSET h b x;!HINCRBY h b 1;HSET h c "
     "9223372036854775807;!HINCRBY h c 1;HINCRBYFLOAT h d 1.5;HINCRBYFLOAT h d 0.25;!HINCRBYFLOAT h b "
     "1;!HINCRBYFLOAT h d x",
     "h(a:-2 b:x c:9223372036854775807 d:1.75)"},
    {"HSET h a 1 b 2;HPEXPIREAT h 99 FIELDS 1 a;HEXPIREAT h 7 FIELDS 1 b;HPERSIST h FIELDS 1 a;HEXPIRE h 5 "
     "FIELDS 2 a none;HPEXPIRE h 5 FIELDS 1 b;!HPEXPIREAT h x FIELDS 1 a;!HPEXPIREAT h 9 FIELDS 2 "
     "a;!HPEXPIREAT h 9 FOO 1 a;HPEXPIREAT none 9 FIELDS 1 a;!HPERSIST h FIELDS 0 a",
     "h(a:1!1005000 b:2!1000005)"},
    {"HSET h a 1;HPEXPIREAT h 9 XX FIELDS 1 a;HPEXPIREAT h 10 NX FIELDS 1 a;HPEXPIREAT h 11 NX FIELDS 1 "
     "a;HPEXPIREAT h 8 GT FIELDS 1 a;HPEXPIREAT h 20 LT FIELDS 1 a;HPEXPIREAT h 9 LT FIELDS 1 a;HSET h b "
     "1;HPEXPIREAT h 50 FIELDS 1 b;HSET h b 2;HPEXPIREAT h 60 FIELDS 1 b;HINCRBY h b 1",
     "h(a:1!9 b:3!60)"},
    {"HSETEX h FIELDS 1 a 1;HSETEX h PXAT 9 FIELDS 2 a 2 b 3;HSETEX h KEEPTTL FIELDS 1 a 4;HSETEX h FNX "
     "FIELDS 1 a 5;HSETEX h FXX FIELDS 1 b 6;HSETEX h EXAT 4 FIELDS 1 c 7;!HSETEX h FIELDS 2 a 1;!HSETEX h "
     "FOO FIELDS 1 a 1;HSETEX h EX 1 FIELDS 1 d 1;HSETEX h PX 1 FIELDS 1 e 1",
     "h(a:4!9 b:6 c:7!4000 d:1!1001000 e:1!1000001)"},
    {"HSET h a 1 b 2;HGETEX h PXAT 9 FIELDS 1 a;HGETEX h EXAT 9 FIELDS 1 b;HGETEX h PERSIST FIELDS 1 "
     "a;HGETEX h FIELDS 1 b;HGETEX h EX 1 FIELDS 1 a;HGETEX h PX 1 FIELDS 1 b;!HGETEX h FOO FIELDS 1 "
     "a;HGETEX none PXAT 9 FIELDS 1 a",
     "h(a:1!1001000 b:2!1000001)"},
    /* streams */
    {"XADD x 1-1 a 1;XADD x MAXLEN 1 2-1 b 2;XADD y NOMKSTREAM 1-1 a 1;XADD x MINID 2 3-* c 3;!XADD x 1-1 a "
     "1;XDEL x 2-1;XTRIM x MAXLEN 0;XSETID x 9-9",
     "x~[last 9-9]"},
    {"XADD x 1-1 a 1;XADD x 2-1 a 1;XGROUP CREATE x g 0;XGROUP CREATECONSUMER x g c;XCLAIM x g d 0 1-1 2-1 "
     "TIME 5 RETRYCOUNT 2 FORCE JUSTID LASTID 2-1;XACK x g 1-1;XGROUP SETID x g 1-1;XACKDEL x g IDS 1 "
     "2-1;XDELEX x IDS 1 1-1;XGROUP DELCONSUMER x g c;?XAUTOCLAIM x g c 0 0;?XREADGROUP GROUP g c STREAMS x "
     ">;?XCFGSET x IDMP-DURATION 5;!XIDMPRECORD x p i 1-1",
     "x~[last 2-1 group g consumer d]"},
    /* multi */
    {"MULTI;SET a 1;SET b 2;EXEC;SET c 3", "a=1; b=2; c=3"},
    {"MULTI;SET a 1;MULTI;SET b 2;EXEC", "a=1; b=2"},
    {"MULTI;SET a 1;DISCARD;SET b 2;EXEC", "a=1; b=2"},
    {"EXEC;SET a 1;EXEC", "a=1"},
    {"MULTI;SET a 1;INCR a;SELECT 2;SET b 1;EXEC;SET c 1", "a=2; 2/b=1; 2/c=1"},
    {"MULTI;SET a 1", ""},
    {"MULTI;SET a x;INCR a;SET b 1;EXEC", "a=x; b=1"},
    {"MULTI;EXEC;DISCARD;SET a 1", "a=1"},
    {"WATCH a;GET a;PING;PUBLISH a b;UNWATCH;TIME", ""},
    {"set a 1;SeT b 2;sElEcT 1;seT a 3", "a=1; b=2; 1/a=3"},
};

/* Whether a long double holds what it can: under valgrind, which has 64 bits for it, its largest number is infinite. */
static int has_long_double(void) {
    volatile long double largest = LDBL_MAX;
    return largest / 2 < largest;
}

TEST(commands_do_what_servers_do) {
    const int floats = has_long_double();
    if (!floats) print_message("NO LONG DOUBLE: lines with INCRBYFLOAT are skipped\n");
    for (size_t i = 0; i < N_OF(lines); i++) {
        bench b;
        if (!floats && strstr(lines[i].commands, "INCRBYFLOAT")) continue;
        bench_open(&b, NULL);
        if (getenv("KEYSPACE_PRINT")) {
            printf("@@%zu\n", i);
            run_all(&b, lines[i].commands);
            char *got = dump_of(b.ks);
            printf("@@%zu %s\n", i, got);
            free(got);
        } else {
            run_all(&b, lines[i].commands);
            hold(&b, lines[i].commands, lines[i].content);
        }
        bench_close(&b);
    }
}

/* Written and read again, all keys frozen, and the same commands once more: nothing but a status may come of it. */
TEST(each_allocation_of_commands_may_fail) {
    for (size_t i = 0; i < N_OF(lines); i++) {
        for (uint64_t at = 1;; at += 1 + at / 8) {
            bench b;
            bench_open(&b, NULL);
            b.memory.fail_at = b.memory.calls + at, b.memory.fail_on = 1;
            int st = 0;
            for (const char *text = lines[i].commands; !st && *text;) {
                const size_t len = strcspn(text, ";"), mark = *text == '!' || *text == '?';
                st = run_text(&b, text + mark, len - mark);
                text += len + (text[len] != 0);
            }
            b.memory.fail_at = 0;
            if (st) assert_int_equal(st, RDBKIT_ERR_NOMEM);
            assert_int_equal(rdbkit_keyspace_error(b.ks)->code, st);
            bench_close(&b);
            if (!st) break;
        }
    }
}

/* ---- RDB in and out ---- */

static int keep(void *ctx, const void *data, size_t len) {
    tk_put(ctx, data, len);
    return 0;
}

static void write_rdb(bench *b, const char *target, tk_bytes *out) {
    rdbkit_writer_options wo;
    rdbkit_writer_options_init(&wo);
    wo.target = target ? rdbkit_target_find(target) : NULL;
    rdbkit_writer *w = rdbkit_writer_new(&wo, keep, out);
    assert_non_null(w);
    assert_int_equal(rdbkit_keyspace_emit(b->ks, NULL, rdbkit_writer_visitor(w)), RDBKIT_DONE);
    assert_null(rdbkit_writer_loss(w, 0));
    rdbkit_writer_free(w);
}

static void read_rdb(bench *b, const tk_bytes *in) {
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_keyspace_visitor(b->ks));
    assert_non_null(r);
    assert_int_equal(rdbkit_reader_feed(r, in->data, in->len), RDBKIT_DONE);
    rdbkit_reader_free(r);
    rdbkit_keyspace_file_end(b->ks); /* back to database 0 */
}

#define ALL_TYPES                                                                                       \
    "SET s text;SET n 12345;RPUSH l a b;SADD i 1 2;SADD t a b;ZADD z 1 a 2 b;HSET h f v;HSETEX e PXAT " \
    "4000000000000 FIELDS 1 f v;"                                                                       \
    "XADD x 1-1 f v;XGROUP CREATE x g 0;PEXPIREAT l 4000000000000;SELECT 3;SET other 1;FUNCTION LOAD "  \
    "\"#!lua name=lib\\ncode\";SELECT 0"

TEST(untouched_values_go_out_as_they_came) {
    static const char *const targets[] = {"redis-7.4", "redis-8", "valkey-9"};
    for (size_t i = 0; i < N_OF(targets); i++) {
        bench b, copy;
        tk_bytes first = {NULL, 0, 0}, again = {NULL, 0, 0};
        bench_open(&b, NULL);
        run_all(&b, ALL_TYPES);
        write_rdb(&b, targets[i], &first);
        bench_open(&copy, NULL);
        read_rdb(&copy, &first);
        write_rdb(&copy, NULL, &again);
        assert_int_equal(first.len, again.len);
        assert_memory_equal(first.data, again.data, first.len);
        tk_drop(&first), tk_drop(&again);
        bench_close(&b), bench_close(&copy);
    }
}

TEST(frozen_values_thaw_for_a_command) {
    static const line thaws[] = {
        {"APPEND s x;INCR n;RPUSH l c;SADD i 3;SADD t c;ZADD z 3 c;HSET h g w;HSET e g w;XADD x 2-1 f v",
         NULL},
        {"GETSET s x;DECRBY n 5;LPOP l;SREM i 1;SPOP t 2;ZPOPMIN z;HDEL h f;HPERSIST e FIELDS 1 f;XDEL x 1-1",
         NULL},
        {"COPY s s2;COPY n n2;COPY l l2;COPY i i2;COPY t t2;COPY z z2;COPY h h2;COPY e e2;COPY x x2", NULL},
        {"RENAME s s2;RENAME n n2;RENAME l l2;MOVE i 1;RENAME z z2;RENAMENX e e2;SWAPDB 0 3", NULL},
        {"!RPUSH s a;!APPEND l a;!SADD l a;!ZADD i 1 a;!HSET z a b;!XADD h 1-1 f v;!INCR x;!LPOP e", NULL},
        {"SUNIONSTORE u i t;ZUNIONSTORE v 2 z t;SORT l ALPHA STORE m;SETRANGE n 1 x;PFADD p a;BITOP NOT q "
         "s;DEL p q",
         NULL},
    };
    for (size_t i = 0; i < N_OF(thaws); i++) { /* what is frozen and what is not have to give the same */
        bench live, frozen;
        tk_bytes rdb = {NULL, 0, 0};
        bench_open(&live, NULL), bench_open(&frozen, NULL);
        run_all(&live, ALL_TYPES);
        write_rdb(&live, "valkey-9", &rdb);
        read_rdb(&frozen, &rdb);
        run_all(&live, thaws[i].commands);
        run_all(&frozen, thaws[i].commands);
        char *want = dump_of(live.ks);
        hold(&frozen, thaws[i].commands, want);
        free(want);
        tk_drop(&rdb);
        bench_close(&live), bench_close(&frozen);
    }
}

/* ---- Payloads ---- */

static void payload(tk_bytes *b, int type, const char *value, size_t len, unsigned version) {
    b->len = 0;
    tk_u8(b, (unsigned)type);
    tk_put(b, value, len);
    tk_le(b, version, 2);
    tk_le(b, tk_crc64(b->data, b->len), 8);
}

static int restore(bench *b, const char *command, const char *key, const char *ttl, const tk_bytes *p,
                   const char *option) {
    rdbkit_str a[8] = {{command, strlen(command)},
                       {key, strlen(key)},
                       {ttl, strlen(ttl)},
                       {(const char *)p->data, p->len}};
    size_t n = 4;
    for (; option && *option && n < 8; n++) {
        const size_t len = strcspn(option, " ");
        a[n] = (rdbkit_str){option, len};
        option += len + (option[len] != 0);
    }
    const uint64_t before = b->told[RDBKIT_REPLAY_REFUSED];
    assert_int_equal(run_args(b, a, n), 0);
    return b->told[RDBKIT_REPLAY_REFUSED] == before;
}

TEST(payloads_are_restored_if_they_are_sound) {
    bench b;
    tk_bytes p = {NULL, 0, 0};
    bench_open(&b, NULL);
    payload(&p, 0, "\3abc", 4, 11);
    assert_true(restore(&b, "RESTORE", "a", "0", &p, NULL));
    assert_false(restore(&b, "RESTORE", "a", "0", &p, NULL)); /* it is there already */
    assert_true(restore(&b, "RESTORE", "a", "7", &p, "REPLACE ABSTTL"));
    assert_true(restore(&b, "RESTORE-ASKING", "b", "7", &p, NULL));
    assert_true(restore(&b, "RESTORE", "c", "0", &p, "IDLETIME 5"));
    assert_true(restore(&b, "RESTORE", "d", "0", &p, "FREQ 6"));
    assert_false(restore(&b, "RESTORE", "e", "-1", &p, NULL));
    assert_false(restore(&b, "RESTORE", "e", "x", &p, NULL));
    assert_false(restore(&b, "RESTORE", "e", "0", &p, "FREQ 256"));
    assert_false(restore(&b, "RESTORE", "e", "0", &p, "FOO"));
    payload(&p, 0, "\3abc", 4, 9999);
    assert_false(restore(&b, "RESTORE", "e", "0", &p, NULL)); /* a version that nobody knows */
    payload(&p, 0, "\3abcd", 5, 11);
    assert_false(restore(&b, "RESTORE", "e", "0", &p, NULL)); /* too long */
    payload(&p, 0, "\3ab", 3, 11);
    assert_false(restore(&b, "RESTORE", "e", "0", &p, NULL));
    payload(&p, 99, "\3abc", 4, 11);
    assert_false(restore(&b, "RESTORE", "e", "0", &p, NULL));
    payload(&p, 1, "\2\1a\1b", 5, 11);
    assert_true(restore(&b, "RESTORE", "l", "0", &p, NULL));
    payload(&p, 1, "\0", 1, 11);
    assert_false(restore(&b, "RESTORE", "m", "0", &p, NULL)); /* an empty list */
    hold(&b, "RESTORE", "a!7=abc; b!1000007=abc; c idle 5=abc; d freq 6=abc; l[a b]");
    bench_close(&b);
    tk_drop(&p);
}

/* Each byte of a payload is made another one, and the payload cut anywhere: refused, and nothing there. */
TEST(damaged_payloads_are_refused) {
    bench b;
    tk_bytes p = {NULL, 0, 0};
    bench_open(&b, NULL);
    payload(&p, 4, "\1\1f\1v", 5, 11);
    for (size_t i = 0; i < p.len; i++) {
        p.data[i] ^= 0x10;
        assert_false(restore(&b, "RESTORE", "a", "0", &p, NULL));
        p.data[i] ^= 0x10;
        const tk_bytes cut = {p.data, i, i};
        assert_false(restore(&b, "RESTORE", "a", "0", &cut, NULL));
    }
    hold(&b, "damaged", "");
    assert_true(restore(&b, "RESTORE", "a", "0", &p, NULL));
    hold(&b, "sound", "a(f:v)");
    bench_close(&b);
    tk_drop(&p);
}

static int function_restore(bench *b, const tk_bytes *p, const char *policy) {
    const rdbkit_str a[4] = {{"FUNCTION", 8},
                             {"RESTORE", 7},
                             {(const char *)p->data, p->len},
                             {policy, policy ? strlen(policy) : 0}};
    const uint64_t before = b->told[RDBKIT_REPLAY_REFUSED];
    assert_int_equal(run_args(b, a, policy ? 4 : 3), 0);
    return b->told[RDBKIT_REPLAY_REFUSED] == before;
}

TEST(function_payloads_are_restored) {
    static const char one[] = "\x0f#!lua name=a\n1\n";
    bench b;
    tk_bytes p = {NULL, 0, 0};
    bench_open(&b, NULL);
    payload(&p, 245, one, sizeof one - 1, 11);
    assert_true(function_restore(&b, &p, NULL));
    assert_false(function_restore(&b, &p, NULL));
    assert_false(function_restore(&b, &p, "APPEND"));
    assert_false(function_restore(&b, &p, "FOO"));
    assert_true(function_restore(&b, &p, "REPLACE"));
    run_all(&b, "FUNCTION LOAD \"#!lua name=b\\n\"");
    assert_true(function_restore(&b, &p, "FLUSH"));
    hold(&b, "FUNCTION RESTORE", "function #!lua~20name=a~0a1~0a");
    for (size_t i = 0; i < p.len; i++) {
        p.data[i] ^= 0x10;
        assert_false(function_restore(&b, &p, "FLUSH"));
        p.data[i] ^= 0x10;
    }
    hold(&b, "damaged", "function #!lua~20name=a~0a1~0a");
    bench_close(&b);
    tk_drop(&p);
}

/* ---- What is no command of its own ---- */

TEST(memory_limit_is_kept) {
    rdbkit_keyspace_options o;
    rdbkit_keyspace_options_init(&o);
    o.memory_limit = 1 << 20;
    bench b;
    bench_open(&b, &o);
    int st = 0;
    for (int i = 0; !st && i < 100000; i++) {
        char text[64];
        const int n = snprintf(text, sizeof text, "RPUSH list%d element%d", i % 50, i);
        st = run_text(&b, text, (size_t)n);
    }
    assert_int_equal(st, RDBKIT_ERR_LIMIT);
    rdbkit_replay_stats stats;
    rdbkit_keyspace_stats(b.ks, &stats);
    assert_true(stats.memory_peak <= o.memory_limit && stats.memory_peak > o.memory_limit / 2);
    assert_int_equal(run_text(&b, "DEL list0", 9), RDBKIT_ERR_LIMIT); /* the error stays */
    bench_close(&b);
    bench_open(&b, &o);
    assert_int_equal(run_text(&b, "SETRANGE a 2000000 x", 20), RDBKIT_ERR_LIMIT);
    bench_close(&b);
}

TEST(scripts_and_unknown_commands_end_the_replay_unless_skipped) {
    static const char *const scripts[] = {"EVAL code 0", "EVALSHA abc 0", "FCALL f 0"};
    for (size_t i = 0; i <= N_OF(scripts); i++) {
        const char *text = i < N_OF(scripts) ? scripts[i] : "FOO bar";
        rdbkit_keyspace_options o;
        rdbkit_keyspace_options_init(&o);
        bench b;
        bench_open(&b, &o);
        assert_int_equal(run_text(&b, text, strlen(text)), RDBKIT_ERR_UNSUPPORTED);
        assert_int_equal(rdbkit_keyspace_error(b.ks)->code, RDBKIT_ERR_UNSUPPORTED);
        assert_int_equal(run_text(&b, "PING", 4), RDBKIT_ERR_UNSUPPORTED);
        bench_close(&b);
        o.skip_scripts = o.skip_unknown = 1;
        bench_open(&b, &o);
        assert_int_equal(run_text(&b, text, strlen(text)), 0);
        assert_int_equal(b.told[i < N_OF(scripts) ? RDBKIT_REPLAY_SCRIPT : RDBKIT_REPLAY_UNKNOWN], 1);
        run_all(&b, "SET a 1");
        hold(&b, text, "a=1");
        bench_close(&b);
    }
}

TEST(end_of_a_file_drops_an_open_transaction) {
    bench b;
    bench_open(&b, NULL);
    run_all(&b, "SELECT 2;MULTI;SET a 1");
    rdbkit_keyspace_file_end(b.ks);
    run_all(&b, "SET b 1;EXEC");
    hold(&b, "file_end", "b=1");
    bench_close(&b);
}

TEST(relative_times_are_told) {
    bench b;
    bench_open(&b, NULL);
    run_all(&b, "SET a v EX 5;PEXPIRE a 9;XADD x * f v;SET b v PXAT 5");
    assert_int_equal(b.told[RDBKIT_REPLAY_RELATIVE], 3);
    bench_close(&b);
}

TEST(tables_are_in_order) {
    for (size_t i = 1; i < CMD_ROWS_N; i++) assert_true(strcmp(cmd_rows[i - 1].name, cmd_rows[i].name) < 0);
    for (size_t i = 1; i < CMD_READERS_N; i++) assert_true(strcmp(cmd_readers[i - 1], cmd_readers[i]) < 0);
    for (size_t i = 0; i < CMD_READERS_N; i++)
        for (size_t j = 0; j < CMD_ROWS_N; j++) assert_true(strcmp(cmd_readers[i], cmd_rows[j].name) != 0);
}

TEST(names_and_arguments_are_checked) {
    static const struct {
        const char *name;
        size_t argc;
        int status;
    } checks[] = {{"GET", 1, RDBKIT_OK},
                  {"SET", 2, RDBKIT_ERR_DAMAGED},
                  {"SET", 3, RDBKIT_OK},
                  {"set", 9, RDBKIT_OK},
                  {"INCR", 3, RDBKIT_ERR_DAMAGED},
                  {"MULTI", 1, RDBKIT_OK},
                  {"multi", 2, RDBKIT_ERR_DAMAGED},
                  {"EXEC", 1, RDBKIT_OK},
                  {"EXEC", 2, RDBKIT_ERR_DAMAGED},
                  {"FOO", 1, RDBKIT_ERR_UNSUPPORTED},
                  {"", 1, RDBKIT_ERR_UNSUPPORTED},
                  {"SE", 3, RDBKIT_ERR_UNSUPPORTED},
                  {"SETT", 3, RDBKIT_ERR_UNSUPPORTED},
                  {"SET", 0, RDBKIT_ERR_DAMAGED}};
    for (size_t i = 0; i < N_OF(checks); i++) {
        rdbkit_str a[16];
        for (size_t j = 0; j < 16; j++) a[j] = (rdbkit_str){"x", 1};
        a[0] = (rdbkit_str){checks[i].name, strlen(checks[i].name)};
        const rdbkit_command c = {.argv = a, .argc = checks[i].argc};
        assert_int_equal(rdbkit_command_check(&c), checks[i].status);
    }
}

TEST(a_name_does_not_end_at_a_zero_byte) {
    static const char *const names[] = {"set", "get", "multi", "xadd", "hset", "zunion", "append"};
    for (size_t i = 0; i < N_OF(names); i++) {
        char text[8] = {0};
        memcpy(text, names[i], strlen(names[i]));
        rdbkit_str a[3] = {{text, strlen(names[i]) + 1}, {"x", 1}, {"x", 1}};
        const rdbkit_command c = {.argv = a, .argc = 3};
        assert_int_equal(rdbkit_command_check(&c), RDBKIT_ERR_UNSUPPORTED);
    }
}

TEST(wrong_number_of_arguments_is_damage) {
    bench b;
    bench_open(&b, NULL);
    assert_int_equal(run_text(&b, "SET a", 5), RDBKIT_ERR_DAMAGED);
    bench_close(&b);
}

TEST(every_command_was_run) {
    for (size_t i = 0; i < CMD_ROWS_N; i++)
        if (!used[i]) fail_msg("%s is in no line", cmd_rows[i].name);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_do_what_servers_do),
        cmocka_unit_test(each_allocation_of_commands_may_fail),
        cmocka_unit_test(untouched_values_go_out_as_they_came),
        cmocka_unit_test(frozen_values_thaw_for_a_command),
        cmocka_unit_test(payloads_are_restored_if_they_are_sound),
        cmocka_unit_test(damaged_payloads_are_refused),
        cmocka_unit_test(function_payloads_are_restored),
        cmocka_unit_test(memory_limit_is_kept),
        cmocka_unit_test(scripts_and_unknown_commands_end_the_replay_unless_skipped),
        cmocka_unit_test(end_of_a_file_drops_an_open_transaction),
        cmocka_unit_test(relative_times_are_told),
        cmocka_unit_test(tables_are_in_order),
        cmocka_unit_test(names_and_arguments_are_checked),
        cmocka_unit_test(a_name_does_not_end_at_a_zero_byte),
        cmocka_unit_test(wrong_number_of_arguments_is_damage),
        cmocka_unit_test(every_command_was_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
