# SPDX-License-Identifier: MIT
"""RDB files in pieces, for tests that put some together and for those that take some apart.

num(), txt() and crc64() make the parts of a file. parse() takes a file apart into nodes, which bytes_of() puts together
again: a Num is a length, a Text a string, a Raw bytes of a fixed width, a Many a count and what is there so many times.
Packed values stay whole, entries() takes those apart. It is for sound files: what is damaged ends in an exception.
"""
import struct

CRC = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x95AC9329AC4BC9B5 if byte & 1 else 0)
    CRC.append(byte)


def crc64(data):
    crc = 0
    for byte in data:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return struct.pack("<Q", crc)


def num(n):
    """An RDB length."""
    if n < 64:
        return bytes([n])
    if n < 1 << 14:
        return struct.pack(">H", 0x4000 | n)
    return b"\x80" + struct.pack(">I", n) if n < 1 << 32 else b"\x81" + struct.pack(">Q", n)


def txt(s):
    """An RDB string without compression."""
    return num(len(s)) + s


# ---- LZF -------------------------------------------------------------------------------------------------------------

def lzf_decode(data):
    out, p = bytearray(), 0
    while p < len(data):
        c = data[p]
        if c < 32:
            out += data[p + 1:p + 2 + c]
            p += 2 + c
            continue
        n, p = c >> 5, p + 1
        if n == 7:
            n, p = n + data[p], p + 1
        far = ((c & 31) << 8 | data[p]) + 1
        for _ in range(n + 2):
            out.append(out[-far])
        p += 1
    return bytes(out)


def lzf_encode(data):
    """References to runs of one byte alone."""
    out, p, plain = bytearray(), 0, b""

    def literals(s):
        for i in range(0, len(s), 32):
            out.extend(bytes([len(s[i:i + 32]) - 1]) + s[i:i + 32])

    while p < len(data):
        n = 0
        while p and p + n < len(data) and n < 264 and data[p + n] == data[p - 1]:
            n += 1
        if n > 3:
            literals(plain)
            out += bytes([(n - 2) << 5, 0]) if n < 9 else bytes([0xE0, n - 9, 0])
            plain, p = b"", p + n
        else:
            plain, p = plain + data[p:p + 1], p + 1
    literals(plain)
    return bytes(out)


# ---- Nodes -----------------------------------------------------------------------------------------------------------

class Num:
    def __init__(self, n, place):
        self.n, self.place, self.form = n, place, None  # form: bytes to write in its stead

    def bytes(self):
        return num(self.n) if self.form is None else self.form


class Text:
    def __init__(self, s, place, form):
        self.s, self.place, self.form = s, place, form

    def bytes(self):
        return txt(self.s) if self.form is None else self.form

    def set(self, s):
        self.s, self.form = s, None


class Raw:
    def __init__(self, s, place):
        self.s, self.place = s, place

    def bytes(self):
        return self.s


class Many:
    def __init__(self, rows, place):
        self.rows, self.place, self.says = rows, place, None  # says: the count, if it is not the number of rows

    def bytes(self):
        return num(len(self.rows) if self.says is None else self.says) + b"".join(bytes_of(row) for row in self.rows)


def bytes_of(nodes):
    return b"".join(n.bytes() for n in nodes)


# s string, l length, digits and G (16) that many raw bytes, d a score in characters, (...) a count and what follows so many
# times, Z L M I a string that is a ziplist, listpack, zipmap or intset, N the listpack of a stream node, Q a list node:
# its container and its string, m tagged values of a module.
STREAM = "(sN)lll%s(sll%s(G8l)(s8%s(G)))"
TYPES = {0: "s", 1: "(s)", 2: "(s)", 3: "(sd)", 4: "(ss)", 5: "(s8)", 7: "lm", 9: "M", 10: "Z", 11: "I", 12: "Z", 13: "Z", 14: "(Z)",
         15: STREAM % ("", "", ""), 16: "L", 17: "L", 18: "(Q)", 19: STREAM % ("lllll", "l", ""), 20: "L",
         21: STREAM % ("lllll", "l", "8"), 22: "(lss)", 23: "L", 24: "8(lss)", 25: "8L"}
OPCODES = {255: "", 243: "s(ll)", 244: "lll", 245: "s", 247: "lm", 248: "l", 249: "1", 250: "ss", 251: "ll", 252: "8", 253: "4", 254: "l"}
PACKED = "ZLMIN"


