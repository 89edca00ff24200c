//! Where a wire is cut, what had passed by then, and what has to be told for that.

use std::ops::Range;

use pgmoor::wire::HEADER_LEN;

use crate::raw;
use crate::wire::Way;

/// How the client says COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A Query.
    Simple,
    /// Parse, Bind, Execute and Sync.
    Extended,
}

impl Form {
    /// Its frames.
    pub fn commit(self) -> Vec<u8> {
        match self {
            Self::Simple => raw::query("COMMIT"),
            Self::Extended => {
                [raw::parse("", "COMMIT"), raw::bind("", "", &[]), raw::execute("", 0), raw::sync()].concat()
            }
        }
    }

    /// The one that makes the server commit: its tag, and how its body begins. (pgmoor's own portal has a name.)
    fn decisive(self) -> (u8, &'static [u8]) {
        match self {
            Self::Simple => (b'Q', b"COMMIT\0"),
            Self::Extended => (b'E', b"\0"),
        }
    }
}

/// What becomes of the transaction when it is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Its answers come out the same.
    Steady,
    /// One comes out otherwise: it is lost with its server.
    Fickle,
}

/// Whose commit record the next primary has, if it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// There is no other: the primary lives.
    Itself,
    /// Every one's.
    All,
    /// Nobody's.
    None,
}

/// One place to cut, and the transaction that is cut there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub form: Form,
    pub nature: Nature,
    /// Its COMMIT is answered though no standby has it.
    pub local: bool,
    /// pgmoor's question went out with a request before the COMMIT, and was answered.
    pub early: bool,
    pub way: Way,
    /// Bytes that pass, from the first of pgmoor's question, or of the answer to it; of the COMMIT, where that was asked early.
    pub at: usize,
    /// So many do not come: nothing is cut.
    pub last: bool,
}

/// What had passed when nothing more did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passed {
    /// The server was told to commit.
    pub commit: bool,
    /// It said that it did.
    pub answer: bool,
}

impl Passed {
    /// Reads what went each way from the question on.
    pub fn read(form: Form, to_server: &[u8], to_moor: &[u8]) -> Self {
        let (tag, begin) = form.decisive();
        let commit = frames(to_server).any(|(other, body)| other == tag && body.starts_with(begin));
        let answer = frames(to_moor).any(|frame| frame == (b'C', b"COMMIT\0"));
        Self { commit, answer }
    }
}

/// Where the text of pgmoor's question stands among these bytes: it is the same whatever the form of the COMMIT.
pub fn shared(to_server: &[u8]) -> Range<usize> {
    let mut begin = 0;
    for (tag, body) in frames(to_server) {
        let end = begin + HEADER_LEN + body.len();
        if tag == b'P' && body.starts_with(b"pgmoor_guard\0") {
            return begin + 1..end;
        }
        begin = end;
    }
    0..0
}

/// The whole frames among these bytes.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [tag, a, b, c, d] = *bytes.first_chunk()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        let (frame, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        Some((tag, &frame[5..]))
    })
}

/// What a client was told of its COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// COMMIT.
    Committed,
    /// 40001.
    Lost,
    /// 08007.
    Unknown,
}

/// What has to be told, and how often the row has to be there.
pub fn due(nature: Nature, reached: Reached, passed: Passed) -> (Word, i64) {
    let again = match nature {
        Nature::Steady => (Word::Committed, 1),
        Nature::Fickle => (Word::Lost, 0),
    };
    match (passed.commit, reached) {
        (false, _) => again,
        (true, Reached::Itself | Reached::All) => (Word::Committed, 1),
        // PostgreSQL itself had said COMMIT, before any standby had it: as the client had wanted.
        (true, Reached::None) if passed.answer => (Word::Committed, 0),
        (true, Reached::None) => again,
    }
}

#[test]
fn what_passed_is_read_from_whole_frames() {
    let asked = raw::execute("pgmoor_guard", 0);
    for form in [Form::Simple, Form::Extended] {
        let to_server = [asked.clone(), form.commit()].concat();
        let length = match form {
            Form::Simple => to_server.len(),
            Form::Extended => to_server.len() - raw::sync().len(),
        };
        let nothing = Passed { commit: false, answer: false };
        assert_eq!(Passed::read(form, &to_server[..length - 1], b""), nothing, "{form:?}");
        let to_moor = [raw::frame(b'C', b"SELECT 1\0"), raw::frame(b'C', b"COMMIT\0")].concat();
        let sent = Passed { commit: true, answer: false };
        assert_eq!(Passed::read(form, &to_server[..length], &to_moor[..to_moor.len() - 1]), sent, "{form:?}");
        assert_eq!(Passed::read(form, &to_server, &to_moor), Passed { commit: true, answer: true }, "{form:?}");
    }
}
