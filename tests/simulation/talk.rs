//! The wire of one client: what it sends, and the strict reading of what comes back.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use pgmoor::wire::message::write::frontend as write;
use pgmoor::wire::message::{CommandComplete, DataRow, ErrorFields, ParameterStatus};
use pgmoor::wire::{ProtocolVersion, backend as tag};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ledger::Said;
use crate::network::End;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ended {
    /// Between two messages, without a word.
    Silent,
    /// In the midst of a message.
    Half,
    /// The socket broke.
    Broken,
    /// With these last words.
    Fatal(String),
    /// What came is no answer to what was asked.
    Nonsense(String),
}

/// What is due for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Parsed,
    Bound,
    Closed,
    /// Of a statement or portal, with rows or without.
    Described {
        rows: bool,
        statement: bool,
    },
    /// A statement runs; `head`: its columns are told first.
    Run {
        rows: bool,
        head: bool,
    },
    /// A COPY asks for its data.
    Copy,
}

/// One client's connection.
pub(crate) struct Talk {
    end: End,
    unread: BytesMut,
    pub(crate) out: BytesMut,
    /// What the server has told of its settings.
    pub(crate) told: BTreeMap<String, String>,
}

impl Talk {
    pub(crate) fn new(end: End) -> Self {
        Self { end, unread: BytesMut::new(), out: BytesMut::new(), told: BTreeMap::new() }
    }

    pub(crate) async fn send(&mut self) -> Result<(), Ended> {
        let sent = self.end.write_all(&self.out).await;
        self.out.clear();
        match sent {
            Ok(()) => Ok(()),
            // There may be last words.
            Err(_) => loop {
                self.frame().await?;
            },
        }
    }

    /// The next message that is part of an answer.
    async fn frame(&mut self) -> Result<(u8, Bytes), Ended> {
        loop {
            while self.unread.len() < 5 || self.unread.len() < 1 + (&self.unread[1..5]).get_u32() as usize {
                match self.end.read_buf(&mut self.unread).await {
                    Ok(0) if self.unread.is_empty() => return Err(Ended::Silent),
                    Ok(0) => return Err(Ended::Half),
                    Ok(_) => {}
                    Err(_) => return Err(Ended::Broken),
                }
            }
            let length = 1 + (&self.unread[1..5]).get_u32() as usize;
            let mut frame = self.unread.split_to(length).freeze();
            let kind = frame[0];
            frame.advance(5);
            match kind {
                tag::PARAMETER_STATUS => {
                    let status = ParameterStatus::read(&frame).map_err(|error| Ended::Nonsense(error.to_string()))?;
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    self.told.insert(text(status.name), text(status.value));
                }
                tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => {}
                tag::ERROR_RESPONSE => {
                    let fields = ErrorFields::read(&frame).map_err(|error| Ended::Nonsense(error.to_string()))?;
                    if fields.severity.ends_session() {
                        return Err(Ended::Fatal(format!("{} {}", fields.code, fields.message)));
                    }
                    return Ok((kind, frame));
                }
                _ => return Ok((kind, frame)),
            }
        }
    }

    /// Logs in.
    pub(crate) async fn log_in(&mut self, user: &str) -> Result<(), Ended> {
        let parameters = [("user", user), ("database", "db"), ("application_name", "sim")];
        write::startup(&mut self.out, ProtocolVersion::V3_0, parameters);
        self.send().await?;
        let mut keys = 0;
        loop {
            match self.frame().await?.0 {
                tag::AUTHENTICATION => {}
                tag::BACKEND_KEY_DATA => keys += 1,
                tag::READY_FOR_QUERY if keys == 1 => return Ok(()),
                other => return Err(Ended::Nonsense(format!("{:?} in a login", char::from(other)))),
            }
        }
    }

    /// Reads the answers to one unit: what is due, in order, then ReadyForQuery. What was said of each, and the status.
    pub(crate) async fn unit(&mut self, due: &[Due], copy: &[u8]) -> Result<(Vec<Said>, u8), Ended> {
        let mut said = Vec::new();
        for (index, due_now) in due.iter().enumerate() {
            match self.answer(*due_now, copy).await? {
                Said::Error(code) => {
                    said.push(Said::Error(code));
                    said.resize(due.len(), Said::Skipped);
                    debug_assert!(index < due.len());
                    break;
                }
                other @ (Said::Done(..) | Said::Skipped) => said.push(other),
            }
        }
        let (kind, body) = self.frame().await?;
        // What cannot be told before the end, a commit's failure, is told at the end.
        let late = kind == tag::ERROR_RESPONSE && !said.iter().any(|said| matches!(said, Said::Error(_)));
        let (kind, body) = if late {
            let code = self.code(&body)?;
            said.iter_mut().for_each(|said| *said = Said::Error(code.clone()));
            self.frame().await?
        } else {
            (kind, body)
        };
        if kind != tag::READY_FOR_QUERY || body.len() != 1 {
            return Err(Ended::Nonsense(format!("{:?} where ReadyForQuery was due, after {said:?}", char::from(kind))));
        }
        Ok((said, body[0]))
    }

    fn code(&self, body: &[u8]) -> Result<String, Ended> {
        let fields = ErrorFields::read(body).map_err(|error| Ended::Nonsense(error.to_string()))?;
        Ok(fields.code.into_owned())
    }

    async fn answer(&mut self, due: Due, copy: &[u8]) -> Result<Said, Ended> {
        let nothing = || Said::Done(String::new(), Vec::new());
        let mut head = matches!(due, Due::Run { head: true, rows: true });
        let mut parameters = matches!(due, Due::Described { statement: true, .. });
        let mut rows = Vec::new();
        loop {
            let (kind, body) = self.frame().await?;
            match (due, kind) {
                (_, tag::ERROR_RESPONSE) => return Ok(Said::Error(self.code(&body)?)),
                (Due::Parsed, tag::PARSE_COMPLETE)
                | (Due::Bound, tag::BIND_COMPLETE)
                | (Due::Closed, tag::CLOSE_COMPLETE) => return Ok(nothing()),
                (Due::Described { .. }, tag::PARAMETER_DESCRIPTION) if parameters => parameters = false,
                (Due::Described { rows: true, .. }, tag::ROW_DESCRIPTION) if !parameters => return Ok(nothing()),
                (Due::Described { rows: false, .. }, tag::NO_DATA) if !parameters => return Ok(nothing()),
                (Due::Run { rows: true, .. }, tag::ROW_DESCRIPTION) if head => head = false,
                (Due::Run { rows: true, .. }, tag::DATA_ROW) if !head => {
                    let row = DataRow::read(&body).map_err(|error| Ended::Nonsense(error.to_string()))?;
                    rows.push(row.text(0).unwrap_or_default().to_owned());
                }
                (Due::Run { .. } | Due::Copy, tag::COMMAND_COMPLETE) if !head => {
                    let complete = CommandComplete::read(&body).map_err(|error| Ended::Nonsense(error.to_string()))?;
                    return Ok(Said::Done(String::from_utf8_lossy(complete.tag).into_owned(), rows));
                }
                (Due::Copy, tag::COPY_IN_RESPONSE) => {
                    for line in copy.chunks(200) {
                        write::copy_data(&mut self.out, line);
                    }
                    write::copy_done(&mut self.out);
                    self.send().await?;
                }
                (due, kind) => return Err(Ended::Nonsense(format!("{:?} where {due:?} was due", char::from(kind)))),
            }
        }
    }

    /// Says goodbye.
    pub(crate) async fn leave(mut self) {
        write::terminate(&mut self.out);
        let _ = self.send().await;
    }
}
