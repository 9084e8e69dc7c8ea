/* fuzz_aof.c - append-only files: an input in one piece and the same in many must give the same commands, status,
 * error and state, and what was given out must stand in the file. Manifests: what is read must come back from the
 * lines that are written of it.
 *
 * Option bytes: flags (1 strict, 2 no checksum, 4 limits, 8 pull, 16 a manifest), unused, two for the splits. An
 * input that begins with '*', '#', "REDI", "VALK" or "file" has none.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

FUZZ_INPUT(FUZZ_RDB)

static int feed_one(void *to, const void *data, size_t len) { return rdbkit_aof_feed(to, data, len); }

static int feed_some(rdbkit_aof *a, fuzz_source *s) {
    const int status = fuzz_feed(s, feed_one, a);
    return status == RDBKIT_MORE ? rdbkit_aof_finish(a) : status;
}

typedef struct outcome {
    int status;
    uint64_t hash, offset, at; /* at: where the next record has to be */
    rdbkit_error error;
    rdbkit_aof_state state;
    const uint8_t *file;
    size_t size;
    rdbkit_aof *a;
} outcome;

static void mix(outcome *o, const void *data, size_t len) {
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) o->hash = (o->hash ^ p[i]) * 1099511628211u;
    o->hash = (o->hash ^ len) * 1099511628211u;
}

static int on_command(void *user, const rdbkit_command *c) {
    outcome *o = user;
    const rdbkit_aof_state *s = rdbkit_aof_progress(o->a);
    uint64_t facts[] = {c->offset, c->db,      (uint64_t)c->timestamp_s, (uint64_t)c->in_multi,
                        c->argc,   s->good_off};
    mix(o, facts, sizeof facts);
    const char *p = c->raw.data, *end = p + c->raw.len;
    for (size_t i = 0; i < c->argc; i++) {
        mix(o, c->argv[i].data, c->argv[i].len);
        if (c->argv[i].data < p || c->argv[i].data + c->argv[i].len + 2 > end)
            fuzz_fail("argument not in its record", (long long)i, 0);
        p = c->argv[i].data + c->argv[i].len + 2;
    }
    if (p != end) fuzz_fail("record longer than its arguments", (long long)(end - p), 0);
    if (c->offset != o->at || s->good_any_off > c->offset || s->good_off > s->good_any_off)
        fuzz_fail("offset of a command", (long long)c->offset, (long long)o->at);
    if (c->offset + c->raw.len > o->size || memcmp(o->file + c->offset, c->raw.data, c->raw.len) != 0)
        fuzz_fail("raw is not in the file", (long long)c->offset, (long long)c->raw.len);
    o->at += c->raw.len;
    return RDBKIT_OK;
}

static int on_annotation(void *user, rdbkit_str text, uint64_t offset) {
    outcome *o = user;
    mix(o, text.data, text.len);
    if (offset != o->at || o->file[offset] != '#')
        fuzz_fail("offset of an annotation", (long long)offset, (long long)o->at);
    const uint8_t *lf = memchr(o->file + offset, '\n', o->size - offset);
    if (!lf) fuzz_fail("annotation without LF", (long long)offset, 0);
    o->at = (uint64_t)(lf - o->file) + 1;
    return RDBKIT_OK;
}

static int on_rdb_end(void *user, uint64_t offset) {
    outcome *o = user;
    o->at = offset;
    return RDBKIT_OK;
}

static int on_key(void *user, const rdbkit_key *key) {
    mix(user, key->name.data, key->name.len);
    return RDBKIT_OK;
}

enum { WHOLE, SPLIT, PULL };

static void judge(const outcome *o, int how) {
    const rdbkit_aof_state *s = &o->state;
    if (o->status != RDBKIT_DONE && o->status >= 0) fuzz_fail("neither done nor an error", how, o->status);
    if (o->error.code != (o->status < 0 ? o->status : RDBKIT_OK))
        fuzz_fail("error.code", o->error.code, o->status);
    if (o->status < 0 && !o->error.message[0]) fuzz_fail("an error without a message", o->status, 0);
    if (o->offset > o->size)
        fuzz_fail("the offset lies behind the input", (long long)o->offset, (long long)o->size);
    if (s->good_off > s->good_any_off || s->good_any_off > o->size)
        fuzz_fail("good_off", (long long)s->good_off, (long long)s->good_any_off);
    if (s->rdb_end != RDBKIT_NO_OFFSET && s->good_off < s->rdb_end)
        fuzz_fail("good_off in the image", (long long)s->good_off, 0);
    if (s->good_any_off != o->at) fuzz_fail("good_any_off", (long long)s->good_any_off, (long long)o->at);
    if (o->status == RDBKIT_DONE && s->good_off != o->size)
        fuzz_fail("done before the end", (long long)s->good_off, (long long)o->size);
}

