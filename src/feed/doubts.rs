//! What an operator should look at: rows that are left out, amended or not believed, certificates that vanished,
//! and what happened to the database.
//!
//! Invariant: each thing is logged once, and told in health for as long as it stands; what is mended is told
//! no more. A flood of it takes bounded memory.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Rows of each kind that are remembered one by one; more are only counted.
const MOST: usize = 1_000;
/// Rows that are counted beside those, at most.
const MOST_COUNTED: usize = 1_000_000;
/// For how long health tells of a reload that left nothing open.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Rows that cannot be understood, or not in full, or are not believed: name and why.
    rows: BTreeMap<String, String>,
    /// Hashes of the names of all others.
    more: HashSet<u64>,
    hasher: RandomState,
    /// What became of the database, and when.
    event: Option<(String, Instant)>,
    /// Issuers in the database that the config does not name.
    strangers: BTreeSet<String>,
}

impl Doubts {
    /// The row is not taken as it stands. Whether that is news.
    pub(super) fn row(&mut self, name: String, why: &str) -> bool {
        if self.rows.get(&name).is_some_and(|known| known == why) {
            return false;
        }
        let hash = self.hasher.hash_one(&name);
        if self.rows.len() >= MOST && !self.rows.contains_key(&name) {
            if self.more.is_empty() {
                tracing::warn!(
                    "{name}: {why}; {MOST} rows are in doubt besides, so that more are counted and not logged"
                );
            }
            return self.more.len() < MOST_COUNTED && self.more.insert(hash);
        }
        let news = !self.more.remove(&hash);
        tracing::warn!("{name}: {why}");
        self.rows.insert(name, why.to_owned());
        news
    }

    /// Whether any row is in doubt, so that it is worth asking for one.
    pub(super) fn any_rows(&self) -> bool {
        !self.rows.is_empty() || !self.more.is_empty()
    }

    /// How many rows are in doubt, as far as they are remembered.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// What the row says now is believed, or the row is gone.
    pub(super) fn mended(&mut self, name: &str) {
        if self.rows.remove(name).is_some() {
            tracing::info!("{name}: not in doubt any more");
        } else if !self.more.is_empty() {
            self.more.remove(&self.hasher.hash_one(name));
        }
    }

    /// All rows are about to be read anew.
    pub(super) fn clear_rows(&mut self) {
        self.rows.clear();
        self.more.clear();
    }

    /// Something happened to the database.
    pub(super) fn event(&mut self, what: String) {
        tracing::warn!("{what}");
        self.event = Some((what, Instant::now()));
    }

    /// The database has certificates of `issuer`, which the config does not name.
    pub(super) fn stranger(&mut self, issuer: &str) {
        if self.strangers.len() < MOST && !self.strangers.contains(issuer) {
            tracing::warn!(
                issuer,
                "the database has certificates of an issuer that the config does not name: not answered for"
            );
            self.strangers.insert(issuer.to_owned());
        }
    }

    /// What health has to tell.
    pub(super) fn alarm(&mut self) -> Option<String> {
        if self.event.as_ref().is_some_and(|(_, at)| at.elapsed() > TOLD_FOR) {
            self.event = None;
        }
        let counted = self.rows.len() + self.more.len();
        let at_least = if self.more.len() < MOST_COUNTED { "" } else { "at least " };
        let row = self.rows.iter().next().map(|(name, why)| match counted {
            1 => format!("{name}: {why}"),
            _ => format!("{name}: {why} ({at_least}{counted} rows in all; see the log)"),
        });
        let unnamed = || format!("{at_least}{counted} rows are left out or amended; a reconcile names them in the log");
        let row = row.or_else(|| (counted > 0).then(unnamed));
        row.or_else(|| self.event.as_ref().map(|(what, _)| what.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_flood_is_counted_to_its_last_row_and_told_no_longer_than_it_lasts() {
        let mut doubts = Doubts::default();
        let flood: Vec<String> = (0..3 * MOST).map(|row| format!("row {row:04}")).collect();
        for name in &flood {
            assert!(doubts.row(name.clone(), "odd"), "{name} is news");
        }
        assert!(flood.iter().all(|name| !doubts.row(name.clone(), "odd")), "told once");
        assert!(doubts.alarm().unwrap().contains("row 0000: odd (3000 rows in all"), "{:?}", doubts.alarm());
        for name in flood.iter().take(MOST) {
            doubts.mended(name);
        }
        assert!(doubts.alarm().unwrap().contains("2000 rows"), "{:?}", doubts.alarm());
        // Of those that were only counted one is told again, and named now.
        assert!(!doubts.row(flood[MOST].clone(), "odd"));
        assert!(doubts.alarm().unwrap().contains("row 1000: odd (2000 rows in all"), "{:?}", doubts.alarm());
        for name in &flood {
            doubts.mended(name);
        }
        assert_eq!((doubts.alarm(), doubts.any_rows()), (None, false));
    }
}
