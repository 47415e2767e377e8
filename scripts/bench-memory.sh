#!/usr/bin/env bash
# Prints the highest resident set of the program through one transaction of five million rows, and fails over 128 MiB.
# A release build; takes a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --quiet --bench memory
