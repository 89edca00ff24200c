//! Messages that leave together, and those that leave one by one: whoever waits for them sees no difference.

use pgmoor::net::outbox;

use super::pair::{Moor, Plan, shared};
use super::raw::{Raw, query};

/// The rings a process has.
fn rings(moor: &Moor) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", moor.pid())).unwrap();
    let names = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    names.filter(|name| name.to_string_lossy().contains("io_uring")).count()
}

#[test]
fn sends_leave_by_io_uring_where_it_is_wanted_and_to_be_had() {
    let pair = shared();
    for (wanted, workers) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let limits = format!("io_uring = {wanted}\nworkers = {workers}");
        let plan = Plan { limits, pool: "size = 3".to_owned(), ..pair.plan() };
        let moor = Moor::start(&plan);
        let mut raws: Vec<Raw> = (0..8).map(|_| Raw::login(moor.rw())).collect();
        // All ask at once, short and long, so that several are answered in one turn.
        for turn in 0..40 {
            for (who, raw) in raws.iter_mut().enumerate() {
                let length = if (who + turn) % 5 == 0 { 60_000 } else { turn };
                raw.put(&query(&format!("select repeat('{who}', {length})")));
            }
            for (who, raw) in raws.iter_mut().enumerate() {
                let length = if (who + turn) % 5 == 0 { 60_000 } else { turn };
                assert_eq!(raw.reply().one(), who.to_string().repeat(length), "turn {turn}");
            }
        }
        assert_eq!(rings(&moor) > 0, wanted && outbox::probe().is_ok(), "wanted: {wanted}, {workers}");
    }
}
