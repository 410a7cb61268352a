//! What a request asks for: the material of its key.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Uri};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::inputs::{PeerAddr, Query};
use super::layer::Config;
use super::stored::Fingerprint;
use crate::error::Result;
use crate::key::{Facet, Key, PageTarget, VaryValue, all_bytes, selection};
use crate::semantics::storable::Refusal;
use crate::semantics::vary::is_list;

/// The target of a request beside its path: what its key is made of. It is made by
/// [`Inputs::target`](super::inputs::Inputs::target).
#[derive(Debug)]
pub(super) struct RequestTarget<'r> {
    pub(super) scheme: Cow<'static, str>,
    pub(super) authority: Option<Cow<'r, str>>,
    pub(super) query: Query,
    pub(super) cookies: Vec<Facet<'r>>,
    pub(super) facets: Vec<Facet<'r>>,
    /// Whether the handler is shown scheme and authority as a proxy would claim them.
    pub(super) resolved: bool,
    /// Why the request is not for the cache, if it is not.
    pub(super) bypass: Option<Refusal>,
}

impl RequestTarget<'_> {
    /// The same, apart from the request.
    pub(super) fn into_owned(self) -> RequestTarget<'static> {
        let owned = |facets: Vec<Facet<'_>>| facets.into_iter().map(Facet::into_owned).collect();
        RequestTarget {
            authority: self
                .authority
                .map(|authority| authority.into_owned().into()),
            cookies: owned(self.cookies),
            facets: owned(self.facets),
            ..self
        }
    }

    /// The final key of the primary entry. `uri` is the one the target was made from.
    pub(super) fn primary(&self, uri: &Uri, config: &Config) -> Result<Key> {
        let page = self.page(uri, config);
        let keys = &config.page_keys;
        config.cache.page_key(|key| keys.primary(&page, key))
    }

    /// What the keys of the primary entries of the page and of those below it begin with.
    pub(super) fn prefix(&self, uri: &Uri, config: &Config) -> Option<String> {
        config.page_keys.prefix(&self.page(uri, config))
    }

    /// The final key of the variant for the `values` of a request.
    pub(super) fn variant(
        &self,
        uri: &Uri,
        config: &Config,
        values: &[VaryValue<'_>],
        generation: u64,
    ) -> Result<Key> {
        let page = self.page(uri, config);
        let keys = &config.page_keys;
        let cache = &config.cache;
        cache.page_key(|key| keys.variant(&page, values, generation, key))
    }

    /// The absolute URI of the page, if the request names one authority.
    pub(super) fn absolute(&self, uri: &Uri) -> Option<Uri> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let builder = Uri::builder().scheme(&*self.scheme);
        let builder = builder.authority(self.sole_authority()?);
        builder.path_and_query(path).build().ok()
    }

    /// A digest of what selects the page beside its URI; `None` if nothing does.
    pub(super) fn selection(&self) -> Fingerprint {
        selection(&self.cookies, &self.facets)
    }

    /// Whether it claims what only a trusted proxy could say.
    pub(super) fn claims(&self) -> bool {
        self.facets
            .iter()
            .any(|facet| facet.name.starts_with("claim:"))
    }

    /// The authority, if the request names only one.
    pub(super) fn sole_authority(&self) -> Option<&str> {
        let authority = self.authority.as_deref()?;
        // Dividers of several, escapes and users: no name of a host has them.
        (!authority.contains([',', '%', '@'])).then_some(authority)
    }

    /// What page keys are made of.
    pub(super) fn page<'p>(&'p self, uri: &'p Uri, config: &'p Config) -> PageTarget<'p> {
        PageTarget {
            key_prefix: &config.key_prefix,
            scheme: &self.scheme,
            authority: self.authority.as_deref(),
            path: uri.path(),
            query: match &self.query {
                Query::Whole => uri.query(),
                Query::Reduced(query) => query.as_deref(),
            },
            cookies: &self.cookies,
            facets: &self.facets,
        }
    }
}

/// The URI as the client sent it: a nested router strips its prefix off the one in the request.
pub(super) fn original_uri<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = extensions.get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    let _ = extensions;
    uri
}

/// Whether nested routers, which strip what they are nested at, make this of the full URI. If not, somebody has
/// rewritten the one or the other, and the full one does not say what is asked for.
pub(super) fn is_nested(full: &Uri, nested: &Uri, extensions: &Extensions) -> bool {
    if std::ptr::eq(full, nested) {
        return true;
    }
    let nested_at = nested_at(extensions);
    let path = if nested_at.is_empty() {
        Some(full.path())
    } else {
        within(full.path(), nested_at)
    };
    full.query() == nested.query()
        && path == Some(nested.path())
        && full.scheme() == nested.scheme()
        && full.authority() == nested.authority()
}

