//! The reconcile: reads everything again, a little at a time between the changes, and proves that index and
//! database agree (promise 9).
//!
//! A row that differs from the index may be newer than it: so it is looked at again after all that was
//! committed before has been read, and counts as missed only if the database still says the same then.
//! Of what is known, each certificate that was not shown is asked for, to find those which have vanished.

use super::desk::Reconciled;
use super::judge::{is_redated, judge};
use super::{Feed, key, within};
use crate::index::Record;
use crate::pki::{IssuerName, Serial, Time};
use crate::source::{Gone, Key, PageKey, Row, Source, SourceError};
use foldhash::quality::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Rows of one step: some milliseconds, for which a revocation would have to wait.
const STEP: usize = 1_000;
/// Between two steps the feed rests for so many times as long as a step took.
const REST: u32 = 2;

/// Places of what was shown.
const PLACES: usize = 1 << 16;

/// How far one reconcile has come.
#[derive(Debug)]
pub(super) struct Reconcile {
    stage: Stage,
    shown: Shown,
    /// Rows that differed from the index when they were read.
    suspects: Vec<Row>,
    outcome: Reconciled,
    /// Who waits for it.
    pub(super) asked: Vec<oneshot::Sender<Reconciled>>,
}

/// What is next.
#[derive(Debug)]
enum Stage {
    /// The page after this one.
    Pages(Option<PageKey>),
    /// Putting in order what was shown, from this place on.
    Sort(usize),
    /// Asking for what was not shown.
    Search(Search),
    /// Nothing, once the suspects are heard.
    Done,
}

/// How far the search for what has vanished has come.
#[derive(Debug)]
struct Search {
    /// Issuers that are still to be searched, the present one last.
    issuers: Vec<IssuerName>,
    /// The part of the present one's index that comes next.
    part: usize,
    /// What was found in a part and not asked for yet.
    keys: VecDeque<Key>,
}

impl Reconcile {
    /// From the first page on, for those who asked.
    pub(super) fn begin(asked: Vec<oneshot::Sender<Reconciled>>) -> Self {
        let (stage, shown, suspects) = (Stage::Pages(None), Shown::default(), Vec::new());
        Self { stage, shown, suspects, outcome: Reconciled::default(), asked }
    }
}

/// The certificates that pages have shown: of each 48 bits of a hash that is another one in every reconcile. One that
/// vanished is taken for shown once in 28 million times where there are 10 million, and then the next one finds it.
/// These take 50 MB.
#[derive(Debug, Default)]
struct Shown {
    hash: RandomState,
    /// By the first 16 bits, the last 32.
    marks: Vec<Vec<u32>>,
}

impl Shown {
    fn split(&self, issuer: &IssuerName, serial: &Serial) -> (usize, u32) {
        let [a, b, _, _, c, d, e, f] = self.hash.hash_one((issuer.as_str(), serial.as_bytes())).to_be_bytes();
        (u16::from_be_bytes([a, b]).into(), u32::from_be_bytes([c, d, e, f]))
    }

    fn add(&mut self, issuer: &IssuerName, serial: &Serial) {
        self.marks.resize_with(PLACES, Vec::new);
        let (place, mark) = self.split(issuer, serial);
        let Some(marks) = self.marks.get_mut(place) else { return };
        if marks.len() == marks.capacity() {
            // Doubling would leave a third of it empty.
            marks.reserve_exact((marks.len() / 8).max(4));
        }
        marks.push(mark);
    }

    fn sort(&mut self, places: Range<usize>) {
        self.marks.get_mut(places).into_iter().flatten().for_each(|marks| marks.sort_unstable());
    }

    /// Whether it was added; of what is in order.
    fn has(&self, issuer: &IssuerName, serial: &Serial) -> bool {
        let (place, mark) = self.split(issuer, serial);
        self.marks.get(place).is_some_and(|marks| marks.binary_search(&mark).is_ok())
    }
}