class Parser:
    def __init__(self, data):
        self.data, self.p = data, 0

    def take(self, n):
        if n > len(self.data) - self.p:
            raise ValueError("cut at %d" % self.p)
        self.p += n
        return self.data[self.p - n:self.p]

    def num(self):
        b = self.take(1)[0]
        if b < 64:
            return b
        if b < 128:
            return (b & 63) << 8 | self.take(1)[0]
        if b == 128:
            return struct.unpack(">I", self.take(4))[0]
        if b == 129:
            return struct.unpack(">Q", self.take(8))[0]
        raise ValueError("no length: %d at %d" % (b, self.p - 1))

    def text(self, place):
        start, b = self.p, self.data[self.p]
        if b < 192:
            s = self.take(self.num())
        elif b < 195:
            self.p += 1
            s = str(int.from_bytes(self.take(1 << (b - 192)), "little", signed=True)).encode()
        else:
            self.p += 1
            packed, plain = self.num(), self.num()
            s = lzf_decode(self.take(packed))
            if len(s) != plain:
                raise ValueError("LZF at %d" % start)
        return Text(s, place, self.data[start:self.p])

    def module(self, place):
        nodes = []
        while True:
            tag = self.num()
            nodes.append(Num(tag, place + "tag"))
            if tag == 0:
                return nodes
            nodes.append(Num(self.num(), place + "int") if tag < 3 else Raw(self.take(4 if tag == 3 else 8), place + "float")
                         if tag < 5 else self.text(place + "s"))

    def nodes(self, layout, place=""):
        out, i = [], 0
        while i < len(layout):
            here, what = "%s%d" % (place, i), layout[i]
            if what == "(":
                depth, end = 1, i
                while depth:
                    end += 1
                    depth += (layout[end] == "(") - (layout[end] == ")")
                n = self.num()
                out.append(Many([self.nodes(layout[i + 1:end], here + ".") for _ in range(n)], here))
                i = end
            elif what == "l":
                out.append(Num(self.num(), here))
            elif what == "m":
                out += self.module(here)
            elif what == "d":
                n = self.take(1)
                out.append(Raw(n + (self.take(n[0]) if n[0] < 253 else b""), here))
            elif what == "Q":
                out.append(Num(self.num(), here))
                out.append(self.text(here + ("s" if out[-1].n == 1 else "L")))
            elif what == "s" or what in PACKED:
                out.append(self.text(here + what))
            else:
                out.append(Raw(self.take(16 if what == "G" else int(what)), here))
            i += 1
        return out

    def record(self, types):
        """The next opcode, or a key with the opcodes before it that hold for it."""
        before = []
        while True:
            kind = self.take(1)[0]
            key = self.text("key") if kind < 200 else None
            r = Record(kind, key, self.nodes(OPCODES[kind] if key is None else types[kind]))
            if kind not in (248, 249, 252, 253):
                r.before = before
                return r
            before.append(r)


class Record:
    """An opcode, or a key and its value. before: opcodes that hold for this key."""

    def __init__(self, kind, key, nodes):
        self.kind, self.key, self.nodes, self.before = kind, key, nodes, []

    def bytes(self):
        return b"".join(r.bytes() for r in self.before) + bytes([self.kind]) + (self.key.bytes() if self.key else b"") + bytes_of(self.nodes)


def types_of(magic):
    return {**TYPES, 22: "(ss8)"} if magic[:6] == b"VALKEY" else TYPES


def parse(data):
    """(magic, records) of a file, without its end."""
    p, records = Parser(data), []
    magic = p.take(9)
    while True:
        r = p.record(types_of(magic))
        if r.kind == 255:
            return magic, records
        records.append(r)


def file_of(magic, body):
    data = magic + body + b"\xff"
    return data if magic[:5] == b"REDIS" and magic[5:] < b"0005" else data + crc64(data)


# ---- Packed values ---------------------------------------------------------------------------------------------------

def back_len(n, narrow=False):
    """The back-length of a listpack entry of n bytes; narrow: as Valkey 9.1 writes it."""
    width = next(w for w, most in enumerate((127, 16382 + narrow, 2097150 + narrow, 268435454 + narrow, 1 << 35), 1) if n <= most)
    return bytes((n >> 7 * i & 127) | (128 if i < width - 1 else 0) for i in reversed(range(width)))


