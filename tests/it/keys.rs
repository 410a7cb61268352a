//! Keys: injective, portable, and on request those of a Django site.

use std::collections::HashMap;

use axum_cache::backend::Dummy;
use axum_cache::key::{KeyPart, KeyPolicy, KeyWriter};
use axum_cache::{Cache, key};
use proptest::prelude::*;

/// Everything that can be part of a key, as data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Group(Vec<Part>),
}

impl KeyPart for Part {
    fn write_key(&self, writer: &mut KeyWriter) {
        match self {
            Self::Text(text) => text.write_key(writer),
            Self::Integer(integer) => integer.write_key(writer),
            Self::Boolean(boolean) => boolean.write_key(writer),
            Self::Group(parts) => parts.write_key(writer),
        }
    }
}

fn joined(parts: &[Part]) -> String {
    let mut writer = KeyWriter::new();
    for part in parts {
        writer.part(part);
    }
    writer.finish()
}

/// A small, seeded generator (splitmix64): a million trees have to be cheap.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % limit as u64).unwrap()
    }

    /// Texts full of what means something in a key.
    fn text(&mut self) -> String {
        const PIECES: [&str; 18] = [
            "a", "b", ":", "%", "'", "~", "(", ")", ",", "#", "0", "1", "-", " ", "None", "~t",
            "%3A", "\u{e9}",
        ];
        (0..self.below(5))
            .map(|_| PIECES[self.below(PIECES.len())])
            .collect()
    }

    fn part(&mut self, depth: u8) -> Part {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0..=2 => Part::Text(self.text()),
            3 => Part::Integer(i64::try_from(self.below(15)).unwrap() - 3),
            4 => Part::Boolean(self.below(2) == 0),
            _ => Part::Group(self.parts(0, depth - 1)),
        }
    }

    fn parts(&mut self, least: usize, depth: u8) -> Vec<Part> {
        (0..least + self.below(3))
            .map(|_| self.part(depth))
            .collect()
    }
}

/// 10^6 tuples of crafted pieces: no two different ones make the same key.
#[test]
fn a_million_tuples_make_a_million_keys() {
    let mut random = Random(20_260_101);
    let mut seen: HashMap<String, Vec<Part>> = HashMap::with_capacity(1_000_000);
    for _ in 0..1_000_000 {
        let tuple = random.parts(1, 2);
        let key = joined(&tuple);
        assert!(
            key.bytes().all(|byte| byte > b' ' && byte < 0x7f),
            "{key:?}"
        );
        match seen.get(&key) {
            Some(other) => assert_eq!(*other, tuple, "both make {key:?}"),
            None => drop(seen.insert(key, tuple)),
        }
    }
    assert!(seen.len() > 500_000, "only {} different ones", seen.len());
}

#[test]
fn k_03_k_41_crafted_pairs_stay_apart() {
    let pairs = [
        (key!("a:b", "c"), key!("a", "b:c")),
        (key!("ab"), key!("a", "b")),
        (key!(1), key!("1")),
        (key!(-1), key!("-1")),
        (key!(None::<u8>), key!("None")),
        (key!(None::<u8>), key!("~")),
        (key!(None::<u8>), key!("")),
        (key!(None::<Option<bool>>), key!(Some(None::<bool>))),
        (key!(Some(None::<bool>)), key!(Some(Some(true)))),
        (key!(true), key!("~t")),
        (key!(true), key!("true")),
        (key!(("a", "b")), key!("a", "b")),
        (key!(("a", "b"), "c"), key!("a", ("b", "c"))),
        (key!("(a:b)"), key!(("a", "b"))),
        (key!(vec!["a"; 0]), key!("")),
        (key!("é"), key!("e\u{301}")),
        (key!("a%3Ab"), key!("a:b")),
        (key!("'1"), key!("1")),
        (key!("\0"), key!("%00")),
    ];
    for (one, other) in pairs {
        assert_ne!(one, other);
    }
    // Equal by declaration.
    assert_eq!(key!(7_u8, 'x'), key!(7_i64, "x"));
    assert_eq!(key!(Some("en")), key!("en"));
}

