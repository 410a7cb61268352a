//! The object-safe twin of [`Backend`], so that a cache's store is chosen at run time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Backend, Capabilities, Peek};
use crate::entry::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::ttl::Lifetime;

/// Some backend, its type erased. Cloning shares it.
#[derive(Clone)]
pub struct AnyBackend(Arc<dyn DynBackend>);

impl AnyBackend {
    /// Erases the type of `backend`.
    pub fn new(backend: impl Backend) -> Self {
        Self(Arc::new(backend))
    }

    pub(crate) fn as_dyn(&self) -> &dyn DynBackend {
        &*self.0
    }
}

impl<B: Backend> From<B> for AnyBackend {
    fn from(backend: B) -> Self {
        Self::new(backend)
    }
}

impl fmt::Debug for AnyBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// [`Backend`], object-safe. See there for what each method promises.
pub(crate) trait DynBackend: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn capabilities(&self) -> Capabilities;
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Entry>>;
    fn set<'a>(&'a self, key: &'a Key, entry: Entry, lifetime: Lifetime) -> BoxFuture<'a, ()>;
    fn add<'a>(&'a self, key: &'a Key, entry: Entry, lifetime: Lifetime) -> BoxFuture<'a, bool>;
    fn touch<'a>(&'a self, key: &'a Key, lifetime: Lifetime) -> BoxFuture<'a, bool>;
    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, bool>;
    fn incr<'a>(&'a self, key: &'a Key, delta: i64) -> BoxFuture<'a, i64>;
    fn rename<'a>(&'a self, from: &'a Key, to: &'a Key) -> BoxFuture<'a, bool>;
    fn ttl<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Lifetime>>;
    fn clear<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, ()>;
    fn flush_store(&self) -> BoxFuture<'_, ()>;
    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> BoxFuture<'a, bool>;
    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Option<Entry>>>;
    fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> BoxFuture<'_, Vec<Result<()>>>;
    fn delete_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, u64>;
    fn delete_prefix<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, u64>;
    fn peek(&self, key: &Key) -> Peek;
    fn history(&self) -> u64;
    fn learn_history(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<B: Backend> DynBackend for B {
    fn name(&self) -> &'static str {
        Backend::name(self)
    }

    fn capabilities(&self) -> Capabilities {
        Backend::capabilities(self)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Entry>> {
        Box::pin(Backend::get(self, key))
    }

    fn set<'a>(&'a self, key: &'a Key, entry: Entry, lifetime: Lifetime) -> BoxFuture<'a, ()> {
        Box::pin(Backend::set(self, key, entry, lifetime))
    }

    fn add<'a>(&'a self, key: &'a Key, entry: Entry, lifetime: Lifetime) -> BoxFuture<'a, bool> {
        Box::pin(Backend::add(self, key, entry, lifetime))
    }

    fn touch<'a>(&'a self, key: &'a Key, lifetime: Lifetime) -> BoxFuture<'a, bool> {
        Box::pin(Backend::touch(self, key, lifetime))
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, bool> {
        Box::pin(Backend::delete(self, key))
    }

    fn incr<'a>(&'a self, key: &'a Key, delta: i64) -> BoxFuture<'a, i64> {
        Box::pin(Backend::incr(self, key, delta))
    }

    fn rename<'a>(&'a self, from: &'a Key, to: &'a Key) -> BoxFuture<'a, bool> {
        Box::pin(Backend::rename(self, from, to))
    }

    fn ttl<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Lifetime>> {
        Box::pin(Backend::ttl(self, key))
    }

    fn clear<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(Backend::clear(self, namespace))
    }

    fn flush_store(&self) -> BoxFuture<'_, ()> {
        Box::pin(Backend::flush_store(self))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Entry,
        entry: Entry,
        lifetime: Lifetime,
    ) -> BoxFuture<'a, bool> {
        Box::pin(Backend::compare_and_set(
            self, key, expected, entry, lifetime,
        ))
    }

    fn get_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Vec<Option<Entry>>> {
        Box::pin(Backend::get_many(self, keys))
    }

    fn set_many(&self, items: Vec<(Key, Entry, Lifetime)>) -> BoxFuture<'_, Vec<Result<()>>> {
        Box::pin(Backend::set_many(self, items))
    }

    fn delete_many<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, u64> {
        Box::pin(Backend::delete_many(self, keys))
    }

    fn delete_prefix<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, u64> {
        Box::pin(Backend::delete_prefix(self, prefix))
    }

    fn peek(&self, key: &Key) -> Peek {
        Backend::peek(self, key)
    }

    fn history(&self) -> u64 {
        Backend::history(self)
    }

    fn learn_history(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Backend::learn_history(self))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Backend::close(self))
    }
}
