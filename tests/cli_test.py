#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds the program ./rdbkit (or $RDBKIT) to docs and promises: exit codes, messages, files left behind.

    tests/cli_test.py [TEXT]     TEXT: only tests with it in their name

Needs Python's standard library alone. $SANITIZED: the program is built with sanitizers, memory is not measured.
The last line is "N passed, N failed, N skipped".
"""
import base64
import binascii
import glob
import gzip
import json
import os
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RDBKIT = os.path.abspath(os.environ.get("RDBKIT") or os.path.join(ROOT, "rdbkit"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
sys.dont_write_bytecode = True
import compare
import keyspace
from rdb import back_len, crc64, lp_blob, lp_entry, num, txt

FIXTURES = os.path.join(ROOT, "fixtures")
SANITIZED = bool(os.environ.get("SANITIZED"))
VERBS = ("to-resp", "keys", "info", "check")
tests = []


def test(function):
    tests.append(function)
    return function


class Skipped(Exception):
    pass


# ---- Files -----------------------------------------------------------------------------------------------------------


def rdb(*parts, magic=b"REDIS0009", sums=True):
    data = magic + b"".join(parts) + b"\xff"
    return data + (crc64(data) if sums else bytes(8))


def string(key, value=b"v"):
    return b"\x00" + txt(key) + txt(value)


def collection(kind, key, n, size=1):
    """A plain list (1), set (2), zset (5) or hash (4) with n elements."""
    item = lambda i: txt(b"item %d " % i + b"x" * (size - 1))
    more = {1: b"", 2: b"", 4: txt(b"value"), 5: struct.pack("<d", 1.5)}[kind]
    return bytes([kind]) + txt(key) + num(n) + b"".join(item(i) + more for i in range(n))


def fixture(name):
    path = os.path.join(FIXTURES, name)
    if not os.path.exists(path):
        raise Skipped("no fixture " + name)
    return path


def everything():
    """Files with all that a server has, with .keys beside."""
    return [p for p in sorted(glob.glob(os.path.join(FIXTURES, "*", "everything.rdb"))) if os.path.exists(p[:-4] + ".keys")]


def damaged():
    """(path, exit code, offset or None) of each damaged fixture."""
    out = []
    for path in sorted(glob.glob(os.path.join(FIXTURES, "bad", "*.expect"))):
        code, offset = open(path).read().split()[:2]
        out.append((path[:-7] + ".rdb", int(code), int(offset) if offset.isdigit() else None))
    if not out:
        raise Skipped("no damaged fixtures")
    return out


def write(name, data):
    with open(name, "wb") as f:
        f.write(data)
    return name


def read(name):
    with open(name, "rb") as f:
        return f.read()


# ---- Running ---------------------------------------------------------------------------------------------------------


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err.decode(errors="replace")

    def __repr__(self):
        return "exit %d, stdout %r, stderr %r" % (self.code, self.out[:200], self.err[:500])


def run(*args, data=None, stdout=None, timeout=60):
    """Runs rdbkit in the current (temporary) folder; data: what standard input gives."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if data:
            given.write(data)
            given.seek(0)
        p = subprocess.Popen([RDBKIT] + [str(a) for a in args], stdin=given, stdout=stdout or out, stderr=err)
        try:
            code = p.wait(timeout)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
            raise AssertionError("rdbkit %s does not end" % " ".join(map(str, args)))
        out.seek(0)
        err.seek(0)
        return Result(code, out.read(), err.read())


# A program counts the memory of the one that started it as its own peak: so a small one starts it.
MEASURE = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""


def measure(*args, data=None):
    """Exit code and peak memory in bytes (some 11 MiB at least: those of Python)."""
    with tempfile.TemporaryFile() as given:
        if data:
            given.write(data)
            given.seek(0)
        p = subprocess.run([sys.executable, "-S", "-E", "-c", MEASURE, RDBKIT] + list(args), stdin=given, stdout=subprocess.PIPE,
                           check=True, timeout=120)
    code, peak = p.stdout.split()
    return int(code), int(peak) * (1 if sys.platform == "darwin" else 1024)


def expect(condition, what, *more):
    if not condition:
        raise AssertionError(" ".join([what] + [repr(m) for m in more]))


def expect_exit(code, result, *words):
    """The exit code, and words that standard error has to have (in any case)."""
    expect(result.code == code, "exit %d wanted:" % code, result)
    for w in words:
        expect(str(w).lower() in result.err.lower(), "standard error lacks %r:" % w, result)
    if code >= 2:
        expect(result.err.startswith("rdbkit: "), "message does not begin with rdbkit:", result)
    return result


def each(items, function):
    """Calls function for each item; tells all failures together."""
    wrong = []
    for item in items:
        try:
            function(item)
        except AssertionError as e:
            wrong.append(str(e))
    expect(not wrong, "%d of %d: " % (len(wrong), len(items)) + "\n    ".join(wrong))


def resp(data):
    """The commands of a stream, strictly parsed."""
    out, at = [], 0

    def line(kind):
        nonlocal at
        end = data.index(b"\r\n", at)
        expect(data[at:at + 1] == kind, "no %r at %d:" % (kind, at), data[at:at + 40])
        text = data[at + 1:end]
        expect(re.fullmatch(rb"0|[1-9][0-9]*", text), "no number at %d" % at, text)
        at = end + 2
        return int(text)

    while at < len(data):
        words = []
        for _ in range(line(b"*")):
            n = line(b"$")
            expect(len(data) >= at + n + 2 and data[at + n:at + n + 2] == b"\r\n", "string at %d is cut" % at)
            words.append(data[at:at + n])
            at += n + 2
        expect(words, "a command without words")
        out.append(words)
    return out


def names(commands):
    return [c[0].upper() for c in commands]


def options(verb):
    return run(verb, "--help").out.decode()


# ---- Usage: exit 0 and 2 ---------------------------------------------------------------------------------------------


@test
def help_and_version_go_to_standard_output_and_are_fine():
    for args in (("help",), ("--help",), ("-h",), ("-V",), ("--version",)):
        r = expect_exit(0, run(*args))
        expect(r.out and not r.err, "%s:" % args[0], r)
    expect(re.search(rb"\d+\.\d+\.\d+", run("--version").out), "no version")


@test
def each_verb_explains_itself_with_an_example():
    for verb in VERBS:
        a, b = expect_exit(0, run("help", verb)), expect_exit(0, run(verb, "--help"))
        expect(a.out == b.out and verb.encode() in a.out, "help of " + verb, a, b)
        expect(b"rdbkit " + verb.encode() in a.out, "no example for " + verb, a)


@test
def no_arguments_at_all_is_wrong_usage():
    expect(run().code == 2, "exit 2 wanted", run())


@test
def verb_without_input_is_wrong_usage():
    for verb in VERBS:
        expect_exit(2, run(verb))


@test
def unknown_verb_names_the_nearest_one():
    for wrong, right in (("to-rsp", "to-resp"), ("toresp", "to-resp"), ("chekc", "check"), ("key", "keys"), ("infos", "info")):
        expect_exit(2, run(wrong, "x.rdb"), right)
    expect_exit(2, run("frobnicate", "x.rdb"), "frobnicate")


@test
def unknown_option_names_the_nearest_one():
    write("a.rdb", rdb(string(b"k")))
    for wrong, right in (("--allow-los", "--allow-loss"), ("--del-frist", "--del-first"), ("--bach", "--batch"), ("--singledb", "--single-db")):
        r = expect_exit(2, run("to-resp", "a.rdb", wrong), right)
        expect(not r.out, "output though the usage is wrong", r)
    expect_exit(2, run("info", "a.rdb", "--jsn"), "--json")
    expect_exit(2, run("to-resp", "a.rdb", "-Q"), "-Q")


