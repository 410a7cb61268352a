//! Values of fields that most hits have, ready-made: nothing is allocated for them.

use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderValue;

use super::service::STATUS_NAME;
use crate::semantics::cache_status::CacheStatus;

/// Up to how many seconds.
const MANY: u64 = 1000;

/// What stands before the seconds.
const HIT: &str = "axum-cache; hit; ttl=";

/// `Cache-Status` of a hit that says no time.
const FOREVER: HeaderValue = HeaderValue::from_static("axum-cache; hit");

/// `Cache-Status` of a hit, and what of it is `Age`, by seconds. As constants they are shared without
/// anybody's counting.
static READY: LazyLock<Vec<(HeaderValue, HeaderValue)>> = LazyLock::new(|| {
    let of = |seconds| {
        let hit: &'static str = String::leak(format!("{HIT}{seconds}"));
        let age = &hit[HIT.len()..];
        (HeaderValue::from_static(hit), HeaderValue::from_static(age))
    };
    (0..MANY).map(of).collect()
});

fn of(seconds: u64) -> Option<&'static (HeaderValue, HeaderValue)> {
    READY.get(usize::try_from(seconds).ok()?)
}

/// `Age`.
pub(super) fn age(age: Duration) -> HeaderValue {
    let seconds = age.as_secs();
    of(seconds).map_or_else(|| HeaderValue::from(seconds), |(_, age)| age.clone())
}

/// `Cache-Status` of a hit that is fresh for so long; `None`: for ever.
pub(super) fn hit(ttl: Option<Duration>) -> HeaderValue {
    if let Some((hit, _)) = ttl.and_then(|ttl| of(ttl.as_secs())) {
        return hit.clone();
    }
    let status = CacheStatus::hit(STATUS_NAME).with_ttl(ttl);
    status.value().unwrap_or(FOREVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_is_what_would_be_made() {
        for seconds in 0..2 * MANY {
            let time = Duration::from_secs(seconds);
            assert_eq!(age(time), HeaderValue::from(seconds));
            let made = CacheStatus::hit(STATUS_NAME).with_ttl(Some(time)).value();
            assert_eq!(Some(hit(Some(time))), made, "{seconds}");
        }
        assert_eq!(CacheStatus::hit(STATUS_NAME).value(), Some(FOREVER));
        assert_eq!(hit(None), FOREVER);
        assert!(of(MANY - 1).is_some() && of(MANY).is_none());
        assert_eq!(age(Duration::MAX), HeaderValue::from(u64::MAX));
    }
}
