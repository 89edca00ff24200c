//! One turn: one workload against one target, and what is written down of it.

use crate::active;
use crate::book::{Figure, percentile};
use crate::bulk::{self, Bulk};
use crate::calls;
use crate::idle;
use crate::link;
use crate::meter::Used;
use crate::pgbench::{self, Load, Outcome, Pace};
use crate::run::Bench;
use crate::target::{self, Door, Target};
use crate::trouble::{Result, Trouble};
use crate::workload::{Work, Workload};

impl Bench<'_> {
    /// Runs it; what came out, in words.
    pub(crate) fn turn(&mut self, round: usize, workload: &Workload, target: &Target) -> Result<String> {
        let name = &workload.name;
        match workload.work {
            Work::Bench(load) => self.bench(round, name, target, &load),
            Work::Half(load) => {
                let rate = self.half(&load)?;
                self.bench(round, name, target, &Load { pace: Pace::Rate(rate), ..load })
            }
            Work::Bulk(bulk) => self.bulk(round, name, target, bulk),
            Work::Idle { tls } => self.idle(round, name, target, tls),
            Work::Active => self.active(round, name, target),
            Work::Calls(load) => self.calls(round, name, target, &load),
        }
    }

    fn bench(&mut self, round: usize, name: &str, target: &Target, load: &Load) -> Result<String> {
        let running = self.fleet.get(self.programs, self.stage, target, load.door)?;
        let (address, pids) = (running.address, running.pids());
        let outcome = pgbench::run(self.programs, self.stage, address, pids, load, self.options.seconds)?;
        let Outcome { count, used, p50, p99, .. } = outcome;
        let figures = [(Figure::Tps, Some(count / used.seconds)), (Figure::P50, p50), (Figure::P99, p99)];
        self.note(round, name, target, &figures);
        let tail = p99.map_or_else(String::new, |p99| format!(", p99 {p99:.0} µs"));
        let cpu = self.note_cpu(round, name, target, count, &used);
        Ok(format!("{cpu} {:7.0} tps{tail}", count / used.seconds))
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

    fn bulk(&mut self, round: usize, name: &str, target: &Target, bulk: Bulk) -> Result<String> {
        let running = self.fleet.get(self.programs, self.stage, target, Door::Trust)?;
        let (address, pids) = (running.address, running.pids());
        let (bytes, used) = bulk::run(self.stage, address, pids, bulk, self.options.seconds)?;
        let nanos = used.proxy.map(|seconds| seconds * 1e9 / bytes);
        let bandwidth = bytes / 1e6 / used.seconds;
        let figures =
            [(Figure::ByteCpu, nanos), (Figure::Bandwidth, Some(bandwidth)), (Figure::Others, Some(used.others))];
        self.note(round, name, target, &figures);
        let nanos = nanos.map_or_else(String::new, |nanos| format!("{nanos:.2} ns/B"));
        Ok(format!("{nanos:>16} {bandwidth:7.0} MB/s"))
    }

    fn idle(&mut self, round: usize, name: &str, target: &Target, tls: bool) -> Result<String> {
        let clients = self.options.idle;
        // Fresh: what others left in its memory would be counted as free.
        let running = target::start(self.programs, self.stage, target, Door::Trust)?;
        let config = tls.then(|| link::tls(&self.stage.certificate)).transpose()?;
        let memory = idle::run(&running, config.as_ref(), clients)?;
        let taken = memory.full - memory.fresh;
        let each = taken / clients as f64;
        let kept = (memory.left - memory.fresh) / taken;
        let figures = [
            (Figure::Fresh, Some(memory.fresh)),
            (Figure::Client, Some(each)),
            (Figure::Left, Some(memory.left)),
            (Figure::Kept, Some(kept)),
            (Figure::Clients, Some(clients as f64)),
        ];
        self.note(round, name, target, &figures);
        Ok(format!("{each:7.0} bytes for each of {clients} clients; {:.0} % of it stays when they leave", kept * 100.0))
    }

    fn active(&mut self, round: usize, name: &str, target: &Target) -> Result<String> {
        let clients = self.options.active;
        let running = self.fleet.get(self.programs, self.stage, target, Door::Trust)?;
        let (address, pids) = (running.address, running.pids());
        let waits = active::run(self.stage, address, pids, clients, self.options.seconds + 2)?;
        let count = waits.sorted.len() as f64;
        let part = |part| percentile(&waits.sorted, part).ok_or_else(|| Trouble::new("nobody was answered"));
        let (p50, p99) = (part(0.5)?, part(0.99)?);
        let figures = [
            (Figure::WaitP50, Some(p50)),
            (Figure::WaitP99, Some(p99)),
            (Figure::Unfair, Some(p99 / p50)),
            (Figure::Tps, Some(count / waits.used.seconds)),
            (Figure::Clients, Some(clients as f64)),
        ];
        self.note(round, name, target, &figures);
        let cpu = self.note_cpu(round, name, target, count, &waits.used);
        Ok(format!("{cpu}; {clients} clients wait {:.1} ms, p99 {:.1} ms", p50 / 1e3, p99 / 1e3))
    }

    fn calls(&mut self, round: usize, name: &str, target: &Target, load: &Load) -> Result<String> {
        let running = self.fleet.get(self.programs, self.stage, target, load.door)?;
        let (count, words) = calls::run(self.programs, self.stage, running, load, self.options.seconds)?;
        self.note(round, name, target, &[(Figure::Calls, Some(count))]);
        let said = format!("{count:.2} calls: {words}");
        self.book.tell(name, &target.name, said.clone());
        Ok(said)
    }

    fn note_cpu(&mut self, round: usize, name: &str, target: &Target, count: f64, used: &Used) -> String {
        let micros = |seconds: f64| seconds * 1e6 / count;
        let figures = [
            (Figure::ProxyCpu, used.proxy.map(micros)),
            (Figure::TotalCpu, Some(micros(used.total))),
            (Figure::Others, Some(used.others)),
        ];
        self.note(round, name, target, &figures);
        let proxy = used.proxy.map_or_else(String::new, |seconds| format!("{:7.1} µs proxy", micros(seconds)));
        format!("{proxy:>16} {:7.1} µs total", micros(used.total))
    }

    fn note(&mut self, round: usize, name: &str, target: &Target, figures: &[(Figure, Option<f64>)]) {
        for (figure, value) in figures {
            if let Some(value) = value {
                self.book.note(round, name, &target.name, *figure, *value);
            }
        }
    }
}
