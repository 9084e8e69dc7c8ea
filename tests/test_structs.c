/* test_structs.c - what a keyspace is made of, rooms seq_, tab_, ord_ and obj_, against models that are too simple to be
 * wrong: arrays that are searched and shifted. Random steps from fixed seeds; then the same with allocations that fail.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../rdbkit.c"

#define CHECK(x) assert_true(x)

static u64 rnd_state = 1;

static u64 rnd(u64 n) {
    rnd_state ^= rnd_state << 13, rnd_state ^= rnd_state >> 7, rnd_state ^= rnd_state << 17;
    return n ? (rnd_state >> 11) % n : 0;
}

/* ---- memory that is counted and can fail ---- */

static u64 mem_bytes, mem_fails, mem_fail_one_in; /* 0: none fails */

static int mem_fail(void) {
    const int fail = mem_fail_one_in && rnd(mem_fail_one_in) == 0;
    mem_fails += (u64)fail;
    return fail;
}

static void *counted_alloc(void *ctx, size_t size) {
    (void)ctx;
    if (mem_fail()) return NULL;
    mem_bytes += size;
    return malloc(size);
}

static void *counted_realloc(void *ctx, void *p, size_t old_size, size_t size) {
    (void)ctx;
    if (mem_fail()) return NULL;
    mem_bytes += size - old_size;
    return realloc(p, size);
}

static void counted_free(void *ctx, void *p, size_t size) {
    (void)ctx;
    if (p) mem_bytes -= size;
    free(p);
}

static const rdbkit_allocator counted = {counted_alloc, counted_realloc, counted_free, NULL};
static const obj_env env = {&counted, 12345};

/* ---- strings: number i stands for a text of its own, of a length that i says ---- */

#define TEXT_MAX 20000

static u8 text_base[TEXT_MAX + 8];

static size_t text_len(u32 i) {
    static const u16 odd[] = {0, 1, 62, 63, 64, 65, 124, 125, 126, 127, 128, 129, 8100, 16380, 16384, 300};
    return i % 97 < 16 && i / 97 < 3 ? odd[i % 97] + 4u * (i / 97 > 0) : 4 + i % 23;
}

/* The text lives until the third call from now. */
static rdbkit_str text(u32 i) {
    static u8 room[3][TEXT_MAX];
    static int turn;
    u8 *p = room[turn = (turn + 1) % 3];
    const size_t len = text_len(i);
    memcpy(p, text_base, len);
    for (int j = 0; j < 4 && (size_t)j < len; j++) p[j] = (u8)(i >> 8 * (3 - j));
    if (len < 4 && len) p[0] = (u8)(200 + i % 7);
    return (rdbkit_str){(const char *)p, len};
}

/* Numbers whose texts differ: those of the same short text are left out. */
static u32 some(u32 n) {
    for (;;) {
        const u32 i = (u32)rnd(n);
        if (text_len(i) >= 4 || i < 2) return i;
    }
}

/* ---- models ---- */

typedef struct model {
    u32 n;
    u32 key[8192], value[8192];
    double score[8192];
    i64 expiry[8192];
} model;

static model m;

static u32 model_find(u32 key) {
    for (u32 i = 0; i < m.n; i++)
        if (m.key[i] == key) return i;
    return UINT32_MAX;
}

static void model_insert(u32 at, u32 key, u32 value, double score, i64 expiry) {
    for (u32 i = m.n; i > at; i--)
        m.key[i] = m.key[i - 1], m.value[i] = m.value[i - 1], m.score[i] = m.score[i - 1],
        m.expiry[i] = m.expiry[i - 1];
    m.key[at] = key, m.value[at] = value, m.score[at] = score, m.expiry[at] = expiry;
    m.n++;
}

static void model_remove(u32 at, u32 n) {
    for (u32 i = at; i + n < m.n; i++)
        m.key[i] = m.key[i + n], m.value[i] = m.value[i + n], m.score[i] = m.score[i + n],
        m.expiry[i] = m.expiry[i + n];
    m.n -= n;
}