static void run(const uint8_t options[4], const uint8_t *data, size_t size, int how, outcome *o) {
    rdbkit_aof_options ao;
    rdbkit_aof_options_init(&ao);
    ao.strict = options[0] & 1;
    ao.rdb.ignore_checksum = options[0] >> 1 & 1;
    if (options[0] & 4) ao.max_args = 3, ao.max_arg_len = 20, ao.max_command_len = 60;
    memset(o, 0, sizeof *o);
    o->file = data, o->size = size;
    rdbkit_visitor rdb = {0};
    rdb.user = o;
    rdb.key = on_key;
    rdbkit_aof_visitor v = {o, &rdb, on_rdb_end, on_command, on_annotation};
    rdbkit_aof *a = o->a = rdbkit_aof_new(&ao, &v);
    if (!a) exit(0);
    fuzz_source s = {data, size, options[2] | (uint32_t)options[3] << 8};
    if (how == PULL) {
        rdbkit_input *in = rdbkit_input_new(NULL, fuzz_read_some, &s);
        if (!in) exit(0);
        o->status = rdbkit_aof_pull(a, in);
        rdbkit_input_free(in);
    } else if (how == SPLIT) {
        o->status = feed_some(a, &s);
    } else {
        o->status = rdbkit_aof_feed(a, data, size);
        if (o->status == RDBKIT_MORE) o->status = rdbkit_aof_finish(a);
    }
    o->error = *rdbkit_aof_error(a);
    o->state = *rdbkit_aof_progress(a);
    o->offset = rdbkit_aof_offset(a);
    rdbkit_aof_free(a);
    judge(o, how);
}

/* What was read, written, and read again, is the same. */
static void manifest(const uint8_t *data, size_t size) {
    rdbkit_error e;
    rdbkit_manifest *m = rdbkit_manifest_parse(NULL, data, size, &e), *again;
    rdbkit_is_manifest(data, size);
    if (!m != (e.code < 0) || !m != (e.message[0] != 0)) fuzz_fail("manifest and error", m != NULL, e.code);
    if (!m) return;
    size_t n = rdbkit_manifest_count(m), len = 0;
    char *text = malloc(n * RDBKIT_MANIFEST_LINE_MAX + 2);
    if (!text) exit(0);
    text[len++] = '#', text[len++] = '\n';
    for (size_t i = 0; i < n; i++) {
        int got = rdbkit_manifest_line(text + len, RDBKIT_MANIFEST_LINE_MAX, rdbkit_manifest_at(m, i));
        if (got == RDBKIT_ERR_LIMIT) goto done; /* escapes take more room than what was read */
        if (got < 0) fuzz_fail("a line that cannot be written", (long long)i, got);
        len += (size_t)got;
    }
    if (!(again = rdbkit_manifest_parse(NULL, text, len, &e)))
        fuzz_fail("a line that cannot be read", e.code, (long long)len);
    if (rdbkit_manifest_count(again) != n) fuzz_fail("files", (long long)n, 0);
    for (size_t i = 0; i < n; i++) {
        const rdbkit_manifest_file *x = rdbkit_manifest_at(m, i), *y = rdbkit_manifest_at(again, i);
        if (x->seq != y->seq || x->type != y->type || x->name.len != y->name.len ||
            memcmp(x->name.data, y->name.data, x->name.len) != 0)
            fuzz_fail("file", (long long)i, 0);
    }
    rdbkit_manifest_free(again);
done:
    free(text);
    rdbkit_manifest_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t options[4] = {0, 0, 7, 9};
    if (size >= 4 && !memcmp(data, "file", 4)) {
        manifest(data, size);
        return 0;
    }
    if (size && data[0] != '*' && data[0] != '#') fuzz_options(options, &data, &size);
    if (options[0] & 16) {
        manifest(data, size);
        return 0;
    }
    int pull = options[0] & 8 && (size < 2 || data[0] != 0x1f || data[1] != 0x8b);
    outcome a, b;
    run(options, data, size, WHOLE, &a);
    run(options, data, size, pull ? PULL : SPLIT, &b);
    if (a.status != b.status) fuzz_fail("status", a.status, b.status);
    if (a.error.offset != b.error.offset)
        fuzz_fail("error.offset", (long long)a.error.offset, (long long)b.error.offset);
    if (strcmp(a.error.message, b.error.message) != 0) {
        fprintf(stderr, "%s\n%s\n", a.error.message, b.error.message);
        fuzz_fail("message", a.status, b.status);
    }
    if (a.hash != b.hash) fuzz_fail("events", (long long)a.state.commands, (long long)b.state.commands);
    if (memcmp(&a.state, &b.state, sizeof a.state) != 0) fuzz_fail("state", a.status, b.status);
    return 0;
}
