//! Whether a text calls a function that is not PostgreSQL's own: told from what stands before its parentheses, mostly.
//!
//! A call is a name before a parenthesis, so each parenthesis is looked at wherever it stands, in a string or a comment as
//! well. What is found there can only make the cheap look give up; then the tokens decide.

use memchr::{memchr_iter, memmem, memrchr};

use super::calls::{self, PLAIN};
use super::harmless::is_harmless;
use super::keyword::is_no_function;
use super::lex::{is_identifier, is_space};
use super::name::MAX_NAME;

/// Whether a function is called that is not PostgreSQL's own, which may set anything for the session. Those that triggers,
/// views, operators and casts call are not seen.
pub(super) fn calls(text: &[u8]) -> bool {
    !are_all_known(text) && calls::find(text).strange
}

/// Every parenthesis is told by what stands before it to begin no such call; `false` promises nothing.
pub(super) fn are_all_known(text: &[u8]) -> bool {
    let mut look = Look { text, dashes: None, known: b"" };
    memchr_iter(b'(', text).all(|i| look.is_known(i).unwrap_or(false))
}

struct Look<'a> {
    text: &'a [u8],
    /// There are two dashes in a row somewhere: the end of a line may be a comment's.
    dashes: Option<bool>,
    /// The last word that was told: rows of an INSERT say the same again and again.
    known: &'a [u8],
}

impl<'a> Look<'a> {
    /// What stands before the parenthesis at `i`; `None`: that is not clear.
    fn is_known(&mut self, i: usize) -> Option<bool> {
        let end = self.behind(i)?;
        let Some(&last) = self.text[..end].last() else { return Some(true) };
        if last == b'\'' {
            return None; // U&"name" UESCAPE '!' ends so
        }
        if last == b'"' {
            let begin = self.quoted(end)?;
            return self.is_target(begin);
        }
        if !is_identifier(last) {
            return Some(true); // an expression, a list
        }
        let (begin, word) = self.word(end)?;
        let before = self.behind(begin)?;
        let qualified = self.text[..before].ends_with(b".");
        if !qualified && (word == self.known || is_known(word)) {
            self.known = word;
            return Some(true);
        }
        self.is_target(begin)
    }

    /// The name that begins there is INTO's table, perhaps with its schema before it.
    fn is_target(&mut self, begin: usize) -> Option<bool> {
        let mut before = self.behind(begin)?;
        if self.text[..before].ends_with(b".") {
            let end = self.behind(before - 1)?;
            let schema = if self.text[..end].ends_with(b"\"") { self.quoted(end)? } else { self.word(end)?.0 };
            before = self.behind(schema)?;
        }
        Some(self.word(before)?.1.eq_ignore_ascii_case(b"into"))
    }

    /// Where the last token before `i` ends. `None`: it may be a comment's end.
    fn behind(&mut self, i: usize) -> Option<usize> {
        let text = &self.text[..i];
        let end = text.iter().rposition(|&b| !is_space(b)).map_or(0, |last| last + 1);
        if text[..end].ends_with(b"*/") {
            return None;
        }
        let ends_line = text[end..].iter().any(|b| matches!(b, b'\n' | b'\r'));
        if ends_line && *self.dashes.get_or_insert_with(|| memmem::find(self.text, b"--").is_some()) {
            return None;
        }
        Some(end)
    }

    /// The unquoted word that ends there, and where it begins.
    fn word(&self, end: usize) -> Option<(usize, &'a [u8])> {
        let text = &self.text[end.saturating_sub(MAX_NAME + 1)..end];
        let length = text.iter().rev().take_while(|&&b| is_identifier(b)).count();
        let (begin, word) = (end - length, &text[text.len() - length..]);
        // A number ends where a letter begins, and a string where its $tag$ does: the word behind it is not all of this.
        let whole = word.first().is_some_and(|first| !first.is_ascii_digit()) && !word.contains(&b'$');
        (whole && length <= MAX_NAME).then_some((begin, word))
    }

