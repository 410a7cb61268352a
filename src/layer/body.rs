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
    }
}

pin_project! {
    // With the body of an Axum handler no larger than that: a response is moved often.
    #[project = InnerProject]
    enum Inner<B: Body> {
        Live { #[pin] body: B },
        // Nothing if it is empty.
        Own { own: Option<Box<Own<B>>> },
    }
}

/// What is not the inner service's body itself.
struct Own<B: Body> {
    source: Source<B>,
    /// Who wants to know that somebody reads it.
    read: Option<oneshot::Sender<()>>,
}

enum Source<B: Body> {
    Stored(Option<Bytes>),
    Relayed(RelayBody<B>),
}

impl<B: Body<Data = Bytes>> CacheBody<B> {
    /// Bytes from the cache.
    pub(super) fn stored(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self {
                inner: Inner::Own { own: None },
            };
        }
        Self::told(Source::Stored(Some(bytes)), None)
    }

    /// The inner service's body, untouched.
    pub(super) fn live(body: B) -> Self {
        let inner = Inner::Live { body };
        Self { inner }
    }

    /// Bytes that are being stored; `read` learns of it if somebody begins to read them, or if nobody will.
    pub(super) fn storing(bytes: Bytes, read: Option<oneshot::Sender<()>>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self::told(Source::Stored(bytes), read)
    }

    /// The inner service's body, copied on its way; `read` as in [`storing`](Self::storing).
    pub(super) fn relayed(body: RelayBody<B>, read: Option<oneshot::Sender<()>>) -> Self {
        Self::told(Source::Relayed(body), read)
    }

    fn told(source: Source<B>, read: Option<oneshot::Sender<()>>) -> Self {
        let own = Some(Box::new(Own { source, read }));
        Self {
            inner: Inner::Own { own },
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
            InnerProject::Live { body } => body.poll_frame(cx),
            InnerProject::Own { own: None } => Poll::Ready(None),
            InnerProject::Own { own: Some(own) } => {
                if let Some(read) = own.read.take() {
                    // Whether anybody wants to know or not.
                    let _ = read.send(());
                }
                match &mut own.source {
                    Source::Stored(bytes) => {
                        Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
                    }
                    Source::Relayed(body) => body.poll_frame(cx),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Live { body } => body.is_end_stream(),
            Inner::Own { own } => own.as_ref().is_none_or(|own| match &own.source {
                Source::Stored(bytes) => bytes.is_none(),
                Source::Relayed(body) => body.is_end_stream(),
            }),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Live { body } => body.size_hint(),
            Inner::Own { own: None } => SizeHint::with_exact(0),
            Inner::Own { own: Some(own) } => match &own.source {
                Source::Stored(bytes) => {
                    SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
                }
                Source::Relayed(body) => body.size_hint(),
            },
        }
    }
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Live { .. } => "live",
            Inner::Own { own: Some(own) } if matches!(own.source, Source::Relayed(_)) => "relayed",
            Inner::Own { .. } => "stored",
        };
        f.debug_tuple("CacheBody").field(&kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;

    use super::super::ResponseFuture;
    use super::*;

    /// As large as the one of an Axum handler.
    type Live = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

    #[test]
    fn what_is_moved_with_each_hit_is_small() {
        assert_eq!(size_of::<CacheBody<Live>>(), size_of::<Live>());
        // More is copied by a call.
        assert!(size_of::<Response<CacheBody<Live>>>() <= 128);
        assert!(size_of::<ResponseFuture<Live, Infallible>>() <= 48);
    }
}
