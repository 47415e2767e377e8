#!/usr/bin/env bash
# Reads the output of `cargo test` (a file) and prints how many tests ran for each PostgreSQL version pair, what the matrix of
# types and table shapes covered on each, then the test runner's own closing lines again. Fails when a pair that must be
# covered has no test or no line of the matrix, when a line tells of a difference, or any test failed.
#
#   scripts/summarize-tests.sh target/test-output.txt
set -euo pipefail

output=$1
required="14_15 14_17 14_18 15_17 17_18"
matrix_required="14_15 14_18 15_17 17_18"
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

# The tests print `matrix 14 -> 15: 240 types, 9000 cases, 0 differences`, and table shapes likewise. A test that ran twice in
# this file counts once, with its last line.
matrix_line() { # pair noun
    grep -Eo "matrix ${1%_*} -> ${1#*_}: [0-9]+ $2, [0-9]+ cases, [0-9]+ differences" "$output" | tail -n 1 | grep -Eo '[0-9]+' | tail -n 3 | xargs
}
echo
echo "matrix of types and table shapes by pair (source -> target)"
for pair in $matrix_required; do
    read -r types type_cases type_differences <<<"$(matrix_line "$pair" types)" || true
    read -r shapes shape_cases shape_differences <<<"$(matrix_line "$pair" 'table shapes')" || true
    if [ -z "${types:-}" ] || [ -z "${shapes:-}" ]; then
        echo "no line of the matrix for the pair ${pair/_/ -> }: types '${types:-none}', table shapes '${shapes:-none}'" >&2
        status=1
        continue
    fi
    differences=$((type_differences + shape_differences))
    echo "  ${pair/_/ -> }: $types types, $shapes table shapes, $((type_cases + shape_cases)) cases, $differences differences"
    if [ "$differences" -gt 0 ]; then status=1; fi
done
grep -Eo 'matrix [0-9]+ -> [0-9]+: NOT covered.*' "$output" | sort -u || true

if grep -Eq '^test result: FAILED|^error: test failed' "$output"; then status=1; fi
echo
grep -E '^test result:' "$output"
exit $status
