//! The status for a terminal: one line for pgmoor, one for every cluster, one for every pod.

use crate::admin::report::{ClusterReport, Report, Writes};

const COLUMNS: [&str; 7] = ["POD", "ROLE", "STATE", "LAG", "SESSIONS", "ZONE", "ADDRESS"];

/// Several lines, each ended.
pub(super) fn render(report: &Report) -> String {
    let ready = match report.not_ready.as_slice() {
        [] => "ready".to_owned(),
        reasons => format!("not ready ({})", reasons.join("; ")),
    };
    let sessions: Vec<String> = report.sessions.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut lines = vec![
        format!("pgmoor {}, {}, {ready}, up {}s", report.version, report.phase, report.uptime_seconds),
        format!("sessions: {}; {} waiting for a pod", sessions.join(", "), report.holds),
    ];
    if !report.pins.is_empty() {
        let pins: Vec<String> = report.pins.iter().map(|(pin, count)| format!("{count} {pin}")).collect();
        lines.push(format!("pinned to their server: {}", pins.join(", ")));
    }
    for cluster in &report.clusters {
        lines.push(String::new());
        lines.push(headline(cluster));
        lines.extend(pods(cluster));
    }
    lines.join("\n") + "\n"
}

fn headline(cluster: &ClusterReport) -> String {
    let writes = match &cluster.writes {
        Writes::To { pod } => format!("writes go to {pod}"),
        Writes::Wait { why } => format!("NO PRIMARY is proven ({why}), writes wait"),
    };
    let stale = if cluster.stale { ", STALE: the watch is broken" } else { "" };
    format!(
        "cluster {}: {writes}, timeline {}, table {}, {} sessions on no pod{stale}",
        cluster.name, cluster.timeline, cluster.epoch, cluster.sessions_without_pod
    )
}

fn pods(cluster: &ClusterReport) -> Vec<String> {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(cluster.pods.iter().map(|pod| {
        [
            pod.name.clone(),
            pod.role.clone(),
            pod.state(),
            pod.lag(),
            pod.sessions.to_string(),
            pod.zone.clone().unwrap_or_else(|| "–".to_owned()),
            pod.address.clone().unwrap_or_else(|| "–".to_owned()),
        ]
    }));
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("  {}", cells.join("  ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::PodReport;

    #[test]
    fn columns_stand_under_each_other() {
        let pod = |name: &str, role: &str, lag_ms| PodReport {
            name: name.to_owned(),
            uid: "u".to_owned(),
            address: Some("10.0.0.1:5432".to_owned()),
            role: role.to_owned(),
            fit: true,
            lag_ms,
            replayed: None,
            draining: false,
            ready: true,
            zone: None,
            sessions: 3,
        };
        let report = Report {
            version: "1".to_owned(),
            phase: "serving".to_owned(),
            uptime_seconds: 5,
            not_ready: Vec::new(),
            sessions: [("loose".to_owned(), 6)].into(),
            holds: 0,
            pins: [("temp_object".to_owned(), 2)].into(),
            clusters: vec![ClusterReport {
                name: "orders".to_owned(),
                epoch: 2,
                timeline: 1,
                ancestors: None,
                stale: true,
                writes: Writes::Wait { why: "contested".to_owned() },
                sessions_without_pod: 1,
                pods: vec![pod("pg-0", "unknown", None), pod("pg-10", "replica", Some(20))],
            }],
        };
        let expected = "\
pgmoor 1, serving, ready, up 5s
sessions: 6 loose; 0 waiting for a pod
pinned to their server: 2 temp_object

cluster orders: NO PRIMARY is proven (contested), writes wait, timeline 1, table 2, 1 sessions on no pod, STALE: the watch is broken
  POD    ROLE     STATE  LAG   SESSIONS  ZONE  ADDRESS
  pg-0   unknown  ready  –     3         –     10.0.0.1:5432
  pg-10  replica  ready  20ms  3         –     10.0.0.1:5432
";
        assert_eq!(render(&report), expected);
    }
}
