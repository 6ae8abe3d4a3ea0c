//! The feed: keeps the indexes in agreement with one issuance database, and knows up to when they are.
//!
//! Goes in: a [`Source`]. Comes out: records in the [`Index`] of each issuer, its `as_of`, and revocations
//! in the durable state before anyone is told of them. It decides what is believed: a revocation at once;
//! its end only with a recorded release from hold.
//!
//! Invariants: `as_of` is a second of this machine's clock from *before* the reading that proves it; it
//! stands still while the database cannot be read (promise 2). A revocation once seen stays, whatever the
//! database says later, unless a release is recorded there (promise 12).

use crate::health::Component;
use crate::index::{Index, Record};
use crate::metrics;
use crate::pki::{Clock, IssuerName, Reason, Serial, Status, Time};
use crate::source::{OddRow, Row, Source, SourceError};
use crate::state::{Seen, State};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long one look at the database may find nothing before the feed speaks up for the time passed.
const PATIENCE: Duration = Duration::from_millis(250);
/// After an error the database is opened anew after this long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A good certificate that changed within this time before it is loaded may have been answered otherwise
/// before; its answers are dated from now on. Older ones need no such care: no answer lives so long
/// (BR-09), nor is any aligned to a point so far back.
const RECENT: Duration = Duration::from_secs(11 * 86_400);
/// A revocation dated further ahead than this is worth a warning (life cycle of a status).
const AHEAD: Duration = Duration::from_secs(300);
/// How long a revocation waits for the state store before it is answered without: being heard comes before
/// being remembered (promise 8). A publisher that commits a long journal keeps the store busy for seconds.
const HEARD_AFTER: Duration = Duration::from_millis(250);
/// The longest that the end of the process waits for the state store.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Revocations and releases that the state store takes at once.
const SAVED_AT_ONCE: usize = 2_000;
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

