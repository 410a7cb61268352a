//! How a request goes on that could not be answered at once.

use std::sync::Arc;

use super::collapse::{Alone, Collapse, Duty, Held, Landed, Spot, is_worth_it};
use super::http::HttpRules;
use super::lease::{Ground, Opened};
use super::lookup::{Flight, Found, Miss, Pick};
use super::serve::instead;
use super::service::{Question, STATUS_NAME};
use crate::fence::{Fill, Since};
use crate::flight::Role;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::CacheStatus;

/// How often a request waits for another one's answer before it asks for itself.
const ROUNDS: usize = 3;

/// How a request goes on.
pub(super) enum Way {
    /// The cache has the answer.
    Hit(Pick),
    /// The same, and this is said of it.
    Answered(Pick, CacheStatus),
    /// The cache has an answer, and the inner service is asked for a better one meanwhile.
    Refresh(Pick, Forwarding),
    /// The inner service is asked.
    Forward(Forwarding),
    /// The cache has no answer, and the inner service is not to be asked.
    Timeout,
}

/// A request on its way to the inner service.
pub(super) struct Forwarding {
    pub(super) miss: Miss,
    /// As if begun before anything was read that the answer may be stored with.
    pub(super) fill: Fill,
    pub(super) duty: Duty,
    pub(super) flight: Option<Flight>,
    pub(super) marked: Option<Alone>,
    /// The place that was taken, if one was.
    pub(super) opened: Option<Opened>,
}

/// The pages that a request is being made for, in its extensions: should it come through the same
/// layer once more, it must not wait for itself.
#[derive(Clone, Default)]
pub(super) struct Leading(Vec<(Arc<Collapse>, Spot)>);

/// A look-up, and what was known before it.
pub(super) struct Looked {
    pub(super) found: Found,
    since: Since,
    landings: u64,
}

impl Looked {
    /// Whether there was nothing at all.
    fn is_nothing(&self) -> bool {
        matches!(&self.found, Found::Miss(miss) if miss.raw.is_none())
    }

    /// Looks a request up.
    pub(super) async fn up(question: &Question) -> Self {
        let config = &question.config;
        Self {
            // Before the look-up: a purge that comes after this bars what is made of it.
            since: config.cache.since(&question.key),
            landings: config.collapse.landings(),
            found: question.asked().look_up(&question.key).await,
        }
    }
}

/// A look-up, and a fill as if begun before it.
pub(super) struct Settled {
    found: Found,
    fill: Fill,
    landings: u64,
}

impl Settled {
    /// If it is not too late for such a fill.
    pub(super) fn of(question: &Question, looked: Looked) -> Option<Self> {
        let (cache, key) = (&question.config.cache, &question.key);
        let fill = if looked.is_nothing() {
            // Nothing will depend on it.
            cache.begin_fill(key)
        } else {
            cache.begin_fill_since(key, looked.since)?
        };
        Some(Self::new(looked, fill))
    }

    async fn anew(question: &Question) -> Self {
        // Barred only by what is purged of this page.
        let fill = question.config.cache.begin_fill(&question.key);
        Self::new(Looked::up(question).await, fill)
    }

    fn new(looked: Looked, fill: Fill) -> Self {
        Self {
            found: looked.found,
            fill,
            landings: looked.landings,
        }
    }
}

/// How a request goes on that was looked up, if that is `settled`: it waits for another one's answer where there is one
/// to wait for. What seldom waits is boxed, so that there is no room for it in each.
pub(super) async fn choose(
    question: &Question,
    settled: &mut Option<Settled>,
    leading: &Leading,
) -> Way {
    let config = &question.config;
    let collapse = &config.collapse;
    let (mut round, mut late) = (0, false);
    loop {
        let Settled {
            found,
            fill,
            landings,
        } = match settled.take() {
            Some(settled) => settled,
            None => Box::pin(Settled::anew(question)).await,
        };
        let asked = question.asked();
        let miss = match found {
            Found::Hit(pick) => return Way::Hit(pick),
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
            observe::outcome(config.cache.named(), "page", Outcome::Hit, "stale-if-error");
            let status = CacheStatus::hit(STATUS_NAME).with_detail("stale-if-error");
            return Way::Answered(stale, status);
        }
        if !question.is_everybodys(&miss) {
            return Way::Forward(Forwarding::of(miss, fill));
        }
        let marked = collapse.marked(flight.spot, asked.now, config.hit_for_miss);
        if marked.is_some() || round == ROUNDS || leading.contains(collapse, &flight) {
            return Way::alone(miss, fill, flight, marked);
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
                return match Box::pin(found_meanwhile(question)).await {
                    Found::Hit(pick) => Way::Hit(pick),
                    Found::Refresh(pick, _) => Way::Answered(pick, stale()),
                    Found::Miss(miss) => lead(miss, fill, held),
                };
            }
        };
        let follow = collapse.follow(&ticket, follower, config.lock_timeout);
        let landed = Box::pin(follow).await;
        let asked = question.asked();
        match landed {
            Landed::Page(page) if asked.may_have(&page) => {
                observe::outcome(config.cache.named(), "page", Outcome::Hit, "collapsed");
                let status = CacheStatus::forward(STATUS_NAME, miss.forward);
                return Way::Answered(Pick::fresh(page), status.with_collapsed());
            }
            Landed::Instead(status) if miss.may_do_instead(&asked, status) => {
                let status = instead(miss.forward, status).with_collapsed();
                return match miss.stale {
                    Some(stale) => Way::Answered(stale, status),
                    None => Way::alone(miss, fill, flight, None),
                };
            }
            // It is this one, and is not to be had without asking.
            Landed::Page(page) if asked.selects(&page) => {
                return Way::alone(miss, fill, flight, None);
            }
            Landed::Instead(_) if miss.stale.is_some() => {
                return Way::alone(miss, fill, flight, None);
            }
            Landed::Alone(alone) => return Way::alone(miss, fill, flight, Some(alone)),
            // Worth another look, unless the store is down: another variant, or purged meanwhile.
            Landed::Page(_) | Landed::Instead(_) | Landed::Again if !miss.is_unavailable() => {}
            // Once, as another request may do better.
            Landed::Late if !std::mem::replace(&mut late, true) => {}
            _ => return Way::alone(miss, fill, flight, None),
        }
        round += 1;
    }
}

