//! `Caches`, `Cache` and `CacheVeto` as extractors of Axum handlers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::backend::Waited;
use crate::cache::Cache;
use crate::caches::Caches;
use crate::layer::CacheVeto;
use crate::observe;

/// A router state that may hold [`Caches`].
///
/// Every state that `Caches` can be taken from by [`FromRef`] does, and `()`, the state of
/// routers without one, for which the extractors look for an [`Extension`](axum::Extension).
#[diagnostic::on_unimplemented(
    message = "the state `{Self}` holds no `Caches`",
    label = "cannot extract a cache from this state",
    note = "add a field of type `Caches` to the state and `#[derive(FromRef)]`, \
            or write `impl FromRef<{Self}> for Caches`"
)]
pub trait ProvideCaches {
    /// The caches, if this state holds them.
    fn caches(&self) -> Option<Caches>;
}

impl<S> ProvideCaches for S
where
    Caches: FromRef<S>,
{
    fn caches(&self) -> Option<Caches> {
        Some(Caches::from_ref(self))
    }
}

impl ProvideCaches for () {
    fn caches(&self) -> Option<Caches> {
        None
    }
}

/// The caches of the application, from the router's state, or else from an
/// [`Extension`](axum::Extension).
///
/// # Errors
///
/// [`CachesRejection`], a 500, if neither holds any.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "memory")] fn router() -> axum::Router {
/// use axum::{Extension, Router, routing::get};
/// use axum_cache::{Cache, Caches, backend::Memory};
///
/// async fn visits(cache: Cache) -> Result<String, axum_cache::Error> {
///     cache.add("visits", &0, axum_cache::Ttl::Never).await?;
///     Ok(cache.incr("visits", 1).await?.to_string())
/// }
///
/// let caches = Caches::new(Cache::new(Memory::new()));
/// let with_state = Router::new().route("/", get(visits)).with_state(caches.clone());
/// let without: Router = Router::new().route("/", get(visits)).layer(Extension(caches));
/// # with_state.merge(Router::new().nest("/other", without))
/// # }
/// ```
impl<S> FromRequestParts<S> for Caches
where
    S: ProvideCaches + Send + Sync,
{
    type Rejection = CachesRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        // The layer `Extension(caches)` inserts the bare value.
        let caches = state.caches().or_else(|| parts.extensions.get().cloned());
        let caches = caches.ok_or(CachesRejection)?;
        if !caches.have_budgets() {
            return Ok(caches);
        }
        let Waits(waited) = parts.extensions.get_or_insert_default();
        Ok(caches.for_request(Arc::clone(waited)))
    }
}

/// How long a request has waited for its caches.
#[derive(Clone, Debug, Default)]
struct Waits(Arc<Waited>);

/// The `default` cache of the application; see [`Caches`].
impl<S> FromRequestParts<S> for Cache
where
    S: ProvideCaches + Send + Sync,
{
    type Rejection = CachesRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let caches = Caches::from_request_parts(parts, state).await?;
        Ok(caches.default())
    }
}

/// The mark of this request; one that no layer sees if it came through none.
impl<S: Send + Sync> FromRequestParts<S> for CacheVeto {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&mut parts.extensions))
    }
}

/// No caches were found for a handler that asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachesRejection;

impl std::fmt::Display for CachesRejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "no caches for this handler: pass them with `.with_state(caches)`, \
             or add `.layer(Extension(caches))` to the router",
        )
    }
}

impl std::error::Error for CachesRejection {}

impl IntoResponse for CachesRejection {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// A cache that fails where a handler needs it is a 503 when trying again may help, else a 500.
/// The body says nothing of the cause, which with feature `tracing` is an event.
impl IntoResponse for crate::Error {
    fn into_response(self) -> Response {
        observe::answered(&self);
        let status = if self.is_transient() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        let reason = status.canonical_reason().unwrap_or_default();
        (status, reason).into_response()
    }
}
