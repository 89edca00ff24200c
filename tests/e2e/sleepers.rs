//! Sessions that have built up state and then do nothing, until they are asked whether it is all still there.

use tokio_postgres::{Client, Statement};

use crate::cluster::proxy::Port;
use crate::stage::Stage;

/// One of them.
pub struct Sleeper {
    id: usize,
    client: Client,
    statement: Statement,
}

/// `count` sessions with settings, a role, prepared statements of both kinds and a channel.
pub async fn bed(stage: &Stage, count: usize) -> Vec<Sleeper> {
    let mut sleepers = Vec::new();
    for id in 0..count {
        let client = stage.client(Port::Rw, id).await;
        let state = format!(
            "SET statement_timeout = '{}s'; SET search_path TO pg_catalog, public; SET TIME ZONE 'Europe/Vienna';
             SET my.name = 'sleeper {id}'; SET ROLE app; PREPARE named AS SELECT {id} + $1::int; LISTEN channel_{id}",
            100 + id
        );
        client.batch_execute(&state).await.unwrap();
        client.batch_execute("BEGIN; SET my.name = 'rolled back'; LISTEN nothing; ROLLBACK").await.unwrap();
        let statement = client.prepare("SELECT $1::text || current_setting('my.name')").await.unwrap();
        sleepers.push(Sleeper { id, client, statement });
    }
    sleepers
}

impl Sleeper {
    /// Everything is there, and only that.
    pub async fn check(&self, when: &str) {
        let Self { id, client, statement } = self;
        assert!(!client.is_closed(), "sleeper {id} {when}: its connection is closed");
        let row = client
            .query_one("SELECT current_setting('statement_timeout'), current_setting('search_path'), current_setting('TimeZone'), current_setting('role')", &[])
            .await
            .unwrap_or_else(|error| panic!("sleeper {id} {when}: {error:?}"));
        let settings: Vec<String> = (0..4).map(|at| row.get(at)).collect();
        let timeout = 100 + id;
        let timeout = if timeout % 60 == 0 { format!("{}min", timeout / 60) } else { format!("{timeout}s") };
        assert_eq!(settings, [timeout.as_str(), "pg_catalog, public", "Europe/Vienna", "app"], "sleeper {id} {when}");
        let text: String = client.query_one(statement, &[&"I am "]).await.unwrap().get(0);
        assert_eq!(text, format!("I am sleeper {id}"), "{when}");
        let sum: i32 = client.query_one(&format!("EXECUTE named({id})"), &[]).await.unwrap().get(0);
        assert_eq!(sum as usize, 2 * id, "sleeper {id} {when}");
    }
}
