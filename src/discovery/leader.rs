//! Who the HA manager's leader objects name: Patroni's annotations on either of two objects, CloudNativePG's Cluster status.
//!
//! Patroni keeps its lock on a ConfigMap or on an Endpoints object, and an operator's upgrade can flip one to the other
//! (Zalando's 2.0 does). Then both objects may be there: one in use, one left over. Rules, first that applies:
//!
//! 1. An object without any of Patroni's lock annotations is no claim (the Service's own Endpoints in ConfigMap mode).
//! 2. Both agree: that pod.
//! 3. One was renewed more than a lock's life (`ttl`) after the other: the other is left over. What the live one says holds,
//!    also when it names nobody: its lock was released, and an old name elsewhere is not a successor.
//! 4. Otherwise, if one names nobody: the one that names.
//! 5. Two live locks with different holders are two halves of a split cluster: nobody, and writes wait. It resolves itself
//!    by rule 3 one `ttl` after either lock is given up.
//!
//! Times of two objects are only compared with each other, never with our clock. A claim without a time cannot be
//! dated: then the ConfigMap goes first.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::ids::PodName;
use crate::topology::evidence::LeaderSighting;

/// A lock's life where its object does not say: Patroni's default `ttl`.
const TTL: Duration = Duration::from_secs(30);

/// What one of Patroni's lock objects says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    holder: Option<PodName>,
    renewed: Option<Timestamp>,
    ttl: Duration,
}

impl Claim {
    /// Reads the annotations of a ConfigMap or Endpoints; `None` when it is not a lock object.
    pub(super) fn read(object: &DynamicObject) -> Option<Self> {
        let notes = object.metadata.annotations.as_ref()?;
        if !["leader", "renewTime", "acquireTime"].iter().any(|key| notes.contains_key(*key)) {
            return None;
        }
        Some(Self {
            holder: name(notes.get("leader").map(String::as_str)),
            renewed: time(notes, "renewTime").max(time(notes, "acquireTime")),
            ttl: notes.get("ttl").and_then(|text| text.parse().ok()).map_or(TTL, Duration::from_secs),
        })
    }

    fn outlived(&self, other: &Self) -> bool {
        let (Some(mine), Some(theirs)) = (self.renewed, other.renewed) else {
            return false;
        };
        mine.duration_since(theirs) > k8s_openapi::jiff::SignedDuration::try_from(other.ttl).unwrap_or_default()
    }

    fn dated(&self) -> bool {
        self.renewed.is_some()
    }
}

/// The verdict over the ConfigMap's and the Endpoints' claim.
pub(super) fn patroni(config_map: Option<&Claim>, endpoints: Option<&Claim>) -> LeaderSighting {
    let holder = match (config_map, endpoints) {
        (None, None) => None,
        (Some(only), None) | (None, Some(only)) => only.holder.as_ref(),
        (Some(first), Some(second)) if first.holder == second.holder => first.holder.as_ref(),
        (Some(live), Some(old)) if live.outlived(old) => live.holder.as_ref(),
        (Some(old), Some(live)) if live.outlived(old) => live.holder.as_ref(),
        (Some(first), Some(second)) => match (&first.holder, &second.holder) {
            (Some(_), Some(_)) if first.dated() && second.dated() => None,
            (Some(named), _) | (None, Some(named)) => Some(named),
            (None, None) => None,
        },
    };
    sighting(holder.cloned())
}

/// The verdict of a CloudNativePG Cluster. While current and target differ a switchover or failover is under way and
/// no pod is to be written to; `pending` is the operator's mark for a failover whose target is not chosen yet.
pub(super) fn cloudnative_pg(cluster: Option<&DynamicObject>) -> LeaderSighting {
    let status = |key: &str| {
        cluster
            .and_then(|object| object.data.get("status")?.get(key).and_then(Value::as_str))
            .filter(|text| !text.is_empty())
    };
    match (status("currentPrimary"), status("targetPrimary")) {
        (Some(current), Some(target)) if current == target && current != "pending" => {
            LeaderSighting::Names(PodName::new(current))
        }
        (Some(_) | None, Some(_) | None) => LeaderSighting::Nobody,
    }
}

fn sighting(holder: Option<PodName>) -> LeaderSighting {
    holder.map_or(LeaderSighting::Nobody, LeaderSighting::Names)
}

/// Patroni clears a released lock; some versions of its clients leave the word `None` or nothing instead.
fn name(text: Option<&str>) -> Option<PodName> {
    text.map(str::trim).filter(|text| !matches!(*text, "" | "None" | "null")).map(PodName::new)
}

fn time(notes: &BTreeMap<String, String>, key: &str) -> Option<Timestamp> {
    notes.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(holder: Option<&str>, second: Option<u32>) -> Claim {
        Claim {
            holder: holder.map(PodName::new),
            renewed: second.map(|s| Timestamp::from_second(1_790_000_000 + i64::from(s)).unwrap()),
            ttl: TTL,
        }
    }

    #[test]
    fn two_lock_objects() {
        let nobody = || LeaderSighting::Nobody;
        let names = |name: &str| LeaderSighting::Names(PodName::new(name));
        let table = [
            ("agree", claim(Some("a"), Some(0)), claim(Some("a"), Some(900)), names("a")),
            ("endpoints left over", claim(Some("a"), Some(31)), claim(Some("b"), Some(0)), names("a")),
            ("config map left over", claim(Some("a"), Some(0)), claim(Some("b"), Some(31)), names("b")),
            ("two live locks", claim(Some("a"), Some(30)), claim(Some("b"), Some(0)), nobody()),
            ("released, with a left-over", claim(None, Some(90)), claim(Some("b"), Some(0)), nobody()),
            ("released just now, successor elsewhere", claim(None, Some(0)), claim(Some("b"), Some(5)), names("b")),
            ("no times: the config map", claim(Some("a"), None), claim(Some("b"), None), names("a")),
            ("no times, config map empty", claim(None, None), claim(Some("b"), None), names("b")),
            ("one undated", claim(Some("a"), None), claim(Some("b"), Some(5)), names("a")),
        ];
        for (what, config_map, endpoints, want) in table {
            assert_eq!(patroni(Some(&config_map), Some(&endpoints)), want, "{what}");
        }
        assert_eq!(patroni(None, None), nobody());
        assert_eq!(patroni(None, Some(&claim(Some("b"), None))), names("b"));
    }

    #[test]
    fn a_released_lock_names_nobody() {
        for text in [None, Some(""), Some("None"), Some(" ")] {
            assert_eq!(name(text), None, "{text:?}");
        }
        assert_eq!(name(Some("pg-0")), Some(PodName::new("pg-0")));
    }
}
