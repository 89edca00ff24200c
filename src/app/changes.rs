//! What differs between two configurations, and how much of a newer one can hold without a restart.

use std::collections::BTreeSet;

use crate::config::{Cluster, Config, Continuity, Limits, Listen, Log, Replay, Routing};
use crate::ids::ClusterName;

type Differs<T> = fn(&T, &T) -> bool;

/// Every key outside of `[[cluster]]`; `tls` stands for the whole section.
const KEYS: &[(&str, Differs<Config>)] = &[
    ("listen.rw", |a, b| a.listen.rw != b.listen.rw),
    ("listen.ro", |a, b| a.listen.ro != b.listen.ro),
    ("listen.admin", |a, b| a.listen.admin != b.listen.admin),
    ("listen.admin_token_file", |a, b| a.listen.admin_token != b.listen.admin_token),
    ("tls", |a, b| a.tls != b.tls),
    ("auth.method", |a, b| a.auth.method != b.auth.method),
    ("auth.users_file", |a, b| a.auth.users != b.auth.users),
    ("limits.sessions", |a, b| a.limits.sessions != b.limits.sessions),
    ("limits.startup_sessions", |a, b| a.limits.startup_sessions != b.limits.startup_sessions),
    ("limits.login_timeout", |a, b| a.limits.login_timeout != b.limits.login_timeout),
    ("limits.message_size", |a, b| a.limits.message_size != b.limits.message_size),
    ("limits.session_state", |a, b| a.limits.session_state != b.limits.session_state),
    ("limits.workers", |a, b| a.limits.workers != b.limits.workers),
    ("limits.io_uring", |a, b| a.limits.io_uring != b.limits.io_uring),
    ("pool.mode", |a, b| a.pool.mode != b.pool.mode),
    ("pool.size", |a, b| a.pool.size != b.pool.size),
    ("pool.min", |a, b| a.pool.min != b.pool.min),
    ("pool.pod_size", |a, b| a.pool.pod_size != b.pool.pod_size),
    ("pool.idle", |a, b| a.pool.idle != b.pool.idle),
    ("pool.lifetime", |a, b| a.pool.lifetime != b.pool.lifetime),
    ("pool.statements", |a, b| a.pool.statements != b.pool.statements),
    ("continuity.hold", |a, b| a.continuity.hold != b.continuity.hold),
    ("continuity.held_sessions", |a, b| a.continuity.held_sessions != b.continuity.held_sessions),
    ("continuity.release_start", |a, b| a.continuity.release_start != b.continuity.release_start),
    ("continuity.release_max", |a, b| a.continuity.release_max != b.continuity.release_max),
    ("continuity.connect_timeout", |a, b| a.continuity.connect_timeout != b.continuity.connect_timeout),
    ("continuity.drain_deadline", |a, b| a.continuity.drain_deadline != b.continuity.drain_deadline),
    ("continuity.ask", |a, b| a.continuity.ask.is_some() != b.continuity.ask.is_some()),
    ("continuity.ask_timeout", |a, b| matches!((a.continuity.ask, b.continuity.ask), (Some(a), Some(b)) if a != b)),
    ("continuity.replay", |a, b| a.continuity.replay.is_some() != b.continuity.replay.is_some()),
    ("continuity.replay_size", |a, b| replays(a, b).is_some_and(|(a, b)| a.size != b.size)),
    ("continuity.replay_deadline", |a, b| replays(a, b).is_some_and(|(a, b)| a.deadline != b.deadline)),
    ("continuity.commit_guard", |a, b| a.continuity.commit_guard != b.continuity.commit_guard),
    ("routing.ro_falls_back", |a, b| a.routing.ro_falls_back != b.routing.ro_falls_back),
    ("routing.zone", |a, b| a.routing.zone != b.routing.zone),
    ("routing.lag_limit", |a, b| a.routing.lag_limit != b.routing.lag_limit),
    ("log.format", |a, b| a.log.format != b.log.format),
    ("log.level", |a, b| a.log.level != b.log.level),
];

/// Every key of one `[[cluster]]` but its name; a section stands for its keys.
const CLUSTER_KEYS: &[(&str, Differs<Cluster>)] = &[
    ("databases", |a, b| a.databases != b.databases),
    ("users", |a, b| a.users != b.users),
    ("lag_limit", |a, b| a.lag_limit != b.lag_limit),
    ("discovery", |a, b| a.discovery != b.discovery),
    ("probe", |a, b| a.probe != b.probe),
    ("tls", |a, b| a.tls != b.tls),
    ("patroni", |a, b| a.patroni != b.patroni),
];

