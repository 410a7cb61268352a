//! What of a request selects its page, and what of it a handler is shown.
//!
//! # Invariants
//!
//! - What a rule leaves out of the key is not shown to the handler whose response is stored.
//! - Two requests with equal keys have the same normalised inputs; only declared rules make
//!   different inputs equal.

mod accept;
mod claims;
mod cookies;
mod declared;
mod device;
mod encoding;
mod locale;
mod locality;
mod proxies;
mod query;
mod show;
mod variant;

pub(super) use self::declared::Inputs;
pub use self::device::{Device, DeviceClass};
pub use self::encoding::EncodingClass;
pub use self::locale::Locale;
pub use self::locality::{Language, TimeZone};
pub use self::proxies::{PeerAddr, TrustedProxies};
pub(super) use self::query::Query;
pub use self::variant::{Head, Variant, VariantFn};
