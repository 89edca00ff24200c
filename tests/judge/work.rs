//! The kinds of work a client does. Each row it writes carries the operation's name and may be there once: no table forbids a
//! second one, so that a write that was run twice shows.

use crate::client::{ACCOUNTS, Client, committed, told};
use crate::history::{Did, Told};
use crate::raw;

/// The tables. `taken` is there for an error that is expected.
pub const TABLES: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE ledger (tx bigint NOT NULL, source int NOT NULL, target int NOT NULL, amount bigint NOT NULL);
    CREATE TABLE entry (tx bigint NOT NULL, position int NOT NULL);
    CREATE TABLE race (key bigint PRIMARY KEY, tx bigint NOT NULL);
    CREATE TABLE version (client int PRIMARY KEY, version bigint NOT NULL);
    CREATE TABLE taken (id int PRIMARY KEY);
    INSERT INTO taken VALUES (1);";

/// What every client prepares by the protocol, by name.
const PREPARED: &[(&str, &str)] = &[
    ("look", "SELECT balance FROM public.account WHERE id IN ($1::int, $2::int) ORDER BY id FOR UPDATE"),
    ("move", "UPDATE public.account SET balance = balance + $2::bigint WHERE id = $1::int"),
    ("book", "INSERT INTO public.ledger VALUES ($1::bigint, $2::int, $3::int, $4::bigint)"),
    ("enter", "INSERT INTO public.entry VALUES ($1::bigint, $2::int)"),
    ("touch", "UPDATE public.version SET version = version + 1 WHERE client = $1::int RETURNING version"),
    ("mine", "SELECT $1::text || current_setting('judge.name')"),
];

impl Client {
    /// Builds up the session's state.
    pub(crate) async fn settle(&mut self) -> Result<(), Told> {
        let id = self.id;
        let settings = [
            ("statement_timeout".to_owned(), "0".to_owned()),
            ("TimeZone".to_owned(), "Europe/Vienna".to_owned()),
            ("search_path".to_owned(), "pg_catalog, public".to_owned()),
            ("application_name".to_owned(), format!("client {id}")),
            ("work_mem".to_owned(), format!("{}kB", 4097 + id)),
            ("judge.name".to_owned(), format!("client {id}")),
            ("judge.note".to_owned(), "0".to_owned()),
        ];
        for (name, value) in settings {
            let value_in_sql = if name == "search_path" { value.clone() } else { format!("'{value}'") };
            let result = self.ask(&format!("SET {name} TO {value_in_sql}")).await;
            self.expected.set(&name, &value, &told(result.clone()));
            result?;
        }
        self.ask(&format!("LISTEN judge_{id}")).await?;
        self.ask(&format!("PREPARE sum AS SELECT {id} + $1::int")).await?;
        for (name, sql) in PREPARED {
            self.say(&[raw::parse(name, sql), raw::sync()].concat(), 1).await?;
        }
        self.ask(&format!("INSERT INTO version VALUES ({id}, 0)")).await.map(drop)
    }

