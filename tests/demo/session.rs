//! One client that has built up a session: settings, prepared statements, LISTEN. It checks that all of it is there.
use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage, Statement};

use crate::cluster::trouble::Result;
use crate::writer::Door;

/// How long a notification may take.
const HEARD: Duration = Duration::from_secs(5);
const CHANNEL: &str = "orders";

/// The session.
pub(crate) struct Session {
    client: Client,
    prepared: Statement,
    heard: mpsc::UnboundedReceiver<String>,
    said: u32,
}

/// One part of the session's state: its name, and whether it is as it was set.
pub(crate) type Part = (&'static str, bool);

impl Session {
    /// Connects and builds its state up.
    pub(crate) async fn open(door: &Door) -> Result<Self> {
        let (client, mut driver) = door.open("session").await?;
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| driver.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    drop(tell.send(notification.payload().to_owned()));
                }
            }
        });
        for sql in [
            "SET application_name = 'checkout'",
            "SET statement_timeout = '77s'",
            "SET search_path = shop, public",
            "PREPARE greet (text) AS SELECT 'hello ' || $1",
            "LISTEN orders",
        ] {
            client.batch_execute(sql).await?;
        }
        let prepared = client.prepare("SELECT $1::int + 41").await?;
        Ok(Self { client, prepared, heard, said: 0 })
    }

    /// Looks at every part of its state. `other` sends the notification.
    pub(crate) async fn check(&mut self, other: &Client) -> Vec<Part> {
        let name = self.text("SHOW application_name").await;
        let timeout = self.text("SHOW statement_timeout").await;
        let path = self.text("SHOW search_path").await;
        let greeting = self.text("EXECUTE greet('again')").await;
        let sum = self.client.query_one(&self.prepared, &[&1_i32]).await;
        let sum = sum.and_then(|row| row.try_get::<_, i32>(0)).ok();
        vec![
            ("application_name", name.as_deref() == Some("checkout")),
            ("statement_timeout", timeout.as_deref() == Some("77s") || timeout.as_deref() == Some("77000ms")),
            ("search_path", path.as_deref() == Some("shop, public")),
            ("PREPARE", greeting.as_deref() == Some("hello again")),
            ("prepared", sum == Some(42)),
            ("LISTEN", self.hears(other).await),
        ]
    }

    /// Is its connection the one it opened?
    pub(crate) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// The one value of a statement, as text. By the simple protocol: EXECUTE and SHOW take no parameters.
    async fn text(&self, sql: &str) -> Option<String> {
        let messages = self.client.simple_query(sql).await.ok()?;
        messages.iter().find_map(|message| {
            if let SimpleQueryMessage::Row(row) = message { row.get(0).map(str::to_owned) } else { None }
        })
    }

    async fn hears(&mut self, other: &Client) -> bool {
        self.said += 1;
        let word = format!("order {}", self.said);
        if other.execute("SELECT pg_notify($1, $2)", &[&CHANNEL, &word]).await.is_err() {
            return false;
        }
        let listening = async {
            while let Some(payload) = self.heard.recv().await {
                if payload == word {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(HEARD, listening).await.unwrap_or(false)
    }
}
