//! What is peculiar to Redis.

use std::process::Command;
use std::time::{Duration, Instant};

use axum_cache::backend::{Backend, Redis as Store};
use axum_cache::{Cache, Compression, ErrorKind, Ttl};

use crate::services::{PATIENCE, SLACK, in_the_end};
use crate::support::servers::redis::{Cluster, Redis, Replicated, Sentinel, command};
use crate::support::servers::{folder, soon};

fn start(options: &[&str]) -> Redis {
    Redis::start(options).unwrap()
}

/// A store whose deadline is not the subject.
fn patient(server: &Redis) -> Store {
    patient_at([server.url()])
}

fn patient_at<S: Into<String>>(urls: impl IntoIterator<Item = S>) -> Store {
    let builder = Store::builder(urls).operation_timeout(PATIENCE);
    builder.build().unwrap()
}

/// Sets, reads, and removes by batch.
async fn assert_works(cache: &Cache) {
    cache.set("k", &1, Ttl::Default).await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
    assert_eq!(cache.incr("k", 1).await.unwrap(), 2);
    assert_eq!(cache.delete_many(["k", "x"]).await.unwrap(), 1);
}

pub(crate) async fn user_password_and_database_open_what_is_locked() {
    let server = start(&["--requirepass", "p@ss/word"]);
    let port = server.port;
    for url in [
        format!("redis://:p%40ss%2Fword@127.0.0.1:{port}/3"),
        format!("redis://default:p%40ss%2Fword@127.0.0.1:{port}/3"),
    ] {
        assert_works(&Cache::new(patient_at([url]))).await;
    }
    let builder = Store::builder([server.url()]).operation_timeout(PATIENCE);
    let builder = builder.username("default").password("p@ss/word");
    let store = builder.db(3).build().unwrap();
    let cache = Cache::new(store);
    cache.set("in-three", &1, Ttl::Default).await.unwrap();
    for url in [server.url(), format!("redis://:wrong@127.0.0.1:{port}")] {
        let store = Store::connect(&url).unwrap();
        let shown = format!("{store:?}");
        let error = Cache::new(store).get::<i32>("k").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let shown = format!("{error:?} {error} {shown}");
        assert!(
            !shown.contains("wrong") && !shown.contains("p@ss"),
            "{shown}"
        );
    }
    let other = Store::builder([server.url()]).operation_timeout(PATIENCE);
    let other = Cache::new(other.password("p@ss/word").build().unwrap());
    assert_eq!(other.get::<i32>("in-three").await.unwrap(), None);
}

pub(crate) async fn a_socket_does_too() {
    let dir = folder("socket");
    let path = dir.join("redis.sock");
    let _server = start(&["--unixsocket", path.to_str().unwrap()]);
    let url = format!("redis+unix://{}", path.display());
    assert_works(&Cache::new(patient_at([url]))).await;
    std::fs::remove_dir_all(dir).unwrap();
}

