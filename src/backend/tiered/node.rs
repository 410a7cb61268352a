//! One node: its near tier, what it says to the others, and what it hears of them.
//!
//! # Invariants
//!
//! - The near tier is read and filled only before [`Line::good_until`], and empty whenever it comes
//!   back into use.
//! - What is said is numbered when it is about to be sent, sent or not, and changes go before the
//!   heartbeat that follows them: who hears that one knows whether something is missing.
//! - The tasks hold the node, not what uses it; they end with that, or by themselves when their runtime
//!   does, and then the near tier is out of use by the end of its time.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::message::{Message, Word};
use super::near::Near;
use super::outbox::{Change, Outbox};
use super::peers::Peers;
use crate::backend::{Backplane, Subscription};
use crate::clock::nanos;
use crate::error::{ErrorKind, Result};
use crate::observe;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A near tier, and the line to the others if there is one.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) near: Near,
    near_ttl: Duration,
    line: Option<Line>,
}

/// The line to the other nodes.
#[derive(Debug)]
pub(super) struct Line {
    backplane: Box<dyn DynBackplane>,
    bound: Duration,
    origin: u64,
    sequence: AtomicU64,
    start: Instant,
    /// In nanoseconds since the start; zero for not at all.
    good_until: AtomicU64,
    /// Whether what some node changes is not heard of.
    is_one_missing: AtomicBool,
    peers: Mutex<Peers>,
    outbox: Outbox,
    wake: Notify,
    beat_now: AtomicBool,
    is_stopping: AtomicBool,
    /// Which start of the tasks is running; zero for none.
    running: AtomicU64,
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    starts: u64,
    listening: Option<AbortHandle>,
    sending: Option<JoinHandle<()>>,
}

impl Node {
    pub(super) fn new(near: Near, near_ttl: Duration, line: Option<Line>) -> Arc<Self> {
        Arc::new(Self {
            near,
            near_ttl,
            line,
        })
    }

    /// Whether the near tier may be read and filled.
    pub(super) fn is_near_good(&self) -> bool {
        let Some(line) = &self.line else {
            return true;
        };
        nanos(line.start.elapsed()) < line.good_until.load(Ordering::Acquire)
    }

    /// How long a copy may stay near.
    pub(super) fn near_ttl(&self) -> Duration {
        match &self.line {
            Some(line) if line.is_one_missing.load(Ordering::Acquire) => {
                self.near_ttl.min(line.bound / 2)
            }
            _ => self.near_ttl,
        }
    }

    /// How old what is read near may be.
    pub(super) fn staleness(&self) -> Option<Duration> {
        let bound = self.line.as_ref().map_or(self.near_ttl, |line| line.bound);
        self.is_near_good().then(|| self.near_ttl().min(bound))
    }

    /// Tells the others.
    pub(super) fn say(&self, change: impl FnOnce() -> Change) {
        if let Some(line) = &self.line {
            line.outbox.put(change());
            line.wake.notify_one();
        }
    }

    /// Tells the others now, and again later, when this node forgets it once more, too: it may
    /// happen yet.
    pub(super) fn say_twice(&self, change: impl FnOnce() -> Change) {
        if let Some(line) = &self.line {
            let (change, later) = (change(), Instant::now() + line.bound / 2);
            line.outbox.put_later(later, change.clone());
            self.say(|| change);
        }
    }

    /// Starts the tasks if they do not run, and there is a runtime.
    pub(super) fn start(self: &Arc<Self>) {
        if let Some(line) = &self.line
            && line.running.load(Ordering::Acquire) == 0
        {
            self.start_tasks(line);
        }
    }

    /// Ends the tasks; the last of them says farewell.
    pub(super) fn stop(&self) {
        let Some(line) = &self.line else {
            return;
        };
        line.is_stopping.store(true, Ordering::Release);
        line.wake.notify_one();
        if let Some(listening) = &line.tasks().listening {
            listening.abort();
        }
    }

