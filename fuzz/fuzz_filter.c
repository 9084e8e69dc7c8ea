/* fuzz_filter.c - which keys a filter lets through, and what it makes of them, against a slow judge that reads the same
 * rules; rdbkit_check with and without room on disk, against a plain list of all names.
 *
 * Option bytes: number of rules; seed of the rules; flags (1 pieces, 2 deep); limit.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

FUZZ_INPUT(FUZZ_RDB)

/* ---- rules ---- */

enum { GLOB, NAME, SHAPES, DB, SLOT, EXPIRY, MAP_DB, RENAME, STRIP, SHIFT, KIND_N };
enum { RULES_MAX = 8 };

typedef struct rule {
    int kind, negate;
    rdbkit_str a, b;
    uint64_t x, y;
} rule;

typedef struct rules {
    rule v[RULES_MAX];
    size_t n;
    uint64_t limit, passed;
    char name[70000];
} rules;

/* Names are taken from the keys that are there. */
typedef struct names {
    rdbkit_str v[64];
    size_t n;
} names;

static rdbkit_str some_name(const names *all, uint32_t *state) {
    static const rdbkit_str odd[] = {{"*", 1}, {"k*", 2},  {"[a-m]*", 6}, {"?", 1},
                                     {"", 0},  {"*:*", 3}, {"s", 1}};
    uint32_t c = fuzz_chance(state);
    return c % 3 && all->n ? all->v[(c >> 4) % all->n] : odd[(c >> 4) % 7];
}

static int64_t some_time(uint32_t *state) {
    static const int64_t odd[] = {0, -1, 1, INT64_MAX, INT64_MIN, 1700000000000, 4102444800000};
    uint32_t c = fuzz_chance(state);
    return c % 4 ? odd[(c >> 4) % 7] : (int64_t)c * 100000;
}

static void make_rules(rules *r, const uint8_t o[4], const names *all) {
    uint32_t state = o[1] * 2654435761u;
    r->n = o[0] % (RULES_MAX + 1);
    r->limit = o[3] < 200 ? UINT64_MAX : o[3] % 8u;
    r->passed = 0;
    for (size_t i = 0; i < r->n; i++) {
        rule *x = &r->v[i];
        x->kind = (int)(fuzz_chance(&state) % KIND_N);
        x->negate = fuzz_chance(&state) % 4 == 0;
        x->a = some_name(all, &state), x->b = some_name(all, &state);
        x->x = fuzz_chance(&state) % 3, x->y = fuzz_chance(&state) % 3;
        if (x->kind == SHAPES) x->x = 1 + fuzz_chance(&state) % 127;
        if (x->kind == DB) x->y += x->x;
        if (x->kind == SLOT)
            x->x = fuzz_chance(&state) % 16384, x->y = x->x + fuzz_chance(&state) % (16384 - x->x);
        if (x->kind == EXPIRY) x->x = fuzz_chance(&state) % 16, x->y = (uint64_t)some_time(&state);
        if (x->kind == SHIFT) x->x = (uint64_t)some_time(&state);
    }
}

/* The same rules for the library. */
static void give_rules(rdbkit_filter *f, rules *r) {
    for (size_t i = 0; i < r->n; i++) {
        rule *x = &r->v[i];
        int st = RDBKIT_OK;
        switch (x->kind) {
        case GLOB: st = rdbkit_filter_key(f, x->a.data, x->a.len, x->negate); break;
        case NAME: st = rdbkit_filter_key_name(f, x->a.data, x->a.len); break;
        case SHAPES: st = rdbkit_filter_shapes(f, (unsigned)x->x, x->negate); break;
        case DB: st = rdbkit_filter_db(f, x->x, x->y, x->negate); break;
        case SLOT: st = rdbkit_filter_slot(f, (unsigned)x->x, (unsigned)x->y); break;
        case EXPIRY: rdbkit_filter_expiry(f, (unsigned)x->x, (int64_t)x->y); break;
        case MAP_DB:
            st = rdbkit_filter_map_db(f, x->x, x->y);
            if (st == RDBKIT_ERR_USAGE) x->kind = KIND_N, st = RDBKIT_OK; /* mapped already */
            break;
        case RENAME: st = rdbkit_filter_rename(f, x->a.data, x->a.len, x->b.data, x->b.len); break;
        case STRIP: rdbkit_filter_strip_ttl(f); break;
        default: rdbkit_filter_shift_ttl(f, (int64_t)x->x); break;
        }
        if (st == RDBKIT_ERR_NOMEM) exit(0);
        if (st != RDBKIT_OK) fuzz_fail("a rule is refused", x->kind, st);
    }
    if (r->limit != UINT64_MAX) rdbkit_filter_limit(f, r->limit);
}

