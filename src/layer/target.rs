//! What a request asks for: the material of its key.

use std::borrow::Cow;

use http::header::{COOKIE, HOST, HeaderMap};
use http::{Extensions, Uri};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::layer::Config;
use crate::key::{PageTarget, VaryValue};

/// The target of a request, as the key sees it.
#[derive(Debug)]
pub(super) struct RequestTarget<'a> {
    uri: &'a Uri,
    authority: Option<String>,
    cookies: Vec<(String, Option<String>)>,
}

impl<'a> RequestTarget<'a> {
    /// `uri` has to be the full one; see [`original_uri`].
    pub(super) fn new(uri: &'a Uri, headers: &HeaderMap, config: &Config) -> Self {
        let declared = config.cookies.iter().flat_map(|names| names.iter());
        Self {
            uri,
            authority: authority(uri, headers),
            cookies: declared
                .map(|name| (name.clone(), cookie(headers, name)))
                .collect(),
        }
    }

    /// The key of the primary entry.
    pub(super) fn primary(&self, config: &Config) -> String {
        config.page_keys.primary(&self.page(config))
    }

    /// The key of the variant for the `values` of a request.
    pub(super) fn variant(
        &self,
        config: &Config,
        values: &[VaryValue<'_>],
        generation: u64,
    ) -> String {
        config
            .page_keys
            .variant(&self.page(config), values, generation)
    }

    fn page<'p>(&'p self, config: &'p Config) -> PageTarget<'p> {
        PageTarget {
            key_prefix: &config.key_prefix,
            scheme: self.uri.scheme_str().unwrap_or("http"),
            authority: self.authority.as_deref(),
            path: self.uri.path(),
            query: self.uri.query(),
            cookies: &self.cookies,
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

/// All lines of a field, joined as one list; `None` if there is no line.
pub(super) fn field<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).into_iter();
    let first = lines.next()?;
    Some(lines.fold(Cow::Borrowed(first.as_bytes()), |joined, line| {
        let mut joined = joined.into_owned();
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
        Cow::Owned(joined)
    }))
}

/// Bytes that stand for themselves are kept; the rest is escaped, so that no two names meet.
const HOST_ESCAPES: &AsciiSet = &CONTROLS.add(b'%').add(b',');

/// Who is asked, in lower case. Where the URI and `Host` disagree, or `Host` comes twice, all of
/// them count: what a handler goes by is not known here.
fn authority(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let in_uri = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let hosts = headers
        .get_all(HOST)
        .into_iter()
        .map(http::HeaderValue::as_bytes);
    let mut names: Vec<_> = in_uri
        .into_iter()
        .chain(hosts)
        .map(|name| {
            percent_encode(name, HOST_ESCAPES)
                .to_string()
                .to_ascii_lowercase()
        })
        .collect();
    names.dedup();
    (!names.is_empty()).then(|| names.join(","))
}

/// The value of a cookie. If it comes more than once, all values count.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(COOKIE)
        .into_iter()
        .map(|line| String::from_utf8_lossy(line.as_bytes()))
        .flat_map(|line| {
            line.split(';')
                .filter_map(|pair| pair.trim().split_once('='))
                .filter(|(candidate, _)| *candidate == name)
                .map(|(_, value)| value.to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    (!values.is_empty()).then(|| values.join(";"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, HeaderValue::from_bytes(value).unwrap())
            })
            .collect()
    }

    fn authority_of(uri: &str, lines: &[(&'static str, &[u8])]) -> Option<String> {
        authority(&uri.parse().unwrap(), &headers(lines))
    }

    #[test]
    fn authorities_that_differ_stay_apart() {
        let plain = authority_of("/", &[("host", b"Example.com")]);
        assert_eq!(plain.as_deref(), Some("example.com"));
        assert_eq!(
            authority_of("http://example.com/", &[("host", b"example.com")]),
            plain
        );
        assert_eq!(authority_of("/", &[]), None);
        let odd = [
            authority_of("http://example.com/", &[("host", b"evil.com")]),
            authority_of("/", &[("host", b"example.com"), ("host", b"evil.com")]),
            authority_of("/", &[("host", b"example.com,evil.com")]),
            authority_of("/", &[("host", b"a\xff")]),
            authority_of("/", &[("host", b"a\xfe")]),
            authority_of("/", &[("host", b"a%ff")]),
        ];
        assert_eq!(odd[0], odd[1]);
        for (index, one) in odd.iter().enumerate().skip(1) {
            assert!(odd.iter().skip(index + 1).all(|other| one != other));
        }
    }

    #[test]
    fn a_cookie_that_comes_twice_counts_twice() {
        let both = headers(&[("cookie", b"a=1; sid=x; sid=y"), ("cookie", b"sid=z")]);
        assert_eq!(cookie(&both, "sid").as_deref(), Some("x;y;z"));
        assert_eq!(cookie(&both, "id"), None);
        assert_eq!(
            cookie(&headers(&[("cookie", b"sid=")]), "sid").as_deref(),
            Some("")
        );
    }

    #[test]
    fn lines_of_one_field_are_one_list() {
        let two = headers(&[("accept", b"a"), ("accept", b"b")]);
        assert_eq!(field(&two, "accept").as_deref(), Some(&b"a, b"[..]));
        assert_eq!(field(&two, "absent"), None);
    }
}
