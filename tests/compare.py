# SPDX-License-Identifier: MIT
"""What a server has to hold after it took the data of another one: lines of keyspace.py, taken apart and compared.

Two keyspaces have to be equal apart from what the functions here named expect_* and stream_differences() take away:
what the release in question cannot hold. Nothing else is forgiven.
"""
import re

# release: its --level of gendata.py; the order is that of age
LEVELS = {"redis-4.0": "4.0", "redis-5.0": "5.0", "redis-6.0": "6.0", "redis-6.2": "6.2", "redis-7.0": "7.0", "redis-7.2": "7.2",
          "redis-7.4": "7.4", "redis-8.0": "8.0", "valkey-7.2": "valkey-7.2", "valkey-8.0": "valkey-8",
          "valkey-8.1": "valkey-8", "valkey-9": "valkey-9"}


def number_of(release):
    return float(release.split("-")[1])


def has_streams(release):
    return release != "redis-4.0"


def has_counters(release):
    return number_of(release) >= 7


def has_functions(release):
    return number_of(release) >= 7


def has_field_expiry(release):
    return release == "valkey-9" or release.startswith("redis") and number_of(release) >= 7.4


KEY_START = re.compile(r'(\d+) ("[^"]*") (\S+) ')
KEY_TTL = re.compile(r' ttl=(~?)(-?\d+)$')
QUOTED = re.compile(r'"[^"]*"')
PORTABLE = ("string", "list", "set", "zset", "hash", "stream")  # all else is a module's


class Line:
    """A key: db, name, kind, value (text; a Stream for streams), ttl in ms or None, ttl_rough: only seconds are known."""

    def __init__(self, text):
        m = KEY_START.match(text)
        if not m:
            raise ValueError("not a line of keyspace.py: " + text[:200])
        self.db, self.name, self.kind, self.value = int(m[1]), m[2], m[3], text[m.end():]
        m = KEY_TTL.search(text)
        if m:
            self.value = self.value[:m.start() - len(text)]
        self.ttl_rough = bool(m and m[1])
        self.ttl = int(m[2]) * (1000 if self.ttl_rough else 1) if m else None
        if self.kind == "stream":
            self.value = Stream(self.value)


class Stream:
    """entries: [(id, text)]; info: {name: value}; groups: [{name, last, read, pel: [(id, text)], consumers: text}]"""

    def __init__(self, text):
        strings = []

        def hide(m):
            strings.append(m[0])
            return "\x00%d\x00" % (len(strings) - 1)

        def show(s):
            return re.sub("\x00(\\d+)\x00", lambda m: strings[int(m[1])], s)

        words = QUOTED.sub(hide, text[1:-1]).split(" ")
        self.entries = [(m[1], show(m[0])) for m in re.finditer(r"(\d+-\d+)\{[^}]*\}", words[0])]
        self.info, self.groups = {}, []
        for word in words[1:]:
            if word == "group":
                self.groups.append({})
            elif "=" not in word:
                self.groups[-1]["name"] = show(word)
            elif not self.groups:
                name, value = word.split("=", 1)
                self.info[name] = show(value).strip('"')
            else:
                name, value = word.split("=", 1)
                if name == "pel":
                    value = [(x.split("/")[0], show(x)) for x in value[1:-1].split(",") if x]
                else:
                    value = show(value).strip('"') if name == "last" else show(value)
                self.groups[-1][name] = value

    def has_counters(self):
        return "entries-added" in self.info


NO_FIRST = "18446744073709551615-18446744073709551615"  # what 7.0 and later take for it when they load an old empty stream


def id_of(text):
    ms, seq = text.split("-")
    return int(ms), int(seq)


def estimated_read(stream, added, group_last):
    """What a server of 7.0 or later takes for entries-read while it loads a group that has none."""
    length, last = int(stream.info["length"]), id_of(stream.info["last-generated-id"])
    first = id_of(stream.entries[0][0]) if stream.entries else (0, 0)
    at = id_of(group_last)
    if added == 0:
        return "0"
    if length == 0 and at <= last or at == last:
        return str(added)
    if at > last:
        return "nil"
    if at < first:
        return str(added - length)
    if at == first:
        return str(added - length + 1)
    return "nil"


def rebuilt_counters(stream):
    """The counters of a stream whose file has none: (info, [entries-read of each group])."""
    length = int(stream.info["length"])
    info = {"max-deleted-entry-id": "0-0", "entries-added": str(length),
            "recorded-first-entry-id": stream.entries[0][0] if stream.entries else "0-0"}
    return info, [estimated_read(stream, length, g["last"]) for g in stream.groups]


def loses_counters(stream):
    if not stream.has_counters():
        return False
    info, read = rebuilt_counters(stream)
    return any(stream.info[k] != info[k] for k in ("max-deleted-entry-id", "entries-added")) or \
        any(g["read"] != r for g, r in zip(stream.groups, read))


class Keyspace:
    """Lines of keyspace.py: functions (as they are) and keys, {(db, name): Line}."""

    def __init__(self, lines):
        self.functions = [x for x in lines if x.startswith("function ")]
        keys = [Line(x) for x in lines if not x.startswith("function ")]
        self.keys = {(x.db, x.name): x for x in keys}
        if len(keys) != len(self.keys):
            raise ValueError("a key occurs twice")


