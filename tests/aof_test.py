#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds rdbkit to what real servers do with append-only files: replay, writing, check and repair.

    tests/aof_test.py [--servers DIR] [--oracles DIR] [--corpus DIR] [-k TEXT] [--jobs N] [--seeds N] [--count N]

Options as in server_test.py. --seeds, --count: how many files of how many commands each server writes in each manner.
The last line is "N passed, N failed, N skipped".

Without servers: fixtures/aof holds what the server that wrote it held; files are cut at every byte of their last
kilobyte, beside a small reader of our own (aofs.py) that says where they are still good; damaged manifests, records,
transactions and hostile numbers. With servers: each writes files of random commands (gencmds.py) and says after
loading them again what is in them; rdbkit converts the same files, and the server has to hold the same after loading
the result. What rdbkit writes as append-only file has to be loaded by its target and pass its checker.
"""
import glob
import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import aofs
import gencmds
import rdb
import servers
from aofs import NAME, AofServer, RdbServer, Walk, multi_part, read, write
from compare import LEVELS, PORTABLE, Keyspace, differences, has_counters, has_field_expiry, losses, number_of
from gencmds import encode
from keyspace import PLAIN, number
from servers import ROOT, Server, rdbkit, report, skip

SANITIZED = bool(os.environ.get("SANITIZED"))
STEP = 13 if SANITIZED else 1  # of the cuts
tests = []


def test(function):
    tests.append(function)
    return function


def said(p):
    return "exit %d: %s" % (p.returncode, " / ".join((p.stderr or b"").decode(errors="replace")[:500].split("\n")).strip(" /"))


def ran(*args, code=0, **how):
    """Runs rdbkit; (output, complaints)."""
    p = rdbkit(*args, stdout=subprocess.PIPE, **how)
    codes = code if isinstance(code, tuple) else (code,)
    wrong = [] if p.returncode in codes else ["rdbkit %s: exit %s wanted, %s" % (" ".join(args)[-200:], codes, said(p))]
    if p.returncode >= 2 and not p.stderr.startswith(b"rdbkit: "):
        wrong.append("the message does not begin with rdbkit: %s" % said(p))
    if p.returncode < 0:
        wrong = ["rdbkit %s: died of signal %d: %s" % (" ".join(args)[-200:], -p.returncode, said(p))]
    return p.stdout, p.stderr.decode(errors="replace"), wrong


# ---- What rdbkit says is in a file, in the words of keyspace.py ------------------------------------------------------

def quoted(text):
    """A string of to-json."""
    data = b64decode(text[7:]) if text.startswith("base64:") else (text[5:] if text.startswith("utf8:") else text).encode()
    return '"' + "".join(map(PLAIN.__getitem__, data)) + '"'


def stream_line(s, counters):
    out = [",".join("%s{%s}" % (e["id"], ",".join("%s=%s" % (quoted(f), quoted(v)) for f, v in e["fields"])) for e in s["entries"])]
    out += ["length=%d" % s["length"], 'last-generated-id="%s"' % s["last_id"]]
    if counters:
        out += ['max-deleted-entry-id="%s"' % s["max_deleted"], "entries-added=%d" % s["entries_added"],
                'recorded-first-entry-id="%s"' % s["first_id"]]
    for g in s["groups"]:
        text = 'group %s last="%s"' % (quoted(g["name"]), g["last_id"])
        if counters:
            text += " read=%s" % ("nil" if g["entries_read"] is None else g["entries_read"])
        pel = sorted("%s/%s/%d" % (i, quoted(c["name"]), n) for c in g["consumers"] for i, _, n in c["pending"])
        out.append("%s pel=[%s] consumers=[%s]" % (text, ",".join(pel), ",".join(sorted(quoted(c["name"]) for c in g["consumers"]))))
    return "<" + " ".join(out) + ">"


def line_of(r, counters):
    kind, v = r["type"], r["value"]
    if kind == "string":
        text = quoted(v)
    elif kind == "list":
        text = "[" + ",".join(map(quoted, v)) + "]"
    elif kind == "set":
        text = "{" + ",".join(sorted(map(quoted, v))) + "}"
    elif kind == "zset":
        rows = sorted((float(s), quoted(m)) for m, s in v)
        rows.sort(key=lambda x: (x[0], bytes.fromhex("".join(re.sub(r"(\\x(..))|(.)", lambda c: c[2] or "%02x" % ord(c[3]), x[1][1:-1])))))
        text = "{" + ",".join("%s:%s" % (m, number(s)) for s, m in rows) + "}"
    elif kind == "hash":
        expire = {quoted(f): ms for f, ms in (r["field_expire_ms"].items() if isinstance(r.get("field_expire_ms"), dict)
                                              else r.get("field_expire_ms", ()))}
        fields = v.items() if isinstance(v, dict) else v
        text = "{" + ",".join(sorted("%s:%s%s" % (quoted(f), quoted(x), "@%d" % expire[quoted(f)] if quoted(f) in expire else "")
                                     for f, x in fields)) + "}"
    elif kind == "stream":
        text = stream_line(v, counters)
    else:
        text = "(%s)" % kind
    ttl = " ttl=%d" % r["expire_ms"] if "expire_ms" in r else ""
    return "%d %s %s %s%s" % (r["db"], quoted(r["key"]), kind, text, ttl)


def contents(path, release, *options):
    """Lines of a file of any kind, through to-json."""
    p = rdbkit("to-json", "--lines", *options, path, stdout=subprocess.PIPE)
    if p.returncode != 0:
        raise RuntimeError("to-json %s: %s" % (path, said(p)))
    out, counters = [], has_counters(release)
    for text in p.stdout.decode().splitlines():
        r = json.loads(text)
        if "function" in r:
            out.append("function " + quoted(r["function"]))
        elif "key" in r:
            out.append(line_of(r, counters))
    return out


HLL = re.compile(r'"HYLL((?:\\x..|[^"\\]){4})(?:\\x..|[^"\\]){8}')


def keyspace_of(lines, release):
    """Before 5.0 the cached count of a HyperLogLog is another estimate: it is left out."""
    if number_of(release) < 5:
        lines = [HLL.sub(r'"HYLL\1COUNTED.', x) for x in lines]
    return Keyspace(lines)


def alive(path, release):
    """What a file holds for a server that loads it today."""
    out = keyspace_of(contents(path, release), release)
    out.keys = {k: x for k, x in out.keys.items() if x.ttl is None or x.ttl > time.time() * 1000}
    return out


def nameless(keyspace):
    """Before 6.2 no command makes a consumer that has nothing pending."""
    for line in keyspace.keys.values():
        for g in line.value.groups if line.kind == "stream" else ():
            g["consumers"] = ""


def keys_in(path):
    """Lines of a .keys file, or one in gzip."""
    with (gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")) as f:
        return f.read().splitlines()


# ---- Without servers: fixtures ---------------------------------------------------------------------------------------

def fixtures():
    """(release, path, path of the .keys)"""
    out = []
    for release in LEVELS:
        for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "aof", release, "*.aof*"))):
            out.append((release, path, re.sub(r"\.aof(\.gz|dir)?$", ".keys.gz", path)))
    return out


def work(name):
    return os.path.join(tempfile.mkdtemp(dir=servers.work), name)


def unpacked(path):
    """A fixture as the server had it."""
    if not path.endswith(".gz"):
        return path
    return write(work(NAME), gzip.open(path).read())


def try_fixture(release, path, keys):
    want = keyspace_of(keys_in(keys), release)
    rdb = work("out.rdb")
    _, _, out = ran("check", path)
    _, err, wrong = ran("convert", path, "--to", release, "-o", rdb)
    if wrong:
        return out + wrong
    out += ["converted: " + d for d in differences(want, alive(rdb, release), release, exact=True)]
    # nothing in such a file says that it is older than 6.0, and BITFIELD saturated otherwise then; --to says it above
    out += ["directly: " + d for d in differences(want, alive(path, release), release, exact=True) if number_of(release) >= 6 or 'key "bits:' not in d]
    listed, _, wrong = ran("keys", "--format", "%d %k", path)
    n, there = len(listed.splitlines()), len(Keyspace(contents(path, release)).keys)
    if not wrong and n != there:
        wrong.append("keys lists %d keys, there are %d" % (n, there))
    out += wrong
    text, _, wrong = ran("info", "--json", path)
    out += wrong
    if not wrong:
        json.loads(text)
    return out


def try_fixture_written(release, path, keys, folder):
    """As append-only file again, in both manners, and back."""
    out, want = [], keyspace_of(keys_in(keys), release)
    for options in ([], ["--no-preamble"]):
        to = os.path.join(folder, "written" + "".join(options))
        _, _, wrong = ran("convert", path, "--format", "aof", "--to", release, *options, "-o", to)
        out += wrong
        if wrong:
            continue
        if os.path.isdir(to) != multi_part(release):
            out.append("%s: %s is %sa folder" % (options, to, "" if os.path.isdir(to) else "not "))
            continue
        if os.path.isdir(to):
            names = sorted(os.listdir(to))
            if names != ["appendonly.aof.1.base." + ("aof" if options else "rdb"), "appendonly.aof.1.incr.aof", "appendonly.aof.manifest"]:
                out.append("%s: the folder has %s" % (options, names))
        elif options and read(to)[:1] != b"*" or not options and read(to)[:5] != b"REDIS" and release != "redis-4.0":  # by default it has none
            out.append("%s: the file begins with %r" % (options, read(to)[:9]))
        out += ran("check", to)[2]
        got = alive(to, release)
        if options and number_of(release) < 6.2:
            nameless(want), nameless(got)
        out += ["%s: %s" % (options, d) for d in differences(want, got, release, exact=not options)]
    return out


@test
def fixtures_hold_what_the_server_held():
    for release, path, keys in fixtures():
        yield "%s %s" % (release, os.path.basename(path)), lambda: try_fixture(release, path, keys)


@test
def fixtures_written_again_hold_the_same():
    for release, path, keys in fixtures():
        yield "%s %s" % (release, os.path.basename(path)), lambda: try_fixture_written(release, path, keys, tempfile.mkdtemp(dir=servers.work))


@test
def filters_and_transforms_work_on_append_only_files():
    def same(path, release, options, keep):
        want = sorted(x for x in contents(path, release) if keep(x))
        got = sorted(contents(path, release, *options))
        return [] if got == want else ["%s: %d lines, %d wanted; %s" % (options, len(got), len(want), sorted(set(got) ^ set(want))[:2])]

    def one(release, path):
        key = lambda x: not x.startswith("function ")
        out = same(path, release, ["-k", "str:*"], lambda x: x.startswith("function ") or x.split(" ")[1].startswith('"str:'))
        out += same(path, release, ["-t", "hash,zset"], lambda x: x.startswith("function ") or x.split(" ")[2] in ("hash", "zset"))
        out += same(path, release, ["-d", "1"], lambda x: x.startswith("function ") or x.startswith("1 "))
        out += same(path, release, ["--has-ttl"], lambda x: x.startswith("function ") or re.search(r" ttl=\d+$", x))
        got = [x for x in contents(path, release, "--strip-ttl") if key(x)]
        if not got or [x for x in got if re.search(r" ttl=\d+$", x)]:
            out.append("--strip-ttl: %d keys, some with a ttl" % len(got))
        got = [x for x in contents(path, release, "--map-db", "0:7") if key(x)]
        if not got or [x for x in got if x.startswith("0 ")]:
            out.append("--map-db 0:7: keys in 0 are left")
        return out

    for release, path, _ in fixtures():
        if "log" in path:
            yield "%s %s" % (release, os.path.basename(path)), lambda: one(release, path)


@test
def every_way_to_name_a_file_gives_the_same():
    """The folder, the manifest, each file in gzip, standard input."""
    def one(release, path):
        out, plain = [], contents(unpacked(path), release)
        ways = {}
        if os.path.isdir(path):
            ways["manifest"] = aofs.manifest_of(path)
            zipped = work("zipped")
            shutil.copytree(path, zipped)
            for _, part in aofs.parts_of(zipped):
                write(part, gzip.compress(read(part)))
            ways["files in gzip"] = zipped
        else:
            ways["in gzip"] = path
        for name, way in ways.items():
            if contents(way, release) != plain:
                out.append("%s: something else" % name)
        if not os.path.isdir(path):
            p = subprocess.run([servers.RDBKIT, "to-json", "--lines", "-"], input=read(unpacked(path)), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, timeout=120)
            q = rdbkit("to-json", "--lines", unpacked(path), stdout=subprocess.PIPE)
            if p.returncode != 0 or p.stdout != q.stdout:
                out.append("standard input: " + said(p))
        return out

    for release, path, _ in fixtures():
        yield "%s %s" % (release, os.path.basename(path)), lambda: one(release, path)


@test
def to_resp_of_a_file_begins_with_select_and_parses():
    def one(release, path):
        data, _, out = ran("to-resp", path, "--to", release)
        rows = list(aofs.records(data))
        if not out and (not rows or rows[-1][1] != len(data)):
            out.append("no commands from offset %d on" % (rows[-1][1] if rows else 0))
        return out

    for release, path, _ in fixtures():
        yield "%s %s" % (release, os.path.basename(path)), lambda: one(release, path)


# ---- Without servers: check and repair of cut files ------------------------------------------------------------------

def cuts(data, most=1024):
    """Sizes to cut to: every byte of the last kilobyte."""
    return range(max(1, len(data) - most), len(data) + 1, STEP)


def try_cut(walk, data, size, folder, place):
    """place(data): puts the file that is cut there and returns (path to check, path that repair writes, file in it)."""
    sound, inside, good = walk.cut_at(size)
    path, repaired, part = place(folder, data[:size])
    out, _, wrong = ran("check", path, code=0 if sound else 1)
    text = out.decode(errors="replace")
    if not sound and not wrong and not any(re.search(r"\b%d\b" % g, text) for g in good):
        wrong.append("check names no offset of %s: %s" % (sorted(good), text[:200]))
    if inside and not wrong and "transaction" not in text.lower():
        wrong.append("check says nothing of the open transaction: " + text[:200])
    _, _, more = ran("repair", path, "-o", repaired)
    if not more:
        got = read(part)
        if not any(got == data[:g] for g in good):
            more.append("repair leaves %d bytes, wanted %s" % (len(got), sorted(good)))
    for p in (path, repaired):
        shutil.rmtree(p) if os.path.isdir(p) else os.path.exists(p) and os.unlink(p)
    return ["cut to %d bytes: %s" % (size, x) for x in wrong + more]


def in_parallel(function, items):
    with ThreadPoolExecutor(servers.jobs) as pool:
        return [x for part in pool.map(function, items) for x in part]


def try_cuts_of_file(path):
    data = read(unpacked(path))
    walk = Walk(data)
    if walk.ends[-1][0] != len(data):
        return ["our own reader does not come to the end of it"]

    def place(folder, cut):
        path = write(os.path.join(folder, NAME), cut)
        return path, path + ".repaired", path + ".repaired"

    return in_parallel(lambda size: try_cut(walk, data, size, tempfile.mkdtemp(dir=servers.work), place), cuts(data))


def try_cuts_of_folder(path):
    last = os.path.basename(aofs.parts_of(path)[-1][1])
    data = read(os.path.join(path, last))
    walk = Walk(data)

    def place(folder, cut):
        whole = os.path.join(folder, "aofdir")
        shutil.copytree(path, whole)
        write(os.path.join(whole, last), cut)
        return whole, whole + ".repaired", os.path.join(whole + ".repaired", last)

    return in_parallel(lambda size: try_cut(walk, data, size, tempfile.mkdtemp(dir=servers.work), place), cuts(data))


@test
def cut_files_are_judged_and_repaired_at_every_byte():
    for release, path, _ in fixtures():
        if (release, os.path.basename(path)) in (("redis-4.0", "log.aof.gz"), ("redis-6.0", "preamble.aof.gz")):
            yield "%s %s" % (release, os.path.basename(path)), lambda: try_cuts_of_file(path)


@test
def cut_folders_are_judged_and_repaired_at_every_byte():
    for release, path, _ in fixtures():
        if (release, os.path.basename(path)) in (("redis-7.0", "log.aofdir"), ("valkey-9", "preamble.aofdir")):
            yield "%s %s" % (release, os.path.basename(path)), lambda: try_cuts_of_folder(path)


TRANSACTIONS = (encode(("SELECT", 0)) + encode(("SET", "a", 1)) + encode(("MULTI",)) + encode(("SET", "b", "x\r\n*1\r\n")) + encode(("exec",)) +
                b"#TS:1700000000\r\n" + encode(("MULTI",)) + b"#TS:1700000001\r\n" + encode(("SELECT", 2)) + encode(("SET", "c", "v" * 40)) +
                encode(("EXEC",)) + encode(("multi",)) + encode(("EXEC",)) + encode(("SET", "MULTI", 1)) + b"#TS:1700000002\r\n")


@test
def transactions_and_annotations_are_cut_where_they_begin():
    def place(folder, cut):
        path = write(os.path.join(folder, NAME), cut)
        return path, path + ".repaired", path + ".repaired"

    walk = Walk(TRANSACTIONS)
    yield "every byte", lambda: in_parallel(
        lambda size: try_cut(walk, TRANSACTIONS, size, tempfile.mkdtemp(dir=servers.work), place), range(1, len(TRANSACTIONS) + 1))


@test
def repair_never_goes_below_the_image_of_a_preamble():
    """Servers make such a file empty."""
    def one(tail):
        path = next(p for r, p, _ in fixtures() if r == "redis-6.0" and "preamble" in p)
        data = read(unpacked(path))
        image = data[:aofs.image_len(data)]
        broken = write(work(NAME), image + tail)
        out = ran("check", broken, code=1)[2] + ran("repair", broken, "-o", broken + ".repaired")[2]
        if not out and read(broken + ".repaired") != image:
            out.append("%d bytes are left, the image has %d" % (len(read(broken + ".repaired")), len(image)))
        return out

    for tail in (b"*", b"*2\r\n$6\r\nSELE", encode(("MULTI",)), encode(("MULTI",)) + encode(("SET", "a", 1)) + b"*3\r\n"):
        yield repr(tail), lambda: one(tail)


@test
def repair_keeps_what_is_before_bytes_that_are_no_record():
    def one(tail):
        good = encode(("SELECT", 0)) + encode(("SET", "a", 1))
        path = write(work(NAME), good + tail + encode(("SET", "b", 1)))
        text, _, out = ran("check", path, code=1)
        if not out and not re.search(rb"\b%d\b" % len(good), text):
            out.append("check does not name offset %d: %s" % (len(good), text[:200]))
        _, _, wrong = ran("repair", path, "-o", path + ".repaired")
        if not wrong and read(path + ".repaired") != good:
            wrong.append("repair leaves %r" % read(path + ".repaired"))
        return out + wrong + ran("convert", path, "-o", path + ".rdb", "--to", "redis-7.0", code=4)[2]

    for tail in NO_RECORDS:
        yield repr(tail[:30]), lambda: one(tail)


NO_RECORDS = (b"\x00" * 300, b"*0\r\n", b"*-1\r\n", b"*x\r\n", b"SET c 1\r\n", b"\r\n", b"+OK\r\n", b"*1\r\n+PING\r\n", b"*2\r\n$3\r\nGET\r\n$-1\r\n",
              b"*1\r\n#TS:1\r\n$4\r\nPING\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nc\r\n$99999999999999999999\r\n", b"REDIS0011")


@test
def repair_cuts_at_a_timestamp():
    parts = [b"#TS:%d\r\n" % t + encode(("SELECT", 0)) + encode(("SET", "k%d" % t, t)) for t in (1000, 2000, 2000, 3000)]
    parts[1] += encode(("MULTI",)) + b"#TS:2001\r\n" + encode(("SET", "x", 1)) + encode(("EXEC",))
    whole = b"".join(parts)

    def one(until, wanted):
        path = write(work(NAME), whole)
        _, _, out = ran("repair", path, "--until-timestamp", str(until), "-o", path + ".repaired")
        if not out and read(path + ".repaired") != wanted:
            out.append("%d bytes are left, wanted %d" % (len(read(path + ".repaired")), len(wanted)))
        return out

    begin = len(parts[0]) + parts[1].index(encode(("MULTI",)))
    for until, wanted in ((1000, parts[0]), (1999, parts[0]), (2000, whole[:begin]), (2001, b"".join(parts[:3])), (3000, whole), (9999, whole)):
        yield "until %d" % until, lambda: one(until, wanted)

    def folder(until):
        path = aof_folder([("b", parts[0]), ("i", parts[2] + parts[3])])
        _, _, out = ran("repair", path, "--until-timestamp", str(until), "-o", path + ".repaired")
        return out or ([] if read(os.path.join(path + ".repaired", "appendonly.aof.1.incr.aof")) == parts[2] else ["the increment is not cut"])

    yield "folder", lambda: folder(2500)


@test
def repair_is_never_in_place_and_asks_nothing():
    path = write(work(NAME), TRANSACTIONS + b"*1\r")
    _, _, out = ran("repair", path, code=2)
    out += ran("repair", path, "-o", path, code=5)[2] + ran("repair", path, "-o", path, "--force", code=5)[2]
    yield "file", lambda: out + ([] if read(path) == TRANSACTIONS + b"*1\r" else ["the input was changed"])
    folder = aof_folder([("b", b""), ("i", TRANSACTIONS + b"*1\r")])
    out2 = ran("repair", folder, "-o", folder, code=5)[2]
    yield "folder", lambda: out2 + ([] if read(aofs.parts_of(folder)[-1][1]) == TRANSACTIONS + b"*1\r" else ["the input was changed"])
    other = path + ".there"
    write(other, b"precious")
    out3 = ran("repair", path, "-o", other, code=5)[2]
    yield "output exists", lambda: out3 + ([] if read(other) == b"precious" else ["the output that was there is gone"])


@test
def check_leaves_everything_as_it_is():
    def one(path):
        before = [(p, read(p), os.stat(p).st_mtime_ns) for p in sorted(glob.glob(path + "/*") or [path])]
        for p, _, _ in before:
            os.chmod(p, 0o444)
        ran("check", path)
        after = [(p, read(p), os.stat(p).st_mtime_ns) for p in sorted(glob.glob(path + "/*") or [path])]
        return [] if before == after else ["something changed"]

    yield "file", lambda: one(write(work(NAME), TRANSACTIONS[:-5]))
    yield "folder", lambda: one(aof_folder([("b", b""), ("i", TRANSACTIONS[:-5])]))


# ---- Without servers: RDB files that are cut or damaged --------------------------------------------------------------

def rdb_file(n, magic=b"REDIS0011"):
    """(bytes, [(key, offset after it)]) of an RDB file with n keys of all shapes."""
    txt, ln = rdb.txt, rdb.num
    data, keys = magic + b"\xfe\x00", []
    for i in range(n):
        key, item = b"key:%d" % i, [b"item %d %d" % (i, j) for j in range(i % 5 + 1)]
        if i % 3 == 0:
            data += b"\xfc" + struct.pack("<Q", gencmds.FUTURE_MS + i)
        kind = i % 5
        if kind == 0: data += b"\x00" + txt(key) + txt(item[0])
        elif kind in (1, 2): data += bytes([kind]) + txt(key) + ln(len(item)) + b"".join(map(txt, item))
        elif kind == 3: data += b"\x05" + txt(key) + ln(len(item)) + b"".join(txt(x) + struct.pack("<d", i) for x in item)
        else: data += b"\x04" + txt(key) + ln(len(item)) + b"".join(txt(x) + txt(b"v") for x in item)
        keys.append((key.decode(), len(data)))
    data += b"\xff"
    return data + rdb.crc64(data), keys


def keys_listed(path):
    out, _, wrong = ran("keys", "--format", "%k", path)
    if wrong:
        raise RuntimeError(wrong[0])
    return [x.strip('"') for x in out.decode().splitlines()]


@test
def cut_rdb_files_are_judged_and_keep_every_key_before_the_cut():
    def one(data, keys, size):
        folder = tempfile.mkdtemp(dir=servers.work)
        path = write(os.path.join(folder, "dump.rdb"), data[:size])
        whole = size == len(data)
        out = ran("check", path, code=0 if whole else 1)[2] + ran("repair", path, "-o", path + ".repaired")[2]
        if not out:
            out += ran("check", path + ".repaired")[2]
            got, want = keys_listed(path + ".repaired"), [k for k, end in keys if end <= size]
            if got != want:
                out.append("repair keeps %d keys, wanted %d" % (len(got), len(want)))
        shutil.rmtree(folder)
        return ["cut to %d: %s" % (size, x) for x in out]

    data, keys = rdb_file(60)
    yield "every byte", lambda: in_parallel(lambda size: one(data, keys, size), cuts(data))


@test
def repair_of_an_rdb_file_skips_a_damaged_packed_value():
    txt = rdb.txt
    good = lambda k: b"\x00" + txt(k) + txt(b"value")
    blobs = {"listpack": (b"\x10", b"\x0b\x00\x00\x00\x02\x00\x01\x05\x7f\x01\xff"), "intset": (b"\x0b", b"\x03\x00\x00\x00\x01\x00\x00\x00\x05\x00"),
             "ziplist": (b"\x0d", b"\x10\x00\x00\x00\x0a\x00\x00\x00\x02\x00\x00\x77bad\xff")}

    def one(kind, blob):
        data = b"REDIS0011\xfe\x00" + good(b"first") + kind + txt(b"lost:key") + txt(blob) + good(b"second") + good(b"third") + b"\xff"
        path = write(work("dump.rdb"), data + rdb.crc64(data))
        out = ran("check", path, code=1)[2]
        _, err, wrong = ran("repair", path, "-o", path + ".repaired")
        if not wrong:
            if keys_listed(path + ".repaired") != ["first", "second", "third"]:
                wrong.append("it has %s" % keys_listed(path + ".repaired"))
            if "lost:key" not in err:
                wrong.append("it does not say that lost:key is lost: " + err[:200])
            wrong += ran("check", path + ".repaired")[2]
        return out + wrong

    for name, (kind, blob) in blobs.items():
        yield name, lambda: one(kind, blob)


# ---- Without servers: manifests --------------------------------------------------------------------------------------

SET_A, SET_B = encode(("SELECT", 0)) + encode(("SET", "a", 1)), encode(("SELECT", 0)) + encode(("SET", "b", 2))
INCR = encode(("INCR", "n"))
BASE, INCR_1, INCR_2 = "appendonly.aof.1.base.aof", "appendonly.aof.1.incr.aof", "appendonly.aof.2.incr.aof"
ROW_B, ROW_1, ROW_2 = "file %s seq 1 type b\n" % BASE, "file %s seq 1 type i\n" % INCR_1, "file %s seq 2 type i\n" % INCR_2
FILES = {BASE: SET_A, INCR_1: SET_B, INCR_2: INCR}
IMAGE = rdb_file(3, b"REDIS0009")[0]  # every release from 5.0 on takes it
ALL = {"0 a", "0 b", "0 n"}
FATAL = None

# (name, manifest, files, keys that are there or FATAL)
MANIFESTS = (
    ("as servers write it", ROW_B + ROW_1 + ROW_2, FILES, ALL),
    ("last line without its end", ROW_B + ROW_1.rstrip("\n"), FILES, FATAL),
    ("empty", "", FILES, FATAL),
    ("blank line", ROW_B + "\n" + ROW_1, FILES, FATAL),
    ("comment", "# made by hand\n" + ROW_B + "#\n" + ROW_1 + ROW_2, FILES, ALL),
    ("blanks around and CR", "  " + ROW_B.replace("\n", " \t\r\n") + ROW_1 + ROW_2, FILES, ALL),
    ("pairs in any order and case", "TYPE b SEQ 1 File %s\n" % BASE + ROW_1 + ROW_2, FILES, ALL),
    ("pair that nobody knows", ROW_B.replace("\n", " colour blue\n") + ROW_1 + ROW_2, FILES, ALL),
    ("offsets of Redis 8", ROW_B + ROW_1.replace("\n", " startoffset 0 endoffset 62\n") + ROW_2.replace("\n", " startoffset 62\n"), FILES, ALL),
    ("odd number of words", ROW_B.replace("\n", " more\n") + ROW_1, FILES, FATAL),
    ("four words", "file %s seq 1\n" % BASE + ROW_1, FILES, FATAL),
    ("sequence number 0", ROW_B.replace("seq 1", "seq 0") + ROW_1, FILES, FATAL),
    ("type in capitals", ROW_B.replace("type b", "type B") + ROW_1, FILES, FATAL),
    ("type as a word", ROW_B.replace("type b", "type base") + ROW_1.replace("type i", "type incr") + ROW_2, FILES, ALL),
    ("type unknown", ROW_B.replace("type b", "type x") + ROW_1, FILES, FATAL),
    ("name with a slash", "file ./%s seq 1 type b\n" % BASE + ROW_1, FILES, FATAL),
    ("two bases", ROW_B + ROW_B.replace("seq 1", "seq 2") + ROW_1, FILES, FATAL),
    ("increments out of order", ROW_B + ROW_2 + ROW_1, FILES, FATAL),
    ("one increment twice", ROW_B + ROW_1 + ROW_1, FILES, FATAL),
    ("one file under two numbers", ROW_B + ROW_1 + ROW_2 + "file %s seq 3 type i\n" % INCR_2, FILES, ALL),
    ("base on the last line", ROW_1 + ROW_2 + ROW_B, FILES, ALL),
    ("no base", ROW_1 + ROW_2, FILES, {"0 b", "0 n"}),
    ("line too long", ROW_B + "#" + "x" * 1030 + "\n" + ROW_1, FILES, FATAL),
    ("line of 1023 bytes", ROW_B + "#" + "x" * 1022 + "\n" + ROW_1 + ROW_2, FILES, ALL),
    ("quoted name", 'file "two words\\x2eaof" seq 1 type b\n' + ROW_1 + ROW_2, {"two words.aof": SET_A, INCR_1: SET_B, INCR_2: INCR}, ALL),
    ("name in single quotes", "file 'it\\'s.aof' seq 1 type b\n" + ROW_1 + ROW_2, {"it's.aof": SET_A, INCR_1: SET_B, INCR_2: INCR}, ALL),
    ("quotes without end", 'file "%s seq 1 type b\n' % BASE + ROW_1, FILES, FATAL),
    ("history whose file is gone", ROW_B + "file gone.aof seq 9 type h\n" + ROW_1 + ROW_2, FILES, ALL),
    ("missing increment", ROW_B + ROW_1 + ROW_2, {BASE: SET_A, INCR_2: INCR}, FATAL),
    ("missing base", ROW_B + ROW_1, {INCR_1: SET_B}, FATAL),
    ("file that is not listed", ROW_B + ROW_2, FILES, {"0 a", "0 n"}),
    ("empty files", ROW_B + ROW_1 + ROW_2, {BASE: SET_A, INCR_1: b"", INCR_2: b""}, {"0 a"}),
    ("each file begins in database 0", ROW_B + ROW_1 + ROW_2, {BASE: SET_A + encode(("SELECT", 3)), INCR_1: encode(("SET", "b", 2)), INCR_2: INCR}, ALL),
    ("increment that is an RDB image", ROW_B + ROW_1, {BASE: SET_A, INCR_1: IMAGE}, {"0 a", "0 key:0", "0 key:1", "0 key:2"}),
    ("database 0 after an image", ROW_B + ROW_1, {BASE: IMAGE.replace(b"\xfe\x00", b"\xfe\x05")[:-8] + bytes(8) + INCR, INCR_1: SET_B},
     {"0 n", "0 b", "5 key:0", "5 key:1", "5 key:2"}),
    ("transaction over two files", ROW_B + ROW_1 + ROW_2, {BASE: SET_A, INCR_1: encode(("MULTI",)) + SET_B, INCR_2: encode(("EXEC",)) + INCR}, FATAL),
    ("truncated file before the last", ROW_B + ROW_1 + ROW_2, {BASE: SET_A, INCR_1: SET_B[:-3], INCR_2: INCR}, FATAL),
)
# the same, but what servers do is to die of it
DEADLY = (("one key in two images", ROW_B + ROW_1, {BASE: IMAGE, INCR_1: IMAGE}, FATAL),)


def manifest_folder(manifest, files):
    folder = work("appendonlydir")
    os.makedirs(folder)
    write(os.path.join(folder, "appendonly.aof.manifest"), manifest.encode())
    for name, data in files.items():
        write(os.path.join(folder, name), data)
    return folder


def aof_folder(parts):
    """parts: [(type, bytes)]"""
    files, manifest, n = {}, "", {"b": 0, "i": 0}
    for kind, data in parts:
        n[kind] += 1
        name = "appendonly.aof.%d.%s.aof" % (n[kind], "base" if kind == "b" else "incr")
        manifest += "file %s seq %d type %s\n" % (name, n[kind], kind)
        files[name] = data
    return manifest_folder(manifest, files)


def db_keys(path, *options):
    out, _, wrong = ran("keys", "--format", "%d %k", path, *options)
    if wrong:
        raise RuntimeError(wrong[0])
    return {x.replace('"', "") for x in out.decode().splitlines()}


@test
def manifests_are_read_as_servers_read_them():
    def one(manifest, files, want):
        folder = manifest_folder(manifest, files)
        for path in (folder, os.path.join(folder, "appendonly.aof.manifest"))[:2 if manifest.startswith(("file", "#")) else 1]:
            text, err, out = ran("check", path, code=0 if want is not FATAL else (1, 3, 4))
            if want is FATAL:
                out += ran("convert", path, "--to", "redis-7.0", "-o", folder + ".rdb", code=(3, 4))[2]
                if os.path.exists(folder + ".rdb"):
                    out.append("refused, and there is an output")
            elif not out and db_keys(path) != want:
                out.append("keys: %s, wanted %s" % (sorted(db_keys(path)), sorted(want)))
            if out:
                return out
        return []

    for name, manifest, files, want in MANIFESTS + DEADLY:
        yield name, lambda: one(manifest, files, want)


@test
def damage_names_the_file_of_a_manifest():
    def one(parts, bad, offset):
        folder = aof_folder(parts)
        name = os.path.basename(aofs.parts_of(folder)[bad][1])
        text, err, out = ran("check", folder, code=1)
        both = text.decode(errors="replace") + err
        if not out and (name not in both or not re.search(r"\b%d\b" % offset, both)):
            out.append("it does not name %s and %d: %s" % (name, offset, both[:300]))
        _, err, wrong = ran("convert", folder, "--to", "redis-7.0", "-o", folder + ".rdb", code=4)
        if not wrong and (name not in err or not re.search(r"\b%d\b" % offset, err)):
            wrong.append("convert does not name %s and %d: %s" % (name, offset, err[:300]))
        return out + wrong

    junk = SET_B + b"junk\r\n" + INCR
    yield "increment", lambda: one([("b", SET_A), ("i", INCR), ("i", junk)], 2, len(SET_B))
    yield "first increment", lambda: one([("b", SET_A), ("i", junk), ("i", INCR)], 1, len(SET_B))
    yield "base", lambda: one([("b", junk), ("i", INCR)], 0, len(SET_B))


@test
def repair_of_damage_before_the_last_file_says_what_is_lost():
    folder = aof_folder([("b", SET_A), ("i", SET_B + b"*3\r\n$3\r"), ("i", INCR)])
    _, err, out = ran("repair", folder, "-o", folder + ".repaired")
    if not out:
        out += ran("check", folder + ".repaired")[2]
        if not {"0 a", "0 b"} <= db_keys(folder + ".repaired"):
            out.append("it holds %s" % db_keys(folder + ".repaired"))
        if INCR_2 not in err:
            out.append("it says nothing of %s: %s" % (INCR_2, err[:300]))
    yield "first increment", lambda: out


# ---- Without servers: records ----------------------------------------------------------------------------------------

# (name, bytes, keys): what servers take, though nobody writes it
ODD_RECORDS = (
    ("headers that end in LF", b"*3\n$3\nSET\r\n$1\na\r\n$1\n1\r\n", {"0 a"}),
    ("junk after numbers", b"*3junk\r\n$3x\r\nSET\r\n$ 1\r\na\r\n$+1\r\n1\r\n", {"0 a"}),
    ("annotations with any text", b"#\r\n#hello\n" + SET_A + b"#TS:x\r\n", {"0 a"}),
    ("read commands", encode(("GET", "a")) + encode(("PING",)) + encode(("WATCH", "a")) + SET_A, {"0 a"}),
    ("EXEC and DISCARD without MULTI", encode(("EXEC",)) + encode(("DISCARD",)) + SET_A, {"0 a"}),
    ("nested MULTI", encode(("MULTI",)) + SET_A + encode(("MULTI",)) + SET_B + encode(("EXEC",)) + encode(("EXEC",)), {"0 a", "0 b"}),
    ("empty transaction", encode(("MULTI",)) + encode(("EXEC",)) + SET_A, {"0 a"}),
    ("SELECT inside stays", encode(("MULTI",)) + encode(("SELECT", 4)) + encode(("EXEC",)) + encode(("SET", "a", 1)), {"4 a"}),
    ("names and options in any case", encode(("sEt", "a", "1", "pXaT", "4102444800000")) + encode(("rpush", "l", "x")), {"0 a", "0 l"}),
    ("options as values", encode(("SET", "EX", "EX")) + encode(("SET", "NX", "PX")), {"0 EX", "0 NX"}),
    ("empty key and value", encode(("SET", "", "")), {"0 "}),
    ("database 15", encode(("SELECT", 15)) + encode(("SET", "a", 1)), {"15 a"}),
    ("errors change nothing", SET_A + encode(("LPUSH", "a", "x")) + encode(("INCRBY", "a", "x")) + encode(("RENAME", "no", "a")) + SET_B, {"0 a", "0 b"}),
    ("expired long ago and persisted", SET_A + encode(("PEXPIREAT", "a", 1)) + encode(("PERSIST", "a")), {"0 a"}),
    ("container that is emptied", encode(("RPUSH", "l", "x")) + encode(("LPOP", "l")) + SET_A, {"0 a"}),
    ("stream that is emptied", encode(("XADD", "s", "1-1", "a", "b")) + encode(("XDEL", "s", "1-1")), {"0 s"}),
    ("SWAPDB, MOVE, COPY", SET_A + encode(("COPY", "a", "b", "DB", 2)) + encode(("MOVE", "a", 3)) + encode(("SWAPDB", 2, 5)), {"5 b", "3 a"}),
)


# (name, first release, commands, lines of keyspace.py): where a replay goes wrong easily
TRAPS = (
    ("BITFIELD i1 has -1 and 0", 4, [("BITFIELD", "a", "OVERFLOW", "FAIL", "INCRBY", "i1", 0, -1), ("BITFIELD", "a", "OVERFLOW", "FAIL", "INCRBY", "i1", 1, 1)],
     ['0 "a" string "\\x80"']),
    ("BITFIELD SET i64 below zero is no overflow", 4, [("BITFIELD", "a", "OVERFLOW", "SAT", "SET", "i64", 0, -2)], ['0 "a" string "' + "\\xff" * 7 + '\\xfe"']),
    ("BITFIELD SET below zero saturates an unsigned one upwards", 4, [("BITFIELD", "a", "OVERFLOW", "SAT", "SET", "u8", 0, -2)], ['0 "a" string "\\xff"']),
    ("BITFIELD wraps", 4, [("SET", "a", b"\xff"), ("BITFIELD", "a", "INCRBY", "u8", 0, 2, "INCRBY", "i8", "#1", 200)], ['0 "a" string "\\x01\\xc8"']),
    ("BITFIELD FAIL grows the string", 4, [("BITFIELD", "a", "OVERFLOW", "FAIL", "INCRBY", "u2", 30, 9)], ['0 "a" string "' + "\\x00" * 4 + '"']),
    ("SETRANGE of nothing makes nothing", 4, [("SETRANGE", "a", 9, ""), ("SETRANGE", "b", 2, "x")], ['0 "b" string "\\x00\\x00x"']),
    ("BITOP of missing keys deletes", 4, [("SET", "d", "x"), ("BITOP", "AND", "d", "no", "neither"), ("SET", "e", b"\x0f"), ("BITOP", "NOT", "e", "e")],
     ['0 "e" string "\\xf0"']),
    ("LPUSH goes one by one", 4, [("LPUSH", "l", "a", "b", "c"), ("RPUSHX", "no", "x"), ("RPUSHX", "l", "d")], ['0 "l" list ["c","b","a","d"]']),
    ("LREM from the tail", 4, [("RPUSH", "l", "a", "b", "a", "b", "a"), ("LREM", "l", -2, "a")], ['0 "l" list ["a","b","b"]']),
    ("LTRIM to nothing deletes", 4, [("RPUSH", "l", "a"), ("LTRIM", "l", 5, 3)], []),
    ("LMOVE onto itself keeps the time to live", 6.2, [("RPUSH", "l", "a"), ("PEXPIREAT", "l", 4102444800000), ("LMOVE", "l", "l", "LEFT", "RIGHT")],
     ['0 "l" list ["a"] ttl=4102444800000']),
    ("SINTERSTORE into one of its sources", 4, [("SADD", "a", 1, 2, 3), ("SADD", "b", 2, 3, 4), ("SINTERSTORE", "a", "a", "b")],
     ['0 "a" set {"2","3"}', '0 "b" set {"2","3","4"}']),
    ("SDIFFSTORE with a missing set", 4, [("SADD", "a", 1, 2), ("SET", "d", "x"), ("SDIFFSTORE", "d", "a", "no")], ['0 "a" set {"1","2"}', '0 "d" set {"1","2"}']),
    ("ZADD flags", 6.2, [("ZADD", "z", 5, "a", 5, "b"), ("ZADD", "z", "GT", "CH", 4, "a", 6, "b", 1, "new"), ("ZADD", "z", "XX", 9, "no"), ("ZADD", "z", "NX", 9, "a"),
                         ("ZADD", "z", "LT", "INCR", -1, "a")], ['0 "z" zset {"new":1.0,"a":4.0,"b":6.0}']),
    ("ZUNIONSTORE of infinities", 4, [("ZADD", "a", "inf", "m"), ("ZADD", "b", "-inf", "m"), ("ZUNIONSTORE", "a", 2, "a", "b")],
     ['0 "a" zset {"m":0.0}', '0 "b" zset {"m":-inf}']),
    ("ZINTERSTORE with a set", 4, [("ZADD", "a", 2, "m"), ("SADD", "s", "m", "n"), ("ZINTERSTORE", "d", 2, "a", "s", "WEIGHTS", 3, "0.5")],
     ['0 "a" zset {"m":2.0}', '0 "d" zset {"m":6.5}', '0 "s" set {"m","n"}']),
    ("ZRANGESTORE from above", 6.2, [("ZADD", "a", 1, "x", 2, "y", 3, "z"), ("ZRANGESTORE", "d", "a", "(3", "-inf", "BYSCORE", "REV", "LIMIT", 0, 1)],
     ['0 "a" zset {"x":1.0,"y":2.0,"z":3.0}', '0 "d" zset {"y":2.0}']),
    ("scores as strtod reads them", 4, [("ZADD", "z", "+5", "a", ".5", "b", "1e2", "c", "-Infinity", "d")], ['0 "z" zset {"d":-inf,"b":0.5,"a":5.0,"c":100.0}']),
    ("SORT BY and GET", 4, [("RPUSH", "l", 3, 1, 2), ("MSET", "w_1", 30, "w_2", 10, "w_3", 20), ("SORT", "l", "BY", "w_*", "GET", "#", "GET", "w_*", "GET", "x_*", "STORE", "d"),
                            ("DEL", "w_1", "w_2", "w_3")], ['0 "d" list ["2","10","","3","20","","1","30",""]', '0 "l" list ["3","1","2"]']),
    ("RENAME carries the time to live", 4, [("SET", "a", 1), ("PEXPIREAT", "a", 4102444800000), ("SET", "b", 2), ("RENAME", "b", "a")], ['0 "a" string "2"']),
    ("integers have one form", 4, [("SET", "a", "007"), ("INCR", "a"), ("SET", "b", "9223372036854775807"), ("INCR", "b"), ("SET", "c", "-0"), ("DECR", "c")],
     ['0 "a" string "007"', '0 "b" string "9223372036854775807"', '0 "c" string "-0"']),
    ("SET KEEPTTL, GETSET", 6, [("SET", "a", 1), ("PEXPIREAT", "a", 4102444800000), ("SET", "a", 2, "KEEPTTL"), ("SET", "b", 1), ("PEXPIREAT", "b", 4102444800000),
                                ("GETSET", "b", 2)], ['0 "a" string "2" ttl=4102444800000', '0 "b" string "2"']),
    ("MSETNX is all or nothing", 4, [("SET", "a", 1), ("MSETNX", "b", 1, "a", 2), ("MSETNX", "c", 1, "c", 2)], ['0 "a" string "1"', '0 "c" string "2"']),
    ("HSET clears a field's time to live, HINCRBY keeps it", 7.4, [("HSET", "h", "a", 1, "b", 1), ("HPEXPIREAT", "h", 4102444800000, "FIELDS", 2, "a", "b"),
                                                                   ("HSET", "h", "a", 2), ("HINCRBY", "h", "b", 1)], ['0 "h" hash {"a":"2","b":"2"@4102444800000}']),
    ("FLUSHALL takes every database", 4, [("SET", "a", 1), ("SELECT", 9), ("SET", "a", 1), ("FLUSHALL",), ("SET", "b", 1)], ['9 "b" string "1"']),
    ("XTRIM, XDEL and counters", 7, [("XADD", "s", "1-1", "f", "v"), ("XADD", "s", "2-1", "f", "v"), ("XADD", "s", "3-1", "f", "v"), ("XDEL", "s", "2-1"),
                                     ("XTRIM", "s", "MAXLEN", "=", 1)],
     ['0 "s" stream <3-1{"f"="v"} length=1 last-generated-id="3-1" max-deleted-entry-id="2-1" entries-added=3 recorded-first-entry-id="3-1">']),
)


@test
def replay_knows_the_traps():
    def one(commands, want):
        got = contents(write(work(NAME), b"".join(map(encode, commands))), "redis-7.0")
        return [] if sorted(got) == sorted(want) else ["%s instead of %s" % (sorted(got), want)]

    for name, _, commands, want in TRAPS:
        yield name, lambda: one(commands, want)


@test
def sinterstore_with_a_missing_key_before_a_wrong_one_deletes():
    """Up to 6.2 it is logged and means that; from 7.0 on it is an error and not logged."""
    data = encode(("SADD", "d", 1)) + encode(("SET", "x", 1)) + encode(("SINTERSTORE", "d", "no", "x"))
    path = write(work(NAME), data)
    yield "missing, string", lambda: [] if db_keys(path) == {"0 x"} else ["it holds %s" % db_keys(path)]


@test
def filter_gives_the_same_kind():
    def one(release, path):
        to = work("filtered")
        _, _, out = ran("filter", path, "-k", "*:1", "-t", "string,list,stream", "-o", to)
        if not out:
            want = [x for x in contents(path, release) if x.startswith("function ") or re.match(r'\d+ "[^"]*:1" (string|list|stream) ', x)]
            if os.path.isdir(to) != os.path.isdir(path):
                out.append("another kind of output")
            want, got = Keyspace(want), Keyspace(contents(to, release))
            if number_of(release) < 6.2:
                nameless(want), nameless(got)
            out += differences(want, got, release, exact=False)
            out += ran("check", to)[2]
        return out

    for release, path, _ in fixtures():
        yield "%s %s" % (release, os.path.basename(path)), lambda: one(release, path)


@test
def records_are_read_as_servers_read_them():
    def one(data, want):
        path = write(work(NAME), data)
        got = db_keys(path)
        return [] if got == want else ["keys: %s, wanted %s" % (sorted(got), sorted(want))]

    for name, data, want in ODD_RECORDS:
        yield name, lambda: one(data, want)


def refusal(data, offset, words, options=(), code=(4, 5), verb="convert"):
    path = write(work(NAME), data)
    more = ["--to", "redis-7.0", "-o", path + ".rdb"] if verb == "convert" else []
    text, err, out = ran(verb, path, *more, *options, code=code)
    both = err + text.decode(errors="replace")
    if not out and 0 not in (code if isinstance(code, tuple) else (code,)):
        if not re.search(r"\b%d\b" % offset, both):
            out.append("no offset %d: %s" % (offset, both[:300]))
        if os.path.exists(path + ".rdb"):
            out.append("refused, and there is an output")
    out += ["it does not say %r: %s" % (w, both[:300]) for w in words if not out and w.lower() not in both.lower()]
    return out


@test
def unknown_commands_are_refused_with_name_and_offset_or_skipped_and_counted():
    data = SET_A + encode(("VADD", "vec", "VALUES", 1, "1.0", "x")) + SET_B + encode(("JSON.SET", "j", "$", "1"))
    yield "refused", lambda: refusal(data, len(SET_A), ["VADD"])
    yield "skipped", lambda: refusal(data, 0, ["2"], ["--skip-unknown"], code=0)
    path = write(work(NAME), data)
    yield "the rest is there", lambda: [] if db_keys(path, "--skip-unknown") == {"0 a", "0 b"} else ["it holds %s" % db_keys(path, "--skip-unknown")]


@test
def scripts_are_refused_with_offset_and_hint_or_skipped_and_counted():
    for name, words in (("EVAL", ("EVAL", "return redis.call('SET',KEYS[1],1)", 1, "k")), ("EVALSHA", ("evalsha", "0" * 40, 1, "k")), ("FCALL", ("FCALL", "f", 1, "k"))):
        data = SET_A + encode(words) + SET_B
        yield name + " refused", lambda: refusal(data, len(SET_A), [name, "BGREWRITEAOF" if name != "FCALL" else name])
        yield name + " skipped", lambda: refusal(data, 0, ["1"], ["--skip-scripts"], code=0)
        yield name + " is no unknown command", lambda: refusal(data, len(SET_A), [name], ["--skip-unknown"])


@test
def wrong_number_of_arguments_is_refused_with_offset():
    for words in (("SET", "a"), ("GETSET", "a"), ("SELECT",), ("HSET", "h", "f"), ("MSET", "a"), ("EXEC", "x"), ("XADD", "s", "1-1", "a")):
        yield " ".join(words), lambda: refusal(SET_A + encode(words) + SET_B, len(SET_A), [words[0]])


@test
def errors_that_servers_swallow_are_told_with_offset():
    data = SET_A + encode(("LPUSH", "a", "x")) + SET_B
    yield "LPUSH to a string", lambda: refusal(data, 0, [str(len(SET_A))], code=0)


HOSTILE = (b"*2147483647\r\n", b"*1000000000\r\n$1\r\na\r\n", b"*9223372036854775807\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9223372036854775807\r\n1\r\n",
           b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2147483647\r\n1\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nxx", b"*99999999999999999999\r\n", b"*" + b"1" * 100000)

MEASURE = """import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def hostile(path, *verb):
    p = subprocess.run([sys.executable, "-S", "-E", "-c", MEASURE, servers.RDBKIT, verb[0], path, *verb[1:]], stdout=subprocess.PIPE, check=True, timeout=60)
    code, peak = map(int, p.stdout.split())
    mib = peak / 1024 / (1024 if sys.platform == "darwin" else 1)
    out = [] if code == (1 if verb[0] == "check" else 4) or code == 0 and verb[0] == "repair" else ["%s: exit %d" % (verb[0], code)]
    return out if SANITIZED or mib < 40 else out + ["%s: %d MiB" % (verb[0], mib)]


