//! The stage of the quick demo: three PostgreSQL servers of this machine, and pgmoor before them under `fixed` discovery.
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cluster::children::{Child, Program};
use crate::cluster::trouble::{Result, Trouble};
use crate::screen::{Screen, Tone};
use crate::story::Story;
use crate::trio::Trio;
use crate::watch::Watch;
use crate::writer::Door;
use crate::{Outcome, install, pgmoor, unless_interrupted};

/// How long the HA manager takes to notice. Patroni takes up to its ttl of 20 s after a crash; the hold covers that, too.
const NOTICE: Duration = Duration::from_millis(800);
const CALM: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(5);

/// Plays the quick demo.
pub(crate) fn run(screen: &Arc<Screen>) -> Result<Outcome> {
    let bin = install::postgres(screen)?;
    let folder = tempfile::Builder::new().prefix("pgmoor-demo-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let mut stage = Stage { trio: Trio::new(&bin, folder.path())?, moor: None, folder };
        let outcome = unless_interrupted(screen, play(screen, &mut stage)).await;
        stage.end(screen, &outcome).await?;
        outcome
    })
}

struct Stage {
    // Processes before the folder they write to.
    moor: Option<Child>,
    trio: Trio,
    folder: TempDir,
}

async fn play(screen: &Arc<Screen>, stage: &mut Stage) -> Result<Outcome> {
    screen.heading("pgmoor keeps connections while the primary dies");
    screen.event(Tone::Quiet, "starting three PostgreSQL 15 servers: one primary, two synchronous standbys");
    let trio = &mut stage.trio;
    trio.found(0).await?;
    trio.join(1, 0).await?;
    trio.join(2, 0).await?;
    for place in 0..3 {
        let role = if place == 0 { "primary" } else { "standby" };
        screen.event(Tone::Plain, &format!("{} at {}: {role}", trio.name(place), trio.address(place)));
    }
    let addresses = Addresses::of(trio);
    stage.moor = Some(moor(trio, stage.folder.path(), &addresses)?);
    let watch = Watch::begin(screen, addresses.admin).await?;
    let rw = addresses.rw;
    screen.event(Tone::Plain, &format!("pgmoor at {rw} leads to the primary (discovery: a fixed list)"));
    let mut story = Story::begin(screen, &Door { address: rw, password: trio.password().to_owned() }).await?;
    story.watch_for(CALM).await;
    let (primary, standby) = crash(screen, trio, &mut story).await?;
    story.watch_for(CALM).await;
    switchover(screen, trio, &mut story, primary, standby).await?;
    story.watch_for(CALM).await;
    let outcome = story.verdict().await?;
    drop(watch);
    Ok(outcome)
}

/// Act 1. Returns the new primary and its standby; the old one is a standby again, too.
async fn crash(screen: &Screen, trio: &mut Trio, story: &mut Story) -> Result<(usize, usize)> {
    screen.heading("Act 1: the primary is killed");
    let killed = trio.crash(0).await?;
    screen.event(Tone::Bad, &format!("kill -9: {} and all of its {killed} processes are gone", trio.name(0)));
    tokio::time::sleep(NOTICE).await;
    let (next, other) = trio.most_advanced([1, 2]).await?;
    let text = format!("the HA manager (here: this demo) promotes {}, which has received most", trio.name(next));
    screen.event(Tone::Plain, &text);
    trio.promote(next).await?;
    trio.follow(other, next).await?;
    screen.event(Tone::Plain, &format!("{} follows {}", trio.name(other), trio.name(next)));
    story.goes_on().await?;
    trio.join(0, next).await?;
    screen.event(Tone::Plain, &format!("{} is back as a standby, from a fresh copy", trio.name(0)));
    Ok((next, other))
}

/// Act 2: as an operator does before maintenance.
async fn switchover(screen: &Screen, trio: &mut Trio, story: &mut Story, primary: usize, standby: usize) -> Result<()> {
    screen.heading("Act 2: a switchover");
    screen.event(Tone::Plain, &format!("{} is shut down in order", trio.name(primary)));
    trio.shut_down(primary).await?;
    let (next, other) = trio.most_advanced([0, standby]).await?;
    trio.promote(next).await?;
    screen.event(Tone::Plain, &format!("{} is promoted", trio.name(next)));
    trio.follow(other, next).await?;
    trio.rejoin(primary, next).await?;
    screen.event(Tone::Plain, &format!("{} and {} follow it", trio.name(other), trio.name(primary)));
    story.goes_on().await
}

/// Where pgmoor listens.
struct Addresses {
    rw: SocketAddr,
    ro: SocketAddr,
    admin: SocketAddr,
}

impl Addresses {
    fn of(trio: &Trio) -> Self {
        let host = trio.subnet().address(2);
        Self { rw: (host, 5432).into(), ro: (host, 5433).into(), admin: (host, 9187).into() }
    }
}

/// Starts pgmoor with a configuration of its own.
fn moor(trio: &Trio, folder: &Path, addresses: &Addresses) -> Result<Child> {
    let Addresses { rw, ro, admin } = addresses;
    let servers: Vec<String> = (0..3).map(|n| format!("\"{}={}\"", trio.name(n), trio.address(n))).collect();
    let (servers, password) = (servers.join(", "), trio.password());
    let config = format!(
        "[listen]\nrw = \"{rw}\"\nro = \"{ro}\"\nadmin = \"{admin}\"\n\n[auth]\nusers_file = \"users.toml\"\n\n\
         [[cluster]]\nname = \"demo\"\ndatabases = [\"*\"]\ndiscovery.fixed = [{servers}]\n\
         probe = {{ user = \"pgmoor\", password = \"{password}\" }}\n"
    );
    let path = folder.join("pgmoor.toml");
    write_private(&path, &config)?;
    write_private(&folder.join("users.toml"), &format!("[[user]]\nname = \"app\"\npassword = \"{password}\"\n"))?;
    let program = Program::new("pgmoor", pgmoor()?).arg("run").arg("--config").arg(path);
    program.env("NO_COLOR", "1").start(&folder.join("pgmoor.log"))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    crate::cluster::access::write(path, text, 0o600)
}

impl Stage {
    async fn end(mut self, screen: &Screen, outcome: &Result<Outcome>) -> Result<()> {
        screen.rest();
        if let Some(moor) = self.moor.take() {
            if outcome.as_ref().ok() != Some(&Outcome::AsPromised)
                && outcome.as_ref().ok() != Some(&Outcome::Interrupted)
            {
                screen.line(Tone::Quiet, &format!("the end of pgmoor's log:\n{}", moor.log_tail(25)));
            }
            moor.stop(GRACE).await?;
        }
        self.trio.end().await?;
        let path = self.folder.path().to_owned();
        self.folder.close().map_err(|error| Trouble::new(format!("removing {}: {error}", path.display())))?;
        screen.line(Tone::Quiet, "\n  Every server is stopped and every file removed.");
        Ok(())
    }
}
