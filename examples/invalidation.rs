//! What is cached is out of date when the data changes: three ways to say so.
//!
//! Run: `cargo run --example invalidation`

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum_cache::{Cache, Caches, key};

const HOUR: Duration = Duration::from_secs(3600);

/// Plays a database of posts and their authors.
#[derive(Clone, Default)]
struct Db {
    posts: Arc<Mutex<Posts>>,
}

/// Author and title by number.
type Posts = BTreeMap<u32, (String, String)>;

impl Db {
    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, id: u32) -> Option<(String, String)> {
        self.posts().get(&id).cloned()
    }

    fn titles_of(&self, author: &str) -> Vec<String> {
        let posts = self.posts();
        let own = posts.values().filter(|(by, _)| by == author);
        own.map(|(_, title)| title.clone()).collect()
    }

    fn begin(&self) -> Transaction {
        Transaction {
            db: self.clone(),
            changes: BTreeMap::new(),
            tags: Vec::new(),
        }
    }
}

/// Changes that become visible together, and the tags of what they make untrue.
struct Transaction {
    db: Db,
    changes: Posts,
    tags: Vec<String>,
}

impl Transaction {
    fn save(&mut self, id: u32, author: &str, title: &str) {
        self.changes
            .insert(id, (author.to_owned(), title.to_owned()));
        self.tags.push(format!("post:{id}"));
        self.tags.push(format!("author:{author}"));
    }

    /// Invalidates once the data is there, and not before: what is computed in between from the old
    /// data is invalidated too.
    async fn commit(self, cache: &Cache) -> axum_cache::Result<()> {
        self.db.posts().extend(self.changes);
        cache.invalidate(&self.tags).await
    }
}

async fn title(cache: &Cache, db: &Db, id: u32) -> axum_cache::Result<Option<String>> {
    let db = db.clone();
    let cache = cache.with_tags([format!("post:{id}")]);
    let load = || async move { Ok::<_, Infallible>(db.post(id).map(|(_, title)| title)) };
    cache.get_or_set(&key!("title", id), HOUR, load).await
}

async fn titles_of(cache: &Cache, db: &Db, author: &str) -> axum_cache::Result<Vec<String>> {
    let (db, name) = (db.clone(), author.to_owned());
    let cache = cache.with_tags([format!("author:{author}")]);
    let load = || async move { Ok::<_, Infallible>(db.titles_of(&name)) };
    cache.get_or_set(&key!("titles", author), HOUR, load).await
}

#[tokio::main]
async fn main() -> axum_cache::Result<()> {
    let cache = Caches::from_env().await?.default();
    let db = Db::default();
    let mut first = db.begin();
    first.save(7, "ada", "Notes");
    first.commit(&cache).await?;
    assert_eq!(title(&cache, &db, 7).await?.as_deref(), Some("Notes"));
    assert_eq!(titles_of(&cache, &db, "ada").await?, ["Notes"]);

    // By key, on save: whoever saves has to know every key that depends on it.
    db.posts().insert(7, ("ada".into(), "More notes".into()));
    cache.delete(&key!("title", 7)).await?;
    assert_eq!(title(&cache, &db, 7).await?.as_deref(), Some("More notes"));
    assert_eq!(
        titles_of(&cache, &db, "ada").await?,
        ["Notes"],
        "the list was forgotten"
    );

    // By tag: values, fragments and pages that have it, wherever they are.
    cache.invalidate(["post:7", "author:ada"]).await?;
    assert_eq!(titles_of(&cache, &db, "ada").await?, ["More notes"]);

    // With a transaction: when it is committed, and only then.
    let mut undone = db.begin();
    undone.save(7, "ada", "Scribbles");
    drop(undone); // rolled back: nothing has changed, and nothing is invalidated
    assert_eq!(title(&cache, &db, 7).await?.as_deref(), Some("More notes"));
    let mut done = db.begin();
    done.save(7, "ada", "The last notes");
    done.save(8, "ada", "A letter");
    done.commit(&cache).await?;
    assert_eq!(
        title(&cache, &db, 7).await?.as_deref(),
        Some("The last notes")
    );
    assert_eq!(
        titles_of(&cache, &db, "ada").await?,
        ["The last notes", "A letter"]
    );
    Ok(())
}
