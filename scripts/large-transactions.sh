#!/usr/bin/env bash
# One transaction of five million rows and one of a gibibyte of long values, each sent whole and while in progress: compares
# the rows, prints seconds and the program's highest resident set, and fails over 128 MiB or on a difference. A release
# build; takes many minutes and some 30 GB of disk. PGSLUICE_LARGE_ROWS and PGSLUICE_LARGE_MIB make it smaller.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --quiet --bench large_transactions
