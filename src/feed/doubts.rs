//! What an operator should look at: rows that are left out, amended or not believed, certificates that vanished,
//! and what happened to the database.
//!
//! Invariant: each thing is logged once, and told in health for as long as it stands; what is mended is told
//! no more. A flood of it takes bounded memory.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Rows of each kind that are remembered one by one; of more only the number is known.
const MOST: usize = 1_000;
/// For how long health tells of a reload that left nothing open.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Rows that cannot be understood, or not in full, or are not believed: name and why.
    rows: BTreeMap<String, String>,
    /// What became of the database, and when.
    event: Option<(String, Instant)>,
    /// Issuers in the database that the config does not name.
    strangers: BTreeSet<String>,
}

impl Doubts {
    /// The row is not taken as it stands. Whether that is news.
    pub(super) fn row(&mut self, name: String, why: &str) -> bool {
        if self.rows.get(&name).is_some_and(|known| known == why) || self.rows.len() >= MOST {
            return false;
        }
        tracing::warn!("{name}: {why}");
        self.rows.insert(name, why.to_owned());
        true
    }

    /// Whether any row is in doubt, so that it is worth asking for one.
    pub(super) fn any_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    /// What the row says now is believed, or the row is gone.
    pub(super) fn mended(&mut self, name: &str) {
        if self.rows.remove(name).is_some() {
            tracing::info!("{name}: not in doubt any more");
        }
    }

    /// All rows are about to be read anew.
    pub(super) fn clear_rows(&mut self) {
        self.rows.clear();
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
        let row = self.rows.iter().next().map(|(name, why)| match self.rows.len() {
            1 => format!("{name}: {why}"),
            more => format!("{name}: {why} ({more} rows in all; see the log)"),
        });
        row.or_else(|| self.event.as_ref().map(|(what, _)| what.clone()))
    }
}
