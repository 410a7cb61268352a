//! From the inner service's response to what the client gets and what is stored.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, ETAG, SET_COOKIE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;

use super::body::CacheBody;
use super::collapse::{Alone, Duty};
use super::layer::{Config, ETags};
use super::lookup::Miss;
use super::relay::{Copied, relay};
use super::serve::{answer, serve};
use super::service::{Question, STATUS_NAME};
use super::stored::StoredPage;
use super::veto::{CacheVeto, LastWord};
use super::write::{alone_for, later, now_or_later};
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::freshness::stamp_date;
use crate::semantics::storable::Refusal;
use crate::semantics::validation::{freshen, selects};

/// A page about to be made.
pub(super) struct Filler {
    pub(super) config: Arc<Config>,
    pub(super) key: Key,
    pub(super) miss: Miss,
    /// When the inner service was called.
    pub(super) asked_at: SystemTime,
    /// Begun before the inner service is called, so that a purge meanwhile bars the store.
    pub(super) fill: Fill,
    /// Those who wait for it.
    pub(super) duty: Duty,
    /// See [`Asked::flight`](super::lookup::Asked::flight); `None` if the request is of a kind that
    /// others do not wait for.
    pub(super) flight: Option<String>,
    /// An earlier answer was not shared.
    pub(super) marked: Option<Alone>,
    pub(super) veto: CacheVeto,
    /// That of the layer outside, if there is one.
    pub(super) last_word: Option<LastWord>,
}

impl Filler {
    /// The response for the client. It is stored once its body is complete, if it may be.
    pub(super) fn respond<B>(
        self,
        question: &Question,
        response: Response<B>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let (mut parts, body) = response.into_parts();
        if let Some(stale) = self.miss.stale.clone() {
            // HEAD asks on behalf of its client alone: see `Errand::forward`.
            if parts.status == StatusCode::NOT_MODIFIED && !question.head {
                return self.validated(question, &stale, parts);
            }
            if let Some(response) = self.stale_instead(question, &stale, Some(parts.status)) {
                return response;
            }
        }
        let asked = question.asked();
        let kept = match self.admit(&asked, &mut parts) {
            Ok(kept) => kept,
            Err(refusal) => return self.refuse(question, refusal, parts, body),
        };
        let announced = content_length(&parts.headers);
        let ceiling = self.config.max_body_bytes;
        if question.head {
            return self.refuse(question, Refusal::Head, parts, body);
        }
        let hint = body.size_hint();
        let known = announced.or(hint.exact());
        let was_too_large = self.marked == Some(Alone::TooLarge) && known.is_none();
        if known.unwrap_or(hint.lower()) > ceiling as u64 || was_too_large {
            return self.refuse(question, Refusal::BodyTooLarge, parts, body);
        }
        let status = self.status().with_ttl(kept.fresh_for());
        let unavailable = self.is_unavailable();
        let etags = self.etags();
        let mut writer = self.writer(&asked, &parts, &kept);
        let (client, mut copier) = relay(body, ceiling, announced);
        let mut once = Context::from_waker(Waker::noop());
        match copier.read_ready(&mut once) {
            Some(Copied::Whole(body)) => {
                if let Some(etag) = etags.of(&body, &parts.headers) {
                    writer.response.headers.insert(ETAG, etag.clone());
                    parts.headers.insert(ETAG, etag);
                }
                now_or_later(writer.finish(Copied::Whole(body.clone())));
                let status = if unavailable {
                    status
                        .with_ttl(None)
                        .with_detail(Refusal::Unavailable.as_str())
                } else {
                    status.with_stored()
                };
                let response = Response::from_parts(parts, CacheBody::stored(body));
                answer(response, &asked, status)
            }
            Some(outcome) => {
                let status = status.with_ttl(None).with_detail(outcome.as_str());
                now_or_later(writer.finish(outcome));
                let response = Response::from_parts(parts, CacheBody::relayed(client));
                answer(response, &asked, status)
            }
            // Whether it is stored turns out when its body ends.
            None => {
                writer.etags = etags;
                later(writer.copy(copier));
                let response = Response::from_parts(parts, CacheBody::relayed(client));
                answer(response, &asked, status.with_detail("streaming"))
            }
        }
    }

