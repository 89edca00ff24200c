//! What pgmoor is to reach, each as a ratio to others in the same run, and where it stands.

use crate::book::{Book, Figure};
use crate::report::BASE;
use crate::target::{FLOOR, Target};

/// One row: what was measured, and whether it is where it should be.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) goal: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

const PGMOOR: &str = "pgmoor";
/// Beside PgBouncer, less is asked for than to be level with it.
const AHEAD: f64 = 0.9;
const PROTOCOLS: [&str; 3] = ["simple", "extended", "prepared"];

/// All goals that this run can say something about.
pub(crate) fn all(book: &Book, targets: &[Target]) -> Vec<Goal> {
    let peers: Vec<&str> =
        targets.iter().filter(|target| target.is_peer()).map(|target| target.name.as_str()).collect();
    let judge = Judge { book, peers };
    let mut goals = Vec::new();
    for protocol in PROTOCOLS {
        goals.extend([1, 8, 64].into_iter().filter_map(|clients| judge.cpu(&format!("{protocol} c{clients}"))));
    }
    for protocol in PROTOCOLS {
        goals.extend([8, 64].into_iter().filter_map(|clients| judge.tps(&format!("{protocol} c{clients}"))));
    }
    for name in ["simple c8", "simple c64", "prepared c8", "prepared c64"] {
        let what = format!("CPU per transaction, two workers, {name}");
        goals.extend(judge.own(&what, name, "pgmoor/w2", PGMOOR, 1.1, "with one worker"));
    }
    for name in ["select 10 MB", "copy out", "copy in"] {
        goals.extend(judge.beside(&format!("CPU per byte, {name}"), name, Figure::ByteCpu, "haproxy", 1.1));
    }
    for clients in [1, 8, 64] {
        let name = format!("extended c{clients}");
        goals.extend(judge.beside(&format!("CPU of all three, {name}"), &name, Figure::TotalCpu, "direct", 1.0));
    }
    for name in ["connect trust", "connect scram", "connect tls"] {
        goals.extend(judge.best(&format!("CPU per connection, {name}"), name));
    }
    for name in ["idle plain", "idle tls"] {
        goals.extend(judge.beside(&format!("bytes per client, {name}"), name, Figure::Client, BASE, 1.0));
        goals.extend(judge.given_back(name));
    }
    goals.extend(judge.beside("p99 at half load", "half simple c64", Figure::P99, BASE, 1.0));
    goals.extend(judge.fair("active"));
    for name in ["simple c8", "prepared c8", "rw simple c8"] {
        let what = format!("what continuity costs, {name}");
        goals.extend(judge.own(&what, name, PGMOOR, "pgmoor/plain", 1.05, "without replay and commit guard"));
    }
    goals
}

struct Judge<'a> {
    book: &'a Book,
    peers: Vec<&'a str>,
}

impl Judge<'_> {
    /// Ahead of PgBouncer, and above nobody.
    fn cpu(&self, name: &str) -> Option<Goal> {
        let ratios = self.ratios(name, Figure::ProxyCpu)?;
        let met = ratios.iter().all(|(peer, ratio)| *ratio <= if *peer == BASE { AHEAD } else { 1.0 });
        let floor = self.book.ratio(name, FLOOR, BASE, Figure::ProxyCpu);
        let floor = floor.map_or_else(String::new, |ratio| format!(" (a {FLOOR}: {ratio:.2} x {BASE})"));
        Some(Goal {
            what: format!("CPU per transaction, {name}"),
            goal: format!("≤ {AHEAD} x {BASE}, above no peer"),
            measured: said(&ratios) + &floor,
            met,
        })
    }

    fn tps(&self, name: &str) -> Option<Goal> {
        let ratios = self.ratios(name, Figure::Tps)?;
        let met = ratios.iter().all(|(_, ratio)| *ratio >= 1.0);
        let what = format!("transactions a second, {name}");
        Some(Goal { what, goal: "≥ every peer".to_owned(), measured: said(&ratios), met })
    }

    /// No more than the peer that needs least.
    fn best(&self, what: &str, name: &str) -> Option<Goal> {
        let ratios = self.ratios(name, Figure::ProxyCpu)?;
        let met = ratios.iter().all(|(_, ratio)| *ratio <= 1.0);
        Some(Goal { what: what.to_owned(), goal: "≤ the best peer".to_owned(), measured: said(&ratios), met })
    }

    fn beside(&self, what: &str, name: &str, figure: Figure, other: &str, most: f64) -> Option<Goal> {
        let ratio = self.book.ratio(name, PGMOOR, other, figure)?;
        Some(Goal {
            what: what.to_owned(),
            goal: format!("≤ {most} x {other}"),
            measured: format!("{ratio:.2} x"),
            met: ratio <= most,
        })
    }

    /// One way to run pgmoor beside another.
    fn own(&self, what: &str, name: &str, one: &str, other: &str, most: f64, words: &str) -> Option<Goal> {
        let ratio = self.book.ratio(name, one, other, Figure::ProxyCpu)?;
        Some(Goal {
            what: what.to_owned(),
            goal: format!("≤ {most} x {words}"),
            measured: format!("{ratio:.2} x"),
            met: ratio <= most,
        })
    }

    fn given_back(&self, name: &str) -> Option<Goal> {
        let kept = self.book.median(name, PGMOOR, Figure::Kept)?;
        Some(Goal {
            what: format!("memory that stays when they have left, {name}"),
            goal: "≤ 20 % of what they took".to_owned(),
            measured: format!("{:.0} %", kept * 100.0),
            met: kept <= 0.2,
        })
    }

    fn fair(&self, name: &str) -> Option<Goal> {
        let unfair = self.book.median(name, PGMOOR, Figure::Unfair)?;
        let clients = self.book.median(name, PGMOOR, Figure::Clients)?;
        Some(Goal {
            what: format!("{clients:.0} active clients, p99 by median of the wait"),
            goal: "≤ 1.5".to_owned(),
            measured: format!("{unfair:.2}"),
            met: unfair <= 1.5,
        })
    }

    /// pgmoor's figure by each peer's; `None` if there is none.
    fn ratios(&self, name: &str, figure: Figure) -> Option<Vec<(&str, f64)>> {
        let mut ratios = Vec::new();
        for peer in &self.peers {
            ratios.extend(self.book.ratio(name, PGMOOR, peer, figure).map(|ratio| (*peer, ratio)));
        }
        (!ratios.is_empty()).then_some(ratios)
    }
}

fn said(ratios: &[(&str, f64)]) -> String {
    let all: Vec<String> = ratios.iter().map(|(peer, ratio)| format!("{ratio:.2} x {peer}")).collect();
    all.join(", ")
}

/// The goals as a table.
pub(crate) fn table(goals: &[Goal]) -> String {
    if goals.is_empty() {
        return String::new();
    }
    let met = goals.iter().filter(|goal| goal.met).count();
    let mut text =
        format!("\n### Goals: {met} of {} met\n\n| what | goal | measured | |\n|---|---|---|---|\n", goals.len());
    for goal in goals {
        let mark = if goal.met { "met" } else { "**not met**" };
        text += &format!("| {} | {} | {} | {mark} |\n", goal.what, goal.goal, goal.measured);
    }
    text
}
