//! What is believed of PostgreSQL's functions, keywords and plain texts, against what a real server says of them.
//! `SURVEY_SEED` and `SURVEY_TEXTS` run other random texts, and more of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a real server lives in real time")]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

#[path = "support/postgres.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use pgmoor::continuity::survey::{Survey, survey};
use pgmoor::wire::message::write::frontend as write;
use pgmoor::wire::message::{CommandComplete, ReadyForQuery};
use pgmoor::wire::sql::harmless::{NEWER, STEADY, VOLATILE};
use pgmoor::wire::sql::keyword::NO_FUNCTION;
use pgmoor::wire::sql::{only_begins, only_commits};
use pgmoor::wire::{HEADER_LEN, ProtocolVersion, TxStatus, backend};
use postgres::Postgres;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

fn server() -> Option<Postgres> {
    if postgres::installed() {
        return Some(Postgres::start().unwrap());
    }
    eprintln!("PostgreSQL 15 is not installed: nothing was tested");
    None
}

fn names(server: &Postgres, sql: &str) -> BTreeSet<String> {
    let names: BTreeSet<String> = server.psql(sql).unwrap().lines().map(str::to_owned).collect();
    assert!(!names.is_empty(), "{sql}");
    names
}

fn of(text: &str) -> Survey {
    let mut journal = BytesMut::new();
    write::query(&mut journal, text);
    survey(&journal, &|_| None, true)
}

#[test]
fn the_server_knows_the_harmless_functions_for_what_they_are() {
    let Some(server) = server() else { return };
    let functions = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace";
    let all = names(&server, functions);
    let volatile = names(&server, &format!("{functions} AND (provolatile = 'v' OR prokind = 'p')"));
    for name in STEADY {
        assert!(all.contains(*name) && !volatile.contains(*name), "{name}");
    }
    for name in VOLATILE {
        assert!(volatile.contains(*name), "{name}");
    }
    for name in NEWER {
        assert!(!all.contains(*name), "{name} is not new");
    }
    for name in &volatile {
        let reads = of(&format!("SELECT \"{name}\"()")).reads_only;
        assert_eq!(reads, VOLATILE.contains(&name.as_str()), "{name}");
    }
    let theirs = "SELECT provolatile FROM pg_proc WHERE pronamespace = 'information_schema'::regnamespace \
                  AND proname LIKE '\\_pg\\_%'";
    assert!(!names(&server, theirs).contains("v"));
}

#[test]
fn no_function_can_have_these_names() {
    let Some(server) = server() else { return };
    let words = names(&server, "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C')");
    for word in NO_FUNCTION {
        assert!(words.contains(*word), "{word}");
        let made = server.psql(&format!("CREATE FUNCTION {word}(int) RETURNS int LANGUAGE sql AS 'SELECT 1'"));
        assert!(made.is_err(), "{word}");
    }
}

