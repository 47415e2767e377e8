#!/usr/bin/env bash
# Puts a pgcopydb that can compare data, beside which `make bench` measures verification, into .tools/bin of this checkout as
# `pgcopydb-compare`: Debian's package, unpacked without being installed. That of Debian 12 cannot compare yet: there, Debian 13's is
# taken, with the C library that it was built for. Idempotent. One in PATH that can is left alone.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.tools
say() { printf 'install-pgcopydb-compare: %s\n' "$*" >&2; }
remedy="Install pgcopydb 0.13 or newer, put it into PATH as pgcopydb-compare, or measure without it: PGSLUICE_BENCH_ONLY=md5,pgsluice"
release=trixie

if PATH="$tools/bin:$PATH" command -v pgcopydb-compare >/dev/null; then exit 0; fi
can_compare() { "$1" compare data --help 2>&1 | grep -q 'usage: pgcopydb compare data'; }
mkdir -p "$tools/bin"
if own=$(command -v pgcopydb) && can_compare "$own"; then
    ln -sf "$own" "$tools/bin/pgcopydb-compare"
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "this is no Debian-like system. $remedy"
    exit 1
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
# apt-get drops to its own user for downloads, which must be able to write here.
chmod 777 "$staging"
cd "$staging"
mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(CREATED_BY)' 2>/dev/null | awk '$2 == "main" && $3 == "Packages" { print $1; exit }')
if [ -z "$mirror" ]; then
    say "apt-get knows no mirror of Debian. $remedy"
    exit 1
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$release" >sources.list
mkdir -p lists/partial cache
apt() {
    apt-get -q -o Dir::Etc::sourcelist="$staging/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$staging/lists" \
        -o Dir::Cache="$staging/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root "$@" >log 2>&1
}
say "getting pgcopydb"
if ! apt update || ! apt download pgcopydb libc6 libgc1; then
    tail -n 5 log >&2
    say "apt-get could not download Debian's package pgcopydb of $release. $remedy"
    exit 1
fi
for package in ./*.deb; do dpkg-deb -x "$package" unpacked; done
if ! ldconfig -p | grep -q 'libpq\.so\.5'; then
    # That of this system's release, like what it needs in turn.
    mkdir own && cd own
    if ! apt-get -q download libpq5 >../log 2>&1; then
        tail -n 5 ../log >&2
        say "apt-get could not download Debian's package libpq5. $remedy"
        exit 1
    fi
    dpkg-deb -x libpq5_*.deb ../unpacked
    cd ..
fi
rm -rf "$tools/pgcopydb-compare"
mkdir -p "$tools/pgcopydb-compare/lib"
install -m 755 unpacked/usr/bin/pgcopydb "$tools/pgcopydb-compare/pgcopydb"
find unpacked -type d -name '*-linux-gnu' -exec sh -c 'cp -a "$1"/*.so* "$2"' _ {} "$tools/pgcopydb-compare/lib" \;
cat >"$tools/bin/pgcopydb-compare" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/../pgcopydb-compare
system=$(dirname "$(ldconfig -p | sed -n 's/.*libc\.so\.6.* => //p' | head -n 1)")
loader=$(echo "$here"/lib/ld-linux*)
exec "$loader" --library-path "$here/lib:$system:/usr$system" "$here/pgcopydb" "$@"
WRAPPER
chmod 755 "$tools/bin/pgcopydb-compare"
can_compare "$tools/bin/pgcopydb-compare" || { say "pgcopydb does not run here. $remedy"; exit 1; }
