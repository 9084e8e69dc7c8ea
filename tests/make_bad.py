#!/usr/bin/env python3
"""Writes the damaged files of fixtures/bad, each with a .expect: "<exit> <offset>".

    tests/make_bad.py [DIR]      DIR: fixtures/bad beside the folder of this script

exit 4: every reader has to refuse it. exit 1: only `check` reports it (servers load it, or see it in their hash
table alone). offset: first byte of the item at fault (length, string, number, opcode or packed blob) in the file.
The comment of a case says what is wrong and who refuses it, from runs of Redis 4.0, 5.0, 6.0, 6.2, 7.0, 7.2, 7.4,
8.0 and Valkey 7.2, 8.0, 8.1, 9.1: "all" is all of them that know the type; "deep" means only with
sanitize-dump-payload yes, which Valkey 9.1 always does.
"""
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
from rdb import crc64, lzf_encode, num, txt

HERE = object()  # marks the item at fault among the parts of a file


def lp_entry(v):
    """A listpack entry: int from 0 on, or bytes shorter than 64."""
    if isinstance(v, bytes): e = bytes([0x80 | len(v)]) + v
    else: e = bytes([v]) if v < 128 else b"\xf4" + struct.pack("<q", v)
    return e + bytes([len(e)])


def lp(*values, count=None, total=None, raw=b""):
    body = b"".join(map(lp_entry, values)) + raw + b"\xff"
    count = len(values) if count is None else count
    return struct.pack("<IH", 6 + len(body) if total is None else total, count) + body


def zl(*values, count=None, total=None, tail=None, first_prev=0, raw=b""):
    """A ziplist of short strings."""
    body, prev, last = b"", first_prev, 10
    for v in values:
        last = 10 + len(body)
        body += bytes([prev, len(v)]) + v
        prev = 2 + len(v)
    body += raw + b"\xff"
    return struct.pack("<IIH", 10 + len(body) if total is None else total, last if tail is None else tail,
                       len(values) if count is None else count) + body


def intset(width, *values, count=None):
    return struct.pack("<II", width, len(values) if count is None else count) + b"".join(v.to_bytes(width, "little", signed=True) for v in values)


def ms(t): return struct.pack("<q", t)
def f64(x): return struct.pack("<d", x)
def packed(s): return b"\xc3" + num(len(lzf_encode(s))) + num(len(s)) + lzf_encode(s)
def sid(a, b): return struct.pack(">QQ", a, b)


out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "bad")
names = set()


def bad(name, *parts, magic=b"REDIS0008", eof=b"\xff", crc=None, code=4, after=b""):
    """Write one case. crc: the bytes to use instead of the right checksum; after: what follows it."""
    data, offset = magic, None
    for part in parts + ((eof,) if eof else ()):
        if part is HERE: offset = len(data)
        else: data += part
    if crc is HERE: offset, data = len(data), data + bytes(range(1, 9))
    else: data += (crc64(data) if crc is None else crc)
    if after: offset, data = len(data), data + after
    assert name not in names and offset is not None
    names.add(name)
    with open(os.path.join(out, name + ".rdb"), "wb") as f: f.write(data)
    with open(os.path.join(out, name + ".expect"), "w") as f: f.write("%d %s\n" % (code, offset))


def header(name, magic):
    """A file that is wrong in its first nine bytes alone: the item at fault is the header."""
    data = magic + STRING + b"\xff" if len(magic) == 9 else magic
    bad(name, HERE, magic=b"", eof=b"", crc=data + (crc64(data) if len(magic) == 9 else b""))


def value(name, kind, *payload, **more):
    """A file of one key, k, in database 0."""
    bad(name, bytes([kind]), txt(b"k"), *payload, **more)


os.makedirs(out, exist_ok=True)

