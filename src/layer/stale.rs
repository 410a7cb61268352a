//! Serving pages that are stale, where a layer or a response permits it; not for a layer that goes by
//! HTTP, where responses alone say so.
//!
//! # Invariants
//!
//! - What is served stale was permitted to be when it was stored, and for how long.
//! - A page whose making has failed is not asked for again before the throttle is over, as long as
//!   there is something to serve.
//!
//! # Specification
//!
//! RFC 5861.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;

use super::layer::{CacheLayer, Config};
use super::lookup::{Asked, Flight, Miss, Pick};
use crate::key::Key;
use crate::semantics::cache_control::CacheControl;
use crate::semantics::reuse::is_error;

/// How long after a failure a page is not asked for again.
pub(super) const DEFAULT_THROTTLE: Duration = Duration::from_secs(30);

impl CacheLayer {
    /// How long after its TTL a page is served as it is, while the handler makes another one in the
    /// background. None by default.
    ///
    /// `stale-while-revalidate` of a response goes before this, also with no time at all;
    /// `must-revalidate`, `proxy-revalidate` and `no-cache` forbid it. A layer in
    /// [HTTP mode](Self::http) goes by what responses say, and by nothing else.
    ///
    /// Inside of another layer, or of a [`CacheGuard`](crate::CacheGuard), nothing is made in the background:
    /// what is stored there is known to be for all only from the response that leaves the outermost one. So of
    /// those who ask for the page while it is stale, one waits for the new one.
    ///
    /// Of all pages and values of a cache, only [so many](crate::CacheBuilder::max_refreshes) are made
    /// anew at a time; what is over that stays as it is until it is asked for again. What takes longer than five
    /// minutes is given up. [`Cache::close`](crate::Cache::close) waits for them.
    ///
    /// # Specification
    ///
    /// RFC 5861 section 3.
    ///
    /// # Django
    ///
    /// None.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(all(feature = "axum", feature = "memory"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::time::Duration;
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use axum_cache::{Cache, CacheLayer, backend::Memory};
    /// use tower::{Layer, ServiceExt};
    ///
    /// let cache = Cache::new(Memory::new());
    /// let site = CacheLayer::new(cache.clone())
    ///     .tags(["site"])
    ///     .stale_while_revalidate(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(3600))
    ///     .layer(Router::new().route("/", get(|| async { "page" })));
    /// let get = || site.clone().oneshot(Request::new(Body::empty()));
    ///
    /// get().await.unwrap();
    /// cache.expire(["site"]).await.unwrap();
    /// let stale = get().await.unwrap();
    /// let status = "axum-cache; hit; ttl=0; detail=stale-while-revalidate";
    /// assert_eq!(stale.headers()["cache-status"], status);
    /// # }
    /// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
    /// ```
    pub fn stale_while_revalidate(self, window: Duration) -> Self {
        self.set(|config| config.windows.while_revalidate = window)
    }

    /// How long after its TTL a page is served as it is if the handler answers 500, 502, 503 or 504,
    /// fails or panics. None by default: what decides about permissions should not be served stale.
    ///
    /// `stale-if-error` of a response goes before this, as
    /// [`stale_while_revalidate`](Self::stale_while_revalidate) says of the other window. The store
    /// keeps pages for their TTL and the longer one of the two.
    ///
    /// # Specification
    ///
    /// RFC 5861 section 4.
    pub fn stale_if_error(self, window: Duration) -> Self {
        self.set(|config| config.windows.if_error = window)
    }

    /// How long after the handler has failed to make a page it is not asked for it again, in each
    /// process, as long as there is a stale one to serve. 30 seconds by default. Not for a layer in
    /// [HTTP mode](Self::http).
    pub fn throttle(self, pause: Duration) -> Self {
        self.set(|config| config.throttle = pause)
    }
}

/// How long after its lifetime a page is served stale, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) while_revalidate: Duration,
    pub(super) if_error: Duration,
}

