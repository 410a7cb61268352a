//! What benchmarks measure by.
#![allow(dead_code, reason = "not every benchmark needs all of it")]
#![allow(clippy::cast_precision_loss, reason = "far below 2^52")]

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the processor that this thread has used.
pub(crate) fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