    /// Where the quoted identifier that ends there begins. `None`: it has quotes inside, or escapes.
    fn quoted(&self, end: usize) -> Option<usize> {
        let inside = &self.text[..end - 1];
        let begin = memrchr(b'"', &inside[inside.len().saturating_sub(MAX_NAME + 1)..])?;
        let begin = inside.len().saturating_sub(MAX_NAME + 1) + begin;
        let before = self.text[..begin].last();
        (!matches!(before, Some(b'"' | b'&'))).then_some(begin)
    }
}

/// This unqualified, unquoted word before a parenthesis calls nothing, or one of PostgreSQL's own.
fn is_known(word: &[u8]) -> bool {
    let mut folded = [0; MAX_NAME];
    let folded = &mut folded[..word.len()];
    folded.copy_from_slice(word);
    folded.make_ascii_lowercase();
    std::str::from_utf8(folded).is_ok_and(|word| is_no_function(word) || is_harmless(word) || PLAIN.contains(&word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_applications_send_is_told_without_tokens() {
        let known = [
            "select 1",
            "select count(*), Max (a) from t where b in (1, 2) and (c = 1 or d < (select 2))",
            "INSERT INTO pgbench_history (tid, bid, mtime) VALUES (1, 2, CURRENT_TIMESTAMP), (nextval('s'), 0, now())",
            "INSERT INTO app.t(a) VALUES ('some (words) of an event')",
            "insert into \"Users\" (\"Id\") values (1) on conflict (\"Id\") do update set n = (excluded.n)",
            "insert into \"public\" . \"Users\"(\"Id\") values (1)",
            "with a as (select 1) select * from a where x = any($1) order by lower(y)\n\t(",
        ];
        for text in known {
            assert!(are_all_known(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn strangers_are_found_however_they_are_written() {
        let strange = [
            "select f(1)",
            "select F (1)",
            "select f/**/(1)",
            "select now/**/(1), f--\n(1)",
            "select f -- now\n(1)",
            "select f -- now\r (1)",
            "select app.now(1)",
            "select app . now (1)",
            "select app./* */now(1)",
            "select app.--\nnow(1)",
            "select \"now\"(1), \"f\"(1)",
            "select \"into \"\"f\"(1)",
            "select U&\"\\0066\"(1)",
            "select U&\"!0066\" uescape '!' (1)",
            "select '(' || f(1)",
            "select 'into' || f(1)",
            "select é(1)",
            "select 1f(1)",
            "into 1f(1)",
            "into 1.f(1)",
            "into $1f(1)",
            "select $a$ into x$a$f(1)",
        ];
        for text in strange {
            assert!(calls(text.as_bytes()), "{text:?}");
        }
        let long = format!("select {}(1)", "now".repeat(22));
        assert!(calls(long.as_bytes()));
    }

    /// Pieces that names, strings, comments and calls are made of.
    const PIECES: &[&str] = &[
        "(", "(", "(", ")", "now", "now ", "f", "f ", "into ", "into", "values ", ".", " ", "\n", "\r", "\"", "\"\"",
        "'", "E'", "\\", "U&\"", "uescape ", "$$", "$a$", "--", "/*", "*/", ",", ";", "1", "as ", "select ", "é",
        "\"a\"", "nextval",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn nothing_strange_passes_for_known(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..14)) {
            let text = pieces.concat();
            if are_all_known(text.as_bytes()) {
                prop_assert!(!calls::find(text.as_bytes()).strange, "{:?}", text);
            }
        }
    }

    #[test]
    fn long_texts_take_linear_time() {
        for pattern in ["(", " (", "a (", "now(", "\n(", "\"(", "\"a\" (", "into a.", "into  (", "a . "] {
            let text = pattern.repeat(4_000_000 / pattern.len());
            are_all_known(text.as_bytes());
        }
    }
}
