//! A body on its way to one client and into a copy, at the pace of its maker.
//!
//! # Invariants
//!
//! - Frames reach the client as they are made. A client that reads slowly, or goes away, neither
//!   slows nor stops the copy; what it has not read yet is at most the ceiling of the copy.
//! - There is a copy when, and only when, the body ended cleanly, at the length that it announced,
//!   and within the ceiling.
//! - Once there will be no copy, the body goes to the client itself: it is read at the client's
//!   pace, and dropped when the client goes away.
//! - A body that panics does so before its client, as it would without a cache.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

/// The most frames that are read without letting others run.
const AT_ONCE: usize = 1024;

/// What a frame takes beside its bytes.
const FRAME_BYTES: usize = 32;

type Item<B> = Result<Frame<Bytes>, <B as Body>::Error>;

/// What is between the maker of a body and its client.
struct Relay<B: Body> {
    state: Mutex<State<B>>,
}

struct State<B: Body> {
    /// Made, and not read by the client yet.
    frames: Queue<Item<B>>,
    source: Source<B>,
    /// The client, if it waits.
    client: Option<Waker>,
    /// The client is gone.
    gone: bool,
    /// The copier, if it wants to know of that.
    copier: Option<Waker>,
}

/// Where the frames come from that are not in the queue.
enum Source<B: Body> {
    /// The copier reads the body and puts them into the queue.
    Copier,
    /// The client reads the rest of the body itself.
    Body(Pin<Box<B>>),
    /// There are no more.
    Ended,
    /// There are no more, and there should be.
    Short,
    /// The body panicked.
    Panicked(Box<dyn Any + Send>),
}

/// The client's end.
pub(super) struct RelayBody<B: Body> {
    relay: Arc<Relay<B>>,
    /// What is left to read.
    left: SizeHint,
}

/// The maker's end: reads the body, and copies it.
pub(super) struct Copier<B: Body> {
    relay: Arc<Relay<B>>,
    /// `None` once it is at its end, or with the client.
    body: Option<Pin<Box<B>>>,
    copy: Copy,
}

/// How a copy ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// The whole body.
    Whole(Bytes),
    /// It is larger than the ceiling.
    TooLarge,
    /// It broke off, or has more than data in it.
    Broken,
}

impl Copied {
    /// The reason why there is no copy, as a token.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Whole(_) => "",
            Self::TooLarge => "body-too-large",
            Self::Broken => "body-broken",
        }
    }
}

struct Copy {
    frames: Queue<Bytes>,
    length: usize,
    ceiling: usize,
    announced: Option<u64>,
}

/// A queue that allocates nothing for one item, as most bodies are of one frame.
struct Queue<T> {
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            first: None,
            rest: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, item: T) {
        if self.is_empty() {
            self.first = Some(item);
        } else {
            self.rest.push_back(item);
        }
    }

    fn pop(&mut self) -> Option<T> {
        self.first.take().or_else(|| self.rest.pop_front())
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }
}

/// Both ends of a relay for `body`. `announced` is the length that the response's fields say.
pub(super) fn relay<B: Body<Data = Bytes>>(
    body: B,
    ceiling: usize,
    announced: Option<u64>,
) -> (RelayBody<B>, Copier<B>) {
    let left = body.size_hint();
    let relay = Arc::new(Relay {
        state: Mutex::new(State {
            frames: Queue::default(),
            source: Source::Copier,
            client: None,
            gone: false,
            copier: None,
        }),
    });
    let copier = Copier {
        relay: Arc::clone(&relay),
        body: Some(Box::pin(body)),
        copy: Copy {
            frames: Queue::default(),
            length: 0,
            ceiling,
            announced,
        },
    };
    (RelayBody { relay, left }, copier)
}

impl<B: Body> Relay<B> {
    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the client if it waits.
    fn change(&self, change: impl FnOnce(&mut State<B>)) {
        let client = {
            let mut state = self.state();
            change(&mut state);
            state.client.take()
        };
        if let Some(client) = client {
            client.wake();
        }
    }
}

