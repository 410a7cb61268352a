//! The settings of a cache, or the options of a backend: each is taken once, and none is left.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Named settings, of which what nobody took is refused.
pub(super) struct Taken {
    pub(super) alias: String,
    rest: Mutex<Map<String, Value>>,
}

impl Taken {
    /// Names may be written in Django's capitals.
    pub(super) fn new(alias: &str, settings: Map<String, Value>) -> Self {
        let rest = settings
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        Self {
            alias: alias.to_owned(),
            rest: Mutex::new(rest),
        }
    }

    pub(super) fn take<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = rest.remove(name) else {
            return Ok(None);
        };
        let plain = serde_json::from_value(value.clone());
        let parsed = match (&plain, &value) {
            // URLs hold nothing but texts.
            (Err(_), Value::String(text)) => serde_json::from_str(text).or(plain),
            _ => plain,
        };
        // Its own error would show the value, which may be a secret.
        let parsed = parsed.map_err(|_| self.bad(name, "is of the wrong type"));
        parsed.map(Some)
    }

    /// A number of seconds, fractions too, and more than zero.
    pub(super) fn take_seconds(&self, name: &str) -> Result<Option<Duration>> {
        let Some(seconds) = self.take(name)? else {
            return Ok(None);
        };
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|duration| !duration.is_zero())
            .map(Some)
            .ok_or_else(|| self.bad(name, "is not a number of seconds above zero"))
    }

    pub(super) fn bad(&self, option: &str, reason: &str) -> Error {
        Error::config(format!("cache {:?}: {option}: {reason}", self.alias))
    }

    pub(super) fn refuse_rest(&self) -> Result<()> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        match rest.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.bad(name, "is not a setting of this backend")),
        }
    }
}
