//! From the inner service's response to what the client gets and what is stored.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body;
use tokio::runtime::Handle;

use super::body::{CacheBody, Tee};
use super::layer::{Config, TtlRule};
use super::lookup::{Asked, Miss};
use super::service::STATUS_NAME;
use super::stored::{StoredPage, StoredResponse, fingerprint};
use crate::control::patch_response_headers;
use crate::error::Result;
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
    config: Arc<Config>,
    key: Key,
    miss: Miss,
    /// Begun before the inner service is called, so that a purge meanwhile bars the store.
    fill: Fill,
}

/// How long a storable response is kept, and for how long it has been on its way.
#[derive(Clone, Copy)]
struct Terms {
    lifetime: Lifetime,
    initial_age: u64,
}

impl Filler {
    pub(super) fn begin(config: &Arc<Config>, key: Key, miss: Miss) -> Self {
        Self {
            config: Arc::clone(config),
            fill: config.cache.begin_fill(&key),
            key,
            miss,
        }
    }

    /// The response for the client. It is stored once its body is complete, if it may be.
    pub(super) async fn respond<B>(
        self,
        asked: &Asked<'_>,
        head: bool,
        response: Response<B>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let (mut parts, body) = response.into_parts();
        let status = CacheStatus::forward(STATUS_NAME, self.miss.forward);
        let facts = ResponseFacts::new(parts.status, &parts.headers, asked.now);
        // After the facts: it is no word of the handler's.
        self.config.inputs.patch_vary(&mut parts.headers);
        let terms = match self.terms(asked, &parts.headers, &facts) {
            Ok(terms) => terms,
            Err(refusal) => {
                if refusal == Refusal::TtlZero {
                    patch_response_headers(&mut parts.headers, Duration::ZERO, asked.now);
                }
                return self.refuse(refusal, status, parts, body);
            }
        };
        advertise(&mut parts.headers, terms.lifetime, &facts, asked.now);
        let announced = content_length(&parts.headers);
        let ceiling = self.config.max_body_bytes;
        let size = body.size_hint();
        if head || announced.unwrap_or(size.lower()) > ceiling as u64 {
            let refusal = if head {
                Refusal::Head
            } else {
                Refusal::BodyTooLarge
            };
            return self.refuse(refusal, status, parts, body);
        }
        let page = self.page(asked, &parts, &facts, terms);
        let store = move |body| store_now_or_later(page.store(body));
        let mut tee = Tee::new(body, ceiling, announced, Box::new(store));
        let whole = std::future::poll_fn(|cx| Poll::Ready(tee.read_ahead(cx))).await;
        let status = if whole.is_some() {
            status.with_ttl(terms.lifetime.duration()).with_stored()
        } else if tee.is_given_up() {
            status.with_detail(Refusal::BodyTooLarge.as_str())
        } else {
            // Whether it is stored turns out when its body ends.
            status
                .with_ttl(terms.lifetime.duration())
                .with_detail("streaming")
        };
        status.append_to(&mut parts.headers);
        let body = whole.map_or_else(|| CacheBody::tee(tee), CacheBody::stored);
        Response::from_parts(parts, body)
    }

    /// The terms on which a response may be stored.
    fn terms(
        &self,
        asked: &Asked<'_>,
        headers: &HeaderMap,
        facts: &ResponseFacts,
    ) -> Result<Terms, Refusal> {
        if let Some(Refusal::Unavailable) = self.miss.reason {
            return Err(Refusal::Unavailable);
        }
        admit(self.config.intent, asked.facts(), facts)?;
        let initial_age = parse_age(headers).unwrap_or(0);
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
        &self,
        refusal: Refusal,
        status: CacheStatus,
        mut parts: http::response::Parts,
        body: B,
    ) -> Response<CacheBody<B>> {
        let name = self.config.cache.name();
        observe::outcome(name, "page", Outcome::Bypass, refusal.as_str());
        let status = status.with_detail(refusal.as_str());
        status.append_to(&mut parts.headers);
        Response::from_parts(parts, CacheBody::live(body))
    }

