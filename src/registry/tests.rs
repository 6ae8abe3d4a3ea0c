//! What the database refuses and records, whoever writes, and what the operations make of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::testing::{TestCa, audit};
use super::*;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::io::Write;
use std::process::{Command, Stdio};

/// One issuer and certificates in every state. Serial 05 has no hash, 06 no shard.
const STOCK: &str = "
    INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020101'), ('other', x'3003020102');
    INSERT INTO certificates(issuer, serial, not_before, not_after, sha256, shard, ca, holder) VALUES
        ('demo', x'01', 1700000000, 1900000000, zeroblob(32), 7, 0, 'H1'),
        ('demo', x'02', 1700000000, 1900000000, zeroblob(32), 7, 0, 'H1'),
        ('demo', x'03', 1700000000, 1900000000, zeroblob(32), 7, 0, 'H1'),
        ('demo', x'05', 1700000000, 1900000000, NULL, NULL, NULL, NULL);
    UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 6 WHERE serial = x'02';
    UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 4 WHERE serial = x'03';";

/// What nobody may do, and words of the refusal that tell why and what to do.
const REFUSED: &[(&str, &str)] = &[
    // Unknown issuer, unknown shape.
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('nobody', x'10', 1, 2)",
        "unknown issuer",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'', 1, 2)",
        "serial is 1 to 20 octets",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'0101010101010101010101010101010101010101', 1, 2), ('demo', x'010101010101010101010101010101010101010101', 1, 2)",
        "serial is 1 to 20 octets",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'0010', 1, 2)",
        "serial is the shortest form",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'F12E', 1, 2)",
        "put the sign octet 00 before it",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', 'F12E', 1, 2)",
        "cannot store TEXT value in BLOB column",
    ),
    ("INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', NULL, 1, 2)", "NOT NULL"),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'10', 2, 1)",
        "are they swapped?",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'10', 1, 1795330067000)",
        "are they milliseconds?",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after, sha256) VALUES ('demo', x'10', 1, 2, x'00')",
        "sha256 is the 32 octets",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after, medium) VALUES ('demo', x'10', 1, 2, 'floppy')",
        "medium is token, cloud, other",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after, released_at) VALUES ('demo', x'10', 1, 2, 1)",
        "kept by the database",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after, changed_at) VALUES ('demo', x'10', 1, 2, 1)",
        "kept by the database",
    ),
    // Revocations that are none.
    (
        "UPDATE certificates SET status = 'revoked', reason = 1 WHERE serial = x'01'",
        "a revoked certificate needs revoked_at",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after, status) VALUES ('demo', x'10', 1, 2, 'revoked')",
        "a revoked certificate needs revoked_at",
    ),
    (
        "UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 7 WHERE serial = x'01'",
        "reason is one of 0 to 6, 9, 10",
    ),
    (
        "UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 8 WHERE serial = x'01'",
        "reason is one of 0 to 6, 9, 10",
    ),
    (
        "UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 11 WHERE serial = x'01'",
        "reason is one of 0 to 6, 9, 10",
    ),
    (
        "UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = -1 WHERE serial = x'01'",
        "reason is one of 0 to 6, 9, 10",
    ),
    (
        "UPDATE certificates SET status = 'revoked', revoked_at = 1795330067000, reason = 1 WHERE serial = x'01'",
        "are they milliseconds?",
    ),
    ("UPDATE certificates SET reason = 1 WHERE serial = x'01'", "a good certificate has no revocation"),
    ("UPDATE certificates SET revoked_at = 1750000000 WHERE serial = x'01'", "a good certificate has no revocation"),
    ("UPDATE certificates SET status = 'suspended' WHERE serial = x'01'", "status is good or revoked"),
    // Steps out of revoked, by every road.
    (
        "UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = x'03'",
        "never becomes good again",
    ),
    (
        "UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL, actor = 'me' WHERE serial = x'03'",
        "never becomes good again",
    ),
    (
        "UPDATE OR REPLACE certificates SET status = NULL, revoked_at = NULL, reason = NULL, actor = 'me' WHERE serial = x'03'",
        "never becomes good again",
    ),
    (
        "UPDATE OR IGNORE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = x'03'",
        "never becomes good again",
    ),
    ("UPDATE certificates SET reason = 6, actor = 'me' WHERE serial = x'03'", "cannot become a hold"),
    ("UPDATE certificates SET reason = 1 WHERE serial = x'03'", "set actor in the same UPDATE"),
    ("UPDATE certificates SET revoked_at = 1 WHERE serial = x'03'", "set actor in the same UPDATE"),
    ("UPDATE certificates SET invalidity_date = 1 WHERE serial = x'03'", "set actor in the same UPDATE"),
    ("UPDATE certificates SET reason = 1, actor = '' WHERE serial = x'03'", "actor is who wants the change"),
    ("UPDATE certificates SET revoked_at = 1 WHERE serial = x'02'", "set actor in the same UPDATE"),
    (
        "UPDATE certificates SET reason = 1, revoked_at = 1760000000 WHERE serial = x'02'",
        "keeps revoked_at, the start of the hold",
    ),
    (
        "INSERT OR REPLACE INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'03', 1700000000, 1900000000)",
        "change its row by UPDATE",
    ),
    (
        "REPLACE INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'01', 1700000000, 1900000000)",
        "change its row by UPDATE",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'03', 1, 2) ON CONFLICT DO UPDATE SET status = 'good'",
        "change its row by UPDATE",
    ),
    (
        "UPDATE OR REPLACE certificates SET serial = x'03' WHERE serial = x'01'",
        "issuer and serial of a certificate never change",
    ),
    ("DELETE FROM certificates WHERE serial = x'03'", "certificates are never deleted"),
    ("DELETE FROM certificates", "certificates are never deleted"),
    // What stands in the certificate.
    ("UPDATE certificates SET serial = x'10' WHERE serial = x'01'", "issuer and serial of a certificate never change"),
    (
        "UPDATE certificates SET issuer = 'other' WHERE serial = x'01'",
        "issuer and serial of a certificate never change",
    ),
    ("UPDATE certificates SET not_after = 1900000001 WHERE serial = x'01'", "not_before and not_after never change"),
    ("UPDATE certificates SET not_before = 1 WHERE serial = x'01'", "not_before and not_after never change"),
    (
        "UPDATE certificates SET sha256 = x'0101010101010101010101010101010101010101010101010101010101010101' WHERE serial = x'01'",
        "sha256 is set once",
    ),
    ("UPDATE certificates SET sha256 = NULL WHERE serial = x'01'", "sha256 is set once"),
    ("UPDATE certificates SET shard = 8 WHERE serial = x'01'", "shard is set once"),
    ("UPDATE certificates SET ca = 1 WHERE serial = x'01'", "ca is set once"),
    ("UPDATE certificates SET ca = NULL WHERE serial = x'01'", "ca is set once"),
    ("UPDATE certificates SET ca = 2 WHERE serial = x'05'", "ca is 1 for a certificate of a CA"),
    ("UPDATE certificates SET released_at = 1 WHERE serial = x'01'", "kept by the database"),
    ("UPDATE certificates SET changed_at = 1, holder = 'H2' WHERE serial = x'01'", "kept by the database"),
    // The record.
    ("UPDATE events SET actor = 'somebody else'", "events never change"),
    ("DELETE FROM events WHERE id = 1", "events are never deleted"),
    (
        "INSERT OR REPLACE INTO events(id, issuer, serial, kind, effective_at) VALUES (1, 'demo', x'01', 'issue', 1)",
        "events never change",
    ),
    ("UPDATE OR REPLACE events SET id = 2 WHERE id = 1", "events never change"),
    (
        "INSERT INTO events(issuer, serial, kind, effective_at, recorded_at) VALUES ('demo', x'01', 'issue', 1, 1)",
        "events are recorded now",
    ),
    (
        "INSERT INTO events(issuer, serial, kind, effective_at) VALUES ('demo', x'77', 'issue', 1)",
        "certificates that are in the database",
    ),
    ("UPDATE changes SET serial = x'01' WHERE seq = 2", "the change log is not changed"),
    ("DELETE FROM changes", "the newest change stays"),
    ("DELETE FROM changes WHERE seq = 2", "from its oldest row on"),
    ("INSERT OR REPLACE INTO changes(seq, issuer, serial) VALUES (1, 'demo', x'01')", "INSERT without seq"),
    ("INSERT INTO changes(seq, issuer, serial) VALUES (-5, 'demo', x'01')", "INSERT without seq"),
    (
        "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020103')",
        "an issuer of this name is there already",
    ),
    (
        "INSERT OR REPLACE INTO issuers(name, certificate) VALUES ('demo', x'3003020103')",
        "an issuer of this name is there already",
    ),
    ("INSERT INTO issuers(name, certificate) VALUES ('twin', x'3003020101')", "registered already under another name"),
    ("INSERT INTO issuers(name, certificate) VALUES ('De-mo', x'3003020104')", "an issuer's name is made of a-z"),
    ("INSERT INTO issuers(name, certificate) VALUES ('new', CAST('-----BEGIN' AS BLOB))", "in DER, not in PEM"),
    ("UPDATE issuers SET name = 'renamed' WHERE name = 'demo'", "name and certificate of an issuer never change"),
    (
        "UPDATE OR REPLACE issuers SET name = 'other' WHERE name = 'demo'",
        "name and certificate of an issuer never change",
    ),
    (
        "UPDATE issuers SET certificate = x'3003020109' WHERE name = 'demo'",
        "name and certificate of an issuer never change",
    ),
    ("DELETE FROM issuers WHERE name = 'other'", "issuers are never deleted"),
    ("UPDATE meta SET identity = '00000000000000000000000000000000'", "the identity of a database never changes"),
    ("UPDATE meta SET epoch = 0", "epoch only grows"),
    ("DELETE FROM meta", "the row of meta stays"),
    (
        "INSERT OR REPLACE INTO meta(one, identity) VALUES (1, '00000000000000000000000000000000')",
        "meta has its one row already",
    ),
];

