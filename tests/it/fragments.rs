//! Template fragments: section 9 of Django's behaviour, its bugs mended.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use askama::Template;
use axum_cache::backend::{Dummy, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::fragment::fragment_key;
use axum_cache::{Cache, Caches, ErrorKind};

use crate::support::backends::{Remote, down};

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

/// Counts how often the bodies of a page ran.
#[derive(Debug, Default)]
struct Runs(AtomicUsize);

impl Runs {
    fn run(&self) -> &'static str {
        self.0.fetch_add(1, Ordering::SeqCst);
        ""
    }

    fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// Nineteen fragments in a loop, one of them with another inside.
#[derive(Template)]
#[template(
    source = r#"<h1>{{ title }}</h1>
{% for n in 0..19 %}{% filter cache(500, ("item", n)) %}<li>{{ runs.run() }}{{ n }}
{%- if n == 7 %}{% filter cache(500, "nested") %}{{ runs.run() }}<b>{{ title }}</b>{% endfilter %}{% endif %}</li>
{% endfilter %}{% endfor %}"#,
    ext = "html"
)]
struct Twenty<'a> {
    title: &'a str,
    runs: &'a Runs,
}

#[tokio::test(flavor = "current_thread")]
async fn a_page_of_twenty_fragments_costs_one_read_warm() {
    let (remote, runs) = (Remote::default(), Runs::default());
    let cache = Cache::new(remote.clone());
    let page = || Twenty {
        title: "a < b",
        runs: &runs,
    };
    let plain = page().render().unwrap();
    assert_eq!(
        (
            plain.matches("<li>").count(),
            plain.matches("<b>a &#60; b</b>").count()
        ),
        (19, 1)
    );
    assert_eq!(runs.take(), 20);

    // Cold: the nested fragment shows up when the one round it turns out to be missing.
    assert_eq!(cache.render(page()).await.unwrap(), plain);
    assert_eq!(remote.take_counts(), [("get_many", 2), ("set_many", 1)]);
    assert_eq!(
        runs.take(),
        21,
        "the body round the nested one ran twice, all others once"
    );

    for _ in 0..3 {
        assert_eq!(cache.render(page()).await.unwrap(), plain);
        assert_eq!(remote.take_counts(), [("get_many", 1)]);
        assert_eq!(runs.take(), 0, "no body runs on a warm page");
    }

    // One is gone: one read, one body, one write.
    assert!(cache.delete(&fragment_key(&("item", 3))).await.unwrap());
    remote.take_counts();
    assert_eq!(cache.render(page()).await.unwrap(), plain);
    assert_eq!(remote.take_counts(), [("get_many", 1), ("set_many", 1)]);
    assert_eq!(runs.take(), 1);

    // The outer one is gone, the inner one is not: it is fetched, and does not run.
    assert!(cache.delete(&fragment_key(&("item", 7))).await.unwrap());
    remote.take_counts();
    assert_eq!(cache.render(page()).await.unwrap(), plain);
    assert_eq!(remote.take_counts(), [("get_many", 2), ("set_many", 1)]);
    assert_eq!(runs.take(), 2, "the outer body, twice");
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, "a") %}[{{ a.run() }}{% filter cache(9, "b") %}({{ b.run() }}{% filter cache(9, "c") %}{{ c.run() }}{{ word }}{% endfilter %}){% endfilter %}]{% endfilter %}"#,
    ext = "html"
)]
struct Three<'a> {
    a: &'a Runs,
    b: &'a Runs,
    c: &'a Runs,
    word: &'a str,
}

