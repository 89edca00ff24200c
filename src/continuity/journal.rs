//! What one transaction said and heard so far: its requests, to be run again elsewhere, and a hash of the answers already delivered.
//!
//! ```text
//!   requests   base ──────────────── cursor ─ end          again: everything from base on is fed once more
//!   answers    0 ── heard (count, hash)                    expected: what the client has had before the loss
//!                        └─ count < expected: checked and skipped · = expected: the hashes must be equal · beyond: delivered
//! ```
//! The requests are the client's bytes as they were; nothing of pgmoor's own stands among them. The answers are the bytes
//! the client was sent, without what comes at any time by itself (notices, notifications, reported settings:
//! protocol-flow, "Asynchronous Operations"). The journal begins anew whenever a ReadyForQuery says "idle", and so
//! it holds one transaction, or one unit outside of any, and those that are pipelined behind it.

use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::{DEFAULT_SECRET_LENGTH, RawHasher, SecretBuffer};

/// A buffer that grew beyond this is given back when its transaction ends: most sessions are idle most of the time.
const KEPT: usize = 512;

/// One session's journal.
#[derive(Debug)]
pub struct Journal {
    requests: Vec<u8>,
    /// The place of `requests[0]` in all that the client ever sent.
    base: u64,
    /// How far the requests were sent to the backend there is now.
    cursor: u64,
    /// Bytes of requests kept at most; `None`: none are.
    limit: Option<usize>,
    spoiled: Option<Spoiled>,
    heard: Heard,
    /// There is something while a replay is checked.
    expected: Option<Box<Expected>>,
}

/// Why a journal is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spoiled {
    /// Replay is switched off.
    Off,
    /// The requests are longer than the limit.
    Size,
    /// The requests and their answers do not pair up any more.
    Strange,
}

impl Spoiled {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Size => "size",
            Self::Strange => "strange",
        }
    }
}

/// XXH3 of 128 bits, by the widest registers that the machine it runs on has.
type Hash = RawHasher<&'static [u8; DEFAULT_SECRET_LENGTH]>;

/// Answers no longer than this are remembered as they are: most are, and a hash in progress is larger.
const SHORT: usize = 240;

/// Bytes of answers, in the order in which the client got them.
#[derive(Default)]
struct Heard {
    count: u64,
    /// All of them, while they are few.
    short: Vec<u8>,
    /// All of them, once they are more.
    hash: Option<Box<Hash>>,
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard").field("count", &self.count).finish_non_exhaustive()
    }
}

/// What the answers have to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    count: u64,
    digest: u128,
}

/// The answers of a replay are not those the client has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

impl Journal {
    /// An empty journal that keeps so many bytes of requests; `None`: nothing is ever run again.
    pub fn new(limit: Option<usize>) -> Self {
        Self {
            requests: Vec::new(),
            base: 0,
            cursor: 0,
            limit,
            spoiled: limit.is_none().then_some(Spoiled::Off),
            heard: Heard::default(),
            expected: None,
        }
    }

    /// Where the next request byte stands in all that the client ever sent.
    pub fn position(&self) -> u64 {
        self.cursor
    }

    /// The requests, if all of them are here.
    ///
    /// # Errors
    /// Why they are not.
    pub fn requests(&self) -> Result<&[u8], Spoiled> {
        self.spoiled.map_or(Ok(&self.requests), Err)
    }

    /// Whole, and nothing is in it.
    pub fn is_blank(&self) -> bool {
        self.spoiled.is_none() && self.requests.is_empty()
    }

    /// These bytes of the client's go to the backend. While a replay is fed, they are the journal's own.
    pub fn sent(&mut self, bytes: &[u8]) {
        let end = self.end();
        self.cursor += bytes.len() as u64;
        if self.spoiled.is_some() {
            self.base = self.cursor;
        } else if self.cursor > end {
            let new = &bytes[bytes.len() - (self.cursor - end) as usize..];
            if self.requests.len() + new.len() > self.limit.unwrap_or(0) {
                self.spoil(Spoiled::Size);
            } else {
                self.requests.extend_from_slice(new);
            }
        }
    }

    /// The `count` bytes that were sent last, if all of them are here.
    pub fn sent_last(&self, count: usize) -> Option<&[u8]> {
        let end = usize::try_from(self.cursor - self.base).ok()?;
        self.requests.get(end.checked_sub(count)?..end)
    }

    /// Whether the last request that is kept ends there.
    pub fn ends_at(&self, place: u64) -> bool {
        self.end() == place
    }

    fn end(&self) -> u64 {
        self.base + self.requests.len() as u64
    }

    /// The journal cannot be used before the next idle boundary.
    pub fn spoil(&mut self, why: Spoiled) {
        if self.spoiled.is_none() {
            self.spoiled = Some(why);
            self.requests = Vec::new();
            self.base = self.cursor;
        }
    }