def losses(source, target):
    """What the target cannot hold of a Keyspace: names of kinds of loss."""
    found = set()
    if source.functions and not has_functions(target):
        found.add("function")
    for line in source.keys.values():
        if line.kind == "stream":
            if not has_streams(target):
                found.add("stream")
            elif not has_counters(target) and loses_counters(line.value):
                found.add("stream-counters")
        elif line.kind == "hash":
            if not has_field_expiry(target) and "@" in QUOTED.sub("", line.value):
                found.add("field-expiry")
        elif line.kind not in PORTABLE:
            found.add("module")
    return found


def expect_functions(functions, target):
    """Sources, sorted; the release candidates of 7.0 kept engine and name apart from a source: it gets its #! line."""
    return [x if x.startswith('function "#!') else "function ..." + x[10:] for x in functions] if has_functions(target) else []


def same_functions(want, got):
    """A line that begins with "function ..." stands for one of any #! line."""
    rest = list(got)
    for w in want:
        same = [g for g in rest if g == w or w.startswith("function ...") and re.sub(r'^function "#!.*?\\x0a', "", g) == w[12:]]
        if not same:
            return False
        rest.remove(same[0])
    return not rest


def expect_scores(value):
    """-0 is 0: servers from 7.0 on turn it so themselves."""
    return re.sub(r'("[^"]*"):-0\.0(?=[,}])', r"\1:0.0", value)


def expect_fields(value, target):
    """Without field expiry the fields are there, and live for ever."""
    return value if has_field_expiry(target) else re.sub(r'("[^"]*":"[^"]*")@-?\d+', r"\1", value)


def stream_differences(want, got, target, exact=False):
    """Streams are equal but for counters, where one of the servers has none, and (unless exact) pending entries of
    deleted messages."""
    out = []
    if want.entries != got.entries:
        out.append("entries %s instead of %s" % (str(got.entries)[:300], str(want.entries)[:300]))
    info, reads = dict(want.info), [g.get("read") for g in want.groups]
    if not has_counters(target):
        info = {k: info[k] for k in ("length", "last-generated-id")}
        reads = [None] * len(reads)
    elif not want.has_counters():
        rebuilt, reads = rebuilt_counters(want)
        info.update(rebuilt)
    if exact and not want.entries and got.info.get("recorded-first-entry-id") == NO_FIRST:
        info["recorded-first-entry-id"] = NO_FIRST
    if info != got.info:
        out.append("%s instead of %s" % (got.info, info))
    if [g["name"] for g in want.groups] != [g["name"] for g in got.groups]:
        return out + ["groups %s instead of %s" % ([g["name"] for g in got.groups], [g["name"] for g in want.groups])]
    alive = {p for w in want.groups for p, _ in w["pel"]} if exact else {i for i, _ in want.entries}
    for w, g, read in zip(want.groups, got.groups, reads):
        if w["last"] != g["last"] or w["consumers"] != g["consumers"]:
            out.append("group %s: %s instead of %s" % (w["name"], (g["last"], g["consumers"]), (w["last"], w["consumers"])))
        if read != g.get("read"):
            out.append("group %s: entries-read %s instead of %s" % (w["name"], g.get("read"), read))
        if [p for p in w["pel"] if p[0] in alive] != [p for p in g["pel"] if p[0] in alive]:
            out.append("group %s: pending %s instead of %s" % (w["name"], g["pel"], w["pel"]))
        if not set(g["pel"]) <= set(w["pel"]):
            out.append("group %s: pending entries from nowhere: %s" % (w["name"], set(g["pel"]) - set(w["pel"])))
    return out


def differences(source, target_holds, target, exact=False):
    """The differences between the Keyspace of a source and that of the target that took it, as texts. exact: pending
    entries of deleted messages count too."""
    out, want, have = [], source.keys, target_holds.keys
    if not same_functions(expect_functions(source.functions, target), target_holds.functions):
        out.append("functions differ")
    for k, w in want.items():
        where = "db %d key %s" % (k[0], k[1][:80])
        if w.kind == "stream" and not has_streams(target) or w.kind not in PORTABLE:
            if k in have:
                out.append("%s is there, and should have been left out" % where)
            continue
        if k not in have:
            out.append("%s (%s) is missing" % (where, w.kind))
            continue
        g = have[k]
        if w.kind != g.kind:
            out.append("%s is a %s instead of a %s" % (where, g.kind, w.kind))
        elif w.kind == "stream":
            out += ["%s: %s" % (where, d) for d in stream_differences(w.value, g.value, target, exact)]
        else:
            a, b = w.value, g.value
            if w.kind == "zset":
                a, b = expect_scores(a), expect_scores(b)
            elif w.kind == "hash":
                a = expect_fields(a, target)
            if a != b:
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                out.append("%s (%s): ...%s instead of ...%s" % (where, w.kind, b[max(0, at - 40):at + 60], a[max(0, at - 40):at + 60]))
        if (w.ttl is None) != (g.ttl is None) or \
                w.ttl is not None and abs(w.ttl - g.ttl) > (1500 if w.ttl_rough or g.ttl_rough else 0):
            out.append("%s: ttl %s instead of %s" % (where, g.ttl, w.ttl))
    out += ["db %d key %s is there, and was not in the source" % (k[0], k[1][:80]) for k in have if k not in want]
    return out
