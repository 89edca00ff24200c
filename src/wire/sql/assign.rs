//! Settings that a statement makes and its own row tells: a SELECT of nothing but `set_config` calls.
//!
//! `set_config(name, value, is_local)` answers with the value in force ("System Administration Functions"), so that what
//! such a statement has set can be read off the wire, whatever expression or parameter the value was.

use super::lex::{Lexer, Token};

/// What one column of the row tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// The value of this setting, in force from now on. The name is in lower case.
    Session(String),
    /// The value of one that ends with the transaction.
    Local,
}

/// The columns of `SELECT set_config('name', …, false | true) [AS alias], …`; `None` for every other statement.
pub(super) fn columns(text: &[u8]) -> Option<Vec<Column>> {
    let mut tokens = Lexer::new(text);
    if !tokens.next()?.is_word("select") {
        return None;
    }
    let mut columns = Vec::new();
    loop {
        let (column, next) = column(&mut tokens)?;
        columns.push(column);
        match next {
            None => return (!tokens.is_open()).then_some(columns),
            Some(Token::Punct(b',')) => {}
            Some(_) => return None,
        }
    }
}

/// One call with its alias, and the token behind it.
fn column<'a>(tokens: &mut Lexer<'a>) -> Option<(Column, Option<Token<'a>>)> {
    let mut call = tokens.next()?;
    if call.name().as_deref() == Some("pg_catalog") {
        tokens.next().filter(|token| token.is_punct(b'.'))?;
        call = tokens.next()?;
    }
    if call.name().as_deref() != Some("set_config") || !tokens.next()?.is_punct(b'(') {
        return None;
    }
    let name = tokens.next().filter(|token| matches!(token, Token::Text { .. }))?.value()?.to_ascii_lowercase();
    tokens.next().filter(|token| token.is_punct(b','))?;
    value(tokens)?;
    let scope = tokens.next()?;
    let column = if scope.is_word("false") {
        Column::Session(name)
    } else if scope.is_word("true") {
        Column::Local
    } else {
        return None;
    };
    tokens.next().filter(|token| token.is_punct(b')'))?;
    let mut next = tokens.next();
    if next.is_some_and(|token| token.is_word("as")) {
        tokens.next()?.name()?;
        next = tokens.next();
    }
    Some((column, next))
}

/// An expression up to its comma. One that calls anything is refused: the call might set something as well.
fn value(tokens: &mut Lexer<'_>) -> Option<()> {
    let mut depth = 0_usize;
    loop {
        match tokens.next()? {
            Token::Punct(b',') if depth == 0 => return Some(()),
            Token::Punct(b'(') => depth += 1,
            Token::Punct(b')') => depth = depth.checked_sub(1)?,
            token @ (Token::Word(_) | Token::Quoted { .. }) => {
                let mut ahead = tokens.clone();
                let is_call = ahead.next().is_some_and(|next| next.is_punct(b'('));
                if is_call || token.is_word("select") {
                    return None;
                }
            }
            Token::Text { .. } | Token::Number(_) | Token::Parameter | Token::Punct(_) => {}
        }
    }
}
