//! What was measured: every figure of every run, medians over rounds, and ratios paired inside each round.

use std::collections::BTreeMap;

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// Microseconds of the proxy's CPU for one transaction, or one connection where connections are counted.
    ProxyCpu,
    /// Microseconds of CPU of client, proxy and PostgreSQL together for one transaction.
    TotalCpu,
    /// Transactions a second.
    Tps,
    /// Microseconds from the time a transaction was due.
    P50,
    P99,
    /// Microseconds a client of many waited for its answer.
    WaitP50,
    WaitP99,
    /// The 99th percentile of the waits by their median.
    Unfair,
    /// Nanoseconds of the proxy's CPU for one byte.
    ByteCpu,
    /// Megabytes a second.
    Bandwidth,
    /// Bytes of the proxy's memory, with no client yet.
    Fresh,
    /// Bytes of the proxy's memory for one client more.
    Client,
    /// Bytes of the proxy's memory after all clients have left.
    Left,
    /// The part of what clients took that stayed when all had left.
    Kept,
    /// Clients that were there.
    Clients,
    /// System calls for one transaction.
    Calls,
    /// Part of the machine that others used meanwhile.
    Others,
}

/// All figures.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: BTreeMap<Place, BTreeMap<usize, f64>>,
    words: BTreeMap<(String, String), String>,
    complaints: Vec<String>,
    notes: Vec<String>,
}

type Place = (String, String, Figure);

impl Book {
    /// Writes down one figure of one run.
    pub(crate) fn note(&mut self, round: usize, workload: &str, target: &str, figure: Figure, value: f64) {
        let place = (workload.to_owned(), target.to_owned(), figure);
        self.entries.entry(place).or_default().insert(round, value);
    }

    /// Writes down in words what no figure says.
    pub(crate) fn tell(&mut self, workload: &str, target: &str, words: String) {
        self.words.insert((workload.to_owned(), target.to_owned()), words);
    }

    /// What was told.
    pub(crate) fn told(&self, workload: &str, target: &str) -> Option<&str> {
        self.words.get(&(workload.to_owned(), target.to_owned())).map(String::as_str)
    }

    /// Something went wrong in a run, or could not be run.
    pub(crate) fn complain(&mut self, text: String) {
        if !self.complaints.contains(&text) {
            self.complaints.push(text);
        }
    }

    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Something to be read with the tables.
    pub(crate) fn remark(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    pub(crate) fn remarks(&self) -> &[String] {
        &self.notes
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, workload: &str, target: &str, figure: Figure) -> Option<f64> {
        median(self.rounds(workload, target, figure)?.values().copied())
    }

    /// The median, over the rounds that have both, of `target`'s figure by `other`'s.
    pub(crate) fn ratio(&self, workload: &str, target: &str, other: &str, figure: Figure) -> Option<f64> {
        let others = self.rounds(workload, other, figure)?;
        let own = self.rounds(workload, target, figure)?;
        median(own.iter().filter_map(|(round, value)| Some(value / others.get(round)?)))
    }

    /// All values of a figure, whatever it was measured with.
    pub(crate) fn all(&self, figure: Figure) -> impl Iterator<Item = f64> {
        self.entries
            .iter()
            .filter(move |((_, _, of), _)| *of == figure)
            .flat_map(|(_, rounds)| rounds.values().copied())
    }

    fn rounds(&self, workload: &str, target: &str, figure: Figure) -> Option<&BTreeMap<usize, f64>> {
        self.entries.get(&(workload.to_owned(), target.to_owned(), figure))
    }
}

/// The middle of them; of an even number the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some((values[half - 1] + upper) / 2.0) }
}

/// The value that `part` of them do not exceed.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).round() as usize).copied()
}
