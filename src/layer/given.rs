//! A request without its body, and which of its fields have a say in what is done with it.

use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Extensions, Request, Uri};

use super::target::original_uri;

/// A request as a layer sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'r> {
    /// The full one, also inside nested routers.
    pub(super) uri: &'r Uri,
    /// That which the inner service gets.
    pub(super) nested: &'r Uri,
    pub(super) headers: &'r HeaderMap,
    pub(super) extensions: &'r Extensions,
    pub(super) given: Given,
}

impl<'r> View<'r> {
    pub(super) fn of<B>(request: &'r Request<B>) -> Self {
        Self::new(request.uri(), request.headers(), request.extensions())
    }

    /// Of a request for this URI, which is that in the request.
    pub(super) fn new(nested: &'r Uri, headers: &'r HeaderMap, extensions: &'r Extensions) -> Self {
        Self {
            uri: original_uri(nested, extensions),
            nested,
            headers,
            extensions,
            given: Given::of(headers),
        }
    }
}

/// Which of the fields a request has that have a say, found in one go over all of them.
#[derive(Clone, Copy, Debug, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a field, or is not there"
)]
pub(super) struct Given {
    pub(super) authorization: bool,
    pub(super) cookies: bool,
    /// One that makes it conditional.
    pub(super) conditions: bool,
    pub(super) range: bool,
    /// One that announces a body.
    pub(super) body: bool,
    /// One that may be a claim of what was asked for, as by a proxy.
    pub(super) claims: bool,
}

impl Given {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut given = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "authorization" => given.authorization = true,
                "cookie" => given.cookies = true,
                "if-match" | "if-modified-since" | "if-none-match" | "if-unmodified-since" => {
                    given.conditions = true;
                }
                "range" => given.range = true,
                "content-length" => {
                    let length = headers.get(CONTENT_LENGTH);
                    given.body |= length.is_some_and(|length| length != "0");
                }
                "transfer-encoding" => given.body = true,
                name => given.claims |= name.starts_with('x') | name.starts_with('f'),
            }
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::CONDITIONS;
    use super::*;
    use crate::semantics::tests::fields;

    #[test]
    fn each_field_is_found_among_others() {
        let given = |name: &'static str, value: &'static str| {
            let given = Given::of(&fields(&[("accept", "*/*"), (name, value), ("host", "a")]));
            let Given {
                authorization,
                cookies,
                conditions,
                range,
                body,
                claims,
            } = given;
            [authorization, cookies, conditions, range, body, claims]
        };
        let only = |place: usize| std::array::from_fn(|index| index == place);
        assert_eq!(given("authorization", "Basic YQ=="), only(0));
        assert_eq!(given("cookie", "a=1"), only(1));
        for name in &CONDITIONS {
            let headers = [(name.clone(), http::HeaderValue::from_static("*"))];
            assert!(
                Given::of(&headers.into_iter().collect()).conditions,
                "{name}"
            );
        }
        assert_eq!(given("range", "bytes=0-1"), only(3));
        assert_eq!(given("content-length", "1"), only(4));
        assert_eq!(given("transfer-encoding", "chunked"), only(4));
        assert_eq!(given("forwarded", "host=a"), only(5));
        assert_eq!(given("x-forwarded-host", "a"), only(5));
        assert_eq!(given("content-length", "0"), [false; 6]);
        assert_eq!(given("if-range", "\"a\""), [false; 6]);
    }
}
