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
pub mod plan;
pub mod publish;
pub mod read;
mod revision;
mod share;
mod shelf;

pub use demand::Demand;
pub use revision::{BuildError, Fault};
pub use share::{Division, Kind, Part, Share, part_url, shard_of};
pub use shelf::{Published, Shelf};

use crate::health::{Component, Health};
use crate::index::{Change, Record, View};
use crate::metrics::{self, Metrics, Purpose};
use crate::pki::{Certificate, ClockDoubt, ClockGuard, Issuer, Revocation, Serial, Status, Time, hash::sha256};
use crate::sign::Signer;
use crate::state::{Form, ListRow, Revision, Scope, Slot, State, StateError};
use bytes::Bytes;
use encode::{Entries, Pool};
use plan::{Pace, Situation, Step, Waiting};
use read::{List, ReadError, Word};
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

/// How soon it is asked again whether the index is complete.
const TICK: Duration = Duration::from_millis(25);
/// Pause after a failure: the first, and the longest that it grows to.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether an operator has settled what stands in the way.
const PATIENCE: Duration = Duration::from_secs(1);

/// What becomes of the entries of certificates that have ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeepExpired {
    /// They go once a regular list carried them (promise 7).
    #[default]
    No,
    /// They stay for this long, and the list says since when (expiredCertsOnCRL).
    For(Duration),
    /// They stay, and the list says since when.
    Forever,
}

/// Which lists of the past can be had as a whole; numbers and hashes of all are kept in any case.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum History {
    /// The complete ones that deltas build on, which by default are those that are valid still.
    #[default]
    Valid,
    /// All, for this long.
    For(Duration),
    /// All.
    All,
}

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
    /// Bytes that the older complete lists of the window may add to the state store. Default 1 GiB.
    pub history_bytes: u64,
    /// What becomes of lists that deltas no longer build on.
    pub history: History,
    /// Where the public listener is found from outside, as `http://crl.example`; complete lists then point
    /// at `<public_url>/crl/<issuer>-delta.crl` (freshestCRL). Default: none.
    pub public_url: Option<String>,
    /// Whether there are deltas. Default: there are. A part does without (CRL-68).
    pub deltas: bool,
    /// The template of the parts' URLs, see [`part_url`].
    pub part_url: String,
    /// What becomes of the entries of certificates that have ended.
    pub keep_expired: KeepExpired,
    /// Whether lists say when the next regular one comes (CRL-31). Default: they do not.
    pub next_publish: bool,
    /// Where lists say that the CA's certificate is found (CRL-29). Default: they do not.
    pub ca_issuers: Option<String>,
    /// Whether nothing is issued any more: once all certificates have ended or are revoked, a last list
    /// without an end is published, and none after it (ETSI-07). Default: no.
    pub last: bool,
}

