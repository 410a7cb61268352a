//! A store that keeps nothing: DU-01.

use std::convert::Infallible;

use super::Fixture;
use crate::error::{ErrorKind, Result};
use crate::ttl::{Lifetime, Ttl};

pub(super) async fn reads_miss_and_writes_succeed(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert!(!fixture.capabilities().stores);
    cache.set("k", &1, Ttl::Default).await?;
    assert!(cache.add("k", &1, Ttl::Default).await?);
    assert!(cache.set_many([("k", 1)], Ttl::Default).await?.is_empty());
    assert_eq!(cache.get::<i32>("k").await?, None);
    assert!(cache.get_many::<_, i32>(["k"]).await?.is_empty());
    assert!(!cache.contains("k").await?);
    assert!(!cache.touch("k", Ttl::Default).await?);
    assert!(!cache.delete("k").await?);
    assert_eq!(cache.delete_many(["k"]).await?, 0);
    assert_eq!(cache.ttl_of("k").await?, None);
    assert_eq!(cache.delete_prefix("k").await?, 0);
    let (backend, key) = (fixture.backend.as_dyn(), cache.final_key("k")?);
    let old = "1".into();
    let swapped = backend.compare_and_set(&key, &old, "2".into(), Lifetime::Forever);
    assert!(!swapped.await?);
    cache.clear().await?;
    cache.close().await
}

pub(super) async fn counters_and_versions_find_nothing(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let missing = Err(ErrorKind::KeyMissing);
    assert_eq!(cache.incr("k", 1).await.map_err(|e| e.kind()), missing);
    assert_eq!(cache.decr("k", 1).await.map_err(|e| e.kind()), missing);
    let moved = cache.incr_version("k", 1).await;
    assert_eq!(moved.map_err(|e| e.kind()), Err(ErrorKind::KeyMissing));
    Ok(())
}

pub(super) async fn computing_happens_each_time(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    for run in 0..3 {
        let computed = cache.get_or_set("k", Ttl::Default, move || async move {
            Ok::<_, Infallible>(run)
        });
        assert_eq!(computed.await?, run);
    }
    Ok(())
}