impl<B: Body<Data = Bytes>> Copier<B> {
    /// Reads the body to its end, or to where no copy is possible any more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: it goes on where it was.
    pub(super) async fn run(&mut self) -> Copied {
        loop {
            if let Some(copied) = poll_fn(|cx| self.poll_frame(cx)).await {
                return copied;
            }
            tokio::task::consume_budget().await;
        }
    }

    /// As [`run`](Self::run), for as long as there is a client.
    pub(super) async fn run_for_client(&mut self) -> Copied {
        loop {
            let polled = poll_fn(|cx| {
                {
                    let mut state = self.relay.state();
                    if state.gone {
                        return Poll::Ready(Some(Copied::Broken));
                    }
                    state.copier = Some(cx.waker().clone());
                }
                self.poll_frame(cx)
            });
            if let Some(copied) = polled.await {
                return copied;
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Reads what the body has ready, without waiting for more; how the copy ended, if it did.
    pub(super) fn read_ready(&mut self, cx: &mut Context<'_>) -> Option<Copied> {
        for _ in 0..AT_ONCE {
            match self.poll_frame(cx) {
                Poll::Pending => return None,
                Poll::Ready(Some(copied)) => return Some(copied),
                Poll::Ready(None) => {}
            }
        }
        None
    }

    /// Reads one frame; how the copy ended, if it did.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Copied>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(Some(Copied::Broken));
        };
        let polled = catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(cx)));
        let frame = match polled {
            Ok(polled) => ready!(polled),
            Err(panic) => {
                self.end(Source::Panicked(panic));
                return Poll::Ready(Some(Copied::Broken));
            }
        };
        let Some(frame) = frame else {
            let copied = self.copy.finish();
            // A client that is told of a clean end takes what it has for the whole.
            self.end(if copied == Copied::Broken {
                Source::Short
            } else {
                Source::Ended
            });
            return Poll::Ready(Some(copied));
        };
        let ended = match &frame {
            Ok(frame) => self.copy.add(frame),
            Err(_) => Some(Copied::Broken),
        };
        self.relay.change(|state| {
            if !state.gone {
                state.frames.push(frame);
            }
        });
        if ended.is_some()
            && let Some(body) = self.body.take()
        {
            self.copy.frames = Queue::default();
            self.end(Source::Body(body));
        }
        Poll::Ready(ended)
    }

    fn end(&mut self, source: Source<B>) {
        self.body = None;
        self.relay.change(|state| state.source = source);
    }
}

impl<B: Body> Drop for Copier<B> {
    fn drop(&mut self) {
        // A copier that is given up leaves the client to read on by itself.
        if let Some(body) = self.body.take() {
            self.relay.change(|state| state.source = Source::Body(body));
        }
    }
}

impl Copy {
    /// Adds a frame; how the copy ended, if the frame is too much, or no data.
    fn add(&mut self, frame: &Frame<Bytes>) -> Option<Copied> {
        let Some(data) = frame.data_ref() else {
            return Some(Copied::Broken);
        };
        self.length = self.length.saturating_add(data.len());
        // Of many small frames, what they take beside their bytes counts, too.
        let beside = self.frames.len().saturating_sub(AT_ONCE) * FRAME_BYTES;
        if self.length.max(beside) > self.ceiling {
            return Some(Copied::TooLarge);
        }
        self.frames.push(data.clone());
        None
    }

    fn finish(&mut self) -> Copied {
        if self
            .announced
            .is_some_and(|announced| announced != self.length as u64)
        {
            return Copied::Broken;
        }
        let frames = std::mem::take(&mut self.frames);
        Copied::Whole(if frames.rest.is_empty() {
            frames.first.unwrap_or_default()
        } else {
            let mut whole = BytesMut::with_capacity(self.length);
            for frame in frames.first.iter().chain(&frames.rest) {
                whole.extend_from_slice(frame);
            }
            whole.freeze()
        })
    }
}

