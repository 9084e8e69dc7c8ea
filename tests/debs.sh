# Sourced by servers.sh and sysroot.sh: packages of any release and architecture of Debian, fetched and not installed.

mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -E '/debian/?$' | head -n 1)
[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -n 1)
[ -n "$mirror" ] || mirror=http://deb.debian.org/debian
keys=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_of STATE SUITE ARCH VERB...: apt with lists of its own in the folder STATE, for one Debian release and one
# architecture (that of the machine, if it is empty); the system's apt state stays as it is
apt_of() {
  local state=$1 suite=$2 arch=${3:-$(dpkg --print-architecture)} verb=$4; shift 4
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/etc/preferences.d" "$state/etc/parts"
  echo "deb [signed-by=$keys] ${mirror% } $suite main" >"$state/etc/sources.list"
  : >"$state/status"
  apt-get -qq -o Dir::Etc::sourcelist="$state/etc/sources.list" -o Dir::Etc::sourceparts="$state/etc/parts" \
    -o Dir::Etc::preferencesparts="$state/etc/preferences.d" -o Dir::Etc::preferences=/dev/null -o Dir::State="$state" \
    -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
    -o APT::Architecture="$arch" -o APT::Architectures::="$arch" \
    -o APT::Default-Release= -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 \
    -o Acquire::Check-Valid-Until=false "$verb" "$@"
}
