//! The whole of pgmoor: instructions outside of the kernel for one transaction, sockets and all.
//!
//! pgmoor runs under Valgrind with one worker, between a real PostgreSQL and clients that ask in step: all ask, all are
//! answered. What the clients do is always the same, so what pgmoor does is nearly so.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::postgres::{self, Postgres};
use crate::raw::{self, Raw};
use crate::trouble::{Result, Trouble, Trying as _};

/// So often every client asks; and before it is counted, until buffers and tables have their size.
const TIMES: u64 = 500;
const WARM: u64 = 50;
/// Under Valgrind a start takes seconds.
const START_WITHIN: Duration = Duration::from_secs(60);
const END_WITHIN: Duration = Duration::from_secs(10);

const SELECT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 123456;";
const TABLE: &str = "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, abalance int);
    INSERT INTO pgbench_accounts VALUES (123456, 0)";

/// How one SELECT is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
    Prepared,
}

/// What is counted: a name, the protocol, how many clients.
const CASES: [(&str, Protocol, usize); 6] = [
    ("pgmoor: one simple SELECT, 1 client", Protocol::Simple, 1),
    ("pgmoor: one simple SELECT, 8 clients", Protocol::Simple, 8),
    ("pgmoor: one extended SELECT, 1 client", Protocol::Extended, 1),
    ("pgmoor: one extended SELECT, 8 clients", Protocol::Extended, 8),
    ("pgmoor: one prepared SELECT, 1 client", Protocol::Prepared, 1),
    ("pgmoor: one prepared SELECT, 8 clients", Protocol::Prepared, 8),
];

/// Counts those with `only` in their names; none where PostgreSQL is not installed.
pub(crate) fn all(only: &str) -> Result<Vec<(&'static str, u64)>> {
    let cases: Vec<_> = CASES.iter().filter(|(name, ..)| name.contains(only)).collect();
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    if !postgres::installed() {
        println!("PostgreSQL 15 is not installed: the whole of pgmoor is not counted");
        return Ok(Vec::new());
    }
    let server = Postgres::start()?;
    server.psql(TABLE)?;
    let moor = Moor::start(server.address())?;
    cases.into_iter().map(|(name, protocol, clients)| Ok((*name, moor.count(*protocol, *clients)?))).collect()
}

/// One pgmoor under Valgrind. Dropping it ends it.
struct Moor {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Drop for Moor {
    fn drop(&mut self) {
        // Asked first: killed, Valgrind leaves files of its own behind.
        let _ = Command::new("sh").args(["-c", "kill \"$1\"", "kill", &self.child.id().to_string()]).status();
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moor {
    fn start(server: SocketAddr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgmoor-micro-").tempdir()?;
        let (address, admin) = (free()?, free()?);
        // Probes cost instructions too: none while it counts.
        let config = format!(
            "[listen]\nrw = \"{address}\"\nadmin = \"{admin}\"\n[auth]\nmethod = \"trust\"\n\
             [pool]\nmode = \"transaction\"\nsize = 16\n[limits]\nworkers = 1\n[log]\nlevel = \"warn\"\n\
             [[cluster]]\nname = \"micro\"\ndiscovery.fixed = [\"pg-0={server}\"]\n\
             probe = {{ user = \"postgres\", interval = \"10m\", timeout = \"20s\" }}\n"
        );
        let file = folder.path().join("pgmoor.toml");
        fs::write(&file, config)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut valgrind = Command::new("setpriv");
        valgrind.args(["--pdeathsig", "KILL", "--", "valgrind", "--tool=callgrind"]);
        valgrind.arg(format!("--callgrind-out-file={}", folder.path().join("out").display()));
        valgrind.args([env!("CARGO_BIN_EXE_pgmoor"), "run", "--config"]).arg(&file);
        let child = valgrind.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let moor = Self { child: child.trying(|| "starting valgrind".to_owned())?, address, folder };
        let deadline = Instant::now() + START_WITHIN;
        while !moor.serves() {
            if Instant::now() > deadline {
                return Err(Trouble::new(fs::read_to_string(moor.folder.path().join("log"))?));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(moor)
    }

    fn serves(&self) -> bool {
        Raw::open(self.address).is_ok_and(|mut raw| raw.start(&PEOPLE).status == 'I')
    }

    /// Instructions for one transaction.
    fn count(&self, protocol: Protocol, clients: usize) -> Result<u64> {
        let mut clients: Vec<Raw> = (0..clients).map(|_| Raw::login_with(self.address, &PEOPLE)).collect();
        if protocol == Protocol::Prepared {
            for client in &mut clients {
                client.put(&[raw::parse("P0_1", SELECT), raw::sync()].concat());
                client.reply();
            }
        }
        ask(&mut clients, protocol, WARM)?;
        self.control("--zero")?;
        ask(&mut clients, protocol, TIMES)?;
        self.control("--dump")?;
        let newest = newest_dump(self.folder.path())?;
        let text = fs::read_to_string(&newest)?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
        fs::remove_file(newest)?;
        let total = total.ok_or_else(|| Trouble::new("a dump of callgrind without totals"))?;
        Ok(total / (TIMES * clients.len() as u64))
    }

    fn control(&self, what: &str) -> Result<()> {
        let output = Command::new("callgrind_control").args([what, &self.child.id().to_string()]).output();
        let output = output.trying(|| "callgrind_control (it comes with valgrind)".to_owned())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(Trouble::new(said)) }
    }
}

const PEOPLE: [(&str, &str); 2] = [("user", "postgres"), ("database", "postgres")];

fn ask(clients: &mut [Raw], protocol: Protocol, times: u64) -> Result<()> {
    let request = match protocol {
        Protocol::Simple => raw::query(SELECT),
        Protocol::Extended => [raw::parse("", SELECT), run("")].concat(),
        Protocol::Prepared => run("P0_1"),
    };
    for _ in 0..times {
        for client in &mut *clients {
            client.put(&request);
        }
        for client in &mut *clients {
            let reply = client.reply();
            if reply.done != ["SELECT 1"] {
                return Err(Trouble::new(format!("{protocol:?}: {reply:?}")));
            }
        }
    }
    Ok(())
}

/// As libpq does it.
fn run(statement: &str) -> Vec<u8> {
    [raw::bind("", statement, &[]), raw::about(b'D', b'P', ""), raw::execute("", 0), raw::sync()].concat()
}

fn newest_dump(folder: &Path) -> Result<std::path::PathBuf> {
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let dumps = files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("out")));
    dumps.max().ok_or_else(|| Trouble::new("callgrind has written no dump"))
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
