//! From a statement's first tokens to its verb.

mod set;

use super::lex::{Lexer, Token};
use super::verb::{Discard, Verb};

/// What the statement is. One that lacks what its kind needs is a syntax error to the server; it counts as a write.
pub(super) fn verb(text: &[u8]) -> Verb {
    let mut p = Parser::new(text);
    while p.peek().is_some_and(|token| token.is_punct(b'(')) {
        p.bump();
    }
    match p.bump() {
        None => Verb::Empty,
        Some(Token::Word(word)) => p.statement(&word.to_ascii_lowercase()).unwrap_or(Verb::Write),
        Some(_) => Verb::Write,
    }
}

/// Tokens with one ahead.
struct Parser<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    ahead: Option<Token<'a>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Self {
        let mut lexer = Lexer::new(text);
        let ahead = lexer.next();
        Self { text, lexer, ahead }
    }

    const fn peek(&self) -> Option<Token<'a>> {
        self.ahead
    }

    fn bump(&mut self) -> Option<Token<'a>> {
        std::mem::replace(&mut self.ahead, self.lexer.next())
    }

    fn next_is(&self, keyword: &str) -> bool {
        self.ahead.is_some_and(|token| token.is_word(keyword))
    }

    fn eat(&mut self, keyword: &str) -> bool {
        let found = self.next_is(keyword);
        if found {
            self.bump();
        }
        found
    }

    fn eat_punct(&mut self, byte: u8) -> bool {
        let found = self.ahead.is_some_and(|token| token.is_punct(byte));
        if found {
            self.bump();
        }
        found
    }

    fn name(&mut self) -> Option<String> {
        self.bump()?.name()
    }

    /// A name behind a word that may be left out, and may be the name itself: `RELEASE [SAVEPOINT] a`.
    fn name_behind(&mut self, noise: &str) -> Option<String> {
        let noisy = self.next_is(noise);
        let first = self.name()?;
        Some(if noisy { self.name().unwrap_or(first) } else { first })
    }

    /// `None` for the word ALL.
    fn name_or_all(&mut self) -> Option<Option<String>> {
        if self.eat("all") { Some(None) } else { self.name().map(Some) }
    }

    /// The text from the token ahead on.
    fn tail(&self) -> &'a [u8] {
        self.text[self.lexer.start()..].trim_ascii()
    }

    fn statement(&mut self, verb: &[u8]) -> Option<Verb> {
        Some(match verb {
            b"begin" => Verb::Begin,
            b"start" if self.next_is("transaction") => Verb::Begin,
            b"commit" | b"end" => self.commit(),
            b"rollback" | b"abort" => return self.rollback(),
            b"savepoint" => Verb::Savepoint { name: self.name()? },
            b"release" => Verb::Release { name: self.name_behind("savepoint")? },
            b"set" => return self.set(),
            b"reset" => return self.reset(),
            b"discard" => Verb::Discard(self.discard()?),
            b"listen" => Verb::Listen { channel: self.name()? },
            b"unlisten" if self.eat_punct(b'*') => Verb::Unlisten { channel: None },
            b"unlisten" => Verb::Unlisten { channel: Some(self.name()?) },
            b"prepare" => return self.prepare(),
            b"deallocate" => Verb::Deallocate { name: self.deallocate()? },
            b"execute" => Verb::Execute { name: self.name()? },
            b"declare" => return self.declare(),
            b"fetch" | b"move" => Verb::Fetch,
            b"close" => Verb::CloseCursor { name: self.name_or_all()? },
            b"load" => Verb::Load,
            b"create" => self.create(),
            b"drop" => Verb::Drop,
            b"copy" => self.copy(),
            b"select" | b"values" | b"table" | b"show" => Verb::Read,
            b"with" => self.with(),
            b"explain" => self.explain(),
            b"call" => Verb::Call,
            b"do" => Verb::Do,
            _ => Verb::Write,
        })
    }

    /// COMMIT [WORK | TRANSACTION] [AND [NO] CHAIN], and COMMIT PREPARED.
    fn commit(&mut self) -> Verb {
        if self.next_is("prepared") { Verb::FinishPrepared } else { Verb::Commit { chain: self.chain() } }
    }

    fn chain(&mut self) -> bool {
        let _noise = self.eat("work") || self.eat("transaction");
        self.eat("and") && !self.eat("no") && self.eat("chain")
    }

    fn rollback(&mut self) -> Option<Verb> {
        if self.next_is("prepared") {
            return Some(Verb::FinishPrepared);
        }
        let _noise = self.eat("work") || self.eat("transaction");
        if self.eat("to") {
            return Some(Verb::RollbackTo { savepoint: self.name_behind("savepoint")? });
        }
        Some(Verb::Rollback { chain: self.chain() })
    }

    fn discard(&mut self) -> Option<Discard> {
        let what = self.bump()?;
        let kinds = [
            ("all", Discard::All),
            ("plans", Discard::Plans),
            ("sequences", Discard::Sequences),
            ("temp", Discard::Temp),
            ("temporary", Discard::Temp),
        ];
        kinds.into_iter().find(|(word, _)| what.is_word(word)).map(|(_, kind)| kind)
    }

    /// PREPARE TRANSACTION 'id', or PREPARE name …, and the name may be `transaction`.
    fn prepare(&mut self) -> Option<Verb> {
        let name = self.name()?;
        match self.peek() {
            Some(Token::Text { .. }) => Some(Verb::PrepareTransaction),
            _ => Some(Verb::Prepare { name }),
        }
    }

    /// DEALLOCATE [PREPARE] name | ALL
    fn deallocate(&mut self) -> Option<Option<String>> {
        if self.eat("prepare") {
            return self.name_or_all().or_else(|| Some(Some("prepare".to_owned())));
        }
        self.name_or_all()
    }

    /// DECLARE name [BINARY] [INSENSITIVE] [[NO] SCROLL] CURSOR [WITH | WITHOUT HOLD] FOR …
    fn declare(&mut self) -> Option<Verb> {
        let name = self.name()?;
        while !self.eat("cursor") {
            self.bump()?;
        }
        Some(Verb::DeclareCursor { name, hold: self.eat("with") && self.next_is("hold") })
    }

    /// CREATE [OR REPLACE] [GLOBAL | LOCAL] TEMP …, or with `pg_temp.` anywhere: better one pin too many.
    fn create(&mut self) -> Verb {
        if self.eat("or") {
            self.eat("replace");
        }
        let _noise = self.eat("global") || self.eat("local");
        if self.next_is("temp") || self.next_is("temporary") {
            return Verb::CreateTemp;
        }
        while let Some(token) = self.bump() {
            if token.is_temp_schema() && self.peek().is_some_and(|next| next.is_punct(b'.')) {
                return Verb::CreateTemp;
            }
        }
        Verb::Write
    }

    /// COPY … FROM STDIN, COPY … TO STDOUT; the server takes either word for either. Files and programs count as writes.
    fn copy(&mut self) -> Verb {
        let mut depth = 0_usize;
        while let Some(token) = self.bump() {
            if token.is_punct(b'(') {
                depth += 1;
            } else if token.is_punct(b')') {
                depth = depth.saturating_sub(1);
            } else if depth == 0 && token.is_any(&["from", "to"]) {
                let piped = self.next_is("stdin") || self.next_is("stdout");
                return match (piped, token.is_word("from")) {
                    (true, true) => Verb::CopyIn,
                    (true, false) => Verb::CopyOut,
                    (false, _) => Verb::Write,
                };
            }
        }
        Verb::Write
    }

    fn with(&mut self) -> Verb {
        while let Some(token) = self.bump() {
            if token.is_any(&["insert", "update", "delete", "merge"]) {
                return Verb::Write;
            }
        }
        Verb::Read
    }

    /// EXPLAIN [ANALYZE] [VERBOSE] …, EXPLAIN (options) …. With ANALYZE the statement runs.
    fn explain(&mut self) -> Verb {
        let mut runs = false;
        if self.eat_punct(b'(') {
            while let Some(token) = self.bump() {
                if token.is_any(&["select", "with", "values", "table"]) {
                    return Verb::Read; // no options: the statement itself is in parentheses
                }
                // An option's name may be quoted.
                if token.name().is_some_and(|name| name == "analyze" || name == "analyse") {
                    runs = !(self.next_is("false") || self.next_is("off") || self.peek() == Some(Token::Number(b"0")));
                } else if token.is_punct(b')') {
                    break;
                }
            }
        } else {
            runs = self.eat("analyze") || self.eat("analyse");
            self.eat("verbose");
        }
        match runs {
            false => Verb::Read,
            true if self.eat("create") => self.create(),
            true => Verb::Write,
        }
    }
}
