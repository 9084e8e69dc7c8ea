#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds `rdbkit check` against the servers' own checkers: what redis-check-rdb refuses, rdbkit has to refuse.

    tests/checkrdb_test.py [--servers DIR] [--corpus DIR] [--seed N] [--only I] [--keep DIR] [-n N]

Values of fixtures/ (and of the corpus) become files of one key, each damaged in one place or a few: bytes and lengths,
members that stand twice or change places, counts that are wrong, entries of packed values, parts of streams, opcodes, a
file cut short. The checksum is made right, or none, so that the value is judged. Redis' files go to the checker of Redis
8.0, Valkey's to that of Valkey 9.

What rdbkit calls sound is loaded into the server. It has to be there, be found by name, and be the same after the server
saved it and after rdbkit encoded it anew.

Verdicts may differ for the reasons of STRICTER (rdbkit refuses alone) and LOOSER (the checker refuses alone), servers for
those of LOADS; any other is a failure, printed with what --seed and --only need to make the file again. -n, or N in the environment: how many
files. The last line is "N passed, N failed, N skipped".
"""
import collections
import glob
import os
import queue
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import compare
import keyspace
import rdb
import servers
from rdb import Many, Num, Raw, Text, num, txt
from servers import RDBKIT, ROOT, report

WRITERS = (("redis", "redis-8.0"), ("valkey", "valkey-9"))
BATCH = 100
SECONDS = 20  # in which a checker has to be done

# ---- Differences that are known --------------------------------------------------------------------------------------

# rdbkit refuses, the checker does not: (checker or None, pattern in what rdbkit says, why)
STRICTER = [
    (None, r"^key twice: ", "the checkers do not look at names of keys; the servers themselves die of it"),
    (None, r"bytes follow the end of the RDB", "nobody reads what comes after the checksum"),
    ("redis", r"stream says \d+ entries, has", "Redis does not add the entries of a stream up, Valkey 9 does"),
    ("redis", r"stream node says \d+ live", "Redis does not count live and deleted entries of a node, Valkey 9 does"),
    ("redis", r"^stream.*header says \d+ entries, there are", "Redis does not count the listpack entries of a stream node"),
    (None, r"^stream.*no such entry flags", "servers look at two bits of the flags alone"),
    (None, r"^stream.*a string of \d+ bytes, an integer wanted", "servers take text that is a number for one"),
    (None, r"names of groups or consumers do not ascend|stream node keys do not ascend", "servers write them ascending; a name that stands twice "
     "is seen without memory only so"),
    (None, r"^zset.*score of \d+ characters is not a number", "servers read the number that text begins with, or 0"),
    (None, r"^stream.*(entries do not ascend|last ID of a stream below that of an entry)", "no server looks at the order of IDs, all rely on it"),
    (None, r"^zset.*members do not ascend", "no server looks at the order, all rely on it"),
    (None, r"^zset.*score is nan", "the checkers do not look at scores in packed values; a NaN may kill a server"),
    (None, r"back-length says (12[89]|1[3-9]\d|2\d\d), entry takes|back-length of an entry of \d+ bytes is not written in the shortest way",
     "servers read on into the entry, whose last byte makes the number right by chance"),
    (None, r"^hash-zipmap.*end mark before the end", "servers do not look behind the end mark"),
    (None, r"first byte of a length is 0x[c-f]", "servers take a string's encoding, c0 to ff, for the length 0 to 63"),
    (None, r"compressed string does not decode to 0 bytes", "of a string that is said to be empty servers do not see that decompressing failed"),
    (None, r"module value tag \d+", "the checkers pass unknown tags by"),
    (None, r"module aux field for time", "there are times 1 and 2 alone; the checkers do not know"),
    ("redis", r"field expiry \d+ after \d+, past", "the sum wraps around in Redis"),
    ("valkey", r"slots \d+ to \d+, 0 to 16383 wanted", "the checker does not look at the numbers of slots"),
    (None, r"^header .*in the version, \d digits wanted", "servers read the digits that are there"),
    ("valkey", r"^header .*RDB version \d+ (of|behind)", "the checker reads versions that are to come"),
]

# The checker refuses, rdbkit does not: (checker, pattern in what the checker says, why, perhaps a proof from the bytes
# and the checker that it is for this alone)
LOOSER = [
    (None, r"^Pre-release function format", "opcode 246 of the 7.0 release candidates, which Redis 7.0 loads"),
    ("valkey", r"(listpack|Stream|stream).*integrity check failed", "long back-lengths in the form of Redis and Valkey 9.0: Valkey 9.1 cannot read those of 9.0",
     lambda data, check: bool(narrowed(data)) and not check(narrowed(data))),
]


# A server does not take a file as rdbkit reads it: (server or None, pattern in the complaint, why, perhaps a proof)
LOADS = [
    (None, r"^refused: .*Pre-release function format", "opcode 246 of the 7.0 release candidates, which Redis 7.0 loads"),
    (None, r"^refused: .*Failed loading library, (?!Library \S+ already)", "functions are not compiled"),
    (None, r"^refused: .*Failed loading library, Library \S+ already exists", "names of function libraries are not held against each other"),
    (None, r"^refused: .*RDB file contains (AUX )?module data I can't load: no matching module", "servers without that module"),
    (None, r"^refused: .*configured to handle more than 64 databases", "a setting of the server"),
    (None, r"^refused: .*RDB file contains module data for the module", "what is inside of module values is not known"),
    (None, r"OUT OF MEMORY", "what is inside of module values is not known", lambda data: 7 in kinds_in(data)),
    ("valkey", r"^refused: .*(kvstore\.c:\d+ 'didx |crashed by signal)", "slot imports, which a server outside of a cluster dies of",
     lambda data: 243 in kinds_in(data) or b"\xf3(" in data),
    ("valkey", r"^refused: .*rdb\.c:\d+ -> Unexpected EOF", "slot-info that is not three numbers", lambda data: b"slot-info" in data),
    ("valkey", r"^refused: .*integrity check failed", "long back-lengths in the form of Redis and Valkey 9.0", lambda data: bool(narrowed(data))),
    (None, r"OUT OF MEMORY|Out Of Memory|timed out", "opcode 251 promises more keys than there is memory", lambda data: promised(data) > 1 << 20),
    (None, r"^saves other things:  instead of .* hash \{\}", "a hash whose fields have all expired is not saved"),
]


# ---- What is damaged -------------------------------------------------------------------------------------------------

class Unit:
    """A key of some file, or an opcode."""

    def __init__(self, source, magic, record):
        self.source, self.magic, self.kind, self.data = source, magic, record.kind, record.bytes()
        self.lineage = "valkey" if magic[:6] == b"VALKEY" else "redis"


def units_of(paths):
    """{(lineage, type): [unit]}, each value once."""
    out, seen = collections.defaultdict(list), set()
    for path in paths:
        with open(path, "rb") as f:
            data = f.read()
        try:
            magic, records = rdb.parse(data)
        except (KeyError, ValueError):  # pre-release opcodes
            continue
        for r in records:
            unit = Unit(path, magic, r)
            if r.kind in (251, 254) or len(unit.data) > 30000 or (unit.lineage, unit.data) in seen:
                continue
            if r.kind == 250 and r.nodes[0].s not in (b"redis-ver", b"repl-id", b"lua", b"slot-info"):
                continue
            seen.add((unit.lineage, unit.data))
            out[unit.lineage, r.kind].append(unit)
    return out


BORDERS = (0, 1, 2, 3, 12, 13, 63, 64, 127, 128, 252, 253, 254, 255, 256, 4095, 4096, 16383, 16384, 65534, 65535, 65536, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 32, (1 << 48) - 1, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXTS = (b"", b"0", b"1", b"-1", b"00", b"inf", b"-inf", b"nan", b"1e5", b"0x10", b" 1", b"1 ", b"a", b"a" * 63, b"a" * 64, b"a" * 300, b"9223372036854775807",
         b"9223372036854775808", b"-9223372036854775808", b"12345", b"1.5", b"infinity", b"1e400", b"-0")


class Damage:
    """What is done to one unit, by chance."""

    def __init__(self, rnd):
        self.rnd = rnd

    # -- bytes

    def flip(self, s):
        """Bytes with one of them changed."""
        if not s: return self.noise(1)
        i, r = self.rnd.randrange(len(s)), self.rnd
        b = r.choice((s[i] ^ 1 << r.randrange(8), r.randrange(256), s[i] + 1 & 255, s[i] - 1 & 255, r.choice((0, 1, 127, 128, 129, 192, 195, 254, 255))))
        return s[:i] + bytes([b]) + s[i + 1:]

    def noise(self, n):
        return bytes(self.rnd.randrange(256) for _ in range(n))

    def splice(self, s):
        """Bytes with some more, some less, or some from elsewhere in them."""
        r = self.rnd
        i, n = r.randrange(len(s) + 1), r.choice((1, 1, 2, 3, 4, 8, 16))
        how = r.randrange(4)
        if how == 0: return s[:i] + s[i + n:]
        if how == 1: return s[:i] + self.noise(n) + s[i:]
        j = r.randrange(len(s) + 1)
        if how == 2: return s[:i] + s[j:j + n] + s[i:]
        return s[:i] + s[j:j + n] + s[i + n:]

    def number(self, n, most=1 << 64):
        """Another number than n, often near to it."""
        r = self.rnd
        return r.choice((n + 1, n - 1, n + r.randrange(-4, 5), r.choice(BORDERS), 0, n * 2, n ^ 1 << r.randrange(8))) % most

    # -- packed values

    def listpack(self, s):
        r, entries = self.rnd, rdb.lp_entries(s)
        how, i = r.randrange(16), r.randrange(len(entries)) if entries else 0
        j, count, total = r.randrange(len(entries)) if entries else 0, None, None
        if not entries or how == 0:
            return rdb.lp_blob(entries, count=r.choice((0, 1, len(entries) + 1, max(len(entries) - 1, 0), 65535, r.choice(BORDERS))))
        if how == 1:
            return rdb.lp_blob(entries, total=self.number(len(s), 1 << 32))
        e = entries[i][0]
        v = rdb.lp_value(e)
        again = lambda e: (e, rdb.back_len(len(e)))
        if how == 2: entries[i] = entries[j]
        elif how == 3: entries[i], entries[j] = entries[j], entries[i]
        elif how == 4: del entries[i]
        elif how == 5: entries[i:i] = [entries[j]]
        elif how == 6:
            n = r.choice((1, 2, 3, 4, 6))
            entries[i:i] = entries[j:j + n]
        elif how == 7: del entries[i:i + r.choice((2, 3, 4, 6))]
        elif how == 8:  # the same value in another form
            text = str(v).encode() if isinstance(v, int) else v
            if isinstance(v, int):
                width = r.choice((2, 3, 4, 8))
                fits = -1 << 8 * width - 1 <= v < 1 << 8 * width - 1
                wide = bytes([{2: 0xF1, 3: 0xF2, 4: 0xF3, 8: 0xF4}[width]]) + v.to_bytes(width, "little", signed=True) if fits else None
            else:
                wide = b"\xf0" + struct.pack("<I", len(text)) + text
            entries[i] = again(wide if wide and r.randrange(2) else bytes([0x80 | len(text) & 63]) + text[:63])
        elif how == 9:
            entries[i] = (e, r.choice((rdb.back_len(len(e), True), rdb.back_len(self.number(len(e), 1 << 28)), b"\0" + bytes([128 | len(e) & 127]),
                                       self.flip(entries[i][1]))))
        elif how == 10: entries[i] = (self.flip(e), entries[i][1])
        elif how == 11: entries[i] = again(self.flip(e))
        elif how == 12: entries[i] = again(rdb.lp_entry(r.choice(TEXTS)))
        elif how == 13: entries[i:i + 1] = [again(rdb.lp_entry(b"x" * r.choice((16377, 16378, 16379, 121, 122, 125, 126, 4095, 4096)))) if r.randrange(4) == 0 else
                                            again(rdb.lp_entry(r.choice(TEXTS)))]
        elif isinstance(v, int):
            new = r.choice((v + 1, v - 1, v + r.randrange(-3, 4), -v, 0, r.choice(BORDERS)))
            entries[i] = again(rdb.lp_entry(new if -1 << 63 <= new < 1 << 63 else -1))
        else: entries[i] = again(rdb.lp_entry(self.flip(v)))
        return rdb.lp_blob(entries, count if r.randrange(12) else len(entries) + r.choice((-1, 1)))

    def ziplist(self, s):
        r, entries = self.rnd, rdb.zl_entries(s)
        how, i = r.randrange(13), r.randrange(len(entries)) if entries else 0
        j = r.randrange(len(entries)) if entries else 0
        if not entries or how == 0:
            return rdb.zl_blob(entries, count=r.choice((0, 1, len(entries) + 1, max(len(entries) - 1, 0), 65535)))
        if how == 1: return rdb.zl_blob(entries, total=self.number(len(s), 1 << 32))
        if how == 2: return rdb.zl_blob(entries, tail=self.number(struct.unpack_from("<I", s, 4)[0], 1 << 32))
        says, e = entries[i]
        v = rdb.zl_value(e)
        if how == 3: entries[i] = entries[j]
        elif how == 4: entries[i], entries[j] = entries[j], entries[i]
        elif how == 5: del entries[i]
        elif how == 6: entries[i:i] = [entries[j]]
        elif how == 7: entries[i] = (r.choice((0, 1, 3, 253, 254, 255, 300, r.randrange(20))), e)
        elif how == 8: entries[i] = (says, self.flip(e))
        elif how == 9:
            text = str(v).encode() if isinstance(v, int) else v
            entries[i] = (says, r.choice((bytes([len(text) & 63]) + text[:63], struct.pack(">H", 0x4000 | len(text) & 16383) + text, b"\x80" + struct.pack(">I", len(text)) + text)))
        elif how == 10: entries[i] = (says, rdb.zl_entry(r.choice(TEXTS)))
        elif isinstance(v, int):
            new = r.choice((v + 1, v - 1, 0, -v, r.choice(BORDERS)))
            entries[i] = (says, rdb.zl_entry(new if -1 << 63 <= new < 1 << 63 else -1))
        else: entries[i] = (says, rdb.zl_entry(self.flip(v)))
        return rdb.zl_blob(entries)

    def zipmap(self, s):
        """Pairs: some twice, some gone; else bytes."""
        r = self.rnd
        if r.randrange(2): return self.flip(s)
        i = r.randrange(1, len(s))
        return bytes([r.choice((s[0], s[0] + 1 & 255, 253, 254, 255, 0))]) + r.choice((s[1:], s[1:i] + s[1:], s[1:-1] + s[1:], s[1:i] + b"\xff", s[i:]))

    def intset(self, s):
        r, (width, count) = self.rnd, struct.unpack_from("<II", s)
        if 8 + width * count != len(s): raise ValueError
        values = [int.from_bytes(s[8 + i * width:8 + (i + 1) * width], "little", signed=True) for i in range(count)]
        i, j, how = r.randrange(count), r.randrange(count), r.randrange(7)
        if how == 0: values[i], values[j] = values[j], values[i]
        elif how == 1: values[i] = values[j]
        elif how == 2: values[i:i] = [values[j]]
        elif how == 3: del values[i]
        elif how == 4: width = r.choice((1, 2, 4, 8, 16))
        new = len(values) if how != 5 else self.number(count, 1 << 32)
        size = max(width, 8 if any(not -1 << 8 * width - 1 <= v < 1 << 8 * width - 1 for v in values) else width)
        said = r.choice((2, 3, 8, 0)) if how == 6 else size
        return struct.pack("<II", said, new) + b"".join(v.to_bytes(size, "little", signed=True) for v in values)

    def packed(self, what, s):
        r, how = self.rnd, self.rnd.randrange(8)
        if how == 0: return self.flip(s)
        if how == 1: return self.splice(s)
        if how == 2: return self.flip(s[:10]) + s[10:]
        try:
            return {"L": self.listpack, "N": self.listpack, "Z": self.ziplist, "M": self.zipmap, "I": self.intset}[what](s)
        except (IndexError, ValueError, OverflowError, struct.error):  # it was damaged before
            return self.flip(s)

    # -- nodes

    def text(self, node, like):
        r, how = self.rnd, self.rnd.randrange(14)
        if node.place[-1] in rdb.PACKED and how < 11:
            node.set(self.packed(node.place[-1], node.s))
            if r.randrange(6) == 0:
                z = rdb.lzf_encode(node.s)
                node.form = b"\xc3" + num(len(z)) + num(len(node.s)) + z
        elif how < 4: node.set(r.choice(like).s)
        elif how == 4: node.set(self.flip(node.s))
        elif how == 5: node.set(r.choice(TEXTS))
        elif how == 6:
            node.set(r.choice((node.s + b"x", node.s[:-1], b"", node.s[:r.randrange(len(node.s) + 1)])))
        elif how == 7: node.form = self.flip(node.bytes())
        elif how == 8: node.form = num(self.number(len(node.s))) + node.s
        elif how == 9: node.form = r.choice((b"\xc0", b"\xc1\1", b"\xc2\1\0\0", b"\xc4", b"\xc3")) + self.noise(1)
        elif how == 10: node.form = r.choice((b"\x80" + struct.pack(">I", len(node.s)), b"\x81" + struct.pack(">Q", len(node.s)))) + node.s
        else:
            z = rdb.lzf_encode(node.s)
            plain, packed = len(node.s), len(z)
            if how == 11: z = self.flip(z)
            elif how == 12: plain = self.number(plain)
            else: packed = self.number(packed)
            node.form = b"\xc3" + num(packed) + num(plain) + z

    def raw(self, node, like):
        r, n = self.rnd, len(node.s)
        v = int.from_bytes(node.s, "little")
        big = int.from_bytes(node.s, "big")
        node.s = r.choice((lambda: self.flip(node.s), lambda: r.choice(like).s, lambda: bytes(n), lambda: b"\xff" * n, lambda: self.noise(n),
                           lambda: (self.number(v) % (1 << 8 * n)).to_bytes(n, "little"), lambda: (self.number(big) % (1 << 8 * n)).to_bytes(n, "big"),
                           lambda: struct.pack("<d", r.choice((float("nan"), float("inf"), -float("inf"), -0.0, 1e300)))[:n].ljust(n, b"\0") if n != 16 else node.s,
                           lambda: node.s + self.noise(1), lambda: node.s[:-1]))()
        if node.place.endswith(".1") and len(node.s) > 2 and r.randrange(3) == 0:  # perhaps a score in characters
            s = r.choice(TEXTS)[:252]
            node.s = bytes([len(s)]) + s

    def num(self, node, like):
        r, how = self.rnd, self.rnd.randrange(12)
        if how == 0: node.n = r.choice(like).n
        elif how == 1: node.form = r.choice((b"\x80" + struct.pack(">I", node.n & 0xFFFFFFFF), b"\x81" + struct.pack(">Q", node.n)))
        elif how == 2: node.form = self.flip(node.bytes())
        else: node.n = self.number(node.n)

    def many(self, node, like):
        r, rows, how = self.rnd, node.rows, self.rnd.randrange(12)
        if not rows or how == 0: node.says = self.number(len(rows))
        elif how < 3: rows.insert(r.randrange(len(rows) + 1), r.choice(rows))
        elif how < 5: del rows[r.randrange(len(rows))]
        elif how < 7: r.shuffle(rows)
        elif how == 7:
            i, j = r.randrange(len(rows)), r.randrange(len(rows))
            rows[i], rows[j] = rows[j], rows[i]
        elif how == 8: node.rows = r.choice(like).rows
        elif how == 9: rows[r.randrange(len(rows))] = r.choice(r.choice([x for x in like if x.rows]).rows)
        elif how == 10: rows.append(r.choice(r.choice([x for x in like if x.rows]).rows))
        else: node.rows = [rows[0]] if r.randrange(2) else []

    def tree(self, nodes):
        """One node of a value."""
        flat = []

        def walk(nodes):
            for n in nodes:
                flat.append(n)
                if isinstance(n, Many):
                    for row in n.rows:
                        walk(row)

        walk(nodes)
        if not flat: return
        by_place = collections.defaultdict(list)
        for n in flat:
            by_place[n.place].append(n)
        like = by_place[self.rnd.choice(sorted(by_place))]  # places first: entries would outweigh all that is there once
        node = self.rnd.choice(like)
        {Text: self.text, Raw: self.raw, Num: self.num, Many: self.many}[type(node)](node, like)

    # -- files

    def opcode(self):
        r = self.rnd
        ms = struct.pack("<q", r.choice((0, -1, 1, 1 << 40, -(1 << 63), (1 << 63) - 1)))
        n = lambda: num(r.choice(BORDERS))
        return r.choice((lambda: b"\xfa" + txt(r.choice((b"lua", b"x", b"redis-bits", b"ctime", b"slot-info", b"aof-base", b"repl-stream-db", b"used-mem", b"repl-offset"))) + txt(r.choice(TEXTS)),
                         lambda: b"\xf8" + n(), lambda: b"\xf9" + self.noise(1), lambda: b"\xfc" + ms, lambda: b"\xfd" + ms[:4],
                         lambda: b"\xf4" + n() + n() + n(), lambda: b"\xf5" + txt(r.choice((b"#!lua name=x\nreturn 1", b"", b"#!lua\n"))),
                         lambda: b"\xfe" + n(), lambda: b"\xfb" + n() + n(), lambda: b"\xf7" + n() + num(r.choice((1, 2, 3))) + n() + b"\0",
                         lambda: b"\xf3" + txt(r.choice((b"0" * 40, b"x"))) + num(1) + n() + n(), lambda: b"\xf6" + txt(b"x") + txt(b"LUA") + num(0) + txt(b"return 1"),
                         lambda: self.noise(r.randrange(1, 4)), lambda: b"\xff"))()

    def file(self, unit, others):
        """A damaged file of the unit, and what was done to it."""
        r, how = self.rnd, self.rnd.randrange(20)
        magic, types = unit.magic, rdb.types_of(unit.magic)
        p = rdb.Parser(unit.data)
        record = p.record(types)
        if how < 15 or how == 19:
            for _ in range(r.choice((1, 1, 1, 1, 1, 2, 2, 3))):
                if record.key and r.randrange(25) == 0: self.text(record.key, [record.key])
                elif record.before and r.randrange(8) == 0: self.tree(r.choice(record.before).nodes)
                else: self.tree(record.nodes)
        body = record.bytes()
        if how == 15: body = self.flip(body)
        elif how == 16: body = self.splice(body)
        elif how == 17:
            if r.randrange(2) and record.key:
                same = [k for k in types if types[k].strip("LZ") == types[record.kind].strip("LZ") or types[k][:3] == types[record.kind][:3]]
                record.kind = r.choice(same + [r.randrange(30)])
                body = record.bytes()
            else: body = self.opcode() + body
        elif how == 18:
            more = r.choice(others).data
            body = r.choice((body + more, more + body, body + body, body + self.opcode(), body + self.opcode() + more))
        if how == 19: magic = r.choice((magic[:-1] + b"%d" % r.randrange(10), magic[:5] + b"%04d" % r.randrange(1, 14), self.flip(magic)))
        data = magic + body + b"\xff"
        summed = rdb.crc64(data) if len(data) < 4000 and r.randrange(3) == 0 else bytes(8)
        if magic[:5] == b"REDIS" and magic[5:] < b"0005": summed = b""
        data += summed
        if r.randrange(60) == 0: data = data[:r.randrange(len(data))]
        return data


def make(seed, i, units):
    """The i-th file of a seed: (lineage, unit, bytes)"""
    rnd = random.Random("%d:%d" % (seed, i))
    lineage = "valkey" if i % 5 == 4 else "redis"
    kinds = [k for l, k in units if l == lineage]
    weights = [6 if k in (15, 19, 21) else 3 if k in (16, 17, 18, 20, 22, 24, 25, 13, 12, 14, 11, 9) else 1 for k in kinds]
    unit = rnd.choice(units[lineage, rnd.choices(kinds, weights)[0]])
    return lineage, unit, Damage(rnd).file(unit, units[lineage, rnd.choice(kinds)])


# ---- Verdicts --------------------------------------------------------------------------------------------------------

def ours(paths):
    """{path: None or why rdbkit refuses it}, and a complaint or None."""
    p = subprocess.run([RDBKIT, "check"] + paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=120)
    out = {}
    for line in p.stdout.decode(errors="replace").splitlines():
        path, _, verdict = line.partition(": ")
        out.setdefault(path, None if verdict.startswith("sound: ") else verdict.partition(": ")[2])
    for line in p.stderr.decode(errors="replace").splitlines():
        m = re.match(r"rdbkit: ([^:]*): (.*)", line)
        if m and m[1] in paths: out.setdefault(m[1], m[2])
    refused = any(v is not None for v in out.values())
    if p.returncode not in ((1, 4) if refused else (0,)) or len(out) != len(paths):
        return out, "rdbkit check of %d files: exit %d, %d verdicts: %s" % (len(paths), p.returncode, len(out), p.stderr.decode(errors="replace")[-300:])
    return out, None


def theirs(checker, path):
    """None, or why the checker refuses it."""
    try:
        p = subprocess.run(["check-rdb", path], executable=checker, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "hangs"
    text = p.stdout.decode(errors="replace")
    if p.returncode == 0 and "looks OK" in text: return None
    m = re.search(r"ERROR DETECTED ---\n\[offset \d+\] (.*)", text) or re.search(r"\[offset \d+\] (Check RDB returned.*)", text)
    kind = re.search(r"Reading type (\d+)", text)
    return "%s (exit %d, type %s)" % (m[1] if m else text[-200:], p.returncode, kind[1] if kind else "?")


class Loader:
    """A server that loads one file after another."""

    def __init__(self, release, programs):
        self.target = release
        self.server = servers.Server(release, programs, "--enable-debug-command", "yes", "--databases", "64", "--loglevel", "verbose")
        self.server.conn.sock.settimeout(SECONDS)

    def last_words(self, at):
        """What the server said of a file that it died of."""
        with open(self.server.log.name, errors="replace") as f:
            f.seek(at)
            lines = [re.sub(r"^\d+:\S+ \d+ \w+ \d+ [\d:.]+ . ", "", x) for x in f.read().splitlines()]
        told = [x for x in lines if re.search(r"rdb\.c:|Internal error|FATAL|crashed by|=== ASSERT|==> |Guru|Fatal|Failed|rror|memory|Pre-release|EOF|module", x)]
        return " | ".join((told or lines[-3:])[:3])

    def load(self, data):
        """The lines of keyspace.py after loading that file, and what is odd about them: (lines or None, complaint or None)"""
        with open(os.path.join(self.server.dir, "dump.rdb"), "wb") as f: f.write(data)
        self.server.log.flush()
        at, step = os.path.getsize(self.server.log.name), "refused"
        try:
            answer = self.server.conn("DEBUG", "RELOAD", "NOSAVE")
            if answer != b"OK": return None, "refused: %s: %s" % (answer, self.last_words(at))
            step = "died of reading"
            lines = keyspace.lines(self.server.port)
            step = "died of looking up"
            complaint = lookups(self.server.conn)
            if not complaint:
                step = "died of saving or loading again"
                answer = self.server.conn("DEBUG", "RELOAD")
                again = keyspace.lines(self.server.port) if answer == b"OK" else [str(answer)]
                if again != lines: complaint = "saves other things: %s instead of %s" % unlike(again, lines)
            return lines, complaint
        except (OSError, EOFError, ValueError) as e:
            self.server.process.kill()
            self.server.process.wait()
            words = self.last_words(at)
            with open(os.path.join(self.server.dir, "dump.rdb"), "wb") as f: f.write(rdb.file_of(b"REDIS0009", b""))
            self.server.start()
            self.server.conn.sock.settimeout(SECONDS)
            return None, "%s: %s (%s)" % (step, words, e)


def unlike(a, b):
    """Where two lists of lines begin to differ."""
    x, y = next(((x, y) for x, y in zip(a + [""] * len(b), b + [""] * len(a)) if x != y), ("", ""))
    at = max(next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y))) - 60, 0)
    return x[at:at + 160], y[at:at + 160]


MOST = 60  # elements of one value that are looked up


def lookups(c):
    """Whether what a listing of a value tells is found by name, too, and backwards; a complaint or None."""
    for db in sorted(int(x.split(b":")[0][2:]) for x in c("INFO", "keyspace").split() if x.startswith(b"db") and b"keys=" in x):
        c("SELECT", db)
        for key in c("KEYS", "*"):
            kind = c("TYPE", key)
            c.many([("OBJECT", "ENCODING", key), ("DUMP", key), ("DEBUG", "OBJECT", key)])
            wrong = None
            if kind == b"list":
                rows = c("LRANGE", key, 0, -1)
                if c("LLEN", key) != len(rows): wrong = "LLEN"
                elif c.many([("LINDEX", key, -1 - i) for i in range(min(len(rows), MOST))]) != rows[::-1][:MOST]: wrong = "LINDEX"
            elif kind == b"set":
                rows = c("SMEMBERS", key)
                if c("SCARD", key) != len(rows): wrong = "SCARD"
                elif set(c.many([("SISMEMBER", key, x) for x in rows[:MOST]])) != {1}: wrong = "SISMEMBER"
                elif c("SRANDMEMBER", key) not in rows: wrong = "SRANDMEMBER"
            elif kind == b"hash":
                rows = keyspace.pairs(c("HGETALL", key))
                if c("HLEN", key) < len(rows): wrong = "HLEN"  # more: fields whose time is over
                elif c.many([("HGET", key, f) for f, _ in rows[:MOST]]) != [v for _, v in rows[:MOST]]: wrong = "HGET"
                c("HRANDFIELD", key, 3)
            elif kind == b"zset":
                rows = keyspace.pairs(c("ZRANGE", key, 0, -1, "WITHSCORES"))
                if c("ZCARD", key) != len(rows): wrong = "ZCARD"
                elif keyspace.pairs(c("ZREVRANGE", key, 0, -1, "WITHSCORES")) != rows[::-1]: wrong = "ZREVRANGE"
                elif c.many([("ZRANK", key, m) for m, _ in rows[:MOST]]) != list(range(len(rows[:MOST]))): wrong = "ZRANK"
                elif c.many([("ZSCORE", key, m) for m, _ in rows[:MOST]]) != [s for _, s in rows[:MOST]]: wrong = "ZSCORE"
                elif c("ZCOUNT", key, "-inf", "+inf") != len(rows): wrong = "ZCOUNT"
            elif kind == b"stream":
                rows = c("XRANGE", key, "-", "+")
                ids = [tuple(map(int, i.split(b"-"))) for i, _ in rows]
                last = dict(keyspace.pairs(c("XINFO", "STREAM", key)))[b"last-generated-id"]
                if c("XLEN", key) != len(rows): wrong = "XLEN"
                elif c("XREVRANGE", key, "+", "-") != rows[::-1]: wrong = "XREVRANGE"
                elif ids != sorted(set(ids)): wrong = "the order of XRANGE"
                elif c.many([("XRANGE", key, i, i) for i, _ in rows[:MOST]]) != [[x] for x in rows[:MOST]]: wrong = "XRANGE of one"
                elif ids and ids[-1] > tuple(map(int, last.split(b"-"))): wrong = "last-generated-id"
                elif not all(fields for _, fields in rows): wrong = "an entry without fields"
            if wrong: return "loads what it does not find: %s of a %s" % (wrong, kind.decode())
    return None


def evened(line):
    """A line of keyspace.py without what encoding anew changes: -0, the first ID of an empty stream, a count of entries ever added that is too low."""
    line = compare.expect_scores(line).replace('recorded-first-entry-id="%s"' % compare.NO_FIRST, 'recorded-first-entry-id="0-0"')
    return re.sub(r"( length=(\d+) .*? entries-added=)(\d+)", lambda m: m[1] + str(max(int(m[2]), int(m[3]))), line)


def loaded(loader, path, data):
    """A complaint of a server about a file that is sound for rdbkit, or None."""
    lines, complaint = loader.load(data)
    if complaint: return complaint
    target = loader.target
    p = servers.rdbkit("convert", "--reencode", "--allow-loss", "--to", target, "-o", "-", path, stdout=subprocess.PIPE)
    if p.returncode: return "rdbkit convert --reencode: exit %d: %s" % (p.returncode, p.stderr.decode(errors="replace"))
    again, complaint = loader.load(p.stdout)
    if complaint: return "encoded anew: " + complaint
    lines, again = [evened(x) for x in lines], [evened(x) for x in again]
    return None if lines == again else "encoded anew: %s instead of %s" % unlike(again, lines)


def load(free, path, data):
    """As loaded(), by one of the loaders that have nothing to do."""
    loader = free.get()
    try:
        return loaded(loader, path, data)
    finally:
        free.put(loader)


def cause(text):
    """A message without what differs from file to file."""
    text = re.sub(r"; (key|opcode) .*| in key .*", "", text)
    text = re.sub(r"^.*?rdb\.c:\d+ -> ", "", text)
    text = re.sub(r"(blob \+\d+)|entry \d+|at \d+", "", text)
    text = re.sub(r'"[^"]*"|\'[^\']*\'', "Q", text)
    text = re.sub(r"^(\S+) : ", r"\1: ", re.sub(r"\(\)|, *(?=:)", "", text))
    return re.sub(r"0x\w+|-?\b\d+(-\d+)?\b", "#", text)


# ---- Reasons ---------------------------------------------------------------------------------------------------------

def records_of(data):
    try:
        return rdb.parse(data)[1]
    except (KeyError, ValueError, IndexError, struct.error):  # opcode 246
        return []


def kinds_in(data):
    return {r.kind for r in records_of(data)}


def promised(data):
    """The most keys that opcodes 251 and 244 announce."""
    return max([n.n for r in records_of(data) if r.kind in (244, 251) for n in r.nodes[-2:]], default=0)


def narrowed(data):
    """A file with long back-lengths as Valkey 9.1 writes them in place of those that Redis writes, or None if it has none of those."""
    found = []

    def walk(nodes):
        for n in nodes:
            if isinstance(n, Many):
                for row in n.rows: walk(row)
            elif isinstance(n, Text) and n.place[-1] in "LN":
                entries = rdb.lp_entries(n.s)
                better = [(e, rdb.back_len(len(e), b == rdb.back_len(len(e)))) for e, b in entries]
                if better != entries:
                    found.append(n)
                    n.set(rdb.lp_blob(better, struct.unpack_from("<H", n.s, 4)[0]))

    records = records_of(data)
    for r in records: walk(r.nodes)
    return rdb.file_of(data[:9], b"".join(r.bytes() for r in records)) if found else None


def known_reason(rows, lineage, said, *proof):
    for row in rows:
        if row[0] in (lineage, None) and re.search(row[1], said) and (len(row) < 4 or row[3](*proof)):
            return row[2]
    return None


class Tally:
    def __init__(self, keep, judge):
        self.keep, self.judge, self.counts, self.unknown, self.samples = keep, judge, collections.Counter(), [], {}

    def take(self, seed, i, lineage, unit, data, we, they):
        if (we is None) == (they is None):
            self.counts["both accept" if we is None else "both refuse"] += 1
        elif we is None:
            known = known_reason(LOOSER, lineage, they, data, lambda other: self.judge(lineage, other))
            self.note("only the checker refuses", known, seed, i, lineage, unit, data, they)
        else:
            known = known_reason(STRICTER, lineage, we)
            self.note("only rdbkit refuses", known, seed, i, lineage, unit, data, we)

    def take_load(self, seed, i, lineage, unit, data, said):
        self.counts["sound and loaded"] += 1
        if said:
            known = known_reason(LOADS, lineage, said, data)
            self.note("sound, and the server has it otherwise", known, seed, i, lineage, unit, data, said)

    def note(self, row, known, seed, i, lineage, unit, data, said):
        self.counts[row] += 1
        key = (row, lineage, known or "UNKNOWN: %s" % cause(said))
        self.counts[key] += 1
        if key not in self.samples or len(data) < len(self.samples[key][0]):
            self.samples[key] = (data, seed, i, unit, said)
        if not known:
            self.unknown.append(key)
        if self.keep:
            name = re.sub(r"[^A-Za-z0-9]+", "_", "%s_%s" % (lineage, key[2]))[:100]
            path = os.path.join(self.keep, name + ".rdb")
            if not os.path.exists(path) or os.path.getsize(path) > len(data):
                with open(path, "wb") as f: f.write(data)


def main():
    o = servers.options(__doc__)
    o.add_argument("--seed", type=int, default=1)
    o.add_argument("--only", type=int)
    o.add_argument("--keep")
    o.add_argument("-n", type=int, default=int(os.environ.get("N") or 3000))
    o = o.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))  # for servers that believe a damaged count
    found = servers.start(o)
    checkers = {}
    for lineage, release in WRITERS:
        path = os.path.join(o.servers, release, "check-rdb")
        if release in found and os.access(path, os.X_OK): checkers[lineage] = path
        elif found: servers.skip("no check-rdb of %s" % release)
    paths = [p for p in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "*.rdb"))) if os.path.basename(os.path.dirname(p)) != "bad"]
    paths += sorted(glob.glob(os.path.join(o.corpus, "**", "*.rdb"), recursive=True)) if o.corpus else []
    if not checkers:
        return servers.summary()
    units = units_of(paths)

    def judge(lineage, data):
        path = os.path.join(servers.work, "other.rdb")
        with open(path, "wb") as f: f.write(data)
        return theirs(checkers[lineage], path)

    tally, complaints, start = Tally(o.keep, judge), [], time.time()
    loaders = {lineage: queue.Queue() for lineage in checkers}
    for lineage, release in WRITERS:
        for _ in range(o.jobs if lineage in loaders else 0):
            loaders[lineage].put(Loader(release, found[release]))
    folder = os.path.join(servers.work, "damaged")
    os.mkdir(folder)
    if o.keep: os.makedirs(o.keep, exist_ok=True)
    todo = [o.only] if o.only is not None else [i for i in range(o.n) if ("valkey" if i % 5 == 4 else "redis") in checkers]
    with ThreadPoolExecutor(o.jobs) as pool:
        for at in range(0, len(todo), BATCH):
            files = {}
            for i in todo[at:at + BATCH]:
                path = os.path.join(folder, "%d.rdb" % i)
                lineage, unit, data = files[path] = make(o.seed, i, units)
                with open(path, "wb") as f: f.write(data)
            we = pool.submit(ours, list(files))
            they = dict(zip(files, pool.map(lambda path: theirs(checkers[files[path][0]], path), files)))
            we, complaint = we.result()
            if complaint: complaints.append("%s; --seed %d, the %d files from %d on" % (complaint, o.seed, BATCH, todo[at]))
            for path, (lineage, unit, data) in files.items():
                i = int(os.path.basename(path)[:-4])
                if path in we: tally.take(o.seed, i, lineage, unit, data, we[path], they[path])
            sound = [path for path in files if we.get(path, "") is None and files[path][0] in loaders]
            for path, said in zip(sound, pool.map(lambda path: load(loaders[files[path][0]], path, files[path][2]), sound)):
                lineage, unit, data = files[path]
                tally.take_load(o.seed, int(os.path.basename(path)[:-4]), lineage, unit, data, said)
            for path in files:
                os.unlink(path)
    report("rdbkit check gives one verdict for each damaged file", complaints)
    for row in ("both accept", "both refuse", "only the checker refuses", "only rdbkit refuses", "sound and loaded", "sound, and the server has it otherwise"):
        print("%6d %s" % (tally.counts[row], row))
        for key, n in sorted(((k, n) for k, n in tally.counts.items() if k[0] == row and isinstance(k, tuple)), key=lambda x: -x[1]):
            data, seed, i, unit, said = tally.samples[key]
            print("       %5d %s: %s\n             --seed %d --only %d, %s type %d: %s" % (n, key[1], key[2], seed, i, os.path.relpath(unit.source, ROOT), unit.kind, said[:200]))
    for row, name in (("only the checker refuses", "rdbkit check refuses what the servers' checkers refuse"),
                      ("only rdbkit refuses", "rdbkit check refuses alone for known reasons only"),
                      ("sound, and the server has it otherwise", "servers load what is sound, and as rdbkit reads it")):
        wrong = ["%s: %s: --seed %d --only %d: %s: %s" % (k[1:] + tally.samples[k][1:3] + (tally.samples[k][4], tally.samples[k][0][:300].hex()))
                 for k in sorted(set(tally.unknown)) if k[0] == row]
        report(name, wrong)
    print("%d files in %.0f s, seed %d" % (len(todo), time.time() - start, o.seed))
    return servers.summary()


if __name__ == "__main__":
    sys.exit(main())
