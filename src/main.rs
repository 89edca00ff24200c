//! The process: arguments → configuration → log → run → exit code.

use std::fmt::Display;
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use pgmoor::app::SetLevel;
use pgmoor::cli::{self, Args, Command};
use pgmoor::config::{Config, Log, LogFormat, LogLevel};
use pgmoor::net::outbox;
use tokio::runtime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

/// The command did not succeed.
const FAILED: u8 = 1;
/// The arguments (clap's own exit code) or the configuration are wrong: trying again does not help.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run { config } => with_config(config, run),
        Command::Check { config } => with_config(config, check),
        Command::Status(args) => finish(&mut runtime::Builder::new_current_thread(), cli::status(&args)),
        Command::Drain(args) => finish(&mut runtime::Builder::new_current_thread(), cli::drain(&args)),
        Command::Switchover(args) => finish(&mut runtime::Builder::new_current_thread(), cli::switchover(&args)),
    }
}

fn with_config(path: PathBuf, then: impl FnOnce(PathBuf, Config) -> ExitCode) -> ExitCode {
    match Config::load(&path) {
        Ok(config) => then(path, config),
        Err(error) => failed(BAD_CONFIG, &error),
    }
}

fn run(path: PathBuf, config: Config) -> ExitCode {
    let set_level = start_log(&config.log);
    let mut builder = match config.limits.workers {
        // A worker by itself shares nothing: its scheduler needs no atomic operations, and nobody to steal from.
        1 => runtime::Builder::new_current_thread(),
        workers => {
            let mut builder = runtime::Builder::new_multi_thread();
            if workers > 0 {
                builder.worker_threads(workers);
            }
            builder
        }
    };
    if config.limits.io_uring {
        builder.on_thread_park(outbox::before_sleep);
    }
    finish(&mut builder, pgmoor::app::run(config, path, set_level))
}

#[expect(clippy::needless_pass_by_value, reason = "the same form as `run`, which keeps them")]
fn check(path: PathBuf, config: Config) -> ExitCode {
    match cli::print(&(cli::describe(&path, &config) + "\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(FAILED, &error),
    }
}

fn finish<E: Display>(builder: &mut runtime::Builder, work: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(FAILED, &error),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(FAILED, &error),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a process, whether or not its log has been started")]
fn failed(code: u8, why: &dyn Display) -> ExitCode {
    eprintln!("pgmoor: {why}");
    ExitCode::from(code)
}

/// Starts the log, which goes to stderr; what is returned changes its level.
fn start_log(log: &Log) -> SetLevel {
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let (level, handle) = reload::Layer::new(filter(log.level));
    tracing_subscriber::registry().with(level).with(lines).init();
    Box::new(move |level| {
        if let Err(error) = handle.reload(filter(level)) {
            tracing::error!(%error, "the log keeps its level");
        }
    })
}

/// Libraries speak up from `warn` on; only `trace` lets them say everything. The Kubernetes client shouts about every
/// request that fails: below `debug` our own watch says it, once.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Error => "error,kube_client=off,kube_runtime=off",
        LogLevel::Warn => "warn,kube_client=off,kube_runtime=off",
        LogLevel::Info => "warn,pgmoor=info,kube_client=off,kube_runtime=off",
        LogLevel::Debug => "warn,pgmoor=debug",
        LogLevel::Trace => "trace",
    })
}
