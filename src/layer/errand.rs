//! A request that has to wait: for the store, for another request's answer, or for the inner
//! service.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;
use tower_service::Service;

use super::body::CacheBody;
use super::collapse::{Alone, Collapse, Duty, Landed};
use super::fill::Filler;
use super::lookup::{Found, Miss};
use super::serve::serve;
use super::service::{Question, STATUS_NAME};
use super::stored::StoredPage;
use super::veto::{CacheVeto, Place};
use crate::flight::Role;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::{CacheStatus, Forward};

/// How often a request waits for another one's answer before it asks for itself.
const ROUNDS: usize = 3;

/// A request that could not be answered at once.
pub(super) struct Errand<S, RequestBody> {
    pub(super) inner: S,
    pub(super) request: Request<RequestBody>,
    pub(super) question: Question,
    pub(super) place: Place,
}

/// How a request goes on.
enum Way {
    /// The cache has the answer.
    Answered(Arc<StoredPage>, CacheStatus),
    /// The inner service is asked.
    Forward {
        miss: Miss,
        duty: Duty,
        flight: Option<String>,
        marked: Option<Alone>,
    },
}

/// The pages that a request is being made for, in its extensions: should it come through the same
/// layer once more, it must not wait for itself.
#[derive(Clone, Default)]
struct Leading(Vec<(Arc<Collapse>, String)>);

impl<S, RequestBody, ResponseBody> Errand<S, RequestBody>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    RequestBody: Send + 'static,
    ResponseBody: Body<Data = Bytes> + Send + 'static,
    ResponseBody::Error: Send,
{
    /// `found` is what was found at once, when `landings` answers had landed.
    pub(super) async fn run(
        mut self,
        found: Option<Found>,
        landings: u64,
    ) -> Result<Response<CacheBody<ResponseBody>>, S::Error> {
        let leading = self.request.extensions().get::<Leading>();
        let leading = leading.cloned().unwrap_or_default();
        let way = choose(&self.question, &leading, found, landings).await;
        let (miss, duty, flight, marked) = match way {
            Way::Answered(page, status) => {
                if let Some(stored) = page.response.as_ref() {
                    let asked = self.question.asked();
                    return Ok(serve(stored, &asked, self.question.head, status));
                }
                (Miss::of(Forward::UriMiss), Duty::default(), None, None)
            }
            Way::Forward {
                miss,
                duty,
                flight,
                marked,
            } => (miss, duty, flight, marked),
        };
        let config = Arc::clone(&self.question.config);
        if let Some(flight) = &flight {
            let mut leading = leading;
            leading
                .0
                .push((Arc::clone(&config.collapse), flight.clone()));
            self.request.extensions_mut().insert(leading);
        }
        let is_leader = duty.is_one();
        let filler = Filler {
            fill: config.cache.begin_fill(&self.question.key),
            key: self.question.key.clone(),
            veto: CacheVeto::of(self.request.extensions_mut()),
            last_word: self.place.outside(),
            config,
            miss,
            duty,
            flight,
            marked,
        };
        let forwarded = self.forward(filler);
        match Handle::try_current() {
            // A task of its own: a client that goes away takes nothing from those who wait.
            Ok(runtime) if is_leader => {
                let task = runtime.spawn(observe::in_current_span(forwarded));
                match task.await {
                    Ok(response) => response,
                    Err(lost) => match lost.try_into_panic() {
                        Ok(panic) => resume_unwind(panic),
                        // The runtime is shutting down, and this task with it.
                        Err(_) => pending().await,
                    },
                }
            }
            _ => forwarded.await,
        }
    }

    async fn forward(
        mut self,
        filler: Filler,
    ) -> Result<Response<CacheBody<ResponseBody>>, S::Error> {
        let response = self.inner.call(self.request).await?;
        let response = filler.respond(&self.question, response);
        self.place.leave(&response);
        Ok(response)
    }
}

/// Looks the request up, and waits for another one's answer where there is one to wait for.
async fn choose(
    question: &Question,
    leading: &Leading,
    mut found: Option<Found>,
    mut landings: u64,
) -> Way {
    let config = &question.config;
    let collapse = &config.collapse;
    let mut rounds = 0;
    loop {
        let asked = question.asked();
        let found = match found.take() {
            Some(found) => found,
            None => asked.look_up(&question.key).await,
        };
        let miss = match found {
            Found::Hit(page) => return Way::Answered(page, CacheStatus::hit(STATUS_NAME)),
            Found::Miss(miss) => miss,
        };
        if !question.is_everybodys() {
            return Way::alone(miss, None, None);
        }
        let flight = asked.flight(&question.key, &miss);
        let marked = collapse.marked(&flight, asked.now, config.hit_for_miss);
        if marked.is_some() || rounds == ROUNDS || leading.contains(collapse, &flight) {
            return Way::alone(miss, Some(flight), marked);
        }
        rounds += 1;
        let follower = match collapse.enter(&flight) {
            Role::Follower(follower) => follower,
            Role::Leader(landing) => {
                let mut duty = Duty::new(landing);
                if collapse.landings() == landings {
                    return Way::lead(miss, flight, duty);
                }
                // An answer has landed since this request looked.
                return match question.asked().look_up(&question.key).await {
                    Found::Miss(miss) => Way::lead(miss, flight, duty),
                    Found::Hit(page) => {
                        duty.land(Landed::Page(Arc::clone(&page)));
                        Way::Answered(page, CacheStatus::hit(STATUS_NAME))
                    }
                };
            }
        };
        match follower.result().await {
            Ok(Landed::Page(page)) if question.asked().may_have(&page) => {
                observe::outcome(config.cache.name(), "page", Outcome::Hit, "collapsed");
                let status = CacheStatus::forward(STATUS_NAME, miss.forward);
                return Way::Answered(page, status.with_detail("collapsed"));
            }
            // Another variant, or it was purged meanwhile.
            Ok(Landed::Page(_) | Landed::Purged) => landings = collapse.landings(),
            Ok(Landed::Alone(alone)) => return Way::alone(miss, Some(flight), Some(alone)),
            Err(_) => return Way::alone(miss, Some(flight), None),
        }
    }
}

impl Way {
    fn lead(miss: Miss, flight: String, duty: Duty) -> Self {
        Self::Forward {
            miss,
            duty,
            flight: Some(flight),
            marked: None,
        }
    }

    fn alone(miss: Miss, flight: Option<String>, marked: Option<Alone>) -> Self {
        Self::Forward {
            miss,
            duty: Duty::default(),
            flight,
            marked,
        }
    }
}

impl Leading {
    fn contains(&self, collapse: &Arc<Collapse>, flight: &str) -> bool {
        let mut pages = self.0.iter();
        pages.any(|(other, page)| Arc::ptr_eq(other, collapse) && page == flight)
    }
}
