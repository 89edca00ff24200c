//! What all proxies stand in front of: one PostgreSQL on loopback, its tables and users, and the certificate of all.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::options::Options;
use crate::postgres::{PASSWORD, Postgres};
use crate::process::output;
use crate::programs::Programs;
use crate::trouble::{Result, Trying as _};

/// The database of everything.
pub(crate) const DATABASE: &str = "bench";
/// The user that is let in without a password.
pub(crate) const TRUSTED: &str = "trusted";
/// The user that proves to know one.
pub(crate) const SCRAM: &str = "scram";

/// Nothing is durable: how fast a disk is says nothing about proxies.
const SETTINGS: &str = "
synchronous_commit = off
shared_buffers = 512MB
max_connections = 600
autovacuum = off
min_wal_size = 1GB
max_wal_size = 8GB
checkpoint_timeout = 1h
jit = off
";

const TABLES: &str = "
GRANT ALL ON ALL TABLES IN SCHEMA public TO scram;
CREATE UNLOGGED TABLE bulk (line text);
";

/// The server, the folder for everything else, the certificate.
pub(crate) struct Stage {
    pub(crate) postgres: Postgres,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// What PostgreSQL keeps of the password of [`SCRAM`].
    pub(crate) secret: String,
}

impl Stage {
    /// Starts the server and fills the tables.
    pub(crate) fn set(options: &Options, programs: &Programs) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgmoor-bench-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let (certificate, key) = certificate(programs, folder.path())?;
        let (pem, key_pem) = (fs::read_to_string(&certificate)?, fs::read_to_string(&key)?);
        let postgres = Postgres::start_at(options.postgres_port, SETTINGS, Some((&pem, &key_pem)))
            .trying(|| "starting PostgreSQL".to_owned())?;
        postgres.psql(&format!("CREATE DATABASE {DATABASE} OWNER {TRUSTED}"))?;
        let secret = postgres.psql(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{SCRAM}'"))?;
        let stage = Self { postgres, folder, certificate, key, secret };
        let (host, port) = stage.server();
        let mut fill = Command::new(&programs.pgbench);
        fill.args(["-i", "-q", "-s", &options.scale.to_string(), "-h", &host, "-p", &port, "-U", TRUSTED, DATABASE]);
        output(&mut fill)?;
        let mut psql = Command::new(programs.pgbench.with_file_name("psql"));
        psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-h", &host, "-p", &port, "-U", TRUSTED, "-c", TABLES, DATABASE]);
        output(&mut psql)?;
        stage.postgres.psql("CHECKPOINT")?;
        Ok(stage)
    }

    /// Host and port of PostgreSQL.
    pub(crate) fn server(&self) -> (String, String) {
        let address: SocketAddr = self.postgres.address();
        (address.ip().to_string(), address.port().to_string())
    }

    /// Libpq's environment for a client of this user.
    pub(crate) fn libpq(command: &mut Command, tls: bool) {
        command.env("PGSSLMODE", if tls { "require" } else { "disable" }).env("PGGSSENCMODE", "disable");
        command.env("PGPASSWORD", PASSWORD).env("LC_ALL", "C.UTF-8");
    }
}

/// RSA with 2048 bits, as most certificates in clusters are; every proxy shows the same one.
fn certificate(programs: &Programs, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let mut make = Command::new(&programs.openssl);
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]);
    make.args([
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    output(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    // Proxies of several users read it; it protects nothing.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    Ok((certificate, key))
}