proptest! {
    /// K-03: whatever prefix, version and key hold, and under whatever policy.
    #[test]
    fn k_03_final_keys_are_injective(
        one in ("[a:%#1 ]{0,5}", 0_u64..3, "[a:%#12 \u{e9}]{0,6}"),
        other in ("[a:%#1 ]{0,5}", 0_u64..3, "[a:%#12 \u{e9}]{0,6}"),
        hash: bool,
    ) {
        let policy = if hash { KeyPolicy::Hash } else { KeyPolicy::Off };
        let final_key = |(prefix, version, key): &(String, u64, String)| {
            let cache = Cache::builder(Dummy).key_prefix(prefix).key_policy(policy).build().unwrap();
            cache.with_version(*version).final_key(key).unwrap()
        };
        prop_assert_eq!(one == other, final_key(&one) == final_key(&other));
    }

    /// K-04, K-05: at most 250 bytes, no space, no control character.
    #[test]
    fn k_05_hashed_keys_are_portable(prefix in "\\PC{0,20}", key in any::<String>()) {
        let cache = Cache::builder(Dummy).key_prefix(prefix).build();
        // An overlong prefix is refused at start-up instead.
        if let Ok(cache) = cache {
            let key = cache.final_key(&key.repeat(7)).unwrap();
            prop_assert!(key.as_str().len() <= 250);
            prop_assert!(key.as_str().bytes().all(|byte| byte > b' ' && byte != 0x7f));
        }
    }

    /// `clear` finds a cache's keys by what they begin with, and no others.
    #[test]
    fn namespaces_do_not_meet(
        one in "[a:%]{0,4}", other in "[a:%]{0,4}", key in "[a:%#\n]{0,4}", version in 0_u64..3,
    ) {
        let cache = |prefix: &str| Cache::builder(Dummy).key_prefix(prefix).build().unwrap();
        let mine = cache(&one).with_version(version).final_key(&key).unwrap();
        let theirs = cache(&other).final_key("k").unwrap();
        prop_assert_eq!(mine.as_str().starts_with(theirs.namespace()), one == other);
    }
}

#[test]
fn k_01_defaults_look_like_djangos() {
    let cache = Cache::new(Dummy);
    assert_eq!(cache.final_key("k").unwrap().as_str(), ":1:k");
    assert_eq!(
        cache.with_version(2).final_key("k").unwrap().as_str(),
        ":2:k"
    );
    assert_eq!(cache.final_key("").unwrap().as_str(), ":1:");
}

#[test]
fn k_02_a_key_function_replaces_the_scheme() {
    #[derive(Debug)]
    struct Reversed;
    impl axum_cache::key::KeyFunction for Reversed {
        fn key(&self, key: &str, prefix: &str, version: u64) -> String {
            format!("{key}/{version}/{prefix}")
        }
    }
    let cache = Cache::builder(Dummy)
        .key_prefix("p")
        .key_function(Reversed)
        .build()
        .unwrap();
    assert_eq!(cache.final_key("k").unwrap().as_str(), "k/1/p");
}

/// The vectors were computed by Django 6.1.3.
#[cfg(feature = "django-keys")]
mod django {
    use axum_cache::key::{DjangoKeys, Facet, KeyFunction, PageKeyFunction, PageTarget, VaryValue};

    const HOST: &str = "www.example.com";
    const NO_VALUES: &str = "d41d8cd98f00b204e9800998ecf8427e";

