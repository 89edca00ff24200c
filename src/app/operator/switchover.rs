//! A switchover from its first check to the proof of the new primary.
//!
//! ```text
//!   checked --> marked: sessions leave the primary at their boundaries, and wait --> Patroni is asked --> proven --> unmarked
//!                  |                                                                    | refused, silent, too late
//!                  +--------------------------------------------------------------------+--> unmarked: all go on as before
//! ```

use std::net::IpAddr;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Ward, ending, unknown};
use crate::admin::orders::{Answer, Drain, LONGEST, PatroniSaid, Switchover, Told};
use crate::discovery::patroni::{Patroni, Reply, Silence};
use crate::ids::{PodId, PodName, Timeline};
use crate::topology::routing::{Primary, Role, RoutingTable};

/// For all of it, if the order says nothing.
const USUAL: Duration = Duration::from_secs(60);
/// A Patroni that fell silent acts within this (its loop_wait is ten seconds) or not at all.
const SILENT: Duration = Duration::from_secs(15);
/// Patroni answers a little after it is done: what it says is wanted for the record, and nobody waits for it.
const LAST_WORD: Duration = Duration::from_secs(5);

/// A switchover that can be begun.
struct Plan {
    from: PodId,
    ip: IpAddr,
    timeline: Timeline,
    to: Option<PodName>,
    patroni: Patroni,
}

/// What came of asking Patroni.
enum Handed {
    /// Another primary is proven.
    Over { to: PodName, timeline: Timeline, at: Instant, said: Option<Reply> },
    /// Patroni does not want to.
    Refused(Reply),
    /// Patroni was not reached.
    Silent(Silence),
    /// Nobody else is proven, whatever Patroni said.
    Late(Option<Result<Reply, Silence>>),
}

impl Handed {
    /// The label for the metrics.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Over { .. } => "switched",
            Self::Refused(_) => "refused",
            Self::Silent(_) => "unreachable",
            Self::Late(_) => "timed_out",
        }
    }
}

impl Ward {
    pub(super) async fn switchover(&self, order: &Switchover) -> Answer {
        let table = self.table();
        if let (Some(from), Primary::Proven { pod, .. }) = (&order.from, &table.primary)
            && *from != pod.name
        {
            return self.only_drain(from, order.wait).await;
        }
        let Ok(_alone) = self.switching.try_lock() else {
            let message = format!("a switchover of {} is under way", self.name);
            return Answer::new(StatusCode::CONFLICT, "busy", message);
        };
        let plan = match self.plan(&table, order) {
            Ok(plan) => plan,
            Err(answer) => return answer,
        };
        let began = Instant::now();
        let wait = order.wait.unwrap_or(USUAL).min(LONGEST);
        let (name, before) = (&plan.from.name, self.registry.load(&plan.from));
        if !self.change(name, |marks| marks.moves(Some(name))).await {
            return ending();
        }
        let left = self.left(&plan.from, began + (self.patience)().min(wait / 2)).await;
        let handed = self.hand_over(&plan, began + wait).await;
        self.change(name, |marks| marks.moves(None)).await;
        self.metrics.switchover(&self.name, handed.as_str());
        let told = Told {
            cluster: Some(self.name.to_string()),
            from: Some(name.to_string()),
            left: Some(left),
            moved: Some(before.saturating_sub(left)),
            ..Told::default()
        };
        answer(&plan, handed, began, told)
    }

    /// It is not the primary, so there is nothing to hand over.
    async fn only_drain(&self, pod: &PodName, wait: Option<Duration>) -> Answer {
        let drain = Drain { pod: pod.clone(), cluster: None, wait, lasting: None, undo: false };
        let mut answer = self.drain(&drain).await;
        if answer.status == StatusCode::OK {
            answer.told.outcome = "not_primary".to_owned();
        }
        answer
    }

    /// What is to be done, or why it cannot be.
    fn plan(&self, table: &RoutingTable, order: &Switchover) -> Result<Plan, Answer> {
        let conflict = |outcome: &str, message: String| Answer::new(StatusCode::CONFLICT, outcome, message);
        let (from, timeline) = match &table.primary {
            Primary::Proven { pod, timeline } => (pod.clone(), *timeline),
            Primary::Nobody(why) => {
                let message =
                    format!("no primary of {} is proven ({}): there is nobody to switch from", self.name, why.as_str());
                return Err(conflict("no_primary", message));
            }
        };
        let Some(config) = &self.patroni else {
            let message = format!(
                "{} has no Patroni that pgmoor may ask: ask its operator itself, or write [cluster.patroni]",
                self.name
            );
            return Err(conflict("no_patroni", message));
        };
        let patroni =
            Patroni::new(config).map_err(|error| conflict("no_patroni", format!("cluster.patroni.ca: {error}")))?;
        let takes_over = |pod: &PodName| {
            table
                .pods
                .get(pod)
                .is_some_and(|route| matches!(route.role, Role::Replica { fit: true, .. }) && !route.draining)
        };
        match &order.to {
            Some(to) if !table.pods.contains_key(to) => return Err(unknown(to, self.name.as_str())),
            Some(to) if *to == from.name => return Err(conflict("unfit", format!("{to} is the primary already"))),
            Some(to) if !takes_over(to) => {
                let role = table.pods.get(to).map_or("unknown", |route| route.role.as_str());
                let message = format!(
                    "{to} cannot take over: it is not a replica that is ready, near enough and staying (its role: {role})"
                );
                return Err(conflict("unfit", message));
            }
            None if !table.pods.keys().any(takes_over) => {
                let message = format!("no replica of {} is ready, near enough and staying", self.name);
                return Err(conflict("unfit", message));
            }
            Some(_) | None => {}
        }
        let address = table.route(&from).and_then(|route| route.address);
        let ip = address.ok_or_else(|| conflict("no_primary", format!("{} has no address", from.name)))?.ip();
        Ok(Plan { from, ip, timeline, to: order.to.clone(), patroni })
    }

