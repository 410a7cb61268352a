//! A door for the fuzz targets.

use bytes::BytesMut;

use super::connection;
use super::node;
use super::protocol::{self, Batch, Flags, Reply, take};
use super::value;
use crate::entry::Entry;
use crate::key::Key;

/// The replies in bytes that arrive in pieces of so many, as text, and how many bytes were left;
/// `None` behind them: the rest is no reply.
pub fn replies(bytes: &[u8], piece: usize) -> (Vec<String>, Option<usize>) {
    let (mut input, mut taken) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece.max(1)) {
        input.extend_from_slice(piece);
        loop {
            match take(&mut input) {
                Ok(Some(reply)) => {
                    let of_entry = value::entry(reply.clone()).map(drop).is_ok();
                    let done = value::done(&reply).ok();
                    taken.push(format!("{reply:?} {of_entry} {done:?}"));
                }
                Ok(None) => break,
                Err(_) => return (taken, None),
            }
        }
    }
    (taken, Some(input.len()))
}

/// What comes back of a value that was stored.
pub fn round_trip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut batch = Batch::default();
    value::set(&mut batch, "k", &Entry::new(bytes.to_vec()), Some(1), "");
    let end = batch.bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&batch.bytes[..end]).ok()?.trim_end();
    let words: Vec<_> = line.split(' ').collect();
    let ["ms", "k", length, "T1", flags] = words[..] else {
        return None;
    };
    let length: usize = length.parse().ok()?;
    let stored = batch.bytes.get(end + 1..)?.strip_suffix(b"\r\n")?;
    let flags = Flags {
        client: flags.strip_prefix('F')?.parse().ok()?,
        ..Flags::default()
    };
    let stored = (stored.len() == length).then(|| stored.to_vec())?;
    let (entry, _) = value::entry(Reply::Value(stored.into(), flags)).ok()??;
    Some(entry.bytes().to_vec())
}

/// The key on the wire.
pub fn wire_key(key: &Key, generation: u64) -> String {
    protocol::wire_key(key, generation)
}

/// Where the generation of a namespace is.
pub fn generation_key(namespace: &str) -> String {
    protocol::generation_key(namespace)
}

/// A generation, and a counter, in these bytes.
pub fn numbers(bytes: &[u8]) -> (Option<u64>, Option<i64>) {
    (node::generation(bytes), value::unbiased(bytes))
}

/// Whether this is the address of a server.
pub fn is_server(text: &str) -> bool {
    connection::parse(text).is_ok()
}
