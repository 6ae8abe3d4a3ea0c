//! The adapter against real servers.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::pki::Status;
use crate::servers::{Database, Engine, Server as TestServer};
use sqlx::{AssertSqlSafe, Connection, Executor};

const DEMO: &str = "INSERT INTO jarchy.issuers(name, certificate) VALUES ('demo', '\\x3001'), ('other', '\\x3002')";

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// A database with three certificates.
async fn made(server: &'static TestServer) -> Database<'static> {
    let database = server.database();
    let at: Server = database.url().parse().unwrap();
    at.postgres(&registry::SERVER_KIND, Mode::Create).await.unwrap().close().await;
    database.sql(&format!("{DEMO}; {}", issue(1, 3)));
    database
}

fn issue(first: i64, last: i64) -> String {
    format!(
        "INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after) \
         SELECT 'demo', convert_to('c' || lpad(n::text, 7, '0'), 'UTF8'), 1790000000, 1821536000 \
         FROM generate_series({first}, {last}) n"
    )
}

fn revoke(n: i64) -> String {
    format!(
        "UPDATE jarchy.certificates SET status = 'revoked', revoked_at = jarchy.now(), reason = 1 \
         WHERE issuer = 'demo' AND serial = convert_to('c' || lpad('{n}', 7, '0'), 'UTF8')"
    )
}

async fn opened(url: &str) -> PostgresSource {
    let mut source = PostgresSource::new(url.parse().unwrap(), Duration::from_millis(5));
    source.open().await.unwrap();
    source
}

async fn session(database: &Database<'_>) -> PgConnection {
    PgConnection::connect(&database.url()).await.unwrap()
}

async fn execute(session: &mut PgConnection, sql: &str) {
    session.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

fn numbers(batch: &Batch) -> Vec<i64> {
    batch.rows.iter().map(|row| std::str::from_utf8(&row.serial.as_bytes()[1..]).unwrap().parse().unwrap()).collect()
}

async fn gap(source: &mut PostgresSource, position: &Position) -> String {
    match source.changes(position).await.unwrap_err() {
        SourceError::Position(why) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn pages_hold_every_column_and_follow_each_other() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        database.sql(&issue(4, 25_000));
        database.sql(&format!("{}; {}", revoke(24_999), "UPDATE jarchy.certificates SET shard = 7, invalidity_date = 1790000001, sha256 = sha256('x'), actor = 'x' WHERE status = 'revoked'"));
        let mut source = opened(&database.url()).await;
        for size in [10_000, 1_000] {
            let (mut seen, mut revoked) = (Vec::new(), Vec::new());
            for page in pages(&mut source, size).await.unwrap() {
                assert!(page.rows.len() <= size && page.odd.is_empty());
                seen.extend(page.rows.iter().map(|row| row.serial));
                revoked.extend(page.rows.into_iter().filter(|row| row.status != Status::Good));
            }
            let in_order = seen.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes());
            assert_eq!(in_order, size < LARGE, "a load takes them as they come: the one that was changed last");
            seen.sort_unstable_by_key(|serial| serial.as_bytes().to_vec());
            seen.dedup();
            assert_eq!(seen.len(), 25_000);
            let [row] = revoked.try_into().unwrap();
            let key = Key { issuer: "demo".into(), serial: row.serial.as_bytes().to_vec() };
            assert_eq!(row.status.revocation().unwrap().invalidity_date, Some(Time::from_unix(1_790_000_001)));
            assert_eq!((row.shard, row.sha256.is_some(), &*row.issuer), (Some(7), true, "demo"));
            let unknown = Key { issuer: "other".into(), serial: vec![1] };
            assert_eq!(source.reread(&[unknown, key]).await.unwrap().0, [row]);
        }
    });
}

/// More than the connection and what is read ahead can hold.
fn fill(database: &Database<'_>) {
    database.sql(&format!("SET session_replication_role = replica; {}", LONG));
}

const LONG: &str = "INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after, changed_at) \
    SELECT 'demo', convert_to('d' || lpad(n::text, 18, '0'), 'UTF8'), 1790000000, 1821536000, 1790000000 \
    FROM generate_series(1, 300000) n";

