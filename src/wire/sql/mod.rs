//! What a statement does to session state and transactions, told by its tokens alone.
//!
//! [`statements`] cuts a query text at its top-level semicolons, [`Statement::verb`] says what a statement is, and
//! [`Statement::hints`] which calls in it may change session state. [`glance`] settles the common case in one cheap pass.
//! All are total: any bytes have an answer, in linear time.
//!
//! Lexed as PostgreSQL does with `standard_conforming_strings = on`, its default: a backslash in a plain `'…'` is a
//! plain character. What functions do inside cannot be seen here; ask the server when it matters.

mod assign;
mod calls;
mod effects;
mod glance;
pub mod harmless;
mod hints;
pub mod keyword;
mod lex;
mod name;
mod outside;
mod parse;
mod plain;
mod setting;
mod split;
mod strangers;
mod verb;

pub use assign::Column;
pub use effects::Effects;
pub use glance::glance;
pub use hints::Hints;
pub use outside::{Outside, Source, suspects};
pub use plain::{Opening, only_begins, only_commits};
pub use setting::{Scope, Setting};
pub use split::{Statements, statements};
pub use verb::{Discard, Verb};

/// One statement of a query text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    text: &'a [u8],
}

impl<'a> Statement<'a> {
    /// Its text, without the semicolon; comments and white space around it stay.
    #[must_use]
    pub const fn text(&self) -> &'a [u8] {
        self.text
    }

    /// What it is.
    #[must_use]
    pub fn verb(&self) -> Verb {
        parse::verb(self.text)
    }

    /// The settings that calls of `set_config` in it name by a plain string, in lower case; those behind a parameter or an
    /// expression are not known.
    #[must_use]
    pub fn configured(&self) -> Vec<String> {
        hints::configured(self.text)
    }

    /// The settings that its own row tells, column by column; `None`: it is not a SELECT of nothing but `set_config` calls.
    #[must_use]
    pub fn assigns(&self) -> Option<Vec<Column>> {
        assign::columns(self.text)
    }

    /// Whether it calls a function that is not PostgreSQL's own, which may set anything for the session. Those that triggers,
    /// views, operators and casts call are not seen.
    #[must_use]
    pub fn calls_strangers(&self) -> bool {
        strangers::calls(self.text)
    }

    /// What running it may do, as far as its text tells.
    #[must_use]
    pub fn effects(&self) -> Effects<'a> {
        effects::of(self.text)
    }

    /// Calls and clauses in it, at any depth, that may change session state.
    #[must_use]
    pub fn hints(&self) -> Hints {
        hints::find(self.text)
    }
}

/// Whether one of a text's statements does: see [`Statement::calls_strangers`].
#[must_use]
pub fn calls_strangers(text: &[u8]) -> bool {
    strangers::calls(text)
}

/// Whether a quick look finds none in a text that does: `false` promises nothing.
#[must_use]
pub fn calls_only_known(text: &[u8]) -> bool {
    strangers::are_all_known(text)
}

#[cfg(test)]
mod tests;
