//! From a request to the stored response that answers it, or the reason why there is none.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Uri};

use super::layer::Config;
use super::stored::{Fingerprint, StoredPage, StoredResponse, fingerprint};
use super::target::{RequestTarget, field};
use crate::backend::Peek;
use crate::entry::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::Forward;
use crate::semantics::reuse::Reuse;
use crate::semantics::storable::{Intent, Refusal, RequestFacts, shareable};
use crate::semantics::vary::selecting_value;

/// What a lookup came to.
#[derive(Debug)]
pub(super) enum Found {
    /// The response of this page.
    Hit(Arc<StoredPage>),
    /// The response of this page, stale as it is, while another one is asked for.
    Refresh(Arc<StoredPage>, Miss),
    Miss(Miss),
}

/// Why the inner service has to answer, and what is known of the target.
#[derive(Debug)]
pub(super) struct Miss {
    pub(super) forward: Forward,
    pub(super) reason: Option<Refusal>,
    /// The primary entry.
    pub(super) known: Option<Arc<StoredPage>>,
    /// What may do once it is validated, or in the place of an error.
    pub(super) stale: Option<Arc<StoredPage>>,
}

impl Miss {
    pub(super) fn of(forward: Forward) -> Self {
        Self {
            forward,
            reason: None,
            known: None,
            stale: None,
        }
    }

    /// The store failed: answer, and do not bother it again for this request.
    pub(super) fn unavailable() -> Self {
        Self {
            reason: Some(Refusal::Unavailable),
            ..Self::of(Forward::Bypass)
        }
    }
}

/// A request as far as the cache is concerned.
pub(super) struct Asked<'a> {
    pub(super) config: &'a Config,
    pub(super) uri: &'a Uri,
    pub(super) target: &'a RequestTarget,
    pub(super) headers: &'a HeaderMap,
    pub(super) now: SystemTime,
}

/// The primary entry has the answer, or says where it may be.
enum Primary {
    Found(Found),
    Elsewhere(Key, Arc<StoredPage>),
}