#[tokio::test]
async fn every_combination_of_stored_and_missing_levels_gives_the_page() {
    for missing in 0..8_u8 {
        let cache = Cache::new(Remote::default());
        let (a, b, c) = (Runs::default(), Runs::default(), Runs::default());
        let page = |word| Three {
            a: &a,
            b: &b,
            c: &c,
            word,
        };
        assert_eq!(cache.render(page("old")).await.unwrap(), "[(old)]");
        for (bit, name) in ["a", "b", "c"].iter().enumerate() {
            if missing & (1 << bit) != 0 {
                cache.delete(&fragment_key(*name)).await.unwrap();
            }
        }
        let (_, _, _) = (a.take(), b.take(), c.take());
        let html = cache.render(page("new")).await.unwrap();
        let ran = [a.take() > 0, b.take() > 0, c.take() > 0];
        // What encloses hides what is inside.
        let expected = match missing {
            0b111 => [true, true, true],
            0b011 => [true, true, false],
            0b001 | 0b101 => [true, false, false],
            _ => [false, false, false],
        };
        assert_eq!(ran, expected, "{missing:03b}");
        assert_eq!(
            html,
            if missing == 0b111 {
                "[(new)]"
            } else {
                "[(old)]"
            }
        );
        let again = cache.render(page("newer")).await.unwrap();
        assert_eq!((again, a.take() + b.take() + c.take()), (html, 0));
    }
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(none, "ever") %}{{ n }};{% endfilter %}{% filter cache(0, "zero") %}{{ n }};{% endfilter %}{% filter cache(-5, "less") %}{{ n }};{% endfilter %}{% filter cache(ttl, ("half", n == 0, 'x', Some("y"))) %}{{ n }}{% endfilter %}"#,
    ext = "html"
)]
struct Ttls {
    n: u32,
    none: Option<Duration>,
    ttl: Duration,
}

#[tokio::test]
async fn t_02_none_is_for_ever_and_zero_or_less_renders_each_time() {
    let clock = ManualClock::new();
    let memory = Memory::builder().clock(clock.clone()).build().unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let page = |n| Ttls {
        n,
        none: None,
        ttl: Duration::from_millis(500),
    };
    assert_eq!(cache.render(page(1)).await.unwrap(), "1;1;1;1");
    assert_eq!(cache.render(page(2)).await.unwrap(), "1;2;2;1");
    clock.advance(Duration::from_millis(500));
    assert_eq!(cache.render(page(3)).await.unwrap(), "1;3;3;3");
    clock.advance(Duration::from_secs(10_000_000));
    assert_eq!(cache.render(page(4)).await.unwrap(), "1;4;4;4");
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(None, "literal") %}{{ n }}{% endfilter %}"#,
    ext = "html"
)]
struct LiteralNone {
    n: u32,
}

#[tokio::test]
async fn t_02_a_literal_none_compiles() {
    let cache = Cache::new(Memory::new());
    assert_eq!(cache.render(LiteralNone { n: 1 }).await.unwrap(), "1");
    assert_eq!(cache.render(LiteralNone { n: 2 }).await.unwrap(), "1");
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, ("who", user, lang)) %}{{ text }}{% endfilter %}"#,
    ext = "html"
)]
struct Varied<'a> {
    user: Option<u32>,
    lang: &'a str,
    text: &'a str,
}

#[tokio::test]
async fn t_03_t_10_each_combination_of_vary_on_values_is_an_entry_that_has_a_name() {
    let cache = Cache::new(Memory::new());
    let users = [None, Some(1), Some(11)];
    for (index, user) in users.into_iter().enumerate() {
        for lang in ["en", "de"] {
            let text = format!("{index}{lang}");
            let page = Varied {
                user,
                lang,
                text: &text,
            };
            assert_eq!(cache.render(page).await.unwrap(), text);
        }
    }
    let page = |text| Varied {
        user: Some(1),
        lang: "de",
        text,
    };
    assert_eq!(cache.render(page("new")).await.unwrap(), "1de");
    assert!(
        cache
            .delete(&fragment_key(&("who", Some(1), "de")))
            .await
            .unwrap()
    );
    assert_eq!(cache.render(page("new")).await.unwrap(), "new");
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, "one") %}{{ n }}{% endfilter %}{% filter cache(9, "two", using="fast") %}{{ n }}{% endfilter %}{% filter cache(9, "three", alias) %}{{ n }}{% endfilter %}"#,
    ext = "html"
)]
struct Aliases<'a> {
    n: u32,
    alias: &'a str,
}

