//! Writing.

use serde::{Serialize, Serializer};

use super::Fixture;
use crate::error::{ErrorKind, Result};
use crate::ttl::{Lifetime, Ttl};

/// A value with no form in any codec.
struct Unencodable;

impl Serialize for Unencodable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("on purpose"))
    }
}

/// Larger values are not made just to be refused.
const MAX_TRIED_BYTES: usize = 128 << 20;

/// L-20.
pub(super) async fn an_overwrite_replaces_value_and_lifetime(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, fixture.short()).await?;
    cache.set("k", &2, Ttl::Never).await?;
    fixture.outlive(fixture.short()).await;
    assert_eq!(cache.get("k").await?, Some(2));
    assert_eq!(cache.ttl_of("k").await?, Some(Lifetime::Forever));
    Ok(())
}

/// L-21.
pub(super) async fn add_stores_only_where_nothing_lives(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert!(cache.add("k", &1, Ttl::Default).await?);
    assert!(!cache.add("k", &2, Ttl::Default).await?);
    assert_eq!(cache.get("k").await?, Some(1));
    Ok(())
}

/// L-21.
pub(super) async fn add_takes_the_place_of_an_expired_entry(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, fixture.short()).await?;
    fixture.outlive(fixture.short()).await;
    assert!(cache.add("k", &2, Ttl::Default).await?);
    assert_eq!(cache.get("k").await?, Some(2));
    Ok(())
}

/// L-26.
pub(super) async fn an_unencodable_value_leaves_the_old_one(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", &1, Ttl::Default).await?;
    for outcome in [
        cache.set("k", &Unencodable, Ttl::Default).await,
        cache.add("k", &Unencodable, Ttl::Default).await.map(drop),
    ] {
        assert_eq!(
            outcome.map_err(|error| error.kind()),
            Err(ErrorKind::Encode)
        );
    }
    assert_eq!(cache.get("k").await?, Some(1));
    Ok(())
}

/// MC-04.
pub(super) async fn an_oversize_value_leaves_nothing(fixture: Fixture) -> Result<()> {
    let limit = fixture.capabilities().max_value_bytes;
    let Some(limit) = limit.filter(|limit| *limit <= MAX_TRIED_BYTES) else {
        return Ok(());
    };
    let cache = fixture.cache();
    cache.set("k", &1, Ttl::Default).await?;
    let oversize = "x".repeat(limit + 1);
    let outcome = cache.set("k", &oversize, Ttl::Default).await;
    assert_eq!(
        outcome.map_err(|error| error.kind()),
        Err(ErrorKind::TooLarge)
    );
    assert!(!cache.contains("k").await?);
    Ok(())
}

/// L-30.
pub(super) async fn delete_says_whether_something_lived(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert!(!cache.delete("k").await?);
    cache.set("k", &1, Ttl::Default).await?;
    assert!(cache.delete("k").await?);
    assert!(!cache.contains("k").await?);
    cache.set("k", &1, fixture.short()).await?;
    fixture.outlive(fixture.short()).await;
    assert!(!cache.delete("k").await?);
    Ok(())
}

/// L-21.
pub(super) async fn sixty_four_adds_have_one_winner(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let racers: Vec<_> = (0..64)
        .map(|racer| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.add("k", &racer, Ttl::Default).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (racer, added) in racers.into_iter().enumerate() {
        if added.await.expect("a racer does not panic")? {
            winners.push(racer);
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(cache.get("k").await?, Some(winners[0]));
    Ok(())
}
