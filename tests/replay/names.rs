//! What a transaction changes of its session: settings, prepared statements, channels, temporary tables.

use std::time::Duration;

use super::raw::{Raw, bind, execute, parse, sync, unit};
use super::stage::{Scene, Talk as _, said, scenes};

scenes![
    a_setting_made_inside_is_kept_by_commit,
    a_setting_made_inside_is_undone_by_rollback,
    a_setting_made_before_and_changed_inside,
    a_local_setting,
    a_setting_made_by_a_function,
    a_setting_made_by_a_function_just_then,
    a_setting_undone_by_a_savepoint,
    a_reported_setting,
    a_role,
    constraints_that_wait,
    sql_statements_prepared_inside,
    statements_deallocated_inside,
    a_channel_listened_to_inside,
    a_notification_sent_inside,
    a_temporary_table,
    a_schema_of_its_own_making,
    a_table_of_its_own_making_is_read,
];

fn begun(s: &Scene) -> Raw {
    let mut c = s.client();
    c.say("begin", "BEGIN T");
    c
}

fn a_setting_made_inside_is_kept_by_commit(s: &Scene) {
    let mut c = begun(s);
    c.say("set work_mem = '7MB'", "SET T");
    c.say("set app.tenant = 'seven'", "SET T");
    c.say("insert into t values (1, current_setting('work_mem'))", "INSERT 0 1 T");
    s.lose();
    c.say("show work_mem", "7MB SHOW T");
    c.say("commit", "COMMIT I");
    c.say("show work_mem", "7MB SHOW I");
    s.lose_again();
    c.say("show work_mem", "7MB SHOW I");
    c.say("show app.tenant", "seven SHOW I");
    s.holds("select body from t", "7MB");
}

