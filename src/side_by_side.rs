//! Waiting for several answers at once, so that they take one round trip.

use std::future::{Future, poll_fn};
#[cfg(feature = "memory")]
use std::pin::Pin;
use std::pin::pin;
use std::task::Poll;

/// Both answers, and no wait longer than that for the slower one.
pub(crate) async fn both<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut a, mut b) = (None, None);
    poll_fn(|context| {
        if a.is_none()
            && let Poll::Ready(answer) = first.as_mut().poll(context)
        {
            a = Some(answer);
        }
        if b.is_none()
            && let Poll::Ready(answer) = second.as_mut().poll(context)
        {
            b = Some(answer);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (one, other) => {
                (a, b) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

/// All answers, in their order.
#[cfg(feature = "memory")]
pub(crate) async fn all<T>(futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(Some).collect();
    let mut answers: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_pending = false;
        for (waiting, answer) in waiting.iter_mut().zip(&mut answers) {
            if let Some(future) = waiting {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => {
                        *answer = Some(ready);
                        *waiting = None;
                    }
                    Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    async fn after<T>(millis: u64, answer: T) -> T {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn the_slower_one_is_waited_for_and_no_longer() {
        let start = Instant::now();
        assert_eq!(both(after(20, 1), after(10, 2)).await, (1, 2));
        assert_eq!(both(after(10, 1), after(20, 2)).await, (1, 2));
        assert_eq!(both(after(20, 1), async { 2 }).await, (1, 2));
        assert_eq!(start.elapsed(), Duration::from_millis(60));
    }

    #[cfg(feature = "memory")]
    #[tokio::test(start_paused = true)]
    async fn answers_come_in_order_and_are_waited_for_together() {
        let start = Instant::now();
        let futures = [30, 10, 20].map(|millis| Box::pin(after(millis, millis)) as Pin<Box<_>>);
        let futures: Vec<Pin<Box<dyn Future<Output = u64> + Send>>> =
            futures.into_iter().map(|future| future as _).collect();
        assert_eq!(all(futures).await, [30, 10, 20]);
        assert!(all::<u8>(Vec::new()).await.is_empty());
        assert_eq!(start.elapsed(), Duration::from_millis(30));
    }
}
