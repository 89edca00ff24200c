//! Packets that open a connection, good and bad, whole and in pieces.

#![allow(clippy::type_complexity, reason = "tables")]

use super::*;
use crate::wire::ProtocolVersion;
use crate::wire::message::write::frontend;
use bytes::BytesMut;
use proptest::prelude::*;

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn asked(body: &[u8]) -> Result<Startup, StartupError> {
    match parse(&packet(3 << 16, body))? {
        Some((Packet::Startup(startup), used)) if used == body.len() + 8 => Ok(startup),
        other => panic!("not a startup packet: {other:?}"),
    }
}

fn asked_options(options: &str) -> Startup {
    asked(format!("user\0u\0options\0{options}\0\0").as_bytes()).expect("a good packet")
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn each_kind_is_read_from_exactly_its_bytes() {
    let mut startup = BytesMut::new();
    frontend::startup(&mut startup, ProtocolVersion::V3_2, [("user", "ann"), ("TimeZone", "UTC")]);
    let key = |secret: &[u8]| CancelKey { process_id: -7, secret: secret.to_vec() };
    let cancel = |secret: &[u8]| {
        let mut buf = BytesMut::new();
        frontend::cancel_request(&mut buf, &key(secret));
        buf.to_vec()
    };
    let mut ssl = BytesMut::new();
    frontend::ssl_request(&mut ssl);
    assert_eq!(&ssl[..], [0, 0, 0, 8, 4, 210, 22, 47]);
    let ann = Startup {
        minor: 2,
        user: "ann".to_owned(),
        database: "ann".to_owned(),
        parameters: map(&[("timezone", "UTC")]),
        ..Startup::default()
    };
    let cases = [
        (ssl.to_vec(), Packet::Ssl),
        (vec![0, 0, 0, 8, 4, 210, 22, 48], Packet::GssEnc),
        (cancel(&[1; 4]), Packet::Cancel(key(&[1; 4]))),
        (cancel(&[1; 256]), Packet::Cancel(key(&[1; 256]))),
        (startup.to_vec(), Packet::Startup(ann)),
    ];
    for (bytes, expected) in cases {
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{expected:?} cut at {cut}");
        }
        let more = [&bytes[..], b"more"].concat();
        assert_eq!(parse(&more), Ok(Some((expected, bytes.len()))));
    }
}

#[test]
fn what_cannot_become_a_packet_is_refused_at_the_first_byte_that_proves_it() {
    let max = MAX_STARTUP_PACKET as u32;
    let with_length = |length: u32| length.to_be_bytes().to_vec();
    let cases = [
        (b"GET / HTTP/1.1\r\n".to_vec(), 1, StartupError::PlainText),
        (b"quit\r\n".to_vec(), 1, StartupError::PlainText),
        (vec![0x16, 3, 1, 0, 200], 1, StartupError::DirectTls),
        (vec![0x80, 0x2e, 1, 0], 1, StartupError::Length(0x8000_0000)),
        (with_length(0), 4, StartupError::Length(0)),
        (with_length(7), 4, StartupError::Length(7)),
        (with_length(max + 1), 4, StartupError::Length(max + 1)),
        (with_length(u32::MAX), 1, StartupError::Length(0xff00_0000)),
        (with_length(i32::MAX as u32), 1, StartupError::Length(0x7f00_0000)),
        (packet(2 << 16, b"u"), 6, StartupError::Version { major: 2, minor: 0 }),
        (packet(4 << 16, b"u"), 6, StartupError::Version { major: 4, minor: 0 }),
        (packet(80_877_105, b""), 8, StartupError::Request(80_877_105)),
        (packet(SSL_REQUEST, b"x"), 8, StartupError::Layout("an encryption request has a body")),
    ];
    for (bytes, proof, error) in cases {
        for cut in 0..proof {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
        }
        assert_eq!(parse(&bytes[..proof]), Err(error), "{bytes:?}");
        assert!(parse(&bytes).is_err());
    }
    for secret in [0, 3, 257] {
        let error = StartupError::Layout("a cancel request has a secret of 4 to 256 bytes");
        assert_eq!(parse(&packet(CANCEL_REQUEST, &vec![1; 4 + secret])), Err(error));
    }
    let longest = [b"user\0".to_vec(), vec![b'u'; MAX_STARTUP_PACKET - 8 - 7], vec![0, 0]].concat();
    assert_eq!(asked(&longest).map(|s| s.user.len()), Ok(MAX_STARTUP_PACKET - 15), "the limit itself is allowed");
}

#[test]
fn layouts_postgresql_refuses_are_refused() {
    let layout = |text| Err(StartupError::Layout(text));
    assert_eq!(asked(b""), layout("a text is not terminated"));
    assert_eq!(asked(b"\0"), Err(StartupError::NoUser));
    assert_eq!(asked(b"database\0d\0\0"), Err(StartupError::NoUser));
    assert_eq!(asked(b"user\0\0\0"), Err(StartupError::NoUser));
    assert_eq!(asked(b"user\0u\0"), layout("a text is not terminated"));
    assert_eq!(asked(b"user\0u"), layout("a text is not terminated"));
    assert_eq!(asked(b"user\0u\0database\0\0"), layout("a text is not terminated"), "an empty value, no terminator");
    assert_eq!(asked(b"user\0u\0\0\0"), layout("expected terminator as last byte"));
    assert_eq!(asked(b"user\0u\0\0x\0y\0\0"), layout("expected terminator as last byte"));
}

