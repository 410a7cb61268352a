//! Versions.

use super::Fixture;
use crate::error::{ErrorKind, Result};
use crate::ttl::{Lifetime, Ttl};

/// L-60.
pub(super) async fn versions_are_unrelated(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let zero = cache.with_version(0);
    cache.set("k", &1, Ttl::Default).await?;
    assert_eq!(zero.get::<i32>("k").await?, None);
    zero.set("k", &0, Ttl::Default).await?;
    assert!(cache.delete("k").await?);
    assert_eq!(zero.get("k").await?, Some(0));
    Ok(())
}

/// L-61, L-62.
pub(super) async fn a_move_takes_value_and_lifetime_along(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &None::<i32>, Ttl::Never).await?;
    assert_eq!(cache.incr_version("k", 2).await?, 3);
    assert!(!cache.contains("k").await?);
    let third = cache.with_version(3);
    assert_eq!(third.get::<Option<i32>>("k").await?, Some(None));
    assert_eq!(third.ttl_of("k").await?, Some(Lifetime::Forever));
    assert_eq!(third.decr_version("k", 2).await?, 1);
    assert!(cache.contains("k").await?);
    let moved = || async {
        cache.set("k", &1, fixture.short()).await?;
        Ok(cache.incr_version("k", 1).await? == 2)
    };
    assert!(fixture.within(fixture.short(), moved).await?);
    fixture.outlive(fixture.short()).await;
    assert!(!cache.with_version(2).contains("k").await?);
    Ok(())
}

/// L-62.
pub(super) async fn a_move_replaces_what_is_there(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, Ttl::Default).await?;
    cache.with_version(2).set("k", &2, Ttl::Default).await?;
    assert_eq!(cache.incr_version("k", 1).await?, 2);
    assert_eq!(cache.with_version(2).get("k").await?, Some(1));
    Ok(())
}

/// L-61.
pub(super) async fn a_move_of_nothing_is_an_error(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let missing = cache
        .incr_version("k", 1)
        .await
        .map_err(|error| error.kind());
    assert_eq!(missing, Err(ErrorKind::KeyMissing));
    let below = cache
        .decr_version("k", 2)
        .await
        .map_err(|error| error.kind());
    assert_eq!(below, Err(ErrorKind::OutOfRange));
    Ok(())
}