# ---- header and end of the file
STRING = b"\x00" + txt(b"k") + txt(b"v")
header("file_empty", b"")  # all, as a truncated file
header("header_truncated", b"REDIS00")  # all
header("header_magic", b"RADIS0008")  # all
header("header_lowercase", b"redis0008")  # all
header("header_letters", b"REDIS00A1")  # version not digits: servers use atoi and get 0; all
header("header_redis0000", b"REDIS0000")  # all
header("header_redis0013", b"REDIS0013")  # Redis 8.6: all
header("header_redis0015", b"REDIS0015")  # Redis 8.10: all
header("header_redis0079", b"REDIS0079")  # no such version: all
header("header_redis0080", b"REDIS0080")  # 80 is Valkey's, with its own magic: all
header("header_valkey081", b"VALKEY081")  # Valkey 9.2: all
header("header_valkey011", b"VALKEY011")  # 11 has the magic REDIS: all but Valkey 8.1
bad("eof_missing", STRING, HERE, eof=b"", crc=b"")  # file ends where an opcode is due: all
bad("checksum_missing", STRING, b"\xff", HERE, eof=b"", crc=b"")  # version 5 and up has one: all
bad("checksum_cut", STRING, b"\xff", HERE, b"\x01\x02\x03", eof=b"", crc=b"")  # all
bad("checksum_wrong", STRING, crc=HERE)  # all
bad("trailing_bytes", STRING, after=b"\r\nmore", code=1)  # none: bytes after the checksum are ignored
bad("trailing_second_file", STRING, after=b"REDIS0008\xff" + crc64(b"REDIS0008\xff"), code=1)  # none

# ---- lengths, strings, LZF
value("len_82", 0, HERE, b"\x82", b"v")  # 10xxxxxx is 80 or 81 alone: all
value("len_bf", 1, HERE, b"\xbf", b"v")  # all
value("len_encoded", 1, HERE, b"\xc0\x01", txt(b"v"))  # a string encoding where a count is due: all
value("string_c4", 0, HERE, b"\xc4\x00")  # encodings are c0..c3: all
value("string_ff", 4, num(1), txt(b"f"), HERE, b"\xff\x00")  # all
bad("key_c5", b"\x00", HERE, b"\xc5\x00", txt(b"v"))  # the key's name: all
value("string_2e40", 0, HERE, num(1 << 40), b"abcdef", eof=b"", crc=b"")  # 27 bytes that claim 2^40 more: all; 4.0 and 5.0 die of it
value("string_2e64", 0, HERE, num((1 << 64) - 1), b"abcdef", eof=b"", crc=b"")  # all
value("string_cut", 0, HERE, num(20), b"abcdef", eof=b"", crc=b"")  # all
value("string_int_cut", 0, HERE, b"\xc2\x01\x02", eof=b"", crc=b"")  # all
value("list_count_2e63", 1, num(1 << 63), txt(b"a"), HERE)  # more elements than any file has; the second one is the EOF opcode: all
LZF = bytes.fromhex("00 61 e0 0e 00")  # 24 times "a"
value("lzf_plain_short", 0, HERE, b"\xc3", num(5), num(23), LZF)  # gives 24 bytes: all
value("lzf_plain_long", 0, HERE, b"\xc3", num(5), num(25), LZF)  # 6.2 on, older ones pad
value("lzf_backref", 0, HERE, b"\xc3", num(4), num(4), bytes.fromhex("00 61 20 05"))  # 6 back where 1 is: all
value("lzf_cut_inside", 0, HERE, b"\xc3", num(3), num(24), bytes.fromhex("00 61 e0"))  # ends inside a reference: all
value("lzf_literals_cut", 0, HERE, b"\xc3", num(3), num(6), bytes.fromhex("05 61 62"))  # 6 literals of which 2 are there: all
value("lzf_2e40", 0, HERE, b"\xc3", num(5), num(1 << 40), LZF)  # 5 bytes that claim 2^40: all; 4.0 and 5.0 die of it

# ---- types and opcodes
for kind in (8, 26, 27, 28, 29, 30, 31, 32, 33, 100):  # never assigned, or newer than Redis 8.0: all
    bad("type_%d" % kind, HERE, bytes([kind]), txt(b"k"), txt(b"v"), magic=b"REDIS0012")
for kind in (23, 24, 25):  # Redis' numbers in a Valkey file: all
    bad("valkey_type_%d" % kind, HERE, bytes([kind]), txt(b"k"), txt(b"v"), magic=b"VALKEY080")
bad("module_6", HERE, bytes.fromhex(  # a hellotype list as Redis 4.0-rc1 wrote it: no tags, so it cannot be skipped; all
    "06 01 6d 81 85e965a2dca97800 03 81 fffffffffffffff9 05 81 0000010000000000"))
