//! One connection to a real server, watched by the pipeline and the state as a session's relay watches it.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgmoor::continuity::ask::{Ask, Asked};
use pgmoor::continuity::pipeline::{Note, Pipeline, Way};
use pgmoor::continuity::restore::{Progress, Restore};
use pgmoor::continuity::state::State;
use pgmoor::wire::message::write::frontend as write;
use pgmoor::wire::message::{CommandComplete, Parse, ReadyForQuery, Target};
use pgmoor::wire::{HEADER_LEN, ProtocolVersion, TxStatus, backend};

/// One message of a client.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Query(String),
    Parse(&'static str, String),
    Bind(&'static str, &'static str),
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    Execute(&'static str, i32),
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    CopyData(&'static str),
    CopyDone,
    CopyFail,
    Sync,
}

pub(crate) struct Link {
    stream: TcpStream,
    unread: VecDeque<u8>,
    pub(crate) pipeline: Pipeline,
    pub(crate) state: State,
}

impl Link {
    /// Logs in as the superuser. A server that recovers from a crash is waited for.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Self::login(address) {
                Ok(link) => return link,
                Err(trouble) => assert!(Instant::now() < deadline, "{trouble}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn login(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut link =
            Self { stream, unread: VecDeque::new(), pipeline: Pipeline::default(), state: State::new(1 << 20) };
        let mut packet = BytesMut::new();
        write::startup(&mut packet, ProtocolVersion::V3_0, [("user", "postgres"), ("database", "postgres")]);
        link.stream.write_all(&packet).map_err(|error| error.to_string())?;
        loop {
            match link.frame()? {
                (backend::READY_FOR_QUERY, _) => return Ok(link),
                (backend::ERROR_RESPONSE, body) => return Err(String::from_utf8_lossy(&body).into_owned()),
                _ => {}
            }
        }
    }

    /// Sends all messages at once, and reads until every one is answered.
    pub(crate) fn exchange(&mut self, parts: &[Part]) -> Result<(), String> {
        let mut packet = BytesMut::new();
        for part in parts {
            self.put(part, &mut packet);
        }
        self.stream.write_all(&packet).map_err(|error| error.to_string())?;
        while !self.pipeline.is_quiet() {
            let (tag, body) = self.frame()?;
            self.heard(tag, &body)?;
        }
        Ok(())
    }

    fn put(&mut self, part: &Part, packet: &mut BytesMut) {
        let Self { pipeline, state, .. } = self;
        match part {
            Part::Query(text) => {
                write::query(packet, text);
                pipeline.query(pipeline.read(text.as_bytes(), false), 0);
            }
            Part::Parse(name, text) => {
                let start = packet.len();
                write::parse(packet, name, text, &[]);
                let body = packet[start + HEADER_LEN..].to_vec();
                let parse = Parse::read(&body).unwrap();
                pipeline.parse(parse.name, pipeline.read(parse.query, false), &body, Way::AsItIs, state);
            }
            Part::Bind(portal, name) => {
                write::bind(packet, portal, name, &[]);
                pipeline.bind(portal.as_bytes(), name.as_bytes());
            }
            Part::DescribeStatement(name) => {
                write::describe(packet, Target::Statement, name);
                pipeline.describe();
            }
            Part::DescribePortal(name) => {
                write::describe(packet, Target::Portal, name);
                pipeline.describe();
            }
            Part::Execute(portal, rows) => {
                write::execute(packet, portal, *rows);
                pipeline.execute(portal.as_bytes());
            }
            Part::CloseStatement(name) => {
                write::close(packet, Target::Statement, name);
                pipeline.close(Some(name.as_bytes()), false);
            }
            Part::ClosePortal(name) => {
                write::close(packet, Target::Portal, name);
                pipeline.close(None, false);
            }
            Part::CopyData(data) => write::copy_data(packet, data.as_bytes()),
            Part::CopyDone => {
                write::copy_done(packet);
                pipeline.copy_end();
            }
            Part::CopyFail => {
                write::copy_fail(packet, "enough");
                pipeline.copy_end();
            }
            Part::Sync => {
                write::sync(packet);
                pipeline.sync(0);
            }
        }
    }

    fn heard(&mut self, tag: u8, body: &[u8]) -> Result<(), String> {
        let Self { pipeline, state, .. } = self;
        let note = match tag {
            backend::READY_FOR_QUERY => pipeline.ready(ReadyForQuery::read(body).unwrap().status, state),
            backend::COMMAND_COMPLETE => pipeline.command_complete(CommandComplete::read(body).unwrap().tag, state),
            backend::PARSE_COMPLETE => pipeline.parse_complete(state),
            backend::BIND_COMPLETE => pipeline.bind_complete(),
            backend::CLOSE_COMPLETE => pipeline.close_complete(state),
            backend::ROW_DESCRIPTION | backend::NO_DATA => pipeline.described(),
            backend::PORTAL_SUSPENDED => pipeline.suspended(state),
            backend::EMPTY_QUERY_RESPONSE => pipeline.nothing_ran(),
            backend::COPY_IN_RESPONSE => pipeline.copy_in(),
            backend::ERROR_RESPONSE if pipeline.error(state) => Note::Plain,
            backend::ERROR_RESPONSE => Note::Unexpected,
            _ => Note::Plain,
        };
        if note == Note::Unexpected {
            return Err(format!("unexpected {:?} {:?}", char::from(tag), String::from_utf8_lossy(body)));
        }
        Ok(())
    }

    /// What the server says, taught to a copy of what was believed.
    pub(crate) fn ask(&mut self, believed: &State) -> State {
        let mut state = believed.clone();
        self.stream.write_all(&Ask::packet(&state)).unwrap();
        let mut ask = Ask::new("postgres");
        loop {
            let (tag, body) = self.frame().unwrap();
            match ask.reply(tag, &body, &mut state) {
                Asked::More => {}
                Asked::Learned => return state,
                Asked::Failed => panic!("the server could not be asked"),
            }
        }
    }

    /// Brings this fresh connection to a state.
    pub(crate) fn restore(&mut self, state: &State) -> Result<(), String> {
        let mut restore = Restore::new(state, false);
        if restore.is_empty() {
            return Ok(());
        }
        self.stream.write_all(restore.packet()).map_err(|error| error.to_string())?;
        loop {
            let (tag, body) = self.frame()?;
            match restore.reply(tag, &body)? {
                Progress::More => {}
                Progress::Done(TxStatus::Idle) => return Ok(()),
                Progress::Done(status) => return Err(format!("restored, but {status:?}")),
            }
        }
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), String> {
        loop {
            let word: Vec<u8> = self.unread.iter().skip(1).take(4).copied().collect();
            let length = <[u8; 4]>::try_from(word).map(u32::from_be_bytes).ok().map(|length| length as usize);
            if let Some(length) = length.filter(|length| self.unread.len() > *length) {
                let frame: Vec<u8> = self.unread.drain(..=length).collect();
                return Ok((frame[0], frame[HEADER_LEN..].to_vec()));
            }
            let mut chunk = [0; 8192];
            let count =
                self.stream.read(&mut chunk).map_err(|error| format!("no answer ({error}), {:?}", self.pipeline))?;
            if count == 0 {
                return Err("the server closed the connection".to_owned());
            }
            self.unread.extend(&chunk[..count]);
        }
    }
}
