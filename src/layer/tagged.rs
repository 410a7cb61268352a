//! The tags of pages: who names them, and what is read of them before the handler is called.
//!
//! # Invariants
//!
//! - A page is stored with the generations that its tags had before its handler was called: those of
//!   the layer's tags, and of the tags that what it replaces has, are read then; a tag that only the
//!   response names is as it was then if no tag at all was invalidated meanwhile.
//! - What leaves a layer says in its extensions what tags it has, so that a layer outside of it
//!   stores it with them, too.

use std::fmt::Write as _;

use http::Response;
use http::header::{HeaderMap, HeaderName};
use http::response::Parts;

use super::layer::{CacheLayer, Config};
use super::lease::Ground;
use super::lookup::Flight;
use super::stored::{StoredPage, StoredResponse};
use crate::cache::{Cache, Marks, TagsRead, Turn};
use crate::error::Result;
use crate::key::Key;
use crate::side_by_side::both;
use crate::tag::{TagStamp, TagState, Tags};

/// The field whose members are divided by spaces.
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

impl CacheLayer {
    /// Gives these tags to all pages of the layer, beside those that responses name, and those that
    /// its cache [gives to entries](Cache::with_tags). Adds to earlier calls.
    ///
    /// A response names its own by [`Tags`] in its extensions, put there by the handler or by a layer
    /// inside. [`Cache::invalidate`] then makes all pages that have one of them misses, on all nodes
    /// that share the store, and [`Cache::expire`] makes them stale. A page that is being made
    /// meanwhile is not stored. Tags that are known before the handler runs are the better ones: if a
    /// page names others than the one that it replaces, it is not stored when any tag at all was
    /// invalidated while it was made.
    ///
    /// Too many tags, or such as [no entry can have](Tags), keep a page from being stored.
    ///
    /// # Django
    ///
    /// None.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(all(feature = "axum", feature = "memory"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use axum::{Extension, Router, body::Body, http::Request, routing::get};
    /// use axum_cache::{Cache, CacheLayer, Tags, backend::Memory};
    /// use tower::{Layer, ServiceExt};
    ///
    /// async fn post() -> (Extension<Tags>, &'static str) {
    ///     (Extension(Tags::new(["post:7"])), "a post")
    /// }
    ///
    /// let cache = Cache::new(Memory::new());
    /// let layer = CacheLayer::new(cache.clone()).tags(["blog"]);
    /// let site = layer.layer(Router::new().route("/", get(post)));
    /// let mut hits = Vec::new();
    /// for invalidated in ["other", "post:7", "blog", "other"] {
    ///     let request = Request::new(Body::empty());
    ///     let response = site.clone().oneshot(request).await.unwrap();
    ///     hits.push(response.headers().contains_key("age"));
    ///     cache.invalidate([invalidated]).await?;
    /// }
    /// assert_eq!(hits, [false, true, false, false]);
    /// # Ok(()) }
    /// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
    /// ```
    pub fn tags<N: AsRef<str>>(self, tags: impl IntoIterator<Item = N>) -> Self {
        let tags = Tags::new(tags);
        self.set(|config| config.tags = config.tags.and(&tags))
    }

    /// Takes the tags of responses also from this field, and the field away from what clients get.
    /// None by default.
    ///
    /// `Surrogate-Key` is divided by spaces, and any other, such as `Cache-Tag`, by commas. A layer
    /// that is not told of a field leaves it to the caches outside. One that cannot be read keeps the
    /// page from being stored.
    pub fn tag_header(self, name: HeaderName) -> Self {
        self.set(|config| config.tag_field = Some(name))
    }
}

impl Config {
    /// Whether a response may have tags by this layer.
    pub(super) fn names_tags(&self) -> bool {
        self.tag_field.is_some() || !self.tags.is_empty()
    }

    /// Says in the extensions of a response what tags it has, those of the layer included, and takes
    /// the field with tags away.
    pub(super) fn name_tags(&self, parts: &mut Parts) {
        let mut tags = self.tags.clone();
        if let Some(field) = &self.tag_field {
            tags = tags.and(&take(&mut parts.headers, field));
        }
        if tags.is_empty() {
            return;
        }
        if let Some(named) = parts.extensions.get::<Tags>() {
            tags = tags.and(named);
        }
        parts.extensions.insert(tags);
    }
}

