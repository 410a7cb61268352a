//! Whether a store is used, and what is done until it is again.
//!
//! Two tasks bring it back: one asks whether it answers, and one removes what is owed. Neither waits for
//! the other: what takes long to remove keeps nobody from using the rest.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::debts::{Batch, Beginning, Debts};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::observe;
use crate::policy::chance;

/// The time between the first two questions to a store that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// For how long a store that has answered is not taken to be away because of one error, and how long it may
/// have been silent without having been away.
const TRUST: Duration = Duration::from_millis(100);

/// What is asked for: in a cluster, on several nodes. One that answers is enough.
const PROBES: [&str; 3] = [
    "axum-cache:probe:1",
    "axum-cache:probe:2",
    "axum-cache:probe:3",
];

/// How many keys of a batch that failed are tried by themselves, and fail, until the rest is put off.
const SINGLE_FAILURES: usize = 2;

/// The state in which a call costs no more than to look at it.
const CLOSED: u8 = 0;
const OWING: u8 = 1;
const OPEN: u8 = 2;

#[derive(Debug)]
pub(super) struct Circuit<B> {
    pub(super) store: B,
    /// How long it has to have answered after an outage.
    recovery: Duration,
    state: AtomicU8,
    /// When the circuit was made.
    start: Instant,
    /// When the store last answered a call or a question: microseconds from then on.
    answered: AtomicU64,
    debts: Mutex<Debts>,
    /// Whether a task asks the store.
    asking: AtomicBool,
    /// Whether a task removes what is owed.
    paying: AtomicBool,
    /// What is known of its answers.
    answers: Mutex<Answers>,
    /// Tells who removes what is owed that it answers.
    back: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Answers {
    /// When the store last answered a question.
    last: Option<Instant>,
    /// Whether it has answered the last one.
    is_back: bool,
    /// Where keys are that may be asked for.
    namespace: String,
}

/// What a call meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The store is used.
    Closed,
    /// It is, but not for what it has to remove yet.
    Owing,
    /// It is not: it was away a moment ago.
    Open,
}

