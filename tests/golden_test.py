#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds the golden texts of fixtures/ against what the servers that wrote the files said of them.

fixtures/<server>/<name>.events is what rdbkit reads (written by REGEN=1 build/test_fixtures, compared by it ever
after); <name>.keys is what the server itself held, printed by tests/keyspace.py. Here the first is put into the words of
the second, and both have to be equal. No server is needed. The last line is "N passed, N failed, N skipped".
"""
import glob
import os
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
from compare import PORTABLE, Keyspace, differences
from keyspace import number

WORD = re.compile(r'"[^"]*"|[^ ]+')



def raw(quoted):
    return re.sub(rb"\\x(..)", lambda m: bytes([int(m[1], 16)]), quoted[1:-1].encode())


class Value:
    """The elements of one key, as its events come."""

    def __init__(self, shape):
        self.shape, self.items, self.entries, self.info, self.groups, self.owner = shape, [], [], [], [], None

    def take(self, words):
        kind = words[0]
        options = dict(w.split("=", 1) for w in words[1:] if "=" in w and w[0] != '"')
        if kind in ("string", "item", "member"):
            self.items.append(words[1])
        elif kind == "scored":
            self.items.append((float(words[2]), raw(words[1]), words[1]))
        elif kind == "field":
            self.items.append("%s:%s%s" % (words[1], words[2], "@" + options["expire"] if "expire" in options else ""))
        elif kind == "entry":
            self.entries.append((words[1], []))
        elif kind == "pair":
            self.entries[-1][1].append("%s=%s" % (words[1], words[2]))
        elif kind == "stream-info":
            self.info = ["length=" + options["length"], 'last-generated-id="%s"' % options["last"],
                         'max-deleted-entry-id="%s"' % options["max-deleted"], "entries-added=" + options["added"],
                         'recorded-first-entry-id="%s"' % options["first"]]
        elif kind == "group":
            read = "nil" if options["read"] == "-1" else options["read"]
            self.groups.append(('group %s last="%s" read=%s' % (words[1], options["last"], read), [], []))
        elif kind == "consumer":
            self.owner = words[1]
            self.groups[-1][2].append(words[1])
        elif kind == "pending":
            self.groups[-1][1].append("%s/%s/%s" % (words[1], self.owner, options["count"]))
        else:
            raise ValueError("an unknown event: " + kind)

    def text(self):
        if self.shape == "string":
            return self.items[0]
        if self.shape == "list":
            return "[" + ",".join(self.items) + "]"
        if self.shape == "zset":
            return "{" + ",".join("%s:%s" % (m, number(s)) for s, _, m in sorted(self.items)) + "}"
        if self.shape == "stream":
            groups = ["%s pel=[%s] consumers=[%s]" % (g, ",".join(sorted(p)), ",".join(sorted(c))) for g, p, c in self.groups]
            return "<" + " ".join([",".join("%s{%s}" % (i, ",".join(f)) for i, f in self.entries)] + self.info + groups) + ">"
        return "{" + ",".join(sorted(self.items)) + "}"


def lines_of(path):
    """The lines of keyspace.py that a golden text amounts to, and the names of keys that expired meanwhile."""
    lines, expired, value = [], set(), None
    for line in open(path, encoding="utf-8"):
        words = WORD.findall(line.rstrip("\n"))
        kind = words[0]
        if kind == "function":
            lines.append("function " + words[2])
        elif kind == "key":
            db, name, options = words[1], words[2], dict(w.split("=") for w in words[4:])
            value = Value(words[3].split("-")[0])
            ttl = int(options["expire"])
            if ttl != -1 and ttl < time.time() * 1000:
                expired.add((int(db), name))
        elif kind == "key-end":
            if value.shape in PORTABLE:
                lines.append("%s %s %s %s%s" % (db, name, value.shape, value.text(), "" if ttl == -1 else " ttl=%d" % ttl))
            value = None
        elif value:
            value.take(words)
    return lines, expired


def main():
    passed = failed = skipped = 0
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "*.keys"))):
        name = os.path.relpath(path, ROOT)
        golden = path[:-5] + ".events"
        if not os.path.exists(golden):
            skipped += 1
            print("SKIPPED %s: no .events beside it" % name)
            continue
        try:
            lines, expired = lines_of(golden)
            got = Keyspace(lines)
            with open(path, encoding="utf-8") as f:
                want = Keyspace(f.read().splitlines())
            want.keys = {k: x for k, x in want.keys.items() if x.kind in PORTABLE}
            got.keys = {k: x for k, x in got.keys.items() if k not in expired or k in want.keys}
            complaints = differences(want, got, "redis-8.0" if "valkey" not in name else "valkey-9", exact=True)
        except Exception as e:
            complaints = ["%s: %s" % (type(e).__name__, e)]
        if complaints:
            failed += 1
            print("FAIL %s: %d complaints" % (name, len(complaints)))
            for c in complaints[:5]:
                print("FAIL     " + c[:600])
        else:
            passed += 1
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
