//! The whole layer: requests and a handler's responses, both arbitrary, over memory.
//!
//! Input: a byte that chooses the layer, then blocks, divided by an empty line. A block is a
//! request, `METHOD URI SECONDS` and fields, or behind a `<` a response, `<STATUS FRAMES` and
//! fields. A request that begins with `&` is sent together with the next. Responses are made in
//! their order, again and again.
#![no_main]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum_cache::backend::{Dummy, Memory};
use axum_cache::clock::ManualClock;
use axum_cache::key::DjangoKeys;
use axum_cache::layer::{
    DeviceClass, ETags, EncodingClass, Language, Locale, PeerAddr, TrustedProxies,
};
use axum_cache::{Cache, CacheLayer, cache_page};
use axum_cache_fuzz::{fields, says, says_in, until};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, SET_COOKIE, VARY,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use libfuzzer_sys::fuzz_target;
use tower::{Layer, ServiceExt, service_fn};

const SERIAL: &str = "x-serial";

/// The claims that are part of every key, unless a proxy is trusted.
const CLAIMS: &[&str] = &[
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-original-url",
    "x-rewrite-url",
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, script)) = data.split_first() else {
        return;
    };
    let Some(script) = Script::parse(script) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(*choice, script));
});

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Blanket,
    Explicit,
    /// The handler sees what is declared only.
    Narrow,
    Http,
}

fn layer(choice: u8, cache: Cache) -> (Mode, CacheLayer) {
    let new = CacheLayer::new;
    match choice % 9 {
        0 => (Mode::Blanket, new(cache)),
        1 => (
            Mode::Blanket,
            new(cache)
                .sort_query()
                .query_ignore(["a*"])
                .etags(ETags::Weak)
                .hit_for_miss(Duration::ZERO)
                .variant(EncodingClass::new(["br", "gzip"]))
                .variant(DeviceClass)
                .vary_on([HeaderName::from_static("x-a")]),
        ),
        2 => (
            Mode::Blanket,
            new(cache)
                .trusted_proxies(TrustedProxies::networks(["10.0.0.0/8"]).unwrap())
                .max_body_bytes(8),
        ),
        3 => (
            Mode::Explicit,
            cache_page(Duration::from_secs(60), cache, "p"),
        ),
        4 => (
            Mode::Explicit,
            cache_page(Duration::from_secs(60), cache, "")
                .page_keys(DjangoKeys::new().with_language("en")),
        ),
        5 => (
            Mode::Narrow,
            new(cache)
                .narrow()
                .cookies(["sid", "lang"])
                .query_allow(["a", "b"])
                .sort_query()
                .variant(Locale::new(["en", "de-CH"]).cookie("lang"))
                .variant(EncodingClass::new(["gzip"]))
                .vary_on([HeaderName::from_static("x-a")]),
        ),
        6 => (
            Mode::Narrow,
            new(cache).narrow().trusted_proxies(TrustedProxies::all()),
        ),
        7 => (Mode::Http, CacheLayer::http(cache)),
        _ => (
            Mode::Http,
            CacheLayer::http(cache)
                .honour_requests(true)
                .keep_stale(Duration::from_secs(9)),
        ),
    }
}

#[derive(Default)]
struct Script {
    requests: Vec<Asked>,
    responses: Vec<Made>,
}

#[derive(Clone, Debug)]
struct Asked {
    together: bool,
    method: Method,
    uri: Uri,
    wait: u64,
    headers: HeaderMap,
}

#[derive(Clone, Debug)]
struct Made {
    status: StatusCode,
    frames: Vec<u8>,
    headers: HeaderMap,
}

impl Script {
    fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut script = Self::default();
        while !rest.is_empty() && script.requests.len() < 12 {
            let (block, behind) = until(rest, b"\n\n");
            rest = behind;
            let (line, lines) = until(block, b"\n");
            let line = std::str::from_utf8(line).ok()?;
            let headers = fields(lines);
            if let Some(line) = line.strip_prefix('<') {
                let (status, frames) = line.split_once(' ').unwrap_or((line, ""));
                let status = status.parse::<u16>().unwrap_or(200).clamp(200, 599);
                script.responses.push(Made {
                    status: StatusCode::from_u16(status).unwrap(),
                    frames: frames.as_bytes().to_vec(),
                    headers,
                });
                continue;
            }
            let (together, line) = match line.strip_prefix('&') {
                Some(line) => (true, line),
                None => (false, line),
            };
            let mut words = line.split(' ');
            script.requests.push(Asked {
                together,
                method: words.next()?.parse().ok()?,
                uri: words.next()?.parse().ok()?,
                wait: words.next().and_then(|wait| wait.parse().ok()).unwrap_or(0),
                headers,
            });
        }
        (!script.requests.is_empty()).then_some(script)
    }
}

