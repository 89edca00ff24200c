//! Each message: its bytes on the wire, what a view says of them, and what it says of bytes that are cut or wrong.

#![allow(clippy::too_many_lines, clippy::type_complexity, reason = "tables")]

use super::*;
use crate::wire::startup::Negotiation;
use crate::wire::{CancelKey, ProtocolVersion, TxStatus};
use bytes::BytesMut;
use proptest::prelude::*;
use write::{backend, frontend};

/// The tag and body of the one frame that `write` appends behind other bytes.
fn written(write: impl FnOnce(&mut BytesMut)) -> (u8, Vec<u8>) {
    let mut buf = BytesMut::from(&b"before"[..]);
    write(&mut buf);
    let frame = buf.strip_prefix(b"before").expect("what was there stays").to_vec();
    let length = u32::from_be_bytes(frame[1..5].try_into().expect("a length word"));
    assert_eq!(length as usize + 1, frame.len(), "the length word counts itself and the body");
    (frame[0], frame[5..].to_vec())
}

fn body(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    written(write).1
}

#[test]
fn frontend_messages_on_the_wire() {
    let types: Vec<u8> = vec![0, 2, 0, 0, 0, 23, 0, 0, 0, 0];
    let parse = [&b"s\0select $1\0"[..], &types].concat();
    let text_bind = [&b"p\0s\0\0\0\0\x02"[..], b"\0\0\0\x01x\xff\xff\xff\xff\0\0"].concat();
    let cases: [((u8, Vec<u8>), u8, &[u8]); 20] = [
        (written(|b| frontend::query(b, "select 1")), b'Q', b"select 1\0"),
        (written(|b| frontend::query(b, "select\0 1")), b'Q', b"select\0"),
        (written(|b| frontend::parse(b, "s", "select $1", &[23, 0])), b'P', &parse),
        (written(|b| frontend::parse_raw(b, "s", "select $1", &types)), b'P', &parse),
        (written(|b| frontend::parse(b, "a\0b", "", &[])), b'P', b"a\0\0\0\0"),
        (written(|b| frontend::bind(b, "p", "s", &[Some(b"x"), None])), b'B', &text_bind),
        (written(|b| frontend::bind_raw(b, "p", "s", b"rest")), b'B', b"p\0s\0rest"),
        (written(|b| frontend::describe(b, Target::Statement, "s")), b'D', b"Ss\0"),
        (written(|b| frontend::close(b, Target::Portal, "")), b'C', b"P\0"),
        (written(|b| frontend::execute(b, "p", 7)), b'E', b"p\0\0\0\0\x07"),
        (written(frontend::sync), b'S', b""),
        (written(frontend::flush), b'H', b""),
        (written(frontend::terminate), b'X', b""),
        (written(|b| frontend::copy_data(b, b"1\t2\n")), b'd', b"1\t2\n"),
        (written(frontend::copy_done), b'c', b""),
        (written(|b| frontend::copy_fail(b, "why")), b'f', b"why\0"),
        (written(|b| frontend::password(b, "pw")), b'p', b"pw\0"),
        (written(|b| frontend::sasl_initial_response(b, "M", Some(b"n,,"))), b'p', b"M\0\0\0\0\x03n,,"),
        (written(|b| frontend::sasl_initial_response(b, "M", None)), b'p', b"M\0\xff\xff\xff\xff"),
        (written(|b| frontend::sasl_response(b, b"c=x")), b'p', b"c=x"),
    ];
    for ((tag, body), expected_tag, expected) in cases {
        assert_eq!((tag as char, &body[..]), (expected_tag as char, expected));
    }
}

