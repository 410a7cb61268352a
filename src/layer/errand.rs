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
use super::choose::{Forwarding, Leading, Looked, Settled, Way, choose, place_of, stale};
use super::collapse::is_worth_it;
use super::fill::Filler;
use super::future::{Answer, Lead, Leads, LookUp, UNATTENDED};
use super::http::remove_conditions;
use super::lease::Ground;
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

/// What becomes of a request that was looked up.
enum Next<B: Body, E> {
    Answered(Response<CacheBody<B>>),
    /// The inner service is asked.
    Forward(Answer<B, E>),
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
    pub(super) fn look_up(self: Box<Self>) -> LookUp<ResponseBody, S::Error> {
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
        self: Box<Self>,
        looked: Looked,
        leads: Leads<ResponseBody, S::Error>,
    ) -> Answer<ResponseBody, S::Error> {
        let leading = self.request.extensions().get::<Leading>();
        let leading = leading.cloned().unwrap_or_default();
        let mut settled = Settled::of(&self.question, looked);
        Box::pin(async move {
            let way = choose(&self.question, &mut settled, &leading).await;
            match self.take(way, leading, &leads) {
                Next::Answered(response) => Ok(response),
                Next::Forward(answer) => observe::in_current_span(answer).await,
            }
        })
    }

    fn take(
        mut self: Box<Self>,
        way: Way,
        leading: Leading,
        leads: &Leads<ResponseBody, S::Error>,
    ) -> Next<ResponseBody, S::Error> {
        let forwarding = match way {
            Way::Forward(forwarding) => forwarding,
            Way::Hit(pick) => return Next::Answered(self.serve(pick, None)),
            Way::Answered(pick, status) => return Next::Answered(self.serve(pick, Some(status))),
            Way::Refresh(pick, forwarding) => {
                let response = self.serve(pick, Some(stale()));
                let cache = self.question.config.cache.clone();
                let Some(room) = cache.room() else {
                    observe::outcome(cache.named(), "refresh", Outcome::Bypass, "overloaded");
                    return Next::Answered(response);
                };
                let place = Place::nowhere(self.request.extensions_mut());
                self.ask_for_the_whole();
                // All of it: what a client waits for is its answer alone.
                let refresh = async move { self.forward(place, leading, forwarding, room).await };
                let refresh = observe::in_current_span(refresh);
                cache.spawn(async move { drop(timeout(UNATTENDED, refresh).await) });
                return Next::Answered(response);
            }
            Way::Timeout => {
                // Only the cache was to answer.
                let status = CacheStatus::unanswered(STATUS_NAME, "only-if-cached");
                return Next::Answered(empty(StatusCode::GATEWAY_TIMEOUT, status));
            }
        };
        let Some(room) = self.question.config.cache.room() else {
            return Next::Answered(self.overloaded(&forwarding));
        };
        if let Some(audience) = forwarding.duty.audience() {
            let cache = self.question.config.cache.clone();
            // It is chosen once.
            let _ = leads.set(Lead::new(cache, audience));
        }
        let place = Place::of(self.request.extensions_mut());
        Next::Forward(self.forward(place, leading, forwarding, room))
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

    /// From now on for the whole of a response that no client waits for. All else stays, as its answer is stored
    /// for those who ask the same.
    fn ask_for_the_whole(&mut self) {
        *self.request.method_mut() = Method::GET;
        self.question.for_the_whole();
    }

    /// Asks the inner service.
    fn forward(
        mut self: Box<Self>,
        place: Place,
        leading: Leading,
        mut forwarding: Forwarding,
        room: Room,
    ) -> Answer<ResponseBody, S::Error> {
        self.show(leading, &mut forwarding);
        let opened = forwarding.opened.take();
        let mut filler = self.filler(place, forwarding);
        Box::pin(async move {
            let (question, config) = (&self.question, &filler.config);
            let opened = match opened {
                Some(opened) => opened,
                None => place_of(question, &filler.miss, filler.marked).await,
            };
            filler.before = match opened.before {
                Some(before) => Arc::unwrap_or_clone(before),
                None if opened.ground.is_lost() || filler.miss.is_unavailable() => {
                    Before::nothing()
                }
                // An answer to HEAD is never stored, but may say of the stored one that it still holds.
                None if question.head && config.http.is_none() => Before::nothing(),
                None => Before::read(config, filler.miss.replaced()).await,
            };
            filler.ground = opened.ground.clone();
            filler.asked_at = config.cache.clock().now();
            let veto = filler.veto.clone();
            let call = self.inner.call(self.request);
            let call = pin!(config.cache.making(&question.key, &room, call));
            let mut response = match opened.ground.hold(caught(call)).await {
                Ok(Ok(response)) => at_one_moment(|| filler.respond(question, response)),
                Ok(Err(error)) => filler.unreachable(question).ok_or(error)?,
                Err(panic) => match filler.unreachable(question) {
                    Some(response) => response,
                    None => resume_unwind(panic),
                },
            };
            Unnamed::say(&question.asked(), response.extensions_mut());
            veto.leave(response.extensions_mut());
            place.leave(&mut response);
            Ok(response)
        })
    }

    /// Makes of the request what the inner service is to see.
    fn show(&mut self, mut leading: Leading, forwarding: &mut Forwarding) {
        let Self {
            request, question, ..
        } = self;
        let config = &question.config;
        *request.headers_mut() = question.headers.clone();
        if let Some(flight) = &forwarding.flight {
            leading.push(&config.collapse, flight);
            request.extensions_mut().insert(leading);
        }
        let miss = &mut forwarding.miss;
        if forwarding.fill.is_barred() || forwarding.fill.is_in_removal() {
            // What was found has been purged since, or is about to be.
            (miss.known, miss.stale) = (None, None);
        }
        config.inputs.show(&question.target, request);
        let headers = request.headers_mut();
        let validates = config.http.is_some() && !question.head;
        if let Some(stale) = miss.stale.as_ref().filter(|_| validates) {
            make_conditional(headers, &stale.stored().headers);
        } else if question.given.conditions
            && config.http.is_none()
            && forwarding.flight.is_some()
            && is_worth_it(forwarding.marked)
        {
            // The whole response is wanted; the conditions are for the layer to judge then.
            remove_conditions(headers);
        }
    }

    /// What makes an answer of that of the inner service. It is as if nothing were to be stored until there is a
    /// place for it.
    fn filler(&mut self, place: Place, forwarding: Forwarding) -> Filler {
        let config = Arc::clone(&self.question.config);
        Filler {
            ground: Ground::Lost,
            before: Before::nothing(),
            asked_at: config.cache.clock().now(),
            fill: forwarding.fill,
            key: self.question.key.clone(),
            veto: CacheVeto::of(self.request.extensions_mut()),
            is_inside: place == Place::Inside,
            config,
            miss: forwarding.miss,
            duty: forwarding.duty,
            spot: forwarding.flight.map(|flight| flight.spot),
            marked: forwarding.marked,
        }
    }
}
