//! The status page: the report as HTML that needs nothing else and renews itself.

use std::fmt::Write as _;

use super::report::{ClusterReport, PodReport, Report, Writes};

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="2">
<title>pgmoor</title>
<style>
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --warn: #9a6700; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --warn: #d29922; --bad: #f85149; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; }
p { margin: .3rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: .6rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } .number { text-align: right; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
</style>
"#;

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    let mut page = String::from(HEAD);
    let ready = match report.not_ready.as_slice() {
        [] => "<span class=good>ready</span>".to_owned(),
        reasons => format!("<span class=bad>not ready: {}</span>", escape(&reasons.join("; "))),
    };
    let sessions: Vec<String> =
        report.sessions.iter().map(|(state, count)| format!("{count} {}", escape(state))).collect();
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<h1>pgmoor {} · {} · {ready}</h1>\n<p>Up {}. Sessions: {}; {} waiting for a pod.</p>\n",
        escape(&report.version),
        escape(&report.phase),
        uptime(report.uptime_seconds),
        sessions.join(", "),
        report.holds,
    );
    for cluster in &report.clusters {
        write_cluster(&mut page, cluster);
    }
    page.push_str("<p><a href=\"/status.json\">status.json</a> · <a href=\"/metrics\">metrics</a></p>\n");
    page
}

fn write_cluster(page: &mut String, cluster: &ClusterReport) {
    let writes = match &cluster.writes {
        Writes::To { pod } => format!("Writes go to <b class=good>{}</b>.", escape(pod)),
        Writes::Wait { why } => {
            format!("<b class=bad>No primary is proven ({}): writes wait.</b>", escape(why))
        }
    };
    let stale = if cluster.stale {
        " <span class=warn>The watch is broken: labels and leader are the last known.</span>"
    } else {
        ""
    };
    let _ = write!(
        page,
        "<h2>{}</h2>\n<p>{writes} Timeline {}, table {}, {} sessions on no pod.{stale}</p>\n<div class=scroll><table>\n\
         <tr><th>Pod<th>Role<th>State<th class=number>Lag<th class=number>Sessions<th>Zone<th>Address</tr>\n",
        escape(&cluster.name),
        cluster.timeline,
        cluster.epoch,
        cluster.sessions_without_pod,
    );
    for pod in &cluster.pods {
        write_pod(page, pod);
    }
    page.push_str("</table></div>\n");
}

fn write_pod(page: &mut String, pod: &PodReport) {
    let class = match pod.role.as_str() {
        "primary" => "good",
        "superseded" => "bad",
        "unknown" => "warn",
        _ => "",
    };
    let _ = writeln!(
        page,
        "<tr><td>{}<td class=\"{class}\">{}<td>{}<td class=number>{}<td class=number>{}<td>{}<td>{}</tr>",
        escape(&pod.name),
        escape(&pod.role),
        pod.state(),
        pod.lag(),
        pod.sessions,
        escape(pod.zone.as_deref().unwrap_or("–")),
        escape(pod.address.as_deref().unwrap_or("–")),
    );
}

fn uptime(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours / 24, hours % 24) {
        (0, 0) => format!("{minutes}m {}s", seconds % 60),
        (0, hours) => format!("{hours}h {minutes}m"),
        (days, hours) => format!("{days}d {hours}h"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::SessionCounts;
    use super::super::report::tests::table;
    use super::*;
    use crate::shutdown::Phase;
    use std::time::Duration;

    #[test]
    fn shows_pods_and_escapes_what_it_was_told() {
        let report = Report::new(Phase::Serving, Duration::from_secs(3_700), 2, &SessionCounts::default(), [&table(5)]);
        let page = render(&report);
        for piece in [
            "Writes go to <b class=good>pg-0</b>",
            "Up 1h 1m",
            "<td>pg-1<td class=\"\">replica<td>ready, draining<td class=number>1.5s",
            "z&lt;1&gt;",
        ] {
            assert!(page.contains(piece), "{piece} is not in {page}");
        }
        assert!(!page.contains("z<1>"));
    }
}
