//! A caching reverse proxy in front of any HTTP origin.
//!
//! Run: `cargo run --release --example proxy -- HOST:PORT [--port 8080] [--cache URL]
//! [--honour-requests]`; with other stores than memory, add `--features redis` or the like.
#![allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]

use std::convert::Infallible;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use axum_cache::{CacheLayer, Caches, Settings};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tower::{Layer, ServiceExt, service_fn};

struct Options {
    origin: String,
    port: u16,
    cache: String,
    honour_requests: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse()?;
    let settings = Settings::new().with_url("default", &options.cache)?;
    let caches = Caches::builder().settings(settings).build().await?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let origin = options.origin.clone();
    let forward = service_fn(move |request| forward(client.clone(), origin.clone(), request));
    let cache = CacheLayer::http(caches.default()).honour_requests(options.honour_requests);
    let proxied = cache.layer(forward);
    // Outside of the cache, which answers for an origin that fails where it may.
    let proxy = service_fn(move |request| {
        let answer = proxied.clone().oneshot(request);
        async move {
            let answer = answer.await.map(IntoResponse::into_response);
            Ok::<_, Infallible>(answer.unwrap_or_else(|error| bad_gateway(&error)))
        }
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", options.port)).await?;
    println!(
        "http://{} caches http://{}",
        listener.local_addr()?,
        options.origin
    );
    axum::serve(
        listener,
        Router::new().fallback_service(proxy).into_make_service(),
    )
    .await?;
    Ok(())
}

impl Options {
    fn parse() -> anyhow::Result<Self> {
        let mut options = Self {
            origin: String::new(),
            port: 8080,
            cache: "memory://".to_owned(),
            honour_requests: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().context("an option has no value");
            match argument.as_str() {
                "--port" => options.port = value()?.parse()?,
                "--cache" => options.cache = value()?,
                "--honour-requests" => options.honour_requests = true,
                option if option.starts_with("--") => anyhow::bail!("no such option: {option}"),
                origin => origin.clone_into(&mut options.origin),
            }
        }
        anyhow::ensure!(!options.origin.is_empty(), "which origin? HOST:PORT");
        Ok(options)
    }
}

/// Sends a request to the origin as it is, but for what is about the connection.
async fn forward(
    client: Client<HttpConnector, Body>,
    origin: String,
    mut request: Request,
) -> Result<Response, Error> {
    strip(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    if let Ok(uri) = format!("http://{origin}{path}").parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    let mut response = client.request(request).await?.map(Body::new);
    strip(response.headers_mut());
    // The origin's version is that of its own connection.
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// Removes the fields of the connection: RFC 9110 section 7.6.1.
fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != HOST)
        .collect();
    let known = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    for name in known.into_iter().chain(listed) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

fn bad_gateway(error: &Error) -> Response {
    println!("the origin failed: {error}");
    StatusCode::BAD_GATEWAY.into_response()
}
