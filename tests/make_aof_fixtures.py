#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes fixtures/aof anew: small append-only files of real servers, all commands of a release in each.

    tests/make_aof_fixtures.py [--servers DIR] [--oracles DIR] [-k RELEASE] [--out DIR]

For every server found: log (as the commands came), rewritten (BGREWRITEAOF without RDB preamble in the middle of the
commands) and preamble (with it); from 7.0 on the latter two with timestamps. NAME.aof.gz before 7.0, NAME.aofdir from
7.0 on. NAME.keys.gz is what the same server held after loading the file again, printed by tests/keyspace.py.
The commands are those of gencmds.py --small and of aofs.blocked_clients(), the seed differs from file to file.
"""
import gzip
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import aofs
import servers
from compare import LEVELS

VARIANTS = {"log": {}, "rewritten": {"rewrite": True}, "preamble": {"rewrite": True, "preamble": True}}
SETTINGS = ["--stream-node-max-entries", "10"]


def pack(path, data):
    with open(path, "wb") as f, gzip.GzipFile("", "wb", 9, f, mtime=0) as z:  # the same bytes for the same data
        z.write(data)


def main():
    p = servers.options(__doc__)
    p.add_argument("--out", default=os.path.join(servers.ROOT, "fixtures", "aof"))
    o = p.parse_args()
    found = servers.start(o)
    for number, release in enumerate(LEVELS):
        if release not in found or o.k not in release:
            continue
        folder = os.path.join(o.out, release)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for variant, how in VARIANTS.items():
            settings = SETTINGS if release != "redis-4.0" else []
            if aofs.multi_part(release):
                settings = settings + ["--aof-timestamp-enabled", "yes" if how else "no"]
            made = os.path.join(servers.work, "made")
            seed = 1000 + 10 * number + len(variant)
            aofs.make(release, found[release], made, seed=seed, count=150, small=True, settings=settings, **how)
            lines = aofs.held(release, found[release], made)
            if os.path.isdir(made):
                aofs.copy(made, os.path.join(folder, variant + ".aofdir"))
            else:
                pack(os.path.join(folder, variant + ".aof.gz"), aofs.read(made))
            pack(os.path.join(folder, variant + ".keys.gz"), "".join(x + "\n" for x in lines).encode())
            shutil.rmtree(made) if os.path.isdir(made) else os.unlink(made)
        print("%s: done" % release, flush=True)


if __name__ == "__main__":
    main()
