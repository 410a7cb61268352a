//! Which fields of a response are stored with it.

use http::header::{CONNECTION, HeaderMap, HeaderName};

/// Whether a field is about the connection, or one client, or a passage through a cache.
fn is_never_stored(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "age"
            | "cache-status"
            | "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The fields to store: all but those of the connection and those that `Connection` names,
/// `Set-Cookie`, and what is made anew on every hit: `Age`, `Cache-Status`, `Content-Length`.
///
/// # Specification
///
/// RFC 9111 section 3.1; RFC 9110 section 7.6.1.
pub fn storable_fields(headers: &HeaderMap) -> HeaderMap {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let mut stored = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        if !is_never_stored(name) && !listed.contains(name) {
            stored.append(name.clone(), value.clone());
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn rfc_9111_3_1_fields_of_the_connection_stay_behind() {
        let value = HeaderValue::from_static("x-hop, close");
        let headers: HeaderMap = [
            "connection",
            "x-hop",
            "x-kept",
            "set-cookie",
            "age",
            "content-length",
            "keep-alive",
        ]
        .into_iter()
        .map(|name| (HeaderName::from_static(name), value.clone()))
        .collect();
        let stored = storable_fields(&headers);
        assert_eq!(stored.len(), 1);
        assert!(stored.contains_key("x-kept"));
    }

    #[test]
    fn repeated_fields_keep_their_lines_and_order() {
        let mut headers = HeaderMap::new();
        for link in ["a", "b"] {
            headers.append("link", HeaderValue::from_static(link));
        }
        let stored = storable_fields(&headers);
        let links: Vec<_> = stored.get_all("link").iter().collect();
        assert_eq!(links, ["a", "b"]);
    }

    #[test]
    fn a_field_may_have_more_lines_than_a_map_has_names() {
        let mut headers = HeaderMap::new();
        for _ in 0..1 << 15 {
            headers.append("link", HeaderValue::from_static("a"));
        }
        assert_eq!(storable_fields(&headers).len(), headers.len());
    }
}
