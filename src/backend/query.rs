//! A question of our own to a logged-in backend: the simple protocol, rows as text, bounded.

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};

use super::frames::{FrameError, keep_parameter, next_frame};
use super::{Backend, QueryError, Rows, ServerError};
use crate::wire::backend as tag;
use crate::wire::message::write::frontend as write;
use crate::wire::message::{DataRow, ReadError};

/// Most bytes the answer may have.
const MAX_ANSWER: u32 = 1024 * 1024;

/// See `Backend::simple_query`.
pub(super) async fn run(backend: &mut Backend, sql: &str, deadline: Instant) -> Result<Rows, QueryError> {
    timeout_at(deadline, answer(backend, sql)).await.map_err(|_| QueryError::TimedOut)?
}

async fn answer(backend: &mut Backend, sql: &str) -> Result<Rows, QueryError> {
    let mut out = BytesMut::new();
    write::query(&mut out, sql);
    backend.stream.write_all(&out).await?;
    backend.stream.flush().await?;
    let (mut rows, mut error, mut left) = (Rows::new(), None, MAX_ANSWER as usize);
    loop {
        let frame = next_frame(&mut backend.stream, &mut backend.received, MAX_ANSWER).await?;
        left = left.checked_sub(frame.body.len()).ok_or(FrameError::TooMuch)?;
        match frame.tag {
            tag::DATA_ROW => rows.push(text_row(&frame.body)?),
            tag::ERROR_RESPONSE => {
                let reported = ServerError::read(frame.body)?;
                if reported.ends_session() {
                    return Err(QueryError::Server(reported));
                }
                error = Some(reported);
            }
            tag::READY_FOR_QUERY => {
                return error.map_or(Ok(rows), |error| Err(QueryError::Server(error)));
            }
            tag::PARAMETER_STATUS => keep_parameter(&mut backend.parameters, &frame.body)?,
            tag::ROW_DESCRIPTION
            | tag::COMMAND_COMPLETE
            | tag::EMPTY_QUERY_RESPONSE
            | tag::NOTICE_RESPONSE
            | tag::NOTIFICATION_RESPONSE => {}
            other => {
                let other = char::from(other);
                return Err(QueryError::Protocol(format!("message {other:?} does not belong to an answer")));
            }
        }
    }
}

fn text_row(body: &[u8]) -> Result<Vec<Option<String>>, ReadError> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    DataRow::read(body)?.columns().map(|value| Ok(value?.map(text))).collect()
}
