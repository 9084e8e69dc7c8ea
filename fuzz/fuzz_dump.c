/* fuzz_dump.c - payloads of DUMP: RESTORE takes one or refuses it; what it takes comes out, can be written for servers
 * that hold all of it, and comes back the same.
 *
 * Option bytes: flags (1 type numbers of Valkey, for the mutator; 2 FUNCTION RESTORE; 4 a source of its own; 8 a command
 * touches the value before it is written), source, which command, unused. Then the payload: type
 * byte, value, version, checksum.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sum.h"

FUZZ_INPUT(FUZZ_PAYLOAD)

static int told_refused(void *ctx, const rdbkit_replay_event *event) {
    *(int *)ctx |= event->kind == RDBKIT_REPLAY_REFUSED;
    if (sum_show) fprintf(stderr, "%s\n", event->text);
    return 0;
}

static rdbkit_keyspace *new_keyspace(const rdbkit_target *source, int *refused) {
    rdbkit_keyspace_options ko;
    rdbkit_keyspace_options_init(&ko);
    ko.source = source;
    ko.memory_limit = (uint64_t)64 << 20;
    ko.on_event = told_refused;
    ko.on_event_ctx = refused;
    rdbkit_keyspace *ks = rdbkit_keyspace_new(&ko);
    if (!ks) exit(0);
    return ks;
}

static int run(rdbkit_keyspace *ks, const rdbkit_str *argv, size_t argc) {
    rdbkit_command c;
    memset(&c, 0, sizeof c);
    c.argv = argv, c.argc = argc, c.timestamp_s = RDBKIT_NO_TIMESTAMP;
    return rdbkit_keyspace_command(ks, &c);
}

static sum sum_of(rdbkit_keyspace *ks) {
    sum s = sum_start(0, 0);
    s.modules = 1;
    rdbkit_visitor v = sum_visitor(&s);
    int st = rdbkit_keyspace_emit(ks, NULL, &v);
    if (st == RDBKIT_ERR_NOMEM || st == RDBKIT_ERR_LIMIT) exit(0);
    if (st != RDBKIT_DONE) fuzz_fail("what was taken does not come out", st, (long long)s.keys);
    return s;
}

/* Whether the value is sound in every respect: read as that of a file. */
static int is_sound(const uint8_t *payload, size_t len) {
    fuzz_bytes file = {NULL, 0};
    sum s = sum_start(0, 0);
    if (len < 11) return 0;
    fuzz_keep(&file, payload[len - 10] >= 80 ? "VALKEY080" : "REDIS0012", 9);
    fuzz_keep(&file, payload, 1);
    fuzz_keep(&file, "\001k", 2);
    fuzz_keep(&file, payload + 1, len - 11);
    fuzz_keep(&file, "\377\0\0\0\0\0\0\0\0", 9);
    int sound = sum_read(&s, file.data, file.len) == RDBKIT_DONE && !s.odd && !sum_twice(file.data, file.len);
    free(file.data);
    return sound;
}

/* Write for a target, load again, compare. */
static void there_and_back(rdbkit_keyspace *ks, const rdbkit_target *target, int reencode, int sound) {
    fuzz_bytes out = {NULL, 0};
    rdbkit_writer_options wo;
    rdbkit_writer_options_init(&wo);
    wo.target = target;
    wo.allow_loss = 1;
    wo.reencode = reencode;
    rdbkit_writer *w = rdbkit_writer_new(&wo, fuzz_keep, &out);
    if (!w) exit(0);
    int st = rdbkit_keyspace_emit(ks, NULL, rdbkit_writer_visitor(w)), lossless = !rdbkit_writer_loss(w, 0);
    rdbkit_writer_free(w);
    if (st == RDBKIT_DONE) {
        sum file = sum_start(0, 0), before;
        rdbkit_reader *r = rdbkit_reader_new(NULL, NULL);
        if (!r) exit(0);
        st = rdbkit_reader_feed(r, out.data, out.len);
        if (st != RDBKIT_DONE) {
            fprintf(stderr, "%s\n", rdbkit_reader_error(r)->message);
            fuzz_fail("what was written cannot be read", st, reencode);
        }
        rdbkit_reader_free(r);
        file.modules = 1;
        if (lossless && sound) {
            before = sum_of(ks);
            st = sum_read(&file, out.data, out.len);
            if (st != RDBKIT_DONE) fuzz_fail("a sound value, and a file that is not", st, reencode);
            if (before.keys != file.keys || before.all != file.all)
                fuzz_fail("the file says something else, keys", (long long)before.keys, (long long)file.keys);
        }
    } else if (st != RDBKIT_ERR_LIMIT && st != RDBKIT_ERR_IO) {
        fuzz_fail("what was taken cannot be written", st, reencode);
    }
    free(out.data);
}

