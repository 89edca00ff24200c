//! The pipeline against a model of PostgreSQL: in step whatever is sent, and truthful wherever the backend is lost.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::continuity::carried::Prepared;
use crate::continuity::loss::{Aftermath, Word};
use crate::error::Code;
use crate::wire::backend;

#[derive(Clone, Debug)]
enum Msg {
    Query(&'static str),
    Call,
    Parse(&'static str, &'static str),
    Bind(&'static str),
    Describe,
    Execute,
    Close(&'static str),
    Sync,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reply {
    Parsed,
    Bound,
    Described,
    Complete(&'static str),
    Suspended,
    Closed,
    Failed,
    Ready(TxStatus),
}

/// What a server would do, with the transactions and units that its writes belong to.
#[derive(Default)]
struct Model {
    block: bool,
    dead: bool,
    skipping: bool,
    statements: BTreeMap<&'static str, &'static str>,
    portal: Option<&'static str>,
    unit: usize,
    transaction: usize,
    pending: Vec<(usize, usize)>,
    durable: Vec<(usize, usize)>,
    /// Transactions a unit met.
    met: Vec<(usize, usize)>,
    replies: Vec<Reply>,
}

impl Model {
    fn status(&self) -> TxStatus {
        match (self.block, self.dead) {
            (false, _) => TxStatus::Idle,
            (true, false) => TxStatus::InTransaction,
            (true, true) => TxStatus::Failed,
        }
    }

    fn end(&mut self, commit: bool) {
        if commit {
            self.durable.append(&mut self.pending);
        } else {
            self.pending.clear();
        }
        (self.block, self.dead) = (false, false);
        self.transaction += 1;
    }

    fn run(&mut self, text: &'static str) -> Option<&'static str> {
        self.met.push((self.unit, self.transaction));
        match text {
            "COMMIT" => {
                let dead = self.dead;
                self.end(!dead);
                Some(if dead { "ROLLBACK" } else { "COMMIT" })
            }
            "ROLLBACK" => {
                self.end(false);
                Some("ROLLBACK")
            }
            _ if self.dead => None,
            "bad" => None,
            "BEGIN" => {
                self.block = true;
                Some("BEGIN")
            }
            "SELECT 1" => Some("SELECT 1"),
            _ => {
                self.pending.push((self.unit, self.transaction));
                Some("INSERT 0 1")
            }
        }
    }

    fn fail(&mut self, extended: bool) {
        self.replies.push(Reply::Failed);
        self.skipping = extended;
        if self.block {
            self.dead = true;
        } else {
            self.end(false);
        }
    }

    fn ready(&mut self) {
        if !self.block {
            self.end(true);
            self.portal = None;
        }
        let status = self.status();
        self.replies.push(Reply::Ready(status));
        self.unit += 1;
    }

    fn take(&mut self, msg: &Msg) {
        if self.skipping {
            if matches!(msg, Msg::Sync) {
                self.skipping = false;
                self.ready();
            }
            return;
        }
        match msg {
            Msg::Query(text) => self.query(text),
            Msg::Call => {
                if self.run("INSERT").is_none() {
                    self.fail(false);
                }
                self.ready();
            }
            Msg::Parse(name, text) => {
                let taken = !name.is_empty() && self.statements.contains_key(name);
                if name.is_empty() {
                    self.statements.remove(name);
                }
                if taken || (self.dead && !matches!(*text, "COMMIT" | "ROLLBACK")) {
                    return self.fail(true);
                }
                self.statements.insert(name, text);
                self.replies.push(Reply::Parsed);
            }
            Msg::Bind(name) => match self.statements.get(name).copied() {
                Some(text) if !self.dead || matches!(text, "COMMIT" | "ROLLBACK") => {
                    self.portal = Some(text);
                    self.replies.push(Reply::Bound);
                }
                _ => self.fail(true),
            },
            Msg::Describe => {
                if self.portal.is_some() {
                    self.replies.push(Reply::Described);
                } else {
                    self.fail(true);
                }
            }
            Msg::Execute => match self.portal {
                Some("SELECT 1") if !self.dead => self.replies.push(Reply::Suspended),
                Some(text) => match self.run(text) {
                    Some(tag) => {
                        if matches!(text, "COMMIT" | "ROLLBACK") {
                            self.portal = None;
                        }
                        self.replies.push(Reply::Complete(tag));
                    }
                    None => self.fail(true),
                },
                None => self.fail(true),
            },
            Msg::Close(name) => {
                self.statements.remove(name);
                self.replies.push(Reply::Closed);
            }
            Msg::Sync => self.ready(),
        }
    }

    fn query(&mut self, text: &'static str) {
        self.statements.remove("");
        let texts: Vec<&'static str> = text.split("; ").collect();
        for (at, text) in texts.iter().enumerate() {
            let Some(tag) = self.run(text) else {
                self.fail(false);
                break;
            };
            if at + 1 == texts.len() && !self.block {
                self.end(true);
            }
            self.replies.push(Reply::Complete(tag));
        }
        self.ready();
    }
}

fn send(pipeline: &mut Pipeline, state: &State, msg: &Msg) {
    match msg {
        Msg::Query(text) => pipeline.query(pipeline.read(text.as_bytes(), false), 0),
        Msg::Call => pipeline.call(0),
        Msg::Parse(name, text) => pipeline.parse(
            name.as_bytes(),
            pipeline.read(text.as_bytes(), false),
            &body(name, text),
            Way::AsItIs,
            state,
        ),
        Msg::Bind(name) => pipeline.bind(b"", name.as_bytes()),
        Msg::Describe => pipeline.describe(),
        Msg::Execute => pipeline.execute(b""),
        Msg::Close(name) => pipeline.close(Some(name.as_bytes()), false),
        Msg::Sync => pipeline.sync(0),
    }
}

fn body(name: &str, text: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat()
}

fn hear(pipeline: &mut Pipeline, state: &mut State, reply: Reply) -> Note {
    match reply {
        Reply::Parsed => pipeline.parse_complete(state),
        Reply::Bound => pipeline.bind_complete(),
        Reply::Described => pipeline.described(),
        Reply::Complete(tag) => pipeline.command_complete(tag.as_bytes(), state),
        Reply::Suspended => pipeline.suspended(state),
        Reply::Closed => pipeline.close_complete(state),
        Reply::Failed => {
            if pipeline.error(state) {
                Note::Plain
            } else {
                Note::Unexpected
            }
        }
        Reply::Ready(status) => pipeline.ready(status, state),
    }
}

const TEXTS: [&str; 7] = ["BEGIN", "COMMIT", "ROLLBACK", "INSERT", "INSERT", "SELECT 1", "bad"];

fn extended() -> impl Strategy<Value = Vec<Msg>> {
    let name = || prop::sample::select(vec!["", "", "n"]);
    let step = prop_oneof![
        4 => (name(), prop::sample::select(TEXTS.to_vec())).prop_map(|(name, text)| vec![Msg::Parse(name, text), Msg::Bind(name), Msg::Execute]),
        2 => name().prop_map(|name| vec![Msg::Bind(name), Msg::Describe, Msg::Execute]),
        1 => (name(), prop::sample::select(TEXTS.to_vec())).prop_map(|(name, text)| vec![Msg::Parse(name, text)]),
        1 => name().prop_map(|name| vec![Msg::Close(name)]),
        1 => Just(vec![Msg::Execute]),
        1 => Just(vec![]),
    ];
    prop::collection::vec(step, 0..4).prop_map(|steps| {
        let mut unit: Vec<Msg> = steps.concat();
        unit.push(Msg::Sync);
        unit
    })
}

fn simple() -> impl Strategy<Value = Vec<Msg>> {
    let texts = vec![
        "BEGIN",
        "BEGIN",
        "COMMIT",
        "COMMIT",
        "ROLLBACK",
        "INSERT",
        "INSERT",
        "SELECT 1",
        "bad",
        "INSERT; INSERT",
        "BEGIN; INSERT",
        "BEGIN; INSERT; COMMIT",
        "ROLLBACK; INSERT",
        "COMMIT; INSERT",
        "INSERT; BEGIN",
        "INSERT; COMMIT; bad",
        "INSERT; ROLLBACK",
        "COMMIT; BEGIN; INSERT",
        "INSERT; bad",
        "SELECT 1; COMMIT; BEGIN",
    ];
    prop::sample::select(texts).prop_map(|text| vec![Msg::Query(text)])
}

fn units() -> impl Strategy<Value = Vec<Msg>> {
    let unit = prop_oneof![6 => simple(), 6 => extended(), 1 => Just(vec![Msg::Call])];
    prop::collection::vec(unit, 1..8).prop_map(|units| units.concat())
}

/// A session up to some moment: what was sent, and how much of the answers came.
struct Moment {
    pipeline: Pipeline,
    state: State,
    model: Model,
    heard: usize,
    open: Vec<Msg>,
}

fn play(msgs: &[Msg], schedule: &[bool]) -> Result<Moment, TestCaseError> {
    let mut moment = Moment {
        pipeline: Pipeline::default(),
        state: State::new(1 << 16),
        model: Model::default(),
        heard: 0,
        open: Vec::new(),
    };
    let mut left = msgs.iter();
    let mut status = TxStatus::Idle;
    for sends in schedule {
        if *sends {
            let Some(msg) = left.next() else { continue };
            send(&mut moment.pipeline, &moment.state, msg);
            moment.model.take(msg);
            match msg {
                Msg::Sync | Msg::Query(_) | Msg::Call => moment.open.clear(),
                Msg::Parse(..) | Msg::Bind(_) | Msg::Describe | Msg::Execute | Msg::Close(_) => {
                    moment.open.push(msg.clone())
                }
            }
        } else if let Some(reply) = moment.model.replies.get(moment.heard).copied() {
            moment.heard += 1;
            let note = hear(&mut moment.pipeline, &mut moment.state, reply);
            prop_assert_ne!(note, Note::Unexpected, "{:?}", reply);
            if let Reply::Ready(now) = reply {
                status = now;
            }
        }
        let answered = moment.heard == moment.model.replies.len() && moment.open.is_empty();
        prop_assert_eq!(moment.pipeline.is_quiet(), answered);
        prop_assert_eq!(moment.pipeline.status(), status);
    }
    Ok(moment)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_step_with_the_server_and_no_answer_is_a_lie(
        msgs in units(),
        schedule in prop::collection::vec(prop::bool::weighted(0.6), 0..60),
    ) {
        let Moment { mut pipeline, mut state, model, heard, open } = play(&msgs, &schedule)?;
        let delivered = &model.replies[..heard];
        let is_ready = |reply: &&Reply| matches!(reply, Reply::Ready(_));
        let (ended, owed) = (delivered.iter().filter(is_ready).count(), model.replies[heard..].iter().filter(is_ready).count());
        let told = delivered.iter().rev().take_while(|reply| !is_ready(reply)).any(|reply| *reply == Reply::Failed);
        let before = pipeline.status();
        let quiet = pipeline.is_quiet();

        let wreck = pipeline.lose(&mut state);

        prop_assert_eq!(wreck.answers.len(), owed, "one answer for each unit");
        if open.is_empty() {
            prop_assert_eq!(wreck.open, None);
        }
        if quiet {
            let after = match before {
                TxStatus::Idle => Aftermath::Clean,
                TxStatus::InTransaction => Aftermath::Untold,
                TxStatus::Failed => Aftermath::Failed,
            };
            prop_assert_eq!(wreck.after, after);
        }
        for (at, answer) in wreck.answers.iter().chain(&wreck.open).enumerate() {
            let unit = ended + at;
            let remains = model.durable.iter().any(|(of, transaction)| *of == unit || model.met.contains(&(unit, *transaction)));
            match answer.word {
                Word::Error(Code::TransactionLost) | Word::RolledBack => prop_assert!(!remains, "unit {unit} is there: {wreck:?}"),
                Word::Nothing if told && at == 0 => {}
                Word::Nothing => prop_assert!(!model.pending.iter().any(|(of, _)| *of == unit), "unit {unit} is not there: {wreck:?}"),
                Word::Error(code) => prop_assert_eq!(code, Code::CommitUnknown),
            }
        }
        if let Some(last) = wreck.open.or_else(|| wreck.answers.last().copied()) {
            prop_assert_eq!(last.status == TxStatus::Idle, wreck.after == Aftermath::Clean);
        }
        prop_assert!(pipeline.is_quiet());
    }
}

/// The unnamed statement is the one of an earlier unit where an error let the server skip the later Parse.
#[test]
fn a_parse_that_is_skipped_leaves_the_unnamed_statement_before_it() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    let asks = |text| [Msg::Parse("", text), Msg::Bind(""), Msg::Execute, Msg::Sync];
    let skips = [Msg::Execute].into_iter().chain(asks("BEGIN"));
    for msg in asks("INSERT").into_iter().chain(skips).chain([Msg::Bind(""), Msg::Execute, Msg::Sync]) {
        send(&mut pipeline, &state, &msg);
    }
    let words = pipeline.lose(&mut state).answers.into_iter().map(|answer| answer.word);
    assert!(words.eq([Word::Error(Code::CommitUnknown); 3]), "the third unit may have run the INSERT");
}

#[test]
fn a_unit_that_was_answered_and_not_synced_is_not_idle() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    for msg in [Msg::Parse("", "INSERT"), Msg::Bind(""), Msg::Execute] {
        send(&mut pipeline, &state, &msg);
    }
    for reply in [Reply::Parsed, Reply::Bound, Reply::Complete("INSERT 0 1")] {
        assert_eq!(hear(&mut pipeline, &mut state, reply), Note::Plain);
    }
    assert_eq!(pipeline.depth(), 0);
    assert!(!pipeline.is_idle(), "its implicit transaction is open until Sync");
    let wreck = pipeline.lose(&mut state);
    assert_eq!(wreck.open.map(|answer| answer.word), Some(Word::Error(Code::CommitUnknown)));
}

#[test]
fn a_statement_prepared_and_flushed_goes_on_elsewhere() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    send(&mut pipeline, &state, &Msg::Parse("s", "SELECT 1"));
    send(&mut pipeline, &state, &Msg::Describe);
    hear(&mut pipeline, &mut state, Reply::Parsed);
    hear(&mut pipeline, &mut state, Reply::Described);
    let wreck = pipeline.lose(&mut state);
    assert_eq!((wreck.answers.len(), wreck.open, wreck.after), (0, None, Aftermath::Clean));
    assert!(state.prepared().contains_key(b"s".as_slice()));
}

#[test]
fn syncs_within_a_copy_are_not_answered() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    send(&mut pipeline, &state, &Msg::Parse("", "COPY t FROM STDIN"));
    send(&mut pipeline, &state, &Msg::Bind(""));
    send(&mut pipeline, &state, &Msg::Execute);
    pipeline.sync(0);
    hear(&mut pipeline, &mut state, Reply::Parsed);
    hear(&mut pipeline, &mut state, Reply::Bound);
    assert_eq!(pipeline.copy_in(), Note::Plain);
    pipeline.copy_end();
    pipeline.sync(0);
    hear(&mut pipeline, &mut state, Reply::Complete("COPY 1"));
    assert!(!pipeline.is_quiet());
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Ready(TxStatus::Idle, Some(0)));
    assert!(pipeline.is_quiet());
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Unexpected);
}

