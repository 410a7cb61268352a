//! The keys that a Django site uses, so that two sites can invalidate each other's entries.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};

use super::{KeyFunction, KeyPart, KeyWriter, PageKeyFunction, PageTarget, VaryValue};

/// Django 6.1's keys, for a store shared with a Django site.
///
/// As a [`KeyFunction`] it makes the final keys of values; as a [`PageKeyFunction`] those of pages;
/// [`fragment`](Self::fragment) names a template fragment. Each site can then *delete* what the
/// other stored. Neither can read the other's entries: Django pickles, and raises on what it
/// cannot unpickle, so do not let both serve the same URLs under the same prefix.
///
/// Django's weaknesses come with its keys: a prefix that holds a `:` can meet another
/// prefix's keys, MD5 does not withstand an attacker, `/` and `/?` are one page, and a purge of a
/// page by its header-list key alone leaves its variants behind, though no layer serves them again.
///
/// # Django
///
/// `django.utils.cache`, `django.core.cache.utils`. With `USE_I18N` or `USE_TZ` on, say which
/// language and time zone the Django site would put into its keys. A request that has a
/// [`Language`](crate::layer::Language) or [`TimeZone`](crate::layer::TimeZone) of its own replaces
/// them. What Django knows nothing of is appended as one more digest where there is any: declared
/// cookies, variants, and the claims of proxies that the layer was not told to
/// [trust](crate::CacheLayer::trusted_proxies). Such pages are kept apart, and a Django site has
/// none of them.
#[derive(Clone, Debug, Default)]
pub struct DjangoKeys {
    language: Option<String>,
    time_zone: Option<String>,
}

impl DjangoKeys {
    /// The keys of a site with `USE_I18N` and `USE_TZ` off.
    pub fn new() -> Self {
        Self::default()
    }

    /// The language suffix of page keys, such as `en-us`: `USE_I18N`. `Accept-Language` is then
    /// left out of the varied fields, as Django does.
    #[must_use]
    pub fn with_language(mut self, language: impl Into<String>) -> Self {
        self.language = Some(language.into());
        self
    }

    /// The time zone suffix of page keys, such as `UTC`: `USE_TZ`.
    #[must_use]
    pub fn with_time_zone(mut self, time_zone: impl Into<String>) -> Self {
        self.time_zone = Some(time_zone.into());
        self
    }

    /// The key of the template fragment `name` varied on `vary_on`, as
    /// `make_template_fragment_key`. It can be used as the key of the `cache` filter too.
    pub fn fragment(name: &str, vary_on: &[&str]) -> DjangoFragment {
        let mut material = Md5::new();
        for value in vary_on {
            netstring(&mut material, value.as_bytes());
        }
        DjangoFragment(format!("template.cache.{name}.{}", hex(material)))
    }

    fn suffix(&self, target: &PageTarget<'_>) -> String {
        let mut suffix = String::new();
        let mut used = Vec::new();
        for (name, own) in [("language", &self.language), ("time-zone", &self.time_zone)] {
            let Some(own) = own else { continue };
            let facet = target.facets.iter().find(|facet| &*facet.name == name);
            let value = facet.and_then(|facet| facet.value.as_deref());
            suffix.push('.');
            suffix.push_str(value.unwrap_or(own));
            used.push(name);
        }
        let facets = target.facets.iter();
        let facets = facets.filter(|facet| !used.contains(&&*facet.name));
        let mut material = Md5::new();
        netstring(&mut material, target.cookies.len().to_string().as_bytes());
        let mut any = false;
        for facet in target.cookies.iter().chain(facets) {
            any = true;
            netstring(&mut material, facet.name.as_bytes());
            match &facet.value {
                Some(value) => netstring(&mut material, value.as_bytes()),
                None => material.update(b"-,"),
            }
        }
        if any {
            suffix.push('.');
            suffix.push_str(&hex(material));
        }
        suffix
    }
}

/// The key of a fragment that a Django site would use; see [`DjangoKeys::fragment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DjangoFragment(String);

impl DjangoFragment {
    /// The key, before prefix and version.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KeyPart for DjangoFragment {
    fn write_key(&self, writer: &mut KeyWriter) {
        writer.verbatim(&self.0);
    }
}

impl KeyFunction for DjangoKeys {
    fn key(&self, key: &str, prefix: &str, version: u64) -> String {
        format!("{prefix}:{version}:{key}")
    }

    fn namespace(&self, prefix: &str) -> Option<String> {
        Some(format!("{prefix}:"))
    }

    fn beginning(&self, beginning: &str, prefix: &str, version: u64) -> Option<String> {
        Some(self.key(beginning, prefix, version))
    }
}

impl PageKeyFunction for DjangoKeys {
    fn primary(&self, target: &PageTarget<'_>) -> String {
        format!(
            "views.decorators.cache.cache_header.{}.{}{}",
            target.key_prefix,
            uri_hash(target),
            self.suffix(target)
        )
    }

    fn variant(&self, target: &PageTarget<'_>, values: &[VaryValue<'_>], _: u64) -> String {
        let mut values: Vec<_> = values
            .iter()
            .filter(|(name, _)| self.language.is_none() || *name != "accept-language")
            .collect();
        // Django sorts the names after `-` has become `_`.
        values.sort_by_key(|(name, _)| name.replace('-', "_"));
        let mut material = Md5::new();
        for (_, value) in values {
            match value {
                Some(value) => netstring(&mut material, value),
                None => material.update(b"-,"),
            }
        }
        format!(
            "views.decorators.cache.cache_page.{}.GET.{}.{}{}",
            target.key_prefix,
            uri_hash(target),
            hex(material),
            self.suffix(target)
        )
    }

    fn inlines(&self) -> bool {
        false
    }
}

fn uri_hash(target: &PageTarget<'_>) -> String {
    let mut uri = Md5::new();
    uri.update(target.scheme);
    uri.update("://");
    let authority = target.authority.unwrap_or_default();
    if authority.contains(['/', '?']) {
        // No name of a host: with the path behind it, it could be taken for another one and another path.
        uri.update([0]);
        netstring(&mut uri, authority.as_bytes());
    } else {
        uri.update(authority);
    }
    uri.update(target.path);
    if let Some(query) = target.query.filter(|query| !query.is_empty()) {
        uri.update("?");
        uri.update(query);
    }
    hex(uri)
}

fn netstring(material: &mut Md5, bytes: &[u8]) {
    material.update(format!("{}:", bytes.len()));
    material.update(bytes);
    material.update(b",");
}

fn hex(material: Md5) -> String {
    let digest = material.finalize();
    digest
        .iter()
        .fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
