//! How long an operation may take on a store that is not in this process.

use std::future::Future;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// The longest that any one operation waits, connecting included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(pub(super) Duration);

impl Deadline {
    /// The outcome of `operation`, or [`ErrorKind::Timeout`].
    pub(super) async fn run<T>(self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.0, operation).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::new(ErrorKind::Timeout)
                .with_message(format!("store did not answer within {:?}", self.0))),
        }
    }
}