@test
def hostile_numbers_are_refused_in_little_memory():
    def one(tail):
        path = write(work(NAME), SET_A + tail)
        return hostile(path, "check") + hostile(path, "convert", "--to", "redis-7.0", "-o", path + ".rdb") + hostile(path, "repair", "-o", path + ".fixed")

    for tail in HOSTILE:
        yield repr(tail[:40]), lambda: one(tail)

    def positions(words):
        path = write(work(NAME), SET_A + encode(words))
        p = subprocess.run([sys.executable, "-S", "-E", "-c", MEASURE, servers.RDBKIT, "keys", path], stdout=subprocess.PIPE, check=True, timeout=60)
        code, peak = map(int, p.stdout.split())
        return [] if code in (0, 4, 5) and (SANITIZED or peak < 40 * 1024) else ["exit %d, %d KiB" % (code, peak)]

    for words in (("SETRANGE", "x", 536870911, ""), ("SETRANGE", "x", 2**63 - 1, "v"), ("SETBIT", "x", 2**32, 1), ("SETBIT", "x", 2**64, 1), ("LPOP", "x", 2**62),
                  ("BITFIELD", "x", "SET", "u8", 2**62, 1), ("ZUNIONSTORE", "d", 2**62, "a"), ("XADD", "x", "MAXLEN", 2**63 - 1, "1-1", "a", "b"),
                  ("HPEXPIREAT", "h", 1, "FIELDS", 2**62, "f"), ("SELECT", 2**31), ("SELECT", 2**64), ("MSETEX", 2**62, "a", 1), ("GEOSEARCHSTORE", "d", "s",
                  "FROMLONLAT", 1, 1, "BYPOLYGON", 2**62, 1, 1)):
        yield " ".join(map(str, words)), lambda: positions(words)