async fn stocked() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuance.db");
    let registry = Registry::create(&path).await.unwrap();
    sqlx::raw_sql(STOCK).execute(registry.pool()).await.unwrap();
    registry.close().await;
    (dir, path)
}

/// Every row of every table, as text.
async fn everything(connection: &mut SqliteConnection) -> Vec<String> {
    const TABLES: [&str; 5] = [
        "SELECT quote(one) || quote(identity) || quote(epoch) FROM meta",
        "SELECT quote(name) || quote(certificate) || negative_serials FROM issuers",
        "SELECT quote(issuer) || quote(serial) || quote(not_before) || quote(not_after) || quote(sha256) || quote(holder) \
         || quote(shard) || quote(ca) || quote(status) || quote(revoked_at) || quote(reason) || quote(invalidity_date) \
         || quote(released_at) || quote(changed_at) || quote(actor) || quote(received_at) FROM certificates",
        "SELECT id || quote(issuer) || quote(serial) || kind || quote(actor) || quote(received_at) || effective_at \
         || recorded_at || quote(before) || quote(after) FROM events",
        "SELECT seq || quote(issuer) || quote(serial) || at FROM changes",
    ];
    let mut all = Vec::new();
    for table in TABLES {
        all.extend(sqlx::query_scalar::<_, String>(table).fetch_all(&mut *connection).await.unwrap());
    }
    all
}

