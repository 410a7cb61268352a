//! Response bodies: replayed from the cache, passed through, or copied on their way.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

use super::relay::RelayBody;

pin_project! {
    /// The body of a response that came through a [`CacheLayer`](crate::CacheLayer).
    pub struct CacheBody<B: Body> {
        #[pin]
        inner: Inner<B>,
        // Who wants to know that somebody reads it.
        read: Option<oneshot::Sender<()>>,
    }
}

pin_project! {
    #[project = InnerProject]
    enum Inner<B: Body> {
        Stored { bytes: Option<Bytes> },
        Live { #[pin] body: B },
        Relayed { body: RelayBody<B> },
    }
}

impl<B: Body<Data = Bytes>> CacheBody<B> {
    /// Bytes from the cache.
    pub(super) fn stored(bytes: Bytes) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self::new(Inner::Stored { bytes })
    }

    /// The inner service's body, untouched.
    pub(super) fn live(body: B) -> Self {
        Self::new(Inner::Live { body })
    }

    /// The inner service's body, copied on its way.
    pub(super) fn relayed(body: RelayBody<B>) -> Self {
        Self::new(Inner::Relayed { body })
    }

    /// The same; `read` learns of it if somebody begins to read it, or if nobody will.
    pub(super) fn telling(mut self, read: Option<oneshot::Sender<()>>) -> Self {
        self.read = read;
        self
    }

    fn new(inner: Inner<B>) -> Self {
        Self { inner, read: None }
    }
}

impl<B: Body<Data = Bytes>> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(read) = this.read.take() {
            // Whether anybody wants to know or not.
            let _ = read.send(());
        }
        match this.inner.project() {
            InnerProject::Stored { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            InnerProject::Live { body } => body.poll_frame(cx),
            InnerProject::Relayed { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Stored { bytes } => bytes.is_none(),
            Inner::Live { body } => body.is_end_stream(),
            Inner::Relayed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Stored { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Live { body } => body.size_hint(),
            Inner::Relayed { body } => body.size_hint(),
        }
    }
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.inner {
            Inner::Stored { .. } => "stored",
            Inner::Live { .. } => "live",
            Inner::Relayed { .. } => "relayed",
        };
        f.debug_tuple("CacheBody").field(&kind).finish()
    }
}
