//! Memory in front of a store in three processes: how old what is read may be while messages between them are
//! lost, come twice, and late.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::child::{Client, order, say};
use crate::races::{all, clients};
use crate::services::SLACK;
use crate::staleness::{KEYS, Load, Outcome, Written, assert_bound, name};
use crate::support::servers::database::Database;
use crate::support::servers::redis::Redis;
use crate::tiered::{Fault, Node, is_long, postgres_node, redis_node, times, until};

const NODES: usize = 3;

/// A node that does as it is told.
pub(crate) async fn node(store: &str) {
    let url = std::env::var("CACHE_URL").unwrap();
    let node: Node = match store {
        "redis" => redis_node(&url),
        _ => postgres_node(&url),
    };
    node.cache.contains("start").await.unwrap();
    say("ready");
    let mut load = None;
    while let Some(order) = order().await {
        let (what, more) = order.split_once(' ').unwrap_or((&order, ""));
        match what {
            "use" => {
                until(|| node.tiered.near_staleness() == Some(times().0)).await;
                say("in use");
            }
            "fault" => {
                node.fault.store(more.parse().unwrap(), Ordering::SeqCst);
                say("so it is");
            }
            "load" => {
                let (path, at) = more.split_once(' ').unwrap();
                let (path, at) = (Path::new(path), at.parse().unwrap());
                load = Some(Load::start(&node.cache, path, at, NODES));
                say("begun");
            }
            "end" => say(load.take().unwrap().end().await),
            "get" => say(format_args!(
                "{:?}",
                node.cache.get::<u64>(more).await.unwrap()
            )),
            other => panic!("{other} is no order"),
        }
    }
}

/// Messages are lost, come twice and late; then all is well again. So many kinds of it are tried.
fn assert_bound_holds(store: &str, url: &str, tried: usize) {
    let (bound, lasts) = times();
    let mut nodes = clients(url, &format!("near-{store}"), NODES);
    let folder = tempfile::tempdir().unwrap();
    let in_use = |nodes: &mut [Client]| drop(all(nodes, "use"));
    let suffer = |nodes: &mut [Client], fault: Fault| {
        drop(all(nodes, &format!("fault {}", fault as u64)));
    };
    in_use(&mut nodes);
    std::thread::sleep(bound / 2);
    let faults = [
        (Fault::Silent, 0..NODES),
        (Fault::Mute, 0..1),
        (Fault::Silent, 1..2),
        (Fault::Deaf, 1..2),
        (Fault::Unruly, 0..NODES),
    ];
    let tried = if is_long() { faults.len() } else { tried };
    for (round, (fault, of)) in faults.into_iter().take(tried).enumerate() {
        let path = folder.path().join(round.to_string());
        Written::create(&path);
        for (at, node) in nodes.iter_mut().enumerate() {
            node.order(&format!("load {} {at}", path.display()));
            node.answer();
        }
        suffer(&mut nodes, Fault::Unruly);
        std::thread::sleep(bound / 4);
        suffer(&mut nodes[of.clone()], fault);
        std::thread::sleep(lasts);
        suffer(&mut nodes, Fault::Unruly);
        let healed = Instant::now();
        in_use(&mut nodes);
        let whole = healed.elapsed();
        suffer(&mut nodes, Fault::None);
        std::thread::sleep(bound / 4);
        let answers = all(&mut nodes, "end");
        let outcomes: Vec<Outcome> = answers.iter().map(|it| it.parse().unwrap()).collect();
        let what = format!("D7 {store}, {NODES} processes, {fault:?} at {of:?}");
        let more = format!(", faults for {lasts:?}; in full use {whole:?} after, criterion <= 2s");
        assert_bound(&what, bound, &outcomes, &more);
        assert!(whole <= Duration::from_secs(2) + SLACK, "{what}");
        assert_all_equal(&mut nodes);
    }
    for node in nodes {
        node.finish();
    }
}

/// Within two seconds, and what a busy machine adds, all nodes have the same.
fn assert_all_equal(nodes: &mut [Client]) {
    let start = Instant::now();
    for key in 0..KEYS {
        loop {
            let answers = all(nodes, &format!("get {}", name(key)));
            if answers
                .iter()
                .all(|answer| answer.starts_with("Some") && *answer == answers[0])
            {
                break;
            }
            assert!(
                start.elapsed() < Duration::from_secs(2) + SLACK,
                "{answers:?}"
            );
        }
    }
}

pub(crate) async fn lost_messages_keep_the_bound_on_redis() {
    let server = Redis::start(&[]).unwrap();
    assert_bound_holds("redis", &server.url(), 4);
}

pub(crate) async fn lost_messages_keep_the_bound_on_postgres() {
    let server = Database::postgres().unwrap();
    assert_bound_holds("postgres", &server.url, 2);
}
