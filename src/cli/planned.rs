//! `pgmoor drain` and `pgmoor switchover`: orders to running pgmoors, and what they answered.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ask::{self, AskError};
use super::{Failed, print};
use crate::admin::Report;
use crate::admin::orders::{LONGEST, Told};
use crate::admin::report::{ClusterReport, Writes};
use crate::config;

/// What the answer may take beyond the wait that was asked for.
const MARGIN: Duration = Duration::from_secs(10);
/// `pgmoor switchover` without `--wait`.
const SWITCHOVER: &str = "60s";

/// Whom to order, and with which right.
#[derive(Debug, clap::Args)]
pub struct Whom {
    /// The admin address of a pgmoor; several, where several pgmoors serve the same cluster.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9187")]
    pub admin: Vec<String>,
    /// The file with the secret of its listen.admin_token_file.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The cluster, where several have a pod of this name.
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

/// How to drain a pod.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The pod.
    pub pod: String,
    /// Wait this long until its sessions have left (30s, 5m); exits with 1 if some have not.
    #[arg(long, value_name = "TIME")]
    pub wait: Option<String>,
    /// The mark ends by itself after this.
    #[arg(long = "for", value_name = "TIME")]
    pub lasting: Option<String>,
    /// Take the mark back.
    #[arg(long)]
    pub undo: bool,
    /// Whom to order.
    #[command(flatten)]
    pub whom: Whom,
}

/// How to switch over.
#[derive(Debug, clap::Args)]
pub struct SwitchoverArgs {
    /// The next primary; else Patroni chooses.
    #[arg(long, value_name = "POD")]
    pub to: Option<String>,
    /// For all of it.
    #[arg(long, value_name = "TIME", default_value = SWITCHOVER)]
    pub wait: String,
    /// Whom to order.
    #[command(flatten)]
    pub whom: Whom,
}

/// Orders every pgmoor named to drain a pod.
///
/// # Errors
/// One of them did not, or could not be asked.
pub async fn drain(args: &DrainArgs) -> Result<(), Failed> {
    let token = token(args.whom.token_file.as_deref())?;
    let wait = args.wait.as_deref().map(|wait| duration("--wait", wait)).transpose()?;
    let mut query = Query::new("/drain");
    query.add("pod", Some(&args.pod)).add("cluster", args.whom.cluster.as_deref());
    query.add("wait", args.wait.as_deref()).add("for", args.lasting.as_deref());
    query.add("undo", args.undo.then_some("true"));
    let patience = wait.unwrap_or_default() + MARGIN;
    let asked = args.whom.admin.iter().map(|admin| order(admin, &query.0, token.as_deref(), patience));
    let mut failures = Vec::new();
    for (admin, outcome) in args.whom.admin.iter().zip(futures::future::join_all(asked).await) {
        match outcome {
            Ok(told) if args.whom.admin.len() > 1 => print(&format!("{admin}: {}\n", told.message))?,
            Ok(told) => print(&format!("{}\n", told.message))?,
            Err(failed) => failures.push(failed.to_string()),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failed(failures.join("\n"))) }
}

/// Orders a switchover of the first pgmoor named; the others hold their sessions meanwhile.
///
/// # Errors
/// It did not come about, or could not be asked for.
pub async fn switchover(args: &SwitchoverArgs) -> Result<(), Failed> {
    let Whom { admin, token_file, cluster } = &args.whom;
    let token = token(token_file.as_deref())?;
    let wait = duration("--wait", &args.wait)?;
    let Some((first, others)) = admin.split_first() else {
        return Err(Failed("no admin address is given".to_owned()));
    };
    let mut query = Query::new("/switchover");
    query.add("cluster", cluster.as_deref()).add("to", args.to.as_deref()).add("wait", Some(&args.wait));
    if others.is_empty() {
        let told = order(first, &query.0, token.as_deref(), wait + MARGIN).await?;
        return print(&format!("{}\n", told.message));
    }
    let (cluster, primary) = primary(first, cluster.as_deref()).await?;
    query.add("from", Some(&primary));
    // Should we be gone before the end, their marks end without us.
    let mark = |undo: bool| {
        let mut query = Query::new("/drain");
        query.add("pod", Some(&primary)).add("cluster", Some(&cluster));
        let lasting = format!("{}ms", (wait + MARGIN).as_millis().min(LONGEST.as_millis()));
        // The half of it, as for the sessions of the first.
        let patience = format!("{}ms", (wait / 2).min(MARGIN).as_millis());
        match undo {
            true => query.add("undo", Some("true")),
            false => query.add("for", Some(&lasting)).add("wait", Some(&patience)),
        };
        query.0
    };
    let (set, unset) = (mark(false), mark(true));
    let all = async |path: &str| {
        let asked = others.iter().map(|admin| order(admin, path, token.as_deref(), wait + MARGIN));
        futures::future::join_all(asked).await
    };
    let marked = all(&set).await;
    let switched = order(first, &query.0, token.as_deref(), wait + MARGIN).await;
    // A pod that is gone, or was not marked, needs no undoing.
    drop(all(&unset).await);
    for (admin, outcome) in others.iter().zip(&marked) {
        match outcome {
            Ok(told) => print(&format!("{admin}: {}\n", told.message))?,
            Err(failed) => print(&format!("{failed}\n"))?,
        }
    }
    print(&format!("{}\n", switched?.message))
}

