//! Signed answers, kept until they are to be signed anew.
//!
//! Goes in: what a signature was made over, and the signature. Comes out: the same, as long as memory
//! lasts; whether it may still be used is for the caller to say. The response is spliced from it, the
//! request and the signer's template.
//!
//! Each shard writes its entries one after another into pieces of memory (a log) and finds them through a
//! table of 4-octet places. An answer signed with P-256 takes 112 octets and its share of the table, in all
//! 123, of which 22 are its key (a million of them in `benches/ocsp.rs`). Bounded in bytes (SEC-14) by two
//! generations: when the younger one has filled half the bound, it becomes the elder, and the elder is
//! dropped; what is asked for in the elder moves to the younger.
//!
//! Invariants: an entry belongs to one signer, and is found only under that signer's number; no lock is
//! held when a function here returns.

use super::response::CertStatus;
use crate::pki::{Reason, Revocation, Serial, Time};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an answer belongs to. Everything else in it follows from these, the request and the template.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    /// Number of the issuer and signer that answer; a new signer gets a new number.
    pub(super) signer: u32,
    /// The hash algorithm and whether its parameters are NULL: the exact bytes, in short.
    pub(super) algorithm: u8,
    /// What else the answer's form depends on.
    pub(super) options: u8,
    pub(super) serial: Serial,
}

/// A signature and what it was made over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Signed {
    pub(super) status: CertStatus,
    pub(super) produced_at: Time,
    pub(super) this_update: Time,
    pub(super) next_update: Time,
    pub(super) signature: Vec<u8>,
}

/// Why an answer is put here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// Somebody asked for it.
    Asked,
    /// It takes the place of one that was asked for.
    Renewed,
    /// All answers of this issuer are kept signed.
    All,
}

/// The entry was asked for since it was signed.
const USED: u8 = 1;
/// The entry is to be kept signed, asked for or not.
const PINNED: u8 = 2;
/// Octets before the key: flags and status, size of the entry, length of the key.
const HEAD: usize = 4;
/// 0000-01-01T00:00:00Z: times are kept as 5 octets of seconds since then, which reach beyond the year 9999.
const YEAR_0: i64 = -62_167_219_200;
/// Octets of a place in the table, and the table's own octet for each.
const PLACE: usize = size_of::<u32>() + 1;
const SHARDS: usize = 64;
/// Memory is taken in pieces of this size, or of less where the whole bound is small.
const PIECE: usize = 16 * 1024;

/// The cache of all signed answers.
#[derive(Debug)]
pub(super) struct Cache {
    hash: RandomState,
    shards: Vec<Mutex<Shard>>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Shard {
    young: Log,
    old: Log,
    /// What each of them may take.
    max_bytes: usize,
}

/// Entries one after another, and where each begins.
#[derive(Debug)]
struct Log {
    piece: usize,
    pieces: Vec<Vec<u8>>,
    table: HashTable<u32>,
}

impl Cache {
    /// It never takes more than `max_bytes`, a few KiB for its shards aside.
    pub(super) fn new(max_bytes: usize) -> Self {
        let shards = (max_bytes / (64 * 1024)).clamp(1, SHARDS);
        let half = max_bytes / shards / 2;
        // A power of two, so that a place is found without dividing.
        let piece = 1 << (half / 8).clamp(512, PIECE).ilog2();
        let shard = || {
            let log = || Log { piece, pieces: Vec::new(), table: HashTable::new() };
            Mutex::new(Shard { young: log(), old: log(), max_bytes: half })
        };
        Self { hash: RandomState::default(), shards: std::iter::repeat_with(shard).take(shards).collect(), max_bytes }
    }

    /// The answer kept for `key`, however old; from now on it counts as asked for.
    pub(super) fn get(&self, key: &Key) -> Option<Signed> {
        let key = Packed::new(key);
        let (hash, mut shard) = self.shard(key.bytes());
        let Shard { young, old, .. } = &mut *shard;
        if let Some(place) = young.find(hash, key.bytes()) {
            young.mark(place, USED);
            return unpack(young.entry(place)?);
        }
        let place = old.find(hash, key.bytes())?;
        old.mark(place, USED);
        let entry = old.entry(place)?.to_vec();
        shard.put(&self.hash, hash, &entry);
        unpack(&entry)
    }

