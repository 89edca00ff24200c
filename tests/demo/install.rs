//! PostgreSQL itself: the one thing the local demo needs beside Rust.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::toolbox::is_root;
use crate::cluster::trouble::{Result, Trouble, Trying};
use crate::screen::{Screen, Tone};

const INSTALL_PACKAGES: &str = include_str!("../cluster/scripts/install-packages.sh");
const PACKAGE: &str = "postgresql-15";

/// The folder of PostgreSQL's programs; installs Debian's package where it is missing. Debian's own server is not started.
pub(crate) fn postgres(screen: &Screen) -> Result<PathBuf> {
    let bin = PathBuf::from("/usr/lib/postgresql/15/bin");
    if is_there(&bin) {
        return Ok(bin);
    }
    if !is_root() {
        return Err(Trouble::new(format!(
            "it needs PostgreSQL 15, which only root can install. As root:\n  \
             apt-get update && apt-get install --no-install-recommends {PACKAGE}"
        )));
    }
    screen.event(Tone::Quiet, &format!("installing Debian's {PACKAGE} (once; its own server is not started)"));
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", "sh", "-c", INSTALL_PACKAGES, "install-packages.sh", PACKAGE])
        .stdin(Stdio::null())
        .output()
        .trying(|| format!("installing {PACKAGE}"))?;
    if output.status.success() && is_there(&bin) {
        return Ok(bin);
    }
    Err(Trouble::new(format!(
        "installing {PACKAGE} failed ({}):\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}

fn is_there(bin: &Path) -> bool {
    ["postgres", "initdb", "pg_basebackup"].iter().all(|program| bin.join(program).exists())
}
