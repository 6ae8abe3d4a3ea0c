//! The revocation index of one issuer: which serials were issued, and what is to be said of each.
//!
//! Goes in: records, in batches, from the feed. Comes out: [`View`]s, immutable states that readers take
//! without waiting or locking, and the changes that a CRL must carry. It knows nothing of databases,
//! requests or signatures.
//!
//! Invariants: a view never changes; a batch becomes visible as a whole; applying the same record twice
//! changes nothing; lookups are exact, never a probability (SEC-15).

mod base;
mod overlay;

use crate::pki::{Serial, Status, Time};
use arc_swap::{ArcSwap, Guard};
use base::{Base, KeyedHash};
use overlay::Overlay;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use tokio::sync::Notify;

/// What is known of an issued certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// notBefore of the certificate.
    pub not_before: Time,
    /// notAfter of the certificate.
    pub not_after: Time,
    /// Good, or revoked when and why.
    pub status: Status,
    /// The second, by the feed's `as_of`, at which this node learned the present status; zero for one
    /// that stood long before anything was signed here. No answer may be dated before it (promise 2).
    pub since: Time,
    /// SHA-256 of the certificate, where it is known and wanted; takes 32 octets more.
    pub sha256: Option<[u8; 32]>,
}

/// What became of a serial since the changes were last taken; several changes fold into one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// The present record.
    pub record: Record,
    /// A hold on it was lifted in between, whatever came after.
    pub released: bool,
}

/// One state of the index. Holding it keeps it; it never changes.
#[derive(Clone, Debug)]
pub struct View {
    base: Base,
    /// Changes that are being merged into the base, segment by segment.
    frozen: Arc<Overlay>,
    /// Changes since then.
    active: Arc<Overlay>,
}

impl View {
    /// What is known of `serial`; `None` if it was never issued as far as the index knows.
    #[must_use]
    pub fn get(&self, serial: &Serial) -> Option<Record> {
        let recent = self.active.get(serial).or_else(|| self.frozen.get(serial));
        recent.map_or_else(|| self.base.get(serial), |record| *record)
    }

    /// Calls `each` with every revoked or held certificate, in no order.
    pub fn for_each_revoked(&self, mut each: impl FnMut(Serial, Record)) {
        self.for_each(|serial, record| {
            if record.status != Status::Good {
                each(serial, record);
            }
        });
    }

    /// Calls `each` with every issued certificate, in no order.
    pub fn for_each(&self, mut each: impl FnMut(Serial, Record)) {
        let newer = |serial: &Serial| self.active.contains_key(serial) || self.frozen.contains_key(serial);
        self.base.for_each(|serial, record| {
            if !newer(&serial) {
                each(serial, record);
            }
        });
        self.for_each_recent(each);
    }

    /// Calls `each` with every issued certificate of one part of the index, in no order, and returns the
    /// number of the next part; the first is 0. For those who look through all of it a little at a time:
    /// views of different moments may have different parts, so that one may come twice or not at all.
    pub fn for_each_of_part(&self, part: usize, mut each: impl FnMut(Serial, Record)) -> Option<usize> {
        let newer = |serial: &Serial| self.active.contains_key(serial) || self.frozen.contains_key(serial);
        if part == 0 {
            self.for_each_recent(&mut each);
        }
        self.base.for_each_of_segment(part, |serial, record| {
            if !newer(&serial) {
                each(serial, record);
            }
        })
    }

    fn for_each_recent(&self, mut each: impl FnMut(Serial, Record)) {
        for (serial, record) in self.frozen.iter().filter(|(serial, _)| !self.active.contains_key(serial)) {
            record.iter().for_each(|record| each(*serial, *record));
        }
        for (serial, record) in self.active.iter() {
            record.iter().for_each(|record| each(*serial, *record));
        }
    }
}

/// The index; shared by the feed, which writes, and everyone who answers.
#[derive(Debug)]
pub struct Index {
    view: ArcSwap<View>,
    /// Held by whoever makes the next view; readers never touch it.
    writer: Mutex<()>,
    changes: Mutex<BTreeMap<Serial, Change>>,
    changed: Notify,
    /// Whether anybody has asked for the changes.
    followed: AtomicBool,
    /// Unix seconds; [`NEVER`] until the feed has reported.
    as_of: AtomicI64,
    /// Unix seconds; [`NEVER`] where no end was set.
    until: AtomicI64,
    complete: AtomicBool,
    issued: AtomicU64,
    /// The shards that the database names, if anybody asked for them to be kept.
    shards: OnceLock<RwLock<HashMap<Serial, u32>>>,
}

