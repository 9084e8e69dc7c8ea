#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lets every system call and every allocation of ./rdbkit (or $RDBKIT) fail in turn, and kills it at every one.

    tests/fault_test.py [TEXT]     TEXT: only tests with it in their name

Linux with a C compiler ($CC) alone: the calls are those of tests/faults.c, put before the C library's with LD_PRELOAD.
$FAULT_WIDE: every error number at every call, and larger files. The last line is "N passed, N failed, N skipped".
"""
import concurrent.futures
import ctypes
import errno
import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RDBKIT = os.path.abspath(os.environ.get("RDBKIT") or os.path.join(ROOT, "rdbkit"))
sys.path.insert(0, os.path.join(ROOT, "tests"))
sys.dont_write_bytecode = True
import cli_test

FIXTURES = os.path.join(ROOT, "fixtures")
WIDE = bool(os.environ.get("FAULT_WIDE"))
tests = []
LIBRARY = None
IN = None  # the folder with the inputs
SWAPS = False


def test(function):
    tests.append(function)
    return function


def build(folder):
    """The library, or why there is none."""
    if not sys.platform.startswith("linux"):
        return None, "not Linux"
    if os.environ.get("SANITIZED"):
        return None, "the sanitizers' own library has to come first"
    out = os.path.join(folder, "faults.so")
    try:
        made = subprocess.run((os.environ.get("CC") or "cc").split() + ["-O1", "-shared", "-fPIC", os.path.join(ROOT, "tests", "faults.c"), "-o", out, "-ldl"],
                              stderr=subprocess.PIPE)
    except OSError as e:
        return None, str(e)
    if made.returncode:
        return None, "tests/faults.c is for glibc: " + made.stderr.decode(errors="replace")[-300:]
    return out, None


# ---- What is run -----------------------------------------------------------------------------------------------------


class Case:
    """A command line: %i is the folder with the inputs, out the names it writes (in its own folder), stdin an input."""

    def __init__(self, name, *args, out=(), code=0, stdin=None):
        self.name, self.args, self.out, self.code, self.stdin = name, args, out, code, stdin


WRITERS = [
    Case("convert", "convert", "%i/all.rdb", "--to", "valkey-8", "-o", "out", out=("out",)),
    Case("reencode", "convert", "%i/big.rdb", "--reencode", "--to", "redis-6.2", "-o", "out", out=("out",)),
    Case("aof", "convert", "%i/all.rdb", "--format", "aof", "--to", "redis-7.2", "-o", "out", out=("out",)),
    Case("replay", "convert", "%i/log.aofdir", "--to", "valkey-8", "-o", "out", out=("out",)),
    Case("to-resp", "to-resp", "%i/all.rdb.gz", "-o", "out", out=("out",)),
    Case("to-json", "to-json", "%i/all.rdb", "-o", "out", out=("out",)),
    Case("filter", "filter", "%i/all.rdb", "-t", "string,hash", "-o", "out", out=("out",)),
    Case("repair rdb", "repair", "%i/bad.rdb", "-o", "out", out=("out",)),
    Case("repair aof", "repair", "%i/cut.aof", "-o", "out", out=("out",)),
    Case("repair directory", "repair", "%i/log.aofdir", "-o", "out", out=("out",)),
    Case("keys", "keys", "%i/all.rdb", "-o", "out", out=("out",)),
    Case("loss report", "convert", "%i/all.rdb", "--to", "redis-4.0", "--allow-loss", "--loss-report", "lost", "-o", "out", out=("out", "lost")),
    Case("named by itself", "convert", "%i/all.rdb", out=("all.valkey-8.rdb",)),
    Case("gzip", "convert", "%i/all.rdb.gz", "-o", "out", out=("out",)),
    Case("pipe", "convert", "-", "-o", "out", out=("out",), stdin="all.rdb.gz"),
    Case("preamble without a mark", "convert", "%i/unmarked.aof", "--now", "0", "-o", "out", out=("out",)),
    Case("relative time", "convert", "%i/relative.aof", "-o", "out", out=("out",)),
    Case("relative time in a directory", "convert", "%i/relative.aofdir", "-o", "out", out=("out",)),
    Case("commands", "convert", "%i/relative.aof", "--format", "aof", "--no-preamble", "--to", "redis-6.2", "-o", "out", out=("out",)),
    Case("directory of commands", "convert", "%i/log.aofdir", "--format", "aof", "--no-preamble", "--to", "redis-7.2", "-o", "out", out=("out",)),
    Case("directory to directory", "convert", "%i/log.aofdir", "--format", "aof", "--to", "valkey-8", "-o", "out", out=("out",)),
    Case("to-resp directory", "to-resp", "%i/log.aofdir", "-o", "out", out=("out",)),
    Case("restore", "to-resp", "%i/big.rdb", "--restore", "--to", "redis-6.2", "-o", "out", out=("out",)),
    Case("to-json directory", "to-json", "%i/log.aofdir", "-o", "out", out=("out",)),
    Case("filter aof", "filter", "%i/relative.aof", "--keys-from", "%i/names", "-o", "out", out=("out",)),
    Case("filter directory", "filter", "%i/log.aofdir", "-t", "string", "-o", "out", out=("out",)),
    Case("filter pipe", "filter", "-", "-t", "string", "-o", "out", out=("out",), stdin="all.rdb"),
    Case("new names", "convert", "%i/many.rdb", "--map-db", "0:3", "-o", "out", out=("out",)),
    Case("repair gzip", "repair", "%i/bad.rdb.gz", "-o", "out", out=("out",)),
    Case("repair pipe", "repair", "-", "-o", "out", out=("out",), stdin="bad.rdb"),
    Case("repair rdb with more behind", "repair", "%i/tail.rdb", "-o", "out", out=("out",)),
    Case("repair aof with more behind", "repair", "%i/middle.aof", "-o", "out", out=("out",)),
    Case("repair aof in gzip", "repair", "%i/middle.aof.gz", "-o", "out", out=("out",)),
    Case("repair image", "repair", "%i/image.aof", "-o", "out", out=("out",)),
    Case("check to a file", "check", "%i/all.rdb", "-o", "out", out=("out",)),
    Case("info to a file", "info", "--json", "%i/all.rdb", "-o", "out", out=("out",)),
]
READERS = [Case(v + " " + f, v, "%i/" + f) for v in ("check", "info", "keys") for f in ("all.rdb", "all.rdb.gz", "log.aofdir")] + [
    Case("check pipe", "check", "-", stdin="all.rdb.gz"),
    Case("check many", "check", "%i/many.rdb"),
    Case("check twice", "check", "%i/twice.rdb", code=1),
    Case("check twice in a log", "check", "%i/twice.aof", code=1),
    Case("become one", "convert", "%i/twins.rdb", "--rename", "b:a", "-o", "out", out=("out",), code=5),
    Case("convert to a pipe", "convert", "%i/all.rdb", "-o", "-"),
    Case("filter to a pipe", "filter", "%i/all.rdb", "-o", "-"),
    Case("to-resp to a pipe", "to-resp", "%i/all.rdb"),
    Case("to-resp from a pipe", "to-resp", "-", stdin="all.rdb"),
    Case("to-resp of a log", "to-resp", "%i/relative.aof", "--now", "0"),
    Case("to-json to a pipe", "to-json", "%i/all.rdb"),
    Case("help", "help", "convert"),
]


def inputs(folder):
    everything = cli_test.fixture("redis72/everything.rdb")
    data = cli_test.read(everything)
    cli_test.write(os.path.join(folder, "all.rdb"), data)
    with gzip.open(os.path.join(folder, "all.rdb.gz"), "wb") as f:
        f.write(data)
    cli_test.write(os.path.join(folder, "big.rdb"), cli_test.rdb(cli_test.collection(2, b"big", 60000, 20), cli_test.collection(4, b"h", 900, 9)))
    cli_test.write(os.path.join(folder, "bad.rdb"), data[:-9] + data[-8:])
    log = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n" + b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n" * 50
    cli_test.write(os.path.join(folder, "cut.aof"), log + b"*3\r\n$3\r\nSE")
    shutil.copytree(cli_test.fixture("aof/redis-7.0/log.aofdir"), os.path.join(folder, "log.aofdir"))
    image, relative = cli_test.rdb(cli_test.string(b"k")), log + b"*4\r\n$5\r\nSETEX\r\n$1\r\nt\r\n$3\r\n100\r\n$1\r\nv\r\n"
    middle = log + b"*junk\r\n" + log * 80  # more than one block behind the damage
    for name, content in {
            "unmarked.aof": image + log, "relative.aof": relative, "names": b"a\nt\n", "tail.rdb": image + b"junk" * 40000, "middle.aof": middle,
            "image.aof": cli_test.rdb(cli_test.string(b"k"), b"\x0d\x01h\x03bad") + log,
            "many.rdb": cli_test.rdb(*[cli_test.string(b"%d" % i) for i in range(100000)]),
            "twice.rdb": cli_test.rdb(cli_test.string(b"k"), cli_test.string(b"x", b"v" * 200000), cli_test.string(b"k")),
            "twice.aof": cli_test.rdb(cli_test.string(b"k"), cli_test.string(b"k")) + log,
            "twins.rdb": cli_test.rdb(cli_test.string(b"a"), cli_test.string(b"x", b"v" * 200000), cli_test.string(b"b"))}.items():
        cli_test.write(os.path.join(folder, name), content)
    for name in ("bad.rdb", "middle.aof"):
        with gzip.open(os.path.join(folder, name + ".gz"), "wb") as f:
            f.write(cli_test.read(os.path.join(folder, name)))
    os.mkdir(os.path.join(folder, "relative.aofdir"))
    cli_test.write(os.path.join(folder, "relative.aofdir", "a.manifest"), b"file a.1.incr.aof seq 1 type i\n")
    cli_test.write(os.path.join(folder, "relative.aofdir", "a.1.incr.aof"), relative)
    for name in ("relative.aof", "relative.aofdir/a.1.incr.aof"):
        os.utime(os.path.join(folder, name), (1700000000, 1700000000))


def shape(path):
    """What a name holds: None, the bytes of a file, or those of each file of a directory."""
    if os.path.isdir(path):
        return {n: shape(os.path.join(path, n)) for n in sorted(os.listdir(path))}
    return cli_test.read(path) if os.path.exists(path) else None


class Run:
    """One run in a new folder: code, out, err; got: what the outputs' names hold; left: other names there."""

    def __init__(self, case, old=None, limits=(), stdout=None, **env):
        args = [a.replace("%i", IN) for a in case.args] + (["--force"] if old else [])
        with tempfile.TemporaryDirectory(prefix="rdbkit-fault.") as folder, tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as out, \
                tempfile.TemporaryFile() as err:
            work, tmp = os.path.join(folder, "w"), os.path.join(folder, "t")
            os.mkdir(work), os.mkdir(tmp)
            for name, what in (old or {}).items():
                if isinstance(what, dict):
                    os.mkdir(os.path.join(work, name))
                    for n, data in what.items():
                        cli_test.write(os.path.join(work, name, n), data)
                else:
                    cli_test.write(os.path.join(work, name), what)
            e = dict(os.environ, LD_PRELOAD=LIBRARY, FAULT_LOG=str(log.fileno()), TMPDIR=tmp, **{k: str(v) for k, v in env.items()})
            setting = (lambda: [resource.setrlimit(*x) for x in limits]) if limits else None
            cat = subprocess.Popen(["cat", os.path.join(IN, case.stdin)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) if case.stdin else None
            p = subprocess.Popen([RDBKIT] + args, cwd=work, env=e, stdin=cat.stdout if cat else subprocess.DEVNULL, stdout=stdout or out, stderr=err,
                                 pass_fds=(log.fileno(),), preexec_fn=setting)
            if cat:
                cat.stdout.close()
            try:
                self.code = p.wait(60)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                self.code = "hangs"
            if cat:
                cat.wait()
            for f in (log, out, err):
                f.seek(0)
            self.calls, self.out, self.err = int(log.read() or 0), out.read(), err.read().decode(errors="replace").replace(folder, "")
            self.got = {n: shape(os.path.join(work, n)) for n in case.out}
            self.left = sorted(set(os.listdir(work)) - set(case.out)) + os.listdir(tmp)

    def __repr__(self):
        return "exit %s, stderr %r, left %r, outputs %r" % (self.code, self.err[:300], self.left, {n: x if x is None else len(x) for n, x in self.got.items()})


def old_of(good):
    """Other content, of the same kind, for what a run writes."""
    return {n: {"appendonly.aof.manifest": b"old"} if isinstance(x, dict) else b"old " * 5 for n, x in good.got.items()}


def together(jobs, function):
    """Calls function for each job, two at a time; tells the first failures together."""
    def one(job):
        try:
            return function(*job)
        except AssertionError as e:
            return str(e)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        wrong = [w for w in pool.map(one, jobs) if w]
    if wrong:
        raise AssertionError("%d of %d:\n    " % (len(wrong), len(jobs)) + "\n    ".join(wrong[:12]))


def steps(n, most):
    """1..n; of many the first and last, and some between."""
    if WIDE or n <= most:
        return list(range(1, n + 1))
    edge = most // 3
    middle = range(edge + 1, n - edge, max(1, (n - 2 * edge) // edge))
    return sorted(set(range(1, edge + 1)) | set(middle) | set(range(n - edge, n + 1)))


def reference(case):
    good = Run(case, FAULT_KIND="io")
    if good.code != case.code or good.left:
        raise AssertionError("%s: %r" % (case.name, good))
    if not case.code and any(x is None for x in good.got.values()):
        raise AssertionError("%s writes nothing: %r" % (case.name, good))
    return good


# ---- Faults ----------------------------------------------------------------------------------------------------------

ERRORS = {"read": [errno.EIO], "pread": [errno.EIO], "write": [errno.ENOSPC, errno.EDQUOT], "fsync": [errno.EIO], "close": [errno.EIO], "open": [errno.EACCES, errno.EMFILE],
          "rename": [errno.EACCES], "swap": [errno.ENOSYS, errno.EINVAL], "stat": [errno.EIO, errno.EACCES], "readlink": [errno.EIO], "link": [errno.EPERM], "unlink": [errno.EACCES], "mkdir": [errno.ENOSPC], "truncate": [errno.EIO], "seek": [errno.EIO],
          "chmod": [errno.EPERM], "opendir": [errno.EACCES], "readdir": [errno.EIO]}


def judge_fault(case, good, old, kind, at, number):
    r = Run(case, old, FAULT_KIND=kind, FAULT_AT=at, FAULT_DO=number)
    where = "%s%s, %s %d gives %s: " % (case.name, " --force" if old else "", kind, at, errno.errorcode[number])
    before = old or {n: None for n in case.out}
    if r.code == good.code:
        wanted = before if case.code > 1 else good.got
        if r.got != wanted or r.out != good.out:
            return where + "right code, wrong output: %r" % r
        if kind in ("read", "pread", "stat", "seek") and r.err != good.err:
            return where + "right code, other messages: %r" % r
    elif r.code != 3:
        return where + "exit 3 wanted: %r" % r
    elif not r.err.startswith("rdbkit: ") and kind != "write":
        return where + "no message: %r" % r
    for n, x in r.got.items():
        if x != good.got[n] and x != before[n]:
            return where + "%s is neither old nor new: %r" % (n, r)
    if not old and r.code != good.code and r.got.get("out") is not None:
        return where + "an output is left: %r" % r
    said = [n for n in r.left if n + ": warning: cannot be removed" in r.err]  # what a directory was before
    if kind != "unlink" and r.left != said:
        return where + "left behind: %r" % r
    return None


def fault(cases):
    jobs = []
    for case in cases:
        good = reference(case)
        for old in (None, old_of(good)) if case.out else (None,):
            for kind, numbers in ERRORS.items():
                calls = Run(case, old, FAULT_KIND=kind).calls
                for at in steps(calls, 9):
                    for number in numbers if WIDE else numbers[:1]:
                        jobs.append((case, good, old, kind, at, number))
    together(jobs, judge_fault)


@test
def failed_call_of_a_writing_verb_is_exit_3_and_the_old_file_stays():
    fault(WRITERS)


@test
def failed_call_of_a_reading_verb_is_exit_3_or_harmless():
    fault(READERS)


@test
def short_and_interrupted_reads_and_writes_change_no_byte():
    def one(case):
        good, r = reference(case), Run(case, FAULT_SHORT=1)
        if (r.code, r.got, r.out, r.err, r.left) != (good.code, good.got, good.out, good.err, []):
            return "%s: %r is not %r" % (case.name, r, good)
    together([(c,) for c in WRITERS + READERS], one)


# ---- Killed ----------------------------------------------------------------------------------------------------------


def temporary(name, case):
    """Whether a name is one that rdbkit gives to what is not complete."""
    return name.startswith("rdbkit-") or any(name.startswith(".%s.rdbkit-" % n) for n in case.out)


def swaps():
    """Whether two names in the folder for temporary files can change places."""
    try:
        call = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    with tempfile.TemporaryDirectory() as folder:
        for name in "ab":
            os.mkdir(os.path.join(folder, name))
        return call(-100, os.path.join(folder, "a").encode(), -100, os.path.join(folder, "b").encode(), 2) == 0


def judge_kill(case, good, old, at, when):
    r = Run(case, old, FAULT_KIND="io", FAULT_AT=at, FAULT_DO=when)
    where = "%s%s, killed %s call %d: " % (case.name, " --force" if old else "", when, at)
    if r.code != -signal.SIGKILL:
        return where + "was not killed: %r" % r
    for n, x in r.got.items():
        if x is not None and x != good.got[n] and x != (old or {}).get(n):
            return where + "%s is neither old nor new: %r" % (n, r)
        if x is None and old and (not isinstance(good.got[n], dict) or SWAPS):
            return where + "the old %s is gone: %r" % (n, r)
    wrong = [n for n in r.left if not temporary(n, case)]
    return where + "left %r" % wrong if wrong else None


@test
def killed_at_any_call_the_output_is_old_or_none_or_new():
    global SWAPS
    jobs, SWAPS = [], swaps()
    for case in WRITERS:
        good = reference(case)
        for old in (None, old_of(good)):
            for at in steps(Run(case, old, FAULT_KIND="io").calls, 30):
                jobs += [(case, good, old, at, when) for when in ("before", "after")]
    together(jobs, judge_kill)


# ---- Memory and limits -----------------------------------------------------------------------------------------------


def judge_failed(case, old, r, where, codes):
    if r.code not in codes:
        return where + "exit %r wanted: %r" % (codes, r)
    if not r.err.startswith("rdbkit: "):
        return where + "no message: %r" % r
    if r.left or r.got != (old or {n: None for n in case.out}):
        return where + "outputs: %r" % r
    return None


def meaning(files):
    """What RDB files hold, whatever their bytes: without memory for the compressor, strings go out as they are."""
    out = {}
    for name, data in files.items():
        if isinstance(data, dict):
            out[name] = meaning(data)
        elif isinstance(data, bytes) and data[:5] == b"REDIS":
            p = subprocess.run([RDBKIT, "to-json", "--lines", "-"], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            out[name] = p.returncode, p.stdout
        else:
            out[name] = data
    return out


def judge_memory(case, good, old, at):
    r = Run(case, old, FAULT_KIND="mem", FAULT_AT=at, FAULT_DO=errno.ENOMEM)
    if r.code == good.code and all(a == b or meaning(a) == meaning(b) for a, b in ((r.got, good.got), ({"": r.out}, {"": good.out}))):
        return None
    r.got.pop("lost", None)  # a report of what was lost up to there may stay
    before = {n: x for n, x in (old or dict.fromkeys(case.out)).items() if n != "lost"}
    return judge_failed(case, before, r, "%s, allocation %d fails: " % (case.name, at), (5,))


@test
def failed_allocation_ends_a_verb_with_a_message_and_no_output():
    jobs = []
    for case in WRITERS + READERS:
        good = reference(case)
        old = old_of(good) if case.out else None
        jobs += [(case, good, old, at) for at in steps(Run(case, old, FAULT_KIND="mem").calls, 60)]
    together(jobs, judge_memory)


@test
def file_size_limit_is_exit_3_and_the_old_file_stays():
    def one(case, force):
        good = reference(case)
        old = old_of(good) if force else None
        r = Run(case, old, limits=((resource.RLIMIT_FSIZE, (16, 16)),))
        return judge_failed(case, old, r, case.name + " under a file size limit: ", (3,))
    together([(c, f) for c in WRITERS for f in (0, 1)], one)


@test
def little_address_space_is_a_message_and_no_output():
    def one(case, mib):
        good = reference(case)
        r = Run(case, limits=((resource.RLIMIT_AS, (mib << 20, mib << 20)),))
        if r.code == good.code and r.got == good.got:
            return None
        if r.code == 127 and "shared librar" in r.err:  # not even the program fits
            return None
        return judge_failed(case, None, r, "%s in %d MiB: " % (case.name, mib), (3, 5))
    together([(c, mib) for c in WRITERS for mib in (4, 5, 6, 8)], one)


@test
def closed_pipe_or_full_disk_as_standard_output_is_exit_3():
    def one(case):
        if isinstance(reference(case).got.get("out"), dict):
            return None
        bare = Case(case.name, *[("-" if a == "out" else a) for a in case.args], out=tuple(n for n in case.out if n != "out"), stdin=case.stdin)
        for what in ("pipe", "/dev/full"):
            if what == "pipe":
                reading, writing = os.pipe()
                os.close(reading)
            else:
                writing = os.open("/dev/full", os.O_WRONLY)
            r = Run(bare, stdout=writing)
            os.close(writing)
            if r.code != 3 or not r.err.startswith("rdbkit: ") or r.left:
                return "%s to %s: %r" % (case.name, what, r)
    together([(c,) for c in WRITERS + READERS if c.code < 2 and c.name != "named by itself"], one)


# ----------------------------------------------------------------------------------------------------------------------


def main():
    global LIBRARY, IN
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [t for t in tests if only in t.__name__]
    passed = failed = skipped = 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="rdbkit-faults.") as folder:
        LIBRARY, why = build(folder)
        if not LIBRARY:
            print("SKIPPED all of fault_test.py: %s" % why)
            return 0, 0, len(chosen)
        IN = os.path.join(folder, "in")
        os.mkdir(IN)
        inputs(IN)
        for t in chosen:
            try:
                t()
                passed += 1
            except Exception as e:
                failed += 1
                print("FAIL %s: %s" % (t.__name__, (str(e) if isinstance(e, AssertionError) else traceback.format_exc())[:6000]))
            sys.stdout.flush()
    return passed, failed, skipped


if __name__ == "__main__":
    results = main()
    print("%d passed, %d failed, %d skipped" % results)
    sys.exit(1 if results[1] else 0)
