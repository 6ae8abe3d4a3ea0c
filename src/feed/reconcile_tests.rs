//! The reconcile against a real issuance database that was written past the log of changes, and what became of
//! certificates that vanished.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use super::tests::{Node, database, demo, issue, restore, revoke, sql, until, which};
use super::*;
use crate::health::State as Word;
use crate::index::file;
use crate::pki::{ManualClock, SystemClock};
use crate::source::index_txt::IndexTxt;
use crate::source::sqlite::SqliteSource;
use crate::source::{Page, PageKey};
use std::sync::atomic::{AtomicI64, Ordering};

#[tokio::test]
async fn certificates_that_a_database_lost_are_missed_also_beside_another_issuers() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    issue(&ca, "other", 1, 50).await;
    let backup = dir.path().join("backup.db");
    sql(&ca, format!("VACUUM INTO '{}'", backup.display())).await;
    issue(&ca, "demo", 3, 3).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let before = node.index.as_of();
    ca.close().await;
    restore(&node.dir, &backup);
    until("the backup is followed", || node.word().0 == Word::Degraded && node.index.as_of() > before).await;
    until("the loss is found", || node.word().1.contains("1 certificates are gone from the database")).await;
    node.stop().await;
}

#[tokio::test]
async fn promise_9_a_reconcile_mends_what_no_change_told_of_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3_500).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let nothing = Reconciled { compared: 3_500, mended: 0, vanished: 0 };
    assert_eq!(node.desk.reconcile().await, Some(nothing));

    sql(&ca, "DROP TRIGGER certificates_update").await;
    for n in [1, 1_234, 3_500] {
        revoke(&ca, n, 1).await;
    }
    node.settled().await;
    assert_eq!(node.status(1_234), Some(Status::Good), "the log does not tell");
    assert_eq!(node.desk.reconcile().await, Some(Reconciled { mended: 3, ..nothing }));
    assert!([1, 1_234, 3_500].into_iter().all(|n| node.is(n, Reason::KeyCompromise)));
    assert_eq!((node.desk.reconcile().await, node.metrics.mended.get()), (Some(nothing), 3));
    assert_eq!(node.state.revocations(&demo()).await.unwrap().len(), 3, "mended ones are remembered too");
    node.stop().await;
}

#[tokio::test]
async fn promise_9_a_reconcile_comes_due_though_nodes_are_restarted_every_day() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let (index, position, read) = (Arc::clone(&node.index), node.position.borrow().clone(), *node.reconciled.borrow());
    assert!(SystemClock.now().since(read) < Duration::from_secs(60), "a whole load proves as much");
    node.stop().await;
    sql(&ca, "DROP TRIGGER certificates_update").await;
    revoke(&ca, 1, 1).await;

    let yesterday = SystemClock.now() - Duration::from_secs(86_401);
    let source = SqliteSource::new(dir.path().join("ca.db"), Duration::from_millis(5));
    let known = position.map(|position| (position, yesterday));
    let node = Node::on(dir.path(), source, index, known, Pace::default()).await;
    assert_eq!(*node.reconciled.borrow(), yesterday);
    until("what the log does not tell of is found", || node.is(1, Reason::KeyCompromise)).await;
    until("that is noted", || *node.reconciled.borrow() > yesterday).await;
    assert_eq!(node.metrics.mended.get(), 1);
    node.stop().await;
}

/// A source of which calls fail on demand, and which counts what it is asked for.
struct Tripping<S> {
    source: S,
    /// Calls until one fails: pages, single rows.
    pages: i32,
    rereads: i32,
    asked: Arc<AtomicI64>,
}

impl<S> Tripping<S> {
    /// The call fails that brings `left` to zero.
    fn trip(left: &mut i32) -> Result<(), SourceError> {
        *left -= 1;
        if *left == 0 { Err(SourceError::Content("the connection broke".to_owned())) } else { Ok(()) }
    }
}

impl<S: Source> Source for Tripping<S> {
    async fn open(&mut self) -> Result<(), SourceError> {
        self.source.open().await
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        self.source.head().await
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        Self::trip(&mut self.pages)?;
        self.source.page(after, at_most).await
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        self.source.changes(position).await
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        self.source.wait(patience).await
    }

    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        Self::trip(&mut self.rereads)?;
        self.asked.fetch_add(i64::try_from(keys.len()).unwrap(), Ordering::Relaxed);
        self.source.reread(keys).await
    }
}

