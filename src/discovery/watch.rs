//! A list and a watch of one kind of object, kept going for ever: relist, resume, back off, and notice silence.
//!
//! ```text
//!             +--------- 410, or an object that cannot be read ---------+
//!             v                                                         |
//!   list --> Listed --> open a watch at its version --> events --> ends: open again where it stopped
//!     ^                      |                            |
//!     +--- back off <--------+--- any other error --------+   (opened again at the same version)
//! ```
//!
//! The server is asked to end every watch after a few seconds. So a server that is gone without closing its connection
//! is noticed by its silence, and a quiet cluster is told apart from a dead server, without anything but the watch itself.

use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::Status;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What the server is asked to end a watch after, in seconds.
const WATCH_SECONDS: u32 = 8;
/// Two watches are not opened faster than this one after the other, whatever ends them.
const SPACING: Duration = Duration::from_millis(500);
/// The first pause after an error, doubled with every further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause after an error.
const BACKOFF_LAST: Duration = Duration::from_secs(5);
/// The least pause after a denial. Somebody has to change the RBAC rules, or an API server has only just started:
/// for its first seconds it denies everything.
const DENIED_PAUSE: Duration = Duration::from_secs(1);
/// The least pause after "too many requests" where the server names none.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause a server can impose.
const PAUSE_LIMIT: Duration = Duration::from_secs(30);

/// What a watch has to say.
#[derive(Debug)]
pub(super) enum Word {
    /// Every object there is.
    Listed(Vec<DynamicObject>),
    /// One appeared or changed.
    Changed(Box<DynamicObject>),
    /// One is gone, or matches no more.
    Gone(Box<DynamicObject>),
    /// Twice in a row nothing worked. Said once until `Works`.
    Lost(Trouble),
    /// It works again.
    Works,
}

/// Why a watch does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server does not let us (403), or has no such kind of object (404).
    Denied(String),
    /// Anything else; it may pass.
    Broken(String),
}

/// One error and what to do about it.
#[derive(Debug)]
struct Failure {
    trouble: Trouble,
    remedy: Remedy,
    /// The server wants to be left alone for this long.
    pause: Duration,
}

/// How to go on after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// At the version it stopped at.
    Resume,
    /// With a list.
    List,
    /// With a list at once: the version is too old, which happens to whoever was away for long, and is no fault.
    Refresh,
}

impl Failure {
    fn broken(text: impl Into<String>) -> Self {
        Self { trouble: Trouble::Broken(text.into()), remedy: Remedy::Resume, pause: Duration::ZERO }
    }

    fn from_status(status: &Status) -> Self {
        let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let asked = Duration::from_secs(u64::from(asked));
        let text = status.to_string();
        let (trouble, least) = match status.code {
            403 | 404 => (Trouble::Denied(text), DENIED_PAUSE),
            429 | 503 => (Trouble::Broken(text), BUSY_PAUSE),
            _ => (Trouble::Broken(text), Duration::ZERO),
        };
        let remedy = match status.code {
            410 => Remedy::Refresh,
            // 400, 504: the version is not known. 0: kube takes any strange line for a status, so something was lost here.
            0 | 400 | 504 => Remedy::List,
            _ => Remedy::Resume,
        };
        Self { trouble, remedy, pause: asked.max(least).min(PAUSE_LIMIT) }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error {
            return Self::from_status(status);
        }
        // Garbage in the stream: what was in it is lost, only a list brings it back.
        let remedy = if matches!(error, kube::Error::SerdeError(_)) { Remedy::List } else { Remedy::Resume };
        Self { remedy, ..Self::broken(with_causes(&error)) }
    }
}

/// How long the server may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// The answer to a list, or the beginning of the answer to a watch.
    pub(super) answer: Duration,
    /// A watch that says nothing for this long, not even its end, is dead.
    pub(super) silence: Duration,
}

impl Default for Patience {
    /// Together less than 15 s: within that a server that is gone without a word is noticed.
    fn default() -> Self {
        Self { answer: Duration::from_secs(4), silence: Duration::from_secs(10) }
    }
}

/// One watch. `Source` tells its words from those of its neighbours on the same channel.
#[derive(Debug)]
pub(super) struct Watch<Source> {
    pub(super) api: Api<DynamicObject>,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    pub(super) source: Source,
    pub(super) words: mpsc::Sender<(Source, Word)>,
    pub(super) patience: Patience,
}

