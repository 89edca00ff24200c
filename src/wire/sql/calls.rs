//! Which functions a query calls, and whether it writes, told by its tokens.

use super::harmless::is_harmless;
use super::keyword::is_no_function;
use super::lex::{Lexer, Token};
use super::outside::Outside;

/// What was found in the tokens of one query.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Something may change something: a word of writing, or a function not known to be harmless.
    pub(super) writes: bool,
    /// The first effect outside the transaction.
    pub(super) outside: Option<Outside>,
    /// `set_config` may change how texts are read.
    pub(super) rereads: bool,
    /// A function is called that is not PostgreSQL's own: it may set anything for the session.
    pub(super) strange: bool,
}

/// Looks through the tokens of a query, or of any statement.
pub(super) fn find(text: &[u8]) -> Found {
    let mut lexer = Lexer::new(text);
    let mut walk = Walk::default();
    let mut ahead = lexer.next();
    while let Some(token) = ahead {
        ahead = lexer.next();
        walk.see(token, ahead);
    }
    walk.found.writes |= lexer.is_open();
    walk.found.rereads |= walk.configured < walk.configures;
    walk.found
}

/// PostgreSQL's own that do something, but set nothing for the session; and words of clauses that look like calls.
pub(super) const PLAIN: [&str; 9] = [
    "conflict",
    "currval",
    "lastval",
    "nextval",
    "pg_notify",
    "pg_terminate_backend",
    "set_config",
    "setval",
    "txid_current",
];

/// Tokens seen last, newest first.
const MEMORY: usize = 4;

#[derive(Debug, Default)]
struct Walk<'a> {
    found: Found,
    past: [Option<Token<'a>>; MEMORY],
    groups: Vec<Group>,
    /// The outermost group.
    base: Group,
    /// What the parenthesis that closed last was.
    closed: Opened,
    /// GROUP BY was seen: ROLLUP and CUBE are clauses now.
    grouped: bool,
    /// Calls of set_config, and those of them that name a setting without a say in how texts are read.
    configures: usize,
    configured: usize,
}

/// A pair of parentheses.
#[derive(Debug, Default, Clone, Copy)]
struct Group {
    opened: Opened,
    /// In the list of a WITH, before the statement it belongs to.
    listing: bool,
}

/// What a parenthesis opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Opened {
    #[default]
    Plain,
    /// DISTINCT ON (…), OPERATOR (…): an expression follows, where otherwise only an alias could.
    BeforeExpression,
}

