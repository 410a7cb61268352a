//! Removing entries by how their keys begin.

use super::Fixture;
use crate::cache::Cache;
use crate::error::{ErrorKind, Result};
use crate::ttl::Ttl;

/// How many went; `None` where the store says that it cannot.
async fn delete(cache: &Cache, prefix: &str) -> Result<Option<u64>> {
    let deleted = cache.delete_prefix(prefix).await;
    if cache.capabilities().deletes_prefixes {
        return deleted.map(Some);
    }
    assert_eq!(
        deleted.map_err(|error| error.kind()),
        Err(ErrorKind::Unsupported)
    );
    Ok(None)
}

async fn set(cache: &Cache, keys: &[&str]) -> Result<()> {
    let items = keys.iter().map(|key| (*key, 1));
    assert!(cache.set_many(items, Ttl::Default).await?.is_empty());
    Ok(())
}

async fn assert_left(cache: &Cache, gone: &[&str], left: &[&str]) -> Result<()> {
    for key in gone {
        assert!(!cache.contains(key).await?, "{key:?} is still there");
    }
    for key in left {
        assert_eq!(cache.get(key).await?, Some(1), "{key:?}");
    }
    Ok(())
}

pub(super) async fn what_begins_with_it_goes_and_nothing_else(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let gone = ["p/", "p/a", "p/a/b", "p//", "p/\u{10ffff}", "p/\u{e9}"];
    let left = ["p", "pa", "p0", "p.", "P/a", "q/", "/p/a", "", "p\u{e9}"];
    set(&cache, &gone).await?;
    set(&cache, &left).await?;
    if delete(&cache, "p/").await? != Some(6) {
        assert!(!fixture.capabilities().deletes_prefixes);
        return assert_left(&cache, &[], &[&gone[..], &left].concat()).await;
    }
    assert_left(&cache, &gone, &left).await?;
    assert_eq!(delete(&cache, "p/").await?, Some(0));
    assert!(cache.add("p/a", &1, Ttl::Default).await?);
    assert_left(&cache, &[], &["p/a"]).await?;
    assert_eq!(delete(&cache, "").await?, Some(left.len() as u64 + 1));
    assert_left(&cache, &left, &[]).await
}

pub(super) async fn no_character_stands_for_others(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let keys = [
        "a%b", "a_b", "a*b", "a?b", "a[b]", "a\\b", "a^b", "a-b", "a'b", "a\u{e9}b",
    ];
    for (gone, key) in keys.iter().enumerate() {
        set(&cache, &keys).await?;
        let prefix = key.strip_suffix(['b', ']']).unwrap_or(key);
        if delete(&cache, prefix).await? != Some(1) {
            assert!(!fixture.capabilities().deletes_prefixes, "{key:?}");
            return Ok(());
        }
        let left = [&keys[..gone], &keys[gone + 1..]].concat();
        assert_left(&cache, &[key], &left).await?;
    }
    Ok(())
}

pub(super) async fn versions_and_other_caches_are_spared(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache_with("a", |builder| builder);
    let mut spared = vec![cache.with_version(0), cache.with_version(11)];
    for suffix in ["", "ab", "a:", "a:1", "b", "%"] {
        spared.push(fixture.cache_with(suffix, |builder| builder));
    }
    for cache in spared.iter().chain([&cache]) {
        set(cache, &["k", "1:k"]).await?;
    }
    if delete(&cache, "").await?.is_some() {
        assert_left(&cache, &["k", "1:k"], &[]).await?;
    }
    for cache in spared {
        assert_left(&cache, &[], &["k", "1:k"]).await?;
    }
    Ok(())
}

pub(super) async fn namespaces_that_begin_with_it_go(fixture: Fixture) -> Result<()> {
    let cache = |suffix| fixture.cache_with(suffix, |builder| builder);
    let (gone, left) = ([cache("x"), cache("xa")], [cache(""), cache("ax")]);
    for cache in gone.iter().chain(&left) {
        set(cache, &["k"]).await?;
    }
    if fixture.capabilities().deletes_prefixes {
        let prefix = format!("{}x", fixture.prefix);
        assert_eq!(fixture.backend.as_dyn().delete_prefix(&prefix).await?, 2);
        for cache in gone {
            assert_left(&cache, &["k"], &[]).await?;
        }
    }
    for cache in left {
        assert_left(&cache, &[], &["k"]).await?;
    }
    Ok(())
}

pub(super) async fn hashed_keys_go_too(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let long = "\u{6f22}".repeat(100);
    let gone = [&format!("p/{long}"), "p/a b", "p/\n", "p/\0"];
    let left = [&long, "q/a b", "p a", " p/"];
    set(&cache, &gone).await?;
    set(&cache, &left).await?;
    if delete(&cache, "p/").await?.is_some() {
        assert_left(&cache, &gone, &left).await?;
    }
    for prefix in [&long, "p a"] {
        let refused = cache.delete_prefix(prefix).await;
        let refused = refused.map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::Unsupported));
    }
    assert_left(&cache, &[], &left).await
}

pub(super) async fn all_of_many_go(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let keys: Vec<_> = (0..250).map(|n| format!("p{n}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    for batch in keys.chunks(100) {
        set(&cache, batch).await?;
    }
    set(&cache, &["o", "q"]).await?;
    if let Some(deleted) = delete(&cache, "p").await? {
        assert!(cache.get_many::<_, i32>(keys).await?.is_empty());
        // Fewer if a removal was sent twice.
        assert!((1..=250).contains(&deleted), "{deleted}");
    }
    assert_left(&cache, &[], &["o", "q"]).await
}
