//! What the database refuses and records, whoever writes, and what the operations make of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::testing::{Case, STOCK, TestCa, audit, on_each_database};
use super::*;
use crate::db;
use crate::servers::Engine;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What nobody may do, and words of the refusal that tell why and what to do; in what the databases say themselves
/// they use other words, which a bar parts.
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
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', NULL, 1, 2)",
        "NOT NULL|violates not-null|cannot be null",
    ),
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
        "INSERT INTO events(issuer, serial, kind, effective_at, recorded_at) VALUES ('demo', x'01', 'issue', 1, 1)",
        "events are recorded now",
    ),
    (
        "INSERT INTO events(issuer, serial, kind, effective_at) VALUES ('demo', x'77', 'issue', 1)",
        "certificates that are in the database",
    ),
    ("UPDATE changes SET serial = x'01' WHERE seq = 2", "the change log is not changed"),
    ("DELETE FROM changes", "the newest change stays"),
    ("INSERT INTO changes(seq, issuer, serial) VALUES (-5, 'demo', x'01')", "INSERT without seq|non-DEFAULT value"),
    (
        "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020103')",
        "an issuer of this name is there already",
    ),
    ("INSERT INTO issuers(name, certificate) VALUES ('twin', x'3003020101')", "registered already under another name"),
    ("INSERT INTO issuers(name, certificate) VALUES ('De-mo', x'3003020104')", "an issuer's name is made of a-z"),
    ("INSERT INTO issuers(name, certificate) VALUES ('new', x'2D2D2D2D2D424547494E')", "in DER, not in PEM"),
    ("UPDATE issuers SET name = 'renamed' WHERE name = 'demo'", "name and certificate of an issuer never change"),
    (
        "UPDATE issuers SET certificate = x'3003020109' WHERE name = 'demo'",
        "name and certificate of an issuer never change",
    ),
    ("DELETE FROM issuers WHERE name = 'other'", "issuers are never deleted"),
    ("UPDATE meta SET identity = '00000000000000000000000000000000'", "the identity of a database never changes"),
    ("UPDATE meta SET epoch = 0", "epoch only grows"),
    ("DELETE FROM meta", "the row of meta stays"),
    (
        "INSERT INTO meta(one, identity) VALUES (2, '00000000000000000000000000000000')",
        "meta has its one row|default value",
    ),
    (
        "UPDATE certificates SET received_at = 1795330067000, actor = 'me' WHERE serial = x'01'",
        "are they milliseconds?",
    ),
];

/// What only SQLite's language can say, or only its rules forbid.
const REFUSED_BY_SQLITE: &[(&str, &str)] = &[
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'03', 1, 2) ON CONFLICT (issuer, serial) DO UPDATE SET status = 'good'",
        "change its row by UPDATE",
    ),
    (
        "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', 'F12E', 1, 2)",
        "cannot store TEXT value in BLOB column",
    ),
    (
        "UPDATE OR REPLACE certificates SET status = NULL, revoked_at = NULL, reason = NULL, actor = 'me' WHERE serial = x'03'",
        "never becomes good again",
    ),
    (
        "UPDATE OR IGNORE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = x'03'",
        "never becomes good again",
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
        "UPDATE OR REPLACE certificates SET serial = x'03' WHERE serial = x'01'",
        "issuer and serial of a certificate never change",
    ),
    (
        "INSERT OR REPLACE INTO events(id, issuer, serial, kind, effective_at) VALUES (1, 'demo', x'01', 'issue', 1)",
        "events never change",
    ),
    ("UPDATE OR REPLACE events SET id = 2 WHERE id = 1", "events never change"),
    ("DELETE FROM changes WHERE seq = 2", "from its oldest row on"),
    ("INSERT OR REPLACE INTO changes(seq, issuer, serial) VALUES (1, 'demo', x'01')", "INSERT without seq"),
    (
        "INSERT OR REPLACE INTO issuers(name, certificate) VALUES ('demo', x'3003020103')",
        "an issuer of this name is there already",
    ),
    (
        "UPDATE OR REPLACE issuers SET name = 'other' WHERE name = 'demo'",
        "name and certificate of an issuer never change",
    ),
    (
        "INSERT OR REPLACE INTO meta(one, identity) VALUES (1, '00000000000000000000000000000000')",
        "meta has its one row already",
    ),
];

