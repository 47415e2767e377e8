#!/usr/bin/env bash
# Puts the tools that some tests use into .tools/bin of this checkout, from Debian's packages, unpacked without being
# installed (the packages would start servers): Prometheus with promtool, and PgBouncer with the libraries that are missing here.
# Idempotent. What is in PATH already is left alone.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.tools
say() { printf 'install-tools: %s\n' "$*" >&2; }
# Debian keeps servers in sbin, which is not in everybody's PATH.
is_here() { PATH="$tools/bin:$PATH:/usr/sbin" command -v "$1" >/dev/null; }

if is_here promtool && is_here prometheus && is_here pgbouncer; then exit 0; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    say "prometheus, promtool or pgbouncer is not in PATH, and this is no Debian-like system: install Prometheus and PgBouncer, the tests need both"
    exit 1
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
# apt-get drops to its own user for downloads, which must be able to write here.
chmod 777 "$staging"
cd "$staging"
mkdir -p "$tools/bin"

# Downloads packages and unpacks them below $staging/$1.
unpack() {
    local into=$1
    shift
    if ! apt-get download -q "$@" >log 2>&1; then
        if [ "$(id -u)" -ne 0 ]; then
            tail -n 5 log >&2
            say "apt-get could not download Debian's packages $*, which the tests need. If its package lists are empty or old, have root run 'apt-get update', then run this again; or put prometheus, promtool and pgbouncer into PATH"
            exit 1
        fi
        if ! { apt-get update -q && apt-get download -q "$@"; } >log 2>&1; then
            tail -n 5 log >&2
            say "apt-get could not download Debian's packages $*, which the tests need. Check the network and apt's sources, then run this again; or put prometheus, promtool and pgbouncer into PATH"
            exit 1
        fi
    fi
    local package
    for package in "$@"; do dpkg-deb -x "${package}"_*.deb "$into"; done
}

if ! is_here promtool || ! is_here prometheus; then
    say "getting Prometheus"
    unpack prometheus prometheus
    for program in promtool prometheus; do
        install -m 755 "prometheus/usr/bin/$program" "$tools/bin/$program"
        "$tools/bin/$program" --version >/dev/null
    done
fi

if ! is_here pgbouncer; then
    say "getting PgBouncer"
    unpack pgbouncer pgbouncer
    if ldd pgbouncer/usr/sbin/pgbouncer | grep -q 'not found'; then
        # Names of library packages differ between releases: the package itself says which it needs.
        mapfile -t libraries < <(dpkg-deb -f pgbouncer_*.deb Depends | tr ',' '\n' | grep -oE 'lib(c-ares|event)[^ (]*')
        unpack pgbouncer "${libraries[@]}"
    fi
    rm -rf "$tools/pgbouncer"
    mkdir -p "$tools/pgbouncer/lib"
    install -m 755 pgbouncer/usr/sbin/pgbouncer "$tools/pgbouncer/pgbouncer"
    find pgbouncer/usr/lib -name 'lib*.so.*' -exec cp -a {} "$tools/pgbouncer/lib/" \;
    cat >"$tools/bin/pgbouncer" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/../pgbouncer
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/pgbouncer" "$@"
WRAPPER
    chmod 755 "$tools/bin/pgbouncer"
    "$tools/bin/pgbouncer" --version >/dev/null
fi
