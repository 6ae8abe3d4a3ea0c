//! What one publisher sees of an index: the whole of it, or one shard's part.
//!
//! Goes in: the one stream of changes of an [`Index`]. Comes out: for each publisher those that concern its
//! lists, each exactly once, whichever of them looks first. It decides which certificate belongs to which
//! shard, and nothing else.
//!
//! Invariants: every certificate belongs to exactly one shard, so that the union of all shards is the
//! complete list (CRL-73); the shard of a serial never changes (CRL-70).

use crate::index::{Change, Index};
use crate::pki::hash::sha256;
use crate::pki::{IssuerName, Serial};
use crate::state::Scope;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};

/// Revisions that the publishers of one issuer make at once: a build keeps about two cores busy.
const AT_ONCE: usize = 2;

/// The shard of a serial where the database does not say one, counted from 0.
///
/// The first eight octets of SHA-256 over the content octets of the serial's INTEGER (as they stand in the
/// certificate, a sign octet included), read as a big-endian number, modulo `shards`.
#[must_use]
pub fn shard_of(serial: &Serial, shards: NonZeroU32) -> u32 {
    let mut first = [0; 8];
    first.iter_mut().zip(sha256(serial.as_bytes())).for_each(|(place, octet)| *place = octet);
    u32::try_from(u64::from_be_bytes(first) % u64::from(shards.get())).unwrap_or(0)
}

/// The URL of a shard's list, as it stands in the certificates of the shard and in the list itself: `template`
/// with `{public_url}`, `{issuer}` and `{n}` filled in.
#[must_use]
pub fn shard_url(template: &str, public_url: &str, issuer: &IssuerName, shard: u32) -> String {
    template
        .replace("{public_url}", public_url.trim_end_matches('/'))
        .replace("{issuer}", issuer.as_str())
        .replace("{n}", &shard.to_string())
}

/// Which of an issuer's certificates a list covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// All of them.
    Whole,
    /// Those of one shard, counted from 0.
    Shard(u32),
}

impl Part {
    /// The key of its numbers and lists in the state store.
    #[must_use]
    pub fn scope(self, issuer: &IssuerName) -> Scope {
        match self {
            Self::Whole => Scope::whole(issuer),
            Self::Shard(shard) => Scope::shard(issuer, shard),
        }
    }
}

/// What is shared by all publishers of one issuer.
#[derive(Debug)]
struct Common {
    index: Arc<Index>,
    shards: Option<NonZeroU32>,
    /// One for each shard, then one for the whole if that is published too.
    queues: Mutex<Vec<BTreeMap<Serial, Change>>>,
    filled: Vec<Notify>,
    bench: Semaphore,
}

/// One publisher's view of an index.
#[derive(Debug)]
pub struct Share {
    common: Arc<Common>,
    part: Part,
    /// Which queue.
    at: usize,
}

impl Share {
    /// All of an index, for one publisher.
    #[must_use]
    pub fn whole(index: Arc<Index>) -> Self {
        let common = Common::new(index, None, 1);
        Self { common: Arc::new(common), part: Part::Whole, at: 0 }
    }

    /// An index divided among one publisher for each shard, in order; with `and_whole` one more, for the
    /// complete unsharded list, comes last.
    #[must_use]
    pub fn divided(index: Arc<Index>, shards: NonZeroU32, and_whole: bool) -> Vec<Self> {
        let count = usize::try_from(shards.get()).unwrap_or(usize::MAX).saturating_add(usize::from(and_whole));
        let common = Arc::new(Common::new(index, Some(shards), count));
        let parts = (0..shards.get()).map(Part::Shard).chain(and_whole.then_some(Part::Whole));
        parts.enumerate().map(|(at, part)| Self { common: Arc::clone(&common), part, at }).collect()
    }

