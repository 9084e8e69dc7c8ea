/* fuzz_resp.c - commands out: whatever the input, what is written is whole, well-formed commands; and of an input that is
 * sound and loses nothing they make the same keyspace, as RESTORE or not.
 *
 * Option bytes: target (128: restore); flags (1 del_first, 2 replace, 4 single_db, 8 drop_functions, 16 allow_loss, 32 dry_run,
 * 64 small pieces, 128 a write fails); batch; where the write fails.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sum.h"

#include <errno.h>

FUZZ_INPUT(FUZZ_RDB)

/* Where a byte of RESP stands. */
enum { AT_STAR, IN_COUNT, COUNT_LF, AT_DOLLAR, IN_LEN, LEN_LF, IN_BODY, BODY_CR, BODY_LF };

typedef struct checker {
    int state, digits, first;
    uint64_t number, args, left, total, fail_at;
    fuzz_bytes kept; /* as long as it is short */
} checker;

enum { KEPT_MAX = 1 << 20 };

static void expect(const checker *c, int found, int wanted) {
    if (found != wanted) fuzz_fail("RESP: found, wanted", found, wanted);
    (void)c;
}

static void digit(checker *c, int b, int next) {
    if (b == '\r' && c->digits) {
        c->state = next;
        return;
    }
    if (b < '0' || b > '9' || c->digits++ == 18) fuzz_fail("RESP: a length, byte and digits", b, c->digits);
    c->number = c->number * 10 + (uint64_t)(b - '0');
}

static void step(checker *c, int b) {
    switch (c->state) {
    case AT_STAR:
        expect(c, b, '*');
        c->number = 0;
        c->digits = 0;
        c->state = IN_COUNT;
        break;
    case IN_COUNT: digit(c, b, COUNT_LF); break;
    case COUNT_LF:
        expect(c, b, '\n');
        if (!c->number) fuzz_fail("RESP: a command without words", 0, 0);
        c->args = c->number;
        c->first = 1;
        c->state = AT_DOLLAR;
        break;
    case AT_DOLLAR:
        expect(c, b, '$');
        c->number = 0;
        c->digits = 0;
        c->state = IN_LEN;
        break;
    case IN_LEN: digit(c, b, LEN_LF); break;
    case LEN_LF:
        expect(c, b, '\n');
        c->left = c->number;
        if (c->first && (c->left < 2 || c->left > 20))
            fuzz_fail("RESP: the command's name has bytes", (long long)c->left, 0);
        c->state = c->left ? IN_BODY : BODY_CR;
        break;
    case IN_BODY:
        if (c->first && (b < 'A' || b > 'Z')) fuzz_fail("RESP: a byte in the command's name", b, 0);
        if (!--c->left) c->state = BODY_CR;
        break;
    case BODY_CR:
        expect(c, b, '\r');
        c->state = BODY_LF;
        break;
    default:
        expect(c, b, '\n');
        c->first = 0;
        c->state = --c->args ? AT_DOLLAR : AT_STAR;
        break;
    }
}

static int take(void *ctx, const void *data, size_t len) {
    checker *c = ctx;
    const uint8_t *p = data;
    if (c->total + len > c->fail_at) return -ENOSPC;
    c->total += len;
    if (c->total <= KEPT_MAX) fuzz_keep(&c->kept, data, len);
    for (size_t i = 0; i < len;) {
        if (c->state == IN_BODY && !c->first) { /* in one go: keys may be large and come often */
            size_t n = c->left < len - i ? (size_t)c->left : len - i;
            i += n;
            c->left -= n;
            if (!c->left) c->state = BODY_CR;
        } else {
            step(c, p[i++]);
        }
    }
    return 0;
}

