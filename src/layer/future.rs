//! The future of a cached service.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::timeout;

use super::body::CacheBody;
use super::collapse::Landed;
use super::errand::Step;
use super::hit::Hit;
use super::layer::Config;
use super::unnamed::Unnamed;
use super::veto::Place;
use crate::cache::Cache;
use crate::flight::Audience;
use crate::semantics::cache_status::CacheStatus;

/// The longest that an answer may take which no client waits for: a handler that never ends would keep for ever
/// what there is a limited number of.
pub(super) const UNATTENDED: Duration = Duration::from_secs(300);

/// How often it is looked whether anybody still waits.
const LOOK: Duration = Duration::from_secs(1);

pub(super) type Answer<B, E> =
    Pin<Box<dyn Future<Output = Result<Response<CacheBody<B>>, E>> + Send>>;

pub(super) type LookUp<B, E> = Pin<Box<dyn Future<Output = Step<B, E>> + Send>>;

/// The future of a [`CacheService`](super::CacheService).
pub struct ResponseFuture<B: Body, E> {
    inner: Inner<B, E>,
}

/// Small, as it is moved more often than made: all that takes room has it elsewhere.
enum Inner<B: Body, E> {
    Hit(Option<Hit>),
    LookUp(LookUp<B, E>),
    Answer(Led<B, E>),
}

impl<B: Body, E> ResponseFuture<B, E> {
    pub(super) fn hit(hit: Hit) -> Self {
        let inner = Inner::Hit(Some(hit));
        Self { inner }
    }

    /// One that ends with its client.
    pub(super) fn answer(
        answer: impl Future<Output = Result<Response<CacheBody<B>>, E>> + Send + 'static,
    ) -> Self {
        let inner = Inner::Answer(Led::new(Box::pin(answer), None));
        Self { inner }
    }

    /// One that has to be looked up elsewhere.
    pub(super) fn look_up(look_up: LookUp<B, E>) -> Self {
        let inner = Inner::LookUp(look_up);
        Self { inner }
    }
}

impl<B: Body<Data = Bytes>, E> Future for ResponseFuture<B, E> {
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.inner {
            Inner::Hit(hit) => {
                let hit = hit.take();
                let hit = hit.expect("a future is not polled after it is ready");
                Poll::Ready(Ok(hit.response()))
            }
            Inner::LookUp(look_up) => match ready!(look_up.as_mut().poll(cx)) {
                Step::Answered(response) => Poll::Ready(Ok(response)),
                Step::Rest(answer, leads) => {
                    self.inner = Inner::Answer(Led::new(answer, Some(leads)));
                    self.poll(cx)
                }
            },
            Inner::Answer(answer) => answer.poll(cx),
        }
    }
}

pin_project! {
    /// An answer of the inner service, of which something else is made. In an `async` block it would have its room
    /// twice.
    pub(super) struct Finished<F, T> {
        #[pin]
        future: F,
        finish: Option<T>,
    }
}

/// What makes of an answer of the inner service the one for the client.
pub(super) trait Finish {
    fn finish<B: Body<Data = Bytes>>(self, response: Response<B>) -> Response<CacheBody<B>>;
}

impl<F, T> Finished<F, T> {
    pub(super) fn new(future: F, finish: T) -> Self {
        let finish = Some(finish);
        Self { future, finish }
    }
}

impl<F, T, B, E> Future for Finished<F, T>
where
    F: Future<Output = Result<Response<B>, E>>,
    T: Finish,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<CacheBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let finish = this.finish.take();
        let finish = finish.expect("a future is not polled after it is ready");
        Poll::Ready(Ok(finish.finish(response)))
    }
}

/// What is done with a response that is not for the cache. The caches outside may store it, and are told what they
/// are of those that this one stores.
pub(super) struct Passing {
    pub(super) status: Option<CacheStatus>,
    pub(super) place: Place,
    /// Of a layer that names fields in `Vary`, or tags.
    pub(super) config: Option<Arc<Config>>,
    pub(super) unnamed: Option<Unnamed>,
}

impl Finish for Passing {
    fn finish<B: Body<Data = Bytes>>(self, response: Response<B>) -> Response<CacheBody<B>> {
        let mut response = response.map(CacheBody::live);
        if let Some(config) = &self.config {
            response = config.with_named_tags(response);
            config.inputs.patch_vary(response.headers_mut());
        }
        if let Some(unnamed) = self.unnamed {
            unnamed.leave(response.extensions_mut());
        }
        self.place.leave(&mut response);
        if let Some(status) = self.status {
            status.append_to(response.headers_mut());
        }
        response
    }
}

/// Who leads others to an answer, and what becomes of that without them.
pub(super) struct Lead<B: Body, E> {
    cache: Cache,
    audience: Audience<Landed>,
    /// What goes on in the place of a client that has gone.
    take_over: fn(Answer<B, E>, &Self),
}

/// Empty for who leads nobody.
pub(super) type Leads<B, E> = Arc<OnceLock<Lead<B, E>>>;

impl<B: Body + 'static, E: 'static> Lead<B, E> {
    pub(super) fn new(cache: Cache, audience: Audience<Landed>) -> Self {
        Self {
            cache,
            audience,
            take_over: Self::finish,
        }
    }

    /// Finishes what others wait for, and of the rest, which may be that from some moment on, as much as is done in
    /// the background, for as long as that may take.
    fn finish(answer: Answer<B, E>, lead: &Self) {
        let nobody_waits = !lead.audience.is_there();
        let permit = nobody_waits.then(|| lead.cache.refresh_permit());
        if let Some(None) = permit {
            return;
        }
        let (cache, audience) = (lead.cache.clone(), lead.audience.clone());
        lead.cache.spawn(async move {
            let mut permit = permit.flatten();
            let mut answer = pin!(timeout(UNATTENDED, answer));
            while timeout(LOOK, answer.as_mut()).await.is_err() {
                if permit.is_none() && !audience.is_there() {
                    // Those who waited have gone, too.
                    permit = cache.refresh_permit();
                    if permit.is_none() {
                        return;
                    }
                }
            }
        });
    }
}

/// An answer that the task of its client makes while that is there, with all that task has of its own.
struct Led<B: Body, E> {
    /// Until it is ready, or panics.
    answer: Option<Answer<B, E>>,
    leads: Option<Leads<B, E>>,
}

impl<B: Body, E> Led<B, E> {
    fn new(answer: Answer<B, E>, leads: Option<Leads<B, E>>) -> Self {
        let answer = Some(answer);
        Self { answer, leads }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<CacheBody<B>>, E>> {
        let answer = self.answer.take();
        let mut answer = answer.expect("a future is not polled after it is ready");
        let polled = answer.as_mut().poll(cx);
        if polled.is_pending() {
            self.answer = Some(answer);
        }
        polled
    }
}

impl<B: Body, E> Drop for Led<B, E> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take()
            && let Some(lead) = self.leads.as_ref().and_then(|leads| leads.get())
        {
            (lead.take_over)(answer, lead);
        }
    }
}

impl<B: Body, E> fmt::Debug for ResponseFuture<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
