//! How many answers are signed for one request alone, as a nonce or a serial that nobody issued demands:
//! a stranger could otherwise have as many signatures made as it likes (SEC-01).
//!
//! Goes in: who asks, and when. Comes out: whether a signature may be spent. There is one budget for each
//! issuer, and a smaller one for each neighbourhood of clients.
//!
//! Invariant: memory does not depend on who asks. Clients share [`CLIENTS`] budgets by a keyed hash of
//! their address, so that nobody can choose whose budget to spend.

use foldhash::fast::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Budgets for clients, 8 octets each.
const CLIENTS: usize = 2_048;

/// Who asks, as far as limits are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Client(Option<IpAddr>);

impl Client {
    /// This process itself: no client's budget.
    pub const LOCAL: Self = Self(None);

    /// A client at `address`.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self(Some(neighbourhood(address)))
    }
}

/// What one subscriber usually has: an IPv4 address, or a /64.
#[must_use]
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Signatures a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LiveRate {
    /// For an issuer.
    pub issuer: u32,
    /// For one neighbourhood of clients.
    pub client: u32,
}

impl Default for LiveRate {
    /// 1,000 signatures of 17 µs are two hundredths of one core.
    fn default() -> Self {
        Self { issuer: 1_000, client: 100 }
    }
}

/// Whose budget is spent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Spent {
    Issuer,
    Client,
}

/// The budgets of one issuer.
#[derive(Debug)]
pub(super) struct Live {
    rate: LiveRate,
    start: Instant,
    hash: RandomState,
    issuer: Bucket,
    clients: Box<[Bucket]>,
}

impl Live {
    pub(super) fn new(rate: LiveRate) -> Self {
        let clients = std::iter::repeat_with(Bucket::default).take(CLIENTS).collect();
        Self { rate, start: Instant::now(), hash: RandomState::default(), issuer: Bucket::default(), clients }
    }

    /// Takes one signature for `client`.
    ///
    /// # Errors
    /// Whose budget is used up.
    pub(super) fn take(&self, client: Client) -> Result<(), Spent> {
        self.take_at(client, u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_at(&self, Client(client): Client, now: u64) -> Result<(), Spent> {
        if let Some(address) = client {
            let number = usize::try_from(self.hash.hash_one(address)).unwrap_or(0) % self.clients.len().max(1);
            if !self.clients.get(number).is_some_and(|bucket| bucket.take(now, self.rate.client)) {
                return Err(Spent::Client);
            }
        }
        if self.issuer.take(now, self.rate.issuer) { Ok(()) } else { Err(Spent::Issuer) }
    }
}

const SECOND: u64 = 1_000_000_000;

/// A token bucket that holds one second's worth: the nanosecond at which it will be full again.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, now: u64, rate: u32) -> bool {
        let Some(cost) = SECOND.checked_div(rate.into()) else { return false };
        let after = |full_at: u64| {
            let full_at = full_at.max(now) + cost;
            (full_at <= now + SECOND).then_some(full_at)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn client(text: &str) -> Client {
        Client::at(text.parse().unwrap())
    }

    fn taken(live: &Live, client: Client, now: u64) -> u32 {
        (0..10_000).map(|_| u32::from(live.take_at(client, now).is_ok())).sum()
    }

    #[test]
    fn sec_01_a_client_gets_its_share_and_all_clients_the_issuers() {
        let live = Live::new(LiveRate { issuer: 100, client: 30 });
        assert_eq!(taken(&live, client("192.0.2.1"), 0), 30);
        assert_eq!(live.take_at(client("192.0.2.1"), 0), Err(Spent::Client));
        assert_eq!(taken(&live, Client::LOCAL, 0), 70);
        assert_eq!(live.take_at(Client::LOCAL, 0), Err(Spent::Issuer));
        // Half a second later half of it is there again, and after a minute no more than a second's worth.
        assert_eq!(taken(&live, Client::LOCAL, SECOND / 2), 50);
        assert_eq!(taken(&live, Client::LOCAL, SECOND * 60), 100);
    }

    #[test]
    fn a_rate_of_nothing_signs_nothing() {
        let live = Live::new(LiveRate { issuer: 0, client: 5 });
        assert_eq!(live.take(Client::LOCAL), Err(Spent::Issuer));
    }

    #[test]
    fn a_neighbourhood_is_an_address_or_a_64() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.2"), client("192.0.2.1"));
    }
}
