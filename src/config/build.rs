//! From what was written to what it means: every section, and what must hold between keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::cluster::Databases;
use super::complain::ConfigError;
use super::read::{Section, Source, Value, Zero};
use super::{
    Auth, AuthMethod, ClientTls, CommitGuard, Config, Continuity, Limits, Listen, Log, LogFormat, LogLevel, Password,
    Pool, PoolMode, Replay, Routing, Secret, TlsFiles, Users, build_cluster,
};
use crate::ids::Zone;

type Result<T> = std::result::Result<T, ConfigError>;

/// More of anything is a slip of the pen.
const MANY: usize = 1_000_000;
/// PostgreSQL itself takes no message of more.
const LONGEST_MESSAGE: usize = 1 << 30;

/// The whole configuration.
pub(super) fn config(source: &Source<'_>, top: &Section<'_>) -> Result<Config> {
    let routing = routing(source, &top.section("routing")?)?;
    let config = Config {
        listen: listen(&top.section("listen")?)?,
        tls: client_tls(&top.section("tls")?)?,
        auth: auth(source, &top.section("auth")?)?,
        limits: limits(&top.section("limits")?)?,
        pool: pool(&top.section("pool")?)?,
        continuity: continuity(&top.section("continuity")?)?,
        log: log(&top.section("log")?)?,
        clusters: clusters(top, &routing)?,
        routing,
    };
    Ok(config)
}

fn listen(section: &Section<'_>) -> Result<Listen> {
    let mut taken = BTreeSet::new();
    let mut door = |value: Option<Value<'_>>, example: u16| -> Result<Vec<SocketAddr>> {
        let mut addresses = Vec::new();
        for value in value.map_or_else(|| Ok(Vec::new()), Value::list)? {
            let address = address(&value, example)?;
            if address.port() != 0 && !taken.insert(address) {
                return Err(value.wrong(format!("{address} is given twice; every address is one door")));
            }
            addresses.push(address);
        }
        Ok(addresses)
    };
    let listen = Listen {
        rw: door(section.written("rw"), 5432)?,
        ro: door(section.written("ro"), 5433)?,
        admin: door(Some(section.value_of("admin")?), 9187)?,
        admin_token: section.written("admin_token_file").map(|value| secret_in(&value)).transpose()?,
    };
    if listen.rw.is_empty() && listen.ro.is_empty() {
        return Err(section.wrong("", "neither rw nor ro has an address; write rw = \"0.0.0.0:5432\""));
    }
    Ok(listen)
}

fn address(value: &Value<'_>, example: u16) -> Result<SocketAddr> {
    let text = value.word()?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        let whole = SocketAddr::new(ip, example);
        return Err(value.wrong(format!("{text:?} has no port; write it as \"{whole}\"")));
    }
    Err(value.wrong(format!("{text:?} is not an IP address with a port; write it as \"0.0.0.0:{example}\"")))
}

#[derive(Clone, Copy)]
enum Mode {
    Off,
    Prefer,
    Require,
}

fn client_tls(section: &Section<'_>) -> Result<ClientTls> {
    let mode = section.value_of("mode")?.choice(&[
        ("off", Mode::Off),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
    ])?;
    match mode {
        Mode::Prefer => Ok(ClientTls::Prefer(tls_files(section)?)),
        Mode::Require => Ok(ClientTls::Require(tls_files(section)?)),
        Mode::Off => match ["cert", "key", "client_ca"].iter().find_map(|name| section.written(name)) {
            Some(unused) => Err(unused
                .wrong("is of no use with mode = \"off\"; write mode = \"prefer\" or \"require\", or leave it out")),
            None => Ok(ClientTls::Off),
        },
    }
}

fn tls_files(section: &Section<'_>) -> Result<TlsFiles> {
    let file = |name: &str, example: &str| match section.written(name) {
        Some(value) => value.path(),
        None => Err(section.wrong(name, format!("is missing, and this mode needs it; write {name} = {example:?}"))),
    };
    Ok(TlsFiles {
        cert: file("cert", "tls.crt")?,
        key: file("key", "tls.key")?,
        client_ca: section.written("client_ca").map(|value| value.path()).transpose()?,
    })
}

