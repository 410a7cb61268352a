//! What carries word of changes from one process to all others: the trait, and one inside a process.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::error::{Error, ErrorKind, Result};

/// How many messages a subscriber may be behind.
const BEHIND: usize = 4096;

/// A channel on which all nodes hear what each of them says, such as that of a pub/sub server.
///
/// It may lose messages, repeat them, deliver them late or out of order: who listens notices. What it
/// must not do is to alter them, or to deliver to some what was never published. The nodes say
/// nothing secret but the keys of entries; who can publish can make them forget what they hold, and
/// no more.
///
/// # Errors
///
/// Of every method: [`ErrorKind::Unavailable`] or [`ErrorKind::Timeout`] when the channel cannot be
/// reached.
pub trait Backplane: fmt::Debug + Send + Sync + 'static {
    /// What [`subscribe`](Self::subscribe) yields.
    type Subscription: Subscription;

    /// Sends a message to all who have subscribed, this node among them. Success does not mean
    /// that anybody got it.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have sent the message or not.
    fn publish(&self, message: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Begins to listen, over a connection of its own.
    fn subscribe(&self) -> impl Future<Output = Result<Self::Subscription>> + Send;

    /// The largest message that it takes, in bytes.
    fn max_message_bytes(&self) -> usize {
        64 << 10
    }
}

/// The messages that come in over one connection.
///
/// When it is lost, the caller subscribes again, and takes it that messages were lost, too.
pub trait Subscription: Send + 'static {
    /// The next message. It waits until there is one; a connection whose other end is gone without
    /// a word may wait for ever.
    ///
    /// # Errors
    ///
    /// Any means that the subscription is of no more use.
    fn next(&mut self) -> impl Future<Output = Result<Bytes>> + Send;
}

/// A backplane inside of this process, for tests and examples. Cloning shares it.
#[derive(Clone, Debug)]
pub struct LocalBackplane {
    messages: broadcast::Sender<Bytes>,
}

impl LocalBackplane {
    /// One that nobody listens to yet.
    pub fn new() -> Self {
        Self {
            messages: broadcast::Sender::new(BEHIND),
        }
    }
}

impl Default for LocalBackplane {
    fn default() -> Self {
        Self::new()
    }
}

impl Backplane for LocalBackplane {
    type Subscription = LocalSubscription;

    async fn publish(&self, message: Bytes) -> Result<()> {
        // Nobody may be listening.
        let _ = self.messages.send(message);
        Ok(())
    }

    async fn subscribe(&self) -> Result<LocalSubscription> {
        Ok(LocalSubscription {
            messages: self.messages.subscribe(),
        })
    }
}

/// What a [`LocalBackplane`] delivers.
#[derive(Debug)]
pub struct LocalSubscription {
    messages: broadcast::Receiver<Bytes>,
}

impl Subscription for LocalSubscription {
    async fn next(&mut self) -> Result<Bytes> {
        self.messages.recv().await.map_err(|error| {
            let lost = Error::new(ErrorKind::Unavailable).at("local", "subscribe");
            lost.with_source(error)
        })
    }
}
