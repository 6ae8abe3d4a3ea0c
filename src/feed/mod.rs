//! The feed: keeps the indexes in agreement with one issuance database, and knows up to when they are.
//!
//! Goes in: a [`Source`]. Comes out: records in the [`Index`] of each issuer, its `as_of`, and revocations
//! in the durable state before anyone is told of them. It decides what is believed: a revocation at once;
//! its end only with a recorded release from hold.
//!
//! Invariants: `as_of` is a second of this machine's clock from *before* the reading that proves it, or what
//! the source proves less; it stands still while the database cannot be read (promise 2). A revocation once
//! seen stays, whatever the database says later, unless a release is recorded there (promise 12).

mod doubts;
mod judge;
mod memory;

use crate::health::Component;
use crate::index::{Index, Record};
use crate::metrics;
use crate::pki::{Clock, IssuerName, Reason, Serial, Status, Time};
use crate::source::{Batch, Currency, OddRow, Position, Row, Source, SourceError, Waited};
use crate::state::State;
use doubts::Doubts;
use judge::judge;
use memory::{Memory, record_of};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long one look at the database may find nothing before the feed speaks up for the time passed.
const PATIENCE: Duration = Duration::from_millis(250);
/// After an error the database is opened anew after this long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How long a revocation waits for the state store before it is answered without: being heard comes before
/// being remembered (promise 8). A publisher that commits a long journal keeps the store busy for seconds.
const HEARD_AFTER: Duration = Duration::from_millis(250);
/// The longest that the end of the process waits for the state store.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Rows of one page of the first load.
const PAGE: usize = 10_000;
/// Rows collected during a load before they are merged, at least; more when the index is large, so that
/// loading does not rewrite the index again and again.
const LOAD_BATCH: usize = 65_536;

/// What a feed keeps in agreement for one issuer, and by what rules.
#[derive(Clone, Debug)]
pub struct Fed {
    /// The index.
    pub index: Arc<Index>,
    /// The reasons that the issuer's profile lets be published; any other becomes none, holds too, which
    /// are then final (BR-15, CRL-42).
    pub reasons: &'static [Reason],
    /// Whether the index keeps the hashes of certificates.
    pub hashes: bool,
    /// What the index is told of the list that a certificate belongs to, if it keeps that.
    pub parts: Parts,
}

/// By what the database divides certificates among CRLs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Parts {
    /// By its shards.
    #[default]
    Shards,
    /// By kind: 0 for users' certificates, 1 for those of CAs.
    Kinds,
}

impl Parts {
    fn of(self, row: &Row) -> Option<u32> {
        match self {
            Self::Shards => row.shard,
            Self::Kinds => row.ca.map(u32::from),
        }
    }
}

/// How a feed goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long one reading may take before the database counts as out of reach.
    pub read_time: Duration,
    /// How old `as_of` may be before readiness turns red.
    pub max_staleness: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { read_time: Duration::from_secs(30), max_staleness: Duration::from_secs(60) }
    }
}

/// One feed; [`Feed::run`] is all it does.
#[derive(Debug)]
pub struct Feed<S> {
    source: S,
    issuers: HashMap<IssuerName, Fed>,
    pace: Pace,
    clock: Arc<dyn Clock>,
    metrics: metrics::Feed,
    health: Component,
    memory: Memory,
    doubts: Doubts,
    /// What the indexes are at least as new as; `None` until everything was loaded.
    position: watch::Sender<Option<Position>>,
    as_of: Option<Time>,
}

impl<S: Source> Feed<S> {
    /// Feeds the indexes of `issuers` from `source`.
    pub fn new(
        source: S,
        issuers: HashMap<IssuerName, Fed>,
        state: State,
        clock: Arc<dyn Clock>,
        metrics: metrics::Feed,
        health: Component,
    ) -> Self {
        let (memory, doubts, position) = (Memory::new(state), Doubts::default(), watch::Sender::new(None));
        Self { source, issuers, pace: Pace::default(), clock, metrics, health, memory, doubts, position, as_of: None }
    }

    /// Sets the times that the feed keeps to.
    #[must_use]
    pub fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// The indexes hold already what the database had at `position`, as from a snapshot: only what changed
    /// since is read. If the position does not fit the database any more, everything is.
    #[must_use]
    pub fn resume(self, position: Option<Position>) -> Self {
        self.position.send_replace(position);
        self
    }

    /// The position that the indexes are at least as new as. Whoever takes a snapshot reads it *before* the
    /// views.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }

    /// Runs until `stop` turns true. Errors of the database are waited out, never passed on.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.feed() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.memory.save(LAST_WORDS).await;
    }

    async fn feed(&mut self) {
        self.recall().await;
        let mut retry = FIRST_RETRY;
        loop {
            let before = self.as_of;
            let Err(error) = self.follow().await;
            self.metrics.failures.inc();
            self.health.failed(error.to_string());
            if self.as_of > before {
                retry = FIRST_RETRY;
            }
            self.show_lag();
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// What was known to be revoked before this start is known from the first moment.
    async fn recall(&mut self) {
        for (issuer, Fed { index, .. }) in &self.issuers {
            let seen = loop {
                match self.memory.state().revocations(issuer).await {
                    Ok(seen) => break seen,
                    Err(error) => self.health.failed(format!("the state cannot be read: {error}")),
                }
                tokio::time::sleep(LAST_RETRY).await;
            };
            index.load(seen.into_iter().map(|(serial, seen)| (serial, record_of(&seen))).collect());
        }
    }

    /// Opens the database, reads what is not known of it yet, then what changes, until something fails.
    async fn follow(&mut self) -> Result<Infallible, SourceError> {
        self.read("opening it", S::open).await?;
        loop {
            let position = self.position.borrow().clone();
            let position = match position {
                Some(position) => position,
                None => self.load().await?,
            };
            match self.advance(&position).await {
                Err(SourceError::Position(why)) => {
                    self.metrics.reloads.inc();
                    self.doubts.event(format!("{why}; everything was read anew"));
                    self.health.failed(format!("{why}; everything is being read anew"));
                    self.position.send_replace(None);
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
    }

    /// Reads what changed since `position`; at the end of it, waits for more.
    async fn advance(&mut self, position: &Position) -> Result<(), SourceError> {
        let sampled = self.clock.now();
        let batch = within(self.pace.read_time, "changes", self.source.changes(position)).await?;
        let Batch { rows, odd, position, drained, currency, gaps, .. } = batch;
        self.odd(&odd);
        let changed = self.take(rows, sampled).await;
        self.metrics.changes.inc_by(changed);
        self.metrics.gaps.set(i64::try_from(gaps).unwrap_or(i64::MAX));
        self.position.send_if_modified(|known| {
            let moved = known.as_ref() != Some(&position);
            *known = Some(position);
            moved
        });
        if drained {
            self.vouch(sampled, currency);
            self.idle().await?;
        }
        Ok(())
    }

    /// Waits for the next commit; every look that finds none proves that the index is still right.
    async fn idle(&mut self) -> Result<(), SourceError> {
        loop {
            let sampled = self.clock.now();
            let Waited::Quiet(currency) = self.wait(Duration::ZERO).await? else { return Ok(()) };
            self.memory.save(HEARD_AFTER).await;
            self.vouch(sampled, currency);
            self.issuers.values().for_each(|fed| fed.index.tidy());
            if self.wait(PATIENCE).await? == Waited::News {
                return Ok(());
            }
        }
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        within(self.pace.read_time + patience, "waiting for changes", self.source.wait(patience)).await
    }

    async fn read<'a, T, F>(
        &'a mut self,
        what: &'static str,
        ask: impl FnOnce(&'a mut S) -> F,
    ) -> Result<T, SourceError>
    where
        S: 'a,
        F: Future<Output = Result<T, SourceError>> + Send + 'a,
    {
        within(self.pace.read_time, what, ask(&mut self.source)).await
    }

    /// Everything that the source has, page by page; returns from where to go on.
    async fn load(&mut self) -> Result<Position, SourceError> {
        let as_of = self.clock.now();
        let head = self.read("its newest change", S::head).await?;
        self.doubts.clear_rows();
        let mut after = None;
        let mut collected: HashMap<IssuerName, Vec<(Serial, Record)>> = HashMap::new();
        let mut rows: u64 = 0;
        loop {
            let page = within(self.pace.read_time, "a page", self.source.page(after.as_ref(), PAGE)).await?;
            self.odd(&page.odd);
            let ours = page.rows.iter().filter(|row| self.issuers.contains_key(&*row.issuer));
            rows += u64::try_from(ours.count()).unwrap_or(0);
            for (issuer, believed) in self.believe(page.rows, as_of, true).await {
                let records = collected.entry(issuer.clone()).or_default();
                records.extend(believed);
                self.flush(&issuer, records, LOAD_BATCH);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        for (issuer, mut records) in collected {
            self.flush(&issuer, &mut records, 0);
        }
        let known: u64 = self.issuers.values().map(|fed| fed.index.issued()).sum();
        if rows < known {
            self.doubts.row(
                "the database".to_owned(),
                &format!(
                    "it holds {rows} certificates where {known} were known: those that are gone keep their last status"
                ),
            );
        }
        tracing::info!(certificates = known, "the issuance database was read");
        Ok(head)
    }

    fn flush(&self, issuer: &IssuerName, records: &mut Vec<(Serial, Record)>, at_least: usize) {
        let Some(Fed { index, .. }) = self.issuers.get(issuer) else { return };
        let quarter = usize::try_from(index.issued() / 4).unwrap_or(usize::MAX);
        if at_least == 0 || records.len() >= at_least.max(quarter) {
            index.load(std::mem::take(records));
        }
    }

    /// Makes a batch of changes visible; returns how many said anything new.
    async fn take(&mut self, rows: Vec<Row>, as_of: Time) -> u64 {
        let mut changed = 0;
        for (issuer, believed) in self.believe(rows, as_of, false).await {
            if let Some(Fed { index, .. }) = self.issuers.get(&issuer) {
                changed += index.apply(&believed);
            }
        }
        u64::try_from(changed).unwrap_or(0)
    }

    /// Turns rows into the records to apply, and makes durable what must never be forgotten.
    async fn believe(
        &mut self,
        rows: Vec<Row>,
        as_of: Time,
        loading: bool,
    ) -> Vec<(IssuerName, Vec<(Serial, Record)>)> {
        let mut believed: HashMap<IssuerName, Vec<(Serial, Record)>> = HashMap::new();
        for row in rows {
            let Some((issuer, fed)) = self.issuers.get_key_value(&*row.issuer) else {
                self.doubts.stranger(&row.issuer);
                self.metrics.strangers.inc();
                continue;
            };
            let known = fed.index.view().get(&row.serial);
            let name = || format!("issuer {issuer}, serial {}", row.serial);
            if let Some(part) = fed.parts.of(&row)
                && !fed.index.assign(&[(row.serial, part)]).is_empty()
            {
                self.doubts.row(name(), "the database moved it to another CRL; it stays in its own");
            }
            match judge(&row, fed, known.as_ref(), as_of, loading && !fed.index.is_complete()) {
                Ok(record) => {
                    if self.doubts.any_rows() {
                        self.doubts.mended(&name());
                    }
                    let was = known.map_or(Status::Good, |known| known.status);
                    if was != record.status {
                        self.memory.note(issuer, row.serial, &record);
                    }
                    match believed.get_mut(issuer) {
                        Some(records) => records.push((row.serial, record)),
                        None => _ = believed.insert(issuer.clone(), vec![(row.serial, record)]),
                    }
                }
                Err(doubt) => {
                    if self.doubts.row(name(), doubt) {
                        self.metrics.refused.inc();
                    }
                }
            }
        }
        // Nobody waits for a load, and it may bring very many.
        self.memory.save(if loading { Duration::MAX } else { HEARD_AFTER }).await;
        believed.into_iter().collect()
    }

    /// Vouches for all that a reading which began at `sampled` proves.
    fn vouch(&mut self, sampled: Time, currency: Currency) {
        let proved = match currency {
            Currency::Present => Some(sampled),
            Currency::At(time) => Some(time.min(sampled)),
            Currency::Lagging(grace) => Some(sampled - grace),
            Currency::Unknown => None,
        };
        self.as_of = self.as_of.max(proved);
        for Fed { index, .. } in self.issuers.values() {
            if let Some(proved) = proved {
                index.vouch(proved);
            }
            if !index.is_complete() {
                index.set_complete();
            }
        }
        self.show_lag();
        let known: u64 = self.issuers.values().map(|fed| fed.index.issued()).sum();
        self.metrics.certificates.set(i64::try_from(known).unwrap_or(i64::MAX));
        self.speak(sampled);
    }

    /// Tells in health how the feed is.
    fn speak(&mut self, now: Time) {
        let stale = self.as_of.is_none_or(|as_of| now.since(as_of) > self.pace.max_staleness);
        let alarm = self.memory.alarm().or_else(|| self.doubts.alarm());
        match (stale, alarm) {
            (true, _) => self.health.failed(match self.as_of {
                Some(as_of) => format!(
                    "the database can be read, but proves nothing later than {as_of}: a replica that stands still?"
                ),
                None => "the database can be read, but nothing proves how current it is".to_owned(),
            }),
            (false, Some(alarm)) => self.health.degraded(alarm),
            (false, None) => self.health.ok(),
        }
    }

    fn show_lag(&self) {
        let Some(as_of) = self.as_of else { return };
        self.metrics.as_of.set(as_of.unix());
        let lag = self.clock.now().since(as_of).as_secs();
        self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }

    fn odd(&mut self, rows: &[OddRow]) {
        for OddRow { name, why, .. } in rows {
            if self.doubts.row(name.clone(), &format!("the row is left out: {why}")) {
                self.metrics.odd.inc();
            }
        }
    }
}

/// What `reading` comes to, unless it takes longer than `time`.
async fn within<T>(
    time: Duration,
    what: &'static str,
    reading: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    tokio::time::timeout(time, reading).await.unwrap_or(Err(SourceError::Late { what, after: time }))
}

#[cfg(test)]
mod tests;