fn auth(source: &Source<'_>, section: &Section<'_>) -> Result<Auth> {
    let method = section.value_of("method")?;
    if method.text()? == "cert" {
        return Err(
            method.wrong("\"cert\" comes with a later version; write \"scram-sha-256\" with tls.client_ca for now")
        );
    }
    let method = method.choice(&[("scram-sha-256", AuthMethod::Scram), ("trust", AuthMethod::Trust)])?;
    let users = match (section.written("users_file"), method) {
        (Some(value), _) => {
            let (path, text) = value.file()?;
            Users::parse(&text, &path.display().to_string(), source.env, source.files)?
        }
        (None, AuthMethod::Trust) => Users::default(),
        (None, AuthMethod::Scram) => {
            return Err(section.wrong(
                "users_file",
                "is missing, and auth.method = \"scram-sha-256\" needs it; write users_file = \"users.toml\"",
            ));
        }
    };
    Ok(Auth { method, users })
}

/// The users file.
pub(super) fn users(source: &Source<'_>) -> Result<Users> {
    let tree = source.tree()?;
    let top = Section::top(*source, &tree)?;
    let mut users = BTreeMap::new();
    for section in top.sections("user")? {
        let name = section.value_of("name")?;
        let user = name.word()?;
        let secret = secret(&section)?;
        if users.insert(user.clone(), secret).is_some() {
            return Err(name.wrong(format!("{user:?} is given twice")));
        }
    }
    if users.is_empty() {
        return Err(top.wrong("user", "there is none; write a [[user]] section"));
    }
    Ok(Users(users))
}

fn secret(section: &Section<'_>) -> Result<Secret> {
    let password = password(section)?;
    match (section.written("secret"), password) {
        (Some(value), None) => match value.word()?.parse() {
            Ok(verifier) => Ok(Secret::Scram(verifier)),
            Err(problem) => Err(value.wrong(problem)),
        },
        (None, Some(password)) => Ok(Secret::Password(password)),
        (Some(value), Some(_)) => Err(value.wrong("stands beside a password; leave one of them out")),
        (None, None) => Err(section.wrong("", "has no secret; write password, password_file or secret")),
    }
}

/// `password` or `password_file`, where one is written.
pub(super) fn password(section: &Section<'_>) -> Result<Option<Password>> {
    match (section.written("password"), section.written("password_file")) {
        (Some(_), Some(file)) => Err(file.wrong("stands beside `password`; leave one of them out")),
        (Some(value), None) => Ok(Some(Password::new(value.word()?))),
        (None, Some(value)) => secret_in(&value).map(Some),
        (None, None) => Ok(None),
    }
}

/// What stands in the file this value names.
fn secret_in(value: &Value<'_>) -> Result<Password> {
    let (path, text) = value.file()?;
    // Editors end a file with a newline; no password ends with one.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(value.wrong(format!("{} is empty", path.display())));
    }
    Ok(Password::new(text))
}

fn limits(section: &Section<'_>) -> Result<Limits> {
    Ok(Limits {
        sessions: section.value_of("sessions")?.count(1..=MANY)?,
        startup_sessions: section.value_of("startup_sessions")?.count(1..=MANY)?,
        login_timeout: section.value_of("login_timeout")?.duration(Zero::Refused)?,
        message_size: section.value_of("message_size")?.size(64 << 10..=LONGEST_MESSAGE)?,
        session_state: section.value_of("session_state")?.size(4 << 10..=LONGEST_MESSAGE)?,
        workers: section.value_of("workers")?.count(0..=1024)?,
        io_uring: section.value_of("io_uring")?.flag()?,
    })
}

