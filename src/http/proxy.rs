//! Who asks, where a reverse proxy asks for others.
//!
//! Goes in: the address at the other end of a connection, and the lines of `X-Forwarded-For` in a request.
//! Comes out: the client whose share of signatures is spent.
//!
//! Invariant: an address counts only if the other end is trusted or a trusted proxy wrote it down, so that nobody
//! chooses whose share to spend (SEC-01).

use super::server::Limits;
use crate::ocsp::Client;
use std::net::{IpAddr, SocketAddr};

/// Where requests name whom they were sent for, the nearest last.
pub(super) const FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) is_proxy: bool,
}

impl Peer {
    pub(super) fn new(address: IpAddr, limits: &Limits) -> Self {
        let address = address.to_canonical();
        Self { address, is_proxy: is_trusted(limits, address) }
    }

    /// Who sent a request with these `lines` of [`FORWARDED_FOR`]: the nearest that is not a trusted proxy, or the
    /// farthest proxy that is known if what it wrote is no address.
    pub(super) fn client<'a>(self, limits: &Limits, lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> Client {
        let mut nearest = self.address;
        for entry in lines.rev().flat_map(|line| line.rsplit(|octet| *octet == b',')) {
            if !is_trusted(limits, nearest) {
                break;
            }
            let Some(address) = address(entry) else { break };
            nearest = address;
        }
        Client::at(nearest)
    }
}

fn is_trusted(limits: &Limits, address: IpAddr) -> bool {
    limits.trusted_proxies.iter().any(|network| match (network, address) {
        ((IpAddr::V4(network), bits), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).checked_shr(32_u32.saturating_sub((*bits).into())).unwrap_or(0) == 0
        }
        ((IpAddr::V6(network), bits), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).checked_shr(128_u32.saturating_sub((*bits).into())).unwrap_or(0)
                == 0
        }
        _ => false,
    })
}

/// An address, to which some proxies add a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let address = text.parse().or_else(|_| text.parse().map(|socket: SocketAddr| socket.ip())).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sec_01_a_client_is_who_the_trusted_proxies_say_and_nobody_elses_word_counts() {
        let trusted = [("192.0.2.7", 32), ("10.0.0.0", 8), ("2001:db8::", 33)];
        let trusted_proxies = trusted.map(|(address, bits)| (address.parse().unwrap(), bits)).to_vec();
        let limits = Limits { trusted_proxies, ..Limits::default() };
        for (peer, lines, client) in [
            ("192.0.2.7", &["198.51.100.1"][..], "198.51.100.1"),
            ("::ffff:192.0.2.7", &["198.51.100.1"], "198.51.100.1"),
            ("2001:db8:7fff::1", &["2001:db9::1"], "2001:db9::1"),
            ("192.0.2.7", &[], "192.0.2.7"),
            // Not trusted.
            ("192.0.2.8", &["198.51.100.1"], "192.0.2.8"),
            ("11.0.0.1", &["198.51.100.1"], "11.0.0.1"),
            ("2001:db8:8000::1", &["198.51.100.1"], "2001:db8:8000::1"),
            // Whatever the client itself has written stands before what the proxies add.
            ("192.0.2.7", &["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("192.0.2.7", &["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
            ("192.0.2.7", &["garbage, 198.51.100.1"], "198.51.100.1"),
            // Several proxies, one behind the other.
            ("192.0.2.7", &["203.0.113.9, 198.51.100.1, 10.1.1.1 ,10.255.255.255"], "198.51.100.1"),
            ("192.0.2.7", &["203.0.113.9,198.51.100.1", " 10.1.1.1\r"], "198.51.100.1"),
            ("192.0.2.7", &["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            // Ports, and addresses of IPv4 in the dress of IPv6.
            ("192.0.2.7", &["198.51.100.1:40000"], "198.51.100.1"),
            ("192.0.2.7", &["[2001:db9::1]:443"], "2001:db9::1"),
            ("192.0.2.7", &["198.51.100.1, ::ffff:10.1.1.1"], "198.51.100.1"),
            // What is no address is written by the last proxy that is known.
            ("192.0.2.7", &["198.51.100.1, unknown"], "192.0.2.7"),
            ("192.0.2.7", &["198.51.100.1, , 10.1.1.1"], "10.1.1.1"),
            ("192.0.2.7", &[""], "192.0.2.7"),
            ("192.0.2.7", &["198.51.100.1\u{e9}"], "192.0.2.7"),
            ("192.0.2.7", &["999.51.100.1"], "192.0.2.7"),
        ] {
            let peer = Peer::new(peer.parse().unwrap(), &limits);
            let said = peer.client(&limits, lines.iter().map(|line| line.as_bytes()));
            assert_eq!(said, Client::at(client.parse().unwrap()), "{peer:?} {lines:?}");
        }
        let everybody = Limits { trusted_proxies: vec![("0.0.0.0".parse().unwrap(), 0)], ..Limits::default() };
        assert!(Peer::new("203.0.113.9".parse().unwrap(), &everybody).is_proxy);
        assert!(!Peer::new("2001:db8::1".parse().unwrap(), &everybody).is_proxy);
    }
}
