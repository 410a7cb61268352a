//! Comparing and setting.

use std::time::Duration;

use super::Fixture;
use crate::backend::DynBackend;
use crate::cache::Cache;
use crate::entry::Entry;
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::ttl::{Lifetime, Ttl};

/// No case lasts as long.
const LONG: Lifetime = Lifetime::For(Duration::from_secs(1000));

/// A key of the case's in its backend, if that can compare; else it says so.
struct Compared {
    fixture: Fixture,
    cache: Cache,
    key: Key,
}

impl Compared {
    async fn new(fixture: Fixture) -> Result<Option<Self>> {
        let cache = fixture.cache();
        let key = cache.final_key("k")?;
        let this = Self {
            fixture,
            cache,
            key,
        };
        if this.fixture.capabilities().compares {
            return Ok(Some(this));
        }
        let swapped = this.swap("a", "b").await.map_err(|error| error.kind());
        assert_eq!(swapped, Err(ErrorKind::Unsupported));
        Ok(None)
    }

    fn backend(&self) -> &dyn DynBackend {
        self.fixture.backend.as_dyn()
    }

    async fn set(&self, entry: impl Into<Entry>) -> Result<()> {
        let lifetime = Lifetime::Forever;
        self.backend().set(&self.key, entry.into(), lifetime).await
    }

    async fn get(&self) -> Result<Option<Entry>> {
        self.backend().get(&self.key).await
    }

    async fn swap(&self, expected: impl Into<Entry>, entry: impl Into<Entry>) -> Result<bool> {
        self.swap_for(expected, entry, Lifetime::Forever).await
    }

    async fn swap_for(
        &self,
        expected: impl Into<Entry>,
        entry: impl Into<Entry>,
        lifetime: Lifetime,
    ) -> Result<bool> {
        let backend = self.backend();
        backend
            .compare_and_set(&self.key, &expected.into(), entry.into(), lifetime)
            .await
    }
}

pub(super) async fn equal_bytes_are_replaced_and_no_others(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    it.set("old").await?;
    for other in ["", "ol", "old ", "Old", "older", "new"] {
        assert!(!it.swap(other, "new").await?, "{other:?}");
    }
    assert_eq!(it.get().await?, Some("old".into()));
    assert!(it.swap("old", "new").await?);
    assert_eq!(it.get().await?, Some("new".into()));
    assert!(!it.swap("old", "newer").await?);
    assert_eq!(it.get().await?, Some("new".into()));
    Ok(())
}

pub(super) async fn nothing_is_not_replaced(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    assert!(!it.swap("", "new").await?);
    assert!(!it.swap("old", "new").await?);
    let short = Lifetime::For(it.fixture.short());
    it.backend().set(&it.key, "old".into(), short).await?;
    it.fixture.outlive(it.fixture.short()).await;
    assert!(!it.swap("old", "new").await?, "expired");
    it.set("old").await?;
    assert!(it.backend().delete(&it.key).await?);
    assert!(!it.swap("old", "new").await?, "deleted");
    it.set("old").await?;
    it.cache.clear().await?;
    assert!(!it.swap("old", "new").await?, "cleared");
    assert_eq!(it.get().await?, None);
    Ok(())
}

pub(super) async fn the_new_lifetime_counts(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    let short = Lifetime::For(it.fixture.short());
    it.set("old").await?;
    assert!(it.swap_for("old", "new", short).await?);
    it.fixture.outlive(it.fixture.short()).await;
    assert_eq!(it.get().await?, None);
    it.backend().set(&it.key, "old".into(), LONG).await?;
    assert!(it.swap("old", "new").await?);
    assert_eq!(it.backend().ttl(&it.key).await?, Some(Lifetime::Forever));
    Ok(())
}

