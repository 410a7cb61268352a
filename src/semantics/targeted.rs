//! Targeted `Cache-Control`: fields that speak to some caches only, and win there.
//!
//! The dictionary parser is written here: of structured fields a cache needs to know whether the
//! syntax holds, and of the values only integers, booleans and strings.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};

use super::cache_control::parse::{MAX_SECONDS, limit};
use super::cache_control::{CacheControl, Limit, Malformed};

/// `CDN-Cache-Control`, for all caches in front of an origin.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The directives that count for a cache with this target list: those of the first field of the
/// list that is there, valid and not empty; or else those of `Cache-Control`.
///
/// With a targeted field, `Cache-Control` and `Expires` have no say: see
/// [`explicit_lifetime`](super::freshness::explicit_lifetime) for the latter.
///
/// # Errors
///
/// [`Malformed`] if it comes to `Cache-Control`, and that cannot be parsed.
///
/// # Specification
///
/// RFC 9213 section 2.2.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::targeted::{CDN_CACHE_CONTROL, effective};
/// use http::{HeaderMap, HeaderValue};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("cache-control", HeaderValue::from_static("no-store"));
/// headers.insert("cdn-cache-control", HeaderValue::from_static("max-age=60"));
/// let directives = effective(&headers, &[CDN_CACHE_CONTROL]).unwrap();
/// assert_eq!(directives.max_age, Some(60));
/// assert!(!directives.no_store);
/// ```
pub fn effective(headers: &HeaderMap, targets: &[HeaderName]) -> Result<CacheControl, Malformed> {
    match targeted(headers, targets) {
        Some(directives) => Ok(directives),
        None => CacheControl::parse(headers),
    }
}

/// The directives of the first targeted field that counts, if one does.
pub fn targeted(headers: &HeaderMap, targets: &[HeaderName]) -> Option<CacheControl> {
    targets.iter().find_map(|name| parse(headers, name))
}

/// The directives of one targeted field; `None` if it is not there, empty, or no dictionary.
///
/// Parameters and unknown directives are ignored. A lifetime below zero is zero. A lifetime of
/// another type than an integer makes the field one to ignore, unless it forbids to store; a flag
/// of another type than a boolean is set.
///
/// # Specification
///
/// RFC 9213 section 2.1, RFC 9651 section 4.2.2.
pub fn parse(headers: &HeaderMap, name: &HeaderName) -> Option<CacheControl> {
    let mut members: Vec<(&[u8], Value)> = Vec::new();
    for line in headers.get_all(name) {
        let mut parser = Parser(trim_spaces(line.as_bytes()));
        if !parser.0.is_empty() {
            parser.dictionary(&mut members)?;
        }
    }
    if members.is_empty() {
        return None;
    }
    let mut directives = CacheControl::new();
    let mut mistyped = false;
    for (key, value) in members {
        let lifetime = match key {
            b"max-age" => &mut directives.max_age,
            b"s-maxage" => &mut directives.s_maxage,
            b"stale-while-revalidate" => &mut directives.stale_while_revalidate,
            b"stale-if-error" => &mut directives.stale_if_error,
            _ => {
                set(&mut directives, key, value);
                continue;
            }
        };
        match value {
            // Below zero is no u64.
            Value::Integer(seconds) => {
                *lifetime = Some(u64::try_from(seconds).unwrap_or(0).min(MAX_SECONDS));
            }
            _ => mistyped = true,
        }
    }
    let forbids = directives.no_store || directives.private.is_set();
    (!mistyped || forbids).then_some(directives)
}

fn set(directives: &mut CacheControl, key: &[u8], value: Value) {
    let set = value != Value::Boolean(false);
    match key {
        b"no-store" => directives.no_store = set,
        b"no-transform" => directives.no_transform = set,
        b"must-revalidate" => directives.must_revalidate = set,
        b"proxy-revalidate" => directives.proxy_revalidate = set,
        b"must-understand" => directives.must_understand = set,
        b"immutable" => directives.immutable = set,
        b"public" => directives.public = set,
        b"no-cache" if set => limit(&mut directives.no_cache, value.into_text().map(Cow::Owned)),
        b"no-cache" => directives.no_cache = Limit::Unset,
        b"private" if set => limit(&mut directives.private, value.into_text().map(Cow::Owned)),
        b"private" => directives.private = Limit::Unset,
        _ => {}
    }
}

