#!/usr/bin/env python3
"""Speed and peak memory of rdbkit beside the peers that are there. Called by ./build.sh bench.

    bench.py [WORKLOAD...]          each verb on each file, best of ROUNDS (3), interleaved with its peer
    bench.py pipe [WORKLOAD...]     end to end: into an empty real server through redis-cli --pipe
    bench.py aof [MB]               append-only files (300): parse, replay, and how long real servers take to load them

RDB_CLI=path of librdb's rdb-cli adds that peer; CHECK_RDB=path names the server's own checker. convert has no peer.
"""
import os, shutil, subprocess, sys, tempfile, time

WORKLOADS = {"strings": 5.0, "json": 1.0, "hashes": 1.0, "collections": 10.0, "streams": 1.0}  # millions
GEN, DIR, ROUNDS = "build/bench_gen", "build/bench", int(os.environ.get("ROUNDS", 3))
SERVERS = os.environ.get("SERVERS", "build/servers")


def first(*paths):
    for path in paths:
        found = path and shutil.which(path)
        if found:
            return found


def made(name):
    path = f"{DIR}/{name}.rdb"
    if not os.path.exists(path):
        os.makedirs(DIR, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        subprocess.run([GEN, name, path + ".new"], check=True)
        os.rename(path + ".new", path)
    return path


def measure(command):
    """(seconds, CPU seconds, peak MiB), or None when the command failed."""
    out = subprocess.run([GEN, "run"] + command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    status, wall, cpu, peak = out.stdout.split()
    if status != "0":
        print(f"status {status}: {' '.join(command)}: {out.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return float(wall), float(cpu), int(peak) / 1024


def tools_for(path, rdb_cli, checker):
    """[(name, command, name of the peer, its command or None)]; convert makes the version that the file has."""
    with open(path, "rb") as f:
        version = "rdb-%d" % int(f.read(9)[5:])
    ours = lambda *words: ["./rdbkit", *words, "-o", "/dev/null", path]
    theirs = lambda *words: rdb_cli and [rdb_cli, path, "-l", "/dev/null", *words, "-o", "/dev/null"]
    return [("rdbkit to-resp", ours("to-resp"), "rdb-cli resp", theirs("resp")),
            ("rdbkit to-resp --restore", ours("to-resp", "--restore", "--to", version), "rdb-cli resp -r", theirs("resp", "-r")),
            ("rdbkit to-json", ours("to-json"), "rdb-cli json", theirs("json")),
            ("rdbkit check", ["./rdbkit", "check", path], "check-rdb", checker and [checker, path]),
            ("rdbkit convert", ours("convert", "--to", version), None, None),
            ("rdbkit convert --reencode", ours("convert", "--reencode", "--to", version), None, None)]


def files(names):
    rdb_cli = first(os.environ.get("RDB_CLI"))
    checker = first(os.environ.get("CHECK_RDB"), f"{SERVERS}/redis-8.0/check-rdb", f"{SERVERS}/valkey-8.1/check-rdb",
                    "redis-check-rdb", "valkey-check-rdb")
    print(f"peers: rdb-cli {rdb_cli or 'not there (set RDB_CLI)'}, check-rdb {checker or 'not there'}; best of {ROUNDS}")
    print(f"{'workload':12} {'MB':>6} {'tool':26} {'seconds':>8} {'CPU':>7} {'MB/s':>7} {'M/s':>6} {'peak MiB':>8} {'rdbkit is':>10}")
    for name in names:
        path = made(name)
        mb, best = os.path.getsize(path) / 1e6, {}
        tools = tools_for(path, rdb_cli, checker)
        for _ in range(ROUNDS):
            for tool, command in [pair for ours in tools for pair in (ours[:2], ours[2:]) if pair[1]]:
                result = measure(command)
                if result:
                    wall, cpu, peak = best.get(tool, result)
                    best[tool] = min(wall, result[0]), min(cpu, result[1]), max(peak, result[2])
        for tool, _, peer, _ in tools:
            for t in (tool, peer):
                if t in best:
                    wall, cpu, peak = best[t]
                    ratio = "" if t == peer or not peer else f"{best[peer][0] / wall:.1f}x" if peer in best else "no peer"
                    print(f"{name:12} {mb:6.0f} {t:26} {wall:8.3f} {cpu:7.3f} {mb / wall:7.0f} {WORKLOADS[name] / wall:6.2f} "
                          f"{peak:8.1f} {ratio:>10}")
        sys.stdout.flush()
    print("M/s: millions of keys a second (of elements in collections, of entries in streams)")


def pipe(names):
    valkey = os.environ.get("VALKEY_DIR", f"{SERVERS}/valkey-8.1")
    server = first(f"{valkey}/server", f"{SERVERS}/redis-8.0/server", "valkey-server", "redis-server")
    cli = first(f"{valkey}/cli", f"{SERVERS}/redis-8.0/cli", "valkey-cli", "redis-cli")
    if not server or not cli:
        sys.exit("bench pipe: no server here")
    rdb_cli = first(os.environ.get("RDB_CLI"))
    with tempfile.TemporaryDirectory() as folder:
        at = ["-s", f"{folder}/s"]
        daemon = subprocess.Popen([server, "--port", "0", "--unixsocket", f"{folder}/s", "--dir", folder, "--save", "",
                                   "--appendonly", "no"], stdout=subprocess.DEVNULL)
        ask = lambda *words: subprocess.run([cli, *at, *words], capture_output=True, text=True).stdout.strip()
        try:
            for _ in range(100):
                if ask("ping") == "PONG":
                    break
                time.sleep(0.1)
            version = subprocess.run([server, "--version"], capture_output=True, text=True).stdout.split(" sha")[0]
            print(f"into {version} over a unix socket, best of {ROUNDS}")
            print(f"{'workload':12} {'tool':24} {'seconds':>8} {'MB/s':>7} {'M/s':>6} {'keys':>8}")
            for name in names:
                path = made(name)
                tools = {"rdbkit to-resp": ["./rdbkit", "to-resp", path]}
                if rdb_cli:
                    tools["rdb-cli resp"] = [rdb_cli, path, "-l", "/dev/null", "resp"]
                best = {}
                for _ in range(ROUNDS):
                    for tool in tools:
                        ask("flushall", "sync")
                        start = time.monotonic()
                        source = subprocess.Popen(tools[tool], stdout=subprocess.PIPE)
                        said = subprocess.run([cli, *at, "--pipe"], stdin=source.stdout, capture_output=True, text=True)
                        source.stdout.close()
                        took = time.monotonic() - start
                        if source.wait() or said.returncode or "errors: 0" not in said.stdout:
                            print(f"{tool} failed: {said.stdout.strip()[-200:]} {said.stderr.strip()[-200:]}", file=sys.stderr)
                        elif took < best.get(tool, (1e9,))[0]:
                            best[tool] = took, ask("dbsize")
                for tool, (took, keys) in best.items():
                    print(f"{name:12} {tool:24} {took:8.3f} {os.path.getsize(path) / 1e6 / took:7.0f} "
                          f"{WORKLOADS[name] / took:6.2f} {keys:>8}", flush=True)
            ask("flushall")
        finally:
            daemon.terminate()
            daemon.wait()


def logs(mb):
    """Parse (check) and replay (info), beside the servers' own loading time; peak memory of each process."""
    import bench_aof
    servers = [(name, first(f"{SERVERS}/{name}/server")) for name in ("redis-8.0", "valkey-8.1", "valkey-9")]
    print(f"{'log':8} {'MB':>6} {'tool':24} {'seconds':>8} {'CPU':>7} {'MB/s':>7} {'peak MiB':>8}   (a server's seconds are those of its own log; best of {ROUNDS})")
    for kind in bench_aof.MAKERS:
        path = os.path.abspath(f"{DIR}/{kind}-{mb}.aof")
        if not os.path.exists(path):
            os.makedirs(DIR, exist_ok=True)
            bench_aof.make(kind, path, mb)
        size, best = os.path.getsize(path) / 1e6, {}
        tools = {"rdbkit check (parse)": ["./rdbkit", "check", path], "rdbkit info (replay)": ["./rdbkit", "info", path],
                 "rdbkit convert": ["./rdbkit", "convert", "-o", "/dev/null", path]}
        for _ in range(ROUNDS):
            for tool, command in tools.items():
                wall, cpu, peak = measure(command) or (1e9, 1e9, 0)
                best[tool] = min(best.get(tool, (1e9,)), (wall, cpu, peak))
            for name, server in servers:
                if server:
                    took, _, memory = bench_aof.loading_time(server, path)
                    best[name] = min(best.get(name, (1e9,)), (took, took, memory / 2**20))
        for tool, (wall, cpu, peak) in best.items():
            print(f"{kind:8} {size:6.0f} {tool:24} {wall:8.3f} {cpu:7.3f} {size / wall:7.0f} {peak:8.1f}", flush=True)


words = sys.argv[1:]
piped = words[:1] == ["pipe"]
words = words[1:] if piped else words
wrong = [w for w in words if w not in WORKLOADS]
if wrong and words[0] != "aof":
    sys.exit(f"bench: no workload {wrong[0]}; there are {', '.join(WORKLOADS)} pipe and aof")
if words[:1] == ["aof"]:
    logs(int(words[1]) if words[1:] else 300)
elif piped:
    pipe(words or ["strings", "hashes", "collections"])
else:
    files(words or list(WORKLOADS))
    if not words:
        logs(300)
