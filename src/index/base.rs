//! The bulk of the index: immutable segments of packed records, found by a keyed hash of the serial.
//!
//! The top bits of the hash choose a slot of the directory, the slot a segment, the low bits a bucket of
//! a few records in it. A segment that outgrows [`SPLIT_AT`] becomes two, each with one bit more; only
//! then may the directory double (extendible hashing), so that growth never rewrites more than one segment.
//!
//! Invariant: the seed is secret, so that no choice of serials, by an attacker or a CA's numbering, makes
//! a long bucket. A record takes 11 octets and its serial (27 with 16 octets), a revoked one 16 more, and
//! the buckets cost about one octet a record.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use super::Record;
use super::overlay::Overlay;
use crate::pki::{Reason, Revocation, Serial, Status, Time};
use foldhash::quality::FixedState;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

/// Records at which a segment is split; after it each half holds about 64 k.
const SPLIT_AT: usize = 131_072;
/// Records per bucket, on average: a bucket of four spans about two cache lines.
const BUCKET: usize = 4;

/// The index's hash function: foldhash under a secret seed.
#[derive(Clone, Debug)]
pub(super) struct KeyedHash(FixedState);

impl KeyedHash {
    /// A new secret seed, from the keys that the standard library draws from the operating system.
    pub(super) fn random() -> Self {
        Self(FixedState::with_seed(RandomState::new().hash_one(0)))
    }

    fn of(&self, serial: &Serial) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(serial.as_bytes());
        hasher.finish()
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = <FixedState as BuildHasher>::Hasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// All segments; cloning it copies the directory, not the records.
#[derive(Clone, Debug)]
pub(super) struct Base {
    hash: KeyedHash,
    /// 2^`bits` slots; a segment with fewer bits stands in several neighbouring ones.
    directory: Vec<Arc<Segment>>,
    bits: u32,
    /// The hash at which the merge that is under way goes on.
    next: u64,
}

impl Base {
    pub(super) fn new(hash: KeyedHash) -> Self {
        Self { hash, directory: vec![Arc::new(Segment::default())], bits: 0, next: 0 }
    }

    pub(super) const fn hash(&self) -> &KeyedHash {
        &self.hash
    }

    pub(super) fn get(&self, serial: &Serial) -> Option<Record> {
        let hash = self.hash.of(serial);
        self.directory.get(self.slot(hash))?.get(hash, serial)
    }

    pub(super) fn for_each(&self, mut each: impl FnMut(Serial, Record)) {
        let mut last: Option<&Arc<Segment>> = None;
        for segment in &self.directory {
            if !last.is_some_and(|last| Arc::ptr_eq(last, segment)) {
                segment.records().for_each(|(serial, record)| each(serial, record));
            }
            last = Some(segment);
        }
    }

    /// Slots of the directory: at least as many as there are segments.
    pub(super) const fn slots(&self) -> usize {
        self.directory.len()
    }

    /// Calls `each` with the records of the segment at `slot`; returns the slot of the next segment.
    pub(super) fn for_each_of_segment(&self, slot: usize, mut each: impl FnMut(Serial, Record)) -> Option<usize> {
        let segment = self.directory.get(slot)?;
        segment.records().for_each(|(serial, record)| each(serial, record));
        let is_other = |(_, other): &(usize, &Arc<Segment>)| !Arc::ptr_eq(other, segment);
        self.directory.iter().enumerate().skip(slot).find(is_other).map(|(next, _)| next)
    }

    pub(super) const fn begin_merge(&mut self) {
        self.next = 0;
    }

    /// Takes the overlay's share into one more segment; `true` when that was the last one.
    pub(super) fn merge_next(&mut self, overlay: &Overlay, forget_before: Time) -> bool {
        let bits = self.directory.get(self.slot(self.next)).map_or(0, |segment| segment.bits);
        let prefix = top(self.next, bits);
        let hashed = overlay.iter().map(|(serial, record)| (self.hash.of(serial), *serial, *record));
        let updates: Vec<_> = hashed.filter(|(hash, ..)| top(*hash, bits) == prefix).collect();
        self.replace(self.next, &updates, overlay, forget_before);
        // The first hash of the next segment; beyond the last one there is none.
        self.next = (prefix + 1).checked_shl(64 - bits).unwrap_or(0);
        self.next == 0
    }

