/* fuzz_writer.c - RDB out: whatever is read and written for a target can be read there, writing it again gives the same
 * bytes, and what is sound and loses nothing says the same as before.
 *
 * Option bytes: target (0: as the input); flags (1 reencode, 2 no_compress, 4 drop_modules, 8 allow_loss).
 *
 * SPDX-License-Identifier: MIT
 */
#include "sum.h"

#include <errno.h>

FUZZ_INPUT(FUZZ_RDB)

/* Read an input into a writer. Returns the reader's status; *lossless: there is neither loss nor note. */
static int convert(const uint8_t *data, size_t size, const rdbkit_writer_options *wo, fuzz_bytes *out,
                   int *lossless) {
    fuzz_losses told = {{0}, 0};
    rdbkit_writer_options options = *wo;
    options.on_loss = fuzz_on_loss;
    options.on_loss_ctx = &told;
    rdbkit_writer *w = rdbkit_writer_new(&options, fuzz_keep, out);
    if (!w) exit(0);
    rdbkit_reader *r = rdbkit_reader_new(NULL, rdbkit_writer_visitor(w));
    if (!r) exit(0);
    int status = rdbkit_reader_feed(r, data, size);
    if (status == RDBKIT_MORE) status = rdbkit_reader_finish(r);
    int losses = 0;
    const rdbkit_loss *l;
    for (size_t i = 0; (l = rdbkit_writer_loss(w, i)); i++) {
        losses += !l->is_note;
        if (status == RDBKIT_DONE && told.items[l->kind] != l->items)
            fuzz_fail("items counted, and told", (long long)l->items, (long long)told.items[l->kind]);
    }
    if (status == RDBKIT_DONE && losses && !wo->allow_loss) fuzz_fail("a silent loss", status, losses);
    if (status == RDBKIT_ERR_USAGE) fuzz_fail("the writer does not understand the reader", status, losses);
    *lossless = !rdbkit_writer_loss(w, 0);
    rdbkit_reader_free(r);
    rdbkit_writer_free(w);
    return status;
}

/* If the input is sound in every respect, so is what was written, and both say the same. */
static void compare(const uint8_t *data, size_t size, const fuzz_bytes *out) {
    sum before = sum_start(0, 0), after = before;
    before.modules = after.modules = 1;
    if (sum_read(&before, data, size) != RDBKIT_DONE || before.odd) return;
    if (sum_show) fprintf(stderr, "--\n");
    int status = sum_read(&after, out->data, out->len);
    if (status == RDBKIT_DONE && before.keys == after.keys && before.all == after.all) return;
    if (sum_twice(data, size)) return;
    if (status != RDBKIT_DONE) fuzz_fail("sound before, status now", status, 0);
    fuzz_fail("other data than before, keys", (long long)before.keys, (long long)after.keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t o[4];
    fuzz_options(o, &data, &size);
    size_t targets = 0;
    while (rdbkit_target_at(targets)) targets++;
    rdbkit_writer_options wo;
    rdbkit_writer_options_init(&wo);
    wo.target = o[0] ? rdbkit_target_at(o[0] % targets) : NULL;
    wo.reencode = o[1] & 1;
    wo.no_compress = o[1] >> 1 & 1;
    wo.drop_modules = o[1] >> 2 & 1;
    wo.allow_loss = o[1] >> 3 & 1;

    fuzz_bytes once = {NULL, 0}, twice = {NULL, 0};
    int lossless, unused;
    if (convert(data, size, &wo, &once, &lossless) == RDBKIT_DONE) {
        if (lossless) compare(data, size, &once);
        wo.allow_loss = 0; /* nothing is left to lose */
        int status = convert(once.data, once.len, &wo, &twice, &unused);
        if (status != RDBKIT_DONE)
            fuzz_fail("what was written cannot be read, status", status, (long long)once.len);
        if (once.len != twice.len || memcmp(once.data, twice.data, once.len))
            fuzz_fail("writing it again gives other bytes", (long long)once.len, (long long)twice.len);
    }
    free(once.data);
    free(twice.data);
    return 0;
}
