#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads back what `rdbkit to-json` writes, and holds it against the golden texts of fixtures/: nothing may be lost.

Every fixture goes through every form (array, --lines, each --encoding). The text has to be strict JSON with no key twice
in an object; decoded, it has to be what the .events file beside the fixture says, to the byte and to the last digit.
Damaged and truncated files must leave a document that cannot be taken for a whole one. The decoder below is the one that
docs/json.md describes. The last line is "N passed, N failed, N skipped".
"""
import base64
import glob
import json
import math
import os
import re
import struct
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RDBKIT = os.path.abspath(os.environ.get("RDBKIT", os.path.join(ROOT, "rdbkit")))
WORD = re.compile(r'(?:[a-z-]+=)?"[^"]*"|[^ ]+')
LEFT_OUT = ("db", "resize", "slot-info")  # docs/json.md says so
COUNT = {"passed": 0, "failed": 0, "skipped": 0}


def judge(name, complaint):
    if complaint:
        COUNT["failed"] += 1
        print("FAIL %s: %s" % (name, str(complaint)[:1200]))
    else:
        COUNT["passed"] += 1


# ---- What the events say: a list of records, strings as bytes ----


def raw(quoted):
    return re.sub(rb"\\x(..)", lambda m: bytes([int(m[1], 16)]), quoted[1:-1].encode())


def score(text):
    v = float(text)
    return "nan" if math.isnan(v) else struct.pack(">d", v).hex()


def options_of(words):
    return dict(w.split("=", 1) for w in words if not w.startswith('"') and "=" in w)


def key_record(words):
    o = options_of(words)
    record = {"key": raw(words[2]), "db": int(words[1]), "type": words[3].split("-")[0], "encoding": words[3]}
    for option, name in (("expire", "expire_ms"), ("idle", "idle_s"), ("freq", "lfu_freq")):
        if o[option] != "-1":
            record[name] = int(o[option])
    return record, o.get("module")


def element(record, words):
    """One event of a value into its record."""
    kind, o = words[0], options_of(words)
    if kind == "string":
        record["value"] = raw(words[1])
    elif kind in ("item", "member"):
        record["value"].append(raw(words[1]))
    elif kind == "scored":
        record["value"].append([raw(words[1]), score(words[2])])
    elif kind == "field":
        record["value"].append((raw(words[1]), raw(words[2])))
        if "expire" in o:
            record.setdefault("field_expire_ms", []).append((raw(words[1]), int(o["expire"])))
    elif kind == "entry":
        record["value"]["entries"].append({"id": words[1], "fields": []})
    elif kind == "pair":
        record["value"]["entries"][-1]["fields"].append([raw(words[1]), raw(words[2])])
    elif kind == "stream-info":
        record["value"].update(length=int(o["length"]), last_id=o["last"], first_id=o["first"], max_deleted=o["max-deleted"],
                               entries_added=int(o["added"]), groups=[])
    elif kind == "group":
        record["value"]["groups"].append({
            "name": raw(words[1]), "last_id": o["last"], "entries_read": None if o["read"] == "-1" else int(o["read"]),
            "pending_n": int(o["pending"]), "consumers": []})
    elif kind == "consumer":
        record["value"]["groups"][-1]["consumers"].append(
            {"name": raw(words[1]), "seen_ms": int(o["seen"]), "active_ms": int(o["active"]), "pending": []})
    elif kind == "pending":
        record["value"]["groups"][-1]["consumers"][-1]["pending"].append([words[1], int(o["delivered"]), int(o["count"])])
    else:
        raise ValueError("an unknown event: " + kind)


def wanted(path):
    """The records that a golden text amounts to. Raw values of modules are not in it: the file itself has them."""
    file = open(path[:-7] + ".rdb", "rb").read()
    records, keys, value_off = [], 0, 0
    for line in open(path, encoding="utf-8"):
        words = WORD.findall(line.rstrip("\n"))
        kind, o = words[0], options_of(words)
        if kind == "header":
            records.append({"rdb": {"lineage": words[1], "version": int(words[2])}})
        elif kind == "aux":
            records.append({"aux": raw(words[1]), "value": raw(words[2])})
        elif kind == "function":
            records.append({"function": raw(words[2]), "opcode": int(o["opcode"])})
        elif kind == "module-aux":
            records.append({"module_aux": words[1], "encoding_version": int(o["encver"]), "when": int(o["when"]), "raw": None})
        elif kind == "slot-import":
            records.append({"slot_import": raw(words[1]), "ranges": int(o["ranges"])})
        elif kind == "end":
            records.append({"end": {"checksum": "verified" if o["checksum"] == "1" else "none", "keys": keys}})
        elif kind == "key":
            record, module = key_record(words)
            value_off = int(o["value"])
            record["value"] = {"stream": {"entries": []}, "module": {"module": module}, "string": None}.get(record["type"], [])
            records.append(record)
            keys += 1
        elif kind == "key-end":
            if records[-1]["type"] == "module":
                records[-1]["value"]["raw"] = file[value_off:int(o["at"])]
        elif kind not in LEFT_OUT and kind != "module-aux-end":
            element(records[-1], words)
    return records


# ---- What the JSON says ----


class Fields(list):
    """An object, in its order."""


def no_twice(pairs):
    names = [n for n, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("an object has a key twice")
    return Fields(pairs)


def no_constant(name):
    raise ValueError("not JSON: " + name)


def strict(text):
    return json.loads(text, object_pairs_hook=no_twice, parse_constant=no_constant)


def unmark(text):
    if text.startswith("utf8:"):
        return text[5:].encode()
    if text.startswith("base64:"):
        return base64.b64decode(text[7:], validate=True)
    return text.encode()


DECODERS = {
    "auto": unmark,
    "base64": lambda t: base64.b64decode(t, validate=True),
    "latin1": lambda t: t.encode("latin-1"),
    "utf8": lambda t: t.encode(),
}


def lossy(value):
    """What --encoding utf8 leaves of the bytes in a structure."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").encode()
    if isinstance(value, (list, tuple)):
        return type(value)(lossy(v) for v in value)
    if isinstance(value, dict):
        return {k: v if k == "raw" else lossy(v) for k, v in value.items()}
    return value


