/* fuzz_reader.c - the reader: an input in one piece and the same in many must give the same events, status and
 * error, and events that follow the grammar of rdbkit.h.
 *
 * Option bytes: flags (1 deep, 2 ignore the checksum, 4 skip, 8 raw, 16 pull), piece_len, two for the splits.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include "../tests/events.c"

FUZZ_INPUT(FUZZ_RDB)

static int feed_one(void *to, const void *data, size_t len) { return rdbkit_reader_feed(to, data, len); }

static int feed_some(rdbkit_reader *r, fuzz_source *s) {
    const int status = fuzz_feed(s, feed_one, r);
    return status == RDBKIT_MORE ? rdbkit_reader_finish(r) : status;
}

typedef struct outcome {
    int status;
    uint64_t hash, n, offset;
    rdbkit_error error;
} outcome;

enum { WHOLE, SPLIT, PULL };

static void run(const uint8_t options[4], const uint8_t *data, size_t size, int how, outcome *o) {
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    ro.deep = options[0] & 1;
    ro.ignore_checksum = options[0] >> 1 & 1;
    ro.piece_len = options[1] & 1 ? (size_t)options[1] * 64 : options[1];
    events e;
    events_init(&e, 0);
    e.answer = options[0] & 4 ? RDBKIT_SKIP_KEY : options[0] & 8 ? RDBKIT_TAKE_RAW : RDBKIT_OK;
    e.file = data;
    e.file_len = size;
    rdbkit_visitor v = events_visitor(&e);
    rdbkit_reader *r = rdbkit_reader_new(&ro, &v);
    if (!r) exit(0);
    e.reader = r;
    fuzz_source s = {data, size, options[2] | (uint32_t)options[3] << 8};
    if (how == PULL) {
        rdbkit_input *in = rdbkit_input_new(NULL, fuzz_read_some, &s);
        if (!in) exit(0);
        o->status = rdbkit_reader_pull(r, in);
        rdbkit_input_free(in);
    } else if (how == SPLIT) {
        o->status = feed_some(r, &s);
    } else {
        o->status = rdbkit_reader_feed(r, data, size);
        if (o->status == RDBKIT_MORE) o->status = rdbkit_reader_finish(r);
    }
    o->hash = e.hash;
    o->n = e.n;
    o->offset = rdbkit_reader_offset(r);
    o->error = *rdbkit_reader_error(r);
    if (e.fault) {
        fprintf(stderr, "%s at %llu\n", e.fault, (unsigned long long)e.fault_off);
        fuzz_fail("the grammar is broken", how, o->status);
    }
    if (o->status != RDBKIT_DONE && o->status >= 0) fuzz_fail("neither done nor an error", how, o->status);
    if (o->error.code != (o->status < 0 ? o->status : RDBKIT_OK))
        fuzz_fail("error.code", o->error.code, o->status);
    if (o->offset > size)
        fuzz_fail("the offset lies behind the input", (long long)o->offset, (long long)size);
    if (o->status < 0 && !o->error.message[0]) fuzz_fail("an error without a message", o->status, 0);
    events_free(&e);
    rdbkit_reader_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t options[4];
    fuzz_options(options, &data, &size);
    int pull = options[0] & 16 && (size < 2 || data[0] != 0x1f || data[1] != 0x8b);
    outcome a, b;
    run(options, data, size, WHOLE, &a);
    run(options, data, size, pull ? PULL : SPLIT, &b);
    if (a.status != b.status) fuzz_fail("status", a.status, b.status);
    if (a.status == RDBKIT_DONE && a.offset != b.offset)
        fuzz_fail("end", (long long)a.offset, (long long)b.offset);
    if (a.error.offset != b.error.offset)
        fuzz_fail("error.offset", (long long)a.error.offset, (long long)b.error.offset);
    if (strcmp(a.error.message, b.error.message) != 0) {
        fprintf(stderr, "%s\n%s\n", a.error.message, b.error.message);
        fuzz_fail("message", a.status, b.status);
    }
    /* A string that breaks off may have been given out up to another byte. (Raw bytes are held against the file, not
     * counted: they may come in any pieces.) */
    if ((a.status == RDBKIT_DONE || !options[1]) && a.hash != b.hash)
        fuzz_fail("events", (long long)a.n, (long long)b.n);
    return 0;
}
