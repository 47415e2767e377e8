# `make demo` shows a whole migration; `make test` is what continuous integration runs. Needs cargo, and python3 with pip
# for the PostgreSQL binaries, unless PGSLUICE_POSTGRES_DIRS names the bin folders of your own.
# A test that uses randomness prints its seed; PGSLUICE_TEST_SEED=<that seed> replays it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.tools/bin:$(PATH)
# Tests start several servers each; two at a time keep two cores busy.
TEST_THREADS ?= 2
OUTPUT := target/test-output.txt

.PHONY: help
help: ## Lists these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: demo
demo: postgres ## A whole migration under live traffic, with a report (target/demo/report.json)
	cargo build --release --quiet --bin pgsluice
	target/release/pgsluice demo $(DEMO_ARGS)

.PHONY: test
test: fmt clippy postgres tools browser ## Everything that continuous integration checks
	mkdir -p target
	$(MAKE) --no-print-directory unit integration OUTPUT=$(OUTPUT)
	$(MAKE) --no-print-directory deploy
	scripts/summarize-tests.sh $(OUTPUT)

.PHONY: fmt
fmt: ## Formatting
	cargo fmt --all -- --check

.PHONY: clippy
clippy: ## Lints, warnings denied
	cargo clippy --workspace --all-targets --quiet -- -D warnings

.PHONY: unit
unit: postgres ## Unit and property tests, the protocol crate, documentation examples
	mkdir -p target
	cargo test --workspace --lib --bins --quiet 2>&1 | tee $(OUTPUT)
	cargo test --package pgsluice-proto --tests --quiet 2>&1 | tee -a $(OUTPUT)
	cargo test --workspace --doc --quiet 2>&1 | tee -a $(OUTPUT)

.PHONY: integration
integration: postgres tools browser ## The program against real servers of PostgreSQL 14 to 18
	mkdir -p target
	cargo test --package pgsluice --test integration -- --test-threads=$(TEST_THREADS) 2>&1 | tee -a $(OUTPUT) \
		|| { echo "why tests failed:"; grep -A 8 "panicked at" $(OUTPUT) | cut -c 1-400 | head -n 80; exit 1; }

# How many random histories `make soak` runs, and how many minutes at most.
SEEDS ?= 200
SOAK_MINUTES_MAX ?= 30

.PHONY: soak
soak: postgres ## Random histories against real servers, both sides compared in the end: SEEDS=200
	PGSLUICE_SOAK_SEEDS=$(SEEDS) PGSLUICE_SOAK_MINUTES_MAX=$(SOAK_MINUTES_MAX) cargo test --package pgsluice \
		--test integration -- --exact random_histories::after_every_random_history_both_sides_hold_the_same_rows

# How many random copies `make copy-storm` runs.
COPY_SEEDS ?= 100

.PHONY: copy-storm
copy-storm: postgres ## Random initial copies under writers, killed at random moments, both sides compared: COPY_SEEDS=100
	PGSLUICE_COPY_SEEDS=$(COPY_SEEDS) cargo test --package pgsluice --test integration -- --exact \
		copy::storm::killed_at_random_moments_of_the_copy_both_sides_hold_the_same_rows

.PHONY: test-verify
test-verify: postgres ## Verification at full size: seeded damage, one row of 5 million, 200 runs under load, and a line of figures (15 minutes)
	@scripts/test-verify.sh

.PHONY: crash-matrix
crash-matrix: postgres ## Every action of a cutover and a rollback struck in every way, and what became of it (`make test`: an eighth)
	PGSLUICE_CRASH_MATRIX=whole cargo test --package pgsluice --test integration -- struck --nocapture --test-threads=2

.PHONY: deploy
deploy: tools ## Manifests, Helm chart and alert rules of deploy/
	scripts/check-deploy.sh

.PHONY: mutants
mutants: postgres ## Proves that the traps' and verification's tests can fail: breaks the program in many ways, one at a time (TRAPS="10 12 verify" for some)
	scripts/mutation-check.py $(TRAPS)

.PHONY: large
large: postgres ## One transaction of five million rows, one of a gibibyte: rows, memory, seconds (many minutes)
	scripts/large-transactions.sh

.PHONY: bench
bench: postgres pgcopydb pgcopydb-compare ## Beside native logical replication, every case (many minutes): PGSLUICE_BENCH_CASES=a,c BASELINE=path/to/pgsluice
	PGSLUICE_BASELINE="$${BASELINE:-}" cargo bench --quiet --bench side_by_side
	PGSLUICE_BASELINE="$${BASELINE:-}" cargo bench --quiet --bench copy
	cargo bench --quiet --bench verify

.PHONY: bench-table
bench-table: ## Puts the figures of target/bench/*.json into docs/performance.md
	cargo bench --quiet --bench side_by_side -- table

.PHONY: bench-copy
bench-copy: postgres pgcopydb ## The cases of `make bench` that are the initial copy, beside native replication and pgcopydb (20 minutes)
	PGSLUICE_BASELINE="$${BASELINE:-}" cargo bench --quiet --bench copy

.PHONY: bench-copy-table
bench-copy-table: ## Puts the figures of target/bench/copy.json into docs/performance.md
	cargo bench --quiet --bench copy -- table

.PHONY: bench-verify
bench-verify: postgres pgcopydb-compare ## The case of `make bench` that is verification, beside pgcopydb and md5, and what it costs the source (10 minutes)
	cargo bench --quiet --bench verify

.PHONY: bench-verify-table
bench-verify-table: ## Puts the figures of target/bench/verify.json into docs/performance.md
	cargo bench --quiet --bench verify -- table

.PHONY: bench-cutover
bench-cutover: postgres ## The write pause: 100 rehearsals, 20 pairs of cutover and rollback, 8 clients (minutes)
	cargo bench --quiet --bench cutover

.PHONY: bench-cutover-table
bench-cutover-table: ## Puts the figures of target/bench/cutover.json into docs/performance.md
	cargo bench --quiet --bench cutover -- table

.PHONY: postgres
postgres: ## PostgreSQL 14 to 18 for demo and tests, in .postgres
	@[ -n "$${PGSLUICE_POSTGRES_DIRS:-}" ] || scripts/install-postgres.sh

.PHONY: tools
tools: ## Small tools that some checks use, in .tools
	@scripts/install-tools.sh

.PHONY: pgcopydb
# Without it the other contenders can be measured all the same: the bench says so where it wants it.
pgcopydb: ## pgcopydb, beside which the initial copy is measured, in .tools
	@scripts/install-pgcopydb.sh || true

.PHONY: pgcopydb-compare
pgcopydb-compare: ## A pgcopydb that can compare, beside which verification is measured, in .tools
	@scripts/install-pgcopydb-compare.sh || true

.PHONY: browser
browser: ## Chromium and its driver, for the tests of the status page
	@scripts/install-browser.sh
