//! The feed against a real issuance database that other connections write, as an answer would see it:
//! through the index's view and what it vouches for.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use super::*;
use crate::db::{self, Mode};
use crate::health::{Health, State as Word};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::pki::{ClockGuard, GuardedClock, ManualClock, Reason, Revocation, SystemClock};
use crate::registry;
use crate::source::sqlite::SqliteSource;
use sqlx::{AssertSqlSafe, SqlitePool};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;
use tokio::task::JoinHandle;

/// A node: its directory, its index, and a feed that runs.
pub(super) struct Node {
    pub(super) dir: PathBuf,
    pub(super) index: Arc<Index>,
    pub(super) health: Health,
    pub(super) state: State,
    pub(super) metrics: metrics::Feed,
    pub(super) desk: Desk,
    pub(super) position: watch::Receiver<Option<Position>>,
    pub(super) reconciled: watch::Receiver<Time>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub(super) fn demo() -> IssuerName {
    "demo".parse().unwrap()
}

/// An issuer whose profile lets every reason be published.
fn fed(index: &Arc<Index>) -> Fed {
    let reasons = &[
        Reason::Unspecified,
        Reason::KeyCompromise,
        Reason::Superseded,
        Reason::CessationOfOperation,
        Reason::CertificateHold,
    ];
    Fed { index: Arc::clone(index), reasons, hashes: false, parts: Parts::default() }
}

impl Node {
    /// Starts a feed on the database of `dir`, whether there is one or not.
    pub(super) async fn start(dir: &Path) -> Self {
        Self::resume(dir, Arc::new(Index::new()), None).await
    }

    /// Starts a feed that goes on from `position`, as which `index` is.
    pub(super) async fn resume(dir: &Path, index: Arc<Index>, position: Option<Position>) -> Self {
        let source = SqliteSource::new(dir.join("ca.db"), Duration::from_millis(5));
        let known = position.map(|position| (position, SystemClock.now()));
        Self::on(dir, source, index, known, Pace { reconcile: None, ..Pace::default() }).await
    }

    /// Starts a feed from any source.
    pub(super) async fn on(
        dir: &Path,
        source: impl Source + 'static,
        index: Arc<Index>,
        known: Option<(Position, Time)>,
        pace: Pace,
    ) -> Self {
        Self::by(Arc::new(SystemClock), dir, source, index, known, pace).await
    }

    pub(super) async fn by(
        clock: Arc<dyn Clock>,
        dir: &Path,
        source: impl Source + 'static,
        index: Arc<Index>,
        known: Option<(Position, Time)>,
        pace: Pace,
    ) -> Self {
        let state = State::open(&dir.join("state.db")).await.unwrap();
        let (health, metrics) = (Health::new(), Metrics::new().feed("database"));
        let feed = Feed::new(
            source,
            HashMap::from([(demo(), fed(&index))]),
            state.clone(),
            clock,
            metrics.clone(),
            health.component("feed:database"),
        );
        let feed = feed.paced(pace).resume(known);
        let (desk, position, reconciled) = (feed.desk(), feed.position(), feed.reconciled());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(feed.run(stopped));
        Self { dir: dir.to_owned(), index, health, state, metrics, desk, position, reconciled, stop, task }
    }

    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        self.state.close().await;
    }

    pub(super) fn status(&self, n: i64) -> Option<Status> {
        self.index.view().get(&serial(n)).map(|record| record.status)
    }

    pub(super) fn is(&self, n: i64, reason: Reason) -> bool {
        self.status(n).and_then(|status| Some(status.revocation()?.reason)) == Some(reason)
    }

    pub(super) fn word(&self) -> (Word, String) {
        let report = self.health.report().remove(0);
        (report.state, report.reason.unwrap_or_default())
    }

