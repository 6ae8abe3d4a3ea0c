//! The adapter against real servers.
#![allow(clippy::unwrap_used)]

use super::super::own::testing::{gap, numbers, run};
use super::*;
use crate::pki::{Status, Time};
use crate::servers::{Database, Engine, Server as TestServer};
use sqlx::{Connection, Executor, MySqlConnection};

const DEMO: &str = "INSERT INTO issuers(name, certificate) VALUES ('demo', X'3001'), ('other', X'3002')";

async fn empty(server: &'static TestServer) -> Database<'static> {
    let database = server.database();
    let at: Server = database.url().parse().unwrap();
    at.mariadb(&registry::SERVER_KIND, Mode::Create).await.unwrap().close().await;
    database.sql(DEMO);
    database
}

/// A database with three certificates.
async fn made(server: &'static TestServer) -> Database<'static> {
    let database = empty(server).await;
    database.sql(&issue(1, 3));
    database
}

fn issue(first: i64, last: i64) -> String {
    format!(
        "INSERT INTO certificates(issuer, serial, not_before, not_after) \
         SELECT 'demo', CONCAT('c', LPAD(seq, 7, '0')), 1790000000, 1821536000 FROM seq_{first}_to_{last}"
    )
}

fn revoke(n: i64) -> String {
    format!(
        "UPDATE certificates SET status = 'revoked', revoked_at = UNIX_TIMESTAMP(), reason = 1 \
         WHERE issuer = 'demo' AND serial = CONCAT('c', LPAD({n}, 7, '0'))"
    )
}

async fn opened(url: &str) -> MariaDbSource {
    let mut source = MariaDbSource::new(url.parse().unwrap(), Duration::from_millis(5));
    source.open().await.unwrap();
    source
}

/// With gaps locked, as by default, a transaction would hold up those that insert beside its own rows.
async fn session(database: &Database<'_>) -> MySqlConnection {
    let mut session = MySqlConnection::connect(&database.url()).await.unwrap();
    execute(&mut session, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await;
    session
}

async fn execute(session: &mut MySqlConnection, sql: &str) {
    session.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
}

#[test]
fn pages_hold_every_column_and_follow_each_other() {
    let Some(server) = TestServer::shared(Engine::MariaDb) else { return };
    run(async {
        let database = made(server).await;
        database.sql(&issue(4, 2_500));
        database.sql(&format!("{}; {}", revoke(2_499), "UPDATE certificates SET shard = 7, invalidity_date = 1790000001, sha256 = UNHEX(SHA2('x', 256)), actor = 'x' WHERE status = 'revoked'"));
        let mut source = opened(&database.url()).await;
        let (mut after, mut seen, mut revoked) = (None, Vec::new(), Vec::new());
        loop {
            let page = source.page(after.as_ref(), 1_000).await.unwrap();
            assert!(page.rows.len() <= 1_000 && page.odd.is_empty());
            seen.extend(page.rows.iter().map(|row| row.serial));
            revoked.extend(page.rows.into_iter().filter(|row| row.status != Status::Good));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 2_500);
        assert!(seen.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()));
        let [row] = revoked.try_into().unwrap();
        let key = Key { issuer: "demo".into(), serial: row.serial.as_bytes().to_vec() };
        assert_eq!(row.status.revocation().unwrap().invalidity_date, Some(Time::from_unix(1_790_000_001)));
        assert_eq!((row.shard, row.sha256.is_some(), &*row.issuer), (Some(7), true, "demo"));
        let unknown = Key { issuer: "other".into(), serial: vec![1] };
        assert_eq!(source.reread(&[unknown, key]).await.unwrap().0, [row]);
    });
}

#[test]
fn a_transaction_that_commits_late_fills_its_gap_and_one_that_is_rolled_back_leaves_it() {
    let Some(server) = TestServer::shared(Engine::MariaDb) else { return };
    run(async {
        let database = made(server).await;
        let (mut slow, mut lost) = (session(&database).await, session(&database).await);
        execute(&mut slow, "BEGIN").await;
        execute(&mut slow, &issue(100, 102)).await;
        database.sql(&issue(4, 4));
        // The gap is there already when reading begins.
        let mut source = opened(&database.url()).await;
        let mut position = source.head().await.unwrap();
        execute(&mut lost, "BEGIN").await;
        execute(&mut lost, &issue(200, 200)).await;
        for n in 5..30 {
            database.sql(&issue(n, n));
            let batch = source.changes(&position).await.unwrap();
            assert_eq!((numbers(&batch), batch.drained), (vec![n], true));
            let text = serde_json::to_string(&batch.position).unwrap();
            position = serde_json::from_str(&text).unwrap();
        }
        execute(&mut slow, "COMMIT").await;
        execute(&mut lost, "ROLLBACK").await;
        let batch = source.changes(&position).await.unwrap();
        assert_eq!(numbers(&batch), [100, 101, 102]);
        let open = batch.gaps;
        assert!(open >= 1, "nobody can know that it was rolled back");
        let after = source.changes(&batch.position).await.unwrap();
        assert_eq!((after.rows.len(), &after.position), (0, &batch.position));
        assert_eq!(source.wait(Duration::ZERO).await.unwrap(), Waited::Quiet(Currency::Present));
        // After the limit it is given up.
        let mut cursor: Cursor = cursor_of(&batch.position).unwrap();
        let past = GAPS_FOR.as_secs().cast_signed() + 1;
        cursor.gaps.values_mut().for_each(|gap| gap.since -= past);
        let position = position_at(&cursor, batch.position.database);
        assert_eq!(source.changes(&position).await.unwrap().gaps, 0);
    });
}

#[test]
fn a_transaction_open_at_the_first_load_is_read_though_nothing_was_committed_before_it() {
    let Some(server) = TestServer::shared(Engine::MariaDb) else { return };
    run(async {
        let database = empty(server).await;
        let mut bulk = session(&database).await;
        execute(&mut bulk, "BEGIN").await;
        execute(&mut bulk, &issue(100, 103)).await;
        database.sql(&issue(4, 4));
        let mut source = opened(&database.url()).await;
        let head = source.head().await.unwrap();
        assert_eq!(source.changes(&head).await.unwrap().rows.len(), 0);
        execute(&mut bulk, "COMMIT").await;
        assert_eq!(numbers(&source.changes(&head).await.unwrap()), [100, 101, 102, 103]);
        // What was trimmed is nothing to wait for.
        database.sql("DELETE FROM changes WHERE seq BETWEEN 2 AND 3");
        let head = source.head().await.unwrap();
        assert_eq!(source.changes(&head).await.unwrap().rows.len(), 0);
    });
}

#[test]
fn many_rows_come_in_bounded_batches() {
    let Some(server) = TestServer::shared(Engine::MariaDb) else { return };
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let mut position = source.head().await.unwrap();
        database.sql(&issue(10, 3_509));
        let (mut all, mut drained) = (Vec::new(), false);
        while !drained {
            let batch = source.changes(&position).await.unwrap();
            assert!(batch.rows.len() <= 1_000);
            all.extend(numbers(&batch));
            (position, drained) = (batch.position, batch.drained);
        }
        assert_eq!(all, (10..=3_509).collect::<Vec<_>>());
    });
}