#[tokio::test]
async fn t_04_using_names_the_cache_and_template_fragments_is_the_usual_one() {
    let [default, fast, usual] = [(); 3].map(|()| Remote::default());
    let caches = Caches::new(Cache::new(default.clone())).with("fast", Cache::new(fast.clone()));
    let page = |n| Aliases { n, alias: "fast" };
    assert_eq!(caches.default().render(page(1)).await.unwrap(), "111");
    assert_eq!(default.take_counts(), [("get_many", 1), ("set_many", 1)]);
    assert_eq!(fast.take_counts(), [("get_many", 1), ("set_many", 1)]);

    let caches = caches.with("template_fragments", Cache::new(usual.clone()));
    assert_eq!(caches.default().render(page(2)).await.unwrap(), "211");
    assert_eq!(default.take_counts(), []);
    assert_eq!(usual.take_counts(), [("get_many", 1), ("set_many", 1)]);

    let unknown = Aliases {
        n: 3,
        alias: "slow",
    };
    let error = caches.default().render(unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownAlias);
    let alone = Cache::new(Dummy).render(page(4)).await.unwrap_err();
    assert!(
        alone.to_string().contains("not got from `Caches`"),
        "{alone}"
    );
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, "empty") %}{{ runs.run() }}{% endfilter %}"#,
    ext = "html"
)]
struct Empty<'a> {
    runs: &'a Runs,
}

#[tokio::test]
async fn t_05_an_empty_body_is_cached_and_markup_is_not_escaped_again() {
    let (cache, runs) = (Cache::new(Memory::new()), Runs::default());
    for _ in 0..3 {
        assert_eq!(cache.render(Empty { runs: &runs }).await.unwrap(), "");
    }
    assert_eq!(runs.take(), 1);
    let page = |text| Varied {
        user: None,
        lang: "",
        text,
    };
    for _ in 0..3 {
        let html = cache.render(page("<script>&")).await.unwrap();
        assert_eq!(html, "&#60;script&#62;&#38;");
    }
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, "same") %}{{ runs.run() }}first{% endfilter %},{% filter cache(9, "same") %}{{ runs.run() }}second{% endfilter %}"#,
    ext = "html"
)]
struct Same<'a> {
    runs: &'a Runs,
}

#[tokio::test]
async fn t_06_blocks_with_equal_keys_share_an_entry() {
    let (remote, runs) = (Remote::default(), Runs::default());
    let cache = Cache::new(remote.clone());
    assert_eq!(
        cache.render(Same { runs: &runs }).await.unwrap(),
        "first,first"
    );
    assert_eq!(runs.take(), 1);
    assert_eq!(remote.take_counts(), [("get_many", 1), ("set_many", 1)]);
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, ("x", n))|upper %}<a>{{ n }}b{% endfilter %}"#,
    ext = "html"
)]
struct Chained {
    n: u32,
}

#[tokio::test]
async fn a_filter_behind_the_cache_gets_its_markup() {
    let cache = Cache::new(Memory::new());
    let html = cache.render(Chained { n: 1 }).await.unwrap();
    assert_eq!(html, Chained { n: 1 }.render().unwrap());
    assert_eq!(cache.render(Chained { n: 1 }).await.unwrap(), html);
}

struct Fails;

impl std::fmt::Display for Fails {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Err(std::fmt::Error)
    }
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(9, "fails") %}{% if fails %}{{ Fails }}{% endif %}fine{% endfilter %}"#,
    ext = "html"
)]
struct Failing {
    fails: bool,
}

#[tokio::test]
async fn a_body_that_fails_is_the_renders_error_and_is_not_stored() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    let error = cache.render(Failing { fails: true }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Render);
    assert_eq!(remote.take_counts(), [("get_many", 1)]);
    assert_eq!(
        cache.render(Failing { fails: false }).await.unwrap(),
        "fine"
    );
}

#[tokio::test]
async fn a_store_that_fails_changes_nothing_but_the_work() {
    let (remote, runs) = (Remote::default(), Runs::default());
    let cache = Cache::new(remote.clone());
    let page = || Twenty {
        title: "t",
        runs: &runs,
    };
    remote.inject(down());
    assert_eq!(
        cache.render(page()).await.unwrap(),
        page().render().unwrap()
    );
    // It is not bothered with a write either.
    assert_eq!(remote.take_counts(), [("get_many", 2)]);
}