bad("opcode_242", HERE, b"\xf2\x01\x01", txt(b"a"), magic=b"REDIS0012")  # Redis 8.10's HASH_TEMPLATE: all
bad("valkey_opcode_242", HERE, b"\xf2\x00", magic=b"VALKEY080")  # Valkey 9.2's UPDATE: all
bad("opcode_243", HERE, b"\xf3\x00", STRING, magic=b"REDIS0012")  # Redis 8.6's KEY_META; Valkey's only in its own files: all
bad("opcode_244_cut", b"\xf4\x01\x02", HERE, b"\x40", magic=b"REDIS0012", eof=b"", crc=b"")  # all
bad("opcode_254_2e64", b"\xfe", HERE, b"\x81" + b"\xff" * 8, STRING)  # for servers a length that could not be read: all
bad("opcode_244_2e64", b"\xf4", num(1), HERE, num((1 << 64) - 1), num(0), magic=b"REDIS0012")  # 2^64-1 is how servers' functions say that they could not read: all
bad("opcode_248_2e64", b"\xf8", HERE, num((1 << 64) - 1), STRING, magic=b"REDIS0009")  # all
bad("opcode_251_2e64", b"\xfb", num(1), HERE, num((1 << 64) - 1), STRING)  # all
bad("opcode_252_cut", b"\xfc", HERE, b"\x00\xd8\xc3", eof=b"", crc=b"")  # all
bad("valkey_slot_import_job", b"\xf3", HERE, txt(b"too short"), num(1), num(0), num(1), STRING, magic=b"VALKEY080")  # job names have 40 bytes: Valkey 9.1
bad("valkey_slot_import_range", b"\xf3", txt(b"0" * 40), num(1), num(5), HERE, num(4), STRING, magic=b"VALKEY080")  # last below first; without cluster mode Valkey 9.1.2 dies of any 243

# ---- ziplist: 7.0 on, which turn it into a listpack, and 6.2 deep; without deep 6.2 as noted, older ones crash or answer wrongly
value("ziplist_total", 10, HERE, txt(zl(b"a", b"b", total=99)))  # also 6.2
value("ziplist_tail", 10, HERE, txt(zl(b"a", b"b", tail=10)))
value("ziplist_tail_outside", 10, HERE, txt(zl(b"a", b"b", tail=200)))  # also 6.2
value("ziplist_count", 10, HERE, txt(zl(b"a", b"b", count=3)))
value("ziplist_prevlen", 10, HERE, txt(zl(b"a", b"b", first_prev=3)))
value("ziplist_encoding", 10, HERE, txt(zl(b"a", count=2, tail=13, raw=b"\x03\xc1\x00\x00")))  # c1: only c0 d0 e0 f0 fe f1..fd are integers
value("ziplist_entry_long", 10, HERE, txt(zl(b"a", count=2, tail=13, raw=b"\x03\x30ab")))  # 48 bytes where 2 are
value("ziplist_end", 10, HERE, txt(zl(b"a", b"b")[:-1] + b"\x00"))  # last byte not ff: also 6.2
value("ziplist_short", 10, HERE, txt(b"\x05\x00\x00\x00\xff"))  # no room for its own header: also 6.2
value("ziplist_odd", 13, HERE, txt(zl(b"f", b"v", b"g")))  # field without value
value("ziplist_zset_odd", 12, HERE, txt(zl(b"m")))  # member without score
value("ziplist_zset_nan", 12, HERE, txt(zl(b"m", b"nan")), code=1)  # Valkey 9.1; a score that no server can keep
bad("ziplist_duplicate", HERE, b"\x0d", txt(b"k"), txt(zl(b"f", b"1", b"f", b"2")), code=1)  # the same field twice
value("quicklist_ziplist", 14, num(2), txt(zl(b"a")), HERE, txt(zl(b"b", count=2)))  # second node of a list

