//! Single cookies: their values for the key, and the lines that hold only them.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderMap, HeaderValue};
use percent_encoding::percent_decode;

use crate::layer::target::joined;

/// What a request has for one cookie, if anything. If it comes more than once, all of them count,
/// and so do spellings of the name that only some handlers take for it.
pub(super) fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, str>> {
    let values = pairs(headers).filter(|pair| is_of(pair, name));
    let values = values.map(|pair| match exact(pair, name) {
        Some(value) => Cow::Borrowed(value),
        // No field holds a NUL, so that this is no plain value.
        None => Cow::Owned([b"\0", pair].concat()),
    });
    joined(values, b";").map(text)
}

/// The first plain value of a cookie.
pub(super) fn first<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let value = pairs(headers).find_map(|pair| exact(pair, name))?;
    std::str::from_utf8(value).ok()
}

/// Leaves the cookies of these names, in the order of the names.
pub(super) fn keep(headers: &mut HeaderMap, names: &[String]) {
    let mut kept: Vec<&[u8]> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if !names[..index].contains(name) {
            kept.extend(pairs(headers).filter(|pair| is_of(pair, name)));
        }
    }
    let line = kept.join(&b"; "[..]);
    set(headers, &line);
}

/// Takes the cookies of this name out.
pub(super) fn remove(headers: &mut HeaderMap, name: &str) {
    if pairs(headers).any(|pair| is_of(pair, name)) {
        let kept: Vec<_> = pairs(headers).filter(|pair| !is_of(pair, name)).collect();
        let line = kept.join(&b"; "[..]);
        set(headers, &line);
    }
}

fn set(headers: &mut HeaderMap, line: &[u8]) {
    headers.remove(COOKIE);
    if !line.is_empty()
        && let Ok(line) = HeaderValue::from_bytes(line)
    {
        headers.insert(COOKIE, line);
    }
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(COOKIE)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

/// The value, if the name is spelled as it is declared.
fn exact<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Whether some handler may take this for the cookie: some trim names, and some decode them.
fn is_of(pair: &[u8], name: &str) -> bool {
    let raw = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    let raw = raw.trim_ascii();
    raw == name.as_bytes()
        || (raw.contains(&b'%') && {
            let decoded: Cow<'_, [u8]> = percent_decode(raw).into();
            decoded.trim_ascii() == name.as_bytes()
        })
}

/// Bytes of fields as text, injectively: what is not UTF-8 becomes Latin-1 behind two NULs, which no
/// other text here begins with.
pub(super) fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    let latin = |bytes: &[u8]| {
        let latin = bytes.iter().map(|byte| char::from(*byte));
        "\0\0".chars().chain(latin).collect()
    };
    match bytes {
        Cow::Borrowed(bytes) => str::from_utf8(bytes).map_or_else(|_| latin(bytes), Cow::from),
        Cow::Owned(bytes) => {
            String::from_utf8(bytes).map_or_else(|error| latin(error.as_bytes()), Cow::from)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines
            .iter()
            .map(|line| (COOKIE, HeaderValue::from_bytes(line).unwrap()))
            .collect()
    }

    #[test]
    fn a_cookie_that_comes_twice_counts_twice() {
        let both = headers(&[b"a=1; sid=x; sid=y", b"sid=z"]);
        assert_eq!(value(&both, "sid").as_deref(), Some("x;y;z"));
        assert_eq!(value(&both, "id"), None);
        assert_eq!(value(&headers(&[b"sid="]), "sid").as_deref(), Some(""));
    }

    #[test]
    fn spellings_that_some_handlers_decode_are_told_apart() {
        let lines: [&[u8]; 9] = [
            b"a=1",
            b"sid=x",
            b"%73id=x",
            b"sid =x",
            b"%73id%20=x",
            b"sid=%73id=x",
            b"sid",
            b"sid=\xff",
            "sid=\u{ff}".as_bytes(),
        ];
        let values: Vec<_> = lines
            .iter()
            .map(|line| value(&headers(&[line]), "sid").map(Cow::into_owned))
            .collect();
        for (index, one) in values.iter().enumerate() {
            assert!(values.iter().skip(index + 1).all(|other| one != other));
        }
    }

    #[test]
    fn lines_are_rebuilt_from_what_is_kept() {
        let line = |headers: &HeaderMap| {
            assert!(headers.get_all(COOKIE).iter().count() <= 1);
            let line = headers.get(COOKIE)?;
            Some(line.to_str().unwrap().to_owned())
        };
        let names = ["b", "a", "b"].map(str::to_owned);
        let mut some = headers(&[b"a=1; c=2; %62=3", b"b=4;;d"]);
        let mut none = headers(&[b"c=1"]);
        remove(&mut some, "x");
        assert_eq!(some.get_all(COOKIE).iter().count(), 2);
        keep(&mut some, &names);
        assert_eq!(line(&some).as_deref(), Some("%62=3; b=4; a=1"));
        remove(&mut some, "b");
        assert_eq!(line(&some).as_deref(), Some("a=1"));
        keep(&mut none, &names);
        assert_eq!(line(&none), None);
    }
}
