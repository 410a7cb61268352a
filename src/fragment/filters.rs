//! The Askama filter: re-export it from your own `filters` module.

use std::fmt;
use std::time::Duration;

use askama::Values;
use askama::filters::{Safe, ValidArgIdx, ValidFilterInvocation};
use askama::helpers::FmtCell;

use super::fragment_key;
use super::pass::{Fragment, Output, Pass};
use crate::key::KeyPart;
use crate::tag::Tags;
use crate::ttl::Ttl;

/// Caches the block it filters: `{% filter cache(ttl, key, using=alias, tags=names) %}...{% endfilter %}`.
///
/// - `ttl`: seconds, a `Duration`, or `None` for ever. Zero or less renders the block each time.
/// - `key`: a name, or a tuple of a name and all that the block depends on, such as
///   `("sidebar", user.id, lang)`: anything that is a [`KeyPart`]. Blocks with equal keys share
///   an entry.
/// - `using`: the alias of the cache, when it is not the usual one.
/// - `tags`: names by which the block is [invalidated](crate::Cache::invalidate), such as
///   `tags=["posts"]`. Those of blocks inside it are its own, too.
///
/// The block is answered from the cache under [`Cache::render`](crate::Cache::render); under
/// Askama's own `render` it is rendered each time. It must not hold what belongs to one request,
/// such as a CSRF token, and a key is for templates of one kind: a block cached by a text template
/// has not been escaped for HTML.
///
/// ```
/// mod filters {
///     pub use axum_cache::fragment::filters::cache;
/// }
/// # fn main() {}
/// ```
///
/// It takes blocks only. A plain value does not compile, since what comes out of the filter is
/// taken to be escaped:
///
/// ```compile_fail,E0277
/// mod filters {
///     pub use axum_cache::fragment::filters::cache;
/// }
///
/// #[derive(askama::Template)]
/// #[template(source = r#"{{ name|cache(60, "name") }}"#, ext = "html")]
/// struct Page {
///     name: String,
/// }
/// # fn main() {}
/// ```
///
/// # Django
///
/// `{% cache timeout name vary_on using= %}`.
// By hand what `#[askama::filter_fn]` would make: that makes `unsafe` code, and takes any value.
#[allow(non_camel_case_types, reason = "templates name it as a function")]
#[derive(Debug)]
pub struct cache<T = (), K = ()> {
    ttl: T,
    key: K,
    using: Option<String>,
    tags: Tags,
}

impl Default for cache {
    fn default() -> Self {
        Self {
            ttl: (),
            key: (),
            using: None,
            tags: Tags::default(),
        }
    }
}

impl<T, K> cache<T, K> {
    /// The first argument, `ttl`.
    #[must_use]
    pub fn with_0<N: FragmentTtl>(self, ttl: N) -> cache<N, K> {
        self.with_ttl(ttl)
    }

    /// The second argument, `key`.
    #[must_use]
    pub fn with_1<N: KeyPart>(self, key: N) -> cache<T, N> {
        self.with_key(key)
    }

    /// The third argument, `using`.
    #[must_use]
    pub fn with_2(self, using: impl AsRef<str>) -> Self {
        self.with_using(using)
    }

    /// The fourth argument, `tags`.
    #[must_use]
    pub fn with_3<N: AsRef<str>>(self, tags: impl IntoIterator<Item = N>) -> Self {
        self.with_tags(tags)
    }

    /// How long the block is kept.
    #[must_use]
    pub fn with_ttl<N: FragmentTtl>(self, ttl: N) -> cache<N, K> {
        cache {
            ttl,
            key: self.key,
            using: self.using,
            tags: self.tags,
        }
    }

    /// What the block is stored under.
    #[must_use]
    pub fn with_key<N: KeyPart>(self, key: N) -> cache<T, N> {
        cache {
            ttl: self.ttl,
            key,
            using: self.using,
            tags: self.tags,
        }
    }

    /// The alias of the cache to use.
    #[must_use]
    pub fn with_using(mut self, using: impl AsRef<str>) -> Self {
        self.using = Some(using.as_ref().to_owned());
        self
    }

    /// The tags of the block.
    #[must_use]
    pub fn with_tags<N: AsRef<str>>(mut self, tags: impl IntoIterator<Item = N>) -> Self {
        self.tags = Tags::new(tags);
        self
    }
}

impl<T: FragmentTtl, K: KeyPart> cache<T, K> {
    /// What the block writes into the page.
    ///
    /// # Errors
    ///
    /// None here: a block that fails does so when it is written.
    pub fn execute<B: FragmentBody>(
        self,
        body: B,
        values: &dyn Values,
    ) -> askama::Result<Output<B::Body>> {
        let body = body.body();
        let ttl = self.ttl.ttl();
        let Some(pass) = Pass::of(values).filter(|_| ttl.lifetime().is_some()) else {
            return Ok(Output::live(body));
        };
        let fragment = Fragment {
            using: self.using,
            key: fragment_key(&self.key),
            tags: self.tags,
        };
        Ok(pass.answer(fragment, ttl, body))
    }
}

impl<T: FragmentTtl, K: KeyPart> ValidFilterInvocation for cache<T, K> {}
impl ValidArgIdx<0> for cache {}
impl ValidArgIdx<1> for cache {}
impl ValidArgIdx<2> for cache {}
impl ValidArgIdx<3> for cache {}

/// The body of a filter block, and nothing else: it has been escaped by its template.
///
/// Sealed.
#[diagnostic::on_unimplemented(
    message = "`cache` is a filter for blocks, and `{Self}` is a plain value",
    note = "write `{{% filter cache(..) %}}...{{% endfilter %}}`, with `cache` first in a chain"
)]
pub trait FragmentBody: sealed::Sealed {
    /// What runs the block when it is written.
    type Body: fmt::Display;

    /// The block.
    fn body(self) -> Self::Body;
}

impl<'c, F> FragmentBody for &Safe<&'c FmtCell<F>>
where
    F: for<'a, 'b> FnOnce(&'a mut fmt::Formatter<'b>) -> askama::Result<()>,
{
    type Body = &'c FmtCell<F>;

    fn body(self) -> Self::Body {
        self.0
    }
}

mod sealed {
    use askama::filters::Safe;
    use askama::helpers::FmtCell;

    #[allow(unnameable_types, reason = "that is what seals the trait")]
    pub trait Sealed {}

    impl<F> Sealed for &Safe<&FmtCell<F>> {}
}

/// How long a fragment is kept: an integer of seconds, a `Duration`, `None` for ever, or a
/// [`Ttl`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no TTL of a fragment",
    note = "write a number of seconds, a `Duration`, or `None` for ever"
)]
pub trait FragmentTtl {
    /// The TTL. Less than zero counts as zero.
    fn ttl(&self) -> Ttl;
}

impl FragmentTtl for Ttl {
    fn ttl(&self) -> Ttl {
        *self
    }
}

impl FragmentTtl for Duration {
    fn ttl(&self) -> Ttl {
        Ttl::After(*self)
    }
}

impl FragmentTtl for Option<Duration> {
    fn ttl(&self) -> Ttl {
        Ttl::from(*self)
    }
}

impl<T: FragmentTtl> FragmentTtl for &T {
    fn ttl(&self) -> Ttl {
        (**self).ttl()
    }
}

macro_rules! seconds {
    ($($integer:ty),*) => {$(
        impl FragmentTtl for $integer {
            fn ttl(&self) -> Ttl {
                Ttl::After(Duration::from_secs(u64::try_from(*self).unwrap_or(0)))
            }
        }
    )*};
}

seconds!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);
