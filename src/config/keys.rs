//! Every key there is, with its default: the one place that knows. What a key means stands in `config/pgmoor.toml`.

/// One key of one section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Without its section.
    pub name: &'static str,
    /// What holds when it is not written.
    pub absent: Absent,
}

/// What holds when a key is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The same as if this TOML value had been written.
    Means(&'static str),
    /// The key's own "nothing", which no value says.
    Nothing,
    /// An error, which shows this TOML value as an example.
    Refused(&'static str),
    /// The key is a section, whose keys have defaults of their own.
    Section,
}

use Absent::{Means, Nothing, Refused, Section};

const fn key(name: &'static str, absent: Absent) -> Key {
    Key { name, absent }
}

/// The sections of the configuration file, by path.
const SECTIONS: &[(&str, &[Key])] = &[
    (
        "",
        &[
            key("listen", Section),
            key("tls", Section),
            key("auth", Section),
            key("limits", Section),
            key("pool", Section),
            key("continuity", Section),
            key("routing", Section),
            key("log", Section),
            key("cluster", Section),
        ],
    ),
    (
        "listen",
        &[
            key("rw", Nothing),
            key("ro", Nothing),
            key("admin", Means("\"127.0.0.1:9187\"")),
            key("admin_token_file", Nothing),
        ],
    ),
    ("tls", &[key("mode", Means("\"off\"")), key("cert", Nothing), key("key", Nothing), key("client_ca", Nothing)]),
    ("auth", &[key("method", Means("\"scram-sha-256\"")), key("users_file", Nothing)]),
    (
        "limits",
        &[
            key("sessions", Means("10000")),
            key("startup_sessions", Means("1000")),
            key("login_timeout", Means("\"15s\"")),
            key("message_size", Means("\"1GiB\"")),
            key("session_state", Means("\"1MiB\"")),
            key("workers", Means("0")),
            key("io_uring", Means("true")),
        ],
    ),
    (
        "pool",
        &[
            key("mode", Means("\"transaction\"")),
            key("size", Means("20")),
            key("min", Means("0")),
            key("pod_size", Means("80")),
            key("idle", Means("\"10m\"")),
            key("lifetime", Means("\"1h\"")),
            key("statements", Means("200")),
        ],
    ),
    (
        "continuity",
        &[
            key("hold", Means("\"30s\"")),
            key("held_sessions", Means("5000")),
            key("release_start", Means("16")),
            key("release_max", Means("64")),
            key("connect_timeout", Means("\"5s\"")),
            key("drain_deadline", Means("\"30s\"")),
            key("ask", Means("true")),
            key("ask_timeout", Means("\"1s\"")),
            key("replay", Means("true")),
            key("replay_size", Means("\"1MiB\"")),
            key("replay_deadline", Means("\"30s\"")),
            key("commit_guard", Means("\"on\"")),
        ],
    ),
    ("routing", &[key("ro_falls_back", Means("true")), key("zone", Nothing), key("lag_limit", Means("\"10s\""))]),
    ("log", &[key("format", Means("\"text\"")), key("level", Means("\"info\""))]),
    (
        "cluster",
        &[
            key("name", Refused("\"orders\"")),
            key("databases", Means("[\"*\"]")),
            key("users", Nothing),
            key("lag_limit", Nothing),
            key("discovery", Section),
            key("probe", Section),
            key("tls", Section),
            key("patroni", Section),
        ],
    ),
    ("cluster.discovery", &[key("kubernetes", Section), key("fixed", Nothing)]),
    (
        "cluster.discovery.kubernetes",
        &[
            key("namespace", Refused("\"db\"")),
            key("selector", Refused("\"cluster-name=orders\"")),
            key("preset", Refused("\"patroni\"")),
            key("kubeconfig", Nothing),
            key("context", Nothing),
            key("port", Means("5432")),
            key("leader", Nothing),
            key("drain_annotation", Means("\"pgmoor.io/drain\"")),
        ],
    ),
    (
        "cluster.probe",
        &[
            key("user", Refused("\"pgmoor\"")),
            key("password", Nothing),
            key("password_file", Nothing),
            key("database", Means("\"postgres\"")),
            key("interval", Means("\"1s\"")),
            key("timeout", Means("\"1s\"")),
        ],
    ),
    ("cluster.tls", &[key("mode", Means("\"disable\"")), key("ca", Nothing), key("dns", Nothing)]),
    (
        "cluster.patroni",
        &[
            key("port", Means("8008")),
            key("user", Nothing),
            key("password", Nothing),
            key("password_file", Nothing),
            key("ca", Nothing),
        ],
    ),
];

/// The sections of the users file, by path.
const USERS_SECTIONS: &[(&str, &[Key])] = &[
    ("", &[key("user", Section)]),
    (
        "user",
        &[
            key("name", Refused("\"app\"")),
            key("password", Nothing),
            key("password_file", Nothing),
            key("secret", Nothing),
        ],
    ),
];

/// Keys of the contract that are still to come: said plainly instead of "not known".
const LATER: &[&str] = &["listen.auto", "auth.auth_query"];

/// Which file's keys are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Book {
    Config,
    Users,
}

