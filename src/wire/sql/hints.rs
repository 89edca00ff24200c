//! Calls and clauses inside a statement that may change session state.

use super::lex::{Lexer, Token};

/// What was found in a statement's tokens, at any depth. A hint says "may": the call may not run, and may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// `set_config(…)`: may set a setting.
    pub set_config: bool,
    /// `pg_advisory_lock(…)` and its `try` and `shared` forms: may take a lock for the session. Not the `xact` forms.
    pub advisory_lock: bool,
    /// `pg_advisory_unlock(…)` and its forms: may give one back.
    pub advisory_unlock: bool,
    /// SELECT … INTO TEMP: creates a temporary table.
    pub into_temp: bool,
}

impl Hints {
    /// Nothing was found.
    pub const NONE: Self = Self { set_config: false, advisory_lock: false, advisory_unlock: false, into_temp: false };

    /// Whether nothing was found.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !(self.set_config || self.advisory_lock || self.advisory_unlock || self.into_temp)
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            set_config: self.set_config || other.set_config,
            advisory_lock: self.advisory_lock || other.advisory_lock,
            advisory_unlock: self.advisory_unlock || other.advisory_unlock,
            into_temp: self.into_temp || other.into_temp,
        }
    }

    fn call(&mut self, function: &str) {
        match function {
            "set_config" => self.set_config = true,
            "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => {
                self.advisory_lock = true;
            }
            "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => {
                self.advisory_unlock = true
            }
            _ => {}
        }
    }
}

pub(super) fn find(text: &[u8]) -> Hints {
    let mut hints = Hints::default();
    let mut tokens = Lexer::new(text).peekable();
    let mut after_into = false;
    while let Some(token) = tokens.next() {
        let into = std::mem::replace(&mut after_into, token.is_word("into"));
        if into {
            // INTO [LOCAL | GLOBAL] TEMP
            after_into = token.is_word("local") || token.is_word("global");
            hints.into_temp |= token.is_word("temp") || token.is_word("temporary") || token.is_temp_schema();
        }
        if let (Token::Word(_) | Token::Quoted { .. }, Some(Token::Punct(b'('))) = (token, tokens.peek())
            && let Some(name) = token.name()
        {
            hints.call(&name);
        }
    }
    hints
}

/// The settings that calls of `set_config` in the text name by a plain string, at any depth.
pub(super) fn configured(text: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut last = [None, None];
    for token in Lexer::new(text) {
        let [call, bracket] = last;
        let named = call.is_some_and(|call: Token<'_>| call.name().as_deref() == Some("set_config"));
        if named && bracket == Some(Token::Punct(b'(')) && matches!(token, Token::Text { .. }) {
            names.extend(token.value().map(|name| name.to_ascii_lowercase()));
        }
        last = [bracket, Some(token)];
    }
    names
}