/// Pieces of queries, of which most orders are no SQL, and some hide a call of `f`.
const PIECES: &[&str] = &[
    "SELECT",
    "SELECT",
    "f(1)",
    "f(2)",
    "f (3)",
    "(",
    "(",
    ")",
    ")",
    "1",
    ",",
    ",",
    "AS",
    "AS (",
    "a",
    "b",
    "a(x)",
    "WITH",
    "WITH a AS (",
    "WITH a(x) AS (SELECT 1)",
    "RECURSIVE",
    "(SELECT 1)",
    "SELECT 1",
    "DISTINCT ON (1)",
    "DISTINCT",
    "FROM",
    "FROM t",
    "lower('a')",
    "count(*)",
    "OPERATOR(pg_catalog.+)",
    "::int",
    "::numeric(3)",
    "ORDER BY",
    "ORDER BY 1",
    "GROUP BY",
    "OVER (",
    "OVER ()",
    "FILTER (WHERE",
    "UNION ALL",
    "VALUES",
    "VALUES (1)",
    "TABLE t",
    "+",
    "JOIN",
    "JOIN t ON",
    "CROSS JOIN",
    "LATERAL",
    "t",
    "t.x",
    ".",
    "EXPLAIN ANALYZE",
    "EXPLAIN (ANALYZE)",
    "EXPLAIN",
    "(ANALYZE)",
    "CASE WHEN",
    "THEN",
    "END",
    "IN",
    "ANY",
    "ARRAY[",
    "]",
    "LIMIT",
    "PREPARE p AS",
    "EXECUTE p",
    "DECLARE c CURSOR FOR",
    "FETCH c",
    "COPY (",
    ") TO STDOUT",
    "TO STDOUT",
    "WHERE",
    "AND",
    "NOT",
    "= 1",
    ";",
    "'",
    "\"a\"",
    "$$",
    "--",
    "/*",
    "*/",
    "\n",
    "E'\\'",
    "'\\'",
    "CAST(",
    "AS int)",
    "CYCLE x SET y USING z",
    "MATERIALIZED",
    "USING (x)",
    "ROWS FROM (",
    "WITH ORDINALITY",
    "WITHIN GROUP (",
    "TABLESAMPLE",
    "ROLLUP (",
    "BETWEEN",
    "ROWS",
    "row",
    "FOR UPDATE",
    "LOCK t",
];

/// A call of `f` is seen even though its statement fails: a sequence moves for good.
#[test]
fn no_harmless_text_calls_a_function_of_the_user_s() {
    let Some(server) = server() else { return };
    let made = "CREATE SEQUENCE s; CREATE TABLE t (x int); INSERT INTO t VALUES (1); \
                CREATE FUNCTION f(int) RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''s'')'";
    server.psql(made).unwrap();
    let mut link = Link::open(&server);
    let mut dice = StdRng::seed_from_u64(set("SURVEY_SEED", 15));
    let texts = set("SURVEY_TEXTS", 3000);
    let (mut sent, mut taken) = (0, 0);
    while sent < texts {
        let first = ["SELECT", "WITH", "EXPLAIN", "PREPARE p AS SELECT", "VALUES (", "("][dice.random_range(0..6)];
        let mut text = first.to_owned();
        for _ in 0..dice.random_range(1..9) {
            text += " ";
            text += PIECES[dice.random_range(0..PIECES.len())];
        }
        let calls = text.contains("f(") || text.contains("f (") || text.contains("EXECUTE");
        if !calls || !of(&text).reads_only {
            continue;
        }
        sent += 1;
        let (tags, _) = link.query(&text);
        taken += usize::from(tags != ["ERROR"]);
        link.leave();
        link.query("DEALLOCATE ALL");
        assert_eq!(server_moves(&mut link), "ROLLBACK", "{text:?}");
    }
    assert!(taken > 30, "{taken} of {sent} texts are SQL");
    link.query("SELECT f(1)");
    assert_eq!(server_moves(&mut link), "ERROR", "a call is noticed");
}

