//! The adapter against real servers.
#![allow(clippy::unwrap_used)]

use super::super::own::testing::{gap, numbers, run};
use super::*;
use crate::pki::{Status, Time};
use crate::servers::{Database, Engine, Server as TestServer};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::time::Instant;

const DEMO: &str = "INSERT INTO jarchy.issuers(name, certificate) VALUES ('demo', '\\x3001'), ('other', '\\x3002')";

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
        assert!(lost.to_string().contains("interrupted"), "{lost}");
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
        let whole: Cursor = cursor_of(&head).unwrap();
        let seq = whole.last.as_ref().unwrap().seq;
        let other = Cursor { last: Some(Last { seq, digest: "07".to_owned() }), ..whole.clone() };
        assert!(gap(&mut source, &position_at(&other, head.database.clone())).await.contains("another one now"));
        let last = Some(Last { seq: 1_000, digest: "07".to_owned() });
        let ahead = Cursor { newest: whole.newest + 1_000, last, ..whole };
        assert!(gap(&mut source, &position_at(&ahead, head.database.clone())).await.contains("a backup was restored"));
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

const TRIM: &str = "DELETE FROM jarchy.changes WHERE seq < (SELECT max(seq) FROM jarchy.changes)";

#[test]
fn what_is_trimmed_under_a_transaction_of_somebody_elses_is_no_loss_and_of_ones_own_is() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let (database, other) = (made(server).await, server.database());
        // Forgotten by whoever coordinated it, in another database of the cluster.
        other.sql("BEGIN; CREATE TABLE t(); PREPARE TRANSACTION 'forgotten'");
        database.sql(&issue(4, 4));
        database.sql(&issue(5, 5));
        let mut source = opened(&database.url()).await;
        let mut position = source.head().await.unwrap();
        database.sql(TRIM);
        for _ in 0..2 {
            position = source.changes(&position).await.unwrap().position;
            position = Position { cursor: source.head().await.unwrap().cursor, ..position };
        }
        other.sql("ROLLBACK PREPARED 'forgotten'");
        assert_eq!(source.changes(&position).await.unwrap().rows.len(), 0, "nor is its end");

        let mut slow = session(&database).await;
        execute(&mut slow, "BEGIN").await;
        execute(&mut slow, &issue(6, 6)).await;
        database.sql(&issue(7, 7));
        let position = source.changes(&position).await.unwrap().position;
        database.sql(TRIM);
        assert_eq!(source.changes(&position).await.unwrap().rows.len(), 0, "it still runs");
        execute(&mut slow, "COMMIT").await;
        database.sql(&issue(8, 8));
        database.sql(TRIM);
        assert!(gap(&mut source, &position).await.contains("trimmed"));
    });
}