def decoded(record, decode):
    """A record of the document in the form that wanted() gives."""
    r = dict(record)
    for name in ("key", "aux", "function", "slot_import"):
        if name in r:
            r[name] = decode(r[name])
    if "aux" in r:
        r["value"] = decode(r["value"])
    if "module_aux" in r:
        base64.b64decode(r["raw"], validate=True)
        r["raw"] = None
    for name in ("rdb", "end"):
        if name in r:
            r[name] = dict(r[name])
    if "key" not in r:
        return r
    value = r["value"]
    if r["type"] == "string":
        r["value"] = decode(value)
    elif r["type"] in ("list", "set"):
        r["value"] = [decode(v) for v in value]
    elif r["type"] == "zset":
        r["value"] = [[decode(m), score(s)] for m, s in value]
    elif r["type"] == "hash":
        r["value"] = [(decode(f), decode(v)) for f, v in value]
        if "field_expire_ms" in r:
            r["field_expire_ms"] = [(decode(f), ms) for f, ms in r["field_expire_ms"]]
    elif r["type"] == "module":
        r["value"] = {"module": dict(value)["module"], "raw": base64.b64decode(dict(value)["raw"], validate=True)}
    else:
        s = r["value"] = dict(value)
        s["entries"] = [dict(e) for e in s["entries"]]
        for e in s["entries"]:
            e["fields"] = [[decode(f), decode(v)] for f, v in e["fields"]]
        s["groups"] = [dict(g) for g in s["groups"]]
        for g in s["groups"]:
            g["name"] = decode(g["name"])
            g["consumers"] = [dict(c) for c in g["consumers"]]
            for c in g["consumers"]:
                c["name"] = decode(c["name"])
    return r


