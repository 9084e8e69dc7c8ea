/* events.c - see events.h. With EVENTS_MAIN defined: a program that prints the events of a file.
 *
 * SPDX-License-Identifier: MIT
 */
#include "events.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { S_FILE, S_KEY, S_AUX };

/* ---- Words, numbers and bytes: as text, or into the hash ---- */

static void put(events *e, const char *data, size_t len) {
    if (e->text_cap - e->text_len <= len) {
        size_t cap = e->text_cap * 2 + len + 4096;
        char *text = realloc(e->text, cap);
        if (!text) {
            e->out_of_memory = 1;
            return;
        }
        e->text = text;
        e->text_cap = cap;
    }
    memcpy(e->text + e->text_len, data, len);
    e->text_len += len;
    e->text[e->text_len] = 0;
}

static void mix(events *e, const void *data, size_t len) {
    const unsigned char *p = data;
    uint64_t h = e->hash;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    e->hash = h;
}

static void word(events *e, const char *w) {
    if (e->as_text) put(e, w, strlen(w));
    else mix(e, w, strlen(w) + 1);
}

static void u64(events *e, const char *label, uint64_t x) {
    word(e, label);
    if (e->as_text) {
        char buf[32];
        put(e, buf, (size_t)snprintf(buf, sizeof buf, "%" PRIu64, x));
    } else mix(e, &x, sizeof x);
}

static void i64(events *e, const char *label, int64_t x) {
    word(e, label);
    if (e->as_text) {
        char buf[32];
        put(e, buf, (size_t)snprintf(buf, sizeof buf, "%" PRId64, x));
    } else mix(e, &x, sizeof x);
}

static void id(events *e, const char *label, rdbkit_stream_id x) {
    u64(e, label, x.ms);
    u64(e, "-", x.seq);
}

static void number(events *e, const char *label, double x) {
    word(e, label);
    if (e->as_text) {
        char buf[40];
        put(e, buf, (size_t)snprintf(buf, sizeof buf, "%.17g", x));
    } else mix(e, &x, sizeof x);
}

static void bytes(events *e, const char *data, size_t len) {
    static const char HEX[] = "0123456789abcdef";
    if (!e->as_text) {
        mix(e, data, len);
        return;
    }
    char buf[1024];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 32 && c < 127 && c != '"' && c != '\\') buf[n++] = (char)c;
        else {
            buf[n++] = '\\';
            buf[n++] = 'x';
            buf[n++] = HEX[c >> 4];
            buf[n++] = HEX[c & 15];
        }
        if (n > sizeof buf - 8) {
            put(e, buf, n);
            n = 0;
        }
    }
    put(e, buf, n);
}

static void str(events *e, const char *label, rdbkit_str s) {
    word(e, label);
    if (e->as_text) put(e, "\"", 1);
    else mix(e, &s.len, sizeof s.len);
    bytes(e, s.data, s.len);
    if (e->as_text) put(e, "\"", 1);
}

/* ---- The grammar ---- */

static void fault(events *e, const char *what) {
    if (e->fault) return;
    e->fault = what;
    e->fault_off = e->reader ? rdbkit_reader_offset(e->reader) : 0;
}

/* Opens an event: it may come in this state alone. */
static void begin(events *e, int state, const char *fault_text) {
    e->n++;
    if (e->state != state || !e->in_header || e->ended) fault(e, fault_text);
}

static int answer(events *e, int ok) {
    if (e->as_text) put(e, "\n", 1);
    return e->stop_at && e->n == e->stop_at ? RDBKIT_ERR_STOPPED : ok;
}

/* Opens the event of an element. Returns whether it is to be written. */
static int element(events *e, rdbkit_shape shape, const char *fault_text) {
    begin(e, S_KEY, fault_text);
    if (e->shape != shape) fault(e, fault_text);
    if (e->answer != RDBKIT_OK) fault(e, "an element though the key was answered with skip or raw");
    return !e->keys_only;
}