#[test]
fn a_backup_another_database_and_trimmed_changes_are_noticed() {
    let Some(server) = TestServer::shared(Engine::MariaDb) else { return };
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let early = source.head().await.unwrap();
        database.sql(&issue(4, 4));
        database.sql(&issue(5, 5));
        let head = source.changes(&early).await.unwrap().position;
        let whole = Cursor { gaps: BTreeMap::new(), ..cursor_of(&head).unwrap() };
        database.sql("DELETE FROM changes WHERE seq < (SELECT * FROM (SELECT MAX(seq) FROM changes) AS m)");
        assert!(gap(&mut source, &early).await.contains("trimmed"));
        let trimmed = position_at(&whole, head.database.clone());
        assert_eq!(source.changes(&trimmed).await.unwrap().rows.len(), 0, "trimmed up to the position");
        let other = Cursor { digest: "07".to_owned(), ..whole.clone() };
        assert!(gap(&mut source, &position_at(&other, head.database.clone())).await.contains("another one now"));
        let ahead = Cursor { newest: whole.newest + 1_000, ..whole };
        assert!(gap(&mut source, &position_at(&ahead, head.database.clone())).await.contains("a backup was restored"));
        database.sql("UPDATE meta SET epoch = epoch + 1");
        assert!(gap(&mut source, &head).await.contains("declared restored"));
    });
}

