//! The language and time zone that the application chose for a request.

/// The language of a request. If the application puts one into the extensions of the request
/// before the cache sees it, it is part of the key.
///
/// A response that says `Vary: Accept-Language` is still told apart by that field: a
/// [`Locale`](super::Locale) replaces it by its outcome.
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
