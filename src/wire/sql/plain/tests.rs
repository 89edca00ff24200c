//! Plain texts and those that only look plain. The same tables are held against a real server by `tests/survey.rs`.

use super::*;

#[test]
fn plain_commits() {
    let yes = [
        "COMMIT",
        "end",
        "Commit Work",
        "END TRANSACTION;",
        "COMMIT AND NO CHAIN",
        " /* a /* b */ */ commit -- c\n ; -- d",
        "commit transaction and no chain ;",
    ];
    for text in yes {
        assert!(only_commits(text.as_bytes()), "{text}");
    }
    let no = [
        "",
        ";",
        "COMMITS",
        "\"commit\"",
        "COMMIT AND CHAIN",
        "COMMIT AND",
        "COMMIT AND NO",
        "COMMIT NO CHAIN",
        "COMMIT WORK WORK",
        "COMMIT WORK TRANSACTION",
        "COMMIT; SELECT 1",
        "COMMIT;;",
        "COMMIT PREPARED 'a'",
        "COMMIT 1",
        "COMMIT /* open",
        "COMMIT 'open",
        "(COMMIT)",
        "ROLLBACK",
        "COMMIT\x0b",
        "COMMIT -- \u{e9}",
        "COMMIT\0",
        ";COMMIT",
        "EXPLAIN COMMIT",
        "COMMIT AND NO CHAIN CHAIN",
    ];
    for text in no {
        assert!(!only_commits(text.as_bytes()), "{text}");
    }
}

#[test]
fn plain_begins() {
    let tag = |text: &str| only_begins(text.as_bytes()).map(|opening| (opening.tag, opening.primary_only));
    let (begin, start) = (Some(("BEGIN", false)), Some(("START TRANSACTION", false)));
    let yes = [
        ("BEGIN", begin),
        (" /* a */ begin -- b\n;", begin),
        ("BEGIN WORK", begin),
        ("BEGIN TRANSACTION;", begin),
        ("START TRANSACTION", start),
        ("BEGIN READ ONLY", begin),
        ("BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE", begin),
        ("BEGIN ISOLATION LEVEL READ UNCOMMITTED READ ONLY DEFERRABLE", begin),
        ("start transaction isolation level repeatable read", start),
        ("BEGIN WORK ISOLATION LEVEL SERIALIZABLE", Some(("BEGIN", true))),
        ("START TRANSACTION READ WRITE, READ ONLY", Some(("START TRANSACTION", true))),
    ];
    for (text, expected) in yes {
        assert_eq!(tag(text), expected, "{text}");
    }
    let no = [
        "",
        "BEGINS",
        "\"begin\"",
        "START",
        "START WORK",
        "BEGIN; SELECT 1",
        "BEGIN;;",
        "BEGIN ,",
        "BEGIN READ ONLY,",
        "BEGIN, READ ONLY",
        "BEGIN READ",
        "BEGIN NOT",
        "BEGIN NOT READ ONLY",
        "BEGIN ISOLATION SERIALIZABLE",
        "BEGIN ISOLATION LEVEL",
        "BEGIN 1",
        "BEGIN ISOLATION LEVEL SNAPSHOT",
        "BEGIN ISOLATION LEVEL REPEATABLE",
        "BEGIN ISOLATION LEVEL READ",
        "BEGIN ATOMIC",
        "BEGIN READ ONLY,, READ WRITE",
        "BEGIN WORK TRANSACTION",
        "BEGIN /* open",
        "BEGIN \"read\" ONLY",
        "BEGIN\x0b",
        "BEGIN -- \u{e9}",
        "START TRANSACTION WORK",
        "BEGIN READ ONLY 'open",
    ];
    for text in no {
        assert_eq!(tag(text), None, "{text}");
    }
}
