//! What a test says of where an answer came from.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, Response};

use crate::semantics::cache_status::CACHE_STATUS;

/// Whether a cache answered, and not the handler: a member of `Cache-Status` says `hit`.
///
/// # Specification
///
/// RFC 9211 section 2.1.
pub fn answered_from_cache<B>(response: &Response<B>) -> bool {
    let lines = response.headers().get_all(CACHE_STATUS);
    let mut lines = lines.iter().filter_map(|line| line.to_str().ok());
    lines.any(|line| {
        let mut members = split(line, ',');
        members.any(|member| split(member, ';').skip(1).any(|it| it.trim() == "hit"))
    })
}

/// Split where it is not quoted.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |it| {
        is_quoted ^= it == '"';
        it == at && !is_quoted
    })
}

/// # Panics
///
/// Unless a cache [answered](answered_from_cache).
#[track_caller]
pub fn assert_hit<B>(response: &Response<B>) {
    let status = statuses(response);
    assert!(answered_from_cache(response), "no cache answered: {status}");
}

/// # Panics
///
/// If a cache [answered](answered_from_cache), or if none was asked.
#[track_caller]
pub fn assert_miss<B>(response: &Response<B>) {
    let status = statuses(response);
    assert!(!answered_from_cache(response), "a cache answered: {status}");
    assert!(!status.is_empty(), "no cache was asked");
}

fn statuses<B>(response: &Response<B>) -> String {
    let lines = response.headers().get_all(CACHE_STATUS);
    let lines: Vec<_> = lines.iter().map(HeaderValue::as_bytes).collect();
    String::from_utf8_lossy(&lines.join(&b", "[..])).into_owned()
}

/// Counts how often something was computed. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Computations(Arc<AtomicUsize>);

impl Computations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one, and says which it is, from 1.
    pub fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Counts one, and is a computation of `value`: for `|| computations.ok(value)`.
    pub fn ok<T>(&self, value: T) -> Ready<Result<T, Infallible>> {
        self.next();
        ready(Ok(value))
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// # Panics
    ///
    /// Unless there were so many.
    #[track_caller]
    pub fn assert_count(&self, count: usize) {
        assert_eq!(self.count(), count, "computed {} times", self.count());
    }
}
