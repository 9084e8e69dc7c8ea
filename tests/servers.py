# SPDX-License-Identifier: MIT
"""Real servers to test against, what they are filled with, and the counting of passes: for server_test.py and
convert_test.py.

Servers are DIR/<name>/server and DIR/<name>/cli, with names like redis-7.0 or valkey-9, in build/servers (or in
$RDBKIT_SERVERS or $SERVERS); a redis-server or valkey-server in PATH stands in for its release.
"""
import argparse
import atexit
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import gendata
import keyspace
from compare import LEVELS, Keyspace, has_functions, number_of

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RDBKIT = os.path.abspath(os.environ.get("RDBKIT") or os.path.join(ROOT, "rdbkit"))
WANTED = ("redis-6.0", "redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9")


# ---- Servers ---------------------------------------------------------------------------------------------------------

running = []
ports = iter(range(21000 + os.getpid() % 7000, 60000))
ports_lock = threading.Lock()
work = None


def free_port():
    with ports_lock:
        for port in ports:
            try:
                for p in (port, port + 10000):  # the second for the cluster bus
                    with socket.socket() as s:
                        s.bind(("127.0.0.1", p))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


class Server:
    def __init__(self, release, programs, *settings):
        self.release, self.programs, self.settings = release, programs, list(settings)
        self.port = free_port()
        self.dir = tempfile.mkdtemp(prefix=release + ".", dir=work)
        self.log = open(os.path.join(self.dir, "log"), "wb")
        running.append(self)
        self.start()

    def start(self):
        """Starts it with what is in its dump.rdb."""
        args = [self.programs["server"], "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir, "--save", ""]
        self.process = subprocess.Popen(args + self.settings, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        for _ in range(800):
            try:
                self.conn = keyspace.Conn(self.port)
                if self.conn("PING") == b"PONG":
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(.0125)
        raise RuntimeError("%s does not start: %s" % (self.release, self.last_words()))

    def last_words(self):
        self.log.flush()
        return open(self.log.name, errors="replace").read()[-400:]

    def restart(self):
        self.process.kill()
        self.process.wait()
        self.start()

    def ask(self, *args):
        answer = self.conn(*args)
        if isinstance(answer, Exception):
            raise RuntimeError("%s: %s: %s" % (self.release, args[0], answer))
        return answer

    def empty(self):
        self.ask("FLUSHALL")
        if has_functions(self.release):
            self.ask("FUNCTION", "FLUSH")

    def pipe(self, data):
        """Gives bytes or a file to cli --pipe; returns a complaint, or None."""
        how = {"input": data} if isinstance(data, bytes) else {"stdin": data}
        p = subprocess.run([self.programs["cli"], "-p", str(self.port), "--pipe"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=120, **how)
        text = p.stdout.decode(errors="replace")
        if p.returncode == 0 and re.search(r"^errors: 0, replies: \d+$", text, re.M):
            return None
        return "cli --pipe into %s: %s" % (self.release, text[:600])

    def lines(self):
        p = subprocess.run([sys.executable, os.path.join(HERE, "keyspace.py"), str(self.port), "--ttl"], stdout=subprocess.PIPE,
                           check=True, timeout=120)
        return p.stdout.decode().splitlines()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


@atexit.register
def stop_all():
    for s in running:
        s.stop()
    if work:
        shutil.rmtree(work, ignore_errors=True)


def find_servers(folders):
    found = {}
    for folder in folders:
        for release in LEVELS:
            programs = {p: os.path.join(folder, release, p) for p in ("server", "cli")}
            if release not in found and all(os.access(p, os.X_OK) for p in programs.values()):
                found[release] = programs
    for kind in ("redis", "valkey"):
        server, cli = shutil.which(kind + "-server"), shutil.which(kind + "-cli")
        if server and cli:
            text = subprocess.run([server, "--version"], stdout=subprocess.PIPE).stdout.decode()
            m = re.search(r"v=(\d+)\.(\d+)", text)
            release = m and next((r for r in ("%s-%s.%s" % (kind, m[1], m[2]), "%s-%s" % (kind, m[1])) if r in LEVELS), None)
            if release and release not in found:
                found[release] = {"server": server, "cli": cli}
    return found


# ---- Sources ---------------------------------------------------------------------------------------------------------

ODD = ["hash-max-ziplist-entries", "5000", "hash-max-ziplist-value", "20000", "zset-max-ziplist-entries", "5000",
       "zset-max-ziplist-value", "20000", "set-max-intset-entries", "5000", "list-max-ziplist-size", "-5",
       "rdbcompression", "no", "maxmemory-policy", "allkeys-lfu"]
TINY = ["hash-max-ziplist-entries", "0", "zset-max-ziplist-entries", "0", "set-max-intset-entries", "0",
        "list-max-ziplist-size", "1", "list-compress-depth", "1", "rdbchecksum", "no", "maxmemory-policy", "allkeys-lru"]


def settings_of(variant, release):
    n, settings = number_of(release), []
    if variant == "odd":
        settings = ODD + (["stream-node-max-entries", "7"] if n >= 5 else [])
        settings += ["set-max-listpack-entries", "5000", "set-max-listpack-value", "20000"] if n >= 7.2 else []
    elif variant == "tiny":
        settings = TINY + (["set-max-listpack-entries", "0"] if n >= 7.2 else [])
    elif variant == "cluster":
        settings = ["cluster-enabled", "yes"]
    return [("--" if i % 2 == 0 else "") + x for i, x in enumerate(settings)]


class Source:
    """A file, and what the server that wrote it held."""

    def __init__(self, name, path, lines):
        self.name, self.path, self.holds = name, path, Keyspace(lines)


extras = []  # functions of (server, source): what a test wants to know of a server before it saves
generated = {}
generated_lock = threading.Lock()


def data_for(level, onedb):
    with generated_lock:
        if (level, onedb) not in generated:
            generated[level, onedb] = gendata.commands(level, onedb=onedb)
        return generated[level, onedb]


def make_source(release, programs, variant):
    server = Server(release, programs, *settings_of(variant, release))
    try:
        if variant == "cluster":
            server.ask("CLUSTER", "ADDSLOTS", *range(16384))
            for _ in range(400):
                if b"cluster_state:ok" in server.ask("CLUSTER", "INFO"):
                    break
                time.sleep(.025)
        complaint = server.pipe(data_for(LEVELS[release], variant == "cluster"))
        if complaint:
            raise RuntimeError(complaint)
        lines = server.lines()
        source = Source("%s of %s" % (variant, release), os.path.join(work, "%s.%s.rdb" % (release, variant)), lines)
        for extra in extras:
            extra(server, source)
        server.ask("SAVE")
        os.rename(os.path.join(server.dir, "dump.rdb"), source.path)
        return source
    finally:
        server.stop()


def file_source(name, path):
    with open(path[:-4] + ".keys", encoding="utf-8") as f:
        return Source(name, path, f.read().splitlines())


# ---- Tests -----------------------------------------------------------------------------------------------------------

passed = failed = skipped = 0
count_lock = threading.Lock()


def report(name, complaints):
    global passed, failed
    with count_lock:
        if not complaints:
            passed += 1
            return
        failed += 1
        print("FAIL %s: %d complaints" % (name, len(complaints)))
        for c in complaints[:6]:
            print("FAIL     " + c[:700])
        sys.stdout.flush()


def skip(what):
    global skipped
    skipped += 1
    print("SKIPPED, NOT TESTED: " + what)


def rdbkit(*args, **how):
    return subprocess.run([RDBKIT] + list(args), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=120, **how)




# ---- Runs ------------------------------------------------------------------------------------------------------------

def options(text):
    """The options of a test with servers."""
    p = argparse.ArgumentParser(description=text.splitlines()[0])
    p.add_argument("--servers", default=os.environ.get("RDBKIT_SERVERS") or os.environ.get("SERVERS") or os.path.join(ROOT, "build/servers"))
    p.add_argument("--oracles")
    p.add_argument("--corpus")
    p.add_argument("-k", default="")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    return p


def start(o):
    """The servers that a run has, {} if there is nothing to do."""
    global work
    found = {} if os.environ.get("NO_SERVERS") else find_servers([o.servers] + ([o.oracles] if o.oracles else []))
    for release in WANTED:
        if release not in found:
            skip("no server %s in %s" % (release, o.servers))
    if found and not os.access(RDBKIT, os.X_OK):
        report("rdbkit is there to be tested", ["no program %s" % RDBKIT])
        found = {}
    if not found:
        skip("NO SERVER AT ALL, nothing here was tested")
    else:
        work = tempfile.mkdtemp(prefix="rdbkit-servers.")
    return found


def sources(o, found, pool):
    """All files of a run: each server's own, the fixtures, the corpus."""
    start, out, jobs = time.time(), [], []
    for release in LEVELS:
        for variant in ("mix", "odd", "tiny", "cluster") if release in found else ():
            jobs.append(("%s of %s" % (variant, release), pool.submit(make_source, release, found[release], variant)))
    for name, job in jobs:
        try:
            out.append(job.result())
        except Exception as e:
            report("%s can be made" % name, ["%s: %s" % (type(e).__name__, e)])
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "everything.rdb"))):
        if os.path.exists(path[:-4] + ".keys"):
            out.append(file_source("%s" % os.path.relpath(path, ROOT), path))
    for path in sorted(glob.glob(os.path.join(o.corpus, "*", "*.rdb"))) if o.corpus else ():
        if os.path.exists(path[:-4] + ".keys"):
            out.append(file_source(os.path.relpath(path, o.corpus), path))
    print("%d files made in %.0f s, servers: %s" % (len(out), time.time() - start, " ".join(found)), flush=True)
    return out


def summary():
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed else 0
