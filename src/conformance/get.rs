//! Reading.

use std::collections::BTreeMap;

use super::Fixture;
use crate::error::Result;
use crate::ttl::Ttl;

/// L-01.
pub(super) async fn a_missing_key_is_none(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert_eq!(cache.get::<String>("absent").await?, None);
    assert!(!cache.contains("absent").await?);
    Ok(())
}

/// L-02, L-06.
pub(super) async fn a_stored_none_is_a_hit(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &None::<u32>, Ttl::Default).await?;
    assert_eq!(cache.get::<Option<u32>>("k").await?, Some(None));
    assert!(cache.contains("k").await?);
    assert!(!cache.add("k", &1, Ttl::Default).await?);
    Ok(())
}

/// L-07, BC-05.
pub(super) async fn every_kind_of_value_comes_back(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("text", "ünï\0code\r\n", Ttl::Default).await?;
    assert_eq!(cache.get("text").await?, Some("ünï\0code\r\n".to_owned()));
    cache.set("empty", "", Ttl::Default).await?;
    assert_eq!(cache.get("empty").await?, Some(String::new()));
    for integer in [0, -1, i64::MIN, i64::MAX] {
        cache.set("integer", &integer, Ttl::Default).await?;
        assert_eq!(cache.get("integer").await?, Some(integer));
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    cache.set("bytes", &bytes, Ttl::Default).await?;
    assert_eq!(cache.get("bytes").await?, Some(bytes));
    let map = BTreeMap::from([("a".to_owned(), vec![Some(1.5), None])]);
    cache.set("map", &map, Ttl::Default).await?;
    assert_eq!(cache.get("map").await?, Some(map));
    Ok(())
}

/// BC-06.
pub(super) async fn another_type_is_a_miss(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", "text", Ttl::Default).await?;
    assert_eq!(cache.get::<u32>("k").await?, None);
    assert_eq!(cache.get("k").await?, Some("text".to_owned()));
    Ok(())
}

/// L-03, L-06.
pub(super) async fn contains_sees_live_entries_only(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let seen = || async {
        cache.set("k", &1, fixture.short()).await?;
        cache.contains("k").await
    };
    assert!(fixture.within(fixture.short(), seen).await?);
    fixture.outlive(fixture.short()).await;
    assert!(!cache.contains("k").await?);
    assert_eq!(cache.get::<u32>("k").await?, None);
    Ok(())
}
