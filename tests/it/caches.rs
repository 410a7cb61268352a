//! Named caches: settings, aliases, start-up errors, extractors.

use std::time::Duration;

use axum_cache::backend::{AnyBackend, Dummy, Memory};
use axum_cache::{Cache, Caches, ErrorKind, Settings, Ttl};

async fn build(json: &str) -> axum_cache::Result<Caches> {
    let settings = Settings::from_json(json)?;
    Caches::builder().settings(settings).build().await
}

/// The message of the start-up error, which must be one of configuration.
async fn refusal(json: &str) -> String {
    let error = build(json).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test]
async fn s_01_process_memory_is_the_default_and_default_has_to_be_there() {
    let caches = Caches::from_env().await.unwrap();
    assert_eq!(caches.aliases().collect::<Vec<_>>(), ["default"]);
    let missing = refusal(r#"{"other": {"backend": "memory"}}"#).await;
    assert!(missing.contains("\"default\" is missing"), "{missing}");
    assert!(refusal("{}").await.contains("missing"));
}

#[tokio::test]
async fn s_01_every_setting_of_djangos_caches_has_its_counterpart() {
    let caches = build(
        r#"{
            "default": {
                "BACKEND": "memory", "LOCATION": "s01", "TIMEOUT": 60, "KEY_PREFIX": "site",
                "VERSION": 2, "KEY_FUNCTION": "default", "OPTIONS": {"MAX_ENTRIES": 10}
            },
            "same": {"backend": "memory", "location": "s01", "key_prefix": "site", "version": 2,
                     "options": {"max_entries": 10}, "timeout": "never", "codec": "json",
                     "key_policy": "error"}
        }"#,
    )
    .await
    .unwrap();
    let (cache, same) = (caches.default(), caches.get("same").unwrap());
    assert_eq!(cache.final_key("k").unwrap().as_str(), "site:2:k");
    assert_eq!(cache.ttl(), Ttl::After(Duration::from_secs(60)));
    assert_eq!(same.ttl(), Ttl::Never);
    cache.set("k", &1, Ttl::Default).await.unwrap();
    assert_eq!(same.get("k").await.unwrap(), Some(1));
    assert_eq!(
        same.get::<i32>("a b").await.unwrap_err().kind(),
        ErrorKind::InvalidKey
    );
    assert_eq!((cache.name(), same.name()), ("default", "same"));
}

#[tokio::test]
async fn s_02_an_alias_is_one_cache_however_often_it_is_asked_for() {
    let caches = Caches::new(Cache::new(Memory::new()));
    caches.default().set("k", &1, Ttl::Default).await.unwrap();
    let again = caches.clone().get("default").unwrap();
    assert_eq!(again.get("k").await.unwrap(), Some(1));
}

#[tokio::test]
async fn s_03_an_unknown_alias_is_a_typed_error_that_names_those_there_are() {
    let caches = Caches::new(Cache::new(Dummy)).with("pages", Cache::new(Dummy));
    let error = caches.get("page").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownAlias);
    let message = error.to_string();
    assert!(
        message.contains("\"page\"") && message.contains("default, pages"),
        "{message}"
    );
}

