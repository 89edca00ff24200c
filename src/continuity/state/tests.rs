//! What stays and what is undone, by tables of statements.

use super::*;
use crate::continuity::script;

/// Runs simple queries as a server would that finds no fault in them; `!` is an error, `Z` a ReadyForQuery that says idle,
/// `T` and `E` the others.
fn state_after(steps: &[&str]) -> State {
    let mut state = State::new(1 << 16);
    feed(&mut state, steps);
    state
}

fn feed(state: &mut State, steps: &[&str]) {
    for step in steps {
        match *step {
            "!" => state.failed(),
            "Z" => state.ready(TxStatus::Idle),
            "T" => state.ready(TxStatus::InTransaction),
            "E" => state.ready(TxStatus::Failed),
            text => {
                let (text, tag) = text.split_once(" => ").unwrap_or((text, ""));
                if let Some(script) = script::read(text.as_bytes(), false) {
                    for act in script.acts() {
                        state.completed(act, tag.as_bytes());
                    }
                }
            }
        }
    }
}

fn names(state: &State) -> Vec<&str> {
    state.settled().settings.keys().map(String::as_str).collect()
}

#[test]
fn settings_follow_their_transaction() {
    let table: [(&[&str], &[&str]); 21] = [
        (&["SET a = 1", "Z"], &["a"]),
        (&["SET LOCAL a = 1", "Z"], &[]),
        (&["SET a = 1", "!", "Z"], &[]),
        (&["BEGIN", "T", "SET a = 1", "T"], &[]),
        (&["BEGIN", "T", "SET a = 1", "T", "COMMIT", "Z"], &["a"]),
        (&["BEGIN", "T", "SET a = 1", "T", "ROLLBACK", "Z"], &[]),
        (&["BEGIN", "T", "SET a = 1", "!", "E", "COMMIT => ROLLBACK", "Z"], &[]),
        (&["BEGIN", "T", "SET a = 1", "T", "!", "Z"], &[]), // its COMMIT failed
        (&["SET a = 1", "BEGIN", "SET b = 1", "T", "ROLLBACK", "Z"], &[]),
        (&["SET a = 1", "COMMIT", "SET b = 1", "!", "Z"], &["a"]),
        (&["BEGIN", "SAVEPOINT s", "SET a = 1", "ROLLBACK TO s", "SET b = 1", "COMMIT", "Z"], &["b"]),
        (
            &[
                "BEGIN",
                "SET a = 1",
                "SAVEPOINT s",
                "SET b = 1",
                "SAVEPOINT s",
                "SET c = 1",
                "ROLLBACK TO s",
                "COMMIT",
                "Z",
            ],
            &["a", "b"],
        ),
        (&["BEGIN", "SAVEPOINT s", "SET a = 1", "RELEASE s", "COMMIT", "Z"], &["a"]),
        (&["BEGIN", "SAVEPOINT s", "SET a = 1", "RELEASE s", "ROLLBACK", "Z"], &[]),
        (&["BEGIN", "SAVEPOINT s", "T", "!", "E", "ROLLBACK TO s", "T", "SET a = 1", "COMMIT", "Z"], &["a"]),
        (&["BEGIN", "SET a = 1", "COMMIT AND CHAIN", "SET b = 1", "T", "ROLLBACK", "Z"], &["a"]),
        (&["BEGIN", "T", "!", "E", "COMMIT AND CHAIN => ROLLBACK", "T", "SET b = 1", "ROLLBACK", "Z"], &[]),
        (&["SET a = 1", "Z", "RESET a", "Z"], &[]),
        (&["SET a = 1", "SET b = 1", "Z", "RESET ALL", "Z"], &[]),
        (&["SET a = 1", "Z", "DISCARD ALL", "Z"], &[]),
        (&["SET transaction_isolation = 'serializable'", "Z"], &[]),
    ];
    for (steps, expected) in table {
        assert_eq!(names(&state_after(steps)), expected, "{steps:?}");
    }
}

#[test]
fn characteristics_are_the_settings_they_set() {
    let state = state_after(&[
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, NOT DEFERRABLE",
        "Z",
    ]);
    let values: Vec<_> = state.settled().settings.values().cloned().collect();
    let value = |text: &str| Setting::Value(text.to_owned());
    assert_eq!(
        names(&state),
        ["default_transaction_deferrable", "default_transaction_isolation", "default_transaction_read_only"]
    );
    assert_eq!(values, [value("off"), value("serializable"), value("on")]);
    assert!(!state.in_doubt());
    assert!(state_after(&["SET SESSION CHARACTERISTICS AS TRANSACTION /* eh */ READ ONLY"]).in_doubt());
}

#[test]
fn prepared_statements_outlive_a_rollback() {
    let state =
        state_after(&["BEGIN", "PREPARE p AS SELECT 1", "PREPARE q AS SELECT 1", "DEALLOCATE q", "ROLLBACK", "Z"]);
    assert_eq!(state.prepared().keys().collect::<Vec<_>>(), [b"p"]);
    assert!(state_after(&["PREPARE p AS SELECT 1", "DEALLOCATE ALL"]).prepared().is_empty());
}

