//! Queries: which of their parameters count, and in which order.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode;

/// Parameters that say where a visitor came from, and that no page depends on.
const TRACKING: &[&str] = &[
    "_bta_c",
    "_bta_tid",
    "_ga",
    "_gac",
    "_gl",
    "_hsenc",
    "_hsmi",
    "_ke",
    "_kx",
    "_openstat",
    "dclid",
    "dm_i",
    "ef_id",
    "epik",
    "fbclid",
    "gad_campaignid",
    "gad_source",
    "gbraid",
    "gclid",
    "gclsrc",
    "hsCtaTracking",
    "igsh",
    "igshid",
    "li_fat_id",
    "mc_cid",
    "mc_eid",
    "mkt_tok",
    "ml_subscriber",
    "ml_subscriber_hash",
    "msclkid",
    "mtm_*",
    "oly_anon_id",
    "oly_enc_id",
    "piwik_*",
    "pk_*",
    "rb_clickid",
    "rdt_cid",
    "s_kwcid",
    "sc_cid",
    "srsltid",
    "trk_*",
    "ttclid",
    "twclid",
    "utm_*",
    "vero_conv",
    "vero_id",
    "wbraid",
    "wickedid",
    "yclid",
    "ymclid",
    "ysclid",
];

/// Which parameters of a query count. By default the query counts as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct QueryRule {
    allowed: Option<Arc<[String]>>,
    /// Names, and beginnings of names that end in `*`.
    ignored: Vec<Cow<'static, str>>,
    sorted: bool,
}

/// The query of a request under the rule of its layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::layer) enum Query {
    /// As it came.
    Whole,
    /// What is left of it; `None` if that is nothing.
    Reduced(Option<String>),
}

impl QueryRule {
    pub(super) fn allow(&mut self, names: impl IntoIterator<Item = String>) {
        let before = self.allowed.take();
        let before = before.iter().flat_map(|names| names.iter().cloned());
        self.allowed = Some(before.chain(names).collect());
    }

    pub(super) fn ignore(&mut self, names: impl IntoIterator<Item = String>) {
        self.ignored.extend(names.into_iter().map(Cow::Owned));
    }

    pub(super) fn ignore_tracking(&mut self) {
        let names = TRACKING.iter().map(|name| Cow::Borrowed(*name));
        self.ignored.extend(names);
    }

    pub(super) fn sort(&mut self) {
        self.sorted = true;
    }

    /// What counts of `query`.
    pub(super) fn apply(&self, query: Option<&str>) -> Query {
        let Some(query) = query else {
            return Query::Whole;
        };
        if self.is_whole() {
            return Query::Whole;
        }
        let mut kept: Vec<_> = query
            .split('&')
            .map(|pair| (name(pair), pair))
            .filter(|(name, _)| self.keeps(name))
            .collect();
        if self.sorted {
            // Stable: the values of one name stay in order.
            kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let mut text = String::with_capacity(query.len());
        for (index, (_, pair)) in kept.iter().enumerate() {
            if index > 0 {
                text.push('&');
            }
            text.push_str(pair);
        }
        if text == query && !text.is_empty() {
            return Query::Whole;
        }
        Query::Reduced((!text.is_empty()).then_some(text))
    }

    /// Whether all of every query counts, as it came.
    pub(super) fn is_whole(&self) -> bool {
        self.allowed.is_none() && self.ignored.is_empty() && !self.sorted
    }

    fn keeps(&self, name: &[u8]) -> bool {
        let is_allowed = self
            .allowed
            .as_ref()
            .is_none_or(|names| names.iter().any(|allowed| allowed.as_bytes() == name));
        is_allowed
            && !self
                .ignored
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(beginning) => name.starts_with(beginning.as_bytes()),
                    None => pattern.as_bytes() == name,
                })
    }
}

