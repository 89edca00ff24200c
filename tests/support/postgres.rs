//! A real PostgreSQL server for one test: a fresh data folder from a cached template, a free loopback port, gone on drop.
//!
//! Roles, all with the password [`PASSWORD`] and each let in over TCP by one method only: `scram`, `md5`, `clear`,
//! `trusted`, and the superuser `postgres` (trust). `refused` is rejected by `pg_hba.conf`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

/// The password of every role.
pub(crate) const PASSWORD: &str = "se cr\u{e9}t";

const BIN: &str = "/usr/lib/postgresql/15/bin";
const START_WITHIN: Duration = Duration::from_secs(60);
/// Part of the template's name: change it with what goes into the template.
const TEMPLATE: &str = "postgres-15-template-1";

const HBA: &str = "\
local all all trust
host all scram 127.0.0.0/8 scram-sha-256
host all md5 127.0.0.0/8 md5
host all clear 127.0.0.0/8 password
host all refused 127.0.0.0/8 reject
host all all 127.0.0.0/8 trust
host replication all 127.0.0.0/8 trust
";

/// Fast and small, not durable: nothing outlives the test.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
synchronous_commit = on
full_page_writes = off
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
max_connections = 200
wal_level = replica
max_wal_senders = 5
hot_standby = on
logging_collector = off
";

/// A running server. Dropping it stops it at once and removes its data.
pub(crate) struct Postgres {
    child: Child,
    port: u16,
    /// Holds `data`, the socket and the log.
    folder: tempfile::TempDir,
}

/// Is PostgreSQL installed here? Without it tests that need it say so and end.
pub(crate) fn installed() -> bool {
    Path::new(BIN).join("postgres").exists()
}

