//! CRLs of one issuer: a complete list and a delta, made whenever there is something to tell and at
//! regular slots.
//!
//! Goes in: the changes that an [`Index`] reports, and the clock. Comes out: a [`Shelf`] with lists to serve
//! (RFC 5280 5). [`plan`] decides when, [`revision`] makes the lists, the [`State`] store remembers them.
//! Nothing here speaks HTTP, and nothing here can hold up the feed or an OCSP answer (promise 8).
//!
//! Invariant: the order of promise 5. A number is reserved durably; the lists are built, signed and read
//! back; they are written under their SHA-256; they are named in one transaction together with the journal
//! rows that they stand for; and only then are they served. A crash in between leaves a gap in the numbers.

pub mod encode;
pub mod plan;
pub mod read;
mod revision;
mod shelf;

pub use revision::{BuildError, Fault};
pub use shelf::{Published, Shelf};

use crate::health::{Component, Health};
use crate::index::{Change, Index, Record, View};
use crate::metrics::{self, Metrics, Purpose};
use crate::pki::{Clock, Issuer, Revocation, Serial, Status, Time, hash::sha256};
use crate::sign::Signer;
use crate::state::{ListRow, Revision, Scope, Slot, State, StateError};
use bytes::Bytes;
use encode::{Entries, Pool};
use plan::{Pace, Situation, Step, Waiting};
use read::{List, ReadError, Word};
use revision::{Draft, Ledger, Made, Terms};
use shelf::Stock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::watch;

/// How soon it is asked again whether the index is complete.
const TICK: Duration = Duration::from_millis(25);
/// Pause after a failure: the first, and the longest that it grows to.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// How an issuer's lists are made. All but the last three in whole seconds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublisherConfig {
    /// Distance of the regular slots, at each of which a complete list is due. Default 6 h.
    pub interval: Duration,
    /// nextUpdate − thisUpdate of a complete list; longer than `interval`. Default 48 h.
    pub lifetime: Duration,
    /// nextUpdate − thisUpdate of a delta; longer than `interval`. Default 12 h.
    pub delta_lifetime: Duration,
    /// How old a complete list may be for the delta to build on it. Default: `lifetime`.
    pub delta_window: Duration,
    /// No list is made once the index has been out of touch with the database for longer, except to tell
    /// a revocation. Default 60 s.
    pub max_staleness: Duration,
    /// Quiet after a change before it is published. Default 200 ms.
    pub debounce: Duration,
    /// The longest that a change waits for quiet; above 100,000 entries four times the cost of a build, if
    /// that is longer. Default 800 ms.
    pub max_delay: Duration,
    /// Bytes that the older complete lists of the window may take on disk. Default 1 GiB.
    pub history_bytes: u64,
    /// Where the public listener is found from outside, as `http://crl.example`; complete lists then point
    /// at `<public_url>/crl/<issuer>-delta.crl` (freshestCRL). Default: none.
    pub public_url: Option<String>,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        Self {
            interval: 6 * HOUR,
            lifetime: 48 * HOUR,
            delta_lifetime: 12 * HOUR,
            delta_window: 48 * HOUR,
            max_staleness: Duration::from_secs(60),
            debounce: Duration::from_millis(200),
            max_delay: Duration::from_millis(800),
            history_bytes: 1 << 30,
            public_url: None,
        }
    }
}

/// Why lists cannot be published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// CRL-86.
    #[error("the CA certificate {0} may not sign CRLs: its keyUsage has no cRLSign")]
    KeyUsage(String),
    /// The state store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The lists.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The last list was not written by this Jarchy.
    #[error("the last CRL cannot be read: {0}")]
    Last(#[from] ReadError),
    /// A fault of Jarchy itself.
    #[error("a CRL build ended abnormally")]
    Panicked,
}

/// What a publisher works with.
#[derive(Debug)]
pub struct Parts {
    /// The CA.
    pub issuer: Issuer,
    /// The CA's key.
    pub signer: Arc<Signer>,
    /// What is known of its certificates.
    pub index: Arc<Index>,
    /// Where lists, numbers and the journal are kept.
    pub state: State,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where the lists go.
    pub shelf: Arc<Shelf>,
    /// Told as component `crl:<issuer>`.
    pub health: Health,
    /// Told of builds, signatures and lists.
    pub metrics: Metrics,
}

