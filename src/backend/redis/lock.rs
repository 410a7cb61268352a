//! A lock that several processes share, held for a lease.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use redis::cmd;

use super::lane::Request;
use super::script::KeyScript;
use super::{Redis, millis, reply};
use crate::error::Result;
use crate::key::Key;
use crate::ttl::Lifetime;

/// A lock that is held; see [`Redis::try_lock`].
///
/// It is not released when it is dropped: [`release`](Self::release) it, or let its lease end.
#[derive(Debug)]
#[must_use = "a lock that nobody releases is held until its lease ends"]
pub struct RedisLock {
    redis: Redis,
    key: Key,
    token: String,
}

impl Redis {
    /// Takes the lock of this key, for `lease` at most; `None` if another holds it.
    ///
    /// Whoever holds it alone may release or extend it. It is as safe as one server's memory: a
    /// failover may lose it, so use it to save work, not to protect data.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) or [`Timeout`](crate::ErrorKind::Timeout);
    /// it may be held then, until the lease ends.
    ///
    /// # Django
    ///
    /// `lock` of `django-redis`.
    pub async fn try_lock(&self, key: &Key, lease: Duration) -> Result<Option<RedisLock>> {
        let token = token();
        let mut set = cmd("SET");
        set.arg(key.as_str()).arg(&token).arg("NX");
        set.arg("PX").arg(millis(Lifetime::For(lease)));
        let request = Request::Command(&set);
        let locked = reply::done(self.write(self.hash(key), request, self.until()).await);
        let locked = locked.map_err(|error| error.at("redis", "try_lock"))?;
        Ok(locked.then(|| RedisLock {
            redis: self.clone(),
            key: key.clone(),
            token,
        }))
    }
}

impl RedisLock {
    /// Holds it for `lease` from now. Whether it was still held.
    ///
    /// # Errors
    ///
    /// As [`Redis::try_lock`].
    pub async fn extend(&self, lease: Duration) -> Result<bool> {
        let lease = millis(Lifetime::For(lease)).unwrap_or_default().to_string();
        let arguments = [self.token.as_bytes(), lease.as_bytes()];
        let answer = self.redis.run(&EXTEND, &self.key, &arguments).await;
        reply::is_some(answer).map_err(|error| error.at("redis", "extend"))
    }

    /// Gives it back. Whether it was still held.
    ///
    /// # Errors
    ///
    /// As [`Redis::try_lock`].
    pub async fn release(self) -> Result<bool> {
        let arguments = [self.token.as_bytes()];
        let answer = self.redis.run(&RELEASE, &self.key, &arguments).await;
        reply::is_some(answer).map_err(|error| error.at("redis", "release"))
    }
}

/// Differs between holders, processes and machines.
fn token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    let random = PROCESS.hash_one((count, nanos));
    format!("{random:016x}{nanos:032x}{count:x}")
}

static EXTEND: LazyLock<KeyScript> = LazyLock::new(|| {
    KeyScript::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

static RELEASE: LazyLock<KeyScript> = LazyLock::new(|| {
    KeyScript::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         return redis.call('DEL', KEYS[1])",
    )
});
