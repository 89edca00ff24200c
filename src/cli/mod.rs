//! The command line: what can be typed, and the commands that talk to a pgmoor that runs.

mod ask;
mod planned;
mod table;

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use planned::{DrainArgs, SwitchoverArgs, Whom, drain, switchover};

use crate::admin::Report;
use crate::config::{AuthMethod, Config};

/// From one look to the next of `pgmoor status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Puts the cursor home and wipes the screen (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// A PostgreSQL proxy for Kubernetes StatefulSets that keeps client sessions while pods move, drain and fail over.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What pgmoor can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say whether a configuration file is right. Exits with 0 if it is, with 2 if not.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show the clusters, pods and sessions of a pgmoor that runs.
    Status(StatusArgs),
    /// Have sessions leave a pod, each at its next boundary.
    ///
    /// The mark is in the pgmoor that is asked, or in all that are named; the pod's annotation (pgmoor.io/drain) marks it for
    /// every pgmoor. It ends when it is taken back, and when the pod is replaced.
    Drain(DrainArgs),
    /// Make another pod the primary: sessions wait between two transactions while Patroni hands over.
    ///
    /// With several pgmoors in front of one cluster, name all of them: the first asks Patroni, the others hold their sessions.
    Switchover(SwitchoverArgs),
}

/// How to show the status.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The admin address of the pgmoor to ask.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9187")]
    pub admin: String,
    /// Show it as JSON.
    #[arg(long)]
    pub json: bool,
    /// Go on showing it, every second.
    #[arg(long)]
    pub watch: bool,
}

/// Why a command did not succeed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// What `pgmoor check` says about a file that is right.
pub fn describe(path: &Path, config: &Config) -> String {
    let doors = [("rw", &config.listen.rw), ("ro", &config.listen.ro), ("admin", &config.listen.admin)];
    let doors: Vec<String> = doors
        .iter()
        .flat_map(|(name, addresses)| addresses.iter().map(move |address| format!("{name} on {address}")))
        .collect();
    let users = match (config.auth.method, config.auth.users.len()) {
        (AuthMethod::Trust, _) => "every user is trusted".to_owned(),
        (AuthMethod::Scram, count) => counted(count, "user"),
    };
    format!("{}: ok, {}, {users}, {}", path.display(), counted(config.clusters.len(), "cluster"), doors.join(", "))
}

/// Asks a running pgmoor for its status and prints it; with `watch` until it is interrupted.
///
/// # Errors
/// It could not be asked, what it said is no status, or there is nowhere to print it. With `watch`, a
/// pgmoor that cannot be asked is shown as such and asked again.
pub async fn status(args: &StatusArgs) -> Result<(), Failed> {
    loop {
        let picture = picture(args).await;
        if !args.watch {
            return print(&picture?);
        }
        let text = picture.unwrap_or_else(|failed| format!("{failed}\n"));
        print(&format!("{CLEAR}{text}"))?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn picture(args: &StatusArgs) -> Result<String, Failed> {
    let body =
        ask::get(&args.admin, "/status.json").await.map_err(|error| Failed(format!("{}: {error}", args.admin)))?;
    let report: Report = serde_json::from_str(&body)
        .map_err(|error| Failed(format!("{}: this is not a pgmoor of this version: {error}", args.admin)))?;
    if !args.json {
        return Ok(table::render(&report));
    }
    serde_json::to_string_pretty(&report).map(|text| text + "\n").map_err(|error| Failed(error.to_string()))
}

/// Prints to stdout. A reader that has gone away (`| head`) is an error like any other.
///
/// # Errors
/// stdout cannot be written to.
pub fn print(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failed(format!("stdout: {error}")))
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::orders::Answer;
    use crate::admin::{SessionCounts, Sources, serve};
    use crate::metrics::Metrics;
    use crate::shutdown::Shutdown;
    use axum::http::StatusCode;
    use clap::CommandFactory as _;
    use std::sync::Arc;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    #[test]
    fn the_arguments_fit_together() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(["pgmoor", "run", "--config", "x.toml"]).unwrap();
        assert!(matches!(args.command, Command::Run { config } if config == Path::new("x.toml")));
        let args = Args::try_parse_from(["pgmoor", "status", "--json"]).unwrap();
        assert!(matches!(args.command, Command::Status(it) if it.json && !it.watch && it.admin == "127.0.0.1:9187"));
        assert!(Args::try_parse_from(["pgmoor", "run"]).is_err());
        let args =
            Args::try_parse_from(["pgmoor", "drain", "pg-0", "--wait", "30s", "--admin", "a:1", "--admin", "b:2"])
                .unwrap();
        assert!(matches!(args.command, Command::Drain(it) if it.pod == "pg-0" && it.whom.admin == ["a:1", "b:2"]));
        let args = Args::try_parse_from(["pgmoor", "switchover", "--to", "pg-1"]).unwrap();
        assert!(
            matches!(args.command, Command::Switchover(it) if it.wait == "60s" && it.whom.admin == ["127.0.0.1:9187"])
        );
    }

    #[test]
    fn a_good_file_is_described() {
        let text = r#"
            listen.rw = ["127.0.0.1:5432", "[::1]:5432"]
            auth.method = "trust"
            [[cluster]]
            name = "orders"
            discovery.fixed = "h:1"
            probe.user = "p"
        "#;
        let config = Config::parse(text, "x.toml", &|_| None, &|_| Ok(String::new())).unwrap();
        assert_eq!(
            describe(Path::new("x.toml"), &config),
            "x.toml: ok, 1 cluster, every user is trusted, rw on 127.0.0.1:5432, rw on [::1]:5432, admin on 127.0.0.1:9187"
        );
    }

    #[tokio::test]
    async fn a_running_pgmoor_is_shown() {
        let (shutdown, watch) = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut args = StatusArgs { admin: listener.local_addr().unwrap().to_string(), json: false, watch: false };
        let sources = Sources {
            metrics: Arc::new(Metrics::new().unwrap()),
            tables: Vec::new(),
            sessions: Arc::new(SessionCounts::default),
            shutdown: watch,
            started: Instant::now(),
            obey: Arc::new(|_| Box::pin(async { Answer::new(StatusCode::NOT_FOUND, "none", "no pod pg-9") })),
            token: Arc::new(|| None),
        };
        let door = tokio::spawn(serve(listener, Arc::new(sources)));
        let text = picture(&args).await.unwrap();
        assert!(text.starts_with(concat!("pgmoor ", env!("CARGO_PKG_VERSION"), ", serving, ready")), "{text}");
        args.json = true;
        let json = picture(&args).await.unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap().phase, "serving");

        let whom = |admin: &str| Whom { admin: vec![admin.to_owned()], token_file: None, cluster: None };
        let order =
            DrainArgs { pod: "pg-9".to_owned(), wait: None, lasting: None, undo: false, whom: whom(&args.admin) };
        let failed = drain(&order).await.unwrap_err().to_string();
        assert_eq!(failed, format!("{}: no pod pg-9", args.admin));

        shutdown.finish(Duration::ZERO).await;
        door.await.unwrap().unwrap();
        let failed = picture(&args).await.unwrap_err().to_string();
        assert!(failed.starts_with(&format!("{}: cannot be asked", args.admin)), "{failed}");
    }
}
