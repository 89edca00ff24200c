//! Instructions that small things of the byte path take, counted: no noise of the machine hides a regression.
//! `make bench-micro`; `UPDATE=1` accepts what was counted.
//!
//! Each case runs in a process of its own under Valgrind, once many times and once not at all: the difference is the case's.
//! At the end the whole of pgmoor does.
#![allow(clippy::disallowed_methods, reason = "the machine's clock has to start somewhere; nothing here measures time")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table")]

#[path = "../../tests/support/postgres.rs"]
mod postgres;
#[allow(clippy::unwrap_used, reason = "tests' own; what is used of it cannot fail")]
#[path = "../../tests/support/raw.rs"]
mod raw;
#[path = "../../tests/cluster/trouble.rs"]
#[allow(dead_code, unreachable_pub, reason = "the test cluster uses all of it, from a library")]
mod trouble;

mod cases;
mod counts;
mod whole;

use std::process::{Command, ExitCode};

use cases::{CASES, Case};
use counts::Counts;
use trouble::{Result, Trouble, Trying as _};

/// So often a case is run: what happens now and then (a buffer grows) is a small part.
const TIMES: u64 = 2000;
/// More than this above what is written down is a regression.
const MARGIN: f64 = 0.10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--case", name, times] => run_case(name, times),
        words if words.contains(&"--bench") => match compare() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(trouble) => {
                eprintln!("bench-micro: {trouble}");
                ExitCode::FAILURE
            }
        },
        // `cargo test --benches` starts it too.
        _ => {
            eprintln!("make bench-micro, or cargo bench --bench micro");
            ExitCode::SUCCESS
        }
    }
}

fn run_case(name: &str, times: &str) -> ExitCode {
    let case = CASES.iter().find(|(other, _)| *other == name);
    let (Some((_, run)), Ok(times)) = (case, times.parse()) else {
        return ExitCode::FAILURE;
    };
    run(times);
    ExitCode::SUCCESS
}

/// Counts every case, or those with `BENCH_ONLY` in their names, and shows it beside what is written down. `false`: something
/// takes more than it should.
fn compare() -> Result<bool> {
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let update = only.is_empty() && std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let known = Counts::load()?;
    if let Some(other) = known.other_compiler() {
        println!("{other}");
    }
    println!("{:<52} {:>10} {:>10} {:>8}", "instructions", "before", "now", "");
    let mut now = Counts::empty();
    let mut good = true;
    let mut show = |name: &str, count: u64| {
        good &= line(name, known.get(name), count);
        now.set(name, count);
    };
    for case in CASES.iter().filter(|(name, _)| name.contains(&only)) {
        show(case.0, count(case)?);
    }
    for (name, count) in whole::all(&only)? {
        show(name, count);
    }
    if update {
        now.save()?;
        println!("written down: {}", counts::FILE);
    } else if !good {
        println!("accept it with UPDATE=1 make bench-micro, if it has to be");
    }
    Ok(good || update)
}

/// Shows one count beside what is written down. `false`: it is new, or more than it should be.
fn line(name: &str, before: Option<u64>, count: u64) -> bool {
    let change = before.map(|before| count as f64 / before as f64 - 1.0);
    let verdict = match change {
        None => "new",
        Some(change) if change > MARGIN => "TOO MANY",
        Some(_) => "",
    };
    let before = before.map_or_else(|| "–".to_owned(), |before| before.to_string());
    let change = change.map_or_else(String::new, |change| format!("{:+.1} %", change * 100.0));
    println!("{name:<52} {before:>10} {count:>10} {change:>8} {verdict}");
    verdict.is_empty()
}

/// Instructions for doing it once.
fn count((name, _): &Case) -> Result<u64> {
    let (whole, nothing) = (instructions(name, TIMES)?, instructions(name, 0)?);
    Ok(whole.saturating_sub(nothing) / TIMES)
}

fn instructions(name: &str, times: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    let output = valgrind.args(["--case", name, &times.to_string()]).output();
    let output = output.trying(|| "valgrind (as root: apt-get install valgrind)".to_owned())?;
    let text = String::from_utf8_lossy(&output.stderr);
    // `==123== Collected : 4567`
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok(count),
        Some(_) | None => Err(Trouble::new(format!("{name}: {}: {text}", output.status))),
    }
}
