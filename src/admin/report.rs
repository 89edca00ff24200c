//! The state of pgmoor at one moment, as one picture: what `/status.json` sends and `pgmoor status` reads.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterName, PodId};
use crate::metrics::SessionState;
use crate::shutdown::Phase;
use crate::topology::routing::{Primary, Role, Route, RoutingTable};

/// The sessions there are, by the pod they are on and by what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    by_place: BTreeMap<(ClusterName, Option<PodId>), BTreeMap<SessionState, u64>>,
}

impl SessionCounts {
    /// One session of this cluster; `pod` is `None` while it is on no backend.
    pub fn add(&mut self, cluster: &ClusterName, pod: Option<&PodId>, state: SessionState) {
        let place = (cluster.clone(), pod.cloned());
        *self.by_place.entry(place).or_default().entry(state).or_default() += 1;
    }

    fn on(&self, cluster: &ClusterName, pod: Option<&PodId>) -> u64 {
        let counts = self.by_place.get(&(cluster.clone(), pod.cloned()));
        counts.map_or(0, |counts| counts.values().sum())
    }

    fn by_state(&self) -> BTreeMap<String, u64> {
        let mut total: BTreeMap<String, u64> =
            SessionState::ALL.iter().map(|state| (state.as_str().to_owned(), 0)).collect();
        for (state, count) in self.by_place.values().flatten() {
            *total.entry(state.as_str().to_owned()).or_default() += count;
        }
        total
    }
}

/// The picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// pgmoor's own.
    pub version: String,
    /// `serving`, `draining` or `stopped`.
    pub phase: String,
    /// Since the start of the process.
    pub uptime_seconds: u64,
    /// Why new clients should not be sent here; empty: they should.
    pub not_ready: Vec<String>,
    /// Sessions of all clusters by what they do.
    pub sessions: BTreeMap<String, u64>,
    /// Sessions that wait for a pod.
    pub holds: u64,
    /// Sessions that are tied to their backend, by reason.
    pub pins: BTreeMap<String, u64>,
    /// In the order of the configuration.
    pub clusters: Vec<ClusterReport>,
}

/// One cluster in the picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// As configured.
    pub name: String,
    /// The number of the routing table; 0: there has been none yet.
    pub epoch: u64,
    /// The highest timeline proven on a primary; 0: none has been.
    pub timeline: u32,
    /// Where each ancestor of the primary's timeline was left; `None`: no primary, or its history could not be read.
    pub ancestors: Option<BTreeMap<u32, String>>,
    /// The watch is broken, and this is what was known last.
    pub stale: bool,
    /// Where writes go.
    pub writes: Writes,
    /// Sessions of this cluster that are on no pod.
    pub sessions_without_pod: u64,
    /// In the order of their names.
    pub pods: Vec<PodReport>,
}

/// Where writes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writes {
    /// To this pod, which is proven.
    To {
        /// Its stable name.
        pod: String,
    },
    /// Nowhere: they wait.
    Wait {
        /// `unnamed`, `unproven` or `contested`.
        why: String,
    },
}

/// One pod in the picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodReport {
    /// Its stable name.
    pub name: String,
    /// Its incarnation.
    pub uid: String,
    /// Where its PostgreSQL listens.
    pub address: Option<String>,
    /// `primary`, `replica`, `superseded` or `unknown`.
    pub role: String,
    /// Whether new sessions may read here.
    pub fit: bool,
    /// How far a replica is behind.
    pub lag_ms: Option<u64>,
    /// The LSN a replica has replayed.
    pub replayed: Option<String>,
    /// Sessions are leaving it.
    pub draining: bool,
    /// Kubernetes' Ready condition.
    pub ready: bool,
    /// Its availability zone.
    pub zone: Option<String>,
    /// The sessions on it.
    pub sessions: u64,
}

impl Report {
    /// Puts the picture together.
    pub fn new<'a>(
        phase: Phase,
        uptime: Duration,
        holds: u64,
        sessions: &SessionCounts,
        tables: impl IntoIterator<Item = &'a RoutingTable>,
    ) -> Self {
        let clusters: Vec<ClusterReport> =
            tables.into_iter().map(|table| ClusterReport::new(table, sessions)).collect();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: phase.as_str().to_owned(),
            uptime_seconds: uptime.as_secs(),
            not_ready: not_ready(phase, &clusters),
            sessions: sessions.by_state(),
            holds,
            pins: BTreeMap::new(),
            clusters,
        }
    }
}

/// A cluster without a primary is no reason: its sessions are held, which is what pgmoor is for, and readers are served.
fn not_ready(phase: Phase, clusters: &[ClusterReport]) -> Vec<String> {
    let phase = match phase {
        Phase::Serving => None,
        Phase::Draining | Phase::Stopped => Some(format!("pgmoor is {}", phase.as_str())),
    };
    let unseen = clusters
        .iter()
        .filter(|cluster| cluster.epoch == 0)
        .map(|cluster| format!("nothing is known yet about the cluster {}", cluster.name));
    phase.into_iter().chain(unseen).collect()
}

