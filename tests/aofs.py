# SPDX-License-Identifier: MIT
"""Append-only files: how servers are made to write and load them, and a small reader of our own that says where a cut
file is still good. For aof_test.py and make_aof_fixtures.py.

An append-only file is a path here: that of the one file before 7.0, that of the folder with the manifest from 7.0 on.
"""
import glob
import os
import re
import shutil
import struct
import subprocess
import time

import gencmds
import rdb
from compare import LEVELS, number_of
from keyspace import Conn
from servers import Server

NAME = "appendonly.aof"


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    return path


# ---- Servers that keep one -------------------------------------------------------------------------------------------

def multi_part(release):
    return number_of(release) >= 7


class RdbServer(Server):
    """A server that starts with an RDB file."""

    def __init__(self, release, programs, path, *settings):
        self.load = path
        super().__init__(release, programs, *settings)

    def start(self):
        shutil.copy(self.load, os.path.join(self.dir, "dump.rdb"))
        super().start()


class AofServer(Server):
    """A server with appendonly yes. load: an append-only file that it starts with, or None."""

    def __init__(self, release, programs, *settings, load=None):
        self.load = load
        always = ["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0", "--aof-load-truncated", "no"]
        super().__init__(release, programs, *always, *settings)

    def start(self):
        if self.load:
            put(self.load, self.dir)
            self.load = None
        super().start()
        self.side = Conn(self.port)  # the first one may stand in a transaction

    def files(self):
        return os.path.join(self.dir, "appendonlydir" if multi_part(self.release) else NAME)

    def feed(self, commands, batch=500):
        """Encoded commands; returns their answers."""
        out = []
        for i in range(0, len(commands), batch):
            part = commands[i:i + batch]
            self.conn.sock.sendall(b"".join(part))
            out += [self.conn.read() for _ in part]
        return out

    def info(self, name):
        found = re.search(rb"^%s:(\S+)" % name.encode(), self.side("INFO"), re.M)
        return found and found[1].decode()

    def rewrite(self):
        self.side("BGREWRITEAOF")

    def settle(self):
        """Waits for the end of a rewrite."""
        for _ in range(1200):
            if self.info("aof_rewrite_in_progress") == "0" and self.info("aof_rewrite_scheduled") == "0":
                if self.info("aof_last_bgrewrite_status") != "ok":
                    raise RuntimeError("%s: the rewrite failed: %s" % (self.release, self.last_words()))
                return
            time.sleep(.025)
        raise RuntimeError("%s: the rewrite does not end" % self.release)

    def shutdown(self):
        """Has all written out and ends the server."""
        self.settle()
        self.conn.sock.sendall(Conn.encode(("SHUTDOWN", "NOSAVE")))
        self.process.wait(30)
        self.log.close()


def put(path, folder):
    """An append-only file in its place for a server in a folder. A single file is right for all: 7.0 takes it in."""
    if os.path.isdir(path):
        shutil.copytree(path, os.path.join(folder, "appendonlydir"))
    else:
        shutil.copy(path, os.path.join(folder, NAME))


def copy(path, to):
    shutil.rmtree(to, ignore_errors=True)
    if os.path.isdir(path):
        shutil.copytree(path, to)
    else:
        shutil.copy(path, to)


def held(release, programs, path, *settings):
    """The lines of keyspace.py that a server has after loading an append-only file: the judge."""
    server = AofServer(release, programs, *settings, load=path)
    try:
        return server.lines()
    finally:
        server.stop()


def blocked_clients(server):
    """Commands that wait for another client: each is logged as another one, after what woke it."""
    n = number_of(server.release)
    cases = [(("BLPOP", "wait:a", "wait:b", 0), ("RPUSH", "wait:b", "1", "2", "3")), (("BRPOP", "wait:c", 0), ("LPUSH", "wait:c", "x", "y")),
             (("BRPOPLPUSH", "wait:d", "wait:e", 0), ("RPUSH", "wait:d", "x", "y")), (("BRPOPLPUSH", "wait:f", "wait:f", 0), ("RPUSH", "wait:f", "1", "2"))]
    if n >= 5:
        cases += [(("BZPOPMIN", "wait:g", 0), ("ZADD", "wait:g", 1, "a", 2, "b")), (("BZPOPMAX", "wait:h", 0), ("ZADD", "wait:h", 1, "a", 2, "b"))]
        server.ask("XGROUP", "CREATE", "wait:i", "g", "$", "MKSTREAM")
        cases += [(("XREADGROUP", "GROUP", "g", "late", "BLOCK", 0, "STREAMS", "wait:i", ">"), ("XADD", "wait:i", "77-1", "a", "b"))]
    if n >= 6.2:
        cases += [(("BLMOVE", "wait:j", "wait:k", "left", "RIGHT", 0), ("RPUSH", "wait:j", "x", "y"))]
    if n >= 7:
        cases += [(("BLMPOP", 0, 1, "wait:l", "LEFT", "COUNT", 2), ("RPUSH", "wait:l", "x", "y", "z")),
                  (("BZMPOP", 0, 1, "wait:m", "MAX", "COUNT", 2), ("ZADD", "wait:m", 1, "a", 2, "b", 3, "c"))]
    for waiting, waking in cases:
        other = Conn(server.port)
        other.sock.sendall(Conn.encode(waiting))
        for _ in range(400):
            if server.info("blocked_clients") != "0":
                break
            time.sleep(.005)
        server.ask("MULTI")
        server.ask(*waking)
        server.ask("SET", "wait:done", waiting[1])
        server.ask("EXEC")
        other.read()
        other.close()


