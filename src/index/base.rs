//! The parts of the index: immutable segments, each with what has changed in it since, found by a keyed hash
//! of the serial.
//!
//! The top bits of the hash choose a slot of the directory, the slot a segment and its overlay. A segment that
//! outgrows [`SPLIT_AT`] becomes two, each with one bit more; only then may the directory double (extendible
//! hashing), so that neither changes nor growth ever rewrite more than one segment at a time.
//!
//! Invariant: the seed is secret, so that no choice of serials, by an attacker or a CA's numbering, makes
//! a long run of slots.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::Record;
use super::overlay::{self, Overlay, Update};
use super::segment::{Entry, Row, Segment};
use crate::pki::{Serial, Time};
use foldhash::quality::FixedState;
use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

/// Records at which a segment is split. Half of it, 131,072 records, is the least a large index's segment has:
/// then most of it lies in huge pages, and rewriting it takes some milliseconds.
const SPLIT_AT: usize = if cfg!(test) { 16_384 } else { 262_144 };

/// Bits of a hash that the directory has at most: slots for a million million records.
const MOST_BITS: u32 = 24;

/// The index's hash function: foldhash under a secret seed.
#[derive(Clone)]
pub(super) struct KeyedHash {
    seed: u64,
    state: FixedState,
}

impl KeyedHash {
    /// A new secret seed, from the keys that the standard library draws from the operating system.
    pub(super) fn random() -> Self {
        Self::new(RandomState::new().hash_one(0))
    }

    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, state: FixedState::with_seed(seed) }
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Of a serial's content octets.
    pub(super) fn of(&self, content: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(content);
        hasher.finish()
    }
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedHash")
    }
}

/// A segment and what is newer.
#[derive(Clone, Debug, Default)]
struct Part {
    segment: Arc<Segment>,
    overlay: Option<Arc<Overlay>>,
}

impl Part {
    fn get(&self, hash: u64, serial: &Serial) -> Option<Entry> {
        if let Some(overlay) = &self.overlay
            && let Some(update) = overlay.get(hash, serial)
        {
            return update.entry;
        }
        self.segment.get(hash, serial)
    }

    /// Everything in it, in no order.
    fn for_each(&self, mut each: impl FnMut(Serial, Entry), hash: &KeyedHash) {
        let overlay = self.overlay.as_deref();
        for (serial, packed) in self.segment.records().filter_map(|packed| Some((packed.serial()?, packed))) {
            let is_newest = |overlay: &Overlay| overlay.get(hash.of(serial.as_bytes()), &serial).is_none();
            if overlay.is_none_or(is_newest)
                && let Some(entry) = packed.entry()
            {
                each(serial, entry);
            }
        }
        let newer = overlay.into_iter().flat_map(Overlay::iter);
        newer.filter_map(|update| Some((update.serial, update.entry?))).for_each(|(serial, entry)| each(serial, entry));
    }
}

/// All parts; cloning it copies the directory, not the records.
#[derive(Clone, Debug)]
pub(super) struct Base {
    hash: KeyedHash,
    /// 2^`bits` slots; a segment with fewer bits stands in several neighbouring ones, its overlay too.
    directory: Vec<Part>,
    bits: u32,
}

impl Base {
    pub(super) fn new(hash: KeyedHash) -> Self {
        Self { hash, directory: vec![Part::default()], bits: 0 }
    }

    pub(super) const fn hash(&self) -> &KeyedHash {
        &self.hash
    }

    pub(super) fn get(&self, serial: &Serial) -> Option<Entry> {
        self.find(self.hash.of(serial.as_bytes()), serial)
    }

    /// As [`Base::get`], where the hash is known.
    pub(super) fn find(&self, hash: u64, serial: &Serial) -> Option<Entry> {
        self.directory.get(self.slot(hash))?.get(hash, serial)
    }