#[test]
fn untagged_messages_on_the_wire() {
    let bytes = |write: &dyn Fn(&mut BytesMut)| {
        let mut buf = BytesMut::new();
        write(&mut buf);
        buf.to_vec()
    };
    let key = CancelKey { process_id: 258, secret: vec![9, 8, 7, 6] };
    assert_eq!(bytes(&frontend::ssl_request), [0, 0, 0, 8, 4, 210, 22, 47]);
    assert_eq!(bytes(&|b| frontend::cancel_request(b, &key)), [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 1, 2, 9, 8, 7, 6]);
    let startup = bytes(&|b| frontend::startup(b, ProtocolVersion::V3_2, [("user", "u"), ("", "x"), ("a\0b", "c")]));
    assert_eq!(startup, b"\0\0\0\x14\0\x03\0\x02user\0u\0a\0c\0\0");
    assert_eq!(format!("{key:?}"), "CancelKey { process_id: 258, .. }", "no secret in logs");
}

#[test]
fn backend_messages_on_the_wire() {
    let key = CancelKey { process_id: 1, secret: vec![2; 4] };
    let negotiation = Negotiation { minor: 2, unrecognized: vec!["_pq_.x".to_owned()] };
    let error = ErrorFields::new(Severity::Fatal, "57P01", "gone").with_hint("come back");
    let shape = b"\0\x01id\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
    let row = b"\0\x03\0\0\0\x01x\xff\xff\xff\xff\0\0\0\0";
    let cases: [((u8, Vec<u8>), u8, &[u8]); 24] = [
        (written(backend::authentication_ok), b'R', b"\0\0\0\0"),
        (written(backend::authentication_cleartext), b'R', b"\0\0\0\x03"),
        (written(|b| backend::authentication_md5(b, *b"salt")), b'R', b"\0\0\0\x05salt"),
        (written(|b| backend::authentication_sasl(b, &["A", "", "B"])), b'R', b"\0\0\0\x0aA\0B\0\0"),
        (written(|b| backend::authentication_sasl_continue(b, b"r=1")), b'R', b"\0\0\0\x0br=1"),
        (written(|b| backend::authentication_sasl_final(b, b"v=1")), b'R', b"\0\0\0\x0cv=1"),
        (written(|b| backend::backend_key_data(b, &key)), b'K', b"\0\0\0\x01\x02\x02\x02\x02"),
        (written(|b| backend::parameter_status(b, "TimeZone", "UTC")), b'S', b"TimeZone\0UTC\0"),
        (written(|b| backend::ready_for_query(b, TxStatus::Failed)), b'Z', b"E"),
        (written(|b| backend::negotiate_protocol_version(b, &negotiation)), b'v', b"\0\x03\0\x02\0\0\0\x01_pq_.x\0"),
        (written(|b| backend::error_response(b, &error)), b'E', b"SFATAL\0VFATAL\0C57P01\0Mgone\0Hcome back\0\0"),
        (written(|b| backend::notice_response(b, &error)), b'N', b"SFATAL\0VFATAL\0C57P01\0Mgone\0Hcome back\0\0"),
        (written(|b| backend::command_complete(b, "ROLLBACK")), b'C', b"ROLLBACK\0"),
        (written(backend::empty_query_response), b'I', b""),
        (written(backend::parse_complete), b'1', b""),
        (written(backend::bind_complete), b'2', b""),
        (written(backend::close_complete), b'3', b""),
        (written(backend::no_data), b'n', b""),
        (written(backend::portal_suspended), b's', b""),
        (written(|b| backend::parameter_description(b, &[25])), b't', b"\0\x01\0\0\0\x19"),
        (written(|b| backend::row_description(b, &["id"])), b'T', shape),
        (written(|b| backend::data_row(b, &[Some(b"x"), None, Some(b"")])), b'D', row),
        (written(|b| backend::data_row(b, &[])), b'D', b"\0\0"),
        (written(|b| backend::notification_response(b, 5, "ch", "hi")), b'A', b"\0\0\0\x05ch\0hi\0"),
    ];
    for ((tag, body), expected_tag, expected) in cases {
        assert_eq!((tag as char, &body[..]), (expected_tag as char, expected));
    }
}