async fn plain(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).foreign_keys(false).connect().await.unwrap()
}

async fn execute(connection: &mut SqliteConnection, statement: &str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(|done| done.rows_affected())
}

#[tokio::test]
async fn whoever_writes_the_database_keeps_its_truth() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let before = everything(&mut connection).await;
    for recursive in ["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"] {
        execute(&mut connection, recursive).await.unwrap();
        for (statement, words) in REFUSED {
            let refused = execute(&mut connection, statement).await.expect_err(statement).to_string();
            assert!(refused.contains(words), "{statement}: {refused}");
        }
    }
    assert_eq!(everything(&mut connection).await, before);
}

/// Runs statements on a database: whether all went through, and what was printed.
type Shell = fn(&Path, &str) -> (bool, String);

/// The sqlite3 of the system, which in Debian 12 is 3.40 and thus older than the one that Jarchy brings.
fn shell() -> Option<Shell> {
    Command::new("sqlite3").arg("--version").output().ok()?;
    Some(|path, statements| {
        let mut command = Command::new("sqlite3");
        let command =
            command.arg("-bail").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        running.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
        let done = running.wait_with_output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    })
}

#[tokio::test]
async fn the_sqlite3_shell_is_refused_the_same() {
    let Some(shell) = shell() else { return };
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let before = everything(&mut connection).await;
    for (statement, words) in REFUSED {
        let (done, said) = shell(&path, &format!("{statement};"));
        assert!(!done && said.contains(words), "{statement}: {said}");
    }
    assert_eq!(everything(&mut connection).await, before);
}

