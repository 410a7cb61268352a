//! Conditional requests: entity tags, preconditions, and what a 304 carries.

use std::time::{Duration, SystemTime};

use http::header::{
    DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::{Method, StatusCode};

use super::freshness::parse_date;

/// What tells one state of a representation from another: `"opaque"`, or `W/"opaque"` if it is
/// weak.
///
/// # Specification
///
/// RFC 9110 section 8.8.3.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::conditional::EntityTag;
///
/// let tag = EntityTag::parse(b"W/\"7\"").unwrap();
/// assert!(tag.is_weak());
/// assert!(tag.weak_eq(&EntityTag::quoted("7").unwrap()));
/// assert!(!tag.strong_eq(&tag));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntityTag {
    value: HeaderValue,
}

impl EntityTag {
    /// A tag as it stands in a field; `None` if it is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (_, rest) = split_tag(bytes)?;
        if !rest.is_empty() {
            return None;
        }
        let value = HeaderValue::from_bytes(bytes).ok()?;
        Some(Self { value })
    }

    /// A tag as it stands in a field, or else a strong tag of this text; `None` if no tag can hold
    /// it.
    ///
    /// # Django
    ///
    /// `quote_etag`.
    pub fn quoted(text: &str) -> Option<Self> {
        Self::parse(text.as_bytes()).or_else(|| Self::parse(format!("\"{text}\"").as_bytes()))
    }

    /// Whether it may stay the same though the bytes change.
    pub fn is_weak(&self) -> bool {
        self.value.as_bytes().starts_with(b"W/")
    }

    /// What stands between the quotes.
    pub fn opaque(&self) -> &[u8] {
        let quoted = opaque(self.value.as_bytes());
        &quoted[1..quoted.len() - 1]
    }

    /// Whether both name the same bytes: RFC 9110 section 8.8.3.2.
    pub fn strong_eq(&self, other: &Self) -> bool {
        strong_eq(self.value.as_bytes(), other.value.as_bytes())
    }

    /// Whether both name equivalent representations: RFC 9110 section 8.8.3.2.
    pub fn weak_eq(&self, other: &Self) -> bool {
        weak_eq(self.value.as_bytes(), other.value.as_bytes())
    }

    /// The value of an `ETag` field.
    pub fn to_header_value(&self) -> HeaderValue {
        self.value.clone()
    }
}

fn strong_eq(one: &[u8], other: &[u8]) -> bool {
    one == other && one.starts_with(b"\"")
}

fn weak_eq(one: &[u8], other: &[u8]) -> bool {
    opaque(one) == opaque(other)
}

/// The quoted part of a tag.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The tag at the beginning, and what follows it.
fn split_tag(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let prefix = bytes.len() - opaque(bytes).len();
    let inner = bytes[prefix..].strip_prefix(b"\"")?;
    let length = inner
        .iter()
        .take_while(|byte| matches!(byte, b'!' | b'#'..=b'~' | 0x80..))
        .count();
    (inner.get(length) == Some(&b'"')).then(|| bytes.split_at(prefix + length + 2))
}

/// What `If-Match` or `If-None-Match` names.
enum Tags<'a> {
    Any,
    List(Vec<&'a [u8]>),
}

impl<'a> Tags<'a> {
    /// `None` if the field is not there. What is no tag is left out, as is a `*` that is not alone.
    fn parse(headers: &'a HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut lines = headers.get_all(name).into_iter().peekable();
        lines.peek()?;
        let mut tags = Vec::new();
        let mut any = 0;
        let mut members = 0;
        for line in lines {
            let mut rest = line.as_bytes().trim_ascii();
            while !rest.is_empty() {
                if let Some((tag, behind)) = split_tag(rest)
                    && matches!(behind.trim_ascii_start().first(), None | Some(b','))
                {
                    tags.push(tag);
                    members += 1;
                    rest = behind;
                }
                let end = rest.iter().position(|byte| *byte == b',');
                let (member, behind) = rest.split_at(end.unwrap_or(rest.len()));
                any += usize::from(member.trim_ascii() == b"*");
                members += usize::from(!member.trim_ascii().is_empty());
                rest = behind.strip_prefix(b",").unwrap_or(behind).trim_ascii();
            }
        }
        Some(if any == 1 && members == 1 {
            Self::Any
        } else {
            Self::List(tags)
        })
    }
}

