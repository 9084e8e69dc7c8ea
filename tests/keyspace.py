#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints what a running Redis or Valkey server holds, in a canonical form, to compare two servers.

    keyspace.py PORT [--ttl] [--lru]

One line a key, sorted: database, key, type, then the value in full: lists and streams in order, sets and hashes
sorted, sorted sets by score then member, scores as the shortest decimal that reads back as the same double, streams
with their entries, groups, consumers, pending entries and counters. Bytes outside printable ASCII are written \\xHH.
--ttl adds the absolute expiry in milliseconds (as ~seconds where the server is older than 7.0), and each hash
field's own. Functions are printed as lines of their own. Talks RESP2 over a loopback socket; needs Python alone.
"""
import socket
import sys


class Conn:
    """A connection to a server on this machine: c("GET", "key") asks, c.many([...]) asks a lot at once."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.sock.makefile("rb", 1 << 18)

    def close(self):
        self.file.close()
        self.sock.close()

    @staticmethod
    def encode(args):
        args = [x if isinstance(x, bytes) else str(x).encode() for x in args]
        return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x) for x in args)

    def read(self):
        line = self.file.readline()
        if not line:
            raise EOFError("server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Exception(rest.decode("latin1"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            n = int(rest)
            return None if n < 0 else self.file.read(n + 2)[:-2]
        if kind in b"*%~":
            n = int(rest)
            return None if n < 0 else [self.read() for _ in range(n)]
        raise ValueError(line)

    def __call__(self, *args):
        self.sock.sendall(self.encode(args))
        return self.read()

    def many(self, commands):
        out = []
        for i in range(0, len(commands), 200):
            part = commands[i:i + 200]
            self.sock.sendall(b"".join(self.encode(c) for c in part))
            out += [self.read() for _ in part]
        return out


PLAIN = {c: chr(c) if 32 <= c < 127 and c not in (34, 92) else "\\x%02x" % c for c in range(256)}


def q(x):
    """Bytes in quotes; numbers, nil and errors as they are."""
    if isinstance(x, int):
        return str(x)
    if x is None:
        return "nil"
    if isinstance(x, Exception):
        return "ERR(%s)" % x
    return '"' + "".join(map(PLAIN.__getitem__, x)) + '"'


def number(text):
    x = float(text)
    return "inf" if x == float("inf") else "-inf" if x == float("-inf") else repr(x)


def pairs(flat):
    return list(zip(flat[::2], flat[1::2]))


GETTERS = {
    b"string": lambda k: ("GET", k),
    b"list": lambda k: ("LRANGE", k, 0, -1),
    b"set": lambda k: ("SMEMBERS", k),
    b"zset": lambda k: ("ZRANGE", k, 0, -1, "WITHSCORES"),
    b"hash": lambda k: ("HGETALL", k),
}


def hash_text(c, key, answer, ttl):
    fields, expiry = pairs(answer), {}
    if ttl and fields:
        times = c("HPEXPIRETIME", key, "FIELDS", len(fields), *[f for f, _ in fields])
        if isinstance(times, list):
            expiry = {f: t for (f, _), t in zip(fields, times) if t >= 0}
    return "{" + ",".join(sorted("%s:%s%s" % (q(f), q(v), "@%d" % expiry[f] if f in expiry else "") for f, v in fields)) + "}"


def stream_text(c, key):
    out = [",".join("%s{%s}" % (i.decode(), ",".join("%s=%s" % (q(f), q(v)) for f, v in pairs(fields)))
                    for i, fields in c("XRANGE", key, "-", "+"))]
    info = c("XINFO", "STREAM", key, "FULL", "COUNT", 0)
    full = not isinstance(info, Exception)
    d = dict(pairs(info if full else c("XINFO", "STREAM", key)))
    for f in (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"recorded-first-entry-id"):
        if f in d:
            out.append("%s=%s" % (f.decode(), q(d[f])))
    for g in map(lambda g: dict(pairs(g)), d[b"groups"] if full else c("XINFO", "GROUPS", key)):
        name = g[b"name"]
        text = "group %s last=%s" % (q(name), q(g[b"last-delivered-id"]))
        if b"entries-read" in g:
            text += " read=%s" % q(g[b"entries-read"])
        if full:
            pending = g[b"pending"] if b"pending" in g else g[b"pel"]
            consumers = g[b"consumers"]
        else:
            pending = [(i, owner, 0, n) for i, owner, _, n in c("XPENDING", key, name, "-", "+", 1000000)]
            consumers = c("XINFO", "CONSUMERS", key, name)
        text += " pel=[%s]" % ",".join(sorted("%s/%s/%d" % (i.decode(), q(owner), n) for i, owner, _, n in pending))
        text += " consumers=[%s]" % ",".join(sorted(q(dict(pairs(x))[b"name"]) for x in consumers))
        out.append(text)
    return "<" + " ".join(out) + ">"


def value_text(c, key, kind, answer, ttl):
    if kind == b"string":
        return q(answer)
    if kind == b"list":
        return "[" + ",".join(map(q, answer)) + "]"
    if kind == b"set":
        return "{" + ",".join(sorted(map(q, answer))) + "}"
    if kind == b"zset":
        return "{" + ",".join("%s:%s" % (q(m), number(s)) for s, m in sorted((float(s), m) for m, s in pairs(answer))) + "}"
    if kind == b"hash":
        return hash_text(c, key, answer, ttl)
    if kind == b"stream":
        return stream_text(c, key)
    return "(%s)" % kind.decode()


def expiry_text(c, key, answer):
    """The answer of PEXPIRETIME, or of PTTL where the server has no PEXPIRETIME."""
    if isinstance(answer, Exception):
        left = c("PTTL", key)
        if left < 0:
            return ""
        s, us = c("TIME")
        return " ttl=~%d" % round((int(s) * 1000 + int(us) // 1000 + left) / 1000)
    return "" if answer == -1 else " ttl=%d" % answer


def lines(port, ttl=True, lru=False):
    """All lines of the server on that port."""
    c, out = Conn(port), []
    try:
        functions = c("FUNCTION", "LIST", "WITHCODE")
        if isinstance(functions, list):
            out += ["function " + line for line in sorted(q(dict(pairs(f))[b"library_code"]) for f in functions)]
        keyspace = c("INFO", "keyspace").split()
        for db in sorted(int(x.split(b":")[0][2:]) for x in keyspace if x.startswith(b"db") and b"keys=" in x):
            c("SELECT", db)
            cursor, keys = b"0", set()
            while True:
                cursor, found = c("SCAN", cursor, "COUNT", 1000)
                keys.update(found)
                if cursor == b"0":
                    break
            keys = sorted(keys)
            kinds = c.many([("TYPE", k) for k in keys])
            values = c.many([GETTERS.get(t, lambda k: ("TYPE", k))(k) for k, t in zip(keys, kinds)])
            expiries = c.many([("PEXPIRETIME", k) for k in keys]) if ttl else [-1] * len(keys)
            for k, t, v, e in zip(keys, kinds, values, expiries):
                if t == b"none":
                    continue
                line = "%d %s %s %s" % (db, q(k), t.decode(), value_text(c, k, t, v, ttl)) + expiry_text(c, k, e)
                if lru:
                    line += " freq=%s idle=%s" % (q(c("OBJECT", "FREQ", k)), q(c("OBJECT", "IDLETIME", k)))
                out.append(line)
    finally:
        c.close()
    return out


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    for text in lines(int(sys.argv[1]), "--ttl" in sys.argv, "--lru" in sys.argv):
        print(text)
