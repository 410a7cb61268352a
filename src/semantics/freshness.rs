//! Age and freshness: how old a response is, and how long it says it is fresh.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{AGE, DATE, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};

use super::cache_control::CacheControl;
use super::kept::{Kept, kept_or_made};

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

/// How old a response is as it arrives, in seconds: the larger of what its `Date` and its `Age`
/// say, the latter with the time added that the response took. `age` is what [`parse_age`] found.
/// A `Date` that is no date, or lies in the future, says nothing.
///
/// # Specification
///
/// RFC 9111 section 4.2.3.
pub fn corrected_initial_age(
    headers: &HeaderMap,
    age: Option<u64>,
    request_time: SystemTime,
    response_time: SystemTime,
) -> u64 {
    let apparent = parse_date(headers, &DATE)
        .and_then(|date| response_time.duration_since(date).ok())
        .unwrap_or_default();
    let delay = response_time
        .duration_since(request_time)
        .unwrap_or_default();
    let corrected = age.unwrap_or(0).saturating_add(delay.as_secs());
    apparent.as_secs().max(corrected)
}

/// Statuses whose responses may be fresh though they do not say so.
///
/// # Specification
///
/// RFC 9110 section 15.1, without 206, which is a part of something.
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501
    )
}

/// How long a response that does not say so is taken to be fresh: a tenth of the time since its
/// last modification when it was made, and `cap` at most. `None` if that is not known, or nothing
/// permits it: neither the status nor `public`.
///
/// # Specification
///
/// RFC 9111 section 4.2.2.
pub fn heuristic_lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    cache_control: &CacheControl,
    now: SystemTime,
    cap: Duration,
) -> Option<Duration> {
    if !cache_control.public && !is_heuristically_cacheable(status) {
        return None;
    }
    let date = parse_date(headers, &DATE).unwrap_or(now);
    let modified = parse_date(headers, &LAST_MODIFIED)?;
    let unchanged = date.duration_since(modified).ok()?;
    Some((unchanged / 10).min(cap))
}

/// The age at `now` of a response stored at `stored_at` with `initial_age`, in seconds. A clock
/// that went back adds nothing.
///
/// # Specification
///
/// RFC 9111 section 4.2.3.
pub fn current_age(stored_at: SystemTime, initial_age: u64, now: SystemTime) -> Duration {
    let resident = now.duration_since(stored_at).unwrap_or_default();
    Duration::from_secs(initial_age).saturating_add(resident)
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

/// The date in a field that comes once: an IMF-fixdate, or one of the two obsolete forms, in their
/// exact spelling.
///
/// # Specification
///
/// RFC 9110 section 5.6.7.
pub fn parse_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?.to_str().ok()?;
    if lines.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(line).ok()
}

/// An instant as a field's value, in whole seconds; `None` for one that no date can say.
///
/// # Specification
///
/// RFC 9110 section 5.6.7.
pub fn format_date(instant: SystemTime) -> Option<HeaderValue> {
    // What lies beyond the year 9999 makes the formatter panic.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since_epoch = instant.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    if since_epoch.as_secs() > LAST.as_secs() {
        return None;
    }
    let second = since_epoch.as_secs();
    // Spread: a date and another one an hour later are not to be in each other's place.
    let place = second.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0];
    kept_or_made(&DATES, usize::from(place), second, || {
        HeaderValue::try_from(httpdate::fmt_http_date(instant)).ok()
    })
}

thread_local! {
    /// The last dates that were formatted, by second: each page that is stored has one or two.
    static DATES: Kept<u64, 16> = const { RefCell::new([const { None }; 16]) };
}

