//! What went wrong in a database, and what may be done about it.

use std::error::Error as StdError;
use std::fmt;

use sqlx::error::DatabaseError;

use crate::error::{Error, ErrorKind};

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Another transaction was in the way, and nothing happened: try again.
    Busy,
    /// The connection is of no more use, and nobody knows whether the statement ran.
    Broken,
    /// There is no connection to be had.
    Unreachable,
    /// There is no table.
    NoTable,
    /// Trying again would not help.
    Final,
}

#[derive(Debug)]
pub(super) struct Fault {
    pub(super) class: Class,
    pub(super) error: Error,
}

/// What a database said of a statement. Of its words only the message is kept: the details that
/// some send along hold keys and values.
#[derive(Debug)]
struct Refusal {
    code: String,
    message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl StdError for Refusal {}

impl Fault {
    pub(super) fn new(class: Class, kind: ErrorKind) -> Self {
        Self {
            class,
            error: Error::new(kind),
        }
    }

    /// Reads an error of the driver; `read` knows the codes of the database.
    pub(super) fn of(
        error: sqlx::Error,
        read: fn(&dyn DatabaseError) -> (Class, ErrorKind),
    ) -> Self {
        let sqlx::Error::Database(refused) = error else {
            let error = match error {
                sqlx::Error::Io(cause) => Error::new(ErrorKind::Unavailable).with_source(cause),
                other => Error::new(ErrorKind::Unavailable).with_source(other),
            };
            return Self {
                class: Class::Broken,
                error,
            };
        };
        let refusal = Refusal {
            code: refused.code().unwrap_or_default().into_owned(),
            message: refused.message().to_owned(),
        };
        let (class, kind) = read(&*refused);
        let mut error = Error::new(kind);
        if class == Class::NoTable {
            error = error.with_message("table is missing; run `Sql::create_table` once");
        }
        Self {
            class,
            error: error.with_source(refusal),
        }
    }
}
