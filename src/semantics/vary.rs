//! `Vary`: which fields of a request selected its response.

use std::borrow::Cow;

use http::header::{
    ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, VARY,
};

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
        Self::Names(union(names))
    }

    /// Whether it names this field, or any.
    pub fn covers(&self, name: &HeaderName) -> bool {
        match self {
            Self::Any => true,
            Self::Names(names) => names.contains(name),
        }
    }
}

/// All of these names, sorted and each once.
pub(crate) fn union(names: impl IntoIterator<Item = HeaderName>) -> Vec<HeaderName> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
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

/// The value of a request's field, for comparing it with that of another request; `None` if it is
/// not there.
///
/// Several lines are one list, and space around its commas does not count outside of quotes; the
/// language tags of `Accept-Language` have no case. The order of a list stays, as servers take it
/// for a preference. `Cookie` and `Authorization`, which are no lists, are compared as they are.
///
/// # Specification
///
/// RFC 9111 section 4.1.
pub fn selecting_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let lines = headers.get_all(name);
    let mut rest = lines.iter();
    let first = rest.next()?.as_bytes();
    let is_list = is_list(name);
    let fold = *name == ACCEPT_LANGUAGE;
    let plain = !is_list
        || !first
            .iter()
            .any(|byte| matches!(byte, b' ' | b'\t' | b',') || (fold && byte.is_ascii_uppercase()));
    if plain && rest.next().is_none() {
        return Some(Cow::Borrowed(first));
    }
    let mut value = Vec::with_capacity(first.len());
    for line in lines.iter().map(HeaderValue::as_bytes) {
        if is_list {
            append_list(&mut value, line);
        } else {
            // No line has such a byte in it.
            value.extend_from_slice(line);
            value.push(b'\n');
        }
    }
    if fold {
        value.make_ascii_lowercase();
    }
    Some(Cow::Owned(value))
}

/// Whether several lines of a request's field are one list, which those of `Cookie` and
/// `Authorization` are not.
pub(crate) fn is_list(name: &HeaderName) -> bool {
    *name != COOKIE && *name != AUTHORIZATION
}

/// Appends the members of a list that are not empty, without the space around them.
fn append_list(value: &mut Vec<u8>, line: &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    let members = line.split(|byte| {
        let separates = *byte == b',' && !quoted;
        quoted ^= *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && quoted && !escaped;
        separates
    });
    for member in members.map(<[u8]>::trim_ascii) {
        if !member.is_empty() {
            if !value.is_empty() {
                value.push(b',');
            }
            value.extend_from_slice(member);
        }
    }
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

    use http::header::ACCEPT;
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

    fn selecting(name: &HeaderName, lines: &[&str]) -> Option<Vec<u8>> {
        let values = lines
            .iter()
            .map(|line| HeaderValue::from_bytes(line.as_bytes()).unwrap());
        let headers: HeaderMap = values.map(|value| (name.clone(), value)).collect();
        selecting_value(&headers, name).map(Cow::into_owned)
    }

    #[test]
    fn rfc_9111_4_1_lists_that_mean_the_same() {
        let foo = HeaderName::from_static("foo");
        for (one, other, same) in [
            (&["1, 2"][..], &["1", "2"][..], true),
            (&["1,2"], &[" 1 ,\t2, "], true),
            (&["1"], &["1"], true),
            (&["1, 2"], &["2, 1"], false),
            (&["a"], &["A"], false),
            (&["\"1, 2\""], &["\"1,2\""], false),
            (&["\"\\\", 2\""], &["\"\\\",2\""], false),
            (&["a b"], &["ab"], false),
            (&[], &[""], false),
        ] {
            let equal = selecting(&foo, one) == selecting(&foo, other);
            assert_eq!(equal, same, "{one:?} {other:?}");
        }
        let language = |line| selecting(&ACCEPT_LANGUAGE, &[line]);
        assert_eq!(language("en, De;Q=0.5"), language("eN ,de;q=0.5"));
        assert_ne!(language("en, de"), language("de, en"));
        for name in [COOKIE, AUTHORIZATION] {
            assert_ne!(selecting(&name, &["a, b"]), selecting(&name, &["a,b"]));
            assert_ne!(selecting(&name, &["a", "b"]), selecting(&name, &["a,b"]));
        }
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