static int silent(const events *e) {
    return e->stop_at && e->n == e->stop_at ? RDBKIT_ERR_STOPPED : RDBKIT_OK;
}

/* ---- Callbacks ---- */

static int on_header(void *user, const rdbkit_header *h) {
    events *e = user;
    e->n++;
    if (e->in_header) fault(e, "a second header");
    e->in_header = 1;
    word(e, "header ");
    word(e, h->lineage == RDBKIT_REDIS ? "redis" : h->lineage == RDBKIT_VALKEY ? "valkey" : "?");
    i64(e, " ", h->rdb_version);
    return answer(e, RDBKIT_OK);
}

static int on_aux(void *user, rdbkit_str name, rdbkit_str value) {
    events *e = user;
    begin(e, S_FILE, "aux inside a value");
    str(e, "aux ", name);
    str(e, " ", value);
    return answer(e, RDBKIT_OK);
}

static int on_function(void *user, rdbkit_str code, int opcode) {
    events *e = user;
    begin(e, S_FILE, "function inside a value");
    i64(e, "function opcode=", opcode);
    str(e, " ", code);
    return answer(e, RDBKIT_OK);
}

static int on_module_aux(void *user, const rdbkit_module_aux *aux) {
    events *e = user;
    begin(e, S_FILE, "module_aux inside a value");
    e->state = S_AUX;
    e->raw_pos = UINT64_MAX;
    word(e, "module-aux ");
    word(e, aux->module);
    i64(e, " encver=", aux->encoding_version);
    i64(e, " when=", aux->when);
    return answer(e, e->answer == RDBKIT_TAKE_RAW ? RDBKIT_TAKE_RAW : RDBKIT_OK);
}

static int on_module_aux_end(void *user) {
    events *e = user;
    begin(e, S_AUX, "module_aux_end outside of module_aux");
    e->state = S_FILE;
    word(e, "module-aux-end");
    return answer(e, RDBKIT_OK);
}

static int on_db(void *user, uint64_t db) {
    events *e = user;
    begin(e, S_FILE, "db inside a value");
    u64(e, "db ", db);
    return answer(e, RDBKIT_OK);
}

static int on_resize(void *user, uint64_t keys, uint64_t expires) {
    events *e = user;
    begin(e, S_FILE, "resize inside a value");
    u64(e, "resize keys=", keys);
    u64(e, " expires=", expires);
    return answer(e, RDBKIT_OK);
}

static int on_slot_info(void *user, uint64_t slot, uint64_t keys, uint64_t expires) {
    events *e = user;
    begin(e, S_FILE, "slot_info inside a value");
    u64(e, "slot-info ", slot);
    u64(e, " keys=", keys);
    u64(e, " expires=", expires);
    return answer(e, RDBKIT_OK);
}

static int on_slot_import(void *user, rdbkit_str job, uint64_t ranges) {
    events *e = user;
    begin(e, S_FILE, "slot_import inside a value");
    str(e, "slot-import ", job);
    u64(e, " ranges=", ranges);
    return answer(e, RDBKIT_OK);
}

static void see_type(events *e, const rdbkit_type *type) {
    for (size_t i = 0; i < e->types_n; i++)
        if (e->types[i] == type) return;
    if (e->types_n < EVENTS_TYPES_MAX) e->types[e->types_n++] = type;
}

static int on_key(void *user, const rdbkit_key *key) {
    events *e = user;
    begin(e, S_FILE, "key inside a value");
    e->state = S_KEY;
    e->keys_n++;
    e->shape = key->type->shape;
    e->have_string = e->have_info = 0;
    e->piece_off = e->piece_total = 0;
    e->entries = e->want_fields = e->want_groups = e->want_consumers = e->want_pending = 0;
    e->raw_pos = key->value_off;
    see_type(e, key->type);
    if (e->reader && rdbkit_reader_offset(e->reader) != key->value_off)
        fault(e, "the reader's offset inside key is not value_off");
    if (key->offset >= key->value_off) fault(e, "a key with offset >= value_off");
    u64(e, "key ", key->db);
    str(e, " ", key->name);
    word(e, " ");
    word(e, key->type->name);
    i64(e, " expire=", key->expire_ms);
    i64(e, " idle=", key->idle_s);
    i64(e, " freq=", key->lfu_freq);
    if (key->module) word(e, " module="), word(e, key->module);
    u64(e, " at=", key->offset);
    u64(e, " value=", key->value_off);
    return answer(e, e->answer);
}