#[test]
fn a_copy_that_fails_at_once_may_leave_its_sync_to_be_answered() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    send(&mut pipeline, &state, &Msg::Execute);
    pipeline.sync(0);
    assert_eq!(pipeline.copy_in(), Note::Plain);
    assert!(pipeline.error(&mut state));
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Ready(TxStatus::Idle, None));
}

#[test]
fn copy_ends_that_nobody_asked_for_take_no_room() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1 << 16));
    send(&mut pipeline, &state, &Msg::Query("SELECT 1"));
    for _ in 0..1000 {
        pipeline.copy_end();
    }
    assert!(pipeline.depth() <= 2);
    assert_eq!(pipeline.lose(&mut state).answers.len(), 1);
}

fn key(text: &str) -> Key {
    Key::of(text.as_bytes(), &crate::continuity::carried::Transactional::default())
}

/// A Parse that pgmoor answers; `lacks`: the backend is given it just before.
fn share(pipeline: &mut Pipeline, state: &State, name: &str, text: &str, lacks: bool) {
    if lacks {
        pipeline.prepare(Some(key(text)), 1, false);
    }
    pipeline.parse(
        name.as_bytes(),
        pipeline.read(text.as_bytes(), false),
        &body(name, text),
        Way::Shared(key(text)),
        state,
    );
}

