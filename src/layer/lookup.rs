//! From a request to the stored response that answers it, or the reason why there is none.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, Uri};

use super::collapse::Spot;
use super::given::Given;
use super::hit::AtHand;
use super::layer::Config;
use super::lease::lease_of;
use super::stale::Stale;
use super::stored::{Fingerprint, StoredPage, StoredResponse, Varied, fingerprint};
use super::target::{RequestTarget, field};
use crate::backend::Peek;
use crate::entry::{Entry, Undecodable, is_lease};
use crate::error::Result;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::Forward;
use crate::semantics::reuse::Reuse;
use crate::semantics::storable::{Intent, Refusal, RequestFacts, shareable};
use crate::semantics::vary::selecting_value;
use crate::tag::TagState;

/// What a lookup came to.
#[derive(Debug)]
pub(super) enum Found {
    /// This response.
    Hit(Pick),
    /// This response, stale as it is, while another one is asked for.
    Refresh(Pick, Miss),
    Miss(Miss),
}

/// What a lookup came to that waited for nothing.
pub(super) enum Now {
    Hit(AtHand),
    /// Nothing at all is stored of the page.
    Nothing,
    /// There is more to do to know.
    Unknown,
}

/// A stored response.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    pub(super) page: Arc<StoredPage>,
    /// One of its tags is expired: it is stale from now on, however fresh it would be.
    pub(super) expired: bool,
}

impl Found {
    /// With the primary entry as the store has it.
    fn over(mut self, raw: Entry) -> Self {
        if let Self::Miss(miss) | Self::Refresh(_, miss) = &mut self {
            miss.raw = Some(raw);
        }
        self
    }
}

impl Pick {
    pub(super) fn fresh(page: Arc<StoredPage>) -> Self {
        Self {
            page,
            expired: false,
        }
    }

    pub(super) fn stored(&self) -> &StoredResponse {
        self.page.stored()
    }
}

/// Why the inner service has to answer, and what is known of the target.
#[derive(Debug)]
pub(super) struct Miss {
    pub(super) forward: Forward,
    pub(super) reason: Option<Refusal>,
    /// The primary entry.
    pub(super) known: Option<Arc<StoredPage>>,
    /// As the store has it, whatever it is.
    pub(super) raw: Option<Entry>,
    /// It is a lease of this generation.
    pub(super) lease: Option<u64>,
    /// What may do once it is validated, or in the place of an error.
    pub(super) stale: Option<Pick>,
}

impl Miss {
    pub(super) fn of(forward: Forward) -> Self {
        Self {
            forward,
            reason: None,
            known: None,
            raw: None,
            lease: None,
            stale: None,
        }
    }

    /// The store failed a moment ago.
    pub(super) fn is_unavailable(&self) -> bool {
        self.reason == Some(Refusal::Unavailable)
    }

    /// What an answer will stand in the place of, as far as it is known.
    pub(super) fn replaced(&self) -> Option<&StoredPage> {
        let stale = self.stale.as_ref().map(|stale| &stale.page);
        stale.or(self.known.as_ref()).map(|page| &**page)
    }

    /// Whether what was found may be served in the place of an answer with this status, or of one
    /// that never came.
    pub(super) fn may_do_instead(&self, asked: &Asked<'_>, status: Option<StatusCode>) -> bool {
        let stale = self.stale.as_ref();
        stale.is_some_and(|stale| asked.may_have_instead(stale, status))
    }

    /// The store failed: answer, and do not bother it again for this request.
    pub(super) fn unavailable() -> Self {
        Self {
            reason: Some(Refusal::Unavailable),
            ..Self::of(Forward::Bypass)
        }
    }
}

/// See [`Asked::flight`].
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) name: String,
    pub(super) spot: Spot,
}

