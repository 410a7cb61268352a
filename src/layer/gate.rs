//! What is stored of a response, for how long, and on whose word: the two modes of a layer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName};

use super::fill::Filler;
use super::http::HttpRules;
use super::layer::{Config, TtlRule};
use super::lookup::Asked;
use super::stale::Windows;
use super::stored::{Fingerprint, StoredResponse, Varied};
use super::tagged::PageTags;
use super::unnamed::Unnamed;
use super::veto::{CacheVeto, LastWord, Vetoes};
use super::write::Writer;
use crate::control::{CacheControl, patch_cache_control, patch_expires, patch_response_headers};
use crate::key::Key;
use crate::semantics::fields::storable_fields;
use crate::semantics::freshness::{corrected_initial_age, parse_age, stamp_date};
use crate::semantics::reuse::Terms;
use crate::semantics::storable::{Refusal, RequestFacts, ResponseFacts, admit, admit_http};
use crate::semantics::vary::{Vary, union};
use crate::tag::{Tags, draw};
use crate::ttl::{Lifetime, Ttl};

/// What is advertised of a page that lives for ever.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How a response is kept.
pub(super) struct Kept {
    facts: ResponseFacts,
    /// How long it is fresh, counted from its making; `None`: for ever.
    lifetime: Option<Duration>,
    initial_age: u64,
    terms: Terms,
    windows: Windows,
    /// How long the store keeps it, counted from now.
    stored_for: Lifetime,
}

/// Where a response goes among the variants of its page.
pub(super) struct Placement {
    /// There is a primary entry.
    known: bool,
    generation: u64,
    /// What the responses of the page vary on, and what this one does.
    vary: Vec<HeaderName>,
    varied: Vec<Varied>,
    selection: Fingerprint,
    /// Where it goes beside the primary entry, if there are variants.
    variant_key: Option<Key>,
    /// The most variants that there may be beside it.
    most: usize,
}

/// Nothing beside the fields of a response keeps it from being stored.
fn is_free(veto: &CacheVeto, parts: &Parts) -> Result<(), Refusal> {
    if veto.is_forbidden() || CacheVeto::is_in(&parts.extensions) {
        return Err(Refusal::Veto);
    }
    let tags = parts.extensions.get::<Tags>();
    if tags.is_some_and(|tags| tags.check().is_err()) {
        return Err(Refusal::Tags);
    }
    Ok(())
}

impl Config {
    /// How the answer to a request with these facts is kept, as the developer's TTL decides; adds the fields that
    /// say so to the client.
    pub(super) fn admit_page(
        &self,
        veto: &CacheVeto,
        request: RequestFacts,
        parts: &mut Parts,
        now: SystemTime,
    ) -> Result<Kept, Refusal> {
        let facts = ResponseFacts::permitted(parts.status, &parts.headers, now);
        // After the facts: it is no word of the handler's.
        self.inputs.patch_vary(&mut parts.headers);
        is_free(veto, parts)?;
        let facts = facts?;
        admit(self.intent, request, &facts)?;
        let initial_age = parse_age(&parts.headers).unwrap_or(0);
        let age = Duration::from_secs(initial_age);
        if facts
            .explicit_lifetime()
            .is_some_and(|explicit| explicit <= age)
        {
            return Err(Refusal::Expired);
        }
        let ttl = match self.ttl {
            TtlRule::Fixed(ttl) => ttl,
            TtlRule::Fallback(ttl) => facts
                .explicit_lifetime()
                .map_or(ttl, |explicit| Ttl::After(explicit.saturating_sub(age))),
        };
        let Some(fresh_for) = ttl.lifetime() else {
            patch_response_headers(&mut parts.headers, Duration::ZERO, now);
            return Err(Refusal::TtlZero);
        };
        advertise(&mut parts.headers, fresh_for, &facts, now);
        let windows = facts.cache_control().map(|it| self.windows.of(it));
        let windows = windows.unwrap_or_default();
        let fresh_for = fresh_for.duration();
        let stored_for = fresh_for.map(|fresh| fresh.saturating_add(windows.longest()));
        Ok(Kept {
            facts,
            lifetime: fresh_for.map(|fresh| fresh.saturating_add(age)),
            initial_age,
            terms: Terms::default(),
            windows,
            stored_for: stored_for.map_or(Lifetime::Forever, Lifetime::For),
        })
    }
}

impl Filler {
    /// How a response is kept, and where it goes; adds the fields that say so to the client.
    pub(super) fn admit(
        &self,
        asked: &Asked<'_>,
        parts: &mut Parts,
    ) -> Result<(Kept, Placement), Refusal> {
        let kept = match &self.config.http {
            None => self
                .config
                .admit_page(&self.veto, asked.facts(), parts, asked.now),
            Some(rules) => self.admit_by(rules, asked, parts),
        }?;
        if !Unnamed::is_known(asked, &parts.extensions) {
            return Err(Refusal::Vary);
        }
        let placement = self.placement(asked, &kept)?;
        Ok((kept, placement))
    }

