//! What stores hold of pages and fragments: bytes as they come, and entries that are changed
//! behind a checksum that holds.
//!
//! Input: a byte that chooses, then bytes, or what the parts of an entry are made from.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum_cache::backend::{Backend, Dummy, Memory};
use axum_cache::entry::Entry;
use axum_cache::fuzzing::{fragment, page, pages, seal_fragment};
use axum_cache::key::Key;
use axum_cache::ttl::Lifetime;
use axum_cache::{Cache, CacheLayer};
use axum_cache_fuzz::{fields, until};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use tower::{Layer, ServiceExt, service_fn};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Counts what is allocated at once.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(
            NOW.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What decoding allocates: a million bytes for a list whose length is declared, a few times over,
/// a small multiple of the input, and what a compressed body says that it will be.
fn is_bounded<T>(bytes: &[u8], decode: impl FnOnce() -> T) -> T {
    let (length, declared) = (bytes.len(), declared(bytes));
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let decoded = decode();
    let most = MOST.load(Relaxed) - before;
    let bound = (4 << 20) + 256 * length + declared;
    assert!(most < bound, "{most} bytes for {length}");
    decoded
}

#[derive(Arbitrary, Debug, Serialize)]
struct Meta {
    key: String,
    stored_at_ms: u64,
    fresh_until_ms: Option<u64>,
    stale_while_revalidate_ms: u64,
    stale_if_error_ms: u64,
    cost_ms: u64,
    /// Names and generations.
    tags: Vec<(String, (u64, u64))>,
    generation: u64,
    vary: Vec<String>,
    variants: Vec<(u64, u64)>,
    own_key: Option<String>,
    response: Option<ResponseMeta>,
}

#[derive(Arbitrary, Debug, Serialize)]
struct ResponseMeta {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    lifetime_ms: Option<u64>,
    initial_age: u64,
    terms: (bool, bool, Option<u64>, Option<u64>),
    sharing: (bool, bool, bool, bool),
    selection: Print,
    varied: Vec<(String, Print)>,
}

/// A fingerprint.
#[derive(Arbitrary, Debug)]
struct Print(Option<[u8; 32]>);

impl Serialize for Print {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0
            .as_ref()
            .map(|print| &print[..])
            .serialize(serializer)
    }
}

#[derive(Arbitrary, Debug)]
struct Page {
    meta: Meta,
    own_key: bool,
    plain: bool,
    /// So many fields more than it has; the most stands for too many.
    more: u8,
    body: Vec<u8>,
    kind: u8,
    flipped: Option<(u16, u8)>,
    request: Vec<u8>,
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    match choice % 4 {
        0 => foreign(&Bytes::copy_from_slice(data), "page:x"),
        1 => {
            let (meta, body) = until(data, b"\n\n");
            let kind = 1 + choice / 4 % 2;
            match choice / 8 % 4 {
                0 => foreign(&sealed(kind, meta, body), "page:x"),
                1 => compressed(kind, meta, body),
                // What says that it is compressed.
                _ => {
                    let (length, frame) = body.split_at(body.len().min(4));
                    let mut four = [0; 4];
                    four[4 - length.len()..].copy_from_slice(length);
                    // Mostly short, or it is put off.
                    let mask = if choice / 8 % 4 == 2 {
                        0xFFFF
                    } else {
                        u32::MAX
                    };
                    let length = u32::from_be_bytes(four) & mask;
                    foreign(&packed(kind, length, meta, frame), "page:x");
                }
            }
        }
        2 => fragments(data),
        _ => {
            if let Ok(page) = Page::arbitrary_take_rest(Unstructured::new(data)) {
                pages_of(page);
            }
        }
    }
});

fn key(text: &str) -> Key {
    Cache::new(Dummy).final_key(text).unwrap()
}

fn sealed(kind: u8, meta: &[u8], body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_slice(b"axc\x02");
    bytes.put_u8(kind);
    bytes.put_u64(0);
    bytes.put_u32(meta.len().try_into().unwrap());
    bytes.put_slice(meta);
    bytes.put_slice(body);
    let checksum = xxh3_64(&bytes[13..]);
    bytes[5..13].copy_from_slice(&checksum.to_be_bytes());
    bytes.freeze()
}

fn packed(kind: u8, length: u32, meta: &[u8], frame: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_slice(b"axc\x03");
    bytes.put_u8(kind);
    bytes.put_u64(0);
    bytes.put_u32(length);
    bytes.put_u32(meta.len().try_into().unwrap());
    bytes.put_slice(meta);
    bytes.put_slice(frame);
    let checksum = xxh3_64_with_seed(&bytes[13..], 3);
    bytes[5..13].copy_from_slice(&checksum.to_be_bytes());
    bytes.freeze()
}

