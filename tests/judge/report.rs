//! What a run came to, as tables for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::chaos::Happened;
use crate::history::{Op, Told};
use crate::verdict::Verdict;

/// The columns: what clients were told.
const COLUMNS: [&str; 7] = ["done", "40001", "08007", "57P03", "23505", "dropped", "other"];

fn column(told: &Told) -> usize {
    match told {
        Told::Done => 0,
        Told::Lost => 1,
        Told::Unknown => 2,
        Told::Refused => 3,
        Told::Conflict => 4,
        Told::Dropped(_) => 5,
        Told::Stuck | Told::Wrong(_) => 6,
    }
}

/// Operations by kind and answer; the longest waits by fault.
pub fn tables(verdict: &Verdict, ops: &[Op], happened: &[Happened]) -> String {
    let mut text = format!("{:<18}", "operations");
    for name in COLUMNS {
        let _ = write!(text, "{name:>9}");
    }
    let mut sum = [0; COLUMNS.len()];
    let kinds: BTreeSet<_> = verdict.tally.keys().map(|(kind, _)| *kind).collect();
    for kind in kinds {
        let mut line = [0; COLUMNS.len()];
        for ((_, told), count) in verdict.tally.iter().filter(|((other, _), _)| *other == kind) {
            line[column(told)] += count;
            sum[column(told)] += count;
        }
        row(&mut text, &format!("{kind:?}"), &line);
    }
    row(&mut text, "all", &sum);
    let (there, absent) = verdict.unknown;
    let _ = write!(text, "\n08007 of writes: {there} were there in the end, {absent} were not");

    let _ = write!(
        text,
        "\n{:<44}{:>7}{:>12}{:>14}{:>9}{:>9}",
        "faults", "times", "whole after", "longest wait", "40001", "08007"
    );
    for (name, line) in by_fault(ops, happened) {
        let _ = write!(
            text,
            "\n{name:<44}{:>7}{:>10.1} s{:>12.2} s{:>9}{:>9}",
            line.times,
            line.whole.as_secs_f64(),
            line.longest.as_secs_f64(),
            line.lost,
            line.unknown
        );
    }
    text
}

fn row(text: &mut String, name: &str, counts: &[usize]) {
    let _ = write!(text, "\n{name:<18}");
    for count in counts {
        let _ = write!(text, "{count:>9}");
    }
}

#[derive(Default)]
struct Line {
    times: usize,
    whole: Duration,
    longest: Duration,
    lost: usize,
    unknown: usize,
}

/// Each operation counts for the last event that had begun when it ended, if that was not over when it began.
fn by_fault(ops: &[Op], happened: &[Happened]) -> BTreeMap<String, Line> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for event in happened {
        let line = lines.entry(event.name.clone()).or_default();
        line.times += 1;
        line.whole = line.whole.max(event.whole.saturating_sub(event.began));
    }
    for op in ops {
        let last = happened.iter().rev().find(|event| event.began <= op.ended).filter(|event| op.began <= event.whole);
        let line = lines.entry(last.map_or_else(|| "(all well)".to_owned(), |event| event.name.clone())).or_default();
        line.longest = line.longest.max(op.took());
        line.lost += usize::from(op.told == Told::Lost);
        line.unknown += usize::from(op.told == Told::Unknown);
    }
    lines
}