    /// These bytes of an answer came: how many of them, from the front, the client has had already.
    ///
    /// # Errors
    /// They are not what the client has had.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        if self.spoiled.is_some() {
            return Ok(0);
        }
        let Some(expected) = &self.expected else {
            self.heard.add(bytes);
            return Ok(0);
        };
        let known =
            usize::try_from(expected.count - self.heard.count).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.heard.add(&bytes[..known]);
        if self.heard.count == expected.count {
            if self.heard.digest() != expected.digest {
                return Err(Mismatch);
            }
            self.expected = None;
            self.heard.add(&bytes[known..]);
        }
        Ok(known)
    }

    /// A replay's answers have not come to where the client's ended.
    pub fn is_verifying(&self) -> bool {
        self.expected.is_some()
    }

    /// A unit that ended at `until` left no transaction open: all up to there is done with.
    pub fn settled(&mut self, until: u64) {
        let count = until.saturating_sub(self.base).min(self.requests.len() as u64);
        self.requests.drain(..count as usize);
        self.base += count;
        self.heard.clear();
    }

    /// Idle, and nothing is in flight: a new page.
    pub fn clear(&mut self) {
        self.requests.clear();
        if self.requests.capacity() > KEPT {
            self.requests = Vec::new();
        }
        self.base = self.cursor;
        self.spoiled = self.limit.is_none().then_some(Spoiled::Off);
        self.expected = None;
        self.heard.clear();
    }

    /// The backend is gone: its successor is fed from the beginning, and has to say the same.
    pub fn rewind(&mut self) {
        self.cursor = self.base;
        if self.expected.is_none() && self.heard.count > 0 {
            self.expected = Some(Box::new(Expected { count: self.heard.count, digest: self.heard.digest() }));
        }
        self.heard.clear();
    }

    /// What is still to be fed; `read` bytes of it were taken already and have not been sent.
    pub fn unfed(&self, read: usize) -> &[u8] {
        let from = (self.cursor - self.base) as usize + read;
        self.requests.get(from..).unwrap_or_default()
    }
}

impl Heard {
    fn add(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.count += bytes.len() as u64;
            match &mut self.hash {
                Some(hash) => hash.write(bytes),
                None if self.count <= SHORT as u64 => self.short.extend_from_slice(bytes),
                None => {
                    let hash = self.hash.insert(Box::new(Hash::new(SecretBuffer::default())));
                    hash.write(&self.short);
                    hash.write(bytes);
                }
            }
        }
    }

    /// Of all that was heard.
    fn digest(&self) -> u128 {
        self.hash.as_ref().map_or_else(|| XxHash3_128::oneshot(&self.short), |hash| hash.finish_128())
    }

    fn clear(&mut self) {
        (self.count, self.hash) = (0, None);
        self.short.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(requests: &[u8], answers: &[u8]) -> Journal {
        let mut journal = Journal::new(Some(100));
        journal.sent(requests);
        assert_eq!(journal.hear(answers), Ok(0));
        journal
    }

    #[test]
    fn what_the_client_has_had_is_skipped_wherever_it_is_cut() {
        let answers = b"a long answer to a short question";
        for had in 0..answers.len() {
            for cut in 0..answers.len() {
                let mut journal = told(b"question", &answers[..had]);
                journal.rewind();
                assert_eq!(journal.unfed(0), b"question");
                assert_eq!(journal.unfed(3), b"stion");
                journal.sent(b"question");
                assert!(journal.unfed(0).is_empty());
                let first = journal.hear(&answers[..cut]).unwrap();
                let second = journal.hear(&answers[cut..]).unwrap();
                assert_eq!(first + second, had, "had {had}, cut {cut}");
                assert!(!journal.is_verifying());
            }
        }
    }

    #[test]
    fn another_answer_is_noticed_where_the_old_one_ended() {
        let mut journal = told(b"question", b"balance 7");
        journal.rewind();
        assert_eq!(journal.hear(b"balance "), Ok(8));
        assert_eq!(journal.hear(b"8 and more"), Err(Mismatch));
    }

    #[test]
    fn a_second_loss_expects_what_the_first_did() {
        let mut journal = told(b"question", b"balance 7");
        journal.rewind();
        journal.sent(b"ques");
        assert_eq!(journal.hear(b"bala"), Ok(4));
        journal.rewind();
        assert_eq!(journal.unfed(0), b"question");
        assert_eq!(journal.hear(b"balance 7 more"), Ok(9));
        journal.rewind();
        assert_eq!(journal.hear(b"balance 7 more and more"), Ok(14));
    }

    #[test]
    fn the_next_units_begin_where_the_last_one_ended() {
        let mut journal = told(b"onetwo", b"1");
        journal.settled(3);
        journal.rewind();
        assert_eq!((journal.unfed(0), journal.is_verifying()), (&b"two"[..], false));
        assert_eq!(journal.position(), 3);
        journal.sent(b"two");
        journal.sent(b"three");
        assert_eq!(journal.requests(), Ok(&b"twothree"[..]));
        journal.clear();
        assert_eq!((journal.requests(), journal.position()), (Ok(&b""[..]), 11));
    }

    #[test]
    fn a_long_transaction_is_let_go_until_it_ends() {
        let mut journal = told(&[b'x'; 60], b"1");
        journal.sent(&[b'x'; 60]);
        assert_eq!(journal.requests(), Err(Spoiled::Size));
        journal.sent(&[b'x'; 60]);
        assert_eq!((journal.position(), journal.requests.capacity()), (180, 0));
        journal.clear();
        journal.sent(b"short");
        assert_eq!(journal.requests(), Ok(&b"short"[..]));
        let mut off = Journal::new(None);
        off.sent(b"x");
        off.clear();
        assert_eq!(off.requests(), Err(Spoiled::Off));
    }
}
