//! What each operator writes on its pods and where it says who leads: the presets, as data.

use std::collections::BTreeMap;

use crate::config;
use crate::topology::evidence::RoleHint;

/// What one operator's pods and leader objects look like.
#[derive(Debug)]
pub(super) struct Preset {
    /// The keys of the role label, the one to be believed first.
    role_keys: &'static [&'static str],
    /// Values that say primary. Operators changed the word between versions, so it is always a set.
    primary: &'static [&'static str],
    /// Values that say replica. Every other value, and no label, says nothing.
    replica: &'static [&'static str],
    /// The keys of the label that names the scope the leader object is called after.
    scope_keys: &'static [&'static str],
    /// Where the leader is named.
    pub(super) leader: LeaderSource,
    /// Marks of pods that match a cluster-wide selector and are not a database.
    strangers: &'static [Mark],
    /// Marks of pods whose operator wants no readers on them.
    no_readers: &'static [Mark],
}

/// Where an operator's HA manager says who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaderSource {
    /// Nowhere.
    NotUsed,
    /// Patroni's annotations, on the ConfigMap `<scope>-leader` or on the Endpoints `<scope>`.
    Patroni,
    /// The status of CloudNativePG's Cluster `<scope>`.
    CloudNativePg,
}

/// A label that says something by its value or by being there.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Has(&'static str),
    Is(&'static str, &'static str),
}

impl Mark {
    fn on(self, labels: &Labels) -> bool {
        match self {
            Self::Has(key) => labels.contains_key(key),
            Self::Is(key, value) => labels.get(key).is_some_and(|found| found == value),
        }
    }
}

/// A pod's labels.
pub(super) type Labels = BTreeMap<String, String>;

/// Patroni: `master` until 3.x, `primary` since 4.0.
const PATRONI_PRIMARY: &[&str] = &["primary", "master"];
const PATRONI_REPLICA: &[&str] = &["replica", "standby_leader"];
/// StackGres shows Patroni's tags as labels; others may do the same.
const NO_LOAD_BALANCE: &[Mark] = &[Mark::Is("noloadbalance", "true")];
/// Pods of a Job (backup, restore, initdb) carry their operator's cluster labels too.
const JOB_KEYS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

static PATRONI: Preset = Preset {
    role_keys: &["role"],
    primary: PATRONI_PRIMARY,
    replica: PATRONI_REPLICA,
    scope_keys: &["cluster-name"],
    leader: LeaderSource::Patroni,
    strangers: &[],
    no_readers: NO_LOAD_BALANCE,
};

/// Spilo keeps `master` even on Patroni 4; a bare spilo without the operator calls the scope label `version`.
static ZALANDO: Preset = Preset {
    role_keys: &["spilo-role"],
    primary: PATRONI_PRIMARY,
    replica: PATRONI_REPLICA,
    scope_keys: &["cluster-name", "version"],
    leader: LeaderSource::Patroni,
    strangers: &[Mark::Is("application", "db-connection-pooler"), Mark::Has("connection-pooler")],
    no_readers: NO_LOAD_BALANCE,
};

/// `unhealthy` (since 1.28.3) says nothing about the role; the plain `role` label is the deprecated twin.
static CLOUDNATIVE_PG: Preset = Preset {
    role_keys: &["cnpg.io/instanceRole", "role"],
    primary: &["primary"],
    replica: &["replica"],
    scope_keys: &["cnpg.io/cluster"],
    leader: LeaderSource::CloudNativePg,
    strangers: &[Mark::Is("cnpg.io/podRole", "pooler"), Mark::Has("cnpg.io/poolerName"), Mark::Has("cnpg.io/jobRole")],
    no_readers: &[],
};

/// v5 and later by their long keys, v4 by its short ones. v5 pins `master`, Percona follows Patroni's own word.
static CRUNCHY: Preset = Preset {
    role_keys: &["postgres-operator.crunchydata.com/role", "role"],
    primary: PATRONI_PRIMARY,
    replica: PATRONI_REPLICA,
    scope_keys: &["postgres-operator.crunchydata.com/patroni", "crunchy-pgha-scope"],
    leader: LeaderSource::Patroni,
    strangers: &[
        Mark::Is("postgres-operator.crunchydata.com/role", "pgbouncer"),
        Mark::Is("postgres-operator.crunchydata.com/role", "pgadmin"),
        Mark::Is("postgres-operator.crunchydata.com/data", "pgbackrest"),
        Mark::Has("postgres-operator.crunchydata.com/pgbackrest-dedicated"),
        Mark::Has("postgres-operator.crunchydata.com/pgbackrest-backup"),
    ],
    no_readers: NO_LOAD_BALANCE,
};

static STACKGRES: Preset = Preset {
    role_keys: &["role"],
    primary: PATRONI_PRIMARY,
    replica: PATRONI_REPLICA,
    scope_keys: &["stackgres.io/cluster-scope", "stackgres.io/cluster-name"],
    leader: LeaderSource::Patroni,
    strangers: &[],
    no_readers: NO_LOAD_BALANCE,
};

