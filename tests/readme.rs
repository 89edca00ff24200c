//! The README is held to what it tells about: its tables against the code, its configuration, commands and links against the project.
//!
//! A table that has changed is written anew with `UPDATE=1 cargo test --test readme`.
#![allow(clippy::unwrap_used, reason = "a test's own helpers fail by panicking, as its body does")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::CommandFactory as _;
use pgmoor::cli::Args;
use pgmoor::config::{Config, Endpoint, Users};
use pgmoor::continuity::pins::Pin;
use pgmoor::error::{Code, Retry};
use pgmoor::ids::{Epoch, PodId, Timeline};
use pgmoor::metrics::{Direction, JoinStep, Metrics, Reload, SessionState};
use pgmoor::net::pipe;
use pgmoor::topology::routing::{Primary, Role, Route, RoutingTable, Vacancy};

/// With `UPDATE` some tests write the file while others read it.
static README: Mutex<()> = Mutex::new(());

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    let _alone = alone();
    fs::read_to_string(root().join("README.md")).unwrap()
}

fn alone() -> MutexGuard<'static, ()> {
    README.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the text between `<!-- NAME -->` and `<!-- end -->` against `wanted`; with `UPDATE` set it becomes that.
fn hold(name: &str, wanted: &str) {
    let _alone = alone();
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let (begin, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
    let from = text.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin:?}")) + begin.len();
    let to = from + text[from..].find(end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(root().join("README.md"), [&text[..from], wanted, &text[to..]].concat()).unwrap();
        return;
    }
    assert_eq!(
        &text[from..to],
        wanted,
        "README.md, table {name:?}: write it anew with UPDATE=1 cargo test --test readme"
    );
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    let body: String = rows.into_iter().map(|row| line(&row)).collect();
    line(&head) + &rule + &body
}

#[test]
fn the_error_catalogue() {
    let again = |retry| match retry {
        Retry::Helps => "yes",
        Retry::AfterLooking => "after looking",
        Retry::Useless => "no",
    };
    let mut entries: Vec<_> = Code::ALL.into_iter().map(Code::entry).collect();
    entries.sort_by_key(|entry| (entry.sqlstate, entry.label));
    let rows = entries.iter().map(|entry| {
        let hint = entry.hint.replace('|', "\\|");
        vec![
            format!("`{}`", entry.sqlstate),
            entry.severity.as_str().to_owned(),
            entry.text.to_owned(),
            hint,
            again(entry.retry).to_owned(),
            format!("`{}`", entry.label),
        ]
    });
    hold(
        "errors",
        &table(&["SQLSTATE", "severity", "message, after `pgmoor: `", "hint", "retry helps", "label in metrics"], rows),
    );
}

#[test]
fn the_pins() {
    let rows = Pin::ALL.into_iter().map(|pin| vec![format!("`{}`", pin.as_str()), pin.describe().to_owned()]);
    hold("pins", &table(&["pin", "what it is, and how to get rid of it"], rows));
}

/// Metrics with at least one series in every family.
fn busy() -> Metrics {
    let metrics = Metrics::new().unwrap();
    drop(metrics.session(Endpoint::Rw, SessionState::Login));
    metrics.connected(Endpoint::Rw);
    metrics.switched("draining", "kept");
    drop(metrics.hold());
    metrics.joined(JoinStep::Login, Duration::ZERO);
    metrics.bytes(Direction::ToClient, 1);
    metrics.error(Code::HoldExpired);
    metrics.probed(&"orders".into(), "answered");
    metrics.cancelled("forwarded");
    metrics.pinned("temp_object");
    metrics.fenced();
    drop(metrics.listener(&"orders".into()));
    metrics.auth_failed();
    metrics.reloaded(Reload::Ok);
    metrics.replayed("replayed", "ok");
    metrics.commit_settled("committed");
    metrics.switchover(&"orders".into(), "switched");
    metrics.drain_marks(&"orders".into(), 0);
    metrics.backends(&"orders".into(), &"pg-0".into(), 1, 1, 0);
    let id = PodId::new("pg-0", "uid");
    let route = Route { id: id.clone(), address: None, role: Role::Primary, draining: false, ready: true, zone: None };
    metrics.observe_table(&RoutingTable {
        cluster: "orders".into(),
        epoch: Epoch(1),
        primary: Primary::Nobody(Vacancy::Unnamed),
        pods: [(id.name.clone(), route)].into(),
        floor: Timeline(1),
        stale: false,
        history: None,
        tenure: 0,
    });
    metrics
}

/// One family of the text format.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

/// What Prometheus is shown, by name.
fn families() -> BTreeMap<String, Family> {
    let text = busy().render().unwrap();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut now = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            now = name.to_owned();
            families.entry(now.clone()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            families.entry(now.clone()).or_default().labels.extend(names.filter(|name| name != "le"));
        }
    }
    families
}

#[test]
fn the_metrics() {
    let rows = families().into_iter().map(|(name, family)| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        vec![format!("`{name}`"), family.kind, labels.join(", "), family.help]
    });
    hold("metrics", &table(&["metric", "kind", "labels", "what"], rows));
}

