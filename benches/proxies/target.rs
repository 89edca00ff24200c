//! What is measured: the targets, how each is started, and those that run.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use crate::bare;
use crate::link::Link;
use crate::options::{Options, Peer};
use crate::pgmoor::{self, Moor};
use crate::process::Process;
use crate::programs::Programs;
use crate::proxies;
use crate::stage::Stage;
use crate::trouble::{Result, Trouble, Trying as _};

/// The name of the one that does least.
pub(crate) const FLOOR: &str = "bare relay";

const START_WITHIN: Duration = Duration::from_secs(20);

/// One thing to measure.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What it is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// PostgreSQL itself.
    Direct,
    Pgmoor(Moor),
    PgBouncer {
        processes: usize,
    },
    /// Copies bytes.
    Haproxy,
    /// Copies bytes, and does nothing else: the floor of a relay in user space.
    Bare,
    /// Somebody else started it.
    Given(Peer),
}

/// How clients are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    Trust,
    Scram,
}

/// All targets of a run, in the order of the tables.
pub(crate) fn all(options: &Options, programs: &Programs) -> Vec<Target> {
    let target = |name: &str, kind| Target { name: name.to_owned(), kind };
    let mut all = vec![target("direct", Kind::Direct)];
    all.push(target(FLOOR, Kind::Bare));
    if programs.haproxy.is_some() {
        all.push(target("haproxy", Kind::Haproxy));
    }
    all.extend(options.peers.iter().map(|peer| target(&peer.name, Kind::Given(peer.clone()))));
    if programs.pgbouncer.is_some() {
        all.push(target("pgbouncer", Kind::PgBouncer { processes: 1 }));
        all.push(target("pgbouncer/w2", Kind::PgBouncer { processes: 2 }));
    }
    all.push(target("pgmoor", Kind::Pgmoor(Moor::WHOLE)));
    all.push(target("pgmoor/w2", Kind::Pgmoor(Moor { workers: 2, ..Moor::WHOLE })));
    all.push(target("pgmoor/plain", Kind::Pgmoor(Moor { carries: false, ..Moor::WHOLE })));
    all.push(target("pgmoor/epoll", Kind::Pgmoor(Moor { gathers: false, ..Moor::WHOLE })));
    all.retain(|target| options.has(&target.name));
    all
}

impl Target {
    /// One of the others that pgmoor is compared with, at one worker.
    pub(crate) fn is_peer(&self) -> bool {
        match self.kind {
            Kind::PgBouncer { processes } => processes == 1,
            Kind::Haproxy | Kind::Given(_) => true,
            Kind::Direct | Kind::Bare | Kind::Pgmoor(_) => false,
        }
    }
}

/// One that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    processes: Vec<Process>,
    pids: Option<Vec<u32>>,
}

impl Running {
    fn ours(address: SocketAddr, processes: Vec<Process>) -> Self {
        let pids = processes.iter().map(Process::pid).collect();
        Self { address, processes, pids: Some(pids) }
    }

    /// Its processes; `None` if they are not known, or if there is no proxy.
    pub(crate) fn pids(&self) -> Option<&[u32]> {
        self.pids.as_deref()
    }

    fn ended(&mut self) -> bool {
        self.processes.iter_mut().any(Process::ended)
    }

    /// Waits until it lets clients in.
    fn wait(mut self, door: Door, log: impl Fn() -> String) -> Result<Self> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let tried = match door {
                Door::Trust => {
                    Link::open(self.address, None).and_then(|mut link| link.run("SELECT 1", &mut [0; 512]).map(drop))
                }
                Door::Scram => TcpStream::connect(self.address).map(drop).map_err(Trouble::from),
            };
            let Err(trouble) = tried else {
                return Ok(self);
            };
            if self.ended() || Instant::now() > deadline {
                return Err(Trouble::new(format!("it does not start: {trouble}\n{}", log())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Those that run, each started when it is first needed.
#[derive(Default)]
pub(crate) struct Fleet {
    running: BTreeMap<(String, Door), Running>,
    /// Those that could not be started: they are not tried again.
    broken: Vec<(String, Door)>,
}

impl Fleet {
    pub(crate) fn get(
        &mut self,
        programs: &Programs,
        stage: &Stage,
        target: &Target,
        door: Door,
    ) -> Result<&mut Running> {
        let place = (target.name.clone(), door);
        if self.broken.contains(&place) || self.running.get_mut(&place).is_some_and(Running::ended) {
            return Err(Trouble::new(format!("{} does not run", target.name)));
        }
        match self.running.entry(place) {
            Entry::Occupied(running) => Ok(running.into_mut()),
            Entry::Vacant(place) => match start(programs, stage, target, door) {
                Ok(running) => Ok(place.insert(running)),
                Err(trouble) => {
                    self.broken.push(place.into_key());
                    Err(trouble).trying(|| format!("starting {}", target.name))
                }
            },
        }
    }
}

/// Starts a target of its own, and waits until it lets clients in.
pub(crate) fn start(programs: &Programs, stage: &Stage, target: &Target, door: Door) -> Result<Running> {
    let address = match &target.kind {
        Kind::Direct => return Ok(Running { address: stage.postgres.address(), processes: Vec::new(), pids: None }),
        Kind::Given(peer) => {
            let address = peer.address.to_socket_addrs().trying(|| peer.address.clone())?.next();
            let address = address.ok_or_else(|| Trouble::new(format!("{} is no address", peer.address)))?;
            return Ok(Running { address, processes: Vec::new(), pids: peer.pid.map(|pid| vec![pid]) });
        }
        Kind::Pgmoor(_) | Kind::PgBouncer { .. } | Kind::Haproxy | Kind::Bare => free_address()?,
    };
    let folder = tempfile::Builder::new().prefix("proxy-").tempdir_in(stage.folder.path())?.keep();
    open_to_all(&folder)?;
    let processes = match &target.kind {
        Kind::Pgmoor(moor) => vec![pgmoor::start(stage, *moor, door, address, &folder)?],
        Kind::PgBouncer { processes } => proxies::pgbouncer(programs, stage, *processes, door, address, &folder)?,
        Kind::Haproxy => vec![proxies::haproxy(programs, stage, address, &folder)?],
        Kind::Bare => vec![bare::start(stage, address, &folder)?],
        Kind::Direct | Kind::Given(_) => Vec::new(),
    };
    Running::ours(address, processes).wait(door, || {
        let logs = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    })
}

/// A loopback address nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn open_to_all(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777))?;
    Ok(())
}
