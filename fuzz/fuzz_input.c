/* fuzz_input.c - input: bytes through gzip and in any pieces come out as they were; whatever else begins like gzip gives
 * the same bytes and the same verdict from memory and from a function, and what is inside is what zlib finds.
 *
 * Option bytes: flags (1 compress the rest first, 2 in two members, 4 cut it, 8 bytes behind it), two for the pieces, level.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include <zlib.h>

FUZZ_INPUT(FUZZ_PLAIN)

enum { OUT_MAX = 1 << 20 };

typedef struct outcome {
    int status;
    fuzz_bytes out;
} outcome;

static void take_all(rdbkit_input *in, outcome *x) {
    const void *data;
    size_t len;
    if (!in) exit(0);
    while ((x->status = rdbkit_input_rest(in, &data, &len)) == RDBKIT_OK && x->out.len < OUT_MAX) {
        if (!len) fuzz_fail("nothing, and more to come", 0, 0);
        fuzz_keep(&x->out, data, len);
    }
    if (x->status == RDBKIT_MORE || x->status > RDBKIT_DONE)
        fuzz_fail("neither done nor an error", x->status, 0);
}

/* As gzip does it; appended. */
static void compress_to(fuzz_bytes *b, const uint8_t *data, size_t len, int level) {
    z_stream z;
    memset(&z, 0, sizeof z);
    size_t room = len + len / 100 + 200;
    uint8_t *out = malloc(room), *in = malloc(len + 1);
    if (!out || !in || deflateInit2(&z, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK) exit(0);
    if (len) memcpy(in, data, len);
    z.next_in = in, z.avail_in = (uInt)len;
    z.next_out = out, z.avail_out = (uInt)room;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) fuzz_fail("deflate", (long long)len, 0);
    fuzz_keep(b, out, room - z.avail_out);
    deflateEnd(&z);
    free(out);
    free(in);
}

/* What zlib finds in the first member; 1 if it is whole. */
static int first_member(const uint8_t *data, size_t len, fuzz_bytes *b) {
    static uint8_t out[OUT_MAX];
    z_stream z;
    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, 31) != Z_OK) exit(0);
    uint8_t *in = malloc(len + 1);
    if (!in) exit(0);
    memcpy(in, data, len);
    z.next_in = in, z.avail_in = (uInt)len;
    z.next_out = out, z.avail_out = sizeof out;
    int st = inflate(&z, Z_SYNC_FLUSH);
    fuzz_keep(b, out, sizeof out - z.avail_out);
    inflateEnd(&z);
    free(in);
    return st == Z_STREAM_END;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4) return 0;
    const uint8_t *o = data;
    size_t len = size - 4;
    fuzz_bytes file = {NULL, 0};
    data += 4;
    int whole = 0, level = o[3] % 10;
    if (o[0] & 1) {
        size_t half = o[0] & 2 ? len / 2 : len;
        compress_to(&file, data, half, level);
        if (o[0] & 2) compress_to(&file, data + half, len - half, level);
        whole = !(o[0] & 12);
        if (o[0] & 4) file.len -= 1 + o[1] % (file.len - 1);
        if (o[0] & 8) fuzz_keep(&file, o, 4);
    } else {
        fuzz_keep(&file, data, len);
    }
    int gzip = file.len > 1 && file.data[0] == 0x1f && file.data[1] == 0x8b;
    outcome a = {0, {NULL, 0}}, b = a;
    rdbkit_input *in = rdbkit_input_new_memory(NULL, file.data, file.len);
    take_all(in, &a);
    if (rdbkit_input_is_gzip(in) != gzip) fuzz_fail("is it gzip", rdbkit_input_is_gzip(in), gzip);
    /* what follows the last member, and is none, is left alone */
    if (rdbkit_input_offset(in) > file.len || (!gzip && rdbkit_input_offset(in) != file.len))
        fuzz_fail("bytes taken", (long long)rdbkit_input_offset(in), (long long)file.len);
    rdbkit_input_free(in);
    fuzz_source s = {file.data, file.len, o[1] | (uint32_t)o[2] << 8};
    in = rdbkit_input_new(NULL, fuzz_read_some, &s);
    take_all(in, &b);
    rdbkit_input_free(in);
    /* of damaged bytes more or less may come out before that is seen */
    if (a.out.len < OUT_MAX && (a.status != b.status || (a.status == RDBKIT_DONE && a.out.len != b.out.len)))
        fuzz_fail("memory, and a function", a.status, b.status);
    size_t least = a.out.len < b.out.len ? a.out.len : b.out.len;
    if (least && memcmp(a.out.data, b.out.data, least) != 0) fuzz_fail("other bytes from a function", 0, 0);
    if (whole && (a.status != RDBKIT_DONE || a.out.len != len || (len && memcmp(a.out.data, data, len) != 0)))
        fuzz_fail("what was compressed does not come back", a.status, (long long)a.out.len);
    if (!gzip && (a.status != RDBKIT_DONE || a.out.len != file.len ||
                  (file.len && memcmp(a.out.data, file.data, file.len) != 0)))
        fuzz_fail("bytes that are not compressed", a.status, (long long)a.out.len);
    if (gzip) {
        fuzz_bytes first = {NULL, 0};
        int good = first_member(file.data, file.len, &first);
        if (good && (a.out.len < first.len || (first.len && memcmp(a.out.data, first.data, first.len) != 0)))
            fuzz_fail("zlib finds other bytes", (long long)first.len, (long long)a.out.len);
        if (!good && first.len < OUT_MAX && a.status == RDBKIT_DONE)
            fuzz_fail("zlib finds it broken", a.status, 0);
        free(first.data);
    }
    free(file.data);
    free(a.out.data);
    free(b.out.data);
    return 0;
}
