#!/bin/sh
# Builds, tests and installs rdbkit. The one entry point:
#
#   ./build.sh                    install what is missing, build rdbkit, librdbkit.a and librdbkit.so
#   ./build.sh test [NAME]        unit, fixture, command-line and server tests; NAME: only those with it in their name
#   ./build.sh asan [NAME]        the same without servers, under the address and undefined-behaviour sanitizers
#   ./build.sh ports [ARCH [NAME]] the unit tests and the command line as i386, s390x (big-endian) and arm64, under qemu-user
#   ./build.sh valgrind [NAME]    the unit tests under valgrind's memcheck; with a NAME those of the command line, too
#   ./build.sh tsan               test_threads under the thread sanitizer
#   ./build.sh fuzz [SECONDS]     every fuzz target, SECONDS (60) in all; findings stay in build/fuzz. FUZZER=afl: with
#                                 AFL++; FUZZER=coverage: what the corpora reach; FUZZ_TARGETS: only these files
#   ./build.sh lint               warnings, header, rooms, exports, format, scripts
#   ./build.sh bench [NAME|pipe]  speed and memory beside the peers that are there; pipe: into a real server
#   ./build.sh install [PREFIX]   to /usr/local, under DESTDIR; what was built before is taken as it is
#   ./build.sh uninstall [PREFIX] removes what install put there
#   ./build.sh clean
#
# Heeds CC, CFLAGS, CPPFLAGS, LDFLAGS, DESTDIR, NO_INSTALL=1 (never call a package manager) and
# SERVERS (folder with real servers, build/servers).
set -eu
here=$PWD
cd "$(dirname "$0")"

CFLAGS=${CFLAGS--O3} # up to a fifth faster than -O2 (bench streams), nowhere slower
CPPFLAGS=${CPPFLAGS-}
LDFLAGS=${LDFLAGS-}
LIBS='-llzf -lz -lm'
SERVERS=${SERVERS:-build/servers}
WARN='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wcast-qual -Wundef -Wvla -Wswitch-enum -Wstrict-prototypes -Wmissing-prototypes'
SAN='-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all'
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
DARWIN=; [ "$(uname)" != Darwin ] || DARWIN=1
ABI=0 # raised by every change of rdbkit.h that programs have to be compiled anew for: docs/embedding.md
SO=librdbkit.so SONAME=librdbkit.so.$ABI
[ -z "$DARWIN" ] || SO=librdbkit.dylib SONAME=librdbkit.$ABI.dylib

say() { echo "build.sh: $*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
run() { echo "+ $*" >&2; "$@"; }

# ---- what the machine has to have ------------------------------------------------------------------------

manager() {
    for m in apt-get dnf apk pacman brew; do if have $m; then echo $m; return; fi; done
    echo none
}

package() { # package MANAGER THING: the packages that hold it
    case $1:$2 in
        apt-get:cc) echo gcc libc6-dev ;;
        apk:cc) echo gcc musl-dev ;;
        brew:cc) echo llvm ;;
        *:cc) echo gcc ;;
        apt-get:lzf | apk:lzf) echo liblzf-dev ;;
        dnf:lzf) echo liblzf-devel ;;
        *:lzf) echo liblzf ;;
        apt-get:zlib) echo zlib1g-dev ;;
        apk:zlib) echo zlib-dev ;;
        dnf:zlib) echo zlib-devel ;;
        *:zlib) echo zlib ;;
        apt-get:cmocka) echo libcmocka-dev ;;
        apk:cmocka) echo cmocka-dev ;;
        dnf:cmocka) echo libcmocka-devel ;;
        pacman:python3) echo python ;;
        apt-get:fuzzer) echo clang libclang-rt-dev llvm ;; # llvm: names in stack traces
        apt-get:cxx) echo g++ ;;
        apk:cxx) echo g++ ;;
        dnf:cxx) echo gcc-c++ ;;
        pacman:cxx) echo gcc ;;
        brew:cxx) echo llvm ;;
        apk:fuzzer) echo clang compiler-rt ;;
        brew:fuzzer) echo llvm ;;
        apt-get:afl) echo afl++ ;;
        *:afl) echo aflplusplus ;;
        apt-get:asan) echo gcc libc6-dev ;;
        dnf:asan) echo libasan libubsan ;;
        apk:asan) echo clang compiler-rt ;;
        *:fuzzer) echo clang compiler-rt ;;
        dnf:clang-format) echo clang-tools-extra ;;
        apk:clang-format) echo clang-extra-tools ;;
        pacman:clang-format) echo clang ;;
        dnf:locales) echo glibc-locale-source ;;
        apt-get:pkg-config) echo pkg-config ;;
        dnf:pkg-config) echo pkgconf-pkg-config ;;
        *:pkg-config) echo pkgconf ;;
        apt-get:i386-cc) echo gcc-i686-linux-gnu libc6-dev-i386-cross ;; # gcc-multilib, for -m32, cannot be beside other cross compilers
        apt-get:s390x-cc) echo gcc-s390x-linux-gnu libc6-dev-s390x-cross ;;
        apt-get:arm64-cc) echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross ;;
        apt-get:qemu) echo qemu-user-static ;;
        apt-get:servers) echo redis-server redis-tools ;;
        *:servers) echo redis ;;
        *) echo "$2" ;;
    esac
}

