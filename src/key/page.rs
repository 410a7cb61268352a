//! Keys of pages: a digest over everything that selects a response.

use std::borrow::Cow;
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
    /// The cookies that the layer declares, in the order of declaration.
    pub cookies: &'a [Facet<'a>],
    /// What else selects a page of the layer.
    pub facets: &'a [Facet<'a>],
}

/// One more thing that selects a page: a cookie by its name, or
///
/// | name | value |
/// |---|---|
/// | `field:NAME` | the lines of a request field that the layer varies on, divided by line feeds |
/// | `variant:NAME` | the value of a [`Variant`](crate::layer::Variant) |
/// | `uri` | what the layer is asked for, behind what nested routers stripped, where they do not make it of the full URI, which the key has; only there if so |
/// | `inside` | how many layers are outside of this one; only there if there is one |
/// | `language`, `time-zone` | the request's; only there if it has one |
/// | `claim:NAME` | what the lines of a field such as `X-Forwarded-Host` claim; only there if they do |
///
/// What is not UTF-8 is given as Latin-1 behind a NUL, so that no two values meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Facet<'a> {
    /// Its name, unlike that of any other facet of the target.
    pub name: Cow<'a, str>,
    /// Its value; `None` if the request has none.
    pub value: Option<Cow<'a, str>>,
}

impl<'a> Facet<'a> {
    /// A facet and its value.
    pub fn new(name: impl Into<Cow<'a, str>>, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        Self {
            name: name.into(),
            value: value.map(Into::into),
        }
    }

    /// The same, apart from the request.
    pub(crate) fn into_owned(self) -> Facet<'static> {
        let name = self.name.into_owned();
        Facet::new(name, self.value.map(Cow::into_owned))
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
/// The default is the URI as a text, or where that would be long or hold odd bytes a BLAKE3 digest over the
/// length-prefixed material, behind as much of the site and the path as fits.
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

/// The page keys of a layer. They are appended to what all keys of the cache begin with.
///
/// By default a key is a text, or where that would be long or odd a digest, in which no two different inputs meet.
///
/// ```text
/// page:<key prefix>:<scheme>://<authority><path>/?<query>
/// page:~<digest of the site><path>/~<digest of all of it>
/// ```
///
/// The second form is as much of the first as there is room for, in which odd bytes are replaced: a site, or
/// a path, and what lies below it begin alike in both. Without a query there is no `?` in the first, which then
/// ends in `/`; there never is one in the second, which ends in a digit, a hexadecimal one.
#[derive(Clone, Debug, Default)]
pub(crate) enum PageKeys {
    #[default]
    Uri,
    /// Those of a function of the application's.
    Custom(Arc<dyn PageKeyFunction>),
}

/// The longest key of a page.
const MAX_PAGE_KEY_BYTES: usize = 190;

/// What a digest takes of it: `~` and the digits.
const TAIL_BYTES: usize = 1 + 2 * blake3::OUT_LEN;

/// The longest beginning in front of a digest.
const MAX_HEAD_BYTES: usize = MAX_PAGE_KEY_BYTES - TAIL_BYTES;

/// The longest site that is not digested.
const MAX_SITE_BYTES: usize = 48;

const PAGE: &str = "page:";

impl PageKeys {
    /// See [`PageKeyFunction::primary`]. Whether it is known to be plain, and to be unlike a hashed one.
    pub(crate) fn primary(&self, target: &PageTarget<'_>, key: &mut String) -> bool {
        if let Self::Custom(function) = self {
            key.push_str(&function.primary(target));
            return false;
        }
        let start = key.len();
        key.push_str(PAGE);
        let is_plain_site = push_site(target, key);
        let end = key.len();
        if !is_plain_site || !push_page(target, key, start + MAX_PAGE_KEY_BYTES) {
            key.truncate(end);
            push_digested(target, key, start + MAX_HEAD_BYTES);
        }
        true
    }