/// Makes and publishes the lists of one issuer.
pub struct Publisher {
    terms: Arc<Terms>,
    signer: Arc<Signer>,
    index: Arc<Index>,
    state: State,
    clock: Arc<dyn Clock>,
    shelf: Arc<Shelf>,
    health: Component,
    metrics: Metrics,
    complete_metrics: metrics::Crl,
    delta_metrics: metrics::Crl,
    scope: Scope,
    pool: Pool,
    ledger: Arc<Ledger>,
    /// Changes that no committed list tells.
    pending: Arc<BTreeMap<Serial, Change>>,
    /// When the first and the last of them came.
    first: Instant,
    latest: Instant,
    /// Serials that stay listed although the index has lost them (promise 6).
    kept: BTreeSet<Serial>,
    /// How long the last build took.
    cost: Duration,
    /// Whether the ledger says what the store says.
    resumed: bool,
    /// What went wrong last, if nothing went right since.
    failure: Option<String>,
    /// Set when a build that may still run is no longer wanted.
    abandoned: Arc<AtomicBool>,
}

impl Publisher {
    /// Prepares to publish; nothing is read or written yet.
    ///
    /// # Errors
    /// [`PublishError::KeyUsage`] if the CA may not sign CRLs.
    pub fn new(config: PublisherConfig, parts: Parts) -> Result<Self, PublishError> {
        let Parts { issuer, signer, index, state, clock, shelf, health, metrics } = parts;
        if !issuer.certificate.may_sign_crls() {
            return Err(PublishError::KeyUsage(issuer.certificate.subject_text().to_owned()));
        }
        let name = &issuer.name;
        let delta_url = |base: &String| format!("{}/crl/{name}-delta.crl", base.trim_end_matches('/'));
        let now = Instant::now();
        Ok(Self {
            health: health.component(&format!("crl:{name}")),
            complete_metrics: metrics.crl(name.as_str(), metrics::List::Complete),
            delta_metrics: metrics.crl(name.as_str(), metrics::List::Delta),
            scope: Scope::whole(name),
            terms: Arc::new(Terms {
                authority_key: issuer.certificate.key_identifier(),
                freshest: config.public_url.as_ref().map(delta_url),
                config,
                issuer,
            }),
            signer,
            index,
            state,
            clock,
            shelf,
            metrics,
            pool: Pool::default(),
            ledger: Arc::default(),
            pending: Arc::default(),
            first: now,
            latest: now,
            kept: BTreeSet::new(),
            cost: Duration::ZERO,
            resumed: false,
            failure: None,
            abandoned: Arc::default(),
        })
    }

