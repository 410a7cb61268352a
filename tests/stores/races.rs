//! Four processes on one store.

use std::time::{Duration, Instant};

use axum_cache::Caches;
use axum_cache::ttl::Lifetime;

use crate::child::{Client, TTL};
use crate::services::{Service, Store};

const PROCESSES: usize = 4;

/// The URL for clients that wait: a busy machine must not look like a lost race.
pub(crate) fn url(store: &Store, service: &dyn Service) -> String {
    let url = service.url();
    let mark = if url.contains('?') { '&' } else { '?' };
    match store.name {
        // Its calls never wait for a server.
        "file" => url,
        _ => format!("{url}{mark}operation_timeout=20"),
    }
}

pub(crate) fn clients(url: &str, workload: &str, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::start(url, workload)).collect()
}

/// Gives all the same order and returns what each answers.
pub(crate) fn all(clients: &mut [Client], order: &str) -> Vec<String> {
    for client in clients.iter_mut() {
        client.order(order);
    }
    clients.iter_mut().map(Client::answer).collect()
}

/// Four times 16 racers on each of 1,000 keys.
pub(crate) fn adds(store: &'static Store) {
    let service = (store.start)();
    let mut clients = clients(&url(store, &*service), "add", PROCESSES);
    for batch in 0..20 {
        let order = format!("{} {}", batch * 50, (batch + 1) * 50);
        let answers = all(&mut clients, &order);
        let wins: Vec<Vec<usize>> = answers
            .iter()
            .map(|answer| {
                answer
                    .split(' ')
                    .map(|wins| wins.parse().unwrap())
                    .collect()
            })
            .collect();
        for round in 0..50 {
            let winners: usize = wins.iter().map(|wins| wins[round]).sum();
            assert_eq!(winners, 1, "key {} of {answers:?}", batch * 50 + round);
        }
    }
    for client in clients {
        client.finish();
    }
}

/// Four times 5,000 increments of one counter.
pub(crate) async fn counts(store: &'static Store) {
    let service = (store.start)();
    let url = url(store, &*service);
    let cache = cache(&url).await;
    let began = Instant::now();
    cache.set("count", &-7, TTL).await.unwrap();
    let set = Instant::now();
    let mut clients = clients(&url, "count", PROCESSES);
    for answer in all(&mut clients, "5000") {
        assert_eq!(answer, "done");
    }
    for client in clients {
        client.finish();
    }
    assert_eq!(cache.get("count").await.unwrap(), Some(19_993));
    let least = set.elapsed();
    let Some(Lifetime::For(left)) = cache.ttl_of("count").await.unwrap() else {
        panic!("the lifetime is gone");
    };
    let most = began.elapsed();
    // Two units, as the store may round, and what clocks differ.
    let slack = 2 * cache.capabilities().ttl_unit + Duration::from_millis(500);
    assert!(
        left + least <= TTL + slack && left + most + slack >= TTL,
        "{left:?} are left after {least:?} to {most:?}"
    );
}

/// 100,000 reads from three processes while a fourth sets and touches.
pub(crate) fn reads(store: &'static Store) {
    let service = (store.start)();
    let url = url(store, &*service);
    let mut writer = Client::start(&url, "write");
    service.catch_up();
    let mut readers = clients(&url, "read", PROCESSES - 1);
    for answer in all(&mut readers, "33336") {
        assert!(answer.starts_with("0 ") || answer == "0", "{answer}");
    }
    for reader in readers {
        reader.finish();
    }
    writer.order("end");
    let count: usize = writer.answer().parse().unwrap();
    assert!(count > 100, "only {count} writes meanwhile");
    writer.finish();
}

pub(crate) async fn cache(url: &str) -> axum_cache::Cache {
    let settings = axum_cache::Settings::new()
        .with_url("default", url)
        .unwrap();
    let caches = Caches::builder().settings(settings).build().await.unwrap();
    caches.default()
}
