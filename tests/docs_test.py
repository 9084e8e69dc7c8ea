#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds docs/ and README.md to the program and the library: programs compile and run, tables agree, links lead somewhere.

    tests/docs_test.py [TEXT]     TEXT: only tests with it in their name

Needs Python's standard library, a C compiler ($CC or cc; else tests of programs are skipped), ./rdbkit (or $RDBKIT) and
./librdbkit.a. The shell examples of README.md are run by tests/cli_test.py. The last line is "N passed, N failed, N skipped".
"""
import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
from rdb import crc64

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RDBKIT = os.path.abspath(os.environ.get("RDBKIT") or os.path.join(ROOT, "rdbkit"))
LIBRARY = os.path.join(ROOT, "librdbkit.a")
CC = shlex.split(os.environ.get("CC") or "cc")
FLAGS = shlex.split(os.environ.get("CPPFLAGS", ""))
LIBS = shlex.split(os.environ.get("LDFLAGS", "")) + ["-llzf", "-lz", "-lm"]
tests = []
facts_kept = {}


def test(function):
    tests.append(function)
    return function


class Skipped(Exception):
    pass


def expect(condition, what, *more):
    if not condition:
        raise AssertionError(" ".join([what] + [repr(m) for m in more]))


def equal(documented, real, what):
    """Both are lists or sets of things that print well."""
    lacks = [x for x in real if x not in documented]
    extra = [x for x in documented if x not in real]
    expect(not lacks and not extra, "%s: not documented: %s; documented, not there: %s" % (what, lacks[:8], extra[:8]))
    if isinstance(documented, list):
        expect(documented == real, "%s: another order or number:" % what, documented)


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def cells(row):
    """The cells of a table row; a \\| is text."""
    return [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", row)[1:-1]]


def tables(text):
    """All markdown tables: lists of rows, the head first."""
    out = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [cells(line) for line in block.splitlines()]
        if len(rows) > 2 and all(re.fullmatch(r":?-+:?", c) for c in rows[1]):
            out.append([rows[0]] + rows[2:])
    return out


def table(name, *head):
    """The rows below the one table of a file whose head begins so."""
    found = [t for t in tables(read(name)) if t[0][:len(head)] == list(head)]
    expect(len(found) == 1, "%s has %d tables with the head %s" % (name, len(found), head))
    return found[0][1:]


def bare(cell):
    return cell[1:-1] if cell.startswith("`") and cell.endswith("`") else cell


def run(*args, data=None):
    p = subprocess.run([RDBKIT] + list(args), input=data, stdin=None if data is not None else subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    return p.returncode, p.stdout, p.stderr.decode(errors="replace")


def compile_c(source, name, library=True):
    if library and os.environ.get("SANITIZED"):
        raise Skipped("the library is built with sanitizers")
    if not shutil.which(CC[0]):
        raise Skipped("no C compiler %s" % CC[0])
    with open(name + ".c", "w", encoding="utf-8") as f:
        f.write(source)
    strict = ["-std=c99", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror"]
    p = subprocess.run(CC + ["-Wall", "-Wextra"] + (strict if library else ["-std=c11"]) + ["-I", ROOT] + FLAGS + [name + ".c"] +
                       ([LIBRARY] if library else []) + LIBS + ["-o", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    expect(p.returncode == 0, "%s.c does not compile:" % name, p.stdout.decode(errors="replace")[:2000])


FACTS = r"""
#include "%s/rdbkit.c"
int main(void) {
    const rdbkit_type *t;
    const rdbkit_target *g;
    for (size_t i = 0; (t = rdbkit_type_at(i)) != NULL; i++)
        printf("type\t%%d\t%%s\t%%s\t%%d\t%%s\n", t->number,
               t->lineage == RDBKIT_REDIS ? "Redis" : t->lineage == RDBKIT_VALKEY ? "Valkey" : "both", t->name, t->rdb_version,
               t->layout ? t->layout : "-");
    for (size_t i = 0; i < RDBKIT_LOSS_KIND_N; i++)
        printf("loss\t%%s\t%%s\t%%s\n", loss_kinds[i].name, loss_kinds[i].is_note ? "note" : "loss", loss_kinds[i].text);
    for (size_t i = 0; (g = rdbkit_target_at(i)) != NULL; i++)
        if (g->max_valkey_version)
            printf("target\t%%s\t%%d\t%%d behind REDIS, %%d behind VALKEY\n", g->name, g->rdb_version, g->max_redis_version,
                   g->max_valkey_version);
        else printf("target\t%%s\t%%d\t%%d\n", g->name, g->rdb_version, g->max_redis_version);
    for (size_t i = 0; i < FMT_ALIAS_N; i++) printf("alias\t%%s\t%%s\n", fmt_aliases[i].name, fmt_aliases[i].target);
    for (size_t i = 0; (g = rdbkit_target_at(i)) != NULL; i++) {
        printf("loads\t%%s", g->name);
        for (size_t j = 0; (t = rdbkit_type_at(j)) != NULL; j++)
            if (rdbkit_target_loads(g, t)) printf("\t%%d%%s", t->number, t->lineage == RDBKIT_VALKEY ? "v" : "");
        printf("\n");
    }
    printf("limits\t%%d\t%%d\t%%d\t%%d\t%%d\t%%d\t%%d\n", ENC_HASH_N, ENC_ZSET_N, ENC_SET_N, ENC_INTSET_N, ENC_ITEM_LEN, ENC_NODE_LEN,
           ENC_STREAM_LEN);
    for (size_t i = 0; i < sizeof fmt_opcodes / sizeof fmt_opcodes[0]; i++) printf("opcode\t%%d\n", fmt_opcodes[i].number);
    printf("default\t%%s\n", "valkey-8");
    return 0;
}
"""


def facts(kind):
    """What the library says of itself, from the tables inside of rdbkit.c: rows of texts."""
    if not facts_kept:
        compile_c(FACTS % ROOT, "facts", library=False)
        for line in subprocess.run(["./facts"], stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode().splitlines():
            row = line.split("\t")
            facts_kept.setdefault(row[0], []).append(row[1:])
    return facts_kept[kind]


# ---- Programs ----------------------------------------------------------------------------------------------------------


def programs(name):
    found = [p for p in re.findall(r"^```c\n(.*?)^```", read(name), re.M | re.S) if "int main(" in p]
    expect(found, "no complete program in " + name)
    return found


def programs_with_output(name):
    """Each program: language, source, and what it prints of which file."""
    blocks = re.findall(r"^```(c|cpp|out)(?: (\S+))?\n(.*?)^```", read(name), re.M | re.S)
    found = []
    for kind, path, text in blocks:
        if kind != "out":
            found.append((kind, text, []))
        else:
            found[-1][2].append((path, text))
    return found


def looks_like(text, said):
    """Whether what was said is the text, in which "..." stands for lines and the sign of three points for something in a line."""
    pattern = re.escape(text).replace(re.escape("…"), "[^\n]+").replace(re.escape("...\n"), "(?:[^\n]*\n)*?")
    return re.fullmatch(pattern, said.replace("\r\n", "\n")) is not None


def drip(data, out):
    """Write to a pipe in pieces that a reader sees one by one."""
    with out:
        for i in range(0, len(data), 500):
            out.write(data[i:i + 500])
            out.flush()
            time.sleep(0.001)


def run_program(i, source, path):
    """With the file as argument, or through a pipe if the program takes none. Returns exit code and all that it said."""
    args = ["./prog%d" % i] + ([path] if "argv" in source else [])
    p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if "STDIN_FILENO" in source:
        with open(path, "rb") as f:
            drip(f.read(), p.stdin)
        p.stdin = None
    out, err = p.communicate(timeout=60)
    return p.returncode, (out + err).decode(errors="replace")


def compile_cxx(source, name):
    compiler = next((c for c in shlex.split(os.environ.get("CXX", "")) + ["g++", "clang++"] if shutil.which(c)), None)
    if not compiler:
        return False
    with open(name + ".cpp", "w", encoding="utf-8") as f:
        f.write(source)
    p = subprocess.run([compiler, "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-I", ROOT] + FLAGS +
                       [name + ".cpp", LIBRARY] + LIBS + ["-o", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    expect(p.returncode == 0, "%s.cpp does not compile:" % name, p.stdout.decode(errors="replace")[:2000])
    return True


def check_out_rdb(what, wanted):
    expect(os.path.exists("out.rdb") == wanted, what + ": out.rdb")
    if wanted:
        code, out, _ = run("check", "out.rdb")
        expect(code == 0, what + " makes this file:", out)
        os.remove("out.rdb")


def command(*args):
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args)


def append_only_files():
    """A sound one and a cut one, with the exit code of a program that reads them."""
    text = command(b"SELECT", b"1") + command(b"RPUSH", b"list", b"a", b"b") + command(b"LPUSH", b"list", b"c") + command(b"LPOP", b"none")
    for name, data in (("good.aof", text), ("cut.aof", text[:-3])):
        with open(name, "wb") as f:
            f.write(data)
    logs = glob.glob(os.path.join(ROOT, "fixtures/aof/redis-6.2/*.aof.gz"))
    expect(logs, "no fixtures/aof/redis-6.2")
    return [("good.aof", 0), ("cut.aof", 1)] + [(path, 0) for path in sorted(logs)]


def run_programs(name):
    good = os.path.join(ROOT, "fixtures/redis74/everything.rdb")
    bad = os.path.join(ROOT, "fixtures/bad/string_cut.rdb")
    for i, source in enumerate(programs(name), 1):
        what = "program %d of %s" % (i, name)
        compile_c(source, "prog%d" % i)
        inputs = [(good, 0), (bad, 1)] if "argv" in source or "STDIN_FILENO" in source else [(good, 0)]
        if "rdbkit_keyspace_aof_visitor" in source:
            inputs += append_only_files()
        if "rdbkit_salvage_new" in source: # whatever can be saved
            inputs = [(good, 0), (bad, 0), (os.path.join(ROOT, "fixtures/bad/header_magic.rdb"), 1)]
        if "rdbkit_manifest_parse" in source:
            inputs = [(p, 0) for p in glob.glob(os.path.join(ROOT, "fixtures/aof/*/*.aofdir/*.manifest"))] + [(bad, 1)]
            expect(len(inputs) > 10, "manifests", inputs)
        for path, wanted in inputs:
            code, said = run_program(i, source, path)
            expect(code == wanted, "%s on %s: exit %d, %d wanted:" % (what, path, code, wanted), said[-500:])
            expect(said, "%s on %s says nothing" % (what, path))
            check_out_rdb("%s on %s" % (what, path), wanted == 0 and '"out.rdb"' in source)


def damaged_file_of_the_page():
    script = re.search(r"^```sh\n(.* >damaged\.rdb\n)```", read("docs/embedding.md"), re.M)
    expect(script, "no command that makes damaged.rdb")
    os.symlink(os.path.join(ROOT, "fixtures"), "fixtures")
    subprocess.run(["sh", "-ec", script.group(1)], check=True, timeout=60)


@test
def programs_of_the_embedding_page_compile_and_run():
    run_programs("docs/embedding.md")


@test
def programs_of_the_embedding_page_print_what_stands_below_them():
    damaged_file_of_the_page()
    found = programs_with_output("docs/embedding.md")
    expect(len(found) >= 15, "%d programs" % len(found))
    without_cxx = False
    for i, (kind, source, outputs) in enumerate(found, 1):
        expect(outputs, "nothing stands below program %d:" % i, source[:200])
        if kind == "c":
            compile_c(source, "prog%d" % i)
        elif not compile_cxx(source, "prog%d" % i):
            without_cxx = True
            continue
        for path, text in outputs:
            code, said = run_program(i, source, path)
            expect(looks_like(text, said), "program %d on %s, exit %d, says:" % (i, path, code), said[-1500:])
            if os.path.exists("out.rdb"):
                check_out_rdb("program %d on %s" % (i, path), True)
    if without_cxx:
        raise Skipped("no C++ compiler; the programs in C are as they should be")


def program_with(text):
    """Compile the one program of the embedding page that has this text in it."""
    found = [s for kind, s, _ in programs_with_output("docs/embedding.md") if text in s]
    expect(len(found) == 1, "%d programs have" % len(found), text)
    compile_c(found[0], "prog0")
    return found[0]


@test
def event_loop_program_tells_what_follows_the_rdb_and_a_cut_one():
    source = program_with("poll(")
    with open(os.path.join(ROOT, "fixtures/redis74/everything.rdb"), "rb") as f:
        whole = f.read()
    for data, wanted, text in ((whole + command(b"PING"), 0, "checksum verified, 14 bytes behind"), (whole + whole, 0, ", %d bytes behind" % len(whole)),
                               (whole[:-1], 1, "the input ends after"), (b"", 1, "the input ends after")):
        with open("piped", "wb") as f:
            f.write(data)
        code, said = run_program(0, source, "piped")
        expect(code == wanted and text in said, "%d bytes, exit %d:" % (len(data), code), said)


@test
def resuming_program_sees_each_key_of_every_server_once():
    program_with("keys_left")
    paths = sorted(glob.glob(os.path.join(ROOT, "fixtures/*/everything.rdb")))
    expect(len(paths) >= 10, "fixtures", paths)
    for path in paths + [os.path.join(ROOT, "fixtures/valkey81/slotinfo_aux.rdb")]:
        p = subprocess.run(["./prog0", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        expect(p.returncode == 0, "on %s:" % path, p.stdout, p.stderr)
        keys = sum(int(n) for n in re.findall(rb"^(\d+) keys", p.stdout, re.M))
        expect(keys == len(run("keys", path)[1].splitlines()), "%d keys in" % keys, path)


MEMORY = r"""
#define _POSIX_C_SOURCE 200809L
#include "rdbkit.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static struct { size_t used, made, peak; } c;
static void *take(void *ctx, void *old, size_t old_size, size_t size) {
    void *p = realloc(old, size ? size : 1);
    (void)ctx;
    if (!p) abort();
    c.used += size - old_size;
    if (c.used > c.peak) c.peak = c.used;
    return p;
}
static void *take_new(void *ctx, size_t size) { return take(ctx, NULL, 0, size); }
static void give_back(void *ctx, void *p, size_t size) { (void)ctx; if (p) c.used -= size; free(p); }
static const rdbkit_allocator mem = {take_new, take, give_back, NULL};
static int nowhere(void *ctx, const void *data, size_t len) { (void)ctx; (void)data; (void)len; return 0; }
static void begin(void) { memset(&c, 0, sizeof c); }
static void made(const void *handle) { if (!handle) abort(); c.made = c.used; }
static void row(const char *name) {
    if (c.used) abort();
    printf("%s\t%lu\t%lu\n", name, (unsigned long)c.made, (unsigned long)c.peak);
}
static void pull(const char *path, rdbkit_reader *r, const rdbkit_allocator *of_input) {
    int fd = open(path, O_RDONLY);
    rdbkit_input *in = rdbkit_input_new_fd(of_input, fd);
    if (of_input) made(in);
    if (!r || !in || rdbkit_reader_pull(r, in) != RDBKIT_DONE) abort();
    rdbkit_input_free(in);
    rdbkit_reader_free(r);
    close(fd);
}
static void through(const char *path, const rdbkit_visitor *v, size_t piece_len) {
    rdbkit_reader_options o;
    rdbkit_reader_options_init(&o);
    o.piece_len = piece_len;
    pull(path, rdbkit_reader_new(&o, v), NULL);
}
static void pull_log(const char *path, rdbkit_aof *a, const rdbkit_allocator *of_input) {
    int fd = open(path, O_RDONLY);
    rdbkit_input *in = rdbkit_input_new_fd(of_input, fd);
    if (of_input) made(in);
    if (!a || !in || rdbkit_aof_pull(a, in) != RDBKIT_DONE) abort();
    rdbkit_input_free(in);
    rdbkit_aof_free(a);
    close(fd);
}
int main(int argc, char **argv) {
    const char *path = argv[1], *lines = "file a seq 1 type b\nfile b seq 1 type i\n";
    rdbkit_visitor none;
    memset(&none, 0, sizeof none);
    if (argc != 3) return 2;
    begin(), pull(path, rdbkit_reader_new(NULL, NULL), &mem), row("rdbkit_input");
    begin(), pull_log(argv[2], rdbkit_aof_new(NULL, NULL), &mem), row("gzip");
    rdbkit_reader_options ro;
    rdbkit_reader_options_init(&ro), ro.allocator = &mem;
    begin();
    rdbkit_reader *r = rdbkit_reader_new(&ro, NULL);
    made(r), pull(path, r, NULL), row("rdbkit_reader");
    rdbkit_aof_options ao;
    rdbkit_aof_options_init(&ao), ao.allocator = &mem;
    begin();
    rdbkit_aof *a = rdbkit_aof_new(&ao, NULL);
    made(a), pull_log(path, a, NULL), row("rdbkit_aof");
    rdbkit_writer_options wo;
    rdbkit_writer_options_init(&wo), wo.allocator = &mem, wo.allow_loss = wo.reencode = 1;
    begin();
    rdbkit_writer *w = rdbkit_writer_new(&wo, nowhere, NULL);
    made(w), through(path, rdbkit_writer_visitor(w), 0), rdbkit_writer_free(w), row("rdbkit_writer");
    rdbkit_resp_options po;
    rdbkit_resp_options_init(&po), po.allocator = &mem, po.allow_loss = 1;
    begin();
    rdbkit_resp *p = rdbkit_resp_new(&po, nowhere, NULL);
    made(p), through(path, rdbkit_resp_visitor(p), 65536), rdbkit_resp_free(p), row("rdbkit_resp");
    rdbkit_json_options jo;
    rdbkit_json_options_init(&jo), jo.allocator = &mem;
    begin();
    rdbkit_json *j = rdbkit_json_new(&jo, nowhere, NULL);
    made(j), through(path, rdbkit_json_visitor(j), 0), rdbkit_json_free(j), row("rdbkit_json");
    begin();
    rdbkit_filter *f = rdbkit_filter_new(&mem);
    made(f), rdbkit_filter_free(f), row("rdbkit_filter");
    begin();
    rdbkit_salvage *s = rdbkit_salvage_new(&mem, &none, NULL, NULL);
    made(s), through(path, rdbkit_salvage_visitor(s), 0), rdbkit_salvage_free(s), row("rdbkit_salvage");
    begin();
    rdbkit_check *k = rdbkit_check_new(&mem, NULL);
    made(k), through(path, rdbkit_check_visitor(k), 0);
    if (rdbkit_check_finish(k) != 0) abort();
    rdbkit_check_free(k), row("rdbkit_check");
    rdbkit_keyspace_options ko;
    rdbkit_keyspace_options_init(&ko), ko.allocator = &mem;
    begin();
    rdbkit_keyspace *ks = rdbkit_keyspace_new(&ko);
    made(ks), through(path, rdbkit_keyspace_visitor(ks), 0);
    if (rdbkit_keyspace_emit(ks, NULL, &none) != RDBKIT_DONE) abort();
    rdbkit_keyspace_free(ks), row("rdbkit_keyspace");
    begin();
    rdbkit_manifest *m = rdbkit_manifest_parse(&mem, lines, strlen(lines), NULL);
    made(m), rdbkit_manifest_free(m), row("rdbkit_manifest");
    return 0;
}
"""


@test
def memory_of_each_handle_is_what_the_page_says():
    """Never more, and on machines of 64 bits not much less."""
    compile_c(MEMORY, "memory")
    out = subprocess.run(["./memory", os.path.join(ROOT, "fixtures/redis74/everything.rdb"), os.path.join(ROOT, "fixtures/aof/redis-6.2/log.aof.gz")],
                         stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()
    real = {name: (int(made) / 1024, int(peak) / 1024) for name, made, peak in (line.split("\t") for line in out.splitlines())}
    rows = table("docs/embedding.md", "handle", "made", "at most")
    equal({bare(r[0]) for r in rows}, set(real) - {"gzip"}, "handles")
    least = 0.8 if sys.maxsize > 2 ** 32 else 0.3
    pairs = [(bare(r[0]), float(r[i + 1]), real[bare(r[0])][i]) for r in rows for i in (0, 1)]
    pairs.append(("gzip", float(re.search(r"of gzip it takes (\d+)", rows[0][3]).group(1)), real["gzip"][1]))
    for name, says, is_ in pairs:
        expect(is_ <= says + 0.05 and is_ >= says * least - 0.1, "%s: %.1f KiB on the page, measured" % (name, says), round(is_, 2))


@test
def program_of_the_readme_compiles_and_runs():
    run_programs("README.md")
    for source in programs("README.md"):
        expect(len(source.splitlines()) <= 30, "longer than a glance: %d lines" % len(source.splitlines()))


# ---- Command line ------------------------------------------------------------------------------------------------------


def verbs():
    code, out, _ = run("help")
    expect(code == 0, "rdbkit help: exit %d" % code)
    found = re.findall(r"^  ([a-z-]+)  +\S", out.decode(), re.M)
    expect(len(found) >= 5, "verbs", found)
    return found


def help_options(verb):
    """The options of a verb by its help: "-o" and "--output" each."""
    code, out, _ = run("help", verb)
    expect(code == 0, "rdbkit help %s: exit %d" % (verb, code))
    found = set()
    for letter, name, arg in re.findall(r"^  (?:(-\w), |    )(--[a-z-]+)(?: ([A-Z:]+))?", out.decode(), re.M):
        found |= {x for x in (letter, name + (" " + arg if arg else "")) if x}
    expect("--help" in found, "options of " + verb, found)
    return found


@test
def each_option_of_each_verb_is_in_the_reference_and_no_other():
    documented = {}
    for row in table("docs/cli.md", "option", "verbs"):
        names = re.findall(r"`(-[^`]+)`", row[0])
        expect(names, "no option in", row)
        for verb in row[1].split():
            documented.setdefault(verb, set()).update(names)
    equal(sorted(documented), sorted(verbs()), "verbs with options in docs/cli.md")
    for verb in verbs():
        equal(documented[verb], help_options(verb), "options of %s in docs/cli.md" % verb)


@test
def each_verb_is_in_the_reference_and_no_other():
    equal([bare(row[0]) for row in table("docs/cli.md", "verb")], verbs(), "verbs in docs/cli.md")
    sections = re.findall(r"^## (.*)$", read("docs/cli.md"), re.M)
    for verb in verbs():
        expect(verb in sections, "docs/cli.md has no section " + verb)


@test
def each_option_and_verb_is_in_the_man_page_and_no_other():
    page = read("docs/rdbkit.1")
    documented = set()
    for line in re.findall(r"^\.It Fl (.*)$", page, re.M):
        words = re.sub(r"Ar \S+|Fl|,", "", line).split()
        documented |= {"-" + w for w in words}
    real = set()
    for verb in verbs():
        real |= {o.split()[0] for o in help_options(verb)}
    equal(documented, real, "options in docs/rdbkit.1")
    named = set(re.findall(r"^\.It Cm ([a-z-]+)$", page, re.M))
    equal(named, set(verbs()), "verbs in docs/rdbkit.1")
    for name in [r[0] for r in facts("target")]:
        expect(re.search(r"^\.Cm .*%s\b" % re.escape(name), page, re.M), "docs/rdbkit.1 has no target " + name)


@test
def synopsis_of_the_man_page_has_the_options_of_each_verb():
    """All but those that have a section for all verbs."""
    page = read("docs/rdbkit.1")
    common = set()
    for title in ("Options for append-only files", "Options that choose or change keys", "Common options"):
        section = re.split(r"\n\.S[hs] ", page.split(".Ss %s\n" % title)[1])[0]
        common |= {"--" + n for n in re.findall(r"^\.It .*?(?:Fl -|, -)([a-z-]+)", section, re.M)}
    expect(len(common) > 25, "common options", common)
    synopsis = page.split(".Sh SYNOPSIS\n")[1].split(".Sh ")[0]
    found = {}
    for verb, text in re.findall(r"^\.Cm ([a-z-]+)\n((?:\.(?!Nm).*\n)*)", synopsis, re.M):
        found[verb] = {"-" + n for n in re.findall(r"^\.Op Fl (\S+)", text, re.M)}
        expect((".Op Ar common options\n" in text) == (verb != "help"), "common options in the synopsis of " + verb)
        needs_output = run(verb, os.path.join(ROOT, "fixtures/redis70/everything.rdb"))[0] == 2 and verb != "help"
        expect((".Fl o Ar output\n" in text) == needs_output, "-o in the synopsis of " + verb)
    equal(set(found), set(verbs()), "verbs in the synopsis")
    for verb in verbs():
        equal(found[verb], {o.split()[0] for o in help_options(verb) if o.startswith("--")} - common, "synopsis of " + verb)


@test
def man_page_says_of_each_option_whether_it_takes_a_value():
    takes = {}
    for verb in verbs():
        takes.update({o.split()[0]: " " in o for o in help_options(verb) if o.startswith("--")})
    for line in re.findall(r"^\.It Fl (.*)$", read("docs/rdbkit.1"), re.M):
        name = "-" + re.search(r"-[a-z][a-z-]+", line).group(0)
        expect(takes[name] == (" Ar " in line), "docs/rdbkit.1: value of", line)


@test
def man_page_is_clean():
    tools = [t for t in (["mandoc", "-Tlint", "-Wwarning"], ["groff", "-mdoc", "-Tutf8", "-ww", "-z"]) if shutil.which(t[0])]
    for tool in tools:
        p = subprocess.run(tool + [os.path.join(ROOT, "docs/rdbkit.1")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        expect(p.returncode == 0 and not re.search(rb"warning|error|rdbkit\.1", p.stdout, re.I), tool[0], p.stdout[:500])
    if not tools:
        raise Skipped("neither mandoc nor groff")


@test
def targets_and_their_other_names_are_in_the_reference():
    equal([[bare(r[0])] + r[1:3] for r in table("docs/cli.md", "target", "writes RDB")], facts("target"), "targets in docs/cli.md")
    equal([[bare(c) for c in r] for r in table("docs/cli.md", "name", "is")], facts("alias"), "other names in docs/cli.md")


@test
def exit_codes_are_the_same_everywhere():
    codes = table("docs/cli.md", "code")
    equal(table("README.md", "code"), codes, "exit codes in README.md")
    status = read("docs/rdbkit.1").split(".Sh EXIT STATUS")[1].split(".El")[0]
    equal(re.findall(r"^\.It (\d)$", status, re.M), [r[0] for r in codes], "exit codes in docs/rdbkit.1")


@test
def members_of_info_json_are_in_the_reference():
    import json
    code, out, err = run("info", "--json", os.path.join(ROOT, "fixtures/valkey81/slotinfo_aux.rdb"))
    expect(code == 0, "info", err)
    documented = {n for row in table("docs/cli.md", "member") for c in row for n in re.findall(r"`(\w+)`", c)}
    for member in json.loads(out.decode()):
        expect(member in documented, "docs/cli.md has no member " + member)


# ---- Completions -------------------------------------------------------------------------------------------------------


def completion(name):
    return os.path.join(ROOT, "docs/completions", name)


def program_folder():
    """A folder with rdbkit alone, and one of files to be found."""
    os.makedirs("bin", exist_ok=True)
    if not os.path.lexists("bin/rdbkit"):
        os.symlink(RDBKIT, "bin/rdbkit")
    os.makedirs("files", exist_ok=True)
    for name in ("dump one.rdb", "dump two.rdb"):
        open(os.path.join("files", name), "w").close()


def shell_env(**more):
    return dict(os.environ, PATH=os.path.abspath("bin") + os.pathsep + os.environ["PATH"], HOME=os.path.abspath("files"), TERM="dumb", **more)


def bash_offers(words):
    """By the function, with the words as bash cuts them. A set."""
    cut = [part for w in words for part in (re.split("(=)", w) if w.startswith("--") and "=" in w else [w])]
    if cut[-1] == "" and cut[-2] == "=":
        cut.pop()
    script = "source %s\nCOMP_WORDS=(%s)\nCOMP_CWORD=%d\n_rdbkit\nprintf '%%s\\n' \"${COMPREPLY[@]}\"" % (
        shlex.quote(completion("rdbkit.bash")), " ".join(shlex.quote(w) for w in cut), len(cut) - 1)
    p = subprocess.run(["bash", "--norc", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env=shell_env(),
                       cwd="files")
    expect(not p.stderr, "bash completion of %s says:" % (words,), p.stderr)
    before = words[-1].split("=")[0] + "=" if words[-1].startswith("--") and "=" in words[-1] else ""
    return {before + line for line in p.stdout.decode().splitlines() if line}


def fish_offers(words):
    """By fish itself."""
    line = " ".join(words)
    p = subprocess.run(["fish", "--no-config", "-c", "source %s; complete -C%s" % (shlex.quote(completion("rdbkit.fish")), shlex.quote(line))], cwd="files",
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env=shell_env(XDG_DATA_HOME=os.path.abspath("files")))
    expect(not p.stderr, "fish completion of %s says:" % line, p.stderr)
    return {x.split("\t")[0].replace("\\ ", " ") for x in p.stdout.decode().splitlines()}


# What _describe and _files hand to zsh is kept, and printed instead of the line.
ZSH_START = r"""
unsetopt zle_bracketed_paste beep; PS1= RPS1=
fpath=(%s $fpath); autoload -Uz compinit; compinit -u -d "$HOME/.zcompdump"
zstyle ':completion:*' menu no; setopt no_list_ambiguous; LISTMAX=9999
compadd() {
    local -a hits
    if (( ! ${@[(I)-[OAD]]} )); then builtin compadd -O hits "$@"; offered+=($hits); fi
    builtin compadd "$@"
}
said() { print -r -- "OFFERED<${(pj:|:)offered}>"; offered=() }
print READY
"""


class Zsh:
    """An interactive zsh at the other end of a terminal."""

    def __init__(self):
        import pty
        env = shell_env()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir("files")
            os.execvpe("zsh", ["zsh", "-f", "-i"], env)
        with open("files/start.zsh", "w") as f:
            f.write(ZSH_START % shlex.quote(completion("")))
        self.say("source ./start.zsh\n", "READY\r\n")

    def say(self, text, until):
        import select
        os.write(self.fd, text.encode())
        said, end = "", time.time() + 60
        while until not in said:
            expect(time.time() < end, "zsh does not answer:", said[-500:])
            if select.select([self.fd], [], [], 1)[0]:
                said += os.read(self.fd, 65536).decode(errors="replace")
        return said

    def offers(self, words):
        said = self.say(" ".join(words) + "\t\x01\x0bsaid\n", ">\r\n")
        expect("command not found" not in said and "parse error" not in said, "zsh completion of %s:" % words, said)
        prefix = words[-1].split("=")[0] + "=" if words[-1].startswith("--") and "=" in words[-1] else ""
        rest = words[-1][len(prefix):]
        prefix += rest[:rest.rindex(",") + 1] if "," in rest else ""
        return {prefix + x.replace("\\ ", " ") for x in re.search(r"OFFERED<(.*)>\r\n", said).group(1).split("|") if x}

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def values_taken(verb, option, values, wrong):
    """Whether the program takes each value, and no other."""
    fixture = os.path.join(ROOT, "fixtures/redis70/string_ttl.rdb")
    fixture = fixture if os.path.exists(fixture) else os.path.join(ROOT, "fixtures/redis70/everything.rdb")
    for value in values:
        code, _, err = run(verb, option, value, "-o", "-", fixture) if not (verb == "convert" and value == "aof") else run(
            verb, option, value, "--to", "redis-6.2", "--allow-loss", "-q", "-o", "-", fixture)
        expect(code != 2, "%s %s %s:" % (verb, option, value), err)
    expect(run(verb, option, wrong, "-o", "-", fixture)[0] == 2, "%s %s takes %s" % (verb, option, wrong))


TYPES = ["string", "list", "set", "zset", "hash", "stream", "module"]
ENCODINGS = ["auto", "utf8", "base64", "latin1"]


def holds_completion(offers):
    """offers(words): a set, what is offered for the last of the words."""
    verbs_, targets = set(verbs()), {r[0] for r in facts("target")}
    equal(offers(["rdbkit", ""]), verbs_, "verbs")
    equal(offers(["rdbkit", "help", ""]), verbs_, "verbs after help")
    equal(offers(["rdbkit", "con"]), {"convert"}, "verbs that begin with con")
    for verb in sorted(verbs_):
        equal(offers(["rdbkit", verb, "--"]), {o.split()[0] for o in help_options(verb) if o.startswith("--")}, "options of " + verb)
    equal(offers(["rdbkit", "to-resp", "--to", ""]), targets, "targets")
    equal(offers(["rdbkit", "convert", "dump.rdb", "--to", "redis-7"]), {t for t in targets if t.startswith("redis-7")}, "targets that begin with redis-7")
    equal(offers(["rdbkit", "convert", "--to=va"]), {"--to=" + t for t in targets if t.startswith("va")}, "targets behind =")
    equal(offers(["rdbkit", "convert", "--to="]), {"--to=" + t for t in targets}, "targets right behind =")
    equal(offers(["rdbkit", "convert", "--format", ""]), {"rdb", "aof"}, "forms")
    equal(offers(["rdbkit", "to-json", "--lines", "--encoding", ""]), set(ENCODINGS), "encodings")
    for option in ("-t", "--not-type"):
        equal(offers(["rdbkit", "keys", option, ""]), set(TYPES), "types for " + option)
    equal(offers(["rdbkit", "keys", "-T", "hash,s"]), {"hash,string", "hash,set", "hash,stream"}, "types behind a comma")
    for words in (["keys", "--format", ""], ["to-resp", "--batch", ""], ["filter", "-k", ""], ["info", "--rename", ""]):
        equal(offers(["rdbkit"] + words), set(), "nothing for " + words[-2])
    dumps = {"dump one.rdb", "dump two.rdb"}
    for words in (["check", "d"], ["check", "-i", "d"], ["convert", "-o", "d"], ["filter", "--keys-from", "d"], ["convert", "--loss-report", "d"], ["check", "--", "d"],
                  ["convert", "--to", "redis-7.0", "d"]):
        equal(offers(["rdbkit"] + words), dumps, "files for " + " ".join(words))
    equal(offers([os.path.abspath("bin/rdbkit"), "con"]), {"convert"}, "verbs of a program with a path")


@test
def values_that_completions_offer_are_those_that_the_program_takes():
    values_taken("convert", "--format", ["rdb", "aof"], "json")
    values_taken("to-json", "--encoding", ENCODINGS, "utf16")
    values_taken("to-json", "-t", TYPES, "bitmap")


@test
def bash_completes_verbs_options_values_and_files():
    if not shutil.which("bash"):
        raise Skipped("no bash")
    program_folder()
    holds_completion(bash_offers)
    letters = {o.split()[0] for o in help_options("keys")}
    equal(bash_offers(["rdbkit", "keys", "-"]), letters, "letters and options by bash")


@test
def fish_completes_verbs_options_values_and_files():
    if not shutil.which("fish"):
        raise Skipped("no fish")
    program_folder()
    holds_completion(fish_offers)


@test
def zsh_completes_verbs_options_values_and_files():
    if not shutil.which("zsh"):
        raise Skipped("no zsh")
    program_folder()
    zsh = Zsh()
    try:
        holds_completion(zsh.offers)
    finally:
        zsh.close()


# ---- Format and losses -------------------------------------------------------------------------------------------------


@test
def type_table_equals_the_library():
    documented = [[r[0], r[1], bare(r[2]), r[3], bare(r[4])] for r in table("docs/format.md", "number", "lineage", "name", "RDB", "layout")]
    equal(documented, facts("type"), "types in docs/format.md")


@test
def layout_signs_are_explained():
    signs = {c for row in facts("type") for c in row[4] if c not in "n()-"}
    equal({bare(r[0])[0] for r in table("docs/format.md", "sign", "bytes")} - {"n"}, signs, "layout signs in docs/format.md")


@test
def opcodes_equal_the_library():
    documented = [r[0] for r in table("docs/format.md", "number", "hex", "name")]
    equal(sorted(documented), sorted(r[0] for r in facts("opcode")), "opcodes in docs/format.md")
    for row in table("docs/format.md", "number", "hex", "name"):
        expect(int(row[0]) == int(row[1], 16), "hex of", row)


@test
def kinds_of_loss_equal_the_library():
    documented = [[bare(r[0]), r[1], r[2]] for r in table("docs/loss.md", "kind", "is", "text")]
    equal(documented, facts("loss"), "kinds in docs/loss.md")


@test
def which_verb_loses_what_names_every_kind():
    equal([bare(r[0]) for r in table("docs/loss.md", "kind", "`convert`")], [r[0] for r in facts("loss")], "kinds by verb in docs/loss.md")


@test
def limits_of_encodings_equal_the_library():
    text = {r[0]: r[1] for r in table("docs/format.md", "type", "limits")}
    hash_n, zset_n, set_n, intset_n, item, node, stream = facts("limits")[0]
    for types, words in (("13, 16, 25", (hash_n, item)), ("12, 17", (zset_n, item)), ("11", (intset_n,)), ("20", (set_n, item)),
                         ("14, 18", (node,)), ("15, 19, 21", (stream,))):
        for word in words:
            expect(re.search(r"\b%s\b" % word, text[types]), "docs/format.md: limits of %s lack %s" % (types, word))


@test
def encodings_are_what_reencode_writes():
    """Each type that convert --reencode makes of a file with everything stands in the target's row."""
    numbers = {r[2]: r[0] for r in facts("type")}
    rows = {name: row for row in table("docs/format.md", "target", "string") for name in row[0].split(", ")}
    equal(set(rows), {r[0] for r in facts("target")}, "targets in the table of encodings")
    for name, row in rows.items():
        loads = next(r for r in facts("loads") if r[0] == name)[1:]
        documented = set(re.findall(r"\d+", " ".join(row[1:])))
        expect(documented <= {n.rstrip("v") for n in loads}, "%s does not load all of" % name, documented)
        for source in ("redis40", "redis74", "valkey9"):
            path = os.path.join(ROOT, "fixtures", source, "everything.rdb")
            code, out, err = run("convert", "--reencode", "--allow-loss", "-q", "--force", "--to", name, "-o", "made.rdb", path)
            expect(code == 0, "convert to " + name, err)
            code, out, err = run("keys", "--format", "%c", "made.rdb")
            made = {numbers[n] for n in out.decode().split()}
            expect(made and made <= documented, "%s: %s has types that its row has not:" % (name, source), sorted(made - documented))