    /// Publishes until `stop` says true or its sender is gone. A build that is under way then is abandoned.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let abandoned = Arc::clone(&self.abandoned);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.work() => {}
        }
        abandoned.store(true, Ordering::Relaxed);
    }

    async fn work(&mut self) {
        let mut back_off = BACK_OFF;
        loop {
            match self.step().await {
                Ok(wait) => {
                    // While a change waits that could not be told, the reason is of interest.
                    if wait.is_none() || self.pending.is_empty() {
                        self.failure = None;
                    }
                    back_off = BACK_OFF;
                    self.report();
                    if let Some(wait) = wait {
                        tokio::select! {
                            () = self.index.changed() => {}
                            () = tokio::time::sleep(wait) => {}
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(scope = %self.scope, %error, "no new CRL");
                    self.complete_metrics.failures.inc();
                    self.failure = Some(error.to_string());
                    // Health must turn red in time even while the pauses are long.
                    let until = Instant::now() + back_off;
                    while Instant::now() < until {
                        self.report();
                        tokio::time::sleep(BACK_OFF.min(until.saturating_duration_since(Instant::now()))).await;
                    }
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                }
            }
        }
    }

    /// Does what is due, and says how long there is nothing to do.
    async fn step(&mut self) -> Result<Option<Duration>, PublishError> {
        if !self.resumed {
            self.reopen().await?;
            while !self.index.is_complete() {
                tokio::time::sleep(TICK).await;
            }
            self.reconcile().await?;
            self.resumed = true;
        }
        let situation = self.situation();
        let pace = self.pace();
        match (plan::next(&pace, &situation), situation.moment) {
            (Step::Build { regular }, Some(moment)) => self.revise(moment, regular).await.map(|()| None),
            (Step::Build { .. }, None) => Ok(Some(TICK)),
            (Step::Wait(wait), _) => Ok(Some(wait)),
        }
    }

    fn pace(&self) -> Pace {
        let config = &self.terms.config;
        let pace = Pace { interval: config.interval, debounce: config.debounce, max_delay: config.max_delay };
        pace.scaled(self.ledger.entries.len(), self.cost)
    }

    fn situation(&mut self) -> Situation {
        // Sampled before the changes are taken: a list then tells at least what its thisUpdate claims.
        let as_of = self.index.as_of().filter(|_| self.index.is_complete());
        self.collect();
        let moment = as_of.map(|as_of| as_of.min(self.clock.now()));
        let revocations = self.pending.values().any(|change| change.record.status != Status::Good);
        // A release that is newer than a list's date must wait for a later one.
        let can_be_told = |change: &Change| moment.is_some_and(|moment| change.record.since <= moment);
        let waiting = (revocations || self.pending.values().any(can_be_told)).then(|| Waiting {
            quiet: self.latest.elapsed(),
            longest: self.first.elapsed(),
            revocations,
        });
        Situation {
            moment,
            stale: self.is_stale(),
            last: self.ledger.last.as_ref().map(|last| last.this_update),
            last_regular: self.ledger.last_regular,
            waiting,
            lacking: self.ledger.delta.is_none(),
        }
    }

    fn is_stale(&self) -> bool {
        let limit = self.terms.config.max_staleness;
        self.index.as_of().is_none_or(|as_of| self.clock.now().since(as_of) > limit)
    }

    /// Takes over what the index reports.
    fn collect(&mut self) {
        let taken = self.index.take_changes();
        if taken.is_empty() {
            return;
        }
        self.latest = Instant::now();
        if self.pending.is_empty() {
            self.first = self.latest;
        }
        fold(Arc::make_mut(&mut self.pending), taken);
    }

    /// Reads what was committed before, and serves it as long as it lasts.
    async fn reopen(&mut self) -> Result<(), PublishError> {
        self.state.claim().await?;
        let ca = &self.terms.issuer.certificate;
        self.state.begin_scope(&self.scope, &sha256(&[ca.subject(), ca.spki()].concat())).await?;
        let rows = self.state.lists(&self.scope).await?;
        let last = self.state.last(&self.scope, Slot::Any).await?;
        let regular = self.state.last(&self.scope, Slot::Regular).await?;
        let mut ledger = Ledger { last, last_regular: regular.map(|list| list.this_update), ..Ledger::default() };
        let (state, scope) = (self.state.clone(), self.scope.clone());
        let (window, complete, delta, lost) = blocking(move || open_lists(&state, &scope, rows)).await?;
        self.state.lose(&self.scope, &lost).await?;
        if window.is_empty() {
            // Without the last list nobody can say what changed since an older one: a fresh start, with
            // numbers that go on.
            self.ledger = Arc::new(ledger);
            return Ok(());
        }
        ledger.window = window;
        ledger.complete = complete;
        ledger.delta_next_update = delta.as_ref().map(|(row, _)| row.next_update);
        let journal = self.state.journal(&self.scope).await?;
        ledger.journal = journal.into_iter().map(|row| (row.serial, (row.number, row.released_at))).collect();
        let delta_bytes = delta.as_ref().map(|(_, bytes)| bytes.clone());
        ledger.delta = delta.map(|(row, _)| row);
        self.ledger = Arc::new(ledger);
        if self.ledger.last.as_ref().is_some_and(|last| last.next_update > self.clock.now()) {
            self.show(delta_bytes);
        }
        Ok(())
    }

    /// Finds out what the last list does not tell yet: changes while nothing ran here.
    async fn reconcile(&mut self) -> Result<(), PublishError> {
        let released = self.state.released(&self.terms.issuer.name).await?;
        let mut taken = std::mem::take(Arc::make_mut(&mut self.pending));
        // Before the view: a change that is noted may not be visible yet, one that is visible is noted.
        fold(&mut taken, self.index.take_changes());
        let view = Arc::clone(&self.index.view());
        let ledger = Arc::clone(&self.ledger);
        let found = blocking(move || Ok(compare(&ledger, &view, taken, &released)?)).await?;
        Arc::make_mut(&mut self.ledger).entries = found.entries;
        self.pending = Arc::new(found.pending);
        self.kept = found.kept;
        self.alarm();
        self.first = Instant::now();
        self.latest = self.first;
        Ok(())
    }

    /// Makes, commits and serves one revision, in the order of promise 5.
    async fn revise(&mut self, moment: Time, regular: bool) -> Result<(), PublishError> {
        let begun = Instant::now();
        let number = self.reserve().await?;
        let (draft, made) = self.build(moment, regular, number).await?;
        let oldest = self.write(&draft, &made).await?;
        let gone = self.commit(draft, made, oldest).await?;
        self.cost = begun.elapsed();
        self.complete_metrics.built(self.cost);
        let state = self.state.clone();
        blocking(move || {
            state.discard(&gone);
            Ok(())
        })
        .await
    }

    async fn reserve(&self) -> Result<u64, PublishError> {
        let now = u64::try_from(self.clock.now().unix()).unwrap_or(0);
        Ok(self.state.reserve(&self.scope, now).await?)
    }

    async fn build(&self, moment: Time, regular: bool, number: u64) -> Result<(Draft, Made), PublishError> {
        let (terms, ledger, pending) = (Arc::clone(&self.terms), Arc::clone(&self.ledger), Arc::clone(&self.pending));
        let (signer, pool, abandoned) = (Arc::clone(&self.signer), self.pool.clone(), Arc::clone(&self.abandoned));
        let built = blocking(move || {
            let mut draft = Draft::new(&terms, &ledger, &pending, moment, regular)?;
            let proceed = || !abandoned.load(Ordering::Relaxed);
            let made = draft.make(&terms, &ledger, number, &signer, &pool, &proceed)?;
            Ok((draft, made))
        });
        let built = built.await;
        match &built {
            Ok((_, made)) => self.metrics.signatures.add(Purpose::Crl, 1 + u64::from(made.delta.is_some())),
            Err(PublishError::Build(BuildError::Sign(_))) => self.metrics.signature_failures.count(Purpose::Crl),
            Err(_) => {}
        }
        built
    }

    /// Writes the lists into their files and returns what is to be committed.
    async fn write(&self, draft: &Draft, made: &Made) -> Result<Revision, PublishError> {
        let state = self.state.clone();
        let files: Vec<([u8; 32], Bytes)> = std::iter::once(&made.complete)
            .chain(&made.delta)
            .map(|product| (product.sha256, product.bytes.clone()))
            .collect();
        let revision = draft.revision(made);
        blocking(move || {
            let files: Vec<(&[u8; 32], &[u8])> = files.iter().map(|(sha256, bytes)| (sha256, &**bytes)).collect();
            Ok(state.store(&files)?)
        })
        .await?;
        Ok(revision)
    }

    /// Commits and serves; returns the lists that are no longer needed.
    async fn commit(&mut self, draft: Draft, made: Made, revision: Revision) -> Result<Vec<[u8; 32]>, PublishError> {
        // Whether a commit that failed was made all the same, only the store can say.
        self.resumed = false;
        let gone = self.state.commit(&self.scope, &revision).await?;
        self.resumed = true;

        let known = self.kept.len();
        self.kept.extend(draft.unexplained.iter().chain(&made.restored));
        if self.kept.len() > known {
            self.alarm();
        }
        self.kept.retain(|serial| !draft.told.contains_key(serial) && !draft.dropped.contains(serial));
        self.pending = Arc::new(draft.deferred.clone());
        self.first = Instant::now();
        let delta = made.delta.as_ref().map(|delta| delta.bytes.clone());
        Arc::make_mut(&mut self.ledger).advance(draft, &made, &revision.lists, revision.oldest);
        self.show(delta);
        Ok(gone)
    }

    /// Puts the ledger's lists on the shelf.
    fn show(&self, delta: Option<Bytes>) {
        let Some((last, older)) = self.ledger.window.split_last() else { return };
        let published = |row, bytes| Arc::new(Published::new(row, bytes));
        let complete = self.ledger.complete.clone().map(|bytes| published(last, bytes));
        let delta = self.ledger.delta.as_ref().zip(delta).map(|(row, bytes)| published(row, bytes));
        for (list, figures) in [(&complete, &self.complete_metrics), (&delta, &self.delta_metrics)] {
            if let Some(list) = list {
                figures.number.set(i64::try_from(list.number).unwrap_or(i64::MAX));
                figures.bytes.set(i64::try_from(list.bytes.len()).unwrap_or(i64::MAX));
                figures.this_update.set(list.this_update.unix());
                figures.next_update.set(list.next_update.unix());
            }
        }
        let entries = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.complete_metrics.entries.set(entries(last.entries));
        self.delta_metrics.entries.set(self.ledger.delta.as_ref().map_or(0, |delta| entries(delta.entries)));
        let older = older.iter().map(|row| (row.number, (row.clone(), self.state.list_path(&row.sha256)))).collect();
        self.shelf.put(Stock { complete, delta, older });
    }

    fn alarm(&self) {
        if let Some(first) = self.kept.first() {
            let count = self.kept.len();
            tracing::error!(scope = %self.scope, count, %first, "revocations stay listed that the index has lost");
        }
    }

    /// Says how things stand. CRL-94: red while there is still half of the list's validity to mend it.
    fn report(&self) {
        let now = self.clock.now();
        let stale = || {
            let as_of = self.index.as_of().filter(|_| self.is_stale())?;
            Some(format!("the database has been out of reach since {as_of}: no CRL is made"))
        };
        let backwards = || {
            let last = self.ledger.last.as_ref().filter(|last| last.this_update > now)?;
            Some(format!("the clock says {now}, but the last CRL was made at {}: none is made", last.this_update))
        };
        let trouble = self.failure.clone().or_else(backwards).or_else(stale);
        match (trouble, self.shelf.complete()) {
            (Some(trouble), Some(list)) => {
                let (whole, left) = (list.next_update.since(list.this_update), list.next_update.since(now));
                let reason = format!("{trouble}; the CRL that is served ends at {}", list.next_update);
                if left < whole / 2 { self.health.failed(reason) } else { self.health.degraded(reason) }
            }
            (Some(trouble), None) => self.health.failed(format!("{trouble}; there is no CRL to serve")),
            (None, None) => {}
            (None, Some(_)) => match self.kept.first() {
                None => self.health.ok(),
                Some(first) => self.health.degraded(format!(
                    "{} revocations stay on the CRL although the database no longer knows of them, the first is {first}",
                    self.kept.len()
                )),
            },
        }
    }
}

/// Newer changes over older ones; a release is not forgotten.
fn fold(older: &mut BTreeMap<Serial, Change>, newer: BTreeMap<Serial, Change>) {
    if older.is_empty() {
        *older = newer;
        return;
    }
    for (serial, change) in newer {
        let released = change.released || older.get(&serial).is_some_and(|older| older.released);
        older.insert(serial, Change { released, ..change });
    }
}

/// Runs `work` where it may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::Panicked)?
}

