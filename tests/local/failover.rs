//! The primary is lost, and another comes: each row of the table of what a client sees.

use std::time::{Duration, Instant};

use super::pair::{Moor, POOL_OF_SESSIONS, Pair, Plan, psql, until};
use super::raw::{Raw, about, bind, execute, frame, parse, query, sync, unit};

const WHERE: &str = "select inet_server_port()";

/// What is on the wire when the primary is lost.
struct Fleet {
    stateful: Raw,
    listener: Raw,
    open: Raw,
    open_then_commit: Raw,
    open_then_rollback: Raw,
    failed: Raw,
    committing: Raw,
    writing: Raw,
    reading_in_block: Raw,
    batch: Raw,
    half_sent: Raw,
    pinned: Raw,
    copying: Raw,
    reader: Raw,
}

impl Fleet {
    fn launch(moor: &Moor) -> Self {
        let raw = || Raw::login(moor.rw());
        let mut stateful = raw();
        for sql in [
            "set statement_timeout = '77s'",
            "set search_path to other, public",
            "set application_name = 'carried'",
            "begin; set work_mem = '9MB'; rollback",
            "begin; set local work_mem = '8MB'; commit",
            "prepare p1 as select 41 + 1",
            "set time zone 'Asia/Tokyo'",
        ] {
            assert_eq!(stateful.run(sql).code(), "", "{sql}");
        }
        stateful.put(&[parse("named", "select $1::int * 2"), sync()].concat());
        assert_eq!(stateful.reply().tags, "1Z");
        let mut listener = raw();
        listener.run("listen after");
        let in_block = || {
            let mut raw = raw();
            raw.run("begin");
            assert_eq!(raw.run("insert into t values ('lost')").status, 'T');
            raw
        };
        let mut failed = in_block();
        assert_eq!(failed.run("select 1/0").status, 'E');
        let mut pinned = raw();
        pinned.run("set synchronous_commit = local");
        pinned.run("create temp table mine (id int)");
        let reader = Raw::login(moor.ro());
        let mut committing = raw();
        committing.run("begin");
        committing.run("insert into t values ('in doubt')");
        committing.put(&query("commit"));
        let mut writing = raw();
        writing.put(&query("insert into t values ('in doubt')"));
        let mut reading_in_block = in_block();
        reading_in_block.put(&unit("select pg_sleep($1::int)", &["600"]));
        let mut batch = raw();
        batch
            .put(&[query("begin"), query("select pg_sleep(600)"), query("rollback"), query("select 'after'")].concat());
        let mut half_sent = raw();
        half_sent
            .put(&[parse("", "select pg_sleep(600)"), bind("", "", &[]), frame(b'H', b""), execute("", 0)].concat());
        let mut copying = in_block();
        copying.put(&query("copy t from stdin"));
        copying.reply_to(b'G');
        copying.put(&frame(b'd', b"row\n"));
        let (open, open_then_commit, open_then_rollback) = (in_block(), in_block(), in_block());
        Self {
            stateful,
            listener,
            open,
            open_then_commit,
            open_then_rollback,
            failed,
            committing,
            writing,
            reading_in_block,
            batch,
            half_sent,
            pinned,
            copying,
            reader,
        }
    }

    /// What can be said at once is said at once: before anybody knows of a new primary.
    fn check_before_promotion(&mut self) {
        let reply = self.committing.reply();
        assert_eq!((reply.code(), reply.status), ("08007", 'I'), "COMMIT in flight");
        let reply = self.writing.reply();
        assert_eq!((reply.code(), reply.status), ("08007", 'I'), "an autocommit write in flight");
        let reply = self.reading_in_block.reply();
        assert_eq!((reply.code(), reply.status), ("40001", 'E'), "a statement in a transaction");
        let begun = self.batch.reply();
        assert_eq!((begun.done.as_slice(), begun.status), (&["BEGIN".to_owned()][..], 'T'));
        let reply = self.batch.reply();
        assert_eq!((reply.code(), reply.status), ("40001", 'E'), "the second of a batch");
        let reply = self.batch.reply();
        assert_eq!((reply.done.as_slice(), reply.status), (&["ROLLBACK".to_owned()][..], 'I'));
        assert_eq!(self.batch.reply().code(), "08007", "it could have been a write");
        let reply = self.half_sent.reply_to(b'E');
        assert_eq!((reply.code(), reply.tags.as_str()), ("08007", "12E"), "a unit without its Sync");
        self.half_sent.put(&[about(b'C', b'P', ""), sync()].concat());
        assert_eq!(self.half_sent.reply().tags, "Z", "what is left of the unit is skipped up to its Sync");
        let reply = self.copying.reply();
        assert_eq!((reply.code(), reply.status), ("40001", 'E'), "COPY in a transaction");
        self.copying.put(&[frame(b'd', b"more\n"), frame(b'c', b"")].concat());
        let reply = self.pinned.reply();
        assert_eq!((reply.code(), reply.status), ("57P01", ' '), "pinned");
        // Told with the next request.
        let reply = self.open.run("select 1");
        assert_eq!((reply.code(), reply.status), ("40001", 'E'), "an open transaction");
        let reply = self.open_then_commit.run("commit");
        assert_eq!((reply.code(), reply.status), ("40001", 'I'), "a lost transaction is never said to be committed");
        assert_eq!(self.reader.run(WHERE).status, 'I', "a reader has lost nothing");
    }

