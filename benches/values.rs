//! What it costs to read a value from process memory, beside the map under it and that of the standard library.
//!
//! Run: `cargo bench --bench values`. Some seconds.
//!
//! `get` decodes a value of its own, `get_shared` hands out the one of all: of the same struct, and of one of
//! some 2 KiB. Two shared cores, November 2026:
//!
//! ```text
//! ns of the processor                  1 par.  10 par.
//! RwLock<HashMap>                          38       58
//! quick_cache                              30       36
//! Cache::get_shared                       202      219
//! Cache::get                              535     1341
//! ```
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::print_stdout, reason = "it prints tables")]
#![allow(clippy::cast_precision_loss, reason = "far below 2^52")]
#![allow(clippy::future_not_send, reason = "they stay on their thread")]
#![allow(missing_docs, reason = "it is no library")]

mod meter;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, RwLock};

use axum_cache::backend::Memory;
use axum_cache::{Cache, Ttl};
use serde::{Deserialize, Serialize};

use self::meter::{cpu, median};

const ENTRIES: usize = 1_000;
const BATCH: usize = 1_000;
const ROUNDS: usize = 201;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Post {
    id: u64,
    title: String,
    tags: Vec<String>,
    paragraphs: Vec<String>,
}

impl Post {
    fn new(id: usize, paragraphs: usize) -> Self {
        Self {
            id: id as u64,
            title: format!("Post {id}"),
            tags: vec!["rust".to_owned(), "caching".to_owned()],
            paragraphs: vec!["x".repeat(200); paragraphs],
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{:<34}{:>9}{:>9}",
        "ns of the processor", "1 par.", "10 par."
    );
    let (small, large) = (measure(1).await, measure(10).await);
    for ((name, small), (_, large)) in small.into_iter().zip(large) {
        println!("{name:<34}{small:>9.0}{large:>9.0}");
    }
}

async fn measure(paragraphs: usize) -> [(&'static str, f64); 4] {
    let keys: Vec<_> = (0..ENTRIES).map(|id| format!("post:{id}")).collect();
    let cache = Cache::new(Memory::new());
    let map = quick_cache::sync::Cache::new(ENTRIES * 2);
    let locked = RwLock::new(HashMap::new());
    for (id, key) in keys.iter().enumerate() {
        let post = Post::new(id, paragraphs);
        cache.set(key, &post, Ttl::Default).await.unwrap();
        let post = Arc::new(post);
        map.insert(key.clone(), Arc::clone(&post));
        locked.write().unwrap().insert(key.clone(), post);
    }
    let mut costs: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let of_std = |key: &String| locked.read().unwrap().get(key).cloned();
        costs[0].push(each(&keys, async |key| of_std(key).unwrap()).await);
        costs[1].push(each(&keys, async |key| map.get(key).unwrap()).await);
        let shared = async |key: &String| {
            let post: Option<Arc<Post>> = cache.get_shared(key).await.unwrap();
            post.unwrap()
        };
        costs[2].push(each(&keys, shared).await);
        let own = async |key: &String| {
            let post: Option<Post> = cache.get(key).await.unwrap();
            post.unwrap()
        };
        costs[3].push(each(&keys, own).await);
    }
    let names = [
        "RwLock<HashMap>",
        "quick_cache",
        "Cache::get_shared",
        "Cache::get",
    ];
    let mut costs = costs.map(median).into_iter();
    names.map(|name| (name, costs.next().unwrap()))
}

/// What one read takes, with keys in an order of no order.
async fn each<T>(keys: &[String], read: impl AsyncFn(&String) -> T) -> f64 {
    let start = cpu();
    for number in 0..BATCH {
        black_box(read(&keys[number * 617 % keys.len()]).await);
    }
    (cpu() - start) / BATCH as f64
}