def run(path, *options, data=None):
    p = subprocess.run([RDBKIT, "to-json", path] + list(options), input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    return p.returncode, p.stdout, p.stderr.decode("utf-8", "replace").strip()


def records_of(text, lines):
    text = text.decode("utf-8")  # strict
    for c in "\x7f\u2028\u2029":
        if c in text:
            raise ValueError("U+%04X is not escaped" % ord(c))
    if not lines:
        if text[:2] != "[\n" or text[-3:] != "\n]\n":
            raise ValueError("no array")
        whole = strict(text)
        if whole != [strict(t[:-1] if t.endswith(",") else t) for t in text[2:-3].split("\n")]:
            raise ValueError("not one record a line")
        return whole
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    return [strict(t) for t in text[:-1].split("\n")]


def first_difference(want, got):
    for i, (w, g) in enumerate(zip(want, got)):
        if w != g:
            return "record %d: found %r, wanted %r" % (i, g, w)
    if len(want) != len(got):
        return "%d records, wanted %d" % (len(got), len(want))
    return None


def form(path, want, encoding, lines):
    """One fixture in one form: None or a complaint."""
    options = (["--lines"] if lines else []) + (["--encoding", encoding] if encoding else [])
    code, out, said = run(path, *options)
    if code:
        return "exit %d: %s" % (code, said)
    try:
        got = [decoded(r, DECODERS[encoding or "auto"]) for r in records_of(out, lines)]
    except Exception as e:
        return "%s: %s" % (type(e).__name__, e)
    return first_difference(lossy(want) if encoding == "utf8" else want, got)


FORMS = ((None, False), (None, True), ("auto", False), ("utf8", True), ("base64", True), ("latin1", False))


def collides(want):
    """Whether two fields of a hash become the same when they lose what is not UTF-8."""
    fields = [[lossy(f) for f, _ in r["value"]] for r in want if r.get("type") == "hash"]
    return any(len(set(f)) != len(f) for f in fields)


def sound_files():
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "*.rdb"))):
        name = os.path.relpath(path, ROOT)
        if os.path.exists(path[:-4] + ".expect"):
            continue
        golden = path[:-4] + ".events"
        if not os.path.exists(golden):
            COUNT["skipped"] += 1
            print("SKIPPED %s: no .events beside it" % name)
            continue
        want = wanted(golden)
        complaints = []
        for encoding, lines in FORMS:
            if encoding == "utf8" and collides(want):
                continue
            c = form(path, want, encoding, lines)
            if c:
                complaints.append("%s%s: %s" % (encoding or "default", " lines" if lines else "", c))
        judge(name, "; ".join(complaints))


# ---- What is not whole ----


def taken_for_whole(out, lines):
    """Whether a reader would take a document for a whole one."""
    try:
        records = records_of(out, lines)
    except ValueError:
        return False
    return bool(records) and records[-1][0][0] == "end"


def well_begun(out, pairs=None):
    """The whole lines of a document cut short are records."""
    for line in out.decode("utf-8").split("\n")[:-1]:
        json.loads(line, object_pairs_hook=pairs or no_twice, parse_constant=no_constant)


def damaged_files():
    """What .expect says is the exit of a check in depth: 4 is an error for every reader, 1 need not be."""
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "*.expect"))):
        rdb, name = path[:-7] + ".rdb", os.path.relpath(path, ROOT)
        want = int(open(path).read().split()[0])
        (code, out, said), (lines_code, lines_out, _) = run(rdb), run(rdb, "--lines")
        complaint = None
        if code != lines_code or code not in ((4,) if want == 4 else (0, 4)):
            complaint = "exit %d and %d: %s" % (code, lines_code, said)
        elif code and (out.endswith(b"]\n") or taken_for_whole(out, False) or taken_for_whole(lines_out, True)):
            complaint = "the document looks whole"
        elif not code and not (out.endswith(b"}}\n]\n") and b'\n{"end":{' in out and b'\n{"end":{' in lines_out):
            complaint = "the document does not look whole"
        else:
            well_begun(lines_out, pairs=Fields)
        judge(name, complaint)


