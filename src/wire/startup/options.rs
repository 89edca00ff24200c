//! The startup parameter `options`: command-line words for the server, some of them ours.

use super::MOOR_PREFIX;
use std::collections::BTreeMap;

/// Splits as PostgreSQL does: at white space, with a backslash taking the next character as it is.
pub(super) fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        if is_space(c) {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        // A backslash at the very end stands for nothing.
        let taken = if c == '\\' { chars.next() } else { Some(c) };
        word.extend(taken);
    }
    words.extend(word.filter(|word| !word.is_empty()));
    words
}

/// What C's `isspace` says.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// Writes words so that [`split`] gives them back.
fn join(words: &[String]) -> String {
    let mut out = String::new();
    for word in words {
        if !out.is_empty() {
            out.push(' ');
        }
        for c in word.chars() {
            if c == '\\' || is_space(c) {
                out.push('\\');
            }
            out.push(c);
        }
    }
    out
}

/// One `-c name=value`, `-cname=value` or `--name=value`, or a word that is something else.
enum Item {
    Setting { name: String, value: String, words: Vec<String> },
    Other(String),
}

fn items(options: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut words = split(options).into_iter().peekable();
    while let Some(word) = words.next() {
        let mut used = vec![word];
        if used[0] == "-c" {
            used.extend(words.next());
        }
        let text = match &*used {
            [_, second] => Some(&**second),
            [only] => only.strip_prefix("--").or_else(|| only.strip_prefix("-c")),
            _ => None,
        };
        match text.and_then(|text| text.split_once('=')) {
            Some((name, value)) => {
                // The server takes dashes in these names for underscores.
                let name = name.to_ascii_lowercase().replace('-', "_");
                let value = value.to_owned();
                items.push(Item::Setting { name, value, words: used });
            }
            None => items.extend(used.into_iter().map(Item::Other)),
        }
    }
    items
}

/// Moves the `pgmoor.*` settings into `ours` (names without the prefix) and returns the options without them. What a plain
/// parameter has set already stays: in PostgreSQL parameters win over options.
pub(super) fn take_ours(options: &str, ours: &mut BTreeMap<String, String>) -> String {
    let (mut rest, mut found) = (Vec::new(), BTreeMap::new());
    for item in items(options) {
        match item {
            Item::Setting { name, value, words } => match name.strip_prefix(MOOR_PREFIX) {
                Some(name) => {
                    found.insert(name.to_owned(), value);
                }
                None => rest.extend(words),
            },
            Item::Other(word) => rest.push(word),
        }
    }
    for (name, value) in found {
        ours.entry(name).or_insert(value);
    }
    join(&rest)
}

/// The settings in the options, in order.
pub(super) fn settings(options: &str) -> Vec<(String, String)> {
    items(options)
        .into_iter()
        .filter_map(|item| match item {
            Item::Setting { name, value, .. } => Some((name, value)),
            Item::Other(_) => None,
        })
        .collect()
}
