//! What a handler is shown of a request whose response may be stored: what the key covers.

use http::header::{COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version};

use super::claims::{FORWARDED_HOST, FORWARDED_PROTO, remove_resolved};
use super::cookies;
use super::declared::Inputs;
use super::query::Query;
use crate::layer::given::View;
use crate::layer::target::{
    RequestTarget, default_port, rewrite_original_uri, without_default_port,
};

/// The form of the URI that is shown.
enum Form {
    AsItCame,
    /// Path and query only.
    Origin,
    Absolute(Scheme, Authority),
}

impl Inputs {
    /// Makes of the request what the inner service may see. `target` is that of the request.
    pub(in crate::layer) fn show<B>(&self, target: &RequestTarget<'_>, request: &mut Request<B>) {
        if self.shows_as_it_came(target, View::of(request)) {
            return;
        }
        let headers = std::mem::take(request.headers_mut());
        *request.headers_mut() = self.headers(target, headers);
        let form = self.form(target);
        *request.uri_mut() = shown_uri(request.uri(), target, &form);
        rewrite_original_uri(request.extensions_mut(), |uri| {
            shown_uri(uri, target, &form)
        });
        if self.narrow {
            *request.version_mut() = Version::HTTP_11;
        }
    }

    /// Whether the request is in its normal form already, as nearly all are.
    pub(in crate::layer) fn shows_as_it_came(
        &self,
        target: &RequestTarget<'_>,
        request: View<'_>,
    ) -> bool {
        let Some(name) = target.sole_authority() else {
            return false;
        };
        let mut hosts = request.headers.get_all(HOST).iter();
        let host = hosts.next().filter(|_| hosts.next().is_none());
        let names_it = |uri: &Uri| uri.authority().is_none_or(|own| own.as_str() == name);
        self.is_nothing_declared()
            && !target.resolved
            && host.is_some_and(|host| host == name)
            && names_it(request.nested)
            && names_it(request.uri)
    }

    fn headers(&self, target: &RequestTarget<'_>, mut headers: HeaderMap) -> HeaderMap {
        if self.narrow {
            headers = self.narrowed(headers);
        }
        if target.sole_authority().is_none() {
            lower_case(&mut headers, &target.scheme);
        }
        if self.cookies.is_some() {
            join_cookies(&mut headers);
        }
        for (variant, _) in &self.variants {
            let own = variant.fields().iter();
            for name in own.filter(|name| **name != COOKIE && **name != HOST) {
                headers.remove(name);
            }
        }
        for ((variant, _), facet) in self.variants.iter().zip(&target.facets) {
            variant.normalize(facet.value.as_deref().unwrap_or_default(), &mut headers);
        }
        if self.narrow {
            // Of several names the handler is shown none.
            headers.remove(HOST);
        }
        if target.resolved {
            remove_resolved(&mut headers, &target.scheme);
            if let Ok(scheme) = HeaderValue::from_str(&target.scheme) {
                headers.insert(FORWARDED_PROTO, scheme);
            }
        }
        if let Some(host) = target.sole_authority()
            && let Ok(host) = HeaderValue::from_str(host)
        {
            if target.resolved {
                headers.insert(FORWARDED_HOST, host.clone());
            }
            // As it came it may be missing, or not be in lower case.
            headers.insert(HOST, host);
        }
        headers
    }

    /// The fields that the key holds.
    fn narrowed(&self, mut all: HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        let declared = self.fields.iter().map(|(name, _)| name);
        for name in declared {
            take(name, &all, &mut kept);
        }
        if let Some(names) = &self.cookies
            && !self.holds_field(&COOKIE)
        {
            cookies::keep(&mut all, names);
            take(&COOKIE, &all, &mut kept);
        }
        kept
    }

    fn form(&self, target: &RequestTarget<'_>) -> Form {
        if target.resolved {
            return Form::Origin;
        }
        if !self.narrow {
            return Form::AsItCame;
        }
        let authority = target.sole_authority();
        let scheme = Scheme::try_from(&*target.scheme);
        match (authority.and_then(|text| text.parse().ok()), scheme) {
            // Where the scheme is plain, nothing else tells of it.
            (Some(authority), Ok(scheme)) if scheme != Scheme::HTTP => {
                Form::Absolute(scheme, authority)
            }
            _ => Form::Origin,
        }
    }
}

fn take(name: &HeaderName, from: &HeaderMap, to: &mut HeaderMap) {
    if !to.contains_key(name) {
        for line in from.get_all(name) {
            to.append(name.clone(), line.clone());
        }
    }
}

/// The key holds names of hosts in lower case, without their default port, and repeated ones once.
fn lower_case(headers: &mut HeaderMap, scheme: &str) {
    let hosts = headers.get_all(HOST).into_iter();
    let mut hosts: Vec<_> = hosts
        .filter_map(|host| {
            let host = host.as_bytes();
            let plain = host.strip_suffix(default_port(scheme).as_bytes());
            HeaderValue::from_bytes(&plain.unwrap_or(host).to_ascii_lowercase()).ok()
        })
        .collect();
    hosts.dedup();
    replace(headers, &HOST, hosts);
}

/// HTTP/2 divides cookies into lines: the key does not, and not every handler reads them all.
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<_> = headers.get_all(COOKIE).iter().collect();
    if let [_, _, ..] = lines[..] {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        let joined = HeaderValue::from_bytes(&lines.join(&b"; "[..]));
        replace(headers, &COOKIE, joined.into_iter().collect());
    }
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, lines: Vec<HeaderValue>) {
    headers.remove(name);
    for line in lines {
        headers.append(name.clone(), line);
    }
}

/// The URI in the form that is shown, with what counts of its query.
fn shown_uri(uri: &Uri, target: &RequestTarget<'_>, form: &Form) -> Uri {
    let mut parts = uri.clone().into_parts();
    if let Query::Reduced(query) = &target.query {
        let path = uri.path();
        let text = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        if let Ok(reduced) = PathAndQuery::try_from(text) {
            parts.path_and_query = Some(reduced);
        }
    }
    match form {
        Form::AsItCame => {
            let shown = parts.authority.as_ref().map(|authority| {
                let plain = without_default_port(authority.as_str(), &target.scheme);
                Authority::try_from(plain.to_ascii_lowercase())
            });
            if let Some(Ok(shown)) = shown {
                parts.authority = Some(shown);
            }
        }
        Form::Origin => {
            parts.scheme = None;
            parts.authority = None;
            parts.path_and_query = Some(rooted(parts.path_and_query));
        }
        Form::Absolute(scheme, authority) => {
            parts.scheme = Some(scheme.clone());
            parts.authority = Some(authority.clone());
            parts.path_and_query = Some(rooted(parts.path_and_query));
        }
    }
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// An empty path is `/` (RFC 9110 section 4.2.3), also where nothing else says that there is one.
fn rooted(path: Option<PathAndQuery>) -> PathAndQuery {
    match path {
        Some(path) if path.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{}", path.as_str())).unwrap_or(path)
        }
        Some(path) if path.as_str() != "/" => path,
        Some(_) | None => PathAndQuery::from_static("/"),
    }
}
