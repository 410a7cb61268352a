//! What a hit costs as process memory fills, what its entries take of it, and what a flood of one-time URLs
//! leaves of the pages in use.
//!
//! Run: `cargo bench --bench growth`. A minute, and 3 GB.
//!
//! `first` is the first read of each entry, which leaves a page decoded; then any entry at random, and the same
//! 1,000 of them again and again: what they take of any store is in the processor's caches, of which any of a
//! million has none; with a million, `hot` is 1,190 to 2,205, by what else the machine does. `rss` is what the
//! process took for an entry when it was written, and when it had been `read`. Two shared cores, November 2026:
//!
//! ```text
//!               entries  ns: write  first    any    hot   bytes an entry stored weight    rss   read
//! page             1000       6418   2938   1011   1041                     447   2340   2318   3777
//! page            10000       5779   2620   1473    980                     447   2341   1035   2244
//! page           100000       5947   2900   2449   1465                     447   2343    867   2076
//! page          1000000       6395   6029   3250   2205                     447   2345    854   2064
//! Cache::get       1000        748    201    190    191                     117    485      0      0
//! Cache::get      10000       1548    299    469    181                     117    485    238    238
//! Cache::get     100000       1998    510    983    381                     117    485    315    315
//! Cache::get    1000000       2398    605   1311    238                     117    485    337    337
//! flood of 2000000 URLs: 28641 entries at most, weight 64.00 of 64 MiB, rss 25.2 MiB; 7066 ns a URL
//! pages in use, hits: 100.00 % of those read each 10,000 URLs, 100.00 % of those read each 100,000
//! write of a page: 4457 ns, and 5590 where the store has another handle
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints tables")]
#![allow(clippy::cast_precision_loss, reason = "far below 2^52")]
#![allow(clippy::future_not_send, reason = "they stay on their thread")]
#![allow(missing_docs, reason = "it is no library")]

mod meter;

use std::cell::Cell;
use std::convert::Infallible;
use std::hint::black_box;

use axum::body::Body;
use axum_cache::backend::{Backend, Memory};
use axum_cache::{Cache, CacheLayer, Ttl};
use http::{Request, Response, Uri};
use tower::{Layer, Service, ServiceExt as _, service_fn};

use self::meter::{cpu, median};

const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const ROUNDS: usize = 21;
const BATCH: usize = 1_000;
/// Those that are asked for again and again.
const HOT: u64 = 1_000;
const BODY: usize = 100;

const FLOOD: u64 = 2_000_000;
const FLOOD_BYTES: usize = 64 << 20;

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{:<12}{:>9}  ns: write{:>7}{:>7}{:>7}   bytes an entry{:>7}{:>7}{:>7}{:>7}",
        "", "entries", "first", "any", "hot", "stored", "weight", "rss", "read"
    );
    // Nothing is freed before the end, so that what each takes is new.
    let pages = grow_pages().await;
    let values = grow_values().await;
    flood().await;
    drop((pages, values));
    handles().await;
}

fn store(bytes: usize) -> Memory {
    Memory::builder().max_bytes(bytes).build().unwrap()
}

trait Site: Service<Request<Body>, Response: Sized, Error = Infallible, Future: Send> + Clone {}

impl<S> Site for S where
    S: Service<Request<Body>, Response: Sized, Error = Infallible, Future: Send> + Clone
{
}

/// A site of small pages.
fn site(cache: Cache) -> impl Site {
    let handler = service_fn(async |_: Request<Body>| {
        MADE.set(MADE.get() + 1);
        let response = Response::builder()
            .header("content-type", "text/html; charset=utf-8")
            .header("cache-control", "public, max-age=3600");
        let body = "<p>a small page</p>\n".repeat(BODY / 20);
        Ok::<_, Infallible>(response.body(Body::from(body)).unwrap())
    });
    CacheLayer::new(cache).layer(handler)
}

fn path(page: u64) -> String {
    format!("/page/{page}?lang=en")
}

fn request(page: u64) -> Request<Body> {
    let request = Request::get(path(page)).header("host", "www.example.com");
    request.body(Body::empty()).unwrap()
}

