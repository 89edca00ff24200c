//! The speed harness: pgmoor beside other proxies and PostgreSQL itself, in one run. `make bench`; `benches/README.md`.
//!
//! ```text
//!   options             what the environment asks for
//!   programs · stage    what has to be there: other programs; PostgreSQL, its tables, its users
//!   target              what is measured; pgmoor and proxies know how each is set up; bare is the floor
//!   workload            what is run: by pgbench, or by a client of our own, link: bulk, active, idle; calls
//!   meter · process     who used how much CPU and memory
//!   run · turn          rounds: every workload against every target, in turn; one of these; interrupt ends them
//!   book                medians and paired ratios
//!   report              tables; goals: where pgmoor should be; picture
//! ```
#![allow(clippy::disallowed_methods, reason = "speed is measured in real time; nobody pauses its clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report, and how far it is")]

#[path = "../../tests/cluster/toolbox/mirror.rs"]
#[allow(unreachable_pub, reason = "the test cluster has it in a library")]
mod mirror;
#[path = "../../tests/support/postgres.rs"]
mod postgres;
#[allow(clippy::unwrap_used, reason = "tests' own; what is used of it cannot fail")]
#[path = "../../tests/support/raw.rs"]
mod raw;
#[path = "../../tests/cluster/trouble.rs"]
#[allow(dead_code, unreachable_pub, reason = "the test cluster uses all of it, from a library")]
mod trouble;

mod active;
mod bare;
mod book;
mod bulk;
mod calls;
mod goals;
mod idle;
mod interrupt;
mod limit;
mod link;
mod meter;
mod options;
mod pgbench;
mod pgmoor;
mod picture;
mod process;
mod programs;
mod proxies;
mod report;
mod run;
mod stage;
mod target;
mod turn;
mod workload;

use std::path::Path;
use std::process::ExitCode;

use book::{Book, Figure, median};
use calls::Counter;
use options::Options;
use programs::Programs;
use report::Report;
use run::Bench;
use stage::Stage;
use target::{Fleet, Target};
use trouble::{Result, Trying as _};
use workload::Workload;

/// Open files beside those of the clients: backends, logs, what perf counts with.
const SPARE: usize = 1500;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next() {
        Some(word) if word == bare::WORD => bare::serve(arguments),
        first => {
            // `cargo test --benches` starts it too.
            if !first.into_iter().chain(arguments).any(|argument| argument == "--bench") {
                eprintln!("it measures for minutes: make bench, or cargo bench --bench proxies");
                return ExitCode::SUCCESS;
            }
            bench()
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            eprintln!("bench: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let mut options = Options::from_env()?;
    let files = limit::raise(options.idle.max(options.active) + SPARE)?;
    interrupt::listen()?;
    let programs = Programs::find(&options)?;
    for missing in programs.missing.iter().cloned().chain(options.fit(files.saturating_sub(SPARE))) {
        eprintln!("missing: {missing}");
    }
    let stage = Stage::set(&options, &programs)?;
    let targets = target::all(&options, &programs);
    let workloads: Vec<Workload> =
        workload::all().into_iter().filter(|workload| options.wants(&workload.name)).collect();
    let mut bench = Bench {
        options: &options,
        programs: &programs,
        stage: &stage,
        targets: &targets,
        fleet: Fleet::default(),
        book: Book::default(),
        half: None,
    };
    bench.rounds(&workloads);
    let book = bench.book;
    let names: Vec<String> = workloads.into_iter().map(|workload| workload.name).collect();
    let text = head(&options, &programs, &book) + &body(&book, &targets, &names);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write(&root.join("target/bench/report.md"), &text)?;
    if options.picture
        && let Some(picture) = picture::draw(&book, &targets)
    {
        write(&root.join("benches/report.svg"), &picture)?;
    }
    println!("\n{text}");
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(file, text))
        .trying(|| format!("writing {}", file.display()))?;
    eprintln!("written: {}", file.display());
    Ok(())
}

fn body(book: &Book, targets: &[Target], workloads: &[String]) -> String {
    let mut text = goals::table(&goals::all(book, targets));
    text += &Report { book, targets, workloads }.tables();
    for (title, lines) in [("Remarks", book.remarks()), ("What failed", book.complaints())] {
        if !lines.is_empty() {
            text += &format!("\n### {title}\n\n- {}\n", lines.join("\n- "));
        }
    }
    text
}

fn head(options: &Options, programs: &Programs, book: &Book) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let pgbouncer = programs.pgbouncer.as_ref().map_or_else(
        || "no PgBouncer".to_owned(),
        |pgbouncer| format!("PgBouncer {}.{}", pgbouncer.version.0, pgbouncer.version.1),
    );
    let others = median(book.all(Figure::Others)).unwrap_or_default() * 100.0;
    let counter = programs.counter.as_ref().map_or("nothing", Counter::name);
    format!(
        "{cores} cores ({}), Linux {}; {pgbouncer}; medians of {} rounds of {} s each; in brackets ratios to PgBouncer, \
         paired inside each round. Other processes took {others:.0} % of the machine meanwhile. \
         System calls are counted by {counter}.\n",
        model.unwrap_or("unknown"),
        read("/proc/sys/kernel/osrelease").trim(),
        options.rounds,
        options.seconds,
    )
}
