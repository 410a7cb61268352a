//! Waiting for two answers at once, so that they take one round trip.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// The outcomes of both futures, which run side by side.
pub(super) async fn both<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(outcome) = one.as_mut().poll(cx)
        {
            first = Some(outcome);
        }
        if second.is_none()
            && let Poll::Ready(outcome) = other.as_mut().poll(cx)
        {
            second = Some(outcome);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_slower_one_is_waited_for_and_no_longer() {
        let start = Instant::now();
        let after = |seconds| async move {
            sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        assert_eq!(both(after(2), after(3)).await, (2, 3));
        assert_eq!(both(after(2), async { 0 }).await, (2, 0));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