    /// The same, without a trace.
    pub(super) fn peek(&self, key: &Key) -> Option<Signed> {
        let key = Packed::new(key);
        let (hash, shard) = self.shard(key.bytes());
        unpack(shard.entry(hash, key.bytes())?)
    }

    /// Keeps `signed`, unless what is kept is dated later.
    pub(super) fn insert(&self, key: &Key, signed: &Signed, origin: Origin) {
        let key = Packed::new(key);
        let mut entry = pack(key.bytes(), signed);
        let (hash, mut shard) = self.shard(key.bytes());
        let mut flags = match origin {
            Origin::Asked => USED,
            Origin::Renewed => 0,
            Origin::All => PINNED,
        };
        if let Some(kept) = shard.entry(hash, key.bytes()) {
            if unpack(kept).is_some_and(|kept| kept.this_update > signed.this_update) {
                return;
            }
            flags |= kept.first().copied().unwrap_or(0) & PINNED;
        }
        if let Some(first) = entry.first_mut() {
            *first |= flags;
        }
        shard.put(&self.hash, hash, &entry);
    }

    /// Has what is kept for `key` kept signed from now on; `false` if nothing is kept for it.
    pub(super) fn pin(&self, key: &Key) -> bool {
        let key = Packed::new(key);
        let (hash, mut shard) = self.shard(key.bytes());
        let Shard { young, old, .. } = &mut *shard;
        match (young.find(hash, key.bytes()), old.find(hash, key.bytes())) {
            (Some(place), _) => young.mark(place, PINNED),
            (None, Some(place)) => old.mark(place, PINNED),
            (None, None) => return false,
        }
        true
    }

    /// Shards, by whose number [`Cache::due`] goes.
    pub(super) const fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The keys in one piece of one shard that were asked for since they were signed, or are pinned, and for
    /// which `wanted` is true, given what was signed and whether it was asked for. `None` beyond the last piece.
    pub(super) fn due(
        &self,
        shard: usize,
        piece: usize,
        mut wanted: impl FnMut(&Key, &Signed, bool) -> bool,
    ) -> Option<Vec<Key>> {
        let shard = lock(self.shards.get(shard)?);
        let (log, piece) = match piece.checked_sub(shard.old.pieces.len()) {
            None => (&shard.old, piece),
            Some(piece) => (&shard.young, piece),
        };
        let mut due = Vec::new();
        let mut rest = log.pieces.get(piece)?.as_slice();
        while let Some((entry, after)) =
            rest.split_at_checked(size_of_entry(rest)).filter(|(entry, _)| entry.len() > HEAD)
        {
            rest = after;
            let flags = entry.first().copied().unwrap_or(0);
            if flags & (USED | PINNED) == 0 {
                continue;
            }
            let Some((key, signed)) = key_of(entry).zip(unpack(entry)) else { continue };
            // An entry that was replaced stays where it is until its generation goes.
            let is_live = |bytes: &[u8]| {
                let found = shard.entry(self.hash.hash_one(bytes), bytes);
                found.is_some_and(|found| std::ptr::eq(found, entry))
            };
            if wanted(&key, &signed, flags & USED != 0) && key_bytes(entry).is_some_and(is_live) {
                due.push(key);
            }
        }
        Some(due)
    }

    /// What it may take.
    pub(super) const fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Entries and bytes that are kept, those that were replaced and wait for their generation's end included.
    pub(super) fn size(&self) -> (usize, usize) {
        self.shards.iter().map(lock).fold((0, 0), |(entries, bytes), shard| {
            let Shard { young, old, .. } = &*shard;
            (entries + young.table.len() + old.table.len(), bytes + young.size() + old.size())
        })
    }

    fn shard(&self, key: &[u8]) -> (u64, MutexGuard<'_, Shard>) {
        let hash = self.hash.hash_one(key);
        // hashbrown takes the lowest bits and the topmost seven.
        let number = usize::try_from(hash >> 32).unwrap_or(0) % self.shards.len().max(1);
        // The number is below the number of shards, of which there is at least one.
        (hash, lock(&self.shards[number]))
    }
}

impl Shard {
    fn entry(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        let here = |log: &Log| log.find(hash, key);
        match here(&self.young) {
            Some(place) => self.young.entry(place),
            None => self.old.entry(here(&self.old)?),
        }
    }