async fn stocked() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuance.db");
    Registry::create(&path).await.unwrap().close().await;
    execute(&mut plain(&path).await, STOCK).await.unwrap();
    (dir, path)
}

async fn plain(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).foreign_keys(false).connect().await.unwrap()
}

async fn execute(connection: &mut SqliteConnection, statement: &str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.map(|done| done.rows_affected())
}

on_each_database! {
    whoever_writes_the_database_keeps_its_truth
    every_change_by_anybody_leaves_its_event_and_its_trace
    an_event_tells_who_when_received_when_effective_and_what_changed
    rev_11_a_hold_that_becomes_final_keeps_its_start
    a_revocation_dated_ahead_and_one_without_reason_are_taken
    sec_18_negative_serials_only_for_an_issuer_that_has_them
    the_documented_statements_work
    the_documented_expression_makes_every_serial_from_its_hex
    an_issuer_is_registered_once_under_one_name
    adding_again_changes_nothing_and_another_certificate_under_the_serial_is_refused
    a_precertificate_gets_its_hash_when_the_certificate_comes
    crl_76_a_certificate_says_itself_whether_it_is_a_cas
    the_life_of_a_certificate
    a_serial_of_two_issuers_needs_the_issuer_and_a_stranger_is_told_what_to_do
    two_at_once_make_one_of_every_order
    the_change_log_is_trimmed_by_age_and_its_newest_row_stays
}

async fn whoever_writes_the_database_keeps_its_truth(mut case: Case) {
    case.stock().await;
    let before = case.everything().await;
    for (statement, words) in REFUSED {
        let refused = case.execute(statement).await.expect_err(statement).to_string();
        assert!(words.split('|').any(|words| refused.contains(words)), "{statement}: {refused}");
    }
    assert_eq!(case.everything().await, before);
}

#[tokio::test]
async fn whatever_the_settings_of_sqlite_the_truth_is_kept() {
    let mut case = Case::sqlite().await;
    case.stock().await;
    let before = case.everything().await;
    for recursive in ["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"] {
        case.execute(recursive).await.unwrap();
        for (statement, words) in REFUSED.iter().chain(REFUSED_BY_SQLITE) {
            let refused = case.execute(statement).await.expect_err(statement).to_string();
            assert!(words.split('|').any(|words| refused.contains(words)), "{statement}: {refused}");
        }
    }
    assert_eq!(case.everything().await, before);
}