fn set(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

/// A command tag, or `ERROR` once the sequence has moved.
fn server_moves(link: &mut Link) -> String {
    let (tags, _) = link.query("SELECT 1 / (NOT is_called)::int FROM s; ROLLBACK");
    tags.last().cloned().unwrap_or_default()
}

/// Texts of BEGIN and COMMIT, good and bad: words in every order up to four, with noise between them.
fn texts(first: &[&str], words: &[&str]) -> Vec<String> {
    let mut texts: Vec<String> = first.iter().map(|&word| word.to_owned()).collect();
    let mut last = texts.clone();
    for _ in 0..2 {
        last = last.iter().flat_map(|text| words.iter().map(move |word| format!("{text} {word}"))).collect();
        texts.extend_from_slice(&last);
    }
    texts
}

#[test]
fn plain_texts_are_answered_as_foretold() {
    let Some(mut server) = server() else { return };
    let mut link = Link::open(&server);
    let levels = ["ISOLATION LEVEL SERIALIZABLE", "isolation level repeatable read", "ISOLATION LEVEL READ COMMITTED"];
    let more = ["ISOLATION LEVEL READ UNCOMMITTED", "READ WRITE", "READ ONLY", "DEFERRABLE", "NOT DEFERRABLE", "READ"];
    let noise =
        ["WORK", "TRANSACTION", ",", ";", "-- a\n", "/* b /* c */ */", "/* open", "'a'", "\x0b", "-- \u{e9}", "NOT"];
    let begins =
        texts(&["BEGIN", "begin", "START", "START TRANSACTION", "BEGIN WORK"], &[&levels[..], &more, &noise].concat());
    let commits = texts(
        &["COMMIT", "end", "END WORK"],
        &[&["AND", "NO", "CHAIN", "AND NO CHAIN", "AND CHAIN"][..], &noise].concat(),
    );
    let mut foretold = 0;
    for text in &begins {
        link.leave();
        if let Some(opening) = only_begins(text.as_bytes()) {
            foretold += 1;
            assert_eq!(link.query(text), (vec![opening.tag.to_owned()], TxStatus::InTransaction), "{text:?}");
        }
    }
    assert!(foretold > 100, "{foretold} of {}", begins.len());
    foretold = 0;
    for text in &commits {
        if only_commits(text.as_bytes()) {
            foretold += 1;
            link.leave();
            link.query("BEGIN");
            assert_eq!(link.query(text), (vec!["COMMIT".to_owned()], TxStatus::Idle), "{text:?}");
        }
    }
    assert!(foretold > 20, "{foretold} of {}", commits.len());

    // The same data as a standby.
    server.psql("COPY (SELECT 1) TO PROGRAM 'cat > standby.signal'").unwrap();
    server.signal("INT").unwrap();
    server.wait_end().unwrap();
    server.restart().unwrap();
    let mut link = Link::open(&server);
    for text in &begins {
        link.leave();
        let Some(opening) = only_begins(text.as_bytes()) else { continue };
        let (tags, status) = link.query(text);
        let taken = tags == [opening.tag] && status == TxStatus::InTransaction;
        assert!(taken || opening.primary_only, "{text:?}: {tags:?}");
    }
    link.leave();
    assert_eq!(link.query("BEGIN READ WRITE").0, ["ERROR"]);
    assert_eq!(link.query("BEGIN ISOLATION LEVEL SERIALIZABLE").0, ["ERROR"]);
}

/// One connection that sends simple queries and reads command tags.
struct Link(TcpStream);

impl Link {
    fn open(server: &Postgres) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut link = Self(stream);
        let mut packet = BytesMut::new();
        write::startup(&mut packet, ProtocolVersion::V3_0, [("user", "postgres"), ("database", "postgres")]);
        link.0.write_all(&packet).unwrap();
        assert_eq!(link.answers().1, TxStatus::Idle);
        link
    }

    fn query(&mut self, text: &str) -> (Vec<String>, TxStatus) {
        let mut packet = BytesMut::new();
        write::query(&mut packet, text);
        self.0.write_all(&packet).unwrap();
        self.answers()
    }

    /// Ends a transaction, if there is one.
    fn leave(&mut self) {
        assert_eq!(self.query("ROLLBACK").1, TxStatus::Idle);
    }

    /// Tags, and `ERROR` for an error, up to the next ReadyForQuery.
    fn answers(&mut self) -> (Vec<String>, TxStatus) {
        let mut tags = Vec::new();
        loop {
            let mut header = [0; HEADER_LEN];
            self.0.read_exact(&mut header).unwrap();
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) - 4;
            let mut body = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut body).unwrap();
            match header[0] {
                backend::COMMAND_COMPLETE => {
                    tags.push(String::from_utf8_lossy(CommandComplete::read(&body).unwrap().tag).into_owned());
                }
                backend::ERROR_RESPONSE => tags.push("ERROR".to_owned()),
                backend::READY_FOR_QUERY => return (tags, ReadyForQuery::read(&body).unwrap().status),
                _ => {}
            }
        }
    }
}
