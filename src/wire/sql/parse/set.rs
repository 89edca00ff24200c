//! SET and RESET, and the values settings are given.

use super::Parser;
use crate::wire::sql::lex::Token;
use crate::wire::sql::setting::{Scope, Setting};
use crate::wire::sql::verb::Verb;

impl<'a> Parser<'a> {
    /// SET [SESSION | LOCAL] …
    pub(super) fn set(&mut self) -> Option<Verb> {
        let session = self.eat("session");
        let scope = if !session && self.eat("local") { Scope::Local } else { Scope::Session };
        if session && self.next_is("characteristics") {
            return Some(Verb::SetCharacteristics);
        }
        if session && self.eat("authorization") {
            return self.set_user(scope);
        }
        let first = self.bump()?;
        let named = self.peek().is_some_and(|next| next.is_punct(b'=') || next.is_punct(b'.') || next.is_word("to"));
        if named {
            let name = self.setting_name(first)?;
            if !self.eat("to") && !self.eat_punct(b'=') {
                return None;
            }
            return set_verb(scope, name, self.values());
        }
        let Token::Word(word) = first else {
            return None;
        };
        match word.to_ascii_lowercase().as_slice() {
            b"transaction" | b"constraints" => Some(Verb::SetTransaction),
            b"session" if self.eat("characteristics") => Some(Verb::SetCharacteristics),
            b"session" if self.eat("authorization") => self.set_user(scope),
            b"role" => set_verb(scope, "role".to_owned(), self.values()),
            b"time" if self.eat("zone") => {
                let value = if self.next_is("local") { Setting::Default } else { self.values() };
                set_verb(scope, "timezone".to_owned(), value)
            }
            b"names" if self.peek().is_none() => set_verb(scope, "client_encoding".to_owned(), Setting::Default),
            b"names" => set_verb(scope, "client_encoding".to_owned(), self.values()),
            b"schema" => set_verb(scope, "search_path".to_owned(), self.values()),
            b"xml" if self.eat("option") => set_verb(scope, "xmloption".to_owned(), self.values()),
            _ => None,
        }
    }

    fn set_user(&mut self, scope: Scope) -> Option<Verb> {
        set_verb(scope, "session_authorization".to_owned(), self.values())
    }

    /// A setting's name from its first part on. Settings know no case, not even between quotes.
    fn setting_name(&mut self, first: Token<'a>) -> Option<String> {
        let mut name = first.name()?;
        while self.eat_punct(b'.') {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Some(name.to_ascii_lowercase())
    }

    /// RESET …
    pub(super) fn reset(&mut self) -> Option<Verb> {
        let first = self.bump()?;
        if first.is_word("all") {
            return Some(Verb::ResetAll);
        }
        let name = if first.is_word("session") && self.eat("authorization") {
            "session_authorization".to_owned()
        } else if first.is_word("time") && self.eat("zone") {
            "timezone".to_owned()
        } else if first.is_word("transaction") && self.eat("isolation") {
            "transaction_isolation".to_owned()
        } else {
            self.setting_name(first)?
        };
        Some(match &*name {
            "role" => Verb::SetRole { scope: Scope::Session, role: None },
            "session_authorization" => Verb::SetSessionAuthorization { scope: Scope::Session, user: None },
            _ => Verb::Reset { name },
        })
    }

    /// Everything up to the end of the statement as a setting's value.
    fn values(&mut self) -> Setting {
        let raw = self.tail();
        if self.next_is("default") {
            return Setting::Default;
        }
        let mut values = Vec::new();
        loop {
            let Some(value) = self.value() else {
                return Setting::Raw(String::from_utf8_lossy(raw).into_owned());
            };
            values.push(value);
            if !self.eat_punct(b',') {
                break;
            }
        }
        match self.peek() {
            None => Setting::Values(values),
            Some(_) => Setting::Raw(String::from_utf8_lossy(raw).into_owned()),
        }
    }

    /// One plain value: a string, an identifier or word, a number with or without a sign.
    fn value(&mut self) -> Option<String> {
        let sign = if self.eat_punct(b'-') {
            "-"
        } else {
            self.eat_punct(b'+');
            ""
        };
        let token = self.bump()?;
        if let Token::Number(digits) = token {
            return Some(format!("{sign}{}", String::from_utf8_lossy(digits)));
        }
        if sign.is_empty() { token.value() } else { None }
    }
}

/// SET of a setting; two of them are more than settings.
fn set_verb(scope: Scope, name: String, value: Setting) -> Option<Verb> {
    if name != "role" && name != "session_authorization" {
        return Some(Verb::Set { scope, name, value });
    }
    let who = match value {
        Setting::Default => None,
        Setting::Values(mut values) if values.len() == 1 => values.pop(),
        Setting::Values(_) | Setting::Raw(_) => return None,
    };
    Some(if name == "role" {
        Verb::SetRole { scope, role: who.filter(|role| role != "none") }
    } else {
        Verb::SetSessionAuthorization { scope, user: who }
    })
}
