//! What needs no database.

use std::time::Duration;

use super::operations::after;
use super::row::{MAX_TTL, milliseconds};
use super::*;
use crate::ttl::Lifetime;

#[test]
fn what_comes_after_a_prefix_begins_otherwise() {
    assert_eq!(after("a:").as_deref(), Some("a;"));
    assert_eq!(after("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
    assert_eq!(after("a\u{10ffff}").as_deref(), Some("b"));
    assert_eq!(after(""), None);
    assert_eq!(after("\u{10ffff}"), None);
}

#[test]
fn lifetimes_fit_a_column() {
    assert_eq!(milliseconds(Lifetime::Forever), None);
    let short = Lifetime::For(Duration::from_micros(1));
    assert_eq!(milliseconds(short), Some(1));
    assert_eq!(milliseconds(Lifetime::For(Duration::MAX)), Some(MAX_TTL));
}

#[test]
fn nothing_secret_is_shown() {
    #[cfg(feature = "postgres")]
    {
        let builder = Sql::builder("postgres://user:secret@db.example/app").table("app.cache");
        let store = builder.clone().build().expect("the URL is good");
        let shown = format!("{builder:?} {store:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("user"),
            "{shown}"
        );
        assert!(shown.contains("db.example:5432"), "{shown}");
        assert!(
            store
                .ddl()
                .contains("UNLOGGED TABLE IF NOT EXISTS \"app\".\"cache\"")
        );
    }
    #[cfg(feature = "mysql")]
    {
        let store = Sql::connect("mariadb://user:secret@db.example/app").expect("the URL is good");
        let shown = format!("{store:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("user"),
            "{shown}"
        );
    }
    let error = Sql::connect("oracle://user:secret@db.example").expect_err("is not known");
    assert!(!format!("{error} {error:?}").contains("secret"));
}

#[cfg(feature = "sqlite")]
#[test]
fn a_database_in_memory_is_refused() {
    for url in [
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite://",
        "sqlite:x?mode=memory",
    ] {
        let refused = Sql::connect(url).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::Config), "{url}");
    }
    let refused = Sql::builder("sqlite://a.db").table("main.t").build();
    assert_eq!(
        refused.map(drop).map_err(|error| error.kind()),
        Err(ErrorKind::Config)
    );
}
