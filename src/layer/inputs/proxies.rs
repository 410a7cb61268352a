//! Which peers are believed when they say what the client asked for.

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The address of the peer that sent a request, put into its extensions by a server other than
/// Axum's, or by a layer in front of the cache that knows better. It goes before Axum's
/// `ConnectInfo<SocketAddr>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(IpAddr);

impl PeerAddr {
    /// The peer at this address.
    pub fn new(address: IpAddr) -> Self {
        Self(address)
    }

    /// The address.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

/// The peers whose `X-Forwarded-Proto`, `X-Forwarded-Host` and `Forwarded` give the scheme and
/// the authority of a page; see [`CacheLayer::trusted_proxies`](crate::CacheLayer::trusted_proxies).
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Trust);

#[derive(Clone, Debug, Default)]
enum Trust {
    #[default]
    None,
    All,
    Networks(Arc<[Network]>),
}

impl TrustedProxies {
    /// No peer: the default.
    pub fn none() -> Self {
        Self(Trust::None)
    }

    /// Every peer: for servers that nothing but a proxy can reach.
    pub fn all() -> Self {
        Self(Trust::All)
    }

    /// The peers in these networks: addresses, or addresses with the length of a prefix, such as
    /// `10.0.0.0/8` and `fd00::/8`.
    ///
    /// The address of a peer is its [`PeerAddr`], or with the feature `connect-info` the one that
    /// Axum's `into_make_service_with_connect_info::<SocketAddr>` leaves. A request with neither is
    /// from a peer that is not trusted.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if a network cannot be parsed.
    ///
    /// # Example
    ///
    /// ```
    /// use axum_cache::layer::TrustedProxies;
    ///
    /// assert!(TrustedProxies::networks(["10.0.0.0/8", "::1"]).is_ok());
    /// assert!(TrustedProxies::networks(["10.0.0.0/33"]).is_err());
    /// ```
    pub fn networks<N: AsRef<str>>(networks: impl IntoIterator<Item = N>) -> Result<Self> {
        let networks = networks
            .into_iter()
            .map(|text| {
                let text = text.as_ref();
                Network::parse(text).ok_or_else(|| {
                    Error::new(ErrorKind::Config).with_message(format!("no network: {text}"))
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self(Trust::Networks(networks)))
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self.0, Trust::None)
    }

    /// Whether the peer is trusted. Its address is asked for only if it matters.
    pub(super) fn trusts(&self, peer: impl FnOnce() -> Option<IpAddr>) -> bool {
        match &self.0 {
            Trust::None => false,
            Trust::All => true,
            Trust::Networks(networks) => {
                peer().is_some_and(|peer| networks.iter().any(|network| network.contains(peer)))
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().ok()?;
        let width = width(address);
        let prefix = prefix.unwrap_or(width);
        (prefix <= width).then_some(Self { address, prefix })
    }

    fn contains(&self, peer: IpAddr) -> bool {
        // A socket for both families gives IPv4 addresses as mapped ones.
        let same_family = |peer: &IpAddr| peer.is_ipv4() == self.address.is_ipv4();
        [peer, peer.to_canonical()]
            .iter()
            .filter(|peer| same_family(peer))
            .any(|peer| {
                let differing = bits(*peer) ^ bits(self.address);
                let rest = width(self.address) - self.prefix;
                differing.checked_shr(rest).unwrap_or(0) == 0
            })
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn peers_are_in_networks_or_not() {
        let trusts = |networks: &[&str], peer: &str| {
            let peer: IpAddr = peer.parse().unwrap();
            let proxies = TrustedProxies::networks(networks).unwrap();
            assert!(!proxies.trusts(|| None));
            proxies.trusts(|| Some(peer))
        };
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.9", "10.0.0.9", "10.0.0.8"),
            ("10.0.0.9/31", "10.0.0.8", "10.0.0.10"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "::2"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::10.1.1.1"),
            ("::ffff:0:0/96", "::ffff:10.1.1.1", "::1"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "::1", "1.2.3.4"),
        ] {
            assert!(trusts(&[network], inside), "{network} {inside}");
            assert!(!trusts(&[network], outside), "{network} {outside}");
            assert!(trusts(&["192.0.2.1", network], inside));
        }
        assert!(TrustedProxies::all().trusts(|| None));
        assert!(!TrustedProxies::none().trusts(|| Some([127, 0, 0, 1].into())));
        for text in [
            "",
            "a",
            "1.2.3",
            "1.2.3.4/33",
            "::/129",
            "1.2.3.4/-1",
            "1.2.3.4/",
        ] {
            assert!(TrustedProxies::networks([text]).is_err(), "{text}");
        }
    }
}