#[test]
fn what_pgmoor_answers_has_its_turn() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1000));
    pipeline.describe();
    share(&mut pipeline, &state, "s", "SELECT 1", false);
    pipeline.close(Some(b"other"), true);
    pipeline.sync(7);
    assert_eq!(pipeline.take_told(&mut state), None, "the Describe before it is not answered");
    assert_eq!(pipeline.described(), Note::Plain);
    assert_eq!(pipeline.take_told(&mut state), Some(backend::PARSE_COMPLETE));
    assert_eq!(pipeline.take_told(&mut state), Some(backend::CLOSE_COMPLETE));
    assert_eq!(pipeline.take_told(&mut state), None, "the Sync is the server's");
    assert!(matches!(state.named(b"s"), Some(Prepared::Shared(_, shared)) if *shared == key("SELECT 1")));
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Ready(TxStatus::Idle, Some(7)));
}

#[test]
fn what_a_backend_lacks_is_not_the_client_s() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1000));
    share(&mut pipeline, &state, "s", "SELECT 1", true);
    pipeline.sync(7);
    assert!(pipeline.is_preparing() && pipeline.take_told(&mut state).is_none());
    assert_eq!(pipeline.prepared(backend::PARSE_COMPLETE), Err(Unexpected), "a Close is before it");
    assert_eq!(pipeline.prepared(backend::CLOSE_COMPLETE), Ok(None));
    assert_eq!(pipeline.prepared(backend::PARSE_COMPLETE), Ok(Some(key("SELECT 1"))));
    assert_eq!(pipeline.take_told(&mut state), Some(backend::PARSE_COMPLETE));
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Ready(TxStatus::Idle, Some(7)));
}

