//! The cheap look: most statements can be told harmless without cutting them into tokens.

use memchr::{memchr2_iter, memchr3_iter};

use super::lex::{is_identifier, is_space};

/// Whether the text is one statement that cannot touch session state or control a transaction: a SELECT, INSERT, UPDATE,
/// DELETE or WITH without any word that [`Hints`](super::Hints) look for. `true` promises that [`statements`](super::statements)
/// finds one statement, a read or a write, without hints; `false` promises nothing.
#[must_use]
pub fn glance(text: &[u8]) -> bool {
    let begin = text.iter().position(|&b| !is_space(b)).unwrap_or(text.len());
    let text = &text[begin..];
    let word = text.iter().position(|&b| !is_identifier(b)).unwrap_or(text.len());
    begins_plainly(&text[..word])
        && memchr3_iter(b';', b'&', b'_', text).all(|i| harmless(text, i))
        && memchr2_iter(b'm', b'M', text).all(|i| !holds_temp(text, i))
}

fn begins_plainly(word: &[u8]) -> bool {
    let verbs: [&[u8]; 5] = [b"select", b"insert", b"update", b"delete", b"with"];
    verbs.iter().any(|verb| word.eq_ignore_ascii_case(verb))
}

/// What stands around a byte at which something could begin or end that deserves a full look.
fn harmless(text: &[u8], i: usize) -> bool {
    let behind = |word: &[u8]| text[i + 1..].get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word));
    match text[i] {
        // A second statement.
        b';' => text[i + 1..].iter().all(|&b| is_space(b)),
        // U&"…" can spell any name.
        b'&' => !behind(b"\""),
        // set_config, pg_advisory_…, pg_try_advisory_…
        _ => !(behind(b"advisory_") || ends_with(&text[..i], b"set") && behind(b"config")),
    }
}

/// TEMP, TEMPORARY, pg_temp: found by the `m`, which is rarer than `p`.
fn holds_temp(text: &[u8], m: usize) -> bool {
    matches!(text.get(m + 1), Some(b'p' | b'P')) && ends_with(&text[..m], b"te")
}

fn ends_with(text: &[u8], word: &[u8]) -> bool {
    text.len().checked_sub(word.len()).is_some_and(|begin| text[begin..].eq_ignore_ascii_case(word))
}