#[test]
fn the_unnamed_statement_survives_deallocate_all() {
    let mut state = State::new(100);
    state.unnamed_parsed(Some(b"body".to_vec()), None, true);
    feed(&mut state, &["DEALLOCATE ALL", "DISCARD ALL"]);
    assert_eq!(state.unnamed(), Some(b"body".as_slice()));
    state.unnamed_gone();
    assert_eq!(state.unnamed(), None);
}

#[test]
fn a_text_that_meant_nothing_is_known_again() {
    let mut state = State::new(100);
    let (dull, other) = (b"\0select 1\0\0\0", b"\0select set_config('a.b', 'c', false)\0\0\0");
    assert!(!state.is_dull_again(b""));
    state.unnamed_parsed(Some(dull.to_vec()), None, true);
    assert!(state.is_dull_again(dull) && !state.is_dull_again(other) && !state.is_dull_again(b""));
    state.unnamed_gone();
    assert!(state.is_dull_again(dull), "its text is the same, alive or not");
    state.checkpoint();
    state.unnamed_parsed(Some(other.to_vec()), None, false);
    assert!(!state.is_dull_again(dull) && !state.is_dull_again(other));
    assert!(!state.at_start().unwrap().is_dull_again(dull), "what it meant was forgotten: it is read again");
    state.unnamed_parsed(None, None, true);
    assert!(!state.is_dull_again(b""), "too large a body");
}

#[test]
fn names_count_up_to_63_bytes() {
    let mut state = State::new(10_000);
    let long = [b'n'; 70];
    state.parsed(&long, b"body".to_vec(), None);
    assert_eq!(state.prepared().keys().next().map(Vec::len), Some(63));
    state.closed(&long);
    assert!(state.prepared().is_empty());
}

#[test]
fn channels_and_roles_follow_their_transaction() {
    let state = state_after(&["LISTEN c", "Z", "BEGIN", "LISTEN d", "UNLISTEN c", "SET ROLE r", "T"]);
    assert_eq!(state.settled().channels.iter().collect::<Vec<_>>(), ["c"]);
    assert_eq!(state.settled().role, None);
    assert!(state.listens());
    let state = state_after(&["SET ROLE r", "SET SESSION AUTHORIZATION u", "Z"]);
    assert_eq!((state.settled().role.is_some(), state.settled().authorization.is_some()), (false, true));
}

#[test]
fn temporary_tables_unpin_only_when_their_end_is_committed() {
    let pinned = |steps: &[&str]| state_after(steps).pins().has(Pin::TempObject);
    assert!(pinned(&["CREATE TEMP TABLE t (a int)", "Z"]));
    assert!(!pinned(&["CREATE TEMP TABLE t (a int)", "Z", "DISCARD TEMP", "Z"]));
    assert!(pinned(&["CREATE TEMP TABLE t (a int)", "Z", "DISCARD TEMP", "!", "Z"]));
    assert!(pinned(&["CREATE TEMP TABLE t (a int)", "Z", "BEGIN", "DISCARD TEMP", "ROLLBACK", "Z"]));
    assert!(pinned(&["DISCARD TEMP", "CREATE TEMP TABLE t (a int)", "Z"]));
}

#[test]
fn memory_is_bounded_and_pins() {
    let mut state = State::new(1000);
    for n in 0..1000 {
        state.parsed(format!("s{n}").as_bytes(), vec![0; 50], None);
    }
    assert!(state.pins().has(Pin::StateTooLarge));
    assert!(state.prepared().len() < 20);

    let mut state = State::new(1000);
    feed(&mut state, &["BEGIN"]);
    for n in 0..1000 {
        let (save, set) = (format!("SAVEPOINT s{n}"), format!("SET a.a{} = 'a value that takes some room'", n % 5));
        feed(&mut state, &[&save, &set]);
    }
    assert!(state.pins().has(Pin::StateTooLarge));
    feed(&mut state, &["ROLLBACK", "Z"]);
    assert_eq!(names(&state), [""; 0]);
}

#[test]
fn what_the_server_says_replaces_what_was_believed() {
    let mut state = state_after(&["SET a.b = 1", "PREPARE p AS SELECT 1", "Z"]);
    let truth = Transactional { role: Some(Setting::Value("r".to_owned())), ..Transactional::default() };
    let whole = "SET x = 1; PREPARE q AS SELECT 2; DROP TABLE t".to_owned();
    state.learn(truth.clone(), BTreeMap::from([("q".to_owned(), whole)]), Pins::default());
    assert_eq!(*state.settled(), truth);
    let Some(Prepared::Sql(text)) = state.prepared().get(b"q".as_slice()) else { panic!("q is known") };
    assert_eq!(text.trim_ascii(), b"PREPARE q AS SELECT 2", "never the rest of the text it came in");
    assert_eq!(state.prepared().len(), 1);
}
