#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds `rdbkit convert`, `to-resp --restore` and `filter` against real servers: what was made for one has to arrive in it.

    tests/convert_test.py [--servers DIR] [--oracles DIR] [--corpus DIR] [-k TEXT] [--jobs N]

Options as in server_test.py. The last line is "N passed, N failed, N skipped".

Every file is converted for every server, with and without --reencode, and put in its place as dump.rdb; what the server
then holds, with times of streams, pending entries of deleted messages and idle consumers, has to be what the source
held apart from what compare.py takes away. Beside that: losses are refused and reported by their kinds; the same
comes out twice; the server's own checker says yes; what --reencode writes has the types, the size and after loading
the encodings that the server itself gives; `to-resp --restore` into the server leaves the same keyspace; there and back again is the same; hints survive; filter keeps the bytes of
what it keeps; large collections take little memory.
"""
import glob
import json
import multiprocessing
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import keyspace
import servers
from compare import (LEVELS, PORTABLE, Keyspace, differences, has_counters, has_field_expiry, has_functions, has_streams, losses,
                     number_of)
from servers import RDBKIT, ROOT, Server, rdbkit, report

LINE = "%d %k %t %e %s %c"


def said(p):
    return "exit %d: %s" % (p.returncode, p.stderr.decode(errors="replace")[:500].strip())


def read(path):
    with open(path, "rb") as f:
        return f.read()


def keys_of(path, line=LINE):
    """What `rdbkit keys` says of a file, in order."""
    p = rdbkit("keys", "--format", line, path, stdout=subprocess.PIPE)
    if p.returncode != 0:
        raise RuntimeError("keys %s: %s" % (path, said(p)))
    return p.stdout.decode().splitlines()


# ---- Servers ---------------------------------------------------------------------------------------------------------

def start(release, programs, *more):
    n = number_of(release)
    settings = ["--enable-debug-command", "yes"] if n >= 7 else []
    settings += ["--sanitize-dump-payload", "yes"] if n >= 6.2 else []
    return Server(release, programs, *settings, *more)


def load(server):
    """Has the server take its dump.rdb."""
    if number_of(server.release) >= 6:
        try:
            answer = server.conn("DEBUG", "RELOAD", "NOSAVE")
            if answer == b"OK":
                return
            raise RuntimeError("%s: %s: %s" % (server.release, answer, server.last_words()))
        except (EOFError, OSError):
            server.process.wait(20)
            raise RuntimeError("%s dies of it: %s" % (server.release, server.last_words())) from None
    server.restart()


def revive(server):
    if server.process.poll() is not None:
        path = os.path.join(server.dir, "dump.rdb")
        if os.path.exists(path):
            os.unlink(path)
        server.start()


def databases(server):
    return [int(x.split(b":")[0][2:]) for x in server.ask("INFO", "keyspace").split() if x.startswith(b"db") and b"keys=" in x]


def each_key(server, ask, kind=None):
    """{(db, key): answer} to ask(key) of all keys, or those of one type."""
    out = {}
    for db in databases(server):
        server.ask("SELECT", db)
        keys = server.ask("KEYS", "*")
        if kind:
            keys = [k for k, t in zip(keys, server.conn.many([("TYPE", k) for k in keys])) if t == kind]
        out.update(zip([(db, k) for k in keys], server.conn.many([ask(k) for k in keys])))
    return out


def stream_times(server):
    """{(db, key): [(group, consumers, pending)]} with the times that keyspace.py leaves out; None before 6.0."""
    if number_of(server.release) < 6:
        return None
    out, fields = {}, lambda x: dict(keyspace.pairs(x))
    for (db, key), info in each_key(server, lambda k: ("XINFO", "STREAM", k, "FULL", "COUNT", 0), b"stream").items():
        groups = []
        for g in map(fields, fields(info)[b"groups"]):
            consumers = sorted((c[b"name"], c[b"seen-time"], c.get(b"active-time", c[b"seen-time"])) for c in map(fields, g[b"consumers"]))
            groups.append((g[b"name"], consumers, sorted(tuple(p) for p in g.get(b"pending", g.get(b"pel")))))
        out[db, '"' + "".join(map(keyspace.PLAIN.__getitem__, key)) + '"'] = groups
    return out


def golden_times(path):
    """The same of a golden text beside a fixture."""
    out, word = {}, re.compile(r'"[^"]*"|[^ ]+')
    number = lambda o, name: int(o[name])
    raw = lambda s: re.sub(rb"\\x(..)", lambda m: bytes([int(m[1], 16)]), s[1:-1].encode())
    for line in open(path, encoding="utf-8"):
        w = word.findall(line.rstrip("\n"))
        o = dict(x.split("=", 1) for x in w[1:] if "=" in x and x[0] != '"')
        if w[0] == "key" and w[3].startswith("stream"):
            groups = out[int(w[1]), w[2]] = []
        elif w[0] == "group":
            groups.append((raw(w[1]), [], []))
        elif w[0] == "consumer":
            groups[-1][1].append((raw(w[1]), number(o, "seen"), number(o, "active")))
        elif w[0] == "pending":
            groups[-1][2].append((w[1].encode(), groups[-1][1][-1][0], number(o, "delivered"), number(o, "count")))
    return {k: [(n, sorted(c), sorted(p)) for n, c, p in g] for k, g in out.items()}


def times_differ(source, target, release):
    """source, target: of stream_times()."""
    out = []
    for key, groups in source.items() if has_streams(release) else ():
        want = [(n, [(c, seen, active if number_of(release) >= 7.2 else seen) for c, seen, active in cs], p) for n, cs, p in groups]
        if key in target and want != target[key]:
            out.append("times of %s: %s instead of %s" % (key, target[key], want))
    return out


# ---- One file into one server ----------------------------------------------------------------------------------------

def prepare(source):
    """What more than server_test.py is wanted of a source."""
    if not hasattr(source, "times"):
        golden = source.path[:-4] + ".events"
        source.times = golden_times(golden) if os.path.exists(golden) else None
    source.flags = ["--drop-modules"] if any(x.kind not in PORTABLE for x in source.holds.keys.values()) or "module" in source.name else []
    source.compared = {}
    return source


def expected_losses(source, release):
    """(kinds that have to be lost, kinds that may be lost)"""
    lost = losses(source.holds, release) - {"module"}
    perhaps = set()
    if has_streams(release) and number_of(release) < 7.2:
        if source.times is None:
            perhaps.add("active-time")
        elif any(seen != active for groups in source.times.values() for _, consumers, _ in groups for _, seen, active in consumers):
            lost.add("active-time")
    return lost, lost | perhaps


def convert(source, release, path, *options):
    return rdbkit("convert", source.path, "--to", release, "-o", path, "--force", *source.flags, *options)


def try_refusal(source, release, folder):
    """Whether what is lost is refused. (complaints, whether --allow-loss is needed)"""
    out, path, losses_path = [], os.path.join(folder, "refused.rdb"), os.path.join(folder, "losses")
    has_to, may = expected_losses(source, release)
    p = convert(source, release, path, "--loss-report", losses_path)
    rows = [json.loads(x) for x in read(losses_path).splitlines()] if os.path.exists(losses_path) else []
    lost = {r["kind"] for r in rows if not r["note"]}
    if p.returncode not in (0, 5) or (p.returncode == 5) != bool(lost) or not has_to <= lost <= may:
        out.append("without --allow-loss: lost: %s, expected: %s; %s" % (sorted(lost), sorted(has_to), said(p)))
    if p.returncode == 5 and [x for x in os.listdir(folder) if "refused" in x]:
        out.append("refused, and there is %s" % os.listdir(folder))
    if p.returncode == 0:
        os.unlink(path)
    if os.path.exists(losses_path):
        os.unlink(losses_path)
    return out, p.returncode == 5


def compare_with(source, server, small):
    """What the server holds against the source; the same comparison is not done twice."""
    release = server.release
    lines = keyspace.lines(server.port) if small else server.lines()
    key = (hash(tuple(lines)), has_streams(release), has_counters(release), has_functions(release), has_field_expiry(release))
    if key not in source.compared:
        source.compared[key] = differences(source.holds, Keyspace(lines), release, exact=True)
    return source.compared[key]


def checker_says(server, path):
    checker = os.path.join(os.path.dirname(server.programs["server"]), "check-rdb")
    if not os.access(checker, os.X_OK):
        return []
    name = server.release.split("-")[0] + "-check-rdb"  # a build has it as the server under another name, and goes by that
    p = subprocess.run([name, path], executable=checker, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    text = p.stdout.decode(errors="replace")
    return [] if p.returncode == 0 and "looks OK" in text else ["%s's checker: exit %d: %s" % (server.release, p.returncode, text[-400:])]


def try_own_form(server, path, default_size):
    """What --reencode wrote, beside what the server itself makes of it."""
    out = []
    ours, size = keys_of(path, "%d %k %c"), os.path.getsize(path)
    before = each_key(server, lambda k: ("OBJECT", "ENCODING", k))
    server.ask("DEBUG", "RELOAD")
    after = each_key(server, lambda k: ("OBJECT", "ENCODING", k))
    changed = [(k, before[k], after.get(k)) for k in before if before[k] != after.get(k)]
    if changed:
        out.append("%d keys change their encoding, %s" % (len(changed), changed[:3]))
    theirs, want = keys_of(path, "%d %k %c"), os.path.getsize(path)
    held = {x.rsplit(" ", 1)[0] for x in theirs}
    other = sorted({x for x in ours if x.rsplit(" ", 1)[0] in held} ^ set(theirs))
    if other:
        out.append("%d types differ from the server's own: %s" % (len(other) // 2, [(x, "ours" if x in set(ours) else "theirs") for x in other[:6]]))
    if default_size and abs(size - want) > .02 * want:
        out.append("%d bytes, the server writes %d" % (size, want))
    return out


def try_pair(source, server, small=False):
    """One file into one server. Returns complaints."""
    release, path, folder = server.release, os.path.join(server.dir, "dump.rdb"), os.path.join(server.dir, "out")
    os.makedirs(folder, exist_ok=True)
    out, lossy = try_refusal(source, release, folder)
    loss = ["--allow-loss"] if lossy else []
    for reencode in ([], ["--reencode"]):
        where = "".join(reencode) + ": " if reencode else ""
        p = convert(source, release, path, *loss, *reencode)
        if p.returncode != 0:
            out.append(where + said(p))
            continue
        again = os.path.join(folder, "again.rdb")
        if not small:
            convert(source, release, again, *loss, *reencode)
            if read(again) != read(path):
                out.append(where + "the second time other bytes come out")
        p = rdbkit("convert", path, "--to", release, "-o", again, "--force", *reencode)
        if p.returncode != 0 or read(again) != read(path):
            out.append(where + "converting what came out for the same server once more: " + (said(p) if p.returncode else "other bytes"))
        out += [where + x for x in checker_says(server, path)]
        try:
            load(server)
            out += [where + x for x in compare_with(source, server, small)]
            times = stream_times(server)
            if source.times is not None and times is not None:
                out += [where + x for x in times_differ(source.times, times, release)]
            if reencode:
                out += [where + x for x in try_own_form(server, path, not small)]
        except Exception as e:
            out.append("%s%s: %s" % (where, type(e).__name__, e))
            revive(server)
    return out


def try_restore(source, server, small=False):
    """The same as try_pair() by RESTORE: what the server then holds, and what it is refused for."""
    release, report_path, out = server.release, os.path.join(server.dir, "lost"), []
    has_to, may = expected_losses(source, release)
    command = ["to-resp", source.path, "--restore", "--to", release, *source.flags, "--loss-report", report_path, "--force"]
    p = rdbkit(*command, stdout=subprocess.PIPE)
    lost = {r["kind"] for r in map(json.loads, read(report_path).splitlines()) if not r["note"]}
    if p.returncode != (5 if lost else 0) or not has_to <= lost <= may:
        out.append("without --allow-loss: lost: %s, expected: %s; %s" % (sorted(lost), sorted(has_to), said(p)))
    if p.returncode == 5 and p.stdout:
        out.append("refused, and %d bytes were written before" % len(p.stdout))
    if lost:
        p = rdbkit(*command, "--allow-loss", stdout=subprocess.PIPE)
    if p.returncode != 0:
        return out + ["--allow-loss: " + said(p)]
    server.empty()
    complaint = server.pipe(p.stdout)
    if complaint:
        return out + [complaint]
    out += compare_with(source, server, small)
    times = stream_times(server)
    if source.times is not None and times is not None:
        out += times_differ(source.times, times, release)
    return out


# ---- There and back --------------------------------------------------------------------------------------------------

def try_back(source, home, release, through):
    """From its own server through another one's form and back; what the other cannot hold stays at home."""
    lost, _ = expected_losses(source, through)
    stay = (["-T", "stream"] if lost & {"stream", "stream-counters", "active-time"} else []) + \
        (["-K", "*hfe:*"] if "field-expiry" in lost else []) + (["--drop-functions"] if "function" in lost else [])
    there, back = os.path.join(home.dir, "there.rdb"), os.path.join(home.dir, "dump.rdb")
    p = rdbkit("convert", source.path, "--to", through, "-o", there, "--force", "--reencode", *stay)
    if p.returncode != 0:
        return ["there: " + said(p)]
    p = rdbkit("convert", there, "--to", release, "-o", back, "--force")
    if p.returncode != 0:
        return ["back: " + said(p)]
    want = Keyspace([])
    want.functions = [] if "--drop-functions" in stay else source.holds.functions
    want.keys = {k: x for k, x in source.holds.keys.items()
                 if not ("-T" in stay and x.kind == "stream") and not ("-K" in stay and "hfe:" in x.name)}
    load(home)
    return differences(want, Keyspace(home.lines()), release, exact=True)


