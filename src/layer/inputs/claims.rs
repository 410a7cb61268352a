//! Fields in which proxies, or clients that pose as them, claim what was asked for.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use super::cookies::text;
use crate::key::Facet;
use crate::layer::target::joined;

pub(super) const FORWARDED_HOST: &str = "x-forwarded-host";
pub(super) const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_PORT: &str = "x-forwarded-port";

/// A field, and the name of the facet that it is.
macro_rules! claim {
    ($field:literal) => {
        ($field, concat!("claim:", $field))
    };
}

/// The claims: first those of scheme and authority, in one spelling or another; then what else some handlers and
/// frameworks go by.
const CLAIMS: [(&str, &str); 24] = [
    claim!("forwarded"),
    claim!("front-end-https"),
    claim!("x-forwarded-host"),
    claim!("x-forwarded-proto"),
    claim!("x-forwarded-protocol"),
    claim!("x-forwarded-scheme"),
    claim!("x-forwarded-server"),
    claim!("x-forwarded-ssl"),
    claim!("x-host"),
    claim!("x-http-host-override"),
    claim!("x-original-host"),
    claim!("x-scheme"),
    claim!("x-url-scheme"),
    claim!("x-envoy-original-path"),
    claim!("x-forwarded-base"),
    claim!("x-forwarded-path"),
    claim!("x-forwarded-port"),
    claim!("x-forwarded-prefix"),
    claim!("x-forwarded-uri"),
    claim!("x-original-uri"),
    claim!("x-original-url"),
    claim!("x-proxy-url"),
    claim!("x-rewrite-url"),
    claim!("x-script-name"),
];

/// How many of them are of scheme and authority: a trusted proxy's are resolved.
const ORIGIN: usize = 13;

/// Another method than that of the request.
const METHODS: &[&str] = &[
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Which claims a request makes: found in one pass over its fields.
#[derive(Debug, Default)]
pub(super) struct Claims<'h> {
    /// Their lines, by the place of each among [`CLAIMS`].
    made: Vec<(usize, &'h HeaderValue)>,
    pub(super) method: bool,
}

/// Scheme and authority as a trusted proxy gives them.
#[derive(Debug, Default)]
pub(super) struct Origin<'h> {
    pub(super) scheme: Option<&'static str>,
    pub(super) authority: Option<&'h str>,
}

impl<'h> Claims<'h> {
    pub(super) fn find(headers: &'h HeaderMap) -> Self {
        let mut claims = Self::default();
        for (name, line) in headers {
            let name = name.as_str();
            if !name.starts_with(['x', 'f']) {
                continue;
            }
            if let Some(claim) = CLAIMS.iter().position(|(field, _)| *field == name) {
                claims.made.push((claim, line));
            } else if METHODS.contains(&name) {
                claims.method = true;
            }
        }
        // Stable: the lines of one field stay in order.
        claims.made.sort_by_key(|(claim, _)| *claim);
        claims
    }

    /// Whether it says anything of scheme and authority.
    pub(super) fn is_on_origin(&self) -> bool {
        self.facets(None)
            .any(|facet| CLAIMS[..ORIGIN].iter().any(|(_, name)| *name == facet.name))
    }

    /// What the last hop claims: the trusted peer itself. `X-Forwarded-Proto` and
    /// `X-Forwarded-Host` go before `Forwarded`. What is no scheme or authority does not count.
    pub(super) fn origin(&self) -> Origin<'h> {
        let in_forwarded = |wanted: &str| {
            self.last("forwarded")?.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                let is_wanted = name.trim().eq_ignore_ascii_case(wanted);
                is_wanted.then(|| value.trim().trim_matches('"'))
            })
        };
        let scheme = self.last(FORWARDED_PROTO).or_else(|| in_forwarded("proto"));
        let authority = self.last(FORWARDED_HOST).or_else(|| in_forwarded("host"));
        let known = |scheme: &str| {
            let mut known = ["http", "https"].into_iter();
            known.find(|known| known.eq_ignore_ascii_case(scheme))
        };
        Origin {
            scheme: scheme.and_then(known),
            authority: authority
                .filter(|authority| !authority.contains(['@', '%']))
                .filter(|authority| authority.parse::<Authority>().is_ok()),
        }
    }

    /// The last member of a list over all lines of a field.
    fn last(&self, field: &str) -> Option<&'h str> {
        let mut lines = self.made.iter().rev();
        let (_, line) = lines.find(|(claim, _)| CLAIMS[*claim].0 == field)?;
        let line = line.to_str().ok()?;
        let member = line.rfind(',').map_or(line, |comma| &line[comma + 1..]);
        let member = member.trim_ascii();
        (!member.is_empty()).then_some(member)
    }

    /// All claims as parts of the key: whoever makes them has pages of their own. Of a trusted
    /// proxy's only those that are not resolved.
    pub(super) fn facets(&self, resolved: Option<&str>) -> impl Iterator<Item = Facet<'h>> {
        let claims = self.made.chunk_by(|(one, _), (other, _)| one == other);
        claims.filter_map(move |made| {
            let claim = made.first()?.0;
            let lines = made.iter().map(|(_, line)| *line);
            let (field, facet) = CLAIMS[claim];
            let value = match field {
                _ if claim < ORIGIN && resolved.is_some() => return None,
                "forwarded" => origin_of_forwarded(lines)?,
                FORWARDED_PORT
                    if resolved.is_some_and(|scheme| are_default(lines.clone(), scheme)) =>
                {
                    return None;
                }
                _ => as_text(lines)?,
            };
            Some(Facet::new(facet, Some(value)))
        })
    }
}

/// Takes out what has been resolved.
pub(super) fn remove_resolved(headers: &mut HeaderMap, scheme: &str) {
    for (field, _) in &CLAIMS[..ORIGIN] {
        headers.remove(*field);
    }
    if are_default(headers.get_all(FORWARDED_PORT).into_iter(), scheme) {
        headers.remove(FORWARDED_PORT);
    }
}

/// All lines of a field, as text that no other lines make.
pub(super) fn lines<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
    as_text(headers.get_all(name).into_iter())
}

fn as_text<'h>(lines: impl Iterator<Item = &'h HeaderValue>) -> Option<Cow<'h, str>> {
    joined(lines.map(|line| line.as_bytes().into()), b"\n").map(text)
}

/// Whether these ports are the one that the scheme has by default.
fn are_default<'h>(mut ports: impl Iterator<Item = &'h HeaderValue>, scheme: &str) -> bool {
    let default = if scheme == "https" { "443" } else { "80" };
    ports.all(|port| port == default)
}

/// What `Forwarded` says but for who sent and who forwarded the request: each client has another.
/// `None` if that is nothing.
fn origin_of_forwarded<'h>(lines: impl Iterator<Item = &'h HeaderValue>) -> Option<Cow<'h, str>> {
    let mut kept = Vec::new();
    let mut any = false;
    for line in lines {
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

/// A name of a host, in lower case.
pub(super) fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
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

    fn facets(lines: &[(&'static str, &'static str)]) -> Vec<Facet<'static>> {
        let headers = fields(lines);
        let claims = Claims::find(&headers);
        claims.facets(None).map(Facet::into_owned).collect()
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
            let headers = fields(lines);
            let origin = Claims::find(&headers).origin();
            (origin.scheme, origin.authority.map(str::to_owned))
        };
        let is = |scheme, authority: &str| (Some(scheme), Some(authority.to_owned()));
        assert_eq!(
            origin(&[
                ("x-forwarded-proto", "http, HTTPS"),
                ("x-forwarded-host", "evil, A.test:8443")
            ]),
            is("https", "A.test:8443")
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
