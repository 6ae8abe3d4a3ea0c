//! CRLs of one scope, which is an issuer or a part of its certificates: a complete list and a delta, made whenever there
//! is something to tell and at regular slots.
//!
//! Goes in: the changes of a [`Share`] of an index, and the clock. Comes out: a [`Shelf`] with lists to serve
//! (RFC 5280 5). [`plan`] decides when, [`revision`] makes the lists, the [`State`] store remembers them.
//! Nothing here speaks HTTP, and nothing here can hold up the feed or an OCSP answer (promise 8).
//!
//! Invariant: the order of promise 5. A number is reserved durably; the lists are built, signed and read
//! back; they are written in one transaction together with the journal rows that they stand for; and only
//! then are they served. A crash in between leaves a gap in the numbers.
//!
//! Left out by design: issuerAltName and holdInstructionCode, which nobody reads (CRL-32, CRL-47); indirect
//! lists and lists by reason (CRL-46, CRL-77).

mod demand;
pub mod encode;
pub mod entries;
mod lease;
pub mod plan;
pub mod publish;
pub mod read;
mod resume;
mod revision;
mod settings;
mod share;
mod shelf;

pub use demand::Demand;
pub use lease::Lease;
pub use revision::{BuildError, Fault};
pub use settings::{History, KIND_URL, KeepExpired, PublisherConfig, SHARD_URL};
pub use share::{Division, Kind, Part, Share, part_url, shard_of};
pub use shelf::{Published, Shelf};

use crate::health::{Component, Health};
use crate::index::Change;
use crate::metrics::{self, Metrics, Purpose};
use crate::pki::{Certificate, ClockDoubt, ClockGuard, Issuer, Serial, Status, Time, hash::sha256};
use crate::sign::Signer;
use crate::state::{Revision, Scope, Slot, State, StateError};
use bytes::Bytes;
use encode::Pool;
use plan::{Pace, Situation, Step, Waiting};
use read::ReadError;
use revision::{Draft, Ledger, Made, Occasion, Terms};
use share::fold;
use shelf::Stock;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::watch;

/// Certificates of a shard above which its list could exceed 10 MB (CRL-78).
const MOST_OF_A_PART: u64 = 100_000;
/// How soon it is asked again whether the index is complete.
const TICK: Duration = Duration::from_millis(25);
/// Pause after a failure: the first, and the longest that it grows to.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether an operator has settled what stands in the way.
const PATIENCE: Duration = Duration::from_secs(1);

/// A place where lists are published and can be looked at.
pub trait Outlet: fmt::Debug + Send + Sync {
    /// What it is, for people.
    fn place(&self) -> String;

    /// The highest number of any list of `scope` that is there. Blocks.
    ///
    /// # Errors
    /// If it cannot be looked at now.
    fn highest(&self, scope: &Scope) -> io::Result<Option<u64>>;
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
    /// What was published is ahead of what the state store knows: another Jarchy publishes there, or an
    /// older state store was put back.
    #[error(
        "{place} holds CRL {found} of {scope}, but the state store knows of none above {known}: another publisher is at work there, or an older state store was restored. Nothing is published until `jarchy crl adopt {issuer}` says that numbers go on above it"
    )]
    Ahead {
        /// Where.
        place: String,
        /// Which list.
        scope: Scope,
        /// For the command.
        issuer: String,
        /// Its number there.
        found: u64,
        /// The highest number that the store gave out.
        known: u64,
    },
    /// The clock cannot be believed (promise 13).
    #[error(transparent)]
    Clock(#[from] ClockDoubt),
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
    /// What is known of its certificates, or of one shard of them.
    pub share: Share,
    /// Where lists, numbers and the journal are kept.
    pub state: State,
    /// The wall clock, and whether it can be believed.
    pub clock: Arc<ClockGuard>,
    /// Where the lists go.
    pub shelf: Arc<Shelf>,
    /// Where else they go; nothing is published where one of them is ahead of the state store.
    pub outlets: Vec<Arc<dyn Outlet>>,
    /// Told as component `crl:<scope>`.
    pub health: Health,
    /// Told of builds, signatures and lists.
    pub metrics: Metrics,
}

/// Makes and publishes the lists of one issuer.
pub struct Publisher {
    terms: Arc<Terms>,
    signer: Arc<Signer>,
    share: Share,
    state: State,
    clock: Arc<ClockGuard>,
    shelf: Arc<Shelf>,
    demand: Arc<Demand>,
    outlets: Vec<Arc<dyn Outlet>>,
    lease: watch::Receiver<Lease>,
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
    /// Whether the next list is the last one.
    last_due: bool,
    /// What went wrong last, if nothing went right since.
    failure: Option<String>,
    /// Whether it has been said that too many certificates share this list.
    warned: bool,
    /// Set when a build that may still run is no longer wanted.
    abandoned: Arc<AtomicBool>,
}