/// A session without strict mode cuts off and fills in, one without CHECKs takes everything.
#[tokio::test]
async fn whatever_the_settings_of_mariadb_the_truth_is_kept() {
    let Some(mut case) = Case::server(Engine::MariaDb).await else { return };
    case.stock().await;
    let before = case.everything().await;
    let new = "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'10', 1, 2)";
    case.execute("SET check_constraint_checks = OFF").await.unwrap();
    for statement in [new, "UPDATE certificates SET reason = 7 WHERE serial = x'02'"] {
        let refused = case.execute(statement).await.unwrap_err().to_string();
        assert!(refused.contains("SET check_constraint_checks = ON"), "{refused}");
    }
    case.execute("SET check_constraint_checks = ON; SET sql_mode = ''").await.unwrap();
    for (statement, words) in [
        ("INSERT INTO certificates(issuer, serial, not_before) VALUES ('demo', x'10', 1)", "not_after are needed"),
        (
            "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', REPEAT(x'01', 25), 1, 2)",
            "serial is 1 to 20 octets",
        ),
        ("UPDATE certificates SET sha256 = REPEAT(x'01', 40) WHERE serial = x'05'", "sha256 is the 32 octets"),
        (
            "UPDATE certificates SET status = 'revokedlongerthanthecolumn' WHERE serial = x'01'",
            "status is good or revoked",
        ),
        (
            "REPLACE INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'03', 1, 2)",
            "change its row by UPDATE",
        ),
        (
            "INSERT IGNORE INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'03', 1, 2)",
            "change its row by UPDATE",
        ),
        (
            "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'03', 1, 2) ON DUPLICATE KEY UPDATE status = 'good'",
            "change its row by UPDATE",
        ),
        (
            "UPDATE IGNORE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial = x'03'",
            "never becomes good again",
        ),
    ] {
        let refused = case.execute(statement).await.expect_err(statement).to_string();
        assert!(refused.contains(words), "{statement}: {refused}");
    }
    // IGNORE makes a warning of a CHECK: nothing is written then.
    case.execute("UPDATE IGNORE certificates SET status = 'revoked', reason = 1 WHERE serial = x'01'").await.unwrap();
    assert_eq!(case.everything().await, before);

    let (database, writer, reader) =
        (case.name().to_owned(), case.name().replace("jarchy", "ca"), case.name().replace("jarchy", "reader"));
    for grant in [
        format!("CREATE USER '{reader}'@'127.0.0.1', '{writer}'@'127.0.0.1'"),
        format!("GRANT SELECT ON {database}.* TO '{reader}'@'127.0.0.1'"),
        format!("GRANT SELECT ON {database}.* TO '{writer}'@'127.0.0.1'"),
        format!("GRANT INSERT, UPDATE ON {database}.certificates TO '{writer}'@'127.0.0.1'"),
    ] {
        case.execute(&grant).await.unwrap();
    }
    only_reads(&case, &reader).await;
    let registry = Registry::open(&case.place_of(&writer)).await.unwrap();
    let entry = registry.find(&"01".parse().unwrap(), None).await.unwrap();
    registry.revoke(&entry.issuer, &entry.serial, &Order::default(), &audit()).await.unwrap();
    assert_eq!(registry.events(&entry.issuer, &entry.serial).await.unwrap().last().unwrap().kind, "revoke");
}

/// A user with the right to read can look and not revoke.
async fn only_reads(case: &Case, reader: &str) {
    let registry = Registry::open(&case.place_of(reader)).await.unwrap();
    let entry = registry.find(&"01".parse().unwrap(), None).await.unwrap();
    let refused = registry.revoke(&entry.issuer, &entry.serial, &Order::default(), &audit()).await.unwrap_err();
    assert!(refused.to_string().contains("denied"), "{refused}");
}

