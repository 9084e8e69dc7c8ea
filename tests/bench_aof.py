#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""For tests/bench.py: large append-only files, and how long a real server takes to load one.

    bench_aof.py make mixed|queue FILE [MB]      write one (500)
    bench_aof.py load SERVER FILE [ROUNDS]       seconds that SERVER needs to load it, best of ROUNDS (3)

make writes some 90 MB/s: blocks of commands are built once and repeated with other key numbers cut in. mixed is what
a session store, counters and a few collections log: SET, SET PXAT, INCR, HSET, ZADD, RPUSH, SADD, DEL over a million
keys. queue is LPUSH and RPOP on few lists, where next to nothing is left at the end: the replay, not the result, costs. Redis before 6.2 does not know
SET PXAT: it drops that tenth of mixed without a word.
"""
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

BLOCK = 4096  # commands that are built at a time


def encode(*args):
    args = [x if isinstance(x, bytes) else str(x).encode() for x in args]
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x) for x in args)


def mixed_block(r):
    """A block of commands; #### in their keys is to be replaced."""
    out, key = [], lambda kind: b"%s:####%04d" % (kind, r.randrange(10000))
    value = lambda n: b"".join(r.choice(WORDS) for _ in range(n))
    for _ in range(BLOCK):
        x = r.random()
        if x < .30: out.append(encode("SET", key(b"session"), value(r.randrange(4, 24))))
        elif x < .40: out.append(encode("SET", key(b"cache"), value(10), "PXAT", 4102444800000 + r.randrange(10**9)))
        elif x < .60: out.append(encode("INCR", key(b"counter")))
        elif x < .75: out.append(encode("HSET", key(b"user"), "name", value(2), "n", r.randrange(10**6), "f%d" % r.randrange(20), value(3)))
        elif x < .85: out.append(encode("ZADD", b"rank:####%02d" % r.randrange(100), repr(r.uniform(0, 1e6)), b"m%d" % r.randrange(5000)))
        elif x < .92: out.append(encode("RPUSH", b"log:####%02d" % r.randrange(100), value(8)))
        elif x < .97: out.append(encode("SADD", b"tags:####%02d" % r.randrange(100), b"t%d" % r.randrange(1000)))
        else: out.append(encode("DEL", key(b"session")))
    return b"".join(out)


def queue_block(r):
    """As many RPOP as LPUSH, so that a list stays some thousand items long."""
    out = []
    for _ in range(BLOCK // 2):
        name = b"queue:%d" % r.randrange(16)
        job = b'{"id":%016x,"what":"%s"}' % (r.getrandbits(64), b"".join(r.choice(WORDS) for _ in range(12)))
        out += [encode("LPUSH", name, job), encode("RPOP", name)] if r.random() < .9 else [encode("LPUSH", name, job, job), encode("LPOP", name, 2)]
    return b"".join(out)


WORDS = [b"alpha ", b"token:", b"user/", b"0123", b"refresh", b"\xe4\xb8\xad\xe6\x96\x87", b"xyz", b"42,"]
MAKERS = {"mixed": mixed_block, "queue": queue_block}


def make(kind, path, mb=500, seed=1):
    """A file of about mb megabytes. Returns the number of commands. The same seed gives the same file."""
    r, limit, n = random.Random(seed), mb * 1000000, 0
    with open(path + ".new", "wb") as f:
        f.write(encode("SELECT", 0))
        if kind == "queue":
            for i in range(16):
                for _ in range(20):
                    f.write(encode("LPUSH", "queue:%d" % i, *[b"job %d" % j for j in range(100)]))
        blocks = [MAKERS[kind](r) for _ in range(24)]  # some 12 MB
        while f.tell() < limit:
            f.write(r.choice(blocks).replace(b"####", b"%04d" % r.randrange(100)))  # 100 * 10000 keys of a kind
            n += BLOCK
    os.rename(path + ".new", path)
    return n


LOADED = re.compile(r"DB loaded from (?:append only file|.*incr.*|.*base.*): ([0-9.]+) seconds")


def ask(port, *words):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(encode(*words))
        return s.recv(1 << 16)


def peak_of(pid):
    """What a process took of the machine's memory at the most, as bench_gen run tells of ours. 0 where there is no /proc."""
    try:
        with open("/proc/%d/status" % pid) as f:
            return int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1]) << 10
    except (OSError, TypeError):
        return 0


def loading_time(server, path, port=27321, limit=600):
    """(seconds that the log speaks of, seconds until it answers PING, peak memory in bytes) of a server that loads an
    append-only file: a file, hard-linked in its place, or a folder. The server is stopped again."""
    folder = tempfile.mkdtemp(prefix="bench-aof.", dir=os.path.dirname(os.path.abspath(path)))
    process = None
    try:
        if os.path.isdir(path):
            shutil.copytree(path, os.path.join(folder, "appendonlydir"), copy_function=os.link)
        else:
            os.link(path, os.path.join(folder, "appendonly.aof"))  # 7.0 and later move it into their folder: a link costs nothing
        log = os.path.join(folder, "log")
        start = time.monotonic()
        process = subprocess.Popen([server, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes",
                                    "--auto-aof-rewrite-percentage", "0", "--appendfsync", "no", "--logfile", log], stdout=subprocess.DEVNULL)
        while time.monotonic() - start < limit:
            if process.poll() is not None:
                raise RuntimeError("the server ended: " + open(log, errors="replace").read()[-400:])
            try:
                if ask(port, "PING").startswith(b"+PONG"):  # -LOADING before
                    break
            except OSError:
                pass
            time.sleep(.02)
        else:
            raise RuntimeError("not loaded after %d s" % limit)
        took = time.monotonic() - start
        memory = peak_of(process.pid)
        found = [float(x) for x in LOADED.findall(open(log, errors="replace").read())]
        total = re.search(r"DB loaded from append only file: ([0-9.]+) seconds", open(log, errors="replace").read())
        return (float(total[1]) if total else sum(found) or took), took, memory
    finally:
        if process and process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def main(words):
    if words[:1] == ["make"] and len(words) > 2 and words[1] in MAKERS:
        start = time.monotonic()
        n = make(words[1], words[2], int(words[3]) if len(words) > 3 else 500)
        took, size = time.monotonic() - start, os.path.getsize(words[2])
        print("%s: %.1f MB, %d commands, made in %.1f s" % (words[2], size / 1e6, n, took))
    elif words[:1] == ["load"] and len(words) > 2:
        size, best = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(words[2]) for f in fs) or os.path.getsize(words[2]), None
        for _ in range(int(words[3]) if len(words) > 3 else 3):
            result = loading_time(words[1], words[2])
            best = min(best or result, result)
        print("%s: loaded in %.2f s by its log (%.0f MB/s), answers after %.2f s, %.0f MiB at its peak" %
              (words[2], best[0], size / 1e6 / best[0], best[1], best[2] / 2**20))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
