//! The grammar of `Cache-Control`: `#( token [ "=" ( token / quoted-string ) ] )`.

use std::borrow::Cow;

use http::HeaderName;

use super::{CacheControl, Limit, Malformed, shorter};

/// RFC 9111 section 1.2.2: what a lifetime that is too large counts as.
pub(in crate::semantics) const MAX_SECONDS: u64 = 1 << 31;

pub(super) fn parse_line(line: &[u8], directives: &mut CacheControl) -> Result<(), Malformed> {
    each_directive(line, |name, value| apply(directives, name, value))
}

/// Calls `apply` with each directive of a line, its name in lower case, until one of the two
/// fails.
pub(in crate::semantics) fn each_directive<'l>(
    mut line: &'l [u8],
    mut apply: impl FnMut(Cow<'l, str>, Option<Cow<'l, str>>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    loop {
        line = skip_space(line);
        if let Some(rest) = line.strip_prefix(b",") {
            line = rest;
            continue;
        }
        if line.is_empty() {
            return Ok(());
        }
        let (name, rest) = token(line)?;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        let (value, rest) = match rest.strip_prefix(b"=") {
            Some(rest) => value(rest).map(|(value, rest)| (Some(value), rest))?,
            None => (None, rest),
        };
        line = skip_space(rest);
        if !line.is_empty() && !line.starts_with(b",") {
            return Err(Malformed);
        }
        apply(name, value)?;
    }
}

fn apply(
    directives: &mut CacheControl,
    name: Cow<'_, str>,
    value: Option<Cow<'_, str>>,
) -> Result<(), Malformed> {
    let flag = match &*name {
        "max-age" => return shorten(&mut directives.max_age, value),
        "s-maxage" => return shorten(&mut directives.s_maxage, value),
        "stale-while-revalidate" => {
            return shorten(&mut directives.stale_while_revalidate, value);
        }
        "stale-if-error" => return shorten(&mut directives.stale_if_error, value),
        "no-cache" => {
            limit(&mut directives.no_cache, value);
            return Ok(());
        }
        "private" => {
            limit(&mut directives.private, value);
            return Ok(());
        }
        "no-store" => &mut directives.no_store,
        "no-transform" => &mut directives.no_transform,
        "must-revalidate" => &mut directives.must_revalidate,
        "proxy-revalidate" => &mut directives.proxy_revalidate,
        "must-understand" => &mut directives.must_understand,
        "immutable" => &mut directives.immutable,
        "public" => &mut directives.public,
        _ => {
            let value = value.map(Cow::into_owned);
            directives.extensions.push((name.into_owned(), value));
            return Ok(());
        }
    };
    *flag = true;
    Ok(())
}

fn shorten(lifetime: &mut Option<u64>, value: Option<Cow<'_, str>>) -> Result<(), Malformed> {
    let seconds = delta_seconds(&value.ok_or(Malformed)?)?;
    *lifetime = shorter(*lifetime, Some(seconds));
    Ok(())
}

/// RFC 9111 section 1.2.2.
pub(in crate::semantics) fn delta_seconds(value: &str) -> Result<u64, Malformed> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    // Digits that are no u64 are too many.
    Ok(value
        .parse()
        .map_or(MAX_SECONDS, |seconds: u64| seconds.min(MAX_SECONDS)))
}

/// Field names that are none widen the directive to the whole response.
pub(in crate::semantics) fn limit(limit: &mut Limit, value: Option<Cow<'_, str>>) {
    let fields = value.map(|value| {
        value
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| HeaderName::from_bytes(name.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
    });
    let named = match fields {
        Some(Ok(fields)) if !fields.is_empty() => Limit::Fields(fields),
        _ => Limit::Whole,
    };
    *limit = std::mem::take(limit).widened(&named);
}

fn skip_space(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    &line[spaces.count()..]
}

fn token(line: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let length = line.iter().take_while(|byte| is_token(**byte)).count();
    let (token, rest) = line.split_at(length);
    match std::str::from_utf8(token) {
        Ok(token) if !token.is_empty() => Ok((token, rest)),
        _ => Err(Malformed),
    }
}

fn value(line: &[u8]) -> Result<(Cow<'_, str>, &[u8]), Malformed> {
    match line.strip_prefix(b"\"") {
        Some(quoted) => quoted_string(quoted).map(|(value, rest)| (value.into(), rest)),
        None => token(line).map(|(token, rest)| (token.into(), rest)),
    }
}

/// What stands between the quotes, its escapes undone; `line` begins after the first quote.
fn quoted_string(line: &[u8]) -> Result<(String, &[u8]), Malformed> {
    let mut value = Vec::new();
    let mut bytes = line.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        let byte = match byte {
            b'"' => {
                let value = String::from_utf8(value).map_err(|_| Malformed)?;
                return Ok((value, &line[at + 1..]));
            }
            b'\\' => *bytes.next().ok_or(Malformed)?.1,
            byte => byte,
        };
        if byte != b'\t' && (byte < b' ' || byte == 0x7f) {
            return Err(Malformed);
        }
        value.push(byte);
    }
    Err(Malformed)
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
        )
}