#[test]
fn a_load_given_up_in_the_middle_is_begun_anew_and_done_page_by_page() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        fill(&database);
        let mut source = opened(&database.url()).await;
        let first = source.page(None, LARGE).await.unwrap();
        assert_eq!((first.rows.len(), first.next.as_ref()), (LARGE, Some(&PageKey(STREAMED.to_owned()))));
        // The reading is dropped while it waits, as by a time-out.
        let hold = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%' \
                    AND state = 'active' AND pid <> pg_backend_pid()";
        assert_eq!(database.sql(hold).trim(), "1", "it is read ahead");
        source.open().await.unwrap();
        within_30_s(|| database.sql(hold).trim() == "0");
        let lost = source.page(first.next.as_ref(), LARGE).await.unwrap_err();
        assert!(lost.to_string().contains("broken off"), "{lost}");
        for (manner, streamed) in [("careful", false), ("as at first", true)] {
            let first = source.page(None, LARGE).await.unwrap();
            assert_eq!(first.next == Some(PageKey(STREAMED.to_owned())), streamed, "{manner}");
            assert_eq!(rows(&pages(&mut source, LARGE).await.unwrap()), 300_003, "{manner}");
            source.open().await.unwrap();
        }
    });
}

#[test]
fn a_load_from_a_standby_that_stands_in_the_way_of_the_replay_is_done_page_by_page() {
    let Some(primary) = TestServer::start(Engine::Postgres, &[]) else { return };
    run(async {
        let shared = primary.database();
        let at: Server = shared.url().parse().unwrap();
        at.postgres(&registry::SERVER_KIND, Mode::Create).await.unwrap().close().await;
        shared.sql(DEMO);
        fill(&shared);
        let mut standby = TestServer::standby_of(&primary);
        standby.restart_with(&["-c", "max_standby_streaming_delay=0"]);
        let mut source = opened(&standby.url(&shared.name)).await;
        let mut after = source.page(None, LARGE).await.unwrap().next;
        // Takes away what the load's snapshot still shows.
        shared.sql("UPDATE jarchy.certificates SET holder = 'x' WHERE serial < 'd000000000000010000'");
        shared.sql("VACUUM jarchy.certificates");
        // The load is cancelled at once, or as soon as somebody reads of it, for which the replay waits.
        let startup = standby.sql(&shared.name, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");
        let title = format!("/proc/{}/cmdline", startup.trim());
        let waits = || std::fs::read_to_string(&title).is_ok_and(|title| title.contains("waiting"));
        within_30_s(|| waits() || standby.log().contains("conflict with recovery"));
        let cancelled = loop {
            match source.page(after.as_ref(), LARGE).await {
                Ok(page) => {
                    assert!(page.next.is_some(), "the load came to its end");
                    after = page.next;
                }
                Err(error) => break error.to_string(),
            }
        };
        assert!(cancelled.contains("conflict with recovery"), "{cancelled}");
        source.open().await.unwrap();
        assert_eq!(rows(&pages(&mut source, LARGE).await.unwrap()), 300_000);
    });
}

fn within_30_s(met: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !met() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All pages of a table.
async fn pages(source: &mut PostgresSource, at_most: usize) -> Result<Vec<Page>, SourceError> {
    let mut pages = vec![source.page(None, at_most).await?];
    while let Some(after) = pages.last().and_then(|page| page.next.clone()) {
        pages.push(source.page(Some(&after), at_most).await?);
    }
    Ok(pages)
}

fn rows(pages: &[Page]) -> usize {
    pages.iter().map(|page| page.rows.len()).sum()
}

#[test]
fn a_transaction_that_stays_open_is_read_when_it_commits_and_holds_up_nothing() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        let (mut slow, mut lost) = (session(&database).await, session(&database).await);
        execute(&mut slow, "BEGIN").await;
        execute(&mut slow, &issue(100, 102)).await;
        execute(&mut lost, "BEGIN").await;
        execute(&mut lost, &issue(200, 200)).await;
        let mut source = opened(&database.url()).await;
        let mut position = source.head().await.unwrap();
        for n in 4..40 {
            database.sql(&issue(n, n));
            let batch = source.changes(&position).await.unwrap();
            assert_eq!((numbers(&batch), batch.drained), (vec![n], true));
            position = batch.position;
            let text = serde_json::to_string(&position).unwrap();
            assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position, "it can be stored");
        }
        execute(&mut slow, "COMMIT").await;
        execute(&mut lost, "ROLLBACK").await;
        let batch = source.changes(&position).await.unwrap();
        assert_eq!(numbers(&batch), [100, 101, 102]);
        assert_eq!(source.changes(&batch.position).await.unwrap().rows.len(), 0);
        assert_eq!(source.wait(Duration::ZERO).await.unwrap(), Waited::Quiet(Currency::Present));
    });
}

