//! Storing what several fills have made, in one batch.

use super::Cache;
use crate::entry::Entry;
use crate::error::Result;
use crate::fence::Fill;
use crate::key::Key;
use crate::ttl::Lifetime;

/// One encoded item of a batch, with the fill it belongs to.
pub(crate) struct RawItem {
    pub(crate) key: Key,
    pub(crate) entry: Entry,
    pub(crate) lifetime: Lifetime,
    pub(crate) fill: Fill,
}

impl Cache {
    /// Stores `items` except those whose key was invalidated since their fill began.
    pub(crate) async fn land_many(&self, items: Vec<RawItem>) -> Result<()> {
        let mut batch = Vec::with_capacity(items.len());
        let mut landings = Vec::with_capacity(items.len());
        for item in &items {
            if let Some(landing) = item.fill.landing() {
                batch.push((item.key.clone(), item.entry.clone(), item.lifetime));
                landings.push(landing);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let outcomes = self.backend().set_many(batch).await?;
        outcomes.into_iter().collect()
    }
}
