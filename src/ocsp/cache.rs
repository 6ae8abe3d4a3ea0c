//! Signed answers, kept until they are to be signed anew.
//!
//! Goes in: what a signature was made over, and the signature. Comes out: the same, as long as it may be
//! used; the response is spliced from it and the request. Bounded in bytes (SEC-14) by two generations:
//! when the younger one has filled half the bound, it becomes the elder, and the elder is dropped; a hit
//! in the elder moves to the younger.
//!
//! Invariant: no guard of the map leaves a function here, so no caller can hold one across a second call.

use super::response::CertStatus;
use crate::pki::{Serial, Time};
use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an answer belongs to. Everything else in it follows from these, the request and the template.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    /// Number of the authority (issuer and signer) that answers; a new signer gets a new number.
    pub(super) authority: u32,
    /// The hash algorithm and whether its parameters are NULL: the exact bytes, in short.
    pub(super) algorithm: u8,
    pub(super) serial: Serial,
}

/// A signature and what it was made over.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) status: CertStatus,
    pub(super) produced_at: Time,
    pub(super) this_update: Time,
    pub(super) next_update: Time,
    pub(super) signature: Arc<[u8]>,
}

/// What an entry takes beside its signature: key, value, and the map's own share.
const OVERHEAD: usize = size_of::<Key>() + size_of::<Signed>() + 48;

type Generation = DashMap<Key, Signed, RandomState>;

/// The cache of all signed answers.
#[derive(Debug)]
pub(super) struct Cache {
    young: ArcSwap<Generation>,
    old: ArcSwap<Generation>,
    young_bytes: AtomicUsize,
    max_bytes: usize,
}

impl Cache {
    pub(super) fn new(max_bytes: usize) -> Self {
        let empty = ArcSwap::from_pointee(Generation::default());
        Self {
            young: empty,
            old: ArcSwap::from_pointee(Generation::default()),
            young_bytes: AtomicUsize::new(0),
            max_bytes,
        }
    }

    /// The answer kept for `key`, however old.
    pub(super) fn get(&self, key: &Key) -> Option<Signed> {
        if let Some(found) = self.young.load().get(key) {
            return Some(found.clone());
        }
        let found = self.old.load().get(key).map(|found| found.clone())?;
        self.insert(*key, found.clone());
        Some(found)
    }

    /// Keeps `signed`, unless what is kept is newer.
    pub(super) fn insert(&self, key: Key, signed: Signed) {
        let size = OVERHEAD + signed.signature.len();
        if self.young_bytes.load(Ordering::Relaxed) + size > self.max_bytes / 2 {
            self.turn();
        }
        let young = self.young.load();
        let mut fresh = false;
        let mut kept = young.entry(key).or_insert_with(|| {
            fresh = true;
            signed.clone()
        });
        if !fresh && kept.this_update <= signed.this_update {
            *kept = signed;
        }
        drop(kept);
        if fresh {
            self.young_bytes.fetch_add(size, Ordering::Relaxed);
        }
    }

    /// Two threads may turn at once; then a generation is dropped early, which costs signatures and nothing else.
    fn turn(&self) {
        let full = self.young.swap(Arc::default());
        self.young_bytes.store(0, Ordering::Relaxed);
        self.old.store(full);
    }

    /// Answers kept in both generations.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.load().len() + self.old.load().len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(n: u32) -> Key {
        Key { authority: 0, algorithm: 0, serial: Serial::from_magnitude(&n.to_be_bytes()).unwrap() }
    }

    fn signed(at: i64) -> Signed {
        let at = Time::from_unix(at);
        Signed {
            status: CertStatus::Good,
            produced_at: at,
            this_update: at,
            next_update: at,
            signature: [7; 71].into(),
        }
    }

    #[test]
    fn sec_14_it_never_holds_more_than_its_bytes() {
        let cache = Cache::new(100 * (OVERHEAD + 71));
        for n in 0..10_000 {
            cache.insert(key(n), signed(1));
            assert!(cache.len() <= 100, "{n}: {}", cache.len());
        }
        assert!(cache.get(&key(9_999)).is_some());
        assert!(cache.get(&key(0)).is_none());
    }

    #[test]
    fn what_is_asked_for_stays() {
        let cache = Cache::new(100 * (OVERHEAD + 71));
        cache.insert(key(0), signed(1));
        for n in 1..1_000 {
            cache.insert(key(n), signed(1));
            assert!(cache.get(&key(0)).is_some(), "{n}");
        }
    }

    #[test]
    fn sec_23_an_older_answer_does_not_take_the_place_of_a_newer_one() {
        let cache = Cache::new(1 << 20);
        cache.insert(key(1), signed(9));
        cache.insert(key(1), signed(8));
        assert_eq!(cache.get(&key(1)).unwrap().this_update, Time::from_unix(9));
    }
}
