//! One client: a session that writes one row in a transaction, again and again, and says COMMIT when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use pgmoor::auth::Password;

use crate::raw;
use crate::talk::{Reply, Talk};

use super::point::{Form, Nature, Point, Word};

/// The rows; nothing forbids a second one.
pub const TABLE: &str = "CREATE TABLE cut (id int)";

/// A connection to pgmoor, the same for the whole test.
pub struct Session {
    talk: Talk,
}

impl Session {
    pub async fn login(address: SocketAddr, password: &Password, patience: Duration) -> Self {
        Self { talk: Talk::login(address, "app", password, patience).await.unwrap() }
    }

    /// Opens a transaction that has written row `id`.
    pub async fn begin(&mut self, id: usize, point: &Point) {
        self.done("BEGIN").await;
        if point.local {
            self.done("SET LOCAL synchronous_commit = local").await;
        }
        if point.nature == Nature::Fickle {
            self.done("SELECT clock_timestamp()").await;
        }
        self.done(&format!("INSERT INTO cut VALUES ({id})")).await;
        if point.early {
            self.done("SELECT 'asked'").await;
        }
        assert_eq!(self.talk.status, b'T');
    }

    /// Commits it. Whatever was told, no transaction is open after it.
    pub async fn commit(&mut self, form: Form) -> Word {
        let reply = self.talk.send(&form.commit(), 1).await.unwrap();
        let word = self.word(&reply);
        if self.talk.status == b'E' {
            self.roll_back().await;
        }
        word
    }

    /// Leaves its transaction, whatever became of that.
    pub async fn roll_back(&mut self) {
        self.done("ROLLBACK").await;
        assert_eq!(self.talk.status, b'I');
    }

    fn word(&self, reply: &Reply) -> Word {
        let code = reply.errors.first().map_or("", |(code, _)| code);
        match (reply.tags.as_slice(), code, self.talk.status) {
            ([tag], "", b'I') if tag == "COMMIT" => Word::Committed,
            // An error before the Execute of a COMMIT leaves the transaction open and failed, as in PostgreSQL.
            ([], "40001", b'I' | b'E') => Word::Lost,
            ([], "08007", b'I') => Word::Unknown,
            _ => panic!("none of the answers there may be: {reply:?}"),
        }
    }

    /// It is the session it was, and of use.
    pub async fn check(&mut self) {
        assert_eq!(self.done("SELECT 'on'").await.field(0), Some("on"));
    }

    async fn done(&mut self, sql: &str) -> Reply {
        let reply = self.talk.send(&raw::query(sql), 1).await.unwrap();
        assert!(reply.errors.is_empty(), "{sql}: {reply:?}");
        reply
    }
}