impl Windows {
    /// Those of a response with these directives, in a layer with these windows.
    pub(super) fn of(self, directives: &CacheControl) -> Self {
        if directives.must_revalidate || directives.proxy_revalidate || directives.no_cache.is_set()
        {
            return Self::default();
        }
        let own = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        Self {
            while_revalidate: own(directives.stale_while_revalidate)
                .unwrap_or(self.while_revalidate),
            if_error: own(directives.stale_if_error).unwrap_or(self.if_error),
        }
    }

    pub(super) fn longest(self) -> Duration {
        self.while_revalidate.max(self.if_error)
    }

    /// What a page may do that has been stale for so long.
    pub(super) fn permit(self, staleness: Duration) -> Stale {
        if staleness < self.while_revalidate {
            Stale::Now
        } else if staleness < self.if_error {
            Stale::Instead
        } else {
            Stale::Nothing
        }
    }
}

/// What a stale page may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Be served, while another one is made.
    Now,
    /// Be served if that fails.
    Instead,
    Nothing,
}

impl Asked<'_> {
    /// Whether a stale page is served in the place of an answer with this status; `None`: of one that
    /// never came. In a layer that does not go by HTTP.
    pub(super) fn may_have_page_instead(&self, stale: &Pick, status: Option<StatusCode>) -> bool {
        let stored = stale.stored();
        status.is_none_or(is_error) && stored.staleness(self.now) < stored.windows.longest()
    }

    /// Whether what was found is to be served without asking for another one, as that has just
    /// failed.
    pub(super) fn is_throttled(&self, flight: &Flight) -> bool {
        self.config.http.is_none() && self.config.cache.is_throttled(&flight.name)
    }
}

impl Config {
    /// Remembers how it went to ask for what is stale: whether it failed with an error status, or
    /// never came.
    pub(super) fn note(&self, asked: &Asked<'_>, key: &Key, miss: &Miss, failed: bool) {
        if self.http.is_some() || miss.stale.is_none() {
            return;
        }
        let flight = asked.flight(key, miss.known.as_deref());
        if failed {
            self.cache.throttle(&flight.name, self.throttle);
        } else {
            self.cache.recovered(&flight.name);
        }
    }
}

/// What a future comes to, or why it panicked.
pub(super) fn caught<F: Future>(
    mut future: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, Box<dyn Any + Send>>> + Unpin {
    poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LAYER: Windows = Windows {
        while_revalidate: SECOND,
        if_error: SECOND.saturating_mul(2),
    };

    fn windows(line: &'static str) -> (u64, u64) {
        let headers: HeaderMap = [(CACHE_CONTROL, HeaderValue::from_static(line))]
            .into_iter()
            .collect();
        let windows = LAYER.of(&CacheControl::parse(&headers).unwrap());
        (
            windows.while_revalidate.as_secs(),
            windows.if_error.as_secs(),
        )
    }

    #[test]
    fn a_response_goes_before_its_layer_and_may_forbid_it() {
        assert_eq!(windows("max-age=9"), (1, 2));
        assert_eq!(windows("stale-while-revalidate=5"), (5, 2));
        assert_eq!(
            windows("stale-while-revalidate=0, stale-if-error=0"),
            (0, 0)
        );
        assert_eq!(windows("s-maxage=9, stale-if-error=7"), (1, 7));
        for line in [
            "must-revalidate",
            "proxy-revalidate",
            "no-cache",
            "no-cache=x",
        ] {
            assert_eq!(windows(line), (0, 0), "{line}");
        }
        assert_eq!(windows("must-revalidate, stale-if-error=7"), (0, 0));
    }

    #[test]
    fn each_window_ends_at_its_instant() {
        let permits = |millis| LAYER.permit(Duration::from_millis(millis));
        assert_eq!([0, 999].map(permits), [Stale::Now; 2]);
        assert_eq!([1000, 1999].map(permits), [Stale::Instead; 2]);
        assert_eq!([2000, 9999].map(permits), [Stale::Nothing; 2]);
        assert_eq!(Windows::default().permit(Duration::ZERO), Stale::Nothing);
    }
}