/* ---- the slow judge ---- */

static unsigned slot_of(rdbkit_str s) {
    const char *open = memchr(s.data, '{', s.len), *close;
    unsigned crc = 0;
    if (open) {
        open++;
        close = memchr(open, '}', s.len - (size_t)(open - s.data));
        if (close && close > open) s = (rdbkit_str){open, (size_t)(close - open)};
    }
    for (size_t i = 0; i < s.len; i++) {
        crc ^= (unsigned)(uint8_t)s.data[i] << 8;
        for (int k = 0; k < 8; k++) crc = (crc << 1 ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
    return crc % 16384;
}

static int same(rdbkit_str a, rdbkit_str b) {
    return a.len == b.len && (!a.len || !memcmp(a.data, b.data, a.len));
}

static int holds(const rule *x, const rdbkit_key *key) {
    int64_t now = (int64_t)x->y, at = key->expire_ms;
    int has = at != RDBKIT_NO_EXPIRY, past = has && at < now;
    switch (x->kind) {
    case GLOB: return rdbkit_glob_match(x->a.data, x->a.len, key->name.data, key->name.len);
    case NAME: return same(x->a, key->name);
    case SHAPES: return x->x >> key->type->shape & 1;
    case DB: return key->db >= x->x && key->db <= x->y;
    case SLOT: return slot_of(key->name) >= x->x && slot_of(key->name) <= x->y;
    default:
        return !(x->x & RDBKIT_ONLY_EXPIRED && !past) && !(x->x & RDBKIT_NO_EXPIRED && past) &&
               !(x->x & RDBKIT_HAS_TTL && !has) && !(x->x & RDBKIT_NO_TTL && has);
    }
}

/* All kinds that were asked for, by any of their rules, and by none of those that are negated. */
static int passes(const rules *r, const rdbkit_key *key) {
    for (int kind = 0; kind <= EXPIRY; kind++) {
        int asked = 0, yes = 0;
        for (size_t i = 0; i < r->n; i++) {
            const rule *x = &r->v[i];
            if (x->kind != kind) continue;
            int negate = x->negate && (kind == GLOB || kind == SHAPES || kind == DB);
            if (kind == EXPIRY) asked = 1, yes = holds(x, key); /* the last one counts */
            else if (negate && holds(x, key)) return 0;
            else if (!negate) asked = 1, yes |= holds(x, key);
        }
        if (asked && !yes) return 0;
    }
    return r->passed < r->limit;
}

static void transform(rules *r, rdbkit_key *key) {
    int renamed = 0, mapped = 0, strip = 0;
    const rule *shift = NULL;
    for (size_t i = 0; i < r->n; i++) {
        const rule *x = &r->v[i];
        strip |= x->kind == STRIP;
        if (x->kind == SHIFT) shift = x;
        if (x->kind == MAP_DB && !mapped && key->db == x->x) key->db = x->y, mapped = 1;
        if (x->kind != RENAME || renamed || key->name.len < x->a.len ||
            (x->a.len && memcmp(key->name.data, x->a.data, x->a.len) != 0))
            continue;
        size_t rest = key->name.len - x->a.len;
        if (rest + x->b.len > sizeof r->name) exit(0);
        memmove(r->name + x->b.len, key->name.data + x->a.len, rest);
        if (x->b.len) memcpy(r->name, x->b.data, x->b.len);
        key->name = (rdbkit_str){r->name, x->b.len + rest};
        renamed = 1;
    }
    if (strip) key->expire_ms = RDBKIT_NO_EXPIRY;
    else if (shift && key->expire_ms != RDBKIT_NO_EXPIRY) {
        int64_t by = (int64_t)shift->x, at = key->expire_ms;
        if (by > 0 && at > INT64_MAX - by) at = INT64_MAX;
        else if (by < 0 && at < INT64_MIN - by) at = INT64_MIN;
        else at += by;
        key->expire_ms = at == RDBKIT_NO_EXPIRY ? -2 : at;
    }
}

/* ---- reading ---- */

typedef struct told {
    uint64_t hash, keys;
    rules *rules; /* NULL: the library has judged already */
    names *names;
    int in_key;
} told;

static void mix(told *t, const void *data, size_t len) {
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++) t->hash = (t->hash ^ p[i]) * 1099511628211u;
    t->hash = (t->hash ^ len) * 1099511628211u;
}

static int on_key(void *user, const rdbkit_key *given) {
    told *t = user;
    rdbkit_key key = *given;
    if (t->names) {
        if (t->names->n < 64 && key.name.len < 4096) {
            char *copy = malloc(key.name.len + 1);
            if (!copy) exit(0);
            if (key.name.len) memcpy(copy, key.name.data, key.name.len);
            t->names->v[t->names->n++] = (rdbkit_str){copy, key.name.len};
        }
        return RDBKIT_SKIP_KEY;
    }
    if (t->rules) {
        t->in_key = passes(t->rules, &key);
        if (!t->in_key) return RDBKIT_SKIP_KEY;
        t->rules->passed++;
        transform(t->rules, &key);
    }
    t->keys++;
    mix(t, key.name.data, key.name.len);
    uint64_t facts[] = {key.db, (uint64_t)key.expire_ms, (uint64_t)key.type->shape, key.offset,
                        key.value_off};
    mix(t, facts, sizeof facts);
    return RDBKIT_OK;
}

static int on_item(void *user, rdbkit_str item) {
    mix(user, item.data, item.len);
    return 0;
}

static int on_scored(void *user, rdbkit_str member, double score) {
    (void)score;
    return on_item(user, member);
}

static int on_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)expire_ms;
    on_item(user, field);
    return on_item(user, value);
}

