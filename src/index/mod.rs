//! The revocation index of one issuer: which serials were issued, and what is to be said of each.
//!
//! Goes in: records, in batches, from the feed. Comes out: [`View`]s, immutable states that readers take
//! without waiting or locking, and the changes that a CRL must carry. It knows nothing of databases,
//! requests or signatures.
//!
//! Invariants: a view never changes; a batch becomes visible as a whole; applying the same record twice
//! changes nothing; lookups are exact, never a probability (SEC-15).

mod base;
pub mod file;
mod memory;
mod overlay;
mod segment;
mod staging;

use crate::pki::{Serial, Status, Time};
use arc_swap::{ArcSwap, Guard};
use base::{Base, Editor, KeyedHash};
use overlay::Update;
use segment::Entry;
use staging::Staging;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
}

impl View {
    /// What is known of `serial`; `None` if it was never issued as far as the index knows.
    #[must_use]
    pub fn get(&self, serial: &Serial) -> Option<Record> {
        self.base.get(serial).map(|entry| entry.record)
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
    pub fn for_each(&self, each: impl FnMut(Serial, Record)) {
        self.base.for_each(each);
    }

    /// Calls `each` with every issued certificate of one part of the index, in no order, and returns the
    /// number of the next part; the first is 0. For those who look through all of it a little at a time:
    /// views of different moments may have different parts, so that one may come twice or not at all.
    pub fn for_each_of_part(&self, part: usize, each: impl FnMut(Serial, Record)) -> Option<usize> {
        self.base.for_each_of_part(part, each)
    }

    /// Octets of memory that the packed records take; what has changed in the last minutes is not counted.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.base.octets()
    }
}

/// The index; shared by the feed, which writes, and everyone who answers.
#[derive(Debug)]
pub struct Index {
    view: ArcSwap<View>,
    /// Held by whoever makes the next view; readers never touch it.
    writer: Mutex<Writer>,
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
    /// Whether anybody asked for the shards that the database names to be kept.
    shards: AtomicBool,
}

/// What only writers need.
#[derive(Debug, Default)]
struct Writer {
    /// Segments that are due to be merged, for [`Editor`].
    due: Vec<u64>,
    staging: Staging,
    /// Shards of certificates whose records have not come yet.
    assigned: HashMap<Serial, u32>,
    /// Views that a reader may still hold. The last to let go of one frees whole segments, and that shall not
    /// be the reader.
    retired: Vec<Arc<View>>,
}

const NEVER: i64 = i64::MIN;

