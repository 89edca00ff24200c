//! From a written `[[cluster]]` to what it means.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Routing;
use super::build::password;
use super::cluster::{Cluster, Databases, Discovery, FixedPod, Kubernetes, Patroni, Preset, Probe, ServerTls};
use super::complain::ConfigError;
use super::read::{Section, Value, Zero};
use crate::ids::{ClusterName, PodName};

/// Databases whose names are pgmoor's own: its console answers there.
const RESERVED: [&str; 2] = ["pgmoor", "pgbouncer"];

type Result<T> = std::result::Result<T, ConfigError>;

/// One cluster, by itself.
pub(super) fn cluster(section: &Section<'_>, routing: &Routing) -> Result<Cluster> {
    let name = ClusterName::new(section.value_of("name")?.word()?);
    let discovery = discovery(&section.section("discovery")?)?;
    let tls = server_tls(&section.section("tls")?, &discovery)?;
    let patroni = patroni(&section.section("patroni")?, &discovery)?;
    Ok(Cluster {
        name,
        databases: databases(section)?,
        users: users(section)?,
        lag_limit: match section.written("lag_limit") {
            Some(value) => value.duration(Zero::Allowed)?,
            None => routing.lag_limit,
        },
        discovery,
        probe: probe(&section.section("probe")?)?,
        tls,
        patroni,
    })
}

fn databases(section: &Section<'_>) -> Result<Databases> {
    let items = section.value_of("databases")?;
    let whole = section.value_of("databases")?;
    let mut names = BTreeSet::new();
    for item in items.list()? {
        let name = item.word()?;
        if RESERVED.contains(&name.as_str()) {
            return Err(item.wrong(format!("{name:?} is the name of pgmoor's own console")));
        }
        if !names.insert(name.clone()) {
            return Err(item.wrong(format!("{name:?} is given twice")));
        }
    }
    match (names.len(), names.contains("*")) {
        (0, _) => Err(whole.wrong("is empty; write the databases' names, or [\"*\"] for every one")),
        (1, true) => Ok(Databases::Every),
        (_, true) => Err(whole.wrong("\"*\" stands for every database; write it alone")),
        (_, false) => Ok(Databases::Named(names)),
    }
}

fn users(section: &Section<'_>) -> Result<Option<BTreeSet<String>>> {
    let Some(value) = section.written("users") else {
        return Ok(None);
    };
    let empty = value.wrong("is empty, so nobody could log in; write names, or leave it out for every user");
    let users: BTreeSet<String> = value.list()?.iter().map(Value::word).collect::<Result<_>>()?;
    if users.is_empty() {
        return Err(empty);
    }
    Ok(Some(users))
}

fn discovery(section: &Section<'_>) -> Result<Discovery> {
    let kubernetes = section.section("kubernetes")?;
    match (kubernetes.is_written(), section.written("fixed")) {
        (true, None) => Ok(Discovery::Kubernetes(in_kubernetes(&kubernetes)?)),
        (false, Some(list)) => Ok(Discovery::Fixed(fixed(list)?)),
        (true, Some(value)) => Err(value.wrong("stands beside discovery.kubernetes; leave one of them out")),
        (false, None) => Err(section
            .wrong("", "is missing; write discovery.kubernetes = { ... } or discovery.fixed = [\"10.0.0.1:5432\"]")),
    }
}

fn in_kubernetes(section: &Section<'_>) -> Result<Kubernetes> {
    let word = |name: &str| section.value_of(name)?.word();
    let optional = |name: &str| section.written(name).map(|value| value.word()).transpose();
    let presets = Preset::ALL.map(|preset| (preset.as_str(), preset));
    let preset = section.value_of("preset")?.choice(&presets)?;
    if let (Preset::None, Some(value)) = (preset, section.written("leader")) {
        return Err(value.wrong("is of no use with preset = \"none\", which has no leader object; leave it out"));
    }
    let port = section.value_of("port")?;
    Ok(Kubernetes {
        namespace: word("namespace")?,
        selector: word("selector")?,
        preset,
        kubeconfig: section.written("kubeconfig").map(|value| value.path()).transpose()?,
        context: optional("context")?,
        port: u16::try_from(port.count(1..=65535)?).map_err(|_| port.wrong("is not a port"))?,
        leader: optional("leader")?,
        drain_annotation: word("drain_annotation")?,
    })
}

fn fixed(list: Value<'_>) -> Result<Vec<FixedPod>> {
    let empty = list.wrong("is empty; write at least one \"10.0.0.1:5432\"");
    let mut pods: Vec<FixedPod> = Vec::new();
    for item in list.list()? {
        let text = item.word()?;
        let pod = fixed_pod(&text).map_err(|problem| item.wrong(problem))?;
        if pods.iter().any(|other| other.name == pod.name) {
            return Err(item.wrong(format!("{:?} is given twice; every pod has a name of its own", pod.name.as_str())));
        }
        pods.push(pod);
    }
    if pods.is_empty() {
        return Err(empty);
    }
    Ok(pods)
}

