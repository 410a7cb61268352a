//! Compare and set: a look, and a write of the very value that was looked at.
//!
//! # Invariants
//!
//! - What was stored anew in between is looked at again: it may be the same bytes.
//! - A write goes to the generation that was looked at, or nowhere: in another one the number of the
//!   value means nothing.
//! - A write is sent once: what became of it is an error where nobody knows.

use std::sync::{Mutex, PoisonError};

use super::Memcached;
use super::protocol::{Reply, unexpected};
use super::value::{entry, seconds, set};
use crate::backend::refuse_if_larger;
use crate::entry::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::ttl::Lifetime;

impl Memcached {
    pub(super) async fn swap(
        &self,
        key: &Key,
        expected: &Entry,
        new: &Entry,
        lifetime: Lifetime,
    ) -> Result<bool> {
        refuse_if_larger(new, self.inner.max_value_bytes)?;
        let until = self.until();
        loop {
            // The key of the last time that it was sent: that is the one the reply is about.
            let seen = Mutex::new(String::new());
            let reply = self.send_surely(key, until, |batch, wire| {
                wire.clone_into(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
                batch.push(format_args!("mg {wire} v f c"), None);
            });
            let Some((found, flags)) = entry(reply.await?)? else {
                return Ok(false);
            };
            if found != *expected {
                return Ok(false);
            }
            let cas = flags.cas.ok_or_else(unexpected)?;
            let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
            let reply = self.send(key, until, |batch, wire| {
                if wire == seen {
                    set(batch, wire, new, seconds(lifetime), &format!(" C{cas}"));
                } else {
                    // Cleared meanwhile. A look answers as no write does.
                    batch.push(format_args!("mg {wire} v"), None);
                }
            });
            match reply.await? {
                Reply::Done(_) => return Ok(true),
                Reply::Missing | Reply::NotStored | Reply::Value(..) => return Ok(false),
                Reply::Changed => {}
                Reply::Error(_) => return Err(unexpected()),
            }
        }
    }
}
