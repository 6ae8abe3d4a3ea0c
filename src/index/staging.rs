//! Good certificates of a first load that wait to be packed: merging every page into the segments would
//! rewrite the index for each of them.
//!
//! Invariant: rows wait packed, about as large as they will be, sorted into parts by the first bits of their
//! hash; so a load needs no more memory than the index and the part of it that waits.

use super::Record;
use super::segment::{Entry, put_time, take_time};
use crate::pki::{Serial, Status};

/// Parts; the rows of one are unpacked at a time.
const PARTS: usize = 64;
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

    /// All rows, in the order of the first bits of their hashes: in about as many pieces as there are segments,
    /// so that each segment is rewritten once.
    pub(super) fn take(&mut self, segments: usize) -> impl Iterator<Item = Vec<(Serial, Entry)>> + use<> {
        self.len = 0;
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let together = PARTS.div_ceil(segments.max(1));
        std::iter::from_fn(move || {
            let mut rows = Vec::new();
            for part in parts.by_ref().take(together) {
                let mut rest = part.as_slice();
                rows.extend(std::iter::from_fn(|| split_off(&mut rest)));
            }
            Some(rows)
        })
        .take(PARTS.div_ceil(together))
    }
}

fn split_off(data: &mut &[u8]) -> Option<(Serial, Entry)> {
    let (head, rest) = data.split_first()?;
    let (content, rest) = rest.split_at_checked(usize::from(head & !(HASHED | SHARDED)))?;
    let (not_before, rest) = take_time(rest)?;
    let (not_after, rest) = take_time(rest)?;
    let (since, mut rest) = take_time(rest)?;
    let mut sha256 = None;
    if head & HASHED != 0 {
        let (hash, after) = rest.split_first_chunk::<32>()?;
        (sha256, rest) = (Some(*hash), after);
    }
    let mut shard = None;
    if head & SHARDED != 0 {
        let (number, after) = rest.split_first_chunk::<4>()?;
        (shard, rest) = (Some(u32::from_le_bytes(*number)), after);
    }
    *data = rest;
    let record = Record { not_before, not_after, status: Status::Good, since, sha256 };
    Some((Serial::from_content(content).ok()?, Entry { record, shard }))
}
