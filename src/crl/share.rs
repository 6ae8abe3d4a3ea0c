//! What one publisher sees of an index: the whole of it, or one shard's part.
//!
//! Goes in: the one stream of changes of an [`Index`]. Comes out: for each publisher those that concern its
//! lists, each exactly once, whichever of them looks first. It decides which certificate belongs to which
//! part, and nothing else.
//!
//! Invariants: every certificate belongs to a part, so that the union of all parts is the complete list
//! (CRL-73), and to one only, unless nobody says which kind it is; the shard of a serial never changes (CRL-70).

use crate::index::{Change, Index, Record, View};
use crate::pki::hash::sha256;
use crate::pki::{IssuerName, Revocation, Serial, Status, Time};
use crate::state::Scope;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinError;

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

/// The URL of a part's list, as it stands in the certificates of the part and in the list itself: `template`
/// with `{public_url}`, `{issuer}` and `{n}` filled in; the last is the number of a shard, or `user` or `ca`.
#[must_use]
pub fn part_url(template: &str, public_url: &str, issuer: &IssuerName, part: &impl fmt::Display) -> String {
    template
        .replace("{public_url}", public_url.trim_end_matches('/'))
        .replace("{issuer}", issuer.as_str())
        .replace("{n}", &part.to_string())
}

/// What basicConstraints says of a certificate (CRL-76).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It is none of a CA.
    User,
    /// It is a CA's.
    Ca,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::User, Self::Ca];

    /// The tag of its flag in issuingDistributionPoint: onlyContainsUserCerts, onlyContainsCACerts.
    pub(super) const fn flag(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Ca => 2,
        }
    }

    /// As the index keeps it, see `feed::Parts`.
    const fn told(self) -> u32 {
        match self {
            Self::User => 0,
            Self::Ca => 1,
        }
    }
}

/// As it stands in URLs.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Ca => "ca",
        })
    }
}

/// Which of an issuer's certificates a list covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// All of them.
    Whole,
    /// Those of one shard, counted from 0.
    Shard(u32),
    /// Those of one kind.
    Kind(Kind),
}

impl Part {
    /// The key of its numbers and lists in the state store.
    #[must_use]
    pub fn scope(self, issuer: &IssuerName) -> Scope {
        self.name().map_or_else(|| Scope::whole(issuer), |name| Scope::part(issuer, &name))
    }

    /// As it is called in paths and in the state store: `shard-3`, `user`, `ca`; the whole has no name.
    #[must_use]
    pub fn name(self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Shard(shard) => Some(format!("shard-{shard}")),
            Self::Kind(kind) => Some(kind.to_string()),
        }
    }

    /// Where its list is found, if it is not the list of everything.
    #[must_use]
    pub fn url(self, template: &str, public_url: &str, issuer: &IssuerName) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Shard(shard) => Some(part_url(template, public_url, issuer, &shard)),
            Self::Kind(kind) => Some(part_url(template, public_url, issuer, &kind)),
        }
    }
}

/// How the certificates of an issuer are divided among lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Division {
    /// Into so many shards.
    Shards(NonZeroU32),
    /// Into those of users and those of CAs.
    Kinds,
}

impl Division {
    fn parts(self) -> Vec<Part> {
        match self {
            Self::Shards(shards) => (0..shards.get()).map(Part::Shard).collect(),
            Self::Kinds => Kind::ALL.map(Part::Kind).to_vec(),
        }
    }
}

/// What is shared by all publishers of one issuer.
#[derive(Debug)]
struct Common {
    index: Arc<Index>,
    division: Option<Division>,
    /// One for each part, then one for the whole if that is published too.
    queues: Mutex<Vec<BTreeMap<Serial, Change>>>,
    filled: Vec<Notify>,
    bench: Semaphore,
    /// What each share begins with, until it takes it; `None` before anybody has looked.
    begun: tokio::sync::Mutex<Option<Vec<Option<Beginning>>>>,
}

/// What is revoked of a share, by serial, in one state of the index.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    pub(super) view: Arc<View>,
    pub(super) revoked: Vec<Known>,
}

/// A revoked certificate, without what a list does not need of its record: a start with a million of them should not
/// need their memory twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Known {
    pub(super) serial: Serial,
    pub(super) said: Revocation,
    /// When it may leave the lists, see [`prune_key`].
    pub(super) prune_key: Time,
}

