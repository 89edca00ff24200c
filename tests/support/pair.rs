//! A primary and its standby, and pgmoor processes in front of them: real programs on loopback, gone with the test.
//!
//! The servers belong to a thread of the pair's own, because the kernel ends them with the thread that started them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::postgres::{Postgres, end};

const BIN: &str = "/usr/lib/postgresql/15/bin";
/// For whatever a test waits for: far more than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Both servers; `a` is the primary at first, `b` the standby.
pub(crate) struct Pair {
    jobs: Option<mpsc::Sender<Job>>,
    keeper: Option<JoinHandle<()>>,
    /// Where `a` listens.
    pub(crate) a: SocketAddr,
    /// Where `b` listens.
    pub(crate) b: SocketAddr,
}

type Job = Box<dyn FnOnce(&mut Servers) + Send>;

struct Servers {
    a: Postgres,
    b: Standby,
}

struct Standby {
    child: Child,
    /// Holds its data.
    _folder: tempfile::TempDir,
}

impl Drop for Standby {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The pair that tests share while any of them runs: none of them may harm it.
pub(crate) fn shared() -> Arc<Pair> {
    static SHARED: Mutex<Weak<Pair>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(pair) = shared.upgrade() {
        return pair;
    }
    let pair = Arc::new(Pair::start(""));
    *shared = Arc::downgrade(&pair);
    pair
}

impl Pair {
    /// Starts both, with further lines for their `postgresql.conf`. Role and database `app` are there; role `pgmoor` probes.
    pub(crate) fn start(settings: &str) -> Self {
        let settings = format!("wal_keep_size = 64\nmax_wal_size = 256MB\n{settings}\n");
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (started, addresses) = mpsc::channel();
        let keeper = std::thread::spawn(move || {
            let mut servers = match Servers::start(&settings) {
                Ok((servers, b)) => {
                    let _ = started.send(Ok((servers.a.address(), b)));
                    servers
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            while let Ok(job) = inbox.recv() {
                job(&mut servers);
            }
        });
        let (a, b) = addresses.recv().unwrap().unwrap();
        Self { jobs: Some(jobs), keeper: Some(keeper), a, b }
    }

    fn act<T: Send + 'static>(&self, act: impl FnOnce(&mut Servers) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        self.jobs.as_ref().unwrap().send(Box::new(move |servers| drop(done.send(act(servers))))).unwrap();
        result.recv().unwrap()
    }

    /// Kills the first primary and all its processes at once: no word to anybody, as with a lost node.
    pub(crate) fn kill9(&self) {
        self.act(|servers| {
            let postmaster = servers.a.pid();
            let mut doomed = vec![postmaster];
            doomed.extend(children_of(postmaster));
            kill("KILL", &doomed);
            servers.a.wait_end().unwrap();
        });
    }

    /// Stops the first primary in good order: it says 57P01 to its clients.
    pub(crate) fn stop(&self) {
        self.act(|servers| {
            servers.a.signal("INT").unwrap();
            servers.a.wait_end().unwrap();
        });
    }

    /// Starts the first primary again.
    pub(crate) fn restart(&self) {
        self.act(|servers| servers.a.restart().unwrap());
    }

    /// Recovers the first primary after its death and makes it the primary of the next timeline, as Patroni does.
    pub(crate) fn promote_itself(&self) {
        self.act(|servers| {
            servers.a.recover_alone().unwrap();
            servers.a.restart().unwrap();
        });
        assert_eq!(psql(self.a, "select pg_promote()"), "t");
    }

    /// Makes the standby the primary; it is one when this returns.
    pub(crate) fn promote(&self) {
        assert_eq!(psql(self.b, "select pg_promote()"), "t");
    }

    /// Waits until the standby has replayed everything the primary has written.
    pub(crate) fn caught_up(&self) {
        // What is inserted and not flushed (a pruned page, say) is no commit, and may not be sent for a long while.
        let end = psql(self.a, "select pg_current_wal_flush_lsn()");
        until("the standby to catch up", || {
            (psql(self.b, &format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
        });
    }

    /// The plan of a pgmoor in front of both.
    pub(crate) fn plan(&self) -> Plan {
        Plan { fixed: vec![("a".to_owned(), self.a), ("b".to_owned(), self.b)], ..Plan::default() }
    }

    /// A pgmoor that trusts everybody, in front of both.
    pub(crate) fn moor(&self) -> Moor {
        Moor::start(&self.plan())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl Servers {
    fn start(settings: &str) -> io::Result<(Self, SocketAddr)> {
        let a = Postgres::start_with(settings, None)?;
        for sql in [
            "create role app login superuser password 'app'",
            "create database app owner app",
            "create role pgmoor login in role pg_monitor",
            "grant execute on function pg_catalog.pg_read_file(text, bigint, bigint, boolean) to pgmoor",
        ] {
            a.psql(sql)?;
        }
        let folder = tempfile::Builder::new().prefix("pgmoor-standby-").tempdir()?;
        if is_root() {
            run(Command::new("chown").arg("postgres:postgres").arg(folder.path()));
        }
        let data = folder.path().join("data");
        let from = a.address().port().to_string();
        let mut copy = as_postgres(Path::new(BIN).join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-c", "fast", "-X", "stream", "-R", "-p", &from, "-D"]);
        run(copy.arg(&data).current_dir(folder.path()));
        let port = free_port()?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = as_postgres(Path::new(BIN).join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let standby = Standby { child, _folder: folder };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until("the standby to take logins", || try_psql(address, "select 1").ok());
        Ok((Self { a, b: standby }, address))
    }
}

/// What a pgmoor is told. The sections' lines go into its configuration as they are.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) tls: String,
    pub(crate) auth: String,
    pub(crate) users: String,
    pub(crate) limits: String,
    pub(crate) pool: String,
    pub(crate) continuity: String,
    pub(crate) routing: String,
    pub(crate) cluster: String,
    pub(crate) fixed: Vec<(String, SocketAddr)>,
    /// Start returns when the primary is proven; else when pgmoor listens.
    pub(crate) wait_primary: bool,
}

/// Room for everybody, and backends that are lent for a transaction.
const POOL: &str = "size = 500\npod_size = 500";

/// The same for the time of a session.
pub(crate) const POOL_OF_SESSIONS: &str = "mode = \"session\"\nsize = 500\npod_size = 500";

impl Default for Plan {
    fn default() -> Self {
        Self {
            tls: String::new(),
            auth: "method = \"trust\"".to_owned(),
            users: String::new(),
            limits: String::new(),
            pool: POOL.to_owned(),
            continuity: String::new(),
            routing: String::new(),
            cluster: "databases = [\"*\"]".to_owned(),
            fixed: Vec::new(),
            wait_primary: true,
        }
    }
}

impl Plan {
    fn toml(&self, address: &str) -> String {
        let fixed: Vec<String> = self.fixed.iter().map(|(name, server)| format!("\"{name}={server}\"")).collect();
        format!(
            "[listen]\nrw = \"{address}:5432\"\nro = \"{address}:5433\"\nadmin = \"{address}:9187\"\n\
             [tls]\n{}\n[auth]\n{}\n[limits]\n{}\n[pool]\n{}\n[continuity]\n{}\n[routing]\n{}\n[log]\nlevel = \"debug\"\n\
             [[cluster]]\nname = \"demo\"\n{}\ndiscovery.fixed = [{}]\nprobe = {{ user = \"pgmoor\", interval = \"100ms\", timeout = \"1s\" }}\n",
            self.tls,
            self.auth,
            self.limits,
            self.pool,
            self.continuity,
            self.routing,
            self.cluster,
            fixed.join(", "),
        )
    }
}

/// A pgmoor process. Dropping it kills it.
pub(crate) struct Moor {
    pid: u32,
    /// Waits for it; the kernel ends pgmoor with this thread.
    waiter: Option<JoinHandle<Option<i32>>>,
    address: String,
    folder: tempfile::TempDir,
}

impl Moor {
    /// Starts one on a loopback address of its own.
    pub(crate) fn start(plan: &Plan) -> Self {
        let folder = tempfile::Builder::new().prefix("pgmoor-run-").tempdir().unwrap();
        let address = own_address();
        let file = folder.path().join("pgmoor.toml");
        std::fs::write(&file, plan.toml(&address)).unwrap();
        std::fs::write(folder.path().join("users.toml"), &plan.users).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let (started, pid) = mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_pgmoor"), "run", "--config"]).arg(file);
            let mut child = command.stdin(Stdio::null()).stdout(log.try_clone().ok()?).stderr(log).spawn().ok()?;
            let _ = started.send(child.id());
            child.wait().ok()?.code()
        });
        let moor = Self { pid: pid.recv().unwrap(), waiter: Some(waiter), address, folder };
        let ready = Instant::now() + PATIENCE;
        while !moor
            .status()
            .is_some_and(|status| !plan.wait_primary || status["clusters"][0]["writes"]["to"]["pod"].is_string())
        {
            assert!(!moor.ended() && Instant::now() < ready, "pgmoor did not start:\n{}", moor.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        if plan.wait_primary {
            // Readers too: what is proven of the standby comes with a probe of its own.
            let count = plan.fixed.len();
            until("the pods' roles", || {
                let status = moor.status()?;
                let known = status["clusters"][0]["pods"]
                    .as_array()?
                    .iter()
                    .filter(|pod| pod["role"] == "primary" || pod["fit"] == true)
                    .count();
                (known == count).then_some(())
            });
        }
        moor
    }

    /// The endpoint of the primary.
    pub(crate) fn rw(&self) -> SocketAddr {
        format!("{}:5432", self.address).parse().unwrap()
    }

    /// The endpoint of the replicas.
    pub(crate) fn ro(&self) -> SocketAddr {
        format!("{}:5433", self.address).parse().unwrap()
    }

    /// The operators' endpoint.
    pub(crate) fn admin(&self) -> SocketAddr {
        format!("{}:9187", self.address).parse().unwrap()
    }

    /// A connection string of libpq for user and database `app`.
    pub(crate) fn dsn(&self) -> String {
        format!("host={} port=5432 user=app dbname=app", self.address)
    }

    /// The host part of every endpoint.
    pub(crate) fn host(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Memory it holds, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        kill(name, &[self.pid]);
    }

    /// Has it ended?
    pub(crate) fn ended(&self) -> bool {
        self.waiter.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end: the exit code.
    pub(crate) fn wait_end(&mut self) -> Option<i32> {
        until("pgmoor to end", || self.ended().then_some(()));
        self.waiter.take().and_then(|waiter| waiter.join().ok().flatten())
    }

    /// What a GET of the admin endpoint answers: status line and body.
    pub(crate) fn get(&self, path: &str) -> io::Result<(String, String)> {
        let mut stream = TcpStream::connect_timeout(&self.admin(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: pgmoor\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
        Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
    }

    /// Its `/status.json`.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let (head, body) = self.get("/status.json").ok()?;
        head.contains(" 200 ").then(|| serde_json::from_str(&body).ok()).flatten()
    }

    /// A value of `/metrics`, by name and labels as they stand there; 0 if it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let (_, body) = self.get("/metrics").unwrap();
        body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Moor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(60);
            let tail: Vec<&str> = log.lines().skip(from).collect();
            let _ = writeln!(io::stderr(), "--- the end of pgmoor's log ({})\n{}", self.address, tail.join("\n"));
        }
        if !self.ended() {
            kill("KILL", &[self.pid]);
        }
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}

/// Looks again and again until `look` finds what it looks for.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs SQL on a server itself, as its superuser, and gives what psql prints.
pub(crate) fn psql(server: SocketAddr, sql: &str) -> String {
    try_psql(server, sql).unwrap()
}

/// The same, where it may fail.
pub(crate) fn try_psql(server: SocketAddr, sql: &str) -> Result<String, String> {
    let dsn = format!("host={} port={} user=postgres dbname=app", server.ip(), server.port());
    let (good, out, err) = run_psql(&dsn, &["-Atq", "-c", sql], &[]);
    if good { Ok(out) } else { Err(err) }
}

/// Runs psql with these arguments and variables: success, what it printed, what it complained about.
pub(crate) fn run_psql(dsn: &str, args: &[&str], env: &[(&str, &str)]) -> (bool, String, String) {
    let output = Command::new(Path::new(BIN).join("psql"))
        .args(["-X", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-d", dsn])
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Sends a signal to processes; those that are gone are no error.
pub(crate) fn kill(signal: &str, pids: &[u32]) {
    // The shell's own: a bare machine has no other.
    let mut command = Command::new("sh");
    command.args(["-c", "kill \"$@\"", "kill"]);
    command.arg(format!("-{signal}")).args(pids.iter().map(u32::to_string));
    command.stderr(Stdio::null()).status().unwrap();
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map(|(_, after)| after.to_owned()).unwrap_or_default();
        after.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
    };
    processes.filter(is_child).collect()
}

/// A loopback address nobody else uses: by process, and by turn within it.
pub(crate) fn own_address() -> String {
    use std::sync::atomic::{AtomicU8, Ordering};
    static TURN: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    format!("127.{}.{}.{}", 20 + (pid >> 8) % 200, pid & 255, TURN.fetch_add(1, Ordering::Relaxed))
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn as_postgres(program: std::path::PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).env_remove("PGDATA").env("LC_ALL", "C.UTF-8");
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
