//! pgmoor as it is measured: its configuration and its start.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::process::{Process, output, tied};
use crate::stage::{SCRAM, Stage};
use crate::target::{Door, free_address};
use crate::trouble::{Result, Trying as _};

/// The release build of the tree this harness is in.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_pgmoor");
/// Backends of one user and database, as every pooler here has.
pub(crate) const POOL: usize = 16;

/// How it is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moor {
    /// Threads that relay.
    pub(crate) workers: usize,
    /// Whether open transactions are carried over a lost server (the default).
    pub(crate) carries: bool,
    /// Whether the short messages of one turn leave in one call of io_uring (the default).
    pub(crate) gathers: bool,
}

impl Moor {
    /// As users have it, with one worker.
    pub(crate) const WHOLE: Self = Self { workers: 1, carries: true, gathers: true };
}

/// Starts it on this address; its files go into `folder`.
pub(crate) fn start(stage: &Stage, moor: Moor, door: Door, address: SocketAddr, folder: &Path) -> Result<Process> {
    let users = format!("[[user]]\nname = \"{SCRAM}\"\nsecret = \"{}\"\n", stage.secret);
    fs::write(folder.join("users.toml"), users)?;
    let file = folder.join("pgmoor.toml");
    fs::write(&file, config(stage, moor, door, address)?)?;
    output(Command::new(PROGRAM).args(["check", "--config"]).arg(&file))?;
    let mut command = tied(Path::new(PROGRAM));
    command.args(["run", "--config"]).arg(&file);
    Process::start(command, &folder.join("pgmoor.log"))
}

fn config(stage: &Stage, moor: Moor, door: Door, address: SocketAddr) -> Result<String> {
    let auth = match door {
        Door::Trust => "method = \"trust\"",
        Door::Scram => "method = \"scram-sha-256\"\nusers_file = \"users.toml\"",
    };
    let mut text = format!(
        "[listen]\nrw = \"{address}\"\nadmin = \"{}\"\n\
         [tls]\nmode = \"prefer\"\ncert = \"{}\"\nkey = \"{}\"\n\
         [auth]\n{auth}\n\
         [pool]\nmode = \"transaction\"\nsize = {POOL}\n\
         [limits]\nsessions = 10000\nstartup_sessions = 10000\nworkers = {}\nio_uring = {}\n\
         [log]\nlevel = \"warn\"\n",
        free_address()?,
        stage.certificate.display(),
        stage.key.display(),
        moor.workers,
        moor.gathers,
    );
    if !moor.carries {
        text += "[continuity]\nreplay = false\ncommit_guard = \"off\"\n";
    }
    write!(
        text,
        "[[cluster]]\nname = \"bench\"\ndiscovery.fixed = [\"pg-0={}\"]\nprobe = {{ user = \"postgres\" }}\n",
        stage.postgres.address()
    )
    .trying(|| "writing the configuration".to_owned())?;
    Ok(text)
}