/// The later of a certificate's end and of when its status was learned.
pub(super) fn prune_key(record: &Record) -> Time {
    record.not_after.max(record.since)
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

    /// An index divided among one publisher for each part, in order; with `and_whole` one more, for the
    /// complete undivided list, comes last.
    #[must_use]
    pub fn divided(index: Arc<Index>, division: Division, and_whole: bool) -> Vec<Self> {
        let mut parts = division.parts();
        parts.extend(and_whole.then_some(Part::Whole));
        let common = Arc::new(Common::new(index, Some(division), parts.len()));
        parts.into_iter().enumerate().map(|(at, part)| Self { common: Arc::clone(&common), part, at }).collect()
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
            // A revocation must not be missing from the list that its certificate is checked with, and does no
            // harm in the other.
            Part::Kind(kind) => common.index.shard(serial).is_none_or(|told| told == kind.told()),
        }
    }

    /// What is revoked of this share. The first to ask, at the start, has it found out for all shares at once: a
    /// publisher may take up a state that is older than the changes that it has taken, but not older than its lists.
    pub(super) async fn beginning(&self) -> Result<Beginning, JoinError> {
        let mut begun = self.common.begun.lock().await;
        if let Some(beginning) = begun.as_mut().and_then(|beginnings| beginnings.get_mut(self.at)?.take()) {
            return Ok(beginning);
        }
        let (common, first) = (Arc::clone(&self.common), begun.is_none());
        let only = (!first).then_some(self.at);
        let mut beginnings = tokio::task::spawn_blocking(move || common.beginnings(only)).await?;
        let ours = beginnings.get_mut(self.at).and_then(Option::take);
        if first {
            *begun = Some(beginnings);
        }
        let view = || Arc::clone(&self.common.index.view());
        Ok(ours.unwrap_or_else(|| Beginning { view: view(), revoked: Vec::new() }))
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

    /// About how many certificates a shard has; `None` for what is no shard. A hash divides evenly, and a CA
    /// that divides by itself hardly does otherwise.
    pub(super) fn crowd(&self) -> Option<u64> {
        match self.common.division {
            Some(Division::Shards(shards)) if self.part != Part::Whole => {
                Some(self.common.index.issued() / u64::from(shards.get()))
            }
            _ => None,
        }
    }

    /// Waits for a turn to build; held until the guard is dropped.
    pub(super) async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.common.bench.acquire().await.ok()
    }
}

impl Common {
    fn new(index: Arc<Index>, division: Option<Division>, queues: usize) -> Self {
        Self {
            index,
            division,
            queues: Mutex::new(vec![BTreeMap::new(); queues]),
            filled: std::iter::repeat_with(Notify::new).take(queues).collect(),
            bench: Semaphore::new(AT_ONCE),
            begun: tokio::sync::Mutex::default(),
        }
    }

    /// Looks once through the whole index, for all queues or for one `only`.
    fn beginnings(&self, only: Option<usize>) -> Vec<Option<Beginning>> {
        let (view, queues) = (Arc::clone(&self.index.view()), self.filled.len());
        let mut found = vec![Vec::new(); queues];
        view.for_each_revoked(|serial, record| {
            if let Status::Revoked(said) = record.status {
                let known = Known { serial, said, prune_key: prune_key(&record) };
                for at in self.queues_of(&serial).filter(|at| only.is_none_or(|only| only == *at)) {
                    if let Some(found) = found.get_mut(at) {
                        found.push(known);
                    }
                }
            }
        });
        let beginning = |mut revoked: Vec<Known>| {
            revoked.sort_unstable_by_key(|known| known.serial);
            Some(Beginning { view: Arc::clone(&view), revoked })
        };
        found.into_iter().map(beginning).collect()
    }

    /// The queues of those shares to which a serial belongs.
    fn queues_of(&self, serial: &Serial) -> impl Iterator<Item = usize> {
        let (parts, told) = match self.division {
            None => (0, None),
            Some(Division::Shards(shards)) => (shards.get(), self.shard(serial)),
            // One of which nobody says the kind stands in both.
            Some(Division::Kinds) => (2, self.index.shard(serial)),
        };
        let place = |part: u32| usize::try_from(part).unwrap_or(usize::MAX);
        // What covers everything comes last.
        told.map_or_else(|| 0..place(parts), |told| place(told)..place(told) + 1).chain(place(parts)..self.filled.len())
    }

