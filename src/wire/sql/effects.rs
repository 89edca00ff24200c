//! What running one statement may do: whether it may be run again, and what a rollback would not take back.

use super::calls::{self, is_about_text};
use super::lex::{Lexer, Token};
use super::outside::{Outside, Source, suspects};
use super::parse;
use super::setting::Setting;
use super::verb::{Discard, Verb};

/// What running a statement may do, as far as its text tells.
///
/// Harmless is what surely changes nothing that outlives its session: queries that call nothing but PostgreSQL's own
/// functions without effects, transaction control, locks, and all that sets up a session (SET, LISTEN, PREPARE, DISCARD …),
/// for that is gone with a lost backend. The text does not tell everything: a user's function may bear the name of one of
/// PostgreSQL's, or that of a word of its grammar; a view, a rule, an operator, a cast, a type or a column-like call
/// (`t.f` for `f(t)`) may hide a function that writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effects<'a> {
    /// It surely changes nothing; what it [`runs`](Self::runs) is judged by itself.
    pub harmless: bool,
    /// An effect that a rollback does not take back.
    pub outside: Option<Outside>,
    /// EXECUTE: the prepared statement that runs, too.
    pub runs: Option<String>,
    /// PREPARE: a name, and the text it stands for from now on.
    pub prepares: Option<(String, &'a [u8])>,
    /// DECLARE: the portal that is there from now on.
    pub opens: Option<String>,
    /// It may change how the server reads the texts behind it: `standard_conforming_strings`, `client_encoding`.
    pub rereads: bool,
}

impl Effects<'_> {
    fn none() -> Self {
        Self { harmless: true, ..Self::default() }
    }

    fn outside(kind: fn(Source) -> Outside, words: &'static str) -> Self {
        Self { outside: Some(kind(Source::Statement(words))), ..Self::default() }
    }
}

pub(super) fn of(text: &[u8]) -> Effects<'_> {
    if opens_with(text, "explain") {
        return explained(text);
    }
    plain(text)
}

/// Any statement but EXPLAIN.
fn plain(text: &[u8]) -> Effects<'_> {
    match parse::verb(text) {
        Verb::Empty
        | Verb::Begin
        | Verb::Commit { .. }
        | Verb::Rollback { .. }
        | Verb::RollbackTo { .. }
        | Verb::Savepoint { .. }
        | Verb::Release { .. }
        | Verb::SetTransaction
        | Verb::SetCharacteristics
        | Verb::SetRole { .. }
        | Verb::SetSessionAuthorization { .. }
        | Verb::Discard(Discard::Plans | Discard::Sequences | Discard::Temp)
        | Verb::Listen { .. }
        | Verb::Unlisten { .. }
        | Verb::Deallocate { .. }
        | Verb::Fetch
        | Verb::CloseCursor { .. } => Effects::none(),
        Verb::Set { name, value, .. } => {
            Effects { rereads: is_about_text(&name) && !is_usual(&value), ..Effects::none() }
        }
        Verb::Reset { name } => Effects { rereads: is_about_text(&name), ..Effects::none() },
        Verb::ResetAll | Verb::Discard(Discard::All) => Effects { rereads: true, ..Effects::none() },
        Verb::PrepareTransaction => Effects::outside(Outside::TwoPhase, "PREPARE TRANSACTION"),
        Verb::FinishPrepared => Effects::outside(Outside::TwoPhase, "COMMIT or ROLLBACK PREPARED"),
        Verb::Load => Effects::outside(Outside::Load, "LOAD"),
        Verb::Prepare { name } => {
            let inner = behind(text, "as");
            Effects { prepares: inner.map(|inner| (name, inner)), ..Effects::none() }
        }
        Verb::Execute { name } => Effects { runs: Some(name), ..arguments(text) },
        Verb::DeclareCursor { name, .. } => {
            let inner = behind(text, "for").map(query).unwrap_or_default();
            Effects { opens: Some(name), ..inner }
        }
        Verb::Read if opens_with(text, "show") => Effects::none(),
        Verb::Read => query(text),
        Verb::CopyOut => copied(text),
        Verb::Do => Effects { outside: suspects(text), ..Effects::default() },
        Verb::Write if opens_with(text, "lock") => Effects::none(),
        Verb::CreateTemp | Verb::Drop | Verb::CopyIn | Verb::Call | Verb::Write => {
            Effects { harmless: false, outside: by_words(text), ..any(text) }
        }
    }
}