/// The name of a parameter as a form decodes it.
fn name(pair: &str) -> Cow<'_, [u8]> {
    let raw = pair.split_once('=').map_or(pair, |(name, _)| name);
    if !raw.contains(['%', '+']) {
        return Cow::Borrowed(raw.as_bytes());
    }
    let spaced = raw.replace('+', " ");
    Cow::Owned(percent_decode(spaced.as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(allowed: Option<&[&str]>, ignored: &[&str], sorted: bool) -> QueryRule {
        let mut rule = QueryRule::default();
        if let Some(allowed) = allowed {
            rule.allow(allowed.iter().map(|name| (*name).to_owned()));
        }
        rule.ignore(ignored.iter().map(|name| (*name).to_owned()));
        if sorted {
            rule.sort();
        }
        rule
    }

    fn applied(rule: &QueryRule, query: &str) -> Option<String> {
        match rule.apply(Some(query)) {
            Query::Whole => Some(query.to_owned()),
            Query::Reduced(query) => query,
        }
    }

    #[test]
    fn without_rules_a_query_is_what_it_was() {
        let rule = QueryRule::default();
        for query in ["", "&", "a", "a=1&a=1", "utm_source=x", "%zz"] {
            assert_eq!(rule.apply(Some(query)), Query::Whole);
        }
        assert_eq!(rule.apply(None), Query::Whole);
    }

    #[test]
    fn names_are_compared_decoded_and_kept_as_they_came() {
        let ignoring = rule(None, &["utm_*", "a b"], false);
        for (query, kept) in [
            ("utm_source=x", None),
            ("%75tm_source=x&utm%5Fid", None),
            ("a+b=1&a%20b=2&a%2Bb=3", Some("a%2Bb=3")),
            ("p=%31&utm_=&q", Some("p=%31&q")),
            ("UTM_source=x", Some("UTM_source=x")),
            ("", None),
        ] {
            assert_eq!(applied(&ignoring, query).as_deref(), kept, "{query}");
        }
        let allowing = rule(Some(&["page", "q"]), &["q"], false);
        assert_eq!(
            applied(&allowing, "x=1&p%61ge=2&q=3&&page").as_deref(),
            Some("p%61ge=2&page")
        );
        assert_eq!(applied(&allowing, "x=1"), None);
        assert_eq!(applied(&rule(Some(&[]), &[], false), "a=1"), None);
    }

    #[test]
    fn the_order_of_one_name_counts_and_that_of_several_does_not() {
        let sorting = rule(None, &[], true);
        assert_eq!(applied(&sorting, "b=1&a=2"), applied(&sorting, "a=2&b=1"));
        assert_ne!(applied(&sorting, "x=1&x=2"), applied(&sorting, "x=2&x=1"));
        assert_ne!(
            applied(&sorting, "x=1&%78=2"),
            applied(&sorting, "%78=2&x=1")
        );
    }

    #[test]
    fn trackers_are_ignored_and_their_neighbours_are_not() {
        let mut rule = QueryRule::default();
        rule.ignore_tracking();
        let tracked = "utm_campaign=1&gclid=2&fbclid=3&_ga=4&mc_eid=5&yclid=6&msclkid";
        assert_eq!(applied(&rule, tracked), None);
        let kept = "utm=1&id=2&ga=3&_gab=4&clid=5&ref=6";
        assert_eq!(applied(&rule, kept).as_deref(), Some(kept));
    }

    /// The pairs in the form in which rules compare them: name decoded, text as it came.
    fn pairs(query: &str) -> Vec<(Vec<u8>, &str)> {
        let pairs = query.split('&');
        pairs.map(|pair| (name(pair).into_owned(), pair)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn it_is_idempotent_and_drops_no_more_than_it_is_told_to(
            query in "(%61|%62|[abc&=+%]){0,14}",
            allows: bool,
            sorts: bool,
        ) {
            let rule = rule(allows.then_some(&["a", "b"][..]), &["b*"], sorts);
            let once = applied(&rule, &query);
            if let Some(once) = &once {
                prop_assert_eq!(applied(&rule, once), Some(once.clone()));
            }
            let mut expected = pairs(&query);
            expected.retain(|(name, _)| {
                !name.starts_with(b"b") && (!allows || name == b"a")
            });
            let mut got = once.as_deref().map(pairs).unwrap_or_default();
            if sorts {
                expected.sort();
                got.sort();
            }
            let expected_text: Vec<_> = expected.iter().map(|(_, pair)| *pair).collect();
            if expected_text.join("&").is_empty() {
                prop_assert_eq!(once, None);
            } else {
                prop_assert_eq!(got, expected);
            }
        }

        #[test]
        fn equivalent_queries_meet_and_others_never_do(
            one in "([abu]=[12]?&){0,4}",
            other in "([abu]=[12]?&){0,4}",
        ) {
            let rule = rule(None, &["u"], true);
            let meaning = |query: &str| {
                let mut pairs = pairs(query);
                pairs.retain(|(name, _)| name != b"u");
                pairs.sort_by(|one, other| one.0.cmp(&other.0));
                pairs.iter().map(|(_, pair)| (*pair).to_owned()).collect::<Vec<_>>().join("&")
            };
            prop_assert_eq!(
                applied(&rule, &one) == applied(&rule, &other),
                meaning(&one) == meaning(&other)
            );
        }
    }
}