impl<B: Body> Drop for RelayBody<B> {
    fn drop(&mut self) {
        let copier = {
            let mut state = self.relay.state();
            state.gone = true;
            state.copier.take()
        };
        if let Some(copier) = copier {
            copier.wake();
        }
    }
}

impl<B: Body<Data = Bytes>> RelayBody<B> {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item<B>>> {
        let mut state = self.relay.state();
        let item = match state.frames.pop() {
            Some(item) => Some(item),
            None => match &mut state.source {
                Source::Copier => {
                    state.client = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                // Nobody else locks the state any more.
                Source::Body(body) => ready!(body.as_mut().poll_frame(cx)),
                Source::Ended | Source::Short => None,
                Source::Panicked(_) => {
                    let source = std::mem::replace(&mut state.source, Source::Ended);
                    drop(state);
                    if let Source::Panicked(panic) = source {
                        resume_unwind(panic);
                    }
                    None
                }
            },
        };
        if let Some(Ok(frame)) = &item
            && let Some(data) = frame.data_ref()
        {
            let length = data.len() as u64;
            let lower = self.left.lower().saturating_sub(length);
            let upper = self.left.upper();
            self.left = SizeHint::new();
            if let Some(upper) = upper {
                self.left.set_upper(upper.saturating_sub(length).max(lower));
            }
            self.left.set_lower(lower);
        }
        Poll::Ready(item)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.relay.state();
        state.frames.is_empty()
            && match &state.source {
                Source::Ended => true,
                Source::Body(body) => body.is_end_stream(),
                Source::Copier | Source::Short | Source::Panicked(_) => false,
            }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::io;

    use http::HeaderMap;
    use tokio::sync::mpsc;

    use super::*;

    type Part = io::Result<Frame<Bytes>>;

    struct Parts(mpsc::UnboundedReceiver<Part>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let part = ready!(self.0.poll_recv(cx));
            if let Some(Ok(frame)) = &part
                && frame.data_ref().is_some_and(|data| data == "panic")
            {
                resume_unwind(Box::new("on purpose"));
            }
            Poll::Ready(part)
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "one part among others")]
    fn data(text: &'static str) -> Part {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn body(parts: Vec<Part>) -> (mpsc::UnboundedSender<Part>, Parts) {
        let (sender, receiver) = mpsc::unbounded_channel();
        for part in parts {
            sender.send(part).unwrap();
        }
        (sender, Parts(receiver))
    }

    async fn read(client: &mut RelayBody<Parts>) -> Option<Result<String, ()>> {
        let item = poll_fn(|cx| client.poll_frame(cx)).await?;
        Some(item.map_err(|_| ()).map(|frame| {
            let data = frame.into_data().unwrap_or_default();
            String::from_utf8(data.to_vec()).unwrap()
        }))
    }

