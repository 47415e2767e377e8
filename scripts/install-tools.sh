#!/usr/bin/env bash
# Puts the tools that some checks use into .tools/bin of this checkout: promtool, from Debian's prometheus package,
# unpacked without being installed (the package would start a server). Idempotent. What is in PATH already is left alone.
set -euo pipefail

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.tools
say() { printf 'install-tools: %s\n' "$*" >&2; }

command -v promtool >/dev/null && exit 0
[ -x "$tools/bin/promtool" ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    say "promtool is not in PATH, and this is no Debian-like system: install Prometheus's tools, the tests need promtool"
    exit 1
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
cd "$staging"
say "getting promtool"
# apt-get drops to its own user for downloads, which must be able to write here.
chmod 777 "$staging"
if ! apt-get download -q prometheus >log 2>&1; then
    if [ "$(id -u)" -ne 0 ]; then
        tail -n 5 log >&2
        say "apt-get could not download Debian's package prometheus, whose promtool the tests need. If its package lists are empty or old, have root run 'apt-get update', then run this again; or put promtool into PATH"
        exit 1
    fi
    if ! { apt-get update -q && apt-get download -q prometheus; } >log 2>&1; then
        tail -n 5 log >&2
        say "apt-get could not download Debian's package prometheus, whose promtool the tests need. Check the network and apt's sources, then run this again; or put promtool into PATH"
        exit 1
    fi
fi
dpkg-deb -x prometheus_*.deb unpacked
mkdir -p "$tools/bin"
install -m 755 unpacked/usr/bin/promtool "$tools/bin/promtool"
"$tools/bin/promtool" --version >/dev/null
