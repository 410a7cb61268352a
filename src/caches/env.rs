//! Settings from environment variables and the file they name.

use std::ffi::OsString;
use std::path::Path;

use super::DEFAULT_ALIAS;
use super::settings::Settings;
use crate::error::{Error, Result};

const FILE: &str = "CACHES";
const URL: &str = "CACHE_URL";
const URL_OF_ALIAS: &str = "CACHE_URL_";

pub(super) fn settings(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings> {
    let mut file = None;
    let mut urls = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let alias = match name {
            FILE => {
                file = Some(value);
                continue;
            }
            URL => DEFAULT_ALIAS.to_owned(),
            _ => match name.strip_prefix(URL_OF_ALIAS) {
                Some(alias) => alias.to_ascii_lowercase(),
                None => continue,
            },
        };
        let url = value
            .into_string()
            .map_err(|_| Error::config(format!("{name}: is not UTF-8")))?;
        urls.push((alias, url));
    }
    let settings = match file {
        Some(path) => read(Path::new(&path))?,
        None => Settings::new(),
    };
    urls.into_iter()
        .try_fold(settings, |settings, (alias, url)| {
            settings.with_url(alias, &url)
        })
        .map(Settings::or_memory)
}

fn read(path: &Path) -> Result<Settings> {
    let fail = |reason: &str| Error::config(format!("{FILE}: {}: {reason}", path.display()));
    let text =
        std::fs::read_to_string(path).map_err(|error| fail("cannot be read").with_source(error))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Settings::from_json(&text),
        #[cfg(feature = "toml")]
        Some("toml") => Settings::from_toml(&text),
        #[cfg(not(feature = "toml"))]
        Some("toml") => Err(fail("needs the feature `toml` of axum-cache")),
        _ => Err(fail("is neither .toml nor .json")),
    }
    .map_err(|error| fail(&error.to_string()).with_source(error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Vec<String>> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Ok(settings(variables)?.into_aliases().into_keys().collect())
    }

    #[test]
    fn process_memory_when_nothing_is_set() {
        assert_eq!(from(&[("PATH", "/bin")]).unwrap(), ["default"]);
    }

    #[test]
    fn urls_name_aliases() {
        let set = [("CACHE_URL", "memory://"), ("CACHE_URL_PAGES", "dummy://")];
        assert_eq!(from(&set).unwrap(), ["default", "pages"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_or_understood_is_an_error() {
        for (path, reason) in [
            ("/nonexistent/caches.json", "cannot be read"),
            ("LICENSE-MIT", "neither"),
        ] {
            let error = from(&[("CACHES", path)]).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
            assert!(path != "LICENSE-MIT" || error.contains(reason), "{error}");
        }
    }
}