# ---- listpack: total, short and end by all, the others deep; a server that is not deep crashes when it reads such a key
TEN = dict(magic=b"REDIS0010")
value("listpack_total", 16, HERE, txt(lp(b"f", b"v", total=99)), **TEN)
value("listpack_short", 16, HERE, txt(b"\x06\x00\x00\x00\x00\x00"), **TEN)  # no room for the end byte
value("listpack_end", 16, HERE, txt(lp(b"f", b"v")[:-1] + b"\x00"), **TEN)
value("listpack_count", 16, HERE, txt(lp(b"f", b"v", count=4)), **TEN)
value("listpack_backlen", 16, HERE, txt(lp(b"f", count=2, raw=b"\x81v\x05")), **TEN)
value("listpack_encoding", 16, HERE, txt(lp(b"f", count=2, raw=b"\xf5\x01")), **TEN)  # f5..fe mean nothing
value("listpack_entry_long", 16, HERE, txt(lp(b"f", count=2, raw=b"\xb0ab\x03")), **TEN)  # 48 bytes where 2 are
value("listpack_string_2e32", 16, HERE, txt(lp(b"f", count=2, raw=b"\xf0\xff\xff\xff\xffab\x03")), **TEN)
value("listpack_odd", 16, HERE, txt(lp(b"f", b"v", b"g")), **TEN)
bad("listpack_duplicate", HERE, b"\x10", txt(b"k"), txt(lp(b"f", 1, b"f", 2)), code=1, **TEN)
value("listpack_zset_odd", 17, HERE, txt(lp(b"m")), **TEN)
value("listpack_zset_unsorted", 17, HERE, txt(lp(b"a", 2, b"b", 1)), code=1, **TEN)  # none; a server answers wrongly
bad("listpack_set_duplicate", HERE, b"\x14", txt(b"k"), txt(lp(b"a", b"b", b"a")), code=1, magic=b"REDIS0011")
LONG = b"\xf0" + struct.pack("<I", 16378) + b"a" * 16378  # with its head 16383 bytes: a back-length of two bytes or three
value("listpack_backlen_narrow", 18, num(1), num(2), HERE, packed(lp(count=1, raw=LONG + b"\x7f\xff")), code=1, **TEN)  # as Valkey 9.1 writes it, in its own files: Redis deep, others crash
value("quicklist2_container", 18, num(1), HERE, num(3), txt(lp(b"a")), **TEN)  # 1 is PLAIN, 2 is PACKED: all
value("quicklist2_plain_empty", 18, num(1), num(1), HERE, txt(b""), **TEN)  # all
value("quicklist2_node", 18, num(2), num(2), txt(lp(b"a")), num(2), HERE, txt(lp(b"b", total=5)), **TEN)  # second node: all

# ---- intset, zipmap, plain types; Redis 4.0 to 6.0 die of most of these zipmaps
value("intset_width", 11, HERE, txt(intset(3, 1, 2)))  # 2, 4 or 8: 6.2 on
value("intset_count", 11, HERE, txt(intset(2, 1, 2, count=3)))  # 6.2 on
value("intset_count_big", 11, HERE, txt(intset(2, 1, 2, count=0x80000001)))  # times 2 it is 2 again in 32 bits: 6.2 on
value("intset_short", 11, HERE, txt(b"\x02\x00\x00\x00"))  # 6.2 on
value("intset_unsorted", 11, HERE, txt(intset(2, 2, 1)), code=1)  # deep
value("intset_duplicate", 11, HERE, txt(intset(2, 1, 1)), code=1)  # deep
value("zipmap_field_long", 9, HERE, txt(b"\x01\x30f\x01\x00v\xff"))  # 6.2 on
value("zipmap_value_long", 9, HERE, txt(b"\x01\x01f\x30\x00v\xff"))  # 6.2 on
value("zipmap_value_2e32", 9, HERE, txt(b"\x01\x01f\xfe\xff\xff\xff\xff\x00v\xff"))  # 6.2 on
value("zipmap_free_long", 9, HERE, txt(b"\x01\x01f\x01\x09v\xff"))  # unused bytes past the end: 6.2 on
value("zipmap_count", 9, HERE, txt(b"\x02\x01f\x01\x00v\xff"))  # 6.2 on
value("zipmap_count_255", 9, HERE, txt(b"\xff\x01f\x01\x00v\xff"))  # only 254 means that it is not known: 6.2 on
value("zipmap_end", 9, HERE, txt(b"\x01\x01f\x01\x00v"))  # no ff: 6.2 on
value("zset2_nan", 5, num(1), txt(b"m"), HERE, f64(float("nan")), code=1)  # all, up to 6.2 by an assertion
value("zset_nan", 3, num(1), txt(b"m"), HERE, b"\xfd", code=1)  # all, up to 6.2 by an assertion
value("zset_text", 3, num(1), txt(b"m"), HERE, b"\x03abc")  # a score that is no number: 6.2 on; older ones read 0
bad("duplicate_key", STRING, HERE, b"\x00", txt(b"k"), txt(b"w"), code=1)  # all, in the hash table of keys
bad("duplicate_set_member", HERE, b"\x02", txt(b"k"), num(3), txt(b"a"), txt(b"b"), txt(b"a"), code=1)  # 6.2 on
bad("duplicate_hash_field", HERE, b"\x04", txt(b"k"), num(2), txt(b"f"), txt(b"1"), txt(b"f"), txt(b"2"), code=1)  # Valkey 9.1; others keep both
bad("duplicate_zset_member", HERE, b"\x05", txt(b"k"), num(2), txt(b"m"), f64(1), txt(b"m"), f64(2), code=1)  # 6.2 on