impl<B: Backend> Circuit<B> {
    pub(super) fn new(store: B, recovery: Duration, max_owed: usize) -> Arc<Self> {
        Arc::new(Self {
            store,
            recovery: recovery.max(2 * FIRST_PAUSE),
            back: Arc::default(),
            state: AtomicU8::new(CLOSED),
            start: Instant::now(),
            answered: AtomicU64::new(0),
            debts: Mutex::new(Debts::new(max_owed)),
            asking: AtomicBool::new(false),
            paying: AtomicBool::new(false),
            answers: Mutex::default(),
        })
    }

    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            CLOSED => State::Closed,
            OWING => State::Owing,
            _ => State::Open,
        }
    }

    pub(super) fn debts(&self) -> MutexGuard<'_, Debts> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has answered.
    pub(super) fn has_answered(&self) {
        let micros = self.start.elapsed().as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        self.answered.fetch_max(micros, Ordering::Relaxed);
    }

    /// For how long the store has not answered.
    fn silence(&self) -> Duration {
        let answered = Duration::from_micros(self.answered.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(answered)
    }

    /// What is to be removed once the store is back, and is not read before.
    pub(super) fn owe(&self, owe: impl FnOnce(&mut Debts)) {
        let mut debts = self.debts();
        owe(&mut debts);
        self.state.fetch_max(OWING, Ordering::AcqRel);
    }

    /// The store has not answered a call about a key of this namespace: it is asked, and not used
    /// until it has answered.
    pub(super) fn alarm(self: &Arc<Self>, namespace: &str) {
        let is_trusted = {
            let mut answers = self.answers();
            namespace.clone_into(&mut answers.namespace);
            answers.last.is_some_and(|last| last.elapsed() < TRUST)
        };
        if !is_trusted && self.state.swap(OPEN, Ordering::AcqRel) != OPEN {
            self.answers().is_back = false;
            observe::circuit(self.store.name(), "open");
        }
        self.mend();
    }

    /// Sees to it that tasks bring the store back into use.
    pub(super) fn mend(self: &Arc<Self>) {
        let state = self.state();
        if state == State::Closed {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            // There are no tasks: the next call finds out by itself.
            return self.close();
        };
        if state == State::Open && !self.asking.swap(true, Ordering::AcqRel) {
            runtime.spawn(ask(Work::of(self, |circuit| &circuit.asking)));
        }
        if !self.debts().is_empty() && !self.paying.swap(true, Ordering::AcqRel) {
            runtime.spawn(pay(Work::of(self, |circuit| &circuit.paying)));
        }
    }

    /// The store is used again, but for what is owed.
    fn close(&self) {
        let debts = self.debts();
        let state = if debts.is_empty() { CLOSED } else { OWING };
        if self.state.swap(state, Ordering::AcqRel) == OPEN {
            observe::circuit(self.store.name(), "closed");
        }
    }

    /// Whether nothing is owed any more.
    fn is_settled(&self) -> bool {
        // Under the lock, so that nothing is owed at the same time.
        let debts = self.debts();
        if debts.is_empty() {
            let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = self.state.compare_exchange(OWING, CLOSED, set, seen);
        }
        debts.is_empty()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store answers.
    async fn probe(self: &Arc<Self>) -> bool {
        let namespace = self.answers().namespace.clone();
        let mut asked = JoinSet::new();
        // All at once: what hangs takes one deadline, and not one for each.
        for probe in PROBES {
            let (circuit, key) = (Arc::clone(self), Key::within(&namespace, probe));
            asked.spawn(async move {
                let answer = circuit.store.get(&key).await;
                !answer.is_err_and(|error| is_outage(&error))
            });
        }
        let mut is_back = false;
        while let Some(answer) = asked.join_next().await {
            is_back = matches!(answer, Ok(true));
            if is_back {
                break;
            }
        }
        let mut answers = self.answers();
        answers.is_back = is_back;
        if is_back {
            answers.last = Some(Instant::now());
            self.back.notify_one();
        }
        is_back
    }

    /// Removes what is owed, as far as the store can.
    async fn pay(&self) -> Result<()> {
        loop {
            let Some(batch) = self.debts().next() else {
                return Ok(());
            };
            if let Err(error) = self.pay_batch(&batch).await {
                self.debts().put_off(&batch);
                // One that is on a node which is away is not to hold up the others.
                if let Batch::Keys(keys) = batch
                    && keys.len() > 1
                {
                    self.pay_singly(keys).await;
                }
                return Err(error);
            }
        }
    }

    async fn pay_singly(&self, keys: Vec<(Key, u64)>) {
        let mut failures = 0;
        for (key, _) in keys {
            let number = self.debts().number_of(&key);
            let Some(number) = number else { continue };
            let one = Batch::Keys(vec![(key, number)]);
            if self.pay_batch(&one).await.is_err() {
                failures += 1;
            }
            if failures == SINGLE_FAILURES {
                return;
            }
        }
    }

    /// # Errors
    ///
    /// If the store does not answer.
    async fn pay_batch(&self, batch: &Batch) -> Result<()> {
        let removed = match batch {
            Batch::Keys(keys) => {
                let keys: Vec<Key> = keys.iter().map(|(key, _)| key.clone()).collect();
                self.store.delete_many(&keys).await.map(drop)
            }
            Batch::Beginning(Beginning::Namespace(namespace), _) => {
                self.store.clear(namespace).await
            }
            Batch::Beginning(Beginning::Prefix(prefix), _) => {
                self.store.delete_prefix(prefix).await.map(drop)
            }
        };
        match removed {
            Err(error) if is_outage(&error) => return Err(error),
            // What the store will not do now, it will not do the next time.
            Err(error) => observe::failed(self.store.name(), "recover", &error),
            Ok(()) => {}
        }
        self.debts().settle(batch);
        Ok(())
    }
}

/// A task at work: that it has ended is known, however it did.
struct Work<B> {
    circuit: Weak<Circuit<B>>,
    flag: fn(&Circuit<B>) -> &AtomicBool,
}

impl<B> Work<B> {
    fn of(circuit: &Arc<Circuit<B>>, flag: fn(&Circuit<B>) -> &AtomicBool) -> Self {
        let circuit = Arc::downgrade(circuit);
        Self { circuit, flag }
    }
}

impl<B: Backend> Work<B> {
    /// It is done; what came up at the end is for the next task.
    fn end(self) {
        let circuit = self.circuit.upgrade();
        drop(self);
        if let Some(circuit) = circuit {
            circuit.mend();
        }
    }
}

impl<B> Drop for Work<B> {
    fn drop(&mut self) {
        if let Some(circuit) = self.circuit.upgrade() {
            (self.flag)(&circuit).store(false, Ordering::Release);
        }
    }
}

/// Asks until the store is used again.
async fn ask<B: Backend>(work: Work<B>) {
    let mut pause = FIRST_PAUSE;
    let (mut longest, mut back_since) = (None, None);
    loop {
        let Some(circuit) = work.circuit.upgrade() else {
            return;
        };
        let asked = Instant::now();
        let answers = circuit.probe().await;
        let took = asked.elapsed();
        // An answer that came late, or after nobody had one, is one of a store that was away until then.
        if !answers || took.max(circuit.silence()) >= TRUST {
            longest = longest.max(Some(took));
        }
        let wait = if answers {
            circuit.has_answered();
            let since: Instant = *back_since.get_or_insert_with(Instant::now);
            // After an outage, others that share the store may not have found it yet, and so not have
            // removed what they owe: they wait for an answer or a connection that was lost, and then for
            // their next question.
            let recovery = circuit.recovery;
            let others = |longest: Duration| recovery.mul_f64(1.25).max(longest + recovery / 2);
            if longest.is_none_or(|longest| since.elapsed() >= others(longest)) {
                circuit.close();
                return work.end();
            }
            FIRST_PAUSE
        } else {
            back_since = None;
            pause = (pause * 2).min(circuit.recovery / 4);
            // From question to question, so that nobody is later than the others wait for him.
            pause.saturating_sub(took).max(FIRST_PAUSE)
        };
        drop(circuit);
        sleep(jittered(wait)).await;
    }
}

/// Removes what is owed, whenever the store answers, until that is nothing.
async fn pay<B: Backend>(work: Work<B>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(circuit) = work.circuit.upgrade() else {
            return;
        };
        let is_away = circuit.state() == State::Open && !circuit.answers().is_back;
        if !is_away {
            match circuit.pay().await {
                Ok(()) if circuit.is_settled() => return work.end(),
                Ok(()) => pause = FIRST_PAUSE,
                Err(_) => pause = (pause * 2).min(circuit.recovery),
            }
        }
        let back = Arc::clone(&circuit.back);
        drop(circuit);
        let _ = tokio::time::timeout(jittered(pause), back.notified()).await;
    }
}

/// Nodes do not ask all at the same time, and none at the last moment.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + chance() * 0.4)
}

/// Whether an error says that the store is away, and not that it refuses one call.
pub(super) fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}