    /// As [`stop`](Self::stop), and waits until farewell is said.
    pub(super) async fn close(&self) {
        self.stop();
        if let Some(line) = &self.line {
            let sending = line.tasks().sending.take();
            if let Some(mut sending) = sending
                && timeout(line.bound, &mut sending).await.is_err()
            {
                sending.abort();
            }
            self.lose(line);
        }
        self.near.forget_all();
    }

    fn start_tasks(self: &Arc<Self>, line: &Line) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut tasks = line.tasks();
        if line.running.load(Ordering::Acquire) != 0 {
            return;
        }
        tasks.starts += 1;
        line.is_stopping.store(false, Ordering::Release);
        line.running.store(tasks.starts, Ordering::Release);
        let alive = || Alive {
            node: Arc::clone(self),
            start: tasks.starts,
        };
        let (listener, sender) = (alive(), alive());
        let listening = runtime.spawn(async move { listener.listen().await });
        tasks.listening = Some(listening.abort_handle());
        tasks.sending = Some(runtime.spawn(async move { sender.send().await }));
    }

    async fn hear(&self, line: &Line, bytes: &Bytes) {
        let message = Message::decode(bytes);
        if let Some(message) = &message
            && message.origin != line.origin
        {
            match &message.word {
                Word::Keys(keys) => keys.iter().for_each(|key| self.near.forget(key)),
                Word::Prefix(prefix) => self.near.forget_prefix(prefix).await,
                Word::Everything => self.near.forget_all(),
                Word::Heartbeat | Word::Farewell => {}
            }
        }
        let mut peers = line.peers();
        let now = Instant::now();
        // Whoever went missing meanwhile did so before this message.
        self.settle(line, &mut peers, now);
        let missed = match &message {
            Some(message) => peers.hear(message, now),
            None => true,
        };
        if missed {
            self.near.forget_all();
        }
        self.settle(line, &mut peers, now);
    }

    /// The subscription is gone: what is near cannot be relied on.
    fn lose(&self, line: &Line) {
        let mut peers = line.peers();
        peers.lose();
        self.settle(line, &mut peers, Instant::now());
    }

    /// Takes the near tier out of use or back into it, as the peers say.
    fn settle(&self, line: &Line, peers: &mut Peers, now: Instant) {
        let until = peers.good_until(now).map_or(0, |until| {
            nanos(until.saturating_duration_since(line.start))
        });
        let was = line.good_until.load(Ordering::Acquire);
        line.is_one_missing
            .store(peers.is_one_missing(), Ordering::Release);
        if until == 0 && was != 0 {
            line.good_until.store(0, Ordering::Release);
            self.near.forget_all();
        } else if until != 0 {
            if was <= nanos(now.saturating_duration_since(line.start)) {
                self.near.forget_all();
            }
            line.good_until.store(until, Ordering::Release);
        }
    }
}

/// A task that runs.
struct Alive {
    node: Arc<Node>,
    start: u64,
}

impl Alive {
    fn line(&self) -> &Line {
        self.node.line.as_ref().expect("tasks run only with a line")
    }

    async fn listen(&self) {
        let line = self.line();
        loop {
            match timeout(line.bound / 2, line.backplane.subscribe()).await {
                Ok(Ok(mut subscription)) => {
                    line.beat_now.store(true, Ordering::Release);
                    line.wake.notify_one();
                    // Our own heartbeats come in, so that silence means that nothing does.
                    while let Ok(Ok(message)) = timeout(line.patience(), subscription.next()).await
                    {
                        self.node.hear(line, &message).await;
                    }
                }
                Ok(Err(error)) => observe::failed("tiered", "subscribe", &error),
                Err(_) => observe::failed("tiered", "subscribe", &ErrorKind::Timeout.into()),
            }
            self.node.lose(line);
            sleep(line.bound / 16).await;
        }
    }