    /// Takes in all of `overlay` at once.
    pub(super) fn merge_all(&mut self, overlay: &Overlay, forget_before: Time) {
        let hashed = overlay.iter().map(|(serial, record)| (self.hash.of(serial), *serial, *record));
        let mut updates: Vec<_> = hashed.collect();
        updates.sort_unstable_by_key(|(hash, ..)| *hash);
        let mut rest = updates.as_slice();
        while let Some((hash, ..)) = rest.first() {
            let bits = self.directory.get(self.slot(*hash)).map_or(0, |segment| segment.bits);
            let end = rest.partition_point(|(other, ..)| top(*other, bits) <= top(*hash, bits));
            let (ours, others) = rest.split_at(end);
            self.replace(*hash, ours, overlay, forget_before);
            rest = others;
        }
    }

    fn slot(&self, hash: u64) -> usize {
        usize::try_from(top(hash, self.bits)).unwrap_or(usize::MAX)
    }

    /// Rewrites the segment to which `hash` belongs with `updates`, the overlay's share of it, taken in.
    fn replace(
        &mut self,
        hash: u64,
        updates: &[(u64, Serial, Option<Record>)],
        overlay: &Overlay,
        forget_before: Time,
    ) {
        let Some(segment) = self.directory.get(self.slot(hash)).map(Arc::clone) else { return };
        if updates.is_empty() {
            return;
        }
        let kept = segment.records().filter(|(serial, _)| !overlay.contains_key(serial));
        let mut records: Vec<_> = kept.map(|(serial, record)| (self.hash.of(&serial), serial, record)).collect();
        records.extend(updates.iter().filter_map(|(hash, serial, record)| Some((*hash, *serial, (*record)?))));
        records.sort_unstable_by_key(|(hash, ..)| *hash);
        for (.., record) in &mut records {
            if record.status == Status::Good && record.since < forget_before {
                record.since = Time::default();
            }
        }
        self.place(segment.bits, top(hash, segment.bits), &records);
    }

    /// Puts `records`, sorted and all with `prefix` as the top `bits` of their hash, where they belong.
    fn place(&mut self, bits: u32, prefix: u64, records: &[(u64, Serial, Record)]) {
        if records.len() > SPLIT_AT && bits < 32 {
            let lower = prefix << 1;
            let (low, high) = records.split_at(records.partition_point(|(hash, ..)| top(*hash, bits + 1) == lower));
            self.place(bits + 1, lower, low);
            self.place(bits + 1, lower | 1, high);
            return;
        }
        while self.bits < bits {
            self.directory = self.directory.iter().flat_map(|slot| [Arc::clone(slot), Arc::clone(slot)]).collect();
            self.bits += 1;
        }
        let segment = Arc::new(Segment::build(bits, records));
        let span = 1 << (self.bits - bits);
        let first = usize::try_from(prefix).unwrap_or(usize::MAX).saturating_mul(span);
        for slot in self.directory.iter_mut().skip(first).take(span) {
            *slot = Arc::clone(&segment);
        }
    }
}

/// The top `bits` of a hash; a shift by all 64 is no shift that a u64 knows.
fn top(hash: u64, bits: u32) -> u64 {
    hash.checked_shr(64 - bits).unwrap_or(0)
}

/// Records whose hashes share their top `bits`, packed into buckets by the bits below those.
#[derive(Debug, Default)]
struct Segment {
    bits: u32,
    /// Where each bucket begins in `data`, and the end.
    offsets: Box<[u32]>,
    data: Box<[u8]>,
}

impl Segment {
    /// Packs records that are sorted by hash, which is the order of their buckets too.
    fn build(bits: u32, records: &[(u64, Serial, Record)]) -> Self {
        let buckets = (records.len() / BUCKET).max(1);
        let mut data = Vec::with_capacity(records.len() * 28);
        let mut offsets = Vec::with_capacity(buckets + 1);
        let begin = |offsets: &mut Vec<u32>, bucket: usize, at: usize| {
            while offsets.len() <= bucket {
                offsets.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
        };
        for (hash, serial, record) in records {
            begin(&mut offsets, bucket_of(*hash, bits, buckets), data.len());
            pack(&mut data, serial, record);
        }
        begin(&mut offsets, buckets, data.len());
        Self { bits, offsets: offsets.into(), data: data.into() }
    }

    fn get(&self, hash: u64, serial: &Serial) -> Option<Record> {
        let bucket = bucket_of(hash, self.bits, self.offsets.len().checked_sub(1)?);
        let [begin, end] = self.offsets.get(bucket..bucket + 2)? else { return None };
        let mut rest = self.data.get(usize::try_from(*begin).ok()?..usize::try_from(*end).ok()?)?;
        while let Some(packed) = Packed::split_off(&mut rest) {
            if packed.serial == serial.as_bytes() {
                return packed.record();
            }
        }
        None
    }

    fn records(&self) -> impl Iterator<Item = (Serial, Record)> {
        let mut rest: &[u8] = &self.data;
        std::iter::from_fn(move || {
            let packed = Packed::split_off(&mut rest)?;
            Some((Serial::from_content(packed.serial).ok()?, packed.record()?))
        })
    }
}

fn bucket_of(hash: u64, bits: u32, buckets: usize) -> usize {
    let below_prefix = u128::from(hash.checked_shl(bits).unwrap_or(0));
    let buckets = u128::try_from(buckets).unwrap_or(0);
    usize::try_from((below_prefix * buckets) >> 64).unwrap_or(0)
}

/// Whether the certificate's SHA-256 stands at the end, in the highest bit.
const HASHED: u8 = 1 << 7;
/// Octets of that.
const HASH: usize = 32;
/// What follows the serial and the two dates, in the two bits above the serial's length.
const OLD_GOOD: u8 = 0 << 5;
const RECENT_GOOD: u8 = 1 << 5;
const REVOKED: u8 = 2 << 5;
const KIND: u8 = 3 << 5;
/// Octets of a time: 40 bits of seconds reach from 15000 BC to AD 19000.
const TIME: usize = 5;
/// Stands for "no invalidity date"; no certificate is as old as that.
const NO_TIME: i64 = -(1 << 39);

/// One packed record: kind and length, serial, notBefore, notAfter, then by kind `since`, or revocation
/// time, reason, invalidity date and `since`, and at the end the certificate's SHA-256, if any.
struct Packed<'a> {
    kind: u8,
    hashed: bool,
    serial: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Packed<'a> {
    fn split_off(data: &mut &'a [u8]) -> Option<Self> {
        let (head, after) = data.split_first()?;
        let (serial, after) = after.split_at_checked(usize::from(head & !(KIND | HASHED)))?;
        let hashed = head & HASHED != 0;
        let kind = head & KIND;
        let len = match kind {
            OLD_GOOD => 2 * TIME,
            RECENT_GOOD => 3 * TIME,
            _ => 5 * TIME + 1,
        };
        let (rest, after) = after.split_at_checked(len + if hashed { HASH } else { 0 })?;
        *data = after;
        Some(Self { kind, hashed, serial, rest })
    }

