//! The wire to PostgreSQL is cut after every so many bytes of a talk, each way: the client's transcript is that of an
//! undisturbed one, or ends where it may; and the data agree with what it was told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::pair::{psql, until};
use super::raw::{Raw, about, bind, execute, parse, query, sync, unit};
use super::stage::said;
use super::wire::{Fault, Site, Way};

/// A step: what is sent, and how many ReadyForQuerys it asks for.
type Step = (Vec<u8>, usize);

/// The third-last step commits, the last reads by itself.
fn simple(who: &str) -> Vec<Step> {
    [
        "begin",
        &format!("insert into talk values ('{who}', 1, 'one') returning n, body"),
        "select n, body from fixed order by n",
        &format!("update talk set body = 'changed' where who = '{who}' and n = 1"),
        &format!("insert into talk values ('{who}', 2, 'two')"),
        "commit",
        "select n from fixed order by n",
    ]
    .iter()
    .map(|text| (query(text), 1))
    .collect()
}

fn extended(who: &str) -> Vec<Step> {
    let insert = "insert into talk values ($1, $2::int, $3) returning n, body";
    let begin = [parse("", "begin"), bind("", "", &[]), execute("", 0)].concat();
    let put = |n: &str| [bind("", "put", &[who, n, "body"]), execute("", 0), sync()].concat();
    vec![
        ([&begin[..], &parse("put", insert), &about(b'D', b'S', "put"), &put("1")].concat(), 1),
        (unit("savepoint s", &[]), 1),
        ([put("1"), unit("rollback to s", &[])].concat(), 2),
        ([parse("", "select n, body from fixed order by n"), bind("p", "", &[]), execute("p", 2), sync()].concat(), 1),
        ([execute("p", 2), sync(), put("2")].concat(), 2),
        (unit("commit", &[]), 1),
        (unit("select n from fixed where n > $1::int order by n", &["2"]), 1),
    ]
}

/// A talk that writes nothing: there is nothing that could be unknown of it.
fn reading(_: &str) -> Vec<Step> {
    let begin = [parse("", "begin read only"), bind("", "", &[]), execute("", 0)].concat();
    let some = |least: &str| unit("select n, body from fixed where n > $1::int order by n", &[least]);
    vec![
        ([&begin[..], &some("3")].concat(), 1),
        (query("savepoint s; select n from fixed order by n"), 1),
        (query("select no_such_column from fixed"), 1),
        (query("rollback to s"), 1),
        (query("commit"), 1),
        ([some("1"), some("2"), some("3")].concat(), 3),
        (query("copy (select n, body from fixed order by n) to stdout"), 1),
        (query("set work_mem = '7MB'; select 1; select 2"), 1),
        ([query("begin"), query("table fixed"), query("rollback"), query("show work_mem")].concat(), 4),
        (query("begin; select n from fixed order by n; commit"), 1),
    ]
}

/// What an answer is, but for what may differ.
fn essence(raw: &mut Raw, count: usize) -> String {
    let replies: Vec<_> = (0..count).map(|_| raw.reply()).collect();
    let tags = |tags: &str| tags.chars().filter(|tag| !"NS".contains(*tag)).collect::<String>();
    replies.iter().map(|reply| format!("{} {:?} {}\n", tags(&reply.tags), reply.errors, said(reply))).collect()
}

/// How one talk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Undisturbed,
    Lost,
    Unknown,
}

/// Talks, compares with the answers wanted, and looks at the data. An error says what is wrong.
fn talk(
    raw: &mut Raw,
    who: &str,
    steps: &[Step],
    wanted: &[String],
    written: &str,
    mut truth: impl FnMut() -> String,
) -> Result<End, String> {
    for (at, ((bytes, count), wanted)) in steps.iter().zip(wanted).enumerate() {
        raw.put(bytes);
        let found = essence(raw, *count);
        if found == *wanted {
            continue;
        }
        let commits = at + 2 == steps.len();
        let told = format!("step {at} of {who}: {found:?} instead of {wanted:?}");
        let end = if commits && found.contains("!08007 I") {
            End::Unknown
        } else if at + 1 < steps.len() && found.contains("!40001") {
            End::Lost
        } else {
            return Err(told);
        };
        if end == End::Lost && raw.run("rollback").status != 'I' {
            return Err(format!("{told}, and no rollback"));
        }
        let count = truth();
        let fits = count == "0" || (end == End::Unknown && count == written);
        return if fits { Ok(end) } else { Err(format!("{told}, and there are {count} rows")) };
    }
    let count = truth();
    if count == written { Ok(End::Undisturbed) } else { Err(format!("{who} was told COMMIT, and has {count} rows")) }
}

/// The answers of a talk that nobody disturbs, and the bytes it takes.
fn undisturbed(site: &Site, steps: fn(&str) -> Vec<Step>) -> (Vec<String>, [u64; 2]) {
    let mut raw = site.client("undisturbed");
    site.wire.reset("undisturbed");
    let mut wanted = Vec::new();
    for (bytes, count) in steps("who00") {
        raw.put(&bytes);
        wanted.push(essence(&mut raw, count));
    }
    psql(site.pair.a, "delete from talk");
    (wanted, site.wire.seen("undisturbed"))
}