@test
def other_things_are_not_taken_for_append_only_files():
    folder = os.path.join(servers.work, "empty-folder")
    os.makedirs(folder, exist_ok=True)
    yield "folder without a manifest", lambda: ran("check", folder, code=(1, 3, 4))[2] + ran("convert", folder, "-o", folder + ".rdb", code=(3, 4))[2]
    yield "no such folder", lambda: ran("convert", folder + "/none", "-o", folder + ".rdb", code=3)[2]
    empty = write(work(NAME), b"")
    yield "empty file", lambda: ran("convert", empty, "-o", empty + ".rdb", code=(0, 4))[2]


@test
def writing_needs_a_target_place_that_is_free():
    source = next((p for r, p, _ in fixtures() if r == "redis-7.0"), None)
    there = work("there")
    write(os.path.join(there, "precious"), b"x")
    out = ran("convert", source, "--format", "aof", "--to", "redis-7.0", "-o", there, code=5)[2] if source else ["no fixture"]
    yield "folder that exists", lambda: out + ([] if os.listdir(there) == ["precious"] else ["it was touched: %s" % os.listdir(there)])


@test
def relative_times_take_now_from_the_command_line():
    data = encode(("SETEX", "a", 100, "v")) + encode(("SET", "b", "v", "PX", 5000)) + encode(("SET", "c", "v")) + encode(("EXPIRE", "c", 7))

    def one():
        p = rdbkit("keys", "--format", "%k %e", "--now", "1700000000000", write(work(NAME), data), stdout=subprocess.PIPE)
        want = {"a 1700000100000", "b 1700000005000", "c 1700000007000"}
        got = {x.replace('"', "") for x in p.stdout.decode().splitlines()}
        return [] if got == want else ["%s instead of %s; %s" % (got, want, said(p))]

    yield "SETEX, SET PX, EXPIRE", one