const NEVER: i64 = i64::MIN;

/// A good record older than this needs no [`Record::since`] any more: no answer lives so long (BR-09).
const FORGET_SINCE: std::time::Duration = std::time::Duration::from_secs(11 * 86_400);

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// An empty index that claims nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let hash = KeyedHash::random();
        let view = View {
            base: Base::new(hash.clone()),
            frozen: Arc::new(Overlay::new(&hash)),
            active: Arc::new(Overlay::new(&hash)),
        };
        Self {
            view: ArcSwap::from_pointee(view),
            writer: Mutex::new(()),
            changes: Mutex::default(),
            changed: Notify::new(),
            followed: AtomicBool::new(false),
            as_of: AtomicI64::new(NEVER),
            until: AtomicI64::new(NEVER),
            complete: AtomicBool::new(false),
            issued: AtomicU64::new(0),
            shards: OnceLock::new(),
        }
    }

    /// The present state. Take it once per request, so that a request sees one state.
    #[must_use]
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Up to when the index is known to agree with the database. Read it *before* [`Index::view`]: the
    /// view is then at least as new as it says.
    #[must_use]
    pub fn as_of(&self) -> Option<Time> {
        let seconds = self.as_of.load(Ordering::Acquire);
        (seconds != NEVER).then(|| Time::from_unix(seconds))
    }

    /// The feed vouches for everything up to `as_of`; it never goes back.
    pub fn vouch(&self, as_of: Time) {
        self.as_of.fetch_max(as_of.unix(), Ordering::AcqRel);
    }

    /// The end of what the source vouches for, where it sets one: nextUpdate of the CRL that is the source. Read it
    /// *before* [`Index::as_of`]: that is then at least as new.
    #[must_use]
    pub fn until(&self) -> Option<Time> {
        let seconds = self.until.load(Ordering::Acquire);
        (seconds != NEVER).then(|| Time::from_unix(seconds))
    }

    /// What the source vouched for last holds until then and no longer.
    pub fn hold_until(&self, until: Time) {
        self.until.store(until.unix(), Ordering::Release);
    }

    /// Whether the feed has reached the database's head since the start; before that only known
    /// revocations may be answered (promise 12).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The feed has reached the database's head.
    pub fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Certificates known; exact after each call that changes them.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// From now on the CRL shards that the database names are kept; about 40 bytes for each certificate.
    pub fn keep_shards(&self) {
        _ = self.shards.get_or_init(RwLock::default);
    }

    /// Notes the CRL shards that the database names, before the records are applied, if anybody asked for
    /// it. A certificate's shard never changes (CRL-70): returns those for which it would.
    pub fn assign(&self, shards: &[(Serial, u32)]) -> Vec<Serial> {
        let Some(known) = self.shards.get() else { return Vec::new() };
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        let mut moved = Vec::new();
        for (serial, shard) in shards {
            if known.entry(*serial).or_insert(*shard) != shard {
                moved.push(*serial);
            }
        }
        moved
    }

    /// The CRL shard of `serial`, if the database named one and it is kept.
    #[must_use]
    pub fn shard(&self, serial: &Serial) -> Option<u32> {
        self.shards.get()?.read().unwrap_or_else(PoisonError::into_inner).get(serial).copied()
    }

    /// Makes a small batch visible at once. A record that says what is already known is passed over, so
    /// that a replay is harmless; one that keeps the status keeps its `since`. Returns how many changed.
    pub fn apply(&self, batch: &[(Serial, Record)]) -> usize {
        let _writer = lock(&self.writer);
        let view = self.view.load();
        let mut active = None;
        let mut applied = 0;
        for (serial, record) in batch {
            let newest = active.get_or_insert_with(|| Overlay::clone(&view.active));
            let known = newest.get(serial).map_or_else(|| view.get(serial), |record| *record);
            if let Some(record) = self.note(*serial, known, *record) {
                newest.insert(*serial, Some(record));
                applied += 1;
            }
        }
        if let Some(active) = active.filter(|_| applied > 0) {
            let mut next = View::clone(&view);
            next.active = Arc::new(active);
            self.publish(next);
        }
        self.merge(applied);
        applied
    }

    /// Merges a large batch straight into the base: for the first load, where copying the overlay for
    /// every thousand rows would cost more than the rows. Later rows of one serial win.
    pub fn load(&self, batch: Vec<(Serial, Record)>) -> usize {
        let _writer = lock(&self.writer);
        let view = self.view.load();
        let mut fresh = Overlay::new(view.base.hash());
        for (serial, record) in batch {
            let known = fresh.get(&serial).map_or_else(|| view.get(&serial), |record| *record);
            if let Some(record) = self.note(serial, known, record) {
                fresh.insert(serial, Some(record));
            }
        }
        let applied = fresh.len();
        // What the overlays hold of these serials is older and would hide them.
        let without = |overlay: &Arc<Overlay>| {
            let stale = overlay.keys().any(|serial| fresh.contains_key(serial));
            if stale { Arc::new(overlay.without(&fresh)) } else { Arc::clone(overlay) }
        };
        let (frozen, active) = (without(&view.frozen), without(&view.active));
        let mut base = view.base.clone();
        base.merge_all(&fresh, self.forget_before());
        self.publish(View { base, frozen, active });
        applied
    }

    /// Lets go of certificates that were never issued after all, on an operator's word: from now on nothing is
    /// known of them. One that was revoked is noted as a change to good without a release, which leaves its
    /// CRL entry where it is until an operator decides about that too (promise 6). Returns how many were known.
    pub fn forget(&self, serials: &[Serial]) -> usize {
        let _writer = lock(&self.writer);
        let view = self.view.load();
        let mut active = Overlay::clone(&view.active);
        let mut forgotten = 0;
        for serial in serials {
            let Some(known) = active.get(serial).map_or_else(|| view.get(serial), |record| *record) else { continue };
            if known.status != Status::Good {
                let record = Record { status: Status::Good, since: self.as_of().unwrap_or_default(), ..known };
                self.tell(*serial, Change { record, released: false });
            }
            active.insert(*serial, None);
            forgotten += 1;
        }
        if forgotten > 0 {
            self.issued.fetch_sub(u64::try_from(forgotten).unwrap_or(0), Ordering::Relaxed);
            self.publish(View { active: Arc::new(active), ..View::clone(&view) });
            self.merge(forgotten);
        }
        forgotten
    }

    /// Does a little of the merging that is due; the feed calls it when it has nothing else to do.
    pub fn tidy(&self) {
        let _writer = lock(&self.writer);
        self.merge(1);
    }

    /// What relying parties must learn through a CRL since this was last called: only changes from or to
    /// revoked. Bounded by the number of certificates, since changes of one serial fold into one. Before the
    /// first call only releases are kept: whoever begins has to compare all of the view with what is published,
    /// and a million revocations that a start loads would take 130 MB.
    #[must_use]
    pub fn take_changes(&self) -> BTreeMap<Serial, Change> {
        if !self.followed.load(Ordering::Acquire) {
            // What is being made visible just now, and was not kept, is in the view of whoever asks.
            let _writer = lock(&self.writer);
            self.followed.store(true, Ordering::Release);
        }
        std::mem::take(&mut *lock(&self.changes))
    }

    /// Resolves when [`Index::take_changes`] has, or had, something to give. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The record to store, if it says anything new, with its change noted down for the CRL.
    fn note(&self, serial: Serial, known: Option<Record>, mut record: Record) -> Option<Record> {
        if let Some(known) = known
            && known.status == record.status
        {
            record.since = known.since;
            return (known != record).then_some(record);
        }
        if known.is_none() {
            self.issued.fetch_add(1, Ordering::Relaxed);
        }
        let was = known.map_or(Status::Good, |known| known.status);
        if was != Status::Good || record.status != Status::Good {
            let released = was.is_hold() && record.status == Status::Good;
            self.tell(serial, Change { record, released });
        }
        Some(record)
    }

    fn tell(&self, serial: Serial, change: Change) {
        if !change.released && !self.followed.load(Ordering::Acquire) {
            return;
        }
        lock(&self.changes)
            .entry(serial)
            .and_modify(|older| *older = Change { released: older.released || change.released, ..change })
            .or_insert(change);
        self.changed.notify_one();
    }

    fn publish(&self, next: View) {
        self.view.store(Arc::new(next));
    }

    fn forget_before(&self) -> Time {
        self.as_of().map_or_else(Time::default, |as_of| as_of - FORGET_SINCE)
    }

    /// Keeps the overlay small: past its limit it is frozen, and segments of the base take in their share of
    /// it, in proportion to the `changes` just made, so that all are done when the next overlay is full. A
    /// segment takes some milliseconds, and the next revocation waits for it. Should the next overlay fill up
    /// meanwhile, the writer pays the rest at once: it holds back the feed, never the readers. The caller
    /// holds the writer's lock.
    fn merge(&self, changes: usize) {
        let view = self.view.load();
        if view.frozen.is_empty() && view.active.len() < overlay::LIMIT {
            return;
        }
        let mut next = View::clone(&view);
        if next.frozen.is_empty() {
            next.frozen = Arc::clone(&next.active);
            next.active = Arc::new(Overlay::new(next.base.hash()));
            next.base.begin_merge();
        }
        let share = changes.saturating_mul(next.base.slots()).div_ceil(overlay::LIMIT);
        let steps = if next.active.len() >= overlay::LIMIT { usize::MAX } else { share };
        let forget_before = self.forget_before();
        for _ in 0..steps {
            if next.base.merge_next(&next.frozen, forget_before) {
                next.frozen = Arc::new(Overlay::new(next.base.hash()));
                break;
            }
        }
        self.publish(next);
    }
}

