//! Stores that answer, but with an error: the site goes on, and who asks the cache directly is told why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use axum_cache::{Error, ErrorKind};

use crate::load::{Running, pause, warm};
use crate::support::servers::database::Database;
use crate::support::servers::memcached::Memcached;
use crate::support::servers::redis::{Redis, command};
use crate::support::servers::soon;
use crate::tools::{
    MILLI, OPERATION, SECOND, Site, TTL, assert_typed, cache, redis_url, report, until,
};

/// How calls ended.
#[derive(Default)]
struct Outcomes(BTreeMap<String, usize>);

impl Outcomes {
    fn add<T>(&mut self, operation: &str, outcome: Result<T, Error>) {
        let how = match outcome {
            Ok(_) => "done".to_owned(),
            Err(error) => {
                assert_typed(&error);
                format!("{:?}", error.kind())
            }
        };
        *self.0.entry(format!("{operation} {how}")).or_default() += 1;
    }

    fn failed(&self) -> bool {
        self.0.keys().any(|how| !how.ends_with("done"))
    }
}

/// A site whose store is well, refuses for a second, and is well again.
async fn refuses(store: &str, what: &str, site: &Site, fault: impl FnOnce(), cure: impl FnOnce()) {
    refuse(store, what, site, true, fault, cure).await;
}

/// The same, with pages that change meanwhile if the store makes up for that.
async fn refuse(
    store: &str,
    what: &str,
    site: &Site,
    changes: bool,
    fault: impl FnOnce(),
    cure: impl FnOnce(),
) {
    warm(site).await;
    let load = Running::on(site, 2 * SECOND);
    pause(300 * MILLI).await;
    let from = load.now();
    fault();
    let mut outcomes = Outcomes::default();
    let cache = site.cache.with_tags(["other"]);
    for call in 0..10 {
        outcomes.add("get", cache.get::<u64>("part:1:0").await);
        outcomes.add("set", cache.set(&format!("set:{call}"), &call, TTL).await);
        outcomes.add("incr", cache.incr("incr", 1).await.or_else(absent));
        let invalidated = if changes {
            site.change(call).await
        } else {
            cache.invalidate(["other"]).await
        };
        outcomes.add("invalidate", invalidated);
        pause(100 * MILLI).await;
    }
    let to = load.now();
    cure();
    let load = load.finish().await;
    let during = load.between(from, to);
    let failures = site.world.take_failures();
    report(
        &format!("A5 {store}"),
        "0 wrong answers, 0 stale, 0 panics; typed errors",
        format_args!(
            "{what}: {:?}; within handlers {failures:?}; {during}",
            outcomes.0
        ),
    );
    // What another program stored in another form is as nothing, and replaced.
    let is_noticed = outcomes.failed() || !failures.is_empty();
    assert!(is_noticed || what == "WRONGTYPE", "{what}");
}

/// A counter that is not there is no fault of the store.
fn absent(error: Error) -> Result<i64, Error> {
    match error.kind() {
        ErrorKind::KeyMissing => Ok(0),
        _ => Err(error),
    }
}

async fn well_again(site: &Site) {
    until("well again", async || {
        let outcome = site.cache.set("well", &1, SECOND).await;
        outcome.is_ok() && site.cache.get::<u64>("well").await.is_ok()
    })
    .await;
}