install_things() { # install_things THING..., saying what it runs; fails when they cannot be had
    m=$(manager)
    if [ -n "${NO_INSTALL-}" ] || [ "$m" = none ]; then say "missing: $*, and no package manager to ask"; return 1; fi
    packages=; for thing in "$@"; do packages="$packages $(package "$m" "$thing")"; done
    sudo=; [ "$(id -u)" = 0 ] || [ "$m" = brew ] || sudo=sudo
    case $m in
        apt-get)
            set -- $sudo env DEBIAN_FRONTEND=noninteractive apt-get
            [ -n "$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)" ] || run "$@" -q update </dev/null >&2 || :
            run "$@" -qy install --no-remove --no-install-recommends $packages </dev/null >&2 ||
                { run "$@" -q update </dev/null >&2 && run "$@" -qy install --no-remove --no-install-recommends $packages </dev/null >&2; } ;;
        dnf) run $sudo dnf -qy install $packages </dev/null >&2 ;;
        apk) run $sudo apk add $packages </dev/null >&2 ;;
        pacman) run $sudo pacman -Sy --needed --noconfirm $packages </dev/null >&2 ;;
        brew) run brew install $packages </dev/null >&2 ;;
    esac
}

find_cc() {
    if [ -n "${CC-}" ]; then return; fi
    for CC in cc gcc clang; do if have $CC; then return; fi; done
    CC=cc
}

links() { # links 'FLAGS' HEADER...: whether a program with these headers compiles and links
    flags=$1; shift
    { for h in "$@"; do echo "#include <$h>"; done; echo 'int main(void) { return 0; }'; } >build/probe.c
    $CC $CPPFLAGS build/probe.c -o build/probe $LDFLAGS $flags >/dev/null 2>&1
}

find_lzf() { # Debian keeps lzf.h in a folder of its own
    for d in /usr/include/liblzf /usr/local/include/liblzf /opt/homebrew/include/liblzf; do
        if [ -e $d/lzf.h ]; then CPPFLAGS="$CPPFLAGS -I$d"; break; fi
    done
}

need_build() {
    mkdir -p build
    find_cc
    have "${CC%% *}" || { install_things cc || die "no C compiler"; find_cc; }
    if [ -n "$DARWIN" ] && have brew; then
        CPPFLAGS="$CPPFLAGS -I$(brew --prefix)/include" LDFLAGS="$LDFLAGS -L$(brew --prefix)/lib"
    fi
    find_lzf
    if links "$LIBS" stdio.h lzf.h zlib.h; then return; fi
    missing=
    links '' stdio.h || missing=cc
    links -llzf stdio.h lzf.h || missing="$missing lzf"
    links -lz stdio.h zlib.h || missing="$missing zlib"
    install_things $missing || die "cannot install: $missing"
    find_lzf
    links "$LIBS" stdio.h lzf.h zlib.h || die "liblzf or zlib still does not compile and link with $CC"
}

need() { # need COMMAND: have it, or install what is called so
    have "$1" || install_things "$1" || die "cannot install $1"
}

want() { # want COMMAND...: for tests that can do without, and then say so
    for c in "$@"; do have $c || install_things $c || say "NO $c: the tests that need it are skipped"; done
}

want_for_install() {
    want pkg-config
    have g++ || have clang++ || install_things cxx || say "NO C++ COMPILER: the tests that need it are skipped"
    case $(manager) in apt-get | dnf) # other systems have one locale
        [ -e /usr/share/i18n/locales/de_DE ] || install_things locales || say "NO LOCALES: the tests that need them are skipped" ;;
    esac
}

need_cmocka() {
    links -lcmocka stdarg.h stddef.h stdint.h setjmp.h cmocka.h || install_things cmocka || die "cannot install cmocka"
}

find_clang() { # sets CLANG to a clang that links what flags $1 ask for
    for CLANG in clang $(ls /usr/bin/clang-[0-9]* "$(brew --prefix llvm 2>/dev/null || echo /usr)"/bin/clang 2>/dev/null); do
        printf '#include <stddef.h>\n#include <stdint.h>\nint LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);\n%s%s' \
            'int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { return d && n > 99999; }' "${2-}" >build/probe.c
        if have "$CLANG" && "$CLANG" build/probe.c -o build/probe $1 >/dev/null 2>&1; then return 0; fi
    done
    return 1
}

# ---- build -----------------------------------------------------------------------------------------------

stale() { # stale OUT IN...: whether OUT has to be made
    out=$1; shift
    [ ! -e "$out" ] || [ -n "$(find "$@" -newer "$out" 2>/dev/null)" ]
}

flags_file() { # flags_file DIR: a file whose time is that of the last change of compiler or flags
    mkdir -p "$1"
    echo "$CC $CPPFLAGS $CFLAGS $LDFLAGS" >"$1/flags.new"
    if cmp -s "$1/flags.new" "$1/flags"; then rm "$1/flags.new"; else mv "$1/flags.new" "$1/flags"; fi
}

compile() { run $CC -std=c11 $CPPFLAGS $CFLAGS "$@"; }

