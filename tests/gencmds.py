#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes random write commands (RESP) over a few hundred keys, to make an append-only file worth replaying.

    gencmds.py --level VERSION [--seed N] [--count N] | redis-cli --pipe

VERSION names the commands that the server has, as in gendata.py. The same seed gives the same commands. Every write
command of that version occurs, with each option that changes what is logged or what a replay has to do; keys and
values are empty, binary and large now and then. A good part of the commands fails or does nothing (wrong type, missing
key, an older patch level): a server logs what changed something. --list prints the table below for VERSION.

Left out, since a replay cannot give what the server had: ZREMRANGEBYLEX over mixed scores, SORT ALPHA with equal
weights, GEO ANY, ZRANGESTORE LIMIT with a negative offset (from 7.4 on its meaning depends on the encoding), scripts before
5.0 (logged as such), RESTORE with a relative TTL before 7.0 (it starts anew at loading),
denormal scores (strtod sets errno for them, and a later SORT of Redis 6.0 that finds it there gives up).
--odd adds what servers log and few tools survive: hash fields and keys that expired long ago.
"""
import argparse
import random
import struct
import sys

from rdb import crc64, num, txt

# --level: (as Redis, as Valkey); a Valkey has all that Redis 7.2 has
LEVELS = {"2.8": (2.8, 0), "3.2": (3.2, 0), "4.0": (4.0, 0), "5.0": (5.0, 0), "6.0": (6.0, 0), "6.2": (6.2, 0), "7.0": (7.0, 0),
          "7.2": (7.2, 0), "7.4": (7.4, 0), "8.0": (8.0, 0), "valkey-7.2": (7.2, 7.2), "valkey-8": (7.2, 8.1), "valkey-9": (7.2, 9.1)}
FUTURE = 4102444800  # the year 2100, in seconds
FUTURE_MS = FUTURE * 1000
NEVER = 99
FIELD_EXPIRY = (7.4, 9)
HSETEX = (8.0, 9)
HGETDEL = (8.0, 9.1)
KEYS = {"stream": 7, "same": 3, "hll": 9, "big": 5, "nlist": 5}  # the highest key of a kind, 25 where nothing is said
SCORES = ("0", "1.5", "-3", "inf", "-inf", "+5", ".5", "5.", "1e2", "-0", "Infinity", "0.1", "1e20", "3.0000000000000004",
          "2.2250738585072014e-308", "1.7976931348623157e308", "9007199254740993")
NUMBERS = ("0", "007", "-0", "+5", " 1", "9223372036854775807", "-9223372036854775808", "1.0", "1e5", "99999999999999999999")
LIBRARY = "#!lua name=lib%d\nredis.register_function('f%d', function(keys, args) return redis.call('SET', keys[1], args[1]) end)"
SCRIPT = "redis.call('SET',KEYS[1],ARGV[1]) redis.call('LPUSH',KEYS[2],ARGV[1]) redis.call('spop',KEYS[3]) return redis.call('INCR',KEYS[4])"


# ---- Payloads of RESTORE ---------------------------------------------------------------------------------------------

def payload(body, version):
    body += struct.pack("<H", version)
    return body + crc64(body)


# ---- The generator ---------------------------------------------------------------------------------------------------

def encode(args):
    args = [x if isinstance(x, bytes) else str(x).encode() for x in args]
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x) for x in args)


class Generator:
    """rows: [(weight, make)]; make() gives a command (a tuple), several (a list), or None."""

    def __init__(self, level, seed=1, odd=False, small=False):
        self.level, self.random, self.odd, self.small = LEVELS[level], random.Random(seed), odd, small
        self.rows, self.last_id, self.ids, self.many = [], 2000, [], 20 if small else 200
        for family in (self.strings, self.numbers_and_bits, self.hyperloglogs, self.lists, self.sets, self.sorted_sets, self.geo,
                       self.hashes, self.streams, self.keyspace, self.sorting, self.transactions, self.functions):
            family()

    def has(self, since):
        """since: a Redis version, or (Redis version, Valkey version)."""
        redis, valkey = since if isinstance(since, tuple) else (since, since if since <= 7.2 else NEVER)
        return self.level[1] >= valkey if self.level[1] else self.level[0] >= redis

    def row(self, weight, since, make):
        if self.has(since):
            self.rows.append((weight, make))

    def commands(self, count):
        """The commands, as tuples: a start that is thrown away by FLUSHALL, then count random rows."""
        r = self.random
        makes = r.choices([f for _, f in self.rows], [w for w, _ in self.rows], k=count)
        if self.small:
            makes += [f for _, f in self.rows] * 5
            r.shuffle(makes)
        yield ("SELECT", 0)
        for c in (("SET", "str:1", "gone"), ("RPUSH", "list:1", "gone"), ("FLUSHALL",), ("SET", "", "the empty key")):
            yield c
        for make in makes:
            made = make()
            for c in made if isinstance(made, list) else [made] if made else []:
                yield (c[0].lower(),) + c[1:] if r.random() < .08 else c

    # ---- Parts of commands

    def n(self, a, b):
        return self.random.randint(a, b)

    def one(self, *choices):
        return self.random.choice(choices)

    def maybe(self, *words):
        """The words, or nothing."""
        return self.one(words, ())

    def key(self, kind):
        """A key of a kind; rarely the empty one, a binary one, or one of another kind."""
        x = self.random.random()
        if x > .02:
            return "%s:%d" % (kind, self.n(0, (2 if kind == "stream" else 4) if self.small else KEYS.get(kind, 25)))
        return self.one("", b"bin\xff\x00\r\n%d" % self.n(0, 3), "%s:%d" % (self.one("str", "list", "set", "zset", "hash"), self.n(0, 25)))

    def string(self):
        return self.key("str")

    def list(self):
        return self.key("list")

    def set(self):
        return self.key("set")

    def ints(self):
        return self.key("iset")

    def zset(self):
        return self.key("zset")

    def hash(self):
        return self.key("hash")

    def stream(self):
        return self.key("stream")

    def any_key(self):
        return self.key(self.one("str", "num", "list", "set", "iset", "zset", "lex", "hash", "stream", "hll"))

    def value(self):
        n = self.n(0, 7)
        if n == 0: return str(self.n(-300, 300))
        if n == 1: return "x" * self.n(0, 100)
        if n == 2: return bytes(self.random.getrandbits(8) for _ in range(self.n(0, 40)))
        if n == 3: return ""
        if n == 4: return str(self.n(-2**40, 2**40))
        if n == 5: return "w%d " % self.n(0, 9) * self.n(1, 30)
        if n == 6 and self.n(0, 60) == 0: return self.one("\r\n*1\r\n$7\r\nFLUSHALL\r\n", "EX", "$-1\r\n", "\x00" * 20)
        return self.common() if self.n(0, 1) else "val%d" % self.n(0, 1000)

    def common(self):
        """A value that many lists have."""
        return "val%d" % self.n(0, 5)

    def large(self):
        return self.one(b"large \xe4\xb8\xad ", b"0123456789", b"\x00") * (self.n(10, 300) if self.small else self.n(500, 6000))

    def member(self):
        x = self.random.random()
        return "m%d" % self.n(0, 9 if self.small else 60) if x < .6 else str(self.n(-70000, 70000)) if x < .8 else self.value()

    def values(self, a, b):
        return [self.value() for _ in range(self.n(a, b))]

    def members(self, a, b):
        return [self.member() for _ in range(self.n(a, b))]

    def pairs(self, a, b, first, second):
        return [x for _ in range(self.n(a, b)) for x in (first(), second())]

    def score(self):
        return self.one(self.one(*SCORES), str(self.n(-1000, 1000)), repr(self.random.uniform(-1, 1)))

    def expire(self):
        """A time for SET and its like, as options."""
        return self.one(("EX", self.n(10**9, 2 * 10**9)), ("px", self.n(10**12, 2 * 10**12)))

    def expire_at(self):
        return self.one(("EXAT", FUTURE + self.n(0, 9999)), ("PXAT", FUTURE_MS + self.n(0, 9999)))

    def end(self):
        return self.one("LEFT", "RIGHT")

    def new_id(self):
        self.last_id += self.n(1, 3)
        self.ids.append("%d-%d" % (self.last_id, self.n(0, 5)))
        return self.ids[-1]

    def old_id(self):
        if self.n(0, 9) == 0 or not self.ids:
            return "%s%d-%d" % (self.one("", "00"), self.n(max(2000, self.last_id - 400), self.last_id), self.n(0, 5))
        return self.one(*self.ids[-40 if self.small else -200:])

    def old_ids(self, a, b):
        return [self.old_id() for _ in range(self.n(a, b))]

    def group(self):
        return self.one("g0", "g0", b"g\xff") if self.small else self.one("g0", "g0", "g1", b"g\xff")

    def consumer(self):
        return self.one("c0", "c1", "") if self.small else self.one("c0", "c1", "c2", "c3", "")

    # ---- Families: row(weight, since, command)

    def strings(self):
        row, s, v, n, one, maybe = self.row, self.string, self.value, self.n, self.one, self.maybe
        row(8, 0, lambda: ("SET", s(), v()))
        row(1, 0, lambda: ("SET", self.key("num"), one(*NUMBERS)))
        row(2, 2.8, lambda: ("SET", s(), v(), one("NX", "XX")))
        row(2, 2.8, lambda: ("SET", s(), v(), *maybe("NX"), *self.expire(), *maybe("XX")))
        row(2, 6.0, lambda: ("SET", s(), v(), "KEEPTTL", *maybe("XX")))
        row(2, 6.2, lambda: ("SET", s(), v(), *self.expire_at(), *maybe("GET"), *maybe("XX")))
        row(1, 6.2, lambda: ("SET", s(), v(), *one(("EX", "1000000000"), ()), "GET"))
        row(1, 7.0, lambda: ("SET", s(), v(), "NX", "GET"))
        row(.3, 6.2, lambda: ("SET", s(), v(), one("PXAT", "EXAT"), 1))
        row(2, (8.4, 8.1), lambda: ("SET", self.key("same"), one("a", "b"), *maybe("IFEQ", one("a", "b")), *maybe(*self.expire())))
        row(1, (NEVER, 9), lambda: ("DELIFEQ", self.key("same"), one("a", "b")))
        row(1, 0, lambda: ("SETNX", s(), v()))
        row(1, 0, lambda: ("SETEX", s(), n(10**9, 2 * 10**9), v()))
        row(1, 2.8, lambda: ("PSETEX", s(), n(10**12, 2 * 10**12), v()))
        row(1, 0, lambda: ("GETSET", s(), v()))
        row(1, 6.2, lambda: ("GETDEL", s()))
        row(2, 6.2, lambda: ("GETEX", s(), *one(("PERSIST",), self.expire(), self.expire_at())))
        row(.2, 6.2, lambda: ("GETEX", s(), "PXAT", 1))
        row(2, 0, lambda: ("APPEND", s(), v()))
        row(2, 0, lambda: ("SETRANGE", s(), n(0, 150), v()))
        row(.3, 0, lambda: ("SETRANGE", s(), n(3000, 5000), one("", "far")))
        row(1, 0, lambda: ("MSET", *self.pairs(1, 4, s, v)))
        row(1, 0, lambda: ("MSETNX", "str:new%d" % n(0, 50), v(), s(), v(), "str:new%d" % n(0, 50), v()))
        row(1, (8.4, 9.1), lambda: ("MSETEX", 2, s(), v(), s(), v(), *maybe(one("NX", "XX")), *one((), ("KEEPTTL",), self.expire(), self.expire_at())))
        row(.15, 0, lambda: (one("SET", "APPEND", "GETSET"), self.key("big"), self.large()))

    def numbers_and_bits(self):
        row, n, one = self.row, self.n, self.one
        num, bits = lambda: self.key("num"), lambda: self.key("bits")
        kind = lambda: one("u1", "u4", "i5", "u8", "i16", "u31", "i64", "u63", "i1")
        place = lambda: one("#0", "#3", str(n(0, 200)))
        row(3, 0, lambda: (one("INCR", "DECR"), num()))
        row(2, 0, lambda: (one("INCRBY", "DECRBY"), num(), one(n(-10**6, 10**6), 2**62)))
        row(2, 2.8, lambda: ("INCRBYFLOAT", one(self.key("flt"), num()), one("0.1", "-2.5", "1e3", "3.0e-5", "100")))
        row(2, 0, lambda: ("SETBIT", bits(), n(0, 3000), n(0, 1)))
        row(1, 2.8, lambda: ("BITOP", one("AND", "OR", "XOR"), bits(), *[one(bits, self.string)() for _ in range(n(1, 3))]))
        row(1, 2.8, lambda: ("BITOP", "NOT", bits(), bits()))
        row(1, 3.2, lambda: ("BITFIELD", bits(), "SET", kind(), place(), n(0, 1000), "OVERFLOW", one("WRAP", "SAT", "FAIL"), "INCRBY", kind(),
                             place(), one(n(-10**5, 10**5), 2**62, -2**62)))
        row(1, 3.2, lambda: ("BITFIELD", bits(), "GET", "u8", 0, "OVERFLOW", one("WRAP", "SAT", "FAIL"), "SET", kind(), place(), n(-2**40, 2**40),
                             "get", kind(), place(), "INCRBY", kind(), place(), n(-3, 3)))
        row(.5, 3.2, lambda: ("BITFIELD", bits(), "OVERFLOW", "FAIL", "INCRBY", "u2", n(4000, 4100), one(1, 9)))

    def hyperloglogs(self):
        row, hll = self.row, lambda: self.key("hll")
        row(3, 2.8, lambda: ("PFADD", hll(), *self.values(0, 20)))
        row(.1, 2.8, lambda: ("PFADD", hll(), *["e%d" % self.n(0, 10**6) for _ in range(2 * self.many)]))
        row(1, 2.8, lambda: ("PFCOUNT", hll()))
        row(1, 2.8, lambda: ("PFMERGE", hll(), *[hll() for _ in range(self.n(0, 3))]))
        row(.05, 2.8, lambda: ("PFDEBUG", self.one("GETREG", "TODENSE"), hll()))

    def lists(self):
        row, l, v, n, one, end = self.row, self.list, self.value, self.n, self.one, self.end
        alone = lambda *c: [("MULTI",), c, ("EXEC",)]  # there, a command that would block gives up at once
        row(9, 0, lambda: (one("LPUSH", "RPUSH"), l(), *self.values(1, 12)))
        row(2, 0, lambda: (one("LPUSHX", "RPUSHX"), l(), v()))
        row(3, 0, lambda: (one("LPOP", "RPOP"), l()))
        row(2, 6.2, lambda: (one("LPOP", "RPOP"), l(), n(0, 5)))
        row(1, 0, lambda: ("LSET", l(), n(-5, 5), v()))
        row(1, 0, lambda: ("LINSERT", l(), one("BEFORE", "after"), self.common(), v()))
        row(1, 0, lambda: ("LREM", l(), n(-2, 2), self.common()))
        row(1, 0, lambda: ("LTRIM", l(), n(-40, 3), n(-3, 40)))
        row(2, 0, lambda: ("RPOPLPUSH", l(), l()))
        row(2, 6.2, lambda: ("LMOVE", l(), l(), end(), end()))
        row(2, 7.0, lambda: ("LMPOP", 2, l(), l(), end(), "COUNT", n(1, 4)))
        row(.5, 0, lambda: alone(one("BLPOP", "BRPOP"), l(), l(), 0))
        row(.5, 0, lambda: alone("BRPOPLPUSH", l(), l(), 0))
        row(.5, 6.2, lambda: alone("BLMOVE", l(), l(), end(), end(), 0))
        row(.5, 7.0, lambda: alone("BLMPOP", 0, 2, l(), l(), end(), "COUNT", 3))
        row(.1, 0, lambda: ("RPUSH", l(), v(), self.large(), v()))

    def sets(self):
        row, s, n, one = self.row, self.set, self.n, self.one
        row(6, 0, lambda: ("SADD", s(), *self.members(1, 10)))
        row(2, 0, lambda: ("SADD", self.ints(), *[n(-10, 40000) for _ in range(n(1, 6))]))
        row(.3, 0, lambda: ("SADD", self.ints(), one(2**40, -2**63, 2**31)))
        row(.1, 0, lambda: ("SADD", s(), *["many%d" % n(0, 999) for _ in range(self.many)]))
        row(2, 0, lambda: ("SREM", s(), *self.members(1, 3)))
        row(2, 0, lambda: ("SPOP", s()))
        row(2, 3.2, lambda: ("SPOP", s(), n(0, 80)))
        row(2, 0, lambda: ("SMOVE", s(), s(), self.member()))
        row(2, 0, lambda: (one("SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE"), s(), s(), *[one(s, self.ints)() for _ in range(n(0, 2))]))

    def sorted_sets(self):
        row, z, m, n, one, maybe = self.row, self.zset, self.member, self.n, self.one, self.maybe
        lex = lambda: self.key("lex")  # sorted sets with equal scores
        low, high = (lambda: one("-", "[m%d" % n(0, 30), "(m%d" % n(0, 30))), (lambda: one("+", "[m%d" % n(20, 60), "(m%d" % n(20, 60)))
        bound = lambda: one("", "(") + str(n(-1000, 1000))
        limit = lambda: maybe("LIMIT", n(0, 3), n(-1, 9))
        row(6, 0, lambda: ("ZADD", z(), *self.pairs(1, 8, self.score, m)))
        row(3, 0, lambda: ("ZADD", lex(), *self.pairs(1, 8, lambda: 0, m)))
        row(.1, 0, lambda: ("ZADD", z(), *self.pairs(self.many, self.many, lambda: n(0, 50), lambda: "many%d" % n(0, 999))))
        row(2, 3.2, lambda: ("ZADD", z(), one("NX", "xx"), "CH", self.score(), m()))
        row(2, 6.2, lambda: ("ZADD", z(), *maybe("XX"), one("GT", "LT"), *maybe("CH"), self.score(), m(), self.score(), m()))
        row(1, 3.2, lambda: ("ZADD", z(), *maybe("XX"), "INCR", one("1.25", "-inf"), m()))
        row(1, 6.2, lambda: ("ZADD", z(), one("GT", "LT"), "INCR", one("1.25", "-3"), m()))
        row(2, 0, lambda: ("ZINCRBY", z(), one("1", "-0.5", "1e10", "inf"), m()))
        row(2, 0, lambda: ("ZREM", z(), m(), m()))
        row(1, 0, lambda: ("ZREMRANGEBYRANK", z(), n(-4, 4), n(-4, 4)))
        row(1, 0, lambda: ("ZREMRANGEBYSCORE", z(), one("(%d" % n(-100, 0), "-inf"), one(n(-90, 100), "(0.1")))
        row(1, 2.9, lambda: ("ZREMRANGEBYLEX", lex(), low(), high()))
        row(2, 5.0, lambda: (one("ZPOPMIN", "ZPOPMAX"), z(), *maybe(n(0, 3))))
        row(.5, 5.0, lambda: [("MULTI",), (one("BZPOPMIN", "BZPOPMAX"), z(), z(), 0), ("EXEC",)])
        row(1, 7.0, lambda: ("ZMPOP", 2, z(), z(), one("MIN", "MAX"), "COUNT", 2))
        row(.5, 7.0, lambda: [("MULTI",), ("BZMPOP", 0, 2, z(), z(), one("MIN", "MAX"), "COUNT", 2), ("EXEC",)])
        row(2, 0, lambda: (one("ZUNIONSTORE", "ZINTERSTORE"), z(), 2, z(), one(z, self.set, self.ints)(), "WEIGHTS", n(1, 3), one("-1.5", "inf", "0"),
                           "AGGREGATE", one("SUM", "MIN", "max")))
        row(1, 0, lambda: (one("ZUNIONSTORE", "ZINTERSTORE"), z(), 3, self.set(), self.set(), self.ints(), *maybe("WEIGHTS", 2, 1, -3)))
        row(1, 6.2, lambda: ("ZDIFFSTORE", z(), 2, z(), one(z, self.set)()))
        row(1, 6.2, lambda: ("ZRANGESTORE", z(), z(), n(-9, 3), n(-3, 20), *maybe("REV")))
        row(1, 6.2, lambda: ("ZRANGESTORE", z(), z(), bound(), bound(), "BYSCORE", *limit()))
        row(1, 6.2, lambda: ("ZRANGESTORE", z(), z(), one("+inf", bound()), one("-inf", bound()), "BYSCORE", "REV", *limit()))
        row(1, 6.2, lambda: ("ZRANGESTORE", lex(), lex(), low(), high(), "BYLEX", *limit()))
        row(.5, 6.2, lambda: ("ZRANGESTORE", lex(), lex(), high(), low(), "REV", "BYLEX", *limit()))

    def geo(self):
        row, z, n, one, maybe = self.row, self.zset, self.n, self.one, self.maybe
        geo, place = (lambda: "geo:%d" % n(0, 2)), (lambda: (round(self.random.uniform(-170, 170), 6), round(self.random.uniform(-75, 75), 6)))
        city = lambda: "m%d" % n(0, 12)
        circle = lambda: (n(500, 9000), one("km", "mi"))
        origin = lambda: one(("FROMLONLAT", *place()), ("FROMMEMBER", city()))
        order = lambda: one((), ("ASC",), ("desc",), ("COUNT", 3), ("DESC", "COUNT", 2))
        shape = lambda: one(("BYRADIUS", *circle()), ("BYBOX", n(500, 9000), n(500, 9000), one("km", "mi")))
        row(2, 3.2, lambda: ("GEOADD", geo(), *place(), city(), *place(), city()))
        row(1, 6.2, lambda: ("GEOADD", geo(), *maybe(one("NX", "XX")), *maybe("CH"), *place(), city()))
        row(1, 3.2, lambda: ("GEORADIUS", geo(), *place(), *circle(), *order(), one("STORE", "STOREDIST"), z()))
        row(1, 3.2, lambda: ("GEORADIUSBYMEMBER", geo(), city(), *circle(), *order(), one("STORE", "storedist"), z()))
        row(2, 6.2, lambda: ("GEOSEARCHSTORE", z(), geo(), *origin(), *shape(), *order(), *maybe("STOREDIST")))
        row(.5, (NEVER, 9), lambda: ("GEOSEARCHSTORE", z(), geo(), "BYPOLYGON", 4, -20, -10, 60, -15, 70, 50, -10, 60, *maybe("STOREDIST")))

    def hashes(self):
        row, h, m, v, n, one, maybe = self.row, self.hash, self.member, self.value, self.n, self.one, self.maybe
        fields = lambda *x: ("FIELDS", len(x), *x)
        far = lambda: one(("EX", 10**9), ("PX", 10**12), ("EXAT", FUTURE), ("PXAT", FUTURE_MS + n(0, 999)))
        row(6, 0, lambda: ("HSET", h(), *self.pairs(1, 3 if self.has(4.0) else 1, m, v)))
        row(2, 0, lambda: ("HMSET", h(), *self.pairs(1, 4, m, v)))
        row(.1, 0, lambda: ("HMSET", h(), *self.pairs(self.many, self.many, lambda: "many%d" % n(0, 999), v)))
        row(.1, 0, lambda: ("HSET", h(), m(), self.large()))
        row(1, 0, lambda: ("HSETNX", h(), m(), v()))
        row(2, 0, lambda: ("HDEL", h(), *self.members(1, 3)))
        row(2, 0, lambda: ("HINCRBY", h(), one("cnt", m()), n(-100, 100)))
        row(2, 2.8, lambda: ("HINCRBYFLOAT", h(), one("flt", m()), one("0.1", "-7.25")))
        for name, time in (("HPEXPIREAT", lambda: FUTURE_MS + n(0, 9999)), ("HEXPIRE", lambda: 10**9), ("HEXPIREAT", lambda: FUTURE + n(0, 99)),
                           ("HPEXPIRE", lambda: 10**12)):
            row(1, FIELD_EXPIRY, lambda name=name, time=time: (name, h(), time(), *maybe(one("NX", "XX", "GT", "LT")), *fields(m(), "cnt", m())))
        row(1, FIELD_EXPIRY, lambda: ("HPERSIST", h(), *fields(m(), "cnt")))
        row(.5, FIELD_EXPIRY, lambda: ("HPEXPIREAT", h(), 1, *fields(m(), m())))
        row(.5, FIELD_EXPIRY, lambda: [("HSET", "hash:0", "a", 1, "b", 2), ("HEXPIRE", "hash:0", 10**9, *fields("a", "b")),
                                             one(("HPERSIST", "hash:0", *fields("a")), ("HINCRBY", "hash:0", "a", 1), ("HSETNX", "hash:0", "c", 1))])
        row(2, HSETEX, lambda: ("HSETEX", h(), *maybe(one("FNX", "FXX")), *one((), ("KEEPTTL",), far()), "FIELDS", 2, m(), v(), m(), v()))
        row(.2, HSETEX, lambda: ("HSETEX", h(), "PXAT", 1, "FIELDS", 1, m(), v()))
        row(.5, (NEVER, 9.1), lambda: ("HSETEX", h(), one("NX", "XX"), *far(), "FIELDS", 1, m(), v()))
        row(1, HSETEX, lambda: ("HGETEX", h(), *one(("PERSIST",), far()), *fields(m(), "cnt")))
        row(.2, HSETEX, lambda: ("HGETEX", h(), "PXAT", 1, *fields(m())))
        row(1, HGETDEL, lambda: ("HGETDEL", h(), *fields(m(), m())))
        if self.odd:
            row(1, FIELD_EXPIRY, lambda: ("HPEXPIRE", h(), 1, *fields(m())))
            row(1, 0, lambda: ("PEXPIRE", self.any_key(), 1))

    def streams(self):
        row, x, m, v, n, one, maybe, group, consumer = (self.row, self.stream, self.member, self.value, self.n, self.one, self.maybe, self.group,
                                                        self.consumer)
        pairs = lambda: self.pairs(1, 3, m, v)
        start = lambda: one("0", "$", "0-0", self.old_id())
        row(6, 5.0, lambda: ("XADD", x(), self.new_id(), "name", v(), "n", n(-9, 9)))
        row(3, 5.0, lambda: ("XADD", x(), self.new_id(), *pairs()))
        row(1, 5.0, lambda: ("XADD", "auto:%d" % n(0, 3), "*", *pairs()))
        row(.1, 5.0, lambda: ("XADD", x(), self.new_id(), "big", self.large()))
        row(1, 5.0, lambda: ("XADD", x(), "MAXLEN", *maybe(one("~", "=")), n(0, 60), self.new_id(), *pairs()))
        row(1, 6.2, lambda: ("XADD", x(), "NOMKSTREAM", one("MINID", "minid"), *maybe(one("~", "=")), self.last_id - n(0, 60), self.new_id(), *pairs()))
        row(1, 6.2, lambda: ("XADD", x(), one("MAXLEN", "MINID"), "~", n(1, 30), "LIMIT", one(0, 10, 200), self.new_id(), *pairs()))
        row(1, 7.0, lambda: ("XADD", x(), "%d-*" % (self.last_id + 1), "a", "b"))
        row(2, 5.0, lambda: ("XDEL", x(), *self.old_ids(1, 9)))
        row(1, 5.0, lambda: ("XTRIM", x(), "MAXLEN", *maybe(one("~", "=")), n(0, 60)))
        row(1, 6.2, lambda: ("XTRIM", x(), "MINID", *maybe(one("~", "=")), self.old_id(), *maybe("LIMIT", 100)))
        row(.2, 5.0, lambda: ("XSETID", x(), self.new_id()))
        row(.3, 7.0, lambda: ("XSETID", x(), self.new_id(), "ENTRIESADDED", n(50, 900), "MAXDELETEDID", one("0-0", self.old_id())))
        row(4, 5.0, lambda: ("XGROUP", "CREATE", x(), group(), start(), *maybe("MKSTREAM")))
        row(.5, 7.0, lambda: ("XGROUP", "CREATE", x(), group(), start(), "ENTRIESREAD", n(0, 9), *maybe("MKSTREAM")))
        row(6, 5.0, lambda: ("XREADGROUP", "GROUP", group(), consumer(), "COUNT", n(1, 6), *one((), (), ("NOACK",)), "STREAMS", x(), ">"))
        row(.5, 5.0, lambda: ("XREADGROUP", "GROUP", group(), consumer(), "STREAMS", x(), x(), "0", ">"))
        row(2, 5.0, lambda: ("XACK", x(), group(), *self.old_ids(3, 9)))
        row(1, 5.0, lambda: self.session(x(), group(), consumer()))
        row(.5, 5.0, lambda: ("XGROUP", "SETID", x(), group(), start()))
        row(.5, 7.0, lambda: ("XGROUP", "SETID", x(), group(), start(), "ENTRIESREAD", n(0, 9)))
        row(.15, 5.0, lambda: ("XGROUP", "DESTROY", x(), group()))
        row(.5, 5.0, lambda: ("XGROUP", "DELCONSUMER", x(), group(), consumer()))
        row(.5, 6.2, lambda: ("XGROUP", "CREATECONSUMER", x(), group(), "c%d" % n(3, 6)))
        row(1, 5.0, lambda: ("XCLAIM", x(), group(), consumer(), 0, *self.old_ids(4, 9),
                             *one((), ("FORCE",), ("RETRYCOUNT", 7), ("JUSTID",), ("TIME", 1700000000000), ("IDLE", 5000, "FORCE"), ("LASTID", self.old_id()))))
        row(1, 6.2, lambda: ("XAUTOCLAIM", x(), group(), consumer(), 0, one("0-0", self.old_id()), "COUNT", 3, *maybe("JUSTID")))

    def session(self, key, group, consumer):
        """What a worker does."""
        ids = [self.new_id() for _ in range(4)]
        return [("XGROUP", "CREATE", key, group, "$", "MKSTREAM"), *[("XADD", key, i, "job", self.value()) for i in ids],
                ("XREADGROUP", "GROUP", group, consumer, "COUNT", 9, "STREAMS", key, ">"), ("XACK", key, group, ids[0], ids[2]), ("XDEL", key, ids[2])]

    def keyspace(self):
        row, n, one, maybe, any_key = self.row, self.n, self.one, self.maybe, self.any_key
        row(2, 0, lambda: ("EXPIRE", any_key(), 10**9))
        row(1, 0, lambda: ("PEXPIREAT", any_key(), FUTURE_MS + n(0, 9999)))
        row(1, 0, lambda: ("PEXPIRE", any_key(), 10**12))
        row(1, 7.0, lambda: (one("EXPIRE", "EXPIREAT"), any_key(), one(FUTURE, 10**9) + n(0, 99), one("NX", "XX", "GT", "lt")))
        row(1, 0, lambda: ("PERSIST", any_key()))
        row(1, 0, lambda: one(("EXPIREAT", any_key(), 1), ("PEXPIRE", any_key(), -5)))
        row(1, 0, lambda: ("DEL", any_key(), any_key(), "missing"))
        row(1, 4.0, lambda: ("UNLINK", any_key()))
        for kind in ("str", "num", "list", "set", "zset", "lex", "hash", "stream", "hll"):
            pair = lambda kind=kind: (self.key(kind), self.key(kind))
            row(.4, 0, lambda pair=pair: (one("RENAME", "RENAMENX"), *pair()))
            row(.4, 6.2, lambda pair=pair: ("COPY", *pair(), *maybe("DB", 1), *maybe("REPLACE")))
            row(.2, 0, lambda pair=pair: ("MOVE", pair()[0], 1))
            row(.2, 0, lambda pair=pair: [("SELECT", 1), ("DEL", pair()[0]), ("MOVE", pair()[1], 0), ("SELECT", 0)])
        row(.2, 4.0, lambda: ("SWAPDB", 0, 1))
        row(.5, 0, lambda: [("SELECT", one(2, 15)), ("SET", self.string(), self.value()), ("RPUSH", self.list(), self.value()), ("SELECT", 0)])
        row(.04, 0, lambda: [("SELECT", 2), ("FLUSHDB", *(maybe("ASYNC") if self.has(4.0) else ())), ("SELECT", 0)])
        row(2, 0, self.restore)

    def restore(self):
        text, n = [x if isinstance(x, bytes) else x.encode() for x in self.members(2, 6)], self.n
        text = sorted(set(text))
        many = num(len(text))
        key, body = self.one(
            (self.string(), b"\x00" + txt(text[0])),
            (self.list(), b"\x01" + many + b"".join(map(txt, text))),
            (self.set(), b"\x02" + many + b"".join(map(txt, text))),
            (self.zset(), b"\x03" + many + b"".join(txt(x) + b"\x033.5" for x in text)),
            (self.hash(), b"\x04" + many + b"".join(txt(x) + txt(b"restored") for x in text)))
        ttl = self.one((0, ()), (FUTURE_MS + n(0, 999), ("ABSTTL",))) if self.has(5.0) else (0, ())
        if self.has(7.0) and n(0, 3) == 0:
            ttl = (n(10**12, 2 * 10**12), ())
        more = self.one((), (), ("IDLETIME", 7), ("FREQ", 9)) if self.has(5.0) else ()
        return ("RESTORE", key, ttl[0], payload(body, 6), *self.maybe("REPLACE"), *ttl[1], *more)

    def sorting(self):
        row, n, one, maybe = self.row, self.n, self.one, self.maybe
        numbers = lambda: self.key("nlist")
        some = lambda: (*maybe("LIMIT", n(-1, 3), n(-1, 7)), *maybe(one("DESC", "asc")))
        get = lambda: one((), ("GET", "w_*"), ("GET", "#", "GET", "w_*"), ("GET", "wh_*->f", "GET", "missing_*"))
        row(1, 0, lambda: ("RPUSH", numbers(), *[n(0, 20) for _ in range(n(1, 6))]))
        row(1, 0, lambda: ("SET", "w_%d" % n(0, 20), n(-50, 50)))
        row(1, 0, lambda: ("HSET", "wh_%d" % n(0, 20), "f", n(-5, 5)))
        row(1, 0, lambda: ("SORT", self.list(), "ALPHA", *some(), "STORE", self.list()))
        row(1, 0, lambda: ("SORT", one(self.ints, numbers)(), *some(), "STORE", self.list()))
        row(1, 0, lambda: ("SORT", numbers(), "BY", one("w_*", "wh_*->f"), *some(), *get(), "STORE", self.list()))
        row(1, 0, lambda: ("SORT", one(self.set, self.zset, self.ints, numbers)(), "BY", "nosort", *some(), *get(), "STORE", self.list()))

    def transactions(self):
        row, s, l, v, n = self.row, self.string, self.list, self.value, self.n
        num = lambda: self.key("num")
        row(1, 0, lambda: [("MULTI",), ("SET", s(), v()), ("RPUSH", l(), v(), v()), ("INCR", num()), ("SADD", self.set(), self.member()), ("EXEC",)])
        row(.5, 0, lambda: [("MULTI",), ("SET", s(), v()), ("EXEC",)])
        row(.5, 0, lambda: [("MULTI",), ("SETNX", "str:1", v()), ("DEL", "missing"), ("PUBLISH", "c", "m"), ("EXEC",)])
        row(.5, 0, lambda: [("MULTI",), ("SET", s(), v()), ("DISCARD",)])
        row(.5, 0, lambda: [("MULTI",), ("SET", s(), v()), ("SELECT", 3), ("SET", s(), v()), ("EXEC",), ("RPUSH", l(), v()), ("SELECT", 0)])
        row(1, 5.0, lambda: ("EVAL", SCRIPT, 4, s(), l(), self.set(), num(), v()))
        row(.3, 5.0, lambda: ("EVAL", "redis.call('SELECT', 4) return redis.call('SET', KEYS[1], ARGV[1])", 1, s(), v()))
        row(.3, 5.0, lambda: ("EVAL", "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('LPUSH', KEYS[1], 1)", 1, s(), v()))

    def functions(self):
        row, n, one, maybe = self.row, self.n, self.one, self.maybe
        lib = lambda: LIBRARY % ((n(0, 2),) * 2)
        row(.6, 7.0, lambda: ("FUNCTION", "LOAD", *maybe("REPLACE"), lib()))
        row(.1, 7.0, lambda: ("FUNCTION", "DELETE", "lib%d" % n(0, 2)))
        row(.02, 7.0, lambda: ("FUNCTION", "FLUSH", *maybe(one("ASYNC", "SYNC"))))
        row(.1, 7.0, lambda: ("FUNCTION", "RESTORE", payload(b"\xf5" + txt(lib().encode()), 10), *maybe(one("APPEND", "REPLACE", "FLUSH"))))
        row(.5, 7.0, lambda: ("FCALL", "f%d" % n(0, 2), 1, self.string(), self.value()))


def commands(level, seed=1, count=20000, odd=False, small=False):
    """All commands as RESP, one bytes object each."""
    return [encode(c) for c in Generator(level, seed, odd, small).commands(count)]


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--level", default="7.0", choices=sorted(LEVELS))
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--count", type=int, default=20000)
    p.add_argument("--odd", action="store_true", help="also keys and fields that expire at once")
    p.add_argument("--small", action="store_true", help="few keys, small values, and each row of the table five times beside --count")
    p.add_argument("--list", action="store_true", help="print names and numbers of the commands instead")
    o = p.parse_args()
    if o.list:
        names = [c[0].upper() for c in Generator(o.level, o.seed, o.odd, o.small).commands(o.count)]
        sys.exit(print(" ".join("%s:%d" % (x, names.count(x)) for x in sorted(set(names)))))
    sys.stdout.buffer.write(b"".join(commands(o.level, o.seed, o.count, o.odd, o.small)))
