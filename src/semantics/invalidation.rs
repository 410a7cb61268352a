//! Invalidation: what a successful unsafe request makes untrue.

use http::header::{CONTENT_LOCATION, HeaderMap, LOCATION};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri};

/// Whether a method is one that changes nothing: GET, HEAD, OPTIONS or TRACE. Methods not known
/// here are not.
///
/// # Specification
///
/// RFC 9110 section 9.2.1.
pub fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method)
}

/// The absolute URIs to invalidate after a response with this status and these fields to a request
/// of this method and target: the target, and the URIs of its origin that `Location` and
/// `Content-Location` refer to. None, unless the method is unsafe and the status 2xx or 3xx.
///
/// # Specification
///
/// RFC 9111 section 4.4; references are resolved by RFC 3986 section 5.2.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::invalidation::invalidated;
/// use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
///
/// let target = Uri::from_static("http://example.org/posts/new");
/// let mut headers = HeaderMap::new();
/// headers.insert("location", HeaderValue::from_static("7"));
/// let uris = invalidated(&Method::POST, StatusCode::CREATED, &target, &headers);
/// assert_eq!(uris, [target, Uri::from_static("http://example.org/posts/7")]);
/// ```
pub fn invalidated(
    method: &Method,
    status: StatusCode,
    target: &Uri,
    headers: &HeaderMap,
) -> Vec<Uri> {
    if is_safe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut uris = vec![target.clone()];
    for name in [LOCATION, CONTENT_LOCATION] {
        for value in headers.get_all(name) {
            let uri = value.to_str().ok().and_then(|value| resolve(target, value));
            if let Some(uri) = uri
                && same_origin(target, &uri)
                && !uris.contains(&uri)
            {
                uris.push(uri);
            }
        }
    }
    uris
}

/// Whether two absolute URIs have the same scheme, host and port, a default port being the same as
/// none.
///
/// # Specification
///
/// RFC 9110 section 4.3.1.
pub fn same_origin(one: &Uri, other: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let scheme = uri.scheme()?.clone();
        let default = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some((scheme, host, uri.port_u16().or(default)))
    };
    origin(one).is_some_and(|one| Some(one) == origin(other))
}

/// The absolute URI that a reference in a response from `base` means, without its fragment; `None`
/// if `base` is not absolute, or the reference is none.
///
/// # Specification
///
/// RFC 3986 section 5.2.
pub fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme()?, base.authority()?);
    if has_scheme(reference) {
        let uri: Uri = reference.parse().ok()?;
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        return build(scheme, authority, uri.path(), uri.query());
    }
    if let Some(rest) = reference.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = split_query(rest);
        return build(scheme, &authority.parse().ok()?, path, query);
    }
    let (path, query) = split_query(reference);
    if path.is_empty() {
        return build(scheme, authority, base.path(), query.or(base.query()));
    }
    if path.starts_with('/') {
        return build(scheme, authority, path, query);
    }
    let folder = base.path().rfind('/').map_or(0, |slash| slash + 1);
    let path = format!("{}{path}", &base.path()[..folder]);
    build(scheme, authority, &path, query)
}

/// Whether a reference begins with a scheme: a colon before any slash or question mark.
fn has_scheme(reference: &str) -> bool {
    let first = reference.split(['/', '?']).next().unwrap_or_default();
    first.find(':').is_some_and(|colon| colon > 0)
}

fn split_query(reference: &str) -> (&str, Option<&str>) {
    match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    }
}

fn build(scheme: &Scheme, authority: &Authority, path: &str, query: Option<&str>) -> Option<Uri> {
    let mut target = without_dots(path);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let target: PathAndQuery = target.parse().ok()?;
    let uri = Uri::builder()
        .scheme(scheme.clone())
        .authority(authority.clone())
        .path_and_query(target);
    uri.build().ok()
}

/// A path without `.` and `..`: RFC 3986 section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = path
        .split('/')
        .skip(usize::from(path.starts_with('/')))
        .peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            segment => {
                segments.push(segment);
                continue;
            }
        }
        if last {
            segments.push("");
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::fields;

    const BASE: &str = "http://a/b/c/d?q";

    fn of(method: &str, status: u16, lines: &[(&'static str, &str)]) -> Vec<String> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let uris = invalidated(&method, status, &Uri::from_static(BASE), &fields(lines));
        uris.iter().map(Uri::to_string).collect()
    }

    #[test]
    fn rfc_9111_4_4_unsafe_methods_that_succeed() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "get"] {
            assert_eq!(of(method, 200, &[]), [BASE], "{method}");
            assert_eq!(of(method, 303, &[]), [BASE], "{method}");
            for status in [400, 404, 500] {
                assert!(of(method, status, &[]).is_empty(), "{method} {status}");
            }
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
            assert!(
                of(method, 200, &[("location", "/x")]).is_empty(),
                "{method}"
            );
        }
    }

    #[test]
    fn rfc_9111_4_4_locations_of_the_same_origin() {
        for name in ["location", "content-location"] {
            for (value, found) in [
                ("/x?y#z", Some("http://a/x?y")),
                ("http://A:80/x", Some("http://A:80/x")),
                ("//a/x", Some("http://a/x")),
                ("e", Some("http://a/b/c/e")),
                ("http://b/x", None),
                ("https://a/x", None),
                ("http://a:81/x", None),
                ("//b/x", None),
                ("mailto:a@b", None),
                (BASE, None),
                ("", None),
            ] {
                let mut expected = vec![BASE];
                expected.extend(found);
                assert_eq!(of("POST", 201, &[(name, value)]), expected, "{value}");
            }
        }
        let both = [("location", "/x"), ("content-location", "/y")];
        assert_eq!(of("POST", 201, &both), [BASE, "http://a/x", "http://a/y"]);
    }

    #[test]
    fn rfc_3986_5_4_examples() {
        let base = Uri::from_static("http://a/b/c/d;p?q");
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g?y#s", "http://a/b/c/g?y"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g/./h", "http://a/b/c/g/h"),
            ("g/../h", "http://a/b/c/h"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("https://g/x/../y", "https://g/y"),
        ] {
            let uri = resolve(&base, reference).unwrap();
            assert_eq!(uri.to_string(), expected, "{reference}");
        }
        assert_eq!(resolve(&Uri::from_static("/only/a/path"), "/g"), None);
        assert_eq!(resolve(&base, "a b"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_references_never_panic(text: String, path in "[./a?#:]{0,12}") {
            let base = Uri::from_static(BASE);
            let _ = resolve(&base, &text);
            if let Some(uri) = resolve(&base, &path) {
                prop_assert!(uri.scheme().is_some() && uri.path().starts_with('/'));
            }
        }
    }
}