/// What nested routers have stripped, as it was declared.
#[cfg(feature = "axum")]
pub(super) fn nested_at(extensions: &Extensions) -> &str {
    let path = extensions.get::<axum::extract::NestedPath>();
    path.map_or("", |path| path.as_str().trim_end_matches('/'))
}

/// There are none that could be known.
#[cfg(not(feature = "axum"))]
pub(super) fn nested_at(_: &Extensions) -> &'static str {
    ""
}

/// A path without what routers are nested at; `None` if it does not begin so.
#[inline(never)]
fn within<'p>(path: &'p str, nested_at: &str) -> Option<&'p str> {
    let mut rest = path;
    for declared in nested_at.split('/').skip(1) {
        let inner = rest.strip_prefix('/')?;
        let (segment, after) = inner.split_at(inner.find('/').unwrap_or(inner.len()));
        if segment != declared && !declared.starts_with('{') {
            return None;
        }
        rest = after;
    }
    Some(if rest.is_empty() { "/" } else { rest })
}

/// Changes the URI that [`original_uri`] finds in the extensions.
pub(super) fn rewrite_original_uri(extensions: &mut Extensions, change: impl Fn(&Uri) -> Uri) {
    #[cfg(feature = "axum")]
    if let Some(original) = extensions.get_mut::<axum::extract::OriginalUri>() {
        original.0 = change(&original.0);
    }
    let _ = (extensions, change);
}

/// The address of the peer that sent the request.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    if let Some(peer) = extensions.get::<PeerAddr>() {
        return Some(peer.ip());
    }
    #[cfg(feature = "connect-info")]
    {
        use axum::extract::ConnectInfo;
        let peer = extensions.get::<ConnectInfo<std::net::SocketAddr>>();
        peer.map(|peer| peer.0.ip())
    }
    #[cfg(not(feature = "connect-info"))]
    None
}

/// All lines of a field, joined as one list; those of `Cookie` and `Authorization`, which are no
/// lists, so that no other lines make the same. `None` if there is no line.
pub(super) fn field<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).into_iter();
    let (first, second) = (lines.next()?, lines.next());
    if second.is_none() {
        return Some(first.as_bytes().into());
    }
    let divider: &[u8] = if is_list(name) { b", " } else { b"\n" };
    let lines = headers.get_all(name).into_iter();
    joined(lines.map(|line| line.as_bytes().into()), divider)
}

/// One value as it is, several with the divider between them; `None` if there is none.
pub(super) fn joined<'v>(
    values: impl Iterator<Item = Cow<'v, [u8]>>,
    divider: &[u8],
) -> Option<Cow<'v, [u8]>> {
    values.reduce(|joined, value| {
        let mut joined = joined.into_owned();
        joined.extend_from_slice(divider);
        joined.extend_from_slice(&value);
        joined.into()
    })
}

/// Bytes that stand for themselves are kept; the rest is escaped, so that no two names meet.
const HOST_ESCAPES: &AsciiSet = &CONTROLS.add(b'%').add(b',');

/// Who is asked, in lower case, without the port that the scheme has by default. Where the URI and `Host`
/// disagree, or `Host` comes twice, all of them count: what a handler goes by is not known here.
pub(super) fn authority<'r>(
    uri: &'r Uri,
    headers: &'r HeaderMap,
    scheme: &str,
) -> Option<Cow<'r, str>> {
    let host = headers.get(HOST);
    // Most requests have no field twice: one need not look.
    let has_several =
        headers.len() > headers.keys_len() && headers.get_all(HOST).into_iter().nth(1).is_some();
    match (uri.authority(), host) {
        (None, None) => None,
        (None, Some(host)) if !has_several => Some(host_name(host, scheme)),
        (Some(in_uri), None) => Some(name(in_uri.as_str(), scheme)),
        _ => Some(all_hosts(uri, headers, scheme).into()),
    }
}

/// `a:80` is `a`, by `http`: RFC 9110 section 4.2.3.
pub(super) fn without_default_port<'n>(name: &'n str, scheme: &str) -> &'n str {
    name.strip_suffix(default_port(scheme)).unwrap_or(name)
}

/// Behind the colon; nothing if there is none.
pub(super) fn default_port(scheme: &str) -> &'static str {
    match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    }
}

