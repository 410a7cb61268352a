//! The future of a cached service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::CacheBody;
use super::layer::Config;
use super::veto::Place;
use crate::semantics::cache_status::CacheStatus;

type Answer<B, E> = Pin<Box<dyn Future<Output = Result<Response<CacheBody<B>>, E>> + Send>>;

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
        Answer { future: Answer<B, E> },
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

    pub(super) fn answer(future: Answer<B, E>) -> Self {
        Self {
            inner: Inner::Answer { future },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().inner.project() {
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
            InnerProject::Answer { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, B: Body, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
