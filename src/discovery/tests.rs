//! Objects as the operators write them (`tests/discovery/*.json`), and what is made of them.

use kube::api::DynamicObject;
use serde::Deserialize;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch as latest};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::past::{Lack, Past, Untold};
use super::picture::{Picture, Remark, Source};
use super::preset::{LeaderSource, Preset};
use super::probe::{Answer, Asker};
use super::sighting::{Reading, Sight};
use super::watch::{Trouble, Word};
use super::{PodTls, Shell};
use crate::config;
use crate::ids::{ClusterName, Lsn, PodId, PodName, SystemId, Timeline};
use crate::metrics::Metrics;
use crate::topology::evidence::{Event, LeaderSighting, PodSighting, ProbeReport, RoleHint};
use crate::topology::history::History;
use crate::topology::routing::Primary;
use crate::topology::{Settings, Topology};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Objects {
    pods: Vec<DynamicObject>,
    config_maps: Vec<DynamicObject>,
    endpoints: Vec<DynamicObject>,
    clusters: Vec<DynamicObject>,
}

fn objects(preset: config::Preset) -> Objects {
    let text = match preset {
        config::Preset::Patroni => include_str!("../../tests/discovery/patroni.json"),
        config::Preset::Zalando => include_str!("../../tests/discovery/zalando.json"),
        config::Preset::CloudNativePg => include_str!("../../tests/discovery/cloudnative-pg.json"),
        config::Preset::Crunchy => include_str!("../../tests/discovery/crunchy.json"),
        config::Preset::Percona => include_str!("../../tests/discovery/percona.json"),
        config::Preset::StackGres => include_str!("../../tests/discovery/stackgres.json"),
        config::Preset::KubeBlocks => include_str!("../../tests/discovery/kubeblocks.json"),
        config::Preset::None => include_str!("../../tests/discovery/none.json"),
    };
    serde_json::from_str(text).unwrap()
}

fn reading(preset: config::Preset) -> Reading {
    Reading { preset: Preset::of(preset), port: 5432, drain_annotation: "pgmoor.io/drain".to_owned() }
}

fn named<'a>(objects: &'a Objects, name: &str) -> &'a DynamicObject {
    let found = objects.pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("no pod {name}"))
}

/// A sighting in one line: label, address, then what is set of ready, leaving and the zone.
fn line(sight: &Sight) -> String {
    let Sight::Database(pod) = sight else {
        return match sight {
            Sight::Ended(_) => "ended".to_owned(),
            Sight::Stranger => "stranger".to_owned(),
            Sight::Odd(why) => format!("odd: {why}"),
            Sight::Database(_) => unreachable!(),
        };
    };
    let mut line = format!("{:?}", pod.label).to_lowercase();
    line += &pod.address.map_or_else(|| " nowhere".to_owned(), |address| format!(" {address}"));
    for (is, word) in [(pod.ready, " ready"), (pod.leaving, " leaving")] {
        if is {
            line += word;
        }
    }
    if let Some(zone) = &pod.zone {
        line += &format!(" {zone}");
    }
    line
}

