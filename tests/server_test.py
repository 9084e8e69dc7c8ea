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
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import servers
from compare import LEVELS, Keyspace, differences, losses
from servers import Server, rdbkit, report, skip

NOTES = re.compile(r"warning: (pending-gone|module-aux|db-number|slot-import|dropped-module|dropped-function): ")


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
    o = servers.options(__doc__).parse_args()
    found = servers.start(o)
    if not found:
        return
    start = time.time()
    with ThreadPoolExecutor(o.jobs) as pool:
        sources = servers.sources(o, found, pool)
        for job in [pool.submit(test_pairs, sources, r, found[r], o.k) for r in LEVELS if r in found]:
            job.result()
    print("took %.0f s" % (time.time() - start))


if __name__ == "__main__":
    main()
    sys.exit(servers.summary())