/// A panic elsewhere leaves these structures whole, because each is changed by one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stdout)]
    use super::*;
    use crate::pki::{Reason, Revocation};
    use std::collections::HashMap;

    fn serial(n: u64) -> Serial {
        Serial::from_magnitude(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).unwrap()
    }

    fn record(status: Status, since: i64) -> Record {
        let year = std::time::Duration::from_secs(365 * 86_400);
        let not_before = Time::from_unix(1_790_000_000);
        Record { not_before, not_after: not_before + year, status, since: Time::from_unix(since), sha256: None }
    }

    fn revoked(at: i64, reason: Reason) -> Status {
        Status::Revoked(Revocation { at: Time::from_unix(at), reason, invalidity_date: None })
    }

    #[test]
    fn an_index_says_what_a_map_says_through_loads_batches_and_merges() {
        let seed = 20_261_122_u64;
        println!("seed {seed}");
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let index = Index::new();
        let mut model = HashMap::new();
        let hash = |n: u64| n.is_multiple_of(3).then(|| [n.to_le_bytes()[0]; 32]);
        let issued: Vec<_> =
            (0..150_000).map(|n| (serial(n), Record { sha256: hash(n), ..record(Status::Good, 0) })).collect();
        model.extend(issued.iter().copied());
        index.load(issued);
        for round in 0..60 {
            let batch: Vec<_> = (0..1_000)
                .map(|_| {
                    let status = match random(3) {
                        0 => Status::Good,
                        1 => revoked(1_790_000_000 + round, Reason::CertificateHold),
                        _ => revoked(1_790_000_000 + round, Reason::Superseded),
                    };
                    (serial(random(170_000)), record(status, round))
                })
                .collect();
            index.apply(&batch);
            for (serial, record) in batch {
                let kept = model.get(&serial).filter(|known: &&Record| known.status == record.status).map(|k| k.since);
                model.insert(serial, Record { since: kept.unwrap_or(record.since), ..record });
            }
        }
        let view = index.view();
        for n in 0..175_000 {
            assert_eq!(view.get(&serial(n)), model.get(&serial(n)).copied(), "{n}");
        }
        let mut seen = HashMap::new();
        view.for_each(|serial, record| assert!(seen.insert(serial, record).is_none(), "{serial} came twice"));
        assert_eq!(seen, model);
        assert_eq!(index.issued(), model.len() as u64);
    }

    #[test]
    fn a_small_batch_does_not_pay_for_merging_the_whole_overlay() {
        let index = Index::new();
        index.load((0..400_000).map(|n| (serial(n), record(Status::Good, 0))).collect());
        assert!(index.view().base.slots() >= 4);
        let revoke = |range: std::ops::Range<u64>| {
            let status = revoked(1_790_000_000, Reason::Superseded);
            index.apply(&range.map(|n| (serial(n), record(status, 1))).collect::<Vec<_>>())
        };
        let limit = u64::try_from(overlay::LIMIT).unwrap();
        revoke(0..limit - 1);
        revoke(limit - 1..limit + 99);
        assert!(!index.view().frozen.is_empty(), "all segments were rewritten for a batch of 100");
        let mut at = limit + 99;
        while !index.view().frozen.is_empty() {
            revoke(at..at + 1_000);
            at += 1_000;
        }
        assert!(at < 2 * limit, "the next overlay was full before: {at}");
        let view = index.view();
        assert!((0..at).all(|n| view.get(&serial(n)).unwrap().status != Status::Good));
    }

    #[test]
    fn a_view_in_hand_does_not_change_and_a_replay_changes_nothing() {
        let index = Index::new();
        index.apply(&[(serial(1), record(Status::Good, 5))]);
        let before = index.view();
        let batch = [(serial(1), record(revoked(7, Reason::KeyCompromise), 7))];
        assert_eq!(index.apply(&batch), 1);
        assert_eq!(before.get(&serial(1)).unwrap().status, Status::Good);
        assert_eq!(index.apply(&[(serial(1), record(revoked(7, Reason::KeyCompromise), 9))]), 0);
        assert_eq!(index.view().get(&serial(1)).unwrap().since, Time::from_unix(7));
    }

    #[test]
    fn what_is_let_go_of_is_unknown_through_every_merge_and_can_come_again() {
        let index = Index::new();
        index.load((0..40_000).map(|n| (serial(n), record(Status::Good, 0))).collect());
        index.apply(&[(serial(1), record(revoked(1, Reason::KeyCompromise), 1))]);
        index.vouch(Time::from_unix(9));
        _ = index.take_changes();
        assert_eq!(index.forget(&[serial(1), serial(2), serial(2), serial(77_777)]), 2);
        assert_eq!(index.forget(&[serial(1)]), 0);
        let told = index.take_changes();
        assert_eq!(told.keys().collect::<Vec<_>>(), [&serial(1)], "that 2 is gone concerns no CRL");
        assert_eq!((told[&serial(1)].record.status, told[&serial(1)].released), (Status::Good, false));
        assert_eq!(told[&serial(1)].record.since, Time::from_unix(9));
        let check = |gone: &[u64], issued: u64| {
            let view = index.view();
            assert!(gone.iter().all(|n| view.get(&serial(*n)).is_none()));
            assert_eq!(index.issued(), issued);
            let mut seen = 0;
            view.for_each(|_, _| seen += 1);
            let (mut parts, mut part) = (0, Some(0));
            while let Some(number) = part {
                part = view.for_each_of_part(number, |_, _| parts += 1);
            }
            assert_eq!((seen, parts), (issued, issued));
        };
        check(&[1, 2], 39_998);
        for round in 0..60 {
            let status = revoked(2 + round, Reason::Superseded);
            index.apply(&(1_000..3_000).map(|n| (serial(n), record(status, 2 + round))).collect::<Vec<_>>());
            index.tidy();
        }
        check(&[1, 2], 39_998);
        index.apply(&[(serial(2), record(Status::Good, 70))]);
        check(&[1], 39_999);
        assert_eq!(index.view().get(&serial(2)).unwrap().since, Time::from_unix(70));
    }

    #[test]
    fn changes_fold_and_remember_a_release() {
        let index = Index::new();
        index.apply(&[(serial(1), record(Status::Good, 0)), (serial(2), record(Status::Good, 0))]);
        assert!(index.take_changes().is_empty(), "an issued certificate is no news for a CRL");
        index.apply(&[(serial(1), record(revoked(1, Reason::CertificateHold), 1))]);
        index.apply(&[(serial(1), record(Status::Good, 2))]);
        index.apply(&[(serial(1), record(revoked(3, Reason::KeyCompromise), 3))]);
        index.apply(&[(serial(2), record(revoked(3, Reason::Superseded), 3))]);
        let changes = index.take_changes();
        assert_eq!(changes.len(), 2);
        assert!(changes[&serial(1)].released && changes[&serial(1)].record.status != Status::Good);
        assert!(!changes[&serial(2)].released);
        assert!(index.take_changes().is_empty());
    }

    #[test]
    fn before_anybody_asks_only_releases_are_kept() {
        let index = Index::new();
        let held = |n: u64| (serial(n), record(revoked(1, Reason::CertificateHold), 1));
        index.load((0..1_000).map(held).collect());
        index.apply(&[(serial(7), record(Status::Good, 2))]);
        let changes = index.take_changes();
        assert_eq!(
            changes.into_iter().map(|(serial, change)| (serial, change.released)).collect::<Vec<_>>(),
            [(serial(7), true)]
        );
        index.apply(&[held(7)]);
        assert_eq!(index.take_changes().len(), 1);
    }

    #[test]
    fn as_of_never_goes_back() {
        let index = Index::new();
        assert_eq!(index.as_of(), None);
        index.vouch(Time::from_unix(10));
        index.vouch(Time::from_unix(9));
        assert_eq!(index.as_of(), Some(Time::from_unix(10)));
    }
}
