//! A foreign table in SQLite, read by the adapter alone and through a feed.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::feed::{Fed, Feed, Parts};
use crate::health::Health;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::pki::{Reason, Status};
use crate::state::State;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use std::path::Path;
use tokio::sync::watch;

const GRACE: Duration = Duration::from_secs(60);

async fn table(dir: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(dir.join("theirs.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(
        "PRAGMA journal_mode = WAL; CREATE TABLE certs(serial TEXT PRIMARY KEY, ends INTEGER, state, at, why, written INTEGER)",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool
}

async fn put(pool: &SqlitePool, serial: &str, state: &str, written: i64) {
    let at = (state == "R").then_some(written);
    sqlx::query("INSERT OR REPLACE INTO certs VALUES (?, 2000000000, ?, ?, 4, ?)")
        .bind(serial)
        .bind(state)
        .bind(at)
        .bind(written)
        .execute(pool)
        .await
        .unwrap();
}

pub(super) fn main_issuer() -> Issuer {
    let certificate = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pki/ca-p256.pem")).unwrap();
    Issuer { name: "main".parse().unwrap(), certificate: Certificate::from_file_bytes(&certificate).unwrap() }
}

fn source(dir: &Path) -> SqlSource {
    let columns = [
        (Field::Serial, "serial"),
        (Field::NotAfter, "ends"),
        (Field::Status, "state"),
        (Field::RevokedAt, "at"),
        (Field::Reason, "why"),
        (Field::ChangedAt, "written"),
        (Field::Position, "written"),
    ];
    let table = Table {
        snapshot: "SELECT * FROM certs;".to_owned(),
        changes: Some("SELECT * FROM certs WHERE written >= {since}".to_owned()),
        columns: columns.map(|(field, name)| (field, name.to_owned())).to_vec(),
        serial_as: SerialAs::Decimal,
        times_as: TimesAs::Seconds,
        position_as: PositionAs::Time,
        good: vec!["V".to_owned()],
        revoked: vec!["R".to_owned()],
        knows_issued: true,
    };
    let rhythm = Rhythm { poll: Duration::from_millis(5), commit_grace: GRACE, overlap: 0 };
    SqlSource::new(&main_issuer(), Place::File(dir.join("theirs.db")), table, rhythm)
}

fn serials(batch: &Batch) -> Vec<String> {
    batch.rows.iter().map(|row| row.serial.to_decimal()).collect()
}

#[tokio::test]
async fn what_is_dated_within_the_grace_is_given_once_and_what_lies_further_back_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = table(dir.path()).await;
    let now = SystemClock.now().unix();
    put(&theirs, "1", "V", now).await;
    let mut source = source(dir.path());
    source.open().await.unwrap();
    let head = source.head().await.unwrap();
    let page = source.page(None, 10).await.unwrap();
    assert_eq!((page.rows.len(), page.odd.len(), page.next), (1, 0, None));
    let batch = source.changes(&head).await.unwrap();
    assert_eq!((serials(&batch), batch.drained), (vec!["1".to_owned()], true), "as it was dated just now");
    assert_eq!(batch.currency, Currency::Lagging(GRACE));

    put(&theirs, "2", "R", now).await;
    // Two that took long to commit: one within the grace, one beyond it.
    put(&theirs, "3", "R", now - 50).await;
    put(&theirs, "4", "R", now - 500).await;
    let batch = source.changes(&batch.position).await.unwrap();
    let mut given = serials(&batch);
    given.sort();
    assert_eq!(given, ["2", "3"]);
    assert_eq!(serials(&source.changes(&batch.position).await.unwrap()), Vec::<String>::new(), "given once");
    put(&theirs, "3", "V", now).await;
    assert_eq!(serials(&source.changes(&batch.position).await.unwrap()), ["3"]);

    let key = |n: &str| Key {
        issuer: "main".into(),
        serial: format!("dec:{n}").parse::<Serial>().unwrap().as_bytes().to_vec(),
    };
    let (rows, _) = source.reread(&[key("4"), key("5")]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.serial.to_decimal()).collect::<Vec<_>>(), ["4"]);
    assert!(matches!(rows[0].status, Status::Revoked(revocation) if revocation.reason == Reason::Superseded));
}