    /// All that is stored of a response but its body.
    fn page(
        self,
        asked: &Asked<'_>,
        parts: &http::response::Parts,
        facts: &ResponseFacts,
        terms: Terms,
    ) -> PageToStore {
        let mut headers = storable_fields(&parts.headers);
        if !headers.contains_key(DATE)
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(asked.now))
        {
            headers.insert(DATE, date);
        }
        let own: Vec<String> = match facts.vary() {
            Vary::Names(names) => names
                .iter()
                // What the key holds already, and what the handler was not shown.
                .filter(|name| !self.config.inputs.covers(name))
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
        let fresh_until = expiry(asked.now, terms.lifetime);
        let has_variants = !vary.is_empty() || !self.config.page_keys.inlines();
        let variant_key = has_variants
            .then(|| asked.variant_key(&vary, generation).ok())
            .flatten();
        PageToStore {
            variant_key,
            known: known.cloned(),
            response: StoredResponse {
                status: parts.status,
                headers,
                body: Bytes::new(),
                stored_at: asked.now,
                fresh_until,
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
            filler: self,
        }
    }
}

/// A response on its way into the store, its body still to come.
struct PageToStore {
    filler: Filler,
    response: StoredResponse,
    /// Where the response goes beside the primary entry, if the target has variants.
    variant_key: Option<Key>,
    vary: Vec<String>,
    generation: u64,
    lifetime: Lifetime,
    /// The primary entry that serves other variants meanwhile.
    known: Option<Arc<StoredPage>>,
}

impl PageToStore {
    async fn store(mut self, body: Bytes) {
        self.response.body = body;
        let config = Arc::clone(&self.filler.config);
        let name = config.cache.name();
        match self.write(&config).await {
            Ok(true) => observe::outcome(name, "page", Outcome::Stored, ""),
            Ok(false) => observe::outcome(name, "page", Outcome::Bypass, "invalidated"),
            Err(error) => observe::failed(name, "page", &error),
        }
    }

    /// Whether it was stored: not if the page was purged meanwhile.
    async fn write(self, config: &Config) -> Result<bool> {
        let now = self.response.stored_at;
        let own_until = self.response.fresh_until;
        let known_until = self.known.as_ref().map(|known| known.fresh_until);
        let (primary_until, primary_lifetime) = match known_until {
            // The primary entry has to outlive all its variants.
            Some(None) => (None, Lifetime::Forever),
            Some(Some(known)) if own_until.is_some_and(|own| own < known) => {
                let rest = known.duration_since(now).unwrap_or_default();
                (Some(known), Lifetime::For(rest))
            }
            _ => (own_until, self.lifetime),
        };
        let mut page = StoredPage {
            generation: self.generation,
            vary: self.vary,
            fresh_until: own_until,
            response: Some(self.response),
        };
        let mut batch = Vec::with_capacity(2);
        if let Some(key) = self.variant_key {
            let entry = page.encode(&key, now)?;
            batch.push((key, entry, self.lifetime));
        }
        page.fresh_until = primary_until;
        if !config.page_keys.inlines() {
            page.response = None;
        }
        let key = self.filler.key;
        let entry = page.encode(&key, now)?;
        batch.push((key, entry, primary_lifetime));
        let backend = config.cache.backend();
        let Some(outcomes) = self.filler.fill.land(backend.set_many(batch)).await else {
            return Ok(false);
        };
        outcomes?.into_iter().collect::<Result<()>>().map(|()| true)
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

/// Stores at once if the store is in this process, so that the next request finds it; else in a
/// task of its own, which no client that goes away cancels.
fn store_now_or_later(store: impl Future<Output = ()> + Send + 'static) {
    let mut store = Box::pin(store);
    let mut once = Context::from_waker(Waker::noop());
    if store.as_mut().poll(&mut once).is_pending()
        && let Ok(runtime) = Handle::try_current()
    {
        runtime.spawn(store);
    }
}
