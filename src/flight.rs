//! One computation per key at a time in this process, shared by all who ask for it meanwhile.
//!
//! # Invariants
//!
//! - The computation runs in a task of its own: no caller that goes away cancels it.
//! - A panic or a dropped runtime releases the waiters with an error and frees the key.
//! - Who has a result can start anew: the key is free before the result is handed out.
//! - The table holds only keys with a computation in progress.
//! - A result says as of which [`Moment`] it is: who came later may know more than it does.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use foldhash::quality::RandomState;
use tokio::sync::watch;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::tag::Tags;

/// The computations in progress, by key.
#[derive(Debug)]
pub(crate) struct Flights<V> {
    running: Mutex<Table<V>>,
    landings: AtomicU64,
    moments: AtomicU64,
}

type Table<V> = HashMap<Arc<str>, Running<V>, RandomState>;

/// A point in the order in which callers come and results are made. Who came by then has the same
/// moment or an earlier one, and who comes later has a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// A computation in progress.
#[derive(Debug)]
struct Running<V> {
    waiting: Waiting<V>,
    /// The tags that its result has.
    tags: Tags,
    /// It may have others, too.
    is_open: bool,
}

/// Those who wait for one computation, once there are any: most are waited for by nobody.
type Waiting<V> = Arc<OnceLock<watch::Sender<Option<V>>>>;

fn follow<V>(waiting: &Waiting<V>) -> watch::Receiver<Option<V>> {
    waiting.get_or_init(|| watch::Sender::new(None)).subscribe()
}

/// The computation ended without a result: it panicked, or its runtime shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            landings: AtomicU64::new(0),
            moments: AtomicU64::new(0),
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Flights<V> {
    /// How many computations have ended. If that changed since a caller looked for a value, the
    /// value may be there now.
    pub(crate) fn landings(&self) -> u64 {
        self.landings.load(Ordering::SeqCst)
    }

    /// When a caller came, who has not looked for anything yet.
    pub(crate) fn came(&self) -> Moment {
        Moment(self.moments.load(Ordering::SeqCst))
    }

    /// Now, before something is read: what is read is as of this moment.
    pub(crate) fn mark(&self) -> Moment {
        Moment(self.moments.fetch_add(1, Ordering::SeqCst))
    }

    /// Lets no one else join the computation of `key` that is running. Those who did get its
    /// result.
    pub(crate) fn forget(&self, key: &str) {
        self.running().remove(key);
    }

    /// As [`forget`](Self::forget), if it is still the one that is followed.
    pub(crate) fn abandon(&self, key: &str, follower: &Follower<V>) {
        let mut running = self.running();
        if running
            .get(key)
            .is_some_and(|running| follow(&running.waiting).same_channel(&follower.result))
        {
            running.remove(key);
        }
    }

    /// As [`forget`](Self::forget), of all whose results may have one of these tags.
    pub(crate) fn forget_tagged(&self, tags: &Tags) {
        self.running()
            .retain(|_, running| !running.is_open && !running.tags.meets(tags));
    }

    /// As [`forget`](Self::forget), of all keys that begin with `prefix`.
    pub(crate) fn forget_prefix(&self, prefix: &str) {
        self.running().retain(|key, _| !key.starts_with(prefix));
    }

    /// Begins a computation of `key`, or joins the one that is running.
    pub(crate) fn enter(self: &Arc<Self>, key: &str) -> Role<V> {
        self.enter_tagged(key, &Tags::default(), true)
    }

    /// As [`enter`](Self::enter), for a computation whose result has these tags, and maybe others if it
    /// `is_open`.
    pub(crate) fn enter_tagged(self: &Arc<Self>, key: &str, tags: &Tags, is_open: bool) -> Role<V> {
        let mut running = self.running();
        if let Some(running) = running.get(key) {
            let has = |name| running.tags.iter().any(|own| own == name);
            return Role::Follower(Follower {
                result: follow(&running.waiting),
                has_tags: tags.iter().all(has),
            });
        }
        let (key, waiting) = (Arc::from(key), Waiting::default());
        let own = Running {
            waiting: Arc::clone(&waiting),
            tags: tags.clone(),
            is_open,
        };
        running.insert(Arc::clone(&key), own);
        drop(running);
        Role::Leader(Landing {
            flights: Arc::clone(self),
            key,
            waiting,
        })
    }

    /// Begins a computation of `key` that nobody else joins.
    pub(crate) fn apart(self: &Arc<Self>, key: &str) -> Landing<V> {
        Landing {
            flights: Arc::clone(self),
            key: key.into(),
            waiting: Waiting::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Table<V>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller is to a computation.
#[derive(Debug)]
pub(crate) enum Role<V: Clone + Send + Sync + 'static> {
    /// It has to run it.
    Leader(Landing<V>),
    /// It waits for its result.
    Follower(Follower<V>),
}

/// Waits for a computation that another caller runs.
#[derive(Debug)]
pub(crate) struct Follower<V> {
    result: watch::Receiver<Option<V>>,
    has_tags: bool,
}

impl<V: Clone + Send + Sync> Follower<V> {
    /// Whether the result has all tags that this follower asked for: invalidating the others does not
    /// concern the computation.
    pub(crate) fn has_tags(&self) -> bool {
        self.has_tags
    }

    /// The result.
    ///
    /// # Errors
    ///
    /// [`Lost`] if the computation ended without one.
    ///
    /// # Cancel safety
    ///
    /// It can be asked for again.
    pub(crate) async fn result(&mut self) -> Result<V, Lost> {
        let landed = self
            .result
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Lost)?;
        landed.clone().ok_or(Lost)
    }
}

/// Knows whether anybody waits for a computation. It does not keep them waiting for one that is lost.
#[derive(Clone, Debug)]
pub(crate) struct Audience<V>(Weak<OnceLock<watch::Sender<Option<V>>>>);

impl<V> Audience<V> {
    /// Whether anybody does, beside those who may still come.
    pub(crate) fn is_there(&self) -> bool {
        self.size() > 0
    }

    fn size(&self) -> usize {
        let waiting = self.0.upgrade();
        let waiting = waiting.as_ref().and_then(|waiting| waiting.get());
        waiting.map_or(0, watch::Sender::receiver_count)
    }
}

/// Has to be landed by who runs the computation; frees the key when it is dropped, however the
/// computation ended.
#[derive(Debug)]
pub(crate) struct Landing<V: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<V>>,
    key: Arc<str>,
    waiting: Waiting<V>,
}

