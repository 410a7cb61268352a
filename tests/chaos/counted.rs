//! What the crate counts of entries that it could not use, in which series, and how often anything panicked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_global_recorder,
};

/// By the name of the cache, or of the store if that knows of no cache.
static CORRUPT: Mutex<BTreeMap<String, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

static SERIES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Counters;

/// Counts from now on.
pub(crate) fn install() {
    assert!(set_global_recorder(Counters).is_ok());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
}

/// How many entries could not be used.
pub(crate) fn corrupt(cache: &str) -> u64 {
    let counters = CORRUPT.lock().unwrap();
    let counter = counters.get(cache);
    counter.map_or(0, |counter| counter.load(Ordering::SeqCst))
}

/// The series that there are, with their labels.
pub(crate) fn series() -> BTreeSet<String> {
    SERIES.lock().unwrap().clone()
}

fn note(key: &Key) {
    SERIES.lock().unwrap().insert(key.to_string());
}

/// How often anything panicked, a failed test included.
pub(crate) fn panics() -> usize {
    PANICS.load(Ordering::SeqCst)
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        note(key);
        let cache = key.labels().find(|label| label.key() == "cache.name");
        match cache {
            Some(cache) if key.name() == "cache.corrupt" => {
                let mut counters = CORRUPT.lock().unwrap();
                let counter = counters.entry(cache.value().to_owned()).or_default();
                Counter::from_arc(Arc::clone(counter))
            }
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        note(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        note(key);
        Histogram::noop()
    }
}