    async fn send(&self) {
        let line = self.line();
        let limit = line.backplane.max_message_bytes();
        let mut next_beat = Instant::now();
        loop {
            let is_stopping = line.is_stopping.load(Ordering::Acquire);
            let (again, next_again) = line.outbox.due(Instant::now());
            for change in again {
                match &change {
                    Change::Keys(keys) => keys.iter().for_each(|key| self.node.near.forget(key)),
                    Change::Prefix(_) => self.node.near.forget_all(),
                }
                line.outbox.put(change);
            }
            for word in line.outbox.take(limit) {
                line.publish(word).await;
            }
            if is_stopping {
                return line.publish(Word::Farewell).await;
            }
            if Instant::now() >= next_beat || line.beat_now.swap(false, Ordering::AcqRel) {
                next_beat = Instant::now() + line.bound / 4;
                line.publish(Word::Heartbeat).await;
            }
            let now = Instant::now();
            self.node.settle(line, &mut line.peers(), now);
            let wake = next_beat.min(now + line.bound / 16);
            let wake = next_again.map_or(wake, |again| again.min(wake));
            let _ = timeout_at(wake, line.wake.notified()).await;
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let line = self.line();
        let ended =
            line.running
                .compare_exchange(self.start, 0, Ordering::AcqRel, Ordering::Relaxed);
        if ended.is_ok() {
            self.node.lose(line);
        }
    }
}

impl Line {
    pub(super) fn new(backplane: impl Backplane, bound: Duration) -> Self {
        let origin = random();
        Self {
            backplane: Box::new(backplane),
            bound,
            origin,
            sequence: AtomicU64::new(0),
            start: Instant::now(),
            good_until: AtomicU64::new(0),
            is_one_missing: AtomicBool::new(false),
            peers: Mutex::new(Peers::new(origin, bound / 4 * 3)),
            outbox: Outbox::default(),
            wake: Notify::new(),
            beat_now: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            running: AtomicU64::new(0),
            tasks: Mutex::default(),
        }
    }

    /// How long silence is taken for nothing.
    fn patience(&self) -> Duration {
        self.bound / 4 * 3
    }

    /// A message that cannot be sent has its number all the same: the next one shows that.
    async fn publish(&self, word: Word) {
        let sequence = self.sequence.fetch_add(1, Ordering::AcqRel);
        if word == Word::Heartbeat {
            self.peers().sent(sequence, Instant::now());
        }
        let message = Message {
            origin: self.origin,
            sequence,
            word,
        };
        let published = self.backplane.publish(message.encode());
        match timeout(self.bound / 4, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => observe::failed("tiered", "publish", &error),
            Err(_) => observe::failed("tiered", "publish", &ErrorKind::Timeout.into()),
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Backplane`], object-safe.
trait DynBackplane: fmt::Debug + Send + Sync {
    fn publish(&self, message: Bytes) -> BoxFuture<'_, ()>;
    fn subscribe(&self) -> BoxFuture<'_, Box<dyn DynSubscription>>;
    fn max_message_bytes(&self) -> usize;
}

trait DynSubscription: Send {
    fn next(&mut self) -> BoxFuture<'_, Bytes>;
}

impl<B: Backplane> DynBackplane for B {
    fn publish(&self, message: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(Backplane::publish(self, message))
    }

    fn subscribe(&self) -> BoxFuture<'_, Box<dyn DynSubscription>> {
        Box::pin(async move {
            let subscription = Backplane::subscribe(self).await?;
            Ok(Box::new(subscription) as Box<dyn DynSubscription>)
        })
    }

    fn max_message_bytes(&self) -> usize {
        Backplane::max_message_bytes(self)
    }
}

impl<S: Subscription> DynSubscription for S {
    fn next(&mut self) -> BoxFuture<'_, Bytes> {
        Box::pin(Subscription::next(self))
    }
}

/// Another number each time, on each machine.
fn random() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    RandomState::new().hash_one((now.unwrap_or_default(), std::process::id()))
}