/* ---- seq_ ---- */

static void check_seq(const seq_items *s) {
    seq_at at = s->off;
    CHECK(s->n == m.n);
    for (u32 i = 0; i < m.n; i++) {
        if (i % 7 == 0) CHECK(seq_index(s, i) == at);
        CHECK(seq_same(seq_next(s, &at), text(m.key[i])));
    }
    CHECK(at == s->end && seq_index(s, m.n) == at && s->end <= s->cap);
    for (u32 i = m.n; i > 0; i--) CHECK(seq_same(seq_prev(s, &at), text(m.key[i - 1])));
    CHECK(at == s->off);
}

static void seq_keeps_items_in_order(u32 steps, u32 range) {
    seq_items s = {NULL, 0, 0, 0, 0};
    m.n = 0;
    for (u32 i = 0; i < steps; i++) {
        const u32 at = rnd(3) == 0 ? 0 : rnd(2) ? m.n : (u32)rnd(m.n + 1), key = some(range);
        if (m.n < 300 && rnd(16) > 6) {
            if (seq_insert(&counted, &s, seq_index(&s, at), text(key)) == 0) model_insert(at, key, 0, 0, 0);
        } else if (at < m.n) {
            const u32 n = 1 + (u32)rnd(m.n - at < 4 ? m.n - at : 4);
            const seq_at to = seq_index(&s, at + n);
            CHECK(seq_remove(&s, seq_index(&s, at), to, n) == seq_index(&s, at));
            model_remove(at, n);
        }
        if (i % 64 == 0) check_seq(&s);
        const u32 found = model_find(key);
        CHECK(seq_find(&s, text(key), 1) == (found == UINT32_MAX ? found : seq_index(&s, found)));
    }
    check_seq(&s);
    seq_free(&counted, &s);
    CHECK(mem_bytes == 0);
}

static void seq_of_items_at_length_steps(void **state) {
    (void)state;
    static u8 big[2100000];
    for (u32 len = 120; len < 2100000;
         len += len < 300 || (len > 16300 && len < 16500) || len > 2097140 ? 1 : len / 5) {
        seq_items s = {NULL, 0, 0, 0, 0};
        const rdbkit_str item = {(const char *)big, len}, x = {"x", 1};
        CHECK(seq_insert(&counted, &s, 0, x) == 0 && seq_insert(&counted, &s, s.end, item) == 0);
        CHECK(seq_insert(&counted, &s, s.end, x) == 0);
        seq_at at = s.end;
        CHECK(seq_prev(&s, &at).len == 1 && seq_prev(&s, &at).len == len && seq_prev(&s, &at).len == 1 &&
              at == s.off);
        CHECK(s.end - s.off == 2 * seq_item_size(1) + seq_item_size(len));
        seq_free(&counted, &s);
    }
}

static void seq_refuses_what_is_too_large(void **state) {
    (void)state;
    seq_items s = {NULL, 0, 0, 0, 0};
    CHECK(seq_insert(&counted, &s, 0, (rdbkit_str){"", (size_t)SEQ_LEN_MAX + 1}) == RDBKIT_ERR_NOMEM &&
          s.n == 0);
    CHECK(seq_insert(&counted, &s, 0, (rdbkit_str){"", SIZE_MAX / 2}) == RDBKIT_ERR_NOMEM && !s.data);
}

/* ---- tab_ ---- */

typedef struct test_item {
    u32 len, key;
    u8 name[];
} test_item;

static test_item *item_new(u32 key) {
    const rdbkit_str name = text(key);
    test_item *item = malloc(sizeof *item + name.len);
    item->len = (u32)name.len, item->key = key;
    if (name.len) memcpy(item->name, name.data, name.len);
    return item;
}

