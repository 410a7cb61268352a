//! A store that has lost what it was told.

use std::time::Instant;

use crate::load::{Running, pause, times, warm};
use crate::proxy::Proxy;
use crate::support::servers::redis::{Redis, command};
use crate::tools::{MILLI, OPERATION, PAGES, SECOND, Site, TTL, redis_url, report, until};

/// How many reads of each page there are, and how many were stale.
async fn look_often(site: &Site, rounds: usize) -> (usize, usize, usize) {
    let (mut reads, mut found, mut stale) = (0, 0, 0);
    for _ in 0..rounds {
        for page in 0..PAGES {
            if let Some((is_there, is_old)) = site.look(page).await {
                reads += 1;
                found += usize::from(is_there);
                stale += usize::from(is_old);
            }
        }
    }
    (reads, found, stale)
}

fn rounds() -> usize {
    if crate::is_long() { 25_000 } else { 100 }
}

/// Changes pages for so long, one after the other.
async fn change_for(site: &Site, time: std::time::Duration) -> usize {
    let start = Instant::now();
    let mut changes = 0;
    while start.elapsed() < time {
        let _ = site.change(changes * 7 % PAGES).await;
        changes += 1;
        pause(10 * MILLI).await;
    }
    changes
}

pub(crate) async fn a11_restarted_empty() {
    let mut redis = Redis::start(&[]).unwrap();
    let site = Site::new(&redis_url(redis.port, OPERATION)).await;
    warm(&site).await;
    let load = Running::on(&site, 6 * SECOND);
    let (mut changes, restarts) = (0, 2);
    for _ in 0..restarts {
        changes += change_for(&site, 500 * MILLI).await;
        redis.server.stop("KILL");
        changes += change_for(&site, 300 * MILLI).await;
        redis.start_again();
        changes += change_for(&site, 1500 * MILLI).await;
    }
    let load = load.finish().await;
    until("back", async || site.look(0).await.is_some()).await;
    let (reads, found, stale) = look_often(&site, rounds()).await;
    report(
        "A11 redis",
        "0 wrong answers; 0 stale reads",
        format_args!(
            "empty {restarts} times: {changes} changes, {} stale of {} requests; then {stale} of {reads} reads, {found} found something",
            load.stale(),
            load.len(),
        ),
    );
    assert_eq!(stale, 0);
    assert!(found > 0);
}

/// The server is back as it was some changes ago.
pub(crate) async fn a11_restarted_from_an_old_copy() {
    let mut redis = Redis::start(&[]).unwrap();
    let site = Site::new(&redis_url(redis.port, OPERATION)).await;
    warm(&site).await;
    site.store_parts().await;
    let saved = command(redis.port, &["SAVE"]).unwrap();
    assert!(saved.contains("OK"), "{saved}");
    let load = Running::on(&site, 5 * SECOND);
    let changes = change_for(&site, SECOND).await;
    redis.server.stop("KILL");
    // Short: nobody may have noticed that it was away.
    redis.start_again();
    was_forgotten(
        &site,
        load,
        &format!("back as it was {changes} changes ago"),
    )
    .await;
}

/// A replica takes over that has not heard of the last changes.
pub(crate) async fn a11_replica_takes_over() {
    let (leader, replica) = (Redis::start(&[]).unwrap(), Redis::start(&[]).unwrap());
    let between = Proxy::to(leader.port).await;
    let told = command(
        replica.port,
        &["REPLICAOF", "127.0.0.1", &between.port.to_string()],
    );
    assert!(told.unwrap().contains("OK"));
    let proxy = Proxy::to(leader.port).await;
    let site = Site::new(&redis_url(proxy.port, OPERATION)).await;
    warm(&site).await;
    site.store_parts().await;
    let caught_up = command(leader.port, &["WAIT", "1", "10000"]).unwrap();
    assert!(caught_up.starts_with(":1"), "{caught_up}");
    between.forget_all();
    let load = Running::on(&site, 5 * SECOND);
    let changes = change_for(&site, SECOND).await;
    drop(leader);
    let told = command(replica.port, &["REPLICAOF", "NO", "ONE"]);
    assert!(told.unwrap().contains("OK"));
    proxy.lead_to(replica.port);
    was_forgotten(
        &site,
        load,
        &format!("a replica took over that lacked {changes} changes"),
    )
    .await;
}

async fn was_forgotten(site: &Site, load: Running, how: &str) {
    let load = load.finish_unchecked().await;
    until("back", async || site.look(0).await.is_some()).await;
    let (reads, found, stale) = look_often(site, rounds()).await;
    report(
        "A11 redis",
        "0 wrong answers; 0 stale reads",
        format_args!(
            "{how}: {} stale of {} requests; then {stale} of {reads} reads, {found} found something",
            load.stale(),
            load.len(),
        ),
    );
    assert_eq!((load.wrong(), load.stale(), stale), (0, 0, 0));
    assert!(found > 0);
}

pub(crate) async fn a12_tags_are_evicted() {
    for policy in ["allkeys-lru", "allkeys-random"] {
        let options = ["--maxmemory", "3mb", "--maxmemory-policy", policy];
        let redis = Redis::start(&options).unwrap();
        let site = Site::new(&redis_url(redis.port, OPERATION)).await;
        warm(&site).await;
        let ask = |script: &str| command(redis.port, &["EVAL", script, "0"]).unwrap();
        let tags = || ask("return #redis.call('keys', '*axum-cache:tag:*')");
        let before = tags();
        let load = Running::on(&site, 4 * SECOND * times());
        let filling = tokio::spawn({
            let cache = site.cache.clone();
            async move {
                for number in 0_u32..2000 * times() {
                    let large = vec![number; 1000];
                    let _ = cache.set(&format!("large:{number}"), &large, TTL).await;
                    pause(MILLI).await;
                }
            }
        });
        let changes = change_for(&site, 3 * SECOND * times()).await;
        filling.await.unwrap();
        let after = tags();
        let load = load.finish().await;
        let stats = command(redis.port, &["INFO", "stats"]).unwrap();
        // The worst that may be left: values of before a change, and no tag.
        command(redis.port, &["CONFIG", "SET", "maxmemory", "0"]);
        site.store_parts().await;
        for page in 0..PAGES / 2 {
            until("changed", async || site.change(page).await.is_ok()).await;
        }
        ask(
            "for _, key in ipairs(redis.call('keys', '*axum-cache:tag:*')) do redis.call('del', key) end",
        );
        let left = ask("return #redis.call('keys', '*:part:*:0')");
        let (reads, found, stale) = look_often(&site, rounds()).await;
        let evicted = stats.lines().find(|line| line.starts_with("evicted_keys"));
        let evicted = evicted.unwrap().trim();
        report(
            "A12 redis",
            "0 wrong answers; 0 stale reads",
            format_args!(
                "{policy}: {evicted}, tags {} before and {} after; {changes} changes; {} stale of {}; then {} values and no tag: {stale} of {reads} reads, {found} found something",
                before.trim(),
                after.trim(),
                load.stale(),
                load.between(std::time::Duration::ZERO, std::time::Duration::MAX),
                left.trim(),
            ),
        );
        assert_eq!(stale, 0);
        assert!(evicted != "evicted_keys:0", "it was never full");
        assert!(left.contains(&PAGES.to_string()), "{left}");
    }
}
