//! A door for the fuzz targets.

use super::message::Message;

/// What is written of the message that these bytes are.
pub fn message(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Message::decode(bytes)?.encode().to_vec())
}