/// Why a round came to no good end.
#[derive(Debug)]
enum Halt {
    /// The receiver of the words is gone: nobody listens any more.
    Unheard,
    /// The server failed us.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Where a watch stands between two requests.
#[derive(Debug, Default)]
struct Progress {
    /// The version to resume at; `None`: list first.
    version: Option<String>,
    /// Errors in a row.
    errors: u32,
    /// `Lost` was said.
    lost: bool,
    opened: Option<Instant>,
}

impl<Source: Copy + Send + Sync> Watch<Source> {
    /// Watches until the receiver of the words is dropped.
    pub(super) async fn run(self) {
        let mut progress = Progress::default();
        loop {
            let ended = match progress.version.clone() {
                None => self.list(&mut progress).await,
                Some(version) => self.watch(&mut progress, &version).await,
            };
            let settled = match ended {
                Ok(()) => Ok(()),
                Err(Halt::Failed(failure)) => self.recover(&mut progress, failure).await,
                Err(Halt::Unheard) => return,
            };
            if settled.is_err() {
                return;
            }
        }
    }

    /// The first error is only tried again: an API server that restarts behind a load balancer is no loss.
    async fn recover(&self, progress: &mut Progress, failure: Failure) -> Result<(), Halt> {
        match failure.remedy {
            Remedy::Resume => {}
            Remedy::List => progress.version = None,
            Remedy::Refresh => {
                progress.version = None;
                sleep(backoff(1).max(failure.pause)).await;
                return Ok(());
            }
        }
        progress.errors = progress.errors.saturating_add(1);
        let denied = matches!(failure.trouble, Trouble::Denied(_));
        if !progress.lost && (denied || progress.errors > 1) {
            progress.lost = true;
            self.say(Word::Lost(failure.trouble)).await?;
        }
        sleep(backoff(progress.errors).max(failure.pause)).await;
        Ok(())
    }

    async fn list(&self, progress: &mut Progress) -> Result<(), Halt> {
        let wanted = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            ..ListParams::default()
        };
        let list = match timeout(self.patience.answer, self.api.list(&wanted)).await {
            Ok(list) => list?,
            Err(_) => return Err(Failure::broken("no answer to a list").into()),
        };
        let Some(version) = list.metadata.resource_version.filter(|version| !version.is_empty()) else {
            return Err(Failure::broken("a list without a resourceVersion").into());
        };
        progress.version = Some(version);
        self.say(Word::Listed(list.items)).await
    }

    async fn watch(&self, progress: &mut Progress, version: &str) -> Result<(), Halt> {
        if let Some(opened) = progress.opened {
            sleep_until(opened + SPACING).await;
        }
        let opened = Instant::now();
        progress.opened = Some(opened);
        let wanted = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let stream = match timeout(self.patience.answer, self.api.watch(&wanted, version)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(Failure::broken("no answer to a watch").into()),
        };
        let mut stream = std::pin::pin!(stream);
        if std::mem::take(&mut progress.lost) {
            self.say(Word::Works).await?;
        }
        loop {
            let Ok(event) = timeout(self.patience.silence, stream.next()).await else {
                return Err(Failure::broken("a watch fell silent").into());
            };
            let Some(event) = event else { break };
            self.hear(progress, event?).await?;
            progress.errors = 0;
        }
        // An end in its time is no error; one that comes at once may be a server that cannot keep a watch open.
        if opened.elapsed() > SPACING {
            progress.errors = 0;
        }
        Ok(())
    }

    async fn hear(&self, progress: &mut Progress, event: WatchEvent<DynamicObject>) -> Result<(), Halt> {
        let version_of = |object: &DynamicObject| object.metadata.resource_version.clone().unwrap_or_default();
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = version_of(&object);
                self.say(Word::Changed(Box::new(object))).await?;
                version
            }
            WatchEvent::Deleted(object) => {
                let version = version_of(&object);
                self.say(Word::Gone(Box::new(object))).await?;
                version
            }
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(Failure::from_status(&status).into()),
        };
        if version.is_empty() {
            let failure = Failure::broken("an object without a resourceVersion");
            return Err(Failure { remedy: Remedy::List, ..failure }.into());
        }
        progress.version = Some(version);
        Ok(())
    }

    async fn say(&self, word: Word) -> Result<(), Halt> {
        self.words.send((self.source, word)).await.map_err(|_| Halt::Unheard)
    }
}

/// The whole chain: "client error" alone says nothing, "connection refused" below it does.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Between half and all of a doubling pause, so that many proxies do not come back in step.
fn backoff(errors: u32) -> Duration {
    let full = BACKOFF_FIRST.saturating_mul(1 << errors.saturating_sub(1).min(16)).min(BACKOFF_LAST);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
