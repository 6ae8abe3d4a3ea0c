//! What has changed in a segment since it was packed: a small hash table, copied with every batch that
//! touches the segment.
//!
//! Invariant: it stays below twice [`limit`], so that a copy takes some tens of microseconds, and a merge
//! rewrites at most some hundred records for each change.

use super::segment::{Entry, Row};
use crate::pki::Serial;
use hashbrown::HashTable;

/// Changes to a segment of `records` at which they are due to be merged into it. One in 256: each change then
/// costs the rewriting of 256 records, about 10 µs, and all changes together are less than a hundredth of the
/// index.
pub(super) fn limit(records: usize) -> usize {
    (records / 256).clamp(64, 2_048)
}

/// One change: the entry now, or `None` where one is let go of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update {
    pub(super) hash: u64,
    pub(super) serial: Serial,
    pub(super) entry: Option<Entry>,
}

impl Update {
    pub(super) fn row(&self) -> Option<Row<'_>> {
        Some(Row::New(self.hash, &self.serial, self.entry.as_ref()?))
    }
}

/// The newest change of each serial, found by the index's keyed hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay(HashTable<Update>);

impl Overlay {
    pub(super) fn get(&self, hash: u64, serial: &Serial) -> Option<&Update> {
        self.0.find(hash, |update| update.serial == *serial)
    }

    pub(super) fn insert(&mut self, update: Update) {
        let same = |other: &Update| other.serial == update.serial;
        self.0.entry(update.hash, same, |other| other.hash).insert(update);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Update> {
        self.0.iter()
    }

    /// All changes in the order of their hashes.
    pub(super) fn sorted(&self) -> Vec<Update> {
        let mut updates: Vec<_> = self.0.iter().copied().collect();
        updates.sort_unstable_by_key(|update| update.hash);
        updates
    }
}