#[test]
fn pods_of_every_operator() {
    use config::Preset::{CloudNativePg, Crunchy, KubeBlocks, None, Patroni, Percona, StackGres, Zalando};
    let table = [
        // A crashed primary keeps its label; its kubelet says not ready.
        (Patroni, "orders-0", "primary 10.42.1.17:5432 eu-1a"),
        (Patroni, "orders-1", "primary 10.42.2.9:5432 ready"),
        (Patroni, "orders-2", "replica 10.42.3.30:5432"),
        (Patroni, "orders-3", "replica 10.42.3.31:5432 ready leaving"),
        (Patroni, "orders-4", "replica [fd00:42::31]:5432 ready leaving"),
        (Patroni, "orders-5", "unknown nowhere"),
        (Patroni, "orders-6", "unknown 10.42.3.33:5432"),
        (Patroni, "orders-backup-29387520-x2lqp", "stranger"),
        (Zalando, "acid-orders-0", "primary 10.2.4.5:5432 ready"),
        (Zalando, "acid-orders-1", "replica 10.2.5.8:5432 ready"),
        (Zalando, "acid-orders-2", "unknown 10.2.5.9:5432"),
        (Zalando, "acid-orders-pooler-7d9f7c8b5-l2x9d", "stranger"),
        (CloudNativePg, "orders-2", "primary 10.9.0.12:5432 ready eu-1b"),
        (CloudNativePg, "orders-4", "replica 10.9.0.14:5432 ready"),
        (CloudNativePg, "orders-5", "unknown 10.9.0.15:5432"),
        (CloudNativePg, "orders-6-join-hx4kq", "stranger"),
        (CloudNativePg, "orders-pooler-rw-5c7d9c-8m2lk", "stranger"),
        (Crunchy, "hippo-00-8qkl-0", "primary 10.6.1.5:5432 ready"),
        (Crunchy, "hippo-00-zx7v-0", "replica 10.6.2.5:5432 ready"),
        (Crunchy, "hippo-repo-host-0", "stranger"),
        (Crunchy, "hippo-backup-jz6k-7tq4m", "stranger"),
        (Crunchy, "hippo-pgbouncer-6f8b4d9c7-k9w2p", "stranger"),
        (Percona, "cluster1-instance1-4kcw-0", "replica 10.7.1.5:5432 ready"),
        (Percona, "cluster1-instance1-vx2m-0", "primary 10.7.2.5:5432 ready"),
        (Percona, "cluster1-instance1-w88t-0", "ended"),
        (StackGres, "orders-0", "primary 10.8.1.5:5432 ready"),
        (StackGres, "orders-1", "replica 10.8.2.5:5432 ready"),
        (StackGres, "orders-2", "replica 10.8.2.6:5432"),
        (KubeBlocks, "orders-postgresql-0", "replica 10.3.1.5:5432 ready"),
        (KubeBlocks, "orders-postgresql-1", "primary 10.3.2.5:5432 ready"),
        (KubeBlocks, "orders-postgresql-2", "replica 10.3.3.5:5432 ready"),
        // Without a preset a label is somebody else's business.
        (None, "pg-0", "unknown 10.5.1.5:5432 ready"),
        (None, "pg-1", "unknown 10.5.1.6:5432 ready"),
    ];
    let mut seen = 0;
    for (preset, name, want) in table {
        let objects = objects(preset);
        assert_eq!(line(&reading(preset).pod(named(&objects, name))), want, "{preset:?} {name}");
        seen += 1;
    }
    let written: usize = config::Preset::ALL.iter().map(|preset| objects(*preset).pods.len()).sum();
    assert_eq!(seen, written, "every pod of the files stands in the table");
}

/// Feeds a whole file as the first lists do; returns the events.
fn first_lists(preset: config::Preset) -> (Picture, Vec<Event>) {
    let objects = objects(preset);
    let mut picture = Picture::new(reading(preset));
    let mut words = vec![(Source::Pods, objects.pods)];
    match Preset::of(preset).leader {
        LeaderSource::NotUsed => {}
        LeaderSource::Patroni => {
            words.push((Source::Endpoints, objects.endpoints));
            words.push((Source::ConfigMap, objects.config_maps));
        }
        LeaderSource::CloudNativePg => words.push((Source::Cluster, objects.clusters)),
    }
    let hear = |(source, objects)| picture.hear(source, Word::Listed(objects)).0;
    let events = words.into_iter().flat_map(hear).collect();
    (picture, events)
}

#[test]
fn leaders_and_scopes_of_every_operator() {
    use config::Preset::{CloudNativePg, Crunchy, KubeBlocks, None, Patroni, Percona, StackGres, Zalando};
    let names = |name: &str| LeaderSighting::Names(PodName::new(name));
    for (preset, scope, leader) in [
        (Patroni, Some("orders"), names("orders-1")),
        (Zalando, Some("acid-orders"), names("acid-orders-0")),
        (CloudNativePg, Some("orders"), names("orders-2")),
        (Crunchy, Some("hippo-ha"), names("hippo-00-8qkl-0")),
        (Percona, Some("cluster1-ha"), names("cluster1-instance1-vx2m-0")),
        (StackGres, Some("orders"), LeaderSighting::Nobody),
        (KubeBlocks, Some("orders-postgresql"), names("orders-postgresql-1")),
        (None, Option::None, LeaderSighting::NotUsed),
    ] {
        let (picture, events) = first_lists(preset);
        let found = picture.scope(&objects(preset).pods);
        assert_eq!(found, Ok(scope.map(str::to_owned)), "{preset:?}");
        assert!(matches!(events[0], Event::Relisted(_)), "{preset:?}");
        assert_eq!(events[1..], [Event::LeaderSeen(leader)], "{preset:?}: said once, when all is known");
    }
}

#[test]
fn a_selector_over_two_clusters_has_no_scope() {
    let mut objects = objects(config::Preset::Patroni);
    let other = objects.pods[1].metadata.labels.as_mut().unwrap();
    other.insert("cluster-name".to_owned(), "invoices".to_owned());
    let picture = Picture::new(reading(config::Preset::Patroni));
    assert!(picture.scope(&objects.pods).is_err());
    assert_eq!(picture.scope(&[]), Ok(None));
}

