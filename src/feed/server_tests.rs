//! The feed against real servers that are written at random, killed, cut off, replicated and restored.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use super::tests::{Node, serial, until};
use super::*;
use crate::db::{self, Mode, Server as Place};
use crate::health::State as Word;
use crate::pki::Revocation;
use crate::registry;
use crate::servers::{Engine, Server};
use crate::source::mariadb::MariaDbSource;
use crate::source::postgres::PostgresSource;
use crate::source::sqlite::SqliteSource;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

fn is_long() -> bool {
    std::env::var_os("JARCHY_LONG").is_some()
}

/// How often a polled database is looked at.
const POLL: Duration = Duration::from_millis(5);
const PACE: Pace = Pace { read_time: Duration::from_secs(30), max_staleness: Duration::from_secs(60), reconcile: None };

/// Which database, and how to say things there.
#[derive(Clone, Debug)]
enum Dialect {
    Sqlite(String),
    Postgres(String),
    MariaDb(String),
}

enum Session {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

impl Dialect {
    async fn make(&self) {
        let issuer = "issuers(name, certificate) VALUES";
        let said = match self {
            Self::Sqlite(path) => {
                db::open(Path::new(path), &registry::KIND, Mode::Create).await.unwrap().close().await;
                format!("INSERT INTO {issuer} ('demo', x'3001')")
            }
            Self::Postgres(url) => {
                let place: Place = url.parse().unwrap();
                place.postgres(&registry::SERVER_KIND, Mode::Create).await.unwrap().close().await;
                format!("INSERT INTO jarchy.{issuer} ('demo', '\\x3001')")
            }
            Self::MariaDb(url) => {
                let place: Place = url.parse().unwrap();
                place.mariadb(&registry::SERVER_KIND, Mode::Create).await.unwrap().close().await;
                format!("INSERT INTO {issuer} ('demo', x'3001')")
            }
        };
        self.session().await.say(&said).await;
    }

    async fn session(&self) -> Session {
        match self {
            Self::Sqlite(path) => {
                let mut session = SqliteConnection::connect(path).await.unwrap();
                sqlx::raw_sql("PRAGMA busy_timeout = 60000; PRAGMA synchronous = OFF")
                    .execute(&mut session)
                    .await
                    .unwrap();
                Session::Sqlite(session)
            }
            Self::Postgres(url) => Session::Postgres(PgConnection::connect(url).await.unwrap()),
            Self::MariaDb(url) => {
                let mut session = Session::MariaDb(MySqlConnection::connect(url).await.unwrap());
                // With gaps locked, as by default, transactions would hold up each other for long.
                session.say("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await;
                session
            }
        }
    }

    async fn node(&self, dir: &Path, pace: Pace) -> Node {
        let index = Arc::default();
        match self {
            Self::Sqlite(path) => Node::on(dir, SqliteSource::new(path.into(), POLL), index, None, pace).await,
            Self::Postgres(url) => {
                Node::on(dir, PostgresSource::new(url.parse().unwrap(), POLL), index, None, pace).await
            }
            Self::MariaDb(url) => {
                Node::on(dir, MariaDbSource::new(url.parse().unwrap(), POLL), index, None, pace).await
            }
        }
    }

    fn begin(&self) -> &'static str {
        if matches!(self, Self::Sqlite(_)) { "BEGIN IMMEDIATE" } else { "BEGIN" }
    }

    fn table(&self) -> &'static str {
        if matches!(self, Self::Postgres(_)) { "jarchy.certificates" } else { "certificates" }
    }

    fn key(&self, n: i64) -> String {
        let hex: String = serial(n).as_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        if matches!(self, Self::Postgres(_)) { format!("'\\x{hex}'") } else { format!("x'{hex}'") }
    }

    fn issue(&self, n: i64) -> String {
        let (table, key) = (self.table(), self.key(n));
        format!(
            "INSERT INTO {table}(issuer, serial, not_before, not_after) VALUES ('demo', {key}, 1790000000, 1821536000)"
        )
    }