    /// Writes `entry` into the younger generation, in place of what it has under the same key.
    fn put(&mut self, state: &RandomState, hash: u64, entry: &[u8]) {
        if entry.len() > self.young.piece {
            return;
        }
        if self.young.size_with(entry.len()) > self.max_bytes {
            let empty = Log { piece: self.young.piece, pieces: Vec::new(), table: HashTable::new() };
            self.old = std::mem::replace(&mut self.young, empty);
        }
        self.young.put(state, hash, entry);
    }
}

impl Log {
    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.table.find(hash, |place| self.entry(*place).and_then(key_bytes) == Some(key)).copied()
    }

    fn entry(&self, place: u32) -> Option<&[u8]> {
        entry_at(&self.pieces, self.piece, place)
    }

    fn mark(&mut self, place: u32, flag: u8) {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let (piece, at) = split(place, self.piece);
        // One that is marked already is not written, so that other cores keep their copy of it.
        if let Some(flags) = self.pieces.get_mut(piece).and_then(|piece| piece.get_mut(at)).filter(|f| **f & flag == 0)
        {
            *flags |= flag;
        }
    }

    fn put(&mut self, state: &RandomState, hash: u64, entry: &[u8]) {
        if !self.has_room(entry.len()) {
            self.pieces.push(Vec::with_capacity(self.piece));
        }
        let number = self.pieces.len().saturating_sub(1);
        let Some(last) = self.pieces.last_mut() else { return };
        let Ok(place) = u32::try_from(number * self.piece + last.len()) else { return };
        last.extend_from_slice(entry);
        let Self { pieces, piece, table } = self;
        let key = key_bytes(entry);
        let key_at = |place: &u32| entry_at(pieces, *piece, *place).and_then(key_bytes);
        match table.find_mut(hash, |place| key_at(place) == key) {
            Some(old) => *old = place,
            None => {
                table.insert_unique(hash, place, |place| state.hash_one(key_at(place).unwrap_or_default()));
            }
        }
    }

    fn has_room(&self, octets: usize) -> bool {
        self.pieces.last().is_some_and(|piece| piece.len() + octets <= self.piece)
    }

    /// Bytes of memory taken.
    fn size(&self) -> usize {
        self.pieces.len() * self.piece + table_size(self.table.capacity())
    }

    /// The same after one more entry.
    fn size_with(&self, octets: usize) -> usize {
        let pieces = self.pieces.len() + usize::from(!self.has_room(octets));
        let table = if self.table.len() == self.table.capacity() {
            self.table.capacity() * 2 + 1
        } else {
            self.table.capacity()
        };
        pieces * self.piece + table_size(table)
    }
}

/// hashbrown has a power of two of places, an eighth of which stays free.
const fn table_size(capacity: usize) -> usize {
    if capacity == 0 { 0 } else { (capacity * 8 / 7).next_power_of_two() * PLACE }
}

/// The piece of a place and where in it; pieces have a power of two of octets.
const fn split(place: usize, piece: usize) -> (usize, usize) {
    (place >> piece.trailing_zeros(), place & (piece - 1))
}

fn entry_at(pieces: &[Vec<u8>], piece: usize, place: u32) -> Option<&[u8]> {
    let place = usize::try_from(place).ok()?;
    let (piece, at) = split(place, piece);
    let rest = pieces.get(piece)?.get(at..)?;
    rest.get(..size_of_entry(rest))
}

