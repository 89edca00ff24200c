//! The value a SET gives to a setting.

/// How long a SET lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `SET` and `SET SESSION`: to the end of the session, once the transaction commits.
    Session,
    /// `SET LOCAL`: to the end of the transaction. Not session state.
    Local,
}

/// What stands behind TO or `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `DEFAULT`: back to what the session began with.
    Default,
    /// A list of plain values, quotes and escapes taken off, identifiers folded; most lists have one.
    Values(Vec<String>),
    /// Anything else, such as `TIME ZONE INTERVAL '1' HOUR`, as it was written.
    Raw(String),
}

impl Setting {
    /// The settings whose value is a list of names, each quoted by itself (`GUC_LIST_QUOTE`).
    const QUOTED_LISTS: [&str; 7] = [
        "search_path",
        "temp_tablespaces",
        "session_preload_libraries",
        "shared_preload_libraries",
        "local_preload_libraries",
        "unix_socket_directories",
        "synchronized_standby_slots",
    ];

    /// The values as one string, the way `set_config(name, …)` takes it. `None` when it is not a list of values.
    #[must_use]
    pub fn flat(&self, name: &str) -> Option<String> {
        match self {
            Self::Values(values) if Self::QUOTED_LISTS.contains(&name) => {
                Some(values.iter().map(|value| quote(value)).collect::<Vec<_>>().join(", "))
            }
            Self::Values(values) => Some(values.join(", ")),
            Self::Default | Self::Raw(_) => None,
        }
    }
}

/// Quotes an identifier. Always, and so without a list of keywords.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
