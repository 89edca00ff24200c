//! The asking of a backend for its session's state: the pure question over a live connection, with a deadline.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::continuity::ask::{Ask, Asked};
use crate::continuity::state::State;
use crate::net::Stream;
use crate::wire::scan::{Interest, ScanError, Scanner, Step};
use crate::wire::{HEADER_LEN, backend as tag};

/// Bytes of the answer at most.
const MOST: usize = 8 << 20;

/// The frames that answer; what else comes meanwhile is the client's.
const ANSWER: Interest = Interest::NONE.with(&[
    tag::BIND_COMPLETE,
    tag::CLOSE_COMPLETE,
    tag::COMMAND_COMPLETE,
    tag::DATA_ROW,
    tag::ERROR_RESPONSE,
    tag::PARSE_COMPLETE,
    tag::READY_FOR_QUERY,
]);

/// The backend is of no more use.
#[derive(Debug)]
pub(super) struct Broken;

/// Asks, teaches `state`, and gives back what came for the client meanwhile (notifications, notices).
///
/// # Errors
/// The connection broke, or no answer came in time: in either case the backend is in an unknown state.
pub(super) async fn ask(
    stream: &mut Stream,
    login: &str,
    state: &mut State,
    deadline: Instant,
) -> Result<(Asked, BytesMut), Broken> {
    let conversation = async {
        stream.write_all(&Ask::packet(state)).await.map_err(|_| Broken)?;
        stream.flush().await.map_err(|_| Broken)?;
        let mut ask = Ask::new(login);
        let mut unread = BytesMut::new();
        let mut others = BytesMut::new();
        let mut scanner = Scanner::new(&ANSWER, MOST as u32);
        loop {
            let (count, theirs, asked) = match scanner.step(&unread, false).map_err(|_: ScanError| Broken)? {
                Step::Frame { tag, body } => (HEADER_LEN + body.len(), false, ask.reply(tag, body, state)),
                Step::Pass(count) => (count, true, Asked::More),
                Step::Wait | Step::Head { .. } | Step::Part { .. } => {
                    if unread.len() > MOST || stream.read_buf(&mut unread).await.map_err(|_| Broken)? == 0 {
                        return Err(Broken);
                    }
                    continue;
                }
            };
            let frame = unread.split_to(count);
            if theirs {
                others.extend_from_slice(&frame);
            }
            if asked != Asked::More {
                others.extend_from_slice(&unread);
                return Ok((asked, others));
            }
        }
    };
    timeout_at(deadline, conversation).await.map_err(|_| Broken)?
}
