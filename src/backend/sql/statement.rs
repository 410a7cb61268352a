//! Statements: their text in one dialect, and what is bound where.

use std::sync::Arc;

/// A value for a place in a statement.
#[derive(Clone, Copy)]
pub(super) enum Bind<'a> {
    Key(&'a str),
    Bytes(Option<&'a [u8]>),
    Int(Option<i64>),
}

impl Bind<'_> {
    /// Bytes on the wire, about.
    #[cfg(feature = "mysql")]
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Key(key) => key.len() + 4,
            Self::Bytes(bytes) => bytes.map_or(0, <[u8]>::len) + 9,
            Self::Int(_) => 8,
        }
    }
}

/// A place in a statement, written `:name` in a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Key,
    To,
    Value,
    Num,
    /// The value, or the number, that an entry has to have to be replaced.
    Expected,
    /// What is left to live, in milliseconds.
    Ttl,
    /// The time of this process, for a store without a clock of its own.
    Now,
    Delta,
    Low,
    High,
    /// Expired by then, in milliseconds since the epoch.
    Due,
    Limit,
}

const SLOTS: [(&str, Slot); 12] = [
    ("key", Slot::Key),
    ("to", Slot::To),
    ("value", Slot::Value),
    ("num", Slot::Num),
    ("expected", Slot::Expected),
    ("ttl", Slot::Ttl),
    ("now", Slot::Now),
    ("delta", Slot::Delta),
    ("low", Slot::Low),
    ("high", Slot::High),
    ("due", Slot::Due),
    ("limit", Slot::Limit),
];

/// A statement, ready to be bound and sent.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four answers that do not hang together"
)]
pub(super) struct Statement {
    pub(super) text: Arc<str>,
    /// What goes where; with the number of the repetition.
    pub(super) slots: Vec<(Slot, usize)>,
    /// Whether it answers with rows, rather than with how many it changed.
    pub(super) has_rows: bool,
    pub(super) writes: bool,
    /// Whether the outcome is the same if it runs twice, so that it may be sent again when a
    /// connection broke and nobody knows whether it ran.
    pub(super) repeatable: bool,
    /// Whether connections keep it prepared.
    pub(super) kept: bool,
}

/// What the templates of a dialect are filled with.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    /// The table, quoted.
    pub(super) table: String,
    /// The index of the table, quoted.
    pub(super) index: String,
    /// The present in milliseconds since the epoch, as an expression.
    pub(super) now: &'static str,
    /// Whether places are `$1` rather than `?`.
    pub(super) numbered: bool,
}

impl Filling {
    /// Fills the names in, and leaves the places as they are.
    pub(super) fn names(&self, template: &str) -> String {
        template
            .replace("{live}", "(expires IS NULL OR expires > {now})")
            .replace("{expiry}", "{now} + :ttl")
            .replace("{table}", &self.table)
            .replace("{index}", &self.index)
            .replace("{now}", self.now)
    }

    pub(super) fn statement(&self, template: &str) -> Statement {
        self.repeated(template, 1)
    }

    /// A statement in which what stands in `[` and `]` is repeated, with commas between.
    pub(super) fn repeated(&self, template: &str, times: usize) -> Statement {
        let named = self.names(template);
        let mut text = String::with_capacity(named.len() + times * 16);
        let mut slots = Vec::new();
        if let Some((before, rest)) = named.split_once('[')
            && let Some((section, after)) = rest.split_once(']')
        {
            self.places(before, 0, &mut text, &mut slots);
            for time in 0..times {
                if time > 0 {
                    text.push_str(", ");
                }
                self.places(section, time, &mut text, &mut slots);
            }
            self.places(after, 0, &mut text, &mut slots);
        } else {
            self.places(&named, 0, &mut text, &mut slots);
        }
        let is_read = text.starts_with("SELECT");
        Statement {
            has_rows: is_read || text.contains(" RETURNING num"),
            writes: !is_read,
            repeatable: true,
            kept: true,
            text: text.into(),
            slots,
        }
    }

    fn places(
        &self,
        template: &str,
        time: usize,
        text: &mut String,
        slots: &mut Vec<(Slot, usize)>,
    ) {
        let mut rest = template;
        while let Some(colon) = rest.find(':') {
            let (before, after) = rest.split_at(colon);
            let end = after[1..]
                .find(|c: char| !c.is_ascii_lowercase())
                .map_or(after.len(), |end| end + 1);
            let slot = SLOTS.iter().find(|(name, _)| *name == &after[1..end]);
            text.push_str(before);
            if let Some((_, slot)) = slot {
                slots.push((*slot, time));
                if self.numbered {
                    text.push('$');
                    text.push_str(&slots.len().to_string());
                } else {
                    text.push('?');
                }
            } else {
                text.push_str(&after[..end]);
            }
            rest = &after[end..];
        }
        text.push_str(rest);
    }
}

impl Statement {
    pub(super) fn once(mut self) -> Self {
        self.repeatable = false;
        self
    }

    pub(super) fn not_kept(mut self) -> Self {
        self.kept = false;
        self
    }

    /// The values in the order of the places.
    pub(super) fn binds<'a>(&self, bind: impl Fn(Slot, usize) -> Bind<'a>) -> Vec<Bind<'a>> {
        self.slots
            .iter()
            .map(|(slot, time)| bind(*slot, *time))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_in_order_and_sections_repeated() {
        let filling = Filling {
            table: "t".to_owned(),
            index: "i".to_owned(),
            now: "now()::bigint",
            numbered: true,
        };
        let statement = filling.repeated("INSERT INTO {table} VALUES [(:key, {expiry})] x", 2);
        assert_eq!(
            &*statement.text,
            "INSERT INTO t VALUES ($1, now()::bigint + $2), ($3, now()::bigint + $4) x"
        );
        assert_eq!(
            statement.slots,
            [
                (Slot::Key, 0),
                (Slot::Ttl, 0),
                (Slot::Key, 1),
                (Slot::Ttl, 1)
            ]
        );
        assert!(statement.writes && !statement.has_rows);
    }
}
