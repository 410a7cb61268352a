//! Counters.

use super::Fixture;
use crate::error::{ErrorKind, Result};
use crate::ttl::{Lifetime, Ttl};

/// L-50.
pub(super) async fn incr_and_decr_return_the_new_value(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("n", &41, Ttl::Default).await?;
    assert_eq!(cache.incr("n", 1).await?, 42);
    assert_eq!(cache.decr("n", 50).await?, -8);
    assert_eq!(cache.incr("n", -2).await?, -10);
    assert_eq!(cache.decr("n", -10).await?, 0);
    assert_eq!(cache.get("n").await?, Some(0));
    Ok(())
}

/// L-51, L-54.
pub(super) async fn a_missing_or_expired_counter_is_not_created(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let missing = Err(ErrorKind::KeyMissing);
    assert_eq!(cache.incr("n", 1).await.map_err(|e| e.kind()), missing);
    cache.set("n", &1, fixture.short()).await?;
    fixture.outlive(fixture.short()).await;
    assert_eq!(cache.decr("n", 1).await.map_err(|e| e.kind()), missing);
    assert!(!cache.contains("n").await?);
    Ok(())
}

/// L-52, L-55.
pub(super) async fn only_integers_count(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let refused = Err(ErrorKind::NotAnInteger);
    cache.set("n", "5", Ttl::Default).await?;
    assert_eq!(cache.incr("n", 1).await.map_err(|e| e.kind()), refused);
    cache.set("n", &None::<u8>, Ttl::Default).await?;
    assert_eq!(cache.incr("n", 1).await.map_err(|e| e.kind()), refused);
    cache.set("n", &1.5, Ttl::Default).await?;
    assert_eq!(cache.incr("n", 1).await.map_err(|e| e.kind()), refused);
    assert_eq!(cache.get("n").await?, Some(1.5));
    Ok(())
}

/// L-55.
pub(super) async fn the_range_is_checked(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let refused = Err(ErrorKind::OutOfRange);
    cache.set("n", &i64::MAX, Ttl::Default).await?;
    assert_eq!(cache.incr("n", 1).await.map_err(|e| e.kind()), refused);
    assert_eq!(cache.get("n").await?, Some(i64::MAX));
    cache.set("n", &i64::MIN, Ttl::Default).await?;
    assert_eq!(cache.decr("n", 1).await.map_err(|e| e.kind()), refused);
    assert_eq!(
        cache.decr("n", i64::MIN).await.map_err(|e| e.kind()),
        refused
    );
    assert_eq!(cache.get("n").await?, Some(i64::MIN));
    Ok(())
}

/// L-53.
pub(super) async fn the_lifetime_is_kept(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let counted = || async {
        cache.set("n", &1, fixture.short()).await?;
        Ok(cache.incr("n", 1).await? == 2)
    };
    assert!(fixture.within(fixture.short(), counted).await?);
    fixture.outlive(fixture.short()).await;
    assert!(!cache.contains("n").await?);
    cache.set("n", &1, Ttl::Never).await?;
    cache.incr("n", 1).await?;
    assert_eq!(cache.ttl_of("n").await?, Some(Lifetime::Forever));
    Ok(())
}

/// L-54.
pub(super) async fn no_update_is_lost(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("n", &0, Ttl::Default).await?;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    cache.incr("n", 3).await?;
                    cache.decr("n", 2).await?;
                }
                Ok::<_, crate::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task does not panic")?;
    }
    assert_eq!(cache.get("n").await?, Some(800));
    Ok(())
}
