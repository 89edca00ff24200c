# What there is to do here; `make help` says it in a terminal.
#
# Everything builds into cargo's own folder (CARGO_TARGET_DIR, else target/). The test cluster's programs are fetched and
# built once into a cache of their own: PGMOOR_CACHE, else /var/cache/pgmoor for root.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The parts of a target follow each other.
.NOTPARALLEL:

# Suites that run a real control plane: one after the other, for each of them fills two cores by itself.
REAL := plane kubelet e2e judge
SUITES := $(basename $(notdir $(wildcard tests/*.rs))) $(notdir $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs)))
LOCAL := $(filter-out $(REAL),$(SUITES))

# $(call part,NAME,COMMANDS): runs them, and says how long they took. SECONDS begins at 0 with each shell.
part = @printf '\n== %s\n' '$(1)'; $(2); printf '== %s: %d s\n' '$(1)' "$$SECONDS"

# What a change must pass before anything is run. cargo-deny only where it is installed.
CHECK = cargo fmt --all --check && cargo clippy --all-targets -- -D warnings && \
	{ ! command -v cargo-deny >/dev/null || cargo deny check bans licenses sources; }

.PHONY: help build check fmt prepare test test-local test-cluster guard-cost bench bench-micro chaos demo

# Targets with a `##` behind them, and what stands there.
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1 \t/p' $(MAKEFILE_LIST) | expand -t 22

build: ## the release binary: target/release/pgmoor
	cargo build --release --locked

check: ## form and lints
	$(CHECK)

fmt: ## formats the code
	cargo fmt --all

# The first time this installs PostgreSQL, Patroni and etcd and builds Kubernetes, about seven minutes; after that it
# finds everything there. Lints are checked meanwhile.
prepare: ## builds the tests and the test cluster's programs (as root), and checks form and lints
	$(call part,build,cargo test --no-run)
	$(call part,programs of the test cluster; lints,\
		cargo test --quiet --test plane the_toolbox_has_every_program & toolbox=$$!; \
		lints=0; ($(CHECK)) || lints=1; \
		wait $$toolbox; [ $$lints = 0 ])

test: prepare test-local test-cluster ## everything, the real cluster included (as root)

test-local: ## the tests that need no control plane; PostgreSQL 15 has to be there
	$(call part,tests of one process or a few,\
		cargo test --no-fail-fast --lib --bins --examples $(LOCAL:%=--test %); cargo test --doc)

# Those that measure how long clients wait have the machine for themselves; they print it.
test-cluster: ## the tests on the real control plane, one suite after the other
	$(call part,the control plane of the tests,cargo test --test plane)
	$(call part,the kubelet of the tests,cargo test --test kubelet)
	$(call part,pgmoor on the real cluster,cargo test --test e2e -- --skip moves:: --skip mass:: --nocapture --test-threads=2)
	$(call part,the main job on the real cluster,cargo test --test e2e -- moves:: mass:: --nocapture --test-threads=1)
	$(call part,the judge,cargo test --test judge -- --nocapture)

guard-cost: ## what the commit guard costs: the same loads with and without it, in turn; wants a quiet machine
	cargo test --release --test local commit::cost -- --ignored --nocapture

# BENCH_ONLY=, BENCH_TARGETS=, BENCH_ROUNDS= and more: benches/README.md.
bench: ## pgmoor's speed beside PgBouncer's, HAProxy's and PostgreSQL's own (as root); wants a quiet machine
	cargo bench --bench proxies

# Valgrind counts; a noisy machine does not matter.
bench-micro: ## instructions of the byte path's parts, beside those written down; UPDATE=1 accepts the new ones
	@command -v valgrind >/dev/null || { echo "it needs valgrind: apt-get install valgrind" >&2; exit 1; }
	cargo bench --bench micro

# SEED= is drawn if it is left out; MINUTES= is 10 then.
chaos: ## the judge at length, on the real cluster (as root): random faults until MINUTES= are over, drawn from SEED=
	JUDGE_SEED=$(SEED) JUDGE_MINUTES=$(MINUTES) cargo test --test judge long_run -- --ignored --nocapture

# Needs nothing but Rust: PostgreSQL is installed if it is missing. CLUSTER=1: the same under a real Kubernetes control
# plane and Patroni (root; the first time it builds the control plane).
demo: ## the main job, live: the primary dies, connections stay; CLUSTER=1: on a real control plane
	cargo build --bin pgmoor --example demo
	@cargo run --quiet --example demo -- $(if $(CLUSTER),--cluster)