/// A CA whose clock is slow dates what it writes after the load before it, by our clock.
#[tokio::test]
async fn it_makes_no_difference_whose_clock_dates_the_rows() {
    let now = SystemClock.now().unix();
    for (slow, loaded) in [(300, Some(now - 305)), (300, Some(now - 500_000)), (300, None), (0, Some(now + 900))] {
        let dir = tempfile::tempdir().unwrap();
        let theirs = table(dir.path()).await;
        if let Some(loaded) = loaded {
            put(&theirs, "1", "V", loaded).await;
        }
        let mut source = source(dir.path());
        source.open().await.unwrap();
        let mut position = source.head().await.unwrap();
        source.page(None, 10).await.unwrap();
        for serial in ["2", "3"] {
            put(&theirs, serial, "R", now - slow).await;
            let batch = source.changes(&position).await.unwrap();
            assert!(
                serials(&batch).contains(&serial.to_owned()),
                "{serial} by a clock {slow} s slow, after {loaded:?}"
            );
            assert!(batch.drained);
            position = batch.position;
        }
        // Opened anew, it goes on from there.
        source.open().await.unwrap();
        put(&theirs, "4", "R", now - slow).await;
        assert!(serials(&source.changes(&position).await.unwrap()).contains(&"4".to_owned()));
    }
}

#[tokio::test]
async fn rows_that_wait_since_an_earlier_look_prove_nothing_of_what_was_written_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = table(dir.path()).await;
    let mut source = source(dir.path());
    source.open().await.unwrap();
    let head = source.head().await.unwrap();
    source.page(None, 10).await.unwrap();
    let now = SystemClock.now().unix();
    let many = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {}) \
         INSERT INTO certs SELECT n, 2000000000, 'R', {now}, 4, {now} FROM n",
        2 * BATCH
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(many)).execute(&theirs).await.unwrap();
    let first = source.changes(&head).await.unwrap();
    assert_eq!((first.rows.len(), first.drained), (BATCH, false));
    put(&theirs, "9999999", "R", now).await;
    let second = source.changes(&first.position).await.unwrap();
    assert_eq!((second.rows.len(), second.drained), (BATCH, false), "nobody has looked for what came meanwhile");
    let third = source.changes(&second.position).await.unwrap();
    assert_eq!((serials(&third), third.drained), (vec!["9999999".to_owned()], true));
}

#[tokio::test]
async fn of_several_rows_of_one_certificate_the_last_has_the_last_word_at_every_look() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = table(dir.path()).await;
    let now = SystemClock.now().unix();
    put(&theirs, "1", "V", now).await;
    sqlx::raw_sql("CREATE TABLE later AS SELECT * FROM certs").execute(&theirs).await.unwrap();
    put(&theirs, "1", "R", now).await;
    let mut source = source(dir.path());
    for query in [&mut source.table.snapshot, source.table.changes.as_mut().unwrap()] {
        *query = "SELECT * FROM certs UNION ALL SELECT * FROM later".to_owned();
    }
    source.open().await.unwrap();
    let mut position = source.head().await.unwrap();
    let page = source.page(None, 10).await.unwrap();
    let said = |rows: &[Row]| rows.iter().map(|row| row.status == Status::Good).collect::<Vec<_>>();
    assert_eq!(said(&page.rows), [true]);
    for expected in [vec![true], vec![]] {
        let batch = source.changes(&position).await.unwrap();
        assert_eq!(said(&batch.rows), expected);
        position = batch.position;
    }
    let key = Key { issuer: "main".into(), serial: vec![1] };
    assert_eq!(said(&source.reread(&[key]).await.unwrap().0), [true]);
}

/// In a column without a type, as every kind of value that may stand there, and in forms that no index finds.
#[tokio::test]
async fn serials_are_found_however_they_are_spelled() {
    let dir = tempfile::tempdir().unwrap();
    let _theirs = table(dir.path()).await;
    for (written, values, asked) in [
        (SerialAs::Hex, ["'0A'", "'ab'", "x'4143'"], ["0A", "AB", "AC"]),
        (SerialAs::Hex, ["'f1:2e'", "'0xaB'", "'00 0c'"], ["F12E", "AB", "0C"]),
        (SerialAs::Decimal, ["10", "'0012'", "x'3133'"], ["0A", "0C", "0D"]),
        (SerialAs::Decimal, ["' 10'", "'99999999999999999999'", "'11'"], ["0A", "056BC75E2D630FFFFF", "0B"]),
        (SerialAs::Bytes, ["x'0A'", "x'00F1'", "x'000000F2'"], ["0A", "F1", "F2"]),
    ] {
        let rows = values.map(|value| format!("SELECT {value} AS s")).join(" UNION ALL ");
        let mut source = source(dir.path());
        let table = &mut source.table;
        (table.serial_as, table.changes) = (written, None);
        table.snapshot = format!(
            "SELECT s AS serial, 2000000000 AS ends, 'V' AS state, NULL AS at, NULL AS why, 1 AS written FROM ({rows})"
        );
        let key =
            |text: &str| Key { issuer: "main".into(), serial: text.parse::<Serial>().unwrap().as_bytes().to_vec() };
        let keys: Vec<Key> = asked.into_iter().chain(["77"]).map(key).collect();
        let found = |rows: Vec<Row>| {
            let mut found: Vec<_> = rows.iter().map(|row| row.serial).collect();
            found.sort();
            found
        };
        let mut expected: Vec<Serial> = asked.map(|text| text.parse().unwrap()).to_vec();
        expected.sort();
        source.open().await.unwrap();
        assert_eq!(found(source.reread(&keys).await.unwrap().0), expected, "before any was read: {values:?}");
        source.page(None, 10).await.unwrap();
        assert_eq!(found(source.reread(&keys).await.unwrap().0), expected, "{values:?}");
    }
}

