//! The proxies pgmoor is compared with: their configurations and their start.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::pgmoor::POOL;
use crate::process::{Process, tied, tied_as_postgres};
use crate::programs::Programs;
use crate::stage::{DATABASE, SCRAM, Stage, TRUSTED};
use crate::target::Door;
use crate::trouble::{Result, Trouble};

/// PgBouncer, transaction pooling; several processes share the port and the pool's size.
pub(crate) fn pgbouncer(
    programs: &Programs,
    stage: &Stage,
    processes: usize,
    door: Door,
    address: SocketAddr,
    folder: &Path,
) -> Result<Vec<Process>> {
    let pgbouncer = programs.pgbouncer.as_ref().ok_or_else(|| Trouble::new("there is no PgBouncer"))?;
    let users = format!("\"{SCRAM}\" \"{}\"\n\"{TRUSTED}\" \"\"\n", stage.secret);
    fs::write(folder.join("users.txt"), users)?;
    let method = match door {
        Door::Trust => "trust",
        Door::Scram => "scram-sha-256",
    };
    let (host, port) = stage.server();
    let mut text = format!(
        "[databases]\n{DATABASE} = host={host} port={port} dbname={DATABASE}\n\
         [pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = {method}\n\
         auth_file = {}\npool_mode = transaction\ndefault_pool_size = {}\nmax_client_conn = 10000\n\
         client_tls_sslmode = allow\nclient_tls_key_file = {}\nclient_tls_cert_file = {}\n\
         server_tls_sslmode = disable\nlog_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n\
         so_reuseport = {}\n",
        address.ip(),
        address.port(),
        folder.join("users.txt").display(),
        POOL / processes,
        stage.key.display(),
        stage.certificate.display(),
        u8::from(processes > 1),
    );
    if pgbouncer.prepares() {
        text += "max_prepared_statements = 200\n";
    }
    let file = folder.join("pgbouncer.ini");
    fs::write(&file, text)?;
    let start = |number| {
        let mut command = tied_as_postgres(&pgbouncer.path);
        command.arg(&file);
        Process::start(command, &folder.join(format!("pgbouncer-{number}.log")))
    };
    (0..processes).map(start).collect()
}

/// HAProxy, copying bytes with one thread.
pub(crate) fn haproxy(programs: &Programs, stage: &Stage, address: SocketAddr, folder: &Path) -> Result<Process> {
    let haproxy = programs.haproxy.as_ref().ok_or_else(|| Trouble::new("there is no HAProxy"))?;
    let text = format!(
        "global\n    maxconn 1000\n    nbthread 1\n\
         defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\
         listen postgres\n    bind {address}\n    server pg-0 {}\n",
        stage.postgres.address()
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = tied(haproxy);
    command.args(["-db", "-f"]).arg(&file);
    Process::start(command, &folder.join("haproxy.log"))
}
