//! Typed values to bytes and back, by serde; JSON unless an alias says otherwise.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BoxError, Error, ErrorKind, Result};

/// How the values of a cache are written.
///
/// Chosen at run time, so it works on serde's traits with their types erased:
///
/// ```
/// use axum_cache::BoxError;
/// use axum_cache::codec::{Codec, Visit};
/// use erased_serde::{Deserializer, Serialize};
///
/// #[derive(Debug)]
/// struct Pretty;
///
/// impl Codec for Pretty {
///     fn encode(&self, value: &dyn Serialize) -> Result<Vec<u8>, BoxError> {
///         Ok(serde_json::to_vec_pretty(value)?)
///     }
///
///     fn decode(&self, bytes: &[u8], visit: Visit<'_>) -> Result<(), BoxError> {
///         let mut json = serde_json::Deserializer::from_slice(bytes);
///         visit(&mut <dyn Deserializer<'_>>::erase(&mut json))?;
///         Ok(json.end()?)
///     }
/// }
/// ```
///
/// # Django
///
/// The serialiser of a backend's `OPTIONS`. Nothing here can run code from the store, as
/// pickle can.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// The bytes of a value. Integers must come out as plain decimal digits for counters
    /// (`incr`) to work on values that `set` stored.
    ///
    /// # Errors
    ///
    /// When the value has no form in this codec.
    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, BoxError>;

    /// Hands a deserializer over the bytes to `visit`, once.
    ///
    /// # Errors
    ///
    /// Whatever `visit` returns, and when bytes are left over.
    fn decode(&self, bytes: &[u8], visit: Visit<'_>) -> Result<(), BoxError>;
}

/// Takes the value out of a deserializer; see [`Codec::decode`].
pub type Visit<'a> =
    &'a mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error>;

/// The codec of a cache; JSON is known by name, to spare it the erasure.
#[derive(Clone, Debug, Default)]
pub(crate) enum AnyCodec {
    #[default]
    Json,
    Custom(Arc<dyn Codec>),
}

impl AnyCodec {
    pub(crate) fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes> {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(BoxError::from),
            Self::Custom(codec) => codec.encode(&value),
        }
        // What is stored is to hold no more than its length, by which it is counted.
        .map(|bytes| Bytes::from(bytes.into_boxed_slice()))
        .map_err(|source| Error::new(ErrorKind::Encode).with_source(source))
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(BoxError::from),
            Self::Custom(codec) => decode(&**codec, bytes),
        }
        .map_err(|source| Error::new(ErrorKind::Decode).with_source(source))
    }
}

fn decode<T: DeserializeOwned>(codec: &dyn Codec, bytes: &[u8]) -> Result<T, BoxError> {
    let mut value = None;
    codec.decode(bytes, &mut |deserializer| {
        value = Some(erased_serde::deserialize(deserializer)?);
        Ok(())
    })?;
    value.ok_or_else(|| "the codec handed over no deserializer".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    /// G1: a store counts the length.
    #[test]
    fn g1_what_is_encoded_holds_no_more_than_its_length() {
        for length in [0, 1, 32, 300] {
            let bytes = AnyCodec::Json.encode(&vec![7_u8; length]).unwrap();
            let held = bytes.len();
            assert_eq!(Vec::from(bytes).capacity(), held);
        }
    }
}