    pub(super) fn for_each(&self, mut each: impl FnMut(Serial, Record)) {
        let mut part = Some(0);
        while let Some(slot) = part {
            part = self.for_each_of_part(slot, &mut each);
        }
    }

    /// Calls `each` with the records of the segment at `slot`; returns the slot of the next segment.
    pub(super) fn for_each_of_part(&self, slot: usize, mut each: impl FnMut(Serial, Record)) -> Option<usize> {
        let part = self.directory.get(slot)?;
        part.for_each(|serial, entry| each(serial, entry.record), &self.hash);
        let (first, span) = self.place(slot, part);
        Some(first + span).filter(|next| *next < self.directory.len())
    }

    /// Where each segment lies in memory, for tests.
    #[cfg(test)]
    pub(super) fn segments(&self) -> Vec<*const Segment> {
        self.firsts().map(|(_, part)| Arc::as_ptr(&part.segment)).collect()
    }

    /// How many segments there are.
    pub(super) fn len(&self) -> usize {
        self.firsts().count()
    }

    /// Octets of memory that the segments take.
    pub(super) fn octets(&self) -> usize {
        self.firsts().map(|(_, part)| part.segment.octets()).sum()
    }

    /// Calls `each` with the first bits of the hashes of every segment, and the segment as it would be with its
    /// overlay merged; one such is made at a time.
    pub(super) fn for_each_whole_segment(&self, mut each: impl FnMut(u64, &Segment)) {
        for (slot, part) in self.firsts() {
            let (_, span) = self.place(slot, part);
            let prefix = u64::try_from(slot / span).unwrap_or(u64::MAX);
            let Some(overlay) = &part.overlay else {
                each(prefix, &part.segment);
                continue;
            };
            let (segment, changes, hash) = (&*part.segment, overlay.sorted(), &self.hash);
            let merge = Merge { segment, changes: &changes, hash, forget_before: Time::default() };
            let most = segment.len() + changes.len();
            each(prefix, &Segment::build(segment.bits, most, merge.width(), Time::default(), || merge.rows()));
        }
    }

    /// The base of these segments, each with the first bits of its hashes; `None` unless they are all there are.
    pub(super) fn from_segments(hash: KeyedHash, segments: Vec<(u64, Segment)>) -> Option<Self> {
        let bits = segments.iter().map(|(_, segment)| segment.bits).max().filter(|bits| *bits <= MOST_BITS)?;
        let covered: u64 = segments.iter().map(|(_, segment)| 1 << (MOST_BITS - segment.bits)).sum();
        if covered != 1 << MOST_BITS {
            return None;
        }
        let mut directory: Vec<Option<Part>> = vec![None; 1 << bits];
        for (prefix, segment) in segments {
            let span = 1 << (bits - segment.bits);
            let first = usize::try_from(prefix).ok()?.checked_mul(span)?;
            let part = Part { segment: Arc::new(segment), overlay: None };
            let slots = directory.get_mut(first..first.checked_add(span)?)?;
            if slots.iter().any(Option::is_some) {
                return None;
            }
            slots.fill(Some(part));
        }
        Some(Self { hash, directory: directory.into_iter().collect::<Option<_>>()?, bits })
    }

    /// Every segment once, with the first of the slots at which it stands.
    fn firsts(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.directory.iter().enumerate().filter(|(slot, part)| self.place(*slot, part).0 == *slot)
    }

    /// The first of the slots at which the segment in `slot` stands, and how many there are.
    fn place(&self, slot: usize, part: &Part) -> (usize, usize) {
        let span = 1 << self.bits.saturating_sub(part.segment.bits);
        (slot - slot % span, span)
    }

    fn slot(&self, hash: u64) -> usize {
        usize::try_from(top(hash, self.bits)).unwrap_or(usize::MAX)
    }
}

/// A [`Base`] that is being changed; [`Editor::finish`] gives the next one.
pub(super) struct Editor<'a> {
    base: Base,
    /// First slots whose overlays have not been copied to their other slots yet.
    touched: Vec<usize>,
    /// Hashes, each of a segment whose overlay is due to be merged.
    due: &'a mut Vec<u64>,
    forget_before: Time,
}

