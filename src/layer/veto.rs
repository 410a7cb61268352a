//! A word against storing, from wherever a response is found to be personal.
//!
//! # Invariants
//!
//! - A veto that is there when the write of a response begins keeps every layer on its way from storing and sharing
//!   it, whether the request has it or the response, and whoever has put it there.
//! - Where a layer stands inside another one, it stores nothing before the outer one has seen the
//!   fields of the response as they leave it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Extensions, Response};
use tokio::sync::oneshot;

use crate::semantics::outer::unharmed;
use crate::semantics::vary::Vary;

/// Marks what a request gets as personal: it is neither stored nor shared.
///
/// Code that makes a response personal, such as that of sessions, CSRF tokens or authentication, takes the mark
/// of the request by [`of`](Self::of), or, with feature `axum`, as an extractor, and calls
/// [`forbid`](Self::forbid). It counts for all layers the request came through, and for those that it is still to
/// go through. A middleware in front of all of them may put one of its own into the request's extensions.
///
/// A response may carry one in its extensions as well, for the layers it goes through. What makes another request of
/// one, and does not take its extensions along, takes the mark away from the layers outside, unless a layer further in
/// stores pages and says so in the response.
///
/// # Example
///
/// ```
/// # #[cfg(all(feature = "axum", feature = "memory"))]
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use axum_cache::{Cache, CacheLayer, CacheVeto, backend::Memory};
/// use tower::{Layer, ServiceExt};
///
/// async fn basket(veto: CacheVeto) -> &'static str {
///     veto.forbid();
///     "two apples"
/// }
///
/// let router = Router::new().route("/basket", get(basket));
/// let site = CacheLayer::new(Cache::new(Memory::new())).layer(router);
/// let request = Request::get("/basket").body(Body::empty()).unwrap();
/// let response = site.oneshot(request).await.unwrap();
/// assert_eq!(response.headers()["cache-status"], "axum-cache; fwd=uri-miss; detail=veto");
/// # }
/// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
/// ```
#[derive(Clone, Debug, Default)]
pub struct CacheVeto {
    forbidden: Arc<AtomicBool>,
    /// That of the layers outside of whoever has put another one into the request.
    outside: Option<Arc<AtomicBool>>,
}

impl CacheVeto {
    /// A mark that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the mark. What has been stored already stays.
    pub fn forbid(&self) {
        for mark in self.marks() {
            mark.store(true, Ordering::Release);
        }
    }

    /// Whether the mark is set.
    pub fn is_forbidden(&self) -> bool {
        self.marks().any(|mark| mark.load(Ordering::Acquire))
    }

    fn marks(&self) -> impl Iterator<Item = &AtomicBool> {
        let outside = self.outside.as_deref();
        std::iter::once(&*self.forbidden).chain(outside)
    }

    /// The mark of the request, or the response, with these extensions, which is put there if there is none.
    ///
    /// # Example
    ///
    /// ```
    /// use axum_cache::CacheVeto;
    /// use http::Request;
    ///
    /// let mut request = Request::new(());
    /// CacheVeto::of(request.extensions_mut()).forbid();
    /// assert!(CacheVeto::of(request.extensions_mut()).is_forbidden());
    /// ```
    pub fn of(extensions: &mut Extensions) -> Self {
        let attached = extensions.get::<Attached>().map(|Attached(veto)| veto);
        let veto = match (extensions.get::<Self>(), attached) {
            (None, Some(attached)) => return attached.clone(),
            (Some(own), Some(attached)) => {
                return Self {
                    outside: Some(Arc::clone(&attached.forbidden)),
                    ..own.clone()
                };
            }
            (own, None) => own.cloned().unwrap_or_default(),
        };
        extensions.insert(Attached(veto.clone()));
        veto
    }

    /// Says in the extensions of a response that the mark of its request is set, which may have come to a layer
    /// outside with another one.
    pub(super) fn leave(&self, extensions: &mut Extensions) {
        if self.is_forbidden() {
            Self::of(extensions).forbid();
        }
    }

    /// Whether there is one in these extensions that is set.
    pub(super) fn is_in(extensions: &Extensions) -> bool {
        Self::all_in(extensions).any(Self::is_forbidden)
    }

    fn all_in(extensions: &Extensions) -> impl Iterator<Item = &Self> {
        let attached = extensions.get::<Attached>().map(|Attached(veto)| veto);
        extensions.get::<Self>().into_iter().chain(attached)
    }
}

/// The marks that bear on a response until it is stored.
#[derive(Debug)]
pub(super) struct Vetoes {
    request: CacheVeto,
    response: Vec<CacheVeto>,
}

