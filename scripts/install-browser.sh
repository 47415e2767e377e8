#!/usr/bin/env bash
# Chromium and its driver, for the tests of the status page, from Debian's packages. Idempotent; what is in PATH already is left
# alone. Chromium needs many libraries, so unlike other tools it is installed, not unpacked: that takes root.
set -euo pipefail

say() { printf 'install-browser: %s\n' "$*" >&2; }
packages=(chromium chromium-driver fonts-dejavu-core)

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if ! command -v apt-get >/dev/null; then
    say "chromium or chromedriver is not in PATH, and this is no Debian-like system: install Chromium and the chromedriver of the same version, the tests need both"
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    say "chromium or chromedriver is missing, which the tests of the status page need. Have root run: apt-get update && apt-get install --no-install-recommends ${packages[*]}"
    exit 1
fi
say "installing ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
install() { apt-get -o DPkg::Lock::Timeout=120 install -q -y --no-install-recommends "${packages[@]}"; }
# The lists may be empty or old.
if ! { install || { apt-get update -q && install; }; } >"$log" 2>&1 </dev/null; then
    tail -n 5 "$log" >&2
    say "apt-get could not install ${packages[*]}. Check the network and apt's sources, then run this again; or put chromium and chromedriver of one version into PATH"
    exit 1
fi
chromedriver --version >/dev/null