impl Config {
    /// A response that this layer does not store, as [`name_tags`](Self::name_tags) makes it.
    pub(super) fn with_named_tags<B>(&self, response: Response<B>) -> Response<B> {
        if !self.names_tags() {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        self.name_tags(&mut parts);
        Response::from_parts(parts, body)
    }

    /// Names those requests of a `flight` that may wait for each other's answer: none of them begins
    /// before a purge, or before tags are invalidated, that another one comes after.
    pub(super) fn ticket(&self, flight: &Flight, ground: &Ground) -> String {
        let generation = ground.generation().unwrap_or_default();
        let mut ticket = String::with_capacity(flight.name.len() + 40);
        ticket.push_str(&flight.name);
        // Writing to a String cannot fail.
        let _ = write!(ticket, "#{}#{generation:x}", self.cache.turns());
        ticket
    }
}

/// The tags in a field, which is removed.
fn take(headers: &mut HeaderMap, field: &HeaderName) -> Tags {
    let mut tags = Tags::default();
    for line in headers.get_all(field) {
        let named = match std::str::from_utf8(line.as_bytes()) {
            Ok(line) if *field == SURROGATE_KEY => line.split_ascii_whitespace().collect(),
            Ok(line) => {
                let members = line.split(',').map(str::trim);
                members.filter(|tag| !tag.is_empty()).collect()
            }
            // A tag that no page can have.
            Err(_) => Tags::new([""]),
        };
        tags = tags.and(&named);
    }
    headers.remove(field);
    tags
}

/// What is read of tags before the inner service is called.
#[derive(Clone, Debug)]
pub(super) struct Before {
    turn: Option<Turn>,
    stamps: Result<Vec<TagStamp>>,
}

impl Before {
    /// Of a response that will not be stored.
    pub(super) fn nothing() -> Self {
        Self {
            turn: None,
            stamps: Ok(Vec::new()),
        }
    }

    /// Reads what a page with the tags of the layer will need, and one that replaces another.
    pub(super) async fn read(config: &Config, replaced: Option<&StoredPage>) -> Self {
        let replaced = replaced.and_then(|page| page.response.as_ref());
        let has_tags = |response: &StoredResponse| !response.tags.stamps.is_empty();
        if config.tags.is_empty()
            && !replaced.is_some_and(has_tags)
            && let Some(turn) = config.cache.turn_now()
        {
            return Self {
                turn: Some(turn),
                stamps: Ok(Vec::new()),
            };
        }
        Box::pin(Self::read_tags(config, replaced)).await
    }

    async fn read_tags(config: &Config, replaced: Option<&StoredResponse>) -> Self {
        let cache = &config.cache;
        let mut known = config.tags.clone();
        if let Some(response) = replaced {
            let both = known.and(&response.tags.names());
            // Those that are too many are read once it is known that they are named again.
            if both.check().is_ok() {
                known = both;
            }
        }
        let (stamps, turn) = both(cache.stamps(&known), cache.turn()).await;
        Self { turn, stamps }
    }

    /// The tags of a page that has been made and goes under `key`, as they were before; `None` if one
    /// of them was invalidated meanwhile, or that is not known. With `ask`, that is looked up; without,
    /// the page may be dead on arrival.
    pub(super) async fn tags_of(
        self,
        config: &Config,
        key: &Key,
        tags: &Tags,
        ask: bool,
    ) -> Result<Option<PageTags>> {
        let cache = &config.cache;
        let turn = self.turn.as_ref();
        let Some(stamps) = cache.stamps_as_of(self.stamps?, turn, tags).await? else {
            return Ok(None);
        };
        let tags = PageTags::new(cache, stamps)?;
        let state = match cache.tag_state_now(&tags.marks) {
            None if ask => cache.tag_state(key, &tags.marks, &TagsRead::new()).await?,
            state => state.unwrap_or(TagState::Current),
        };
        Ok((state == TagState::Current).then_some(tags))
    }
}

/// The tags of a stored response.
#[derive(Clone, Debug, Default)]
pub(super) struct PageTags {
    pub(super) stamps: Vec<TagStamp>,
    /// With the keys under which a store has their generations.
    pub(super) marks: Marks,
}

impl PageTags {
    pub(super) fn new(cache: &Cache, stamps: Vec<TagStamp>) -> Result<Self> {
        let marks = cache.marks(&stamps)?;
        Ok(Self { stamps, marks })
    }

    pub(super) fn names(&self) -> Tags {
        self.stamps.iter().map(|tag| tag.name.as_str()).collect()
    }

    /// About what the decoded form takes.
    pub(super) fn weight(&self) -> usize {
        self.stamps.iter().map(TagStamp::decoded_bytes).sum()
    }
}