/// What a representation can be validated by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validators {
    /// Its `ETag`.
    pub etag: Option<EntityTag>,
    /// When it was last modified; fractions of a second do not count.
    pub last_modified: Option<SystemTime>,
}

impl Validators {
    /// No validators.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of a response. What cannot be parsed is left out.
    pub fn of(headers: &HeaderMap) -> Self {
        let etag = headers.get(ETAG);
        Self {
            etag: etag.and_then(|value| EntityTag::parse(value.as_bytes())),
            last_modified: parse_date(headers, &LAST_MODIFIED),
        }
    }

    /// With this tag, put in quotes unless it has them; left out if no tag can hold it.
    #[must_use]
    pub fn with_etag(mut self, etag: &str) -> Self {
        self.etag = EntityTag::quoted(etag);
        self
    }

    /// With this date.
    #[must_use]
    pub fn with_last_modified(mut self, last_modified: SystemTime) -> Self {
        self.last_modified = Some(last_modified);
        self
    }
}

/// What the preconditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precondition {
    /// The method is to be applied.
    Pass,
    /// 304: the client has the representation.
    NotModified,
    /// 412: the representation is not the one that the client thinks it is.
    Failed,
}

/// What the preconditions of a request come to at the origin, for a representation with these
/// validators whose response would have this status; any but 2xx passes.
///
/// The order is: `If-Match`, or else `If-Unmodified-Since`; then `If-None-Match`, or else
/// `If-Modified-Since` for GET and HEAD. A date that is none is as if its field were not there.
///
/// # Specification
///
/// RFC 9110 sections 13.1 and 13.2.2; stricter for an unknown modification date, which fails
/// `If-Unmodified-Since` in the place of having it ignored.
///
/// # Django
///
/// `get_conditional_response` (H-01 to H-05). Mended: tags may have commas in them; an `If-Match`
/// without any valid tag fails, as it guards a change, and is not taken for absent; the epoch is a
/// date.
pub fn evaluate(
    method: &Method,
    headers: &HeaderMap,
    status: StatusCode,
    validators: &Validators,
) -> Precondition {
    let etag = validators.etag.as_ref().map(|etag| etag.value.as_bytes());
    evaluate_by(method, headers, status, etag, || validators.last_modified)
}

/// The same for the validators in the fields of a response.
pub(crate) fn evaluate_response(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
) -> Precondition {
    // Parsing a date takes longer than the rest, and most requests have a tag.
    let modified = || parse_date(response, &LAST_MODIFIED);
    evaluate_by(method, request, status, tag(response), modified)
}

/// The tag of a response, if it is one.
fn tag(response: &HeaderMap) -> Option<&[u8]> {
    let etag = response.get(ETAG).map(HeaderValue::as_bytes);
    etag.filter(|etag| split_tag(etag).is_some_and(|(_, rest)| rest.is_empty()))
}

fn evaluate_by(
    method: &Method,
    headers: &HeaderMap,
    status: StatusCode,
    etag: Option<&[u8]>,
    modified: impl Fn() -> Option<SystemTime>,
) -> Precondition {
    if !status.is_success() {
        return Precondition::Pass;
    }
    let modified = || modified().map(whole_seconds);
    if let Some(tags) = Tags::parse(headers, &IF_MATCH) {
        let matches = etag.is_some_and(|etag| match tags {
            Tags::Any => true,
            Tags::List(list) => list.iter().any(|tag| strong_eq(tag, etag)),
        });
        if !matches {
            return Precondition::Failed;
        }
    } else if let Some(since) = parse_date(headers, &IF_UNMODIFIED_SINCE)
        && modified().is_none_or(|modified| modified > whole_seconds(since))
    {
        return Precondition::Failed;
    }
    match not_modified(method, headers, etag, modified) {
        false => Precondition::Pass,
        true if is_read(method) => Precondition::NotModified,
        true => Precondition::Failed,
    }
}