impl<V: Clone + Send + Sync + 'static> Landing<V> {
    /// One who waits for it.
    pub(crate) fn follower(&self) -> Follower<V> {
        Follower {
            result: follow(&self.waiting),
            has_tags: true,
        }
    }

    /// Those who wait for it.
    pub(crate) fn audience(&self) -> Audience<V> {
        Audience(Arc::downgrade(&self.waiting))
    }

    /// Whether anybody waits for it beside the caller that leads, as far as can be seen: if that has
    /// gone, one is overlooked.
    pub(crate) fn is_shared(&self) -> bool {
        self.audience().size() > 1
    }

    /// Lets those who come from now on wait for another result; `None` if nobody may come any more.
    pub(crate) fn split(&self) -> Option<Self> {
        let mut running = self.flights.running();
        let own = running.get_mut(&self.key);
        let own = own.filter(|own| Arc::ptr_eq(&own.waiting, &self.waiting))?;
        own.waiting = Waiting::default();
        Some(Self {
            flights: Arc::clone(&self.flights),
            key: Arc::clone(&self.key),
            waiting: Arc::clone(&own.waiting),
        })
    }

    /// Hands the result to all who wait for it.
    pub(crate) fn land(self, value: V) {
        self.free();
        // Nobody comes any more.
        if let Some(waiting) = self.waiting.get() {
            waiting.send_replace(Some(value));
        }
    }

    fn free(&self) {
        let mut running = self.flights.running();
        self.flights.landings.fetch_add(1, Ordering::SeqCst);
        if running
            .get(&self.key)
            .is_some_and(|running| Arc::ptr_eq(&running.waiting, &self.waiting))
        {
            running.remove(&self.key);
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Drop for Landing<V> {
    fn drop(&mut self) {
        // Before the sender goes, which tells the waiters that the computation is lost.
        self.free();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::future::Future;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    type Shared<V> = Arc<Flights<V>>;

    fn board<V, F, Fut>(flights: &Shared<V>, key: &str, compute: F) -> Follower<V>
    where
        V: Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = V> + Send + 'static,
    {
        match flights.enter(key) {
            Role::Follower(follower) => follower,
            Role::Leader(landing) => {
                let follower = landing.follower();
                let computation = compute();
                tokio::spawn(async move {
                    let value = computation.await;
                    landing.land(value);
                });
                follower
            }
        }
    }

    async fn join<V, F, Fut>(flights: &Shared<V>, key: &str, compute: F) -> Result<V, Lost>
    where
        V: Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut,
        Fut: Future<Output = V> + Send + 'static,
    {
        board(flights, key, compute).result().await
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_computation() {
        let flights = Arc::new(Flights::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let (flights, runs) = (Arc::clone(&flights), Arc::clone(&runs));
                tokio::spawn(async move {
                    join(&flights, "k", || async move {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        runs.fetch_add(1, Ordering::SeqCst)
                    })
                    .await
                })
            })
            .collect();
        for caller in callers {
            assert!(matches!(caller.await, Ok(Ok(0))));
        }
        assert!(flights.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_leaves_does_not_cancel() {
        let flights = Arc::new(Flights::default());
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        let leader = tokio::time::timeout(Duration::from_millis(10), join(&flights, "k", slow));
        assert!(leader.await.is_err());
        let follower = join(&flights, "k", || async { 8 }).await;
        assert_eq!(follower, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_releases_the_waiters_and_the_key() {
        let flights = Arc::new(Flights::<u32>::default());
        let lost = join(&flights, "k", || async { panic!("on purpose") }).await;
        assert_eq!(lost, Err(Lost));
        assert_eq!(join(&flights, "k", || async { 1 }).await, Ok(1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_has_a_result_starts_anew() {
        let flights = Arc::new(Flights::default());
        for run in 0..5_000 {
            assert_eq!(join(&flights, "k", || async move { run }).await, Ok(run));
            let lost = join(&flights, "k", || async {
                std::panic::resume_unwind(Box::new("on purpose"))
            });
            assert_eq!(lost.await, Err(Lost));
        }
    }

    #[tokio::test]
    async fn who_gives_up_waiting_makes_way_for_a_new_computation_once() {
        let flights = Arc::new(Flights::<u32>::default());
        let Role::Leader(hung) = flights.enter("k") else {
            panic!("nobody else leads")
        };
        let [one, other] = [(); 2].map(|()| match flights.enter("k") {
            Role::Follower(follower) => follower,
            Role::Leader(_) => panic!("another one leads"),
        });
        flights.abandon("k", &one);
        let Role::Leader(second) = flights.enter("k") else {
            panic!("nobody leads any more")
        };
        flights.abandon("k", &other);
        assert!(matches!(flights.enter("k"), Role::Follower(_)));
        drop(hung);
        assert!(matches!(flights.enter("k"), Role::Follower(_)));
        drop(second);
        assert!(flights.running().is_empty());
    }

    #[tokio::test]
    async fn who_asks_for_the_audience_keeps_nobody_waiting() {
        let flights = Arc::new(Flights::<u32>::default());
        let Role::Leader(landing) = flights.enter("k") else {
            panic!("nobody else leads")
        };
        let audience = landing.audience();
        assert!(!audience.is_there());
        let mut follower = landing.follower();
        assert!(audience.is_there());
        drop(landing);
        assert_eq!(follower.result().await, Err(Lost));
        assert!(!audience.is_there());
    }

    #[tokio::test]
    async fn who_comes_after_a_split_waits_for_another_result() {
        let flights = Arc::new(Flights::<u32>::default());
        let Role::Leader(landing) = flights.enter("k") else {
            panic!("nobody else leads")
        };
        let follow = || match flights.enter("k") {
            Role::Follower(follower) => follower,
            Role::Leader(_) => panic!("another one leads"),
        };
        let mut early = follow();
        let other = landing.split();
        let mut late = follow();
        assert!(landing.audience().is_there() && landing.split().is_none());
        landing.land(1);
        assert_eq!(early.result().await, Ok(1));
        if let Some(other) = other {
            other.land(2);
        }
        assert_eq!(late.result().await, Ok(2));
        assert!(flights.running().is_empty());
    }

    #[test]
    fn who_comes_after_a_moment_has_a_later_one() {
        let flights = Flights::<u32>::default();
        let early = flights.came();
        let read = flights.mark();
        let late = flights.came();
        assert!(early <= read && late > read && late <= flights.mark());
    }

    #[tokio::test]
    async fn a_follower_knows_whether_its_tags_are_those_of_the_result() {
        let flights = Arc::new(Flights::<u32>::default());
        let (none, one) = (Tags::default(), Tags::new(["a"]));
        let two = Tags::new(["a", "b"]);
        let _leader = flights.enter_tagged("k", &one, false);
        for (tags, has) in [(&none, true), (&one, true), (&two, false)] {
            let Role::Follower(follower) = flights.enter_tagged("k", tags, false) else {
                panic!("another one leads")
            };
            assert_eq!(follower.has_tags(), has, "{tags:?}");
        }
    }

    #[tokio::test]
    async fn a_computation_is_shared_once_a_second_one_waits() {
        let flights = Arc::new(Flights::<u32>::default());
        let Role::Leader(landing) = flights.enter("k") else {
            panic!("nobody else leads")
        };
        let _leads = landing.follower();
        assert!(!landing.is_shared());
        let _other = flights.enter("k");
        assert!(landing.is_shared());
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_computation_takes_no_new_followers() {
        let flights = Arc::new(Flights::default());
        let mut old = board(&flights, "k", || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            1
        });
        flights.forget("k");
        assert_eq!(join(&flights, "k", || async { 2 }).await, Ok(2));
        assert_eq!(old.result().await, Ok(1));
        assert!(flights.running().is_empty());
    }
}