    /// Waits until the index has been vouched for in a second after this one: then every commit before the
    /// call has been read, or else the feed lies.
    pub(super) async fn settled(&self) {
        let now = self.index.as_of().max(Some(SystemClock.now()));
        until("the feed vouches anew", || self.index.as_of() > now).await;
    }
}

pub(super) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !met() {
        assert!(Instant::now() < patience, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Another process's connections to the issuance database of `dir`.
async fn writer(dir: &Path) -> SqlitePool {
    db::open(&dir.join("ca.db"), &registry::KIND, Mode::Create).await.unwrap()
}

pub(super) async fn sql(writer: &SqlitePool, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(writer).await.unwrap();
}

/// A database with `issued` certificates of the issuer `demo`, numbered from 1.
pub(super) async fn database(dir: &Path, issued: i64) -> SqlitePool {
    let ca = writer(dir).await;
    sql(&ca, "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3001'), ('other', x'3002')").await;
    issue(&ca, "demo", 1, issued).await;
    ca
}

pub(super) async fn issue(ca: &SqlitePool, issuer: &str, first: i64, last: i64) {
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})");
    sql(
        ca,
        format!(
            "{numbers} INSERT INTO certificates(issuer, serial, not_before, not_after) SELECT '{issuer}', \
             CAST(printf('c%07d', i) AS BLOB), 1790000000, 1821536000 FROM n WHERE i <= {last}"
        ),
    )
    .await;
}

pub(super) fn serial(n: i64) -> Serial {
    Serial::from_content(format!("c{n:07}").as_bytes()).unwrap()
}

pub(super) fn which(n: i64) -> String {
    format!("issuer = 'demo' AND serial = CAST(printf('c%07d', {n}) AS BLOB)")
}

pub(super) async fn revoke(ca: &SqlitePool, n: i64, reason: i64) {
    let which = which(n);
    sql(
        ca,
        format!(
            "UPDATE certificates SET status = 'revoked', revoked_at = unixepoch(), reason = {reason} WHERE {which}"
        ),
    )
    .await;
}

async fn release(ca: &SqlitePool, n: i64) {
    let which = which(n);
    sql(ca, format!("UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE {which}")).await;
}

/// Puts `backup` in the place of the database, as an operator would who forgets to stop the server.
pub(super) fn restore(dir: &Path, backup: &Path) {
    for journal in ["ca.db-wal", "ca.db-shm"] {
        _ = std::fs::remove_file(dir.join(journal));
    }
    std::fs::rename(backup, dir.join("ca.db")).unwrap();
}

#[tokio::test]
async fn promise_12_nothing_is_complete_before_all_pages_are_read_and_then_every_certificate_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 25_000).await;
    revoke(&ca, 24_999, 1).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || {
        let complete = node.index.is_complete();
        assert!(!complete || node.index.issued() == 25_000, "complete, and {} are there", node.index.issued());
        complete
    })
    .await;
    assert_eq!(node.status(1), Some(Status::Good));
    assert_eq!(node.status(25_001), None, "never issued");
    assert!(node.is(24_999, Reason::KeyCompromise));
    until("the feed is well", || node.word().0 == Word::Ok).await;
    node.stop().await;
}

#[tokio::test]
async fn what_another_connection_commits_appears_and_a_hold_can_be_released() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;

    issue(&ca, "demo", 4, 4).await;
    until("the new certificate is known", || node.status(4) == Some(Status::Good)).await;
    revoke(&ca, 4, 4).await;
    until("it is revoked", || node.is(4, Reason::Superseded)).await;

    revoke(&ca, 1, 6).await;
    until("it is on hold", || node.is(1, Reason::CertificateHold)).await;
    assert_eq!(node.state.revocations(&demo()).await.unwrap().len(), 2);
    release(&ca, 1).await;
    until("it is released", || node.status(1) == Some(Status::Good)).await;
    assert_eq!(node.state.revocations(&demo()).await.unwrap().len(), 1);
    revoke(&ca, 1, 6).await;
    until("it is on hold again", || node.is(1, Reason::CertificateHold)).await;
    sql(&ca, format!("UPDATE certificates SET reason = 1 WHERE {}", which(1))).await;
    until("the hold became final", || node.is(1, Reason::KeyCompromise)).await;
    assert_eq!(node.word(), (Word::Ok, String::new()));
    node.stop().await;
}