#[tokio::test]
async fn ignored_conflicts_change_nothing_either() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let before = everything(&mut connection).await;
    for statement in [
        "UPDATE OR IGNORE certificates SET status = 'revoked', reason = 1 WHERE serial = x'01'",
        "INSERT OR IGNORE INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'0010', 1, 2)",
    ] {
        assert_eq!(execute(&mut connection, statement).await.unwrap(), 0, "{statement}");
    }
    assert_eq!(everything(&mut connection).await, before);
}

#[tokio::test]
async fn every_change_by_anybody_leaves_its_event_and_its_trace() {
    let (_dir, path) = stocked().await;
    for recursive in ["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"] {
        let mut connection = plain(&path).await;
        execute(&mut connection, recursive).await.unwrap();
        // Statement, event kinds it writes, whether relying parties see it.
        for (statement, kinds, seen) in [
            (
                "UPDATE certificates SET status = 'revoked', revoked_at = 1760000000, reason = 6 WHERE serial = x'01'",
                &["hold"][..],
                true,
            ),
            (
                "UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = x'01'",
                &["release"],
                true,
            ),
            (
                "UPDATE certificates SET reason = 1, invalidity_date = unixepoch() - abs(random() % 1000000), actor = 'office' WHERE serial = x'03'",
                &["update"],
                true,
            ),
            ("UPDATE certificates SET holder = 'H' || random() WHERE serial = x'01'", &["update"], false),
            ("UPDATE certificates SET holder = holder WHERE serial = x'01'", &[], false),
            ("UPDATE certificates SET actor = 'office', received_at = 5 WHERE serial = x'01'", &[], false),
        ] {
            let last: i64 = sqlx::query_scalar("SELECT max(id) FROM events").fetch_one(&mut connection).await.unwrap();
            let changes: i64 =
                sqlx::query_scalar("SELECT max(seq) FROM changes").fetch_one(&mut connection).await.unwrap();
            execute(&mut connection, statement).await.expect(statement);
            let written: Vec<String> = sqlx::query_scalar("SELECT kind FROM events WHERE id > ? ORDER BY id")
                .bind(last)
                .fetch_all(&mut connection)
                .await
                .unwrap();
            assert_eq!(written, kinds, "{statement}");
            let traces: i64 = sqlx::query_scalar("SELECT count(*) FROM changes WHERE seq > ?")
                .bind(changes)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            assert_eq!(traces, i64::from(seen), "{statement}");
        }
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM certificates WHERE actor IS NOT NULL OR received_at IS NOT NULL")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(left, 0);
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_event_tells_who_when_received_when_effective_and_what_changed() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let statement = "UPDATE certificates SET status = 'revoked', revoked_at = 1760000000, reason = 1, actor = 'ra', \
                     received_at = 1759999999 WHERE serial = x'05'";
    execute(&mut connection, statement).await.unwrap();
    let hash = "UPDATE certificates SET sha256 = zeroblob(32) WHERE serial = x'05'";
    execute(&mut connection, hash).await.unwrap();
    let registry = Registry::open(&path).await.unwrap();
    let entry = registry.find(&"05".parse().unwrap(), None).await.unwrap();
    let events = registry.events(&entry.issuer, &entry.serial).await.unwrap();
    assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["issue", "revoke", "hash"]);
    let revoke = &events[1];
    assert_eq!(revoke.actor.as_deref(), Some("ra"));
    assert_eq!(revoke.received_at, Some(Time::from_unix(1_759_999_999)));
    assert_eq!(revoke.effective_at, Time::from_unix(1_760_000_000));
    assert!(revoke.recorded_at > revoke.effective_at);
    let fields: Vec<_> =
        revoke.changed.iter().map(|(field, old, new)| (field.as_str(), old.to_string(), new.to_string())).collect();
    assert!(fields.contains(&("status", "\"good\"".to_owned(), "\"revoked\"".to_owned())), "{fields:?}");
    assert!(fields.contains(&("reason", "null".to_owned(), "1".to_owned())), "{fields:?}");
    assert_eq!(fields.len(), 3);
    assert_eq!(entry.changed_at, events[2].recorded_at);
}

