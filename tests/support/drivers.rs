//! The drivers of other languages: installed once into the cache folder, and their scripts run against a server.
//!
//! Versions are pinned beside the scripts, in `tests/drivers/`; a changed pin gets a folder of its own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const REQUIREMENTS: &str = include_str!("../drivers/requirements.txt");
const PACKAGE: &str = include_str!("../drivers/package.json");
const LOCK: &str = include_str!("../drivers/package-lock.json");
const INSTALL_PACKAGES: &str = include_str!("../cluster/scripts/install-packages.sh");
/// Debian's own Python: another one in PATH may not be everybody's.
const PYTHON: &str = "/usr/bin/python3";

/// The drivers there is a script for.
pub(crate) const SCRIPTS: [&str; 4] = ["psql.sh", "psycopg.py", "asyncpg.py", "node.js"];

/// Installed drivers.
pub(crate) struct Drivers {
    python: PathBuf,
    node: PathBuf,
}

/// What a script did.
pub(crate) struct Outcome {
    /// It ran to its end.
    pub(crate) good: bool,
    /// What it printed, on both streams.
    pub(crate) said: String,
}

impl Drivers {
    /// Makes sure that everything is there; only the first run installs anything.
    pub(crate) fn ready() -> io::Result<Self> {
        let cache = cache()?;
        let lock = fs::File::options().create(true).append(true).open(cache.join("drivers.lock"))?;
        lock.lock()?;
        programs()?;
        let drivers = Self {
            python: cache.join(format!("drivers-python-{:016x}", key(&[REQUIREMENTS]))),
            node: cache.join(format!("drivers-node-{:016x}", key(&[PACKAGE, LOCK]))),
        };
        if !drivers.python.exists() {
            install(&cache, &drivers.python, |work| {
                fs::write(work.join("requirements.txt"), REQUIREMENTS)?;
                let mut pip = Command::new(PYTHON);
                pip.args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-input",
                    "--root-user-action=ignore",
                    "--only-binary=:all:",
                    "--target",
                ]);
                run(pip.arg(work).arg("-r").arg(work.join("requirements.txt")))
            })?;
        }
        if !drivers.node.exists() {
            install(&cache, &drivers.node, |work| {
                fs::write(work.join("package.json"), PACKAGE)?;
                fs::write(work.join("package-lock.json"), LOCK)?;
                run(Command::new("npm")
                    .args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"])
                    .current_dir(work))
            })?;
        }
        Ok(drivers)
    }

    /// Runs one of [`SCRIPTS`] with this connection string (a URI), and ends it after `patience`.
    pub(crate) fn run(&self, script: &str, dsn: &str, patience: Duration) -> io::Result<Outcome> {
        let interpreter = match Path::new(script).extension().and_then(|extension| extension.to_str()) {
            Some("py") => PYTHON,
            Some("js") => "node",
            _ => "sh",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(script);
        let mut command = Command::new("timeout");
        command.args([
            "--kill-after=5",
            &patience.as_secs().to_string(),
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            interpreter,
        ]);
        command.arg(path).arg(dsn).stdin(Stdio::null());
        command
            .env("PYTHONPATH", &self.python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NODE_PATH", self.node.join("node_modules"));
        let output = command.output()?;
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Outcome { good: output.status.success(), said })
    }
}

/// Interpreters and psql, from Debian's packages where they are missing.
fn programs() -> io::Result<()> {
    let found = |program: &str| {
        Command::new("sh")
            .args(["-c", "command -v \"$1\" >/dev/null", "sh", program])
            .status()
            .is_ok_and(|status| status.success())
    };
    let mut missing = Vec::new();
    if !Path::new(PYTHON).exists() {
        missing.push("python3");
    }
    if !Command::new(PYTHON)
        .args(["-c", "import pip"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        missing.push("python3-pip");
    }
    for (program, package) in [("node", "nodejs"), ("npm", "npm"), ("psql", "postgresql-client-15")] {
        if !found(program) {
            missing.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(io::Error::other(format!("as root: apt-get install {}", missing.join(" "))));
    }
    tell(&format!("installing {}", missing.join(" ")));
    run(Command::new("sh").args(["-c", INSTALL_PACKAGES, "install-packages"]).args(missing))
}

/// Fills a folder beside its place and moves it there whole: a run that was killed leaves nothing that looks finished.
fn install(cache: &Path, folder: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    tell(&format!("installing into {}", folder.display()));
    let work = tempfile::Builder::new().prefix("work-").tempdir_in(cache)?;
    fill(work.path())?;
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(work.path()))?;
    fs::rename(work.path(), folder)
}

fn key(pins: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    pins.hash(&mut hasher);
    hasher.finish()
}

fn cache() -> io::Result<PathBuf> {
    let folder = std::env::var_os("PGMOOR_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| {
        if is_root() { "/var/cache/pgmoor".into() } else { std::env::temp_dir().join("pgmoor-cache") }
    });
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn tell(what: &str) {
    // Not print!: the test harness would swallow it, and a long silence looks like a hang.
    let _ = writeln!(io::stderr(), "[drivers] {what}");
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&said))))
}