    /// See [`PageKeyFunction::variant`].
    pub(crate) fn variant(
        &self,
        target: &PageTarget<'_>,
        values: &[VaryValue<'_>],
        generation: u64,
        key: &mut String,
    ) -> bool {
        if let Self::Custom(function) = self {
            key.push_str(&function.variant(target, values, generation));
            return false;
        }
        let mut digest = Digest::of_uri(target);
        digest.selection(target.cookies, target.facets);
        digest.field(&generation.to_be_bytes());
        for (name, value) in values {
            digest.field(name.as_bytes());
            digest.optional(*value);
        }
        key.push_str("variant:");
        push_hex(key, digest.hash().as_bytes());
        true
    }

    /// See [`PageKeyFunction::prefix`].
    pub(crate) fn prefix(&self, target: &PageTarget<'_>) -> Option<String> {
        if let Self::Custom(function) = self {
            return function.prefix(target);
        }
        let mut prefix = String::with_capacity(MAX_HEAD_BYTES);
        prefix.push_str(PAGE);
        push_site(target, &mut prefix);
        // Whether the last segment of the path is empty is not told.
        let path = target.path.strip_suffix('/').unwrap_or(target.path);
        push_beginning(path, &mut prefix, MAX_HEAD_BYTES);
        Some(prefix)
    }

    /// See [`PageKeyFunction::inlines`].
    pub(crate) fn inlines(&self) -> bool {
        match self {
            Self::Uri => true,
            Self::Custom(function) => function.inlines(),
        }
    }
}

/// Appends what the keys of the pages of a site have in common. Whether it says which site it is.
fn push_site(target: &PageTarget<'_>, key: &mut String) -> bool {
    let start = key.len();
    let is_plain = push_plain_site(target, key);
    if !is_plain {
        key.truncate(start);
        push_digested_site(target, key);
    }
    is_plain
}

/// Appends the site, if it is neither long nor odd. It is to be taken away again if it is not.
fn push_plain_site(target: &PageTarget<'_>, key: &mut String) -> bool {
    let (prefix, scheme) = (target.key_prefix, target.scheme);
    let authority = target.authority.unwrap_or("-");
    if authority.is_empty() || prefix.len() + scheme.len() + authority.len() > MAX_SITE_BYTES {
        return false;
    }
    key.push_str(prefix);
    key.push(':');
    key.push_str(scheme);
    // Without a host there are no slashes.
    key.push_str(target.authority.map_or(":", |_| "://"));
    key.push_str(authority);
    is_all(prefix, NAME) && is_all(scheme, NAME) && is_all(authority, HOST)
}

/// Appends path and query, as [the site](push_plain_site), up to a key of `most` bytes.
fn push_page(target: &PageTarget<'_>, key: &mut String, most: usize) -> bool {
    let (path, query) = (target.path, target.query.unwrap_or_default());
    let has_room = key.len() + path.len() + query.len() + 2 <= most;
    if !has_room || !path.starts_with('/') || !is_all(path, PATH) {
        return false;
    }
    key.push_str(path);
    key.push('/');
    target.query.is_none_or(|query| {
        key.push('?');
        key.push_str(query);
        is_all(query, QUERY)
    })
}

/// Whether all bytes of a text may be part of this.
#[inline(never)]
fn is_all(text: &str, of: u8) -> bool {
    // Without a way out, as most have no odd ones, and eight at a time.
    let of_both = |of: u8, byte: &u8| of & PARTS[usize::from(*byte)];
    let (eights, rest) = text.as_bytes().as_chunks::<8>();
    let of_eights = eights
        .iter()
        .fold(of, |of, eight| of & eight.iter().fold(of, of_both));
    rest.iter().fold(of_eights, of_both) != 0
}

/// Appends what stands for an odd site.
#[cold]
fn push_digested_site(target: &PageTarget<'_>, key: &mut String) {
    let mut site = Digest::default();
    site.site(target);
    key.push('~');
    push_hex(key, &xxh3_64(&site.material).to_be_bytes());
}

/// Appends what stands for an odd path or query, and fits into `most` bytes but for the digest.
#[cold]
fn push_digested(target: &PageTarget<'_>, key: &mut String, most: usize) {
    push_beginning(target.path, key, most);
    key.push('~');
    push_hex(key, Digest::of_uri(target).hash().as_bytes());
}

/// Appends as much of the path, and the `/` behind it, as fits into `most` bytes.
fn push_beginning(path: &str, key: &mut String, most: usize) {
    let bytes = path.bytes().chain([b'/']);
    let plain = bytes.map(|byte| {
        if is_of_path(byte) {
            char::from(byte)
        } else {
            '_'
        }
    });
    let room = most.saturating_sub(key.len());
    key.extend(plain.take(room));
}

/// No braces: what is between them says where in a Redis Cluster a key is, and clients could fill one place. No `#`,
/// which divides a hashed key.
const fn is_of_path(byte: u8) -> bool {
    matches!(byte, b'!' | b'"' | b'$'..=b'>' | b'@'..=b'z' | b'|' | b'~')
}

/// What each byte may be part of.
static PARTS: [u8; 256] = {
    let mut parts = [0; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        let of = byte.to_le_bytes()[0];
        if of.is_ascii_alphanumeric() || matches!(of, b'-' | b'_') {
            parts[byte] |= NAME | HOST;
        }
        if matches!(of, b'.' | b':' | b'[' | b']') {
            parts[byte] |= HOST;
        }
        if is_of_path(of) {
            parts[byte] |= PATH | QUERY;
        }
        if of == b'?' {
            parts[byte] |= QUERY;
        }
        byte += 1;
    }
    parts
};

const NAME: u8 = 1;
const HOST: u8 = 2;
const PATH: u8 = 4;
const QUERY: u8 = 8;

/// Length-prefixed fields for BLAKE3: no two different sequences of fields make the same input.
#[derive(Default)]
struct Digest {
    // Gathered, since one call on a short input costs less than a hasher and its updates.
    material: Vec<u8>,
}

impl Digest {
    /// For as much as most need.
    fn with_room() -> Self {
        Self {
            material: Vec::with_capacity(192),
        }
    }