/// A SELECT, VALUES, TABLE or WITH.
fn query(text: &[u8]) -> Effects<'_> {
    let begins = Lexer::new(text).find(|token| !token.is_punct(b'('));
    let is_query = begins.is_some_and(|first| first.is_any(&["select", "values", "table", "with"]));
    let found = any(text);
    Effects { harmless: is_query && found.harmless, ..found }
}

/// What the tokens of any statement tell.
fn any(text: &[u8]) -> Effects<'_> {
    let found = calls::find(text);
    Effects { harmless: !found.writes, outside: found.outside, rereads: found.rereads, ..Effects::default() }
}

/// EXECUTE name (…): what is behind the name.
fn arguments(text: &[u8]) -> Effects<'_> {
    let mut lexer = Lexer::new(text);
    let _execute_and_name = (lexer.next(), lexer.next());
    any(&text[lexer.pos()..])
}

/// EXPLAIN: nothing runs without ANALYZE.
fn explained(text: &[u8]) -> Effects<'_> {
    let mut lexer = Lexer::new(text);
    lexer.next();
    let mut runs = false;
    let mut start = lexer.pos();
    let mut token = lexer.next();
    if token.is_some_and(|token| token.is_punct(b'(')) {
        let first = lexer.find(|token| !token.is_punct(b'('));
        if first.is_some_and(|token| token.is_any(&["select", "values", "table", "with"])) {
            return Effects::none(); // no options: the query itself is in parentheses
        }
        token = first;
        while token.is_some_and(|token| !token.is_punct(b')')) {
            // UESCAPE: any name may be spelled with it.
            let name = token.and_then(|token| token.name());
            runs |= name.is_some_and(|name| matches!(&*name, "analyze" | "analyse" | "uescape"));
            token = lexer.next();
        }
        start = lexer.pos();
    } else {
        while let Some(word) = token.filter(|token| token.is_any(&["analyze", "analyse", "verbose"])) {
            runs |= !word.is_word("verbose");
            start = lexer.pos();
            token = lexer.next();
        }
    }
    let inner = &text[start..];
    match runs {
        false => Effects::none(),
        true if opens_with(inner, "explain") => Effects::default(),
        true => plain(inner),
    }
}

/// COPY … TO STDOUT: of a table, or of a query in parentheses.
fn copied(text: &[u8]) -> Effects<'_> {
    let mut lexer = Lexer::new(text);
    lexer.next();
    if !lexer.next().is_some_and(|token| token.is_punct(b'(')) {
        return Effects::none();
    }
    let start = lexer.pos();
    let mut depth = 1_usize;
    while let Some(token) = lexer.next() {
        depth = if token.is_punct(b'(') { depth + 1 } else { depth - usize::from(token.is_punct(b')')) };
        if depth == 0 {
            return query(&text[start..lexer.start()]);
        }
    }
    Effects::default()
}

/// The text behind the first keyword of this kind outside parentheses.
fn behind<'a>(text: &'a [u8], keyword: &str) -> Option<&'a [u8]> {
    let mut lexer = Lexer::new(text);
    let mut depth = 0_usize;
    while let Some(token) = lexer.next() {
        if depth == 0 && token.is_word(keyword) {
            return Some(&text[lexer.pos()..]);
        }
        match token {
            Token::Punct(b'(') => depth += 1,
            Token::Punct(b')') => depth = depth.saturating_sub(1),
            Token::Word(_)
            | Token::Quoted { .. }
            | Token::Text { .. }
            | Token::Number(_)
            | Token::Parameter
            | Token::Punct(_) => {}
        }
    }
    None
}

