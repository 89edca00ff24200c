//! What is run, and against which targets.

use crate::bulk::Bulk;
use crate::pgbench::{Load, Pace, Protocol, Script};
use crate::target::{Door, Kind, Target};

/// One row of the report.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) work: Work,
    who: Who,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Bench(Load),
    /// The same, at half of the rate that PgBouncer reaches with it.
    Half(Load),
    Bulk(Bulk),
    /// Memory of idle clients.
    Idle {
        tls: bool,
    },
    /// Many clients that are never idle.
    Active,
    /// System calls.
    Calls(Load),
}

/// Which targets do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// PostgreSQL itself, and every proxy once.
    Each,
    /// Those with a second worker too.
    Workers,
    /// And pgmoor without what carries transactions.
    All,
    /// And that, but no second workers.
    Plain,
    /// Every proxy whose processes are known.
    Proxies,
    /// Those that share few backends among many clients.
    Pools,
}

const LOAD: Load = Load {
    protocol: Protocol::Simple,
    script: Script::Select,
    clients: 8,
    tls: false,
    door: Door::Trust,
    pace: Pace::Full,
};

/// All of them.
pub(crate) fn all() -> Vec<Workload> {
    let bench = |name: &str, who, load| Workload { name: name.to_owned(), work: Work::Bench(load), who };
    let mut all = Vec::new();
    for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
        for clients in [1, 8, 64] {
            let who = match (protocol, clients) {
                (_, 1) | (Protocol::Extended, _) => Who::Each,
                (Protocol::Simple | Protocol::Prepared, 8) => Who::All,
                (Protocol::Simple | Protocol::Prepared, _) => Who::Workers,
            };
            all.push(bench(&speed(protocol, clients), who, Load { protocol, clients, ..LOAD }));
        }
    }
    let half = Load { clients: 64, ..LOAD };
    let reconnect = Load { pace: Pace::Reconnect, ..LOAD };
    all.extend([
        bench("rw simple c8", Who::Plain, Load { script: Script::Write, ..LOAD }),
        bench("tls simple c8", Who::Each, Load { tls: true, ..LOAD }),
        bench("rate simple c8", Who::Each, Load { pace: Pace::Rate(5000.0), ..LOAD }),
        Workload { name: "half simple c64".to_owned(), work: Work::Half(half), who: Who::Each },
        bench("connect trust", Who::Each, reconnect),
        bench("connect scram", Who::Each, Load { door: Door::Scram, ..reconnect }),
        bench("connect tls", Who::Each, Load { tls: true, ..reconnect }),
    ]);
    let other = |name: &str, who, work| Workload { name: name.to_owned(), work, who };
    all.extend([
        other("select 10 MB", Who::Each, Work::Bulk(Bulk::Select)),
        other("copy out", Who::Each, Work::Bulk(Bulk::CopyOut)),
        other("copy in", Who::Each, Work::Bulk(Bulk::CopyIn)),
        other("active", Who::Pools, Work::Active),
        other("idle plain", Who::Pools, Work::Idle { tls: false }),
        other("idle tls", Who::Pools, Work::Idle { tls: true }),
        other("calls simple c8", Who::Proxies, Work::Calls(LOAD)),
        other("calls prepared c8", Who::Proxies, Work::Calls(Load { protocol: Protocol::Prepared, ..LOAD })),
    ]);
    all
}

/// The name of a workload that goes as fast as it can.
pub(crate) fn speed(protocol: Protocol, clients: u32) -> String {
    format!("{} c{clients}", protocol.name())
}

impl Workload {
    /// Whether this target does it. `prepares`: PgBouncer keeps prepared statements.
    pub(crate) fn takes(&self, target: &Target, prepares: bool) -> bool {
        let second = matches!(self.who, Who::Workers | Who::All);
        match &target.kind {
            Kind::Direct => !matches!(self.who, Who::Pools | Who::Proxies),
            Kind::Haproxy => self.who != Who::Pools,
            Kind::Bare => self.is_plain(),
            // It is not fresh, so what idle clients cost it cannot be told.
            Kind::Given(_) if matches!(self.work, Work::Idle { .. }) => false,
            Kind::Given(peer) => !matches!(self.who, Who::Pools | Who::Proxies) || peer.pid.is_some(),
            Kind::PgBouncer { processes } => (prepares || !self.prepares()) && (*processes == 1 || second),
            Kind::Pgmoor(moor) if !moor.carries => matches!(self.who, Who::All | Who::Plain),
            Kind::Pgmoor(moor) if !moor.gathers => second,
            Kind::Pgmoor(moor) => moor.workers == 1 || second,
        }
    }

    /// Small queries, as fast as they go: what a relay's least is measured with.
    fn is_plain(&self) -> bool {
        match &self.work {
            Work::Bench(load) => matches!(load.pace, Pace::Full) && load.script == Script::Select && !load.tls,
            Work::Half(_) | Work::Bulk(_) | Work::Idle { .. } | Work::Active | Work::Calls(_) => false,
        }
    }

    /// Whether once is enough: what is counted does not change from round to round.
    pub(crate) fn is_steady(&self) -> bool {
        match &self.work {
            Work::Idle { .. } | Work::Calls(_) => true,
            Work::Bench(_) | Work::Half(_) | Work::Bulk(_) | Work::Active => false,
        }
    }

    fn prepares(&self) -> bool {
        match &self.work {
            Work::Bench(load) | Work::Half(load) | Work::Calls(load) => load.protocol == Protocol::Prepared,
            Work::Bulk(_) | Work::Idle { .. } | Work::Active => false,
        }
    }
}