#[test]
fn views_say_what_was_written() {
    let parse = body(|b| frontend::parse(b, "s", "select $1", &[23, u32::MAX]));
    let parse = Parse::read(&parse).expect("Parse");
    assert_eq!((parse.name, parse.query), (&b"s"[..], &b"select $1"[..]));
    assert_eq!(parse.type_oids().collect::<Vec<_>>(), [23, u32::MAX]);

    let bind = body(|b| frontend::bind(b, "p", "s", &[None]));
    let bind = Bind::read(&bind).expect("Bind");
    assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
    assert_eq!(body(|b| frontend::bind_raw(b, "p", "t", bind.rest)), body(|b| frontend::bind(b, "p", "t", &[None])));

    assert_eq!(Query::read(b"select 1\0"), Ok(Query { text: b"select 1" }));
    assert_eq!(Describe::read(b"Ps\0"), Ok(Describe { target: Target::Portal, name: b"s" }));
    assert_eq!(Close::read(b"S\0"), Ok(Close { target: Target::Statement, name: b"" }));
    assert_eq!(Execute::read(b"p\0\0\0\0\x07"), Ok(Execute { portal: b"p", max_rows: 7 }));
    assert_eq!(PasswordMessage::read(b"pw\0").map(|p| p.password), Ok(&b"pw"[..]));
    assert_eq!(format!("{:?}", PasswordMessage { password: b"pw" }), "PasswordMessage { .. }");
    let initial = SaslInitialResponse::read(b"M\0\0\0\0\x03n,,");
    assert_eq!(initial, Ok(SaslInitialResponse { mechanism: b"M", data: Some(b"n,,") }));
    let initial = SaslInitialResponse::read(b"M\0\xff\xff\xff\xff");
    assert_eq!(initial, Ok(SaslInitialResponse { mechanism: b"M", data: None }));
    assert_eq!(SaslResponse::read(b"any\0thing").data, b"any\0thing");

    assert_eq!(ParameterStatus::read(b"a\0b\0"), Ok(ParameterStatus { name: b"a", value: b"b" }));
    assert_eq!(ReadyForQuery::read(b"T"), Ok(ReadyForQuery { status: TxStatus::InTransaction }));
    let notification = NotificationResponse { process_id: 5, channel: b"ch", payload: b"" };
    assert_eq!(NotificationResponse::read(b"\0\0\0\x05ch\0\0"), Ok(notification));
    let key = CancelKey { process_id: -2, secret: (0..=255).collect() };
    let key_data = body(|b| backend::backend_key_data(b, &key));
    assert_eq!(BackendKeyData::read(&key_data).map(|k| k.to_key()), Ok(key));

    let shape = body(|b| backend::row_description(b, &["id", "", "naïve"]));
    let shape = RowDescription::read(&shape).expect("RowDescription");
    assert_eq!(shape.names().collect::<Vec<_>>(), [&b"id"[..], b"", "naïve".as_bytes()]);
    let row = body(|b| backend::data_row(b, &[Some(b"x"), None, Some(b"")]));
    let row = DataRow::read(&row).expect("DataRow");
    assert_eq!(row.columns().collect::<Vec<_>>(), [Ok(Some(&b"x"[..])), Ok(None), Ok(Some(&b""[..]))]);
    assert_eq!((row.len(), row.text(0), row.text(1), row.text(2), row.text(3)), (3, Some("x"), None, Some(""), None));
}