def make(release, programs, path, seed=1, count=3000, rewrite=False, preamble=False, settings=(), odd=False, small=False):
    """Has a server write an append-only file; rewrite: in the middle, while commands come in. Returns the answers."""
    settings = ["--aof-use-rdb-preamble", "yes" if preamble else "no", *settings]
    server = AofServer(release, programs, *settings)
    try:
        commands = gencmds.commands(LEVELS[release], seed, count, odd, small)
        half = len(commands) // 2 if rewrite else len(commands)
        answers = server.feed(commands[:half])
        if rewrite:
            server.rewrite()
            answers += server.feed(commands[half:half + 100])
            server.settle()
            answers += server.feed(commands[half + 100:])
        server.ask("SELECT", 0)
        blocked_clients(server)
        server.shutdown()
        copy(server.files(), path)
        return answers
    finally:
        server.stop()


def check_aof(release, programs, path):
    """What the server's own checker says: a complaint, or None. None too where there is no checker."""
    checker = os.path.join(os.path.dirname(programs["server"]), "check-aof")
    if not os.access(checker, os.X_OK):
        return None
    name = release.split("-")[0] + "-check-aof"  # where it is the server's own program, it goes by what it was called
    p = subprocess.run([name, manifest_of(path) if os.path.isdir(path) else path], executable=checker, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       stdin=subprocess.DEVNULL, timeout=60)
    return None if p.returncode == 0 else "check-aof: exit %d: %s" % (p.returncode, p.stdout.decode(errors="replace")[-400:])


# ---- A reader of our own ---------------------------------------------------------------------------------------------

def manifest_of(folder):
    return glob.glob(os.path.join(folder, "*.manifest"))[0]


def parts_of(folder):
    """[(type, path)] in the order in which they are loaded."""
    lines = [x.split() for x in open(manifest_of(folder)) if not x.startswith("#")]
    rows = [(x[5], int(x[3]), os.path.join(folder, x[1])) for x in lines]
    return [("b", p) for t, _, p in rows if t == "b"] + [("i", p) for t, n, p in sorted(r for r in rows if r[0] == "i")]


def image_len(data):
    """Bytes of the RDB image that an append-only file begins with; 0 if none."""
    if not data.startswith((b"REDIS", b"VALKEY")):
        return 0
    crc = 0
    for i, byte in enumerate(data):
        crc = rdb.CRC[(crc ^ byte) & 255] ^ crc >> 8
        if byte == 255 and data[i + 1:i + 9] in (struct.pack("<Q", crc), bytes(8)) and data[i + 9:i + 10] in (b"", b"*", b"#"):
            return i + 9
    raise ValueError("an RDB image without an end")


def records(data, at=0):
    """(begin, end, arguments) of each whole record; arguments are None for an annotation. Ends where none begins."""
    def line(kind):
        nonlocal at
        end = data.find(b"\r\n", at)
        if end < 0 or data[at:at + 1] != kind or not re.fullmatch(rb"0|[1-9][0-9]*", data[at + 1:end]):
            raise EOFError
        number, at = int(data[at + 1:end]), end + 2
        return number

    while at < len(data):
        begin = at
        try:
            if data[at:at + 1] == b"#":
                end = data.find(b"\r\n", at)
                if end < 0:
                    return
                at = end + 2
                yield begin, at, None
                continue
            words = []
            for _ in range(line(b"*")):
                n = line(b"$")
                if data[at + n:at + n + 2] != b"\r\n":
                    return
                words.append(data[at:at + n])
                at += n + 2
            yield begin, at, words
        except EOFError:
            return


class Walk:
    """What a file is as far as it is good. ends: [(offset, whether a transaction is open there, annotation)], by record."""

    def __init__(self, data):
        self.start = image_len(data)
        self.ends, inside = [], False
        for _, end, words in records(data, self.start):
            name = words[0].upper() if words else b""
            inside = name != b"EXEC" if inside else name == b"MULTI"
            self.ends.append((end, inside, words is None))

    def cut_at(self, size):
        """Of a file cut to size: (whether that is sound, whether a transaction is open, offsets where a repair may cut)."""
        good, notes, last, inside = self.start, self.start, self.start, False
        for end, open_here, note in self.ends:
            if end > size:
                break
            last, inside = end, open_here
            if not open_here:
                notes = end
                if not note:
                    good = end
        sound = last == size and not inside
        return sound, inside, {size} if sound else {good, notes}


def counts(answers):
    """{message: how often} of the errors among answers."""
    out = {}
    for a in answers:
        if isinstance(a, Exception):
            text = re.sub(r"'.*", "", str(a))
            out[text] = out.get(text, 0) + 1
    return out