#[test]
fn an_error_takes_along_what_was_to_be_prepared_behind_it() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1000));
    share(&mut pipeline, &state, "s", "SELECT 1", true);
    share(&mut pipeline, &state, "t", "SELECT 2", true);
    pipeline.sync(7);
    assert_eq!(pipeline.prepared(backend::CLOSE_COMPLETE), Ok(None));
    assert_eq!(
        pipeline.prepared(backend::ERROR_RESPONSE),
        Err(Unexpected),
        "it is the answer to the client's own Parse"
    );
    assert!(pipeline.error(&mut state));
    assert_eq!(pipeline.take_unprepared(), [key("SELECT 1"), key("SELECT 2")]);
    assert_eq!((pipeline.take_told(&mut state), state.named(b"s")), (None, None));
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Ready(TxStatus::Idle, Some(7)));
}

#[test]
fn one_by_itself_fails_in_silence() {
    let (mut pipeline, mut state) = (Pipeline::default(), State::new(1000));
    pipeline.prepare(None, 0, true);
    pipeline.query(pipeline.read(b"EXECUTE s", false), 7);
    assert_eq!(pipeline.prepared(backend::ERROR_RESPONSE), Ok(None));
    assert_eq!(pipeline.prepared(backend::READY_FOR_QUERY), Ok(None));
    assert!(pipeline.error(&mut state), "whoever uses it is told");
    assert_eq!(pipeline.ready(TxStatus::Idle, &mut state), Note::Ready(TxStatus::Idle, Some(7)));
}

