//! Values of fields that were made a moment ago: what is said of one response is said of many.

use std::cell::RefCell;
use std::thread::LocalKey;

use http::HeaderValue;

/// The last values that a thread made, and what of.
pub(super) type Kept<K, const N: usize> = RefCell<[Option<(K, HeaderValue)>; N]>;

/// The value that `make` makes of `of`, which has this place among those that are kept.
pub(super) fn kept_or_made<K: PartialEq, const N: usize>(
    kept: &'static LocalKey<Kept<K, N>>,
    place: usize,
    of: K,
    make: impl Fn() -> Option<HeaderValue>,
) -> Option<HeaderValue> {
    let found = kept.try_with(|kept| {
        let place = &mut kept.borrow_mut()[place % N];
        if let Some((made_of, value)) = place
            && *made_of == of
        {
            return Some(value.clone());
        }
        let value = make()?;
        *place = Some((of, value.clone()));
        Some(value)
    });
    // A thread that is about to end keeps nothing.
    found.unwrap_or_else(|_| make())
}
