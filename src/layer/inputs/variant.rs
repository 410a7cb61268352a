//! Variants: values with few possibilities, made from requests with many.

use std::fmt;
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderName, Uri};

/// The head of a request, as variants see it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Head<'a> {
    /// The full URI, also inside nested routers.
    pub uri: &'a Uri,
    /// The fields as they came.
    pub headers: &'a HeaderMap,
    /// What layers outside the cache put there.
    pub extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    /// A head of these.
    pub fn new(uri: &'a Uri, headers: &'a HeaderMap, extensions: &'a Extensions) -> Self {
        Self {
            uri,
            headers,
            extensions,
        }
    }
}

/// A normalised value of a request that selects its response, such as the one of three languages
/// that it is answered in.
///
/// A page is stored once for each value, however many spellings of the request there are. For
/// that to be safe, the handler has to make the same of the request: the fields that the value is
/// made from are taken out of the request that it is shown, and [`normalize`](Self::normalize) may
/// put in what says the value and nothing else.
///
/// See [`CacheLayer::variant`](crate::CacheLayer::variant).
pub trait Variant: fmt::Debug + Send + Sync + 'static {
    /// Its name in the key, unlike that of any other variant of the layer.
    fn name(&self) -> &str;

    /// The request fields it is made from. Responses vary on them for caches downstream. Handlers
    /// are not shown them, but for `Host` and `Cookie`, which the layer has rules of their own for.
    fn fields(&self) -> &[HeaderName];

    /// The value for a request: one of few. It is asked for on hits too.
    fn value(&self, head: &Head<'_>) -> String;

    /// Puts the value into the fields that the handler is shown, so that a handler that negotiates
    /// by itself comes to the same value, again and again. By default nothing is put there.
    fn normalize(&self, value: &str, headers: &mut HeaderMap) {
        let _ = (value, headers);
    }
}

/// A variant made by a function, for an enum of your own.
///
/// # Example
///
/// ```
/// use axum_cache::layer::{Head, VariantFn};
/// use http::HeaderName;
///
/// fn arm(head: &Head<'_>) -> &'static str {
///     match head.headers.get("x-experiment") {
///         Some(value) if value == "b" => "b",
///         _ => "a",
///     }
/// }
///
/// let field = HeaderName::from_static("x-experiment");
/// let experiment = VariantFn::new("experiment", [field.clone()], arm)
///     .shown_as(move |value, headers| {
///         if let Ok(value) = value.parse() {
///             headers.insert(field.clone(), value);
///         }
///     });
/// # let _ = experiment;
/// ```
#[derive(Clone)]
#[must_use = "a variant does nothing until a layer has it"]
pub struct VariantFn {
    name: String,
    fields: Vec<HeaderName>,
    value: Arc<dyn Fn(&Head<'_>) -> String + Send + Sync>,
    show: Option<Arc<Show>>,
}

type Show = dyn Fn(&str, &mut HeaderMap) + Send + Sync;

impl VariantFn {
    /// The variant `name`, made from `fields` by `value`, whose results are told apart by how they
    /// are displayed.
    pub fn new<V: fmt::Display>(
        name: impl Into<String>,
        fields: impl IntoIterator<Item = HeaderName>,
        value: impl Fn(&Head<'_>) -> V + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            fields: fields.into_iter().collect(),
            value: Arc::new(move |head| value(head).to_string()),
            show: None,
        }
    }

    /// What the handler is shown of a value; see [`Variant::normalize`].
    pub fn shown_as(mut self, show: impl Fn(&str, &mut HeaderMap) + Send + Sync + 'static) -> Self {
        self.show = Some(Arc::new(show));
        self
    }
}

impl Variant for VariantFn {
    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self) -> &[HeaderName] {
        &self.fields
    }

    fn value(&self, head: &Head<'_>) -> String {
        (self.value)(head)
    }

    fn normalize(&self, value: &str, headers: &mut HeaderMap) {
        if let Some(show) = &self.show {
            show(value, headers);
        }
    }
}

impl fmt::Debug for VariantFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VariantFn")
            .field("name", &self.name)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}