#[tokio::test]
async fn rev_11_a_hold_that_becomes_final_keeps_its_start() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    execute(&mut connection, "UPDATE certificates SET reason = 1 WHERE serial = x'02'").await.unwrap();
    let registry = Registry::open(&path).await.unwrap();
    let entry = registry.find(&"02".parse().unwrap(), None).await.unwrap();
    let revocation = entry.status.revocation().unwrap();
    assert_eq!((revocation.at, revocation.reason), (Time::from_unix(1_750_000_000), Reason::KeyCompromise));
    assert_eq!(registry.events(&entry.issuer, &entry.serial).await.unwrap().last().unwrap().kind, "revoke");
}

#[tokio::test]
async fn a_revocation_dated_ahead_and_one_without_reason_are_taken() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let statement = "UPDATE certificates SET status = 'revoked', revoked_at = unixepoch() + 86400 WHERE serial = x'01'";
    assert_eq!(execute(&mut connection, statement).await.unwrap(), 1);
    let registry = Registry::open(&path).await.unwrap();
    let entry = registry.find(&"01".parse().unwrap(), None).await.unwrap();
    assert_eq!(entry.status.revocation().unwrap().reason, Reason::Unspecified);
}

#[tokio::test]
async fn sec_18_negative_serials_only_for_an_issuer_that_has_them() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let insert = "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'F12E', 1, 2)";
    assert!(execute(&mut connection, insert).await.is_err());
    execute(&mut connection, "UPDATE issuers SET negative_serials = 1 WHERE name = 'demo'").await.unwrap();
    execute(&mut connection, insert).await.unwrap();
}

#[tokio::test]
async fn the_change_log_can_be_trimmed_from_its_old_end_and_counts_on() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    execute(&mut connection, "DELETE FROM changes WHERE seq < 3").await.unwrap();
    execute(&mut connection, "DELETE FROM changes WHERE seq < (SELECT max(seq) FROM changes)").await.unwrap();
    let last: i64 = sqlx::query_scalar("SELECT seq FROM changes").fetch_one(&mut connection).await.unwrap();
    execute(&mut connection, "INSERT INTO changes(issuer, serial) VALUES ('demo', x'01')").await.unwrap();
    let next: i64 = sqlx::query_scalar("SELECT max(seq) FROM changes").fetch_one(&mut connection).await.unwrap();
    assert_eq!(next, last + 1);
}

#[tokio::test]
async fn the_schema_explains_itself() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    let text: Vec<String> =
        sqlx::query_scalar("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(text.iter().all(|sql| sql.contains("--")));
    assert!(text.iter().any(|sql| sql.contains("SELECT unhex(CASE")));
}

/// The statements that README.md shows, one after another, in whatever SQLite is at hand.
#[tokio::test]
async fn the_documented_statements_work() {
    const HOWTO: &str = include_str!("howto.sql");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuance.db");
    Registry::create(&path).await.unwrap().close().await;
    let mut connection = plain(&path).await;
    execute(&mut connection, "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020101')").await.unwrap();
    for statement in HOWTO.split_inclusive(";\n") {
        let rows = execute(&mut connection, statement).await.unwrap_or_else(|error| panic!("{statement}\n{error}"));
        let writes = ["INSERT", "UPDATE"].iter().any(|word| statement.contains(word));
        assert!(!writes || rows > 0, "changed nothing: {statement}");
    }
    let serials: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT serial FROM certificates ORDER BY serial").fetch_all(&mut connection).await.unwrap();
    assert_eq!(serials, [&[0, 0xa1, 0xb2, 0xc3][..], &[0, 0xf1, 0x2e], &[0x4d, 0x5e]]);
    let kinds: Vec<String> = sqlx::query_scalar("SELECT kind FROM events WHERE serial = x'00F12E' ORDER BY id")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(kinds, ["issue", "revoke", "update"]);

    let Some(shell) = shell() else { return };
    let path = dir.path().join("shell.db");
    Registry::create(&path).await.unwrap().close().await;
    let (done, said) = shell(&path, "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020101');");
    assert!(done, "{said}");
    // 3.40 has no unhex; the literal above it says the same.
    for statement in HOWTO.split_inclusive(";\n").filter(|statement| !statement.contains("unhex(")) {
        let (done, said) = shell(&path, statement);
        assert!(done, "{statement}\n{said}");
    }
}

