#!/usr/bin/env bash
# Reads the output of `cargo test` (a file) and prints how many tests ran for each PostgreSQL version pair, then the test
# runner's own closing lines again. Fails when a pair that must be covered has no test, or any test failed.
#
#   scripts/summarize-tests.sh target/test-output.txt
set -euo pipefail

output=$1
required="14_15 14_17 14_18 17_18"
passed() { grep -Ec "^test (.*::)?pair_$1::.* \.\.\. ok\$" "$output" || true; }
failed() { grep -Ec "^test (.*::)?pair_$1::.* \.\.\. FAILED\$" "$output" || true; }

status=0
echo
echo "tests by PostgreSQL version pair (source -> target)"
pairs=$({ grep -Eo '^test (.*::)?pair_[0-9]+_[0-9]+::' "$output" | grep -Eo '[0-9]+_[0-9]+' || true; tr ' ' '\n' <<<"$required"; } | sort -u)
for pair in $pairs; do
    printf '  %s -> %s: %s passed, %s failed\n' "${pair%_*}" "${pair#*_}" "$(passed "$pair")" "$(failed "$pair")"
done
for pair in $required; do
    if [ "$(passed "$pair")" -eq 0 ]; then
        echo "no test passed for the pair ${pair/_/ -> }" >&2
        status=1
    fi
done
if grep -Eq '^test result: FAILED|^error: test failed' "$output"; then status=1; fi
echo
grep -E '^test result:' "$output"
exit $status