static int read_file(const uint8_t *data, size_t size, const rdbkit_reader_options *ro,
                     const rdbkit_visitor *v, int pieces) {
    rdbkit_reader *r = rdbkit_reader_new(ro, v);
    if (!r) exit(0);
    int st = RDBKIT_MORE;
    size_t piece = pieces ? 37 : size;
    for (size_t at = 0; at < size && st == RDBKIT_MORE; at += piece)
        st = rdbkit_reader_feed(r, data + at, size - at < piece ? size - at : piece);
    if (st == RDBKIT_MORE) st = rdbkit_reader_finish(r);
    rdbkit_reader_free(r);
    return st;
}

static rdbkit_visitor visitor_of(told *t) {
    rdbkit_visitor v = {0};
    v.user = t;
    v.key = on_key, v.string = on_item, v.list_item = on_item, v.set_member = on_item;
    v.zset_member = on_scored, v.hash_field = on_field;
    return v;
}

static void filters(const uint8_t o[4], const uint8_t *data, size_t size) {
    static rules r;
    names all = {{{0}}, 0};
    told collect = {0, 0, NULL, &all, 0}, slow = {1, 0, &r, NULL, 0}, fast = {1, 0, NULL, NULL, 0};
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    ro.ignore_checksum = 1;
    rdbkit_visitor v = visitor_of(&collect);
    read_file(data, size, &ro, &v, 0);
    make_rules(&r, o, &all);
    rdbkit_filter *f = rdbkit_filter_new(NULL);
    if (!f) exit(0);
    give_rules(f, &r);
    v = visitor_of(&slow);
    int a = read_file(data, size, &ro, &v, 0);
    ro.key_filter = rdbkit_filter_apply, ro.key_filter_ctx = f;
    v = visitor_of(&fast);
    int b = read_file(data, size, &ro, &v, o[2] & 1);
    if (rdbkit_filter_matched(f) != fast.keys)
        fuzz_fail("keys let through, and seen", (long long)rdbkit_filter_matched(f), (long long)fast.keys);
    if (a != b || slow.keys != fast.keys || (slow.hash != fast.hash && a == RDBKIT_DONE))
        fuzz_fail("the filter lets other keys through", (long long)slow.keys, (long long)fast.keys);
    rdbkit_filter_free(f);
    for (size_t i = 0; i < all.n; i++) {
        char *copy = (char *)(uintptr_t)all.v[i].data;
        free(copy);
    }
}