    /// Money from one account to another; rows are locked in the order of their ids, so that nobody meets a deadlock.
    pub(crate) async fn transfer(&mut self, prepared: bool) -> (Told, Did) {
        let from = self.dice.below(ACCOUNTS);
        let to = (from + 1 + self.dice.below(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = 1 + self.dice.below(50);
        let did = Did::Transfer { from: from as usize, to: to as usize, amount: amount as i64 };
        let (from, to, amount, tx) = (from.to_string(), to.to_string(), amount.to_string(), self.tx().to_string());
        let work = async {
            self.ask("BEGIN").await?;
            self.think().await;
            let minus = format!("-{amount}");
            let found = if prepared {
                let found = self.run_prepared("look", &[&from, &to]).await?;
                self.think().await;
                self.run_prepared("move", &[&from, &minus]).await?;
                self.run_prepared("move", &[&to, &amount]).await?;
                self.think().await;
                self.run_prepared("book", &[&tx, &from, &to, &amount]).await?;
                found
            } else {
                let look = format!("SELECT balance FROM account WHERE id IN ({from}, {to}) ORDER BY id FOR UPDATE");
                let found = self.ask(&look).await?;
                self.think().await;
                self.ask(&format!("UPDATE account SET balance = balance {minus} WHERE id = {from}")).await?;
                self.ask(&format!("UPDATE account SET balance = balance + {amount} WHERE id = {to}")).await?;
                self.think().await;
                self.ask(&format!("INSERT INTO ledger VALUES ({tx}, {from}, {to}, {amount})")).await?;
                found
            };
            if found.rows.len() != 2 {
                return Err(Told::Wrong(format!("two accounts were asked for: {found:?}")));
            }
            self.commit().await
        };
        (told(work.await), did)
    }

    /// One row, autocommit.
    pub(crate) async fn append(&mut self, prepared: bool) -> (Told, Did) {
        let tx = self.tx().to_string();
        let result = if prepared {
            self.run_prepared("enter", &[&tx, "1"]).await
        } else {
            self.ask(&format!("INSERT INTO entry VALUES ({tx}, 1)")).await
        };
        (told(result), Did::Rows(1))
    }

    /// Savepoints, and inside of one an error that is expected: the transaction goes on behind it.
    pub(crate) async fn list(&mut self) -> (Told, Did) {
        let tx = self.tx();
        let work = async {
            self.ask("BEGIN").await?;
            self.ask(&format!("INSERT INTO entry VALUES ({tx}, 1)")).await?;
            self.ask("SAVEPOINT before").await?;
            self.think().await;
            match self.ask("INSERT INTO taken VALUES (1)").await {
                Err(Told::Conflict) => {}
                Ok(reply) => return Err(Told::Wrong(format!("a key that is taken was given out: {reply:?}"))),
                Err(other) => return Err(other),
            }
            self.ask("ROLLBACK TO before").await?;
            self.ask(&format!("INSERT INTO entry VALUES ({tx}, 2)")).await?;
            self.think().await;
            self.ask("SAVEPOINT after").await?;
            self.ask(&format!("INSERT INTO entry VALUES ({tx}, 3)")).await?;
            self.ask("RELEASE after").await?;
            self.commit().await
        };
        (told(work.await), Did::Rows(3))
    }

    /// Three units in one pipeline: one implicit transaction.
    pub(crate) async fn batch(&mut self) -> (Told, Did) {
        let tx = self.tx().to_string();
        let mut frames = Vec::new();
        for position in ["1", "2", "3"] {
            frames.extend([raw::bind("", "enter", &[&tx, position]), raw::execute("", 0)].concat());
        }
        frames.extend(raw::sync());
        (told(self.say(&frames, 1).await), Did::Rows(3))
    }

    /// A whole transaction at once: an error skips all that follows up to the Sync, or to the end of the query.
    pub(crate) async fn pipeline(&mut self) -> (Told, Did) {
        let tx = self.tx();
        let statements = [
            "BEGIN".to_owned(),
            format!("INSERT INTO entry VALUES ({tx}, 1)"),
            format!("INSERT INTO entry VALUES ({tx}, 2)"),
            "COMMIT".to_owned(),
        ];
        let frames = if self.dice.once_in(2) {
            raw::query(&statements.join("; "))
        } else {
            let unit = |sql: &String| [raw::parse("", sql), raw::bind("", "", &[]), raw::execute("", 0)].concat();
            let mut frames: Vec<u8> = statements.iter().flat_map(unit).collect();
            frames.extend(raw::sync());
            frames
        };
        let result = self.say(&frames, 1).await;
        (told(result.and_then(|reply| committed(&reply))), Did::Rows(2))
    }

    /// COPY FROM in a transaction.
    pub(crate) async fn copy(&mut self) -> (Told, Did) {
        let tx = self.tx();
        let count = 1 + self.dice.below(40) as i32;
        let work = async {
            self.ask("BEGIN").await?;
            let reply = self.ask("COPY entry FROM STDIN").await?;
            if !reply.copying {
                return Err(Told::Wrong(format!("COPY was answered with {reply:?}")));
            }
            let mut frames = Vec::new();
            for position in 1..=count {
                frames.extend(raw::frame(b'd', format!("{tx}\t{position}\n").as_bytes()));
            }
            frames.extend(raw::frame(b'c', b""));
            self.think().await;
            self.say(&frames, 1).await?;
            self.think().await;
            self.commit().await
        };
        (told(work.await), Did::Rows(count))
    }

    /// Rows in one text, which is longer than pgmoor's buffers as a rule.
    pub(crate) async fn bulk(&mut self) -> (Told, Did) {
        let tx = self.tx();
        let count = 1 + self.dice.below(20) as i32;
        let rows: Vec<String> = (1..=count).map(|position| format!("({tx}, {position})")).collect();
        let between = format!(",{}", " ".repeat(self.dice.below(6000) as usize));
        let insert = format!("INSERT INTO entry VALUES {}", rows.join(&between));
        let result = if self.dice.once_in(2) {
            self.ask_slowly(&insert).await.map(drop)
        } else {
            async {
                self.ask("BEGIN").await?;
                self.ask_slowly(&insert).await?;
                self.think().await;
                self.commit().await
            }
            .await
        };
        (told(result), Did::Rows(count))
    }

    /// One more on the own counter.
    pub(crate) async fn touch(&mut self) -> (Told, Did) {
        let id = self.id.to_string();
        let result = self.run_prepared("touch", &[&id]).await;
        let saw = result.as_ref().ok().and_then(|reply| reply.number());
        (told(result), Did::Touch(saw))
    }

    /// Reads the own counter.
    pub(crate) async fn version(&mut self) -> (Told, Did) {
        let result = self.ask(&format!("SELECT version FROM version WHERE client = {}", self.id)).await;
        let saw = result.as_ref().ok().and_then(|reply| reply.number());
        (told(result), Did::Version(saw))
    }

    /// Reads the sum of all accounts.
    pub(crate) async fn total(&mut self) -> (Told, Did) {
        let result = self.ask("SELECT sum(balance)::bigint FROM account").await;
        let saw = result.as_ref().ok().and_then(|reply| reply.number());
        (told(result), Did::Total(saw))
    }

    /// Tries to be the first with the pair's next key; both of a pair try every key once, in the same order.
    pub(crate) async fn race(&mut self) -> (Told, Did) {
        let key = i64::from(self.id / 2) * 1_000_000 + self.round;
        self.round += 1;
        let insert = format!("INSERT INTO race VALUES ({key}, {})", self.tx());
        let result = if self.dice.once_in(2) {
            self.ask(&insert).await.map(drop)
        } else {
            async {
                self.ask("BEGIN").await?;
                self.ask(&insert).await?;
                self.think().await;
                self.commit().await
            }
            .await
        };
        (told(result), Did::Key(key))
    }

    /// Changes a setting, or does not: a transaction that is rolled back and SET LOCAL leave none.
    pub(crate) async fn setting(&mut self) -> (Told, Did) {
        let value = self.n.to_string();
        let set = format!("SET judge.note = '{value}'");
        let way = self.dice.below(5);
        let result = match way {
            0 => self.ask(&set).await.map(drop),
            1 => {
                let function = raw::unit("SELECT set_config('judge.note', $1::text, false)", &[&value]);
                self.say(&function, 1).await.map(drop)
            }
            2 => self.setting_inside(&set, "COMMIT").await,
            3 => self.setting_inside(&set, "ROLLBACK").await,
            _ => self.setting_inside(&format!("SET LOCAL judge.note = '{value}'"), "COMMIT").await,
        };
        let told = told(result);
        if way <= 2 {
            self.expected.set("judge.note", &value, &told);
        }
        (told, Did::Nothing)
    }

    async fn setting_inside(&mut self, set: &str, end: &str) -> Result<(), Told> {
        self.ask("BEGIN").await?;
        self.ask(set).await?;
        self.think().await;
        if end == "COMMIT" { self.commit().await } else { self.ask(end).await.map(drop) }
    }

    /// Looks whether everything the session had is there, and only that.
    pub(crate) async fn state(&mut self) -> (Told, Did) {
        let fields: Vec<String> =
            self.expected.names().map(|name| format!("current_setting('{name}', true)")).collect();
        let id = i64::from(self.id);
        let mut wrong = Vec::new();
        let work = async {
            let reply = self.ask(&format!("SELECT {}", fields.join(", "))).await?;
            wrong.extend(self.expected.compare(reply.rows.first().map(Vec::as_slice).unwrap_or_default()));
            let reply = self.run_prepared("mine", &["I am "]).await?;
            if reply.field(0) != Some(format!("I am client {id}").as_str()) {
                wrong.push(format!("its prepared statement says {:?}", reply.rows));
            }
            let reply = self.ask("EXECUTE sum(1000)").await?;
            if reply.number() != Some(id + 1000) {
                wrong.push(format!("its PREPAREd statement says {:?}", reply.rows));
            }
            let channel = format!("judge_{id}");
            // The backend does not listen, the database's ear does. Whether it arrives is not promised over a move; on another
            // channel nothing may.
            self.ask(&format!("SELECT pg_notify('{channel}', '')")).await?;
            if let Some(other) = self.notified().into_iter().find(|other| *other != channel) {
                wrong.push(format!("it heard of {other}"));
            }
            Ok(())
        };
        let result = work.await;
        (told(result), Did::State(wrong))
    }
}