#[test]
fn whether_the_heartbeat_may_be_written_is_asked_again_and_reading_does_not_depend_on_it() {
    let Some(primary) = TestServer::start(Engine::Postgres, &[]) else { return };
    let primary: &'static TestServer = Box::leak(Box::new(primary));
    run(async {
        let database = made(primary).await;
        let beat =
            |server: &TestServer| server.sql(&database.name, "SELECT at FROM jarchy.heartbeat").trim().to_owned();
        let mut source = opened(&database.url()).await;
        let position = source.head().await.unwrap();
        let read_only = |server: &TestServer, on: &str| {
            server.sql("postgres", &format!("ALTER SYSTEM SET default_transaction_read_only = {on}"));
            server.sql("postgres", "SELECT pg_reload_conf()");
            within_30_s(|| server.sql("postgres", "SHOW default_transaction_read_only").trim() == on);
        };
        read_only(primary, "on");
        source.changes(&position).await.unwrap();
        assert_eq!(source.wait(Duration::ZERO).await.unwrap(), Waited::Quiet(Currency::Present));
        assert_eq!(beat(primary), "0", "it is refused");
        read_only(primary, "off");
        beats(&mut source, &position, || beat(primary) != "0").await;

        // Thousands of transactions have ended since one began that is still under way.
        let mut slow = session(&database).await;
        execute(&mut slow, "BEGIN").await;
        execute(&mut slow, &issue(4, 4)).await;
        database.sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
        database.sql(&issue(5, 5));
        let standby = TestServer::standby_of(primary);
        let mut source = opened(&standby.url(&database.name)).await;
        let position = source.head().await.unwrap();
        assert!(position.cursor.len() < 1_000, "{}", position.cursor);
        database.sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
        database.sql(&issue(6, 6));
        database.sql(TRIM);
        let last = database.sql("SELECT pg_current_wal_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", last.trim());
        within_30_s(|| standby.sql("postgres", &replayed).trim() == "t");
        let batch = source.changes(&position).await.unwrap();
        assert_eq!(numbers(&batch), [6]);
        assert!(batch.position.cursor.len() < 1_000, "{}", batch.position.cursor);
        execute(&mut slow, "COMMIT").await;
        assert_eq!(source.wait(Duration::from_secs(30)).await.unwrap(), Waited::News);
        assert_eq!(numbers(&source.changes(&batch.position).await.unwrap()), [4]);

        // By what the heartbeat says of the primary's clock, its commits count for less.
        let mut currency = async |heartbeat: &str| {
            database.sql(&format!("UPDATE jarchy.heartbeat SET {heartbeat}"));
            let shown = format!("SELECT count(*) FROM jarchy.heartbeat WHERE {}", heartbeat.replace(',', " AND "));
            within_30_s(|| standby.sql(&database.name, &shown).trim() == "1");
            (source.changes(&batch.position).await.unwrap().currency, source.complaint().unwrap_or_default())
        };
        let now = SystemClock.now().unix();
        let (Currency::At(at), said) = currency("at = 7, ahead = 600").await else { panic!("it proves something") };
        assert!((now - 700..now - 500).contains(&at.unix()) && said.is_empty(), "{at} {said}");
        assert_eq!(currency(&format!("at = {now}, ahead = 600")).await.0, Currency::At(Time::from_unix(now)));
        let (nothing, said) = currency(&format!("at = {}, ahead = 0", now + 600)).await;
        assert!(nothing == Currency::Unknown && said.contains("primary") && said.contains("ahead of"), "{said}");

        database.sql("UPDATE jarchy.heartbeat SET at = 7");
        within_30_s(|| beat(&standby) == "7");
        standby.sql("postgres", "SELECT pg_promote()");
        let promoted = loop {
            if let Err(error) = source.wait(Duration::ZERO).await {
                break error.to_string();
            }
        };
        assert!(promoted.contains("promoted"), "{promoted}");
        source.open().await.unwrap();
        beats(&mut source, &batch.position, || beat(&standby) != "7").await;
    });
}

#[test]
fn promise_13_a_servers_clock_that_is_wrong_is_told_of_and_the_heartbeat_says_what_both_agree_on() {
    let Some(server) = TestServer::shared(Engine::Postgres) else { return };
    run(async {
        let database = made(server).await;
        let mut source = opened(&database.url()).await;
        let position = source.head().await.unwrap();
        source.changes(&position).await.unwrap();
        assert_eq!(source.complaint(), None);
        let began = SystemClock.now().unix();
        for (off, said) in [(3_600, "ahead of"), (-3_600, "behind"), (0, "")] {
            database.sql(&format!(
                "CREATE OR REPLACE FUNCTION jarchy.now() RETURNS BIGINT LANGUAGE sql \
                 AS 'SELECT floor(extract(epoch FROM clock_timestamp()))::int8 + {off}'"
            ));
            source.changes(&position).await.unwrap();
            let complaint = source.complaint().unwrap_or_default();
            assert!(complaint.is_empty() == said.is_empty() && complaint.contains(said), "{off}: {complaint}");
            let beaten = || -> i64 { database.sql("SELECT at FROM jarchy.heartbeat").trim().parse().unwrap() };
            let agreed = |time: i64| time + off.min(0);
            let met = || (agreed(began)..=agreed(SystemClock.now().unix())).contains(&beaten());
            beats(&mut source, &position, met).await;
        }
    });
}

/// Reads on until the heartbeat is `met`.
async fn beats(source: &mut PostgresSource, position: &Position, met: impl Fn() -> bool) {
    source.changes(position).await.unwrap();
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < Duration::from_secs(30), "no heartbeat");
        source.wait(Duration::from_millis(50)).await.unwrap();
    }
}
