//! The inputs that a layer declares, and what they make of a request.

use std::borrow::Cow;
use std::sync::Arc;

use http::Uri;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, UPGRADE};

use super::claims::{Claims, Origin, facet_name, lines, lower_case};
use super::cookies;
use super::locality::{Language, TimeZone};
use super::proxies::TrustedProxies;
use super::query::{Query, QueryRule};
use super::variant::{Head, Variant};
use crate::key::Facet;
use crate::layer::given::{Given, View};
use crate::layer::target::{
    RequestTarget, authority, is_nested, nested_at, peer, without_default_port,
};
use crate::layer::veto::Place;
use crate::semantics::storable::{Refusal, RequestFacts};
use crate::semantics::vary::patch_vary;

/// What of a request selects its page.
#[derive(Clone, Debug, Default)]
pub(in crate::layer) struct Inputs {
    pub(super) query: QueryRule,
    /// The cookies that matter; `None`: not declared.
    pub(super) cookies: Option<Arc<[String]>>,
    /// Fields, and the names of their facets.
    pub(super) fields: Vec<(HeaderName, Arc<str>)>,
    /// Variants, and the names of their facets.
    pub(super) variants: Vec<(Arc<dyn Variant>, Arc<str>)>,
    pub(super) proxies: TrustedProxies,
    pub(super) narrow: bool,
}

impl Inputs {
    pub(in crate::layer) fn allow_query(&mut self, names: impl IntoIterator<Item = String>) {
        self.query.allow(names);
    }

    pub(in crate::layer) fn ignore_query(&mut self, names: impl IntoIterator<Item = String>) {
        self.query.ignore(names);
    }

    pub(in crate::layer) fn ignore_tracking(&mut self) {
        self.query.ignore_tracking();
    }

    pub(in crate::layer) fn sort_query(&mut self) {
        self.query.sort();
    }

    pub(in crate::layer) fn declare_cookies(&mut self, names: impl IntoIterator<Item = String>) {
        self.cookies = Some(names.into_iter().collect());
    }

    pub(in crate::layer) fn vary_on(&mut self, names: impl IntoIterator<Item = HeaderName>) {
        for name in names {
            if !self.holds_field(&name) {
                let facet = facet_name("field", name.as_str());
                self.fields.push((name, facet));
            }
        }
    }

    pub(in crate::layer) fn add_variant(&mut self, variant: impl Variant) {
        let facet = facet_name("variant", variant.name());
        self.variants.push((Arc::new(variant), facet));
    }

    pub(in crate::layer) fn trust(&mut self, proxies: TrustedProxies) {
        self.proxies = proxies;
    }

    pub(in crate::layer) fn narrow(&mut self) {
        self.narrow = true;
    }

    /// What a request asks for.
    pub(in crate::layer) fn target<'r>(&'r self, request: View<'r>) -> RequestTarget<'r> {
        let extensions = request.extensions;
        let is_plain = !request.given.claims
            && self.is_nothing_declared()
            && self.fields.is_empty()
            && !Place::is_inside(extensions)
            && is_nested(request.uri, request.nested, extensions)
            && extensions.get::<Language>().is_none()
            && extensions.get::<TimeZone>().is_none();
        if !is_plain {
            return self.target_of_more(request);
        }
        let scheme = scheme_of(request.uri);
        RequestTarget {
            authority: authority(request.uri, request.headers, &scheme),
            scheme,
            query: Query::Whole,
            cookies: Vec::new(),
            facets: Vec::new(),
            resolved: false,
            bypass: None,
        }
    }