impl Book {
    const fn sections(self) -> &'static [(&'static str, &'static [Key])] {
        match self {
            Self::Config => SECTIONS,
            Self::Users => USERS_SECTIONS,
        }
    }

    /// The keys of a section.
    pub(super) fn section(self, path: &str) -> &'static [Key] {
        let found = self.sections().iter().find(|(name, _)| *name == path);
        found.map_or(&[], |(_, keys)| keys)
    }

    /// What to tell someone who wrote a key that this section does not have.
    pub(super) fn unknown(self, path: &str, name: &str) -> String {
        if self == Self::Config && LATER.contains(&join(path, name).as_str()) {
            return "comes with a later version; leave it out for now".to_owned();
        }
        let keys = self.section(path);
        let near = keys
            .iter()
            .map(|key| (distance(name, key.name), key.name))
            .min()
            .filter(|(distance, near)| *distance <= near.len().div_ceil(3));
        if let Some((_, near)) = near {
            return format!("is not a key; did you mean `{near}`?");
        }
        let elsewhere = self.sections().iter().find(|(_, keys)| keys.iter().any(|key| key.name == name));
        if let Some((section, _)) = elsewhere {
            let place =
                if section.is_empty() { "at the top of the file".to_owned() } else { format!("in [{section}]") };
            return format!("is not a key here; it belongs {place}");
        }
        let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
        format!("is not a key; the keys here are {}", known.join(", "))
    }
}

/// Every key that takes a value, with its sections (`continuity.hold`), in the order of the reference file.
pub fn keys() -> impl Iterator<Item = (String, Key)> {
    SECTIONS.iter().flat_map(|(path, keys)| {
        keys.iter().filter(|key| key.absent != Section).map(|key| (join(path, key.name), *key))
    })
}

/// A key's name with its section's.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// How many letters must be put in, left out or changed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            let changed = diagonal + usize::from(from != *to);
            row[j + 1] = changed.min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_led_to_the_right_place() {
        let cases = [
            ("continuity", "hodl", "is not a key; did you mean `hold`?"),
            ("limits", "hold", "is not a key here; it belongs in [continuity]"),
            ("continuity", "limits", "is not a key here; it belongs at the top of the file"),
            ("log", "colour", "is not a key; the keys here are format, level"),
            ("listen", "auto", "comes with a later version; leave it out for now"),
        ];
        for (section, name, expected) in cases {
            assert_eq!(Book::Config.unknown(section, name), expected);
        }
    }

    #[test]
    fn words_that_differ_by_a_letter_are_near() {
        for (a, b, far) in
            [("hold", "hold", 0), ("hold", "hodl", 2), ("", "ab", 2), ("ports", "port", 1), ("cat", "dog", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (far, far), "{a} {b}");
        }
    }
}