static rdbkit_str text(const char *s) { return (rdbkit_str){s, strlen(s)}; }

/* A command that has to thaw the value, whatever it is. */
static void touch(rdbkit_keyspace *ks, unsigned which) {
    static const char *const commands[][5] =
        {{"rpush", "k", "x"},     {"sadd", "k", "x"},   {"hset", "k", "x", "y"},
         {"zadd", "k", "1", "x"}, {"append", "k", "x"}, {"xadd", "k", "*", "a", "b"},
         {"lpop", "k"},           {"hdel", "k", "f"},   {"srem", "k", "1"},
         {"zrem", "k", "m"},      {"incr", "k"},        {"xtrim", "k", "maxlen", "0"},
         {"rename", "k", "l"},    {"copy", "k", "l"},   {"hpersist", "k", "fields", "1", "f"},
         {"pfadd", "k", "x"}};
    const char *const *c = commands[which % (sizeof commands / sizeof commands[0])];
    rdbkit_str argv[5];
    size_t argc = 0;
    while (argc < 5 && c[argc]) argv[argc] = text(c[argc]), argc++;
    int st = run(ks, argv, argc);
    if (st != RDBKIT_OK && st != RDBKIT_ERR_LIMIT) fuzz_fail("a command ends the replay", st, which % 16);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4) return 0;
    size_t targets = 0, len = size - 4;
    while (rdbkit_target_at(targets)) targets++;
    uint8_t o[4], *payload = malloc(len + !len);
    if (!payload) exit(0);
    memcpy(o, data, 4);
    if (len) memcpy(payload, data + 4, len);
    sum_show = getenv("FUZZ_SHOW") != NULL;
    int refused = 0, function = o[0] >> 1 & 1;
    rdbkit_keyspace *ks = new_keyspace(o[0] & 4 ? rdbkit_target_at(o[1] % targets) : NULL, &refused);
    rdbkit_str bytes = {(const char *)payload, len};
    rdbkit_str restore[] = {text("restore"), text("k"), text("0"), bytes, text("replace")},
               library[] = {text("function"), text("restore"), bytes};
    int st = function ? run(ks, library, 3) : run(ks, restore, 5);
    if (st != RDBKIT_OK && st != RDBKIT_ERR_LIMIT) fuzz_fail("a payload ends the replay", st, function);
    sum s = sum_of(ks);
    if (refused && (s.keys || s.functions))
        fuzz_fail("refused, and there", (long long)s.keys, (long long)s.functions);
    if (!refused && !function && s.keys > 1) fuzz_fail("keys of one payload", (long long)s.keys, 0);
    if (!refused && st == RDBKIT_OK && o[0] & 8) touch(ks, o[2]);
    if (!refused) {
        int sound = !function && is_sound(payload, len);
        there_and_back(ks, rdbkit_target_find("redis-8"), o[3] & 1, sound);
        there_and_back(ks, rdbkit_target_find("valkey-9"), o[3] >> 1 & 1, sound);
    }
    rdbkit_keyspace_free(ks);
    free(payload);
    return 0;
}
