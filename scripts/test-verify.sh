#!/usr/bin/env bash
# `make test-verify`: the tests of verification at full size (5 million rows, 200 verifications under load), and one line of figures
# from what they printed. VERIFY_ROWS and VERIFY_RUNS choose other sizes.
set -euo pipefail

output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0
PGSLUICE_VERIFY_ROWS=${VERIFY_ROWS:-5000000} PGSLUICE_VERIFY_RUNS=${VERIFY_RUNS:-200} \
    cargo test --package pgsluice --test integration -- verification:: --nocapture --test-threads=1 | tee "$output" || status=$?
passed=$(sed -n 's/^test result: .*\. \([0-9]*\) passed; \([0-9]*\) failed.*/\1 passed, \2 failed/p' "$output" | tail -n 1)
figures=$(sed -n 's/.*verify figures: //p' "$output" | paste -sd '|' | sed 's/|/; /g')
printf 'test-verify: %s: %s\n' "${passed:-no test ran}" "${figures:-no figures}"
exit "$status"