#[tokio::test]
async fn a_rolled_back_change_is_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let mut transaction = ca.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let revoked = format!("UPDATE certificates SET status = 'revoked', revoked_at = 1795000000 WHERE {}", which(1));
    sqlx::raw_sql(AssertSqlSafe(revoked)).execute(&mut *transaction).await.unwrap();
    node.settled().await;
    assert_eq!(node.status(1), Some(Status::Good), "not committed");
    transaction.rollback().await.unwrap();
    revoke(&ca, 2, 0).await;
    until("the next change is seen", || node.is(2, Reason::Unspecified)).await;
    assert_eq!(node.status(1), Some(Status::Good));
    node.stop().await;
}

#[tokio::test]
async fn promise_12_a_restored_backup_brings_back_no_revoked_certificate_and_raises_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 5).await;
    revoke(&ca, 4, 6).await;
    let backup = dir.path().join("backup.db");
    sql(&ca, format!("VACUUM INTO '{}'", backup.display())).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    revoke(&ca, 1, 1).await;
    revoke(&ca, 2, 6).await;
    sql(&ca, format!("UPDATE certificates SET reason = 1 WHERE {}", which(4))).await;
    issue(&ca, "demo", 6, 6).await;
    until("the newest is known", || node.status(6) == Some(Status::Good)).await;
    until("the hold became final", || node.is(4, Reason::KeyCompromise)).await;
    ca.close().await;

    restore(dir.path(), &backup);
    let ca = writer(dir.path()).await;
    revoke(&ca, 3, 4).await;
    until("the restored database is followed", || node.is(3, Reason::Superseded)).await;
    assert!(node.is(1, Reason::KeyCompromise), "still revoked");
    assert!(node.is(2, Reason::CertificateHold), "still on hold: nobody released it");
    assert!(node.is(4, Reason::KeyCompromise), "what was final is not on hold again");
    assert_eq!(node.status(6), Some(Status::Good), "it was issued, even if the backup does not know");
    until("the operator is told", || node.word().1.contains("confirm-drop")).await;

    // The backup thinks that it is on hold and lets it be released; here it is known to be final.
    release(&ca, 4).await;
    node.settled().await;
    assert!(node.is(4, Reason::KeyCompromise), "a final revocation is not undone by way of a backup");
    node.stop().await;
}

#[tokio::test]
async fn promise_2_as_of_stands_still_without_the_database_and_goes_on_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    revoke(&ca, 1, 1).await;
    until("it is revoked", || node.is(1, Reason::KeyCompromise)).await;
    ca.close().await;

    let (path, away) = (dir.path().join("ca.db"), dir.path().join("away.db"));
    std::fs::rename(&path, &away).unwrap();
    until("health is red", || node.word().0 == Word::Failed).await;
    let stood = node.index.as_of();
    let now = SystemClock.now();
    until("a second has passed", || SystemClock.now().since(now) >= Duration::from_secs(2)).await;
    assert_eq!(node.index.as_of(), stood);
    assert!(node.is(1, Reason::KeyCompromise) && node.status(2) == Some(Status::Good), "what was known stays");

    std::fs::rename(&away, &path).unwrap();
    until("as_of goes on", || node.index.as_of() > stood).await;
    assert!(node.health.ready());
    let ca = writer(dir.path()).await;
    revoke(&ca, 2, 1).await;
    until("changes are followed again", || node.is(2, Reason::KeyCompromise)).await;
    node.stop().await;
}