    /// Which certificates these are.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    pub(super) fn index(&self) -> &Arc<Index> {
        &self.common.index
    }

    /// Tells which serials belong to this share.
    pub(super) fn filter(&self) -> impl Fn(&Serial) -> bool + Send + 'static {
        let (common, part) = (Arc::clone(&self.common), self.part);
        move |serial| match part {
            Part::Whole => true,
            Part::Shard(shard) => common.shard(serial) == Some(shard),
        }
    }

    /// What changed of this share's certificates since this was last called.
    pub(super) fn take_changes(&self) -> BTreeMap<Serial, Change> {
        // Under one lock, so that nothing that the index has noted is on its way somewhere else.
        let mut queues = self.common.lock();
        let news = self.common.index.take_changes();
        if !news.is_empty() {
            self.common.hand_out(&mut queues, news, self.at);
        }
        queues.get_mut(self.at).map(std::mem::take).unwrap_or_default()
    }

    /// Resolves when there may be something to take.
    pub(super) async fn changed(&self) {
        let Some(filled) = self.common.filled.get(self.at) else { return std::future::pending().await };
        // The index wakes one of its waiters; whoever that is hands out to the others.
        tokio::select! {
            () = filled.notified() => {}
            () = self.common.index.changed() => {}
        }
    }

    /// Waits for a turn to build; held until the guard is dropped.
    pub(super) async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.common.bench.acquire().await.ok()
    }
}

impl Common {
    fn new(index: Arc<Index>, shards: Option<NonZeroU32>, queues: usize) -> Self {
        Self {
            index,
            shards,
            queues: Mutex::new(vec![BTreeMap::new(); queues]),
            filled: std::iter::repeat_with(Notify::new).take(queues).collect(),
            bench: Semaphore::new(AT_ONCE),
        }
    }

    /// The shard of `serial`: what the database says, else by its hash.
    fn shard(&self, serial: &Serial) -> Option<u32> {
        let shards = self.shards?;
        let told = self.index.shard(serial).filter(|told| *told < shards.get());
        Some(told.unwrap_or_else(|| shard_of(serial, shards)))
    }

    fn hand_out(&self, queues: &mut [BTreeMap<Serial, Change>], news: BTreeMap<Serial, Change>, asking: usize) {
        let shards = self.shards.map_or(0, |shards| usize::try_from(shards.get()).unwrap_or(usize::MAX));
        if let Some(whole) = queues.get_mut(shards) {
            fold(whole, news.clone());
        }
        if self.shards.is_some() {
            let mut parts: BTreeMap<usize, BTreeMap<Serial, Change>> = BTreeMap::new();
            for (serial, change) in news {
                let shard = self.shard(&serial).and_then(|shard| usize::try_from(shard).ok());
                parts.entry(shard.unwrap_or(0)).or_default().insert(serial, change);
            }
            for (shard, part) in parts {
                if let Some(queue) = queues.get_mut(shard) {
                    fold(queue, part);
                }
            }
        }
        let others = queues.iter().zip(&self.filled).enumerate().filter(|(at, _)| *at != asking);
        others.filter(|(_, (queue, _))| !queue.is_empty()).for_each(|(_, (_, filled))| filled.notify_one());
    }