impl ClusterReport {
    fn new(table: &RoutingTable, sessions: &SessionCounts) -> Self {
        Self {
            name: table.cluster.to_string(),
            epoch: table.epoch.0,
            timeline: table.floor.0,
            ancestors: table
                .history
                .as_ref()
                .map(|history| history.ancestors().map(|(timeline, end)| (timeline.0, end.to_string())).collect()),
            stale: table.stale,
            writes: match &table.primary {
                Primary::Proven { pod, .. } => Writes::To { pod: pod.name.to_string() },
                Primary::Nobody(why) => Writes::Wait { why: why.as_str().to_owned() },
            },
            sessions_without_pod: sessions.on(&table.cluster, None),
            pods: table
                .pods
                .values()
                .map(|route| PodReport::new(route, sessions.on(&table.cluster, Some(&route.id))))
                .collect(),
        }
    }
}

impl PodReport {
    fn new(route: &Route, sessions: u64) -> Self {
        let (fit, lag, replayed) = match route.role {
            Role::Replica { fit, lag, replayed } => (fit, lag, replayed),
            Role::Primary | Role::Superseded | Role::Unknown => (false, None, None),
        };
        Self {
            name: route.id.name.to_string(),
            uid: route.id.uid.to_string(),
            address: route.address.map(|address| address.to_string()),
            role: route.role.as_str().to_owned(),
            fit,
            lag_ms: lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            replayed: replayed.map(|lsn| lsn.to_string()),
            draining: route.draining,
            ready: route.ready,
            zone: route.zone.as_ref().map(ToString::to_string),
            sessions,
        }
    }
}

impl PodReport {
    /// What is to be said about it besides its role, in words.
    pub fn state(&self) -> String {
        let mut words = vec![if self.ready { "ready" } else { "not ready" }];
        if self.draining {
            words.push("draining");
        }
        if self.role == "replica" && !self.fit {
            words.push("unfit");
        }
        words.join(", ")
    }

    /// How far it is behind, in words; `–` where that is not known or makes no sense.
    pub fn lag(&self) -> String {
        match self.lag_ms {
            None => "–".to_owned(),
            Some(lag) if lag < 1_000 => format!("{lag}ms"),
            Some(lag) => format!("{}.{}s", lag / 1_000, lag / 100 % 10),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::{Epoch, Lsn, Timeline};
    use crate::topology::history::History;
    use crate::topology::routing::Vacancy;

    /// A primary `pg-0`, and a replica `pg-1` that drains.
    pub(in crate::admin) fn table(epoch: u64) -> RoutingTable {
        let primary = PodId::new("pg-0", "a");
        let route = |name: &str, uid: &str, role, draining| Route {
            id: PodId::new(name, uid),
            address: "10.0.0.1:5432".parse().ok(),
            role,
            draining,
            ready: true,
            zone: Some("z<1>".into()),
        };
        let replica =
            Role::Replica { fit: true, lag: Some(Duration::from_millis(1500)), replayed: Some(Lsn(0x1_0000_00AB)) };
        RoutingTable {
            cluster: "orders".into(),
            epoch: Epoch(epoch),
            primary: Primary::Proven { pod: primary, timeline: Timeline(3) },
            pods: [
                ("pg-0".into(), route("pg-0", "a", Role::Primary, false)),
                ("pg-1".into(), route("pg-1", "b", replica, true)),
            ]
            .into(),
            floor: Timeline(3),
            stale: false,
            tenure: 2,
            history: History::parse(Timeline(3), "1\t0/A0\tx\n2\t1/B\tx\n").ok().map(Arc::new),
        }
    }

    #[test]
    fn sessions_stand_with_their_pod() {
        let table = table(1);
        let mut counts = SessionCounts::default();
        let pod = &table.pods[&"pg-1".into()].id;
        counts.add(&table.cluster, Some(pod), SessionState::Loose);
        counts.add(&table.cluster, Some(pod), SessionState::Attached);
        counts.add(&table.cluster, None, SessionState::Held);
        // Another incarnation, and another cluster's pod of the same name, are other places.
        counts.add(&table.cluster, Some(&PodId::new("pg-1", "old")), SessionState::Loose);
        counts.add(&"stock".into(), Some(pod), SessionState::Loose);

        let report = Report::new(Phase::Serving, Duration::from_secs(61), 1, &counts, [&table]);
        let cluster = &report.clusters[0];
        assert_eq!((cluster.pods[0].sessions, cluster.pods[1].sessions), (0, 2));
        assert_eq!(cluster.sessions_without_pod, 1);
        assert_eq!(report.sessions["loose"], 3);
        assert_eq!((report.sessions["held"], report.sessions["login"]), (1, 0));
        assert_eq!(cluster.writes, Writes::To { pod: "pg-0".to_owned() });
        assert_eq!((cluster.pods[1].lag_ms, cluster.pods[1].replayed.as_deref()), (Some(1500), Some("1/AB")));
        assert!(report.not_ready.is_empty());
        let ancestors = [(1, "0/A0".to_owned()), (2, "1/B".to_owned())].into();
        assert_eq!(cluster.ancestors, Some(ancestors));
    }

    #[test]
    fn says_why_it_is_not_ready() {
        let nobody = RoutingTable { primary: Primary::Nobody(Vacancy::Contested), ..table(0) };
        let counts = SessionCounts::default();
        let report = Report::new(Phase::Draining, Duration::ZERO, 0, &counts, [&nobody, &table(4)]);
        assert_eq!(report.not_ready, ["pgmoor is draining", "nothing is known yet about the cluster orders"]);
        assert_eq!(report.clusters[0].writes, Writes::Wait { why: "contested".to_owned() });
    }

    #[test]
    fn can_be_read_back() {
        let table = table(9);
        let report = Report::new(Phase::Serving, Duration::ZERO, 0, &SessionCounts::default(), [&table]);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
