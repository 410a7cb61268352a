//! A folder of Markdown files as a cached site that can be edited.
//!
//! Run: `cargo run --example docsite --features askama [-- FOLDER]`, then open the address it prints.
//! `ADDR` sets the address, `CACHE_URL` the cache: `memory://` when unset, `dummy://` for none.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use askama::Template;
use axum::extract::{Form, FromRef, Path, Query, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Json, Redirect, Response};
use axum::routing::get;
use axum::{Router, serve};
use axum_cache::control::{never_cache, vary_on_headers};
use axum_cache::fragment::fragment_key;
use axum_cache::{BoxError, Cache, CacheLayer, Caches, Ttl, cache_page, key};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower::Layer;

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

#[derive(Clone, FromRef)]
struct Site {
    files: Arc<Files>,
    caches: Caches,
    layers: Layers,
}

/// The layers that hold pages, so that an edit can forget what it changed.
#[derive(Clone)]
struct Layers {
    site: CacheLayer,
    page: CacheLayer,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let folder = std::env::args().nth(1);
    let folder = folder.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
    let caches = Caches::from_env().await?;
    let layers = Layers {
        site: CacheLayer::new(caches.default())
            .ttl(Duration::from_secs(60))
            .key_prefix("site"),
        page: cache_page(Duration::from_secs(300), caches.default(), "page"),
    };
    let site = Site {
        files: Arc::new(Files::open(FilePath::new(&folder))?),
        caches,
        layers: layers.clone(),
    };
    let page = page
        .layer(vary_on_headers(["Accept-Language"]))
        .layer(layers.page);
    let router = Router::new()
        .route("/", get(|| async { Redirect::to("/README.md") }))
        .route("/search", get(search).layer(never_cache()))
        .route("/edit/{*path}", get(edit).post(save).layer(never_cache()))
        .route("/{*path}", get(page))
        .with_state(site);
    // Outside the router, a hit of the site-wide layer runs no router at all.
    let app = Router::new()
        .fallback_service(layers.site.layer(router))
        .layer(from_fn(timed));
    let addr = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(addr).await?;
    #[allow(clippy::print_stdout, reason = "whoever started it wants to know")]
    {
        println!("listening on http://{}", listener.local_addr()?);
    }
    Ok(serve(listener, app).await?)
}

/// Says in `Server-Timing`, which the page's footer shows, how the page was answered and how long
/// it took.
async fn timed(request: Request, next: Next) -> Response {
    let start = Instant::now();
    let mut response = next.run(request).await;
    let mut statuses = response.headers().get_all("cache-status").iter();
    let hit = statuses.any(|status| status.to_str().is_ok_and(|s| s.contains("; hit")));
    let answer = if hit { "from the cache" } else { "made anew" };
    let millis = start.elapsed().as_secs_f64() * 1000.0;
    if let Ok(timing) = format!("cache;desc=\"{answer}\";dur={millis:.3}").parse() {
        response.headers_mut().insert("server-timing", timing);
    }
    response
}

#[derive(Template)]
#[template(
    source = r#"<!doctype html>
<html lang="{{ lang.code }}"><meta charset="utf-8"><title>{{ path }}</title>
<style>body{display:grid;grid-template-columns:16rem 1fr;gap:2rem;font:16px sans-serif;margin:2rem}
footer,header{grid-column:1/3;color:#666}pre,table{overflow:auto}code{background:#f4f4f4}</style>
<header>{% filter cache(600, ("words", lang.code)) %}
<form action="/search"><input name="q" placeholder="{{ lang.search }}"></form>{% endfilter %}
<a href="/edit/{{ path }}">{{ lang.edit }}</a></header>
<nav>{% filter cache(600, "sidebar") %}<ul>
{%- for page in files.list() %}<li><a href="/{{ page }}">{{ page }}</a></li>{% endfor -%}
</ul>{% endfilter %}</nav>
<main>{{ content|safe }}</main>
<footer></footer>
<script>const t=performance.getEntriesByType("navigation")[0].serverTiming[0];
if(t)document.querySelector("footer").textContent=t.description+", "+t.duration+" ms"</script></html>"#,
    ext = "html"
)]
struct PageTemplate<'a> {
    path: &'a str,
    lang: &'a Language,
    files: &'a Files,
    content: String,
}

/// A rendered page; `cache_page` keeps it, a variant for each `Accept-Language`.
async fn page(
    cache: Cache,
    Path(path): Path<String>,
    State(files): State<Arc<Files>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    let text = files.read(&path).await?;
    let mut content = String::new();
    let markdown = pulldown_cmark::Parser::new_ext(&text, pulldown_cmark::Options::ENABLE_TABLES);
    pulldown_cmark::html::push_html(&mut content, markdown);
    let lang = Language::of(&headers);
    let template = PageTemplate {
        path: &path,
        lang,
        files: &files,
        content,
    };
    // Browsers ask again each time, so that an edit shows; the caches here are told of it.
    let cache_control = [(header::CACHE_CONTROL, "max-age=0, s-maxage=300")];
    Ok((cache_control, Html(cache.render(&template).await?)))
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

#[derive(Serialize, Deserialize)]
struct Found {
    path: String,
    line: String,
}

/// Full-text search by the low-level API: what was found stays good until the next edit, which
/// counts the edition up.
async fn search(
    cache: Cache,
    Query(Search { q }): Query<Search>,
    State(files): State<Arc<Files>>,
) -> Result<Json<Vec<Found>>, Failure> {
    let edition: i64 = cache.get("edition").await?.unwrap_or(0);
    let key = key!("search", edition, &q);
    let ttl = Duration::from_secs(600);
    let found = cache.get_or_set(&key, ttl, || async move { files.search(&q).await });
    Ok(Json(found.await?))
}

#[derive(Template)]
#[template(
    source = r#"<!doctype html><meta charset="utf-8"><title>{{ path }}</title>
<form method="post"><textarea name="text" rows="40" cols="100">{{ text }}</textarea>
<p><button>OK</button></form>"#,
    ext = "html"
)]
struct EditTemplate<'a> {
    path: &'a str,
    text: &'a str,
}

