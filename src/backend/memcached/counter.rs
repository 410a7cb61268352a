//! Counters: the server's arithmetic, after a look.

use super::Memcached;
use super::protocol::{Reply, unexpected};
use super::value::{COUNTER, unbiased};
use crate::error::{ErrorKind, Result};
use crate::key::Key;

/// A counter nearer to zero than this is [`STEP`]s by the million away from the ends of its range,
/// so the server may add to whatever it holds by then.
const FAR: u64 = 1 << 62;
const STEP: u64 = 1 << 32;

impl Memcached {
    pub(super) async fn change_counter(&self, key: &Key, delta: i64) -> Result<i64> {
        let until = self.until();
        loop {
            let reply = self.send(key, until, |batch, wire| {
                batch.push(format_args!("mg {wire} v f c"), None);
            });
            let (value, cas) = match reply.await? {
                Reply::Value(value, flags) if flags.client == COUNTER => (value, flags.cas),
                Reply::Value(..) => return Err(ErrorKind::NotAnInteger.into()),
                Reply::Missing => return Err(ErrorKind::KeyMissing.into()),
                _ => return Err(unexpected()),
            };
            let value = unbiased(&value).ok_or(ErrorKind::NotAnInteger)?;
            let sum = value.checked_add(delta).ok_or(ErrorKind::OutOfRange)?;
            let is_far = value.unsigned_abs() < FAR && delta.unsigned_abs() < STEP;
            // Near the ends of the range, only if nobody came in between.
            let cas = cas.filter(|_| !is_far).map(|cas| format!(" C{cas}"));
            let cas = cas.unwrap_or_default();
            let (mode, by) = (if delta < 0 { "MD" } else { "MI" }, delta.unsigned_abs());
            let reply = self.send(key, until, |batch, wire| {
                batch.push(format_args!("ma {wire} {mode} D{by} v{cas}"), None);
            });
            match reply.await {
                Ok(Reply::Value(sum, _)) => return unbiased(&sum).ok_or_else(unexpected),
                Ok(Reply::Done(_)) => return Ok(sum),
                Ok(Reply::Missing) => return Err(ErrorKind::KeyMissing.into()),
                Ok(Reply::Changed) => {}
                Ok(_) => return Err(unexpected()),
                Err(error) => return Err(error),
            }
        }
    }
}
