#!/usr/bin/env bash
# Puts pgcopydb, beside which `make bench` measures the initial copy, into .tools/bin of this checkout: Debian's package, unpacked
# without being installed, with libpq if that is missing here. Idempotent. One that is in PATH already is left alone.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.tools
say() { printf 'install-pgcopydb: %s\n' "$*" >&2; }
remedy="Install pgcopydb and put it into PATH, or measure without it: PGSLUICE_BENCH_ONLY=native,pgsluice"

if PATH="$tools/bin:$PATH" command -v pgcopydb >/dev/null; then exit 0; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "this is no Debian-like system. $remedy"
    exit 1
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
# apt-get drops to its own user for downloads, which must be able to write here.
chmod 777 "$staging"
cd "$staging"

# Downloads a package and unpacks it below $staging/unpacked.
unpack() {
    if ! apt-get download -q "$1" >log 2>&1 &&
        ! { [ "$(id -u)" -eq 0 ] && apt-get update -q >log 2>&1 && apt-get download -q "$1" >log 2>&1; }; then
        tail -n 5 log >&2
        say "apt-get could not download Debian's package $1. If its package lists are empty or old, have root run 'apt-get update', then run this again. $remedy"
        exit 1
    fi
    dpkg-deb -x "$1"_*.deb unpacked
}

say "getting pgcopydb"
unpack pgcopydb
if ldd unpacked/usr/bin/pgcopydb | grep -q 'libpq.*not found'; then unpack libpq5; fi
mkdir -p "$tools/bin"
rm -rf "$tools/pgcopydb"
mkdir -p "$tools/pgcopydb/lib"
install -m 755 unpacked/usr/bin/pgcopydb "$tools/pgcopydb/pgcopydb"
if [ -d unpacked/usr/lib ]; then find unpacked/usr/lib -name 'libpq.so.*' -exec cp -a {} "$tools/pgcopydb/lib/" \;; fi
cat >"$tools/bin/pgcopydb" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/../pgcopydb
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/pgcopydb" "$@"
WRAPPER
chmod 755 "$tools/bin/pgcopydb"
"$tools/bin/pgcopydb" --version >/dev/null
