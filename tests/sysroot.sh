#!/usr/bin/env bash
# Fetches what rdbkit and its tests link for another architecture, from Debian's own packages, without telling
# dpkg of that architecture:
#
#   tests/sysroot.sh DIR ARCH     ARCH as Debian says it: i386, s390x, arm64
#
# Then DIR/root/usr has the headers of liblzf, zlib and cmocka and, under lib, the libraries. The C library is not
# among them: it comes with the cross compiler. Nothing outside DIR is touched. Needs apt and dpkg-deb.
set -uo pipefail
mkdir -p "$1" && dir=$(cd "$1" && pwd) || exit 1
arch=$2 suite=bookworm
. "$(dirname "$0")/debs.sh"

rm -rf "$dir/root" "$dir/new" "$dir/debs"; mkdir -p "$dir/new" "$dir/debs"
apt_of "$dir/.apt" $suite "$arch" update || exit 1
(cd "$dir/debs" && apt_of "$dir/.apt" $suite "$arch" download liblzf-dev liblzf1 zlib1g-dev zlib1g libcmocka-dev libcmocka0) || exit 1
for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir/new" || exit 1; done
cd "$dir"/new/usr/lib/*-linux-gnu* || exit 1
mv "$dir"/new/lib/*/libz.so.1* . && ln -sf libz.so.1 libz.so # it says /lib/..., which is that of the machine itself
rm -rf "$dir/.apt" "$dir/debs"
mv "$dir/new" "$dir/root" # there when whole
