//! Logins that no backend is needed for, and those that PostgreSQL has to be asked about.

use std::time::{Duration, Instant};

use super::pair::{Moor, Plan, psql, shared};
use super::raw::Raw;

#[test]
fn a_login_of_a_known_kind_needs_no_backend() {
    let pair = shared();
    let pool = "size = 1\npod_size = 5".to_owned();
    let moor = Moor::start(&Plan { pool, continuity: "hold = \"500ms\"".to_owned(), ..pair.plan() });
    let kind = [("application_name", "first"), ("datestyle", "SQL, DMY")];
    let mut holder = Raw::open(moor.rw()).unwrap();
    let greeting = holder.start(&kind);
    assert_eq!(greeting.status, 'I', "{greeting:?}");
    assert!(greeting.parameters.contains(&("DateStyle".to_owned(), "SQL, DMY".to_owned())), "{greeting:?}");
    assert!(greeting.parameters.contains(&("application_name".to_owned(), "first".to_owned())), "{greeting:?}");
    holder.run("begin");
    holder.run("select 1");
    // The only backend is taken: whoever needs one waits.
    let began = Instant::now();
    let mut second = Raw::open(moor.rw()).unwrap();
    let reply = second.start(&kind);
    assert_eq!((reply.status, reply.code()), ('I', ""), "{reply:?}");
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!((&reply.parameters, &reply.tags), (&greeting.parameters, &greeting.tags));
    let reply = Raw::open(moor.rw()).unwrap().start(&[("application_name", "other"), ("datestyle", "SQL, DMY")]);
    assert_eq!(reply.code(), "53300", "nobody knows what it would be told: {reply:?}");
    holder.run("rollback");
    assert_eq!(second.run("show application_name").one(), "first");
    assert_eq!(second.run("show datestyle").one(), "SQL, DMY");
}

#[test]
fn who_is_not_let_in_is_told_at_the_login() {
    let pair = shared();
    let moor = Moor::start(&Plan { pool: "size = 4\npod_size = 20".to_owned(), ..pair.plan() });
    let login = || {
        let mut raw = Raw::open(moor.rw()).unwrap();
        let reply = raw.start(&[("database", "passing")]);
        (raw, reply)
    };
    assert_eq!(login().1.code(), "3D000");
    psql(pair.a, "create database passing");
    assert_eq!(login().1.code(), "");
    assert_eq!(login().0.run("select current_database()").one(), "passing");
    psql(pair.a, "drop database passing with (force)");
    let (mut early, reply) = login();
    assert_eq!(reply.code(), "", "as far as anybody knows");
    assert_eq!(early.run("select 1").code(), "3D000");
    assert_eq!(login().1.code(), "3D000", "now it is known");
}
