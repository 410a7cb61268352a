//! Keys of pages: a digest over everything that selects a response.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

/// What a page is asked for by, apart from the header fields its responses vary on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PageTarget<'a> {
    /// The key prefix of the layer.
    pub key_prefix: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and port as the client named them, in lower case; `None` if it named none.
    pub authority: Option<&'a str>,
    /// The full path, percent-encoded as it came, also inside nested routers.
    pub path: &'a str,
    /// The query without its `?`, as it came; `None` if there was no `?`.
    pub query: Option<&'a str>,
    /// The values of the cookies that the layer declares, in the order of declaration.
    pub cookies: &'a [(String, Option<String>)],
    /// What else selects a page of the layer.
    pub facets: &'a [Facet],
}

/// One more thing that selects a page.
///
/// | name | value |
/// |---|---|
/// | `field:NAME` | the lines of a request field that the layer varies on, divided by line feeds |
/// | `variant:NAME` | the value of a [`Variant`](crate::layer::Variant) |
/// | `language`, `time-zone` | the request's; only there if it has one |
/// | `claim:NAME` | what the lines of a field such as `X-Forwarded-Host` claim; only there if they do |
///
/// What is not UTF-8 is given as Latin-1 behind a NUL, so that no two values meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Facet {
    /// Its name, unlike that of any other facet of the target.
    pub name: Arc<str>,
    /// Its value; `None` if the request has none.
    pub value: Option<String>,
}

impl Facet {
    /// A facet and its value.
    pub fn new(name: impl Into<Arc<str>>, value: Option<String>) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

impl<'a> PageTarget<'a> {
    /// A target without key prefix, declared cookies and facets.
    pub fn new(
        scheme: &'a str,
        authority: Option<&'a str>,
        path: &'a str,
        query: Option<&'a str>,
    ) -> Self {
        Self {
            key_prefix: "",
            scheme,
            authority,
            path,
            query,
            cookies: &[],
            facets: &[],
        }
    }

    /// A digest of what selects the page beside its URI; `None` if nothing does.
    pub(crate) fn selection(&self) -> Option<[u8; blake3::OUT_LEN]> {
        if self.cookies.is_empty() && self.facets.is_empty() {
            return None;
        }
        let mut digest = Digest::default();
        digest.selection(self);
        Some(*blake3::hash(&digest.material).as_bytes())
    }

    /// The same target under the key prefix of a layer.
    #[must_use]
    pub fn with_key_prefix(mut self, key_prefix: &'a str) -> Self {
        self.key_prefix = key_prefix;
        self
    }
}

/// The value that a request has for one field that the responses vary on: the field's name in
/// lower case, and all its lines joined by `, `, or by line feeds for `cookie` and `authorization`,
/// which are no lists; `None` if there is no such line.
pub type VaryValue<'a> = (&'a str, Option<&'a [u8]>);

/// Makes the keys under which pages are stored, before the cache's own prefix and version.
///
/// The default is a BLAKE3 digest over the length-prefixed material, behind short digests of the
/// segments of the path, which find the pages below one.
/// [`DjangoKeys`](crate::key::DjangoKeys) makes the ones that a Django site uses.
pub trait PageKeyFunction: fmt::Debug + Send + Sync + 'static {
    /// The key of the primary entry of a target, which its variants are found by. The default one
    /// goes by the URI alone, so that whoever knows it can purge all of them.
    fn primary(&self, target: &PageTarget<'_>) -> String;

    /// The key of one variant of a target. `generation` is drawn anew whenever the primary entry
    /// is; including it makes the variants of a purged primary entry unreachable.
    fn variant(&self, target: &PageTarget<'_>, values: &[VaryValue<'_>], generation: u64)
    -> String;

    /// What the primary keys of all pages begin with whose path is that of the target or lies
    /// below it, under the same key prefix, scheme and authority; for
    /// [`purge_prefix`](crate::CacheLayer::purge_prefix). Those of a few other pages may begin
    /// with it, too. `None`, the default, if the keys do not tell.
    fn prefix(&self, target: &PageTarget<'_>) -> Option<String> {
        let _ = target;
        None
    }

    /// Whether the primary entry may hold the last variant inline, so that most hits take one
    /// read. `false` if another program deletes pages by their variant keys.
    fn inlines(&self) -> bool {
        true
    }
}

/// The page key function of a layer.
pub(crate) type PageKeys = Arc<dyn PageKeyFunction>;

/// The default: a digest in which no two different inputs meet.
///
/// ```text
/// page:<site>/<segment>/<segment>:<digest of the URI>
/// ```
///
/// Site and segments are digests of eight digits, for finding what is below a path: those that meet
/// there do no harm but to be forgotten together. An empty segment stays empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DigestKeys;