async fn edit(
    Path(path): Path<String>,
    State(files): State<Arc<Files>>,
) -> Result<Html<String>, Failure> {
    let text = files.read(&path).await?;
    let form = EditTemplate {
        path: &path,
        text: &text,
    };
    Ok(Html(form.render().map_err(|_| Failure::Internal)?))
}

#[derive(Deserialize)]
struct Edited {
    text: String,
}

/// Writes a page and deletes what it changed: the page in both layers, and the searches.
async fn save(
    cache: Cache,
    Path(path): Path<String>,
    State(Site { files, layers, .. }): State<Site>,
    headers: HeaderMap,
    Form(Edited { text }): Form<Edited>,
) -> Result<Redirect, Failure> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.ok_or(Failure::Forbidden)?;
    // A form on another site must not edit this one.
    let own = format!("http://{host}");
    if headers
        .get(header::ORIGIN)
        .is_some_and(|origin| origin.as_bytes() != own.as_bytes())
    {
        return Err(Failure::Forbidden);
    }
    files.write(&path, &text).await?;
    let uri: Uri = format!("{own}/{path}")
        .parse()
        .map_err(|_| Failure::NotFound)?;
    layers.site.purge(&uri).await?;
    layers.page.purge(&uri).await?;
    cache.delete(&fragment_key("sidebar")).await?;
    cache.add("edition", &0, Ttl::Never).await?;
    cache.incr("edition", 1).await?;
    Ok(Redirect::to(&format!("/{path}")))
}

/// The Markdown files of a folder; no other file can be read or written.
struct Files {
    paths: BTreeMap<String, PathBuf>,
}

impl Files {
    fn open(folder: &FilePath) -> std::io::Result<Self> {
        let mut paths = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for item in std::fs::read_dir(inner)? {
                let path = item?.path();
                let hidden = path
                    .file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with('.'));
                if path.is_dir() && !hidden && !path.ends_with("target") {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    let name = path.strip_prefix(folder).unwrap_or(&path);
                    paths.insert(name.to_string_lossy().into_owned(), path);
                }
            }
        }
        Ok(Self { paths })
    }

    fn list(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    fn find(&self, path: &str) -> Result<&FilePath, Failure> {
        self.paths
            .get(path)
            .map(PathBuf::as_path)
            .ok_or(Failure::NotFound)
    }

    async fn read(&self, path: &str) -> Result<String, Failure> {
        tokio::fs::read_to_string(self.find(path)?)
            .await
            .map_err(|_| Failure::NotFound)
    }

    async fn write(&self, path: &str, text: &str) -> Result<(), Failure> {
        tokio::fs::write(self.find(path)?, text)
            .await
            .map_err(|_| Failure::Internal)
    }

    async fn search(&self, word: &str) -> std::io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for (name, path) in &self.paths {
            let text = tokio::fs::read_to_string(path).await?;
            found.extend(
                text.lines()
                    .filter(|line| line.contains(word))
                    .map(|line| Found {
                        path: name.clone(),
                        line: line.to_owned(),
                    }),
            );
        }
        found.truncate(50);
        Ok(found)
    }
}

/// The words round a page.
struct Language {
    code: &'static str,
    search: &'static str,
    edit: &'static str,
}

impl Language {
    fn of(headers: &HeaderMap) -> &'static Self {
        const LANGUAGES: [Language; 3] = [
            Language {
                code: "en",
                search: "Search",
                edit: "Edit",
            },
            Language {
                code: "de",
                search: "Suchen",
                edit: "Bearbeiten",
            },
            Language {
                code: "fr",
                search: "Chercher",
                edit: "Modifier",
            },
        ];
        let wanted = headers
            .get(header::ACCEPT_LANGUAGE)
            .and_then(|value| value.to_str().ok());
        let wanted = wanted.unwrap_or_default();
        LANGUAGES
            .iter()
            .find(|language| wanted.starts_with(language.code))
            .unwrap_or(&LANGUAGES[0])
    }
}

#[derive(Debug)]
enum Failure {
    NotFound,
    Forbidden,
    Internal,
    Cache(axum_cache::Error),
}

impl From<axum_cache::Error> for Failure {
    fn from(error: axum_cache::Error) -> Self {
        Self::Cache(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND.into_response(),
            Self::Forbidden => StatusCode::FORBIDDEN.into_response(),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Self::Cache(error) => error.into_response(),
        }
    }
}