#[tokio::test]
async fn a_reconcile_that_fails_between_two_pages_is_begun_anew_where_pages_cannot_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let line = |n| format!("V\t270101000000Z\t\t{n:08X}\tunknown\t/CN={n}\n");
    let path = dir.path().join("index.txt");
    std::fs::write(&path, (1..=3_500).map(line).collect::<String>()).unwrap();
    let source = IndexTxt::new(path, None, &demo(), Duration::from_millis(5));
    let pace = Pace { reconcile: None, ..Pace::default() };
    // The load takes one page, the reconcile four.
    let source = Tripping { source, pages: 3, rereads: 0, asked: Arc::default() };
    let node = Node::on(dir.path(), source, Arc::default(), None, pace).await;
    until("the head is reached", || node.index.is_complete()).await;
    let outcome = tokio::time::timeout(Duration::from_secs(30), node.desk.reconcile()).await;
    assert_eq!(outcome.unwrap(), Some(Reconciled { compared: 3_500, mended: 0, vanished: 0 }));
    assert_eq!(node.metrics.failures.get(), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_reconcile_asks_for_what_was_not_shown_alone_and_again_where_asking_failed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2_500).await;
    let (asked, pace) = (Arc::default(), Pace { reconcile: None, ..Pace::default() });
    let source = SqliteSource::new(dir.path().join("ca.db"), Duration::from_millis(5));
    let source = Tripping { source, pages: 0, rereads: 1, asked: Arc::clone(&asked) };
    let node = Node::on(dir.path(), source, Arc::default(), None, pace).await;
    until("the head is reached", || node.index.is_complete()).await;
    sql(&ca, "DROP TRIGGER certificates_delete").await;
    for n in [7, 2_499] {
        sql(&ca, format!("DELETE FROM certificates WHERE {}", which(n))).await;
    }
    let outcome = Reconciled { compared: 2_498, mended: 0, vanished: 2 };
    for _ in ["found", "known"] {
        assert_eq!(node.desk.reconcile().await, Some(outcome));
        assert_eq!((asked.load(Ordering::Relaxed), node.metrics.failures.get()), (2, 1));
    }
    node.stop().await;
}

#[tokio::test]
async fn promise_9_a_reconcile_while_much_is_written_takes_nothing_for_missed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 3_000).await;
    sql(&ca, "PRAGMA synchronous = OFF").await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let writing = tokio::spawn({
        let ca = ca.clone();
        async move {
            for n in 1..=1_500 {
                revoke(&ca, n, 1).await;
                issue(&ca, "demo", 10_000 + n, 10_000 + n).await;
            }
        }
    });
    let mut rounds = 0;
    while !writing.is_finished() || rounds == 0 {
        let outcome = node.desk.reconcile().await.unwrap();
        assert_eq!((outcome.mended, outcome.vanished), (0, 0));
        rounds += 1;
    }
    writing.await.unwrap();
    println!("{rounds} reconciles during 3,000 commits");
    node.stop().await;
}

#[tokio::test]
async fn what_vanishes_keeps_its_status_until_an_operator_lets_go_of_it_and_the_rest_flows_on() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 9).await;
    revoke(&ca, 1, 1).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    sql(&ca, "DROP TRIGGER certificates_delete").await;
    for n in [1, 2, 3] {
        sql(&ca, format!("DELETE FROM certificates WHERE {}", which(n))).await;
    }
    assert_eq!(node.desk.reconcile().await, Some(Reconciled { compared: 6, mended: 0, vanished: 3 }));
    assert!(node.is(1, Reason::KeyCompromise) && node.status(2) == Some(Status::Good), "not believed");
    until("the operator is told", || node.word().1.starts_with("3 certificates are gone from the database")).await;
    assert_eq!((node.metrics.vanished.get(), node.health.ready()), (3, true));
    revoke(&ca, 4, 4).await;
    until("the rest flows on", || node.is(4, Reason::Superseded)).await;
    issue(&ca, "demo", 3, 3).await;
    until("one is back", || node.metrics.vanished.get() == 2).await;

    let dropped = node.desk.confirm_drop("boris".to_owned()).await.unwrap().unwrap();
    assert_eq!(dropped, Dropped { forgotten: 1, kept: 1 });
    assert_eq!(node.status(2), None, "let go of");
    assert!(node.is(1, Reason::KeyCompromise), "a revocation is not forgotten");
    until("all is well", || node.word().0 == Word::Ok).await;
    let (_, actor, what) = node.state.decisions().await.unwrap().pop().unwrap();
    assert!(actor == "boris" && what.contains("let go of 2 certificates"), "{actor}: {what}");
    node.stop().await;

    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    assert_eq!(node.desk.reconcile().await.unwrap().vanished, 0, "settled once and for all");
    assert!(node.is(1, Reason::KeyCompromise));
    node.stop().await;
}