    fn set(&self, n: i64, what: &str) -> String {
        format!("UPDATE {} SET {what} WHERE issuer = 'demo' AND serial = {}", self.table(), self.key(n))
    }

    fn revoke(&self, n: i64, at: i64, reason: u8) -> String {
        self.set(n, &format!("status = 'revoked', revoked_at = {at}, reason = {reason}"))
    }

    fn release(&self, n: i64) -> String {
        self.set(n, "status = 'good', revoked_at = NULL, reason = NULL")
    }
}

impl Session {
    async fn say(&mut self, sql: &str) {
        self.try_say(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn try_say(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Sqlite(session) => sql.execute(session).await.map(drop),
            Self::Postgres(session) => sql.execute(session).await.map(drop),
            Self::MariaDb(session) => sql.execute(session).await.map(drop),
        }
    }
}

/// Numbers that look random and come again with the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Every status that each certificate has had, in order, from when its transaction was about to commit.
type Histories = Arc<Mutex<HashMap<i64, Vec<Status>>>>;

const BASE: i64 = 1_795_000_000;

fn revoked(at: i64, reason: Reason) -> Status {
    Status::Revoked(Revocation { at: Time::from_unix(at), reason, invalidity_date: None })
}

/// One of several who write at once, each its own certificates, in transactions of some changes, of which
/// some take long and some are rolled back.
async fn write(dialect: Dialect, number: i64, seed: u64, histories: Histories, over: Arc<AtomicBool>) -> u64 {
    static MOMENTS: AtomicI64 = AtomicI64::new(BASE);
    let mut session = dialect.session().await;
    let mut random = Random(seed.wrapping_add(number.cast_unsigned()));
    let (mut mine, mut transactions): (Vec<i64>, u64) = (Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        session.say(dialect.begin()).await;
        let mut changed: HashMap<i64, Vec<Status>> = HashMap::new();
        for _ in 0..=random.below(4) {
            let fresh = mine.len() < 20 || random.below(4) == 0;
            let at = MOMENTS.fetch_add(1, Ordering::Relaxed);
            let picked = usize::try_from(random.below(mine.len().max(1).try_into().unwrap())).unwrap();
            let (n, was) = if fresh {
                // A number that was rolled back is never used again.
                (number * 1_000_000 + at - BASE, None)
            } else {
                let n = mine[picked];
                let newest = changed.get(&n).and_then(|states| states.last().copied());
                (n, newest.or_else(|| histories.lock().unwrap()[&n].last().copied()))
            };
            let (sql, now) = match was {
                None => (dialect.issue(n), Status::Good),
                Some(Status::Good) if random.below(2) == 0 => {
                    (dialect.revoke(n, at, 6), revoked(at, Reason::CertificateHold))
                }
                Some(Status::Good) => (dialect.revoke(n, at, 1), revoked(at, Reason::KeyCompromise)),
                Some(hold) if hold.is_hold() && random.below(3) > 0 => (dialect.release(n), Status::Good),
                Some(hold) if hold.is_hold() => {
                    let at = hold.revocation().unwrap().at.unix();
                    (dialect.set(n, "reason = 4"), revoked(at, Reason::Superseded))
                }
                Some(_) => continue,
            };
            session.say(&sql).await;
            changed.entry(n).or_default().push(now);
        }
        let slow = match random.below(40) {
            0 => 400,
            1..4 => 20,
            _ => 0,
        };
        // SQLite has one writer: a slow one would only hold up the others.
        tokio::time::sleep(Duration::from_millis(if matches!(dialect, Dialect::Sqlite(_)) { slow / 20 } else { slow }))
            .await;
        if random.below(8) == 0 {
            session.say("ROLLBACK").await;
            continue;
        }
        {
            let mut histories = histories.lock().unwrap();
            for (n, states) in changed {
                if !histories.contains_key(&n) {
                    mine.push(n);
                }
                // Only the last is ever visible to others.
                histories.entry(n).or_default().extend(states.last());
            }
        }
        session.say("COMMIT").await;
        transactions += 1;
    }
    transactions
}

/// Holds every view against what the certificates have been: none may show a status that its certificate
/// did not have, nor one from before what an earlier view showed.
fn watch_views(index: &Arc<Index>, histories: &Histories, over: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let (index, histories, over) = (Arc::clone(index), Arc::clone(histories), Arc::clone(over));
    std::thread::spawn(move || {
        let (mut reached, mut views): (HashMap<i64, usize>, u64) = (HashMap::new(), 0);
        loop {
            let last = over.load(Ordering::Acquire);
            let numbers: Vec<i64> = histories.lock().unwrap().keys().copied().collect();
            for n in numbers {
                let Some(record) = index.view().get(&serial(n)) else {
                    assert!(!reached.contains_key(&n), "{n} was known and is not any more");
                    continue;
                };
                let histories = histories.lock().unwrap();
                let from = reached.get(&n).copied().unwrap_or(0);
                let found = histories[&n][from..].iter().position(|status| *status == record.status);
                let found = found
                    .unwrap_or_else(|| panic!("{n} never was {:?} after {:?}", record.status, &histories[&n][..=from]));
                reached.insert(n, from + found);
            }
            views += 1;
            if last {
                return views;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}

/// A random writer, and in the end index, database and what was written agree.
async fn converges(dialect: Dialect, disturb: impl AsyncFn(&Node)) {
    let seed = 20_261_128;
    println!("seed {seed}, {dialect:?}");
    let dir = tempfile::tempdir().unwrap();
    dialect.make().await;
    let node = dialect.node(dir.path(), PACE).await;
    until("the head is reached", || node.index.is_complete()).await;
    let (histories, over) = (Histories::default(), Arc::new(AtomicBool::new(false)));
    let watching = watch_views(&node.index, &histories, &over);
    let mut writers = JoinSet::new();
    let stop = Arc::new(AtomicBool::new(false));
    for number in 1..=4 {
        writers.spawn(write(dialect.clone(), number, seed, Arc::clone(&histories), Arc::clone(&stop)));
    }
    disturb(&node).await;
    tokio::time::sleep(Duration::from_secs(if is_long() { 180 } else { 5 })).await;
    stop.store(true, Ordering::Relaxed);
    let transactions: u64 = writers.join_all().await.into_iter().sum();
    node.settled().await;
    let outcome = node.desk.reconcile().await.unwrap();
    over.store(true, Ordering::Release);
    let views = watching.join().unwrap();
    let histories = histories.lock().unwrap().clone();
    println!("{transactions} transactions, {} certificates, {views} rounds of views", histories.len());
    assert!(transactions > 20 && views > 2);
    for (n, states) in histories.iter() {
        assert_eq!(node.status(*n).as_ref(), states.last(), "{n}");
    }
    let certificates = u64::try_from(histories.len()).unwrap();
    assert_eq!(outcome, Reconciled { compared: certificates, mended: 0, vanished: 0 });
    assert_eq!((node.index.issued(), node.metrics.mended.get(), node.metrics.reloads.get()), (certificates, 0, 0));
    assert_eq!(node.word(), (Word::Ok, String::new()));
    node.stop().await;
}

#[test]
fn promise_9_index_and_sqlite_converge_under_a_random_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.db").to_str().unwrap().to_owned();
    run(converges(Dialect::Sqlite(path), async |_| {}));
}

#[test]
fn promise_9_index_and_postgres_converge_under_a_random_writer() {
    let Some(server) = Server::shared(Engine::Postgres) else { return };
    run(converges(Dialect::Postgres(server.database().url()), async |_| {}));
}

#[test]
fn promise_9_index_and_mariadb_converge_under_a_random_writer() {
    let Some(server) = Server::shared(Engine::MariaDb) else { return };
    run(converges(Dialect::MariaDb(server.database().url()), async |_| {}));
}

/// What the proxy does with what passes through it.
const FLOWS: u8 = 0;
const SLOW: u8 = 1;
const STUCK: u8 = 2;

/// Between the feed and a server: passes on, delays, swallows, or cuts.
struct Proxy {
    port: u16,
    manner: Arc<AtomicU8>,
    cut: watch::Sender<u64>,
}

impl Proxy {
    async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (manner, cut) = (Arc::new(AtomicU8::new(FLOWS)), watch::Sender::new(0));
        let (shared, cuts) = (Arc::clone(&manner), cut.clone());
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (manner, mut cut) = (Arc::clone(&shared), cuts.subscribe());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let there = Self::pass(near_in, far_out, Arc::clone(&manner));
                    let back = Self::pass(far_in, near_out, manner);
                    tokio::select! {
                        _ = async { tokio::join!(there, back) } => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, manner, cut }
    }

    async fn pass(
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        manner: Arc<AtomicU8>,
    ) {
        let mut buffer = vec![0; 4_096];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            while manner.load(Ordering::Relaxed) == STUCK {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if manner.load(Ordering::Relaxed) == SLOW {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
        // Half-closed, as it was here.
        _ = to.shutdown().await;
    }

    fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

/// A connection that is cut, slow or dead is noticed, and what happened meanwhile is read afterwards.
async fn is_followed_through(dialect: Dialect, server: u16, through: impl Fn(u16) -> Dialect) {
    let dir = tempfile::tempdir().unwrap();
    dialect.make().await;
    let mut ca = dialect.session().await;
    for n in 1..=20 {
        ca.say(&dialect.issue(n)).await;
    }
    let proxy = Proxy::before(server).await;
    let pace = Pace { read_time: Duration::from_secs(1), ..PACE };
    let node = through(proxy.port).node(dir.path(), pace).await;
    until("the head is reached", || node.index.is_complete()).await;
    for n in 1..=5 {
        proxy.cut();
        ca.say(&dialect.revoke(n, BASE, 1)).await;
        until("it is revoked", || node.is(n, Reason::KeyCompromise)).await;
    }
    proxy.manner.store(SLOW, Ordering::Relaxed);
    ca.say(&dialect.revoke(6, BASE, 1)).await;
    until("it is revoked, slowly", || node.is(6, Reason::KeyCompromise)).await;
    until("all is well", || node.word().0 == Word::Ok).await;

    proxy.manner.store(STUCK, Ordering::Relaxed);
    until("a reader that hangs is no reader", || !node.health.ready()).await;
    let stood = node.index.as_of();
    ca.say(&dialect.revoke(7, BASE, 1)).await;
    let now = crate::pki::SystemClock.now();
    until("a second has passed", || crate::pki::SystemClock.now().since(now) >= Duration::from_secs(2)).await;
    assert_eq!((node.index.as_of(), node.status(7)), (stood, Some(Status::Good)));
    proxy.manner.store(FLOWS, Ordering::Relaxed);
    until("it is read in the end", || node.is(7, Reason::KeyCompromise)).await;
    until("it is ready again", || node.health.ready()).await;
    assert_eq!((node.metrics.reloads.get(), node.desk.reconcile().await.unwrap().mended), (0, 0));
    node.stop().await;
}

#[test]
fn a_connection_to_postgres_that_is_cut_slow_or_dead_loses_nothing() {
    let Some(server) = Server::shared(Engine::Postgres) else { return };
    let database = server.database();
    let through =
        |port| Dialect::Postgres(database.url().replace(&server.port.to_string(), &i32::from(port).to_string()));
    run(is_followed_through(Dialect::Postgres(database.url()), server.port, through));
}

#[test]
fn a_connection_to_mariadb_that_is_cut_slow_or_dead_loses_nothing() {
    let Some(server) = Server::shared(Engine::MariaDb) else { return };
    let database = server.database();
    let through =
        |port| Dialect::MariaDb(database.url().replace(&server.port.to_string(), &i32::from(port).to_string()));
    run(is_followed_through(Dialect::MariaDb(database.url()), server.port, through));
}

/// A server that is killed while much is written, and started again.
async fn survives(mut server: Server, dialect: Dialect) {
    let dir = tempfile::tempdir().unwrap();
    dialect.make().await;
    let node = dialect.node(dir.path(), PACE).await;
    until("the head is reached", || node.index.is_complete()).await;
    let mut confirmed = Vec::new();
    for round in 0..3 {
        let mut ca = dialect.session().await;
        let first = round * 1_000;
        let writing = tokio::spawn({
            let dialect = dialect.clone();
            async move {
                let mut done = Vec::new();
                for n in first.. {
                    let both = format!("{}; {}", dialect.issue(n), dialect.revoke(n, BASE, 1));
                    // Without an answer nobody can know whether it was committed.
                    if ca.try_say(&both).await.is_err() {
                        return done;
                    }
                    done.push(n);
                }
                done
            }
        });
        until("much is written", || node.index.issued() > (round as u64 + 1) * 30).await;
        server.kill();
        confirmed.extend(writing.await.unwrap());
        until("it is missed", || !node.health.ready()).await;
        server.restart();
        until("it is followed again", || node.health.ready()).await;
    }
    node.settled().await;
    assert!(confirmed.iter().all(|n| node.is(*n, Reason::KeyCompromise)), "what was confirmed is known");
    assert_eq!(node.desk.reconcile().await.unwrap().mended, 0);
    println!("{} confirmed revocations, {} reloads", confirmed.len(), node.metrics.reloads.get());
    node.stop().await;
}

#[test]
fn promise_9_postgres_killed_in_the_middle_loses_nothing_that_it_confirmed() {
    let Some(server) = Server::start(Engine::Postgres, &[]) else { return };
    let dialect = Dialect::Postgres(server.database().url());
    run(survives(server, dialect));
}

#[test]
fn promise_9_mariadb_killed_in_the_middle_loses_nothing_that_it_confirmed() {
    let Some(server) = Server::start(Engine::MariaDb, &[]) else { return };
    let dialect = Dialect::MariaDb(server.database().url());
    run(survives(server, dialect));
}

/// Yesterday's files are put back under a feed that has seen today's.
async fn comes_back(mut server: Server, dialect: Dialect) {
    let dir = tempfile::tempdir().unwrap();
    dialect.make().await;
    let mut ca = dialect.session().await;
    for n in 1..=5 {
        ca.say(&dialect.issue(n)).await;
    }
    let node = dialect.node(dir.path(), PACE).await;
    until("the head is reached", || node.index.issued() == 5 && node.index.is_complete()).await;
    server.stop();
    let copy = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    let (data, yesterday) = (server.data(), server.dir().join("yesterday"));
    copy(&data, &yesterday);
    server.restart();
    let mut ca = dialect.session().await;
    ca.say(&dialect.revoke(1, BASE, 1)).await;
    ca.say(&dialect.issue(6)).await;
    until("today is known", || node.is(1, Reason::KeyCompromise) && node.status(6).is_some()).await;
    server.stop();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&yesterday, &data);
    server.restart();
    // The numbers of what was lost are used again, with other content.
    let mut ca = dialect.session().await;
    ca.say(&dialect.revoke(2, BASE, 1)).await;
    ca.say(&dialect.revoke(3, BASE, 1)).await;
    ca.say(&dialect.issue(7)).await;
    until("what is new is known", || node.is(2, Reason::KeyCompromise) && node.is(3, Reason::KeyCompromise)).await;
    until("all of it", || node.status(7) == Some(Status::Good)).await;
    assert!(node.is(1, Reason::KeyCompromise), "a revocation is not forgotten");
    assert_eq!((node.status(6), node.metrics.reloads.get()), (Some(Status::Good), 1));
    until("the loss is told of", || node.word().1.contains("1 certificates are gone")).await;
    assert!(node.health.ready());
    node.stop().await;
}

#[test]
fn promise_12_yesterdays_backup_of_postgres_is_noticed_and_takes_nothing_back() {
    let Some(server) = Server::start(Engine::Postgres, &[]) else { return };
    let dialect = Dialect::Postgres(server.database().url());
    run(comes_back(server, dialect));
}

#[test]
fn promise_12_yesterdays_backup_of_mariadb_is_noticed_and_takes_nothing_back() {
    let Some(server) = Server::start(Engine::MariaDb, &[]) else { return };
    let dialect = Dialect::MariaDb(server.database().url());
    run(comes_back(server, dialect));
}

#[test]
fn promise_9_a_transaction_open_for_long_holds_up_nothing_and_is_seen_when_it_commits() {
    let Some(server) = Server::shared(Engine::Postgres) else { return };
    run(async {
        let dialect = Dialect::Postgres(server.database().url());
        let dir = tempfile::tempdir().unwrap();
        dialect.make().await;
        let (mut ca, mut slow) = (dialect.session().await, dialect.session().await);
        ca.say(&dialect.issue(1)).await;
        let node = dialect.node(dir.path(), PACE).await;
        until("the head is reached", || node.index.is_complete()).await;
        slow.say("BEGIN").await;
        slow.say(&dialect.revoke(1, BASE, 1)).await;
        let over = Instant::now() + Duration::from_secs(if is_long() { 180 } else { 2 });
        let mut n = 100;
        while Instant::now() < over {
            n += 1;
            ca.say(&dialect.issue(n)).await;
        }
        until("all of it has flowed past", || node.status(n).is_some()).await;
        assert_eq!(node.status(1), Some(Status::Good), "not committed");
        slow.say("COMMIT").await;
        until("it is seen", || node.is(1, Reason::KeyCompromise)).await;
        println!("{} transactions flowed past", n - 100);
        node.stop().await;
    });
}

#[test]
fn promise_2_a_standby_is_followed_and_vouches_for_no_more_than_it_has_replayed() {
    let Some(primary) = Server::start(Engine::Postgres, &[]) else { return };
    run(async {
        let database = primary.database();
        let dialect = Dialect::Postgres(database.url());
        dialect.make().await;
        let mut ca = dialect.session().await;
        for n in 1..=9 {
            ca.say(&dialect.issue(n)).await;
        }
        let standby = Server::standby_of(&primary);
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // Another node, on the primary, writes the heartbeat.
        let beating = dialect.node(other.path(), PACE).await;
        let pace = Pace { max_staleness: Duration::from_secs(3), ..PACE };
        let node = Dialect::Postgres(standby.url(&database.name)).node(dir.path(), pace).await;
        until("the head is reached", || node.index.issued() == 9 && node.health.ready()).await;

        // A transaction that is under way when others commit is not passed over.
        let mut slow = dialect.session().await;
        slow.say("BEGIN").await;
        slow.say(&dialect.revoke(1, BASE, 1)).await;
        for n in 2..=5 {
            ca.say(&dialect.revoke(n, BASE, 1)).await;
            until("it is revoked", || node.is(n, Reason::KeyCompromise)).await;
            node.settled().await;
        }
        assert_eq!(node.status(1), Some(Status::Good));
        slow.say("COMMIT").await;
        until("the slow one is revoked", || node.is(1, Reason::KeyCompromise)).await;

        standby.sql(&database.name, "SELECT pg_wal_replay_pause()");
        ca.say(&dialect.revoke(6, BASE, 1)).await;
        until("it is not ready", || !node.health.ready()).await;
        let stood = node.index.as_of();
        assert!(node.word().1.contains("proves nothing later"), "{}", node.word().1);
        assert!(beating.health.ready() && beating.is(6, Reason::KeyCompromise), "the primary's reader goes on");
        assert_eq!((node.status(6), node.index.as_of()), (Some(Status::Good), stood));
        standby.sql(&database.name, "SELECT pg_wal_replay_resume()");
        until("it is revoked", || node.is(6, Reason::KeyCompromise)).await;
        until("it is ready again", || node.health.ready() && node.index.as_of() > stood).await;
        assert_eq!((node.metrics.reloads.get(), node.desk.reconcile().await.unwrap().mended), (0, 0));
        node.stop().await;
        beating.stop().await;
    });
}
