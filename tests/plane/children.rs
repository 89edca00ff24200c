//! Children end with the test, whatever ends it, and freeze and die with all they forked.
use std::fs;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use crate::SOON;
use crate::cluster::children::{Child, Program, Signal};
use crate::cluster::toolbox::is_root;
use crate::cluster::trouble::eventually;

/// Set in the process that `children_die_with_a_killed_test` starts and kills: what its sleepers are told apart by.
const DOOMED: &str = "PGMOOR_TEST_DOOMED";

#[tokio::test]
async fn children_die_with_a_killed_test() {
    if let Ok(mark) = std::env::var(DOOMED) {
        let (_folder, _children) = sleepers(&mark);
        return std::future::pending().await;
    }
    let mark = mark();
    let mut doomed = Command::new(std::env::current_exe().unwrap());
    doomed.args(["--exact", "children::children_die_with_a_killed_test"]).env(DOOMED, &mark).kill_on_drop(true);
    let mut doomed = doomed.stdout(Stdio::null()).spawn().unwrap();
    eventually("the sleepers to run", SOON, || async { (running(&mark).len() >= 2).then_some(()) }).await.unwrap();
    doomed.kill().await.unwrap();
    eventually("the sleepers to be gone", SOON, || async { running(&mark).is_empty().then_some(()) }).await.unwrap();
}

#[tokio::test]
async fn a_container_freezes_and_ends_with_all_it_forked() {
    if !is_root() {
        return; // Only root can make PID namespaces.
    }
    let mark = mark();
    let (folder, mut children) = sleepers(&mark);
    eventually("the sleepers to run", SOON, || async { (running(&mark).len() >= 2).then_some(()) }).await.unwrap();
    let container = children.pop().unwrap();
    assert_eq!(container.family().len(), 2, "the shell, and a sleeper in a session of its own");
    container.signal_all(Signal::Stop).unwrap();
    let frozen = || async { container.family().iter().all(|pid| state(*pid) == Some('T')).then_some(()) };
    eventually("the container to freeze", SOON, frozen).await.unwrap();
    container.kill().await.unwrap();
    assert_eq!(container.pid(), None);
    drop(children);
    eventually("the sleepers to be gone", SOON, || async { running(&mark).is_empty().then_some(()) }).await.unwrap();
    drop(folder);
}

/// A plain child that sleeps, and one whose own child sleeps in another session; as root that one is a container.
fn sleepers(mark: &str) -> (TempDir, Vec<Child>) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let plain = Program::new("plain", "sleep").arg(mark).start(&log).unwrap();
    let container = Program::new("container", "sh");
    let container = if is_root() {
        container.args(["-c", "setsid sleep \"$1\" & wait", "sh", mark]).own_pids()
    } else {
        container.args(["-c", "exec sleep \"$1\"", "sh", mark])
    };
    let container = container.start(&log).unwrap();
    (folder, vec![plain, container])
}

/// A time to sleep that nobody else sleeps.
fn mark() -> String {
    format!("{}.{:09}", 1000, rand::random_range(0..1_000_000_000))
}

/// The processes `sleep MARK`.
fn running(mark: &str) -> Vec<u32> {
    let line = format!("sleep\0{mark}\0");
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == line))
        .collect()
}

/// The letter of a process's state.
fn state(pid: u32) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.chars().next()
}
