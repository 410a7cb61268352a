//! Going over keys by `SCAN`, on one server or on every node of a cluster.

use std::collections::VecDeque;

use bytes::Bytes;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, FromRedisValue, Value, cmd};

use super::lane::Request;
use super::{Redis, reply};
use crate::error::Result;

/// How many keys the server looks at for a page.
const PAGE: usize = 1000;

/// Keys of a prefix, a page at a time; see [`Redis::keys`].
#[derive(Debug)]
#[must_use = "nothing is asked for before `next_page`"]
pub struct KeyScan {
    redis: Redis,
    pattern: Vec<u8>,
    /// Where to go on; `None` before the first page.
    rest: Option<VecDeque<(Node, u64)>>,
}

#[derive(Clone, Debug)]
enum Node {
    Only,
    Of(String, u16),
}

impl Redis {
    /// The keys that begin with `prefix`, as the server holds them, in no order.
    ///
    /// What is there from the first page to the last is seen, at least once; what comes or goes
    /// meanwhile may be seen. The server is never blocked for longer than a page.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # async fn run() -> axum_cache::Result<()> {
    /// use axum_cache::{Cache, backend::Redis};
    ///
    /// let redis = Redis::connect("redis://127.0.0.1")?;
    /// let cache = Cache::new(redis.clone());
    /// let mut keys = redis.keys(cache.final_key("post:")?.as_str());
    /// while let Some(page) = keys.next_page().await? {
    ///     println!("{page:?}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Django
    ///
    /// `iter_keys` of `django-redis`.
    pub fn keys(&self, prefix: &str) -> KeyScan {
        KeyScan {
            redis: self.clone(),
            pattern: pattern(prefix),
            rest: None,
        }
    }

    /// Removes the keys that begin with `prefix`, a page at a time. How many there were.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) or [`Timeout`](crate::ErrorKind::Timeout);
    /// some are gone then, and some may not be.
    ///
    /// # Django
    ///
    /// `delete_pattern` of `django-redis`, for patterns that end in `*`.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64> {
        let mut keys = self.keys(prefix);
        let mut deleted = 0;
        while let Some(page) = keys.next_page().await? {
            if page.is_empty() {
                continue;
            }
            let mut unlink = cmd("UNLINK");
            for key in &page {
                unlink.arg(key.as_ref());
            }
            let answer = self.write_surely(0, Request::Command(&unlink), self.until());
            let answer = answer.await;
            deleted += u64::try_from(reply::int(answer)?).unwrap_or(0);
        }
        self.note_all();
        Ok(deleted)
    }
}

impl KeyScan {
    /// The next keys, perhaps none of them; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) or [`Timeout`](crate::ErrorKind::Timeout);
    /// ask again to go on.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Bytes>>> {
        let page = match &mut self.rest {
            None => self.first_page().await,
            Some(rest) => match rest.front().cloned() {
                None => return Ok(None),
                Some((node, cursor)) => self.page_of(node, cursor).await,
            },
        };
        page.map(Some).map_err(|error| error.at("redis", "keys"))
    }

    async fn first_page(&mut self) -> Result<Vec<Bytes>> {
        if !self.redis.inner.is_cluster {
            self.rest = Some(VecDeque::from([(Node::Only, 0)]));
            return self.page_of(Node::Only, 0).await;
        }
        let leaders = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let scan = self.scan(0);
        let answer = self.call(Request::Routed(&scan, &leaders)).await?;
        let (mut keys, mut rest) = (Vec::new(), VecDeque::new());
        let nodes: Vec<(String, Value)> = parse(answer)?;
        for (address, page) in nodes {
            let (cursor, page): (u64, Vec<Vec<u8>>) = parse(page)?;
            keys.extend(page.into_iter().map(Bytes::from));
            if cursor != 0
                && let Some((host, port)) = address.rsplit_once(':')
                && let Ok(port) = port.parse()
            {
                rest.push_back((Node::Of(host.to_owned(), port), cursor));
            }
        }
        self.rest = Some(rest);
        Ok(keys)
    }

    async fn page_of(&mut self, node: Node, cursor: u64) -> Result<Vec<Bytes>> {
        let scan = self.scan(cursor);
        let answer = match node.clone() {
            Node::Only => self.call(Request::Command(&scan)).await?,
            Node::Of(host, port) => {
                let node = SingleNodeRoutingInfo::ByAddress { host, port };
                let node = RoutingInfo::SingleNode(node);
                self.call(Request::Routed(&scan, &node)).await?
            }
        };
        let (cursor, page): (u64, Vec<Vec<u8>>) = parse(answer)?;
        let rest = self.rest.get_or_insert_default();
        rest.pop_front();
        if cursor != 0 {
            rest.push_front((node, cursor));
        }
        Ok(page.into_iter().map(Bytes::from).collect())
    }

    /// Pages come from the leader: a replica may lack keys.
    async fn call(&self, request: Request<'_>) -> Result<Value> {
        let until = self.redis.until();
        self.redis.read_at(0, false, request, until).await
    }

    fn scan(&self, cursor: u64) -> Cmd {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&self.pattern);
        scan.arg("COUNT").arg(PAGE);
        scan
    }
}

fn parse<T: FromRedisValue>(answer: Value) -> Result<T> {
    T::from_redis_value(answer).map_err(|error| reply::error(error.into()))
}

/// The pattern of everything that begins with `prefix`.
pub(super) fn pattern(prefix: &str) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix.bytes() {
        if b"*?[]^-\\".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}