#[test]
fn cloudnative_pg_has_no_primary_while_it_changes() {
    let changed = |current: &str, target: &str| {
        let mut cluster = objects(config::Preset::CloudNativePg).clusters.remove(0);
        cluster.data["status"]["currentPrimary"] = current.into();
        cluster.data["status"]["targetPrimary"] = target.into();
        cluster
    };
    let (mut picture, _) = first_lists(config::Preset::CloudNativePg);
    for (current, target, want) in [
        ("orders-2", "orders-4", Some(LeaderSighting::Nobody)),
        ("orders-2", "pending", None),
        ("orders-4", "orders-4", Some(LeaderSighting::Names(PodName::new("orders-4")))),
        ("pending", "pending", Some(LeaderSighting::Nobody)),
        ("", "", None),
    ] {
        let word = Word::Changed(Box::new(changed(current, target)));
        let (events, _) = picture.hear(Source::Cluster, word);
        let want: Vec<_> = want.into_iter().map(Event::LeaderSeen).collect();
        assert_eq!(events, want, "{current} {target}");
    }
}

#[test]
fn pods_come_change_and_go_by_their_uid() {
    let mut objects = objects(config::Preset::Patroni);
    let (mut picture, _) = first_lists(config::Preset::Patroni);
    let mut pod = objects.pods.swap_remove(1);
    let id = PodId::new("orders-1", pod.metadata.uid.as_deref().unwrap());
    let mut hear = |word| picture.hear(Source::Pods, word);

    let (events, _) = hear(Word::Changed(Box::new(pod.clone())));
    assert!(matches!(&events[..], [Event::PodSeen(PodSighting { id: seen, .. })] if *seen == id));
    pod.data["status"]["phase"] = "Failed".into();
    assert_eq!(hear(Word::Changed(Box::new(pod.clone()))).0, [Event::PodGone(id.clone())]);
    assert_eq!(hear(Word::Gone(Box::new(pod.clone()))).0, [Event::PodGone(id)]);

    pod.metadata.uid = None;
    let (events, remarks) = hear(Word::Changed(Box::new(pod.clone())));
    assert_eq!((events, remarks), (vec![], vec![Remark::Odd("no name or uid")]));
    assert_eq!(hear(Word::Gone(Box::new(pod))).0, []);
}

#[test]
fn strange_objects_are_unknown_not_fatal() {
    let odd = [
        r#"{}"#,
        r#"{"metadata": {"name": "a", "uid": ""}}"#,
        r#"{"metadata": {"name": "a", "uid": "u"}, "status": []}"#,
        r#"{"metadata": {"name": "a", "uid": "u"}, "status": {"podIP": 7, "conditions": {"a": 1}, "phase": null}}"#,
        r#"{"metadata": {"name": "a", "uid": "u", "annotations": {"status": "[1"}}, "status": {"podIP": "not an address"}}"#,
    ];
    for (text, known) in odd.iter().zip([false, false, true, true, true]) {
        let object: DynamicObject = serde_json::from_str(text).unwrap();
        let sight = reading(config::Preset::Patroni).pod(&object);
        match sight {
            Sight::Database(pod) => {
                assert!(known, "{text}");
                assert_eq!((pod.address, pod.label, pod.ready), (None, RoleHint::Unknown, false), "{text}");
            }
            Sight::Odd(_) => assert!(!known, "{text}"),
            Sight::Ended(_) | Sight::Stranger => panic!("{text}"),
        }
    }
}

fn broken() -> Word {
    Word::Lost(Trouble::Broken("gone".to_owned()))
}

fn denied() -> Word {
    Word::Lost(Trouble::Denied("forbidden".to_owned()))
}

#[test]
fn lost_until_every_watch_works_again() {
    let (mut picture, _) = first_lists(config::Preset::Patroni);
    let mut hear = |source, word| picture.hear(source, word).0;
    assert_eq!(hear(Source::Pods, broken()), [Event::WatchLost]);
    assert_eq!(hear(Source::ConfigMap, broken()), []);
    assert_eq!(hear(Source::Pods, Word::Works), []);
    assert_eq!(hear(Source::ConfigMap, Word::Works), [Event::WatchRestored]);
    // What could be read before and is denied now is lost: it is the lock in use, for all we know.
    assert_eq!(hear(Source::ConfigMap, denied()), [Event::WatchLost]);
}

