//! The reconcile: reads everything again, a little at a time between the changes, and proves that index and
//! database agree (promise 9).
//!
//! A row that differs from the index may be newer than it: so it is looked at again after all that was
//! committed before has been read, and counts as missed only if the database still says the same then.
//! If fewer certificates were seen than are known, each that is known is asked for, to find those which have
//! vanished.

use super::desk::Reconciled;
use crate::pki::{IssuerName, Serial};
use crate::source::{Key, PageKey, Row};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// Rows of one step: some milliseconds, for which a revocation would have to wait.
pub(super) const STEP: usize = 1_000;
/// Between two steps the feed rests for so many times as long as a step took.
pub(super) const REST: u32 = 2;

/// How far one reconcile has come.
#[derive(Debug)]
pub(super) struct Reconcile {
    pub(super) stage: Stage,
    /// Certificates that were known at the beginning and not missed then.
    pub(super) expected: u64,
    /// Those of them that the database still has.
    pub(super) seen: u64,
    /// Certificates that became known since.
    pub(super) fresh: HashSet<(IssuerName, Serial)>,
    /// Rows that differed from the index when they were read.
    pub(super) suspects: Vec<Row>,
    pub(super) outcome: Reconciled,
    /// Who waits for it.
    pub(super) asked: Vec<oneshot::Sender<Reconciled>>,
}

/// What is next.
#[derive(Debug)]
pub(super) enum Stage {
    /// The page after this one.
    Pages(Option<PageKey>),
    /// Asking for what is known.
    Search(Search),
    /// Nothing, once the suspects are heard.
    Done,
}

/// How far the search for what has vanished has come.
#[derive(Debug)]
pub(super) struct Search {
    /// Issuers that are still to be searched, the present one last.
    pub(super) issuers: Vec<IssuerName>,
    /// The part of the present one's index that comes next; `None` when it is through.
    pub(super) part: Option<usize>,
    /// What was taken out of a part and not asked for yet.
    pub(super) keys: VecDeque<Key>,
    /// Only those that are revoked: nothing else was known before the load.
    pub(super) only_revoked: bool,
}

impl Reconcile {
    /// From the first page on, when `expected` certificates are known and not missed.
    pub(super) fn begin(expected: u64) -> Self {
        Self::at(Stage::Pages(None), expected)
    }

    /// Only a search for what has vanished, after a load that showed too little.
    pub(super) fn search(issuers: Vec<IssuerName>, only_revoked: bool) -> Self {
        Self::at(Stage::Search(Search::new(issuers, only_revoked)), 0)
    }

    fn at(stage: Stage, expected: u64) -> Self {
        let (fresh, suspects, asked) = (HashSet::new(), Vec::new(), Vec::new());
        Self { stage, expected, seen: 0, fresh, suspects, outcome: Reconciled::default(), asked }
    }
}

impl Search {
    pub(super) fn new(issuers: Vec<IssuerName>, only_revoked: bool) -> Self {
        Self { issuers, part: Some(0), keys: VecDeque::new(), only_revoked }
    }
}

/// How long to rest after a step that took `step`.
pub(super) fn rest(step: Duration) -> Duration {
    step.saturating_mul(REST)
}