    fn check_after_promotion(&mut self, port: &str) {
        let reply = self.stateful.run(WHERE);
        assert_eq!(reply.one(), port);
        for (sql, value) in [
            ("show statement_timeout", "77s"),
            ("show search_path", "other, public"),
            ("show application_name", "carried"),
            ("show work_mem", "4MB"),
            ("show timezone", "Asia/Tokyo"),
            ("execute p1", "42"),
        ] {
            let reply = self.stateful.run(sql);
            assert_eq!((reply.one(), reply.status), (value, 'I'), "{sql}");
        }
        self.stateful.put(&[bind("", "named", &["21"]), execute("", 0), sync()].concat());
        assert_eq!(self.stateful.reply().one(), "42");
        for raw in [&mut self.open, &mut self.failed, &mut self.copying] {
            assert_eq!(raw.run("select 1").code(), "25P02", "it waits for its end, as PostgreSQL has it");
            let reply = raw.run("rollback");
            assert_eq!((reply.done.as_slice(), reply.status), (&["ROLLBACK".to_owned()][..], 'I'));
        }
        let reply = self.open_then_rollback.run("rollback");
        assert_eq!((reply.done.as_slice(), reply.code(), reply.status), (&["ROLLBACK".to_owned()][..], "", 'I'));
        for raw in [
            &mut self.open,
            &mut self.open_then_commit,
            &mut self.open_then_rollback,
            &mut self.failed,
            &mut self.committing,
        ] {
            assert_eq!(raw.run(WHERE).one(), port);
        }
        for raw in [&mut self.writing, &mut self.batch, &mut self.half_sent, &mut self.copying] {
            assert_eq!(raw.run(WHERE).one(), port);
        }
        assert_eq!(self.reading_in_block.run("rollback").status, 'I');
        assert_eq!(self.reading_in_block.run(WHERE).one(), port);
    }
}