impl<S: Source> Feed<S> {
    /// One step of the reconcile that is under way or due, after all that was committed before has been read;
    /// how long to rest after it.
    pub(super) async fn step(&mut self) -> Result<Option<Duration>, SourceError> {
        let since = self.clock.now().since(*self.reconciled.borrow());
        if self.reconcile.is_none() && self.pace.reconcile.is_some_and(|every| since >= every) {
            self.reconcile = Some(Reconcile::begin(Vec::new()));
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
                let page = within(self.pace.read_time, "a page", self.source.page(after.as_ref(), STEP)).await;
                let page = match page {
                    Err(SourceError::Interrupted) => {
                        // Between two pages the source was opened anew, and this one cannot go on then.
                        let mended = run.outcome.mended;
                        *run = Reconcile::begin(std::mem::take(&mut run.asked));
                        run.outcome.mended = mended;
                        return Ok(());
                    }
                    page => page?,
                };
                *after = page.next;
                let last = after.is_none();
                self.odd(&page.odd);
                for Key { issuer, serial } in page.odd.iter().filter_map(|odd| odd.key.as_ref()) {
                    if let (Some((issuer, _)), Ok(serial)) =
                        (self.issuers.get_key_value(&**issuer), Serial::from_content(serial))
                    {
                        run.shown.add(issuer, &serial);
                    }
                }
                for row in page.rows {
                    self.compare(run, row, now);
                }
                if last {
                    // One that knows revoked ones only does not show what is not.
                    run.stage = if self.source.knows_issued() { Stage::Sort(0) } else { Stage::Done };
                }
                Ok(())
            }
            Stage::Sort(place) => {
                let next = *place + PLACES / 64;
                run.shown.sort(*place..next);
                let issuers = || self.issuers.keys().cloned().collect();
                let search = || Stage::Search(Search { issuers: issuers(), part: 0, keys: VecDeque::new() });
                run.stage = if next < PLACES { Stage::Sort(next) } else { search() };
                Ok(())
            }
            Stage::Search(search) => {
                if self.search(search, &run.shown).await? {
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
        run.shown.add(issuer, &row.serial);
        self.vanished.found(issuer.as_str(), &row.serial);
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

    /// Looks through one more part of the indexes for what was not shown, and asks for some of it; `true` when all is
    /// through. Certificates that came since are among it.
    async fn search(&mut self, search: &mut Search, shown: &Shown) -> Result<bool, SourceError> {
        let Search { issuers, part, keys } = search;
        if keys.len() < STEP
            && let Some(issuer) = issuers.last()
        {
            let (name, vanished): (Arc<str>, _) = (issuer.as_str().into(), &self.vanished);
            let next = self.issuers.get(issuer).and_then(|fed| {
                fed.index.view().for_each_of_part(*part, |serial, _| {
                    if !shown.has(issuer, &serial) && !vanished.has(issuer, &serial) {
                        keys.push_back(Key { issuer: Arc::clone(&name), serial: serial.as_bytes().to_vec() });
                    }
                })
            });
            *part = next.unwrap_or(0);
            if next.is_none() {
                issuers.pop();
            }
        }
        if keys.len() < STEP && !issuers.is_empty() {
            return Ok(false);
        }
        let asked: Vec<Key> = keys.iter().take(STEP).cloned().collect();
        if asked.is_empty() {
            return Ok(true);
        }
        let now = self.clock.now();
        let (rows, odd) = within(self.pace.read_time, "single rows", self.source.reread(&asked)).await?;
        let there: HashSet<(&str, &[u8])> = rows.iter().map(|row| (&*row.issuer, row.serial.as_bytes())).collect();
        let odd: HashSet<&Key> = odd.iter().filter_map(|odd| odd.key.as_ref()).collect();
        for key in &asked {
            if !there.contains(&(&*key.issuer, key.serial.as_slice())) && !odd.contains(key) {
                self.gone(Gone::Missing(key.clone()), now);
            }
        }
        keys.drain(..asked.len());
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
        self.reconciled.send_replace(self.clock.now());
        for asked in run.asked {
            // Who asked may have gone.
            _ = asked.send(run.outcome);
        }
    }
}