    fn of_uri(target: &PageTarget<'_>) -> Self {
        let mut digest = Self::with_room();
        digest.site(target);
        digest.field(target.path.as_bytes());
        digest.optional(target.query.map(str::as_bytes));
        digest
    }

    /// Adds what the pages of a site have in common.
    fn site(&mut self, target: &PageTarget<'_>) {
        self.field(target.key_prefix.as_bytes());
        self.field(target.scheme.as_bytes());
        self.optional(target.authority.map(str::as_bytes));
    }

    /// Adds what selects a page beside its URI.
    fn selection(&mut self, cookies: &[Facet<'_>], facets: &[Facet<'_>]) {
        for all in [cookies, facets] {
            self.length(all.len());
            for facet in all {
                self.field(facet.name.as_bytes());
                self.optional(facet.value.as_deref().map(str::as_bytes));
            }
        }
    }

    /// Seven bits a byte, the last one below 128: none is the beginning of another.
    fn length(&mut self, length: usize) {
        let mut left = length;
        while left >= 0x80 {
            self.material.push(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        self.material.push(left.to_le_bytes()[0]);
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

    fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.material)
    }
}

/// A digest of what selects a page beside its URI; `None` if nothing does.
pub(crate) fn selection(cookies: &[Facet<'_>], facets: &[Facet<'_>]) -> Option<[u8; 32]> {
    if cookies.is_empty() && facets.is_empty() {
        return None;
    }
    let mut digest = Digest::with_room();
    digest.selection(cookies, facets);
    Some(*digest.hash().as_bytes())
}

/// Appends two hexadecimal digits for each of up to 32 bytes.
fn push_hex(key: &mut String, bytes: &[u8]) {
    let mut digits = [[0; 2]; blake3::OUT_LEN];
    for (pair, byte) in digits.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
    let digits = digits[..bytes.len()].as_flattened();
    key.push_str(str::from_utf8(digits).unwrap_or_default());
}

/// Two digits for each byte.
static HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut hex = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        hex[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    hex
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::collections::HashSet;

    use super::*;

    fn primary(target: &PageTarget<'_>) -> String {
        let mut key = String::new();
        PageKeys::Uri.primary(target, &mut key);
        key
    }

    fn variant(target: &PageTarget<'_>, values: &[VaryValue<'_>], generation: u64) -> String {
        let mut key = String::new();
        PageKeys::Uri.variant(target, values, generation, &mut key);
        key
    }

    #[test]
    fn different_targets_and_values_never_meet() {
        let mut keys = HashSet::new();
        let mut targets = 0;
        let prefixes = ["", "a", "b", "ab", "/a", "a\0b", "~", "a:http", "é"];
        let authorities = [
            None,
            Some(""),
            Some("-"),
            Some("a"),
            Some("ab"),
            Some("a:1"),
            Some("a/b"),
        ];
        let long = "/a".repeat(40);
        let paths = [
            "",
            "a",
            "b",
            "ab",
            "/",
            "//",
            "/a",
            "/a/",
            "/a/b",
            "/a>",
            "/a>/b",
            "/<a",
            "/a?b",
            "/~",
            "//a",
            "/a\0b",
            "/é",
            "*",
            &long,
            &long[..78],
            "/abcdefghijklmnopqrstuvwxyz",
            "/abcdefghijklmnopqrstuvwxy",
        ];
        let queries = [
            None,
            Some(""),
            Some("a"),
            Some("b"),
            Some("a?b"),
            Some("a b"),
            Some(&long[..]),
        ];
        for key_prefix in prefixes {
            for authority in authorities {
                for path in paths {
                    for query in queries {
                        let target = PageTarget::new("http", authority, path, query);
                        let target = target.with_key_prefix(key_prefix);
                        keys.insert(primary(&target));
                        keys.insert(variant(&target, &[], 1));
                        keys.insert(variant(&target, &[], 2));
                        keys.insert(variant(&target, &[("a", None)], 1));
                        keys.insert(variant(&target, &[("a", Some(b""))], 1));
                        targets += 1;
                    }
                }
            }
        }
        assert_eq!(keys.len(), 5 * targets);
    }