pub(crate) async fn a5_redis_refuses() {
    type Words = &'static [&'static str];
    const SPOIL: &str = "for _, key in ipairs(redis.call('keys', '*')) do
        redis.call('del', key) redis.call('rpush', key, 'x') end";
    const FAULTS: &[(&str, Words, Words)] = &[
        (
            "OOM",
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
        ),
        (
            "READONLY",
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
        ),
        (
            "NOPERM",
            &["ACL", "SETUSER", "default", "-@all", "+acl"],
            &["ACL", "SETUSER", "default", "+@all"],
        ),
        ("WRONGTYPE", &["EVAL", SPOIL, "0"], &["FLUSHALL"]),
        (
            "CLIENT PAUSE",
            &["CLIENT", "PAUSE", "800", "ALL"],
            &["PING"],
        ),
    ];
    let redis = Redis::start(&[]).unwrap();
    let port = redis.port;
    let site = Site::new(&redis_url(port, OPERATION)).await;
    let run = |words: &[&str]| {
        let answer = command(port, words).unwrap();
        assert!(!answer.starts_with('-'), "{words:?}: {answer}");
    };
    for (what, fault, cure) in FAULTS {
        refuses("redis", what, &site, || run(fault), || run(cure)).await;
        well_again(&site).await;
    }
    let silent = || {
        run(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
        run(&["REPLICAOF", "127.0.0.1", "1"]);
    };
    let cure = || run(&["REPLICAOF", "NO", "ONE"]);
    refuses("redis", "MASTERDOWN", &site, silent, cure).await;
    well_again(&site).await;
    let busy = || {
        run(&["CONFIG", "SET", "busy-reply-threshold", "50"]);
        std::thread::spawn(move || command(port, &["EVAL", "while true do end", "0"]));
    };
    let cure = || run(&["SCRIPT", "KILL"]);
    refuses("redis", "BUSY", &site, busy, cure).await;
    well_again(&site).await;
    let locked = Redis::start(&["--requirepass", "secret"]).unwrap();
    let site = Site::new(&redis_url(locked.port, OPERATION)).await;
    never_well("redis", "NOAUTH", &site).await;
}

/// One node that is all of a cluster, until it has no slots.
pub(crate) async fn a5_cluster_is_down() {
    let redis = Redis::start(&["--cluster-enabled", "yes"]).unwrap();
    let slots = |what: &str| {
        let words = ["CLUSTER", what, "0", "16383"];
        let answer = command(redis.port, &words).unwrap();
        assert!(answer.contains("OK"), "{what}: {answer}");
    };
    slots("ADDSLOTSRANGE");
    let url = redis_url(redis.port, OPERATION);
    for url in [url.replace("redis:", "redis+cluster:"), url] {
        let site = Site::new(&url).await;
        well_again(&site).await;
        let fault = || {
            slots("DELSLOTSRANGE");
            let answer = command(redis.port, &["GET", "k"]).unwrap();
            assert!(answer.contains("CLUSTERDOWN"), "{answer}");
        };
        let what = format!("CLUSTERDOWN, {}", &url[..url.find(':').unwrap()]);
        refuses("redis", &what, &site, fault, || slots("ADDSLOTSRANGE")).await;
        well_again(&site).await;
    }
}

/// It reads what it has saved for longer than a second, and says so.
pub(crate) async fn a5_redis_is_loading() {
    let slow = ["--key-load-delay", "3000"];
    let told = ["--loading-process-events-interval-bytes", "1024"];
    let redis = Redis::start(&[slow, told].concat()).unwrap();
    let port = redis.port;
    let site = Site::new(&redis_url(port, OPERATION)).await;
    let redis = Mutex::new(redis);
    let fault = || {
        let mut redis = redis.lock().unwrap();
        redis.save_and_stop();
        redis.server.start_again();
        let is_loading = || {
            let answer = command(port, &["GET", "k"]).unwrap_or_default();
            answer.starts_with("-LOADING")
        };
        assert!(soon(is_loading), "{}", redis.server.log());
    };
    refuses("redis", "LOADING", &site, fault, || ()).await;
    well_again(&site).await;
}

/// A connection is lost, and others have taken the last one.
pub(crate) async fn a5_redis_has_clients_enough() {
    let redis = Redis::start(&[]).unwrap();
    let site = Site::new(&redis_url(redis.port, OPERATION)).await;
    let control = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    let tell = |commands: &[&str]| {
        for command in commands {
            let (mut control, mut answer) = (&control, [0; 1000]);
            control.write_all(command.as_bytes()).unwrap();
            let read = control.read(&mut answer).unwrap();
            assert!(read > 0 && answer[0] != b'-', "{command}");
        }
    };
    let fault = || {
        tell(&["CONFIG SET maxclients 1\r\n", "CLIENT KILL TYPE normal\r\n"]);
        let answer = command(redis.port, &["GET", "k"]).unwrap();
        assert!(answer.contains("max number of clients"), "{answer}");
    };
    let cure = || tell(&["CONFIG SET maxclients 1000\r\n"]);
    refuses("redis", "max number of clients", &site, fault, cure).await;
    well_again(&site).await;
}

