//! The tiers in one process: races that are provoked, and a backplane that fails.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::backend::{Backend, Capabilities, LocalBackplane, LocalSubscription, Peek};
use crate::cache::Cache;
use crate::entry::Entry;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::ttl::{Lifetime, Ttl};

const BOUND: Duration = Duration::from_secs(2);
const LONG: Lifetime = Lifetime::For(Duration::from_secs(600));

/// Memory that is far: it counts what it is asked, and its answers can be held up or lost.
#[derive(Clone, Debug, Default)]
struct Far {
    memory: Memory,
    /// Written to by the test while answers are held up.
    gate: Arc<RwLock<()>>,
    reads: Arc<AtomicUsize>,
    is_broken: Arc<AtomicBool>,
}

impl Far {
    async fn answer<T>(&self, answer: Result<T>) -> Result<T> {
        drop(self.gate.read().await);
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(ErrorKind::Unavailable.into());
        }
        answer
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::SeqCst)
    }

    fn set_broken(&self, is_broken: bool) {
        self.is_broken.store(is_broken, Ordering::SeqCst);
    }
}

impl Backend for Far {
    fn name(&self) -> &'static str {
        "far"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer(self.memory.get(key).await).await
    }

    async fn set(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<()> {
        self.answer(self.memory.set(key, entry, lifetime).await)
            .await
    }

    async fn add(&self, key: &Key, entry: Entry, lifetime: Lifetime) -> Result<bool> {
        self.answer(self.memory.add(key, entry, lifetime).await)
            .await
    }

    async fn touch(&self, key: &Key, lifetime: Lifetime) -> Result<bool> {
        self.answer(self.memory.touch(key, lifetime).await).await
    }

    async fn delete(&self, key: &Key) -> Result<bool> {
        self.answer(self.memory.delete(key).await).await
    }

    async fn incr(&self, key: &Key, delta: i64) -> Result<i64> {
        self.answer(self.memory.incr(key, delta).await).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<bool> {
        self.answer(self.memory.rename(from, to).await).await
    }

    async fn ttl(&self, key: &Key) -> Result<Option<Lifetime>> {
        self.memory.ttl(key).await
    }

    async fn clear(&self, namespace: &str) -> Result<()> {
        self.answer(self.memory.clear(namespace).await).await
    }

    async fn flush_store(&self) -> Result<()> {
        self.answer(self.memory.flush_store().await).await
    }

    async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        self.answer(self.memory.delete_prefix(prefix).await).await
    }
}

/// A backplane that loses what it is given, or its connections, when told so.
#[derive(Clone, Debug, Default)]
struct Lossy {
    local: LocalBackplane,
    loses_sent: Arc<AtomicBool>,
    is_down: Arc<AtomicBool>,
}

struct LossySubscription(LocalSubscription, Arc<AtomicBool>);

impl Backplane for Lossy {
    type Subscription = LossySubscription;

    async fn publish(&self, message: Bytes) -> Result<()> {
        if self.loses_sent.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.local.publish(message).await
    }

    async fn subscribe(&self) -> Result<LossySubscription> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ErrorKind::Unavailable.into());
        }
        let subscription = self.local.subscribe().await?;
        Ok(LossySubscription(subscription, Arc::clone(&self.is_down)))
    }
}

impl super::super::Subscription for LossySubscription {
    async fn next(&mut self) -> Result<Bytes> {
        loop {
            if self.1.load(Ordering::SeqCst) {
                return Err(ErrorKind::Unavailable.into());
            }
            let next = timeout(Duration::from_millis(10), self.0.next());
            if let Ok(message) = next.await {
                return message;
            }
        }
    }
}

/// The clock of the runtime, which tests pause.
#[derive(Debug)]
struct Paused(Instant);