/// Asks for the cluster that is meant, and its primary.
async fn primary(admin: &str, cluster: Option<&str>) -> Result<(String, String), Failed> {
    let body = ask::get(admin, "/status.json").await.map_err(|error| Failed(format!("{admin}: {error}")))?;
    let report: Report = serde_json::from_str(&body)
        .map_err(|error| Failed(format!("{admin}: this is not a pgmoor of this version: {error}")))?;
    let meant: Vec<&ClusterReport> =
        report.clusters.iter().filter(|known| cluster.is_none_or(|name| known.name == name)).collect();
    match meant.as_slice() {
        [ClusterReport { name, writes: Writes::To { pod }, .. }] => Ok((name.clone(), pod.clone())),
        [ClusterReport { name, writes: Writes::Wait { why }, .. }] => {
            Err(Failed(format!("{admin}: no primary of {name} is proven ({why}): there is nobody to switch from")))
        }
        [] => Err(Failed(format!("{admin}: there is no cluster {}", cluster.unwrap_or_default()))),
        [_, ..] => Err(Failed(format!("{admin}: there are several clusters; name one with --cluster"))),
    }
}

async fn order(admin: &str, path: &str, token: Option<&str>, patience: Duration) -> Result<Told, Failed> {
    let told = |body: &str| serde_json::from_str::<Told>(body).ok().filter(|told| !told.message.is_empty());
    match ask::post(admin, path, token, patience).await {
        Ok(body) => told(&body).ok_or_else(|| Failed(format!("{admin}: this is not a pgmoor of this version: {body}"))),
        Err(AskError::Refused { status, body }) => {
            let message = told(&body).map_or_else(|| format!("answered {status}: {body}"), |told| told.message);
            Err(Failed(format!("{admin}: {message}")))
        }
        Err(error) => Err(Failed(format!("{admin}: {error}"))),
    }
}

fn token(file: Option<&Path>) -> Result<Option<String>, Failed> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|error| Failed(format!("{}: {error}", file.display())))?;
    let token = text.trim_end_matches(['\r', '\n']);
    if token.is_empty() || token.contains(|letter: char| letter.is_control()) {
        return Err(Failed(format!("{}: this is not a token: one line that is not empty", file.display())));
    }
    Ok(Some(token.to_owned()))
}

fn duration(flag: &str, text: &str) -> Result<Duration, Failed> {
    config::duration(text).map_err(|problem| Failed(format!("{flag}: {problem}")))
}

/// A path with a query.
struct Query(String);

impl Query {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    fn add(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            for byte in value.bytes() {
                match byte {
                    // RFC 3986, 2.3: what stands for itself.
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        self.0.push(char::from(byte))
                    }
                    _ => self.0.push_str(&format!("%{byte:02X}")),
                }
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_carries_any_name() {
        let mut query = Query::new("/drain");
        query.add("pod", Some("10.0.0.1:5432")).add("cluster", None).add("wait", Some("30s")).add("x", Some("ä&=?"));
        assert_eq!(query.0, "/drain?pod=10.0.0.1%3A5432&wait=30s&x=%C3%A4%26%3D%3F");
    }

    #[test]
    fn a_token_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        for (text, wanted) in
            [("moor\n", Some("moor")), ("moor", Some("moor")), ("", None), ("\n", None), ("a\r\nX: b", None)]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(token(Some(&file)).ok().flatten().as_deref(), wanted, "{text:?}");
        }
        assert_eq!(token(None).unwrap(), None);
        assert!(token(Some(&folder.path().join("none"))).is_err());
    }
}