/* Run the commands, and hold what comes out against the input. */
static void compare(const uint8_t *data, size_t size, const fuzz_bytes *commands,
                    const rdbkit_resp_options *so) {
    sum before = sum_start(!so->restore, !(so->target->features & RDBKIT_F_STREAM_COUNTERS)), after = before;
    before.modules = after.modules = so->restore; /* else they are RESTORE as well, in other bytes */
    if (sum_read(&before, data, size) != RDBKIT_DONE || before.odd) return;
    if (sum_show) fprintf(stderr, "--\n%.*s\n--\n", (int)commands->len, (const char *)commands->data);
    rdbkit_keyspace_options ko;
    rdbkit_keyspace_options_init(&ko);
    ko.source = so->target;
    rdbkit_keyspace *ks = rdbkit_keyspace_new(&ko);
    rdbkit_aof *a = ks ? rdbkit_aof_new(NULL, rdbkit_keyspace_aof_visitor(ks)) : NULL;
    if (!a) exit(0);
    int status = rdbkit_aof_feed(a, commands->data, commands->len);
    if (status == RDBKIT_MORE) status = rdbkit_aof_finish(a);
    int ran = status;
    rdbkit_replay_stats stats;
    rdbkit_keyspace_stats(ks, &stats);
    rdbkit_visitor v = sum_visitor(&after);
    status = rdbkit_keyspace_emit(ks, NULL, &v);
    int same =
        ran == RDBKIT_DONE && status == RDBKIT_DONE && before.keys == after.keys && before.all == after.all;
    /* idle consumers of servers before 6.2 are made by XREADGROUP, which no log has, and no replay runs */
    if (stats.events[RDBKIT_REPLAY_UNSURE]) same = 1;
    if ((!same || stats.events[RDBKIT_REPLAY_REFUSED]) && !sum_twice(data, size)) {
        fprintf(stderr, "%s\n%s\n", rdbkit_aof_error(a)->message, rdbkit_keyspace_error(ks)->message);
        fuzz_fail(same ? "commands that are refused" : "commands make another keyspace, keys",
                  (long long)before.keys, (long long)after.keys);
    }
    rdbkit_aof_free(a);
    rdbkit_keyspace_free(ks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t o[4];
    fuzz_options(o, &data, &size);
    size_t targets = 0;
    while (rdbkit_target_at(targets)) targets++;

    rdbkit_resp_options so;
    rdbkit_resp_options_init(&so);
    if (o[0]) so.target = rdbkit_target_at(o[0] % targets);
    so.del_first = o[1] & 1;
    so.replace = o[1] >> 1 & 1;
    so.single_db = o[1] >> 2 & 1;
    so.drop_functions = o[1] >> 3 & 1;
    so.allow_loss = o[1] >> 4 & 1;
    so.dry_run = o[1] >> 5 & 1;
    if (o[2]) so.batch = o[2];
    fuzz_losses told = {{0}, 0};
    so.on_loss = fuzz_on_loss;
    so.on_loss_ctx = &told;
    so.restore = o[0] >> 7 & 1; /* and the targets go round in the seven bits below */
    /* Some inputs of 64 KiB would make gigabytes: a long key, said again for each of many elements. */
    checker c = {.fail_at = o[1] & 128 ? (uint64_t)o[3] * 512 : (uint64_t)32 << 20};
    rdbkit_resp *s = rdbkit_resp_new(&so, take, &c);
    if (!s) fuzz_fail("rdbkit_resp_new", 0, 0);

    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    ro.piece_len = so.restore ? 0 : o[1] & 64 ? 16 : 65536;
    rdbkit_reader *r = rdbkit_reader_new(&ro, rdbkit_resp_visitor(s));
    if (!r) exit(0);
    int status = rdbkit_reader_feed(r, data, size);
    if (status == RDBKIT_MORE) status = rdbkit_reader_finish(r);
    int finished = rdbkit_resp_finish(s);

    int failed = status == RDBKIT_ERR_IO || finished == RDBKIT_ERR_IO;
    if (failed && rdbkit_resp_errno(s) != ENOSPC)
        fuzz_fail("rdbkit_resp_errno", rdbkit_resp_errno(s), ENOSPC);
    if (!failed && finished != RDBKIT_OK) fuzz_fail("rdbkit_resp_finish", finished, status);
    if (!failed && c.state != AT_STAR) fuzz_fail("a command broken off, state and status", c.state, status);
    if (so.dry_run && c.total) fuzz_fail("a dry run that writes", (long long)c.total, status);
    int losses = 0;
    const rdbkit_loss *l;
    for (size_t i = 0; (l = rdbkit_resp_loss(s, i)); i++) {
        losses += !l->is_note;
        if (status == RDBKIT_DONE && told.items[l->kind] != l->items)
            fuzz_fail("items counted, and told", (long long)l->items, (long long)told.items[l->kind]);
    }
    if (status == RDBKIT_ERR_LOSS && (so.allow_loss || so.dry_run || !losses))
        fuzz_fail("a refusal, losses", status, losses);
    if (status == RDBKIT_DONE && losses && !so.allow_loss && !so.dry_run)
        fuzz_fail("a silent loss", status, losses);
    if (status == RDBKIT_DONE && !failed && !so.dry_run && !so.single_db && !rdbkit_resp_loss(s, 0) &&
        c.total <= KEPT_MAX)
        compare(data, size, &c.kept, &so);
    rdbkit_reader_free(r);
    rdbkit_resp_free(s);
    free(c.kept.data);
    return 0;
}