#[cold]
fn all_hosts(uri: &Uri, headers: &HeaderMap, scheme: &str) -> String {
    let hosts = headers.get_all(HOST).into_iter();
    let mut hosts: Vec<_> = hosts.map(|host| host_name(host, scheme)).collect();
    hosts.dedup();
    if let Some(in_uri) = uri.authority() {
        let in_uri = name(in_uri.as_str(), scheme);
        if hosts[0] != in_uri {
            // No name ends in a bare `%`, so that this is no list of hosts.
            hosts.insert(0, in_uri + "%");
        }
    }
    hosts.join(",")
}

/// Those that a name is made of as it is: neither escaped nor in upper case.
static KEPT: [bool; 256] = {
    let mut kept = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        kept[byte as usize] = !matches!(byte, b'%' | b',' | b'A'..=b'Z');
        byte += 1;
    }
    kept
};

/// The host that a line of `Host` names.
fn host_name<'n>(line: &'n HeaderValue, scheme: &str) -> Cow<'n, str> {
    match line.to_str() {
        Ok(text) => name(text, scheme),
        Err(_) => escaped(line.as_bytes(), scheme).into(),
    }
}

fn name<'n>(text: &'n str, scheme: &str) -> Cow<'n, str> {
    let plain = without_default_port(text, scheme);
    if all_bytes(plain.as_bytes(), |byte| KEPT[usize::from(byte)]) {
        plain.into()
    } else {
        escaped(text.as_bytes(), scheme).into()
    }
}

#[cold]
fn escaped(name: &[u8], scheme: &str) -> String {
    let escaped = percent_encode(name, HOST_ESCAPES).to_string();
    without_default_port(&escaped, scheme).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::header::{ACCEPT, AUTHORIZATION, COOKIE};

    use super::*;
    use crate::semantics::tests::fields;

    fn authority_of(uri: &str, lines: &[(&'static str, &[u8])]) -> Option<String> {
        let (uri, headers) = (uri.parse().unwrap(), fields(lines));
        authority(&uri, &headers, "http").map(Cow::into_owned)
    }

    #[test]
    fn authorities_that_differ_stay_apart() {
        let plain = authority_of("/", &[("host", b"Example.com")]);
        assert_eq!(plain.as_deref(), Some("example.com"));
        assert_eq!(
            authority_of("http://example.com/", &[("host", b"example.com")]),
            plain
        );
        for same in ["example.com:80", "EXAMPLE.com:80"] {
            assert_eq!(authority_of("/", &[("host", same.as_bytes())]), plain);
        }
        assert_eq!(authority_of("/", &[]), None);
        let odd = [
            authority_of("http://example.com/", &[("host", b"evil.com")]),
            authority_of("/", &[("host", b"example.com"), ("host", b"evil.com")]),
            authority_of("/", &[("host", b"example.com,evil.com")]),
            authority_of("/", &[("host", b"a\xff")]),
            authority_of("/", &[("host", b"a\xfe")]),
            authority_of("/", &[("host", b"a%ff")]),
            authority_of("/", &[("host", b"example.com:443")]),
            authority_of("/", &[("host", b"[::80]")]),
            authority_of("/", &[("host", b"[::80]:8080")]),
            plain,
        ];
        for (index, one) in odd.iter().enumerate() {
            assert!(odd.iter().skip(index + 1).all(|other| one != other));
        }
    }

    #[test]
    fn an_authority_is_the_same_in_either_case() {
        let uri = |uri: &str| uri.parse::<Uri>().unwrap();
        let is_nested = |full, nested| is_nested(&uri(full), &uri(nested), &Extensions::new());
        assert!(is_nested(
            "http://Example.com/a?b",
            "http://example.com/a?b"
        ));
        for other in ["http://example.org/a?b", "/a?b", "http://example.com/A?b"] {
            assert!(!is_nested("http://example.com/a?b", other), "{other}");
        }
    }

    #[test]
    fn lines_of_one_field_are_one_list() {
        let two = fields(&[("accept", b"a"), ("accept", b"b")]);
        assert_eq!(field(&two, &ACCEPT).as_deref(), Some(&b"a, b"[..]));
        assert_eq!(field(&two, &HOST), None);
        for (name, text) in [(COOKIE, "cookie"), (AUTHORIZATION, "authorization")] {
            let (two, one) = (
                fields(&[(text, b"a"), (text, b"b")]),
                fields(&[(text, b"a, b")]),
            );
            assert_ne!(field(&two, &name), field(&one, &name));
        }
    }
}
