//! Age and freshness: how old a response is, and how long it says it is fresh.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, HeaderMap, HeaderName};

use super::cache_control::CacheControl;

/// The `Age` a response arrived with, in seconds: the first member of the first line, if it is a
/// number; too large a one counts as 2^31.
///
/// # Specification
///
/// RFC 9111 section 5.1.
pub fn parse_age(headers: &HeaderMap) -> Option<u64> {
    let line = headers.get(AGE)?.to_str().ok()?;
    let member = line.split(',').next()?.trim();
    let is_number = !member.is_empty() && member.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| member.parse().map_or(1 << 31, |age: u64| age.min(1 << 31)))
}

/// The age at `now`, in seconds, of a response stored at `stored_at` with `initial_age`. A clock
/// that went back adds nothing.
///
/// # Specification
///
/// RFC 9111 section 4.2.3.
pub fn current_age(stored_at: SystemTime, initial_age: u64, now: SystemTime) -> u64 {
    let resident = now.duration_since(stored_at).unwrap_or_default();
    initial_age.saturating_add(resident.as_secs())
}

/// How long a response says that it is fresh for a shared cache, counted from its making:
/// `s-maxage`, or else `max-age`, or else `Expires` less `Date`, or less `now` without one. An
/// `Expires` that is no date has passed. `None`: it does not say.
///
/// # Specification
///
/// RFC 9111 sections 4.2.1 and 5.3.
pub fn explicit_lifetime(
    headers: &HeaderMap,
    cache_control: &CacheControl,
    now: SystemTime,
) -> Option<Duration> {
    if let Some(seconds) = cache_control.s_maxage.or(cache_control.max_age) {
        return Some(Duration::from_secs(seconds));
    }
    headers.contains_key(EXPIRES).then(|| {
        let date = parse_date(headers, &DATE).unwrap_or(now);
        let expires = parse_date(headers, &EXPIRES);
        expires
            .and_then(|expires| expires.duration_since(date).ok())
            .unwrap_or_default()
    })
}

/// The date in a field that comes once.
fn parse_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?.to_str().ok()?;
    if lines.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(line).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use http::HeaderValue;

    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn lifetime(lines: &[(&'static str, &str)]) -> Option<u64> {
        let headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        let cache_control = CacheControl::parse(&headers).unwrap();
        explicit_lifetime(&headers, &cache_control, at(NOW)).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn rfc_9111_4_2_1_s_maxage_then_max_age_then_expires() {
        let expires = httpdate::fmt_http_date(at(NOW + 30));
        let date = httpdate::fmt_http_date(at(NOW - 10));
        let all = "max-age=20, s-maxage=10";
        assert_eq!(
            lifetime(&[("cache-control", all), ("expires", &expires)]),
            Some(10)
        );
        assert_eq!(
            lifetime(&[("cache-control", "max-age=20"), ("expires", &expires)]),
            Some(20)
        );
        assert_eq!(lifetime(&[("expires", &expires)]), Some(30));
        assert_eq!(
            lifetime(&[("expires", &expires), ("date", &date)]),
            Some(40)
        );
        assert_eq!(lifetime(&[("cache-control", "public")]), None);
    }

    #[test]
    fn rfc_9111_5_3_an_expires_that_is_no_date_has_passed() {
        let past = httpdate::fmt_http_date(at(NOW - 1));
        let future = httpdate::fmt_http_date(at(NOW + 9));
        for expires in ["0", "-1", "tomorrow", "", &past] {
            assert_eq!(lifetime(&[("expires", expires)]), Some(0), "{expires}");
        }
        assert_eq!(
            lifetime(&[("expires", &future), ("expires", &future)]),
            Some(0)
        );
    }

    #[test]
    fn rfc_9111_5_1_age_is_a_number_or_nothing() {
        let age = |value: &str| {
            let headers = [(AGE, HeaderValue::from_str(value).unwrap())];
            parse_age(&headers.into_iter().collect())
        };
        assert_eq!(age("7"), Some(7));
        assert_eq!(age("7, 9"), Some(7));
        assert_eq!(age("99999999999999999999"), Some(1 << 31));
        for bad in ["", "-1", "1.5", "x"] {
            assert_eq!(age(bad), None, "{bad}");
        }
    }

    #[test]
    fn rfc_9111_4_2_3_age_grows_from_what_it_arrived_with() {
        assert_eq!(current_age(at(NOW), 5, at(NOW + 7)), 12);
        assert_eq!(current_age(at(NOW), 5, at(NOW - 7)), 5);
    }
}