fn opens_with(text: &[u8], keyword: &str) -> bool {
    Lexer::new(text).next().is_some_and(|token| token.is_word(keyword))
}

/// A value with which texts are read as they are read here.
fn is_usual(value: &Setting) -> bool {
    let Setting::Values(values) = value else {
        return false;
    };
    let [value] = values.as_slice() else {
        return false;
    };
    let usual = ["on", "true", "yes", "1", "utf8", "utf-8", "unicode", "latin1", "sql_ascii"];
    usual.contains(&value.to_ascii_lowercase().as_str())
}

/// The effect outside the transaction that a statement has by its own words, else by a call in it.
fn by_words(text: &[u8]) -> Option<Outside> {
    let mut tokens = Lexer::new(text);
    let first = tokens.next()?;
    let second = tokens.next();
    let second_is = |words: &[&str]| second.is_some_and(|token| token.is_any(words));
    let statement = |kind: fn(Source) -> Outside, words| Some(kind(Source::Statement(words)));
    if first.is_word("copy") {
        return copied_by_server(text).or_else(|| any(text).outside);
    }
    let concurrently = || Lexer::new(text).any(|token| token.is_word("concurrently"));
    let makes = first.is_any(&["create", "drop", "alter"]);
    if first.is_word("vacuum") {
        statement(Outside::Maintenance, "VACUUM")
    } else if first.is_word("checkpoint") {
        statement(Outside::Server, "CHECKPOINT")
    } else if first.is_word("alter") && second_is(&["system"]) {
        statement(Outside::Server, "ALTER SYSTEM")
    } else if first.is_any(&["create", "drop"]) && second_is(&["database"]) {
        statement(Outside::Cluster, "CREATE or DROP DATABASE")
    } else if first.is_any(&["create", "drop"]) && second_is(&["tablespace"]) {
        statement(Outside::Cluster, "CREATE or DROP TABLESPACE")
    } else if makes && second_is(&["subscription"]) {
        statement(Outside::Replication, "CREATE, ALTER or DROP SUBSCRIPTION")
    } else if first.is_word("reindex") && reindexes_many(text) {
        statement(Outside::Maintenance, "REINDEX of a schema or database")
    } else if (makes || first.is_word("reindex")) && concurrently() {
        statement(Outside::Maintenance, "a statement with CONCURRENTLY")
    } else {
        any(text).outside
    }
}

/// REINDEX [(…)] SCHEMA | DATABASE | SYSTEM: a transaction for each table.
fn reindexes_many(text: &[u8]) -> bool {
    let mut depth = 0_usize;
    let what = Lexer::new(text).skip(1).find(|token| {
        depth += usize::from(token.is_punct(b'('));
        let outside = depth == 0;
        depth = depth.saturating_sub(usize::from(token.is_punct(b')')));
        outside
    });
    what.is_some_and(|token| token.is_any(&["schema", "database", "system"]))
}

/// COPY to a file of the server's, or from or to a program there.
fn copied_by_server(text: &[u8]) -> Option<Outside> {
    let mut tokens = Lexer::new(text);
    let mut depth = 0_usize;
    while let Some(token) = tokens.next() {
        depth += usize::from(token.is_punct(b'('));
        depth = depth.saturating_sub(usize::from(token.is_punct(b')')));
        if depth == 0 && token.is_any(&["from", "to"]) {
            return match tokens.next() {
                Some(next) if next.is_word("program") => Some(Outside::File(Source::Statement("COPY with a PROGRAM"))),
                Some(Token::Text { .. }) if token.is_word("to") => {
                    Some(Outside::File(Source::Statement("COPY to a file")))
                }
                Some(_) | None => None,
            };
        }
    }
    None
}

#[cfg(test)]
mod tests;
