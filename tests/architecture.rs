//! The house's own rules: imports go down, pure floors stay pure, files say what they know and stay short.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without ends it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// From the bottom. A module imports only from floors before its own; neighbours on one floor not from each other.
const FLOORS: &[&[&str]] = &[
    &["ids"],
    &["error"],
    &["config"],
    &["wire"],
    &["topology", "auth"],
    &["continuity"],
    &["metrics", "shutdown", "memory"],
    &["net"],
    &["backend"],
    &["session", "discovery"],
    &["admin"],
    &["app"],
    &["cli"],
    &["main"],
];

/// The floors that decide and touch nothing.
const PURE: &[&str] = &["ids", "error", "config", "wire", "topology", "auth", "continuity"];

/// What nothing pure may say: I/O, clocks, the environment, logs, metrics, and orders that change from run to run.
const IMPURE: &[&str] = &[
    "tokio",
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::thread",
    "tracing",
    "prometheus",
    "println",
    "eprintln",
    "HashMap",
    "HashSet",
];

/// The one door between the pure floors and the world: it reads the configuration file, when asked to.
const DOOR: (&str, &[&str]) = ("config/load.rs", &["std::env", "std::fs"]);

/// The files that may say what the compiler cannot check; the reasons and the figures stand in them.
const UNSAFE: &[&str] = &["memory.rs", "net/outbox/kernel.rs"];

/// Lines of code, without tests, comments and blank lines.
const LONGEST_FILE: usize = 500;

/// Source files by their path under `src`.
type Tree = BTreeMap<String, String>;

#[test]
fn the_house_keeps_its_rules() {
    let mut tree = Tree::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    gather(&root, &root, &mut tree);
    assert!(tree.contains_key("lib.rs") && tree.contains_key("ids.rs"), "{:?}", tree.keys());
    let faults = faults(&tree);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn gather(root: &Path, folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(root, &path, tree);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name: Vec<&str> = path.strip_prefix(root).unwrap().iter().map(|part| part.to_str().unwrap()).collect();
            tree.insert(name.join("/"), fs::read_to_string(&path).unwrap());
        }
    }
}

/// Everything that breaks a rule, one line each.
fn faults(tree: &Tree) -> Vec<String> {
    tree.iter().flat_map(|(path, text)| faults_of(path, text)).collect()
}

fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    // What these know, their name says.
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return faults;
    }
    if !text.starts_with("//! ") {
        faults.push(format!("{path} does not begin with a line that says what it knows (`//! ...`)"));
    }
    if path == "lib.rs" {
        return faults;
    }
    let code = without_tests(&bare(text));
    let length = code.lines().filter(|line| !line.trim().is_empty()).count();
    if length > LONGEST_FILE {
        faults.push(format!("{path} has {length} lines of code; {LONGEST_FILE} is the limit"));
    }
    if !UNSAFE.contains(&path) && (says(&code, "unsafe") || says(&code, "unsafe_code")) {
        faults.push(format!("{path} says unsafe"));
    }
    let module = path.split('/').next().unwrap().trim_end_matches(".rs");
    let Some(own) = floor(module) else {
        faults.push(format!("{path}: the module {module} stands on no floor"));
        return faults;
    };
    for import in imports(path, &code) {
        match floor(&import) {
            _ if import == module => {}
            None => faults.push(format!("{path} imports {import}, which stands on no floor")),
            Some(other) if other < own => {}
            Some(other) if other == own => faults.push(format!("{path} imports its neighbour {import}")),
            Some(_) => faults.push(format!("{path} imports {import} from a floor above it")),
        }
    }
    if PURE.contains(&module) {
        let said = IMPURE.iter().filter(|word| says(&code, word));
        let allowed = |word: &str| path == DOOR.0 && DOOR.1.contains(&word);
        faults.extend(said.filter(|word| !allowed(word)).map(|word| format!("{path} is pure, yet says {word}")));
    }
    faults
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The top-level modules that the code's paths lead to (`crate::x`, `crate::{x, y::z}`, `super::super::x`, `pgmoor::x`).
fn imports(path: &str, code: &str) -> Vec<String> {
    let depth = path.trim_end_matches("/mod.rs").split('/').count();
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for root in ["crate::", "pgmoor::", to_root.as_str()] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|before: char| is_word(before) || before == ':') {
                continue;
            }
            found.extend(heads(&code[at + root.len()..]));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first words of what follows a root: one, or one for every branch of a `{...}`.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return word(rest).into_iter().collect();
    };
    let mut depth = 1;
    let mut end = group.len();
    let mut starts = vec![0];
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts.push(at + 1),
            _ => {}
        }
        if depth == 0 {
            end = at;
            break;
        }
    }
    starts.into_iter().filter_map(|start| word(group[..end].get(start..)?.trim_start())).collect()
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|letter| !is_word(letter)).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Whether the code has this word or path, as a whole.
fn says(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// The text with comments left out and the insides of strings and characters made harmless; lines stay where they are.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = out.ends_with(is_word);
        let (length, keep) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment(rest), None)
        } else if let (false, Some(length)) = (after_word, raw_string(rest)) {
            (length, Some('~'))
        } else if first == '"' {
            (string(rest), Some('~'))
        } else if let ('\'', Some(length)) = (first, character(rest)) {
            (length, Some('~'))
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        for letter in rest[..length].chars() {
            match (letter, keep) {
                ('\n', _) => out.push('\n'),
                (_, Some(mark)) => out.push(mark),
                (_, None) => {}
            }
        }
        rest = &rest[length..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// `r"..."`, `r#"..."#`, `br"..."`.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = inside.find(&close)? + close.len();
    Some(text.len() - inside.len() + end)
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character literal, as against a lifetime.
fn character(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    let length = if first == '\\' { inside[2..].find('\'')? + 2 } else { first.len_utf8() };
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// Bare code without the items marked `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let mut depth = 0;
        let end = rest.char_indices().find(|(_, letter)| {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(letter, '}' | ';')
        });
        rest = end.map_or("", |(at, _)| &rest[at + 1..]);
    }
    out.push_str(rest);
    out
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let file = |(path, text): &(&str, &str)| ((*path).to_owned(), format!("//! x\n{text}"));
    files.iter().map(file).collect()
}

/// A file, what stands in it, and what is to be said about it.
const BAD: &[(&str, &str, &[&str])] = &[
    ("wire/scan.rs", "use crate::session::Session;", &["wire/scan.rs imports session from a floor above it"]),
    ("wire/mod.rs", "fn f() { crate::topology::f() }", &["wire/mod.rs imports topology from a floor above it"]),
    ("topology/mod.rs", "use crate::auth;", &["topology/mod.rs imports its neighbour auth"]),
    (
        "session/mod.rs",
        "use crate::{\n    ids::{Lsn, PodId},\n    app::run,\n    discovery,\n};",
        &["session/mod.rs imports app from a floor above it", "session/mod.rs imports its neighbour discovery"],
    ),
    ("net/tls.rs", "use super::super::backend::X;", &["net/tls.rs imports backend from a floor above it"]),
    ("net/mod.rs", "use super::backend::X;", &["net/mod.rs imports backend from a floor above it"]),
    ("ids.rs", "use super::error::Code;", &["ids.rs imports error from a floor above it"]),
    ("app.rs", "use crate::attic::X;", &["app.rs imports attic, which stands on no floor"]),
    ("attic/mod.rs", "", &["attic/mod.rs: the module attic stands on no floor"]),
    ("continuity/state.rs", "use tokio::time;", &["continuity/state.rs is pure, yet says tokio"]),
    ("topology/mod.rs", "let now = std::time::Instant::now();", &["topology/mod.rs is pure, yet says Instant::now"]),
    (
        "auth/mod.rs",
        "fn f<'a>(c: char) { if c == '\"' { tracing::info!(\"\") } }",
        &["auth/mod.rs is pure, yet says tracing"],
    ),
    ("config/read.rs", "std::fs::read(x)", &["config/read.rs is pure, yet says std::fs"]),
    ("config/load.rs", "println!()", &["config/load.rs is pure, yet says println"]),
    ("net/pipe.rs", "unsafe { f() }", &["net/pipe.rs says unsafe"]),
    ("net/pipe/lent.rs", "#![allow(unsafe_code)]", &["net/pipe/lent.rs says unsafe"]),
    ("wire/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::net::X;", &["wire/mod.rs imports net from a floor above it"]),
    (
        "wire/mod.rs",
        "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::net::X;",
        &["wire/mod.rs imports net from a floor above it"],
    ),
];

#[test]
fn every_kind_of_fault_is_found() {
    for (path, text, expected) in BAD {
        assert_eq!(faults(&tree(&[(path, text)])), *expected, "{path}: {text}");
    }
    let long = "let x = 1;\n".repeat(LONGEST_FILE + 1);
    assert_eq!(faults(&tree(&[("net/mod.rs", &long)])), ["net/mod.rs has 501 lines of code; 500 is the limit"]);
    let silent = Tree::from([("ids.rs".to_owned(), "use std::fmt;\n".to_owned())]);
    assert_eq!(faults(&silent), ["ids.rs does not begin with a line that says what it knows (`//! ...`)"]);
}

#[test]
fn what_only_looks_like_a_fault_is_not() {
    let comments = "// filler\n\n".repeat(LONGEST_FILE + 1);
    let good = tree(&[
        ("wire/scan.rs", "use crate::{error::Code, ids::Lsn};\nuse super::message::X;\nuse crate::wire::sql;"),
        ("wire/message/deep.rs", "use super::super::sql::X;"),
        (
            "topology/mod.rs",
            "/// Not [`crate::session`], not tokio.\n// crate::session\n/* crate::net /* tokio */ */\nlet x = \"crate::session \\\" tokio\";",
        ),
        (
            "topology/routing.rs",
            "let x = r#\"say \"tokio\" crate::net\"#; let tokio_like = mytokio; let c = '\"'; let d = '\\'';",
        ),
        (
            "continuity/mod.rs",
            "use std::time::Instant;\n#[cfg(test)]\nmod tests {\n    use crate::net::X;\n    fn f() { tokio::spawn(Instant::now()) }\n}\n",
        ),
        ("continuity/tests.rs", "use crate::session::X; use tokio::time;"),
        ("config/load.rs", "std::env::var(x); std::fs::read(y);"),
        ("metrics.rs", "use tokio::time::Instant; let x = Instant::now();"),
        ("main.rs", "use pgmoor::cli;"),
        ("memory.rs", "unsafe { f() }"),
        ("net/tls.rs", "// not unsafe\nlet fail_unsafe = \"unsafe\";"),
        ("net/mod.rs", &comments),
        ("lib.rs", "pub mod attic;"),
    ]);
    assert_eq!(faults(&good), [""; 0]);
}
