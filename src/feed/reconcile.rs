//! The reconcile: reads everything again, a little at a time between the changes, and proves that index and
//! database agree (promise 9).
//!
//! A row that differs from the index may be newer than it: so it is looked at again after all that was
//! committed before has been read, and counts as missed only if the database still says the same then.
//! If fewer certificates were seen than are known, each that is known is asked for, to find those which have
//! vanished.

use super::desk::Reconciled;
use super::judge::{is_redated, judge};
use super::{Feed, key, within};
use crate::index::Record;
use crate::pki::{IssuerName, Serial, Status, Time};
use crate::source::{Gone, Key, PageKey, Row, Source, SourceError};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Rows of one step: some milliseconds, for which a revocation would have to wait.
const STEP: usize = 1_000;
/// Between two steps the feed rests for so many times as long as a step took.
const REST: u32 = 2;

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

impl<S: Source> Feed<S> {
    /// One step of the reconcile that is under way or due, after all that was committed before has been read;
    /// how long to rest after it.
    pub(super) async fn step(&mut self) -> Result<Option<Duration>, SourceError> {
        if self.reconcile.is_none() && self.pace.reconcile.is_some_and(|every| self.reconciled.elapsed() >= every) {
            self.reconcile = Some(Reconcile::begin(self.expected()));
        }
        let Some(mut run) = self.reconcile.take() else { return Ok(None) };
        let began = Instant::now();
        let outcome = self.go_on(&mut run).await;
        if outcome.is_ok() && matches!(run.stage, Stage::Done) && run.suspects.is_empty() {
            self.conclude(run);
        } else {
            self.reconcile = Some(run);
        }
        outcome.map(|()| Some(began.elapsed().saturating_mul(REST)))
    }

    async fn go_on(&mut self, run: &mut Reconcile) -> Result<(), SourceError> {
        if !run.suspects.is_empty() {
            return self.hear(run).await;
        }
        match &mut run.stage {
            Stage::Pages(after) => {
                let now = self.clock.now();
                let page = within(self.pace.read_time, "a page", self.source.page(after.as_ref(), STEP)).await?;
                *after = page.next;
                let last = after.is_none();
                run.seen += self.odd(&page.odd);
                for row in page.rows {
                    self.compare(run, row, now);
                }
                if last {
                    let search = || Stage::Search(Search::new(self.issuers.keys().cloned().collect(), false));
                    run.stage = if run.seen < run.expected { search() } else { Stage::Done };
                }
                Ok(())
            }
            Stage::Search(search) => {
                let through = self.search(search).await?;
                if through {
                    run.stage = Stage::Done;
                }
                Ok(())
            }
            Stage::Done => Ok(()),
        }
    }

    /// Notes the row down if it says other than the index, and that it is there.
    fn compare(&mut self, run: &mut Reconcile, row: Row, now: Time) {
        let Some((issuer, fed)) = self.issuers.get_key_value(&*row.issuer) else { return };
        run.outcome.compared += 1;
        let known = fed.index.view().get(&row.serial);
        let missed = self.vanished.found(issuer.as_str(), &row.serial);
        if known.is_some() && !missed && !(run.fresh.contains(&(issuer.clone(), row.serial))) {
            run.seen += 1;
        }
        // What is not believed is in doubt already and stays so.
        let Ok(record) = judge(&row, fed, known.as_ref(), now, self.clock.now(), false) else { return };
        if known.is_none_or(|known| Record { since: known.since, ..record } != known) {
            run.suspects.push(row);
        }
    }

    /// Reads the suspects again: what the database still says of them although all that was committed when
    /// they were first read has been taken in, the feed has missed.
    async fn hear(&mut self, run: &mut Reconcile) -> Result<(), SourceError> {
        let sampled = self.clock.now();
        let suspects: HashMap<Key, &Row> = run.suspects.iter().map(|row| (key(row), row)).collect();
        let keys: Vec<Key> = suspects.keys().cloned().collect();
        let (rows, odd) = within(self.pace.read_time, "single rows", self.source.reread(&keys)).await?;
        let same = rows.into_iter().filter(|row| suspects.get(&key(row)) == Some(&row));
        let (redated, missed) = same.partition(|row| {
            let fed = self.issuers.get(&*row.issuer);
            fed.is_some_and(|fed| fed.index.view().get(&row.serial).is_some_and(|known| is_redated(row, fed, &known)))
        });
        run.suspects.clear();
        self.take(redated, sampled).await;
        let mended = self.take(missed, sampled).await;
        self.odd(&odd);
        run.outcome.mended += mended;
        self.metrics.mended.inc_by(mended);
        Ok(())
    }

    /// Asks for some of what is known; `true` when all was asked for.
    async fn search(&mut self, search: &mut Search) -> Result<bool, SourceError> {
        while search.keys.len() < STEP
            && let Some(issuer) = search.issuers.last()
        {
            let Some((part, fed)) = search.part.zip(self.issuers.get(issuer)) else {
                search.issuers.pop();
                search.part = Some(0);
                continue;
            };
            let name: Arc<str> = issuer.as_str().into();
            let (only_revoked, keys) = (search.only_revoked, &mut search.keys);
            search.part = fed.index.view().for_each_of_part(part, |serial, record| {
                if !only_revoked || record.status != Status::Good {
                    keys.push_back(Key { issuer: Arc::clone(&name), serial: serial.as_bytes().to_vec() });
                }
            });
        }
        let keys: Vec<Key> = search.keys.drain(..STEP.min(search.keys.len())).collect();
        if keys.is_empty() {
            return Ok(true);
        }
        let now = self.clock.now();
        let (rows, odd) = within(self.pace.read_time, "single rows", self.source.reread(&keys)).await?;
        let there: HashSet<(&str, &[u8])> = rows.iter().map(|row| (&*row.issuer, row.serial.as_bytes())).collect();
        let odd: HashSet<&Key> = odd.iter().filter_map(|odd| odd.key.as_ref()).collect();
        for key in &keys {
            if !there.contains(&(&*key.issuer, key.serial.as_slice())) && !odd.contains(key) {
                self.gone(Gone::Missing(key.clone()), now);
            }
        }
        Ok(false)
    }

    fn conclude(&mut self, mut run: Reconcile) {
        run.outcome.vanished = u64::try_from(self.vanished.open().count()).unwrap_or(u64::MAX);
        let Reconciled { compared, mended, vanished } = run.outcome;
        if mended > 0 {
            tracing::warn!(compared, mended, vanished, "a reconcile found what the feed had missed, and mended it");
        } else {
            tracing::info!(compared, mended, vanished, "reconciled with the issuance database");
        }
        self.reconciled = Instant::now();
        for asked in run.asked {
            // Who asked may have gone.
            _ = asked.send(run.outcome);
        }
    }
}