static void check_tab(const tab *t, u64 seed) {
    u32 i = 0;
    const test_item *item;
    CHECK(t->live == m.n);
    for (u32 n = 0; (item = tab_next(t, &i)) != NULL; n++) CHECK(n < m.n && item->key == m.key[n]);
    for (u32 n = 0; n < m.n; n++)
        CHECK(tab_get(t, seed, text(m.key[n])) == t->item[tab_find(t, seed, text(m.key[n]))]);
}

static void tab_keeps_order_of_insertion(u32 steps, u32 range, u32 grow) {
    tab t;
    const u64 seed = rnd(UINT64_MAX);
    memset(&t, 0, sizeof t);
    t.name_off = offsetof(test_item, name);
    m.n = 0;
    for (u32 i = 0; i < steps; i++) {
        const u32 key = some(range), at = model_find(key), index = tab_find(&t, seed, text(key));
        CHECK((at == UINT32_MAX) == (index == TAB_NONE));
        if (at != UINT32_MAX && rnd(16) > grow) {
            test_item *item = t.item[index];
            tab_remove(&t, seed, index);
            free(item);
            model_remove(at, 1);
        } else if (at == UINT32_MAX && rnd(16) < grow && m.n < 8000) {
            test_item *item = item_new(key);
            if (tab_add(&counted, &t, seed, item) == 0) model_insert(m.n, key, 0, 0, 0);
            else free(item);
        }
        if (i % 256 == 0) check_tab(&t, seed);
    }
    check_tab(&t, seed);
    void *item;
    for (u32 i = 0; (item = tab_next(&t, &i)) != NULL;) free(item);
    tab_free(&counted, &t);
    CHECK(mem_bytes == 0);
}

/* ---- obj_: lists ---- */

static void check_list(const obj_list *l) {
    obj_list_at at = obj_list_begin(l);
    CHECK(l->n == m.n);
    for (u32 i = 0; i < m.n; i++) {
        if (i % 5 == 0) {
            const obj_list_at there = obj_list_index(l, i);
            CHECK(there.node == at.node && there.at == at.at);
        }
        CHECK(at.node && seq_same(obj_list_next(&at), text(m.key[i])));
    }
    CHECK(!at.node && !obj_list_index(l, m.n).node);
    for (const obj_node *n = l->head; n; n = n->next)
        CHECK(n->items.n > 0 && (n->next ? n->next->prev == n : l->tail == n) && (n->prev || l->head == n));
}

static void list_keeps_items_in_order(u32 steps, u32 range) {
    obj_list *l = mem_new(&counted, sizeof *l);
    if (!l) return;
    m.n = 0;
    for (u32 i = 0; i < steps; i++) {
        const u32 key = some(range), at = (u32)rnd(m.n + 1);
        const u64 what = rnd(32);
        if (what < 16 && m.n < 3000) {
            const int front = rnd(3) == 0;
            if (obj_list_push(&env, l, front, text(key)) == 0) model_insert(front ? 0 : m.n, key, 0, 0, 0);
        } else if (what < 22 && m.n < 3000) {
            if (obj_list_insert(&env, l, obj_list_index(l, at), text(key)) == 0)
                model_insert(at, key, 0, 0, 0);
        } else if (what < 31 && at < m.n) {
            const obj_list_at next = obj_list_remove(&env, l, obj_list_index(l, at));
            model_remove(at, 1);
            const obj_list_at there = obj_list_index(l, at);
            CHECK(next.node == there.node && next.at == there.at);
        } else if (rnd(40) == 0) {
            const u32 from = at / 3, to = m.n - (u32)rnd((m.n - from) / 2 + 1);
            obj_list_trim(&env, l, from, to);
            model_remove(to, m.n - to);
            model_remove(0, from);
        }
        if (i % 128 == 0) check_list(l);
    }
    check_list(l);
    obj_list_trim(&env, l, m.n / 2, m.n / 2);
    CHECK(l->n == 0 && !l->head && !l->tail);
    obj_list_free(&env, l);
    CHECK(mem_bytes == 0);
}

