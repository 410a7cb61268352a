//! The keys that a batch computes: their places, and what becomes of them.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Cache;
use super::compute::Outcomes;
use super::making::{Begun, Making, Product};
use crate::error::Result;
use crate::flight::Landing;
use crate::tag::TagStamp;

/// A key that a batch computes.
pub(super) struct Led {
    pub(super) making: Making,
    pub(super) landing: Landing<Outcomes>,
}

/// What is done once for several keys: they wait for no lease, as two batches that take places in
/// any order could wait for each other; and their tags, which are the same, are read once.
pub(super) async fn as_one(cache: &Cache, mut led: Vec<Led>) -> Vec<Led> {
    if led.len() < 2 {
        return led;
    }
    for led in &mut led {
        led.making.policy.lease = None;
    }
    let is_available = led.iter().any(|led| !led.making.is_unavailable);
    if is_available
        && !cache.tags.is_empty()
        && let Ok(stamps) = cache.stamps(&cache.tags).await
    {
        let stamps: Arc<[TagStamp]> = stamps.into();
        for led in &mut led {
            led.making.cache.pinned = Some(Arc::clone(&stamps));
        }
    }
    led
}

/// Takes the places of all that are to be computed. Those that were there by now are landed.
pub(super) async fn begin(led: Vec<Led>) -> Vec<(Begun, Landing<Outcomes>)> {
    let mut beginning = JoinSet::new();
    for led in led {
        beginning.spawn(async move { (led.making.begin().await, led.landing) });
    }
    let mut begun = Vec::with_capacity(beginning.len());
    while let Some(one) = beginning.join_next().await {
        match one {
            Ok((Ok(one), landing)) => begun.push((one, landing)),
            Ok((Err(made), landing)) => landing.land(made),
            // Its landing has told those who wait.
            Err(_) => {}
        }
    }
    begun
}

/// Stores what was made of one key, and tells those who wait for it.
pub(super) async fn end(
    begun: Begun,
    product: Result<Option<Product>>,
    landing: Landing<Outcomes>,
) {
    let made = match product {
        Ok(Some(product)) => begun.keep(product, Some(&landing)).await,
        Ok(None) => begun.leave_out(&landing).await,
        Err(error) => begun.fail(error, Some(&landing)).await,
    };
    landing.land(made);
}
