//! Fetching and building what is missing, once for all test processes, saying what goes on.
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::children::tail;
use super::super::trouble::{Result, Trouble, Trying};
use super::mirror::{self, AptList};
use super::{KUBERNETES, PATRONI_4, PatroniVersion, Toolbox, is_root};

/// What runs in the cluster, or is imported there. Debian's python3 comes with the modules.
const RUN: &[&str] = &[
    "postgresql-15",
    "python3-click",
    "python3-dateutil",
    "python3-prettytable",
    "python3-psutil",
    "python3-psycopg2",
    "python3-urllib3",
    "python3-yaml",
    "util-linux",
];
/// What Kubernetes is built with.
const BUILD: &[&str] = &["build-essential", "dpkg-dev", "golang-1.19-go", "make", "rsync"];
/// What Patroni 4 is installed with.
const PIP: &[&str] = &["python3-pip"];

const INSTALL_PACKAGES: &str = include_str!("../scripts/install-packages.sh");
const BUILD_KUBERNETES: &str = include_str!("../scripts/build-kubernetes.sh");
/// Downloads one package as the machine's apt offers it, and unpacks it without installing: no service, no conflict.
const UNPACK_PACKAGE: &str =
    "set -eu; cd \"$1\"; apt-get -q -o APT::Sandbox::User=root download \"$2\"; dpkg-deb -x ./*.deb tree";

/// Makes sure that all of `toolbox` is there.
pub fn all(toolbox: &Toolbox) -> Result<()> {
    if is_whole(toolbox)? {
        return Ok(());
    }
    let progress = Progress { began: Instant::now() };
    let cache = toolbox.cache();
    progress.say(&format!("the test cluster's programs go into {}", cache.display()));
    fs::create_dir_all(cache).trying(|| format!("making {}", cache.display()))?;
    let _lock = lock(cache, &progress)?;
    remove_leftovers(cache)?;
    packages(cache, &progress, &wanted(toolbox))?;
    if !toolbox.etcd().exists() {
        unpacked(cache, &progress, "etcd-server", &toolbox.etcd_folder())?;
    }
    if !toolbox.patroni_folder(PatroniVersion::V3).exists() {
        unpacked(cache, &progress, "patroni", &toolbox.patroni_folder(PatroniVersion::V3))?;
    }
    if !toolbox.patroni_folder(PatroniVersion::V4).exists() {
        patroni_4(cache, &progress, &toolbox.patroni_folder(PatroniVersion::V4))?;
    }
    if !is_built(toolbox) {
        kubernetes(cache, &progress, &toolbox.kubernetes_folder())?;
    }
    if !is_whole(toolbox)? {
        return Err(Trouble::new(format!("something is still missing in {}", cache.display())));
    }
    progress.say("everything is there");
    Ok(())
}

fn is_built(toolbox: &Toolbox) -> bool {
    toolbox.kubernetes_folder().join("complete").exists()
}

fn is_whole(toolbox: &Toolbox) -> Result<bool> {
    let patroni = |version| toolbox.patroni(version).python_path.join("patroni/__main__.py").exists();
    let files = is_built(toolbox)
        && toolbox.etcd().exists()
        && patroni(PatroniVersion::V3)
        && patroni(PatroniVersion::V4)
        && toolbox.postgres_bin().join("postgres").exists();
    Ok(files && missing(RUN)?.is_empty())
}

fn wanted(toolbox: &Toolbox) -> Vec<&'static str> {
    let mut wanted = RUN.to_vec();
    if !is_built(toolbox) {
        wanted.extend(BUILD);
    }
    if !toolbox.patroni_folder(PatroniVersion::V4).exists() {
        wanted.extend(PIP);
    }
    wanted
}

/// Those of `packages` that are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // It answers for the packages it knows and fails when one of them is unknown: the answer counts.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .trying(|| "asking dpkg-query (the test cluster is made from Debian 12's packages)".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

fn packages(cache: &Path, progress: &Progress, wanted: &[&str]) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(Trouble::new(format!(
            "the test cluster needs Debian packages that only root can install. As root:\n  \
             apt-get update && apt-get install --no-install-recommends {}",
            missing.join(" ")
        )));
    }
    let mut command = script(INSTALL_PACKAGES, "install-packages.sh");
    command.args(&missing);
    progress.run(cache, "Debian packages", command)
}

/// Unpacks a Debian package into `folder`.
fn unpacked(cache: &Path, progress: &Progress, package: &str, folder: &Path) -> Result<()> {
    let work = work_folder(cache)?;
    let mut command = script(UNPACK_PACKAGE, "unpack-package");
    command.arg(work.path()).arg(package);
    progress.run(cache, &format!("Debian's {package}"), command)?;
    publish(&work.path().join("tree"), folder)
}

