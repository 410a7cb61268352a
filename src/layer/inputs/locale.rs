//! The language, among those that a site has, for a request.

use http::header::{ACCEPT_LANGUAGE, COOKIE, HeaderMap, HeaderName, HeaderValue};

use super::accept::{Weighted, weighted};
use super::cookies;
use super::variant::{Head, Variant};

/// The variant of the languages a site has.
///
/// Each range of `Accept-Language`, by its weight, is looked up among the languages, shortened
/// until one matches; a range that none matches takes the first language that begins with it:
/// `de` finds `de-CH`. Ranges of weight 0 exclude. Where nothing matches, it is the first language
/// that is not excluded, or just the first.
///
/// The handler is shown the language as its only `Accept-Language`. Responses vary on that field,
/// and on `Cookie` if [one](Self::cookie) goes before it.
///
/// # Specification
///
/// RFC 4647 section 3.4 (lookup), RFC 9110 section 12.5.4.
///
/// # Django
///
/// `LocaleMiddleware` with `LANGUAGES`; the cookie is `LANGUAGE_COOKIE_NAME`.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "memory")] {
/// use axum_cache::{Cache, CacheLayer, backend::Memory, layer::Locale};
///
/// let layer = CacheLayer::new(Cache::new(Memory::new())).variant(Locale::new(["en", "de-CH"]));
/// # let _ = layer; }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a variant does nothing until a layer has it"]
pub struct Locale {
    tags: Vec<String>,
    fields: Vec<HeaderName>,
    cookie: Option<String>,
}

impl Locale {
    /// The languages of these tags; the first is the default. Without any, the value is empty.
    pub fn new<T: Into<String>>(tags: impl IntoIterator<Item = T>) -> Self {
        Self {
            tags: tags.into_iter().map(Into::into).collect(),
            fields: vec![ACCEPT_LANGUAGE],
            cookie: None,
        }
    }

    /// A cookie that goes before `Accept-Language` if it names one of the languages. The handler
    /// is not shown it.
    ///
    /// A site-wide layer leaves requests with cookies alone until it
    /// [declares](crate::CacheLayer::cookies) those that matter beside this one, if only as none.
    pub fn cookie(mut self, name: impl Into<String>) -> Self {
        if self.cookie.replace(name.into()).is_none() {
            self.fields.push(COOKIE);
        }
        self
    }

    /// The tag for a request with these fields.
    pub fn negotiate(&self, headers: &HeaderMap) -> &str {
        let by_cookie = self
            .cookie
            .as_deref()
            .and_then(|name| cookies::first(headers, name))
            .and_then(|tag| self.find(tag, |_| true));
        let tag = by_cookie.or_else(|| self.by_ranges(&weighted(headers, &ACCEPT_LANGUAGE)?));
        tag.or(self.tags.first().map(String::as_str))
            .unwrap_or_default()
    }

    fn by_ranges(&self, ranges: &[Weighted<'_>]) -> Option<&str> {
        let is_named = |tag: &str| {
            let mut named = ranges.iter().filter(|range| covers(range.item, tag));
            named.next().is_some()
        };
        let excludes_rest = ranges
            .iter()
            .any(|range| range.item == "*" && range.weight == 0);
        let is_open = |tag: &str| {
            // The longest range that matches decides.
            let matching = ranges.iter().filter(|range| covers(range.item, tag));
            matching
                .max_by_key(|range| range.item.len())
                .map_or(!excludes_rest, |range| range.weight > 0)
        };
        for range in ranges.iter().filter(|range| range.weight > 0) {
            let found = if range.item == "*" {
                // Whatever no other range names.
                self.tags
                    .iter()
                    .map(String::as_str)
                    .find(|tag| !is_named(tag))
            } else {
                self.find(range.item, is_open)
            };
            if found.is_some() {
                return found;
            }
        }
        let mut tags = self.tags.iter().map(String::as_str);
        tags.find(|tag| is_open(tag))
    }

    /// The tag for one range, among those that are open.
    fn find(&self, range: &str, is_open: impl Fn(&str) -> bool) -> Option<&str> {
        let find = |matches: &dyn Fn(&str) -> bool| {
            self.tags
                .iter()
                .map(String::as_str)
                .find(|tag| matches(tag) && is_open(tag))
        };
        let mut shortened = Some(range);
        while let Some(candidate) = shortened {
            if let Some(tag) = find(&|tag| tag.eq_ignore_ascii_case(candidate)) {
                return Some(tag);
            }
            shortened = candidate.rsplit_once('-').map(|(rest, _)| {
                // A single letter introduces what has just been cut off.
                match rest.rsplit_once('-') {
                    Some((shorter, single)) if single.len() == 1 => shorter,
                    _ => rest,
                }
            });
        }
        find(&|tag| covers(range, tag))
    }
}

/// Whether a range matches a tag: it is the tag, or its beginning up to a `-`.
fn covers(range: &str, tag: &str) -> bool {
    tag.as_bytes()
        .split_at_checked(range.len())
        .is_some_and(|(beginning, rest)| {
            beginning.eq_ignore_ascii_case(range.as_bytes()) && matches!(rest, [] | [b'-', ..])
        })
}

impl Variant for Locale {
    fn name(&self) -> &'static str {
        "locale"
    }

