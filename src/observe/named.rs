//! The name of a cache, and with it the keys of the counters of what it did.
//!
//! To put a key together takes several allocations, which each hit would pay for. A handle to the counter itself
//! would be cheaper still, but is one of the recorder that there was when it was made.

use std::ops::Deref;
use std::sync::Arc;
#[cfg(feature = "metrics")]
use std::sync::OnceLock;

#[cfg(feature = "metrics")]
use super::Outcome;

/// The name of a cache.
#[derive(Debug)]
pub(crate) struct Named {
    name: Arc<str>,
    /// The keys of the kinds that come first; those of the rest are made each time.
    #[cfg(feature = "metrics")]
    counted: [OnceLock<(Kind, metrics::Key)>; 8],
}

/// What is counted apart: operation, outcome and reason.
#[cfg(feature = "metrics")]
pub(super) type Kind = (&'static str, Outcome, &'static str);

impl Named {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            #[cfg(feature = "metrics")]
            counted: Default::default(),
        }
    }

    #[cfg(feature = "metrics")]
    pub(super) fn count(&self, kind: Kind) {
        for counted in &self.counted {
            let (known, key) = counted.get_or_init(|| (kind, self.key(kind)));
            if *known == kind {
                return increment(key);
            }
        }
        increment(&self.key(kind));
    }

    #[cfg(feature = "metrics")]
    fn key(&self, (operation, outcome, reason): Kind) -> metrics::Key {
        let labels = vec![
            metrics::Label::new("cache.name", Arc::clone(&self.name)),
            metrics::Label::new("cache.operation", operation),
            metrics::Label::new("cache.result", outcome.as_str()),
            metrics::Label::new("cache.reason", reason),
        ];
        metrics::Key::from_parts("cache.requests", labels)
    }
}

#[cfg(feature = "metrics")]
fn increment(key: &metrics::Key) {
    static METADATA: metrics::Metadata<'static> =
        metrics::Metadata::new(module_path!(), metrics::Level::INFO, Some(module_path!()));
    metrics::with_recorder(|recorder| recorder.register_counter(key, &METADATA).increment(1));
}

impl Deref for Named {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    /// How often each series was counted.
    #[derive(Debug, Default)]
    struct Series(Arc<Mutex<BTreeMap<String, u64>>>);

    struct One(String, Arc<Mutex<BTreeMap<String, u64>>>);

    impl CounterFn for One {
        fn increment(&self, value: u64) {
            if let Ok(mut series) = self.1.lock() {
                *series.entry(self.0.clone()).or_default() += value;
            }
        }

        fn absolute(&self, _: u64) {}
    }

    impl Recorder for Series {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels = key.labels().map(metrics::Label::value);
            let labels: Vec<_> = std::iter::once(key.name()).chain(labels).collect();
            Counter::from_arc(Arc::new(One(labels.join(" "), Arc::clone(&self.0))))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn each_kind_has_a_series_in_whichever_recorder_there_is() {
        let name = Named::new("pages".into());
        // More than there are places for.
        let reasons = ["", "a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let outcomes = [Outcome::Hit, Outcome::Miss];
        let kinds = reasons
            .iter()
            .flat_map(|reason| outcomes.map(|it| (it, *reason)));
        let kinds: Vec<_> = kinds.collect();
        // Without one nothing is counted, and what was put together then serves the next.
        for (outcome, reason) in &kinds {
            name.count(("page", *outcome, *reason));
        }
        for _ in 0..2 {
            let series = Series::default();
            metrics::with_local_recorder(&series, || {
                for (times, (outcome, reason)) in kinds.iter().enumerate() {
                    for _ in 0..=times {
                        name.count(("page", *outcome, *reason));
                    }
                }
            });
            let counted = series.0.lock().map(|series| series.clone());
            let expected = kinds.iter().zip(1..).map(|((outcome, reason), times)| {
                let outcome = outcome.as_str();
                (
                    format!("cache.requests pages page {outcome} {reason}"),
                    times,
                )
            });
            assert_eq!(counted.ok(), Some(expected.collect()));
        }
    }
}