async fn ask(site: &impl Site, request: Request<Body>) {
    let answer = site.clone().oneshot(request).await;
    black_box(answer.is_ok());
}

async fn grow_pages() -> Memory {
    let mut row = Row::new("page");
    let memory = store(4 << 30);
    let cache = Cache::new(memory.clone());
    let site = site(cache.clone());
    let layer = CacheLayer::new(cache.clone());
    let uri = Uri::try_from(format!("http://www.example.com{}", path(0))).unwrap();
    let key = layer.page_key(&uri).unwrap();
    for size in SIZES {
        row.grow(size, &memory, async |page| ask(&site, request(page)).await)
            .await;
        let made = MADE.get();
        row.read_first(async |page| ask(&site, request(page)).await)
            .await;
        let requests = |pages: &[u64]| pages.iter().map(|page| request(*page)).collect();
        row.read(requests, async |request| ask(&site, request).await)
            .await;
        assert_eq!(MADE.get(), made, "all are hits");
        row.print(&memory, bytes_of(&cache, &memory, &key).await);
    }
    memory
}

async fn grow_values() -> Memory {
    let mut row = Row::new("Cache::get");
    let memory = store(4 << 30);
    let cache = Cache::new(memory.clone());
    let set = async |number| {
        let value = "x".repeat(BODY);
        cache.set(&key(number), &value, Ttl::Never).await.unwrap();
    };
    let get = async |key: String| {
        let value: Option<String> = cache.get(&key).await.unwrap();
        assert!(value.is_some());
    };
    for size in SIZES {
        row.grow(size, &memory, set).await;
        row.read_first(async |number| get(key(number)).await).await;
        row.read(
            |numbers| numbers.iter().map(|number| key(*number)).collect(),
            get,
        )
        .await;
        row.print(&memory, bytes_of(&cache, &memory, &key(0)).await);
    }
    memory
}

fn key(number: u64) -> String {
    format!("item:{number:07}")
}

/// The bytes of an entry, and of its key.
async fn bytes_of(cache: &Cache, memory: &Memory, key: &str) -> usize {
    let key = cache.final_key(key).unwrap();
    let entry = Backend::get(memory, &key).await.unwrap().unwrap();
    entry.bytes().len() + key.as_str().len()
}

/// What a store costs at one size.
struct Row {
    name: &'static str,
    size: u64,
    /// What the process had before there was a store.
    before: i64,
    /// What it has of the memory when all is written, and when each entry has been read.
    resident: [i64; 2],
    /// Nanoseconds to write an entry, to read it for the first time, and any of them, and the same few.
    costs: [f64; 4],
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            size: 0,
            before: resident(),
            resident: [0; 2],
            costs: [0.0; 4],
        }
    }

    async fn grow(&mut self, size: u64, memory: &Memory, write: impl AsyncFn(u64)) {
        let start = cpu();
        for number in self.size..size {
            write(number).await;
        }
        self.costs[0] = (cpu() - start) / (size - self.size) as f64;
        self.size = size;
        self.resident[0] = resident() - self.before;
        // Besides what was asked for, there may be what the cache keeps for itself.
        let held = memory.len() as u64;
        assert!((size..size + 8).contains(&held), "something went: {held}");
    }

    /// Reads each entry once. In a page, that leaves its decoded form.
    async fn read_first(&mut self, read: impl AsyncFn(u64)) {
        let start = cpu();
        for number in 0..self.size {
            read(number).await;
        }
        self.costs[1] = (cpu() - start) / self.size as f64;
        self.resident[1] = resident() - self.before;
    }

    /// Reads entries at random, with what was made ready for that.
    async fn read<T>(&mut self, ready: impl Fn(&[u64]) -> Vec<T>, read: impl AsyncFn(T)) {
        let mut costs = [Vec::new(), Vec::new()];
        let mut random = Random::new();
        for _ in 0..ROUNDS {
            for (costs, among) in costs.iter_mut().zip([self.size, HOT]) {
                if among == HOT {
                    // What was read before has put them out of the processor's caches.
                    let all: Vec<_> = (0..HOT).map(|it| it * (self.size / HOT)).collect();
                    for ready in ready(&all) {
                        read(ready).await;
                    }
                }
                let numbers = (0..BATCH).map(|_| random.below(among) * (self.size / among));
                let numbers: Vec<_> = numbers.collect();
                let ready = ready(&numbers);
                let start = cpu();
                for ready in ready {
                    read(ready).await;
                }
                costs.push((cpu() - start) / BATCH as f64);
            }
        }
        let [all, hot] = costs.map(median);
        (self.costs[2], self.costs[3]) = (all, hot);
    }

    fn print(&self, memory: &Memory, stored: usize) {
        let Self { name, size, .. } = self;
        let [write, first, all, hot] = self.costs;
        let each = |bytes: f64| bytes / *size as f64;
        let weight = each(memory.weight() as f64);
        let [written, read] = self.resident.map(|bytes| each(bytes as f64));
        println!(
            "{name:<12}{size:>9}{write:>11.0}{first:>7.0}{all:>7.0}{hot:>7.0}\
             {stored:>24}{weight:>7.0}{written:>7.0}{read:>7.0}"
        );
    }
}

