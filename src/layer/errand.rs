//! A request that has to wait: for the store, for another request's answer, or for the inner
//! service.
//!
//! Most wait for the store alone, so that the look-up is a future of its own, and the rest another one.

use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;

use super::body::CacheBody;
use super::callee::Callee;
use super::choose::{Forwarding, Leading, Looked, Way, choose, place_of, stale};
use super::collapse::is_worth_it;
use super::fill::Filler;
use super::future::{Answer, Lead, Leads, LookUp, UNATTENDED};
use super::http::remove_conditions;
use super::lookup::{Found, Pick};
use super::serve::{Served, empty, serve};
use super::service::{Question, STATUS_NAME};
use super::stale::caught;
use super::tagged::Before;
use super::unnamed::Unnamed;
use super::veto::{CacheVeto, Place};
use crate::cache::Room;
use crate::clock::at_one_moment;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::validation::make_conditional;

/// A request that could not be answered at once.
pub(super) struct Errand<S, RequestBody> {
    pub(super) inner: Callee<S>,
    /// Its fields are in the question until it is forwarded.
    pub(super) request: Request<RequestBody>,
    pub(super) question: Question,
}

/// What the look-up of a request came to.
pub(super) enum Step<B: Body, E> {
    Answered(Response<CacheBody<B>>),
    /// There is more to wait for, and others may wait for that, too.
    Rest(Answer<B, E>, Leads<B, E>),
}

