//! Emptying a cache.

use super::Fixture;
use crate::error::Result;
use crate::ttl::Ttl;

/// L-32.
pub(super) async fn clear_spares_other_prefixes(fixture: Fixture) -> Result<()> {
    let cleared = fixture.cache_with("a", |builder| builder);
    let mut spared = Vec::new();
    for suffix in ["", "ab", "a:", "a:1", "b", "%"] {
        let other = fixture.cache_with(suffix, |builder| builder);
        other.set("k", &1, Ttl::Default).await?;
        spared.push(other);
    }
    cleared.set("k", &1, Ttl::Default).await?;
    cleared.set(&"x".repeat(300), &1, Ttl::Default).await?;
    cleared.clear().await?;
    assert!(!cleared.contains("k").await?);
    assert!(!cleared.contains(&"x".repeat(300)).await?);
    for other in spared {
        assert_eq!(other.get("k").await?, Some(1));
    }
    Ok(())
}

/// L-32.
pub(super) async fn clear_takes_every_version(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    for version in [0, 1, 2] {
        cache.with_version(version).set("k", &1, Ttl::Never).await?;
    }
    cache.clear().await?;
    for version in [0, 1, 2] {
        assert!(!cache.with_version(version).contains("k").await?);
    }
    cache.clear().await
}

/// L-32.
pub(super) async fn an_entry_after_clear_lives(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, Ttl::Default).await?;
    cache.clear().await?;
    assert!(cache.add("k", &2, Ttl::Default).await?);
    assert_eq!(cache.get("k").await?, Some(2));
    assert_eq!(cache.get_many::<_, i32>(["k"]).await?.len(), 1);
    Ok(())
}
