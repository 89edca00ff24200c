//! Cuts a query text into statements.

use super::Statement;
use super::lex::{Lexer, Token};

/// The statements of a query text, in order: one for each answer a server would give to it. Empty statements are left
/// out, unless there is nothing else: then there is one, as there is one EmptyQueryResponse.
///
/// Semicolons in parentheses (CREATE RULE … DO (…; …)) and in a routine's BEGIN ATOMIC … END do not separate. A text
/// the server cannot parse runs no statement at all, so what is made of such a text does not matter.
#[must_use]
pub const fn statements(text: &[u8]) -> Statements<'_> {
    Statements { lexer: Lexer::new(text), text, found: false }
}

/// Iterates over the statements of a query text.
#[derive(Debug, Clone)]
pub struct Statements<'a> {
    lexer: Lexer<'a>,
    text: &'a [u8],
    found: bool,
}

impl<'a> Iterator for Statements<'a> {
    type Item = Statement<'a>;

    fn next(&mut self) -> Option<Statement<'a>> {
        let mut start = self.lexer.pos();
        let mut nesting = Nesting::default();
        while let Some(token) = self.lexer.next() {
            if !token.is_punct(b';') || !nesting.is_top() {
                nesting.see(token);
            } else if nesting.stage == Stage::Start {
                start = self.lexer.pos();
            } else {
                self.found = true;
                return Some(Statement { text: &self.text[start..self.lexer.start()] });
            }
        }
        if nesting.stage == Stage::Start && self.found {
            return None;
        }
        // The rest of the text, once: `start` is at its end the next time.
        self.found = true;
        Some(Statement { text: &self.text[start..] })
    }
}

/// How deep inside a statement the lexer is.
#[derive(Debug, Default)]
struct Nesting {
    stage: Stage,
    parentheses: usize,
    /// BEGIN ATOMIC and every CASE inside it, each closed by an END.
    blocks: usize,
}

/// How far a statement has come on its way to a routine's body.
#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing yet.
    #[default]
    Start,
    /// CREATE [OR REPLACE]
    Create,
    /// CREATE FUNCTION, CREATE PROCEDURE
    Routine,
    /// The same, and BEGIN just now.
    Begin,
    /// Nothing with such a body.
    Other,
}

impl Nesting {
    const fn is_top(&self) -> bool {
        self.parentheses == 0 && self.blocks == 0
    }

    fn see(&mut self, token: Token<'_>) {
        if token.is_punct(b'(') {
            self.parentheses += 1;
        } else if token.is_punct(b')') {
            self.parentheses = self.parentheses.saturating_sub(1);
        }
        if self.blocks > 0 {
            if token.is_word("case") {
                self.blocks += 1;
            } else if token.is_word("end") {
                self.blocks -= 1;
            }
        }
        self.stage = match self.stage {
            Stage::Start if token.is_word("create") => Stage::Create,
            Stage::Create if token.is_any(&["or", "replace"]) => Stage::Create,
            Stage::Create if token.is_any(&["function", "procedure"]) => Stage::Routine,
            Stage::Routine | Stage::Begin if token.is_word("begin") => Stage::Begin,
            Stage::Begin if token.is_word("atomic") && self.blocks == 0 => {
                self.blocks = 1;
                Stage::Routine
            }
            Stage::Routine | Stage::Begin => Stage::Routine,
            Stage::Start | Stage::Create | Stage::Other => Stage::Other,
        };
    }
}