impl<S, RequestBody, ResponseBody> Errand<S, RequestBody>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    RequestBody: Send + 'static,
    ResponseBody: Body<Data = Bytes> + Send + 'static,
    ResponseBody::Error: Send,
{
    pub(super) fn look_up(self) -> LookUp<ResponseBody, S::Error> {
        // A block has what it takes once, where an `async fn` has it twice.
        Box::pin(async move {
            let looked = Looked::up(&self.question).await;
            if let Found::Hit(pick) = looked.found {
                return Step::Answered(self.serve(pick, None));
            }
            let leads = Leads::default();
            let rest = self.go_on(looked, Leads::clone(&leads));
            Step::Rest(rest, leads)
        })
    }

    fn go_on(
        mut self,
        looked: Looked,
        leads: Leads<ResponseBody, S::Error>,
    ) -> Answer<ResponseBody, S::Error> {
        Box::pin(async move {
            let leading = self.request.extensions().get::<Leading>();
            let leading = leading.cloned().unwrap_or_default();
            let way = choose(&self.question, looked, &leading).await;
            let forwarding = match way {
                Way::Forward(forwarding) => forwarding,
                Way::Hit(pick) => return Ok(self.serve(pick, None)),
                Way::Answered(pick, status) => return Ok(self.serve(pick, Some(status))),
                Way::Refresh(pick, forwarding) => {
                    let response = self.serve(pick, Some(stale()));
                    let cache = self.question.config.cache.clone();
                    let Some(room) = cache.room() else {
                        observe::outcome(cache.named(), "refresh", Outcome::Bypass, "overloaded");
                        return Ok(response);
                    };
                    let place = Place::nowhere(self.request.extensions_mut());
                    let refresh = self.for_the_whole();
                    let refresh = refresh.forward(place, leading, forwarding, room);
                    let refresh = observe::in_current_span(refresh);
                    cache.spawn(async move { drop(timeout(UNATTENDED, refresh).await) });
                    return Ok(response);
                }
                Way::Timeout => {
                    // Only the cache was to answer.
                    let status = CacheStatus::unanswered(STATUS_NAME, "only-if-cached");
                    return Ok(empty(StatusCode::GATEWAY_TIMEOUT, status));
                }
            };
            let Some(room) = self.question.config.cache.room() else {
                return Ok(self.overloaded(&forwarding));
            };
            if let Some(audience) = forwarding.duty.audience() {
                let cache = self.question.config.cache.clone();
                // It is chosen once.
                let _ = leads.set(Lead::new(cache, audience));
            }
            let place = Place::of(self.request.extensions_mut());
            observe::in_current_span(self.forward(place, leading, forwarding, room)).await
        })
    }

    fn serve(&self, pick: Pick, status: Option<CacheStatus>) -> Response<CacheBody<ResponseBody>> {
        let asked = self.question.asked();
        let (stored, expired) = (Served::Last(pick.page), pick.expired);
        serve(stored, expired, &asked, self.question.head, status)
    }

    /// The inner service has as much to do as it may: what is stale has to do, or the client comes back later.
    fn overloaded(&self, forwarding: &Forwarding) -> Response<CacheBody<ResponseBody>> {
        let name = self.question.config.cache.named();
        observe::outcome(name, "page", Outcome::Bypass, "overloaded");
        let miss = &forwarding.miss;
        if miss.may_do_instead(&self.question.asked(), None)
            && let Some(stale) = &miss.stale
        {
            let status = CacheStatus::hit(STATUS_NAME).with_detail("stale-if-error");
            return self.serve(stale.clone(), Some(status));
        }
        let status = CacheStatus::unanswered(STATUS_NAME, "overloaded");
        let mut response = empty(StatusCode::SERVICE_UNAVAILABLE, status);
        let later = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, later);
        response
    }

    /// The same request, for the whole of a response that no client waits for. All else stays, as
    /// its answer is stored for those who ask the same.
    fn for_the_whole(mut self) -> Self {
        *self.request.method_mut() = Method::GET;
        self.question.for_the_whole();
        self
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "a block has what it takes once, an `async fn` twice"
    )]
    fn forward(
        mut self,
        place: Place,
        mut leading: Leading,
        forwarding: Forwarding,
        room: Room,
    ) -> impl Future<Output = Result<Response<CacheBody<ResponseBody>>, S::Error>> + Send {
        async move {
            let Forwarding {
                mut miss,
                fill,
                duty,
                flight,
                marked,
                opened,
            } = forwarding;
            let config = Arc::clone(&self.question.config);
            *self.request.headers_mut() = self.question.headers.clone();
            if let Some(flight) = &flight {
                leading.push(&config.collapse, flight);
                self.request.extensions_mut().insert(leading);
            }
            if fill.is_barred() {
                // What was found has been purged since.
                (miss.known, miss.stale) = (None, None);
            }
            let mut request = config.inputs.show(&self.question.target, self.request);
            let headers = request.headers_mut();
            let validates = config.http.is_some() && !self.question.head;
            if let Some(stale) = miss.stale.as_ref().filter(|_| validates) {
                make_conditional(headers, &stale.stored().headers);
            } else if self.question.given.conditions
                && config.http.is_none()
                && flight.is_some()
                && is_worth_it(marked)
            {
                // The whole response is wanted; the conditions are for the layer to judge then.
                remove_conditions(headers);
            }
            let opened = match opened {
                Some(opened) => opened,
                None => place_of(&self.question, &miss, marked).await,
            };
            let before = match opened.before {
                Some(before) => Arc::unwrap_or_clone(before),
                None if opened.ground.is_lost() || miss.is_unavailable() => Before::nothing(),
                // An answer to HEAD is never stored, but may say of the stored one that it still holds.
                None if self.question.head && config.http.is_none() => Before::nothing(),
                None => Before::read(&config, miss.replaced()).await,
            };
            let ground = opened.ground.clone();
            let filler = Filler {
                ground: opened.ground,
                before,
                asked_at: config.cache.clock().now(),
                fill,
                key: self.question.key.clone(),
                veto: CacheVeto::of(request.extensions_mut()),
                is_inside: place == Place::Inside,
                config,
                miss,
                duty,
                spot: flight.map(|flight| flight.spot),
                marked,
            };
            let call = self.inner.call(request);
            let cache = &self.question.config.cache;
            let call = pin!(cache.making(&self.question.key, &room, call));
            let mut response = match ground.hold(caught(call)).await {
                Ok(Ok(response)) => at_one_moment(|| filler.respond(&self.question, response)),
                Ok(Err(error)) => filler.unreachable(&self.question).ok_or(error)?,
                Err(panic) => match filler.unreachable(&self.question) {
                    Some(response) => response,
                    None => resume_unwind(panic),
                },
            };
            Unnamed::say(&self.question.asked(), response.extensions_mut());
            place.leave(&mut response);
            Ok(response)
        }
    }
}
