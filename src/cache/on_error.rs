//! What becomes of calls whose store fails.

use super::Cache;
use crate::error::{Error, Result};
use crate::observe;

/// What reads and writes of values do when the store is unavailable or does not answer in time.
///
/// Pages and fragments go on without their store in any case, and so does
/// [`get_or_set`](Cache::get_or_set), unless its policy is to [fail](crate::Policy::fail_closed). What
/// removes something fails in any case, as it may still be there; and so do counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnError {
    /// They return the error.
    #[default]
    Error,
    /// Reads find nothing, and writes are left undone. The error is an event and a metric.
    Miss,
}

impl Cache {
    /// The outcome of a call, or `instead` if the store failed and that is not to show.
    pub(super) fn or_instead<T>(
        &self,
        operation: &'static str,
        outcome: Result<T>,
        instead: impl FnOnce() -> T,
    ) -> Result<T> {
        match outcome {
            Err(error) if self.shared.on_error == OnError::Miss && error.is_transient() => {
                observe::failed(self.name(), operation, &error);
                Ok(instead())
            }
            outcome => outcome,
        }
    }

    /// The error of a look-up, if that ends a call that fails closed.
    pub(super) fn go_on(
        &self,
        operation: &'static str,
        error: Error,
        fail_closed: bool,
    ) -> Result<()> {
        observe::failed(self.name(), operation, &error);
        if fail_closed { Err(error) } else { Ok(()) }
    }
}