fn a_setting_made_inside_is_undone_by_rollback(s: &Scene) {
    let mut c = s.client();
    c.say("set work_mem = '5MB'", "SET I");
    c.say("begin", "BEGIN T");
    c.say("set work_mem = '7MB'", "SET T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("show work_mem", "7MB SHOW T");
    c.say("rollback", "ROLLBACK I");
    c.say("show work_mem", "5MB SHOW I");
    s.lose_again();
    c.say("show work_mem", "5MB SHOW I");
}

/// The transaction is run again in the state it began in, not in the one it had reached.
fn a_setting_made_before_and_changed_inside(s: &Scene) {
    let mut c = s.client();
    c.say("set work_mem = '5MB'; set search_path = pg_catalog", "SET SET I");
    c.say("begin", "BEGIN T");
    c.say("show work_mem", "5MB SHOW T");
    c.say(&format!("set search_path = {}", s.name), "SET T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    c.say("set work_mem = '7MB'", "SET T");
    s.lose();
    c.say("show work_mem", "7MB SHOW T");
    c.say("insert into t values (2, 'b')", "INSERT 0 1 T");
    c.say("reset work_mem", "RESET T");
    c.say("commit", "COMMIT I");
    c.say("show work_mem", "4MB SHOW I");
    c.say("select count(*) from t", "2 SELECT 1 I");
}

fn a_local_setting(s: &Scene) {
    let mut c = begun(s);
    c.say("set local work_mem = '7MB'", "SET T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("show work_mem", "7MB SHOW T");
    c.say("commit", "COMMIT I");
    c.say("show work_mem", "4MB SHOW I");
    s.holds("select id from t", "1");
}

fn a_setting_made_by_a_function(s: &Scene) {
    let mut c = begun(s);
    c.say("select set_config('work_mem', '7MB', false)", "7MB SELECT 1 T");
    c.say("do $$ begin perform set_config('statement_timeout', '77s', false); end $$", "DO T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("select current_setting('work_mem') || current_setting('statement_timeout')", "7MB77s SELECT 1 T");
    c.say("commit", "COMMIT I");
    // By now the server was asked.
    c.say("select 1", "1 SELECT 1 I");
    s.lose_again();
    c.say("select current_setting('work_mem') || current_setting('statement_timeout')", "7MB77s SELECT 1 I");
}

/// What a client was told is carried, however soon its server is lost: the row tells the value, or the server was asked
/// before the client could go on.
fn a_setting_made_by_a_function_just_then(s: &Scene) {
    let mut c = s.client();
    c.say("select set_config('app.told', 'by its row', false)", "by its row SELECT 1 I");
    s.lose();
    c.say("select current_setting('app.told')", "by its row SELECT 1 I");
    c.put(&unit("select set_config('app.told', $1 || '!', false)", &["bound"]));
    c.hear("bound! SELECT 1 I");
    s.lose_again();
    c.say("select current_setting('app.told')", "bound! SELECT 1 I");
    c.say("select set_config('work' || '_mem', '7MB', false)", "7MB SELECT 1 I");
    s.lose_again();
    c.say("show work_mem", "7MB SHOW I");
    c.say("do $$ begin perform set_config('statement_timeout', '77s', false); end $$", "DO I");
    s.lose_again();
    c.say("show statement_timeout", "77s SHOW I");
    c.say("begin", "BEGIN T");
    c.say("select set_config('app.told', 'undone', false)", "undone SELECT 1 T");
    c.say("rollback", "ROLLBACK I");
    s.lose_again();
    c.say("select current_setting('app.told')", "bound! SELECT 1 I");
}

fn a_setting_undone_by_a_savepoint(s: &Scene) {
    let mut c = begun(s);
    c.say("set work_mem = '7MB'", "SET T");
    c.say("savepoint s", "SAVEPOINT T");
    c.say("set work_mem = '9MB'", "SET T");
    c.say("rollback to s", "ROLLBACK T");
    s.lose();
    c.say("show work_mem", "7MB SHOW T");
    c.say("commit", "COMMIT I");
    s.lose_again();
    c.say("show work_mem", "7MB SHOW I");
}

/// ParameterStatus comes whenever the setting differs from what the client was told last; never a wrong word.
fn a_reported_setting(s: &Scene) {
    let mut c = begun(s);
    let reply = c.run("set time zone 'Asia/Tokyo'");
    assert_eq!(reply.parameters, [("TimeZone".to_owned(), "Asia/Tokyo".to_owned())]);
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    let reply = c.run("show timezone");
    assert_eq!(reply.one(), "Asia/Tokyo");
    let last = reply.parameters.iter().rev().find(|(name, _)| name == "TimeZone");
    assert!(last.is_none_or(|(_, value)| value == "Asia/Tokyo"), "{reply:?}");
    let reply = c.run("rollback");
    assert!(reply.parameters.iter().any(|(name, value)| name == "TimeZone" && value != "Asia/Tokyo"), "{reply:?}");
}

fn a_role(s: &Scene) {
    let mut c = begun(s);
    c.say(&format!("create role {}", s.name), "CREATE ROLE T");
    c.say(&format!("set local role {}", s.name), "SET T");
    s.lose();
    c.say("select current_user", &format!("{} SELECT 1 T", s.name));
    c.say("rollback", "ROLLBACK I");
    c.say("select current_user", "app SELECT 1 I");
}

fn constraints_that_wait(s: &Scene) {
    s.witness().say("create table child (id int references t deferrable initially immediate)", "CREATE TABLE I");
    let (mut good, mut bad) = (begun(s), begun(s));
    for c in [&mut good, &mut bad] {
        c.say("set constraints all deferred", "SET CONSTRAINTS T");
        c.say("insert into child values (1)", "INSERT 0 1 T");
    }
    s.lose();
    bad.say("commit", "!23503 I");
    good.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    good.say("commit", "COMMIT I");
    s.holds("select id from child", "1");
}

fn sql_statements_prepared_inside(s: &Scene) {
    let mut c = begun(s);
    c.say("prepare put as insert into t values ($1, $2)", "PREPARE T");
    c.say("execute put(1, 'a')", "INSERT 0 1 T");
    s.lose();
    c.say("execute put(2, 'b')", "INSERT 0 1 T");
    c.say("rollback", "ROLLBACK I");
    c.say("execute put(3, 'c')", "INSERT 0 1 I");
    s.lose_again();
    c.say("execute put(4, 'd')", "INSERT 0 1 I");
    s.holds("select id from t order by id", "3 4");
}

fn statements_deallocated_inside(s: &Scene) {
    let mut c = s.client();
    c.say("prepare one as select 1; prepare two as select 2", "PREPARE PREPARE I");
    c.put(&[parse("three", "select 3"), sync()].concat());
    assert_eq!(c.reply().tags, "1Z");
    c.say("begin", "BEGIN T");
    c.say("execute one", "1 SELECT 1 T");
    c.say("deallocate one", "DEALLOCATE T");
    c.say("deallocate three", "DEALLOCATE T");
    s.lose();
    c.say("execute two", "2 SELECT 1 T");
    c.say("savepoint s", "SAVEPOINT T");
    c.say("execute one", "!26000 E");
    c.say("rollback to s", "ROLLBACK T");
    c.put(&[bind("", "three", &[]), execute("", 0), sync()].concat());
    c.hear("!26000 E");
    // What was deallocated stays so, though the transaction is undone.
    c.say("rollback", "ROLLBACK I");
    s.lose_again();
    c.say("execute one", "!26000 I");
    c.say("execute two", "2 SELECT 1 I");
}

/// Waits for one notification.
fn heard(raw: &mut Raw) -> (String, String) {
    let reply = raw.reply_to(b'A');
    reply.notifications.into_iter().next_back().unwrap_or_else(|| panic!("nothing was heard"))
}

fn a_channel_listened_to_inside(s: &Scene) {
    let (mut c, mut undone) = (begun(s), begun(s));
    for raw in [&mut c, &mut undone] {
        raw.say(&format!("listen {}", s.name), "LISTEN T");
        raw.say("select 1", "1 SELECT 1 T");
    }
    s.lose();
    c.say("commit", "COMMIT I");
    undone.say("rollback", "ROLLBACK I");
    s.witness().say(&format!("notify {}, 'news'", s.name), "NOTIFY I");
    assert_eq!(heard(&mut c), (s.name.clone(), "news".to_owned()));
    assert!(undone.run("select 1").notifications.is_empty());
}

fn a_notification_sent_inside(s: &Scene) {
    let mut c = begun(s);
    c.say(&format!("notify {}, 'once'", s.name), "NOTIFY T");
    c.say("insert into t values (1, 'a')", "INSERT 0 1 T");
    s.lose();
    let mut listener = s.witness();
    listener.say(&format!("listen {}", s.name), "LISTEN I");
    c.say("commit", "COMMIT I");
    assert_eq!(heard(&mut listener), (s.name.clone(), "once".to_owned()));
    listener.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(listener.frame().is_err(), "it came twice");
}

fn a_temporary_table(s: &Scene) {
    let mut c = begun(s);
    c.say("create temp table mine (id int) on commit drop", "CREATE TABLE T");
    c.say("insert into mine select g from generate_series(1, 10) g", "INSERT 0 10 T");
    s.lose();
    c.say("insert into t select id, 'copied' from mine", "INSERT 0 10 T");
    c.say("commit", "COMMIT I");
    s.holds("select count(*) from t", "10");
}

fn a_schema_of_its_own_making(s: &Scene) {
    let mut c = begun(s);
    c.say("create table made (id int primary key, note text)", "CREATE TABLE T");
    c.say("insert into made values (1, 'a')", "INSERT 0 1 T");
    c.say("alter table made add column more int default 5", "ALTER TABLE T");
    c.say("create index on made (more)", "CREATE INDEX T");
    s.lose();
    c.say("select * from made", "1,a,5 SELECT 1 T");
    c.say("commit", "COMMIT I");
    s.holds("select * from made", "1,a,5");
}

/// RowDescription tells the table's number, and that is a new one each time.
fn a_table_of_its_own_making_is_read(s: &Scene) {
    let mut c = begun(s);
    c.say("create table made (id int)", "CREATE TABLE T");
    c.say("insert into made values (1) returning *", "1 INSERT 0 1 T");
    s.lose();
    let reply = c.run("select id from made");
    match said(&reply).as_str() {
        "1 SELECT 1 T" => {
            c.say("commit", "COMMIT I");
            s.holds("select id from made", "1");
        }
        "!40001 E" => {
            c.say("rollback", "ROLLBACK I");
            s.holds("select to_regclass('made') is null", "t");
        }
        other => panic!("{other}: {reply:?}"),
    }
}
