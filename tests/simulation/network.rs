//! The network of a run: connections in memory that deliver late and in pieces, and break at any byte.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::chance::{Rng, Trace};

/// When a side that hears nothing is told that the other is gone, as keepalive and TCP_USER_TIMEOUT tell.
const UNANSWERED: Duration = Duration::from_secs(11);

/// Bytes on their way, in one direction, at most.
const WINDOW: usize = 24 * 1024;

/// What goes wrong on a connection, and after how many bytes in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mishap {
    /// From the side that opened it.
    pub(crate) outward: bool,
    pub(crate) at: u64,
    pub(crate) kind: Break,
}

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// In good order: what is on its way arrives.
    End,
    /// What is on its way is lost.
    Reset,
    /// Nobody hears anything any more.
    Stall,
}

/// A connection, as the network sees it.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<Link>>);

struct Link {
    /// From the side that opened it; towards it.
    lanes: [Lane; 2],
    mishap: Option<Mishap>,
    stalled: Option<Instant>,
    /// Since when the far side is one that nothing may be sent to.
    forbidden: Option<Instant>,
    rng: Rng,
    trace: Trace,
    name: String,
    /// Broken by us: not by either side.
    broken: bool,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<(Instant, Vec<u8>)>,
    queued: usize,
    carried: u64,
    last: Option<Instant>,
    /// The writer is done: after the queue comes the end.
    ended: bool,
    /// The reader hears an error instead of the end.
    reset: bool,
    /// The reader is gone.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One side of a connection.
pub(crate) struct End {
    link: Arc<Mutex<Link>>,
    side: usize,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Opens a connection: the side that opened it, the other, and the wire between.
pub(crate) fn open(name: String, mishap: Option<Mishap>, rng: Rng, trace: &Trace) -> (End, End, Wire) {
    let link = Link {
        lanes: [Lane::default(), Lane::default()],
        mishap,
        stalled: None,
        forbidden: None,
        rng,
        trace: trace.clone(),
        name,
        broken: false,
    };
    let link = Arc::new(Mutex::new(link));
    let end = |side| End { link: Arc::clone(&link), side, alarm: None };
    (end(0), end(1), Wire(Arc::clone(&link)))
}

impl Wire {
    pub(crate) fn cut(&self, kind: Break) {
        self.0.lock().unwrap().cut(kind);
    }

    pub(crate) fn rename(&self, name: String) {
        self.0.lock().unwrap().name = name;
    }

    /// Nothing may be sent to the far side from now on.
    pub(crate) fn forbid(&self) {
        self.0.lock().unwrap().forbidden.get_or_insert_with(Instant::now);
    }

    /// Whether the network broke it.
    pub(crate) fn was_broken(&self) -> bool {
        self.0.lock().unwrap().broken
    }
}

impl Link {
    fn cut(&mut self, kind: Break) {
        if self.broken {
            return;
        }
        let over = self.lanes.iter().all(|lane| lane.ended || lane.deaf);
        if over {
            return;
        }
        self.broken = true;
        self.trace.say(format_args!("{} breaks: {kind:?}", self.name));
        match kind {
            Break::Stall => self.stalled = Some(Instant::now()),
            Break::End | Break::Reset => {
                let half = self.rng.chance(50);
                for lane in &mut self.lanes {
                    if kind == Break::Reset {
                        // Some of it may have come already.
                        let keep = if half { self.rng.below(lane.queued as u64 + 1) as usize } else { 0 };
                        lane.truncate(keep);
                        lane.reset = self.rng.chance(70);
                    }
                    (lane.ended, lane.deaf) = (true, true);
                }
            }
        }
        for lane in &mut self.lanes {
            lane.wake();
        }
    }

    fn silence(&self) -> Option<Instant> {
        self.stalled.map(|since| since + UNANSWERED)
    }
}

impl Lane {
    fn truncate(&mut self, keep: usize) {
        while self.queued > keep {
            let Some((_, last)) = self.queue.back_mut() else { return };
            let over = (self.queued - keep).min(last.len());
            last.truncate(last.len() - over);
            self.queued -= over;
            if last.is_empty() {
                self.queue.pop_back();
            }
        }
    }
}

impl End {
    fn wait_until(&mut self, cx: &mut Context<'_>, when: Instant) -> bool {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(when)));
        if alarm.deadline() != when {
            alarm.as_mut().reset(when);
        }
        alarm.as_mut().poll(cx).is_pending()
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let end = &mut *self;
        let link = Arc::clone(&end.link);
        let mut link = link.lock().unwrap();
        let link = &mut *link;
        if let Some(when) = link.silence() {
            link.lanes[1 - end.side].reader = Some(cx.waker().clone());
            let waits = end.wait_until(cx, when);
            return if waits { Poll::Pending } else { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) };
        }
        let lane = &mut link.lanes[1 - end.side];
        let Some((arrival, front)) = lane.queue.front_mut() else {
            if lane.ended {
                return if lane.reset {
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            lane.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let arrival = *arrival;
        if arrival > Instant::now() {
            lane.reader = Some(cx.waker().clone());
            if end.wait_until(cx, arrival) {
                return Poll::Pending;
            }
        }
        let most = if link.rng.chance(30) { link.rng.between(1, 40) as usize } else { usize::MAX };
        let count = front.len().min(buf.remaining()).min(most);
        buf.put_slice(&front[..count]);
        front.drain(..count);
        lane.queued -= count;
        if front.is_empty() {
            lane.queue.pop_front();
        }
        if let Some(writer) = lane.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let end = &mut *self;
        let link = Arc::clone(&end.link);
        let mut link = link.lock().unwrap();
        let link = &mut *link;
        if end.side == 0 && !buf.is_empty() && link.forbidden.is_some_and(|since| Instant::now() > since) {
            link.trace.fault(format_args!("{}: {:?} sent to a superseded pod", link.name, char::from(buf[0])));
        }
        if let Some(when) = link.silence()
            && Instant::now() >= when
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let stalled = link.stalled.is_some();
        let lane = &mut link.lanes[end.side];
        if lane.deaf || lane.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(lane.queued);
        if room == 0 {
            lane.writer = Some(cx.waker().clone());
            if let Some(when) = link.silence() {
                end.wait_until(cx, when);
            }
            return Poll::Pending;
        }
        let most = if link.rng.chance(20) { link.rng.between(1, 60) as usize } else { usize::MAX };
        let mut count = buf.len().min(room).min(most);
        let mishap = link.mishap.filter(|mishap| mishap.outward == (end.side == 0) && !stalled);
        let breaks = mishap.filter(|mishap| lane.carried + count as u64 >= mishap.at);
        if let Some(mishap) = breaks {
            count = ((mishap.at.saturating_sub(lane.carried)) as usize).clamp(1, count);
        }
        let late = if link.rng.chance(5) { link.rng.between(5, 80) } else { link.rng.below(3) };
        let arrival = (Instant::now() + Duration::from_millis(late)).max(lane.last.unwrap_or_else(Instant::now));
        lane.last = Some(arrival);
        lane.queue.push_back((arrival, buf[..count].to_vec()));
        lane.queued += count;
        lane.carried += count as u64;
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        if let Some(mishap) = breaks {
            link.mishap = None;
            link.cut(mishap.kind);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut link = self.link.lock().unwrap();
        let lane = &mut link.lanes[self.side];
        lane.ended = true;
        lane.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut link = self.link.lock().unwrap();
        let side = self.side;
        link.lanes[side].ended = true;
        link.lanes[1 - side].deaf = true;
        for lane in &mut link.lanes {
            lane.wake();
        }
    }
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("End")
    }
}