/// Under its heading README.md shows some of them, word for word.
#[test]
fn the_readme_shows_statements_that_are_tested() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap_or_default();
    let Some((_, section)) = readme.split_once("## Writing to the issuance database") else { return };
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<&str> = section.split("```sql\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for statement in blocks.iter().flat_map(|block| block.split_inclusive(";\n")) {
        assert!(include_str!("howto.sql").contains(statement.trim()), "not in howto.sql:\n{statement}");
    }
}

/// The line of Python that README.md shows.
#[test]
fn the_documented_python_makes_every_serial() {
    for text in ["00", "01", "7F", "80", "FF", "0100", "F12E", "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"] {
        let program = format!("s = 0x{text}; print(s.to_bytes(s.bit_length() // 8 + 1, 'big').hex())");
        let Ok(done) = Command::new("python3").args(["-c", &program]).output() else { return };
        let expected: String = text.parse::<Serial>().unwrap().as_bytes().iter().map(|o| format!("{o:02x}")).collect();
        assert_eq!(String::from_utf8(done.stdout).unwrap().trim(), expected);
    }
}

#[tokio::test]
async fn the_documented_expression_makes_every_serial_from_its_hex() {
    let (_dir, path) = stocked().await;
    let mut connection = plain(&path).await;
    for text in [
        "00",
        "01",
        "7F",
        "80",
        "0080",
        "F1:2E",
        "f12e",
        "123",
        "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
        "aBcDeF",
        "0A1B",
    ] {
        let made: Vec<u8> = sqlx::query_scalar(
            "SELECT unhex(CASE WHEN length(x) % 2 THEN '0' WHEN x = '' OR x >= '8' THEN '00' ELSE '' END || x) \
             FROM (SELECT ltrim(replace(?, ':', ''), '0') AS x)",
        )
        .bind(text)
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(made, text.parse::<Serial>().unwrap().as_bytes(), "{text}");
    }
}

async fn fresh() -> (tempfile::TempDir, Registry, TestCa, IssuerName) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::create(&dir.path().join("issuance.db")).await.unwrap();
    let ca = TestCa::new("Test CA");
    let name: IssuerName = "demo".parse().unwrap();
    registry.add_issuer(&name, &ca.certificate).await.unwrap();
    (dir, registry, ca, name)
}

#[tokio::test]
async fn an_issuer_is_registered_once_under_one_name() {
    let (_dir, registry, ca, name) = fresh().await;
    registry.add_issuer(&name, &ca.certificate).await.unwrap();
    let other = TestCa::new("Other CA");
    let taken = registry.add_issuer(&name, &other.certificate).await.unwrap_err().to_string();
    assert!(taken.contains("register this one under another name"), "{taken}");
    let twice = registry.add_issuer(&"twin".parse().unwrap(), &ca.certificate).await.unwrap_err().to_string();
    assert!(twice.contains("as demo"), "{twice}");
    registry.add_issuer(&"other".parse().unwrap(), &other.certificate).await.unwrap();
    let names: Vec<_> = registry.issuers().await.unwrap().into_iter().map(|issuer| issuer.name.to_string()).collect();
    assert_eq!(names, ["demo", "other"]);
}

