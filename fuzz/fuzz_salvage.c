/* fuzz_salvage.c - damaged RDB files: what salvage lets through is sound, and each key is either kept or lost.
 *
 * Option bytes: target (0: as the input); flags (1 reencode, 2 drop_modules, 4 in small pieces, 8 the file is cut), two
 * for where.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include <errno.h>

FUZZ_INPUT(FUZZ_RDB)

typedef struct tally {
    uint64_t lost, names;
} tally;

static int on_lost(void *ctx, const rdbkit_lost *lost) {
    tally *t = ctx;
    t->lost++;
    for (size_t i = 0; i < lost->key->name.len; i++) t->names += (unsigned char)lost->key->name.data[i];
    if (!lost->reason || !lost->reason[0]) fuzz_fail("lost without a reason", (long long)t->lost, 0);
    if (!lost->key->type || !lost->key->type->name) fuzz_fail("lost without a type", (long long)t->lost, 0);
    return RDBKIT_OK;
}

typedef struct outcome {
    int status, again;
    uint64_t kept, lost, seen;
    fuzz_bytes out;
} outcome;

/* How many keys a file has; -1 if it is not sound. */
static int64_t keys_of(const fuzz_bytes *b) {
    rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
    if (!r) exit(0);
    int st = rdbkit_reader_feed(r, b->data, b->len);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    if (st != RDBKIT_DONE) fprintf(stderr, "%s\n", rdbkit_reader_error(r)->message);
    int64_t keys = st == RDBKIT_DONE ? (int64_t)rdbkit_reader_keys(r) : -1;
    rdbkit_reader_free(r);
    return keys;
}

static void salvage(const uint8_t o[4], const uint8_t *data, size_t size, outcome *x) {
    rdbkit_writer_options wo;
    rdbkit_reader_options ro;
    size_t targets = 0, piece = o[1] & 4 ? 1 + o[2] % 64u : size;
    tally t = {0, 0};
    while (rdbkit_target_at(targets)) targets++;
    rdbkit_writer_options_init(&wo);
    wo.target = o[0] ? rdbkit_target_at(o[0] % targets) : NULL;
    wo.reencode = o[1] & 1;
    wo.drop_modules = o[1] >> 1 & 1;
    wo.allow_loss = 1;
    rdbkit_reader_options_init(&ro);
    ro.ignore_checksum = 1;
    ro.max_item_len = (uint64_t)16 << 20;
    memset(x, 0, sizeof *x);
    rdbkit_writer *w = rdbkit_writer_new(&wo, fuzz_keep, &x->out);
    rdbkit_salvage *s = w ? rdbkit_salvage_new(NULL, rdbkit_writer_visitor(w), on_lost, &t) : NULL;
    rdbkit_reader *r = s ? rdbkit_reader_new(&ro, rdbkit_salvage_visitor(s)) : NULL;
    if (!r) exit(0);
    int st = RDBKIT_MORE;
    for (size_t at = 0; st == RDBKIT_MORE && at < size; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        st = rdbkit_reader_feed(r, data + at, n);
    }
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    x->status = st;
    x->kept = rdbkit_salvage_kept(s), x->lost = rdbkit_salvage_lost(s), x->seen = rdbkit_reader_keys(r);
    if (st == RDBKIT_ERR_USAGE) fuzz_fail("a wrong call", st, 0);
    if (x->lost != t.lost) fuzz_fail("lost, and told", (long long)x->lost, (long long)t.lost);
    if (st == RDBKIT_DONE && x->kept + x->lost != x->seen)
        fuzz_fail("keys that are neither kept nor lost", (long long)(x->kept + x->lost), (long long)x->seen);
    int written = st == RDBKIT_DONE;
    const rdbkit_visitor *v = rdbkit_writer_visitor(w);
    if (st == RDBKIT_ERR_DAMAGED || st == RDBKIT_ERR_TRUNCATED || st == RDBKIT_ERR_UNSUPPORTED ||
        st == RDBKIT_ERR_LIMIT)
        written = rdbkit_reader_offset(r) >= 9 && v->end(v->user, 0) == RDBKIT_OK; /* else without a header */
    if (written && x->out.len) {
        int64_t keys = keys_of(&x->out);
        int drops = 0;
        for (size_t i = 0; rdbkit_writer_loss(w, i); i++) drops |= 1;
        if (keys < 0) fuzz_fail("what was saved is not sound", st, (long long)x->kept);
        if (keys > (int64_t)x->kept || (!drops && keys < (int64_t)x->kept))
            fuzz_fail("keys kept, and there", (long long)x->kept, keys);
    }
    x->again = written;
    rdbkit_reader_free(r);
    rdbkit_salvage_free(s);
    rdbkit_writer_free(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t o[4];
    outcome x, y;
    fuzz_options(o, &data, &size);
    if (o[1] & 8 && size > 9) size = 9 + (o[2] | (size_t)o[3] << 8) % (size - 9);
    salvage(o, data, size, &x);
    if (x.again && x.out.len) { /* of what was saved nothing is lost */
        uint8_t same[4] = {o[0], (uint8_t)(o[1] & 3), 0, 0};
        salvage(same, x.out.data, x.out.len, &y);
        if (y.status != RDBKIT_DONE && y.status != RDBKIT_ERR_LIMIT)
            fuzz_fail("saving it again fails", y.status, 0);
        if (y.lost) fuzz_fail("saving it again loses keys", (long long)y.lost, (long long)y.kept);
        free(y.out.data);
    }
    free(x.out.data);
    return 0;
}