build_into() { # build_into OBJECTS TARGETS: both libraries and the program
    o=$1 t=$2
    flags_file "$o"
    if stale "$o/rdbkit.o" rdbkit.c rdbkit.h "$o/flags"; then
        compile -fPIC -fvisibility=hidden -c rdbkit.c -o "$o/rdbkit.o"
    fi
    if stale "$t/librdbkit.a" "$o/rdbkit.o"; then
        rm -f "$t/librdbkit.a"; run ${AR:-ar} rcs "$t/librdbkit.a" "$o/rdbkit.o"
    fi
    if stale "$t/$SO" "$o/rdbkit.o"; then
        soname=-Wl,-soname,$SONAME; [ -z "$DARWIN" ] || soname="-install_name $SONAME"
        compile -shared $soname "$o/rdbkit.o" -o "$t/$SO" $LDFLAGS $LIBS
    fi
    if stale "$o/cli.o" rdbkit.c rdbkit.h "$o/flags"; then compile -DRDBKIT_CLI -c rdbkit.c -o "$o/cli.o"; fi
    if stale "$t/rdbkit" "$o/cli.o"; then compile "$o/cli.o" -o "$t/rdbkit" $LDFLAGS $LIBS; fi
}

build() { need_build; build_into build/obj .; }

# ---- tests -----------------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0
RUN= # what the unit tests run under

