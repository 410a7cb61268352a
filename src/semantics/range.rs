//! Range requests: a part of a complete stored response.

use http::header::{HeaderMap, HeaderValue, RANGE};

/// What of a stored response a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// All of it: 200.
    Whole,
    /// These bytes, both ends included: 206.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// No byte that there is: 416.
    Unsatisfiable,
}

/// What a GET asks for of a representation of `length` bytes.
///
/// One range of bytes is applied. Several of them, other units, and what cannot be parsed are as
/// if there were no `Range`, which every server may ignore. So is a `Range` whose `If-Range` does
/// not hold, which is for the caller to find out: [`if_range`](super::conditional::if_range).
///
/// # Specification
///
/// RFC 9110 sections 14.1.2 and 14.2.
///
/// # Example
///
/// ```
/// use axum_cache::semantics::range::{Selection, select};
/// use http::{HeaderMap, HeaderValue};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("range", HeaderValue::from_static("bytes=-2"));
/// assert_eq!(select(&headers, 10), Selection::Part { first: 8, last: 9 });
/// ```
pub fn select(headers: &HeaderMap, length: u64) -> Selection {
    let mut lines = headers.get_all(RANGE).into_iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse(line, length).unwrap_or(Selection::Whole),
        _ => Selection::Whole,
    }
}

fn parse(line: &HeaderValue, length: u64) -> Option<Selection> {
    let (unit, set) = line.to_str().ok()?.split_once('=')?;
    let (first, last) = set.trim_matches([' ', '\t']).split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let selected = match (first, last) {
        ("", suffix) => match number(suffix)? {
            0 => Selection::Unsatisfiable,
            // Content-Range has no words for all of nothing.
            _ if length == 0 => Selection::Whole,
            suffix => Selection::Part {
                first: length.saturating_sub(suffix),
                last: length - 1,
            },
        },
        (first, last) => {
            let first = number(first)?;
            let last = if last.is_empty() {
                u64::MAX
            } else {
                number(last)?
            };
            if last < first {
                return None;
            }
            if first >= length {
                Selection::Unsatisfiable
            } else {
                let last = last.min(length - 1);
                Selection::Part { first, last }
            }
        }
    };
    Some(selected)
}

/// Digits; too many of them are the largest number.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

impl Selection {
    /// The `Content-Range` of the answer, for a representation of `length` bytes; `None` for all
    /// of it.
    ///
    /// # Specification
    ///
    /// RFC 9110 section 14.4.
    pub fn content_range(self, length: u64) -> Option<HeaderValue> {
        let text = match self {
            Self::Whole => return None,
            Self::Part { first, last } => format!("bytes {first}-{last}/{length}"),
            Self::Unsatisfiable => format!("bytes */{length}"),
        };
        HeaderValue::try_from(text).ok()
    }
}

/// The range of bytes, both ends included, and the complete length, if known, that a
/// `Content-Range` names; `None` if it names none.
///
/// # Specification
///
/// RFC 9110 section 14.4.
pub fn parse_content_range(value: &HeaderValue) -> Option<(u64, u64, Option<u64>)> {
    let (unit, range) = value.to_str().ok()?.split_once(' ')?;
    let (range, length) = range.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let length = match length {
        "*" => None,
        length => Some(number(length)?),
    };
    let valid = first <= last && length.is_none_or(|length| last < length);
    (valid && unit.eq_ignore_ascii_case("bytes")).then_some((first, last, length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn of(line: &str, length: u64) -> Selection {
        let value = HeaderValue::from_str(line).unwrap();
        select(&[(RANGE, value)].into_iter().collect(), length)
    }

    #[test]
    fn rfc_9110_14_1_2_one_range_of_bytes() {
        let part = |first, last| Selection::Part { first, last };
        for (line, expected) in [
            ("bytes=0-1", part(0, 1)),
            ("BYTES=0-0", part(0, 0)),
            ("bytes= 2-3 ", part(2, 3)),
            ("bytes=1-", part(1, 10)),
            ("bytes=5-99999999999999999999", part(5, 10)),
            ("bytes=-1", part(10, 10)),
            ("bytes=-99", part(0, 10)),
            ("bytes=11-", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
        ] {
            assert_eq!(of(line, 11), expected, "{line}");
        }
        assert_eq!(of("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(of("bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn rfc_9110_14_2_what_is_not_one_range_of_bytes_is_ignored() {
        for line in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=--1",
            "bytes 0-1",
        ] {
            assert_eq!(of(line, 11), Selection::Whole, "{line}");
        }
        let mut two = HeaderMap::new();
        for line in ["bytes=0-1", "bytes=0-1"] {
            two.append(RANGE, HeaderValue::from_static(line));
        }
        assert_eq!(select(&two, 11), Selection::Whole);
        assert_eq!(select(&HeaderMap::new(), 11), Selection::Whole);
    }

    #[test]
    fn rfc_9110_14_4_content_range() {
        let part = Selection::Part { first: 0, last: 1 };
        assert_eq!(part.content_range(11).unwrap(), "bytes 0-1/11");
        let none = Selection::Unsatisfiable;
        assert_eq!(none.content_range(11).unwrap(), "bytes */11");
        assert_eq!(Selection::Whole.content_range(11), None);
        let parsed = |line| parse_content_range(&HeaderValue::from_static(line));
        assert_eq!(parsed("bytes 4-9/10"), Some((4, 9, Some(10))));
        assert_eq!(parsed("bytes 4-9/*"), Some((4, 9, None)));
        for line in [
            "bytes */10",
            "bytes 4-10/10",
            "bytes 5-4/10",
            "lines 0-1/2",
            "x",
            "",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_whole(line in "bytes=[0-9]{0,21}-[0-9]{0,21}", length: u64) {
            if let Selection::Part { first, last } = of(&line, length) {
                prop_assert!(first <= last && last < length);
                let value = of(&line, length).content_range(length).unwrap();
                prop_assert_eq!(parse_content_range(&value), Some((first, last, Some(length))));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, length: u64) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = parse_content_range(&value);
                let _ = select(&[(RANGE, value)].into_iter().collect(), length);
            }
        }
    }
}