fn patroni_4(cache: &Path, progress: &Progress, folder: &Path) -> Result<()> {
    let work = work_folder(cache)?;
    let tree = work.path().join("tree");
    let mut command = Command::new("/usr/bin/python3");
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-input",
        "--root-user-action=ignore",
        "--target",
    ]);
    command.arg(&tree).arg(format!("patroni=={PATRONI_4}"));
    progress.run(cache, &format!("Patroni {PATRONI_4}"), command)?;
    publish(&tree, folder)
}

fn kubernetes(cache: &Path, progress: &Progress, folder: &Path) -> Result<()> {
    let work = work_folder(cache)?;
    let sources = work.path().join("kubernetes.sources");
    let list = mirror::source_list(&apt_lists()?, "bookworm", "main").ok_or_else(|| {
        Trouble::new(
            "no apt source of this machine offers Debian 12 (bookworm, main), whose Kubernetes the tests build",
        )
    })?;
    fs::write(&sources, list)?;
    let mut command = script(BUILD_KUBERNETES, "build-kubernetes.sh");
    command.arg(&sources).arg(work.path()).arg(folder);
    progress.run(cache, &format!("Kubernetes {KUBERNETES}"), command)
}

/// The machine's own apt lists.
fn apt_lists() -> Result<Vec<AptList>> {
    let apt = Path::new("/etc/apt");
    let mut paths = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    paths.sort();
    let is_list = |path: &PathBuf| matches!(path.extension().and_then(OsStr::to_str), Some("list" | "sources"));
    let lists = paths.into_iter().filter(is_list).filter_map(|path| {
        Some(AptList { name: path.to_string_lossy().into_owned(), text: fs::read_to_string(&path).ok()? })
    });
    Ok(lists.collect())
}

/// A script that is asked to end when the thread that waits for it does: with a killed test no build goes on for long,
/// and what an installation has changed for its time is put back.
fn script(text: &str, name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "sh", "-c", text, name]);
    command
}

/// A folder for one step's files in the cache itself, so that results can be renamed into place.
fn work_folder(cache: &Path) -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("work-").tempdir_in(cache)?)
}

/// Work folders of runs that were killed.
fn remove_leftovers(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("work-") {
            // Something of the killed run may still write there; then the next one removes it.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

/// Puts a whole tree in its place, readable by every user.
fn publish(tree: &Path, folder: &Path) -> Result<()> {
    let status = Command::new("chmod").args(["-R", "a+rX"]).arg(tree).status()?;
    if !status.success() {
        return Err(Trouble::new(format!("chmod of {} failed", tree.display())));
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::rename(tree, folder).trying(|| format!("putting {} in place", folder.display()))
}

/// The one who holds this installs; the others wait for it.
fn lock(cache: &Path, progress: &Progress) -> Result<File> {
    let file = File::options().create(true).append(true).open(cache.join("lock"))?;
    let mut told = None::<Instant>;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        if told.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
            progress.say("another process is at it: waiting");
            told = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tells how it goes, with the time it took so far.
struct Progress {
    began: Instant,
}

impl Progress {
    fn say(&self, text: &str) {
        // Not print!: the test harness would swallow it, and minutes of silence look like a hang.
        drop(writeln!(std::io::stderr(), "[toolbox {:4} s] {text}", self.began.elapsed().as_secs()));
    }

    /// Runs a command with its output in the cache's log folder. Its lines `step: ...` are told, and every ten seconds
    /// that it is still at it.
    fn run(&self, cache: &Path, what: &str, mut command: Command) -> Result<()> {
        let logs = cache.join("log");
        fs::create_dir_all(&logs)?;
        let path = logs.join(format!("{}.log", what.replace([' ', '\''], "-")));
        let log = File::create(&path)?;
        self.say(what);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = command.spawn().trying(|| what.to_owned())?;
        let (mut told, mut step) = (Instant::now(), String::new());
        let status = loop {
            if let Some(status) = process.try_wait()? {
                break status;
            }
            let now = last_step(&path);
            if now != step || told.elapsed() > Duration::from_secs(10) {
                let still = if now == step { " (still)" } else { "" };
                self.say(&format!("{what}: {now}{still}"));
                (told, step) = (Instant::now(), now);
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if status.success() {
            return Ok(());
        }
        Err(Trouble::new(format!("{what}: {status}. The end of {}:\n{}", path.display(), tail(&path, 30))))
    }
}

fn last_step(log: &Path) -> String {
    let text = tail(log, usize::MAX);
    text.lines().rev().find_map(|line| line.strip_prefix("step: ")).unwrap_or_default().to_owned()
}