/// The segments of a path that keys begin with.
const MAX_SEGMENTS: usize = 8;

/// The longest primary key.
const MAX_PRIMARY_BYTES: usize = PAGE.len() + 8 + MAX_SEGMENTS * 9 + 1 + 2 * blake3::OUT_LEN;

const PAGE: &str = "page:";

impl PageKeyFunction for DigestKeys {
    fn primary(&self, target: &PageTarget<'_>) -> String {
        let digest = Digest::of_uri(target);
        let mut key = digest.beginning(target.path);
        key.push(':');
        digest.finish(key)
    }

    fn variant(
        &self,
        target: &PageTarget<'_>,
        values: &[VaryValue<'_>],
        generation: u64,
    ) -> String {
        let mut digest = Digest::of_uri(target);
        digest.selection(target);
        digest.field(&generation.to_be_bytes());
        for (name, value) in values {
            digest.field(name.as_bytes());
            digest.optional(*value);
        }
        let mut key = String::with_capacity(8 + 2 * blake3::OUT_LEN);
        key.push_str("variant:");
        digest.finish(key)
    }

    fn prefix(&self, target: &PageTarget<'_>) -> Option<String> {
        Some(Digest::of_uri(target).beginning(target.path))
    }
}

/// Length-prefixed fields for BLAKE3: no two different sequences of fields make the same input.
#[derive(Default)]
struct Digest {
    // Gathered, since one call on a short input costs less than a hasher and its updates.
    material: Vec<u8>,
    /// Where in it that ends which the pages of a site have in common.
    site: usize,
}

impl Digest {
    fn of_uri(target: &PageTarget<'_>) -> Self {
        let mut digest = Self {
            material: Vec::with_capacity(192),
            site: 0,
        };
        digest.field(target.key_prefix.as_bytes());
        digest.field(target.scheme.as_bytes());
        digest.optional(target.authority.map(str::as_bytes));
        digest.site = digest.material.len();
        digest.field(target.path.as_bytes());
        digest.optional(target.query.map(str::as_bytes));
        digest
    }

    /// Adds what selects a page beside its URI.
    fn selection(&mut self, target: &PageTarget<'_>) {
        self.length(target.cookies.len());
        for (name, value) in target.cookies {
            self.field(name.as_bytes());
            self.optional(value.as_deref().map(str::as_bytes));
        }
        self.length(target.facets.len());
        for facet in target.facets {
            self.field(facet.name.as_bytes());
            self.optional(facet.value.as_deref().map(str::as_bytes));
        }
    }

    fn length(&mut self, length: usize) {
        self.material
            .extend_from_slice(&(length as u64).to_be_bytes());
    }

    fn field(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.material.extend_from_slice(bytes);
    }

    /// Absent and empty differ.
    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.material.push(u8::from(bytes.is_some()));
        if let Some(bytes) = bytes {
            self.field(bytes);
        }
    }

    /// What the primary keys of the page at `path`, and of those below it, begin with.
    fn beginning(&self, path: &str) -> String {
        let mut key = String::with_capacity(MAX_PRIMARY_BYTES);
        key.push_str(PAGE);
        push_short_digest(&mut key, &self.material[..self.site]);
        for segment in path.split('/').skip(1).take(MAX_SEGMENTS) {
            key.push('/');
            if !segment.is_empty() {
                push_short_digest(&mut key, segment.as_bytes());
            }
        }
        key
    }

    fn finish(&self, mut key: String) -> String {
        key.push_str(&blake3::hash(&self.material).to_hex());
        key
    }
}