    fn record(&self) -> Option<Record> {
        let (not_before, rest) = take_time(self.rest)?;
        let (not_after, rest) = take_time(rest)?;
        let (status, since) = match self.kind {
            OLD_GOOD => (Status::Good, Time::default()),
            RECENT_GOOD => (Status::Good, take_time(rest)?.0),
            _ => {
                let (at, rest) = take_time(rest)?;
                let (reason, rest) = rest.split_first()?;
                let (invalidity, rest) = take_time(rest)?;
                let invalidity_date = (invalidity.unix() != NO_TIME).then_some(invalidity);
                let reason = Reason::from_code(*reason)?;
                (Status::Revoked(Revocation { at, reason, invalidity_date }), take_time(rest)?.0)
            }
        };
        let sha256 = if self.hashed { self.rest.last_chunk().copied() } else { None };
        Some(Record { not_before, not_after, status, since, sha256 })
    }
}

fn pack(data: &mut Vec<u8>, serial: &Serial, record: &Record) {
    let kind = match record.status {
        Status::Revoked(_) => REVOKED,
        Status::Good if record.since == Time::default() => OLD_GOOD,
        Status::Good => RECENT_GOOD,
    };
    let content = serial.as_bytes();
    let hashed = if record.sha256.is_some() { HASHED } else { 0 };
    data.push(kind | hashed | u8::try_from(content.len()).unwrap_or(0));
    data.extend_from_slice(content);
    put_time(data, record.not_before.unix());
    put_time(data, record.not_after.unix());
    if let Status::Revoked(revocation) = record.status {
        put_time(data, revocation.at.unix());
        data.push(revocation.reason.code());
        put_time(data, revocation.invalidity_date.map_or(NO_TIME, Time::unix));
    }
    if kind != OLD_GOOD {
        put_time(data, record.since.unix());
    }
    data.extend(record.sha256.iter().flatten());
}

fn put_time(data: &mut Vec<u8>, seconds: i64) {
    let [b0, b1, b2, b3, b4, ..] = seconds.clamp(NO_TIME, -NO_TIME - 1).to_le_bytes();
    data.extend_from_slice(&[b0, b1, b2, b3, b4]);
}

fn take_time(data: &[u8]) -> Option<(Time, &[u8])> {
    let ([b0, b1, b2, b3, b4], rest) = data.split_first_chunk::<TIME>()?;
    // Shifting up and down again carries the sign bit of the 40 into the 64.
    let seconds = i64::from_le_bytes([0, 0, 0, *b0, *b1, *b2, *b3, *b4]) >> 24;
    Some((Time::from_unix(seconds), rest))
}
