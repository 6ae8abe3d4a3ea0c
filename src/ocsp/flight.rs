//! One signature for all who ask for the same answer at once.
//!
//! Goes in: a key and how to sign. Comes out: what one of those who are here at the same time made. When
//! that one goes away, another takes over. Failures are shared too, so that a burst does not fail one by
//! one on a key that is overloaded.
//!
//! Invariants: a flight is on the list only while somebody is in it; no more than [`WAITING`] wait in one.

use super::cache::{Key, Signed};
use super::response::Failure;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Requests that may wait for one signature.
const WAITING: usize = 4_096;

type Flight = OnceCell<Result<Signed, Failure>>;

/// All signatures that are being made.
#[derive(Debug, Default)]
pub(super) struct Flights(DashMap<Key, Arc<Flight>, RandomState>);

/// A seat in a flight; whoever is the last to leave, or leaves after landing, takes it off the list.
struct Seat<'a> {
    flights: &'a Flights,
    key: Key,
    flight: Arc<Flight>,
}

impl Flights {
    /// Signs with `sign`, unless somebody else is at it for the same key; then waits for that.
    ///
    /// # Errors
    /// What whoever signed failed with; [`Failure::TryLater`] if too many wait.
    pub(super) async fn join<F>(&self, key: Key, sign: impl FnOnce() -> F) -> Result<Signed, Failure>
    where
        F: Future<Output = Result<Signed, Failure>>,
    {
        // The guard is gone before anything is waited for.
        let flight = Arc::clone(&self.0.entry(key).or_default());
        let seat = Seat { flights: self, key, flight };
        if Arc::strong_count(&seat.flight) > WAITING {
            return Err(Failure::TryLater);
        }
        seat.flight.get_or_init(sign).await.clone()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let done = |_: &Key, flight: &Arc<Flight>| {
            // The list's own and this one.
            let is_last = Arc::strong_count(flight) <= 2;
            Arc::ptr_eq(flight, &self.flight) && (is_last || flight.initialized())
        };
        self.flights.0.remove_if(&self.key, done);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ocsp::response::CertStatus;
    use crate::pki::{Serial, Time};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    fn key(n: u8) -> Key {
        Key { signer: 0, algorithm: 0, options: 0, serial: Serial::from_content(&[n]).unwrap() }
    }

    fn signed() -> Signed {
        let now = Time::default();
        Signed { status: CertStatus::Good, produced_at: now, this_update: now, next_update: now, signature: vec![1] }
    }

    #[tokio::test]
    async fn a_burst_signs_once_and_leaves_nothing_behind() {
        let (flights, gate, made) =
            (Arc::new(Flights::default()), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let ask = |n| {
            let (flights, gate, made) = (Arc::clone(&flights), Arc::clone(&gate), Arc::clone(&made));
            tokio::spawn(async move {
                flights
                    .join(key(n), || async {
                        gate.acquire().await.unwrap().forget();
                        made.fetch_add(1, Ordering::SeqCst);
                        Ok(signed())
                    })
                    .await
            })
        };
        let asked: Vec<_> = (0..100).map(|n| ask(n % 2)).collect();
        while flights.0.len() < 2 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        for one in asked {
            assert_eq!(one.await.unwrap(), Ok(signed()));
        }
        assert_eq!(made.load(Ordering::SeqCst), 2);
        assert!(flights.0.is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_is_replaced_and_who_fails_fails_once() {
        let flights = Arc::new(Flights::default());
        let first = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.join(key(1), std::future::pending::<Result<Signed, Failure>>).await }
        });
        while flights.0.is_empty() {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.join(key(1), || async { Err(Failure::TryLater) }).await }
        });
        first.abort();
        assert_eq!(second.await.unwrap(), Err(Failure::TryLater));
        assert!(first.await.is_err() && flights.0.is_empty());
        assert_eq!(flights.join(key(1), || async { Ok(signed()) }).await, Ok(signed()));
    }
}
