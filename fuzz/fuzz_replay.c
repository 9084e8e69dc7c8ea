/* fuzz_replay.c - append-only files replayed into a keyspace: what comes out can be written for any server and read
 * again, and a keyspace that is written and read back is the same, as an RDB file and as commands.
 *
 * An input is a file (RDB image, records, or both), or a program: four option bytes of which the first has bit 1, then
 * bytes that choose commands and small arguments, so that it soon gets deep. Option bytes: flags (1 program, 2 an
 * allocation fails, 4 a source of its own, 8 commands come in transactions), target, source, seed.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sum.h"

#include <errno.h>

FUZZ_INPUT(FUZZ_RDB)

enum { PROGRAM = 1, STARVE = 2, SOURCE = 4, MULTI = 8 };
enum { ARGS_MAX = 2048, COMMANDS_MAX = 400 };

/* ---- memory: counted, and failing from the call of a number on ---- */

static int64_t mem_live, mem_calls, mem_fail_at;

static void *mem_alloc(void *ctx, size_t size) {
    (void)ctx;
    if (mem_fail_at && ++mem_calls >= mem_fail_at) return NULL;
    void *p = malloc(size);
    if (p) mem_live += (int64_t)size;
    return p;
}

static void *mem_realloc(void *ctx, void *ptr, size_t old_size, size_t size) {
    (void)ctx;
    if (mem_fail_at && ++mem_calls >= mem_fail_at) return NULL;
    void *p = realloc(ptr, size);
    if (p) mem_live += (int64_t)size - (int64_t)old_size;
    return p;
}

static void mem_free(void *ctx, void *ptr, size_t size) {
    (void)ctx;
    if (ptr) mem_live -= (int64_t)size;
    free(ptr);
}

static const rdbkit_allocator memory = {mem_alloc, mem_realloc, mem_free, NULL};

/* ---- all events as one number ---- */

static sum sum_of(rdbkit_keyspace *ks, int loose, int estimate) {
    sum s = sum_start(loose, estimate);
    rdbkit_visitor v = sum_visitor(&s);
    if (sum_show) fprintf(stderr, "--\n");
    int st = rdbkit_keyspace_emit(ks, NULL, &v);
    if (st == RDBKIT_ERR_NOMEM || st == RDBKIT_ERR_LIMIT) exit(0);
    if (st != RDBKIT_DONE || s.ended != 1) {
        fprintf(stderr, "%s\n", rdbkit_keyspace_error(ks)->message);
        fuzz_fail("what is in the keyspace does not come out", st, s.ended);
    }
    return s;
}

/* ---- a keyspace, and what it says ---- */

typedef struct state {
    rdbkit_keyspace *ks;
    uint64_t *told; /* by kind */
    int foreign;    /* data that the keyspace did not make itself: RDB bytes of the input */
} state;

static int on_event(void *ctx, const rdbkit_replay_event *event) {
    uint64_t *told = ctx;
    if ((unsigned)event->kind >= RDBKIT_REPLAY_KIND_N || !event->text || !event->command ||
        !event->command->argc)
        fuzz_fail("an event of nothing", (long long)event->kind, 0);
    told[event->kind]++;
    if (sum_show && event->kind == RDBKIT_REPLAY_REFUSED)
        fprintf(stderr, "refused: %.*s: %s\n", (int)event->command->argv[0].len, event->command->argv[0].data,
                event->text);
    return 0;
}

static rdbkit_keyspace *open_keyspace(state *s, const uint8_t o[4], size_t targets) {
    rdbkit_keyspace_options ko;
    memset(s, 0, sizeof *s);
    if (!(s->told = calloc(RDBKIT_REPLAY_KIND_N, sizeof *s->told))) exit(0);
    rdbkit_keyspace_options_init(&ko);
    ko.allocator = &memory;
    ko.memory_limit = (uint64_t)64 << 20;
    ko.seed = o[3];
    ko.now_ms = 1000000;
    ko.source = o[0] & SOURCE ? rdbkit_target_at(o[2] % targets) : NULL;
    ko.skip_scripts = ko.skip_unknown = 1;
    ko.on_event = on_event;
    ko.on_event_ctx = s->told;
    return s->ks = rdbkit_keyspace_new(&ko);
}