/// Rows that are staged before they are merged, at least; more when the index is large.
const STAGED: usize = 65_536;

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
        Self {
            view: ArcSwap::from_pointee(View { base: Base::new(KeyedHash::random()) }),
            writer: Mutex::default(),
            changes: Mutex::default(),
            changed: Notify::new(),
            followed: AtomicBool::new(false),
            as_of: AtomicI64::new(NEVER),
            until: AtomicI64::new(NEVER),
            complete: AtomicBool::new(false),
            issued: AtomicU64::new(0),
            shards: AtomicBool::new(false),
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

    /// The feed vouches for no more than `as_of`, whatever it said before: the clock was wrong then.
    pub fn vouch_anew(&self, as_of: Time) {
        self.as_of.store(as_of.unix(), Ordering::Release);
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
        self.settle();
        self.complete.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Certificates known; exact after each call that changes them, but for those that are staged.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// From now on the CRL shards that the database names are kept; four bytes for each certificate.
    pub fn keep_shards(&self) {
        self.shards.store(true, Ordering::Relaxed);
    }

    /// Whether anybody asked for that.
    #[must_use]
    pub fn keeps_shards(&self) -> bool {
        self.shards.load(Ordering::Relaxed)
    }

    /// Notes the CRL shards that the database names, before the records are applied, if anybody asked for
    /// it. A certificate's shard never changes (CRL-70): returns those for which it would.
    pub fn assign(&self, shards: &[(Serial, u32)]) -> Vec<Serial> {
        if !self.keeps_shards() {
            return Vec::new();
        }
        let (mut writer, view) = (lock(&self.writer), self.view.load());
        let mut moved = Vec::new();
        for (serial, shard) in shards {
            let known = view.base.get(serial).and_then(|entry| entry.shard);
            if known.unwrap_or_else(|| *writer.assigned.entry(*serial).or_insert(*shard)) != *shard {
                moved.push(*serial);
            }
        }
        moved
    }

    /// The CRL shard of `serial`, if the database named one and it is kept.
    #[must_use]
    pub fn shard(&self, serial: &Serial) -> Option<u32> {
        if !self.keeps_shards() {
            return None;
        }
        let known = self.view.load().base.get(serial).and_then(|entry| entry.shard);
        known.or_else(|| lock(&self.writer).assigned.get(serial).copied())
    }

    /// Makes a small batch visible at once. A record that says what is already known is passed over, so
    /// that a replay is harmless; one that keeps the status keeps its `since`. Returns how many changed.
    pub fn apply(&self, batch: &[(Serial, Record)]) -> usize {
        let mut writer = lock(&self.writer);
        let Writer { due, assigned, .. } = &mut *writer;
        let view = self.view.load_full();
        let mut editor = Editor::new(&view.base, due, self.forget_before());
        let mut applied = 0;
        for (serial, record) in batch {
            let hash = view.base.hash().of(serial.as_bytes());
            let known = editor.get(hash, serial);
            if let Some(entry) = self.note(*serial, known, *record, assigned) {
                editor.put(Update { hash, serial: *serial, entry: Some(entry) });
                applied += 1;
            }
        }
        let base = editor.finish();
        drop(view);
        if applied > 0 {
            self.publish(&mut writer, base);
        }
        self.merge(&mut writer, applied);
        applied
    }

    /// Makes a large batch visible and merges it. Later rows of one serial win.
    pub fn load(&self, batch: Vec<(Serial, Record)>) -> usize {
        let mut writer = lock(&self.writer);
        let rows = batch.into_iter().map(|(serial, record)| {
            let shard = writer.assigned.get(&serial).copied();
            (serial, Entry { record, shard })
        });
        let rows = rows.collect();
        self.take_in(&mut writer, rows)
    }

    /// As [`Index::load`], for one page of very many rows: certificates that are good and were not known may
    /// wait until [`Index::settle`], so that the index is not rewritten for each page. Before the index is complete
    /// all of them do, since nobody is told of them then.
    pub fn stage(&self, page: Vec<(Serial, Record)>) {
        let mut writer = lock(&self.writer);
        let Writer { staging, assigned, .. } = &mut *writer;
        let view = self.view.load_full();
        let mut at_once = Vec::new();
        for (serial, record) in page {
            let shard = assigned.get(&serial).copied();
            let entry = Entry { record, shard };
            let hash = view.base.hash().of(serial.as_bytes());
            if record.status == Status::Good && view.base.find(hash, &serial).is_none() {
                if shard.is_some() {
                    assigned.remove(&serial);
                }
                staging.push(hash, &serial, &entry);
            } else {
                at_once.push((serial, entry));
            }
        }
        drop(view);
        self.take_in(&mut writer, at_once);
        let eighth = usize::try_from(self.issued() / 8).unwrap_or(usize::MAX);
        if self.is_complete() && writer.staging.len() >= STAGED.max(eighth) {
            self.settle_now(&mut writer);
        }
    }

    /// Makes visible what is staged.
    pub fn settle(&self) {
        self.settle_now(&mut lock(&self.writer));
    }

    fn settle_now(&self, writer: &mut Writer) {
        if writer.staging.len() == 0 {
            return;
        }
        let view = self.view.load_full();
        let pieces = writer.staging.take(view.base.len(), view.base.hash().clone());
        drop(view);
        for mut rows in pieces {
            let view = self.view.load_full();
            // What has come by another way since then is newer.
            rows.retain(|row| view.base.find(row.hash, &row.serial).is_none());
            if !writer.assigned.is_empty() {
                for row in &mut rows {
                    let told = writer.assigned.remove(&row.serial);
                    row.entry = row.entry.map(|entry| Entry { shard: entry.shard.or(told), ..entry });
                }
            }
            let mut editor = Editor::new(&view.base, &mut writer.due, self.forget_before());
            editor.put_all(&rows);
            let base = editor.finish();
            drop(view);
            self.issued.fetch_add(u64::try_from(rows.len()).unwrap_or(0), Ordering::Relaxed);
            self.publish(writer, base);
        }
    }

    /// Merges `rows`; returns how many said anything new.
    fn take_in(&self, writer: &mut Writer, rows: Vec<(Serial, Entry)>) -> usize {
        let Writer { due, assigned, .. } = writer;
        let view = self.view.load_full();
        let hashed = rows.into_iter().map(|(serial, entry)| (view.base.hash().of(serial.as_bytes()), serial, entry));
        let mut rows: Vec<_> = hashed.collect();
        rows.sort_by_key(|(hash, ..)| *hash);
        let mut updates: Vec<Update> = Vec::with_capacity(rows.len());
        for (hash, serial, entry) in rows {
            let same = updates.iter().rposition(|update| update.hash != hash).map_or(0, |at| at + 1);
            let earlier =
                updates.get_mut(same..).and_then(|same| same.iter_mut().find(|update| update.serial == serial));
            let known = earlier.as_ref().map_or_else(|| view.base.get(&serial), |update| update.entry);
            if let Some(entry) = self.note_entry(serial, known, entry, assigned) {
                let update = Update { hash, serial, entry: Some(entry) };
                match earlier {
                    Some(earlier) => *earlier = update,
                    None => updates.push(update),
                }
            }
        }
        if !updates.is_empty() {
            let mut editor = Editor::new(&view.base, due, self.forget_before());
            editor.put_all(&updates);
            let base = editor.finish();
            drop(view);
            self.publish(writer, base);
        }
        updates.len()
    }

    /// Lets go of certificates that were never issued after all, on an operator's word: from now on nothing is
    /// known of them. One that was revoked is noted as a change to good without a release, which leaves its
    /// CRL entry where it is until an operator decides about that too (promise 6). Returns how many were known.
    pub fn forget(&self, serials: &[Serial]) -> usize {
        let mut writer = lock(&self.writer);
        self.settle_now(&mut writer);
        let view = self.view.load_full();
        let mut editor = Editor::new(&view.base, &mut writer.due, self.forget_before());
        let mut forgotten = 0;
        for serial in serials {
            let hash = view.base.hash().of(serial.as_bytes());
            let Some(Entry { record: known, .. }) = editor.get(hash, serial) else { continue };
            if known.status != Status::Good {
                let record = Record { status: Status::Good, since: self.as_of().unwrap_or_default(), ..known };
                self.tell(*serial, Change { record, released: false });
            }
            editor.put(Update { hash, serial: *serial, entry: None });
            forgotten += 1;
        }
        let base = editor.finish();
        drop(view);
        if forgotten > 0 {
            self.issued.fetch_sub(u64::try_from(forgotten).unwrap_or(0), Ordering::Relaxed);
            self.publish(&mut writer, base);
            self.merge(&mut writer, forgotten);
        }
        forgotten
    }

    /// Does a little of the merging that is due; the feed calls it when it has nothing else to do.
    pub fn tidy(&self) {
        let mut writer = lock(&self.writer);
        writer.retired.retain(|view| Arc::strong_count(view) > 1);
        self.merge(&mut writer, 0);
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

    /// The entry to store, if it says anything new, with its change noted down for the CRL.
    fn note(
        &self,
        serial: Serial,
        known: Option<Entry>,
        record: Record,
        assigned: &mut HashMap<Serial, u32>,
    ) -> Option<Entry> {
        self.note_entry(serial, known, Entry { record, shard: None }, assigned)
    }

    fn note_entry(
        &self,
        serial: Serial,
        known: Option<Entry>,
        mut entry: Entry,
        assigned: &mut HashMap<Serial, u32>,
    ) -> Option<Entry> {
        // A certificate's shard never changes (CRL-70).
        let told = assigned.remove(&serial);
        entry.shard = known.and_then(|known| known.shard).or(entry.shard).or(told);
        if let Some(known) = known
            && known.record.status == entry.record.status
        {
            entry.record.since = known.record.since;
            return (known != entry).then_some(entry);
        }
        if known.is_none() {
            self.issued.fetch_add(1, Ordering::Relaxed);
        }
        let (was, record) = (known.map_or(Status::Good, |known| known.record.status), entry.record);
        if was != Status::Good || record.status != Status::Good {
            let released = was.is_hold() && record.status == Status::Good;
            self.tell(serial, Change { record, released });
        }
        Some(entry)
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

    fn publish(&self, writer: &mut Writer, base: Base) {
        writer.retired.push(self.view.swap(Arc::new(View { base })));
        writer.retired.retain(|view| Arc::strong_count(view) > 1);
    }

    fn forget_before(&self) -> Time {
        self.as_of().map_or_else(Time::default, |as_of| as_of - FORGET_SINCE)
    }

    /// Merges a few of the segments that are due, one by one, when `changes` have just been made. It takes some
    /// milliseconds for each, and the next revocation waits for it. Should more become due than are merged,
    /// the writer pays at twice the limit: it holds back the feed, never the readers.
    fn merge(&self, writer: &mut Writer, changes: usize) {
        if writer.due.is_empty() {
            return;
        }
        let view = self.view.load_full();
        let mut editor = Editor::new(&view.base, &mut writer.due, self.forget_before());
        editor.merge_due(1 + changes / 256);
        let base = editor.finish();
        drop(view);
        self.publish(writer, base);
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
    use std::collections::BTreeSet;

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
            (0..50_000).map(|n| (serial(n), Record { sha256: hash(n), ..record(Status::Good, 0) })).collect();
        model.extend(issued.iter().copied());
        index.load(issued);
        for round in 0..25 {
            let batch: Vec<_> = (0..1_000)
                .map(|_| {
                    let status = match random(3) {
                        0 => Status::Good,
                        1 => revoked(1_790_000_000 + round, Reason::CertificateHold),
                        _ => revoked(1_790_000_000 + round, Reason::Superseded),
                    };
                    (serial(random(60_000)), record(status, round))
                })
                .collect();
            index.apply(&batch);
            for (serial, record) in batch {
                let kept = model.get(&serial).filter(|known: &&Record| known.status == record.status).map(|k| k.since);
                model.insert(serial, Record { since: kept.unwrap_or(record.since), ..record });
            }
        }
        let view = index.view();
        for n in 0..65_000 {
            assert_eq!(view.get(&serial(n)), model.get(&serial(n)).copied(), "{n}");
        }
        let mut seen = HashMap::new();
        view.for_each(|serial, record| assert!(seen.insert(serial, record).is_none(), "{serial} came twice"));
        assert_eq!(seen, model);
        assert_eq!(index.issued(), model.len() as u64);
    }

    #[test]
    fn a_small_batch_does_not_pay_for_merging_all_segments() {
        let index = Index::new();
        index.load((0..60_000).map(|n| (serial(n), record(Status::Good, 0))).collect());
        let segments = |index: &Index| index.view().base.segments();
        let before = segments(&index);
        assert!(before.len() >= 4);
        let (mut at, mut rewritten) = (0, BTreeSet::new());
        while rewritten.len() < before.len() {
            let was = segments(&index);
            let status = revoked(1_790_000_000, Reason::Superseded);
            index.apply(&(at..at + 100).map(|n| (serial(n), record(status, 1))).collect::<Vec<_>>());
            at += 100;
            let now = segments(&index);
            let others = was.iter().zip(&now).enumerate().filter(|(_, (was, now))| was != now);
            let others: Vec<_> = others.map(|(at, _)| at).collect();
            // The last of those that became due together may have twice its limit when it is another's turn.
            assert!(others.len() <= 2, "{} segments were rewritten for a batch of 100", others.len());
            rewritten.extend(others);
            assert!(at < 60_000, "some segments are never merged");
        }
        let view = index.view();
        assert!((0..at).all(|n| view.get(&serial(n)).unwrap().status != Status::Good));
    }

    /// What an index of `serials` takes for each, with one in `revoked` revoked.
    fn octets_each(serials: impl Iterator<Item = Serial>, one_in: usize) -> f64 {
        let index = Index::new();
        let status = |n: usize| match n.is_multiple_of(one_in) {
            true => revoked(1_790_000_000, Reason::KeyCompromise),
            false => Status::Good,
        };
        let rows: Vec<_> = serials.enumerate().map(|(n, serial)| (serial, record(status(n), 0))).collect();
        let count = rows.len();
        assert_eq!(index.load(rows), count);
        #[allow(clippy::cast_precision_loss)]
        let each = index.view().octets() as f64 / count as f64;
        each
    }

    #[test]
    fn a_certificate_takes_at_most_30_octets_and_16_more_if_it_is_revoked() {
        const COUNT: u64 = 100_000;
        let long = |octets: usize, n: u64| {
            let mut content = [0; 20];
            content[..8].copy_from_slice(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1 | 1 << 62).to_be_bytes());
            content[12..].copy_from_slice(&n.to_le_bytes());
            Serial::from_content(&content[20 - octets..]).or_else(|_| Serial::from_content(&content[..octets])).unwrap()
        };
        for (octets, most) in [(16, 30.0), (20, 34.0)] {
            let serials = || (0..COUNT).map(|n| long(octets, n));
            assert!(serials().all(|serial| serial.as_bytes().len() == octets));
            let all_good = octets_each(serials(), usize::MAX);
            assert!(all_good <= most, "{octets} octets: {all_good}");
            let all_revoked = octets_each(serials(), 1);
            assert!(all_revoked <= most + 16.0, "{octets} octets, revoked: {all_revoked}");
        }
        // A CA that counts gets no worse than that, and no longer runs than others.
        let counted = octets_each((1..COUNT).map(|n| Serial::from_magnitude(&n.to_be_bytes()).unwrap()), 100);
        assert!(counted <= 18.0, "{counted}");
    }

    #[test]
    fn odd_serials_and_odd_dates_come_back_as_they_were() {
        let far = |n: i64| Time::from_unix(n);
        let dates = [
            (far(-5_000_000_000), far(1)),
            (far(0), far(i64::from(u32::MAX))),
            (far(1), far(i64::from(u32::MAX) + 2)),
            (far(1_790_000_000), Time::MAX),
            (far(1_790_000_000), far(1_780_000_000)),
        ];
        let index = Index::new();
        index.keep_shards();
        let mut model = BTreeMap::new();
        for first in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            for len in 1..=20 {
                let content: Vec<u8> = (0..len).map(|at| if at == 0 { first } else { 0x80 ^ first ^ at }).collect();
                let Ok(serial) = Serial::from_content(&content) else { continue };
                let (not_before, not_after) = dates[usize::from(len) % dates.len()];
                let status = match len % 3 {
                    0 => Status::Good,
                    _ => Status::Revoked(Revocation {
                        at: far(7),
                        reason: Reason::AaCompromise,
                        invalidity_date: (len % 3 == 2).then_some(far(-9)),
                    }),
                };
                let sha256 = (len % 2 == 0).then_some([len; 32]);
                model.insert(serial, Record { not_before, not_after, status, since: far(i64::from(len)), sha256 });
            }
        }
        let shard = |serial: &Serial| u32::from(serial.as_bytes()[0]) << 20;
        assert!(index.assign(&model.keys().map(|serial| (*serial, shard(serial))).collect::<Vec<_>>()).is_empty());
        index.load(model.iter().map(|(serial, record)| (*serial, *record)).collect());
        // Pushed from the overlay into the segment.
        index.load((1_000..3_000).map(|n| (serial(n), record(Status::Good, 0))).collect());
        let view = index.view();
        for (serial, record) in &model {
            assert_eq!(view.get(serial).as_ref(), Some(record), "{serial}");
            assert_eq!(index.shard(serial), Some(shard(serial)), "{serial}");
        }
        assert_eq!(index.assign(&[("7F".parse().unwrap(), 1)]).len(), 1);
        assert_eq!(view.get(&serial(5)), None);
    }

    #[test]
    fn staged_certificates_are_there_when_it_is_settled_and_what_came_in_between_is_newer() {
        let index = Index::new();
        index.load(vec![(serial(1), record(revoked(1, Reason::CertificateHold), 1))]);
        _ = index.take_changes();
        let page =
            |range: std::ops::Range<u64>| range.map(|n| (serial(n), record(Status::Good, 5))).collect::<Vec<_>>();
        let news = record(revoked(7, Reason::KeyCompromise), 7);
        for from in (0..80).map(|n| n * 1_000) {
            index.stage(page(from..from + 1_000));
            // Said twice, by a row that moved while the pages were read.
            index.stage(page(from..from + 1));
        }
        index.stage(vec![(serial(3), news), (serial(80_001), news)]);
        assert_eq!(index.view().get(&serial(80_001)), Some(news), "a revocation does not wait");
        index.apply(&[(serial(79_999), news)]);
        index.settle();
        assert_eq!(index.issued(), 80_001);
        let view = index.view();
        assert!((4..79_999).all(|n| view.get(&serial(n)) == Some(record(Status::Good, 5))));
        for n in [3, 79_999, 80_001] {
            assert_eq!(view.get(&serial(n)), Some(news), "{n}");
        }
        let changes = index.take_changes();
        assert!(changes[&serial(1)].released && changes.len() == 4, "{changes:?}");
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
        for round in 0..10 {
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