/* ---- obj_: sets ---- */

static void check_set(const obj_coll *set) {
    obj_iter it = OBJ_BEGIN;
    rdbkit_str member;
    u32 n = 0;
    CHECK(obj_set_n(set) == m.n);
    for (; obj_set_next(set, &it, &member); n++) CHECK(n < m.n && seq_same(member, text(m.key[n])));
    CHECK(n == m.n);
}

static void set_holds_members_once(u32 steps, u32 range, u32 add) {
    obj_coll *set = mem_new(&counted, sizeof *set);
    if (!set) return;
    m.n = 0;
    for (u32 i = 0; i < steps; i++) {
        const u32 key = some(range), at = model_find(key);
        CHECK(obj_set_has(&env, set, text(key)) == (at != UINT32_MAX));
        if (rnd(16) < add) {
            const int st = obj_set_add(&env, set, text(key));
            CHECK(st == (at == UINT32_MAX) || st == RDBKIT_ERR_NOMEM);
            if (st > 0) model_insert(m.n, key, 0, 0, 0);
        } else {
            CHECK(obj_set_remove(&env, set, text(key)) == (at != UINT32_MAX));
            if (at != UINT32_MAX) model_remove(at, 1);
        }
        if (i % 128 == 0) check_set(set);
    }
    check_set(set);
    obj_set_free(&env, set);
    CHECK(mem_bytes == 0);
}

/* ---- obj_: hashes ---- */

static void check_hash(const obj_coll *hash) {
    obj_iter it = OBJ_BEGIN;
    rdbkit_str field, value;
    i64 ms;
    u32 n = 0;
    int expires = 0;
    CHECK(obj_hash_n(hash) == m.n);
    for (; obj_hash_next(hash, &it, &field, &value, &ms); n++) {
        CHECK(n < m.n && seq_same(field, text(m.key[n])) && seq_same(value, text(m.value[n])) &&
              ms == m.expiry[n]);
        expires |= ms != RDBKIT_NO_EXPIRY;
    }
    CHECK(n == m.n && (obj_hash_expires(hash) != 0) == expires);
}

static void hash_keeps_values_and_expiry(u32 steps, u32 range, u32 put, int expiry) {
    obj_coll *hash = mem_new(&counted, sizeof *hash);
    if (!hash) return;
    m.n = 0;
    for (u32 i = 0; i < steps; i++) {
        const u32 key = some(range), value = some(range), at = model_find(key);
        const i64 ms = expiry && rnd(3) == 0 ? (i64)rnd(1000) : RDBKIT_NO_EXPIRY;
        const u64 what = rnd(16);
        rdbkit_str got;
        i64 got_ms;
        int st = obj_hash_get(&env, hash, text(key), &got, &got_ms);
        CHECK(st == (at != UINT32_MAX));
        if (st) CHECK(seq_same(got, text(m.value[at])) && got_ms == m.expiry[at]);
        if (what < put) {
            st = obj_hash_put(&env, hash, text(key), text(value), ms);
            CHECK(st == (at == UINT32_MAX) || st == RDBKIT_ERR_NOMEM);
            if (st > 0) model_insert(m.n, key, value, 0, ms);
            else if (st == 0) m.value[at] = value, m.expiry[at] = ms;
        } else if (what == 15 && expiry) {
            st = obj_hash_expire(&env, hash, text(key), ms);
            CHECK(st == (at != UINT32_MAX) || st == RDBKIT_ERR_NOMEM);
            if (st > 0) m.expiry[at] = ms;
        } else {
            CHECK(obj_hash_remove(&env, hash, text(key)) == (at != UINT32_MAX));
            if (at != UINT32_MAX) model_remove(at, 1);
        }
        if (i % 128 == 0) check_hash(hash);
    }
    check_hash(hash);
    obj_hash_free(&env, hash);
    CHECK(mem_bytes == 0);
}