#[tokio::test]
async fn promise_12_after_a_restart_without_the_database_the_revoked_are_known_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    revoke(&ca, 1, 1).await;
    revoke(&ca, 2, 6).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    ca.close().await;
    node.stop().await;
    let (path, away) = (dir.path().join("ca.db"), dir.path().join("away.db"));
    std::fs::rename(&path, &away).unwrap();

    let node = Node::start(dir.path()).await;
    until("the database is missed", || node.word().0 == Word::Failed).await;
    assert!(node.is(1, Reason::KeyCompromise) && node.is(2, Reason::CertificateHold));
    assert_eq!((node.status(3), node.index.is_complete(), node.index.as_of()), (None, false, None));
    std::fs::rename(&away, &path).unwrap();
    until("the head is reached", || node.index.is_complete()).await;
    assert_eq!(node.status(3), Some(Status::Good));
    node.stop().await;
}

#[tokio::test]
async fn another_issuers_certificates_are_no_business_of_ours_and_no_illness() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    issue(&ca, "other", 3, 50).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    assert_eq!((node.index.issued(), node.status(3)), (2, None));
    issue(&ca, "other", 51, 51).await;
    issue(&ca, "demo", 52, 52).await;
    until("ours is seen", || node.status(52).is_some()).await;
    assert_eq!((node.status(51), node.word().0), (None, Word::Ok));
    node.stop().await;
}

#[tokio::test]
async fn a_file_that_was_put_back_as_it_was_is_followed_on_and_a_whole_reload_is_told_of_but_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    ca.close().await;
    let (path, away) = (dir.path().join("ca.db"), dir.path().join("away.db"));
    std::fs::rename(&path, &away).unwrap();
    until("health is red", || node.word().0 == Word::Failed).await;
    std::fs::rename(&away, &path).unwrap();
    until("it is well", || node.word().0 == Word::Ok).await;
    assert_eq!(node.metrics.reloads.get(), 0);

    let ca = writer(dir.path()).await;
    sql(&ca, "UPDATE meta SET epoch = epoch + 1").await;
    until("it is told", || node.word().0 == Word::Degraded).await;
    until("all of it is read anew", || node.word().1.contains("everything was read anew")).await;
    revoke(&ca, 1, 1).await;
    until("it is followed", || node.is(1, Reason::KeyCompromise)).await;
    assert_eq!((node.metrics.reloads.get(), node.health.ready()), (1, true));
    node.stop().await;
}

#[tokio::test]
async fn a_stored_position_spares_the_load_and_one_that_does_not_fit_costs_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let text = serde_json::to_string(&*node.position.borrow()).unwrap();
    let (index, position) = (Arc::clone(&node.index), serde_json::from_str::<Option<Position>>(&text).unwrap());
    node.stop().await;
    revoke(&ca, 1, 1).await;

    // An index that knows one certificate less than the snapshot it stands for: a load would show it.
    index.forget(&[serial(3)]);
    let node = Node::resume(dir.path(), index, position.clone()).await;
    until("what happened meanwhile is read", || node.is(1, Reason::KeyCompromise)).await;
    node.settled().await;
    assert_eq!((node.status(3), node.word().0), (None, Word::Ok), "nothing else was read");
    node.stop().await;

    sql(&ca, "UPDATE meta SET epoch = epoch + 1").await;
    let node = Node::resume(dir.path(), Arc::new(Index::new()), position).await;
    until("everything is read", || node.index.issued() == 3).await;
    until("the reason is told", || node.word().1.contains("declared restored")).await;
    node.stop().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_understood_stops_nothing_and_is_told_of_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    // As a tool might write that opens the file past all checks.
    sql(&ca, "PRAGMA ignore_check_constraints = ON; DROP TRIGGER certificates_before_insert").await;
    let odd = "'demo', x'00000000000000000000000000000000000000000000000001', 1790000000, 1821536000";
    sql(
        &ca,
        format!("PRAGMA ignore_check_constraints = ON; INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ({odd})"),
    )
    .await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    assert_eq!((node.index.issued(), node.metrics.odd.get()), (3, 1));
    until("the operator is told", || node.word().1.contains("a serial number has at most 20 octets")).await;
    revoke(&ca, 1, 1).await;
    until("the rest flows on", || node.is(1, Reason::KeyCompromise)).await;
    assert_eq!(node.desk.reconcile().await.unwrap(), Reconciled { compared: 3, mended: 0, vanished: 0 });
    assert_eq!(node.metrics.odd.get(), 1, "counted once");
    node.stop().await;
}