/// `name=host:port` or `host:port`; an IPv6 address stands in brackets.
fn fixed_pod(text: &str) -> std::result::Result<FixedPod, String> {
    let (name, address) = text.split_once('=').unwrap_or((text, text));
    let form = || format!("{text:?} is not an address; write it as \"10.0.0.1:5432\" or \"pg-0=10.0.0.1:5432\"");
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(format!("{text:?} has no port; write it as \"{text}:5432\""));
    };
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(form)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if name.is_empty() || host.is_empty() || (bare.is_none() && host.contains([':', '[', ']'])) {
        return Err(form());
    }
    Ok(FixedPod { name: PodName::new(name), host: bare.unwrap_or(host).to_owned(), port })
}

fn probe(section: &Section<'_>) -> Result<Probe> {
    Ok(Probe {
        user: section.value_of("user")?.word()?,
        password: password(section)?,
        database: section.value_of("database")?.word()?,
        interval: section.value_of("interval")?.duration(Zero::Refused)?,
        timeout: section.value_of("timeout")?.duration(Zero::Refused)?,
    })
}

/// Where Kubernetes runs Patroni, it is there without a word; a fixed list, or labels that say nothing, may be anybody's.
fn patroni(section: &Section<'_>, discovery: &Discovery) -> Result<Option<Patroni>> {
    let expected = match discovery {
        Discovery::Fixed(_) => false,
        Discovery::Kubernetes(kubernetes) if !kubernetes.preset.takes_switchovers() => {
            if section.is_written() {
                let preset = kubernetes.preset.as_str();
                let problem =
                    format!("is of no use with preset = {preset:?}: ask that operator itself for a switchover");
                return Err(section.wrong("", problem));
            }
            false
        }
        Discovery::Kubernetes(kubernetes) => kubernetes.preset != Preset::None,
    };
    if !expected && !section.is_written() {
        return Ok(None);
    }
    let user = section.written("user").map(|value| value.word()).transpose()?;
    let login = match (user, password(section)?) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => return Err(section.wrong("password", "is missing, and user is written")),
        (None, Some(_)) => return Err(section.wrong("user", "is missing, and a password is written")),
    };
    let port = section.value_of("port")?;
    let port = u16::try_from(port.count(1..=65535)?).map_err(|_| port.wrong("is not a port"))?;
    let ca = section.written("ca").map(|value| value.path()).transpose()?;
    Ok(Some(Patroni { port, login, ca }))
}

#[derive(Clone, Copy)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

fn server_tls(section: &Section<'_>, discovery: &Discovery) -> Result<ServerTls> {
    let mode = section.value_of("mode")?.choice(&[
        ("disable", Mode::Disable),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
        ("verify-ca", Mode::VerifyCa),
        ("verify-full", Mode::VerifyFull),
    ])?;
    let unused = |names: &[&str], modes: &str| match names.iter().find_map(|name| section.written(name)) {
        Some(value) => Err(value.wrong(format!("is of no use with this mode; write mode = {modes}, or leave it out"))),
        None => Ok(()),
    };
    let unverified = |mode| unused(&["ca", "dns"], "\"verify-full\"").map(|()| mode);
    match mode {
        Mode::Disable => unverified(ServerTls::Disable),
        Mode::Prefer => unverified(ServerTls::Prefer),
        Mode::Require => unverified(ServerTls::Require),
        Mode::VerifyCa => {
            unused(&["dns"], "\"verify-full\"")?;
            Ok(ServerTls::VerifyCa { ca: ca(section)? })
        }
        Mode::VerifyFull => Ok(ServerTls::VerifyFull { ca: ca(section)?, dns: dns(section, discovery)? }),
    }
}

fn ca(section: &Section<'_>) -> Result<PathBuf> {
    match section.written("ca") {
        Some(value) => value.path(),
        None => Err(section.wrong("ca", "is missing, and this mode needs it; write ca = \"ca.crt\"")),
    }
}

fn dns(section: &Section<'_>, discovery: &Discovery) -> Result<Option<String>> {
    match (section.written("dns"), discovery) {
        (Some(value), _) => {
            let dns = value.word()?;
            if dns.contains("{pod}") {
                Ok(Some(dns))
            } else {
                Err(value.wrong(format!("{dns:?} has no {{pod}} in it, so every pod would have the same name; write it as \"{{pod}}.pg.db.svc\"")))
            }
        }
        (None, Discovery::Fixed(_)) => Ok(None),
        (None, Discovery::Kubernetes(_)) => Err(section.wrong(
            "dns",
            "is missing: an address is not an identity; write the pod's stable DNS name, as in dns = \"{pod}.pg.db.svc\"",
        )),
    }
}