#[test]
fn one_lock_object_may_be_forbidden() {
    let objects = objects(config::Preset::Patroni);
    let mut picture = Picture::new(reading(config::Preset::Patroni));
    let mut hear = |source, word| picture.hear(source, word).0;
    assert_eq!(hear(Source::Endpoints, denied()), [Event::WatchLost]);
    let leader = LeaderSighting::Names(PodName::new("orders-1"));
    assert_eq!(
        hear(Source::ConfigMap, Word::Listed(objects.config_maps)),
        [Event::LeaderSeen(leader), Event::WatchRestored]
    );
    assert_eq!(hear(Source::ConfigMap, broken()), [Event::WatchLost]);
}

#[test]
fn no_leader_object_may_be_read() {
    let mut picture = Picture::new(reading(config::Preset::Patroni));
    let mut hear = |source, word| picture.hear(source, word).0;
    assert_eq!(hear(Source::Endpoints, denied()), [Event::WatchLost]);
    assert_eq!(hear(Source::ConfigMap, denied()), [], "nobody is named, and that is not known either");
}

/// A shell that has seen one pod. Nothing comes of the questions it sends: no test here lets them run.
fn shell(pod: &PodId) -> Shell {
    let cluster = config::Cluster {
        name: ClusterName::new("c"),
        databases: config::Databases::Every,
        users: None,
        discovery: config::Discovery::Fixed(Vec::new()),
        patroni: None,
        probe: config::Probe {
            user: "pgmoor".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        },
        lag_limit: Duration::from_secs(10),
        tls: config::ServerTls::Disable,
    };
    let topology = Topology::new(cluster.name.clone(), Settings::default(), Instant::now().into_std());
    let mut shell = Shell {
        tables: latest::Sender::new(Arc::clone(topology.table())),
        topology,
        asker: Arc::new(Asker::new(&cluster.probe)),
        tls: PodTls::new(&cluster).unwrap(),
        metrics: Arc::new(Metrics::new().unwrap()),
        doubts: Arc::new(Notify::new()),
        kept: BTreeMap::new(),
        asking: JoinSet::new(),
        failing: BTreeMap::new(),
        untold: Untold::default(),
    };
    shell.handle(Event::LeaderSeen(LeaderSighting::Names(pod.name.clone())));
    let label = RoleHint::Primary;
    shell.handle(Event::PodSeen(PodSighting {
        id: pod.clone(),
        address: Some(([127, 0, 0, 1], 1).into()),
        label,
        ready: true,
        leaving: false,
        zone: None,
    }));
    shell
}

fn primary_on(timeline: u32, past: Past) -> Answer {
    let report = ProbeReport {
        in_recovery: false,
        system_id: SystemId(7),
        timeline: Some(Timeline(timeline)),
        lsn: None,
        lag: None,
        asked_at: Instant::now().into_std(),
    };
    Answer { outcome: Ok(report), why: None, past, kept: None }
}

/// A session decides by the first table that names the new primary, so there must be none without what was told.
#[tokio::test]
async fn a_history_is_in_the_table_that_proves_its_primary() {
    let pod = PodId::new("pg-0", "a");
    let mut shell = shell(&pod);
    let told = |timeline, file| Past::Told(History::parse(Timeline(timeline), file).unwrap());

    let before = shell.topology.table().epoch.0;
    shell.answered(pod.clone(), primary_on(6, told(6, "5\t0/A0\tx\n")));
    let table = Arc::clone(&shell.tables.borrow());
    assert_eq!(table.epoch.0, before + 1, "one table, not one with and one without");
    assert_eq!(table.primary, Primary::Proven { pod: pod.clone(), timeline: Timeline(6) });
    assert_eq!(table.history.as_ref().and_then(|history| history.ended(Timeline(5))), Some(Lsn(0xA0)));

    // Untold, the proof comes without, and the rest later.
    shell.answered(pod.clone(), primary_on(7, Past::Untold(Timeline(7), Lack::Grant)));
    let table = Arc::clone(&shell.tables.borrow());
    assert_eq!(table.primary, Primary::Proven { pod: pod.clone(), timeline: Timeline(7) });
    assert_eq!((table.epoch.0, &table.history), (before + 2, &None));
    assert_eq!(shell.untold.hushed(&pod, Instant::now()), Some(Timeline(7)));
    shell.answered(pod.clone(), primary_on(7, told(7, "6\t0/B0\tx\n")));
    let table = Arc::clone(&shell.tables.borrow());
    assert_eq!(table.history.as_ref().and_then(|history| history.ended(Timeline(6))), Some(Lsn(0xB0)));
    assert_eq!(shell.topology.told_by(&pod), Some(Timeline(7)));
    assert_eq!(shell.untold.hushed(&pod, Instant::now()), None);
}
