//! The feed: keeps the indexes in agreement with one issuance database, and knows up to when they are.
//!
//! Goes in: a [`Source`]. Comes out: records in the [`Index`] of each issuer, its `as_of`, and revocations
//! in the durable state before anyone is told of them. It decides what is believed: a revocation at once;
//! its end only with a recorded release from hold.
//!
//! Invariants: `as_of` is a second of this machine's clock from *before* the reading that proves it, or what
//! the source proves less; it stands still while the database cannot be read (promise 2). A revocation once
//! seen stays, whatever the database says later, unless a release is recorded there (promise 12).

mod desk;
mod doubts;
mod judge;
mod memory;
mod reconcile;
mod vanished;

pub use desk::{Desk, Dropped, Reconciled};

use crate::health::Component;
use crate::index::{Index, Record};
use crate::metrics;
use crate::pki::{Clock, IssuerName, Reason, Serial, Status, TOLERANCE, Time};
use crate::source::{Batch, Currency, Fate, Gone, Key, OddRow, Position, Row, Source, SourceError, Waited};
use crate::state::State;
use desk::Order;
use doubts::Doubts;
use judge::judge;
use memory::{Memory, record_of};
use reconcile::Reconcile;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use vanished::Vanished;

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
/// Certificates that are read anew at once, at most.
const REREAD: usize = 1_000;

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
    /// From one reconcile to the next; `None` for none but on demand.
    pub reconcile: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { read_time: Duration::from_secs(30), max_staleness: Duration::from_secs(60), reconcile: Some(day) }
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
    /// After which nothing that the source said holds any more, where it says so.
    until: Option<Time>,
    vanished: Vanished,
    desk: Desk,
    orders: mpsc::Receiver<Order>,
    /// The one that is under way.
    reconcile: Option<Reconcile>,
    /// When the last one ended, or everything was read.
    reconciled: watch::Sender<Time>,
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
        let (desk, orders) = Desk::new();
        Self {
            source,
            issuers,
            pace: Pace::default(),
            clock,
            metrics,
            health,
            memory: Memory::new(state),
            doubts: Doubts::default(),
            position: watch::Sender::new(None),
            as_of: None,
            until: None,
            vanished: Vanished::default(),
            desk,
            orders,
            reconcile: None,
            reconciled: watch::Sender::new(Time::default()),
        }
    }

    /// Sets the times that the feed keeps to.
    #[must_use]
    pub fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// The indexes hold already what the database had at a position, as from a snapshot, and were last proved to agree
    /// with it at a time: only what changed since is read. If the position does not fit the database any more,
    /// everything is.
    #[must_use]
    pub fn resume(self, known: Option<(Position, Time)>) -> Self {
        if let Some((position, reconciled)) = known {
            self.position.send_replace(Some(position));
            self.reconciled.send_replace(reconciled.min(self.clock.now()));
        }
        self
    }

    /// The position that the indexes are at least as new as. Whoever takes a snapshot reads it *before* the
    /// views.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }

    /// When the indexes were last proved to agree with the database, or wholly read from it.
    #[must_use]
    pub fn reconciled(&self) -> watch::Receiver<Time> {
        self.reconciled.subscribe()
    }

    /// Where operators' wishes come in.
    #[must_use]
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Runs until `stop` turns true. Errors of the database are waited out, never passed on.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        self.run_after(std::future::ready(()), stop).await;
    }

    /// The same, but the database is left alone until `ready` is done; what was known before is known at once.
    pub async fn run_after(mut self, ready: impl Future<Output = ()> + Send, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.feed(ready) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.memory.save(LAST_WORDS).await;
    }

    async fn feed(&mut self, ready: impl Future<Output = ()> + Send) {
        self.recall().await;
        ready.await;
        let mut retry = FIRST_RETRY;
        loop {
            let began = Instant::now();
            let Err(error) = self.follow().await;
            self.metrics.failures.inc();
            self.health.failed(error.to_string());
            // What fails again and again may well be read for a while in between.
            if began.elapsed() > LAST_RETRY {
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
            let (seen, dropped) = loop {
                let state = self.memory.state();
                match tokio::try_join!(state.revocations(issuer), state.dropped(issuer)) {
                    Ok(recalled) => break recalled,
                    Err(error) => self.health.failed(format!("the state cannot be read: {error}")),
                }
                tokio::time::sleep(LAST_RETRY).await;
            };
            let saved: HashSet<Serial> = seen.iter().map(|(serial, _)| *serial).collect();
            let (kept, forgotten): (Vec<_>, Vec<_>) = dropped.into_iter().partition(|(.., kept)| *kept);
            for (serial, ..) in kept.into_iter().filter(|(serial, ..)| saved.contains(serial)) {
                self.vanished.settled(issuer, serial);
            }
            // A snapshot from before an operator let go of them has them still; later ones only if they came back.
            let as_of = index.as_of();
            let older = forgotten.into_iter().filter(|(_, at, _)| as_of.is_none_or(|as_of| as_of <= *at));
            index.forget(&older.map(|(serial, ..)| serial).collect::<Vec<_>>());
            // What a snapshot holds and the state store does not, because it was busy or is another one.
            let memory = &mut self.memory;
            index.view().for_each_revoked(|serial, record| {
                if !saved.contains(&serial) {
                    memory.note(issuer, serial, &record);
                }
            });
            index.load(seen.into_iter().map(|(serial, seen)| (serial, record_of(&seen))).collect());
        }
    }

    /// Opens the database, reads what is not known of it yet, then what changes, until something fails.
    async fn follow(&mut self) -> Result<Infallible, SourceError> {
        self.read("opening it", S::open).await?;
        let mut retry = Duration::ZERO;
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
                    // A source that says so of each would else be read without a pause.
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).clamp(FIRST_RETRY, LAST_RETRY);
                }
                Err(error) => return Err(error),
                Ok(()) => retry = Duration::ZERO,
            }
        }
    }

    /// Reads what changed since `position`; at the end of it, waits for more.
    async fn advance(&mut self, position: &Position) -> Result<(), SourceError> {
        let sampled = self.clock.now();
        let batch = within(self.pace.read_time, "changes", self.source.changes(position)).await?;
        let Batch { rows, gone, odd, position, drained, currency, gaps } = batch;
        let changed = self.take(rows, sampled).await;
        self.odd(&odd);
        gone.into_iter().for_each(|gone| self.gone(gone, sampled));
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
            self.obey().await;
            let pause = self.step().await?.unwrap_or_else(|| PATIENCE.min(until_next_second()));
            if self.wait(pause).await? == Waited::News {
                return Ok(());
            }
            let sampled = self.clock.now();
            let Waited::Quiet(currency) = self.wait(Duration::ZERO).await? else { return Ok(()) };
            self.memory.save(HEARD_AFTER).await;
            self.vouch(sampled, currency);
            self.issuers.values().for_each(|fed| fed.index.tidy());
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
        // What an earlier one that was broken off has read is known already.
        self.issuers.values().for_each(|fed| fed.index.settle());
        let asked = self.reconcile.take().map(|interrupted| interrupted.asked).unwrap_or_default();
        let expected = self.expected();
        let mut after = None;
        let mut seen: u64 = 0;
        loop {
            let page = within(self.pace.read_time, "a page", self.source.page(after.as_ref(), PAGE)).await?;
            let (believed, known) = self.believe(page.rows, as_of, true).await;
            seen += known + self.odd(&page.odd);
            for (issuer, believed) in believed {
                if let Some(Fed { index, .. }) = self.issuers.get(&issuer) {
                    index.stage(believed);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.issuers.values().for_each(|fed| fed.index.settle());
        tracing::info!(certificates = self.known(), "the issuance database was read");
        if !self.source.knows_issued() {
            self.look_for_releases(as_of).await?;
        }
        self.reconciled.send_replace(as_of);
        if !asked.is_empty() || seen < expected {
            self.reconcile = Some(Reconcile::begin(asked));
        }
        Ok(head)
    }

    /// A source that names revoked certificates only does not name one whose hold is over, so it is asked.
    async fn look_for_releases(&mut self, as_of: Time) -> Result<(), SourceError> {
        let mut held = Vec::new();
        for (issuer, Fed { index, .. }) in &self.issuers {
            let issuer: Arc<str> = issuer.as_str().into();
            index.view().for_each_revoked(|serial, record| {
                if record.status.is_hold() {
                    held.push(Key { issuer: Arc::clone(&issuer), serial: serial.as_bytes().to_vec() });
                }
            });
        }
        for keys in held.chunks(REREAD) {
            let reading = self.source.reread(keys);
            let (rows, odd) = within(self.pace.read_time, "certificates on hold", reading).await?;
            self.take(rows, as_of).await;
            self.odd(&odd);
        }
        Ok(())
    }

    /// Certificates in the indexes.
    fn known(&self) -> u64 {
        self.issuers.values().map(|fed| fed.index.issued()).sum()
    }

    /// Certificates that the database should have; none that it names only while they are revoked.
    fn expected(&self) -> u64 {
        if self.source.knows_issued() { self.known().saturating_sub(self.vanished.len()) } else { 0 }
    }

    /// Makes a batch of changes visible; returns how many said anything new.
    async fn take(&mut self, rows: Vec<Row>, as_of: Time) -> u64 {
        let mut changed = 0;
        for (issuer, believed) in self.believe(rows, as_of, false).await.0 {
            if let Some(Fed { index, .. }) = self.issuers.get(&issuer) {
                changed += index.apply(&believed);
            }
        }
        u64::try_from(changed).unwrap_or(0)
    }

    /// Turns rows into the records to apply, and makes durable what must never be forgotten. Says also how
    /// many of the rows were known before and not missed.
    async fn believe(&mut self, rows: Vec<Row>, as_of: Time, loading: bool) -> (Believed, u64) {
        let mut believed: HashMap<IssuerName, Vec<(Serial, Record)>> = HashMap::new();
        let (mut seen, read_at) = (0, self.clock.now());
        for rows in rows.chunk_by(|row, next| row.issuer == next.issuer) {
            let Some(name) = rows.first().map(|row| &*row.issuer) else { continue };
            let Some((issuer, fed)) = self.issuers.get_key_value(name) else {
                self.doubts.stranger(name);
                self.metrics.strangers.inc_by(u64::try_from(rows.len()).unwrap_or(0));
                continue;
            };
            let (view, loading) = (fed.index.view(), loading && !fed.index.is_complete());
            let records = believed.entry(issuer.clone()).or_default();
            records.reserve(rows.len());
            for row in rows {
                let known = view.get(&row.serial);
                let name = || key(row).to_string();
                let missed = !self.vanished.is_empty() && self.vanished.found(issuer.as_str(), &row.serial);
                seen += u64::from(known.is_some() && !missed);
                if let Some(part) = fed.parts.of(row)
                    && !fed.index.assign(&[(row.serial, part)]).is_empty()
                {
                    self.doubts.row(name(), "the database moved it to another CRL; it stays in its own");
                }
                match judge(row, fed, known.as_ref(), as_of, read_at, loading) {
                    Ok(record) => {
                        if self.doubts.any_rows() {
                            self.doubts.mended(&name());
                        }
                        if known.map_or(Status::Good, |known| known.status) != record.status {
                            self.memory.note(issuer, row.serial, &record);
                        }
                        records.push((row.serial, record));
                    }
                    Err(doubt) => {
                        if self.doubts.row(name(), doubt) {
                            self.metrics.refused.inc();
                        }
                    }
                }
            }
        }
        // Nobody waits for a load, and it may bring very many.
        self.memory.save(if loading { Duration::MAX } else { HEARD_AFTER }).await;
        (believed.into_iter().collect(), seen)
    }

    /// A certificate left the database. A good one of which the database says so is let go of; whatever else
    /// is not there any more keeps its last status.
    fn gone(&mut self, gone: Gone, now: Time) {
        let key = match &gone {
            Gone::Deleted(key) | Gone::Missing(key) => key,
            Gone::Odd(name) => return self.doubts.mended(name),
        };
        if self.doubts.any_rows() {
            self.doubts.mended(&key.to_string());
        }
        let Some((issuer, fed)) = self.issuers.get_key_value(&*key.issuer) else { return };
        let Ok(serial) = Serial::from_content(&key.serial) else { return };
        let Some(record) = fed.index.view().get(&serial) else { return };
        if matches!(gone, Gone::Deleted(_)) && record.status == Status::Good {
            tracing::info!(%issuer, %serial, "the database deleted this certificate: nothing is known of it any more");
            fed.index.forget(&[serial]);
            self.vanished.found(issuer.as_str(), &serial);
        } else if record.not_after < now {
            self.vanished.settled(issuer, serial);
        } else if self.vanished.missed(issuer, serial) {
            tracing::warn!(%issuer, %serial, "gone from the database; it keeps its last status");
        }
    }

    /// Does what operators want done.
    async fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Reconcile(reply) => {
                    self.reconcile.get_or_insert_with(|| Reconcile::begin(Vec::new())).asked.push(reply);
                }
                Order::ConfirmDrop { actor, reply } => {
                    let dropped = self.confirm_drop(&actor).await;
                    // Who asked may have gone.
                    _ = reply.send(dropped);
                }
            }
        }
    }

    /// Lets go of what the database has lost: of good certificates nothing is known any more, revoked ones
    /// stay revoked and are missed no more.
    async fn confirm_drop(&mut self, actor: &str) -> Result<Dropped, String> {
        let mut lost: HashMap<IssuerName, Vec<(Serial, bool)>> = HashMap::new();
        for (issuer, serial) in self.vanished.open() {
            let Some(fed) = self.issuers.get(issuer) else { continue };
            let kept = fed.index.view().get(&serial).is_some_and(|record| record.status != Status::Good);
            lost.entry(issuer.clone()).or_default().push((serial, kept));
        }
        let mut dropped = Dropped::default();
        for (issuer, lost) in &lost {
            let now = self.clock.now();
            self.memory.state().drop_lost(issuer, lost, actor, now).await.map_err(|error| error.to_string())?;
            tracing::warn!(%issuer, actor, certificates = lost.len(), "an operator lets go of what the database has lost");
            let good: Vec<Serial> = lost.iter().filter(|(_, kept)| !kept).map(|(serial, _)| *serial).collect();
            if let Some(fed) = self.issuers.get(issuer) {
                fed.index.forget(&good);
            }
            for (serial, kept) in lost {
                match kept {
                    true => self.vanished.settled(issuer, *serial),
                    false => _ = self.vanished.found(issuer.as_str(), serial),
                }
                *(if *kept { &mut dropped.kept } else { &mut dropped.forgotten }) += 1;
            }
        }
        Ok(dropped)
    }

    /// Vouches for all that a reading which began at `sampled` proves.
    fn vouch(&mut self, sampled: Time, currency: Currency) {
        let proved = match currency {
            Currency::Present => Some(sampled),
            Currency::At(time) => Some(time.min(sampled)),
            Currency::Lagging(grace) => Some(sampled - grace),
            Currency::Until { at, .. } => Some(at.min(sampled)),
            Currency::Unknown => None,
        };
        // An operator believed a clock that was wrong, and it was set right since.
        let wrong = self.as_of.is_some_and(|as_of| as_of > sampled + TOLERANCE);
        self.as_of = self.as_of.filter(|_| !wrong).max(proved);
        if let Currency::Until { until, .. } = currency {
            self.until = Some(until);
        }
        for Fed { index, .. } in self.issuers.values() {
            match proved {
                Some(proved) if wrong => index.vouch_anew(proved),
                Some(proved) => index.vouch(proved),
                None => {}
            }
            if let Some(until) = self.until {
                index.hold_until(until);
            }
            if !index.is_complete() {
                index.set_complete();
            }
        }
        self.show_lag();
        self.metrics.certificates.set(i64::try_from(self.known()).unwrap_or(i64::MAX));
        self.metrics.reconciled.set(self.reconciled.borrow().unix());
        self.metrics.doubtful.set(i64::try_from(self.doubts.rows()).unwrap_or(i64::MAX));
        self.metrics.vanished.set(i64::try_from(self.vanished.open().count()).unwrap_or(i64::MAX));
        self.speak(sampled);
    }

    /// Tells in health how the feed is.
    fn speak(&mut self, now: Time) {
        let stale = match self.until {
            Some(until) => now >= until,
            None => self.as_of.is_none_or(|as_of| now.since(as_of) > self.pace.max_staleness),
        };
        let alarm = self.memory.alarm().or_else(|| self.source.complaint()).or_else(|| self.vanished.alarm());
        let alarm = alarm.or_else(|| self.doubts.alarm());
        match (stale, alarm) {
            (true, alarm) if self.until.is_some() => self.health.failed(format!(
                "the CRL has lapsed, so that nothing but revoked is answered{}",
                alarm.map(|alarm| format!(": {alarm}")).unwrap_or_default()
            )),
            (true, alarm) => {
                let also = alarm.map(|alarm| format!("; {alarm}")).unwrap_or_default();
                self.health.failed(match self.as_of {
                    Some(as_of) => format!(
                        "the database can be read, but proves nothing later than {as_of}: a replica that stands still?{also}"
                    ),
                    None => format!("the database can be read, but nothing proves how current it is{also}"),
                });
            }
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

    /// Tells of rows that are left out or amended, after what was taken of them; how many of those left out are of
    /// certificates that are known.
    fn odd(&mut self, rows: &[OddRow]) -> u64 {
        let mut known = 0;
        for OddRow { key, name, why, fate } in rows {
            let id = key.as_ref().map_or_else(|| name.clone(), Key::to_string);
            let place = if id == *name { String::new() } else { format!(" ({name})") };
            let what = match fate {
                Fate::LeftOut => "the row is left out",
                Fate::Amended => "the row is taken with something amended",
            };
            if self.doubts.row(id, &format!("{what}{place}: {why}")) {
                self.metrics.odd.inc();
            }
            if *fate == Fate::Amended {
                continue;
            }
            let index = key.as_ref().and_then(|key| Some((self.issuers.get(&*key.issuer)?, key)));
            let serial = |key: &Key| Serial::from_content(&key.serial).ok();
            known +=
                u64::from(index.is_some_and(|(fed, key)| {
                    serial(key).is_some_and(|serial| fed.index.view().get(&serial).is_some())
                }));
        }
        known
    }
}

/// Records to apply, by issuer.
type Believed = Vec<(IssuerName, Vec<(Serial, Record)>)>;

/// What names the row's certificate.
fn key(row: &Row) -> Key {
    Key { issuer: Arc::clone(&row.issuer), serial: row.serial.as_bytes().to_vec() }
}

/// How long until `as_of` can advance: the next list, which must be dated later than the last one, waits for that.
fn until_next_second() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Timers may fire a little early.
    Duration::from_millis(1_001) - Duration::from_nanos(now.subsec_nanos().into())
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
mod reconcile_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