/// Makes an authority and a certificate of it for 127.0.0.1.
fn certificates(dir: &std::path::Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=cache
        printf 'subjectAltName=IP:127.0.0.1' >names
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
            -out server.crt -days 2 -extfile names";
    let mut shell = Command::new("sh");
    let made = shell
        .args(["-ec", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

pub(crate) async fn tls_is_spoken_to_whom_the_authority_vouches_for() {
    let dir = folder("tls");
    certificates(&dir);
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let tls_port = crate::support::servers::port().to_string();
    let (cert, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let _server = start(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{tls_port}");
    let settings = format!("{url}?root_certificate={ca}&operation_timeout=20");
    assert_works(&crate::races::cache(&settings).await).await;
    let stranger = Cache::new(Store::connect(&url).unwrap());
    let error = stranger.get::<i32>("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    std::fs::remove_dir_all(dir).unwrap();
}

/// RD-02: while replicas lag, a process reads what it wrote; later from replicas.
pub(crate) async fn a_process_reads_its_own_writes() {
    const WINDOW: Duration = Duration::from_secs(3);
    let servers = Replicated::start().unwrap();
    let builder = Store::builder(servers.urls()).operation_timeout(PATIENCE);
    let cache = Cache::new(builder.read_your_writes(WINDOW).build().unwrap());
    for replica in &servers.replicas {
        // From now on they hear nothing of the leader.
        command(replica.port, &["REPLICAOF", "127.0.0.1", "1"]);
    }
    let keys: Vec<_> = (0..100).map(|number| format!("k:{number}")).collect();
    let mut attempts = 0;
    loop {
        let (start, mut own) = (Instant::now(), 0);
        for (number, key) in keys.iter().enumerate() {
            cache.set(key, &number, Ttl::Default).await.unwrap();
            own += usize::from(cache.get(key).await.unwrap() == Some(number));
        }
        let all = cache.get_many::<_, usize>(&keys).await.unwrap().len();
        // A busy machine may need longer than that, which says nothing.
        if start.elapsed() < WINDOW {
            assert_eq!((own, all), (100, 100));
            break;
        }
        attempts += 1;
        assert!(attempts < 20, "no attempt ends within {WINDOW:?}");
    }
    tokio::time::sleep(WINDOW + Duration::from_millis(200)).await;
    assert_eq!(
        cache.get::<i32>("k:1").await.unwrap(),
        None,
        "it was not read from a replica"
    );
    cache.touch("k:1", Ttl::Never).await.unwrap();
    assert_eq!(cache.get("k:1").await.unwrap(), Some(1));
}

/// RD-02: reads are spread, and fall back.
pub(crate) async fn reads_are_spread_and_fall_back_to_the_leader() {
    const DEADLINE: Duration = Duration::from_secs(4);
    let mut servers = Replicated::start().unwrap();
    let builder = Store::builder(servers.urls()).operation_timeout(DEADLINE);
    let builder = builder.read_your_writes(Duration::from_millis(1));
    let cache = Cache::new(builder.build().unwrap());
    cache.set("k", &1, Ttl::Default).await.unwrap();
    for replica in &servers.replicas {
        let start = Instant::now();
        while command(replica.port, &["EXISTS", ":1:k"]).unwrap().trim() != ":1" {
            assert!(start.elapsed() < PATIENCE, "no replica");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // Long enough for what this process has written to be read from anywhere.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let reads = |port| {
        let info = command(port, &["INFO", "commandstats"]).unwrap();
        let calls = info.split("cmdstat_get:calls=").nth(1);
        calls.map_or(0, |rest| {
            rest.split(',').next().unwrap().parse::<u32>().unwrap()
        })
    };
    for _ in 0..100 {
        assert_eq!(cache.get("k").await.unwrap(), Some(1));
    }
    assert_eq!(reads(servers.leader.port), 0);
    for replica in &servers.replicas {
        assert_eq!(reads(replica.port), 50);
    }
    servers.replicas[0].server.stop("KILL");
    for _ in 0..100 {
        assert_eq!(cache.get("k").await.unwrap(), Some(1));
    }
    // One that hangs is worse than one that is gone: half the time is left for the leader.
    servers.replicas[1].server.signal("STOP");
    let start = Instant::now();
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    servers.replicas[1].server.signal("CONT");
}

/// The leader dies, the sentinel names another, and writes go there.
pub(crate) async fn a_failover_is_followed() {
    let mut servers = Sentinel::start(Duration::from_millis(300)).unwrap();
    let cache = Cache::new(Store::connect(&servers.url()).unwrap());
    in_the_end(async || cache.set("k", &1, Ttl::Default).await).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    servers.leader.server.stop("KILL");
    let start = Instant::now();
    while cache.set("k", &2, Ttl::Default).await.is_err() {
        assert!(start.elapsed() < 2 * PATIENCE, "{}", servers.watch.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = in_the_end(async || cache.get("k").await).await;
    assert_eq!(found, Some(2));
    let role = command(servers.replica.port, &["ROLE"]).unwrap();
    assert!(role.contains("master"), "{role}");
}

pub(crate) async fn a_lock_has_one_holder_until_its_lease_ends() {
    let server = start(&[]);
    let store = patient(&server);
    let key = Cache::new(store.clone()).final_key("job").unwrap();
    // Long enough for a busy machine, too, where it has to last.
    let (lease, long) = (Duration::from_secs(2), Duration::from_secs(60));
    let over = lease + Duration::from_millis(100);
    let lock = store.try_lock(&key, lease).await.unwrap().unwrap();
    assert!(store.try_lock(&key, lease).await.unwrap().is_none());
    assert!(lock.extend(long).await.unwrap());
    tokio::time::sleep(over).await;
    assert!(store.try_lock(&key, lease).await.unwrap().is_none());
    assert!(lock.release().await.unwrap());
    let lock = store.try_lock(&key, lease).await.unwrap().unwrap();
    tokio::time::sleep(over).await;
    let next = store.try_lock(&key, long).await.unwrap().unwrap();
    // The first came too late, and takes nothing from the next.
    assert!(!lock.extend(lease).await.unwrap());
    assert!(!lock.release().await.unwrap());
    assert!(next.release().await.unwrap());
}

/// A11: a leader has another replication ID once its first replica comes, and no connection is lost by that.
pub(crate) async fn nodes_agree_on_tags_though_the_leader_changes_its_id() {
    let (leader, replica) = (start(&[]), start(&[]));
    let node = || Cache::new(patient(&leader)).with_tags(["tag"]);
    let early = node();
    early.set("early", &1, Ttl::Default).await.unwrap();
    assert_eq!(early.get("early").await.unwrap(), Some(1));
    let id = || {
        let info = command(leader.port, &["INFO", "replication"]).unwrap();
        let line = info.lines().find(|line| line.starts_with("master_replid:"));
        line.unwrap().to_owned()
    };
    let before = id();
    command(
        replica.port,
        &["REPLICAOF", "127.0.0.1", &leader.port.to_string()],
    )
    .unwrap();
    assert!(soon(|| id() != before), "the test shows nothing");
    let late = node();
    for round in 0..3 {
        late.set("late", &round, Ttl::Default).await.unwrap();
        for node in [&early, &late, &early] {
            assert_eq!(node.get("late").await.unwrap(), Some(round));
        }
        early.set("early", &round, Ttl::Default).await.unwrap();
        for node in [&late, &early, &late] {
            assert_eq!(node.get("early").await.unwrap(), Some(round));
        }
    }
    early.expire(["tag"]).await.unwrap();
    assert_eq!(late.get::<u32>("late").await.unwrap(), None);
}

/// X-01, and D10: thousands of keys of a prefix, on one server and on a cluster.
pub(crate) async fn keys_of_a_prefix_are_found_and_removed() {
    let (server, cluster) = (start(&[]), Cluster::start().unwrap());
    let nodes = cluster
        .urls()
        .join(",")
        .replace("redis://", "redis+cluster://");
    for store in [patient(&server), patient_at(nodes.split(','))] {
        let cache = Cache::new(store.clone());
        let items = |prefix: &str| -> Vec<_> {
            (0..2500)
                .map(|number| (format!("{prefix}:{number}"), number))
                .collect()
        };
        for prefix in ["a", "a*", "b"] {
            let failed = cache.set_many(items(prefix), Ttl::Default).await.unwrap();
            assert!(failed.is_empty(), "{failed:?}");
        }
        let prefix = cache.final_key("a*:").unwrap();
        let mut keys = store.keys(prefix.as_str());
        let (mut found, mut pages) = (std::collections::BTreeSet::new(), 0);
        while let Some(page) = keys.next_page().await.unwrap() {
            assert!(
                page.iter()
                    .all(|key| key.starts_with(prefix.as_str().as_bytes()))
            );
            found.extend(page);
            pages += 1;
        }
        assert_eq!(found.len(), 2500);
        assert!(pages > 3);
        assert_eq!(store.delete_prefix(prefix.as_str()).await.unwrap(), 2500);
        assert_eq!(cache.get("a:1").await.unwrap(), Some(1));
        assert_eq!(cache.get::<i32>("a*:1").await.unwrap(), None);
        let all: Vec<_> = items("b").into_iter().map(|(key, _)| key).collect();
        assert_eq!(cache.get_many::<_, i32>(&all).await.unwrap().len(), 2500);
        cache.clear().await.unwrap();
        assert_eq!(cache.get_many::<_, i32>(&all).await.unwrap().len(), 0);
        store.flush_store().await.unwrap();
    }
}

/// RD-05: batches take one round trip, and counters one step.
pub(crate) async fn batches_and_counters_take_one_command() {
    let server = start(&[]);
    let cache = Cache::new(patient(&server));
    let items = (0..100).map(|number| (format!("k:{number}"), number));
    cache.set_many(items.clone(), Ttl::Never).await.unwrap();
    cache.incr("k:1", 1).await.unwrap();
    command(server.port, &["CONFIG", "RESETSTAT"]);
    let keys: Vec<_> = items.clone().map(|(key, _)| key).collect();
    cache.get_many::<_, i32>(&keys).await.unwrap();
    cache.incr("k:1", 1).await.unwrap();
    let stats = command(server.port, &["INFO", "commandstats"]).unwrap();
    for once in ["cmdstat_mget:calls=1,", "cmdstat_evalsha:calls=1,"] {
        assert!(stats.contains(once), "{stats}");
    }
    assert!(!stats.contains("cmdstat_get:"), "{stats}");
}

/// A5: errors of the server are typed, and an old value is not left behind by a `set` that failed.
pub(crate) async fn refusals_of_the_server_are_typed() {
    let server = start(&[]);
    let cache = Cache::new(patient(&server));
    cache.set("k", &1, Ttl::Default).await.unwrap();
    command(server.port, &["CONFIG", "SET", "maxmemory", "1"]);
    let error = cache.set("k", &2, Ttl::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!cache.contains("k").await.unwrap(), "an old value is left");
    command(server.port, &["CONFIG", "SET", "maxmemory", "0"]);
    // Another program's list under our key.
    command(server.port, &["RPUSH", ":1:list", "x"]);
    assert_eq!(cache.get::<i32>("list").await.unwrap(), None);
    let error = cache.incr("list", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAnInteger);
    cache.set("list", &1, Ttl::Default).await.unwrap();
    assert_eq!(cache.get("list").await.unwrap(), Some(1));
    command(
        server.port,
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
    );
    let error = cache.set("k", &2, Ttl::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// A1, A3: without a server, and with one that hangs, calls end in time.
pub(crate) async fn no_call_waits_longer_than_its_deadline() {
    const DEADLINE: Duration = Duration::from_millis(100);
    let gone = Store::connect("redis://127.0.0.1:1").unwrap();
    let start_of = Instant::now();
    let error = Cache::new(gone).get::<i32>("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start_of.elapsed() < SLACK);
    let server = start(&[]);
    let builder = Store::builder([server.url()]);
    let store = builder.operation_timeout(DEADLINE).build();
    let cache = Cache::new(store.unwrap());
    in_the_end(async || cache.set("k", &1, Ttl::Default).await).await;
    server.server.signal("STOP");
    let mut took = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let error = cache.get::<i32>("k").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        took.push(start.elapsed());
    }
    took.sort_unstable();
    // What is late each time is late by itself; once, the machine may be.
    assert!(took[0] < 2 * DEADLINE, "{took:?}");
    assert!(took[4] < DEADLINE + SLACK, "{took:?}");
    server.server.signal("CONT");
    let found = in_the_end(async || cache.get("k").await).await;
    assert_eq!(found, Some(1));
}

/// A connection that the server closed while nobody used it is no reason to keep an old value.
pub(crate) async fn a_write_over_a_lost_connection_happens() {
    let server = start(&[]);
    let cache = Cache::new(patient(&server));
    let kill = || {
        command(
            server.port,
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        );
    };
    cache.set("k", &1, Ttl::Default).await.unwrap();
    for number in 2..10 {
        kill();
        cache.set("k", &number, Ttl::Default).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), Some(number));
        kill();
        let failed = cache
            .set_many([("k", -number)], Ttl::Default)
            .await
            .unwrap();
        assert!(failed.is_empty());
        assert_eq!(cache.get("k").await.unwrap(), Some(-number));
        kill();
        assert!(cache.delete("k").await.unwrap());
    }
}

/// What is sent after a `set` that ran out of time does not remove what is set next.
pub(crate) async fn a_late_set_does_not_undo_the_next() {
    let server = start(&[]);
    let builder = Store::builder([server.url()]);
    let store = builder
        .operation_timeout(Duration::from_millis(200))
        .build();
    let cache = Cache::new(store.unwrap());
    let set = async |value: i32| {
        in_the_end(async || cache.set("k", &value, Ttl::Default).await).await;
    };
    for _ in 0..5 {
        set(0).await;
        server.server.signal("STOP");
        let late = cache.set("k", &1, Ttl::Default).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
        server.server.signal("CONT");
        set(2).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let found = in_the_end(async || cache.get("k").await).await;
        assert_eq!(found, Some(2));
    }
}

/// One node of a cluster, or one sentinel, that hangs holds up only its own.
pub(crate) async fn one_node_that_hangs_holds_up_only_its_own() {
    let cluster = Cluster::start().unwrap();
    let nodes = || {
        cluster
            .urls()
            .into_iter()
            .map(|url| url.replace("redis://", "redis+cluster://"))
    };
    let cache = Cache::new(Store::builder(nodes()).build().unwrap());
    let keys: Vec<_> = (0..30).map(|number| format!("k:{number}")).collect();
    for key in &keys {
        in_the_end(async || cache.set(key, &1, Ttl::Default).await).await;
    }
    cluster.nodes[0].server.signal("STOP");
    let fresh = Cache::new(Store::builder(nodes()).build().unwrap());
    for cache in [cache, fresh] {
        let (mut hits, mut longest) = (0, Duration::ZERO);
        for key in &keys {
            let start = Instant::now();
            hits += usize::from(cache.get::<i32>(key).await.is_ok());
            longest = longest.max(start.elapsed());
        }
        // One deadline, and not one for each node; and what a busy machine adds.
        assert!(longest < Duration::from_millis(1500), "{longest:?}");
        assert!(
            hits >= 12,
            "only {hits} of 30, though two nodes of three are well"
        );
    }
    cluster.nodes[0].server.signal("CONT");
    let fresh = Cache::new(Store::builder(nodes()).build().unwrap());
    for key in &keys {
        let found = in_the_end(async || fresh.get(key).await).await;
        assert_eq!(found, Some(1), "{key}");
    }

    let servers = Sentinel::start(Duration::from_secs(30)).unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("redis+sentinel://{}", silent.local_addr().unwrap());
    let store = Store::builder([silent, servers.url()]).operation_timeout(5 * SLACK);
    let store = store.build().unwrap();
    Cache::new(store).set("k", &1, Ttl::Default).await.unwrap();
}

/// Settings that could not be followed, or only by some of the servers.
pub(crate) async fn settings_are_followed_or_refused() {
    let server = start(&["--requirepass", "secret"]);
    let port = server.port;
    let said_once = format!("redis://:secret@127.0.0.1:{port}/3,redis://127.0.0.1:{port}");
    let cache = Cache::new(patient_at(said_once.split(',')));
    cache.set("k", &1, Ttl::Default).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        cache.get("k").await.unwrap(),
        Some(1),
        "the replica's database is another"
    );
    for (servers, why) in [
        (
            vec!["redis://a/1", "redis://b/2"],
            "differ in their database",
        ),
        (
            vec!["redis://:x@a", "redis://:y@b"],
            "differ in their password",
        ),
        (vec!["redis+cluster://a/1"], "database 0 only"),
    ] {
        let error = Store::builder(servers).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(why), "{error}");
    }
    for builder in [
        Store::builder(["redis://a"]).service("x"),
        Store::builder(["redis://a"]).read_from_replicas(true),
        Store::builder(["redis://a"]).operation_timeout(Duration::ZERO),
    ] {
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Config);
    }
    let patient = Store::builder([said_once.split(',').next().unwrap()]);
    let patient = patient.operation_timeout(Duration::MAX).build().unwrap();
    assert_eq!(Cache::new(patient).get("k").await.unwrap(), Some(1));
}

pub(crate) async fn what_is_compressed_takes_less_of_the_server() {
    let server = start(&[]);
    let built = |compression: Option<Compression>| {
        let mut builder = Cache::builder(patient(&server));
        if let Some(compression) = compression {
            builder = builder.compression(compression);
        }
        builder.build().unwrap()
    };
    let (on, off) = (built(Some(Compression::zstd())), built(None));
    let value: Vec<_> = (0..20_000).map(|n| (n, format!("user {n}"))).collect();
    let length = |cache: &Cache, key: &str| -> usize {
        let key = cache.final_key(key).unwrap();
        let answer = command(server.port, &["STRLEN", key.as_str()]).unwrap();
        answer.trim().trim_start_matches(':').parse().unwrap()
    };
    off.set("plain", &value, Ttl::Default).await.unwrap();
    on.set("packed", &value, Ttl::Default).await.unwrap();
    let (plain, packed) = (length(&on, "plain"), length(&on, "packed"));
    println!("{plain} bytes of JSON take {packed}");
    assert!(packed < plain / 3);
    for cache in [&on, &off] {
        for key in ["plain", "packed"] {
            assert_eq!(cache.get(key).await.unwrap().as_ref(), Some(&value));
        }
        assert!(cache.touch("packed", Ttl::Never).await.unwrap());
    }
    // What the server does not take as it is, it takes compressed.
    let small = Store::builder([server.url()]).operation_timeout(PATIENCE);
    let small = small.max_value_bytes(plain / 2);
    let small = small.build().unwrap();
    let refused = Cache::new(small.clone())
        .set("k", &value, Ttl::Default)
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    let taking = Cache::builder(small).compression(Compression::zstd());
    let taking = taking.build().unwrap();
    taking.set("k", &value, Ttl::Default).await.unwrap();
    assert_eq!(taking.get("k").await.unwrap(), Some(value));
    taking.set("n", &1, Ttl::Default).await.unwrap();
    assert_eq!(
        command(
            server.port,
            &["GET", taking.final_key("n").unwrap().as_str()]
        )
        .unwrap()
        .trim(),
        "$1\r\n1"
    );
}
