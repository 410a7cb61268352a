//! `Cache-Control` of responses: one strict parser, one writer.

pub(super) mod parse;

use std::fmt;
use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

/// The directives of a response's `Cache-Control`.
///
/// Lifetimes are in whole seconds. Parsing is strict, and what cannot be parsed is never taken for
/// permission: see [`Malformed`].
///
/// # Specification
///
/// RFC 9111 section 5.2.2; `stale-while-revalidate` and `stale-if-error`: RFC 5861; `immutable`:
/// RFC 8246.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use axum_cache::semantics::cache_control::CacheControl;
///
/// let hour = CacheControl::new().with_public().with_max_age(Duration::from_secs(3600));
/// assert_eq!(hour.to_string(), "max-age=3600, public");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the field has that many flags"
)]
pub struct CacheControl {
    /// How long the response is fresh.
    pub max_age: Option<u64>,
    /// How long it is fresh in shared caches, in the place of `max_age`.
    pub s_maxage: Option<u64>,
    /// How long a stale response may be served while it is revalidated.
    pub stale_while_revalidate: Option<u64>,
    /// How long a stale response may be served in the place of an error.
    pub stale_if_error: Option<u64>,
    /// Not to be used without validation: for the whole response, or for some fields.
    pub no_cache: Limit,
    /// Not to be stored.
    pub no_store: bool,
    /// Not to be changed on the way.
    pub no_transform: bool,
    /// Not to be used stale.
    pub must_revalidate: bool,
    /// Not to be used stale by shared caches.
    pub proxy_revalidate: bool,
    /// To be stored only by caches that know the status code.
    pub must_understand: bool,
    /// Will not change while it is fresh.
    pub immutable: bool,
    /// May be stored by shared caches.
    pub public: bool,
    /// Not to be stored by shared caches: the whole response, or some fields.
    pub private: Limit,
    /// Directives not known here, in lower case, in their order.
    pub extensions: Vec<(String, Option<String>)>,
}

/// How far `no-cache` or `private` reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// The directive is not there.
    #[default]
    Unset,
    /// It is about these fields. A cache that does not treat fields apart takes it as
    /// [`Whole`](Self::Whole).
    Fields(Vec<HeaderName>),
    /// It is about the whole response.
    Whole,
}

/// A `Cache-Control` that cannot be parsed: the response must not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Limit {
    /// Whether the directive is there, for the whole response or for some fields.
    pub fn is_set(&self) -> bool {
        *self != Self::Unset
    }
}

impl CacheControl {
    /// No directives.
    pub fn new() -> Self {
        Self::default()
    }

    /// The directives of all `Cache-Control` lines, as one list.
    ///
    /// Names are case-insensitive. Of a lifetime that is given twice, the shorter counts; one that
    /// exceeds 2^31 seconds counts as that.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if a line is no list of directives, or a lifetime is no number of seconds.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Malformed> {
        let mut directives = Self::new();
        for line in headers.get_all(CACHE_CONTROL) {
            parse::parse_line(line.as_bytes(), &mut directives)?;
        }
        Ok(directives)
    }

    /// `max-age`, in whole seconds, rounded down.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age.as_secs());
        self
    }

    /// `s-maxage`, in whole seconds, rounded down.
    #[must_use]
    pub fn with_s_maxage(mut self, s_maxage: Duration) -> Self {
        self.s_maxage = Some(s_maxage.as_secs());
        self
    }

    /// `stale-while-revalidate`, in whole seconds, rounded down.
    #[must_use]
    pub fn with_stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window.as_secs());
        self
    }

    /// `stale-if-error`, in whole seconds, rounded down.
    #[must_use]
    pub fn with_stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window.as_secs());
        self
    }

    /// `public`, in the place of `private`.
    #[must_use]
    pub fn with_public(mut self) -> Self {
        self.public = true;
        self.private = Limit::Unset;
        self
    }

    /// `private`, in the place of `public`.
    #[must_use]
    pub fn with_private(mut self) -> Self {
        self.private = Limit::Whole;
        self.public = false;
        self
    }

    /// `no-cache`.
    #[must_use]
    pub fn with_no_cache(mut self) -> Self {
        self.no_cache = Limit::Whole;
        self
    }

    /// `no-store`.
    #[must_use]
    pub fn with_no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// `no-transform`.
    #[must_use]
    pub fn with_no_transform(mut self) -> Self {
        self.no_transform = true;
        self
    }

    /// `must-revalidate`.
    #[must_use]
    pub fn with_must_revalidate(mut self) -> Self {
        self.must_revalidate = true;
        self
    }

    /// `proxy-revalidate`.
    #[must_use]
    pub fn with_proxy_revalidate(mut self) -> Self {
        self.proxy_revalidate = true;
        self
    }

    /// `immutable`.
    #[must_use]
    pub fn with_immutable(mut self) -> Self {
        self.immutable = true;
        self
    }

    /// These directives on top of `earlier` ones: the shorter `max-age` and `s-maxage`, this
    /// side's word on `public` or `private`, and the stricter of everything else.
    #[must_use]
    pub fn over(&self, earlier: &Self) -> Self {
        let (public, private) = if self.private.is_set() {
            (false, earlier.private.clone().widened(&self.private))
        } else if self.public {
            (true, Limit::Unset)
        } else {
            (earlier.public, earlier.private.clone())
        };
        let mut extensions = earlier.extensions.clone();
        for extension in &self.extensions {
            match extensions.iter_mut().find(|known| known.0 == extension.0) {
                Some(known) => known.clone_from(extension),
                None => extensions.push(extension.clone()),
            }
        }
        Self {
            max_age: shorter(self.max_age, earlier.max_age),
            s_maxage: shorter(self.s_maxage, earlier.s_maxage),
            stale_while_revalidate: self
                .stale_while_revalidate
                .or(earlier.stale_while_revalidate),
            stale_if_error: self.stale_if_error.or(earlier.stale_if_error),
            no_cache: earlier.no_cache.clone().widened(&self.no_cache),
            no_store: self.no_store || earlier.no_store,
            no_transform: self.no_transform || earlier.no_transform,
            must_revalidate: self.must_revalidate || earlier.must_revalidate,
            proxy_revalidate: self.proxy_revalidate || earlier.proxy_revalidate,
            must_understand: self.must_understand || earlier.must_understand,
            immutable: self.immutable || earlier.immutable,
            public,
            private,
            extensions,
        }
    }

    /// The field's value; `None` if there are no directives.
    pub fn to_header_value(&self) -> Option<HeaderValue> {
        let text = self.to_string();
        // A parsed or built value has nothing in it that a field may not.
        (!text.is_empty()).then(|| HeaderValue::try_from(text).ok())?
    }
}

