//! The shape of the source: who may import whom, how long a file may be, where crates live.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The level of each module: a module names no other of a higher level, nor, on the lowest
/// levels, one of its own that is not named here as allowed.
const LEVELS: &[(&str, u8)] = &[
    ("clock", 1),
    ("codec", 1),
    ("entry", 1),
    ("error", 1),
    ("fence", 1),
    ("flight", 1),
    ("key", 1),
    ("observe", 1),
    ("policy", 1),
    ("semantics", 1),
    ("side_by_side", 1),
    ("sync", 1),
    ("tag", 1),
    ("ttl", 1),
    ("backend", 2),
    ("control", 2),
    ("cache", 3),
    ("caches", 3),
    ("layer", 4),
    ("conformance", 4),
    ("extract", 5),
    ("fragment", 5),
    ("fuzzing", 6),
    ("model", 6),
    ("page", 5),
    ("testing", 5),
];

/// Where each foreign crate may be named.
const HOMES: &[(&str, &[&str])] = &[
    ("askama", &["fragment"]),
    ("axum", &["extract", "page", "layer/target.rs"]),
    ("bb8_redis", &["backend/redis"]),
    (
        "blake3",
        &[
            "backend/file",
            "entry",
            "key",
            "layer/fill.rs",
            "layer/stored.rs",
        ],
    ),
    ("ketama", &["backend/memcached"]),
    ("md5", &["key"]),
    ("metrics", &["observe"]),
    ("postcard", &["entry"]),
    ("quick_cache", &["backend/memory"]),
    ("redis", &["backend/redis"]),
    ("rustix", &["backend/file"]),
    ("sqlx", &["backend/sql"]),
    ("toml", &["caches"]),
    ("tracing", &["observe"]),
    (
        "xxhash_rust",
        &[
            "backend/file",
            "backend/redis/history.rs",
            "entry",
            "fragment",
            "key",
            "layer/recurring.rs",
        ],
    ),
    ("zstd", &["entry"]),
];

/// The stores, which know nothing of each other.
///
/// But for `tiered`: to put memory in front of another store is what it is for. It names that, since what
/// is near is decoded once and read without a future, and of the far store the object-safe twin alone.
const STORES: &[(&str, &[&str])] = &[
    ("dummy", &[]),
    ("file", &[]),
    ("memcached", &[]),
    ("memory", &[]),
    ("redis", &[]),
    ("sql", &[]),
    ("tiered", &["memory"]),
];

/// Code lines, without tests, comments and blank lines.
const MAX_LINES: usize = 400;

struct Source {
    /// Relative to `src`.
    path: String,
    text: String,
}

impl Source {
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    /// The lines of code before the tests, without comments.
    fn code(&self) -> impl Iterator<Item = &str> {
        let inline_tests = "#[cfg(test)]\nmod tests {";
        let code = self.text.split(inline_tests).next().unwrap();
        code.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&src).unwrap();
                found.push(Source {
                    path: relative.to_str().unwrap().to_owned(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    assert!(
        found.len() > 20,
        "the sources are not where they are looked for"
    );
    found
}

#[test]
fn every_file_begins_with_its_role() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{}", source.path);
    }
}

#[test]
fn no_file_is_too_long() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.code().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines of code", source.path);
    }
}

#[test]
fn no_module_names_a_higher_one() {
    let levels: BTreeMap<_, _> = LEVELS.iter().copied().collect();
    for source in sources() {
        let module = source.module();
        if source.is_test() || ["lib", "docs"].contains(&module) {
            continue;
        }
        let level = levels
            .get(module)
            .unwrap_or_else(|| panic!("{module} has no level"));
        for line in source.code() {
            for named in line.split("crate::").skip(1) {
                let named: String = named
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if let Some(other) = levels.get(named.as_str()) {
                    assert!(other <= level, "{}: {line}", source.path);
                }
            }
        }
    }
}

#[test]
fn stores_never_name_each_other() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        let Some((store, may_name)) = STORES.iter().find(|(store, _)| {
            let path = source.path.strip_prefix("backend/");
            let rest = path.and_then(|path| path.strip_prefix(store));
            rest.is_some_and(|rest| rest.starts_with(['/', '.']))
        }) else {
            continue;
        };
        for (other, _) in STORES {
            if other == store || may_name.contains(other) {
                continue;
            }
            let module = format!("backend::{other}::");
            let kind = format!("{}{}", other[..1].to_uppercase(), &other[1..]);
            for line in source.code() {
                let code = line.split('"').next().unwrap();
                let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                let is_named = line.contains(&module) || words.any(|word| word == kind);
                assert!(!is_named, "{}: {line}", source.path);
            }
        }
    }
}

#[test]
fn rules_are_pure() {
    for source in sources() {
        if source.module() == "semantics" && !source.is_test() {
            for line in source.code() {
                let own = line.contains("crate::semantics") || !line.contains("crate::");
                let pure = !["tokio", "::now()", "std::fs", "std::net", "async "]
                    .iter()
                    .any(|impure| line.contains(impure));
                assert!(own && pure, "{}: {line}", source.path);
            }
        }
    }
}

#[test]
fn each_foreign_crate_has_one_home() {
    for source in sources() {
        if source.is_test() || source.module() == "docs" {
            continue;
        }
        for (krate, homes) in HOMES {
            let is_home = homes.iter().any(|home| {
                let rest = source.path.strip_prefix(home);
                rest.is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
            });
            let names = |line: &str| {
                [
                    format!("use {krate}::"),
                    format!(" {krate}::"),
                    format!("({krate}::"),
                ]
                .iter()
                .any(|form| format!(" {line}").contains(form.as_str()))
            };
            let line = source.code().find(|line| names(line));
            assert!(is_home || line.is_none(), "{}: {line:?}", source.path);
        }
    }
}
