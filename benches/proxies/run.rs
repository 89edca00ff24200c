//! The run: rounds, in each every workload against every target, whose order turns.

use std::time::Instant;

use crate::book::{Book, Figure};
use crate::options::Options;
use crate::pgbench::{self, Load, Outcome, Pace};
use crate::programs::{PgBouncer, Programs};
use crate::stage::Stage;
use crate::target::{Fleet, Target};
use crate::trouble::{Result, Trouble};
use crate::workload::{Work, Workload};

/// Everything a run needs.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) programs: &'a Programs,
    pub(crate) stage: &'a Stage,
    pub(crate) targets: &'a [Target],
    pub(crate) fleet: Fleet,
    pub(crate) book: Book,
    /// Half of PgBouncer's rate, found once: every target is to bear the same load.
    pub(crate) half: Option<f64>,
}

impl Bench<'_> {
    /// All rounds.
    pub(crate) fn rounds(&mut self, workloads: &[Workload]) {
        let prepares = self.programs.pgbouncer.as_ref().is_some_and(PgBouncer::prepares);
        let pairs: Vec<Vec<&Target>> = workloads
            .iter()
            .map(|workload| self.targets.iter().filter(|target| workload.takes(target, prepares)).collect())
            .collect();
        let (began, mut done) = (Instant::now(), 0);
        let whole = pairs.iter().map(Vec::len).sum::<usize>() * self.options.rounds;
        for round in 0..self.options.rounds {
            for (place, (workload, takers)) in workloads.iter().zip(&pairs).enumerate() {
                for turn in 0..takers.len() {
                    let target = takers[(turn + round + place) % takers.len()];
                    done += 1;
                    let said = match self.one(round, workload, target) {
                        Ok(said) => said,
                        Err(trouble) => {
                            self.book.complain(format!("{}, {}: {trouble}", workload.name, target.name));
                            format!("failed: {trouble}")
                        }
                    };
                    let seconds = began.elapsed().as_secs();
                    eprintln!("[{seconds:4} s, {done}/{whole}] {:<17} {:<13} {said}", workload.name, target.name);
                }
            }
        }
    }

    fn one(&mut self, round: usize, workload: &Workload, target: &Target) -> Result<String> {
        match workload.work {
            Work::Bench(load) => self.bench(round, &workload.name, target, &load),
            Work::Half(load) => {
                let rate = self.half(&load)?;
                self.bench(round, &workload.name, target, &Load { pace: Pace::Rate(rate), ..load })
            }
        }
    }

    fn bench(&mut self, round: usize, name: &str, target: &Target, load: &Load) -> Result<String> {
        let running = self.fleet.get(self.programs, self.stage, target, load.door)?;
        let (address, pids) = (running.address, running.pids());
        let outcome = pgbench::run(self.programs, self.stage, address, pids, load, self.options.seconds)?;
        Ok(self.note(round, name, target, &outcome))
    }

    fn note(&mut self, round: usize, name: &str, target: &Target, outcome: &Outcome) -> String {
        let Outcome { count, used, p50, p99, .. } = outcome;
        let micros = |seconds: f64| seconds * 1e6 / count;
        let figures = [
            (Figure::ProxyCpu, used.proxy.map(micros)),
            (Figure::TotalCpu, Some(micros(used.total))),
            (Figure::Tps, Some(count / used.seconds)),
            (Figure::P50, *p50),
            (Figure::P99, *p99),
            (Figure::Others, Some(used.others)),
        ];
        for (figure, value) in figures {
            if let Some(value) = value {
                self.book.note(round, name, &target.name, figure, value);
            }
        }
        let proxy = used.proxy.map_or_else(String::new, |seconds| format!("{:7.1} µs proxy", micros(seconds)));
        let tail = p99.map_or_else(String::new, |p99| format!(", p99 {p99:.0} µs"));
        format!("{proxy:>16} {:7.1} µs total {:7.0} tps{tail}", micros(used.total), count / used.seconds)
    }

    /// Half of what PgBouncer reaches with this load.
    fn half(&mut self, load: &Load) -> Result<f64> {
        if let Some(rate) = self.half {
            return Ok(rate);
        }
        let target = self.targets.iter().find(|target| target.name == "pgbouncer");
        let target = target.ok_or_else(|| Trouble::new("there is no PgBouncer to take half of the rate of"))?;
        let running = self.fleet.get(self.programs, self.stage, target, load.door)?;
        let (address, pids) = (running.address, running.pids());
        let outcome = pgbench::run(self.programs, self.stage, address, pids, load, self.options.seconds)?;
        let rate = (outcome.count / outcome.used.seconds / 2.0).round();
        self.book.remark(format!("Half load is {rate:.0} transactions a second."));
        self.half = Some(rate);
        Ok(rate)
    }
}
