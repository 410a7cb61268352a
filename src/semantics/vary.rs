//! `Vary`: which fields of a request selected its response.

use http::header::{HeaderMap, HeaderName, HeaderValue, VARY};

/// The fields that a response varies on.
///
/// # Specification
///
/// RFC 9110 section 12.5.5.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vary {
    /// On more than fields of the request: no other request is known to match. Also a `Vary` that
    /// cannot be parsed.
    Any,
    /// On these fields, sorted and each once; none if the response does not vary.
    Names(Vec<HeaderName>),
}

impl Vary {
    /// What all `Vary` lines say together. `*` anywhere is [`Any`](Self::Any).
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for line in headers.get_all(VARY) {
            for member in members(line) {
                match HeaderName::from_bytes(member) {
                    Ok(name) if member != b"*" => names.push(name),
                    _ => return Self::Any,
                }
            }
        }
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        Self::Names(names)
    }

    /// Whether it names this field, or any.
    pub fn covers(&self, name: &HeaderName) -> bool {
        match self {
            Self::Any => true,
            Self::Names(names) => names.contains(name),
        }
    }
}

/// Whether `Vary` names `name`, or `*`.
///
/// # Django
///
/// `has_vary_header`, for which `*` names nothing else.
pub fn has_vary(headers: &HeaderMap, name: &HeaderName) -> bool {
    Vary::parse(headers).covers(name)
}

/// Adds `names` to `Vary`, those that are not there yet, behind those that are. `*` on either side
/// makes it exactly `*`.
///
/// # Django
///
/// `patch_vary_headers`; names given twice are added once, and no names add nothing.
pub fn patch_vary<N: AsRef<str>>(headers: &mut HeaderMap, names: impl IntoIterator<Item = N>) {
    let mut list: Vec<String> = headers
        .get_all(VARY)
        .into_iter()
        .flat_map(members)
        .map(|member| String::from_utf8_lossy(member).into_owned())
        .collect();
    let before = list.len();
    for name in names {
        let name = name.as_ref().trim();
        if !name.is_empty() && !list.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            list.push(name.to_owned());
        }
    }
    let any = list.iter().any(|member| member == "*");
    if list.len() == before && !any {
        return;
    }
    let text = if any { "*".to_owned() } else { list.join(", ") };
    // Names that no field can hold vary on something, and nobody knows on what.
    let value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("*"));
    headers.insert(VARY, value);
}

/// The members of a comma-separated list, trimmed, without the empty ones.
fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::collections::BTreeSet;

    use http::header::{ACCEPT, COOKIE};
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let values = lines
            .iter()
            .map(|line| HeaderValue::from_str(line).unwrap());
        values.map(|value| (VARY, value)).collect()
    }

    fn patched(lines: &[&str], names: &[&str]) -> Option<String> {
        let mut headers = headers(lines);
        patch_vary(&mut headers, names);
        assert!(headers.get_all(VARY).iter().count() <= lines.len().max(1));
        let value = headers.get(VARY)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn names_are_folded_sorted_and_unique_over_all_lines() {
        let vary = Vary::parse(&headers(&["Cookie, accept,", " COOKIE"]));
        assert_eq!(vary, Vary::Names(vec![ACCEPT, COOKIE]));
        assert_eq!(Vary::parse(&headers(&[])), Vary::Names(vec![]));
    }

    #[test]
    fn m_24_a_star_anywhere_is_any_and_so_is_what_cannot_be_parsed() {
        for line in ["*", "Cookie, *", " * ,Cookie", "no name", "Cookie;q=1"] {
            assert_eq!(Vary::parse(&headers(&[line])), Vary::Any, "{line}");
        }
        assert_eq!(Vary::parse(&headers(&["Cookie", "*"])), Vary::Any);
    }

    #[test]
    fn u_30_names_are_appended_and_keep_their_spelling() {
        assert_eq!(patched(&[], &["Cookie"]).unwrap(), "Cookie");
        assert_eq!(
            patched(&["cookie"], &["Cookie", "Accept"]).unwrap(),
            "cookie, Accept"
        );
        assert_eq!(
            patched(&["Accept", "Cookie"], &["X"]).unwrap(),
            "Accept, Cookie, X"
        );
        assert_eq!(patched(&["*"], &["Cookie"]).unwrap(), "*");
        assert_eq!(patched(&["Cookie"], &[" * "]).unwrap(), "*");
    }

    #[test]
    fn u_31_no_duplicates_and_no_empty_header() {
        assert_eq!(patched(&[], &["A", "a", " A"]).unwrap(), "A");
        assert_eq!(patched(&[], &[]), None);
        assert_eq!(patched(&["Cookie"], &[]).unwrap(), "Cookie");
        assert_eq!(patched(&[], &["a\nb"]).unwrap(), "*");
    }

    #[test]
    fn u_32_has_vary() {
        let two = headers(&["Accept, cookie"]);
        assert!(has_vary(&two, &COOKIE));
        assert!(!has_vary(&two, &VARY));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers: HeaderMap = [(VARY, value)].into_iter().collect();
                let _ = Vary::parse(&headers);
                patch_vary(&mut headers, ["Cookie"]);
                prop_assert!(has_vary(&headers, &COOKIE));
            }
        }

        #[test]
        fn the_parser_agrees_with_the_slow_reference(
            lines in prop::collection::vec("[aAbB*, \t-]{0,8}", 0..3),
        ) {
            let mut expected = BTreeSet::new();
            let mut any = false;
            for member in lines.join(",").split(',') {
                let member = member.trim_matches([' ', '\t']).to_lowercase();
                any |= member.contains(['*', ' ', '\t']);
                if !member.is_empty() {
                    expected.insert(member);
                }
            }
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            match Vary::parse(&headers(&lines)) {
                // `*` is a token character, so `a*` is a name.
                Vary::Any => prop_assert!(any),
                Vary::Names(names) => {
                    let names: BTreeSet<_> = names.iter().map(|n| n.as_str().to_owned()).collect();
                    prop_assert!(!expected.contains("*"));
                    prop_assert_eq!(names, expected);
                }
            }
        }
    }
}
