//! All scenes at once, through one failover of each kind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::pair::Pair;
use super::stage::{Curtain, Play, Scene, Stage, counted};
use super::{characteristics, copying, extended, long, mismatch, names, reads, statements, writes};

fn through(befall: fn(&Pair)) {
    let scenes: Vec<(&str, Play)> = [
        statements::SCENES,
        extended::SCENES,
        long::SCENES,
        reads::SCENES,
        names::SCENES,
        characteristics::SCENES,
        copying::SCENES,
        mismatch::SCENES,
        writes::SCENES,
    ]
    .concat();
    let stage = Arc::new(Stage::raise());
    let curtain = Arc::new(Curtain::new(scenes.len()));
    let actors = scenes.into_iter().map(|(name, play)| {
        let (stage, curtain) = (Arc::clone(&stage), Arc::clone(&curtain));
        let act = move || {
            let Ok(scene) = catch_unwind(AssertUnwindSafe(|| Scene::new(stage, name, Some(Arc::clone(&curtain)))))
            else {
                curtain.arrive();
                return Err(name);
            };
            let played = catch_unwind(AssertUnwindSafe(|| play(&scene)));
            scene.arrive();
            played.map_err(|_| name)
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(act).unwrap()
    });
    let actors: Vec<_> = actors.collect();
    curtain.gather();
    stage.pair.caught_up();
    befall(&stage.pair);
    curtain.fall();
    stage.promote();
    let count = actors.len();
    let failed: Vec<&str> = actors.into_iter().filter_map(|actor| actor.join().unwrap().err()).collect();
    assert!(failed.is_empty(), "{} of {count} scenes failed: {}", failed.len(), failed.join(", "));
    assert!(stage.moor.resident() < 256 << 20, "pgmoor holds {} bytes", stage.moor.resident());
    assert!(counted(&stage.moor, "pgmoor_replays_total", &["outcome=\"replayed\""]) > 20.0);
    assert!(counted(&stage.moor, "pgmoor_replays_total", &["outcome=\"mismatch\""]) > 3.0);
}

#[test]
fn a_crash() {
    through(Pair::kill9);
}

#[test]
fn a_shutdown_in_good_order() {
    through(Pair::stop);
}