# ---- hashes with field expiry
TWELVE, VALKEY = dict(magic=b"REDIS0012"), dict(magic=b"VALKEY080")
T = 4102444800000
value("hash24_min_expire", 24, HERE, ms((1 << 48) + 1), num(1), num(1), txt(b"f"), txt(b"v"), **TWELVE)  # all
value("hash24_min_negative", 24, HERE, ms(-1), num(1), num(1), txt(b"f"), txt(b"v"), **TWELVE)  # all
value("hash24_ttl_huge", 24, ms(T), num(1), HERE, num(1 << 50), txt(b"f"), txt(b"v"), **TWELVE)  # base + ttl above 2^48: all
value("hash25_ttl_text", 25, ms(T), HERE, txt(lp(b"f", b"v", b"soon")), **TWELVE)  # deep; others exit when they read the key
value("hash25_triple", 25, ms(T), HERE, txt(lp(b"f", b"v")), **TWELVE)  # two of three: deep; others skip the key
value("hash25_unsorted", 25, ms(T), HERE, txt(lp(b"f", b"v", T + 1, b"g", b"w", T)), code=1, **TWELVE)  # deep
bad("hash25_duplicate", HERE, b"\x19", txt(b"k"), ms(0), txt(lp(b"f", b"v", 0, b"f", b"w", 0)), code=1, **TWELVE)  # deep
value("valkey22_expiry", 22, num(1), txt(b"f"), txt(b"v"), HERE, ms(-2), **VALKEY)  # -1 is none, less is nothing: all

# ---- module values
MODULE = num(0xB5EB2DFFFADD6C01)  # "test__rdb" version 1, of the servers' own tests
value("module_unterminated", 7, MODULE, num(2), num(1), HERE)  # the file's end where a tag is due: up to 6.0 refuse it, 6.2 on loop for ever
value("module_tag_9", 7, MODULE, num(2), num(1), HERE, num(9), num(1), num(0))  # tags are 0..5: all
value("module_string", 7, MODULE, num(5), HERE, b"\xc7", num(0))  # all
bad("module_aux_string_lzf", b"\xf7", MODULE, num(2), num(2), num(5), HERE, b"\xc3", num(5), num(25), LZF, num(0), code=1, magic=b"REDIS0009")  # gives 24 bytes: 6.2 on
bad("module_aux_when", b"\xf7", MODULE, HERE, num(5), num(1), num(0), magic=b"REDIS0009")  # the tag of `when` is 2: all

