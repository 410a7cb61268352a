//! Compute if absent.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Fixture;
use crate::cache::Cache;
use crate::error::{ErrorKind, Result};
use crate::ttl::Ttl;

fn value<T>(value: T) -> Ready<Result<T, Infallible>> {
    ready(Ok(value))
}

/// A computation that has begun and waits for leave to end.
#[derive(Clone, Default)]
struct Held {
    begun: Arc<Notify>,
    leave: Arc<Notify>,
}

impl Held {
    async fn compute(self) -> Result<i32, Infallible> {
        self.begun.notify_one();
        self.leave.notified().await;
        Ok(1)
    }

    /// Begins a computation of `k`, and does `meanwhile` before it ends.
    async fn around(
        self,
        cache: &Cache,
        meanwhile: impl Future<Output = Result<()>>,
    ) -> Result<i32> {
        let (held, filling) = (self.clone(), cache.clone());
        let filler = tokio::spawn(async move {
            filling
                .get_or_set("k", Ttl::Default, || held.compute())
                .await
        });
        self.begun.notified().await;
        meanwhile.await?;
        self.leave.notify_one();
        filler.await.expect("the caller does not panic")
    }
}

/// Deletes `k` while it is computed: who asks after that gets nothing that was begun before it, and
/// it is not stored.
async fn is_not_undone(cache: &Cache, delete: impl Future<Output = Result<()>>) -> Result<()> {
    let meanwhile = async {
        delete.await?;
        let after = cache.get_or_set("k", Duration::ZERO, || value(3)).await?;
        assert_eq!(after, 3);
        Ok(())
    };
    assert_eq!(Held::default().around(cache, meanwhile).await?, 1);
    assert!(!cache.contains("k").await?);
    Ok(())
}

/// L-40, L-41.
pub(super) async fn a_hit_computes_nothing(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert_eq!(cache.get_or_set("k", Ttl::Default, || value(1)).await?, 1);
    assert_eq!(cache.get("k").await?, Some(1));
    let hit = cache.get_or_set("k", Ttl::Default, || async {
        Err::<i32, _>(std::io::Error::other("computed"))
    });
    assert_eq!(hit.await?, 1);
    Ok(())
}

/// L-41.
pub(super) async fn a_computed_none_is_a_hit_next_time(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    for computed in [None, Some(1)] {
        let got = cache
            .get_or_set("k", Ttl::Default, || value(computed))
            .await?;
        assert_eq!(got, None::<i32>);
    }
    Ok(())
}

/// L-44.
pub(super) async fn callers_at_once_share_one_computation(fixture: Fixture) -> Result<()> {
    let (cache, runs) = (fixture.cache(), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (cache, runs) = (cache.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                let compute = || async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    value(runs.fetch_add(1, Ordering::SeqCst)).await
                };
                cache.get_or_set("k", Ttl::Default, compute).await
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.expect("a caller does not panic")?, 0);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    Ok(())
}

/// M-32, B2.
pub(super) async fn an_error_is_shared_and_not_stored(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let failing = || async { "x".parse::<i32>() };
    let error = cache.get_or_set("k", Ttl::Default, failing).await;
    let error = error.expect_err("the computation fails");
    assert_eq!(error.kind(), ErrorKind::Compute);
    assert!(error.compute_error::<std::num::ParseIntError>().is_some());
    assert!(!cache.contains("k").await?);
    assert_eq!(cache.get_or_set("k", Ttl::Default, || value(1)).await?, 1);
    Ok(())
}

/// B3.
pub(super) async fn a_panic_releases_the_key(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let panicking = || async {
        tokio::task::yield_now().await;
        if true {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        value(0).await
    };
    let error = cache.get_or_set("k", Ttl::Default, panicking).await;
    assert_eq!(error.map_err(|error| error.kind()), Err(ErrorKind::Compute));
    assert_eq!(cache.get_or_set("k", Ttl::Default, || value(1)).await?, 1);
    Ok(())
}

/// L-42.
pub(super) async fn for_no_time_nothing_is_stored(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    assert_eq!(cache.get_or_set("k", Duration::ZERO, || value(1)).await?, 1);
    assert!(!cache.contains("k").await?);
    Ok(())
}

/// L-40.
pub(super) async fn another_writer_wins(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let other = cache.clone();
    let set = async move { other.set("k", &2, Ttl::Default).await };
    assert_eq!(Held::default().around(&cache, set).await?, 2);
    assert_eq!(cache.get("k").await?, Some(2));
    Ok(())
}

/// M8.
pub(super) async fn a_delete_meanwhile_is_not_undone(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    is_not_undone(&cache, async { cache.delete("k").await.map(drop) }).await
}

/// M8.
pub(super) async fn a_clear_meanwhile_is_not_undone(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let other = cache.clone();
    let clear = async move { other.clear().await };
    assert_eq!(Held::default().around(&cache, clear).await?, 1);
    assert!(!cache.contains("k").await?);
    Ok(())
}

/// M8.
pub(super) async fn a_delete_of_its_prefix_meanwhile_is_not_undone(fixture: Fixture) -> Result<()> {
    let (cache, can) = (fixture.cache(), fixture.capabilities().deletes_prefixes);
    let delete = async {
        if can {
            cache.delete_prefix("").await.map(drop)
        } else {
            cache.delete("k").await.map(drop)
        }
    };
    is_not_undone(&cache, delete).await
}

/// C5.
pub(super) async fn a_caller_that_leaves_does_not_cancel(fixture: Fixture) -> Result<()> {
    let (cache, held) = (fixture.cache(), Held::default());
    let (computing, filling) = (held.clone(), cache.clone());
    let caller = tokio::spawn(async move {
        filling
            .get_or_set("k", Ttl::Default, || computing.compute())
            .await
    });
    held.begun.notified().await;
    caller.abort();
    let follower = cache.clone();
    let follower =
        tokio::spawn(async move { follower.get_or_set("k", Ttl::Default, || value(2)).await });
    while !follower.is_finished() {
        held.leave.notify_one();
        tokio::task::yield_now().await;
    }
    assert_eq!(follower.await.expect("the follower does not panic")?, 1);
    assert_eq!(cache.get("k").await?, Some(1));
    Ok(())
}

/// BC-06, C12.
pub(super) async fn what_cannot_be_decoded_is_computed_anew(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    cache.set("k", "text", Ttl::Default).await?;
    assert_eq!(cache.get_or_set("k", Ttl::Default, || value(1)).await?, 1);
    assert_eq!(cache.get("k").await?, Some(1));
    Ok(())
}
