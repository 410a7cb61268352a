//! Lifetimes.

use std::time::Duration;

use super::Fixture;
use crate::error::Result;
use crate::ttl::{Lifetime, Ttl};

/// L-11, L-12.
pub(super) async fn zero_stores_nothing_and_drops_what_is_there(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, Ttl::Default).await?;
    cache.set("k", &2, Duration::ZERO).await?;
    assert!(!cache.contains("k").await?);
    cache.set("k", &1, Ttl::Default).await?;
    assert!(cache.touch("k", Duration::ZERO).await?);
    assert!(!cache.contains("k").await?);
    assert!(!cache.touch("k", Duration::ZERO).await?);
    Ok(())
}

/// L-22.
pub(super) async fn add_for_no_time_stores_nothing(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert!(cache.add("k", &1, Duration::ZERO).await?);
    assert!(!cache.contains("k").await?);
    assert!(cache.add("k", &2, Ttl::Default).await?);
    assert!(!cache.add("k", &3, Duration::ZERO).await?);
    assert_eq!(cache.get("k").await?, Some(2));
    Ok(())
}

/// L-03, L-10.
pub(super) async fn an_entry_expires_and_not_before(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let ttl = fixture.short() * 3;
    let lives = || async {
        cache.set("k", &1, ttl).await?;
        (fixture.advance)(fixture.short()).await;
        Ok(cache.get("k").await? == Some(1))
    };
    assert!(fixture.within(ttl, lives).await?);
    fixture.outlive(ttl).await;
    assert_eq!(cache.get::<u32>("k").await?, None);
    Ok(())
}

/// L-10, L-16.
pub(super) async fn never_means_never(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache().with_ttl(None);
    cache.set("k", &1, Ttl::Default).await?;
    assert_eq!(cache.ttl_of("k").await?, Some(Lifetime::Forever));
    Ok(())
}

/// L-15.
pub(super) async fn long_lifetimes_are_kept(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    for days in [29, 31, 3650] {
        let ttl = Duration::from_secs(days * 86400);
        cache.set("k", &days, ttl).await?;
        assert_eq!(cache.get("k").await?, Some(days));
        let rest = cache.ttl_of("k").await?.and_then(Lifetime::duration);
        assert!(rest.is_some_and(|rest| rest + Duration::from_secs(60) > ttl));
    }
    cache.set("k", &0, Duration::MAX).await?;
    assert_eq!(cache.get("k").await?, Some(0));
    Ok(())
}

/// L-13.
pub(super) async fn a_fraction_is_never_zero(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let half = Duration::from_millis(500);
    let lives = || async {
        cache.set("k", &1, half).await?;
        let is_set = cache.get("k").await? == Some(1);
        let is_touched = cache.touch("k", half).await?;
        Ok(is_set && is_touched && cache.get("k").await? == Some(1))
    };
    assert!(
        fixture.within(half, lives).await?,
        "half a second is no time"
    );
    fixture.outlive(half).await;
    assert!(!cache.contains("k").await?);
    Ok(())
}

/// L-27.
pub(super) async fn touch_replaces_the_lifetime_only(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert!(!cache.touch("k", Ttl::Default).await?);
    let touched = || async {
        cache.set("k", &1, fixture.short()).await?;
        cache.touch("k", Ttl::Default).await
    };
    assert!(fixture.within(fixture.short(), touched).await?);
    fixture.outlive(fixture.short()).await;
    assert_eq!(cache.get("k").await?, Some(1));
    assert!(cache.touch("k", fixture.short()).await?);
    fixture.outlive(fixture.short()).await;
    assert!(!cache.contains("k").await?);
    Ok(())
}

/// L-28.
pub(super) async fn touch_of_a_permanent_entry_is_true(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, Ttl::Never).await?;
    assert!(cache.touch("k", Ttl::Never).await?);
    assert_eq!(cache.ttl_of("k").await?, Some(Lifetime::Forever));
    Ok(())
}

/// L-29.
pub(super) async fn touch_does_not_revive(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, fixture.short()).await?;
    fixture.outlive(fixture.short()).await;
    assert!(!cache.touch("k", Ttl::Default).await?);
    assert!(!cache.contains("k").await?);
    Ok(())
}

///
pub(super) async fn the_remaining_lifetime_is_known(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert_eq!(cache.ttl_of("k").await?, None);
    let ttl = Duration::from_secs(100);
    cache.set("k", &1, ttl).await?;
    let rest = cache.ttl_of("k").await?.and_then(Lifetime::duration);
    assert!(rest.is_some_and(|rest| rest <= ttl && rest > ttl / 2));
    Ok(())
}