#[tokio::test]
async fn s_03_bc_02_every_start_up_error_names_alias_and_option() {
    for (settings, option) in [
        (r"{}", "backend: is missing"),
        (
            r#"{"backend": "memori"}"#,
            "backend: \"memori\" is not known",
        ),
        (r#"{"backend": 3}"#, "backend: is of the wrong type"),
        (
            r#"{"backend": "memory", "timeout": "soon"}"#,
            "timeout: is neither",
        ),
        (
            r#"{"backend": "memory", "timeout": -1}"#,
            "timeout: is neither",
        ),
        (
            r#"{"backend": "memory", "timeout": true}"#,
            "timeout: is neither",
        ),
        (
            r#"{"backend": "memory", "timeout": 1e300}"#,
            "timeout: is neither",
        ),
        (
            r#"{"backend": "memory", "version": "two"}"#,
            "version: is of the wrong type",
        ),
        (
            r#"{"backend": "memory", "key_function": "x"}"#,
            "key_function: \"x\" is not known",
        ),
        (
            r#"{"backend": "memory", "key_policy": "x"}"#,
            "key_policy: is not hash",
        ),
        (
            r#"{"backend": "memory", "codec": "pickle"}"#,
            "codec: \"pickle\" is not known",
        ),
        (
            r#"{"backend": "memory", "location": 3}"#,
            "location: is neither",
        ),
        (
            r#"{"backend": "memory", "location": ["a", "b"]}"#,
            "location: is a list",
        ),
        (
            r#"{"backend": "memory", "time_out": 3}"#,
            "time_out: is not a setting",
        ),
        (
            r#"{"backend": "memory", "options": 3}"#,
            "options: is of the wrong type",
        ),
        (
            r#"{"backend": "memory", "options": {"max_entries": "x"}}"#,
            "max_entries: is of the",
        ),
        (
            r#"{"backend": "memory", "options": {"max_entries": 0}}"#,
            "max_entries: must be more",
        ),
        (
            r#"{"backend": "memory", "options": {"cull_frequency": 3}}"#,
            "cull_frequency: is not",
        ),
        (
            r#"{"backend": "dummy", "options": {"max_bytes": 3}}"#,
            "max_bytes: is not",
        ),
    ] {
        let json = format!(r#"{{"default": {{"backend": "dummy"}}, "bad": {settings}}}"#);
        let message = refusal(&json).await;
        assert!(
            message.contains("cache \"bad\": ") && message.contains(option),
            "{message}"
        );
    }
}

#[cfg(feature = "file")]
#[tokio::test]
async fn s_03_files_need_one_folder() {
    for (settings, reason) in [
        (r#"{"backend": "file"}"#, "location: is missing"),
        (
            r#"{"backend": "file", "location": ""}"#,
            "location: is missing",
        ),
        (
            r#"{"backend": "file", "location": ["a", "b"]}"#,
            "location: is a list",
        ),
        (
            r#"{"backend": "file", "location": "a", "options": {"max_entries": 0}}"#,
            "max_entries: must be more",
        ),
        (
            r#"{"backend": "file", "location": "a", "options": {"cull_frequency": 3}}"#,
            "cull_frequency: is not",
        ),
    ] {
        let message = refusal(&format!(r#"{{"default": {settings}}}"#)).await;
        assert!(
            message.contains("cache \"default\": ") && message.contains(reason),
            "{message}"
        );
    }
}

#[cfg(not(feature = "file"))]
#[tokio::test]
async fn s_03_a_store_that_is_not_compiled_in_says_what_brings_it() {
    let message = refusal(r#"{"default": {"backend": "file", "location": "a"}}"#).await;
    assert!(message.contains("needs the feature `file`"), "{message}");
}

#[tokio::test]
async fn bc_02_a_fraction_of_a_second_is_a_timeout_and_null_is_never() {
    for (timeout, ttl) in [
        ("0.5", Ttl::After(Duration::from_millis(500))),
        ("\"60\"", Ttl::After(Duration::from_secs(60))),
        ("null", Ttl::Never),
        ("0", Ttl::After(Duration::ZERO)),
    ] {
        let json = format!(r#"{{"default": {{"backend": "memory", "timeout": {timeout}}}}}"#);
        assert_eq!(
            build(&json).await.unwrap().default().ttl(),
            ttl,
            "{timeout}"
        );
    }
}

#[tokio::test]
async fn bc_03_options_may_be_null() {
    let json = r#"{"default": {"backend": "memory", "options": null}}"#;
    assert!(build(json).await.is_ok());
}

#[tokio::test]
async fn urls_say_what_settings_say() {
    let url = "memory://here?timeout=never&key_prefix=a%3Ab&version=3&max_entries=7";
    let settings = Settings::new().with_url("default", url).unwrap();
    let cache = Caches::builder()
        .settings(settings)
        .build()
        .await
        .unwrap()
        .default();
    assert_eq!(cache.final_key("k").unwrap().as_str(), "a%3Ab:3:k");
    assert_eq!(cache.ttl(), Ttl::Never);
    for url in [
        "memory",
        "memory://?timeout",
        "memory://?a=1&a=2",
        "memory://%ff",
    ] {
        let error = Settings::new().with_url("x", url).unwrap_err();
        assert!(error.to_string().contains("cache \"x\": URL: "), "{error}");
    }
}

#[cfg(feature = "toml")]
#[tokio::test]
async fn toml_does_too() {
    let settings = Settings::from_toml(
        r#"
        [default]
        backend = "memory"
        timeout = 1.5
        options.max_bytes = 1048576
        "#,
    );
    let caches = Caches::builder()
        .settings(settings.unwrap())
        .build()
        .await
        .unwrap();
    assert_eq!(
        caches.default().ttl(),
        Ttl::After(Duration::from_millis(1500))
    );
    let error = Settings::from_toml("default = ").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

/// Each table by itself, so that an error of one that is not there does not hide what the next one says.
#[cfg(all(
    feature = "file",
    feature = "memcached",
    feature = "mysql",
    feature = "postgres",
    feature = "redis",
    feature = "sqlite",
    feature = "toml"
))]
#[tokio::test]
async fn the_settings_in_the_documentation_are_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut tables = 0;
    let documents = [
        include_str!("../../src/docs/guide.md"),
        include_str!("../../src/docs/stores.md"),
    ];
    let blocks = documents
        .iter()
        .flat_map(|text| text.split("```toml\n").skip(1));
    for block in blocks.filter_map(|block| block.split("```").next()) {
        // Nobody listens there.
        let block = ["6379", "11211"]
            .iter()
            .fold(block.to_owned(), |block, port| {
                block.replace(&format!(".1:{port}"), ".1")
            });
        let block = block.replace("10.0.0.1", "127.0.0.1:1");
        let block = block.replace("/var/lib/app", path);
        for (start, _) in block.match_indices("\n[").chain(Some((0, ""))) {
            let table = &block[start..];
            let end = table[2..].find("\n[").map_or(table.len(), |end| end + 2);
            let table = &table[..end];
            let mut settings = table.to_owned();
            // What a tiered one may be in front of, and what has to be there.
            let is_tiered = table.contains("options.far");
            for (alias, is_needed) in [
                ("default", true),
                ("redis", is_tiered),
                ("shared", is_tiered),
            ] {
                if is_needed && !table.contains(&format!("[{alias}]")) {
                    settings.extend(["\n[", alias, "]\nbackend = \"memory\"\n"]);
                }
            }
            let settings = Settings::from_toml(&settings).unwrap();
            let built = Caches::builder().settings(settings).build().await;
            let is_config = |error: &axum_cache::Error| error.kind() == ErrorKind::Config;
            assert!(!built.as_ref().is_err_and(is_config), "{table}: {built:?}");
            tables += 1;
        }
    }
    assert!(tables > 8, "{tables}");
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let url = "mine://user:hunter2@host/?password=hunter2";
    let settings = Settings::new().with_url("default", url).unwrap();
    let builder = Caches::builder()
        .settings(settings)
        .backend("mine", |settings| async move {
            assert!(settings.locations()?[0].contains("hunter2"));
            assert!(!format!("{settings:?}").contains("hunter2"));
            Ok(AnyBackend::new(Dummy))
        });
    assert!(!format!("{builder:?}").contains("hunter2"));
    // The option that the backend did not ask for is named, its value is not.
    let error = builder.build().await.unwrap_err();
    assert!(format!("{error:?}").contains("password: is not a setting"));
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[cfg(feature = "axum")]
mod extractors {
    use axum::body::{Body, to_bytes};
    use axum::extract::FromRef;
    use axum::http::{Request, StatusCode};
    use axum::routing::get;
    use axum::{Extension, Router};
    use tower::ServiceExt;

    use super::*;

    async fn count(cache: Cache) -> axum_cache::Result<String> {
        cache.add("n", &0, Ttl::Never).await?;
        Ok(cache.incr("n", 1).await?.to_string())
    }

    async fn aliases(caches: Caches) -> String {
        caches.aliases().collect::<Vec<_>>().join(",")
    }

    async fn answer(router: Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1024).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn caches() -> Caches {
        Caches::new(Cache::new(Memory::new()))
    }

    #[tokio::test]
    async fn a_state_that_holds_caches_gives_them() {
        #[derive(Clone)]
        struct State {
            caches: Caches,
        }
        impl FromRef<State> for Caches {
            fn from_ref(state: &State) -> Self {
                state.caches.clone()
            }
        }
        let router = Router::new()
            .route("/", get(count))
            .route("/aliases", get(aliases))
            .with_state(State { caches: caches() });
        assert_eq!(answer(router.clone(), "/").await.1, "1");
        assert_eq!(answer(router.clone(), "/").await.1, "2");
        assert_eq!(answer(router, "/aliases").await.1, "default");
    }

    #[tokio::test]
    async fn a_router_without_state_takes_an_extension() {
        let router = Router::new()
            .route("/", get(count))
            .layer(Extension(caches()));
        assert_eq!(answer(router, "/").await, (StatusCode::OK, "1".to_owned()));
    }

    #[tokio::test]
    async fn without_either_the_rejection_says_how_to_mend_it() {
        let router = Router::new().route("/", get(count));
        let (status, body) = answer(router, "/").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            body.contains("with_state") && body.contains("Extension"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn an_error_of_the_cache_tells_the_client_nothing() {
        async fn fails(cache: Cache) -> axum_cache::Result<String> {
            Ok(cache.incr("secret-key", 1).await?.to_string())
        }
        let router = Router::new().route("/", get(fails)).with_state(caches());
        let answer = answer(router, "/").await;
        let expected = (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
        assert_eq!((answer.0, answer.1.as_str()), expected);
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_database_file_is_known_by_its_url() {
    let name = format!("settings {}%2C.db", std::process::id());
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    let escaped = path.display().to_string().replace('%', "%25");
    let url = format!("sqlite://{escaped}?create_table=true&table=entries&operation_timeout=1.5");
    let settings = Settings::new().with_url("default", &url).unwrap();
    let caches = Caches::builder().settings(settings).build().await.unwrap();
    caches.default().set("k", &1, Ttl::Never).await.unwrap();
    assert_eq!(caches.default().get("k").await.unwrap(), Some(1));
    caches.close().await.unwrap();
    assert!(path.exists());
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

#[cfg(all(feature = "sqlite", feature = "postgres", feature = "mysql"))]
#[tokio::test]
async fn bad_settings_of_databases_are_refused() {
    for (settings, option) in [
        (r#"{"backend": "sqlite"}"#, "location: is not one path"),
        (
            r#"{"backend": "sqlite", "location": ":memory:"}"#,
            "location: is not one path",
        ),
        (r#"{"backend": "postgres"}"#, "location: is not one server"),
        (
            r#"{"backend": "mysql", "location": ["a", "b"]}"#,
            "location: is not one server",
        ),
        (
            r#"{"backend": "mariadb", "location": "postgres://secret@h/db"}"#,
            "location: is a URL of another",
        ),
        (
            r#"{"backend": "postgresql", "location": "h/db", "options": {"table": "a b"}}"#,
            "table: is not",
        ),
        (
            r#"{"backend": "mysql", "location": "h/db", "options": {"max_connections": 0}}"#,
            "max_connections: is zero",
        ),
        (
            r#"{"backend": "mysql", "location": "h/db", "options": {"rot": 0}}"#,
            "rot: is not a setting",
        ),
    ] {
        let message = refusal(&format!(r#"{{"default": {settings}}}"#)).await;
        assert!(message.contains(option), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
    let good = r#"{"default": {"backend": "postgres", "location": "u:p@h/db",
                   "options": {"sslmode": "disable", "application_name": "a b"}}}"#;
    let shown = format!("{:?}", build(good).await.unwrap());
    assert!(!shown.contains("u:p"), "{shown}");
}

#[cfg(all(feature = "redis", feature = "memcached"))]
#[tokio::test]
async fn bad_settings_of_servers_are_refused() {
    for (settings, expected) in [
        (r#"{"backend": "redis"}"#, "location: names no server"),
        (
            r#"{"backend": "redis", "location": "http://x"}"#,
            "location: no Redis can be there",
        ),
        (
            r#"{"backend": "redis", "location": ["redis://a", "redis+cluster://b"]}"#,
            "location: mixes",
        ),
        (
            r#"{"backend": "redis", "location": "a", "options": {"connections": 0}}"#,
            "connections: must be more",
        ),
        (
            r#"{"backend": "redis", "location": "a", "options": {"operation_timeout": 0}}"#,
            "operation_timeout: is not a number of seconds",
        ),
        (
            r#"{"backend": "redis", "location": "a", "options": {"db": "x"}}"#,
            "db: is of the wrong type",
        ),
        (
            r#"{"backend": "redis", "location": "a", "options": {"pool": 3}}"#,
            "pool: is not a setting",
        ),
        (r#"{"backend": "memcached"}"#, "location: names no server"),
        (
            r#"{"backend": "memcached", "location": "a:b"}"#,
            "location: a server has a bad port",
        ),
        (
            r#"{"backend": "memcached", "location": "a;a:11211"}"#,
            "location: names a server twice",
        ),
        (
            r#"{"backend": "memcached", "location": "a", "options": {"username": "u"}}"#,
            "username: and password belong together",
        ),
        (
            r#"{"backend": "memcached", "location": 3}"#,
            "location: is neither",
        ),
    ] {
        let message = refusal(&format!(r#"{{"default": {settings}}}"#)).await;
        assert!(message.contains(expected), "{settings}: {message}");
        assert!(message.contains("\"default\""), "{message}");
    }
}

#[cfg(all(
    feature = "redis",
    feature = "memcached",
    feature = "postgres",
    feature = "mysql"
))]
#[tokio::test]
async fn no_store_shows_its_password() {
    for url in [
        "redis://user:hunter2@127.0.0.1:1/3?operation_timeout=0.3",
        "redis://127.0.0.1:1?username=user&password=hunter2&operation_timeout=0.3",
        "redis+cluster://user:hunter2@127.0.0.1:1?operation_timeout=0.3",
        "redis+sentinel://user:hunter2@127.0.0.1:1?sentinel_password=hunter2&operation_timeout=0.3",
        "memcached://user:hunter2@127.0.0.1:1?operation_timeout=0.3",
        "postgres://user:hunter2@127.0.0.1:1/x?operation_timeout=0.3",
        "mysql://user:hunter2@127.0.0.1:1/x?operation_timeout=0.3",
    ] {
        let settings = Settings::new().with_url("default", url).unwrap();
        let builder = Caches::builder().settings(settings);
        let mut shown = vec![format!("{builder:?}")];
        let caches = builder.build().await.unwrap();
        shown.push(format!("{caches:?}"));
        let cache = caches.default();
        let error = cache.get::<i32>("key-of-mine").await.unwrap_err();
        assert!(error.is_transient(), "{url}: {error:?}");
        let chain = anyhow::Error::from(error.clone());
        shown.push(format!("{error:?}{chain:#}"));
        let shown = shown.join(" ");
        for secret in ["hunter2", "key-of-mine"] {
            assert!(!shown.contains(secret), "{url}: {shown}");
        }
        for bad in [format!("{url}&nonsense=hunter2"), url.replace("//", "// /")] {
            let settings = Settings::new().with_url("default", &bad).unwrap();
            let refused = Caches::builder().settings(settings).build().await;
            if let Err(error) = refused {
                let chain = anyhow::Error::from(error.clone());
                let shown = format!("{error:?}{chain:#}");
                assert!(!shown.contains("hunter2"), "{shown}");
            }
        }
    }
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn memory_in_front_of_another_store_is_known_by_its_settings() {
    let caches = build(
        r#"{
            "default": {"backend": "tiered", "options": {"far": "shared", "near_ttl": 5}},
            "shared": {"backend": "memory"},
            "own": {"backend": "TIERED_NO", "options": {}}
        }"#,
    )
    .await;
    assert!(caches.unwrap_err().to_string().contains("TIERED_NO"));
    let caches = build(
        r#"{
            "default": {"BACKEND": "tiered", "OPTIONS": {"FAR": "shared", "NEAR_TTL": 5}},
            "shared": {"backend": "memory"},
            "twice": {"backend": "tiered", "options": {"far": "default"}},
            "url": {"backend": "tiered", "options": {"far": "memory://?max_entries=9"}}
        }"#,
    )
    .await
    .unwrap();
    let (near, far) = (caches.default(), caches.get("shared").unwrap());
    near.set("k", &1, Ttl::Default).await.unwrap();
    assert_eq!(far.get("k").await.unwrap(), Some(1), "it is the same store");
    assert!(far.delete("k").await.unwrap());
    assert_eq!(near.get("k").await.unwrap(), Some(1), "it is near");
    let twice = caches.get("twice").unwrap();
    assert_eq!(twice.get("k").await.unwrap(), Some(1));
    let url = caches.get("url").unwrap();
    assert_eq!(url.get::<u32>("k").await.unwrap(), None);
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn bad_settings_of_tiers_are_refused() {
    let cases = [
        ("{}", "far: is missing"),
        (
            r#"{"far": "nowhere"}"#,
            "far: is neither a URL nor the alias",
        ),
        (
            r#"{"far": "nothing://"}"#,
            "backend: \"nothing\" is not known",
        ),
        (
            r#"{"far": "memory://?timeout=5"}"#,
            "timeout: is not a setting",
        ),
        (r#"{"far": "memory://?size=5"}"#, "size: is not a setting"),
        (r#"{"far": "memory://?max_entries"}"#, "far: is no URL"),
        (r#"{"far": "default"}"#, "far: leads back to this cache"),
        (
            r#"{"far": "tiered://?far=default"}"#,
            "far: leads back to this cache",
        ),
        (
            r#"{"far": "memory://", "near_ttl": 0}"#,
            "near_ttl: is not a number of seconds",
        ),
        (
            r#"{"far": "memory://", "max_near_staleness": 1}"#,
            "max_near_staleness: needs a backplane",
        ),
        (
            r#"{"far": "memory://", "backplane": "memory://"}"#,
            "backplane: is no URL of Redis or PostgreSQL",
        ),
        (
            r#"{"far": "memory://", "channel": "c"}"#,
            "channel: is not a setting",
        ),
        (
            r#"{"far": "memory://", "max_bytes": 0}"#,
            "max_bytes: must be more than zero",
        ),
    ];
    for (options, reason) in cases {
        let json = format!(r#"{{"default": {{"backend": "tiered", "options": {options}}}}}"#);
        let refused = refusal(&json).await;
        assert!(refused.contains(reason), "{options}: {refused}");
        assert!(refused.contains("\"default\""), "{refused}");
    }
    let refused = refusal(r#"{"default": {"backend": "memory", "options": {"far": "a://"}}}"#);
    assert!(refused.await.contains("far: is not a setting"));
    let json = r#"{"default": {"backend": "tiered", "options": {"far": "b"}},
        "b": {"backend": "tiered", "options": {"far": "default"}}}"#;
    assert!(refusal(json).await.contains("far: leads back"));
    let json =
        r#"{"default": {"backend": "tiered", "location": "x", "options": {"far": "memory://"}}}"#;
    assert!(
        refusal(json)
            .await
            .contains("location: is not for this backend")
    );
}

#[cfg(all(feature = "memory", feature = "redis", feature = "postgres"))]
#[tokio::test]
async fn bad_backplanes_are_refused_and_no_password_is_shown() {
    for (url, channel, reason) in [
        ("redis://:secret@[bad", "c", "backplane: "),
        ("redis://:secret@host", "", "channel: is empty"),
        (
            "postgres://u:secret@host:bad",
            "c",
            "backplane: url: is no URL",
        ),
        ("postgresql://u:secret@host", "", "channel: is not a name"),
    ] {
        let json = format!(
            r#"{{"default": {{"backend": "tiered", "options": {{"far": "memory://",
                "backplane": "{url}", "channel": "{channel}"}}}}}}"#
        );
        let refused = refusal(&json).await;
        assert!(refused.contains(reason), "{url}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
}

#[tokio::test]
async fn tags_are_invalidated_in_all_caches_at_once() {
    let caches = Caches::new(Cache::new(Memory::new()))
        .with("template_fragments", Cache::new(Memory::new()))
        .with("none", Cache::new(Dummy));
    let write = async || {
        for alias in ["default", "template_fragments"] {
            let tagged = caches.get(alias).unwrap().with_tags(["posts"]);
            tagged.set("k", &1, Ttl::Default).await.unwrap();
        }
    };
    let read = async || {
        let mut found = Vec::new();
        for alias in ["default", "template_fragments"] {
            let cache = caches.get(alias).unwrap();
            found.push(cache.get::<u8>("k").await.unwrap());
        }
        found
    };
    write().await;
    caches.invalidate(["others"]).await.unwrap();
    assert_eq!(read().await, [Some(1); 2]);
    caches.invalidate(["posts"]).await.unwrap();
    assert_eq!(read().await, [None; 2]);
    write().await;
    caches.expire(["posts"]).await.unwrap();
    assert_eq!(read().await, [None; 2]);
}

#[cfg(any(feature = "file", feature = "sqlite"))]
#[tokio::test]
async fn where_a_path_is_needed_a_url_is_refused() {
    let backends = [
        ("file", cfg!(feature = "file")),
        ("sqlite", cfg!(feature = "sqlite")),
    ];
    for (backend, _) in backends.into_iter().filter(|(_, is_there)| *is_there) {
        let location = format!("{backend}:///var/cache/site");
        let settings =
            format!(r#"{{"default": {{"backend": "{backend}", "location": "{location}"}}}}"#);
        let bad = refusal(&settings).await;
        assert!(bad.contains("location: is a URL"), "{bad}");
    }
}