impl crate::clock::Clock for Paused {
    fn now(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

fn key(text: &str) -> Key {
    let cache = Cache::new(Memory::new());
    cache.final_key(text).unwrap()
}

fn node(far: &Far, backplane: &Lossy) -> Tiered {
    let near = Memory::builder().clock(Paused(Instant::now())).build();
    let tiered = Tiered::builder(near.unwrap(), far.clone()).backplane(backplane.clone());
    tiered.max_near_staleness(BOUND).build().unwrap()
}

/// Two nodes over one store, whose near tiers are in use.
async fn two() -> (Far, Lossy, Tiered, Tiered) {
    let memory = Memory::builder().clock(Paused(Instant::now())).build();
    let far = Far {
        memory: memory.unwrap(),
        ..Far::default()
    };
    let backplane = Lossy::default();
    let (one, other) = (node(&far, &backplane), node(&far, &backplane));
    for node in [&one, &other] {
        node.get(&key("start")).await.unwrap();
    }
    for node in [&one, &other] {
        until(|| node.near_staleness().is_some()).await;
    }
    // The heartbeats of each are known to the other.
    sleep(BOUND / 2).await;
    far.reads();
    (far, backplane, one, other)
}

async fn until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < 20 * BOUND, "it never was");
        sleep(Duration::from_millis(5)).await;
    }
}

fn near(tiered: &Tiered, key: &Key) -> Option<Entry> {
    match tiered.peek(key) {
        Peek::Hit(entry) => Some(entry),
        Peek::Declined => None,
        Peek::Miss => panic!("the near tier knows of no miss"),
    }
}

async fn get(tiered: &Tiered, key: &Key) -> Option<Entry> {
    tiered.get(key).await.unwrap()
}

