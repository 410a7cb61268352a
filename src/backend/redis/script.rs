//! Scripts: what has to happen on the server in one step.

use std::sync::LazyLock;

use redis::{Script, Value, cmd};

use super::lane::Request;
use super::{Redis, reply};
use crate::error::Result;
use crate::key::Key;

/// A script that the server knows by its digest once it has seen it.
pub(super) struct KeyScript {
    text: &'static str,
    digest: String,
}

impl KeyScript {
    pub(super) fn new(text: &'static str) -> Self {
        let digest = Script::new(text).get_hash().to_owned();
        Self { text, digest }
    }
}

impl Redis {
    /// Runs a script on `key`.
    pub(super) async fn run(
        &self,
        script: &KeyScript,
        key: &Key,
        arguments: &[&[u8]],
    ) -> Result<Value> {
        let run = |how: &str, script: &str| {
            let mut run = cmd(how);
            run.arg(script).arg(1).arg(key.as_str());
            for argument in arguments {
                run.arg(*argument);
            }
            run
        };
        let (hash, until) = (self.hash(key), self.until());
        let by_digest = run("EVALSHA", &script.digest);
        match self.write(hash, Request::Command(&by_digest), until).await {
            Err(error) if reply::code(&error) == Some("NOSCRIPT") => {
                let by_text = run("EVAL", script.text);
                self.write(hash, Request::Command(&by_text), until).await
            }
            answer => answer,
        }
    }
}

/// Nil if there is no such key; the time to live stays.
pub(super) static INCR: LazyLock<KeyScript> = LazyLock::new(|| {
    KeyScript::new(
        "if redis.call('EXISTS', KEYS[1]) == 0 then return nil end \
         return redis.call('INCRBY', KEYS[1], ARGV[1])",
    )
});

/// What follows the bytes to compare with is what follows the key in `SET`. The time to live goes
/// with the value that it was of.
pub(super) static COMPARE_AND_SET: LazyLock<KeyScript> = LazyLock::new(|| {
    KeyScript::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         redis.call('SET', KEYS[1], unpack(ARGV, 2)) \
         return 1",
    )
});
