//! Fragments: a block of a template that is rendered once.
//!
//! Run: `cargo run --example fragments --features askama`

use askama::Template;
use axum_cache::Caches;
use axum_cache::fragment::fragment_key;

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

#[derive(Template)]
#[template(
    source = r#"{% filter cache(500, ("greeting", user)) %}Hello, {{ name }}!{% endfilter %}"#,
    ext = "html"
)]
struct Page<'a> {
    user: u64,
    name: &'a str,
}

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let cache = Caches::from_env().await?.default();
    let greeting = fragment_key(&("greeting", 7));
    // What an earlier run has left in the store.
    cache.delete(&greeting).await?;
    let first = cache
        .render(Page {
            user: 7,
            name: "Ada",
        })
        .await?;
    let second = cache
        .render(Page {
            user: 7,
            name: "a new name",
        })
        .await?;
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("Hello, Ada!", "Hello, Ada!")
    );

    cache.delete(&greeting).await?;
    let third = cache
        .render(Page {
            user: 7,
            name: "a new name",
        })
        .await?;
    assert_eq!(third, "Hello, a new name!");
    Ok(())
}
