//! Batches.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Fixture;
use crate::error::{ErrorKind, Result};
use crate::key::KeyFunction;
use crate::ttl::Ttl;

/// L-04.
pub(super) async fn get_many_answers_with_the_hits(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let failed = cache
        .set_many([("a", Some(1)), ("b", None)], Ttl::Default)
        .await?;
    assert!(failed.is_empty());
    cache.set("gone", &Some(3), fixture.short()).await?;
    fixture.outlive(fixture.short()).await;
    let found = cache.get_many(["a", "b", "gone", "never"]).await?;
    assert_eq!(found, HashMap::from([("a", Some(1)), ("b", None)]));
    Ok(())
}

/// Folds case, so that two spellings are one key.
#[derive(Debug)]
struct Folding;

impl KeyFunction for Folding {
    fn key(&self, key: &str, prefix: &str, version: u64) -> String {
        format!("{prefix}:{version}:{}", key.to_lowercase())
    }
}

/// L-05, K-02.
pub(super) async fn get_many_answers_each_spelling(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache_with("f", |builder| builder.key_function(Folding));
    cache.set("Key", &1, Ttl::Default).await?;
    let found: HashMap<_, i32> = cache.get_many(["key", "KEY"]).await?;
    assert_eq!(found, HashMap::from([("key", 1), ("KEY", 1)]));
    let refused = cache.clear().await.map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::Unsupported));
    Ok(())
}

enum Item {
    Good,
    Bad,
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Good => serializer.serialize_i32(1),
            Self::Bad => Err(serde::ser::Error::custom("on purpose")),
        }
    }
}

/// L-23, L-24, L-25.
pub(super) async fn one_bad_item_does_not_stop_a_batch(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let items = [("a", Item::Good), ("b", Item::Bad), ("c", Item::Good)];
    let failed = cache.set_many(items, Ttl::Default).await?;
    let failed: Vec<_> = failed
        .iter()
        .map(|(key, error)| (*key, error.kind()))
        .collect();
    assert_eq!(failed, [("b", ErrorKind::Encode)]);
    let found: HashMap<_, i32> = cache.get_many(["a", "b", "c"]).await?;
    assert_eq!(found, HashMap::from([("a", 1), ("c", 1)]));
    Ok(())
}

/// L-11.
pub(super) async fn set_many_for_no_time_removes(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set_many([("a", 1), ("b", 2)], Ttl::Default).await?;
    cache.set_many([("a", 3)], Duration::ZERO).await?;
    let found: HashMap<_, i32> = cache.get_many(["a", "b"]).await?;
    assert_eq!(found, HashMap::from([("b", 2)]));
    Ok(())
}

/// L-31.
pub(super) async fn delete_many_ignores_missing_keys(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache
        .set_many([("a", 1), ("b", 2), ("c", 3)], Ttl::Default)
        .await?;
    assert_eq!(cache.delete_many(["a", "never", "b"]).await?, 2);
    let found: HashMap<_, i32> = cache.get_many(["a", "b", "c"]).await?;
    assert_eq!(found, HashMap::from([("c", 3)]));
    Ok(())
}

/// L-04, L-23, L-31.
pub(super) async fn empty_batches_do_nothing(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let none: [&str; 0] = [];
    assert!(cache.get_many::<_, i32>(none).await?.is_empty());
    assert!(
        cache
            .set_many::<&str, i32>([], Ttl::Default)
            .await?
            .is_empty()
    );
    assert_eq!(cache.delete_many(none).await?, 0);
    Ok(())
}
