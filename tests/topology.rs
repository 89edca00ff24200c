//! The topology machine, from outside: traces a person can read, and properties over random histories.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "any moment will do as the first")]

#[path = "topology/properties.rs"]
mod properties;
#[path = "topology/script.rs"]
mod script;
#[path = "topology/tenure.rs"]
mod tenure;

use std::path::{Path, PathBuf};

/// Runs every `tests/topology/*.trace`. With `TRACE_REWRITE=1` the files are rewritten instead: read the diff.
#[test]
fn traces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/topology");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "trace"));
    paths.sort();
    assert!(paths.len() >= 16, "the traces of {} are missing", folder.display());
    let rewrite = std::env::var_os("TRACE_REWRITE").is_some_and(|value| value == "1");
    let mut differences = String::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let actual = script::run(&expected);
        if rewrite {
            std::fs::write(&path, actual).unwrap();
        } else if expected != actual {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            differences += &format!("--- {name}: expected\n+++ {name}: the machine\n{}", diff(&expected, &actual));
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// A line diff with the longest common subsequence; lines both have are shown only next to a difference.
fn diff(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    let differs = |at: usize| lines.get(at).is_some_and(|(mark, _)| *mark != ' ');
    let near = |at: usize| (at.saturating_sub(2)..=at + 2).any(differs);
    let shown = lines.iter().enumerate().filter(|(at, _)| near(*at));
    shown.map(|(_, (mark, line))| format!("{mark}{line}\n")).collect()
}

#[test]
fn a_difference_is_shown_with_its_neighbours() {
    assert_eq!(diff("a\nb\nc\nd\ne", "a\nb\nx\nd\ne"), " a\n b\n-c\n+x\n d\n e\n");
    assert_eq!(diff("a\nb", "a\nb"), "");
    assert_eq!(diff("a", "a\nb"), " a\n+b\n");
}