#[tokio::test]
async fn adding_again_changes_nothing_and_another_certificate_under_the_serial_is_refused() {
    let (_dir, registry, ca, name) = fresh().await;
    let (one, two) = (ca.issue(&[1], (2026, 2027)), ca.issue(&[2], (2026, 2027)));
    let impostor = ca.issue(&[1], (2026, 2027));
    let new = |certificate| NewCertificate::new(&name, certificate);
    let batch = [new(&one), new(&one), new(&impostor), new(&two)];
    let answers = registry.add(&batch, &audit()).await.unwrap();
    assert!(matches!(
        answers.as_slice(),
        [Ok(Added::New), Ok(Added::AlreadyThere), Err(RegistryError::Conflict(_)), Ok(Added::New)]
    ));
    let entry = registry.get(&name, &one.serial()).await.unwrap().unwrap();
    assert_eq!(entry.sha256, Some(one.sha256()));
    assert_eq!((entry.not_before, entry.not_after), (one.not_before(), one.not_after()));
    let events = registry.events(&name, &one.serial()).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].actor.as_deref(), Some("tester"));
    let holder = NewCertificate { holder: Some("H".to_owned()), ..new(&one) };
    assert!(matches!(registry.add(&[holder], &audit()).await.unwrap()[0], Ok(Added::Completed)));
}

#[tokio::test]
async fn a_precertificate_gets_its_hash_when_the_certificate_comes() {
    let (_dir, registry, ca, name) = fresh().await;
    let poison = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 3], vec![5, 0]);
    let (before, after) = (ca.issue_with(&[9], (2026, 2027), vec![poison]), ca.issue(&[9], (2026, 2027)));
    registry.add(&[NewCertificate::new(&name, &before)], &audit()).await.unwrap();
    assert_eq!(registry.get(&name, &after.serial()).await.unwrap().unwrap().sha256, None);
    let answer = registry.add(&[NewCertificate::new(&name, &after)], &audit()).await.unwrap();
    assert!(matches!(answer[0], Ok(Added::Completed)));
    assert_eq!(registry.get(&name, &after.serial()).await.unwrap().unwrap().sha256, Some(after.sha256()));
    let again = registry.add(&[NewCertificate::new(&name, &before)], &audit()).await.unwrap();
    assert!(matches!(again[0], Ok(Added::AlreadyThere)));
}

#[tokio::test]
async fn crl_76_a_certificate_says_itself_whether_it_is_a_cas() {
    let (_dir, registry, ca, name) = fresh().await;
    let user = ca.issue(&[9], (2026, 2027));
    // cA TRUE.
    let constraints = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
    let sub = ca.issue_with(&[10], (2026, 2027), vec![constraints]);
    let unsaid = NewCertificate { ca: None, ..NewCertificate::new(&name, &sub) };
    registry.add(&[NewCertificate::new(&name, &user), unsaid], &audit()).await.unwrap();
    let ca_of = async |serial: Serial| registry.get(&name, &serial).await.unwrap().unwrap().ca;
    assert_eq!((ca_of(user.serial()).await, ca_of(sub.serial()).await), (Some(false), None));
    let answer = registry.add(&[NewCertificate::new(&name, &sub)], &audit()).await.unwrap();
    assert!(matches!(answer[0], Ok(Added::Completed)));
    assert_eq!(ca_of(sub.serial()).await, Some(true));
    let last = registry.events(&name, &sub.serial()).await.unwrap().pop().unwrap();
    assert_eq!(last.changed, [("ca".to_owned(), serde_json::Value::Null, 1.into())]);
}

/// A database made before there was the column `ca`.
#[tokio::test]
async fn an_older_database_is_brought_up_to_date_and_keeps_its_rows_and_rules() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuance.db");
    let old = Kind { migrations: KIND.migrations.split_at(1).0, ..KIND };
    let pool = db::open(&path, &old, Mode::Create).await.unwrap();
    let stock = STOCK.replace("shard, ca, holder", "shard, holder").replace(", 7, 0, ", ", 7, ");
    let stock = stock.replace("NULL, NULL, NULL, NULL", "NULL, NULL, NULL");
    sqlx::raw_sql(AssertSqlSafe(stock)).execute(&pool).await.unwrap();
    pool.close().await;
    let registry = Registry::open(&path).await.unwrap();
    let entry = registry.find(&"03".parse().unwrap(), None).await.unwrap();
    assert_eq!((entry.shard, entry.ca, entry.status != Status::Good), (Some(7), None, true));
    let mut connection = plain(&path).await;
    let set = "UPDATE certificates SET ca = 1 WHERE serial = x'03'";
    assert_eq!(execute(&mut connection, set).await.unwrap(), 1);
    let refused = "UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = x'03'";
    assert!(execute(&mut connection, refused).await.unwrap_err().to_string().contains("never becomes good"));
}