/// Whether a cache answers a request that selects this stored response, of status 200, with 304.
///
/// Only `If-None-Match` and, without it, `If-Modified-Since` are for caches. A response without
/// `Last-Modified` counts as modified at its `Date`, or else when it was stored.
///
/// # Specification
///
/// RFC 9111 section 4.3.2.
pub fn is_not_modified(
    method: &Method,
    request: &HeaderMap,
    stored: &HeaderMap,
    stored_at: SystemTime,
) -> bool {
    let conditional =
        request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE);
    if !conditional || !is_read(method) {
        return false;
    }
    let modified = || {
        let modified = parse_date(stored, &LAST_MODIFIED).or_else(|| parse_date(stored, &DATE));
        Some(whole_seconds(modified.unwrap_or(stored_at)))
    };
    not_modified(method, request, tag(stored), modified)
}

/// Whether `If-None-Match`, or without it `If-Modified-Since`, is false.
fn not_modified(
    method: &Method,
    headers: &HeaderMap,
    etag: Option<&[u8]>,
    modified: impl Fn() -> Option<Duration>,
) -> bool {
    match Tags::parse(headers, &IF_NONE_MATCH) {
        Some(Tags::Any) => etag.is_some(),
        Some(Tags::List(list)) if !list.is_empty() => {
            etag.is_some_and(|etag| list.iter().any(|tag| weak_eq(tag, etag)))
        }
        _ => {
            is_read(method)
                && parse_date(headers, &IF_MODIFIED_SINCE)
                    .and_then(|since| Some((since, modified()?)))
                    .is_some_and(|(since, modified)| modified <= whole_seconds(since))
        }
    }
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Since the epoch; what lies before it counts as it.
fn whole_seconds(instant: SystemTime) -> Duration {
    let since = instant.duration_since(SystemTime::UNIX_EPOCH);
    Duration::from_secs(since.unwrap_or_default().as_secs())
}

/// Whether the `Range` of a request is to be applied to a response with these fields: there is no
/// `If-Range`, or it names the response's strong tag, or the exact date of its last modification,
/// at least a second before its `Date`.
///
/// # Specification
///
/// RFC 9110 sections 13.1.5 and 8.8.2.2.
pub fn if_range(request: &HeaderMap, response: &HeaderMap) -> bool {
    let mut lines = request.get_all(IF_RANGE).into_iter();
    let Some(line) = lines.next() else {
        return true;
    };
    if lines.next().is_some() {
        return false;
    }
    if EntityTag::parse(line.as_bytes()).is_some() {
        let etag = response.get(ETAG);
        return etag.is_some_and(|etag| strong_eq(line.as_bytes(), etag.as_bytes()));
    }
    let named = parse_date(request, &IF_RANGE);
    let modified = parse_date(response, &LAST_MODIFIED);
    named.is_some() && named == modified && parse_date(response, &DATE) > modified
}

/// The fields of a stored response that a 304 carries: all but those that describe content, which
/// it has none of.
///
/// # Specification
///
/// RFC 9110 section 15.4.5.
///
/// # Django
///
/// A 304 keeps seven fields there, and loses those of CORS and content security policies (H-07).
pub fn not_modified_fields(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in headers.keys().filter(|name| is_about_content(name)) {
        kept.remove(name);
    }
    kept
}

fn is_about_content(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-digest"
            | "content-encoding"
            | "content-language"
            | "content-length"
            | "content-md5"
            | "content-range"
            | "content-type"
            | "digest"
            | "trailer"
            | "transfer-encoding"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;
    use crate::semantics::tests::fields;

    const NOON: u64 = 1_000_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn date(seconds: u64) -> String {
        httpdate::fmt_http_date(at(seconds))
    }

    /// The outcomes for GET and for PUT.
    fn both(
        lines: &[(&'static str, &str)],
        etag: Option<&str>,
        modified: Option<u64>,
    ) -> [Precondition; 2] {
        let validators = Validators {
            etag: etag.map(|etag| EntityTag::parse(etag.as_bytes()).unwrap()),
            last_modified: modified.map(at),
        };
        [Method::GET, Method::PUT]
            .map(|method| evaluate(&method, &fields(lines), StatusCode::OK, &validators))
    }

    use Precondition::{Failed, NotModified, Pass};

    #[test]
    fn rfc_9110_8_8_3_entity_tags() {
        for good in ["\"\"", "\"a\"", "W/\"a\"", "\"a,b\"", "\"é!#~\"", "\"\\\""] {
            assert!(EntityTag::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "", "a", "\"a", "a\"", "w/\"a\"", "W\"a\"", "W/a", "\"a b\"", "\"a\"b\"", " \"a\"",
        ] {
            assert_eq!(EntityTag::parse(bad.as_bytes()), None, "{bad}");
        }
        let quoted = |text| EntityTag::quoted(text).map(|tag| tag.to_header_value());
        assert_eq!(quoted("a").unwrap(), "\"a\"");
        assert_eq!(quoted("W/\"a\"").unwrap(), "W/\"a\"");
        assert_eq!(quoted("a b"), None);
        assert_eq!(quoted("a\n"), None);
        assert_eq!(EntityTag::quoted("W/\"a\"").unwrap().opaque(), b"a");
    }

    #[test]
    fn rfc_9110_8_8_3_2_comparison() {
        for (one, other, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ] {
            let [one, other] = [one, other].map(|tag| EntityTag::parse(tag.as_bytes()).unwrap());
            assert_eq!(one.strong_eq(&other), strong);
            assert_eq!(one.weak_eq(&other), weak);
        }
    }

    #[test]
    fn h_01_the_order_of_preconditions() {
        let (old, new) = (date(NOON - 9), date(NOON + 9));
        let of = |lines: &[(&'static str, &str)]| both(lines, Some("\"a\""), Some(NOON));
        assert_eq!(of(&[]), [Pass; 2]);
        assert_eq!(
            of(&[("if-match", "\"b\""), ("if-none-match", "\"a\"")]),
            [Failed; 2]
        );
        assert_eq!(of(&[("if-unmodified-since", &old)]), [Failed; 2]);
        assert_eq!(
            of(&[("if-match", "\"a\""), ("if-unmodified-since", &old)]),
            [Pass; 2]
        );
        let matching = [("if-match", "\"a\""), ("if-none-match", "\"a\"")];
        assert_eq!(of(&matching), [NotModified, Failed]);
        let tag_first = [("if-none-match", "\"b\""), ("if-modified-since", &new)];
        assert_eq!(of(&tag_first), [Pass; 2]);
        assert_eq!(of(&[("if-modified-since", &new)]), [NotModified, Pass]);
        let validators = Validators::new().with_etag("a");
        for (status, expected) in [(204, Failed), (304, Pass), (404, Pass), (500, Pass)] {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = fields(&[("if-match", "\"b\"")]);
            assert_eq!(
                evaluate(&Method::GET, &headers, status, &validators),
                expected
            );
        }
    }

    #[test]
    fn h_02_if_match_compares_strongly() {
        for (line, etag, expected) in [
            ("\"a\"", None, Failed),
            ("*", None, Failed),
            ("*", Some("W/\"a\""), Pass),
            ("W/\"a\"", Some("W/\"a\""), Failed),
            ("W/\"a\"", Some("\"a\""), Failed),
            ("\"b\", \"a\"", Some("\"a\""), Pass),
            ("nonsense", Some("\"a\""), Failed),
        ] {
            assert_eq!(
                both(&[("if-match", line)], etag, None),
                [expected; 2],
                "{line}"
            );
        }
    }

    #[test]
    fn h_03_if_none_match_compares_weakly() {
        for (line, etag, hit) in [
            ("\"a\"", None, false),
            ("*", None, false),
            ("*", Some("\"a\""), true),
            ("W/\"a\"", Some("\"a\""), true),
            ("\"b\", \"c\" ,,W/\"a\"", Some("W/\"a\""), true),
            ("\"b\"", Some("\"a\""), false),
        ] {
            let expected = if hit {
                [NotModified, Failed]
            } else {
                [Pass; 2]
            };
            assert_eq!(
                both(&[("if-none-match", line)], etag, None),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn h_04_dates_in_whole_seconds() {
        let noon = date(NOON);
        for (modified, unmodified, since) in [
            (None, [Failed; 2], [Pass; 2]),
            (Some(NOON - 1), [Pass; 2], [NotModified, Pass]),
            (Some(NOON), [Pass; 2], [NotModified, Pass]),
            (Some(NOON + 1), [Failed; 2], [Pass; 2]),
        ] {
            assert_eq!(
                both(&[("if-unmodified-since", &noon)], None, modified),
                unmodified
            );
            assert_eq!(both(&[("if-modified-since", &noon)], None, modified), since);
        }
        let fraction = at(NOON) + Duration::from_millis(900);
        let validators = Validators::new().with_last_modified(fraction);
        let headers = fields(&[("if-modified-since", &noon)]);
        let outcome = evaluate(&Method::HEAD, &headers, StatusCode::OK, &validators);
        assert_eq!(outcome, NotModified);
    }

    #[test]
    fn h_05_what_is_no_tag_or_date_is_left_out() {
        let new = date(NOON + 9);
        let of = |lines: &[(&'static str, &str)]| both(lines, Some("\"a,b\""), Some(NOON))[0];
        assert_eq!(of(&[("if-none-match", "\"x\", \"a,b\"")]), NotModified);
        assert_eq!(
            of(&[("if-none-match", "a,b, \"a\"x, \"a,b\"")]),
            NotModified
        );
        assert_eq!(of(&[("if-none-match", "\"a,b")]), Pass);
        assert_eq!(
            of(&[("if-none-match", "a, b"), ("if-modified-since", &new)]),
            NotModified
        );
        assert_eq!(of(&[("if-none-match", "\"x\", *")]), Pass);
        assert_eq!(of(&[("if-none-match", "*, \"x\"")]), Pass);
        for bad in ["yesterday", "0", ""] {
            assert_eq!(of(&[("if-modified-since", bad)]), Pass);
            assert_eq!(of(&[("if-unmodified-since", bad)]), Pass);
        }
    }

    #[test]
    fn h_06_the_epoch_is_a_date() {
        let epoch = date(0);
        assert_eq!(
            both(&[("if-modified-since", &epoch)], None, Some(0))[0],
            NotModified
        );
        assert_eq!(
            both(&[("if-unmodified-since", &epoch)], None, Some(1))[0],
            Failed
        );
    }

    #[test]
    fn h_07_a_304_keeps_all_but_what_describes_content() {
        let kept = [
            "etag",
            "cache-control",
            "vary",
            "date",
            "expires",
            "content-location",
            "last-modified",
            "access-control-allow-origin",
            "content-security-policy",
            "x-own",
            "set-cookie",
        ];
        let dropped = [
            "content-type",
            "content-length",
            "content-encoding",
            "content-language",
            "content-range",
            "transfer-encoding",
        ];
        let all: Vec<_> = kept
            .iter()
            .chain(&dropped)
            .map(|name| (*name, "1"))
            .collect();
        let left = not_modified_fields(&fields(&all));
        assert_eq!(left.len(), kept.len());
        assert!(kept.iter().all(|name| left.contains_key(*name)));
    }

    #[test]
    fn a_304_may_have_more_lines_than_a_map_has_names() {
        let mut headers = HeaderMap::new();
        for _ in 0..1 << 15 {
            headers.append("link", HeaderValue::from_static("a"));
        }
        assert_eq!(not_modified_fields(&headers).len(), headers.len());
    }

    #[test]
    fn rfc_9111_4_3_2_a_cache_evaluates_two_fields() {
        let of = |request: &[(&'static str, &str)], stored: &[(&'static str, &str)]| {
            is_not_modified(&Method::GET, &fields(request), &fields(stored), at(NOON))
        };
        let (old, noon, new) = (date(NOON - 9), date(NOON), date(NOON + 9));
        assert!(of(&[("if-none-match", "W/\"a\"")], &[("etag", "\"a\"")]));
        assert!(!of(&[("if-none-match", "\"b\"")], &[("etag", "\"a\"")]));
        assert!(!of(&[("if-none-match", "a")], &[("etag", "a")]));
        assert!(!of(&[("if-match", "\"b\"")], &[("etag", "\"a\"")]));
        for stored in [
            &[("last-modified", noon.as_str())][..],
            &[("date", &noon)],
            &[],
        ] {
            assert!(of(&[("if-modified-since", &noon)], stored));
            assert!(of(&[("if-modified-since", &new)], stored));
            assert!(!of(&[("if-modified-since", &old)], stored));
        }
        let both = [
            ("if-none-match", "\"b\""),
            ("if-modified-since", new.as_str()),
        ];
        assert!(!of(&both, &[("etag", "\"a\""), ("last-modified", &noon)]));
        let rfc850 = [("if-modified-since", "Sunday, 09-Sep-01 01:46:40 GMT")];
        assert!(of(&rfc850, &[("last-modified", &noon)]));
        let post = fields(&[("if-none-match", "*")]);
        assert!(!is_not_modified(
            &Method::POST,
            &post,
            &fields(&[("etag", "\"a\"")]),
            at(NOON)
        ));
    }

    #[test]
    fn rfc_9110_13_1_5_if_range() {
        let (noon, later) = (date(NOON), date(NOON + 5));
        let of = |line: &str, stored: &[(&'static str, &str)]| {
            if_range(&fields(&[("if-range", line)]), &fields(stored))
        };
        assert!(if_range(&HeaderMap::new(), &HeaderMap::new()));
        assert!(of("\"a\"", &[("etag", "\"a\"")]));
        assert!(!of("\"b\"", &[("etag", "\"a\"")]));
        assert!(!of("W/\"a\"", &[("etag", "W/\"a\"")]));
        assert!(!of("\"a\"", &[]));
        let dated = [("last-modified", noon.as_str()), ("date", later.as_str())];
        assert!(of(&noon, &dated));
        assert!(!of(&later, &dated));
        assert!(!of(&noon, &[("last-modified", &noon)]));
        assert!(!of(&noon, &[("last-modified", &noon), ("date", &noon)]));
        assert!(!of("nonsense", &[]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = EntityTag::parse(&bytes);
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers: HeaderMap = [IF_MATCH, IF_NONE_MATCH, IF_RANGE, ETAG]
                    .into_iter()
                    .map(|name| (name, value.clone()))
                    .collect();
                let validators = Validators::of(&headers);
                let _ = evaluate(&Method::GET, &headers, StatusCode::OK, &validators);
                let _ = if_range(&headers, &headers);
            }
        }

        #[test]
        fn each_tag_of_a_list_is_found(tags in prop::collection::vec("(W/)?\"[a,* ;é]{0,4}\"", 1..5)) {
            let valid: Vec<_> = tags.iter().filter(|tag| !tag.contains(' ')).collect();
            let list = fields(&[("if-none-match", &tags.join(" , "))]);
            for tag in valid {
                let validators = Validators::new().with_etag(tag);
                let outcome = evaluate(&Method::GET, &list, StatusCode::OK, &validators);
                // A tag with a space in it is none, and its quotes may swallow its neighbours.
                prop_assert!(outcome == NotModified || tags.iter().any(|tag| tag.contains(' ')));
            }
        }
    }
}