/// A value, as far as directives have such ones.
#[derive(Debug, PartialEq, Eq)]
enum Value {
    Integer(i64),
    Boolean(bool),
    Text(String),
    Other,
}

impl Value {
    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// What is still to be parsed.
struct Parser<'a>(&'a [u8]);

impl<'a> Parser<'a> {
    fn dictionary(&mut self, members: &mut Vec<(&'a [u8], Value)>) -> Option<()> {
        loop {
            let key = self.key()?;
            let value = if self.skip(b'=') {
                self.value()?
            } else {
                Value::Boolean(true)
            };
            self.parameters()?;
            members.retain(|(known, _)| *known != key);
            members.push((key, value));
            self.optional_space();
            if self.0.is_empty() {
                return Some(());
            }
            self.skip(b',').then_some(())?;
            self.optional_space();
        }
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        let first = *self.0.first()?;
        (first.is_ascii_lowercase() || first == b'*').then_some(())?;
        Some(self.take(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        }))
    }

    fn value(&mut self) -> Option<Value> {
        if !self.skip(b'(') {
            return self.bare_item();
        }
        loop {
            self.take(|byte| byte == b' ');
            if self.skip(b')') {
                return Some(Value::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            matches!(self.0.first(), Some(b' ' | b')')).then_some(())?;
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.skip(b';') {
            self.take(|byte| byte == b' ');
            self.key()?;
            if self.skip(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn bare_item(&mut self) -> Option<Value> {
        match *self.0.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string().map(Value::Text),
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                self.take(|byte| {
                    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
                });
                Some(Value::Other)
            }
            b':' => {
                self.skip(b':');
                self.take(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.skip(b':').then_some(Value::Other)
            }
            b'?' => {
                self.skip(b'?');
                let set = self.skip(b'1');
                (set || self.skip(b'0')).then_some(Value::Boolean(set))
            }
            b'@' => {
                self.skip(b'@');
                matches!(self.number()?, Value::Integer(_)).then_some(Value::Other)
            }
            b'%' => {
                self.skip(b'%');
                self.string().map(|_| Value::Other)
            }
            _ => None,
        }
    }

    /// An integer of up to 15 digits, or a decimal of up to 12 and 3.
    fn number(&mut self) -> Option<Value> {
        let negative = self.skip(b'-');
        let digits = self.take(|byte| byte.is_ascii_digit());
        if self.skip(b'.') {
            let fraction = self.take(|byte| byte.is_ascii_digit());
            let valid = (1..=12).contains(&digits.len()) && (1..=3).contains(&fraction.len());
            return valid.then_some(Value::Other);
        }
        let valid = (1..=15).contains(&digits.len());
        valid.then_some(())?;
        let number: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(Value::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<String> {
        self.skip(b'"').then_some(())?;
        let mut text = String::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    matches!(escaped, b'"' | b'\\').then_some(())?;
                    self.0 = rest;
                    text.push(char::from(escaped));
                }
                b' '..=b'~' => text.push(char::from(byte)),
                _ => return None,
            }
        }
    }

    fn optional_space(&mut self) {
        self.take(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn skip(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, accept: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.0.iter().take_while(|byte| accept(**byte)).count();
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

fn trim_spaces(line: &[u8]) -> &[u8] {
    let start = line.iter().take_while(|byte| **byte == b' ').count();
    let line = &line[start..];
    let end = line.iter().rev().take_while(|byte| **byte == b' ').count();
    &line[..line.len() - end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn field(lines: &[&str]) -> Option<CacheControl> {
        let lines = lines.iter().map(|line| {
            let value = HeaderValue::from_str(line).unwrap();
            (CDN_CACHE_CONTROL, value)
        });
        parse(&lines.collect(), &CDN_CACHE_CONTROL)
    }

    #[test]
    fn rfc_9213_2_1_directives_of_a_dictionary() {
        let all = field(&[
            "max-age=60, no-store;x=1,private, public=?0",
            "no-cache=\"a, b\"",
        ]);
        let all = all.unwrap();
        assert_eq!(all.max_age, Some(60));
        assert!(all.no_store && all.private == Limit::Whole && !all.public);
        assert!(matches!(all.no_cache, Limit::Fields(fields) if fields.len() == 2));
        assert_eq!(field(&["max-age=1, max-age=2"]).unwrap().max_age, Some(2));
        assert_eq!(field(&["max-age=003600"]).unwrap().max_age, Some(3600));
        assert_eq!(field(&["max-age=-3600"]).unwrap().max_age, Some(0));
        assert_eq!(
            field(&["max-age=99999999999"]).unwrap().max_age,
            Some(MAX_SECONDS)
        );
        let other = field(&["max-age=5, x=:YQ==:, y=(1 a;b \"c\"), z=1.5, d=@1, e=%\"a%20\""]);
        assert_eq!(other.unwrap().max_age, Some(5));
    }

    #[test]
    fn rfc_9213_2_2_a_field_that_is_no_dictionary_is_ignored() {
        for line in [
            "",
            "  ",
            "MaX-aGe=60",
            "max-age =60",
            "max-age= 60",
            "max-age=60,",
            ",max-age=60",
            "max-age=60, &&&&&",
            "max-age=60 no-store",
            "max-age='60'",
            "max-age=60;",
            "a=\"x",
            "a=(1",
            "a=(1\"b\")",
            "a=1.",
            "a=1.2345",
            "a=9999999999999999",
            "a=?2",
            "a=:a",
            "a=@x",
            "a=\"\\x\"",
            "é",
        ] {
            assert_eq!(field(&[line]), None, "{line}");
        }
    }

    #[test]
    fn rfc_9213_2_1_lifetimes_of_other_types() {
        for line in [
            "max-age=\"60\"",
            "max-age=60.0",
            "max-age",
            "max-age=x",
            "s-maxage=(1)",
        ] {
            assert_eq!(field(&[line]), None, "{line}");
        }
        let forbidden = field(&["max-age=\"60\", no-store=1"]).unwrap();
        assert!(forbidden.no_store && forbidden.max_age.is_none());
        assert_eq!(field(&["private=(\"a\")"]).unwrap().private, Limit::Whole);
    }

    #[test]
    fn rfc_9213_2_2_the_first_valid_field_of_the_list_wins() {
        let own = HeaderName::from_static("own-cache-control");
        let targets = [own.clone(), CDN_CACHE_CONTROL];
        let of = |lines: &[(&HeaderName, &'static str)]| {
            let lines = lines
                .iter()
                .map(|(name, line)| ((*name).clone(), HeaderValue::from_static(line)));
            effective(&lines.collect(), &targets)
        };
        let (cdn, plain) = (&CDN_CACHE_CONTROL, &http::header::CACHE_CONTROL);
        let age = |lines: &[(&HeaderName, &'static str)]| of(lines).unwrap().max_age;
        assert_eq!(
            age(&[
                (plain, "max-age=1"),
                (cdn, "max-age=2"),
                (&own, "max-age=3")
            ]),
            Some(3)
        );
        assert_eq!(
            age(&[(plain, "max-age=1"), (cdn, "max-age=2"), (&own, "")]),
            Some(2)
        );
        assert_eq!(
            age(&[(plain, "max-age=1"), (cdn, "max-age=\"2\"")]),
            Some(1)
        );
        assert!(of(&[(plain, "no-store"), (cdn, "foo")]).is_ok_and(|found| !found.no_store));
        assert_eq!(of(&[(plain, "max-age=x")]), Err(Malformed));
        assert_eq!(age(&[(plain, "max-age=x"), (cdn, "max-age=2")]), Some(2));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = [(CDN_CACHE_CONTROL, value)].into_iter().collect();
                let _ = parse(&headers, &CDN_CACHE_CONTROL);
            }
        }

        #[test]
        fn text_near_the_grammar_never_panics(line in "[a-b*=;,\"():?@%0-9. \\\\-]{0,24}") {
            let _ = field(&[&line]);
        }
    }
}
