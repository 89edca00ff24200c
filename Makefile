.PHONY: check

# What a change must pass before anything is run: form and lints.
check:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