#[tokio::test]
async fn rows_that_say_nothing_that_can_be_understood_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = table(dir.path()).await;
    for row in [
        "('12x', 2000000000, 'V', NULL, NULL, 1)",
        "('13', 'soon', 'V', NULL, NULL, 1)",
        "('14', 2000000000, 'X', NULL, NULL, 1)",
        "('15', 2000000000, NULL, NULL, NULL, 1)",
        "('16', 'soon', 'R', 'then', 'stolen', 1)",
        "('17', 2000000000, 'V', NULL, NULL, NULL)",
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("INSERT INTO certs VALUES {row}"))).execute(&theirs).await.unwrap();
    }
    let mut source = source(dir.path());
    source.open().await.unwrap();
    let page = source.page(None, 10).await.unwrap();
    let taken: Vec<_> = page.rows.iter().map(|row| (row.serial.to_decimal(), row.status != Status::Good)).collect();
    assert_eq!(taken, [("16".to_owned(), true), ("17".to_owned(), false)], "what is revoked stays so");
    let said: Vec<_> = page.odd.iter().map(|odd| format!("{}: {}", odd.name, odd.why)).collect();
    for (said, words) in said.iter().zip([
        "serial 12x: serial \"12x\": it is no decimal number",
        "issuer \"main\", serial 0D: notAfter: \"soon\" is no number",
        "issuer \"main\", serial 0E: status \"X\" is neither among those for good nor for revoked",
        "issuer \"main\", serial 0F: its status is NULL",
        "issuer \"main\", serial 10: notAfter: \"soon\" is no number; revocation date: \"then\" is no number; reason \"stolen\"",
    ]) {
        assert!(said.starts_with(words), "{said}");
    }
    assert_eq!(said.len(), 5);
}

/// The weaker guarantee: within the grace at the next look, else at the next reconcile.
#[tokio::test]
async fn promise_9_what_committed_later_than_the_grace_is_found_by_the_reconcile() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = table(dir.path()).await;
    let now = SystemClock.now().unix();
    for serial in 1..=100 {
        put(&theirs, &serial.to_string(), "V", now).await;
    }
    let state = State::open(&dir.path().join("state.db")).await.unwrap();
    let index = Arc::new(Index::new());
    let reasons = &Reason::ALL[..];
    let fed = Fed { index: Arc::clone(&index), reasons, hashes: false, parts: Parts::Shards };
    let feed = Feed::new(
        source(dir.path()),
        HashMap::from([("main".parse().unwrap(), fed)]),
        state,
        Arc::new(SystemClock),
        Metrics::new().feed("theirs"),
        Health::new().component("feed:theirs"),
    );
    let desk = feed.desk();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(feed.run(stopped));
    let is_revoked = |n: i64| {
        let serial = format!("dec:{n}").parse().unwrap();
        index.view().get(&serial).is_some_and(|record| record.status != Status::Good)
    };
    until(|| index.is_complete()).await;
    put(&theirs, "7", "R", now - 5).await;
    put(&theirs, "8", "R", now - 4_000).await;
    until(|| is_revoked(7)).await;
    assert!(!is_revoked(8), "dated before what is looked at");
    let outcome = desk.reconcile().await.unwrap();
    assert_eq!((outcome.mended, outcome.vanished, is_revoked(8)), (1, 0, true));
    let as_of = index.as_of().unwrap();
    assert!(as_of + GRACE <= SystemClock.now(), "it counts as right up to the grace only: {as_of}");
    stop.send_replace(true);
    running.await.unwrap();
}

async fn until(mut met: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !met() {
        assert!(Instant::now() < patience, "waited in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
