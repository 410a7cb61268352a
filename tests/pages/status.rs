//! `Cache-Status` by RFC 9211, strictly, and whether what it claims is what happened.

use axum::http::HeaderMap;

/// What one cache says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) cache: String,
    pub(crate) hit: bool,
    pub(crate) fwd: Option<String>,
    pub(crate) fwd_status: Option<u16>,
    pub(crate) ttl: Option<i64>,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    pub(crate) detail: Option<String>,
}

/// A bare item of RFC 8941.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Integer(i64),
    Token(String),
    Text(String),
    Boolean(bool),
}

struct Parser<'t>(&'t [u8]);

/// The members of all lines, the one nearest to the origin first.
pub(crate) fn members(headers: &HeaderMap) -> Result<Vec<Member>, String> {
    let lines: Result<Vec<_>, _> = headers
        .get_all("cache-status")
        .iter()
        .map(|line| line.to_str())
        .collect();
    let text = lines.map_err(|_| "not ASCII".to_owned())?.join(", ");
    parse(&text).map_err(|error| format!("{error}: {text}"))
}

pub(crate) fn parse(text: &str) -> Result<Vec<Member>, String> {
    let mut parser = Parser(text.as_bytes());
    parser.spaces();
    let mut members = Vec::new();
    loop {
        members.push(parser.member()?);
        parser.white();
        if parser.0.is_empty() {
            return Ok(members);
        }
        parser.expect(b',')?;
        parser.white();
        if parser.0.is_empty() {
            return Err("a comma at the end".to_owned());
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        match self.next() {
            Some(next) if next == byte => Ok(()),
            other => Err(format!("{other:?} instead of {:?}", char::from(byte))),
        }
    }

    fn spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.next();
        }
    }

    fn white(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.next();
        }
    }

    fn take(&mut self, of: impl Fn(u8) -> bool) -> String {
        let mut taken = String::new();
        while let Some(byte) = self.peek().filter(|byte| of(*byte)) {
            taken.push(char::from(byte));
            self.next();
        }
        taken
    }

    fn item(&mut self) -> Result<Item, String> {
        match self.peek().ok_or("an item is missing")? {
            b'-' | b'0'..=b'9' => {
                let sign = if self.peek() == Some(b'-') {
                    self.next();
                    -1
                } else {
                    1
                };
                let digits = self.take(|byte| byte.is_ascii_digit());
                if digits.is_empty() || digits.len() > 15 || self.peek() == Some(b'.') {
                    return Err(format!("no integer: {digits}"));
                }
                let number: i64 = digits.parse().map_err(|_| "no integer")?;
                Ok(Item::Integer(sign * number))
            }
            b'"' => {
                self.next();
                let mut text = String::new();
                loop {
                    match self.next().ok_or("a string without end")? {
                        b'"' => return Ok(Item::Text(text)),
                        b'\\' => match self.next() {
                            Some(byte @ (b'"' | b'\\')) => text.push(char::from(byte)),
                            _ => return Err("a bad escape".to_owned()),
                        },
                        byte @ b' '..=b'~' => text.push(char::from(byte)),
                        _ => return Err("not printable".to_owned()),
                    }
                }
            }
            b'?' => {
                self.next();
                match self.next() {
                    Some(b'1') => Ok(Item::Boolean(true)),
                    Some(b'0') => Ok(Item::Boolean(false)),
                    _ => Err("no boolean".to_owned()),
                }
            }
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => Ok(Item::Token(self.take(|byte| {
                byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
            }))),
            other => Err(format!("no item: {:?}", char::from(other))),
        }
    }

    fn member(&mut self) -> Result<Member, String> {
        let mut member = Member {
            cache: match self.item()? {
                Item::Token(name) | Item::Text(name) => name,
                other => return Err(format!("no name of a cache: {other:?}")),
            },
            ..Member::default()
        };
        let mut seen = Vec::new();
        while self.peek() == Some(b';') {
            self.next();
            self.spaces();
            if !matches!(self.peek(), Some(b'a'..=b'z' | b'*')) {
                return Err("no key".to_owned());
            }
            let key = self.take(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
            });
            let value = if self.peek() == Some(b'=') {
                self.next();
                self.item()?
            } else {
                Item::Boolean(true)
            };
            if seen.contains(&key) {
                return Err(format!("{key} twice"));
            }
            member.set(&key, value)?;
            seen.push(key);
        }
        member.judge()
    }
}

impl Member {
    fn set(&mut self, key: &str, value: Item) -> Result<(), String> {
        match (key, value) {
            ("hit", Item::Boolean(value)) => self.hit = value,
            ("stored", Item::Boolean(value)) => self.stored = value,
            ("collapsed", Item::Boolean(value)) => self.collapsed = value,
            ("fwd", Item::Token(value)) => {
                let known = [
                    "bypass",
                    "method",
                    "uri-miss",
                    "vary-miss",
                    "miss",
                    "request",
                    "stale",
                    "partial",
                ];
                if !known.contains(&value.as_str()) {
                    return Err(format!("fwd={value}"));
                }
                self.fwd = Some(value);
            }
            ("fwd-status", Item::Integer(value @ 100..=999)) => {
                self.fwd_status = u16::try_from(value).ok();
            }
            ("ttl", Item::Integer(value)) => self.ttl = Some(value),
            ("detail", Item::Token(value) | Item::Text(value)) => self.detail = Some(value),
            ("key", Item::Text(_)) => {}
            (key, value) => return Err(format!("{key}={value:?}")),
        }
        Ok(())
    }

    /// RFC 9211 sections 2.1 to 2.6: what excludes what.
    fn judge(self) -> Result<Self, String> {
        let forwarded = self.fwd.is_some();
        let only_when_forwarded = self.fwd_status.is_some() || self.stored || self.collapsed;
        if self.hit && forwarded {
            return Err("hit and fwd".to_owned());
        }
        if only_when_forwarded && !forwarded {
            return Err("said of nothing that was forwarded".to_owned());
        }
        if !self.hit && !forwarded && self.detail.is_none() {
            return Err("says nothing".to_owned());
        }
        Ok(self)
    }

    pub(crate) fn is_answer(&self) -> bool {
        self.hit || self.collapsed || self.fwd.is_none()
    }
}

/// What happened to a request, in fact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fact {
    /// How often a handler ran for this very request.
    pub(crate) runs: usize,
    /// What the last one answered.
    pub(crate) inner: Option<u16>,
    /// What the client got.
    pub(crate) sent: u16,
}

/// Whether the claims of all caches on the way agree with what happened.
pub(crate) fn is_true(members: &[Member], fact: Fact) -> Result<(), String> {
    let Some((innermost, outer)) = members.split_first() else {
        return Err("no member".to_owned());
    };
    if outer.iter().any(Member::is_answer) {
        return Err("answered outside of one that was asked".to_owned());
    }
    // What is made in the background is made for later requests.
    let refreshed = innermost.detail.as_deref() == Some("stale-while-revalidate");
    let runs = usize::from(!innermost.is_answer());
    if fact.runs != runs && !refreshed {
        return Err(format!("the handler ran {} times", fact.runs));
    }
    let forwarded = innermost.fwd.is_some() && !innermost.collapsed;
    // RFC 9211 section 2.3: without it, the next hop is taken to have said what is sent.
    let claimed = innermost.fwd_status.unwrap_or(if members.len() == 1 {
        fact.sent
    } else {
        return Ok(());
    });
    match fact.inner {
        Some(inner) if forwarded && inner != claimed => {
            Err(format!("{claimed} is claimed, and it was {inner}"))
        }
        _ => Ok(()),
    }
}
