//! A real PostgreSQL for a test: a primary or its standby, on a free loopback port, frozen and promoted at will.

use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Whether PostgreSQL is installed here.
pub(crate) fn is_installed() -> bool {
    let is_there = Path::new(BIN).join("initdb").exists();
    if !is_there {
        println!("skipped: no PostgreSQL in {BIN}");
    }
    is_there
}

/// What stands where a history file should.
pub(crate) enum HistoryFile<'a> {
    /// Nothing.
    Missing,
    /// Something that hangs whoever reads it.
    Stuck,
    /// A file with this in it.
    Text(&'a str),
}

/// One running server. Dropped, it is killed and its data is gone.
pub(crate) struct Server {
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    data: PathBuf,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A new primary with the roles `postgres` (superuser) and `prober` (no rights), without passwords.
    pub(crate) fn primary() -> Self {
        let (folder, data) = folder();
        let data_text = data.to_str().unwrap();
        run("initdb", &["-D", data_text, "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C"]);
        let server = Self::start(folder, data);
        server.sql("CREATE ROLE prober LOGIN");
        server
    }

    /// A streaming standby of this server.
    pub(crate) fn standby(&self) -> Self {
        let (folder, data) = folder();
        let port = self.port.to_string();
        let place = data.to_str().unwrap();
        run(
            "pg_basebackup",
            &[
                "-D",
                place,
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-U",
                "postgres",
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "--no-sync",
            ],
        );
        Self::start(folder, data)
    }

    /// Runs a statement as the superuser.
    pub(crate) fn sql(&self, sql: &str) {
        let port = self.port.to_string();
        run("psql", &["-X", "-q", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "postgres", "-c", sql]);
    }

    /// Lets the role `prober` read the timeline's history, as the documentation says.
    pub(crate) fn grant_history(&self) {
        self.sql("GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text, bigint, bigint, boolean) TO prober");
    }

    /// The history file of a timeline, from its folder.
    pub(crate) fn history(&self, timeline: u32) -> String {
        std::fs::read_to_string(self.history_path(timeline)).unwrap()
    }

    /// Puts something else in the place of a timeline's history file.
    pub(crate) fn set_history(&self, timeline: u32, file: HistoryFile<'_>) {
        let path = self.history_path(timeline);
        if let Ok(true) = std::fs::metadata(&path).map(|file| file.file_type().is_fifo()) {
            // Lets those go that wait for it to be written.
            drop(std::fs::File::options().read(true).write(true).open(&path).unwrap());
        }
        let _ = std::fs::remove_file(&path); // it may be missing already
        match file {
            HistoryFile::Missing => {}
            HistoryFile::Stuck => {
                assert!(as_postgres("/usr/bin/mkfifo").arg(&path).status().unwrap().success(), "mkfifo");
            }
            HistoryFile::Text(text) => std::fs::write(&path, text).unwrap(),
        }
    }

    fn history_path(&self, timeline: u32) -> PathBuf {
        self.data.join(format!("pg_wal/{timeline:08X}.history"))
    }

    /// Promotes a standby.
    pub(crate) fn promote(&self) {
        run("pg_ctl", &["promote", "-D", self.data.to_str().unwrap()]);
    }

    /// Stops every process of it where it stands: it is there, its kernel takes connections, and it says nothing.
    pub(crate) fn freeze(&self) {
        assert!(self.signal("-STOP"), "the server is there to be frozen");
    }

    /// Lets a frozen server go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT"); // also on drop, where a server that has ended is no fault
    }

    fn start(folder: tempfile::TempDir, data: PathBuf) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = as_postgres("postgres");
        command.args(["-D", data.to_str().unwrap(), "-p", &port.to_string(), "-h", "127.0.0.1"]);
        for setting in
            ["fsync=off", "unix_socket_directories=", "wal_receiver_status_interval=1", "logging_collector=off"]
        {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let server = Self { port, data, process, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        let port = server.port.to_string();
        while !as_postgres("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success() {
            assert!(Instant::now() < deadline, "the server is up in time");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// To the postmaster and its children; a child may have ended by itself since. Says whether it was sent.
    fn signal(&self, signal: &str) -> bool {
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let pid = pid.to_string();
        let pids = std::iter::once(pid.as_str()).chain(children.split_whitespace());
        kill().arg(signal).args(pids).stderr(Stdio::null()).status().is_ok()
    }
}

/// The shell's own `kill`: a bare machine has no other.
fn kill() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "kill \"$@\"", "kill"]);
    command
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        // SIGQUIT: the postmaster takes its children with it, at once.
        let pid = self.process.id().to_string();
        let _ = kill().args(["-QUIT", &pid]).status();
        let _ = self.process.wait();
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    if let Some(uid) = other_user() {
        chown(folder.path(), Some(uid), None).unwrap();
    }
    let data = folder.path().join("data");
    (folder, data)
}

/// PostgreSQL does not run as root: then the user postgres runs it.
fn other_user() -> Option<u32> {
    let id = |args: &[&str]| -> u32 {
        let out = Command::new("id").args(args).output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
    };
    (id(&["-u"]) == 0).then(|| id(&["-u", "postgres"]))
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(Path::new(BIN).join(program));
    command.current_dir("/").env("LC_ALL", "C").env_remove("PGOPTIONS");
    if let Some(uid) = other_user() {
        command.uid(uid);
    }
    command
}

fn run(program: &str, args: &[&str]) {
    let out = as_postgres(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}
