//! The future of a cached service.

use std::fmt;
use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::body::CacheBody;
use super::errand::Step;
use super::layer::Config;
use super::unshared::Forwarded;
use super::veto::Place;
use crate::semantics::cache_status::CacheStatus;

/// Whether others wait for an answer: then it is made, whatever becomes of the client that leads them.
pub(super) type Leads = Arc<AtomicBool>;

pub(super) type Answer<B, E> =
    Pin<Box<dyn Future<Output = Result<Response<CacheBody<B>>, E>> + Send>>;

pub(super) type LookUp<B, E> = Pin<Box<dyn Future<Output = Step<B, E>> + Send>>;

pin_project! {
    /// The future of a [`CacheService`](super::CacheService).
    pub struct ResponseFuture<F, B: Body, E> {
        #[pin]
        inner: Inner<F, B, E>,
    }
}

pin_project! {
    #[project = InnerProject]
    enum Inner<F, B: Body, E> {
        Hit { response: Option<Response<CacheBody<B>>> },
        Pass { #[pin] future: F, status: Option<CacheStatus>, place: Place, config: Option<Arc<Config>> },
        Unshared { #[pin] future: F, page: Forwarded },
        LookUp { future: LookUp<B, E> },
        Answer { future: Answer<B, E>, leads: Leads },
    }
}

impl<F, B: Body, E> ResponseFuture<F, B, E> {
    pub(super) fn hit(response: Response<CacheBody<B>>) -> Self {
        let response = Some(response);
        Self {
            inner: Inner::Hit { response },
        }
    }

    /// Not for the cache: only the status is added, if there is one, and the field of a `config` with tags
    /// is taken.
    pub(super) fn pass(
        future: F,
        status: Option<CacheStatus>,
        place: Place,
        config: Option<Arc<Config>>,
    ) -> Self {
        Self {
            inner: Inner::Pass {
                future,
                status,
                place,
                config,
            },
        }
    }

    /// Not likely to be for the cache.
    pub(super) fn unshared(future: F, page: Forwarded) -> Self {
        Self {
            inner: Inner::Unshared { future, page },
        }
    }

    pub(super) fn answer(future: Answer<B, E>) -> Self {
        let leads = Leads::default();
        Self {
            inner: Inner::Answer { future, leads },
        }
    }

    /// One that has to be looked up elsewhere.
    pub(super) fn look_up(future: LookUp<B, E>) -> Self {
        Self {
            inner: Inner::LookUp { future },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
    E: Send + 'static,
{
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.as_mut().project().inner.project() {
            InnerProject::Hit { response } => {
                let response = response.take();
                Poll::Ready(Ok(
                    response.expect("a future is not polled after it is ready")
                ))
            }
            InnerProject::Pass {
                future,
                status,
                place,
                config,
            } => {
                let mut response = ready!(future.poll(cx))?.map(CacheBody::live);
                if let Some(config) = config {
                    response = config.with_named_tags(response);
                }
                place.leave(&mut response);
                if let Some(status) = status {
                    status.append_to(response.headers_mut());
                }
                Poll::Ready(Ok(response))
            }
            InnerProject::Unshared { future, page } => {
                Poll::Ready(Ok(page.respond(ready!(future.poll(cx))?)))
            }
            InnerProject::LookUp { future } => match ready!(future.as_mut().poll(cx)) {
                Step::Answered(response) => Poll::Ready(Ok(response)),
                Step::Rest(future, leads) => {
                    let rest = Inner::Answer { future, leads };
                    self.as_mut().project().inner.set(rest);
                    self.poll(cx)
                }
            },
            InnerProject::Answer { future, leads } => {
                let polled = future.as_mut().poll(cx);
                if polled.is_ready() || !leads.swap(false, Ordering::Relaxed) {
                    return polled;
                }
                let Ok(runtime) = Handle::try_current() else {
                    return polled;
                };
                // What is ready at once needs no task; the rest gets one.
                let rest = std::mem::replace(future, Box::pin(pending()));
                *future = Box::pin(outcome(runtime.spawn(rest)));
                future.as_mut().poll(cx)
            }
        }
    }
}

/// What a task comes to.
async fn outcome<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(lost) => match lost.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => pending().await,
        },
    }
}

impl<F, B: Body, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
