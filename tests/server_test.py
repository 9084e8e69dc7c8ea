#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds `rdbkit to-resp` against real servers: what one server saved has to arrive in another one whole.

    tests/server_test.py [--servers DIR] [--oracles DIR] [--corpus DIR] [-k TEXT] [--jobs N]

Servers are DIR/<name>/server and DIR/<name>/cli, with names like redis-7.0 or valkey-9, in build/servers (or in
$RDBKIT_SERVERS or $SERVERS); a redis-server or valkey-server in PATH stands in for its release. --oracles: use the
servers of that folder too. --corpus: also files DIR/<name>/{mix,odd,tiny,cluster}.rdb with .keys beside, by hand
alone. -k: only tests with TEXT in their name. The last line is "N passed, N failed, N skipped".

Each server is filled with tests/gendata.py under several settings and saves; each dump goes into each server
through `rdbkit to-resp --to TARGET --allow-loss | cli --pipe`; tests/keyspace.py prints what both hold. The two have to
be equal apart from what tests/compare.py takes away: what that target cannot hold.
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
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import gendata
import keyspace
from compare import LEVELS, Keyspace, differences, has_functions, losses, number_of

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
        self.release, self.programs = release, programs
        self.port = free_port()
        self.dir = tempfile.mkdtemp(prefix=release + ".", dir=work)
        self.log = open(os.path.join(self.dir, "log"), "wb")
        args = [programs["server"], "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir, "--save", ""]
        self.process = subprocess.Popen(args + list(settings), stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        running.append(self)
        for _ in range(400):
            try:
                self.conn = keyspace.Conn(self.port)
                if self.conn("PING") == b"PONG":
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(.025)
        self.log.flush()
        raise RuntimeError("%s does not start: %s" % (release, open(self.log.name, errors="replace").read()[-400:]))

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
        server.ask("SAVE")
        path = os.path.join(work, "%s.%s.rdb" % (release, variant))
        os.rename(os.path.join(server.dir, "dump.rdb"), path)
        return Source("%s of %s" % (variant, release), path, lines)
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


NOTES = re.compile(r"warning: (pending-gone|module-aux|db-number|slot-import): ")


def try_pair(source, server):
    """One file into one server. Returns complaints."""
    release, out = server.release, []
    lost = losses(source.holds, release)
    plain = rdbkit("to-resp", source.path, "--to", release, stdout=subprocess.PIPE)
    if plain.returncode != (5 if lost else 0):
        return ["without --allow-loss: exit %d, and %s: %s" % (plain.returncode, "lost would be " + ", ".join(sorted(lost)) if lost
                else "nothing would be lost", plain.stderr.decode(errors="replace")[:400])]
    if lost and plain.stdout:
        out.append("refused, and %d bytes were written before" % len(plain.stdout))
    said = [line for line in plain.stderr.decode(errors="replace").splitlines() if not NOTES.search(line)]
    if not lost and said:
        out.append("nothing lost, and it says: " + " / ".join(said)[:200])
    data = plain.stdout
    if lost:
        allowed = rdbkit("to-resp", source.path, "--to", release, "--allow-loss", stdout=subprocess.PIPE)
        if allowed.returncode != 0:
            return out + ["--allow-loss: exit %d: %s" % (allowed.returncode, allowed.stderr.decode(errors="replace")[:400])]
        if not allowed.stderr:
            out.append("lost something without a word")
        data = allowed.stdout
    server.empty()
    complaint = server.pipe(data)
    if complaint:
        out.append(complaint)
    return out + differences(source.holds, Keyspace(server.lines()), release)


def test_pairs(sources, release, programs, only):
    """All sources into one server."""
    try:
        server = Server(release, programs)
    except Exception as e:
        report("%s starts" % release, [str(e)])
        return
    for source in sources:
        name = "%s goes into %s" % (source.name, release)
        if only and only not in name:
            continue
        try:
            report(name, try_pair(source, server))
        except Exception as e:
            report(name, ["%s: %s" % (type(e).__name__, e)])
            if server.process.poll() is not None:
                server = Server(release, programs)
    server.stop()


def main():
    global work
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--servers", default=os.environ.get("RDBKIT_SERVERS") or os.environ.get("SERVERS") or os.path.join(ROOT, "build/servers"))
    p.add_argument("--oracles")
    p.add_argument("--corpus")
    p.add_argument("-k", default="")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    o = p.parse_args()
    servers = {} if os.environ.get("NO_SERVERS") else find_servers([o.servers] + ([o.oracles] if o.oracles else []))
    for release in WANTED:
        if release not in servers:
            skip("no server %s in %s" % (release, o.servers))
    if servers and not os.access(RDBKIT, os.X_OK):
        report("rdbkit is there to be tested", ["no program %s" % RDBKIT])
        servers = {}
    if not servers:
        skip("NO SERVER AT ALL, nothing here was tested")
        return
    work = tempfile.mkdtemp(prefix="rdbkit-servers.")
    start, sources = time.time(), []
    with ThreadPoolExecutor(o.jobs) as pool:
        jobs = []
        for release in LEVELS:
            for variant in ("mix", "odd", "tiny", "cluster") if release in servers else ():
                jobs.append(("%s of %s" % (variant, release), pool.submit(make_source, release, servers[release], variant)))
        for name, job in jobs:
            try:
                sources.append(job.result())
            except Exception as e:
                report("%s can be made" % name, ["%s: %s" % (type(e).__name__, e)])
        for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "everything.rdb"))):
            if os.path.exists(path[:-4] + ".keys"):
                sources.append(file_source("%s" % os.path.relpath(path, ROOT), path))
        for path in sorted(glob.glob(os.path.join(o.corpus, "*", "*.rdb"))) if o.corpus else ():
            if os.path.exists(path[:-4] + ".keys"):
                sources.append(file_source(os.path.relpath(path, o.corpus), path))
        print("%d files made in %.0f s, servers: %s" % (len(sources), time.time() - start, " ".join(servers)), flush=True)
        for job in [pool.submit(test_pairs, sources, r, servers[r], o.k) for r in LEVELS if r in servers]:
            job.result()
    print("took %.0f s" % (time.time() - start))


if __name__ == "__main__":
    main()
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    sys.exit(1 if failed else 0)