#[test]
fn names_decide_exactly_and_settings_without_case() {
    let startup = asked(b"user\0u\0database\0d\0DateStyle\0ISO\0datestyle\0German\0\0").expect("good");
    assert_eq!((&*startup.user, &*startup.database), ("u", "d"));
    assert_eq!(startup.parameters, map(&[("datestyle", "German")]), "the later one wins");
    for name in ["USER", "Database", "OPTIONS", "Replication", "_PQ_.x"] {
        let body = format!("user\0u\0{name}\0postgres\0\0");
        assert_eq!(asked(body.as_bytes()), Err(StartupError::Parameter(name.to_owned())));
    }
    assert_eq!(asked(b"user\0\xff\0\0"), Err(StartupError::Parameter("user".to_owned())), "not UTF-8: no guess");
    let startup = asked(b"user\0u\0application_name\0caf\xe9\0\0").expect("good");
    assert_eq!(startup.parameters, map(&[("application_name", "caf\u{fffd}")]));
}

#[test]
fn replication_is_a_mode() {
    use Replication::{Logical, Off, Physical};
    let modes = [("database", Logical), ("true", Physical), ("on", Physical), ("YES", Physical), ("1", Physical)];
    for (value, mode) in modes.into_iter().chain([("false", Off), ("of", Off), ("no", Off), ("0", Off)]) {
        let body = format!("user\0u\0replication\0{value}\0\0");
        assert_eq!(asked(body.as_bytes()).map(|s| s.replication), Ok(mode), "{value}");
    }
    for value in ["o", "maybe", "Database", "truex"] {
        let body = format!("user\0u\0replication\0{value}\0\0");
        assert_eq!(asked(body.as_bytes()), Err(StartupError::Parameter("replication".to_owned())), "{value}");
    }
}

#[test]
fn our_settings_are_taken_out_of_the_options() {
    let cases: [(&str, &[(&str, &str)], &str); 9] = [
        ("-c pgmoor.pod=pg-1", &[("pod", "pg-1")], ""),
        ("-cpgmoor.pod=pg-1", &[("pod", "pg-1")], ""),
        ("--pgmoor.pod=pg-1", &[("pod", "pg-1")], ""),
        ("--PGMOOR.Max-Lag=a=b", &[("max_lag", "a=b")], ""),
        ("-c geqo=off -c pgmoor.pod=pg-1 -S 5", &[("pod", "pg-1")], "-c geqo=off -S 5"),
        (r"-c search_path=a,\ b -c pgmoor.pod=x\ y", &[("pod", "x y")], r"-c search_path=a,\ b"),
        (r"-c x.y=\\", &[], r"-c x.y=\\"),
        ("-c", &[], "-c"),
        ("  -c\tpgmoorx.pod=a ", &[], "-c pgmoorx.pod=a"),
    ];
    for (options, ours, rest) in cases {
        let startup = asked_options(options);
        assert_eq!(startup.moor, map(ours), "{options:?}");
        let left = startup.parameters.get("options").map_or("", |left| left);
        assert_eq!(left, rest, "{options:?}");
    }
    let startup = asked(b"user\0u\0pgmoor.pod\0plain\0options\0-c pgmoor.pod=option -c pgmoor.a=1\0\0").expect("good");
    assert_eq!(startup.moor, map(&[("a", "1"), ("pod", "plain")]), "a plain parameter wins");
    assert_eq!(startup.parameters, map(&[]));
}

#[test]
fn settings_are_those_of_the_options_and_the_parameters() {
    let body = b"user\0u\0options\0-c geqo=off --work-mem=1MB -c TimeZone=UTC -e\0TimeZone\0CET\0\0";
    let settings = asked(body).expect("good").settings();
    assert_eq!(settings, map(&[("geqo", "off"), ("timezone", "CET"), ("work_mem", "1MB")]));
}

#[test]
fn negotiation_never_offers_more_than_asked_for() {
    let grease = vec!["_pq_.test_protocol_negotiation".to_owned()];
    let told = |minor: u16, options: &[String]| Some(Negotiation { minor, unrecognized: options.to_vec() });
    assert_eq!(negotiate(0, &[]), (0, None));
    assert_eq!(negotiate(1, &[]), (0, told(0, &[])));
    assert_eq!(negotiate(2, &[]), (2, None));
    assert_eq!(negotiate(3, &[]), (2, told(2, &[])));
    assert_eq!(negotiate(9999, &grease), (2, told(2, &grease)));
    assert_eq!(negotiate(2, &grease), (2, told(2, &grease)));
    let startup = asked(b"user\0u\0_pq_.test_protocol_negotiation\0\0\0").expect("good");
    assert_eq!(startup.extensions, grease);
    assert_eq!(startup.parameters, map(&[]), "a protocol option is no setting");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), body in ".{0,64}") {
        let _ = parse(&bytes);
        let _ = parse(&packet(3 << 16, &bytes));
        let _ = parse(&packet(3 << 16, format!("user\0u\0options\0{body}\0\0").as_bytes()));
        let _ = parse(&packet(CANCEL_REQUEST, &bytes));
    }

    #[test]
    fn once_refused_always_refused(bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(3), any::<u8>()], 0..40)) {
        let mut before = Ok(None);
        for cut in 0..=bytes.len() {
            let now = parse(&bytes[..cut]);
            match &before {
                Ok(None) => {}
                Ok(Some(_)) => prop_assert_eq!(&now, &before, "more bytes change nothing"),
                Err(_) => prop_assert!(now.is_err()),
            }
            before = now;
        }
    }

    #[test]
    fn options_that_are_not_ours_come_out_as_they_went_in(words in prop::collection::vec("[-a-c \\\\=.]{1,8}", 0..6)) {
        let escaped: Vec<String> = words.iter().map(|w| w.replace('\\', r"\\").replace(' ', r"\ ")).collect();
        let rest = options::take_ours(&escaped.join("  "), &mut BTreeMap::new());
        prop_assert_eq!(options::split(&rest), words);
    }
}