    fn fields(&self) -> &[HeaderName] {
        &self.fields
    }

    fn value(&self, head: &Head<'_>) -> String {
        self.negotiate(head.headers).to_owned()
    }

    fn normalize(&self, value: &str, headers: &mut HeaderMap) {
        if let Some(name) = &self.cookie {
            cookies::remove(headers, name);
        }
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            headers.insert(ACCEPT_LANGUAGE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn chosen(tags: &[&str], accepted: &str) -> String {
        let value = HeaderValue::from_str(accepted).unwrap();
        let headers = [(ACCEPT_LANGUAGE, value)].into_iter().collect();
        let locale = Locale::new(tags.iter().copied());
        let chosen = locale.negotiate(&headers).to_owned();
        // What the handler is shown says the same.
        let mut shown = HeaderMap::new();
        locale.normalize(&chosen, &mut shown);
        assert_eq!(locale.negotiate(&shown), chosen, "{accepted}");
        chosen
    }

    #[test]
    fn rfc_4647_3_4_lookup() {
        let tags = ["en", "de", "zh-Hant", "pt-BR"];
        for (accepted, tag) in [
            ("de", "de"),
            ("DE-ch-1996", "de"),
            ("zh-Hant-CN-x-private1", "zh-Hant"),
            ("zh-Hant-x-a", "zh-Hant"),
            ("fr, de;q=0.5", "de"),
            ("fr;q=0.9, en;q=0.1, de;q=0.5", "de"),
            ("pt", "pt-BR"),
            ("fr", "en"),
            ("", "en"),
            ("d", "en"),
            ("*", "en"),
            ("*, de;q=0.5", "en"),
            ("en, *;q=0.5", "en"),
        ] {
            assert_eq!(chosen(&tags, accepted), tag, "{accepted}");
        }
    }

    #[test]
    fn weight_zero_excludes() {
        let tags = ["en", "en-GB", "de"];
        for (accepted, tag) in [
            ("en;q=0", "de"),
            ("en;q=0, *", "de"),
            ("en;q=0, en-GB", "en-GB"),
            ("de;q=0, de-CH", "en"),
            ("*;q=0, de", "de"),
            ("*;q=0", "en"),
            ("en;q=0.1, *;q=0.9", "de"),
        ] {
            assert_eq!(chosen(&tags, accepted), tag, "{accepted}");
        }
    }

    #[test]
    fn a_cookie_goes_first_if_it_names_a_language() {
        let locale = Locale::new(["en", "de"]).cookie("language");
        let with = |cookie: &'static str| {
            let fields = [(COOKIE, cookie), (ACCEPT_LANGUAGE, "de")];
            let headers: HeaderMap = fields
                .into_iter()
                .map(|(name, value)| (name, HeaderValue::from_static(value)))
                .collect();
            locale.negotiate(&headers).to_owned()
        };
        assert_eq!(with("language=en"), "en");
        assert_eq!(with("a=1; language=en-GB"), "en");
        assert_eq!(with("language=fr"), "de");
        assert_eq!(with("language="), "de");
        assert_eq!(
            Locale::new(Vec::<String>::new()).negotiate(&HeaderMap::new()),
            ""
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn arbitrary_bytes_choose_a_language(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                "((en|de|de-CH|fr|x|\\*|-)(;q=[01](.[0-9])?)?[, ]{0,2}){0,5}".prop_map(String::into_bytes),
            ],
        ) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = [(ACCEPT_LANGUAGE, value)].into_iter().collect();
                let locale = Locale::new(["en", "de-CH", "de-AT"]).cookie("a");
                let tag = locale.negotiate(&headers);
                prop_assert!(locale.tags.iter().any(|listed| listed == tag));
            }
        }
    }
}
