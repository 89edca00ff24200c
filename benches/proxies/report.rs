//! The tables of the report, as Markdown.

use crate::book::{Book, Figure};
use crate::target::Target;

/// What a report is made of.
pub(crate) struct Report<'a> {
    pub(crate) book: &'a Book,
    pub(crate) targets: &'a [Target],
    /// The workloads in their order.
    pub(crate) workloads: &'a [String],
}

/// The target everything is compared with, where it is there.
pub(crate) const BASE: &str = "pgbouncer";

impl Report<'_> {
    /// All tables that have something to show.
    pub(crate) fn tables(&self) -> String {
        let parts = [
            self.figures("Proxy CPU, µs per transaction or connection", Figure::ProxyCpu, 1),
            self.figures("CPU of client, proxy and PostgreSQL together, µs per transaction", Figure::TotalCpu, 0),
            self.figures("Transactions a second", Figure::Tps, 0),
            self.figures("Latency at a fixed rate: median, µs", Figure::P50, 0),
            self.figures("Latency at a fixed rate: 99th percentile, µs", Figure::P99, 0),
            self.figures("Large data: proxy CPU, ns per byte", Figure::ByteCpu, 2),
            self.figures("Large data: MB a second", Figure::Bandwidth, 0),
            self.table("Many active clients", |workload, target| self.active(workload, &target.name)),
            self.table("Idle clients: bytes of the proxy's memory", |workload, target| {
                self.idle(workload, &target.name)
            }),
            self.table("System calls for one transaction", |workload, target| {
                self.book.told(workload, &target.name).map(str::to_owned)
            }),
        ];
        parts.into_iter().flatten().collect()
    }

    /// One figure: a row for each workload, a column for each target, and in brackets the ratio to PgBouncer.
    fn figures(&self, title: &str, figure: Figure, digits: usize) -> Option<String> {
        self.table(title, |workload, target| {
            let value = self.book.median(workload, &target.name, figure)?;
            let ratio = (target.name != BASE).then(|| self.book.ratio(workload, &target.name, BASE, figure)).flatten();
            let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2}x)"));
            Some(format!("{}{ratio}", grouped(value, digits)))
        })
    }

    fn active(&self, workload: &str, target: &str) -> Option<String> {
        let of = |figure| self.book.median(workload, target, figure);
        let (p50, p99, unfair) = (of(Figure::WaitP50)?, of(Figure::WaitP99)?, of(Figure::Unfair)?);
        let clients = of(Figure::Clients)?;
        let (p50, p99) = (p50 / 1e3, p99 / 1e3);
        Some(format!("{clients:.0} clients: p50 {p50:.1} ms, p99 {p99:.1} ms, p99/p50 {unfair:.2}"))
    }

    fn idle(&self, workload: &str, target: &str) -> Option<String> {
        let of = |figure| self.book.median(workload, target, figure);
        let megabytes = |figure| Some(of(figure)? / 1e6);
        Some(format!(
            "{} each of {:.0}; {:.1} MB fresh, {:.1} MB when they have left",
            grouped(of(Figure::Client)?, 0),
            of(Figure::Clients)?,
            megabytes(Figure::Fresh)?,
            megabytes(Figure::Left)?,
        ))
    }

    fn table(&self, title: &str, cell: impl Fn(&str, &Target) -> Option<String>) -> Option<String> {
        let rows: Vec<(&String, Vec<Option<String>>)> = self
            .workloads
            .iter()
            .map(|workload| (workload, self.targets.iter().map(|target| cell(workload, target)).collect()))
            .filter(|(_, cells): &(_, Vec<Option<String>>)| cells.iter().any(Option::is_some))
            .collect();
        if rows.is_empty() {
            return None;
        }
        let filled = |column: usize| rows.iter().any(|(_, cells)| cells[column].is_some());
        let columns: Vec<usize> = (0..self.targets.len()).filter(|column| filled(*column)).collect();
        let names: Vec<&str> = columns.iter().map(|column| self.targets[*column].name.as_str()).collect();
        let mut text = format!("\n### {title}\n\n| | {} |\n|---|{}\n", names.join(" | "), "---:|".repeat(names.len()));
        for (workload, cells) in &rows {
            let cells: Vec<&str> = columns.iter().map(|column| cells[*column].as_deref().unwrap_or("–")).collect();
            text += &format!("| {workload} | {} |\n", cells.join(" | "));
        }
        Some(text)
    }
}

/// A number with its thousands set apart.
pub(crate) fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (place, letter) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(letter);
    }
    out + rest
}