/// The primary lives on; each talk's wire is closed somewhere.
fn sweep(steps: fn(&str) -> Vec<Step>, written: &str) -> BTreeMap<End, usize> {
    let site = Site::build("");
    let (wanted, bytes) = undisturbed(&site, steps);
    let stride = std::env::var("PGMOOR_SWEEP_STRIDE").ok().and_then(|stride| stride.parse().ok()).unwrap_or(9);
    let next = AtomicU64::new(0);
    let ends = Mutex::new(BTreeMap::new());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut witness = super::stage::direct(site.pair.a, "witness", "public");
                loop {
                    let at = next.fetch_add(stride, Ordering::Relaxed);
                    let (way, after) = if at < bytes[0] { (Way::Up, at) } else { (Way::Down, at - bytes[0]) };
                    if after > bytes[1] {
                        break;
                    }
                    let who = format!("w{at:04}");
                    let mut raw = site.client(&who);
                    site.wire.arm(&who, way, after, Fault::Close);
                    let sql = format!("select count(*) from talk where who = '{who}'");
                    let truth = || witness.run(&sql).one().to_owned();
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        talk(&mut raw, &who, &steps(&who), &wanted, written, truth)
                    }));
                    match ended.unwrap_or_else(|_| Err(format!("{who}: no answer"))) {
                        Ok(end) => *ends.lock().unwrap().entry(end).or_insert(0) += 1,
                        Err(error) => wrong.lock().unwrap().push(format!("{way:?} {after}: {error}")),
                    }
                }
            });
        }
    });
    let (wrong, ends) = (wrong.into_inner().unwrap(), ends.into_inner().unwrap());
    assert!(wrong.is_empty(), "{bytes:?} {ends:?}, {} went wrong:\n{}", wrong.len(), wrong.join("\n"));
    // Nobody else writes: there is nothing a replay could stumble over.
    assert_eq!(ends.get(&End::Lost), None, "{ends:?}");
    assert!(ends[&End::Undisturbed] > 20, "{ends:?}");
    ends
}

#[test]
fn simple_queries_under_a_living_primary() {
    sweep(simple, "2");
}

#[test]
fn extended_queries_under_a_living_primary() {
    sweep(extended, "2");
}

#[test]
fn readers_under_a_living_primary() {
    let ends = sweep(reading, "0");
    assert_eq!(ends.get(&End::Unknown), None, "{ends:?}");
}

/// Each talk's wire goes dead somewhere; then the primary dies, and the standby takes over.
#[test]
fn a_talk_each_through_one_failover() {
    const TALKS: u64 = 120;
    let site = Arc::new(Site::build(""));
    let kinds: [fn(&str) -> Vec<Step>; 3] = [simple, extended, reading];
    let measured = kinds.map(|kind| undisturbed(&site, kind));
    let promoted = Arc::new(Mutex::new(false));
    let talkers: Vec<_> = (0..TALKS)
        .map(|at| {
            let kind = (at % 3) as usize;
            let written = if kind == 2 { "0" } else { "2" };
            let (steps, (wanted, bytes)) = (kinds[kind], measured[kind].clone());
            let (site, promoted) = (Arc::clone(&site), Arc::clone(&promoted));
            let who = format!("w{at:04}");
            let mut raw = site.client(&who);
            let at = (bytes[0] + bytes[1]) * at / TALKS;
            let (way, after) = if at < bytes[0] { (Way::Up, at) } else { (Way::Down, at - bytes[0]) };
            site.wire.arm(&who, way, after, Fault::Swallow);
            std::thread::spawn(move || {
                let truth = || {
                    until("the promotion", || (*promoted.lock().unwrap()).then_some(()));
                    psql(site.pair.b, &format!("select count(*) from talk where who = '{who}'"))
                };
                (format!("talk {kind}, {way:?} {after}"), talk(&mut raw, &who, &steps(&who), &wanted, written, truth))
            })
        })
        .collect();
    // They are stuck when the server has heard of nothing new for a while: each waits for an answer that cannot come.
    let heard = "select coalesce(max(state_change), 'epoch') < clock_timestamp() - interval '300ms' \
                 from pg_stat_activity where application_name ~ '^w[0-9]+$'";
    until("all talks to be stuck", || (psql(site.pair.a, heard) == "t").then_some(()));
    site.pair.caught_up();
    site.pair.kill9();
    site.pair.promote();
    *promoted.lock().unwrap() = true;
    let mut ends = BTreeMap::new();
    let (mut wrong, mut lost) = (Vec::new(), Vec::new());
    for talker in talkers {
        match talker.join() {
            Ok((at, Ok(end))) => {
                *ends.entry(end).or_insert(0) += 1;
                if end == End::Lost {
                    lost.push(at);
                }
            }
            Ok((at, Err(error))) => wrong.push(format!("{at}: {error}")),
            Err(_) => wrong.push("no answer".to_owned()),
        }
    }
    assert!(wrong.is_empty(), "{ends:?}, {} went wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(lost.is_empty(), "{ends:?}: {}", lost.join(", "));
    // Of a COMMIT that left together with its question nothing is known when neither came back.
    assert!(ends[&End::Undisturbed] > 60, "{ends:?}");
}
