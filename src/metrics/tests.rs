//! What is counted comes out as it went in.

use super::*;
use crate::ids::{Epoch, PodId, Timeline};
use crate::topology::routing::{Primary, Role, Route, Vacancy};

/// The value of one line of the text format.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render().unwrap();
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn table(pods: &[(&str, Role)]) -> RoutingTable {
    let route = |name: &str, role| Route {
        id: PodId::new(name, "uid"),
        address: None,
        role,
        draining: false,
        ready: true,
        zone: None,
    };
    RoutingTable {
        cluster: "orders".into(),
        epoch: Epoch(7),
        primary: Primary::Nobody(Vacancy::Unnamed),
        pods: pods.iter().map(|(name, role)| ((*name).into(), route(name, *role))).collect(),
        floor: Timeline(3),
        stale: true,
        history: None,
        tenure: 0,
    }
}

#[test]
fn every_state_and_endpoint_is_the_index_of_what_counts_it() {
    for (at, endpoint) in Endpoint::ALL.into_iter().enumerate() {
        assert_eq!(endpoint as usize, at, "{endpoint:?}");
    }
    for (at, state) in SessionState::ALL.into_iter().enumerate() {
        assert_eq!(state as usize, at, "{state:?}");
    }
}

#[test]
fn a_session_is_in_one_state_until_it_ends() {
    let metrics = Metrics::new().unwrap();
    let mut session = metrics.session(Endpoint::Rw, SessionState::Login);
    assert_eq!(value(&metrics, r#"pgmoor_sessions{endpoint="rw",state="login"}"#), Some(1.0));
    session.becomes(SessionState::Loose);
    assert_eq!(session.state(), SessionState::Loose);
    assert_eq!(value(&metrics, r#"pgmoor_sessions{endpoint="rw",state="login"}"#), Some(0.0));
    assert_eq!(value(&metrics, r#"pgmoor_sessions{endpoint="rw",state="loose"}"#), Some(1.0));
    assert_eq!(value(&metrics, r#"pgmoor_sessions{endpoint="ro",state="loose"}"#), Some(0.0));
    drop(session);
    assert_eq!(value(&metrics, r#"pgmoor_sessions{endpoint="rw",state="loose"}"#), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_measured_when_it_ends() {
    let metrics = Metrics::new().unwrap();
    let hold = metrics.hold();
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!((metrics.holds(), value(&metrics, "pgmoor_hold_seconds_count")), (1, Some(0.0)));
    drop(hold);
    assert_eq!((metrics.holds(), value(&metrics, "pgmoor_hold_seconds_sum")), (0, Some(4.0)));
    assert_eq!(value(&metrics, r#"pgmoor_hold_seconds_bucket{le="3"}"#), Some(0.0));
    assert_eq!(value(&metrics, r#"pgmoor_hold_seconds_bucket{le="5"}"#), Some(1.0));
}

#[test]
fn a_table_replaces_the_one_before() {
    let metrics = Metrics::new().unwrap();
    let role = |pod: &str, role: &str| {
        value(&metrics, &format!(r#"pgmoor_pod_role{{cluster="orders",pod="{pod}",role="{role}"}}"#))
    };
    metrics.observe_table(&table(&[("pg-0", Role::Primary), ("pg-1", Role::Unknown)]));
    assert_eq!((role("pg-0", "primary"), role("pg-0", "superseded")), (Some(1.0), Some(0.0)));
    assert_eq!(role("pg-1", "unknown"), Some(1.0));
    assert_eq!(value(&metrics, r#"pgmoor_route_epoch{cluster="orders"}"#), Some(7.0));
    assert_eq!(value(&metrics, r#"pgmoor_timeline{cluster="orders"}"#), Some(3.0));
    assert_eq!(value(&metrics, r#"pgmoor_table_stale{cluster="orders"}"#), Some(1.0));

    metrics.observe_table(&table(&[("pg-0", Role::Superseded)]));
    assert_eq!((role("pg-0", "primary"), role("pg-0", "superseded")), (Some(0.0), Some(1.0)));
    assert_eq!((role("pg-1", "unknown"), role("pg-1", "primary")), (None, None));
}

#[test]
fn every_role_has_its_series() {
    let replica = Role::Replica { fit: true, lag: None, replayed: None };
    let mut roles = [Role::Primary, replica, Role::Superseded, Role::Unknown].map(|role| role.as_str());
    roles.sort_unstable();
    assert_eq!(roles, ROLES);
}

#[test]
fn what_happened_is_counted_under_its_label() {
    let metrics = Metrics::new().unwrap();
    metrics.error(Code::HoldExpired);
    metrics.switched("draining", "done");
    metrics.bytes(Direction::ToClient, 10);
    metrics.bytes(Direction::ToClient, 5);
    metrics.probed(&"orders".into(), "answered");
    metrics.connected(Endpoint::Ro);
    metrics.cancelled("forwarded");
    metrics.pinned("temp_object");
    metrics.fenced();
    metrics.auth_failed();
    metrics.reloaded(Reload::Failed);
    metrics.joined(JoinStep::Restore, Duration::from_millis(3));
    let expected = [
        (r#"pgmoor_errors_total{code="hold_expired"}"#, 1.0),
        (r#"pgmoor_switches_total{outcome="done",reason="draining"}"#, 1.0),
        (r#"pgmoor_bytes_total{direction="to_client"}"#, 15.0),
        (r#"pgmoor_bytes_total{direction="to_backend"}"#, 0.0),
        (r#"pgmoor_probes_total{cluster="orders",outcome="answered"}"#, 1.0),
        (r#"pgmoor_connections_total{endpoint="ro"}"#, 1.0),
        (r#"pgmoor_cancels_total{outcome="forwarded"}"#, 1.0),
        (r#"pgmoor_pins_total{reason="temp_object"}"#, 1.0),
        ("pgmoor_fenced_total", 1.0),
        ("pgmoor_auth_failures_total", 1.0),
        (r#"pgmoor_reloads_total{outcome="failed"}"#, 1.0),
        (r#"pgmoor_join_seconds_count{step="restore"}"#, 1.0),
    ];
    for (series, count) in expected {
        assert_eq!(value(&metrics, series), Some(count), "{series}");
    }
}

#[test]
fn listeners_are_counted_while_they_listen() {
    let metrics = Metrics::new().unwrap();
    let listener = metrics.listener(&ClusterName::new("orders"));
    let now = || value(&metrics, r#"pgmoor_listeners{cluster="orders"}"#);
    assert_eq!(now(), Some(1.0));
    drop(listener);
    assert_eq!(now(), Some(0.0));
    metrics.notified();
    metrics.overrun();
    assert_eq!(value(&metrics, "pgmoor_notifications_total"), Some(1.0));
    assert_eq!(value(&metrics, "pgmoor_listener_overruns_total"), Some(1.0));
}

#[test]
fn planned_moves_are_counted_by_cluster() {
    let metrics = Metrics::new().unwrap();
    let cluster = ClusterName::new("orders");
    metrics.switchover(&cluster, "switched");
    metrics.switchover(&cluster, "refused");
    metrics.switchover(&cluster, "refused");
    metrics.drain_marks(&cluster, 2);
    metrics.drain_marks(&cluster, 1);
    let refused = r#"pgmoor_switchovers_total{cluster="orders",outcome="refused"}"#;
    assert_eq!(value(&metrics, refused), Some(2.0));
    assert_eq!(value(&metrics, r#"pgmoor_drain_marks{cluster="orders"}"#), Some(1.0));
}