static int on_raw(void *user, const void *data, size_t len) {
    events *e = user;
    e->n++;
    if (e->state == S_FILE) fault(e, "raw outside of a value");
    if (e->answer != RDBKIT_TAKE_RAW) fault(e, "raw though it was not asked for");
    if (e->state == S_KEY && e->file) {
        if (e->raw_pos > e->file_len || len > e->file_len - e->raw_pos)
            fault(e, "raw goes past the file's end");
        else if (len && memcmp(data, e->file + e->raw_pos, len) != 0) fault(e, "raw differs from the file");
    }
    if (e->state == S_KEY) e->raw_pos += len;
    return silent(e);
}

static int on_string(void *user, rdbkit_str value) {
    events *e = user;
    int shown = element(e, RDBKIT_STRING, "string outside of a string key");
    if (e->have_string) fault(e, "a second string in one key");
    e->have_string = 1;
    if (!shown) return silent(e);
    str(e, "string ", value);
    return answer(e, RDBKIT_OK);
}

static int on_string_piece(void *user, rdbkit_str piece, uint64_t piece_off, uint64_t total_len) {
    events *e = user;
    int shown = element(e, RDBKIT_STRING, "string_piece outside of a string key");
    if (piece_off != e->piece_off) fault(e, "string_piece does not follow the one before it");
    if (piece_off == 0 && e->have_string) fault(e, "a second string in one key");
    if (piece_off && total_len != e->piece_total) fault(e, "string_piece changes its total length");
    if (piece.len == 0 && total_len) fault(e, "an empty string_piece");
    if (piece.len > total_len - piece_off) fault(e, "string_piece goes past its total length");
    e->piece_total = total_len;
    e->piece_off = piece_off + piece.len;
    e->have_string = e->piece_off == total_len;
    if (piece_off) e->n--; /* so that events are numbered alike, in pieces or not */
    if (!shown) return silent(e);
    if (piece_off == 0) {
        size_t len = (size_t)total_len;
        word(e, "string ");
        if (e->as_text) put(e, "\"", 1);
        else mix(e, &len, sizeof len);
    }
    bytes(e, piece.data, piece.len);
    if (!e->have_string) return silent(e);
    if (e->as_text) put(e, "\"", 1);
    return answer(e, RDBKIT_OK);
}

static int on_list_item(void *user, rdbkit_str item) {
    events *e = user;
    if (!element(e, RDBKIT_LIST, "list_item outside of a list")) return silent(e);
    str(e, "item ", item);
    return answer(e, RDBKIT_OK);
}

static int on_set_member(void *user, rdbkit_str member) {
    events *e = user;
    if (!element(e, RDBKIT_SET, "set_member outside of a set")) return silent(e);
    str(e, "member ", member);
    return answer(e, RDBKIT_OK);
}

static int on_zset_member(void *user, rdbkit_str member, double score) {
    events *e = user;
    if (!element(e, RDBKIT_ZSET, "zset_member outside of a zset")) return silent(e);
    str(e, "scored ", member);
    number(e, " ", score);
    return answer(e, RDBKIT_OK);
}

static int on_hash_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    events *e = user;
    if (!element(e, RDBKIT_HASH, "hash_field outside of a hash")) return silent(e);
    str(e, "field ", field);
    str(e, " ", value);
    if (expire_ms != RDBKIT_NO_EXPIRY) i64(e, " expire=", expire_ms);
    return answer(e, RDBKIT_OK);
}