/// Appends eight hexadecimal digits.
fn push_short_digest(key: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in &xxh3_64(bytes).to_le_bytes()[..4] {
        key.push(char::from(DIGITS[usize::from(byte >> 4)]));
        key.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_targets_and_values_never_meet() {
        let mut keys = HashSet::new();
        let mut targets = 0;
        let texts = ["", "a", "b", "ab", "/a", "a\0b"];
        for key_prefix in texts {
            for authority in [None, Some(""), Some("a"), Some("ab")] {
                for path in texts {
                    for query in [None, Some(""), Some("a"), Some("b")] {
                        let target = PageTarget::new("http", authority, path, query);
                        let target = target.with_key_prefix(key_prefix);
                        keys.insert(DigestKeys.primary(&target));
                        keys.insert(DigestKeys.variant(&target, &[], 1));
                        keys.insert(DigestKeys.variant(&target, &[], 2));
                        keys.insert(DigestKeys.variant(&target, &[("a", None)], 1));
                        keys.insert(DigestKeys.variant(&target, &[("a", Some(b""))], 1));
                        targets += 1;
                    }
                }
            }
        }
        assert_eq!(keys.len(), 5 * targets);
    }

    fn is_under(path: &str, prefix: &str) -> bool {
        let target = |path| PageTarget::new("http", Some("a"), path, None);
        let prefix = DigestKeys.prefix(&target(prefix)).unwrap_or_default();
        let key = DigestKeys.primary(&target(path));
        assert!(key.len() <= MAX_PRIMARY_BYTES, "{key}");
        key.starts_with(&prefix)
    }

    #[test]
    fn keys_begin_with_the_prefix_of_every_path_above() {
        let deep = "/1/2/3/4/5/6/7/8/9/10";
        let below = [
            (
                "/blog",
                vec![
                    "/blog", "/blog/", "/blog/a", "/blog/a/", "/blog//", "/blog//a",
                ],
            ),
            ("/blog/", vec!["/blog/", "/blog/a", "/blog/a/b", "/blog//"]),
            ("/blog//", vec!["/blog//", "/blog//a"]),
            ("/", vec!["/", "//", "/blog", "/blog/a"]),
            (
                "/1/2/3/4/5/6/7",
                vec![deep, "/1/2/3/4/5/6/7/", "/1/2/3/4/5/6/7"],
            ),
            ("/1/2/3/4/5/6/7/8", vec![deep, "/1/2/3/4/5/6/7/8"]),
            // Deeper than the keys tell: more, never less.
            (
                deep,
                vec![deep, "/1/2/3/4/5/6/7/8/9/10/11", "/1/2/3/4/5/6/7/8"],
            ),
        ];
        for (prefix, paths) in below {
            for path in paths {
                assert!(is_under(path, prefix), "{path} {prefix}");
            }
        }
        let beside = [
            (
                "/blog",
                vec![
                    "/", "/blogger", "/blo", "/a/blog", "//blog", "/%62log", "/Blog",
                ],
            ),
            ("/blog/", vec!["/blog", "/blogger/"]),
            ("/blog//", vec!["/blog/", "/blog/a"]),
            (
                "/1/2/3/4/5/6/7/8",
                vec!["/1/2/3/4/5/6/7", "/1/2/3/4/5/6/7/", "/1/2/3/4/5/6/7/9"],
            ),
        ];
        for (prefix, paths) in beside {
            for path in paths {
                assert!(!is_under(path, prefix), "{path} {prefix}");
            }
        }
    }

    #[test]
    fn a_prefix_is_of_one_site() {
        let of = |scheme, authority| PageTarget::new(scheme, authority, "/a", None);
        let target = of("http", Some("a"));
        let prefix = DigestKeys.prefix(&target).unwrap_or_default();
        assert!(DigestKeys.primary(&target).starts_with(&prefix));
        for other in [
            of("https", Some("a")),
            of("http", Some("b")),
            of("http", None),
            target.with_key_prefix("k"),
        ] {
            assert!(
                !DigestKeys.primary(&other).starts_with(&prefix),
                "{other:?}"
            );
        }
    }

    /// The key of a variant, whose primary entry is that of its URI.
    fn selected(target: &PageTarget<'_>) -> (String, Option<[u8; 32]>) {
        let plain = PageTarget::new("http", None, "/", None);
        assert_eq!(DigestKeys.primary(target), DigestKeys.primary(&plain));
        (DigestKeys.variant(target, &[], 1), target.selection())
    }

    #[test]
    fn declared_cookies_do_not_meet() {
        let cookies = |pairs: &[(&str, Option<&str>)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)))
                .collect();
            let mut target = PageTarget::new("http", None, "/", None);
            target.cookies = &pairs;
            selected(&target)
        };
        let all = [
            cookies(&[]),
            cookies(&[("a", None)]),
            cookies(&[("a", Some(""))]),
            cookies(&[("a", Some("b")), ("c", None)]),
            cookies(&[("a", None), ("c", Some("b"))]),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn facets_do_not_meet() {
        let facets = |pairs: &[(&str, Option<&str>)]| {
            let facets: Vec<_> = pairs
                .iter()
                .map(|(name, value)| Facet::new(*name, value.map(str::to_owned)))
                .collect();
            let mut target = PageTarget::new("http", None, "/", None);
            target.facets = &facets;
            selected(&target)
        };
        let mut target = PageTarget::new("http", None, "/", None);
        let cookies = [("a".to_owned(), None)];
        target.cookies = &cookies;
        let all = [
            selected(&target),
            facets(&[]),
            facets(&[("a", None)]),
            facets(&[("a", Some(""))]),
            facets(&[("a", Some("b")), ("c", None)]),
            facets(&[("a", None), ("c", Some("b"))]),
            facets(&[("a", Some("b\0c"))]),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