fn pool(section: &Section<'_>) -> Result<Pool> {
    let pool = Pool {
        mode: section
            .value_of("mode")?
            .choice(&[("transaction", PoolMode::Transaction), ("session", PoolMode::Session)])?,
        size: section.value_of("size")?.count(1..=MANY)?,
        min: section.value_of("min")?.count(0..=MANY)?,
        pod_size: section.value_of("pod_size")?.count(1..=MANY)?,
        idle: section.value_of("idle")?.duration(Zero::Refused)?,
        lifetime: section.value_of("lifetime")?.duration(Zero::Refused)?,
        statements: section.value_of("statements")?.count(1..=MANY)?,
    };
    if pool.min > pool.size {
        return Err(section
            .value_of("min")?
            .wrong(format!("{} is more than pool.size ({}), of which it is a part", pool.min, pool.size)));
    }
    Ok(pool)
}

fn continuity(section: &Section<'_>) -> Result<Continuity> {
    let release_start = section.value_of("release_start")?;
    let release_max = section.value_of("release_max")?.count(1..=MANY)?;
    let start = release_start.count(1..=MANY)?;
    if start > release_max {
        return Err(release_start.wrong(format!(
            "{start} is more than continuity.release_max ({release_max}); it is where the rise to release_max begins"
        )));
    }
    let ask_timeout = section.value_of("ask_timeout")?.duration(Zero::Refused)?;
    let replay = Replay {
        size: section.value_of("replay_size")?.size(4 << 10..=LONGEST_MESSAGE)?,
        deadline: section.value_of("replay_deadline")?.duration(Zero::Refused)?,
    };
    Ok(Continuity {
        hold: section.value_of("hold")?.duration(Zero::Allowed)?,
        held_sessions: section.value_of("held_sessions")?.count(0..=MANY)?,
        release_start: start,
        release_max,
        connect_timeout: section.value_of("connect_timeout")?.duration(Zero::Refused)?,
        drain_deadline: section.value_of("drain_deadline")?.duration(Zero::Allowed)?,
        ask: section.value_of("ask")?.flag()?.then_some(ask_timeout),
        replay: section.value_of("replay")?.flag()?.then_some(replay),
        commit_guard: section.value_of("commit_guard")?.choice(&[
            ("off", CommitGuard::Off),
            ("pipelined", CommitGuard::Pipelined),
            ("on", CommitGuard::On),
            ("autocommit", CommitGuard::Autocommit),
        ])?,
    })
}

fn routing(source: &Source<'_>, section: &Section<'_>) -> Result<Routing> {
    let zone = match section.written("zone") {
        Some(value) => Some(value.text()?),
        None => (source.env)("ZONE"),
    };
    Ok(Routing {
        ro_falls_back: section.value_of("ro_falls_back")?.flag()?,
        zone: zone.filter(|zone| !zone.is_empty()).map(Zone::new),
        lag_limit: section.value_of("lag_limit")?.duration(Zero::Allowed)?,
    })
}

fn log(section: &Section<'_>) -> Result<Log> {
    Ok(Log {
        format: section.value_of("format")?.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
        level: section.value_of("level")?.choice(&[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ])?,
    })
}

fn clusters(top: &Section<'_>, routing: &Routing) -> Result<Vec<super::Cluster>> {
    let mut clusters: Vec<super::Cluster> = Vec::new();
    for section in top.sections("cluster")? {
        let cluster = build_cluster::cluster(&section, routing)?;
        for other in &clusters {
            if other.name == cluster.name {
                let problem = format!("{:?} is given twice", cluster.name.as_str());
                return Err(section.value_of("name")?.wrong(problem));
            }
            if let Some(shared) = shared(&other.databases, &cluster.databases) {
                return Err(section.value_of("databases")?.wrong(format!(
                    "{shared:?} is served by the cluster {:?} already; name the databases of each",
                    other.name.as_str()
                )));
            }
        }
        clusters.push(cluster);
    }
    if clusters.is_empty() {
        return Err(top.wrong("cluster", "there is none; write a [[cluster]] section"));
    }
    Ok(clusters)
}

fn shared<'a>(one: &'a Databases, other: &'a Databases) -> Option<&'a str> {
    match (one, other) {
        (Databases::Every, Databases::Every) => Some("*"),
        (Databases::Named(one), Databases::Named(other)) => one.intersection(other).next().map(String::as_str),
        (Databases::Every, Databases::Named(_)) | (Databases::Named(_), Databases::Every) => None,
    }
}