static int on_stream_entry(void *user, rdbkit_stream_id entry_id, uint64_t fields) {
    events *e = user;
    int shown = element(e, RDBKIT_STREAM, "stream_entry outside of a stream");
    if (e->have_info) fault(e, "stream_entry after stream_info");
    if (e->want_fields) fault(e, "stream_entry before the fields of the one before it");
    e->want_fields = fields;
    e->entries++;
    if (!shown) return silent(e);
    id(e, "entry ", entry_id);
    u64(e, " fields=", fields);
    return answer(e, RDBKIT_OK);
}

static int on_stream_field(void *user, rdbkit_str field, rdbkit_str value) {
    events *e = user;
    int shown = element(e, RDBKIT_STREAM, "stream_field outside of a stream");
    if (e->want_fields == 0) fault(e, "a stream_field too many");
    else e->want_fields--;
    if (!shown) return silent(e);
    str(e, "pair ", field);
    str(e, " ", value);
    return answer(e, RDBKIT_OK);
}

static int on_stream_info(void *user, const rdbkit_stream_info *info) {
    events *e = user;
    int shown = element(e, RDBKIT_STREAM, "stream_info outside of a stream");
    if (e->have_info) fault(e, "a second stream_info");
    if (e->want_fields) fault(e, "stream_info before the fields of the last entry");
    e->have_info = 1;
    e->want_groups = info->groups;
    if (!shown) return silent(e);
    u64(e, "stream-info length=", info->length);
    id(e, " last=", info->last_id);
    id(e, " first=", info->first_id);
    id(e, " max-deleted=", info->max_deleted);
    u64(e, " added=", info->entries_added);
    u64(e, " groups=", info->groups);
    i64(e, " counters=", info->has_counters);
    return answer(e, RDBKIT_OK);
}

static int on_stream_group(void *user, const rdbkit_stream_group *group) {
    events *e = user;
    int shown = element(e, RDBKIT_STREAM, "stream_group outside of a stream");
    if (!e->have_info || e->want_groups == 0) fault(e, "a stream_group too many");
    else e->want_groups--;
    if (e->want_consumers || e->want_pending) fault(e, "stream_group before the end of the one before it");
    e->want_consumers = group->consumers;
    if (!shown) return silent(e);
    str(e, "group ", group->name);
    id(e, " last=", group->last_id);
    i64(e, " read=", group->entries_read);
    u64(e, " pending=", group->pending);
    u64(e, " consumers=", group->consumers);
    return answer(e, RDBKIT_OK);
}

static int on_stream_consumer(void *user, const rdbkit_stream_consumer *consumer) {
    events *e = user;
    int shown = element(e, RDBKIT_STREAM, "stream_consumer outside of a stream");
    if (e->want_consumers == 0) fault(e, "a stream_consumer too many");
    else e->want_consumers--;
    if (e->want_pending) fault(e, "stream_consumer before the pending entries of the one before it");
    e->want_pending = consumer->pending;
    if (!shown) return silent(e);
    str(e, "consumer ", consumer->name);
    i64(e, " seen=", consumer->seen_ms);
    i64(e, " active=", consumer->active_ms);
    u64(e, " pending=", consumer->pending);
    return answer(e, RDBKIT_OK);
}

static int on_stream_pending(void *user, const rdbkit_stream_pending *pending) {
    events *e = user;
    int shown = element(e, RDBKIT_STREAM, "stream_pending outside of a stream");
    if (e->want_pending == 0) fault(e, "a stream_pending too many");
    else e->want_pending--;
    if (!shown) return silent(e);
    id(e, "pending ", pending->id);
    i64(e, " delivered=", pending->delivery_ms);
    u64(e, " count=", pending->delivery_count);
    return answer(e, RDBKIT_OK);
}