@test
def unknown_target_is_wrong_usage_and_names_one_that_exists():
    write("a.rdb", rdb(string(b"k")))
    for wrong in ("redis-7.1", "valkey-10", "redis", "", "7"):
        expect_exit(2, run("to-resp", "a.rdb", "--to", wrong), "valkey-")


@test
def option_with_missing_or_wrong_value_is_wrong_usage():
    write("a.rdb", rdb(string(b"k")))
    expect_exit(2, run("to-resp", "a.rdb", "--to"))
    for wrong in ("0", "x", "", "-1", "100001", "1.5", "64k", "99999999999999999999", " 5"):
        expect_exit(2, run("to-resp", "a.rdb", "--batch", wrong), "batch")


@test
def option_may_have_its_value_after_an_equals_sign():
    write("a.rdb", rdb(collection(1, b"l", 10)))
    a, b = run("to-resp", "a.rdb", "--batch", "3"), run("to-resp", "--batch=3", "a.rdb")
    expect_exit(0, a)
    expect(a.out == b.out and b.code == 0, "not the same", a, b)


# ---- Files: exit 3 and 5 ---------------------------------------------------------------------------------------------


@test
def missing_file_is_exit_3_with_its_name():
    for verb in VERBS:
        expect_exit(3, run(verb, "no such file.rdb"), "no such file.rdb")


@test
def full_disk_is_exit_3_with_a_message():
    if not os.path.exists("/dev/full"):
        raise Skipped("no /dev/full")
    write("a.rdb", rdb(string(b"k")))
    write("big.rdb", rdb(collection(1, b"l", 20000, 100)))
    with open("/dev/full", "wb") as full:
        for args in (("to-resp", "a.rdb"), ("to-resp", "big.rdb"), ("to-resp", "--restore", "a.rdb"), ("convert", "-o", "-", "a.rdb"),
                     ("convert", "-o", "-", "big.rdb"), ("filter", "-o", "-", "a.rdb"), ("to-json", "a.rdb"), ("to-json", "big.rdb"),
                     ("keys", "a.rdb"), ("info", "a.rdb"), ("info", "--json", "a.rdb"), ("check", "a.rdb"), ("help",), ("--version",)):
            if args[0] == "check" and not run(*args).out:
                continue
            r = run(*args, stdout=full)
            expect(r.code == 3 and r.err, "%s: exit 3 and a message wanted:" % " ".join(args), r)


