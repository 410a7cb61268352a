//! From the inner service's response to what the client gets and what is stored.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, DATE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body;

use super::body::CacheBody;
use super::collapse::{Alone, Duty};
use super::layer::{Config, TtlRule};
use super::lookup::{Asked, Miss};
use super::relay::{Copied, relay};
use super::service::{Question, STATUS_NAME};
use super::stored::{StoredResponse, fingerprint};
use super::veto::{CacheVeto, LastWord};
use super::write::{Writer, alone_for, later, now_or_later};
use crate::control::patch_response_headers;
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::fields::storable_fields;
use crate::semantics::freshness::parse_age;
use crate::semantics::storable::{Refusal, ResponseFacts, admit};
use crate::semantics::vary::Vary;
use crate::ttl::{Lifetime, Ttl};

/// What is advertised of a page that lives for ever.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A page about to be made.
pub(super) struct Filler {
    pub(super) config: Arc<Config>,
    pub(super) key: Key,
    pub(super) miss: Miss,
    /// Begun before the inner service is called, so that a purge meanwhile bars the store.
    pub(super) fill: Fill,
    /// Those who wait for it.
    pub(super) duty: Duty,
    /// See [`Asked::flight`]; `None` if the request is of a kind that others do not wait for.
    pub(super) flight: Option<String>,
    /// An earlier answer was not shared.
    pub(super) marked: Option<Alone>,
    pub(super) veto: CacheVeto,
    /// That of the layer outside, if there is one.
    pub(super) last_word: Option<LastWord>,
}

/// How long a storable response is kept, and for how long it has been on its way.
#[derive(Clone, Copy)]
struct Terms {
    lifetime: Lifetime,
    initial_age: u64,
}

impl Filler {
    /// The response for the client. It is stored once its body is complete, if it may be.
    pub(super) fn respond<B>(
        self,
        question: &Question,
        response: Response<B>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let asked = question.asked();
        let (mut parts, body) = response.into_parts();
        let facts = ResponseFacts::new(parts.status, &parts.headers, asked.now);
        let terms = match self.terms(&asked, &parts, &facts) {
            Ok(terms) => terms,
            Err(refusal) => {
                if refusal == Refusal::TtlZero {
                    patch_response_headers(&mut parts.headers, Duration::ZERO, asked.now);
                }
                return self.refuse(refusal, parts, body);
            }
        };
        advertise(&mut parts.headers, terms.lifetime, &facts, asked.now);
        let announced = content_length(&parts.headers);
        let ceiling = self.config.max_body_bytes;
        if question.head {
            return self.refuse(Refusal::Head, parts, body);
        }
        let least = announced.unwrap_or(body.size_hint().lower());
        let endless = self.marked == Some(Alone::TooLarge) && body.size_hint().exact().is_none();
        if least > ceiling as u64 || (endless && announced.is_none()) {
            return self.refuse(Refusal::BodyTooLarge, parts, body);
        }
        let status = CacheStatus::forward(STATUS_NAME, self.miss.forward)
            .with_ttl(terms.lifetime.duration());
        let unavailable = self.is_unavailable();
        let writer = self.writer(&asked, &parts, &facts, terms);
        let (client, mut copier) = relay(body, ceiling, announced);
        let mut once = Context::from_waker(Waker::noop());
        let (status, body) = match copier.read_ready(&mut once) {
            Some(Copied::Whole(body)) => {
                now_or_later(writer.finish(Copied::Whole(body.clone())));
                let status = if unavailable {
                    status
                        .with_ttl(None)
                        .with_detail(Refusal::Unavailable.as_str())
                } else {
                    status.with_stored()
                };
                (status, CacheBody::stored(body))
            }
            Some(outcome) => {
                let status = status.with_ttl(None).with_detail(outcome.as_str());
                now_or_later(writer.finish(outcome));
                (status, CacheBody::relayed(client))
            }
            // Whether it is stored turns out when its body ends.
            None => {
                later(writer.copy(copier));
                (status.with_detail("streaming"), CacheBody::relayed(client))
            }
        };
        status.append_to(&mut parts.headers);
        Response::from_parts(parts, body)
    }

    /// The store failed a moment ago.
    fn is_unavailable(&self) -> bool {
        self.miss.reason == Some(Refusal::Unavailable)
    }