count() { # count NAME STATUS LOG: add what one test program said
    name=$1 status=$2 log=$3
    set -- $(awk '
        /^\[ +(PASSED|FAILED|SKIPPED) +\] .*[0-9] test\(s\)/ {
            for (i = 2; i <= NF; i++) if ($i ~ /^test\(s\)/) { n[$2] += $(i - 1); break }
        }
        /^[0-9]+ passed, [0-9]+ failed/ { lp = $1; lf = $3; ls = $5 }
        END { print n["PASSED"] + lp, n["FAILED"] + lf, n["SKIPPED"] + ls }' "$log")
    p=$1 f=$2 s=$3
    if [ "$status" != 0 ] && [ "$f" = 0 ]; then f=1; say "$name: crashed or gave up, status $status"; fi
    if [ "$status" = 0 ] && [ $((p + f + s)) = 0 ]; then f=1; say "$name: said nothing about its tests"; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" = 0 ]; then echo "ok    $name: $p passed, $s skipped"; return; fi
    echo "FAIL  $name: $p passed, $f failed, $s skipped; all of it in $log"
    grep -E '^FAIL|ERROR|FAILED|error:|Error|==[0-9]+==|^    #[0-9]' "$log" | cut -c1-200 | head -n 40 || tail -n 20 "$log"
}

LIMIT=; ! have timeout || LIMIT="timeout -k 10 ${TEST_SECONDS:-900}" # how long one test program may take

build_test() { # build_test SOURCE OBJECTS LIBRARY: with the helpers tests/x.c whose x.h it includes
    out=$2/$(basename "$1" .c)
    lib=$3; if grep -q '#include "../rdbkit.c"' "$1"; then lib=; fi
    for h in tests/*.h; do
        if [ -e "${h%.h}.c" ] && grep -q "#include \"$(basename "$h")\"" "$1"; then lib="${h%.h}.c $lib"; fi
    done
    if stale "$out" "$1" tests/*.h $lib rdbkit.c rdbkit.h "$2/flags"; then
        compile -std=gnu11 $WARN -g -I. "$1" $lib -o "$out" $LDFLAGS -pthread -lcmocka $LIBS
    fi
}

unit_tests() { # unit_tests OBJECTS LIBRARY PATTERN: build, then run, as many at a time as there are processors
    jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)} n=0
    for t in tests/test_*"$3"*.c; do
        [ -e "$t" ] || continue
        rm -f "$1/$(basename "$t" .c).status"
        build_test "$t" "$1" "$2" >"$1/$(basename "$t" .c).build" 2>&1 &
        n=$((n + 1)); if [ $((n % jobs)) = 0 ]; then wait; fi
    done
    wait
    for t in tests/test_*"$3"*.c; do
        b=$1/$(basename "$t" .c)
        if [ -x "$b" ] && ! stale "$b" "$t" tests/*.h rdbkit.c rdbkit.h; then echo "$b"; fi
    done | xargs -P "$jobs" -I{} sh -c "status=0; $LIMIT $RUN {} >{}.log 2>&1 </dev/null || status=\$?; echo \$status >{}.status"
    for t in tests/test_*"$3"*.c; do
        [ -e "$t" ] || continue
        b=$1/$(basename "$t" .c)
        cat "$b.build"
        if [ -e "$b.status" ]; then count "$t" "$(cat "$b.status")" "$b.log"; else mv "$b.build" "$b.log"; count "$t" build "$b.log"; fi
    done
}

python_tests() { # python_tests OBJECTS PATTERN
    for t in tests/*"$2"*_test.py; do
        [ -e "$t" ] || continue
        log=$1/$(basename "$t" .py).log status=0
        $LIMIT python3 "$t" >"$log" 2>&1 </dev/null || status=$?
        count "$t" $status "$log"
    done
}

summary() {
    echo
    if [ $((passed + failed + skipped)) = 0 ]; then failed=1; say "no test has that name"; fi
    line="$passed passed, $failed failed"; if [ $skipped != 0 ]; then line="$line, $skipped skipped"; fi
    echo "$line"
    [ $failed = 0 ]
}

get_servers() {
    if have apt-get && have dpkg-deb && [ -z "${NO_INSTALL-}" ]; then
        bash tests/servers.sh "$SERVERS" </dev/null >&2 || say "SOME SERVERS ARE MISSING: their tests are skipped"
    elif ! have redis-server && ! have valkey-server; then
        install_things servers || say "NO SERVERS: the tests that need one are skipped"
    fi
}

test_() {
    build
    need_cmocka
    need python3
    case install_test in *"$1"*) want_for_install ;; esac
    case docs_test in *"$1"*) want mandoc bash zsh fish ;; esac
    get_servers
    RDBKIT=$PWD/rdbkit SERVERS=$(cd "$SERVERS" 2>/dev/null && pwd || echo "$SERVERS") CFLAGS=${TEST_CFLAGS--O1}
    export RDBKIT SERVERS CC
    flags_file build/test
    unit_tests build/test librdbkit.a "$1"
    python_tests build/test "$1"
    summary
}

asan() {
    need_build
    if ! links "$SAN" stdio.h; then install_things asan || :; fi
    if ! links "$SAN" stdio.h && find_clang "$SAN" 'int main(void) { return 0; }'; then CC=$CLANG; fi
    links "$SAN" stdio.h || die "neither $CC nor clang has the sanitizers"
    need_cmocka
    need python3
    CFLAGS=$SAN
    build_into build/asan build/asan
    RDBKIT=$PWD/build/asan/rdbkit SANITIZED=1 NO_SERVERS=1
    export RDBKIT SANITIZED NO_SERVERS CC
    unit_tests build/asan build/asan/librdbkit.a "$1"
    python_tests build/asan "${1:-cli}"
    summary
}

valgrind_() {
    need valgrind
    need_build
    need_cmocka
    need python3
    CFLAGS='-g -O1'
    build_into build/valgrind build/valgrind
    memcheck='valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,possible --suppressions='
    RUN=${memcheck}tests/valgrind.supp
    printf '#!/bin/sh\nexec %s"%s/tests/valgrind.supp" "%s/build/valgrind/rdbkit" "$@"\n' "$memcheck" "$PWD" "$PWD" >build/valgrind/checked
    chmod +x build/valgrind/checked
    RDBKIT=$PWD/build/valgrind/checked SANITIZED=1 NO_SERVERS=1 SLOW=1
    export RDBKIT SANITIZED NO_SERVERS SLOW CC
    unit_tests build/valgrind build/valgrind/librdbkit.a "$1"
    if [ -n "$1" ]; then python_tests build/valgrind "$1"; fi # all of them take hours
    summary
}

tsan() {
    san='-g -O1 -fno-omit-frame-pointer -fsanitize=thread'
    need_build
    links "$san" stdio.h || { [ "$(manager)" = apt-get ] && install_things asan; } || :
    if ! links "$san" stdio.h && find_clang "$san" 'int main(void) { return 0; }'; then CC=$CLANG; fi
    links "$san" stdio.h || die "neither $CC nor clang has the thread sanitizer"
    need_cmocka
    CFLAGS=$san
    # some kernels put libraries where the sanitizer wants its shadow
    if ! build/probe && have setarch && setarch -R build/probe; then RUN='setarch -R'; fi
    TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=0 exitcode=66}"
    export TSAN_OPTIONS
    flags_file build/tsan
    if stale build/tsan/librdbkit.a rdbkit.c rdbkit.h build/tsan/flags; then
        compile -c rdbkit.c -o build/tsan/rdbkit.o
        rm -f build/tsan/librdbkit.a; run ${AR:-ar} rcs build/tsan/librdbkit.a build/tsan/rdbkit.o
    fi
    unit_tests build/tsan build/tsan/librdbkit.a threads
    summary
}

# ---- other machines --------------------------------------------------------------------------------------

port_names() { # port_names ARCH: sets triplet (the cross compiler), emulator and loader
    case $1 in
        i386) triplet=i686-linux-gnu emulator=i386 loader=ld-linux.so.2 ;;
        s390x) triplet=s390x-linux-gnu emulator=s390x loader=ld64.so.1 ;;
        arm64) triplet=aarch64-linux-gnu emulator=aarch64 loader=ld-linux-aarch64.so.1 ;;
        *) die "no port of that name: $1" ;;
    esac
}

need_port() { # need_port ARCH: compiler, libraries in build/ports/ARCH/root, and what programs run under; sets flags
    p=$PWD/build/ports/$1
    port_names "$1"
    have $triplet-gcc || { have apt-get && install_things "$1-cc"; } || return 1
    [ -d "$p/root" ] || { have apt-get && have dpkg-deb && [ -z "${NO_INSTALL-}" ] && run bash tests/sysroot.sh "$p" "$1" </dev/null >&2; } || return 1
    CC=$triplet-gcc AR=$triplet-ar CFLAGS="-O1 $WARN -Werror"
    CPPFLAGS="-isystem $p/root/usr/include -isystem $p/root/usr/include/liblzf"
    # -rpath: the C library lies beside the cross compiler, where the loader would not look
    LDFLAGS="-L$(echo "$p"/root/usr/lib/*-linux-gnu*) -Wl,--disable-new-dtags -Wl,-rpath,$(echo "$p"/root/usr/lib/*-linux-gnu*)"
    LDFLAGS="$LDFLAGS -Wl,-rpath,/usr/$triplet/lib -Wl,--dynamic-linker=/usr/$triplet/lib/$loader"
    links "$LIBS -lcmocka" stdarg.h stddef.h stdint.h setjmp.h lzf.h zlib.h cmocka.h || return 1
    RUN=
    if build/probe >/dev/null 2>&1; then return; fi
    for RUN in qemu-$emulator qemu-$emulator-static; do if have $RUN && $RUN build/probe; then return; fi; done
    have apt-get && install_things qemu || return 1
    RUN=qemu-$emulator-static
    $RUN build/probe
}

ports() { # ports ARCH NAME
    build
    need python3
    RDBKIT=$PWD/rdbkit
    export RDBKIT
    for arch in ${1:-i386 s390x arm64}; do
        if ! need_port "$arch"; then
            say "CANNOT COMPILE FOR OR RUN $arch HERE: its tests are skipped"
            skipped=$((skipped + 1))
            continue
        fi
        echo "---- $arch: $($CC -dumpmachine)${RUN:+ under $RUN}"
        build_into "build/ports/$arch" "build/ports/$arch"
        CFLAGS='-O1 -Werror'
        flags_file "build/ports/$arch/test"
        unit_tests "build/ports/$arch/test" "build/ports/$arch/librdbkit.a" "$2"
        if [ -z "$2" ]; then
            log=build/ports/$arch/same.log status=0
            $LIMIT python3 tests/ports.py $RUN "build/ports/$arch/rdbkit" >"$log" 2>&1 </dev/null || status=$?
            count tests/ports.py $status "$log"
        fi
    done
    summary
}

# ---- fuzz ------------------------------------------------------------------------------------------------

SEED='find fixtures -name *.rdb -size -64k'

seeds() { # seeds DIR: what is fed to the targets first, made from fixtures: DIR/rdb, aof, program, blob, payload, plain
    rm -rf "$1"; mkdir -p "$1/rdb" "$1/aof" "$1/program" "$1/blob" "$1/payload" "$1/plain"
    n=0
    set -f; $SEED 2>/dev/null | LC_ALL=C sort >build/fuzz/seeds.list; set +f
    while read -r f; do # plain, with option bytes before them, as a program, with commands behind them
        n=$((n + 1))
        cp "$f" "$1/rdb/$n.rdb"
        { printf "\\$(printf %03o $((n % 256)))\\$(printf %03o $((n * 7 % 256)))\\001\\003"; cat "$f"; } >"$1/rdb/$n.opt"
        { printf "\\001\\$(printf %03o $((n % 256)))\\001\\$(printf %03o $((n * 5 % 256)))"; cat "$f"; } >"$1/program/$n"
        { cat "$f"; printf '#TS:1\r\n*1\r\n$5\r\nMULTI\r\n*3\r\n$5\r\nRPUSH\r\n$1\r\nl\r\n$1\r\na\r\n*1\r\n$4\r\nEXEC\r\n'; } >"$1/aof/$n.rdb"
    done <build/fuzz/seeds.list
    find fixtures/aof -type f ! -name '*.keys.gz' 2>/dev/null | LC_ALL=C sort | while read -r f; do
        n=$((n + 1))
        case $f in *.gz) gzip -dc "$f" ;; *) cat "$f" ;; esac | head -c 16384 >"$1/aof/$n.aof"
    done
    for f in fixtures/aof/*/*/*.manifest; do cat "$f" >"$1/plain/$(echo "$f" | tr / _)" 2>/dev/null || :; done
    for p in 'a*' 'k[a-m]?x' '[^x-]*' 'a\*b' '*a*b*c'; do printf "\\$(printf %03o ${#p})%sabcxkmc" "$p" >"$1/plain/$(printf %s "$p" | tr -c 'a-z' _)"; done
    compile_fuzz -DFUZZ_SIMPLE fuzz/seeds.c -o build/fuzz/seeds $LDFLAGS -llzf
    xargs build/fuzz/seeds "$1/blob" "$1/payload" <build/fuzz/seeds.list
}

compile_fuzz() { run $CLANG -std=c11 $CPPFLAGS -g -O1 -I. "$@"; }

seeds_of() { # seeds_of TARGET: the folder of its seeds
    case $1 in
        fuzz_aof | fuzz_replay) echo aof ;;
        fuzz_codec) echo blob ;;
        fuzz_dump) echo payload ;;
        fuzz_events) echo program ;;
        fuzz_glob | fuzz_input) echo plain ;;
        *) echo rdb ;;
    esac
}

dictionary_of() {
    case $1 in fuzz_aof | fuzz_replay) echo fuzz/aof.dict ;; *) echo fuzz/rdb.dict ;; esac
}

build_fuzz() { # build_fuzz DIR FLAGS...: the library, the mutator and all targets
    dir=$1; shift
    mkdir -p "$dir"
    echo "$CLANG $CPPFLAGS $* $mutate $main" >"$dir/flags.new"
    if cmp -s "$dir/flags.new" "$dir/flags"; then rm "$dir/flags.new"; else mv "$dir/flags.new" "$dir/flags"; fi
    if stale "$dir/rdbkit.o" rdbkit.c rdbkit.h "$dir/flags"; then compile_fuzz "$@" -c rdbkit.c -o "$dir/rdbkit.o"; fi
    compile_fuzz $mutate -c fuzz/mutate.c -o "$dir/mutate.o"
    for t in fuzz/fuzz_*.c; do
        b=$dir/$(basename "$t" .c); with=$dir/rdbkit.o
        if grep -q '#include "../rdbkit.c"' "$t"; then with=; fi
        stale "$b" "$t" fuzz/*.h fuzz/mutate.c fuzz/standalone.c tests/events.c rdbkit.c rdbkit.h "$dir/flags" || continue
        compile_fuzz "$@" "$t" $with "$dir/mutate.o" $main -o "$b" $LDFLAGS $LIBS
    done
}

fuzz_one() { # fuzz_one NAME SECONDS: with libFuzzer, or without
    b=build/fuzz/$1 corpus=build/corpus/$1
    mkdir -p "$corpus"
    if [ -n "$main" ]; then
        set -- "$2" "$b-" "build/corpus/seeds/$(seeds_of "$1")"
    else
        set -- -max_total_time="$2" -max_len=65536 -rss_limit_mb=1024 -timeout=20 -print_final_stats=1 \
            -artifact_prefix="$b-" -dict="$(dictionary_of "$1")" "$corpus" "build/corpus/seeds/$(seeds_of "$1")"
    fi
    "./$b" "$@" >"$b.log" 2>&1 </dev/null
}

fuzz_said() { # fuzz_said LOG: executions, edges, features, inputs kept
    awk '/^#[0-9]+.* cov: / { for (i = 2; i < NF; i++) v[$i] = $(i + 1) }
        /number_of_executed_units/ { n = $2 } / runs$/ { n = $1 }
        END { printf "%d executions", n
              if ("cov:" in v) printf ", %d edges, %d features, corpus %s", v["cov:"], v["ft:"], v["corp:"]
              print "" }' "$1"
}

afl_one() { # afl_one NAME SECONDS: with AFL++ and our mutator beside its own
    b=build/fuzz/$1 out=build/afl/$1
    mkdir -p build/afl
    case $1 in fuzz_codec) input=3 ;; fuzz_dump) input=2 ;; fuzz_glob | fuzz_input | fuzz_events) input=1 ;; *) input=0 ;; esac
    in=build/corpus/seeds/$(seeds_of "$1"); if ls "$out"/default/queue/id* >/dev/null 2>&1; then in=-; else rm -rf "$out"; fi
    env AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_SKIP_CPUFREQ=1 AFL_NO_AFFINITY=1 AFL_NO_UI=1 AFL_IGNORE_SEED_PROBLEMS=1 \
        AFL_FAST_CAL=1 AFL_NO_STARTUP_CALIBRATION=1 FUZZ_INPUT=$input \
        ASAN_OPTIONS=abort_on_error=1:symbolize=0:allocator_may_return_null=1 \
        AFL_CUSTOM_MUTATOR_LIBRARY="$PWD/build/fuzz/mutate.so" \
        afl-fuzz -V "$2" -t 5000+ -m none -G 65536 -x "$(dictionary_of "$1")" -i $in -o "$out" -- "./$b" >"$b.log" 2>&1 </dev/null || return 1
    [ "$(ls "$out"/default/crashes "$out"/default/hangs 2>/dev/null | grep -c '^id')" = 0 ]
}

afl_said() { # afl_said NAME
    awk '$1 ~ /^(execs_done|edges_found|corpus_count|saved_crashes|saved_hangs)$/ { printf "%s %s  ", $1, $3 }' "build/afl/$1/default/fuzzer_stats"
    echo
}

coverage() { # which lines of rdbkit.c the corpora reach, room by room; needs the tools of LLVM
    build_fuzz build/cov -fprofile-instr-generate -fcoverage-mapping -fsanitize=fuzzer
    for t in fuzz/fuzz_*.c; do
        name=$(basename "$t" .c)
        mkdir -p "build/corpus/$name"
        LLVM_PROFILE_FILE=build/cov/$name.profraw "build/cov/$name" -runs=0 -max_len=65536 "build/corpus/$name" \
            "build/corpus/seeds/$(seeds_of "$name")" >"build/cov/$name.log" 2>&1 || say "$name stops, see build/cov/$name.log"
    done
    bin=$(dirname "$(readlink -f "$(command -v "$CLANG")")")
    set --; for t in fuzz/fuzz_*.c; do set -- "$@" -object "build/cov/$(basename "$t" .c)"; done
    "$bin/llvm-profdata" merge build/cov/*.profraw -o build/cov/all.profdata
    shift; "$bin/llvm-cov" export -format=lcov -instr-profile=build/cov/all.profdata "$@" rdbkit.c >build/cov/all.lcov
    awk -F '[:,]' 'FNR == NR { if ($1 == "DA") { seen[$2] = 1; hit[$2] += $3 } next }
        /^\/\* ==== \[/ { room = substr($0, 9, 4) " " substr($0, 14) ; sub(/ ====.*/, "", room); rooms[++n] = room }
        FNR in seen { all[room]++; total++; if (hit[FNR]) { ok[room]++; good++ } }
        END { for (i = 1; i <= n; i++) if (all[rooms[i]]) printf "%5.1f%% of %5d lines  %s\n", 100 * ok[rooms[i]] / all[rooms[i]], all[rooms[i]], rooms[i]
              printf "%5.1f%% of %5d lines  in all\n", 100 * good / total, total }' build/cov/all.lcov rdbkit.c
}