# ---- With servers ----------------------------------------------------------------------------------------------------

def load_rdb(release, programs, rdb):
    """Lines of a server after loading an RDB file."""
    server = RdbServer(release, programs, rdb)
    try:
        return server.lines()
    finally:
        server.stop()


def convert(path, release, to, *options):
    """Converts; (complaints, whether something was lost)."""
    _, err, out = ran("convert", path, "--to", release, "-o", to, *options, code=(0, 5))
    if out or os.path.exists(to):
        return out, False
    return ran("convert", path, "--to", release, "-o", to, "--allow-loss", *options)[2], True


class Made:
    """An append-only file of a server. holds: what it has to hold, made: complaints of the making."""

    def __init__(self, name, release, path, lines):
        self.name, self.release, self.path, self.lines = name, release, path, lines
        self.holds = keyspace_of(lines, release)

    def differs(self, lines, release, exact=True):
        return differences(self.holds, keyspace_of(lines, self.release), release, exact)

    def fresh(self):
        return Made(self.name, self.release, self.path, self.lines)

    def differences(self, got, release, exact):
        """The counters of streams that a log of Redis 6.2 or older leads to are those of a replay, which that server has not."""
        if not exact and number_of(release) < 6.2:
            nameless(self.holds), nameless(got)
        if not has_counters(self.release) and has_counters(release):
            for line in got.keys.values():
                if line.kind == "stream":
                    line.value.info = {k: line.value.info[k] for k in ("length", "last-generated-id")}
                    for g in line.value.groups:
                        g.pop("read", None)
            release = "redis-6.2"
        return differences(self.holds, got, release, exact)