#[tokio::test]
async fn what_is_not_a_fragment_of_this_key_is_a_miss_and_overwritten() {
    let cache = Cache::new(Memory::new());
    let (key, runs) = (fragment_key("empty"), Runs::default());
    cache
        .set(&key, "not an envelope", Duration::from_secs(9))
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(cache.render(Empty { runs: &runs }).await.unwrap(), "");
    }
    assert_eq!(runs.take(), 1);
}

#[tokio::test]
async fn a_delete_while_the_page_is_rendered_is_not_undone() {
    /// Deletes its own fragment while its body runs.
    struct Deletes(Cache);
    impl std::fmt::Display for Deletes {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let cache = self.0.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(cache.delete(&fragment_key("d"))).unwrap();
            })
            .join()
            .unwrap();
            f.write_str("stale")
        }
    }
    #[derive(Template)]
    #[template(
        source = r#"{% filter cache(9, "d") %}{{ d }}{% endfilter %}"#,
        ext = "html"
    )]
    struct Page {
        d: Deletes,
    }
    let cache = Cache::new(Memory::new());
    let page = Page {
        d: Deletes(cache.clone()),
    };
    assert_eq!(cache.render(page).await.unwrap(), "stale");
    assert!(!cache.contains(&fragment_key("d")).await.unwrap());
}

#[derive(Template)]
#[template(source = "<p>{{ n }}</p>", ext = "html")]
struct None_ {
    n: u32,
}

#[tokio::test]
async fn a_page_without_fragments_costs_nothing() {
    let remote = Remote::default();
    let cache = Cache::new(remote.clone());
    assert_eq!(cache.render(&None_ { n: 1 }).await.unwrap(), "<p>1</p>");
    assert_eq!(remote.take_counts(), []);
}

#[cfg(feature = "django-keys")]
#[tokio::test]
async fn a_fragment_can_have_djangos_key() {
    use axum_cache::key::DjangoKeys;

    #[derive(Template)]
    #[template(source = r#"{% filter cache(9, key) %}x{% endfilter %}"#, ext = "html")]
    struct Page {
        key: axum_cache::key::DjangoFragment,
    }
    let cache = Cache::new(Memory::new());
    let key = DjangoKeys::fragment("side", &["a"]);
    cache.render(Page { key: key.clone() }).await.unwrap();
    assert!(cache.contains(key.as_str()).await.unwrap());
}

#[test]
fn the_future_is_send() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let (cache, runs) = (Cache::new(Dummy), Runs::default());
    drop(is_send(cache.render(Twenty {
        title: "",
        runs: &runs,
    })));
}

/// A block with tags, and another inside of it.
#[derive(Template)]
#[template(
    source = r#"{% filter cache(500, "outer", tags=[post]) %}<p>{{ runs.run() }}{{ text }}
{%- filter cache(500, "inner", tags=["inner"]) %}{{ runs.run() }}<b>{{ text }}</b>{% endfilter %}</p>
{%- endfilter %}"#,
    ext = "html"
)]
struct Tagged<'a> {
    post: &'a str,
    text: &'a str,
    runs: &'a Runs,
}

#[tokio::test]
async fn a_tag_takes_a_block_and_all_that_hold_it() {
    let (remote, runs) = (Remote::default(), Runs::default());
    let cache = Cache::new(remote.clone());
    let page = |text| Tagged {
        post: "post:7",
        text,
        runs: &runs,
    };
    let first = cache.render_with_tags(page("one")).await.unwrap();
    assert_eq!(first.0, "<p>one<b>one</b></p>");
    assert_eq!(first.1, axum_cache::Tags::new(["inner", "post:7"]));
    runs.take();
    remote.take_counts();
    let warm = cache.render_with_tags(page("two")).await.unwrap();
    assert_eq!((&warm, runs.take()), (&first, 0));
    // Its own tags are asked for with the block; that of the inner one is known by the entry alone,
    // the first time.
    assert_eq!(remote.take_counts(), [("get_many", 2)]);
    assert_eq!(cache.render(page("two")).await.unwrap(), first.0);
    assert_eq!(remote.take_counts(), [("get_many", 1)]);
    cache.invalidate(["inner"]).await.unwrap();
    assert_eq!(
        cache.render(page("three")).await.unwrap(),
        "<p>three<b>three</b></p>"
    );
    assert_eq!(
        runs.take(),
        2 + 1,
        "the outer body ran once to find the inner one"
    );
    cache.invalidate(["post:7"]).await.unwrap();
    assert_eq!(
        cache.render(page("four")).await.unwrap(),
        "<p>four<b>three</b></p>"
    );
    cache.expire(["inner"]).await.unwrap();
    assert_eq!(
        cache.render(page("five")).await.unwrap(),
        "<p>five<b>five</b></p>"
    );
}