# ---- Hints -----------------------------------------------------------------------------------------------------------

def try_hints(path, server):
    """Frequencies or idle times of a fixture, as its golden text has them."""
    kind, command, policy = ("freq", "FREQ", "allkeys-lfu") if "freq" in path else ("idle", "IDLETIME", "allkeys-lru")
    want = {m[1].encode(): int(m[2]) for m in re.finditer(r'^key 0 "(\w+)" .* %s=(\d+)' % kind, open(path[:-4] + ".events").read(), re.M)}
    if not want:
        return ["no hints in %s" % path]
    out = []
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    server.settings += ["--maxmemory-policy", policy]  # for load() by a new start
    try:
        for reencode in ([], ["--reencode"]):
            p = rdbkit("convert", path, "--to", server.release, "-o", os.path.join(server.dir, "dump.rdb"), "--force", *reencode)
            if p.returncode:
                return [said(p)]
            load(server)
            server.ask("SELECT", 0)
            for key, n in want.items():
                got = server.ask("OBJECT", command, key)
                if abs(got - n) > (0 if kind == "freq" else 15):
                    out.append("%s%s %s is %s instead of %d" % (reencode, kind, key, got, n))
    finally:
        del server.settings[-2:]
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    return out


# ---- Collections made here -------------------------------------------------------------------------------------------