    /// Asks Patroni, and waits until another primary is proven on a higher timeline.
    async fn hand_over(&self, plan: &Plan, deadline: Instant) -> Handed {
        let asking = plan.patroni.switchover(plan.ip, &plan.from.name, plan.to.as_ref(), deadline);
        tokio::pin!(asking);
        let mut routes = self.routes.clone();
        let proven = async {
            loop {
                let primary = routes.borrow_and_update().primary.clone();
                match primary {
                    Primary::Proven { pod, timeline } if pod != plan.from && timeline > plan.timeline => {
                        return Some((pod.name.clone(), timeline));
                    }
                    Primary::Proven { .. } | Primary::Nobody(_) => {}
                }
                if routes.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::pin!(proven);
        let mut said: Option<Result<Reply, Silence>> = None;
        let mut deadline = deadline;
        loop {
            tokio::select! {
                biased;
                found = &mut proven => {
                    let Some((to, timeline)) = found else { return Handed::Late(said) };
                    let at = Instant::now();
                    if said.is_none() {
                        said = timeout(LAST_WORD, asking).await.ok();
                    }
                    return Handed::Over { to, timeline, at, said: said.and_then(Result::ok) };
                }
                reply = &mut asking, if said.is_none() => match reply {
                    Ok(reply) if !reply.agrees() => return Handed::Refused(reply),
                    Err(silence @ Silence::NotAsked(_)) => return Handed::Silent(silence),
                    Err(silence @ Silence::NoAnswer(_)) => {
                        deadline = deadline.min(Instant::now() + SILENT);
                        said = Some(Err(silence));
                    }
                    Ok(reply) => said = Some(Ok(reply)),
                },
                () = sleep_until(deadline) => return Handed::Late(said),
            }
        }
    }
}

/// The whole story in a sentence, and its numbers.
fn answer(plan: &Plan, handed: Handed, began: Instant, told: Told) -> Answer {
    let from = &plan.from.name;
    let quoted = |reply: &Reply| PatroniSaid { status: reply.status, text: reply.text.clone() };
    let (status, outcome) = match &handed {
        Handed::Over { .. } => (StatusCode::OK, "switched"),
        Handed::Refused(_) => (StatusCode::CONFLICT, "refused"),
        Handed::Silent(_) => (StatusCode::BAD_GATEWAY, "unreachable"),
        Handed::Late(_) => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
    };
    let told = Told { outcome: outcome.to_owned(), ..told };
    let told = match handed {
        Handed::Over { to, timeline, at, said } => {
            let held = u64::try_from((at - began).as_millis()).unwrap_or(u64::MAX);
            let (moved, left) = (told.moved.unwrap_or_default(), told.left.unwrap_or_default());
            let message = format!(
                "the primary was {from} (timeline {}) and is {to} (timeline {timeline}): {moved} sessions left it, {left} were \
                 still on it when Patroni was asked, and none that came to a boundary waited longer than {held} ms",
                plan.timeline
            );
            let timelines = Some((plan.timeline.0, timeline.0));
            let patroni = said.as_ref().map(quoted);
            Told { message, to: Some(to.to_string()), timelines, held_ms: Some(held), patroni, ..told }
        }
        Handed::Refused(reply) => {
            let message = format!("Patroni refused ({}): {}; {from} stays the primary", reply.status, reply.text);
            Told { message, patroni: Some(quoted(&reply)), ..told }
        }
        Handed::Silent(silence) => Told { message: format!("Patroni {silence}; {from} stays the primary"), ..told },
        Handed::Late(said) => {
            let (word, patroni) = match &said {
                Some(Ok(reply)) => (format!("Patroni said ({}): {}", reply.status, reply.text), Some(quoted(reply))),
                Some(Err(silence)) => (format!("Patroni {silence}"), None),
                None => ("Patroni has not answered".to_owned(), None),
            };
            let message = format!(
                "{word}; yet no primary but {from} is proven on a timeline above {}, and sessions wait no more",
                plan.timeline
            );
            Told { message, patroni, ..told }
        }
    };
    Answer { status, told: Box::new(told) }
}
