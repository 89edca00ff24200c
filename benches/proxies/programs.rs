//! The programs a run needs: where they are, and as root how they get there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::calls::Counter;
use crate::mirror::{self, AptList};
use crate::options::Options;
use crate::process::{is_root, output, tied};
use crate::trouble::{Result, Trouble, Trying as _};

const POSTGRES_BIN: &str = "/usr/lib/postgresql/15/bin";
const INSTALL_PACKAGES: &str = include_str!("../../tests/cluster/scripts/install-packages.sh");
const BUILD_PGBOUNCER: &str = include_str!("build-pgbouncer.sh");
const BUILD_PACKAGES: &[&str] =
    &["build-essential", "dpkg-dev", "libc-ares-dev", "libevent-dev", "libssl-dev", "pkg-config"];
/// The first PgBouncer that keeps prepared statements in transaction pooling.
const PREPARES: (u32, u32) = (1, 21);

/// Where they are.
pub(crate) struct Programs {
    pub(crate) pgbench: PathBuf,
    pub(crate) openssl: PathBuf,
    pub(crate) pgbouncer: Option<PgBouncer>,
    pub(crate) haproxy: Option<PathBuf>,
    pub(crate) counter: Option<Counter>,
    /// What is not there, and what that means.
    pub(crate) missing: Vec<String>,
}

/// One PgBouncer.
pub(crate) struct PgBouncer {
    pub(crate) path: PathBuf,
    /// Major and minor.
    pub(crate) version: (u32, u32),
}

impl PgBouncer {
    pub(crate) fn prepares(&self) -> bool {
        self.version >= PREPARES
    }

    fn at(path: PathBuf) -> Option<Self> {
        let text = output(Command::new(&path).arg("--version")).ok()?;
        let mut numbers = text.lines().next()?.rsplit(' ').next()?.split('.');
        let mut number = || numbers.next()?.parse().ok();
        Some(Self { path, version: (number()?, number()?) })
    }
}

impl Programs {
    /// Finds them all; as root, installs Debian's packages of those that are missing.
    pub(crate) fn find(options: &Options) -> Result<Self> {
        let mut missing = Vec::new();
        let wanted: Vec<&str> = [
            ("postgresql-15", Path::new(POSTGRES_BIN).join("pgbench").exists()),
            ("haproxy", !options.has("haproxy") || find("haproxy").is_some()),
            ("strace", counter().is_some()),
            ("openssl", find("openssl").is_some()),
        ]
        .into_iter()
        .filter_map(|(package, there)| (!there).then_some(package))
        .collect();
        if !wanted.is_empty()
            && let Err(trouble) = install(&wanted)
        {
            missing.push(trouble.to_string());
        }
        let pgbench = Path::new(POSTGRES_BIN).join("pgbench");
        let (true, Some(openssl)) = (pgbench.exists(), find("openssl")) else {
            let why = missing.join("; ");
            return Err(Trouble::new(format!("nothing can be measured without PostgreSQL 15 and openssl: {why}")));
        };
        let pgbouncer = if options.pgbouncer.is_some() || options.has("pgbouncer") || options.has("pgbouncer/w2") {
            pgbouncer(options, &mut missing)
        } else {
            None
        };
        Ok(Self { pgbench, openssl, pgbouncer, haproxy: find("haproxy"), counter: counter(), missing })
    }
}

fn counter() -> Option<Counter> {
    Counter::find(find("perf"), find("strace"))
}

/// The user's own, else one that is installed and new enough, else one built from Debian's source, else any.
fn pgbouncer(options: &Options, missing: &mut Vec<String>) -> Option<PgBouncer> {
    if let Some(path) = &options.pgbouncer {
        return PgBouncer::at(path.clone());
    }
    let installed = find("pgbouncer").and_then(PgBouncer::at);
    if installed.as_ref().is_some_and(PgBouncer::prepares) {
        return installed;
    }
    let trouble = match built_pgbouncer() {
        Ok(built) => return PgBouncer::at(built),
        Err(trouble) => trouble,
    };
    missing.push(format!(
        "no PgBouncer of 1.21 or later (it could not be built: {trouble}); with an older one, prepared statements are \
         not compared. BENCH_PGBOUNCER=/path/to/pgbouncer names another"
    ));
    if installed.is_none()
        && let Err(trouble) = install(&["pgbouncer"])
    {
        missing.push(trouble.to_string());
    }
    installed.or_else(|| find("pgbouncer").and_then(PgBouncer::at))
}

/// Builds it once, into the cache that the tests use too.
fn built_pgbouncer() -> Result<PathBuf> {
    let cache = cache()?;
    let program = cache.join("pgbouncer-trixie");
    if program.exists() {
        return Ok(program);
    }
    if !is_root() {
        return Err(Trouble::new("only root can install what builds it"));
    }
    eprintln!("building PgBouncer from Debian 13's source package, once, into {}", cache.display());
    install(BUILD_PACKAGES)?;
    let work = tempfile::Builder::new().prefix("work-").tempdir_in(&cache)?;
    let list = mirror::source_list(&apt_lists(), "bookworm", "main")
        .ok_or_else(|| Trouble::new("no apt source of this machine offers Debian 12"))?;
    let sources = work.path().join("pgbouncer.sources");
    fs::write(&sources, list.replace("Suites: bookworm", "Suites: trixie"))?;
    let mut build = tied(Path::new("sh"));
    build.args(["-c", BUILD_PGBOUNCER, "build-pgbouncer.sh"]);
    output(build.args([&sources, work.path(), &program])).map_err(|trouble| Trouble::new(end(&trouble.to_string())))?;
    Ok(program)
}

/// The last lines: of a build's output those that say why it failed.
fn end(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

fn install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        let packages = packages.join(" ");
        return Err(Trouble::new(format!(
            "missing, and only root can install them: apt-get install --no-install-recommends {packages}"
        )));
    }
    eprintln!("installing Debian's {}", packages.join(", "));
    let mut command = tied(Path::new("sh"));
    command.args(["-c", INSTALL_PACKAGES, "install-packages.sh"]).args(packages);
    output(&mut command).map(drop).trying(|| format!("installing {}", packages.join(" ")))
}

fn find(program: &str) -> Option<PathBuf> {
    // A service's program is in sbin, which is not in everybody's PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(program)).find(|file| file.is_file())
}

fn cache() -> Result<PathBuf> {
    let cache = match (std::env::var_os("PGMOOR_CACHE"), is_root()) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, true) => PathBuf::from("/var/cache/pgmoor"),
        (None, false) => std::env::temp_dir().join("pgmoor-cache"),
    };
    fs::create_dir_all(&cache).trying(|| format!("making {}", cache.display()))?;
    Ok(cache)
}

fn apt_lists() -> Vec<AptList> {
    let apt = Path::new("/etc/apt");
    let folder = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let lists = [apt.join("sources.list")].into_iter().chain(folder);
    let is_list = |path: &PathBuf| matches!(path.extension().and_then(OsStr::to_str), Some("list" | "sources"));
    let text = |path: PathBuf| {
        Some(AptList { name: path.to_string_lossy().into_owned(), text: fs::read_to_string(&path).ok()? })
    };
    lists.filter(is_list).filter_map(text).collect()
}
