//! A request that has to wait: for the store, for another request's answer, or for the inner
//! service.
//!
//! Most wait for the store alone, so that the look-up is a future of its own, and the rest another one.

use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{HeaderValue, IF_RANGE, RANGE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;

use super::body::CacheBody;
use super::collapse::{Alone, Collapse, Duty, Held, Landed, Spot, is_worth_it};
use super::fill::Filler;
use super::future::{Answer, Leads, LookUp};
use super::http::{HttpRules, remove_conditions};
use super::lease::{Ground, Opened};
use super::lookup::{Flight, Found, Miss, Pick};
use super::serve::{Served, empty, instead, serve};
use super::service::{Question, STATUS_NAME};
use super::stale::caught;
use super::tagged::Before;
use super::veto::{CacheVeto, Place};
use crate::cache::Room;
use crate::clock::at_one_moment;
use crate::fence::{Fill, Since};
use crate::flight::Role;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::storable::Refusal;
use crate::semantics::validation::make_conditional;

/// How often a request waits for another one's answer before it asks for itself.
const ROUNDS: usize = 3;

/// A request that could not be answered at once.
pub(super) struct Errand<S, RequestBody> {
    pub(super) inner: S,
    /// Its fields are in the question until it is forwarded.
    pub(super) request: Request<RequestBody>,
    pub(super) question: Question,
}

/// What the look-up of a request came to.
pub(super) enum Step<B: Body, E> {
    Answered(Response<CacheBody<B>>),
    /// There is more to wait for, and others may wait for that, too.
    Rest(Answer<B, E>, Leads),
}

/// A look-up, and what was known before it.
struct Looked {
    found: Found,
    since: Since,
    landings: u64,
}

/// How a request goes on.
enum Way {
    /// The cache has the answer.
    Answered(Pick, CacheStatus),
    /// The cache has an answer, and the inner service is asked for a better one meanwhile.
    Refresh(Pick, Forwarding),
    /// The inner service is asked.
    Forward(Forwarding),
    /// The cache has no answer, and the inner service is not to be asked.
    Timeout,
}

/// A request on its way to the inner service.
struct Forwarding {
    miss: Miss,
    /// Begun before anything was read that the answer may be stored with.
    fill: Fill,
    duty: Duty,
    flight: Option<Flight>,
    marked: Option<Alone>,
    /// The place that was taken, if one was.
    opened: Option<Opened>,
}

/// The pages that a request is being made for, in its extensions: should it come through the same
/// layer once more, it must not wait for itself.
#[derive(Clone, Default)]
struct Leading(Vec<(Arc<Collapse>, Spot)>);

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
                let status = CacheStatus::hit(STATUS_NAME);
                return Step::Answered(self.serve(pick, status));
            }
            let leads = Leads::default();
            let rest = self.go_on(looked, Leads::clone(&leads));
            Step::Rest(rest, leads)
        })
    }

    fn go_on(mut self, looked: Looked, leads: Leads) -> Answer<ResponseBody, S::Error> {
        Box::pin(async move {
            let leading = self.request.extensions().get::<Leading>();
            let leading = leading.cloned().unwrap_or_default();
            let way = choose(&self.question, looked, &leading).await;
            let headers = self.request.headers_mut();
            headers.clone_from(&self.question.headers);
            let forwarding = match way {
                Way::Forward(forwarding) => forwarding,
                Way::Answered(pick, status) => return Ok(self.serve(pick, status)),
                Way::Refresh(pick, forwarding) => {
                    let response = self.serve(pick, stale());
                    let cache = self.question.config.cache.clone();
                    let Some(room) = cache.room() else {
                        observe::outcome(cache.name(), "refresh", Outcome::Bypass, "overloaded");
                        return Ok(response);
                    };
                    let place = Place::nowhere(self.request.extensions_mut());
                    let refresh = self.for_the_whole();
                    let refresh = refresh.forward(place, leading, forwarding, room);
                    let refresh = observe::in_current_span(refresh);
                    cache.spawn(async move { drop(refresh.await) });
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
            leads.store(forwarding.duty.is_one(), Ordering::Relaxed);
            let place = Place::of(self.request.extensions_mut());
            observe::in_current_span(self.forward(place, leading, forwarding, room)).await
        })
    }

    fn serve(&self, pick: Pick, status: CacheStatus) -> Response<CacheBody<ResponseBody>> {
        let asked = self.question.asked();
        let (stored, expired) = (Served::Last(pick.page), pick.expired);
        serve(stored, expired, &asked, self.question.head, status)
    }

    /// The inner service has as much to do as it may: what is stale has to do, or the client comes back later.
    fn overloaded(&self, forwarding: &Forwarding) -> Response<CacheBody<ResponseBody>> {
        let name = self.question.config.cache.name();
        observe::outcome(name, "page", Outcome::Bypass, "overloaded");
        let miss = &forwarding.miss;
        if miss.may_do_instead(&self.question.asked(), None)
            && let Some(stale) = &miss.stale
        {
            let status = CacheStatus::hit(STATUS_NAME).with_detail("stale-if-error");
            return self.serve(stale.clone(), status);
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
        let headers = self.request.headers_mut();
        remove_conditions(headers);
        for name in [RANGE, IF_RANGE] {
            headers.remove(name);
        }
        self.question.for_the_whole(self.request.headers());
        self
    }

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
            if let Some(flight) = &flight {
                leading.0.push((Arc::clone(&config.collapse), flight.spot));
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
            let mut inner = self.inner;
            let call = async move { inner.call(request).await };
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
            place.leave(&mut response);
            Ok(response)
        }
    }
}

impl Looked {
    /// Looks a request up.
    async fn up(question: &Question) -> Self {
        let config = &question.config;
        Self {
            // Before the look-up: a purge that comes after this bars what is made of it.
            since: config.cache.since(&question.key),
            landings: config.collapse.landings(),
            found: question.asked().look_up(&question.key).await,
        }
    }
}

/// How a request goes on that was looked up: it waits for another one's answer where there is one to wait for.
async fn choose(question: &Question, looked: Looked, leading: &Leading) -> Way {
    let config = &question.config;
    let collapse = &config.collapse;
    let mut looked = Some(looked);
    let (mut round, mut late) = (0, false);
    loop {
        let Looked {
            found,
            since,
            landings,
        } = match looked.take() {
            Some(looked) => looked,
            None => Looked::up(question).await,
        };
        let fill = config.cache.begin_fill_since(&question.key, since);
        if fill.is_barred() && round < ROUNDS {
            // What was found may have been purged since.
            round += 1;
            continue;
        }
        let asked = question.asked();
        let miss = match found {
            Found::Hit(pick) => return Way::hit(pick),
            Found::Refresh(pick, miss) => {
                let refresh = refresh(question, leading, pick, miss, fill, landings);
                return Box::pin(refresh).await;
            }
            Found::Miss(miss) => miss,
        };
        if config.http.is_some() && HttpRules::only_if_cached(asked.headers) {
            return Way::Timeout;
        }
        let flight = asked.flight(&question.key, miss.known.as_deref());
        if asked.is_throttled(&flight)
            && miss.may_do_instead(&asked, None)
            && let Some(stale) = miss.stale
        {
            observe::outcome(config.cache.name(), "page", Outcome::Hit, "stale-if-error");
            let status = CacheStatus::hit(STATUS_NAME).with_detail("stale-if-error");
            return Way::Answered(stale, status);
        }
        if !question.is_everybodys(&miss) {
            return Way::Forward(Forwarding::of(miss, fill));
        }
        let marked = collapse.marked(flight.spot, asked.now, config.hit_for_miss);
        if marked.is_some() || round == ROUNDS || leading.contains(collapse, &flight) {
            return Way::Forward(Forwarding::alone(miss, fill, flight, marked));
        }
        let opened = config.take(&question.key, &miss, asked.now).await;
        if matches!(opened.ground, Ground::Lost) && !miss.is_unavailable() {
            // Who waits for whom is by places, and others were quicker to take this one.
            round += 1;
            continue;
        }
        if miss.known.is_none() && matches!(opened.ground, Ground::Page(..)) {
            // It was stored meanwhile.
            round += 1;
            continue;
        }
        let ticket = config.ticket(&flight, &opened.ground);
        let follower = match collapse.enter(&ticket) {
            Role::Follower(follower) => follower,
            Role::Leader(landing) => {
                let held = Held::new(Duty::new(landing));
                let lead = |miss, fill, held: Held| {
                    let forwarding = Forwarding::leading(miss, fill, flight, held.release());
                    Way::Forward(forwarding.on(opened))
                };
                if collapse.landings() == landings {
                    return lead(miss, fill, held);
                }
                // An answer has landed since this request looked.
                return match question.asked().look_up(&question.key).await {
                    Found::Hit(pick) => Way::hit(pick),
                    Found::Refresh(pick, _) => Way::Answered(pick, stale()),
                    Found::Miss(miss) => lead(miss, fill, held),
                };
            }
        };
        let landed = collapse
            .follow(&ticket, follower, config.lock_timeout)
            .await;
        let asked = question.asked();
        match landed {
            Landed::Page(page) if asked.may_have(&page) => {
                observe::outcome(config.cache.name(), "page", Outcome::Hit, "collapsed");
                let status = CacheStatus::forward(STATUS_NAME, miss.forward);
                return Way::Answered(Pick::fresh(page), status.with_collapsed());
            }
            Landed::Instead(status) if miss.may_do_instead(&asked, status) => {
                let status = instead(miss.forward, status).with_collapsed();
                return match miss.stale {
                    Some(stale) => Way::Answered(stale, status),
                    None => Way::Forward(Forwarding::alone(miss, fill, flight, None)),
                };
            }
            // It is this one, and is not to be had without asking.
            Landed::Page(page) if asked.selects(&page) => {
                return Way::Forward(Forwarding::alone(miss, fill, flight, None));
            }
            Landed::Instead(_) if miss.stale.is_some() => {
                return Way::Forward(Forwarding::alone(miss, fill, flight, None));
            }
            Landed::Alone(alone) => {
                return Way::Forward(Forwarding::alone(miss, fill, flight, Some(alone)));
            }
            // Worth another look, unless the store is down: another variant, or purged meanwhile.
            Landed::Page(_) | Landed::Instead(_) | Landed::Again
                if miss.reason != Some(Refusal::Unavailable) => {}
            // Once, as another request may do better.
            Landed::Late if !std::mem::replace(&mut late, true) => {}
            _ => return Way::Forward(Forwarding::alone(miss, fill, flight, None)),
        }
        round += 1;
    }
}

/// Serves what is stale, and leads the requests for a new one unless another request does, or that
/// has just failed, or there is too much to do already.
async fn refresh(
    question: &Question,
    leading: &Leading,
    pick: Pick,
    miss: Miss,
    fill: Fill,
    landings: u64,
) -> Way {
    let (config, asked) = (&question.config, question.asked());
    let collapse = &config.collapse;
    let flight = asked.flight(&question.key, miss.known.as_deref());
    if asked.is_throttled(&flight) || leading.contains(collapse, &flight) {
        return Way::Answered(pick, stale());
    }
    let Some(permit) = config.cache.refresh_permit() else {
        observe::outcome(config.cache.name(), "refresh", Outcome::Bypass, "busy");
        return Way::Answered(pick, stale());
    };
    let ground = config.ground(&question.key, &miss, asked.now);
    let ground = ground.unwrap_or(Ground::Lost);
    let Role::Leader(landing) = collapse.enter(&config.ticket(&flight, &ground)) else {
        return Way::Answered(pick, stale());
    };
    let held = Held::new(Duty::new(landing).with_permit(permit));
    if collapse.landings() == landings {
        let forwarding = Forwarding::leading(miss, fill, flight, held.release());
        return Way::Refresh(pick, forwarding);
    }
    // An answer has landed since this request looked.
    match asked.look_up(&question.key).await {
        Found::Refresh(pick, miss) => {
            let forwarding = Forwarding::leading(miss, fill, flight, held.release());
            Way::Refresh(pick, forwarding)
        }
        Found::Hit(pick) => Way::hit(pick),
        Found::Miss(_) => Way::Answered(pick, stale()),
    }
}

/// The place of an answer that nobody waits for.
async fn place_of(question: &Question, miss: &Miss, marked: Option<Alone>) -> Opened {
    let (config, now) = (&question.config, question.asked().now);
    // Of what is not likely to be stored, no place is taken that has to be given back.
    if question.head || !is_worth_it(marked) {
        let ground = config.ground(&question.key, miss, now);
        return Opened::of(ground.unwrap_or(Ground::Lost));
    }
    config.take(&question.key, miss, now).await
}

/// What is said of what is served while another one is made.
fn stale() -> CacheStatus {
    CacheStatus::hit(STATUS_NAME).with_detail("stale-while-revalidate")
}

impl Way {
    fn hit(pick: Pick) -> Self {
        Self::Answered(pick, CacheStatus::hit(STATUS_NAME))
    }
}

impl Forwarding {
    /// One that nobody waits for.
    fn of(miss: Miss, fill: Fill) -> Self {
        Self {
            miss,
            fill,
            duty: Duty::default(),
            flight: None,
            marked: None,
            opened: None,
        }
    }

    /// In a place that was taken.
    fn on(self, opened: Opened) -> Self {
        Self {
            opened: Some(opened),
            ..self
        }
    }

    fn leading(miss: Miss, fill: Fill, flight: Flight, duty: Duty) -> Self {
        Self {
            duty,
            flight: Some(flight),
            ..Self::of(miss, fill)
        }
    }

    fn alone(miss: Miss, fill: Fill, flight: Flight, marked: Option<Alone>) -> Self {
        Self {
            flight: Some(flight),
            marked,
            ..Self::of(miss, fill)
        }
    }
}

impl Leading {
    fn contains(&self, collapse: &Arc<Collapse>, flight: &Flight) -> bool {
        let mut pages = self.0.iter();
        pages.any(|(other, page)| Arc::ptr_eq(other, collapse) && *page == flight.spot)
    }
}
