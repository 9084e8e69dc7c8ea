#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a stream of Redis commands (RESP) that fills a server with every type in every encoding.

    gendata.py --level VERSION [--seed N] [--scale N] [--prefix P] [--onedb] | redis-cli --pipe

VERSION names the commands that the server has: 2.8, 3.2, 4.0, 5.0, 6.0, 6.2, 7.0, 7.2, 7.4, 8.0 (hash field expiry from
7.4 on), valkey-7.2, valkey-8, valkey-9 (hash field expiry as Valkey has it). The same seed gives the same commands.
--scale multiplies the number of keys. Values cover: integers at every width border, strings that LZF packs and
strings that it cannot, binary keys, empty strings, lists over several quicklist nodes, sets of integers of each intset
width, scores with infinities and 17 digits, hashes on both sides of the small-encoding limits, streams with deleted
entries, groups and pending entries, expiries, several databases, functions.
"""
import argparse
import random
import sys

LEVELS = {"2.8": 2.8, "3.2": 3.2, "4.0": 4.0, "5.0": 5.0, "6.0": 6.0, "6.2": 6.2, "7.0": 7.0, "7.2": 7.2, "7.4": 7.4,
          "8.0": 8.0, "valkey-7.2": 7.2, "valkey-8": 7.2, "valkey-9": 7.2}
WORDS = [b"alpha", b"beta", b"session", b"api_key", b"claude", b"user", b"token", b"refresh", b"tokyo",
         b"\xe4\xb8\xad\xe6\x96\x87", b"0", b"true"]
BORDERS = [0, 1, -1, 12, 13, 127, 128, -128, -129, 255, 256, 32767, 32768, -32768, -32769, 8388607, 8388608, -8388608,
           -8388609, 2147483647, 2147483648, -2147483648, -2147483649, 9223372036854775807, -9223372036854775808, 4095,
           4096, -4096, -4097, 63, 64, 65535, 65536, 16777215]
SCORES = ["0", "-0", "1", "-1", "3.14159265358979312", "1e300", "-1e-300", "inf", "-inf", "9007199254740993", "0.1",
          "4.9406564584124654e-324", "1.7976931348623157e308", "123456789.123"]
FAR = 4102444800000  # the year 2100, in milliseconds
T0 = 1700000000000
FUNCTIONS = [
    "#!lua name=mylib\nredis.register_function('myfunc', function(keys, args) return args[1] end)",
    "#!lua name=lib2\nredis.register_function{function_name='ro', callback=function() return 1 end, "
    "flags={'no-writes'}}\n--" + "pad" * 200,
]


class Generator:
    def __init__(self, write, level, seed=1, prefix="", onedb=False):
        self.write, self.prefix, self.onedb = write, prefix, onedb
        self.level = LEVELS[level]
        self.field_expiry = self.level >= 7.4 or level == "valkey-9"
        self.random = random.Random(seed)

    def do(self, *args):
        args = [x if isinstance(x, bytes) else str(x).encode() for x in args]
        self.write(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x) for x in args))

    def noise(self, n):
        return bytes(self.random.getrandbits(8) for _ in range(n))

    def text(self, n):
        s = b""
        while len(s) < n:
            s += self.random.choice(WORDS) + b":" + str(self.random.randint(0, 9999)).encode() + b","
        return s[:n]

    def value(self):
        r = self.random
        return (lambda: str(r.choice(BORDERS)).encode(),
                lambda: self.noise(r.randrange(0, 70)),
                lambda: self.text(r.randrange(1, 200)),
                lambda: b"",
                lambda: str(r.randrange(-10**12, 10**12)).encode(),
                lambda: b"a" * r.randrange(1, 300),
                lambda: self.text(r.randrange(1, 30)),
                lambda: self.text(r.randrange(1, 30)))[r.randrange(8)]()

    def maybe_expire(self, key):
        if self.random.random() < .3:
            self.do("PEXPIREAT", key, FAR + self.random.randrange(10**9))

    def all(self, scale=1):
        for rep in range(scale):
            for db in (0,) if self.onedb else (0, 3):
                self.do("SELECT", db)
                stem = self.prefix + ("" if rep == 0 else "%d:" % rep) + ("" if db == 0 else "d%d:" % db)
                self.key = lambda name, stem=stem: (stem + name).encode()
                self.strings(db == 0)
                self.records(40 if db == 0 else 5)
                self.collections((1, 2, 127, 128, 129, 511, 512, 513, 1200) if db == 0 else (1, 128, 129))
                self.special()
                if self.level >= 5:
                    self.streams((1, 3, 99, 100, 101, 450) if db == 0 else (3, 101))
                if self.field_expiry:
                    self.expiring_fields((3, 200, 700) if db == 0 else (3,))
        if self.level >= 7:
            for code in FUNCTIONS:
                self.do("FUNCTION", "LOAD", "REPLACE", code)
        self.do("SELECT", 0)

    def strings(self, many):
        key, do = self.key, self.do
        for i, v in enumerate(BORDERS):
            do("SET", key("int:%d" % i), v)
        sizes = (0, 1, 4, 19, 20, 21, 63, 64, 65, 100, 254, 255, 256, 4095, 4096, 16383, 16384, 16385, 40000)
        for n in sizes if many else (0, 21, 64):
            do("SET", key("str:rnd:%d" % n), self.noise(n))
            do("SET", key("str:text:%d" % n), self.text(n))
            do("SET", key("str:a:%d" % n), b"a" * n)
            self.maybe_expire(key("str:a:%d" % n))
        for v in ("007", "+5", "-0", " 1", "1.0", "99999999999999999999", "18446744073709551615"):
            do("SET", key("notint:" + v), v)
        do("SET", key("") + self.noise(40), b"binary key")
        do("SET", key("\u952e:\u4e2d\u6587"), "\u503c")
        do("SET", key("quote\"\\\r\n\t\x00end"), b"\"\\\r\n")
        do("SET", key("ttl:sec"), 1)
        do("EXPIREAT", key("ttl:sec"), FAR // 1000)

    def records(self, n):
        key, do, r = self.key, self.do, self.random
        for i in range(n):
            k = key("user:%d" % i)
            do("HMSET", k, "id", i, "name", self.text(12), "bio", self.text(r.randrange(0, 90)), "n", r.choice(BORDERS))
            self.maybe_expire(k)
            do("SET", key("session:%032x" % r.getrandbits(128)), self.text(120))
            do("SET", key("api_key:%d" % i), '{"id":%d,"hash":"%064x"}' % (i, r.getrandbits(256)))

    def collections(self, sizes):
        key, do, r = self.key, self.do, self.random
        for n in sizes:
            k, order = key("hash:%d" % n), list(range(n))
            r.shuffle(order)
            for j in range(0, n, 200):
                do("HMSET", k, *sum(([("f%d" % x) if x % 3 else x, self.value()] for x in order[j:j + 200]), []))
            k = key("list:%d" % n)
            for j in range(0, n, 100):
                do("RPUSH", k, *[self.value() for _ in range(min(100, n - j))])
            self.maybe_expire(k)
            k = key("set:%d" % n)
            for j in range(0, n, 100):
                do("SADD", k, *[self.value() + b":%d" % x for x in range(j, min(n, j + 100))])
            k = key("zset:%d" % n)
            for j in range(0, n, 100):
                do("ZADD", k, *sum(([r.choice(SCORES) if r.random() < .4 else repr(r.uniform(-1e6, 1e6)),
                                     self.value() + b":%d" % x] for x in range(j, min(n, j + 100))), []))
            self.maybe_expire(k)
            for width in (100, 30000, 2**31 - 1, 2**62):
                k = key("intset:%d:%d" % (n, width))
                for j in range(0, n, 100):
                    do("SADD", k, *[r.randrange(-width, width) for _ in range(min(100, n - j))])

    def special(self):
        key, do = self.key, self.do
        do("HSET", key("hash:bigvalue"), "v", self.text(5000))
        do("RPUSH", key("list:bigvalue"), b"x", self.text(9000), self.noise(9000), b"y", self.noise(30000))
        do("SADD", key("set:bigvalue"), self.text(5000), "1")
        do("ZADD", key("zset:bigvalue"), 1, self.text(5000))
        do("SADD", key("set:smallmixed"), 1, "two", 3, b"")
        do("RPUSH", key("list:borders"), *BORDERS)
        do("SADD", key("set:borders"), *BORDERS)
        do("ZADD", key("zset:borders"), *sum(([SCORES[i % len(SCORES)], v] for i, v in enumerate(BORDERS)), []))
        do("HMSET", key("hash:borders"), *sum(([v, -v] for v in BORDERS), []))
        do("PFADD", key("hll:sparse"), *range(50))
        do("PFADD", key("hll:dense"), *range(5000))
        do("SETBIT", key("bits"), 100003, 1)
        if self.level >= 3.2:
            do("GEOADD", key("geo"), "13.361389", "38.115556", "Palermo", "15.087269", "37.502669", "Catania")
        do("HSET", key("ttl:hash"), "a", "b")
        do("PEXPIREAT", key("ttl:hash"), FAR + 123)

    def streams(self, sizes):
        key, do = self.key, self.do
        entry_id = lambda i: "%d-%d" % (T0 + i * 3, i % 4)
        for n in sizes:
            k = key("stream:%d" % n)
            for i in range(n):
                if i % 7 == 3:
                    do("XADD", k, entry_id(i), "other", self.value(), b"x%d" % i, i)
                else:
                    do("XADD", k, entry_id(i), "name", self.value(), "n", self.random.choice(BORDERS))
            if n > 3:
                for i in range(0, n, 5):
                    do("XDEL", k, entry_id(i))
                do("XGROUP", "CREATE", k, "g1", "0")
                do("XGROUP", "CREATE", k, b"g\xff2", "$")
                do("XREADGROUP", "GROUP", "g1", "alice", "COUNT", 20, "STREAMS", k, ">")
                do("XREADGROUP", "GROUP", "g1", "bob", "COUNT", 10, "STREAMS", k, ">")
                do("XACK", k, "g1", entry_id(1))
                do("XDEL", k, entry_id(2))
                if self.level >= 6.2:
                    do("XGROUP", "CREATECONSUMER", k, "g1", "idle")
            if n == 99:
                do("XTRIM", k, "MAXLEN", 40)
        do("XADD", key("stream:empty"), "5-1", "a", "b")
        do("XDEL", key("stream:empty"), "5-1")
        do("XADD", key("stream:big"), "1-0", "blob", self.noise(5000), "t", self.text(6000))
        do("XADD", key("stream:maxid"), "18446744073709551615-18446744073709551614", "k", "v")
        do("XGROUP", "CREATE", key("stream:nogroupread"), "g", "0", "MKSTREAM")

    def expiring_fields(self, sizes):
        for n in sizes:
            k = self.key("hfe:%d" % n)
            self.do("HSET", k, *sum((["f%d" % i, self.value()] for i in range(n)), []))
            for i in range(0, n, 2):
                self.do("HPEXPIREAT", k, FAR + i * 1000, "FIELDS", 1, "f%d" % i)
        self.do("PEXPIREAT", self.key("hfe:3"), FAR + 100000)


def commands(level, seed=1, scale=1, prefix="", onedb=False):
    """The same as bytes."""
    out = []
    Generator(out.append, level, seed, prefix, onedb).all(scale)
    return b"".join(out)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--level", default="7.0", choices=sorted(LEVELS))
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--scale", type=int, default=1)
    p.add_argument("--prefix", default="")
    p.add_argument("--onedb", action="store_true")
    o = p.parse_args()
    sys.stdout.buffer.write(commands(o.level, o.seed, o.scale, o.prefix, o.onedb))