def try_replay(made, programs):
    """Replayed, written as RDB, loaded by the same release."""
    rdb = work("dump.rdb")
    _, err, out = ran("convert", made.path, "--to", made.release, "-o", rdb)
    if out:
        return out
    return made.differs(load_rdb(made.release, programs, rdb), made.release)


def try_written(source, release, programs):
    """Written as append-only file for a server: it loads it, holds the same, its checker agrees, and it goes on with it."""
    out = []
    for options in ([], ["--no-preamble"]):
        name, folder = "with%s preamble: " % ("out" if options else ""), tempfile.mkdtemp(dir=servers.work)
        to = os.path.join(folder, "appendonlydir" if multi_part(release) else NAME)
        wrong, lossy = convert(source.path, release, to, "--format", "aof", *options, *source.flags)
        lost = losses(source.holds, release)
        times = number_of(release) < 7.2 and any(x.kind == "stream" and x.value.groups for x in source.holds.keys.values())
        if lossy and not lost and not times:
            wrong.append("it refuses, and nothing would be lost")
        if lost and not lossy:
            wrong.append("lost is %s, and it is not refused" % ", ".join(sorted(lost)))
        if wrong:
            out += [name + x for x in wrong]
            continue
        if not (release == "valkey-9" and not options):  # its check-aof does not know its own magic
            complaint = aofs.check_aof(release, programs, to)
            if complaint:
                out.append(name + complaint)
        server = AofServer(release, programs, load=to)
        try:
            got = keyspace_of(server.lines(), source.release)
            out += [name + d for d in source.fresh().differences(got, release, exact=not options)]
            server.ask("SELECT", 0)
            server.ask("SET", "one more", 1)
            server.shutdown()
            again = AofServer(release, programs, load=server.files())
            try:
                if again.ask("GET", "one more") != b"1":
                    out.append(name + "what the server appends does not stay")
            finally:
                again.stop()
        finally:
            server.stop()
    return out