/// Two million URLs that nobody asks for again, between reads of pages in use: one half of them each 10,000
/// URLs, which is less than the store holds, the other each 100,000, which is more.
async fn flood() {
    let before = resident();
    let memory = store(FLOOD_BYTES);
    let site = site(Cache::new(memory.clone()));
    let hot = |number| request(10 * FLOOD + number);
    for number in 0..HOT {
        // Twice: a page in use has been asked for more than once.
        ask(&site, hot(number)).await;
        ask(&site, hot(number)).await;
    }
    let (mut heaviest, mut largest, mut most) = (0, 0, 0);
    // Asked for, and answered from the store.
    let (mut often, mut rarely) = ([0, 0], [0, 0]);
    let start = cpu();
    for url in 0..FLOOD {
        ask(&site, request(url)).await;
        let mut read = Vec::new();
        if url % 20 == 0 {
            read.push((url / 20 % (HOT / 2), &mut often));
        }
        if url % 200 == 0 {
            read.push((HOT / 2 + url / 200 % (HOT / 2), &mut rarely));
        }
        for (number, [asked, hits]) in read {
            let made = MADE.get();
            ask(&site, hot(number)).await;
            *asked += 1;
            *hits += u64::from(MADE.get() == made);
        }
        if url % 10 == 0 {
            heaviest = memory.weight().max(heaviest);
            most = memory.len().max(most);
        }
        if url % 100_000 == 0 {
            largest = (resident() - before).max(largest);
        }
    }
    let cost = (cpu() - start) / FLOOD as f64;
    assert!(heaviest <= FLOOD_BYTES as u64, "{heaviest}");
    let share = |[asked, hits]: [u64; 2]| 100.0 * hits as f64 / asked as f64;
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "flood of {FLOOD} URLs: {most} entries at most, weight {:.2} of {:.0} MiB, rss {:.1} MiB; {cost:.0} ns a URL",
        mebibytes(heaviest as f64),
        mebibytes(FLOOD_BYTES as f64),
        mebibytes(largest as f64)
    );
    println!(
        "pages in use, hits: {:.2} % of those read each 10,000 URLs, {:.2} % of those read each 100,000",
        share(often),
        share(rarely)
    );
}

/// Prints what a page costs to write where somebody else has a handle of the store, and where nobody has: such
/// a store may be shared, so that who makes a page takes a lease for it first.
async fn handles() {
    const PAGES: usize = 5_000;
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        for (handles, costs) in costs.iter_mut().enumerate() {
            let memory = store(FLOOD_BYTES);
            let others = vec![memory.clone(); handles];
            let site = site(Cache::new(memory));
            let start = cpu();
            for page in 0..PAGES {
                ask(&site, request(page as u64)).await;
            }
            costs.push((cpu() - start) / PAGES as f64);
            drop(others);
        }
    }
    let [alone, shared] = costs.map(median);
    println!("write of a page: {alone:.0} ns, and {shared:.0} where the store has another handle");
}

/// What this process has of the memory, in bytes.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.map_or(0, |number| number.parse::<i64>().unwrap() * 1024)
}

struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
