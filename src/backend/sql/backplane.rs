//! Word of changes by `LISTEN` and `NOTIFY` of PostgreSQL.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use tokio::sync::Mutex;

use super::fault::Fault;
use super::postgres::read;
use crate::backend::{Backplane, Subscription};
use crate::error::{Error, ErrorKind, Result};

/// The server refuses payloads of 8000 bytes, and they are text: two digits a byte.
const MAX_MESSAGE_BYTES: usize = 3996;

/// The server cuts longer names off.
const MAX_CHANNEL_BYTES: usize = 63;

/// `LISTEN` and `NOTIFY` of a PostgreSQL server as a [`Backplane`], on one connection to publish and one
/// to listen.
///
/// Poolers that give each transaction another connection do not pass on what is listened for: name the
/// server itself. Cloning shares the connection that publishes.
#[derive(Clone)]
pub struct PostgresBackplane {
    options: PgConnectOptions,
    publishing: Arc<Mutex<Option<PgConnection>>>,
    channel: String,
}

impl PostgresBackplane {
    /// The channel of this name in the database of a URL. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if it is no URL of PostgreSQL, or the name of the channel is empty, over 63
    /// bytes, or holds the character zero.
    pub fn new(url: &str, channel: impl Into<String>) -> Result<Self> {
        let channel = channel.into();
        if channel.is_empty() || channel.len() > MAX_CHANNEL_BYTES || channel.contains('\0') {
            return Err(Error::config(format!(
                "channel: is not a name of 1 to {MAX_CHANNEL_BYTES} bytes"
            )));
        }
        let is_one = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        let bad = || Error::config("url: is no URL of PostgreSQL");
        if !is_one {
            return Err(bad());
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| bad().with_source(error))?;
        Ok(Self {
            options: options.disable_statement_logging(),
            publishing: Arc::default(),
            channel,
        })
    }

    async fn notify(&self, payload: &str) -> sqlx::Result<()> {
        let mut publishing = self.publishing.lock().await;
        // Taken out, so that one whose statement did not come to its end is not used again.
        let mut connection = match publishing.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(&self.channel)
            .bind(payload)
            .execute(&mut connection)
            .await?;
        *publishing = Some(connection);
        Ok(())
    }

    async fn listen(&self) -> sqlx::Result<PgListener> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None);
        let pool = pool.connect_with(self.options.clone()).await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen(&self.channel).await?;
        Ok(listener)
    }
}

impl Backplane for PostgresBackplane {
    type Subscription = PostgresSubscription;

    async fn publish(&self, message: Bytes) -> Result<()> {
        let published = self.notify(&to_text(&message)).await;
        published.map_err(|error| Fault::of(error, read).error.at("postgres", "publish"))
    }

    async fn subscribe(&self) -> Result<PostgresSubscription> {
        let listener = self.listen().await;
        let listener = listener.map_err(|error| Fault::of(error, read).error);
        Ok(PostgresSubscription {
            listener: listener.map_err(|error| error.at("postgres", "subscribe"))?,
        })
    }

    fn max_message_bytes(&self) -> usize {
        MAX_MESSAGE_BYTES
    }
}

/// Shows the channel and where the server is, without user and password.
impl fmt::Debug for PostgresBackplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBackplane")
            .field("channel", &self.channel)
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .finish_non_exhaustive()
    }
}

/// What a [`PostgresBackplane`] delivers.
pub struct PostgresSubscription {
    listener: PgListener,
}

impl Subscription for PostgresSubscription {
    async fn next(&mut self) -> Result<Bytes> {
        let lost = || Error::new(ErrorKind::Unavailable).at("postgres", "subscribe");
        match self.listener.try_recv().await {
            // What is no message of ours is none at all.
            Ok(Some(notified)) => Ok(of_text(notified.payload()).unwrap_or_default()),
            Ok(None) => Err(lost().with_message("the connection was closed")),
            Err(error) => Err(Fault::of(error, read).error.at("postgres", "subscribe")),
        }
    }
}

impl fmt::Debug for PostgresSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSubscription")
            .finish_non_exhaustive()
    }
}

fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn of_text(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    bytes.collect::<Option<Vec<_>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(of_text(&to_text(&bytes)), Some(bytes.into()));
        assert_eq!(of_text(""), Some(Bytes::new()));
        for text in ["0", "0g", "g0", "123", "\u{e9}"] {
            assert_eq!(of_text(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let kind = |url, channel| {
            let made = PostgresBackplane::new(url, channel);
            made.map(drop).map_err(|error| error.kind())
        };
        let url = "postgres://user:secret@host/db";
        assert_eq!(kind(url, "c"), Ok(()));
        let long = "c".repeat(64);
        for (url, channel) in [("redis://host", "c"), ("postgres://", ""), (url, &long)] {
            assert_eq!(kind(url, channel), Err(ErrorKind::Config));
        }
        let backplane = PostgresBackplane::new(url, "c");
        assert!(!format!("{backplane:?}").contains("secret"));
    }
}
