//! The service inside of a layer, which need not be ready for what is stored.
//!
//! # Invariants
//!
//! - It is called only once it has said that it is ready, and that one which has said so.
//! - It is asked only for a request that is about to be forwarded: what is stored, and who waits for the answer of
//!   another one, keep nothing that is given to those who are ready, such as a permit or a place in a queue.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
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

    /// Its answer once it is ready, an error of getting ready included.
    pub(super) fn call<R>(self, request: R) -> Calling<S, R>
    where
        S: Service<R>,
    {
        let parts = Some((self.0, request));
        Calling::Waiting { parts }
    }
}

pin_project! {
    /// A call of a service that is about to be made, or is being made. In an `async fn` the request would have its
    /// room beside the future until that ends.
    #[project = CallingProject]
    pub(super) enum Calling<S, R>
    where
        S: Service<R>,
    {
        Waiting { parts: Option<(S, R)> },
        Called { #[pin] future: S::Future },
    }
}

impl<S: Service<R>, R> Future for Calling<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let CallingProject::Waiting { parts } = self.as_mut().project() {
            let waiting = parts.take();
            let (mut service, request) = waiting.expect("a future is not polled after it is ready");
            if service.poll_ready(cx)?.is_pending() {
                *parts = Some((service, request));
                return Poll::Pending;
            }
            let future = service.call(request);
            self.set(Self::Called { future });
        }
        match self.project() {
            CallingProject::Called { future } => future.poll(cx),
            CallingProject::Waiting { .. } => Poll::Pending,
        }
    }
}