    fn is_under(path: &str, prefix: &str) -> bool {
        let target = |path| PageTarget::new("http", Some("a"), path, None);
        let prefix = PageKeys::Uri.prefix(&target(prefix)).unwrap_or_default();
        let key = primary(&target(path));
        assert!(key.len() <= MAX_PAGE_KEY_BYTES, "{key}");
        key.starts_with(&prefix)
    }

    #[test]
    fn keys_begin_with_the_prefix_of_every_path_above() {
        let deep = "/1/2/3/4/5/6/7/8/9/10";
        // Of which not all counts.
        let long = &*format!("/{}", "long-".repeat(40));
        let longer = &*format!("{long}/b/c");
        let odd = "/an-odd-é/\0/<>/b";
        let below = [
            (
                "/blog",
                vec![
                    "/blog", "/blog/", "/blog/a", "/blog/a/", "/blog//", "/blog//a",
                ],
            ),
            (
                "/blog/",
                vec!["/blog", "/blog/", "/blog/a", "/blog/a/b", "/blog//"],
            ),
            ("/blog//", vec!["/blog//", "/blog//a"]),
            ("/", vec!["/", "//", "/blog", "/blog/a"]),
            (
                "/1/2/3/4/5/6/7",
                vec![deep, "/1/2/3/4/5/6/7/", "/1/2/3/4/5/6/7"],
            ),
            ("/1/2/3/4/5/6/7/8", vec![deep, "/1/2/3/4/5/6/7/8"]),
            // Longer than the keys tell: more, never less.
            (long, vec![long, longer, &long[..150]]),
            (longer, vec![long, longer, &long[..150]]),
            (odd, vec![odd, "/an-odd-é/\0/<>/b/c", "/an-odd-é/_/<>/b/c?"]),
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
            ("/blog/", vec!["/blogger/", "/blo", "/"]),
            ("/blog//", vec!["/blog", "/blog/a"]),
            (
                "/1/2/3/4/5/6/7/8",
                vec!["/1/2/3/4/5/6/7", "/1/2/3/4/5/6/7/", "/1/2/3/4/5/6/7/9"],
            ),
            (long, vec![&long[..50]]),
            (odd, vec!["/an-odd-é/\0/<>/c", "/an-odd-é"]),
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
        let prefix = PageKeys::Uri.prefix(&target).unwrap_or_default();
        assert!(primary(&target).starts_with(&prefix));
        for other in [
            of("https", Some("a")),
            of("http", Some("b")),
            of("http", None),
            target.with_key_prefix("k"),
        ] {
            assert!(!primary(&other).starts_with(&prefix), "{other:?}");
        }
    }

    #[test]
    fn keys_say_which_page_it_is() {
        let key =
            |authority, path, query| primary(&PageTarget::new("http", authority, path, query));
        let text = key(Some("a.test:8000"), "/blog/2026/", Some("page=2&x=a/b?c"));
        assert_eq!(text, "page::http://a.test:8000/blog/2026//?page=2&x=a/b?c");
        assert_eq!(key(None, "/", None), "page::http:-//");
        for braces in ["/{a}", "/a?{b}"] {
            let (path, query) = braces
                .split_once('?')
                .map_or((braces, None), |(path, query)| (path, Some(query)));
            assert!(!key(Some("a"), path, query).contains(['{', '}']));
        }
        let odd = key(Some("a"), "/blog/é", None);
        let (head, digest) = odd.split_once('~').unwrap();
        assert!(
            head == "page::http://a/blog/__/" && digest.len() == 64,
            "{odd}"
        );
    }

    /// The key of a variant, whose primary entry is that of its URI.
    fn selected(target: &PageTarget<'_>) -> (String, Option<[u8; 32]>) {
        let plain = PageTarget::new("http", None, "/", None);
        assert_eq!(primary(target), primary(&plain));
        (
            variant(target, &[], 1),
            selection(target.cookies, target.facets),
        )
    }

    #[test]
    fn declared_cookies_do_not_meet() {
        let cookies = |pairs: &[(&str, Option<&str>)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| Facet::new(*name, *value))
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
                .map(|(name, value)| Facet::new(*name, *value))
                .collect();
            let mut target = PageTarget::new("http", None, "/", None);
            target.facets = &facets;
            selected(&target)
        };
        let mut target = PageTarget::new("http", None, "/", None);
        let cookies = [Facet::new("a", None::<&str>)];
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
