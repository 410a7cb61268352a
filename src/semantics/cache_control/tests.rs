//! The parser against a slow reference, and each rule with both its cases.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use proptest::prelude::*;

use super::*;

fn headers(lines: &[&[u8]]) -> HeaderMap {
    let values = lines
        .iter()
        .map(|line| HeaderValue::from_bytes(line).unwrap());
    values.map(|value| (CACHE_CONTROL, value)).collect()
}

fn parse(line: &str) -> Result<CacheControl, Malformed> {
    CacheControl::parse(&headers(&[line.as_bytes()]))
}

#[test]
fn names_are_case_insensitive_and_lines_are_one_list() {
    let two = CacheControl::parse(&headers(&[b"No-Store, MAX-AGE=5", b"Private"])).unwrap();
    assert!(two.no_store && two.private.is_set());
    assert_eq!(two.max_age, Some(5));
    assert_eq!(parse("").unwrap(), CacheControl::new());
    assert_eq!(
        parse(" ,, public , ,").unwrap(),
        CacheControl::new().with_public()
    );
}

#[test]
fn rfc_9111_5_2_lifetimes_are_numbers_of_seconds() {
    assert_eq!(parse("max-age=30").unwrap().max_age, Some(30));
    assert_eq!(parse("max-age=\"30\"").unwrap().max_age, Some(30));
    assert_eq!(
        parse("max-age=99999999999999999999").unwrap().max_age,
        Some(1 << 31)
    );
    for bad in [
        "max-age",
        "max-age=",
        "max-age=abc",
        "max-age=1.5",
        "max-age=-1",
        "max-age=+1",
        "max-age =5",
        "max-age= 5",
        "s-maxage=x",
        "max-age=\"\"",
        "max-age=5x, public",
    ] {
        assert_eq!(parse(bad), Err(Malformed), "{bad}");
    }
}

#[test]
fn rfc_9111_4_2_1_of_two_lifetimes_the_shorter_counts() {
    assert_eq!(parse("max-age=30, max-age=10").unwrap().max_age, Some(10));
    assert_eq!(parse("max-age=10, max-age=30").unwrap().max_age, Some(10));
}

#[test]
fn m_23_qualified_private_and_no_cache_count() {
    assert!(parse("private=\"X-A, X-B\"").unwrap().private.is_set());
    assert!(parse("No-Cache=\"Set-Cookie\"").unwrap().no_cache.is_set());
    assert_eq!(
        parse("private=\"x\", private").unwrap().private,
        Limit::Whole
    );
    assert_eq!(
        parse("private=\"not a name\"").unwrap().private,
        Limit::Whole
    );
    assert_eq!(parse("private=\"\"").unwrap().private, Limit::Whole);
    let other = parse("myprivate, x-private").unwrap();
    assert!(!other.private.is_set());
    // With spaces round `=` it is malformed, which forbids storing as well.
    assert_eq!(parse("private = \"X\""), Err(Malformed));
}

#[test]
fn what_is_no_list_is_malformed() {
    for bad in [
        "private=\"x",
        "a=\"\\",
        "no store",
        "a=b c",
        "a=\"b\"c",
        "=5",
        "max-age=5;public",
        "a b=c",
        "public\u{e9}",
        "(",
        "a=\u{e9}",
    ] {
        assert_eq!(parse(bad), Err(Malformed), "{bad}");
    }
    let raw = CacheControl::parse(&headers(&[b"a=\"\xff\""]));
    assert_eq!(raw, Err(Malformed));
}

#[test]
fn quoted_commas_and_escapes_survive() {
    let kept = parse(r#"x="a, \"b\" \\", private="x-a,x-b""#).unwrap();
    assert_eq!(
        kept.extensions,
        [("x".to_owned(), Some(r#"a, "b" \"#.to_owned()))]
    );
    assert_eq!(kept.to_string(), r#"private="x-a, x-b", x="a, \"b\" \\""#);
}

#[test]
fn u_07_never_cache_is_written_in_djangos_order() {
    let never = CacheControl::new()
        .with_max_age(Duration::ZERO)
        .with_no_cache()
        .with_no_store()
        .with_must_revalidate()
        .with_private();
    assert_eq!(
        never.to_string(),
        "max-age=0, no-cache, no-store, must-revalidate, private"
    );
}

/// What a directive list means, found out slowly: split at commas outside quotes, then each
/// directive by itself.
fn reference(line: &str) -> Result<Vec<(String, Option<String>)>, Malformed> {
    let mut pieces = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in line.chars() {
        if escaped {
            escaped = false;
        } else if quoted && character == '\\' {
            escaped = true;
        } else if character == '"' {
            quoted = !quoted;
        } else if character == ',' && !quoted {
            pieces.push(String::new());
            continue;
        }
        pieces.last_mut().unwrap().push(character);
    }
    if quoted {
        return Err(Malformed);
    }
    let token = |text: &str| !text.is_empty() && text.bytes().all(parse::is_token);
    let mut directives = Vec::new();
    for piece in pieces {
        let piece = piece.trim_matches([' ', '\t']);
        if piece.is_empty() {
            continue;
        }
        let (name, value) = match piece.split_once('=') {
            None => (piece, None),
            Some((name, value)) => (name, Some(value)),
        };
        if !token(name) {
            return Err(Malformed);
        }
        let value = match value {
            None => None,
            Some(value) if token(value) => Some(value.to_owned()),
            Some(value) => {
                let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                let inner = inner.filter(|_| value.len() >= 2).ok_or(Malformed)?;
                let mut plain = String::new();
                let mut characters = inner.chars();
                while let Some(character) = characters.next() {
                    match character {
                        '"' => return Err(Malformed),
                        '\\' => plain.push(characters.next().ok_or(Malformed)?),
                        other => plain.push(other),
                    }
                }
                Some(plain)
            }
        };
        directives.push((name.to_ascii_lowercase(), value));
    }
    Ok(directives)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_written_parses(bytes: Vec<u8>) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let lines: HeaderMap = [(CACHE_CONTROL, value)].into_iter().collect();
            if let Ok(parsed) = CacheControl::parse(&lines) {
                let written = parsed.to_header_value();
                let again: HeaderMap = written.map(|value| (CACHE_CONTROL, value)).into_iter().collect();
                prop_assert_eq!(CacheControl::parse(&again), Ok(parsed));
            }
        }
    }

    #[test]
    fn the_parser_agrees_with_the_slow_reference(
        pieces in prop::collection::vec(
            prop_oneof![
                Just("no-store"), Just("private"), Just("x"), Just("="), Just(","), Just(", "),
                Just("\""), Just("\\"), Just("a"), Just(" "), Just("\t"), Just("x=\"a,b\""), Just("X=1"),
            ],
            0..12,
        ),
    ) {
        let line = pieces.concat();
        let expected = reference(&line);
        let parsed = parse(&line);
        prop_assert_eq!(parsed.is_ok(), expected.is_ok(), "{}", line);
        if let (Ok(parsed), Ok(expected)) = (parsed, expected) {
            let named = |name: &str| expected.iter().any(|directive| directive.0 == name);
            prop_assert_eq!(parsed.no_store, named("no-store"));
            prop_assert_eq!(parsed.private.is_set(), named("private"));
            let known = ["no-store", "private"];
            let others: Vec<_> = expected
                .into_iter()
                .filter(|directive| !known.contains(&directive.0.as_str()))
                .collect();
            prop_assert_eq!(parsed.extensions, others);
        }
    }
}
