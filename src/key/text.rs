//! The text of a key: shared by all who keep it, or lent by the place where keys are put together.
//!
//! Most keys are asked for once and dropped. What they are put together in is kept for the next one of the thread, so
//! that such a key allocates nothing and counts nobody.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;

use super::MAX_KEY_BYTES;

/// What is kept of a place where a key was put together, at most.
const MAX_KEPT_BYTES: usize = 1024;

/// What most keys need, before it is known whether they are too long.
const ROOM: usize = MAX_KEY_BYTES + 6;

thread_local! {
    static PLACE: Cell<String> = const { Cell::new(String::new()) };
}

#[derive(Debug)]
pub(super) enum Text {
    Shared(Arc<str>),
    Brief(Brief),
}

/// A text in the place where it was put together, which the next one gets when this one is dropped.
#[derive(Debug)]
pub(super) struct Brief(String);

impl Brief {
    /// An empty one.
    pub(super) fn new() -> Self {
        let mut text = PLACE.try_with(Cell::take).unwrap_or_default();
        text.clear();
        text.reserve(ROOM);
        Self(text)
    }

    pub(super) fn text_mut(&mut self) -> &mut String {
        &mut self.0
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        if self.0.capacity() <= MAX_KEPT_BYTES {
            // There is none in a thread that ends.
            let _ = PLACE.try_with(|place| place.set(std::mem::take(&mut self.0)));
        }
    }
}

impl Deref for Brief {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Text {
    /// The same, to keep.
    pub(super) fn shared(&self) -> Cow<'_, Arc<str>> {
        match self {
            Self::Shared(text) => Cow::Borrowed(text),
            Self::Brief(text) => Cow::Owned(Arc::from(&**text)),
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Shared(text) => text,
            Self::Brief(text) => text,
        }
    }
}

/// Who clones it keeps it.
impl Clone for Text {
    fn clone(&self) -> Self {
        Self::Shared(self.shared().into_owned())
    }
}

impl<T: Into<Arc<str>>> From<T> for Text {
    fn from(text: T) -> Self {
        Self::Shared(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(text: &str) -> Brief {
        let mut brief = Brief::new();
        brief.text_mut().push_str(text);
        brief
    }

    #[test]
    fn the_next_text_gets_the_place_of_the_last_one() {
        let first = brief("first");
        let place = first.as_ptr();
        drop(first);
        let second = brief("2nd");
        assert_eq!((&*second, second.as_ptr()), ("2nd", place));
        let other = brief("other");
        assert_eq!((&*second, &*other), ("2nd", "other"));
    }

    #[test]
    fn a_kept_text_outlives_its_place() {
        let text = Text::Brief(brief("kept"));
        let kept = text.clone();
        drop(text);
        assert_eq!((&*brief("later"), &*kept), ("later", "kept"));
    }

    #[test]
    fn a_large_place_is_not_kept() {
        drop(brief(&"x".repeat(MAX_KEPT_BYTES + 1)));
        assert!(Brief::new().text_mut().capacity() <= MAX_KEPT_BYTES);
    }
}
