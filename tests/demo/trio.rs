//! Three PostgreSQL servers of this machine, one the primary and two following it; and what an HA manager does to them.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Client;

use crate::cluster::children::{Child, Program, Signal};
use crate::cluster::patroni::connect_to;
use crate::cluster::ports::Subnet;
use crate::cluster::toolbox::is_root;
use crate::cluster::trouble::{Result, Trouble, Trying, eventually};

const PORT: u16 = 5432;
const START: Duration = Duration::from_secs(30);
/// How long a server may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// The three of them.
pub(crate) struct Trio {
    bin: PathBuf,
    folder: PathBuf,
    subnet: Subnet,
    password: String,
    servers: Vec<Server>,
}

struct Server {
    name: String,
    address: Ipv4Addr,
    process: Option<Child>,
}

/// One server, by its place: 0 is pg-0.
pub(crate) type Place = usize;

impl Trio {
    /// Nothing is started yet. `folder` must be open to every user: PostgreSQL does not run as root.
    pub(crate) fn new(bin: &Path, folder: &Path) -> Result<Self> {
        let subnet = Subnet::take()?;
        let server = |n: u8| Server { name: format!("pg-{n}"), address: subnet.address(10 + n), process: None };
        let servers = (0..3).map(server).collect();
        let password = format!("{:032x}", rand::random::<u128>());
        Ok(Self { bin: bin.to_owned(), folder: folder.to_owned(), subnet, password, servers })
    }

    /// The loopback network the servers are in.
    pub(crate) fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// The password of every role.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// A server's name.
    pub(crate) fn name(&self, place: Place) -> &str {
        &self.servers[place].name
    }

    /// Where a server listens.
    pub(crate) fn address(&self, place: Place) -> SocketAddr {
        (self.servers[place].address, PORT).into()
    }

    /// Makes the first primary, and on it the roles of pgmoor and of the application.
    pub(crate) async fn found(&mut self, place: Place) -> Result<()> {
        let secret = self.folder.join("password");
        fs::write(&secret, &self.password)?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        own(&secret)?;
        let data = self.fresh(place)?;
        let initdb = self.program("initdb").arg("-D").arg(&data).arg("--pwfile").arg(&secret);
        self.done(initdb.args([
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale",
            "C.UTF-8",
            "--no-sync",
        ]))
        .await?;
        fs::remove_file(&secret)?;
        self.configure(place, None)?;
        self.start(place).await?;
        let password = &self.password;
        // There is no standby yet that could confirm.
        let sql = format!(
            "SET synchronous_commit = local; CREATE ROLE pgmoor LOGIN PASSWORD '{password}' IN ROLE pg_monitor; \
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text, bigint, bigint, boolean) TO pgmoor; \
             CREATE ROLE app LOGIN PASSWORD '{password}'"
        );
        let client = self.connect(place).await?;
        client.batch_execute(&sql).await?;
        // Not in that batch: a database cannot be made in a transaction.
        Ok(client.batch_execute("CREATE DATABASE app OWNER app").await?)
    }

    /// Makes a standby of `primary` from a fresh copy of it, and waits until it streams.
    pub(crate) async fn join(&mut self, place: Place, primary: Place) -> Result<()> {
        let data = self.fresh(place)?;
        let host = self.servers[primary].address.to_string();
        let copy = self.program("pg_basebackup").env("PGPASSWORD", &self.password).arg("-D").arg(&data);
        let port = PORT.to_string();
        self.done(copy.args(["-h", &host, "-p", &port, "-U", "postgres", "-c", "fast", "-X", "stream", "--no-sync"]))
            .await?;
        self.rejoin(place, primary).await
    }

    /// Starts a server whose data is there as a standby of `primary`, and waits until it streams.
    pub(crate) async fn rejoin(&mut self, place: Place, primary: Place) -> Result<()> {
        let signal = self.data(place).join("standby.signal");
        fs::write(&signal, "")?;
        own(&signal)?;
        self.configure(place, Some(primary))?;
        self.start(place).await?;
        self.wait_streaming(place, primary).await
    }

    /// Lets a running standby follow another primary.
    pub(crate) async fn follow(&self, place: Place, primary: Place) -> Result<()> {
        self.configure(place, Some(primary))?;
        self.process(place)?.signal(Signal::Hup)?;
        self.wait_streaming(place, primary).await
    }

    /// SIGKILL to the postmaster and to every process it has forked, at once.
    pub(crate) async fn crash(&mut self, place: Place) -> Result<usize> {
        let process = self.process(place)?;
        let mut pids: Vec<u32> = process.pid().into_iter().collect();
        let mut looked_at = 0;
        while let Some(&pid) = pids.get(looked_at) {
            pids.extend(children(pid));
            looked_at += 1;
        }
        Signal::Kill.send(&pids)?;
        process.ended().await;
        remove_shared_memory(&self.data(place)).await;
        self.servers[place].process = None;
        Ok(pids.len())
    }

    /// Asks a server to end: open transactions are rolled back, everything committed reaches the standbys.
    pub(crate) async fn shut_down(&mut self, place: Place) -> Result<()> {
        if let Some(process) = self.servers[place].process.take() {
            process.signal(Signal::Int)?;
            if tokio::time::timeout(GRACE, process.ended()).await.is_err() {
                process.kill().await?;
                remove_shared_memory(&self.data(place)).await;
            }
        }
        Ok(())
    }