# ---- streams
NINE, ELEVEN = dict(magic=b"REDIS0009"), dict(magic=b"REDIS0011")
NODE = lp(2, 0, 1, b"f", 0, 2, 0, 0, b"v", 4, 2, 1, 0, b"w", 4)  # 1-1 {f: v}, 2-1 {f: w}
HEAD, TAIL = txt(sid(1, 1)), num(2) + num(2) + num(1)  # key of the node; length 2, last ID 2-1
STREAM = num(1) + HEAD + txt(NODE) + TAIL
GROUP = num(1) + txt(b"g") + num(2) + num(1)  # one group, read up to 2-1
PENDING = ms(T) + num(1)
CONSUMER = num(1) + txt(b"c") + ms(T)
value("stream_nodekey", 15, num(1), HERE, txt(b"0123456789"), txt(NODE), TAIL, num(0), **NINE)  # not 16 bytes: all
value("stream_nodekey_twice", 15, num(2), HEAD, txt(NODE), HERE, HEAD, txt(NODE), num(4), num(2), num(1), num(0), **NINE)  # all
value("stream_nodekey_hidden", 15, num(3), HEAD, txt(NODE), txt(sid(3, 1)), txt(NODE), HERE, HEAD, txt(NODE), num(6), num(4), num(1), num(0), **NINE)  # twice, with another between: all
value("stream_node_empty", 15, num(1), HEAD, HERE, txt(lp()), TAIL, num(0), **NINE)  # all
value("stream_master", 15, num(1), HEAD, HERE, txt(lp(2, 0, b"x", b"f", 0, 2, 0, 0, b"v", 4, 2, 1, 0, b"w", 4)), TAIL, num(0), **NINE)  # field count is text: deep
value("stream_master_end", 15, num(1), HEAD, HERE, txt(lp(2, 0, 1, b"f", 7, 2, 0, 0, b"v", 4, 2, 1, 0, b"w", 4)), TAIL, num(0), **NINE)  # no 0 after the fields: deep
value("stream_lp_count", 15, num(1), HEAD, HERE, txt(lp(2, 0, 1, b"f", 0, 2, 0, 0, b"v", 9, 2, 1, 0, b"w", 4)), TAIL, num(0), **NINE)  # 9, should be 4: deep
value("stream_entry_cut", 15, num(1), HEAD, HERE, txt(lp(2, 0, 1, b"f", 0, 2, 0, 0, b"v", 4, 2, 1, 0)), TAIL, num(0), **NINE)  # deep
value("stream_node_count", 15, num(1), HEAD, HERE, txt(lp(1, 1, 1, b"f", 0, 2, 0, 0, b"v", 4, 2, 1, 0, b"w", 4)), TAIL, num(0), code=1, **NINE)  # says 1 live, 1 deleted: Valkey 9.1
value("stream_length", 15, num(1), HEAD, txt(NODE), HERE, num(5), num(2), num(1), num(0), code=1, **NINE)  # 2 entries: Valkey 9.1
value("stream_entry_order", 15, num(1), HEAD, HERE, txt(lp(2, 0, 1, b"f", 0, 2, 1, 0, b"v", 4, 2, 0, 0, b"w", 4)), num(2), num(9), num(1), num(0), code=1, **NINE)  # none: XRANGE does not find them
value("stream_last_below", 15, num(1), HEAD, txt(NODE), HERE, num(2), num(1), num(0), num(0), code=1, **NINE)  # none
value("stream_length_nodeless", 15, num(0), HERE, num(5), num(2), num(1), num(0), code=1, **NINE)  # 7.0 on
value("stream_pel_not_in_group", 15, STREAM, GROUP, num(1), sid(1, 1), PENDING, CONSUMER, num(1), HERE, sid(2, 1), **NINE)  # consumer has an ID that its group does not: all
value("stream_pel_owned_twice", 15, STREAM, GROUP, num(1), sid(1, 1), PENDING, CONSUMER, num(2), sid(1, 1), HERE, sid(1, 1), **NINE)  # twice by one consumer: all
value("stream_pel_unowned", 15, STREAM, GROUP, num(2), sid(1, 1), PENDING, HERE, sid(2, 1), PENDING, CONSUMER, num(1), sid(1, 1), code=1, **NINE)  # deep; others crash on XINFO
value("stream_pel_two_owners", 15, STREAM, GROUP, num(1), sid(1, 1), PENDING, num(2), txt(b"c"), ms(T), num(1), sid(1, 1), txt(b"d"), ms(T), num(1), HERE, sid(1, 1), code=1, **NINE)  # Valkey 9.1, and Redis 8.0 and Valkey 8.1 as Debian patched them
value("stream_pel_twice", 15, STREAM, GROUP, num(2), sid(1, 1), PENDING, HERE, sid(1, 1), PENDING, CONSUMER, num(1), sid(1, 1), **NINE)  # all
value("stream_group_twice", 15, STREAM, num(2), txt(b"g"), num(2), num(1), num(0), num(0), HERE, txt(b"g"), num(2), num(1), num(0), num(0), **NINE)  # all
value("stream_group_hidden", 15, STREAM, num(3), txt(b"g"), num(2), num(1), num(0), num(0), txt(b"h"), num(2), num(1), num(0), num(0), HERE, txt(b"g"), num(2), num(1), num(0), num(0), **NINE)  # twice, with another between: all
value("stream_consumer_twice", 15, STREAM, GROUP, num(0), num(2), txt(b"c"), ms(T), num(0), HERE, txt(b"c"), ms(T), num(0), **NINE)  # 7.0 on
value("stream_pel_cut", 21, STREAM, num(1), num(1), num(0), num(0), num(2), GROUP, num(2), num(1), HERE, sid(1, 1)[:9], eof=b"", crc=b"", **ELEVEN)  # all
