//! How long an entry may live, and the one rule for rounding that to a store's unit.

use std::time::Duration;

/// How long an entry may live, as a caller asks for it.
///
/// Zero means "do not store, and drop what is there", never "for ever".
///
/// # Django
///
/// The three states of `timeout`: not given, `None`, and a number of seconds. Fractions of a
/// second are kept where the store can, and rounded up, never to zero, where it cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ttl {
    /// What the handle, or else the alias, says.
    #[default]
    Default,
    /// The entry does not expire; it may still be evicted.
    Never,
    /// The entry expires after this long.
    After(Duration),
}

impl Ttl {
    /// The default of an alias that sets none: 300 seconds, as Django's `TIMEOUT`.
    pub const DJANGO: Self = Self::After(Duration::from_secs(300));

    /// This TTL, or `default` where this one leaves the choice.
    #[must_use]
    pub fn or(self, default: Self) -> Self {
        match self {
            Self::Default => default,
            set => set,
        }
    }

    /// What a store is to be asked for: `None` when nothing is to be stored.
    ///
    /// [`Ttl::Default`] counts as [`Ttl::DJANGO`] here; resolve it by [`or`](Self::or) first.
    pub fn lifetime(self) -> Option<Lifetime> {
        match self.or(Self::DJANGO) {
            Self::After(Duration::ZERO) => None,
            Self::After(duration) => Some(Lifetime::For(duration)),
            Self::Never | Self::Default => Some(Lifetime::Forever),
        }
    }
}

impl From<Duration> for Ttl {
    fn from(duration: Duration) -> Self {
        Self::After(duration)
    }
}

/// `None` is [`Ttl::Never`], as in Django.
impl From<Option<Duration>> for Ttl {
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Self::Never, Self::After)
    }
}

/// How long a store has to keep an entry: a [`Ttl`] with the defaults filled in.
///
/// A backend never sees zero: the handle has turned it into a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lifetime {
    /// Until it is deleted or evicted.
    Forever,
    /// For this long, which is more than zero.
    For(Duration),
}

impl Lifetime {
    /// The lifetime in whole `unit`s, rounded up and at least one; `None` is for ever.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum_cache::ttl::Lifetime;
    ///
    /// let half = Lifetime::For(Duration::from_millis(500));
    /// assert_eq!(half.in_units(Duration::from_secs(1)), Some(1));
    /// assert_eq!(half.in_units(Duration::from_millis(1)), Some(500));
    /// assert_eq!(Lifetime::Forever.in_units(Duration::from_secs(1)), None);
    /// ```
    pub fn in_units(self, unit: Duration) -> Option<u64> {
        let Self::For(duration) = self else {
            return None;
        };
        let units = duration.as_nanos().div_ceil(unit.as_nanos().max(1)).max(1);
        Some(u64::try_from(units).unwrap_or(u64::MAX))
    }

    /// The lifetime as a duration; `None` is for ever.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::Forever => None,
            Self::For(duration) => Some(duration),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_only_ttl_that_stores_nothing() {
        assert_eq!(Ttl::After(Duration::ZERO).lifetime(), None);
        assert_eq!(Ttl::Never.lifetime(), Some(Lifetime::Forever));
        let tiny = Duration::from_nanos(1);
        assert_eq!(Ttl::After(tiny).lifetime(), Some(Lifetime::For(tiny)));
    }

    #[test]
    fn lifetimes_round_up_and_saturate() {
        let second = Duration::from_secs(1);
        assert_eq!(
            Lifetime::For(Duration::from_millis(1900)).in_units(second),
            Some(2)
        );
        assert_eq!(
            Lifetime::For(Duration::MAX).in_units(Duration::from_nanos(1)),
            Some(u64::MAX)
        );
    }

    #[test]
    fn none_is_for_ever_and_a_default_yields() {
        assert_eq!(Ttl::from(None), Ttl::Never);
        assert_eq!(Ttl::Default.or(Ttl::Never), Ttl::Never);
        assert_eq!(Ttl::Never.or(Ttl::DJANGO), Ttl::Never);
    }
}