/// The inner Patroni has a role label of its own, next to the operator's.
static KUBEBLOCKS: Preset = Preset {
    role_keys: &["kubeblocks.io/role", "apps.kubeblocks.postgres.patroni/role"],
    primary: PATRONI_PRIMARY,
    replica: &["secondary", "replica", "standby_leader"],
    scope_keys: &["apps.kubeblocks.postgres.patroni/scope", "workloads.kubeblocks.io/instance"],
    leader: LeaderSource::Patroni,
    strangers: &[],
    no_readers: NO_LOAD_BALANCE,
};

static NONE: Preset = Preset {
    role_keys: &[],
    primary: &[],
    replica: &[],
    scope_keys: &[],
    leader: LeaderSource::NotUsed,
    strangers: &[],
    no_readers: &[],
};

impl Preset {
    /// The table's line for a configured preset.
    pub(super) const fn of(preset: config::Preset) -> &'static Self {
        match preset {
            config::Preset::Patroni => &PATRONI,
            config::Preset::Zalando => &ZALANDO,
            config::Preset::CloudNativePg => &CLOUDNATIVE_PG,
            config::Preset::Crunchy | config::Preset::Percona => &CRUNCHY,
            config::Preset::StackGres => &STACKGRES,
            config::Preset::KubeBlocks => &KUBEBLOCKS,
            config::Preset::None => &NONE,
        }
    }

    /// What the role labels say. The first key present decides, even when its value says nothing:
    /// an older twin of the label is not fresher for being readable.
    pub(super) fn role(&self, labels: &Labels) -> RoleHint {
        match first(self.role_keys, labels) {
            Some(value) if self.primary.contains(&value) => RoleHint::Primary,
            Some(value) if self.replica.contains(&value) => RoleHint::Replica,
            Some(_) | None => RoleHint::Unknown,
        }
    }

    /// Whether a pod with these labels runs PostgreSQL for the cluster.
    pub(super) fn is_database(&self, labels: &Labels) -> bool {
        !JOB_KEYS.iter().any(|key| labels.contains_key(*key)) && !self.strangers.iter().any(|mark| mark.on(labels))
    }

    /// Whether the operator keeps readers away from a pod with these labels.
    pub(super) fn refuses_readers(&self, labels: &Labels) -> bool {
        self.no_readers.iter().any(|mark| mark.on(labels))
    }

    /// The scope that labels (a pod's, or a selector's) name.
    pub(super) fn scope<'a>(&self, labels: &'a Labels) -> Option<&'a str> {
        first(self.scope_keys, labels)
    }
}

fn first<'a>(keys: &[&str], labels: &'a Labels) -> Option<&'a str> {
    keys.iter().find_map(|key| labels.get(*key)).map(String::as_str)
}

/// The labels a selector demands by equality (`a=b`, `a==b`); set-based terms name no single value and are left out.
pub(super) fn demanded(selector: &str) -> Labels {
    selector
        .split(',')
        .filter_map(|term| term.split_once('='))
        .filter(|(key, _)| !key.ends_with('!'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()))
        .filter(|(key, value)| {
            !key.is_empty() && !value.is_empty() && !format!("{key}{value}").contains(['(', ')', ' '])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_selector_names_only_what_it_demands() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("application=patroni,cluster-name=orders", &[("application", "patroni"), ("cluster-name", "orders")]),
            (" a == b , c!=d ", &[("a", "b")]),
            ("env in (x,y=z),tier notin (w),!gone,here", &[]),
            ("a=", &[]),
            ("", &[]),
        ];
        for (selector, want) in table {
            assert_eq!(demanded(selector), labels(want), "{selector}");
        }
    }

    #[test]
    fn the_first_role_key_present_decides() {
        let cnpg = Preset::of(config::Preset::CloudNativePg);
        let both = labels(&[("cnpg.io/instanceRole", "unhealthy"), ("role", "primary")]);
        assert_eq!(cnpg.role(&both), RoleHint::Unknown);
        assert_eq!(cnpg.role(&labels(&[("role", "primary")])), RoleHint::Primary);
        assert_eq!(cnpg.role(&labels(&[])), RoleHint::Unknown);
    }

    #[test]
    fn both_words_for_a_primary_are_known_to_every_patroni() {
        for (preset, key) in [
            (config::Preset::Patroni, "role"),
            (config::Preset::Zalando, "spilo-role"),
            (config::Preset::Crunchy, "postgres-operator.crunchydata.com/role"),
            (config::Preset::Percona, "postgres-operator.crunchydata.com/role"),
            (config::Preset::StackGres, "role"),
            (config::Preset::KubeBlocks, "apps.kubeblocks.postgres.patroni/role"),
        ] {
            for (value, want) in [
                ("master", RoleHint::Primary),
                ("primary", RoleHint::Primary),
                ("replica", RoleHint::Replica),
                ("demoted", RoleHint::Unknown),
                ("", RoleHint::Unknown),
            ] {
                assert_eq!(Preset::of(preset).role(&labels(&[(key, value)])), want, "{preset:?} {value}");
            }
        }
    }
}