async fn settle() {
    sleep(Duration::from_millis(50)).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_or_written_is_read_again_without_asking() {
    let far = Far::default();
    let tiered = Tiered::new(Memory::new(), far.clone());
    assert_eq!(tiered.near_staleness(), Some(NEAR_TTL));
    let (k, other) = (key("k"), key("other"));
    tiered.set(&k, "1".into(), LONG).await.unwrap();
    assert_eq!(get(&tiered, &k).await, Some("1".into()));
    assert_eq!(far.reads(), 0);
    far.memory.set(&other, "2".into(), LONG).await.unwrap();
    assert_eq!(near(&tiered, &other), None);
    for _ in 0..3 {
        assert_eq!(get(&tiered, &other).await, Some("2".into()));
    }
    assert_eq!(far.reads(), 1);
    assert!(near(&tiered, &other).is_some());
    let both = [k.clone(), key("none"), other.clone()];
    let found = tiered.get_many(&both).await.unwrap();
    assert_eq!(found, [Some("1".into()), None, Some("2".into())]);
    assert_eq!(far.reads(), 1, "only what is missing");
    tiered.delete(&k).await.unwrap();
    assert_eq!((get(&tiered, &k).await, far.reads()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn the_decoded_form_is_shared() {
    let far = Far::default();
    let tiered = Tiered::new(Memory::new(), far.clone());
    far.memory.set(&key("k"), "1".into(), LONG).await.unwrap();
    let first = get(&tiered, &key("k"))
        .await
        .unwrap()
        .decoded_as(Arc::new(1_u32));
    let second = near(&tiered, &key("k")).unwrap().decoded::<u32>().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

#[tokio::test(start_paused = true)]
async fn no_copy_outlives_its_entry_or_near_ttl() {
    let clock = crate::clock::ManualClock::new();
    let memory = || Memory::builder().clock(clock.clone()).build().unwrap();
    let far = Far {
        memory: memory(),
        ..Far::default()
    };
    let tiered = Tiered::new(memory(), far.clone());
    let second = Duration::from_secs(1);
    let (short, long) = (key("short"), key("long"));
    tiered
        .set(&short, "1".into(), Lifetime::For(10 * second))
        .await
        .unwrap();
    tiered
        .set(&long, "1".into(), Lifetime::Forever)
        .await
        .unwrap();
    tiered.touch(&long, LONG).await.unwrap();
    clock.advance(9 * second);
    assert!(near(&tiered, &short).is_some());
    tiered.inner.node.near.forget_all();
    for key in [&short, &long] {
        assert!(get(&tiered, key).await.is_some());
    }
    clock.advance(second);
    assert!(near(&tiered, &short).is_none() && get(&tiered, &short).await.is_none());
    assert!(near(&tiered, &long).is_some());
    clock.advance(NEAR_TTL);
    assert!(near(&tiered, &long).is_none() && get(&tiered, &long).await.is_some());
    assert_eq!(
        tiered.ttl(&long).await.unwrap(),
        far.ttl(&long).await.unwrap()
    );
}

/// The same node and store, whose answers are on their way for as long as its own gate is held.
fn slow(tiered: &Tiered, far: &Far) -> (std::mem::ManuallyDrop<Tiered>, Far) {
    let far = Far {
        gate: Arc::default(),
        ..far.clone()
    };
    let inner = Inner {
        far: far.clone().into(),
        node: Arc::clone(&tiered.inner.node),
    };
    let inner = Arc::new(inner);
    // It must not end the node that it shares.
    (std::mem::ManuallyDrop::new(Tiered { inner }), far)
}

#[tokio::test(start_paused = true)]
async fn a_read_that_a_write_overtakes_leaves_nothing_old() {
    let far = Far::default();
    let tiered = Tiered::new(Memory::new(), far.clone());
    let (slow, slow_far) = slow(&tiered, &far);
    let k = key("k");
    for many in [false, true] {
        far.memory.set(&k, "old".into(), LONG).await.unwrap();
        tiered.inner.node.near.forget_all();
        let held = slow_far.gate.write().await;
        let (reader, read) = (Tiered::clone(&slow), k.clone());
        let reading = tokio::spawn(async move {
            if many {
                return reader.get_many(&[read]).await.unwrap().remove(0);
            }
            reader.get(&read).await.unwrap()
        });
        settle().await;
        tiered.set(&k, "new".into(), LONG).await.unwrap();
        drop(held);
        assert_eq!(reading.await.unwrap(), Some("old".into()));
        assert_eq!(near(&tiered, &k), Some("new".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_word_of_a_change_overtakes_leaves_nothing_old() {
    let (far, _, one, other) = two().await;
    let (slow, slow_far) = slow(&other, &far);
    let k = key("k");
    for change in 0..4 {
        far.memory.set(&k, "old".into(), LONG).await.unwrap();
        other.inner.node.near.forget_all();
        let held = slow_far.gate.write().await;
        let (reader, read) = (Tiered::clone(&slow), k.clone());
        let reading = tokio::spawn(async move { reader.get(&read).await.unwrap() });
        settle().await;
        match change {
            0 => one.set(&k, "new".into(), LONG).await.unwrap(),
            1 => assert!(one.delete(&k).await.unwrap()),
            2 => one.clear(k.namespace()).await.unwrap(),
            _ => one.flush_store().await.unwrap(),
        }
        settle().await;
        drop(held);
        assert_eq!(reading.await.unwrap(), Some("old".into()));
        assert_eq!(near(&other, &k), None);
    }
}

#[tokio::test(start_paused = true)]
async fn of_writes_at_once_nothing_stays_that_lost() {
    let far = Far::default();
    let tiered = Tiered::new(Memory::new(), far.clone());
    let (slow, slow_far) = slow(&tiered, &far);
    let k = key("k");
    let held = slow_far.gate.write().await;
    let (writer, written) = (Tiered::clone(&slow), k.clone());
    let first = tokio::spawn(async move { writer.set(&written, "first".into(), LONG).await });
    settle().await;
    tiered.set(&k, "second".into(), LONG).await.unwrap();
    assert_eq!(near(&tiered, &k), Some("second".into()));
    // Its answer comes last, though it was the first.
    drop(held);
    first.await.unwrap().unwrap();
    assert_ne!(near(&tiered, &k), Some("first".into()));
    assert_eq!(get(&tiered, &k).await, Some("second".into()));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_or_is_given_up_leaves_nothing_near() {
    let (far, _, one, other) = two().await;
    let k = key("k");
    for is_given_up in [false, true] {
        one.set(&k, "old".into(), LONG).await.unwrap();
        settle().await;
        assert_eq!(get(&other, &k).await, Some("old".into()));
        assert!(near(&one, &k).is_some() && near(&other, &k).is_some());
        if is_given_up {
            let held = far.gate.write().await;
            let set = one.set(&k, "new".into(), LONG);
            assert!(timeout(Duration::from_millis(20), set).await.is_err());
            drop(held);
        } else {
            far.set_broken(true);
            let error = one.set(&k, "new".into(), LONG).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            far.set_broken(false);
        }
        assert!(near(&one, &k).is_none());
        settle().await;
        assert!(near(&other, &k).is_none(), "the others are told");
        // It may have happened only now.
        assert!(get(&other, &k).await.is_some() && near(&other, &k).is_some());
        far.memory.set(&k, "late".into(), LONG).await.unwrap();
        sleep(BOUND / 2 + BOUND / 8).await;
        assert_eq!(get(&other, &k).await, Some("late".into()));
        assert_eq!(get(&one, &k).await, Some("late".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_never_near() {
    let far = Far::default();
    let tiered = Tiered::new(Memory::new(), far.clone());
    let (k, lease) = (key("k"), || Entry::new(&b"axc\x01\x03 whoever"[..]));
    tiered.set(&k, "page".into(), LONG).await.unwrap();
    tiered.set(&k, lease(), LONG).await.unwrap();
    assert_eq!(near(&tiered, &k), None);
    assert_eq!(get(&tiered, &k).await, Some(lease()));
    tiered.get_many(std::slice::from_ref(&k)).await.unwrap();
    assert_eq!(near(&tiered, &k), None);
    let swapped = tiered.compare_and_set(&k, &lease(), lease(), LONG).await;
    // The far store here cannot.
    assert!(swapped.is_err() && near(&tiered, &k).is_none());
    tiered.delete(&k).await.unwrap();
    assert!(tiered.add(&k, lease(), LONG).await.unwrap());
    assert_eq!(near(&tiered, &k), None);
}

#[tokio::test(start_paused = true)]
async fn changes_are_told() {
    let (far, _, one, other) = two().await;
    let (k, moved) = (key("n"), key("moved"));
    let look = async || {
        settle().await;
        for key in [&k, &moved] {
            let there = far.memory.get(key).await.unwrap();
            assert_eq!(get(&other, key).await, there);
            assert_eq!(get(&one, key).await, there);
            assert_eq!(near(&other, key), there);
        }
    };
    one.set(&k, "1".into(), LONG).await.unwrap();
    look().await;
    other.incr(&k, 1).await.unwrap();
    look().await;
    let items = vec![(k.clone(), "3".into(), LONG), (key("o"), "4".into(), LONG)];
    assert!(one.set_many(items).await.unwrap().iter().all(Result::is_ok));
    look().await;
    assert!(one.rename(&k, &moved).await.unwrap());
    look().await;
    assert!(other.add(&k, "5".into(), LONG).await.unwrap());
    look().await;
    assert_eq!(one.delete_prefix(k.as_str()).await.unwrap(), 1);
    look().await;
    assert_eq!(
        other.delete_many(&[moved.clone(), key("o")]).await.unwrap(),
        2
    );
    look().await;
    one.set(&k, "6".into(), LONG).await.unwrap();
    look().await;
    let short = Lifetime::For(Duration::from_millis(200));
    assert!(other.touch(&k, short).await.unwrap());
    settle().await;
    sleep(Duration::from_millis(200)).await;
    look().await;
    assert_eq!(get(&one, &k).await, None);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_heard_the_near_tier_is_out_of_use() {
    let (far, backplane, one, other) = two().await;
    let k = key("k");
    one.set(&k, "1".into(), LONG).await.unwrap();
    settle().await;
    assert_eq!(get(&other, &k).await, Some("1".into()));
    // The connection is lost, and known to be.
    backplane.is_down.store(true, Ordering::SeqCst);
    settle().await;
    assert_eq!((other.near_staleness(), near(&other, &k)), (None, None));
    one.set(&k, "2".into(), LONG).await.unwrap();
    assert_eq!(near(&one, &k), None);
    assert_eq!(get(&other, &k).await, Some("2".into()));
    assert_eq!(near(&other, &k), None, "nor is it filled");
    backplane.is_down.store(false, Ordering::SeqCst);
    until(|| other.near_staleness() == Some(BOUND)).await;
    assert_eq!(near(&other, &k), None, "it comes back empty");
    far.reads();
    for _ in 0..3 {
        assert_eq!(get(&other, &k).await, Some("2".into()));
    }
    assert_eq!(far.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_lost_without_a_word_are_noticed_in_time() {
    let (far, backplane, one, other) = two().await;
    let k = key("k");
    for round in 0..20_u8 {
        one.set(&k, vec![round].into(), LONG).await.unwrap();
        until(|| other.near_staleness().is_some()).await;
        settle().await;
        assert_eq!(get(&other, &k).await, Some(vec![round].into()));
        // At another time between two heartbeats in each round.
        sleep(BOUND / 4 * u32::from(round) / 7).await;
        backplane.loses_sent.store(true, Ordering::SeqCst);
        one.set(&k, vec![round, 1].into(), LONG).await.unwrap();
        let written = Instant::now();
        let new = Some(vec![round, 1].into());
        while get(&other, &k).await != new {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(written.elapsed() <= BOUND, "{:?}", written.elapsed());
        sleep(BOUND / 4 * u32::from(round % 7)).await;
        backplane.loses_sent.store(false, Ordering::SeqCst);
        until(|| other.near_staleness().is_some()).await;
        assert_eq!(get(&other, &k).await, new);
    }
    drop(far);
}

/// The writer's own line alone is dead: nobody hears of it, and it does not hear itself.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_and_writes_on_is_missing() {
    let (far, backplane, _, other) = two().await;
    let cut = Lossy {
        loses_sent: Arc::default(),
        ..backplane.clone()
    };
    let writer = node(&far, &cut);
    let k = key("k");
    writer.set(&k, "0".into(), LONG).await.unwrap();
    sleep(BOUND).await;
    cut.loses_sent.store(true, Ordering::SeqCst);
    for round in 1..30_u8 {
        writer.set(&k, vec![round].into(), LONG).await.unwrap();
        let written = Instant::now();
        while get(&other, &k).await != Some(vec![round].into()) {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(written.elapsed() <= BOUND, "{:?}", written.elapsed());
        sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(
        other.near_staleness(),
        Some(BOUND / 2),
        "while it is missing"
    );
    cut.loses_sent.store(false, Ordering::SeqCst);
    until(|| other.near_staleness() == Some(BOUND)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_makes_everything_forgotten() {
    let (_, backplane, one, other) = two().await;
    let k = key("k");
    for garbage in [&b""[..], b"\x02 of a later version", b"\x01short"] {
        one.set(&k, "1".into(), LONG).await.unwrap();
        settle().await;
        assert!(get(&other, &k).await.is_some() && near(&other, &k).is_some());
        backplane
            .publish(Bytes::from_static(garbage))
            .await
            .unwrap();
        settle().await;
        assert!(near(&other, &k).is_none());
        assert_eq!(other.near_staleness(), Some(BOUND));
    }
}

#[tokio::test(start_paused = true)]
async fn the_tasks_end_with_the_store_and_say_farewell() {
    let (far, _, one, other) = two().await;
    let k = key("k");
    other.set(&k, "1".into(), LONG).await.unwrap();
    let (near_tier, nodes) = (
        Arc::downgrade(&one.inner.node),
        Arc::strong_count(&far.gate),
    );
    drop(one);
    until(|| near_tier.upgrade().is_none()).await;
    assert_eq!(Arc::strong_count(&far.gate), nodes - 1);
    sleep(4 * BOUND).await;
    assert_eq!(other.near_staleness(), Some(BOUND), "nobody is missing");
    other.close().await.unwrap();
    assert_eq!((other.near_staleness(), near(&other, &k)), (None, None));
    assert_eq!(get(&other, &k).await, Some("1".into()), "and it goes on");
    until(|| other.near_staleness() == Some(BOUND)).await;
}

#[tokio::test(start_paused = true)]
async fn bad_options_are_refused() {
    let builder = || Tiered::builder(Memory::new(), Memory::new());
    let refused = |builder: TieredBuilder| builder.build().unwrap_err().to_string();
    assert!(refused(builder().near_ttl(Duration::ZERO)).contains("near_ttl"));
    let bound = Duration::from_secs(1);
    let without = builder().max_near_staleness(bound);
    assert!(refused(without).contains("needs a backplane"));
    let tiny = builder().backplane(LocalBackplane::new());
    let tiny = tiny.max_near_staleness(Duration::from_millis(39));
    assert!(refused(tiny).contains("max_near_staleness"));
}

/// Outside of a runtime there are no tasks, and so no near tier that others write behind.
#[test]
fn without_a_runtime_it_asks_the_far_store() {
    let tiered = Tiered::builder(Memory::new(), Memory::new()).backplane(LocalBackplane::new());
    let tiered = tiered.build().unwrap();
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let (k, cache) = (key("k"), Cache::new(tiered.clone()));
    let set = std::pin::pin!(cache.set("k", &1, Ttl::Default)).poll(&mut context);
    assert!(set.is_ready());
    assert!(near(&tiered, &k).is_none() && tiered.near_staleness().is_none());
}