impl Asked<'_> {
    /// The key of the primary entry.
    pub(super) fn primary_key(&self) -> Result<Key> {
        let key = self.target.primary(self.uri, self.config);
        self.config.cache.final_key(&key)
    }

    /// The key of the variant for this request among those that differ by the fields `vary`.
    pub(super) fn variant_key(&self, vary: &[HeaderName], generation: u64) -> Result<Key> {
        let values: Vec<_> = vary
            .iter()
            .map(|name| (name.as_str(), self.selecting(name)))
            .collect();
        let values: Vec<_> = values
            .iter()
            .map(|(name, value)| (*name, value.as_deref()))
            .collect();
        let target = self.target;
        let key = target.variant(self.uri, self.config, &values, generation);
        self.config.cache.final_key(&key)
    }

    /// The request's value of a field that responses vary on. A layer that goes by HTTP compares
    /// them by what they mean; elsewhere the handler may make anything of them.
    fn selecting(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        if self.config.http.is_some() {
            selecting_value(self.headers, name)
        } else {
            field(self.headers, name)
        }
    }

    /// Tells the request's values of a field that responses vary on apart.
    pub(super) fn fingerprint(&self, name: &HeaderName) -> Fingerprint {
        fingerprint(self.selecting(name).as_deref())
    }

    /// Names the requests that may wait for each other's answer: those for one page or variant, by
    /// clients of one kind. What one with credentials gets, others can seldom have.
    pub(super) fn flight(&self, key: &Key, miss: &Miss) -> String {
        let facts = self.facts();
        let blanket = self.config.intent == Intent::Blanket;
        let personal = facts.authorization || (blanket && facts.undeclared_cookies);
        let variant = miss
            .known
            .as_ref()
            .and_then(|page| self.variant_key(&page.vary, page.generation).ok());
        let mut flight = String::with_capacity(96);
        flight.push(if personal { 'p' } else { 'a' });
        flight.push_str(variant.as_ref().unwrap_or(key).as_str());
        // Two selections never have one answer, known or not.
        if let Some(selection) = self.selection() {
            for byte in &selection[..8] {
                // Writing to a String cannot fail.
                let _ = write!(flight, "{byte:02x}");
            }
        }
        flight
    }

    /// Whether a page that was made for another request may be had by this one.
    pub(super) fn may_have(&self, page: &StoredPage) -> bool {
        let response = page.response.as_ref();
        self.selects(page) && response.is_some_and(|it| matches!(self.judge(it), Verdict::Hit))
    }

    /// Whether the request is what a page was selected for.
    pub(super) fn selects(&self, page: &StoredPage) -> bool {
        let response = page.response.as_ref();
        response.is_some_and(|response| self.selected(response))
    }

    /// Whether the request is what the response was selected for.
    fn selected(&self, response: &StoredResponse) -> bool {
        let mut varied = response.varied.iter();
        response.selection == self.selection()
            && varied.all(|(name, value)| self.fingerprint(name) == *value)
    }

    /// What selects the page beside its URI.
    pub(super) fn selection(&self) -> Fingerprint {
        self.target.selection(self.uri, self.config)
    }

    /// The most variants of the page for requests like this: half of them are for those that claim
    /// nothing, as anybody can claim anything.
    pub(super) fn max_variants(&self) -> usize {
        let most = self.config.max_variants;
        if self.target.claims() { most / 2 } else { most }
    }

    /// What the request says about itself.
    pub(super) fn facts(&self) -> RequestFacts {
        self.config.inputs.facts(self.headers)
    }

    /// The response of this page, if a store that answers at once has it.
    pub(super) fn hit_now(&self, key: &Key) -> Option<Arc<StoredPage>> {
        let cache = &self.config.cache;
        let Peek::Hit(entry) = cache.peek(key) else {
            return None;
        };
        let found = match self.judge_primary(key, &entry) {
            Primary::Found(found) => found,
            Primary::Elsewhere(key, page) => match cache.peek(&key) {
                Peek::Hit(entry) => self.judge_variant(&key, Some(&entry), page),
                _ => return None,
            },
        };
        match found {
            Found::Hit(page) => {
                observe::outcome(cache.name(), "page", Outcome::Hit, "");
                Some(page)
            }
            _ => None,
        }
    }

    /// Looks the request up.
    pub(super) async fn look_up(&self, key: &Key) -> Found {
        let found = self.fetch(key).await.unwrap_or_else(|error| {
            observe::failed(self.config.cache.name(), "page", &error);
            Found::Miss(Miss::unavailable())
        });
        self.observed(found)
    }

    async fn fetch(&self, key: &Key) -> Result<Found> {
        let cache = &self.config.cache;
        let Some(entry) = cache.fetch(key).await? else {
            return Ok(Found::Miss(Miss::of(Forward::UriMiss)));
        };
        match self.judge_primary(key, &entry) {
            Primary::Found(found) => Ok(found),
            Primary::Elsewhere(key, page) => {
                let variant = cache.fetch(&key).await?;
                Ok(self.judge_variant(&key, variant.as_ref(), page))
            }
        }
    }

    fn judge_primary(&self, key: &Key, entry: &Entry) -> Primary {
        let Some(page) = self.decode(key, entry) else {
            return Primary::Found(Found::Miss(Miss::of(Forward::UriMiss)));
        };
        if let Some(response) = page.response.as_ref()
            && self.selected(response)
        {
            let verdict = self.judge(response);
            return Primary::Found(verdict.into_found(Arc::clone(&page), page));
        }
        match self.variant_key(&page.vary, page.generation) {
            Ok(key) => Primary::Elsewhere(key, page),
            Err(_) => Primary::Found(Found::Miss(Miss::of(Forward::UriMiss))),
        }
    }

    fn judge_variant(&self, key: &Key, entry: Option<&Entry>, known: Arc<StoredPage>) -> Found {
        let variant = entry.and_then(|entry| self.decode(key, entry));
        let verdict = match variant.as_ref().and_then(|page| page.response.as_ref()) {
            Some(response) if self.selected(response) => self.judge(response),
            _ => Verdict::Miss(Forward::VaryMiss, None),
        };
        let variant = variant.unwrap_or_else(|| Arc::clone(&known));
        verdict.into_found(variant, known)
    }

    fn judge(&self, response: &StoredResponse) -> Verdict {
        if let Err(refusal) = shareable(self.config.intent, self.facts(), response.sharing) {
            return Verdict::Miss(Forward::Bypass, Some(refusal));
        }
        let fresh = response.is_fresh(self.now);
        let Some(rules) = &self.config.http else {
            return if fresh {
                Verdict::Hit
            } else {
                Verdict::Miss(Forward::Stale, None)
            };
        };
        match self.reuse(rules, response) {
            Reuse::Fresh | Reuse::Stale => Verdict::Hit,
            Reuse::StaleWhileRevalidate => Verdict::Refresh,
            _ if fresh => Verdict::Validate(Forward::Request),
            _ => Verdict::Validate(Forward::Stale),
        }
    }

    fn decode(&self, key: &Key, entry: &Entry) -> Option<Arc<StoredPage>> {
        let page = entry.decoded(|bytes| StoredPage::decode(key, bytes));
        page.inspect_err(|reason| {
            observe::corrupt(self.config.cache.name(), "page", reason.as_str());
        })
        .ok()
    }

    fn observed(&self, found: Found) -> Found {
        let (outcome, reason) = match &found {
            Found::Hit(_) => (Outcome::Hit, ""),
            Found::Refresh(..) => (Outcome::Hit, "stale"),
            Found::Miss(miss) => match miss.reason {
                Some(refusal) => (Outcome::Bypass, refusal.as_str()),
                None => (Outcome::Miss, miss.forward.as_str()),
            },
        };
        observe::outcome(self.config.cache.name(), "page", outcome, reason);
        found
    }
}

enum Verdict {
    Hit,
    Refresh,
    Validate(Forward),
    Miss(Forward, Option<Refusal>),
}

impl Verdict {
    fn into_found(self, page: Arc<StoredPage>, known: Arc<StoredPage>) -> Found {
        let miss = |forward, reason, stale| Miss {
            forward,
            reason,
            known: Some(known),
            stale,
        };
        match self {
            Self::Hit => Found::Hit(page),
            Self::Refresh => {
                let miss = miss(Forward::Stale, None, Some(Arc::clone(&page)));
                Found::Refresh(page, miss)
            }
            Self::Validate(forward) => Found::Miss(miss(forward, None, Some(page))),
            Self::Miss(forward, reason) => Found::Miss(miss(forward, reason, None)),
        }
    }
}