impl Publisher {
    /// Prepares to publish; nothing is read or written yet.
    ///
    /// # Errors
    /// [`PublishError::KeyUsage`] if the CA may not sign CRLs.
    pub fn new(config: PublisherConfig, parts: Parts) -> Result<Self, PublishError> {
        let Parts { issuer, signer, share, state, clock, shelf, outlets, health, metrics } = parts;
        if !issuer.certificate.may_sign_crls() {
            return Err(PublishError::KeyUsage(issuer.certificate.subject_text().to_owned()));
        }
        let name = &issuer.name;
        let part = share.part();
        let scope = part.scope(name);
        let public_url = config.public_url.as_deref().unwrap_or_default();
        let distribution = part.url(&config.part_url, public_url, name);
        let only = match part {
            Part::Whole | Part::Shard(_) => None,
            Part::Kind(kind) => Some(kind),
        };
        let freshest = match &distribution {
            _ if !config.deltas => None,
            Some(url) => Some(format!("{}-delta.crl", url.strip_suffix(".crl").unwrap_or(url))),
            None => {
                config.public_url.as_ref().map(|base| format!("{}/crl/{name}-delta.crl", base.trim_end_matches('/')))
            }
        };
        let now = Instant::now();
        Ok(Self {
            health: health.component(&format!("crl:{scope}")),
            complete_metrics: metrics.crl(scope.as_str(), metrics::List::Complete),
            delta_metrics: metrics.crl(scope.as_str(), metrics::List::Delta),
            scope,
            terms: Arc::new(Terms {
                authority_key: issuer.certificate.key_identifier(),
                freshest,
                distribution,
                only,
                config,
                issuer,
            }),
            signer,
            share,
            state,
            clock,
            shelf,
            demand: Arc::default(),
            outlets,
            lease: watch::channel(Lease::Free).1,
            metrics,
            pool: Pool::default(),
            ledger: Arc::default(),
            pending: Arc::default(),
            first: now,
            latest: now,
            kept: BTreeSet::new(),
            cost: Duration::ZERO,
            resumed: false,
            last_due: false,
            failure: None,
            warned: false,
            abandoned: Arc::default(),
        })
    }

    /// Makes lists only while `lease` says that they are this node's to make.
    #[must_use]
    pub fn leased(self, lease: watch::Receiver<Lease>) -> Self {
        Self { lease, ..self }
    }