impl Postgres {
    /// A server with the settings above.
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_with("", None)
    }

    /// A server with further lines for `postgresql.conf`, and, if given, TLS with this certificate and key (PEM).
    pub(crate) fn start_with(settings: &str, tls: Option<(&str, &str)>) -> io::Result<Self> {
        Self::start_at(None, settings, tls)
    }

    /// The same, on a port that the caller knows to be free.
    pub(crate) fn start_at(port: Option<u16>, settings: &str, tls: Option<(&str, &str)>) -> io::Result<Self> {
        let template = template()?;
        let folder = tempfile::Builder::new().prefix("pgmoor-pg-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        run(Command::new("cp").arg("-a").arg(&template).arg(&data))?;
        if is_root() {
            // The cache may come from a machine whose user postgres has another number.
            run(Command::new("chown").args(["-R", "postgres:"]).arg(&data))?;
        }
        let mut lines = format!("{SETTINGS}unix_socket_directories = '{}'\n", data.display());
        if let Some((certificate, key)) = tls {
            private(&data.join("server.crt"), certificate)?;
            private(&data.join("server.key"), key)?;
            lines += "ssl = on\n";
        }
        lines += settings;
        private(&data.join("pgmoor.conf"), &lines)?;
        let mut tries = 5;
        loop {
            let port = port.map_or_else(free_port, Ok)?;
            let mut child = spawn(&data, folder.path(), port)?;
            if ready(&mut child, port)? {
                return Ok(Self { child, port, folder });
            }
            tries -= 1;
            if tries == 0 {
                return Err(io::Error::other(log(folder.path())));
            }
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The postmaster's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        log(self.folder.path())
    }

    /// Runs SQL with psql as the superuser, and gives what it prints (unaligned, no headings).
    pub(crate) fn psql(&self, sql: &str) -> io::Result<String> {
        let port = self.port.to_string();
        let mut psql = Command::new(Path::new(BIN).join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"]);
        output(psql.args(["-p", &port, "-c", sql]))
    }

    /// Sends the postmaster a signal (`INT`: fast shutdown, `KILL`: crash, `STOP`: freeze).
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        signal_to(self.child.id(), name)
    }

    /// Waits until the server has ended, at most for `START_WITHIN`.
    pub(crate) fn wait_end(&mut self) -> io::Result<()> {
        wait(|| Ok(self.child.try_wait()?.is_some()))
            .and_then(|ended| ended.then_some(()).ok_or_else(|| io::Error::other("the server has not ended")))
    }

    /// Starts the ended server again, on the same port and data.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(&self.folder.path().join("data"), self.folder.path(), self.port)?;
        if ready(&mut self.child, self.port)? { Ok(()) } else { Err(io::Error::other(self.log())) }
    }

    /// Recovers the ended server as Patroni does after a crash: alone, which ends its WAL with a switch and a checkpoint, so
    /// that it can start as a standby.
    pub(crate) fn recover_alone(&self) -> io::Result<()> {
        let data = self.folder.path().join("data");
        let mut single = as_postgres(Path::new(BIN).join("postgres"));
        single.arg("--single").arg("-D").arg(&data);
        run(single.args(["-c", "archive_mode=on", "-c", "archive_command=false", "template1"]))?;
        private(&data.join("standby.signal"), "")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Stops a postmaster at once. One that is killed leaves its System V segment behind, of which a machine has 4,096.
pub(crate) fn end(postmaster: &mut Child) {
    if matches!(postmaster.try_wait(), Ok(None))
        && ["QUIT", "CONT"].iter().all(|signal| signal_to(postmaster.id(), signal).is_ok())
    {
        let _ = wait(|| Ok(postmaster.try_wait()?.is_some()));
    }
    let _ = postmaster.kill();
    let _ = postmaster.wait();
}

fn signal_to(pid: u32, name: &str) -> io::Result<()> {
    // The shell's own: a bare machine has no other.
    let words = [format!("-{name}"), pid.to_string()];
    run(Command::new("sh").args(["-c", "kill \"$@\"", "kill"]).args(words))
}

/// The data folder every server is copied from; made once per machine.
fn template() -> io::Result<PathBuf> {
    let cache = cache()?;
    let ready = cache.join(TEMPLATE);
    if ready.exists() {
        return Ok(ready);
    }
    // Made beside its place and moved there whole: test binaries that race make it twice and use one.
    let making = tempfile::Builder::new().prefix("making-").tempdir_in(&cache)?;
    fs::set_permissions(making.path(), fs::Permissions::from_mode(0o755))?;
    let data = making.path().join("data");
    fs::create_dir(&data)?;
    own(&data)?;
    let mut initdb = as_postgres(Path::new(BIN).join("initdb"));
    initdb.args(["-U", "postgres", "--auth", "trust", "--no-sync", "-E", "UTF8", "--locale", "C.UTF-8"]);
    output(initdb.args(["--wal-segsize", "1", "-D"]).arg(&data).current_dir(making.path()))?;
    fs::write(data.join("pg_hba.conf"), HBA)?;
    let mut conf = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
    writeln!(conf, "include_if_exists = 'pgmoor.conf'")?;
    drop(conf);
    let mut single = as_postgres(Path::new(BIN).join("postgres"))
        .args(["--single", "-D"])
        .arg(&data)
        .args(["-c", "fsync=off", "postgres"])
        .current_dir(making.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut sql = String::new();
    for (role, encryption) in [
        ("scram", "scram-sha-256"),
        ("md5", "md5"),
        ("clear", "scram-sha-256"),
        ("trusted", "scram-sha-256"),
        ("refused", "scram-sha-256"),
    ] {
        sql += &format!("SET password_encryption = '{encryption}'\nCREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'\n");
    }
    if let Some(mut stdin) = single.stdin.take() {
        stdin.write_all(sql.as_bytes())?;
    }
    if !single.wait()?.success() {
        return Err(io::Error::other("the template's roles could not be made"));
    }
    match fs::rename(&data, &ready) {
        Err(_) if ready.exists() => Ok(ready),
        moved => moved.map(|()| ready),
    }
}

/// Where templates are kept: `$PGMOOR_CACHE`, else root's own place, else the user's.
fn cache() -> io::Result<PathBuf> {
    let cache = match (std::env::var_os("PGMOOR_CACHE"), is_root()) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, true) => PathBuf::from("/var/cache/pgmoor"),
        (None, false) => std::env::temp_dir().join("pgmoor-cache"),
    };
    fs::create_dir_all(&cache)?;
    Ok(cache)
}

fn spawn(data: &Path, folder: &Path, port: u16) -> io::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    as_postgres(Path::new(BIN).join("postgres"))
        .arg("-D")
        .arg(data)
        .args(["-p", &port.to_string()])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

/// Waits until the server takes logins; false if it ended instead (its port was taken, perhaps).
fn ready(child: &mut Child, port: u16) -> io::Result<bool> {
    let port = port.to_string();
    let mut ended = false;
    let decided = wait(|| {
        ended = child.try_wait()?.is_some();
        let mut ask = Command::new(Path::new(BIN).join("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &port]);
        Ok(ended || ask.status()?.success())
    })?;
    if !decided {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(decided && !ended)
}

fn wait(mut done: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + START_WITHIN;
    while Instant::now() < deadline {
        if done()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// PostgreSQL refuses to run as root: then user postgres runs it. It dies with the thread that started it.
fn as_postgres(program: PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command.env_remove("PGDATA").env("LC_ALL", "C.UTF-8");
    command
}

/// Writes a file only the server may read.
fn private(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    own(file)
}

fn own(file: &Path) -> io::Result<()> {
    if is_root() { run(Command::new("chown").arg("postgres:postgres").arg(file)) } else { Ok(()) }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn run(command: &mut Command) -> io::Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("{command:?}: {said}")))
    }
}
