//! Lists with weights, such as `Accept-Language`.

use std::cmp::Reverse;

use http::{HeaderMap, HeaderName};

/// More members than any browser sends; the rest of a longer list does not count.
const MAX_MEMBERS: usize = 64;

/// A member of a list, and its weight in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weighted<'h> {
    pub(super) item: &'h str,
    pub(super) weight: u16,
}

/// The members of all lines of a field, the weightiest first, in their order where they weigh the
/// same. What cannot be parsed is left out. `None` if there is no line.
///
/// # Specification
///
/// RFC 9110 section 12.4.2.
pub(super) fn weighted<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Vec<Weighted<'h>>> {
    let lines = headers.get_all(name);
    lines.iter().next()?;
    let mut members: Vec<_> = lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(member)
        .take(MAX_MEMBERS)
        .collect();
    members.sort_by_key(|member| Reverse(member.weight));
    Some(members)
}

fn member(bytes: &[u8]) -> Option<Weighted<'_>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.split(';').map(str::trim);
    let item = parts.next().filter(|item| !item.is_empty())?;
    let mut weight = 1000;
    for part in parts {
        let (name, value) = part.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("q") {
            weight = thousandths(value.trim())?;
        }
    }
    Some(Weighted { item, weight })
}

/// `0.5` as 500; more digits than three are cut off.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    match whole {
        "0" => digits.parse().ok(),
        "1" if fraction.bytes().all(|byte| byte == b'0') => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;
    use http::header::ACCEPT_ENCODING;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_9110_12_4_2_weights() {
        for (text, weight) in [
            ("1", Some(1000)),
            ("1.000", Some(1000)),
            ("0", Some(0)),
            ("0.", Some(0)),
            ("0.5", Some(500)),
            ("0.0019", Some(1)),
            ("1.1", None),
            ("2", None),
            ("", None),
            ("-1", None),
            (".5", None),
            ("0.x", None),
        ] {
            assert_eq!(thousandths(text), weight, "{text}");
        }
    }

    #[test]
    fn members_are_sorted_by_weight_and_then_as_they_came() {
        let lines = ["a;q=0.1, b ;Q = 0.9;x=y,, c", "d, e;q=x, f;q, g;q=0"];
        let headers: HeaderMap = lines
            .iter()
            .map(|line| (ACCEPT_ENCODING, HeaderValue::from_static(line)))
            .collect();
        let members = weighted(&headers, &ACCEPT_ENCODING).unwrap();
        let items: Vec<_> = members.iter().map(|member| member.item).collect();
        assert_eq!(items, ["c", "d", "b", "a", "g"]);
        assert_eq!(weighted(&HeaderMap::new(), &ACCEPT_ENCODING), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers: HeaderMap = [(ACCEPT_ENCODING, value)].into_iter().collect();
                let members = weighted(&headers, &ACCEPT_ENCODING).unwrap();
                prop_assert!(members.iter().all(|member| member.weight <= 1000));
            }
        }
    }
}
