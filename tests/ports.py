#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does the program that was compiled for another machine say and write, byte for byte, what the one of this machine does?

    RDBKIT=./rdbkit tests/ports.py [EMULATOR] PROGRAM

Every dump of fixtures/, sound or damaged, is converted and turned into JSON and commands by both, every append-only
file replayed into a dump, and that written out as commands again. The last line is "N passed, N failed".
"""
import concurrent.futures
import glob
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NATIVE = [os.path.abspath(os.environ.get("RDBKIT", os.path.join(ROOT, "rdbkit")))]
OTHER = sys.argv[1:-1] + [os.path.abspath(sys.argv[-1])]

DUMP = [["convert", "--to", "valkey-8.1", "--allow-loss"], ["to-json"], ["to-resp", "--allow-loss"], ["info", "--json"]]
LOG = [["convert", "--to", "valkey-8.1", "--allow-loss"], ["convert", "--format", "aof", "--no-preamble", "--to", "redis-6.2", "--allow-loss"],
       ["check"]]


def run(program, args):
    """Exit code, what it said and what it wrote."""
    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "out")
        writes = args[0] not in ("check", "info")
        command = program + args[:-1] + (["-o", out] if writes else []) + args[-1:]
        p = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        wrote = b""
        if os.path.exists(out):
            with open(out, "rb") as f:
                wrote = f.read()
        return p.returncode, p.stdout, p.stderr.replace(out.encode(), b"OUT"), wrote


def differs(args):
    """What of a call is not the same, or None; and whether it was one that went well."""
    here, there = run(NATIVE, args), run(OTHER, args)
    if "2e40" in args[-1]: # that many bytes: no memory of a 32-bit program, which says so where others miss them in the file
        here, there = here[:2] + here[3:], there[:2] + there[3:]
    for what, a, b in zip(("exit code", "standard output", "messages or output", "output"), here, there):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b))) if isinstance(a, bytes) else 0
            near = (a[at:at + 40], b[at:at + 40]) if isinstance(a, bytes) else (a, b)
            return "%s differs at %d: here %r, there %r" % ((what, at) + near), here[0] == 0
    return None, here[0] == 0


def main():
    os.chdir(ROOT)
    groups = {"dumps": [v + [f] for f in sorted(glob.glob("fixtures/*/*.rdb")) for v in DUMP],
              "append_only_files": [v + [f] for f in sorted(glob.glob("fixtures/aof/*/*.aof*")) for v in LOG]}
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", os.cpu_count() or 2))) as pool:
        for name, calls in groups.items():
            wrong = good = 0
            for args, (difference, well) in zip(calls, pool.map(differs, calls)):
                good += well
                if difference:
                    wrong += 1
                    print("FAIL: rdbkit %s: %s" % (" ".join(args), difference))
            if not good:
                wrong += 1
                print("FAIL: %s: no call of %d went well on either side" % (name, len(calls)))
            print("%s %s_come_out_as_on_this_machine: %d calls, %d of them well" % ("FAIL" if wrong else "ok", name, len(calls), good))
            passed, failed = passed + (not wrong), failed + bool(wrong)
    print("%d passed, %d failed" % (passed, failed))
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