/* ---- duplicates ---- */

/* Where each name lies: key 0 for names of keys, whose number is the database, else in the value at that offset. */
typedef struct seen {
    uint64_t where, number, hash;
    size_t len;
} seen;

typedef struct list {
    seen *v;
    size_t n, cap;
    uint64_t key_off;
} list;

static void see(list *l, uint64_t where, uint64_t number, rdbkit_str s) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < s.len; i++) h = (h ^ (uint8_t)s.data[i]) * 1099511628211u;
    if (l->n == l->cap && !(l->v = realloc(l->v, (l->cap = 2 * l->cap + 64) * sizeof *l->v))) exit(0);
    l->v[l->n++] = (seen){where, number, h, s.len};
}

static int see_key(void *user, const rdbkit_key *key) {
    list *l = user;
    l->key_off = key->offset;
    see(l, 0, key->db, key->name);
    return 0;
}

static int see_member(void *user, rdbkit_str member) {
    list *l = user;
    see(l, l->key_off, 0, member);
    return 0;
}

static int see_scored(void *user, rdbkit_str member, double score) {
    (void)score;
    return see_member(user, member);
}

static int see_field(void *user, rdbkit_str field, rdbkit_str value, int64_t expire_ms) {
    (void)value, (void)expire_ms;
    return see_member(user, field);
}

static int compare_seen(const void *a, const void *b) {
    const seen *x = a, *y = b;
    if (x->where != y->where) return x->where < y->where ? -1 : 1;
    if (x->number != y->number) return x->number < y->number ? -1 : 1;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->len < y->len ? -1 : x->len > y->len;
}

static int spill_write(void *ctx, const void *data, size_t len) { return fuzz_keep(ctx, data, len); }

static int spill_read(void *ctx, uint64_t offset, void *data, size_t len) {
    fuzz_bytes *b = ctx;
    if (offset > b->len || len > b->len - offset)
        fuzz_fail("a spill read past its end", (long long)offset, 0);
    memcpy(data, b->data + offset, len);
    return 0;
}

static void duplicates(const uint8_t *data, size_t size) {
    fuzz_bytes spilled = {NULL, 0};
    rdbkit_spill spill = {spill_write, spill_read, &spilled, NULL};
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro);
    ro.ignore_checksum = 1;
    list l = {NULL, 0, 0, 0};
    rdbkit_visitor v = {0};
    v.user = &l;
    v.key = see_key, v.set_member = see_member, v.zset_member = see_scored, v.hash_field = see_field;
    int64_t wanted = 0;
    if (read_file(data, size, &ro, &v, 0) == RDBKIT_DONE) {
        if (l.n) qsort(l.v, l.n, sizeof *l.v, compare_seen);
        for (size_t i = 1; i < l.n; i++) wanted += !compare_seen(&l.v[i - 1], &l.v[i]);
        for (int i = 0; i < 2; i++) {
            rdbkit_check *c = rdbkit_check_new(NULL, i ? &spill : NULL);
            if (!c) exit(0);
            read_file(data, size, &ro, rdbkit_check_visitor(c), 0);
            int64_t found = rdbkit_check_finish(c);
            if (found != wanted) fuzz_fail("duplicates: wanted, found", wanted, found);
            for (size_t k = 0; k < 16; k++) {
                const rdbkit_duplicate *d = rdbkit_check_duplicate(c, k);
                if (!d != ((int64_t)k >= found)) fuzz_fail("duplicates shown", (long long)k, found);
                if (d && (d->first_off > d->second_off || d->second_off >= size ||
                          d->field != (d->first_off == d->second_off)))
                    fuzz_fail("where a duplicate is", (long long)d->first_off, (long long)d->second_off);
            }
            rdbkit_check_free(c);
        }
    }
    free(l.v);
    free(spilled.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t o[4];
    fuzz_options(o, &data, &size);
    if (o[2] & 4) duplicates(data, size);
    else filters(o, data, size);
    return 0;
}