def try_to_resp(made, programs):
    data, _, out = ran("to-resp", made.path, "--to", made.release)
    if out:
        return out
    server = Server(made.release, programs)
    try:
        complaint = server.pipe(data)
        return ([complaint] if complaint else []) + made.differs(server.lines(), made.release, exact=False)
    finally:
        server.stop()


def variants(release, seeds):
    """(name, how to make it)"""
    nodes = ["--stream-node-max-entries", "10"] if number_of(release) >= 5 else []
    stamps = ["--aof-timestamp-enabled", "yes"] if multi_part(release) else []
    small = ["--list-max-ziplist-size", "3", "--hash-max-ziplist-entries", "4", "--zset-max-ziplist-entries", "4", "--set-max-intset-entries", "4"]
    out = []
    for seed in range(seeds):
        out.append(("log %d" % seed, {"settings": nodes + small}))
        out.append(("rewritten %d" % seed, {"rewrite": True, "settings": nodes + stamps}))
        out.append(("preamble %d" % seed, {"rewrite": True, "preamble": True, "settings": stamps}))
    if not has_field_expiry(release) or release == "valkey-9":  # others load fields that have expired wrongly themselves
        out.append(("odd", {"odd": True, "settings": nodes}))
    out.append(("small", {"small": True, "preamble": True, "rewrite": True}))
    return out


