//! What is sealed: bytes as they are, or packed.
//!
//! # Invariants
//!
//! - Nothing is packed that would not get smaller by it.
//! - Unpacking allocates no more than the length that was declared, which is at most [`MAX_BYTES`].
//! - Work on more than [`INLINE_BYTES`] is done off the reactor, where there is one.

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::consume_budget;

use super::envelope::Undecodable;
use super::zstd;

/// What is longer is never packed.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// What is longer is packed and unpacked off the reactor.
const INLINE_BYTES: usize = 64 << 10;

/// After so many bytes, others have their turn: a batch of small ones takes long, too.
const STEP_BYTES: usize = 16 << 10;

/// The body of an envelope.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    /// As they are stored.
    pub(super) bytes: Bytes,
    /// How many they are unpacked, if they are packed.
    pub(super) unpacked: Option<u32>,
}

impl Body {
    /// As it is.
    pub(crate) fn plain(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            unpacked: None,
        }
    }

    /// Packed, if it has at least `threshold` bytes, and gets smaller by it.
    pub(crate) async fn packed(bytes: Bytes, threshold: Option<usize>) -> Self {
        let length = bytes.len();
        if threshold.is_none_or(|least| length < least) || length > MAX_BYTES {
            return Self::plain(bytes);
        }
        let plain = bytes.clone();
        let packed = run(length, move || zstd::pack(&plain)).await;
        // Its length is stored, too.
        let is_smaller = |packed: &Vec<u8>| packed.len() + size_of::<u32>() < length;
        match (packed.filter(is_smaller), u32::try_from(length)) {
            (Some(packed), Ok(length)) => Self {
                bytes: packed.into(),
                unpacked: Some(length),
            },
            _ => Self::plain(bytes),
        }
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.unpacked.is_some()
    }

    /// The bytes that were packed.
    pub(crate) async fn unpacked(self) -> Result<Bytes, Undecodable> {
        let Some(length) = self.declared()? else {
            return Ok(self.bytes);
        };
        let unpacked = run(length, move || zstd::unpack(&self.bytes, length)).await;
        unpacked.map(Bytes::from).ok_or(Undecodable::Packed)
    }

    /// The same, but for what is to be unpacked off the reactor.
    pub(crate) fn unpacked_now(self) -> Option<Result<Bytes, Undecodable>> {
        match self.declared() {
            Err(undecodable) => Some(Err(undecodable)),
            Ok(None) => Some(Ok(self.bytes)),
            Ok(Some(length)) if length > INLINE_BYTES => None,
            Ok(Some(length)) => {
                let unpacked = zstd::unpack(&self.bytes, length);
                Some(unpacked.map(Bytes::from).ok_or(Undecodable::Packed))
            }
        }
    }

    fn declared(&self) -> Result<Option<usize>, Undecodable> {
        let Some(length) = self.unpacked else {
            return Ok(None);
        };
        let length = usize::try_from(length).ok();
        let length = length.filter(|length| *length <= MAX_BYTES);
        length.map(Some).ok_or(Undecodable::Packed)
    }
}

