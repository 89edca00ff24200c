//! The run: rounds, in each every workload against every target, whose order turns.

use std::time::Instant;

use crate::book::Book;
use crate::interrupt;
use crate::options::Options;
use crate::pgbench::BUSY;
use crate::programs::{PgBouncer, Programs};
use crate::stage::Stage;
use crate::target::{Fleet, Target};
use crate::trouble::Result;
use crate::workload::Workload;

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
    /// All rounds, if no signal ends them.
    pub(crate) fn rounds(&mut self, workloads: &[Workload]) {
        let prepares = self.programs.pgbouncer.as_ref().is_some_and(PgBouncer::prepares);
        let pairs: Vec<Vec<&Target>> = workloads
            .iter()
            .map(|workload| self.targets.iter().filter(|target| workload.takes(target, prepares)).collect())
            .collect();
        let (began, mut done) = (Instant::now(), 0);
        let times = |workload: &Workload| if workload.is_steady() { 1 } else { self.options.rounds };
        let whole: usize = workloads.iter().zip(&pairs).map(|(workload, takers)| takers.len() * times(workload)).sum();
        for round in 0..self.options.rounds {
            for (place, (workload, takers)) in workloads.iter().zip(&pairs).enumerate() {
                if workload.is_steady() && round > 0 {
                    continue;
                }
                for turn in 0..takers.len() {
                    let target = takers[(turn + round + place) % takers.len()];
                    done += 1;
                    let said = match self.turn_again(round, workload, target) {
                        Ok(said) => said,
                        Err(trouble) => {
                            self.book.complain(format!("{}, {}: {trouble}", workload.name, target.name));
                            format!("failed: {trouble}")
                        }
                    };
                    let seconds = began.elapsed().as_secs();
                    eprintln!("[{seconds:4} s, {done}/{whole}] {:<17} {:<13} {said}", workload.name, target.name);
                    if let Some(signal) = interrupt::seen() {
                        self.book
                            .complain(format!("the run was ended by {signal}, and the turn before it may have been"));
                        return;
                    }
                }
            }
        }
    }

    /// One turn; once more if the machine had no time for it.
    fn turn_again(&mut self, round: usize, workload: &Workload, target: &Target) -> Result<String> {
        match self.turn(round, workload, target) {
            Err(trouble) if trouble.to_string().contains(BUSY) => self.turn(round, workload, target),
            outcome => outcome,
        }
    }
}