    /// The same, of a request that may be selected by more than its URI.
    fn target_of_more<'r>(&'r self, request: View<'r>) -> RequestTarget<'r> {
        let View {
            uri,
            nested,
            headers,
            extensions,
            given,
        } = request;
        let claims = if given.claims {
            Claims::find(headers)
        } else {
            Claims::default()
        };
        let trusted = self.proxies.trusts(|| peer(extensions));
        let origin = if trusted {
            claims.origin()
        } else {
            Origin::default()
        };
        let scheme = origin.scheme.map_or_else(|| scheme_of(uri), Cow::from);
        let authority = match origin.authority {
            Some(claimed) => Some(lower_case(without_default_port(claimed, &scheme))),
            None => authority(uri, headers, &scheme),
        };
        let declared = |name: &'r String| Facet::new(name, cookies::value(headers, name));
        let cookies = self.cookies.as_ref();
        let cookies = cookies.map(|names| names.iter().map(declared).collect());
        // The values of variants come first: `show` finds them there.
        let mut facets = Vec::new();
        for (variant, name) in &self.variants {
            let head = Head::new(uri, headers, extensions);
            facets.push(Facet::new(&**name, Some(variant.value(&head))));
        }
        for (field, name) in &self.fields {
            facets.push(Facet::new(&**name, lines(headers, field)));
        }
        if let Some(language) = extensions.get::<Language>() {
            facets.push(Facet::new("language", Some(language.as_str())));
        }
        if let Some(zone) = extensions.get::<TimeZone>() {
            facets.push(Facet::new("time-zone", Some(zone.as_str())));
        }
        let depth = Place::depth(extensions);
        if depth > 0 {
            // With one cache and prefix, an outer layer would serve what is behind a gate, or has been changed since.
            facets.push(Facet::new("inside", Some(depth.to_string())));
        }
        let mut rewritten = None;
        if !is_nested(uri, nested, extensions) {
            let nested_at = nested_at(extensions);
            facets.push(Facet::new("uri", Some(format!("{nested_at} {nested}"))));
            // What was stripped for a parameter is not known.
            rewritten = nested_at.contains('{').then_some(Refusal::RewrittenUri);
        }
        if !self.narrow {
            facets.extend(claims.facets(trusted.then_some(&*scheme)));
        }
        let upgrades = self.narrow && headers.contains_key(UPGRADE);
        RequestTarget {
            scheme,
            authority,
            query: self.query.apply(uri.query()),
            cookies: cookies.unwrap_or_default(),
            facets,
            // Whoever claims nothing shares the pages that proxies ask for, and makes the same.
            resolved: trusted
                || (!self.proxies.is_none() && (self.narrow || !claims.is_on_origin())),
            bypass: if claims.method {
                Some(Refusal::MethodOverride)
            } else {
                rewritten.or(upgrades.then_some(Refusal::Upgrade))
            },
        }
    }

    /// What of a target no field of the request says, and so no `Vary` can name.
    pub(in crate::layer) fn unnamed<'t>(
        &'t self,
        target: &'t RequestTarget<'_>,
    ) -> impl Iterator<Item = &'t Facet<'t>> {
        let places = target.facets.iter().enumerate();
        let unnamed = places.filter(|(place, facet)| match self.variants.get(*place) {
            Some((variant, _)) => variant.fields().is_empty(),
            None => matches!(&*facet.name, "uri" | "language" | "time-zone"),
        });
        unnamed.map(|(_, facet)| facet)
    }

    /// What a request says that bears on sharing: nothing that the handler does not see.
    pub(in crate::layer) fn facts(&self, given: Given) -> RequestFacts {
        let hidden = || self.narrow || self.is_normalised(&AUTHORIZATION);
        RequestFacts {
            authorization: given.authorization && (!hidden() || self.holds_field(&AUTHORIZATION)),
            undeclared_cookies: given.cookies && !self.covers(&COOKIE),
        }
    }

    /// Whether a response that names `name` in its `Vary` depends on nothing but the key by that.
    pub(in crate::layer) fn covers(&self, name: &HeaderName) -> bool {
        if name == COOKIE {
            return self.cookies.is_some() || self.narrow || self.holds_field(name);
        }
        self.narrow || self.holds_field(name) || self.is_normalised(name)
    }

    /// Whether the layer selects responses by fields of requests.
    pub(in crate::layer) fn names_fields(&self) -> bool {
        let by_cookies = self.cookies.as_ref().is_some_and(|names| !names.is_empty());
        let mut variants = self.variants.iter();
        by_cookies
            || !self.fields.is_empty()
            || variants.any(|(variant, _)| !variant.fields().is_empty())
    }

    /// Adds to the `Vary` of a response what the layer itself selects it by.
    pub(in crate::layer) fn patch_vary(&self, headers: &mut HeaderMap) {
        let cookies = self
            .cookies
            .iter()
            .filter(|names| !names.is_empty())
            .map(|_| COOKIE);
        let fields = self.fields.iter().map(|(name, _)| name.clone());
        let variants = self
            .variants
            .iter()
            .flat_map(|(variant, _)| variant.fields().iter().cloned());
        if self.names_fields() {
            patch_vary(headers, fields.chain(variants).chain(cookies));
        }
    }

    /// Whether all requests are shown as they came.
    pub(in crate::layer) fn is_nothing_declared(&self) -> bool {
        self.query.is_whole()
            && self.cookies.is_none()
            && self.variants.is_empty()
            && self.proxies.is_none()
            && !self.narrow
    }

    pub(super) fn holds_field(&self, name: &HeaderName) -> bool {
        self.fields.iter().any(|(field, _)| field == name)
    }

    /// Whether a variant stands for the field.
    fn is_normalised(&self, name: &HeaderName) -> bool {
        let mut variants = self.variants.iter();
        variants.any(|(variant, _)| variant.fields().contains(name))
    }
}

/// By which a URI is asked for that nobody claims to have rewritten.
fn scheme_of(uri: &Uri) -> Cow<'static, str> {
    match uri.scheme_str() {
        Some("https") => "https".into(),
        Some("http") | None => "http".into(),
        Some(scheme) => scheme.to_owned().into(),
    }
}