/* ---- obj_: sorted sets, and ord_ ---- */

/* Members of equal scores stand by their names, which are in the order of the numbers if the first four
 * bytes are. */
static int model_less(u32 at, double score, u32 key) {
    return obj_zset_order(m.score[at], text(m.key[at]), score, text(key)) < 0;
}

static void check_zset(const obj_coll *z) {
    obj_zset_at at = obj_zset_index(z, 0);
    rdbkit_str member;
    double score;
    u32 n = 0;
    CHECK(obj_zset_n(z) == m.n);
    for (; obj_zset_next(z, &at, &member, &score); n++)
        CHECK(n < m.n && seq_same(member, text(m.key[n])) && score == m.score[n] &&
              !signbit(score) == !signbit(m.score[n]));
    CHECK(n == m.n);
    for (u32 i = 0; i < 8; i++) {
        const u32 rank = (u32)rnd(m.n + 1);
        at = obj_zset_index(z, rank);
        CHECK(obj_zset_next(z, &at, &member, &score) == (rank < m.n));
        if (rank < m.n) CHECK(seq_same(member, text(m.key[rank])));
        if (!z->big) continue;
        const ord_at place = ord_index(&z->big->order, rank);
        CHECK(ord_rank(&z->big->order, place) == rank);
    }
    for (u32 i = 0; i < (z->big ? z->big->order.blocks : 0); i++)
        CHECK(z->big->order.block[i]->n > 0 && z->big->order.block[i]->n <= ORD_BLOCK);
}

static double some_score(int kind) {
    static const double odd[] =
        {INFINITY, -INFINITY, 0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1.7976931348623157e308};
    if (kind == 0) return 7;
    if (kind == 1 && rnd(8) == 0) return odd[rnd(8)];
    return kind == 1 ? (double)rnd(9) - 4 : (double)rnd(1000000);
}

static void check_below(const obj_coll *z, int kind) {
    const double score = some_score(kind);
    u32 below = 0, up_to = 0;
    for (u32 i = 0; i < m.n; i++) below += m.score[i] < score, up_to += m.score[i] <= score;
    CHECK(obj_zset_below(z, score, 0) == below);
    CHECK(obj_zset_below(z, score, 1) == up_to);
}

static void zset_put(obj_coll *z, u32 key, double score) {
    const u32 at = model_find(key);
    const int st = obj_zset_put(&env, z, text(key), score);
    CHECK(st == (at == UINT32_MAX) || st == RDBKIT_ERR_NOMEM);
    if (st < 0) { /* a score that could not change: the member may be gone, as is said there */
        double old;
        if (at != UINT32_MAX && !obj_zset_score(&env, z, text(key), &old)) model_remove(at, 1);
        return;
    }
    if (at != UINT32_MAX) model_remove(at, 1);
    u32 lo = 0, hi = m.n;
    while (lo < hi) {
        const u32 mid = (lo + hi) / 2;
        if (model_less(mid, score, key)) lo = mid + 1;
        else hi = mid;
    }
    model_insert(lo, key, 0, score, 0);
}

