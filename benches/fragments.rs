//! What a page of `cache` blocks costs by `Cache::render` on process memory, all of them stored and none of
//! them stored, against `render` of the same template without the filter; time of the processor.
//!
//! Run: `cargo bench --bench fragments --features askama`. A quarter of a minute.
//!
//! A warm page of 20 breaks even with bodies of 1.5 us. Two shared cores, November 2026:
//!
//! ```text
//! ns a page                    plain      warm      cold   warm and cold against plain, and more a fragment
//! 0 of 0 us                       40       431       430     10.83   10.79      392     390
//! 1 of 0 us                      203      3501      5201     17.24   25.61     3298    4998
//! 20 of 0 us                    1382     30861     49180     22.34   35.60     1474    2390
//! 200 of 0 us                  10219    306840    472260     30.03   46.22     1483    2310
//! 0 of 2 us                       34       348       340     10.19    9.96      314     306
//! 1 of 2 us                     3024      3376      7824      1.12    2.59      352    4800
//! 20 of 2 us                   59902     40490    129006      0.68    2.15     -971    3455
//! 200 of 2 us                 598386    450924   1280517      0.75    2.14     -737    3411
//! 0 of 10 us                      40       430       430     10.67   10.67      390     390
//! 1 of 10 us                   10028      3624     15301      0.36    1.53    -6404    5273
//! 20 of 10 us                 134051     30656    193202      0.23    1.44    -5170    2958
//! 200 of 10 us               1312148    326302   1786766      0.25    1.36    -4929    2373
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints a table")]
#![allow(clippy::cast_precision_loss, reason = "far below 2^52")]
#![allow(missing_docs, reason = "it is no library")]

mod meter;

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use askama::Template;
use axum_cache::Cache;
use axum_cache::backend::Memory;
use tokio::runtime::Runtime;

use self::meter::{cpu, median};

mod filters {
    pub(crate) use axum_cache::fragment::filters::cache;
}

const ROUNDS: usize = 21;
const ROUND: Duration = Duration::from_millis(8);
/// Pages between two looks at the clock.
const BATCH: u64 = 4;

/// The body of a fragment: 80 bytes, after some work.
#[derive(Clone, Copy)]
struct Body {
    /// How many numbers it formats first.
    numbers: u32,
}

impl Body {
    fn run(self) -> &'static str {
        let mut text = String::with_capacity(16);
        for number in 0..self.numbers {
            text.clear();
            let _ = write!(text, "{}", black_box(number).wrapping_mul(2_654_435_761));
            black_box(&text);
        }
        "a line of a list that some query has found, in some language, with some markup"
    }
}

#[derive(Template)]
#[template(
    source = r#"<ul>{% for n in 0..count.clone() %}{% filter cache(500, ("item", salt, n)) %}<li>{{ body.run() }}</li>{% endfilter %}{% endfor %}</ul>"#,
    ext = "html"
)]
struct Cached {
    count: u32,
    body: Body,
    /// Part of the keys.
    salt: u64,
}

#[derive(Template)]
#[template(
    source = r"<ul>{% for n in 0..count.clone() %}<li>{{ body.run() }}</li>{% endfor %}</ul>",
    ext = "html"
)]
struct Plain {
    count: u32,
    body: Body,
}

/// Nanoseconds that a page costs.
#[derive(Default)]
struct Costs {
    plain: Vec<f64>,
    warm: Vec<f64>,
    cold: Vec<f64>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    println!(
        "{:<24}{:>10}{:>10}{:>10}   warm and cold against plain, and more a fragment",
        "ns a page", "plain", "warm", "cold"
    );
    for micros in [0, 2, 10] {
        // Each time: the processor may have changed its pace.
        let number = cost_of_a_number();
        #[allow(clippy::cast_possible_truncation, reason = "some hundred")]
        #[allow(clippy::cast_sign_loss, reason = "it is none")]
        let body = Body {
            numbers: (f64::from(micros) * 1000.0 / number).round() as u32,
        };
        for count in [0, 1, 20, 200] {
            let costs = measure(&runtime, count, body);
            let [plain, warm, cold] = [costs.plain, costs.warm, costs.cold].map(median);
            let name = format!("{count} of {micros} us");
            print!("{name:<24}{plain:>10.0}{warm:>10.0}{cold:>10.0}");
            print!("{:>10.2}{:>8.2}", warm / plain, cold / plain);
            let each = |cost: f64| (cost - plain) / f64::from(count.max(1));
            println!("{:>9.0}{:>8.0}", each(warm), each(cold));
            if (micros, count) == (0, 20) {
                let even = each(warm);
                println!("a warm page of 20 breaks even with bodies of {even:.0} ns");
            }
        }
    }
}

fn measure(runtime: &Runtime, count: u32, body: Body) -> Costs {
    let cache = Cache::new(Memory::new());
    let page = |salt| Cached { count, body, salt };
    let expected = Plain { count, body }.render().unwrap();
    for _ in 0..2 {
        let page = runtime.block_on(cache.render(page(0))).unwrap();
        assert_eq!(page, expected);
    }
    let mut costs = Costs::default();
    for _ in 0..ROUNDS {
        costs.plain.push(time(|_| {
            black_box(Plain { count, body }.render().unwrap());
        }));
        costs.warm.push(time(|_| {
            black_box(runtime.block_on(cache.render(page(0))).unwrap());
        }));
        // A store of its own: nothing has to go.
        let cache = Cache::new(Memory::new());
        costs.cold.push(time(|salt| {
            black_box(runtime.block_on(cache.render(page(salt))).unwrap());
        }));
    }
    costs
}

/// Nanoseconds of the processor that `run` costs. It is given another number each time.
fn time(mut run: impl FnMut(u64)) -> f64 {
    let (start, before, mut done) = (Instant::now(), cpu(), 0);
    while start.elapsed() < ROUND {
        for _ in 0..BATCH {
            run(done);
            done += 1;
        }
    }
    (cpu() - before) / done as f64
}

/// Nanoseconds that one number in a [`Body`] costs.
fn cost_of_a_number() -> f64 {
    let body = Body { numbers: 1000 };
    let costs = (0..ROUNDS).map(|_| time(|_| _ = black_box(body.run())));
    median(costs.collect()) / 1000.0
}