@test
def each_replayed_command_is_on_the_page_of_append_only_files():
    source = read("rdbkit.c")
    found = re.findall(r'^    X\("([a-z-]+)", -?\d+, cmd_\w+\)', source, re.M)
    expect(len(found) > 100, "commands in rdbkit.c", len(found))
    text = re.sub(r"^```.*?^```", "", read("docs/aof.md"), flags=re.M | re.S)
    page = set(re.findall(r"[A-Z-]{3,}", " ".join(re.findall(r"`([^`]+)`", text))))
    equal(page & {c.upper() for c in found}, {c.upper() for c in found}, "commands in docs/aof.md")


@test
def what_a_replay_tells_is_on_the_page_of_append_only_files():
    body = read("rdbkit.c").split("static void cli_replay_summary(")[1].split("};")[0]
    real = re.findall(r'"([^"]+)"', body)
    expect(len(real) == 5, "texts of a replay", real)
    equal([bare(r[0]) for r in table("docs/aof.md", "message", "kind")], real, "texts of a replay in docs/aof.md")


@test
def append_only_steps_run():
    """The marked examples of docs/aof.md, on a log with timestamps, whose last record is cut in the directory."""
    os.mkdir("aof")
    os.makedirs("bin", exist_ok=True)
    if not os.path.lexists("bin/rdbkit"):
        os.symlink(RDBKIT, "bin/rdbkit")
    shutil.copy(os.path.join(ROOT, "fixtures/redis70/everything.rdb"), "aof/dump.rdb")
    text = b"#TS:1700000000\r\n" + command(b"SELECT", b"0") + command(b"SET", b"user:1", b"x") + command(b"SETEX", b"s", b"5", b"x")
    text += b"#TS:1800000000\r\n" + command(b"FLUSHALL")
    with open("aof/appendonly.aof", "wb") as f:
        f.write(text)
    code, _, err = run("convert", "--format", "aof", "-o", "aof/appendonlydir", "aof/dump.rdb")
    expect(code == 0, "convert --format aof", err)
    with open("aof/appendonlydir/appendonly.aof.1.incr.aof", "wb") as f:
        f.write(text + command(b"SET", b"k", b"v")[:-3])
    found = re.findall(r"<!-- test -->\s*\n```sh\n(.*?)```", read("docs/aof.md"), re.S)
    expect(len(found) >= 8, "%d examples" % len(found))
    env = dict(os.environ, PATH=os.path.abspath("bin") + os.pathsep + os.environ["PATH"])
    for script in found:
        p = subprocess.run(["sh", "-eu", "-c", script], cwd="aof", env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        expect(p.returncode == 0, "docs/aof.md: %r:" % script, p.stdout[-800:])
        if "repair" in script:
            # what is behind the cut is gone for the examples that follow
            with open("aof/appendonlydir/appendonly.aof.1.incr.aof", "wb") as f:
                f.write(text)
    code, out, err = run("keys", "--format", "%k", "aof/before")
    expect(b'"user:1"' in out.split(), "docs/aof.md: before the FLUSHALL:", out, err)


@test
def readme_shows_what_the_program_says():
    """Blocks of output behind the marked examples."""
    os.symlink(RDBKIT, "rdbkit")
    with open(os.path.join(ROOT, "fixtures/redis70/everything.rdb"), "rb") as f, open("dump.rdb", "wb") as g:
        g.write(f.read())
    found = re.findall(r"<!-- test -->\s*\n```sh\n(.*?)```\n\n((?:    [^\n]*\n)*)", read("README.md"), re.S)
    expect(len(found) >= 4, "%d examples" % len(found))
    for script, wanted in found:
        p = subprocess.run(["sh", "-eu", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        lines = p.stdout.decode(errors="replace").splitlines()
        for line in wanted.splitlines():
            expect(line[4:] in lines, "README.md: not said by %r:" % script, line[4:])


def hex_block(text):
    out = b""
    for word in re.sub(r"#.*", "", text).split():
        times, _, byte = word.rpartition("*")
        out += bytes.fromhex(byte) * int(times or 1)
    return out


@test
def worked_examples_of_the_format_are_read():
    blocks = re.findall(r"^```hex (\w+) (file|value|dump)( valkey)?\n(.*?)^```", read("docs/format.md"), re.M | re.S)
    expect(len(blocks) > 20, "%d examples" % len(blocks))
    for name, kind, valkey, text in blocks:
        data = hex_block(text)
        if kind == "dump":
            expect(data[-8:] == crc64(data[:-8]), "%s: checksum" % name)
            data = data[:-10]
        if kind != "file":
            data = (b"VALKEY080" if valkey else b"REDIS0012") + data[:1] + b"\x01k" + data[1:] + b"\xff"
            data += crc64(data)
        code, out, err = run("check", "-", data=data)
        expect(code == 0 and b"checksum verified" in out, "%s: exit %d:" % (name, code), out, err)


# ---- All pages ---------------------------------------------------------------------------------------------------------


def pages():
    return ["README.md"] + sorted("docs/" + os.path.basename(p) for p in glob.glob(os.path.join(ROOT, "docs/*.md")))


def anchors(name):
    text = re.sub(r"^```.*?^```", "", read(name), flags=re.M | re.S)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}


@test
def links_lead_somewhere():
    for name in pages():
        for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            expect(os.path.exists(os.path.join(ROOT, target)), "%s links to %s, which is not there" % (name, link))
            expect(not anchor or anchor in anchors(target), "%s links to %s: no such heading" % (name, link))


@test
def pages_name_no_unknown_option():
    """Anything that looks like an option in a command of rdbkit has to be one."""
    real = {o.split()[0] for v in verbs() for o in help_options(v)}
    for name in pages():
        for line in re.findall(r"^.*rdbkit (?:%s)\b.*$" % "|".join(verbs()), read(name), re.M):
            command = re.split(r"[|`]|&&", line[line.index("rdbkit "):])[0]
            for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", command):
                expect(option in real, "%s: %s in %r" % (name, option, line.strip()))


@test
def pages_that_the_sources_name_are_there():
    for source in ["rdbkit.h", "rdbkit.c", "build.sh"]:
        for path in set(re.findall(r"\bdocs/[\w./-]+\w", read(source))):
            expect(os.path.exists(os.path.join(ROOT, path)), "%s names %s" % (source, path))


# ------------------------------------------------------------------------------------------------------------------------


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory(prefix="rdbkit-docs.") as folder:
        os.chdir(folder)
        for t in tests:
            if only not in t.__name__:
                continue
            try:
                t()
                passed += 1
            except Skipped as e:
                skipped += 1
                print("SKIPPED %s: %s" % (t.__name__, e))
            except Exception as e:
                failed += 1
                print("FAIL %s: %s" % (t.__name__, (str(e) if isinstance(e, AssertionError) else traceback.format_exc())[:4000]))
            sys.stdout.flush()
        os.chdir("/")
    return passed, failed, skipped


if __name__ == "__main__":
    results = main()
    print("%d passed, %d failed, %d skipped" % results)
    sys.exit(1 if results[1] else 0)
