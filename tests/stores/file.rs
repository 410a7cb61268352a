//! What is peculiar to files: nobody ends a write that was begun.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum_cache::Cache;
use axum_cache::backend::File;

use crate::child::{Client, HOT_KEYS, is_whole};

const KILLS: u64 = 200;

/// Whether a read of the hot key finds a whole value.
async fn finds(cache: &Cache, key: usize) -> bool {
    let key = format!("hot:{}", key % HOT_KEYS);
    let found = cache.get::<Vec<u32>>(&key).await;
    matches!(found, Ok(Some(value)) if is_whole(&value))
}

fn files(folder: &Path) -> usize {
    let items = std::fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().path());
    items
        .map(|path| match path.extension() {
            Some(_) => 1,
            None if path.is_dir() => files(&path),
            None => 0,
        })
        .sum()
}

/// F3, FB-03.
pub(crate) async fn killed_writers_tear_nothing_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = File::builder(folder.path()).build().unwrap();
    let (cache, url) = (
        Cache::new(file.clone()),
        format!("file://{}", folder.path().display()),
    );
    Client::start(&url, "write").kill();
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (cache, stop) = (cache.clone(), Arc::clone(&stop));
        async move {
            let (mut reads, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                failed += usize::from(!finds(&cache, reads).await);
                reads += 1;
            }
            (reads, failed)
        }
    });
    for round in 0..KILLS / 2 {
        let writers = [(); 2].map(|()| Client::start(&url, "write"));
        tokio::time::sleep(Duration::from_millis(round % 10)).await;
        writers.into_iter().for_each(Client::kill);
    }
    stop.store(true, Ordering::Relaxed);
    let (reads, failed) = reader.await.unwrap();
    assert_eq!(failed, 0, "of {reads} reads");
    assert!(reads > 1000, "only {reads} reads went on meanwhile");
    for key in 0..HOT_KEYS {
        assert!(finds(&cache, key).await, "key {key} after the kills");
    }
    file.sweep().await.unwrap();
    assert_eq!(
        files(folder.path()),
        HOT_KEYS,
        "a sweep leaves the entries alone"
    );
    assert_eq!(file.sweep().await.unwrap(), 0, "what is left is sound");
}
