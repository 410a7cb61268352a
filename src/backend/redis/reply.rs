//! From Redis' answers and errors to ours.

use std::fmt;

use bytes::Bytes;
use redis::{RedisError, ServerErrorKind, Value};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};

/// What the server refuses with. Its own text may repeat what it was sent, keys and values among
/// it, so that nothing is kept of it but this.
#[derive(Debug)]
struct Refusal {
    /// Such as `WRONGTYPE`.
    code: String,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NoSuchKey,
    NotAnInteger,
    Overflow,
    Other,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.code)
    }
}

impl std::error::Error for Refusal {}

/// The error of a call that failed.
pub(super) fn error(error: RedisError) -> Error {
    if error.is_timeout() {
        return Error::new(ErrorKind::Timeout).with_source(error);
    }
    let unavailable = Error::new(ErrorKind::Unavailable);
    if !matches!(
        error.kind(),
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension
    ) {
        return unavailable.with_source(error);
    }
    let detail = error.detail().unwrap_or_default();
    let reasons = [
        ("no such key", Reason::NoSuchKey),
        ("overflow", Reason::Overflow),
        ("not an integer", Reason::NotAnInteger),
    ];
    let reason = reasons.into_iter().find(|(text, _)| detail.contains(text));
    unavailable.with_source(Refusal {
        code: error.code().unwrap_or("ERR").to_owned(),
        reason: reason.map_or(Reason::Other, |(_, reason)| reason),
    })
}

/// Whether the connection is of no more use: broken, or to a server that stopped being a leader.
pub(super) fn is_lost(error: &RedisError) -> bool {
    let is_broken = error.is_unrecoverable_error() || error.is_io_error();
    // A cluster's client has timeouts of its own, for single nodes.
    (is_broken && !error.is_timeout())
        || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// What `GET` answers. What another program stored there in another form is none of ours.
pub(super) fn entry(answer: Result<Value>) -> Result<Option<Entry>> {
    match answer {
        Ok(Value::BulkString(bytes)) => Ok(Some(Entry::new(Bytes::from(bytes)))),
        Ok(Value::Nil) => Ok(None),
        Err(error) if code(&error) == Some("WRONGTYPE") => Ok(None),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(error),
    }
}

/// An integer.
pub(super) fn int(answer: Result<Value>) -> Result<i64> {
    match answer? {
        Value::Int(int) => Ok(int),
        other => Err(unexpected(&other)),
    }
}

/// Whether the count is not zero.
pub(super) fn is_some(answer: Result<Value>) -> Result<bool> {
    Ok(int(answer)? > 0)
}

/// Whether it was done: `OK`, or else nil.
pub(super) fn done(answer: Result<Value>) -> Result<bool> {
    match answer? {
        Value::Okay => Ok(true),
        Value::Nil => Ok(false),
        other => Err(unexpected(&other)),
    }
}

/// The answers of an array.
pub(super) fn array(answer: Result<Value>) -> Result<Vec<Value>> {
    match answer? {
        Value::Array(values) => Ok(values),
        other => Err(unexpected(&other)),
    }
}

/// One of the answers of a pipeline.
pub(super) fn one(answer: Value) -> Result<Value> {
    answer.extract_error().map_err(error)
}

/// The server's word for its error, such as `WRONGTYPE`.
pub(super) fn code(error: &Error) -> Option<&str> {
    refusal(error).map(|refusal| refusal.code.as_str())
}

/// What the server says of its error.
pub(super) fn reason(error: &Error) -> Option<Reason> {
    refusal(error).map(|refusal| refusal.reason)
}

/// Whether the call may have failed because its connection was lost while nobody used it.
pub(super) fn is_lost_call(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable && refusal(error).is_none()
}

fn refusal(error: &Error) -> Option<&Refusal> {
    std::error::Error::source(error)?.downcast_ref()
}

fn unexpected(answer: &Value) -> Error {
    let form = match answer {
        Value::Nil => "nil",
        Value::Int(_) => "an integer",
        Value::BulkString(_) => "a string",
        Value::Array(_) => "an array",
        _ => "another form",
    };
    Error::new(ErrorKind::Unavailable).with_message(format!("the server answered with {form}"))
}