#[test]
fn a_crash_of_the_primary() {
    // A commit waits for a standby that is not there: so it is in flight when the primary dies.
    let pair = Pair::start("");
    psql(pair.a, "create table t (what text); create schema other");
    pair.caught_up();
    // What is not run again, and not asked for, is told: the rest is in the tests of replay.
    let told = "replay = false\ncommit_guard = \"off\"".to_owned();
    let moor = Moor::start(&Plan { continuity: told, pool: POOL_OF_SESSIONS.to_owned(), ..pair.plan() });
    psql(pair.a, "alter system set synchronous_standby_names = 'nobody'; ");
    psql(pair.a, "select pg_reload_conf()");
    until("commits to hang", || (psql(pair.a, "show synchronous_standby_names") == "nobody").then_some(()));
    let mut fleet = Fleet::launch(&moor);
    let running = "select count(*) from pg_stat_activity where usename = 'app' and (wait_event = 'SyncRep' or (query ~ 'pg_sleep' and state = 'active'))";
    until("everything to be in flight", || (psql(pair.a, running) == "5").then_some(()));
    assert_eq!(moor.metric(r#"pgmoor_sessions{endpoint="rw",state="attached"}"#), 13.0);

    pair.kill9();
    fleet.check_before_promotion();
    // A listener asks for a backend by itself; a new client and a statement wait; one of those who wait hangs up.
    until("the listener to be held", || (moor.metric("pgmoor_holds") >= 1.0).then_some(()));
    let mut newcomer = Raw::open(moor.rw()).unwrap();
    newcomer.put(&super::raw::startup(0x0003_0000, &[("user", "app"), ("database", "app")]));
    let mut leaver = Raw::open(moor.rw()).unwrap();
    leaver.put(&super::raw::startup(0x0003_0000, &[("user", "app"), ("database", "app")]));
    fleet.writing.put(&query("select 'waited'"));
    until("four to be held", || (moor.metric("pgmoor_holds") == 4.0).then_some(()));
    assert_eq!(moor.status().unwrap()["holds"], 4);
    leaver.hang_up();
    until("the hang-up to be noticed", || (moor.metric("pgmoor_holds") == 3.0).then_some(()));

    let promoted = Instant::now();
    pair.promote();
    assert_eq!(newcomer.reply().status, 'I');
    assert!(
        promoted.elapsed() < Duration::from_secs(5),
        "a newcomer waited {:?} after the promotion",
        promoted.elapsed()
    );
    assert_eq!(newcomer.run(WHERE).one(), pair.b.port().to_string());
    assert_eq!(fleet.writing.reply().one(), "waited");
    fleet.check_after_promotion(&pair.b.port().to_string());
    until("the listener to listen again", || (moor.metric("pgmoor_holds") == 0.0).then_some(()));
    until("the notification", || {
        newcomer.run("notify after, 'the storm'");
        fleet.listener.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let heard = fleet.listener.frame().ok()?;
        fleet.listener.stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        (heard.0 == b'A' || heard.0 == b'S').then_some(())
    });
    assert_eq!(
        psql(pair.b, "select count(*) from t where what = 'lost'"),
        "0",
        "nothing of a lost transaction remains"
    );
    check_metrics(&moor);
}

fn check_metrics(moor: &Moor) {
    assert_eq!(moor.metric(r#"pgmoor_pod_role{cluster="demo",pod="b",role="primary"}"#), 1.0);
    assert_eq!(moor.metric(r#"pgmoor_timeline{cluster="demo"}"#), 2.0);
    assert_eq!(moor.metric(r#"pgmoor_errors_total{code="pinned"}"#), 1.0);
    assert_eq!(moor.metric(r#"pgmoor_errors_total{code="commit_unknown"}"#), 4.0);
    assert!(moor.metric(r#"pgmoor_errors_total{code="transaction_lost"}"#) >= 5.0);
    assert_eq!(moor.metric(r#"pgmoor_pins_total{reason="temp_object"}"#), 1.0);
    assert!(moor.metric("pgmoor_hold_seconds_count") >= 4.0);
    assert_eq!(moor.status().unwrap()["clusters"][0]["writes"]["to"]["pod"], "b");
}

#[test]
fn a_hold_has_an_end_and_a_cap_and_the_session_outlives_both() {
    let pair = Pair::start("");
    let brief = Moor::start(&Plan { continuity: "hold = \"700ms\"".to_owned(), ..pair.plan() });
    let small = Moor::start(&Plan { continuity: "held_sessions = 1".to_owned(), ..pair.plan() });
    let mut kept = Raw::login(brief.rw());
    kept.run("set work_mem = '6MB'");
    let mut listener = Raw::login(brief.rw());
    listener.run("listen news");
    let (mut first, mut second) = (Raw::login(small.rw()), Raw::login(small.rw()));
    // A restart in good order: nobody who is idle notices.
    pair.stop();
    let began = Instant::now();
    let reply = kept.run("select 1");
    assert_eq!((reply.code(), reply.status), ("57P03", 'I'));
    assert!(began.elapsed() > Duration::from_millis(600), "{:?}", began.elapsed());
    kept.put(&unit("select 1", &[]));
    let reply = kept.reply();
    assert_eq!((reply.code(), reply.tags.as_str()), ("57P03", "EZ"));
    let refused = Raw::open(brief.rw()).unwrap().start(&[]);
    assert_eq!((refused.code(), refused.status), ("57P03", ' '), "a newcomer has no session to keep");

    first.put(&query("select 'held'"));
    until("one to be held", || (small.metric("pgmoor_holds") == 1.0).then_some(()));
    let reply = second.run("select 1");
    assert_eq!((reply.code(), reply.status), ("53300", 'I'));
    pair.restart();
    assert_eq!(first.reply().one(), "held");
    until("the listener, whose wait had ended, to listen again", || {
        first.run("notify news, 'here'");
        listener.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        (listener.frame().ok()?.0 == b'A').then_some(())
    });
    assert_eq!(second.run("select 'too'").one(), "too");
    until("the primary to be proven again", || (kept.run("select 1").code() == "").then_some(()));
    assert_eq!(kept.run("show work_mem").one(), "6MB");
    assert_eq!(small.metric(r#"pgmoor_errors_total{code="too_many_held"}"#), 1.0);
}

#[test]
fn a_client_learns_the_settings_of_its_new_server() {
    let pair = Pair::start("");
    psql(pair.b, "alter system set session_preload_libraries = ''");
    let moor = pair.moor();
    let mut raw = Raw::open(moor.ro()).unwrap();
    let hello = raw.start(&[]);
    assert!(hello.parameters.contains(&("in_hot_standby".to_owned(), "on".to_owned())), "{hello:?}");
    let mut writer = Raw::login(moor.rw());
    pair.caught_up();
    pair.kill9();
    pair.promote();
    assert_eq!(writer.run(WHERE).one(), pair.b.port().to_string());
    // The reader's own server has become the primary under it, and says so itself.
    let told = until("the news", || {
        let reply = raw.run("select 1");
        reply.parameters.contains(&("in_hot_standby".to_owned(), "off".to_owned())).then_some(reply)
    });
    assert_eq!(told.one(), "1");
    // Another timezone is told with the first answer of the new server.
    let settings = writer.run("set time zone 'Europe/Berlin'").parameters;
    assert_eq!(settings, [("TimeZone".to_owned(), "Europe/Berlin".to_owned())]);
}

#[test]
fn a_terminated_backend_is_replaced_while_its_client_is_idle() {
    let pair = Pair::start("");
    let moor = pair.moor();
    let mut raw = Raw::login(moor.rw());
    raw.run("set work_mem = '6MB'");
    let first = raw.run("select pg_backend_pid()").one().to_owned();
    assert_eq!(psql(pair.a, &format!("select pg_terminate_backend({first}, 5000)")), "t");
    let second = raw.run("select pg_backend_pid()");
    assert_eq!(second.code(), "");
    assert_ne!(second.one(), first);
    assert_eq!(raw.run("show work_mem").one(), "6MB");
    // The whole server, while the client is idle: the setting it reports differently is told.
    psql(pair.a, "alter database app set datestyle = 'German'");
    pair.stop();
    pair.restart();
    let reply = raw.run("show datestyle");
    assert_eq!(reply.one(), "German, DMY");
    assert!(reply.parameters.contains(&("DateStyle".to_owned(), "German, DMY".to_owned())), "{reply:?}");
}

#[test]
fn what_the_wire_cannot_tell_is_asked_for_at_once() {
    let pair = Pair::start("");
    psql(
        pair.a,
        "create function tune() returns void language sql as $$ select set_config('work_mem', '7MB', false) $$;
         create function quietly() returns void language plpgsql as $$ begin execute 'listen from_a_block'; end $$",
    );
    pair.caught_up();
    // With a backend of its own, the session can be asked for its channels.
    let moor = Moor::start(&Plan { pool: POOL_OF_SESSIONS.to_owned(), ..pair.plan() });
    // Pinned, and free again before the crash: by what a text does not say.
    let mut free = Raw::login(moor.rw());
    free.run("create temp table t (i int)");
    free.run("drop table t");
    free.run("declare c cursor with hold for select 1");
    free.run("close c");
    free.run("select pg_advisory_lock(1)");
    free.run("select pg_advisory_unlock(1)");
    // State set where no SET stands.
    let mut set = Raw::login(moor.rw());
    set.run("select set_config('search_path', 'pg_catalog, public', false)");
    set.run("select set_config('app.tenant', 'seven', false)");
    set.run("do $$ begin perform tune(); perform quietly(); end $$");
    assert_eq!(set.run("show work_mem").one(), "7MB");
    assert_eq!(moor.metric(r#"pgmoor_pins_total{reason="advisory_lock"}"#), 1.0);

    pair.kill9();
    pair.promote();
    assert_eq!(free.run("select 'free'").one(), "free");
    assert_eq!(set.run("show search_path").one(), "pg_catalog, public");
    assert_eq!(set.run("show work_mem").one(), "7MB");
    assert_eq!(set.run("show app.tenant").one(), "seven");
    assert_eq!(set.run("select pg_listening_channels()").one(), "from_a_block");
}
