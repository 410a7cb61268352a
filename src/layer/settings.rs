//! The settings of a layer that say what of a request selects its page.

use http::HeaderName;

use super::inputs::{TrustedProxies, Variant};
use super::layer::CacheLayer;

impl CacheLayer {
    /// Declares that of all parameters of the query only these count. The others are neither part
    /// of the key nor shown to the handler. Names are compared decoded. Adds to earlier calls;
    /// no names at all: no parameter counts.
    ///
    /// With this or another rule for queries, a query that is or becomes empty is none. Without
    /// rules, the query counts byte for byte, and `/` and `/?` differ.
    ///
    /// Requests that bypass the cache, such as POST, keep their query.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(feature = "memory")] {
    /// use axum_cache::{Cache, CacheLayer, backend::Memory};
    ///
    /// let layer = CacheLayer::new(Cache::new(Memory::new())).query_allow(["page"]);
    /// let key = |uri: &'static str| layer.page_key(&http::Uri::from_static(uri)).unwrap();
    /// assert_eq!(key("http://a.test/?page=2&x=1"), key("http://a.test/?page=2"));
    /// assert_ne!(key("http://a.test/?page=2"), key("http://a.test/?page=1"));
    /// # }
    /// ```
    pub fn query_allow<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.set(|config| config.inputs.allow_query(names))
    }

    /// Declares that these parameters of the query do not count. They are neither part of the key
    /// nor shown to the handler. Names are compared decoded, and one that ends in `*` stands for
    /// all that begin so. Adds to earlier calls, and counts for [allowed](Self::query_allow)
    /// parameters too.
    pub fn query_ignore<N: Into<String>>(self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.set(|config| config.inputs.ignore_query(names))
    }

    /// [Ignores](Self::query_ignore) the parameters by which advertisers and newsletters track
    /// visitors: `utm_*`, `gclid`, `fbclid`, `msclkid`, `mc_eid`, `_ga`, and others like them.
    pub fn ignore_tracking_parameters(self) -> Self {
        self.set(|config| config.inputs.ignore_tracking())
    }

    /// Declares that the order of parameters with different names does not matter. Those with the
    /// same name stay in order: `?x=1&x=2` and `?x=2&x=1` are two pages. The handler is shown them
    /// sorted by name.
    pub fn sort_query(self) -> Self {
        self.set(|config| config.inputs.sort_query())
    }

    /// Declares that of all cookies only these change a response: their values become part of
    /// the key, and all others are taken not to matter, whatever the handler does with them. No
    /// names at all: no cookie matters. Replaces earlier calls.
    ///
    /// The handler still sees all cookies, since responses that are not stored may depend on
    /// others; a [narrow](Self::narrow) layer shows it the declared ones only. Responses vary on
    /// `Cookie` for caches downstream, unless no cookie matters.
    pub fn cookies<C: Into<String>>(self, names: impl IntoIterator<Item = C>) -> Self {
        let names = names.into_iter().map(Into::into);
        self.set(|config| config.inputs.declare_cookies(names))
    }

    /// Makes these request fields part of the key, as they came, and adds them to the `Vary` of
    /// every response that comes by this layer. Adds to earlier calls.
    ///
    /// Fields that a response names in its `Vary` count without this. Declared from the start they
    /// take no second lookup, also where responses do not name them. For fields that come in many
    /// spellings, see [`variant`](Self::variant).
    ///
    /// # Django
    ///
    /// `vary_on_headers` around `cache_page`, but that the fields are declared to the cache.
    pub fn vary_on(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|config| config.inputs.vary_on(names))
    }

    /// Makes a normalised value part of the key, such as the language among those of the site, and
    /// adds the fields it is made from to the `Vary` of every response that comes by this layer.
    /// Adds to earlier calls.
    ///
    /// The handler is not shown these fields, but only what the variant puts in their place, so
    /// that it cannot come to another value than the one that its response is stored under. A
    /// response that names them in its `Vary` therefore makes no more entries, and a variant made
    /// from `Authorization` stands for the credentials: responses need not be `public` then.
    ///
    /// Ready ones: [`Locale`](super::Locale), [`EncodingClass`](super::EncodingClass),
    /// [`DeviceClass`](super::DeviceClass), and [`VariantFn`](super::VariantFn) for your own.
    ///
    /// # Django
    ///
    /// With `USE_I18N`, the language is part of the key and `Accept-Language` left out, so that a
    /// view that negotiates by itself can be stored in one language and served for another.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(all(feature = "axum", feature = "memory"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use axum::{Router, body::Body, http::{HeaderMap, Request}, routing::get};
    /// use axum_cache::{Cache, CacheLayer, backend::Memory, layer::Locale};
    /// use tower::{Layer, ServiceExt};
    ///
    /// async fn hello(headers: HeaderMap) -> &'static str {
    ///     if headers["accept-language"] == "de" { "Hallo" } else { "Hello" }
    /// }
    ///
    /// let site = CacheLayer::new(Cache::new(Memory::new()))
    ///     .variant(Locale::new(["en", "de"]))
    ///     .layer(Router::new().route("/", get(hello)));
    /// for (accepted, hit) in [("de-AT,de;q=0.9", false), ("fr, de-CH;q=0.8", true)] {
    ///     let request = Request::get("/").header("accept-language", accepted);
    ///     let response = site.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    ///     assert_eq!(response.headers().contains_key("age"), hit);
    ///     assert_eq!(response.headers()["vary"], "accept-language");
    /// }
    /// # }
    /// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
    /// ```
    pub fn variant(self, variant: impl Variant) -> Self {
        self.set(|config| config.inputs.add_variant(variant))
    }

    /// Which peers are believed when `X-Forwarded-Proto`, `X-Forwarded-Host` or `Forwarded` say
    /// what the client asked for. [None](TrustedProxies::none) by default. Replaces earlier calls.
    ///
    /// From a trusted peer, the last member of each field gives scheme and authority: the hop
    /// that the peer itself added. `X-Forwarded-Proto` and `X-Forwarded-Host` go before
    /// `Forwarded`. The handler is shown the outcome as `Host`, `X-Forwarded-Proto` and
    /// `X-Forwarded-Host`, its URI without scheme and authority, and none of the fields that were
    /// resolved, such as `Forwarded`. So it is for requests of other peers that claim nothing:
    /// they are answered with the same pages.
    ///
    /// From other peers these fields cannot choose the page of another client. Since a handler may
    /// read them nevertheless, what they say is part of the key as it came, so that a response
    /// that shows a forged host is stored for those who forge it. So are, from all peers,
    /// `X-Forwarded-Port`, unless it is the scheme's own and the peer trusted, `X-Forwarded-Prefix`,
    /// `X-Original-URL`, `X-Rewrite-URL` and others that frameworks go by. Addresses, as in
    /// `X-Forwarded-For` and `for=`, are not: each client has another.
    ///
    /// Behind a proxy, declare it: else [`purge`](Self::purge) does not find the pages, whose keys
    /// hold what the proxy says. Requests that override their method by a field, such as
    /// `X-HTTP-Method-Override`, bypass the cache, whoever sends them.
    ///
    /// # Django
    ///
    /// `USE_X_FORWARDED_HOST` and `SECURE_PROXY_SSL_HEADER`, for chosen peers.
    pub fn trusted_proxies(self, proxies: TrustedProxies) -> Self {
        self.set(|config| config.inputs.trust(proxies))
    }

    /// Shows the handler no field of a request that the key does not hold, so that no response
    /// can depend on one: what is undeclared is absent, for everyone.
    ///
    /// What remains is `Host`, the [declared](Self::vary_on) fields, the normalised ones of
    /// [variants](Self::variant), the [declared](Self::cookies) cookies, and from
    /// [proxies](Self::trusted_proxies) what they were resolved to. All else is removed,
    /// `Authorization`, `User-Agent`, conditions, ranges and trace identifiers included. The URI
    /// is in one form, and the version HTTP/1.1, whatever the client sent.
    ///
    /// Since the handler cannot see them, requests with `Authorization` and undeclared cookies are
    /// answered from the cache like all others; do not put what checks credentials inside. Requests
    /// that bypass the cache go through untouched: other methods, those with a body, with a method
    /// override, or with `Upgrade`.
    ///
    /// What it does not cover: the extensions that layers outside put into the request, such as
    /// `ConnectInfo` or a user, the state of the application, and what a handler reads elsewhere. Of
    /// the extensions, only [`Language`](super::Language) and [`TimeZone`](super::TimeZone) are part
    /// of the key, and what variants make of the others.
    ///
    /// # Example
    ///
    /// ```
    /// # #[cfg(all(feature = "axum", feature = "memory"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use axum::{Router, body::Body, http::{HeaderMap, Request}, routing::get};
    /// use axum_cache::{Cache, CacheLayer, backend::Memory};
    /// use tower::{Layer, ServiceExt};
    ///
    /// async fn fields(headers: HeaderMap) -> String {
    ///     format!("{headers:?}")
    /// }
    ///
    /// let site = CacheLayer::new(Cache::new(Memory::new()))
    ///     .narrow()
    ///     .layer(Router::new().route("/", get(fields)));
    /// let request = Request::get("/").header("host", "a.test").header("x-evil", "1");
    /// let response = site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    /// let body = axum::body::to_bytes(Body::new(response.into_body()), 1000).await.unwrap();
    /// assert_eq!(body, r#"{"host": "a.test"}"#);
    /// # }
    /// # #[cfg(not(all(feature = "axum", feature = "memory")))] fn main() {}
    /// ```
    pub fn narrow(self) -> Self {
        self.set(|config| config.inputs.narrow())
    }
}