fn replays<'a>(a: &'a Config, b: &'a Config) -> Option<(&'a Replay, &'a Replay)> {
    a.continuity.replay.as_ref().zip(b.continuity.replay.as_ref())
}

/// The keys whose values differ: `continuity.hold`, `cluster.orders.probe`; `cluster.orders` for one that came or went.
pub(super) fn between(old: &Config, new: &Config) -> Vec<String> {
    let mut keys: Vec<String> = differing(KEYS, old, new).map(str::to_owned).collect();
    for name in names(old).union(&names(new)) {
        match (old.cluster(name), new.cluster(name)) {
            (Some(old), Some(new)) => {
                keys.extend(differing(CLUSTER_KEYS, old, new).map(|key| format!("cluster.{name}.{key}")))
            }
            (Some(_), None) | (None, Some(_)) => keys.push(format!("cluster.{name}")),
            (None, None) => {}
        }
    }
    keys
}

/// What can hold from now on without a restart, where `old` holds and `new` is wanted: the old addresses, watches, places and
/// gates, and everything else new.
pub(super) fn taken_up(old: &Config, new: &Config) -> Config {
    Config {
        listen: Listen { admin_token: new.listen.admin_token.clone(), ..old.listen.clone() },
        tls: new.tls.clone(),
        auth: new.auth.clone(),
        limits: Limits {
            sessions: old.limits.sessions,
            startup_sessions: old.limits.startup_sessions,
            login_timeout: new.limits.login_timeout,
            message_size: new.limits.message_size,
            session_state: new.limits.session_state,
            workers: old.limits.workers,
            io_uring: old.limits.io_uring,
        },
        pool: new.pool.clone(),
        continuity: Continuity {
            hold: new.continuity.hold,
            held_sessions: old.continuity.held_sessions,
            release_start: old.continuity.release_start,
            release_max: old.continuity.release_max,
            connect_timeout: new.continuity.connect_timeout,
            drain_deadline: new.continuity.drain_deadline,
            ask: new.continuity.ask,
            replay: new.continuity.replay.clone(),
            commit_guard: new.continuity.commit_guard,
        },
        routing: Routing {
            ro_falls_back: new.routing.ro_falls_back,
            zone: new.routing.zone.clone(),
            lag_limit: old.routing.lag_limit,
        },
        log: Log { format: old.log.format, level: new.log.level },
        clusters: clusters(old, new),
    }
}

/// Every cluster that is watched, for the databases and users it is to be for. When clusters come or go, databases may
/// have moved to one that is not watched yet: then all stays as it was.
fn clusters(old: &Config, new: &Config) -> Vec<Cluster> {
    if names(old) != names(new) {
        return old.clusters.clone();
    }
    let admitting = |cluster: &Cluster| {
        let new = new.cluster(&cluster.name).unwrap_or(cluster);
        Cluster { databases: new.databases.clone(), users: new.users.clone(), ..cluster.clone() }
    };
    old.clusters.iter().map(admitting).collect()
}

fn names(config: &Config) -> BTreeSet<&ClusterName> {
    config.clusters.iter().map(|cluster| &cluster.name).collect()
}

