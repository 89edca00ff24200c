//! Texts that do nothing but begin or commit a transaction, so plainly that the server's answer is known beforehand.

use super::lex::{Lexer, Token};

/// What [`only_begins`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The command tag the server answers with: `BEGIN` or `START TRANSACTION`.
    pub tag: &'static str,
    /// It asks for what a standby refuses: READ WRITE, or ISOLATION LEVEL SERIALIZABLE.
    pub primary_only: bool,
}

/// Whether the text is one COMMIT or END that begins no further transaction, and nothing else. One semicolon, white space
/// and comments may be around it.
///
/// Nothing is allocated, and a text that begins with another word is given up at once. `true` promises that the server's
/// grammar takes the text.
#[must_use]
pub fn only_commits(text: &[u8]) -> bool {
    let mut words = Words::new(text);
    if !words.eat("commit") && !words.eat("end") {
        return false;
    }
    let _noise = words.eat("work") || words.eat("transaction");
    if words.eat("and") && !(words.eat("no") && words.eat("chain")) {
        return false;
    }
    words.end()
}

/// Whether the text is one BEGIN or START TRANSACTION, and nothing else. One semicolon, white space and comments may be
/// around it.
///
/// Nothing is allocated, and a text that begins with another word is given up at once. A session outside a transaction
/// block is surely answered with [`Opening::tag`]; on a standby only without [`Opening::primary_only`].
#[must_use]
pub fn only_begins(text: &[u8]) -> Option<Opening> {
    let mut words = Words::new(text);
    let tag = if words.eat("begin") {
        let _noise = words.eat("work") || words.eat("transaction");
        "BEGIN"
    } else if words.eat("start") && words.eat("transaction") {
        "START TRANSACTION"
    } else {
        return None;
    };
    let mut primary_only = false;
    let mut another = words.at_word();
    while another {
        primary_only |= words.mode()?;
        let comma = words.eat_punct(b',');
        another = words.at_word();
        if comma && !another {
            return None;
        }
    }
    words.end().then_some(Opening { tag, primary_only })
}

/// Keywords with one ahead.
struct Words<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    ahead: Option<Token<'a>>,
}

impl<'a> Words<'a> {
    fn new(text: &'a [u8]) -> Self {
        let mut lexer = Lexer::new(text);
        let ahead = lexer.next();
        Self { text, lexer, ahead }
    }

    const fn at_word(&self) -> bool {
        matches!(self.ahead, Some(Token::Word(_)))
    }

    fn eat(&mut self, keyword: &str) -> bool {
        self.eat_if(|token| token.is_word(keyword))
    }

    fn eat_punct(&mut self, byte: u8) -> bool {
        self.eat_if(|token| token.is_punct(byte))
    }

    fn eat_if(&mut self, accept: impl Fn(Token<'a>) -> bool) -> bool {
        let found = self.ahead.is_some_and(accept);
        if found {
            self.ahead = self.lexer.next();
        }
        found
    }

    /// One transaction mode; says whether a standby refuses it.
    fn mode(&mut self) -> Option<bool> {
        if self.eat("isolation") {
            return if self.eat("level") { self.level() } else { None };
        }
        if self.eat("read") {
            let write = self.eat("write");
            return (write || self.eat("only")).then_some(write);
        }
        self.eat("not");
        self.eat("deferrable").then_some(false)
    }

    fn level(&mut self) -> Option<bool> {
        if self.eat("serializable") {
            return Some(true);
        }
        let known = if self.eat("repeatable") {
            self.eat("read")
        } else {
            self.eat("read") && (self.eat("committed") || self.eat("uncommitted"))
        };
        known.then_some(false)
    }

    /// The text's end, behind one semicolon at most. Bytes that some server versions or encodings refuse may be in
    /// comments and between words: such a text promises nothing.
    fn end(mut self) -> bool {
        self.eat_punct(b';');
        let sure = |&b: &u8| b.is_ascii() && b != 0 && b != b'\x0b';
        self.ahead.is_none() && !self.lexer.is_open() && self.text.iter().all(sure)
    }
}

#[cfg(test)]
mod tests;