/// Where shards are found if nothing else is said.
pub const SHARD_URL: &str = "{public_url}/crl/{issuer}/shard-{n}.crl";
/// Where the lists of users' and of CAs' certificates are found if nothing else is said.
pub const KIND_URL: &str = "{public_url}/crl/{issuer}/{n}.crl";

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
            history: History::Valid,
            public_url: None,
            deltas: true,
            part_url: SHARD_URL.to_owned(),
            keep_expired: KeepExpired::No,
            next_publish: false,
            ca_issuers: None,
            last: false,
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
            abandoned: Arc::default(),
        })
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
            while !self.share.index().is_complete() {
                tokio::time::sleep(TICK).await;
            }
            self.reconcile().await?;
            self.outlets().await?;
            self.resumed = true;
        }
        if self.has_ended() {
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

    /// Reads what was committed before, and serves it as long as it lasts.
    async fn reopen(&mut self) -> Result<(), PublishError> {
        self.state.claim().await?;
        let ca = &self.terms.issuer.certificate;
        self.state.begin_scope(&self.scope, &ca_mark(ca)).await?;
        let rows = self.state.lists(&self.scope).await?;
        let last = self.state.last(&self.scope, Slot::Any).await?;
        let regular = self.state.last(&self.scope, Slot::Regular).await?;
        let pruned = self.state.pruned(&self.scope).await?;
        let last_regular = regular.map(|list| list.this_update);
        let mut ledger = Ledger { last, last_regular, pruned, ..Ledger::default() };
        let Opened { window, entries, complete, delta, lost } = self.open_lists(rows).await?;
        self.state.lose(&self.scope, &lost).await?;
        if window.is_empty() {
            // Without the last list nobody can say what changed since an older one: a fresh start, with
            // numbers that go on.
            self.ledger = Arc::new(ledger);
            return Ok(());
        }
        ledger.window = window;
        ledger.entries = entries;
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
        fold(&mut taken, self.share.take_changes());
        let view = Arc::clone(&self.share.index().view());
        let (ledger, ours) = (Arc::clone(&self.ledger), self.share.filter());
        let cutoff = self.terms.cutoff(ledger.last_regular);
        let found = blocking(move || Ok(compare(&ledger, cutoff, &view, ours, taken, &released)?)).await?;
        Arc::make_mut(&mut self.ledger).entries = found.entries;
        self.pending = Arc::new(found.pending);
        self.kept = found.kept;
        self.alarm();
        self.last_due = !self.has_ended() && self.is_last(self.clock.now()).await?;
        self.first = Instant::now();
        self.latest = self.first;
        Ok(())
    }

    /// Makes, commits and serves one revision, in the order of promise 5.
    async fn revise(&mut self, moment: Time, occasion: Occasion) -> Result<(), PublishError> {
        let turn = self.share.turn().await;
        let begun = Instant::now();
        let number = self.reserve().await?;
        let (draft, made, revision) = self.build(moment, occasion, number).await?;
        // Whether a commit that failed was made all the same, only the store can say.
        self.resumed = false;
        let written = Instant::now();
        self.state.commit(&self.scope, &revision).await?;
        self.resumed = true;
        self.cost = begun.elapsed();
        drop(turn);
        tracing::debug!(scope = %self.scope, number, took = ?self.cost, writing = ?written.elapsed(), "a CRL was made");
        self.complete_metrics.built(self.cost);
        self.serve(draft, made, &revision);
        Ok(())
    }

    async fn reserve(&self) -> Result<u64, PublishError> {
        let now = u64::try_from(self.clock.now().unix()).unwrap_or(0);
        Ok(self.state.reserve(&self.scope, now).await?)
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

/// What the store still has of a scope's lists.
#[derive(Default)]
struct Opened {
    /// The complete lists; empty if the last of them cannot be read.
    window: Vec<ListRow>,
    /// The last of them, and its entries.
    entries: Entries,
    complete: Option<Bytes>,
    /// The delta of the same number.
    delta: Option<(ListRow, Bytes)>,
    /// The numbers of those that are not there any more.
    lost: Vec<u64>,
}

impl Publisher {
    /// Reads the last complete list and its delta. If the last is not whole, none counts.
    async fn open_lists(&self, rows: Vec<ListRow>) -> Result<Opened, PublishError> {
        let mut opened = Opened::default();
        let mut deltas = Vec::new();
        for row in rows {
            match Form::from(&row) {
                Form::Delta => deltas.push(row),
                Form::Complete => opened.window.push(row),
            }
        }
        let Some(last) = opened.window.last().cloned() else { return Ok(opened) };
        let Some((bytes, entries)) = self.open_complete(&last).await? else {
            opened.lost = opened.window.drain(..).map(|row| row.number).collect();
            return Ok(opened);
        };
        (opened.complete, opened.entries) = (Some(bytes), entries);
        if let Some(delta) = deltas.pop().filter(|delta| delta.number == last.number) {
            match self.state.list_bytes(&self.scope, &delta).await {
                Ok(Some(bytes)) if List::read(&bytes).is_ok() => opened.delta = Some((delta, bytes.into())),
                Ok(_) => self.unreadable(&delta, &"it is not a delta any more"),
                Err(error) => self.unreadable(&delta, &error),
            }
        }
        Ok(opened)
    }

    /// A complete list as it was published, and its entries in the chunks in which they are stored.
    async fn open_complete(&self, row: &ListRow) -> Result<Option<(Bytes, Entries)>, PublishError> {
        let parts = match self.state.parts(&self.scope, row).await {
            Ok(Some(parts)) => parts,
            Ok(None) => {
                self.unreadable(row, &"it is gone from the store");
                return Ok(None);
            }
            Err(error) => {
                self.unreadable(row, &error);
                return Ok(None);
            }
        };
        let wanted = row.sha256;
        let opened = blocking(move || {
            let bytes = parts.join();
            let whole = sha256(&bytes) == wanted && List::read(&bytes).is_ok();
            Ok(Entries::from_stored(parts.chunks).filter(|_| whole).map(|entries| (Bytes::from(bytes), entries)))
        })
        .await?;
        if opened.is_none() {
            self.unreadable(row, &"it is not what was published");
        }
        Ok(opened)
    }

    fn unreadable(&self, row: &ListRow, error: &dyn fmt::Display) {
        tracing::error!(scope = %self.scope, number = row.number, %error, "a published CRL cannot be read");
    }
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
    cutoff: Option<Time>,
    view: &View,
    ours: impl Fn(&Serial) -> bool,
    taken: BTreeMap<Serial, Change>,
    released: &BTreeSet<Serial>,
) -> Result<Found, ReadError> {
    let prune_key = |record: &Record| record.not_after.max(record.since);
    let is_over = |prune_key: Time| cutoff.is_some_and(|cutoff| prune_key < cutoff);
    // Without the rest of the records: a start with a million of them should not need their memory twice.
    let mut revoked: Vec<(Serial, Revocation, Time)> = Vec::new();
    view.for_each_revoked(|serial, record| {
        if let Status::Revoked(revocation) = record.status
            && ours(&serial)
        {
            revoked.push((serial, revocation, prune_key(&record)));
        }
    });
    revoked.sort_unstable_by_key(|(serial, ..)| *serial);
    let Some(last) = &ledger.complete else {
        let listed = revoked.iter().filter(|(_, _, prune_key)| !is_over(*prune_key));
        let entries = Entries::from_sorted(listed.map(|(serial, said, prune_key)| (serial, said, *prune_key)));
        let news = |(serial, change): &(Serial, Change)| ours(serial) && view.get(serial) != Some(change.record);
        let pending = taken.into_iter().filter(news);
        return Ok(Found { entries, pending: pending.collect(), kept: BTreeSet::new() });
    };

    let mut keys: Vec<Time> = Vec::new();
    let (mut pending, mut kept) = (BTreeMap::new(), BTreeSet::new());
    let tell = |serial: Serial, pending: &mut BTreeMap<Serial, Change>| {
        pending.extend(view.get(&serial).map(|record| (serial, Change { record, released: false })));
    };
    let mut revoked = revoked.into_iter().peekable();
    for entry in List::read(last)?.entries() {
        let entry = entry?;
        let (serial, Word::Revoked(said)) = (entry.serial, entry.word) else { continue };
        while let Some((serial, _, prune_key)) = revoked.next_if(|(known, ..)| *known < serial) {
            if !is_over(prune_key) {
                tell(serial, &mut pending);
            }
        }
        if let Some((_, revocation, prune_key)) = revoked.next_if(|(known, ..)| *known == serial) {
            keys.push(prune_key);
            if revocation != said {
                tell(serial, &mut pending);
            }
            continue;
        }
        let record = view.get(&serial);
        keys.push(record.as_ref().map_or(Time::MAX, prune_key));
        if let Some(revocation) = record.as_ref().and_then(|record| record.status.revocation()) {
            // It was not known when it was listed that it belongs elsewhere.
            if *revocation != said {
                tell(serial, &mut pending);
            }
        } else if released.contains(&serial) || taken.get(&serial).is_some_and(|change| change.released) {
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
    for (serial, ..) in revoked.filter(|(_, _, prune_key)| !is_over(*prune_key)) {
        tell(serial, &mut pending);
    }
    // What came in between is newer than the view, or a release that no list shows.
    let is_listed = |serial: &Serial| ledger.entries.get(serial).is_some();
    let news = taken.into_iter().filter(|(serial, change)| {
        (ours(serial) || is_listed(serial)) && (change.released || view.get(serial) != Some(change.record))
    });
    fold(&mut pending, news.collect());
    Ok(Found { entries: ledger.entries.keyed(&keys), pending, kept })
}

#[cfg(test)]
mod tests;