    /// Where a list can be had at once.
    #[must_use]
    pub fn demand(&self) -> Arc<Demand> {
        Arc::clone(&self.demand)
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
                    self.watch_size();
                    if let Some(wait) = wait {
                        tokio::select! {
                            () = self.share.changed() => {}
                            () = self.demand.woken() => {}
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
                    back_off = match error {
                        // An operator's word is waited for.
                        PublishError::Clock(_) | PublishError::Ahead { .. } => PATIENCE,
                        _ => (back_off * 2).min(BACK_OFF_MAX),
                    };
                }
            }
        }
    }

    /// Does what is due, and says how long there is nothing to do.
    async fn step(&mut self) -> Result<Option<Duration>, PublishError> {
        if !self.resumed {
            self.reopen().await?;
            while !self.share.index().is_complete() || !self.lease.borrow().is_said() {
                tokio::time::sleep(TICK).await;
            }
            self.reconcile().await?;
            self.outlets().await?;
            self.resumed = true;
        }
        if self.has_ended() || self.refusal().is_some() {
            return Ok(Some(PATIENCE));
        }
        let situation = self.situation();
        let pace = self.pace();
        match (plan::next(&pace, &situation), situation.moment) {
            (Step::Build { regular }, Some(moment)) => {
                self.clock.check()?;
                let occasion = match regular {
                    _ if self.is_last(moment).await? => Occasion::Last,
                    true => Occasion::Regular,
                    false => Occasion::Change,
                };
                self.revise(moment, occasion).await.map(|()| None)
            }
            (Step::Build { .. }, None) => Ok(Some(TICK)),
            (Step::Wait(wait), moment) => {
                if self.is_ahead() {
                    // Promise 13: an operator may have declared void what was made in the future.
                    tokio::time::sleep(PATIENCE).await;
                    self.resumed = self.state.last(&self.scope, Slot::Any).await? == self.ledger.last;
                }
                match (self.demand.open(), moment) {
                    (Some(asked), Some(moment)) if situation.may_be_made_after(asked, moment) => {
                        self.clock.check()?;
                        self.revise(moment, Occasion::Change).await.map(|()| None)
                    }
                    (Some(_), _) => Ok(Some(TICK)),
                    (None, _) => Ok(Some(wait)),
                }
            }
        }
    }

    /// Why this node may make no list now, whatever is due.
    fn refusal(&self) -> Option<String> {
        self.lease.borrow().refusal()
    }

    /// Whether the last list that there will ever be is published (ETSI-07).
    fn has_ended(&self) -> bool {
        self.ledger.last.as_ref().is_some_and(|last| last.next_update == Time::MAX)
    }

    /// Whether the last list is dated in the future.
    fn is_ahead(&self) -> bool {
        self.ledger.last.as_ref().is_some_and(|last| last.this_update > self.clock.now())
    }

    /// Whether a list dated `moment` is the last one: none of its certificates is good and alive any more.
    async fn is_last(&self, moment: Time) -> Result<bool, PublishError> {
        if !self.terms.config.last {
            return Ok(false);
        }
        let (view, ours) = (Arc::clone(&self.share.index().view()), self.share.filter());
        blocking(move || {
            let mut alive = false;
            view.for_each(|serial, record| {
                alive |= record.not_after >= moment
                    && record.status.revocation().is_none_or(|_| record.status.is_hold())
                    && ours(&serial);
            });
            Ok(!alive)
        })
        .await
    }

    /// Promise 5: where something newer is published than the store knows of, nothing is published.
    async fn outlets(&self) -> Result<(), PublishError> {
        let known = self.state.reserved(&self.scope).await?;
        let (outlets, scope) = (self.outlets.clone(), self.scope.clone());
        let issuer = self.terms.issuer.name.to_string();
        blocking(move || {
            for outlet in outlets {
                match outlet.highest(&scope) {
                    Ok(Some(found)) if found > known => {
                        return Err(PublishError::Ahead { place: outlet.place(), scope, issuer, found, known });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%scope, place = outlet.place(), %error, "cannot see what is published")
                    }
                }
            }
            Ok(())
        })
        .await
    }

    fn pace(&self) -> Pace {
        let config = &self.terms.config;
        let pace = Pace { interval: config.interval, debounce: config.debounce, max_delay: config.max_delay };
        pace.scaled(self.ledger.entries.len(), self.cost)
    }

    fn situation(&mut self) -> Situation {
        // Sampled before the changes are taken: a list then tells at least what its thisUpdate claims.
        let index = self.share.index();
        let as_of = index.as_of().filter(|_| index.is_complete());
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
            lacking: self.ledger.complete.is_none()
                || (self.terms.config.deltas && self.ledger.delta.is_none())
                || std::mem::take(&mut self.last_due),
        }
    }

    fn is_stale(&self) -> bool {
        let limit = self.terms.config.max_staleness;
        self.share.index().as_of().is_none_or(|as_of| self.clock.now().since(as_of) > limit)
    }

    /// Takes over what the index reports. What has come to belong elsewhere is told as long as it is listed.
    fn collect(&mut self) {
        let (mut taken, ours) = (self.share.take_changes(), self.share.filter());
        let listed = |serial: &Serial| self.pending.contains_key(serial) || self.ledger.entries.get(serial).is_some();
        taken.retain(|serial, _| ours(serial) || listed(serial));
        if taken.is_empty() {
            return;
        }
        self.latest = Instant::now();
        if self.pending.is_empty() {
            self.first = self.latest;
        }
        fold(Arc::make_mut(&mut self.pending), taken);
    }

    /// Makes, commits and serves one revision, in the order of promise 5.
    async fn revise(&mut self, moment: Time, occasion: Occasion) -> Result<(), PublishError> {
        let turn = self.share.turn().await;
        let begun = Instant::now();
        let number = self.reserve().await?;
        let (draft, made, revision) = self.build(moment, occasion, number).await?;
        if self.refusal().is_some() {
            // Another node has come to make them meanwhile; the number stays unused.
            return Ok(());
        }
        // Whether a commit that failed was made all the same, only the store can say.
        self.resumed = false;
        let written = Instant::now();
        self.state.commit(&self.scope, &revision).await?;
        self.resumed = true;
        self.cost = begun.elapsed();
        drop(turn);
        tracing::debug!(scope = %self.scope, number, took = ?self.cost, writing = ?written.elapsed(), "a CRL was made");
        self.complete_metrics.built(self.cost);
        if made.delta.is_some() {
            self.delta_metrics.built(made.delta_took);
        }
        self.serve(draft, made, &revision);
        Ok(())
    }

    async fn reserve(&self) -> Result<u64, PublishError> {
        let now = u64::try_from(self.clock.now().unix()).unwrap_or(0);
        let above = self.lease.borrow().floor().saturating_add(1);
        Ok(self.state.reserve(&self.scope, now.max(above)).await?)
    }

    async fn build(
        &self,
        moment: Time,
        occasion: Occasion,
        number: u64,
    ) -> Result<(Draft, Made, Revision), PublishError> {
        let (terms, ledger, pending) = (Arc::clone(&self.terms), Arc::clone(&self.ledger), Arc::clone(&self.pending));
        let (signer, pool, abandoned) = (Arc::clone(&self.signer), self.pool.clone(), Arc::clone(&self.abandoned));
        let built = blocking(move || {
            let mut draft = Draft::new(&terms, &ledger, &pending, moment, occasion)?;
            let proceed = || !abandoned.load(Ordering::Relaxed);
            let made = draft.make(&terms, &ledger, number, &signer, &pool, &proceed)?;
            let revision = draft.revision(&terms, &ledger, &made);
            Ok((draft, made, revision))
        });
        let built = built.await;
        match &built {
            Ok((_, made, _)) => self.metrics.signatures.add(Purpose::Crl, 1 + u64::from(made.delta.is_some())),
            Err(PublishError::Build(BuildError::Sign(_))) => self.metrics.signature_failures.count(Purpose::Crl),
            Err(_) => {}
        }
        built
    }

    /// Takes in and serves what has been committed.
    fn serve(&mut self, draft: Draft, made: Made, revision: &Revision) {
        let known = self.kept.len();
        self.kept.extend(draft.unexplained.iter().chain(&made.restored));
        if self.kept.len() > known {
            self.alarm();
        }
        self.kept.retain(|serial| !draft.told.contains_key(serial) && !draft.dropped.contains(serial));
        self.pending = Arc::new(draft.deferred.clone());
        self.first = Instant::now();
        let delta = made.delta.as_ref().map(|delta| delta.bytes.clone());
        Arc::make_mut(&mut self.ledger).advance(draft, &made, revision);
        self.show(delta);
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
        let older = older.iter().map(|row| (row.number, row.clone())).collect();
        self.shelf.put(Stock { complete, delta, older, store: Some((self.state.clone(), self.scope.clone())) });
        self.demand.served(last.this_update, last.number);
    }

    fn alarm(&self) {
        if let Some(first) = self.kept.first() {
            let count = self.kept.len();
            tracing::error!(scope = %self.scope, count, %first, "revocations stay listed that the index has lost");
        }
    }

    /// Says once if a part has more certificates than a list of 10 MB can name, should all be revoked.
    fn watch_size(&mut self) {
        let crowd = self.share.crowd().filter(|crowd| *crowd > MOST_OF_A_PART);
        if let Some(certificates) = crowd.filter(|_| !std::mem::replace(&mut self.warned, crowd.is_some())) {
            tracing::warn!(
                scope = %self.scope,
                certificates,
                "a shard has more than {MOST_OF_A_PART} certificates: if all of them were revoked its CRL would exceed \
                 10 MB, which some clients refuse; give the certificates to come an issuer with more shards"
            );
        }
    }

    /// Says how things stand. CRL-94: red while there is still half of the list's validity to mend it.
    fn report(&self) {
        let now = self.clock.now();
        let stale = || {
            let as_of = self.share.index().as_of().filter(|_| self.is_stale())?;
            Some(format!("the database has been out of reach since {as_of}: no CRL is made"))
        };
        let backwards = || {
            let last = self.ledger.last.as_ref().filter(|last| last.this_update > now)?;
            let issuer = &self.terms.issuer.name;
            Some(format!(
                "the clock says {now}, but the last CRL was made at {}: none is made before that, unless the list \
                 from the future is declared void by `jarchy crl supersede {issuer}`",
                last.this_update
            ))
        };
        let refusal = self.refusal().filter(|_| self.lease.borrow().is_said());
        let is_refused = refusal.is_some();
        let trouble = refusal.or_else(|| self.failure.clone()).or_else(backwards).or_else(stale);
        match (trouble, self.shelf.complete()) {
            (Some(trouble), Some(list)) => {
                let (whole, left) = (list.next_update.since(list.this_update), list.next_update.since(now));
                let reason = format!("{trouble}; the CRL that is served ends at {}", list.next_update);
                if is_refused || left < whole / 2 { self.health.failed(reason) } else { self.health.degraded(reason) }
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

/// By what the state store knows a CA again: SHA-256 of its name and key.
#[must_use]
pub fn ca_mark(ca: &Certificate) -> [u8; 32] {
    sha256(&[ca.subject(), ca.spki()].concat())
}

/// Runs `work` where it may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::Panicked)?
}

#[cfg(test)]
mod tests;
