//! What the targets share: messages as text, and slow rules to hold the fast ones against.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

/// The fields in lines of `name: value`; what is none is left out.
pub fn fields(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().skip(1).position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..=colon], &line[colon + 2..]);
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.trim_ascii()),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

/// Text before the first `end`, and what is behind it.
pub fn until<'a>(bytes: &'a [u8], end: &[u8]) -> (&'a [u8], &'a [u8]) {
    match bytes.windows(end.len()).position(|window| window == end) {
        Some(at) => (&bytes[..at], &bytes[at + end.len()..]),
        None => (bytes, &[]),
    }
}

/// Whether a directive of this name is in any line of a `Cache-Control`, as a reader sees it who
/// knows nothing but commas and quotes.
pub fn says(headers: &HeaderMap, directive: &str) -> bool {
    says_in(headers, &CACHE_CONTROL, directive)
}

/// The same of another field.
pub fn says_in(headers: &HeaderMap, field: &HeaderName, directive: &str) -> bool {
    headers.get_all(field).iter().any(|line| {
        let mut members = vec![Vec::new()];
        let (mut quoted, mut escaped) = (false, false);
        for byte in line.as_bytes() {
            if *byte == b',' && !quoted {
                members.push(Vec::new());
                continue;
            }
            if *byte == b'"' && !escaped {
                quoted = !quoted;
            }
            escaped = quoted && *byte == b'\\' && !escaped;
            members.last_mut().unwrap().push(*byte);
        }
        members.iter().any(|member| {
            let name = member.split(|byte| *byte == b'=').next().unwrap();
            name.trim_ascii().eq_ignore_ascii_case(directive.as_bytes())
        })
    })
}