/* order 1: members come in ascending order, -1: descending. */
static void zset_is_in_order(u32 steps, u32 range, u32 put, int kind, int order) {
    obj_coll *z = mem_new(&counted, sizeof *z);
    if (!z) return;
    m.n = 0;
    for (u32 i = 0; i < steps; i++) {
        const u32 key = some(range), at = model_find(key);
        double score;
        CHECK(obj_zset_score(&env, z, text(key), &score) == (at != UINT32_MAX));
        if (at != UINT32_MAX) CHECK(score == m.score[at]);
        if (rnd(16) < put && m.n < 8000) {
            zset_put(z, key, order ? (double)i * order : some_score(kind));
        } else if (rnd(50) == 0 && m.n) {
            const u32 rank = (u32)rnd(m.n), n = 1 + (u32)rnd((m.n - rank) < 600 ? m.n - rank : 600);
            obj_zset_remove_ranks(&env, z, rank, n);
            model_remove(rank, n);
        } else {
            CHECK(obj_zset_remove(&env, z, text(key)) == (at != UINT32_MAX));
            if (at != UINT32_MAX) model_remove(at, 1);
        }
        if (i % 16 == 0) check_below(z, kind);
        if (i % 256 == 0) check_zset(z);
    }
    check_zset(z);
    obj_zset_free(&env, z);
    CHECK(mem_bytes == 0);
}

static void run_seq(u32 steps) {
    for (u32 range = 3; range <= 400; range *= 3) seq_keeps_items_in_order(steps, range);
}

static void run_tab(u32 steps) {
    tab_keeps_order_of_insertion(steps, 20, 8);
    tab_keeps_order_of_insertion(steps, 3000, 8);
    tab_keeps_order_of_insertion(steps, 3000, 14);
    tab_keeps_order_of_insertion(steps, 3000, 3);
}

static void run_list(u32 steps) {
    list_keeps_items_in_order(steps, 50);
    list_keeps_items_in_order(steps, 4000);
}

static void run_set(u32 steps) {
    set_holds_members_once(steps, 40, 9);
    set_holds_members_once(steps, 4000, 9);
    set_holds_members_once(steps, 4000, 14);
}

static void run_hash(u32 steps) {
    for (int expiry = 0; expiry < 2; expiry++) {
        hash_keeps_values_and_expiry(steps, 40, 8, expiry);
        hash_keeps_values_and_expiry(steps, 3000, 12, expiry);
    }
}

static void run_zset(u32 steps) {
    for (int kind = 0; kind < 3; kind++) {
        zset_is_in_order(steps, 60, 8, kind, 0);
        zset_is_in_order(steps, 4000, 12, kind, 0);
        zset_is_in_order(steps, 4000, 15, kind, 0);
    }
    zset_is_in_order(steps, 6000, 15, 2, 1);
    zset_is_in_order(steps, 6000, 15, 2, -1);
}

/* With all the memory there is, then with allocations failing one in 2, 6, 18, 54. */
static void both(void (*run)(u32 steps), u32 steps) {
    rnd_state = 1;
    mem_fail_one_in = mem_fails = 0;
    run(steps);
    assert_true(mem_fails == 0);
    for (mem_fail_one_in = 2; mem_fail_one_in < 100; mem_fail_one_in *= 3) run(steps / 3);
    assert_true(mem_fails > 0);
    mem_fail_one_in = 0;
}

static void seq_is_an_array_of_strings(void **state) {
    (void)state;
    both(run_seq, 12000);
}

static void tab_keeps_what_was_put_in(void **state) {
    (void)state;
    both(run_tab, 12000);
}

static void list_is_an_array(void **state) {
    (void)state;
    both(run_list, 12000);
}

static void set_is_a_set(void **state) {
    (void)state;
    both(run_set, 12000);
}

static void hash_is_a_map(void **state) {
    (void)state;
    both(run_hash, 12000);
}

static void zset_is_sorted(void **state) {
    (void)state;
    both(run_zset, 12000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seq_of_items_at_length_steps),
        cmocka_unit_test(seq_refuses_what_is_too_large),
        cmocka_unit_test(seq_is_an_array_of_strings),
        cmocka_unit_test(tab_keeps_what_was_put_in),
        cmocka_unit_test(list_is_an_array),
        cmocka_unit_test(set_is_a_set),
        cmocka_unit_test(hash_is_a_map),
        cmocka_unit_test(zset_is_sorted),
    };
    for (size_t i = 0; i < sizeof text_base; i++) text_base[i] = (u8)(i * 7 + 3);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
