//! Servers that go away, hang, and come back.

use std::time::{Duration, Instant};

use axum_cache::backend::Sql;
use axum_cache::{Cache, ErrorKind, Ttl};

use super::Target;
use crate::support::servers::database::Database;

/// What a busy machine adds to a deadline.
const SLACK: Duration = Duration::from_secs(1);

async fn started(target: &Target, deadline: Duration) -> (Database, Cache) {
    let server = match target.engine {
        "postgres" => Database::postgres(),
        _ => Database::mysql(),
    };
    let server = server.unwrap();
    let store = Sql::builder(server.url.clone()).operation_timeout(deadline);
    let store = store.create_table(true).build().unwrap();
    let cache = Cache::new(store);
    // Every connection is open, and idle again.
    all_answered(&cache).await;
    (server, cache)
}

/// Soon, 64 operations at once are done in time.
async fn all_answered(cache: &Cache) {
    let start = Instant::now();
    while !together(cache, 64)
        .await
        .all(|(outcome, _)| outcome.is_ok())
    {
        assert!(start.elapsed() < Duration::from_secs(20), "they fail");
    }
}

type Outcome = (Result<(), ErrorKind>, Duration);

/// So many operations at once: how each ended and how long it took.
async fn together(cache: &Cache, operations: usize) -> std::vec::IntoIter<Outcome> {
    let tasks: Vec<_> = (0..operations)
        .map(|n| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let start = Instant::now();
                let key = n.to_string();
                let outcome = match n % 4 {
                    0 => cache.get::<u8>(&key).await.map(drop),
                    1 => cache.set(&key, &1, Ttl::Default).await,
                    2 => cache.add(&key, &1, Ttl::Default).await.map(drop),
                    _ => cache.get_many::<_, u8>(["a", "b"]).await.map(drop),
                };
                (outcome.map_err(|error| error.kind()), start.elapsed())
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes.into_iter()
}

pub(crate) async fn a_restart_is_over_when_it_is_over(target: Target) {
    let (mut server, cache) = started(&target, Duration::from_secs(2)).await;
    for idle in [Duration::ZERO, Duration::from_millis(1200)] {
        server.stop();
        let refused = Instant::now();
        assert!(cache.get::<u8>("k").await.is_err());
        assert!(refused.elapsed() < SLACK, "{:?}", refused.elapsed());
        tokio::time::sleep(idle).await;
        server.start_again();
        let began = Instant::now();
        server.wait();
        let back = Instant::now();
        while let Err(error) = cache.get::<u8>("k").await {
            assert!(error.is_transient());
            assert!(back.elapsed() < SLACK, "{error}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let engine = target.engine;
        let (start, success) = (back - began, back.elapsed());
        eprintln!("{engine}: back after {start:?}, next success {success:?} later");
        together(&cache, 64)
            .await
            .for_each(|(outcome, _)| outcome.unwrap());
    }
    // Without anybody asking in between: reads and upserts are sent again on a new connection.
    server.stop();
    server.start_again();
    server.wait();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cache.get("1").await.unwrap(), Some(1));
    all_answered(&cache).await;
}

pub(crate) async fn a_restart_under_load_is_typed_errors_and_short(target: Target) {
    let (mut server, cache) = started(&target, Duration::from_secs(1)).await;
    let load = tokio::spawn(async move {
        let (start, mut failures) = (Instant::now(), Vec::new());
        while start.elapsed() < Duration::from_secs(2) {
            for (outcome, took) in together(&cache, 32).await {
                assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
                if let Err(kind) = outcome {
                    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout));
                    failures.push(Instant::now());
                }
            }
        }
        failures
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let returned = tokio::task::spawn_blocking(move || {
        server.stop();
        server.start_again();
        server.wait();
        (Instant::now(), server)
    });
    let (returned, _server) = returned.await.unwrap();
    let failures = load.await.unwrap();
    let last = failures
        .last()
        .map(|last| last.saturating_duration_since(returned));
    let last = last.unwrap_or_default();
    assert!(last < SLACK, "{last:?}");
    let (engine, failed) = (target.engine, failures.len());
    eprintln!("{engine}: {failed} typed errors, the last {last:?} after the return");
}

pub(crate) async fn nothing_waits_longer_than_its_deadline(target: Target) {
    let deadline = Duration::from_millis(300);
    let (mut server, cache) = started(&target, deadline).await;
    server.signal("STOP");
    let mut longest = Duration::ZERO;
    for (outcome, took) in together(&cache, 200).await {
        assert_eq!(outcome, Err(ErrorKind::Timeout));
        longest = longest.max(took);
    }
    assert!(longest < deadline + SLACK, "{longest:?}");
    server.signal("CONT");
    let back = Instant::now();
    while cache.get::<u8>("k").await.is_err() {
        assert!(back.elapsed() < SLACK);
    }
    let (engine, success) = (target.engine, back.elapsed());
    eprintln!("{engine}: longest of 200 on a stopped server {longest:?}, {success:?} after it");
    all_answered(&cache).await;
}

pub(crate) async fn a_server_that_is_away_says_so_at_once(target: Target) {
    let url = match target.engine {
        "postgres" => "postgres://user:secret@127.0.0.1:1/test",
        _ => "mysql://user:secret@127.0.0.1:1/test",
    };
    let cache = Cache::new(Sql::connect(url).unwrap());
    for (outcome, took) in together(&cache, 64).await {
        assert_eq!(outcome, Err(ErrorKind::Unavailable));
        assert!(took < SLACK, "{took:?}");
    }
    let error = cache.get::<u8>("key").await.unwrap_err();
    let shown = format!("{error} {error:?} {cache:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("\"key\""),
        "{shown}"
    );
}

/// What callers gave up does not pile up in the server.
pub(crate) async fn what_nobody_waits_for_does_not_pile_up(target: Target) {
    let (server, cache) = started(&target, Duration::from_millis(300)).await;
    let held = server.hold_table("axum_cache", 3);
    let start = Instant::now();
    let (mut most, mut failed) = (0, 0);
    while start.elapsed() < Duration::from_millis(2500) {
        for (outcome, _) in together(&cache, 8).await {
            failed += usize::from(outcome.is_err());
        }
        most = most.max(server.count_connections());
    }
    // The pool's eight, those that the server is about to end, and this question's.
    assert!(most < 40, "{most} connections");
    assert!(failed > 16, "only {failed} calls met the lock");
    drop(held);
}