impl<'a> Editor<'a> {
    /// `due` is carried on from one editor to the next. Good records learned before `forget_before` no longer
    /// need to remember that.
    pub(super) fn new(base: &Base, due: &'a mut Vec<u64>, forget_before: Time) -> Self {
        Self { base: base.clone(), touched: Vec::new(), due, forget_before }
    }

    pub(super) fn get(&self, hash: u64, serial: &Serial) -> Option<Entry> {
        let (first, _) = self.place(hash);
        self.base.directory.get(first)?.get(hash, serial)
    }

    /// Notes one change in the overlay of its segment.
    pub(super) fn put(&mut self, update: Update) {
        let (first, span) = self.place(update.hash);
        let Some(slots) = self.base.directory.get_mut(first..first + span) else { return };
        let Some((part, others)) = slots.split_first_mut() else { return };
        // So that the overlay has one owner and is copied once only; `finish` hands it out again.
        others.iter_mut().for_each(|other| other.overlay = None);
        let overlay = Arc::make_mut(part.overlay.get_or_insert_default());
        overlay.insert(update);
        if overlay.len() == overlay::limit(part.segment.len()) {
            self.due.push(update.hash);
        }
        if span > 1 {
            self.touched.push(first);
        }
    }

    /// Takes in `updates`, sorted by hash and with one for each serial at most: what is much for its segment is
    /// merged into it at once.
    pub(super) fn put_all(&mut self, mut updates: &[Update]) {
        while let Some(update) = updates.first() {
            let (first, _) = self.place(update.hash);
            let Some(part) = self.base.directory.get(first) else { return };
            let bits = part.segment.bits;
            let end = updates.partition_point(|other| top(other.hash, bits) <= top(update.hash, bits));
            let (ours, others) = updates.split_at(end);
            let waiting = part.overlay.as_ref().map_or(0, |overlay| overlay.len());
            if waiting + ours.len() >= overlay::limit(part.segment.len()) {
                self.merge(update.hash, ours);
            } else {
                ours.iter().for_each(|update| self.put(*update));
            }
            updates = others;
        }
    }

    /// Merges at most `segments` of the overlays that are due, and all that have twice as much as they should.
    pub(super) fn merge_due(&mut self, segments: usize) {
        let mut left = segments;
        for hash in std::mem::take(self.due) {
            let (first, _) = self.place(hash);
            let Some(part) = self.base.directory.get(first) else { continue };
            let waiting = part.overlay.as_ref().map_or(0, |overlay| overlay.len());
            let limit = overlay::limit(part.segment.len());
            if waiting >= 2 * limit || waiting >= limit && left > 0 {
                left = left.saturating_sub(1);
                self.merge(hash, &[]);
            } else if waiting >= limit {
                self.due.push(hash);
            }
        }
    }

    /// The next base, if anything changed.
    pub(super) fn finish(mut self) -> Base {
        self.seal();
        self.base
    }

    fn place(&self, hash: u64) -> (usize, usize) {
        let slot = self.base.slot(hash);
        self.base.directory.get(slot).map_or((slot, 1), |part| self.base.place(slot, part))
    }

    fn seal(&mut self) {
        for first in self.touched.drain(..) {
            let Some(part) = self.base.directory.get(first).cloned() else { continue };
            let (_, span) = self.base.place(first, &part);
            self.base.directory.iter_mut().skip(first).take(span).for_each(|slot| *slot = part.clone());
        }
    }