#[tokio::test]
async fn a_revocation_dated_ahead_counts_from_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    for (n, ahead) in [(1, 200), (2, 86_400)] {
        let ahead = format!("status = 'revoked', revoked_at = unixepoch() + {ahead}, reason = 5");
        sql(&ca, format!("UPDATE certificates SET {ahead} WHERE {}", which(n))).await;
        until("it is revoked", || node.is(n, Reason::CessationOfOperation)).await;
        assert!(node.status(n).unwrap().revocation().unwrap().at <= SystemClock.now());
    }
    node.stop().await;
}

#[tokio::test]
async fn promise_13_a_clock_that_steps_ahead_and_back_leaves_no_moment_of_the_future_behind() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    let began = SystemClock.now();
    let wall = Arc::new(ManualClock::new(began));
    let guarded = GuardedClock(Arc::new(ClockGuard::new(Arc::clone(&wall) as _)));
    let source = SqliteSource::new(dir.path().join("ca.db"), Duration::from_millis(5));
    let pace = Pace { reconcile: None, ..Pace::default() };
    let node = Node::by(Arc::new(guarded), dir.path(), source, Arc::default(), None, pace).await;
    until("the head is reached", || node.index.is_complete()).await;

    let (hour, later) = (Duration::from_secs(3_600), began + Duration::from_secs(5));
    wall.step(began + hour);
    revoke(&ca, 1, 1).await;
    revoke(&ca, 2, 6).await;
    until("they are revoked", || node.is(1, Reason::KeyCompromise) && node.is(2, Reason::CertificateHold)).await;
    wall.set(later + hour);
    until("the feed goes on", || node.index.as_of() >= Some(later)).await;
    wall.step(later);
    assert_eq!(node.index.as_of(), Some(later));
    let learned = |n| node.index.view().get(&serial(n)).unwrap().since;
    assert!(learned(1) <= later && learned(2) <= later);
    assert!(node.state.revocations(&demo()).await.unwrap().iter().all(|(_, seen)| seen.learned <= later));
    release(&ca, 2).await;
    until("a release is believed", || node.status(2) == Some(Status::Good)).await;

    ca.close().await;
    std::fs::rename(dir.path().join("ca.db"), dir.path().join("away.db")).unwrap();
    until("health is red", || node.word().0 == Word::Failed).await;
    wall.set(later + Pace::default().max_staleness + Duration::from_secs(1));
    assert_eq!(node.index.as_of(), Some(later), "nobody vouches for what cannot be read");
    node.stop().await;
}

#[tokio::test]
async fn promise_13_a_wrong_clock_that_was_believed_and_is_set_right_is_vouched_by_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    let (began, wall) = (SystemClock.now(), Arc::new(ManualClock::new(SystemClock.now())));
    let source = SqliteSource::new(dir.path().join("ca.db"), Duration::from_millis(5));
    let pace = Pace { reconcile: None, ..Pace::default() };
    let node = Node::by(Arc::clone(&wall) as _, dir.path(), source, Arc::default(), None, pace).await;
    let ahead = began + Duration::from_secs(3_600);
    wall.step(ahead);
    revoke(&ca, 1, 6).await;
    until("an hour ahead", || node.index.as_of() >= Some(ahead) && node.is(1, Reason::CertificateHold)).await;
    wall.step(began);
    until("it is right again", || node.index.as_of() == Some(began)).await;
    release(&ca, 1).await;
    until("a release is believed", || node.status(1) == Some(Status::Good)).await;
    assert!(node.index.view().get(&serial(1)).unwrap().since <= began + Duration::from_secs(1));
    node.stop().await;
}

