//! A BEGIN is kept back until the first real statement, and nobody can tell: the same talk with PostgreSQL itself.

use super::raw::{Raw, Reply, about, bind, execute, frame, parse, query, sync, unit};
use super::stage::{Scene, Talk as _, alone, direct, shared};

/// What a client sends, packet by packet; each holds these many ReadyForQuerys' worth.
type Talk = Vec<(Vec<u8>, usize)>;

fn simple(texts: &[&str]) -> Talk {
    texts.iter().map(|text| (query(text), 1)).collect()
}

#[expect(clippy::too_many_lines, reason = "a table: one entry a talk")]
fn talks() -> Vec<Talk> {
    let begin = || [parse("", "begin"), bind("", "", &[]), execute("", 0)].concat();
    let mut talks: Vec<Talk> = [
        &["begin", "commit", "commit"][..],
        &["begin", "rollback", "rollback"],
        &["begin", "begin", "commit"],
        &["begin", "start transaction read only", "select 1", "begin", "commit"],
        &["begin", "savepoint s", "release s", "commit"],
        &["begin", "release s", "select 1", "rollback"],
        &["begin", "rollback to s", "commit"],
        &["begin", "no such word", "select 1", "commit"],
        &["begin", "select 1/0", "begin", "rollback"],
        &["begin", "", "commit"],
        &["begin", "-- nothing", "select 1", "end"],
        &["begin isolation level nonsense", "select 1"],
        &[
            "begin isolation level serializable, read only",
            "show transaction_isolation",
            "insert into t values (1)",
            "commit",
        ],
        &["begin", "set transaction isolation level serializable", "show transaction_isolation", "commit"],
        &["begin", "set transaction isolation level bogus", "rollback"],
        &["begin", "set time zone 'Asia/Tokyo'", "show timezone", "rollback", "show timezone"],
        &["begin", "set local work_mem = '7MB'", "show work_mem", "commit", "show work_mem"],
        &["begin", "commit and chain", "show transaction_isolation", "commit"],
        &["begin isolation level serializable", "commit and chain", "show transaction_isolation", "commit"],
        &["begin isolation level serializable", "rollback and chain", "show transaction_isolation", "commit"],
        &["commit and chain", "rollback and chain", "select 1"],
        &["begin", "prepare transaction 'nothing at all'", "rollback prepared 'nothing at all'", "rollback"],
        &["begin", "vacuum", "rollback"],
        &["begin", "commit prepared 'x'", "rollback"],
        &["begin", "lock table t", "commit", "lock table t"],
        &["begin", "declare c cursor for select 1", "fetch c", "commit", "declare d cursor for select 1"],
        &["begin", "discard all", "rollback"],
        &["begin", "create database nowhere", "rollback"],
        &["begin; select 1", "select 2", "commit"],
        &["begin; commit", "select 1"],
        &["begin; begin", "commit; commit"],
        &["begin;", "begin work", "commit work"],
        &["BEGIN TRANSACTION", "ABORT TRANSACTION", "start transaction", "abort"],
        &["/* a */ begin /* b */ ; -- c", "commit"],
        &["begin", "set transaction read only", "insert into t values (1)", "rollback"],
        &["begin", "deallocate all", "listen x", "unlisten *", "notify x, 'y'", "commit"],
        &["prepare b as select 1", "begin", "execute b", "commit"],
        &["begin", "do $$ begin commit; end $$", "rollback"],
        &["begin", "copy t to stdout", "commit"],
        &["begin not deferrable", "show transaction_deferrable", "commit"],
        &["begin read only, read write", "show transaction_read_only", "commit"],
        &["begin nonsense", "begin", "select 1", "commit"],
    ]
    .into_iter()
    .map(simple)
    .collect();
    talks.extend([
        vec![(unit("begin", &[]), 1), (unit("select 1", &[]), 1), (unit("commit", &[]), 1)],
        vec![(unit("begin", &[]), 1), (sync(), 1), (unit("commit", &[]), 1), (sync(), 1)],
        vec![(unit("begin", &[]), 1), (unit("begin", &[]), 1), (unit("rollback", &[]), 1)],
        vec![(unit("begin", &[]), 1), (unit("nonsense", &[]), 1), (unit("select 1", &[]), 1), (unit("commit", &[]), 1)],
        vec![([begin(), unit("select 1", &[])].concat(), 1), (unit("commit", &[]), 1)],
        vec![([begin(), begin(), sync()].concat(), 1), (query("commit"), 1)],
        vec![([begin(), unit("commit", &[])].concat(), 1), (query("select 1"), 1)],
        vec![([begin(), unit("1/0", &[])].concat(), 1), (query("select 1"), 1)],
        vec![([begin(), unit("select 1/0", &[])].concat(), 1), (query("select 1"), 1), (query("rollback"), 1)],
        vec![([query("begin"), query("select 1"), query("commit"), query("select 2")].concat(), 4)],
        vec![([query("begin"), query("commit"), query("begin"), query("rollback")].concat(), 4)],
        vec![([query("begin"), query("nonsense"), query("commit")].concat(), 3)],
        vec![([unit("begin", &[]), unit("select 1", &[]), unit("commit", &[])].concat(), 3)],
        vec![
            ([parse("b", "begin"), about(b'D', b'S', "b"), sync()].concat(), 1),
            ([bind("", "b", &[]), about(b'D', b'P', ""), execute("", 0), sync()].concat(), 1),
            (query("select 1"), 1),
            ([bind("", "b", &[]), execute("", 0), sync()].concat(), 1),
            (query("commit"), 1),
            ([about(b'C', b'S', "b"), sync()].concat(), 1),
        ],
        // The unnamed statement: gone with a simple query, kept by the extended protocol.
        vec![
            ([parse("", "select 'kept'"), sync()].concat(), 1),
            (query("begin"), 1),
            ([bind("", "", &[]), execute("", 0), sync()].concat(), 1),
            (query("rollback"), 1),
        ],
        vec![
            ([parse("", "select 'kept'"), parse("b", "begin"), sync()].concat(), 1),
            ([bind("", "b", &[]), execute("", 0), sync()].concat(), 1),
            ([bind("", "", &[]), execute("", 0), sync()].concat(), 1),
            (query("commit"), 1),
        ],
        vec![
            (query("begin"), 1),
            ([parse("", "select 1"), sync()].concat(), 1),
            ([bind("p", "", &[]), sync()].concat(), 1),
            ([execute("p", 0), sync()].concat(), 1),
            (query("commit"), 1),
        ],
        // A portal made before the transaction that runs in one packet with its BEGIN.
        vec![
            ([begin(), bind("p", "", &[]), sync()].concat(), 1),
            ([execute("p", 0), sync()].concat(), 1),
            (query("rollback"), 1),
        ],
        vec![(query("begin"), 1), ([about(b'D', b'S', "nothing"), sync()].concat(), 1), (query("rollback"), 1)],
        vec![(query("begin"), 1), ([about(b'C', b'S', "nothing"), sync()].concat(), 1), (query("commit"), 1)],
        vec![(query("begin"), 1), ([bind("", "nothing", &[]), sync()].concat(), 1), (query("commit"), 1)],
        vec![(query("begin"), 1), (frame(b'd', b"stray"), 0), (frame(b'c', b""), 0), (query("commit"), 1)],
    ]);
    talks
}

