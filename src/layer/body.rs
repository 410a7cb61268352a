//! Response bodies: replayed from the cache, passed through, or copied on their way.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response that came through a [`CacheLayer`](crate::CacheLayer).
    pub struct CacheBody<B: Body> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = InnerProject]
    enum Inner<B: Body> {
        Stored { bytes: Option<Bytes> },
        Live { #[pin] body: B },
        Tee { tee: Box<Tee<B>> },
    }
}

impl<B: Body<Data = Bytes>> CacheBody<B> {
    /// Bytes from the cache.
    pub(super) fn stored(bytes: Bytes) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self {
            inner: Inner::Stored { bytes },
        }
    }

    /// The inner service's body, untouched.
    pub(super) fn live(body: B) -> Self {
        Self {
            inner: Inner::Live { body },
        }
    }

    /// The inner service's body, copied as it is read.
    pub(super) fn tee(tee: Tee<B>) -> Self {
        Self {
            inner: Inner::Tee { tee: Box::new(tee) },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().inner.project() {
            InnerProject::Stored { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            InnerProject::Live { body } => body.poll_frame(cx),
            InnerProject::Tee { tee } => tee.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Stored { bytes } => bytes.is_none(),
            Inner::Live { body } => body.is_end_stream(),
            // The end has to be read for the copy to be complete.
            Inner::Tee { tee } => tee.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Live { body } => body.size_hint(),
            Inner::Tee { tee } => tee.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.inner {
            Inner::Stored { .. } => "stored",
            Inner::Live { .. } => "live",
            Inner::Tee { .. } => "tee",
        };
        f.debug_tuple("CacheBody").field(&kind).finish()
    }
}

/// Reads a body once: frames go to the client as they come, a copy of at most `ceiling` bytes to
/// `complete` when, and only when, the body ends cleanly and at the length it announced.
pub(super) struct Tee<B: Body> {
    body: Pin<Box<B>>,
    /// Read ahead of the client.
    ahead: VecDeque<Result<Frame<Bytes>, B::Error>>,
    ended: bool,
    copy: Option<Copy>,
}

struct Copy {
    frames: Vec<Bytes>,
    length: usize,
    ceiling: usize,
    announced: Option<u64>,
    complete: OnComplete,
}

/// Takes the copy of a complete body.
pub(super) type OnComplete = Box<dyn FnOnce(Bytes) + Send>;

impl<B: Body<Data = Bytes>> Tee<B> {
    pub(super) fn new(
        body: B,
        ceiling: usize,
        announced: Option<u64>,
        complete: OnComplete,
    ) -> Self {
        Self {
            body: Box::pin(body),
            ahead: VecDeque::new(),
            ended: false,
            copy: Some(Copy {
                frames: Vec::new(),
                length: 0,
                ceiling,
                announced,
                complete,
            }),
        }
    }

    /// Reads what the body has ready, without waiting for more. The whole body if it is complete
    /// then, and has been handed to `complete`.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        while self.copy.is_some() {
            match self.poll_body(cx) {
                Poll::Pending => return None,
                Poll::Ready((Some(frame), _)) => self.ahead.push_back(frame),
                Poll::Ready((None, whole)) => return whole,
            }
        }
        None
    }

    /// Whether the copy was given up: too large, or broken.
    pub(super) fn is_given_up(&self) -> bool {
        self.copy.is_none() && !self.ended
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.ahead.pop_front() {
            return Poll::Ready(Some(frame));
        }
        let (frame, _) = ready!(self.poll_body(cx));
        // A server that has sent all that was announced does not ask for the end.
        while self.copy.as_ref().is_some_and(Copy::is_as_announced) {
            match self.poll_body(cx) {
                Poll::Ready((Some(frame), _)) => self.ahead.push_back(frame),
                Poll::Ready((None, _)) | Poll::Pending => break,
            }
        }
        Poll::Ready(frame)
    }

    /// The next frame, copied; at the end, the whole body if the copy is complete.
    #[allow(clippy::type_complexity, reason = "a frame, and at the end the whole")]
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(Option<Result<Frame<Bytes>, B::Error>>, Option<Bytes>)> {
        if self.ended {
            return Poll::Ready((None, None));
        }
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        match &frame {
            None => {
                self.ended = true;
                let whole = self.copy.take().and_then(Copy::finish);
                return Poll::Ready((None, whole));
            }
            Some(Ok(frame)) => {
                self.copy = self.copy.take().and_then(|copy| copy.add(frame));
            }
            Some(Err(_)) => self.copy = None,
        }
        Poll::Ready((frame, None))
    }

    fn is_over(&self) -> bool {
        self.ended && self.ahead.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead: u64 = self
            .ahead
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref())
            .map(|data| data.len() as u64)
            .sum();
        let rest = if self.ended {
            SizeHint::with_exact(0)
        } else {
            self.body.size_hint()
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}

impl Copy {
    /// The copy with one more frame, unless that makes it too large, or it is no data.
    fn add(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref()?;
        self.length = self.length.checked_add(data.len())?;
        if self.length > self.ceiling {
            return None;
        }
        self.frames.push(data.clone());
        Some(self)
    }

    fn is_as_announced(&self) -> bool {
        self.announced == Some(self.length as u64)
    }

    fn finish(self) -> Option<Bytes> {
        if self
            .announced
            .is_some_and(|announced| announced != self.length as u64)
        {
            return None;
        }
        let whole = match <[Bytes; 1]>::try_from(self.frames) {
            Ok([whole]) => whole,
            Err(frames) => {
                let mut whole = BytesMut::with_capacity(self.length);
                for frame in &frames {
                    whole.extend_from_slice(frame);
                }
                whole.freeze()
            }
        };
        (self.complete)(whole.clone());
        Some(whole)
    }
}