@test
def closed_pipe_is_exit_3_with_a_message():
    write("big.rdb", rdb(collection(1, b"l", 20000, 100)))
    write("many.rdb", rdb(*[string(b"key %d" % i) for i in range(20000)], sums=False))
    for args in (("to-resp", "big.rdb"), ("to-resp", "--restore", "big.rdb"), ("convert", "-o", "-", "big.rdb"),
                 ("convert", "--reencode", "--no-compress", "-o", "-", "big.rdb"), ("filter", "-o", "-", "big.rdb"), ("to-json", "big.rdb"),
                 ("to-json", "--lines", "many.rdb"), ("keys", "many.rdb")):
        reader, writer = os.pipe()
        p = subprocess.Popen([RDBKIT] + list(args), stdout=writer, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        os.close(writer)
        os.read(reader, 10)
        os.close(reader)
        err = p.communicate(timeout=60)[1]
        expect(p.returncode == 3 and err.startswith(b"rdbkit: "), "%s: exit %d, %r" % (args[0], p.returncode, err[:300]))


@test
def existing_output_is_exit_5_and_stays_unless_forced():
    write("a.rdb", rdb(string(b"k")))
    for verb in (("to-resp",), ("to-resp", "--restore"), ("convert",), ("convert", "--reencode"), ("filter",), ("to-json",), ("keys",), ("info",)):
        write("out", b"precious")
        expect_exit(5, run(*verb, "a.rdb", "-o", "out"), "out", "--force")
        expect(read("out") == b"precious", "it was changed")
        r = expect_exit(0, run(*verb, "a.rdb", "-o", "out", "--force"))
        expect(not r.out and read("out") == run(*verb, "a.rdb", "-o", "-").out, "not the output")
        expect(sorted(os.listdir(".")) == ["a.rdb", "out"], "left behind:", os.listdir("."))


@test
def convert_names_its_output_and_filter_wants_a_name():
    os.mkdir("in")
    write("in/a.rdb", rdb(string(b"k")))
    write("in/b.rdb.gz", gzip.compress(read("in/a.rdb")))
    for args, name in ((("in/a.rdb",), "a.valkey-8.rdb"), (("--to", "redis-7", "in/a.rdb"), "a.redis-7.rdb"),
                       (("--to", "rdb-9", "in/b.rdb.gz"), "b.rdb-9.rdb")):
        r = expect_exit(0, run("convert", *args))
        expect(not r.out and b"\x00" + txt(b"k") in read(name), "not the output", r)
        expect_exit(5, run("convert", *args), name, "--force")
        os.unlink(name)
    expect_exit(0, run("convert", "-", data=read("in/a.rdb")))
    expect(sorted(os.listdir(".")) == ["dump.valkey-8.rdb", "in"], "files", os.listdir("."))
    r = expect_exit(2, run("filter", "in/a.rdb"), "-o")
    expect(not r.out and len(os.listdir(".")) == 2, "filter without -o", os.listdir("."))


@test
def output_is_never_the_input():
    data = rdb(string(b"k"))
    write("a.rdb", data)
    r = run("to-resp", "a.rdb", "-o", "a.rdb")
    expect(r.code in (2, 5) and read("a.rdb") == data, "input as output:", r)


@test
def output_file_and_standard_output_are_the_same():
    path = fixture("redis70/everything.rdb")
    want = expect_exit(0, run("to-resp", path)).out
    expect(run("to-resp", path, "-o", "-").out == want, "-o - differs")
    expect_exit(0, run("to-resp", path, "-o", "out"))
    expect(read("out") == want, "-o FILE differs")
    expect(run("to-resp", "-", data=read(path)).out == want, "standard input differs")
    expect(run("to-resp", data=read(path)).code == 2, "no input is not standard input")


@test
def output_file_has_the_mode_that_umask_asks_for():
    write("a.rdb", rdb(string(b"k")))
    for mask in (0o022, 0o077, 0o002):
        old = os.umask(mask)
        try:
            expect_exit(0, run("to-resp", "a.rdb", "-o", "out", "--force"))
        finally:
            os.umask(old)
        mode = stat.S_IMODE(os.stat("out").st_mode)
        os.unlink("out")
        expect(mode == 0o666 & ~mask, "mode %o with umask %o" % (mode, mask))


@test
def output_into_a_missing_folder_is_exit_3():
    write("a.rdb", rdb(string(b"k")))
    expect_exit(3, run("to-resp", "a.rdb", "-o", "missing/out"), "missing/out")


@test
def failed_run_leaves_nothing_behind():
    good = rdb(collection(1, b"l", 20000, 50))
    write("cut.rdb", good[:-500])
    write("bad.rdb", good[:-1] + bytes([good[-1] ^ 1]))
    write("stream.rdb", read(fixture("redis50/everything.rdb")))
    before = sorted(os.listdir("."))
    expect_exit(4, run("to-resp", "cut.rdb", "-o", "out"))
    expect_exit(4, run("to-resp", "bad.rdb", "-o", "out"))
    for verb in (("to-resp",), ("to-resp", "--restore"), ("convert",)):
        expect_exit(5, run(*verb, "stream.rdb", "--to", "redis-4.0", "-o", "out"))
    for verb in (("to-resp", "--restore"), ("convert",), ("filter",), ("to-json",)):
        expect_exit(4, run(*verb, "cut.rdb", "-o", "out"))
        expect_exit(4, run(*verb, "bad.rdb", "-o", "out"))
    expect_exit(3, run("to-resp", "missing.rdb", "-o", "out"))
    expect(sorted(os.listdir(".")) == before, "left behind:", os.listdir("."))


@test
def signal_leaves_nothing_behind():
    good = rdb(collection(1, b"l", 100000, 50), sums=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for half in (0, len(good) // 2):
            p = subprocess.Popen([RDBKIT, "to-resp", "-", "-o", "out"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            p.stdin.write(good[:half])
            p.stdin.flush()
            deadline = time.time() + (5 if half else .2)
            while not os.listdir(".") and time.time() < deadline and p.poll() is None:
                time.sleep(.01)
            time.sleep(.05)
            p.send_signal(number)
            code = p.wait(timeout=30)
            p.stdin.close()
            expect(code != 0, "signal %d: exit 0" % number)
            expect(not os.listdir("."), "signal %d left behind:" % number, os.listdir("."))


# ---- Damage: exit 4 and 1 --------------------------------------------------------------------------------------------

UNSUPPORTED = re.compile(r"header_(redis00(00|13|15|79|80)|valkey0)|type_\d+|valkey_type_|opcode_24[23]|valkey_opcode_242|module_6")


@test
def damaged_files_are_exit_4_with_the_offset():
    def one(case):
        path, code, offset = case
        r = run("to-resp", path, "--allow-loss")
        name = os.path.basename(path)
        if code == 4:
            expect(r.code == 4, "%s: exit 4 wanted:" % name, r)
            expect(r.err.startswith("rdbkit: ") and name in r.err, "%s: message:" % name, r)
            if offset is not None:
                expect(re.search(r"\b%d\b" % offset, r.err), "%s: no offset %d:" % (name, offset), r)
        else:
            expect(r.code == 0, "%s: exit 0 wanted, only check looks as deep:" % name, r)
        resp(r.out)

    each(damaged(), one)


@test
def check_of_damaged_files_is_exit_1_with_the_offset():
    def one(case):
        path, _, offset = case
        r = run("check", path)
        name = os.path.basename(path)
        expect(r.code == (4 if UNSUPPORTED.match(name) else 1), "%s: exit %s wanted:" % (name, "4" if UNSUPPORTED.match(name) else "1"), r)
        if offset is not None and ("duplicate" not in name or name == "duplicate_key.rdb"):  # fields: the offset of the key
            expect(re.search(r"\b%d\b" % offset, r.err + r.out.decode(errors="replace")), "%s: no offset %d:" % (name, offset), r)

    each(damaged(), one)


@test
def value_that_kills_servers_is_not_copied():
    for name in ("zset2_nan", "stream_length_nodeless", "stream_pel_unowned", "stream_pel_two_owners", "stream_nodekey_hidden", "stream_group_hidden"):
        path = fixture("bad/%s.rdb" % name)
        for verb in (["convert", "--to", "redis-8.0", "-o", "out", "--force"], ["filter", "-o", "out", "--force"], ["to-resp", "--restore", "--to", "redis-8.0"]):
            r = run(*verb, path)
            expect(r.code == 4, "%s %s: exit 4 wanted:" % (verb[0], name), r)


@test
def stream_numbers_that_no_command_takes_are_sent_as_the_nearest():
    entries = [lp_entry(v) for v in (2, 0, 1, b"f", 0, 2, 0, 0, b"v", 4, 2, 1, 0, b"w", 4)]
    node = lp_blob([(e, back_len(len(e))) for e in entries])
    top = 2**63 - 1
    for name, (last, gone, added, read), loses, wanted in (
            ("good", ((6, 0), (0, 0), 2, 1), False, ("6-0", "2", "0-0", "1")),
            ("last ID below that of an entry", ((5, 0), (0, 0), 2, 1), False, ("6-0", "2", "0-0", "1")),
            ("max-deleted above the last ID", ((6, 0), (9, 9), 2, 1), True, ("6-0", "2", "6-0", "1")),
            ("entries-added below the length", ((6, 0), (0, 0), 0, 1), True, ("6-0", "2", "0-0", "1")),
            ("entries-added of 2^63", ((6, 0), (0, 0), 2**63, 1), True, ("6-0", str(top), "0-0", "1")),
            ("entries-read of -2", ((6, 0), (0, 0), 2, 2**64 - 2), True, ("6-0", "2", "0-0", "-1"))):
        value = num(1) + txt(struct.pack(">QQ", 5, 0)) + txt(node) + b"".join(map(num, (2, *last, 5, 0, *gone, added)))
        path = write("stream.rdb", b"REDIS0010\x13\x01s" + value + num(1) + txt(b"g") + b"".join(map(num, (5, 0, read, 0, 0))) + b"\xff" + bytes(8))
        r = run("to-resp", "--to", "redis-8.0", path)
        expect((r.code, "stream-counters" in r.err) == ((5, True) if loses else (0, False)), name + ":", r)
        r = run("to-resp", "--to", "redis-8.0", "--allow-loss", path)
        words = [w.decode() for w in re.findall(rb"\$\d+\r\n([^\r]*)", r.out)]
        at = words.index("XSETID")
        got = (words[at + 2], words[at + 4], words[at + 6], words[words.index("ENTRIESREAD") + 1])
        expect(r.code == 0 and got == wanted, "%s: %s, not %s:" % (name, got, wanted), r)


@test
def check_of_good_files_is_exit_0():
    def one(path):
        r = run("check", path)
        expect(r.code == 0, os.path.relpath(path, FIXTURES) + ":", r)

    each([p for p in sorted(glob.glob(os.path.join(FIXTURES, "*", "*.rdb"))) if "/bad/" not in p], one)


@test
def no_verb_dies_of_a_damaged_file():
    for path, _, _ in damaged():
        for verb in ("keys", "info"):
            r = run(verb, path)
            expect(r.code in (0, 4), "%s %s:" % (verb, os.path.basename(path)), r)


@test
def message_is_one_line_without_raw_bytes():
    write("a.rdb", rdb(b"\x00" + txt(b"ke\ny\x00\x1b[31m\xff") + b"\xc7\x00"))
    r = expect_exit(4, run("to-resp", "a.rdb"), "a.rdb")
    expect(all(31 < ord(c) < 127 or c == "\n" for c in r.err), "raw bytes in the message", r)
    expect("ke\\ny\\x00\\x1b[31m\\xff" in r.err, "key is not escaped as redis-cli does", r)


@test
def hostile_file_of_27_bytes_is_exit_4_in_little_memory():
    start = b"REDIS0009\x00" + txt(b"k")
    cases = [start + num(1 << 40) + b"abcdef", start + num((1 << 64) - 1) + b"abcdef", start + b"\xc3" + num(3) + num(1 << 40) + b"abc",
             b"REDIS0009\x00" + num(1 << 40) + b"abcdefgh"]
    for kind in (1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 24, 25):
        cases.append(b"REDIS0012" + bytes([kind]) + txt(b"k") + (bytes(8) if kind in (24, 25) else b"") + num(1 << 40) + b"abcdef")
    expect(len(cases[0]) == 27, "27 bytes")
    for data in cases:
        write("a.rdb", data)
        for args in (("to-resp", "a.rdb"), ("to-resp", "-"), ("keys", "a.rdb"), ("info", "a.rdb"), ("check", "a.rdb")):
            code, peak = measure(*args, data=data)
            expect(code == (1 if args[0] == "check" else 4), "%s of %s: exit %d" % (args[0], data.hex(), code))
            expect(SANITIZED or peak < 64 << 20, "%s of %s took %d KiB" % (args[0], data.hex(), peak >> 10))


@test
def every_prefix_of_a_file_is_exit_4():
    picked = [p for p in sorted(glob.glob(os.path.join(FIXTURES, "*", "*.rdb"))) if "/bad/" not in p and os.path.getsize(p) < 400]
    done = 0
    for path in picked[::max(1, len(picked) // 8)][:8]:
        data = read(path)
        if not data[9:] or run("to-resp", "-", data=data).code != 0:
            continue
        for cut in range(len(data)):
            r = run("to-resp", "-", data=data[:cut])
            expect(r.code == 4, "%s cut at %d:" % (os.path.relpath(path, FIXTURES), cut), r)
        done += 1
    for path in everything()[::6]:
        data = read(path)
        for cut in list(range(0, len(data) - 1, len(data) // 60)) + [len(data) - 1]:
            r = run("to-resp", "-", "--to", "redis-8.0", data=data[:cut])
            expect(r.code == 4, "%s cut at %d:" % (os.path.relpath(path, FIXTURES), cut), r)
            resp(r.out)
            done += 1
    if not done:
        raise Skipped("no fixtures")


@test
def wrong_checksum_passes_only_if_ignored():
    data = rdb(string(b"key", b"value"))
    write("a.rdb", data.replace(b"value", b"vblue"))
    expect_exit(4, run("to-resp", "a.rdb"), "checksum")
    for option in ("-i", "--ignore-checksum"):
        expect(b"vblue" in expect_exit(0, run("to-resp", option, "a.rdb")).out, "no value")
    expect_exit(0, run("to-resp", "-", data=rdb(string(b"key"), sums=False)))


@test
def check_names_a_duplicate_key():
    first = b"REDIS0009\xfe\x00" + string(b"other")
    second = first + string(b"twice", b"a")
    data = rdb(b"\xfe\x00", string(b"other"), string(b"twice", b"a"), string(b"twice", b"b"))
    write("a.rdb", data)
    r = run("check", "a.rdb")
    text = r.err + r.out.decode(errors="replace")
    expect(r.code == 1 and "twice" in text and str(len(second)) in text and str(len(first)) in text, "key and both offsets wanted:", r)
    expect_exit(0, run("check", "-", data=rdb(b"\xfe\x00", string(b"twice"), b"\xfe\x01", string(b"twice"))))


@test
def check_finds_duplicates_among_very_many_keys():
    keys = [string(b"key:%d" % i) for i in range(300000)]
    write("a.rdb", rdb(*keys, sums=False))
    code, peak = measure("check", "a.rdb")
    expect(code == 0, "exit %d" % code)
    expect(SANITIZED or peak < 16 << 20, "check took %d KiB" % (peak >> 10))
    write("a.rdb", rdb(*keys, string(b"key:77777", b"again"), sums=False))
    r = run("check", "a.rdb")
    expect(r.code == 1 and "key:77777" in r.err + r.out.decode(), "duplicate wanted:", r)
    expect(os.listdir(".") == ["a.rdb"], "left behind:", os.listdir("."))


@test
def check_tells_of_trailing_bytes_and_where_they_begin():
    data = rdb(string(b"k"))
    write("a.rdb", data + b"junk")
    r = run("check", "a.rdb")
    expect(r.code == 1 and str(len(data)) in r.err + r.out.decode(), "exit 1 and offset %d wanted:" % len(data), r)


@test
def check_does_not_touch_the_file():
    data = rdb(string(b"k"))
    write("a.rdb", data)
    os.chmod("a.rdb", 0o444)
    os.utime("a.rdb", (1, 1))
    expect_exit(0, run("check", "a.rdb"))
    expect(os.stat("a.rdb").st_mtime == 1 and read("a.rdb") == data, "it was touched")


COMMANDS = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"


@test
def append_only_files_are_told_from_their_content():
    write("log", COMMANDS)
    write("stamped", b"#TS:1700000000\r\n" + COMMANDS)
    write("zipped", gzip.compress(COMMANDS))
    os.mkdir("logs")
    write("logs/a.manifest", b"file a.1.base.aof seq 1 type b\nfile a.1.incr.aof seq 1 type i\n")
    write("logs/a.1.base.aof", COMMANDS)
    write("logs/a.1.incr.aof", b"")
    for name in ("log", "stamped", "zipped", "logs", "logs/a.manifest"):
        expect(expect_exit(0, run("keys", "--format", "%d %k %s", name)).out == b'0 "k" -1\n', "keys of", name)
        expect_exit(0, run("check", name))
    expect(expect_exit(0, run("keys", "--format", "%k", "-", data=COMMANDS)).out == b'"k"\n', "standard input")


@test
def damaged_append_only_files_are_refused_with_the_offset():
    for data, where in ((COMMANDS + b"*1\r\n$4\r\nPI", "50"), (COMMANDS + b"junk", "50"), (COMMANDS + b"*1\r\n$5\r\nMULTI\r\n", "50")):
        write("log", data)
        for verb in ("to-resp", "keys", "info", "to-json"):
            r = expect_exit(4, run(verb, "log"))
            expect(not r.out and where in r.err, "%s names the place" % verb, r)
        r = expect_exit(1, run("check", "log"))
        expect(where.encode() in r.out, "check names the place", r)
    for text in (b"file a seq 1 type b", b"file a seq 0 type b\n", b"file a seq 1 type B\n", b"\n"):
        os.makedirs("logs", exist_ok=True)
        write("logs/a.manifest", text)
        expect_exit(4, run("info", "logs"))


@test
def other_files_are_refused_with_a_clear_message():
    for data in (b"\x7fELF\x02\x01\x01", b"<html>", b"PK\x03\x04", b"\x28\xb5\x2f\xfd zstd", b"SQLite format 3\x00", b"{}"):
        for verb in ("to-resp", "keys", "info"):
            r = expect_exit(4, run(verb, "-", data=data + b" and more of it"))
            expect(not r.out, "%s has output" % verb, r)


@test
def folder_is_refused_without_a_crash():
    os.mkdir("dir")
    for verb in VERBS:
        r = run(verb, "dir")
        expect(r.code in (2, 3, 4, 5) and "dir" in r.err, verb, r)


# ---- to-resp ---------------------------------------------------------------------------------------------------------


@test
def commands_begin_with_select():
    for data in (rdb(string(b"k")), rdb(b"\xfe\x00", string(b"k")), rdb(b"\xfe\x07", collection(2, b"s", 3))):
        commands = resp(expect_exit(0, run("to-resp", "-", data=data)).out)
        expect(names(commands)[0] == b"SELECT", "first command", commands[0])
    expect(commands[0][1] == b"7", "database", commands[0])


@test
def commands_parse_and_select_each_database_for_all_fixtures():
    for path in everything():
        r = run("to-resp", path, "--to", "redis-8.0", "--allow-loss")
        commands = resp(expect_exit(0, r).out)
        first = [n for n in names(commands) if n != b"FUNCTION"][0]
        expect(first == b"SELECT", "%s begins with %r" % (path, first))


@test
def file_without_keys_gives_no_key_commands():
    r = expect_exit(0, run("to-resp", "-", data=rdb()))
    expect(all(n == b"SELECT" for n in names(resp(r.out))), "commands", r)


@test
def expiry_is_absolute_in_milliseconds():
    data = rdb(b"\xfc" + struct.pack("<q", 4102444800123), string(b"k"), b"\xfd" + struct.pack("<i", 2000000000), string(b"s"),
               b"\xfc" + struct.pack("<q", 4102444800456), collection(2, b"set", 2))
    for target in ("redis-4.0", "redis-6.2", "valkey-9"):
        commands = resp(expect_exit(0, run("to-resp", "-", "--to", target, data=data)).out)
        text = b" ".join(b" ".join(c) for c in commands)
        for t in (b"4102444800123", b"2000000000000", b"4102444800456"):
            expect(t in text, "no %r for %s:" % (t, target), commands)
        expect((b"PXAT" in text) == (target != "redis-4.0"), "PXAT for " + target, commands)


@test
def expiry_in_the_past_is_kept():
    data = rdb(b"\xfc" + struct.pack("<q", 1000), string(b"gone"), string(b"there"))
    text = expect_exit(0, run("to-resp", "-", data=data)).out
    expect(b"gone" in text and b"1000" in text, "dropped by rdbkit's own clock", text)


@test
def batch_limits_the_elements_of_a_command():
    data = rdb(*[collection(kind, b"key%d" % kind, 1000) for kind in (1, 2, 4, 5)])
    for batch in (1, 3, 64, 1000, 5000):
        r = expect_exit(0, run("to-resp", "-", "--batch", batch, data=data))
        most, total = {}, {}
        for c in resp(r.out):
            if c[0].upper() in (b"RPUSH", b"SADD", b"HSET", b"HMSET", b"ZADD"):
                n = (len(c) - 2) // (1 if c[0].upper() in (b"RPUSH", b"SADD") else 2)
                most[c[1]], total[c[1]] = max(n, most.get(c[1], 0)), n + total.get(c[1], 0)
        expect(set(most.values()) == {min(batch, 1000)} and set(total.values()) == {1000} and len(most) == 4, "batch %d" % batch, most, total)


@test
def del_first_deletes_each_key_before_it_is_made():
    data = rdb(b"\xfe\x00", string(b"a"), collection(1, b"b", 200), collection(5, b"c", 2))
    commands = resp(expect_exit(0, run("to-resp", "-", "--del-first", data=data)).out)
    for key in (b"a", b"b", b"c"):
        mine = [c for c in commands if len(c) > 1 and c[1] == key]
        expect(mine[0][0].upper() in (b"DEL", b"UNLINK") and len(mine) > 1, "first command of %r" % key, mine[0])
    plain = resp(run("to-resp", "-", data=data).out)
    expect(not {b"DEL", b"UNLINK"} & set(names(plain)), "DEL though not asked for")


@test
def replace_overwrites_what_is_there():
    data = rdb(b"\xf5" + txt(b"#!lua name=l\nredis.register_function('f', function() return 1 end)"), b"\xfe\x00", string(b"a"),
               collection(1, b"b", 3), magic=b"REDIS0010")
    commands = resp(expect_exit(0, run("to-resp", "-", "--replace", data=data)).out)
    function = [c for c in commands if c[0].upper() == b"FUNCTION"]
    expect(len(function) == 1 and [w.upper() for w in function[0][1:3]] == [b"LOAD", b"REPLACE"], "FUNCTION", function)
    expect([c[0].upper() for c in commands if c[1] == b"b"][0] in (b"DEL", b"UNLINK"), "list is not deleted first", commands)


@test
def single_db_selects_nothing():
    data = rdb(b"\xfe\x00", string(b"a"), b"\xfe\x05", string(b"b"))
    both = names(resp(expect_exit(0, run("to-resp", "-", data=data)).out))
    expect(both.count(b"SELECT") == 2, "SELECT for each database", both)
    r = expect_exit(0, run("to-resp", "-", "--single-db", data=data))
    expect(b"SELECT" not in names(resp(r.out)) and b"SET" in names(resp(r.out)), "SELECT", r)


@test
def no_functions_leaves_them_out():
    data = rdb(b"\xf5" + txt(b"#!lua name=l\nredis.register_function('f', function() return 1 end)"), string(b"a"), magic=b"REDIS0010")
    expect(b"FUNCTION" in names(resp(expect_exit(0, run("to-resp", "-", data=data)).out)), "no FUNCTION LOAD")
    r = expect_exit(0, run("to-resp", "-", "--no-functions", data=data))
    expect(b"FUNCTION" not in names(resp(r.out)), "FUNCTION", r)
    expect_exit(5, run("to-resp", "-", "--to", "redis-6.2", data=data))
    expect_exit(0, run("to-resp", "-", "--to", "redis-6.2", "--no-functions", data=data))


@test
def dropped_modules_and_functions_are_named_without_being_a_loss():
    modules, aux = fixture("redis72/module_7_allvals.rdb"), fixture("redis72/module_aux_247.rdb")
    n = run("keys", "--format", "%t", modules).out.count(b"module")
    functions = rdb(b"\xf5" + txt(b"#!lua name=mine\nx"), string(b"a"), magic=b"REDIS0010")
    write("functions.rdb", functions)
    for verb in (("convert", "-o", "out"), ("filter", "-o", "out"), ("to-resp", "-o", "out"), ("to-resp", "--restore", "-o", "-")):
        to = () if verb[0] == "filter" else ("--to", "redis-6.2")
        lost = ("--force", "--loss-report", "lost")
        r = expect_exit(0, run(*verb, "--drop-modules", *lost, modules, *(to and ("--to", "redis-8.0"))), "warning: dropped-module: ", ": %d, first" % n)
        rows = [json.loads(line) for line in read("lost").splitlines()]
        expect(len(rows) == n > 0 and all(x["kind"] == "dropped-module" and x["note"] and x["db"] == 0 for x in rows), verb, rows)
        expect_exit(0, run(*verb, "--drop-modules", *lost, aux, *(to and ("--to", "redis-8.0"))), "warning: dropped-module: ")
        expect(any(json.loads(line)["db"] is None for line in read("lost").splitlines()), "no module data: ", read("lost"))
        expect_exit(0, run(*verb, "--drop-functions", *lost, "functions.rdb", *to), "warning: dropped-function: ", 'first "mine"')
        expect(json.loads(read("lost"))["key"] == "mine", "report", read("lost"))
        expect(not run(*verb, "--drop-functions", "--force", "-q", "functions.rdb", *to).err, "-q says something")


@test
def stream_for_redis_4_is_exit_5_with_no_byte_out_and_the_key():
    path = fixture("redis50/everything.rdb")
    keys = [line.split('"')[1] for line in open(path[:-4] + ".keys") if re.match(r'\d+ "[^"]*" stream ', line)]
    for args, data in ((("to-resp", path), None), (("to-resp", "-"), read(path))):
        r = expect_exit(5, run(*args, "--to", "redis-4.0", data=data), "stream", "--allow-loss")
        expect(not r.out, "%d bytes of output" % len(r.out))
        expect(any(k in r.err for k in keys), "no key of %s:" % keys, r)
    r = expect_exit(0, run("to-resp", path, "--to", "redis-4.0", "--allow-loss"))
    expect("stream" in r.err and any(k in r.err for k in keys), "no warning", r)
    expect(not any(n.startswith(b"X") for n in names(resp(r.out))), "stream commands")


@test
def functions_for_redis_6_and_field_expiry_for_redis_7_are_losses():
    data = rdb(b"\x18" + txt(b"my hash") + struct.pack("<q", 4102444800000) + num(1) + num(1) + txt(b"f") + txt(b"v"), magic=b"REDIS0012")
    expect_exit(5, run("to-resp", "-", "--to", "redis-7.2", data=data), "my hash")
    r = expect_exit(0, run("to-resp", "-", "--to", "redis-7.2", "--allow-loss", data=data), "my hash")
    expect(b"f" in r.out and b"4102444800000" not in r.out, "field", r)
    r = expect_exit(0, run("to-resp", "-", "--to", "redis-8.0", data=data))
    expect(b"4102444800000" in r.out and not r.err, "field expiry", r)


def expiring(key, *fields):
    """A hash of Redis 7.4 whose fields expire in the year 2100."""
    return b"\x18" + txt(key) + struct.pack("<q", 4102444800000) + num(len(fields)) + b"".join(num(1) + txt(f) + txt(b"v") for f in fields)


@test
def loss_report_has_a_line_for_each_key_and_kind():
    library = b"\xf5" + txt(b"#!lua name=lib\nx")
    data = rdb(library, b"\xfe\x00", expiring(b"one", b"f", b"g"), string(b"kept"), expiring(b"t\xfc\"o", b"f"), b"\xfe\x10", expiring(b"x" * 100, b"f"),
               magic=b"REDIS0012")
    write("in.rdb", data)
    want = [("function", False, None, "lib", 1), ("field-expiry", False, 0, "one", 2), ("field-expiry", False, 0, "t\u00fc\"o", 1),
            ("db-number", True, 16, "x" * 100, 1), ("field-expiry", False, 16, "x" * 100, 1)]
    convert, commands, restore = ("convert",), ("to-resp",), ("to-resp", "--restore")
    cases = [(5, verb + out, want) for verb in (convert, commands, restore) for out in (("-o", "out"),)]
    cases += [(0, verb + out + ("--allow-loss",), want) for verb in (convert, commands, restore) for out in (("-o", "out"), ("-o", "-"))]
    cases += [(5, commands + ("-o", "-"), want), (5, restore + ("-o", "-"), want), (5, convert + ("-o", "-"), want[:1])]

    def one(case):
        code, args, lines = case
        result = run(*args, "--to", "redis-6.2", "--loss-report", "lost", "--force", "in.rdb")
        expect_exit(code, result, "3 with 4 items") if len(lines) > 1 else expect_exit(code, result)
        got = [json.loads(line) for line in read("lost").splitlines()]
        expect(all(sorted(row) == ["db", "items", "key", "kind", "note"] for row in got), "fields", got)
        got = sorted((r["kind"], r["note"], r["db"], r["key"], r["items"]) for r in got)
        expect(got == sorted(lines), "report", got)

    each(cases, one)


@test
def keys_that_become_one_are_exit_5_and_named():
    write("in.rdb", rdb(b"\xfe\x00", string(b"a:x"), string(b"b:x"), string(b"same"), b"\xfe\x01", string(b"same"), collection(1, b"a:y", 3)))
    rename, move = ("--rename", "b:a"), ("--map-db", "1:0")
    cases = [(rename, ('"a:x" db 0',)), (move, ('"same" db 0',)), (rename + move, ('"a:x" db 0', '"same" db 0')), (rename + ("-K", "a:x"), ()),
             (move + ("-T", "string"), ()), (move + ("-d", "1"), ()), (("--rename", ":p"), ()), (("--map-db", "1:2"), ())]

    def one(case):
        args, found = case
        for verb in (("convert",), ("filter",), ("to-resp",), ("to-resp", "--restore"), ("to-json",), ("to-json", "--lines")):
            for path in ("out", "-"):
                r = expect_exit(5 if found else 0, run(*verb, *args, "-o", path, "in.rdb"), *found)
                expect(r.err.count("two keys become one") == len(found), args, r)
                expect(os.path.exists("out") == (path == "out" and not found), "%s %s: files: " % (verb, args), os.listdir("."))
                expect(path == "out" or r.out, "no output", r)
                if os.path.exists("out"):
                    os.unlink("out")
        with open("in.rdb", "rb") as data:
            p = subprocess.run("cat | %s filter %s -o out -" % (RDBKIT, " ".join(args)), shell=True, stdin=data, stderr=subprocess.PIPE)
        expect(p.returncode == (5 if found else 0) and p.stderr.count(b"become one: at ") == len(found), args, p.stderr)
        if not found:
            os.unlink("out")

    each(cases, one)


@test
def keys_that_become_one_are_found_among_many_and_dropped_ones_do_not_count():
    n = 100000
    write("many.rdb", rdb(*(string(b"%c:%d" % (98 if i == 77777 else 97, 5 if i == 77777 else i)) for i in range(n)), sums=False))
    expect_exit(5, run("filter", "--rename", "b:a", "-o", "out", "many.rdb"), '"a:5" db 0')
    expect_exit(0, run("filter", "--rename", "b:a2", "-o", "out", "many.rdb"))
    stream = read(fixture("redis50/everything.rdb"))
    write("stream.rdb", stream)
    old, new = (re.search(r'^0 "([\w:]+)" %s$' % kind, run("keys", "--format", "%d %k %t", "stream.rdb").out.decode(), re.M)[1]
                for kind in ("stream", "string"))
    args = ("--rename", "%s:%s" % (old.replace(":", "\\:"), new.replace(":", "\\:")), "--allow-loss", "-q", "-o", "out", "--force", "stream.rdb")
    expect_exit(5, run("convert", "--to", "redis-5.0", *args), '"%s" db 0' % new)
    expect_exit(0, run("convert", "--to", "redis-4.0", *args))


@test
def recompress_is_reencode():
    data = rdb(*(string(b"key:%d" % i, b"x" * 1000) for i in range(10)))
    raw, new, same = (run("convert", "-o", "-", *flags, "-", data=data).out for flags in ((), ("--reencode",), ("--recompress",)))
    expect(new == same, "not the same", new[:200], same[:200])
    expect(len(new) < len(raw) // 5, "%d bytes of %d" % (len(new), len(raw)))


@test
def damage_after_half_the_file_leaves_whole_commands_alone():
    data = rdb(*[collection(1, b"list%d" % i, 3000, 50) for i in range(4)], sums=False)
    r = run("to-resp", "-", data=data[:len(data) // 2])
    expect_exit(4, r)
    commands = resp(r.out)
    expect(len(commands) > 10, "commands before the damage", len(commands))


@test
def large_values_pass_in_little_memory():
    if SANITIZED:
        raise Skipped("memory under sanitizers")
    for name, data in (("string", rdb(string(b"k", b"x" * (100 << 20)), sums=False)),
                       ("list", rdb(collection(1, b"l", 1 << 20, 40), sums=False)),
                       ("keys", rdb(*[string(b"key:%d" % i, b"v" * 30) for i in range(300000)], sums=False))):
        write("a.rdb", data)
        for verb in VERBS:
            for args in ((verb, "a.rdb"), (verb, "-")):
                code, peak = measure(*args, data=data)
                expect(code == 0 and peak < 16 << 20, "%s of a large %s: exit %d, %d KiB" % (" ".join(args), name, code, peak >> 10))


@test
def pending_entries_go_to_their_own_group_and_consumer():
    for path in everything():
        streams = [(k[1], x.value) for k, x in compare.Keyspace(open(path[:-4] + ".keys").read().splitlines()).keys.items() if x.kind == "stream"]
        want = {(k, g["name"], p[1].split("/")[1], i) for k, s in streams for g in s.groups for p in g["pel"] for i in [p[0]]
                if i in {e for e, _ in s.entries}}
        for target in ("redis-5.0", "redis-6.2", "redis-8.0"):
            got = set()
            for c in resp(run("to-resp", path, "--to", target, "--allow-loss").out):
                if c[0] == b"XCLAIM":
                    got |= {(keyspace.q(c[1]), keyspace.q(c[2]), keyspace.q(c[3]), i.decode()) for i in c[5:] if re.fullmatch(rb"\d+-\d+", i)}
            expect(got == want, "%s to %s:" % (os.path.relpath(path, FIXTURES), target), sorted(want ^ got)[:4])


# ---- gzip --------------------------------------------------------------------------------------------


@test
def gzip_input_is_told_by_its_content():
    path = fixture("redis70/everything.rdb")
    data = read(path)
    want = expect_exit(0, run("to-resp", path)).out
    packed = gzip.compress(data)
    write("looks.rdb", packed)
    expect(expect_exit(0, run("to-resp", "looks.rdb")).out == want, "file")
    expect(expect_exit(0, run("to-resp", "-", data=packed)).out == want, "standard input")
    two = gzip.compress(data[:1000]) + gzip.compress(data[1000:])
    expect(expect_exit(0, run("to-resp", "-", data=two)).out == want, "two members")
    expect_exit(0, run("check", "looks.rdb"))
    expect(run("keys", "looks.rdb").out == run("keys", path).out, "keys")
    for cut in range(0, len(packed), 97):
        r = run("to-resp", "-", data=packed[:cut])
        expect(r.code == 4, "gzip cut at %d:" % cut, r)
    r = run("check", "-", data=packed[:-3])
    expect(r.code in (1, 4), "check of cut gzip:", r)


# ---- keys and info ---------------------------------------------------------------------------------------------------


@test
def keys_prints_one_line_for_each_key():
    for path in everything():
        want = [line for line in open(path[:-4] + ".keys") if not line.startswith("function ")]
        got = expect_exit(0, run("keys", path)).out.decode().splitlines()
        gone = [line for line in got if re.search(r'" \w+ (-[2-9]|-?\d{2,12}) ', line)]  # expired: the server had dropped them
        expect(len(got) - len(gone) == len(want), "%s: %d lines, %d expired, %d keys" % (path, len(got), len(gone), len(want)))
        text = "\n".join(got)
        for line in want:
            name = line.split('"')[1]
            if re.fullmatch(r"[a-z0-9:_-]+", name):
                expect(name in text, "%s: no %s" % (path, name))


@test
def keys_escapes_what_would_break_a_line():
    data = rdb(string(b"a\nb\rc\x00d\x1b\xff"), string(b""), string(b"plain"))
    r = expect_exit(0, run("keys", "-", data=data))
    expect(len(r.out.splitlines()) == 3 and all(32 <= c < 127 or c in b"\n\t" for c in r.out), "raw bytes", r)
    expect(b"\\n" in r.out and b"\\xff" in r.out and b"\\x1b" in r.out, "escapes", r)


@test
def info_counts_keys_and_types():
    data = rdb(b"\xfa" + txt(b"redis-ver") + txt(b"9.8.7"), b"\xfe\x00", *[string(b"s%d" % i) for i in range(5)],
               b"\xfe\x03", collection(1, b"l", 3), collection(5, b"z", 3))
    write("a.rdb", data)
    r = expect_exit(0, run("info", "a.rdb"))
    for word in (b"9.8.7", b"string", b"list", b"zset", b"7"):
        expect(word in r.out, "no %r" % word, r)
    info = json.loads(expect_exit(0, run("info", "--json", "a.rdb")).out)
    text = json.dumps(info)
    expect("9.8.7" in text and '"string' in text, "json", info)


@test
def info_json_parses_for_all_fixtures():
    for path in everything() + [p for p in sorted(glob.glob(os.path.join(FIXTURES, "*", "*.rdb"))) if "/bad/" not in p][::7]:
        r = expect_exit(0, run("info", "--json", path))
        json.loads(r.out.decode("utf-8"))
    r = expect_exit(0, run("info", "--json", "-", data=rdb(b"\xfa" + txt(b"na\"me\\\x01\xff\xc3\xa9") + txt(b"\xed\xa0\x80\x00\n"))))
    json.loads(r.out.decode("utf-8"))


@test
def info_says_which_servers_can_load_the_file():
    old = expect_exit(0, run("info", "-", data=rdb(string(b"k"), magic=b"REDIS0006"))).out
    new = expect_exit(0, run("info", "-", data=read(fixture("redis74/everything.rdb")))).out
    expect(b"redis-4.0" in old and b"valkey-9" in old, "old file", old)
    expect(b"redis-8.0" in new, "new file", new)


# ---- README ----------------------------------------------------------------------------------------------------------


@test
def examples_of_the_readme_that_are_marked_run():
    path = os.path.join(ROOT, "README.md")
    if not os.path.exists(path):
        raise Skipped("no README.md yet")
    blocks = re.findall(r"<!-- test -->\s*\n```sh\n(.*?)```", open(path, encoding="utf-8").read(), re.S)
    if not blocks:
        raise Skipped("README.md has no block marked <!-- test -->")
    shutil.copy(fixture("redis70/everything.rdb"), "dump.rdb")
    os.mkdir("bin")
    os.symlink(RDBKIT, "bin/rdbkit")
    os.symlink(RDBKIT, "rdbkit")
    env = dict(os.environ, PATH=os.path.abspath("bin") + os.pathsep + os.environ["PATH"])
    for block in blocks:
        p = subprocess.run(["sh", "-eu", "-c", block], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           env=env, timeout=120)
        expect(p.returncode == 0, "exit %d of %r: %r" % (p.returncode, block, p.stdout[-500:]))


# ---- Filters and transforms ------------------------------------------------------------------------------------------

NOW = 1700000000000
LATER, EARLIER = 4102444800000, 1500000000000
KEYS = [  # db, name, type, expiry, elements
    (0, b"user:1", "string", -1), (0, b"user:2", "string", EARLIER), (0, b"user:30", "hash", LATER), (0, b"{tag}a", "list", -1),
    (0, b"", "set", NOW), (3, b"user:1", "zset", NOW - 1), (3, b"nul\x00 \"q\"\n", "string", LATER), (12, b"t\xc3\xa4g", "hash", -1), (12, b"\xff", "list", -1)]


def chosen_file():
    parts, at = [], None
    for db, name, kind, expiry in KEYS:
        if db != at:
            parts.append(b"\xfe" + num(db))
        if expiry != -1:
            parts.append(b"\xfc" + struct.pack("<q", expiry))
        parts.append(string(name) if kind == "string" else collection({"list": 1, "set": 2, "hash": 4, "zset": 5}[kind], name, 3))
        at = db
    return rdb(*parts)


def slot(name):
    tag = re.match(rb"[^{]*\{([^}]+)\}", name)
    return binascii.crc_hqx(tag[1] if tag else name, 0) % 16384


def unquoted(name):
    escape = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
    return re.sub(rb"\\(?:x(..)|(.))", lambda m: bytes([int(m[1], 16)]) if m[1] else escape.get(m[2], m[2]), name)


def listed(path, *args):
    """(db, name, expiry) of each key, as `rdbkit keys` has it."""
    r = expect_exit(0, run("keys", "--format", "%d %e %k", *args, path))
    return [(int(db), unquoted(name), int(e)) for db, e, name in re.findall(rb'^(\d+) (-?\d+) "(.*)"$', r.out, re.M)]


def from_json(path, *args):
    """The same, as `rdbkit to-json` has it."""
    rows = json.loads(expect_exit(0, run("to-json", *args, path)).out)
    name = lambda s: base64.b64decode(s[7:]) if s.startswith("base64:") else s.encode()
    return [(r["db"], name(r["key"]), r.get("expire_ms", -1)) for r in rows if "key" in r]


def from_commands(path, *args):
    """The same, as `rdbkit to-resp --restore` sends it."""
    db, out = None, []
    for c in resp(expect_exit(0, run("to-resp", "--restore", "--to", "redis-7.2", *args, path)).out):
        if c[0] == b"SELECT":
            db = int(c[1])
        else:
            expect(c[0] == b"RESTORE", "command", c)
            out.append((db, c[1], int(c[2]) if b"ABSTTL" in c[4:] else -1))
    return out


def from_file(verb):
    def give(path, *args):
        expect_exit(0, run(verb, *args, "-o", "chosen.rdb", "--force", path))
        expect_exit(0, run("check", "chosen.rdb"))
        return listed("chosen.rdb")
    return give


@test
def filters_choose_the_same_keys_in_every_verb():
    write("in.rdb", chosen_file())
    write("names", b'user:1\n""\n"nul\\x00 \\"q\\"\\n"\nnobody\n')
    fits = lambda want: [(k[0], k[1], k[3]) for k in KEYS if want(*k)]
    user = lambda d, n, t, e: n.startswith(b"user:")
    cases = [
        ((), lambda d, n, t, e: True),
        (("-k", "user:*"), user), (("--key", "user:?"), lambda d, n, t, e: user(d, n, t, e) and len(n) == 6),
        (("-k", "user:[^1]*", "-k", "{*"), lambda d, n, t, e: n in (b"user:2", b"user:30", b"{tag}a")),
        (("-K", "user:*"), lambda *k: not user(*k)), (("-k", "user:*", "-K", "*0", "-K", "*2"), lambda d, n, t, e: n == b"user:1"),
        (("--not-key", "*"), lambda *k: False), (("-k", "nul*q*"), lambda d, n, t, e: n.startswith(b"nul")),
        (("--regex", "-k", "^user:[0-9]$"), lambda d, n, t, e: user(d, n, t, e) and len(n) == 6), (("--regex", "-K", "user|tag"), lambda d, n, t, e: b"user" not in n and b"tag" not in n),
        (("--keys-from", "names"), lambda d, n, t, e: n in (b"user:1", b"") or n.startswith(b"nul")),
        (("--keys-from", "names", "-d", "3"), lambda d, n, t, e: d == 3),
        (("-t", "hash,list"), lambda d, n, t, e: t in ("hash", "list")), (("--type", "set", "-t", "zset"), lambda d, n, t, e: t in ("set", "zset")),
        (("-T", "string"), lambda d, n, t, e: t != "string"), (("-t", "stream,module"), lambda *k: False),
        (("-d", "0"), lambda d, n, t, e: d == 0), (("-d", "1-3,12"), lambda d, n, t, e: d in (3, 12)), (("-D", "0-5"), lambda d, n, t, e: d == 12),
        (("-d", "0", "-d", "3", "-t", "string"), lambda d, n, t, e: d in (0, 3) and t == "string"),
        (("--expired",), lambda d, n, t, e: -1 < e < LATER), (("--expired", "--now", NOW), lambda d, n, t, e: -1 < e < NOW),
        (("--no-expired", "--now", NOW), lambda d, n, t, e: e == -1 or e >= NOW), (("--has-ttl",), lambda d, n, t, e: e != -1),
        (("--no-ttl",), lambda d, n, t, e: e == -1), (("--has-ttl", "--no-expired"), lambda d, n, t, e: e == LATER),
        (("--slot", slot(b"user:1")), lambda d, n, t, e: n == b"user:1"), (("--slot", "0-16383"), lambda *k: True),
        (("--slot", "%d,%d" % (slot(b"tag"), slot(b"\xff"))), lambda d, n, t, e: n in (b"{tag}a", b"\xff")),
        (("--slot", "0-8191"), lambda d, n, t, e: slot(n) < 8192),
    ]

    def one(case):
        args, want = case
        for give in (listed, from_json, from_commands, from_file("filter"), from_file("convert")):
            got = give("in.rdb", *args)
            expect(got == fits(want), "%s: " % (args,), got)

    each(cases, one)
    for give in (listed, from_json, from_commands, from_file("filter"), from_file("convert")):
        for n in range(1, len(KEYS) + 2):
            expect(give("in.rdb", "--limit", n) == fits(lambda *k: True)[:n], "--limit %d" % n)
        expect(give("in.rdb", "--limit", 2, "-d", "3-12", "-T", "zset") == fits(lambda d, n, t, e: d > 0 and t != "zset")[:2], "--limit after the rest")
    for verb in ("keys", "to-json", "to-resp"):
        expect_exit(0, run(verb, "-k", "nobody", "in.rdb"), "no key matched")
        expect(not run(verb, "-q", "-k", "nobody", "in.rdb").err, "-q says something")
    expect_exit(0, run("keys", "--keys-from", "-", "in.rdb", data=b"\xff\n"))
    expect_exit(3, run("keys", "--keys-from", "no such file", "in.rdb"), "no such file")


@test
def transforms_change_names_databases_and_expiries_in_every_verb():
    write("in.rdb", chosen_file())
    change = lambda d=lambda d: d, n=lambda n: n, e=lambda e: e: [(d(k[0]), n(k[1]), e(k[3])) for k in KEYS]
    later = lambda ms: lambda e: e if e == -1 else e + ms
    cases = [
        (("--map-db", "0:5"), change(d=lambda d: d or 5)), (("--map-db", "0:3", "--map-db", "3:0"), change(d=lambda d: {0: 3, 3: 0}.get(d, d))),
        (("--rename", "user\\::u"), change(n=lambda n: re.sub(rb"^user:", b"u", n))), (("--rename", ":new-"), change(n=lambda n: b"new-" + n)),
        (("--rename", "user\\:3:x", "--rename", "user:y"), change(n=lambda n: re.sub(rb"^user", b"y", re.sub(rb"^user:3", b"x", n)))),
        (("--rename", "\\xff:\\x00"), change(n=lambda n: n.replace(b"\xff", b"\x00"))),
        (("--strip-ttl",), change(e=lambda e: -1)), (("--ttl-shift", "60"), change(e=later(60000))), (("--ttl-shift", "-60"), change(e=later(-60000))),
        (("--map-db", "0:1", "--rename", "user:a", "--strip-ttl"), change(lambda d: d or 1, lambda n: n.replace(b"user", b"a"), lambda e: -1)),
    ]

    def one(case):
        args, want = case
        for give in (listed, from_json, from_commands, from_file("filter"), from_file("convert")):
            got = give("in.rdb", *args)
            expect(got == want, "%s: " % (args,), got)

    each(cases, one)
    expect(listed("in.rdb", "--map-db", "0:5", "-d", "0", "-k", "user:2", "--rename", "user:x", "--ttl-shift", "1", "--expired", "--now", NOW) ==
           [(5, b"x:2", EARLIER + 1000)], "filters before transforms")


@test
def wrong_filters_are_wrong_usage():
    write("in.rdb", chosen_file())

    def one(args):
        expect(run("filter", *args, "-o", "out", "in.rdb").code == 2, "exit 2 wanted of", args)
        expect(not os.path.exists("out"), "output of %s" % (args,))

    each([("-t", "hsh"), ("-t", ""), ("-d", "x"), ("-d", "3-1"), ("-d", "-1"), ("--slot", "16384"), ("--slot", "x"), ("--limit", "-1"), ("--limit", "0"), ("--limit", "x"),
          ("--now", "x"), ("--now", "x", "--expired"), ("--expired", "--no-expired"), ("--has-ttl", "--no-ttl"), ("--expired", "--no-ttl"),
          ("--strip-ttl", "--ttl-shift", "1"), ("--ttl-shift", "x"), ("--regex",), ("--regex", "-k", "("), ("--map-db", "0"), ("--map-db", "0:1", "--map-db", "0:2"),
          ("--rename", "nothing"), ("--rename", "a:b:c")], one)


# ----------------------------------------------------------------------------------------------------------------------


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = skipped = 0
    if not os.access(RDBKIT, os.X_OK):
        print("FAIL no program %s" % RDBKIT)
        return 0, 1, 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for t in tests:
        if only not in t.__name__:
            continue
        with tempfile.TemporaryDirectory(prefix="rdbkit-cli.") as folder:
            os.chdir(folder)
            try:
                t()
                passed += 1
            except Skipped as e:
                skipped += 1
                print("SKIPPED %s: %s" % (t.__name__, e))
            except Exception as e:
                failed += 1
                print("FAIL %s: %s" % (t.__name__, (str(e) if isinstance(e, AssertionError) else traceback.format_exc())[:4000]))
            finally:
                os.chdir("/")
        sys.stdout.flush()
    return passed, failed, skipped


if __name__ == "__main__":
    results = main()
    print("%d passed, %d failed, %d skipped" % results)
    sys.exit(1 if results[1] else 0)