#[tokio::test]
async fn the_life_of_a_certificate() {
    let (_dir, registry, ca, name) = fresh().await;
    let certificate = ca.issue(&[0x0a, 0x1b], (2026, 2027));
    let (serial, audit) = (certificate.serial(), audit());
    registry.add(&[NewCertificate::new(&name, &certificate)], &audit).await.unwrap();
    let order = Order { reason: Reason::KeyCompromise, ..Order::default() };

    let held = registry.hold(&name, &serial, &audit).await.unwrap();
    assert!(held.status.is_hold());
    assert!(matches!(registry.hold(&name, &serial, &audit).await, Err(RegistryError::AlreadyOnHold(_))));
    let released = registry.release(&name, &serial, &audit).await.unwrap();
    assert_eq!(released.status, Status::Good);
    assert!(released.released_at.is_some());
    assert!(matches!(registry.release(&name, &serial, &audit).await, Err(RegistryError::NotOnHold(_))));
    let correction = Correction { reason: Some(Reason::Superseded), ..Correction::default() };
    assert!(matches!(registry.update(&name, &serial, &correction, &audit).await, Err(RegistryError::NotRevoked(_))));

    let revoked = registry.revoke(&name, &serial, &order, &audit).await.unwrap();
    let since = revoked.status.revocation().unwrap().at;
    let again = registry.revoke(&name, &serial, &order, &audit).await.unwrap_err().to_string();
    assert_eq!(
        again,
        format!("0A1B (demo) is revoked since {since} (keyCompromise) already; --update changes reason or dates")
    );
    assert!(matches!(registry.hold(&name, &serial, &audit).await, Err(RegistryError::RevokedForGood(_))));
    assert!(matches!(registry.release(&name, &serial, &audit).await, Err(RegistryError::NotOnHold(_))));
    let updated = registry.update(&name, &serial, &correction, &audit).await.unwrap();
    assert_eq!(updated.status.revocation().unwrap().reason, Reason::Superseded);
    assert_eq!(updated.status.revocation().unwrap().at, since);
    let hold = Order { reason: Reason::CertificateHold, ..Order::default() };
    assert!(registry.revoke(&name, &serial, &hold, &audit).await.is_err());
    let kinds: Vec<_> = registry.events(&name, &serial).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["issue", "hold", "release", "revoke", "update"]);
}

#[tokio::test]
async fn a_serial_of_two_issuers_needs_the_issuer_and_a_stranger_is_told_what_to_do() {
    let (_dir, registry, ca, name) = fresh().await;
    let other: IssuerName = "other".parse().unwrap();
    let other_ca = TestCa::new("Other CA");
    registry.add_issuer(&other, &other_ca.certificate).await.unwrap();
    let batch = [
        NewCertificate::new(&name, &ca.issue(&[7], (2026, 2027))),
        NewCertificate::new(&other, &other_ca.issue(&[7], (2026, 2027))),
    ];
    registry.add(&batch, &audit()).await.unwrap();
    let seven: Serial = "07".parse().unwrap();
    let both = registry.find(&seven, None).await.unwrap_err().to_string();
    assert!(both.contains("demo and by other") && both.contains("--issuer"), "{both}");
    assert_eq!(registry.find(&seven, Some(&other)).await.unwrap().issuer, other);
    let unknown = registry.find(&"99".parse().unwrap(), None).await.unwrap_err().to_string();
    assert!(unknown.contains("no certificate with serial 99") && unknown.contains("issuance.db"), "{unknown}");
    assert!(unknown.contains("jarchy add"), "{unknown}");
    let nobody = registry.find(&seven, Some(&"nobody".parse().unwrap())).await.unwrap_err().to_string();
    assert!(nobody.contains("there are: demo, other"), "{nobody}");
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs.db");
    let mut theirs = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    execute(&mut theirs, "CREATE TABLE certificates(x)").await.unwrap();
    let refused = Registry::open(&path).await.unwrap_err().to_string();
    assert!(refused.contains("no issuance database of Jarchy's"), "{refused}");
    let missing = Registry::open(&dir.path().join("none.db")).await.unwrap_err().to_string();
    assert!(missing.contains("jarchy init"), "{missing}");
}