/// A store that refuses from the beginning.
async fn never_well(store: &str, what: &str, site: &Site) {
    let load = Running::on(site, SECOND);
    let failed = site.cache.get::<u64>("k").await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed:?}");
    let load = load.finish().await;
    let failures = site.world.take_failures();
    report(
        &format!("A5 {store}"),
        "0 wrong answers, 0 stale, 0 panics; typed errors",
        format_args!(
            "{what}: {failed}; within handlers {failures:?}; {}",
            load.between(Duration::ZERO, Duration::MAX)
        ),
    );
}

pub(crate) async fn a5_memcached_refuses() {
    let memcached = Memcached::start(&["-M", "-m", "2"]).unwrap();
    let url = format!("{}?operation_timeout=0.25", memcached.url());
    let site = Site::new(&url).await;
    let failed = site.cache.set("k", &vec![7_u8; 2 << 20], SECOND).await;
    let failed = failed.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::TooLarge, "{failed:?}");
    let compute = || async { Ok::<_, io::Error>(vec![7_u8; 2 << 20]) };
    let large = site.cache.get_or_set("k", SECOND, compute).await.unwrap();
    assert_eq!(large.len(), 2 << 20);
    let fill = || {
        // Of all sizes, since each has memory of its own.
        for batch in 0..1500 {
            let mut text = String::new();
            for key in 0..100 {
                let length = 1 + key * 2;
                let value = "x".repeat(length);
                let _ = write!(
                    text,
                    "set fill{batch}.{key} 0 0 {length} noreply\r\n{value}\r\n"
                );
            }
            memcached.tell(&text);
        }
    };
    refuses("memcached", "out of memory", &site, fill, || {
        memcached.tell("flush_all\r\n");
    })
    .await;
}

pub(crate) async fn a5_postgres_refuses() {
    let database = Database::postgres().unwrap();
    // Who may create the table does so again; this one may not.
    let creating = cache(&format!("{}?create_table=true", database.url)).await;
    creating.set("k", &1, SECOND).await.unwrap();
    let site = Site::new(&format!("{}?operation_timeout=0.5", database.url)).await;
    let mut holder = None;
    let lock = || holder = Some(database.hold_table("axum_cache", 1));
    refuses("postgres", "locked", &site, lock, || ()).await;
    drop(holder);
    well_again(&site).await;
    let rename = |from, to| {
        database.execute(&format!("ALTER TABLE {from} RENAME TO {to}"));
    };
    let gone = || rename("axum_cache", "elsewhere");
    let back = || rename("elsewhere", "axum_cache");
    refuses("postgres", "no table", &site, gone, back).await;
    well_again(&site).await;
}

pub(crate) async fn a5_sqlite_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache.db");
    let url = format!("sqlite://{}?create_table=true", file.display());
    let site = Site::new(&url).await;
    let spoil = || {
        // All but what the connections have in memory.
        for name in ["cache.db", "cache.db-wal"] {
            let file = folder.path().join(name);
            if let Ok(data) = std::fs::metadata(&file) {
                let length = usize::try_from(data.len()).unwrap();
                std::fs::write(&file, vec![b'x'; length]).unwrap();
            }
        }
    };
    // As for files: what could not be removed may be read where that is whole.
    refuse("sqlite", "overwritten", &site, false, spoil, || ()).await;
}

pub(crate) async fn a5_files_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    std::fs::create_dir(&own).unwrap();
    let site = Site::new(&format!("file://{}", own.display())).await;
    let spoil = || {
        std::fs::rename(&own, &other).unwrap();
        std::fs::write(&own, "no folder").unwrap();
    };
    let cure = || {
        std::fs::remove_file(&own).unwrap();
        std::fs::rename(&other, &own).unwrap();
    };
    // No circuit breaker is before files: what could not be removed is there again.
    refuse("file", "no folder", &site, false, spoil, cure).await;
    well_again(&site).await;
}
