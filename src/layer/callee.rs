//! The service inside of a layer, which need not be ready for what is stored.
//!
//! # Invariants
//!
//! - It is called only once it has said that it is ready, and that one which has said so.
//! - It is asked only for a request that is about to be forwarded: what is stored, and who waits for the answer of
//!   another one, keep nothing that is given to those who are ready, such as a permit or a place in a queue.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use tower_service::Service;

/// One that has not been asked whether it is ready, but in between [`is_ready`](Self::is_ready) and
/// [`call_now`](Self::call_now).
#[derive(Clone, Debug)]
pub(super) struct Callee<S>(S);

impl<S> Callee<S> {
    pub(super) fn new(service: S) -> Self {
        Self(service)
    }

    /// Whether it is ready now, for a request that is then given to it.
    pub(super) fn is_ready<R>(&mut self) -> bool
    where
        S: Service<R> + Clone,
    {
        let asked = self.0.poll_ready(&mut Context::from_waker(Waker::noop()));
        let is_ready = matches!(asked, Poll::Ready(Ok(())));
        if !is_ready {
            // The one that was asked has a place in a queue now, or has failed.
            self.0 = self.0.clone();
        }
        is_ready
    }

    /// The answer of one that [is ready](Self::is_ready).
    pub(super) fn call_now<R>(&mut self, request: R) -> S::Future
    where
        S: Service<R>,
    {
        self.0.call(request)
    }

    /// Its answer once it is ready.
    ///
    /// # Errors
    ///
    /// Its own, also that of getting ready.
    pub(super) async fn call<R>(mut self, request: R) -> Result<S::Response, S::Error>
    where
        S: Service<R>,
    {
        poll_fn(|cx| self.0.poll_ready(cx)).await?;
        self.0.call(request).await
    }
}
