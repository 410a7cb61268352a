//! The kind of device, for a request.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};

use super::variant::{Head, Variant};

static FIELDS: [HeaderName; 1] = [USER_AGENT];

/// Parts of the names of programs that fetch pages for no reader.
const BOTS: &[&str] = &[
    "bot",
    "crawl",
    "spider",
    "slurp",
    "preview",
    "facebookexternalhit",
];

/// Parts of the names of browsers on telephones.
const MOBILES: &[&str] = &["mobi", "iphone", "ipod", "opera mini", "windows phone"];

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// A telephone.
    Mobile,
    /// Whatever is none of the others.
    Desktop,
    /// A program that fetches pages for no reader, such as a search engine's.
    Bot,
}

impl Device {
    /// The kind of device that sent a request with these fields, by its `User-Agent`. It is the
    /// same for the fields that a handler behind a [`DeviceClass`] is shown.
    pub fn of(headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        let agent = agent.unwrap_or_default();
        let names = |parts: &[&str]| parts.iter().any(|part| contains(agent, part));
        if names(BOTS) {
            Self::Bot
        } else if names(MOBILES) {
            Self::Mobile
        } else {
            Self::Desktop
        }
    }

    /// Its name: `Mobile`, `Desktop` or `Bot`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mobile => "Mobile",
            Self::Desktop => "Desktop",
            Self::Bot => "Bot",
        }
    }
}

fn contains(text: &[u8], part: &str) -> bool {
    let mut windows = text.windows(part.len());
    windows.any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The variant of [`Device`]s, by `User-Agent`. The handler is shown the name of the device as the
/// `User-Agent`, and responses vary on that field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceClass;

impl Variant for DeviceClass {
    fn name(&self) -> &'static str {
        "device"
    }

    fn fields(&self) -> &[HeaderName] {
        &FIELDS
    }

    fn value(&self, head: &Head<'_>) -> String {
        Device::of(head.headers).to_string()
    }

    fn normalize(&self, value: &str, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(USER_AGENT, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_classed_and_classes_are_again() {
        for (agent, device) in [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148 Safari/604.1",
                Device::Mobile,
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) Chrome/130.0.0.0 Mobile Safari/537.36",
                Device::Mobile,
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Firefox/130.0",
                Device::Desktop,
            ),
            (
                "Mozilla/5.0 (Linux; Android 6.0.1) Mobile Safari/537.36 (compatible; Googlebot/2.1)",
                Device::Bot,
            ),
            ("", Device::Desktop),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, HeaderValue::from_static(agent));
            assert_eq!(Device::of(&headers), device, "{agent}");
            DeviceClass.normalize(device.as_str(), &mut headers);
            assert_eq!(Device::of(&headers), device);
        }
        assert_eq!(Device::of(&HeaderMap::new()), Device::Desktop);
    }
}