#[test]
fn a_replica_vouches_up_to_its_heartbeat() {
    let Some(server) = TestServer::start(Engine::MariaDb, &[]) else { return };
    let server: &'static TestServer = Box::leak(Box::new(server));
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let position = source.head().await.unwrap();
        source.changes(&position).await.unwrap();
        source.wait(Duration::ZERO).await.unwrap();
        let beat: i64 = database.sql("SELECT at FROM heartbeat").trim().parse().unwrap();
        assert!(beat > 0, "the reader of a primary writes it");
        database.sql("SET GLOBAL read_only = ON");
        let currency = source.changes(&position).await.unwrap().currency;
        assert_eq!(currency, Currency::At(Time::from_unix(beat)));

        // A reader that may write nothing else is refused it on a replica, until that becomes the primary.
        database.sql(&format!(
            "UPDATE heartbeat SET at = 0; CREATE USER reader; GRANT SELECT ON {0}.* TO reader; \
             GRANT UPDATE ON {0}.heartbeat TO reader",
            database.name
        ));
        let mut source = opened(&database.url().replace("root", "reader")).await;
        source.changes(&position).await.unwrap();
        for (read_only, beats) in [("ON", false), ("OFF", true)] {
            database.sql(&format!("SET GLOBAL read_only = {read_only}"));
            for _ in 0..3 {
                source.wait(Duration::ZERO).await.unwrap();
            }
            assert_eq!(database.sql("SELECT at FROM heartbeat").trim() != "0", beats);
        }
        assert_eq!(source.complaint(), None);

        // The clock of the reader's session stands for the server's, and is ahead.
        database.sql("UPDATE heartbeat SET at = 0; SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() + 600'");
        source.open().await.unwrap();
        source.changes(&position).await.unwrap();
        source.wait(Duration::ZERO).await.unwrap();
        assert!(source.complaint().unwrap().contains("ahead of this machine's"), "promise 13");
        let beat: i64 = database.sql("SELECT at FROM heartbeat").trim().parse().unwrap();
        assert!((1..=SystemClock.now().unix()).contains(&beat), "what both clocks agree on: {beat}");
        database.sql("SET GLOBAL init_connect = ''; UPDATE heartbeat SET at = UNIX_TIMESTAMP() + 600");
        database.sql("SET GLOBAL read_only = ON");
        source.open().await.unwrap();
        assert_eq!(source.changes(&position).await.unwrap().currency, Currency::Unknown);
        assert!(source.complaint().unwrap().contains("primary"));
    });
}

#[test]
fn gaps_are_split_filled_and_bounded() {
    let change = |seq| Change { seq, xid: 0, at: 0, issuer: "demo".into(), serial: vec![1] };
    let changes = |seqs: &[i64]| seqs.iter().copied().map(change).collect::<Vec<_>>();
    let mut cursor = Cursor::default();
    cursor.advance(&changes(&[3, 10]), 0);
    let gaps = |cursor: &Cursor| cursor.gaps.iter().map(|(first, gap)| (*first, gap.last)).collect::<Vec<_>>();
    assert_eq!((gaps(&cursor), cursor.open_gaps()), (vec![(1, 2), (4, 9)], 8));
    cursor.advance(&changes(&[2, 6, 7, 10]), 1);
    assert_eq!(gaps(&cursor), [(1, 1), (4, 5), (8, 9)]);
    cursor.advance(&changes(&[1, 4, 5, 8, 9]), 1);
    assert_eq!((gaps(&cursor), cursor.newest), (vec![], 10));
    cursor.advance(&(0..20_000).map(|n| change(20 + 2 * n)).collect::<Vec<_>>(), 2);
    assert_eq!(cursor.gaps.len(), MOST_GAPS);
    assert!(cursor.gaps.contains_key(&(cursor.newest - 1)), "the newest are kept");
}