/// All that was answered; what differs by server and by session is left out.
fn play(raw: &mut Raw, talk: &Talk) -> Vec<Reply> {
    let mut replies = Vec::new();
    for (packet, count) in talk {
        raw.put(packet);
        for _ in 0..*count {
            replies.push(raw.reply());
        }
    }
    replies
}

#[test]
fn nobody_can_tell() {
    let stage = shared();
    let s = Scene::new(stage, "nobody_can_tell", None);
    let mut wrong = Vec::new();
    for talk in talks() {
        let mut raw = direct(s.stage.primary(), "direct", &s.name);
        let wanted = format!("{:#?}", play(&mut raw, &talk));
        let found = format!("{:#?}", play(&mut s.client(), &talk));
        if wanted != found {
            let packets: Vec<String> =
                talk.iter().map(|(packet, _)| String::from_utf8_lossy(packet).escape_debug().to_string()).collect();
            wrong.push(format!("{packets:#?}\nPostgreSQL answers {wanted}\npgmoor {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} talks differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn postgresql_hears_of_it_with_the_first_statement() {
    alone("hears_of_it", |s| {
        let mut c = s.client();
        c.say("begin isolation level serializable", "BEGIN T");
        s.until_seen("state = 'idle'", 1);
        c.say("show transaction_isolation", "serializable SHOW T");
        s.until_seen("state = 'idle in transaction'", 1);
        c.say("commit", "COMMIT I");
        s.until_seen("state = 'idle'", 1);
    });
}