    /// Ends them all.
    pub(crate) async fn end(&mut self) -> Result<()> {
        for place in 0..self.servers.len() {
            self.shut_down(place).await?;
        }
        Ok(())
    }

    /// The standby that has received most, and the other one.
    pub(crate) async fn most_advanced(&self, among: [Place; 2]) -> Result<(Place, Place)> {
        let [first, second] = among;
        if self.received(first).await? >= self.received(second).await? {
            Ok((first, second))
        } else {
            Ok((second, first))
        }
    }

    /// Makes a standby the primary.
    pub(crate) async fn promote(&self, place: Place) -> Result<()> {
        let row = self.connect(place).await?.query_one("SELECT pg_promote(true, 20)", &[]).await?;
        if row.try_get(0)? {
            Ok(())
        } else {
            Err(Trouble::new(format!("{} was not promoted in 20 s", self.name(place))))
        }
    }

    async fn received(&self, place: Place) -> Result<i64> {
        let sql = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')::bigint";
        Ok(self.connect(place).await?.query_one(sql, &[]).await?.try_get(0)?)
    }

    async fn wait_streaming(&self, place: Place, primary: Place) -> Result<()> {
        let (upstream, name) = (self.connect(primary).await?, self.name(place));
        let sql = "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND application_name = $1";
        let streams = || async { upstream.query_opt(sql, &[&name]).await.ok()?.map(drop) };
        eventually(&format!("{name} to follow {}", self.name(primary)), START, streams).await
    }

    async fn start(&mut self, place: Place) -> Result<()> {
        let data = self.data(place);
        let log = self.log();
        let process = self.program("postgres").arg("-D").arg(&data).start(&log)?;
        let answers = || async {
            // One that has ended will never answer; the failure below says why.
            if process.status().is_some() {
                return Some(false);
            }
            self.connect(place).await.ok().map(|_| true)
        };
        if eventually(&format!("{} to answer", self.name(place)), START, answers).await? {
            self.servers[place].process = Some(process);
            return Ok(());
        }
        Err(Trouble::new(format!("{} ended:\n{}", self.name(place), process.log_tail(20))))
    }

    async fn connect(&self, place: Place) -> Result<Client> {
        connect_to(self.address(place), "postgres", &self.password, "postgres").await
    }

    fn process(&self, place: Place) -> Result<&Child> {
        let process = self.servers[place].process.as_ref();
        process.ok_or_else(|| Trouble::new(format!("{} does not run", self.name(place))))
    }

    fn data(&self, place: Place) -> PathBuf {
        self.folder.join(self.name(place))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// An empty folder for a server's data.
    fn fresh(&self, place: Place) -> Result<PathBuf> {
        let data = self.data(place);
        if data.exists() {
            fs::remove_dir_all(&data)?;
        }
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        own(&data)?;
        Ok(data)
    }

    /// Writes a server's configuration: it is the same for all but for the name, the address and whom it follows.
    fn configure(&self, place: Place, primary: Option<Place>) -> Result<()> {
        let Server { name, address, .. } = &self.servers[place];
        let names: Vec<String> = self.servers.iter().map(|server| format!("\"{}\"", server.name)).collect();
        let names = names.join(", ");
        // An acknowledged commit is on a standby, too: without that, no failover could promise to lose nothing.
        let mut text = format!(
            "cluster_name = '{name}'\nlisten_addresses = '{address}'\nport = {PORT}\nunix_socket_directories = ''\n\
             synchronous_standby_names = 'ANY 1 ({names})'\nwal_retrieve_retry_interval = '100ms'\n\
             wal_keep_size = '256MB'\nshared_buffers = '16MB'\nmax_connections = 60\npassword_encryption = scram-sha-256\n\
             dynamic_shared_memory_type = mmap\nfsync = off\n"
        );
        if let Some(primary) = primary {
            let (host, password) = (self.servers[primary].address, &self.password);
            text += &format!("primary_conninfo = 'host={host} port={PORT} user=postgres password={password}'\n");
        }
        let data = self.data(place);
        let file = data.join("postgresql.conf");
        fs::write(&file, text).trying(|| format!("writing {}", file.display()))?;
        let hba = data.join("pg_hba.conf");
        fs::write(&hba, "host all all 127.0.0.0/8 scram-sha-256\nhost replication all 127.0.0.0/8 scram-sha-256\n")?;
        own(&file)?;
        own(&hba)
    }

    /// A program of PostgreSQL's, run by a user it accepts.
    fn program(&self, name: &str) -> Program {
        let program = Program::new(name, self.bin.join(name)).folder(&self.folder);
        if is_root() { program.user("postgres") } else { program }
    }

    /// Runs a program to its end.
    async fn done(&self, program: Program) -> Result<()> {
        let process = program.start(&self.log())?;
        let status = process.ended().await;
        if status.success() {
            return Ok(());
        }
        Err(Trouble::new(format!("{}: {status}\n{}", process.name(), process.log_tail(20))))
    }
}

/// The processes a process has forked, all its threads' together.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let listed = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    listed.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// A killed postmaster leaves a small System V segment behind, whose id ends line 7 of its `postmaster.pid`.
async fn remove_shared_memory(data: &Path) {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
        // The kernel may have removed it with its last process.
        let _ = tokio::process::Command::new("ipcrm").args(["-m", id]).output().await;
    }
}

fn own(file: &Path) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let status = std::process::Command::new("chown").arg("postgres:postgres").arg(file).status()?;
    if status.success() { Ok(()) } else { Err(Trouble::new(format!("chown of {} failed", file.display()))) }
}