/// A request as far as the cache is concerned.
pub(super) struct Asked<'a> {
    pub(super) config: &'a Config,
    pub(super) uri: &'a Uri,
    pub(super) target: &'a RequestTarget<'a>,
    /// What selects the page beside its URI.
    pub(super) selection: Fingerprint,
    pub(super) headers: &'a HeaderMap,
    pub(super) given: Given,
    pub(super) now: SystemTime,
    /// Another layer is outside of this one.
    pub(super) is_inside: bool,
}

/// The primary entry has the answer, or says where it may be.
enum Primary {
    Here(Arc<StoredPage>),
    Elsewhere(Key, Arc<StoredPage>),
    Nothing,
}

impl Asked<'_> {
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
        target.variant(self.uri, self.config, &values, generation)
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

    /// A field that a response varies on, with the request's value.
    pub(super) fn varied(&self, name: HeaderName) -> Varied {
        let fingerprint = fingerprint(self.selecting(&name).as_deref());
        Varied::new(name, fingerprint)
    }

    /// Names the requests that get answers of one kind: those for one page or variant, by clients of
    /// one kind. What one with credentials gets, others can seldom have.
    pub(super) fn flight(&self, key: &Key, known: Option<&StoredPage>) -> Flight {
        let variant = known.and_then(|page| self.variant_key(&page.vary, page.generation).ok());
        let key = variant.as_ref().unwrap_or(key);
        let kind = self.kind();
        let (is_personal, selection) = kind;
        let mut name = String::with_capacity(96);
        name.push(if is_personal { 'p' } else { 'a' });
        name.push_str(key.as_str());
        if let Some(selection) = selection {
            for byte in &selection[..8] {
                // Writing to a String cannot fail.
                let _ = write!(name, "{byte:02x}");
            }
        }
        let spot = self.spot_of(kind, key);
        Flight { name, spot }
    }

    /// Where it is marked if the answers to such requests are not shared. `key` is that of the page, or of the
    /// variant.
    pub(super) fn spot(&self, key: &Key) -> Spot {
        self.spot_of(self.kind(), key)
    }

    fn spot_of(&self, kind: (bool, Fingerprint), key: &Key) -> Spot {
        self.config.collapse.spot(&(kind, key.as_str()))
    }

    /// What requests have in common, beside the page, that get answers of one kind: whether those may be for their
    /// clients only, and what they are selected by, as two selections never have one answer.
    fn kind(&self) -> (bool, Fingerprint) {
        let facts = self.facts();
        let blanket = self.config.intent == Intent::Blanket;
        let is_personal = facts.authorization || (blanket && facts.undeclared_cookies);
        (is_personal, self.selection)
    }

    /// Whether a page that was made for another request may be had by this one.
    pub(super) fn may_have(&self, page: &StoredPage) -> bool {
        let response = page.response.as_ref();
        let hits = |response| matches!(self.judge(response, TagState::Current), Verdict::Hit);
        self.selects(page) && response.is_some_and(hits)
    }

    /// Whether the request is what a page was selected for.
    pub(super) fn selects(&self, page: &StoredPage) -> bool {
        let response = page.response.as_ref();
        response.is_some_and(|response| self.selected(response))
    }

    /// Whether the request is what the response was selected for.
    fn selected(&self, response: &StoredResponse) -> bool {
        let mut varied = response.varied.iter();
        response.selection == self.selection
            && varied.all(|field| field.is(self.selecting(&field.name).as_deref()))
    }

    /// The most variants of the page for requests like this: half of them are for those that claim
    /// nothing, as anybody can claim anything.
    pub(super) fn max_variants(&self) -> usize {
        let most = self.config.max_variants;
        if self.target.claims() { most / 2 } else { most }
    }

    /// What the request says about itself.
    pub(super) fn facts(&self) -> RequestFacts {
        self.config.inputs.facts(self.given)
    }

    /// What a store that answers at once has of this page.
    pub(super) fn look_now(&self, key: &Key) -> Now {
        match self.config.cache.peek(key) {
            Peek::Hit(entry) => self.hit_now(key, entry).map_or(Now::Unknown, Now::Hit),
            Peek::Miss => Now::Nothing,
            Peek::Declined => Now::Unknown,
        }
    }

    fn hit_now(&self, key: &Key, mut entry: Entry) -> Option<AtHand> {
        let cache = &self.config.cache;
        let mut page = self.decode_now(key, &entry)?;
        if !self.selects(page) {
            let key = self.variant_key(&page.vary, page.generation).ok()?;
            let Peek::Hit(variant) = cache.peek(&key) else {
                return None;
            };
            let generation = page.generation;
            entry = variant;
            page = self.decode_now(&key, &entry)?;
            self.variant(page, generation)?;
        }
        let response = page.stored();
        let marks = &response.tags.marks;
        let tags = if marks.is_empty() {
            TagState::Current
        } else {
            cache.tag_state_now(marks)?
        };
        let age = response.age(self.now);
        let is_hit = matches!(self.judge_at(age, response, tags), Verdict::Hit);
        if tags == TagState::Invalid || !is_hit {
            return None;
        }
        observe::outcome(cache.named(), "page", Outcome::Hit, "");
        Some(AtHand {
            expired: tags == TagState::Expired,
            age,
            entry,
        })
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
        let (entry, read) = cache.fetch_tagged(key).await?;
        let mut miss = Miss::of(Forward::UriMiss);
        let Some(entry) = entry else {
            return Ok(Found::Miss(miss));
        };
        if is_lease(entry.bytes()) {
            miss.lease = self.usable(lease_of(cache, key, &entry));
            return Ok(Found::Miss(miss).over(entry));
        }
        let page = self.decode(key, &entry).await;
        let found = match page.map_or(Primary::Nothing, |page| self.primary(page)) {
            Primary::Here(page) => {
                let marks = &page.stored().tags.marks;
                let tags = cache.tag_state(key, marks, &read).await?;
                self.found(Arc::clone(&page), page, tags, Forward::UriMiss)
            }
            Primary::Elsewhere(key, known) => Box::pin(self.fetch_variant(key, known)).await?,
            Primary::Nothing => Found::Miss(miss),
        };
        Ok(found.over(entry))
    }

    /// The variant under `key` of a page of which this is `known`.
    async fn fetch_variant(&self, key: Key, known: Arc<StoredPage>) -> Result<Found> {
        let cache = &self.config.cache;
        let (entry, read) = cache.fetch_tagged(&key).await?;
        let page = match &entry {
            Some(entry) => self.decode(&key, entry).await,
            None => None,
        };
        let Some(page) = page.and_then(|page| self.variant(page, known.generation)) else {
            let verdict = Verdict::Miss(Forward::VaryMiss, None);
            return Ok(verdict.into_found(None, known));
        };
        let marks = &page.stored().tags.marks;
        let tags = cache.tag_state(&key, marks, &read).await?;
        Ok(self.found(page, known, tags, Forward::VaryMiss))
    }

    fn primary(&self, page: Arc<StoredPage>) -> Primary {
        if self.selects(&page) {
            return Primary::Here(page);
        }
        match self.variant_key(&page.vary, page.generation) {
            Ok(key) => Primary::Elsewhere(key, page),
            Err(_) => Primary::Nothing,
        }
    }

    /// The variant, if it is for this request, and of the same generation as the primary entry, which
    /// its key may not say.
    fn variant<P: Deref<Target = StoredPage>>(&self, page: P, generation: u64) -> Option<P> {
        (page.generation == generation && self.selects(&page)).then_some(page)
    }

    /// What a response for this request is worth whose tags are in this state. `gone`: how the
    /// request goes on if it is worth nothing.
    fn found(
        &self,
        page: Arc<StoredPage>,
        known: Arc<StoredPage>,
        tags: TagState,
        gone: Forward,
    ) -> Found {
        let verdict = match tags {
            TagState::Invalid => Verdict::Miss(gone, None),
            TagState::Current | TagState::Expired => self.judge(page.stored(), tags),
        };
        let expired = tags == TagState::Expired;
        verdict.into_found(Some(Pick { page, expired }), known)
    }

    fn judge(&self, response: &StoredResponse, tags: TagState) -> Verdict {
        self.judge_at(response.age(self.now), response, tags)
    }

    /// The same of one that is this old.
    fn judge_at(&self, age: Duration, response: &StoredResponse, tags: TagState) -> Verdict {
        if let Err(refusal) = shareable(self.config.intent, self.facts(), response.sharing) {
            return Verdict::Miss(Forward::Bypass, Some(refusal));
        }
        let expired = tags != TagState::Current;
        let fresh = !expired && response.is_fresh_at(age);
        let Some(rules) = &self.config.http else {
            if response.terms.validate_always {
                // Of a layer in HTTP mode, in the same cache and under the same prefix.
                return Verdict::Miss(Forward::Stale, None);
            }
            if fresh {
                return Verdict::Hit;
            }
            return match response.windows.permit(response.staleness_at(age)) {
                Stale::Now => Verdict::Refresh,
                Stale::Instead => Verdict::Validate(Forward::Stale),
                Stale::Nothing => Verdict::Miss(Forward::Stale, None),
            };
        };
        match self.reuse(rules, response, expired) {
            Reuse::Fresh | Reuse::Stale => Verdict::Hit,
            Reuse::StaleWhileRevalidate => Verdict::Refresh,
            _ if fresh => Verdict::Validate(Forward::Request),
            _ => Verdict::Validate(Forward::Stale),
        }
    }

    async fn decode(&self, key: &Key, entry: &Entry) -> Option<Arc<StoredPage>> {
        if let Some(page) = entry.decoded() {
            return Some(page);
        }
        let (cache, bytes) = (&self.config.cache, entry.bytes());
        let page = match StoredPage::decode_now(cache, key, bytes) {
            Some(page) => page,
            None => Box::pin(StoredPage::decode(cache, key, bytes)).await,
        };
        self.usable(page).map(|page| entry.decoded_as(page))
    }

    /// The same, for who does not wait: nothing, if it takes long, or there is more to say of it.
    fn decode_now<'e>(&self, key: &Key, entry: &'e Entry) -> Option<&'e StoredPage> {
        if !entry.is_decoded() {
            if is_lease(entry.bytes()) {
                return None;
            }
            let page = StoredPage::decode_now(&self.config.cache, key, entry.bytes())?;
            entry.decoded_as(self.usable(page)?);
        }
        entry.decoded_ref()
    }

    fn usable<T>(&self, opened: Result<T, Undecodable>) -> Option<T> {
        let name = self.config.cache.name();
        opened
            .inspect_err(|reason| observe::corrupt(name, "page", reason.as_str()))
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
        observe::outcome(self.config.cache.named(), "page", outcome, reason);
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
    fn into_found(self, pick: Option<Pick>, known: Arc<StoredPage>) -> Found {
        let miss = |forward, reason, stale| Miss {
            forward,
            reason,
            known: Some(known),
            raw: None,
            lease: None,
            stale,
        };
        match (self, pick) {
            (Self::Hit, Some(pick)) => Found::Hit(pick),
            (Self::Refresh, Some(pick)) => {
                let miss = miss(Forward::Stale, None, Some(pick.clone()));
                Found::Refresh(pick, miss)
            }
            (Self::Validate(forward), pick) => Found::Miss(miss(forward, None, pick)),
            (Self::Miss(forward, reason), _) => Found::Miss(miss(forward, reason, None)),
            (Self::Hit | Self::Refresh, None) => Found::Miss(miss(Forward::Miss, None, None)),
        }
    }
}
