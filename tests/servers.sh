#!/usr/bin/env bash
# Installs real Redis and Valkey servers side by side, from Debian's own packages, each in a folder of its
# own with the C library it was built for, so that several releases run next to one another:
#
#   tests/servers.sh [DIR]            install every release below into DIR/<name>/ (build/servers), but what is there
#   tests/servers.sh DIR NAME...      only those
#
#   name            release of Debian   writes RDB
#   redis-6.0       bullseye            9
#   redis-7.0       bookworm            10
#   redis-8.0       trixie              12
#   valkey-8.1      trixie              11
#   valkey-9        sid                 80  (magic VALKEY080)
#
# Then DIR/<name>/server and DIR/<name>/cli start the programs, and DIR/<name>/check-rdb, check-aof the checkers.
# Nothing outside DIR is touched. Needs apt and dpkg-deb. Goes on without what it cannot get, prints what it
# has, one line a server, and ends with status 1 when one is missing.
set -uo pipefail
dir=${1:-$(dirname "$0")/../build/servers}; shift || :
mkdir -p "$dir" && dir=$(cd "$dir" && pwd) || exit 1
names=("$@"); [ ${#names[@]} -gt 0 ] || names=(redis-6.0 redis-7.0 redis-8.0 valkey-8.1 valkey-9)

. "$(dirname "$0")/debs.sh"

install_one() {
  local name=$1 suite kind ssl
  case $name in
    redis-6.0) suite=bullseye kind=redis ssl=libssl1.1 ;;
    redis-7.0) suite=bookworm kind=redis ssl=libssl3 ;;
    redis-8.0) suite=trixie kind=redis ssl=libssl3t64 ;;
    valkey-8.1) suite=trixie kind=valkey ssl=libssl3t64 ;;
    valkey-9) suite=sid kind=valkey ssl=libssl3t64 ;;
    *) echo "servers.sh: no such release: $name" >&2; return 1 ;;
  esac
  local root=$dir/$name/root debs=$dir/.apt/$suite/debs
  rm -rf "$root"; mkdir -p "$root" "$debs"
  [ -e "$dir/.apt/$suite/updated" ] || { apt_of "$dir/.apt/$suite" "$suite" "" update && touch "$dir/.apt/$suite/updated"; } || return 1
  local others=(libc6 libgcc-s1 libstdc++6 libatomic1 libjemalloc2 liblzf1 "$ssl" libsystemd0 zlib1g libzstd1 liblz4-1
    liblzma5 libcap2 libgcrypt20 libgpg-error0 liblua5.1-0 lua-cjson lua-bitop)
  (cd "$debs" && apt_of "$dir/.apt/$suite" "$suite" "" download "$kind-tools" "${others[@]}") || return 1
  local deb
  for deb in "$debs"/*.deb; do
    case ${deb##*/} in redis-*|valkey-*) [[ ${deb##*/} == "$kind"-* ]] || continue ;; esac
    dpkg-deb -x "$deb" "$root" || return 1
  done
  local loader libs program
  loader=$(find "$root" -name 'ld-linux*.so.[0-9]' | head -n 1)
  libs=$root/lib/$(uname -m)-linux-gnu:$root/usr/lib/$(uname -m)-linux-gnu
  # the server and both checkers are one program, which looks at the name that it was called by
  [ -e "$root/usr/bin/$kind-server" ] || ln -s "$kind-check-rdb" "$root/usr/bin/$kind-server"
  for program in cli check-rdb check-aof benchmark server; do
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$loader" "$libs" "$root/usr/bin/$kind-$program" >"$dir/$name/$program"
    chmod +x "$dir/$name/$program"
  done
  "$dir/$name/server" --version >/dev/null || { rm -f "$dir/$name/server"; return 1; }
}

missing=0
for name in "${names[@]}"; do
  if [ -x "$dir/$name/server" ] || install_one "$name"; then
    echo "$name: $("$dir/$name/server" --version | head -n 1)"
  else
    echo "servers.sh: CANNOT GET $name" >&2
    missing=1
  fi
done
rm -rf "$dir"/.apt/*/updated "$dir"/.apt/*/debs
exit $missing