    /// As the response says.
    fn admit_by(
        &self,
        rules: &HttpRules,
        asked: &Asked<'_>,
        parts: &mut Parts,
    ) -> Result<Kept, Refusal> {
        let headers = &mut parts.headers;
        stamp_date(headers, asked.now);
        let heuristic = rules.heuristic_lifetime;
        let facts =
            ResponseFacts::for_http(parts.status, headers, &rules.targets, heuristic, asked.now);
        self.config.inputs.patch_vary(headers);
        is_free(&self.veto, parts)?;
        let headers = &parts.headers;
        let wishes = rules.wishes(asked.headers);
        admit_http(asked.facts(), wishes.as_ref(), &facts)?;
        let age = parse_age(headers);
        let initial_age = corrected_initial_age(headers, age, self.asked_at, asked.now);
        let terms = facts.cache_control().map(Terms::new).unwrap_or_default();
        let lifetime = facts.lifetime();
        let fresh_for = lifetime.saturating_sub(Duration::from_secs(initial_age));
        let stored_for = rules.keeps(fresh_for, terms);
        if stored_for.is_zero() {
            return Err(Refusal::Expired);
        }
        Ok(Kept {
            facts,
            lifetime: Some(lifetime),
            initial_age,
            terms,
            windows: Windows::default(),
            stored_for: Lifetime::For(stored_for),
        })
    }

    /// Where a response goes that is kept so.
    fn placement(&self, asked: &Asked<'_>, kept: &Kept) -> Result<Placement, Refusal> {
        let own: Vec<HeaderName> = match kept.facts.vary() {
            Vary::Names(names) => names
                .iter()
                // What the key holds already, and what the handler was not shown.
                .filter(|name| !self.config.inputs.covers(name))
                .cloned()
                .collect(),
            Vary::Any => return Err(Refusal::Vary),
        };
        let known = self
            .miss
            .known
            .as_ref()
            .filter(|page| page.is_kept(asked.now));
        // The union: a response that varies on less does not put the others out of reach.
        let others = known.into_iter().flat_map(|page| &page.vary);
        let vary = union(own.iter().chain(others).cloned());
        let of_ground = self.ground.generation();
        let generation = of_ground.or_else(|| known.map(|page| page.generation));
        let generation = generation.unwrap_or_else(draw);
        // Also where the primary entry is the only place of another one, which is displaced there.
        let has_variants = !vary.is_empty()
            || asked.selection.is_some()
            || known.is_some_and(|page| page.is_selected())
            || !self.config.page_keys.inlines();
        let variant_key = has_variants
            .then(|| asked.variant_key(&vary, generation).map(Key::kept).ok())
            .flatten();
        let varied = own.into_iter().map(|name| asked.varied(name));
        Ok(Placement {
            varied: varied.collect(),
            known: known.is_some(),
            vary,
            generation,
            selection: asked.selection,
            variant_key,
            most: asked.max_variants(),
        })
    }

    /// All that is stored of a response but its body.
    pub(super) fn writer(
        self,
        asked: &Asked<'_>,
        parts: &mut Parts,
        kept: &Kept,
        placement: Placement,
    ) -> Box<Writer> {
        let mut headers = storable_fields(&parts.headers);
        stamp_date(&mut headers, asked.now);
        let (etags, unstored) = (self.etags(), self.unstored());
        // With what the layer itself has added.
        let ask = || LastWord::ask(&mut parts.extensions, Vary::parse(&parts.headers));
        let verdict = self.is_inside.then(ask);
        Box::new(Writer {
            response: StoredResponse {
                status: parts.status,
                headers,
                body: Bytes::new(),
                stored_at: asked.now,
                lifetime: kept.lifetime,
                initial_age: kept.initial_age,
                terms: kept.terms,
                windows: kept.windows,
                sharing: kept.facts.sharing(asked.facts()),
                selection: placement.selection,
                varied: placement.varied,
                tags: PageTags::default(),
            },
            tags: parts.extensions.get().cloned().unwrap_or_default(),
            before: self.before,
            variant_key: placement.variant_key,
            most: placement.most,
            known: placement.known,
            vary: placement.vary,
            generation: placement.generation,
            lifetime: kept.stored_for,
            unstored,
            ground: self.ground,
            etags,
            verdict,
            config: self.config,
            key: self.key,
            fill: self.fill,
            duty: self.duty,
            spot: self.spot,
            vetoes: Vetoes::new(self.veto, &parts.extensions),
        })
    }
}

/// Adds `Expires` and `max-age` where they are missing.
fn advertise(headers: &mut HeaderMap, lifetime: Lifetime, facts: &ResponseFacts, now: SystemTime) {
    let said = facts.cache_control();
    let max_age = said.and_then(|directives| directives.max_age);
    // Whoever gave shared caches a lifetime of their own did not mean it for browsers.
    if max_age.is_none() && said.is_some_and(|directives| directives.s_maxage.is_some()) {
        return;
    }
    let lifetime = lifetime.duration().unwrap_or(A_YEAR);
    // For whoever does not know the other one: no later than that says.
    let expires = max_age.map_or(lifetime, |said| lifetime.min(Duration::from_secs(said)));
    patch_expires(headers, expires, now);
    if max_age.is_none_or(|said| said > lifetime.as_secs()) {
        patch_cache_control(headers, &CacheControl::new().with_max_age(lifetime));
    }
}