/// What PostgreSQL alone can be asked for; a writer has only the rights that the schema names.
#[tokio::test]
async fn whatever_the_settings_of_postgres_the_truth_is_kept() {
    let Some(mut case) = Case::server(Engine::Postgres).await else { return };
    case.stock().await;
    let (writer, reader) = (case.name().replace("jarchy", "ca"), case.name().replace("jarchy", "reader"));
    for grant in [
        format!("CREATE ROLE {writer} LOGIN; CREATE ROLE {reader} LOGIN"),
        format!("GRANT USAGE ON SCHEMA jarchy TO {writer}, {reader}"),
        format!("GRANT SELECT ON ALL TABLES IN SCHEMA jarchy TO {writer}, {reader}"),
        format!("GRANT INSERT, UPDATE ON jarchy.certificates TO {writer}"),
    ] {
        case.execute(&grant).await.unwrap();
    }
    only_reads(&case, &reader).await;
    let before = case.everything().await;
    for truncated in ["certificates", "events", "changes", "issuers", "meta"] {
        let refused = case.execute(&format!("TRUNCATE jarchy.{truncated}")).await.unwrap_err().to_string();
        assert!(["never deleted", "stays"].iter().any(|words| refused.contains(words)), "{refused}");
    }
    let merge = "MERGE INTO jarchy.certificates USING (SELECT 1) AS one(x) ON serial = x'03' WHEN MATCHED THEN UPDATE \
                 SET status = 'good', revoked_at = NULL, reason = NULL";
    let again = "INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after) \
                   VALUES ('demo', x'03', 1, 2) ON CONFLICT";
    for settings in ["SET search_path = pg_temp", "SET standard_conforming_strings = off"] {
        case.execute(settings).await.unwrap();
        assert!(case.execute(merge).await.unwrap_err().to_string().contains("never becomes good again"));
        for conflict in ["DO NOTHING", "(issuer, serial) DO UPDATE SET status = 'good'"] {
            let refused = case.execute(&format!("{again} {conflict}")).await.unwrap_err().to_string();
            assert!(refused.contains("change its row by UPDATE"), "{refused}");
        }
    }
    case.execute(&format!("RESET standard_conforming_strings; SET search_path = jarchy; SET ROLE {writer}"))
        .await
        .unwrap();
    for (statement, words) in [
        (
            "INSERT INTO events(issuer, serial, kind, effective_at) VALUES ('demo', x'01', 'release', 1)",
            "permission denied",
        ),
        ("INSERT INTO changes(issuer, serial) VALUES ('demo', x'01')", "permission denied"),
        ("UPDATE meta SET epoch = epoch + 1", "permission denied"),
        (
            "CREATE TEMP TABLE mine (LIKE jarchy.certificates); CREATE TRIGGER forged AFTER INSERT ON mine \
             FOR EACH ROW EXECUTE FUNCTION jarchy.certificates_inserted()",
            "permission denied",
        ),
    ] {
        let refused = case.execute(statement).await.expect_err(statement).to_string();
        assert!(refused.contains(words), "{statement}: {refused}");
    }
    assert_eq!(case.everything().await, before);
    let revoke = "UPDATE certificates SET status = 'revoked', revoked_at = jarchy.now(), reason = 1, actor = 'ca' \
                  WHERE serial = x'01'";
    assert_eq!(case.execute(revoke).await.unwrap(), 1);
    assert_eq!(case.number("SELECT count(*) FROM events WHERE kind = 'revoke' AND actor = 'ca'").await, 1);
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
    let mut case = Case::sqlite().await;
    case.stock().await;
    let before = case.everything().await;
    let Place::File(path) = case.place.clone() else { return };
    for (statement, words) in REFUSED.iter().chain(REFUSED_BY_SQLITE) {
        let (done, said) = shell(&path, &format!("{statement};"));
        assert!(!done && words.split('|').any(|words| said.contains(words)), "{statement}: {said}");
    }
    assert_eq!(case.everything().await, before);
}

#[tokio::test]
async fn ignored_conflicts_change_nothing_either() {
    let mut case = Case::sqlite().await;
    case.stock().await;
    let before = case.everything().await;
    for statement in [
        "UPDATE OR IGNORE certificates SET status = 'revoked', reason = 1 WHERE serial = x'01'",
        "INSERT OR IGNORE INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'0010', 1, 2)",
    ] {
        assert_eq!(case.execute(statement).await.unwrap(), 0, "{statement}");
    }
    assert_eq!(case.everything().await, before);
}

async fn every_change_by_anybody_leaves_its_event_and_its_trace(mut case: Case) {
    case.stock().await;
    let settings: &[&str] = match case.place {
        Place::File(_) => &["PRAGMA recursive_triggers = OFF", "PRAGMA recursive_triggers = ON"],
        Place::Server(_) => &["SELECT 1", "SELECT 2"],
    };
    for (round, setting) in settings.iter().enumerate() {
        case.execute(setting).await.unwrap();
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
                "UPDATE certificates SET reason = 1, invalidity_date = 176000000{round}, actor = 'office' WHERE serial = x'03'",
                &["update"],
                true,
            ),
            ("UPDATE certificates SET holder = 'H{round}' WHERE serial = x'01'", &["update"], false),
            (
                "INSERT INTO certificates(issuer, serial, not_before, not_after, actor, received_at) VALUES ('demo', x'1{round}', 1, 2, 'office', 5)",
                &["issue"],
                true,
            ),
            ("UPDATE certificates SET holder = holder WHERE serial = x'01'", &[], false),
            ("UPDATE certificates SET actor = 'office', received_at = 5 WHERE serial = x'01'", &[], false),
        ] {
            let last = case.number("SELECT max(id) FROM events").await;
            let changes = case.number("SELECT max(seq) FROM changes").await;
            case.execute(&statement.replace("{round}", &(round + 2).to_string())).await.expect(statement);
            let written = case.texts(&format!("SELECT kind FROM events WHERE id > {last} ORDER BY id")).await;
            assert_eq!(written, kinds, "{statement}");
            let traces = case.number(&format!("SELECT count(*) FROM changes WHERE seq > {changes}")).await;
            assert_eq!(traces, i64::from(seen), "{statement}");
        }
        let left = "SELECT count(*) FROM certificates WHERE actor IS NOT NULL OR received_at IS NOT NULL";
        assert_eq!(case.number(left).await, 0);
    }
}