    /// The shard of `serial`: what the database says, else by its hash.
    fn shard(&self, serial: &Serial) -> Option<u32> {
        let Some(Division::Shards(shards)) = self.division else { return None };
        let told = self.index.shard(serial).filter(|told| *told < shards.get());
        Some(told.unwrap_or_else(|| shard_of(serial, shards)))
    }

    fn hand_out(&self, queues: &mut [BTreeMap<Serial, Change>], news: BTreeMap<Serial, Change>, asking: usize) {
        if let Some(Division::Shards(shards)) = self.division {
            let shards = usize::try_from(shards.get()).unwrap_or(usize::MAX);
            if let Some(whole) = queues.get_mut(shards) {
                fold(whole, news.clone());
            }
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
        } else if let Some((last, others)) = queues.split_last_mut() {
            // Of a certificate whose kind became known both lists may tell; see `Publisher::collect`.
            others.iter_mut().for_each(|queue| fold(queue, news.clone()));
            fold(last, news);
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

    /// As publishers are once they have begun.
    fn begun() -> Arc<Index> {
        let index = Arc::new(Index::new());
        assert!(index.take_changes().is_empty());
        index
    }

    fn shards(n: u32) -> Division {
        Division::Shards(NonZeroU32::new(n).unwrap())
    }

    #[test]
    fn crl_76_every_change_reaches_the_list_of_its_kind_and_both_where_nobody_says_which() {
        let index = begun();
        index.keep_shards();
        let shares = Share::divided(Arc::clone(&index), Division::Kinds, true);
        assert!(index.assign(&[(serial(1), Kind::User.told()), (serial(2), Kind::Ca.told())]).is_empty());
        index.apply(&[(serial(1), revoked()), (serial(2), revoked()), (serial(3), revoked())]);
        let ours = |share: &Share| {
            let (taken, filter) = (share.take_changes(), share.filter());
            taken.into_keys().filter(|serial| filter(serial)).collect::<Vec<_>>()
        };
        let parts: Vec<(Part, Vec<Serial>)> = shares.iter().map(|share| (share.part(), ours(share))).collect();
        assert_eq!(
            parts,
            [
                (Part::Kind(Kind::User), vec![serial(1), serial(3)]),
                (Part::Kind(Kind::Ca), vec![serial(2), serial(3)]),
                (Part::Whole, vec![serial(1), serial(2), serial(3)]),
            ]
        );
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
        let index = begun();
        let shares = Share::divided(Arc::clone(&index), shards(7), true);
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
    async fn one_look_through_the_index_is_enough_for_the_start_of_all() {
        for division in [shards(7), Division::Kinds] {
            let index = begun();
            index.apply(&(0..500).map(|n| (serial(n), revoked())).collect::<Vec<_>>());
            let shares = Share::divided(Arc::clone(&index), division, true);
            let mut views = Vec::new();
            for share in &shares {
                let (beginning, ours) = (share.beginning().await.unwrap(), share.filter());
                let found: Vec<Serial> = beginning.revoked.iter().map(|known| known.serial).collect();
                let expected: std::collections::BTreeSet<Serial> = (0..500).map(serial).filter(ours).collect();
                assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{:?}", share.part());
                views.push(beginning.view);
            }
            assert!(views.iter().all(|view| Arc::ptr_eq(view, &views[0])));
            // Whoever begins again has made lists meanwhile: what was found then is too old.
            index.apply(&[(serial(1_000), revoked())]);
            let whole = shares.last().unwrap().beginning().await.unwrap();
            assert_eq!(whole.revoked.len(), 501);
            assert!(!Arc::ptr_eq(&whole.view, &views[0]));
        }
    }

    #[tokio::test]
    async fn all_publishers_wake_though_the_index_wakes_one() {
        let index = begun();
        let shares = Share::divided(Arc::clone(&index), shards(4), true);
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
        let index = begun();
        index.keep_shards();
        let shares = Share::divided(Arc::clone(&index), shards(4), false);
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
