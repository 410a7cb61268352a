//! The file store as a user meets it: permissions, foreign files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum_cache::backend::File;
use axum_cache::{Cache, Caches, ErrorKind, Settings, Ttl};
use tempfile::TempDir;

/// A folder that is not there yet, in one that goes with the test.
fn folder() -> (TempDir, PathBuf, String) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a").join("cache");
    let url = format!("file://{}", folder.display());
    (outer, folder, url)
}

fn open(folder: &Path) -> (File, Cache) {
    let file = File::builder(folder).build().unwrap();
    (file.clone(), Cache::new(file))
}

/// Every file and folder below, relative.
fn below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap().to_owned())
        .collect()
}

/// The files of entries, and those being written.
fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let is_entry = |path: &PathBuf| path.extension().is_some();
    below(folder).into_iter().filter(is_entry).collect()
}

#[cfg(unix)]
#[tokio::test]
async fn fb_02_folders_and_files_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let (outer, folder, _) = folder();
    let (_, cache) = open(&folder);
    cache.set("k", &1, Ttl::Default).await.unwrap();
    cache.clear().await.unwrap();
    cache.set("k", &1, Ttl::Default).await.unwrap();
    for path in below(outer.path()) {
        let path = outer.path().join(path);
        // What was cleared may be gone by now.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let mode = if metadata.is_dir() { 0o700 } else { 0o600 };
        let is = metadata.permissions().mode() & 0o777;
        assert_eq!(is, mode, "{}", path.display());
    }
}

#[tokio::test]
async fn fb_02_a_folder_deleted_meanwhile_is_made_anew() {
    let (_outer, folder, _) = folder();
    let (file, cache) = open(&folder);
    assert_eq!(cache.get::<i32>("k").await.unwrap(), None);
    assert!(!folder.exists(), "reading makes no folder");
    for value in 0..3 {
        cache.set("k", &value, Ttl::Default).await.unwrap();
        assert_eq!(cache.get("k").await.unwrap(), Some(value));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(cache.get::<i32>("k").await.unwrap(), None);
        file.sweep().await.unwrap();
    }
    assert!(cache.add("k", &9, Ttl::Default).await.unwrap());
    fs::remove_dir_all(&folder).unwrap();
    assert!(!cache.touch("k", Ttl::Never).await.unwrap());
    fs::remove_dir_all(&folder).unwrap();
    cache.clear().await.unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let missing = cache.incr("k", 1).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::KeyMissing);
}

#[tokio::test]
async fn fb_04_files_of_others_are_left_alone() {
    let (_outer, folder, _) = folder();
    let (file, cache) = open(&folder);
    cache.set("k", &1, Ttl::Default).await.unwrap();
    let entry = entries(&folder).pop_first().unwrap();
    let shard = folder.join(entry.parent().unwrap());
    let namespace = shard.parent().unwrap();
    let digest = entry.file_stem().unwrap().to_str().unwrap();
    let foreign = [
        folder.join("README"),
        folder.join(format!("{digest}.axc")),
        folder.join("0".repeat(32)),
        folder.join("other").join(format!("{digest}.axc")),
        folder.join(".other"),
    ];
    let inside = [
        namespace.join("README"),
        shard.join("README.axc"),
        shard.join(format!("{digest}.txt")),
    ];
    fs::create_dir(folder.join("other")).unwrap();
    for path in foreign.iter().chain(&inside) {
        fs::write(path, "not ours").unwrap();
    }
    file.sweep().await.unwrap();
    assert_eq!(cache.get("k").await.unwrap(), Some(1));
    for path in &inside {
        assert!(path.exists(), "{}", path.display());
    }
    cache.clear().await.unwrap();
    cache.set("k", &1, Ttl::Default).await.unwrap();
    cache.flush_store().await.unwrap();
    file.sweep().await.unwrap();
    assert_eq!(cache.get::<i32>("k").await.unwrap(), None);
    for path in foreign {
        assert_eq!(fs::read(&path).unwrap(), b"not ours", "{}", path.display());
    }
    // What others put into a folder of ours moves with it, and is not deleted.
    let moved = below(&folder.join(".trash"));
    let moved = moved
        .iter()
        .filter(|path| folder.join(".trash").join(path).is_file());
    assert_eq!(moved.count(), inside.len());
}

#[tokio::test]
async fn fb_05_garbage_is_a_miss_and_goes() {
    let (_outer, folder, _) = folder();
    let (file, cache) = open(&folder);
    cache.set("k", &1, Ttl::Default).await.unwrap();
    let entry = folder.join(entries(&folder).pop_first().unwrap());
    let good = fs::read(&entry).unwrap();
    for garbage in [&b""[..], b"axc", &good[..good.len() - 1], &[0; 100]] {
        fs::write(&entry, garbage).unwrap();
        assert_eq!(cache.get::<i32>("k").await.unwrap(), None);
        assert!(!entry.exists(), "a read removes it");
        fs::write(&entry, garbage).unwrap();
        assert_eq!(file.sweep().await.unwrap(), 1);
        fs::create_dir_all(entry.parent().unwrap()).unwrap();
        fs::write(&entry, garbage).unwrap();
        assert!(cache.add("k", &1, Ttl::Default).await.unwrap());
    }
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&entry, flipped).unwrap();
    assert_eq!(file.sweep().await.unwrap(), 1, "a sweep reads all of it");
}

#[tokio::test]
async fn errors_of_the_disk_are_typed_and_a_missing_file_is_none() {
    let outer = tempfile::tempdir().unwrap();
    let blocked = outer.path().join("file");
    fs::write(&blocked, "").unwrap();
    let (_, cache) = open(&blocked.join("cache"));
    let error = cache.set("k", &1, Ttl::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        (error.backend(), error.operation()),
        (Some("file"), Some("set"))
    );
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<std::io::Error>());
}

#[tokio::test]
async fn a_set_that_fails_leaves_no_older_value() {
    let (_outer, folder, _) = folder();
    let (_, cache) = open(&folder);
    cache.set("k", &1, Ttl::Default).await.unwrap();
    // A folder stands where the new file would be written.
    let entry = folder.join(entries(&folder).pop_first().unwrap());
    fs::create_dir(entry.with_extension("tmp")).unwrap();
    let error = cache.set("k", &2, Ttl::Default).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(cache.get::<i32>("k").await.unwrap(), None);
}

#[tokio::test]
async fn settings_name_a_folder_and_its_limit() {
    let (_outer, folder, url) = folder();
    let settings = Settings::new().with_url("default", &format!("{url}?timeout=60&max_entries=10"));
    let caches = Caches::builder().settings(settings.unwrap()).build().await;
    let cache = caches.unwrap().default();
    assert_eq!(cache.ttl(), Ttl::After(Duration::from_secs(60)));
    cache.set("k", &1, Ttl::Default).await.unwrap();
    assert_eq!(entries(&folder).len(), 1);
}
