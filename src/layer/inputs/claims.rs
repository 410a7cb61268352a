//! Fields in which proxies, or clients that pose as them, claim what was asked for.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use super::cookies::text;
use crate::key::Facet;

pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: &str = "x-forwarded-port";

/// The scheme and the authority, in one spelling or another: a trusted proxy's are resolved.
const ORIGIN: &[&str] = &[
    "forwarded",
    "front-end-https",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-host",
    "x-http-host-override",
    "x-original-host",
    "x-scheme",
    "x-url-scheme",
];

/// What else some handlers and frameworks go by.
const OTHER: &[&str] = &[
    "x-envoy-original-path",
    "x-forwarded-base",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-uri",
    "x-original-uri",
    "x-original-url",
    "x-proxy-url",
    "x-rewrite-url",
    "x-script-name",
];

/// Another method than that of the request.
const METHODS: &[&str] = &[
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Which claims a request makes: found in one pass over the names of its fields.
#[derive(Debug, Default)]
pub(super) struct Claims {
    origin: Vec<&'static str>,
    other: Vec<&'static str>,
    pub(super) method: bool,
}

/// Scheme and authority as a trusted proxy gives them.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) scheme: Option<&'static str>,
    pub(super) authority: Option<String>,
}

impl Claims {
    pub(super) fn find(headers: &HeaderMap) -> Self {
        let mut claims = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            if !name.starts_with(['x', 'f']) {
                continue;
            }
            let among = |names: &[&'static str]| names.iter().copied().find(|known| *known == name);
            if let Some(name) = among(ORIGIN) {
                claims.origin.push(name);
            } else if let Some(name) = among(OTHER) {
                claims.other.push(name);
            } else if METHODS.contains(&name) {
                claims.method = true;
            }
        }
        claims.origin.sort_unstable();
        claims.other.sort_unstable();
        claims
    }

    /// Whether it says anything of scheme and authority.
    pub(super) fn is_on_origin(&self) -> bool {
        !self.origin.is_empty()
    }

    /// All claims as parts of the key: whoever makes them has pages of their own. Of a trusted
    /// proxy's only those that are not resolved.
    pub(super) fn facets(&self, headers: &HeaderMap, resolved: Option<&str>) -> Vec<Facet> {
        let origin = self.origin.iter().filter(|_| resolved.is_none());
        let other = self.other.iter().filter(|name| {
            !resolved
                .is_some_and(|scheme| **name == FORWARDED_PORT && is_default_port(headers, scheme))
        });
        origin
            .chain(other)
            .filter_map(|name| {
                let value = if *name == FORWARDED {
                    origin_of_forwarded(headers)?
                } else {
                    lines(headers, *name)?
                };
                Some(Facet::new(format!("claim:{name}"), Some(value)))
            })
            .collect()
    }
}

/// Takes out what has been resolved.
pub(super) fn remove_resolved(headers: &mut HeaderMap, scheme: &str) {
    for name in ORIGIN {
        headers.remove(*name);
    }
    if is_default_port(headers, scheme) {
        headers.remove(FORWARDED_PORT);
    }
}

/// All lines of a field, as text that no other lines make.
pub(super) fn lines<N: http::header::AsHeaderName>(headers: &HeaderMap, name: N) -> Option<String> {
    let mut lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    let joined = lines.fold(Cow::Borrowed(first), |joined, line| {
        let mut joined = joined.into_owned();
        joined.push(b'\n');
        joined.extend_from_slice(line);
        Cow::Owned(joined)
    });
    Some(text(joined))
}

fn is_default_port(headers: &HeaderMap, scheme: &str) -> bool {
    let default = if scheme == "https" { "443" } else { "80" };
    let mut ports = headers.get_all(FORWARDED_PORT).into_iter();
    ports.all(|port| port == default)
}

/// What `Forwarded` says but for who sent and who forwarded the request: each client has another.
/// `None` if that is nothing.
fn origin_of_forwarded(headers: &HeaderMap) -> Option<String> {
    let mut kept = Vec::new();
    let mut any = false;
    for line in headers.get_all(FORWARDED) {
        kept.push(b'\n');
        // Without regard to quotes: not every handler regards them.
        for pair in line
            .as_bytes()
            .split_inclusive(|byte| matches!(byte, b',' | b';'))
        {
            let (pair, end) = match pair {
                [pair @ .., end @ (b',' | b';')] => (pair, Some(*end)),
                pair => (pair, None),
            };
            if !pair.trim_ascii().is_empty() && !is_address(pair) {
                any = true;
                kept.extend_from_slice(pair);
            }
            kept.extend(end);
        }
    }
    any.then(|| text(Cow::Owned(kept)))
}