    /// The terms on which a response may be stored.
    fn terms(
        &self,
        asked: &Asked<'_>,
        parts: &Parts,
        facts: &ResponseFacts,
    ) -> Result<Terms, Refusal> {
        if self.veto.is_forbidden() || CacheVeto::is_in(&parts.extensions) {
            return Err(Refusal::Veto);
        }
        admit(self.config.intent, asked.facts(), facts)?;
        let initial_age = parse_age(&parts.headers).unwrap_or(0);
        let ttl = match self.config.ttl {
            TtlRule::Fixed(ttl) => ttl,
            TtlRule::Fallback(ttl) => facts.explicit_lifetime().map_or(ttl, |explicit| {
                Ttl::After(explicit.saturating_sub(Duration::from_secs(initial_age)))
            }),
        };
        let lifetime = ttl.lifetime().ok_or(Refusal::TtlZero)?;
        Ok(Terms {
            lifetime,
            initial_age,
        })
    }

    /// The response as it came, and why it is not stored.
    fn refuse<B: Body<Data = Bytes>>(
        mut self,
        refusal: Refusal,
        mut parts: Parts,
        body: B,
    ) -> Response<CacheBody<B>> {
        let alone = if refusal == Refusal::BodyTooLarge {
            Alone::TooLarge
        } else {
            Alone::Refused
        };
        alone_for(&self.config, self.flight.as_deref(), &mut self.duty, alone);
        let name = self.config.cache.name();
        observe::outcome(name, "page", Outcome::Bypass, refusal.as_str());
        CacheStatus::forward(STATUS_NAME, self.miss.forward)
            .with_detail(refusal.as_str())
            .append_to(&mut parts.headers);
        Response::from_parts(parts, CacheBody::live(body))
    }

    /// All that is stored of a response but its body.
    fn writer(
        self,
        asked: &Asked<'_>,
        parts: &Parts,
        facts: &ResponseFacts,
        terms: Terms,
    ) -> Writer {
        let mut headers = storable_fields(&parts.headers);
        if !headers.contains_key(DATE)
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(asked.now))
        {
            headers.insert(DATE, date);
        }
        let own: Vec<String> = match facts.vary() {
            Vary::Names(names) => names
                .iter()
                // Declared cookies are in the key; the others are declared not to matter.
                .filter(|name| **name != COOKIE || self.config.cookies.is_none())
                .map(|name| name.as_str().to_owned())
                .collect(),
            Vary::Any => Vec::new(),
        };
        let known = self
            .miss
            .known
            .as_ref()
            .filter(|page| page.fresh_until.is_none_or(|until| asked.now < until));
        // The union: a response that varies on less does not put the others out of reach.
        let mut vary = own.clone();
        vary.extend(known.into_iter().flat_map(|page| page.vary.iter().cloned()));
        vary.sort_unstable();
        vary.dedup();
        let generation = known.map_or_else(
            || RandomState::new().hash_one(asked.now),
            |page| page.generation,
        );
        let has_variants = !vary.is_empty() || !self.config.page_keys.inlines();
        let variant_key = has_variants
            .then(|| asked.variant_key(&vary, generation).ok())
            .flatten();
        Writer {
            variant_key,
            known: known.cloned(),
            response: StoredResponse {
                status: parts.status,
                headers,
                body: Bytes::new(),
                stored_at: asked.now,
                fresh_until: expiry(asked.now, terms.lifetime),
                initial_age: terms.initial_age,
                sharing: facts.sharing(),
                varied: own
                    .into_iter()
                    .map(|name| {
                        let value = fingerprint(asked.headers, &name);
                        (name, value)
                    })
                    .collect(),
            },
            vary,
            generation,
            lifetime: terms.lifetime,
            unavailable: self.is_unavailable(),
            verdict: self.last_word.map(|word| word.ask(facts.vary())),
            config: self.config,
            key: self.key,
            fill: self.fill,
            duty: self.duty,
            flight: self.flight,
            veto: self.veto,
        }
    }
}

/// Adds `Expires` and `max-age` where they are missing.
fn advertise(headers: &mut HeaderMap, lifetime: Lifetime, facts: &ResponseFacts, now: SystemTime) {
    // Whoever gave shared caches a lifetime of their own did not mean it for browsers.
    if facts
        .cache_control()
        .is_some_and(|directives| directives.s_maxage.is_some() && directives.max_age.is_none())
    {
        return;
    }
    let lifetime = lifetime.duration().unwrap_or(A_YEAR);
    patch_response_headers(headers, lifetime, now);
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn expiry(now: SystemTime, lifetime: Lifetime) -> Option<SystemTime> {
    now.checked_add(lifetime.duration()?)
}
