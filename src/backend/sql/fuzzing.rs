//! A door for the fuzz targets.

use super::table::TableName;

/// The name of a table and that of its index, as they stand in statements.
pub fn table(text: &str) -> Option<(String, String)> {
    let name = TableName::parse(text).ok()?;
    Some((name.quoted('"'), name.index('"')))
}