fuzz() {
    seconds=${1:-60}
    need_build
    mkdir -p build/fuzz build/corpus
    main= mutate=-O2 runner=${FUZZER:-libfuzzer}
    if [ "$runner" = afl ]; then
        have afl-clang-fast || install_things afl || die "no AFL++"
        CLANG=afl-clang-fast
        flags='-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all'
    else
        flags='-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all'
        find_clang "-g -O1 $flags" || { { install_things fuzzer || install_things clang; } && find_clang "-g -O1 $flags"; } || {
            say "NO FUZZER RUNTIME: replaying the seeds with our mutations alone instead"
            runner=none CLANG=$CC flags= main=fuzz/standalone.c mutate='-O2 -DFUZZ_SIMPLE'
            if links "$SAN" stdio.h; then flags=$SAN; fi
        }
    fi
    if [ "$runner" = coverage ]; then coverage; return; fi
    build_fuzz build/fuzz $flags
    if [ "$runner" = afl ]; then CLANG=$CC compile_fuzz -O2 -fPIC -shared -DFUZZ_SIMPLE -DFUZZ_AFL fuzz/mutate.c -o build/fuzz/mutate.so -llzf; fi
    [ -d build/corpus/seeds/payload ] && ! stale build/corpus/seeds fixtures fuzz/seeds.c fuzz/mutate.c || seeds build/corpus/seeds
    targets=${FUZZ_TARGETS:-$(ls fuzz/fuzz_*.c)}
    set -- $targets; each=$((seconds / $#)); [ $each -gt 0 ] || each=1
    findings=0
    for t in $targets; do
        name=$(basename "$t" .c)
        if [ "$runner" = afl ] && afl_one "$name" $each; then
            echo "ok    $name: $(afl_said "$name")"
        elif [ "$runner" != afl ] && fuzz_one "$name" $each; then
            echo "ok    $name: $(fuzz_said "build/fuzz/$name.log")"
        else
            findings=$((findings + 1))
            echo "FAIL  $name: the input is in build/fuzz (AFL++: build/afl), all that was said in build/fuzz/$name.log"
            grep -avE '^#[0-9]+' "build/fuzz/$name.log" | tail -n 40
        fi
    done
    [ $findings = 0 ]
}

# ---- lint ------------------------------------------------------------------------------------------------

bad=0
judge() { # judge TEXT COMMAND...
    what=$1; shift
    if "$@" >build/lint/said 2>&1; then echo "ok    $what"; return; fi
    echo "FAIL  $what"; bad=$((bad + 1))
    grep -E 'error|warning' build/lint/said | head -n 30 | grep . || head -n 30 build/lint/said
}

rooms_match() { # the map at the top against the banners: same numbers, prefixes and order
    sed -n 's/^ \*   \[\([0-9][0-9]\)\] \([a-z_]*\) .*/\1 \2/p' rdbkit.c >build/lint/map
    sed -n 's/^\/\* ==== \[\([0-9][0-9]\)\] \([a-z_]*\) .*/\1 \2/p' rdbkit.c >build/lint/banners
    [ -s build/lint/banners ] && diff build/lint/map build/lint/banners
}

cli_alone() { # the cli_ room compiles against rdbkit.h alone
    sed -n '/^\/\* ==== \[[0-9]*\] cli_/,$p' rdbkit.c >build/lint/room
    [ -s build/lint/room ] || { echo "no cli_ banner"; return 1; }
    { echo '#define RDBKIT_CLI 1'
      grep -E '^# *define _[A-Z0-9_]+' rdbkit.c
      echo '#include "rdbkit.h"'
      [ "$(grep -cE '^# *if' build/lint/room)" = "$(grep -cE '^# *endif' build/lint/room)" ] || echo '#if 1'
      cat build/lint/room; } >build/lint/cli.c
    $CC -std=c11 $CPPFLAGS $WARN -Werror -I. -fsyntax-only build/lint/cli.c
}

exports_only_api() {
    other=$(nm -g ${DARWIN:---defined-only} "$SO" | awk '$2 ~ /[TDBRVW]/ { sub(/^_/, "", $3); print $3 }' |
        grep -Ev '^(rdbkit_.*|init|fini)$' || :)
    [ -z "$other" ] || { echo "exported: $other"; return 1; }
}

formatted() { # as .clang-format has it
    for f in rdbkit.h rdbkit.c tests/*.[ch] fuzz/*.[ch]; do
        n=$(clang-format "$f" | diff "$f" - | grep -c '^<' || :)
        [ "$n" = 0 ] || echo "error: clang-format would change $n lines of $f"
    done | grep . && return 1 || return 0
}

format() { # releases of clang-format differ: one alone is asked
    case $(clang-format --version 2>/dev/null) in
        *version\ 14.*) judge "clang-format" formatted ;;
        *) echo "note  no clang-format 14 here: the format is not looked at" ;;
    esac
}

lint() {
    build
    mkdir -p build/lint
    have clang || install_things clang || say "NO CLANG: compiling with $CC alone"
    have g++ || have clang++ || install_things cxx || :
    for cc in gcc clang; do
        have $cc || continue
        for optimise in -O0 -O2; do
            for d in '' -DRDBKIT_CLI; do
                judge "$cc $optimise $d" $cc -std=c11 $CPPFLAGS $optimise $WARN -Werror $d -c rdbkit.c -o build/lint/x.o
            done
        done
        judge "$cc: rdbkit.h as C99" $cc -std=c99 $WARN -Werror -fsyntax-only -x c rdbkit.h
        cxx=g++; [ $cc = gcc ] || cxx=clang++
        if have $cxx; then
            judge "$cxx: rdbkit.h as C++" $cxx -std=c++98 -Wall -Wextra -Wshadow -Wconversion -Werror -fsyntax-only -x c++ rdbkit.h
        fi
    done
    judge "map and banners agree" rooms_match
    judge "cli_ uses rdbkit.h alone" cli_alone
    judge "exports are rdbkit_*" exports_only_api
    for s in build.sh .ci/run tests/*.sh; do judge "syntax of $s" bash -n "$s"; done
    format
    echo "lint: $bad problems"
    [ $bad = 0 ]
}

# ---- bench, install, clean -------------------------------------------------------------------------------

bench() {
    build
    need python3
    if stale build/bench_gen tests/bench_gen.c; then
        run $CC -std=c11 $CPPFLAGS -O2 $WARN tests/bench_gen.c -o build/bench_gen $LDFLAGS -llzf -lm
    fi
    SERVERS=$SERVERS python3 tests/bench.py "$@"
}

built() { # whether all that install takes is there, and newer than the sources
    [ -e librdbkit.a ] && ! stale rdbkit rdbkit.c rdbkit.h && ! stale "$SO" rdbkit.c rdbkit.h
}

prefix_of() { # prefix_of [PREFIX]: an absolute one
    case ${1:-/usr/local} in
        /*) echo "${1:-/usr/local}" ;;
        *) echo "$here/$1" ;;
    esac
}

pieces() { # what is installed: mode, file, and its place under the prefix
    version=$(sed -n 's/^#define RDBKIT_VERSION "\(.*\)"/\1/p' rdbkit.h)
    real=librdbkit.so.$version; [ -z "$DARWIN" ] || real=librdbkit.$version.dylib
    echo "755 rdbkit bin/rdbkit
644 rdbkit.h include/rdbkit.h
644 librdbkit.a lib/librdbkit.a
755 $SO lib/$real
link $real lib/$SONAME
link $SONAME lib/$SO
644 build/rdbkit.pc lib/pkgconfig/rdbkit.pc
644 docs/rdbkit.1 share/man/man1/rdbkit.1
644 docs/completions/rdbkit.bash share/bash-completion/completions/rdbkit
644 docs/completions/_rdbkit share/zsh/site-functions/_rdbkit
644 docs/completions/rdbkit.fish share/fish/vendor_completions.d/rdbkit.fish"
}

linker_cache() { # what finds shared libraries on Linux looks into a cache, where the prefix is one that it knows
    if [ -n "${DESTDIR-}" ] || [ -n "$DARWIN" ] || [ "$(id -u)" != 0 ] || ! have ldconfig; then return; fi
    run ldconfig || :
}

install_() {
    prefix=$(prefix_of "${1-}") to=${DESTDIR-}$(prefix_of "${1-}")
    built || build # with sudo the flags of the build may be gone: what is there is not built anew
    mkdir -p build
    cat >build/rdbkit.pc <<END
prefix=$prefix
includedir=\${prefix}/include
libdir=\${prefix}/lib

Name: rdbkit
Description: Reads, replays, converts and writes RDB and append-only files of Redis and Valkey
Version: $(sed -n 's/^#define RDBKIT_VERSION "\(.*\)"/\1/p' rdbkit.h)
Cflags: -I\${includedir}
Libs: -L\${libdir} -lrdbkit
Libs.private: $LIBS
END
    pieces | while read -r mode from name; do
        [ -d "$to/$(dirname "$name")" ] || (umask 022 && run mkdir -p "$to/$(dirname "$name")")
        if [ $mode = link ]; then run ln -sf "$from" "$to/$name"; else run install -m $mode "$from" "$to/$name"; fi
    done
    linker_cache
}

uninstall() { # folders stay: they may have been there before
    to=${DESTDIR-}$(prefix_of "${1-}")
    pieces | while read -r mode from name; do run rm -f "$to/$name"; done
    run rm -f "$to"/lib/librdbkit.* # of other versions, too
    linker_cache
}

clean() {
    for f in build/*; do case $f in build/servers | build/bench) ;; *) rm -rf "$f" ;; esac; done
    rm -f rdbkit librdbkit.a librdbkit.so librdbkit.dylib
}

verb=${1-}; [ $# = 0 ] || shift
case $verb in
    '') build ;;
    test) test_ "${1-}" ;;
    asan) asan "${1-}" ;;
    valgrind) valgrind_ "${1-}" ;;
    tsan) tsan ;;
    ports) ports "${1-}" "${2-}" ;;
    fuzz) fuzz "${1-}" ;;
    lint) lint ;;
    bench) bench "$@" ;;
    install) install_ "${1-}" ;;
    uninstall) uninstall "${1-}" ;;
    clean) clean ;;
    *) sed -n '2,/^set/s/^#[ ]\{0,1\}//p' build.sh >&2; exit 2 ;;
esac