    /// The stored response, of which its origin says that it still holds, if that was the one.
    fn validated<B: Body<Data = Bytes>>(
        mut self,
        question: &Question,
        stale: &StoredPage,
        mut not_modified: Parts,
    ) -> Response<CacheBody<B>> {
        let asked = question.asked();
        let status = self.status().with_forward_status(not_modified.status);
        let Some(stored) = stale
            .response
            .as_ref()
            .filter(|stored| selects(&stored.headers, &not_modified.headers))
        else {
            // It asked about one response, and was told of another.
            return self.bad_gateway(status);
        };
        let mut parts = Response::new(()).into_parts().0;
        parts.status = stored.status;
        parts.headers = stored.headers.clone();
        parts.extensions = not_modified.extensions;
        // One without a date came now: else its age were that of the stored one.
        stamp_date(&mut not_modified.headers, asked.now);
        freshen(&mut parts.headers, &not_modified.headers);
        // Cookies are for this client alone, and keep the whole from being stored.
        for cookie in not_modified.headers.get_all(SET_COOKIE) {
            parts.headers.append(SET_COOKIE, cookie.clone());
        }
        let mut current = stored.clone();
        let status = match self.admit(&asked, &mut parts) {
            Ok(kept) => {
                let status = status.with_stored();
                let mut writer = self.writer(&asked, &parts, &kept);
                writer.response.body = stored.body.clone();
                current = writer.response.clone();
                now_or_later(writer.finish(Copied::Whole(stored.body.clone())));
                status
            }
            Err(refusal) => {
                current.headers = parts.headers;
                self.give_up(refusal);
                status.with_detail(refusal.as_str())
            }
        };
        serve(&current, &asked, question.head, status)
    }

    /// A stale response in the place of one with this status, or of one that never came, if it
    /// may be served.
    pub(super) fn stale_instead<B: Body<Data = Bytes>>(
        &self,
        question: &Question,
        stale: &StoredPage,
        status: Option<StatusCode>,
    ) -> Option<Response<CacheBody<B>>> {
        let asked = question.asked();
        let stored = stale.response.as_ref()?;
        if !asked.stale_instead(stored, status) {
            return None;
        }
        let mut said = self.status();
        if let Some(status) = status {
            said = said.with_forward_status(status);
        }
        let name = self.config.cache.name();
        observe::outcome(name, "page", Outcome::Hit, "stale-if-error");
        let said = said.with_detail("stale-if-error");
        Some(serve(stored, &asked, question.head, said))
    }

    /// The origin did not answer what it was asked.
    fn bad_gateway<B: Body<Data = Bytes>>(mut self, status: CacheStatus) -> Response<CacheBody<B>> {
        self.give_up(Refusal::Status);
        let mut response = Response::new(CacheBody::stored(Bytes::new()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        status
            .with_detail("not-modified-mismatch")
            .append_to(response.headers_mut());
        response
    }

    /// The store failed a moment ago.
    pub(super) fn is_unavailable(&self) -> bool {
        self.miss.reason == Some(Refusal::Unavailable)
    }

    /// What is said of a response that was asked for.
    fn status(&self) -> CacheStatus {
        CacheStatus::forward(STATUS_NAME, self.miss.forward)
    }

    fn etags(&self) -> ETags {
        if self.config.http.is_some() {
            ETags::Off
        } else {
            self.config.etags
        }
    }

    /// The response as it came, and why it is not stored.
    fn refuse<B: Body<Data = Bytes>>(
        mut self,
        question: &Question,
        refusal: Refusal,
        parts: Parts,
        body: B,
    ) -> Response<CacheBody<B>> {
        self.give_up(refusal);
        let status = self.status().with_detail(refusal.as_str());
        let response = Response::from_parts(parts, CacheBody::live(body));
        answer(response, &question.asked(), status)
    }

    /// Nothing is stored, and nobody waits any more.
    fn give_up(&mut self, refusal: Refusal) {
        let alone = if refusal == Refusal::BodyTooLarge {
            Alone::TooLarge
        } else {
            Alone::Refused
        };
        let flight = self.flight.as_deref();
        alone_for(&self.config, flight, &mut self.duty, alone);
        let name = self.config.cache.name();
        observe::outcome(name, "page", Outcome::Bypass, refusal.as_str());
    }
}

impl ETags {
    /// The tag of a body, unless its response has one or is to have none.
    pub(super) fn of(self, body: &Bytes, headers: &HeaderMap) -> Option<HeaderValue> {
        if self == Self::Off || headers.contains_key(ETAG) {
            return None;
        }
        let digest = blake3::hash(body).to_hex();
        let weak = if self == Self::Weak { "W/" } else { "" };
        // Half of it is enough to tell versions of one page apart.
        HeaderValue::try_from(format!("{weak}\"{}\"", &digest[..32])).ok()
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
