//! Word of changes by the pub/sub of Redis.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::PubSub;
use redis::{Client, cmd};
use tokio::time::Instant;

use super::builder::client_of;
use super::lane::{Lane, Request, Source};
use super::reply;
use crate::backend::{Backplane, Subscription};
use crate::error::{Error, ErrorKind, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The pub/sub of a Redis server as a [`Backplane`], on one connection to publish and one to listen.
///
/// On a cluster, name any of its nodes: they pass messages on to each other. Cloning shares the
/// connection that publishes.
#[derive(Clone)]
pub struct RedisBackplane {
    client: Arc<Client>,
    lane: Arc<Lane>,
    channel: String,
}

impl RedisBackplane {
    /// The channel of this name on the server of a URL, such as `redis://user:password@host:6379` or, by
    /// TLS with the feature `tls` and the system's authorities, `rediss://…`. Nothing is sent yet.
    ///
    /// Channels do not belong to databases: applications that share a server need different ones.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a URL that makes no sense or names sentinels, and for a channel
    /// without a name.
    pub fn new(url: &str, channel: impl Into<String>) -> Result<Self> {
        let channel = channel.into();
        if channel.is_empty() {
            return Err(Error::config("channel: is empty"));
        }
        let client = Arc::new(client_of(url)?);
        let lane = Lane::new(Source::Server(Arc::clone(&client)), CONNECT_TIMEOUT);
        Ok(Self {
            client,
            lane: Arc::new(lane),
            channel,
        })
    }
}

impl Backplane for RedisBackplane {
    type Subscription = RedisSubscription;

    async fn publish(&self, message: Bytes) -> Result<()> {
        let mut publish = cmd("PUBLISH");
        publish.arg(&self.channel).arg(&message[..]);
        let until = Instant::now() + PUBLISH_TIMEOUT;
        let heard = self.lane.call(Request::Command(&publish), until).await;
        reply::int(heard)
            .map(drop)
            .map_err(|error| error.at("redis", "publish"))
    }

    async fn subscribe(&self) -> Result<RedisSubscription> {
        let subscribed = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(&self.channel).await?;
            Ok(RedisSubscription { connection })
        };
        let subscribed = subscribed.await;
        subscribed.map_err(|error| reply::error(error).at("redis", "subscribe"))
    }
}

/// Shows the channel only: URLs may hold secrets.
impl fmt::Debug for RedisBackplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackplane")
            .field("channel", &self.channel)
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

/// What a [`RedisBackplane`] delivers.
pub struct RedisSubscription {
    connection: PubSub,
}

impl Subscription for RedisSubscription {
    async fn next(&mut self) -> Result<Bytes> {
        let message = self.connection.on_message().next().await;
        let message = message.ok_or_else(|| {
            let lost = Error::new(ErrorKind::Unavailable).at("redis", "subscribe");
            lost.with_message("the connection was closed")
        })?;
        Ok(Bytes::copy_from_slice(message.get_payload_bytes()))
    }
}

impl fmt::Debug for RedisSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSubscription").finish_non_exhaustive()
    }
}
