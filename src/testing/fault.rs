//! What goes wrong with a call, and with which calls it does.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::entry::Entry;
use crate::error::ErrorKind;

/// A call of a [`Backend`](crate::backend::Backend), by the name of its method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "they are the methods of a backend")]
pub enum Operation {
    Add,
    Clear,
    Close,
    CompareAndSet,
    Delete,
    DeleteMany,
    DeletePrefix,
    FlushStore,
    Get,
    GetMany,
    Incr,
    Rename,
    Set,
    SetMany,
    Touch,
    Ttl,
}

impl Operation {
    /// The method's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Clear => "clear",
            Self::Close => "close",
            Self::CompareAndSet => "compare_and_set",
            Self::Delete => "delete",
            Self::DeleteMany => "delete_many",
            Self::DeletePrefix => "delete_prefix",
            Self::FlushStore => "flush_store",
            Self::Get => "get",
            Self::GetMany => "get_many",
            Self::Incr => "incr",
            Self::Rename => "rename",
            Self::Set => "set",
            Self::SetMany => "set_many",
            Self::Touch => "touch",
            Self::Ttl => "ttl",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What goes wrong, and with which calls: all of them from now on, unless said otherwise.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use axum_cache::ErrorKind;
/// use axum_cache::testing::{Fault, Operation};
///
/// let script = [
///     // Two reads, then a write that does not arrive, and then all is well.
///     Fault::error(ErrorKind::Unavailable).on(Operation::Set).after(1).times(1),
///     // A network that loses one answer of ten, the same ones each time the test runs.
///     Fault::lost_answer(ErrorKind::Timeout).with_probability(0.1, 42),
/// ];
/// ```
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing until it is injected"]
pub struct Fault {
    effect: Effect,
    operation: Option<Operation>,
    /// How many calls it spares yet.
    spared: usize,
    /// How many it hits yet.
    left: usize,
    probability: f64,
    random: Random,
}

#[derive(Clone, Debug)]
enum Effect {
    Delay(Duration),
    Hang,
    Error(ErrorKind),
    LateAnswer(Duration),
    LostAnswer(ErrorKind),
    Corrupt,
    Find(Option<Entry>),
}

/// What goes wrong with one call.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    pub(super) delay: Duration,
    pub(super) hangs: bool,
    pub(super) error: Option<ErrorKind>,
    pub(super) late: Duration,
    pub(super) lost: Option<ErrorKind>,
    pub(super) changes: Vec<Change>,
}

/// What becomes of an entry on its way.
#[derive(Debug)]
pub(super) enum Change {
    Corrupt(u64),
    Replace(Option<Entry>),
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self {
            effect,
            operation: None,
            spared: 0,
            left: usize::MAX,
            probability: 1.0,
            random: Random::new(1),
        }
    }

    /// A call takes so long before it reaches the store.
    pub fn delay(by: Duration) -> Self {
        Self::new(Effect::Delay(by))
    }

    /// A call takes so long after it was done: what happens meanwhile is not in its answer.
    pub fn late_answer(by: Duration) -> Self {
        Self::new(Effect::LateAnswer(by))
    }

    /// A call fails and never reaches the store.
    pub fn error(kind: ErrorKind) -> Self {
        Self::new(Effect::Error(kind))
    }

    /// A call is done, and fails nevertheless.
    pub fn lost_answer(kind: ErrorKind) -> Self {
        Self::new(Effect::LostAnswer(kind))
    }

    /// A call hangs until its caller gives up, or the store is [healed](super::TestBackend::heal).
    pub fn hang() -> Self {
        Self::new(Effect::Hang)
    }

    /// What is read has a bit flipped, is cut short, or has a tail.
    pub fn corrupt() -> Self {
        Self::new(Effect::Corrupt)
    }

    /// What is read is this, whatever is there.
    pub fn find(entry: Option<Entry>) -> Self {
        Self::new(Effect::Find(entry))
    }

    /// It is with these calls alone.
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// So many calls are spared first.
    pub fn after(mut self, calls: usize) -> Self {
        self.spared = calls;
        self
    }

    /// So many calls are hit, and no more.
    pub fn times(mut self, calls: usize) -> Self {
        self.left = calls;
        self
    }

    /// A call is hit with this probability, from 0 to 1, the same ones in each run of this `seed`.
    pub fn with_probability(mut self, probability: f64, seed: u64) -> Self {
        self.probability = probability;
        self.random = Random::new(seed);
        self
    }

    /// Whether this call is hit, and by which draw.
    fn hits(&mut self, operation: Operation) -> Option<u64> {
        if self.left == 0 || self.operation.is_some_and(|of| of != operation) {
            return None;
        }
        if self.spared > 0 {
            self.spared -= 1;
            return None;
        }
        let (chance, draw) = (self.random.chance(), self.random.next());
        if chance >= self.probability {
            return None;
        }
        self.left -= 1;
        Some(draw)
    }
}

/// Xorshift: the same numbers for the same seed.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Zero would stay zero; and small seeds begin alike.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 up to 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
    fn chance(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Troubles {
    /// Of all faults that hit this call, together.
    pub(super) fn of(faults: &mut [Fault], operation: Operation) -> Self {
        let mut troubles = Self::default();
        for fault in faults {
            let Some(draw) = fault.hits(operation) else {
                continue;
            };
            match &fault.effect {
                Effect::Delay(by) => troubles.delay += *by,
                Effect::Hang => troubles.hangs = true,
                Effect::Error(kind) => troubles.error = troubles.error.or(Some(*kind)),
                Effect::LateAnswer(by) => troubles.late += *by,
                Effect::LostAnswer(kind) => troubles.lost = troubles.lost.or(Some(*kind)),
                Effect::Corrupt => troubles.changes.push(Change::Corrupt(draw)),
                Effect::Find(entry) => troubles.changes.push(Change::Replace(entry.clone())),
            }
        }
        troubles
    }
}

impl Change {
    pub(super) fn of(&self, entry: Option<Entry>) -> Option<Entry> {
        match self {
            Self::Corrupt(draw) => entry.map(|entry| corrupt(&entry, *draw)),
            Self::Replace(other) => other.clone(),
        }
    }
}

/// The entry with a bit flipped, cut short, or with a tail, as `draw` decides.
fn corrupt(entry: &Entry, draw: u64) -> Entry {
    let bytes = entry.bytes();
    let length = bytes.len() as u64;
    let place = usize::try_from(draw / 3 % length.max(1)).unwrap_or(0);
    let corrupt: Bytes = match draw % 3 {
        0 if length > 0 => {
            let mut flipped = BytesMut::from(bytes.as_ref());
            flipped[place] ^= 1 << (draw / 7 % 8);
            flipped.freeze()
        }
        1 if length > 0 => bytes.slice(..place),
        _ => [bytes.as_ref(), b"tail"].concat().into(),
    };
    Entry::new(corrupt)
}
