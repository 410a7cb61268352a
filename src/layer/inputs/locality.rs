//! The language and time zone that the application chose for a request.

/// The language of a request. If the application puts one into the extensions of the request
/// before the cache sees it, it is part of the key.
///
/// A response that says `Vary: Accept-Language` is still told apart by that field: a
/// [`Locale`](super::Locale) replaces it by its outcome.
///
/// Nothing is added to the `Vary` of the response, as nobody else knows what the language was chosen by:
/// browsers and caches downstream may show a page in the language of another. Put
/// [`vary_on_headers`](crate::control::vary_on_headers) outside of the cache, with what it was chosen by, such as
/// `Cookie`, or give each language a URL of its own.
///
/// Where layers stand within others, put it there outside of all of them, or for every request: an outer layer stores
/// nothing of a page that an inner one has selected by it, but cannot know that a page without it is not for all.
///
/// # Django
///
/// The language that `USE_I18N` puts into keys. `Accept-Language` is left out there, so that a view
/// that negotiates by itself is answered in the language of another.
///
/// # Example
///
/// ```
/// use axum_cache::layer::Language;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Language::new("de-CH"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Language(String);

impl Language {
    /// The language of this tag.
    pub fn new(tag: impl Into<String>) -> Self {
        Self(tag.into())
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The time zone of a request. If the application puts one into the extensions of the request
/// before the cache sees it, it is part of the key.
///
/// Nothing is added to the `Vary` of the response; see [`Language`] for what to do.
///
/// # Django
///
/// The time zone that `USE_TZ` puts into keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimeZone(String);

impl TimeZone {
    /// The time zone of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