type Opened = (Vec<ListRow>, Option<Bytes>, Option<(ListRow, Bytes)>, Vec<u64>);

/// The complete lists that are there, the last of them and its delta in full, and the numbers of those
/// that are not. If the last is not there, none counts.
fn open_lists(state: &State, scope: &Scope, rows: Vec<ListRow>) -> Result<Opened, PublishError> {
    let (mut window, mut lost) = (Vec::new(), Vec::new());
    let mut delta = None;
    let unreadable = |row: &ListRow, error: &dyn std::fmt::Display| {
        let path = state.list_path(&row.sha256);
        tracing::error!(%scope, number = row.number, path = %path.display(), %error, "a published CRL cannot be read");
    };
    for row in rows {
        let path = state.list_path(&row.sha256);
        if row.base.is_some() {
            match shelf::load(&path, &row) {
                Ok(bytes) => delta = Some((row, Bytes::from(bytes))),
                Err(error) => unreadable(&row, &error),
            }
            continue;
        }
        match path.metadata() {
            Ok(file) if file.len() == row.bytes => window.push(row),
            Ok(_) => {
                unreadable(&row, &"its size is another than when it was published");
                lost.push(row.number);
            }
            Err(error) => {
                unreadable(&row, &error);
                lost.push(row.number);
            }
        }
    }
    let complete = match window.last() {
        None => None,
        Some(last) if lost.last().is_some_and(|lost| *lost > last.number) => None,
        Some(last) => match shelf::load(&state.list_path(&last.sha256), last) {
            Ok(bytes) => Some(Bytes::from(bytes)),
            Err(error) => {
                unreadable(last, &error);
                None
            }
        },
    };
    if complete.is_none() {
        lost.extend(window.drain(..).map(|row| row.number));
        delta = None;
    }
    let last = window.last().map(|last| last.number);
    Ok((window, complete, delta.filter(|(row, _)| Some(row.number) == last), lost))
}

