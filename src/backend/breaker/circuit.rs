//! Whether a store is used, and what is done until it is again.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::debts::{Batch, Beginning, Debts};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeySpace};
use crate::observe;
use crate::policy::chance;

/// The time between the first two questions to a store that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// For how long a store that has answered is not taken to be away because of one error.
const TRUST: Duration = Duration::from_millis(100);

/// What is asked for: in a cluster, on several nodes. One that answers is enough.
const PROBES: [&str; 3] = [
    "axum-cache:probe:1",
    "axum-cache:probe:2",
    "axum-cache:probe:3",
];

/// The state in which a call costs no more than to look at it.
const CLOSED: u8 = 0;
const OWING: u8 = 1;
const OPEN: u8 = 2;

#[derive(Debug)]
pub(super) struct Circuit<B> {
    pub(super) store: B,
    max_pause: Duration,
    state: AtomicU8,
    debts: Mutex<Debts>,
    /// Whether a task sees to it that it closes.
    mending: AtomicBool,
    /// When the store last answered a probe.
    answered: Mutex<Option<Instant>>,
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
    pub(super) fn new(store: B, max_pause: Duration, max_owed: usize) -> Arc<Self> {
        Arc::new(Self {
            store,
            max_pause: max_pause.max(FIRST_PAUSE),
            state: AtomicU8::new(CLOSED),
            debts: Mutex::new(Debts::new(max_owed)),
            mending: AtomicBool::new(false),
            answered: Mutex::default(),
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

    /// What is to be removed once the store is back, and is not read before.
    pub(super) fn owe(&self, owe: impl FnOnce(&mut Debts)) {
        let mut debts = self.debts();
        owe(&mut debts);
        self.state.fetch_max(OWING, Ordering::AcqRel);
    }

    /// The store has not answered a call: it is asked, and not used until it has answered.
    pub(super) fn alarm(self: &Arc<Self>) {
        let answered = *self.answered();
        if answered.is_none_or(|answered| answered.elapsed() >= TRUST) {
            self.open();
        }
        self.mend();
    }

    fn open(&self) {
        if self.state.swap(OPEN, Ordering::AcqRel) != OPEN {
            observe::circuit(self.store.name(), "open");
        }
    }

    /// Sees to it that a task brings the store back into use.
    fn mend(self: &Arc<Self>) {
        if self.state() == State::Closed || self.mending.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            // Without a runtime nobody can: the next call asks by itself.
            self.mending.store(false, Ordering::Release);
            self.state.store(CLOSED, Ordering::Release);
            return;
        };
        let circuit = Arc::downgrade(self);
        runtime.spawn(mend(circuit));
    }

    fn answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store answers.
    async fn probe(&self) -> bool {
        let keys = PROBES.map(|probe| KeySpace::default().key(0, probe));
        // All at once: what hangs takes one deadline, and not one for each.
        let asked = keys.iter().flatten().map(|key| self.store.get(key));
        let mut asked: Vec<_> = asked.map(Box::pin).collect();
        let answers = poll_fn(|context| {
            let mut answers = false;
            asked.retain_mut(|answer| match answer.as_mut().poll(context) {
                Poll::Ready(answer) => {
                    answers |= !answer.is_err_and(|error| is_outage(&error));
                    false
                }
                Poll::Pending => true,
            });
            match (answers, asked.is_empty()) {
                (false, false) => Poll::Pending,
                _ => Poll::Ready(answers),
            }
        });
        let answers = answers.await;
        if answers {
            *self.answered() = Some(Instant::now());
        }
        answers
    }

    /// Removes what is owed, as far as the store can.
    async fn pay(&self) -> Result<()> {
        loop {
            let Some(batch) = self.debts().next() else {
                return Ok(());
            };
            let removed = match &batch {
                Batch::Keys(keys) => {
                    let keys: Vec<Key> = keys.iter().map(|(key, _)| key.clone()).collect();
                    self.store.delete_many(&keys).await.map(drop)
                }
                Batch::Beginning(beginning, _) => match beginning {
                    Beginning::Nothing => self.store.flush_store().await,
                    Beginning::Namespace(namespace) => self.store.clear(namespace).await,
                    Beginning::Prefix(prefix) => self.store.delete_prefix(prefix).await.map(drop),
                },
            };
            match removed {
                Err(error) if is_outage(&error) => return Err(error),
                // What the store will not do now, it will not do the next time.
                Err(error) => observe::failed(self.store.name(), "recover", &error),
                Ok(()) => {}
            }
            self.debts().settle(&batch);
        }
    }

    /// One try to bring the store back into use; how long it was away yet, if it was not.
    async fn try_to_close(&self, away: &mut Away) -> bool {
        if self.state() == State::Open {
            let asked = Instant::now();
            let answers = self.probe().await;
            let took = asked.elapsed();
            // An answer that came late is one of a store that was away until then.
            if !answers || took >= TRUST {
                away.was_confirmed = true;
                away.longest_probe = away.longest_probe.max(took);
            }
            away.answers = answers;
            if !answers {
                away.since_answer = None;
                return false;
            }
            let since = *away.since_answer.get_or_insert_with(Instant::now);
            // Others that share the store may not have found it yet, and so not have removed what they
            // owe: they wait for an answer or a connection that was lost, and then for their next question.
            let others = self.max_pause.mul_f64(1.5);
            let others = others.max(away.longest_probe + self.max_pause / 2);
            if away.was_confirmed && since.elapsed() < others {
                let _ = self.pay().await;
                return false;
            }
            // If it opens again before all is removed, that is another outage.
            *away = Away {
                answers,
                ..Away::default()
            };
            // It is used again but for what is owed, however long it refuses to remove that.
            self.state.store(OWING, Ordering::Release);
            observe::circuit(self.store.name(), "closed");
        }
        if self.pay().await.is_err() {
            return false;
        }
        // Under the lock, so that nothing is owed at the same time.
        let debts = self.debts();
        if !debts.is_empty() {
            return false;
        }
        // It may have opened since.
        let (state, set) = (&self.state, Ordering::AcqRel);
        let closed = state.compare_exchange(OWING, CLOSED, set, Ordering::Acquire);
        matches!(closed, Ok(_) | Err(CLOSED))
    }
}

/// What is known of an outage.
#[derive(Debug, Default)]
struct Away {
    /// A question had no answer.
    was_confirmed: bool,
    /// The last one had one.
    answers: bool,
    /// Since when all had one.
    since_answer: Option<Instant>,
    /// How long the one took that had none.
    longest_probe: Duration,
}

async fn mend<B: Backend>(circuit: Weak<Circuit<B>>) {
    let mut pause = FIRST_PAUSE;
    let mut away = Away::default();
    loop {
        let Some(circuit) = circuit.upgrade() else {
            return;
        };
        let asked = Instant::now();
        if circuit.try_to_close(&mut away).await {
            circuit.mending.store(false, Ordering::Release);
            // What was owed since was for this task to see.
            return circuit.mend();
        }
        let pause_now = if away.answers {
            FIRST_PAUSE
        } else {
            pause = (pause * 2).min(circuit.max_pause / 2);
            // From question to question, so that nobody is later than the others wait for him.
            pause.saturating_sub(asked.elapsed()).max(FIRST_PAUSE)
        };
        drop(circuit);
        // Nodes do not ask all at the same time, and none at the last moment.
        sleep(pause_now.mul_f64(0.5 + chance() * 0.4)).await;
    }
}

/// Whether an error says that the store is away, and not that it refuses one call.
pub(super) fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}
