//! tokio-postgres at its normal work.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _, TryStreamExt as _, future, pin_mut};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls, connect};

/// A client whose connection runs in the background; its notifications come out of the channel.
async fn client(dsn: &str) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (client, mut connection) = connect(dsn, NoTls).await.unwrap();
    let (heard, news) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = heard.send(notification.payload().to_owned());
            }
        }
    });
    (client, news)
}

/// Its normal work, at this server; panics where something is not as it should be.
pub(crate) async fn work(dsn: &str) {
    let (mut client, mut news) = client(dsn).await;
    assert_eq!(client.simple_query("select 1; select 2").await.unwrap().len(), 6);
    let row = client.query_one("select $1::int + 1, $2::text", &[&41, &"t\u{e9}xt"]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (42, "t\u{e9}xt"));
    let statement = client.prepare("select $1::int * 2").await.unwrap();
    // All at once: tokio-postgres pipelines what is polled together.
    let all = future::join_all((0..500).map(|number| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&number]).await.unwrap().get::<_, i32>(0) }
    }));
    assert_eq!(all.await, (0..500).map(|number| number * 2).collect::<Vec<_>>());
    client.batch_execute("create temp table work (id int primary key, body text)").await.unwrap();
    transactions(&mut client).await;
    copies(&client).await;

    client.batch_execute("listen tokio_news").await.unwrap();
    let (other, _) = self::client(dsn).await;
    other.batch_execute("notify tokio_news, 'hello'").await.unwrap();
    assert_eq!(timeout(Duration::from_secs(20), news.recv()).await.unwrap().unwrap(), "hello");

    let token = client.cancel_token();
    let sleeping = client.batch_execute("select pg_sleep(60)");
    let cancelling = async {
        let running = "select 1 from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active' and usename = 'app'";
        while other.query(running, &[]).await.unwrap().is_empty() {}
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = timeout(Duration::from_secs(20), future::join(sleeping, cancelling)).await.unwrap();
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    let rows = client.query_raw("select generate_series(1, 50000)", Vec::<i32>::new()).await.unwrap();
    pin_mut!(rows);
    let mut count = 0;
    while rows.try_next().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 50_000);
}

async fn transactions(client: &mut Client) {
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute("insert into work values (1, 'kept')", &[]).await.unwrap();
    let savepoint = transaction.savepoint("s").await.unwrap();
    let twice = savepoint.execute("insert into work values (1, 'twice')", &[]).await.unwrap_err();
    assert_eq!(twice.code(), Some(&SqlState::UNIQUE_VIOLATION));
    savepoint.rollback().await.unwrap();
    let portal = transaction.bind("select generate_series(1, 10)", &[]).await.unwrap();
    for left in [4, 4, 2] {
        assert_eq!(transaction.query_portal(&portal, 4).await.unwrap().len(), left);
    }
    transaction.commit().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("insert into work values (2, 'undone')", &[]).await.unwrap();
    drop(transaction); // rolls back
    assert_eq!(client.query_one("select count(*) from work", &[]).await.unwrap().get::<_, i64>(0), 1);
}

async fn copies(client: &Client) {
    let sink = client.copy_in("copy work from stdin").await.unwrap();
    pin_mut!(sink);
    for id in 100..20_100 {
        sink.feed(bytes::Bytes::from(format!("{id}\tcopied\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 20_000);
    let out = client.copy_out("copy (select id from work where body = 'copied') to stdout").await.unwrap();
    let lines = out.map(|part| part.unwrap().iter().filter(|byte| **byte == b'\n').count());
    assert_eq!(lines.fold(0, |sum, lines| future::ready(sum + lines)).await, 20_000);
}