impl Vetoes {
    /// That of the request, and those in the extensions of the response.
    pub(super) fn new(request: CacheVeto, response: &Extensions) -> Self {
        Self {
            request,
            response: CacheVeto::all_in(response).cloned().collect(),
        }
    }

    /// Whether one of them is set by now.
    pub(super) fn is_any_set(&self) -> bool {
        self.request.is_forbidden() || self.response.iter().any(CacheVeto::is_forbidden)
    }
}

/// A mark that nobody finds but by [`CacheVeto::of`]: which requests have one is nothing to rely on, as a layer that
/// does not store allocates none.
#[derive(Clone)]
struct Attached(CacheVeto);

/// Where a layer stands on the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Outermost,
    /// Another one is outside of it.
    Inside,
}

/// Says in the extensions of a request that it has come through a layer: those further inside wait for the
/// last word. Nothing is allocated for it.
#[derive(Clone, Copy)]
struct Outside;

/// How many layers it has come through, if they are more than one.
#[derive(Clone, Copy)]
struct Depth(u8);

/// What the layers inside of the outermost one wait for. It goes out with the response that they are about to
/// store: where that does not arrive, nothing is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWord {
    said: Arc<Mutex<Said>>,
}

#[derive(Debug)]
enum Said {
    NotYet(Vec<Waiting>),
    /// Whoever comes now comes too late, and stores nothing.
    Said,
}

impl Default for Said {
    fn default() -> Self {
        Self::NotYet(Vec::new())
    }
}

#[derive(Debug)]
struct Waiting {
    /// What the response of the inner layer varies on as it leaves that.
    vary: Vary,
    verdict: oneshot::Sender<bool>,
}

/// The verdict of the outermost layer on a response of an inner one.
#[derive(Debug)]
pub(super) struct Verdict {
    verdict: oneshot::Receiver<bool>,
    read: Option<oneshot::Receiver<()>>,
}

impl Place {
    /// Where the layer stands that is about to forward a request with these extensions.
    pub(super) fn of(extensions: &mut Extensions) -> Self {
        if extensions.insert(Outside).is_none() {
            return Self::Outermost;
        }
        let depth = Self::depth(extensions).saturating_add(1);
        extensions.insert(Depth(depth));
        Self::Inside
    }

    /// Whether a layer that gets a request with these extensions stands inside of another one.
    pub(super) fn is_inside(extensions: &Extensions) -> bool {
        extensions.get::<Outside>().is_some()
    }

    /// How many layers are outside of the one that gets a request with these extensions.
    pub(super) fn depth(extensions: &Extensions) -> u8 {
        if !Self::is_inside(extensions) {
            return 0;
        }
        extensions.get::<Depth>().map_or(1, |depth| depth.0)
    }

    /// That of a request that no client waits for.
    pub(super) fn nowhere(extensions: &mut Extensions) -> Self {
        extensions.insert(Outside);
        Self::Outermost
    }

    /// The response leaves the layer.
    pub(super) fn leave<B>(self, response: &mut Response<B>) {
        if self == Self::Outermost
            && let Some(word) = response.extensions_mut().remove::<LastWord>()
        {
            word.say(response);
        }
    }
}

impl LastWord {
    /// Leaves a note for the outermost layer in the extensions of a response.
    pub(super) fn ask(extensions: &mut Extensions, vary: Vary) -> Verdict {
        let word = extensions.get_or_insert_default::<Self>();
        let (verdict, receiver) = oneshot::channel();
        if let Said::NotYet(waiting) = &mut *word.said() {
            waiting.push(Waiting { vary, verdict });
        }
        Verdict {
            verdict: receiver,
            read: None,
        }
    }

    /// Answers all who wait, by the response as it leaves the outermost layer.
    fn say<B>(self, response: &Response<B>) {
        let vetoed = CacheVeto::is_in(response.extensions());
        let Said::NotYet(all) = std::mem::replace(&mut *self.said(), Said::Said) else {
            return;
        };
        for waiting in all {
            let storable = !vetoed && unharmed(&waiting.vary, response.headers()).is_ok();
            // Who does not wait any more stores nothing.
            let _ = waiting.verdict.send(storable);
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    /// Who is to be told that the body of the response is read.
    pub(super) fn reader(&mut self) -> oneshot::Sender<()> {
        let (told, read) = oneshot::channel();
        self.read = Some(read);
        told
    }

    /// Whether the response may be stored; `None` if its client has gone. Where somebody reads it, and the outermost
    /// layer never saw it, something on the way has made another response of it.
    pub(super) async fn storable(self) -> Option<bool> {
        match (self.verdict.await, self.read) {
            (Ok(storable), _) => Some(storable),
            (Err(_), Some(read)) => read.await.is_ok().then_some(false),
            (Err(_), None) => None,
        }
    }
}