#[test]
fn what_a_name_stands_for_is_open_while_an_earlier_unit_may_change_it() {
    let (mut pipeline, state) = (Pipeline::default(), State::new(1000));
    assert_eq!(pipeline.stands(b"s"), Stands::Settled);
    share(&mut pipeline, &state, "s", "SELECT 1", false);
    assert_eq!(pipeline.stands(b"s"), Stands::Sent(Way::Shared(key("SELECT 1"))));
    assert_eq!(pipeline.stands(b"t"), Stands::Settled);
    pipeline.close(Some(b"s"), true);
    assert_eq!(pipeline.stands(b"s"), Stands::Closed);
    pipeline.sync(7);
    assert_eq!((pipeline.stands(b"s"), pipeline.stands(b"t")), (Stands::Open, Stands::Settled));
    let mut pipeline = Pipeline::default();
    pipeline.query(pipeline.read(b"DEALLOCATE ALL", false), 8);
    assert_eq!((pipeline.stands(b"t"), pipeline.unit()), (Stands::Open, 1));
    let mut pipeline = Pipeline::default();
    pipeline.query(pipeline.read(b"SELECT 1", false), 9);
    assert_eq!((pipeline.stands(b"t"), pipeline.stands(b"")), (Stands::Settled, Stands::Open));
}
