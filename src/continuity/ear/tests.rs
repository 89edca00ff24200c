//! Each rule by itself; `tests/ear/properties.rs` has what holds whatever happens.

use bytes::Bytes;

use super::*;
use crate::wire::message::Severity;
use crate::wire::message::write::backend as say;

fn after(now: Instant, wait: Duration) -> Instant {
    now + wait
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn pod(name: &str) -> PodId {
    PodId::new(name, "uid")
}

fn body(write: impl FnOnce(&mut BytesMut)) -> (u8, Vec<u8>) {
    let mut out = BytesMut::new();
    write(&mut out);
    (out[0], out[5..].to_vec())
}

fn ready() -> (u8, Vec<u8>) {
    body(|out| say::ready_for_query(out, TxStatus::Idle))
}

fn error(severity: Severity, code: &'static str) -> (u8, Vec<u8>) {
    body(|out| say::error_response(out, &ErrorFields::new(severity, code, "no")))
}

fn notification(channel: &str) -> (u8, Vec<u8>) {
    body(|out| say::notification_response(out, 7, channel, "p"))
}

/// An ear on a pod, with one listener that wants these.
fn on(name: &str, channels: &[&str]) -> (Ear, ListenerId) {
    let mut ear = Ear::default();
    let id = ear.enter("app");
    channels.iter().for_each(|channel| assert!(ear.want(id, &(*channel).into())));
    ear.aim(now(), Some(pod(name)));
    ear.seated(pod(name), "app");
    (ear, id)
}

/// The SQL of the next question.
fn question(ear: &mut Ear) -> Option<String> {
    let packet = ear.packet(now())?;
    Some(String::from_utf8(packet[5..packet.len() - 1].to_vec()).unwrap())
}

fn answer(ear: &mut Ear, frames: &[(u8, Vec<u8>)]) {
    for (tag, body) in frames {
        ear.reply(*tag, body).unwrap();
    }
}

/// Asks and answers until there is nothing to ask; gives the questions.
fn settle(ear: &mut Ear) -> Vec<String> {
    let mut asked = Vec::new();
    while let Some(sql) = question(ear) {
        answer(ear, &[ready()]);
        asked.push(sql);
    }
    asked
}

#[test]
fn names_are_cut_and_quoted_as_postgresql_has_them() {
    let (long, wide, cut) = ("x".repeat(63), "\u{e9}".repeat(40), "\u{e9}".repeat(31));
    let tail = format!("{long}tail");
    let cases: [(&[u8], &[u8]); 6] = [
        (b"plain", b"plain"),
        (b"a\"b\"", b"a\"\"b\"\""),
        (b"", b""),
        (b"\xe9\xff", b"\xe9\xff"),
        (tail.as_bytes(), long.as_bytes()),
        (wide.as_bytes(), cut.as_bytes()),
    ];
    for (name, expected) in cases {
        let mut sql = Vec::new();
        Channel::new(name).say(&mut sql, "LISTEN");
        assert_eq!(sql, [b"LISTEN \"", expected, b"\";"].concat(), "{name:?}");
    }
    assert_eq!(Channel::from("x").as_bytes(), b"x");
}

#[test]
fn an_inbox_keeps_order_and_its_limit() {
    let of = |channel: &str, payload: &str| {
        let (_, body) = body(|out| say::notification_response(out, 7, channel, payload));
        Notification::read(&body, Moment::default()).unwrap()
    };
    let mut inbox = Inbox::default();
    assert!(inbox.is_empty() && inbox.take().is_none());
    for n in 0..100 {
        inbox.push(of(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string())).unwrap();
    }
    inbox.forget(&"odd".into());
    for n in (0..100).step_by(2) {
        assert_eq!(inbox.take(), Some(Heard::Notification(of("even", &n.to_string()))));
    }
    assert!(inbox.is_empty());

    let big = of("big", &"x".repeat(8000));
    let mut count = 0;
    while inbox.push(big.clone()).is_ok() {
        count += 1;
    }
    assert!((MOST / 8200..=MOST / 8000).contains(&count), "{count}");
    assert!(!inbox.is_empty());
    for _ in 0..3 {
        assert_eq!(inbox.take(), Some(Heard::Overrun), "nothing follows a hole");
        assert_eq!(inbox.push(of("small", "")), Err(Overrun));
    }
    inbox.forget(&"big".into());
    assert_eq!(inbox.take(), Some(Heard::Overrun));
    // What is taken makes room.
    let mut inbox = Inbox::default();
    for _ in 0..count * 3 {
        inbox.push(big.clone()).unwrap();
        inbox.push(big.clone()).unwrap();
        inbox.take();
        inbox.take();
    }
}

#[test]
fn a_notification_is_its_frame() {
    let (_, raw) = body(|out| say::notification_response(out, 258, "chan", "pay"));
    let notification = Notification::read(&raw, Moment(5)).unwrap();
    assert_eq!(notification.frame()[..], *b"A\0\0\0\x11\0\0\x01\x02chan\0pay\0");
    assert_eq!(
        (notification.sender(), notification.channel(), notification.payload()),
        (258, &b"chan"[..], &b"pay"[..])
    );
    let sender = |own, turn: &[Turn]| {
        let held = turn.first().and_then(|turn| turn.process(&notification));
        i32::from_be_bytes(notification.told_to(own, held)[5..9].try_into().unwrap())
    };
    // It came after the fifth moment.
    let turn = |process_id, from, until: Option<u64>| {
        let mut turn = Turn::new(process_id, Moment(from));
        until.into_iter().for_each(|until| turn.end(Moment(until)));
        turn
    };
    assert_eq!(sender(77, &[turn(258, 5, None)]), 77);
    assert_eq!(sender(77, &[turn(258, 3, Some(6))]), 77);
    assert_eq!(sender(77, &[turn(258, 0, Some(9))]), 77);
    assert_eq!(sender(77, &[turn(258, 6, None)]), 258, "from before the turn");
    assert_eq!(sender(77, &[turn(258, 3, Some(5))]), 258, "from after it");
    assert_eq!(sender(77, &[turn(259, 5, None)]), 258, "another server process");
    assert_eq!(sender(258, &[]), 0, "a stranger with the session's own number");
    assert_eq!(sender(258, &[turn(258, 5, None)]), 258);
    assert_eq!(notification.told_to(77, None), *notification.frame());
    for bad in [&b""[..], b"\0\0\0\x01", b"\0\0\0\x01c\0", b"\0\0\0\x01c\0p", b"\0\0\0\x01c\0p\0x"] {
        assert!(Notification::read(bad, Moment(5)).is_err(), "{bad:?}");
    }
    assert_eq!(with_sender(&Bytes::from_static(b"A\0\0"), 1)[..], *b"A\0\0");
}

#[test]
fn what_is_wanted_meanwhile_goes_into_the_next_question() {
    let (mut ear, id) = on("a", &["x", "y"]);
    assert_eq!(question(&mut ear).unwrap(), "LISTEN \"x\";LISTEN \"y\";");
    ear.want(id, &"z".into());
    ear.unwant(id, &"x".into());
    assert_eq!(question(&mut ear), None, "one at a time");
    assert_eq!(ear.standing(id, &"y".into()), Some(&Standing::Asked));
    answer(&mut ear, &[ready()]);
    assert_eq!(ear.standing(id, &"y".into()), Some(&Standing::Heard));
    assert_eq!(ear.standing(id, &"x".into()), None);
    assert_eq!(settle(&mut ear), ["LISTEN \"z\";", "UNLISTEN \"x\";"]);
    ear.leave(id);
    assert!(!ear.is_wanted());
    assert_eq!(settle(&mut ear), ["UNLISTEN \"y\";UNLISTEN \"z\";"]);
}

#[test]
fn a_channel_wanted_again_is_asked_for_again() {
    let (mut ear, id) = on("a", &["x"]);
    question(&mut ear);
    // Its LISTEN is out; it is dropped, wanted again and dropped before the answer.
    for _ in 0..2 {
        ear.unwant(id, &"x".into());
        ear.want(id, &"x".into());
    }
    answer(&mut ear, &[ready()]);
    assert_eq!(ear.standing(id, &"x".into()), Some(&Standing::Unheard), "the answer is not to the last wish");
    assert_eq!(settle(&mut ear), ["LISTEN \"x\";"]);
    ear.unwant(id, &"x".into());
    ear.want(id, &"x".into());
    ear.unwant(id, &"x".into());
    assert_eq!(settle(&mut ear), ["UNLISTEN \"x\";"], "it is not left listened to");
}

#[test]
fn many_channels_go_in_batches_those_promised_first() {
    let names: Vec<String> = (0..600).map(|n| format!("{n:03}")).collect();
    let (mut ear, id) = on("a", &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(settle(&mut ear).len(), 3);
    ear.unseated(now());
    ear.want(id, &"!".into()); // sorts before all others
    assert_eq!(ear.standing(id, &"000".into()), Some(&Standing::Unheard));
    ear.seated(pod("b"), "app");
    let asked = settle(&mut ear);
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[3], "LISTEN \"!\";");
}

#[test]
fn one_refused_name_is_found_among_many() {
    let (mut ear, id) = on("a", &["x", "", "y"]);
    assert_eq!(question(&mut ear).unwrap(), "LISTEN \"\";LISTEN \"x\";LISTEN \"y\";");
    answer(&mut ear, &[error(Severity::Error, "42601"), ready()]);
    assert_eq!(question(&mut ear).unwrap(), "LISTEN \"\";");
    answer(&mut ear, &[error(Severity::Error, "42601"), ready()]);
    assert_eq!(ear.standing(id, &"".into()), Some(&Standing::Refused("no (42601)".to_owned())));
    assert_eq!(settle(&mut ear), ["LISTEN \"x\";", "LISTEN \"y\";"]);
    // On the next backend it does not disturb the others.
    ear.unseated(now());
    ear.seated(pod("b"), "app");
    assert_eq!(question(&mut ear).unwrap(), "LISTEN \"x\";LISTEN \"y\";");
    answer(&mut ear, &[ready()]);
    assert!(ear.is_ready(&pod("b"), now()));
    assert_eq!(question(&mut ear).unwrap(), "LISTEN \"\";");
    answer(&mut ear, &[error(Severity::Error, "42601"), ready()]);
    // Somebody else wants it: it is tried for him.
    let other = ear.enter("other");
    ear.want(other, &"".into());
    assert_eq!(question(&mut ear).unwrap(), "LISTEN \"\";");
}

#[test]
fn names_that_cannot_be_unlistened_do_not_keep_the_others() {
    let (mut ear, id) = on("a", &["", "x"]);
    question(&mut ear);
    ear.unwant(id, &"".into());
    ear.unwant(id, &"x".into());
    answer(&mut ear, &[ready()]);
    assert_eq!(question(&mut ear).unwrap(), "UNLISTEN \"\";UNLISTEN \"x\";");
    answer(&mut ear, &[error(Severity::Error, "42601"), ready()]);
    assert_eq!(question(&mut ear).unwrap(), "UNLISTEN \"\";");
    answer(&mut ear, &[error(Severity::Error, "42601"), ready()]);
    assert_eq!(settle(&mut ear), ["UNLISTEN \"x\";"]);
}

/// What a frame means while nothing is asked, and while something is.
#[test]
fn every_frame_has_its_place() {
    use Suspicion::{ReadOnly, ShuttingDown, Vanished};
    let tag = |tag: u8| (tag, Vec::new());
    let cases = [
        (notification("nobody's"), Ok(Said::Nothing), Ok(Said::Nothing)),
        (body(|out| say::parameter_status(out, "a", "b")), Ok(Said::Nothing), Ok(Said::Nothing)),
        ((b'N', b"SNOTICE\0\0".to_vec()), Ok(Said::Nothing), Ok(Said::Nothing)),
        (ready(), Err(Garbage), Ok(Said::Answered)),
        (body(|out| say::command_complete(out, "LISTEN")), Err(Garbage), Ok(Said::Nothing)),
        (tag(b'I'), Err(Garbage), Ok(Said::Nothing)),
        (error(Severity::Error, "42601"), Err(Garbage), Ok(Said::Nothing)),
        (error(Severity::Error, "25006"), Err(Garbage), Ok(Said::Over(ReadOnly))),
        (error(Severity::Fatal, "57P01"), Ok(Said::Over(ShuttingDown)), Ok(Said::Over(ShuttingDown))),
        (error(Severity::Panic, "57P02"), Ok(Said::Over(ShuttingDown)), Ok(Said::Over(ShuttingDown))),
        (error(Severity::Fatal, "XX000"), Ok(Said::Over(Vanished)), Ok(Said::Over(Vanished))),
        (body(|out| say::ready_for_query(out, TxStatus::InTransaction)), Err(Garbage), Err(Garbage)),
        (tag(b'Z'), Err(Garbage), Err(Garbage)),
        (tag(b'A'), Err(Garbage), Err(Garbage)),
        ((b'E', b"SERROR".to_vec()), Err(Garbage), Err(Garbage)),
        (tag(b'D'), Err(Garbage), Err(Garbage)),
        (tag(b'T'), Err(Garbage), Err(Garbage)),
        (tag(b'G'), Err(Garbage), Err(Garbage)),
        (tag(b'R'), Err(Garbage), Err(Garbage)),
        (tag(b'?'), Err(Garbage), Err(Garbage)),
    ];
    for ((tag, body), quiet, asking) in cases {
        let (mut ear, id) = on("a", &["x"]);
        assert_eq!(ear.reply(tag, &body), quiet, "{:?} while nothing is asked", char::from(tag));
        question(&mut ear).unwrap();
        assert_eq!(ear.reply(tag, &body), asking, "{:?} while something is", char::from(tag));
        let (tag, body) = notification("x");
        assert_eq!(ear.reply(tag, &body), Ok(Said::Notified(&[id].into())));
    }
}

#[test]
fn the_login_that_was_good_is_tried_first_then_the_latest() {
    let mut ear = Ear::default();
    assert_eq!(ear.login(), None);
    let [old, mid, new] = ["old", "mid", "new"].map(|user| ear.enter(user));
    assert_eq!(ear.login(), Some(new));
    assert!(ear.login_refused("new"));
    assert_eq!(ear.login(), Some(mid));
    ear.seated(pod("a"), "mid");
    let newest = ear.enter("newest");
    assert_eq!(ear.login(), Some(mid));
    let again = ear.enter("mid");
    assert_eq!(ear.login(), Some(again), "the same user's latest password");
    assert!(ear.login_refused("mid"));
    assert_eq!(ear.login(), Some(newest));
    for user in ["newest", "new"] {
        assert!(ear.login_refused(user));
    }
    assert_eq!(ear.login(), Some(old));
    assert!(!ear.login_refused("old"), "nobody is left");
    assert_eq!(ear.login(), Some(again), "and so it begins anew");
}

#[test]
fn a_moment_passes_with_an_answer_to_what_was_sent_after_it() {
    let (mut ear, _) = on("a", &["x"]);
    question(&mut ear);
    let moment = ear.moment(now());
    answer(&mut ear, &[ready()]);
    assert!(!ear.has_passed(moment), "the question was out already");
    assert_eq!(question(&mut ear).unwrap(), "", "an empty one will do");
    let later = ear.moment(now());
    assert!(later > moment);
    answer(&mut ear, &[ready()]);
    assert!(ear.has_passed(moment) && !ear.has_passed(later));
    assert_eq!(settle(&mut ear), [""]);
    assert!(ear.has_passed(later));
    assert_eq!(question(&mut ear), None);
    // Many at once need one question.
    let moments = [ear.moment(now()), ear.moment(now())];
    assert_eq!(settle(&mut ear), [""]);
    assert!(moments.iter().all(|moment| ear.has_passed(*moment)));
    // A backend that is lost has nothing more to say.
    let lost = ear.moment(now());
    ear.unseated(now());
    assert!(ear.has_passed(lost));
    let none = ear.moment(now());
    assert!(ear.has_passed(none), "there is none to wait for");
}

#[test]
fn nobody_waits_for_ever() {
    let (mut ear, _) = on("a", &["x"]);
    let begin = now();
    ear.packet(begin);
    assert_eq!(ear.poll_timeout(), Some(begin + ANSWER));
    let first = ear.moment(begin);
    assert_eq!(ear.poll_timeout(), Some(begin + CATCH_UP));
    assert!(ear.tick(begin + CATCH_UP / 2) && !ear.has_passed(first));
    assert!(ear.tick(begin + CATCH_UP) && ear.has_passed(first));
    let second = ear.moment(after(begin, CATCH_UP));
    assert!(!ear.has_passed(second), "who comes later waits as long");
    assert!(ear.tick(begin + CATCH_UP * 2) && ear.has_passed(second));
    assert!(ear.tick(begin + ANSWER - CATCH_UP));
    assert!(!ear.tick(begin + ANSWER), "it is to be left");

    // Sent, and not answered.
    let (mut ear, _) = on("a", &["x"]);
    settle(&mut ear);
    let moment = ear.moment(begin);
    ear.packet(begin + CATCH_UP / 2);
    assert_eq!(ear.poll_timeout(), Some(begin + CATCH_UP));
    ear.tick(begin + CATCH_UP);
    assert!(ear.has_passed(moment));
}

#[test]
fn sessions_wait_for_what_was_promised_and_not_for_ever() {
    let begin = now();
    let (a, b) = (pod("a"), pod("b"));
    let mut ear = Ear::default();
    let id = ear.enter("app");
    assert!(ear.is_ready(&a, begin), "nobody listens");
    ear.want(id, &"x".into());
    ear.aim(begin, Some(a.clone()));
    assert!(ear.is_ready(&a, begin), "nothing was promised");
    ear.seated(a.clone(), "app");
    settle(&mut ear);
    assert!(ear.is_ready(&a, begin) && !ear.is_ready(&b, begin));
    assert_eq!(ear.poll_timeout(), None);
    ear.want(id, &"new".into());
    assert!(ear.is_ready(&a, begin), "what comes later waits for itself");
    settle(&mut ear);

    // Its backend ends: there again, as if it were a new primary.
    ear.unseated(begin);
    assert!(!ear.is_ready(&a, begin));
    assert_eq!(ear.poll_timeout(), Some(begin + GRACE));
    ear.seated(a.clone(), "app");
    assert!(!ear.is_ready(&a, begin), "seated, and deaf");
    settle(&mut ear);
    assert!(ear.is_ready(&a, begin));

    // Another primary, where it gets no backend: it is waited for once.
    ear.unseated(begin);
    ear.aim(begin, Some(b.clone()));
    let late = begin + GRACE;
    assert!(!ear.is_ready(&b, late - Duration::from_millis(1)) && ear.is_ready(&b, late));
    assert!(ear.tick(late));
    assert_eq!(ear.poll_timeout(), None);
    assert!(ear.is_ready(&b, late) && !ear.is_ready(&a, late));
    // Nobody is primary, then the same again.
    ear.aim(late, None);
    assert!(!ear.is_ready(&b, late));
    ear.aim(late, Some(b.clone()));
    assert!(!ear.is_ready(&b, late), "it is tried anew");
    ear.leave(id);
    assert!(ear.is_ready(&b, late), "nobody listens any more");
}
