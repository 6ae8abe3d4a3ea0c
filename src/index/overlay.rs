//! The changes since the base was made: a small hash map that is copied with every batch.
//!
//! Invariant: it stays below twice [`LIMIT`], so that a copy takes some tens of microseconds.

use super::Record;
use super::base::KeyedHash;
use crate::pki::Serial;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

/// Entries at which merging into the base begins. Copying 16 k entries for a batch takes about 0.1 ms.
pub(super) const LIMIT: usize = 16_384;

/// Serial to record, or to `None` where one is let go of; hashed with the index's secret seed.
#[derive(Clone, Debug)]
pub(super) struct Overlay(HashMap<Serial, Option<Record>, KeyedHash>);

impl Overlay {
    pub(super) fn new(hash: &KeyedHash) -> Self {
        Self(HashMap::with_hasher(hash.clone()))
    }

    /// This overlay less the serials that `other` holds.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut kept = self.clone();
        kept.retain(|serial, _| !other.contains_key(serial));
        kept
    }
}

impl Deref for Overlay {
    type Target = HashMap<Serial, Option<Record>, KeyedHash>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Overlay {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}
