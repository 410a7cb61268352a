//! Template fragments: parts of an Askama page that are rendered once and stored.
//!
//! Rendering is synchronous and stores are not, so a page is rendered in passes. The first pass
//! runs no fragment's body and notes which fragments there are; they are fetched in one read; the
//! next pass puts the stored ones in place and captures the others, which are stored in one write
//! at the end. A fragment inside another is found when the outer one is missing: at most one more
//! pass and one more read for each level of nesting.
//!
//! # Invariants
//!
//! - The body of a stored fragment does not run.
//! - A fragment whose body failed, or held one that is not known yet, is not stored.
//! - A store that fails changes nothing but the work: the bodies run.
//! - What a fragment holds, it is invalidated with: the tags of those inside are its own.
//! - Markup of templates that have changed since is not served.

mod digest;
pub mod filters;
mod pass;
mod store;

pub use self::digest::TemplateDigest;
pub use self::filters::{FragmentBody, FragmentTtl};
pub use self::pass::Output;

use askama::{NO_VALUES, Template, Values};

use self::pass::{Env, Pass};
use self::store::Stores;
use crate::cache::Cache;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyPart, KeyWriter};
use crate::tag::Tags;

/// How often a page is run at most to find its fragments: one more than they may be nested.
const MAX_PASSES: usize = 64;

/// The alias whose cache holds fragments that name none, where it is configured.
///
/// # Django
///
/// The alias of the same name.
pub const FRAGMENTS_ALIAS: &str = "template_fragments";

/// The key of the fragment with this key in a template: to delete it, or to look at it.
///
/// # Django
///
/// `make_template_fragment_key`.
///
/// # Example
///
/// ```
/// use axum_cache::fragment::fragment_key;
///
/// // {% filter cache(500, ("sidebar", user.id)) %}
/// assert_eq!(fragment_key(&("sidebar", 7)), "fragment:(sidebar:7)");
/// // {% filter cache(500, "footer") %}
/// assert_eq!(fragment_key("footer"), "fragment:footer");
/// ```
pub fn fragment_key<K: KeyPart + ?Sized>(key: &K) -> String {
    let mut writer = KeyWriter::new();
    writer.part(key);
    if writer.is_verbatim() {
        writer.finish()
    } else {
        format!("fragment:{}", writer.finish())
    }
}

impl Cache {
    /// Renders a template with its [`cache`](filters::cache) blocks answered from the cache.
    ///
    /// Fragments that name no alias are in the cache [`template_fragments`](FRAGMENTS_ALIAS), if
    /// this handle was got from [`Caches`](crate::Caches) that have one, and else in this one. A
    /// page costs one read for all its fragments of one cache, and one write for those that were
    /// missing. A store that fails is observed, and the fragments are rendered.
    ///
    /// On a page with missing fragments the template, and the body of a fragment with others
    /// inside, may be run more than once; what a stored or captured body would do besides
    /// writing is not repeated.
    ///
    /// # Errors
    ///
    /// [`Render`](ErrorKind::Render) if the template fails.
    /// [`UnknownAlias`](ErrorKind::UnknownAlias) if a fragment names a cache that is not
    /// configured.
    ///
    /// # Cancel safety
    ///
    /// Nothing is stored, or all that was missing may be.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> axum_cache::Result<()> {
    /// use askama::Template;
    /// use axum_cache::{Cache, backend::Memory};
    ///
    /// mod filters {
    ///     pub use axum_cache::fragment::filters::cache;
    /// }
    ///
    /// #[derive(Template)]
    /// #[template(
    ///     source = r#"{% filter cache(500, ("hello", lang)) %}Hello, {{ name }}{% endfilter %}"#,
    ///     ext = "html"
    /// )]
    /// struct Page<'a> {
    ///     lang: &'a str,
    ///     name: &'a str,
    /// }
    ///
    /// let cache = Cache::new(Memory::new());
    /// let first = cache.render(Page { lang: "en", name: "Ada" }).await?;
    /// let second = cache.render(Page { lang: "en", name: "Bob" }).await?;
    /// assert_eq!((first.as_str(), second.as_str()), ("Hello, Ada", "Hello, Ada"));
    /// # Ok(()) }
    /// # #[cfg(not(feature = "memory"))] fn main() {}
    /// ```
    pub async fn render<T: Template + Send>(&self, template: T) -> Result<String> {
        let mut pages = self.render_all(vec![template]).await?.0;
        Ok(pages.pop().unwrap_or_default())
    }

    /// As [`render`](Self::render), and the tags of all fragments on the page: those that a page needs
    /// that is cached with its fragments in it.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    ///
    /// # Cancel safety
    ///
    /// As [`render`](Self::render).
    pub async fn render_with_tags<T: Template + Send>(
        &self,
        template: T,
    ) -> Result<(String, Tags)> {
        let (mut pages, tags) = self.render_all(vec![template]).await?;
        Ok((pages.pop().unwrap_or_default(), tags))
    }

    /// As [`render`](Self::render), of several templates, in their order: one read for the fragments of
    /// all of them, and one write.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render), if any of them fails.
    ///
    /// # Cancel safety
    ///
    /// As [`render`](Self::render).
    pub async fn render_many<T: Template + Send>(
        &self,
        templates: impl IntoIterator<Item = T> + Send,
    ) -> Result<Vec<String>> {
        let templates = templates.into_iter().collect();
        Ok(self.render_all(templates).await?.0)
    }

    /// A handle whose fragments are of the templates with this digest. Others of the same key are not
    /// served, and are replaced.
    ///
    /// Without one, each build of a program has fragments of its own, since its templates may have
    /// changed. With one, only a change of the templates that it was made from makes fragments stale;
    /// leave none out that they include.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")] {
    /// use axum_cache::{Cache, backend::Memory, fragment::TemplateDigest};
    ///
    /// # macro_rules! include_str { ($path:literal) => { $path } }
    /// let digest = TemplateDigest::of([include_str!("../templates/sidebar.html")]);
    /// let cache = Cache::new(Memory::new()).with_templates(digest);
    /// # }
    /// ```
    ///
    /// # Django
    ///
    /// None: fragments of a changed template are served until they expire.
    #[must_use]
    pub fn with_templates(&self, digest: TemplateDigest) -> Self {
        self.with_template_digest(digest.number())
    }

    async fn render_all<T: Template + Send>(
        &self,
        templates: Vec<T>,
    ) -> Result<(Vec<String>, Tags)> {
        let digest = match self.template_digest() {
            Some(digest) => digest,
            None => digest::of_program().await,
        };
        let stores = Stores::new(self, digest);
        let mut pass = Pass::default();
        for _ in 0..MAX_PASSES {
            let pages = templates.iter().map(|it| render_once(it, &pass, NO_VALUES));
            let pages = pages.collect::<Result<Vec<_>>>()?;
            let wanted = pass.take_wanted();
            let tags = pass.take_tags();
            if wanted.is_empty() {
                stores.keep(pass.take_captured()).await;
                return Ok((pages, tags));
            }
            pass.learn(stores.fetch(wanted).await?);
        }
        // The fragments are others each time.
        let live = templates.iter().map(|template| {
            let page = template.render();
            page.map_err(|error| Error::new(ErrorKind::Render).with_source(error))
        });
        Ok((live.collect::<Result<_>>()?, pass.take_tags()))
    }
}

fn render_once<T: Template>(template: &T, pass: &Pass, values: &dyn Values) -> Result<String> {
    template
        .render_with_values(&Env { pass, values })
        .map_err(|error| Error::new(ErrorKind::Render).with_source(error))
}