/// A body of frames: `|` divides them, `!` is an error, `~` makes the reader wait.
struct Frames {
    left: std::vec::IntoIter<u8>,
    exact: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        let mut data = Vec::new();
        while let Some(byte) = self.left.next() {
            match byte {
                b'!' => return Poll::Ready(Some(Err("on purpose".to_owned()))),
                b'~' if data.is_empty() => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                b'|' | b'~' => return Poll::Ready(Some(Ok(Frame::data(data.into())))),
                byte => data.push(byte),
            }
        }
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact {
            SizeHint::with_exact(self.left.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Asker(usize);

/// What the handler was asked, and what it said.
#[derive(Clone)]
struct Call {
    asker: usize,
    /// As it was shown.
    uri: Uri,
    headers: HeaderMap,
    response: Made,
}

type Calls = Arc<Mutex<Vec<Call>>>;

fn handle(calls: &Calls, responses: &[Made], request: &Request<Empty<Bytes>>) -> Response<Frames> {
    let mut calls = calls.lock().unwrap();
    let serial = calls.len();
    let plain = Made {
        status: StatusCode::OK,
        frames: b"hello".to_vec(),
        headers: fields(b"cache-control: max-age=60, public\netag: \"a\""),
    };
    let made = responses
        .get(serial % responses.len().max(1))
        .unwrap_or(&plain)
        .clone();
    let exact = made.frames.iter().all(|byte| !b"|!~".contains(byte));
    let mut response = Response::new(Frames {
        left: made.frames.clone().into_iter(),
        exact,
    });
    *response.status_mut() = made.status;
    *response.headers_mut() = made.headers.clone();
    response.headers_mut().insert(SERIAL, serial.into());
    calls.push(Call {
        asker: request
            .extensions()
            .get::<Asker>()
            .map_or(usize::MAX, |asker| asker.0),
        uri: request.uri().clone(),
        headers: request.headers().clone(),
        response: made,
    });
    response
}

async fn run(choice: u8, script: Script) {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
    let memory = Memory::builder()
        .max_entries(64)
        .clock(clock.clone())
        .build()
        .unwrap();
    let cache = Cache::builder(memory).clock(clock.clone()).build().unwrap();
    let (mode, layer) = layer(choice, cache);
    let calls = Calls::default();
    let responses = Arc::new(script.responses);
    let service = layer.layer(service_fn({
        let (calls, responses) = (Arc::clone(&calls), Arc::clone(&responses));
        move |request| {
            let response = handle(&calls, &responses, &request);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(response)
            }
        }
    }));
    let mut open = Vec::new();
    for (number, asked) in script.requests.iter().enumerate() {
        clock.advance(Duration::from_secs(asked.wait.min(100_000_000)));
        let answer = service.clone().oneshot(request(choice, number, asked));
        let answered = async move {
            let response = answer.await.unwrap_or_else(|never| match never {});
            let (parts, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes);
            (parts, body)
        };
        open.push((number, asked, tokio::spawn(answered)));
        if asked.together {
            continue;
        }
        for (number, asked, answer) in open.drain(..) {
            let (parts, body) = answer.await.expect("no panic");
            let of = Answer {
                number,
                asked,
                mode,
                choice,
                status: parts.status,
                headers: parts.headers,
                body,
            };
            // Others may call the handler meanwhile.
            let calls = calls.lock().unwrap().clone();
            of.check(&calls).await;
        }
        // What is done behind the clients' backs.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}

fn request(choice: u8, number: usize, asked: &Asked) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = asked.uri.clone();
    *request.headers_mut() = asked.headers.clone();
    request.extensions_mut().insert(Asker(number));
    let peer = if choice & 0x80 == 0 {
        [10, 0, 0, 1]
    } else {
        [11, 0, 0, 1]
    };
    request.extensions_mut().insert(PeerAddr::new(peer.into()));
    if choice & 0x40 != 0
        && let Some(language) = asked
            .headers
            .get("x-language")
            .and_then(|tag| tag.to_str().ok())
    {
        request.extensions_mut().insert(Language::new(language));
    }
    request
}

struct Answer<'a> {
    number: usize,
    asked: &'a Asked,
    mode: Mode,
    choice: u8,
    status: StatusCode,
    headers: HeaderMap,
    body: Result<Bytes, String>,
}

impl Answer<'_> {
    async fn check(self, calls: &[Call]) {
        let serial = self
            .headers
            .get(SERIAL)
            .and_then(|serial| serial.to_str().ok());
        let serial: Option<usize> = serial.and_then(|serial| serial.parse().ok());
        if self.status.is_server_error() && serial.is_none() {
            self.own_error(calls);
            return;
        }
        let Some(made) = serial.and_then(|serial| calls.get(serial)) else {
            return;
        };
        if self.status.is_server_error() {
            let of_handler = |call: &Call| call.response.status == self.status;
            let updated = made.response.status == StatusCode::NOT_MODIFIED;
            assert!(of_handler(made) || (updated && calls.iter().any(of_handler)));
        }
        if made.asker == self.number {
            return;
        }
        self.shared(made);
        self.selected(made).await;
        if self.status == StatusCode::OK
            && self.asked.method == Method::GET
            && made.response.status != StatusCode::NOT_MODIFIED
        {
            let frames = made.response.frames.iter();
            let whole: Vec<_> = frames
                .copied()
                .filter(|byte| !b"|~".contains(byte))
                .collect();
            assert_eq!(
                self.body.as_deref(),
                Ok(&whole[..]),
                "the body of the stored response"
            );
        }
    }

    /// An error that no handler made.
    fn own_error(&self, calls: &[Call]) {
        let said = |detail: &str| {
            let mut lines = self.headers.get_all("cache-status").iter();
            lines.any(|line| line.to_str().is_ok_and(|line| line.contains(detail)))
        };
        let of_mine = |status| {
            let mut mine = calls.iter().filter(|call| call.asker == self.number);
            mine.any(|call: &Call| call.response.status == status)
        };
        match self.status.as_u16() {
            502 => assert!(said("not-modified-mismatch") && of_mine(StatusCode::NOT_MODIFIED)),
            504 => assert!(said("only-if-cached") && self.mode == Mode::Http),
            // Its serial number was a field of the connection.
            status => assert!(calls.iter().any(|call| {
                call.response.status == status && call.response.headers.contains_key(CONNECTION)
            })),
        }
    }

    /// What was made for another request was made to be shared.
    fn shared(&self, made: &Call) {
        let Made {
            status, headers, ..
        } = &made.response;
        let http = self.mode == Mode::Http;
        let targeted = http && headers.contains_key("cdn-cache-control");
        let update = *status == StatusCode::NOT_MODIFIED;
        if update && headers.contains_key(CONNECTION) {
            return;
        }
        // One in a 304 is for the one who asked, and is not stored.
        assert!(update || !headers.contains_key(SET_COOKIE));
        assert!(!self.headers.contains_key(SET_COOKIE));
        if !targeted {
            let understood = http && says(headers, "must-understand");
            assert!(understood || !says(headers, "no-store"), "no-store");
            assert!(!says(headers, "private"), "private");
            assert!(http || update || !says(headers, "no-cache"), "no-cache");
            let words = ["public", "s-maxage", "must-revalidate"];
            let for_all = words.iter().any(|word| says(headers, word));
            let secret = made.headers.contains_key(AUTHORIZATION);
            assert!(update || for_all || !secret, "with credentials");
        }
        if self.mode == Mode::Blanket && made.headers.contains_key(COOKIE) {
            let varies = says_in(headers, &VARY, "cookie");
            assert!(says(headers, "public") || varies, "with cookies");
        }
    }

    /// Whoever is given it would have been shown the same, as far as the response depends on it.
    async fn selected(&self, made: &Call) {
        let calls = Calls::default();
        let (_, layer) = layer(self.choice, Cache::new(Dummy));
        let service = layer.layer(service_fn({
            let calls = Arc::clone(&calls);
            move |request| {
                let response = handle(&calls, &[], &request);
                async move { Ok::<_, Infallible>(response) }
            }
        }));
        let mut asked = self.asked.clone();
        asked.method = Method::GET;
        let _ = service.oneshot(request(self.choice, 0, &asked)).await;
        let calls = calls.lock().unwrap();
        // Who wants what is stored only is not passed on.
        let Some(shown) = calls.first() else {
            return;
        };
        // An empty path is `/` (RFC 9110 section 4.2.3).
        let [one, other] = [shown, made].map(|call| match call.uri.path() {
            "" => "/",
            path => path,
        });
        assert_eq!(one, other, "the path");
        // To Django, an empty query is none.
        let django = self.choice % 9 == 4;
        let [one, other] = [shown, made].map(|call| {
            let query = call.uri.query();
            query.filter(|query| !django || !query.is_empty())
        });
        assert_eq!(one, other, "the query");
        let same = |name: &HeaderName| {
            // Lists may come in several lines; others may not be made to look alike.
            let divider = match name {
                &COOKIE | &AUTHORIZATION => &b"\n"[..],
                _ => b", ",
            };
            let [one, other] = [shown, made].map(|call| {
                let lines: Vec<_> = call.headers.get_all(name).iter().collect();
                let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
                lines.join(divider)
            });
            assert_eq!(
                String::from_utf8_lossy(&one),
                String::from_utf8_lossy(&other),
                "{name}"
            );
        };
        same(&HOST);
        for name in CLAIMS {
            same(&HeaderName::from_static(name));
        }
        if self.mode == Mode::Narrow {
            assert_eq!(shown.headers, made.headers);
            assert_eq!(shown.uri, made.uri);
        }
        // Cookies that were declared count one by one.
        let declared = self.choice % 9 == 5;
        let updated = made.response.status == StatusCode::NOT_MODIFIED;
        for line in made
            .response
            .headers
            .get_all(VARY)
            .iter()
            .filter(|_| !updated)
        {
            for name in line.as_bytes().split(|byte| *byte == b',') {
                let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) else {
                    continue;
                };
                let conditional = name.as_str().starts_with("if-") || name == "range";
                if !conditional && name != FORWARDED && !(name == COOKIE && declared) {
                    same(&name);
                }
            }
        }
    }
}
