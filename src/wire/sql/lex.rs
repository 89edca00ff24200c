//! Tokens of SQL text. Comments and white space fall away; anything unfinished ends with the text.

use memchr::memchr2;

use super::name;

/// One token. It borrows what it was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// An unquoted identifier or keyword.
    Word(&'a [u8]),
    /// A quoted identifier, without the outer quotes.
    Quoted { inner: &'a [u8], unicode: bool },
    /// A string constant.
    Text { kind: Quote, inner: &'a [u8] },
    /// A number.
    Number(&'a [u8]),
    /// `$1`
    Parameter,
    /// Any other byte.
    Punct(u8),
}

/// How a string constant is written; `inner` lacks the outer quotes, but has those of pieces continued on another line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quote {
    /// `'…'`
    Plain,
    /// `E'…'`
    Escape,
    /// `U&'…'`
    Unicode,
    /// `$tag$…$tag$`
    Dollar,
    /// `B'…'`, `X'…'`, `N'…'`
    Typed,
}

impl<'a> Token<'a> {
    /// Whether it is this keyword, given in lower case.
    pub(super) fn is_word(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Whether it is one of these keywords.
    pub(super) fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is_word(keyword))
    }

    pub(super) fn is_punct(&self, byte: u8) -> bool {
        *self == Self::Punct(byte)
    }

    /// The identifier it stands for.
    pub(super) fn name(&self) -> Option<String> {
        match *self {
            Self::Word(word) => Some(name::folded(word)),
            Self::Quoted { inner, unicode } => Some(name::quoted(inner, unicode)),
            Self::Text { .. } | Self::Number(_) | Self::Parameter | Self::Punct(_) => None,
        }
    }

    /// The string or identifier it stands for, as a setting's value.
    pub(super) fn value(&self) -> Option<String> {
        match *self {
            Self::Text { kind, inner } => name::string(kind, inner),
            Self::Word(_) | Self::Quoted { .. } | Self::Number(_) | Self::Parameter | Self::Punct(_) => self.name(),
        }
    }

    /// Whether it names the session's temporary schema: `pg_temp`, or `pg_temp_3` by its real name.
    pub(super) fn is_temp_schema(&self) -> bool {
        match *self {
            Self::Word(word) => word.get(..7).is_some_and(|head| head.eq_ignore_ascii_case(b"pg_temp")),
            Self::Quoted { .. } => self.name().is_some_and(|name| name.starts_with("pg_temp")),
            Self::Text { .. } | Self::Number(_) | Self::Parameter | Self::Punct(_) => false,
        }
    }
}

/// Cuts text into tokens. Each byte is looked at a bounded number of times.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    start: usize,
    open: bool,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text, pos: 0, start: 0, open: false }
    }

    /// Where the last token began.
    pub(super) const fn start(&self) -> usize {
        self.start
    }

    /// Where the last token ended.
    pub(super) const fn pos(&self) -> usize {
        self.pos
    }

    /// Whether the text has ended inside a comment, a string or a quoted identifier. The server takes no such text.
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    fn at(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.pos + ahead).copied()
    }

    /// Moves behind the bytes that `accept` takes, and returns them.
    fn run(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.text[self.pos..];
        let end = rest.iter().position(|&b| !accept(b)).unwrap_or(rest.len());
        self.pos += end;
        &rest[..end]
    }

    fn skip_blanks(&mut self) {
        loop {
            match (self.at(0), self.at(1)) {
                (Some(b), _) if is_space(b) => self.pos += 1,
                (Some(b'-'), Some(b'-')) => {
                    self.run(|b| b != b'\n' && b != b'\r');
                }
                (Some(b'/'), Some(b'*')) => self.skip_comment(),
                _ => return,
            }
        }
    }

    /// Comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.at(0), self.at(1)) {
                (Some(b'/'), Some(b'*')) => (depth, self.pos) = (depth + 1, self.pos + 2),
                (Some(b'*'), Some(b'/')) => (depth, self.pos) = (depth - 1, self.pos + 2),
                (Some(_), _) => self.pos += 1,
                (None, _) => {
                    self.open = true;
                    return;
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Moves from behind an opening quote to behind the closing one, and says where the inside ends. A doubled quote is
    /// part of it.
    fn quoted(&mut self, quote: u8, backslash: bool) -> usize {
        let escape = if backslash { b'\\' } else { quote };
        while let Some(ahead) = memchr2(quote, escape, &self.text[self.pos..]) {
            self.pos += ahead;
            if self.text[self.pos] != quote {
                self.pos = (self.pos + 2).min(self.text.len());
            } else if self.at(1) == Some(quote) {
                self.pos += 2;
            } else {
                self.pos += 1;
                return self.pos - 1;
            }
        }
        self.open = true;
        self.pos = self.text.len();
        self.pos
    }

    /// A string constant from its opening quote: pieces on further lines belong to it, and are written in the same way.
    fn string(&mut self, kind: Quote) -> Token<'a> {
        let start = self.pos + 1;
        loop {
            self.pos += 1;
            let end = self.quoted(b'\'', kind == Quote::Escape);
            if !self.continued() {
                return Token::Text { kind, inner: &self.text[start..end] };
            }
        }
    }

    /// Whether another piece of the string follows on a further line; then moves to its quote.
    fn continued(&mut self) -> bool {
        match next_piece(&self.text[self.pos..]) {
            Some(ahead) => {
                self.pos += ahead;
                true
            }
            None => false,
        }
    }

    /// A quoted identifier from its opening quote.
    fn identifier(&mut self, unicode: bool) -> Token<'a> {
        let inner = self.pos + 1;
        self.pos = inner;
        let end = self.quoted(b'"', false);
        Token::Quoted { inner: &self.text[inner..end], unicode }
    }

    /// A word, or what a one-letter prefix makes of the quote behind it.
    fn word(&mut self, first: u8) -> Token<'a> {
        let kind = match (first.to_ascii_lowercase(), self.at(1), self.at(2)) {
            (b'e', Some(b'\''), _) => Quote::Escape,
            (b'b' | b'x' | b'n', Some(b'\''), _) => Quote::Typed,
            (b'u', Some(b'&'), Some(b'\'')) => {
                self.pos += 1;
                Quote::Unicode
            }
            (b'u', Some(b'&'), Some(b'"')) => {
                self.pos += 2;
                return self.identifier(true);
            }
            _ => return Token::Word(self.run(is_identifier)),
        };
        self.pos += 1;
        self.string(kind)
    }

    /// A dollar-quoted string, a parameter, or a stray dollar.
    fn dollar(&mut self) -> Token<'a> {
        let start = self.pos;
        self.pos += 1;
        if self.at(0).is_some_and(|b| b.is_ascii_digit()) {
            self.run(|b| b.is_ascii_digit());
            return Token::Parameter;
        }
        let tag = self.run(|b| is_identifier(b) && b != b'$');
        if self.at(0) != Some(b'$') {
            self.pos = start + 1;
            return Token::Punct(b'$');
        }
        let (open, inner) = (&self.text[start..=start + 1 + tag.len()], start + tag.len() + 2);
        // The tag has no dollar inside, so each try below ends at the next dollar: linear in all.
        let dollars = (inner..self.text.len()).filter(|&i| self.text[i] == b'$');
        let end = { dollars }.find(|&i| self.text[i..].starts_with(open));
        self.open |= end.is_none();
        self.pos = end.map_or(self.text.len(), |end| end + open.len());
        Token::Text { kind: Quote::Dollar, inner: &self.text[inner..end.unwrap_or(self.text.len())] }
    }

    /// Digits, a fraction, an exponent. A letter behind them begins a word, as in PostgreSQL before 15.
    fn number(&mut self) -> Token<'a> {
        let start = self.pos;
        self.run(|b| b.is_ascii_digit());
        if self.at(0) == Some(b'.') {
            self.pos += 1;
            self.run(|b| b.is_ascii_digit());
        }
        if matches!(self.at(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.at(1), Some(b'+' | b'-')));
            if self.at(1 + sign).is_some_and(|b| b.is_ascii_digit()) {
                self.pos += 1 + sign;
                self.run(|b| b.is_ascii_digit());
            }
        }
        Token::Number(&self.text[start..self.pos])
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        self.start = self.pos;
        let first = self.at(0)?;
        Some(match first {
            b'\'' => self.string(Quote::Plain),
            b'"' => self.identifier(false),
            b'$' => self.dollar(),
            b'0'..=b'9' => self.number(),
            b'.' if self.at(1).is_some_and(|b| b.is_ascii_digit()) => self.number(),
            _ if is_identifier(first) => self.word(first),
            _ => {
                self.pos += 1;
                Token::Punct(first)
            }
        })
    }
}

/// White space to the server's lexer (the vertical tab since PostgreSQL 16).
pub(super) const fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')
}

/// What may stand in an identifier; a digit or dollar not at its start.
pub(super) const fn is_identifier(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

/// Where the next piece of a string begins, whose last piece ended just before `text`: at a quote behind white space
/// and comments with a line break in them.
pub(super) fn next_piece(text: &[u8]) -> Option<usize> {
    let (mut pos, mut newline) = (0, false);
    loop {
        match *text.get(pos)? {
            b'\n' | b'\r' => (pos, newline) = (pos + 1, true),
            b if is_space(b) => pos += 1,
            b'-' if text.get(pos + 1) == Some(&b'-') => {
                pos += text[pos..].iter().position(|&b| b == b'\n' || b == b'\r')?;
            }
            b'\'' if newline => return Some(pos),
            _ => return None,
        }
    }
}