def put_len(n):
    """A length as RDB has it."""
    return bytes([n]) if n < 64 else struct.pack(">H", n | 0x4000) if n < 16384 else b"\x80" + struct.pack(">I", n)


def put_str(s):
    return put_len(len(s)) + s


def write_large(path, n, kinds="hszl"):
    """An RDB file (of version 9, no checksum) with large plain collections."""
    r = random.Random(7)
    with open(path, "wb") as f:
        f.write(b"REDIS0009\xfe\x00")
        if "h" in kinds:
            f.write(b"\x04" + put_str(b"hash") + put_len(n))
            for i in range(n):
                f.write(put_str(b"field:%07d" % i) + put_str(b"v%d" % r.randrange(10**9)))
        if "s" in kinds:
            f.write(b"\x02" + put_str(b"set") + put_len(n))
            for i in range(n):
                f.write(put_str(b"%d" % (i * 3) if i % 2 else b"member:%07d" % i))
        if "z" in kinds:
            f.write(b"\x05" + put_str(b"zset") + put_len(n))
            for i in range(n):
                f.write(put_str(b"member:%07d" % i) + struct.pack("<d", r.choice((i, r.uniform(-1e9, 1e9), i / 7))))
        if "l" in kinds:
            f.write(b"\x01" + put_str(b"list") + put_len(n))
            for i in range(n):
                f.write(put_str(r.choice((b"%d" % i, b"item:%d" % r.randrange(10**9), b"x" * (i % 300)))))
        f.write(b"\xff" + bytes(8))