    fn target<'a>(scheme: &'a str, host: &'a str, query: Option<&'a str>) -> PageTarget<'a> {
        PageTarget::new(scheme, Some(host), "/a", query)
    }

    fn url_hash(target: &PageTarget<'_>) -> String {
        let key = DjangoKeys::new().primary(target);
        let hash = key.strip_prefix("views.decorators.cache.cache_header..");
        hash.unwrap().to_owned()
    }

    fn values_hash(keys: &DjangoKeys, values: &[VaryValue<'_>]) -> String {
        let key = keys.variant(&target("http", HOST, None), values, 7);
        let prefix = "views.decorators.cache.cache_page..GET.543d7d9a906a381aafadced524e2bf05.";
        key.strip_prefix(prefix).unwrap().to_owned()
    }

    #[test]
    fn k_20_url_hashes() {
        let cases = [
            (
                target("http", HOST, None),
                "543d7d9a906a381aafadced524e2bf05",
            ),
            (
                target("http", HOST, Some("")),
                "543d7d9a906a381aafadced524e2bf05",
            ),
            (
                target("http", HOST, Some("x=1")),
                "d1e20bd7bba2bdeb27026ceeb867223b",
            ),
            (
                target("https", HOST, None),
                "d2f2ac93664ce46f047d4465deb63d05",
            ),
            (
                target("http", "www.example.com:8080", None),
                "84bff72b302713da6288abb2fa1e21f3",
            ),
        ];
        for (target, hash) in cases {
            assert_eq!(url_hash(&target), hash);
        }
    }

    #[test]
    fn k_21_k_22_header_list_and_page_keys() {
        let keys = DjangoKeys::new();
        let target = target("http", HOST, None);
        assert_eq!(
            keys.primary(&target),
            "views.decorators.cache.cache_header..543d7d9a906a381aafadced524e2bf05"
        );
        assert_eq!(
            keys.variant(&target, &[], 7),
            format!(
                "views.decorators.cache.cache_page..GET.543d7d9a906a381aafadced524e2bf05.{NO_VALUES}"
            )
        );
    }

    #[test]
    fn a_host_with_a_path_in_it_is_no_page_of_another_host() {
        let key = |host, path| {
            let target = PageTarget::new("http", Some(host), path, None);
            DjangoKeys::new().primary(&target)
        };
        let page = key("a", "/account/settings");
        for (host, path) in [("a/account", "/settings"), ("a/account/settings", "")] {
            assert_ne!(key(host, path), page);
        }
        assert_ne!(key("a?b", "/"), key("a", "?b/"));
    }

    #[test]
    fn k_23_values_of_varied_fields() {
        let keys = DjangoKeys::new();
        let cookie = |value: Option<&'static str>| ("cookie", value.map(str::as_bytes));
        let gzip = ("accept-encoding", Some(&b"gzip"[..]));
        let cases: [(&[VaryValue<'_>], &str); 6] = [
            (&[cookie(None)], "4792b9bac48c3f0441b0d9b0d7af8f2c"),
            (&[cookie(Some(""))], "3b59035bd3b34e30981dc990dd93acbb"),
            (&[cookie(Some("a=1"))], "3151a89df25c20daceec32ce7b51dbd8"),
            (
                &[cookie(Some("a=1")), gzip],
                "4b29da19cec68ffecf4cf122729feb94",
            ),
            (
                &[gzip, cookie(Some("a=1"))],
                "4b29da19cec68ffecf4cf122729feb94",
            ),
            (&[cookie(None), gzip], "ca71ed008b91bd31c078fa9b5427962d"),
        ];
        for (values, hash) in cases {
            assert_eq!(values_hash(&keys, values), hash);
        }
    }

    #[test]
    fn k_25_k_26_language_and_time_zone() {
        let keys = DjangoKeys::new()
            .with_language("en-us")
            .with_time_zone("UTC");
        let primary = keys.primary(&target("http", HOST, None));
        assert!(primary.ends_with(".543d7d9a906a381aafadced524e2bf05.en-us.UTC"));
        let languages = [("accept-language", Some(&b"fr"[..]))];
        assert_eq!(
            values_hash(&keys, &languages),
            format!("{NO_VALUES}.en-us.UTC")
        );
    }

    #[test]
    fn k_26_a_language_of_the_request_replaces_the_sites() {
        let keys = DjangoKeys::new().with_language("en-us");
        let facets = [Facet::new("language", Some("de"))];
        let mut own = target("http", HOST, None);
        own.facets = &facets;
        let primary = keys.primary(&own);
        assert!(primary.ends_with(".543d7d9a906a381aafadced524e2bf05.de"));
    }

    #[test]
    fn what_django_knows_nothing_of_is_kept_apart() {
        let keys = DjangoKeys::new();
        let mut all = vec![keys.primary(&target("http", HOST, None))];
        for (name, value) in [
            ("a", None),
            ("a", Some("")),
            ("a", Some("-,")),
            ("language", None),
        ] {
            let facets = [Facet::new(name, value)];
            let mut by_cookie = target("http", HOST, None);
            by_cookie.cookies = &facets;
            let mut by_facet = target("http", HOST, None);
            by_facet.facets = &facets;
            all.extend([keys.primary(&by_cookie), keys.primary(&by_facet)]);
        }
        for (index, one) in all.iter().enumerate() {
            assert!(
                all.iter().skip(index + 1).all(|other| one != other),
                "{one}"
            );
        }
    }

    #[test]
    fn k_40_fragments() {
        let cases: [(&[&str], &str); 8] = [
            (&[], NO_VALUES),
            (&["a"], "edbd7e1b47cfe88ccfd29aa2e229aebb"),
            (&["a", "b"], "85e2d709642419eb2d254542ec75556a"),
            (&["ab"], "3ae494b4c6e2b34b32ca4591ea457567"),
            (&["a:b", "c"], "5cfb32a324b2f7a2063802e75255f694"),
            (&["a", "b:c"], "9c2a292c7703da8142f40c1d55c1a241"),
            (&["1"], "6709aa7b0015b3f2257cda58f6ae8ed0"),
            (&["é"], "bdfd4cdeca2bcd1d9367552ec43793c8"),
        ];
        for (values, hash) in cases {
            let key = DjangoKeys::fragment("side", values);
            assert_eq!(key.as_str(), format!("template.cache.side.{hash}"));
        }
        let empty = DjangoKeys::fragment("side", &[""]);
        assert_eq!(
            empty.as_str(),
            "template.cache.side.3b59035bd3b34e30981dc990dd93acbb"
        );
    }

    #[test]
    fn final_keys_are_djangos() {
        assert_eq!(DjangoKeys::new().key("k", "site", 2), "site:2:k");
    }
}
