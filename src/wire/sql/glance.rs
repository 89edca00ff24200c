//! The cheap look: most statements can be told harmless without cutting them into tokens.

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
        && text.iter().enumerate().all(|(i, &b)| !SUSPECT[usize::from(b)] || harmless(text, i))
}

fn begins_plainly(word: &[u8]) -> bool {
    let verbs: [&[u8]; 5] = [b"select", b"insert", b"update", b"delete", b"with"];
    verbs.iter().any(|verb| word.eq_ignore_ascii_case(verb))
}

/// The bytes at which something could begin or end that deserves a full look.
static SUSPECT: [bool; 256] = {
    let mut table = [false; 256];
    table[b';' as usize] = true;
    table[b'&' as usize] = true;
    table[b'_' as usize] = true;
    table[b'p' as usize] = true;
    table[b'P' as usize] = true;
    table
};

fn harmless(text: &[u8], i: usize) -> bool {
    let before = |word: &[u8]| i >= word.len() && text[i - word.len()..i].eq_ignore_ascii_case(word);
    let behind = |word: &[u8]| text[i + 1..].get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word));
    match text[i] {
        // A second statement.
        b';' => text[i + 1..].iter().all(|&b| is_space(b)),
        // U&"…" can spell any name.
        b'&' => !behind(b"\""),
        // set_config, pg_advisory_…, pg_try_advisory_…
        b'_' => !(behind(b"advisory_") || before(b"set") && behind(b"config")),
        // TEMP, TEMPORARY, pg_temp
        _ => !before(b"tem"),
    }
}
