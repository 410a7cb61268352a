//! From the inner service's response to what the client gets and what is stored.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, ETAG, LAST_MODIFIED, SET_COOKIE};
use http::response::Parts;
use http::{Extensions, HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;

use super::body::CacheBody;
use super::collapse::{Alone, Duty, Landed, Spot, is_worth_it};
use super::layer::{Config, ETags};
use super::lease::Ground;
use super::lookup::{Asked, Miss, Pick};
use super::relay::{Copied, relay};
use super::serve::{Served, answer, empty, instead, serve};
use super::service::{Question, STATUS_NAME};
use super::stored::StoredResponse;
use super::tagged::Before;
use super::veto::{CacheVeto, Verdict};
use super::write::{alone_for, forget, now_or_later};
use crate::clock::while_time_passes;
use crate::fence::Fill;
use crate::key::Key;
use crate::observe::{self, Outcome};
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::fields::storable_fields;
use crate::semantics::freshness::stamp_date;
use crate::semantics::reuse::is_error;
use crate::semantics::storable::Refusal;
use crate::semantics::validation::{HeadUpdate, freshen, head_update, selects};
use crate::tag::Tags;

/// Why a response is not stored that might have been: those before it were refused, and nothing is ready for it.
pub(super) const HIT_FOR_MISS: &str = "hit-for-miss";

/// A page about to be made.
pub(super) struct Filler {
    pub(super) config: Arc<Config>,
    pub(super) key: Key,
    pub(super) miss: Miss,
    /// What the page is made in the place of.
    pub(super) ground: Ground,
    /// What was read of tags before the inner service was called.
    pub(super) before: Before,
    /// When the inner service was called.
    pub(super) asked_at: SystemTime,
    /// Begun before the inner service is called, so that a purge meanwhile bars the store.
    pub(super) fill: Fill,
    /// Those who wait for it.
    pub(super) duty: Duty,
    /// See [`Asked::spot`](super::lookup::Asked::spot); `None` if the request is of a kind that
    /// others do not wait for.
    pub(super) spot: Option<Spot>,
    /// An earlier answer was not shared.
    pub(super) marked: Option<Alone>,
    pub(super) veto: CacheVeto,
    /// Another layer is outside of this one: it has the last word.
    pub(super) is_inside: bool,
}

impl Filler {
    /// The response for the client. It is stored once its body is complete, if it may be.
    pub(super) fn respond<B>(
        mut self,
        question: &Question,
        response: Response<B>,
    ) -> Response<CacheBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let (mut parts, body) = response.into_parts();
        self.config.name_tags(&mut parts);
        if let Some(stale) = self.miss.stale.clone() {
            let failed = is_error(parts.status);
            self.config
                .note(&question.asked(), &self.key, &self.miss, failed);
            let by_http = self.config.http.is_some();
            if by_http && question.head && parts.status == StatusCode::OK {
                return self.looked_at(question, &stale, parts, body);
            }
            if by_http && parts.status == StatusCode::NOT_MODIFIED && !question.head {
                return self.validated(question, &stale, &parts);
            }
            if let Some(response) = self.stale_instead(question, &stale, Some(parts.status)) {
                return response;
            }
        }
        let asked = question.asked();
        let (kept, placement) = match self.admit(&asked, &mut parts) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.refuse(question, refusal, parts, body),
        };
        let announced = content_length(&parts.headers);
        let ceiling = self.config.max_body_bytes;
        if question.head {
            return self.refuse(question, Refusal::Head, parts, body);
        }
        let known = announced.or(body.size_hint().exact());
        let was_too_large = self.marked == Some(Alone::TooLarge) && known.is_none();
        let is_too_large = is_too_large(announced, &body, ceiling);
        if is_too_large || was_too_large {
            if !is_too_large {
                // Nobody will know how large it is: the mark is not renewed.
                self.spot = None;
            }
            return self.refuse(question, Refusal::BodyTooLarge, parts, body);
        }
        let (status, config) = (self.status(), Arc::clone(&self.config));
        let is_inside = self.is_inside;
        let mut writer = self.writer(&asked, &mut parts, &kept, placement);
        let status = status.with_ttl(writer.response.fresh_for(asked.now));
        let reader = writer.verdict.as_mut().map(Verdict::reader);
        let (client, mut copier) = relay(body, ceiling, announced);
        let mut once = Context::from_waker(Waker::noop());
        match while_time_passes(|| copier.read_ready(&mut once)) {
            Some(Copied::Whole(body)) => {
                if let Some(etag) = writer.tag(&body) {
                    parts.headers.entry(ETAG).or_insert(etag);
                }
                let unstored = writer.unstored;
                now_or_later(&config.cache, writer.finish(Copied::Whole(body.clone())));
                let status = match unstored {
                    Some(why) => status.with_ttl(None).with_detail(why),
                    None => as_stored(status, is_inside),
                };
                let body = CacheBody::storing(body, reader);
                answer(Response::from_parts(parts, body), &asked, status)
            }
            Some(outcome) => {
                let status = status.with_ttl(None).with_detail(outcome.as_str());
                now_or_later(&config.cache, writer.finish(outcome));
                let body = CacheBody::relayed(client, reader);
                answer(Response::from_parts(parts, body), &asked, status)
            }
            // Whether it is stored turns out when its body ends.
            None => {
                config.cache.spawn(writer.copy(copier));
                let body = CacheBody::relayed(client, reader);
                let response = Response::from_parts(parts, body);
                answer(response, &asked, status.with_detail("streaming"))
            }
        }
    }

    /// The stored response, of which its origin says that it still holds, if that was the one.
    fn validated<B: Body<Data = Bytes>>(
        mut self,
        question: &Question,
        stale: &Pick,
        not_modified: &Parts,
    ) -> Response<CacheBody<B>> {
        let asked = question.asked();
        let status = self.status().with_forward_status(not_modified.status);
        let stored = stale.stored();
        if !selects(&stored.headers, &not_modified.headers) {
            // It asked about one response, and was told of another.
            let instead = self.stale_instead(question, stale, None);
            self.forget();
            return instead.unwrap_or_else(|| self.bad_gateway(status));
        }
        let is_inside = self.is_inside;
        let (current, refusal, extensions) = self.freshened(&asked, stored, not_modified);
        let status = match refusal {
            None => as_stored(status, is_inside),
            Some(refusal) => status.with_detail(refusal.as_str()),
        };
        let mut response = serve(
            Served::Shared(&current),
            false,
            &asked,
            question.head,
            Some(status),
        );
        response.extensions_mut().extend(extensions);
        response
    }

    /// A response to HEAD, which says of the stored one that it still holds, or that it does not.
    fn looked_at<B: Body<Data = Bytes>>(
        self,
        question: &Question,
        stale: &Pick,
        mut parts: Parts,
        body: B,
    ) -> Response<CacheBody<B>> {
        let mut status = self.status();
        let stored = stale.stored();
        let length = stored.body.len() as u64;
        if head_update(&stored.headers, length, &parts.headers) == HeadUpdate::Invalidate {
            self.forget();
            status = status.with_detail(Refusal::Head.as_str());
        } else if parts.headers.contains_key(ETAG) || parts.headers.contains_key(LAST_MODIFIED) {
            let is_inside = self.is_inside;
            let (_, refusal, extensions) = self.freshened(&question.asked(), stored, &parts);
            parts.extensions.extend(extensions);
            status = match refusal {
                None => as_stored(status, is_inside),
                Some(refusal) => status.with_detail(refusal.as_str()),
            };
        } else {
            // The same length alone does not say that it is the same.
            status = status.with_detail(Refusal::Head.as_str());
        }
        status.append_to(&mut parts.headers);
        Response::from_parts(parts, CacheBody::live(body))
    }

    /// The stored response with what `update` says of it now, which is stored too; why not, if it
    /// may not be; and what goes out with it.
    fn freshened(
        mut self,
        asked: &Asked<'_>,
        stored: &StoredResponse,
        update: &Parts,
    ) -> (StoredResponse, Option<Refusal>, Extensions) {
        let mut update_headers = update.headers.clone();
        stamp_date(&mut update_headers, asked.now);
        let mut parts = Response::new(()).into_parts().0;
        parts.status = stored.status;
        parts.headers = storable_fields(&stored.headers);
        parts.extensions = update.extensions.clone();
        parts
            .extensions
            .insert(current_tags(&self.config, stored, update));
        freshen(&mut parts.headers, &update_headers);
        for age in update_headers.get_all(AGE) {
            parts.headers.append(AGE, age.clone());
        }
        let mut current = stored.clone();
        if update_headers.contains_key(SET_COOKIE) {
            // It is for this client; what is stored stays as it was.
            for cookie in update_headers.get_all(SET_COOKIE) {
                parts.headers.append(SET_COOKIE, cookie.clone());
            }
            parts.headers.remove(AGE);
            current.headers = parts.headers;
            self.give_up(Refusal::SetCookie);
            return (current, Some(Refusal::SetCookie), parts.extensions);
        }
        match self.admit(asked, &mut parts) {
            Ok((kept, placement)) => {
                let config = Arc::clone(&self.config);
                let mut writer = self.writer(asked, &mut parts, &kept, placement);
                writer.response.body = stored.body.clone();
                let current = writer.response.clone();
                now_or_later(
                    &config.cache,
                    writer.finish(Copied::Whole(stored.body.clone())),
                );
                (current, None, parts.extensions)
            }
            Err(refusal) => {
                parts.headers.remove(AGE);
                current.headers = parts.headers;
                self.give_up(refusal);
                self.forget();
                (current, Some(refusal), parts.extensions)
            }
        }
    }

    /// Lets what is stored of the page go.
    fn forget(&self) {
        let forgotten = forget(Arc::clone(&self.config), self.key.clone());
        now_or_later(&self.config.cache, forgotten);
    }

    /// What the client gets when the inner service fails, if there is something.
    pub(super) fn unreachable<B: Body<Data = Bytes>>(
        mut self,
        question: &Question,
    ) -> Option<Response<CacheBody<B>>> {
        let stale = self.miss.stale.clone()?;
        self.config
            .note(&question.asked(), &self.key, &self.miss, true);
        self.stale_instead(question, &stale, None)
    }

    /// A stale response in the place of one with this status, or of one that never came, if it
    /// may be served.
    fn stale_instead<B: Body<Data = Bytes>>(
        &mut self,
        question: &Question,
        stale: &Pick,
        status: Option<StatusCode>,
    ) -> Option<Response<CacheBody<B>>> {
        let asked = question.asked();
        if self.fill.is_barred() || !asked.may_have_instead(stale, status) {
            return None;
        }
        self.duty.land(Landed::Instead(status));
        let name = self.config.cache.named();
        observe::outcome(name, "page", Outcome::Hit, "stale-if-error");
        let said = instead(self.miss.forward, status);
        Some(serve(
            Served::Shared(stale.stored()),
            stale.expired,
            &asked,
            question.head,
            Some(said),
        ))
    }

    /// The origin did not answer what it was asked.
    fn bad_gateway<B: Body<Data = Bytes>>(mut self, status: CacheStatus) -> Response<CacheBody<B>> {
        self.give_up(Refusal::Status);
        empty(
            StatusCode::BAD_GATEWAY,
            status.with_detail("not-modified-mismatch"),
        )
    }

    /// What is said of a response that was asked for.
    fn status(&self) -> CacheStatus {
        CacheStatus::forward(STATUS_NAME, self.miss.forward)
    }

    /// Why nothing can be stored, if that is known already.
    pub(super) fn unstored(&self) -> Option<&'static str> {
        let because_alone = self.ground.is_lost() && !is_worth_it(self.marked);
        if self.miss.is_unavailable() || (self.ground.is_lost() && !because_alone) {
            return Some(Refusal::Unavailable.as_str());
        }
        because_alone.then_some(HIT_FOR_MISS)
    }

    /// What tag a response is given that has none.
    pub(super) fn etags(&self) -> ETags {
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
        if parts.status == StatusCode::NOT_MODIFIED {
            // The answer to a condition of this client says nothing of what others get.
            self.duty.land(Landed::Alone(Alone::Refused));
        } else {
            self.give_up(refusal);
        }
        let status = self.status().with_detail(refusal.as_str());
        let response = Response::from_parts(parts, CacheBody::live(body));
        answer(response, &question.asked(), status)
    }

    /// Nothing is stored, and nobody waits any more.
    fn give_up(&mut self, refusal: Refusal) {
        alone_for(&self.config, self.spot, &mut self.duty, Alone::of(refusal));
        let name = self.config.cache.named();
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

/// What is said of a response that is being stored: where others have the last word, it is not known yet whether it
/// is.
fn as_stored(status: CacheStatus, is_inside: bool) -> CacheStatus {
    if is_inside {
        status.with_ttl(None).with_detail("pending")
    } else {
        status.with_stored()
    }
}

/// The tags of a stored response once an update has come: those that it names, or else the old ones.
fn current_tags(config: &Config, stored: &StoredResponse, update: &Parts) -> Tags {
    let named = update.extensions.get::<Tags>();
    match named {
        Some(named) if *named != config.tags => named.clone(),
        _ => config.tags.and(&stored.tags.names()),
    }
}

/// Whether a body is known to be larger than that.
pub(super) fn is_too_large<B: Body>(announced: Option<u64>, body: &B, ceiling: usize) -> bool {
    let hint = body.size_hint();
    let known = announced.or(hint.exact());
    known.unwrap_or(hint.lower()) > ceiling as u64
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