#[tokio::test]
async fn what_an_operator_let_go_of_does_not_come_back_with_an_older_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 9).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    let (path, position) = (dir.path().join("snapshot"), node.position.borrow().clone().unwrap());
    let Position { database, cursor } = position.clone();
    let label = file::Label { database, cursor, reconciled: 0 };
    let subject = file::Subject { name: "demo", ca: [1; 32], shards: false };
    let snapshot = |node: &Node| file::write(&path, &label, &[(subject, &node.index)]).unwrap();
    snapshot(&node);
    sql(&ca, "DROP TRIGGER certificates_delete").await;
    for n in [1, 2] {
        sql(&ca, format!("DELETE FROM certificates WHERE {}", which(n))).await;
    }
    assert_eq!(node.desk.reconcile().await.unwrap().vanished, 2);
    assert_eq!(node.desk.confirm_drop("boris".to_owned()).await.unwrap().unwrap().forgotten, 2);
    node.stop().await;

    // It was killed before it wrote another; meanwhile one of them came back.
    issue(&ca, "demo", 2, 2).await;
    let restored = || {
        let (_, indexes) = file::read(&path, &[subject], None, SystemClock.now()).unwrap();
        Arc::new(indexes.into_iter().next().unwrap())
    };
    assert_eq!(restored().issued(), 9);
    let node = Node::resume(dir.path(), restored(), Some(position.clone())).await;
    until("the head is reached", || node.index.is_complete()).await;
    assert_eq!((node.status(1), node.status(2)), (None, Some(Status::Good)));
    node.settled().await;
    snapshot(&node);
    let later = node.position.borrow().clone();
    node.stop().await;

    let node = Node::resume(dir.path(), restored(), later).await;
    until("the head is reached", || node.index.is_complete()).await;
    assert_eq!((node.status(1), node.status(2)), (None, Some(Status::Good)), "later snapshots know what came back");
    node.stop().await;
}

#[tokio::test]
async fn a_revocation_that_the_database_lost_while_nobody_looked_is_missed_after_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 5).await;
    revoke(&ca, 1, 1).await;
    let node = Node::start(dir.path()).await;
    until("the head is reached", || node.index.is_complete()).await;
    node.stop().await;
    sql(&ca, "DROP TRIGGER certificates_delete").await;
    sql(&ca, format!("DELETE FROM certificates WHERE {}", which(1))).await;
    let node = Node::start(dir.path()).await;
    until("it is missed", || node.word().1.starts_with("1 certificates are gone")).await;
    assert!(node.is(1, Reason::KeyCompromise));
    node.stop().await;
}

#[tokio::test]
async fn what_a_database_whose_clock_is_ahead_has_revoked_does_not_count_as_missed_when_that_time_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let ca = database(dir.path(), 2).await;
    let clock = Arc::new(ManualClock::new(SystemClock.now() - Duration::from_secs(600)));
    let source = SqliteSource::new(dir.path().join("ca.db"), Duration::from_millis(5));
    let pace = Pace { reconcile: None, ..Pace::default() };
    let node = Node::by(Arc::clone(&clock) as _, dir.path(), source, Arc::default(), None, pace).await;
    until("the head is reached", || node.index.is_complete()).await;
    revoke(&ca, 1, 1).await;
    until("it is revoked", || node.is(1, Reason::KeyCompromise)).await;
    assert!(node.status(1).unwrap().revocation().unwrap().at <= clock.now(), "told with our time");
    clock.set(SystemClock.now());
    let told = node.status(1);
    assert_eq!(node.desk.reconcile().await.unwrap(), Reconciled { compared: 2, mended: 0, vanished: 0 });
    assert_ne!(node.status(1), told, "the database's word counts");
    assert_eq!(node.metrics.mended.get(), 0);
    node.stop().await;
}
