#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Installs into a folder and uses what is there as a stranger would; looks into the objects of the library.

    tests/install_test.py [TEXT]     TEXT: only tests with it in their name

Needs Python's standard library and a C compiler ($CC or cc). Takes ./rdbkit, ./librdbkit.a and the shared library as they
are. Skipped one by one: what needs pkg-config, nm, readelf, a C++ compiler. The last line is "N passed, N failed, N skipped".
"""
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CC = shlex.split(os.environ.get("CC") or "cc")
DARWIN = sys.platform == "darwin"
PREFIX = "/opt/rdbkit"
tests = []


def test(function):
    tests.append(function)
    return function


class Skipped(Exception):
    pass


def expect(condition, what, *more):
    if not condition:
        raise AssertionError(" ".join([what] + [repr(m) for m in more]))


def need(tool):
    if not shutil.which(tool):
        raise Skipped("no " + tool)


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def run(*args, env=None, cwd=None, code=0, umask=0o22):
    p = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, cwd=cwd,
                       env=dict(os.environ, **(env or {})), preexec_fn=lambda: os.umask(umask))
    expect(p.returncode == code, "%s: exit %d:" % (" ".join(args), p.returncode), p.stdout[-600:], p.stderr[-1500:])
    return p.stdout.decode(errors="replace")


def build_sh(verb, *args, umask=0o22):
    """With a stage for DESTDIR in this folder. The compiler must not be called: what is built is taken."""
    return run(os.path.join(ROOT, "build.sh"), verb, *args, umask=umask,
               env={"DESTDIR": os.path.abspath("stage"), "CC": "false", "CFLAGS": "-Dother", "NO_INSTALL": "1"})


def files(folder):
    """Everything below it but folders: path, and mode or what the link says."""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            s = os.lstat(path)
            found[os.path.relpath(path, folder)] = "-> " + os.readlink(path) if stat.S_ISLNK(s.st_mode) else "%o" % stat.S_IMODE(s.st_mode)
    return found


def version():
    return re.search(r'^#define RDBKIT_VERSION "(.*)"', read("rdbkit.h"), re.M).group(1)


def library_names():
    """Real name, soname, and what -lrdbkit looks for."""
    if DARWIN:
        return "librdbkit.%s.dylib" % version(), "librdbkit.0.dylib", "librdbkit.dylib"
    return "librdbkit.so." + version(), "librdbkit.so.0", "librdbkit.so"


def staged():
    """Install once; the folder that holds what is at PREFIX."""
    if not os.path.exists("stage"):
        build_sh("install", PREFIX)
    return os.path.abspath("stage" + PREFIX)


def fixture():
    return os.path.join(ROOT, "fixtures/redis74/everything.rdb")


@test
def install_puts_each_file_in_its_place_whatever_the_umask():
    build_sh("install", PREFIX, umask=0o77)
    real, soname, name = library_names()
    wanted = {"bin/rdbkit": "755", "include/rdbkit.h": "644", "lib/librdbkit.a": "644", "lib/" + real: "755",
              "lib/" + soname: "-> " + real, "lib/" + name: "-> " + soname, "lib/pkgconfig/rdbkit.pc": "644",
              "share/man/man1/rdbkit.1": "644", "share/bash-completion/completions/rdbkit": "644",
              "share/zsh/site-functions/_rdbkit": "644", "share/fish/vendor_completions.d/rdbkit.fish": "644"}
    found = files("stage")
    expect(found == {PREFIX[1:] + "/" + k: v for k, v in wanted.items()}, "installed:", sorted(found.items()))
    for at, folders, _ in os.walk("stage"):
        for folder in folders:
            mode = stat.S_IMODE(os.stat(os.path.join(at, folder)).st_mode)
            expect(mode == 0o755, "mode %o of" % mode, os.path.join(at, folder))


@test
def uninstall_removes_all_that_was_installed_and_nothing_else():
    shutil.rmtree("stage", ignore_errors=True)
    staged()
    for other in ("bin/redis-cli", "lib/librdb.so", "lib/pkgconfig/zlib.pc"):
        with open("stage" + PREFIX + "/" + other, "w"):
            pass
    with open("stage" + PREFIX + "/lib/librdbkit.so.0.0.9", "w"):
        pass
    build_sh("uninstall", PREFIX)
    left = sorted(files("stage" + PREFIX))
    shutil.rmtree("stage")
    expect(left == ["bin/redis-cli", "lib/librdb.so", "lib/pkgconfig/zlib.pc"], "left:", left)


@test
def without_a_prefix_it_goes_to_usr_local_and_a_relative_one_is_of_this_folder():
    shutil.rmtree("stage", ignore_errors=True)
    build_sh("install")
    expect(os.path.exists("stage/usr/local/bin/rdbkit") and os.listdir("stage/usr") == ["local"], "installed:", sorted(files("stage")))
    build_sh("uninstall")
    expect(not files("stage"), "left:", files("stage"))
    shutil.rmtree("stage")
    run(os.path.join(ROOT, "build.sh"), "install", "some where", env={"CC": "false", "NO_INSTALL": "1"})
    expect(os.path.exists("some where/bin/rdbkit"), "nothing in the folder")
    pc = open("some where/lib/pkgconfig/rdbkit.pc").read()
    expect("prefix=" + os.path.abspath("some where") + "\n" in pc, "prefix in", pc)


@test
def install_takes_what_was_built_and_changes_nothing_in_the_tree():
    """As with sudo, which forgets the flags that the build was given."""
    names = ["rdbkit", "librdbkit.a", library_names()[2]]
    before = [os.stat(os.path.join(ROOT, n)).st_mtime_ns for n in names]
    shutil.rmtree("stage", ignore_errors=True)
    root = staged()
    expect(before == [os.stat(os.path.join(ROOT, n)).st_mtime_ns for n in names], "built anew")
    for n, at in zip(names, ["bin/rdbkit", "lib/librdbkit.a", "lib/" + library_names()[0]]):
        with open(os.path.join(ROOT, n), "rb") as a, open(os.path.join(root, at), "rb") as b:
            expect(a.read() == b.read(), "another file:", at)


@test
def installed_program_runs_far_from_the_tree():
    p = run(os.path.join(staged(), "bin/rdbkit"), "check", fixture(), cwd="/")
    expect(": sound: " in p, "check", p)
    expect(run(os.path.join(staged(), "bin/rdbkit"), "--version") == "rdbkit %s\n" % version(), "version")


@test
def shared_library_has_the_soname_that_the_links_have():
    if DARWIN:
        raise Skipped("no ELF")
    need("readelf")
    for path in ("lib/" + n for n in library_names()):
        said = run("readelf", "-d", os.path.join(staged(), path))
        expect("Library soname: [librdbkit.so.0]" in said, path, said)
        needed = set(re.findall(r"NEEDED.*\[lib(\w+)", said))
        expect({"lzf", "z"} <= needed, path + " does not name what it needs:", needed)
        expect("TEXTREL" not in said and "RPATH" not in said and "RUNPATH" not in said, path, said)


# ---- Programs ----------------------------------------------------------------------------------------------------------


def readme_program():
    return next(p for p in re.findall(r"^```c\n(.*?)^```", read("README.md"), re.M | re.S) if "int main(" in p)


AGREES = r"""
#include <rdbkit.h>
#include <string.h>
#include <stdio.h>
int main(void) {
    printf("%d %s\n", RDBKIT_VERSION_NUMBER, rdbkit_version());
    return strcmp(RDBKIT_VERSION, rdbkit_version()) != 0;
}
"""


def compile_in_shell(command, source, folder, env=None):
    """Run the command of a page on prog.c; what the program says of a file."""
    if os.environ.get("SANITIZED"):
        raise Skipped("the library is built with sanitizers")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "prog.c"), "w") as f:
        f.write(source)
    command = re.sub(r"^cc(?= )", " ".join(map(shlex.quote, CC)), command)
    run("sh", "-ec", command, cwd=folder, env=env)
    return os.path.join(folder, "prog" if " -o prog" in command else "a.out")


def documented(page, begins):
    found = re.findall(r"(?:^    |`)(%s[^`\n]*)" % re.escape(begins), read(page), re.M)
    expect(found, "%s has no command %s" % (page, begins))
    return found[0]


def pkg_config():
    """What finds the staged library as if it were in its place."""
    need("pkg-config")
    return {"PKG_CONFIG_PATH": os.path.join(staged(), "lib/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": os.path.abspath("stage")}


def library_path():
    return {"DYLD_LIBRARY_PATH" if DARWIN else "LD_LIBRARY_PATH": os.path.join(staged(), "lib")}


@test
def pkg_config_names_version_flags_and_for_static_what_it_needs():
    env = pkg_config()
    root = staged()
    expect(run("pkg-config", "--modversion", "rdbkit", env=env).strip() == version(), "version")
    expect(run("pkg-config", "--validate", "rdbkit", env=env) == "", "validate")
    expect(run("pkg-config", "--cflags", "rdbkit", env=env).split() == ["-I%s/include" % root], "cflags")
    expect(run("pkg-config", "--libs", "rdbkit", env=env).split() == ["-L%s/lib" % root, "-lrdbkit"], "libs")
    static = run("pkg-config", "--libs", "--static", "rdbkit", env=env).split()
    expect(static == ["-L%s/lib" % root, "-lrdbkit", "-llzf", "-lz", "-lm"], "static libs", static)
    env = {"PKG_CONFIG_PATH": env["PKG_CONFIG_PATH"], "PKG_CONFIG_SYSROOT_DIR": ""}
    expect(run("pkg-config", "--variable=prefix", "rdbkit", env=env).strip() == PREFIX, "prefix is that of the stage")


@test
def program_links_the_shared_library_by_the_command_on_the_page():
    command = documented("docs/embedding.md", "cc prog.c $(pkg-config")
    prog = compile_in_shell(command, readme_program(), "shared", env=pkg_config())
    if shutil.which("readelf") and not DARWIN:
        expect("[librdbkit.so.0]" in run("readelf", "-d", prog), "does not ask for the soname")
    out = run(prog, fixture(), env=library_path())
    expect("hash " in out and "stream " in out, "says", out)
    agrees = compile_in_shell("cc -std=c99 -pedantic-errors prog.c $(pkg-config --cflags --libs rdbkit) -o prog", AGREES, "agrees", env=pkg_config())
    major, minor, patch = map(int, version().split("."))
    expect(run(agrees, env=library_path()) == "%d %s\n" % (major * 10000 + minor * 100 + patch, version()), "header and library")


@test
def program_links_the_static_library_by_pkg_config():
    """Nothing else of rdbkit is left in the folder that is searched."""
    env = pkg_config()
    flags = run("pkg-config", "--cflags", "--libs", "--static", "rdbkit", env=env).strip()
    os.makedirs("only", exist_ok=True)
    shutil.copy(os.path.join(staged(), "lib/librdbkit.a"), "only")
    flags = flags.replace("-L%s/lib" % staged(), "-L" + os.path.abspath("only"))
    prog = compile_in_shell("cc prog.c %s -o prog" % flags, readme_program(), "static", env=env)
    expect("hash " in run(prog, fixture()), "says nothing")


@test
def program_links_the_library_of_the_tree_by_the_command_on_the_page():
    for page in ("README.md", "docs/embedding.md"):
        command = documented(page, "cc -std=c99 prog.c librdbkit.a")
        os.makedirs("tree", exist_ok=True)
        for name in ("rdbkit.h", "librdbkit.a"):
            if not os.path.lexists("tree/" + name):
                os.symlink(os.path.join(ROOT, name), "tree/" + name)
        expect("hash " in run(compile_in_shell(command, readme_program(), "tree"), fixture()), "says nothing")


@test
def two_copied_files_are_enough_for_a_project():
    command = documented("docs/embedding.md", "cc -std=c11 prog.c rdbkit.c")
    os.makedirs("copied", exist_ok=True)
    for name in ("rdbkit.h", "rdbkit.c"):
        shutil.copy(os.path.join(ROOT, name), "copied")
    cppflags = os.environ.get("CPPFLAGS", "") if DARWIN else ""
    prog = compile_in_shell(command.replace("rdbkit.c", "-O0 %s rdbkit.c" % cppflags, 1), readme_program(), "copied")
    expect("hash " in run(prog, fixture()), "says nothing")


IN_A_LOCALE = r"""
#include <rdbkit.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
static int write_out(void *ctx, const void *data, size_t len) { return fwrite(data, 1, len, ctx) == len ? 0 : -5; }
static int run(rdbkit_keyspace *ks, const char *a, const char *b, const char *c, const char *d) {
    const char *words[4];
    rdbkit_str argv[4];
    rdbkit_command command;
    memset(&command, 0, sizeof command);
    words[0] = a, words[1] = b, words[2] = c, words[3] = d;
    for (; command.argc < 4 && words[command.argc]; command.argc++)
        argv[command.argc].data = words[command.argc], argv[command.argc].len = strlen(words[command.argc]);
    command.argv = argv;
    command.timestamp_s = RDBKIT_NO_TIMESTAMP;
    return rdbkit_keyspace_command(ks, &command);
}
int main(int argc, char **argv) {
    rdbkit_keyspace *ks = rdbkit_keyspace_new(NULL);
    rdbkit_json *json = rdbkit_json_new(NULL, write_out, stdout);
    rdbkit_resp *resp = rdbkit_resp_new(NULL, write_out, stdout);
    if (argc != 2 || !setlocale(LC_ALL, argv[1]) || !ks || !json || !resp) return 2;
    fprintf(stderr, "%.1f", 0.5);
    if (run(ks, "INCRBYFLOAT", "float", "1.25", NULL) || run(ks, "INCRBYFLOAT", "float", "1,5", NULL) ||
        run(ks, "INCRBYFLOAT", "float", "2e-3", NULL) || run(ks, "HINCRBYFLOAT", "hash", "field", "-0.5") ||
        run(ks, "ZADD", "zset", "2.5", "a") || run(ks, "ZINCRBY", "zset", "0.25", "b") || run(ks, "ZINCRBY", "zset", "0,25", "c"))
        return 1;
    if (rdbkit_keyspace_emit(ks, NULL, rdbkit_json_visitor(json)) != RDBKIT_DONE || rdbkit_json_finish(json)) return 1;
    if (rdbkit_keyspace_emit(ks, NULL, rdbkit_resp_visitor(resp)) != RDBKIT_DONE || rdbkit_resp_finish(resp)) return 1;
    return 0;
}
"""


@test
def numbers_are_the_same_whatever_locale_the_program_has_set():
    need("localedef")
    prog = compile_in_shell("cc prog.c -I%s/include %s/lib/librdbkit.a -llzf -lz -lm -o prog" % (staged(), staged()), IN_A_LOCALE, "locale")
    plain = run(prog, "C")
    expect('"value":"1.252"' in plain and '"field":"-0.5"' in plain and '2.5' in plain, "in C:", plain)
    ran = 0
    for name, half in (("de_DE", "0,5"), ("ps_AF", "0\u066b5")):
        subprocess.run(["localedef", "-i", name, "-f", "UTF-8", os.path.abspath(name + ".UTF-8")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        p = subprocess.run([prog, name + ".UTF-8"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, LOCPATH=os.getcwd()), timeout=60)
        if p.returncode == 2 or p.stderr.decode() != half:
            continue
        expect(p.returncode == 0 and p.stdout.decode() == plain, "in %s, exit %d:" % (name, p.returncode), p.stdout)
        ran += 1
    if not ran:
        raise Skipped("no sources of locales with another decimal point")


# ---- Objects -----------------------------------------------------------------------------------------------------------


def symbols(*args):
    """(type, name) by nm."""
    need("nm")
    if os.environ.get("SANITIZED"):
        raise Skipped("the library is built with sanitizers")
    rows = [line.split()[-2:] for line in run("nm", *args).splitlines() if re.search(r" [A-Za-z] \S+$", line)]
    return {(t, re.sub(r"^_", "", n) if DARWIN else re.sub(r"@.*", "", n)) for t, n in rows}


def declared():
    text = re.sub(r"/\*.*?\*/", "", read("rdbkit.h"), flags=re.S)
    found = set(re.findall(r"^RDBKIT_API [^;(]*?\b(rdbkit_\w+)\(", text, re.M))
    expect(len(found) > 80 and len(found) == len(re.findall(r"^RDBKIT_API\b", text, re.M)), "declarations in rdbkit.h", len(found))
    return found


@test
def shared_library_exports_what_the_header_declares_and_nothing_else():
    flags = ["-gU"] if DARWIN else ["-D", "--defined-only"]
    exported = {n for t, n in symbols(*flags, os.path.join(staged(), "lib", library_names()[0])) if n not in ("_init", "_fini")}
    expect(exported == declared(), "exported, not declared; declared, not exported:", sorted(exported - declared()), sorted(declared() - exported))


@test
def static_library_defines_no_other_global_name():
    found = {n for t, n in symbols("-g", os.path.join(staged(), "lib/librdbkit.a")) if t not in "Uw"}
    expect(found == declared(), "other names:", sorted(found ^ declared()))


@test
def library_has_no_state_that_can_be_written():
    """Tables of pointers may stand in .data.rel.ro, which is read-only once the loader has been there."""
    if DARWIN:
        raise Skipped("no ELF")
    written = sorted(n for t, n in symbols(os.path.join(staged(), "lib/librdbkit.a")) if t in "bBCsSgG")
    expect(not written, "variables:", written)
    need("size")
    sections = dict(re.findall(r"^(\.\S+)\s+(\d+)", run("size", "-A", os.path.join(staged(), "lib/librdbkit.a")), re.M))
    expect(int(sections.get(".text", 0)) > 100000, "sections", sections)
    for name, size in sections.items():
        writable = re.match(r"\.(data|bss|tdata|tbss|sdata|sbss)\b", name) and not name.startswith(".data.rel.ro")
        expect(not writable or size == "0", "%s bytes in %s" % (size, name))


# What a library must leave to the program: streams and files, the environment, signals, the clock, other processes, threads,
# and functions with a memory of their own.
NOT_FOR_A_LIBRARY = """
    printf vprintf fprintf vfprintf puts putchar fputs fputc putc fwrite perror stdout stderr stdin __stdoutp __stderrp write writev
    exit _exit _Exit quick_exit abort __assert_fail __assert_rtn atexit longjmp
    getenv secure_getenv setenv putenv environ setlocale localeconv newlocale uselocale
    signal sigaction sigprocmask raise kill alarm
    time clock clock_gettime gettimeofday localtime gmtime mktime sleep usleep nanosleep
    rand srand random srandom rand_r arc4random getrandom
    open openat creat fopen fdopen freopen tmpfile mkstemp unlink rename close lseek mmap dup dup2
    fork vfork execve execvp posix_spawn system popen dlopen socket connect
    pthread_create pthread_mutex_lock pthread_key_create
    strtok asctime ctime getpwnam""".split()


@test
def library_calls_nothing_that_belongs_to_the_program():
    """Bytes come in by read() alone, of descriptors that it is given."""
    wanted = {n for t, n in symbols("-u", os.path.join(staged(), "lib/librdbkit.a"))}
    expect({"malloc", "read", "inflate", "lzf_compress"} <= wanted, "undefined names", sorted(wanted))
    bare = {re.sub(r"^__(\w+)_chk$|\$.*", r"\1", n): n for n in wanted}
    found = sorted(n for b, n in bare.items() if b in NOT_FOR_A_LIBRARY or n in NOT_FOR_A_LIBRARY)
    expect(not found, "calls:", found)


# ------------------------------------------------------------------------------------------------------------------------


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory(prefix="rdbkit-install.") as folder:
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