pub(super) async fn equal_bytes_renew_the_lifetime(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    for same in ["same", "", "7"] {
        it.backend().set(&it.key, same.into(), LONG).await?;
        assert!(it.swap(same, same).await?, "{same:?}");
        assert_eq!(it.backend().ttl(&it.key).await?, Some(Lifetime::Forever));
        assert!(it.swap(same, same).await?, "{same:?} for as long");
        assert!(it.swap_for(same, same, LONG).await?, "{same:?}");
        let left = it.backend().ttl(&it.key).await?;
        assert!(left.is_some_and(|left| left != Lifetime::Forever));
        assert_eq!(it.get().await?, Some(same.into()));
    }
    Ok(())
}

pub(super) async fn any_bytes_are_compared(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    let every: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..100 << 10_u32).map(|at: u32| (at % 251) as u8).collect();
    let mut almost = large.clone();
    *almost.last_mut().expect("it is large") ^= 1;
    let values: [&[u8]; 16] = [
        b"",
        b"\0",
        b"\0\0",
        b" ",
        b"\r\n",
        b"END\r\n",
        b"1",
        b"1 ",
        b"01",
        b"-1",
        b"!1",
        b"1.0",
        b"\xff\xfe",
        &every,
        &large,
        &almost,
    ];
    it.set(values[0].to_vec()).await?;
    for (at, now) in values.iter().enumerate() {
        for other in values.iter().filter(|other| *other != now) {
            let (other, new) = (other.to_vec(), b"new".to_vec());
            let differs = !it.swap(other, new).await?;
            assert!(differs, "value {at}");
        }
        let next = values[(at + 1) % values.len()];
        assert!(it.swap(now.to_vec(), next.to_vec()).await?, "value {at}");
        assert_eq!(it.get().await?, Some(next.to_vec().into()), "value {at}");
    }
    Ok(())
}

pub(super) async fn counters_are_compared_by_their_digits(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    it.cache.set("k", &41, Ttl::Never).await?;
    assert_eq!(it.cache.incr("k", 1).await?, 42);
    assert!(!it.swap("41", "0").await?);
    assert!(it.swap("42", "-9").await?);
    assert_eq!(it.cache.incr("k", 19).await?, 10);
    // Shorter than it was.
    assert_eq!(it.cache.decr("k", 1).await?, 9);
    assert!(it.swap("9", "no number").await?);
    assert!(it.swap("no number", "9223372036854775807").await?);
    assert_eq!(it.cache.get("k").await?, Some(i64::MAX));
    Ok(())
}

pub(super) async fn of_sixty_four_at_once_one_wins(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    for round in 0..3 {
        it.set("old").await?;
        let racers: Vec<_> = (0..64)
            .map(|racer| {
                let (backend, key) = (it.fixture.backend.clone(), it.key.clone());
                let new = format!("{round}: {racer}").into_bytes();
                tokio::spawn(async move {
                    let (old, new) = ("old".into(), Entry::from(new));
                    let swapped = backend.as_dyn().compare_and_set(
                        &key,
                        &old,
                        new.clone(),
                        Lifetime::Forever,
                    );
                    swapped.await.map(|swapped| swapped.then_some(new))
                })
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            winners.extend(racer.await.expect("a racer does not panic")?);
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(it.get().await?, winners.pop());
    }
    Ok(())
}

/// A value that is stored anew is not another one.
pub(super) async fn equal_bytes_at_once_are_all_renewed(fixture: Fixture) -> Result<()> {
    let Some(it) = Compared::new(fixture).await? else {
        return Ok(());
    };
    it.set("same").await?;
    let renewals: Vec<_> = (0..16)
        .map(|_| {
            let (backend, key) = (it.fixture.backend.clone(), it.key.clone());
            tokio::spawn(async move {
                let same = Entry::from("same");
                let backend = backend.as_dyn();
                backend
                    .compare_and_set(&key, &same, same.clone(), LONG)
                    .await
            })
        })
        .collect();
    for renewal in renewals {
        assert!(renewal.await.expect("a renewal does not panic")?);
    }
    Ok(())
}