impl<'a> Walk<'a> {
    fn past(&self, back: usize) -> Option<Token<'a>> {
        self.past.get(back).copied().flatten()
    }

    fn was(&self, back: usize, keyword: &str) -> bool {
        self.past(back).is_some_and(|token| token.is_word(keyword))
    }

    fn was_punct(&self, back: usize, byte: u8) -> bool {
        self.past(back).is_some_and(|token| token.is_punct(byte))
    }

    fn group(&mut self) -> &mut Group {
        self.groups.last_mut().unwrap_or(&mut self.base)
    }

    fn see(&mut self, token: Token<'a>, ahead: Option<Token<'a>>) {
        // OPERATOR (schema.name): only the system's own are known.
        let operator = self.was_punct(0, b'(') && self.was(1, "operator");
        self.found.writes |= operator && !token.is_word("pg_catalog");
        let calls = ahead.is_some_and(|next| next.is_punct(b'('));
        match token {
            Token::Word(_) => {
                self.word(token);
                if calls {
                    self.call(token);
                }
            }
            Token::Quoted { .. } if calls => self.call(token),
            // U&"name" UESCAPE '!' (…): any name.
            Token::Text { .. } if calls && self.was(0, "uescape") => self.found.strange = true,
            Token::Punct(b'(') => self.open(),
            Token::Punct(b')') => self.closed = self.groups.pop().map_or(Opened::Plain, |group| group.opened),
            Token::Punct(b',') => self.comma(),
            Token::Quoted { .. } | Token::Text { .. } | Token::Number(_) | Token::Parameter | Token::Punct(_) => {}
        }
        self.past.rotate_right(1);
        self.past[0] = Some(token);
    }

    /// A word on its own: writing, and where a WITH begins and ends.
    fn word(&mut self, word: Token<'a>) {
        let begins = self.past(0).is_none() || self.was_punct(0, b'(');
        if word.is_any(&["insert", "delete", "merge", "into", "uescape"]) {
            self.found.writes = true; // UESCAPE: any name may be spelled with it
        } else if word.is_word("update") {
            // FOR UPDATE, FOR NO KEY UPDATE: locks, gone with the transaction.
            let locks = self.was(0, "for") || self.was(0, "key") && self.was(1, "no") && self.was(2, "for");
            self.found.writes |= !locks;
        } else if word.is_word("with") && begins {
            self.group().listing = true;
        } else if word.is_any(&["select", "values", "table"]) {
            self.group().listing = false;
        } else if word.is_word("by") {
            self.grouped |= self.was(0, "group");
        }
    }

    fn open(&mut self) {
        // In a WITH, a parenthesis belongs to a name's columns or its statement, or the list is at its end.
        let inside = self.listed() || self.was(0, "as") || self.materialized(0);
        self.group().listing &= inside;
        let distinct = self.was(0, "on") && self.was(1, "distinct");
        let opened = if distinct || self.was(0, "operator") { Opened::BeforeExpression } else { Opened::Plain };
        self.groups.push(Group { opened, listing: false });
    }

    /// Whether the token before last begins a name in a WITH: the last one is the name.
    fn listed(&self) -> bool {
        let starts = self.was(1, "with") || self.was(1, "recursive") || self.was_punct(1, b',');
        starts && self.past(0).is_some_and(|name| name.name().is_some())
    }

    /// AS [NOT] MATERIALIZED, the last word `back` tokens ago.
    fn materialized(&self, back: usize) -> bool {
        self.was(back, "materialized")
            && (self.was(back + 1, "as") || self.was(back + 1, "not") && self.was(back + 2, "as"))
    }

    /// The first argument of set_config, if it was a plain string.
    fn comma(&mut self) {
        let (Some(name), true) = (self.past(0), self.was_punct(1, b'(')) else {
            return;
        };
        let called = self.past(2).and_then(|call| call.name()).is_some_and(|call| call == "set_config");
        if called && let Token::Text { .. } = name {
            let plain = name.value().is_some_and(|name| !is_about_text(&name.to_ascii_lowercase()));
            self.configured += usize::from(plain);
        }
    }

    /// A name before a parenthesis.
    fn call(&mut self, token: Token<'a>) {
        let Some(name) = token.name() else { return };
        if self.found.outside.is_none() {
            self.found.outside = Outside::of_function(&name);
        }
        let quoted = matches!(token, Token::Quoted { .. });
        let qualified = self.was_punct(0, b'.');
        let harmless = if qualified {
            self.is_type(2) || self.is_systems_own(&name)
        } else {
            self.is_type(0) || !quoted && self.is_clause(&name) || self.is_alias() || is_harmless(&name)
        };
        self.found.writes |= !harmless;
        self.found.strange |= !harmless && !self.is_target() && !PLAIN.contains(&name.as_str());
        self.configures += usize::from(name == "set_config");
    }

    /// INTO [schema.]table (columns): no call.
    fn is_target(&self) -> bool {
        self.was(0, "into") || self.was_punct(0, b'.') && self.was(2, "into")
    }

    /// Behind `::` or AS stands a type or an alias, never a call.
    fn is_type(&self, back: usize) -> bool {
        let cast = self.was_punct(back, b':') && self.was_punct(back + 1, b':');
        cast || self.was(back, "as") && !self.was_punct(back + 1, b'.')
    }

    /// A function of one of the system's schemas, and of no more than one.
    fn is_systems_own(&self, name: &str) -> bool {
        let schema = self.past(1).and_then(|schema| schema.name());
        match schema.as_deref() {
            _ if self.was_punct(2, b'.') => false,
            Some("pg_catalog") => is_harmless(name),
            // Helpers of its views, which drivers call by name.
            Some("information_schema") => name.starts_with("_pg_"),
            Some(_) | None => false,
        }
    }

    /// Between a closing parenthesis and another: `(…) AS t` without AS, FILTER, OVER, WITHIN GROUP, JOIN, REPEATABLE;
    /// and in a WITH, a name and its columns.
    fn is_alias(&self) -> bool {
        let group = self.groups.last().unwrap_or(&self.base);
        let starts = self.was(0, "with") || self.was(0, "recursive") || self.was_punct(0, b',');
        self.was_punct(0, b')') && self.closed == Opened::Plain
            || group.listing && starts
            || self.was(0, "ordinality") && self.was(1, "with")
    }

    /// An unquoted word of the grammar's own, where it is that.
    fn is_clause(&self, word: &str) -> bool {
        let before = |words: &[&str]| self.past(0).is_some_and(|token| token.is_any(words));
        match word {
            _ if is_no_function(word) => true,
            "by" => before(&["group", "order", "partition"]),
            "join" => {
                before(&["left", "right", "full", "inner", "outer", "cross", "natural"]) || self.is_behind_operand(0)
            }
            "ilike" => self.is_behind_operand(usize::from(self.was(0, "not"))),
            "sets" => before(&["grouping"]),
            "rollup" | "cube" => {
                self.grouped
                    && (before(&["by", "distinct", "all"]) || self.was_punct(0, b',') || self.was_punct(0, b'('))
            }
            "materialized" => self.was(0, "as") || self.was(0, "not") && self.was(1, "as"),
            "zone" => self.was(0, "time") && self.was(1, "at"),
            "first" | "next" => before(&["fetch"]),
            "system" | "bernoulli" => before(&["tablesample"]),
            "varying" => before(&["bit", "char", "character", "nchar"]),
            "operator" => true,
            _ => false,
        }
    }

    /// Whether the token `back` tokens ago may end an operand: an operator or a keyword follows, no call.
    fn is_behind_operand(&self, back: usize) -> bool {
        match self.past(back) {
            Some(Token::Word(word)) => {
                let word = word.to_ascii_lowercase();
                let word = String::from_utf8_lossy(&word);
                !is_no_function(&word) || matches!(&*word, "end" | "null" | "true" | "false")
            }
            Some(Token::Quoted { .. } | Token::Text { .. } | Token::Number(_) | Token::Parameter) => true,
            Some(Token::Punct(byte)) => byte == b')' || byte == b']',
            None => false,
        }
    }
}

/// Settings that change how the server reads a text.
pub(super) fn is_about_text(setting: &str) -> bool {
    matches!(setting, "standard_conforming_strings" | "client_encoding")
}