impl Limit {
    fn widened(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Whole, _) | (_, Self::Whole) => Self::Whole,
            (one, Self::Unset) => one,
            (Self::Unset, other) => other.clone(),
            (Self::Fields(mut one), Self::Fields(other)) => {
                for name in other {
                    if !one.contains(name) {
                        one.push(name.clone());
                    }
                }
                Self::Fields(one)
            }
        }
    }
}

pub(super) fn shorter(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Lifetimes, then prohibitions, then who may store, then extensions.
impl fmt::Display for CacheControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = List { f, first: true };
        list.seconds("max-age", self.max_age)?;
        list.seconds("s-maxage", self.s_maxage)?;
        list.seconds("stale-while-revalidate", self.stale_while_revalidate)?;
        list.seconds("stale-if-error", self.stale_if_error)?;
        list.limit("no-cache", &self.no_cache)?;
        list.flag("no-store", self.no_store)?;
        list.flag("no-transform", self.no_transform)?;
        list.flag("must-revalidate", self.must_revalidate)?;
        list.flag("proxy-revalidate", self.proxy_revalidate)?;
        list.flag("must-understand", self.must_understand)?;
        list.flag("immutable", self.immutable)?;
        list.flag("public", self.public)?;
        list.limit("private", &self.private)?;
        for (name, value) in &self.extensions {
            match value {
                None => list.flag(name, true)?,
                Some(value) => {
                    list.item(name)?;
                    write_value(list.f, value)?;
                }
            }
        }
        Ok(())
    }
}

struct List<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    first: bool,
}

impl List<'_, '_> {
    fn item(&mut self, name: &str) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.f.write_str(", ")?;
        }
        self.f.write_str(name)
    }

    fn flag(&mut self, name: &str, set: bool) -> fmt::Result {
        if set { self.item(name) } else { Ok(()) }
    }

    fn seconds(&mut self, name: &str, seconds: Option<u64>) -> fmt::Result {
        let Some(seconds) = seconds else {
            return Ok(());
        };
        self.item(name)?;
        write!(self.f, "={seconds}")
    }

    fn limit(&mut self, name: &str, limit: &Limit) -> fmt::Result {
        let Limit::Fields(fields) = limit else {
            return self.flag(name, limit.is_set());
        };
        self.item(name)?;
        let names: Vec<_> = fields.iter().map(HeaderName::as_str).collect();
        write!(self.f, "=\"{}\"", names.join(", "))
    }
}

/// `=value`, quoted unless it is a token.
fn write_value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    if !value.is_empty() && value.bytes().all(parse::is_token) {
        return write!(f, "={value}");
    }
    f.write_str("=\"")?;
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{character}")?;
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests;