/// One feed; [`Feed::run`] is all it does.
#[derive(Debug)]
pub struct Feed<S> {
    source: S,
    issuers: HashMap<IssuerName, Fed>,
    state: State,
    clock: Arc<dyn Clock>,
    metrics: metrics::Feed,
    health: Component,
    /// Revocations (and releases: `None`) that the state does not hold yet; the last word on each serial.
    unsaved: HashMap<IssuerName, BTreeMap<Serial, Option<Seen>>>,
    /// Why it does not.
    refusal: String,
    /// What has been warned about and stands in the way of an unclouded health.
    doubts: BTreeSet<String>,
    /// Issuers in the database that the config does not name.
    strangers: BTreeSet<String>,
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
        let (unsaved, refusal, doubts, strangers) = (HashMap::new(), String::new(), BTreeSet::new(), BTreeSet::new());
        Self { source, issuers, state, clock, metrics, health, unsaved, refusal, doubts, strangers }
    }

    /// Runs until `stop` turns true. Errors of the database are waited out, never passed on.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.feed() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.save(LAST_WORDS).await;
    }

    async fn feed(&mut self) {
        self.recall().await;
        let mut retry = FIRST_RETRY;
        loop {
            let before = self.metrics.as_of.get();
            let Err(error) = self.follow().await;
            self.metrics.failures.inc();
            let gap = matches!(error, SourceError::Position(_) | SourceError::Replaced(_));
            if gap {
                self.doubt(format!("{error}; everything is being read anew"));
            }
            self.health.failed(error.to_string());
            if self.metrics.as_of.get() > before {
                retry = FIRST_RETRY;
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// What was known to be revoked before this start is known from the first moment.
    async fn recall(&mut self) {
        for (issuer, Fed { index, .. }) in &self.issuers {
            let seen = loop {
                match self.state.revocations(issuer).await {
                    Ok(seen) => break seen,
                    Err(error) => self.health.failed(format!("the state cannot be read: {error}")),
                }
                tokio::time::sleep(LAST_RETRY).await;
            };
            index.load(seen.into_iter().map(|(serial, seen)| (serial, record_of(&seen))).collect());
        }
    }

    /// Opens the database, reads it all, then what changes, until something fails.
    async fn follow(&mut self) -> Result<std::convert::Infallible, SourceError> {
        self.source.open().await?;
        let mut position = self.source.head().await?;
        self.load().await?;
        loop {
            let as_of = self.clock.now();
            let batch = self.source.changes(&position).await?;
            position = batch.position;
            self.odd(&batch.odd);
            let changed = self.take(batch.rows, as_of).await;
            self.metrics.changes.inc_by(changed);
            if batch.drained {
                self.vouch(as_of);
                self.idle().await?;
            }
        }
    }

    /// Waits for the next commit; every look that finds none proves that the index is still right.
    async fn idle(&mut self) -> Result<(), SourceError> {
        loop {
            let as_of = self.clock.now();
            if self.source.wait(Duration::ZERO).await? {
                return Ok(());
            }
            self.save(HEARD_AFTER).await;
            self.vouch(as_of);
            self.issuers.values().for_each(|fed| fed.index.tidy());
            if self.source.wait(PATIENCE).await? {
                return Ok(());
            }
        }
    }

    /// Everything that the source has, page by page.
    async fn load(&mut self) -> Result<(), SourceError> {
        let as_of = self.clock.now();
        let mut after = None;
        let mut collected: HashMap<IssuerName, Vec<(Serial, Record)>> = HashMap::new();
        let mut rows: u64 = 0;
        loop {
            let page = self.source.page(after.as_ref()).await?;
            self.odd(&page.odd);
            let ours = page.rows.iter().filter(|row| self.issuers.contains_key(row.issuer.as_str()));
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
            self.doubt(format!(
                "the database holds {rows} certificates where {known} were known: those that are gone keep their last status"
            ));
        }
        tracing::info!(certificates = known, "the issuance database was read");
        Ok(())
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
        let mut moved = Vec::new();
        for row in rows {
            let Some((issuer, fed)) = self.issuers.get_key_value(row.issuer.as_str()) else {
                self.stranger(&row.issuer);
                continue;
            };
            let (issuer, known) = (issuer.clone(), fed.index.view().get(&row.serial));
            if let Some(part) = fed.parts.of(&row) {
                moved.extend(fed.index.assign(&[(row.serial, part)]));
            }
            match judge(&row, fed, known.as_ref(), as_of, loading && !fed.index.is_complete()) {
                Ok(record) => believed.entry(issuer).or_default().push((row.serial, record)),
                Err(doubt) => self.doubt(format!("{doubt} (issuer {issuer}, serial {})", row.serial)),
            }
        }
        for serial in moved {
            self.doubt(format!("the database moved serial {serial} to another CRL; it stays in its own"));
        }
        for (issuer, records) in &believed {
            self.note_news(issuer, records);
        }
        // Nobody waits for a load, and it may bring very many.
        self.save(if loading { Duration::MAX } else { HEARD_AFTER }).await;
        believed.into_iter().collect()
    }

    /// Collects the revocations and releases that are news, for the durable state (promise 12).
    fn note_news(&mut self, issuer: &IssuerName, records: &[(Serial, Record)]) {
        let Some(Fed { index, .. }) = self.issuers.get(issuer) else { return };
        let view = index.view();
        let news = records.iter().filter(|(serial, record)| {
            let was = view.get(serial).map_or(Status::Good, |known| known.status);
            was != record.status
        });
        let news: Vec<_> = news.map(|(serial, record)| (*serial, seen_of(record))).collect();
        if !news.is_empty() {
            self.unsaved.entry(issuer.clone()).or_default().extend(news);
        }
    }

    /// Writes what is unsaved into the durable state, before anyone is told of it. What cannot be written
    /// within `patience` is told all the same, and tried again whenever there is time.
    async fn save(&mut self, patience: Duration) {
        for (issuer, unsaved) in &mut self.unsaved {
            while !unsaved.is_empty() {
                let batch: Vec<_> = unsaved.iter().take(SAVED_AT_ONCE).map(|(serial, seen)| (*serial, *seen)).collect();
                self.refusal = match tokio::time::timeout(patience, self.state.record(issuer, &batch)).await {
                    Ok(Ok(())) => {
                        for (serial, _) in batch {
                            unsaved.remove(&serial);
                        }
                        continue;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it is busy".to_owned(),
                };
                return;
            }
        }
    }

    fn vouch(&mut self, as_of: Time) {
        for Fed { index, .. } in self.issuers.values() {
            index.vouch(as_of);
            if !index.is_complete() {
                index.set_complete();
            }
        }
        self.metrics.as_of.set(as_of.unix());
        let known: u64 = self.issuers.values().map(|fed| fed.index.issued()).sum();
        self.metrics.certificates.set(i64::try_from(known).unwrap_or(i64::MAX));
        let unsaved: usize = self.unsaved.values().map(BTreeMap::len).sum();
        match self.doubts.last() {
            _ if unsaved > 0 => self.health.degraded(format!(
                "{unsaved} revocations or releases are not in the state store yet, so a restart may forget them: {}",
                self.refusal
            )),
            None => self.health.ok(),
            Some(doubt) => self.health.degraded(format!("{doubt} ({} in all; see the log)", self.doubts.len())),
        }
    }

    fn odd(&mut self, rows: &[OddRow]) {
        for OddRow { name, why } in rows {
            self.doubt(format!("a row is left out: {name}: {why}"));
        }
    }

    /// Says once what an operator should look at, and keeps it in the health until the restart.
    fn doubt(&mut self, doubt: String) {
        // A flood of odd rows must not become a flood of memory.
        const MOST: usize = 1_000;
        if self.doubts.len() < MOST && !self.doubts.contains(&doubt) {
            tracing::warn!("{doubt}");
            self.doubts.insert(doubt);
        }
    }

    fn stranger(&mut self, issuer: &str) {
        if !self.strangers.contains(issuer) {
            tracing::warn!(
                issuer,
                "the database has certificates of an issuer that the config does not name: not answered for"
            );
            self.strangers.insert(issuer.to_owned());
        }
    }
}

/// What is to be believed of `row`, when `known` was known before.
fn judge(row: &Row, fed: &Fed, known: Option<&Record>, as_of: Time, loading: bool) -> Result<Record, &'static str> {
    let status = match row.status {
        Status::Revoked(mut revocation) => {
            if revocation.at > row.changed_at {
                if revocation.at > row.changed_at + AHEAD {
                    let (issuer, serial) = (&row.issuer, row.serial);
                    tracing::warn!(issuer, %serial, at = %revocation.at, "a revocation is dated ahead; it is published now");
                }
                revocation.at = row.changed_at;
            }
            if !fed.reasons.contains(&revocation.reason) {
                revocation.reason = Reason::Unspecified;
            }
            Status::Revoked(revocation)
        }
        Status::Good => Status::Good,
    };
    let since = match known {
        // The index keeps what it knew of an unchanged status.
        Some(known) if known.status == status => known.since,
        Some(known) => {
            if let Status::Revoked(was) = known.status {
                // A hold may be dated back before the release of an earlier one, so the release must also
                // come after this hold was learned; by more than clocks differ it cannot come before.
                let ended = |released: Time| released >= was.at && released + AHEAD >= known.since;
                if status == Status::Good && !(known.status.is_hold() && row.released_at.is_some_and(ended)) {
                    return Err(
                        "the database says good of a certificate that was revoked, without a recorded release from hold; it stays revoked",
                    );
                }
                if status.is_hold() && !known.status.is_hold() {
                    return Err(
                        "the database says on hold of a certificate that was revoked for good; it stays revoked",
                    );
                }
            }
            as_of
        }
        None if loading && status == Status::Good && row.changed_at + RECENT < as_of => Time::default(),
        None => as_of,
    };
    Ok(Record {
        not_before: row.not_before,
        not_after: row.not_after,
        status,
        since,
        sha256: row.sha256.filter(|_| fed.hashes),
    })
}

fn record_of(seen: &Seen) -> Record {
    let status = Status::Revoked(seen.revocation);
    Record { not_before: seen.not_before, not_after: seen.not_after, status, since: seen.learned, sha256: None }
}

/// `None` for one that is good now: it was released.
fn seen_of(record: &Record) -> Option<Seen> {
    let revocation = *record.status.revocation()?;
    Some(Seen { not_before: record.not_before, not_after: record.not_after, revocation, learned: record.since })
}

#[cfg(test)]
mod tests;