/// Serves what is stale, and leads the requests for a new one unless another request does, or that
/// has just failed, or there is too much to do already. Inside of another layer the one that leads waits for the
/// new one: whether that may be stored is said of a response that leaves all of them.
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
    let mut duty = Duty::default();
    if question.is_inside {
        let may_wait = config.http.is_none() || !HttpRules::only_if_cached(asked.headers);
        if !may_wait || !question.is_everybodys(&miss) {
            return Way::Answered(pick, stale());
        }
    } else if let Some(permit) = config.cache.refresh_permit() {
        duty = duty.with_permit(permit);
    } else {
        observe::outcome(config.cache.named(), "refresh", Outcome::Bypass, "busy");
        return Way::Answered(pick, stale());
    }
    let ground = config.ground(&question.key, &miss, asked.now);
    let ground = ground.unwrap_or(Ground::Lost);
    let Role::Leader(landing) = collapse.enter(&config.ticket(&flight, &ground)) else {
        return Way::Answered(pick, stale());
    };
    let held = Held::new(duty.with_landing(landing));
    let lead = |pick, miss, held: Held| {
        let forwarding = Forwarding::leading(miss, fill, flight, held.release());
        if question.is_inside {
            Way::Forward(forwarding)
        } else {
            Way::Refresh(pick, forwarding)
        }
    };
    if collapse.landings() == landings {
        return lead(pick, miss, held);
    }
    // An answer has landed since this request looked.
    match found_meanwhile(question).await {
        Found::Refresh(pick, miss) => lead(pick, miss, held),
        Found::Hit(pick) => Way::Hit(pick),
        Found::Miss(_) => Way::Answered(pick, stale()),
    }
}

async fn found_meanwhile(question: &Question) -> Found {
    question.asked().look_up(&question.key).await
}

/// The place of an answer that nobody waits for.
pub(super) async fn place_of(question: &Question, miss: &Miss, marked: Option<Alone>) -> Opened {
    let (config, now) = (&question.config, question.asked().now);
    // Of what is not likely to be stored, no place is taken.
    if question.head || !is_worth_it(marked) {
        let ground = config.ground(&question.key, miss, now);
        // Nor is one that somebody has left kept by it.
        let ground = ground.filter(|ground| !matches!(ground, Ground::Lease(_)));
        return Opened::of(ground.unwrap_or(Ground::Lost));
    }
    config.take(&question.key, miss, now).await
}

/// What is said of what is served while another one is made.
pub(super) fn stale() -> CacheStatus {
    CacheStatus::hit(STATUS_NAME).with_detail("stale-while-revalidate")
}

impl Way {
    /// To the inner service, with nobody who waits for the answer.
    fn alone(miss: Miss, fill: Fill, flight: Flight, marked: Option<Alone>) -> Self {
        Self::Forward(Forwarding {
            flight: Some(flight),
            marked,
            ..Forwarding::of(miss, fill)
        })
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
}

impl Leading {
    /// One more.
    pub(super) fn push(&mut self, collapse: &Arc<Collapse>, flight: &Flight) {
        self.0.push((Arc::clone(collapse), flight.spot));
    }

    fn contains(&self, collapse: &Arc<Collapse>, flight: &Flight) -> bool {
        let mut pages = self.0.iter();
        pages.any(|(other, page)| Arc::ptr_eq(other, collapse) && *page == flight.spot)
    }
}