#[test]
fn authentication_is_told_by_its_code() {
    let sasl = body(|b| backend::authentication_sasl(b, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]));
    let Ok(Authentication::Sasl(mechanisms)) = Authentication::read(&sasl) else {
        panic!("not SASL");
    };
    assert_eq!(mechanisms.iter().collect::<Vec<_>>(), [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
    assert!(mechanisms.has("SCRAM-SHA-256") && !mechanisms.has("SCRAM-SHA") && !mechanisms.has(""));
    let cases: [(&[u8], _); 11] = [
        (b"\0\0\0\0", Ok(Authentication::Ok)),
        (b"\0\0\0\0x", Err(ReadError::Trailing)),
        (b"\0\0\0", Err(ReadError::Truncated)),
        (b"\0\0\0\x03", Ok(Authentication::Cleartext)),
        (b"\0\0\0\x05salt", Ok(Authentication::Md5 { salt: *b"salt" })),
        (b"\0\0\0\x05sal", Err(ReadError::Truncated)),
        (b"\0\0\0\x0aA\0", Err(ReadError::Unterminated)),
        (b"\0\0\0\x0a\0x", Err(ReadError::Trailing)),
        (b"\0\0\0\x0b", Ok(Authentication::SaslContinue(b""))),
        (b"\0\0\0\x0cv=1", Ok(Authentication::SaslFinal(b"v=1"))),
        (b"\0\0\0\x07anything", Ok(Authentication::Unsupported { code: 7 })),
    ];
    for (body, expected) in cases {
        assert_eq!(Authentication::read(body), expected, "{body:?}");
    }
}

#[test]
fn error_fields_prefer_the_untranslated_severity_and_skip_what_is_unknown() {
    let read = |body: &'static [u8]| ErrorFields::read(body);
    let german = read(b"SFEHLER\0VERROR\0C23505\0Mdoppelt\0Dmehr\0Hhilfe\0ssch\0ttab\0\xfffuture\0\0").expect("fields");
    let expected = ErrorFields::new(Severity::Error, "23505", "doppelt").with_detail("mehr").with_hint("hilfe");
    assert_eq!(german, expected);
    assert_eq!(read(b"SFATAL\0VPANIC\0\0").map(|f| f.severity), Ok(Severity::Panic));
    assert_eq!(read(b"SFATAL\0\0").map(|f| f.severity), Ok(Severity::Fatal), "servers before 9.6");
    assert_eq!(read(b"SFEHLER\0\0").map(|f| f.severity), Ok(Severity::Error));
    assert_eq!(read(b"Mcaf\xe9\0\0").map(|f| f.message.into_owned()), Ok("caf\u{fffd}".to_owned()));
    assert_eq!(read(b"\0").map(|f| f.code.into_owned()), Ok(String::new()));
    assert_eq!(read(b""), Err(ReadError::Unterminated));
    assert_eq!(read(b"Mx\0"), Err(ReadError::Unterminated));
    assert_eq!(read(b"Mx\0\0y"), Err(ReadError::Trailing));
    let ends: Vec<_> = Severity::ALL.into_iter().filter(|s| s.ends_session()).collect();
    assert_eq!(ends, [Severity::Fatal, Severity::Panic]);
    for severity in Severity::ALL {
        let written = body(|b| backend::notice_response(b, &ErrorFields::new(severity, "00000", "")));
        assert_eq!(ErrorFields::read(&written).map(|f| f.severity), Ok(severity));
    }
}

#[test]
fn command_tags_have_a_name_and_maybe_a_count() {
    let cases: [(&[u8], &str, Option<u64>); 7] = [
        (b"INSERT 0 3\0", "INSERT", Some(3)),
        (b"SELECT 18446744073709551615\0", "SELECT", Some(u64::MAX)),
        (b"SELECT 18446744073709551616\0", "SELECT", None),
        (b"CREATE TABLE\0", "CREATE TABLE", None),
        (b"ROLLBACK\0", "ROLLBACK", None),
        (b"UPDATE 0\0", "UPDATE", Some(0)),
        (b"\0", "", None),
    ];
    for (body, command, rows) in cases {
        let complete = CommandComplete::read(body).expect("a text");
        assert_eq!((complete.command(), complete.rows()), (command.as_bytes(), rows));
    }
}

#[test]
fn versions_are_negotiated_in_either_spelling() {
    let read = |body: &'static [u8]| NegotiateProtocolVersion::read(body).map(|n| (n.minor, n.unrecognized().count()));
    assert_eq!(read(b"\0\x03\0\x02\0\0\0\x02a\0b\0"), Ok((2, 2)), "as PostgreSQL writes it");
    assert_eq!(read(b"\0\0\0\x02\0\0\0\0"), Ok((2, 0)), "as the manual says");
    assert_eq!(read(b"\0\x04\0\0\0\0\0\0"), Err(ReadError::Value("protocol version")));
    assert_eq!(read(b"\0\x03\0\0\xff\xff\xff\xff"), Err(ReadError::Value("option count")));
    assert_eq!(read(b"\0\x03\0\0\x7f\xff\xff\xffa\0"), Err(ReadError::Unterminated));
    assert_eq!(read(b"\0\x03\0\0\0\0\0\0a\0"), Err(ReadError::Trailing));
}

#[test]
fn bodies_that_are_too_long_or_wrong_are_errors() {
    assert_eq!(Query::read(b"a\0b\0"), Err(ReadError::Trailing));
    assert_eq!(Parse::read(b"s\0q\0\0\0x"), Err(ReadError::Trailing));
    assert_eq!(Parse::read(b"s\0q\0\xff\xff\0\0\0\0"), Err(ReadError::Truncated));
    assert_eq!(Describe::read(b"Xs\0"), Err(ReadError::Value("kind")));
    assert_eq!(Close::read(b"Ss\0x"), Err(ReadError::Trailing));
    assert_eq!(Execute::read(b"p\0\0\0\0\0\0"), Err(ReadError::Trailing));
    assert_eq!(ReadyForQuery::read(b"X"), Err(ReadError::Value("transaction status")));
    assert_eq!(ReadyForQuery::read(b"II"), Err(ReadError::Trailing));
    assert_eq!(SaslInitialResponse::read(b"M\0\xff\xff\xff\xfe"), Err(ReadError::Value("value length")));
    assert_eq!(SaslInitialResponse::read(b"M\0\x7f\xff\xff\xffx"), Err(ReadError::Truncated));
    for (length, error) in [(7, ReadError::Truncated), (4 + 257, ReadError::Trailing)] {
        assert_eq!(BackendKeyData::read(&vec![1; length]), Err(error));
    }
    let columns = |body: &'static [u8]| DataRow::read(body).map(|row| row.columns().collect::<Vec<_>>());
    assert_eq!(columns(b"\0"), Err(ReadError::Truncated));
    assert_eq!(columns(b"\0\x02\0\0\0\x09x"), Ok(vec![Err(ReadError::Truncated)]), "the first error ends it");
    assert_eq!(columns(b"\0\x01\xff\xff\xff\xff!"), Ok(vec![Ok(None), Err(ReadError::Trailing)]));
}

/// Reads `body` as every kind of message; says which kinds accepted it.
fn read_all(body: &[u8]) -> Vec<&'static str> {
    let count = |bytes: &[u8]| bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b));
    let row = DataRow::read(body).is_ok_and(|row| row.columns().all(|column| column.is_ok()));
    let results = [
        ("Query", Query::read(body).is_ok()),
        ("Parse", Parse::read(body).is_ok_and(|p| p.type_oids().count() < usize::from(u16::MAX))),
        ("Bind", Bind::read(body).is_ok()),
        ("Describe", Describe::read(body).is_ok()),
        ("Close", Close::read(body).is_ok()),
        ("Execute", Execute::read(body).is_ok()),
        ("PasswordMessage", PasswordMessage::read(body).is_ok()),
        ("SaslInitialResponse", SaslInitialResponse::read(body).is_ok()),
        ("Authentication", Authentication::read(body).is_ok()),
        ("BackendKeyData", BackendKeyData::read(body).is_ok()),
        ("ParameterStatus", ParameterStatus::read(body).is_ok()),
        ("ReadyForQuery", ReadyForQuery::read(body).is_ok()),
        ("CommandComplete", CommandComplete::read(body).is_ok_and(|c| c.rows() != Some(0) || !c.command().is_empty())),
        ("Errors", ErrorFields::read(body).is_ok()),
        ("NotificationResponse", NotificationResponse::read(body).is_ok()),
        ("DataRow", row),
        ("RowDescription", RowDescription::read(body).is_ok_and(|r| r.names().count() == count(&body[..2]))),
        (
            "Negotiate",
            NegotiateProtocolVersion::read(body).is_ok_and(|n| n.unrecognized().count() == count(&body[4..8])),
        ),
    ];
    results.into_iter().filter_map(|(kind, read)| read.then_some(kind)).collect()
}