    /// A panic elsewhere leaves the queues whole: each is changed by one assignment.
    fn lock(&self) -> MutexGuard<'_, Vec<BTreeMap<Serial, Change>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Newer changes over older ones; a release is not forgotten.
pub(super) fn fold(older: &mut BTreeMap<Serial, Change>, newer: BTreeMap<Serial, Change>) {
    if older.is_empty() {
        *older = newer;
        return;
    }
    for (serial, change) in newer {
        let released = change.released || older.get(&serial).is_some_and(|older| older.released);
        older.insert(serial, Change { released, ..change });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::index::Record;
    use crate::pki::{Reason, Revocation, Status, Time};

    fn revoked() -> Record {
        let status =
            Status::Revoked(Revocation { at: Time::default(), reason: Reason::Superseded, invalidity_date: None });
        Record { not_before: Time::default(), not_after: Time::MAX, status, since: Time::from_unix(1), sha256: None }
    }

    fn serial(n: u64) -> Serial {
        Serial::from_magnitude(&n.to_be_bytes()).unwrap()
    }

    #[test]
    fn crl_70_the_shard_of_a_serial_is_this() {
        // SHA-256 of 01 begins with 4bf5122f344554c5, of 0080 with 085edad400785fca.
        let shards = |n| NonZeroU32::new(n).unwrap();
        assert_eq!(u64::from(shard_of(&serial(1), shards(1_000))), 0x4bf5_122f_3445_54c5 % 1_000);
        assert_eq!(shard_of(&serial(1), shards(16)), 5);
        assert_eq!(u64::from(shard_of(&serial(0x80), shards(1_000))), 0x085e_dad4_0078_5fca % 1_000);
        assert_eq!(shard_of(&serial(0x80), shards(1)), 0);
    }
    #[test]
    fn crl_73_every_change_reaches_its_shard_and_the_whole_whoever_looks_first() {
        let index = Arc::new(Index::new());
        let shares = Share::divided(Arc::clone(&index), NonZeroU32::new(7).unwrap(), true);
        for round in 0..3 {
            index.apply(&(0..100).map(|n| (serial(round * 100 + n), revoked())).collect::<Vec<_>>());
            let mut order: Vec<&Share> = shares.iter().collect();
            order.rotate_left(usize::try_from(round).unwrap() * 3);
            let mut seen = BTreeMap::new();
            for share in order {
                let taken = share.take_changes();
                assert!(share.take_changes().is_empty());
                if share.part() == Part::Whole {
                    assert_eq!(taken.len(), 100);
                } else {
                    assert!(taken.keys().all(share.filter()));
                    seen.extend(taken.into_keys().map(|serial| (serial, share.part())));
                }
            }
            assert_eq!(seen.len(), 100);
        }
    }

    #[tokio::test]
    async fn all_publishers_wake_though_the_index_wakes_one() {
        let index = Arc::new(Index::new());
        let shares = Share::divided(Arc::clone(&index), NonZeroU32::new(4).unwrap(), true);
        let mut waiting = tokio::task::JoinSet::new();
        for share in shares {
            waiting.spawn(async move {
                loop {
                    share.changed().await;
                    let taken = share.take_changes();
                    if !taken.is_empty() {
                        return taken.len();
                    }
                }
            });
        }
        tokio::task::yield_now().await;
        index.apply(&(0..100).map(|n| (serial(n), revoked())).collect::<Vec<_>>());
        let counts = tokio::time::timeout(std::time::Duration::from_secs(10), waiting.join_all()).await.unwrap();
        assert_eq!(counts.iter().sum::<usize>(), 200);
    }

    #[test]
    fn crl_70_what_the_database_says_goes_before_the_hash_and_stays() {
        let index = Arc::new(Index::new());
        index.keep_shards();
        let shares = Share::divided(Arc::clone(&index), NonZeroU32::new(4).unwrap(), false);
        let hashed = shard_of(&serial(1), NonZeroU32::new(4).unwrap());
        let told = (hashed + 1) % 4;
        assert!(index.assign(&[(serial(1), told)]).is_empty());
        assert_eq!(index.assign(&[(serial(1), told), (serial(1), hashed)]), [serial(1)]);
        // No such shard: no certificate can carry its URL.
        assert!(index.assign(&[(serial(2), 4)]).is_empty());
        index.apply(&[(serial(1), revoked()), (serial(2), revoked())]);
        for share in shares {
            let Part::Shard(shard) = share.part() else { panic!() };
            let expected =
                usize::from(shard == told) + usize::from(shard == shard_of(&serial(2), NonZeroU32::new(4).unwrap()));
            assert_eq!(share.take_changes().len(), expected, "{shard}");
        }
    }
}
