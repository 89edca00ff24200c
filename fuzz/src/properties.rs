//! What must hold for any bytes at all. Used by the fuzz targets and, on every `cargo test`, by `tests/fuzz_smoke.rs`.

use crate::wire::message::{
    Authentication, BackendKeyData, Bind, Close, CommandComplete, DataRow, Describe, ErrorFields, Execute,
    NegotiateProtocolVersion, NotificationResponse, ParameterStatus, Parse, PasswordMessage, Query, ReadyForQuery,
    RowDescription, SaslInitialResponse, write,
};
use crate::wire::scan::{Interest, ScanError, Scanner, Step};
use crate::wire::sql::{Verb, glance, statements};
use crate::wire::startup::{self, Packet};
use bytes::BytesMut;

/// How the chunks cut a stream makes no difference to what a relay passes on and sees.
///
/// The first two bytes choose the buffer's size and the chunks' size.
pub fn scan(data: &[u8]) {
    let Some((&[capacity, chunk], stream)) = data.split_first_chunk::<2>() else {
        return;
    };
    let capacity = usize::from(capacity).max(5);
    let chunk = usize::from(chunk).max(1);
    let cut = relay(stream, capacity, chunk);
    let whole = relay(stream, capacity, capacity);
    assert_eq!(cut, whole, "cut into chunks of {chunk}, with a buffer of {capacity}");
}

/// The bytes passed on, and the tag and body of each frame of interest as far as it came.
type Seen = (usize, Vec<(u8, Vec<u8>)>);

fn relay(stream: &[u8], capacity: usize, chunk: usize) -> (Seen, Option<ScanError>) {
    let mut scanner = Scanner::new(&const { Interest::NONE.with(b"ZCS1\x05") }, 1 << 16);
    let (mut pos, mut arrived, mut seen) = (0, 0, Vec::new());
    loop {
        let window = &stream[pos..arrived];
        let step = match scanner.step(window, window.len() == capacity) {
            Ok(step) => step,
            Err(error) => return ((pos, seen), Some(error)),
        };
        assert!(step.consumed() <= window.len());
        pos += step.consumed();
        match step {
            Step::Pass(n) => assert!(n > 0),
            Step::Frame { tag, body: part } | Step::Head { tag, part, .. } => seen.push((tag, part.to_vec())),
            Step::Part { part, .. } => {
                if let Some((_, body)) = seen.last_mut() {
                    body.extend(part);
                }
            }
            Step::Wait if arrived == stream.len() => return ((pos, seen), None),
            Step::Wait => {
                assert!(window.len() < capacity, "a full buffer never waits");
                arrived = stream.len().min(arrived + chunk.min(capacity - window.len()));
            }
        }
    }
}

/// A packet is read the same however many bytes follow it, and what is refused once stays refused.
pub fn startup(data: &[u8]) {
    let whole = startup::parse(data);
    for cut in 0..data.len() {
        match startup::parse(&data[..cut]) {
            Ok(None) => {}
            Ok(packet) => assert_eq!(whole, Ok(packet), "cut at {cut}"),
            Err(_) => assert!(whole.is_err(), "cut at {cut}"),
        }
    }
    if let Ok(Some((Packet::Startup(asked), _))) = whole {
        let (minor, _) = startup::negotiate(asked.minor, &asked.extensions);
        assert!(minor <= asked.minor && !asked.user.is_empty() && !asked.database.is_empty());
        let settings = asked.settings();
        assert!(settings.keys().all(|name| !name.starts_with("pgmoor.")), "ours do not reach the server");
        for reserved in ["user", "database", "replication"] {
            assert!(!asked.parameters.contains_key(reserved), "{reserved} is no setting");
        }
    }
}

/// No view panics, and what was read is written back as it was.
pub fn message(body: &[u8]) {
    let mut buf = BytesMut::new();
    let same = |buf: &mut BytesMut, kind: &str| {
        assert_eq!(&buf[5..], body, "{kind}");
        buf.clear();
    };
    if let Ok(query) = Query::read(body) {
        write::frontend::query(&mut buf, query.text);
        same(&mut buf, "Query");
    }
    if let Ok(parse) = Parse::read(body) {
        let types: Vec<u32> = parse.type_oids().collect();
        write::frontend::parse(&mut buf, parse.name, parse.query, &types);
        same(&mut buf, "Parse");
    }
    if let Ok(bind) = Bind::read(body) {
        write::frontend::bind_raw(&mut buf, bind.portal, bind.statement, bind.rest);
        same(&mut buf, "Bind");
    }
    if let Ok(describe) = Describe::read(body) {
        write::frontend::describe(&mut buf, describe.target, describe.name);
        same(&mut buf, "Describe");
    }
    if let Ok(close) = Close::read(body) {
        write::frontend::close(&mut buf, close.target, close.name);
        same(&mut buf, "Close");
    }
    if let Ok(execute) = Execute::read(body) {
        write::frontend::execute(&mut buf, execute.portal, execute.max_rows);
        same(&mut buf, "Execute");
    }
    if let Ok(initial) = SaslInitialResponse::read(body) {
        write::frontend::sasl_initial_response(&mut buf, initial.mechanism, initial.data);
        same(&mut buf, "SASLInitialResponse");
    }
    backend_message(body);
}

fn backend_message(body: &[u8]) {
    let mut buf = BytesMut::new();
    if let Ok(row) = DataRow::read(body)
        && let Ok(values) = row.columns().collect::<Result<Vec<_>, _>>()
    {
        write::backend::data_row(&mut buf, &values);
        assert_eq!(&buf[5..], body, "DataRow");
        buf.clear();
    }
    if let Ok(status) = ParameterStatus::read(body) {
        write::backend::parameter_status(&mut buf, status.name, status.value);
        assert_eq!(&buf[5..], body, "ParameterStatus");
        buf.clear();
    }
    if let Ok(fields) = ErrorFields::read(body) {
        write::backend::error_response(&mut buf, &fields);
        assert_eq!(ErrorFields::read(&buf[5..]), Ok(fields.clone()), "ErrorResponse");
    }
    if let Ok(Authentication::Sasl(mechanisms)) = Authentication::read(body) {
        assert!(mechanisms.iter().all(|name| !name.is_empty()));
    }
    if let Ok(complete) = CommandComplete::read(body) {
        let _ = complete.rows();
        assert!(complete.tag.starts_with(complete.command()));
    }
    let _ = (BackendKeyData::read(body), NotificationResponse::read(body), ReadyForQuery::read(body));
    let _ = (RowDescription::read(body).map(|r| r.names().count()), PasswordMessage::read(body).is_ok());
    let _ = NegotiateProtocolVersion::read(body).map(|n| n.unrecognized().count());
}

/// Statements are pieces of the text; a statement by itself is what it was among others; a glance promises nothing untrue.
pub fn sql(text: &[u8]) {
    let all: Vec<_> = statements(text).collect();
    assert!(!all.is_empty() && all.iter().map(|s| s.text().len()).sum::<usize>() <= text.len());
    for statement in &all {
        let (verb, hints) = (statement.verb(), statement.hints());
        if glance(text) {
            assert!(all.len() == 1 && hints.is_empty() && matches!(verb, Verb::Read | Verb::Write));
        }
        let alone: Vec<_> = statements(statement.text()).map(|s| (s.verb(), s.hints())).collect();
        assert_eq!(alone, [(verb, hints)]);
    }
}