fn size_of_entry(entry: &[u8]) -> usize {
    match entry {
        [_, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

fn key_bytes(entry: &[u8]) -> Option<&[u8]> {
    entry.get(HEAD..HEAD + usize::from(*entry.get(3)?))
}

fn key_of(entry: &[u8]) -> Option<Key> {
    let (signer, rest) = key_bytes(entry)?.split_first_chunk()?;
    let [algorithm, options, serial @ ..] = rest else { return None };
    let serial = Serial::from_content(serial).ok()?;
    Some(Key { signer: u32::from_be_bytes(*signer), algorithm: *algorithm, options: *options, serial })
}

/// A key as octets.
struct Packed {
    octets: [u8; 6 + crate::pki::serial::MAX_OCTETS],
    len: usize,
}

impl Packed {
    fn new(key: &Key) -> Self {
        let mut octets = [0; 6 + crate::pki::serial::MAX_OCTETS];
        let (head, tail) = octets.split_at_mut(6);
        let serial = key.serial.as_bytes();
        head[..4].copy_from_slice(&key.signer.to_be_bytes());
        head[4..].copy_from_slice(&[key.algorithm, key.options]);
        tail[..serial.len()].copy_from_slice(serial);
        Self { octets, len: 6 + serial.len() }
    }

    fn bytes(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// Status and times as they stand in an entry, and back.
mod code {
    pub(super) const UNKNOWN: u8 = 1;
    pub(super) const REVOKED: u8 = 2;
    pub(super) const REVOKED_INVALID_SINCE: u8 = 3;
}

fn pack(key: &[u8], signed: &Signed) -> Vec<u8> {
    let (status, reason) = match signed.status {
        CertStatus::Good => (0, 0),
        CertStatus::Unknown => (code::UNKNOWN, 0),
        CertStatus::Revoked(Revocation { reason, invalidity_date: None, .. }) => (code::REVOKED, reason.code()),
        CertStatus::Revoked(Revocation { reason, .. }) => (code::REVOKED_INVALID_SINCE, reason.code()),
    };
    let mut entry = Vec::with_capacity(HEAD + key.len() + 25 + signed.signature.len());
    let key_len = u8::try_from(key.len()).unwrap_or(0);
    entry.extend_from_slice(&[status << 2 | reason << 4, 0, 0, key_len]);
    entry.extend_from_slice(key);
    for time in [signed.produced_at, signed.this_update, signed.next_update] {
        put_time(&mut entry, time);
    }
    if let CertStatus::Revoked(Revocation { at, invalidity_date, .. }) = signed.status {
        put_time(&mut entry, at);
        invalidity_date.into_iter().for_each(|date| put_time(&mut entry, date));
    }
    entry.extend_from_slice(&signed.signature);
    // One that is longer than any signature is longer than a piece, and so not kept.
    let size = u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(place) = entry.get_mut(1..3) {
        place.copy_from_slice(&size);
    }
    entry
}

fn unpack(entry: &[u8]) -> Option<Signed> {
    let flags = *entry.first()?;
    let mut rest = entry.get(HEAD + key_bytes(entry)?.len()..)?;
    let (produced_at, this_update, next_update) = (take_time(&mut rest)?, take_time(&mut rest)?, take_time(&mut rest)?);
    let status = match flags >> 2 & 3 {
        code::UNKNOWN => CertStatus::Unknown,
        kind @ (code::REVOKED | code::REVOKED_INVALID_SINCE) => CertStatus::Revoked(Revocation {
            at: take_time(&mut rest)?,
            reason: Reason::from_code(flags >> 4)?,
            invalidity_date: if kind == code::REVOKED { None } else { Some(take_time(&mut rest)?) },
        }),
        _ => CertStatus::Good,
    };
    Some(Signed { status, produced_at, this_update, next_update, signature: rest.to_vec() })
}

/// What is written into answers lies between the years 0 and 9999, and so does what is kept.
fn put_time(entry: &mut Vec<u8>, time: Time) {
    let seconds = time.unix().saturating_sub(YEAR_0).clamp(0, Time::MAX.unix() - YEAR_0);
    entry.extend_from_slice(&seconds.to_be_bytes()[3..]);
}

fn take_time(rest: &mut &[u8]) -> Option<Time> {
    let (octets, after) = rest.split_first_chunk::<5>()?;
    *rest = after;
    let seconds = octets.iter().fold(0_i64, |seconds, octet| seconds << 8 | i64::from(*octet));
    Some(Time::from_unix(seconds + YEAR_0))
}

/// A panic elsewhere leaves a shard whole enough: at worst an octet string that no key leads to.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(n: u32) -> Key {
        let mut octets = [0x11; 16];
        octets[12..].copy_from_slice(&n.to_be_bytes());
        Key { signer: 0, algorithm: 0, options: 0, serial: Serial::from_magnitude(&octets).unwrap() }
    }

    fn signed(at: i64) -> Signed {
        let at = Time::from_unix(at);
        Signed { status: CertStatus::Good, produced_at: at, this_update: at, next_update: at, signature: vec![7; 71] }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let cache = Cache::new(1 << 20);
        let revoked = |reason, invalidity_date| {
            CertStatus::Revoked(Revocation { at: Time::from_unix(-1), reason, invalidity_date })
        };
        let statuses = Reason::ALL
            .into_iter()
            .flat_map(|reason| [revoked(reason, None), revoked(reason, Some(Time::MAX))])
            .chain([CertStatus::Good, CertStatus::Unknown]);
        for (status, n) in statuses.zip(0..) {
            for len in [0, 64, 72, 256, 512] {
                let answer = Signed {
                    status,
                    produced_at: Time::from_unix(1_795_000_000),
                    this_update: Time::default(),
                    next_update: Time::MAX,
                    signature: vec![u8::try_from(n).unwrap(); len],
                };
                cache.insert(&key(n), &answer, Origin::Asked);
                assert_eq!(cache.get(&key(n)), Some(answer.clone()));
                assert_eq!(cache.peek(&key(n)), Some(answer));
            }
        }
    }

    #[test]
    fn every_part_of_a_key_tells_answers_apart() {
        let cache = Cache::new(1 << 20);
        let one = key(1);
        let others = [
            Key { signer: 1, ..one },
            Key { algorithm: 1, ..one },
            Key { options: 1, ..one },
            Key { serial: key(2).serial, ..one },
            Key { serial: Serial::from_content(&one.serial.as_bytes()[1..]).unwrap(), ..one },
        ];
        cache.insert(&one, &signed(1), Origin::Asked);
        for (other, at) in others.iter().zip(2..) {
            assert_eq!(cache.get(other), None);
            cache.insert(other, &signed(at), Origin::Asked);
        }
        for (key, at) in std::iter::once(&one).chain(&others).zip(1..) {
            assert_eq!(cache.get(key), Some(signed(at)));
        }
    }

    #[test]
    fn sec_14_it_never_holds_more_than_its_bytes() {
        for max in [16 << 10, 100 << 10, 1 << 20] {
            let cache = Cache::new(max);
            let mut most = 0;
            for n in 0..40_000 {
                cache.insert(&key(n), &signed(1), Origin::Asked);
                cache.insert(&key(n / 2), &signed(2), Origin::Renewed);
                if n % 97 == 0 {
                    most = most.max(cache.size().1);
                }
            }
            assert!(most <= max && most > max / 2, "{most} of {max}");
            assert!(cache.get(&key(39_999)).is_some());
            assert!(cache.get(&key(0)).is_none());
        }
    }

    #[test]
    fn what_is_asked_for_stays() {
        let cache = Cache::new(64 << 10);
        cache.insert(&key(0), &signed(1), Origin::Asked);
        for n in 1..5_000 {
            cache.insert(&key(n), &signed(1), Origin::Asked);
            assert!(cache.get(&key(0)).is_some(), "{n}");
        }
    }

    #[test]
    fn sec_23_an_older_answer_does_not_take_the_place_of_a_newer_one() {
        let cache = Cache::new(1 << 20);
        cache.insert(&key(1), &signed(9), Origin::Asked);
        cache.insert(&key(1), &signed(8), Origin::Asked);
        assert_eq!(cache.get(&key(1)).unwrap().this_update, Time::from_unix(9));
    }

    #[test]
    fn due_is_what_was_asked_for_and_what_is_pinned_and_each_once() {
        let cache = Cache::new(1 << 20);
        let due = || {
            let mut all = Vec::new();
            for shard in 0..cache.shards() {
                let mut piece = 0;
                while let Some(keys) = cache.due(shard, piece, |_, signed, _| signed.this_update < Time::from_unix(5)) {
                    all.extend(keys);
                    piece += 1;
                }
            }
            all.sort_by_key(|key| key.serial);
            all
        };
        for n in 0..100 {
            cache.insert(&key(n), &signed(1), Origin::Renewed);
        }
        assert_eq!(due(), []);
        cache.get(&key(3));
        cache.peek(&key(4));
        assert!(cache.pin(&key(7)) && !cache.pin(&key(100)));
        cache.insert(&key(7), &signed(2), Origin::Renewed);
        assert_eq!(due(), [key(3), key(7)]);
        cache.insert(&key(3), &signed(6), Origin::Renewed);
        cache.insert(&key(7), &signed(6), Origin::Renewed);
        assert_eq!(due(), []);
    }
}
