//! What is committed before a moment is heard when the moment has passed; and who a notification says has sent it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use pgmoor::continuity::ear::{Heard, Notification, Turn, with_sender};
use pgmoor::session::ear::Subscription;

use crate::pair::shared;
use crate::stage::{Notifier, Stage, silent};

/// What has been heard already, without waiting.
async fn waiting(subscription: &Subscription) -> Vec<Notification> {
    let mut heard = Vec::new();
    poll_fn(|cx| {
        while let Poll::Ready(next) = subscription.poll_next(cx) {
            let Heard::Notification(next) = next else { panic!("overrun") };
            heard.push(next);
        }
        Poll::Ready(())
    })
    .await;
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_heard_when_the_moment_has_passed() {
    const ROUNDS: u32 = 3000;
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let listener = stage.listener(&["moment"]).await;
    let bystander = stage.listener(&["moment", "other"]).await;
    let mut notifiers = [Notifier::on(pair.a), Notifier::on(pair.a)];
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let notifier = &mut notifiers[(round % 2) as usize];
        notifier.notify("moment", &round.to_string());
        let began = Instant::now();
        listener.passed(listener.moment()).await;
        took.push(began.elapsed());
        let heard = waiting(&listener).await;
        let [heard] = heard.as_slice() else { panic!("round {round}: {heard:?}") };
        assert_eq!(heard.payload(), round.to_string().as_bytes());
        assert_eq!(heard.sender(), i32::try_from(notifier.0.key.0).unwrap());
    }
    took.sort();
    println!("to catch up took {:?} in the median, {:?} at most", took[took.len() / 2], took[took.len() - 1]);
    assert_eq!(waiting(&bystander).await.len(), ROUNDS as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_wait_for_one_answer() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let mut listeners = Vec::new();
    for _ in 0..100 {
        listeners.push(stage.listener(&["crowd"]).await);
    }
    let mut notifier = Notifier::on(pair.a);
    for _ in 0..20 {
        notifier.notify("crowd", "x");
        let moments: Vec<_> = listeners.iter().map(Subscription::moment).collect();
        for (listener, moment) in listeners.iter().zip(moments) {
            listener.passed(moment).await;
            assert_eq!(waiting(listener).await.len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_passes_although_nobody_answers() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let listener = stage.listener(&["nobody answers"]).await;
    stage.show(None);
    listener.passed(listener.moment()).await; // it still hears its old primary
    let idle = stage.ears.subscribe(&stage.realm, stage.caller("app"));
    idle.passed(idle.moment()).await;
    drop(listener);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let began = Instant::now();
    idle.passed(idle.moment()).await; // there is no ear any more
    assert!(began.elapsed() < std::time::Duration::from_millis(50));
    silent(&idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_knows_its_own_by_the_number_it_was_given() {
    let pair = shared();
    let stage = Stage::new(&[("a", pair.a)]);
    let listener = stage.listener(&["t"]).await;
    let mut notifier = Notifier::on(pair.a);
    let held = i32::try_from(notifier.0.key.0).unwrap();
    // Somebody else has the backend, then this session, then somebody else again; all is looked at late.
    notifier.notify("t", "before");
    let mut turn = Turn::new(held, listener.moment());
    listener.passed(turn.from()).await;
    notifier.notify("t", "payload");
    let end = listener.moment();
    turn.end(end);
    listener.passed(end).await;
    notifier.notify("t", "after");
    listener.passed(listener.moment()).await;
    let all = waiting(&listener).await;
    assert_eq!(all.iter().map(|one| turn.process(one)).collect::<Vec<_>>(), [None, Some(held), None]);
    let heard = &all[1];
    let sender = |frame: &[u8]| i32::from_be_bytes(frame[5..9].try_into().unwrap());
    let own = 77;
    assert_eq!(sender(&heard.told_to(own, turn.process(heard))), own, "sent by the backend it had");
    assert_eq!(sender(&all[0].told_to(own, turn.process(&all[0]))), held, "sent by it for somebody else");
    assert_eq!(sender(&heard.told_to(own, None)), held);
    assert_eq!(sender(&heard.told_to(held, None)), 0, "another with the session's own number by chance");
    let told = with_sender(heard.frame(), own);
    assert_eq!((told.len(), &told[..5], &told[9..]), (heard.frame().len(), &heard.frame()[..5], &heard.frame()[9..]));
    assert_eq!(&told[..], b"A\0\0\0\x12\0\0\0\x4dt\0payload\0");
    assert_eq!(heard.told_to(own, None), *heard.frame());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_notifies_hears_itself_however_many_do() {
    const ROUNDS: u32 = 600;
    let pair = shared();
    let stage = Arc::new(Stage::new(&[("a", pair.a)]));
    let mut tasks = Vec::new();
    for channel in ["self 1", "self 2", "self 3", "self 4"] {
        let (stage, address) = (Arc::clone(&stage), pair.a);
        tasks.push(tokio::spawn(async move {
            let listener = stage.listener(&[channel, "selves"]).await;
            let mut notifier = Notifier::on(address);
            let process = i32::try_from(notifier.0.key.0).unwrap();
            let mut all = 0;
            for round in 0..ROUNDS {
                let notified = tokio::task::spawn_blocking(move || {
                    notifier.0.run("BEGIN");
                    notifier.notify(channel, &round.to_string());
                    notifier.notify("selves", &round.to_string());
                    notifier.0.run("COMMIT");
                    notifier
                });
                notifier = notified.await.unwrap();
                listener.passed(listener.moment()).await;
                let heard = waiting(&listener).await;
                all += heard.iter().filter(|one| one.channel() == b"selves").count();
                let own =
                    heard.iter().filter(|one| one.sender() == process && one.payload() == round.to_string().as_bytes());
                assert_eq!(own.count(), 2, "{channel}, round {round}");
            }
            (listener, all)
        }));
    }
    let mut listeners = Vec::new();
    for task in tasks {
        listeners.push(task.await.unwrap());
    }
    for (listener, all) in listeners {
        listener.passed(listener.moment()).await;
        let rest = waiting(&listener).await.len();
        assert!((all + rest) as u32 >= ROUNDS, "its own at least");
    }
}
