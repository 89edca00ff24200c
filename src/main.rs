//! The process: arguments → configuration → log → run → exit code.

use std::fmt::Display;
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use pgmoor::cli::{self, Args, Command};
use pgmoor::config::{Config, Log, LogFormat, LogLevel};
use tokio::runtime;
use tracing_subscriber::EnvFilter;

/// The command did not succeed.
const FAILED: u8 = 1;
/// The arguments (clap's own exit code) or the configuration are wrong: trying again does not help.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Run { config } => with_config(config, run),
        Command::Check { config } => with_config(config, check),
        Command::Status(args) => finish(
            &mut runtime::Builder::new_current_thread(),
            cli::status(&args),
        ),
    }
}

fn with_config(path: PathBuf, then: impl FnOnce(PathBuf, Config) -> ExitCode) -> ExitCode {
    match Config::load(&path) {
        Ok(config) => then(path, config),
        Err(error) => failed(BAD_CONFIG, &error),
    }
}

fn run(path: PathBuf, config: Config) -> ExitCode {
    start_log(&config.log);
    finish(
        &mut runtime::Builder::new_multi_thread(),
        pgmoor::app::run(config, path),
    )
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the same form as `run`, which keeps them"
)]
fn check(path: PathBuf, config: Config) -> ExitCode {
    match cli::print(&(cli::describe(&path, &config) + "\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(FAILED, &error),
    }
}

fn finish<E: Display>(
    builder: &mut runtime::Builder,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(FAILED, &error),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(FAILED, &error),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a process, whether or not its log has been started"
)]
fn failed(code: u8, why: &dyn Display) -> ExitCode {
    eprintln!("pgmoor: {why}");
    ExitCode::from(code)
}

/// The log goes to stderr. Libraries speak up from `warn` on; only `trace` lets them say everything.
fn start_log(log: &Log) {
    let filter = EnvFilter::new(match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,pgmoor=info",
        LogLevel::Debug => "warn,pgmoor=debug",
        LogLevel::Trace => "trace",
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
