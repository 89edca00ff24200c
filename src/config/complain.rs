//! What is wrong with a configuration: the place, the key, the problem and what to do about it.

use std::fmt;

/// The first thing that is wrong with a configuration. It never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The file itself cannot be read.
    Unreadable {
        /// As it was named to us.
        file: String,
        /// The operating system's reason.
        reason: String,
    },
    /// Something in the file is wrong.
    Wrong {
        /// As it was named to us.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The key with its sections (`continuity.hold`); `None` where the text is not TOML.
        key: Option<String>,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, reason } => write!(f, "{file}: cannot be read: {reason}"),
            Self::Wrong { file, line, column, key, problem } => {
                write!(f, "{file}:{line}:{column}: ")?;
                if let Some(key) = key {
                    write!(f, "{key}: ")?;
                }
                f.write_str(problem)
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Line and column, both from 1, of a byte offset.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}