#[test]
fn one_step_of_many_rows_comes_in_bounded_batches_with_what_commits_between_them() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let mut position = source.head().await.unwrap();
        let mut slow = session(&database).await;
        execute(&mut slow, "BEGIN").await;
        execute(&mut slow, &issue(900_001, 900_010)).await;
        database.sql(&issue(10, 5_009));
        database.sql(&issue(6_000, 6_000));
        let (mut all, mut batches) = (Vec::new(), 0);
        loop {
            let batch = source.changes(&position).await.unwrap();
            assert!(batch.rows.len() <= 1_000);
            all.extend(numbers(&batch));
            position = batch.position;
            batches += 1;
            if batches == 2 {
                execute(&mut slow, "COMMIT").await;
            }
            if batch.drained {
                break;
            }
        }
        let wanted: Vec<i64> = (10..=5_009).chain([6_000]).chain(900_001..=900_010).collect();
        let mut once = all.clone();
        once.sort_unstable();
        assert_eq!(once, wanted, "each exactly once");
        assert!(batches >= 6);
    });
}

#[test]
fn a_backup_another_database_and_trimmed_changes_are_noticed() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let early = source.head().await.unwrap();
        database.sql(&issue(4, 4));
        database.sql(&issue(5, 5));
        let head = source.changes(&early).await.unwrap().position;
        database.sql("DELETE FROM jarchy.changes WHERE seq < (SELECT max(seq) FROM jarchy.changes)");
        assert!(gap(&mut source, &early).await.contains("trimmed"));
        assert_eq!(source.changes(&head).await.unwrap().rows.len(), 0, "trimmed up to the position");
        let mut cursor = Cursor::of(&head).unwrap();
        cursor.last.as_mut().unwrap().digest = "07".to_owned();
        assert!(gap(&mut source, &cursor.position(head.database.clone())).await.contains("another one now"));
        let (mut ahead, newest) = (Cursor::of(&head).unwrap(), Cursor::of(&head).unwrap().newest);
        (ahead.newest, ahead.last.as_mut().unwrap().seq) = (newest + 1_000, 1_000);
        assert!(gap(&mut source, &ahead.position(head.database.clone())).await.contains("a backup was restored"));
        assert!(gap(&mut source, &Position { cursor: "7:".to_owned(), ..head.clone() }).await.contains("another kind"));
        database.sql("UPDATE jarchy.meta SET epoch = epoch + 1");
        assert!(gap(&mut source, &head).await.contains("declared restored"));
    });
}

#[test]
fn a_commit_wakes_the_reader_and_a_lost_listener_is_noticed() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let position = source.head().await.unwrap();
        source.changes(&position).await.unwrap();
        let long = Duration::from_secs(60);
        let (woken, ()) = tokio::join!(source.wait(long), async { _ = database.sql(&revoke(1)) });
        assert_eq!(woken.unwrap(), Waited::News);
        assert_eq!(numbers(&source.changes(&position).await.unwrap()), [1]);
        // The connection that listens is the one that said so last.
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        database.sql(kill);
        let lost = async {
            loop {
                if let Err(error) = source.wait(long).await {
                    return error.to_string();
                }
            }
        };
        assert!(lost.await.contains("listens"));
    });
}