#[test]
fn no_message_is_read_from_a_part_of_itself() {
    let error = ErrorFields::new(Severity::Error, "42601", "no").with_detail("d");
    let negotiation = Negotiation { minor: 0, unrecognized: vec!["_pq_.x".to_owned()] };
    let cases = [
        ("Query", body(|b| frontend::query(b, "select 1"))),
        ("Parse", body(|b| frontend::parse(b, "s", "q", &[1, 2]))),
        ("Describe", body(|b| frontend::describe(b, Target::Portal, "p"))),
        ("Close", body(|b| frontend::close(b, Target::Statement, "s"))),
        ("Execute", body(|b| frontend::execute(b, "p", 1))),
        ("PasswordMessage", body(|b| frontend::password(b, "pw"))),
        ("SaslInitialResponse", body(|b| frontend::sasl_initial_response(b, "M", Some(b"abc")))),
        ("Authentication", body(|b| backend::authentication_sasl(b, &["A", "B"]))),
        ("ParameterStatus", body(|b| backend::parameter_status(b, "n", "v"))),
        ("ReadyForQuery", body(|b| backend::ready_for_query(b, TxStatus::Idle))),
        ("CommandComplete", body(|b| backend::command_complete(b, "INSERT 0 1"))),
        ("Errors", body(|b| backend::error_response(b, &error))),
        ("NotificationResponse", body(|b| backend::notification_response(b, 1, "c", "p"))),
        ("DataRow", body(|b| backend::data_row(b, &[Some(b"abc"), None]))),
        ("RowDescription", body(|b| backend::row_description(b, &["a", "b"]))),
        ("Negotiate", body(|b| backend::negotiate_protocol_version(b, &negotiation))),
    ];
    for (kind, body) in cases {
        assert!(read_all(&body).contains(&kind), "{kind} is read whole");
        for cut in 0..body.len() {
            assert!(!read_all(&body[..cut]).contains(&kind), "{kind} cut at {cut}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_view_panic(body in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..80)) {
        read_all(&body);
    }

    #[test]
    fn texts_come_back_up_to_their_first_nul(name in any::<Vec<u8>>(), query in any::<Vec<u8>>(), types in any::<Vec<u32>>()) {
        let upto = |text: &[u8]| text.split(|&b| b == 0).next().unwrap_or_default().to_vec();
        let body = body(|b| frontend::parse(b, &name, &query, &types));
        let parse = Parse::read(&body).expect("Parse");
        prop_assert_eq!((parse.name.to_vec(), parse.query.to_vec()), (upto(&name), upto(&query)));
        prop_assert_eq!(parse.type_oids().collect::<Vec<_>>(), types);
    }

    #[test]
    fn rows_come_back(values in prop::collection::vec(any::<Option<Vec<u8>>>(), 0..20)) {
        let borrowed: Vec<_> = values.iter().map(Option::as_deref).collect();
        let body = body(|b| backend::data_row(b, &borrowed));
        let row = DataRow::read(&body).expect("DataRow");
        prop_assert_eq!(row.columns().collect::<Result<Vec<_>, _>>().expect("columns"), borrowed);
    }

    #[test]
    fn errors_come_back(code in "[0-9A-Z]{5}", message in "[^\\x00]*", detail in prop::option::of("[^\\x00]*")) {
        let mut fields = ErrorFields::new(Severity::Fatal, code, message);
        fields.detail = detail.map(Into::into);
        let body = body(|b| backend::error_response(b, &fields));
        prop_assert_eq!(ErrorFields::read(&body), Ok(fields));
    }
}