def write_borders(path):
    """Plain collections on both sides of every limit at which a server packs them."""
    f8 = lambda x: struct.pack("<d", x)
    out = [b"REDIS0009\xfe\x00"]

    def key(kind, name, n, parts):
        out.extend([bytes([kind]), put_str(name.encode()), put_len(n), b"".join(parts)])

    for n in (511, 512, 513):
        for v in (64, 65):
            key(4, "hash:%d:%d" % (n, v), n, [put_str(b"f%d" % i) + put_str(b"x" * (v if i == n // 2 else 3)) for i in range(n)])
            key(4, "hashf:%d:%d" % (n, v), n, [put_str(b"f%d" % i if i != n // 2 else b"y" * v) + put_str(b"v") for i in range(n)])
        key(2, "ints:%d" % n, n, [put_str(b"%d" % (i - 7)) for i in range(n)])
        key(2, "intsandone:%d" % n, n, [put_str(b"%d" % (i - 7) if i else b"x") for i in range(n)])
    for n in (127, 128, 129):
        for v in (64, 65):
            key(2, "set:%d:%d" % (n, v), n, [put_str(b"m%d" % i if i != n // 2 else b"z" * v) for i in range(n)])
            key(5, "zset:%d:%d" % (n, v), n, [put_str(b"m%d" % i if i != n // 2 else b"z" * v) + f8(i * 1.5 if i % 2 else -i) for i in range(n)])
        key(2, "intsfirst:%d" % n, n, [put_str(b"%d" % i if i < n - 1 else b"a") for i in range(n)])
        key(2, "intslast:%d" % n, n, [put_str(b"%d" % i if i else b"a") for i in range(n)])
    for i, x in enumerate((0.0, -0.0, 2.0**52, 2.0**53, 2.0**62, 2.0**62 + 1024, -2.0**63, 2.0**63, 1e16, 1e17, 1e19, 123456789012345680.0,
                           0.1, 1 / 3, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), 2.0**52 + 1, -2.0**52 - 1)):
        key(5, "score:%d" % i, 1, [put_str(b"m") + f8(x)])
    for n in (4095, 4096, 8180, 8185, 8190, 8191, 8192, 8193, 8200, 16378, 16379, 20000):
        key(1, "list:%d" % n, 5, [put_str(x) for x in (b"a", b"b", bytes((i * 7919 >> 3) % 251 for i in range(n)), b"c", b"12")])
        key(1, "nodes:%d" % n, 9, [put_str(b"q" * (n // 2 - 3 + i)) for i in range(9)])
    out.append(b"\xff" + bytes(8))
    with open(path, "wb") as f:
        f.write(b"".join(out))


def digests(path, server, ways):
    """The dump made in each of the ways, loaded: what is wrong with it, or with the digests, which have to be one."""
    found, dump = [], os.path.join(server.dir, "dump.rdb")
    for options in ways:
        p = rdbkit("convert", path, "--to", server.release, "-o", dump, "--force", *options)
        if p.returncode:
            return None, ["%s: %s" % (options, said(p))]
        load(server)
        found.append(server.ask("DEBUG", "DIGEST"))
    return dump, [] if len(set(found)) == 1 else ["digests %s" % found]


def try_borders(path, server):
    """Encoded anew it has to be the same data, and what the server itself would have written."""
    dump, out = digests(path, server, ([], ["--reencode"]))
    return out if dump is None else out + checker_says(server, dump) + try_own_form(server, dump, True)


def try_large(path, server):
    """A file that every server loads: as it is, and encoded anew, it has to have the same digest."""
    dump, out = digests(path, server, ([], ["--reencode"], ["--reencode", "--no-compress"]))
    if dump is not None:
        os.unlink(dump)
    return out


# A program counts the memory of the one that started it as its own peak: so a small one starts it.
MEASURE = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def try_memory(kind, n, release, folder):
    path, to = os.path.join(folder, "large.%s.rdb" % kind), os.path.join(folder, "large.out")
    if not os.path.exists(path):
        write_large(path, n, kind)
    p = subprocess.run([sys.executable, "-S", "-E", "-c", MEASURE, RDBKIT, "convert", path, "--to", release, "--reencode", "-o", to,
                        "--force"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    words = p.stdout.split()
    if len(words) != 2 or words[0] != b"0":
        return [p.stdout.decode(errors="replace")[:300]]
    peak = int(words[1]) * (1 if sys.platform == "darwin" else 1024)
    return ["%d bytes" % peak] if peak >= 16 << 20 else []


# ---- Filter ----------------------------------------------------------------------------------------------------------

CHOICES = {  # options: whether (db, key as it is printed, type, expiry) stays
    (): lambda d, k, t, e: True,
    ("-k", "*s*"): lambda d, k, t, e: fnmatchcase(k, "*s*"),
    ("-k", "h*", "-k", "*:1*"): lambda d, k, t, e: fnmatchcase(k, "h*") or fnmatchcase(k, "*:1*"),
    ("-K", "*:*"): lambda d, k, t, e: not fnmatchcase(k, "*:*"),
    ("-t", "hash,zset"): lambda d, k, t, e: t in ("hash", "zset"),
    ("-T", "string"): lambda d, k, t, e: t != "string",
    ("-d", "0"): lambda d, k, t, e: d == 0,
    ("-D", "0"): lambda d, k, t, e: d != 0,
    ("--has-ttl",): lambda d, k, t, e: e != -1,
    ("--no-ttl", "-t", "list,set"): lambda d, k, t, e: e == -1 and t in ("list", "set"),
    ("--no-expired", "--now", "1700000000000"): lambda d, k, t, e: e == -1 or e >= 1700000000000,
    ("--regex", "-k", "^[a-z]+:.*1"): lambda d, k, t, e: bool(re.search("^[a-z]+:.*1", k)),
}
KEY_LINE = re.compile(r'(\d+) "(.*)" (\w+) (-?\d+) (\d+) (\S+)$')


def try_filter(path, folder, choices):
    """All choices on one file."""
    out, to = [], os.path.join(folder, "filtered.rdb")
    lines = keys_of(path)
    rows = [KEY_LINE.match(x) for x in lines]
    for options, stays in choices.items():
        p = rdbkit("filter", path, "-o", to, "--force", *options)
        if p.returncode != 0:
            out.append("%s: %s" % (" ".join(options), said(p)))
            continue
        want = [x[0] for x in rows if stays(int(x[1]), x[2], x[3], int(x[4]))]
        got = keys_of(to)
        if got != want:
            out.append("%s: %d keys instead of %d, %s" % (" ".join(options), len(got), len(want), sorted(set(got) ^ set(want))[:4]))
        p = rdbkit("check", to, stdout=subprocess.PIPE)
        if p.returncode != 0:
            out.append("%s: check: %s" % (" ".join(options), p.stdout.decode()[:300]))
        if read(to)[:9] != read(path)[:9]:
            out.append("%s: another version: %s" % (" ".join(options), read(to)[:9]))
    for n in (0, 1, 3):
        p = rdbkit("filter", path, "-o", to, "--force", "--limit", str(n))
        if p.returncode == 0 and keys_of(to) != lines[:n]:
            out.append("--limit %d: %s" % (n, keys_of(to)))
    return out


# ---- Runs ------------------------------------------------------------------------------------------------------------

def small_sources():
    out = []
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "*.rdb"))):
        if os.path.exists(path[:-4] + ".keys") and os.path.basename(path) != "everything.rdb":
            out.append(prepare(servers.file_source(os.path.relpath(path, ROOT), path)))
    return out


def target_tests(release, server, sources, small, large):
    """All that is asked of one server: (name, function, arguments)"""
    for source in small:
        yield "%s converted for %s" % (source.name, release), try_pair, source, server, True
        yield "%s restored into %s" % (source.name, release), try_restore, source, server, True
    for source in sources:
        yield "%s converted for %s" % (source.name, release), try_pair, source, server
        yield "%s restored into %s" % (source.name, release), try_restore, source, server
        if source.name == "mix of " + release:
            for through in LEVELS:
                if through != release:
                    yield "%s to %s and back" % (source.name, through), try_back, source, server, release, through
    for name in ("freq_249.rdb", "idle_248.rdb") if number_of(release) >= 5 else ():
        for path in glob.glob(os.path.join(ROOT, "fixtures", "*", name)):
            yield "hints of %s for %s" % (os.path.relpath(path, ROOT), release), try_hints, path, server
    yield "large collections for %s" % release, try_large, large, server
    yield "collections at the limits for %s" % release, try_borders, large + ".borders", server


def filter_tests(paths, folder):
    """No server is needed but for the files of some."""
    for path in paths:
        name = os.path.relpath(path, ROOT) if path.startswith(ROOT) else os.path.basename(path)
        choices = CHOICES if os.path.getsize(path) > 3000 else {k: CHOICES[k] for k in ((), ("-k", "*s*"))}
        yield "filter of %s" % name, try_filter, path, folder, choices


def memory_tests(folder):
    for kind, n in (("h", 2000000), ("s", 400000), ("z", 400000), ("l", 400000)):
        for release in ("redis-4.0", "valkey-8.1"):
            yield "%d elements of a large %s for %s in little memory" % (n, kind, release), try_memory, kind, n, release, folder


def attempt(tests, only, server=None):
    """[(name, complaints)]"""
    out = []
    for name, function, *args in tests:
        if only not in name:
            continue
        try:
            if server:
                revive(server)
            out.append((name, function(*args)))
        except Exception as e:
            out.append((name, ["%s: %s" % (type(e).__name__, e)]))
    return out


shared = {}  # what the processes of a run inherit


def run_target(release, turn):
    servers.ports = iter(range(30000 + os.getpid() % 7000 + 500 * turn, 50000))
    try:
        server = start(release, shared["found"][release])
    except Exception as e:
        return [("%s starts" % release, [str(e)])]
    try:
        return attempt(target_tests(release, server, shared["sources"], shared["small"], shared["large"]), shared["only"], server)
    finally:
        server.stop()


def run_rest(turn):
    with tempfile.TemporaryDirectory(dir=servers.work, prefix="rdbkit-convert.") as folder:
        paths = [x for x in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "*.rdb"))) if "/bad/" not in x]
        paths += [x.path for x in shared["sources"] if x.name.startswith("mix of")]
        tests = list(filter_tests(paths, folder)) + ([] if os.environ.get("SANITIZED") else list(memory_tests(folder)))
        return attempt(tests, shared["only"])


def main():
    o = servers.options(__doc__).parse_args()
    found = servers.start(o)
    begun = time.time()
    shared.update(found=found, only=o.k, sources=[], small=[])
    if found:
        servers.extras.append(lambda server, source: setattr(source, "times", stream_times(server)))
        with ThreadPoolExecutor(o.jobs) as pool:
            shared["sources"] = [prepare(s) for s in servers.sources(o, found, pool)]
        shared["small"] = small_sources()
        shared["large"] = os.path.join(servers.work, "large.rdb")
        write_large(shared["large"], 120000)
        write_borders(shared["large"] + ".borders")
    with ProcessPoolExecutor(o.jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        jobs = [pool.submit(run_target, r, i) for i, r in enumerate(r for r in LEVELS if r in found)]
        jobs.append(pool.submit(run_rest, 0))
        for job in as_completed(jobs):
            for name, complaints in job.result():
                report(name, complaints)
    print("took %.0f s" % (time.time() - begun))


if __name__ == "__main__":
    main()
    sys.exit(servers.summary())