    /// Rewrites the segment to which `hash` belongs with its overlay and `updates`, which are newer.
    fn merge(&mut self, hash: u64, updates: &[Update]) {
        // Slots move when the directory doubles.
        self.seal();
        let (first, _) = self.place(hash);
        let Some(part) = self.base.directory.get(first).cloned() else { return };
        let changes = match part.overlay {
            None => Cow::Borrowed(updates),
            Some(overlay) => {
                let mut overlay = Overlay::clone(&overlay);
                updates.iter().for_each(|update| overlay.insert(*update));
                Cow::Owned(overlay.sorted())
            }
        };
        let prefix = top(hash, part.segment.bits);
        let merge = Merge {
            segment: &part.segment,
            changes: &changes,
            hash: &self.base.hash,
            forget_before: self.forget_before,
        };
        build(&mut self.base.bits, &mut self.base.directory, &merge, part.segment.bits, prefix);
    }
}

/// A segment and the changes that are to go into it.
struct Merge<'a> {
    segment: &'a Segment,
    /// Sorted by hash.
    changes: &'a [Update],
    hash: &'a KeyedHash,
    forget_before: Time,
}

impl Merge<'_> {
    /// What the new segment holds, sorted by hash.
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut old = self.segment.records().map(|packed| (self.hash.of(packed.content()), packed)).peekable();
        let mut changes = self.changes;
        std::iter::from_fn(move || {
            loop {
                let Some(change) = changes.first() else {
                    return old.next().map(|(hash, packed)| Row::Old(hash, packed));
                };
                let Some((hash, packed)) = old.next_if(|(hash, _)| *hash <= change.hash) else {
                    changes = changes.split_first().map_or(&[], |(_, rest)| rest);
                    match change.row() {
                        Some(row) => return Some(row),
                        None => continue,
                    }
                };
                let mut same = changes.iter().take_while(|change| change.hash == hash);
                if !same.any(|change| change.serial.as_bytes() == packed.content()) {
                    return Some(Row::Old(hash, packed));
                }
            }
        })
    }

    fn width(&self) -> usize {
        let changed = self.changes.iter().map(|change| change.serial.as_bytes().len()).max();
        self.segment.width().max(changed.unwrap_or(0))
    }
}

/// Builds what has `prefix` as the top `bits` of its hash, as one segment or, if it is too much, as several.
fn build(directory_bits: &mut u32, directory: &mut Vec<Part>, merge: &Merge<'_>, bits: u32, prefix: u64) {
    let whole = bits == merge.segment.bits;
    let (from, to) = (
        merge.changes.partition_point(|change| top(change.hash, bits) < prefix),
        merge.changes.partition_point(|change| top(change.hash, bits) <= prefix),
    );
    let merge = &Merge { changes: merge.changes.get(from..to).unwrap_or_default(), ..*merge };
    let ours = || merge.rows().skip_while(move |row| top(row.hash(), bits) < prefix);
    let ours = || ours().take_while(move |row| top(row.hash(), bits) == prefix);
    let most = merge.segment.len() + merge.changes.len();
    // Counting is worth it only where there may be too many.
    let count = if whole && most <= SPLIT_AT { most } else { ours().count() };
    if count > SPLIT_AT && bits < MOST_BITS {
        let lower = prefix << 1;
        build(directory_bits, directory, merge, bits + 1, lower);
        build(directory_bits, directory, merge, bits + 1, lower | 1);
        return;
    }
    while *directory_bits < bits {
        *directory = directory.iter().flat_map(|part| [part.clone(), part.clone()]).collect();
        *directory_bits += 1;
    }
    let segment = Segment::build(bits, count, merge.width(), merge.forget_before, ours);
    let part = Part { segment: Arc::new(segment), overlay: None };
    let span = 1 << (*directory_bits - bits);
    let first = usize::try_from(prefix).unwrap_or(usize::MAX).saturating_mul(span);
    directory.iter_mut().skip(first).take(span).for_each(|slot| *slot = part.clone());
}

/// The top `bits` of a hash; a shift by all 64 is no shift that a u64 knows.
fn top(hash: u64, bits: u32) -> u64 {
    hash.checked_shr(64 - bits).unwrap_or(0)
}