/// Commits as fast as SQLite can, while a reader holds every view against what has been committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_9_no_view_lacks_what_was_committed_before_its_as_of_and_no_revocation_is_taken_back() {
    let certificates: i64 = if std::env::var_os("JARCHY_LONG").is_some() { 50_000 } else { 2_000 };
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), certificates).await;
    // The durability of the writer's commits is not what is tested, and costs most of the time.
    sql(&ca, "PRAGMA synchronous = OFF").await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;

    /// Not committed yet.
    const NEVER: i64 = i64::MAX;
    let committed: Arc<Vec<AtomicI64>> = Arc::new((0..=certificates).map(|_| AtomicI64::new(NEVER)).collect());
    let done = Arc::new(AtomicBool::new(false));
    let (index, at, over) = (Arc::clone(&node.index), Arc::clone(&committed), Arc::clone(&done));
    let reader = std::thread::spawn(move || {
        let mut revoked = vec![false; at.len()];
        let mut views = 0_u64;
        loop {
            let last = over.load(Ordering::Acquire);
            let as_of = index.as_of().unwrap();
            let view = index.view();
            for (n, (was, at)) in revoked.iter_mut().zip(at.iter()).enumerate().skip(1) {
                let is = view.get(&serial(i64::try_from(n).unwrap())).unwrap().status != Status::Good;
                assert!(is || !*was, "{n} was revoked and is good again");
                assert!(is || at.load(Ordering::Acquire) >= as_of.unix(), "{n} is good in the view of {as_of}");
                *was = is;
            }
            views += 1;
            if last {
                return views;
            }
        }
    });
    let writers = (0..3).map(|number| {
        let (ca, committed) = (ca.clone(), Arc::clone(&committed));
        tokio::spawn(async move {
            for n in (1..=certificates).filter(|n| n % 3 == number) {
                revoke(&ca, n, 1).await;
                let slot = usize::try_from(n).unwrap();
                committed[slot].store(SystemClock.now().unix(), Ordering::Release);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    node.settled().await;
    done.store(true, Ordering::Release);
    let views = reader.join().unwrap();
    assert!(views > 1);
    assert!((1..=certificates).all(|n| node.is(n, Reason::KeyCompromise)), "a change was lost");
    assert_eq!(node.state.revocations(&demo()).await.unwrap().len(), usize::try_from(certificates).unwrap());
    node.stop().await;
}

#[tokio::test]
async fn promise_8_a_busy_state_store_delays_no_revocation_and_still_gets_it_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("state.db"));
    let other = SqlitePool::connect_with(options).await.unwrap();
    let held = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let began = Instant::now();
    revoke(&ca, 1, 1).await;
    until("it is revoked", || node.is(1, Reason::KeyCompromise)).await;
    // SQLite itself waits five seconds for a busy file.
    assert!(began.elapsed() < Duration::from_secs(3), "after {:?}", began.elapsed());
    until("the operator is told", || node.word().0 == Word::Degraded).await;
    held.rollback().await.unwrap();
    until("the operator is told that it is mended", || node.word().0 == Word::Ok).await;
    assert_eq!(node.state.revocations(&demo()).await.unwrap().len(), 1);
    node.stop().await;
}

const HOUR: i64 = 3_600;
const NOW: Time = Time::from_unix(1_795_000_000);

fn ago(seconds: i64) -> Time {
    Time::from_unix(NOW.unix() - seconds)
}

fn row(status: Status, changed_at: Time, released_at: Option<Time>) -> Row {
    Row {
        shard: None,
        ca: None,
        issuer: "demo".into(),
        serial: serial(1),
        not_before: ago(1_000 * HOUR),
        not_after: NOW,
        status,
        changed_at,
        released_at,
        sha256: None,
    }
}

fn revoked(at: Time, reason: Reason) -> Status {
    Status::Revoked(Revocation { at, reason, invalidity_date: None })
}

fn known(status: Status, since: Time) -> Record {
    Record { not_before: ago(1_000 * HOUR), not_after: NOW, status, since, sha256: None }
}

#[test]
fn a_revocation_committed_while_the_feed_was_reading_keeps_its_date() {
    // The second in which it was committed began after the feed had looked at its clock.
    let at = NOW + Duration::from_secs(1);
    let (row, good) = (row(revoked(at, Reason::KeyCompromise), at, None), known(Status::Good, ago(99)));
    let judged = judge(&row, &fed(&Arc::default()), Some(&good), NOW, at, false).unwrap();
    assert_eq!(judged.status, row.status);
}

#[test]
fn promise_2_a_second_change_within_one_second_is_dated_after_the_first() {
    let judged = |status, known: &Record| {
        judge(&row(status, NOW, Some(NOW)), &fed(&Arc::default()), Some(known), NOW, NOW, false).unwrap()
    };
    let hold = judged(revoked(NOW, Reason::CertificateHold), &known(Status::Good, ago(99)));
    assert_eq!(hold.since, NOW);
    let released = judged(Status::Good, &hold);
    assert_eq!(released.since, NOW + Duration::from_secs(1));
    let again = judged(revoked(NOW, Reason::KeyCompromise), &released);
    assert_eq!(again.since, NOW + Duration::from_secs(2));
    assert_eq!(judged(again.status, &again).since, again.since, "a replay changes nothing");
}

#[test]
fn promise_2_after_a_restart_an_answer_is_not_dated_before_the_last_change_of_its_certificate() {
    // Issued, or released from hold, two hours ago; with the `tls-br` profile answers are aligned to
    // points up to a day back.
    for released in [None, Some(ago(2 * HOUR))] {
        let believed =
            judge(&row(Status::Good, ago(2 * HOUR), released), &fed(&Arc::default()), None, NOW, NOW, true).unwrap();
        assert!(believed.since >= ago(2 * HOUR), "{}", believed.since);
    }
    // No answer about an earlier status is alive any more, and nothing is kept for it.
    let old =
        judge(&row(Status::Good, ago(24 * 30 * HOUR), None), &fed(&Arc::default()), None, NOW, NOW, true).unwrap();
    assert_eq!(old.since, Time::default());
}

#[test]
fn promise_12_a_release_counts_only_for_the_hold_that_it_ended() {
    let hold = known(revoked(ago(5 * HOUR), Reason::CertificateHold), ago(5 * HOUR));
    let released = row(Status::Good, ago(HOUR), Some(ago(HOUR)));
    assert_eq!(judge(&released, &fed(&Arc::default()), Some(&hold), NOW, NOW, false).unwrap().status, Status::Good);
    // On hold again one hour ago, dated back before the release; then a backup from between was restored.
    let again = known(revoked(ago(5 * HOUR), Reason::CertificateHold), ago(HOUR));
    let older = row(Status::Good, ago(3 * HOUR), Some(ago(3 * HOUR)));
    assert!(judge(&older, &fed(&Arc::default()), Some(&again), NOW, NOW, false).is_err());
    let last = known(revoked(ago(5 * HOUR), Reason::KeyCompromise), ago(5 * HOUR));
    assert!(
        judge(&released, &fed(&Arc::default()), Some(&last), NOW, NOW, false).is_err(),
        "never from a final revocation"
    );
    let demoted = row(revoked(ago(5 * HOUR), Reason::CertificateHold), ago(5 * HOUR), None);
    assert!(judge(&demoted, &fed(&Arc::default()), Some(&last), NOW, NOW, false).is_err(), "nor by way of a hold");
}
