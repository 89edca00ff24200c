//! One server process of the scripted PostgreSQL: the protocol, from the startup packet to the end.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use pgmoor::wire::message::write::backend as write;
use pgmoor::wire::message::{Bind, Close, Describe, ErrorFields, Execute, Parse, Query, Severity, Target};
use pgmoor::wire::{CancelKey, TxStatus, frontend as tag};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cluster::{Cluster, Power};
use crate::network::End;
use crate::sql::{Answer, Block, REPORTED, Session, gives_rows, width};

/// Bytes of replies a server keeps back before it sends them.
const KEPT: usize = 8 * 1024;

/// A server process, and its end of the connection.
struct Server {
    end: End,
    unread: BytesMut,
    out: BytesMut,
    session: Session,
    portals: BTreeMap<String, (String, Vec<String>)>,
    told: BTreeMap<String, String>,
    /// The rest of the unit is skipped, up to its Sync.
    skipping: bool,
    /// What a COPY has brought; `bool`: under the extended protocol.
    copying: Option<(Vec<u8>, bool)>,
}

/// Serves one connection to its end.
pub(crate) async fn serve(cluster: Cluster, pod: usize, backend: u64, end: End) {
    let session = Session::new(&cluster, pod, backend);
    let mut server = Server {
        end,
        unread: BytesMut::new(),
        out: BytesMut::new(),
        session,
        portals: BTreeMap::new(),
        told: BTreeMap::new(),
        skipping: false,
        copying: None,
    };
    // However it ends, what it had open is rolled back.
    let _ = server.run().await;
    server.session.abort();
    cluster.lock().leave(pod, backend);
}

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Server {
    async fn run(&mut self) -> io::Result<()> {
        if !self.startup().await? {
            return Ok(());
        }
        loop {
            while self.unread.len() < 5 || self.unread.len() < self.length() {
                let stop = Arc::clone(&self.session.stop);
                tokio::select! {
                    biased;
                    () = stop.notified() => return self.farewell().await,
                    read = self.end.read_buf(&mut self.unread) => if read? == 0 { return Ok(()) },
                }
            }
            let length = self.length();
            let mut frame = self.unread.split_to(length);
            let kind = frame[0];
            frame.advance(5);
            if kind == tag::TERMINATE {
                return Ok(());
            }
            self.take(kind, &frame).await?;
            if self.out.len() > KEPT {
                self.flush().await?;
            }
        }
    }

    /// Bytes of the frame at the front, its header included.
    fn length(&self) -> usize {
        self.unread.get(1..5).map_or(usize::MAX, |mut length| 1 + length.get_u32() as usize)
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.end.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn farewell(&mut self) -> io::Result<()> {
        let words = ErrorFields::new(Severity::Fatal, "57P01", "terminating connection due to administrator command");
        write::error_response(&mut self.out, &words);
        self.flush().await
    }

    async fn startup(&mut self) -> io::Result<bool> {
        while self.unread.len() < 4 || self.unread.len() < (&self.unread[..4]).get_u32() as usize {
            if self.end.read_buf(&mut self.unread).await? == 0 {
                return Ok(false);
            }
        }
        let length = self.unread.get_u32() as usize;
        let packet = self.unread.split_to(length - 4);
        if (&packet[..4]).get_u32() != 196_608 {
            let process = u64::from((&packet[4..8]).get_u32());
            let state = self.session.cluster.lock();
            state.trace.say(format_args!("#{process} is to stop what it runs"));
            if let Some(backend) = state.pods[self.session.pod].backends.get(&process) {
                backend.cancel.store(true, Ordering::Relaxed);
            }
            return Ok(false);
        }
        let words: Vec<String> = packet[4..].split(|byte| *byte == 0).map(text).collect();
        for pair in words.chunks_exact(2).filter(|pair| !pair[0].is_empty()) {
            self.session.defaults.insert(pair[0].to_ascii_lowercase(), pair[1].clone());
        }
        self.session.user = self.session.defaults.remove("user").unwrap_or_default();
        self.session.defaults.entry("timezone".to_owned()).or_insert_with(|| "UTC".to_owned());
        let (power, recovery) = {
            let state = self.session.cluster.lock();
            (state.pods[self.session.pod].power, state.pods[self.session.pod].recovery)
        };
        if power != Power::Up {
            let words = ErrorFields::new(Severity::Fatal, "57P03", "the database system is starting up");
            write::error_response(&mut self.out, &words);
            self.flush().await?;
            return Ok(false);
        }
        write::authentication_ok(&mut self.out);
        for (name, value) in [("server_version", "15.6"), ("standard_conforming_strings", "on")] {
            write::parameter_status(&mut self.out, name, value);
        }
        write::parameter_status(&mut self.out, "in_hot_standby", if recovery { "on" } else { "off" });
        self.report();
        let key = CancelKey { process_id: self.session.backend as i32, secret: vec![1, 2, 3, 4] };
        write::backend_key_data(&mut self.out, &key);
        write::ready_for_query(&mut self.out, TxStatus::Idle);
        self.flush().await?;
        Ok(true)
    }

    /// Tells of settings that are not what they were.
    fn report(&mut self) {
        for name in REPORTED {
            let value = self.session.setting(name);
            if self.told.get(name) != Some(&value) {
                write::parameter_status(&mut self.out, name, &value);
                self.told.insert(name.to_owned(), value);
            }
        }
    }

    async fn ready(&mut self) -> io::Result<()> {
        if self.session.block == Block::Implicit && !self.session.commit().await {
            return Err(ended());
        }
        self.report();
        let status = match self.session.block {
            Block::None | Block::Implicit => TxStatus::Idle,
            Block::Explicit => TxStatus::InTransaction,
            Block::Failed => TxStatus::Failed,
        };
        write::ready_for_query(&mut self.out, status);
        self.flush().await
    }

    fn error(&mut self, code: &'static str, message: String) {
        write::error_response(&mut self.out, &ErrorFields::new(Severity::Error, code, message));
        self.session.failed();
    }

    /// What came, for whoever reads the trace.
    fn detail(&self, kind: u8, body: &[u8]) {
        let (pod, backend) = (self.session.pod, self.session.backend);
        let brief: String = text(&body[..body.len().min(60)]).replace('\0', " ");
        let trace = self.session.cluster.lock().trace.clone();
        trace.detail(format_args!("pg-{pod} #{backend} <- {} {brief}", char::from(kind)));
    }

    async fn take(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.detail(kind, body);
        if self.copying.is_some() {
            return self.copy(kind, body).await;
        }
        match kind {
            tag::SYNC => {
                self.skipping = false;
                self.ready().await
            }
            _ if self.skipping => Ok(()),
            tag::QUERY => {
                let sql = text(Query::read(body).map_err(io::Error::other)?.text);
                self.simple(&sql).await
            }
            tag::FLUSH => self.flush().await,
            _ => match self.extended(kind, body).await {
                Ok(()) => Ok(()),
                Err(Some((code, message))) => {
                    self.error(code, message);
                    self.skipping = true;
                    Ok(())
                }
                Err(None) => Err(ended()),
            },
        }
    }

    async fn simple(&mut self, sql: &str) -> io::Result<()> {
        self.session.statements.remove("");
        let texts: Vec<&str> = sql.split(';').map(str::trim).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            write::empty_query_response(&mut self.out);
        }
        for sql in texts {
            match self.session.run(sql, &[], Block::Implicit).await {
                Answer::Rows(width, rows, tag) => {
                    self.columns(width);
                    self.rows(rows, &tag).await?;
                }
                Answer::Done(tag) => write::command_complete(&mut self.out, tag),
                Answer::Error(code, message) => {
                    self.error(code, message);
                    break;
                }
                Answer::CopyIn => {
                    self.copy_begins(false);
                    return self.flush().await;
                }
                Answer::End => return Err(ended()),
            }
        }
        self.ready().await
    }

    fn columns(&mut self, width: usize) {
        write::row_description(&mut self.out, &["a", "b", "c", "d", "e"][..width]);
    }

    async fn rows(&mut self, rows: Vec<Vec<Option<String>>>, tag: &str) -> io::Result<()> {
        for row in rows {
            let values: Vec<Option<&[u8]>> = row.iter().map(|value| value.as_deref().map(str::as_bytes)).collect();
            write::data_row(&mut self.out, &values);
            if self.out.len() > KEPT {
                self.flush().await?;
            }
        }
        write::command_complete(&mut self.out, tag);
        Ok(())
    }

    async fn extended(&mut self, kind: u8, body: &[u8]) -> Result<(), Option<(&'static str, String)>> {
        let broken = |_| None;
        match kind {
            tag::PARSE => {
                let parse = Parse::read(body).map_err(broken)?;
                let (name, sql) = (text(parse.name), text(parse.query));
                if self.session.block == Block::Failed && !sql.starts_with("ROLLBACK") && !sql.starts_with("COMMIT") {
                    return Err(Some(("25P02", "current transaction is aborted".to_owned())));
                }
                if !name.is_empty() && self.session.statements.contains_key(&name) {
                    return Err(Some(("42P05", format!("prepared statement {name:?} already exists"))));
                }
                self.session.statements.insert(name, sql);
                write::parse_complete(&mut self.out);
            }
            tag::BIND => {
                let bind = Bind::read(body).map_err(broken)?;
                let name = text(bind.statement);
                let Some(sql) = self.session.statements.get(&name).cloned() else {
                    return Err(Some(("26000", format!("prepared statement {name:?} does not exist"))));
                };
                if self.session.block == Block::Failed && !sql.starts_with("ROLLBACK") && !sql.starts_with("COMMIT") {
                    return Err(Some(("25P02", "current transaction is aborted".to_owned())));
                }
                let values = parameters(body, bind.portal.len() + bind.statement.len() + 2);
                self.portals.insert(text(bind.portal), (sql, values));
                write::bind_complete(&mut self.out);
            }
            tag::DESCRIBE => {
                let describe = Describe::read(body).map_err(broken)?;
                let name = text(describe.name);
                let sql = if describe.target == Target::Statement {
                    write::parameter_description(&mut self.out, &[]);
                    self.session.statements.get(&name).cloned()
                } else {
                    self.portals.get(&name).map(|(sql, _)| sql.clone())
                };
                let Some(sql) = sql else { return Err(Some(("34000", format!("{name:?} does not exist")))) };
                if gives_rows(&sql) { self.columns(width(&sql)) } else { write::no_data(&mut self.out) }
            }
            tag::EXECUTE => {
                let name = text(Execute::read(body).map_err(broken)?.portal);
                self.execute(&name).await?;
            }
            tag::CLOSE => {
                let close = Close::read(body).map_err(broken)?;
                let name = text(close.name);
                if close.target == Target::Statement {
                    self.session.statements.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                write::close_complete(&mut self.out);
            }
            // Leftovers of a COPY that is over.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            other => return Err(Some(("08P01", format!("message {:?}", char::from(other))))),
        }
        Ok(())
    }

    async fn execute(&mut self, portal: &str) -> Result<(), Option<(&'static str, String)>> {
        let Some((sql, values)) = self.portals.get(portal).cloned() else {
            return Err(Some(("34000", format!("portal {portal:?} does not exist"))));
        };
        match self.session.run(&sql, &values, Block::Implicit).await {
            Answer::Rows(_, rows, tag) => self.rows(rows, &tag).await.map_err(|_| None)?,
            Answer::Done(tag) => write::command_complete(&mut self.out, tag),
            Answer::Error(code, message) => return Err(Some((code, message))),
            Answer::CopyIn => {
                self.copy_begins(true);
                self.flush().await.map_err(|_| None)?;
            }
            Answer::End => return Err(None),
        }
        Ok(())
    }

    fn copy_begins(&mut self, extended: bool) {
        // CopyInResponse: text, one column, text.
        self.out.extend_from_slice(b"G\0\0\0\x09\0\0\x01\0\0");
        self.copying = Some((Vec::new(), extended));
    }

    async fn copy(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let Some((mut data, extended)) = self.copying.take() else { return Ok(()) };
        match kind {
            tag::COPY_DATA => {
                data.extend_from_slice(body);
                self.copying = Some((data, extended));
                return Ok(());
            }
            tag::COPY_DONE => {
                let keys: Vec<u64> = text(&data).lines().filter_map(|line| line.parse().ok()).collect();
                match self.session.insert(&keys, |count| format!("COPY {count}")) {
                    Answer::Done(tag) => write::command_complete(&mut self.out, tag),
                    Answer::Error(code, message) => {
                        self.error(code, message);
                        self.skipping = extended;
                    }
                    Answer::Rows(..) | Answer::CopyIn | Answer::End => {}
                }
            }
            tag::COPY_FAIL => {
                self.error("57014", "COPY from stdin failed".to_owned());
                self.skipping = extended;
            }
            _ => {
                self.copying = Some((data, extended)); // Sync and Flush are ignored during a COPY
                return Ok(());
            }
        }
        if extended { Ok(()) } else { self.ready().await }
    }
}

/// The values of a Bind, as text. `skip`: bytes of the two names.
fn parameters(body: &[u8], skip: usize) -> Vec<String> {
    let mut rest = &body[skip..];
    let formats = usize::from(rest.get_u16());
    rest.advance(2 * formats);
    let count = rest.get_u16();
    let value = |_| {
        let length = rest.get_i32().max(0) as usize;
        let value = text(&rest[..length]);
        rest.advance(length);
        value
    };
    (0..count).map(value).collect()
}