/// Whether it is `for=` or `by=`, whole, and nothing else however it is read.
fn is_address(pair: &[u8]) -> bool {
    let pair = pair.trim_ascii();
    let Some(end) = pair.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (name, value) = (&pair[..end], &pair[end + 1..]);
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    let value = quoted.unwrap_or(value);
    (name.eq_ignore_ascii_case(b"for") || name.eq_ignore_ascii_case(b"by"))
        && value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".:[]_-%".contains(byte))
}

impl Origin {
    /// What the last hop claims: the trusted peer itself. `X-Forwarded-Proto` and
    /// `X-Forwarded-Host` go before `Forwarded`. What is no scheme or authority does not count.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let forwarded = last(headers, &FORWARDED);
        let in_forwarded = |wanted: &str| {
            forwarded?.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                let is_wanted = name.trim().eq_ignore_ascii_case(wanted);
                is_wanted.then(|| value.trim().trim_matches('"'))
            })
        };
        let scheme = last(headers, &FORWARDED_PROTO).or_else(|| in_forwarded("proto"));
        let authority = last(headers, &FORWARDED_HOST).or_else(|| in_forwarded("host"));
        Self {
            scheme: scheme.and_then(|scheme| {
                let known = ["http", "https"];
                known
                    .into_iter()
                    .find(|known| known.eq_ignore_ascii_case(scheme))
            }),
            authority: authority
                .filter(|authority| !authority.contains('@'))
                .filter(|authority| authority.parse::<Authority>().is_ok())
                .map(str::to_ascii_lowercase),
        }
    }
}

/// The last member of a list over all its lines.
fn last<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let line = headers.get_all(name).into_iter().next_back()?;
    let member = line.to_str().ok()?.rsplit(',').next()?.trim();
    (!member.is_empty()).then_some(member)
}

/// The name of a facet, made once.
pub(super) fn facet_name(kind: &str, name: &str) -> Arc<str> {
    format!("{kind}:{name}").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::semantics::tests::fields;

    fn facets(lines: &[(&'static str, &'static str)]) -> Vec<Facet> {
        let headers = fields(lines);
        Claims::find(&headers).facets(&headers, None)
    }

    #[test]
    fn claims_are_kept_apart_and_addresses_do_not_count() {
        let all = [
            facets(&[]),
            facets(&[("x-forwarded-host", "a")]),
            facets(&[("x-forwarded-proto", "a")]),
            facets(&[("x-forwarded-host", "a, b")]),
            facets(&[("x-forwarded-host", "a"), ("x-forwarded-host", "b")]),
            facets(&[("x-rewrite-url", "/a")]),
            facets(&[("forwarded", "host=a")]),
            facets(&[("forwarded", "proto=a")]),
            facets(&[("forwarded", "for=1.2.3.4, host=a")]),
            facets(&[("forwarded", "for=\"x;host=a\"")]),
            facets(&[("forwarded", "for=\"x, host=a")]),
            facets(&[("forwarded", "for = 1.2.3.4")]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(
                all.iter().skip(index + 1).all(|other| one != other),
                "{one:?}"
            );
        }
        for forwarded in ["for=1.2.3.4", "For=\"[::1]:80\";by=_hidden, for=9.9.9.9"] {
            assert_eq!(facets(&[("forwarded", forwarded)]), []);
        }
        assert_eq!(facets(&[("x-forwarded-for", "1.2.3.4")]), []);
        assert_eq!(
            facets(&[("forwarded", "for=1.1.1.1;host=a")]),
            facets(&[("forwarded", "for=2.2.2.2;host=a")])
        );
        let order = [("x-forwarded-proto", "a"), ("x-forwarded-host", "b")];
        assert_eq!(facets(&order), facets(&[order[1], order[0]]));
    }

    #[test]
    fn the_last_hop_gives_the_origin() {
        let origin = |lines: &[(&'static str, &'static str)]| {
            let origin = Origin::of(&fields(lines));
            (origin.scheme, origin.authority)
        };
        let is = |scheme, authority: &str| (Some(scheme), Some(authority.to_owned()));
        assert_eq!(
            origin(&[
                ("x-forwarded-proto", "http, HTTPS"),
                ("x-forwarded-host", "evil, A.test:8443")
            ]),
            is("https", "a.test:8443")
        );
        assert_eq!(
            origin(&[(
                "forwarded",
                "host=evil;proto=http, for=x; Host=\"a.test\"; proto=https"
            )]),
            is("https", "a.test")
        );
        assert_eq!(
            origin(&[
                ("forwarded", "host=b.test;proto=http"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "a.test"),
            ]),
            is("https", "a.test")
        );
        for bad in ["user@a.test", "a b", "a/b", "", "a,"] {
            assert_eq!(origin(&[("x-forwarded-host", bad)]), (None, None), "{bad}");
        }
        assert_eq!(origin(&[("x-forwarded-proto", "ftp")]), (None, None));
    }
}