async fn an_event_tells_who_when_received_when_effective_and_what_changed(mut case: Case) {
    case.stock().await;
    let statement = "UPDATE certificates SET status = 'revoked', revoked_at = 1760000000, reason = 1, actor = 'ra', \
                     received_at = 1759999999 WHERE serial = x'05'";
    case.execute(statement).await.unwrap();
    let hash = "UPDATE certificates SET sha256 = zeroblob(32) WHERE serial = x'05'";
    case.execute(hash).await.unwrap();
    let registry = Registry::open(&case.place).await.unwrap();
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

async fn rev_11_a_hold_that_becomes_final_keeps_its_start(mut case: Case) {
    case.stock().await;
    case.execute("UPDATE certificates SET reason = 1 WHERE serial = x'02'").await.unwrap();
    let registry = Registry::open(&case.place).await.unwrap();
    let entry = registry.find(&"02".parse().unwrap(), None).await.unwrap();
    let revocation = entry.status.revocation().unwrap();
    assert_eq!((revocation.at, revocation.reason), (Time::from_unix(1_750_000_000), Reason::KeyCompromise));
    assert_eq!(registry.events(&entry.issuer, &entry.serial).await.unwrap().last().unwrap().kind, "revoke");
}

async fn a_revocation_dated_ahead_and_one_without_reason_are_taken(mut case: Case) {
    case.stock().await;
    let statement = "UPDATE certificates SET status = 'revoked', revoked_at = unixepoch() + 86400 WHERE serial = x'01'";
    assert_eq!(case.execute(statement).await.unwrap(), 1);
    let registry = Registry::open(&case.place).await.unwrap();
    let entry = registry.find(&"01".parse().unwrap(), None).await.unwrap();
    assert_eq!(entry.status.revocation().unwrap().reason, Reason::Unspecified);
}

async fn sec_18_negative_serials_only_for_an_issuer_that_has_them(mut case: Case) {
    case.stock().await;
    let insert = "INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES ('demo', x'F12E', 1, 2)";
    assert!(case.execute(insert).await.is_err());
    case.execute("UPDATE issuers SET negative_serials = 1 WHERE name = 'demo'").await.unwrap();
    case.execute(insert).await.unwrap();
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

/// The statements that README.md shows, one after another.
async fn the_documented_statements_work(mut case: Case) {
    case.execute("INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020101')").await.unwrap();
    let howto = case.howto();
    for statement in howto.split_inclusive(";\n") {
        let rows = case.execute_as_is(statement).await.unwrap_or_else(|error| panic!("{statement}\n{error}"));
        let writes = ["INSERT", "UPDATE"].iter().any(|word| statement.contains(word));
        assert!(!writes || rows > 0, "changed nothing: {statement}");
    }
    assert_eq!(
        case.texts("SELECT hex(serial) FROM certificates ORDER BY serial").await,
        ["00A1B2C3", "00F12E", "4D5E"]
    );
    let kinds = "SELECT kind FROM events WHERE serial = x'00F12E' ORDER BY id";
    assert_eq!(case.texts(kinds).await, ["issue", "revoke", "update"]);
}

#[tokio::test]
async fn the_documented_statements_work_in_the_sqlite3_shell() {
    let Some(shell) = shell() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shell.db");
    Registry::create(&path).await.unwrap().close().await;
    let (done, said) = shell(&path, "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3003020101');");
    assert!(done, "{said}");
    // 3.40 has no unhex; the literal above it says the same.
    for statement in include_str!("howto.sql").split_inclusive(";\n").filter(|statement| !statement.contains("unhex("))
    {
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
        let howtos = [include_str!("howto.sql"), include_str!("howto_postgres.sql"), include_str!("howto_mariadb.sql")];
        assert!(howtos.iter().any(|howto| howto.contains(statement.trim())), "in no howto:\n{statement}");
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

async fn the_documented_expression_makes_every_serial_from_its_hex(mut case: Case) {
    let expression = case.howto().split(";\n").find_map(|statement| {
        let (_, rest) = statement.split_once("SELECT 'demo', ")?;
        Some((rest.split_once(",\n")?.0.to_owned(), rest.split_once("\nFROM ")?.1.to_owned()))
    });
    let (serial, from) = expression.unwrap();
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
        let made = case.texts(&format!("SELECT hex({serial}) FROM {}", from.replace("A1:B2:C3", text))).await;
        let expected: String = text.parse::<Serial>().unwrap().as_bytes().iter().map(|o| format!("{o:02X}")).collect();
        assert_eq!(made, [expected], "{text}");
    }
}

/// The words of the commands where two of them meet.
async fn two_at_once_make_one_of_every_order(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
    let other = Registry::open(&case.place).await.unwrap();
    let audit = audit();
    let rounds: u16 = if std::env::var_os("JARCHY_LONG").is_some() { 2_000 } else { 10 };
    for round in 1..=rounds {
        let certificate = ca.issue(&[&[1][..], &round.to_be_bytes()].concat(), (2026, 2027));
        let (serial, batch) = (certificate.serial(), [NewCertificate::new(&name, &certificate)]);
        let (one, two) = tokio::join!(registry.add(&batch, &audit), other.add(&batch, &audit));
        let added = [one.unwrap().remove(0).unwrap(), two.unwrap().remove(0).unwrap()];
        assert!(added.contains(&Added::New) && added.contains(&Added::AlreadyThere), "{added:?}");

        let (one, two) = tokio::join!(registry.hold(&name, &serial, &audit), other.hold(&name, &serial, &audit));
        let refused = one.and(two).unwrap_err();
        assert!(matches!(refused, RegistryError::AlreadyOnHold(_)), "{refused}");

        // Whichever comes first, a final revocation is the end of it.
        let order = Order { reason: Reason::KeyCompromise, ..Order::default() };
        let (revoked, released) =
            tokio::join!(registry.revoke(&name, &serial, &order, &audit), other.release(&name, &serial, &audit));
        revoked.unwrap();
        assert!(matches!(&released, Ok(_) | Err(RegistryError::NotOnHold(_))), "{released:?}");
        let entry = registry.get(&name, &serial).await.unwrap().unwrap();
        assert_eq!(entry.status.revocation().unwrap().reason, Reason::KeyCompromise);
        let kinds: Vec<_> =
            registry.events(&name, &serial).await.unwrap().into_iter().map(|event| event.kind).collect();
        let expected: &[&str] =
            if released.is_ok() { &["issue", "hold", "release", "revoke"] } else { &["issue", "hold", "revoke"] };
        assert_eq!(kinds, expected);
    }
}

/// Of two transactions that change one certificate the second is judged by what the first has left.
#[tokio::test]
async fn transactions_are_judged_one_after_the_other() {
    const HOLD: &str = "UPDATE certificates SET status = 'revoked', revoked_at = 1750000000, reason = 6 WHERE serial =";
    const REVOKE: &str = "UPDATE certificates SET status = 'revoked', revoked_at = coalesce(revoked_at, unixepoch()), \
                          reason = 1 WHERE serial =";
    const RELEASE: &str = "UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL WHERE serial =";
    for engine in Engine::ALL {
        let Some(mut one) = Case::server(engine).await else { continue };
        one.stock().await;
        let (mut two, mut watcher) = (one.beside().await, one.beside().await);
        for (serial, first, second, allowed) in
            [("x'01'", HOLD, RELEASE, true), ("x'01'", HOLD, REVOKE, true), ("x'05'", REVOKE, RELEASE, false)]
        {
            one.execute("BEGIN").await.unwrap();
            assert_eq!(one.execute(&format!("{first} {serial}")).await.unwrap(), 1);
            let second = format!("{second} {serial}");
            let commit = async {
                watcher.somebody_waits().await;
                one.execute("COMMIT").await.unwrap();
            };
            let (second, ()) = tokio::join!(two.execute(&second), commit);
            match second {
                Ok(rows) => assert_eq!((rows, allowed), (1, true)),
                Err(refused) => {
                    assert!(!allowed && refused.to_string().contains("never becomes good again"), "{refused}")
                }
            }
        }
        let kinds = "SELECT kind FROM events WHERE serial = x'01' ORDER BY id";
        assert_eq!(one.texts(kinds).await, ["issue", "hold", "release", "hold", "revoke"]);
        let since = "SELECT revoked_at FROM certificates WHERE serial = x'01' AND released_at <= changed_at";
        assert_eq!(one.number(since).await, 1_750_000_000);
    }
}

async fn the_change_log_is_trimmed_by_age_and_its_newest_row_stays(mut case: Case) {
    case.stock().await;
    let registry = Registry::open(&case.place).await.unwrap();
    let (rows, last) =
        (case.number("SELECT count(*) FROM changes").await, case.number("SELECT max(seq) FROM changes").await);
    assert_eq!(registry.trim(Duration::from_secs(3_600)).await.unwrap(), 0);
    assert_eq!(registry.trim(Duration::ZERO).await.unwrap(), u64::try_from(rows - 1).unwrap());
    assert_eq!(case.number("SELECT max(seq) FROM changes").await, last);
    assert_eq!(registry.trim(Duration::ZERO).await.unwrap(), 0);
    case.execute("INSERT INTO changes(issuer, serial) VALUES ('demo', x'01')").await.unwrap();
    assert_eq!(case.number("SELECT max(seq) FROM changes").await, last + 1);
    let (epoch, next) = (registry.declare_restored().await.unwrap(), registry.declare_restored().await.unwrap());
    assert_eq!((epoch, next), (2, 3));
    assert_eq!(case.number("SELECT epoch FROM meta").await, 3);
}

async fn fresh(case: &Case) -> (Registry, TestCa, IssuerName) {
    let registry = Registry::open(&case.place).await.unwrap();
    let ca = TestCa::new("Test CA");
    let name: IssuerName = "demo".parse().unwrap();
    registry.add_issuer(&name, &ca.certificate).await.unwrap();
    (registry, ca, name)
}

async fn an_issuer_is_registered_once_under_one_name(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
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

/// Neither sees the other's row when it looks whether the CA is there already.
#[tokio::test]
async fn two_who_register_one_ca_under_two_names_at_once_make_one_issuer() {
    for engine in Engine::ALL {
        let Some(mut case) = Case::server(engine).await else { continue };
        let (mut first, mut second) = (case.beside().await, case.beside().await);
        let register = |name: &str| format!("INSERT INTO issuers(name, certificate) VALUES ('{name}', x'3003020101')");
        first.execute("BEGIN").await.unwrap();
        first.execute(&register("one")).await.unwrap();
        let two = register("two");
        let (refused, ()) = tokio::join!(second.execute(&two), async {
            case.somebody_waits().await;
            first.execute("COMMIT").await.unwrap();
        });
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("registered already under another name"), "{engine:?}: {refused}");
        assert_eq!(case.texts("SELECT name FROM issuers").await, ["one"], "{engine:?}");
    }
}

async fn adding_again_changes_nothing_and_another_certificate_under_the_serial_is_refused(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
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

async fn a_precertificate_gets_its_hash_when_the_certificate_comes(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
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

async fn crl_76_a_certificate_says_itself_whether_it_is_a_cas(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
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

async fn the_life_of_a_certificate(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
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

async fn a_serial_of_two_issuers_needs_the_issuer_and_a_stranger_is_told_what_to_do(case: Case) {
    let (registry, ca, name) = fresh(&case).await;
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
    assert!(
        unknown.contains("no certificate with serial 99") && unknown.contains(&case.place.to_string()),
        "{unknown}"
    );
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