/// What is compressed holds what the same holds that is not.
fn compressed(kind: u8, meta: &[u8], body: &[u8]) {
    let frame = zstd::bulk::compress(body, 1).unwrap();
    let plain = sealed(kind, meta, body);
    let small = packed(kind, body.len().try_into().unwrap(), meta, &frame);
    for key in [key("page:x"), key("other")] {
        assert_eq!(fragment(&key, &plain), fragment(&key, &small));
        let text = |bytes| page(&key, bytes).map(|(text, _)| text);
        assert_eq!(text(&plain), text(&small));
    }
    foreign(&small, "page:x");
}

/// What an entry says is its key and its kind, read by another hand.
fn says(bytes: &[u8]) -> Option<(u8, &str)> {
    let kind = *bytes.get(4)?;
    let at = if *bytes.get(3)? == 3 { 17 } else { 13 };
    let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    let meta = bytes.get(at + 4..at + 4 + length as usize)?;
    let (key, _) = postcard::take_from_bytes::<&str>(meta).ok()?;
    Some((kind, key))
}

/// How long the body will be, if it is compressed, and no more than it may be.
fn declared(bytes: &[u8]) -> usize {
    let length = bytes.get(13..17).filter(|_| bytes[3] == 3);
    let length = length.map_or(0, |it| u32::from_be_bytes(it.try_into().unwrap()) as usize);
    if length > 64 << 20 { 0 } else { length }
}

fn foreign(bytes: &Bytes, name: &str) {
    for key in [key(name), key("other")] {
        let of_page = is_bounded(bytes, || pages(&key, bytes));
        let of_fragment = is_bounded(bytes, || fragment(&key, bytes)).is_some();
        assert!(!of_page || says(bytes) == Some((1, key.as_str())));
        assert!(!of_fragment || says(bytes) == Some((2, key.as_str())));
        if of_page {
            let (text, entry) = page(&key, bytes).unwrap();
            let (again, same) = page(&key, entry.bytes()).expect("what was sealed");
            assert_eq!(text, again);
            assert_eq!(entry.bytes(), same.bytes());
        }
    }
}

fn fragments(data: &[u8]) {
    let (name, body) = until(data, b"\n");
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    let key = key(name);
    let entry = seal_fragment(&key, data.len() as u64, body).unwrap();
    assert_eq!(fragment(&key, &entry).as_deref(), Some(body));
    assert!(!pages(&key, &entry));
    foreign(&entry, "other than it");
}

fn pages_of(mut page: Page) {
    let layer = CacheLayer::new(Cache::new(Dummy));
    let uri = Uri::from_static("http://a.test/");
    let own = key(&layer.page_key(&uri).unwrap());
    if page.own_key {
        own.as_str().clone_into(&mut page.meta.key);
    }
    if page.plain {
        page.meta.vary.clear();
    }
    if let Some(response) = &mut page.meta.response {
        if page.plain {
            response.selection = Print(None);
            response.varied.clear();
            response.status = 100 + response.status % 900;
            response.headers.retain(|(name, value)| {
                http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                    && http::HeaderValue::from_bytes(value).is_ok()
            });
        }
        let more = if page.more == u8::MAX {
            30_000
        } else {
            page.more.into()
        };
        response
            .headers
            .extend((0..more).map(|number| (format!("x{number}"), vec![])));
    }
    let meta = postcard::to_allocvec(&page.meta).unwrap();
    let mut bytes = sealed(1 + page.kind % 2, &meta, &page.body).to_vec();
    foreign(&bytes.clone().into(), "other");
    if let Some((at, change)) = page.flipped {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= change;
        if change != 0 {
            assert!(!pages(&own, &bytes.clone().into()), "a byte was changed");
        }
    }
    let valid = page.own_key && page.plain && page.kind % 2 == 0 && page.more != u8::MAX;
    if valid && page.flipped.is_none_or(|(_, change)| change == 0) {
        assert!(pages(&own, &bytes.clone().into()), "what was sealed for it");
    }
    serves(&own, bytes.into(), &page.request);
}

/// A layer whose store holds such an entry answers all the same.
fn serves(key: &Key, bytes: Bytes, request: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for http in [false, true] {
            let memory = Memory::builder().max_entries(8).build().unwrap();
            let entry = Entry::new(bytes.clone());
            memory.set(key, entry, Lifetime::Forever).await.unwrap();
            let cache = Cache::new(memory);
            let layer = if http {
                CacheLayer::http(cache).honour_requests(true)
            } else {
                CacheLayer::new(cache)
            };
            let service = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("made"))))
            }));
            let mut asked = Request::get("http://a.test/").body(Empty::new()).unwrap();
            *asked.headers_mut() = fields(request);
            for name in ["host", "upgrade", "content-length", "transfer-encoding"] {
                asked.headers_mut().remove(name);
            }
            for _ in 0..2 {
                let response = service.clone().oneshot(asked.clone()).await.unwrap();
                let _ = response.into_body().collect().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
}