/// Runs work on so many bytes.
async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    if bytes > INLINE_BYTES
        && let Ok(runtime) = Handle::try_current()
    {
        return runtime.spawn_blocking(work).await.ok().flatten();
    }
    for _ in 0..bytes.div_ceil(STEP_BYTES) {
        consume_budget().await;
    }
    work()
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::pin::pin;
    use std::task::{Context, Waker};

    use proptest::prelude::*;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap()
    }

    fn packed(bytes: impl Into<Bytes>) -> Body {
        let packed = runtime().block_on(Body::packed(bytes.into(), Some(0)));
        assert!(packed.is_packed());
        packed
    }

    fn unpacked(body: &Body) -> Result<Bytes, Undecodable> {
        let unpacked = runtime().block_on(body.clone().unpacked());
        if let Some(now) = body.clone().unpacked_now() {
            assert_eq!(now, unpacked);
        }
        unpacked
    }

    #[test]
    fn what_is_not_as_it_says_is_undecodable() {
        let bytes = b"so be it ".repeat(1000);
        let packed = packed(bytes.clone());
        let length = packed.unpacked.unwrap();
        assert_eq!(unpacked(&packed).unwrap(), bytes);
        let with = |bytes: &[u8], length| Body {
            bytes: Bytes::copy_from_slice(bytes),
            unpacked: Some(length),
        };
        let most = u32::try_from(MAX_BYTES).unwrap();
        for wrong in [0, 1, length - 1, length + 1, most, most + 1, u32::MAX] {
            let body = with(&packed.bytes, wrong);
            assert_eq!(unpacked(&body), Err(Undecodable::Packed), "{wrong}");
        }
        for end in 0..packed.bytes.len() {
            let body = with(&packed.bytes[..end], length);
            assert_eq!(unpacked(&body), Err(Undecodable::Packed), "{end}");
        }
        let twice = [&packed.bytes[..], &packed.bytes[..]].concat();
        assert_eq!(unpacked(&with(&twice, length)), Err(Undecodable::Packed));
        assert_eq!(unpacked(&with(b"", 0)).unwrap_or_default(), "");
    }

    #[test]
    fn what_is_too_long_or_gets_no_smaller_stays_as_it_is() {
        let pack = |bytes: &Bytes, threshold| {
            let body = runtime().block_on(Body::packed(bytes.clone(), threshold));
            if !body.is_packed() {
                assert_eq!(body.bytes.as_ptr(), bytes.as_ptr());
            }
            body.is_packed()
        };
        let zeros = Bytes::from(vec![0; MAX_BYTES + 1]);
        assert!(!pack(&zeros, Some(0)));
        assert!(pack(&zeros.slice(1..), Some(MAX_BYTES)));
        assert!(!pack(&zeros.slice(..1000), Some(1001)));
        assert!(pack(&zeros.slice(..1000), Some(1000)));
        assert!(!pack(&zeros, None) && !pack(&Bytes::new(), Some(0)));
        let noise = blake3::Hasher::new().finalize_xof();
        let mut random = vec![0; 100_000];
        { noise }.fill(&mut random);
        assert!(!pack(&random.into(), Some(0)));
    }

    /// G7: what is long does not hold others up, and neither do many short ones in a row.
    #[test]
    fn g7_long_work_is_not_done_in_a_poll() {
        let is_ready = |work: &mut dyn FnMut(&mut Context<'_>) -> bool| {
            work(&mut Context::from_waker(Waker::noop()))
        };
        // The other thread is busy until it is let go, so that what it has to do is not done before that.
        let keep_busy = || {
            let (release, held) = std::sync::mpsc::channel::<()>();
            drop(tokio::task::spawn_blocking(move || held.recv()));
            release
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let bytes = Bytes::from(vec![0; INLINE_BYTES + 1]);
            let mut packing = pin!(Body::packed(bytes.clone(), Some(0)));
            let busy = keep_busy();
            assert!(!is_ready(&mut |cx| packing.as_mut().poll(cx).is_ready()));
            drop(busy);
            let body = packing.await;
            assert!(body.clone().unpacked_now().is_none());
            let mut unpacking = pin!(body.unpacked());
            let busy = keep_busy();
            assert!(!is_ready(&mut |cx| unpacking.as_mut().poll(cx).is_ready()));
            drop(busy);
            assert_eq!(unpacking.await.unwrap(), bytes);

            let short = bytes.slice(..INLINE_BYTES);
            let mut packing = pin!(Body::packed(short.clone(), Some(0)));
            assert!(is_ready(&mut |cx| packing.as_mut().poll(cx).is_ready()));
            let mut many = pin!(async {
                for _ in 0..1000 {
                    Body::packed(short.clone(), Some(0)).await;
                }
            });
            assert!(!is_ready(&mut |cx| many.as_mut().poll(cx).is_ready()));
            many.await;
        });
    }

    proptest! {
        #[test]
        fn any_body_comes_back_at_any_threshold(
            bytes: Vec<u8>,
            times in 1..2000_usize,
            threshold in 0..5000_usize,
        ) {
            let bytes = Bytes::from(bytes.repeat(times));
            runtime().block_on(async {
                let body = Body::packed(bytes.clone(), Some(threshold)).await;
                prop_assert!(!body.is_packed() || bytes.len() >= threshold);
                prop_assert!(!body.is_packed() || body.bytes.len() + 4 < bytes.len());
                prop_assert_eq!(body.unpacked().await.unwrap(), bytes);
                Ok(())
            })?;
        }

        #[test]
        fn arbitrary_bytes_are_unpacked_to_what_they_say_or_not_at_all(
            mut bytes: Vec<u8>,
            is_frame: bool,
            length in 0..100_000_u32,
        ) {
            if is_frame && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[0x28, 0xB5, 0x2F, 0xFD]);
            }
            let body = Body { bytes: bytes.into(), unpacked: Some(length) };
            if let Ok(unpacked) = unpacked(&body) {
                prop_assert_eq!(unpacked.len(), length as usize);
            }
        }
    }
}
