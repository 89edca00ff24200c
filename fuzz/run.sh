#!/bin/sh
# Runs one fuzz target under libFuzzer, on stable Rust: fuzz/run.sh TARGET [SECONDS]
# Fails when the target finds something; the input is then in fuzz/artifacts/TARGET/.
set -eu
target=${1:?usage: fuzz/run.sh scan|startup|message|sql [seconds]}
seconds=${2:-60}
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')

# Coverage, as cargo-fuzz asks for it. All of these are stable flags; only the sanitizers are not, and code without
# `unsafe` has little need of them. The --target keeps the flags away from build scripts.
coverage="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$option"
done
mkdir -p "artifacts/$target" "corpus/$target"
RUSTFLAGS="$coverage" exec cargo run --release --target "$host" --bin "$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=5 -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target"
