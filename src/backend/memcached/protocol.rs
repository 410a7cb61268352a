//! The meta protocol of Memcached: requests as bytes, replies out of bytes. No input or output.
//!
//! # Invariants
//!
//! - A key on the wire holds no byte that the protocol gives a meaning, and has at most 250.
//! - Every command asks for exactly one reply, so replies find their requests by counting.
//! - Nothing is allocated by a length that a reply declares.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, ErrorKind};
use crate::key::{Key, MAX_KEY_BYTES, digest, is_plain};

/// Below this, values are copied out, so that a small one does not hold on to a large buffer.
const COPIED_BYTES: usize = 4096;

/// No reply line is longer.
const MAX_LINE_BYTES: usize = 8192;

/// No value is larger, whatever a server says: its own limit is 1 GiB.
const MAX_DATA_BYTES: usize = 1 << 30;

/// The answer to arithmetic on a text, which is understood well.
const NO_NUMBER: &str = "CLIENT_ERROR cannot increment or decrement";

/// Commands that are sent together, and answered in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) replies: usize,
}

impl Batch {
    /// `words` make a command line; a value may follow.
    pub(super) fn push(&mut self, words: std::fmt::Arguments<'_>, value: Option<&[u8]>) {
        // Writing to a vector of bytes does not fail.
        let _ = std::io::Write::write_fmt(&mut self.bytes, words);
        self.bytes.extend_from_slice(b"\r\n");
        if let Some(value) = value {
            self.bytes.extend_from_slice(value);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.replies += 1;
    }
}

/// What a server says to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// `HD`, `OK`, `STORED`: done, with flags.
    Done(Flags),
    /// `VA`: a value, with flags.
    Value(Bytes, Flags),
    /// `EN`, `NF`: nothing there.
    Missing,
    /// `NS`: not stored.
    NotStored,
    /// `EX`: something else is there by now.
    Changed,
    /// `SERVER_ERROR`, `CLIENT_ERROR` and `ERROR`, with what follows them.
    Error(String),
}

impl Reply {
    /// Whether the server did not understand what it was sent, so that nobody knows what of it is
    /// answered yet.
    pub(super) fn is_confusion(&self) -> bool {
        matches!(self, Self::Error(line)
            if !line.starts_with("SERVER_ERROR") && !line.starts_with(NO_NUMBER))
    }
}

/// The flags of a reply that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// `f`: the client's own.
    pub(super) client: u32,
    /// `c`: which value it is.
    pub(super) cas: Option<u64>,
    /// `t`: seconds left, -1 for ever.
    pub(super) ttl: Option<i64>,
}

/// The bytes are no reply: whoever reads on would take data for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// Takes one reply off the front of `input`; `None` if it is not whole yet.
pub(super) fn take(input: &mut BytesMut) -> Result<Option<Reply>, Garbled> {
    let window = &input[..input.len().min(MAX_LINE_BYTES)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if input.len() < MAX_LINE_BYTES {
            Ok(None)
        } else {
            Err(Garbled)
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(Garbled)?;
    let line = std::str::from_utf8(line).map_err(|_| Garbled)?;
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let reply = match word {
        "VA" => {
            let (size, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let size: usize = size.parse().map_err(|_| Garbled)?;
            if size > MAX_DATA_BYTES {
                return Err(Garbled);
            }
            let flags = flags(rest)?;
            let (start, whole) = (end + 1, end + 1 + size + 2);
            if input.len() < whole {
                return Ok(None);
            }
            if input[start + size..whole] != *b"\r\n" {
                return Err(Garbled);
            }
            let data = if size < COPIED_BYTES {
                Bytes::copy_from_slice(&input[start..start + size])
            } else {
                let mut taken = input.split_to(whole);
                let _ = taken.split_to(start);
                taken.truncate(size);
                return Ok(Some(Reply::Value(taken.freeze(), flags)));
            };
            let _ = input.split_to(whole);
            return Ok(Some(Reply::Value(data, flags)));
        }
        "HD" => Reply::Done(flags(rest)?),
        "OK" | "STORED" => Reply::Done(Flags::default()),
        "EN" | "NF" => Reply::Missing,
        "NS" => Reply::NotStored,
        "EX" => Reply::Changed,
        "SERVER_ERROR" | "CLIENT_ERROR" | "ERROR" => Reply::Error(line.to_owned()),
        _ => return Err(Garbled),
    };
    let _ = input.split_to(end + 1);
    Ok(Some(reply))
}

fn flags(words: &str) -> Result<Flags, Garbled> {
    let mut flags = Flags::default();
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let (flag, token) = word.split_at_checked(1).ok_or(Garbled)?;
        match flag {
            "f" => flags.client = token.parse().map_err(|_| Garbled)?,
            "c" => flags.cas = Some(token.parse().map_err(|_| Garbled)?),
            "t" => flags.ttl = Some(token.parse().map_err(|_| Garbled)?),
            // `W`, `X`, `Z` and whatever comes later.
            _ => {}
        }
    }
    Ok(flags)
}

/// The key on the wire: that of the generation in which the entry is to live.
///
/// `p` and the generation, of fixed width, stand before a key that is fit for the wire; `h` and
/// the generation before the digest of any other. So no two keys meet.
pub(super) fn wire_key(key: &Key, generation: u64) -> String {
    let text = key.as_str();
    let fits = text.len() + 18 <= MAX_KEY_BYTES && is_plain(text);
    let mut wire = String::with_capacity(MAX_KEY_BYTES);
    // Writing to a text does not fail.
    let _ = if fits {
        write!(wire, "p{generation:016x}:{text}")
    } else {
        write!(wire, "h{generation:016x}:{}", digest(text))
    };
    wire
}

/// Where a server keeps the generation of a namespace.
pub(super) fn generation_key(namespace: &str) -> String {
    let fits = namespace.len() + 2 <= MAX_KEY_BYTES && is_plain(namespace);
    if fits {
        format!("g:{namespace}")
    } else {
        format!("G:{}", digest(namespace))
    }
}

/// A server's `SERVER_ERROR` and the like.
pub(super) fn refused(line: &str) -> Error {
    let kind = if line.contains("too large") {
        ErrorKind::TooLarge
    } else if line.starts_with(NO_NUMBER) {
        ErrorKind::NotAnInteger
    } else {
        ErrorKind::Unavailable
    };
    Error::new(kind).with_message(format!("the server answered: {line}"))
}

pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::Unavailable).with_message("the server answered something else")
}
