//! Values of fields that most hits have, ready-made: nothing is allocated for them.

use std::sync::LazyLock;

use http::HeaderValue;

/// Up to how many seconds.
const MANY: u64 = 1000;

/// What stands before the seconds.
const HIT: &str = "axum-cache; hit; ttl=";

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
pub(super) fn age(seconds: u64) -> HeaderValue {
    of(seconds).map_or_else(|| HeaderValue::from(seconds), |(_, age)| age.clone())
}

/// `Cache-Status` of a hit that is fresh for so many seconds; `None` if it is to be made.
pub(super) fn hit(seconds: u64) -> Option<HeaderValue> {
    of(seconds).map(|(hit, _)| hit.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::*;
    use crate::layer::service::STATUS_NAME;
    use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus};

    #[test]
    fn what_is_ready_is_what_would_be_made() {
        for seconds in 0..2 * MANY {
            assert_eq!(age(seconds), HeaderValue::from(seconds));
            let mut headers = HeaderMap::new();
            let ttl = Some(Duration::from_secs(seconds));
            CacheStatus::hit(STATUS_NAME)
                .with_ttl(ttl)
                .append_to(&mut headers);
            let is_ready = hit(seconds).is_none_or(|hit| hit == headers[CACHE_STATUS]);
            assert!(is_ready, "{seconds}");
        }
        assert!(hit(999).is_some() && hit(1000).is_none());
        assert_eq!(age(u64::MAX), HeaderValue::from(u64::MAX));
    }
}
