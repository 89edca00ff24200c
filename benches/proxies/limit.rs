//! Thousands of clients need as many open files, here and in the proxies: the limit is raised before anything else.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::trouble::Result;

/// Says that this process was started again with a higher limit.
const RAISED: &str = "BENCH_LIMIT_RAISED";
/// Raises the soft limit; root can raise the hard one too.
const RAISE: &str = "ulimit -n \"$1\" 2>/dev/null || ulimit -n \"$(ulimit -Hn)\"; shift; exec \"$@\"";

/// Starts this program again in its own place if it may not open so many files. Says how many it may.
pub(crate) fn raise(files: usize) -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let soft = line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX);
    if soft >= files || std::env::var_os(RAISED).is_some() {
        return Ok(soft);
    }
    let mut again = Command::new("sh");
    again.args(["-c", RAISE, "sh", &files.to_string()]).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(again.env(RAISED, "1").exec().into())
}
