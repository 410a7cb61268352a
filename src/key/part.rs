//! Parts of a composed key, written so that different parts never make the same text.
//!
//! The grammar, in which every production is distinct by its first byte or its shape:
//! integers are plain decimal; texts are themselves with `%`, `:`, `(`, `)`, `,`, spaces and
//! control characters percent-escaped, and with a `'` in front where they would read as
//! something else; `~` is `None`, `~t` and `~f` are booleans; groups stand in parentheses;
//! parts are joined by `:`.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, PercentEncode, utf8_percent_encode};

/// Everything that means something in the grammar, or that some store refuses in a key.
const RESERVED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'%')
    .add(b':')
    .add(b'(')
    .add(b')')
    .add(b',');

pub(super) fn escape(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

/// A value that can be part of a key.
///
/// Implement it for your own identifiers by writing what makes them distinct:
///
/// ```
/// use axum_cache::key;
/// use axum_cache::key::{KeyPart, KeyWriter};
///
/// struct UserId(u64);
///
/// impl KeyPart for UserId {
///     fn write_key(&self, writer: &mut KeyWriter) {
///         self.0.write_key(writer);
///     }
/// }
/// assert_eq!(key!("user", UserId(7)), "user:7");
/// ```
///
/// # Django
///
/// The `vary_on` arguments of `{% cache %}`, which are told apart by their text alone: there, `1`
/// and `"1"`, or `None` and `"None"`, share a key.
pub trait KeyPart {
    /// Writes exactly one value.
    fn write_key(&self, writer: &mut KeyWriter);
}

/// Collects the parts of a key; see [`key!`](crate::key!).
#[derive(Clone, Debug, Default)]
pub struct KeyWriter {
    text: String,
    verbatim: bool,
    between: bool,
}

impl KeyWriter {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one part.
    pub fn part<P: KeyPart + ?Sized>(&mut self, part: &P) {
        if self.between {
            self.text.push(':');
        }
        self.between = true;
        let start = self.text.len();
        part.write_key(self);
        debug_assert!(
            self.verbatim || self.text.len() > start,
            "a part writes something"
        );
    }

    /// Writes a text.
    pub fn text(&mut self, text: &str) {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let reads_as_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
        if reads_as_integer || text.starts_with(['\'', '~']) {
            self.text.push('\'');
        }
        self.put(escape(text));
    }

    /// Writes an integer.
    pub fn integer(&mut self, integer: i128) {
        self.put(integer);
    }

    /// Writes `true` or `false`.
    pub fn boolean(&mut self, value: bool) {
        self.text.push_str(if value { "~t" } else { "~f" });
    }

    /// Writes the absence of a value, or the value; never the same for both.
    pub fn option<P: KeyPart + ?Sized>(&mut self, value: Option<&P>) {
        let start = self.text.len();
        match value {
            None => self.text.push('~'),
            Some(value) => {
                value.write_key(self);
                if self.text[start..].starts_with('~') {
                    self.text.insert(start, '~');
                }
            }
        }
    }

    /// Writes several parts as one.
    pub fn group(&mut self, parts: impl FnOnce(&mut Self)) {
        self.text.push('(');
        let outer = std::mem::replace(&mut self.between, false);
        parts(self);
        self.between = outer;
        self.text.push(')');
    }

    /// Makes `text` the whole key, as it is, whatever else is written: for keys that another
    /// program chose. That they are distinct is then the caller's business.
    pub fn verbatim(&mut self, text: &str) {
        self.verbatim = true;
        text.clone_into(&mut self.text);
    }

    /// The key.
    pub fn finish(self) -> String {
        self.text
    }

    /// Whether [`verbatim`](Self::verbatim) was called.
    #[cfg(feature = "askama")]
    pub(crate) fn is_verbatim(&self) -> bool {
        self.verbatim
    }

    fn put(&mut self, value: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{value}");
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl KeyPart for $integer {
            fn write_key(&self, writer: &mut KeyWriter) {
                writer.put(self);
            }
        }
    )*};
}

integers!(
    i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize
);

macro_rules! texts {
    ($($text:ty),*) => {$(
        impl KeyPart for $text {
            fn write_key(&self, writer: &mut KeyWriter) {
                writer.text(self);
            }
        }
    )*};
}

texts!(str, String, Cow<'_, str>);

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<P: KeyPart + ?Sized> KeyPart for $pointer {
            fn write_key(&self, writer: &mut KeyWriter) {
                (**self).write_key(writer);
            }
        }
    )*};
}

pointers!(&P, &mut P, Box<P>, Rc<P>, Arc<P>);

impl KeyPart for bool {
    fn write_key(&self, writer: &mut KeyWriter) {
        writer.boolean(*self);
    }
}

impl KeyPart for char {
    fn write_key(&self, writer: &mut KeyWriter) {
        writer.text(self.encode_utf8(&mut [0; 4]));
    }
}

impl<P: KeyPart> KeyPart for Option<P> {
    fn write_key(&self, writer: &mut KeyWriter) {
        writer.option(self.as_ref());
    }
}

impl<P: KeyPart> KeyPart for [P] {
    fn write_key(&self, writer: &mut KeyWriter) {
        writer.group(|writer| self.iter().for_each(|part| writer.part(part)));
    }
}

impl<P: KeyPart> KeyPart for Vec<P> {
    fn write_key(&self, writer: &mut KeyWriter) {
        self.as_slice().write_key(writer);
    }
}

impl<P: KeyPart, const N: usize> KeyPart for [P; N] {
    fn write_key(&self, writer: &mut KeyWriter) {
        self.as_slice().write_key(writer);
    }
}

macro_rules! tuples {
    ($($name:ident)*) => {
        impl<$($name: KeyPart),*> KeyPart for ($($name,)*) {
            fn write_key(&self, writer: &mut KeyWriter) {
                #[allow(non_snake_case, reason = "the parameters name the fields")]
                let ($($name,)*) = self;
                writer.group(|writer| { $( writer.part($name); )* });
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