    fn ready_now(copier: &mut Copier<Parts>) -> Option<Copied> {
        copier.read_ready(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_body_that_ends_as_announced_is_copied_whole() {
        for (announced, copied) in [
            (None, Copied::Whole(Bytes::from_static(b"abcd"))),
            (Some(4), Copied::Whole(Bytes::from_static(b"abcd"))),
            (Some(5), Copied::Broken),
            (Some(3), Copied::Broken),
        ] {
            let (_, parts) = body(vec![data("ab"), data(""), data("cd")]);
            let (mut client, mut copier) = relay(parts, 4, announced);
            assert_eq!(copier.run().await, copied);
            let whole = copied != Copied::Broken;
            for part in ["ab", "", "cd"] {
                assert_eq!(read(&mut client).await, Some(Ok(part.to_owned())));
            }
            assert_eq!(client.is_end_stream(), whole);
            assert_eq!(read(&mut client).await, None);
        }
    }

    #[tokio::test]
    async fn frames_reach_the_client_as_they_are_made() {
        let (sender, parts) = body(vec![]);
        let (mut client, mut copier) = relay(parts, 100, None);
        let copying = tokio::spawn(async move { copier.run().await });
        for part in ["a", "b"] {
            sender.send(data(part)).unwrap();
            assert_eq!(read(&mut client).await, Some(Ok(part.to_owned())));
        }
        drop(sender);
        assert_eq!(read(&mut client).await, None);
        let whole = Copied::Whole(Bytes::from_static(b"ab"));
        assert_eq!(copying.await.unwrap(), whole);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_does_not_stop_the_copy() {
        let (sender, parts) = body(vec![data("a")]);
        let (client, mut copier) = relay(parts, 100, None);
        assert_eq!(ready_now(&mut copier), None);
        drop(client);
        sender.send(data("b")).unwrap();
        drop(sender);
        let whole = Copied::Whole(Bytes::from_static(b"ab"));
        assert_eq!(copier.run().await, whole);
    }

    #[tokio::test]
    async fn once_it_takes_too_long_the_copy_ends_with_the_client() {
        let (sender, parts) = body(vec![data("a")]);
        let (client, mut copier) = relay(parts, 100, None);
        let copying = tokio::spawn(async move { copier.run_for_client().await });
        tokio::task::yield_now().await;
        assert!(!copying.is_finished());
        drop(client);
        assert_eq!(copying.await.unwrap(), Copied::Broken);
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn many_small_frames_are_too_much() {
        let parts = (0..5_000).map(|_| data("")).collect();
        let (_sender, parts) = body(parts);
        let (_client, mut copier) = relay(parts, 1_000, None);
        assert_eq!(ready_now(&mut copier), None, "others may run");
        assert_eq!(copier.run().await, Copied::TooLarge);
    }

    #[tokio::test]
    async fn over_the_ceiling_the_client_reads_on_at_its_own_pace() {
        let (sender, parts) = body(vec![data("abc"), data("de"), data("f")]);
        let (mut client, mut copier) = relay(parts, 4, None);
        assert_eq!(ready_now(&mut copier), Some(Copied::TooLarge));
        // The last part is still in the body: nobody read ahead.
        assert_eq!(client.relay.state().frames.len(), 2);
        for part in ["abc", "de", "f"] {
            assert_eq!(read(&mut client).await, Some(Ok(part.to_owned())));
        }
        sender.send(Err(io::Error::other("on purpose"))).unwrap();
        assert_eq!(read(&mut client).await, Some(Err(())));
    }

    #[tokio::test]
    async fn errors_trailers_and_a_dropped_copier_reach_the_client_too() {
        let broken = io::Error::other("on purpose");
        let (_, parts) = body(vec![data("a"), Err(broken)]);
        let (mut client, mut copier) = relay(parts, 4, None);
        assert_eq!(copier.run().await, Copied::Broken);
        assert_eq!(read(&mut client).await, Some(Ok("a".to_owned())));
        assert_eq!(read(&mut client).await, Some(Err(())));

        let (_, parts) = body(vec![data("a"), Ok(Frame::trailers(HeaderMap::new()))]);
        let (_client, mut copier) = relay(parts, 4, None);
        assert_eq!(copier.run().await, Copied::Broken);

        let (_, parts) = body(vec![data("a")]);
        let (mut client, copier) = relay(parts, 4, None);
        drop(copier);
        assert_eq!(read(&mut client).await, Some(Ok("a".to_owned())));
        assert_eq!(read(&mut client).await, None);
    }

    #[tokio::test]
    async fn a_panic_of_the_body_is_the_clients() {
        let (_, parts) = body(vec![data("a"), data("panic")]);
        let (mut client, mut copier) = relay(parts, 9, None);
        assert_eq!(copier.run().await, Copied::Broken);
        assert_eq!(read(&mut client).await, Some(Ok("a".to_owned())));
        let panicked = tokio::spawn(async move { read(&mut client).await }).await;
        assert!(panicked.is_err_and(|error| error.is_panic()));
    }
}
