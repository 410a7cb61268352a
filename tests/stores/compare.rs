//! What is compared and set over a connection that fails: whoever cannot know says so.

use std::time::Duration;

use axum_cache::backend::{Backend, Memcached as MemcachedStore, Redis as RedisStore, Sql};
use axum_cache::entry::Entry;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, Result};

use crate::proxy::Proxy;
use crate::services::PATIENCE;
use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::redis::Redis;

/// Long enough for a busy machine: only what is lost is to run out of it.
const DEADLINE: Duration = Duration::from_secs(2);

/// The answer to the write is lost, which comes after so many others.
async fn assert_unknown_is_an_error<B: Backend + Clone>(
    port: u16,
    answers: usize,
    store: impl Fn(u16) -> Result<B>,
) {
    let proxy = Proxy::to(port).await;
    let (direct, store) = (store(port).unwrap(), store(proxy.port).unwrap());
    let key = Cache::new(direct.clone()).final_key("k").unwrap();
    let forever = Lifetime::Forever;
    let swap = async |from: &'static str, to: &'static str| {
        let from = Entry::from(from);
        store.compare_and_set(&key, &from, to.into(), forever).await
    };
    direct.set(&key, "first".into(), forever).await.unwrap();
    // Connections, scripts and statements are there from now on.
    assert!(!swap("other", "never").await.unwrap());
    assert!(swap("first", "old").await.unwrap());
    proxy.lose_answers_after(answers);
    let error = swap("old", "new").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(error.operation(), Some("compare_and_set"));
    let there = direct.get(&key).await.unwrap();
    assert_eq!(there, Some("new".into()), "it happened all the same");
    proxy.lose_answers_after(usize::MAX);
    proxy.forget();
    // Over a connection that leads nowhere nothing happens; who still has one fails.
    let outcomes = [swap("new", "newer").await, swap("new", "newer").await];
    let happened = outcomes.iter().filter(|it| matches!(it, Ok(true))).count();
    assert!(happened <= 1);
    let start = tokio::time::Instant::now();
    while store.get(&key).await.is_err() {
        assert!(start.elapsed() < PATIENCE);
    }
    let there = direct.get(&key).await.unwrap();
    let expected = if happened == 1 { "newer" } else { "new" };
    assert_eq!(there, Some(expected.into()));
    assert!(!swap("old", "never").await.unwrap());
    assert!(swap(expected, "last").await.unwrap());
}

pub(crate) async fn a_lost_answer_of_redis_is_an_error() {
    let server = Redis::start(&[]).unwrap();
    let store = |port| {
        let store = RedisStore::builder([format!("redis://127.0.0.1:{port}")]);
        store.operation_timeout(DEADLINE).build()
    };
    assert_unknown_is_an_error(server.port, 0, store).await;
}

pub(crate) async fn a_lost_answer_of_memcached_is_an_error() {
    let server = Memcached::start(&[]).unwrap();
    let port = server.url().rsplit(':').next().unwrap().parse().unwrap();
    let store = |port| {
        let store = MemcachedStore::builder([format!("memcached://127.0.0.1:{port}")]);
        store.operation_timeout(DEADLINE).build()
    };
    // The answer to the look comes through.
    assert_unknown_is_an_error(port, 1, store).await;
}

async fn assert_of_database(server: Database) {
    let port = server.url.rsplit([':', '/']).nth(1).unwrap();
    let store = |other: u16| {
        let url = server.url.replace(port, &other.to_string());
        Sql::builder(url).create_table(true).build()
    };
    assert_unknown_is_an_error(port.parse().unwrap(), 0, store).await;
}

pub(crate) async fn a_lost_answer_of_postgres_is_an_error() {
    assert_of_database(Database::postgres().unwrap()).await;
}

pub(crate) async fn a_lost_answer_of_mysql_is_an_error() {
    assert_of_database(Database::mysql().unwrap()).await;
}
