//! Looks at what is in the database when all is over, past every proxy.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::cluster::trouble::{Result, eventually};
use crate::history::{Entry, Found};
use crate::stage::{FAILOVER, Stage};

/// All tables of the primary, once nobody is at work on it any more: a statement whose client was told 08007 may still be.
pub async fn look(stage: &Stage) -> Result<Found> {
    let primary = stage.cluster.wait_primary(None, FAILOVER).await?;
    let client = stage.cluster.connect_as(&primary, "app", "app").await?;
    let idle = || async {
        let busy = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = 'app' AND pid <> pg_backend_pid() AND state IS NOT NULL AND state <> 'idle'";
        let busy: i64 = client.query_one(busy, &[]).await.ok()?.get(0);
        (busy == 0).then_some(())
    };
    eventually("all statements to be over", Duration::from_secs(60), idle).await?;
    Ok(Found {
        balances: balances(&client).await?,
        ledger: ledger(&client).await?,
        rows: rows(&client).await?,
        keys: client.query("SELECT key, tx FROM race", &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect(),
        versions: versions(&client).await?,
    })
}

async fn balances(client: &Client) -> Result<Vec<i64>> {
    let rows = client.query("SELECT balance FROM account ORDER BY id", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn ledger(client: &Client) -> Result<BTreeMap<i64, Vec<Entry>>> {
    let mut ledger: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
    for row in client.query("SELECT tx, source, target, amount FROM ledger", &[]).await? {
        let account = |at| usize::try_from(row.get::<_, i32>(at));
        let entry = Entry { from: account(1)?, to: account(2)?, amount: row.get(3) };
        ledger.entry(row.get(0)).or_default().push(entry);
    }
    Ok(ledger)
}

async fn rows(client: &Client) -> Result<BTreeMap<i64, Vec<i32>>> {
    let mut found: BTreeMap<i64, Vec<i32>> = BTreeMap::new();
    for row in client.query("SELECT tx, position FROM entry ORDER BY tx, position", &[]).await? {
        found.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(found)
}

async fn versions(client: &Client) -> Result<BTreeMap<u32, i64>> {
    let mut versions = BTreeMap::new();
    for row in client.query("SELECT client, version FROM version", &[]).await? {
        versions.insert(u32::try_from(row.get::<_, i32>(0))?, row.get(1));
    }
    Ok(versions)
}
