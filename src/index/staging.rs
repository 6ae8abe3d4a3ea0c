//! Good certificates of a first load that wait to be packed: merging every page into the segments would
//! rewrite the index for each of them.
//!
//! Invariant: rows wait packed, about as large as they will be, sorted into parts by the first bits of their
//! hash; so a load needs no more memory than the index and the part of it that waits.

use super::Record;
use super::base::KeyedHash;
use super::overlay::Update;
use super::segment::{Entry, TIME, put_time, take_time};
use crate::pki::{Serial, Status};

/// Parts; the rows of one are unpacked at a time.
const PARTS: usize = 64;
/// Rows of a piece, at least, where there are so many: about as many as a new segment takes.
const PIECE: usize = 131_072;
/// Flags above the serial's length.
const HASHED: u8 = 1 << 7;
const SHARDED: u8 = 1 << 6;

#[derive(Debug, Default)]
pub(super) struct Staging {
    parts: Vec<Vec<u8>>,
    len: usize,
}

impl Staging {
    /// Rows that wait.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a good certificate.
    pub(super) fn push(&mut self, hash: u64, serial: &Serial, entry: &Entry) {
        self.parts.resize_with(PARTS, Vec::new);
        let part = usize::try_from(hash >> (64 - PARTS.ilog2())).ok().and_then(|part| self.parts.get_mut(part));
        let Some(part) = part else { return };
        let (content, record) = (serial.as_bytes(), &entry.record);
        let flags = if record.sha256.is_some() { HASHED } else { 0 } | if entry.shard.is_some() { SHARDED } else { 0 };
        part.push(flags | u8::try_from(content.len()).unwrap_or(0));
        part.extend_from_slice(content);
        [record.not_before, record.not_after, record.since].into_iter().for_each(|time| put_time(part, time));
        part.extend(record.sha256.iter().flatten());
        part.extend(entry.shard.iter().flat_map(|shard| shard.to_le_bytes()));
        self.len += 1;
    }

    /// All rows, of those of one serial the last, in the order of their hashes: in about as many pieces as there
    /// are segments, or will be, so that each segment is rewritten once.
    pub(super) fn take(&mut self, segments: usize, hash: KeyedHash) -> impl Iterator<Item = Vec<Update>> + use<> {
        let pieces = segments.max(self.len / PIECE).max(1);
        self.len = 0;
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let together = PARTS.div_ceil(pieces);
        std::iter::from_fn(move || {
            let mut rows = Vec::new();
            parts.by_ref().take(together).for_each(|part| unpack(&part, &hash, &mut rows));
            Some(rows)
        })
        .take(PARTS.div_ceil(together))
    }
}

/// Adds the rows of one part to `rows`. What is sorted is small: where they stand, not what they say.
fn unpack(mut part: &[u8], hash: &KeyedHash, rows: &mut Vec<Update>) {
    let mut packed = Vec::new();
    while let Some((content, row, rest)) = split_off(part) {
        packed.push((hash.of(content), row));
        part = rest;
    }
    packed.sort_by_key(|(hash, _)| *hash);
    rows.reserve(packed.len());
    for (hash, row) in packed {
        let Some((serial, entry)) = read(row) else { continue };
        let update = Update { hash, serial, entry: Some(entry) };
        let same = rows.iter().rposition(|other| other.hash != hash).map_or(0, |at| at + 1);
        match rows.get_mut(same..).and_then(|same| same.iter_mut().find(|other| other.serial == serial)) {
            Some(earlier) => *earlier = update,
            None => rows.push(update),
        }
    }
}

/// The first row's serial, the row, and what follows it.
fn split_off(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let head = data.first()?;
    let content = 1..1 + usize::from(head & !(HASHED | SHARDED));
    let hash = if head & HASHED != 0 { 32 } else { 0 };
    let shard = if head & SHARDED != 0 { 4 } else { 0 };
    let (row, rest) = data.split_at_checked(content.end + 3 * TIME + hash + shard)?;
    Some((row.get(content)?, row, rest))
}

fn read(row: &[u8]) -> Option<(Serial, Entry)> {
    let (head, rest) = row.split_first()?;
    let (content, rest) = rest.split_at_checked(usize::from(head & !(HASHED | SHARDED)))?;
    let (not_before, rest) = take_time(rest)?;
    let (not_after, rest) = take_time(rest)?;
    let (since, mut rest) = take_time(rest)?;
    let mut sha256 = None;
    if head & HASHED != 0 {
        let (hash, after) = rest.split_first_chunk::<32>()?;
        (sha256, rest) = (Some(*hash), after);
    }
    let shard = rest.first_chunk::<4>().map(|number| u32::from_le_bytes(*number));
    let record = Record { not_before, not_after, status: Status::Good, since, sha256 };
    Some((Serial::from_content(content).ok()?, Entry { record, shard }))
}