def make(release, programs, name, how, seed, count):
    path = work("made.aof")
    aofs.make(release, programs, path, seed=seed, count=count, **how)
    made = Made("%s of %s" % (name, release), release, path, aofs.held(release, programs, path))
    made.flags = []
    return made


def attempt(name, only, function):
    if only in name:
        try:
            report(name, function())
        except Exception as e:
            report(name, ["%s: %s" % (type(e).__name__, e)] + traceback.format_exc().splitlines()[-3:-1])


def server_tests(release, programs, o):
    """All files of one server; returns one for the others to take."""
    kept = None
    for i, (name, how) in enumerate(variants(release, o.seeds)):
        label = "%s of %s" % (name, release)
        if kept and o.k not in label + " is replayed" and o.k not in label + " is sent":
            continue
        try:
            made = make(release, programs, name, how, 100 * o.seed + i, o.count)
        except Exception as e:
            report(label + " can be made", ["%s: %s" % (type(e).__name__, e)])
            continue
        kept = kept or made
        attempt(label + " is replayed", o.k, lambda: ran("check", made.path)[2] + try_replay(made, programs))
        attempt(label + " is sent", o.k, lambda: try_to_resp(made, programs))
    return kept


def written_tests(release, programs, sources, o):
    for source in sources:
        attempt("%s is written for %s" % (source.name, release), o.k, lambda: try_written(source, release, programs))


