//! A door for the fuzz targets.

use redis::{Value, parse_redis_value};

use super::{reply, scan};
use crate::error::Error;

/// What is made of an answer.
pub fn answer(bytes: &[u8]) -> Option<Vec<String>> {
    let answer = parse_redis_value(bytes).ok()?;
    let all = || reply::one(answer.clone());
    let said = |error: &Error| {
        let lost = reply::is_lost_call(error);
        format!(
            "{error} {:?} {:?} {lost}",
            reply::code(error),
            reply::reason(error)
        )
    };
    let mut made = vec![
        format!("{:?}", reply::entry(all()).map_err(|error| said(&error))),
        format!("{:?}", reply::int(all()).map_err(|error| said(&error))),
        format!("{:?}", reply::is_some(all()).map_err(|error| said(&error))),
        format!("{:?}", reply::done(all()).map_err(|error| said(&error))),
        format!("{:?}", super::lifetime(all()).map_err(|error| said(&error))),
    ];
    let many: Vec<Value> = reply::array(all()).unwrap_or_default();
    let many = many
        .into_iter()
        .map(|one| format!("{:?}", reply::one(one).map_err(|e| said(&e))));
    made.extend(many);
    Some(made)
}

/// The pattern of all keys that begin so.
pub fn pattern(prefix: &str) -> Vec<u8> {
    scan::pattern(prefix)
}