/// What the last list says against what the index knows.
struct Found {
    /// The entries of the last list; if there is none, those of the first list to be.
    entries: Entries,
    pending: BTreeMap<Serial, Change>,
    kept: BTreeSet<Serial>,
}

fn compare(
    ledger: &Ledger,
    view: &View,
    taken: BTreeMap<Serial, Change>,
    released: &BTreeSet<Serial>,
) -> Result<Found, ReadError> {
    let prune_key = |record: &Record| record.not_after.max(record.since);
    let mut revoked: Vec<(Serial, Revocation, Record)> = Vec::new();
    view.for_each_revoked(|serial, record| {
        if let Status::Revoked(revocation) = record.status {
            revoked.push((serial, revocation, record));
        }
    });
    revoked.sort_unstable_by_key(|(serial, ..)| *serial);
    let Some(last) = &ledger.complete else {
        let listed = revoked.iter().filter(|(_, _, record)| !ledger.is_over(prune_key(record)));
        let entries =
            Entries::from_sorted(listed.map(|(serial, revocation, record)| (serial, revocation, prune_key(record))));
        let pending = taken.into_iter().filter(|(serial, change)| view.get(serial) != Some(change.record));
        return Ok(Found { entries, pending: pending.collect(), kept: BTreeSet::new() });
    };

    let mut listed: Vec<(Serial, Revocation, Time)> = Vec::new();
    let (mut pending, mut kept) = (BTreeMap::new(), BTreeSet::new());
    let unlisted = |serial: Serial, record: Record, pending: &mut BTreeMap<Serial, Change>| {
        if !ledger.is_over(prune_key(&record)) {
            pending.insert(serial, Change { record, released: false });
        }
    };
    let mut revoked = revoked.into_iter().peekable();
    for entry in List::read(last)?.entries() {
        let entry = entry?;
        let (serial, Word::Revoked(said)) = (entry.serial, entry.word) else { continue };
        while let Some((serial, _, record)) = revoked.next_if(|(known, ..)| *known < serial) {
            unlisted(serial, record, &mut pending);
        }
        if let Some((_, revocation, record)) = revoked.next_if(|(known, ..)| *known == serial) {
            listed.push((serial, said, prune_key(&record)));
            if revocation != said {
                pending.insert(serial, Change { record, released: false });
            }
            continue;
        }
        let record = view.get(&serial);
        listed.push((serial, said, record.as_ref().map_or(Time::MAX, prune_key)));
        if released.contains(&serial) || taken.get(&serial).is_some_and(|change| change.released) {
            let unknown = Record {
                not_before: Time::default(),
                not_after: Time::MAX,
                status: Status::Good,
                since: Time::default(),
                sha256: None,
            };
            pending.insert(serial, Change { record: record.unwrap_or(unknown), released: true });
        } else {
            kept.insert(serial);
        }
    }
    for (serial, _, record) in revoked {
        unlisted(serial, record, &mut pending);
    }
    // What came in between is newer than the view, or a release that no list shows.
    let news = taken.into_iter().filter(|(serial, change)| change.released || view.get(serial) != Some(change.record));
    fold(&mut pending, news.collect());
    let entries = Entries::from_sorted(listed.iter().map(|(serial, said, prune_key)| (serial, said, *prune_key)));
    Ok(Found { entries, pending, kept })
}

#[cfg(test)]
mod tests;