static void close_keyspace(state *s) {
    rdbkit_keyspace_free(s->ks);
    free(s->told);
}

static void judge(const state *s, int status) {
    rdbkit_replay_stats stats;
    rdbkit_keyspace_stats(s->ks, &stats);
    for (int i = 0; i < RDBKIT_REPLAY_KIND_N; i++)
        if (s->told[i] != stats.events[i])
            fuzz_fail("events told, and counted", (long long)s->told[i], (long long)stats.events[i]);
    const rdbkit_error *e = rdbkit_keyspace_error(s->ks);
    if (e->code && (e->code != status || !e->message[0])) fuzz_fail("error and status", e->code, status);
    if (stats.memory > stats.memory_peak || stats.memory_peak > (uint64_t)64 << 20)
        fuzz_fail("memory", (long long)stats.memory, (long long)stats.memory_peak);
    if (stats.expires > stats.keys || stats.databases > stats.keys)
        fuzz_fail("stats", (long long)stats.expires, (long long)stats.databases);
}

/* ---- out and in again ---- */

static int read_rdb(const fuzz_bytes *b, const rdbkit_reader_options *options, const rdbkit_visitor *v,
                    rdbkit_error *e) {
    rdbkit_reader *r = rdbkit_reader_new(options, v);
    if (!r) exit(0);
    int st = rdbkit_reader_feed(r, b->data, b->len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    *e = *rdbkit_reader_error(r);
    rdbkit_reader_free(r);
    return st;
}

/* Write for a target, read it with a deep reader. Returns whether nothing was lost and all was written. */
static int write_rdb(const state *s, const rdbkit_target *target, unsigned flags, fuzz_bytes *out) {
    rdbkit_writer_options wo;
    rdbkit_error e;
    rdbkit_writer_options_init(&wo);
    wo.target = target;
    wo.allow_loss = 1;
    wo.reencode = flags & 1;
    wo.no_compress = flags >> 1 & 1;
    wo.aof_base = flags >> 2 & 1;
    rdbkit_writer *w = rdbkit_writer_new(&wo, fuzz_keep, out);
    if (!w) exit(0);
    int st = rdbkit_keyspace_emit(s->ks, NULL, rdbkit_writer_visitor(w)),
        sound = rdbkit_writer_loss(w, 0) == NULL;
    rdbkit_writer_free(w);
    if (st == RDBKIT_ERR_IO || st == RDBKIT_ERR_LIMIT) return 0; /* too long */
    if (st != RDBKIT_DONE) {
        fprintf(stderr, "%s\n", rdbkit_keyspace_error(s->ks)->message);
        fuzz_fail("the keyspace cannot be written", st, 0);
    }
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    ro.deep = !s->foreign;
    rdbkit_check *c = rdbkit_check_new(NULL, NULL);
    if (!c) exit(0);
    st = read_rdb(out, &ro, rdbkit_check_visitor(c), &e);
    if (st != RDBKIT_DONE) {
        fprintf(stderr, "%s\n", e.message);
        fuzz_fail("what was written cannot be read", st, ro.deep);
    }
    int64_t twice = rdbkit_check_finish(c);
    if (twice && !s->foreign)
        fuzz_fail("something is there twice", twice, rdbkit_check_duplicate(c, 0)->field);
    rdbkit_check_free(c);
    return sound;
}

/* The same keyspace, from RDB bytes. */
static void load_rdb(state *to, const fuzz_bytes *b, const uint8_t o[4], size_t targets) {
    rdbkit_error e;
    if (!open_keyspace(to, o, targets)) exit(0);
    int st = read_rdb(b, NULL, rdbkit_keyspace_visitor(to->ks), &e);
    if (st == RDBKIT_ERR_LIMIT) exit(0);
    if (st != RDBKIT_DONE) fuzz_fail("what was written cannot be loaded", st, 0);
}

/* The same keyspace, from the commands that make it. */
static void load_commands(state *to, int foreign, const fuzz_bytes *b, const uint8_t o[4], size_t targets) {
    if (!open_keyspace(to, o, targets)) exit(0);
    rdbkit_aof *a = rdbkit_aof_new(NULL, rdbkit_keyspace_aof_visitor(to->ks));
    if (!a) exit(0);
    int st = rdbkit_aof_feed(a, b->data, b->len);
    if (st == RDBKIT_MORE) st = rdbkit_aof_finish(a);
    rdbkit_aof_free(a);
    if (st == RDBKIT_ERR_LIMIT) exit(0);
    if (st != RDBKIT_DONE) {
        fprintf(stderr, "%s\n", rdbkit_keyspace_error(to->ks)->message);
        fuzz_fail("commands that were written do not run", st, 0);
    }
    if (foreign) return; /* the input may hold what no server has, and what commands cannot make */
    if (to->told[RDBKIT_REPLAY_REFUSED] || to->told[RDBKIT_REPLAY_UNKNOWN])
        fuzz_fail("commands that were written are refused", (long long)to->told[RDBKIT_REPLAY_REFUSED],
                  (long long)to->told[RDBKIT_REPLAY_UNKNOWN]);
}

static int write_commands(const state *s, const rdbkit_target *target, unsigned flags, fuzz_bytes *out) {
    rdbkit_resp_options ro;
    rdbkit_resp_options_init(&ro);
    ro.target = target;
    ro.allow_loss = 1;
    ro.restore = flags & 1;
    ro.rewrite = !ro.restore && flags >> 1 & 1;
    ro.batch = flags & 4 ? 3 : 64;
    rdbkit_resp *w = rdbkit_resp_new(&ro, fuzz_keep, out);
    if (!w) exit(0);
    int st = rdbkit_keyspace_emit(s->ks, NULL, rdbkit_resp_visitor(w)),
        sound = rdbkit_resp_loss(w, 0) == NULL;
    if (st == RDBKIT_DONE) {
        st = rdbkit_resp_finish(w);
        if (!st) st = RDBKIT_DONE;
    }
    rdbkit_resp_free(w);
    if (st == RDBKIT_ERR_IO || st == RDBKIT_ERR_LIMIT) return 0;
    if (st != RDBKIT_DONE) fuzz_fail("the keyspace cannot be written as commands", st, 0);
    return sound;
}

/* Hold the keyspace against what comes back of it. how: which way. The copy takes its place if it is the same. */
static void there_and_back(state *s, unsigned how, const rdbkit_target *target, const uint8_t o[4],
                           size_t targets) {
    fuzz_bytes out = {NULL, 0};
    state copy;
    int commands = how & 1, sound;
    sum before, after;
    before = sum_of(s->ks, commands, target->rdb_version < 11);
    if (sum_show)
        fprintf(stderr, "-- %s, %u, %s, seed %u\n", commands ? "commands" : "rdb", how >> 1, target->name,
                o[3]);
    if (commands && s->foreign && before.odd) return; /* no command makes that */
    sound = commands ? write_commands(s, target, how >> 1, &out) : write_rdb(s, target, how >> 1, &out);
    if (sound) {
        if (commands) load_commands(&copy, s->foreign, &out, o, targets);
        else load_rdb(&copy, &out, o, targets);
        after = sum_of(copy.ks, commands, target->rdb_version < 11);
        if (!s->foreign &&
            (before.all != after.all || before.order != after.order || before.keys != after.keys))
            fuzz_fail(commands ? "commands make another keyspace, keys"
                               : "the RDB file holds another keyspace, keys",
                      (long long)before.keys, (long long)after.keys);
        close_keyspace(&copy);
    }
    free(out.data);
}

/* ---- programs ---- */

/* Arguments between blanks: K key, M member or field, V value, N integer, D score, T time, I stream ID, G group, C
 * consumer, B database, @ all the rest, as many as there is chance for; a|b one of them; ?x maybe; :joins what comes
 * together. */
static const char *const grammar[] =
    {"append K V",
     "bitfield K ?overflow:wrap|overflow:sat|overflow:fail set|incrby:u8|i5|u63|i64:N:N ?get:u3:N",
     "bitop and|or|xor|diff|diff1|andor|one K K K ?K",
     "bitop not K K",
     "blmove K K left|right left|right 0",
     "blmpop 0 2 K K left|right ?count:N",
     "blpop K K 0",
     "brpop K 0",
     "brpoplpush K K 0",
     "bzmpop 1 1 K min|max ?count:N",
     "bzpopmax K K 0",
     "bzpopmin K 0",
     "cluster flushslot N",
     "copy K K ?db:B ?replace",
     "decr K",
     "decrby K N",
     "del K ?K",
     "delex K ?ifeq:V|ifne:V",
     "delifeq K V",
     "eval x 0",
     "expire K T ?nx|xx|gt|lt",
     "expireat K T ?nx|xx|gt|lt",
     "flushall ?async|sync",
     "flushdb",
     "function load ?replace F",
     "function delete lib|mylib",
     "function flush",
     "geoadd K ?nx|xx|ch G2",
     "georadius K 13.5 38 N km|m ?count:N ?asc|desc store|storedist:K",
     "georadiusbymember K M N km|ft ?withcoord store|storedist:K",
     "geosearchstore K K frommember:M byradius|bybox:N:km ?count:N:any ?storedist",
     "geosearchstore K K fromlonlat:13.5:38 bybox:900:900:km ?asc|desc ?count:N",
     "getdel K",
     "getex K ?ex:T|px:T|exat:T|pxat:T|persist",
     "getset K V",
     "hdel K M ?M",
     "hexpire K T ?nx|xx|gt|lt fields 1 M",
     "hexpireat K T ?nx|xx|gt|lt fields 2 M M",
     "hgetdel K fields 1 M",
     "hgetex K ?ex:T|pxat:T|persist fields 1 M",
     "hincrby K M N",
     "hincrbyfloat K M D",
     "hmset K M V M V",
     "hpersist K fields 1 M",
     "hpexpire K T ?nx|xx|gt|lt fields 1 M",
     "hpexpireat K T ?nx|xx|gt|lt fields 3 M M M",
     "hset K M V ?M:V ?M:V @MV",
     "hsetex K ?fnx|fxx ?ex:T|px:T|pxat:T|keepttl fields 1 M V",
     "hsetnx K M V",
     "incr K",
     "incrby K N",
     "incrbyfloat K D",
     "linsert K before|after M V",
     "lmove K K left|right left|right",
     "lmpop 1 K left|right ?count:N",
     "lpop K ?N",
     "lpush K V ?V @V",
     "lpushx K V",
     "lrem K N M",
     "lset K N V",
     "ltrim K N N",
     "move K B",
     "mset K V K V",
     "msetex 2 K V K V ?nx|xx ?px:T|keepttl",
     "msetnx K V K V",
     "persist K",
     "pexpire K T ?nx|xx|gt|lt",
     "pexpireat K T ?nx|xx|gt|lt",
     "pfadd K M ?M @M",
     "pfcount K ?K",
     "pfdebug todense K",
     "pfmerge K K ?K",
     "psetex K T V",
     "rename K K",
     "renamenx K K",
     "restore K 0 V ?replace",
     "rpop K ?N",
     "rpoplpush K K",
     "rpush K V ?V @V",
     "rpushx K V",
     "sadd K M ?M @M",
     "sadd K N @N",
     "sdiffstore K K K",
     "select B",
     "set K V ?nx|xx ?get ?ex:T|px:T|exat:T|pxat:T|keepttl",
     "set K V ifeq|ifne:V",
     "setbit K N 0|1",
     "setex K T V",
     "setnx K V",
     "setrange K N V",
     "sflush N N",
     "sinterstore K K K",
     "smove K K M",
     "sort K ?by:nosort ?limit:N:N ?get:# ?asc|desc ?alpha store K",
     "sort K by K* get:K* store K",
     "spop K ?N",
     "srem K M ?M",
     "sunionstore K K K",
     "swapdb B B",
     "trimslots ranges 1 N N",
     "unlink K",
     "xack K G I ?I",
     "xackdel K G ?keepref|delref|acked ids 1 I",
     "xadd K ?nomkstream ?keepref|delref|acked ?maxlen:N|minid:I|maxlen:~:N I M V ?M:V",
     "xadd K I M V M V",
     "xadd K * M V",
     "xautoclaim K G C 0 I",
     "xcfgset K idmp-duration 5",
     "xclaim K G C 0 I ?I ?time:T|idle:N ?retrycount:N ?force ?justid ?lastid:I",
     "xclaim K G C 0 I I force time:T",
     "xdel K I ?I",
     "xdelex K ?keepref|delref|acked ids 1 I",
     "xgroup create K G I|$ mkstream ?entriesread:N",
     "xgroup setid K G I|$ ?entriesread:N",
     "xgroup createconsumer K G C",
     "xgroup delconsumer K G C",
     "xgroup destroy K G",
     "xidmprecord K M M I",
     "xreadgroup group G C streams K >",
     "xsetid K I ?entriesadded:N ?maxdeletedid:I",
     "xtrim K maxlen|minid ?=|~ N ?keepref|delref|acked",
     "zadd K ?nx|xx ?gt|lt ?ch D M ?D:M @DM",
     "zadd K incr D M",
     "zadd K D N",
     "zdiffstore K 2 K K",
     "zincrby K D M",
     "zinterstore K 2 K K ?weights:D:D ?aggregate:min|aggregate:max|aggregate:sum",
     "zmpop 1 K min|max ?count:N",
     "zpopmax K ?N",
     "zpopmin K ?N",
     "zrangestore K K N N ?rev",
     "zrangestore K K - + bylex ?rev ?limit:N:N",
     "zrangestore K K (1 +inf byscore ?limit:N:N",
     "zrem K M ?M",
     "zremrangebylex K - [M",
     "zremrangebyrank K N N",
     "zremrangebyscore K (D D",
     "zunionstore K 3 K K K ?weights:D:D:D ?aggregate:min|aggregate:max",
     "multi",
     "exec",
     "discard",
     "get K",
     "asdf x"};
#define GRAMMAR_N (sizeof grammar / sizeof grammar[0])

typedef struct program {
    const uint8_t *data;
    size_t left;
    char text[65536]; /* of one command's arguments */
    size_t text_len;
    rdbkit_str argv[ARGS_MAX];
    size_t argc;
} program;

static unsigned next_byte(program *p) {
    if (!p->left) return 0;
    p->left--;
    return *p->data++;
}

static void add_arg(program *p, const char *text, size_t len) {
    if (p->argc == ARGS_MAX || p->text_len + len > sizeof p->text) return;
    memcpy(p->text + p->text_len, text, len);
    p->argv[p->argc++] = (rdbkit_str){p->text + p->text_len, len};
    p->text_len += len;
}

static void add_class(program *p, char c) {
    static const char *const numbers[] =
        {"-1", "100", "1000",       "65536", "-9223372036854775808", "9223372036854775807",
         "01", "x",   "2147483648", "-3"};
    static const char *const scores[] = {"inf", "-inf", "-0",     "1e300", "0x1p3",
                                         "nan", "3.25", "1e-320", "-1.5",  "0.1"};
    static const char *const times[] = {"2000",          "9999999999",     "-5", "9223372036854775807",
                                        "4000000000000", "70368744177664", "1",  "70368744177663"};
    static const char *const ids[] = {"0",   "0-1", "5-*", "18446744073709551615-18446744073709551615",
                                      "-",   "+",   "7-3", "7-4",
                                      "1-1", "2"};
    char text[6000];
    unsigned b = next_byte(p), n = 0;
    switch (c) {
    case 'K': n = (unsigned)snprintf(text, sizeof text, "%c", 'a' + (int)(b % 7)); break;
    case 'B': n = (unsigned)snprintf(text, sizeof text, "%u", b % 4); break;
    case 'G': n = (unsigned)snprintf(text, sizeof text, "g%u", b % 3); break;
    case 'C': n = (unsigned)snprintf(text, sizeof text, "c%u", b % 3); break;
    case 'N':
        n = (unsigned)(b < 200 ? snprintf(text, sizeof text, "%u", b % 20)
                               : snprintf(text, sizeof text, "%s", numbers[b % 10]));
        break;
    case 'D':
        n = (unsigned)(b < 200 ? snprintf(text, sizeof text, "%d", (int)(b % 20) - 5)
                               : snprintf(text, sizeof text, "%s", scores[b % 10]));
        break;
    case 'T':
        n = (unsigned)(b < 60 ? snprintf(text, sizeof text, "%u", b)
                              : snprintf(text, sizeof text, "%s", times[b % 8]));
        break;
    case 'I':
        n = (unsigned)(b < 200 ? snprintf(text, sizeof text, "%u-%u", b / 8, b % 8)
                               : snprintf(text, sizeof text, "%s", ids[b % 10]));
        break;
    case 'F':
        n = (unsigned)snprintf(text, sizeof text, "#!lua name=%slib\n%u", b & 1 ? "my" : "", b / 2);
        break;
    default: /* M, V */
        if (b < 128) n = (unsigned)snprintf(text, sizeof text, "m%u", b % 24);
        else if (b < 200) n = (unsigned)snprintf(text, sizeof text, "%d", (int)b - 160);
        else {
            static const unsigned lens[] = {0,   1,   20,  60,  63,  64,   65,   70,
                                            126, 127, 128, 129, 300, 4095, 4096, 5000};
            n = lens[b % 16];
            memset(text, (int)(b < 230 ? 'x' : 0xff), n);
            for (unsigned i = 0; i < n && b > 245; i++) text[i] = (char)(i * b ^ i >> 3);
        }
    }
    add_arg(p, text, n);
}

/* A word of the grammar: a letter, or text; K* is a key with a star. */
static void add_word(program *p, const char *word, size_t len) {
    static const char classes[] = "KMVNDTIGCBF";
    size_t prefix = len > 1 && (*word == '(' || *word == '[');
    if (len == 2 && !memcmp(word, "K*", 2)) {
        static const char *const patterns[] = {"*", "a*", "w_*->f", "x*", "b*->m1"};
        const char *t = patterns[next_byte(p) % 5];
        add_arg(p, t, strlen(t));
    } else if (len == 2 && !memcmp(word, "G2", 2)) {
        for (unsigned i = 0; i < 3; i++) {
            static const char *const at[] = {"13.361389", "38.115556", "15.087269", "37.502669",
                                             "-180",      "85",        "0",         "0"};
            unsigned b = next_byte(p) % 4;
            add_arg(p, at[2 * b], strlen(at[2 * b]));
            add_arg(p, at[2 * b + 1], strlen(at[2 * b + 1]));
            add_class(p, 'M');
        }
    } else if (len == prefix + 1 && strchr(classes, word[prefix])) {
        add_class(p, word[prefix]);
        if (!prefix) return;
        rdbkit_str s = p->argv[p->argc - 1];
        char text[6000];
        text[0] = *word;
        memcpy(text + 1, s.data, s.len < 5999 ? s.len : 5999);
        p->argc--;
        add_arg(p, text, 1 + (s.len < 5999 ? s.len : 5999));
    } else {
        add_arg(p, word, len);
    }
}

static void add_joined(program *p, const char *word, size_t len) {
    for (size_t at = 0; at <= len;) {
        const char *colon = memchr(word + at, ':', len - at);
        size_t n = colon ? (size_t)(colon - word) - at : len - at;
        if (n) add_word(p, word + at, n);
        at += n + 1;
    }
}

static void add_item(program *p, const char *item, size_t len) {
    if (*item == '?') {
        if (next_byte(p) & 1) return;
        item++, len--;
    }
    if (*item == '@') { /* many, now and then, so that an encoding is left */
        unsigned b = next_byte(p);
        for (unsigned i = 0; b > 250 && i < (b - 250) * 130; i++) {
            for (size_t j = 1; j < len; j++) {
                char text[32];
                unsigned n =
                    (unsigned)snprintf(text, sizeof text, item[j] == 'V' || item[j] == 'M' ? "m%u" : "%u",
                                       i * (b - 248) + 3);
                add_arg(p, text, n);
            }
        }
        return;
    }
    size_t choices = 1, at = 0;
    for (size_t i = 0; i < len; i++) choices += item[i] == '|';
    for (size_t skip = choices > 1 ? next_byte(p) % choices : 0; skip; skip--)
        at = (size_t)((const char *)memchr(item + at, '|', len - at) - item) + 1;
    const char *bar = memchr(item + at, '|', len - at);
    size_t end = bar ? (size_t)(bar - item) : len;
    /* set|incrby:u8|i5:N:N: what follows the last choice belongs to each */
    add_joined(p, item + at, end - at);
}

/* The next command. Now and then an argument is another one, or too much. */
static void make_command(program *p) {
    const char *row = grammar[next_byte(p) % GRAMMAR_N];
    p->argc = p->text_len = 0;
    while (*row) {
        size_t len = strcspn(row, " ");
        add_item(p, row, len);
        row += len;
        while (*row == ' ') row++;
    }
    unsigned odd = next_byte(p);
    if (odd > 250 && p->argc > 1) {
        size_t i = 1 + next_byte(p) % (p->argc - 1);
        rdbkit_str old = p->argv[i];
        size_t argc = p->argc;
        add_class(p, "KMVNDTIG"[next_byte(p) % 8]);
        if (odd > 252 && p->argc > argc) p->argv[i] = p->argv[argc], p->argc = argc;
        else if (odd == 251) p->argc = argc - 1;
        (void)old;
    }
}

/* Arguments end where their memory ends. */
static int run_command(rdbkit_keyspace *ks, program *p) {
    static int64_t offset;
    rdbkit_str argv[ARGS_MAX];
    uint8_t *copy[ARGS_MAX];
    size_t argc = p->argc, each = argc < 12;
    for (size_t i = 0; i < argc; i++) {
        argv[i] = p->argv[i];
        if (!each) continue;
        copy[i] = malloc(argv[i].len + !argv[i].len);
        if (!copy[i]) exit(0);
        memcpy(copy[i], argv[i].data, argv[i].len);
        argv[i].data = (const char *)copy[i];
    }
    rdbkit_command c;
    memset(&c, 0, sizeof c);
    c.argv = argv, c.argc = argc, c.timestamp_s = RDBKIT_NO_TIMESTAMP, c.offset = (uint64_t)offset++;
    int st = rdbkit_command_check(&c);
    if (st != RDBKIT_ERR_DAMAGED) {
        if (getenv("FUZZ_SHOW")) {
            for (size_t i = 0; i < argc; i++)
                fprintf(stderr, " %.*s", (int)(argv[i].len < 40 ? argv[i].len : 40), argv[i].data);
            fprintf(stderr, "\n");
        }
        st = rdbkit_keyspace_command(ks, &c);
        if (st > 0) fuzz_fail("a command answers", st, 0);
    } else {
        st = 0;
    }
    for (size_t i = 0; each && i < argc; i++) free(copy[i]);
    return st;
}

static int run_program(state *s, const uint8_t o[4], const uint8_t *data, size_t size, size_t targets) {
    static program p;
    int st = 0;
    p.data = data, p.left = size;
    for (unsigned n = 0; !st && p.left && n < COMMANDS_MAX; n++) {
        unsigned what = next_byte(&p);
        if (what < 252) {
            if (what >= 246 && !(o[0] & STARVE)) { /* leave the values frozen: written and read again */
                fuzz_bytes out = {NULL, 0};
                state copy;
                if (write_rdb(s, rdbkit_target_find(what & 1 ? "valkey-9" : "redis-8"), what >> 1, &out)) {
                    load_rdb(&copy, &out, o, targets);
                    if (sum_of(copy.ks, 0, 0).all != sum_of(s->ks, 0, 0).all)
                        fuzz_fail("frozen values differ", what, n);
                    close_keyspace(s);
                    s->ks = copy.ks, s->told = copy.told;
                }
                free(out.data);
            }
            make_command(&p);
            st = run_command(s->ks, &p);
        } else if (what == 252) {
            rdbkit_keyspace_file_end(s->ks);
        }
    }
    rdbkit_keyspace_file_end(s->ks);
    return st;
}

/* ---- files ---- */

static int on_rdb_end(void *user, uint64_t offset) {
    state *s = user;
    (void)offset;
    s->foreign = 1;
    return 0;
}

static int on_command(void *user, const rdbkit_command *c) {
    state *s = user;
    int st = rdbkit_command_check(c),
        foreign = c->argv[0].len >= 7 && (c->argv[0].data[0] | 32) == 'r'; /* RESTORE */
    uint64_t unknown = s->told[RDBKIT_REPLAY_UNKNOWN];
    s->foreign |= foreign;
    int got = rdbkit_keyspace_command(s->ks, c);
    if (got > 0) fuzz_fail("a command answers", got, 0);
    if (st == RDBKIT_OK && s->told[RDBKIT_REPLAY_UNKNOWN] != unknown && c->argv[0].len != 4)
        fuzz_fail("a known command is unknown", st, got);
    return got;
}

static int run_file(state *s, const uint8_t *data, size_t size) {
    rdbkit_aof_visitor v = *rdbkit_keyspace_aof_visitor(s->ks);
    rdbkit_visitor rdb = *v.rdb;
    v.user = s, v.rdb = &rdb, v.command = on_command, v.rdb_end = on_rdb_end;
    rdbkit_aof_options ao;
    rdbkit_aof_options_init(&ao);
    ao.rdb.ignore_checksum = 1;
    ao.rdb.max_item_len = (uint64_t)16 << 20;
    rdbkit_aof *a = rdbkit_aof_new(&ao, &v);
    if (!a) exit(0);
    int st = rdbkit_aof_feed(a, data, size);
    if (st == RDBKIT_MORE) st = rdbkit_aof_finish(a);
    rdbkit_aof_free(a);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t o[4] = {0, 0, 0, 1};
    size_t targets = 0;
    state s;
    while (rdbkit_target_at(targets)) targets++;
    if (size && data[0] != '*' && data[0] != '#') fuzz_options(o, &data, &size);
    mem_fail_at = 0;
    if (!open_keyspace(&s, o, targets)) exit(0);
    mem_calls = 0, mem_fail_at = o[0] & STARVE ? 1 + (o[1] | (int64_t)o[2] << 8) : 0;
    int st = o[0] & PROGRAM ? run_program(&s, o, data, size, targets) : run_file(&s, data, size);
    const rdbkit_error *e = rdbkit_keyspace_error(s.ks);
    mem_fail_at = 0;
    if (e->code) judge(&s, e->code);
    else judge(&s, st);
    if (st == RDBKIT_ERR_USAGE) fuzz_fail("a wrong call", st, 0);
    if (!e->code) {
        s.foreign |= !(o[0] & PROGRAM) && st < 0; /* maybe an image that broke off */
        const rdbkit_target *t = rdbkit_target_at(o[1] % targets);
        there_and_back(&s, (unsigned)(o[3] & ~1), t, o, targets);
        if (!(o[0] & SOURCE))
            there_and_back(&s, o[3] | 1, rdbkit_target_find(o[1] & 1 ? "redis-8" : "valkey-9"), o, targets);
    }
    close_keyspace(&s);
    if (mem_live) fuzz_fail("memory that is still there", (long long)mem_live, 0);
    return 0;
}