def rdb_sources(o):
    """RDB files to write as append-only files: one of each release, with what it holds."""
    out = []
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "everything.rdb"))):
        if os.path.exists(path[:-4] + ".keys") and (o.oracles or path.split("/")[-2] in ("redis40", "redis62", "redis80", "valkey9")):
            out.append((os.path.relpath(path, ROOT), path))
    for path in sorted(glob.glob(os.path.join(o.corpus, "*", "mix.rdb"))) if o.corpus else ():
        out.append((os.path.relpath(path, o.corpus), path))
    made = []
    for name, path in out:
        source = Made(name, "redis-8.0", path, keys_in(path[:-4] + ".keys"))
        source.flags = ["--drop-modules"] if any(x.kind not in PORTABLE for x in source.holds.keys.values()) else []
        made.append(source)
    return made


def agree_with_servers(release, programs, o):
    """The tables above against the servers themselves."""
    def one(folder, want, die=False):
        try:
            server = AofServer(release, programs, load=folder)
        except RuntimeError:
            return [] if want is FATAL else ["the server does not take it"]
        try:
            got = {re.match(r'(\d+) "([^"]*)"', x)[0].replace('"', "") for x in server.lines()}
        finally:
            server.stop()
        return ["the server takes it"] if want is FATAL else [] if got == want else ["it holds %s, the table says %s" % (sorted(got), sorted(want))]

    if not o.oracles and release not in ("redis-6.0", "redis-8.0", "valkey-9"):
        return
    def trap(commands, want):
        server = AofServer(release, programs, load=write(work(NAME), b"".join(map(encode, commands))))
        try:
            out = differences(Keyspace(want), Keyspace(server.lines()), release)
            return out
        finally:
            server.stop()

    for name, manifest, files, want in MANIFESTS if multi_part(release) else ():
        attempt("%s agrees about manifests: %s" % (release, name), o.k, lambda: one(manifest_folder(manifest, files), want))
    for name, data, want in ODD_RECORDS:
        old = number_of(release) < 7 and ("annotations" in name or "COPY" in name or "PXAT" in name.upper() or "any case" in name) or \
            number_of(release) < 5 and "stream" in name or release == "redis-6.0" and "SWAPDB" in name
        if not old and name != "expired long ago and persisted":
            attempt("%s agrees about records: %s" % (release, name), o.k, lambda: one(write(work(NAME), data), want))
    for name, first, commands, want in TRAPS:
        if number_of(release) >= first and (first < 7.4 or has_field_expiry(release)):
            attempt("%s agrees about traps: %s" % (release, name), o.k, lambda: trap(commands, want))
    for tail in NO_RECORDS:
        if b"$-1" not in tail and not (number_of(release) < 7 and b"#TS" in tail):
            attempt("%s agrees about %r" % (release, tail[:30]), o.k, lambda: one(write(work(NAME), SET_A + tail + SET_B), FATAL))


# ---- The corpus ------------------------------------------------------------------------------------------------------

def corpus_tests(folder, found, o):
    release = os.path.basename(folder)
    for name in ("cmds", "log", "rewritten", "preamble"):
        paths = glob.glob(os.path.join(folder, name + ".aof*"))
        keys = os.path.join(folder, ("cmds" if name == "cmds" else "mix") + ".keys")
        if not paths or not os.path.exists(keys):
            continue

        def one():
            as_release = release if release in LEVELS else "redis-4.0"
            made = Made(name, as_release, paths[0], keys_in(keys))
            exact = name != "rewritten"
            if release not in found:
                return differences(made.holds, alive(paths[0], as_release), as_release, exact)
            rdb = work("dump.rdb")
            out = ran("check", paths[0])[2] + ran("convert", paths[0], "--to", release, "-o", rdb)[2]
            if out:
                return out
            lines = load_rdb(release, found[release], rdb)
            out = made.differs(lines, release, exact)
            if out:
                judge = Made(name, release, paths[0], aofs.held(release, found[release], paths[0]))
                more = judge.differs(lines, release)
                out.insert(0, "against the server's own reload: %d differences%s" % (len(more), ": " + more[0][:300] if more else ""))
            return out

        attempt("corpus %s %s%s" % (release, name, "" if release in found else " (no server)"), o.k, one)


# ----------------------------------------------------------------------------------------------------------------------

def main():
    p = servers.options(__doc__)
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--count", type=int, default=3000)
    o = p.parse_args()
    servers.jobs = o.jobs
    found = servers.start(o)
    servers.work = servers.work or tempfile.mkdtemp(prefix="rdbkit-aof.")
    start = time.time()
    if not os.access(servers.RDBKIT, os.X_OK):
        return
    if not fixtures():
        skip("no fixtures/aof")
    for t in tests:
        if o.k in t.__name__ or not o.k or any(o.k in r for r in LEVELS):
            try:
                for name, function in t():
                    attempt("%s: %s" % (t.__name__, name), "", function) if o.k in "%s: %s" % (t.__name__, name) else None
            except Exception as e:
                report(t.__name__, ["%s: %s" % (type(e).__name__, e)] + traceback.format_exc().splitlines()[-3:-1])
    print("without servers: %.0f s" % (time.time() - start), flush=True)
    with ThreadPoolExecutor(o.jobs) as pool:
        order = [r for r in LEVELS if r in found]
        kept = list(pool.map(lambda r: server_tests(r, found[r], o), order))
        sources = [x for x in kept if x] + rdb_sources(o)
        list(pool.map(lambda r: written_tests(r, found[r], sources, o), order))
        list(pool.map(lambda r: agree_with_servers(r, found[r], o), order))
        list(pool.map(lambda f: corpus_tests(f, found, o), sorted(glob.glob(os.path.join(o.corpus, "*"))) if o.corpus else ()))
    print("took %.0f s" % (time.time() - start))


if __name__ == "__main__":
    main()
    sys.exit(servers.summary())
