.PHONY: check demo

# What a change must pass before anything is run: form and lints.
check:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings

# The main job, live: three PostgreSQL servers of this machine, the primary killed. Needs nothing but Rust: PostgreSQL is
# installed if it is missing. CLUSTER=1: the same under a real Kubernetes control plane and Patroni (root; the first time
# it builds the control plane).
demo:
	cargo build --bin pgmoor --example demo
	@cargo run --quiet --example demo -- $(if $(CLUSTER),--cluster)
