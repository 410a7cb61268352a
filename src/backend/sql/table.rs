//! The name of the table: the one text of a statement that comes from outside.

use crate::error::{Error, Result};

/// The longest name, so that its index has a name that PostgreSQL takes whole.
const MAX_BYTES: usize = 54;

/// A name of ASCII letters, digits and underscores, perhaps after one such schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        if !schema.is_none_or(is_identifier) || !is_identifier(name) {
            return Err(Error::config(format!(
                "table: is not `name` or `schema.name` of letters, digits and underscores, of \
                 {MAX_BYTES} at most each"
            )));
        }
        Ok(Self {
            schema: schema.map(ToOwned::to_owned),
            name: name.to_owned(),
        })
    }

    pub(super) fn has_schema(&self) -> bool {
        self.schema.is_some()
    }

    pub(super) fn quoted(&self, quote: char) -> String {
        let name = format!("{quote}{}{quote}", self.name);
        match &self.schema {
            Some(schema) => format!("{quote}{schema}{quote}.{name}"),
            None => name,
        }
    }

    /// The name of the index by expiry: an index lies in the schema of its table.
    pub(super) fn index(&self, quote: char) -> String {
        format!("{quote}{}_expires{quote}", self.name)
    }
}

impl Default for TableName {
    fn default() -> Self {
        Self {
            schema: None,
            name: "axum_cache".to_owned(),
        }
    }
}

fn is_identifier(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    begins && text.chars().all(is_word) && text.len() <= MAX_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken() {
        for good in ["t", "_t1", "app.cache_entries"] {
            assert!(TableName::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(55);
        for bad in [
            "", ".", "a.", ".a", "a.b.c", "1a", "a b", "a\"", "a`", "a;b", "ä", &long,
        ] {
            assert!(TableName::parse(bad).is_err(), "{bad}");
        }
    }
}