fn differing<T>(keys: &[(&'static str, Differs<T>)], old: &T, new: &T) -> impl Iterator<Item = &'static str> {
    keys.iter().filter(|(_, differs)| differs(old, new)).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const CLUSTER: &str = "discovery.fixed = [\"10.0.0.1:5432\"]\nprobe = { user = \"p\" }\n";

    fn config(text: &str) -> Config {
        Config::parse(text, "pgmoor.toml", &|_| None, &|_| Ok(String::new())).unwrap()
    }

    fn one(sections: &str, cluster: &str) -> Config {
        let trust = if sections.contains("[auth]") { "" } else { "[auth]\nmethod = \"trust\"\n" };
        let listen = if sections.contains("[listen]") { "" } else { "[listen]\nrw = \"127.0.0.1:5432\"\n" };
        config(&format!("{listen}{trust}{sections}\n[[cluster]]\nname = \"orders\"\n{CLUSTER}{cluster}"))
    }

    #[test]
    fn every_key_is_compared() {
        let clusters: Vec<String> = CLUSTER_KEYS.iter().map(|(key, _)| format!("cluster.{key}")).collect();
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).chain(clusters.iter().map(String::as_str)).collect();
        for (key, _) in config::keys().filter(|(key, _)| key != "cluster.name") {
            let covers =
                |known: &&&str| key.strip_prefix(**known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            assert_eq!(known.iter().filter(covers).count(), 1, "{key}");
        }
    }

    /// Of a change: what is named as changed, and what of it waits for a restart.
    #[track_caller]
    fn check(new: &Config, now: &[&str], later: &[&str]) {
        let old = one("", "");
        let taken = taken_up(&old, new);
        assert_eq!(between(&old, &taken), now, "taken up");
        assert_eq!(between(&taken, new), later, "left for a restart");
    }

    #[test]
    fn what_sessions_begin_with_is_taken_up_and_what_stands_waits() {
        check(&one("", ""), &[], &[]);
        check(
            &one(
                "[limits]\nsessions = 7\nstartup_sessions = 7\nlogin_timeout = \"7s\"\nmessage_size = \"7MiB\"\nsession_state = \"7KiB\"\nworkers = 7\nio_uring = false",
                "",
            ),
            &["limits.login_timeout", "limits.message_size", "limits.session_state"],
            &["limits.sessions", "limits.startup_sessions", "limits.workers", "limits.io_uring"],
        );
        check(
            &one(
                "[continuity]\nhold = \"7s\"\nheld_sessions = 7\nrelease_start = 7\nrelease_max = 8\nconnect_timeout = \"7s\"\ndrain_deadline = \"7s\"\nask_timeout = \"7s\"\nreplay_size = \"7KiB\"\nreplay_deadline = \"7s\"\ncommit_guard = \"off\"",
                "",
            ),
            &[
                "continuity.hold",
                "continuity.connect_timeout",
                "continuity.drain_deadline",
                "continuity.ask_timeout",
                "continuity.replay_size",
                "continuity.replay_deadline",
                "continuity.commit_guard",
            ],
            &["continuity.held_sessions", "continuity.release_start", "continuity.release_max"],
        );
        check(
            &one(
                "[pool]\nmode = \"session\"\nsize = 7\nmin = 6\npod_size = 70\nidle = \"7s\"\nlifetime = \"7m\"\nstatements = 7",
                "",
            ),
            &["pool.mode", "pool.size", "pool.min", "pool.pod_size", "pool.idle", "pool.lifetime", "pool.statements"],
            &[],
        );
        check(&one("[continuity]\nask = false", ""), &["continuity.ask"], &[]);
        check(&one("[continuity]\nreplay = false", ""), &["continuity.replay"], &[]);
        check(
            &one("[routing]\nro_falls_back = false\nzone = \"z\"\nlag_limit = \"7s\"", ""),
            &["routing.ro_falls_back", "routing.zone"],
            &["routing.lag_limit", "cluster.orders.lag_limit"],
        );
        check(&one("[log]\nlevel = \"debug\"\nformat = \"json\"", ""), &["log.level"], &["log.format"]);
        let token = "[listen]\nrw = \"127.0.0.1:5432\"\nadmin_token_file = \"t\"";
        let with_token = Config::parse(
            &format!("{token}\n[auth]\nmethod = \"trust\"\n[[cluster]]\nname = \"orders\"\n{CLUSTER}"),
            "pgmoor.toml",
            &|_| None,
            &|_| Ok("moor".to_owned()),
        );
        check(&with_token.unwrap(), &["listen.admin_token_file"], &[]);
        check(&one("[tls]\nmode = \"prefer\"\ncert = \"c\"\nkey = \"k\"", ""), &["tls"], &[]);
        check(
            &one("[listen]\nrw = \"127.0.0.1:1\"\nro = \"127.0.0.1:2\"\nadmin = []", ""),
            &[],
            &["listen.rw", "listen.ro", "listen.admin"],
        );
    }

    #[test]
    fn a_cluster_opens_to_others_at_once_but_is_watched_as_before() {
        check(
            &one(
                "",
                "databases = [\"a\"]\nusers = [\"u\"]\nlag_limit = \"7s\"\ntls.mode = \"require\"\npatroni.port = 7",
            ),
            &["cluster.orders.databases", "cluster.orders.users"],
            &["cluster.orders.lag_limit", "cluster.orders.tls", "cluster.orders.patroni"],
        );
        // The databases that moved to the newcomer would be served by nobody.
        check(
            &one("", &format!("databases = [\"a\"]\n[[cluster]]\nname = \"more\"\ndatabases = [\"b\"]\n{CLUSTER}")),
            &[],
            &["cluster.more", "cluster.orders.databases"],
        );
    }
}