#[tokio::test]
async fn what_was_read_before_an_invalidation_is_not_kept() {
    let (cache, runs) = (Cache::new(Memory::new()), Runs::default());
    let page = |text| Tagged {
        post: "post:7",
        text,
        runs: &runs,
    };
    let pinned = cache.with_tags_now(["post:7"]).await.unwrap();
    cache.invalidate(["post:7"]).await.unwrap();
    assert_eq!(
        pinned.render(page("old")).await.unwrap(),
        "<p>old<b>old</b></p>"
    );
    let now = cache.render(page("new")).await.unwrap();
    assert_eq!(now, "<p>new<b>new</b></p>");
}

#[tokio::test]
async fn a_handle_tags_the_blocks_it_renders() {
    let (cache, runs) = (Cache::new(Memory::new()), Runs::default());
    let tagged = cache.with_tags(["site"]);
    let page = |text| Tagged {
        post: "post:7",
        text,
        runs: &runs,
    };
    cache.render(page("untagged")).await.unwrap();
    let first = tagged.render(page("one")).await.unwrap();
    assert_eq!(
        first, "<p>one<b>one</b></p>",
        "what lacks a tag would outlive it"
    );
    assert_eq!(cache.render(page("two")).await.unwrap(), first);
    cache.invalidate(["site"]).await.unwrap();
    assert_eq!(
        cache.render(page("two")).await.unwrap(),
        "<p>two<b>two</b></p>"
    );
}

#[tokio::test]
async fn markup_of_other_templates_is_not_served() {
    use axum_cache::fragment::TemplateDigest;

    let (cache, runs) = (Cache::new(Memory::new()), Runs::default());
    let old = cache.with_templates(TemplateDigest::of(["old"]));
    let new = cache.with_templates(TemplateDigest::of(["new"]));
    let page = |text| Tagged {
        post: "post:7",
        text,
        runs: &runs,
    };
    let first = old.render(page("old")).await.unwrap();
    assert_eq!(old.render(page("older")).await.unwrap(), first);
    assert_eq!(
        new.render(page("new")).await.unwrap(),
        "<p>new<b>new</b></p>"
    );
    assert_eq!(
        new.render(page("newer")).await.unwrap(),
        "<p>new<b>new</b></p>"
    );
    // A delete is of the fragment, whatever the templates.
    assert!(cache.delete(&fragment_key("outer")).await.unwrap());
    assert_ne!(
        TemplateDigest::of(["ab", "c"]),
        TemplateDigest::of(["a", "bc"])
    );
}

#[tokio::test]
async fn a_list_of_templates_costs_one_read() {
    let (remote, runs) = (Remote::default(), Runs::default());
    let cache = Cache::new(remote.clone());
    let pages = || ["a", "b", "c"].map(|title| Twenty { title, runs: &runs });
    let first = cache.render_many(pages()).await.unwrap();
    assert_eq!(first.len(), 3);
    runs.take();
    remote.take_counts();
    let warm = cache.render_many(pages()).await.unwrap();
    assert_eq!((&warm, runs.take()), (&first, 0));
    assert_eq!(remote.take_counts(), [("get_many", 1)]);
    let none: Vec<Twenty<'_>> = Vec::new();
    assert_eq!(cache.render_many(none).await.unwrap(), Vec::<String>::new());
}