/// Adds a `Date` of `now` to a response that has none: what is stored keeps the date of its making
/// then, whatever adds one to responses that have none on the way to the client.
///
/// # Specification
///
/// RFC 9110 section 6.6.1.
pub fn stamp_date(headers: &mut HeaderMap, now: SystemTime) {
    if !headers.contains_key(DATE)
        && let Some(date) = format_date(now)
    {
        headers.insert(DATE, date);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::semantics::tests::fields;

    const NOW: u64 = 1_000_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn lifetime(lines: &[(&'static str, &str)]) -> Option<u64> {
        let headers = fields(lines);
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
        let age = |value: &str| parse_age(&fields(&[("age", value)]));
        assert_eq!(age("7"), Some(7));
        assert_eq!(age("7, 9"), Some(7));
        assert_eq!(age("99999999999999999999"), Some(1 << 31));
        for bad in ["", "-1", "1.5", "x"] {
            assert_eq!(age(bad), None, "{bad}");
        }
    }

    fn date(seconds: u64) -> String {
        httpdate::fmt_http_date(at(seconds))
    }

    #[test]
    fn rfc_9111_4_2_3_the_larger_of_apparent_and_corrected_age() {
        let initial = |date_at: u64, age| {
            let headers = fields(&[("date", date(date_at))]);
            corrected_initial_age(&headers, age, at(NOW - 3), at(NOW))
        };
        assert_eq!(initial(NOW - 10, None), 10);
        assert_eq!(initial(NOW - 10, Some(25)), 28);
        assert_eq!(initial(NOW + 10, Some(15)), 18);
        assert_eq!(initial(NOW + 10, None), 3);
        let bare = HeaderMap::new();
        assert_eq!(
            corrected_initial_age(&bare, Some(1), at(NOW), at(NOW - 9)),
            1
        );
    }

    #[test]
    fn rfc_9111_4_2_2_a_tenth_of_the_time_unchanged() {
        let cap = Duration::from_secs(500);
        let lifetime = |status: u16, directives: &CacheControl, modified: u64| {
            let headers = fields(&[("date", date(NOW)), ("last-modified", date(modified))]);
            let status = StatusCode::from_u16(status).unwrap();
            heuristic_lifetime(status, &headers, directives, at(NOW + 99), cap)
        };
        let (none, public) = (CacheControl::new(), CacheControl::new().with_public());
        assert_eq!(
            lifetime(200, &none, NOW - 100),
            Some(Duration::from_secs(10))
        );
        assert_eq!(lifetime(200, &none, NOW - 86_400), Some(cap));
        assert_eq!(lifetime(200, &none, NOW + 1), None);
        for status in [203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert!(lifetime(status, &none, NOW - 100).is_some(), "{status}");
        }
        for status in [201, 202, 206, 302, 307, 403, 500, 502, 503, 504, 599] {
            assert_eq!(lifetime(status, &none, NOW - 100), None, "{status}");
            assert!(lifetime(status, &public, NOW - 100).is_some(), "{status}");
        }
        let without = HeaderMap::new();
        let of_nothing = heuristic_lifetime(StatusCode::OK, &without, &none, at(NOW), cap);
        assert_eq!(of_nothing, None);
    }

    #[test]
    fn rfc_9110_5_6_7_three_forms_in_their_exact_spelling() {
        let parsed = |line: &str| {
            let headers = fields(&[("expires", line)]);
            parse_date(&headers, &EXPIRES).is_some()
        };
        for good in [
            "Thu, 18 Aug 2050 02:01:18 GMT",
            "Thursday, 18-Aug-50 02:01:18 GMT",
            "Thu Aug 18 02:01:18 2050",
            "Mon Aug  8 02:01:18 2050",
        ] {
            assert!(parsed(good), "{good}");
        }
        for bad in [
            "THU, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 AUG 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 gMT",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
        ] {
            assert!(!parsed(bad), "{bad}");
        }
    }

    #[test]
    fn rfc_9110_6_6_1_a_response_without_a_date_gets_one() {
        let mut headers = HeaderMap::new();
        stamp_date(&mut headers, at(NOW));
        stamp_date(&mut headers, at(NOW + 9));
        assert_eq!(parse_date(&headers, &DATE), Some(at(NOW)));
        let last = Duration::from_millis(253_402_300_799_900);
        assert!(format_date(SystemTime::UNIX_EPOCH + last).is_some());
        assert_eq!(format_date(at(253_402_300_800)), None);
        assert_eq!(format_date(SystemTime::UNIX_EPOCH - last), None);
    }

    #[test]
    fn rfc_9111_4_2_3_age_grows_from_what_it_arrived_with() {
        assert_eq!(current_age(at(NOW), 5, at(NOW + 7)).as_secs(), 12);
        assert_eq!(current_age(at(NOW), 5, at(NOW - 7)).as_secs(), 5);
    }
}
