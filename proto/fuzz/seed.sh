#!/usr/bin/env bash
# Turns the golden captures into seeds of the pgoutput target: its version byte, then each payload behind its length.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
corpus=$here/corpus/pgoutput
mkdir -p "$corpus"
for capture in "$here"/../tests/golden/*.hex; do
    version=$(sed -n 's/^# proto_version=\([1-4]\).*/\1/p' "$capture")
    {
        printf '%02x' $((version - 1))
        grep -v '^#' "$capture" | while read -r payload; do
            printf '%04x%s' $((${#payload} / 2)) "$payload"
        done
    } | xxd -r -p >"$corpus/$(basename "$capture" .hex)"
done
ls "$corpus" | wc -l