def cut_files():
    for path in sorted(glob.glob(os.path.join(ROOT, "fixtures", "*", "everything.rdb"))):
        file, complaint = open(path, "rb").read(), None
        for i in range(40):
            cut = file[:len(file) * i // 40 if i < 30 else len(file) - (i - 29)]
            for options in ((), ("--lines",)):
                code, out, said = run("-", *options, data=cut)
                if code != 4:
                    complaint = "cut at %d: exit %d: %s" % (len(cut), code, said)
                elif out.endswith(b"]\n") and not options or taken_for_whole(out, bool(options)):
                    complaint = "cut at %d: the document looks whole" % len(cut)
                elif options:
                    try:
                        well_begun(out)
                    except ValueError as e:
                        complaint = "cut at %d: %s" % (len(cut), e)
        judge("cut " + os.path.relpath(path, ROOT), complaint)


# ---- Bytes: a file of our own ----


def length(n):
    return bytes([n]) if n < 64 else bytes([64 | n >> 8, n & 255]) if n < 16384 else b"\x80" + struct.pack(">I", n)


def text(b):
    return length(len(b)) + b


AWKWARD = [b"", b"\0", b"\"\\/", bytes(range(256)), bytes(range(128)), b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xc0\x80",
           b"\xf4\x90\x80\x80", b"base64:", b"base64:AA==", b"utf8:", b"utf8:base64:", b"utf8:utf8:", b"base64:\xff", b"utf8:\xff",
           b"\r\n\t", b"\x7f\x1b[0m", "\u2028\u2029\ufeff\uffff\U0010ffff".encode(), "\u00e9".encode(), "\u00e9".encode("latin-1"),
           b"null", b"[1]", b"a" * 639 + "\u20ac".encode() * 5, b"x" * 70000 + b"\xff", "\u2028".encode() * 3000]


def own_file():
    """Strings that trip decoders, as names, elements, fields and values."""
    rdb = b"REDIS0011"
    for b in AWKWARD:
        rdb += b"\xfa" + text(b) + text(b)
    rdb += b"\xfe\0"
    want = [{"rdb": {"lineage": "redis", "version": 11}}] + [{"aux": b, "value": b} for b in AWKWARD]
    for b in AWKWARD:
        rdb += b"\0" + text(b) + text(b)
        want.append({"key": b, "db": 0, "type": "string", "encoding": "string", "value": b})
    n = length(len(AWKWARD))
    rdb += b"\x01" + text(b"list!") + n + b"".join(map(text, AWKWARD))
    rdb += b"\x04" + text(b"hash!") + n + b"".join(text(b) + text(b) for b in AWKWARD)
    rdb += b"\x05" + text(b"zset!") + n + b"".join(text(b) + struct.pack("<d", (-0.0, math.inf, -math.inf, math.nan, 0.1, 1e22)[i % 6])
                                                  for i, b in enumerate(AWKWARD))
    want.append({"key": b"list!", "db": 0, "type": "list", "encoding": "list", "value": AWKWARD})
    want.append({"key": b"hash!", "db": 0, "type": "hash", "encoding": "hash", "value": [(b, b) for b in AWKWARD]})
    want.append({"key": b"zset!", "db": 0, "type": "zset", "encoding": "zset-2",
                 "value": [[b, score(("-0.0", "inf", "-inf", "nan", "0.1", "1e22")[i % 6])] for i, b in enumerate(AWKWARD)]})
    want.append({"end": {"checksum": "none", "keys": len(AWKWARD) + 3}})
    return rdb + b"\xff" + bytes(8), want


def awkward_bytes():
    rdb, want = own_file()
    for encoding, lines in FORMS:
        if encoding == "utf8":
            continue
        code, out, said = run("-", *((["--lines"] if lines else []) + (["--encoding", encoding] if encoding else [])), data=rdb)
        try:
            got = [decoded(r, DECODERS[encoding or "auto"]) for r in records_of(out, lines)]
            complaint = "exit %d: %s" % (code, said) if code else first_difference(want, got)
        except Exception as e:
            complaint = "%s: %s" % (type(e).__name__, e)
        judge("awkward bytes, %s%s" % (encoding or "default", " lines" if lines else ""), complaint)


def main():
    sound_files()
    damaged_files()
    cut_files()
    awkward_bytes()
    print("%d passed, %d failed, %d skipped" % (COUNT["passed"], COUNT["failed"], COUNT["skipped"]))
    return 1 if COUNT["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