def lp_entry(v):
    """An integer or bytes as servers write them, without the back-length."""
    if isinstance(v, int):
        if 0 <= v < 128: return bytes([v])
        if -4096 <= v < 4096: return struct.pack(">H", 0xC000 | v & 0x1FFF)
        for mark, n in ((0xF1, 2), (0xF2, 3), (0xF3, 4), (0xF4, 8)):
            if -1 << 8 * n - 1 <= v < 1 << 8 * n - 1:
                return bytes([mark]) + v.to_bytes(n, "little", signed=True)
    if len(v) < 64: return bytes([0x80 | len(v)]) + v
    return (struct.pack(">H", 0xE000 | len(v)) if len(v) < 4096 else b"\xf0" + struct.pack("<I", len(v))) + v


def lp_value(e):
    """What an entry without its back-length holds: an integer or bytes."""
    b = e[0]
    if b < 0x80: return b
    if b < 0xC0: return e[1:]
    if b < 0xE0: return ((b & 31) << 8 | e[1]) - (1 << 13 if b & 16 else 0)
    if b < 0xF0: return e[2:]
    return e[5:] if b == 0xF0 else int.from_bytes(e[1:], "little", signed=True)


def lp_entries(blob):
    """[(entry without its back-length, back-length)]"""
    out, p = [], 6
    while blob[p] != 0xFF:
        b = blob[p]
        n = (1 if b < 0x80 else 1 + (b & 63) if b < 0xC0 else 2 if b < 0xE0 else 2 + ((b & 15) << 8 | blob[p + 1]) if b < 0xF0 else
             5 + struct.unpack_from("<I", blob, p + 1)[0] if b == 0xF0 else (3, 4, 5, 9)[b - 0xF1])
        width = len(back_len(n))
        if blob[p + n:p + n + width] != back_len(n): width = len(back_len(n, True))
        out.append((blob[p:p + n], blob[p + n:p + n + width]))
        p += n + width
    return out


def lp_blob(entries, count=None, total=None):
    body = b"".join(a + b for a, b in entries) + b"\xff"
    count = min(len(entries), 65535) if count is None else count
    return struct.pack("<IH", 6 + len(body) if total is None else total & 0xFFFFFFFF, count & 0xFFFF) + body


def zl_entry(v):
    """An integer or bytes as servers write them, without the length of the entry before."""
    if isinstance(v, int):
        if 0 <= v <= 12: return bytes([0xF1 + v])
        for mark, n in ((0xFE, 1), (0xC0, 2), (0xF0, 3), (0xD0, 4), (0xE0, 8)):
            if -1 << 8 * n - 1 <= v < 1 << 8 * n - 1:
                return bytes([mark]) + v.to_bytes(n, "little", signed=True)
    if len(v) < 64: return bytes([len(v)]) + v
    return (struct.pack(">H", 0x4000 | len(v)) if len(v) < 16384 else b"\x80" + struct.pack(">I", len(v))) + v


def zl_value(e):
    b = e[0]
    if b < 0x40: return e[1:]
    if b < 0x80: return e[2:]
    if b == 0x80: return e[5:]
    return b - 0xF1 if 0xF1 <= b <= 0xFD else int.from_bytes(e[1:], "little", signed=True)


def zl_entries(blob):
    """[(length of the entry before, or None for what it is, entry)]"""
    out, p = [], 10
    while blob[p] != 0xFF:
        p += 5 if blob[p] == 0xFE else 1
        b = blob[p]
        n = (1 + b if b < 0x40 else 2 + ((b & 63) << 8 | blob[p + 1]) if b < 0x80 else 5 + struct.unpack_from(">I", blob, p + 1)[0] if b == 0x80 else
             {0xC0: 3, 0xD0: 5, 0xE0: 9, 0xF0: 4, 0xFE: 2}.get(b, 1))
        out.append((None, blob[p:p + n]))
        p += n
    return out


def zl_blob(entries, count=None, total=None, tail=None):
    body, prev, last = b"", 0, 10
    for says, e in entries:
        last = 10 + len(body)
        says = prev if says is None else says
        head = bytes([says]) if says < 254 else b"\xfe" + struct.pack("<I", says)
        body += head + e
        prev = len(head) + len(e)
    body += b"\xff"
    return struct.pack("<IIH", (10 + len(body) if total is None else total) & 0xFFFFFFFF, (last if tail is None else tail) & 0xFFFFFFFF,
                       (min(len(entries), 65535) if count is None else count) & 0xFFFF) + body
