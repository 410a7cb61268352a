//! Keys, whatever they hold.

use super::Fixture;
use crate::error::{ErrorKind, Result};
use crate::key::KeyPolicy;
use crate::ttl::Ttl;

/// K-04, K-05, K-07.
pub(super) async fn odd_keys_come_back_and_stay_apart(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let keys = [
        "",
        " ",
        "a",
        "A",
        "a b",
        "a\nb",
        "a\r\nset x",
        "\0",
        "\x7f",
        "漢字",
        "é",
        "e\u{301}",
        "🦀",
        "a:b",
        "%",
        "*",
        "[a]",
        "?",
        "\\",
        "'",
        "\"",
        "../a",
        "#",
        "a\u{a0}b",
    ];
    for (index, key) in keys.iter().enumerate() {
        cache.set(key, &index, Ttl::Default).await?;
    }
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(cache.get(key).await?, Some(index), "{key:?}");
    }
    Ok(())
}

/// K-04, K-05, K-06.
pub(super) async fn long_keys_stay_apart(fixture: Fixture) -> Result<()> {
    let cache = fixture.cache();
    let (one, other) = ("x".repeat(5000), "x".repeat(5001));
    cache.set(&one, &1, Ttl::Default).await?;
    cache.set(&other, &2, Ttl::Default).await?;
    assert_eq!(
        (cache.get(&one).await?, cache.get(&other).await?),
        (Some(1), Some(2))
    );
    let strict = fixture.cache_with("", |builder| builder.key_policy(KeyPolicy::Error));
    for key in [one.as_str(), "a b"] {
        let refused = strict.get::<i32>(key).await.map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::InvalidKey));
        let refused = strict
            .set(key, &1, Ttl::Default)
            .await
            .map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::InvalidKey));
    }
    Ok(())
}

/// K-01, K-03.
pub(super) async fn prefixes_stay_apart(fixture: Fixture) -> Result<()> {
    let one = fixture.cache_with("a:1", |builder| builder);
    let other = fixture.cache_with("a", |builder| builder);
    one.with_version(2).set("k", &1, Ttl::Default).await?;
    assert_eq!(other.get::<i32>("2:k").await?, None);
    Ok(())
}
