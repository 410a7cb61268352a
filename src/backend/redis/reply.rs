//! From Redis' answers and errors to ours.

use bytes::Bytes;
use redis::{RedisError, ServerErrorKind, Value};

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};

/// The error of a call that failed. The text of the server's error holds neither key nor value.
pub(super) fn error(error: RedisError) -> Error {
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Unavailable
    };
    Error::new(kind).with_source(error)
}

/// Whether the connection is of no more use: broken, or to a server that stopped being a leader.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
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
    source(error)?.code()
}

/// Whether the server's error says this.
pub(super) fn says(error: &Error, text: &str) -> bool {
    source(error)
        .and_then(RedisError::detail)
        .is_some_and(|detail| detail.contains(text))
}

/// Whether it was the server that refused, so that the connection is in order.
pub(super) fn is_refusal(error: &Error) -> bool {
    source(error).is_some_and(|error| {
        matches!(
            error.kind(),
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension
        )
    })
}

fn source(error: &Error) -> Option<&RedisError> {
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
