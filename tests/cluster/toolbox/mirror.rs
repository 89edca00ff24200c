//! Where the machine's own apt gets Debian's packages from, said again as a source of source packages.
//!
//! Knows both forms of apt's lists: deb822 (`.sources`) and one line per entry (`.list`).

/// An apt list file: its name (the ending tells its form) and its text.
pub struct AptList {
    /// The file's name.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// A deb822 list that offers the source packages of `suite`'s `component` from the first enabled entry of `lists` that
/// offers its binary packages; signed by whom that entry says.
pub fn source_list(lists: &[AptList], suite: &str, component: &str) -> Option<String> {
    lists
        .iter()
        .flat_map(|list| if list.name.ends_with(".sources") { stanzas(&list.text) } else { lines(&list.text) })
        .find(|entry| entry.offers(suite, component))
        .map(|entry| entry.as_sources(suite, component))
}

/// What one entry says, in deb822's words.
struct Entry {
    fields: Vec<(String, String)>,
}

impl Entry {
    fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn has(&self, field: &str, word: &str) -> bool {
        self.get(field).is_some_and(|value| value.split_whitespace().any(|found| found == word))
    }

    fn offers(&self, suite: &str, component: &str) -> bool {
        let enabled = !self.get("Enabled").is_some_and(|value| matches!(value.trim(), "no" | "false" | "0" | "off"));
        enabled && self.has("Types", "deb") && self.has("Suites", suite) && self.has("Components", component)
    }

    fn as_sources(&self, suite: &str, component: &str) -> String {
        let mut text = format!("Types: deb-src\nSuites: {suite}\nComponents: {component}\n");
        for name in ["URIs", "Signed-By", "Trusted"] {
            if let Some(value) = self.get(name) {
                text.push_str(&format!("{name}: {value}\n"));
            }
        }
        text
    }
}

/// The stanzas of a deb822 list. A value keeps its continuation lines: a key may be written out in `Signed-By`.
fn stanzas(text: &str) -> Vec<Entry> {
    let mut entries = vec![Entry { fields: Vec::new() }];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(entry) = entries.last_mut() else {
            break;
        };
        if line.trim().is_empty() {
            entries.push(Entry { fields: Vec::new() });
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = entry.fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            entry.fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    entries
}

/// The entries of a list with one line each: `deb [option=value ...] uri suite component...`.
fn lines(text: &str) -> Vec<Entry> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?;
    let (kind, rest) = line.trim().split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let mut fields = vec![
        ("Types".to_owned(), kind.to_owned()),
        ("URIs".to_owned(), words.next()?.to_owned()),
        ("Suites".to_owned(), words.next()?.to_owned()),
        ("Components".to_owned(), words.collect::<Vec<_>>().join(" ")),
    ];
    fields.extend(options.split_whitespace().filter_map(|option| {
        let (name, value) = option.split_once('=')?;
        Some((name.to_owned(), value.replace(',', " ")))
    }));
    Some(Entry { fields })
}