static int on_key_end(void *user) {
    events *e = user;
    begin(e, S_KEY, "key_end outside of a key");
    e->state = S_FILE;
    if (e->answer == RDBKIT_OK) {
        if (e->shape == RDBKIT_STRING && !e->have_string) fault(e, "key_end before the string");
        if (e->shape == RDBKIT_STREAM && !e->have_info) fault(e, "key_end before stream_info");
        if (e->want_groups || e->want_consumers || e->want_pending || e->want_fields)
            fault(e, "key_end before the stream is complete");
    }
    if (e->answer == RDBKIT_TAKE_RAW && e->reader && e->raw_pos != rdbkit_reader_offset(e->reader))
        fault(e, "raw does not end where the value ends");
    u64(e, "key-end at=", e->reader ? rdbkit_reader_offset(e->reader) : 0);
    return answer(e, RDBKIT_OK);
}

static int on_end(void *user, int checksum) {
    events *e = user;
    begin(e, S_FILE, "end inside a value");
    e->ended = 1;
    i64(e, "end checksum=", checksum);
    return answer(e, RDBKIT_OK);
}

/* ---- Entry points ---- */

void events_init(events *e, int as_text) {
    memset(e, 0, sizeof *e);
    e->as_text = as_text;
    e->hash = UINT64_C(0xcbf29ce484222325);
}

void events_free(events *e) {
    free(e->text);
    e->text = NULL;
}

rdbkit_visitor events_visitor(events *e) {
    rdbkit_visitor v = {
        .user = e,
        .header = on_header,
        .aux = on_aux,
        .function = on_function,
        .module_aux = on_module_aux,
        .module_aux_end = on_module_aux_end,
        .db = on_db,
        .resize = on_resize,
        .slot_info = on_slot_info,
        .slot_import = on_slot_import,
        .key = on_key,
        .raw = on_raw,
        .string = on_string,
        .string_piece = on_string_piece,
        .list_item = on_list_item,
        .set_member = on_set_member,
        .zset_member = on_zset_member,
        .hash_field = on_hash_field,
        .stream_entry = on_stream_entry,
        .stream_field = on_stream_field,
        .stream_info = on_stream_info,
        .stream_group = on_stream_group,
        .stream_consumer = on_stream_consumer,
        .stream_pending = on_stream_pending,
        .key_end = on_key_end,
        .end = on_end,
    };
    return v;
}

void events_error(events *e, const rdbkit_error *error) {
    i64(e, "#error ", error->code);
    u64(e, " ", error->offset);
    word(e, " ");
    bytes(e, error->message, strlen(error->message));
    if (e->as_text) put(e, "\n", 1);
}

#ifdef EVENTS_MAIN

/* The text is written out whenever it has grown, so that files of any size can be shown. */
static int show(rdbkit_reader *r, events *e, FILE *f) {
    static char buf[65536];
    int st = RDBKIT_MORE;
    size_t n;
    while (st == RDBKIT_MORE && (n = fread(buf, 1, sizeof buf, f)) > 0) {
        st = rdbkit_reader_feed(r, buf, n);
        if (e->text_len) fwrite(e->text, 1, e->text_len, stdout);
        e->text_len = 0;
    }
    return st == RDBKIT_MORE ? rdbkit_reader_finish(r) : st;
}

int main(int argc, char **argv) {
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!f) {
        fprintf(stderr, "usage: events FILE\n");
        return argc == 2 ? 3 : 2;
    }
    events e;
    events_init(&e, 1);
    rdbkit_visitor v = events_visitor(&e);
    rdbkit_reader *r = rdbkit_reader_new(NULL, &v);
    if (!r) return 3;
    e.reader = r;
    int st = show(r, &e, f);
    if (st < 0) events_error(&e, rdbkit_reader_error(r));
    fwrite(e.text, 1, e.text_len, stdout);
    if (e.fault) fprintf(stderr, "events: %s (before offset %" PRIu64 ")\n", e.fault, e.fault_off);
    rdbkit_reader_free(r);
    events_free(&e);
    fclose(f);
    return st < 0 || e.fault ? 1 : 0;
}

#endif