#[test]
fn no_metric_is_left_out() {
    let source = fs::read_to_string(root().join("src/metrics.rs")).unwrap();
    let shown = families();
    let dense: String = source.chars().filter(|c| !c.is_whitespace()).collect();
    let mut found = 0;
    for rest in dense.split("(r,\"").skip(1) {
        let name = format!("pgmoor_{}", rest.split('"').next().unwrap());
        assert!(shown.contains_key(&name), "{name} is registered, and the table of the README would not show it");
        found += 1;
    }
    assert_eq!(found, shown.len(), "every metric is registered as this test expects it");
}

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("```{language}\n");
    text.match_indices(&fence).map(|(at, _)| text[at + fence.len()..].split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configurations_are_right() {
    let blocks = blocks("toml");
    assert!(!blocks.is_empty(), "the README shows no configuration");
    let users = blocks.iter().find(|block| block.starts_with("[[user]]")).expect("the README shows no users file");
    let files = |path: &Path| match path.file_name().and_then(|name| name.to_str()) {
        Some("users.toml") => Ok(users.clone()),
        Some(_) => Ok("secret\n".to_owned()),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let env = |_: &str| Some("value".to_owned());
    for block in &blocks {
        let outcome = match block.starts_with("[[user]]") {
            true => Users::parse(block, "users.toml", &env, &files).map(drop),
            false => Config::parse(block, "pgmoor.toml", &env, &files).map(drop),
        };
        assert!(outcome.is_ok(), "{block}\n{}", outcome.unwrap_err());
    }
}

/// The default configuration.
fn defaults() -> Config {
    let text = "listen.rw = \"127.0.0.1:1\"\nauth.method = \"trust\"\n[[cluster]]\nname = \"c\"\ndiscovery.fixed = \"h:1\"\nprobe.user = \"p\"\n";
    Config::parse(text, "pgmoor.toml", &|_| None, &|_| Err(io::ErrorKind::NotFound.into())).unwrap()
}

#[test]
fn the_figures_of_the_limits() {
    let text = readme();
    let Config { limits, continuity, .. } = defaults();
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    let figures = [
        format!("two buffers of {} KiB ({} KiB", pipe::BUFFER / 1024, pipe::LARGE / 1024),
        format!("`sessions` × ({} KiB", 2 * pipe::LARGE / 1024),
        format!("`limits.session_state` ({} MiB;", limits.session_state / (1024 * 1024)),
        format!("Sessions ({})", limits.sessions),
        format!("not logged in ({}, {} each)", limits.startup_sessions, seconds(limits.login_timeout)),
        format!("sessions that wait ({})", continuity.held_sessions),
        format!("`continuity.hold` ({})", seconds(continuity.hold)),
        format!("`continuity.drain_deadline` ({})", seconds(continuity.drain_deadline)),
    ];
    for figure in figures {
        assert!(text.contains(&figure), "the README does not say: {figure}");
    }
}

/// The lines of the README's shell blocks that begin with this word.
fn commands(program: &str) -> Vec<Vec<String>> {
    let lines = blocks("sh").join("\n");
    let words = lines
        .lines()
        .map(|line| line.split('#').next().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    words.filter(|words| words.first().is_some_and(|first| first.rsplit('/').next() == Some(program))).collect()
}

#[test]
fn the_commands_exist() {
    let pgmoor = commands("pgmoor");
    assert!(!pgmoor.is_empty(), "the README shows no command of pgmoor");
    for words in pgmoor {
        let parsed = Args::command().try_get_matches_from(&words);
        let good = parsed.as_ref().map_or_else(|error| error.exit_code() == 0, |_| true);
        assert!(good, "{words:?}: {}", parsed.unwrap_err());
    }
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let made = commands("make");
    assert!(!made.is_empty(), "the README shows no make target");
    for words in made {
        assert!(
            makefile.lines().any(|line| line.starts_with(&format!("{}:", words[1]))),
            "the Makefile has no {:?}",
            words[1]
        );
    }
    for words in commands("cargo").iter().filter(|words| words[1] == "test") {
        let Some(suite) = words.iter().position(|word| word == "--test").map(|at| &words[at + 1]) else { continue };
        let there = [format!("tests/{suite}.rs"), format!("tests/{suite}/main.rs")]
            .iter()
            .any(|path| root().join(path).exists());
        assert!(there, "there is no suite {suite:?}");
    }
}

#[test]
fn the_links_lead_somewhere() {
    let text = readme();
    let headings: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect();
    let mut found = 0;
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().unwrap();
        if target.starts_with("https://") {
            continue;
        }
        match target.strip_prefix('#') {
            Some(heading) => assert!(headings.contains(heading), "no heading for #{heading}"),
            None => assert!(root().join(target).exists(), "{target} does not exist"),
        }
        found += 1;
    }
    assert!(found > 0, "the README has no links");
}

/// A heading's anchor, as Markdown viewers make it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}
