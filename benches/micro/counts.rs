//! The counts that are written down, and with which compiler they were counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::trouble::{Result, Trying as _};

/// Where they stand.
pub(crate) const FILE: &str = "benches/micro/counts.toml";

/// Instructions by case.
#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    rustc: String,
    instructions: BTreeMap<String, u64>,
}

impl Counts {
    /// None, by this compiler.
    pub(crate) fn empty() -> Self {
        Self { rustc: compiler(), instructions: BTreeMap::new() }
    }

    /// Those that are written down; none if there is no file.
    pub(crate) fn load() -> Result<Self> {
        match std::fs::read_to_string(file()) {
            Ok(text) => toml::from_str(&text).trying(|| format!("reading {FILE}")),
            Err(_) => Ok(Self::empty()),
        }
    }

    /// Writes them down.
    pub(crate) fn save(&self) -> Result<()> {
        let mut text = format!(
            "# Instructions for one time of each case of benches/micro/cases.rs. Made by `UPDATE=1 make bench-micro`.\n\
             rustc = {:?}\n\n[instructions]\n",
            self.rustc
        );
        for (case, count) in &self.instructions {
            text += &format!("{case:?} = {count}\n");
        }
        std::fs::write(file(), text).trying(|| format!("writing {FILE}"))
    }

    pub(crate) fn get(&self, case: &str) -> Option<u64> {
        self.instructions.get(case).copied()
    }

    pub(crate) fn set(&mut self, case: &str, count: u64) {
        self.instructions.insert(case.to_owned(), count);
    }

    /// What to know where these were counted with another compiler.
    pub(crate) fn other_compiler(&self) -> Option<String> {
        let here = compiler();
        (self.rustc != here)
            .then(|| format!("counted before with {}; this is {here}, which changes counts too", self.rustc))
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE)
}

fn compiler() -> String {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}
